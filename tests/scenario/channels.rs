//! Subscribing, publishing and whispering.

use serde_json::json;
use wshubd::hub::{SendQueueState, Settings};

use super::harness::{Harness, rights};

#[test]
fn only_the_first_subscribe_carries_the_connection_id() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    assert_eq!(harness.subscribe(alice, "room"), ["connection_id", "subscription_succeeded room 0"]);
    assert_eq!(harness.subscribe(alice, "hall"), ["subscription_succeeded hall 0"]);
}

#[test]
fn every_subscriber_receives_a_message_the_sender_included() {
    let mut harness = Harness::new();
    let (alice, bob, carol) = (harness.client("alice"), harness.client("bob"), harness.client("carol"));
    harness.subscribe(alice, "room");
    harness.subscribe(bob, "room");
    harness.subscribe(carol, "hall");
    harness.discard_frames(bob);
    harness.discard_frames(carol);
    assert_eq!(harness.publish(alice, "room", 1), ["say 1", "send_success 2 0 false"]);
    assert_eq!(harness.received(bob), ["say 1"]);
    assert!(harness.received(carol).is_empty());
}

#[test]
fn without_echo_the_sender_does_not_receive_its_message() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(alice, "room");
    harness.subscribe(bob, "room");
    harness.discard_frames(bob);
    let request = json!({"action": "send", "channel": "room", "event": "say", "data": 1, "echo": false});
    assert_eq!(harness.send(alice, request), ["send_success 1 0 false"]);
    assert_eq!(harness.received(bob), ["say 1"]);
}

#[test]
fn a_worker_does_not_receive_its_own_message() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(worker, "logs");
    harness.subscribe(alice, "logs");
    harness.discard_frames(alice);
    assert!(harness.send(worker, json!({"channel": "logs", "event": "log", "data": "hi"})).is_empty());
    let received = harness.frames(alice);
    assert_eq!(
        (&received[0]["data"], &received[0]["source"], &received[0]["from"]),
        (&json!("hi"), &json!("worker"), &json!("worker"))
    );
    assert_eq!(harness.publish(alice, "logs", 1), ["say 1", "send_success 2 0 false"]);
    assert_eq!(harness.received(worker), ["say 1"]);
}

#[test]
fn every_message_has_a_position_except_fleeting_and_whispers() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(alice, "room");
    harness.subscribe(bob, "room");
    harness.discard_frames(bob);
    harness.publish(alice, "room", 1);
    harness.send(alice, json!({"action": "send", "channel": "room", "event": "say", "data": 2, "ttl": 0}));
    harness.send(alice, json!({"action": "whisper", "channel": "room", "event": "say", "data": 3}));
    harness.publish(alice, "room", 4);
    let seqs: Vec<_> = harness.frames(bob).iter().map(|frame| frame["seq"].clone()).collect();
    assert_eq!(seqs, [json!(1), json!(null), json!(null), json!(2)]);
}

#[test]
fn subscribing_twice_does_not_double_delivery() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "room");
    assert_eq!(harness.subscribe(bob, "room"), ["subscription_succeeded room 0"]);
    assert_eq!(harness.publish(alice, "room", 1), ["send_success 1 0 false"]);
    assert_eq!(harness.received(bob), ["say 1"]);
}

#[test]
fn nothing_of_a_channel_comes_after_unsubscribing() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "room");
    for _ in 0..2 {
        let answer = harness.send(bob, json!({"action": "unsubscribe", "channel": "room"}));
        assert_eq!(answer, ["unsubscribe_succeeded"]);
    }
    harness.publish(alice, "room", 1);
    assert!(harness.received(bob).is_empty());
}

#[test]
fn a_list_of_channels_is_answered_one_by_one() {
    let mut harness = Harness::new();
    let alice = harness.client_with("alice", rights(&["open:*"], &[], &[]));
    let list = json!([{"channel": "open:a"}, {"channel": "shut"}, {"channel": "open:b"}]);
    let request = json!({"action": "subscribe", "channels": list, "id": 5});
    harness.send(alice, request.clone());
    for _ in 0..3 {
        harness.send(alice, request.clone());
    }
    harness.send(alice, json!({"action": "unsubscribe", "channel": "open:a"}));
    assert_eq!(
        harness.send(alice, request),
        ["subscription_succeeded open:a 0", "error forbidden shut", "subscription_succeeded open:b 0"]
    );
}

