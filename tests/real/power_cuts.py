"""Power cuts: on a disk that loses what was not flushed, every message answered stored is there afterwards.

POWER_CUTS sets how often (100 in the long run), POWER_SEED repeats the plan of a run: `POWER_CUTS=100 tests/real/run power_cuts`.
The machine is a virtual one, and its disk a server of ours that really loses its cache; the publishers run here and reach
the daemon over its network, so that the answers they got before the cut survive it. A second case takes the machine's
flushes away and expects losses: a harness that finds none then would never find any.
"""

import os
import random
import time

from virtual_machine import VirtualMachine
from kept_messages import BEHIND, HISTORY, POLICIES, ChannelSubscriber, Device, Figures, HistoryFollower, HttpPublisher, Log, Workload, WsPublisher
from harness import case, run_cases

CUTS = int(os.environ.get("POWER_CUTS", "3"))
SEED = int(os.environ.get("POWER_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
# How often the machine has nothing to do for a while.
RESTS = float(os.environ.get("POWER_RESTS", "0.2"))
# How many cuts a machine without flushes may survive without a loss, by luck.
LUCK = 8


class PowerCutRun:
    """A virtual machine and its logs, over all cuts."""

    def __init__(self, mount):
        self.rng, self.figures = random.Random(SEED), Figures()
        self.board = VirtualMachine(POLICIES, random.Random(self.rng.random()), mount)
        self.present, self.absent = Log("present", {"user_id": "present"}, 4000), Log("absent", {"user_id": "absent"}, 4000)
        self.channel, self.history = Log("channel", {"channel": "jobs"}, 4000), Log("history", {"channel": "history"}, HISTORY)
        self.logs = [self.present, self.absent, self.channel, self.history]

    def boot(self):
        self.figures.most("longest boot", self.board.boot())

    def reader(self, kind, log, **options):
        return kind(self.board, log, random.Random(self.rng.random()), log.name, **options)

    def load(self, cast, number):
        for kind, name, durable in ((WsPublisher, "client", 0.5), (WsPublisher, "durable", 1.0), (HttpPublisher, "http", 1.0)):
            publisher = kind(self.board, self.logs, random.Random(self.rng.random()), f"{name}{number}", durable, self.figures, cast.going)
            yield publisher.run
        device, away = self.reader(Device, self.present), random.Random(self.rng.random())

        def come_and_go():
            while cast.going():
                device.visit(time.monotonic() + away.uniform(0, 0.5))
                time.sleep(away.uniform(0, 0.3))

        yield come_and_go

    def cut(self, number):
        """Load, and the cut somewhere in it: at any moment, or right behind an answer `stored`. Now and then the
        machine idles before, until the write-ahead log is copied into a database, or is being copied."""
        if self.rng.random() < RESTS:
            time.sleep(self.rng.uniform(4.5, 9))
        cast = Workload()
        cast.start(*self.load(cast, number))
        until, goal = time.monotonic() + self.rng.uniform(0.1, 3), self.figures["answered stored"] + self.rng.randrange(1, 50)
        on_the_heels = self.rng.random() < 0.5
        while time.monotonic() < until and cast.going() and not (on_the_heels and self.figures["answered stored"] >= goal):
            time.sleep(0.0005)
        cast.crashing.set()
        died = time.monotonic()
        self.board.freeze_disk()
        # Answers that are on their way count: whatever comes now was on the disk before.
        time.sleep(0.1)
        self.board.power_off()
        cast.join()
        for log in self.logs:
            log.crashed(died - BEHIND)

    def verify(self, everything):
        limit = time.monotonic() + 60
        for kind, log, chance in ((Device, self.present, 0.5), (Device, self.absent, 0.3), (HistoryFollower, self.history, 1), (ChannelSubscriber, self.channel, 0.3)):
            owed = log.owed()
            if owed and (everything or self.rng.random() < chance):
                options = {"acknowledging": 0.05} if kind is Device else {}
                self.reader(kind, log, **options).visit(limit, owed)
                self.figures.count("owed and delivered after a boot", len(owed))

    def report(self):
        disk, stored = self.board.disk, sum(log.answered_stored for log in self.logs)
        return (f"{self.board.boots} boots, {self.board.repaired} after a repair of the file system, {stored:,} answered stored, {disk.writes:,} writes and {disk.flushes:,} flushes of the disk, "
                f"{disk.lost:,} sectors lost with the power")


@case(f"{CUTS} random power cuts: no message answered stored is lost")
def nothing_is_lost(_):
    print(f"# POWER_SEED={SEED}", flush=True)
    began, stage = time.monotonic(), PowerCutRun("barrier=1")
    with stage.board:
        stage.boot()
        for number in range(CUTS):
            try:
                stage.cut(number)
                stage.boot()
                stage.verify(everything=number == CUTS - 1)
            except AssertionError:
                stage.board.leave_evidence(f"cut {number}")
                raise
        for log in stage.logs:
            log.in_order()
    print(f"# {stage.figures}", flush=True)
    assert stage.figures["answered stored"], "nothing was ever answered stored: this has shown nothing"
    return f"{CUTS} cuts in {time.monotonic() - began:.0f} s, {stage.report()}, acknowledged messages lost 0"


@case("without flushes messages are lost, and this harness finds it")
def losses_are_found(_):
    stage = PowerCutRun("barrier=0")
    with stage.board:
        stage.boot()
        for number in range(LUCK):
            try:
                stage.cut(number)
                stage.boot()
                stage.verify(everything=True)
            except AssertionError as e:
                finding = str(e)
                assert any(word in finding for word in ("lost, though promised", "did not come up", "wait,", "e2fsck")), finding
                return f"found after {number + 1} cuts: {finding[:150]}"
    raise AssertionError(f"{LUCK} cuts of a machine that never flushes, and no loss was found; {stage.report()}")


if __name__ == "__main__":
    run_cases()
