"""A ledger of published, stored and received messages, for suites that break the store.

Holds the promises of the contract about kept messages, and a daemon that keeps them on a disk. A kill, a power cut and a
failing disk are all "a crash" here.
"""

import json
import os
import threading
import time
import zlib

from daemon import Hub
from harness import same
from ws_client import Closed, Refused, Silence

# How long the hub may take to answer a durable publish at the worst.
ANSWERED_WITHIN = 20.0
# Beyond `write_delay` and whatever a slow machine adds: what was kept for so long, by a store that worked, is on the disk.
BEHIND = 5.0
# Errors that mean nothing but the end of a connection that was cut.
GONE = (Closed, Refused, ConnectionError, OSError)
ORDINARY_USER = 65534

# A publisher sends up to so many messages before the first of them is answered.
BURST = 30
# How many later messages leave one in the history below. The messages of four publishers at once may come in any order.
HISTORY = 500 - 1 - 4 * BURST

POLICIES = """
[[channel]]
match = "@me"
keep = "unacknowledged"
count = 5000
bytes = "16MiB"
disk = "behind"
[[channel]]
match = "history"
keep = "history"
count = 500
bytes = "16MiB"
disk = "behind"
[[channel]]
match = "*"
keep = "undelivered"
count = 5000
bytes = "16MiB"
disk = "behind"
[limits]
requests_per_second = 100000
burst = 100000
[store]
flash_budget = 0
"""


class StoreDaemon(Hub):
    """A daemon whose store is on a disk. `state`: the directory, where it is to be broken; keys and sockets are elsewhere,
    so that clients can connect whatever happens to it. `ordinary`: run by an ordinary user, whom permissions bind."""

    def __init__(self, state=None, ordinary=False, policies=POLICIES, extra=None, **options):
        self.given, self.ordinary, self.policies, self.extra = state, ordinary, policies, extra or {}
        super().__init__(policies, **options)

    def prepare(self, config):
        self.state = self.given or self.directory / "state"
        keys = self.directory / "keys"
        keys.mkdir()
        config += write_keys(self, keys)
        self.environment |= {"WSHUBD_STATE__STORE": "sled", "WSHUBD_STATE__DIRECTORY": str(self.state), **self.extra}
        if self.given is None:
            self.state.mkdir(mode=0o700)
        if self.ordinary:
            self.before = ["setpriv", f"--reuid={ORDINARY_USER}", f"--regid={ORDINARY_USER}", "--clear-groups"]
            for path in (self.directory, self.state, keys, *keys.iterdir()):
                os.chown(path, ORDINARY_USER, ORDINARY_USER)
        return config

    def read_keys(self):
        """They were ours to give."""

    def health(self):
        """The status of `/healthz` and the reason that it gives, if any."""
        answer = self.http("GET", "/healthz")
        return answer.status, answer.json().get("reason", "")

    def until_healthy(self, within):
        """Waits until the store works again, by itself; how long that took."""
        began = time.monotonic()
        while True:
            status, reason = self.health()
            if status == 200:
                return time.monotonic() - began
            assert time.monotonic() - began < within, f"still {status} after {within:.0f} s: {reason}; {self.logged()}"
            time.sleep(0.05)

    def until_unhealthy(self, within):
        """Waits until it reports that the store does not work; its reason."""
        end = time.monotonic() + within
        while True:
            status, reason = self.health()
            if status == 503:
                assert reason, "/healthz is 503 and says no reason"
                return reason
            assert time.monotonic() < end, f"/healthz is still {status} after {within:.0f} s of trouble: {self.logged()}"
            time.sleep(0.05)


def write_keys(door, directory):
    """Gives a daemon a key and a secret of ours; the lines of its configuration that name them."""
    door.key, door.secret = b"k" * 64, "s" * 40
    for name, content in (("jwt.key", door.key), ("broadcast.secret", door.secret.encode())):
        (directory / name).write_bytes(content)
        (directory / name).chmod(0o600)
    # The table that was begun last is `[store]`: this begins another one.
    return f"""[auth]
keys = [{{ alg = "HS256", file = "{directory}/jwt.key" }}]
broadcast_secrets = ["{directory}/broadcast.secret"]
publish = ["*", "@user:*"]
"""


