"""A daemon at its limits: one case for each kind of fault that random rounds do not reach quickly.

Limits are small, so that each takes seconds; the numbers that reach them follow from that.
"""

import contextlib
import random
import time

from subscriber_pool import SubscriberPool
from received_positions import Listener, PositionLedger
from load_generators import Loads, SlowChild, line_of, repeated, resident, saturating, written
from fault_injection import POLICIES, FaultyDaemon, hand_over_that_fails, start_that_fails, taken_port
from harness import case, eventually, same
from ws_client import Silence

MIB = 1 << 20


def requests(worker, lines, every=400):
    """Sends lines with an id, so many at once, and yields the answers."""
    for first in range(0, len(lines), every):
        part = lines[first : first + every]
        worker.send(b"".join(part))
        for _ in part:
            answer = worker.next(30)
            assert answer is not None, "the daemon closed"
            yield answer


def received_at(hub, channel, user):
    """A history as a new subscriber receives it: epoch, seq, and the number of kept positions."""
    with hub.connect(user) as wire:
        wire.send({"action": "subscribe", "channel": channel, "since": {"epoch": "", "seq": 0}})
        got, seqs = wire.receive("subscription_succeeded"), []
        with contextlib.suppress(Silence):
            while got["seq"] and (not seqs or seqs[-1] < got["seq"]):
                frame = wire.next(3)
                if frame["type"] == "message":
                    seqs.append(frame["seq"])
        return got["epoch"], got["seq"], len(seqs)


def given_out_again(hub, rounds, parts, before_the_kill=lambda: None):
    """Kills the daemon under load; the number of positions assigned twice, with the first of them."""
    book, findings, rng, positions = PositionLedger(), [], random.Random(7), {}
    for number in range(rounds):
        listeners = [Listener(f"l{n}", "off", ["history:a"]) for n in range(4)]
        for listener in listeners[:2]:
            listener.positions = dict(positions)
        crowd = SubscriberPool(hub, listeners)
        loads = Loads(hub.worker_path, parts)
        time.sleep(0.15 + 0.2 * rng.random())
        before_the_kill()
        hub.kill()
        loads.stop()
        hub.start()
        with hub.worker() as worker:
            list(requests(worker, [line_of({"channel": "history:a"}, 1, id=1)] * 50))
        came, places, _ = crowd.leave()
        positions = came[0].positions
        found = [fault for listener in came for fault in listener.faults]
        found += filter(None, (book.enter(number, place, *positions) for place, positions in places.items()))
        findings += found[:1]
    assert book.count > rounds * 1000, f"{book.count} positions were heard: this has shown nothing"
    assert not findings, f"{len(findings)} of {rounds} kills: {findings[0]}"
    return f"{book.count:,} positions heard, {rounds} kills"


@case("received positions stay valid after kill -9 under full load")
def positions_after_a_kill(_):
    with FaultyDaemon() as hub:
        return given_out_again(hub, 10, [(saturating, "history:a", 1, 16 << 10, 0)])


@case("received positions stay valid after hand-over, then kill -9")
def positions_after_a_hand_over(_):
    rng = random.Random(5)

    def hand_over(hub):
        hub.hand_over()
        time.sleep(0.03 + rng.random() * 0.02)

    with FaultyDaemon() as hub:
        return given_out_again(hub, 6, [(saturating, "history:a", 1, 16 << 10, 0.05)], lambda: hand_over(hub))


@case("positions of a history go on after kill -9 of a first start")
def positions_of_a_first_life(_):
    with FaultyDaemon(first=True) as hub:
        with hub.worker() as worker:
            for _ in range(10):
                worker.ask({"channel": "history:a", "event": "e"})
        before = received_at(hub, "history:a", "ann")
        hub.rest()
        hub.kill()
        hub.start()
        same(received_at(hub, "history:a", "ann"), before, "epoch, seq and messages after the kill")


