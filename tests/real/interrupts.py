"""Section 5 of the contract: every outcome of an interrupt, rights, exactly one end, and the states that subscribers receive."""

import json
import threading
import time

from daemon import Hub
from harness import case, in_time, run_cases, same
from ws_client import Silence


def start(worker, operation, channel="jobs", **more):
    answer = worker.ask({"action": "operation_start", "operation_id": operation, "channel": channel, **more}, f"start-{operation}")
    same(answer["type"], "ok", f"starting {operation}: {answer}")


def end(worker, operation, state="completed", **more):
    return worker.ask({"action": "operation_end", "operation_id": operation, "state": state, **more}, f"end-{operation}")


def press(wire, operation, mark="stop", **more):
    wire.send({"action": "interrupt", "id": mark, "data": {"operation_id": operation}, **more})
    return wire.receive("interrupt_result", id=mark)


def states(frames, operation):
    return [f["state"] for f in frames if f["type"] == "operation" and f["operation_id"] == operation]


@case("an interrupt reaches the owner; subscribers see one end")
def delivered(hub):
    with hub.worker() as worker, hub.subscriber("jobs", user="ann") as ann, hub.subscriber("jobs", user="bob") as bob:
        start(worker, "d1", user_id="ann", label="a long job")
        for wire in (ann, bob):
            got = wire.receive("operation")
            same((got["operation_id"], got["channel"], got["state"], got.get("label")), ("d1", "jobs", "started", "a long job"))
        began = time.monotonic()
        ann.send({"action": "interrupt", "id": "stop", "data": {"operation_id": "d1"}, "reason": "enough"})
        line = worker.receive("interrupt")
        took = time.monotonic() - began
        same((line["operation_id"], line["channel"], line["user_id"], line["from"], line["reason"]), ("d1", "jobs", "ann", ann.id, "enough"))
        assert line["message_id"] and line["timestamp"].endswith("Z"), line
        result = ann.receive("interrupt_result")
        same((result["id"], result["operation_id"], result["outcome"]), ("stop", "d1", "delivered"))
        same(end(worker, "d1", "interrupted", data={"status": 130})["type"], "ok")
        came = bob.until_pong()
        same(states(came, "d1"), ["interrupting", "ended"])
        interrupting, ended = [f for f in came if f["type"] == "operation"]
        assert interrupting.get("by"), f"who pressed it: {interrupting}"
        same((ended["reason"], ended.get("data")), ("interrupted", {"status": 130}))
        simple = [f for f in came if f["type"] == "message" and f["event"] == "system:interrupt"]
        same([(f["data"], f["from"], f["user_id"]) for f in simple], [({"operation_id": "d1"}, ann.id, "ann")], "for handlers that listen the simple way")
        same(end(worker, "d1")["type"], "error", "a second end")
        same(states(bob.until_pong(), "d1"), [])
    return in_time("button to worker", took, 0.01)


@case("a repeated interrupt is harmless: one interrupting, one end")
def repeated(hub):
    with hub.worker() as worker, hub.subscriber("jobs", user="ann") as ann:
        start(worker, "r1", user_id="ann")
        for n in range(3):
            same(press(ann, "r1", f"s{n}")["outcome"], "delivered")
        end(worker, "r1", "interrupted")
        ended = ann.receive("operation", state="ended")
        same(ended["reason"], "interrupted")
        same(press(ann, "r1", "after")["outcome"], "already_ended")


@case("already_ended; a late subscriber gets the end, unsubscribed")
def already_ended(hub):
    with hub.worker() as worker, hub.connect("ann") as ann:
        start(worker, "e1", user_id="ann")
        same(end(worker, "e1", "failed")["type"], "ok")
        result = press(ann, "e1")
        same((result["outcome"], result["operation_id"]), ("already_ended", "e1"))
        ann.send({"action": "subscribe", "channel": "operation:e1"})
        came = ann.until_pong()
        states_received = [f for f in came if f["type"] == "operation"]
        same([(f["state"], f.get("reason")) for f in states_received], [("ended", "failed")])
        same([f["reason"] for f in came if f["type"] == "unsubscribed"], ["ended"])


