"""A virtual machine whose power can be cut: Debian's kernel, a disk with a volatile write cache, and a daemon.

Builds the machine (kernel, initial file system, emulator) and boots it. Its daemon's port is forwarded to this machine, so
that the clients of the suites are its clients; a second serial line is a shell. Needs no root and no virtualisation by the
processor.
"""

import gzip
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from write_cache_disk import WriteCacheDisk
from daemon import BIN, HubClient, free_port
from kept_messages import write_keys

OUT = Path(__file__).resolve().parent / "out"
MODULES = ["virtio_pci", "virtio_blk", "virtio_net"]
DISK_BYTES = 128 << 20
# An emulated processor on a busy machine.
BOOTED_WITHIN = 120

INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /state /run /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
mount -t ext4 -o $(sed 's/.*mount=\\([^ ]*\\).*/\\1/' /proc/cmdline) /dev/vda /state || { echo "cannot mount the disk"; reboot -f; }
export XDG_RUNTIME_DIR=/run
start() { wshubd --config /etc/wshubd.toml >/dev/ttyS0 2>&1 & }
start
stty raw -echo -F /dev/ttyS1
exec </dev/ttyS1 >/dev/ttyS1 2>&1
while read -r line; do eval "$line"; echo "== $?"; done
"""


def kernel():
    """The newest kernel of the distribution, fetched once: its image, and the directory of its modules."""
    place = OUT / "kernel"
    if not list(place.glob("boot/vmlinuz-*")):
        place.mkdir(parents=True, exist_ok=True)
        depends = subprocess.run(["apt-cache", "depends", "linux-image-cloud-amd64"], capture_output=True, text=True, check=True).stdout
        package = re.search(r"Depends: (linux-image-\S+)", depends).group(1)
        subprocess.run(["apt-get", "download", package], cwd=place, check=True, capture_output=True)
        subprocess.run(["dpkg-deb", "-x", next(place.glob("*.deb")), place], check=True)
    return next(place.glob("boot/vmlinuz-*")), next(place.glob("lib/modules/*"))


def with_dependencies(modules, names):
    """The files of kernel modules, each behind those that it needs."""
    files = {path.stem: path for path in modules.rglob("*.ko")}
    order = []

    def add(name):
        if name in files and name not in order:  # what is no file is part of the kernel
            needs = re.search(rb"\0depends=([^\0]*)\0", files[name].read_bytes()).group(1).decode()
            for needed in filter(None, needs.split(",")):
                add(needed)
            order.append(name)

    for name in names:
        add(name)
    return [(name, files[name]) for name in order]


def archive(entries):
    """A cpio archive, as the kernel unpacks it; `entries`: path -> (mode, content)."""
    out = bytearray()
    for number, (path, (mode, content)) in enumerate([*entries.items(), ("TRAILER!!!", (0, b""))]):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)


def libraries(binary):
    """What the dynamic linker would load for it, itself included; nothing for a static one."""
    output = subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", output)]


def initial_file_system(directory, modules, config):
    daemon = directory / "wshubd"
    shutil.copy(BIN / "wshubd", daemon)
    subprocess.run(["strip", daemon], check=False)  # smaller is faster here, and without it the machine only boots later
    entries = {}

    def add(path, content, mode=stat.S_IFREG | 0o755):
        for parent in reversed(Path(path).parents[:-1]):
            entries.setdefault(str(parent), (stat.S_IFDIR | 0o755, b""))
        entries[str(path)] = (mode, content)

    add("init", INIT.encode())
    add("bin/busybox", Path(shutil.which("busybox")).read_bytes())
    add("bin/wshubd", daemon.read_bytes())
    for library in libraries(daemon):
        add(str(library).lstrip("/"), library.read_bytes())
    order = with_dependencies(modules, MODULES)
    for name, path in order:
        add(f"modules/{name}.ko", path.read_bytes())
    add("modules/order", "\n".join(name for name, _ in order).encode())
    add("etc/wshubd.toml", config.encode(), stat.S_IFREG | 0o644)
    for key in ("jwt.key", "broadcast.secret"):
        add(f"etc/keys/{key}", (directory / "keys" / key).read_bytes(), stat.S_IFREG | 0o600)
    made = directory / "initrd"
    made.write_bytes(gzip.compress(archive(entries), 1))
    return made


class VirtualMachine(HubClient):
    """Off at first. `mount`: options of its file system; `barrier=0` makes it one that never flushes."""

    def __init__(self, policies, rng, mount="barrier=1"):
        self.mount, self.qemu, self.boots, self.repaired = mount, None, 0, 0
        self.directory = Path(tempfile.mkdtemp(prefix="wshub-board-"))
        (self.directory / "keys").mkdir()
        config = policies + write_keys(self, self.directory / "keys").replace(str(self.directory / "keys"), "/etc/keys")
        config += '[listen]\nhttp = ["0.0.0.0:8098"]\n[state]\nstore = "sled"\ndirectory = "/state/wshubd"\n'
        self.image, modules = kernel()
        self.initrd = initial_file_system(self.directory, modules, config)
        self.disk = WriteCacheDisk(self.directory / "nbd", self._formatted(), rng)
        self.log = open(self.directory / "log", "w+b")

    def _formatted(self):
        raw = self.directory / "raw"
        with open(raw, "wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", raw], check=True)
        content = raw.read_bytes()
        raw.unlink()
        return content

    def boot(self, clock="utc", within=BOOTED_WITHIN):
        """Switches it on and waits until its daemon answers; `clock`: the time of its battery-backed clock. Of the last block of
        a journal one sector may be there and another not; then the kernel does not mount it, and it is repaired first, as
        machines do when they boot."""
        began, said_before = time.monotonic(), self.log.seek(0, 2)
        try:
            self._switch_on(clock, within)
        except AssertionError:
            self.log.seek(said_before)
            if b"cannot mount the disk" not in self.log.read():
                raise
            self.disk.repair()
            self.repaired += 1
            self._switch_on(clock, within)
        return time.monotonic() - began

    def _switch_on(self, clock, within):
        began, self.port, shell = time.monotonic(), free_port(), self.directory / "shell"
        shell.unlink(missing_ok=True)
        self.disk.power_on()
        self.boots += 1
        self.qemu = subprocess.Popen(
            ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot", "-machine", "pc,accel=tcg", "-cpu", "max", "-m", "256",
             "-kernel", self.image, "-initrd", self.initrd, "-append", f"console=ttyS0 quiet panic=-1 mount={self.mount}",
             "-serial", "stdio", "-serial", f"unix:{shell},server=on,wait=off", "-rtc", f"base={clock},clock=vm",
             "-drive", f"driver=nbd,server.type=unix,server.path={self.directory}/nbd,if=virtio,cache.direct=on,cache.no-flush=off",
             "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-10.0.2.15:8098", "-device", "virtio-net-pci,netdev=net,romfile="],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self._until_healthy(began + within)

    def _until_healthy(self, end):
        reply = "nothing"
        while time.monotonic() < end:
            assert self.qemu.poll() is None, f"the machine ended with {self.qemu.returncode}: {self.logged()}"
            try:
                reply = self.http("GET", "/healthz")
                if reply.status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"the machine's daemon did not come up ({reply}): {self.logged()}")

    def shell(self, command, within=20):
        """Runs a line in the machine; what it prints. Fails where it fails."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(within)
            line.connect(str(self.directory / "shell"))
            line.sendall(command.encode() + b"\n")
            output = ""
            while not (ended := re.search(r"^== (\d+)\r?\n", output, re.M)):
                output += line.recv(65536).decode(errors="replace")
        assert ended.group(1) == "0", f"{command}: {output}"
        return output[: ended.start()]

    def freeze_disk(self):
        """The first half of a power cut: from here on the disk has what it has. An answer `stored`, even now, must be
        true."""
        self.disk.power_off()

    def power_off(self):
        self.qemu.kill()
        self.qemu.wait()

    def logged(self):
        self.log.flush()
        return (self.directory / "log").read_text(errors="replace")[-3000:]

    def leave_evidence(self, when):
        """Saves an image of the disk, and prints the console of the machine."""
        image = Path(__file__).parent / "out" / "power_cut.img"
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(self.disk.safe)
        print(f"# {when}: the disk is in {image}; the machine said: {self.logged()}", flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.qemu and self.qemu.poll() is None:
            self.power_off()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)
