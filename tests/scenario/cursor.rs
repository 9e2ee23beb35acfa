//! The cursor of a user's inbox, and the events that move it.
//!
//! In `auto` the socket does, in `ack` the client. One cursor for all
//! connections of a user.

use serde_json::json;
use wshubd::protocol::InboxMode::{Ack, Auto, Off};

use super::bench::Bench;
use super::inbox::{send_all, waits};

#[test]
fn auto_moves_the_cursor_once_the_socket_took_the_frame() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=3);
    bench.slow_store = true;
    let bob = bench.client_in("bob", Auto);
    bench.clog(bob);
    bench.store_answers();
    assert_eq!(bench.story(bob).len(), 4, "all of it is queued");
    assert_eq!(bench.stored(), 3);
    bench.drain(bob, 2);
    assert_eq!(bench.stored(), 1);
    bench.leave(bob);
    bench.slow_store = false;
    assert_eq!(waits(&mut bench), ["say 3 replayed"]);
}

#[test]
fn auto_counts_live_frames_that_the_socket_took() {
    let mut bench = Bench::new();
    let bob = bench.client_in("bob", Auto);
    bench.hush(bob);
    send_all(&mut bench, 1..=1);
    assert_eq!(bench.stored(), 0, "it was taken at once");
    bench.clog(bob);
    send_all(&mut bench, 2..=4);
    assert_eq!(bench.stored(), 3);
    bench.drain(bob, 1);
    assert_eq!(bench.stored(), 2);
    bench.leave(bob);
    assert_eq!(waits(&mut bench), ["say 3 replayed", "say 4 replayed"]);
}

#[test]
fn auto_counts_the_first_socket_that_took_a_frame() {
    let mut bench = Bench::new();
    let (slow, fast) = (bench.client_in("bob", Auto), bench.client_in("bob", Auto));
    bench.clog(slow);
    send_all(&mut bench, 1..=2);
    assert_eq!(bench.story(fast)[1..], ["say 1", "say 2"]);
    bench.leave(slow);
    bench.leave(fast);
    assert!(waits(&mut bench).is_empty());
}

#[test]
fn ack_mode_moves_the_cursor_by_acks_alone() {
    let mut bench = Bench::new();
    let bob = bench.client_in("bob", Ack);
    send_all(&mut bench, 1..=3);
    let first: Vec<_> = bench.frames(bob)[1..].iter().map(|m| m["message_id"].clone()).collect();
    bench.leave(bob);
    for _ in 0..2 {
        let bob = bench.client_in("bob", Ack);
        let heard = bench.frames(bob);
        let again: Vec<_> = heard[1..].iter().map(|m| m["message_id"].clone()).collect();
        assert_eq!(again, first, "what comes again is known by its message_id");
        assert!(heard[1..].iter().all(|message| message["replayed"] == true));
        bench.leave(bob);
    }
    let bob = bench.client_in("bob", Ack);
    bench.ack(bob, 3);
    bench.leave(bob);
    assert!(waits(&mut bench).is_empty());
    assert_eq!(bench.stored(), 0);
}

#[test]
fn an_ack_is_cumulative_and_has_no_answer() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=5);
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    bench.ack(bob, 3);
    assert!(bench.story(bob).is_empty());
    assert_eq!(bench.stored(), 2);
    assert_eq!(waits(&mut bench), ["say 4 replayed", "say 5 replayed"]);
    bench.ack(bob, 1);
    assert_eq!(waits(&mut bench), ["say 4 replayed", "say 5 replayed"], "it does not go back");
}

#[test]
fn an_ack_of_another_epoch_has_no_effect() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=2);
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    for epoch in ["other", ""] {
        assert!(bench.say(bob, json!({"action": "ack", "epoch": epoch, "seq": 2})).is_empty());
        assert_eq!(bench.stored(), 2);
    }
}

#[test]
fn an_ack_beyond_what_was_sent_has_no_effect() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=2);
    bench.slow_store = true;
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    bench.ack(bob, 2);
    assert_eq!(bench.stored(), 2, "it was kept, and sent to nobody yet");
    bench.slow_store = false;
    bench.store_answers();
    assert_eq!(bench.story(bob), ["say 1 replayed", "say 2 replayed"]);
    bench.ack(bob, 3);
    assert_eq!(bench.stored(), 2);
    bench.ack(bob, 2);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn an_ack_may_name_frames_of_an_earlier_connection() {
    let mut bench = Bench::new();
    let bob = bench.client_in("bob", Ack);
    send_all(&mut bench, 1..=2);
    assert_eq!(bench.story(bob).len(), 3);
    bench.leave(bob);
    bench.slow_store = true;
    let bob = bench.client_in("bob", Ack);
    bench.ack(bob, 2);
    bench.store_answers();
    bench.slow_store = false;
    bench.leave(bob);
    assert!(waits(&mut bench).is_empty());
}

#[test]
fn all_connections_of_a_user_share_one_cursor() {
    let mut bench = Bench::new();
    let (desk, phone) = (bench.client_in("bob", Ack), bench.client_in("bob", Ack));
    send_all(&mut bench, 1..=2);
    assert_eq!(bench.story(desk)[1..], ["say 1", "say 2"]);
    assert_eq!(bench.story(phone)[1..], ["say 1", "say 2"]);
    bench.ack(desk, 1);
    bench.ack(phone, 2);
    bench.leave(desk);
    bench.leave(phone);
    assert!(waits(&mut bench).is_empty());
}

