"""Receipts for senders, and the system channels for workers: presence, and undelivered messages."""

import socket
import struct
import time

from daemon import Hub
from harness import case, run_cases, same
from ws_client import WsClient

SENDS_TO_USERS = {"publish": ["@user:*"], "subscribe": ["*"]}


def sender(hub, user, path="/ws?inbox=auto"):
    return hub.connect(user, token=hub.token(user, wshub=SENDS_TO_USERS), path=path)


def recipient(hub, user, mode="ack"):
    return hub.connect(user, path=f"/ws?inbox={mode}")


def ack(wire, seq, **fields):
    wire.send({"action": "ack", "epoch": wire.hello["inbox"]["epoch"], "seq": seq, **fields})
    return wire.until_pong()


def receipts(frames):
    """(message, state) of each receipt, whose other fields are looked at here."""
    found = [f for f in frames if f.get("event") == "system:receipt"]
    for f in found:
        same((f["type"], f["from"], f["source"], sorted(f["data"])), ("message", "hub", "hub", ["message_id", "state", "user_id"]))
        assert f["message_id"] and f["timestamp"].endswith("Z") and "user_id" not in f, f
    return [(f["data"]["message_id"], f["data"]["state"]) for f in found]


def lost(wire):
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


def listening(hub, channel):
    worker = hub.worker()
    same(worker.ask({"action": "subscribe", "channel": channel})["type"], "ok")
    return worker


def received_until(worker, mark):
    """Messages before the answer to a ping, which is behind all that was queued for this worker."""
    worker.send({"action": "ping", "id": mark})
    came = []
    while (got := worker.next()).get("id") != mark:
        if got["type"] == "message":
            came.append(got)
    return came


@case("receipts: delivered at the ack, read at one with read")
def delivered_and_read(hub):
    with sender(hub, "rs1") as ann, recipient(hub, "rr1") as bob:
        for n in (1, 2, 3):
            answer = ann.ask({"action": "send", "user_id": "rr1", "event": "e", "data": n, "message_id": f"m{n}", "receipt": True})
            same((answer["type"], answer["kept"], answer["sent"]), ("send_success", True, 1))
        ann.ask({"action": "send", "user_id": "rr1", "event": "e", "data": 4, "message_id": "m4"})
        same(len(bob.until_pong()), 4)
        same(ann.until_pong(), [], "nobody has acknowledged")
        ack(bob, 2)
        came = ann.until_pong()
        same(receipts(came), [("m1", "delivered"), ("m2", "delivered")])
        same([(f["channel"], f["seq"], f["data"]["user_id"]) for f in came], [("@me", 1, "rr1"), ("@me", 2, "rr1")])
        ack(bob, 1, read=True)
        same(receipts(ann.until_pong()), [("m1", "read")])
        ack(bob, 4, read=True)
        same(receipts(ann.until_pong()), [("m2", "read"), ("m3", "read")], "read of what was delivered, read alone of what was not, nothing of m4")
        ack(bob, 4, read=True)
        ack(bob, 4)
        same(receipts(ann.until_pong()), [], "each state is told once")


@case("a receipt waits in the inbox of an absent sender")
def sender_away(hub):
    with sender(hub, "rs2") as ann:
        ann.ask({"action": "send", "user_id": "rr2", "event": "e", "message_id": "later", "receipt": True})
    with recipient(hub, "rr2") as bob:
        same(len(bob.until_pong()), 1)
        ack(bob, 1)
    with recipient(hub, "rs2") as ann:
        same(ann.hello["inbox"]["waiting"], 1)
        came = ann.until_pong()
        same((receipts(came), came[0].get("replayed")), ([("later", "delivered")], True))


@case("no receipt without ack, nor for an ack that changes nothing")
def no_receipt(hub):
    with sender(hub, "rs3") as ann:
        with recipient(hub, "rr3", "auto") as bob:
            ann.ask({"action": "send", "user_id": "rr3", "event": "e", "receipt": True})
            bob.receive("message")
            time.sleep(0.2)
        with recipient(hub, "rr3") as bob:
            ann.ask({"action": "send", "user_id": "rr3", "event": "e", "receipt": True})
            got = bob.receive("message")
            bob.send({"action": "ack", "epoch": "another", "seq": got["seq"]})
            ack(bob, got["seq"] + 1)
        same(receipts(ann.until_pong()), [])


@case("a duplicate produces no receipt")
def duplicate(hub):
    with sender(hub, "rs4") as ann, recipient(hub, "rr4") as bob:
        request = {"action": "send", "user_id": "rr4", "event": "e", "message_id": "twice", "receipt": True}
        ann.ask(request)
        same(ann.ask(request)["duplicate"], True)
        same(len(bob.until_pong()), 1)
        ack(bob, 1)
        same(receipts(ann.until_pong()), [("twice", "delivered")])