@case("an unknown operation is pending, after 10 s no_owner")
def no_owner(hub):
    with hub.connect("ann") as ann:
        result = press(ann, "nobody", "n1")
        same(result["outcome"], "pending")
        began = time.monotonic()
        second = ann.receive("interrupt_result", within=14)
        took = time.monotonic() - began
        same((second["id"], second["outcome"], second["operation_id"]), ("n1", "no_owner", "nobody"))
    assert 9 < took < 12, f"after {took:.1f} s"
    return f"no_owner after {took:.2f} s"


@case("an early interrupt is pending, delivered at registration")
def before_the_start(hub):
    with hub.worker() as worker, hub.subscriber("jobs", user="ann") as ann:
        same(press(ann, "early")["outcome"], "pending")
        began = time.monotonic()
        worker.send({"action": "operation_start", "operation_id": "early", "channel": "jobs", "user_id": "ann", "id": "s"})
        line = worker.receive("interrupt")
        took = time.monotonic() - began
        same(line["operation_id"], "early")
        came = []
        while not any(f["type"] == "interrupt_result" for f in came):
            came.append(ann.next())
        same([(f["id"], f["outcome"]) for f in came if f["type"] == "interrupt_result"], [("stop", "delivered")])
        end(worker, "early", "interrupted")
        came += ann.until_pong()
        same(states(came, "early"), ["started", "interrupting", "ended"])
    return in_time("registration to worker", took, 0.01)


@case("an early interrupt with a channel is published to listeners")
def listeners(hub):
    with hub.worker() as worker, hub.connect("ann") as ann:
        worker.ask({"action": "subscribe", "channel": "simple"})
        same(press(ann, "loose", channel="simple")["outcome"], "pending")
        line = worker.receive("message")
        same((line["channel"], line["event"], line["data"], line["from"], line["user_id"]), ("simple", "system:interrupt", {"operation_id": "loose"}, ann.id, "ann"))


@case("a wrong channel is unknown_operation")
def wrong_channel(hub):
    with hub.worker() as worker, hub.connect("ann") as ann:
        start(worker, "wc", user_id="ann")
        answer = ann.ask({"action": "interrupt", "data": {"operation_id": "wc"}, "channel": "other"})
        same((answer["type"], answer.get("code")), ("error", "unknown_operation"))
        answer = ann.ask({"action": "interrupt", "data": {"operation_id": "wc"}, "channel": "jobs"}, "q2")
        same(answer.get("outcome"), "delivered")


@case("interrupt rights: the user, matching patterns, nobody else")
def who_may(hub):
    with hub.worker() as worker, hub.connect("ann") as ann, hub.connect("bob") as bob, \
            hub.connect(token=hub.token("boss", wshub={"interrupt": ["jobs*"]})) as boss, \
            hub.connect(token=hub.token("mute", wshub={"subscribe": ["*"]})) as mute:
        start(worker, "w1", user_id="ann")
        for wire in (bob, mute):
            answer = wire.ask({"action": "interrupt", "data": {"operation_id": "w1"}})
            same((answer["type"], answer.get("code")), ("error", "forbidden"))
            assert "interrupt" in answer["message"], f"the message names the right: {answer}"
        try:
            raise AssertionError(f"the worker heard {worker.next(0.3)} of somebody who may not")
        except Silence:
            pass
        same(press(boss, "w1")["outcome"], "delivered")
        same(press(ann, "w1")["outcome"], "delivered")
        start(worker, "w2")
        same(mute.ask({"action": "interrupt", "data": {"operation_id": "w2"}}).get("code"), "forbidden", "without a user: who may not publish")
        same(press(bob, "w2")["outcome"], "delivered")


