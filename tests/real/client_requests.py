"""Every request a client may make, with every field missing, of the wrong type, too long, doubled, and unknown.

A table of the contract, section 2: for each action one whole request and the rules of its fields. The cases are generated
from the table. Each runs on a connection of its own, so that no error budget and no bucket is shared.
"""

import json

from daemon import Hub
from harness import case, run_cases, same

LONG = "x" * 129  # one byte over what a name, an id or an event may have

# Kinds of fields: what is of the wrong type for each, as JSON text.
WRONG = {
    "text": ["7", "true", "[]", "{}"],
    # A whole number is its digits.
    "id": ["7.5", "true", "[]", "{}"],
    "flag": ["1", '"yes"', "[]", "{}"],
    "number": ['"soon"', "true", "[]", "{}"],
    "object": ["7", '"x"', "true", "[]"],
    "list": ["7", '"x"', "true", "{}"],
}


class Action:
    def __init__(self, whole, fields, required=(), subscribed=False, answers=None, admin=False):
        """`fields`: name -> kind, or kind! where it is a name or id and may be too long."""
        self.whole, self.fields, self.required = whole, fields, required
        self.subscribed, self.answers, self.admin = subscribed, answers, admin


ACTIONS = {
    "subscribe": Action({"channel": "logs"},
                        {"channel": "text!", "since": "object", "presence": "flag"}, ["channel"],
                        answers="subscription_succeeded"),
    "unsubscribe": Action({"channel": "logs"}, {"channel": "text!"}, ["channel"], answers="unsubscribe_succeeded"),
    "send": Action({"channel": "logs", "event": "line", "data": {"n": 1}},
                   {"channel": "text!", "event": "text!", "ttl": "number", "durable": "flag", "echo": "flag",
                    "message_id": "id!", "receipt": "flag"}, ["channel", "event"], answers="send_success"),
    "whisper": Action({"channel": "logs", "event": "typing", "data": None},
                      {"channel": "text!", "event": "text!"}, ["channel", "event"], subscribed=True),
    "interrupt": Action({"data": {"operation_id": "op-1"}},
                        {"data": "object", "channel": "text!", "reason": "text"}, ["data"]),
    "operations": Action({"channel": "logs"}, {"channel": "text!"}, answers="operations", admin=True),
    "presence": Action({"channel": "logs"}, {"channel": "text!"}, ["channel"], answers="presence"),
    "ack": Action({"epoch": "e", "seq": 1}, {"epoch": "text", "seq": "number", "read": "flag"}, ["epoch", "seq"]),
    "auth": Action({"token": "{token}"}, {"token": "text"}, ["token"], answers="auth_success"),
    "ping": Action({}, {}, answers="pong"),
    "stats": Action({}, {}, answers="stats", admin=True),
    "connections": Action({}, {"after": "text"}, answers="connections", admin=True),
    "channels": Action({}, {"after": "text"}, answers="channels", admin=True),
    "inbox": Action({}, {"user_id": "id!", "after": "text"}, answers="inboxes", admin=True),
    "purge": Action({"channel": "logs"}, {"channel": "text!"}, ["channel"], answers="purged", admin=True),
    "disconnect": Action({"user_id": "nobody"}, {"user_id": "id!", "revoke": "flag"}, ["user_id"], answers="disconnected", admin=True),
}


def connection(hub, action):
    rights = {"wshub": {"subscribe": ["*"], "publish": ["*"], "admin": True}} if action.admin else {}
    wire = hub.connect(token=hub.token("ann", **rights))
    if action.subscribed:
        wire.send({"action": "subscribe", "channel": "logs"})
        wire.receive("subscription_succeeded")
    return wire


def request(hub, name, without=None, **replaced):
    """The request as JSON text; replacements are JSON text themselves."""
    whole = {"action": name, "id": "q1", **ACTIONS[name].whole}
    if whole.get("token"):
        whole["token"] = hub.token("ann")
    pairs = {k: json.dumps(v) for k, v in whole.items() if k != without}
    pairs.update(replaced)
    return "{" + ",".join(f"{json.dumps(k)}:{v}" for k, v in pairs.items()) + "}"


def answered(wire, text):
    """The one answer with our id."""
    wire.send(text)
    came = wire.until_pong()
    ours = [frame for frame in came if frame.get("id") == "q1"]
    assert len(ours) == 1, f"{text} got {len(ours)} answers with its id: {came}"
    return ours[0]


