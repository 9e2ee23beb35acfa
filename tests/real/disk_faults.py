"""Disk failures of every kind, and a daemon that goes on and reports them.

FAULTS sets how many calls of each kind fail, each in a trial of its own (300 in the long run), MUTATIONS how often the
store's files are damaged (1000 in the long run), FAULT_SEED repeats the plan of a run. The daemon runs as an ordinary user,
so that permissions take effect; the suite itself has to be run by root, for file systems of its own. Always the same is
expected: live traffic goes on, durable publishers get `store_unavailable` soon, `/healthz` is 503 with a reason and 200
again by itself when the cause is gone, nothing that was answered stored is lost except by damage to the medium, and what
was damaged is set aside and never deleted.
"""

import contextlib
import itertools
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from failing_calls import FailingCalls, LiveTraffic, Mounted, copy_of, mutate
from daemon import ended
from kept_messages import ANSWERED_WITHIN, ORDINARY_USER, ChannelSubscriber, Device, Figures, Log, StoreDaemon
from harness import case, in_time, run_cases, same

FAULTS = int(os.environ.get("FAULTS", "5"))
MUTATIONS = int(os.environ.get("MUTATIONS", "25"))
SEED = int(os.environ.get("FAULT_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
# What a file system reads at once: a bad sector of a disk is one of a file's.
BLOCK = 4096
# From the end of the cause to `/healthz` 200: whatever back-off the daemon has.
MENDED_WITHIN = 60
# How long a durable publisher may wait at the worst.
DURABLE_WITHIN = 15.5


class StoreUnderFault:
    """A daemon, two logs with their undelivered messages, and a publisher of durable messages one by one."""

    def __init__(self, state=None, failing=False):
        self.figures, self.number = Figures(), 0
        self.directory = Path(tempfile.mkdtemp(prefix="wshub-faults-"))
        self.directory.chmod(0o755)
        self.calls = None
        if failing:
            state = self.directory / "state"
            state.mkdir(mode=0o700)
            # Of the state directory only the store: keys and locks of the daemon itself are another matter.
            self.calls = FailingCalls(self.directory, state / "store")
        self.hub = StoreDaemon(state, ordinary=True, extra=self.calls and self.calls.environment)
        self.inbox, self.channel = Log("inbox", {"user_id": "away"}, 4000), Log("channel", {"channel": "jobs"}, 4000)
        self.logs = [self.inbox, self.channel]

    def __enter__(self):
        self.hub.__enter__()
        return self

    def __exit__(self, *failure):
        try:
            self.hub.__exit__(*failure)
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def durable(self):
        """One durable message; whether it was answered `stored`. Anything but that and `store_unavailable` is a finding."""
        log = self.logs[self.number % 2]
        self.number += 1
        message_id, began = f"speaker/{self.number}", time.monotonic()
        request = {**log.send(message_id, True), "id": message_id}
        with self.hub.worker() as worker:
            worker.send(request)
            answer = worker.next(ANSWERED_WITHIN)
        took = time.monotonic() - began
        self.figures.most("longest wait of a durable publisher", took)
        assert took < DURABLE_WITHIN, f"a durable publisher waited {took:.1f} s for {answer}"
        if answer["type"] == "error":
            same(answer["code"], "store_unavailable", str(answer))
            self.figures.count("store_unavailable")
            return False
        assert answer["kept"] and answer["stored"], f"nobody listens, and it was durable: {answer}"
        log.promised(message_id, True)
        self.figures.count("answered stored")
        return True

    def until_stored(self, within=MENDED_WITHIN):
        """The cause is gone: it works again by itself."""
        took = self.hub.until_healthy(within)
        began = time.monotonic()
        while not self.durable():
            assert time.monotonic() - began < within, f"healthy, and a durable message is refused: {self.hub.logged()}"
            time.sleep(0.1)
        self.figures.most("longest recovery", took + time.monotonic() - began)

    def until_refused(self, within=30, anew=False):
        """The cause is there: durable messages are refused, and `/healthz` has the reason. `anew`: by a process that begins."""
        end = time.monotonic() + within
        while self.durable():
            for child in self.hub.children() if anew else ():
                os.kill(child, signal.SIGKILL)
            assert time.monotonic() < end, f"durable messages are still stored after {within} s of trouble"
        return self.hub.until_unhealthy(within)

    def all_is_there(self):
        for kind, log, user in ((Device, self.inbox, "away"), (ChannelSubscriber, self.channel, "passer")):
            owed = log.owed()
            if owed:
                kind(self.hub, log, random.Random(SEED), user).visit(time.monotonic() + 30, owed)
                self.figures.count("owed and delivered", len(owed))
            log.in_order()

    def killed_and_started(self):
        """After a crash, and without the cause, all that was answered stored is there."""
        self.hub.kill()
        self.hub.start()
        self.figures.most("longest start", self.hub.took)
        self.all_is_there()

    def child(self):
        """The process that owns the disk now; a message makes the daemon have one."""
        self.durable()
        children = self.hub.children()
        assert len(children) == 1, f"one process owns the disk, and there are {children}"
        return children[0]

    def report(self, live=None):
        return f"{self.figures}" + (f", {in_time('longest delay of live traffic', live.longest, 0.1)}" if live else "")


# What a process does while it begins: so many calls of these kinds at the most, before others take over.
AT_THE_START = {"open": 20, "name": 10, "read": 20}


def plan_of_faults():
    """Every kind of call with every error; the first calls always, others at random where not all were requested."""
    rng = random.Random(SEED)
    for kind in ("write", "sync", *AT_THE_START):
        most = min(AT_THE_START.get(kind, 300), max(FAULTS, 60))
        numbers = range(1, min(FAULTS, most) + 1) if FAULTS > 30 else [1, *(rng.randrange(2, most + 1) for _ in range(FAULTS - 1))]
        for at in numbers:
            yield kind, at, rng.choice(["EIO", "EIO", "ENOSPC"] if kind != "read" else ["EIO"]), rng.choice([1, 1, 3, 0])


def provoke(bench, kind, at):
    """Messages until the planned call was made, and failed. Files are opened and read by a process that begins, so that
    there is a new one each time."""
    for _ in range(5 if kind in AT_THE_START else at + 5):
        if kind in AT_THE_START:
            for child in bench.hub.children():
                os.kill(child, signal.SIGKILL)
            end = time.monotonic() + 3
            while not (bench.durable() or bench.calls.failed) and time.monotonic() < end:
                time.sleep(0.05)
        else:
            bench.durable()
        if bench.calls.failed:
            return True
    return False


@case(f"the n-th disk call fails, {FAULTS} of a kind: only durable suffers")
def the_nth_call_fails(_):
    print(f"# FAULT_SEED={SEED}", flush=True)
    failed = Counter()
    longest = 0.0
    with StoreUnderFault(failing=True) as bench:
        for number, (kind, at, error, times) in enumerate(plan_of_faults()):
            try:
                with LiveTraffic(bench.hub) as live:
                    bench.calls.arm(kind, at, error, times)
                    failed[kind] += provoke(bench, kind, at)
                    if times == 0 and bench.calls.failed:
                        bench.until_refused(anew=kind in AT_THE_START)
                    bench.calls.mend()
                    bench.until_stored()
            except AssertionError as e:
                raise AssertionError(f"{kind} {at} {error} times={times}: {e}") from e
            same(bench.hub.process.poll(), None, "the daemon's end")
            longest = max(longest, live.longest)
            # A new daemon each time: to this one a disk that fails again so soon has not recovered, and waits longer and
            # longer for its next attempt.
            bench.hub.kill()
            bench.hub.start()
        bench.killed_and_started()
        missing = [kind for kind in ("write", "sync", "open") if not failed[kind]]
        assert not missing, f"no call of these kinds was ever made, so that none could fail: {missing}"
        live.longest = longest
        return f"{number + 1} trials, failed {dict(failed)}, {bench.report(live)}"


@case("a broken disk is retried with backoff and recovers by itself")
def patience(_):
    with StoreUnderFault(failing=True) as bench:
        with LiveTraffic(bench.hub) as live:
            child = bench.child()
            bench.calls.arm("open", 1, "EIO", 0)
            os.kill(child, signal.SIGKILL)
            reason = bench.until_refused()
            children, end, before = set(), time.monotonic() + 10, cpu(bench.hub.process.pid)
            while time.monotonic() < end:
                children |= set(bench.hub.children())
                bench.durable()
                time.sleep(0.005)
            used = cpu(bench.hub.process.pid) - before
            assert len(children) <= 15, f"{len(children)} processes in 10 s: that is a loop"
            bench.calls.mend()
            bench.until_stored()
        bench.killed_and_started()
        return f"{reason}; {len(children)} processes and {used:.1f} s of processor time in 10 s, {bench.report(live)}"


def cpu(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def mounted(kind, size):
    """A file system of its own in a directory of its own."""
    directory = Path(tempfile.mkdtemp(prefix="wshub-disk-"))
    directory.chmod(0o755)
    try:
        with Mounted(directory / "disk", kind, size) as disk:
            yield disk
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def full(kind, size, leave, make_room):
    """Fills a file system with messages, checks the reports, makes room and waits for the recovery."""
    with mounted(kind, size) as disk:
        if leave:
            disk.fill(leave)
        (disk.at / "state").mkdir(mode=0o700)
        os.chown(disk.at / "state", ORDINARY_USER, ORDINARY_USER)
        with StoreUnderFault(disk.at / "state") as bench:
            with LiveTraffic(bench.hub) as live:
                reason = until_full(bench)
            left = disk.free()
            bench.hub.kill()
            bench.hub.start(healthy=False)
            with LiveTraffic(bench.hub):
                assert not bench.durable() or bench.hub.health()[0] == 200, "stored on a disk that is said not to work"
                make_room(disk)
                bench.until_stored()
            bench.all_is_there()
            return f"{reason}; {left:,} bytes free, {bench.report(live)}"


def until_full(bench):
    for _ in range(20_000):
        if not bench.durable():
            return bench.hub.until_unhealthy(10)
    raise AssertionError("20,000 messages, and the disk is not full")


@case("a file system of 4 MiB fills, is grown, the store recovers")
def four_megabytes(_):
    return full("tmpfs", "4m", 0, lambda disk: disk.remount("size=128m"))


@case("a file system filled by others is emptied, and it recovers")
def somebody_elses(_):
    return full("ext4", 128 << 20, 12 << 20, Mounted.empty)


@case("a file system fills at runtime: durable is refused meanwhile")
def filled_while_running(_):
    with mounted("ext4", 128 << 20) as disk, StoreUnderFault(disk.at) as bench:
        with LiveTraffic(bench.hub) as live:
            for _ in range(20):
                assert bench.durable(), f"an empty disk, and no message is stored: {bench.hub.health()}"
            disk.fill(0)
            reason = bench.until_refused(60)
            disk.empty()
            bench.until_stored()
        bench.killed_and_started()
        return f"{reason}, {bench.report(live)}"


@case("a file system turns read-only: durable is refused meanwhile")
def read_only(_):
    with mounted("ext4", 128 << 20) as disk, StoreUnderFault(disk.at) as bench:
        with LiveTraffic(bench.hub) as live:
            child = bench.child()
            disk.freeze()
            os.kill(child, signal.SIGKILL)  # its own files stay writable as long as it lives
            reason = bench.until_refused()
            disk.thaw()
            bench.until_stored()
        bench.killed_and_started()
        return f"{reason}; {bench.report(live)}"


@case("a start on a read-only file system serves without durable")
def started_read_only(_):
    with mounted("ext4", 128 << 20) as disk, StoreUnderFault(disk.at) as bench:
        assert bench.durable()
        bench.hub.kill()
        wait_for_quiet(disk.at)
        disk.remount("ro")
        bench.hub.start(healthy=False)
        with LiveTraffic(bench.hub) as live:
            reason = bench.until_refused()
            disk.remount("rw")
            bench.until_stored()
        bench.killed_and_started()
        return f"{reason}; {bench.report(live)}"


@case("a directory without permissions: no durable meanwhile")
def no_permission(_):
    with StoreUnderFault() as bench:
        with LiveTraffic(bench.hub) as live:
            child, store = bench.child(), bench.hub.state / "store"
            assert store.is_dir(), f"no store in {sorted(bench.hub.state.iterdir())}"
            modes = {path: path.stat().st_mode for path in [store, *store.rglob("*")]}
            for path in sorted(modes, reverse=True):
                path.chmod(0o500 if path.is_dir() else 0o400)
            os.kill(child, signal.SIGKILL)
            reason = bench.until_refused()
            for path in sorted(modes):
                if path.exists():
                    path.chmod(modes[path])
            bench.until_stored()
        bench.killed_and_started()
        return f"{reason}, {bench.report(live)}"


@case("a removed directory is made anew, a restored one read")
def directory_gone(_):
    with StoreUnderFault() as bench:
        with LiveTraffic(bench.hub) as live:
            child, state = bench.child(), bench.hub.state
            bench.hub.process.send_signal(signal.SIGSTOP)
            os.kill(child, signal.SIGKILL)
            state.rename(state.with_name("elsewhere"))
            bench.hub.process.send_signal(signal.SIGCONT)
            reason = bench.until_refused()
            if state.exists():  # made anew meanwhile
                shutil.rmtree(state)
            state.with_name("elsewhere").rename(state)
            bench.until_stored()
        bench.killed_and_started()
        return f"{reason}, {bench.report(live)}"


@case("a bad sector is set aside and logged; the store recovers")
def bad_sector(_):
    for running, name in itertools.product((True, False), ("wal-" + "?" * 16, "database/db")):
        with StoreUnderFault(failing=True) as bench:
            for _ in range(300):
                assert bench.durable()
            if name == "database/db":
                until_copied(bench.hub.state)
            bench.hub.stop()
            store = bench.hub.state / "store"
            [db] = store.glob(f"*/{name}")
            name = db.relative_to(store / "00000000")
            if running:
                bench.hub.start()
                child = bench.child()
            # What is refused as not stored may be written later.
            unstored = {f"speaker/{number}" for number in range(1, 1000)}
            stored = {m for log in bench.logs for m in log.stored}
            bench.calls.spoil(db, db.stat().st_size // 2 // BLOCK * BLOCK, BLOCK)
            if running:
                # A process that has it open has it in memory; the next one has not.
                os.kill(child, signal.SIGKILL)
                with LiveTraffic(bench.hub) as live:
                    bench.until_stored()
                    found, end = found_of(bench, unstored), time.monotonic() + 60
                    while not list(store.glob("*.damaged-*")):
                        # A file that is written to is not read: only a reader finds that it cannot be.
                        assert time.monotonic() < end, "nothing was set aside"
                        found = max(found, found_of(bench, unstored))
                    bench.until_stored()
                    bench.figures.count("found", max(found, found_of(bench, unstored)))
            else:
                bench.figures.count("found", after_damage(bench, unstored))
            bench.figures.count("of", len(stored))
            aside = set(store.glob("*.damaged-*"))
            same((store / "00000000.damaged-1" / name).stat().st_ino, bench.calls.plan.sick, "what was set aside is the file itself")
            assert f"the disk does not give back {BLOCK} bytes of" in bench.hub.logged(), bench.hub.logged()
            bench.hub.kill()
            after_damage(bench, unstored)
            # What the engine makes of a part that is gone is known when it has read that: it may be the end of that database.
            now = set(store.glob("*.damaged-*"))
            assert now == aside or (aside < now and name.name == "db"), f"set aside, after another start: {now}"
    return bench.report(live)


@case("a hanging store process is replaced; only durable waits")
def child_hangs(_):
    with StoreUnderFault() as bench:
        with LiveTraffic(bench.hub) as live:
            for _ in range(3):
                child = bench.child()
                os.kill(child, signal.SIGSTOP)
                bench.durable()
                bench.until_stored()
                end = time.monotonic() + 5
                while not ended(child):
                    assert time.monotonic() < end, "the process that hung is still there"
                    time.sleep(0.05)
        bench.killed_and_started()
        return bench.report(live)


@case("a store process hung at a hand-over is replaced within 15 s")
def child_hangs_at_a_hand_over(_):
    with StoreUnderFault() as bench:
        with LiveTraffic(bench.hub) as live:
            child = bench.child()
            os.kill(child, signal.SIGSTOP)
            hand_over(bench.hub)
            began = time.monotonic()
            bench.until_stored(15)
            while not ended(child):
                assert time.monotonic() < began + 15, "the process that hung is still there"
                time.sleep(0.05)
        bench.killed_and_started()
        return bench.report(live)


# How long live traffic may stand still, whatever the disk does.
SILENT_FOR = 0.5
# Processes that hang in a call of a file system: two, and one that is started beside them.
MOST_HUNG = 3


@case("a frozen file system stops no live traffic and recovers")
def frozen(_):
    with mounted("ext4", 128 << 20) as disk, StoreUnderFault(disk.at) as bench:
        assert bench.durable() and bench.durable()
        with LiveTraffic(bench.hub) as live:
            with disk.frozen():
                hand_over(bench.hub)
                reason = bench.until_refused()
                hand_over(bench.hub)
                began = time.monotonic()
                assert not bench.durable(), "stored on a disk that is frozen"
                refused = time.monotonic() - began
                assert refused < 1, f"who took over did not know of the disk for {refused:.1f} s"
                children = bench.hub.children()
                assert len(children) <= MOST_HUNG, f"{len(children)} processes wait for the disk"
            bench.until_stored()
        assert live.longest < SILENT_FOR, f"live traffic stood still for {live.longest:.2f} s"
        bench.killed_and_started()
        return f"{reason}; {len(children)} processes, {bench.report(live)}"


def hand_over(hub):
    before = hub.logged().count("took over")
    hub.process.send_signal(signal.SIGUSR2)
    end = time.monotonic() + 10
    while hub.logged().count("took over") == before:
        assert time.monotonic() < end, f"nothing was handed over: {hub.logged()}"
        time.sleep(0.02)


@case("a second daemon on the same directory is harmless")
def second_daemon(_):
    with StoreUnderFault() as bench:
        assert bench.durable()
        second = None
        try:
            with LiveTraffic(bench.hub) as live:
                try:
                    second = StoreDaemon(bench.hub.state, ordinary=True, healthy=False)
                    outcome = f"the second serves: {second.health()}"
                    assert second.health()[0] == 503, "two daemons on one directory, and both say that their store works"
                except AssertionError as e:
                    if "ended at start" not in str(e):
                        raise
                    outcome = str(e).strip().splitlines()[-1][-200:]
                for _ in range(20):
                    assert bench.durable(), "the second daemon has harmed the first"
            bench.killed_and_started()
            if second is not None:
                bench.hub.stop()
                second.until_healthy(MENDED_WITHIN)
                second.stop()
                bench.hub.start()
        finally:
            if second is not None and second.process.poll() is None:
                second.kill()
        return f"{outcome}, {bench.report(live)}"


def until_copied(state):
    """All that is kept is in a database: a few seconds after the last was written."""
    end = time.monotonic() + 60
    while not list(state.glob("store/*/database/count")) or list(state.glob("store/*/wal-*")):
        assert time.monotonic() < end, sorted(map(str, state.rglob("*")))
        time.sleep(0.1)


def evidence(state):
    """Bytes in all files of the store and of whatever was set aside."""
    return sum(path.stat().st_size for path in Path(state).rglob("*") if path.is_file())


@case(f"{MUTATIONS:,} damaged stores: each start serves and stores")
def mutations(_):
    rng, outcomes = random.Random(SEED), Counter()
    with StoreUnderFault() as bench:
        for _ in range(150):
            assert bench.durable()
            if bench.number % 50 == 0:
                bench.hub.kill()
                bench.hub.start()
            if bench.number == 120:
                # Of what there is some lies in a database, and some in a log.
                until_copied(bench.hub.state)
        bench.hub.kill()
        state, whole = bench.hub.state, bench.directory / "whole"
        wait_for_quiet(state)
        copy_of(state, whole)
        stored = {m for log in bench.logs for m in log.stored}
        for _ in range(MUTATIONS):
            copy_of(whole, state)
            done = mutate(state / "store", rng)
            try:
                outcomes["found"] += after_damage(bench, stored)
                outcomes["of"] += len(stored)
                outcomes["set aside"] += len(set_aside(whole, state))
            except AssertionError as e:
                raise AssertionError(f"{done}: {e}") from e
            bench.hub.kill()
            wait_for_quiet(state)
        copy_of(whole, state)
        bench.hub.start()
        bench.all_is_there()
    return f"{MUTATIONS:,} damaged stores, {dict(outcomes)}, {bench.report()}"


def wait_for_quiet(state):
    """A process whose daemon was killed may still finish what it had begun."""
    size = None
    while (now := [(p, p.stat().st_mtime_ns) for p in Path(state).rglob("*") if p.is_file()]) != size:
        size = now
        time.sleep(0.1)


def set_aside(whole, state):
    """What is there now and was not: other than generations of the store."""
    before, after = ({p.relative_to(d) for p in (d / "store").iterdir()} for d in (whole, state))
    lost = [p for p in before - after if evidence_of(whole / p)]
    new = [p for p in after - before if (state / p).is_dir() and not p.name.isdigit()]
    assert not lost or new, f"{[str(p) for p in lost]} is gone, and nothing was set aside: {sorted(map(str, after))}"
    return new


def evidence_of(path):
    return path.is_dir() and evidence(path) > 0


def after_damage(bench, stored):
    """Starts on what is left; how many of the stored messages came, whole."""
    bench.hub.start(healthy=False)
    bench.figures.most("longest start", bench.hub.took)
    with LiveTraffic(bench.hub):
        bench.hub.until_healthy(MENDED_WITHIN)
        with bench.hub.worker() as worker:
            answer = worker.ask({"user_id": "new", "event": "e", "durable": True, "data": 1})
        assert answer.get("stored"), f"a durable message is refused: {answer}"
        return found_of(bench, stored)


def found_of(bench, stored):
    """How many of the stored messages come, whole, and no others."""
    found = set()
    for kind, log, user in ((Device, bench.inbox, "away"), (ChannelSubscriber, bench.channel, "passer")):
        # Positions of a damaged store are its own: every damage is another history.
        log.places, log.seqs, log.settled = {}, {}, set()
        keep = dict(log.stored)
        kind(bench.hub, log, random.Random(SEED), user).visit(time.monotonic() + 0.3)
        log.stored = keep
        found |= set(log.places.values())
    unknown = found - stored
    assert not unknown, f"messages that nobody had stored: {sorted(unknown)[:3]}"
    return len(found)


if __name__ == "__main__":
    run_cases()
