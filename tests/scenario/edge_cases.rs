//! Corner cases that a review found. Each test states the right behaviour.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy};
use wshubd::hub::{Credentials, Identity, Peer, SendQueueState, Settings};
use wshubd::protocol::InboxMode;

use super::harness::{ConnectionId, Harness, rights, user_id};

fn with_mode(harness: &mut Harness, user: &str, inbox: InboxMode) -> ConnectionId {
    let rights = rights(&["*"], &["*", "@user:*"], &[]);
    let claim = Credentials::Verified(Identity { rights: Some(rights), ..Identity::new(user_id(user)) });
    harness.connect(Peer::Client { credentials: claim, inbox, network: None })
}

fn to_user(harness: &mut Harness, worker: ConnectionId, user: &str, data: impl Into<Value>) {
    harness.send(worker, json!({"user_id": user, "event": "e", "data": data.into()}));
}

fn state(harness: &Harness) -> Value {
    serde_json::to_value(&harness.hub).unwrap()
}

#[test]
fn an_expiry_does_not_acknowledge_what_no_socket_took() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.block_socket(alice);
    for n in 1..=3 {
        to_user(&mut harness, worker, "alice", n);
    }
    harness.send_queue(alice, SendQueueState::Full);
    harness.send(worker, json!({"user_id": "alice", "event": "e", "data": 4, "ttl": 1}));
    harness.wait(3.0);
    harness.disconnect(alice);
    let rights = harness.settings.rights.clone();
    let again = harness.new_client("alice", rights);
    let received = harness.received(again);
    assert_eq!(received[1..], ["e 1 replayed", "e 2 replayed", "e 3 replayed", "gap 4 4 1 expired"]);
}

#[test]
fn a_connection_that_gains_a_user_learns_its_position() {
    let mut harness = Harness::open();
    let (worker, conn) = (harness.worker(), harness.anonymous_client());
    harness.discard_frames(conn);
    let received = harness.request(conn, json!({"action": "auth", "token": "alice", "inbox": "ack"}));
    to_user(&mut harness, worker, "alice", 1);
    let later = harness.frames(conn);
    let epoch = |frame: &Value| frame["inbox"]["epoch"].is_string() || frame["epoch"].is_string();
    assert!(received.iter().chain(&later).any(epoch), "no epoch in {received:?} {later:?}");
}

#[test]
fn a_notice_of_an_evicted_message_does_not_evict_others() {
    let mut settings = Settings::default();
    settings.limits.kept_bytes = 20_000;
    let mut harness = Harness::with(settings);
    let (worker, publisher) = (harness.worker(), harness.worker());
    harness.subscribe(worker, "system:undelivered");
    harness.disconnect(worker);
    let mut n = 0;
    while harness.stats()["messages_evicted"] == 0 {
        n += 1;
        harness.send(publisher, json!({"channel": "room", "event": "e", "data": n}));
    }
    let evicted = harness.stats()["messages_evicted"].as_u64().unwrap();
    assert!(evicted <= 5, "one message too many pushed out {evicted} of {n}");
}

#[test]
fn a_handover_does_not_wait_for_an_answer_of_the_old_process() {
    let mut harness = Harness::new();
    let (worker, bob) = (harness.worker(), harness.client("bob"));
    harness.send(worker, json!({"channel": "room", "event": "say", "data": 1}));
    harness.slow_store = true;
    harness.subscribe(bob, "room");
    harness.discard_frames(bob);
    harness.hand_over();
    harness.store_answers();
    assert_eq!(harness.received(bob), ["say 1 replayed"], "the store is asked again");
}

#[test]
fn an_undelivered_message_is_kept_though_its_sender_reads_on() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    let phone = with_mode(&mut harness, "alice", InboxMode::Auto);
    harness.discard_frames(phone);
    let note = json!({"action": "send", "user_id": "alice", "event": "note", "echo": false});
    assert_eq!(harness.send(phone, note), ["send_success 0 0 kept"]);
    to_user(&mut harness, worker, "alice", 2);
    harness.disconnect(phone);
    let laptop = with_mode(&mut harness, "alice", InboxMode::Auto);
    let received = harness.received(laptop);
    assert!(received.iter().any(|line| line.starts_with("note")), "kept, and heard by nobody: {received:?}");
}

