"""A subscriber on a link of 20 kB/s, with the default limits: it falls behind, and what it receives is whole.

The figures: 480 messages of a kilobyte are more than the hub's queue (256 messages or 256 KiB) and the kernel's buffers
hold, so that the last of them are read from the log. All three readers are slow at the same time, for some 25 s.
"""

import threading
import time

from daemon import Hub
from harness import case, run_cases, same
from ws_client import TEXT, Closed, Silence, WsClient, frame

RATE = 20_000
MESSAGES = 480
PAD = "x" * 900
SHORT = 50
CONFIG = f"""
[[channel]]
match = "long"
keep = "history"
[[channel]]
match = "short"
keep = "history"
count = {SHORT}
"""


class SlowWsClient(WsClient):
    """Takes no more bytes from its socket than the link would have carried by now."""

    began, taken = None, 0

    def _more(self):
        self.began = self.began or time.monotonic()
        time.sleep(max(0, self.taken / RATE - (time.monotonic() - self.began)))
        try:
            chunk = self.sock.recv(1000)
        except TimeoutError:
            raise Silence("nothing came in time") from None
        if not chunk:
            raise Closed(None, "end of stream")
        self.taken += len(chunk)
        self.buffer += chunk


class SlowReader(threading.Thread):
    """Reads frames until it has the last message; the case checks them."""

    def __init__(self, hub, user, channel=None):
        super().__init__()
        self.wire = SlowWsClient(hub.port, "/ws?inbox=ack", {"Authorization": "Bearer " + hub.token(user)}, rcvbuf=4096)
        self.wire.receive("connection_established")
        if channel:
            self.wire.send({"action": "subscribe", "channel": channel})
            self.wire.receive("subscription_succeeded")
        self.came = []
        self.start()

    def run(self):
        try:
            while not self.came or self.came[-1].get("seq") != MESSAGES:
                self.came.append(self.wire.next(15))
        except (Closed, Silence) as e:
            self.came.append({"type": f"no more: {e}"})

    def frames(self):
        """What came, once it has all come: messages, and the other frames."""
        self.join(120)
        assert not self.is_alive(), f"{len(self.came)} frames in 120 s"
        return [f for f in self.came if f["type"] == "message"], [f for f in self.came if f["type"] != "message"]


def whole(messages):
    same([(f["seq"], f["data"][0]) for f in messages], [(n, n) for n in range(1, MESSAGES + 1)], "in order, once each")
    behind = sum(f.get("replayed") is True for f in messages)
    assert behind, "half a megabyte fitted into a queue of 256 KiB, nothing was read from the log"
    return behind


def publish_all(hub):
    """To both channels and to the inbox: most of it at once, the end while the readers are still at the beginning."""
    with hub.worker() as worker:
        worker.ask({"action": "operation_start", "operation_id": "slow-build", "channel": "long"})
        for n in range(1, MESSAGES + 1):
            for target in ({"channel": "long"}, {"channel": "short"}, {"user_id": "slow"}):
                worker.send({**target, "event": "e", "data": [n, PAD]})
            if n > MESSAGES - 50:
                time.sleep(0.02)
        worker.ask({"action": "operation_end", "operation_id": "slow-build", "state": "completed"})


@case("a client gets 1009 while it still sends a frame too large")
def too_large(hub):
    with hub.connect("zoe") as wire:
        whole, began = frame(TEXT, b"y" * 600_000), time.monotonic()
        for at in range(0, len(whole), 15_000):
            wire.sock.sendall(whole[at:at + 15_000])
            time.sleep(0.1)
        same(wire.close_code(), 1009)
        return f"after {time.monotonic() - began:.1f} s"


@case("at 20 kB/s history and inbox are whole, gaps are announced")
def slow_link(_):
    with Hub(CONFIG) as hub, hub.subscriber("long", user="quick") as quick:
        slow = SlowReader(hub, "one", "long"), SlowReader(hub, "two", "short"), SlowReader(hub, "slow")
        began = time.monotonic()
        talking = threading.Thread(target=publish_all, args=(hub,))
        talking.start()
        same([quick.receive("message")["seq"] for _ in range(MESSAGES)], list(range(1, MESSAGES + 1)), "the healthy reader")
        quick_took = time.monotonic() - began
        talking.join()
        long, short, inbox = slow
        long.wire.send({"action": "ping", "id": "in between"})

        messages, others = long.frames()
        took = time.monotonic() - began
        from_log = whole(messages)
        assert took > 15, f"{MESSAGES} kB in {took:.1f} s is no slow link"
        same([(f["type"], f.get("state") or f.get("id")) for f in others], [("operation", "started"), ("pong", "in between")], "beside the messages")
        same(long.wire.receive("operation")["state"], "ended", "behind the last message")
        whole(inbox.frames()[0])
        lost = gaps_account(*short.frames())

        # A reader that has caught up is live again.
        for reader, target in ((long, {"channel": "long"}), (inbox, {"user_id": "slow"})):
            hub.post("/broadcast", {**target, "event": "e", "data": "live"})
            got = reader.wire.receive("message")
            same((got["data"], got["seq"], got.get("replayed")), ("live", MESSAGES + 1, None))
            reader.wire.close()
        short.wire.close()
    return f"{took:.0f} s, {from_log} of {MESSAGES} read from the log, {lost} lost on the short one; the healthy reader took {quick_took:.1f} s"


def gaps_account(messages, others):
    """Each position was received or is in a gap, which stands where it is missing; how many were lost."""
    came, lost = sorted([*messages, *others], key=lambda f: f.get("seq") or f["from_seq"]), 0
    expected = 1
    for f in came:
        if f["type"] == "gap":
            same((f["from_seq"], f["cause"], f["lost"]), (expected, "evicted", f["to_seq"] - f["from_seq"] + 1), str(f))
            expected, lost = f["to_seq"] + 1, lost + f["lost"]
        else:
            same((f["type"], f["seq"], f["data"][0]), ("message", expected, expected))
            expected += 1
    same(expected, MESSAGES + 1)
    assert lost, f"a history of {SHORT} held {MESSAGES}"
    assert expected - 1 - lost >= SHORT, f"{lost} lost, though the last {SHORT} are kept"
    return lost


if __name__ == "__main__":
    run_cases()
