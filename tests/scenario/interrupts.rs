//! Interrupts, in every state of an operation.

use serde_json::json;
use wshubd::hub::Peer;
use wshubd::protocol::{HubRequest, InterruptRequest, OperationId};

use super::harness::{ConnectionId, Harness, rights};

fn start_for(harness: &mut Harness, worker: ConnectionId, user: Option<&str>) -> Vec<String> {
    let line = json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "user_id": user});
    harness.send(worker, line)
}

fn stop(harness: &mut Harness, conn: ConnectionId) -> Vec<String> {
    harness.send(conn, json!({"action": "interrupt", "data": {"operation_id": "op"}}))
}

#[test]
fn the_owner_gets_an_interrupt_before_subscribers_see_it() {
    let mut harness = Harness::new();
    let (worker, alice, bob) = (harness.worker(), harness.client("alice"), harness.client("bob"));
    start_for(&mut harness, worker, Some("alice"));
    harness.subscribe(bob, "jobs");
    harness.discard_frames(bob);
    let request = json!({"action": "interrupt", "data": {"operation_id": "op"}, "reason": "enough"});
    assert_eq!(harness.send(alice, request), ["interrupt_result delivered"]);
    assert!(matches!(harness.last.list[0], wshubd::hub::Effect::Interrupt { .. }));
    let line = harness.frames(worker).pop().unwrap();
    assert_eq!((&line["reason"], &line["user_id"]), (&json!("enough"), &json!("alice")));
    assert_eq!(line["from"], json!(alice.to_string()));
    let received = harness.frames(bob);
    assert_eq!((&received[0]["state"], &received[0]["by"]), (&json!("interrupting"), &json!("alice")));
    assert_eq!(
        (&received[1]["event"], &received[1]["data"]),
        (&json!("system:interrupt"), &json!({"operation_id": "op"}))
    );
    assert_eq!(received.len(), 2);
}

#[test]
fn a_repeated_interrupt_is_harmless_and_shown_once() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    start_for(&mut harness, worker, Some("alice"));
    harness.subscribe(alice, "jobs");
    harness.subscribe(alice, "operation:op");
    harness.discard_frames(alice);
    let shown = ["operation op interrupting", r#"system:interrupt {"operation_id":"op"}"#];
    assert_eq!(stop(&mut harness, alice), [&["interrupt_result delivered"], &shown[..]].concat());
    assert_eq!(stop(&mut harness, alice), ["interrupt_result delivered"]);
    assert_eq!(harness.received(worker), ["interrupt op", "interrupt op"]);
}

#[test]
fn the_right_to_interrupt_a_users_operation() {
    let mut harness = Harness::new();
    let (worker, plain) = (harness.worker(), harness.client("bob"));
    let warden = harness.client_with("carol", rights(&[], &[], &["jobs"]));
    start_for(&mut harness, worker, Some("alice"));
    assert_eq!(stop(&mut harness, plain), ["error forbidden"]);
    assert!(harness.received(worker).is_empty(), "the worker hears nothing");
    assert_eq!(stop(&mut harness, warden), ["interrupt_result delivered"]);
}

#[test]
fn publishers_may_interrupt_an_operation_without_a_user() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    let mute = harness.client_with("bob", rights(&["*"], &[], &[]));
    start_for(&mut harness, worker, None);
    assert_eq!(stop(&mut harness, mute), ["error forbidden"]);
    assert_eq!(stop(&mut harness, alice), ["interrupt_result delivered"]);
    harness.discard_frames(worker);
    let stranger = harness.connect(Peer::Worker { uid: 1001, admin: false });
    assert_eq!(stop(&mut harness, stranger), ["error forbidden"]);
    let admin = harness.admin();
    let line = json!({"action": "interrupt", "data": {"operation_id": "op"}, "id": 1});
    assert_eq!(harness.send(admin, line), ["ok"]);
}

