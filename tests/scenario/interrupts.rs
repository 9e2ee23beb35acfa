//! Interrupts, in every state of an operation.

use serde_json::json;
use wshubd::hub::Peer;
use wshubd::protocol::{HubRequest, InterruptRequest, OperationId};

use super::bench::{Bench, Seat, rights};

fn start_for(bench: &mut Bench, worker: Seat, user: Option<&str>) -> Vec<String> {
    let line = json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "user_id": user});
    bench.say(worker, line)
}

fn stop(bench: &mut Bench, seat: Seat) -> Vec<String> {
    bench.say(seat, json!({"action": "interrupt", "data": {"operation_id": "op"}}))
}

#[test]
fn the_owner_gets_an_interrupt_before_subscribers_see_it() {
    let mut bench = Bench::new();
    let (worker, alice, bob) = (bench.worker(), bench.client("alice"), bench.client("bob"));
    start_for(&mut bench, worker, Some("alice"));
    bench.subscribe(bob, "jobs");
    bench.hush(bob);
    let request = json!({"action": "interrupt", "data": {"operation_id": "op"}, "reason": "enough"});
    assert_eq!(bench.say(alice, request), ["interrupt_result delivered"]);
    assert!(matches!(bench.last.list[0], wshubd::hub::Effect::Interrupt { .. }));
    let line = bench.frames(worker).pop().unwrap();
    assert_eq!((&line["reason"], &line["user_id"]), (&json!("enough"), &json!("alice")));
    assert_eq!(line["from"], json!(alice.to_string()));
    let heard = bench.frames(bob);
    assert_eq!((&heard[0]["state"], &heard[0]["by"]), (&json!("interrupting"), &json!("alice")));
    assert_eq!(
        (&heard[1]["event"], &heard[1]["data"]),
        (&json!("system:interrupt"), &json!({"operation_id": "op"}))
    );
    assert_eq!(heard.len(), 2);
}

#[test]
fn a_repeated_interrupt_is_harmless_and_shown_once() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    start_for(&mut bench, worker, Some("alice"));
    bench.subscribe(alice, "jobs");
    bench.subscribe(alice, "operation:op");
    bench.hush(alice);
    let shown = ["operation op interrupting", r#"system:interrupt {"operation_id":"op"}"#];
    assert_eq!(stop(&mut bench, alice), [&["interrupt_result delivered"], &shown[..]].concat());
    assert_eq!(stop(&mut bench, alice), ["interrupt_result delivered"]);
    assert_eq!(bench.story(worker), ["interrupt op", "interrupt op"]);
}

#[test]
fn the_right_to_interrupt_a_users_operation() {
    let mut bench = Bench::new();
    let (worker, plain) = (bench.worker(), bench.client("bob"));
    let warden = bench.client_with("carol", rights(&[], &[], &["jobs"]));
    start_for(&mut bench, worker, Some("alice"));
    assert_eq!(stop(&mut bench, plain), ["error forbidden"]);
    assert!(bench.story(worker).is_empty(), "the worker hears nothing");
    assert_eq!(stop(&mut bench, warden), ["interrupt_result delivered"]);
}

#[test]
fn publishers_may_interrupt_an_operation_without_a_user() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    let mute = bench.client_with("bob", rights(&["*"], &[], &[]));
    start_for(&mut bench, worker, None);
    assert_eq!(stop(&mut bench, mute), ["error forbidden"]);
    assert_eq!(stop(&mut bench, alice), ["interrupt_result delivered"]);
    bench.hush(worker);
    let stranger = bench.link(Peer::Worker { uid: 1001, admin: false });
    assert_eq!(stop(&mut bench, stranger), ["error forbidden"]);
    let admin = bench.admin();
    let line = json!({"action": "interrupt", "data": {"operation_id": "op"}, "id": 1});
    assert_eq!(bench.say(admin, line), ["ok"]);
}

