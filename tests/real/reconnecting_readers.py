"""Readers that are cut at random and reconnect, with what each of them must find afterwards.

The promises about positions (`since`, `recovered`, `gap`, `ack`) are checked frame by frame. Everything random comes from
one seed and the reader's name; the interleaving of the threads is not repeatable, but the plan of each of them is.
"""

import json
import socket
import struct
import threading
import time

from harness import same
from ws_client import PATIENCE, Closed, Silence, WsClient

# How long a reader that has something to wait for waits in vain before that is a finding.
PATIENT = 4 * PATIENCE
# More than the hub's queue (256 KiB) and the kernel's buffers hold for a reader that does not read.
FULL = 1_500_000


class Stopped(Exception):
    """Another thread has failed, or the time is over."""


class CutRun:
    """What all threads share: the cuts that are left, the figures, and the first failure."""

    def __init__(self, cuts, seconds):
        self.left, self.lock, self.failure = cuts, threading.Lock(), None
        self.end = time.monotonic() + seconds
        self.figures = {}

    def count(self, figure, amount=1):
        with self.lock:
            self.figures[figure] = self.figures.get(figure, 0) + amount

    def take_a_cut(self):
        """Whether the visit that begins is to end with a cut."""
        self.go_on()
        with self.lock:
            self.left -= 1
            return self.left >= 0

    def go_on(self):
        if self.failure:
            raise Stopped
        assert time.monotonic() < self.end, f"not done in time; cuts left: {self.left}, so far: {self.figures}"

    def run(self, *bodies):
        """One thread each, to their ends; raises what failed first."""

        def guarded(body):
            try:
                body()
            except Stopped:
                pass
            except Exception as e:  # whatever it is, it is the finding
                with self.lock:
                    self.failure = self.failure or e

        threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failure:
            raise self.failure


class Room:
    """One channel or one inbox: the messages sent there, and the position of each."""

    def __init__(self, target, reach=None):
        self.target, self.lock = target, threading.Lock()
        # How many messages back the log reaches where readers may fall behind it; None: they never do.
        self.reach = reach
        self.published, self.bytes, self.sizes, self.times, self.order = 0, 0, {}, {}, {}
        self.readers, self.stalled, self.last_said = [], 0, 0

    def send(self, publisher, number, size):
        """Notes a message before it is sent; gives its id and its text."""
        with self.lock:
            self.published, self.bytes = self.published + 1, self.bytes + size
            self.last_said = time.monotonic()
            self.sizes[publisher, number], self.times[publisher, number] = size, self.last_said
        return f"{publisher}/{number}", chr(97 + number % 26) * size

    def receive(self, got):
        """Checks a message against what was sent and where others received it; when it was sent."""
        publisher, number = got["message_id"].rsplit("/", 1)
        key = publisher, int(number)
        assert key in self.sizes, f"nobody said {got['message_id']}"
        assert got["data"] == chr(97 + key[1] % 26) * self.sizes[key], f"{got['message_id']} has changed on its way"
        with self.lock:
            same(self.order.setdefault(got["seq"], key), key, f"who stands at seq {got['seq']}")
        return self.times[key]

    def has_room(self):
        """Whether a publisher may go on: no reader is so far behind that the log would forget what it needs."""
        return self.reach is not None or self.published - min(reader.done() for reader in self.readers) < 600

    def every_publisher_in_order(self):
        """Each publisher's messages were received once and in order, as far as they were; whether that is all."""
        last = {}
        for seq in sorted(self.order):
            publisher, number = self.order[seq]
            before = last.get(publisher, 0)
            assert number == before + 1 or (self.reach and number > before), f"{publisher}: {number} after {before}, at seq {seq}"
            last[publisher] = number
        return sorted(self.order) == list(range(1, self.published + 1))


