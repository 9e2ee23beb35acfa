"""Upgrades and downgrades of the package, under a thousand clients that send all the time.

What must not happen: a connection that ends, a daemon that is gone, a package that dpkg calls broken, an older program
on messages that it cannot read.
"""

import zlib

from load import Load
from machine import UNITS
from deb import LATER, NEWER, VERSION, EmptyMachine, Package, newer
from harness import case, in_time, run_cases, same

CLIENTS, WORKERS = 1000, 10
# Of a restart with so many; the figure beside it is the time that dpkg takes in all.
AIM = 0.3


class Installed(EmptyMachine):
    """The machine with the first version on it, and both versions at hand."""

    def __init__(self):
        super().__init__()
        self.older, self.newer = Package(VERSION).put_on(self), newer().put_on(self)
        self.dpkg("-i", self.older)
        self.read_keys()

    def version(self):
        """The version by the daemon's own program."""
        return self.run(f"/proc/{self.main()}/exe", "--version").stdout


def under_load(hub, package):
    """Installs another version under all of them; the longest silence, and the new daemon's line about it."""
    load = Load(hub, CLIENTS, WORKERS)
    pid = hub.main()
    load.silence()
    hub.dpkg("-i", package)
    assert hub.main() != pid, "it was not restarted"
    load.finish()
    silence = load.silence()
    took = [text for _, text in hub.daemon_log() if "took over" in text]
    load.leave()
    same(len(took), 1, "the journal")
    assert f"took over {CLIENTS + WORKERS} " in took[0], took
    return f"{in_time('longest silence', silence, AIM)}; {took[0]}"


@case(f"upgrade, {CLIENTS} clients, {WORKERS} workers: 0 closed, lost, doubled")
def upgrade(hub):
    hub.run("wshubctl", "pub", "later", "of the older one")
    figure = under_load(hub, hub.newer)
    same(hub.installed(), f"ii {NEWER}")
    assert hub.version().startswith(f"wshubd {LATER} "), hub.version()
    same(hub.executable(), "/usr/bin/wshubd")
    return figure


@case("a downgrade keeps connections and kept messages")
def downgrade(hub):
    figure = under_load(hub, hub.older)
    same(hub.installed(), f"ii {VERSION}")
    assert "of the older one" in hub.run("wshubctl", "sub", "-n", "1", "--timeout", "10s", "later").stdout
    return figure


@case("a downgrade that cannot read the store is refused")
def refused(hub):
    hub.dpkg("-i", hub.newer)
    text = "wshubd store 9"
    future = "/var/lib/private/wshubd/store/00009999/format"
    hub.write(future, f"{text} {zlib.crc32(text.encode()):08x}\n")
    with hub.subscriber("news") as ann:
        pid = hub.main()
        done = hub.dpkg("-i", hub.older, check=False)
        assert done.returncode != 0
        assert "format 9" in done.stderr and "nothing has been changed" in done.stderr, done.stderr
        same((hub.installed(), hub.main()), (f"ii {NEWER}", pid))
        hub.run("wshubctl", "pub", "news", "undisturbed")
        ann.receive("message", data="undisturbed")
    same(hub.run("dpkg", "--audit").stdout, "")
    hub.run("rm", "-r", future.rpartition("/")[0])
    hub.dpkg("-i", hub.older)


@case("a changed configuration stays; the package's lies beside it")
def configuration(hub):
    conffile = "/etc/wshubd/wshubd.toml"
    ours = hub.path(conffile).read_text() + '\n[limits]\nburst = 33\n'
    hub.write(conffile, ours)
    package = Package("3-1")
    package.append("etc/wshubd/wshubd.toml", "\n# Of the newer one.\n")
    with hub.subscriber("news") as ann:
        hub.dpkg("-i", package.put_on(hub))
        same(hub.path(conffile).read_text(), ours)
        assert "Of the newer one." in hub.path(f"{conffile}.dpkg-dist").read_text()
        with hub.connect("eve", established=False) as eve:
            same(eve.receive("connection_established")["limits"]["burst"], 33)
        hub.run("wshubctl", "pub", "news", "still here")
        ann.receive("message", data="still here")


@case("a configuration the new version refuses keeps the old daemon")
def mistake(hub):
    conffile, right = "/etc/wshubd/wshubd.toml", hub.path("/etc/wshubd/wshubd.toml").read_text()
    line = len(right.splitlines()) + 1
    hub.write(conffile, right + "burts = 5\n")
    with hub.subscriber("news") as ann:
        pid = hub.main()
        stderr = hub.dpkg("-i", Package("4-1").put_on(hub)).stderr
        assert "NOT restarted" in stderr and f"{conffile}:{line}" in stderr and "burts" in stderr, stderr
        same((hub.installed(), hub.main()), ("ii 4-1", pid))
        same(hub.run("dpkg", "--audit").stdout, "")
        for child in hub.children():
            hub.signal("KILL", child)
        # Its disk too: the process that owns it is started anew, of the program that is no file any more.
        hub.run("wshubctl", "pub", "--durable", "later", "the old one goes on")
        hub.run("wshubctl", "pub", "news", "the old one goes on")
        ann.receive("message", data="the old one goes on")
        # A restart all the same closes connections, and sends bye.
        assert hub.ctl("restart", "wshubd", check=False).returncode != 0
        same(ann.receive("bye")["code"], 4101)
    hub.write(conffile, right)
    hub.ctl("restart", "wshubd")
    with hub.subscriber("news") as ann:
        hub.dpkg("-i", hub.older)
        hub.write(conffile, right + "burts = 5\n")
        assert "NOT restarted" in hub.dpkg("-i", Package("4-1").put_on(hub)).stderr
        hub.write(conffile, right)
        hub.ctl("restart", "wshubd")
        same(hub.executable(), "/usr/bin/wshubd")
        hub.run("wshubctl", "pub", "news", "and the new one too")
        ann.receive("message", data="and the new one too")


@case("disabled, stopped and masked units stay as they are")
def disabled(hub):
    hub.ctl("disable", "--now", *UNITS)
    hub.dpkg("-i", hub.newer)
    same(hub.states(), [("disabled", "inactive")] * len(UNITS))
    hub.ctl("mask", *UNITS)
    hub.dpkg("-i", hub.older)
    same(hub.states(), [("masked", "inactive")] * len(UNITS))
    hub.ctl("unmask", *UNITS)
    hub.ctl("enable", "--now", *UNITS)


@case("a daemon that cannot start leaves the package configured")
def dead(hub):
    hub.ctl("stop", *UNITS)
    right = hub.path("/etc/wshubd/wshubd.toml").read_text()
    hub.write("/etc/wshubd/wshubd.toml", right + "burts = 5\n")
    stderr = hub.dpkg("-i", hub.newer).stderr
    assert "NOT running" in stderr, stderr
    same(hub.installed(), f"ii {NEWER}")
    hub.write("/etc/wshubd/wshubd.toml", right)
    hub.ctl("restart", "wshubd")
    hub.run("wshubctl", "status")


run_cases(Installed)
