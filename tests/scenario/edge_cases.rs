//! Corner cases that a review found. Each test states the right behaviour.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Credentials, Identity, Peer, SendQueueState, Settings};
use wshubd::protocol::InboxMode;

use super::bench::{Bench, Seat, rights, user_id};

fn with_mode(bench: &mut Bench, user: &str, inbox: InboxMode) -> Seat {
    let rights = rights(&["*"], &["*", "@user:*"], &[]);
    let claim = Credentials::Verified(Identity { rights: Some(rights), ..Identity::new(user_id(user)) });
    bench.link(Peer::Client { credentials: claim, inbox, network: None })
}

fn to_user(bench: &mut Bench, worker: Seat, user: &str, data: impl Into<Value>) {
    bench.say(worker, json!({"user_id": user, "event": "e", "data": data.into()}));
}

fn state(bench: &Bench) -> Value {
    serde_json::to_value(&bench.hub).unwrap()
}

#[test]
fn an_expiry_does_not_acknowledge_what_no_socket_took() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.clog(alice);
    for n in 1..=3 {
        to_user(&mut bench, worker, "alice", n);
    }
    bench.outbound(alice, SendQueueState::Full);
    bench.say(worker, json!({"user_id": "alice", "event": "e", "data": 4, "ttl": 1}));
    bench.wait(3.0);
    bench.leave(alice);
    let rights = bench.settings.rights.clone();
    let again = bench.newcomer("alice", rights);
    let heard = bench.story(again);
    assert_eq!(heard[1..], ["e 1 replayed", "e 2 replayed", "e 3 replayed", "gap 4 4 1 expired"]);
}

#[test]
fn a_connection_that_gains_a_user_learns_its_position() {
    let mut bench = Bench::open();
    let (worker, seat) = (bench.worker(), bench.stranger());
    bench.hush(seat);
    let heard = bench.ask(seat, json!({"action": "auth", "token": "alice", "inbox": "ack"}));
    to_user(&mut bench, worker, "alice", 1);
    let later = bench.frames(seat);
    let epoch = |frame: &Value| frame["inbox"]["epoch"].is_string() || frame["epoch"].is_string();
    assert!(heard.iter().chain(&later).any(epoch), "no epoch in {heard:?} {later:?}");
}

#[test]
fn a_notice_of_an_evicted_message_does_not_evict_others() {
    let mut settings = Settings::default();
    settings.limits.kept_bytes = 20_000;
    let mut bench = Bench::with(settings);
    let (worker, publisher) = (bench.worker(), bench.worker());
    bench.subscribe(worker, "system:undelivered");
    bench.leave(worker);
    let mut n = 0;
    while bench.stats()["messages_evicted"] == 0 {
        n += 1;
        bench.say(publisher, json!({"channel": "room", "event": "e", "data": n}));
    }
    let evicted = bench.stats()["messages_evicted"].as_u64().unwrap();
    assert!(evicted <= 5, "one message too many pushed out {evicted} of {n}");
}

#[test]
fn a_handover_does_not_wait_for_an_answer_of_the_old_process() {
    let mut bench = Bench::new();
    let (worker, bob) = (bench.worker(), bench.client("bob"));
    bench.say(worker, json!({"channel": "room", "event": "say", "data": 1}));
    bench.slow_store = true;
    bench.subscribe(bob, "room");
    bench.hush(bob);
    bench.hand_over();
    bench.store_answers();
    assert_eq!(bench.story(bob), ["say 1 replayed"], "the store is asked again");
}

#[test]
fn an_undelivered_message_is_kept_though_its_sender_reads_on() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    let phone = with_mode(&mut bench, "alice", InboxMode::Auto);
    bench.hush(phone);
    let note = json!({"action": "send", "user_id": "alice", "event": "note", "echo": false});
    assert_eq!(bench.say(phone, note), ["send_success 0 0 kept"]);
    to_user(&mut bench, worker, "alice", 2);
    bench.leave(phone);
    let laptop = with_mode(&mut bench, "alice", InboxMode::Auto);
    let heard = bench.story(laptop);
    assert!(heard.iter().any(|line| line.starts_with("note")), "kept, and heard by nobody: {heard:?}");
}

