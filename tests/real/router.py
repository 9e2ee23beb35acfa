"""A simulated router: BusyBox for a userland, and a procd that starts, signals and ends the programs of init scripts.

The recipe for OpenWrt's build system installs into the router's tree; procd acts on the requests of the init script. The
tree is mounted in a mount namespace, which a suite has to be in: see `alone`.
"""

import ctypes
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from daemon import BIN, HubClient, ended, free_port
from harness import eventually

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RECIPE = ROOT / "packaging/openwrt"
PR_SET_NO_NEW_PRIVS = 38
# Of this machine.
MOUNTED = [place for place in ("usr/lib", "usr/lib64", "proc", "dev/null", "dev/urandom") if Path("/", place).exists()]


def alone():
    """Begins the program again in a mount namespace of its own, unless it is in one."""
    if os.geteuid() != 0:
        sys.exit("this suite mounts a router's directories and changes users: it needs root")
    if os.environ.get("ROUTER_IS_ALONE") != "yes":
        os.environ["ROUTER_IS_ALONE"] = "yes"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, *sys.argv])


class Instance:
    """A program that procd runs: its parameters, its process, and what it has written to stderr."""

    def __init__(self, root, parameters, log):
        self.root, self.parameters, self.log = root, parameters, log
        self.process, self.timer, self.is_halted, self.starts = None, None, False, 0
        self.start()

    def start(self):
        self.starts += 1
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        environment.update(pair.split("=", 1) for pair in self.parameters.get("env", []))
        self.process = subprocess.Popen(
            self.parameters["command"], env=environment, preexec_fn=self._become, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        threading.Thread(target=self._follow, args=(self.process,), daemon=True).start()

    def _become(self):
        os.chroot(self.root)
        os.chdir("/")
        for limit in self.parameters.get("limits", []):
            name, values = limit.split("=", 1)
            soft, hard = map(int, values.split())
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
        group, user = self._number("group"), self._number("passwd")
        os.setgroups([group])
        os.setgid(group)
        os.setuid(user)
        if self.parameters.get("no_new_privs") == ["1"]:
            ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)

    def _number(self, table):
        """Of the user or the group that is named, in the router's own table."""
        name = self.parameters["user" if table == "passwd" else "group"][0]
        lines = Path("/etc", table).read_text().splitlines()
        return next(int(line.split(":")[2]) for line in lines if line.startswith(f"{name}:"))

    def _follow(self, process):
        for line in process.stderr:
            self.log.append(line.rstrip("\n"))
        process.wait()
        if not self.is_halted and "respawn" in self.parameters:
            self.timer = threading.Timer(float(self.parameters["respawn"][1]), self.start)
            self.timer.start()

    def halt(self):
        self.is_halted = True
        if self.timer:
            self.timer.cancel()
        self.process.terminate()
        try:
            self.status = self.process.wait(float(self.parameters.get("term_timeout", ["5"])[0]))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.status = self.process.wait()


class Procd:
    """A procd: carries out the requests of init scripts, one at a time."""

    def __init__(self, root):
        self.root, self.instances, self.log, self.stopped = root, {}, [], {}
        place = root / "tmp/procd"
        place.mkdir()
        self.ask, self.answer = place / "ask", place / "answer"
        for pipe in (self.ask, self.answer):
            os.mkfifo(pipe)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            lines = [line.split("\t") for line in self.ask.read_text().splitlines()]
            done = self._do(lines)
            self.answer.write_text("yes\n" if done else "no\n")

    def _do(self, lines):
        (_, name), (verb, *words) = lines[0], lines[-1]
        instance = self.instances.get(name)
        if verb == "set":
            fields = {words[0]: words[1:] for kind, *words in lines[1:-1] if kind == "param"}
            if instance and instance.parameters == fields:
                return True
            self._halt(name)
            if fields:
                self.instances[name] = Instance(self.root, fields, self.log)
        elif verb == "delete":
            self._halt(name)
        elif verb == "signal" and instance:
            instance.process.send_signal(int(words[1]))
        elif verb == "running":
            return bool(instance) and instance.process.poll() is None
        return bool(instance) or verb == "set"

    def _halt(self, name):
        instance = self.instances.pop(name, None)
        if instance:
            instance.halt()
            self.stopped[name] = instance.status


