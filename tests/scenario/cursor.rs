//! The cursor of a user's inbox, and the events that move it.
//!
//! In `auto` the socket does, in `ack` the client. One cursor for all
//! connections of a user.

use serde_json::json;
use wshubd::protocol::InboxMode::{Ack, Auto, Off};

use super::harness::Harness;
use super::inbox::{send_all, waits};

#[test]
fn auto_moves_the_cursor_once_the_socket_took_the_frame() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=3);
    harness.slow_store = true;
    let bob = harness.client_in("bob", Auto);
    harness.block_socket(bob);
    harness.store_answers();
    assert_eq!(harness.received(bob).len(), 4, "all of it is queued");
    assert_eq!(harness.stored(), 3);
    harness.drain(bob, 2);
    assert_eq!(harness.stored(), 1);
    harness.disconnect(bob);
    harness.slow_store = false;
    assert_eq!(waits(&mut harness), ["say 3 replayed"]);
}

#[test]
fn auto_counts_live_frames_that_the_socket_took() {
    let mut harness = Harness::new();
    let bob = harness.client_in("bob", Auto);
    harness.discard_frames(bob);
    send_all(&mut harness, 1..=1);
    assert_eq!(harness.stored(), 0, "it was taken at once");
    harness.block_socket(bob);
    send_all(&mut harness, 2..=4);
    assert_eq!(harness.stored(), 3);
    harness.drain(bob, 1);
    assert_eq!(harness.stored(), 2);
    harness.disconnect(bob);
    assert_eq!(waits(&mut harness), ["say 3 replayed", "say 4 replayed"]);
}

#[test]
fn auto_counts_the_first_socket_that_took_a_frame() {
    let mut harness = Harness::new();
    let (slow, fast) = (harness.client_in("bob", Auto), harness.client_in("bob", Auto));
    harness.block_socket(slow);
    send_all(&mut harness, 1..=2);
    assert_eq!(harness.received(fast)[1..], ["say 1", "say 2"]);
    harness.disconnect(slow);
    harness.disconnect(fast);
    assert!(waits(&mut harness).is_empty());
}

#[test]
fn ack_mode_moves_the_cursor_by_acks_alone() {
    let mut harness = Harness::new();
    let bob = harness.client_in("bob", Ack);
    send_all(&mut harness, 1..=3);
    let first: Vec<_> = harness.frames(bob)[1..].iter().map(|m| m["message_id"].clone()).collect();
    harness.disconnect(bob);
    for _ in 0..2 {
        let bob = harness.client_in("bob", Ack);
        let received = harness.frames(bob);
        let again: Vec<_> = received[1..].iter().map(|m| m["message_id"].clone()).collect();
        assert_eq!(again, first, "what comes again is known by its message_id");
        assert!(received[1..].iter().all(|message| message["replayed"] == true));
        harness.disconnect(bob);
    }
    let bob = harness.client_in("bob", Ack);
    harness.ack(bob, 3);
    harness.disconnect(bob);
    assert!(waits(&mut harness).is_empty());
    assert_eq!(harness.stored(), 0);
}

#[test]
fn an_ack_is_cumulative_and_has_no_answer() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=5);
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    harness.ack(bob, 3);
    assert!(harness.received(bob).is_empty());
    assert_eq!(harness.stored(), 2);
    assert_eq!(waits(&mut harness), ["say 4 replayed", "say 5 replayed"]);
    harness.ack(bob, 1);
    assert_eq!(waits(&mut harness), ["say 4 replayed", "say 5 replayed"], "it does not go back");
}

#[test]
fn an_ack_of_another_epoch_has_no_effect() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=2);
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    for epoch in ["other", ""] {
        assert!(harness.send(bob, json!({"action": "ack", "epoch": epoch, "seq": 2})).is_empty());
        assert_eq!(harness.stored(), 2);
    }
}

#[test]
fn an_ack_beyond_what_was_sent_has_no_effect() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=2);
    harness.slow_store = true;
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    harness.ack(bob, 2);
    assert_eq!(harness.stored(), 2, "it was kept, and sent to nobody yet");
    harness.slow_store = false;
    harness.store_answers();
    assert_eq!(harness.received(bob), ["say 1 replayed", "say 2 replayed"]);
    harness.ack(bob, 3);
    assert_eq!(harness.stored(), 2);
    harness.ack(bob, 2);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn an_ack_may_name_frames_of_an_earlier_connection() {
    let mut harness = Harness::new();
    let bob = harness.client_in("bob", Ack);
    send_all(&mut harness, 1..=2);
    assert_eq!(harness.received(bob).len(), 3);
    harness.disconnect(bob);
    harness.slow_store = true;
    let bob = harness.client_in("bob", Ack);
    harness.ack(bob, 2);
    harness.store_answers();
    harness.slow_store = false;
    harness.disconnect(bob);
    assert!(waits(&mut harness).is_empty());
}

#[test]
fn all_connections_of_a_user_share_one_cursor() {
    let mut harness = Harness::new();
    let (desk, phone) = (harness.client_in("bob", Ack), harness.client_in("bob", Ack));
    send_all(&mut harness, 1..=2);
    assert_eq!(harness.received(desk)[1..], ["say 1", "say 2"]);
    assert_eq!(harness.received(phone)[1..], ["say 1", "say 2"]);
    harness.ack(desk, 1);
    harness.ack(phone, 2);
    harness.disconnect(desk);
    harness.disconnect(phone);
    assert!(waits(&mut harness).is_empty());
}

