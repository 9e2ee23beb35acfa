"""Seeds and dictionaries for the fuzz targets, made of what the repository says elsewhere:

    seeds.py DIRECTORY     writes DIRECTORY/TARGET/* and DIRECTORY/TARGET.dict

Examples of requests come from the page on the protocol, options from the example of a
configuration. What else is here is the shape that a target wants around them.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "src/protocol/PROTOCOL.md").read_text()
OPTIONS = (ROOT / "packaging/wshubd.toml").read_text()

# Where a target cuts its input, by its first two bytes: not at all often, and often.
CUTS = [b"\0\1", b"\7\7"]


def examples(speaker):
    """The JSON values of all blocks of one speaker."""
    decoder = json.JSONDecoder()
    for block in re.findall(rf"```json {speaker}\n(.*?)\n```", PAGE, re.S):
        rest = block.strip()
        while rest:
            _, end = decoder.raw_decode(rest)
            yield rest[:end]
            rest = rest[end:].strip()


def frame(first, payload):
    """A WebSocket frame under a mask of zeroes, which leaves its payload readable."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
    return bytes([first]) + length + bytes(4) + payload


def frames():
    text, ping, pong, close = 0x81, 0x89, 0x8A, 0x88
    yield from (frame(text, request.encode()) for request in examples("client"))
    yield frame(0x82, bytes(20))
    yield frame(ping, b"?") + frame(pong, b"") + frame(text, b"{}")
    yield frame(ping, b"?") * 40 + frame(text, b"after")
    yield frame(0x01, b"one ") + frame(ping, b"") + frame(0x00, b"two ") + frame(0x80, b"three")
    yield frame(0x01, "é".encode()[:1]) + frame(0x80, "é".encode()[1:])
    yield frame(close, (1000).to_bytes(2, "big") + b"bye") + frame(text, b"late")
    yield frame(text, bytes([0xC0, 0xAF]))
    yield bytes([text, 0xFF]) + (1 << 40).to_bytes(8, "big") + bytes(4)
    yield frame(0x01, b"") + frame(0x00, b"") * 30


def heads():
    upgrade = (
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n"
    )
    for path, host, more in [
        ("/ws", "localhost:8098", ""),
        ("/ws?token=a.b.c&inbox=ack", "127.0.0.1", "Origin: http://127.0.0.1:3000\r\n"),
        ("/api/v1/ws?a=b&token=%41.%zz", "[::1]:8098", "Origin: http://[::1]\r\n"),
        ("/ws", "hub.example", "Origin: https://app.example\r\n"),
        ("/ws", "hub.example", "Origin: null\r\nAuthorization: Bearer a.b.c\r\n"),
        ("/ws", "BOX.local", "Sec-WebSocket-Protocol: wshub.v1, wshub.bearer.a.b.c\r\n"),
        ("/ws", "evil.example", "Host: localhost\r\n"),
        ("/ws/", "localhost.:", "Forwarded: for=203.0.113.9, for=\"[2001:db8::7]:4711\";proto=https, for=192.0.2.9\r\n"),
        ("//ws", "[::ffff:127.0.0.1]", "Forwarded: for=unknown\r\nForwarded: For=192.0.2.7;by=_x\r\nVia: 1.1 a\r\n"),
        ("/ws", "localhost", "Authorization: Basic YTpi\r\nOrigin: http://localhost.evil.example\r\n"),
        ("/ws", "app.localhost:", "Origin: http://app.localhost:5173\r\n"),
        ("/ws", "localhost", "Origin: http://app.localhost:5173\r\n"),
    ]:
        yield upgrade.format(path=path, host=host, more=more).encode()
    yield upgrade.format(path="/ws", host="localhost", more="").encode()[:-2]
    yield b"POST /broadcast HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}"
    yield b"GET http://other/ws HTTP/1.0\nHost: localhost\n\n"
    yield b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n b: folded\r\n\r\n"
    yield b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    yield b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 65 + b"\r\n"


def tokens():
    claims = [
        '{"user_id":"ada","exp":1750000060}',
        '{"sub":7,"exp":1750000000.5,"nbf":1750000004}',
        '{"sub":"ada","exp":1749999999}',
        '{"sub":"ada","exp":1e300}',
        '{"userId":"a","exp":1750000060,"wshub":{"subscribe":["logs:*"],"publish":["@user:*"],"admin":true}}',
        '{"sub":"ada","exp":1750000060,"sub":"bob"}',
    ]
    yield b"\0" + b"eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoiYWRhIn0.c2ln"
    yield b"\0" + b"eyJhbGciOiJub25lIn0.e30."
    for alg in ("RS256", "ES256", "EdDSA"):
        yield b"\2" + json.dumps({"alg": alg}).encode() + b"\n" + claims[0].encode()
    for text in claims:
        yield b"\1" + text.encode()
        yield b"\2" + b'{"alg":"HS256","kid":"secret","typ":"JWT"}\n' + text.encode()
    # JWK sets, under HS256 and public algorithms.
    secret = {"kty": "oct", "kid": "a", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}
    yield b"\4\0" + json.dumps(secret).encode()
    yield b"\4\0" + json.dumps({"keys": [{**secret, "use": "enc"}, {**secret, "key_ops": ["verify"]}]}).encode()
    public = (Path(__file__).parent.parent / "token/keys/jwks.json").read_bytes()
    for alg in (3, 6, 9, 10, 11):
        yield bytes([4, alg]) + public
    yield b"\2" + b'{"alg":"HS256","crit":["b64"]}\n' + claims[0].encode()
    yield b"\3" + b"\0e"
    yield b"\3" + bytes([5, 0x2E, 200, 0x41])


