"""Tokens on live connections: refresh, narrower rights, expiry, revocation, and key rotation.

The wall clock is that of the daemon: tokens are made with an expiry that is near. `exp` counts whole seconds.
"""

import json
import os
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from daemon import Hub, mint
from harness import case, in_time, run_cases, same
from ws_client import Refused, Silence, WsClient

EXPIRING = 60  # seconds before the end
AIM = 0.5


def ending(hub, user, seconds, **claims):
    """A token that ends after at least so many seconds, and its end."""
    end = int(time.time() + seconds) + 1
    return hub.token(user, exp=end, **claims), end


def at(what, moment):
    """The figure of something that was due at this moment of the wall clock: never before it, and soon after."""
    late = time.time() - moment
    assert late > -0.01, f"{what} came {-late:.2f} s too early"
    return in_time(what, late, AIM)


def stamp(moment):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(moment))


def refresh(wire, token):
    wire.send({"action": "auth", "token": token, "id": "refresh"})
    answer = wire.next()
    same(answer.get("id"), "refresh", str(answer))
    return answer


@case("token_expiring comes once, 60 s ahead, with the end")
def expiring(hub):
    token, end = ending(hub, "exp1", EXPIRING + 1)
    with hub.connect(token=token) as wire:
        same(wire.hello["expires_at"], stamp(end))
        same(wire.until_pong(), [], "not before")
        same(wire.receive("token_expiring"), {"type": "token_expiring", "expires_at": stamp(end)})
        figure = at("token_expiring", end - EXPIRING)
        same(wire.until_pong(), [])
    with hub.connect(token=ending(hub, "exp1", 30)[0]) as wire:
        began = time.monotonic()
        wire.receive("token_expiring")
        at_once = in_time("for one that is nearly over", time.monotonic() - began, AIM)
    return f"{figure}, {at_once}"


@case("expiry closes with 4204 after answering earlier requests")
def the_end(hub):
    token, end = ending(hub, "exp2", 1)
    with hub.connect(token=token) as wire:
        wire.receive("token_expiring")
        same(wire.ask({"action": "send", "channel": "c", "event": "e"})["type"], "send_success")
        bye = wire.receive("bye")
        figure = at("bye", end)
        same((bye["code"], bye["reconnect"]), (4204, True))
        same(wire.close_code(), 4204)
    try:
        hub.connect(token=token).close()
        raise AssertionError("a token that has ended was let in")
    except Refused as e:
        same((e.status, e.json()["code"]), (401, "token_expired"))
        assert stamp(end)[:19] in e.json()["message"], f"the message says when it ended: {e.json()}"
    return figure


@case("a refresh moves the expiry and announces the new one")
def refreshed(hub):
    (first, old_end), (second, new_end) = ending(hub, "exp3", 1), ending(hub, "exp3", 3)
    with hub.subscriber("c3", user="exp3", token=first) as wire:
        # The subscription stays, and so do the connection and its id.
        answer = refresh_past(wire, "token_expiring", second)
        same(answer.pop("limits"), wire.hello["limits"], "what holds is told again")
        same(answer, {"type": "auth_success", "user_id": "exp3", "expires_at": stamp(new_end), "id": "refresh"})
        wire.receive("token_expiring", expires_at=stamp(new_end))
        time.sleep(max(0, old_end + 0.5 - time.time()))
        hub.post("/broadcast", {"channel": "c3", "event": "e", "data": 1})
        same(wire.receive("message")["data"], 1)
        wire.receive("bye", code=4204)
        return at("the new end", new_end)


def refresh_past(wire, kind, token):
    """Refreshes; a frame of this kind that was on its way may come before the answer."""
    wire.send({"action": "auth", "token": token, "id": "refresh"})
    while (answer := wire.next())["type"] == kind:
        pass
    return answer


