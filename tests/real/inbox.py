"""The inbox: modes, cursor, replay before live, announced losses, and the effects of an `ack`.

Every case has a user of its own, so that all but those with another configuration share one daemon.
"""

import json
import socket
import struct
import threading
import time

from daemon import Hub
from harness import case, run_cases, same
from ws_client import WsClient

INBOX = '[[channel]]\nmatch = "@me"\nkeep = "unacknowledged"\n'


def data(frames):
    return [f["data"] for f in frames if f["type"] == "message"]


def to(hub, user, *values, **fields):
    """Sends each value to the user, one after the other; the last answer."""
    with hub.worker() as worker:
        for value in values:
            answer = worker.ask({"user_id": user, "event": "note", "data": value, **fields})
            same(answer["type"], "ok", str(answer))
    return answer


def ack(wire, seq, epoch=None, **fields):
    wire.send({"action": "ack", "epoch": epoch or wire.hello["inbox"]["epoch"], "seq": seq, **fields})


def reset(wire):
    """Ends the connection by RST, with whatever is on its way in either direction."""
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


def inbox(hub, user, mode="ack"):
    return hub.connect(user, path=f"/api/v1/ws?inbox={mode}")


def waiting(hub, user):
    """How much waits for the user, without changing it."""
    with inbox(hub, user, "off") as wire:
        return wire.hello["inbox"]["waiting"]


def until_waiting(hub, user, count):
    """What a socket has taken, and what has expired, is taken out soon, and not always before the next request."""
    end = time.monotonic() + 5
    while (now := waiting(hub, user)) != count:
        assert time.monotonic() < end, f"{now} wait for {user}, and not {count}, after 5 s"
        time.sleep(0.01)


@case("connection_established has epoch, seq and pending, per mode")
def established(hub):
    with inbox(hub, "est") as wire:
        first = wire.hello["inbox"]
        same((sorted(first), first["seq"], first["waiting"]), (["epoch", "seq", "waiting"], 0, 0))
        assert isinstance(first["epoch"], str) and 0 < len(first["epoch"]) <= 16, first
    to(hub, "est", 1, 2, 3)
    for mode in ("off", "ack", "auto"):
        with inbox(hub, "est", mode) as wire:
            same(wire.hello["inbox"], {"epoch": first["epoch"], "seq": 3, "waiting": 3}, mode)
    with Hub(AUTH__ANONYMOUS="true") as open_hub, WsClient(open_hub.port) as nobody:
        assert "inbox" not in nobody.receive("connection_established"), "an anonymous connection has no inbox"


@case("auto: missed messages are replayed once, in order and marked")
def auto(hub):
    answer = to(hub, "auto", 1, 2, 3)
    same((answer["user_id"], answer["sent"], answer["failed"], answer["kept"]), ("auto", 0, 0, True))
    with hub.connect("auto") as wire:
        came = wire.until_pong()
        same([(f["channel"], f["data"], f["seq"], f.get("replayed")) for f in came], [("@me", n, n, True) for n in (1, 2, 3)])
        same((came[0]["event"], came[0]["from"], came[0]["source"]), ("note", "worker", "worker"))
        same(to(hub, "auto", 4)["sent"], 1)
        live = wire.receive("message")
        same((live["data"], live["seq"], live.get("replayed")), (4, 4, None))
        until_waiting(hub, "auto", 0)
    with hub.connect("auto") as wire:
        same((wire.hello["inbox"]["seq"], wire.until_pong()), (4, []))


@case("ack: unacknowledged messages are replayed with the same id")
def comes_again(hub):
    to(hub, "again", *range(1, 6))
    with inbox(hub, "again") as wire:
        first = wire.until_pong()
        same(data(first), [1, 2, 3, 4, 5])
        ack(wire, 2)
        same(wire.until_pong(), [], "an ack is not answered")
    with inbox(hub, "again") as wire:
        same(wire.hello["inbox"]["waiting"], 3)
        second = wire.until_pong()
        same([(f["message_id"], f["seq"], f["data"]) for f in second], [(f["message_id"], f["seq"], f["data"]) for f in first[2:]])
        assert all(f.get("replayed") for f in second), second
        ack(wire, 5)
        wire.until_pong()
    same(waiting(hub, "again"), 0)