#[test]
fn gaps_do_not_overlap() {
    let mut harness = Harness::new();
    let (worker, bob) = (harness.worker(), harness.client("bob"));
    for (n, ttl) in [(1, 1), (2, 6), (3, 3), (4, 6), (5, 1), (6, 100)] {
        harness.send(worker, json!({"channel": "room", "event": "e", "data": n, "ttl": ttl}));
    }
    harness.send_queue(bob, SendQueueState::Full);
    harness.subscribe(bob, "room");
    harness.wait(9.0);
    harness.send_queue(bob, SendQueueState::Empty);
    assert_eq!(harness.received(bob), ["gap 1 5 5 expired", "e 6 replayed"]);
}

#[test]
fn a_purge_removes_deadlines() {
    let mut harness = Harness::new();
    let admin = harness.admin();
    for n in 0..3 {
        harness.send(admin, json!({"channel": "room", "event": "e", "data": n}));
        harness.send(admin, json!({"action": "purge", "channel": "room"}));
        harness.wait(2.0);
    }
    assert_eq!(state(&harness)["timers"], json!({"set": []}));
}

#[test]
fn a_worker_is_notified_of_messages_a_lost_connection_left() {
    let mut harness = Harness::new();
    let (push, worker, alice) = (harness.worker(), harness.worker(), harness.client("alice"));
    harness.subscribe(push, "system:undelivered");
    harness.discard_frames(push);
    harness.block_socket(alice);
    to_user(&mut harness, worker, "alice", 1);
    harness.disconnect(alice);
    harness.wait(60.0);
    assert_eq!(harness.received(push).len(), 1, "a message waits, alice is away, and nobody is told");
}

#[test]
fn a_receipt_that_does_not_fit_is_counted() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    let alice = with_mode(&mut harness, "alice", InboxMode::Ack);
    let epoch = harness.frames(alice)[0]["inbox"]["epoch"].clone();
    harness.send(worker, json!({"user_id": "alice", "event": "e", "receipt": true}));
    harness.send_queue(worker, SendQueueState::Full);
    harness.send(alice, json!({"action": "ack", "epoch": epoch, "seq": 1}));
    harness.send_queue(worker, SendQueueState::Empty);
    let count = harness.received(worker).len();
    assert!(count == 1 || harness.stats()["messages_shed"] == 1, "lost in silence");
}

#[test]
fn a_read_after_the_ttl_still_makes_a_receipt() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    let alice = with_mode(&mut harness, "alice", InboxMode::Ack);
    let epoch = harness.frames(alice)[0]["inbox"]["epoch"].clone();
    harness.send(worker, json!({"user_id": "alice", "event": "e", "receipt": true, "ttl": 10}));
    harness.send(alice, json!({"action": "ack", "epoch": epoch, "seq": 1}));
    assert_eq!(harness.received(worker).len(), 1, "delivered");
    harness.wait(20.0);
    harness.send(alice, json!({"action": "ack", "epoch": epoch, "seq": 1, "read": true}));
    assert_eq!(harness.received(worker).len(), 1, "read");
}

#[test]
fn a_receipt_for_a_message_without_position_is_refused() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    let request = json!({"user_id": "alice", "event": "e", "receipt": true, "ttl": 0});
    assert_eq!(harness.send(worker, request), ["error bad_request"]);
}

#[test]
fn a_gap_names_the_cause_of_its_own_loss() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.send(worker, json!({"channel": "room", "event": "e", "data": 1, "ttl": 1}));
    harness.wait(3.0);
    harness.subscribe(alice, "room");
    let epoch = harness.request(alice, json!({"action": "subscribe", "channel": "room"}))[0]["epoch"].clone();
    for n in 2..=4 {
        harness.send(worker, json!({"channel": "room", "event": "e", "data": n}));
    }
    let bob = harness.client("bob");
    let since = json!({"epoch": epoch, "seq": 1});
    let received = harness.send(bob, json!({"action": "subscribe", "channel": "room", "since": since}));
    assert_eq!(
        received.last().unwrap(),
        "gap 2 4 3 not_kept",
        "2 to 4 were heard live, nothing of that expired"
    );
}

