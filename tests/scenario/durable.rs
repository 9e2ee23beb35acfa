//! `durable: true`: the promise to the publisher, and the time of its answer.

use serde_json::{Value, json};
use wshubd::hub::settings::{Keep, Policy, WriteThrough};
use wshubd::hub::{Effect, LogKey, Pattern, Scope, Settings};
use wshubd::protocol::{Channel, InboxMode};

use super::bench::{Bench, Seat, rights, user_id};

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

fn bench() -> Bench {
    Bench::with(settings())
}

/// A bench with a disk that writes on demand.
fn slow() -> Bench {
    let mut bench = bench();
    bench.disk.slow = true;
    bench
}

fn durable(channel: &str, data: impl Into<Value>) -> Value {
    json!({"action": "send", "channel": channel, "event": "say", "data": data.into(), "durable": true, "id": 1})
}

fn named(channel: &str, id: &str, durable: bool) -> Value {
    json!({"action": "send", "channel": channel, "event": "say", "durable": durable, "message_id": id, "id": 1})
}

/// A client that may send to users.
fn sender(bench: &mut Bench) -> Seat {
    bench.client_with("alice", rights(&["*"], &["*", "@user:*"], &[]))
}

fn log(channel: &str) -> LogKey {
    LogKey::Channel(Channel::new(channel).unwrap())
}

#[test]
fn the_answer_waits_for_the_disk_live_delivery_does_not() {
    let mut bench = slow();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(bob, "history");
    bench.hush(bob);
    assert!(bench.say(alice, durable("history", 1)).is_empty());
    assert_eq!(bench.story(bob), ["say 1"]);
    bench.disk_writes();
    assert_eq!(bench.story(alice), ["send_success 1 0 kept stored"]);
}

#[test]
fn workers_and_http_callers_wait_in_the_same_way() {
    let mut bench = slow();
    let worker = bench.worker();
    assert!(bench.say(worker, durable("room", 1)).is_empty());
    assert!(bench.post(7, &json!({"user_id": "bob", "event": "say", "durable": true})).is_empty());
    bench.disk_writes();
    let answer = bench.frames(worker).remove(0);
    assert_eq!(
        (&answer["type"], &answer["kept"], &answer["stored"]),
        (&json!("ok"), &json!(true), &json!(true))
    );
    assert_eq!(answer["id"], 1);
    assert_eq!(bench.answers(7), [STORED]);
}

#[test]
fn answers_keep_their_order_except_those_that_wait() {
    let mut bench = slow();
    let alice = bench.client("alice");
    for n in 1..=2 {
        bench.tell(alice, &durable("room", n));
        bench.tell(alice, &json!({"action": "ping"}));
    }
    assert_eq!(bench.story(alice), ["pong", "pong"]);
    bench.disk_writes();
    assert_eq!(bench.story(alice), [STORED, STORED]);
    let bob = bench.client("bob");
    assert_eq!(bench.subscribe(bob, "room")[2..], ["say 1 replayed", "say 2 replayed"]);
}

#[test]
fn a_message_that_is_not_kept_is_answered_at_once() {
    let mut bench = slow();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(bob, "room");
    assert_eq!(bench.say(alice, durable("room", 1)), ["send_success 1 0 false"], "heard by all");
    assert_eq!(bench.say(alice, durable("never", 1)), ["send_success 0 0 false"]);
    assert_eq!(bench.say(alice, durable("none", 1)), ["send_success 0 0 false"]);
    let fleeting = json!({"action": "send", "channel": "room", "event": "say", "durable": true, "ttl": 0});
    assert_eq!(bench.say(alice, fleeting), ["error bad_request room"]);
    assert_eq!(bench.stats()["durable_refused"], 0);
}