def fills_up(kind, size, count, logs, durable=False):
    """More small messages than a store of 4 MiB holds: something gives way, and it works all the time. Their ids are as long
    as ids may be: what such a message takes on the disk is more than twice what it counts against the limit of the hub."""
    with FaultyDaemon(store="4MiB", memory="32MiB") as hub, hub.worker() as worker:
        name = "channel" if kind == "channels" else "user_id"
        promised = {"durable": True} if durable else {}
        lines = [line_of({name: f"{kind}{n % logs}"}, size, id=n, message_id=f"{n:0128}", **promised) for n in range(count)]
        refused, published = [], 0
        for answer in requests(worker, lines, 4 if durable else 400):
            published += 1
            # Durable messages are pushed out by no other log, and where each log has one message no other has more to give:
            # there the newcomer is not kept.
            if answer["type"] != "ok" or not (answer["kept"] or durable or logs > count / 4):
                refused.append((published, answer))
            if published % 2000 == 0:
                status, reason = hub.health()
                assert status == 200, f"after {published:,} messages of {size} B in {logs} {kind} it is degraded: {reason}; {len(refused)} refused"
        assert not refused, f"{len(refused)} of {count:,} are refused, first {refused[0]}: the contract evicts the oldest instead"
        before = hub.rest()
        same(hub.health()[0], 200, "health at rest")
        hub.stop()
        hub.start()
        after = hub.stats()
        same(after["kept_messages"], before["kept_messages"], f"kept over a clean stop; {hub.logged()}")
        assert before["kept_messages"] < count / 2, f"the store is not full: this has shown nothing: {before}"
        return f"{count:,} of {size} B in {logs} {kind}: {before['kept_messages']:,} kept, {before['disk_bytes'] / MIB:.1f} MiB on the disk"


@case("a store of tiny messages evicts the oldest at its limit")
def tiny_messages(_):
    return fills_up("channels", 1, 16_000, 1000)


@case("a store of one tiny message per inbox evicts at its limit")
def tiny_inboxes(_):
    return fills_up("inboxes", 1, 16_000, 16_000)


@case("durable messages of 80 B are accepted at the store's limit")
def small_durable_messages(_):
    return fills_up("channels", 80, 16_000, 1000, durable=True)


@case("a clean stop writes pending messages to a store at its limit")
def full_store_that_stops(_):
    at_a_stop = '[[channel]]\nmatch = "stop*"\ncount = 1000\ndisk = "stop"\n'
    with FaultyDaemon(store="4MiB", memory="32MiB", policies=at_a_stop + POLICIES) as hub, hub.worker() as worker:

        def send(name, count):
            lines = [line_of({"channel": f"{name}{n % 1000}"}, 1, id=n, message_id=f"{n:0128}") for n in range(count)]
            same(sum(bool(answer.get("kept")) for answer in requests(worker, lines)), count, f"kept messages in {name}*")

        send("channels", 12_000)
        full = hub.rest()
        assert full["kept_messages"] < 12_000 * 0.75, f"the store is not full: this has shown nothing: {full}"
        send("stop", 4000)
        same(hub.health()[0], 200, "health with messages that wait for a stop")
        before = hub.stats()
        hub.stop()
        hub.start()
        same(hub.stats()["kept_messages"], before["kept_messages"], f"kept over a clean stop; {hub.logged()}")
        return f"{before['kept_messages']:,} kept, {before['unstored_bytes'] / MIB:.1f} MiB of them in memory until the stop"


def break_the_store(hub):
    """From now on nothing can be written: where the store was is a file. What mends it."""
    store = hub.state / "store"
    hub.signal_child(9)
    time.sleep(0.05)
    away = store.with_name("away")
    store.rename(away)
    store.write_text("no directory")
    with hub.worker() as worker:
        eventually("a durable message that is refused", lambda: worker.ask({"user_id": "x", "event": "e", "durable": True}).get("code") == "store_unavailable")

    def mend():
        store.unlink()
        away.rename(store)

    return mend


