"""The worker socket: valid, invalid, partial and over-long lines, socat in a shell, and the frames of a subscribed worker."""

import json
import os
import subprocess
import threading
import time

from harness import case, run_cases, same
from ws_client import Silence


def error(answer, *codes, names=None):
    same(answer["type"], "error", str(answer))
    assert answer["code"] in codes, f"{answer}: the contract says {codes}"
    assert answer.get("message"), answer
    if names:
        assert names in answer["message"], f"{answer} does not name {names}"


@case("a shell publishes a line through socat without a handshake")
def by_socat(hub):
    with hub.subscriber("logs") as ann:
        line = '{"channel":"logs","event":"log","data":"hi"}'
        done = subprocess.run(["bash", "-c", f"echo '{line}' | socat - UNIX-CONNECT:{hub.worker_path}"], capture_output=True, text=True, timeout=10)
        same((done.returncode, done.stdout, done.stderr), (0, "", ""), "socat, a line without id")
        message = ann.receive("message")
        same((message["channel"], message["event"], message["data"], message["from"], message["source"]), ("logs", "log", "hi", "worker", "worker"))
        done = subprocess.run(["bash", "-c", f"for i in $(seq 1000); do echo '{{\"channel\":\"logs\",\"event\":\"log\",\"data\":'$i'}}'; done | socat - UNIX-CONNECT:{hub.worker_path}"], timeout=30)
        same([ann.receive("message")["data"] for _ in range(1000)], list(range(1, 1001)))
    return "1,001 lines"


@case("a line with an id is answered once, without one never")
def ids(hub):
    with hub.worker() as worker, hub.subscriber("logs"):
        worker.send({"channel": "logs", "event": "e", "data": 1})
        answer = worker.ask({"channel": "logs", "event": "e", "data": 2}, "w9")
        same((answer["type"], answer["channel"], answer["sent"], answer["failed"], answer["stored"]), ("ok", "logs", 1, 0, False))
        assert isinstance(answer["kept"], bool) and answer["message_id"], answer
        same(worker.ask({"channel": "logs", "event": "e"}, 17)["id"], 17)
        for spelled in ({"action": "publish"}, {"action": "send"}):
            same(worker.ask({**spelled, "channel": "logs", "event": "e"})["type"], "ok", str(spelled))
        same(worker.ask({"channel": "logs", "type": "e"})["type"], "ok", "type for event")
        same(worker.ask({"userId": "ann", "event": "e"})["user_id"], "ann")


@case("malformed lines get an error and the connection lives")
def garbage(hub):
    with hub.worker() as worker:
        for line in (b"hello\n", b"{\n", b"[1]\n", b"7\n", b"\xff\xfe\n", b"{\"channel\":\"a\"} x\n", b"null\n", b"GET / HTTP/1.1\r\n"):
            worker.send(line)
            error(worker.next(), "bad_json", "bad_request")
        worker.send(b'{"channel":"logs","event":"e","id":1}\r\n')
        same(worker.next()["type"], "ok", "CRLF at the end of a line")
        same(worker.ask({"channel": "logs", "event": "e"})["type"], "ok")


@case("more than five errors do not close a worker")
def no_budget(hub):
    with hub.worker() as worker:
        for n in range(200):
            error(worker.ask({"action": "fly"}, n), "unknown_action")