#[test]
fn a_message_the_disk_refuses_gets_store_unavailable() {
    let mut bench = slow();
    let alice = bench.client("alice");
    bench.tell(alice, &durable("room", 1));
    bench.disk_refuses();
    let error = bench.frames(alice).remove(0);
    assert_eq!((&error["code"], &error["id"]), (&json!("store_unavailable"), &json!(1)));
    assert_eq!((&error["action"], &error["channel"]), (&json!("send"), &json!("room")));
    bench.disk_writes_all();
    assert!(bench.story(alice).is_empty(), "it is answered once");
    let bob = bench.client("bob");
    assert_eq!(bench.subscribe(bob, "room").last().unwrap(), "say 1 replayed");
    let stats = bench.stats();
    assert_eq!((&stats["durable_refused"], &stats["messages_stored"]), (&json!(1), &json!(1)));
}

#[test]
fn no_durable_message_is_delivered_while_the_disk_fails() {
    let mut bench = bench();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(bob, "history");
    bench.hush(bob);
    bench.disk_fails();
    assert_eq!(bench.stats()["store_failed"], 1);
    assert_eq!(bench.say(alice, durable("history", 1)), ["error store_unavailable"]);
    assert!(bench.story(bob).is_empty());
    assert_eq!(bench.publish(alice, "history", 2), ["send_success 1 0 kept"], "others go on");
    assert_eq!(bench.frames(bob)[0]["seq"], 1, "what was refused took no position");
    bench.disk_works();
    assert_eq!(bench.stats()["store_failed"], 0);
    assert_eq!(bench.say(alice, durable("history", 3)), ["send_success 1 0 kept stored"]);
}

#[test]
fn nobody_waits_for_a_failed_disk() {
    let mut bench = slow();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.tell(alice, &durable("room", 1));
    bench.tell(bob, &durable("hall", 1));
    bench.disk_fails();
    assert_eq!(bench.story(alice), ["error store_unavailable room"]);
    assert_eq!(bench.story(bob), ["error store_unavailable hall"]);
}

#[test]
fn a_publisher_that_left_is_not_answered() {
    let mut bench = slow();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.tell(alice, &durable("room", 1));
    bench.tell(bob, &durable("room", 2));
    bench.leave(alice);
    bench.disk_writes();
    assert_eq!(bench.story(bob), [STORED]);
    let bob = bench.client("bob");
    bench.tell(bob, &durable("room", 3));
    bench.leave(bob);
    bench.disk_refuses();
    assert_eq!(bench.stats()["durable_refused"], 0);
}

#[test]
fn a_message_delivered_before_the_write_is_answered_after_it() {
    let mut bench = slow();
    let alice = sender(&mut bench);
    let bob = bench.client("bob");
    bench.tell(
        alice,
        &json!({"action": "send", "user_id": "bob", "event": "say", "data": 1, "durable": true}),
    );
    assert_eq!(bench.story(bob), ["say 1"]);
    assert_eq!(bench.stored(), 0, "it has arrived");
    assert!(bench.story(alice).is_empty());
    bench.leave(bob);
    bench.live(310);
    bench.hush(alice);
    bench.disk_writes();
    assert_eq!(bench.story(alice), ["send_success 1 0 kept stored"], "its inbox is not forgotten");
    assert_eq!(bench.stats()["messages_stored"], 1);
    assert_eq!(bench.stats()["kept_bytes"], 0);
}

#[test]
fn a_message_lost_before_the_write_is_answered_not_kept() {
    let mut bench = slow();
    let alice = bench.client("alice");
    bench.tell(alice, &durable("one", 1));
    bench.tell(alice, &durable("one", 2));
    let brief = json!({"action": "send", "channel": "room", "event": "say", "durable": true, "ttl": 5});
    bench.tell(alice, &brief);
    bench.wait(6.0);
    bench.disk_writes();
    let lost = "send_success 0 0 false stored";
    assert_eq!(bench.story(alice), [lost, STORED, lost], "pushed out by its own log; and too old");
}