def refused(wire, text, *codes, names=None):
    answer = answered(wire, text)
    same(answer["type"], "error", text)
    assert answer["code"] in codes, f"{text}: code {answer['code']!r} ({answer.get('message')!r}), the contract says {' or '.join(codes)}"
    assert isinstance(answer.get("message"), str) and answer["message"], f"{text}: an error without a message"
    if names:
        assert names in answer["message"], f"{text}: the message {answer['message']!r} does not name {names}"
    return answer


def whole_case(name, action):
    def check(hub):
        with connection(hub, action) as wire:
            text = request(hub, name, **({"data": '{"operation_id":"nobody"}'} if name == "interrupt" else {}))
            wire.send(text)
            came = wire.until_pong()
            ours = [f for f in came if f.get("id") == "q1"]
            if name == "interrupt":
                same([f["type"] for f in ours], ["interrupt_result"])
                return
            same([f["type"] for f in ours], [action.answers] if action.answers else [], text)
            # A number is an id too, and comes back as a number.
            if action.answers:
                wire.send(request(hub, name, id="41"))
                assert any(f.get("id") == 41 and isinstance(f["id"], int) for f in wire.until_pong()), "a number as id is not echoed"
    return check


def missing_case(name, field):
    def check(hub):
        with connection(hub, ACTIONS[name]) as wire:
            for text in (request(hub, name, without=field), request(hub, name, **{field: "null"})):
                # `data` of an interrupt is a wrapper: naming its field is as clear.
                answer = refused(wire, text, "bad_request", names="operation_id" if name == "interrupt" else field)
                same(answer.get("action"), name, "the action in the error")
    return check


def wrong_case(name, field, kind):
    def check(hub):
        with connection(hub, ACTIONS[name]) as wire:
            for value in WRONG[kind]:
                refused(wire, request(hub, name, **{field: value}), "bad_request", names=field)
        return f"{len(WRONG[kind])} types"
    return check


def long_case(name, field):
    def check(hub):
        with connection(hub, ACTIONS[name]) as wire:
            refused(wire, request(hub, name, **{field: json.dumps(LONG)}), "too_large")
            # 128 bytes are allowed, whatever the answer is then.
            answer = [f for f in (wire.send(request(hub, name, **{field: json.dumps(LONG[:128])})), wire.until_pong())[1] if f.get("id") == "q1"]
            assert not any(f.get("code") in ("too_large", "bad_request") for f in answer), f"128 bytes were refused: {answer}"
            # Bytes, not characters.
            refused(wire, request(hub, name, **{field: json.dumps("ü" * 65, ensure_ascii=False)}), "too_large")
    return check


def doubled_case(name, field):
    def check(hub):
        with connection(hub, ACTIONS[name]) as wire:
            text = request(hub, name)[:-1] + f',{json.dumps(field)}:{json.dumps(ACTIONS[name].whole.get(field, "logs"))}}}'
            wire.send(text)
            came = wire.until_pong()
            same(len(came), 1, f"{text}: answers")
            same(came[0]["type"], "error", text)
            assert came[0]["code"] in ("bad_request", "bad_json"), came
    return check


def null_case(name, field):
    def check(hub):
        with connection(hub, ACTIONS[name]) as wire:
            wire.send(request(hub, name, **{field: "null"}))
            came = wire.until_pong()
            assert not any(f["type"] == "error" and f["code"] in ("bad_json", "bad_request") for f in came), \
                f"a page that writes {field}: null means that it is not there: {came}"
    return check


for name, action in ACTIONS.items():
    case(f"{name}: a whole request is answered with its id")(whole_case(name, action))
    for field in action.required:
        case(f"{name}: without {field} is bad_request and names it")(missing_case(name, field))
    for field, kind in action.fields.items():
        case(f"{name}: {field} of the wrong type is bad_request and named")(wrong_case(name, field, kind.rstrip("!")))
        if kind.endswith("!"):
            case(f"{name}: {field} of 129 bytes is too_large, of 128 is not")(long_case(name, field))
        if field not in action.required:
            case(f"{name}: {field} as null is the same as without it")(null_case(name, field))
    for field in action.required:
        case(f"{name}: {field} given twice is an error")(doubled_case(name, field))


