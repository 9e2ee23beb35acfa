//! Subscribing, publishing and whispering.

use serde_json::json;
use wshubd::hub::{SendQueueState, Settings};

use super::bench::{Bench, rights};

#[test]
fn only_the_first_subscribe_carries_the_connection_id() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    assert_eq!(bench.subscribe(alice, "room"), ["connection_id", "subscription_succeeded room 0"]);
    assert_eq!(bench.subscribe(alice, "hall"), ["subscription_succeeded hall 0"]);
}

#[test]
fn every_subscriber_receives_a_message_the_sender_included() {
    let mut bench = Bench::new();
    let (alice, bob, carol) = (bench.client("alice"), bench.client("bob"), bench.client("carol"));
    bench.subscribe(alice, "room");
    bench.subscribe(bob, "room");
    bench.subscribe(carol, "hall");
    bench.hush(bob);
    bench.hush(carol);
    assert_eq!(bench.publish(alice, "room", 1), ["say 1", "send_success 2 0 false"]);
    assert_eq!(bench.story(bob), ["say 1"]);
    assert!(bench.story(carol).is_empty());
}

#[test]
fn without_echo_the_sender_does_not_receive_its_message() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(alice, "room");
    bench.subscribe(bob, "room");
    bench.hush(bob);
    let request = json!({"action": "send", "channel": "room", "event": "say", "data": 1, "echo": false});
    assert_eq!(bench.say(alice, request), ["send_success 1 0 false"]);
    assert_eq!(bench.story(bob), ["say 1"]);
}

#[test]
fn a_worker_does_not_receive_its_own_message() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(worker, "logs");
    bench.subscribe(alice, "logs");
    bench.hush(alice);
    assert!(bench.say(worker, json!({"channel": "logs", "event": "log", "data": "hi"})).is_empty());
    let heard = bench.frames(alice);
    assert_eq!(
        (&heard[0]["data"], &heard[0]["source"], &heard[0]["from"]),
        (&json!("hi"), &json!("worker"), &json!("worker"))
    );
    assert_eq!(bench.publish(alice, "logs", 1), ["say 1", "send_success 2 0 false"]);
    assert_eq!(bench.story(worker), ["say 1"]);
}

#[test]
fn every_message_has_a_position_except_fleeting_and_whispers() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(alice, "room");
    bench.subscribe(bob, "room");
    bench.hush(bob);
    bench.publish(alice, "room", 1);
    bench.say(alice, json!({"action": "send", "channel": "room", "event": "say", "data": 2, "ttl": 0}));
    bench.say(alice, json!({"action": "whisper", "channel": "room", "event": "say", "data": 3}));
    bench.publish(alice, "room", 4);
    let seqs: Vec<_> = bench.frames(bob).iter().map(|frame| frame["seq"].clone()).collect();
    assert_eq!(seqs, [json!(1), json!(null), json!(null), json!(2)]);
}

#[test]
fn subscribing_twice_does_not_double_delivery() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(bob, "room");
    assert_eq!(bench.subscribe(bob, "room"), ["subscription_succeeded room 0"]);
    assert_eq!(bench.publish(alice, "room", 1), ["send_success 1 0 false"]);
    assert_eq!(bench.story(bob), ["say 1"]);
}

#[test]
fn nothing_of_a_channel_comes_after_unsubscribing() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(bob, "room");
    for _ in 0..2 {
        let answer = bench.say(bob, json!({"action": "unsubscribe", "channel": "room"}));
        assert_eq!(answer, ["unsubscribe_succeeded"]);
    }
    bench.publish(alice, "room", 1);
    assert!(bench.story(bob).is_empty());
}

#[test]
fn a_list_of_channels_is_answered_one_by_one() {
    let mut bench = Bench::new();
    let alice = bench.client_with("alice", rights(&["open:*"], &[], &[]));
    let list = json!([{"channel": "open:a"}, {"channel": "shut"}, {"channel": "open:b"}]);
    let request = json!({"action": "subscribe", "channels": list, "id": 5});
    bench.say(alice, request.clone());
    for _ in 0..3 {
        bench.say(alice, request.clone());
    }
    bench.say(alice, json!({"action": "unsubscribe", "channel": "open:a"}));
    assert_eq!(
        bench.say(alice, request),
        ["subscription_succeeded open:a 0", "error forbidden shut", "subscription_succeeded open:b 0"]
    );
}

#[test]
fn a_connection_has_a_limit_of_subscriptions() {
    let mut settings = Settings::default();
    settings.limits.subscriptions = 2;
    let mut bench = Bench::with(settings);
    let alice = bench.client("alice");
    bench.subscribe(alice, "a");
    bench.subscribe(alice, "b");
    assert_eq!(bench.subscribe(alice, "c"), ["error too_many_subscriptions c"]);
    assert_eq!(bench.subscribe(alice, "b"), ["subscription_succeeded b 0"]);
    bench.say(alice, json!({"action": "unsubscribe", "channel": "a"}));
    assert_eq!(bench.subscribe(alice, "c"), ["subscription_succeeded c 0"]);
}

