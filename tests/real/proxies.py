"""The hub behind nginx, HAProxy and Caddy, each with the configuration that docs/proxies.md shows.

The recipes are taken from the page verbatim. The suite adds the ports, the certificate's files, and around them what a proxy
needs that runs in a directory of its own as a child of this process. Clients use TLS and check the name; their address is
another one of loopback than the proxies', so that the hub can tell the two apart.
"""

import http.client
import http.server
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from daemon import ROOT, Answer, Hub, free_port
from harness import case, eventually, run_cases, same
from ws_client import PATIENCE, Closed, Refused, Silence, WsClient

NAME = "hub.example.org"
# Trusted is 127.0.0.1 alone.
CLIENT = "127.0.0.77"
# Of a proxy that stands before another.
FIRST = "127.0.0.78"
PAGE = (ROOT / "docs/proxies.md").read_text()


def recipe(kind):
    """The one block of the page that is marked so."""
    found = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)
    assert len(found) == 1, f"docs/proxies.md has {len(found)} blocks of {kind}"
    return found[0]


def put(text, *pairs):
    """Puts something else into a recipe; all of it must be there."""
    for old, new in pairs:
        assert old in text, f"{old!r} is not in the recipe any more"
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy that runs in the foreground in a directory of its own. `hub` is the port behind it; `change`: the differences of
    a case from the page."""

    def __init__(self, hub, change=()):
        self.directory = Path(tempfile.mkdtemp(prefix="wshub-proxy-"))
        self.port, self.hub = free_port(), hub
        self.log = open(self.directory / "log", "w+b")
        arguments = self.prepare(lambda text: put(text, *change))
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=self.directory,
            env={"PATH": os.environ["PATH"], "HOME": str(self.directory)},
        )
        eventually(self.failure, self.serves, 15)

    @property
    def name(self):
        return type(self).__name__

    def failure(self):
        self.log.flush()
        return f"{self.name} does not serve: {(self.directory / 'log').read_text(errors='replace')[-1500:]}"

    def serves(self):
        assert self.process.poll() is None, self.failure()
        try:
            self.dial().close()
            return True
        except (OSError, ssl.SSLError):
            return False

    def write(self, name, text):
        path = self.directory / name
        path.write_text(text)
        return path

    def certificate(self):
        """A certificate of the test's own, and its key."""
        made, key = self.directory / "cert.pem", self.directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}", "-out", made, "-keyout", key],
            check=True, capture_output=True,
        )
        return made, key

    def root(self):
        """What vouches for its name."""
        return self.directory / "cert.pem"

    def dial(self):
        context = ssl.create_default_context(cafile=str(self.root()))
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE, source_address=(CLIENT, 0))
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return context.wrap_socket(sock, server_hostname=NAME)
        except BaseException:
            sock.close()
            raise

    def http(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(NAME, timeout=15)
        connection.sock = self.dial()
        try:
            connection.request(method, path, body=body, headers=headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def connect(self, token=None, path="/ws", headers=None, **options):
        """A WebSocket of a page of that name, past its greeting."""
        headers = {"Origin": f"https://{NAME}", **(headers or {})}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        wire = ProxiedClient(self, path, headers, host=NAME, **options)
        wire.hello = wire.receive("connection_established")
        wire.id = wire.hello["connection_id"]
        return wire

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class ProxiedClient(WsClient):
    """A client beyond a proxy."""

    def dial(self, proxy, _):
        return proxy.dial()


class Nginx(Proxy):
    def prepare(self, change):
        made, key = self.certificate()
        text = put(
            recipe("nginx"),
            ("listen 443 ssl", f"listen 127.0.0.1:{self.port} ssl"),
            ("/etc/ssl/certs/hub.example.org.pem", str(made)),
            ("/etc/ssl/private/hub.example.org.key", str(key)),
            ("    location / {", recipe("nginx-prefix") + "    location / {"),
            ("127.0.0.1:8098", f"127.0.0.1:{self.hub}"),
        )
        self.write("hub.conf", change(text))
        # Its child must reach this directory, which is ours alone.
        user = "user root;" if os.geteuid() == 0 else ""
        places = "".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        around = f"{user} pid pid; events {{}} http {{ access_log off; {places} include {self.directory}/hub.conf; }}"
        config = self.write("nginx.conf", f"daemon off; error_log {self.directory}/error.log; {around}")
        return ["nginx", "-p", str(self.directory), "-e", str(self.directory / "error.log"), "-c", str(config)]


class HAProxy(Proxy):
    def prepare(self, change):
        made, key = self.certificate()
        pair = self.write("pair.pem", made.read_text() + key.read_text())
        text = put(
            recipe("haproxy"),
            ("bind :443", f"bind 127.0.0.1:{self.port}"),
            ("/etc/haproxy/hub.example.org.pem", str(pair)),
            ("    option forwardfor\n", "    option forwardfor\n" + recipe("haproxy-prefix")),
            ("127.0.0.1:8098", f"127.0.0.1:{self.hub}"),
        )
        place = f"global\n    stats socket {self.directory}/admin mode 600\n"
        return ["haproxy", "-db", "-f", str(self.write("haproxy.cfg", place + change(text)))]

    def server(self):
        """What it knows of the hub: by the names of its own table."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(str(self.directory / "admin"))
            sock.sendall(b"show stat\n")
            output = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        names, *rows = [line.split(",") for line in output.splitlines() if line]
        found = [dict(zip(names, row)) for row in rows]
        return next(row for row in found if row["svname"] == "hub")


class Caddy(Proxy):
    def prepare(self, change):
        text = recipe("caddyfile")
        before, after = text.split("{\n", 1)
        text = put(before + "{\n" + recipe("caddyfile-prefix") + after, ("127.0.0.1:8098", f"127.0.0.1:{self.hub}"))
        own = f"""{{
    admin off
    local_certs
    skip_install_trust
    auto_https disable_redirects
    https_port {self.port}
    storage file_system {self.directory}/storage
}}
"""
        config = self.write("Caddyfile", own + change(text))
        return ["caddy", "run", "--config", str(config), "--adapter", "caddyfile"]

    def root(self):
        return self.directory / "storage/pki/authorities/local/root.crt"


KINDS = (Nginx, HAProxy, Caddy)


class ProxySite(Hub):
    """A hub with the lines of the page, and a proxy of each kind in front of it."""

    def __init__(self):
        super().__init__(recipe("toml"))
        self.proxies = [kind(self.port) for kind in KINDS]

    def __exit__(self, *error):
        for proxy in self.proxies:
            proxy.stop()
        return super().__exit__(*error)


def addresses(hub):
    """Where the hub sees its clients, by their ids."""
    listed = hub.worker().ask({"action": "connections"})["connections"]
    return {one["connection_id"]: one["address"] for one in listed if one["kind"] == "client"}


def at_once(*checks):
    """Runs checks that wait side by side; the first failure is that of the case."""
    failed = []

    def run(check):
        try:
            check()
        except Exception as e:  # the waiting thread raises it
            failed.append(e)

    threads = [threading.Thread(target=run, args=(check,)) for check in checks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


@case("TLS ends at each proxy, and messages go both ways")
def both_ways(hub):
    for proxy in hub.proxies:
        with proxy.connect(hub.token("ada"), protocols=("wshub.v1",)) as wire, hub.subscriber("room", user="ben") as near:
            same(wire.headers.get("sec-websocket-protocol"), "wshub.v1", proxy.name)
            wire.ask({"action": "subscribe", "channel": "room"})
            for n, text in enumerate(("\u00e4" * 3, "x" * 200_000)):
                wire.send({"action": "send", "channel": "room", "event": "e", "data": text, "id": n})
                same(near.receive("message", event="e")["data"], text, f"through {proxy.name}")
                near.send({"action": "send", "channel": "room", "event": "back", "data": text})
                same(wire.receive("message", event="back")["data"], text, f"back through {proxy.name}")
            wire.until_pong()


@case("tokens by subprotocol or query pass; foreign pages do not")
def origins(hub):
    token = hub.token("ada")
    for proxy in hub.proxies:
        proxy.connect(protocols=("wshub.v1", f"wshub.bearer.{token}")).close()
        proxy.connect(path=f"/ws?token={token}").close()
        try:
            proxy.connect(token, headers={"Origin": "https://evil.example"})
        except Refused as refused:
            same(refused.status, 403, proxy.name)
            assert "https://evil.example" in refused.json()["message"], refused
            assert "[listen] allowed_origins" in refused.json()["message"], refused
        else:
            raise AssertionError(f"{proxy.name} let a foreign page in")


@case("the hub logs the client's own address, not an invented one")
def own_address(hub):
    token = hub.token("ada")
    for proxy in hub.proxies:
        invented = {"X-Forwarded-For": "203.0.113.66", "Forwarded": "for=203.0.113.66", "X-Real-IP": "203.0.113.66"}
        with proxy.connect(token) as plain, proxy.connect(token, headers=invented) as liar:
            seen = addresses(hub)
            same([seen[plain.id], seen[liar.id]], [CLIENT, CLIENT], proxy.name)
        same(proxy.http("POST", "/broadcast", "{}", {"Authorization": "Bearer wrong"}).status, 401, proxy.name)
        time.sleep(1.1)  # one line a second
    lines = [line for line in hub.logged().splitlines() if "is wrong; this needs" in line]
    same([f"refused {CLIENT}: " in line for line in lines], [True] * len(KINDS), f"{lines}")


def in_front(second):
    """The differences in the recipe of a first proxy, by its kind: it has an address of its own, and speaks TLS with
    the second one."""
    return {
        Nginx: [("proxy_pass http://", f"proxy_bind {FIRST}; proxy_ssl_server_name on; proxy_ssl_name {NAME}; proxy_pass https://")],
        HAProxy: [(f"server hub 127.0.0.1:{second.port}", f"server hub 127.0.0.1:{second.port} source {FIRST} ssl verify none sni str({NAME}) check-sni {NAME}")],
    }


# A list that the client has begun: one address of nobody, and one that is trusted.
BEGUN = "203.0.113.66, 127.0.0.1"


@case("behind two proxies the client's address, if both are trusted")
def in_a_row(_):
    known = put(recipe("toml-row"), ("10.0.0.7", FIRST))
    plain = put(recipe("caddyfile"), ("hub.example.org {\n", ""), ("}\n", ""))
    trusting = (plain, put(recipe("caddyfile-row"), ("10.0.0.7", FIRST)))
    with Hub(known) as knowing, Hub(recipe("toml")) as unknowing:
        for hub, wanted in ((knowing, CLIENT), (unknowing, FIRST)):
            caddy = [tuple(put(text, ("127.0.0.1:8098", f"127.0.0.1:{hub.port}")) for text in trusting)]
            for kind, change in ((Nginx, ()), (HAProxy, ()), (Caddy, caddy)):
                with kind(hub.port, change) as second:
                    for first in (Nginx, HAProxy):
                        with first(second.port, in_front(second)[first]) as proxy:
                            what = f"{proxy.name} before {second.name}"
                            token = hub.token("ada")
                            with proxy.connect(token) as honest, proxy.connect(token, headers={"X-Forwarded-For": BEGUN}) as liar:
                                seen = addresses(hub)
                                same([seen[honest.id], seen[liar.id]], [wanted, wanted], what)
                                liar.until_pong()
                            same(proxy.http("GET", "/api/v1/ws/stats").status, 401, what)


@case("with Forwarded (RFC 7239) the client's own address is logged")
def forwarded(_):
    with Hub(recipe("toml-forwarded")) as hub:
        caddy = tuple(put(text, ("127.0.0.1:8098", f"127.0.0.1:{hub.port}")) for text in
                      (put(recipe("caddyfile"), ("hub.example.org {\n", ""), ("}\n", "")), recipe("caddyfile-forwarded")))
        changes = [
            (Nginx, [("    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n", recipe("nginx-forwarded"))]),
            (HAProxy, [("    option forwardfor\n", recipe("haproxy-forwarded"))]),
            (Caddy, [caddy]),
        ]
        if haproxy_version() >= (2, 8):
            changes.append((HAProxy, [("option forwardfor", "option forwarded")]))
        invented = ["for=203.0.113.66", 'for="203.0.113.66', "for=203.0.113.66, for=127.0.0.1", 'for="[2001:db8::66]:1";by=x', "\u00e4"]
        for kind, change in changes:
            with kind(hub.port, change) as proxy:
                token = hub.token("ada")
                for made_up in ({}, *({"Forwarded": value, "X-Forwarded-For": "203.0.113.66"} for value in invented)):
                    with proxy.connect(token, headers=made_up) as wire:
                        same(addresses(hub)[wire.id], CLIENT, f"{proxy.name} with {made_up}")
                same(proxy.http("GET", "/api/v1/ws/stats").status, 401, proxy.name)


def haproxy_version():
    output = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout
    return tuple(int(part) for part in re.search(r"version (\d+)\.(\d+)", output).groups())


@case("local endpoints are closed through a proxy, health is not")
def closed(hub):
    same(hub.http("GET", "/api/v1/ws/stats").status, 200)
    for proxy in hub.proxies:
        same(proxy.http("GET", "/api/v1/ws/stats").status, 401, proxy.name)
        same(proxy.http("GET", "/healthz").status, 200, proxy.name)


@case("the hub itself answers a body that is too large")
def bodies(hub):
    secret = {"Authorization": f"Bearer {hub.secret}", "Content-Type": "application/json"}
    for proxy in hub.proxies:
        for size, status in ((500_000, 200), (600_000, 413)):
            body = json.dumps({"channel": "c", "event": "e", "data": "x" * size})
            answer = proxy.http("POST", "/broadcast", body, secret)
            same(answer.status, status, f"{size} B through {proxy.name}")
            same(answer.json()["type"], "send_success" if status == 200 else "error", proxy.name)
        with proxy.connect(hub.token("ada")) as wire:
            try:
                wire.send({"action": "send", "channel": "c", "event": "e", "data": "x" * 600_000})
            except OSError:
                pass  # a proxy may hang up as soon as it has passed the code on
            same(wire.close_code(), 1009, f"a frame of 600 kB through {proxy.name}")


@case("below a path: the recipe strips the prefix")
def prefix(hub):
    for proxy in hub.proxies:
        with proxy.connect(hub.token("ada"), path="/hub/ws") as wire:
            wire.until_pong()
        same(proxy.http("GET", "/hub/healthz").status, 200, proxy.name)


@case("HAProxy's check without Host finds the hub up")
def health(hub):
    proxy = next(proxy for proxy in hub.proxies if isinstance(proxy, HAProxy))

    def is_checked():
        server = proxy.server()
        return server["check_status"] == "L7OK" and server

    server = eventually(lambda: f"HAProxy says {proxy.server()}", is_checked)
    same((server["status"], server["check_code"]), ("UP", "200"))


@case("HAProxy's default check fails, and the answer names the path")
def health_by_default(hub):
    with HAProxy(hub.port, [(" GET /healthz", ""), ("status 200,503", "status 200")]) as proxy:
        server = eventually(lambda: f"HAProxy says {proxy.server()}", lambda: proxy.server()["status"] == "DOWN" and proxy.server())
        same(server["check_code"], "403")


def lives_for(proxy, token, seconds):
    """A client that only answers pings; how long the proxy lets it."""
    began = time.monotonic()
    with proxy.connect(token) as wire:
        try:
            while (left := seconds - (time.monotonic() - began)) > 0:
                wire.next(left)
        except Silence:
            wire.until_pong()
            return True
        except Closed:
            return False
        return True


# Twice of it and more is waited for.
SHORT = "2s"


@case("an idle client outlives the time-outs thanks to the recipes")
def idle(hub):
    patience = [int(found) for found in re.findall(r"(?:proxy_read_timeout|timeout (?:client|server)) (\d+)s", PAGE)]
    with hub.connect() as wire:
        ping = wire.hello["ping_interval"]
    same([seconds > ping for seconds in patience], [True] * 3, f"{patience} s and a ping after {ping} s")
    token = hub.token("ada")
    short = [("timeout client 75s", f"timeout client {SHORT}"), ("timeout server 75s", f"timeout server {SHORT}")]
    cases = [
        (HAProxy, short, True),
        (HAProxy, [*short, ("    timeout tunnel 2m\n", "")], False),
        (Nginx, [("proxy_read_timeout 75s", f"proxy_read_timeout {SHORT}")], False),
        (Nginx, [], True),
        (Caddy, [], True),
    ]
    proxies = [kind(hub.port, change) for kind, change, _ in cases]

    def check(proxy, change, wanted):
        same(lives_for(proxy, token, 5), wanted, f"{proxy.name} with {change}")

    try:
        at_once(*(lambda p=p, c=c: check(p, c[1], c[2]) for p, c in zip(proxies, cases)))
    finally:
        for proxy in proxies:
            proxy.stop()


@case("pings keep a silent client through longer time-outs")
def pings(_):
    # The hub looks at its clients once a second, so a ping comes up to two later; how long a pong may take changes nothing.
    with Hub(recipe("toml"), HEARTBEAT__PING_INTERVAL="1s", HEARTBEAT__PONG_TIMEOUT="60s") as hub:
        token = hub.token("ada")
        changes = [("timeout client 75s", "timeout client 4s"), ("timeout server 75s", "timeout server 4s")]
        proxies = [
            Nginx(hub.port, [("proxy_read_timeout 75s", "proxy_read_timeout 4s")]),
            HAProxy(hub.port, [*changes, ("timeout tunnel 2m", "timeout tunnel 4s")]),
        ]
        try:
            at_once(*(lambda p=p: same(lives_for(p, token, 9), True, p.name) for p in proxies))
        finally:
            for proxy in proxies:
                proxy.stop()


class Streamer(http.server.BaseHTTPRequestHandler):
    """In the place of the hub: sends one line, and the next when the first was received."""

    received = threading.Event()

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        if self.path != "/lines":
            return  # a health check
        self.wfile.write(b'{"n":1}\n')
        self.wfile.flush()
        self.received.wait(PATIENCE)
        self.wfile.write(b'{"n":2}\n')

    def log_message(self, *_):
        pass


@case("a proxy forwards a stream without buffering")
def streams(_):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Streamer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        for kind in KINDS:
            with kind(server.server_address[1]) as proxy:
                Streamer.received.clear()
                connection = http.client.HTTPConnection(NAME, timeout=PATIENCE)
                connection.sock = proxy.dial()
                connection.request("GET", "/lines")
                began, answer = time.monotonic(), connection.getresponse()
                same(answer.readline(), b'{"n":1}\n', kind.__name__)
                assert time.monotonic() - began < PATIENCE / 2, f"{kind.__name__} held it back"
                Streamer.received.set()
                same(answer.readline(), b'{"n":2}\n', kind.__name__)
                connection.close()
    finally:
        server.shutdown()
        server.server_close()


@case("a restart keeps connections; after a stop clients reconnect")
def restart(hub):
    token = hub.token("ada")
    wires = [proxy.connect(token) for proxy in hub.proxies]
    hub.process.send_signal(12)  # SIGUSR2
    eventually("the next program took over", lambda: "took over" in hub.logged())
    for wire in wires:
        wire.until_pong()
    seen = addresses(hub)
    same([seen[wire.id] for wire in wires], [CLIENT] * len(wires), "after the restart")
    hub.stop()
    for proxy, wire in zip(hub.proxies, wires):
        same(wire.close_code(), 4101, proxy.name)
        same(proxy.http("GET", "/healthz").status in (502, 503), True, f"{proxy.name} without a hub")
    hub.start()

    def is_back(proxy):
        try:
            with proxy.connect(token) as wire:
                wire.until_pong()
            return True
        except (Refused, Closed, AssertionError):
            return False

    for proxy in hub.proxies:
        eventually(f"{proxy.name} lets nobody back", lambda: is_back(proxy), 10)


run_cases(ProxySite)