@case("requests of administrators are forbidden to everybody else")
def administration(hub):
    for name in (name for name, action in ACTIONS.items() if action.admin):
        with hub.connect() as wire:
            # The operations of a channel are for those who may subscribe to it.
            refused(wire, request(hub, name, without="channel" if name == "operations" else None), "forbidden", names="administrators")
    with hub.connect() as wire:
        for name in ("token", "reload", "revocations", "lift"):
            refused(wire, f'{{"action":"{name}","user_id":"ann","id":"q1"}}', "unknown_action")


@case("an unknown field is ignored in every action")
def unknown_field(hub):
    for name, action in ACTIONS.items():
        with connection(hub, action) as wire:
            wire.send(request(hub, name, colour='"blue"', nested='{"deep":[1]}'))
            errors = [f for f in wire.until_pong() if f["type"] == "error"]
            assert not errors, f"{name}: {errors}"


@case("an unknown action is unknown_action; the connection lives")
def unknown_action(hub):
    with hub.connect() as wire:
        for value in ('"fly"', '""', '"SEND"'):
            refused(wire, f'{{"action":{value},"id":"q1"}}', "unknown_action")


@case("a missing or mistyped action is an error that names it")
def no_action(hub):
    with hub.connect() as wire:
        refused(wire, '{"id":"q1"}', "bad_request", "unknown_action")
        for value in ("7", "null", "[]"):
            refused(wire, f'{{"action":{value},"id":"q1"}}', "bad_request", "unknown_action")


@case("an id of another type, or too long, is refused")
def bad_id(hub):
    for value, codes in (("true", ["bad_request"]), ("[]", ["bad_request"]), ("{}", ["bad_request"]),
                         (json.dumps(LONG), ["too_large"])):
        with hub.connect() as wire:
            wire.send(f'{{"action":"ping","id":{value}}}')
            came = wire.until_pong()
            same([f["type"] for f in came], ["error"], f"id {value}")
            assert came[0]["code"] in codes, f"id {value}: {came[0]}"


@case("text that is not one JSON object is bad_json")
def not_json(hub):
    for text in ("", "{", "hello", "[1]", "7", '"x"', "null", '{"action":"ping"} {"action":"ping"}', '{"action":"ping",}',
                 "{'action':'ping'}", '{"action":"ping"}\x00', '\ufeff{"action":"ping"}', '{"action":"pi\nng"}'):
        with hub.connect() as wire:
            wire.send(text)
            came = wire.until_pong()
            same([(f["type"], f.get("code")) for f in came], [("error", "bad_json")], repr(text))


@case("JSON deeper than 128 is refused; data keeps its text")
def deep(hub):
    with hub.connect() as wire:
        wire.send({"action": "subscribe", "channel": "deep"})
        wire.receive("subscription_succeeded")
        nest = "[" * 120 + "]" * 120
        wire.send(f'{{"action":"send","channel":"deep","event":"e","data":{nest}}}')
        wire.receive("message")
        for depth in (200, 100_000):
            wire.send(f'{{"action":"send","channel":"deep","event":"e","data":{"[" * depth + "]" * depth}}}')
            error = wire.receive("error")
            assert error["code"] in ("bad_json", "bad_request", "too_large"), error


@case("data is forwarded as the same JSON text, big numbers too")
def data_as_it_came(hub):
    with hub.connect() as wire:
        wire.send({"action": "subscribe", "channel": "raw"})
        wire.receive("subscription_succeeded")
        for data in ("18446744073709551617", "1e400", "0.10", '"\\u00fc\\ud83d\\ude00"', '{"b":1,"a":2,"b":3}', "[1,2 ,3]", "null", '"\\u2028"'):
            wire.send(f'{{"action":"send","channel":"raw","event":"e","data":{data}}}')
            opcode, payload = wire.raw_frame()
            while b'"message"' not in payload:
                opcode, payload = wire.raw_frame()
            assert f'"data":{data}'.encode() in payload.replace(b'"data": ', b'"data":'), f"{data} became {payload!r}"
        wire.send({"action": "send", "channel": "raw", "event": "e"})
        message = wire.receive("message")
        assert "data" in message and message["data"] is None, f"missing data is null: {message}"