@case("publish: a missing, mistyped or long field is named")
def fields(hub):
    whole = {"channel": "logs", "event": "line", "data": 1}
    with hub.worker() as worker:
        for field, values in {"channel": [7, True, [], {}, "", "a b"], "event": [None, 7, [], {}, ""], "ttl": ["soon", True, [], -1],
                              "durable": [1, "yes", []], "message_id": [7.5, True, [], ""]}.items():
            for value in values:
                error(worker.ask({**whole, field: value}), "bad_request", names=field)
        error(worker.ask({"channel": "logs"}), "bad_request", names="event")
        for field in ("channel", "event", "message_id"):
            error(worker.ask({**whole, field: "x" * 129}), "too_large")
        for target in ({}, {"channel": "a", "all": True}, {"user_id": "a", "channel": "b"}, {"all": 1}):
            error(worker.ask({"event": "e", **target}), "bad_request")
        error(worker.ask({"connection_id": "nobody", "event": "e"}), "unknown_connection")
        for reserved in ("system:x", "@me", "@user:ann"):
            error(worker.ask({**whole, "channel": reserved}), "forbidden", "bad_request")
        error(worker.ask({**whole, "channel": "operation:none"}), "forbidden", "unknown_operation", "bad_request")
        error(worker.ask({**whole, "event": "system:x"}), "forbidden", "bad_request")
        same(worker.ask({**whole, "colour": "blue"})["type"], "ok", "an unknown field")
        worker.send(b'{"channel":"a","channel":"b","event":"e","id":5}\n')
        error(worker.next(), "bad_request", "bad_json")
        for bad in ({"id": True}, {"id": []}):
            worker.send({**whole, **bad})
            error(worker.next(), "bad_request")


@case("other actions with missing, mistyped or long fields")
def actions(hub):
    start = {"action": "operation_start", "operation_id": "f1", "channel": "jobs"}
    with hub.worker() as worker:
        for action in ("subscribe", "unsubscribe"):
            error(worker.ask({"action": action}), "bad_request", names="channel")
            for value in (7, True, [], {}, "", "a b", None):
                error(worker.ask({"action": action, "channel": value}), "bad_request", names="channel")
            error(worker.ask({"action": action, "channel": "x" * 129}), "too_large")
        for field, values in {"operation_id": [None, 7.5, True, [], "", "a\u0000"], "channel": [None, 7, [], "a b"], "user_id": [True, [], {}],
                              "label": [7, [], {}], "deadline": [True, [], {}], "interrupt_grace": [True, [], -1]}.items():
            for value in values:
                error(worker.ask({**start, field: value}), "bad_request", names=field)
        for field in ("operation_id", "channel", "user_id"):
            error(worker.ask({**start, field: "x" * 129}), "too_large")
        for field in ("operation_id", "channel"):
            error(worker.ask({k: v for k, v in start.items() if k != field}), "bad_request", names=field)
        error(worker.ask({"action": "operation_end", "state": "completed"}), "bad_request", names="operation_id")
        same(worker.ask(start)["type"], "ok")
        for state in ("running", "", 7, None, "Completed"):
            error(worker.ask({"action": "operation_end", "operation_id": "f1", "state": state}), "bad_request", names="state")
        error(worker.ask({"action": "operation_end", "operation_id": "never", "state": "completed"}), "unknown_operation")
        same(worker.ask({"action": "operation_end", "operation_id": "f1", "state": "completed"})["type"], "ok")
        for value in ("", "fly", "Publish"):
            error(worker.ask({"action": value, "channel": "a", "event": "e"}), "unknown_action")
        for value in (7, [], {}):
            error(worker.ask({"action": value, "channel": "a", "event": "e"}), "bad_request", "unknown_action")


@case("a partial line at end of file is an error, never a message")
def half_line(hub):
    with hub.subscriber("halves") as ann:
        with hub.worker() as worker:
            worker.send(b'{"channel":"halves","event":"whole","data":1}\n{"channel":"halves","event":"half","data":2}')
            worker.half_close()
            error(worker.next(), "bad_json", "bad_request")
            same(worker.next(), None, "the end of the stream")
        same([f["event"] for f in ann.until_pong() if f["type"] == "message"], ["whole"])


@case("a line over the limit is skipped and answered too_large")
def long_line(hub):
    with hub.worker() as worker, hub.subscriber("long") as ann:
        for size in (512 * 1024 + 1, 3_000_000):
            worker.sock.settimeout(20)
            worker.send(b'{"channel":"logs","event":"e","data":"' + b"x" * size + b'"}\n{"channel":"long","event":"after","id":3}\n')
            error(worker.next(), "too_large")
            same(worker.next()["type"], "ok")
        same([f["event"] for f in ann.until_pong() if f["type"] == "message"], ["after", "after"])
        # Exactly the limit passes: the line without its end, as a reader of "at most message_bytes long" would count.
        line = b'{"channel":"logs","event":"e","id":4,"data":"'
        worker.send(line + b"x" * (524288 - len(line) - 2) + b'"}\n')
        same(worker.next()["type"], "ok", "a line of exactly 512 KiB")


