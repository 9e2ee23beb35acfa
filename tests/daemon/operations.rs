//! A long operation and its interrupts.

use serde_json::{Value, json};

use crate::harness::{Daemon, Worker};

#[test]
fn an_interrupt_reaches_the_worker_and_there_is_one_end() {
    let daemon = Daemon::start();
    let (mut ada, mut ben, mut worker) = (daemon.client("ada"), daemon.client("ben"), daemon.worker());
    ada.subscribe("jobs");
    ben.subscribe("jobs");
    worker.send(json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "user_id": "ada", "id": 1}));
    assert_eq!(worker.receive()["type"], "ok");
    assert_eq!(ada.expect_type("operation")["state"], "started");
    ben.expect_type("operation");

    ada.send(json!({"action": "interrupt", "data": {"operation_id": "op"}, "reason": "enough", "id": 2}));
    let line = worker.receive();
    worker.send(json!({"action": "operation_end", "operation_id": "op", "state": "interrupted"}));

    assert_eq!(
        (&line["type"], &line["user_id"], &line["reason"]),
        (&json!("interrupt"), &json!("ada"), &json!("enough"))
    );
    let mut seen: Vec<String> = Vec::new();
    while seen.last().is_none_or(|last| last != "ended") {
        let frame = ben.receive();
        seen.push(frame["state"].as_str().or(frame["event"].as_str()).unwrap().to_owned());
    }
    seen.sort();
    assert_eq!(seen, ["ended", "interrupting", "system:interrupt"]);
    ben.send(json!({"action": "interrupt", "data": {"operation_id": "op"}}));
    assert_eq!(ben.expect_type("error")["code"], "forbidden");
    while ada.receive()["state"] != "ended" {}
    ada.send(json!({"action": "interrupt", "data": {"operation_id": "op"}}));
    assert_eq!(ada.expect_type("interrupt_result")["outcome"], "already_ended");
}

#[test]
fn an_operation_ends_when_its_worker_dies() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("jobs");
    let mut worker = daemon.worker();
    worker.send(json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    assert_eq!(ada.expect_type("operation")["state"], "started");

    drop(worker);

    let ended = ada.expect_type("operation");
    assert_eq!((&ended["state"], &ended["reason"]), (&json!("ended"), &json!("owner_lost")));
}

#[test]
fn an_early_interrupt_waits_for_its_operation() {
    let daemon = Daemon::start();
    let (mut ada, mut worker) = (daemon.client("ada"), daemon.worker());
    ada.send(json!({"action": "interrupt", "data": {"operation_id": "op"}, "id": 7}));
    assert_eq!(ada.expect_type("interrupt_result")["outcome"], "pending");

    worker.send(
        json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "user_id": "ada"}),
    );

    let result = ada.expect_type("interrupt_result");
    assert_eq!((&result["outcome"], &result["id"]), (&json!("delivered"), &json!(7)));
    assert_eq!(worker.receive()["type"], "interrupt");
}

#[test]
fn an_interrupt_overtakes_the_queue_of_a_stalled_worker() {
    let daemon = Daemon::start();
    let (mut owner, mut other) = (daemon.worker(), daemon.worker());
    owner.send(json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "id": 1}));
    assert_eq!(owner.receive()["type"], "ok");
    owner.send(json!({"action": "subscribe", "channel": "noise", "id": 2}));
    assert_eq!(owner.receive()["type"], "ok");
    let data = "x".repeat(4 << 10);
    for n in 0..2000 {
        other.send(json!({"channel": "noise", "event": "line", "data": [n, data], "id": n}));
        other.receive();
    }

    let (status, answer) = daemon.post("/interrupt", json!({"operation_id": "op"}));
    assert_eq!((status, &answer["outcome"]), (200, &json!("delivered")));

    // What the kernel holds comes first; of what the daemon queued, nothing.
    let mut before = 0;
    let mut line = owner.receive();
    while line["type"] == "message" {
        before += 1;
        line = owner.receive();
    }
    assert_eq!(line["type"], "interrupt");
    assert!(owner.receive()["type"] == "message", "{before} lines were in the kernel, the queue came after");
}

#[test]
fn an_interrupt_is_sent_with_other_frames_of_its_turn() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    // One read, one turn: an answer is owed already when the latch is pulled.
    worker.write(concat!(
        r#"{"action":"operation_start","operation_id":"op","channel":"jobs","id":1}"#,
        "\n",
        r#"{"action":"interrupt","operation_id":"op"}"#,
        "\n",
    ));
    let received = [worker.receive()["type"].clone(), worker.receive()["type"].clone()];
    assert_eq!(received, [json!("ok"), json!("interrupt")]);
}

#[test]
fn an_interrupt_follows_the_pending_ok_of_its_start() {
    // More may wait for the worker than this test has for it.
    let mut daemon = Daemon::with(&[("WSHUBD_LIMITS__QUEUE_BYTES", "64MiB")]);
    let (mut ada, mut owner, mut other) = (daemon.client("ada"), daemon.worker(), daemon.worker());
    ada.subscribe("jobs");
    owner.ok(json!({"action": "subscribe", "channel": "noise", "id": "noise"}));
    let start = |owner: &mut Worker, operation: &str| {
        owner.send(json!({"action": "operation_start", "operation_id": operation, "channel": "jobs",
            "user_id": "ada", "id": operation}));
    };
    start(&mut owner, "first");
    assert_eq!(owner.receive()["type"], "ok");
    let data = "x".repeat(16 << 10);
    // More than the kernel takes.
    for n in 0..100 {
        other.ok(json!({"channel": "noise", "event": "line", "data": [n, data], "id": n}));
    }
    for operation in ["second", "third", "fourth"] {
        start(&mut owner, operation);
    }
    // And one that ends and starts again.
    start(&mut owner, "twice");
    owner
        .send(json!({"action": "operation_end", "operation_id": "twice", "state": "completed", "id": "end"}));
    owner.send(
        json!({"action": "operation_start", "operation_id": "twice", "channel": "jobs", "user_id": "ada",
        "id": "again"}),
    );
    // So that it is seen where they end.
    for n in 100..110 {
        other.ok(json!({"channel": "noise", "event": "line", "data": [n, data], "id": n}));
    }
    for operation in ["first", "second", "third", "fourth", "twice", "twice", "twice"] {
        while ada.expect_type("operation")["operation_id"] != operation {}
    }
    let mut stop = |operation: &str| {
        ada.send(json!({"action": "interrupt", "data": {"operation_id": operation}, "id": 1}));
        while ada.receive()["outcome"] != "delivered" {}
    };
    stop("first");
    stop("third");
    daemon.hand_over();
    stop("second");
    stop("twice");

    // All noise, six answers, four interrupts.
    let received: Vec<Value> = (0..120).map(|_| owner.receive()).collect();
    let at =
        |field: &str, operation: &str| received.iter().position(|line| line[field] == operation).unwrap();
    assert!(at("operation_id", "first") < at("id", "second"), "ahead of all that waits");
    for (start, operation) in [("second", "second"), ("third", "third"), ("again", "twice")] {
        let (ok, interrupt) = (at("id", start), at("operation_id", operation));
        assert_eq!((&received[ok]["type"], interrupt), (&json!("ok"), ok + 1), "{operation}");
    }
    let noise = received.iter().filter(|line| line["type"] == "message").map(|line| line["data"][0].clone());
    assert!(noise.eq((0..110).map(Value::from)), "nothing is lost or moved");
}
