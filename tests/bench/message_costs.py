"""The costs of a kept message: bytes written, space on the disk, memory, and time at the next start."""

import contextlib
import time

import kernel_counters
from store_daemon import DATA, MIB, ROOM_FOR_ALL, Store, durable, line, take


def owed(hub, count, pause):
    with hub.worker() as worker:
        for number in range(count):
            worker.send(line(f"away{number % 100}"))
            time.sleep(pause)
    hub.until_written()


def deliver_all(hub, count):
    """Half to an inbox, half to a channel; both have a subscriber."""
    with hub.connect("here") as here, hub.subscriber("bench", user="there") as there, hub.worker() as worker:
        for _ in range(count // 2):
            worker.send(line("here"))
            worker.send(b'{"channel":"bench","event":"bench","data":"%s"}\n' % DATA)
        for _ in range(count // 2):
            here.receive("message")
            there.receive("message")
        time.sleep(3)  # the write delay, and the counters that follow a little later


def read(hub, users):
    """Many come, one right after the other as after a restart, and each takes what lies in all generations; how much it was."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(hub.connect(f"away{user}")) for user in range(users)]
        return sum(take(wire) for wire in wires)


def measure_reading(sizes, device, table):
    """The engine writes whenever it opens something, were it only to read that."""
    for users, of in ((5, 100), (sizes.readers, sizes.readers)):
        place = None if device.why_not else device.mount / f"read{users}"
        with Store(place, STORE__BYTES="16MiB") as hub:
            durable(hub, 10_000 // of, of, of)
            generations = sum(path.is_dir() for path in (hub.state / "store").iterdir())
            before, reached = hub.written(), device.written() if place else 0
            began = time.monotonic()
            count = read(hub, users)
            took = time.monotonic() - began
            figure = f"{(hub.written() - before) / count:,.0f}" + (f" / {(device.written() - reached) / count:,.0f} B" if place else " B")
            table.row(f"read again by {users:,} users", figure, f"{count} messages, each inbox in all {generations} generations, in {took:.1f} s")


def measure_bytes(sizes, table):
    table.part("bytes written for each kept message of 300 B (by the processes / on the device)")
    with kernel_counters.Device() as device:
        if device.why_not:
            table.row("no device of its own", "", device.why_not)
        kinds = (
            ("owed, nobody there, 100 a second", sizes.owed, lambda hub: owed(hub, sizes.owed, 0.01)),
            ("owed, nobody there, all at once", sizes.owed, lambda hub: owed(hub, sizes.owed, 0)),
            ("heard by everybody within the delay", sizes.owed, lambda hub: deliver_all(hub, sizes.owed)),
            ("durable, one by one", sizes.single, lambda hub: durable(hub, sizes.single, 1)),
            ("durable, 10 at once", sizes.bursts * 10, lambda hub: durable(hub, sizes.bursts, 10)),
            ("durable, 100 at once", sizes.bursts * 100, lambda hub: durable(hub, sizes.bursts, 100)),
        )
        for number, (name, count, send) in enumerate(kinds):
            place = None if device.why_not else device.mount / str(number)
            with Store(place) as hub:
                if not name.startswith("heard"):
                    durable(hub, 1, 1)  # what a new store costs is not the cost of a message
                reached = device.written() if place else 0
                before = hub.written()
                send(hub)
                by_processes = (hub.written() - before) / count
                on_device = (device.written() - reached) / count if place else None
                figure = f"{by_processes:,.0f}" + (f" / {on_device:,.0f} B" if place else " B")
                if name.startswith("heard"):
                    table.row(name, figure, f"{count} messages", "heard", not by_processes and not on_device)
                else:
                    table.row(name, figure, f"{count} messages")
        measure_reading(sizes, device, table)


def fill(hub, sizes):
    """As many to each inbox; nobody is there."""
    each = sizes.kept // sizes.inboxes
    with hub.worker() as worker:
        for _ in range(each):
            worker.send(b"".join(line(f"user{n}") for n in range(sizes.inboxes)))
        stats = hub.until(lambda stats: stats["messages_received"] >= sizes.kept)
    assert stats["kept_messages"] == sizes.kept, f"not all are kept: {stats}"
    return hub.until_written(120)


def of_both(look, hub):
    """What there is of the daemon, of the process that owns its disk, and of both at the same time."""
    own, other = look(hub.process.pid), sum(look(child) for child in hub.children())
    return {"daemon": own, "disk": other, "both": own + other}


def mebibytes(seen):
    return f"{seen['daemon'] / MIB:.1f} + {seen['disk'] / MIB:.1f} MiB"


def start_again(hub):
    """Starts it and waits until all is quiet; how long it took to start, and the most memory that was seen."""
    with kernel_counters.Watch(lambda: memory_of(hub), 0.01) as watch:
        hub.start()
        took = hub.took
        stats = hub.until(lambda stats: stats["kept_messages"] > 0)
    return took, watch.most, stats["kept_messages"]


def memory_of(hub):
    private = of_both(kernel_counters.private, hub)
    resident = of_both(kernel_counters.resident, hub)
    return {**private, **{f"{name} resident": value for name, value in resident.items()}}


def measure_kept(sizes, table):
    table.part(f"{sizes.kept:,} kept messages of 300 B, {sizes.inboxes:,} inboxes (memory: daemon + process that owns the disk)")
    with Store(**ROOM_FOR_ALL) as hub:
        empty = kernel_counters.private(hub.process.pid)
        began, before = time.monotonic(), hub.written()
        stats = fill(hub, sizes)
        table.row("written in", f"{time.monotonic() - began:.1f} s", f"{(hub.written() - before) / sizes.kept:,.0f} B a message")
        table.row("room on the disk", f"{hub.room() / MIB:.1f} MiB", f"{hub.room() / sizes.kept:,.0f} B a message; they count {stats['kept_bytes'] / MIB:.1f} MiB")
        time.sleep(2)
        idle = of_both(kernel_counters.private, hub)
        hub.until_alone()
        alone = of_both(kernel_counters.private, hub)
        most = max(idle["both"], alone["both"])
        table.row("memory, idle", mebibytes(idle), f"the daemon alone, empty: {empty / MIB:.1f} MiB")
        table.row("memory, the disk's process ended", mebibytes(alone), "", "memory", most < 40 * MIB)
        for bar, how, end in (("clean", "a clean stop", hub.stop), ("killed", "kill -9", hub.kill)):
            tries = []
            for _ in range(3):
                end()
                tries.append(start_again(hub))
            took, seen, kept = sorted(tries, key=lambda one: one[0])[1]
            assert kept == sizes.kept, f"{kept} are there after {how}"
            table.row(f"start-up after {how}", f"{took:.2f} s", f"the median of three, {min(t for t, *_ in tries):.2f} to {max(t for t, *_ in tries):.2f} s", bar, took < 2)
            table.row("  most memory meanwhile", mebibytes(seen), f"both at once {seen['both'] / MIB:.1f}; resident, with shared pages: "
                      f"{seen['daemon resident'] / MIB:.1f} + {seen['disk resident'] / MIB:.1f} MiB")
        hub.until_alone()
        table.row("memory after such a start, alone", mebibytes(of_both(kernel_counters.private, hub)))
