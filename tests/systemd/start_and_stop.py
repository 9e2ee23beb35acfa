"""Start, status and stop of the daemon, as an administrator sees them."""

import json
import subprocess
import time

from machine import UNITS, Machine, eventually
from harness import case, run_cases, same

STARTED = "started: ws://127.0.0.1:8098/api/v1/ws (from systemd); workers at /run/wshubd/worker.sock (from systemd)"


@case("a start is complete when it serves, and logs one line")
def start(hub):
    hub.ctl("stop", "wshubd.service")
    hub.ctl("start", "wshubd.service")
    same(hub.http("GET", "/healthz").status, 200)
    same(hub.daemon_log(), [(6, STARTED)])
    status = hub.ctl("status", "wshubd").stdout
    assert 'Status: "0 connections, 0 workers, 0 operations, 0 messages kept, store ok"' in status, status


@case("the status line follows connections, operations, messages")
def status(hub):
    with hub.connect("ann"):
        hub.status_until("1 connection, ")
        running = hub.start("wshubctl", "run", "--quiet", "--term-after", "100ms", "jobs", "--", "sleep", "60")
        hub.status_until("1 connection, 1 worker, 1 operation, ")
        hub.signal("INT", hub.run("pgrep", "-f", "wshubctl run").stdout.split()[0])
        running.wait(20)
        hub.run("wshubctl", "purge", "jobs", check=False)
        hub.status_until("1 connection, 0 workers, 0 operations, ")
    before = int(hub.status_until("0 connections, ").split(" message")[0].rpartition(" ")[2])
    hub.run("wshubctl", "pub", "notes", "one")
    hub.status_until(f"{before + 1} message")


@case("only the watchdog wakes an idle daemon")
def idle(hub):
    def wakes(seconds):
        status = hub.path(f"/proc/{hub.main()}/status")
        count = lambda: int(status.read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])
        before = count()
        time.sleep(seconds)
        return count() - before

    hub.fresh()
    with_watchdog = wakes(6)
    with hub.edited("[Service]\nWatchdogSec=0\n"):
        same(hub.show("WatchdogUSec"), "0")
        without = wakes(6)
    same(without, 0, "wake-ups in 6 s without a watchdog")
    assert 1 <= with_watchdog <= 3, f"{with_watchdog} wake-ups in 6 s with a watchdog of 6 s"
    return f"{with_watchdog} wake-ups in 6 s with a watchdog of 6 s, {without} without one"


@case("a stop sends bye, exits with 0 and logs two lines")
def stop(hub):
    hub.ctl("stop", "wshubd.service")
    hub.ctl("start", "wshubd.service")
    invocation = hub.show("InvocationID")
    ann = hub.connect("ann")
    hub.ctl("stop", "wshubd")
    bye = ann.receive("bye")
    same((hub.show("Result"), hub.show("ExecMainStatus")), ("success", "0"))
    entries = hub.journal(f"_SYSTEMD_INVOCATION_ID={invocation}")
    lines = [(e["PRIORITY"], e["MESSAGE"]) for e in entries if e.get("_COMM") == "wshubd"]
    same(lines, [("6", STARTED), ("6", "stopped by SIGTERM")])
    hub.ctl("start", "wshubd")
    return f"bye {bye['code']}"


@case("a stop with full queues ends within its time limit")
def stop_full(hub):
    hub.ctl("restart", "wshubd")
    deaf = [hub.subscriber("flood", user=f"deaf{n}", rcvbuf=4096) for n in range(20)]
    text = "x" * 60_000
    for _ in range(100):
        hub.post("/broadcast", {"channel": "flood", "event": "e", "data": text, "ttl": 0})
    began = time.monotonic()
    hub.ctl("stop", "wshubd")
    took = time.monotonic() - began
    same((hub.show("Result"), hub.show("ExecMainStatus")), ("success", "0"))
    for client in deaf:
        client.close()
    hub.ctl("start", "wshubd")
    assert took < 10, f"{took:.1f} s"
    return f"{took:.2f} s with 20 peers that read nothing (the unit allows 15 s)"


