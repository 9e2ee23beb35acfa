"""A WebSocket client that can also violate the protocol.

Implements RFC 6455 frames and nothing of the hub. Conformance needs what well-behaved libraries refuse to send: unmasked
frames, partial frames, bad UTF-8, binary in the place of text. Blocking sockets, the standard library, one file.
"""

import base64
import json
import os
import socket
import struct
import time

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
# Long enough for a busy machine of two cores; no check waits for it unless something is wrong.
PATIENCE = 5.0


class Refused(Exception):
    """The upgrade was answered with something else than 101."""

    def __init__(self, status, headers, body):
        super().__init__(f"HTTP {status}: {body[:200]!r}")
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Closed(Exception):
    """The peer closed; `code` is None where no close frame came."""

    def __init__(self, code, reason=""):
        super().__init__(f"closed with {code} {reason!r}")
        self.code, self.reason = code, reason


class Silence(Exception):
    """Nothing came in time."""


def frame(opcode, payload=b"", fin=True, masked=True, rsv=0):
    head = bytes([(0x80 if fin else 0) | (rsv << 4) | opcode])
    mask_bit = 0x80 if masked else 0
    if len(payload) < 126:
        head += bytes([mask_bit | len(payload)])
    elif len(payload) < 1 << 16:
        head += bytes([mask_bit | 126]) + struct.pack("!H", len(payload))
    else:
        head += bytes([mask_bit | 127]) + struct.pack("!Q", len(payload))
    if not masked:
        return head + payload
    key = os.urandom(4)
    # One big integer XOR: a megabyte in a millisecond, without a dependency.
    long_key = (key * (len(payload) // 4 + 1))[: len(payload)]
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(long_key, "big")
    return head + key + mixed.to_bytes(len(payload), "big")


class WsClient:
    def __init__(self, port, path="/api/v1/ws", headers=None, protocols=(), host=None, rcvbuf=None):
        self.sock = self.dial(port, rcvbuf)
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host or f'127.0.0.1:{port}'}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
        ]
        if protocols:
            lines.append("Sec-WebSocket-Protocol: " + ", ".join(protocols))
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.buffer = b""
        self.fragments = []
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        status, *rest = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        self.headers = {k.strip().lower(): v.strip() for k, v in (line.split(":", 1) for line in rest)}
        if self.status != 101:
            length = int(self.headers.get("content-length", 0))
            while len(self.buffer) < length:
                self._more()
            self.sock.close()
            raise Refused(self.status, self.headers, self.buffer[:length])

    def dial(self, port, rcvbuf):
        """A socket that is connected."""
        sock = socket.socket()
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _more(self):
        try:
            chunk = self.sock.recv(65536)
        except (TimeoutError, socket.timeout):
            raise Silence("nothing came in time") from None
        except ConnectionError as e:
            raise Closed(None, str(e)) from None
        if not chunk:
            raise Closed(None, "end of stream without a close frame")
        self.buffer += chunk

    def _take(self, n):
        while len(self.buffer) < n:
            self._more()
        taken, self.buffer = self.buffer[:n], self.buffer[n:]
        return taken

    def raw_frame(self, within=PATIENCE):
        """The next frame as (opcode, payload), control frames included and unanswered."""
        self.sock.settimeout(within)
        while len(self.buffer) < 2:
            self._more()
        length, start = self.buffer[1] & 0x7F, 2
        if length == 126:
            start = 4
        elif length == 127:
            start = 10
        while len(self.buffer) < start:
            self._more()
        if start > 2:
            length = int.from_bytes(self.buffer[2:start], "big")
        whole = self._take(start + length)
        assert not whole[1] & 0x80, "the server masked a frame"
        assert not whole[0] & 0x70, "the server set reserved bits"
        return whole[0] & 0x0F, whole[start:]

    def next(self, within=PATIENCE):
        """The next JSON object; pings are answered, a close raises `Closed`."""
        end = time.monotonic() + within
        while True:
            opcode, payload = self.raw_frame(max(0.001, end - time.monotonic()))
            if opcode == PING:
                self.send_frame(PONG, payload)
            elif opcode == CLOSE:
                code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else None
                raise Closed(code, payload[2:].decode())
            elif opcode == TEXT:
                return json.loads(payload)
            elif opcode != PONG:
                raise AssertionError(f"opcode {opcode} from the server")

    def send_frame(self, opcode, payload=b"", **kw):
        self.sock.settimeout(PATIENCE)
        self.sock.sendall(frame(opcode, payload, **kw))

    def send(self, request):
        """Sends an object as JSON, or a string exactly as it is."""
        text = request if isinstance(request, str) else json.dumps(request)
        self.send_frame(TEXT, text.encode())

    def receive(self, kind, within=PATIENCE, **fields):
        """Skips to the next frame of this type whose named fields are equal."""
        seen = []
        end = time.monotonic() + within
        while True:
            try:
                got = self.next(max(0.001, end - time.monotonic()))
            except (Silence, Closed) as e:
                raise AssertionError(f"waited for {kind} {fields or ''}; {e}; came before: {seen[-4:]}") from None
            if got.get("type") == kind and all(got.get(k) == v for k, v in fields.items()):
                return got
            seen.append(got)

    def until_pong(self):
        """All that came before the answer to a ping of ours: answers keep the order of requests."""
        mark = "fence-" + os.urandom(4).hex()
        self.send({"action": "ping", "id": mark})
        came = []
        while True:
            got = self.next()
            if got.get("type") == "pong" and got.get("id") == mark:
                return came
            came.append(got)

    def ask(self, request, mark="q1"):
        """The one frame that answers this request by its id."""
        self.send({**request, "id": mark})
        seen = []
        while True:
            try:
                got = self.next()
            except (Silence, Closed) as e:
                raise AssertionError(f"{request} was not answered: {e}; came instead: {seen[-4:]}") from None
            if got.get("id") == mark:
                return got
            seen.append(got)

    def close_code(self, within=PATIENCE):
        """Reads to the end; the code of the close frame, None without one."""
        end = time.monotonic() + within
        try:
            while True:
                self.next(max(0.001, end - time.monotonic()))
        except Closed as e:
            return e.code

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