@case("an interrupted replay goes on, unacknowledged ones again")
def cut_in_the_middle(hub):
    pad, total, acked = "x" * 4000, 200, 0
    to(hub, "cut", *([n, pad] for n in range(1, total + 1)))
    received, cuts = set(), 0
    while acked < total:
        wire = hub.connect("cut", path="/ws?inbox=ack", rcvbuf=4096)
        same(wire.hello["inbox"]["waiting"], total - acked)
        for expected in range(acked + 1, min(acked + 31, total) + 1):
            got = wire.receive("message")
            same((got["seq"], got["data"][0]), (expected, expected))
            received.add(expected)
        # Of the messages received, the first twenty are acknowledged, and the pong shows that the hub has read that.
        acked = min(acked + 20, total)
        ack(wire, acked)
        wire.send({"action": "ping", "id": "read"})
        while (got := wire.next()).get("id") != "read":
            received.add(got["seq"])
        if got and len(received) < total:
            wire.sock.recv(1500)
        reset(wire)
        cuts += 1
    same((received, waiting(hub, "cut")), (set(range(1, total + 1)), 0))
    return f"{total} messages over {cuts} connections"


@case("off: the connection receives no inbox, and messages wait")
def off(hub):
    with inbox(hub, "off", "off") as wire:
        same((lambda a: (a["sent"], a["kept"]))(to(hub, "off", 1)), (0, True))
        same(to(hub, "off", 2, ttl=0)["sent"], 0)
        same(wire.until_pong(), [])
        ack(wire, 1)
        wire.until_pong()
    same(waiting(hub, "off"), 1, "an ack of one that does not hear the inbox moves nothing; waiting")


@case("the inbox mode can be chosen in band, with auth")
def in_band(hub):
    for mode, left in (("off", 2), ("ack", 2), ("auto", 0)):
        user = f"band-{mode}"
        to(hub, user, 1, 2)
        with WsClient(hub.port) as wire:
            wire.receive("auth_required")
            wire.send({"action": "auth", "token": hub.token(user), "inbox": mode})
            same(wire.receive("connection_established")["inbox"]["waiting"], 2)
            same(data(wire.until_pong()), [] if mode == "off" else [1, 2], mode)
        until_waiting(hub, user, left)


@case("an ack is cumulative; stale and foreign ones change nothing")
def which_ack_counts(hub):
    to(hub, "count", *range(1, 6))
    with inbox(hub, "count") as wire:
        same(len(data(wire.until_pong())), 5)
        for seq, epoch, left in ((5, "other", 5), (6, None, 5), (2**53 - 1, None, 5), (0, None, 5), (3, None, 2), (1, None, 2), (3, None, 2), (5, None, 0)):
            ack(wire, seq, epoch)
            same(wire.until_pong(), [], f"the answer to ack {seq}")
            same(waiting(hub, "count"), left, f"waiting after ack {seq} {epoch or ''}")
    with inbox(hub, "count") as wire:
        ack(wire, 6)
        same(wire.until_pong(), [])
        to(hub, "count", 6)
        same(wire.receive("message")["seq"], 6)
        same(waiting(hub, "count"), 1, "an ack that came too early moves nothing later; waiting")


@case("a malformed ack is bad_request and names the field")
def malformed(hub):
    with inbox(hub, "mal") as wire:
        for fields, named in (({"seq": 1}, "epoch"), ({"epoch": "e"}, "seq"), ({"epoch": "e", "seq": -1}, "seq"), ({"epoch": "e", "seq": 1, "read": 1}, "read")):
            error = wire.ask({"action": "ack", **fields})
            same((error["type"], error["code"]), ("error", "bad_request"), str(fields))
            assert named in error["message"], f"{fields}: {error}"