#[test]
fn gaps_do_not_overlap() {
    let mut bench = Bench::new();
    let (worker, bob) = (bench.worker(), bench.client("bob"));
    for (n, ttl) in [(1, 1), (2, 6), (3, 3), (4, 6), (5, 1), (6, 100)] {
        bench.say(worker, json!({"channel": "room", "event": "e", "data": n, "ttl": ttl}));
    }
    bench.outbound(bob, SendQueueState::Full);
    bench.subscribe(bob, "room");
    bench.wait(9.0);
    bench.outbound(bob, SendQueueState::Empty);
    assert_eq!(bench.story(bob), ["gap 1 5 5 expired", "e 6 replayed"]);
}

#[test]
fn a_purge_removes_deadlines() {
    let mut bench = Bench::new();
    let admin = bench.admin();
    for n in 0..3 {
        bench.say(admin, json!({"channel": "room", "event": "e", "data": n}));
        bench.say(admin, json!({"action": "purge", "channel": "room"}));
        bench.wait(2.0);
    }
    assert_eq!(state(&bench)["timers"], json!({"set": []}));
}

#[test]
fn a_worker_is_notified_of_messages_a_lost_connection_left() {
    let mut bench = Bench::new();
    let (push, worker, alice) = (bench.worker(), bench.worker(), bench.client("alice"));
    bench.subscribe(push, "system:undelivered");
    bench.hush(push);
    bench.clog(alice);
    to_user(&mut bench, worker, "alice", 1);
    bench.leave(alice);
    bench.wait(60.0);
    assert_eq!(bench.story(push).len(), 1, "a message waits, alice is away, and nobody is told");
}

#[test]
fn a_receipt_that_does_not_fit_is_counted() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    let alice = with_mode(&mut bench, "alice", InboxMode::Ack);
    let epoch = bench.frames(alice)[0]["inbox"]["epoch"].clone();
    bench.say(worker, json!({"user_id": "alice", "event": "e", "receipt": true}));
    bench.outbound(worker, SendQueueState::Full);
    bench.say(alice, json!({"action": "ack", "epoch": epoch, "seq": 1}));
    bench.outbound(worker, SendQueueState::Empty);
    let told = bench.story(worker).len();
    assert!(told == 1 || bench.stats()["messages_shed"] == 1, "lost in silence");
}

#[test]
fn a_read_after_the_ttl_still_makes_a_receipt() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    let alice = with_mode(&mut bench, "alice", InboxMode::Ack);
    let epoch = bench.frames(alice)[0]["inbox"]["epoch"].clone();
    bench.say(worker, json!({"user_id": "alice", "event": "e", "receipt": true, "ttl": 10}));
    bench.say(alice, json!({"action": "ack", "epoch": epoch, "seq": 1}));
    assert_eq!(bench.story(worker).len(), 1, "delivered");
    bench.wait(20.0);
    bench.say(alice, json!({"action": "ack", "epoch": epoch, "seq": 1, "read": true}));
    assert_eq!(bench.story(worker).len(), 1, "read");
}

#[test]
fn a_receipt_for_a_message_without_position_is_refused() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    let request = json!({"user_id": "alice", "event": "e", "receipt": true, "ttl": 0});
    assert_eq!(bench.say(worker, request), ["error bad_request"]);
}

#[test]
fn a_gap_names_the_cause_of_its_own_loss() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.say(worker, json!({"channel": "room", "event": "e", "data": 1, "ttl": 1}));
    bench.wait(3.0);
    bench.subscribe(alice, "room");
    let epoch = bench.ask(alice, json!({"action": "subscribe", "channel": "room"}))[0]["epoch"].clone();
    for n in 2..=4 {
        bench.say(worker, json!({"channel": "room", "event": "e", "data": n}));
    }
    let bob = bench.client("bob");
    let since = json!({"epoch": epoch, "seq": 1});
    let heard = bench.say(bob, json!({"action": "subscribe", "channel": "room", "since": since}));
    assert_eq!(
        heard.last().unwrap(),
        "gap 2 4 3 not_kept",
        "2 to 4 were heard live, nothing of that expired"
    );
}

