"""Random kills of the daemon, of its store process, or of both, under load: every promised message is there afterwards.

KILLS sets how often (1000 in the long run), KILL_SEED repeats the plan of a run. Publishers are workers, WebSocket clients
and HTTP callers, durable and not; the logs are inboxes, a channel that keeps undelivered messages and a history. A message
may come twice after a crash, never out of order within one replay, and no position ever stands for two messages.
"""

import os
import random
import time

from daemon import ended
from kept_messages import BEHIND, HISTORY, ChannelSubscriber, Device, Figures, HistoryFollower, HttpPublisher, Log, PipelinedPublisher, StoreDaemon, Workload, WsPublisher
from harness import case, run_cases, same

KILLS = int(os.environ.get("KILLS", "50"))
SEED = int(os.environ.get("KILL_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
# How long the daemon may go on without its disk after the process that owns it was killed.
RECOVERED_WITHIN = 15
# A clean stop now and then: what was only kept has to be there after it too.
WAYS = ["daemon"] * 8 + ["child"] * 5 + ["child, then daemon"] * 2 + ["daemon, then child"] * 2 + ["stop"] * 3


class KillRun:
    """The daemon, its logs, and their readers, over all rounds."""

    def __init__(self):
        self.rng, self.figures, self.hub = random.Random(SEED), Figures(), StoreDaemon()
        self.present, self.absent = Log("present", {"user_id": "present"}, 4000), Log("absent", {"user_id": "absent"}, 4000)
        self.channel, self.history = Log("channel", {"channel": "jobs"}, 4000), Log("history", {"channel": "history"}, HISTORY)
        self.logs = [self.present, self.absent, self.channel, self.history]
        self.trouble = 0.0  # when the store was last seen not to work

    def reader(self, kind, log, **options):
        return kind(self.hub, log, random.Random(self.rng.random()), log.name, **options)

    def publishers(self, cast, number):
        cast_of = ((PipelinedPublisher, "worker", 0.5), (PipelinedPublisher, "durable", 1.0), (WsPublisher, "client", 0.5), (HttpPublisher, "http", 0.8))
        for kind, name, durable in cast_of:
            publisher = kind(self.hub, self.logs, random.Random(self.rng.random()), f"{name}{number}", durable, self.figures, cast.going)
            yield publisher.run

    def visitors(self, cast):
        """Readers during the faults: a device and a reader of the history all the time, a subscriber now and then."""
        device, historian = self.reader(Device, self.present), self.reader(HistoryFollower, self.history)
        historian.position = getattr(self, "position", ("", 0))
        passer = self.reader(ChannelSubscriber, self.channel)
        comes = random.Random(self.rng.random())

        def receive(reader, seconds, pause):
            while cast.going():
                reader.visit(time.monotonic() + comes.uniform(0, seconds))
                if reader is historian:
                    self.position = historian.position
                time.sleep(comes.uniform(0, pause))

        yield lambda: receive(device, 0.5, 0.1)
        yield lambda: receive(historian, 0.5, 0.3)
        if comes.random() < 0.3:
            yield lambda: receive(passer, 0.1, 1.0)

    def round(self, number):
        """Load, a kill somewhere in it, and the end of the daemon; the next step starts it again."""
        cast, way = Workload(), self.rng.choice(WAYS)
        self.steps = [way]
        cast.start(*self.publishers(cast, number), *self.visitors(cast))
        time.sleep(self.rng.choice([0.02, 0.3, 1.0]) * self.rng.random() + 0.01)
        if way == "child":
            self.kill_the_child()
            time.sleep(self.rng.uniform(0, 0.5))
            if self.rng.random() < 0.7:
                self.recover()
                self.steps.append("recovered")
            way = "daemon" if self.rng.random() < 0.7 else "stop"
        self.end(cast, way)

    def kill_the_child(self):
        children = self.hub.children()
        self.figures.count("kills of the child" if children else "no child to kill")
        for child in children:
            os.kill(child, 9)
        self.trouble = time.monotonic()
        return children

    def recover(self):
        """The store works again by itself, while everybody goes on."""
        self.figures.most("longest recovery from a child's death", self.hub.until_healthy(RECOVERED_WITHIN))
        with self.hub.worker() as worker:
            began = time.monotonic()
            while not (answer := worker.ask({"user_id": "nobody", "event": "e", "durable": True})).get("stored"):
                same(answer.get("code"), "store_unavailable", str(answer))
                assert time.monotonic() - began < RECOVERED_WITHIN, f"the store says it works, and does not: {answer}"
                time.sleep(0.05)
        self.trouble = time.monotonic()

    def end(self, cast, way):
        self.figures.count(f"ends: {way}")
        self.steps.append(f"end: {way}")
        children = self.hub.children()
        if way == "stop":
            cast.leaving.set()
            cast.join()
            self.hub.stop()
        else:
            cast.crashing.set()
            died = time.monotonic()
            self.crash(way)
            cast.join()
            died = min(died, self.trouble + BEHIND if died - self.trouble < BEHIND else float("inf"))
            for log in self.logs:
                log.crashed(died - BEHIND)
        self.orphans = children

    def crash(self, way):
        if way == "child, then daemon":
            self.kill_the_child()
            time.sleep(self.rng.choice([0, 0.005, 0.05]))
        children = self.hub.children()
        self.hub.kill()
        if way == "daemon, then child":
            for child in children:
                if not ended(child):
                    os.kill(child, 9)

    def start(self):
        self.hub.start()
        self.figures.most("longest start", self.hub.took)

    def orphans_end(self):
        """A process whose daemon was killed finishes what it had begun, and ends."""
        end = time.monotonic() + 10
        while left := [pid for pid in self.orphans if not ended(pid)]:
            assert time.monotonic() < end, f"a child outlived its daemon: {left}"
            time.sleep(0.02)

    def verify(self, everything):
        """What is owed comes, whole and in order: the history always, the others not every time, so that a message lies
        there over many crashes."""
        limit = time.monotonic() + 30
        for kind, log, chance in ((Device, self.present, 0.5), (Device, self.absent, 0.2), (HistoryFollower, self.history, 1), (ChannelSubscriber, self.channel, 0.2)):
            owed = log.owed()
            if owed and (everything or self.rng.random() < chance):
                options = {"acknowledging": 0.05} if kind is Device else {}
                self.reader(kind, log, **options).visit(limit, owed)
                self.figures.count("owed and delivered after a start", len(owed))
        self.known_when_said_again()

    def known_when_said_again(self):
        """The ids of stored messages outlive the crash."""
        with self.hub.worker() as worker:
            published = [m for m in self.absent.owed() if m in self.absent.stored and m.startswith(("worker", "durable"))]
            for message_id in published[-3:]:
                again = {**self.absent.target, "event": "e", "message_id": message_id, "data": None, "durable": True}
                answer = worker.ask(again)
                assert answer.get("duplicate"), f"{message_id} is on the disk, and was taken a second time: {answer}"
                self.figures.count("said again, and known")


@case(f"{KILLS:,} random kills: no message answered stored is lost")
def killed_at_random(_):
    print(f"# KILL_SEED={SEED}", flush=True)
    began, stage = time.monotonic(), KillRun()
    with stage.hub:
        for number in range(KILLS):
            try:
                stage.round(number)
                stage.start()
                stage.orphans_end()
                stage.verify(everything=number == KILLS - 1)
            except Exception:
                print(f"# round {number} ({', '.join(stage.steps)}): {stage.figures}\n# {stage.hub.logged()}", flush=True)
                raise
        for log in stage.logs:
            log.in_order()
    print(f"# {stage.figures}", flush=True)
    published, stored, received = (sum(f(log) for log in stage.logs) for f in (lambda l: len(l.published), lambda l: l.answered_stored, lambda l: l.times_heard))
    doubled = received - sum(len({m for m in log.places.values()}) for log in stage.logs)
    assert stage.figures["owed and delivered after a start"] > KILLS, "hardly anything was ever owed: this has shown nothing"
    return f"{KILLS:,} rounds in {time.monotonic() - began:.0f} s, {published:,} said, {stored:,} answered stored, lost 0, heard {received:,} times, {doubled:,} of them again"


if __name__ == "__main__":
    run_cases()
