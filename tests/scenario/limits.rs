//! Limits of one peer: rates, errors, sizes, tokens.

use std::time::Duration;

use serde_json::json;
use wshubd::hub::{Credentials, Input, Peer, Rejection, Settings, Terms, TokenFault};
use wshubd::protocol;
use wshubd::protocol::{InboxMode, RateLimit, Reason};

use super::harness::{ConnectionId, Harness};

#[test]
fn a_burst_passes_and_the_rest_waits_for_the_bucket() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    for _ in 0..20 {
        assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
    }
    harness.send(alice, json!({"action": "ping"}));
    harness.send(alice, json!({"action": "ping"}));
    harness.wait(0.1);
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["error rate_limited"]);
    harness.wait(2.0);
    for _ in 0..20 {
        assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
    }
}

#[test]
fn a_rate_refusal_has_retry_after() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    for _ in 0..20 {
        harness.send(alice, json!({"action": "ping"}));
    }
    let frame = harness.request(alice, json!({"action": "ping", "id": 9})).remove(0);
    assert_eq!(
        (&frame["retry_after"], &frame["action"], &frame["id"]),
        (&json!(0.1), &json!("ping"), &json!(9))
    );
}

#[test]
fn interrupts_and_whispers_have_buckets_of_their_own() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.subscribe(alice, "room");
    for _ in 0..30 {
        harness.send(alice, json!({"action": "ping"}));
    }
    let request = json!({"action": "interrupt", "data": {"operation_id": "op"}});
    assert_eq!(harness.send(alice, request), ["interrupt_result pending"]);
    let whisper = json!({"action": "whisper", "channel": "room", "event": "typing"});
    for _ in 0..100 {
        assert!(harness.send(alice, whisper.clone()).is_empty(), "too many are dropped, not refused");
    }
    assert_eq!(harness.stats()["whispers_dropped"], 60);
}

#[test]
fn workers_are_not_limited() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    for _ in 0..1000 {
        let line = json!({"channel": "logs", "event": "log", "id": 1});
        assert_eq!(harness.send(worker, line), ["ok"]);
    }
}

#[test]
fn five_hundred_refusals_in_a_minute_close_the_connection() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    for _ in 0..519 {
        harness.send(alice, json!({"action": "ping"}));
    }
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["error rate_limited", "closed 4103"]);
    assert!(harness.send(alice, json!({"action": "ping"})).is_empty(), "it is nobody now");
}

#[test]
fn the_fifth_malformed_request_is_answered_and_closes() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let mistakes = [json!({"action": "dance"}), json!([]), json!({"action": "send"}), json!({})];
    let codes = ["error unknown_action", "error bad_json", "error bad_request", "error bad_request"];
    for (mistake, code) in mistakes.into_iter().zip(codes) {
        assert_eq!(harness.send(alice, mistake), [code]);
    }
    assert_eq!(harness.send(alice, json!(1)), ["error bad_json", "closed 4009"]);
}

#[test]
fn a_reload_changes_the_limit_of_malformed_requests() {
    let mut settings = Settings::default();
    (settings.limits.errors, settings.limits.errors_window) = (3, Duration::from_secs(20));
    let mut harness = Harness::with(settings);
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    for _ in 0..2 {
        harness.send(alice, json!({}));
        harness.send(bob, json!({}));
    }
    harness.wait(15.0);
    assert_eq!(harness.send(alice, json!({})), ["error bad_request", "closed 4009"]);
    harness.wait(10.0);
    assert_eq!(harness.send(bob, json!({})), ["error bad_request"], "two of them are forgotten");
    harness.configure(|settings| settings.limits.errors = 1);
    assert_eq!(harness.send(bob, json!({})), ["error bad_request", "closed 4009"]);
}

#[test]
fn malformed_requests_expire_and_other_errors_do_not_count() {
    let mut harness = Harness::new();
    let (alice, worker) = (harness.client("alice"), harness.worker());
    for _ in 0..9 {
        harness.send(alice, json!({"action": "whisper", "channel": "x", "event": "e"}));
        assert_eq!(harness.send(worker, json!([])), ["error bad_json"], "a worker has no budget");
    }
    for _ in 0..4 {
        harness.send(alice, json!({}));
    }
    for _ in 0..12 {
        harness.wait(50.0);
        harness.send(alice, json!({"action": "ping"}));
    }
    assert_eq!(harness.send(alice, json!({})), ["error bad_request"]);
}

#[test]
fn a_user_has_a_limit_of_connections() {
    let mut settings = Settings::default();
    settings.limits.connections_per_user = 2;
    let mut harness = Harness::with(settings);
    let first = harness.client("alice");
    harness.client("alice");
    harness.client("bob");
    let rights = harness.settings.rights.clone();
    let third = harness.new_client("alice", rights);
    assert_eq!(harness.received(third), ["closed 4008"]);
    let stats = harness.stats();
    assert_eq!((&stats["total_connections"], &stats["connections_refused"]), (&json!(3), &json!(1)));
    harness.disconnect(first);
    harness.client("alice");
    assert_eq!(harness.stats()["total_connections"], 3);
}