@case("connectionId and userId are accepted; snake_case comes out")
def camel_case(hub):
    with hub.connect("ann") as ann, hub.connect("bob") as bob:
        answer = ann.ask({"action": "send", "connectionId": bob.id, "event": "hi", "data": 1})
        same((answer["type"], answer.get("connection_id"), answer["sent"], answer["failed"]), ("send_success", bob.id, 1, 0))
        message = bob.receive("message")
        assert "channel" not in message and "seq" not in message, f"to a connection there is no channel and no seq: {message}"
        token = hub.token("eve", wshub={"publish": ["@user:bob"]})
        with hub.connect(token=token) as eve:
            answer = eve.ask({"action": "send", "userId": "bob", "event": "hi", "data": 2})
            same((answer["type"], answer.get("user_id"), answer["sent"]), ("send_success", "bob", 1))
            same(bob.receive("message")["data"], 2)
            doubled = eve.ask({"action": "send", "userId": "bob", "user_id": "bob", "event": "hi"}, "q2")
            same((doubled["type"], doubled.get("code")), ("error", "bad_request"), "both spellings at once")


@case("send needs exactly one of channel, connection_id, user_id")
def one_target(hub):
    targets = {"channel": '"logs"', "connection_id": '"c"', "user_id": '"bob"'}
    for pair in (["channel", "connection_id"], ["channel", "user_id"], ["connection_id", "user_id"], list(targets), []):
        with hub.connect() as wire:
            fields = "".join(f',"{k}":{targets[k]}' for k in pair)
            refused(wire, f'{{"action":"send","event":"e","id":"q1"{fields}}}', "bad_request")


@case("send to an absent connection is unknown_connection")
def unknown_connection(hub):
    with hub.connect() as wire:
        refused(wire, '{"action":"send","connection_id":"nobody","event":"e","id":"q1"}', "unknown_connection")


@case("invalid connection_id, user_id and ttl are bad_request")
def other_targets(hub):
    for field in ("connection_id", "user_id", "connectionId", "userId"):
        with hub.connect() as wire:
            for value in ("true", "[]", "{}", "0.5"):
                refused(wire, f'{{"action":"send","event":"e","id":"q1","{field}":{value}}}', "bad_request", names="_id")
    for value in ("-1", "-0.5"):
        with hub.connect() as wire:
            refused(wire, request(hub, "send", ttl=value), "bad_request", names="ttl")
    with hub.connect() as wire:
        refused(wire, request(hub, "send", ttl="0", durable="true"), "bad_request")


@case("whole numbers are ids by their digits, or positions with .0")
def numbers(hub):
    with hub.connect(token=hub.token("42", wshub={"publish": ["@user:*"], "subscribe": ["*"]})) as wire:
        for number in ("42", "42.0", "4.2e1"):
            wire.send(f'{{"action":"send","event":"e","user_id":{number},"message_id":7,"id":"q1"}}')
            same(wire.receive("send_success")["user_id"], "42", number)
        for seq in ("0", "0.0", "0e0"):
            wire.send(f'{{"action":"subscribe","channel":"c","since":{{"epoch":"","seq":{seq}}},"id":"q2"}}')
            answer = wire.receive("subscription_succeeded")
            same((answer["recovered"], answer["after_seq"]), (True, 0), seq)


@case("channel names: allowed, refused and reserved")
def names(hub):
    for name in ("a", "logs:thread-123", "ünïcode", "日本", "a.b/c#d", "x" * 128):
        with hub.connect() as wire:
            same(answered(wire, request(hub, "subscribe", channel=json.dumps(name)))["type"], "subscription_succeeded", name)
    for name in ("", "a b", "a*", "*", "a\tb", "a\nb", "a\x7fb", "a\u0000b", "a\u0085b"):
        with hub.connect() as wire:
            refused(wire, request(hub, "subscribe", channel=json.dumps(name)), "bad_request", names="channel")
            refused(wire, request(hub, "send", channel=json.dumps(name)), "bad_request", names="channel")
    for name in ("@user:bob", "@connection:x", "@all", "system:presence", "system:x"):
        with hub.connect() as wire:
            for action in ("subscribe", "send"):
                refused(wire, request(hub, action, channel=json.dumps(name)), "forbidden", "bad_request")
    with hub.connect() as wire:
        refused(wire, request(hub, "send", channel='"operation:x"'), "forbidden", "bad_request", "unknown_operation")
        refused(wire, request(hub, "send", event='"system:interrupt"'), "forbidden", "bad_request")
        refused(wire, request(hub, "send", event='""'), "bad_request", names="event")


