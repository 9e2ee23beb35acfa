"""Publishers that wait for each answer before the next request, and two other servers to publish to.

The servers are a plain log, which is the least that durability costs, and Redis. Each of them makes the promise of a
`durable` message: answered means on the disk.
"""

import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PATIENCE = 20


class Rate:
    """What came of a run."""

    def __init__(self, answers, seconds, waits):
        self.answers, self.seconds = answers, seconds
        self.a_second, waits = answers / seconds, sorted(waits)
        self.median, self.slow = (waits[int((len(waits) - 1) * part)] for part in (0.5, 0.99))


def publish(path, requests, is_answer, seconds):
    """As many publishers as `requests` has lists: each sends its requests in turn, again and again. Stops after so many
    seconds, when all are answered. `is_answer`: whether these bytes are a whole answer; raises where it is a refusal."""
    publishers, poll, waits = {}, select.epoll(), []

    def send(one):
        sock, turn, payloads, _, _ = one
        one[1], one[3], one[4] = (turn + 1) % len(payloads), b"", time.perf_counter()
        sock.sendall(payloads[turn])

    for payloads in requests:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(path))
        publishers[sock.fileno()] = [sock, 0, payloads, b"", 0.0]
        poll.register(sock, select.EPOLLIN)
    began = time.perf_counter()
    for one in publishers.values():
        send(one)
    waiting = len(publishers)
    while waiting:
        ready = poll.poll(PATIENCE)
        assert ready, f"{waiting} publishers wait for an answer for {PATIENCE} s"
        for descriptor, _ in ready:
            one = publishers[descriptor]
            came = one[0].recv(65536)
            assert came, "the server hung up"
            one[3] += came
            if not is_answer(one[3]):
                continue
            now = time.perf_counter()
            waits.append(now - one[4])
            if now - began < seconds:
                send(one)
            else:
                waiting -= 1
    took = time.perf_counter() - began
    for one in publishers.values():
        one[0].close()
    poll.close()
    return Rate(len(waits), took, waits)


def is_line(came):
    return came.endswith(b"\n")


class Log:
    """Appends requests to a file and syncs it, once for all that wait: nothing simpler can promise as much."""

    name, why_not = "append and fdatasync", None

    def __init__(self):
        self.directory = Path(tempfile.mkdtemp(prefix="wshub-log-"))
        self.path = self.directory / "socket"

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, __file__, str(self.path), str(self.directory / "log")])
        _until_there(self.path, self.process)
        return self

    @staticmethod
    def requests(target, data):
        return b"%s %s\n" % (target.encode(), data)

    is_answer = staticmethod(is_line)

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Redis:
    """One stream for each recipient."""

    name = "redis, appendfsync always"

    def __init__(self):
        self.why_not = None if shutil.which("redis-server") else "there is no redis-server"
        self.directory = Path(tempfile.mkdtemp(prefix="wshub-redis-"))
        self.path = self.directory / "socket"

    def __enter__(self):
        if self.why_not:
            return self
        options = {"port": 0, "unixsocket": self.path, "dir": self.directory, "appendonly": "yes", "appendfsync": "always",
                   "auto-aof-rewrite-percentage": 0, "save": "", "daemonize": "no"}
        command = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.process = subprocess.Popen(["redis-server", *command], stdout=subprocess.DEVNULL)
        _until_there(self.path, self.process)
        return self

    @staticmethod
    def requests(target, data):
        words = [b"XADD", target.encode(), b"*", b"event", b"bench", b"data", data]
        return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)

    @staticmethod
    def is_answer(came):
        assert came[:1] == b"$", f"redis refuses: {came[:200]!r}"
        return came.count(b"\n") == 2

    def __exit__(self, *_):
        if not self.why_not:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


def _until_there(path, process):
    end = time.monotonic() + 10
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, f"{process.args[0]} does not begin"
        time.sleep(0.01)


def serve_log(path, file):
    """The process of a `Log`."""
    door, poll, clients = socket.socket(socket.AF_UNIX), select.epoll(), {}
    door.bind(path + ".new")
    door.listen(128)
    os.rename(path + ".new", path)
    poll.register(door, select.EPOLLIN)
    log = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    while True:
        lines, waiting = [], []
        for descriptor, _ in poll.poll():
            if descriptor == door.fileno():
                client, _ = door.accept()
                clients[client.fileno()] = client
                poll.register(client, select.EPOLLIN)
            elif came := clients[descriptor].recv(65536):
                lines.append(came)
                waiting += [clients[descriptor]] if is_line(came) else []
            else:
                poll.unregister(descriptor)
                clients.pop(descriptor).close()
        if lines:
            os.writev(log, lines)
            os.fdatasync(log)
        for client in waiting:
            client.sendall(b"ok\n")


if __name__ == "__main__":
    serve_log(*sys.argv[1:])
