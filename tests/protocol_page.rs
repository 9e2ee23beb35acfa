//! The page on the protocol agrees with the code: every request on it is understood, and
//! every frame on it is what the hub writes.
//!
//! Examples are the blocks whose language is `json` and a second word, which
//! says who speaks.

#![expect(clippy::unwrap_used, reason = "an example that cannot be read is a failure")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use wshubd::protocol::frame::{
    ChangeEntry, ChannelEntry, ClientLimits, ConnectionEntry, GapCause, InboxEntry, InboxState, LinkEntry,
    OperationEntry, OperationState, Outcome, Present, Reloaded, RevocationEntry, TokenCheck,
};
use wshubd::protocol::worker;
use wshubd::protocol::worker::InterruptLine;
use wshubd::protocol::{
    Channel, Close, Code, ConnectionId, Delivery, EndState, Event, Frame, Message, MessageId, OperationId,
    Payload, RateLimit, Refusal, Sender, TokenId, UnixTime, UserId, client, http,
};

const PAGE: &str = include_str!("../src/protocol/PROTOCOL.md");

/// The JSON values of all examples of one speaker, in their order.
fn examples(speaker: &str) -> Vec<Box<RawValue>> {
    let fence = format!("```json {speaker}\n");
    let blocks = PAGE.split(fence.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap());
    let values = blocks.flat_map(|block| serde_json::Deserializer::from_str(block).into_iter());
    let values: Vec<Box<RawValue>> = values.map(Result::unwrap).collect();
    assert!(!values.is_empty(), "no example of {speaker}");
    values
}

#[test]
fn every_request_on_the_page_is_understood() {
    for line in examples("client") {
        client::parse(line.get()).unwrap_or_else(|wrong| panic!("{line}: {wrong:?}"));
    }
    for line in examples("worker") {
        worker::parse(line.get().as_bytes()).unwrap_or_else(|wrong| panic!("{line}: {wrong:?}"));
    }
    for body in examples("broadcast") {
        http::broadcast(body.get().as_bytes()).unwrap_or_else(|wrong| panic!("{body}: {wrong:?}"));
    }
    for body in examples("http-interrupt") {
        http::interrupt(body.get().as_bytes()).unwrap_or_else(|wrong| panic!("{body}: {wrong:?}"));
    }
}

#[test]
fn every_action_is_on_the_page() {
    let actions: BTreeSet<_> =
        examples("client").iter().map(|line| client::parse(line.get()).unwrap().request.action()).collect();
    let known = [
        "ack",
        "auth",
        "channels",
        "connections",
        "disconnect",
        "inbox",
        "interrupt",
        "operations",
        "ping",
        "presence",
        "purge",
        "send",
        "stats",
        "subscribe",
        "unsubscribe",
        "whisper",
    ];
    assert_eq!(actions, BTreeSet::from(known));
}

#[test]
fn every_error_and_close_code_is_on_the_page() {
    let codes = [
        Code::BadJson,
        Code::BadRequest,
        Code::UnknownAction,
        Code::AuthRequired,
        Code::Forbidden,
        Code::NotSubscribed,
        Code::UnknownConnection,
        Code::UnknownOperation,
        Code::Conflict,
        Code::RateLimited,
        Code::TooLarge,
        Code::TooManySubscriptions,
        Code::TooManyRevocations,
        Code::StoreUnavailable,
        Code::BadConfiguration,
        Code::ShuttingDown,
        Code::Internal,
    ];
    for code in codes {
        assert!(PAGE.contains(&format!("\n| `{}` |", code.word())), "{code:?}");
    }
    let closes = [
        Close::Unauthenticated,
        Close::Disconnected,
        Close::TooManyConnections,
        Close::TooManyErrors,
        Close::ShuttingDown,
        Close::Overloaded,
        Close::TooFast,
        Close::Restarting,
        Close::TooSlow,
        Close::NoPong,
        Close::TokenExpired,
    ];
    for close in closes {
        assert!(PAGE.contains(&format!("\n| {} |", close.code())), "{close:?}");
    }
}

#[test]
fn every_frame_on_the_page_is_what_the_hub_writes() {
    let shown: Vec<Value> =
        examples("server").iter().map(|frame| serde_json::from_str(frame.get()).unwrap()).collect();
    let mut written = Vec::new();
    for frame in frames() {
        written.push(match frame {
            Spoken::Frame(frame, id) => encoded(|to| frame.encode(id.map(request_id).as_ref(), to)),
            Spoken::Message(message) => encoded(|to| message.encode(Delivery::Live, to)),
        });
    }
    for (shown, written) in shown.iter().zip(&written) {
        assert_eq!(shown, written);
    }
    assert_eq!(shown.len(), written.len());
}

