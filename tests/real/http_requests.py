"""/broadcast, /interrupt, stats, metrics and health: valid and invalid requests, and curl on a command line."""

import http.client
import json
import subprocess
import threading
import time

from daemon import Hub
from harness import case, run_cases, same


def curl(hub, *arguments):
    """What a person types: status and body of `curl`."""
    done = subprocess.run(["curl", "-sS", "-w", "\n%{http_code}", *arguments], capture_output=True, text=True, timeout=20)
    same(done.returncode, 0, done.stderr)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@case("curl posts to /broadcast and a subscriber receives it")
def by_curl(hub):
    with hub.subscriber("logs") as ann:
        for path in ("/broadcast", "/api/v1/broadcast"):
            status, body = curl(hub, "-X", "POST", f"http://127.0.0.1:{hub.port}{path}", "-H", f"Authorization: Bearer {hub.secret}",
                                "-H", "Content-Type: application/json", "-d", '{"channel":"logs","event":"line","data":{"n":1}}')
            same(status, 200, body)
            answer = json.loads(body)
            same((answer.get("type"), answer["channel"], answer["sent"], answer["failed"]), ("send_success", "logs", 1, 0))
            message = ann.receive("message")
            same((message["channel"], message["event"], message["data"], message["from"], message["source"]), ("logs", "line", {"n": 1}, "http", "http"))
            same(message["message_id"], answer["message_id"])
            assert isinstance(message["seq"], int) and message["timestamp"].endswith("Z"), message
            assert "user_id" not in message and "replayed" not in message, message


@case("curl reads stats and health on loopback without a secret")
def stats(hub):
    with hub.connect("ann"), hub.connect("ann"), hub.connect("bob"):
        status, body = curl(hub, f"http://127.0.0.1:{hub.port}/api/v1/ws/stats")
        same((status, json.loads(body)), (200, {"connected_users": 2, "total_connections": 3}))
        status, body = curl(hub, f"http://127.0.0.1:{hub.port}/healthz")
        same(status, 200, body)


@case("stats with the secret or an admin token have more fields")
def more_stats(hub):
    admin = hub.token("root", wshub={"admin": True})
    for secret in (hub.secret, admin):
        answer = hub.http("GET", "/api/v1/ws/stats", secret=secret)
        same(answer.status, 200)
        assert len(answer.json()) > 2 and {"connected_users", "total_connections"} <= set(answer.json()), answer
    answer = hub.http("GET", "/api/v1/ws/stats", secret=hub.token("ann"))
    assert answer.status in (200, 401, 403) and (answer.status != 200 or len(answer.json()) == 2), answer


@case("metrics need the secret unless open, and are Prometheus text")
def metrics(hub):
    assert hub.http("GET", "/metrics").status in (401, 403)
    answer = hub.http("GET", "/metrics", secret=hub.secret)
    same(answer.status, 200)
    assert answer.headers["content-type"].startswith("text/plain") and b"# TYPE wshub" in answer.body, answer
    for line in answer.body.decode().splitlines():
        if line and not line.startswith("#"):
            float(line.rsplit(" ", 1)[1])
    with Hub(LISTEN__METRICS_OPEN="true") as open_hub:
        same(open_hub.http("GET", "/metrics").status, 200)


def error(answer, status, *codes, names=None):
    same(answer.status, status, repr(answer))
    body = answer.json()
    same(body.get("type"), "error", repr(answer))
    assert body.get("message") and body.get("code"), answer
    if codes:
        assert body["code"] in codes, f"{answer}: the contract says {codes}"
    if names:
        assert names in body["message"], f"{answer} does not name {names}"


@case("broadcast: a missing, mistyped or long field is named")
def fields(hub):
    whole = {"channel": "logs", "event": "line", "data": 1}
    for field, values in {
        "channel": [7, True, [], {}, "", "a b"], "event": [None, 7, True, [], {}, ""], "ttl": ["soon", True, [], {}, -1],
        "durable": [1, "yes", [], {}], "message_id": [7.5, True, [], {}, ""],
    }.items():
        for value in values:
            error(hub.post("/broadcast", {**whole, field: value}), 400, "bad_request", names=field)
    error(hub.post("/broadcast", {"channel": "logs", "data": 1}), 400, "bad_request", names="event")
    for field in ("channel", "event", "message_id"):
        error(hub.post("/broadcast", {**whole, field: "x" * 129}), 400, "too_large", "bad_request", names=field)
    for target in ({}, {"channel": "a", "all": True}, {"channel": "a", "user_id": "b"}, {"connection_id": "c", "user_id": "b"}, {"all": "yes"}, {"all": 1}, {"user_id": 7.5}):
        error(hub.post("/broadcast", {"event": "e", **target}), 400, "bad_request")
    for body in ("", "{", "[]", "7", "null", '{"channel":"logs","event":"e"} x', '{"channel":"a","channel":"b","event":"e"}'):
        error(hub.http("POST", "/broadcast", body, {"Content-Type": "application/json"}, hub.secret), 400, "bad_json", "bad_request")
    error(hub.http("POST", "/broadcast", b'{"channel":"logs","event":"\xff"}', {"Content-Type": "application/json"}, hub.secret), 400, "bad_json", "bad_request")


