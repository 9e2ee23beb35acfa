"""The rate of durable messages, beside a plain log and beside Redis."""

import os
import shutil
import statistics
import subprocess

import kernel_counters
import publishers
from store_daemon import DATA, ROOM_FOR_ALL, Store, durable, is_stored, line

RECIPIENTS = 20


def requests(count, request):
    """Recipients of its own for each publisher, so that no log is full before the end."""
    return [[request(f"p{publisher}r{n}") for n in range(RECIPIENTS)] for publisher in range(count)]


class Hubs:
    """The daemon, as its publishers see it."""

    name, why_not = "wshubd, durable", None

    def __enter__(self):
        self.hub = Store(**ROOM_FOR_ALL).__enter__()
        self.path, self.process = self.hub.worker_path, self.hub.process
        durable(self.hub, 1, 1)
        return self

    @staticmethod
    def requests(target, _):
        return line(target, durable=True, answered=True)

    is_answer = staticmethod(is_stored)

    def __exit__(self, *kind):
        self.hub.__exit__(*kind)


# The servers take turns, so that a slow moment of the disk is not held against one of them.
TURNS = 3


class Contest:
    """What came of one server, in all its turns."""

    def __init__(self, kind):
        self.kind, self.rates, self.written, self.shared, self.traced = kind, [], 0, "", None

    def run(self, count, sizes, is_last):
        with self.kind() as server:
            self.name, self.why_not = server.name, server.why_not
            if server.why_not:
                return
            prepared = requests(count, lambda target: server.requests(target, DATA))
            publishers.publish(server.path, prepared, server.is_answer, 0.3)  # caches and connections
            before = kernel_counters.written(server.process.pid)
            self.rates.append(publishers.publish(server.path, prepared, server.is_answer, sizes.run / TURNS))
            self.written += kernel_counters.written(server.process.pid) - before
            if is_last:
                with kernel_counters.Syncs(server.process.pid) as syncs:
                    traced = publishers.publish(server.path, prepared, server.is_answer, sizes.traced)
                self.traced = syncs.count and traced.answers / syncs.count
                self.shared = f"{self.traced:.1f} to a sync" if syncs.count else f"syncs not counted: {syncs.why_not}"

    def a_second(self):
        return statistics.median(rate.a_second for rate in self.rates)

    def remark(self):
        median, slow = (statistics.median(getattr(rate, name) for rate in self.rates) * 1000 for name in ("median", "slow"))
        answers = sum(rate.answers for rate in self.rates)
        return f"median {median:.1f}, 99 % {slow:.1f} ms; {self.shared}; {self.written / answers:,.0f} B a message"


def measure_durable(sizes, table):
    table.part("durable messages of 300 B; each publisher waits for its answer")
    install({"redis-server": "redis-server", "strace": "strace"}, table)
    for count in (1, 10, 100):
        contests = [Contest(kind) for kind in (Hubs, publishers.Log, publishers.Redis)]
        for turn in range(TURNS):
            for contest in contests:
                contest.run(count, sizes, turn == TURNS - 1)
        for contest in contests:
            label = f"{contest.name}, {count} publisher{'s' if count > 1 else ''}"
            if contest.why_not:
                table.row(label, "-", contest.why_not)
                continue
            is_barred = contest.kind is Hubs and count == 100
            # Each publisher waits: more than all of them at once is a mistake of the count.
            held = bool(contest.traced) and 5 <= contest.traced <= count
            table.row(label, f"{contest.a_second():,.0f} a second", contest.remark(), "shared" if is_barred else None, held)
        hub, _, redis = contests
        if not redis.why_not:
            beside = hub.a_second() / redis.a_second()
            table.row(f"wshubd beside redis, {count}", f"{beside:.2f} times as many")


def install(commands, table):
    """What is not there, where that is possible (as root, on Debian)."""
    packages = [package for command, package in commands.items() if not shutil.which(command)]
    if not packages or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "timeout": 120}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(command, **quiet)
    table.row(f"installing {', '.join(packages)}", "done" if done.returncode == 0 else "failed")