#[test]
fn auth_and_ack_are_free_of_the_rate() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    while harness.send(alice, json!({"action": "ping"})) == ["pong"] {}
    for _ in 0..100 {
        assert!(harness.send(alice, json!({"action": "ack", "epoch": "none", "seq": 1})).is_empty());
        let answer = harness.send(alice, json!({"action": "auth", "token": "alice"}));
        assert_eq!(answer.first().unwrap(), "auth_success alice");
    }
}

#[test]
fn each_bucket_has_its_configured_size() {
    let mut settings = Settings::default();
    settings.limits.burst = 3;
    settings.limits.interrupt_burst = 2;
    settings.limits.whisper_burst = 1;
    let mut harness = Harness::with(settings);
    let alice = harness.client("alice");
    harness.subscribe(alice, "room");
    let mut times = |request: serde_json::Value| {
        let refused =
            |received: &Vec<String>| received.first().is_some_and(|first| first == "error rate_limited");
        (0..10)
            .map(|_| harness.send(alice, request.clone()))
            .take_while(|received| !refused(received))
            .count()
    };
    assert_eq!(times(json!({"action": "ping"})), 2, "one went into the subscription");
    assert_eq!(times(json!({"action": "interrupt", "operation_id": "op"})), 2);
    assert_eq!(times(json!({"action": "whisper", "channel": "room", "event": "typing"})), 10);
    let stats = harness.stats();
    assert_eq!((&stats["whispers_dropped"], &stats["rate_limited"]), (&json!(9), &json!(2)));
}

#[test]
fn running_operations_are_limited() {
    let mut settings = Settings::default();
    settings.limits.operations = 1;
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    let start =
        |id: &str| json!({"action": "operation_start", "operation_id": id, "channel": "jobs", "id": 1});
    assert_eq!(harness.send(worker, start("a")), ["ok"]);
    assert_eq!(harness.send(worker, start("b")), ["error rate_limited"]);
    harness.send(worker, json!({"action": "operation_end", "operation_id": "a", "state": "completed"}));
    assert_eq!(harness.send(worker, start("b")), ["ok"]);
}

#[test]
fn refusals_of_the_edge_are_counted() {
    let mut harness = Harness::new();
    let whys = [
        Rejection::NoCapacity,
        Rejection::HandshakeTimeout,
        Rejection::WrongSecret,
        Rejection::ProtocolViolation,
        Rejection::BadHttpBody,
        Rejection::Refused(Reason::Host),
    ];
    for (times, why) in whys.into_iter().enumerate() {
        for _ in 0..=times {
            harness.handle(Input::Rejected(why));
        }
    }
    let stats = harness.stats();
    let names =
        ["connections_refused", "newcomers_dropped", "wrong_secrets", "closed_malformed", "requests_refused"];
    assert_eq!(names.map(|name| stats[name].as_u64().unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(stats["refused"], json!({"host": 6}));
    harness.hand_over();
    assert_eq!(harness.stats()["refused"], json!({"host": 6}), "the next process goes on with it");
}

#[test]
fn authentication_timeouts_are_counted() {
    let mut harness = Harness::new();
    let stranger = harness.anonymous_client();
    harness.wait(11.0);
    assert_eq!(harness.received(stranger), ["auth_required", "closed 4001"]);
    let stats = harness.stats();
    assert_eq!(
        (&stats["closed_unauthenticated"], &stats["refused"]),
        (&json!(1), &json!({"token_missing": 1}))
    );
    let fault = TokenFault {
        code: "token_invalid",
        message: "no".into(),
        reason: Reason::TokenSignature,
        wait: Duration::ZERO,
    };
    harness.connect(Peer::Client {
        credentials: Credentials::Refused(fault),
        inbox: InboxMode::Auto,
        network: None,
    });
    assert_eq!(harness.stats()["closed_unauthenticated"], 1, "that one has said something");
}

#[test]
fn long_names_and_deep_data_are_refused() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let (fits, long) = ("x".repeat(128), "x".repeat(129));
    assert_eq!(harness.publish(alice, &fits, 1), ["send_success 0 0 kept"]);
    assert_eq!(harness.publish(alice, &long, 1), ["error too_large"]);
    let send = json!({"action": "send", "channel": "c", "event": long});
    assert_eq!(harness.send(alice, send), ["error too_large c"]);
    let deep = |depth| (1..depth).fold(json!([]), |inner, _| json!([inner]));
    assert_eq!(harness.publish(alice, "c", deep(128)), ["send_success 0 0 kept"]);
    assert_eq!(harness.publish(alice, "c", deep(129)), ["error bad_request c"]);
}

#[test]
fn a_client_that_does_nothing_but_ping_is_closed() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    for _ in 0..300 {
        harness.wait(0.2);
        harness.handle(Input::KeepAlive { conn: alice, controls: 2 });
    }
    assert!(harness.received(alice).is_empty());
    harness.wait(10.0);
    harness.handle(Input::KeepAlive { conn: alice, controls: 100 });
    assert!(harness.received(alice).is_empty(), "a burst is no crime");
    let mallory = harness.anonymous_client();
    harness.discard_frames(mallory);
    harness.handle(Input::KeepAlive { conn: mallory, controls: 21 });
    assert_eq!(harness.received(mallory), ["closed 4103"]);
}

