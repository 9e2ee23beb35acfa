"""A thousand connections on one channel, and a thousand channels with one connection each.

In order, none lost or doubled, beside one peer that never reads. Everything is published on the worker socket, which has
no rate limit, in batches that the other readers have received before the next one is written: a hub must not lose those.
"""

import asyncio
import json
import os
import time

import websockets

from daemon import Hub
from harness import case, run_cases, same

CONNECTIONS = int(os.environ.get("REAL_CONNECTIONS", "1000"))
MESSAGES = 300
BATCH = 50


class Reader:
    def __init__(self, channel):
        self.channel, self.numbers, self.gaps = channel, [], []

    async def start(self, hub, token):
        self.socket = await websockets.connect(
            f"ws://127.0.0.1:{hub.port}/api/v1/ws", additional_headers={"Authorization": f"Bearer {token}"},
            compression=None, ping_interval=None, open_timeout=60)
        await self.socket.send(json.dumps({"action": "subscribe", "channel": self.channel}))
        async for text in self.socket:
            frame = json.loads(text)
            if frame["type"] == "subscription_succeeded":
                break
        self.reading = asyncio.create_task(self._read())

    async def _read(self):
        async for text in self.socket:
            frame = json.loads(text)
            if frame["type"] == "message":
                self.numbers.append(frame["data"])
            elif frame["type"] == "gap":
                self.gaps.append(frame)

    async def stop(self):
        self.reading.cancel()
        await self.socket.close()


async def publish(hub, channels, readers):
    """Every message to every channel, batch by batch; seconds it took."""
    stream, writer = await asyncio.open_unix_connection(str(hub.worker_path))
    began = time.monotonic()
    for start in range(0, MESSAGES, BATCH):
        for n in range(start, start + BATCH):
            for channel in channels:
                writer.write(b'{"channel":"%s","event":"e","data":%d}\n' % (channel.encode(), n))
            await writer.drain()
        end = time.monotonic() + 60
        while any(len(r.numbers) < start + BATCH for r in readers):
            assert time.monotonic() < end, f"after 60 s {sum(len(r.numbers) < start + BATCH for r in readers)} readers lack messages below {start + BATCH}; gaps: {[r.gaps for r in readers if r.gaps][:3]}"
            await asyncio.sleep(0.005)
    took = time.monotonic() - began
    writer.close()
    return took


async def scene(hub, channels, deaf_channel):
    """One reader for each entry of `channels`, and one that never reads."""
    deaf = hub.subscriber(deaf_channel, user="deaf", rcvbuf=4096)
    # A thousand users, more or less: no user may have all the connections.
    tokens = [hub.token(f"user{n}") for n in range(100)]
    readers = [Reader(channel) for channel in channels]
    began = time.monotonic()
    for start in range(0, len(readers), 50):
        await asyncio.gather(*(r.start(hub, tokens[n % 100]) for n, r in enumerate(readers[start : start + 50])))
    connected = time.monotonic() - began
    took = await publish(hub, sorted(set(channels)), readers)
    wanted = list(range(MESSAGES))
    wrong = [r for r in readers if r.numbers != wanted or r.gaps]
    assert not wrong, f"{len(wrong)} readers lost, doubled or mixed up; one heard {wrong[0].numbers[:20]}…, gaps {wrong[0].gaps[:2]}"
    await asyncio.gather(*(r.stop() for r in readers))
    deaf.close()
    deliveries = len(readers) * MESSAGES
    return f"{len(readers)} connected in {connected:.1f} s, {deliveries:,} deliveries in {took:.1f} s, {deliveries / took:,.0f} a second"


@case(f"{CONNECTIONS} subscribers of one channel beside a stalled one")
def one_channel(_):
    with Hub(LIMITS__CONNECTIONS=CONNECTIONS + 100) as hub:
        return asyncio.run(scene(hub, ["all"] * CONNECTIONS, "all"))


@case(f"{CONNECTIONS} channels of one subscriber beside a stalled one")
def many_channels(_):
    with Hub(LIMITS__CONNECTIONS=CONNECTIONS + 100) as hub:
        return asyncio.run(scene(hub, [f"channel:{n}" for n in range(CONNECTIONS)], "channel:0"))


@case("memory and descriptors return after a thousand connections")
def back_again(_):
    async def round_trip(hub):
        tokens = [hub.token(f"user{n}") for n in range(100)]
        readers = [Reader(f"c{n}") for n in range(CONNECTIONS)]
        for start in range(0, len(readers), 50):
            await asyncio.gather(*(r.start(hub, tokens[n % 100]) for n, r in enumerate(readers[start : start + 50])))
        await asyncio.gather(*(r.stop() for r in readers))

    def descriptors(hub):
        return len(os.listdir(f"/proc/{hub.process.pid}/fd"))

    with Hub() as hub:
        before = descriptors(hub)
        figures = []
        for _round in range(3):
            asyncio.run(round_trip(hub))
            end = time.monotonic() + 10
            while descriptors(hub) > before + 2 and time.monotonic() < end:
                time.sleep(0.05)
            same(descriptors(hub) <= before + 2, True, f"descriptors {before} before, {descriptors(hub)} after")
            figures.append(hub.memory() // 1024)
        # The first round may grow tables to their size; a later one that grows them further leaks.
        assert figures[2] <= figures[0] * 1.1 + 100, f"private memory in KiB after each round: {figures}"
    return f"private memory after each round: {figures} KiB"


if __name__ == "__main__":
    run_cases()
