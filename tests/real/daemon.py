"""A daemon under test: its directory, its port, its keys, its worker socket, and clients for them.

Leaving the `with` block stops it by SIGTERM, and checks that it ended with exit code 0 and not before. A suite may also kill
it, or its store process, and start it again on the files that are left.
"""

import base64
import hashlib
import hmac
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from ws_client import PATIENCE, Silence, WsClient

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("WSHUBD_BIN", ROOT / "target/release"))


def free_port():
    """A port for a daemon that is about to start: none that the kernel gives to a connection meanwhile, and hardly one that
    a suite beside this one finds at the same moment."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(min(10_000, lowest - 1000), lowest)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def b64(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def mint(key, claims, alg="HS256", **header):
    """A JWT by hand, so that broken ones can be made too. `alg="none"` leaves the signature empty."""
    head = b64(json.dumps({"typ": "JWT", "alg": alg, **header}).encode())
    body = b64(json.dumps(claims).encode())
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}.get(alg)
    signature = b64(hmac.new(key, f"{head}.{body}".encode(), digest).digest()) if digest else ""
    return f"{head}.{body}.{signature}"


def ended(pid):
    """Whether a process is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {k.lower(): v for k, v in response.getheaders()}
        self.body = response.read()

    def json(self):
        try:
            return json.loads(self.body)
        except ValueError:
            raise AssertionError(f"HTTP {self.status} without JSON: {self.body[:200]!r}") from None

    def __repr__(self):
        return f"HTTP {self.status} {self.body[:200]!r}"


