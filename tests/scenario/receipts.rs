//! Receipts: delivered and read.
//!
//! Alice sends to Bob and asks for receipts. They come as messages in her own
//! inbox.

use serde_json::{Value, json};
use wshubd::hub::Settings;
use wshubd::hub::settings::Policy;
use wshubd::protocol::InboxMode::{Ack, Auto};

use super::harness::{ConnectionId, Harness, rights, summary};
use super::inbox::sender;

/// Sends a message to Bob whose receipt is wanted.
fn send(harness: &mut Harness, from: ConnectionId, id: &str) -> Vec<String> {
    let request =
        json!({"action": "send", "user_id": "bob", "event": "say", "message_id": id, "receipt": true});
    harness.send(from, request)
}

/// The receipts among the frames, as `id state`.
fn receipts(harness: &mut Harness, conn: ConnectionId) -> Vec<String> {
    harness.frames(conn).iter().map(receipt).collect()
}

fn receipt(frame: &Value) -> String {
    assert_eq!(frame["event"], "system:receipt", "{}", summary(frame));
    let data = &frame["data"];
    assert_eq!(data["user_id"], "bob");
    assert_eq!(data.as_object().unwrap().len(), 3, "{data}");
    format!("{} {}", data["message_id"].as_str().unwrap(), data["state"].as_str().unwrap())
}

fn both(harness: &mut Harness) -> (ConnectionId, ConnectionId) {
    let (alice, bob) = (sender(harness), harness.client_in("bob", Ack));
    harness.discard_frames(bob);
    (alice, bob)
}

#[test]
fn a_receipt_comes_with_the_ack_of_the_recipient() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    assert_eq!(send(&mut harness, alice, "m1"), ["send_success 1 0 kept"]);
    assert!(receipts(&mut harness, alice).is_empty(), "queued is not delivered");
    harness.ack(bob, 1);
    assert_eq!(receipts(&mut harness, alice), ["m1 delivered"]);
}

#[test]
fn a_receipt_is_a_hub_message_in_the_senders_inbox() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    send(&mut harness, alice, "m1");
    harness.ack(bob, 1);
    let received = harness.frames(alice).remove(0);
    assert_eq!((&received["type"], &received["channel"]), (&json!("message"), &json!("@me")));
    assert_eq!((&received["from"], &received["source"]), (&json!("hub"), &json!("hub")));
    assert_eq!(received["seq"], 1, "it takes a place in her inbox");
    assert_eq!(received["data"], json!({"message_id": "m1", "user_id": "bob", "state": "delivered"}));
    assert_ne!(received["message_id"], "m1", "it has an id of its own");
}

#[test]
fn an_absent_sender_finds_the_receipt_later() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    send(&mut harness, alice, "m1");
    harness.disconnect(alice);
    harness.ack(bob, 1);
    let alice = harness.client_in("alice", Auto);
    let received = harness.frames(alice);
    assert_eq!((receipt(&received[1]).as_str(), &received[1]["replayed"]), ("m1 delivered", &json!(true)));
}

#[test]
fn every_connection_of_the_sender_gets_the_receipt() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    let other = harness.client_in("alice", Auto);
    harness.discard_frames(other);
    send(&mut harness, alice, "m1");
    harness.ack(bob, 1);
    assert_eq!(receipts(&mut harness, alice), ["m1 delivered"]);
    assert_eq!(receipts(&mut harness, other), ["m1 delivered"]);
}

#[test]
fn delivered_comes_before_read() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    send(&mut harness, alice, "m1");
    harness.ack(bob, 1);
    harness.ack_read(bob, 1);
    assert_eq!(receipts(&mut harness, alice), ["m1 delivered", "m1 read"]);
}

#[test]
fn a_message_read_at_once_has_no_delivered_receipt() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    send(&mut harness, alice, "m1");
    harness.ack_read(bob, 1);
    harness.ack(bob, 1);
    assert_eq!(receipts(&mut harness, alice), ["m1 read"]);
}