class Reader:
    """Connects, reads for a while, is cut in one of many ways, and comes back until nothing is missing."""

    def __init__(self, scene, hub, room, name, rng, user):
        self.scene, self.hub, self.room, self.name, self.rng = scene, hub, room, name, rng
        self.token, self.path = hub.token(user), "/api/v1/ws"
        self.abandoned, self.received_at, self.live = [], 0, False
        room.readers.append(self)

    def run(self, publishing):
        try:
            while self.scene.take_a_cut():
                self.visit(self.rng.expovariate(8))
            with self.arrive() as wire:
                self.stay(wire, publishing)
        finally:
            for wire, _ in self.abandoned:
                wire.close()

    # One connection.

    def visit(self, seconds):
        """Reads for so long, then is cut."""
        if self.rng.random() < 0.05:
            self.scene.count("handshake")
            return self.cut_in_the_handshake()
        wire = self.arrive()
        self.read(wire, time.monotonic() + min(seconds, 0.5))
        cut = self.rng.choice([self.close, self.close, self.reset, self.reset, self.half_close, self.deafen, self.stall, self.abandon])
        cut(wire)
        self.scene.count(cut.__name__)
        for old, until in list(self.abandoned):
            if until < time.monotonic():
                self.abandoned.remove((old, until))
                old.close()

    def arrive(self):
        # A small window makes a slow link: the hub's queue fills while the reader is only a little late.
        rcvbuf = self.rng.choice([None, 4096, 65536])
        self.received_at, self.live = time.monotonic(), False
        wire = WsClient(self.hub.port, self.path, {"Authorization": "Bearer " + self.token}, rcvbuf=rcvbuf)
        self.begin(wire, wire.receive("connection_established", PATIENT))
        return wire

    def stay(self, wire, publishing):
        """Reads, uncut, until nothing is left; a silence with something to wait for is a finding."""
        while publishing.is_set() or self.done() < self.room.published:
            self.scene.go_on()
            waited = time.monotonic() - max(self.received_at, self.room.last_said)
            assert waited < PATIENT or self.done() >= self.room.published, f"{self.name} has {self.done()} of {self.room.published} and heard nothing for {waited:.0f} s"
            try:
                self.frame(wire, wire.next(0.2))
                self.settle(wire)
            except Silence:  # another device may have done the rest meanwhile
                pass

    def settle(self, wire):
        """The request of a reader at a point where nothing more may come: here none."""

    def read(self, wire, until):
        while (left := until - time.monotonic()) > 0:
            self.scene.go_on()
            try:
                self.frame(wire, wire.next(left))
            except Silence:
                return

    def frame(self, wire, got):
        if got["type"] == "message":
            published_at = self.room.receive(got)
            self.message(wire, got)
            now = time.monotonic()
            silence, self.received_at = now - max(published_at, self.received_at), now
            with self.scene.lock:
                self.scene.figures["silence"] = max(self.scene.figures.get("silence", 0), silence)
            self.scene.count("messages heard")
            self.scene.count("fell back to the log", self.live and got.get("replayed") is True)
            self.live = not got.get("replayed")
        else:
            self.other(wire, got)

    # The ways to go.

    def a_bit_more(self, wire):
        """Takes some bytes of what is there and leaves the rest: the cut is in the middle of a frame."""
        wire.sock.setblocking(False)
        try:
            wire.sock.recv(self.rng.choice([1, 3, 100, 5000]))
        except BlockingIOError:
            pass

    def cut_in_the_handshake(self):
        with socket.create_connection(("127.0.0.1", self.hub.port)) as sock:
            request = f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {self.token}\r\n\r\n"
            sock.sendall(request.encode()[: self.rng.choice([20, 200, 10_000])])

    def close(self, wire):
        self.a_bit_more(wire)
        wire.close()

    def reset(self, wire):
        self.a_bit_more(wire)
        wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wire.close()

    def half_close(self, wire):
        """Half-closes and reads on: the hub closes it, and all that was sent until then has arrived."""
        wire.sock.shutdown(socket.SHUT_WR)
        try:
            until = time.monotonic() + PATIENT
            while time.monotonic() < until:
                self.scene.go_on()
                self.frame(wire, wire.next(until - time.monotonic()))
            raise AssertionError("a connection that is closed on one side was kept")
        except (Closed, BrokenPipeError, ConnectionResetError):
            wire.close()

    def deafen(self, wire):
        wire.sock.shutdown(socket.SHUT_RD)
        time.sleep(self.rng.uniform(0, 0.05))
        wire.close()

    def stall(self, wire):
        """Stops reading until the hub's queue must be full; then goes, or reads on and goes later."""
        room, until = self.room, time.monotonic() + 2
        full = room.bytes + FULL
        with room.lock:
            room.stalled += 1
        while room.bytes < full and room.has_room() and time.monotonic() < until:
            self.scene.go_on()
            time.sleep(0.002)
        with room.lock:
            room.stalled -= 1
        self.received_at = time.monotonic()
        if self.rng.random() < 0.7:
            self.read(wire, self.received_at + self.rng.uniform(0, 0.5))
        self.reset(wire)

    def abandon(self, wire):
        """Nobody reads it any more, and nobody closes it for a while: a laptop that was shut."""
        self.abandoned.append((wire, time.monotonic() + self.rng.uniform(0.5, 3)))


