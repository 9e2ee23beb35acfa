"""Close codes: the standard's and the hub's own, and errors that do not close."""

import signal
import socket
import struct
import threading
import time

from daemon import Hub
from harness import case, run_cases, same
from ws_client import BINARY, CLOSE, PING, PONG, TEXT, Closed, Silence, frame


def closes(hub, code, *frames):
    with hub.connect() as wire:
        for raw in frames:
            try:
                wire.sock.sendall(raw)
            except (BrokenPipeError, ConnectionResetError):
                break
        same(wire.close_code(), code)


@case("a binary frame closes with 1003")
def binary(hub):
    closes(hub, 1003, frame(BINARY, b'{"action":"ping"}'))
    closes(hub, 1003, frame(BINARY, b""))


@case("a message over message_bytes closes with 1009")
def too_big(hub):
    closes(hub, 1009, frame(TEXT, b"x" * (512 * 1024 + 1)))
    for length in (512 * 1024 + 1, 2**32, 2**40, 2**63 - 1):
        closes(hub, 1009, bytes([0x81, 0xFF]) + struct.pack("!Q", length) + b"mask")
    part = b"x" * 65536
    closes(hub, 1009, frame(TEXT, part, fin=False), *[frame(0, part, fin=False)] * 9)


@case("a frame of exactly message_bytes is answered")
def just_fits(hub):
    with hub.connect() as wire:
        text = '{"action":"send","channel":"big","event":"e","id":"q1","data":"'
        wire.send(text + "x" * (524288 - len(text) - 2) + '"}')
        same(wire.receive("send_success")["id"], "q1")


@case("text that is not UTF-8 closes with 1007, in fragments too")
def bad_utf8(hub):
    closes(hub, 1007, frame(TEXT, b'{"action":"\xff"}'))
    closes(hub, 1007, frame(TEXT, b'{"a":"\xc3', fin=False), frame(0, b'("}'))
    closes(hub, 1007, frame(TEXT, b'"\xed\xa0\x80"'))


@case("malformed frames close with 1002")
def protocol_errors(hub):
    for raw in (frame(TEXT, b"{}", masked=False), frame(TEXT, b"{}", rsv=4), frame(TEXT, b"{}", rsv=1), frame(3, b""), frame(11, b""),
                frame(PING, b"x" * 126), frame(PING, b"", fin=False), frame(0, b"x"), frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"),
                bytes([0x81, 0xFE, 0, 2]) + b"mask{}", frame(CLOSE, b"x"), frame(CLOSE, struct.pack("!H", 1005)), frame(CLOSE, struct.pack("!H", 999))):
        closes(hub, 1002, raw)


@case("a close is answered with its code, a ping with its payload")
def polite(hub):
    with hub.connect() as wire:
        wire.send_frame(PING, b"are you there")
        same(wire.raw_frame(), (PONG, b"are you there"))
        wire.send_frame(CLOSE, struct.pack("!H", 1000) + b"done")
        same(wire.close_code(), 1000)
        try:
            wire.raw_frame()
            raise AssertionError("the socket is still open after both close frames")
        except Closed:
            pass


@case("fragments with a ping between them are one message")
def fragments(hub):
    with hub.connect() as wire:
        text = b'{"action":"ping","id":"split"}'
        wire.send_frame(TEXT, text[:5], fin=False)
        wire.send_frame(PING, b"between")
        same(wire.raw_frame(), (PONG, b"between"))
        wire.send_frame(0, text[5:9], fin=False)
        wire.send_frame(0, text[9:])
        same(wire.receive("pong")["id"], "split")


@case("frames beside the handshake, or byte by byte, are answered")
def packets(hub):
    with socket.create_connection(("127.0.0.1", hub.port)) as sock:
        sock.sendall((f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
                      f"Authorization: Bearer {hub.token('ann')}\r\n\r\n").encode() + frame(TEXT, b'{"action":"ping","id":"early"}'))
        sock.settimeout(3)
        came = b""
        while b'"early"' not in came:
            chunk = sock.recv(4096)
            assert chunk, f"closed after {came!r}"
            came += chunk
        assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in came, "the accept value of RFC 6455, section 1.3"
    with hub.connect() as wire:
        for byte in frame(TEXT, b'{"action":"ping","id":"slow"}'):
            wire.sock.sendall(bytes([byte]))
        same(wire.receive("pong")["id"], "slow")


@case("the fifth malformed request closes with 4009")
def budget(hub):
    with hub.connect() as wire:
        for n, text in enumerate(["{", '{"action":"subscribe"}', '{"action":"fly"}', "[]", '{"action":"send","event":7}']):
            wire.send(text)
            error = wire.next()
            same(error["type"], "error", text)
        bye = wire.receive("bye")
        same((bye["code"], bye["reconnect"]), (4009, False))
        same(wire.close_code(), 4009)
    with hub.connect() as wire:
        for _ in range(12):
            same(wire.ask({"action": "send", "connection_id": "nobody", "event": "e"})["code"], "unknown_connection")
        wire.until_pong()