#[test]
fn a_state_is_sent_once_however_often_it_is_acknowledged() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    let other = harness.client_in("bob", Ack);
    send(&mut harness, alice, "m1");
    for conn in [bob, other, bob] {
        harness.ack(conn, 1);
    }
    for conn in [other, bob] {
        harness.ack_read(conn, 1);
    }
    assert_eq!(receipts(&mut harness, alice), ["m1 delivered", "m1 read"]);
}

#[test]
fn one_ack_makes_all_receipts_it_passes_in_order() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    let other = harness.client_with("carol", rights(&[], &["@user:*"], &[]));
    for id in ["m1", "m2"] {
        send(&mut harness, alice, id);
    }
    send(&mut harness, other, "c1");
    send(&mut harness, alice, "m3");
    harness.ack(bob, 3);
    assert_eq!(receipts(&mut harness, alice), ["m1 delivered", "m2 delivered"]);
    assert_eq!(receipts(&mut harness, other), ["c1 delivered"], "to the one who asked");
    harness.ack_read(bob, 2);
    assert_eq!(receipts(&mut harness, alice), ["m1 read", "m2 read"]);
    harness.ack_read(bob, 4);
    assert_eq!(receipts(&mut harness, alice), ["m3 read"]);
    assert_eq!(receipts(&mut harness, other), ["c1 read"]);
}

#[test]
fn without_a_request_there_is_no_receipt() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    super::inbox::send(&mut harness, alice, 1);
    harness.ack_read(bob, 1);
    assert!(harness.received(alice).is_empty());
}

#[test]
fn a_frame_taken_by_a_socket_makes_no_receipt() {
    let mut harness = Harness::new();
    let alice = sender(&mut harness);
    let bob = harness.client_in("bob", Auto);
    harness.discard_frames(bob);
    send(&mut harness, alice, "m1");
    assert_eq!(harness.received(bob).len(), 1);
    assert!(harness.received(alice).is_empty());
}

#[test]
fn an_ack_without_effect_makes_no_receipt() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    send(&mut harness, alice, "m1");
    harness.ack(bob, 2);
    harness.send(bob, json!({"action": "ack", "epoch": "other", "seq": 1}));
    assert!(harness.received(alice).is_empty());
}

#[test]
fn a_message_expired_before_its_ack_has_no_receipt() {
    let mut harness = Harness::new();
    let alice = sender(&mut harness);
    let request = json!({"action": "send", "user_id": "bob", "event": "say", "ttl": 5, "receipt": true});
    harness.send(alice, request);
    harness.keep_alive(6);
    harness.discard_frames(alice);
    super::inbox::send(&mut harness, alice, 2);
    let bob = harness.client_in("bob", Ack);
    harness.ack_read(bob, 2);
    assert!(harness.received(alice).is_empty());
}

#[test]
fn a_repeated_message_has_one_receipt() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    send(&mut harness, alice, "m1");
    assert_eq!(send(&mut harness, alice, "m1"), ["send_success 0 0 kept duplicate"]);
    harness.ack(bob, 1);
    assert_eq!(receipts(&mut harness, alice), ["m1 delivered"]);
}

#[test]
fn a_worker_gets_receipts_as_lines_while_connected() {
    let mut harness = Harness::new();
    let (worker, bob) = (harness.worker(), harness.client_in("bob", Ack));
    let line =
        |id: &str| json!({"user_id": "bob", "event": "say", "message_id": id, "receipt": true, "id": 1});
    assert_eq!(harness.send(worker, line("m1")), ["ok"]);
    harness.ack(bob, 1);
    let received = harness.frames(worker);
    assert_eq!((received.len(), receipt(&received[0]).as_str()), (1, "m1 delivered"));
    assert_eq!((received[0].get("channel"), received[0].get("seq")), (None, None));
    assert_eq!((&received[0]["from"], &received[0]["source"]), (&json!("hub"), &json!("hub")));
    harness.send(worker, line("m2"));
    harness.disconnect(worker);
    let next = harness.worker();
    harness.ack(bob, 2);
    assert!(harness.received(next).is_empty(), "it is nobody else's");
}