class HistoryReader(Reader):
    """Reads a channel from the position that it has reached."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.channel = self.room.target["channel"]
        self.epoch, self.last, self.gap_due = "", 0, False

    def done(self):
        return self.last

    def begin(self, wire, _):
        self.gap_due = False
        wire.send({"action": "subscribe", "channel": self.channel, "since": {"epoch": self.epoch, "seq": self.last}})

    def message(self, _, got):
        assert not self.gap_due, f"recovered: false, and no gap before {got['seq']}"
        same((got["channel"], got["seq"]), (self.channel, self.last + 1), f"{self.name}, the next position")
        self.last = got["seq"]

    def other(self, _, got):
        if got["type"] == "subscription_succeeded":
            self.subscribed(got)
        elif got["type"] == "gap":
            self.gap(got)
        else:
            same(got["type"], "connection_id")

    def subscribed(self, got):
        same(self.epoch or got["epoch"], got["epoch"], "the epoch")
        self.epoch = got["epoch"]
        # The channel's count is its only limit, so that the kept range is known exactly.
        reaches = self.room.reach is None or self.last >= got["seq"] - self.room.reach
        same(got["recovered"], reaches, f"{self.name}: recovered from {self.last}, at {got['seq']}")
        self.gap_due = not reaches
        self.scene.count("recovered" if reaches else "not recovered")

    def gap(self, got):
        assert self.room.reach is not None, f"{self.name} has {self.last}, and nothing was ever pushed out: {got}"
        lost = got["to_seq"] - self.last
        same({k: got.get(k) for k in ("channel", "epoch", "from_seq", "lost", "cause")},
             {"channel": self.channel, "epoch": self.epoch, "from_seq": self.last + 1, "lost": lost, "cause": "evicted"}, f"{self.name}, the gap")
        assert 0 < lost and got["to_seq"] <= self.room.published - self.room.reach, f"{got} tells of what is still kept, {self.room.published} were said"
        self.last, self.gap_due = got["to_seq"], False
        self.scene.count("lost, and told", lost)
        self.scene.count("gaps")


class Inbox(Room):
    """The inbox of a user, and how far its cursor can have been moved by all devices together."""

    def __init__(self, user):
        super().__init__({"user_id": user})
        self.user, self.epoch = user, None
        # `sure`: the hub has answered the request behind the ack. `maybe`: the ack was sent, perhaps into a cut.
        self.sure = self.maybe = 0


class InboxReader(Reader):
    """A device of a user, in `ack` mode: acknowledges now and then what it has dealt with."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.path += "?inbox=ack"
        self.next, self.furthest, self.asked = 1, 0, {}

    def done(self):
        return self.room.sure

    def arrive(self):
        self.sure_before = self.room.sure
        return super().arrive()

    def begin(self, _, hello):
        inbox, room = hello["inbox"], self.room
        with room.lock:
            room.epoch = room.epoch or inbox["epoch"]
            same(inbox["epoch"], room.epoch, "the epoch")
            cursor = inbox["seq"] - inbox["waiting"]
            assert self.sure_before <= cursor <= room.maybe, f"{self.name}: {inbox}, acknowledged {self.sure_before} to {room.maybe}"
            assert inbox["seq"] <= room.published, f"{self.name}: {inbox}, said {room.published}"
            room.sure = max(room.sure, cursor)
        self.next, self.asked = cursor + 1, {}

    def message(self, wire, got):
        room = self.room
        # What another device acknowledges meanwhile, or an ack that was still on its way, need not be received here.
        assert got["channel"] == "@me" and self.next <= got["seq"] <= max(self.next, room.maybe + 1), \
            f"{self.name} waited for {self.next}, and {got['seq']} came; acknowledged {room.sure} to {room.maybe}"
        self.scene.count("heard again, unacknowledged", got["seq"] <= self.furthest)
        self.next, self.furthest = got["seq"] + 1, max(got["seq"], self.furthest)
        chance = self.rng.random()
        if chance < 0.02:
            self.ack(wire, 10**9, room.epoch)
            self.ack(wire, got["seq"], "another")
        elif chance < 0.3:
            self.acknowledge(wire, asking=chance < 0.15)

    def acknowledge(self, wire, asking):
        seq, room = self.next - 1, self.room
        with room.lock:
            room.maybe = max(room.maybe, seq)
        self.ack(wire, seq, room.epoch)
        if asking:
            mark = f"{self.name}-{seq}"
            self.asked[mark] = seq
            self.send(wire, {"action": "ping", "id": mark})

    def ack(self, wire, seq, epoch):
        self.send(wire, {"action": "ack", "epoch": epoch, "seq": seq, "read": self.rng.random() < 0.2})

    def send(self, wire, request):
        wire.send(json.dumps(request))

    def settle(self, wire):
        """Where everything was received: acknowledges it, and makes sure."""
        if self.next > self.room.published > self.room.sure and not self.asked:
            self.acknowledge(wire, asking=True)

    def other(self, _, got):
        same(got["type"], "pong", f"{self.name}: {got}")
        seq = self.asked.pop(got["id"])
        with self.room.lock:
            self.room.sure = max(self.room.sure, seq)
