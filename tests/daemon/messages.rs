//! Messages between clients, workers and HTTP callers.

use async_tungstenite::tungstenite::Message;
use serde_json::json;
use wshubd::features::STORE;

use crate::harness::Daemon;

#[test]
fn a_message_reaches_every_subscriber_and_is_acknowledged() {
    let daemon = Daemon::start();
    let (mut ada, mut ben) = (daemon.client("ada"), daemon.client("ben"));
    ada.send(json!({"action": "subscribe", "channel": "logs", "id": 1}));
    let id = ada.expect_type("connection_id");
    let subscribed = ada.expect_type("subscription_succeeded");
    ben.subscribe("logs");

    ada.send(json!({"action": "send", "channel": "logs", "event": "line", "data": {"n": 12345678901234567890u64}, "id": 2}));

    assert_eq!(subscribed["id"], 1);
    let received = ben.expect_type("message");
    assert_eq!(received["from"], id["connection_id"]);
    assert_eq!(received["user_id"], "ada");
    assert_eq!(received["source"], "client");
    assert_eq!(received["seq"], 1);
    assert_eq!(received["data"], json!({"n": 12345678901234567890u64}));
    let own = [ada.receive(), ada.receive()];
    let answer = own.iter().find(|frame| frame["type"] == "send_success").unwrap();
    assert_eq!((&answer["sent"], &answer["failed"], &answer["id"]), (&json!(2), &json!(0), &json!(2)));
}

