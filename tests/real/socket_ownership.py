"""Worker sockets of other users, or without permission: what wshubctl reports, and what it never sends."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from daemon import BIN, Hub
from harness import case, run_cases, same

NOBODY = 65534
# A group that none of our users is in, and every system has.
GROUP = "daemon"

# Listens at a path, and prints what it receives; another user than ours runs it.
LISTEN = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen()
print("listens", flush=True)
while True:
    c, _ = s.accept()
    said = b""
    while chunk := c.recv(65536):
        said += chunk
    print(said, flush=True)
"""


def as_nobody(*command, **options):
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]


class ForeignListener:
    """Another user's socket, in a directory of that user's in /tmp."""

    def __init__(self, directory):
        self.directory = directory
        os.chown(directory, NOBODY, NOBODY)
        self.path = directory / "worker.sock"
        command = as_nobody(sys.executable, "-c", LISTEN, str(self.path))
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        same(self.process.stdout.readline(), "listens\n")

    def __enter__(self):
        return self

    def received(self):
        """The bytes of the next connection, once it has ended."""
        return self.process.stdout.readline()

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        shutil.rmtree(self.directory, ignore_errors=True)


def temporary():
    return Path(tempfile.mkdtemp(prefix="wshub-stranger-", dir="/tmp"))


def ctl(directory, *words, before=(), **variables):
    """`wshubctl` that looks into a directory, which nobody has named to it as wshubd's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WSHUBD_")}
    environment |= {"RUNTIME_DIRECTORY": str(directory), **variables}
    command = [*before, str(BIN / "wshubctl"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


COMMANDS = [
    ("pub", "logs", "secret"), ("sub", "logs"), ("interrupt", "secret"), ("operations",), ("status",), ("channels",),
    ("connections",), ("inbox", "secret"), ("disconnect", "secret"), ("purge", "secret"), ("reload",),
    ("token", "new", "--user", "secret"), ("token", "check", "secret"), ("run", "--linger", "1s", "logs", "--", "true"),
]


@case("a foreign socket in /tmp gets nothing and is named")
def stranger(_):
    with ForeignListener(temporary()) as it:
        for words in COMMANDS:
            done = ctl(it.directory, *words)
            same(it.received(), "b''\n", f"what {words} said to a stranger")
            if words[0] != "run":
                same(done.returncode, 4, f"{words}: {done.stderr}")
            for part in (str(it.path), str(it.directory), f"uid {NOBODY}", f"--socket {it.path}"):
                assert part in done.stderr or words[0] == "run", f"{words}: {part} is not in {done.stderr!r}"


@case("a foreign link in /tmp is not followed to a trusted socket")
def link(_):
    theirs = temporary()
    with ForeignListener(theirs) as it:
        place = temporary()
        try:
            (place / "worker.sock").symlink_to(it.path)
            done = ctl(place, "status")
            same(done.returncode, 4, done.stderr)
            assert str(theirs) in done.stderr, done.stderr
            same(it.received(), "b''\n")
        finally:
            shutil.rmtree(place)


@case("a socket named by option is used, also another user's")
def named(_):
    with ForeignListener(temporary()) as it:
        for words, variables in (
            (("--socket", str(it.path), "--wait", "200ms", "status"), {}),
            (("--wait", "200ms", "status"), {"WSHUBD_LISTEN__WORKER": str(it.path)}),
        ):
            done = ctl(it.directory, *words, **variables)
            same(done.returncode, 5, done.stderr)
            assert "stats" in it.received()


@case("a directory only its owner may write holds wshubd's socket")
def closed(_):
    outer = Path(tempfile.mkdtemp(prefix="wshub-closed-", dir="/run"))
    try:
        outer.chmod(0o755)
        inner = outer / "wshubd"
        inner.mkdir()
        with ForeignListener(inner) as it:
            done = ctl(inner, "--wait", "200ms", "status")
            same(done.returncode, 5, done.stderr)
            assert "stats" in it.received()
    finally:
        shutil.rmtree(outer, ignore_errors=True)


@case("own and root's daemons are found in /tmp by both users")
def own(hub):
    directory = hub.worker_path.parent
    same(ctl(directory, "status").returncode, 0)
    for path in (hub.directory, directory):
        path.chmod(0o755)
    hub.worker_path.chmod(0o666)
    done = ctl(directory, "pub", "logs", "x", before=as_nobody())
    same(done.returncode, 0, done.stderr)


@case("a reconnecting listener refuses a replaced foreign socket")
def replaced(_):
    place = temporary()
    listener = None
    try:
        with socket.socket(socket.AF_UNIX) as ours:
            ours.bind(str(place / "worker.sock"))
            ours.listen()
            environment = {**os.environ, "RUNTIME_DIRECTORY": str(place)}
            listener = subprocess.Popen(
                [str(BIN / "wshubctl"), "sub", "secret"], env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            connection, _ = ours.accept()
            assert b'"secret"' in connection.recv(65536)
            os.unlink(place / "worker.sock")
            with ForeignListener(place) as it:
                connection.close()
                same(listener.wait(30), 4)
                errors = listener.stderr.read()
                assert "is not used" in errors and f"uid {NOBODY}" in errors, errors
                same(it.received(), "b''\n")
    finally:
        if listener is not None:
            listener.kill()
            listener.wait()
            listener.stderr.close()
        shutil.rmtree(place, ignore_errors=True)


@case("a user without access reads owner, group and how to join")
def denied(hub):
    shown = hub.directory.stat().st_mode, hub.worker_path.parent.stat().st_mode, hub.worker_path.stat().st_mode
    try:
        for path in (hub.directory, hub.worker_path.parent):
            path.chmod(0o755)
        shutil.chown(hub.worker_path, group=GROUP)
        hub.worker_path.chmod(0o660)
        done = ctl(hub.worker_path.parent, "status", before=as_nobody())
        same(done.returncode, 4, done.stderr)
        expected = f"{hub.worker_path} belongs to root (uid 0) and the group {GROUP}, mode 0660, and you are nobody: `adduser nobody {GROUP}`"
        assert expected in done.stderr and "next login" in done.stderr, done.stderr
        hub.worker_path.parent.chmod(0o700)
        done = ctl(hub.worker_path.parent, "status", before=as_nobody())
        same(done.returncode, 4, done.stderr)
        assert f"{hub.worker_path.parent} belongs to root (uid 0) and the group root, mode 0700" in done.stderr, done.stderr
        assert "--socket" in done.stderr, done.stderr
    finally:
        for path, mode in zip((hub.directory, hub.worker_path.parent, hub.worker_path), shown):
            path.chmod(mode & 0o7777)


def as_root():
    assert os.geteuid() == 0, "this suite has sockets made by other users, and needs root"
    return Hub()


if __name__ == "__main__":
    run_cases(as_root)