@case("an unknown field in a body is ignored")
def unknown_field(hub):
    same(hub.post("/broadcast", {"channel": "quiet", "event": "e", "colour": "blue"}).status, 200)


@case("401 without the secret or with a wrong one, for any body")
def secrets(hub):
    body = {"channel": "logs", "event": "e"}
    for path in ("/broadcast", "/api/v1/broadcast", "/interrupt"):
        error(hub.http("POST", path, body), 401)
        for wrong in ("x", hub.secret + "x", hub.secret[:-1], hub.token("ann")):
            error(hub.http("POST", path, body, secret=wrong), 401)
        error(hub.http("POST", path, "not json"), 401)


@case("403 for reserved names, 404 for an absent connection")
def forbidden(hub):
    for body in ({"channel": "system:x", "event": "e"}, {"channel": "@me", "event": "e"}, {"channel": "operation:x", "event": "e"}, {"channel": "a", "event": "system:x"}):
        answer = hub.post("/broadcast", body)
        assert answer.status in (400, 403, 404), f"{body}: {answer}"
        error(answer, answer.status, "forbidden", "bad_request", "unknown_operation")
    error(hub.post("/broadcast", {"connection_id": "nobody", "event": "e"}), 404, "unknown_connection")


@case("413 too large, 415 content type, 405 method, 404 path")
def other_statuses(hub):
    big = {"channel": "logs", "event": "e", "data": "x" * (512 * 1024)}
    error(hub.post("/broadcast", big), 413, "too_large")
    fits = {"channel": "fits", "event": "e", "data": "x" * (511 * 1024)}
    same(hub.post("/broadcast", fits).status, 200)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        error(hub.http("POST", "/broadcast", '{"channel":"logs","event":"e"}', {"Content-Type": kind}, hub.secret), 415)
    same(hub.http("POST", "/broadcast", '{"channel":"l","event":"e"}', {"Content-Type": "application/json; charset=utf-8"}, hub.secret).status, 200)
    for method, path in (("GET", "/broadcast"), ("PUT", "/broadcast"), ("DELETE", "/interrupt"), ("POST", "/healthz"), ("POST", "/api/v1/ws/stats"), ("POST", "/api/v1/ws")):
        answer = hub.http(method, path, secret=hub.secret)
        error(answer, 405)
        assert "allow" in answer.headers, f"405 without Allow at {path}"
    for path in ("/", "/nothing", "/api/v1/", "/ws/other"):
        error(hub.http("GET", path), 404)


@case("a plain GET of the WebSocket path asks for an upgrade")
def no_upgrade(hub):
    answer = hub.http("GET", "/api/v1/ws", secret=hub.token("ann"))
    assert answer.status in (400, 426), answer
    error(answer, answer.status)


@case("kept and pipelined requests are answered in order")
def keep_alive(hub):
    connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=5)
    headers = {"Authorization": f"Bearer {hub.secret}", "Content-Type": "application/json"}
    with hub.subscriber("kept", user="ann") as ann:
        for n in range(50):
            connection.request("POST", "/broadcast", json.dumps({"channel": "kept", "event": "e", "data": n}), headers)
            response = connection.getresponse()
            same(response.status, 200)
            response.read()
        same([ann.receive("message")["data"] for _ in range(50)], list(range(50)))
    connection.close()


