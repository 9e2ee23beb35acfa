"""Reloads under connected clients, fields of the journal, and identification of workers at the socket."""

import contextlib
import json
import socket
import time

from machine import Machine, eventually
from harness import case, run_cases, same

CONFIG = "/etc/wshubd/wshubd.toml"
SECRETS = ("the first secret, of 32 bytes or more".replace(" ", "-"), "another secret, of 32 bytes or more".replace(" ", "-"))
AS_DAEMON = ("setpriv", "--reuid=daemon", "--regid=nogroup")


def entries(hub, **wanted):
    found = hub.journal(f"_SYSTEMD_INVOCATION_ID={hub.show('InvocationID')}")
    return [e for e in found if all(e.get(name) == value for name, value in wanted.items())]


@case("systemctl reload applies a good configuration, none closed")
def good(hub):
    hub.fresh()
    pid = hub.main()
    with hub.connect("ann") as ann:
        hub.write(CONFIG, "[limits]\nburst = 7\n[[channel]]\nmatch = \"orders:*\"\nkeep = \"history\"\n")
        began = time.monotonic()
        hub.ctl("reload", "wshubd")
        took = time.monotonic() - began
        ann.send({"action": "ping"})
        ann.receive("pong")
        with hub.connect("ben") as ben:
            same(ben.hello["limits"]["burst"], 7)
    same((hub.main(), hub.show("ActiveState"), hub.show("Result")), (pid, "active", "success"))
    lines = [text for priority, text in hub.daemon_log() if priority == 6]
    same(lines[-1], "reloaded: channel, limits.burst, limits.user_burst")
    return f"{took * 1000:.0f} ms"


@case("systemctl reload of a wrong one fails and changes nothing")
def bad(hub):
    pid = hub.main()
    with hub.connect("ann") as ann:
        hub.write(CONFIG, "[limits]\nburst = 9\nbrust = 7\n[state]\nstore = 5\n")
        failed = hub.ctl("reload", "wshubd", check=False)
        ann.send({"action": "ping"})
        ann.receive("pong")
        with hub.connect("ben") as ben:
            same(ben.hello["limits"]["burst"], 7)
    assert failed.returncode != 0, failed
    same((hub.main(), hub.show("ActiveState")), (pid, "active"))
    errors = [text for priority, text in hub.daemon_log() if priority == 3]
    assert "wshubd.toml:3: unknown key `limits.brust`" in errors[-1] and "wshubd.toml:5" in errors[-1], errors
    messages = [e["MESSAGE"] for e in entries(hub, _COMM="wshubctl")]
    assert any("not reloaded; wshubd keeps its configuration" in text for text in messages), messages
    return failed.stderr.strip().splitlines()[0]


@case("options that need a restart are refused until a restart")
def fixed(hub):
    hub.write(CONFIG, "[limits]\nburst = 8\n[state]\nstore = \"memory\"\n")
    assert hub.ctl("reload", "wshubd", check=False).returncode != 0
    errors = [text for priority, text in hub.daemon_log() if priority == 3]
    assert "`state.store` cannot change while wshubd runs" in errors[-1], errors
    hub.ctl("restart", "wshubd")
    same(hub.run("wshubctl", "reload").stdout.strip(), json.dumps({"changed": [], "warnings": []}, separators=(",", ":")))
    hub.fresh()


@case("a secret is rotated by a reload; only root administers it")
def rotated(hub):
    hub.ctl("stop", "wshubd")
    hub.write("/var/lib/private/wshubd/broadcast.secret", SECRETS[0], mode=0o600)
    hub.ctl("start", "wshubd")
    status = lambda secret: hub.http("POST", "/broadcast", {"channel": "a", "event": "e"}, secret=secret).status
    same([status(secret) for secret in SECRETS], [200, 401])
    hub.path("/var/lib/private/wshubd/broadcast.secret").write_text(SECRETS[1])
    hub.ctl("reload", "wshubd")
    same([status(secret) for secret in SECRETS], [401, 200])
    denied = hub.run(*AS_DAEMON, "--groups=wshub-worker", "wshubctl", "reload", check=False)
    same(denied.returncode, 4, denied)
    hub.read_keys()