#[test]
fn a_guessed_id_does_not_reveal_the_channel_of_an_operation() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    let (plain, deaf) = (bench.client("bob"), bench.client_with("mallory", rights(&[], &["*"], &[])));
    let warden = bench.client_with("carol", rights(&[], &["*"], &["*"]));
    let request = json!({"action": "interrupt", "data": {"operation_id": "op"}});
    let named = json!({"action": "interrupt", "channel": "jobs", "data": {"operation_id": "op"}});
    // Requested too early by one who may interrupt operations without a user, and gets no frame of it.
    assert_eq!(bench.say(deaf, request.clone()), ["interrupt_result pending"]);
    start_for(&mut bench, worker, None);
    assert!(!json!(bench.ask(deaf, request.clone())).to_string().contains("jobs"));
    assert_eq!(bench.say(plain, request.clone()), ["interrupt_result delivered"]);
    bench.say(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    let told = bench.ask(deaf, request.clone());
    assert!(!json!(told).to_string().contains("jobs"), "{told:?}");
    start_for(&mut bench, worker, Some("alice"));
    let requests = [
        request.clone(),
        json!({"action": "subscribe", "channel": "operation:op"}),
        json!({"action": "operations", "channel": "operation:op"}),
        json!({"action": "presence", "channel": "operation:op"}),
        json!({"action": "send", "channel": "operation:op", "event": "say"}),
        json!({"action": "whisper", "channel": "operation:op", "event": "say"}),
        json!({"action": "interrupt", "channel": "else", "data": {"operation_id": "op"}}),
    ];
    for request in requests {
        let told = bench.ask(deaf, request);
        assert_eq!(told.last().unwrap()["type"], "error", "{told:?}");
        assert!(!json!(told).to_string().contains("jobs"), "{told:?}");
    }
    assert_eq!(bench.say(plain, named.clone()), ["error forbidden jobs"], "he named it himself");
    for (seat, request, channel) in [(warden, request, json!(null)), (warden, named, json!("jobs"))] {
        let told = bench.ask(seat, request);
        assert_eq!((&told[0]["outcome"], &told[0]["channel"]), (&json!("delivered"), &channel));
    }
}

#[test]
fn an_ended_operation_is_already_ended_on_its_channel() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    start_for(&mut bench, worker, None);
    let elsewhere = json!({"action": "interrupt", "channel": "else", "data": {"operation_id": "op"}});
    assert_eq!(bench.say(alice, elsewhere), ["error unknown_operation"]);
    bench.say(worker, json!({"action": "operation_end", "operation_id": "op", "state": "failed"}));
    assert_eq!(stop(&mut bench, alice), ["interrupt_result already_ended"]);
}

#[test]
fn an_early_interrupt_waits_for_its_operation() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    assert_eq!(stop(&mut bench, alice), ["interrupt_result pending"]);
    bench.wait(9.0);
    assert_eq!(start_for(&mut bench, worker, Some("alice")), ["interrupt op"]);
    assert_eq!(bench.story(alice), ["interrupt_result delivered"]);
    bench.wait(10.0);
    assert!(bench.story(alice).is_empty(), "it was answered");
}

#[test]
fn an_early_interrupt_without_an_operation_has_no_owner() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    let request = json!({"action": "interrupt", "data": {"operation_id": "op"}, "id": "x"});
    bench.say(alice, request);
    bench.wait(10.0);
    let answer = bench.frames(alice).pop().unwrap();
    assert_eq!((&answer["outcome"], &answer["id"]), (&json!("no_owner"), &json!("x")));
}

#[test]
fn rights_are_checked_again_when_the_operation_registers() {
    let mut bench = Bench::new();
    let (worker, mallory) = (bench.worker(), bench.client("mallory"));
    stop(&mut bench, mallory);
    assert!(start_for(&mut bench, worker, Some("alice")).is_empty(), "the worker hears nothing");
    assert_eq!(bench.story(mallory), ["interrupt_result no_owner"]);
}

#[test]
fn listening_workers_get_an_early_interrupt_at_once() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(worker, "jobs");
    let request = json!({"action": "interrupt", "channel": "jobs", "data": {"operation_id": "op"}});
    assert_eq!(bench.say(alice, request.clone()), ["interrupt_result pending"]);
    assert_eq!(bench.story(worker), [r#"system:interrupt {"operation_id":"op"}"#]);
    let mute = bench.client_with("bob", rights(&["*"], &[], &[]));
    assert_eq!(bench.say(mute, request), ["error forbidden jobs"]);
}

#[test]
fn waiting_interrupts_of_a_connection_are_limited() {
    let mut bench = Bench::new();
    let alice = bench.client("alice");
    let ask = |n: u32| json!({"action": "interrupt", "data": {"operation_id": format!("op{n}")}});
    for n in 0..16 {
        assert_eq!(bench.say(alice, ask(n)), ["interrupt_result pending"]);
    }
    assert_eq!(bench.say(alice, ask(16)), ["error rate_limited"]);
    bench.wait(11.0);
    assert_eq!(bench.story(alice).len(), 16);
    assert_eq!(bench.say(alice, ask(16)), ["interrupt_result pending"]);
}

#[test]
fn an_operation_over_its_grace_is_ended() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(alice, "jobs");
    start_for(&mut bench, worker, None);
    bench.wait(20.0);
    stop(&mut bench, alice);
    bench.wait(20.0);
    stop(&mut bench, alice);
    bench.wait(9.0);
    bench.hush(alice);
    bench.wait(1.0);
    assert_eq!(bench.story(alice), ["operation op ended timeout"], "asking again gives no more time");
    let line = json!({"action": "operation_end", "operation_id": "op", "state": "interrupted", "id": 1});
    assert_eq!(bench.say(worker, line).last().unwrap(), "error unknown_operation");
}