#[test]
fn rights_decide_about_subscribing_and_publishing() {
    let mut bench = Bench::new();
    let alice = bench.client_with("alice", rights(&["in:{user_id}:*"], &["out:*"], &[]));
    bench.subscribe(alice, "in:alice:x");
    assert_eq!(bench.subscribe(alice, "in:bob:x"), ["error forbidden in:bob:x"]);
    assert_eq!(bench.publish(alice, "in:alice:x", 1), ["error forbidden in:alice:x"]);
    assert_eq!(bench.publish(alice, "out:x", 1), ["send_success 0 0 kept"]);
}

#[test]
fn names_of_the_hub_are_reserved() {
    let mut bench = Bench::new();
    let (alice, worker) = (bench.client("alice"), bench.worker());
    bench.hush(alice);
    bench.subscribe(alice, "x");
    for name in ["@me", "@user:alice", "system:presence"] {
        assert_eq!(bench.subscribe(alice, name), [format!("error forbidden {name}")]);
        assert_eq!(bench.publish(alice, name, 1), [format!("error forbidden {name}")]);
        assert_eq!(bench.publish(worker, name, 1), [format!("error forbidden {name}")]);
    }
    assert!(bench.subscribe(worker, "system:presence").is_empty());
}

#[test]
fn names_contain_no_invisible_characters() {
    let mut bench = Bench::new();
    let worker = bench.worker();
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
            let told = bench.ask(worker, request.clone());
            assert_eq!(told[0]["code"], "bad_request", "{c:?} {request}: {told:?}");
            let shown = format!("{c:?}");
            assert!(told[0]["message"].as_str().unwrap().contains(&shown), "{shown}: {told:?}");
        }
    }
    for name in ["é", "日本語", "Ω≈ç", "한글", "عربي", "हिन्दी", "🎉", "\u{e000}", "a\u{301}"]
    {
        assert!(bench.say(worker, json!({"channel": name, "event": name, "message_id": name})).is_empty());
    }
}

#[test]
fn a_message_to_one_connection_arrives_an_unknown_one_errs() {
    let mut bench = Bench::new();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    let to = |id: String| json!({"action": "send", "connectionId": id, "event": "say", "data": 1});
    assert_eq!(bench.say(alice, to(bob.to_string())), ["send_success 1 0 false"]);
    let heard = bench.frames(bob);
    assert_eq!((heard.len(), heard[0].get("channel"), heard[0].get("seq")), (1, None, None));
    assert_eq!(bench.say(alice, to("nobody".into())), ["error unknown_connection"]);
    bench.leave(bob);
    assert_eq!(bench.say(alice, to(bob.to_string())), ["error unknown_connection"]);
}

#[test]
fn sending_to_a_user_needs_a_right_and_reaches_all() {
    let mut bench = Bench::new();
    let (bob, bob_too) = (bench.client("bob"), bench.client("bob"));
    let alice = bench.client("alice");
    let request = json!({"action": "send", "user_id": "bob", "event": "say", "data": 1});
    assert_eq!(bench.say(alice, request.clone()), ["error forbidden"]);
    let carol = bench.client_with("carol", rights(&[], &["@user:*"], &[]));
    assert_eq!(bench.say(carol, request), ["send_success 2 0 kept"]);
    assert_eq!(bench.story(bob), ["say 1"]);
    assert_eq!(bench.story(bob_too), ["say 1"]);
}

#[test]
fn all_means_every_authenticated_client() {
    let mut bench = Bench::new();
    let (worker, alice, nobody) = (bench.worker(), bench.client("alice"), bench.stranger());
    bench.hush(nobody);
    let line = json!({"all": true, "event": "say", "data": 1, "id": 1});
    assert_eq!(bench.say(worker, line), ["ok"]);
    let heard = bench.frames(alice);
    assert_eq!((heard.len(), heard[0].get("channel"), heard[0].get("seq")), (1, None, None));
    assert!(bench.story(nobody).is_empty());
    assert_eq!(bench.stored(), 0);
}

#[test]
fn a_whisper_reaches_every_other_subscriber() {
    let mut bench = Bench::new();
    let (alice, bob, carol) = (bench.client("alice"), bench.client("bob"), bench.client("carol"));
    for seat in [alice, bob, carol] {
        bench.subscribe(seat, "room");
    }
    bench.hush(bob);
    bench.hush(carol);
    bench.outbound(carol, SendQueueState::Backlogged);
    let whisper = json!({"action": "whisper", "channel": "room", "event": "typing", "data": null});
    assert!(bench.say(alice, whisper).is_empty(), "it has no answer");
    assert_eq!(bench.story(bob), ["typing"]);
    assert!(bench.story(carol).is_empty(), "it is the first to be shed");
    assert_eq!(bench.stats()["whispers_dropped"], 1);
}