#[test]
fn a_guessed_id_does_not_reveal_the_channel_of_an_operation() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    let (plain, deaf) = (harness.client("bob"), harness.client_with("mallory", rights(&[], &["*"], &[])));
    let warden = harness.client_with("carol", rights(&[], &["*"], &["*"]));
    let request = json!({"action": "interrupt", "data": {"operation_id": "op"}});
    let named = json!({"action": "interrupt", "channel": "jobs", "data": {"operation_id": "op"}});
    // Requested too early by one who may interrupt operations without a user, and gets no frame of it.
    assert_eq!(harness.send(deaf, request.clone()), ["interrupt_result pending"]);
    start_for(&mut harness, worker, None);
    assert!(!json!(harness.request(deaf, request.clone())).to_string().contains("jobs"));
    assert_eq!(harness.send(plain, request.clone()), ["interrupt_result delivered"]);
    harness.send(worker, json!({"action": "operation_end", "operation_id": "op", "state": "completed"}));
    let reply = harness.request(deaf, request.clone());
    assert!(!json!(reply).to_string().contains("jobs"), "{reply:?}");
    start_for(&mut harness, worker, Some("alice"));
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
        let reply = harness.request(deaf, request);
        assert_eq!(reply.last().unwrap()["type"], "error", "{reply:?}");
        assert!(!json!(reply).to_string().contains("jobs"), "{reply:?}");
    }
    assert_eq!(harness.send(plain, named.clone()), ["error forbidden jobs"], "he named it himself");
    for (conn, request, channel) in [(warden, request, json!(null)), (warden, named, json!("jobs"))] {
        let reply = harness.request(conn, request);
        assert_eq!((&reply[0]["outcome"], &reply[0]["channel"]), (&json!("delivered"), &channel));
    }
}

#[test]
fn an_ended_operation_is_already_ended_on_its_channel() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    start_for(&mut harness, worker, None);
    let elsewhere = json!({"action": "interrupt", "channel": "else", "data": {"operation_id": "op"}});
    assert_eq!(harness.send(alice, elsewhere), ["error unknown_operation"]);
    harness.send(worker, json!({"action": "operation_end", "operation_id": "op", "state": "failed"}));
    assert_eq!(stop(&mut harness, alice), ["interrupt_result already_ended"]);
}

#[test]
fn an_early_interrupt_waits_for_its_operation() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    assert_eq!(stop(&mut harness, alice), ["interrupt_result pending"]);
    harness.wait(9.0);
    assert_eq!(start_for(&mut harness, worker, Some("alice")), ["interrupt op"]);
    assert_eq!(harness.received(alice), ["interrupt_result delivered"]);
    harness.wait(10.0);
    assert!(harness.received(alice).is_empty(), "it was answered");
}

#[test]
fn an_early_interrupt_without_an_operation_has_no_owner() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let request = json!({"action": "interrupt", "data": {"operation_id": "op"}, "id": "x"});
    harness.send(alice, request);
    harness.wait(10.0);
    let answer = harness.frames(alice).pop().unwrap();
    assert_eq!((&answer["outcome"], &answer["id"]), (&json!("no_owner"), &json!("x")));
}

#[test]
fn rights_are_checked_again_when_the_operation_registers() {
    let mut harness = Harness::new();
    let (worker, mallory) = (harness.worker(), harness.client("mallory"));
    stop(&mut harness, mallory);
    assert!(start_for(&mut harness, worker, Some("alice")).is_empty(), "the worker hears nothing");
    assert_eq!(harness.received(mallory), ["interrupt_result no_owner"]);
}

#[test]
fn listening_workers_get_an_early_interrupt_at_once() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(worker, "jobs");
    let request = json!({"action": "interrupt", "channel": "jobs", "data": {"operation_id": "op"}});
    assert_eq!(harness.send(alice, request.clone()), ["interrupt_result pending"]);
    assert_eq!(harness.received(worker), [r#"system:interrupt {"operation_id":"op"}"#]);
    let mute = harness.client_with("bob", rights(&["*"], &[], &[]));
    assert_eq!(harness.send(mute, request), ["error forbidden jobs"]);
}

#[test]
fn waiting_interrupts_of_a_connection_are_limited() {
    let mut harness = Harness::new();
    let alice = harness.client("alice");
    let interrupt = |n: u32| json!({"action": "interrupt", "data": {"operation_id": format!("op{n}")}});
    for n in 0..16 {
        assert_eq!(harness.send(alice, interrupt(n)), ["interrupt_result pending"]);
    }
    assert_eq!(harness.send(alice, interrupt(16)), ["error rate_limited"]);
    harness.wait(11.0);
    assert_eq!(harness.received(alice).len(), 16);
    assert_eq!(harness.send(alice, interrupt(16)), ["interrupt_result pending"]);
}

#[test]
fn an_operation_over_its_grace_is_ended() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(alice, "jobs");
    start_for(&mut harness, worker, None);
    harness.wait(20.0);
    stop(&mut harness, alice);
    harness.wait(20.0);
    stop(&mut harness, alice);
    harness.wait(9.0);
    harness.discard_frames(alice);
    harness.wait(1.0);
    assert_eq!(harness.received(alice), ["operation op ended timeout"], "asking again gives no more time");
    let line = json!({"action": "operation_end", "operation_id": "op", "state": "interrupted", "id": 1});
    assert_eq!(harness.send(worker, line).last().unwrap(), "error unknown_operation");
}