#[test]
fn every_line_to_a_worker_on_the_page_is_what_the_hub_writes() {
    let shown: Vec<Value> =
        examples("line").iter().map(|line| serde_json::from_str(line.get()).unwrap()).collect();
    let refusal = Refusal::new(Code::BadRequest, "`event` is missing").of("publish").on(&channel("logs"));
    let answer = |frame: &Frame<'_>, id| {
        encoded(|to| assert!(worker::encode(frame, Some(&request_id(id)), to), "nothing is said"))
    };
    let interrupt = InterruptLine {
        operation_id: operation_id(),
        channel: channel("logs"),
        user_id: Some(user("ada")),
        from: sender(),
        reason: Some("wrong branch".into()),
        message_id: MessageId::new("5n0d3r8y6b2xq").unwrap(),
        timestamp: at(9, 0),
    };
    let token = Frame::Token {
        token: "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyX2lkIjoiYWRhIn0.c2ln",
        user_id: user("ada"),
        expires_at: at(3600, 0),
    };
    let data = r#"{"state": "kept", "message_id": "note-77", "event": "note", "user_id": "grace",
        "epoch": "3c8w5hn1tj0zr", "seq": 12}"#;
    let undelivered = own(Channel::undelivered(), Event::undelivered(), data, "0p4s8d1g5j9yt", at(2, 0), 3);
    let mut written = vec![
        answer(&send_success(), 1),
        answer(&Frame::from(&refusal), 1),
        encoded(|to| interrupt.encode(to)),
        answer(&token, 10),
    ];
    written.extend((11..).zip(lists()).map(|(id, list)| answer(&list, id)));
    let check = TokenCheck {
        code: Some("token_expired"),
        message: Some("the token ended at 2026-03-01T11:00:00.000Z, 1h ago".into()),
        ..TokenCheck::default()
    };
    written.push(answer(&Frame::TokenCheck(Box::new(check)), 16));
    let burst = ChangeEntry::Setting { setting: "limits.burst".into(), from: "20".into(), to: "50".into() };
    let changed = vec![burst, ChangeEntry::File { file: "/etc/wshubd/jwt.key".into() }];
    written.push(answer(&Frame::Reloaded(Reloaded { changed, warnings: Vec::new() }), 17));
    written.push(answer(&Frame::Revoked { disconnected: 1, revoked_at: at(0, 0), ahead: 0 }, 18));
    let revocation = RevocationEntry {
        user_id: Some(user("ada")),
        jti: None,
        revoked_at: at(0, 0),
        until: Some(at(30 * 86_400, 0)),
    };
    written.push(answer(&Frame::Revocations { revocations: vec![revocation], next: None }, 19));
    written.push(answer(&Frame::Lifted { lifted: true }, 20));
    written.push(encoded(|to| undelivered.encode(Delivery::Live, to)));
    assert_eq!(shown, written);
}

/// What administrators are shown: connections, channels, an inbox.
fn lists() -> [Frame<'static>; 3] {
    let connection = ConnectionEntry {
        connection_id: ConnectionId::parse(CONNECTION).unwrap(),
        kind: "client",
        user_id: Some(user("ada")),
        uid: None,
        link: LinkEntry { address: Some("192.0.2.7:50312".into()), ..LinkEntry::default() },
        connected_at: at(0, 0),
        heard_at: at(9, 0),
        expires_at: Some(at(3600, 0)),
        jti: Some(TokenId::new("9f3b1c07d2e8a465").unwrap()),
        subscriptions: 2,
        operations: 0,
        stalled: None,
        missed: 0,
    };
    let channel = ChannelEntry {
        channel: channel("logs"),
        subscribers: 1,
        behind: 0,
        epoch: epoch(),
        seq: 42,
        keep: "undelivered",
        kept: 1,
        bytes: 190,
        oldest_at: Some(at(1, 250)),
    };
    let inbox = InboxEntry {
        user_id: user("ada"),
        connections: 0,
        epoch: Some(epoch()),
        seq: 42,
        waiting: 1,
        bytes: 190,
        oldest_at: Some(at(1, 250)),
    };
    [
        Frame::Connections { connections: vec![connection], next: None },
        Frame::Channels { channels: vec![channel], next: None },
        Frame::Inbox(Box::new(inbox)),
    ]
}