#[test]
fn a_whisper_needs_a_subscription_and_the_right_to_publish() {
    let mut bench = Bench::new();
    let alice = bench.client_with("alice", rights(&["*"], &[], &[]));
    let whisper = json!({"action": "whisper", "channel": "room", "event": "typing"});
    assert_eq!(bench.say(alice, whisper.clone()), ["error not_subscribed room"]);
    bench.subscribe(alice, "room");
    assert_eq!(bench.say(alice, whisper), ["error forbidden room"]);
}

#[test]
fn a_repeated_message_id_is_dropped_for_ten_minutes() {
    let mut bench = Bench::new();
    let (alice, other, bob) = (bench.client("alice"), bench.client("alice"), bench.client("bob"));
    bench.subscribe(bob, "room");
    let request = json!({"action": "send", "channel": "room", "event": "say", "data": 1, "message_id": "m1"});
    assert_eq!(bench.say(alice, request.clone()), ["send_success 1 0 false"]);
    assert_eq!(
        bench.say(other, request.clone()),
        ["send_success 0 0 false duplicate"],
        "the user is the scope"
    );
    bench.hush(bob);
    assert_eq!(
        bench.say(bob, request.clone()),
        ["say 1", "send_success 1 0 kept"],
        "another user is another"
    );
    for _ in 0..11 {
        bench.wait(50.0);
        bench.handle(wshubd::hub::Input::KeepAlive { conn: alice, controls: 1 });
        bench.handle(wshubd::hub::Input::KeepAlive { conn: bob, controls: 1 });
    }
    bench.wait(51.0);
    bench.hush(alice);
    assert_eq!(bench.say(alice, request), ["send_success 1 0 false"]);
}

#[test]
fn a_durable_message_is_refused_without_a_store() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(alice, "room");
    let line = json!({"channel": "room", "event": "say", "durable": true, "id": 1});
    assert_eq!(bench.say(worker, line), ["error store_unavailable"]);
    let line = json!({"connection_id": alice.to_string(), "event": "say", "durable": true, "id": 1});
    assert_eq!(bench.say(worker, line), ["ok"], "what is never kept need not be stored");
}

#[test]
fn an_unused_channel_is_dropped_and_returns_with_a_new_epoch() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    let epoch = |bench: &mut Bench| {
        bench.say(alice, json!({"action": "unsubscribe", "channel": "room"}));
        let heard = bench.ask(alice, json!({"action": "subscribe", "channel": "room"}));
        heard.last().unwrap()["epoch"].clone()
    };
    let first = epoch(&mut bench);
    bench.wait(50.0);
    assert_eq!(epoch(&mut bench), first, "it is remembered for a while");
    bench.say(alice, json!({"action": "unsubscribe", "channel": "room"}));
    for _ in 0..7 {
        bench.wait(50.0);
        bench.handle(wshubd::hub::Input::KeepAlive { conn: alice, controls: 1 });
    }
    let second = epoch(&mut bench);
    assert_ne!(second, first);
    assert!(second.as_str().unwrap().len() <= 16);
}

#[test]
fn since_is_recovered_only_if_nothing_was_missed() {
    let mut bench = Bench::new();
    let (alice, bob, carol) = (bench.client("alice"), bench.client("bob"), bench.client("carol"));
    bench.subscribe(carol, "room");
    let heard = bench.ask(bob, json!({"action": "subscribe", "channel": "room"}));
    let epoch = heard[1]["epoch"].clone();
    bench.publish(alice, "room", 1);
    bench.hush(bob);
    let since = |epoch: &serde_json::Value, seq: u64| json!({"action": "subscribe", "channel": "room", "since": {"epoch": epoch, "seq": seq}});
    assert_eq!(bench.say(bob, since(&epoch, 1)), ["subscription_succeeded room 1 recovered"]);
    bench.say(bob, json!({"action": "unsubscribe", "channel": "room"}));
    bench.publish(alice, "room", 2);
    bench.publish(alice, "room", 3);
    let answer = bench.say(bob, since(&epoch, 1));
    assert_eq!(answer, ["subscription_succeeded room 3 false", "gap 2 3 2 not_kept"]);
    let answer = bench.say(bob, since(&json!("other"), 3));
    assert_eq!(answer, ["subscription_succeeded room 3 false", "gap epoch"]);
}

#[test]
fn answers_keep_the_order_of_requests_and_echo_their_ids() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.say(worker, json!({"channel": "room", "event": "say", "data": 1}));
    bench.subscribe(alice, "elsewhere");
    bench.slow_store = true;
    for (id, request) in [
        (json!(1), json!({"action": "subscribe", "channel": "room"})),
        (json!("two"), json!({"action": "ping"})),
        (json!(3.5), json!({"action": "send", "channel": "hall", "event": "say"})),
        (json!("four"), json!({"action": "whisper", "channel": "hall", "event": "say"})),
    ] {
        let mut request = request;
        request["id"] = id;
        bench.tell(alice, &request);
    }
    bench.store_answers();
    let heard: Vec<_> = bench.frames(alice).iter().map(|frame| frame["id"].clone()).collect();
    assert_eq!(heard, [json!(1), json!("two"), json!(3.5), json!("four"), json!(null)]);
}
