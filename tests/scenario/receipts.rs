//! Receipts: delivered and read.
//!
//! Alice sends to Bob and asks for receipts. They come as messages in her own
//! inbox.

use serde_json::{Value, json};
use wshubd::hub::Settings;
use wshubd::hub::settings::Policy;
use wshubd::protocol::InboxMode::{Ack, Auto};

use super::bench::{Bench, Seat, brief, rights};
use super::inbox::sender;

/// Sends a message to Bob whose receipt is wanted.
fn send(bench: &mut Bench, from: Seat, id: &str) -> Vec<String> {
    let request =
        json!({"action": "send", "user_id": "bob", "event": "say", "message_id": id, "receipt": true});
    bench.say(from, request)
}

/// The receipts among the frames, as `id state`.
fn receipts(bench: &mut Bench, seat: Seat) -> Vec<String> {
    bench.frames(seat).iter().map(receipt).collect()
}

fn receipt(frame: &Value) -> String {
    assert_eq!(frame["event"], "system:receipt", "{}", brief(frame));
    let data = &frame["data"];
    assert_eq!(data["user_id"], "bob");
    assert_eq!(data.as_object().unwrap().len(), 3, "{data}");
    format!("{} {}", data["message_id"].as_str().unwrap(), data["state"].as_str().unwrap())
}

fn both(bench: &mut Bench) -> (Seat, Seat) {
    let (alice, bob) = (sender(bench), bench.client_in("bob", Ack));
    bench.hush(bob);
    (alice, bob)
}

#[test]
fn a_receipt_comes_with_the_ack_of_the_recipient() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    assert_eq!(send(&mut bench, alice, "m1"), ["send_success 1 0 kept"]);
    assert!(receipts(&mut bench, alice).is_empty(), "queued is not delivered");
    bench.ack(bob, 1);
    assert_eq!(receipts(&mut bench, alice), ["m1 delivered"]);
}

#[test]
fn a_receipt_is_a_hub_message_in_the_senders_inbox() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    send(&mut bench, alice, "m1");
    bench.ack(bob, 1);
    let heard = bench.frames(alice).remove(0);
    assert_eq!((&heard["type"], &heard["channel"]), (&json!("message"), &json!("@me")));
    assert_eq!((&heard["from"], &heard["source"]), (&json!("hub"), &json!("hub")));
    assert_eq!(heard["seq"], 1, "it takes a place in her inbox");
    assert_eq!(heard["data"], json!({"message_id": "m1", "user_id": "bob", "state": "delivered"}));
    assert_ne!(heard["message_id"], "m1", "it has an id of its own");
}

#[test]
fn an_absent_sender_finds_the_receipt_later() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    send(&mut bench, alice, "m1");
    bench.leave(alice);
    bench.ack(bob, 1);
    let alice = bench.client_in("alice", Auto);
    let heard = bench.frames(alice);
    assert_eq!((receipt(&heard[1]).as_str(), &heard[1]["replayed"]), ("m1 delivered", &json!(true)));
}

#[test]
fn every_connection_of_the_sender_gets_the_receipt() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    let other = bench.client_in("alice", Auto);
    bench.hush(other);
    send(&mut bench, alice, "m1");
    bench.ack(bob, 1);
    assert_eq!(receipts(&mut bench, alice), ["m1 delivered"]);
    assert_eq!(receipts(&mut bench, other), ["m1 delivered"]);
}

#[test]
fn delivered_comes_before_read() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    send(&mut bench, alice, "m1");
    bench.ack(bob, 1);
    bench.ack_read(bob, 1);
    assert_eq!(receipts(&mut bench, alice), ["m1 delivered", "m1 read"]);
}

#[test]
fn a_message_read_at_once_has_no_delivered_receipt() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    send(&mut bench, alice, "m1");
    bench.ack_read(bob, 1);
    bench.ack(bob, 1);
    assert_eq!(receipts(&mut bench, alice), ["m1 read"]);
}

