"""One user who requests as much as the limits allow, and the effect on everybody else.

Each case is one kind of load: small requests with large answers, very many reconnects at once, free requests without end,
reconnecting for a full bucket, pings, and connections that occupy all places. Beside it a bystander sends a small request
again and again. What depends on a wall clock is bounded by ten times the aim, and printed.
"""

import json
import os
import select
import subprocess
import sys
import threading
import time

from daemon import Hub, Worker
from harness import case, eventually, in_time, run_cases, same
from ws_client import TEXT, Closed, Refused, Silence, frame

# What a machine that does other things as well may add to the longest wait.
AIM_NEIGHBOUR, AIM_STALL = 0.05, 0.1
HISTORY = """
[[channel]]
match = "history"
keep = "history"
count = 1000
[auth]
publish = ["*", "@user:*"]
"""
MISSED, READERS = 1000, int(os.environ.get("READERS", "500"))
# How many come while others try to lock them out.
NEWCOMERS = int(os.environ.get("NEWCOMERS", "25"))


class Bystander:
    """A client that sends a small request again and again, in a process of its own."""

    def __init__(self, hub):
        self.path = hub.worker_path

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-B", __file__, str(self.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_):
        out, _ = self.process.communicate(timeout=60)
        self.waits = sorted(json.loads(out))

    def report(self):
        usual, longest = self.waits[int(len(self.waits) * 0.99)], self.waits[-1]
        return f"{in_time('a neighbour waits, 99 %', usual, AIM_NEIGHBOUR)}; {in_time('longest', longest, AIM_STALL)}"


def measure_waits(path):
    """What the neighbour does, until its input ends and it has seen enough."""
    waits = []
    with Worker(path) as worker:
        while not select.select([sys.stdin], [], [], 0.01)[0] or len(waits) < 100:
            began = time.monotonic()
            worker.ask({"action": "ping"})
            waits.append(time.monotonic() - began)
    print(json.dumps(waits))


