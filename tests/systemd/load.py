"""Clients and workers under constant load, half of their bytes cut somewhere, that detect every loss.

Every client checks the numbers of a channel and the answers to its own pings, in order and each once. The longest silence is
that of the client that waited longest for the answer to something it had sent whole.
"""

import asyncio
import json
import random
import socket
import subprocess
import threading
import time

from machine import eventually
from harness import same
from ws_client import frame

# Of the numbers that every client receives, and of each client's pings: a second.
NUMBERS, PINGS = 4, 0.5
# A worker has to be a process of the machine, which the kernel knows there: this port leads to one that passes bytes on.
BRIDGE = 8099


class Peer(asyncio.Protocol):
    """One connection; what comes is handed on message by message."""

    def __init__(self):
        self.buffer, self.closed, self.received = bytearray(), None, None

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, error):
        self.closed = self.closed or repr(error)

    async def say_in_parts(self, data, cuts, pause):
        """Bytes, cut at some places, with a pause at each."""
        last = 0
        for cut in sorted(cuts):
            self.transport.write(data[last:cut])
            last = cut
            await asyncio.sleep(pause())
        self.transport.write(data[last:])


class Client(Peer):
    """Receives the numbers of a channel and pings; keeps every fault."""

    def __init__(self, name):
        super().__init__()
        self.name, self.opened, self.wrong = name, asyncio.get_running_loop().create_future(), []
        self.number, self.numbers, self.asked, self.answered = None, 0, 0, 0
        self.sent_at, self.silence, self.subscribed = {}, 0.0, False

    def data_received(self, data):
        self.buffer += data
        if not self.opened.done():
            head, end, rest = bytes(self.buffer).partition(b"\r\n\r\n")
            if not end:
                return
            self.buffer = bytearray(rest)
            self.opened.set_result(head.split(b" ", 2)[1])
        while len(self.buffer) >= 2:
            size, at = self.buffer[1], 2
            if size == 126:
                size, at = int.from_bytes(self.buffer[2:4], "big"), 4
            elif size == 127:
                size, at = int.from_bytes(self.buffer[2:10], "big"), 10
            if len(self.buffer) < at + size:
                return
            opcode, payload = self.buffer[0] & 15, bytes(self.buffer[at:at + size])
            del self.buffer[:at + size]
            self.take(opcode, payload)

    def take(self, opcode, payload):
        if opcode == 9:
            self.transport.write(frame(10, payload))
        elif opcode == 8:
            self.closed = f"close {int.from_bytes(payload[:2], 'big')}"
        elif opcode == 1:
            self.receive(json.loads(payload))
        else:
            self.wrong.append(f"opcode {opcode}")

    def receive(self, line):
        kind = line["type"]
        if kind == "message" and line["channel"] == "numbers":
            number = line["data"]
            if self.number is not None and number != self.number + 1:
                self.wrong.append(f"{number} after {self.number}")
            self.number = number
            self.numbers += 1
        elif kind == "pong":
            if line["id"] != self.answered:
                self.wrong.append(f"pong {line['id']} instead of {self.answered}")
            self.silence = max(self.silence, time.monotonic() - self.sent_at.pop(line["id"], time.monotonic()))
            self.answered += 1
        elif kind == "subscription_succeeded":
            self.subscribed = True
        elif kind not in ("connection_established", "connection_id", "operation", "message", "interrupt_result"):
            self.wrong.append(str(line))

    async def ping(self):
        """A request, in one of the ways in which one may come."""
        text = json.dumps({"action": "ping", "id": self.asked}).encode()
        way = random.randrange(4)
        if way == 0:
            data, cuts = frame(1, text), []
        elif way == 1:
            data = frame(1, text)
            cuts = random.sample(range(1, len(data)), 2)
        else:
            middle = random.randrange(1, len(text))
            data = frame(1, text[:middle], fin=False) + frame(0, text[middle:])
            cuts = random.sample(range(1, len(data)), way)
        self.asked += 1
        await self.say_in_parts(data, cuts, lambda: random.random() / 2)
        self.sent_at[self.asked - 1] = time.monotonic()


