"""The Debian package from its first installation to its purge.

The machine has no network, as many such boxes: all that the package depends on has to be there.
"""

import json
import stat

from machine import UNITS, eventually
from deb import FILE, VERSION, EmptyMachine, Package
from harness import case, run_cases, same

RUNNING = [("enabled", "active")] * len(UNITS)
# What an administrator writes, and a package must not take away.
DROP_INS = {"/etc/wshubd/conf.d/10-mine.toml": "[limits]\nburst = 30\n",
            "/etc/systemd/system/wshubd.service.d/mine.conf": "[Service]\nLimitNOFILE=16000\n"}


def mode(hub, path):
    return oct(stat.S_IMODE(hub.path(path).stat().st_mode))


@case("apt installs the package and everything runs")
def install(hub):
    Package(VERSION).put_on(hub)
    output = hub.run("apt-get", "install", "-y", FILE)
    same(hub.installed(), f"ii {VERSION}")
    same(hub.states(), RUNNING, "units")
    same(hub.run("dpkg", "--audit").stdout + hub.run("dpkg", "--verify", "wshubd").stdout, "", "dpkg finds fault")
    assert "wshubd:" not in output.stderr, output.stderr
    hub.read_keys()
    hub.status_until("0 connections")
    same(hub.executable(), "/usr/bin/wshubd")


@case("secrets are generated here, readable by root alone")
def secrets(hub):
    for name in ("jwt.key", "broadcast.secret"):
        same(mode(hub, f"/var/lib/private/wshubd/{name}"), "0o600", name)
    same(mode(hub, "/var/lib/private"), "0o700")
    same([path for path in hub.run("dpkg", "-L", "wshubd").stdout.split() if path.endswith((".key", ".secret"))], [])
    assert hub.secret and len(hub.key) >= 32


@case("only members of the group publish and subscribe")
def members(hub):
    hub.run("useradd", "--no-create-home", "--groups", "wshub-worker", "ada")
    hub.run("useradd", "--no-create-home", "eve")
    as_ada, as_eve = ("runuser", "-u", "ada", "--"), ("runuser", "-u", "eve", "--")
    hub.run(*as_ada, "wshubctl", "pub", "logs", "hello")
    received = hub.run(*as_ada, "wshubctl", "sub", "-n", "1", "--timeout", "10s", "logs").stdout
    same(json.loads(received)["data"], "hello")
    same(hub.run(*as_eve, "wshubctl", "pub", "logs", "hello", check=False).returncode, 4, "exit code of eve")


@case("a member lists and stops only jobs of his own")
def jobs(hub):
    hub.run("useradd", "--no-create-home", "--groups", "wshub-worker", "bob")
    script = ("wshubctl run logs -- sleep 60 2>/tmp/said & until grep -q 'stop it with' /tmp/said; do sleep 0.05; done; "
              "wshubctl operations; $(sed -n 's/.*stop it with: //p' /tmp/said); wait $!; echo $?")
    done = hub.run("runuser", "-u", "ada", "--", "bash", "-c", script)
    listed, *rest = done.stdout.splitlines()
    same((json.loads(listed)["label"], rest, done.stderr), ("sleep", ["delivered", "130"], ""), "what ada sees")
    hub.run("systemd-run", "--uid=ada", "--unit=job", "--collect", "wshubctl", "run", "--operation", "job", "logs", "--", "sleep", "60")
    running = eventually("ada's job runs", lambda: hub.run("wshubctl", "operations").stdout)
    same(json.loads(running)["operation_id"], "job")
    as_bob = ("runuser", "-u", "bob", "--")
    same(hub.run(*as_bob, "wshubctl", "operations").stdout, "", "what bob sees")
    refused = hub.run(*as_bob, "wshubctl", "interrupt", "job", check=False)
    same((refused.returncode, refused.stdout), (4, ""), "bob's stop")
    same(hub.run("runuser", "-u", "ada", "--", "wshubctl", "interrupt", "job").stdout, "delivered\n")
    warned = hub.run("journalctl", "-u", "wshubd", "-p", "warning", "-o", "cat", "--no-pager", "-q").stdout
    same(warned, "", "warnings in the journal")


@case("a token of wshubctl admits a client that receives from HTTP")
def client(hub):
    token = hub.run("wshubctl", "token", "new", "--user", "ada").stdout.strip()
    with hub.connect(token=token) as ada:
        ada.send({"action": "subscribe", "channel": "news"})
        ada.receive("subscription_succeeded")
        same(hub.post("/broadcast", {"channel": "news", "event": "log", "data": "over HTTP"}).status, 200)
        same(ada.receive("message")["data"], "over HTTP")