@case("an invalid or foreign refresh is refused, the old one stays")
def failed_refresh(hub):
    token, end = ending(hub, "exp4", 2)
    with hub.subscriber("c4", user="exp4", token=token) as wire:
        for wrong, code in ((hub.token("exp4", key=b"x" * 40), "token_invalid"), (hub.token("exp4", ttl=-60), "token_expired"),
                            (hub.token("exp4", nbf=int(time.time()) + 600), "token_not_yet"), ("nonsense", "token_invalid")):
            answer = refresh_past(wire, "token_expiring", wrong)
            same((answer["type"], answer["code"], bool(answer["message"])), ("auth_failed", code, True), str(answer))
        other = refresh_past(wire, "token_expiring", hub.token("other"))
        same((other["type"], other["code"]), ("error", "forbidden"), "a valid token of another user")
        hub.post("/broadcast", {"channel": "c4", "event": "e", "data": 1})
        same(wire.receive("message")["data"], 1, "the subscription after all refusals")
        wire.receive("bye", code=4204)
        return at("the end of the old one", end)


@case("a narrower token ends the subscriptions it does not allow")
def narrowed(hub):
    def claims(*patterns):
        return {"subscribe": list(patterns), "publish": ["out"], "interrupt": ["job:*"]}

    with hub.connect(token=hub.token("nar", wshub=claims("a*", "b", "system:presence"))) as wire, hub.worker() as worker:
        for channel in ("a1", "a2", "b", "system:presence"):
            same(wire.ask({"action": "subscribe", "channel": channel})["type"], "subscription_succeeded", channel)
        worker.ask({"action": "operation_start", "operation_id": "op", "channel": "a1"})
        same(wire.ask({"action": "subscribe", "channel": "operation:op"})["type"], "subscription_succeeded")
        wire.send({"action": "auth", "token": hub.token("nar", wshub=claims("a2", "b"))})
        came = wire.until_pong()
        assert any(f["type"] == "auth_success" for f in came), came
        same(sorted((f["channel"], f["reason"]) for f in came if f["type"] == "unsubscribed"),
             [("a1", "forbidden"), ("operation:op", "forbidden"), ("system:presence", "forbidden")])
        for channel in ("a1", "a2", "b"):
            worker.ask({"channel": channel, "event": "e", "data": channel})
        worker.ask({"action": "operation_end", "operation_id": "op", "state": "completed"})
        with hub.connect("passing"):
            pass
        same([f.get("channel") for f in wire.until_pong()], ["a2", "b"], "heard afterwards, on")
        same(wire.ask({"action": "subscribe", "channel": "a1"})["code"], "forbidden")
        # A wider one allows it again, and starts nothing by itself.
        same(refresh(wire, hub.token("nar", wshub=claims("*")))["type"], "auth_success")
        same(wire.until_pong(), [])
        same(wire.ask({"action": "subscribe", "channel": "a1"})["type"], "subscription_succeeded")


@case("a refresh without a wshub claim means the default rights")
def other_rights(hub):
    with hub.worker() as worker, hub.connect(token=hub.token("oth", wshub={"publish": ["p"], "interrupt": ["jobs"], "subscribe": []})) as wire:
        worker.ask({"action": "operation_start", "operation_id": "o1", "channel": "jobs", "user_id": "somebody"})
        same(wire.ask({"action": "send", "channel": "q", "event": "e"})["code"], "forbidden")
        same(wire.ask({"action": "interrupt", "operation_id": "o1"})["outcome"], "delivered")
        same(refresh(wire, hub.token("oth"))["type"], "auth_success")
        same(wire.ask({"action": "send", "channel": "q", "event": "e"})["type"], "send_success")
        same(wire.ask({"action": "interrupt", "operation_id": "o1"})["code"], "forbidden")


@case("a replay ends with unsubscribed when its right ends")
def narrowed_in_replay(_):
    with Hub('[[channel]]\nmatch = "h"\nkeep = "history"\nbytes = "32MiB"\ncount = 5000\n') as hub:
        pad, total = "x" * 4000, 1500
        with hub.worker() as worker:
            for n in range(1, total + 1):
                worker.send({"channel": "h", "event": "e", "data": pad})
            worker.ask({"channel": "h", "event": "e", "data": pad})
        with WsClient(hub.port, headers={"Authorization": "Bearer " + hub.token("rep")}, rcvbuf=4096) as wire:
            wire.send({"action": "subscribe", "channel": "h", "since": {"epoch": "", "seq": 0}})
            same(wire.receive("subscription_succeeded")["recovered"], True)
            for n in (1, 2, 3):
                same(wire.receive("message")["seq"], n)
            wire.send({"action": "auth", "token": hub.token("rep", wshub={"subscribe": ["other"]})})
            received, ended = 3, None
            while not ended:
                got = wire.next()
                if got["type"] == "message":
                    received += 1
                    same(got["seq"], received)
                ended = got["type"] == "unsubscribed" and got
            same((ended["channel"], ended["reason"]), ("h", "forbidden"))
            same(wire.until_pong(), [])
    assert received < total, "all of it came"
    return f"{received:,} of {total:,} came"


