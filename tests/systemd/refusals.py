"""Reasons of refusals: for a client behind nginx, each is found from the journal, `wshubctl status` and /metrics alone, and
once more from the answer to the client.

nginx runs as a child of this suite, in the machine's network, with the recipe of docs/proxies.md; clients have an address of
their own, so that a line about the proxy is none about them.
"""

import contextlib
import http.client
import json
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from machine import ROOT, Machine
from daemon import mint
from harness import case, eventually, run_cases, same
from ws_client import PATIENCE, Closed, WsClient

CLIENT, NAME, PORT = "127.0.0.77", "hub.example.org", 8080
# Of a proxy that an administrator got wrong.
WRONG = PORT + 1
MEMBER = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=wshub-worker")
CONFIGURED = f"""
[listen]
allowed_hosts = ["{NAME}"]
trusted_proxies = ["127.0.0.1"]

[auth]
audience = "wshub"
query_token = false
"""


class ProxiedMachine(Machine):
    """The machine, with the hub behind the proxy."""

    def __init__(self):
        super().__init__()
        self.configure()
        self.proxy = Nginx().__enter__()

    def configure(self, more=""):
        self.write("/etc/wshubd/wshubd.toml", CONFIGURED + more)
        self.ctl("restart", "wshubd")

    @contextlib.contextmanager
    def limited(self, more):
        """Runs with more in its configuration, and afterwards without."""
        self.configure(more)
        try:
            yield
        finally:
            self.configure()

    def __exit__(self, *how):
        self.proxy.__exit__(*how)
        super().__exit__(*how)