@case("subscribe to a list answers each channel in order")
def many_channels(hub):
    with hub.connect() as wire:
        wire.send({"action": "subscribe", "id": "q1", "channels": [
            {"channel": "a"}, {"channel": "system:no"}, {"channel": "b", "presence": True}, {"channel": "c", "since": {"epoch": "", "seq": 0}}]})
        came = wire.until_pong()
        same([f["type"] for f in came], ["connection_id", "subscription_succeeded", "error", "subscription_succeeded", "subscription_succeeded"])
        same([f.get("channel") for f in came], [None, "a", "system:no", "b", "c"])
        same({f.get("id") for f in came[1:]}, {"q1"})
        assert "presence" in came[3] and "presence" not in came[1], came
        assert isinstance(came[4].get("recovered"), bool) and "recovered" not in came[1], came
        assert all(isinstance(f["seq"], int) and isinstance(f["epoch"], str) and 0 < len(f["epoch"]) <= 16 for f in came if f["type"] == "subscription_succeeded"), came
    for value in ("7", "{}", '"a"', "[7]"):
        with hub.connect() as wire:
            refused(wire, f'{{"action":"subscribe","id":"q1","channels":{value}}}', "bad_request", names="channel")
    with hub.connect() as wire:
        refused(wire, '{"action":"subscribe","id":"q1","channel":"a","channels":[{"channel":"b"}]}', "bad_request")


@case("since must be epoch and seq, both of their types")
def since(hub):
    for value in ('{}', '{"epoch":"e"}', '{"seq":1}', '{"epoch":1,"seq":1}', '{"epoch":"e","seq":"1"}', '{"epoch":"e","seq":-1}', '{"epoch":"e","seq":1.5}'):
        with hub.connect() as wire:
            refused(wire, request(hub, "subscribe", since=value), "bad_request")
    with hub.connect() as wire:
        answer = answered(wire, request(hub, "subscribe", since='{"epoch":"other","seq":5}'))
        same(answer.get("recovered"), False, "an epoch that never was")


@case("subscribe, unsubscribe and ping are answered again")
def repeated(hub):
    with hub.connect() as wire:
        for action, answer in (("subscribe", "subscription_succeeded"), ("unsubscribe", "unsubscribe_succeeded"), ("ping", "pong")):
            for _ in range(3):
                same(answered(wire, request(hub, action))["type"], answer)


@case("connection_id is sent once, before the first subscription")
def connection_id_once(hub):
    with hub.connect() as wire:
        wire.send({"action": "subscribe", "channel": "a"})
        wire.send({"action": "subscribe", "channel": "b"})
        came = wire.until_pong()
        same([f["type"] for f in came], ["connection_id", "subscription_succeeded", "subscription_succeeded"])
        same(came[0]["connection_id"], wire.id)


@case("answers keep the order of requests")
def order(hub):
    with hub.connect() as wire:
        actions = ["ping", "subscribe", "send", "operations", "presence", "unsubscribe", "fly", "ping"]
        for n, action in enumerate(actions):
            wire.send({"action": action, "channel": "o", "event": "e", "id": n})
        same([f["id"] for f in wire.until_pong() if "id" in f], list(range(len(actions))))


@case("interrupt: operation id missing, mistyped, empty, too long")
def interrupt_ids(hub):
    for data, code in (("{}", "bad_request"), ('{"operation_id":7.5}', "bad_request"), ('{"operation_id":null}', "bad_request"),
                       ('{"operation_id":""}', "bad_request"), ('{"operation_id":"a\\u0000"}', "bad_request"),
                       (json.dumps({"operation_id": LONG}), "too_large")):
        with hub.connect() as wire:
            refused(wire, request(hub, "interrupt", data=data), code, names="operation_id" if code == "bad_request" else None)


if __name__ == "__main__":
    # One user sends all of it, much faster than people do.
    run_cases(lambda: Hub(LIMITS__USER_REQUESTS_PER_SECOND="100000", LIMITS__USER_BURST="100000"))
