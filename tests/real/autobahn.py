"""The Autobahn test suite's fuzzing client against the daemon's own transport, as an echo server.

The suite is on PyPI and runs on CPython 2.7 alone; it gets a virtualenv of its own. Cases 12 and 13 are compression,
which the daemon does not offer. Text and binary are echoed by `examples/echo`, which raises the limits for case 9.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from daemon import ROOT, free_port

HERE = Path(__file__).resolve().parent
VENV, TOOLS, OUT = HERE / ".venv27", HERE / ".venv-tools", HERE / "out"
SUITE = "autobahntestsuite==25.10.1"
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]


def python2():
    """A CPython 2.7: of the system, or of pyenv."""
    roots = {os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv"), "/root/.pyenv"} - {None}
    # Not the shim that PATH shows: it refuses where another version is selected.
    candidates = [found for root in sorted(roots) for found in Path(root).glob("versions/2.7*/bin/python2.7")]
    candidates += ["/usr/bin/python2.7", "/usr/local/bin/python2.7"]
    if os.environ.get("PYTHON27"):
        candidates.insert(0, os.environ["PYTHON27"])
    if shutil.which("python2.7"):
        candidates.append(shutil.which("python2.7"))
    for candidate in candidates:
        try:
            done = subprocess.run([str(candidate), "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, text=True)
        except OSError:
            continue
        if done.stdout.strip() == "(2, 7)":
            return str(candidate)
    sys.exit("autobahn: no CPython 2.7 on this machine; `pyenv install 2.7.18` or PYTHON27=/path/to/python2.7 gives one\n0 passed, 1 failed")


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        sys.exit(f"autobahn: {' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}\n0 passed, 1 failed")


def install():
    if (VENV / "bin/wstest").exists():
        return
    # The last virtualenv that still makes environments for 2.7.
    run(sys.executable, "-m", "venv", TOOLS)
    run(TOOLS / "bin/pip", "install", "--quiet", "virtualenv<20.22")
    run(TOOLS / "bin/virtualenv", "--quiet", "-p", python2(), VENV)
    run(VENV / "bin/pip", "install", "--quiet", SUITE)


def echo_server(port):
    """The example, as cargo's tests have built it: in a release it would be built with what only tests need of a library."""
    built = ROOT / "target/debug/examples/echo"
    run("cargo", "build", "--quiet", "--locked", "--example", "echo", cwd=ROOT)
    process = subprocess.Popen([str(built), f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        except OSError:
            time.sleep(0.05)
    process.kill()
    sys.exit("autobahn: the echo server did not listen within 10 s\n0 passed, 1 failed")


def main():
    install()
    port, reports = free_port(), OUT / "autobahn"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    spec = {"outdir": str(reports), "servers": [{"agent": "wshubd", "url": f"ws://127.0.0.1:{port}/"}],
            "cases": CASES, "exclude-cases": ["12.*", "13.*"], "exclude-agent-cases": {}}
    (reports / "spec.json").write_text(json.dumps(spec))
    server, began = echo_server(port), time.monotonic()
    try:
        run(VENV / "bin/wstest", "-m", "fuzzingclient", "-s", reports / "spec.json", timeout=500)
        died = server.poll()
    finally:
        server.kill()
        server.wait()
    results = json.loads((reports / "index.json").read_text())["wshubd"]
    counts, bad = {}, []
    for case, result in sorted(results.items(), key=lambda r: [int(n) for n in r[0].split(".")]):
        for part in ("behavior", "behaviorClose"):
            if result[part] not in GOOD:
                bad.append(f"{case}: {part} {result[part]}")
        counts[result["behavior"]] = counts.get(result["behavior"], 0) + 1
    if died is not None:
        bad.append(f"the echo server ended with {died}")
    for line in bad:
        print(f"FAIL  {line}")
    failed = len({line.split(":")[0] for line in bad})
    print(f"{'ok  ' if not bad else 'FAIL'}  Autobahn: {len(results)} cases, {counts}, in {time.monotonic() - began:.0f} s")
    # All requested cases must have been run: a suite that ends early is no pass.
    missing = max(0, 301 - len(results))
    print(f"{len(results) - failed} passed, {failed + missing} failed")
    sys.exit(1 if bad or missing else 0)


if __name__ == "__main__":
    main()