@case("rights of a pending interrupt are checked at registration")
def pending_without_right(hub):
    with hub.worker() as worker, hub.connect("bob") as bob:
        same(press(bob, "private")["outcome"], "pending")
        start(worker, "private", user_id="ann")
        same(bob.receive("interrupt_result", within=12)["outcome"], "no_owner")
        try:
            raise AssertionError(f"the worker heard {worker.next(0.3)}")
        except Silence:
            pass


@case("two users interrupt at once: both delivered, one end")
def two_at_once(hub):
    with hub.worker() as worker, hub.subscriber("jobs", user="ann") as ann, hub.subscriber("jobs", user="bob") as bob:
        for n in range(4):  # within the bucket of interrupts
            operation = f"two{n}"
            start(worker, operation)
            request = {"action": "interrupt", "id": operation, "data": {"operation_id": operation}}
            pressed = [threading.Thread(target=wire.send, args=(request,)) for wire in (ann, bob)]
            for thread in pressed:
                thread.start()
            for thread in pressed:
                thread.join()
            came = [[], []]
            for wire, received in zip((ann, bob), came):
                while not any(f["type"] == "interrupt_result" for f in received):
                    received.append(wire.next())
                same([f["outcome"] for f in received if f["type"] == "interrupt_result"], ["delivered"])
            end(worker, operation, "interrupted")
            for wire, received in zip((ann, bob), came):
                same(states(received + wire.until_pong(), operation), ["started", "interrupting", "ended"])


@case("a dead worker ends its operations with owner_lost at once")
def owner_lost(hub):
    with hub.subscriber("jobs", user="ann") as ann:
        worker = hub.worker()
        start(worker, "lost1", user_id="ann")
        start(worker, "lost2")
        began = time.monotonic()
        worker.close()
        got = {f["operation_id"]: f["reason"] for f in (ann.receive("operation", state="ended") for _ in range(2))}
        took = time.monotonic() - began
        same(got, {"lost1": "owner_lost", "lost2": "owner_lost"})
        same(press(ann, "lost1")["outcome"], "already_ended")
    return in_time("death to ended", took, 0.02)


@case("an owner that exceeds its grace is ended with timeout, once")
def timeout(hub):
    with hub.worker() as worker, hub.subscriber("jobs", user="ann") as ann:
        start(worker, "slow", user_id="ann", interrupt_grace=1)
        same(press(ann, "slow")["outcome"], "delivered")
        began = time.monotonic()
        got = ann.receive("operation", state="ended")
        took = time.monotonic() - began
        same(got["reason"], "timeout")
        end(worker, "slow")
        same(states(ann.until_pong(), "slow"), [])
    assert 0.8 < took < 2.5, f"after {took:.1f} s"
    return f"after {took:.2f} s with a grace of 1 s"


@case("an operation past its deadline is interrupted as that")
def deadline(hub):
    with hub.worker() as worker, hub.subscriber("jobs", user="ann") as ann:
        start(worker, "due", deadline=1)
        line = worker.receive("interrupt")
        same((line["operation_id"], line.get("reason")), ("due", "deadline"))
        ann.receive("operation", state="interrupting")
        end(worker, "due", "interrupted")
        same(ann.receive("operation", state="ended")["reason"], "interrupted")


@case("an interrupt overtakes thousands of queued messages")
def behind_a_queue(hub):
    with hub.worker() as worker, hub.worker() as flood, hub.connect("ann") as ann:
        same(worker.ask({"action": "subscribe", "channel": "noise"})["type"], "ok")
        start(worker, "busy", user_id="ann")
        flood.sock.settimeout(60)
        pad = "x" * 200
        for n in range(50):
            flood.send(b"".join(json.dumps({"channel": "noise", "event": "e", "data": [n, pad]}).encode() + b"\n" for _ in range(100)))
        flood.ask({"channel": "noise", "event": "e", "data": "end"})
        began = time.monotonic()
        same(press(ann, "busy")["outcome"], "delivered")
        before = 0
        while True:
            line = worker.next()
            if line["type"] == "interrupt":
                break
            before += 1
        took = time.monotonic() - began
        assert before < 5000, "all the queue came before the interrupt"
        end(worker, "busy", "interrupted")
    return in_time(f"after {before} lines that were in the socket already,", took, 0.1)


