"""Messages between clients: delivery, order, retention, presence, and the gaps of slow readers."""

import json
import threading
import time

from daemon import Hub
from harness import case, run_cases, same


def data(frames):
    return [f["data"] for f in frames if f["type"] == "message"]


@case("a message has every field; echo: false spares the sender")
def message(hub):
    with hub.subscriber("talk", user="ann") as ann, hub.subscriber("talk", user="bob") as bob:
        answer = ann.ask({"action": "send", "channel": "talk", "event": "e", "data": {"n": 1}, "message_id": "m1"})
        same({k: answer[k] for k in ("type", "channel", "sent", "failed", "stored", "message_id")},
             {"type": "send_success", "channel": "talk", "sent": 2, "failed": 0, "stored": False, "message_id": "m1"})
        got = bob.receive("message")
        same({k: got[k] for k in ("channel", "event", "data", "from", "user_id", "source", "message_id")},
             {"channel": "talk", "event": "e", "data": {"n": 1}, "from": ann.id, "user_id": "ann", "source": "client", "message_id": "m1"})
        assert isinstance(got["seq"], int) and got["timestamp"].endswith("Z") and len(got["timestamp"]) == 24, got
        same(ann.ask({"action": "send", "channel": "talk", "event": "e", "data": 2, "echo": False})["sent"], 1, "sent without echo")
        ann.send({"action": "send", "channel": "talk", "event": "e", "data": 3})
        assert 2 not in data(ann.until_pong()), "echo: false was heard"
        same(data([bob.receive("message"), bob.receive("message")]), [2, 3])


@case("seq rises by one a message; ttl 0 has none")
def positions(hub):
    with hub.subscriber("pos") as ann:
        for ttl in (None, 5, 0, None):
            ann.send({"action": "send", "channel": "pos", "event": "e", **({} if ttl is None else {"ttl": ttl})})
        seqs = [ann.receive("message").get("seq") for _ in range(4)]
        same(seqs, [1, 2, None, 3])
        with hub.connect("bob") as bob:
            bob.send({"action": "subscribe", "channel": "pos"})
            same(bob.receive("subscription_succeeded")["seq"], 3)


@case("undelivered messages go once to the first subscriber")
def undelivered(hub):
    with hub.connect("ann") as ann:
        for n in range(5):
            answer = ann.ask({"action": "send", "channel": "wait", "event": "e", "data": n})
            same((answer["sent"], answer["failed"], answer["kept"]), (0, 0, True))
        with hub.worker() as worker:
            for n in range(5, 300):
                worker.send({"channel": "wait", "event": "e", "data": n})
            same(worker.ask({"channel": "wait", "event": "e", "data": 300})["kept"], True)
        with hub.connect("bob") as bob, hub.connect("eve") as eve:
            bob.send({"action": "subscribe", "channel": "wait"})
            bob.receive("subscription_succeeded")
            hub.post("/broadcast", {"channel": "wait", "event": "e", "data": "live"})
            came = [bob.receive("message") for _ in range(302)]
            same(data(came), [*range(301), "live"])
            marked = [f["data"] for f in came if f.get("replayed") is True]
            # The last one came live, or behind the backlog while that was still on its way.
            assert marked in ([*range(301)], [*range(301), "live"]), f"marked as replayed: {marked}"
            same([f["seq"] for f in came], list(range(1, 303)))
            eve.send({"action": "subscribe", "channel": "wait"})
            same(data(eve.until_pong()), [], "the second subscriber")
        with hub.connect("zed") as zed:
            zed.send({"action": "subscribe", "channel": "wait"})
            same(data(zed.until_pong()), [], "a later subscriber")
    return "301 messages"


@case("a message only its publisher received is kept for the next")
def only_the_publisher(hub):
    with hub.subscriber("alone", user="ann") as ann:
        same(ann.ask({"action": "send", "channel": "alone", "event": "e", "data": 1})["kept"], True)
        with hub.connect("bob") as bob:
            bob.send({"action": "subscribe", "channel": "alone"})
            got = bob.receive("message")
            same((got["data"], got.get("replayed")), (1, True))
            same(ann.ask({"action": "send", "channel": "alone", "event": "e", "data": 2})["kept"], False, "somebody heard it")