#[test]
fn undelivered_notices_outlive_five_minutes_without_a_worker() {
    let mut harness = Harness::new();
    let (push, worker) = (harness.worker(), harness.worker());
    harness.subscribe(push, "system:undelivered");
    harness.disconnect(push);
    harness.wait(400.0);
    to_user(&mut harness, worker, "alice", 1);
    let push = harness.worker();
    assert_eq!(harness.subscribe(push, "system:undelivered").len(), 1, "told to the next worker");
}

#[test]
fn a_new_subscription_gets_the_end_behind_the_last_lines() {
    let mut harness = Harness::new();
    let (worker, bob) = (harness.worker(), harness.client("bob"));
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    for n in 1..=100 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    harness.block_socket(bob);
    harness.subscribe(bob, "logs");
    harness.send(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    harness.discard_frames(bob);
    let mut received = harness
        .send(bob, json!({"action": "subscribe", "channel": "logs", "since": {"epoch": "", "seq": 0}}));
    harness.unblock_socket(bob);
    received.extend(harness.received(bob));
    let end = received.iter().position(|line| line.starts_with("operation op ended"));
    let last = received.iter().rposition(|line| line.starts_with("log"));
    assert!(last.is_some() && last < end, "the end is {end:?}, the last line {last:?} of {}", received.len());
}

#[test]
fn a_delayed_end_does_not_end_a_newer_subscription() {
    let mut harness = Harness::new();
    let (worker, bob) = (harness.worker(), harness.client("bob"));
    let start = json!({"action": "operation_start", "operation_id": "op", "channel": "logs"});
    harness.send(worker, start.clone());
    for n in 1..=100 {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": n}));
    }
    harness.block_socket(bob);
    harness.subscribe(bob, "logs");
    harness.subscribe(bob, "operation:op");
    harness.send(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    harness.send(worker, start);
    harness.discard_frames(bob);
    let mut received = harness.subscribe(bob, "operation:op");
    assert_eq!(received[0], "subscription_succeeded operation:op 0");
    harness.unblock_socket(bob);
    received.extend(harness.received(bob));
    assert!(!received.iter().any(|line| line == "unsubscribed operation:op ended"), "{received:?}");
}

#[test]
fn a_message_in_a_send_queue_is_not_reported_as_undelivered() {
    let policy = Policy { keep: Keep::Unacknowledged, count: 2, ..Policy::default() };
    let mut harness = Harness::with(Settings { inbox: policy, ..Settings::default() });
    let (push, worker, alice) = (harness.worker(), harness.worker(), harness.client("alice"));
    harness.subscribe(push, "system:undelivered");
    harness.discard_frames(push);
    harness.block_socket(alice);
    for n in 1..=3 {
        to_user(&mut harness, worker, "alice", n);
    }
    harness.unblock_socket(alice);
    assert_eq!(harness.received(alice), ["e 1", "e 2", "e 3"]);
    assert!(harness.received(push).is_empty(), "alice has them all");
}

#[test]
fn a_connection_with_inbox_off_gets_no_gap_of_it() {
    let policy = Policy { keep: Keep::Never, ..Policy::default() };
    let mut harness = Harness::with(Settings { inbox: policy, ..Settings::default() });
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.send_queue(alice, SendQueueState::Full);
    to_user(&mut harness, worker, "alice", 1);
    harness.send(alice, json!({"action": "auth", "token": "alice", "inbox": "off"}));
    harness.send_queue(alice, SendQueueState::Empty);
    assert!(harness.received(alice).is_empty());
}

#[test]
fn a_receipt_evicts_nothing_from_its_senders_inbox() {
    let mut settings = Settings::default();
    settings.limits.requests_per_second = 1_000_000;
    settings.limits.burst = 1_000_000;
    settings.inbox.count = 10;
    let mut harness = Harness::with(settings);
    let worker = harness.worker();
    let ann = with_mode(&mut harness, "ann", InboxMode::Ack);
    let epoch = harness.frames(ann)[0]["inbox"]["epoch"].clone();
    let bob = with_mode(&mut harness, "bob", InboxMode::Auto);
    for _ in 0..10 {
        harness.send(bob, json!({"action": "send", "user_id": "ann", "event": "e", "receipt": true}));
    }
    harness.disconnect(bob);
    for n in 1..=5 {
        to_user(&mut harness, worker, "bob", n);
    }
    harness.send(ann, json!({"action": "ack", "epoch": epoch, "seq": 10, "read": false}));
    let bob = with_mode(&mut harness, "bob", InboxMode::Auto);
    let received = harness.received(bob);
    assert!(
        received.contains(&"e 5 replayed".to_owned()) && !received.iter().any(|l| l.starts_with("gap")),
        "{received:?}"
    );
}

#[test]
fn ack_mode_sends_a_middle_gap_in_its_place() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    let alice = with_mode(&mut harness, "alice", InboxMode::Ack);
    for (n, ttl) in [(1, 100), (2, 1), (3, 100)] {
        harness.send(worker, json!({"user_id": "alice", "event": "e", "data": n, "ttl": ttl}));
    }
    harness.disconnect(alice);
    harness.wait(3.0);
    let alice = with_mode(&mut harness, "alice", InboxMode::Ack);
    assert_eq!(harness.received(alice)[1..], ["e 1 replayed", "gap 2 2 1 expired", "e 3 replayed"]);
}

#[test]
fn only_lost_messages_are_reported_as_lost() {
    let mut harness = Harness::new();
    let (push, worker) = (harness.worker(), harness.worker());
    harness.subscribe(push, "system:undelivered");
    harness.send(worker, json!({"channel": "room", "event": "e", "data": 1, "ttl": 1}));
    harness.lose_store();
    harness.send(worker, json!({"channel": "room", "event": "e", "data": 2}));
    harness.discard_frames(push);
    harness.wait(3.0);
    let received: Vec<Value> = harness.frames(push);
    assert!(received.iter().all(|frame| frame["data"]["seq"] == 1), "2 still waits: {received:?}");
}

/// 1 was left, 2 was heard by its first worker and is kept for its second one
/// for five seconds; cho comes after that, while the store is slow.
fn left_and_heard(harness: &mut Harness) -> (ConnectionId, ConnectionId, ConnectionId) {
    let (first, ann, second) = (harness.worker(), harness.client("ann"), harness.worker());
    harness.subscribe(first, "room");
    harness.slow_store = true;
    harness.publish(first, "room", 1);
    let answer = harness.request(second, json!({"action": "subscribe", "channel": "room", "id": 1}));
    harness.send(ann, json!({"action": "send", "channel": "room", "event": "say", "data": 2, "ttl": 5}));
    let since = json!({"epoch": answer[0]["epoch"], "seq": 1});
    harness.send(second, json!({"action": "subscribe", "channel": "room", "since": since}));
    let cho = harness.client("cho");
    harness.subscribe(cho, "room");
    (ann, second, cho)
}

#[test]
fn a_newcomer_gets_the_rest_of_the_backlog_and_nothing_else() {
    let mut harness = Harness::new();
    let (ann, second, cho) = left_and_heard(&mut harness);
    harness.publish(ann, "room", 3);
    harness.store_answers();
    assert_eq!(harness.received(second), ["say 2 replayed", "say 3 replayed"]);
    assert_eq!(harness.received(cho), ["say 1 replayed", "say 3 replayed"], "the first worker heard 2");
}

#[test]
fn a_newcomer_gets_no_gap_for_messages_of_others() {
    let mut harness = Harness::new();
    let (_, second, cho) = left_and_heard(&mut harness);
    harness.wait(7.0);
    harness.store_answers();
    assert_eq!(harness.received(second), ["gap 2 2 1 expired"]);
    assert_eq!(harness.received(cho), ["say 1 replayed"], "2 was never for this one");
}