/// The time of the processor that this thread has taken.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn many_fields_cost_little_whatever_their_names() {
    const MESSAGE: usize = 512 << 10;
    // As many fields as a message holds: short names, one name again and again, long ones that
    // differ at the end, names that are nearly known.
    let names: [fn(usize) -> String; 4] = [
        |n| format!("{n:x}"),
        |_| "unknown".to_owned(),
        |n| format!("{}{n:05}", "a".repeat(40)),
        |n| format!("channel{}", ["s_", "_id", "\u{0}", " "][n % 4].repeat(1 + n % 50)),
    ];
    let (known, mut parsed) = (r#""action":"send","channel":"logs","event":"e","id":1"#, 0);
    let before = processor_time();
    for name in names {
        let mut text = format!("{{{known}");
        for n in 0.. {
            let field = format!(",{}:{n}", json!(name(n)));
            if text.len() + field.len() >= MESSAGE {
                break;
            }
            text += &field;
            parsed += 1;
        }
        text.push('}');
        assert!(protocol::parse(&text).is_ok());
        assert!(protocol::worker::parse(text.as_bytes()).is_ok());
        assert!(protocol::http::broadcast(text.as_bytes()).is_ok());
    }
    assert!(parsed > 80_000, "{parsed}");
    // Some hundredths of a second where the time is linear; minutes where it is quadratic.
    let taken = processor_time() - before;
    assert!(taken < Duration::from_secs(5), "{taken:?}");
}

#[test]
fn unknown_fields_do_not_change_the_cost_of_a_request() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let mut request = json!({"action": "ping"});
    for n in 0..10_000 {
        request[format!("field{n}")] = json!(n);
    }
    for _ in 0..20 {
        assert_eq!(harness.send(alice, request.clone()), ["pong"]);
    }
    assert_eq!(harness.send(alice, request.clone()), ["error rate_limited"]);
    harness.wait(0.1);
    assert_eq!(harness.send(alice, request), ["pong"]);
}

/// A token with a request rate for its bearer.
fn allows(rate: f64, burst: f64) -> Terms {
    Terms { limits: Some(RateLimit::asked_for(rate, burst)), ..Terms::default() }
}

/// How many of so many pings are answered.
fn pings(harness: &mut Harness, conn: ConnectionId, count: usize) -> usize {
    (0..count).filter(|_| harness.send(conn, json!({"action": "ping"})) == ["pong"]).count()
}

#[test]
fn a_token_may_allow_a_back_end_two_hundred_lines_at_once() {
    let mut harness = Harness::new();
    let (back_end, reader) =
        (harness.client_with_terms("agent", allows(1000.0, 1000.0)), harness.client("ada"));
    harness.subscribe(reader, "logs");
    harness.discard_frames(reader);
    for n in 0..200 {
        harness
            .send_unread(back_end, &json!({"action": "send", "channel": "logs", "event": "log", "data": n}));
    }
    assert_eq!(harness.received(back_end), vec!["send_success 1 0 false"; 200]);
    assert_eq!(harness.received(reader).len(), 200);
    assert_eq!(pings(&mut harness, back_end, 1000), 800, "the rest of the burst");
    harness.wait(1.0);
    assert_eq!(pings(&mut harness, back_end, 1200), 1000, "the rate");
}

#[test]
fn the_limits_of_a_token_are_sent_at_auth() {
    let mut harness = Harness::new();
    let alice = harness.new_client_with_terms("alice", allows(0.25, 3.9));
    let limits = harness.frames(alice).remove(0)["limits"].clone();
    assert_eq!((&limits["requests_per_second"], &limits["burst"]), (&json!(0.25), &json!(3)));
    assert_eq!((&limits["message_bytes"], &limits["subscriptions"]), (&json!(512 << 10), &json!(128)));
    let wide = harness.token_with_terms("alice", allows(250.0, 1e30));
    let limits = harness.request(alice, json!({"action": "auth", "token": wide})).remove(0)["limits"].clone();
    assert_eq!((&limits["requests_per_second"], &limits["burst"]), (&json!(250), &json!(1000)));
    let usual =
        harness.request(alice, json!({"action": "auth", "token": "alice"})).remove(0)["limits"].clone();
    assert_eq!((&usual["requests_per_second"], &usual["burst"]), (&json!(10), &json!(20)));
}