#[test]
fn an_operation_at_its_deadline_is_interrupted() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    bench.subscribe(alice, "jobs");
    let line = json!({"action": "operation_start", "operation_id": "op", "channel": "jobs",
        "deadline": 5, "interrupt_grace": 2});
    bench.say(worker, line);
    bench.wait(5.0);
    assert_eq!(bench.story(worker), ["interrupt op deadline"]);
    bench.hush(alice);
    bench.wait(2.0);
    assert_eq!(bench.story(alice), ["operation op ended timeout"]);
}

#[test]
fn a_client_that_disconnects_interrupts_nothing() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    start_for(&mut bench, worker, Some("alice"));
    bench.leave(alice);
    bench.wait(60.0);
    assert!(bench.story(worker).is_empty());
}

#[test]
fn an_early_interrupt_of_a_lost_connection_is_dropped() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    stop(&mut bench, alice);
    bench.leave(alice);
    assert!(start_for(&mut bench, worker, Some("alice")).is_empty());
}

#[test]
fn an_http_caller_gets_pending_and_then_the_outcome() {
    let mut bench = Bench::new();
    let worker = bench.worker();
    let wish =
        InterruptRequest { operation_id: OperationId::new("op").unwrap(), channel: None, reason: None };
    assert_eq!(bench.ask_http(1, HubRequest::Interrupt(wish.clone())), ["interrupt_result pending"]);
    start_for(&mut bench, worker, Some("alice"));
    assert_eq!(bench.answers(1), ["interrupt_result delivered"]);
    assert_eq!(bench.ask_http(2, HubRequest::Interrupt(wish)), ["interrupt_result delivered"]);
}

#[test]
fn waiting_interrupts_are_limited_in_all() {
    let mut bench = Bench::new();
    let ask = |n: usize| json!({"action": "interrupt", "data": {"operation_id": format!("op{n}")}});
    for n in 0..1024 {
        let seat = bench.client(&format!("user{}", n / 16));
        assert_eq!(bench.say(seat, ask(n)), ["interrupt_result pending"]);
    }
    let late = bench.client("late");
    assert_eq!(bench.say(late, ask(1024)), ["error rate_limited"]);
    bench.live(11);
    bench.hush(late);
    assert_eq!(bench.say(late, ask(1024)), ["interrupt_result pending"]);
}

#[test]
fn interrupts_of_one_user_leave_places_for_others() {
    let mut bench = Bench::new();
    let ask = |n: usize| json!({"action": "interrupt", "data": {"operation_id": format!("op{n}")}});
    for n in 0..64 {
        let mallory = bench.client("mallory");
        assert_eq!(bench.say(mallory, ask(n)), ["interrupt_result pending"]);
    }
    let again = bench.client("mallory");
    assert_eq!(bench.say(again, ask(64)), ["error rate_limited"], "all connections together");
    for n in 64..1024 {
        let seat = bench.client(&format!("user{}", n / 16));
        assert_eq!(bench.say(seat, ask(n)), ["interrupt_result pending"]);
    }
    let alice = bench.client("alice");
    assert_eq!(bench.say(alice, ask(1024)), ["error rate_limited"], "all clients together");
    let admin = bench.link(Peer::Worker { uid: 0, admin: true });
    let mut request = ask(1025);
    request["id"] = json!(1);
    assert_eq!(bench.ask(admin, request).remove(0)["outcome"], "pending", "workers have their own");
    let wish =
        InterruptRequest { operation_id: OperationId::new("late").unwrap(), channel: None, reason: None };
    assert_eq!(
        bench.ask_http(1, HubRequest::Interrupt(wish)),
        ["interrupt_result pending"],
        "and so has HTTP"
    );
    bench.hand_over();
    assert_eq!(bench.say(again, ask(64)), ["error rate_limited"], "a hand-over changes nothing");
    bench.live(11);
    bench.hush(again);
    assert_eq!(bench.say(again, ask(64)), ["interrupt_result pending"]);
}

#[test]
fn an_interrupt_overtakes_the_queue_of_a_full_worker() {
    let mut bench = Bench::new();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    start_for(&mut bench, worker, Some("alice"));
    bench.outbound(worker, wshubd::hub::SendQueueState::Full);
    assert_eq!(stop(&mut bench, alice), ["interrupt_result delivered"]);
    assert_eq!(bench.story(worker), ["interrupt op"]);
}