#[test]
fn sockets_do_not_count_while_a_connection_acknowledges() {
    let mut harness = Harness::new();
    let (careful, other) = (harness.client_in("bob", Ack), harness.client_in("bob", Auto));
    send_all(&mut harness, 1..=2);
    assert_eq!(harness.received(other)[1..], ["say 1", "say 2"]);
    assert_eq!(harness.stored(), 2);
    harness.ack(careful, 1);
    assert_eq!(waits(&mut harness), ["say 2 replayed"]);
}

#[test]
fn unacknowledged_frames_wait_after_the_ack_connection_left() {
    let mut harness = Harness::new();
    let (careful, other) = (harness.client_in("bob", Ack), harness.client_in("bob", Auto));
    send_all(&mut harness, 1..=1);
    harness.disconnect(careful);
    assert_eq!(waits(&mut harness), ["say 1 replayed"]);
    harness.discard_frames(other);
    send_all(&mut harness, 2..=2);
    assert_eq!(harness.received(other), ["say 2"]);
    assert!(waits(&mut harness).is_empty(), "and now the socket counts again");
}

#[test]
fn only_connections_with_the_inbox_may_acknowledge() {
    let mut harness = Harness::open();
    send_all(&mut harness, 1..=3);
    let careful = harness.client_in("bob", Ack);
    let (other, deaf) = (harness.client_in("bob", Auto), harness.client_in("bob", Off));
    harness.ack(other, 1);
    assert_eq!(harness.stored(), 2);
    harness.discard_frames(deaf);
    harness.ack(deaf, 2);
    assert_eq!(harness.stored(), 2);
    let (mallory, nobody) = (harness.client("mallory"), harness.anonymous_client());
    let epoch = harness.inbox_epoch(careful);
    for conn in [mallory, nobody] {
        harness.discard_frames(conn);
        assert!(harness.send(conn, json!({"action": "ack", "epoch": epoch, "seq": 3})).is_empty());
    }
    assert_eq!(harness.stored(), 2);
    assert!(harness.received(deaf).is_empty());
}

#[test]
fn a_connection_lost_in_replay_leaves_the_rest() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=100);
    for mode in [Ack, Auto] {
        harness.slow_store = true;
        let bob = harness.client_in("bob", mode);
        harness.block_socket(bob);
        harness.store_answers();
        harness.slow_store = false;
        harness.drain(bob, 30);
        harness.disconnect(bob);
        let received = waits(&mut harness);
        let first = if mode == Ack { "say 1 replayed" } else { "say 31 replayed" };
        assert_eq!((received[0].as_str(), received.last().unwrap().as_str()), (first, "say 100 replayed"));
        assert_eq!(received.len(), if mode == Ack { 100 } else { 70 });
    }
}

#[test]
fn an_ack_during_replay_moves_the_cursor() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=100);
    harness.slow_store = true;
    let bob = harness.client_in("bob", Ack);
    harness.block_socket(bob);
    harness.store_answers();
    harness.slow_store = false;
    harness.drain(bob, 20);
    harness.discard_frames(bob);
    harness.ack(bob, 10);
    assert_eq!(waits(&mut harness)[0], "say 11 replayed");
    harness.unblock_socket(bob);
    let received = harness.received(bob);
    assert_eq!((received.len(), received[0].as_str()), (36, "say 65 replayed"));
    send_all(&mut harness, 101..=101);
    assert_eq!(harness.received(bob), ["say 101"]);
}

#[test]
fn a_mode_change_changes_how_the_cursor_moves() {
    let mut harness = Harness::new();
    let bob = harness.client_in("bob", Auto);
    harness.auth(bob, "bob", Some("ack"));
    send_all(&mut harness, 1..=1);
    assert_eq!(harness.stored(), 1, "to be acknowledged now");
    harness.auth(bob, "bob", Some("auto"));
    send_all(&mut harness, 2..=2);
    assert_eq!(harness.stored(), 0, "taking it is enough again");
    harness.auth(bob, "bob", Some("ack"));
    send_all(&mut harness, 3..=3);
    harness.auth(bob, "bob", Some("off"));
    assert_eq!(waits(&mut harness), ["say 3 replayed"]);
    harness.discard_frames(bob);
    assert_eq!(harness.auth(bob, "bob", Some("auto")), ["auth_success bob", "say 3 replayed"]);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn a_frame_counts_by_the_mode_in_which_it_was_taken() {
    let mut harness = Harness::new();
    let bob = harness.client_in("bob", Auto);
    harness.block_socket(bob);
    send_all(&mut harness, 1..=2);
    harness.auth(bob, "bob", Some("ack"));
    harness.unblock_socket(bob);
    assert_eq!(harness.stored(), 2);
    harness.ack(bob, 2);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn acks_are_free_of_the_request_rate() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=60);
    let bob = harness.client_in("bob", Ack);
    harness.discard_frames(bob);
    for seq in 1..=60 {
        harness.ack(bob, seq);
    }
    assert_eq!(harness.send(bob, json!({"action": "ping"})), ["pong"]);
    assert_eq!(harness.stored(), 0);
}

#[test]
fn an_administrator_lists_how_much_waits() {
    let mut harness = Harness::new();
    send_all(&mut harness, 1..=3);
    let (admin, bob) = (harness.admin(), harness.client_in("bob", Ack));
    let look = json!({"action": "inbox", "user_id": "bob"});
    assert_eq!(harness.request(admin, look.clone())[0]["waiting"], 3);
    harness.ack(bob, 2);
    let seen = harness.request(admin, look).remove(0);
    assert_eq!((&seen["waiting"], &seen["epoch"]), (&json!(1), &json!(harness.inbox_epoch(bob))));
}