@case("manual pages and shell completions are installed")
def pages(hub):
    pages = ["man1/wshubctl.1", "man5/wshubd.toml.5", "man7/wshub-protocol.7", "man8/wshubd.8"]
    for page in pages:
        text = hub.run("zcat", f"/usr/share/man/{page}.gz").stdout
        assert "@DATE@" not in text and ".SH" in text.upper(), page
    completed = hub.run("bash", "-c", "source /usr/share/bash-completion/completions/wshubctl; COMP_WORDS=(wshubctl interr); "
                                      "COMP_CWORD=1; _wshubctl wshubctl interr wshubctl; echo ${COMPREPLY[*]}").stdout
    same(completed.strip(), "interrupt")
    for words in ("zsh/vendor-completions/_wshubctl", "fish/vendor_completions.d/wshubctl.fish"):
        text = hub.path(f"/usr/share/{words}").read_text()
        assert "interrupt" in text and "in-session" not in text, words


@case("a reinstallation over itself keeps the clients")
def again(hub):
    with hub.subscriber("news") as ann:
        hub.dpkg("-i", FILE)
        hub.run("wshubctl", "pub", "news", "still here")
        ann.receive("message", data="still here")


@case("removal stops the daemon and keeps its files")
def remove(hub):
    hub.run("wshubctl", "pub", "later", "kept")
    for path, text in DROP_INS.items():
        hub.write(path, text)
    key = hub.key
    with hub.connect("ann") as ann:
        hub.dpkg("--remove", "wshubd")
        same(ann.receive("bye")["code"], 4101)
    same(hub.installed(), f"rc {VERSION}")
    same(hub.run("pgrep", "wshub", check=False).stdout, "", "processes")
    same(hub.path("/run/wshubd/worker.sock").exists(), False, "the worker socket")
    same(hub.run("ss", "-Htln", "sport = :8098").stdout, "", "listening")
    # Debian's way to keep what is removed from being started.
    same(hub.states(), [("masked", "inactive")] * len(UNITS), "units")
    assert hub.path("/etc/wshubd/wshubd.toml").exists()
    hub.read_keys()
    same(hub.key, key)


@case("installed again, it has its secrets and messages")
def reinstall(hub):
    key = hub.key
    hub.dpkg("-i", FILE)
    same(hub.states(), RUNNING, "units")
    hub.read_keys()
    same(hub.key, key)
    received = hub.run("wshubctl", "sub", "-n", "1", "--timeout", "10s", "later").stdout
    same(json.loads(received)["data"], "kept")


@case("a purge keeps files of others and lists them")
def purge(hub):
    output = hub.dpkg("--purge", "wshubd").stderr
    for directory in ("/etc/wshubd", "/etc/systemd/system/wshubd.service.d"):
        assert f"wshubd: {directory} is left" in output, output
    left = hub.files() - hub.before
    wanted = {directory for path in DROP_INS for directory in (path, path.rpartition("/")[0])} | {"/etc/wshubd"}
    same({path for path in left if "wshub" in path}, wanted)
    same(hub.installed(), "never heard of")


@case("install and purge on a fresh machine leave no file")
def nothing(hub):
    hub.run("rm", "-r", "/etc/wshubd", "/etc/systemd/system/wshubd.service.d")
    for user in ("ada", "eve"):
        hub.run("userdel", user)
    before, groups = hub.files(), hub.path("/etc/group").read_text()
    hub.dpkg("-i", FILE)
    eventually("it runs", lambda: hub.states() == RUNNING)
    output = hub.dpkg("--purge", "wshubd").stderr
    assert "is left" not in output, output
    same(hub.files() ^ before, set(), "left on the disk, or missing")
    same(hub.path("/etc/group").read_text(), groups)
    same(hub.run("find", "/run", "/var/lib/systemd", "-name", "*wshub*").stdout, "", "left in /run and by systemd")
    return f"{len(before)} files as before"


@case("a purge empties a mounted state directory and reports it")
def mounted(hub):
    state = "/var/lib/private/wshubd"
    hub.run("mkdir", "-p", "-m", "700", state)
    hub.run("mount", "-t", "tmpfs", "tmpfs", state)
    hub.dpkg("-i", FILE)
    eventually("it runs", lambda: hub.states() == RUNNING)
    assert hub.run("ls", state).stdout, "it has written nothing there"
    output = hub.dpkg("--purge", "wshubd").stderr
    assert f"wshubd: {state} is left, without what was in it" in output, output
    same((hub.run("ls", "-A", state).stdout, hub.installed()), ("", "never heard of"))
    hub.run("umount", state)
    hub.run("rmdir", state)


@case("a processor without the needed instructions is refused")
def older(hub):
    package = Package(VERSION)
    hub.write("/root/preinst", (package.tree / "DEBIAN/preinst").read_text())
    hub.write("/root/old/uname", "#!/bin/sh\necho armv6l\n", mode=0o755)

    def install(architecture):
        variables = f"PATH=/root/old:/usr/bin:/bin DPKG_MAINTSCRIPT_ARCH={architecture}"
        return hub.run("sh", "-c", f"{variables} sh /root/preinst install", check=False)

    refused = install("armhf")
    same(refused.returncode, 1)
    assert "it is built for ARMv7, and this processor is older" in refused.stderr, refused
    same(install("arm64").returncode, 0)


run_cases(EmptyMachine)