#[test]
fn a_token_may_lower_limits_and_a_newer_one_raise_them() {
    let mut harness = Harness::new();
    let alice = harness.client_with_terms("alice", allows(0.5, 0.1));
    assert_eq!(pings(&mut harness, alice, 5), 1, "one at least");
    harness.wait(1.9);
    assert_eq!(pings(&mut harness, alice, 5), 0);
    harness.wait(0.1);
    assert_eq!(pings(&mut harness, alice, 5), 1);
    let wide = harness.token_with_terms("alice", allows(100.0, 100.0));
    harness.auth(alice, &wide, None);
    harness.wait(2.0);
    assert_eq!(pings(&mut harness, alice, 200), 100);
}

#[test]
fn a_token_cannot_exceed_the_configured_maximum() {
    let mut settings = Settings::default();
    settings.limits.token_rate = 50;
    let mut harness = Harness::with(settings);
    let alice = harness.client_with_terms("alice", allows(1e9, 1e9));
    assert_eq!(pings(&mut harness, alice, 200), 50);
    harness.configure(|settings| settings.limits.token_rate = 80);
    harness.keep_alive(2);
    assert_eq!(pings(&mut harness, alice, 200), 80, "a reload counts for those who are here");
}

#[test]
fn connections_with_equal_token_limits_share_five_times_that() {
    let mut harness = Harness::new();
    let conns: Vec<ConnectionId> =
        (0..8).map(|_| harness.client_with_terms("agent", allows(100.0, 100.0))).collect();
    let answered: usize = conns.iter().map(|conn| pings(&mut harness, *conn, 100)).sum();
    assert_eq!(answered, 500);
    let page = harness.client("agent");
    assert_eq!(pings(&mut harness, page, 30), 20, "what others may do is not taken from that");
    let again = harness.client_with_terms("agent", allows(100.0, 100.0));
    assert_eq!(pings(&mut harness, again, 100), 0, "who comes back has not more");
    let other = harness.client_with_terms("bob", allows(100.0, 100.0));
    assert_eq!(pings(&mut harness, other, 100), 100, "nor does anybody pay for others");
}

#[test]
fn token_limits_do_not_apply_to_interrupts_and_whispers() {
    let mut harness = Harness::new();
    let alice = harness.client_with_terms("alice", allows(1000.0, 1000.0));
    harness.subscribe(alice, "room");
    let interrupt = json!({"action": "interrupt", "data": {"operation_id": "op"}});
    let refused = (0..60).flat_map(|_| harness.send(alice, interrupt.clone()));
    let refused = refused.filter(|frame| frame == "error rate_limited").count();
    assert!(refused >= 40, "{refused}");
    for _ in 0..100 {
        harness.send(alice, json!({"action": "whisper", "channel": "room", "event": "typing"}));
    }
    assert_eq!(harness.stats()["whispers_dropped"], 60);
}

/// Numbers of no pattern, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

#[test]
fn no_pattern_of_requests_exceeds_burst_and_rate() {
    let mut random = Random(11);
    for _ in 0..20 {
        let (rate, burst) = (1 + random.below(1000) as u32, 1 + random.below(1000) as u32);
        let own = || allows(f64::from(rate), f64::from(burst));
        let mut harness = Harness::new();
        let mut conn = harness.client_with_terms("alice", own());
        let (mut answered, mut millis) = (0, 0);
        for _ in 0..20 {
            answered += pings(&mut harness, conn, random.below(20) as usize) as u64;
            let wait = random.below(1000);
            harness.wait(wait as f64 / 1000.0);
            millis += wait;
            match random.below(3) {
                // A newer token gives nobody a full bucket, nor does another process.
                0 => {
                    let token = harness.token_with_terms("alice", own());
                    harness.auth(conn, &token, None);
                }
                1 => harness.hand_over(),
                _ => {}
            }
            harness.discard_frames(conn);
        }
        let most = u64::from(burst) + u64::from(rate) * millis / 1000 + 1;
        assert!(answered <= most, "{answered}, of {rate} a second and {burst} at once");
        // Coming back gives five buckets and no sixth.
        let all: usize = (0..10)
            .map(|_| {
                harness.disconnect(conn);
                conn = harness.client_with_terms("alice", own());
                pings(&mut harness, conn, 1000)
            })
            .sum();
        assert!(all as u64 + answered <= 5 * (u64::from(burst) + u64::from(rate) * (millis / 1000 + 1)));
    }
}