#[test]
fn a_state_is_sent_once_however_often_it_is_acknowledged() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    let other = bench.client_in("bob", Ack);
    send(&mut bench, alice, "m1");
    for seat in [bob, other, bob] {
        bench.ack(seat, 1);
    }
    for seat in [other, bob] {
        bench.ack_read(seat, 1);
    }
    assert_eq!(receipts(&mut bench, alice), ["m1 delivered", "m1 read"]);
}

#[test]
fn one_ack_makes_all_receipts_it_passes_in_order() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    let other = bench.client_with("carol", rights(&[], &["@user:*"], &[]));
    for id in ["m1", "m2"] {
        send(&mut bench, alice, id);
    }
    send(&mut bench, other, "c1");
    send(&mut bench, alice, "m3");
    bench.ack(bob, 3);
    assert_eq!(receipts(&mut bench, alice), ["m1 delivered", "m2 delivered"]);
    assert_eq!(receipts(&mut bench, other), ["c1 delivered"], "to the one who asked");
    bench.ack_read(bob, 2);
    assert_eq!(receipts(&mut bench, alice), ["m1 read", "m2 read"]);
    bench.ack_read(bob, 4);
    assert_eq!(receipts(&mut bench, alice), ["m3 read"]);
    assert_eq!(receipts(&mut bench, other), ["c1 read"]);
}

#[test]
fn without_a_request_there_is_no_receipt() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    super::inbox::send(&mut bench, alice, 1);
    bench.ack_read(bob, 1);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn a_frame_taken_by_a_socket_makes_no_receipt() {
    let mut bench = Bench::new();
    let alice = sender(&mut bench);
    let bob = bench.client_in("bob", Auto);
    bench.hush(bob);
    send(&mut bench, alice, "m1");
    assert_eq!(bench.story(bob).len(), 1);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn an_ack_without_effect_makes_no_receipt() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    send(&mut bench, alice, "m1");
    bench.ack(bob, 2);
    bench.say(bob, json!({"action": "ack", "epoch": "other", "seq": 1}));
    assert!(bench.story(alice).is_empty());
}

#[test]
fn a_message_expired_before_its_ack_has_no_receipt() {
    let mut bench = Bench::new();
    let alice = sender(&mut bench);
    let request = json!({"action": "send", "user_id": "bob", "event": "say", "ttl": 5, "receipt": true});
    bench.say(alice, request);
    bench.live(6);
    bench.hush(alice);
    super::inbox::send(&mut bench, alice, 2);
    let bob = bench.client_in("bob", Ack);
    bench.ack_read(bob, 2);
    assert!(bench.story(alice).is_empty());
}

#[test]
fn a_repeated_message_has_one_receipt() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    send(&mut bench, alice, "m1");
    assert_eq!(send(&mut bench, alice, "m1"), ["send_success 0 0 kept duplicate"]);
    bench.ack(bob, 1);
    assert_eq!(receipts(&mut bench, alice), ["m1 delivered"]);
}

#[test]
fn a_worker_gets_receipts_as_lines_while_connected() {
    let mut bench = Bench::new();
    let (worker, bob) = (bench.worker(), bench.client_in("bob", Ack));
    let line =
        |id: &str| json!({"user_id": "bob", "event": "say", "message_id": id, "receipt": true, "id": 1});
    assert_eq!(bench.say(worker, line("m1")), ["ok"]);
    bench.ack(bob, 1);
    let heard = bench.frames(worker);
    assert_eq!((heard.len(), receipt(&heard[0]).as_str()), (1, "m1 delivered"));
    assert_eq!((heard[0].get("channel"), heard[0].get("seq")), (None, None));
    assert_eq!((&heard[0]["from"], &heard[0]["source"]), (&json!("hub"), &json!("hub")));
    bench.say(worker, line("m2"));
    bench.leave(worker);
    let next = bench.worker();
    bench.ack(bob, 2);
    assert!(bench.story(next).is_empty(), "it is nobody else's");
}