@case("a worker gets receipts on its own open connection")
def worker_receipts(hub):
    with hub.worker() as gone:
        gone.ask({"user_id": "rr5", "event": "e", "message_id": "gone", "receipt": True})
    with hub.worker() as worker, hub.worker() as other, recipient(hub, "rr5") as bob:
        worker.ask({"user_id": "rr5", "event": "e", "message_id": "w1", "receipt": True})
        same(len(bob.until_pong()), 2)
        ack(bob, 2)
        ack(bob, 2, read=True)
        came = [worker.receive("message"), worker.receive("message")]
        same(receipts(came), [("w1", "delivered"), ("w1", "read")])
        for got in came:
            assert "channel" not in got and "seq" not in got, got
        same((received_until(worker, "end"), received_until(other, "end")), ([], []))


@case("receipt on an unsupported target is bad_request")
def bad_receipts(hub):
    def refused(answer, where):
        same((answer["type"], answer["code"]), ("error", "bad_request"), where)
        assert "receipt" in answer["message"], f"{where}: the message names the field: {answer}"

    with hub.connect("rs6", token=hub.token("rs6", wshub={"publish": ["*", "@user:*", "@connection:*"]})) as ann:
        refused(ann.ask({"action": "send", "channel": "c", "event": "e", "receipt": True}), "to a channel")
        refused(ann.ask({"action": "send", "connection_id": ann.id, "event": "e", "receipt": True}), "to a connection")
        refused(ann.ask({"action": "send", "user_id": "x", "event": "e", "receipt": "yes"}), "a string")
        same(ann.ask({"action": "send", "channel": "c", "event": "e", "receipt": False})["type"], "send_success", "receipt: false asks for nothing")
    with hub.worker() as worker:
        refused(worker.ask({"channel": "c", "event": "e", "receipt": True}), "a worker, to a channel")
        refused(worker.ask({"all": True, "event": "e", "receipt": True}), "a worker, to all")
    answer = hub.post("/broadcast", {"user_id": "rs6", "event": "e", "receipt": True})
    same(answer.status, 400)
    refused(answer.json(), "over HTTP")
    with Hub(AUTH__ANONYMOUS="true", AUTH__PUBLISH='["@user:*"]') as open_hub, WsClient(open_hub.port) as nobody:
        nobody.receive("connection_established")
        refused(nobody.ask({"action": "send", "user_id": "x", "event": "e", "receipt": True}), "an anonymous connection")


@case("system:presence announces a user's first and last connection")
def presence(hub):
    with listening(hub, "system:presence") as worker:
        one, two = hub.connect("pres"), hub.connect("pres")
        got = worker.receive("message", event="system:user_joined")
        same({k: got.get(k) for k in ("channel", "data", "from", "source", "seq")},
             {"channel": "system:presence", "data": {"user_id": "pres"}, "from": "hub", "source": "hub", "seq": None})
        lost(one)
        time.sleep(0.1)
        lost(two)
        time.sleep(1)
        with hub.connect("pres"):
            time.sleep(0.2)
        same(received_until(worker, "back"), [], "who comes back within the grace neither left nor joined")
        began = time.monotonic()
        left = worker.receive("message", within=25, event="system:user_left")
        took = time.monotonic() - began
        same((left["channel"], left["data"]), ("system:presence", {"user_id": "pres"}))
        assert 13 < took < 20, f"left after {took:.1f} s, the contract says 15"
        with hub.connect("pres"):
            worker.receive("message", event="system:user_joined")
    return f"left after {took:.1f} s"


@case("system:presence omits anonymous connections and workers")
def presence_of_nobody(_):
    with Hub(AUTH__ANONYMOUS="true") as hub, listening(hub, "system:presence") as worker:
        with WsClient(hub.port) as wire, hub.worker():
            wire.receive("connection_established")
            same(received_until(worker, "nobody"), [])
            wire.send({"action": "auth", "token": hub.token("ann")})
            wire.receive("auth_success")
            same(worker.receive("message")["data"], {"user_id": "ann"}, "an anonymous connection that becomes a user's")
        with listening(hub, "system:presence") as late:
            same(received_until(late, "late"), [])


def undelivered(got):
    """The notice, without its position in the channel."""
    same((got["channel"], got["event"], got["from"], got["source"]), ("system:undelivered", "system:undelivered", "hub", "hub"))
    return got["data"]