#[test]
fn a_connection_has_a_limit_of_subscriptions() {
    let mut settings = Settings::default();
    settings.limits.subscriptions = 2;
    let mut harness = Harness::with(settings);
    let alice = harness.client("alice");
    harness.subscribe(alice, "a");
    harness.subscribe(alice, "b");
    assert_eq!(harness.subscribe(alice, "c"), ["error too_many_subscriptions c"]);
    assert_eq!(harness.subscribe(alice, "b"), ["subscription_succeeded b 0"]);
    harness.send(alice, json!({"action": "unsubscribe", "channel": "a"}));
    assert_eq!(harness.subscribe(alice, "c"), ["subscription_succeeded c 0"]);
}

#[test]
fn rights_decide_about_subscribing_and_publishing() {
    let mut harness = Harness::new();
    let alice = harness.client_with("alice", rights(&["in:{user_id}:*"], &["out:*"], &[]));
    harness.subscribe(alice, "in:alice:x");
    assert_eq!(harness.subscribe(alice, "in:bob:x"), ["error forbidden in:bob:x"]);
    assert_eq!(harness.publish(alice, "in:alice:x", 1), ["error forbidden in:alice:x"]);
    assert_eq!(harness.publish(alice, "out:x", 1), ["send_success 0 0 kept"]);
}

#[test]
fn names_of_the_hub_are_reserved() {
    let mut harness = Harness::new();
    let (alice, worker) = (harness.client("alice"), harness.worker());
    harness.discard_frames(alice);
    harness.subscribe(alice, "x");
    for name in ["@me", "@user:alice", "system:presence"] {
        assert_eq!(harness.subscribe(alice, name), [format!("error forbidden {name}")]);
        assert_eq!(harness.publish(alice, name, 1), [format!("error forbidden {name}")]);
        assert_eq!(harness.publish(worker, name, 1), [format!("error forbidden {name}")]);
    }
    assert!(harness.subscribe(worker, "system:presence").is_empty());
}

#[test]
fn names_contain_no_invisible_characters() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    // One of each kind: soft hyphen, joiners, fillers, vowel separator, marks of direction
    // and of lines, variation selectors, tags, what is reserved for such, format characters.
    let invisible = "\u{ad}\u{34f}\u{600}\u{61c}\u{6dd}\u{70f}\u{890}\u{8e2}\u{115f}\u{1160}\u{17b4}\u{180b}\u{180e}\
        \u{200b}\u{200c}\u{200d}\u{200e}\u{2028}\u{2029}\u{202e}\u{2060}\u{2065}\u{2066}\u{206f}\u{3164}\u{fe00}\u{fe0f}\
        \u{feff}\u{ffa0}\u{fff0}\u{fff9}\u{110bd}\u{110cd}\u{13430}\u{1bca0}\u{1d173}\u{e0001}\u{e0020}\u{e0100}\u{e0fff}";
    for c in invisible.chars() {
        let name = format!("a{c}b");
        for request in [
            json!({"action": "subscribe", "channel": name}),
            json!({"action": "subscribe", "channel": format!("operation:{name}")}),
            json!({"channel": name, "event": "say"}),
            json!({"channel": "room", "event": name}),
            json!({"user_id": name, "event": "say"}),
            json!({"channel": "room", "event": "say", "message_id": name}),
            json!({"action": "operation_start", "operation_id": name, "channel": "jobs"}),
            json!({"action": "operation_start", "operation_id": "op", "channel": name}),
            json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "user_id": name}),
        ] {
            let reply = harness.request(worker, request.clone());
            assert_eq!(reply[0]["code"], "bad_request", "{c:?} {request}: {reply:?}");
            let shown = format!("{c:?}");
            assert!(reply[0]["message"].as_str().unwrap().contains(&shown), "{shown}: {reply:?}");
        }
    }
    for name in ["é", "日本語", "Ω≈ç", "한글", "عربي", "हिन्दी", "🎉", "\u{e000}", "a\u{301}"]
    {
        assert!(harness.send(worker, json!({"channel": name, "event": name, "message_id": name})).is_empty());
    }
}