@case("an owner that does not read gets its interrupt first")
def owner_does_not_read(_):
    with Hub(LIMITS__STALL_TIMEOUT="2s") as hub, hub.worker() as worker, hub.worker() as flood, hub.subscriber("jobs", user="ann") as ann:
        worker.ask({"action": "subscribe", "channel": "noise2"})
        start(worker, "deaf", user_id="ann")
        flood.sock.settimeout(60)
        pad = "x" * 400
        for n in range(200):
            flood.send(b"".join(json.dumps({"channel": "noise2", "event": "e", "data": [n, pad]}).encode() + b"\n" for _ in range(100)))
        flood.ask({"channel": "noise2", "event": "e"})
        same(press(ann, "deaf")["outcome"], "delivered")
        time.sleep(4)  # longer than the time after which a peer that takes no byte is closed
        ann.until_pong()
        lines = []
        while not lines or lines[-1]["type"] != "interrupt":
            line = worker.next()
            assert line is not None, f"the owner was closed after {len(lines)} lines"
            lines.append(line)
        same(end(worker, "deaf", "interrupted")["type"], "ok")
        same(ann.receive("operation", state="ended")["reason"], "interrupted")
    return f"{len(lines) - 1} lines were in the socket before it"


@case("a worker that reads late gets one gap for what it lost")
def one_gap(hub):
    with hub.worker() as worker, hub.worker() as flood:
        worker.ask({"action": "subscribe", "channel": "noise3"})
        start(worker, "late")
        flood.sock.settimeout(60)
        pad = "x" * 400
        for n in range(100):
            flood.send(b"".join(json.dumps({"channel": "noise3", "event": "e", "data": [n * 100 + k, pad]}).encode() + b"\n" for k in range(100)))
        flood.ask({"channel": "noise3", "event": "e", "data": [10_000, pad]})
        worker.send({"action": "operation_end", "operation_id": "late", "state": "completed", "id": "fin"})
        received, gaps = 0, []
        while True:
            line = worker.next()
            if line["type"] == "message":
                received += 1
            elif line["type"] == "gap":
                gaps.append(line)
            elif line.get("id") == "fin" and received + sum(g["lost"] for g in gaps) >= 10_001:
                break
            elif line.get("id") == "fin":
                flood.ask({"channel": "noise3", "event": "last", "data": [10_001, ""]})
                while received + sum(g["lost"] for g in gaps) < 10_002:
                    line = worker.next()
                    received += line["type"] == "message"
                    gaps += [line] if line["type"] == "gap" else []
                break
        same(len(gaps), 1, "gaps")
        same(gaps[0]["channel"], "noise3")
        assert gaps[0]["cause"] in ("slow", "evicted"), gaps
    return f"{received} heard, {gaps[0]['lost']} told as lost"


@case("each state is received once; only the owner publishes")
def both_channels(hub):
    with hub.worker() as worker, hub.worker() as other, hub.connect("ann") as ann, hub.connect("eve") as eve:
        start(worker, "both", user_id="ann", label="L")
        for channel in ("jobs", "operation:both"):
            ann.send({"action": "subscribe", "channel": channel})
        came = ann.until_pong()
        succeeded = {f["channel"]: f for f in came if f["type"] == "subscription_succeeded"}
        same(set(succeeded), {"jobs", "operation:both"})
        assert "both" in json.dumps(succeeded["jobs"].get("operations")), f"jobs lists what runs on it: {succeeded['jobs']}"
        same(states(came, "both"), ["started"], "a new subscriber of operation:<id> is told its state first")
        same(worker.ask({"channel": "operation:both", "event": "out", "data": 1})["sent"], 1)
        same(ann.receive("message")["data"], 1)
        same(other.ask({"channel": "operation:both", "event": "out"})["type"], "error", "another worker")
        same(eve.ask({"action": "send", "channel": "operation:both", "event": "out"})["type"], "error", "a client")
        same(hub.post("/broadcast", {"channel": "operation:both", "event": "out"}).status in (400, 403, 404), True, "HTTP")
        press(ann, "both")
        end(worker, "both", "interrupted")
        came = ann.until_pong()
        same(states(came, "both"), ["interrupting", "ended"])
        same([(f["channel"], f["reason"]) for f in came if f["type"] == "unsubscribed"], [("operation:both", "ended")])


