"""Random load, limits and faults: a received position stays valid, and every promise is kept.

CHAOS_ROUNDS sets how many rounds (180 in the long run), CHAOS_SEED repeats their plan. In every round saturating workers,
bursts, many inboxes and durable publishers meet up to 200 subscribers that keep up, and hand-overs, kills of the daemon and
of its store process, failing starts, second daemons, frozen and full disks are the faults. After each of them epoch and seq
of all received messages are compared with all that was received before. Needs root, for disks of its own.
"""

import os
import random
import signal
import time

import chaos_cases  # noqa: F401  its cases run first: random rounds do not reach them quickly
from subscriber_pool import SubscriberPool
from received_positions import Listener, PositionLedger
from kept_messages import ChannelSubscriber, Device, Figures, Log, PipelinedPublisher, Workload
from load_generators import Loads, Pulse, bursts, inboxes, saturating
from fault_injection import Disk, FaultyDaemon, hand_over_that_fails, start_that_fails, taken_port
from harness import case, run_cases, same

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
# The longest that anybody may wait for an answer that needs no disk, without what the daemon itself waits for a processor.
ANSWERED_WITHIN = 0.5
# From the end of a fault to `/healthz` 200; the second where the store's process hung or the disk stood still.
HEALTHY_WITHIN, THAWED_WITHIN = 15, 30
# What a process needs beside what it counts against its limit.
BESIDE = 48 << 20
INBOXES = 3000
CHANNELS = ["history:a", "history:a", "history:b", "history:stop", "jobs:a", "jobs:b"]
PAIRS = [["history:a", "jobs:b"], ["history:b", "history:stop"]]

# Each has a daemon of its own, for so many rounds in a row: what one life leaves is what the next one begins with.
PLACES = {
    "roomy": {},
    "small limits": {"memory": "24MiB", "store": "4MiB"},
    "little flash": {"flash": "2MiB", "memory": "48MiB"},
    "a disk of its own": {"store": "16MiB"},
}
IN_A_ROW = 5

FAULTS = {
    "hand-over": 4, "hand-overs in a row": 3, "hand-over, then kill": 4, "kill": 4, "kill the child": 3,
    "child, then daemon": 2, "child stops for a while": 1, "stop and start": 2, "start that fails": 1, "hand-over that fails": 2,
    "second daemon": 1, "second daemon, same socket": 1,
}
FAULTS_OF_A_DISK = {"freeze": 4, "freeze, with a hand-over": 2, "full": 4}


