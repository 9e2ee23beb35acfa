//! `durable: true`: the promise to the publisher, and the time of its answer.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy, WriteThrough};
use wshubd::hub::{Effect, LogKey, Pattern, Scope, Settings};
use wshubd::protocol::{Channel, InboxMode};

use super::harness::{ConnectionId, Harness, rights, user_id};

const STORED: &str = "send_success 0 0 kept stored";

fn settings() -> Settings {
    let never = Policy { keep: Keep::Never, ..Policy::default() };
    let none = Policy { count: 0, ..Policy::default() };
    let one = Policy { count: 1, ..Policy::default() };
    let history = Policy { keep: Keep::History, disk: WriteThrough::Stop, ..Policy::default() };
    let pattern = Pattern::new;
    let policies = vec![
        (pattern("never"), never),
        (pattern("none"), none),
        (pattern("one"), one),
        (pattern("history"), history),
    ];
    Settings { has_disk: true, policies, ..Settings::default() }
}

fn harness() -> Harness {
    Harness::with(settings())
}

/// A bench with a disk that writes on demand.
fn slow() -> Harness {
    let mut harness = harness();
    harness.disk.slow = true;
    harness
}

fn durable(channel: &str, data: impl Into<Value>) -> Value {
    json!({"action": "send", "channel": channel, "event": "say", "data": data.into(), "durable": true, "id": 1})
}

fn named(channel: &str, id: &str, durable: bool) -> Value {
    json!({"action": "send", "channel": channel, "event": "say", "durable": durable, "message_id": id, "id": 1})
}

/// A client that may send to users.
fn sender(harness: &mut Harness) -> ConnectionId {
    harness.client_with("alice", rights(&["*"], &["*", "@user:*"], &[]))
}

fn log(channel: &str) -> LogKey {
    LogKey::Channel(Channel::new(channel).unwrap())
}

#[test]
fn the_answer_waits_for_the_disk_live_delivery_does_not() {
    let mut harness = slow();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "history");
    harness.discard_frames(bob);
    assert!(harness.send(alice, durable("history", 1)).is_empty());
    assert_eq!(harness.received(bob), ["say 1"]);
    harness.disk_writes();
    assert_eq!(harness.received(alice), ["send_success 1 0 kept stored"]);
}

#[test]
fn workers_and_http_callers_wait_in_the_same_way() {
    let mut harness = slow();
    let worker = harness.worker();
    assert!(harness.send(worker, durable("room", 1)).is_empty());
    assert!(harness.post(7, &json!({"user_id": "bob", "event": "say", "durable": true})).is_empty());
    harness.disk_writes();
    let answer = harness.frames(worker).remove(0);
    assert_eq!(
        (&answer["type"], &answer["kept"], &answer["stored"]),
        (&json!("ok"), &json!(true), &json!(true))
    );
    assert_eq!(answer["id"], 1);
    assert_eq!(harness.answers(7), [STORED]);
}

#[test]
fn answers_keep_their_order_except_those_that_wait() {
    let mut harness = slow();
    let alice = harness.client("alice");
    for n in 1..=2 {
        harness.send_unread(alice, &durable("room", n));
        harness.send_unread(alice, &json!({"action": "ping"}));
    }
    assert_eq!(harness.received(alice), ["pong", "pong"]);
    harness.disk_writes();
    assert_eq!(harness.received(alice), [STORED, STORED]);
    let bob = harness.client("bob");
    assert_eq!(harness.subscribe(bob, "room")[2..], ["say 1 replayed", "say 2 replayed"]);
}

#[test]
fn a_message_that_is_not_kept_is_answered_at_once() {
    let mut harness = slow();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "room");
    assert_eq!(harness.send(alice, durable("room", 1)), ["send_success 1 0 false"], "heard by all");
    assert_eq!(harness.send(alice, durable("never", 1)), ["send_success 0 0 false"]);
    assert_eq!(harness.send(alice, durable("none", 1)), ["send_success 0 0 false"]);
    let fleeting = json!({"action": "send", "channel": "room", "event": "say", "durable": true, "ttl": 0});
    assert_eq!(harness.send(alice, fleeting), ["error bad_request room"]);
    assert_eq!(harness.stats()["durable_refused"], 0);
}