#[test]
fn a_message_to_one_connection_arrives_an_unknown_one_errs() {
    let mut harness = Harness::new();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    let to = |id: String| json!({"action": "send", "connectionId": id, "event": "say", "data": 1});
    assert_eq!(harness.send(alice, to(bob.to_string())), ["send_success 1 0 false"]);
    let received = harness.frames(bob);
    assert_eq!((received.len(), received[0].get("channel"), received[0].get("seq")), (1, None, None));
    assert_eq!(harness.send(alice, to("nobody".into())), ["error unknown_connection"]);
    harness.disconnect(bob);
    assert_eq!(harness.send(alice, to(bob.to_string())), ["error unknown_connection"]);
}

#[test]
fn sending_to_a_user_needs_a_right_and_reaches_all() {
    let mut harness = Harness::new();
    let (bob, bob_too) = (harness.client("bob"), harness.client("bob"));
    let alice = harness.client("alice");
    let request = json!({"action": "send", "user_id": "bob", "event": "say", "data": 1});
    assert_eq!(harness.send(alice, request.clone()), ["error forbidden"]);
    let carol = harness.client_with("carol", rights(&[], &["@user:*"], &[]));
    assert_eq!(harness.send(carol, request), ["send_success 2 0 kept"]);
    assert_eq!(harness.received(bob), ["say 1"]);
    assert_eq!(harness.received(bob_too), ["say 1"]);
}

#[test]
fn all_means_every_authenticated_client() {
    let mut harness = Harness::new();
    let (worker, alice, nobody) = (harness.worker(), harness.client("alice"), harness.anonymous_client());
    harness.discard_frames(nobody);
    let line = json!({"all": true, "event": "say", "data": 1, "id": 1});
    assert_eq!(harness.send(worker, line), ["ok"]);
    let received = harness.frames(alice);
    assert_eq!((received.len(), received[0].get("channel"), received[0].get("seq")), (1, None, None));
    assert!(harness.received(nobody).is_empty());
    assert_eq!(harness.stored(), 0);
}

#[test]
fn a_whisper_reaches_every_other_subscriber() {
    let mut harness = Harness::new();
    let (alice, bob, carol) = (harness.client("alice"), harness.client("bob"), harness.client("carol"));
    for conn in [alice, bob, carol] {
        harness.subscribe(conn, "room");
    }
    harness.discard_frames(bob);
    harness.discard_frames(carol);
    harness.send_queue(carol, SendQueueState::Backlogged);
    let whisper = json!({"action": "whisper", "channel": "room", "event": "typing", "data": null});
    assert!(harness.send(alice, whisper).is_empty(), "it has no answer");
    assert_eq!(harness.received(bob), ["typing"]);
    assert!(harness.received(carol).is_empty(), "it is the first to be shed");
    assert_eq!(harness.stats()["whispers_dropped"], 1);
}

#[test]
fn a_whisper_needs_a_subscription_and_the_right_to_publish() {
    let mut harness = Harness::new();
    let alice = harness.client_with("alice", rights(&["*"], &[], &[]));
    let whisper = json!({"action": "whisper", "channel": "room", "event": "typing"});
    assert_eq!(harness.send(alice, whisper.clone()), ["error not_subscribed room"]);
    harness.subscribe(alice, "room");
    assert_eq!(harness.send(alice, whisper), ["error forbidden room"]);
}