@case("curl gets the reason for TLS, scheme and Upgrade errors")
def refusals_with_reason(_):
    with Hub() as hub:
        at = f"http://127.0.0.1:{hub.port}"
        done = subprocess.run(["curl", "-sSk", f"https://127.0.0.1:{hub.port}/healthz"], capture_output=True, text=True, timeout=20)
        assert done.returncode != 0, "TLS is spoken"
        for arguments, status, words in (
            (["-u", "ann:secret", f"{at}/metrics"], 401, "scheme Basic"),
            (["-H", f"Authorization: {hub.secret}", f"{at}/metrics"], 401, "names no scheme"),
            ([f"{at}/ws"], 426, "a proxy in between"),
            (["-H", "Host: hub.example.org", f"{at}/healthz"], 403, "allowed_hosts"),
        ):
            got, answer = curl(hub, *arguments)
            same(got, status, answer)
            assert words in json.loads(answer)["message"], answer
        refused = hub.worker().ask({"action": "stats"})["refused"]
        same(refused, {"bad_request": 1, "host": 1, "no_upgrade": 1, "secret_scheme": 2})


@case("broadcast to all reaches every authenticated connection")
def to_all(hub):
    with hub.connect("ann") as ann, hub.connect("bob") as bob:
        answer = hub.post("/broadcast", {"all": True, "event": "news", "data": "hi"}).json()
        same((answer["sent"], answer["failed"]), (2, 0))
        for wire in (ann, bob):
            message = wire.receive("message")
            same((message["event"], message["data"]), ("news", "hi"))
            assert "channel" not in message and "seq" not in message, message


@case("a broadcast to a connection or a user reaches only that")
def to_one(hub):
    with hub.connect("ann") as ann, hub.connect("bob") as bob:
        answer = hub.post("/broadcast", {"connection_id": ann.id, "event": "e", "data": 1}).json()
        same((answer["connection_id"], answer["sent"]), (ann.id, 1))
        same(ann.receive("message")["data"], 1)
        answer = hub.post("/broadcast", {"user_id": "bob", "event": "e", "data": 2}).json()
        same((answer["user_id"], answer["sent"]), ("bob", 1))
        same(bob.receive("message")["data"], 2)
        assert not [f for w in (ann, bob) for f in w.until_pong() if f["type"] == "message"], "somebody heard twice or too much"


@case("the same message_id is a duplicate and received once")
def duplicate(hub):
    with hub.subscriber("once") as ann:
        body = {"channel": "once", "event": "e", "message_id": "m-1", "data": 1}
        first, second = hub.post("/broadcast", body).json(), hub.post("/broadcast", body).json()
        same((first["message_id"], first.get("duplicate")), ("m-1", None))
        same((second["type"], second["message_id"], second.get("duplicate")), ("send_success", "m-1", True))
        same(len([f for f in ann.until_pong() if f["type"] == "message"]), 1)


@case("POST /interrupt waits for the final outcome")
def interrupt(hub):
    with hub.worker() as worker, hub.subscriber("jobs"):
        same(worker.ask({"action": "operation_start", "operation_id": "h1", "channel": "jobs"})["type"], "ok")
        status, body = curl(hub, f"http://127.0.0.1:{hub.port}/interrupt", "-H", f"Authorization: Bearer {hub.secret}", "--json",
                            '{"operation_id":"h1","reason":"enough"}')
        result = json.loads(body)
        same((status, result["type"], result["outcome"], result["operation_id"]), (200, "interrupt_result", "delivered", "h1"))
        line = worker.receive("interrupt")
        same((line["operation_id"], line["channel"], line["from"], line.get("reason")), ("h1", "jobs", "http", "enough"))
        same(worker.ask({"action": "operation_end", "operation_id": "h1", "state": "interrupted"})["type"], "ok")
        same(hub.post("/interrupt", {"operation_id": "h1"}).json()["outcome"], "already_ended")
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(hub.post("/interrupt", {"operation_id": "h2"})))
        waiting.start()
        time.sleep(0.3)  # the request must be there first; the outcome is the same if it is not
        same(worker.ask({"action": "operation_start", "operation_id": "h2", "channel": "jobs"})["type"], "ok")
        waiting.join(12)
        same(answers[0].json()["outcome"], "delivered")
        worker.send({"action": "operation_end", "operation_id": "h2", "state": "interrupted"})
    started = time.monotonic()
    answer = hub.post("/interrupt", {"operation_id": "never-was"})
    took = time.monotonic() - started
    assert answer.status in (200, 404), answer
    assert answer.json().get("outcome") == "no_owner" or answer.json().get("code") == "unknown_operation", answer
    assert 9 < took < 12, f"after {took:.1f} s"
    for body in ({}, {"operation_id": 7.5}, {"operation_id": ""}, {"operation_id": "x" * 129}, {"operation_id": "a", "channel": 7}):
        error(hub.post("/interrupt", body), 400, "bad_request", "too_large")
    return f"no_owner after {took:.1f} s"


if __name__ == "__main__":
    run_cases()