#[test]
fn a_message_the_disk_refuses_gets_store_unavailable() {
    let mut harness = slow();
    let alice = harness.client("alice");
    harness.send_unread(alice, &durable("room", 1));
    harness.disk_refuses();
    let error = harness.frames(alice).remove(0);
    assert_eq!((&error["code"], &error["id"]), (&json!("store_unavailable"), &json!(1)));
    assert_eq!((&error["action"], &error["channel"]), (&json!("send"), &json!("room")));
    harness.disk_writes_all();
    assert!(harness.received(alice).is_empty(), "it is answered once");
    let bob = harness.client("bob");
    assert_eq!(harness.subscribe(bob, "room").last().unwrap(), "say 1 replayed");
    let stats = harness.stats();
    assert_eq!((&stats["durable_refused"], &stats["messages_stored"]), (&json!(1), &json!(1)));
}

#[test]
fn no_durable_message_is_delivered_while_the_disk_fails() {
    let mut harness = harness();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "history");
    harness.discard_frames(bob);
    harness.disk_fails();
    assert_eq!(harness.stats()["store_failed"], 1);
    assert_eq!(harness.send(alice, durable("history", 1)), ["error store_unavailable"]);
    assert!(harness.received(bob).is_empty());
    assert_eq!(harness.publish(alice, "history", 2), ["send_success 1 0 kept"], "others go on");
    assert_eq!(harness.frames(bob)[0]["seq"], 1, "what was refused took no position");
    harness.disk_works();
    assert_eq!(harness.stats()["store_failed"], 0);
    assert_eq!(harness.send(alice, durable("history", 3)), ["send_success 1 0 kept stored"]);
}

#[test]
fn nobody_waits_for_a_failed_disk() {
    let mut harness = slow();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.send_unread(alice, &durable("room", 1));
    harness.send_unread(bob, &durable("hall", 1));
    harness.disk_fails();
    assert_eq!(harness.received(alice), ["error store_unavailable room"]);
    assert_eq!(harness.received(bob), ["error store_unavailable hall"]);
}

#[test]
fn a_publisher_that_left_is_not_answered() {
    let mut harness = slow();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.send_unread(alice, &durable("room", 1));
    harness.send_unread(bob, &durable("room", 2));
    harness.disconnect(alice);
    harness.disk_writes();
    assert_eq!(harness.received(bob), [STORED]);
    let bob = harness.client("bob");
    harness.send_unread(bob, &durable("room", 3));
    harness.disconnect(bob);
    harness.disk_refuses();
    assert_eq!(harness.stats()["durable_refused"], 0);
}

#[test]
fn a_message_delivered_before_the_write_is_answered_after_it() {
    let mut harness = slow();
    let alice = sender(&mut harness);
    let bob = harness.client("bob");
    harness.send_unread(
        alice,
        &json!({"action": "send", "user_id": "bob", "event": "say", "data": 1, "durable": true}),
    );
    assert_eq!(harness.received(bob), ["say 1"]);
    assert_eq!(harness.stored(), 0, "it has arrived");
    assert!(harness.received(alice).is_empty());
    harness.disconnect(bob);
    harness.keep_alive(310);
    harness.discard_frames(alice);
    harness.disk_writes();
    assert_eq!(harness.received(alice), ["send_success 1 0 kept stored"], "its inbox is not forgotten");
    assert_eq!(harness.stats()["messages_stored"], 1);
    assert_eq!(harness.stats()["kept_bytes"], 0);
}

#[test]
fn a_message_lost_before_the_write_is_answered_not_kept() {
    let mut harness = slow();
    let alice = harness.client("alice");
    harness.send_unread(alice, &durable("one", 1));
    harness.send_unread(alice, &durable("one", 2));
    let summary = json!({"action": "send", "channel": "room", "event": "say", "durable": true, "ttl": 5});
    harness.send_unread(alice, &summary);
    harness.wait(6.0);
    harness.disk_writes();
    let lost = "send_success 0 0 false stored";
    assert_eq!(harness.received(alice), [lost, STORED, lost], "pushed out by its own log; and too old");
}

