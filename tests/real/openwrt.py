"""OpenWrt's init script and recipe, on a simulated router: BusyBox, and a procd of the suite's own.

Shows that the recipe installs what the init script needs, and the effect of each action of the script on a real daemon and
real clients. Does not show OpenWrt's build system, its procd or its flash.
"""

import os
import signal
import stat
import subprocess
import time

from daemon import ended
from router import RECIPE, Router, alone, eventually
from harness import case, run_cases, same

alone()


def logged(router, words):
    return eventually(lambda: f"{words!r} is logged: {router.procd.log}", lambda: [l for l in router.procd.log if words in l])


@case("the recipe installs the init script, daemon and conffile")
def installed(router):
    checked = subprocess.run(["shellcheck", RECIPE / "files/wshubd.init"], capture_output=True, text=True)
    same((checked.returncode, checked.stdout), (0, ""))
    same(router.run("/bin/busybox", "ash", "-n", "/etc/init.d/wshubd").returncode, 0)
    modes = {"usr/bin/wshubd": 0o755, "usr/bin/wshubctl": 0o755, "etc/init.d/wshubd": 0o755, "etc/wshubd/wshubd.toml": 0o644}
    for file, mode in modes.items():
        same(stat.S_IMODE((router.tree / file).stat().st_mode), mode, file)
    same(router.control_fields["conffiles"], "/etc/wshubd/")
    manifest = (RECIPE.parents[1] / "Cargo.toml").read_text()
    assert f'version = "{router.control_fields["version"]}"' in manifest, router.control_fields
    checked = router.run("/usr/bin/wshubd", "--check")
    same((checked.returncode, checked.stderr), (0, ""))


@case("enable starts it at boot after the network")
def enabled(router):
    same(router.init("enabled").returncode, 1)
    same(router.init("enable").returncode, 0)
    same(sorted(os.listdir(router.tree / "etc/rc.d")), ["K10wshubd", "S95wshubd"])
    same(router.init("enabled").returncode, 0)


@case("a wrong configuration starts nothing and names its line")
def wrong_at_the_start(router):
    router.configure("20-wrong", "[limits]\nbrust = 7\n")
    started = router.init("start")
    assert "brust" in started.stderr and "burst" in started.stderr, started.stderr
    line = router.syslog.recv(4096).decode()
    # Of a daemon (3), an error (3).
    assert line.startswith("<27>") and "wshubd: " in line and "brust" in line, line
    same((router.instance(), router.init("running").returncode), (None, 1))
    router.unconfigure("20-wrong")


@case("start serves as its own user with keys on the flash")
def start(router):
    began = time.monotonic()
    router.start()
    took = time.monotonic() - began
    same(router.init("running").returncode, 0)
    status = dict(line.split(":\t", 1) for line in open(f"/proc/{router.pid()}/status").read().splitlines() if ":\t" in line)
    user, group = router.owner
    same((status["Uid"].split(), status["Gid"].split(), status["Groups"].split()), ([str(user)] * 4, [str(group)] * 4, [str(group)]))
    same((int(status["CapEff"], 16), status["NoNewPrivs"]), (0, "1"))
    state, run = router.tree / "etc/wshubd/state", router.tree / "tmp/run/wshubd"
    same(sorted(os.listdir(state)), ["broadcast.secret", "jwt.key"])
    for place, mode in ((state, 0o700), (state / "jwt.key", 0o600), (run, 0o750), (run / "worker.sock", 0o660)):
        found = place.stat()
        same((found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)), (user, group, mode), place)
    logged(router, "started: ")
    return f"{took * 1000:.0f} ms"


@case("clients, wshubctl and HTTP find it at the default places")
def reached(router):
    with router.subscriber("news") as ann:
        published = router.ctl("pub", "news", "from a shell")
        same((published.returncode, published.stderr), (0, ""))
        ann.receive("message", channel="news")
        same(router.post("/broadcast", {"channel": "news", "event": "e", "data": 1}).status, 200)
        same(ann.receive("message", channel="news")["data"], 1)
    same(sorted(os.listdir(router.tree / "etc/wshubd/state")), ["broadcast.secret", "jwt.key"], "nothing else is written to the flash")