#[test]
fn the_number_of_waiting_publishers_is_limited() {
    let mut settings = settings();
    settings.limits.burst = 10_000;
    let mut bench = Bench::with(settings);
    bench.disk.slow = true;
    let worker = bench.worker();
    for n in 0..4096 {
        bench.tell(worker, &durable(&format!("room:{}", n % 16), n));
    }
    assert!(bench.story(worker).is_empty());
    assert_eq!(bench.say(worker, durable("room:0", 0)), ["error store_unavailable"]);
    assert!(bench.say(worker, json!({"channel": "room:0", "event": "say"})).is_empty(), "others go on");
    let alice = bench.client("alice");
    assert_eq!(bench.publish(alice, "room:0", 1), ["send_success 0 0 kept"]);
    bench.disk_writes();
    assert_eq!(bench.story(worker).len(), 4096);
    assert!(bench.say(worker, durable("room:0", 0)).is_empty(), "there is room again");
}

#[test]
fn waiting_publishers_use_an_eighth_of_the_memory() {
    let mut settings = settings();
    settings.limits.memory = 1_000_000;
    let mut bench = Bench::with(settings);
    bench.disk.slow = true;
    let worker = bench.worker();
    for n in 0..3 {
        bench.tell(worker, &durable(&format!("room:{n}"), "x".repeat(50_000)));
    }
    let held = bench.stats()["memory_bytes"].as_u64().unwrap();
    assert!(held > 300_000, "on its way to the disk a message is there twice: {held}");
    assert_eq!(bench.say(worker, durable("room:3", 0)), ["error store_unavailable"]);
    bench.disk_writes();
    assert_eq!(bench.story(worker).len(), 3);
    let held = bench.stats()["memory_bytes"].as_u64().unwrap();
    assert!(held < 10_000, "what is on the disk is not in memory: {held}");
}

#[test]
fn waiting_answers_are_handed_over_except_those_of_http() {
    let mut bench = slow();
    let alice = bench.client("alice");
    bench.tell(alice, &durable("room", 1));
    bench.post(7, &json!({"channel": "room", "event": "say", "durable": true}));
    bench.hand_over();
    bench.disk_writes();
    assert_eq!(bench.story(alice), [STORED]);
    assert!(bench.answers(7).is_empty(), "its request ended with the other process");
}

#[test]
fn a_receipt_does_not_depend_on_the_disk() {
    let mut bench = slow();
    let alice = sender(&mut bench);
    let bob = bench.client_in("bob", InboxMode::Ack);
    let note = json!({"action": "send", "user_id": "bob", "event": "say", "durable": true, "receipt": true,
        "message_id": "m1"});
    bench.tell(alice, &note);
    bench.ack(bob, 1);
    let heard = bench.frames(alice);
    assert_eq!(heard.len(), 1, "the answer still waits");
    assert_eq!(heard[0]["data"], json!({"message_id": "m1", "user_id": "bob", "state": "delivered"}));
    bench.disk_refuses();
    assert_eq!(bench.story(alice), ["error store_unavailable"]);
}

#[test]
fn the_store_receives_all_that_it_needs() {
    let mut bench = bench();
    let alice = bench.client("alice");
    bench.say(alice, named("history", "m1", true));
    bench.say(alice, named("history", "m2", false));
    bench.publish(alice, "room", 3);
    let keeping = |channel: &str, seq: u64| &bench.disk.keepings[&(log(channel), seq)];
    let (first, second, third) = (keeping("history", 1), keeping("history", 2), keeping("room", 1));
    assert_eq!((first.durable, first.disk), (true, WriteThrough::Now));
    assert_eq!((second.durable, second.disk), (false, WriteThrough::Stop));
    assert_eq!((third.durable, third.disk), (false, WriteThrough::Behind));
    assert_eq!(first.scope, Some(Scope::User(user_id("alice"))));
    assert_eq!(third.scope, None, "its publisher gave it no id");
}

#[test]
fn without_a_disk_nothing_is_to_be_written() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    bench.publish(alice, "room", 1);
    assert_eq!(bench.disk.keepings[&(log("room"), 1)].disk, WriteThrough::Never);
    assert_eq!(bench.say(alice, durable("room", 1)), ["error store_unavailable"]);
    assert_eq!(bench.stats()["durable_refused"], 1);
}

