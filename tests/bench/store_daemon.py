"""A daemon with a disk, configured so that a figure means one thing, and the waits until it is at rest."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "real"))
import kernel_counters  # noqa: E402
from daemon import Hub  # noqa: E402

KIB, MIB = 1 << 10, 1 << 20
DATA = b"x" * 300
# No ping is due while anything is measured, and no budget slows writing down.
ALIKE = {"HEARTBEAT__PING_INTERVAL": "30m", "HEARTBEAT__PONG_TIMEOUT": "31m", "STORE__FLASH_BUDGET": 0}
# A quarter of it can be messages: more than any part has.
ROOM_FOR_ALL = {"STORE__BYTES": "512MiB"}
# A disk that others write to as well stalls for seconds.
PATIENCE = 20


class Store(Hub):
    """A daemon with a disk, perhaps on another one than the rest of it."""

    def __init__(self, place=None, **options):
        self.elsewhere = place and {"STATE__DIRECTORY": str(place)}
        super().__init__(**{**ALIKE, **(self.elsewhere or {}), **options})

    @property
    def state(self):
        return Path(self.elsewhere["STATE__DIRECTORY"]) if self.elsewhere else self.directory / "wshubd"

    def read_keys(self):
        self.key = (self.state / "jwt.key").read_bytes().strip()

    def _wait_until_ready(self, _):
        """Waits for the line `started`; polled at a rate that costs a busy machine little."""
        lines, end = self.directory / "log", time.monotonic() + 30
        while lines.read_bytes().count(b"started: ") < self.starts:
            assert self.process.poll() is None and time.monotonic() < end, f"wshubd does not begin: {self.logged()}"
            time.sleep(0.002)

    def start(self, *options):
        self.starts = getattr(self, "starts", 0) + 1
        super().start(*options)

    def room(self):
        return kernel_counters.used(self.state / "store")

    def written(self):
        return kernel_counters.written(self.process.pid)

    def until(self, is_so, within=60):
        """Waits until the statistics are so."""
        end = time.monotonic() + within
        with self.worker() as worker:
            while not is_so(stats := worker.ask({"action": "stats"})):
                assert time.monotonic() < end, f"still not so after {within} s: {stats}"
                time.sleep(0.05)
        return stats

    def until_written(self, within=60):
        return self.until(lambda stats: stats["unstored_bytes"] == 0, within)

    def until_alone(self, within=60):
        """Until the process that owns the disk has ended."""
        end = time.monotonic() + within
        while self.children():
            assert time.monotonic() < end, f"{self.children()} still own the disk after {within} s"
            time.sleep(0.1)

    def take(self, user):
        """Reads the inbox of a user as a page does: connects, receives all of it, and leaves; the number of messages."""
        with self.connect(user) as wire:
            return take(wire)


def take(wire):
    """Receives all that waits for a new connection; the number of messages."""
    inbox, taken, seq = wire.hello["inbox"], 0, 0
    while inbox["waiting"] and seq < inbox["seq"]:
        got = wire.next(within=PATIENCE)
        taken += got["type"] == "message"
        # Messages evicted during the read are a gap.
        seq = got.get("to_seq") or got.get("seq") or seq
    return taken


def line(user, durable=False, answered=False):
    return b'{"user_id":"%s","event":"bench","data":"%s"%s%s}\n' % (
        user.encode(), DATA, b',"durable":true' if durable else b"", b',"id":1' if answered else b"")


def is_stored(came):
    if not came.endswith(b"\n"):
        return False
    assert b'"stored":true' in came, f"not stored: {came[:300]!r}"
    return True


def durable(hub, bursts, of, inboxes=100):
    with hub.worker() as worker:
        for burst in range(bursts):
            worker.send(b"".join(line(f"away{(burst * of + n) % inboxes}", durable=True, answered=True) for n in range(of)))
            for _ in range(of):
                answer = worker.next(within=PATIENCE)
                assert answer.get("stored"), f"not stored: {answer}"