@contextmanager
def keys(*names):
    """Files of keys, and a configuration that names some of them."""
    with tempfile.TemporaryDirectory() as directory:
        secrets = {}
        for name in names:
            path = Path(directory) / f"{name}.key"
            secrets[name] = os.urandom(24).hex().encode()
            path.write_bytes(secrets[name] + b"\n")
            path.chmod(0o600)

        def config(*configured):
            entries = ", ".join(f'{{ alg = "HS256", file = "{directory}/{name}.key", kid = "{name}" }}' for name in configured)
            return f"[auth]\nkeys = [{entries}]\n"

        yield secrets, config


def by_key(secrets, name, user="ann", **header):
    return mint(secrets[name], {"user_id": user, "exp": int(time.time()) + 600}, **header)


def refused(hub, token):
    try:
        hub.connect(token=token).close()
    except Refused as e:
        same((e.status, e.json()["code"]), (401, "token_invalid"))
        return e.json()["message"]
    raise AssertionError("a token of no valid key was let in")


@case("key rotation: both keys are accepted, a removed one is not")
def rotation(_):
    with keys("old", "new") as (secrets, config), Hub(config("old", "new")) as hub:
        tokens = {(name, kid): by_key(secrets, name, **({"kid": kid} if kid else {}))
                  for name in ("old", "new") for kid in (None, "old", "new", "else")}
        for (name, kid), token in tokens.items():
            if kid in (None, name):
                with hub.connect(token=token) as wire:
                    same(wire.hello["user_id"], "ann", f"by {name}, kid {kid}")
            else:
                refused(hub, token)
        with hub.connect(token=tokens["old", "old"]) as wire:
            same(refresh(wire, tokens["new", "new"])["type"], "auth_success", "from the old key to the new one")
            same(refresh(wire, tokens["new", "old"])["type"], "auth_failed")
        hub.stop()
        hub.start(config("new"))
        for kid in (None, "new"):
            hub.connect(token=tokens["new", kid]).close()
        message = refused(hub, tokens["old", "old"])
        assert "key" in message and "kid" in message, f"the message says that the key is missing: {message}"
        unnamed = refused(hub, tokens["old", None])
        assert "signature" in unnamed or "key" in unnamed, unnamed
        with WsClient(hub.port, protocols=["wshub.v1", "wshub.bearer." + tokens["old", "old"]]) as page:
            message_received = page.receive("auth_failed")["message"]
            assert message_received and message.startswith(message_received + " (the token in "), f"a page is told the same, and no place: {message_received}"
            same(page.close_code(), 4001)
    return json.dumps(message)


@case("a refresh during a flood keeps the connection, none twice")
def refresh_in_a_flood(hub):
    with hub.subscriber("flood", user="flo") as wire, hub.worker() as worker:
        total, answers = 2000, 0

        def flood():
            for n in range(total):
                worker.send({"channel": "flood", "event": "e", "data": n})
                if n % 100 == 99:
                    worker.ask({"action": "ping"})

        flooding = threading.Thread(target=flood)
        flooding.start()
        expected = 0
        while expected < total or answers < 20:
            if answers < 20 and expected % 100 == 50:
                same(wire.send({"action": "auth", "token": hub.token("flo")}), None)
            try:
                got = wire.next()
            except Silence:
                raise AssertionError(f"{expected} of {total} came, {answers} answers") from None
            if got["type"] == "message":
                same(got["data"], expected)
                expected += 1
            else:
                same(got["type"], "auth_success")
                answers += 1
        flooding.join()


def code_of(hub, token):
    """With which code a token is refused, if it is."""
    try:
        hub.connect(token=token).close()
    except Refused as e:
        same(e.status, 401)
        return e.json()["code"]