class Worker(Peer):
    """Has an operation, and sends lines in pieces."""

    def __init__(self, number):
        super().__init__()
        self.operation, self.wrong, self.asked, self.answered, self.interrupts = f"op-{number}", [], 0, 0, 0

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\n")) >= 0:
            line = json.loads(bytes(self.buffer[:end]))
            del self.buffer[:end + 1]
            if line["type"] == "interrupt":
                self.interrupts += 1
            elif line["type"] == "ok" and line.get("id") == self.answered:
                self.answered += 1
            else:
                self.wrong.append(str(line))

    async def send(self, **line):
        data = json.dumps({**line, "id": self.asked}).encode() + b"\n"
        self.asked += 1
        await self.say_in_parts(data, random.sample(range(1, len(data)), 1), lambda: random.random() / 5)


class Load:
    """All of them, in a thread of their own, beside the cases."""

    def __init__(self, hub, clients, workers):
        self.hub, self.loop, self.over = hub, asyncio.new_event_loop(), False
        self.clients, self.workers, self.published = [], [], 0
        self.bridge = hub.start("socat", f"TCP-LISTEN:{BRIDGE},bind=127.0.0.1,fork,reuseaddr",
                                "UNIX-CONNECT:/run/wshubd/worker.sock",
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually("the bridge stands", lambda: socket.socket().connect_ex(("127.0.0.1", BRIDGE)) == 0)
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.call(self.arrive(clients, workers), 120)
        self.talk = asyncio.run_coroutine_threadsafe(self.talk_all(), self.loop)

    def call(self, coroutine, within=30):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(within)

    async def arrive(self, clients, workers):
        for number in range(workers):
            _, worker = await self.loop.create_connection(lambda: Worker(number), "127.0.0.1", BRIDGE)
            self.workers.append(worker)
            await worker.send(action="operation_start", operation_id=worker.operation, channel="jobs")
        for first in range(0, clients, 50):
            await asyncio.gather(*(self.come(number) for number in range(first, min(first + 50, clients))))

    async def come(self, number):
        token = self.hub.token(f"user-{number}")
        _, client = await self.loop.create_connection(lambda: Client(number), "127.0.0.1", self.hub.port)
        client.transport.write((f"GET /api/v1/ws HTTP/1.1\r\nHost: 127.0.0.1:{self.hub.port}\r\nConnection: Upgrade\r\n"
                                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                                f"Authorization: Bearer {token}\r\n\r\n").encode())
        same(await asyncio.wait_for(client.opened, 30), b"101")
        client.transport.write(frame(1, json.dumps({"action": "subscribe", "channel": "numbers"}).encode()))
        while not client.subscribed:
            await asyncio.sleep(0.02)
        self.clients.append(client)

    async def talk_all(self):
        await asyncio.gather(self.publish(), *(self.ping(client) for client in self.clients),
                             *(self.work(worker) for worker in self.workers[1:]))

    async def publish(self):
        while not self.over:
            self.published += 1
            await self.workers[0].send(channel="numbers", event="number", data=self.published)
            await asyncio.sleep(1 / NUMBERS)

    async def ping(self, client):
        while not self.over:
            await asyncio.sleep(random.random() * 2 / PINGS)
            await client.ping()

    async def work(self, worker):
        while not self.over:
            await worker.send(channel=f"progress:{worker.operation}", event="progress", data=worker.asked)
            await asyncio.sleep(random.random())

    def finish(self):
        """Lets every client send and receive the rest; the results."""
        self.over = True
        self.talk.result(30)
        peers = [*self.clients, *self.workers]
        eventually(lambda: self.missing(), lambda: not self.missing())
        same([peer.closed for peer in peers if peer.closed][:5], [], "closed")
        same([(peer.name, peer.wrong) for peer in self.clients if peer.wrong][:5], [], "lost, doubled or reordered")
        same([worker.wrong for worker in self.workers if worker.wrong], [], "what workers heard")

    def missing(self):
        late = [peer for peer in [*self.clients, *self.workers] if peer.answered != peer.asked and not peer.closed]
        behind = [c for c in self.clients if c.number != self.published and not c.closed and self.published]
        return f"{len(late)} wait for answers, {len(behind)} for numbers" if late or behind else ""

    def silence(self):
        """The longest so far, and forgets it."""
        longest = max(client.silence for client in self.clients)
        for client in self.clients:
            client.silence = 0.0
        return longest

    def leave(self):
        async def close():
            for peer in [*self.clients, *self.workers]:
                peer.transport.abort()
        self.call(close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.bridge.terminate()
        self.hub.run("pkill", "socat", check=False)
        self.bridge.wait(10)