@case("a line byte by byte, and a thousand lines in one write")
def pieces(hub):
    with hub.worker() as worker:
        for byte in b'{"channel":"logs","event":"e","id":8}\n':
            worker.send(bytes([byte]))
        same(worker.next()["id"], 8)
        worker.send(b"".join(b'{"channel":"lots","event":"e","id":%d}\n' % n for n in range(1000)))
        same([worker.next()["id"] for _ in range(1000)], list(range(1000)))
        worker.send(b"\n\n\r\n")
        same(worker.ask({"channel": "logs", "event": "e"})["type"], "ok", "after empty lines")


@case("a worker subscribes, receives others', then unsubscribes")
def subscribe(hub):
    with hub.worker() as one, hub.worker() as two, hub.connect("ann") as ann:
        for worker in (one, two):
            same(worker.ask({"action": "subscribe", "channel": "talk"})["type"], "ok")
        same(one.ask({"channel": "talk", "event": "e", "data": "from one"})["sent"], 1, "sent, a worker does not hear itself")
        message = two.receive("message")
        same((message["data"], message["channel"], message["source"]), ("from one", "talk", "worker"))
        same(ann.ask({"action": "send", "channel": "talk", "event": "e", "data": "from ann"})["sent"], 2)
        for worker in (one, two):
            message = worker.receive("message")
            same((message["data"], message["user_id"], message["from"], message["source"]), ("from ann", "ann", ann.id, "client"))
        same(two.ask({"action": "unsubscribe", "channel": "talk"})["type"], "ok")
        same(two.ask({"action": "unsubscribe", "channel": "talk"})["type"], "ok", "unsubscribe twice")
        one.ask({"channel": "talk", "event": "e"})
        try:
            raise AssertionError(f"after unsubscribe came {two.next(0.3)}")
        except Silence:
            pass


@case("20,000 worker lines at full speed keep their order")
def order(hub):
    with hub.worker() as writer, hub.worker() as reader:
        same(reader.ask({"action": "subscribe", "channel": "flood"})["type"], "ok")
        lines = b"".join(b'{"channel":"flood","event":"e","data":%d}\n' % n for n in range(20_000))
        writer.sock.settimeout(60)
        threading.Thread(target=writer.sock.sendall, args=(lines,), daemon=True).start()
        started, expected, lost = time.monotonic(), 0, 0
        while expected < 20_000:
            got = reader.next(20)
            if got["type"] == "gap":
                assert got["cause"] in ("slow", "evicted"), got
                lost += got["lost"]
                expected += got["lost"]
            else:
                same(got["data"], expected, "the next one in order")
                expected += 1
        took = time.monotonic() - started
    return f"{20_000 / took:,.0f} lines a second, {lost} shed and told in gaps"


@case("administration lines are answered with their id")
def administration(hub):
    with hub.worker() as worker, hub.subscriber("seen") as ann:
        for action in ("stats", "connections", "channels", "operations"):
            answer = worker.ask({"action": action})
            same(answer["type"], "ok", action)
            assert len(answer) > 2, f"{action} says nothing: {answer}"
        assert ann.id in json.dumps(worker.ask({"action": "connections"})), "connections does not list the connection"
        assert "seen" in json.dumps(worker.ask({"action": "channels"})), "channels does not list the channel"


@case("an administrator's disconnect sends bye and closes 4003")
def disconnect(hub):
    with hub.worker() as worker, hub.connect("ann") as ann:
        answer = worker.ask({"action": "disconnect", "connection_id": ann.id})
        same(answer["type"], "ok", str(answer))
        bye = ann.receive("bye")
        same((bye["code"], bye["reconnect"]), (4003, False))
        same(ann.close_code(), 4003)


@case("by default the worker socket belongs to its user alone")
def private(hub):
    mode = os.stat(hub.worker_path).st_mode & 0o777
    assert mode & 0o007 == 0, f"mode {oct(mode)}"


if __name__ == "__main__":
    run_cases()