#[test]
fn receipts_are_for_messages_of_users_and_workers_to_users() {
    let mut harness = Harness::open();
    let (alice, bob) = both(&mut harness);
    let nobody = harness.anonymous_client();
    harness.discard_frames(nobody);
    let to_channel = json!({"action": "send", "channel": "room", "event": "say", "receipt": true});
    let to_connection =
        json!({"action": "send", "connection_id": bob.to_string(), "event": "say", "receipt": true});
    let to_user = json!({"action": "send", "user_id": "bob", "event": "say", "receipt": true});
    for request in [to_channel.clone(), to_connection] {
        let answer = harness.request(alice, request).remove(0);
        assert_eq!(answer["code"], "bad_request");
        assert!(answer["message"].as_str().unwrap().contains("receipt"), "{answer}");
    }
    let worker = harness.worker();
    assert_eq!(harness.send(worker, to_channel), ["error bad_request room"]);
    let mut open = harness.settings.clone();
    open.rights = rights(&["*"], &["*", "@user:*"], &[]);
    let mut harness = Harness::with(open);
    let nobody = harness.anonymous_client();
    harness.discard_frames(nobody);
    assert_eq!(harness.send(nobody, to_user), ["error bad_request"]);
    let body = json!({"user_id": "bob", "event": "say", "receipt": true});
    assert_eq!(harness.post(1, &body), ["error bad_request"]);
    assert_eq!(harness.stored(), 0, "nothing was sent");
}

#[test]
fn pending_receipts_are_handed_over() {
    let mut harness = Harness::new();
    let (alice, bob) = both(&mut harness);
    send(&mut harness, alice, "m1");
    send(&mut harness, alice, "m2");
    harness.ack(bob, 1);
    harness.discard_frames(alice);
    harness.hand_over();
    harness.ack_read(bob, 2);
    assert_eq!(receipts(&mut harness, alice), ["m1 read", "m2 read"]);
}

#[test]
fn a_message_evicted_before_its_ack_has_no_receipt() {
    let mut harness = super::inbox::with_inbox(Policy { count: 2, ..Settings::default().inbox });
    let alice = sender(&mut harness);
    send(&mut harness, alice, "m1");
    super::inbox::send(&mut harness, alice, 2);
    super::inbox::send(&mut harness, alice, 3);
    harness.discard_frames(alice);
    let bob = harness.client_in("bob", Ack);
    let expected = ["connection_established", "gap 1 1 1 evicted", "say 2 replayed", "say 3 replayed"];
    assert_eq!(harness.received(bob), expected);
    harness.ack_read(bob, 3);
    assert!(harness.received(alice).is_empty(), "it never arrived");
}

#[test]
fn pending_receipts_are_limited_and_the_oldest_dropped() {
    let mut settings = Settings::default();
    settings.limits.requests_per_second = 1000;
    settings.limits.burst = 1000;
    settings.limits.kept_bytes = 20_000;
    let mut harness = Harness::with(settings);
    let (alice, bob) = both(&mut harness);
    for n in 1..=100 {
        send(&mut harness, alice, &format!("m{n}"));
        harness.ack(bob, n);
    }
    let kept = harness.stats()["kept_bytes"].as_u64().unwrap();
    assert!((10_000..=21_000).contains(&kept), "{kept}");
    assert_eq!(receipts(&mut harness, alice), ["m100 delivered"], "the others were told before");
    harness.ack_read(bob, 100);
    let read = receipts(&mut harness, alice);
    assert!((50..100).contains(&read.len()), "{read:?}");
    assert_eq!(read.last().unwrap(), "m100 read", "the youngest are still told");
    assert_eq!(harness.stats()["kept_bytes"], 0);
}

#[test]
fn a_message_expired_for_one_connection_is_acked_by_another() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    let desk = harness.client_in("bob", Auto);
    harness.block_socket(desk);
    harness.send_queue(desk, wshubd::hub::SendQueueState::Full);
    harness.send(worker, json!({"user_id": "bob", "event": "say", "ttl": 5, "receipt": true}));
    let phone = harness.client_in("bob", Auto);
    harness.discard_frames(phone);
    harness.wait(6.0);
    harness.ack(phone, 1);
    let received = harness.frames(worker);
    assert!(received.iter().any(|frame| frame["event"] == "system:receipt"), "{received:?}");
}
