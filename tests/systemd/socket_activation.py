"""Socket activation: systemd opens the sockets, and the daemon may stop and start behind them."""

import http.client
import random
import subprocess
import threading
import time

from machine import Machine, eventually
from harness import case, in_time, run_cases, same

# Connections a second while the daemon is restarted, and how often it is.
RATE, RESTARTS = 200, 5


@case("the first connection starts the daemon")
def first(hub):
    hub.ctl("stop", "wshubd.service")
    same(hub.show("ActiveState"), "inactive")
    began = time.monotonic()
    same(hub.http("GET", "/healthz").status, 200)
    took = time.monotonic() - began
    assert hub.is_active()
    return in_time("answered", took, 1)


@case("the first worker starts the daemon")
def worker(hub):
    hub.ctl("stop", "wshubd.service")
    hub.run("wshubctl", "pub", "jobs", "hello")
    eventually("it runs", hub.is_active)


@case("the worker socket stays through a stop, with group and mode")
def stays(hub):
    socket = hub.path("/run/wshubd/worker.sock")
    before = socket.stat()
    hub.ctl("restart", "wshubd")
    hub.ctl("stop", "wshubd.service")
    same(socket.stat().st_ino, before.st_ino)
    same(hub.run("stat", "-c", "%U %G %a", "/run/wshubd/worker.sock").stdout.strip(), "root wshub-worker 660")
    hub.ctl("start", "wshubd")


@case("restarts under load refuse no connection")
def restarts(hub):
    refused, cut, answered, slowest = [], [], [], [0.0]
    over = threading.Event()

    def call():
        began = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=15)
        try:
            connection.connect()
        except OSError as e:
            return refused.append(repr(e))
        try:
            # As far away as a client in another town: the daemon may be asked to stop meanwhile.
            time.sleep(random.uniform(0, 0.02))
            connection.request("GET", "/healthz")
            answered.append(connection.getresponse().status)
        except (OSError, http.client.HTTPException) as e:
            cut.append(repr(e))
        finally:
            connection.close()
        slowest[0] = max(slowest[0], time.monotonic() - began)

    def load():
        calls, due = [], time.monotonic()
        while not over.is_set():
            calls.append(threading.Thread(target=call))
            calls[-1].start()
            due += 1 / RATE
            over.wait(max(0, due - time.monotonic()))
        for one in calls:
            one.join()

    loading = threading.Thread(target=load)
    loading.start()
    for _ in range(RESTARTS):
        hub.ctl("restart", "wshubd")
        time.sleep(0.3)
    over.set()
    loading.join()
    same(refused, [], "refused")
    same(cut, [], "let in and not answered")
    assert len(answered) > RATE, f"only {len(answered)} were answered"
    return f"{len(answered)} connections, {RESTARTS} restarts, slowest answer {slowest[0] * 1000:.0f} ms"


@case("an address that appears later does not delay the boot")
def later(hub):
    address = "192.0.2.7"
    hub.drop_in(f"[Socket]\nListenStream=\nListenStream={address}:{hub.port}\n", unit="wshubd.socket")
    try:
        hub.ctl("restart", "wshubd.socket", "wshubd.service")
        hub.run("wshubctl", "pub", "jobs", "who works here is served")
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        there = http.client.HTTPConnection(address, hub.port, timeout=10)
        there.request("GET", "/healthz")
        same(there.getresponse().status, 200)
    finally:
        subprocess.run(["ip", "address", "delete", f"{address}/32", "dev", "lo"], check=False)
        hub.drop_in("", unit="wshubd.socket")
        hub.ctl("restart", "wshubd.socket", "wshubd.service")


@case("a configured address beside systemd's sockets is ignored")
def inert(hub):
    hub.write("/etc/wshubd/wshubd.toml", '[listen]\nhttp = ["192.0.2.1:1"]\n[limits]\nburst = 7\n')
    hub.ctl("reload", "wshubd")
    messages = [text for _, text in hub.daemon_log()]
    assert any("reloaded: limits.burst" in text for text in messages), messages
    again = hub.run("wshubctl", "reload")
    assert "`[listen] http` counts for nothing: systemd listens at 127.0.0.1:8098" in again.stdout + again.stderr, again
    hub.ctl("restart", "wshubd")
    same(hub.http("GET", "/healthz").status, 200)
    hub.fresh()


@case("a socket with an unknown name is logged, the daemon serves")
def unknown(hub):
    hub.write("/etc/systemd/system/wshubd-other.socket",
              "[Socket]\nListenStream=/run/wshubd/other.sock\nService=wshubd.service\n")
    hub.ctl("daemon-reload")
    hub.ctl("stop", "wshubd.service")
    hub.ctl("start", "wshubd-other.socket")
    hub.ctl("start", "wshubd.service")
    lines = hub.daemon_log()
    hub.ctl("stop", "wshubd-other.socket")
    hub.path("/etc/systemd/system/wshubd-other.socket").unlink()
    hub.ctl("daemon-reload")
    hub.ctl("restart", "wshubd")
    warnings = [text for priority, text in lines if priority == 4]
    same(len(warnings), 1, str(lines))
    assert '"wshubd-other.socket"' in warnings[0], warnings


run_cases(Machine)