#[test]
fn the_number_of_waiting_publishers_is_limited() {
    let mut settings = settings();
    settings.limits.burst = 10_000;
    let mut harness = Harness::with(settings);
    harness.disk.slow = true;
    let worker = harness.worker();
    for n in 0..4096 {
        harness.send_unread(worker, &durable(&format!("room:{}", n % 16), n));
    }
    assert!(harness.received(worker).is_empty());
    assert_eq!(harness.send(worker, durable("room:0", 0)), ["error store_unavailable"]);
    assert!(harness.send(worker, json!({"channel": "room:0", "event": "say"})).is_empty(), "others go on");
    let alice = harness.client("alice");
    assert_eq!(harness.publish(alice, "room:0", 1), ["send_success 0 0 kept"]);
    harness.disk_writes();
    assert_eq!(harness.received(worker).len(), 4096);
    assert!(harness.send(worker, durable("room:0", 0)).is_empty(), "there is room again");
}

#[test]
fn waiting_publishers_use_an_eighth_of_the_memory() {
    let mut settings = settings();
    settings.limits.memory = 1_000_000;
    let mut harness = Harness::with(settings);
    harness.disk.slow = true;
    let worker = harness.worker();
    for n in 0..3 {
        harness.send_unread(worker, &durable(&format!("room:{n}"), "x".repeat(50_000)));
    }
    let held = harness.stats()["memory_bytes"].as_u64().unwrap();
    assert!(held > 300_000, "on its way to the disk a message is there twice: {held}");
    assert_eq!(harness.send(worker, durable("room:3", 0)), ["error store_unavailable"]);
    harness.disk_writes();
    assert_eq!(harness.received(worker).len(), 3);
    let held = harness.stats()["memory_bytes"].as_u64().unwrap();
    assert!(held < 10_000, "what is on the disk is not in memory: {held}");
}

#[test]
fn waiting_answers_are_handed_over_except_those_of_http() {
    let mut harness = slow();
    let alice = harness.client("alice");
    harness.send_unread(alice, &durable("room", 1));
    harness.post(7, &json!({"channel": "room", "event": "say", "durable": true}));
    harness.hand_over();
    harness.disk_writes();
    assert_eq!(harness.received(alice), [STORED]);
    assert!(harness.answers(7).is_empty(), "its request ended with the other process");
}

#[test]
fn a_receipt_does_not_depend_on_the_disk() {
    let mut harness = slow();
    let alice = sender(&mut harness);
    let bob = harness.client_in("bob", InboxMode::Ack);
    let note = json!({"action": "send", "user_id": "bob", "event": "say", "durable": true, "receipt": true,
        "message_id": "m1"});
    harness.send_unread(alice, &note);
    harness.ack(bob, 1);
    let received = harness.frames(alice);
    assert_eq!(received.len(), 1, "the answer still waits");
    assert_eq!(received[0]["data"], json!({"message_id": "m1", "user_id": "bob", "state": "delivered"}));
    harness.disk_refuses();
    assert_eq!(harness.received(alice), ["error store_unavailable"]);
}

#[test]
fn the_store_receives_all_that_it_needs() {
    let mut harness = harness();
    let alice = harness.client("alice");
    harness.send(alice, named("history", "m1", true));
    harness.send(alice, named("history", "m2", false));
    harness.publish(alice, "room", 3);
    let keeping = |channel: &str, seq: u64| &harness.disk.keepings[&(log(channel), seq)];
    let (first, second, third) = (keeping("history", 1), keeping("history", 2), keeping("room", 1));
    assert_eq!((first.durable, first.disk), (true, WriteThrough::Now));
    assert_eq!((second.durable, second.disk), (false, WriteThrough::Stop));
    assert_eq!((third.durable, third.disk), (false, WriteThrough::Behind));
    assert_eq!(first.scope, Some(Scope::User(user_id("alice"))));
    assert_eq!(third.scope, None, "its publisher gave it no id");
}

