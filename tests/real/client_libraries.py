"""Common client libraries: each subscribes, waits for `connection_id`, sends to `logs` and `admin`, and receives both."""

import json
import subprocess
import time

from daemon import BIN, Hub
from harness import case, run_cases, same
from library_clients import Browser, Node, PythonApp, PythonWebsockets, all_of

CTL = BIN / "wshubctl"


def talk(make):
    """On a hub of its own: a message that only its sender received is kept for the next client."""
    with Hub() as hub, all_of(make(hub)) as (watcher,):
        connection = watcher.receive("connection_id")["connection_id"]
        for channel in ("logs", "admin"):
            watcher.receive("subscription_succeeded", channel=channel)
            watcher.send({"action": "send", "channel": channel, "event": "hello", "data": {"to": channel}, "id": channel})
            same(watcher.receive("send_success", id=channel)["sent"], 1)
            received = watcher.receive("message", channel=channel)
            same((received["event"], received["data"], received["from"]), ("hello", {"to": channel}, connection))
        hub.post("/broadcast", {"channel": "admin", "event": "from outside", "data": "grüße 😀"})
        same(watcher.receive("message", event="from outside")["data"], "grüße 😀")
        same(watcher.count("connection_established"), 1)
        same(watcher.count("error"), 0)
    return watcher.name


@case("Python's websocket-client, in a background thread")
def websocket_client(_):
    return talk(lambda hub: PythonApp(hub, hub.token("ann"), "logs", "admin"))


@case("Python's websockets on asyncio")
def websockets(_):
    return talk(lambda hub: PythonWebsockets(hub, hub.token("ann"), "logs", "admin"))


@case("Node's ws")
def node_ws(_):
    return talk(lambda hub: Node("ws", hub, hub.token("ann"), "logs", "admin"))


@case("Node's own WebSocket, with the token in the subprotocol")
def node_native(_):
    return talk(lambda hub: Node("native", hub, hub.token("ann"), "logs", "admin"))


@case("Chromium on a page of another port shows lines at once")
def chromium(hub):
    browser = Browser(hub, hub.token("ann"), "shown")
    with all_of(browser):
        browser.receive("subscription_succeeded", channel="shown")
        for n in range(20):
            hub.post("/broadcast", {"channel": "shown", "event": "line", "data": f"line {n}"})
        browser.receive("message", data="line 19")
        wanted, shown, end = "".join(f"line {n}\n" for n in range(20)), None, time.monotonic() + 5
        while shown != wanted and time.monotonic() < end:  # it is drawn with the next picture
            shown = browser.ask("document.getElementById('lines').textContent")
        same(shown, wanted)
        browser.send({"action": "send", "channel": "admin", "event": "e", "id": "s"})
        browser.receive("send_success", id="s")
    return "20 lines shown"


@case("Chromium with an expired token gets auth_failed and 4001")
def chromium_refused(hub):
    browser = Browser(hub, hub.token("ann", ttl=-60), "logs")
    with all_of(browser):
        same(browser.receive("auth_failed")["code"], "token_expired")
        for _ in range(100):
            if browser.ask("document.getElementById('state').textContent") == "closed 4001":
                return None
        raise AssertionError(f"the page shows {browser.ask('document.getElementById(`state`).textContent')!r}")


@case("wshubctl pub and sub: arguments, pipe, JSON, -n, --timeout")
def ctl(hub):
    # Undelivered messages wait for the first subscriber, so that nothing has to be awaited here.
    same(hub.ctl("pub", "pipes", "hello").returncode, 0)
    lines = "printf 'one\\ntwo\\n{\"n\":3}\\n' | '" + str(CTL) + "' pub pipes"
    done = subprocess.run(["bash", "-c", lines], env=hub.environment, capture_output=True, text=True, timeout=20)
    same(done.returncode, 0, done.stderr)
    listening = hub.start_ctl("sub", "-n", "4", "--timeout", "20s", "pipes", stdout=subprocess.PIPE, text=True)
    out, _ = listening.communicate(timeout=20)
    same(listening.returncode, 0)
    lines = [json.loads(line) for line in out.splitlines()]
    same(len(lines), 4)
    assert [str(line["data"]) for line in lines][:3] == ["hello", "one", "two"], lines
    timed = hub.ctl("sub", "-n", "1", "--timeout", "1s", "nothing-here")
    assert timed.returncode != 0, "a sub that ran into its time-out says so in its status"


@case("wshubctl status reports a running daemon; --help is complete")
def status(hub):
    done = hub.ctl("status")
    same(done.returncode, 0, done.stderr)
    assert done.stdout.strip(), "status says nothing"
    shown = hub.ctl("--help")
    same(shown.returncode, 0)
    for command in ("pub", "sub", "interrupt", "operations", "status", "token", "run"):
        assert command in shown.stdout, f"--help does not name {command}"
        same(hub.ctl(command, "--help").returncode, 0)
    assert hub.ctl("fly").returncode != 0


@case("wshubctl sub is silent on a broken pipe")
def broken_pipe(hub):
    script = f"'{CTL}' sub broken | head -n 1"
    shell = subprocess.Popen(["bash", "-c", script], env=hub.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    end = time.monotonic() + 10
    with hub.worker() as worker:
        while shell.poll() is None and time.monotonic() < end:
            worker.ask({"channel": "broken", "event": "e", "data": 1})
    out, err = shell.communicate(timeout=10)
    same(len(out.splitlines()), 1)
    same(err, "", "the standard error of a broken pipe")


if __name__ == "__main__":
    run_cases()