enum Spoken {
    Frame(Box<Frame<'static>>, Option<u64>),
    Message(Box<Message>),
}

fn encoded(write: impl FnOnce(&mut Vec<u8>)) -> Value {
    let mut bytes = Vec::new();
    write(&mut bytes);
    serde_json::from_slice(&bytes).unwrap()
}

/// An id as it comes with a request.
fn request_id(id: u64) -> wshubd::protocol::RequestId {
    client::parse(&format!(r#"{{"action":"ping","id":{id}}}"#)).unwrap().id.unwrap()
}

fn channel(name: &str) -> Channel {
    Channel::addressed(name).unwrap()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn operation_id() -> OperationId {
    OperationId::new("build-42").unwrap()
}

const CONNECTION: &str = "00000000v2q8pj5d4x1c";

fn sender() -> Sender {
    Sender::Connection(ConnectionId::parse(CONNECTION).unwrap())
}

/// So many seconds and milliseconds after noon on the day of the examples.
fn at(seconds: u64, millis: u64) -> UnixTime {
    UnixTime((1_772_366_400 + seconds) * 1000 + millis)
}

fn json(text: &str) -> Payload {
    Payload::new(RawValue::from_string(text.to_owned()).unwrap())
}

fn epoch() -> String {
    "8dz0k2vy3m1qp".into()
}

fn inbox_epoch() -> String {
    "3c8w5hn1tj0zr".into()
}

fn send_success() -> Frame<'static> {
    Frame::SendSuccess {
        channel: Some(channel("logs")),
        connection_id: None,
        user_id: None,
        sent: 3,
        failed: 0,
        kept: false,
        stored: false,
        message_id: MessageId::new("2x7k0c9w1f5tz").unwrap(),
        duplicate: false,
        partial: false,
    }
}

fn ada() -> Present {
    Present { user_id: user("ada"), connections: 2, info: Some(json(r#"{"name":"Ada"}"#)) }
}

fn limits(requests_per_second: RateLimit) -> ClientLimits {
    ClientLimits {
        message_bytes: 512 << 10,
        requests_per_second,
        burst: requests_per_second.burst(),
        subscriptions: 128,
    }
}

fn operation(state: OperationState, reason: Option<EndState>, data: Option<Payload>) -> Frame<'static> {
    Frame::Operation {
        operation_id: operation_id(),
        channel: channel("logs"),
        state,
        reason,
        label: Some("nightly build".into()),
        by: Some("ada".into()),
        data,
    }
}

fn message(event: &str, data: &str, id: &str, timestamp: UnixTime, seq: Option<u64>) -> Spoken {
    Spoken::Message(Box::new(Message {
        channel: Some(channel("logs")),
        event: Event::new(event).unwrap(),
        data: json(data),
        from: sender(),
        user_id: Some(user("ada")),
        message_id: MessageId::new(id).unwrap(),
        timestamp,
        seq,
    }))
}

fn receipt() -> Message {
    let data = r#"{"message_id": "note-77", "user_id": "grace", "state": "delivered"}"#;
    own(Channel::inbox(), Event::receipt(), data, "7m2f9a4v0k6xe", at(5, 0), 13)
}

/// What the hub itself says.
fn own(channel: Channel, event: Event, data: &str, id: &str, timestamp: UnixTime, seq: u64) -> Message {
    Message {
        channel: Some(channel),
        event,
        data: json(data),
        from: Sender::Hub,
        user_id: None,
        message_id: MessageId::new(id).unwrap(),
        timestamp,
        seq: Some(seq),
    }
}

/// All that the page shows of what a client hears, in the page's order.
fn frames() -> Vec<Spoken> {
    let mut frames: Vec<Spoken> = Vec::new();
    for (frame, id) in greetings().into_iter().chain(subscriptions()) {
        frames.push(Spoken::Frame(Box::new(frame), id));
    }
    frames.push(message("log", r#"{"line": "hello"}"#, "2x7k0c9w1f5tz", at(1, 250), Some(42)));
    for (frame, id) in answers().into_iter().chain(errors()) {
        frames.push(Spoken::Frame(Box::new(frame), id));
    }
    frames.push(Spoken::Message(Box::new(receipt())));
    let data = r#"{"operation_id": "build-42"}"#;
    frames.push(message("system:interrupt", data, "5n0d3r8y6b2xq", at(9, 0), None));
    frames
}

type Answer = (Frame<'static>, Option<u64>);

fn greetings() -> Vec<Answer> {
    let expires_at = at(3600, 0);
    let established = Frame::ConnectionEstablished {
        connection_id: CONNECTION.into(),
        user_id: Some(user("ada")),
        protocol: wshubd::protocol::VERSION,
        server_time: at(0, 0),
        ping_interval: Duration::from_secs(54),
        pong_timeout: Duration::from_secs(60),
        limits: limits(RateLimit::new(10, 20)),
        expires_at: Some(expires_at),
        inbox: Some(InboxState { epoch: inbox_epoch(), seq: 12, waiting: 2 }),
    };
    let inbox = Some(InboxState { epoch: inbox_epoch(), seq: 12, waiting: 2 });
    let failed = Frame::AuthFailed {
        code: "token_expired",
        message: "the token ended at 2026-03-01T11:00:00.000Z".into(),
    };
    vec![
        (established, None),
        (Frame::ConnectionId { connection_id: CONNECTION.into() }, None),
        (Frame::AuthRequired, None),
        (
            Frame::AuthSuccess {
                user_id: user("ada"),
                expires_at: Some(expires_at),
                limits: limits(RateLimit::new(200, 1000)),
                inbox,
            },
            None,
        ),
        (failed, None),
        (Frame::TokenExpiring { expires_at }, None),
    ]
}

fn subscriptions() -> Vec<Answer> {
    let succeeded = Frame::SubscriptionSucceeded {
        channel: channel("room:7"),
        epoch: epoch(),
        seq: 41,
        after_seq: 38,
        recovered: Some(true),
        presence: Some(vec![ada()]),
        operations: Vec::new(),
        operations_running: None,
    };
    vec![
        (succeeded, Some(1)),
        (Frame::UnsubscribeSucceeded { channel: channel("logs") }, Some(3)),
        (Frame::Unsubscribed { channel: channel("operation:build-42"), reason: "ended" }, None),
    ]
}

fn gap(missing: Option<(u64, u64, u64)>, cause: GapCause) -> Frame<'static> {
    Frame::Gap {
        channel: channel("logs"),
        epoch: epoch(),
        from_seq: missing.map(|(from, _, _)| from),
        to_seq: missing.map(|(_, to, _)| to),
        lost: missing.map(|(_, _, lost)| lost),
        cause,
    }
}

fn answers() -> Vec<Answer> {
    let result = Frame::InterruptResult {
        operation_id: operation_id(),
        channel: Some(channel("logs")),
        outcome: Outcome::Delivered,
    };
    let ended =
        operation(OperationState::Ended, Some(EndState::Interrupted), Some(json(r#"{"exit_code": 130}"#)));
    let entry = OperationEntry {
        operation_id: operation_id(),
        channel: channel("logs"),
        state: OperationState::Started,
        user_id: Some(user("ada")),
        label: Some("nightly build".into()),
        started_at: at(0, 0),
    };
    let room = || channel("room:7");
    vec![
        (gap(Some((43, 97, 55)), GapCause::Slow), None),
        (gap(None, GapCause::Epoch), None),
        (send_success(), Some(4)),
        (result, Some(5)),
        (operation(OperationState::Interrupting, None, None), None),
        (ended, None),
        (
            Frame::Operations {
                channel: Some(channel("logs")),
                operations: vec![entry],
                operations_running: None,
                next: None,
            },
            Some(6),
        ),
        (Frame::Presence { channel: room(), presence: Some(vec![ada()]), count: 1 }, Some(7)),
        (Frame::UserJoined { channel: room(), user_id: user("grace"), info: None }, None),
        (Frame::UserLeft { channel: room(), user_id: user("grace") }, None),
        (Frame::Pong { server_time: at(5, 0) }, Some(8)),
    ]
}

fn errors() -> Vec<Answer> {
    let payroll = channel("payroll");
    let error = |code: Code, message, action, channel, retry_after| Frame::Error {
        code: code.word(),
        message,
        action: Some(action),
        channel,
        retry_after,
    };
    // The frame borrows what it names, for as long as the test runs.
    let payroll: &'static Channel = Box::leak(Box::new(payroll));
    let close = Close::ShuttingDown;
    vec![
        (
            error(
                Code::Forbidden,
                "the right to subscribe to payroll is missing",
                "subscribe",
                Some(payroll),
                None,
            ),
            Some(9),
        ),
        (error(Code::RateLimited, "too many requests", "send", None, Some(Duration::from_millis(100))), None),
        (Frame::Bye { code: close.code(), reason: close.reason(), reconnect: true, after_ms: 3120 }, None),
    ]
}
