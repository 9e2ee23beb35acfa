"""Test cases with a sentence as name, and one line of output each.

`@case("…")` registers a check, which gets a running hub; its return value is printed as a figure. `run_cases()` runs them
all, in order, prints a line for each and a last line `N passed, M failed`, and ends the process accordingly. `in_time` is
the only check of a wall clock: it fails at ten times the aim and always prints the figure.
"""

import os
import sys
import time
import traceback

from daemon import Hub

_cases = []
# Repetitions for the long run; 1 in everyday use.
TIMES = int(os.environ.get("REAL_TIMES", "1"))


def case(sentence):
    def register(check):
        _cases.append((sentence, check))
        return check

    return register


def in_time(what, seconds, aim):
    """The figure as text; fails beyond ten times the aim."""
    assert seconds <= aim * 10, f"{what}: {seconds * 1000:.0f} ms, aim {aim * 1000:.0f} ms, bound {aim * 10000:.0f} ms"
    return f"{what} {seconds * 1000:.1f} ms (aim {aim * 1000:.0f})"


def same(got, wanted, what=""):
    assert got == wanted, f"{what + ': ' if what else ''}{got!r} came, the contract says {wanted!r}"


def eventually(what, check, within=20.0):
    """The first true result of `check`; fails with `what`, which may be a function that returns more."""
    end = time.monotonic() + within
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"not within {within:.0f} s: {what() if callable(what) else what}"
        time.sleep(0.01)


def _shared_hub(hub, make):
    """The hub that the cases of one file share; a new one where the last has ended."""
    if hub is None or hub.exit_code() is not None:
        return make()
    return hub


def _run_case(sentence, check, hub):
    """Runs one case and prints its line; whether it passed."""
    started = time.monotonic()
    try:
        figure = check(hub)
        assert hub.exit_code() is None, f"wshubd ended with {hub.exit_code()}: {hub.logged()}"
    except Exception as e:  # every failure is a finding, and the next case runs all the same
        frames = traceback.extract_tb(e.__traceback__)
        inner = ("/ws_client.py", "/daemon.py", "/machine.py", "/harness.py")
        here = next((f for f in reversed(frames) if not f.filename.endswith(inner)), frames[-1])
        print(f"FAIL  {sentence}\n      {type(e).__name__}: {e}\n      at {os.path.basename(here.filename)}:{here.lineno}", flush=True)
        return False
    took = (time.monotonic() - started) * 1000
    print(f"ok    {sentence}{f': {figure}' if figure else ''}  [{took:.0f} ms]", flush=True)
    return True


def run_cases(make=Hub):
    """Runs every case on the daemon of `make`; with arguments, only those whose sentence contains one of them."""
    wanted = sys.argv[1:]
    cases = [(s, check) for s, check in _cases if not wanted or any(word in s for word in wanted)]
    hub, results = None, []
    for sentence, check in cases:
        hub = _shared_hub(hub, make)
        results.append(_run_case(sentence, check, hub))
    if hub is not None:
        results.append(_stopped("the daemon then stops with exit code 0", hub))
    passed = sum(results)
    print(f"{passed} passed, {len(results) - passed} failed", flush=True)
    sys.exit(0 if all(results) and len(results) > 1 else 1)


def _stopped(sentence, hub):
    started = time.monotonic()
    try:
        with hub:
            pass
    except Exception as e:
        print(f"FAIL  {sentence}\n      {e}", flush=True)
        return False
    print(f"ok    {sentence}  [{(time.monotonic() - started) * 1000:.0f} ms]", flush=True)
    return True
