"""How many durable messages a second, beside a plain log and beside Redis."""

import os
import shutil
import subprocess

import kernel
import publishers
from store_hub import DATA, ROOM_FOR_ALL, Store, durable, is_stored, line

RECIPIENTS = 20


def requests(count, request):
    """Recipients of its own for each publisher, so that no log is full before the end."""
    return [[request(f"p{publisher}r{n}") for n in range(RECIPIENTS)] for publisher in range(count)]


class Hubs:
    """The daemon, as its publishers see it."""

    name, why_not = "wshubd, durable", None

    def __enter__(self):
        self.hub = Store(**ROOM_FOR_ALL).__enter__()
        self.path, self.process = self.hub.worker_path, self.hub.process
        durable(self.hub, 1, 1)
        return self

    @staticmethod
    def requests(target, _):
        return line(target, durable=True, answered=True)

    is_answer = staticmethod(is_stored)

    def __exit__(self, *kind):
        self.hub.__exit__(*kind)


def measure_durable(sizes, table):
    table.part("durable messages of 300 B; each publisher waits for its answer")
    install({"redis-server": "redis-server", "strace": "strace"}, table)
    for count in (1, 10, 100):
        for kind in (Hubs, publishers.Log, publishers.Redis):
            with kind() as server:
                told = f"{server.name}, {count} publisher{'s' if count > 1 else ''}"
                if server.why_not:
                    table.row(told, "-", server.why_not)
                    continue
                said = requests(count, lambda target: server.requests(target, DATA))
                publishers.publish(server.path, said, server.is_answer, 0.3)  # caches and connections
                before = kernel.written(server.process.pid)
                rate = publishers.publish(server.path, said, server.is_answer, sizes.run)
                written = kernel.written(server.process.pid) - before
                with kernel.Syncs(server.process.pid) as syncs:
                    traced = publishers.publish(server.path, said, server.is_answer, sizes.traced)
            shared = f"{traced.answers / syncs.count:.1f} to a sync" if syncs.count else f"syncs not counted: {syncs.why_not}"
            remark = f"median {rate.median * 1000:.1f}, 99 % {rate.slow * 1000:.1f} ms; {shared}; {written / rate.answers:,.0f} B a message"
            is_barred = kind is Hubs and count == 100
            # Each publisher waits: more than all of them at once is a mistake of the count.
            held = bool(syncs.count) and 5 <= traced.answers / syncs.count <= count
            table.row(told, f"{rate.a_second:,.0f} a second", remark, "shared" if is_barred else None, held)


def install(commands, table):
    """What is not there, where that is possible (as root, on Debian)."""
    packages = [package for command, package in commands.items() if not shutil.which(command)]
    if not packages or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "timeout": 120}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(command, **quiet)
    table.row(f"installing {', '.join(packages)}", "done" if done.returncode == 0 else "failed")