#[test]
fn receipts_are_for_messages_of_users_and_workers_to_users() {
    let mut bench = Bench::open();
    let (alice, bob) = both(&mut bench);
    let nobody = bench.stranger();
    bench.hush(nobody);
    let to_channel = json!({"action": "send", "channel": "room", "event": "say", "receipt": true});
    let to_connection =
        json!({"action": "send", "connection_id": bob.to_string(), "event": "say", "receipt": true});
    let to_user = json!({"action": "send", "user_id": "bob", "event": "say", "receipt": true});
    for request in [to_channel.clone(), to_connection] {
        let answer = bench.ask(alice, request).remove(0);
        assert_eq!(answer["code"], "bad_request");
        assert!(answer["message"].as_str().unwrap().contains("receipt"), "{answer}");
    }
    let worker = bench.worker();
    assert_eq!(bench.say(worker, to_channel), ["error bad_request room"]);
    let mut open = bench.settings.clone();
    open.rights = rights(&["*"], &["*", "@user:*"], &[]);
    let mut bench = Bench::with(open);
    let nobody = bench.stranger();
    bench.hush(nobody);
    assert_eq!(bench.say(nobody, to_user), ["error bad_request"]);
    let body = json!({"user_id": "bob", "event": "say", "receipt": true});
    assert_eq!(bench.post(1, &body), ["error bad_request"]);
    assert_eq!(bench.stored(), 0, "nothing was sent");
}

#[test]
fn pending_receipts_are_handed_over() {
    let mut bench = Bench::new();
    let (alice, bob) = both(&mut bench);
    send(&mut bench, alice, "m1");
    send(&mut bench, alice, "m2");
    bench.ack(bob, 1);
    bench.hush(alice);
    bench.hand_over();
    bench.ack_read(bob, 2);
    assert_eq!(receipts(&mut bench, alice), ["m1 read", "m2 read"]);
}

#[test]
fn a_message_evicted_before_its_ack_has_no_receipt() {
    let mut bench = super::inbox::with_inbox(Policy { count: 2, ..Settings::default().inbox });
    let alice = sender(&mut bench);
    send(&mut bench, alice, "m1");
    super::inbox::send(&mut bench, alice, 2);
    super::inbox::send(&mut bench, alice, 3);
    bench.hush(alice);
    let bob = bench.client_in("bob", Ack);
    let told = ["connection_established", "gap 1 1 1 evicted", "say 2 replayed", "say 3 replayed"];
    assert_eq!(bench.story(bob), told);
    bench.ack_read(bob, 3);
    assert!(bench.story(alice).is_empty(), "it never arrived");
}

#[test]
fn pending_receipts_are_limited_and_the_oldest_dropped() {
    let mut settings = Settings::default();
    settings.limits.requests_per_second = 1000;
    settings.limits.burst = 1000;
    settings.limits.kept_bytes = 20_000;
    let mut bench = Bench::with(settings);
    let (alice, bob) = both(&mut bench);
    for n in 1..=100 {
        send(&mut bench, alice, &format!("m{n}"));
        bench.ack(bob, n);
    }
    let kept = bench.stats()["kept_bytes"].as_u64().unwrap();
    assert!((10_000..=21_000).contains(&kept), "{kept}");
    assert_eq!(receipts(&mut bench, alice), ["m100 delivered"], "the others were told before");
    bench.ack_read(bob, 100);
    let read = receipts(&mut bench, alice);
    assert!((50..100).contains(&read.len()), "{read:?}");
    assert_eq!(read.last().unwrap(), "m100 read", "the youngest are still told");
    assert_eq!(bench.stats()["kept_bytes"], 0);
}

#[test]
fn a_message_expired_for_one_connection_is_acked_by_another() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    let desk = bench.client_in("bob", Auto);
    bench.clog(desk);
    bench.outbound(desk, wshubd::hub::SendQueueState::Full);
    bench.say(worker, json!({"user_id": "bob", "event": "say", "ttl": 5, "receipt": true}));
    let phone = bench.client_in("bob", Auto);
    bench.hush(phone);
    bench.wait(6.0);
    bench.ack(phone, 1);
    let heard = bench.frames(worker);
    assert!(heard.iter().any(|frame| frame["event"] == "system:receipt"), "{heard:?}");
}