@case("several connections get replay, then live, with one cursor")
def several(hub):
    to(hub, "many", 1, 2)
    with inbox(hub, "many") as one, inbox(hub, "many") as two, inbox(hub, "many", "auto") as three:
        for wire in (one, two, three):
            same(data(wire.until_pong()), [1, 2])
        same(to(hub, "many", 3)["sent"], 3)
        for wire in (one, two, three):
            same(wire.receive("message")["data"], 3)
        ack(one, 2)
        one.until_pong()
        same(waiting(hub, "many"), 1)
        # From a connection that chose `auto` it counts as well.
        ack(three, 3)
        three.until_pong()
        same(waiting(hub, "many"), 0)
        same((two.until_pong(), one.until_pong()), ([], []), "the cursor is nobody's news")


@case("a connection in ack mode alone moves the cursor")
def auto_beside_ack(hub):
    with inbox(hub, "beside") as careful, inbox(hub, "beside", "auto") as easy:
        to(hub, "beside", 1, 2)
        same((data(careful.until_pong()), data(easy.until_pong())), ([1, 2], [1, 2]))
        time.sleep(0.2)
        same(waiting(hub, "beside"), 2)
        careful.close()
        time.sleep(0.2)
        to(hub, "beside", 3)
        same(easy.receive("message")["data"], 3)
        until_waiting(hub, "beside", 0)


@case("the replay comes whole before live messages, none twice")
def replay_before_live(hub):
    pad = "x" * 1000
    with Hub(INBOX + 'count = 50000\nbytes = "32MiB"\n') as own:
        to(own, "busy", *([n, pad] for n in range(1, 401)))
        stop, published = threading.Event(), [400]

        def talk():
            with own.worker() as worker:
                while not stop.is_set():
                    published[0] += 1
                    worker.ask({"user_id": "busy", "event": "note", "data": [published[0], pad]})

        talking = threading.Thread(target=talk)
        talking.start()
        wires = [inbox(own, "busy", mode) for mode in ("ack", "ack", "auto")]
        time.sleep(0.3)
        stop.set()
        talking.join()
        for wire in wires:
            live = False
            for n in range(1, published[0] + 1):
                got = wire.next()
                same((got["type"], got.get("seq"), got.get("data", [got])[0]), ("message", n, n))
                assert got.get("replayed") or n > 400, f"{n} had waited and is not marked"
                assert not (live and got.get("replayed")), f"{n} is replayed behind what was live"
                live = not got.get("replayed")
            wire.close()
    return f"{published[0] - 400} said meanwhile"


@case("a slow reader loses nothing of its inbox and reads on")
def slow(_):
    pad, total = "x" * 2000, 2000
    with Hub(INBOX + 'count = 5000\nbytes = "32MiB"\n') as hub:
        with hub.connect("slow", path="/ws?inbox=ack", rcvbuf=4096) as wire, hub.worker() as worker:
            for n in range(1, total + 1):
                worker.send({"user_id": "slow", "event": "note", "data": [n, pad]})
            worker.ask({"user_id": "slow", "event": "note", "data": [total + 1, pad]})
            came = [wire.next() for _ in range(total + 1)]
            same([(f["type"], f["seq"], f["data"][0]) for f in came], [("message", n, n) for n in range(1, total + 2)])
            behind = sum(f.get("replayed") is True for f in came)
            assert behind, "4 MB fitted into a queue of 256 KiB"
    return f"{behind:,} of {total + 1:,} read from the log"


@case("evicted messages are one gap of @me in their place")
def evicted(_):
    with Hub(INBOX + "count = 5\n") as hub:
        to(hub, "full", *range(1, 13))
        for mode in ("ack", "auto"):
            with inbox(hub, "full", mode) as wire:
                same({k: wire.hello["inbox"][k] for k in ("seq", "waiting")}, {"seq": 12, "waiting": 5})
                gap, *rest = wire.until_pong()
                same({k: gap.get(k) for k in ("type", "channel", "epoch", "from_seq", "to_seq", "lost", "cause")},
                     {"type": "gap", "channel": "@me", "epoch": wire.hello["inbox"]["epoch"], "from_seq": 1, "to_seq": 7, "lost": 7, "cause": "evicted"}, mode)
                same([f["seq"] for f in rest], [8, 9, 10, 11, 12])
        until_waiting(hub, "full", 0)
        to(hub, "full", 13)
        with inbox(hub, "full") as wire:
            same([(f["type"], f.get("seq")) for f in wire.until_pong()], [("message", 13)], "a gap that was told and passed is not told again")