#[test]
fn undelivered_notices_outlive_five_minutes_without_a_worker() {
    let mut bench = Bench::new();
    let (push, worker) = (bench.worker(), bench.worker());
    bench.subscribe(push, "system:undelivered");
    bench.leave(push);
    bench.wait(400.0);
    to_user(&mut bench, worker, "alice", 1);
    let push = bench.worker();
    assert_eq!(bench.subscribe(push, "system:undelivered").len(), 1, "told to the next worker");
}

#[test]
fn a_new_subscription_gets_the_end_behind_the_last_lines() {
    let mut bench = Bench::new();
    let (worker, bob) = (bench.worker(), bench.client("bob"));
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    for n in 1..=100 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    bench.clog(bob);
    bench.subscribe(bob, "logs");
    bench.say(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    bench.hush(bob);
    let mut heard =
        bench.say(bob, json!({"action": "subscribe", "channel": "logs", "since": {"epoch": "", "seq": 0}}));
    bench.unclog(bob);
    heard.extend(bench.story(bob));
    let end = heard.iter().position(|line| line.starts_with("operation op ended"));
    let last = heard.iter().rposition(|line| line.starts_with("log"));
    assert!(last.is_some() && last < end, "the end is {end:?}, the last line {last:?} of {}", heard.len());
}

#[test]
fn a_delayed_end_does_not_end_a_newer_subscription() {
    let mut bench = Bench::new();
    let (worker, bob) = (bench.worker(), bench.client("bob"));
    let start = json!({"action": "operation_start", "operation_id": "op", "channel": "logs"});
    bench.say(worker, start.clone());
    for n in 1..=100 {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    bench.clog(bob);
    bench.subscribe(bob, "logs");
    bench.subscribe(bob, "operation:op");
    bench.say(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    bench.say(worker, start);
    bench.hush(bob);
    let mut heard = bench.subscribe(bob, "operation:op");
    assert_eq!(heard[0], "subscription_succeeded operation:op 0");
    bench.unclog(bob);
    heard.extend(bench.story(bob));
    assert!(!heard.iter().any(|line| line == "unsubscribed operation:op ended"), "{heard:?}");
}

#[test]
fn a_message_in_a_send_queue_is_not_reported_as_undelivered() {
    let policy = Policy { keep: Keep::Unacknowledged, count: 2, ..Policy::default() };
    let mut bench = Bench::with(Settings { inbox: policy, ..Settings::default() });
    let (push, worker, alice) = (bench.worker(), bench.worker(), bench.client("alice"));
    bench.subscribe(push, "system:undelivered");
    bench.hush(push);
    bench.clog(alice);
    for n in 1..=3 {
        to_user(&mut bench, worker, "alice", n);
    }
    bench.unclog(alice);
    assert_eq!(bench.story(alice), ["e 1", "e 2", "e 3"]);
    assert!(bench.story(push).is_empty(), "alice has them all");
}

#[test]
fn a_connection_with_inbox_off_gets_no_gap_of_it() {
    let policy = Policy { keep: Keep::Never, ..Policy::default() };
    let mut bench = Bench::with(Settings { inbox: policy, ..Settings::default() });
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.outbound(alice, SendQueueState::Full);
    to_user(&mut bench, worker, "alice", 1);
    bench.say(alice, json!({"action": "auth", "token": "alice", "inbox": "off"}));
    bench.outbound(alice, SendQueueState::Empty);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn a_receipt_evicts_nothing_from_its_senders_inbox() {
    let mut settings = Settings::default();
    settings.limits.requests_per_second = 1_000_000;
    settings.limits.burst = 1_000_000;
    settings.inbox.count = 10;
    let mut bench = Bench::with(settings);
    let worker = bench.worker();
    let ann = with_mode(&mut bench, "ann", InboxMode::Ack);
    let epoch = bench.frames(ann)[0]["inbox"]["epoch"].clone();
    let bob = with_mode(&mut bench, "bob", InboxMode::Auto);
    for _ in 0..10 {
        bench.say(bob, json!({"action": "send", "user_id": "ann", "event": "e", "receipt": true}));
    }
    bench.leave(bob);
    for n in 1..=5 {
        to_user(&mut bench, worker, "bob", n);
    }
    bench.say(ann, json!({"action": "ack", "epoch": epoch, "seq": 10, "read": false}));
    let bob = with_mode(&mut bench, "bob", InboxMode::Auto);
    let heard = bench.story(bob);
    assert!(
        heard.contains(&"e 5 replayed".to_owned()) && !heard.iter().any(|l| l.starts_with("gap")),
        "{heard:?}"
    );
}

#[test]
fn ack_mode_sends_a_middle_gap_in_its_place() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    let alice = with_mode(&mut bench, "alice", InboxMode::Ack);
    for (n, ttl) in [(1, 100), (2, 1), (3, 100)] {
        bench.say(worker, json!({"user_id": "alice", "event": "e", "data": n, "ttl": ttl}));
    }
    bench.leave(alice);
    bench.wait(3.0);
    let alice = with_mode(&mut bench, "alice", InboxMode::Ack);
    assert_eq!(bench.story(alice)[1..], ["e 1 replayed", "gap 2 2 1 expired", "e 3 replayed"]);
}

#[test]
fn only_lost_messages_are_reported_as_lost() {
    let mut bench = Bench::new();
    let (push, worker) = (bench.worker(), bench.worker());
    bench.subscribe(push, "system:undelivered");
    bench.say(worker, json!({"channel": "room", "event": "e", "data": 1, "ttl": 1}));
    bench.lose_store();
    bench.say(worker, json!({"channel": "room", "event": "e", "data": 2}));
    bench.hush(push);
    bench.wait(3.0);
    let told: Vec<Value> = bench.frames(push);
    assert!(told.iter().all(|frame| frame["data"]["seq"] == 1), "2 still waits: {told:?}");
}

/// 1 was left, 2 was heard by its first worker and is kept for its second one
/// for five seconds; cho comes after that, while the store is slow.
fn left_and_heard(bench: &mut Bench) -> (Seat, Seat, Seat) {
    let (first, ann, second) = (bench.worker(), bench.client("ann"), bench.worker());
    bench.subscribe(first, "room");
    bench.slow_store = true;
    bench.publish(first, "room", 1);
    let answer = bench.ask(second, json!({"action": "subscribe", "channel": "room", "id": 1}));
    bench.say(ann, json!({"action": "send", "channel": "room", "event": "say", "data": 2, "ttl": 5}));
    let since = json!({"epoch": answer[0]["epoch"], "seq": 1});
    bench.say(second, json!({"action": "subscribe", "channel": "room", "since": since}));
    let cho = bench.client("cho");
    bench.subscribe(cho, "room");
    (ann, second, cho)
}

#[test]
fn a_newcomer_gets_the_rest_of_the_backlog_and_nothing_else() {
    let mut bench = Bench::new();
    let (ann, second, cho) = left_and_heard(&mut bench);
    bench.publish(ann, "room", 3);
    bench.store_answers();
    assert_eq!(bench.story(second), ["say 2 replayed", "say 3 replayed"]);
    assert_eq!(bench.story(cho), ["say 1 replayed", "say 3 replayed"], "the first worker heard 2");
}

#[test]
fn a_newcomer_gets_no_gap_for_messages_of_others() {
    let mut bench = Bench::new();
    let (_, second, cho) = left_and_heard(&mut bench);
    bench.wait(7.0);
    bench.store_answers();
    assert_eq!(bench.story(second), ["gap 2 2 1 expired"]);
    assert_eq!(bench.story(cho), ["say 1 replayed"], "2 was never for this one");
}
