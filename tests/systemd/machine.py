"""A machine with systemd as its PID 1, and wshubd on it as a package would install it.

The lab boots such a machine; files are installed where the package puts them. The suite itself runs in the machine's
network, so 127.0.0.1 is the machine's; its files are seen through /proc. Everything is waited for, without sleeps.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/real"))

from daemon import HubClient  # noqa: E402
from harness import eventually  # noqa: E402

BIN = Path(os.environ["WSHUBD_BIN"])
LAB = os.environ["SYSTEMD_LAB"]
# A machine of two cores that does other things as well; nothing waits so long unless something is wrong.
PATIENCE = 20.0
UNITS = ["wshubd.service", "wshubd.socket", "wshubd-worker.socket"]


class Machine(HubClient):
    port = 8098

    def __init__(self):
        self.find_root()
        self.install()
        self.ctl("enable", "--now", "wshubd.socket", "wshubd-worker.socket")
        self.ctl("enable", "--now", "wshubd.service")
        self.read_keys()

    def install(self):
        """What a package does: files, the group, and systemd reads its units again."""
        for program in ("wshubd", "wshubctl"):
            self.copy(BIN / program, f"/usr/bin/{program}")
        for unit in [*UNITS, "wshub-run@.service"]:
            self.copy(ROOT / "systemd" / unit, f"/usr/lib/systemd/system/{unit}")
        self.copy(ROOT / "systemd/wshubd.sysusers", "/usr/lib/sysusers.d/wshubd.conf")
        self.run("systemd-sysusers")
        self.ctl("daemon-reload")

    def copy(self, source, target):
        subprocess.run([LAB, "copy", str(source), target], check=True, capture_output=True)

    def path(self, path):
        """A file of the machine, as this process sees it."""
        return self.root / str(path).lstrip("/")

    def write(self, path, text, mode=0o644):
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def drop_in(self, text, unit="wshubd.service", name="test"):
        """What `systemctl edit` does; without text, it is taken away again."""
        directory = self.path(f"/etc/systemd/system/{unit}.d")
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{name}.conf"
        file.write_text(text) if text else file.unlink(missing_ok=True)
        self.ctl("daemon-reload")

    def run(self, *command, check=True, **options):
        """A command of the machine, as root, to its end."""
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run([LAB, "exec", "--", *command], capture_output=True, text=True, timeout=90, **options)
        assert not check or done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def start(self, *command, **options):
        """The same, while this goes on."""
        return subprocess.Popen([LAB, "exec", "--", *command], text=True, **options)

    def ctl(self, *arguments, **options):
        return self.run("systemctl", *arguments, **options)

    def show(self, name, unit="wshubd.service"):
        return self.run("systemctl", "show", "-P", name, unit).stdout.strip()

    def main(self):
        """The daemon's pid on the machine."""
        pid = int(self.show("MainPID"))
        assert pid > 0, f"the daemon does not run: {self.logged()}"
        return pid

    def signal(self, name, pid=None):
        # By its path: the shell that the lab runs commands with has a `kill` of its own, and is not on the machine.
        self.run("/usr/bin/kill", f"-{name}", str(pid or self.main()))

    def children(self):
        """The processes that own the disk for it."""
        pid = self.main()
        return [int(child) for child in self.path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def reboot(self):
        """Starts the machine anew. Its network is another one then, where this process is not."""
        subprocess.run([LAB, "reboot"], check=True, capture_output=True)
        self.find_root()

    def find_root(self):
        pid = subprocess.run([LAB, "pid"], check=True, capture_output=True, text=True).stdout.strip()
        self.root = Path(f"/proc/{pid}/root")

    def journal(self, *arguments, unit="wshubd"):
        """The unit's entries as objects, oldest first, those of systemd about it too."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "-u", unit, "-o", "json", "--no-pager", *arguments).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def daemon_log(self, *arguments):
        """The lines of the daemon itself since its last start: (priority, text)."""
        invocation = self.show("InvocationID")
        entries = self.journal(f"_SYSTEMD_INVOCATION_ID={invocation}", *arguments)
        return [(int(e["PRIORITY"]), e["MESSAGE"]) for e in entries if e.get("_COMM") == "wshubd"]

    def status_until(self, wanted, within=PATIENCE):
        def look():
            self.seen = self.show("StatusText")
            return self.seen if wanted in self.seen else None

        return eventually(lambda: f"{wanted!r} in the status; it is {self.seen!r}", look, within)

    def is_active(self):
        return self.show("ActiveState") == "active"

    def read_keys(self):
        state = self.path("/var/lib/private/wshubd")
        self.key = (state / "jwt.key").read_bytes().strip()
        self.secret = (state / "broadcast.secret").read_text().strip()

    @contextlib.contextmanager
    def configured(self, text):
        """Runs with another configuration, and afterwards without."""
        self.write("/etc/wshubd/wshubd.toml", text)
        self.ctl("restart", "wshubd")
        try:
            yield
        finally:
            self.fresh()

    @contextlib.contextmanager
    def edited(self, text):
        """Runs with a drop-in, and afterwards without."""
        self.drop_in(text)
        self.ctl("restart", "wshubd")
        try:
            yield
        finally:
            self.fresh()

    def fresh(self):
        """As after installing it: no configuration, no drop-in, running."""
        self.drop_in("")
        self.path("/etc/wshubd/wshubd.toml").unlink(missing_ok=True)
        self.ctl("stop", *UNITS)
        self.ctl("reset-failed", check=False)
        self.ctl("start", *UNITS)

    def exit_code(self):
        """None, as of a process that runs: it is systemd that looks after the daemon."""
        return None

    def logged(self):
        return "\n".join(str(e["MESSAGE"]) for e in self.journal()[-12:])

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.ctl("stop", *UNITS)
            result, failed = self.show("Result"), self.ctl("--failed", "--plain", "--no-legend").stdout
            assert result == "success" and not failed.strip(), f"{result}; failed units: {failed}"
