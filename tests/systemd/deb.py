"""The Debian package of the build, modified versions of it, and a machine without it.

Takes a package apart, puts it together, and calls dpkg. A newer version is the same package with another number, in its
programs too; other differences are made by the suite. Nothing is built.
"""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from machine import BIN, UNITS, Machine

DEB = Path(os.environ["WSHUBD_DEB"])
# What the suites install, and a version that comes after it.
VERSION, NEWER = "1-1", "2-1"
FILE = f"/root/wshubd_{VERSION}.deb"


def control(package, field):
    return subprocess.run(["dpkg-deb", "-f", package, field], check=True, capture_output=True, text=True).stdout.strip()


# The number that the programs of a newer version have: as long as that of these, whose place it takes.
NUMBER = control(DEB, "Version").rpartition("-")[0]
LATER = re.sub(r"\d", "9", NUMBER)


class Package:
    """A version of the package, as files that can be changed, and then as one file."""

    def __init__(self, version):
        self.directory = tempfile.TemporaryDirectory(prefix="wshubd-package-")
        self.tree = Path(self.directory.name) / "tree"
        subprocess.run(["dpkg-deb", "-R", DEB, self.tree], check=True)
        self.version = version
        self.replace("DEBIAN/control", f"Version: {control(DEB, 'Version')}", f"Version: {version}")

    def replace(self, path, old, new):
        file = self.tree / path
        text, old, new = file.read_bytes(), *(x if isinstance(x, bytes) else x.encode() for x in (old, new))
        assert old in text, f"{path} has no {old!r}"
        file.write_bytes(text.replace(old, new))

    def append(self, path, text):
        with (self.tree / path).open("a") as file:
            file.write(text)

    def put_on(self, machine):
        """The file in which it is there."""
        made = Path(self.directory.name) / f"wshubd_{self.version}.deb"
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", self.tree, made],
                       check=True, capture_output=True)
        there = f"/root/{made.name}"
        machine.copy(made, there)
        return there


def newer():
    package = Package(NEWER)
    # As it stands before the features in the output of --version.
    package.replace("usr/bin/wshubd", f"{NUMBER} (", f"{LATER} (")
    return package


class EmptyMachine(Machine):
    """A machine on which wshubd was never installed."""

    def __init__(self):
        programs = {name: (BIN / name).read_bytes() for name in ("wshubd", "wshubctl")}
        with tempfile.TemporaryDirectory() as unpacked:
            subprocess.run(["dpkg-deb", "-x", DEB, unpacked], check=True)
            for name, bytes_ in programs.items():
                same = (Path(unpacked) / "usr/bin" / name).read_bytes() == bytes_
                assert same, f"{DEB} holds another {name} than {BIN}: packaging/deb makes it anew"
        self.find_root()
        self.before = self.files()

    def files(self):
        """All that is on the disk, but for what is written by others as time goes by."""
        listed = self.run("find", "/etc", "/usr", "/var", "/opt", "/srv", "/root", "-xdev", "-printf", r"%p\n").stdout
        others = ("/var/log/", "/var/lib/dpkg", "/var/cache/", "/var/tmp/systemd-private", "/var/lib/apt/",
                  "/var/lib/systemd/", "/root/wshubd_")
        return {path for path in listed.splitlines() if not path.startswith(others)}

    def installed(self):
        """Its state and version by dpkg."""
        done = self.run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}${Version}", "wshubd", check=False)
        return done.stdout.strip() if done.returncode == 0 else "never heard of"

    def dpkg(self, *arguments, check=True):
        """As unattended upgrades do it: what was changed by hand is left as it is."""
        return self.run("dpkg", "--force-confold", *arguments, check=check)

    def states(self):
        """Of the units: whether they are enabled, and whether they run."""
        asked = [self.ctl(question, unit, check=False).stdout.strip() for unit in UNITS
                 for question in ("is-enabled", "is-active")]
        return list(zip(asked[::2], asked[1::2]))

    def executable(self):
        return os.readlink(self.path(f"/proc/{self.main()}/exe"))

    def __exit__(self, kind, *_):
        if self.installed().startswith("ii"):
            super().__exit__(kind)
        elif kind is None:
            # Nothing is left that could be stopped.
            failed = self.ctl("--failed", "--plain", "--no-legend").stdout
            assert not failed.strip(), f"failed units: {failed}"