@case("operation:<id> is open to its user and channel subscribers")
def open_to(hub):
    nothing = {"subscribe": ["other"]}
    with hub.worker() as worker, hub.connect(token=hub.token("ann", wshub=nothing)) as ann, hub.connect(token=hub.token("eve", wshub=nothing)) as eve, hub.connect("bob") as bob:
        start(worker, "open", user_id="ann")
        for wire, allowed in ((ann, True), (bob, True), (eve, False)):
            answer = wire.ask({"action": "subscribe", "channel": "operation:open"})
            same(answer["type"] == "subscription_succeeded", allowed, str(answer))
        end(worker, "open")


@case("operations lists running ones only")
def listed(hub):
    with hub.worker() as worker, hub.connect("ann") as ann:
        for name in ("l1", "l2"):
            start(worker, name, "listed", label=name.upper())
        answer = ann.ask({"action": "operations", "channel": "listed"})
        same(sorted(o["operation_id"] for o in answer["operations"]), ["l1", "l2"])
        end(worker, "l1")
        answer = ann.ask({"action": "operations", "channel": "listed"}, "q2")
        same([o["operation_id"] for o in answer["operations"]], ["l2"])


@case("a running id is conflict for others, ok for its owner")
def conflict(hub):
    with hub.worker() as worker, hub.worker() as other:
        start(worker, "mine")
        start(worker, "mine")
        answer = other.ask({"action": "operation_start", "operation_id": "mine", "channel": "jobs"})
        same((answer["type"], answer.get("code")), ("error", "conflict"))
        same(other.ask({"action": "operation_end", "operation_id": "mine", "state": "completed"})["type"], "error", "another worker ends it")
        same(end(worker, "mine")["type"], "ok")


@case("a client that disconnects interrupts nothing")
def disconnect(hub):
    with hub.worker() as worker:
        start(worker, "stays", user_id="ann")
        with hub.connect("ann"):
            pass
        try:
            raise AssertionError(f"the worker heard {worker.next(0.3)}")
        except Silence:
            pass


@case("a 17th waiting interrupt of one connection is refused")
def seventeen(_):
    with Hub(LIMITS__BURST="100") as hub, hub.connect("ann") as ann:
        outcomes = []
        for n in range(17):
            ann.send({"action": "interrupt", "id": n, "data": {"operation_id": f"p{n}"}})
            outcomes.append(ann.next())
            time.sleep(0.11)  # its own bucket's rate is not in the contract
        same([f.get("outcome") for f in outcomes[:16]], ["pending"] * 16)
        assert outcomes[16]["type"] == "error" or outcomes[16]["outcome"] == "no_owner", outcomes[16]


@case("wshubctl interrupt and operations, with exit codes")
def by_ctl(hub):
    with hub.worker() as worker:
        start(worker, "byhand", "jobs", label="by hand")
        listed = hub.ctl("operations")
        same(listed.returncode, 0, listed.stderr)
        assert "byhand" in listed.stdout, listed.stdout
        done = hub.ctl("interrupt", "byhand")
        same(done.returncode, 0, done.stderr)
        same(worker.receive("interrupt")["operation_id"], "byhand")
        end(worker, "byhand", "interrupted")
        done = hub.ctl("interrupt", "never-was")
        assert done.returncode != 0, f"an unknown operation exits with 0: {done.stdout}"


if __name__ == "__main__":
    run_cases()