#[test]
fn a_repetition_of_a_stored_message_is_answered_stored() {
    let mut bench = bench();
    let alice = bench.client("alice");
    assert_eq!(bench.say(alice, named("room", "m1", true)), [STORED]);
    assert_eq!(bench.say(alice, named("room", "m1", true)), ["send_success 0 0 kept stored duplicate"]);
    bench.disk_fails();
    let answer = bench.say(alice, named("room", "m1", true));
    assert_eq!(answer, ["send_success 0 0 kept stored duplicate"], "it stays there");
}

#[test]
fn a_repetition_of_a_message_being_written_waits_too() {
    let mut bench = slow();
    let alice = bench.client("alice");
    bench.tell(alice, &named("room", "m1", true));
    assert!(bench.say(alice, named("room", "m1", true)).is_empty());
    bench.disk_writes();
    assert_eq!(bench.story(alice), [STORED, "send_success 0 0 kept stored duplicate"]);
    assert_eq!(bench.stats()["messages_stored"], 1);
}

#[test]
fn a_repetition_of_a_message_in_memory_makes_it_durable() {
    let mut bench = slow();
    let alice = bench.client("alice");
    assert_eq!(bench.say(alice, named("history", "m1", false)), ["send_success 0 0 kept"]);
    assert!(bench.say(alice, named("history", "m1", true)).is_empty());
    let order = Effect::SyncNow { log: log("history"), seq: 1 };
    assert_eq!(bench.last.list, [order], "what is kept is written, not what was said now");
    bench.disk_writes();
    assert_eq!(bench.story(alice), ["send_success 0 0 kept stored duplicate"]);
}

#[test]
fn a_repetition_after_a_refusal_of_the_disk_tries_again() {
    let mut bench = slow();
    let alice = bench.client("alice");
    bench.tell(alice, &named("room", "m1", true));
    bench.disk_fails();
    assert_eq!(bench.story(alice), ["error store_unavailable room"]);
    assert_eq!(bench.say(alice, named("room", "m1", true)), ["error store_unavailable"]);
    let answer = bench.say(alice, named("room", "m1", false));
    assert_eq!(answer, ["send_success 0 0 kept duplicate"]);
    bench.disk_works();
    assert!(bench.say(alice, named("room", "m1", true)).is_empty());
    bench.disk_writes();
    assert_eq!(bench.story(alice), ["send_success 0 0 kept stored duplicate"]);
}

#[test]
fn a_repetition_of_a_lost_message_claims_nothing() {
    let mut bench = bench();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.say(alice, named("room", "m1", true));
    bench.subscribe(bob, "room");
    assert_eq!(bench.say(alice, named("room", "m1", true)), ["send_success 0 0 false duplicate"]);
    bench.disk_fails();
    assert_eq!(bench.say(alice, named("room", "m1", true)), ["send_success 0 0 false duplicate"]);
}

#[test]
fn a_repetition_finds_nothing_in_a_new_epoch_of_its_channel() {
    let mut bench = bench();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(bob, "room");
    bench.say(alice, named("room", "m1", false));
    bench.say(bob, json!({"action": "unsubscribe", "channel": "room"}));
    bench.live(310);
    assert_eq!(bench.publish(alice, "room", 2), ["send_success 0 0 kept"]);
    assert_eq!(bench.say(alice, named("room", "m1", true)), ["send_success 0 0 false duplicate"]);
}

/// A worker that asks and does not wait, until it is not read any more; how much that was.
fn pipeline(bench: &mut Bench, worker: Seat, data: &str) -> usize {
    for n in 0..5000 {
        if bench.paused.contains(&worker) {
            return n;
        }
        bench.tell(worker, &durable(&format!("room:{}", worker.slot), data));
    }
    panic!("it is read for ever");
}