#[test]
fn a_lone_surrogate_is_no_name_and_passes_unchanged_in_data() {
    let daemon = Daemon::start();
    let (mut ada, mut ben) = (daemon.client("ada"), daemon.client("ben"));
    ada.subscribe("logs");
    for (channel, event) in [(r"\ud800", "e"), (r"a\udc00b", "e"), ("logs", r"\udc00\ud800")] {
        let request = format!(r#"{{"action":"send","channel":"{channel}","event":"{event}","id":1}}"#);
        ben.socket.send(request.into()).unwrap();
        assert_eq!(ben.expect_type("error")["code"], "bad_request", "{channel} {event}");
    }
    let data = r#"{"lone":"\ud800 \uDFFF","\udc00":["\ud83d\ude00","\u0000"]}"#;
    let request = format!(r#"{{"action":"send","channel":"logs","event":"e","data":{data},"id":2}}"#);
    ben.socket.send(request.into()).unwrap();
    let Message::Text(received) = ada.socket.read().unwrap() else { panic!("no text") };
    assert!(received.contains(&format!(r#""data":{data},"#)), "{received}");
    assert_eq!(ben.expect_type("send_success")["id"], 2);
}

#[test]
fn a_worker_publishes_with_one_line_and_no_handshake() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("logs");

    let mut worker = daemon.worker();
    worker.write("{\"channel\":\"logs\",\"event\":\"log\",\"data\":\"hi\"}\n");
    let answers = worker.finish();

    let received = ada.expect_type("message");
    assert_eq!((&received["from"], &received["data"]), (&json!("worker"), &json!("hi")));
    assert_eq!(answers, "", "who gives no id wants no answer");
}

#[test]
fn a_worker_line_with_an_id_is_answered_and_errors_always() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    worker.send(json!({"channel": "logs", "type": "log", "id": "a"}));
    worker.write("nonsense\n{\"channel\":\"logs\"}\n{\"half\":");

    let answers = worker.finish();
    let answers: Vec<serde_json::Value> =
        answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        (&answers[0]["type"], &answers[0]["id"], &answers[0]["kept"]),
        (&json!("ok"), &json!("a"), &json!(true))
    );
    let codes: Vec<_> = answers[1..].iter().map(|answer| answer["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["bad_json", "bad_request", "bad_json"]);
}

#[test]
fn an_undelivered_message_waits_for_the_first_subscriber() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    for n in 0..300 {
        worker.send(json!({"channel": "logs", "event": "line", "data": n, "id": n}));
    }
    for _ in 0..300 {
        assert_eq!(worker.receive()["type"], "ok");
    }

    let mut ada = daemon.client("ada");
    ada.subscribe("logs");
    for n in 0..300 {
        let received = ada.expect_type("message");
        assert_eq!(
            (&received["data"], &received["replayed"], &received["seq"]),
            (&json!(n), &json!(true), &json!(n + 1))
        );
    }
    worker.send(json!({"channel": "logs", "event": "line", "data": "live"}));
    let live = ada.expect_type("message");
    assert_eq!((&live["data"], &live["replayed"]), (&json!("live"), &json!(null)));
}

#[test]
fn a_back_end_broadcasts_with_the_secret() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("logs");

    let (status, answer) =
        daemon.post("/broadcast", json!({"channel": "logs", "event": "deploy", "data": [1]}));
    let to_ada = daemon.post("/api/v1/broadcast", json!({"user_id": "ada", "event": "note", "data": 2}));
    let to_all = daemon.post("/broadcast", json!({"all": true, "event": "note", "data": 3}));

    assert_eq!((status, &answer["type"], &answer["sent"]), (200, &json!("send_success"), &json!(1)));
    assert_eq!((to_ada.0, to_all.0), (200, 200));
    for data in [json!([1]), json!(2), json!(3)] {
        let received = ada.expect_type("message");
        assert_eq!((&received["data"], &received["from"]), (&data, &json!("http")));
    }
}

#[test]
fn a_large_message_arrives_and_a_larger_one_closes_with_1009() {
    let daemon = Daemon::start();
    let (mut ada, mut ben) = (daemon.client("ada"), daemon.client("ben"));
    ada.subscribe("logs");
    let data = "x".repeat(500 << 10);

    ben.send(json!({"action": "send", "channel": "logs", "event": "big", "data": data}));
    assert_eq!(ada.expect_type("message")["data"], json!(data));
    ben.expect_type("send_success");

    ben.send(json!({"action": "send", "channel": "logs", "event": "big", "data": "x".repeat(513 << 10)}));
    assert_eq!(ben.closed_with(), 1009);
}

#[test]
fn a_peer_that_does_not_read_delays_nobody_and_gets_a_gap() {
    let daemon = Daemon::start();
    let (mut ada, mut stuck) = (daemon.client("ada"), daemon.client("stuck"));
    ada.subscribe("logs");
    stuck.subscribe("logs");

    let mut worker = daemon.worker();
    let data = "x".repeat(10 << 10);
    let mut last = json!(null);
    for n in 0..1000 {
        worker.send(json!({"channel": "logs", "event": "line", "data": [n, data], "id": n}));
        assert_eq!(ada.expect_type("message")["data"][0], n);
        last = worker.receive();
    }
    assert_eq!((&last["sent"], &last["failed"]), (&json!(1), &json!(1)), "{last}");

    // Ten seconds without a byte taken end it; until then it can still turn.
    for n in 0.. {
        let frame = stuck.receive();
        if frame["type"] == "gap" {
            assert_eq!((&frame["cause"], &frame["from_seq"]), (&json!("slow"), &json!(n + 1)), "{frame}");
            assert_eq!(frame["lost"], json!(1000 - n), "heard and lost make up the whole");
            break;
        }
        assert_eq!(frame["data"][0], n);
    }
}

#[test]
fn lines_count_although_their_worker_left_without_reading() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("logs");

    let mut worker = daemon.worker();
    let lines: String = (0..2000)
        .map(|n| format!("{{\"channel\":\"logs\",\"event\":\"e\",\"data\":{n},\"id\":{n}}}\n"))
        .collect();
    worker.write(&lines);
    drop(worker);

    for n in 0..2000 {
        assert_eq!(ada.expect_type("message")["data"], n);
    }
}

#[test]
fn a_worker_that_pipes_its_lines_gets_every_answer() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    let lines: String =
        (0..2000).map(|n| format!("{{\"channel\":\"a\",\"event\":\"e\",\"id\":{n}}}\n")).collect();
    let mut writer = worker.writer();
    let writing = std::thread::spawn(move || {
        std::io::Write::write_all(&mut writer, lines.as_bytes()).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    for n in 0..2000 {
        assert_eq!(worker.receive()["id"], n);
    }
    writing.join().unwrap();
}

#[test]
fn a_half_closed_worker_gets_its_pending_answers() {
    let stored = STORE.is_built_in;
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    for id in 1..=3 {
        worker.send(json!({"channel": "logs", "event": "e", "durable": stored, "id": id}));
    }
    let answers = worker.finish();
    let answers: Vec<serde_json::Value> =
        answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (id, answer) in (1..).zip(&answers) {
        assert_eq!((&answer["id"], &answer["stored"]), (&json!(id), &json!(stored)), "{answer}");
    }
    assert_eq!(answers.len(), 3);

    // An interrupt waits for its operation, which comes after the end.
    let mut stopping = daemon.worker();
    stopping.send(json!({"action": "interrupt", "operation_id": "op", "id": 1}));
    assert_eq!(stopping.receive()["outcome"], "pending");
    let mut reload = daemon.worker();
    reload.send(json!({"action": "reload", "id": 2}));
    assert!(reload.finish().contains("changed"));
    stopping.writer().shutdown(std::net::Shutdown::Write).unwrap();
    let mut owner = daemon.worker();
    owner.send(json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "id": 3}));
    assert!(stopping.finish().contains("delivered"));
}

#[test]
fn a_half_closed_http_caller_gets_its_pending_answer() {
    let daemon = Daemon::start();
    let secret = daemon.secret();
    let request = |path: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
    };
    let stored = STORE.is_built_in;
    let durable = request("/broadcast", &format!(r#"{{"channel":"logs","event":"e","durable":{stored}}}"#));
    let reply = daemon.raw(durable.as_bytes());
    let expected = format!(r#""stored":{stored}"#);
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains(&expected), "{reply}");
}

#[test]
fn a_bye_is_whole_even_with_a_tiny_send_queue() {
    let mut daemon = Daemon::with(&[("WSHUBD_LIMITS__QUEUE_MESSAGES", "2")]);
    let mut ada = daemon.client("ada");
    ada.subscribe("logs");
    daemon.stop();
    assert_eq!(ada.expect_type("bye")["code"], 4101);
    assert_eq!(ada.closed_with(), 4101);
}
