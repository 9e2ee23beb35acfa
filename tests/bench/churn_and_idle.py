"""Space on the disk after churn, and work while nothing happens.

Both mostly wait, so both run beside other measurements and report at the end.
"""

import threading
import time

import kernel_counters
from store_daemon import KIB, MIB, Store, durable, line

CAP = 16 * MIB


class Churn:
    """Goes on being watched while other things are measured."""

    def __init__(self, sizes, table, running):
        self.sizes, self.table = sizes, table
        self.hub = running.enter_context(Store(STORE__BYTES=CAP))

    def run(self):
        sizes, hub = self.sizes, self.hub
        rounds, taken, began = 10, 0, time.monotonic()
        a_round = sizes.churn // rounds
        with kernel_counters.Watch(lambda: {"room": hub.room()}, 0.02) as self.peak, hub.worker() as worker:
            for number in range(rounds):
                for at in range(0, a_round, 100):
                    due = began + (number * a_round + at) / sizes.rate
                    time.sleep(max(0, due - time.monotonic()))
                    worker.send(b"".join(line(f"user{n % sizes.inboxes}") for n in range(at, at + 100)))
                for user in range(number, sizes.inboxes, rounds):
                    taken += hub.take(f"user{user}")
            # At the end one user of a hundred has messages left.
            self.took = time.monotonic() - began
            for user in range(sizes.inboxes):
                if user % 100:
                    taken += hub.take(f"user{user}")
            self.taken, self.ended = taken, time.monotonic()
            self.stats = worker.ask({"action": "stats"})
            self.written = hub.written()
            self.watch_on = threading.Thread(target=self._watch_on, daemon=True)
        self.watch_on.start()

    def _watch_on(self):
        self.small_after, end = None, self.ended + self.sizes.quiet
        self.after, self.later = 0, 0
        while (now := time.monotonic()) < end:
            self.after = self.hub.room()
            self.later = max(self.later, self.after)
            if self.small_after is None and self.after < CAP / 3:
                self.small_after = now - self.ended
            time.sleep(0.1)

    def report(self):
        table, stats = self.table, self.stats
        table.part(f"{self.sizes.churn:,} messages through {self.sizes.inboxes:,} inboxes, a store of {CAP // MIB} MiB")
        self.watch_on.join()
        assert stats["messages_received"] >= self.sizes.churn, f"not all were taken: {stats}"
        most = max(self.peak.most["room"], self.later)
        table.row("room at the worst moment", f"{most / MIB:.1f} MiB",
                  f"{self.taken:,} taken, {stats['messages_evicted']:,} pushed out, {stats['messages_stored']:,} written, "
                  f"in {self.took:.0f} s", "cap", most <= CAP)
        small = f"small after {self.small_after:.0f} s" if self.small_after is not None else "never small"
        table.row(f"room {self.sizes.quiet} s after the end", f"{self.after / MIB:.1f} MiB",
                  f"{stats['kept_messages']:,} kept of {stats['kept_bytes'] / KIB:,.0f} KiB; {small}", "room", self.after < CAP / 3)
        table.row("written for each message", f"{self.written / self.sizes.churn:,.0f} B", "by the processes")
        assert "KiB free" not in self.hub.logged() and "memory only" not in self.hub.logged(), self.hub.logged()


class Idle:
    """A daemon that is left alone while other things are measured."""

    def __init__(self, sizes, table, running):
        self.sizes, self.table = sizes, table
        self.hub = running.enter_context(Store())
        self.wires = [running.enter_context(self.hub.subscriber("bench", user=f"user{n}")) for n in range(5)]
        durable(self.hub, 2, 10)
        with self.hub.worker() as worker:
            worker.send(line("away") * 100)
            self.hub.take("away1")
        self.hub.until_written()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _counts(self):
        pid = self.hub.process.pid
        return kernel_counters.written(pid), kernel_counters.switches(pid), kernel_counters.tree(pid)

    def _read(self):
        time.sleep(self.sizes.settle)
        self.before = self._counts()
        time.sleep(self.sizes.idle)
        self.after = self._counts()

    def report(self):
        sizes, table = self.sizes, self.table
        table.part(f"idle for {sizes.idle} s, from {sizes.settle} s after the last write on; {len(self.wires)} clients are connected")
        self.reader.join()
        written, woken, processes = (after - before if isinstance(after, int) else after for before, after in zip(self.before, self.after))
        table.row("bytes written", str(written), "", "written", written == 0)
        table.row("voluntary context switches", str(woken), f"{len(processes)} process{'es' if len(processes) > 1 else ''}", "woken", woken == 0)