class Router(HubClient):
    """BusyBox, what the recipe installs, and a procd."""

    def __init__(self):
        self.tree, self.port = Path(tempfile.mkdtemp(prefix="router-")), free_port()
        self.tree.chmod(0o755)
        for place in ("bin", "usr/bin", "etc/rc.d", "tmp/run"):
            (self.tree / place).mkdir(parents=True)
        (self.tree / "var").symlink_to("tmp")
        (self.tree / "tmp").chmod(0o1777)
        busybox = shutil.which("busybox")
        shutil.copy(busybox, self.tree / "bin/busybox")
        subprocess.run([busybox, "--install", "-s", self.tree / "bin"], check=True)
        for link in (self.tree / "bin").iterdir():
            if link.is_symlink():
                link.unlink()
                link.symlink_to("busybox")
        shutil.copy(HERE / "router/rc.common", self.tree / "etc/rc.common")
        (self.tree / "etc/rc.common").chmod(0o755)
        shutil.copy(HERE / "router/procd.sh", self.tree / "etc/procd.sh")
        self._mount()
        self.syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.syslog.bind(str(self.tree / "dev/log"))
        self.syslog.settimeout(5)
        self.control_fields = self._install()
        self.procd = Procd(self.tree)

    def _mount(self):
        # A daemon that is not static asks for a C library, which is not the router's.
        for name in ("lib", "lib64"):
            (self.tree / name).symlink_to(f"usr/{name}")
        for place in MOUNTED:
            (self.tree / place).parent.mkdir(parents=True, exist_ok=True)
            if Path("/", place).is_dir():
                (self.tree / place).mkdir()
            else:
                (self.tree / place).touch()
            subprocess.run(["mount", "--rbind", f"/{place}", self.tree / place], check=True)

    def _install(self):
        """By the recipe, with the programs built already; its package data."""
        build = self.tree / "tmp/build"
        made = subprocess.run(
            ["make", "--no-print-directory", "-C", RECIPE, f"TOPDIR={HERE}/router", f"BUILD_DIR={build}",
             f"DESTDIR={self.tree}", f"WSHUBD_PREBUILT={BIN}"],
            capture_output=True, text=True,
        )
        assert made.returncode == 0, made.stderr
        shutil.rmtree(build)
        fields = dict(line.split(": ", 1) for line in made.stdout.splitlines() if ": " in line)
        user, group = (pair.split("=") for pair in fields["user"].split(":"))
        (self.tree / "etc/passwd").write_text(f"root:x:0:0::/root:/bin/sh\n{user[0]}:x:{user[1]}:{group[1]}::/:/bin/false\n")
        (self.tree / "etc/group").write_text(f"root:x:0:\n{group[0]}:x:{group[1]}:\n")
        self.owner = (int(user[1]), int(group[1]))
        self.configure("10-port", f'[listen]\nhttp = ["127.0.0.1:{self.port}"]\n')
        return fields

    def configure(self, name, text):
        (self.tree / f"etc/wshubd/conf.d/{name}.toml").write_text(text)

    def unconfigure(self, name):
        (self.tree / f"etc/wshubd/conf.d/{name}.toml").unlink()

    def run(self, *command):
        return subprocess.run(
            ["chroot", self.tree, *command], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def init(self, action):
        """As an administrator types it."""
        return self.run("/etc/init.d/wshubd", action)

    def ctl(self, *arguments):
        return self.run("/usr/bin/wshubctl", *arguments)

    def instance(self):
        return self.procd.instances.get("wshubd")

    def pid(self):
        return self.instance().process.pid

    def is_ready(self):
        try:
            ready = self.http("GET", "/healthz").status == 200
        except OSError:
            return False
        if ready:
            state = self.tree / "etc/wshubd/state"
            self.key = (state / "jwt.key").read_bytes().strip()
            self.secret = (state / "broadcast.secret").read_text().strip()
        return ready

    def start(self):
        started = self.init("start")
        assert started.returncode == 0, started.stderr
        eventually(lambda: f"it serves: {self.procd.log}", self.is_ready)

    def exit_code(self):
        """None: procd looks after what it runs."""
        return None

    def logged(self):
        return "\n".join(self.procd.log[-10:])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.instance():
            self.init("stop")
        assert all(ended(i.process.pid) for i in self.procd.instances.values())
        for place in MOUNTED:
            subprocess.run(["umount", "--lazy", "--recursive", self.tree / place], check=True)
        subprocess.run(["rm", "-rf", "--one-file-system", self.tree], check=True)