def data_of(message_id):
    """The data of a message follows from its name, so that a changed one is detected without a record of it."""
    size = 2 ** (zlib.crc32(message_id.encode()) % 13)
    return (message_id + " ") * (size // (len(message_id) + 1) + 1)


class Log:
    """One channel or inbox. All positions ever received are recorded: none may stand for two messages."""

    def __init__(self, name, target, limit):
        # `limit`: how many later messages may push one out; less than the daemon's own count.
        self.name, self.target, self.limit, self.lock = name, target, limit, threading.Lock()
        self.published, self.published_at = {}, {}
        # Undelivered: message ids whose answer was `stored`, or `kept`.
        self.stored, self.kept = {}, {}
        self.answered_stored = self.times_heard = 0
        # (epoch, seq) -> message id, and the other way round.
        self.places, self.seqs = {}, {}
        self.settled = set()

    def send(self, message_id, durable):
        """Notes a message before it is sent; the request."""
        with self.lock:
            self.published[message_id], self.published_at[message_id] = len(self.published), time.monotonic()
        request = {**self.target, "event": "e", "message_id": message_id, "data": data_of(message_id)}
        return {**request, "durable": True} if durable else request

    def promised(self, message_id, stored):
        with self.lock:
            self.answered_stored += stored
            if message_id not in self.settled:
                (self.stored if stored else self.kept)[message_id] = True

    def receive(self, epoch, got):
        """Checks one message; its id."""
        message_id, place = got["message_id"], (epoch, got["seq"])
        assert message_id in self.published, f"{self.name}: nobody said {message_id}"
        same(got["data"], data_of(message_id), f"{self.name}: {message_id} has changed on its way")
        with self.lock:
            before = self.places.setdefault(place, message_id)
            assert before == message_id, f"{self.name}: seq {got['seq']} of epoch {epoch} is both {before} and {message_id}"
            seq = self.seqs.setdefault((epoch, message_id), got["seq"])
            assert seq == got["seq"], f"{self.name}: {message_id} stands at {seq} and at {got['seq']} of epoch {epoch}"
            self.times_heard += 1
        return message_id

    def settle(self, message_ids):
        """The hub owes these no longer."""
        with self.lock:
            for message_id in message_ids:
                self.settled.add(message_id)
                self.stored.pop(message_id, None)
                self.kept.pop(message_id, None)

    def owed(self):
        """What must be delivered to the next reader: promised, and neither settled nor perhaps evicted."""
        with self.lock:
            self._drop_pushed_out(self.stored)
            self._drop_pushed_out(self.kept)
            return {**self.stored, **self.kept}

    def _drop_pushed_out(self, promised):
        for message_id in [m for m in promised if len(self.published) - self.published[m] > self.limit]:
            del promised[message_id]

    def crashed(self, cutoff):
        """What was only kept, and not long enough before the crash to be on the disk, is promised no longer."""
        with self.lock:
            for message_id in [m for m in self.kept if self.published_at[m] > cutoff]:
                del self.kept[message_id]

    def in_order(self):
        """Checks that each connection's messages stand in the order in which it sent them, in every epoch."""
        last = {}
        for (epoch, seq), message_id in sorted(self.places.items()):
            speaker, number = message_id.rsplit("/", 1)
            before, where = last.get((epoch, speaker), (0, 0))
            assert before < int(number), f"{self.name}, epoch {epoch}: {message_id} stands at {seq}, behind {speaker}/{before} at {where}"
            last[epoch, speaker] = int(number), seq


def runs(numbers):
    """Numbers that ascend, as text: those in a row by the first and the last of them."""
    ranges = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{first} to {last}" if first < last else str(first) for first, last in ranges)


class Reader:
    """A reader of one log that connects, receives, and leaves. `wanted`: ids that must be received on this visit."""

    def __init__(self, door, log, rng, user):
        self.door, self.log, self.rng, self.user = door, log, rng, user
        self.epoch, self.last = "", 0

    def visit(self, until, wanted=()):
        """Reads until the moment has come, and, where something is wanted, not longer than until all of it is there."""
        self.left, self.last, self.gaps = set(wanted), 0, []
        with self.connect() as wire:
            self.arrive(wire)
            while (rest := until - time.monotonic()) > 0 and not (wanted and not self.left):
                try:
                    self.frame(wire, wire.next(rest))
                except Silence:
                    break
            self.leave(wire)
        assert not self.left, (
            f"{self.log.name}: lost, though promised: {len(self.left)} of {len(wanted)}, such as {self.describe(self.left)}; in the order in which "
            f"they were said, those are {runs(n for n, m in enumerate(sorted(wanted, key=self.log.published.get)) if m in self.left)}; told to be lost: {self.gaps}"
        )

    def describe(self, left):
        now = time.monotonic()
        return [f"{m} ({'stored' if m in self.log.stored else 'kept'}, said {now - self.log.published_at[m]:.1f} s ago)" for m in sorted(left)[:3]]

    def connect(self):
        return self.door.connect(self.user)

    def frame(self, wire, got):
        if got["type"] == "message":
            message_id = self.log.receive(self.epoch, got)
            assert got["seq"] > self.last or self.begins_again(got["seq"]), f"{self.log.name}: {got['seq']} came after {self.last} on one connection"
            self.last = got["seq"]
            self.left.discard(message_id)
            self.message(wire, got)
        elif got["type"] == "gap":
            self.gaps.append({name: got.get(name) for name in ("from_seq", "to_seq", "cause")})
        elif got["type"] != "connection_id":
            raise AssertionError(f"{self.log.name}: unexpected {got}")

    def begins_again(self, seq):
        """Whether a second reading may begin here."""
        return False

    def arrive(self, wire):
        pass

    def message(self, wire, got):
        pass

    def leave(self, wire):
        pass


class Device(Reader):
    """A device of a user that acknowledges, now and then, a part of what it received."""

    def __init__(self, *arguments, acknowledging=0.2):
        super().__init__(*arguments)
        self.acknowledging, self.here = acknowledging, []

    def connect(self):
        return self.door.connect(self.user, path="/ws?inbox=ack")

    def arrive(self, wire):
        self.epoch, self.here, self.unread = wire.hello["inbox"]["epoch"], [], []
        waiting = wire.hello["inbox"]["waiting"]
        assert waiting >= len(self.left), f"{self.log.name}: {waiting} wait, {len(self.left)} are owed, such as {self.describe(self.left)}"

    def frame(self, wire, got):
        if got["type"] == "gap" and got["cause"] == "evicted":
            self.unread.append((got["from_seq"], got["to_seq"]))
        super().frame(wire, got)

    def begins_again(self, seq):
        """What lay on a disk that could not be read comes when it can, and all behind it again: once for each gap."""
        ranges = [gap for gap in self.unread if gap[0] <= seq <= gap[1]]
        self.unread = [gap for gap in self.unread if gap not in ranges]
        return bool(ranges)

    def message(self, wire, got):
        self.here.append((got["seq"], got["message_id"]))
        if self.rng.random() < self.acknowledging:
            self.acknowledge(wire, self.rng.choice(self.here)[0])

    def acknowledge(self, wire, seq):
        # From here on it may be dropped, whether the ack reaches the hub or not.
        self.log.settle(m for s, m in self.here if s <= seq)
        self.here = [(s, m) for s, m in self.here if s > seq]
        wire.send({"action": "ack", "epoch": self.epoch, "seq": seq})


class ChannelSubscriber(Reader):
    """A subscriber of a channel that keeps undelivered messages: what it has received is settled. So is what its connection
    was given in
    the moment of a crash, whether that arrived or not: what the daemon's socket has taken is promised no longer."""

    def visit(self, until, wanted=()):
        try:
            super().visit(until, wanted)
        except GONE:
            self.log.settle(self.log.owed())
            raise
        except AssertionError as e:
            if torn(e):
                self.log.settle(self.log.owed())
            raise

    def arrive(self, wire):
        wire.send({"action": "subscribe", "channel": self.log.target["channel"]})
        self.epoch = wire.receive("subscription_succeeded")["epoch"]

    def message(self, _, got):
        self.log.settle([got["message_id"]])

    def leave(self, wire):
        """Reads to the end of it, so that nothing that its socket took stays unread."""
        try:
            wire.send({"action": "unsubscribe", "channel": self.log.target["channel"]})
        except ConnectionError:
            pass  # what came before the end can be read all the same
        while (got := wire.next())["type"] != "unsubscribe_succeeded":
            self.frame(wire, got)


class HistoryFollower(Reader):
    """Reads a history from its position, or all of it; detects whether anything was missed."""

    position = ("", 0)

    def visit(self, until, wanted=()):
        if wanted:
            self.position = ("", 0)
        super().visit(until, wanted)

    def arrive(self, wire):
        epoch, seq = self.position
        wire.send({"action": "subscribe", "channel": self.log.target["channel"], "since": {"epoch": epoch, "seq": seq}})
        got = wire.receive("subscription_succeeded")
        self.epoch, self.gap_due, self.reported = got["epoch"], not got["recovered"] and epoch != "", []
        # Behind the position requested, or, in another epoch, behind the first message received.
        self.last_place = seq if got["recovered"] and epoch else None

    def frame(self, wire, got):
        if got["type"] == "gap":
            self.gap_due = False
            self.reported.append((got.get("from_seq", 0), got.get("to_seq", 2**53)))
        elif got["type"] == "message":
            assert not self.gap_due, f"{self.log.name}: recovered: false, and no gap before {got}"
            if self.last_place is not None:
                unreported = [s for s in range(self.last_place + 1, got["seq"]) if not any(a <= s <= b for a, b in self.reported)]
                assert not unreported, f"{self.log.name}: {got['seq']} came after {self.last_place}, and no gap tells of {unreported[:3]}: {self.reported}"
            self.last_place, self.position = got["seq"], (self.epoch, got["seq"])
        super().frame(wire, got)


class Publisher:
    """Sends numbered messages to the logs, over a connection of its own, until it is stopped or the connection is gone."""

    def __init__(self, door, logs, rng, name, durable, figures, going):
        self.door, self.logs, self.rng, self.name, self.durable = door, logs, rng, name, durable
        self.figures, self.going, self.numbers, self.waiting = figures, going, {}, {}

    def run(self):
        link = self.open()
        try:
            while self.going():
                self.publish(link, [self.next() for _ in range(round(BURST ** self.rng.random()))])
                time.sleep(self.rng.uniform(0, 0.03))
        finally:
            link.close()

    def next(self):
        log = self.rng.choice(self.logs)
        self.numbers[log] = self.numbers.get(log, 0) + 1
        message_id, durable = f"{self.name}-{log.name}/{self.numbers[log]}", self.rng.random() < self.durable
        self.waiting[message_id] = log, durable, time.monotonic()
        return {**log.send(message_id, durable), "id": message_id}

    def answered(self, answer):
        log, durable, since = self.waiting.pop(answer["id"])
        took = time.monotonic() - since
        self.figures.most("longest wait of a durable publisher" if durable else "longest wait of another", took)
        if answer["type"] == "error":
            assert durable and answer["code"] == "store_unavailable", f"{answer['id']}: {answer}"
            self.figures.count("store_unavailable")
            return
        assert not answer.get("duplicate"), f"never said before: {answer}"
        if durable and answer["kept"]:
            assert answer["stored"], f"durable and kept, answered without error, and not stored: {answer}"
        if answer["kept"]:
            log.promised(answer["id"], answer["stored"])
        self.figures.count("answered stored" if answer["stored"] else "answered kept" if answer["kept"] else "answered heard")


class PipelinedPublisher(Publisher):
    """Bursts of lines on the worker socket; answers that wait for the disk may overtake nothing and be overtaken."""

    def open(self):
        return self.door.worker()

    def publish(self, worker, requests):
        worker.sock.settimeout(ANSWERED_WITHIN)
        worker.send(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
        while self.waiting:
            answer = worker.next(ANSWERED_WITHIN)
            if answer is None or answer["type"] == "bye":
                raise Closed(None, "end of the worker's stream")
            self.answered(answer)


class WsPublisher(Publisher):
    """The same over a WebSocket."""

    def open(self):
        return self.door.connect(self.name)

    def publish(self, wire, requests):
        for request in requests:
            wire.send({"action": "send", **request})
        while self.waiting:
            answer = wire.next(ANSWERED_WITHIN)
            self.answered({**answer, "type": "ok"} if answer["type"] == "send_success" else answer)


class HttpPublisher(Publisher):
    """One request after the other over HTTP."""

    class Nothing:
        def close(self):
            pass

    def open(self):
        return self.Nothing()

    def publish(self, _, requests):
        for request in requests:
            request_id = request.pop("id")
            self.waiting[request_id] = (*self.waiting[request_id][:2], time.monotonic())
            got = self.door.post("/broadcast", request)
            assert got.status in (200, 503), f"{request_id}: {got}"
            self.answered({**got.json(), "id": request_id, "type": "ok" if got.status == 200 else "error"})


class Figures:
    def __init__(self):
        self.figures, self.lock = {}, threading.Lock()

    def count(self, name, amount=1):
        with self.lock:
            self.figures[name] = self.figures.get(name, 0) + amount

    def most(self, name, seconds):
        with self.lock:
            self.figures[name] = max(self.figures.get(name, 0.0), seconds)

    def __getitem__(self, name):
        return self.figures.get(name, 0)

    def __str__(self):
        return ", ".join(f"{k} {f'{v:,}' if isinstance(v, int) else f'{v * 1000:,.0f} ms'}" for k, v in sorted(self.figures.items()))


class Workload:
    """All publishers and readers of a round. What one of them finds ends the run; the end of a connection is no finding once
    `crashing` is set."""

    def __init__(self):
        self.threads, self.failure, self.crashing, self.leaving = [], None, threading.Event(), threading.Event()

    def going(self):
        return not (self.leaving.is_set() or self.crashing.is_set() or self.failure)

    def start(self, *bodies):
        for body in bodies:
            self.threads.append(threading.Thread(target=self._guard, args=(body,), daemon=True))
            self.threads[-1].start()

    def _guard(self, body):
        try:
            body()
        except Exception as e:  # whatever it is, it is the finding
            if not (self.crashing.is_set() and isinstance(e, (*GONE, AssertionError)) and torn(e)):
                self.failure = self.failure or e

    def join(self):
        end = time.monotonic() + ANSWERED_WITHIN + 20
        for thread in self.threads:
            thread.join(max(0.1, end - time.monotonic()))
            assert not thread.is_alive(), "somebody waits for ever"
        if self.failure:
            raise self.failure


def torn(e):
    """Whether this is nothing but the end of a link; helpers that wait for a frame wrap it in a sentence."""
    return not isinstance(e, AssertionError) or isinstance(e.__context__, GONE)
