"""The README's "Try it" for a new user: its commands, exactly as they stand there.

A fresh user account in a network namespace of its own, so that the usual port is free. Each block of "Try it" is run in a
shell of that user. Any surprise on the way is a failure: a warning of the daemon, text on a command's standard error that
the README does not announce, a delay.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daemon import BIN, ROOT
from harness import case, eventually, in_time, run_cases, same

UID = 4711
# Where the worker socket is of a user without $XDG_RUNTIME_DIR.
RUNTIME = Path(f"/tmp/wshubd-{UID}")
README = (ROOT / "README.md").read_text()


def block(*words, language="sh"):
    """The block of the README that contains all these words."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.S) if all(word in text for word in words)]
    same(len(found), 1, f"blocks of the README with {words}")
    return found[0]


class Account:
    """A fresh account: a home, the programs where a build leaves them, and the daemon that its user starts."""

    def __init__(self):
        # What an account before this one has left.
        shutil.rmtree(RUNTIME, ignore_errors=True)
        self.home = Path(tempfile.mkdtemp(prefix="wshubd-first-hour-"))
        built = self.home / "target/release"
        built.mkdir(parents=True)
        for name in ("wshubd", "wshubctl"):
            shutil.copy2(BIN / name, built / name)
        # A command that ends when it is stopped, under the name that the README has.
        tools = self.home / "bin"
        tools.mkdir()
        (tools / "find").write_text("#!/bin/sh\nn=0\nwhile :; do n=$((n + 1)); echo /file/$n; sleep 0.05; done\n")
        (tools / "find").chmod(0o755)
        library = Path(__import__("websocket").__file__).parent
        shutil.copytree(library, self.home / "lib/websocket")
        shutil.copytree(ROOT / "tests/real/node_modules/ws", self.home / "lib/ws")
        subprocess.run(["chown", "-R", f"{UID}:{UID}", self.home], check=True)
        self.log = self.home / "log"
        self.running = []
        self.daemon = self.start("cargo run", "exec target/release/wshubd", self.log)
        eventually(self.logged, lambda: "started" in self.logged() or self.daemon.poll() is not None)

    def start(self, name, script, to):
        """A terminal of the user's in which this is typed."""
        environment = {"HOME": str(self.home), "PATH": f"{self.home}/bin:/usr/local/bin:/usr/bin:/bin",
                       "PYTHONPATH": str(self.home / "lib"), "USER": "ada", "PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8"}
        words = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", "--pdeathsig", "KILL", "bash", "-eu", "-c", script]
        with open(to, "wb") as out, open(f"{to}.errors", "wb") as errors:
            errors = out if name == "cargo run" else errors
            process = subprocess.Popen(words, cwd=self.home, env=environment, stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=errors, start_new_session=True)
        self.running.append(process)
        return process

    def types(self, script, name="typed"):
        """Runs this and waits for its end: its standard output and standard error."""
        process = self.start(name, script, self.home / name)
        try:
            code = process.wait(20)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end: {script!r}; {self.errors(name)!r}") from None
        same(code, 0, f"{script!r} said {self.errors(name)!r} and printed {self.printed(name)[-300:]!r}; its exit status")
        return self.printed(name), self.errors(name)

    def printed(self, name):
        return (self.home / name).read_text()

    def errors(self, name):
        return (self.home / f"{name}.errors").read_text()

    def logged(self):
        return self.log.read_text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def exit_code(self):
        return self.daemon.poll()

    def stop(self):
        self.daemon.send_signal(signal.SIGINT)
        same(self.daemon.wait(20), 0, f"the exit status of the daemon that logged {self.logged()!r}")
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.home)
        shutil.rmtree(RUNTIME)


@case("the first start logs its address and nothing else")
def first_start(account):
    lines = account.logged().splitlines()
    same(len(lines), 1, f"lines of {lines}")
    assert "ws://127.0.0.1:8098/api/v1/ws" in lines[0] and "WARN" not in lines[0], lines
    state = account.home / ".local/state/wshubd"
    for name in ("jwt.key", "broadcast.secret"):
        same(oct((state / name).stat().st_mode & 0o777), "0o600", name)


