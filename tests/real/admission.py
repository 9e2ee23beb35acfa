"""Authentication and admission: tokens by every way, invalid ones, other origins, and the rights of a token."""

import os
import socket
import time

from daemon import Hub, mint
from harness import case, run_cases, same
from ws_client import Refused, WsClient

PATHS = ["/api/v1/ws", "/ws/connect", "/ws"]


def refused(status, make):
    try:
        make().close()
    except Refused as e:
        same(e.status, status, "the HTTP status")
        return e
    raise AssertionError(f"the upgrade succeeded, the contract says HTTP {status}")


def auth_failed(wire, *codes):
    got = wire.receive("auth_failed")
    assert got["code"] in codes and got.get("message"), f"{got}, the contract says {codes}"
    same(wire.close_code(), 4001, "the close code")


@case("a token by header, subprotocol, query or in band, each path")
def four_ways(hub):
    token = hub.token("ann")
    for path in PATHS:
        with hub.connect("ann", path=path) as wire:
            same(wire.hello["user_id"], "ann")
        with WsClient(hub.port, path, protocols=["wshub.v1", f"wshub.bearer.{token}"]) as wire:
            same(wire.headers.get("sec-websocket-protocol"), "wshub.v1")
            same(wire.receive("connection_established")["user_id"], "ann")
        with WsClient(hub.port, f"{path}?token={token}") as wire:
            same(wire.receive("connection_established")["user_id"], "ann")
            assert "sec-websocket-protocol" not in wire.headers, "no subprotocol was offered"
        with WsClient(hub.port, path) as wire:
            same(wire.next()["type"], "auth_required")
            wire.send({"action": "auth", "token": token, "id": 1})
            success = wire.next()
            same((success["type"], success["user_id"], success.get("id")), ("auth_success", "ann", 1))
            assert success["expires_at"].endswith("Z"), success
            same(wire.next()["type"], "connection_established")


@case("connection_established has every field of the contract")
def established(hub):
    with hub.connect("ann") as wire:
        hello = wire.hello
        same(hello["protocol"], 1)
        same(hello["ping_interval"], 54)
        same(hello["pong_timeout"], 60)
        same(hello["limits"], {"message_bytes": 524288, "requests_per_second": 10, "burst": 20, "subscriptions": 128})
        for field in ("server_time", "expires_at"):
            assert len(hello[field]) == 24 and hello[field][19] == "." and hello[field].endswith("Z"), f"{field}: {hello[field]}"


@case("wshub.v1 without a token is answered; auth in band follows")
def bare_subprotocol(hub):
    with WsClient(hub.port, protocols=["wshub.v1"]) as wire:
        same(wire.headers.get("sec-websocket-protocol"), "wshub.v1")
        same(wire.next()["type"], "auth_required")
    with WsClient(hub.port, protocols=["graphql-ws", "wshub.v1"]) as wire:
        same(wire.headers.get("sec-websocket-protocol"), "wshub.v1")
    with WsClient(hub.port, protocols=["graphql-ws"]) as wire:
        assert "sec-websocket-protocol" not in wire.headers, wire.headers


@case("header precedes subprotocol, subprotocol precedes query")
def precedence(hub):
    ann, bob, eve = (hub.token(name) for name in ("ann", "bob", "eve"))
    both = ["wshub.v1", f"wshub.bearer.{bob}"]
    with WsClient(hub.port, f"/ws?token={eve}", {"Authorization": f"Bearer {ann}"}, both) as wire:
        same(wire.receive("connection_established")["user_id"], "ann")
    with WsClient(hub.port, f"/ws?token={eve}", protocols=both) as wire:
        same(wire.receive("connection_established")["user_id"], "bob")


@case("an invalid token is 401 with JSON, or auth_failed and 4001")
def bad_tokens(hub):
    now = int(time.time())
    good = hub.token("ann")
    bad = {
        "nonsense": "token_invalid", "a.b.c": "token_invalid", "": "token_invalid",
        good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"): "token_invalid",
        hub.token("ann", key=b"another key"): "token_invalid",
        hub.token("ann", alg="none"): "token_invalid",
        hub.token("ann", alg="HS512"): "token_invalid",
        hub.token("ann", ttl=-3600): "token_expired",
        hub.token("ann", nbf=now + 3600): "token_not_yet",
        hub.token("ann", ttl=None): "token_invalid",
        hub.token(None): "token_invalid",
        hub.token(""): "token_invalid",
        hub.token("x" * 129): "token_invalid",
        hub.token("a\u0000b"): "token_invalid",
        hub.token("ann", exp="tomorrow"): "token_invalid",
        hub.token("ann", wshub="all"): "token_invalid",
        hub.token("ann", wshub={"subscribe": [f"c{n}" for n in range(33)]}): "token_invalid",
        hub.token("ann", wshub={"subscribe": ["x" * 1025]}): "token_invalid",
        hub.token("ann", email="x" * 5000): "token_invalid",
        mint(hub.key, ["not", "an", "object"]): "token_invalid",
    }
    for token, code in bad.items():
        if token:
            error = refused(401, lambda t=token: WsClient(hub.port, headers={"Authorization": f"Bearer {t}"}))
            body = error.json()
            same((body["type"], body["code"]), ("error", code), f"401 body for {token[:40]}")
            assert body["message"], body
            assert "json" in error.headers.get("content-type", ""), error.headers
            refused(401, lambda t=token: WsClient(hub.port, f"/ws?token={t}"))
            with WsClient(hub.port, protocols=["wshub.v1", f"wshub.bearer.{token}"]) as wire:
                auth_failed(wire, code)
        with WsClient(hub.port) as wire:
            wire.receive("auth_required")
            wire.send({"action": "auth", "token": token})
            auth_failed(wire, code)
    return f"{len(bad)} tokens"


