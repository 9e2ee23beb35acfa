"""Restarts by systemd after a hang, a kill or a failure."""

import time

from machine import Machine, eventually
from harness import case, in_time, run_cases, same


def back(hub, old, began):
    """Seconds until another process serves."""

    def look():
        new = int(hub.show("MainPID"))
        return new not in (0, old) and hub.is_active()

    eventually(lambda: f"back: {hub.logged()}", look, within=30)
    same(hub.http("GET", "/healthz").status, 200)
    return time.monotonic() - began


@case("a hanging hub is killed by the watchdog, back within 10 s")
def hangs(hub):
    old = hub.main()
    before = int(hub.show("NRestarts"))
    began = time.monotonic()
    hub.signal("STOP", old)
    took = back(hub, old, began)
    same(int(hub.show("NRestarts")), before + 1)
    assert any("Watchdog timeout" in str(e["MESSAGE"]) for e in hub.journal()), hub.logged()
    assert took < 10, f"{took:.1f} s"
    return f"{took:.2f} s"


@case("a killed hub restarts with what was stored")
def killed(hub):
    hub.run("wshubctl", "pub", "--durable", "orders", "one")
    old = hub.main()
    began = time.monotonic()
    hub.signal("KILL", old)
    took = back(hub, old, began)
    with hub.connect("ann") as ann:
        ann.send({"action": "subscribe", "channel": "orders"})
        ann.receive("message", channel="orders", data="one")
    return in_time("back", took, 2)


@case("seq goes on after a crash, from a file beside the state")
def numbers(hub):
    def position():
        with hub.connect("ann") as ann:
            ann.send({"action": "subscribe", "channel": "log"})
            return ann.receive("subscription_succeeded", channel="log")

    with hub.configured('[[channel]]\nmatch = "log"\nkeep = "history"\ndisk = "behind"\n'):
        before = position()
        hub.run("wshubctl", "pub", "log", "one")
        old = hub.main()
        hub.signal("KILL", old)
        back(hub, old, time.monotonic())
        after = position()
    same((after["epoch"], after["seq"]), (before["epoch"], before["seq"] + 1))


@case("the store process restarts in the sandbox, from a new file")
def disk(hub):
    hub.run("wshubctl", "pub", "--durable", "orders", "two")
    # As a package manager does it: another file takes the name.
    hub.run("sh", "-c", "cp /usr/bin/wshubd /usr/bin/wshubd.new && mv /usr/bin/wshubd.new /usr/bin/wshubd")
    for child in hub.children():
        hub.signal("KILL", child)
    stderr = hub.run("wshubctl", "pub", "--durable", "--verbose", "orders", "three").stderr
    assert "1 stored" in stderr, stderr
    hub.run("wshubctl", "purge", "orders", check=False)
    hub.ctl("restart", "wshubd")


run_cases(Machine)