#[test]
fn an_operation_at_its_deadline_is_interrupted() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    harness.subscribe(alice, "jobs");
    let line = json!({"action": "operation_start", "operation_id": "op", "channel": "jobs",
        "deadline": 5, "interrupt_grace": 2});
    harness.send(worker, line);
    harness.wait(5.0);
    assert_eq!(harness.received(worker), ["interrupt op deadline"]);
    harness.discard_frames(alice);
    harness.wait(2.0);
    assert_eq!(harness.received(alice), ["operation op ended timeout"]);
}

#[test]
fn a_client_that_disconnects_interrupts_nothing() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    start_for(&mut harness, worker, Some("alice"));
    harness.disconnect(alice);
    harness.wait(60.0);
    assert!(harness.received(worker).is_empty());
}

#[test]
fn an_early_interrupt_of_a_lost_connection_is_dropped() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    stop(&mut harness, alice);
    harness.disconnect(alice);
    assert!(start_for(&mut harness, worker, Some("alice")).is_empty());
}

#[test]
fn an_http_caller_gets_pending_and_then_the_outcome() {
    let mut harness = Harness::new();
    let worker = harness.worker();
    let wish =
        InterruptRequest { operation_id: OperationId::new("op").unwrap(), channel: None, reason: None };
    assert_eq!(harness.request_http(1, HubRequest::Interrupt(wish.clone())), ["interrupt_result pending"]);
    start_for(&mut harness, worker, Some("alice"));
    assert_eq!(harness.answers(1), ["interrupt_result delivered"]);
    assert_eq!(harness.request_http(2, HubRequest::Interrupt(wish)), ["interrupt_result delivered"]);
}

#[test]
fn waiting_interrupts_are_limited_in_all() {
    let mut harness = Harness::new();
    let interrupt = |n: usize| json!({"action": "interrupt", "data": {"operation_id": format!("op{n}")}});
    for n in 0..1024 {
        let conn = harness.client(&format!("user{}", n / 16));
        assert_eq!(harness.send(conn, interrupt(n)), ["interrupt_result pending"]);
    }
    let late = harness.client("late");
    assert_eq!(harness.send(late, interrupt(1024)), ["error rate_limited"]);
    harness.keep_alive(11);
    harness.discard_frames(late);
    assert_eq!(harness.send(late, interrupt(1024)), ["interrupt_result pending"]);
}

#[test]
fn interrupts_of_one_user_leave_places_for_others() {
    let mut harness = Harness::new();
    let interrupt = |n: usize| json!({"action": "interrupt", "data": {"operation_id": format!("op{n}")}});
    for n in 0..64 {
        let mallory = harness.client("mallory");
        assert_eq!(harness.send(mallory, interrupt(n)), ["interrupt_result pending"]);
    }
    let again = harness.client("mallory");
    assert_eq!(harness.send(again, interrupt(64)), ["error rate_limited"], "all connections together");
    for n in 64..1024 {
        let conn = harness.client(&format!("user{}", n / 16));
        assert_eq!(harness.send(conn, interrupt(n)), ["interrupt_result pending"]);
    }
    let alice = harness.client("alice");
    assert_eq!(harness.send(alice, interrupt(1024)), ["error rate_limited"], "all clients together");
    let admin = harness.connect(Peer::Worker { uid: 0, admin: true });
    let mut request = interrupt(1025);
    request["id"] = json!(1);
    assert_eq!(harness.request(admin, request).remove(0)["outcome"], "pending", "workers have their own");
    let wish =
        InterruptRequest { operation_id: OperationId::new("late").unwrap(), channel: None, reason: None };
    assert_eq!(
        harness.request_http(1, HubRequest::Interrupt(wish)),
        ["interrupt_result pending"],
        "and so has HTTP"
    );
    harness.hand_over();
    assert_eq!(harness.send(again, interrupt(64)), ["error rate_limited"], "a hand-over changes nothing");
    harness.keep_alive(11);
    harness.discard_frames(again);
    assert_eq!(harness.send(again, interrupt(64)), ["interrupt_result pending"]);
}

#[test]
fn an_interrupt_overtakes_the_queue_of_a_full_worker() {
    let mut harness = Harness::new();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    start_for(&mut harness, worker, Some("alice"));
    harness.send_queue(worker, wshubd::hub::SendQueueState::Full);
    assert_eq!(stop(&mut harness, alice), ["interrupt_result delivered"]);
    assert_eq!(harness.received(worker), ["interrupt op"]);
}
