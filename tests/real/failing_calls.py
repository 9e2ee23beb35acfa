"""Fault injection below the store: failing system calls, full and read-only file systems, damaged files.

Each fault can be undone again. `failing_calls.c` is the library that makes the calls fail.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import random
import shutil
import subprocess
import threading
import time
from pathlib import Path

from kept_messages import ORDINARY_USER
from ws_client import Silence

HERE = Path(__file__).resolve().parent
KINDS = {"write": 1, "sync": 2, "open": 4, "name": 8, "read": 16}


class Layout(ctypes.Structure):
    """The same as in failing_calls.c."""

    _fields_ = [(name, ctypes.c_int) for name in ("armed", "kinds", "error", "ignored")]
    _fields_ += [(name, ctypes.c_long) for name in ("at", "times", "count", "failed", "sick", "start", "end")]


class FailingCalls:
    """Which calls on files under a directory fail; can be changed while the program runs."""

    def __init__(self, directory, under):
        library, file = HERE / "out/failing_calls.so", Path(directory) / "failing"
        source = HERE / "failing_calls.c"
        if not library.exists() or library.stat().st_mtime < source.stat().st_mtime:
            library.parent.mkdir(exist_ok=True)
            subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        file.write_bytes(bytes(ctypes.sizeof(Layout)))
        file.chmod(0o666)
        with open(file, "r+b") as shared:
            self.plan = Layout.from_buffer(mmap.mmap(shared.fileno(), 0))
        self.environment = {"LD_PRELOAD": str(library), "FAILING_PLAN": str(file), "FAILING_UNDER": str(under)}

    def arm(self, kind, at, error, times=1):
        """The `at`-th call of this kind from now on fails; `times=0`: all from there on."""
        self.plan.armed = 0
        self.plan.kinds, self.plan.error, self.plan.at, self.plan.times = KINDS[kind], getattr(errno, error), at, times
        self.plan.count = self.plan.failed = 0
        self.plan.armed = 1

    def mend(self):
        self.plan.armed = 0

    def spoil(self, file, at, size):
        """So many bytes of a file cannot be read any more; what is copied of it can."""
        self.plan.start, self.plan.end, self.plan.sick = at, at + size, os.stat(file).st_ino

    @property
    def failed(self):
        return self.plan.failed


class Mounted:
    """A file system of its own, for an ordinary user; needs root. `kind`: "tmpfs", or "ext4" in a file."""

    def __init__(self, directory, kind, size):
        self.at, self.kind = Path(directory), kind
        self.at.mkdir(parents=True, exist_ok=True)
        if kind == "tmpfs":
            self._run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.at)
        else:
            self.image = self.at.with_suffix(".image")
            with open(self.image, "wb") as file:
                file.truncate(size)
            self._run("mkfs.ext4", "-q", "-F", "-m", "0", self.image)
            self._run("mount", "-o", "loop", self.image, self.at)
        os.chown(self.at, ORDINARY_USER, ORDINARY_USER)
        self.at.chmod(0o700)

    def _run(self, *command):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr.strip()} (this suite has to be run by root)"

    def remount(self, options):
        self._run("mount", "-o", f"remount,{options}", self.at)

    def freeze(self):
        """Makes it read-only for all that is opened from now on, while files of it are open for writing."""
        self._run("mount", "--bind", self.at, self.at)
        self._run("mount", "-o", "remount,bind,ro", self.at)

    def thaw(self):
        self._run("umount", "-l", self.at)

    @contextlib.contextmanager
    def frozen(self):
        """A write to it, or a change of a name, blocks without end."""
        self._run("fsfreeze", "-f", self.at)
        try:
            yield
        finally:
            self._run("fsfreeze", "-u", self.at)

    def free(self):
        state = os.statvfs(self.at)
        return state.f_bavail * state.f_frsize

    def fill(self, leave):
        """Uses all but so many bytes, by a file of another user."""
        with open(self.at / "filler", "wb") as filler:
            while (more := min(1 << 16, self.free() - leave)) > 0:
                filler.write(bytes(more))
                filler.flush()

    def empty(self):
        (self.at / "filler").unlink()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        while subprocess.run(["umount", "-l", self.at], capture_output=True).returncode == 0:
            pass  # it may be frozen
        if self.kind != "tmpfs":
            self.image.unlink()


class LiveTraffic:
    """Traffic that has nothing to do with the store, all the time; its longest delay."""

    def __init__(self, hub):
        self.over, self.failure, self.longest, self.received = threading.Event(), None, 0.0, 0
        self.wire, self.worker = hub.subscriber("live", user="live"), hub.worker()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        number = 0
        try:
            while not self.over.is_set():
                number += 1
                sent_at = time.monotonic()
                self.worker.send({"channel": "live", "event": "e", "data": number, "ttl": 0})
                while self.wire.receive("message", within=20, channel="live")["data"] != number:
                    pass
                self.received, self.longest = number, max(self.longest, time.monotonic() - sent_at)
                time.sleep(0.01)
        except (AssertionError, OSError, Silence) as e:
            self.failure = e

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.over.set()
        self.thread.join(25)
        self.wire.close()
        self.worker.close()
        if kind is None:
            assert self.failure is None, f"live traffic stopped after {self.received} messages: {self.failure}"


def mutate(directory, rng: random.Random):
    """Damages one file somewhere below; what was done, for people."""
    files = sorted(path for path in Path(directory).rglob("*") if path.is_file())
    file = rng.choice(files)
    size, name = file.stat().st_size, file.relative_to(directory)
    ways = [_delete] if not size else [_flip, _flip, _flip, _truncate, _zero_tail, _zero_block, _garbage, _delete]
    return f"{rng.choice(ways)(file, size, rng)} {name} ({size} bytes)"


def _flip(file, size, rng):
    count = rng.choice([1, 1, 16, 200])
    with open(file, "r+b") as opened:
        for _ in range(count):
            at = rng.randrange(size)
            opened.seek(at)
            byte = opened.read(1)[0] ^ (1 << rng.randrange(8))
            opened.seek(at)
            opened.write(bytes([byte]))
    return f"{count} bits flipped in"


def _truncate(file, size, rng):
    length = rng.randrange(size)
    os.truncate(file, length)
    return f"truncated to {length}:"


def _zero_tail(file, size, rng):
    length = rng.randrange(size)
    os.truncate(file, length)
    os.truncate(file, size)
    return f"zeros from {length} on in"


def _zero_block(file, size, rng):
    at = rng.randrange(size) // 4096 * 4096
    with open(file, "r+b") as opened:
        opened.seek(at)
        opened.write(bytes(min(4096, size - at)))
    return f"a block of zeros at {at} in"


def _garbage(file, size, rng):
    with open(file, "ab") as opened:
        opened.write(rng.randbytes(rng.choice([1, 100, 5000])))
    return "garbage at the end of"


def _delete(file, _, __):
    file.unlink()
    return "deleted"


def copy_of(directory, to):
    """A copy with its owners, in place of what was there."""
    shutil.rmtree(to, ignore_errors=True)
    subprocess.run(["cp", "-a", directory, to], check=True)