def configurations():
    """The example whole and by its sections, with all that it shows in effect."""
    lines = [re.sub(r"^#(   )?(?=[\[a-z])", "", line) for line in OPTIONS.splitlines()]
    sections = []
    for line in (line for line in lines if line and not line.startswith("#")):
        if line.startswith("["):
            sections.append([line])
        # An option has several examples, and one value.
        elif not any(known.startswith(line.split(" = ")[0] + " = ") for known in sections[-1]):
            sections[-1].append(line)
    texts = ["\n".join(section) for section in sections]
    yield "\n\n".join(texts).encode()
    yield from (text.encode() for text in texts)
    yield b'[listen]\nhttp = ["127.0.0.1:1"]\0WSHUBD_LISTEN__HTTP=[\'[::1]:2\']\nWSHUBD_LOG__LEVEL=debug'


def histories():
    """Some that begin with subscribing peers; the fuzzer finds the rest."""
    come, subscribe, publish = bytes([0, 0, 6]), [4, 0], [10, 1]
    for seed in range(12):
        state, steps = seed + 1, bytearray(come * 2 + bytes([0, 1, 0]))
        for channel in range(5):
            steps += bytes([subscribe[0], channel, channel, 0]) + bytes([publish[0], seed, 0, 0, channel])
        for _ in range(120):
            state = (state * 1103515245 + 12345) & 0x7FFFFFFF
            steps.append(state >> 16 & 0xFF)
        yield bytes(steps)


def cut(texts):
    return [CUTS[number % 2] + text for number, text in enumerate(texts)]


def words():
    """The words that the page sets in code."""
    return sorted({word for code in re.findall(r"`([^`\n]+)`", PAGE) for word in re.findall(r"[\w:@.-]{2,}", code)})


def main():
    directory = Path(sys.argv[1])
    clients = [text.encode() for text in examples("client")]
    workers = [text.replace("\n", " ").encode() + b"\n" for text in examples("worker")]
    bodies = [text.encode() for speaker in ("broadcast", "http-interrupt") for text in examples(speaker)]
    seeds = {
        "client_frames": clients,
        "configuration": configurations(),
        "http_bodies": bodies,
        "http_heads": heads(),
        "hub_histories": histories(),
        "store_records": cut([b"", b"a text", b"c" * 700, "".join(map(chr, range(1, 200))).encode()]),
        "tokens": tokens(),
        "worker_lines": cut([*workers, b"".join(workers[:4]), b"\n \r\n{}\n" + b"x" * 300 + b"\n{}"]),
        "ws_decoder": cut(frames()),
    }
    requests = [f'"{word}"' for word in words()] + ["null", "true", "false", "1e3", "\\u0041", "[{", "}]"]
    names = "Host Origin Authorization Upgrade Connection Sec-WebSocket-Protocol Content-Length Transfer-Encoding Forwarded"
    headers = [f"\r\n{name}: " for name in names.split()]
    headers += ["Bearer ", "wshub.v1", "wshub.bearer.", "?token=", "localhost", "http://", "https://", "[::1]", "null"]
    headers += ["for=", "192.0.2.9", "192.0.2.1", "unknown", "_x", "://*."]
    claims = [f'"{name}":' for name in "alg kid crit user_id userId sub exp nbf wshub subscribe publish admin".split()]
    claims += [f'"{name}":' for name in "keys kty use key_ops crv n e x y k d".split()]
    options = re.findall(r"^#(?:   )?(\[+[a-z_]+\]+|[a-z_]+ = )", OPTIONS, re.M)
    dictionaries = {
        "client_frames": requests,
        "configuration": sorted(set(options)),
        "http_bodies": requests,
        "http_heads": headers,
        "tokens": claims,
        "worker_lines": requests,
    }
    for target, texts in seeds.items():
        (directory / target).mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(texts):
            (directory / target / f"{number:03}").write_bytes(text)
    for target, texts in dictionaries.items():
        entries = ["".join(f"\\x{byte:02x}" for byte in text.encode()) for text in texts]
        (directory / f"{target}.dict").write_text("".join(f'"{entry}"\n' for entry in entries))


if __name__ == "__main__":
    main()