@case("Authorization of another scheme does not authenticate")
def other_scheme(hub):
    try:
        with WsClient(hub.port, headers={"Authorization": "Basic YTpi"}) as wire:
            same(wire.next()["type"], "auth_required")
    except Refused as e:
        same(e.status, 401)


@case("bearer is recognised whatever its case, as HTTP says")
def scheme_case(hub):
    with WsClient(hub.port, headers={"Authorization": f"bearer {hub.token('ann')}"}) as wire:
        wire.receive("connection_established")


@case("sub and a number name the user; user_id takes precedence")
def user_claims(hub):
    for claims, user in (({"sub": "carl"}, "carl"), ({"user_id": 42}, "42"), ({"sub": 7}, "7"), ({"user_id": "a", "sub": "b"}, "a")):
        with hub.connect(token=hub.token(**({"user": None} | claims))) as wire:
            same(wire.hello["user_id"], user, str(claims))


@case("before auth only auth is accepted; one user a connection")
def only_auth(hub):
    with WsClient(hub.port) as wire:
        wire.receive("auth_required")
        for action in ({"action": "ping"}, {"action": "subscribe", "channel": "a"}, {"action": "send", "channel": "a", "event": "e"}):
            wire.send({**action, "id": 1})
            error = wire.next()
            same((error["type"], error.get("code"), error.get("id")), ("error", "auth_required", 1), str(action))
        wire.send({"action": "auth", "token": hub.token("ann")})
        wire.receive("connection_established")
        wire.send({"action": "auth", "token": hub.token("bob"), "id": 2})
        came = wire.next()
        assert came["type"] in ("auth_failed", "error"), f"ann became bob: {came}"


@case("auth on a live connection refreshes and narrows its rights")
def refresh(hub):
    with hub.connect(token=hub.token("ann", wshub={"subscribe": ["a", "b"], "publish": ["a"]})) as wire:
        for channel in ("a", "b"):
            wire.send({"action": "subscribe", "channel": channel})
            wire.receive("subscription_succeeded")
        wire.send({"action": "auth", "token": hub.token("ann", wshub={"subscribe": ["b"]}), "id": 3})
        came = wire.until_pong()
        assert any(f["type"] == "auth_success" and f.get("id") == 3 for f in came), came
        ended = [f for f in came if f["type"] == "unsubscribed"]
        same([(f["channel"], f["reason"]) for f in ended], [("a", "forbidden")])
        assert not any(f["type"] == "connection_established" for f in came), "a refresh establishes nothing"
        same(wire.ask({"action": "send", "channel": "a", "event": "e"})["code"], "forbidden")


@case("an expired token closes with 4204 after token_expiring")
def expiry(hub):
    with hub.connect(token=hub.token("ann", ttl=2)) as wire, hub.connect(token=hub.token("ann", ttl=2)) as renewed:
        renewed.send({"action": "auth", "token": hub.token("ann", ttl=600)})
        renewed.receive("auth_success")
        started = time.monotonic()
        wire.receive("token_expiring")
        bye = wire.receive("bye", within=8)
        same((bye["code"], bye["reconnect"]), (4204, True))
        assert isinstance(bye["after_ms"], (int, float)) and bye["reason"], bye
        same(wire.close_code(), 4204)
        took = time.monotonic() - started
        assert 0.5 < took < 4, f"closed {took:.1f} s after a token of 2 s"
        renewed.until_pong()
    return f"closed after {took:.2f} s with a token of 2 s"


@case("no auth for 10 s closes with 4001")
def no_auth(hub):
    with WsClient(hub.port) as wire:
        wire.receive("auth_required")
        started = time.monotonic()
        same(wire.close_code(within=15), 4001)
        took = time.monotonic() - started
        assert 9 <= took <= 12, f"after {took:.1f} s"
    return f"after {took:.1f} s"


