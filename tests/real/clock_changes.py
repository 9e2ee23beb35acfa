"""A wall clock that starts in 1970 and jumps: no kept message expires before its time has really passed.

The clock is that of a virtual machine, set from within and, between two boots, by its battery: no library could replace it,
since the daemon asks the kernel itself.
"""

import random
import time

from virtual_machine import VirtualMachine
from kept_messages import POLICIES
from harness import case, run_cases, same

SEED = 1970
# For tokens: they do expire by the wall clock, and are not the subject here.
FOR_EVER = 3_000_000_000
USER = {"user_id": "away", "event": "e", "durable": True}


def publish(board, name, ttl):
    answer = board.post("/broadcast", {**USER, "data": name, "message_id": name, "ttl": ttl})
    same(answer.status, 200, str(answer))
    assert answer.json()["stored"], answer


def waiting(board):
    """The messages that the user would receive now; nothing is acknowledged."""
    with board.connect(token=board.token("away", ttl=FOR_EVER), path="/ws?inbox=ack") as wire:
        count = wire.hello["inbox"]["waiting"]
        return [wire.receive("message")["data"] for _ in range(count)]


def restart(board, clock, cleanly):
    """Off and on again, with the time of the battery-backed clock."""
    if cleanly:
        board.shell("kill $(pidof wshubd | tr ' ' '\\n' | sort -n | head -n 1); while pidof wshubd; do sleep 0.1; done")
        board.shell("umount /state")
    board.freeze_disk()
    board.power_off()
    board.boot(clock)


@case("a ttl of an hour outlives every jump of the wall clock")
def nothing_expires_early(_):
    clocks = []
    with VirtualMachine(POLICIES, random.Random(SEED)) as board:
        board.boot("1970-01-01T00:00:00")
        publish(board, "first", 3600)
        for clock in ("2026-11-21 12:00:00", "1970-01-02 00:00:00", "2037-01-01 00:00:00", "2026-11-21 12:00:00"):
            board.shell(f"date -s '{clock}'")
            same(waiting(board), ["first"], f"after the clock was set to {clock}")
        for clock, cleanly in (("1970-01-01T00:00:00", True), ("1970-01-01T00:00:00", False), ("2026-11-21T12:00:00", True), ("1970-01-01T00:00:00", True)):
            restart(board, clock, cleanly)
            how = f"after a {'clean stop' if cleanly else 'power cut'} and a start at {clock}"
            same(waiting(board)[:1], ["first"], how)
            clocks.append(clock[:4])
        publish(board, "second", 3600)
        same(waiting(board), ["first", "second"], "both")
    return f"{board.boots} boots, at {', '.join(clocks)}"


@case("a ttl of seconds expires whatever the clock was set to")
def it_does_expire(_):
    with VirtualMachine(POLICIES, random.Random(SEED)) as board:
        board.boot("2026-11-21T12:00:00")
        published = time.monotonic()
        publish(board, "short", 8)
        board.shell("date -s '1970-01-01 00:00:00'")
        same(waiting(board), ["short"], "well before its time")
        while waiting(board):
            assert time.monotonic() - published < 60, "still there after a minute"
            time.sleep(0.2)
        took = time.monotonic() - published
        # The machine's own time may run a little slower or faster than ours.
        assert took > 7, f"gone after {took:.1f} s, and it was for 8"
    return f"gone after {took:.1f} s of 8"


if __name__ == "__main__":
    run_cases()