class RemoteClient(WsClient):
    """A client with an address of its own."""

    def dial(self, port, rcvbuf):
        sock = socket.create_connection(("127.0.0.1", port), PATIENCE, source_address=(CLIENT, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock


class Nginx:
    """In the foreground, in a directory of its own, with the recipe of the page; `change` is what an administrator got
    wrong."""

    def __init__(self, *change, port=PORT):
        self.port = port
        self.directory = Path(tempfile.mkdtemp(prefix="wshub-nginx-"))
        recipe = re.search(r"^```nginx\n(.*?)^```$", (ROOT / "docs/proxies.md").read_text(), re.M | re.S)[1]
        recipe = re.sub(r"^ *ssl_certificate.*\n", "", recipe, flags=re.M)
        for old, new in [("listen 443 ssl", f"listen 127.0.0.1:{port}"), *change]:
            assert old in recipe, f"{old!r} is not in the recipe any more"
            recipe = recipe.replace(old, new)
        scratch = "".join(f"{kind}_temp_path {self.directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        file = self.directory / "nginx.conf"
        file.write_text(f"daemon off;\nuser root;\nworker_processes 1;\npid {self.directory}/pid;\nerror_log {self.directory}/error.log;\n"
                        f"events {{}}\nhttp {{\naccess_log off;\n{scratch}{recipe}}}\n")
        program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
        assert program, "nginx is missing"
        self.process = subprocess.Popen([program, "-e", f"{self.directory}/error.log", "-c", file], stdin=subprocess.DEVNULL)

    def __enter__(self):
        eventually("nginx does not serve", self.serves)
        return self

    def serves(self):
        try:
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=5).connect()
            return True
        except OSError:
            return False

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)
        shutil.rmtree(self.directory, ignore_errors=True)


def ask(method="GET", path="/ws", headers=None, body=None, port=PORT):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15, source_address=(CLIENT, 0))
    try:
        connection.request(method, path, body=body, headers={"Host": NAME, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def upgrade(token=None, path="/ws", port=PORT, **headers):
    """A WebSocket's request through the proxy, with its answer."""
    wanted = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
              "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    if token:
        wanted["Authorization"] = f"Bearer {token}"
    return ask(path=path, headers={**wanted, **headers}, port=port)


def counted(hub):
    text = hub.http("GET", "/metrics", secret=hub.secret).body.decode()
    return {reason: int(count) for reason, count in re.findall(r'^wshubd_refused_total\{reason="(\w+)"\} (\d+)$', text, re.M)}


@contextlib.contextmanager
def refused_and_logged(hub, reason, *words, times=1):
    """One more refusal for a reason, and none for another; one line of the daemon that has all `words`."""
    before, lines = counted(hub), len(hub.daemon_log())
    yield
    def moved():
        after = counted(hub)
        return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}
    eventually(lambda: f"{reason} is not counted: {moved()}", lambda: moved() == {reason: times})
    new = eventually("no line in the journal", lambda: hub.daemon_log()[lines:])
    line = [text for priority, text in new if priority == 4 and all(word in text for word in words)]
    same(len(line), 1, f"lines with {words} in {new}")
    status = hub.run("wshubctl", "status").stdout
    assert re.search(rf"{reason}\b.*\b{before.get(reason, 0) + times}\b", status), f"{reason} in {status}"


def signed(hub, key=None, **claims):
    header = {name: claims.pop(name) for name in ("kid",) if name in claims}
    return mint(key or hub.key, {"sub": "ann", "exp": int(time.time()) + 3600, "aud": "wshub", **claims}, **header)


@case("a proxy that forwards no Host")
def host(hub):
    with Nginx(("proxy_set_header Host $http_host;", "proxy_set_header Host hub_backend;"), port=WRONG):
        with refused_and_logged(hub, "host", CLIENT, "hub_backend", "allowed_hosts"):
            status, body = upgrade(signed(hub), port=WRONG)
    same((status, body["code"]), (403, "forbidden"), body)


@case("a page of another origin")
def origin(hub):
    with refused_and_logged(hub, "origin", CLIENT, "https://app.example.com", "allowed_origins"):
        status, body = upgrade(signed(hub), Origin="https://app.example.com")
    assert status == 403 and '"https://app.example.com"' in body["message"], body


@case("a proxy that forwards no Upgrade")
def no_upgrade(hub):
    with Nginx(("    proxy_set_header Upgrade $http_upgrade;\n", ""), ("    proxy_set_header Connection $connection_upgrade;\n", ""),
               port=WRONG):
        with refused_and_logged(hub, "no_upgrade", CLIENT, "proxy", "Upgrade"):
            status, body = upgrade(signed(hub), port=WRONG)
    same((status, body["code"]), (426, "bad_request"), body)


@case("a token that is expired, not yet valid, or invalid")
def tokens(hub):
    now = int(time.time())
    for reason, token, words in [
        ("token_expired", signed(hub, exp=now - 60), ("ended at", '"ann"')),
        ("token_not_yet", signed(hub, nbf=now + 600), ("begins at", '"ann"')),
        ("token_audience", signed(hub, aud="account"), ('"account"', "[auth] audience", '"wshub"')),
        ("token_key", mint(b"x" * 64, {"sub": "ann"}, "HS512"), ("HS512", "there is HS256")),
        ("token_signature", signed(hub, key=b"another key that nobody has configured"), ("signature", "HS256")),
        ("token_claims", signed(hub, sub=None), ("user_id", "sub")),
        ("token_malformed", "a-session-id", ("not a token",)),
    ]:
        with refused_and_logged(hub, reason, CLIENT, *words):
            status, body = upgrade(token)
        same((status, body["type"]), (401, "error"), reason)


@case("a token in the URL where query_token = false")
def query(hub):
    with refused_and_logged(hub, "token_query", CLIENT, "query_token"):
        status, body = upgrade(path=f"/ws?token={signed(hub)}")
    assert status == 401 and "URL" in body["message"], body


@case("a revoked user")
def revoked(hub):
    token = signed(hub, sub="eve", iat=int(time.time()) - 5)
    hub.run("wshubctl", "disconnect", "--revoke", "eve")
    with refused_and_logged(hub, "token_revoked", CLIENT, '"eve"', "revoked"):
        status, body = upgrade(token)
    same((status, body["code"]), (401, "token_revoked"), body)


@case("a page that never authenticates")
def nobody(hub):
    with hub.limited('\n[limits]\nauth_timeout = "1s"\n'):
        with refused_and_logged(hub, "token_missing", CLIENT, "auth_timeout"):
            wire = RemoteClient(PORT, path="/ws", host=NAME)
            wire.receive("auth_required")
            try:
                wire.next()
            except Closed as end:
                same(end.code, 4001)


@case("a back end with a missing or wrong secret, or a wrong path")
def secrets(hub):
    for reason, header, words in [
        ("secret_missing", {}, ("broadcast secret",)),
        ("secret_wrong", {"Authorization": "Bearer not-the-right-one"}, ("broadcast_secrets",)),
        ("secret_scheme", {"Authorization": f"Basic {hub.secret}"}, ("Basic",)),
    ]:
        with refused_and_logged(hub, reason, CLIENT, *words):
            status, body = ask("POST", "/broadcast", header, "{}")
        same((status, body["type"]), (401, "error"), reason)
        assert hub.secret not in hub.logged()
    with refused_and_logged(hub, "not_found", CLIENT, "/socket.io"):
        same(ask(path="/socket.io/?EIO=4")[0], 404)
    with refused_and_logged(hub, "method", CLIENT, "POST"):
        same(ask("PUT", "/broadcast")[0], 405)


@case("a hub with all connections taken")
def full(hub):
    with hub.limited("\n[limits]\nconnections = 2\n"):
        with hub.connect(token=signed(hub)), hub.connect(token=signed(hub)):
            with refused_and_logged(hub, "overloaded", CLIENT, "[limits] connections"):
                status, body = upgrade(signed(hub))
            same((status, body["code"]), (503, "overloaded"), body)


@case("a worker of a user that is not allowed")
def worker(hub):
    with hub.limited("\n[worker]\nallow = [1]\n"):
        with refused_and_logged(hub, "worker", "65534", "[worker] allow"):
            done = hub.run(*MEMBER, "wshubctl", "pub", "jobs", "let me in", check=False)
        assert done.returncode == 4 and "uid 65534" in done.stderr, done


run_cases(ProxiedMachine)
