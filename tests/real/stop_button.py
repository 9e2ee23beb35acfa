"""The Stop button, end to end: somebody presses Stop, and the command and all its children are dead.

`wshubctl run` wraps real commands; a browser, a Python script and a Node script watch; one of them presses. The time is
measured from the press to the end of the last process, found by a mark in the environment that every child inherits.
"""

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import uuid

from daemon import BIN
from harness import TIMES, case, in_time, run_cases, same
from library_clients import HERE, Browser, Node, PythonApp, all_of

AIM = 0.1  # from the press to the death of the last child

BUILD = "seq 100000 | xargs -P 4 -I @ bash -c 'for step in parse check emit; do seq 2000 | sort -r | md5sum >/dev/null; sleep 0.02; done; echo compiled unit @'"
COMMANDS = {
    "find / -type f": ["find", "/", "-type", "f"],
    "a build of many processes at a time": ["bash", "-c", BUILD],
    "a loop of sleep and echo": ["bash", "-c", "n=0; while true; do echo tick $n; n=$((n + 1)); sleep 0.05; done"],
    "a pipeline": ["bash", "-c", "while true; do echo line; sleep 0.01; done | cat | cat"],
}


def alive(mark):
    """Processes that carry the mark and are no zombies, `wshubctl` itself left out."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                if mark not in environ.read():
                    continue
            with open(f"/proc/{pid}/stat") as stat:
                name, state = (text := stat.read())[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2]
            if state not in "ZX" and name != "wshubctl":
                found.append(int(pid))
        except (OSError, ValueError):
            continue
    return found


class Run:
    """One `wshubctl run`, and what it started."""

    def __init__(self, hub, operation, command, user="ann", channel="jobs", options=()):
        self.operation, self.mark = operation, uuid.uuid4().hex
        arguments = ["run", "--operation", operation, *(["--user", user] if user else []), "--label", f"running {operation}", *options, channel, "--", *command]
        self.process = hub.start_ctl(*arguments, environment={"REAL_MARK": self.mark}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def children(self):
        return alive(self.mark.encode())

    def dead_after(self, pressed, within=30):
        """Seconds from the press (wall clock) until nothing with the mark lives."""
        while self.children():
            assert time.time() - pressed < within, f"still alive {within} s after the press: {self.children()}"
            time.sleep(0.001)
        return time.time() - pressed

    def ended(self, within=10):
        try:
            status = self.process.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError("wshubctl run did not end") from None
        return status, self.process.stderr.read()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid in self.children():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stderr.close()


def one_end(watchers, operation, reason):
    for watcher in watchers:
        ended = watcher.receive("operation", within=60, operation_id=operation, state="ended")
        same(ended["reason"], reason, watcher.name)
        watcher.receive("operation", operation_id=operation, state="interrupting")
    time.sleep(0.2)  # a second one, if there is any, has the time to come
    for watcher in watchers:
        same(watcher.count("operation", operation_id=operation, state="ended"), 1, f"{watcher.name}: ends")
        same(watcher.count("operation", operation_id=operation, state="interrupting"), 1, f"{watcher.name}: interruptings")


@case("Stop in browser, Python and Node kills all children")
def the_scene(hub):
    worst, figures = 0, []
    browser = Browser(hub, hub.token("ann"), "jobs")
    with all_of(browser, PythonApp(hub, hub.token("ann"), "jobs"), Node("ws", hub, hub.token("ann"), "jobs")) as watchers:
        for watcher in watchers:
            watcher.receive("subscription_succeeded", channel="jobs")
        for turn in range(len(COMMANDS) * TIMES):
            # The flood comes once: clients in Python have to read it before the next turn.
            scenes = list(COMMANDS.items())
            name, command = scenes[turn] if turn < len(scenes) else scenes[1 + turn % (len(scenes) - 1)]
            operation = f"scene-{turn}"
            with Run(hub, operation, command) as run:
                for watcher in watchers:
                    watcher.receive("operation", operation_id=operation, state="started")
                    watcher.receive("message", event="operation:output")
                while not run.children():
                    assert run.process.poll() is None, f"{name} ended before anybody pressed Stop"
                    time.sleep(0.005)
                presser = watchers[turn % 3]
                if presser is browser:
                    browser.screenshot(f"before-stop-{turn}")
                    pressed = browser.press_stop()
                else:
                    pressed = time.time()
                    presser.send({"action": "interrupt", "id": f"press-{turn}", "data": {"operation_id": operation}})
                took = run.dead_after(pressed)
                same(presser.receive("interrupt_result", operation_id=operation)["outcome"], "delivered")
                one_end(watchers, operation, "interrupted")
                status, errors = run.ended()
                assert status != 0, f"{name} was interrupted and run exited with 0: {errors}"
                worst = max(worst, took)
                figures.append(f"{name} by {presser.name} {took * 1000:.0f}")
        browser.screenshot("after-stop")
    return in_time("; ".join(figures) + " ms; at worst", worst, AIM)


@case("each output line is published with stream and number")
def output(hub):
    with hub.subscriber("jobs", user="ann") as ann:
        with Run(hub, "lines", ["bash", "-c", "echo one; echo two >&2; sleep 0.3; echo three; printf 'no newline'; exit 7"]) as run:
            status, _ = run.ended()
            same(status, 7, "run exits with the command's status")
        ended, lines = None, []
        while not ended:
            frame = ann.next()
            if frame["type"] == "message" and frame["event"] == "operation:output":
                lines.append(frame["data"])
            if frame["type"] == "operation" and frame["state"] == "ended":
                ended = frame
        same(ended["reason"], "failed")
        assert "7" in json.dumps(ended.get("data")), f"the end carries the exit status: {ended}"
        text = json.dumps(lines)
        for wanted in ("one", "two", "three", "no newline", "stdout", "stderr"):
            assert wanted in text, f"{wanted!r} is not in {text}"
    with hub.subscriber("jobs", user="ann") as ann, Run(hub, "fine", ["true"]) as run:
        same(run.ended()[0], 0)
        same(ann.receive("operation", operation_id="fine", state="ended")["reason"], "completed")


@case("100,000 lines come in order, losses announced, run ends")
def much_output(hub):
    with hub.subscriber("jobs", user="ann") as ann, Run(hub, "seq", ["seq", "100000"]) as run:
        numbers, lost, behind = [], 0, None
        # `operation` frames are never shed and may overtake the lines that a slow reader still has to be given.
        while behind is None or len(numbers) + lost < 100_000:
            frame = ann.next(30)
            if frame["type"] == "message" and frame["event"] == "operation:output":
                if frame["data"].get("partial"):
                    continue  # the rest of the line took a while, as on a busy machine
                numbers.append(int(next(v for v in frame["data"].values() if isinstance(v, str) and v.strip().isdigit())))
            elif frame["type"] == "gap":
                lost += frame["to_seq"] - frame["from_seq"] + 1 if "to_seq" in frame else frame["lost"]
            elif frame["type"] == "operation" and frame["state"] == "ended":
                behind = 100_000 - len(numbers) - lost
        assert numbers == sorted(set(numbers)), "out of order or doubled"
        # Beside lines, what was lost may have been such a beginning of one.
        assert len(numbers) + lost <= 100_100, f"{len(numbers)} lines heard and {lost} told as lost"
        same(run.ended()[0], 0)
    return f"{len(numbers):,} heard, {lost:,} told as lost, {behind:,} of them after `ended`"


@case("kill -9 of run is owner_lost for everybody")
def killed(hub):
    with hub.subscriber("jobs", user="ann") as ann, Run(hub, "kill9", ["sleep", "1000"]) as run:
        ann.receive("operation", operation_id="kill9", state="started")
        began = time.monotonic()
        run.process.kill()
        same(ann.receive("operation", operation_id="kill9", state="ended")["reason"], "owner_lost")
        took = time.monotonic() - began
    return in_time("kill to ended", took, 0.05)


@case("Stop before the start is pending, then ends the operation")
def before(hub):
    with hub.subscriber("jobs", user="ann") as ann:
        ann.send({"action": "interrupt", "id": "early", "data": {"operation_id": "soon"}})
        same(ann.receive("interrupt_result")["outcome"], "pending")
        with Run(hub, "soon", ["sleep", "1000"]) as run:
            same(ann.receive("interrupt_result", id="early")["outcome"], "delivered")
            same(ann.receive("operation", operation_id="soon", state="ended")["reason"], "interrupted")
            run.ended()
            same(run.children(), [])


@case("Stop without the right is forbidden; the command goes on")
def forbidden(hub):
    with hub.subscriber("jobs", user="bob") as bob, hub.connect("ann") as ann, Run(hub, "anns", ["sleep", "1000"]) as run:
        bob.receive("operation", operation_id="anns", state="started")
        same(bob.ask({"action": "interrupt", "data": {"operation_id": "anns"}}).get("code"), "forbidden")
        time.sleep(0.3)
        assert run.children(), "the command died of a refused interrupt"
        same(ann.ask({"action": "interrupt", "data": {"operation_id": "anns"}}).get("outcome"), "delivered")
        run.dead_after(time.time())


@case("two users press Stop at once: one kill, one end")
def two(hub):
    with hub.subscriber("jobs", user="ann") as ann, hub.subscriber("jobs", user="bob") as bob, Run(hub, "shared", ["sleep", "1000"], user=None) as run:
        for wire in (ann, bob):
            wire.receive("operation", operation_id="shared", state="started")
        while not run.children():
            time.sleep(0.005)
        pressed = time.time()
        threads = [threading.Thread(target=wire.send, args=({"action": "interrupt", "id": "p", "data": {"operation_id": "shared"}},)) for wire in (ann, bob)]
        for thread in threads:
            thread.start()
        took = run.dead_after(pressed)
        for thread in threads:
            thread.join()
        run.ended()
        for wire in (ann, bob):
            came = wire.until_pong()
            same([f["state"] for f in came if f["type"] == "operation"], ["interrupting", "ended"])
            assert [f["outcome"] for f in came if f["type"] == "interrupt_result"][0] in ("delivered", "already_ended")
    return in_time("press to death", took, AIM)


@case("Stop overtakes a flooding owner and a full channel")
def behind_a_flood(hub):
    stop = threading.Event()

    def flood():
        with hub.worker() as worker:
            worker.sock.settimeout(60)
            lines = b'{"channel":"jobs","event":"noise","data":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}\n' * 100
            while not stop.is_set():
                worker.send(lines)

    with hub.connect("ann") as ann, Run(hub, "flooding", ["bash", "-c", "yes 'a line as fast as it goes'"]) as run:
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            while not run.children() or "flooding" not in json.dumps(ann.ask({"action": "operations", "channel": "jobs"})):
                time.sleep(0.2)
            time.sleep(1)
            pressed = time.time()
            ann.send({"action": "interrupt", "id": "p", "data": {"operation_id": "flooding"}})
            took = run.dead_after(pressed)
            same(ann.receive("interrupt_result", id="p")["outcome"], "delivered")
            run.ended(30)
        finally:
            stop.set()
            flooding.join()
    return in_time("press to death", took, AIM)


@case("a command that ignores SIGINT and SIGTERM is killed")
def stubborn(hub):
    script = "trap '' INT TERM; (trap '' INT TERM; while true; do sleep 0.2; done) & while true; do sleep 0.2; done"
    with hub.subscriber("jobs", user="ann") as ann, Run(hub, "stubborn", ["bash", "-c", script]) as run:
        ann.receive("operation", operation_id="stubborn", state="started")
        while len(run.children()) < 2:
            time.sleep(0.01)
        pressed = time.time()
        same(ann.ask({"action": "interrupt", "data": {"operation_id": "stubborn"}}).get("outcome"), "delivered")
        took = run.dead_after(pressed)
        same(ann.receive("operation", operation_id="stubborn", state="ended")["reason"], "interrupted")
        run.ended()
    return f"dead after {took:.1f} s"


@case("a background child that ignores SIGINT is killed as well")
def background(hub):
    script = "sleep 1000 & while true; do sleep 0.1; done"  # a shell without job control starts it with SIGINT ignored
    with hub.subscriber("jobs", user="ann") as ann, Run(hub, "background", ["bash", "-c", script]) as run:
        ann.receive("operation", operation_id="background", state="started")
        while len(run.children()) < 3:
            time.sleep(0.01)
        pressed = time.time()
        same(ann.ask({"action": "interrupt", "data": {"operation_id": "background"}}).get("outcome"), "delivered")
        took = run.dead_after(pressed)
        run.ended()
    return f"dead after {took:.2f} s"


@case("Ctrl-C and SIGTERM of run itself stop the command")
def signals(hub):
    # Where this suite is a background job of a script it ignores SIGINT, and so would what it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGINT, signal.SIGTERM):
        with hub.subscriber("jobs", user="ann") as ann, Run(hub, f"signal-{number}", ["sleep", "1000"]) as run:
            ann.receive("operation", state="started")
            while not run.children():
                time.sleep(0.005)
            run.process.send_signal(number)
            run.dead_after(time.time(), within=10)
            ann.receive("operation", state="ended")
            run.ended()


@case("run without a daemon runs the command and reports it")
def no_daemon(hub):
    with tempfile.TemporaryDirectory() as empty:
        marker = os.path.join(empty, "ran")
        nowhere = {**hub.environment, "XDG_RUNTIME_DIR": empty}
        for options, status in ((["--need-hub"], 3), ([], 0)):
            done = subprocess.run([BIN / "wshubctl", "run", *options, "jobs", "--", "touch", marker], env=nowhere,
                                  capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
            assert done.returncode == status and done.stderr.strip(), f"{done}"
            same(os.path.exists(marker), status == 0)


@case("a shell about to fork its first command is stopped too")
def slow_fork(hub):
    library = HERE / "out/slow_fork.so"
    library.parent.mkdir(exist_ok=True)
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, HERE / "slow_fork.c"], check=True)
    # Its trap is its own: nothing but the signal ends it before the hour is over.
    script = "trap 'exit 5' INT; export LD_PRELOAD=; echo up; sleep 3600"
    for round in range(5):
        operation = f"slow-{round}"
        command = ["env", f"LD_PRELOAD={library}", "bash", "-c", script]
        with hub.subscriber("jobs", user="ann") as ann, Run(hub, operation, command, options=["--term-after", "1h"]) as run:
            ann.receive("message", event="operation:output", within=10)
            same(ann.ask({"action": "interrupt", "data": {"operation_id": operation}}).get("outcome"), "delivered")
            status, output = run.ended()
            same(status, 5, output)


@case("--pty publishes lines of a buffering program; Stop works")
def pty(hub):
    with hub.subscriber("jobs", user="ann") as ann, Run(hub, "tty", ["python3", "-c", "import time, sys\nprint('tty' if sys.stdout.isatty() else 'pipe')\ntime.sleep(1000)"], options=["--pty"]) as run:
        line = ann.receive("message", event="operation:output", within=10)
        assert "tty" in json.dumps(line["data"]), line
        pressed = time.time()
        same(ann.ask({"action": "interrupt", "data": {"operation_id": "tty"}}).get("outcome"), "delivered")
        took = run.dead_after(pressed)
        run.ended()
    return in_time("press to death", took, AIM)


if __name__ == "__main__":
    run_cases()
