"""Clients of four libraries behind one interface: Chromium, Node, and Python's two libraries.

Every client has `receive(kind, **fields)`, `count(kind, **fields)`, `send(request)` and `close()`. All frames are kept, so
that "exactly one" can be checked at the end.
"""

import asyncio
import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import websocket
import websockets

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"


class LibraryClient:
    name = "watcher"

    def __init__(self):
        self.frames = []
        # All but messages, of which there are hundreds of thousands: looking through those for each new one would take
        # longer than they take to come.
        self.others = []
        self.came = threading.Condition()

    def receive_frame(self, frame):
        with self.came:
            self.frames.append(frame)
            if frame.get("type") != "message":
                self.others.append(frame)
            self.came.notify_all()

    def find(self, kind, fields):
        frames = self.frames if kind == "message" else self.others
        return [f for f in frames if f.get("type") == kind and all(f.get(k) == v for k, v in fields.items())]

    def receive(self, kind, within=10, **fields):
        """The first frame of this kind that has come or comes yet."""
        end = time.monotonic() + within
        with self.came:
            while not self.find(kind, fields):
                left = end - time.monotonic()
                if left <= 0 or not self.came.wait(left):
                    raise AssertionError(f"{self.name}: no {kind} {fields} in {within} s; last came {self.frames[-4:]}")
            return self.find(kind, fields)[0]

    def count(self, kind, **fields):
        with self.came:
            return len(self.find(kind, fields))


class PythonApp(LibraryClient):
    """`websocket-client`: a WebSocketApp in a background thread, which subscribes in `on_open`."""

    name = "Python websocket-client"

    def __init__(self, hub, token, *channels):
        super().__init__()
        self.app = websocket.WebSocketApp(
            f"ws://127.0.0.1:{hub.port}/ws/connect", header=[f"Authorization: Bearer {token}"],
            on_open=lambda app: [app.send(json.dumps({"action": "subscribe", "channel": c})) for c in channels],
            on_message=lambda app, text: self.receive_frame(json.loads(text)),
            on_close=lambda app, code, reason: self.receive_frame({"type": "client_closed", "code": code}),
        )
        self.thread = threading.Thread(target=self.app.run_forever, daemon=True)
        self.thread.start()

    def send(self, request):
        self.app.send(json.dumps(request))

    def close(self):
        # A close frame, which the hub answers; `app.close()` would wait for what its other thread reads.
        self.app.sock.send_close()
        self.thread.join(5)
        assert not self.thread.is_alive(), "the close was not answered"


class PythonWebsockets(LibraryClient):
    """`websockets` on asyncio, in a thread of its own."""

    name = "Python websockets"

    def __init__(self, hub, token, *channels):
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.loop.run_until_complete, args=(self._run(hub, token, channels),), daemon=True)
        self.thread.start()
        assert self.ready.wait(10), "websockets did not connect"

    async def _run(self, hub, token, channels):
        url = f"ws://127.0.0.1:{hub.port}/ws"
        async with websockets.connect(url, subprotocols=["wshub.v1", f"wshub.bearer.{token}"]) as self.socket:
            for channel in channels:
                await self.socket.send(json.dumps({"action": "subscribe", "channel": channel}))
            self.ready.set()
            async for text in self.socket:
                self.receive_frame(json.loads(text))

    def send(self, request):
        asyncio.run_coroutine_threadsafe(self.socket.send(json.dumps(request)), self.loop).result(5)

    def close(self):
        # The loop ends with the reader, so nobody is left to wait for the closing itself.
        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(self.socket.close()))
        self.thread.join(5)
        assert not self.thread.is_alive(), "the close was not answered"