@case("pending writes extend the stop timeout of systemd")
def stop_slow(hub):
    with hub.edited("[Service]\nTimeoutStopSec=1s\n"):
        deaf = hub.subscriber("flood", rcvbuf=4096)
        for _ in range(100):
            hub.post("/broadcast", {"channel": "flood", "event": "e", "data": "x" * 60_000, "ttl": 0})
        hub.run("wshubctl", "pub", "kept", "still here")
        began = time.monotonic()
        hub.ctl("stop", "wshubd.service")
        took = time.monotonic() - began
        same(hub.show("Result"), "success", f"after {took:.1f} s")
        deaf.close()
    with hub.connect("ann") as ann:
        ann.send({"action": "subscribe", "channel": "kept"})
        ann.receive("message", channel="kept", data="still here")
    assert took > 1.5, f"it took {took:.2f} s, which shows nothing"
    return f"{took:.2f} s with TimeoutStopSec=1s"


@case("wshubctl names a failing start and waits for the next one")
def failing(hub):
    # Before the case that reaches the start limit: starts of the last half minute count.
    hub.ctl("stop", "wshubd.service")
    hub.drop_in("[Service]\nExecStartPre=/bin/false\nExecPaths=/bin /usr/bin\n")
    asking = [hub.start("wshubctl", *words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
              for words in (["status"], ["pub", "c", "hello"])]
    hints = [one.stderr.readline() for one in asking]
    hub.drop_in("")
    hub.ctl("restart", "wshubd")
    same([one.wait(20) for one in asking], [0, 0])
    for line in hints:
        assert "waiting for wshubd at" in line and "systemctl status wshubd" in line, hints


@case("a configuration mistake is logged with its line, no restart")
def mistake(hub):
    hub.write("/etc/wshubd/wshubd.toml", "[limits]\nburst = 5\nrequests_per_secnd = 3\n")
    failed = hub.ctl("restart", "wshubd", check=False)
    state = [hub.show(name) for name in ("ActiveState", "Result", "ExecMainStatus", "NRestarts")]
    lines = hub.daemon_log()
    hub.fresh()
    assert failed.returncode != 0
    same(state, ["failed", "exit-code", "78", "0"])
    (priority, message), *_ = lines
    same(priority, 3, message)
    assert "wshubd.toml:3" in message and "requests_per_second" in message, message
    same(hub.http("GET", "/healthz").status, 200)
    return message


@case("socket activation does not restart a failing daemon forever")
def no_endless_starts(hub):
    hub.write("/etc/wshubd/wshubd.toml", "[limits]\nburts = 5\n")
    hub.ctl("stop", "wshubd.service")
    # A second would be too coarse: some starts of the case before may lie in it.
    hub.run("journalctl", "--sync")
    here = hub.run("journalctl", "--lines=1", "--output=json").stdout
    cursor = json.loads(here)["__CURSOR"]
    began = time.monotonic()
    waiting = hub.start("wshubctl", "pub", "c", "hello", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually("the trigger limit is not hit", lambda: hub.show("Result", "wshubd-worker.socket") == "trigger-limit-hit", within=40)
    took = time.monotonic() - began
    starts = sum("Starting wshubd.service" in str(e["MESSAGE"]) for e in hub.journal(f"--after-cursor={cursor}"))
    assert waiting.wait(20) != 0
    hub.path("/etc/wshubd/wshubd.toml").unlink()
    hub.ctl("restart", "wshubd")
    same([hub.show("ActiveState", unit) for unit in UNITS], ["active"] * 3)
    hub.run("wshubctl", "pub", "c", "hello")
    assert starts <= 41, starts
    return f"{starts} starts in {took:.0f} s"


@case("an unusable store is in the status line; the daemon runs")
def degraded(hub):
    hub.ctl("stop", *UNITS)
    state = hub.path("/var/lib/private/wshubd/store")
    state.rename(state.with_name("aside"))
    state.write_text("")
    hub.ctl("start", "wshubd")
    text = hub.show("StatusText")
    assert text.startswith("degraded: messages are kept in memory only: "), text
    same(hub.http("GET", "/healthz").status, 503)
    assert any(priority == 3 for priority, _ in hub.daemon_log()), hub.daemon_log()
    state.unlink()
    state.with_name("aside").rename(state)
    hub.status_until("store ok", within=60)
    return text


run_cases(Machine)