@case("ttl shortens retention, 0 keeps nothing")
def ttl(hub):
    with hub.connect("ann") as ann:
        same(ann.ask({"action": "send", "channel": "short", "event": "e", "data": 0, "ttl": 0})["kept"], False)
        same(ann.ask({"action": "send", "channel": "short", "event": "e", "data": 1, "ttl": 1})["kept"], True)
        same(ann.ask({"action": "send", "channel": "short", "event": "e", "data": 2, "ttl": 600})["kept"], True)
        time.sleep(1.5)
        with hub.connect("bob") as bob:
            bob.send({"action": "subscribe", "channel": "short"})
            same(data(bob.until_pong()), [2])


@case("a thousand are kept, the oldest is evicted, since tells it")
def evicted(hub):
    with hub.worker() as worker:
        for n in range(1100):
            worker.send({"channel": "full", "event": "e", "data": n})
        worker.ask({"channel": "full", "event": "e", "data": 1100})
    with hub.connect("bob") as bob:
        bob.send({"action": "subscribe", "channel": "full", "since": {"epoch": "", "seq": 0}})
        came = []
        while not came or came[-1] != 1100:
            frame = bob.next()
            if frame["type"] == "message":
                came.append(frame["data"])
            elif frame["type"] == "gap":
                same((frame["cause"], frame["channel"]), ("evicted", "full"))
                assert not came, "the gap stands in its place, before what is kept"
            else:
                assert frame["type"] in ("connection_id", "subscription_succeeded"), frame
        same(came, list(range(101, 1101)))


@case("nothing of a channel comes after unsubscribe")
def unsubscribe(hub):
    with hub.subscriber("off", user="ann") as ann, hub.worker() as worker:
        stop = threading.Event()
        flood = threading.Thread(target=lambda: [worker.send({"channel": "off", "event": "e"}) or time.sleep(0.001) for _ in iter(stop.is_set, True)])
        flood.start()
        ann.receive("message")
        ann.send({"action": "unsubscribe", "channel": "off"})
        ann.receive("unsubscribe_succeeded")
        after = ann.until_pong()
        stop.set()
        flood.join()
        same(after, [])


@case("a whisper reaches other subscribers and is never kept")
def whisper(hub):
    with hub.subscriber("w", user="ann") as ann, hub.subscriber("w", user="bob") as bob, hub.connect("eve") as eve:
        ann.send({"action": "whisper", "channel": "w", "event": "typing", "data": {"at": 3}, "id": "x"})
        got = bob.receive("message")
        same((got["event"], got["data"], got["user_id"], got.get("seq")), ("typing", {"at": 3}, "ann", None))
        same(ann.until_pong(), [], "the whisperer hears nothing and gets no answer")
        error = eve.ask({"action": "whisper", "channel": "w", "event": "typing"})
        same((error["type"], error["code"], error.get("channel")), ("error", "not_subscribed", "w"))
    with hub.connect("zed") as zed:
        zed.send({"action": "subscribe", "channel": "w"})
        same(data(zed.until_pong()), [])


@case("presence: members with counts, one join and leave per user")
def presence(hub):
    with hub.connect("ann") as ann:
        ann.send({"action": "subscribe", "channel": "room", "presence": True})
        succeeded = ann.receive("subscription_succeeded")
        assert json.dumps(succeeded["presence"]).count("ann") == 1, succeeded
        with hub.subscriber("room", user="bob") as bob, hub.subscriber("room", user="bob") as bob2, hub.subscriber("room", user="ann"):
            same(ann.receive("user_joined")["user_id"], "bob")
            answer = bob.ask({"action": "presence", "channel": "room"})
            same(answer["type"], "presence")
            listed = json.dumps(answer)
            assert '"ann"' in listed and '"bob"' in listed, answer
            bob.send({"action": "unsubscribe", "channel": "room"})
            bob.receive("unsubscribe_succeeded")
            same([f for f in ann.until_pong() if f["type"].startswith("user_")], [], "one of bob's two is still there")
            bob2.send({"action": "unsubscribe", "channel": "room"})
            bob2.receive("unsubscribe_succeeded")
            same(ann.receive("user_left")["user_id"], "bob")
            assert not [f for f in bob.until_pong() if f["type"].startswith("user_")], "bob did not ask for presence"
        eve = hub.subscriber("room", user="eve")
        same(ann.receive("user_joined")["user_id"], "eve")
        eve.close()
        started = time.monotonic()
        same(ann.receive("user_left", within=20)["user_id"], "eve")
        took = time.monotonic() - started
        assert 13 < took < 18, f"a lost connection leaves after {took:.1f} s, the contract says 15"
    return f"a lost connection leaves after {took:.1f} s"


