"""The costs of very many logs with one message in each: memory, and time at a start and at a hand-over."""

import os
import signal
import threading
import time

import kernel_counters
from message_costs import start_again
from store_daemon import MIB, ROOM_FOR_ALL, Store

DATA = b"x" * 100
# What a burst leaves, and what others on the machine put into shared memory meanwhile.
SLACK = 5 * MIB
# Under the default cap and with the default memory.
MOST_BY_DEFAULT = 100_000


def resident(pid):
    return kernel_counters.number(f"/proc/{pid}/status", "VmRSS") * 1024


def shared():
    """What is handed over is in such memory, and nobody's."""
    return kernel_counters.number("/proc/meminfo", "Shmem") * 1024


def private(pid):
    return kernel_counters.number(f"/proc/{pid}/status", "RssAnon") * 1024


def fill(hub, count):
    with hub.worker() as worker:
        for begin in range(0, count, 1000):
            worker.send(b"".join(b'{"user_id":"user%06d","event":"bench","data":"%s"}\n' % (n, DATA) for n in range(begin, begin + 1000)))
        stats = hub.until(lambda stats: stats["messages_received"] >= count)
    assert stats["kept_messages"] == count, f"not all are kept: {stats}"
    hub.until_written(120)


def hand_over(hub):
    """How long nobody was answered, how much was held before, and how much at most meanwhile."""
    pauses, over = [], threading.Event()

    def pulse():
        with hub.worker() as worker:
            while not over.is_set():
                began = time.monotonic()
                worker.ask({"action": "ping"})
                pauses.append(time.monotonic() - began)
                time.sleep(0.002)

    thread = threading.Thread(target=pulse)
    thread.start()
    time.sleep(0.3)
    pid, of_others, takeovers = hub.process.pid, shared(), hub.logged().count("took over")
    rest = private(pid)
    with kernel_counters.Watch(lambda: {"most": private(pid) + max(0, shared() - of_others)}, 0.003) as watch:
        os.kill(pid, signal.SIGUSR2)
        end = time.monotonic() + 20
        while hub.logged().count("took over") == takeovers:
            assert time.monotonic() < end, f"nobody took over: {hub.logged()}"
            time.sleep(0.01)
        time.sleep(0.5)
    over.set()
    thread.join()
    return max(pauses), rest, watch.most["most"]


def measure_logs(sizes, table):
    count = sizes.logs
    table.part(f"{count:,} inboxes with one message of 100 B in each, {sizes.wires:,} connections")
    with Store(**ROOM_FOR_ALL, LIMITS__MEMORY="512MiB", LIMITS__CONNECTIONS=sizes.wires + 10) as hub:
        empty = resident(hub.process.pid)
        fill(hub, count)
        whole = resident(hub.process.pid)
        table.row("daemon, all written", f"{whole / MIB:.1f} MiB", f"{(whole - empty) / count:,.0f} B a log", "logs", whole < empty + SLACK + 60 * MIB * count / 100_000)
        for bar, how, end in (("logs clean", "a clean stop", hub.stop), ("logs killed", "kill -9", hub.kill)):
            tries = []
            for _ in range(3):
                end()
                tries.append(start_again(hub)[0])
            took = sorted(tries)[1]
            table.row(f"start-up after {how}", f"{took:.2f} s", f"the median of three, {min(tries):.2f} to {max(tries):.2f} s", bar, took < 0.8)
        wires = [hub.connect(f"here{number}") for number in range(sizes.wires)]
        tries = sorted(hand_over(hub) for _ in range(3))
        silence, rest, most = tries[1]
        table.row("silence of a hand-over", f"{silence * 1000:.0f} ms", f"the median of three, {tries[0][0] * 1000:.0f} to {tries[2][0] * 1000:.0f} ms", "silence", silence < 0.4)
        table.row("  most memory meanwhile", f"{most / MIB:.1f} MiB", f"{rest / MIB:.1f} MiB before", "peak", most < SLACK + 1.3 * rest)
        for wire in wires:
            wire.close()
    with Store() as hub:
        with hub.worker() as worker:
            for begin in range(0, count, 1000):
                worker.send(b"".join(b'{"user_id":"user%06d","event":"bench","data":"%s"}\n' % (n, DATA) for n in range(begin, begin + 1000)))
                hub.until_written(120)
            stats = worker.ask({"action": "stats"})
        table.row("kept at default limits", f"{stats['kept_messages']:,}", f"memory_bytes {stats['memory_bytes'] / MIB:.1f} MiB", "all logs", stats["kept_messages"] >= min(count, MOST_BY_DEFAULT))