@case("over 20 requests at once are rate_limited with retry_after")
def rate(hub):
    with hub.connect() as wire:
        started = time.monotonic()
        for n in range(60):
            wire.send({"action": "ping", "id": n})
        came = [wire.next() for _ in range(60)]
        took = time.monotonic() - started
        pongs = [f for f in came if f["type"] == "pong"]
        limited = [f for f in came if f["type"] == "error"]
        same([f["id"] for f in came], list(range(60)), "answered in order")
        assert 20 <= len(pongs) <= 21 + 10 * took, f"{len(pongs)} of 60 answered in {took:.2f} s"
        assert limited and all(f["code"] == "rate_limited" and f["retry_after"] > 0 for f in limited), limited[:2]
        time.sleep(1.05)
        for n in range(9):
            wire.send({"action": "ping", "id": n})
        same([wire.next()["type"] for _ in range(9)], ["pong"] * 9, "a second later")
    return f"{len(pongs)} of 60 at once"


@case("ack and auth are free, interrupts and whispers rated apart")
def own_buckets(hub):
    with hub.connect() as wire:
        wire.send({"action": "subscribe", "channel": "logs"})
        wire.receive("subscription_succeeded")
        for n in range(25):
            wire.send({"action": "ping"})
        for _ in range(25):
            wire.next()
        for _ in range(100):
            wire.send({"action": "ack", "epoch": "e", "seq": 1})
        wire.send({"action": "interrupt", "id": "i", "data": {"operation_id": "x"}})
        same(wire.next().get("type"), "interrupt_result", "an interrupt with the bucket of requests empty")
        wire.send({"action": "auth", "token": hub.token("ann"), "id": "a"})
        same(wire.next()["type"], "auth_success")


@case("500 refusals in a minute close with 4103")
def refusals(hub):
    with hub.connect() as wire:
        for n in range(700):
            try:
                wire.send({"action": "ping"})
            except OSError:
                break
        same(wire.close_code(), 4103)


@case("a 129th subscription is too_many_subscriptions")
def subscriptions(_):
    with Hub(LIMITS__BURST="500") as hub, hub.connect() as wire:
        for n in range(128):
            wire.send({"action": "subscribe", "channel": f"c{n}"})
        wire.send({"action": "subscribe", "channel": "c128", "id": "last"})
        wire.send({"action": "subscribe", "channel": "c5", "id": "again"})
        same([wire.receive("subscription_succeeded")["channel"] for _ in range(128)], [f"c{n}" for n in range(128)])
        error = wire.next()
        same((error["type"], error["code"], error["id"]), ("error", "too_many_subscriptions", "last"))
        same(wire.next()["id"], "again", "one that is there already is no 129th")
        wire.send({"action": "unsubscribe", "channel": "c0"})
        wire.send({"action": "subscribe", "channel": "c128", "id": "now"})
        same(wire.receive("subscription_succeeded")["id"], "now")


def wait_in_silence(wire, seconds):
    """Answers pings and expects nothing else."""
    try:
        raise AssertionError(f"{wire.next(seconds)} came")
    except Silence:
        pass


def deaf_until_closed(wire):
    """The code of the close frame; pings before it stay unanswered."""
    while True:
        opcode, payload = wire.raw_frame(5)
        if opcode == CLOSE:
            return int.from_bytes(payload[:2], "big")


@case("a silent peer is pinged, then closed with 4203")
def heartbeat(_):
    with Hub(HEARTBEAT__PING_INTERVAL="1s", HEARTBEAT__PONG_TIMEOUT="3s") as hub:
        with hub.connect() as wire, hub.connect() as living:
            same((wire.hello["ping_interval"], wire.hello["pong_timeout"]), (1, 3))
            started = time.monotonic()
            opcode, _payload = wire.raw_frame(4)
            same(opcode, PING)
            pinged = time.monotonic() - started
            # The other one answers, which its `next` does for it; it outlives the first.
            answering = threading.Thread(target=wait_in_silence, args=(living, 6))
            answering.start()
            same(deaf_until_closed(wire), 4203)
            closed = time.monotonic() - started
            answering.join()
            living.until_pong()
    assert 0.8 < pinged < 2.5 and 2.5 < closed < 6, f"ping after {pinged:.1f} s, close after {closed:.1f} s"
    return f"ping after {pinged:.2f} s, close after {closed:.2f} s"


@case("a clean stop sends bye with 4101 and a reconnect delay")
def stopping(_):
    with Hub() as hub:
        wires = [hub.connect() for _ in range(10)]
        started = time.monotonic()
        hub.process.send_signal(signal.SIGTERM)
        waits = set()
        for wire in wires:
            bye = wire.receive("bye")
            same((bye["code"], bye["reconnect"]), (4101, True))
            waits.add(bye["after_ms"])
            same(wire.close_code(), 4101)
            wire.close()
        same(hub.process.wait(10), 0)
        took = time.monotonic() - started
        assert len(waits) > 1, f"the same after_ms for everybody: {waits}"
        hub.stop = lambda: None
    assert took < 5, f"{took:.1f} s"
    return f"stopped in {took * 1000:.0f} ms"


@case("a client that vanishes, even in mid-frame, affects nobody")
def vanish(hub):
    with hub.subscriber("logs") as ann:
        for n in range(50):
            wire = hub.subscriber("logs", user=f"u{n}")
            wire.sock.sendall(frame(TEXT, b'{"action":"ping"}')[: n % 10])
            if n % 2:
                wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wire.close()
        hub.post("/broadcast", {"channel": "logs", "event": "e", "data": "still here"})
        same(ann.receive("message")["data"], "still here")
        ann.until_pong()


if __name__ == "__main__":
    run_cases()
