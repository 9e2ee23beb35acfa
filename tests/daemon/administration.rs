//! Administration over the worker socket.

use serde_json::json;

use crate::harness::Daemon;

#[test]
fn an_administrator_lists_connections_and_kept_messages() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("logs");
    let mut worker = daemon.worker();
    worker.send(json!({"channel": "unheard", "event": "e", "id": 1}));
    worker.receive();
    worker.send(json!({"user_id": "ben", "event": "e", "id": 2}));
    worker.receive();

    worker.send(json!({"action": "connections", "id": 3}));
    let answer = worker.receive();
    assert_eq!((&answer["type"], &answer["id"]), (&json!("ok"), &json!(3)));
    let kinds: Vec<_> =
        answer["connections"].as_array().unwrap().iter().map(|c| (&c["kind"], &c["user_id"])).collect();
    assert!(kinds.contains(&(&json!("client"), &json!("ada"))), "{answer}");
    assert!(kinds.contains(&(&json!("worker"), &json!(null))), "{answer}");
    worker.send(json!({"action": "channels", "id": 4}));
    let answer = worker.receive();
    let channels: Vec<_> = answer["channels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (&c["channel"], &c["subscribers"], &c["kept"]))
        .collect();
    assert_eq!(channels, [(&json!("logs"), &json!(1), &json!(0)), (&json!("unheard"), &json!(0), &json!(1))]);
    worker.send(json!({"action": "inbox", "user_id": "ben", "id": 5}));
    assert_eq!(worker.receive()["waiting"], 1);
}

#[test]
fn a_purged_message_reaches_nobody() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    for target in [json!({"channel": "unheard"}), json!({"user_id": "ada"})] {
        let mut line = json!({"event": "e", "id": 1});
        line.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
        worker.send(line);
        assert_eq!(worker.receive()["kept"], true);
        let mut purge = json!({"action": "purge", "id": 2});
        purge.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
        worker.send(purge);
        assert_eq!(worker.receive()["purged"], 1);
    }

    let mut ada = daemon.client("ada");
    ada.subscribe("unheard");
    worker.send(json!({"channel": "unheard", "event": "after", "id": 3}));
    assert_eq!(ada.expect_type("message")["event"], "after");
}

#[test]
fn an_administrator_closes_one_connection_or_all_of_a_user() {
    let daemon = Daemon::start();
    let (mut one, mut other, mut ben) = (daemon.client("ada"), daemon.client("ada"), daemon.client("ben"));
    ben.send(json!({"action": "subscribe", "channel": "logs"}));
    let id = ben.expect_type("connection_id")["connection_id"].clone();
    let mut worker = daemon.worker();

    worker.send(json!({"action": "disconnect", "user_id": "ada", "id": 1}));
    assert_eq!(worker.receive()["disconnected"], 2);
    worker.send(json!({"action": "disconnect", "connection_id": id, "id": 2}));
    assert_eq!(worker.receive()["disconnected"], 1);
    worker.send(json!({"action": "disconnect", "connection_id": id, "id": 3}));
    assert_eq!(worker.receive()["code"], "unknown_connection");

    ben.expect_type("subscription_succeeded");
    for client in [&mut one, &mut other, &mut ben] {
        let bye = client.expect_type("bye");
        assert_eq!((&bye["code"], &bye["reconnect"]), (&json!(4003), &json!(false)));
        assert_eq!(client.closed_with(), 4003);
    }
}