#[test]
fn without_a_disk_nothing_is_to_be_written() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    harness.publish(alice, "room", 1);
    assert_eq!(harness.disk.keepings[&(log("room"), 1)].disk, WriteThrough::Never);
    assert_eq!(harness.send(alice, durable("room", 1)), ["error store_unavailable"]);
    assert_eq!(harness.stats()["durable_refused"], 1);
}

#[test]
fn a_repetition_of_a_stored_message_is_answered_stored() {
    let mut harness = harness();
    let alice = harness.client("alice");
    assert_eq!(harness.send(alice, named("room", "m1", true)), [STORED]);
    assert_eq!(harness.send(alice, named("room", "m1", true)), ["send_success 0 0 kept stored duplicate"]);
    harness.disk_fails();
    let answer = harness.send(alice, named("room", "m1", true));
    assert_eq!(answer, ["send_success 0 0 kept stored duplicate"], "it stays there");
}

#[test]
fn a_repetition_of_a_message_being_written_waits_too() {
    let mut harness = slow();
    let alice = harness.client("alice");
    harness.send_unread(alice, &named("room", "m1", true));
    assert!(harness.send(alice, named("room", "m1", true)).is_empty());
    harness.disk_writes();
    assert_eq!(harness.received(alice), [STORED, "send_success 0 0 kept stored duplicate"]);
    assert_eq!(harness.stats()["messages_stored"], 1);
}

#[test]
fn a_repetition_of_a_message_in_memory_makes_it_durable() {
    let mut harness = slow();
    let alice = harness.client("alice");
    assert_eq!(harness.send(alice, named("history", "m1", false)), ["send_success 0 0 kept"]);
    assert!(harness.send(alice, named("history", "m1", true)).is_empty());
    let order = Effect::SyncNow { log: log("history"), seq: 1 };
    assert_eq!(harness.last.list, [order], "what is kept is written, not what was said now");
    harness.disk_writes();
    assert_eq!(harness.received(alice), ["send_success 0 0 kept stored duplicate"]);
}

#[test]
fn a_repetition_after_a_refusal_of_the_disk_tries_again() {
    let mut harness = slow();
    let alice = harness.client("alice");
    harness.send_unread(alice, &named("room", "m1", true));
    harness.disk_fails();
    assert_eq!(harness.received(alice), ["error store_unavailable room"]);
    assert_eq!(harness.send(alice, named("room", "m1", true)), ["error store_unavailable"]);
    let answer = harness.send(alice, named("room", "m1", false));
    assert_eq!(answer, ["send_success 0 0 kept duplicate"]);
    harness.disk_works();
    assert!(harness.send(alice, named("room", "m1", true)).is_empty());
    harness.disk_writes();
    assert_eq!(harness.received(alice), ["send_success 0 0 kept stored duplicate"]);
}

#[test]
fn a_repetition_of_a_lost_message_claims_nothing() {
    let mut harness = harness();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.send(alice, named("room", "m1", true));
    harness.subscribe(bob, "room");
    assert_eq!(harness.send(alice, named("room", "m1", true)), ["send_success 0 0 false duplicate"]);
    harness.disk_fails();
    assert_eq!(harness.send(alice, named("room", "m1", true)), ["send_success 0 0 false duplicate"]);
}

#[test]
fn a_repetition_finds_nothing_in_a_new_epoch_of_its_channel() {
    let mut harness = harness();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "room");
    harness.send(alice, named("room", "m1", false));
    harness.send(bob, json!({"action": "unsubscribe", "channel": "room"}));
    harness.keep_alive(310);
    assert_eq!(harness.publish(alice, "room", 2), ["send_success 0 0 kept"]);
    assert_eq!(harness.send(alice, named("room", "m1", true)), ["send_success 0 0 false duplicate"]);
}

/// A worker that asks and does not wait, until it is not read any more; how much that was.
fn pipeline(harness: &mut Harness, worker: ConnectionId, data: &str) -> usize {
    for n in 0..5000 {
        if harness.paused.contains(&worker) {
            return n;
        }
        harness.send_unread(worker, &durable(&format!("room:{}", worker.slot), data));
    }
    panic!("it is read for ever");
}