@case("SIGHUP reloads and logs it in the journal")
def hang_up(hub):
    hub.write(CONFIG, "[limits]\nburst = 6\n")
    hub.signal("HUP")
    eventually("a line about it", lambda: (6, "reloaded: limits.burst, limits.user_burst") in hub.daemon_log())
    hub.fresh()


def misbehave(hub, user):
    """Makes a line in the log, which has fields."""
    with hub.connect(user) as client:
        for _ in range(5):
            client.send({"action": "dance"})
        client.close_code()


@case("journal fields: connection, user, reason and channel")
def fields(hub):
    misbehave(hub, "ann")
    running = hub.start("wshubctl", "run", "--quiet", "--operation", "op-1", "jobs", "--", "sleep", "60")
    hub.status_until("1 operation, ")
    hub.signal("KILL", hub.run("pgrep", "-f", "wshubctl run").stdout.split()[0])
    running.wait(20)
    hub.run("pkill", "-x", "sleep", check=False)
    found = eventually("both entries", lambda: (lambda one, two: one and two and (one[0], two[0]))(
        entries(hub, WSHUBD_USER="ann"), entries(hub, WSHUBD_OPERATION="op-1")))
    closed, lost = found
    same((closed["PRIORITY"], closed["WSHUBD_REASON"], lost["WSHUBD_CHANNEL"]), ("4", "too many malformed requests", "jobs"))
    assert closed["WSHUBD_CONNECTION"] in closed["MESSAGE"], closed
    return closed["MESSAGE"]


def fill(path):
    """Sends to a socket that nobody reads until it takes no more from anybody; how much that was."""
    filled, before = 0, -1
    with contextlib.ExitStack() as senders:
        # Each may have only so much under way.
        while filled > before:
            before = filled
            sender = senders.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"MESSAGE=flood\n", path)
                    filled += 1
    return filled


@case("a stopped journal blocks nobody and gets the lines later")
def deaf(hub):
    # Nothing was written in the last second.
    hub.ctl("restart", "wshubd")
    pid = int(hub.show("MainPID", "systemd-journald.service"))
    hub.signal("STOP", pid)
    try:
        filled = fill(str(hub.path("/run/systemd/journal/socket")))
        misbehave(hub, "eve")
        same(hub.http("GET", "/healthz").status, 200)
    finally:
        hub.signal("CONT", pid)
    # One line of a kind in a second: until it is the turn of the next, and the journal has room.
    def is_loss_logged():
        misbehave(hub, "eve")
        return any("1 lines before this one were lost" in text for _, text in hub.daemon_log())

    eventually("that a line was lost", is_loss_logged)
    return f"{filled} entries filled it"


@case("a process is identified by its unit, which cannot be forged")
def units(hub):
    as_unit = lambda *how: hub.run("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--uid=daemon",
                                   "--property=SupplementaryGroups=wshub-worker", *how, "/usr/bin/wshubctl", "pub", "jobs", "x",
                                   check=False)
    with hub.edited("[Service]\nProtectProc=default\n"):
        hub.write(CONFIG, "[worker]\nallow = [\"unit:build.service\"]\n")
        hub.ctl("reload", "wshubd")
        same(as_unit("--unit=build").returncode, 0)
        refused = as_unit("--unit=other")
        assert refused.returncode == 4 and "may not speak to this socket" in refused.stderr, refused
    hub.write(CONFIG, "[worker]\nallow = [\"unit:build.service\"]\n")
    warned = json.loads(hub.run("wshubctl", "reload").stdout)["warnings"]
    assert len(warned) == 1 and "ProtectProc=default" in warned[0], warned
    assert as_unit("--unit=build").returncode != 0
    hub.fresh()


@case("an extra group admits workers and administrators")
def groups(hub):
    with hub.edited("[Service]\nProtectProc=default\n"):
        number = hub.run("getent", "group", "games").stdout.split(":")[2]
        for spelled in ("games", number):
            hub.write(CONFIG, f"[worker]\nadmins = [\"@{spelled}\"]\n")
            hub.ctl("reload", "wshubd")
            member = hub.run(*AS_DAEMON, "--groups=wshub-worker,games", "wshubctl", "connections", check=False)
            other = hub.run(*AS_DAEMON, "--groups=wshub-worker", "wshubctl", "connections", check=False)
            same((member.returncode, other.returncode), (0, 4), (member, other))
    hub.fresh()


run_cases(Machine)