#[test]
fn sockets_do_not_count_while_a_connection_acknowledges() {
    let mut bench = Bench::new();
    let (careful, other) = (bench.client_in("bob", Ack), bench.client_in("bob", Auto));
    send_all(&mut bench, 1..=2);
    assert_eq!(bench.story(other)[1..], ["say 1", "say 2"]);
    assert_eq!(bench.stored(), 2);
    bench.ack(careful, 1);
    assert_eq!(waits(&mut bench), ["say 2 replayed"]);
}

#[test]
fn unacknowledged_frames_wait_after_the_ack_connection_left() {
    let mut bench = Bench::new();
    let (careful, other) = (bench.client_in("bob", Ack), bench.client_in("bob", Auto));
    send_all(&mut bench, 1..=1);
    bench.leave(careful);
    assert_eq!(waits(&mut bench), ["say 1 replayed"]);
    bench.hush(other);
    send_all(&mut bench, 2..=2);
    assert_eq!(bench.story(other), ["say 2"]);
    assert!(waits(&mut bench).is_empty(), "and now the socket counts again");
}

#[test]
fn only_connections_with_the_inbox_may_acknowledge() {
    let mut bench = Bench::open();
    send_all(&mut bench, 1..=3);
    let careful = bench.client_in("bob", Ack);
    let (other, deaf) = (bench.client_in("bob", Auto), bench.client_in("bob", Off));
    bench.ack(other, 1);
    assert_eq!(bench.stored(), 2);
    bench.hush(deaf);
    bench.ack(deaf, 2);
    assert_eq!(bench.stored(), 2);
    let (mallory, nobody) = (bench.client("mallory"), bench.stranger());
    let epoch = bench.inbox_epoch(careful);
    for seat in [mallory, nobody] {
        bench.hush(seat);
        assert!(bench.say(seat, json!({"action": "ack", "epoch": epoch, "seq": 3})).is_empty());
    }
    assert_eq!(bench.stored(), 2);
    assert!(bench.story(deaf).is_empty());
}

#[test]
fn a_connection_lost_in_replay_leaves_the_rest() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=100);
    for mode in [Ack, Auto] {
        bench.slow_store = true;
        let bob = bench.client_in("bob", mode);
        bench.clog(bob);
        bench.store_answers();
        bench.slow_store = false;
        bench.drain(bob, 30);
        bench.leave(bob);
        let heard = waits(&mut bench);
        let first = if mode == Ack { "say 1 replayed" } else { "say 31 replayed" };
        assert_eq!((heard[0].as_str(), heard.last().unwrap().as_str()), (first, "say 100 replayed"));
        assert_eq!(heard.len(), if mode == Ack { 100 } else { 70 });
    }
}

#[test]
fn an_ack_during_replay_moves_the_cursor() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=100);
    bench.slow_store = true;
    let bob = bench.client_in("bob", Ack);
    bench.clog(bob);
    bench.store_answers();
    bench.slow_store = false;
    bench.drain(bob, 20);
    bench.hush(bob);
    bench.ack(bob, 10);
    assert_eq!(waits(&mut bench)[0], "say 11 replayed");
    bench.unclog(bob);
    let heard = bench.story(bob);
    assert_eq!((heard.len(), heard[0].as_str()), (36, "say 65 replayed"));
    send_all(&mut bench, 101..=101);
    assert_eq!(bench.story(bob), ["say 101"]);
}

#[test]
fn a_mode_change_changes_how_the_cursor_moves() {
    let mut bench = Bench::new();
    let bob = bench.client_in("bob", Auto);
    bench.auth(bob, "bob", Some("ack"));
    send_all(&mut bench, 1..=1);
    assert_eq!(bench.stored(), 1, "to be acknowledged now");
    bench.auth(bob, "bob", Some("auto"));
    send_all(&mut bench, 2..=2);
    assert_eq!(bench.stored(), 0, "taking it is enough again");
    bench.auth(bob, "bob", Some("ack"));
    send_all(&mut bench, 3..=3);
    bench.auth(bob, "bob", Some("off"));
    assert_eq!(waits(&mut bench), ["say 3 replayed"]);
    bench.hush(bob);
    assert_eq!(bench.auth(bob, "bob", Some("auto")), ["auth_success bob", "say 3 replayed"]);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_frame_counts_by_the_mode_in_which_it_was_taken() {
    let mut bench = Bench::new();
    let bob = bench.client_in("bob", Auto);
    bench.clog(bob);
    send_all(&mut bench, 1..=2);
    bench.auth(bob, "bob", Some("ack"));
    bench.unclog(bob);
    assert_eq!(bench.stored(), 2);
    bench.ack(bob, 2);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn acks_are_free_of_the_request_rate() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=60);
    let bob = bench.client_in("bob", Ack);
    bench.hush(bob);
    for seq in 1..=60 {
        bench.ack(bob, seq);
    }
    assert_eq!(bench.say(bob, json!({"action": "ping"})), ["pong"]);
    assert_eq!(bench.stored(), 0);
}

#[test]
fn an_administrator_lists_how_much_waits() {
    let mut bench = Bench::new();
    send_all(&mut bench, 1..=3);
    let (admin, bob) = (bench.admin(), bench.client_in("bob", Ack));
    let look = json!({"action": "inbox", "user_id": "bob"});
    assert_eq!(bench.ask(admin, look.clone())[0]["waiting"], 3);
    bench.ack(bob, 2);
    let seen = bench.ask(admin, look).remove(0);
    assert_eq!((&seen["waiting"], &seen["epoch"]), (&json!(1), &json!(bench.inbox_epoch(bob))));
}