#[test]
fn a_pipelining_worker_is_paused_and_nobody_is_refused() {
    let mut harness = slow();
    let (hog, polite) = (harness.worker(), harness.worker());
    assert_eq!(pipeline(&mut harness, hog, "x"), 256);
    assert!(harness.send(polite, durable("room", 1)).is_empty(), "it waits, and is not refused");
    assert!(!harness.paused.contains(&polite));
    harness.disk_writes();
    assert!(harness.paused.is_empty());
    let answers = harness.received(hog);
    assert!(answers.len() == 256 && answers.iter().all(|answer| answer == "ok"), "{answers:?}");
    assert_eq!(harness.received(polite).len(), 1);
    assert_eq!(pipeline(&mut harness, hog, "x"), 256, "it has its share again");
    assert_eq!(harness.stats()["durable_refused"], 0);
}

#[test]
fn many_pipelining_workers_share_the_room_and_leave_some() {
    let mut harness = slow();
    let hogs: Vec<ConnectionId> = (0..100).map(|_| harness.worker()).collect();
    let shares: Vec<usize> = hogs.iter().map(|hog| pipeline(&mut harness, *hog, "x")).collect();
    assert!(shares.is_sorted_by(|one, next| one >= next), "{shares:?}");
    let polite = harness.worker();
    assert!(harness.send(polite, durable("room", 1)).is_empty(), "it waits, and is not refused");
    harness.disk_writes();
    assert!(harness.paused.is_empty());
    assert_eq!(
        hogs.iter().map(|hog| harness.received(*hog).len()).sum::<usize>(),
        shares.iter().sum::<usize>()
    );
    assert_eq!(harness.stats()["durable_refused"], 0);
}

#[test]
fn large_messages_count_towards_the_share() {
    let mut settings = settings();
    settings.limits.memory = 16 << 20;
    let mut harness = Harness::with(settings);
    harness.disk.slow = true;
    let (hog, polite) = (harness.worker(), harness.worker());
    let messages = pipeline(&mut harness, hog, &"x".repeat(100_000));
    assert_eq!(messages, 2, "an eighth of three quarters of what may wait");
    assert!(harness.send(polite, durable("room", 1)).is_empty());
    harness.disk_writes();
    assert!(harness.paused.is_empty());
}

#[test]
fn paused_publishers_are_read_again_when_the_disk_fails() {
    let mut harness = slow();
    let hog = harness.worker();
    pipeline(&mut harness, hog, "x");
    harness.disk_fails();
    assert!(harness.paused.is_empty());
    assert_eq!(harness.received(hog).len(), 256, "each is answered, in vain");
}

#[test]
fn a_handover_keeps_publishers_over_their_share_paused() {
    let mut harness = slow();
    let (hog, polite) = (harness.worker(), harness.worker());
    pipeline(&mut harness, hog, "x");
    harness.hand_over();
    harness.send_unread(polite, &json!({"action": "ping"}));
    assert!(harness.paused.contains(&hog));
    harness.disk_writes();
    assert!(harness.paused.is_empty());
    assert_eq!(harness.received(hog).len(), 256);
}

#[test]
fn a_closed_connection_frees_its_share() {
    let mut harness = slow();
    let hog = harness.worker();
    pipeline(&mut harness, hog, "x");
    harness.disconnect(hog);
    let another = harness.worker();
    assert_eq!(pipeline(&mut harness, another, "x"), 256);
    harness.disk_writes();
    assert_eq!(harness.received(another).len(), 256);
}

#[test]
fn a_paused_client_is_not_closed_for_its_silence() {
    let mut settings = settings();
    (settings.limits.requests_per_second, settings.limits.burst) = (10_000, 10_000);
    let mut harness = Harness::with(settings);
    harness.disk.slow = true;
    let alice = harness.client("alice");
    pipeline(&mut harness, alice, "x");
    harness.wait(100.0);
    assert!(harness.received(alice).iter().all(|received| !received.starts_with("closed")));
    harness.disk_writes();
    assert!(harness.paused.is_empty());
    assert_eq!(harness.received(alice).len(), 256);
}
