"""Load generators in processes of their own: workers that write as fast as they are read, bursts, many inboxes; and a
pulse that measures how long other requests wait meanwhile.

They use the worker socket, and reconnect after every fault.
"""

import json
import multiprocessing
import os
import random
import select
import signal
import socket
import time
from pathlib import Path

from daemon import ended

PROCESSES = multiprocessing.get_context("fork")
# A daemon that is killed ends the connection; the next one is tried again so soon.
AGAIN = 0.01


def line_of(target, size, **fields):
    return json.dumps({**target, "event": "e", "data": "x" * size, **fields}, separators=(",", ":")).encode() + b"\n"


def block_of(target, size, most):
    """Lines of one kind, as many as fit."""
    line = line_of(target, size)
    return line * max(1, most // len(line))


def saturating(channel, size, most, pause):
    """One block after the other; `pause` in between."""
    block = block_of({"channel": channel}, size, most)
    while True:
        yield block, pause


def repeated(block):
    while True:
        yield block, 0


def bursts(channel, size, lines):
    block = line_of({"channel": channel}, size) * lines
    while True:
        yield block, 0.03


def inboxes(count, size, seed):
    """A line to each of so many users, in an order of its own, 400 at once."""
    users = list(range(count))
    random.Random(seed).shuffle(users)
    while True:
        for first in range(0, count, 400):
            yield b"".join(line_of({"user_id": f"user{n:06d}"}, size) for n in users[first : first + 400]), 0.002


def _speak(path, make, arguments):
    blocks = make(*arguments)
    while True:
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.connect(path)
                link.settimeout(20)
                for block, pause in blocks:
                    link.sendall(block)
                    _drop_answers(link)
                    if pause:
                        time.sleep(pause)
        except (OSError, EOFError):
            time.sleep(AGAIN)


def _drop_answers(link):
    """None was requested; refusals come all the same, and would fill the connection."""
    while select.select([link], [], [], 0)[0]:
        if not link.recv(1 << 20):
            raise EOFError


class Loads:
    """So many publishers, each a process; over when they are stopped."""

    def __init__(self, path, parts):
        self.processes = [PROCESSES.Process(target=_speak, args=(str(path), make, arguments), daemon=True) for make, *arguments in parts]
        for process in self.processes:
            process.start()

    def stop(self):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()


def waited(pid):
    """Seconds in which a process could run and had no processor: the machine's fault, not its own."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def resident(pid):
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def written(pid):
    """Bytes that a process has written to files."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("wchar"):
            return int(line.split()[1])
    raise AssertionError(f"the kernel does not count what {pid} writes")


def children_of(pid):
    try:
        pids = [int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [pid for pid in pids if not ended(pid)]


class Pulse:
    """One message without subscribers, every 10 ms, and an answer to each; the memory of the daemon, every 100 ms."""

    def __init__(self, hub):
        self.here, there = PROCESSES.Pipe()
        # The daemon that is started again is another process: its pid is passed through shared memory.
        self.pid = PROCESSES.Value("i", hub.process.pid)
        self.process = PROCESSES.Process(target=self._run, args=(str(hub.worker_path), there), daemon=True)
        self.process.start()
        there.close()

    def _run(self, path, suite):
        self.figures = {"longest": 0.0, "at": 0.0, "answers": 0, "memory": 0, "resident": 0, "children": 0, "level": 0}
        while not suite.poll(0):
            try:
                with socket.socket(socket.AF_UNIX) as link:
                    link.connect(path)
                    link.settimeout(30)
                    self._beat(link, suite)
            except (OSError, EOFError):
                time.sleep(AGAIN)
        suite.send(self.figures)

    def _beat(self, link, suite):
        number, lines, figures = 0, link.makefile("rb"), self.figures
        while not suite.poll(0):
            number += 1
            is_request = number % 10 == 0
            request = {"action": "stats"} if is_request else {"channel": "pulse", "event": "e", "ttl": 0}
            before, sent_at = waited(self.pid.value) + waited("self"), time.monotonic()
            link.sendall(json.dumps({**request, "id": number}).encode() + b"\n")
            line = lines.readline()
            if not line:
                raise EOFError
            took = time.monotonic() - sent_at - max(0.0, waited(self.pid.value) + waited("self") - before)
            # A daemon that begins takes connections before it answers.
            if number > 1 and took > figures["longest"]:
                figures["longest"], figures["at"] = took, sent_at
            figures["answers"] += 1
            stats = json.loads(line) if is_request else {}
            if stats.get("type") == "ok":  # one that is stopping has no figures
                self._measure(stats)
            time.sleep(0.01)

    def _measure(self, stats):
        figures, pid = self.figures, self.pid.value
        figures["memory"] = max(figures["memory"], stats["memory_bytes"])
        figures["level"] = max(figures["level"], stats["memory_level"])
        figures["resident"] = max(figures["resident"], resident(pid))
        figures["children"] = max(figures["children"], len(children_of(pid)))

    def stop(self):
        """What was measured."""
        self.here.send("over")
        assert self.here.poll(40), "the daemon has not answered a pulse for 40 s"
        figures = self.here.recv()
        self.process.join(5)
        return figures

    def kill(self):
        self.process.kill()
        self.process.join()


class SlowChild:
    """Lets the process that owns the disk run for a share of the time only."""

    def __init__(self, hub, share, period=0.02):
        self.process = PROCESSES.Process(target=self._run, args=(hub.process.pid, share, period), daemon=True)
        self.process.start()

    @staticmethod
    def _run(daemon, share, period):
        while True:
            for pid in children_of(daemon):
                _signal(pid, signal.SIGSTOP)
            time.sleep(period * (1 - share))
            for pid in children_of(daemon):
                _signal(pid, signal.SIGCONT)
            time.sleep(period * share)

    def stop(self, hub):
        self.process.kill()
        self.process.join()
        for pid in hub.children():
            _signal(pid, signal.SIGCONT)


def _signal(pid, number):
    try:
        os.kill(pid, number)
    except OSError:
        pass