class Node(LibraryClient):
    def __init__(self, kind, hub, token, *channels):
        super().__init__()
        self.name = {"ws": "Node ws", "native": "Node's own WebSocket"}[kind]
        # The flag that Node 20 needs is an error in versions that do not know it.
        flag = ["--experimental-websocket"] if kind == "native" and _node_takes("--experimental-websocket") else []
        self.process = subprocess.Popen(
            ["node", *flag, str(HERE / "node_client.mjs"), kind, f"ws://127.0.0.1:{hub.port}/api/v1/ws", token, *channels],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.thread = threading.Thread(target=lambda: [self.receive_frame(json.loads(line)) for line in self.process.stdout], daemon=True)
        self.thread.start()

    def send(self, request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
        self.thread.join(5)


@functools.cache
def _node_takes(flag):
    return subprocess.run(["node", flag, "-e", "0"], capture_output=True).returncode == 0


class Browser(LibraryClient):
    """Chromium on `browser_client.html`, served from another port of the same host, driven over its own debugging protocol."""

    name = "Chromium"

    def __init__(self, hub, token, channel):
        super().__init__()
        handler = functools.partial(_Quiet, directory=str(HERE))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.profile = tempfile.mkdtemp(prefix="wshub-chromium-")
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        assert chromium, "no Chromium on this machine: apt-get install chromium"
        self.process = subprocess.Popen(
            [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
             "--window-size=900,700", f"--user-data-dir={self.profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=open(os.path.join(self.profile, "stderr"), "wb"),
        )
        self.calls = 0
        self._attach()
        # localhost, not 127.0.0.1: the name a person types, and the same host for page and hub.
        fragment = urllib.parse.urlencode({"hub": f"ws://localhost:{hub.port}/api/v1/ws", "token": token, "channel": channel})
        self._call("Page.navigate", url=f"http://localhost:{self.server.server_port}/browser_client.html#{fragment}")

    def _attach(self):
        port_file, end = Path(self.profile) / "DevToolsActivePort", time.monotonic() + 40
        while time.monotonic() < end:
            assert self.process.poll() is None, f"Chromium ended: {(Path(self.profile) / 'stderr').read_text()[-500:]}"
            try:
                port = port_file.read_text().split()[0]
                pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5))
                page = next(p for p in pages if p["type"] == "page")
                self.devtools = websocket.create_connection(page["webSocketDebuggerUrl"], suppress_origin=True, timeout=20)
                return
            except (OSError, IndexError, StopIteration):
                time.sleep(0.05)
        raise AssertionError("Chromium did not open its debugging port in 40 s")

    def _call(self, method, **parameters):
        self.calls += 1
        self.devtools.send(json.dumps({"id": self.calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.devtools.recv())
            if answer.get("id") == self.calls:
                assert "error" not in answer, answer
                return answer["result"]

    def ask(self, script):
        result = self._call("Runtime.evaluate", expression=f"JSON.stringify({script})", returnByValue=True)
        assert "exceptionDetails" not in result, result
        return json.loads(result["result"].get("value", "null"))

    def find(self, kind, fields):
        """Evaluated in the page, so that a hundred thousand lines need not be transferred."""
        wanted = json.dumps({"type": kind, **fields})
        return self.ask(f"((w) => typeof heard === 'undefined' ? [] : heard.filter((f) => f.type === w.type && Object.keys(w).every((k) => "
                        f"JSON.stringify(f[k]) === JSON.stringify(w[k]))))({wanted})")

    def receive(self, kind, within=20, **fields):
        end = time.monotonic() + within
        while time.monotonic() < end:
            found = self.find(kind, fields)
            if found:
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"{self.name}: no {kind} {fields} in {within} s; last came {self.ask('heard.slice(-4)')}")

    def press_stop(self):
        """A real click, where the button is; the wall clock at which the page saw it."""
        box = self.ask("(({x, y, width, height}) => ({x: x + width / 2, y: y + height / 2}))(document.getElementById('stop').getBoundingClientRect())")
        assert not self.ask("document.getElementById('stop').disabled"), "the Stop button is still disabled"
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, x=box["x"], y=box["y"], button="left", clickCount=1)
        pressed = self.ask("pressedAt")
        assert pressed, "the click did not reach the button"
        return pressed / 1000

    def screenshot(self, name):
        OUT.mkdir(exist_ok=True)
        path = OUT / f"{name}.png"
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))
        assert path.stat().st_size > 5000, "an empty picture"
        return path

    def send(self, request):
        self.ask(f"say({json.dumps(request)}) ?? null")

    def close(self):
        try:
            self._call("Browser.close")
        except (OSError, websocket.WebSocketException, AssertionError):
            pass
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.server.shutdown()
        shutil.rmtree(self.profile, ignore_errors=True)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class all_of:
    """Closes every watcher at the end, whatever happens."""

    def __init__(self, *watchers):
        self.watchers = watchers

    def __enter__(self):
        return self.watchers

    def __exit__(self, *_):
        for watcher in self.watchers:
            watcher.close()
