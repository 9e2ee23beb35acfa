"""Permissions: those of workers at the socket, and those of the daemon on the machine."""

import json

from machine import UNITS, Machine
from harness import case, run_cases, same

# The gate: the shipped unit's exposure, as systemd counts it.
EXPOSURE = 0.5
NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
MEMBER = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--groups=wshub-worker")


@case("the exposure level of the sandbox is as documented")
def exposure(hub):
    found = json.loads(hub.run("systemd-analyze", "security", "--json=short", "--no-pager", "wshubd.service",
                               "--offline=true").stdout)
    text = hub.run("systemd-analyze", "security", "--no-pager", "wshubd.service").stdout.strip().splitlines()[-1]
    level = float(text.split(": ")[1].split()[0])
    open_ = [item["name"] for item in found if item.get("exposure") not in (None, "0.0", "")]
    assert level <= EXPOSURE, f"{text}; {open_}"
    return f"{level}"


@case("systemd-analyze verify has no complaint about any unit")
def verify(hub):
    for unit in [*UNITS, "wshub-run@backups.service"]:
        done = hub.run("systemd-analyze", "verify", "--man=no", unit)
        same(done.stdout + done.stderr, "", unit)


@case("the process has its limits, no capability and no network")
def confined(hub):
    pid = hub.main()
    limits = hub.path(f"/proc/{pid}/limits").read_text()
    same([line.split()[3] for line in limits.splitlines() if line.startswith("Max open files")], ["16384"])
    status = dict(line.split(":\t", 1) for line in hub.path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    same((status["CapEff"], status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]),
         ("0" * 16, "0" * 16, "1", "2"))
    lines = hub.path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    same([line.split(":")[0].strip() for line in lines], ["lo"])
    return f"{status['Threads']} threads, {len(hub.children())} process for the disk"


@case("it makes no system call that the sandbox forbids")
def forbidden(hub):
    with hub.edited("[Service]\nSystemCallErrorNumber=\n"):
        assert "1 stored" in hub.run("wshubctl", "pub", "--durable", "--verbose", "notes", "one").stderr
        for child in hub.children():
            hub.signal("KILL", child)
        with hub.subscriber("notes") as ann:
            ann.receive("message", data="one")
        hub.ctl("restart", "wshubd")
        hub.ctl("stop", "wshubd.service")
        same((hub.show("Result"), hub.show("NRestarts")), ("success", "0"))


@case("root administers through the worker socket")
def root(hub):
    assert json.loads(hub.run("wshubctl", "status", "--json").stdout)["workers"] >= 1
    minted = hub.run("wshubctl", "token", "new", "--user", "eve").stdout
    assert minted.strip(), "no token"


@case("a member of the worker group publishes, not administers")
def member(hub):
    hub.run(*MEMBER, "wshubctl", "pub", "jobs", "from a worker")
    same(hub.run(*MEMBER, "wshubctl", "connections", check=False).returncode, 4)


@case("a worker of another group is refused")
def stranger(hub):
    done = hub.run(*NOBODY, "wshubctl", "pub", "jobs", "let me in", check=False)
    assert done.returncode == 4, done
    assert "ermission denied" in done.stderr, done.stderr


@case("a worker not in the allow list is refused and logged")
def named(hub):
    uid = hub.run("id", "-u", "daemon").stdout.strip()
    with hub.configured(f"[worker]\nallow = [{uid}]\n"):
        hub.run("setpriv", "--reuid=daemon", "--regid=nogroup", "--groups=wshub-worker", "wshubctl", "pub", "jobs", "hello")
        done = hub.run(*MEMBER, "wshubctl", "pub", "jobs", "let me in", check=False)
        warnings = [text for priority, text in hub.daemon_log() if priority == 4]
    assert done.returncode == 4 and "uid 65534 may not speak to this socket" in done.stderr, done
    assert len(warnings) == 1 and "refused worker of uid 65534, " in warnings[0] and "[worker] allow" in warnings[0], warnings


@case("wshub-run@CHANNEL makes a command an operation")
def wrapped(hub):
    hub.write("/etc/wshubd/run/backups", "COMMAND=echo the backup is done\n")
    with hub.subscriber("backups") as ann:
        hub.ctl("start", "wshub-run@backups")
        ann.receive("operation", state="started", channel="backups")
        received = ann.receive("message", channel="backups")
        ann.receive("operation", state="ended", channel="backups", reason="completed")
    assert "the backup is done" in json.dumps(received), received
    hub.write("/etc/wshubd/run/long-naps", "COMMAND=sleep 600\n")
    with hub.subscriber("long-naps") as ann:
        hub.ctl("start", "wshub-run@long-naps")
        ann.receive("operation", state="started")
        hub.ctl("stop", "wshub-run@long-naps")
        ended = ann.receive("operation", state="ended")
    same(hub.show("Result", "wshub-run@long-naps"), "success")
    return f"a stopped one ends with {ended['reason']}"


run_cases(Machine)
