"""Faults of a running daemon: each is provoked here and undone again.

The expectations meanwhile are those of the suites.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from failing_calls import Mounted
from daemon import BIN, free_port
from kept_messages import StoreDaemon
from load_generators import children_of
from harness import eventually

POLICIES = """
[[channel]]
match = "@me"
count = 1000
disk = "behind"
[[channel]]
match = "history:stop"
keep = "history"
count = 300
disk = "stop"
[[channel]]
match = "history*"
keep = "history"
count = 1000
disk = "behind"
[[channel]]
match = "*"
keep = "undelivered"
count = 1000
disk = "behind"
"""
# How long a start that has to fail may take to do so.
FAILS_WITHIN = 15


class FaultyDaemon(StoreDaemon):
    """Its address stands in its configuration file, which another start or a hand-over reads anew."""

    def __init__(self, memory="128MiB", store="64MiB", flash="0", state=None, policies=POLICIES, first=False):
        # `first`: on a machine on which it never ran, so that nobody has made its runtime directory.
        self.limit, self.first = int(memory[:-3]) << 20, first
        policies += f'[limits]\nrequests_per_second = 100000\nburst = 100000\nmemory = "{memory}"\n'
        super().__init__(state, policies=policies + f'[store]\nbytes = "{store}"\nflash_budget = "{flash}"\n')

    def prepare(self, config):
        self.text = super().prepare(config)
        del self.environment["WSHUBD_LISTEN__HTTP"]
        if not self.first:
            self.worker_path.parent.mkdir(mode=0o700)
        return self._at(self.port)

    def _at(self, port):
        return f'{self.text}[listen]\nhttp = ["127.0.0.1:{port}"]\n'

    def listen_at(self, port):
        """Writes another address into the configuration; nobody reads it yet."""
        (self.directory / "wshubd.toml").write_text(self._at(port))

    def hand_over(self):
        self.process.send_signal(signal.SIGUSR2)

    def stats(self):
        with self.worker() as worker:
            return worker.ask({"action": "stats"})

    def rest(self, within=10):
        """Waits until all that is kept is written; the stats then."""
        end = time.monotonic() + within
        while (stats := self.stats())["unstored_bytes"]:
            assert time.monotonic() < end, f"{stats['unstored_bytes']} bytes are not written after {within} s: {self.health()}"
            time.sleep(0.05)
        return stats

    def signal_child(self, number):
        pids = children_of(self.process.pid)
        for pid in pids:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
        return pids

    def second(self, own_state):
        """Another daemon beside this one: with the same state directory, or with its own and the same worker socket. What
        it ended with, or None where it went on; it is over after this."""
        directory = Path(tempfile.mkdtemp(prefix="wshub-second-"))
        file, text = directory / "wshubd.toml", f'{self.text}[listen]\nhttp = ["127.0.0.1:{free_port()}"]\n'
        environment = dict(self.environment)
        if own_state:
            environment["WSHUBD_STATE__DIRECTORY"] = str(directory / "state")
        else:
            environment["XDG_RUNTIME_DIR"] = str(directory)
        file.write_text(text)
        process = subprocess.Popen([str(BIN / "wshubd"), "--config", str(file)], env=environment, stdout=self.log, stderr=self.log)
        try:
            return process.wait(FAILS_WITHIN if own_state else 2)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return None
        finally:
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def taken_port():
    """An address with another listener."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def start_that_fails(hub, port):
    """Starts it on an occupied address: it has to exit."""
    hub.listen_at(port)
    try:
        hub.start(healthy=False)
    except AssertionError as e:
        assert "ended at start" in str(e), str(e)
    else:
        raise AssertionError("it started on a port that is taken")
    finally:
        hub.listen_at(hub.port)


def hand_over_that_fails(hub, port, within=10):
    """A hand-over onto a port that is taken. Whether the daemon goes on as it was; else it has ended."""
    hub.listen_at(port)
    hub.hand_over()
    try:
        eventually(f"a word about port {port} in the log", lambda: f":{port}" in hub.logged(), within)
        hub.process.wait(1)
        return False
    except subprocess.TimeoutExpired:
        return True
    finally:
        hub.listen_at(hub.port)


class Disk(Mounted):
    """A small ext4 of its own, which can be full, or frozen: then a write blocks until it is thawed."""

    def __init__(self, size):
        directory = Path(tempfile.mkdtemp(prefix="wshub-disk-"))
        super().__init__(directory / "disk", "ext4", size)
        self.directory, self.is_frozen = directory, False
        self.state = self.at / "state"
        self.state.mkdir(mode=0o700)

    def suspend(self):
        self._run("fsfreeze", "--freeze", self.at)
        self.is_frozen = True

    def resume(self):
        self.is_frozen = False
        self._run("fsfreeze", "--unfreeze", self.at)

    def __exit__(self, *failure):
        if self.is_frozen:
            self.resume()
        super().__exit__(*failure)
        shutil.rmtree(self.directory, ignore_errors=True)