@case("expired messages show as a gap; ttl 0 has no position")
def expired(hub):
    with inbox(hub, "ttl") as wire:
        same((lambda a: (a["sent"], a["kept"]))(to(hub, "ttl", "now", ttl=0)), (1, False))
        got = wire.receive("message")
        same((got["data"], got.get("seq"), got.get("channel")), ("now", None, "@me"))
    to(hub, "ttl", 1)
    to(hub, "ttl", 2, 3, ttl=1)
    to(hub, "ttl", 4)
    same(to(hub, "ttl", "nobody", ttl=0)["kept"], False)
    time.sleep(1.1)
    until_waiting(hub, "ttl", 2)
    with inbox(hub, "ttl") as wire:
        # By now it is on the disk, and comes from there.
        came = [wire.next() for _ in range(3)] + wire.until_pong()
        same([(f["type"], f.get("data"), f.get("cause"), f.get("from_seq"), f.get("to_seq"), f.get("lost")) for f in came],
             [("message", 1, None, None, None, None), ("gap", None, "expired", 2, 3, 2), ("message", 4, None, None, None, None)])


@case("keep = never for @me: delivered live, nothing waits")
def never(_):
    with Hub('[[channel]]\nmatch = "@me"\nkeep = "never"\n') as hub:
        same(to(hub, "gone", 1)["kept"], False)
        with inbox(hub, "gone") as wire:
            same((wire.hello["inbox"]["waiting"], data(wire.until_pong())), (0, []))
            to(hub, "gone", 2)
            same(wire.receive("message")["data"], 2)


@case("a repeated message_id to a user is a duplicate, kept once")
def duplicate(hub):
    to(hub, "dup", "first", message_id="m1")
    same(to(hub, "dup", "second", message_id="m1").get("duplicate"), True)
    same(to(hub, "dup2", "other", message_id="m1").get("duplicate"), None, "another user")
    with inbox(hub, "dup") as wire:
        same([(f["data"], f["message_id"]) for f in wire.until_pong()], [("first", "m1")])


@case("an anonymous connection that gains a user gets its inbox")
def becomes_a_user(_):
    with Hub(AUTH__ANONYMOUS="true") as hub:
        to(hub, "late", 1, 2)
        with WsClient(hub.port) as wire:
            wire.receive("connection_established")
            wire.send({"action": "auth", "token": hub.token("late"), "inbox": "ack"})
            came = wire.until_pong()
            same((came[0]["type"], data(came)), ("auth_success", [1, 2]))
        same(waiting(hub, "late"), 2)


@case("an administrator lists and purges an inbox")
def administration(hub):
    to(hub, "adm", "one", "two")
    with hub.worker() as worker:
        seen = worker.ask({"action": "inbox", "user_id": "adm"})
        same((seen["type"], seen["user_id"], seen["seq"], seen["waiting"]), ("ok", "adm", 2, 2))
        assert seen["bytes"] > 0 and seen["epoch"], seen
        same(worker.ask({"action": "purge", "user_id": "adm"})["purged"], 2)
        same(worker.ask({"action": "inbox", "user_id": "adm"})["waiting"], 0)
    same(waiting(hub, "adm"), 0)


@case("the inbox forwards messages unchanged, from HTTP and users")
def sources(hub):
    token = hub.token("src-sender", wshub={"publish": ["@user:*"]})
    with inbox(hub, "src") as wire, hub.connect(token=token) as sender:
        hub.post("/broadcast", json.dumps({"user_id": "src", "event": "e", "data": 0}).replace("0", "1e400"), headers={"Content-Type": "application/json"})
        sender.ask({"action": "send", "user_id": "src", "event": "e", "data": {"b": 1, "a": 2}})
        one, two = wire.raw_frame()[1], wire.receive("message")
        assert b'"data":1e400' in one.replace(b": ", b":"), one
        same(json.loads(one)["source"], "http")
        same((two["source"], two["user_id"], two["from"], list(two["data"])), ("client", "src-sender", sender.id, ["b", "a"]))


if __name__ == "__main__":
    run_cases()