@case("wshubctl, a socket and HTTP publish to another terminal")
def receive(account):
    account.start("sub", block("wshubctl sub logs"), account.home / "sub")
    # It is there as soon as it has subscribed.
    eventually("no subscriber", lambda: '"subscribers":1' in account.types("target/release/wshubctl channels")[0])
    started = time.monotonic()
    printed, errors = account.types(block("wshubctl pub logs", "socat", "/broadcast"))
    took = time.monotonic() - started
    assert "wshubctl" not in errors and '"type":"send_success"' in printed, (printed, errors)
    for text in ("hello", "hello from a socket", "hello by HTTP"):
        eventually(f"{text!r} was not heard", lambda text=text: f'"data":"{text}"' in account.printed("sub"))
    same(account.errors("sub"), "", "what sub said beside")
    return in_time("three messages", took, 0.5)


@case("a command is published, listed and interrupted")
def run(account):
    process = account.start("run", "export PATH=$PWD/target/release:$PATH; " + block("wshubctl run logs -- find"), account.home / "run")
    hint = eventually(lambda: account.errors("run"), lambda: re.search(r"stop it with: (wshubctl interrupt (\S+))", account.errors("run")))
    operation = hint[2]
    eventually("its output was not heard", lambda: '"text":"/file/1"' in account.printed("sub"))
    printed, errors = account.types("export PATH=$PWD/target/release:$PATH; " + block("wshubctl operations").split("wshubctl interrupt")[0])
    assert operation in printed and '"label":"find"' in printed and errors == "", (printed, errors)
    started = time.monotonic()
    printed, errors = account.types(f"PATH=$PWD/target/release:$PATH; {hint[1]}")
    same((printed, errors), ("delivered\n", ""), hint[1])
    process.wait(20)
    took = time.monotonic() - started
    eventually("its end was not heard", lambda: '"reason":"interrupted"' in account.printed("sub"))
    return in_time("stopped", took, 0.5)


# What a page has that Node does not: one of this host, at another port. The button is pressed as soon as it is subscribed.
BROWSER = """
const {WebSocket: Socket} = require(process.env.HOME + '/lib/ws')
globalThis.WebSocket = class extends Socket {
  constructor(url, protocols) { super(url, protocols, {origin: 'http://127.0.0.1:3000'}) }
}
globalThis.location = {hostname: '127.0.0.1'}
globalThis.prompt = () => process.env.TOKEN
globalThis.document = {createElement: () => ({}), body: {appendChild: button => button}}
const log = console.log
console.log = (...words) => { log(...words); if (words[0] === 'subscription_succeeded') stop.onclick() }
"""


@case("the README's page stops an operation that ran before it")
def page(account):
    process = account.start("before", "export PATH=$PWD/target/release:$PATH; " + block("wshubctl run logs -- find"), account.home / "before")
    eventually("it does not run", lambda: "stop it with" in account.errors("before"))
    script = account.home / "page.js"
    script.write_text(BROWSER + "(0, eval)(" + json.dumps(block("new WebSocket", language="js")) + ")")
    account.start("page", "TOKEN=$(target/release/wshubctl token new --user ada --ttl 1h) exec node page.js", account.home / "page")
    same(process.wait(20) != 0, True, "it was stopped")
    eventually(lambda: account.printed("page"), lambda: "interrupt_result delivered" in account.printed("page"))
    eventually(lambda: account.printed("page"), lambda: "operation ended" in account.printed("page"))
    same(account.errors("page"), "", "what it said beside")


@case("the README's token and Python work")
def python(account):
    account.start("python", "export PATH=$PWD/target/release:$PATH; " + block("websocket.create_connection"), account.home / "python")
    output = eventually(lambda: account.errors("python"), lambda: account.printed("python") if "from Python" in account.printed("python") else None)
    assert "subscription_succeeded" in output and "send_success" in output, output
    same(account.errors("python"), "", "what it said beside")


@case("the README's administration commands answer at once")
def look(account):
    account.types("target/release/wshubctl token new --user ada --ttl 1h > token.txt")
    started = time.monotonic()
    printed, errors = account.types("export PATH=$PWD/target/release:$PATH; " + block("wshubctl status", "token check"))
    took = time.monotonic() - started
    same(errors, "", "what was said beside")
    assert '"valid":true' in printed and "operations" in printed, printed
    return in_time("five questions", took, 0.5)


@case("the daemon has logged no warning")
def log(account):
    lines = account.logged().splitlines()
    same([line for line in lines if "INFO" not in line], [], f"of {lines}")


if __name__ == "__main__":
    if "WSHUBD_FIRST_HOUR" not in os.environ:
        os.environ["WSHUBD_FIRST_HOUR"] = "1"
        os.execvp("unshare", ["unshare", "--net", "--", sys.executable, "-B", __file__, *sys.argv[1:]])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    run_cases(Account)