@case("reload takes changes over in place and keeps connections")
def reload(router):
    pid = router.pid()
    with router.connect("ann") as ann:
        router.configure("30-limits", "[limits]\nburst = 7\n")
        same(router.init("reload").returncode, 0)
        logged(router, "reloaded: limits.burst")
        ann.send({"action": "ping"})
        ann.receive("pong")
        with router.connect("ben") as ben:
            same(ben.hello["limits"]["burst"], 7)
    same(router.pid(), pid)


@case("reload of a wrong configuration fails and changes nothing")
def wrong_at_a_reload(router):
    router.configure("30-limits", "[limits]\nburst = \"many\"\n")
    reloaded = router.init("reload")
    assert reloaded.returncode != 0 and "30-limits" in reloaded.stderr, reloaded
    with router.connect("ann") as ann:
        same(ann.hello["limits"]["burst"], 7)
    router.unconfigure("30-limits")


@case("a restart with a wrong configuration keeps the old daemon")
def wrong_while_it_runs(router):
    pid = router.pid()
    with router.connect("ann") as ann:
        router.configure("30-limits", "[limits]\nburst = \"many\"\n")
        for action in ("start", "restart"):
            done = router.init(action)
            assert done.returncode != 0 and "30-limits" in done.stderr, (action, done)
        router.unconfigure("30-limits")
        same(router.init("start").returncode, 0, "one that runs already")
        ann.send({"action": "ping"})
        ann.receive("pong")
    same((router.pid(), router.instance().starts), (pid, 1))


@case("upgrade executes the new program and keeps connections")
def upgrade(router):
    pid, program = router.pid(), router.tree / "usr/bin/wshubd"
    with router.subscriber("news") as ann:
        same(router.post("/broadcast", {"channel": "later", "event": "e", "data": "kept"}).json()["kept"], True)
        # As a package manager does it.
        fresh = program.with_name("fresh")
        fresh.write_bytes(program.read_bytes())
        fresh.chmod(0o755)
        fresh.rename(program)
        inode = program.stat().st_ino
        began = time.monotonic()
        same(router.init("upgrade").returncode, 0)
        silence = logged(router, "took over 1 connections")[-1]
        same((router.pid(), router.instance().starts, os.stat(f"/proc/{pid}/exe").st_ino), (pid, 1, inode))
        router.post("/broadcast", {"channel": "news", "event": "e", "data": "after"})
        same(ann.receive("message", channel="news")["data"], "after")
        took = time.monotonic() - began
        with router.subscriber("later") as ben:
            same(ben.receive("message", channel="later")["data"], "kept")
    return f"{took * 1000:.0f} ms; {silence.partition(': ')[2] or silence}"


@case("a killed daemon is respawned with the same keys")
def respawned(router):
    pid, key = router.pid(), router.key
    os.kill(pid, signal.SIGKILL)
    eventually("it ends", lambda: ended(pid))
    began = time.monotonic()
    eventually("another one runs and serves", lambda: router.pid() != pid and router.is_ready())
    same(router.key, key)
    with router.connect("ann") as ann:
        ann.send({"action": "ping"})
        ann.receive("pong")
    return f"{time.monotonic() - began:.1f} s"


@case("restart sends bye to every connection and serves again")
def restarted(router):
    pid = router.pid()
    with router.connect("ann") as ann:
        same(router.init("restart").returncode, 0)
        ann.receive("bye")
    eventually("it serves", lambda: router.pid() != pid and router.is_ready())
    same(router.procd.stopped["wshubd"], 0)


@case("stop ends it cleanly for good; the keys stay")
def stopped(router):
    pid = router.pid()
    same(router.init("stop").returncode, 0)
    assert ended(pid)
    same((router.procd.stopped["wshubd"], router.init("running").returncode), (0, 1))
    try:
        raise AssertionError(f"it still answers: {router.http('GET', '/healthz')}")
    except OSError:
        pass
    same(sorted(os.listdir(router.tree / "etc/wshubd/state")), ["broadcast.secret", "jwt.key"])


run_cases(Router)