@case("a foreign Host is 403 at every endpoint; loopback passes")
def hosts(hub):
    token = hub.token("ann")
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example"):
        error = refused(403, lambda h=host: WsClient(hub.port, headers={"Authorization": f"Bearer {token}"}, host=h))
        same(error.json()["type"], "error")
        for method, path in (("GET", "/healthz"), ("GET", "/api/v1/ws/stats"), ("POST", "/broadcast"), ("GET", "/metrics")):
            same(hub.http(method, path, headers={"Host": host}, secret=hub.secret).status, 403, f"{path} at {host}")
    for host in ("localhost", f"localhost:{hub.port}", "127.0.0.1", "[::1]", "192.168.7.7:80", "LOCALHOST"):
        with WsClient(hub.port, headers={"Authorization": f"Bearer {token}"}, host=host):
            pass


@case("a foreign Origin is 403 before the token is checked")
def origins(hub):
    for origin in ("http://evil.example", "https://127.0.0.1.evil.example", "null", "http://localhost:3000", "nonsense", "file://"):
        refused(403, lambda o=origin: WsClient(hub.port, headers={"Origin": o}))
        refused(403, lambda o=origin: WsClient(hub.port, headers={"Origin": o, "Authorization": "Bearer nonsense"}))
    for origin in (f"http://127.0.0.1:{hub.port}", "http://127.0.0.1:3000", "https://127.0.0.1"):
        with WsClient(hub.port, headers={"Origin": origin}):
            pass
    with WsClient(hub.port, headers={"Origin": "http://localhost:3000"}, host=f"localhost:{hub.port}"):
        pass


@case("allowed_origins and allowed_hosts admit the names listed")
def allowed(_):
    with Hub(LISTEN__ALLOWED_ORIGINS='["https://app.example", "null"]', LISTEN__ALLOWED_HOSTS='["hub.example"]') as hub:
        for origin in ("https://app.example", "null"):
            with WsClient(hub.port, headers={"Origin": origin}):
                pass
        refused(403, lambda: WsClient(hub.port, headers={"Origin": "https://other.example"}))
        with WsClient(hub.port, host="hub.example"):
            pass
    with Hub(LISTEN__ALLOWED_ORIGINS='["*"]') as hub:
        for origin in ("https://other.example", "null"):
            with WsClient(hub.port, headers={"Origin": origin}):
                pass


@case("anonymous = true admits without a token, gains a user once")
def anonymous(_):
    with Hub(AUTH__ANONYMOUS="true") as hub:
        with WsClient(hub.port) as wire:
            hello = wire.next()
            same(hello["type"], "connection_established")
            assert "user_id" not in hello and "expires_at" not in hello, hello
            wire.send({"action": "subscribe", "channel": "a"})
            wire.receive("subscription_succeeded")
            wire.send({"action": "send", "channel": "a", "event": "e"})
            assert "user_id" not in wire.receive("message"), "an anonymous message has no user"
            wire.send({"action": "auth", "token": hub.token("ann")})
            same(wire.receive("auth_success")["user_id"], "ann")
            same(wire.ask({"action": "send", "channel": "a", "event": "f", "echo": False})["type"], "send_success")
            wire.send({"action": "auth", "token": hub.token("bob")})
            assert wire.next()["type"] in ("auth_failed", "error"), "a user was changed for another"
        refused(401, lambda: WsClient(hub.port, headers={"Authorization": "Bearer nonsense"}))


@case("a connection after an idle period has its full auth timeout")
def after_a_quiet_time(_):
    with Hub(LIMITS__HANDSHAKE_TIMEOUT="1s") as hub:
        hub.connect("ann").close()
        time.sleep(1.3)
        with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as quiet:
            time.sleep(0.3)
            quiet.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            same(quiet.recv(12), b"HTTP/1.1 200", "the answer")
        with socket.create_connection(("127.0.0.1", hub.port), timeout=10) as silent:
            begun = time.monotonic()
            same(silent.recv(1), b"", "what a silent peer hears")
            assert 0.8 < time.monotonic() - begun < 10, "given up after the handshake's time"


@case("query_token = false: a token in the URL is refused as that")
def no_query(_):
    with Hub(AUTH__QUERY_TOKEN="false") as hub:
        try:
            WsClient(hub.port, f"/ws?token={hub.token('ann')}")
            assert False, "it is let in"
        except Refused as e:
            same(e.status, 401)
        same(hub.worker().ask({"action": "stats"})["refused"], {"token_query": 1})


@case("a token in the URL is decoded, other parameters ignored")
def query(hub):
    token = hub.token("ann").replace(".", "%2E")
    for path in (f"/ws?token={token}&inbox=off&x=1", f"/ws?x=1&token={token}"):
        with WsClient(hub.port, path) as wire:
            wire.receive("connection_established")


