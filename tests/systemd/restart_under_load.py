"""Restarts that no connection notices: a thousand clients and ten workers send all the time, half of their bytes cut
somewhere, while the daemon is restarted again and again.
"""

import json
from subprocess import PIPE

from load import Load
from machine import Machine, eventually
from harness import TIMES, case, in_time, run_cases, same

CLIENTS, WORKERS, RESTARTS = 1000, 10, 20 * TIMES
MANY = 5000
AIM = 0.3


def restart(hub, load):
    """One restart; the longest silence of it, over all clients."""
    before, pid = load.published, hub.main()
    load.silence()
    hub.ctl("restart", "wshubd")
    assert hub.main() != pid
    same([peer.closed for peer in [*load.clients, *load.workers] if peer.closed][:5], [], "closed")
    eventually("numbers go on", lambda: load.published > before + 2)
    asked = [client.asked for client in load.clients]
    eventually("pings go on", lambda: all(c.answered >= n or c.closed for c, n in zip(load.clients, asked)))
    return load.silence()


def send(hub, signal):
    hub.ctl("kill", f"--signal={signal}", "--kill-whom=main", "wshubd")


load = None


@case(f"restarts, {CLIENTS} clients, {WORKERS} workers: 0 closed, lost, doubled")
def restarts(hub):
    global load
    load = Load(hub, CLIENTS, WORKERS)
    silences = [restart(hub, load) for _ in range(RESTARTS)]
    lines = [text for _, text in hub.daemon_log() if "took over" in text]
    same(len(lines), 1, "the journal of the last one")
    assert f"took over {CLIENTS + WORKERS} " in lines[0], lines
    middle = sorted(silences)[len(silences) // 2]
    figure = in_time(f"{RESTARTS} restarts, longest silence", max(silences), AIM)
    return f"{figure}, median {middle * 1000:.0f} ms; {lines[0]}"


@case("a restart onto a newer file")
def newer(hub):
    hub.run("sh", "-c", "cp /usr/bin/wshubd /usr/bin/.wshubd.new && mv /usr/bin/.wshubd.new /usr/bin/wshubd")
    figure = in_time("longest silence", restart(hub, load), AIM)
    load.finish()
    return f"{figure}; {load.published} numbers each, {sum(c.answered for c in load.clients)} pings"


@case("operations still run, and each can be stopped once")
def operations(hub):
    running = json.loads("[" + ",".join(hub.run("wshubctl", "operations", "--json").stdout.splitlines()) + "]")
    same(sorted(o["operation_id"] for o in running), sorted(w.operation for w in load.workers))
    for worker in load.workers:
        same(hub.post("/interrupt", {"operation_id": worker.operation}).json()["outcome"], "delivered")
    eventually("every worker hears it", lambda: all(w.interrupts for w in load.workers))
    same([worker.interrupts for worker in load.workers], [1] * WORKERS)
    load.leave()


@case("the fd store is empty between two restarts")
def nothing_left(hub):
    same(hub.show("NFileDescriptorStore"), "0")


@case("SIGUSR2 hands over in place, inside the sandbox")
def in_place(hub):
    pid = hub.main()
    with hub.subscriber("news") as ann:
        for n in range(3):
            before = len([1 for _, text in hub.daemon_log() if "took over" in text])
            send(hub, "USR2")
            eventually("it took over", lambda: len([1 for _, t in hub.daemon_log() if "took over" in t]) > before)
            hub.run("wshubctl", "pub", "news", str(n))
            ann.receive("message", data=str(n))
        same(hub.main(), pid)
        hub.ctl("restart", "wshubd")
        hub.run("wshubctl", "pub", "news", "restarted")
        ann.receive("message", data="restarted")


@case("a stop sends bye to every connection and keeps no descriptor")
def stop(hub):
    with hub.connect("ann") as ann:
        hub.ctl("stop", "wshubd.service")
        same(ann.receive("bye")["code"], 4101)
    hub.ctl("start", "wshubd.service")
    assert not [text for _, text in hub.daemon_log() if "took over" in text]


@case("a unit without fd store logs it; clients reconnect at once")
def no_store(hub):
    hub.drop_in("[Service]\nFileDescriptorStoreMax=0\n")
    hub.ctl("restart", "wshubd")
    with hub.connect("ann") as ann:
        hub.ctl("restart", "wshubd")
        same(ann.receive("bye")["code"], 4200)
    assert [e for e in hub.journal() if "FileDescriptorStoreMax" in str(e["MESSAGE"])]
    hub.drop_in("")
    hub.ctl("restart", "wshubd")


@case("a restart onto a wrong configuration is a clean stop")
def broken(hub):
    keeps = '[[channel]]\nmatch = "past"\nkeep = "history"\n'
    hub.write("/etc/wshubd/wshubd.toml", keeps)
    hub.ctl("reload", "wshubd")
    for attempt in range(5):
        hub.run("wshubctl", "pub", "past", f"kept {attempt}")
        hub.write("/etc/wshubd/wshubd.toml", keeps + "[limits]\nburts = 5\n")
        with hub.connect("ann") as ann:
            assert hub.ctl("restart", "wshubd", check=False).returncode != 0
            same(ann.receive("bye")["code"], 4101)
        why = [e for e in hub.journal() if e.get("SYSLOG_IDENTIFIER") == "wshubctl" and "burts" in e["MESSAGE"]]
        same([e["PRIORITY"] for e in why], ["3"] * (attempt + 1), "the journal says why")
        hub.write("/etc/wshubd/wshubd.toml", keeps)
        hub.ctl("start", "wshubd")
    with hub.connect("ann") as ann:
        ann.send({"action": "subscribe", "channel": "past", "since": {"epoch": "", "seq": 0}})
        same([ann.receive("message")["data"] for _ in range(5)], [f"kept {attempt}" for attempt in range(5)])
    hub.fresh()


@case("a restart onto a key only root reads is a clean stop")
def unreadable(hub):
    hub.write("/etc/wshubd/only.key", "0123456789abcdef" * 2, mode=0o600)
    hub.write("/etc/wshubd/wshubd.toml", '[auth]\nkeys = [{ alg = "HS256", file = "/etc/wshubd/only.key" }]\n')
    # A process from outside the machine has no user there, and is refused.
    worker = hub.start("socat", "-", "UNIX-CONNECT:/run/wshubd/worker.sock", stdin=PIPE, stdout=PIPE)
    print(json.dumps({"action": "connections", "id": 1}), file=worker.stdin, flush=True)
    same(json.loads(worker.stdout.readline())["id"], 1)
    with hub.connect("ann") as ann:
        hub.run("wshubctl", "pub", "later", "said just before")
        assert hub.ctl("restart", "wshubd", check=False).returncode != 0
        same(ann.receive("bye")["code"], 4101)
    lines = [json.loads(line) for line in worker.communicate(timeout=20)[0].splitlines()]
    same([(line["type"], line["code"]) for line in lines], [("bye", 4101)])
    why = [e for e in hub.journal() if "only.key" in str(e["MESSAGE"])]
    same([(e["SYSLOG_IDENTIFIER"], e["PRIORITY"]) for e in why], [("wshubctl", "3"), ("wshubd", "3")], "the journal says why")
    hub.path("/etc/wshubd/only.key").unlink()
    hub.fresh()
    assert "said just before" in hub.run("wshubctl", "sub", "-n", "1", "--timeout", "10s", "later").stdout


@case("a killed daemon hands nothing over, and the next logs it")
def killed(hub):
    pid = hub.main()
    with hub.connect("ann"):
        send(hub, "KILL")
        eventually("another one runs", lambda: hub.show("MainPID") not in ("0", str(pid)) and hub.is_active())
    assert [text for _, text in hub.daemon_log() if "handed nothing over" in text], hub.daemon_log()


@case(f"{MANY} connections")
def many(hub):
    crowd = Load(hub, MANY, 1)
    silences = [restart(hub, crowd) for _ in range(3)]
    crowd.finish()
    crowd.leave()
    took = [text for _, text in hub.daemon_log() if "took over" in text]
    return f"{in_time('longest silence', max(silences), AIM)}; {took[-1]}"


run_cases(Machine)