class Worker:
    """A line-speaking client of the worker socket."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))
        self.buffer = b""

    def send(self, line):
        """An object as one line, or bytes exactly as they are."""
        self.sock.sendall(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n")

    def next(self, within=PATIENCE):
        """The next line as an object; None at the end of the stream."""
        self.sock.settimeout(max(0.001, within))
        while b"\n" not in self.buffer:
            try:
                chunk = self.sock.recv(65536)
            except (TimeoutError, socket.timeout):
                raise Silence("no line came in time") from None
            if not chunk:
                assert not self.buffer, f"the daemon ended with half a line: {self.buffer[:80]!r}"
                return None
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def receive(self, kind, within=PATIENCE, **fields):
        seen, end = [], time.monotonic() + within
        while True:
            try:
                got = self.next(end - time.monotonic())
            except Silence as e:
                raise AssertionError(f"waited for {kind} {fields or ''}: {e}; came before: {seen[-4:]}") from None
            if got is None:
                raise AssertionError(f"waited for {kind}; the daemon closed; came before: {seen[-4:]}")
            if got.get("type") == kind and all(got.get(k) == v for k, v in fields.items()):
                return got
            seen.append(got)

    def ask(self, line, mark="w1"):
        self.send({**line, "id": mark})
        seen = []
        while True:
            try:
                got = self.next()
            except Silence as e:
                raise AssertionError(f"{line} was not answered: {e}; came: {seen[-4:]}") from None
            if got is None:
                raise AssertionError(f"{line}: the daemon closed; came: {seen[-4:]}")
            if got.get("id") == mark:
                return got
            seen.append(got)

    def half_close(self):
        self.sock.shutdown(socket.SHUT_WR)

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class HubClient:
    """A daemon as its clients see it, wherever it runs: a port of this machine, a key, a secret."""

    port = key = secret = None

    def token(self, user=None, ttl=3600, alg="HS256", key=None, **claims):
        """A token by the daemon's own key. `user=None`: without a user; `ttl=None`: without `exp`."""
        if user is not None:
            claims.setdefault("user_id", user)
        if ttl is not None:
            claims.setdefault("exp", int(time.time() + ttl))
        return mint(key or self.key, claims, alg)

    def connect(self, user="ann", token=None, established=True, headers=None, **options):
        """An authenticated connection, by header, with `connection_established` already read."""
        headers = dict(headers or {})
        if user is not None or token is not None:
            headers["Authorization"] = "Bearer " + (token or self.token(user))
        wire = WsClient(self.port, headers=headers, **options)
        if established:
            wire.hello = wire.receive("connection_established")
            wire.id = wire.hello["connection_id"]
        return wire

    def subscriber(self, *channels, user="ann", **options):
        wire = self.connect(user, **options)
        for channel in channels:
            wire.send({"action": "subscribe", "channel": channel})
            wire.receive("subscription_succeeded", channel=channel)
        return wire

    def http(self, method, path, body=None, headers=None, secret=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        headers = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        try:
            connection.request(method, path, body=body, headers=headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def post(self, path, body, **options):
        return self.http("POST", path, body, secret=options.pop("secret", self.secret), **options)


class Hub(HubClient):
    # A command that executes the daemon, such as `setpriv`.
    before = ()

    def __init__(self, config=None, healthy=True, **environment):
        """`environment`: settings as SECTION__KEY="value"; `config`: the text of a configuration file."""
        self.directory = Path(tempfile.mkdtemp(prefix="wshub-"))
        self.port = free_port()
        self.environment = {
            # Settings in the environment of the suite are not those of this daemon, and WSHUBD_BIN is no setting at all.
            **{name: value for name, value in os.environ.items() if not name.startswith("WSHUBD_")},
            "XDG_STATE_HOME": str(self.directory),
            "XDG_RUNTIME_DIR": str(self.directory),
            "WSHUBD_LISTEN__HTTP": json.dumps([f"127.0.0.1:{self.port}"]),
            **{f"WSHUBD_{name}": str(value) for name, value in environment.items()},
        }
        self.log = open(self.directory / "log", "w+b")
        self.worker_path = self.directory / "wshubd/worker.sock"
        config = self.prepare(config)
        self.start(config, healthy)

    def prepare(self, config):
        """What else the directory needs before the first start; the configuration to start with."""
        return config

    def start(self, config=None, healthy=True):
        """Starts the daemon on what its directory holds; again after `stop` or `kill`, with the same configuration where
        no other is given. `healthy=False` accepts one that serves and reports no store."""
        file = self.directory / "wshubd.toml"
        if config is not None:
            file.write_text(config)
            file.chmod(0o644)
        command = [*self.before, str(BIN / "wshubd"), *(["--config", str(file)] if file.exists() else [])]
        began = time.monotonic()
        self.process = subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log)
        self._wait_until_ready({200} if healthy else {200, 503})
        self.took = time.monotonic() - began
        self.read_keys()

    def read_keys(self):
        # The daemon makes a key only where none is configured.
        generated = self.directory / "wshubd/jwt.key"
        self.key = generated.read_bytes().strip() if generated.exists() else None
        self.secret = (self.directory / "wshubd/broadcast.secret").read_text().strip()

    def _wait_until_ready(self, statuses):
        end, reply = time.monotonic() + 10, "nothing"
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"wshubd ended at start with {self.process.returncode}: {self.logged()}")
            try:
                reply = self.http("GET", "/healthz")
                if reply.status in statuses and self.worker_path.exists():
                    return
            except OSError:
                pass
            time.sleep(0.01)
        self.process.kill()
        self.process.wait()
        raise AssertionError(f"wshubd was not ready within 10 s ({reply}): {self.logged()}")

    def children(self):
        """The processes that own the disk for it: one, or none while nothing is to be written or read."""
        try:
            pids = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        except OSError:
            return []
        return [int(pid) for pid in pids if not ended(int(pid))]

    def kill(self):
        """Ends it as a crash would: without a chance to finish anything."""
        self.process.kill()
        self.process.wait()

    def exit_code(self):
        """None while it runs."""
        return self.process.poll()

    def logged(self):
        self.log.flush()
        return (self.directory / "log").read_text(errors="replace")[-2000:]

    def worker(self):
        return Worker(self.worker_path)

    def ctl(self, *arguments, **options):
        """`wshubctl` to its end: its output, its status."""
        return subprocess.run(
            [str(BIN / "wshubctl"), *arguments], env=self.environment, capture_output=True, text=True,
            timeout=options.pop("timeout", 30), stdin=options.pop("stdin", subprocess.DEVNULL), **options,
        )

    def start_ctl(self, *arguments, environment=None, **options):
        return subprocess.Popen(
            [str(BIN / "wshubctl"), *arguments], env={**self.environment, **(environment or {})},
            stdin=options.pop("stdin", subprocess.DEVNULL), **options,
        )

    def memory(self):
        """Private bytes of the daemon, as the kernel counts them."""
        for line in Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no Private_Dirty in smaps_rollup")

    def stop(self):
        if self.process.poll() is not None:
            raise AssertionError(f"wshubd had ended with {self.process.returncode}: {self.logged()}")
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"wshubd did not stop within 15 s of SIGTERM: {self.logged()}") from None
        assert status == 0, f"wshubd stopped with {status}: {self.logged()}"

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self.stop()
            elif self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            else:
                print(f"# wshubd had ended with {self.process.returncode}: {self.logged()}", flush=True)
        finally:
            self.log.close()
            shutil.rmtree(self.directory, ignore_errors=True)