@case("token patterns decide: stars, {user_id}, never @ or system:")
def patterns(hub):
    token = hub.token("ann", wshub={"subscribe": ["logs:*", "user:{user_id}", "*:end"], "publish": ["out:*"]})
    with hub.connect(token=token) as wire:
        for channel, allowed in (("logs:1", True), ("logs:", True), ("logs", False), ("user:ann", True), ("user:bob", False), ("x:end", True), ("x:end2", False)):
            answer = wire.ask({"action": "subscribe", "channel": channel})
            same(answer["type"] == "subscription_succeeded", allowed, f"subscribe {channel}: {answer}")
            if not allowed:
                same(answer["code"], "forbidden")
                assert "subscribe" in answer["message"], f"the message names the right: {answer}"
        same(wire.ask({"action": "send", "channel": "out:1", "event": "e"})["type"], "send_success")
        for target in ({"channel": "logs:1"}, {"user_id": "bob"}, {"connection_id": wire.id}):
            answer = wire.ask({"action": "send", "event": "e", **target})
            same((answer["type"], answer.get("code")), ("error", "forbidden"), str(target))
            assert "publish" in answer["message"], answer
        answer = wire.ask({"action": "whisper", "channel": "logs:1", "event": "e"})
        same(answer.get("code"), "forbidden", "whisper needs publish")
    with hub.connect(token=hub.token("*", wshub={"subscribe": ["user:{user_id}"]})) as wire:
        same(wire.ask({"action": "subscribe", "channel": "user:bob"})["code"], "forbidden", "a star in a user's id is no wildcard")
        same(wire.ask({"action": "subscribe", "channel": "user:{user_id}"}).get("code"), "forbidden")
    with hub.connect(token=hub.token("ann", wshub={})) as wire:
        same(wire.ask({"action": "subscribe", "channel": "a"})["code"], "forbidden", "a claim that grants nothing")


@case("default rights: any channel and connection, not users")
def defaults(hub):
    with hub.connect("ann") as ann, hub.connect("bob") as bob:
        same(ann.ask({"action": "send", "event": "e", "connection_id": bob.id})["type"], "send_success")
        same(ann.ask({"action": "send", "event": "e", "user_id": "bob"})["code"], "forbidden")


@case("wshubctl token new mints tokens valid for the time asked")
def ctl_token(hub):
    done = hub.ctl("token", "new", "--user", "zoë", "--ttl", "1h")
    same(done.returncode, 0, done.stderr)
    token = done.stdout.strip()
    same(token.count("."), 2, f"the output is a token: {done.stdout!r}")
    with hub.connect(token=token) as wire:
        same(wire.hello["user_id"], "zoë")
        left = time.mktime(time.strptime(wire.hello["expires_at"][:19], "%Y-%m-%dT%H:%M:%S")) - time.mktime(time.gmtime())
        assert 3500 < left < 3700, f"{left} s left"


@case("the generated key and secret are private files")
def private(hub):
    for name in ("jwt.key", "broadcast.secret"):
        mode = (hub.directory / "wshubd" / name).stat().st_mode & 0o777
        same(oct(mode), "0o600", name)
    assert (hub.directory / "wshubd").stat().st_mode & 0o077 == 0, "the state directory is open to others"


@case("no token is in the log, not even at trace level")
def no_token_in_log(_):
    os.environ["RUST_LOG"] = "trace"
    try:
        with Hub() as hub:
            token = hub.token("ann")
            WsClient(hub.port, f"/ws?token={token}").close()
            WsClient(hub.port, headers={"Authorization": f"Bearer {token}"}).close()
            with WsClient(hub.port) as wire:
                wire.send({"action": "auth", "token": token})
                wire.receive("auth_success")
            log = hub.logged()
            assert token.split(".")[2] not in log, "the signature of a token is in the log"
    finally:
        del os.environ["RUST_LOG"]


@case("connections_per_user closes with 4008, connections is 503")
def too_many(_):
    with Hub(LIMITS__CONNECTIONS_PER_USER="2") as hub:
        kept = [hub.connect("ann"), hub.connect("ann"), hub.connect("bob")]
        third = hub.connect("ann", established=False)
        same(third.close_code(), 4008)
        kept[0].until_pong()
        kept.pop(0).close()
    with Hub(LIMITS__CONNECTIONS="2") as hub:
        kept = [hub.connect("ann"), hub.connect("bob")]
        error = refused(503, lambda: hub.connect("carl"))
        assert "retry-after" in error.headers, error.headers
        same(error.json()["type"], "error")
        kept[0].until_pong()


if __name__ == "__main__":
    run_cases()