@case("a reader that stalls gets a gap; others lose nothing")
def slow_reader(hub):
    total = 20_000
    with hub.subscriber("fast", user="slow", rcvbuf=8192) as slow, hub.subscriber("fast", user="quick") as quick, hub.worker() as worker:
        received = []
        reading = threading.Thread(target=lambda: [received.append(quick.receive("message", within=20)["data"]) for _ in range(total)])
        reading.start()
        pad = "x" * 400
        for start in range(0, total, 100):
            worker.sock.settimeout(30)
            worker.send(b"".join(json.dumps({"channel": "fast", "event": "e", "data": [n, pad]}).encode() + b"\n" for n in range(start, start + 99)))
            worker.ask({"channel": "fast", "event": "e", "data": [start + 99, pad]})
            while len(received) < start:  # the healthy one is never more than a batch behind
                time.sleep(0.001)
        reading.join(30)
        same([d[0] for d in received], list(range(total)), "the healthy reader")
        slow.send({"action": "ping", "id": "late"})
        expected, lost, gaps, answered = 0, 0, 0, False
        while expected < total or not answered:
            frame = slow.next(20)
            if frame["type"] == "message":
                same(frame["data"][0], expected, "the next one, counted over the gaps")
                expected += 1
            elif frame["type"] == "gap":
                same(frame["channel"], "fast")
                assert frame["cause"] in ("slow", "evicted"), frame
                count = frame["to_seq"] - frame["from_seq"] + 1 if "to_seq" in frame else frame["lost"]
                expected, lost, gaps = expected + count, lost + count, gaps + 1
            elif frame["type"] == "pong":
                same((frame["id"], answered), ("late", False))
                answered = True
        assert lost > 0, "20,000 messages of 500 bytes fitted into a socket that nobody read"
    return f"{lost:,} of {total:,} shed, told in {gaps} gap{'s' if gaps != 1 else ''}"


@case("a repeated message_id is a duplicate for 10 minutes")
def duplicates(hub):
    with hub.subscriber("dup", user="ann") as ann, hub.subscriber("dup", user="bob") as bob:
        request = {"action": "send", "channel": "dup", "event": "e", "message_id": "same"}
        same(ann.ask(request).get("duplicate"), None)
        again = ann.ask(request, "q2")
        same((again["type"], again.get("duplicate"), again["message_id"]), ("send_success", True, "same"))
        same(bob.ask(request).get("duplicate"), None)
        same(ann.ask({**request, "channel": "dup2"}, "q3").get("duplicate"), None, "another target")
        with hub.connect("ann") as other:
            same(other.ask(request).get("duplicate"), True, "another connection of the same user")


@case("keep = never keeps nothing")
def policies(_):
    config = '[[channel]]\nmatch = "now:*"\nkeep = "never"\n'
    with Hub(config) as hub:
        same(hub.post("/broadcast", {"channel": "now:1", "event": "e"}).json()["kept"], False)
        with hub.connect() as ann:
            ann.send({"action": "subscribe", "channel": "now:1"})
            same(data(ann.until_pong()), [])


@case("messages to a user reach all connections of that user")
def to_user(hub):
    with hub.connect("bob") as one, hub.connect("bob") as two, hub.connect("eve") as eve:
        same(hub.post("/broadcast", {"user_id": "bob", "event": "e", "data": 1}).json()["sent"], 2)
        same([w.receive("message")["data"] for w in (one, two)], [1, 1])
        same(data(eve.until_pong()), [])


if __name__ == "__main__":
    run_cases()
