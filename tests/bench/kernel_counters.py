"""Counters of the kernel for processes, files and disks, from /proc and /sys.

`Device` needs root, `Syncs` needs strace; `why_not` of each names what is missing.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path


def tree(pid):
    """A process and all that it started, as far as they live."""
    try:
        children = "".join((task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        children = ""
    return [pid] + [one for child in children.split() for one in tree(int(child))]


def number(path, name):
    """The number of a line such as `VmHWM:  1234 kB`; 0 without such a line, or without the process."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), 0)


def written(pid):
    """Bytes that a process and all that it started had written to disks: pages that they made dirty, whole pages, but not
    what the file system writes for itself. The kernel adds those that have ended to the process that waited for them."""
    return sum(number(f"/proc/{one}/io", "write_bytes") for one in tree(pid))


def switches(pid):
    """How often their threads went to sleep by themselves, which is how often they woke up."""
    tasks = [task for one in tree(pid) for task in Path(f"/proc/{one}/task").iterdir()]
    return sum(number(task / "status", "voluntary_ctxt_switches") for task in tasks)


def private(pid):
    """Bytes of one process that nobody shares and no file has."""
    return number(f"/proc/{pid}/smaps_rollup", "Private_Dirty") * 1024


def resident(pid):
    """The most that one process ever had in memory, shared pages and those of files included."""
    return number(f"/proc/{pid}/status", "VmHWM") * 1024


def used(directory):
    """Bytes that a directory and all in it take on the disk."""
    blocks = 0
    for place, _, files in os.walk(directory):
        for path in (place, *(os.path.join(place, file) for file in files)):
            try:
                blocks += os.lstat(path).st_blocks
            except FileNotFoundError:  # put away under our eyes
                pass
    return blocks * 512


def file_system(path):
    """What kind of file system a path is on."""
    path, best = os.path.realpath(path), ("", "?")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, kind = line.split(" - ")[0].split(), line.split(" - ")[1].split()[0]
        mount = fields[4].rstrip("/")
        if (path + "/").startswith(mount + "/") and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


class Watch:
    """Looks again and again, on a thread of its own, and keeps the most that it saw of each thing."""

    def __init__(self, look, every):
        self.look, self.every, self.most, self.over = look, every, {}, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self):
        while not self.over.is_set():
            for name, value in self.look().items():
                self.most[name] = max(self.most.get(name, 0), value)
            self.over.wait(self.every)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Device:
    """A disk of one's own, in a file: whatever is written to it was caused by us, the journal of its file system included."""

    def __init__(self, size=512 << 20):
        self.size, self.place = size, Path(tempfile.mkdtemp(prefix="wshub-disk-"))
        self.mount, self.why_not = self.place / "mount", None

    def __enter__(self):
        image = self.place / "image"
        with open(image, "wb") as file:
            file.truncate(self.size)
        self.mount.mkdir()
        try:
            # Nothing is left for later, when it would be counted.
            self._call("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image))
            self._call("mount", "-o", "loop,noatime", str(image), str(self.mount))
        except (OSError, subprocess.CalledProcessError) as e:
            self.why_not = str(getattr(e, "stderr", "") or e).strip()
            return self
        device = os.stat(self.mount).st_dev
        self.counts = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        return self

    @staticmethod
    def _call(*command):
        environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment)

    def written(self):
        """Bytes that reached it, after whatever was still in memory has."""
        handle = os.open(self.mount, os.O_RDONLY)
        ctypes.CDLL(None).syncfs(handle)
        os.close(handle)
        # Sectors, whatever those of the device are.
        return int(self.counts.read_text().split()[6]) * 512

    def __exit__(self, *_):
        if self.why_not is None:
            self._call("umount", str(self.mount))
        shutil.rmtree(self.place, ignore_errors=True)


class Syncs:
    """How often a process and those that it starts have the disk write down what they were given: fsync and fdatasync, by
    strace, which slows them down. The process that owns a daemon's disk is replaced now and then: so the daemon is traced
    as well."""

    def __init__(self, pid):
        self.pid, self.count, self.why_not = pid, None, None

    def __enter__(self):
        if not shutil.which("strace"):
            self.why_not = "there is no strace"
            return self
        self.output = tempfile.NamedTemporaryFile(mode="r", prefix="wshub-strace-")
        command = ["strace", "-f", "-c", "-qq", "-e", "trace=fsync,fdatasync", "-o", self.output.name]
        command += [word for pid in tree(self.pid) for word in ("-p", str(pid))]
        self.strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 5
        while not self._is_attached():
            if self.strace.poll() is not None or time.monotonic() > end:
                self.strace.kill()
                self.why_not = self.strace.communicate()[1].strip() or "strace does not begin"
                return self
            time.sleep(0.01)
        return self

    def _is_attached(self):
        tasks = (task for pid in tree(self.pid) for task in Path(f"/proc/{pid}/task").iterdir())
        return all(number(task / "status", "TracerPid") for task in tasks)

    def __exit__(self, *_):
        if self.why_not is not None:
            return
        self.strace.send_signal(signal.SIGINT)
        self.strace.communicate(timeout=10)
        rows = [line.split() for line in self.output.read().splitlines()]
        # % time, seconds, µs a call, calls, errors where there are any, name
        self.count = sum(int(row[3]) for row in rows if row and row[-1] in ("fsync", "fdatasync"))