@case("system:undelivered announces what waits, without its data")
def kept_for_later(hub):
    with listening(hub, "system:undelivered") as worker, hub.worker() as publisher:
        publisher.ask({"user_id": "und", "event": "note", "data": "secret", "message_id": "away"})
        got = undelivered(worker.receive("message"))
        epoch = got.pop("epoch")
        same(got, {"state": "kept", "message_id": "away", "event": "note", "user_id": "und", "seq": 1})
        with recipient(hub, "und", "off") as wire:
            same(wire.hello["inbox"]["epoch"], epoch)
            publisher.ask({"user_id": "und", "event": "note", "message_id": "off"})
            same((lambda d: (d["message_id"], d["state"], d["seq"]))(undelivered(worker.receive("message"))), ("off", "kept", 2))
        with recipient(hub, "und") as wire:
            same(len(wire.until_pong()), 2)
            publisher.ask({"user_id": "und", "event": "note", "message_id": "here"})
            wire.receive("message")
        publisher.ask({"user_id": "und", "event": "note", "message_id": "passing", "ttl": 0})
        publisher.ask({"channel": "und", "event": "note", "message_id": "channel"})
        same(received_until(worker, "end"), [], "who is there, what is not kept, and what is kept on a channel is not news")


@case("system:undelivered announces expired and evicted messages")
def expired_and_evicted(_):
    config = '[[channel]]\nmatch = "@me"\nkeep = "unacknowledged"\ncount = 2\n[[channel]]\nmatch = "few"\nkeep = "undelivered"\ncount = 2\n'
    with Hub(config) as hub, listening(hub, "system:undelivered") as worker, hub.worker() as publisher:
        for n in (1, 2, 3):
            publisher.ask({"user_id": "bob", "event": "e", "message_id": f"u{n}"})
        for n in (1, 2, 3):
            publisher.ask({"channel": "few", "event": "e", "message_id": f"c{n}"})
        publisher.ask({"channel": "brief", "event": "e", "message_id": "b1", "ttl": 1})
        publisher.ask({"user_id": "eve", "event": "e", "message_id": "e1", "ttl": 1})
        notices = {}
        while len(notices) < 8:
            got = undelivered(worker.receive("message", within=10))
            key = (got["message_id"], got["state"])
            assert key not in notices, f"told twice: {got}"
            notices[key] = got.get("user_id") or got.get("channel")
            assert got["seq"] >= 1 and got["epoch"] and "data" not in got, got
        same(notices, {("u1", "kept"): "bob", ("u2", "kept"): "bob", ("u3", "kept"): "bob", ("u1", "evicted"): "bob",
                    ("c1", "evicted"): "few", ("b1", "expired"): "brief", ("e1", "kept"): "eve", ("e1", "expired"): "eve"})
        with recipient(hub, "ann", "auto") as wire, hub.subscriber("brief", user="eva") as other:
            for n in (1, 2, 3, 4):
                publisher.ask({"user_id": "ann", "event": "e", "ttl": 1})
                wire.receive("message")
                publisher.ask({"channel": "brief", "event": "e", "ttl": 1})
                other.receive("message")
            time.sleep(2.5)
        same(received_until(worker, "end"), [], "what was heard")


@case("system:undelivered waits for the next worker")
def for_the_next_worker(hub):
    with Hub() as own:
        with own.worker() as publisher:
            publisher.ask({"user_id": "early", "event": "e", "message_id": "before"})
            with listening(own, "system:undelivered") as worker:
                same(received_until(worker, "first"), [], "nobody had ever subscribed")
            publisher.ask({"user_id": "early", "event": "e", "message_id": "between"})
            with listening(own, "system:undelivered") as worker:
                same([(undelivered(f)["message_id"], f.get("replayed")) for f in received_until(worker, "second")], [("between", True)])


@case("system channels need a token that names them")
def system_channel_rights(hub):
    with hub.connect("star") as wire:
        for channel in ("system:presence", "system:undelivered"):
            same(wire.ask({"action": "subscribe", "channel": channel})["code"], "forbidden")
    with hub.connect("named", token=hub.token("named", wshub={"subscribe": ["system:presence"], "publish": ["system:presence"]})) as wire:
        same(wire.ask({"action": "subscribe", "channel": "system:presence"})["type"], "subscription_succeeded")
        same(wire.ask({"action": "subscribe", "channel": "system:undelivered"})["code"], "forbidden")
        same(wire.ask({"action": "send", "channel": "system:presence", "event": "e"})["code"], "forbidden")
        with hub.connect("named2"):
            same(wire.receive("message", event="system:user_joined")["data"], {"user_id": "named2"})
    with hub.worker() as worker:
        for channel in ("system:presence", "system:undelivered", "system:else"):
            same(worker.ask({"channel": channel, "event": "e"})["code"], "forbidden", channel)
    same(hub.post("/broadcast", {"channel": "system:presence", "event": "e"}).status, 403)


if __name__ == "__main__":
    run_cases()
