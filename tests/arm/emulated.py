"""A static daemon for another processor, emulated, with native clients: storage, interrupts and hand-overs.

WSHUBD_BIN names the directory of the daemon and its companion; the kernel starts both through an emulator. The clients are
this process, and a native wshubctl in NATIVE_BIN.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "real"))

import emulated_memory  # noqa: E402
from daemon import BIN  # noqa: E402
from harness import case, eventually, run_cases, same  # noqa: E402


NATIVE = Path(os.environ["NATIVE_BIN"])


def machine(file):
    """What processor a program is for, by its ELF header."""
    header = file.read_bytes()[:20]
    return {40: "32-bit Arm", 183: "64-bit Arm", 62: "x86-64"}[int.from_bytes(header[18:20], "little")]


def took_over(hub):
    """How often, by the log."""
    hub.log.flush()
    return (hub.directory / "log").read_text().count("took over ")


def hand_over(hub):
    before = took_over(hub)
    hub.process.send_signal(signal.SIGUSR2)
    eventually("another program goes on", lambda: took_over(hub) > before)


@case("the daemon and its store process both run emulated")
def emulated(hub):
    kinds = {machine(BIN / name) for name in ("wshubd", "wshubctl")}
    same(machine(NATIVE / "wshubctl") in kinds, False)
    assert kinds < {"32-bit Arm", "64-bit Arm"}, kinds
    same(hub.post("/broadcast", {"channel": "first", "event": "e", "data": 1, "durable": True}).json()["stored"], True)
    emulators = {os.readlink(f"/proc/{pid}/exe") for pid in (hub.process.pid, *hub.children())}
    same(len(emulators), 1)
    assert "wshubd" not in emulators.pop()
    return kinds.pop()


@case("a subscriber receives from a client, HTTP and wshubctl")
def received(hub):
    with hub.subscriber("news", user="ann") as ann, hub.connect("ben") as ben:
        ben.send({"action": "send", "channel": "news", "event": "e", "data": "client"})
        same(ann.receive("message", channel="news")["data"], "client")
        hub.post("/broadcast", {"channel": "news", "event": "e", "data": "http"})
        same(ann.receive("message", channel="news")["data"], "http")
        done = hub.ctl("pub", "news", "shell")
        same((done.returncode, done.stderr), (0, ""))
        ann.receive("message", channel="news")


@case("a stored message survives kill -9 of daemon or store process")
def kept(hub):
    def post(data):
        return hub.post("/broadcast", {"channel": "late", "event": "e", "data": data, "durable": True}).json().get("stored")

    assert post("before")
    os.kill(hub.children()[0], signal.SIGKILL)
    # Until another process owns the disk, a durable request is refused.
    tries = 1
    while not post(f"try {tries}"):
        tries += 1
        assert tries < 1000, "the disk never came back"
        time.sleep(0.02)
    hub.kill()
    hub.start()
    with hub.subscriber("late") as ann:
        received = [ann.receive("message", channel="late")["data"]]
        while received[-1] != f"try {tries}":
            received.append(ann.receive("message", channel="late")["data"])
    same(received[0], "before")
    return f"stored again at try {tries}, started again in {hub.took:.1f} s"


@case("seq goes on after a restart, and `since` misses nothing")
def positions(hub):
    for number in range(5):
        hub.post("/broadcast", {"channel": "late2", "event": "e", "data": number, "durable": True})
    with hub.connect("ann") as ann:
        ann.send({"action": "subscribe", "channel": "late2"})
        epoch = ann.receive("subscription_succeeded", channel="late2")["epoch"]
        seqs = [ann.receive("message", channel="late2")["seq"] for _ in range(5)]
    same(seqs, list(range(seqs[0], seqs[0] + 5)))
    hub.stop()
    hub.start()
    with hub.connect("ann") as ann:
        ann.send({"action": "subscribe", "channel": "late2", "since": {"epoch": epoch, "seq": seqs[-1]}})
        back = ann.receive("subscription_succeeded", channel="late2")
        same((back["epoch"], back["seq"]), (epoch, seqs[-1]), back)
        hub.post("/broadcast", {"channel": "late2", "event": "e", "data": "next"})
        same(ann.receive("message", channel="late2")["seq"], seqs[-1] + 1)


@case("wshubctl emulated interrupts a native command with children")
def interrupted(hub):
    with hub.subscriber("jobs") as ann:
        command = [NATIVE / "wshubctl", "run", "--quiet", "jobs", "--", "sh", "-c", "echo begun; sleep 600 & wait"]
        run = subprocess.Popen(command, env=hub.environment, stdin=subprocess.DEVNULL)
        operation = ann.receive("operation", channel="jobs", state="started")["operation_id"]
        eventually("it has begun", lambda: ann.receive("message", channel="jobs"))
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
        shell = int(children.read_text().split()[0])
        began = time.monotonic()
        done = hub.ctl("interrupt", operation)
        same((done.returncode, done.stderr), (0, ""))
        run.wait(20)
        took = time.monotonic() - began
        assert not Path(f"/proc/{shell}").exists()
        ended = ann.receive("operation", channel="jobs", operation_id=operation)
        assert ended.get("state") != "started", ended
    assert run.returncode != 0
    return f"{took * 1000:.0f} ms"


@case("SIGUSR2 three times closes none of a hundred connections")
def handed_over(hub):
    pid, silences = hub.process.pid, []
    wires = [hub.subscriber("news", user=f"user{n % 10}") for n in range(100)]
    with hub.worker() as worker:
        for times in range(3):
            hub.post("/broadcast", {"channel": "owed", "event": "e", "data": times, "durable": True})
            began = time.monotonic()
            hand_over(hub)
            same(worker.ask({"channel": "news", "event": "e", "data": times})["type"], "ok")
            for wire in wires:
                same(wire.receive("message", channel="news")["data"], times)
            silences.append(time.monotonic() - began)
    for wire in wires:
        wire.close()
    same((hub.process.pid, hub.exit_code()), (pid, None))
    with hub.subscriber("owed") as ann:
        same([ann.receive("message", channel="owed")["data"] for _ in range(3)], [0, 1, 2])
    return "all heard after " + ", ".join(f"{silence * 1000:.0f} ms" for silence in silences)


def take(what, pid, most):
    """The memory of a 32-bit process, as text; fails where it has more address space than that."""
    space, resident, own = emulated_memory.memory(pid)
    assert space <= most, f"{what}: {space} KiB of address space"
    return f"{what} {space / 1024:.1f} MiB of address space, {resident / 1024:.1f} resident, {own / 1024:.1f} of it its own"


if machine(BIN / "wshubd") == "32-bit Arm":

    @case("durable load and a hundred clients stay below 64 MiB each")
    def small(hub):
        for number in range(20):
            data = {"channel": f"small{number}", "event": "e", "data": "x" * 50_000, "durable": True}
            same(hub.post("/broadcast", data).json()["stored"], True)
        store = take("store", hub.children()[0], 64 << 10)
        wires = [hub.subscriber("news") for _ in range(100)]
        daemon = take("daemon", hub.process.pid, 64 << 10)
        for wire in wires:
            wire.close()
        return f"{daemon}; {store}"


run_cases()