#[test]
fn a_pipelining_worker_is_paused_and_nobody_is_refused() {
    let mut bench = slow();
    let (hog, polite) = (bench.worker(), bench.worker());
    assert_eq!(pipeline(&mut bench, hog, "x"), 256);
    assert!(bench.say(polite, durable("room", 1)).is_empty(), "it waits, and is not refused");
    assert!(!bench.paused.contains(&polite));
    bench.disk_writes();
    assert!(bench.paused.is_empty());
    let answers = bench.story(hog);
    assert!(answers.len() == 256 && answers.iter().all(|answer| answer == "ok"), "{answers:?}");
    assert_eq!(bench.story(polite).len(), 1);
    assert_eq!(pipeline(&mut bench, hog, "x"), 256, "it has its share again");
    assert_eq!(bench.stats()["durable_refused"], 0);
}

#[test]
fn many_pipelining_workers_share_the_room_and_leave_some() {
    let mut bench = slow();
    let hogs: Vec<Seat> = (0..100).map(|_| bench.worker()).collect();
    let shares: Vec<usize> = hogs.iter().map(|hog| pipeline(&mut bench, *hog, "x")).collect();
    assert!(shares.is_sorted_by(|one, next| one >= next), "{shares:?}");
    let polite = bench.worker();
    assert!(bench.say(polite, durable("room", 1)).is_empty(), "it waits, and is not refused");
    bench.disk_writes();
    assert!(bench.paused.is_empty());
    assert_eq!(hogs.iter().map(|hog| bench.story(*hog).len()).sum::<usize>(), shares.iter().sum::<usize>());
    assert_eq!(bench.stats()["durable_refused"], 0);
}

#[test]
fn large_messages_count_towards_the_share() {
    let mut settings = settings();
    settings.limits.memory = 16 << 20;
    let mut bench = Bench::with(settings);
    bench.disk.slow = true;
    let (hog, polite) = (bench.worker(), bench.worker());
    let messages = pipeline(&mut bench, hog, &"x".repeat(100_000));
    assert_eq!(messages, 2, "an eighth of three quarters of what may wait");
    assert!(bench.say(polite, durable("room", 1)).is_empty());
    bench.disk_writes();
    assert!(bench.paused.is_empty());
}

#[test]
fn paused_publishers_are_read_again_when_the_disk_fails() {
    let mut bench = slow();
    let hog = bench.worker();
    pipeline(&mut bench, hog, "x");
    bench.disk_fails();
    assert!(bench.paused.is_empty());
    assert_eq!(bench.story(hog).len(), 256, "each is answered, in vain");
}

#[test]
fn a_handover_keeps_publishers_over_their_share_paused() {
    let mut bench = slow();
    let (hog, polite) = (bench.worker(), bench.worker());
    pipeline(&mut bench, hog, "x");
    bench.hand_over();
    bench.tell(polite, &json!({"action": "ping"}));
    assert!(bench.paused.contains(&hog));
    bench.disk_writes();
    assert!(bench.paused.is_empty());
    assert_eq!(bench.story(hog).len(), 256);
}

#[test]
fn a_closed_connection_frees_its_share() {
    let mut bench = slow();
    let hog = bench.worker();
    pipeline(&mut bench, hog, "x");
    bench.leave(hog);
    let another = bench.worker();
    assert_eq!(pipeline(&mut bench, another, "x"), 256);
    bench.disk_writes();
    assert_eq!(bench.story(another).len(), 256);
}

#[test]
fn a_paused_client_is_not_closed_for_its_silence() {
    let mut settings = settings();
    (settings.limits.requests_per_second, settings.limits.burst) = (10_000, 10_000);
    let mut bench = Bench::with(settings);
    bench.disk.slow = true;
    let alice = bench.client("alice");
    pipeline(&mut bench, alice, "x");
    bench.wait(100.0);
    assert!(bench.story(alice).iter().all(|heard| !heard.starts_with("closed")));
    bench.disk_writes();
    assert!(bench.paused.is_empty());
    assert_eq!(bench.story(alice).len(), 256);
}