@case("memory stays bounded and counted while the disk fails")
def delivered_while_the_disk_fails(_):
    with FaultyDaemon(memory="24MiB") as hub:
        hub.rest()
        mend = break_the_store(hub)
        before, counted = resident(hub.process.pid), hub.stats()["memory_bytes"]
        crowd = SubscriberPool(hub, [Listener("here", "auto", [])])
        block, published = line_of({"user_id": "here"}, 1) * 400, 0
        with hub.worker() as worker:
            while published < 600_000:
                worker.send(block)
                published += 400
            worker.ask({"action": "stats"})
        grown = resident(hub.process.pid) - before
        stats = hub.stats()
        uncounted = grown - (stats["memory_bytes"] - counted)
        crowd.kill()
        result = f"{published:,} said, {stats['kept_messages']:,} kept: grown by {grown / MIB:.1f} MiB, {uncounted / MIB:.1f} of it not counted"
        assert uncounted < 12 * MIB and grown < 24 * MIB, result
        mend()
        hub.until_healthy(30)
        return result


def positions_of(hub):
    with hub.connect("eve", path="/ws?inbox=ack") as wire:
        inbox = wire.hello["inbox"]
    with hub.connect("ann") as wire:
        wire.send({"action": "subscribe", "channel": "jobs", "since": {"epoch": "x", "seq": 0}})
        jobs = wire.receive("subscription_succeeded")
    return {"history": received_at(hub, "history:a", "ann"), "inbox": inbox, "jobs": (jobs["epoch"], jobs["seq"])}


def full_of_state():
    """A daemon with a history, positions, an inbox with a cursor, and ids that it knows."""
    hub = FaultyDaemon()
    with hub.worker() as worker:
        for n in range(100):
            worker.ask({"channel": "history:stop", "event": "e", "data": n})
            worker.ask({"channel": "history:a", "event": "e", "data": n})
        for n in range(5):
            worker.ask({"user_id": "eve", "event": "e", "data": n, "message_id": f"eve{n}"})
    with hub.subscriber("jobs", user="ann") as wire, hub.worker() as worker:
        worker.ask({"channel": "jobs", "event": "e"})
        wire.receive("message", channel="jobs")
    with hub.connect("eve", path="/ws?inbox=ack") as wire:
        wire.receive("message", seq=2)
        wire.send({"action": "ack", "epoch": wire.hello["inbox"]["epoch"], "seq": 2})
        wire.until_pong()
    return hub


def known_again(hub):
    with hub.worker() as worker:
        for n in range(5):
            answer = worker.ask({"user_id": "eve", "event": "e", "data": n, "message_id": f"eve{n}"})
            assert answer.get("duplicate"), f"eve{n} was said before, and is taken a second time: {answer}"


@case("a failed start after a clean stop loses nothing")
def failed_start(_):
    with full_of_state() as hub:
        before = positions_of(hub)
        hub.stop()
        with taken_port() as port:
            start_that_fails(hub, port)
        hub.start()
        same(positions_of(hub), before, "positions, cursors and messages after a start that failed")
        known_again(hub)


@case("a failed start after kill -9 loses nothing")
def failed_start_after_a_kill(_):
    with FaultyDaemon() as hub:
        with hub.worker() as worker:
            for _ in range(10):
                worker.ask({"channel": "history:a", "event": "e"})
        before = received_at(hub, "history:a", "ann")
        hub.rest()
        hub.kill()
        with taken_port() as port:
            start_that_fails(hub, port)
        hub.start()
        same(received_at(hub, "history:a", "ann"), before, "epoch, seq and messages after a start that failed")


@case("a hand-over onto an occupied port loses nothing")
def failed_hand_over(_):
    with full_of_state() as hub:
        before = positions_of(hub)
        with taken_port() as port:
            goes_on = hand_over_that_fails(hub, port)
        if not goes_on:
            hub.start()
        same(positions_of(hub), before, f"positions, cursors and messages after a hand-over that failed; {hub.logged()[-600:]}")
        known_again(hub)
        return "the daemon went on" if goes_on else "the daemon ended"