def processor(hub):
    """Seconds of CPU that the daemon has used."""
    with open(f"/proc/{hub.process.pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / 100


def resident(hub, what="VmHWM"):
    """Bytes that the daemon has in memory: at most so far, or now (`VmRSS`)."""
    with open(f"/proc/{hub.process.pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(what))


def text(request):
    return frame(TEXT, json.dumps(request, separators=(",", ":")).encode())


def flood(connections, block, seconds):
    """Sends a block over all connections again and again, as fast as they take it; bytes sent, and how many are left."""
    poll, rest, sent = select.epoll(), {}, 0
    for wire in connections:
        wire.sock.setblocking(False)
        poll.register(wire.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
        rest[wire.sock.fileno()] = (wire.sock, 0)
    end = time.monotonic() + seconds
    while rest and time.monotonic() < end:
        for descriptor, event in poll.poll(0.1):
            sock, at = rest[descriptor]
            try:
                if event & select.EPOLLIN and not sock.recv(1 << 18):
                    raise ConnectionError
                if event & select.EPOLLOUT:
                    done = sock.send(block[at : at + 65536])
                    rest[descriptor] = sock, (at + done) % len(block)
                    sent += done
            except BlockingIOError:
                pass
            except OSError:
                poll.unregister(descriptor)
                del rest[descriptor]
    poll.close()
    return sent, len(rest)


@case("128 times one channel in unread requests costs little memory")
def amplified(hub):
    with hub.worker() as worker:
        for n in range(300):
            worker.send({"action": "operation_start", "operation_id": f"op{n}", "channel": "room", "label": "l" * 200})
        worker.ask({"action": "ping"})
        before, crowd = resident(hub), [hub.connect("mallory", rcvbuf=4096) for _ in range(100)]
        wish = {"channel": "room", "presence": True}
        block = text({"action": "subscribe", "channels": [wish] * 128}) * 6
        with Bystander(hub) as neighbour:
            for wire in crowd:
                wire.sock.sendall(block)
            time.sleep(2)
        for wire in crowd:
            wire.sock.close()
        grown = resident(hub) - before
        # The queue of each holds what it may, and one answer more.
        most = len(crowd) * (512 << 10)
        assert grown < most, f"{len(block) * len(crowd) >> 10} KiB of requests made it grow by {grown >> 20} MiB"
        for n in range(300):
            worker.send({"action": "operation_end", "operation_id": f"op{n}", "state": "completed"})
        worker.ask({"action": "ping"})
        return f"{len(block) * len(crowd) >> 10} KiB of requests: {grown / (1 << 20):.1f} MiB more; {neighbour.report()}"


@case(f"{READERS} replays of {MISSED} messages cost as much as live ones")
def catching_up(hub):
    tokens = [hub.token(f"user{n}") for n in range(50)]
    crowd = [hub.connect(token=tokens[n % 50]) for n in range(READERS)]

    def receive(send):
        """Until every client has received all answers to `send`; seconds of CPU, and the bystander."""
        received, poll, by = 0, select.epoll(), {}
        for wire in crowd:
            wire.sock.setblocking(False)
            poll.register(wire.sock.fileno(), select.EPOLLIN)
            by[wire.sock.fileno()] = wire
        began, before = time.monotonic(), processor(hub)
        with Bystander(hub) as neighbour:
            send()
            while received < READERS * MISSED:
                assert time.monotonic() - began < 60, f"{received:,} of {READERS * MISSED:,} after 60 s"
                for descriptor, _ in poll.poll(1):
                    chunk = by[descriptor].sock.recv(1 << 18)
                    assert chunk, "a connection has ended"
                    by[descriptor].buffer = (by[descriptor].buffer[-20:] + chunk)[-len(chunk) - 20 :]
                    received += by[descriptor].buffer.count(b'"type":"message"') - by[descriptor].buffer[:20].count(b'"type":"message"')
        poll.close()
        return processor(hub) - before, neighbour

    def publish():
        with hub.worker() as worker:
            for _ in range(MISSED // 20):
                worker.send(b'{"channel":"history","event":"e","data":"%s"}\n' % (b"h" * 100) * 20)
                worker.ask({"action": "ping"})

    for wire in crowd:
        wire.send({"action": "subscribe", "channel": "history"})
        wire.receive("subscription_succeeded")
    live, _ = receive(publish)
    back = text({"action": "subscribe", "channel": "history", "since": {"epoch": "", "seq": 0}})
    replayed, neighbour = receive(lambda: [wire.sock.sendall(back) for wire in crowd])
    for wire in crowd:
        wire.sock.close()
    ratio = replayed / live
    assert ratio < 4, f"{replayed:.2f} s of CPU for what takes {live:.2f} s live"
    return f"{ratio:.2f} times the CPU of the same live (aim 1.5); {neighbour.report()}"


@case("free requests on 100 connections delay nobody else")
def free_of_charge(hub):
    results = []
    token = hub.token("eve")
    requests = {
        "ack": {"action": "ack", "epoch": "none", "seq": 1},
        "auth": {"action": "auth", "token": token},
        "whisper": {"action": "whisper", "channel": "elsewhere", "event": "e"},
    }
    for name, request in requests.items():
        crowd = [hub.connect(token=token) for _ in range(100)]
        with Bystander(hub) as neighbour:
            sent, left = flood(crowd, text(request) * 200, 3)
        for wire in crowd:
            wire.sock.close()
        results.append(f"{name}: {sent / len(text(request)) / 3:,.0f} a second, {left} of 100 stay; {neighbour.report()}")
    return "; ".join(results)


@case("128 channels again and again on 100 connections are limited")
def all_channels_again(hub):
    crowd = [hub.connect("mallory") for _ in range(100)]
    wish = [{"channel": f"c{n}", "since": {"epoch": "", "seq": 0}} for n in range(128)]
    with Bystander(hub) as neighbour:
        flood(crowd, text({"action": "subscribe", "channels": wish}), 3)
    for wire in crowd:
        wire.sock.close()
    return neighbour.report()


@case("reconnecting does not raise the request rate of a user")
def reconnecting(hub):
    token, answered, opened = hub.token("trudy"), 0, 0
    end = time.monotonic() + 3
    with Bystander(hub) as neighbour:
        while time.monotonic() < end:
            try:
                with hub.connect(token=token) as wire:
                    wire.sock.sendall(text({"action": "send", "channel": "room", "event": "e", "id": 1}) * 20)
                    answered += sum(got["type"] == "send_success" for got in (wire.next() for _ in range(20)))
                    opened += 1
            except (Closed, Refused, AssertionError):
                pass
    most = 100 + 50 * 4
    assert answered <= most, f"{answered} requests were carried out in 3 s, over {opened} connections"
    assert opened > 10, f"{opened} connections: this has shown nothing"
    return f"{answered} requests over {opened} connections in 3 s (at most {most}); {neighbour.report()}"


@case("connections that only ping are closed and delay nobody else")
def pinging(hub):
    crowd = [hub.connect(user=None, established=False) for _ in range(500)]
    with Bystander(hub) as neighbour:
        sent, left = flood(crowd, frame(0x9, b"") * 20000, 5)
    same(left, 0, "connections that are left")
    return f"{sent / 6:,.0f} pings; {neighbour.report()}"


def half_a_large_frame(hub):
    """One user, and a frame of which the end never comes."""
    wire = hub.connect("mallory")
    wire.sock.sendall(frame(TEXT, b"a" * 520_000)[:500_000])
    return wire


def half_a_frame_of_a_stranger(hub):
    wire = hub.connect(user=None, established=False)
    # With more of it the hub closes at once.
    wire.sock.sendall(frame(TEXT, b"x" * 20_000)[:16_000])
    return wire


def much_that_is_not_read(hub):
    """One user sends to its own channels and reads nothing."""
    wire = hub.connect("mallory", rcvbuf=4096)
    wire.sock.sendall(text({"action": "subscribe", "channel": wire.id}))
    frame = text({"action": "send", "channel": wire.id, "event": "e", "data": "z" * 250_000})
    wire.sock.sendall(frame * 2)
    return wire


def a_place(hub):
    """A silent connection without authentication."""
    return hub.connect(user=None, established=False)


class Attackers(threading.Thread):
    """Keeps so many connections of one kind, as far as it is let."""

    def __init__(self, hub, kind, count):
        super().__init__(daemon=True)
        self.hub, self.kind, self.count = hub, kind, count
        self.ends, self.is_full, self.opened, self.lost = threading.Event(), threading.Event(), 0, 0

    def run(self):
        crowd = []
        while not self.ends.is_set():
            while len(crowd) < self.count and not self.ends.is_set():
                try:
                    crowd.append(self.kind(self.hub))
                    self.opened += 1
                except (OSError, Closed, Refused, Silence, AssertionError):
                    self.lost += 1
                    break
                if self.opened % 50 == 0:
                    break
            # From the first one on that is lost it is as bad as it gets.
            before, crowd = len(crowd), [wire for wire in crowd if self.stays(wire)]
            self.lost += before - len(crowd)
            if self.lost:
                self.is_full.set()
            self.ends.wait(0.005)
        for wire in crowd:
            wire.sock.close()

    @staticmethod
    def stays(wire):
        """Whether the hub has not hung up; nothing is read."""
        poll = select.poll()
        poll.register(wire.sock.fileno(), select.POLLRDHUP)
        if not poll.poll(0):
            return True
        wire.sock.close()
        return False


# What a user may ask together, raised: at the usual rate one holds less than these scenes want.
BUSY = {"LIMITS__USER_REQUESTS_PER_SECOND": "10000", "LIMITS__USER_BURST": "10000"}
ATTACKS = {
    # What each does, how many, and what makes them too many.
    "half frames of one user": (half_a_large_frame, 80, {"LIMITS__MEMORY": "32MiB"}),
    "half frames of strangers": (half_a_frame_of_a_stranger, 1200, {"LIMITS__MEMORY": "16MiB"}),
    "one user who reads nothing": (much_that_is_not_read, 80, {"LIMITS__MEMORY": "32MiB", **BUSY}),
    "strangers in all places": (a_place, 400, {"LIMITS__CONNECTIONS": "300"}),
}


@case(f"{NEWCOMERS} with a token are admitted during each of 4 attacks")
def newcomers(_):
    results = []
    for name, (kind, count, limits) in ATTACKS.items():
        with Hub(**limits) as hub:
            token, waits, refused = hub.token("good"), [], 0
            attackers = Attackers(hub, kind, count)
            attackers.start()
            assert attackers.is_full.wait(60), f"{name}: {attackers.opened} of {count} disturb nobody"
            for _ in range(NEWCOMERS):
                began = time.monotonic()
                try:
                    with hub.connect(token=token):
                        waits.append(time.monotonic() - began)
                except (OSError, Closed, Refused, Silence, AssertionError):
                    refused += 1
                time.sleep(0.02)
            attackers.ends.set()
            attackers.join()
            assert refused <= NEWCOMERS // 100, f"{name}: {refused} of {NEWCOMERS} newcomers were refused"
            results.append(f"{name}: {refused} refused, {in_time('slowest', max(waits), 1)}")
    return "; ".join(results)


@case("memory under attack matches what is counted, within a fifth")
def counted(_):
    results = []
    for name, (kind, count) in {
        "half frames of one user": (half_a_large_frame, 60),
        "half frames of strangers": (half_a_frame_of_a_stranger, 1000),
        "one user who reads nothing": (much_that_is_not_read, 60),
    }.items():
        with Hub(LIMITS__MEMORY="1GiB", **BUSY) as hub, hub.worker() as worker:

            def held():
                return worker.ask({"action": "stats"})["memory_bytes"], resident(hub, "VmRSS")

            crowd = [kind(hub) for _ in range(count)]
            counted, taken = eventually("all of it is read", lambda: (lambda now: now if now == held() else None)(held()))
            for wire in crowd:
                wire.sock.close()
            figure = f"{name}: {counted / (1 << 20):.1f} MiB are counted, {taken / (1 << 20):.1f} are taken"
            # As wshubd(8) has it, and no more is counted than there is.
            assert 0.8 * counted < taken < (8 << 20) + 1.2 * counted, figure
            results.append(figure)
    return "; ".join(results)


if __name__ == "__main__" and len(sys.argv) > 1 and sys.argv[1].startswith("/"):
    measure_waits(sys.argv[1])
elif __name__ == "__main__":
    run_cases(lambda: Hub(HISTORY))