#[test]
fn a_repeated_message_id_is_dropped_for_ten_minutes() {
    let mut harness = Harness::new();
    let (alice, other, bob) = (harness.client("alice"), harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "room");
    let request = json!({"action": "send", "channel": "room", "event": "say", "data": 1, "message_id": "m1"});
    assert_eq!(harness.send(alice, request.clone()), ["send_success 1 0 false"]);
    assert_eq!(
        harness.send(other, request.clone()),
        ["send_success 0 0 false duplicate"],
        "the user is the scope"
    );
    harness.discard_frames(bob);
    assert_eq!(
        harness.send(bob, request.clone()),
        ["say 1", "send_success 1 0 kept"],
        "another user is another"
    );
    for _ in 0..11 {
        harness.wait(50.0);
        harness.handle(wshubd::hub::Input::KeepAlive { conn: alice, controls: 1 });
        harness.handle(wshubd::hub::Input::KeepAlive { conn: bob, controls: 1 });
    }
    harness.wait(51.0);
    harness.discard_frames(alice);
    assert_eq!(harness.send(alice, request), ["send_success 1 0 false"]);
}

#[test]
fn a_durable_message_is_refused_without_a_store() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(alice, "room");
    let line = json!({"channel": "room", "event": "say", "durable": true, "id": 1});
    assert_eq!(harness.send(worker, line), ["error store_unavailable"]);
    let line = json!({"connection_id": alice.to_string(), "event": "say", "durable": true, "id": 1});
    assert_eq!(harness.send(worker, line), ["ok"], "what is never kept need not be stored");
}

#[test]
fn an_unused_channel_is_dropped_and_returns_with_a_new_epoch() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let epoch = |harness: &mut Harness| {
        harness.send(alice, json!({"action": "unsubscribe", "channel": "room"}));
        let received = harness.request(alice, json!({"action": "subscribe", "channel": "room"}));
        received.last().unwrap()["epoch"].clone()
    };
    let first = epoch(&mut harness);
    harness.wait(50.0);
    assert_eq!(epoch(&mut harness), first, "it is remembered for a while");
    harness.send(alice, json!({"action": "unsubscribe", "channel": "room"}));
    for _ in 0..7 {
        harness.wait(50.0);
        harness.handle(wshubd::hub::Input::KeepAlive { conn: alice, controls: 1 });
    }
    let second = epoch(&mut harness);
    assert_ne!(second, first);
    assert!(second.as_str().unwrap().len() <= 16);
}

#[test]
fn since_is_recovered_only_if_nothing_was_missed() {
    let mut harness = Harness::new();
    let (alice, bob, carol) = (harness.client("alice"), harness.client("bob"), harness.client("carol"));
    harness.subscribe(carol, "room");
    let received = harness.request(bob, json!({"action": "subscribe", "channel": "room"}));
    let epoch = received[1]["epoch"].clone();
    harness.publish(alice, "room", 1);
    harness.discard_frames(bob);
    let since = |epoch: &serde_json::Value, seq: u64| json!({"action": "subscribe", "channel": "room", "since": {"epoch": epoch, "seq": seq}});
    assert_eq!(harness.send(bob, since(&epoch, 1)), ["subscription_succeeded room 1 recovered"]);
    harness.send(bob, json!({"action": "unsubscribe", "channel": "room"}));
    harness.publish(alice, "room", 2);
    harness.publish(alice, "room", 3);
    let answer = harness.send(bob, since(&epoch, 1));
    assert_eq!(answer, ["subscription_succeeded room 3 false", "gap 2 3 2 not_kept"]);
    let answer = harness.send(bob, since(&json!("other"), 3));
    assert_eq!(answer, ["subscription_succeeded room 3 false", "gap epoch"]);
}

#[test]
fn answers_keep_the_order_of_requests_and_echo_their_ids() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.send(worker, json!({"channel": "room", "event": "say", "data": 1}));
    harness.subscribe(alice, "elsewhere");
    harness.slow_store = true;
    for (id, request) in [
        (json!(1), json!({"action": "subscribe", "channel": "room"})),
        (json!("two"), json!({"action": "ping"})),
        (json!(3.5), json!({"action": "send", "channel": "hall", "event": "say"})),
        (json!("four"), json!({"action": "whisper", "channel": "hall", "event": "say"})),
    ] {
        let mut request = request;
        request["id"] = id;
        harness.send_unread(alice, &request);
    }
    harness.store_answers();
    let received: Vec<_> = harness.frames(alice).iter().map(|frame| frame["id"].clone()).collect();
    assert_eq!(received, [json!(1), json!("two"), json!(3.5), json!("four"), json!(null)]);
}
