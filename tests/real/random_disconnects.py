"""Clients disconnected at random, a thousand times by default, that lose nothing that was promised to them.

REAL_CUTS sets how often (10,000 in the long run), REAL_SEED repeats the plan of a run. A thousand cuts take about half a
minute with a debug build on two cores. The publishers are a worker and two WebSocket clients that are cut as well and then
repeat what was not answered.
"""

import json
import os
import random
import socket
import struct
import threading
import time

from reconnecting_readers import PATIENT, CutRun, HistoryReader, Inbox, InboxReader, Room
from daemon import Hub
from harness import case, in_time, run_cases, same
from ws_client import WsClient

CUTS = int(os.environ.get("REAL_CUTS", "1000"))
SEED = int(os.environ.get("REAL_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
REACH = 100  # what the short history keeps

# The long logs never have to give anything up: publishers wait for readers that are 600 messages behind.
CONFIG = f"""
[limits]
requests_per_second = 100000
burst = 100000
[[channel]]
match = "@me"
keep = "unacknowledged"
count = 2000
bytes = "32MiB"
[[channel]]
match = "long"
keep = "history"
count = 2000
bytes = "32MiB"
[[channel]]
match = "short"
keep = "history"
count = {REACH}
bytes = "16MiB"
"""


class Publisher:
    """Sends bursts of messages of all sizes into channels that have room."""

    def __init__(self, scene, hub, rooms, name):
        self.scene, self.hub, self.rooms, self.name = scene, hub, rooms, name
        self.rng = random.Random(f"{SEED}-{name}")
        self.numbers = dict.fromkeys(rooms, 0)

    def run(self):
        while self.scene.left > 0:
            self.scene.go_on()
            free = [room for room in self.rooms if room.has_room()]
            # A reader that waits for its queue to be full is helped to it.
            wanted = [room for room in free if room.stalled] or free
            if free:
                self.publish(self.burst(self.rng.choice(wanted if self.rng.random() < 0.8 else free)))
            time.sleep(self.rng.uniform(0, 0.05))
        self.finish()

    def burst(self, room):
        """Requests: one to thirty, of one byte to 64 KiB, small ones as frequent as big ones in powers of two."""
        requests = []
        for _ in range(round(30 ** self.rng.random())):
            self.numbers[room] += 1
            message_id, data = room.send(self.name, self.numbers[room], round(65536 ** self.rng.random()))
            requests.append({**room.target, "event": "e", "message_id": message_id, "data": data, "id": f"{id(room)}-{message_id}"})
        return requests

    def finish(self):
        pass


class WorkerPublisher(Publisher):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.worker = self.hub.worker()

    def publish(self, requests):
        self.worker.sock.settimeout(PATIENT)
        self.worker.send(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
        for request in requests:
            answer = self.worker.next(PATIENT)
            same((answer["type"], answer.get("id"), answer.get("kept")), ("ok", request["id"], True), str(answer))

    def finish(self):
        self.worker.close()


class CutPublisher(Publisher):
    """Over WebSocket; cut now and then, and unanswered messages are sent again with their message_id."""

    wire = None

    def publish(self, requests):
        self.waiting = requests
        while self.waiting:
            self.scene.go_on()
            self.wire = self.wire or WsClient(self.hub.port, headers={"Authorization": "Bearer " + self.hub.token(self.name, wshub={"publish": ["*", "@user:*"]})})
            cut_after = self.rng.randrange(len(self.waiting)) if self.rng.random() < 0.1 else None
            for request in self.waiting[:cut_after]:
                self.wire.send(json.dumps({"action": "send", **request}))
            if cut_after is None:
                self.answers()
            else:
                self.cut()

    def answers(self):
        while self.waiting:
            answer = self.wire.next(PATIENT)
            if answer["type"] != "connection_established":
                same((answer["type"], answer.get("id")), ("send_success", self.waiting[0]["id"]), str(answer))
                assert answer["kept"] or answer.get("duplicate"), answer
                self.scene.count("repeated, and known", answer.get("duplicate", False))
                self.waiting = self.waiting[1:]

    def cut(self):
        self.scene.count("publisher cut")
        if self.rng.random() < 0.5:
            self.wire.sock.sendall(b"\x81\xfe\x10\x00half a frame")
        if self.rng.random() < 0.5:
            self.wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.wire.close()
        self.wire = None

    def finish(self):
        if self.wire:
            self.wire.close()


def stage(hub):
    """Rooms, readers and publishers: three on a long history, two on a short one, one device of a user, two of another."""
    scene = CutRun(CUTS, 60 + CUTS * 0.2)
    long, short = Room({"channel": "long"}), Room({"channel": "short"}, reach=REACH)
    single, double = Inbox("single"), Inbox("double")
    readers = []
    for kind, room, names in ((HistoryReader, long, ("long1", "long2", "long3")), (HistoryReader, short, ("short1", "short2")),
                              (InboxReader, single, ("single",)), (InboxReader, double, ("double1", "double2"))):
        for name in names:
            user = room.user if kind is InboxReader else name
            readers.append(kind(scene, hub, room, name, random.Random(f"{SEED}-{name}"), user))
    rooms = [long, short, single, double]
    publishers = [WorkerPublisher(scene, hub, rooms, "worker"), CutPublisher(scene, hub, rooms, "ws1"), CutPublisher(scene, hub, rooms, "ws2")]
    return scene, rooms, readers, publishers


def play(scene, readers, publishers):
    publishing, going, lock = threading.Event(), len(publishers), threading.Lock()
    publishing.set()

    def publish(publisher):
        nonlocal going
        try:
            publisher.run()
        finally:
            with lock:
                going -= 1
                if not going:
                    publishing.clear()

    scene.run(*[lambda p=p: publish(p) for p in publishers], *[lambda r=r: r.run(publishing) for r in readers])


def everything_is_there(hub, rooms):
    long, short, *inboxes = rooms
    for room in (long, *inboxes):
        assert room.every_publisher_in_order(), f"{room.target}: heard {len(room.order)} of {room.published}"
    short.every_publisher_in_order()
    with hub.connect("late") as wire:
        for room in (long, short):
            wire.send({"action": "subscribe", "channel": room.target["channel"]})
            same(wire.receive("subscription_succeeded")["seq"], room.published, f"the position of {room.target}")
    for room in inboxes:
        with hub.connect(room.user, path="/ws?inbox=off") as wire:
            same(wire.hello["inbox"], {"epoch": room.epoch, "seq": room.published, "waiting": 0}, f"the inbox of {room.user}")


def nobody_is_left(hub):
    """The hub has seen through every cut: no connection of them is still on its list."""
    end = time.monotonic() + PATIENT
    with hub.worker() as worker:
        while len(left := worker.ask({"action": "connections"})["connections"]) > 1:
            assert time.monotonic() < end, f"still listed: {left}"
            time.sleep(0.05)


@case(f"{CUTS:,} random disconnects: nothing lost that was promised")
def cut_at_random(_):
    print(f"# REAL_SEED={SEED}", flush=True)
    began = time.monotonic()
    with Hub(CONFIG) as hub:
        scene, rooms, readers, publishers = stage(hub)
        play(scene, readers, publishers)
        everything_is_there(hub, rooms)
        nobody_is_left(hub)
    took, figures = time.monotonic() - began, scene.figures
    silence = in_time("longest silence", figures.pop("silence"), 0.5)
    # What never happened was not tested.
    for figure in ("fell back to the log", "not recovered", "gaps", "heard again, unacknowledged", "repeated, and known"):
        assert figures.get(figure) or CUTS < 500, f"{figure}: never"
    published = sum(room.published for room in rooms)
    print("# " + ", ".join(f"{name} {count:,}" for name, count in sorted(figures.items())), flush=True)
    return f"{CUTS:,} cuts, {published:,} messages, {sum(room.bytes for room in rooms) / 1e6:,.0f} MB in {took:.0f} s, {silence}"


if __name__ == "__main__":
    run_cases()