@case("a revoked user is closed with 4003; a later token passes")
def revoked(_):
    with Hub() as hub:
        now = int(time.time())
        old, undated = hub.token("eve", iat=now - 5), hub.token("eve")
        with hub.connect(token=old) as eve, hub.connect("ann") as ann:
            done = hub.ctl("disconnect", "--revoke", "eve")
            same(done.returncode, 0, done.stderr)
            answer = json.loads(done.stdout)
            same(answer["disconnected"], 1)
            bye = eve.receive("bye")
            same((bye["code"], bye["reconnect"]), (4003, False))
            same(ann.ask({"action": "ping"})["type"], "pong")
        later = hub.token("eve", iat=int(time.time()) + 5)
        for _ in range(2):
            same([code_of(hub, token) for token in (old, undated, later)], ["token_revoked", "token_revoked", None])
            # Killed, and with the store's process it may have left behind.
            hub.kill()
            hub.start()
        same([line["user_id"] for line in map(json.loads, hub.ctl("disconnect", "--revoked").stdout.splitlines())], ["eve"])
        checked = json.loads(hub.ctl("token", "check", old).stdout)
        same((checked["valid"], checked["code"]), (False, "token_revoked"))
        same(json.loads(hub.ctl("disconnect", "--lift", "eve").stdout), {"lifted": True})
        same(code_of(hub, old), None)


@case("one token is revoked by its jti; others of the user stay")
def one_token(_):
    with Hub() as hub:
        first, second = (hub.ctl("token", "new", "--user", "eve").stdout.strip() for _ in range(2))
        with hub.connect(token=first) as one, hub.connect(token=second) as two:
            listed = map(json.loads, hub.ctl("connections", "--user", "eve").stdout.splitlines())
            jti = next(entry["jti"] for entry in listed if entry["connection_id"] == one.id)
            same(json.loads(hub.ctl("disconnect", "--jti", jti).stdout)["disconnected"], 1)
            one.receive("bye", code=4003)
            same(two.ask({"action": "ping"})["type"], "pong")
        same([code_of(hub, token) for token in (first, second)], ["token_revoked", None])


@case("a revocation is kept until no token it refuses can be valid")
def long_lived(_):
    with Hub("[auth]\nrevocation_ttl = \"3s\"\n") as hub:
        old = hub.token("eve", iat=int(time.time()) - 5)
        same(code_of(hub, old), None)
        hub.ctl("disconnect", "--revoke", "eve")
        began = time.time()
        short = hub.token("ann", exp=int(time.time()) + 2, iat=int(time.time()) + 2)
        same([code_of(hub, token) for token in (old, hub.token("ann", iat=int(time.time()) + 9), short)],
             ["token_revoked", "token_revoked", None])
        time.sleep(max(0, began + 4 - time.time()))
        same(hub.ctl("disconnect", "--revoked").stdout, "")
        same([code_of(hub, token) for token in (old, hub.token("ann", iat=int(time.time())))], ["token_revoked", None])
        hub.kill()
        hub.start()
        same(code_of(hub, old), "token_revoked", "after a restart")


@case("token limits admit 200 lines at once; profiles are visible")
def limits(hub):
    agent = hub.ctl("token", "new", "--user", "agent", "--rate", "1000", "--burst", "1000", "--info", '{"name":"Agent"}').stdout.strip()
    with hub.connect(token=agent) as wire, hub.subscriber("lines", user="reader") as reader:
        same((wire.hello["limits"]["requests_per_second"], wire.hello["limits"]["burst"]), (1000, 1000))
        for n in range(200):
            wire.send({"action": "send", "channel": "lines", "event": "line", "data": n})
        for n in range(200):
            same(wire.next()["type"], "send_success", f"line {n}")
            same(reader.receive("message")["data"], n)
        wire.send({"action": "subscribe", "channel": "lines"})
        wire.receive("subscription_succeeded")
        seen = reader.ask({"action": "presence", "channel": "lines"})["presence"]
        same([entry.get("info") for entry in seen], [{"name": "Agent"}, None])


if __name__ == "__main__":
    run_cases()