@case("after a hand-over on a failing disk durable is refused")
def handed_over_while_the_disk_fails(_):
    with FaultyDaemon() as hub:
        hub.rest()
        mend, longest = break_the_store(hub), 0.0
        with hub.worker() as worker:
            eventually("a store that says that it fails", lambda: hub.health()[0] == 503)
            for _ in range(3):
                hub.hand_over()
                eventually("another program", lambda: "took over" in hub.logged())
                time.sleep(0.2)
                began = time.monotonic()
                answer = worker.ask({"user_id": "x", "event": "e", "durable": True})
                longest = max(longest, time.monotonic() - began)
                same(answer.get("code"), "store_unavailable", str(answer))
                same(hub.health()[0], 503, "health after the hand-over")
                assert longest < 1.0, f"a durable publisher waited {longest:.1f} s for {answer}"
        mend()
        hub.until_healthy(35)
        return f"longest answer {longest * 1000:.0f} ms"


@case("a worker that pipelines durable messages delays nobody else")
def pipelining_worker(_):
    with FaultyDaemon(store="512MiB", memory="128MiB") as hub:
        block = b"".join(line_of({"user_id": f"hog{n}"}, 100, durable=True, id=1) for n in range(200))
        # On a disk that is fast enough nothing would wait.
        slow, refused, waits = SlowChild(hub, 0.5), [], []
        loads = Loads(hub.worker_path, [(repeated, block)])
        try:
            with hub.worker() as worker:
                end = time.monotonic() + 4
                while time.monotonic() < end:
                    began = time.monotonic()
                    answer = worker.ask({"user_id": "polite", "event": "e", "data": 1, "durable": True})
                    waits.append(time.monotonic() - began)
                    if not answer.get("stored"):
                        refused.append(answer)
                    time.sleep(0.02)
        finally:
            loads.stop()
            slow.stop(hub)
        assert not refused, f"{len(refused)} of {len(waits)} of a polite publisher are refused, such as {refused[0]}"
        return f"{len(waits)} of a polite publisher, longest wait {max(waits) * 1000:.0f} ms"


@case("many logs emptied at once delay nobody on a slow store")
def many_marks_at_once(_):
    count, ttl = 40_000, 7
    with FaultyDaemon() as hub, hub.worker() as worker:
        began = time.monotonic()
        lines = [line_of({"user_id": f"u{n:06d}"}, 1, ttl=ttl, id=1) for n in range(count)]
        kept = sum(bool(answer.get("kept")) for answer in requests(worker, lines, 1000))
        same(kept, count, "kept")
        hub.rest()
        assert hub.stats()["kept_messages"] > count / 2, "they expire before they are written: this has shown nothing"
        # A disk that has nothing to do is tidied up, which would be counted here.
        busy = 0
        while hub.stats()["kept_messages"] == count + busy:
            worker.ask({"user_id": f"busy{busy}", "event": "e", "durable": True})
            busy += 1
        eventually("logs that are empty", lambda: hub.stats()["kept_messages"] == busy, ttl + 5)
        [child], slow = hub.children(), SlowChild(hub, 0.05)
        before = written(child)
        try:
            began = time.monotonic()
            worker.send({"user_id": "x", "event": "e", "durable": True, "id": "x"})
            answer = worker.next(25)
            took, put = time.monotonic() - began, written(child) - before
        finally:
            slow.stop(hub)
        assert answer.get("stored") and took < 4, f"a durable message waited {took:.1f} s behind the marks of {count:,} logs: {answer}"
        assert put < 5 * count, f"a durable message waited until {put:,} bytes were written, marks of {count:,} logs among them"
        return f"{count:,} logs, a durable message waited {took:.1f} s, for {put:,} bytes"