class Plan:
    """What one round does; follows from the seed and its number alone."""

    def __init__(self, number):
        self.number, self.rng = number, random.Random(f"{SEED}/{number}")
        rng, self.place = self.rng, list(PLACES)[number // IN_A_ROW % len(PLACES)]
        self.listeners = rng.choice([50, 100, 200])
        self.loads = [self.load(rng) for _ in range(rng.choice([1, 2, 2, 3]))]
        faults = {**FAULTS, **(FAULTS_OF_A_DISK if self.place == "a disk of its own" else {})}
        self.faults = rng.choices(list(faults), list(faults.values()), k=rng.choice([1, 1, 2, 3]))
        self.pauses = [rng.uniform(0.05, 0.4) for _ in self.faults]

    def load(self, rng):
        channel, most = rng.choice(CHANNELS), rng.randrange(16, 61) << 10
        kind = rng.choice(["tiny", "tiny", "bursts", "inboxes", "sizes", "large"])
        if kind == "tiny":
            return saturating, channel, 1, most, rng.choice([0, 0, 0.01, 0.05])
        if kind == "bursts":
            return bursts, channel, rng.choice([1, 100, 2000]), 400
        if kind == "inboxes":
            return inboxes, rng.choice([300, INBOXES]), rng.choice([1, 100]), rng.random()
        size = round(2 ** rng.uniform(0, 16)) if kind == "sizes" else rng.choice([60_000, 200_000, 523_000])
        # A machine delivers so much to all subscribers, and no more.
        return saturating, channel, size, most, max(0.01, size * self.listeners / 2 / 100e6)

    def __str__(self):
        loads = ", ".join(f"{make.__name__}{arguments}" for make, *arguments in self.loads)
        return f"round {self.number} on {self.place}: {self.listeners} listeners; {loads}; {', '.join(self.faults)}"


class StoredMessages:
    """The logs with promises, their publishers and their readers."""

    def __init__(self, figures):
        self.figures, self.workloads = figures, 0
        self.inbox = Log("promised", {"user_id": "promised"}, 900)
        self.jobs = Log("owed", {"channel": "owed"}, 900)
        self.logs = [self.inbox, self.jobs]

    def start(self, hub, rng):
        """Two durable publishers, with names that nobody had before."""
        self.workload, self.workloads = Workload(), self.workloads + 1
        publishers = [PipelinedPublisher(hub, self.logs, random.Random(rng.random()), f"load{self.workloads}-{n}", 1.0, self.figures, self.workload.going) for n in range(2)]
        self.workload.start(*(publisher.run for publisher in publishers))

    def crash(self):
        self.workload.crashing.set()

    def end(self, crashed):
        self.workload.leaving.set()
        self.workload.join()
        if crashed:
            for log in self.logs:
                log.kept.clear()

    def verify(self, hub, rng):
        """All that was answered stored is received, or announced as lost."""
        for kind, log, user in ((InboxVerifier, self.inbox, "promised"), (BacklogVerifier, self.jobs, "passer")):
            owed = dict(log.stored)
            if owed:
                reader = kind(hub, log, random.Random(rng.random()), user)
                reader.visit(time.monotonic() + 20, owed)
                self.figures.count("owed and delivered", len(owed) - len(reader.missing))
                self.figures.count("owed and told to be lost", len(reader.missing))
                log.settle(owed)


class LossTolerantReader:
    """A reader that accepts announced losses, and leaves when all that waits has been received."""

    def visit(self, until, wanted=()):
        self.lost, self.missing, self.wanted = 0, set(), set(wanted)
        self.quiet_at = None
        super().visit(until, wanted)

    def frame(self, wire, got):
        if got["type"] == "gap":
            self.lost += got.get("lost", 0)
        if got["type"] == "message" or got["type"] == "gap":
            super().frame(wire, got)
            seq = got.get("seq", got.get("to_seq", 0))
            if seq >= self.end:
                self.over()

    def over(self):
        self.missing, self.left = set(self.left), set()
        assert len(self.missing) <= self.lost, (
            f"{self.log.name}: {len(self.missing)} of {len(self.wanted)} that were answered stored do not come, and {self.lost} are "
            f"told to be lost: {self.describe(self.missing)}"
        )


class InboxVerifier(LossTolerantReader, Device):
    def arrive(self, wire):
        inbox = wire.hello["inbox"]
        self.epoch, self.here, self.unread, self.end = inbox["epoch"], [], [], inbox["seq"]
        if not inbox["waiting"]:
            # A loss is announced all the same.
            for got in wire.until_pong():
                self.frame(wire, got)
            if self.left:
                self.over()

    def leave(self, wire):
        wire.send({"action": "ack", "epoch": self.epoch, "seq": self.end})
        wire.until_pong()


class BacklogVerifier(LossTolerantReader, ChannelSubscriber):
    def arrive(self, wire):
        wire.send({"action": "subscribe", "channel": self.log.target["channel"], "since": {"epoch": "", "seq": 0}})
        got = wire.receive("subscription_succeeded")
        self.epoch, self.end = got["epoch"], got["seq"]
        if not got["seq"]:
            self.over()


class ChaosRun:
    """One daemon over some rounds, with all positions received from it."""

    def __init__(self, place, book, figures):
        self.place, self.book, self.figures = place, book, figures
        self.disk = Disk(96 << 20) if place == "a disk of its own" else None
        self.hub = FaultyDaemon(state=self.disk and self.disk.state, **PLACES[place])
        self.owed, self.positions, self.found = StoredMessages(figures), {}, []
        # The history's epochs: a new one may come only after a crash.
        self.epochs, self.crashed = {}, True

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        if self.disk and self.disk.is_frozen:
            self.disk.resume()
        try:
            self.hub.__exit__(*failure)
        finally:
            if self.disk:
                self.disk.__exit__(*failure)

    def listeners(self, plan):
        """Some connect for the first time, some at their last position; some read one of the many inboxes."""
        rng = plan.rng
        for n in range(plan.listeners):
            if n % 5 == 4:
                yield Listener(f"user{rng.randrange(INBOXES):06d}", rng.choice(["ack", "auto"]), [])
                continue
            listener = Listener(f"l{n}", "off", rng.choice(PAIRS) if n % 3 == 2 else [rng.choice(CHANNELS)])
            if rng.random() < 0.5:
                listener.positions = {c: p for c, p in self.positions.get(n, {}).items() if c in listener.channels}
            yield listener

    def round(self, plan):
        self.plan, self.found, self.within = plan, [], HEALTHY_WITHIN
        crowd = loads = pulse = None
        listeners = {listener.user: listener for listener in self.listeners(plan)}
        try:
            crowd = SubscriberPool(self.hub, list(listeners.values()))
            loads = Loads(self.hub.worker_path, plan.loads)
            pulse = self.pulse = Pulse(self.hub)
            self.owed.start(self.hub, plan.rng)
            for fault, pause in zip(plan.faults, plan.pauses):
                time.sleep(pause)
                self.figures.count(fault)
                FAULT[fault](self)
            time.sleep(0.1)
            loads.stop()
            self.owed.end(False)
            self.figures.most("longest until healthy", self.hub.until_healthy(self.within))
            self.measured(pulse.stop())
            self.collect(*crowd.leave())
        finally:
            for part in (crowd, pulse):
                if part:
                    part.kill()
            if loads:
                loads.stop()
        if plan.rng.random() < 0.5:
            self.owed.verify(self.hub, plan.rng)
        assert not self.found, "; ".join(self.found[:6])

    def measured(self, figures):
        self.figures.most("longest answer", figures["longest"])
        self.figures.count("answers", figures["answers"])
        bounds = (
            ("an answer that needs no disk took", figures["longest"], ANSWERED_WITHIN, "s"),
            ("memory_bytes", figures["memory"], self.hub.limit, "bytes"),
            ("resident memory", figures["resident"], self.hub.limit + BESIDE, "bytes"),
            # One, and two that were killed and do not end: of a disk that hangs they cannot.
            ("processes that own the disk", figures["children"], 3, ""),
        )
        for what, value, most, unit in bounds:
            if value > most:
                self.found.append(f"{what}: {value:,.2f} {unit}, and at most {most:,} are promised")

    def collect(self, listeners, places, cut):
        for n, listener in enumerate(listeners):
            self.found += listener.faults
            self.positions[n] = listener.positions
            self.figures.count("heard", listener.messages)
            for cause, count in listener.gaps.items():
                self.figures.count(f"gaps {cause}", count)
            for log, epoch, at in listener.began:
                known = self.epochs.setdefault(log, [epoch])
                if epoch not in known:
                    known.append(epoch)
                    if log.startswith("history") and not self.crashed:
                        self.found.append(f"{log} begins anew as epoch {epoch}, and nothing was killed: {known[-3:]}")
        for place, (seqs, marks) in places.items():
            if wrong := self.book.enter(self.plan.number, (self.place, *place), seqs, marks):
                self.found.append(wrong)
        for hole in {hole for listener in listeners for hole in listener.holes}:
            self.left_out(*hole)
        self.crashed = False

    def left_out(self, log, epoch, first, end):
        """Positions that nobody received in this round. Only after a crash may there be some that were never assigned."""
        received = self.book.received_between((self.place, log, epoch), first, end)
        if received or epoch == self.epochs.get(log, [epoch])[0]:
            self.found.append(f"{log}, epoch {epoch}: {received or first} is left out before {end}, and no gap tells of it")
        self.figures.count("positions skipped after a crash", end - first)

    # ---- faults ----

    def stops(self, meanwhile=lambda: None):
        """It is stopped, and started again after whatever happens in between."""
        self.owed.end(False)
        self.hub.stop()
        meanwhile()
        self.begins()

    def begins(self):
        self.hub.start(healthy=False)
        self.pulse.pid.value = self.hub.process.pid
        self.figures.most("longest start", self.hub.took)
        self.owed.start(self.hub, self.plan.rng)

    def kill(self):
        self.crashed = True
        self.owed.crash()
        self.hub.kill()
        self.owed.end(True)
        self.begins()

    def hand_over(self):
        self.hub.hand_over()
        time.sleep(self.plan.rng.uniform(0.02, 0.3))

    def hand_overs(self):
        for _ in range(self.plan.rng.randrange(2, 6)):
            self.hub.hand_over()
            time.sleep(self.plan.rng.choice([0, 0.005, 0.05, 0.2]))

    def hand_over_and_kill(self):
        self.hub.hand_over()
        time.sleep(self.plan.rng.choice([self.plan.rng.uniform(0, 0.02), self.plan.rng.uniform(0.02, 0.06)]))
        self.kill()

    def kill_child(self):
        self.hub.signal_child(signal.SIGKILL)
        time.sleep(self.plan.rng.uniform(0, 0.2))

    def child_then_daemon(self):
        self.hub.signal_child(signal.SIGKILL)
        time.sleep(self.plan.rng.choice([0, 0.005, 0.05]))
        self.kill()

    def child_stops(self):
        self.within = THAWED_WITHIN
        self.hub.signal_child(signal.SIGSTOP)
        time.sleep(self.plan.rng.uniform(0.2, 1.5))
        self.hub.signal_child(signal.SIGCONT)

    def start_fails(self):
        def fails():
            with taken_port() as port:
                start_that_fails(self.hub, port)

        self.stops(fails)

    def hand_over_fails(self):
        self.owed.crash()
        with taken_port() as port:
            goes_on = hand_over_that_fails(self.hub, port)
        self.owed.end(not goes_on)
        if goes_on:
            self.owed.start(self.hub, self.plan.rng)
        else:
            self.figures.count("failed hand-overs that ended the daemon")
            self.begins()

    def second_daemon(self):
        self.hub.second(own_state=False)
        same(self.hub.process.poll(), None, "the first daemon's end")

    def second_at_the_socket(self):
        ended = self.hub.second(own_state=True)
        if ended in (None, 0):
            self.found.append(f"a second daemon took the worker socket of the first one, and ended with {ended}")
        same(self.hub.process.poll(), None, "the first daemon's end")

    def freeze(self, meanwhile=None):
        self.within = THAWED_WITHIN
        self.disk.suspend()
        time.sleep(self.plan.rng.uniform(0.5, 2.0))
        if meanwhile:
            meanwhile()
        self.disk.resume()

    def freeze_and_hand_over(self):
        self.freeze(self.hand_over)

    def full(self):
        self.within = THAWED_WITHIN
        self.disk.fill(0)
        time.sleep(self.plan.rng.uniform(0.3, 1.5))
        self.disk.empty()

    def stopped(self):
        """A clean stop at the end: what was kept before it is kept after it."""
        self.hub.until_healthy(HEALTHY_WITHIN)
        before = self.hub.stats()
        self.hub.stop()
        self.hub.start()
        after = self.hub.stats()
        lost = before["kept_messages"] - after["kept_messages"]
        assert lost == 0, f"a clean stop kept {after['kept_messages']:,} of {before['kept_messages']:,} messages; {self.hub.logged()}"
        self.figures.count("kept over a clean stop", after["kept_messages"])


FAULT = {
    "hand-over": ChaosRun.hand_over, "hand-overs in a row": ChaosRun.hand_overs, "hand-over, then kill": ChaosRun.hand_over_and_kill,
    "kill": ChaosRun.kill, "kill the child": ChaosRun.kill_child, "child, then daemon": ChaosRun.child_then_daemon,
    "child stops for a while": ChaosRun.child_stops, "stop and start": ChaosRun.stops, "start that fails": ChaosRun.start_fails,
    "hand-over that fails": ChaosRun.hand_over_fails, "second daemon": ChaosRun.second_daemon,
    "second daemon, same socket": ChaosRun.second_at_the_socket, "freeze": ChaosRun.freeze,
    "freeze, with a hand-over": ChaosRun.freeze_and_hand_over, "full": ChaosRun.full,
}


def rounds_of(place, numbers, book, figures):
    """The rounds of one daemon; how many of them found something. One that is broken for good breaks no more rounds."""
    red = 0
    try:
        with ChaosRun(place, book, figures) as stage:
            for number in numbers:
                plan = Plan(number)
                try:
                    stage.round(plan)
                except Exception as e:
                    red += 1
                    print(f"# CHAOS_SEED={SEED} {plan}\n#   {type(e).__name__}: {str(e)[:900]}\n#   log: {stage.hub.logged()[-500:]}", flush=True)
                    if red > 1:
                        raise
                    if stage.hub.process.poll() is not None:
                        stage.hub.start(healthy=False)
            stage.stopped()
    except Exception as e:
        red = max(red, 1)
        print(f"# CHAOS_SEED={SEED} rounds {numbers[0]} to {numbers[-1]} on {place} end early: {type(e).__name__}: {str(e)[:300]}", flush=True)
    return red


@case(f"{ROUNDS} random rounds of load and faults: no position reused")
def chaos(_):
    print(f"# CHAOS_SEED={SEED}", flush=True)
    began, book, figures, red = time.monotonic(), PositionLedger(), Figures(), 0
    numbers = range(ROUNDS)
    for first in range(0, ROUNDS, IN_A_ROW):
        row = [n for n in numbers if first <= n < first + IN_A_ROW]
        red += rounds_of(Plan(first).place, row, book, figures)
    print(f"# {figures}", flush=True)
    assert red == 0, f"{red} of {ROUNDS} rounds found something; CHAOS_SEED={SEED} repeats the plan"
    assert book.count > ROUNDS * 200, f"{book.count} positions were heard in all: this has shown nothing"
    return f"{book.count:,} positions heard, in {time.monotonic() - began:.0f} s"


if __name__ == "__main__":
    run_cases()
