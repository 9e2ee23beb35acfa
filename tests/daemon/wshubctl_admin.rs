//! The administration commands of wshubctl, against the daemon.

use std::io::{BufRead, BufReader, Write};

use serde_json::{Value, json};

use crate::harness::{Client, Daemon};
use crate::wshubctl::{printed, wshubctl};

/// What a list prints in a pipe.
fn listed(daemon: &Daemon, words: &[&str]) -> Vec<Value> {
    let text = printed(wshubctl(daemon, words), 0);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Its standard error when it fails with `code`.
fn complaint(daemon: &Daemon, words: &[&str], code: i32) -> String {
    let output = wshubctl(daemon, words).wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

/// Whether the daemon accepts a token, and its reason.
fn checked(daemon: &Daemon, token: &str, code: i32) -> Value {
    let mut child = wshubctl(daemon, &["token", "check"]);
    child.stdin.take().unwrap().write_all(token.as_bytes()).unwrap();
    serde_json::from_str(&printed(child, code)).unwrap()
}

fn is_sent_away(mut client: Client) {
    let bye = client.expect_type("bye");
    assert_eq!((&bye["code"], client.closed_with()), (&json!(4003), 4003));
}

#[test]
fn an_administrator_lists_connections_with_their_addresses() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("logs");
    let mut worker = daemon.worker();
    worker.send(json!({"action": "operation_start", "operation_id": "op", "channel": "logs", "id": 1}));
    worker.receive();

    let own = listed(&daemon, &["connections", "--user", "ada"]);
    let address = ada.socket.get_ref().local_addr().unwrap().to_string();
    assert_eq!((own.len(), &own[0]["address"]), (1, &json!(address)));
    assert_eq!((&own[0]["kind"], &own[0]["subscriptions"]), (&json!("client"), &json!(1)));
    let all = listed(&daemon, &["connections"]);
    let uid = rustix::process::getuid().as_raw();
    let owner = all.iter().find(|entry| entry["operations"] == 1).unwrap();
    assert_eq!((&owner["pid"], &owner["uid"]), (&json!(std::process::id()), &json!(uid)));
    assert_eq!(all.len(), 3, "and wshubctl itself");
}

#[test]
fn the_slowest_connection_is_listed_first_with_its_queue() {
    let daemon = Daemon::start();
    let (_ben, mut ada) = (daemon.client("ben"), daemon.client("ada"));
    ada.subscribe("logs");
    let mut worker = daemon.worker();
    // More than all buffers of the kernel hold.
    let data = "x".repeat(256 << 10);
    for n in 0..80 {
        worker.send(json!({"channel": "logs", "event": "line", "data": data, "id": n}));
        worker.receive();
    }

    let first = listed(&daemon, &["connections"]).remove(0);
    assert_eq!(first["user_id"], "ada", "{first}");
    assert!(first["queued"].as_u64().unwrap() > 0 && first["queued_bytes"].as_u64().unwrap() > 0, "{first}");
    assert!(first["stalled"].is_number(), "{first}");
}

#[test]
fn an_administrator_lists_and_purges_kept_messages() {
    let daemon = Daemon::start();
    printed(wshubctl(&daemon, &["pub", "quiet", "x"]), 0);
    printed(wshubctl(&daemon, &["pub", "loud", &"x".repeat(1000)]), 0);
    printed(wshubctl(&daemon, &["pub", "--to", "ada", "hi"]), 0);

    let channels = listed(&daemon, &["channels"]);
    let seen: Vec<_> = channels.iter().map(|entry| (&entry["channel"], &entry["kept"])).collect();
    assert_eq!(seen, [(&json!("loud"), &json!(1)), (&json!("quiet"), &json!(1))]);
    assert!(channels[0]["oldest_at"].is_string(), "{}", channels[0]);
    let inbox = listed(&daemon, &["inbox", "ada"]).remove(0);
    assert_eq!((&inbox["waiting"], &inbox["connections"]), (&json!(1), &json!(0)));
    assert_eq!(listed(&daemon, &["inbox"])[0]["user_id"], "ada");

    assert_eq!(printed(wshubctl(&daemon, &["purge", "loud"]), 0), "{\"purged\":1}\n");
    assert_eq!(printed(wshubctl(&daemon, &["purge", "--user", "ada"]), 0), "{\"purged\":1}\n");
    assert_eq!(printed(wshubctl(&daemon, &["purge", "loud"]), 0), "{\"purged\":0}\n");
    assert_eq!(listed(&daemon, &["inbox"]), [] as [Value; 0]);
    let kept = listed(&daemon, &["channels"]);
    assert!(kept.iter().all(|entry| (entry["channel"] == "quiet") == (entry["kept"] == 1)), "{kept:?}");
}

#[test]
fn an_administrator_closes_a_listed_connection_or_a_user() {
    let daemon = Daemon::start();
    let (ada, ben, other) = (daemon.client("ada"), daemon.client("ben"), daemon.client("ben"));
    let id = listed(&daemon, &["connections", "--user", "ada"])[0]["connection_id"].clone();
    let id = id.as_str().unwrap();

    assert_eq!(printed(wshubctl(&daemon, &["disconnect", id]), 0), "{\"disconnected\":1}\n");
    is_sent_away(ada);
    assert_eq!(printed(wshubctl(&daemon, &["disconnect", "--user", "ben"]), 0), "{\"disconnected\":2}\n");
    is_sent_away(ben);
    is_sent_away(other);
    assert_eq!(printed(wshubctl(&daemon, &["disconnect", "--user", "ben"]), 0), "{\"disconnected\":0}\n");
    assert!(complaint(&daemon, &["disconnect", id], 1).contains("no such connection"));
}

#[test]
fn a_token_is_checked_by_the_daemon_that_made_it_alone() {
    let (daemon, stranger) = (Daemon::start(), Daemon::start());
    let token = printed(wshubctl(&daemon, &["token", "new", "--user", "ada", "--ttl", "1h"]), 0);

    let holds = checked(&daemon, &token, 0);
    assert_eq!((&holds["valid"], &holds["user_id"]), (&json!(true), &json!("ada")));
    assert_eq!(holds["rights"]["subscribe"], json!(["*"]));
    let fails = checked(&stranger, &token, 1);
    assert_eq!((&fails["valid"], &fails["code"]), (&json!(false), &json!("token_invalid")));
    let why = fails["message"].as_str().unwrap();
    assert!(why.contains("does not hold with the key that is configured"), "{why}");
}

#[test]
fn durable_is_refused_by_a_daemon_without_a_store() {
    let daemon = Daemon::with(&[("WSHUBD_STATE__STORE", "memory")]);
    let output = complaint(&daemon, &["pub", "--durable", "logs", "x"], 1);
    assert!(output.starts_with("wshubctl: not stored: ") && output.contains("store_unavailable"), "{output}");
    assert_eq!(listed(&daemon, &["channels"]), [] as [Value; 0]);
}

#[test]
fn an_unread_message_exits_with_five_and_is_kept() {
    let daemon = Daemon::start();
    let words = ["pub", "--to", "ada", "--wait-read", "--timeout", "1ms", "hi"];
    assert_eq!(complaint(&daemon, &words, 5), "wshubctl: the message was not read within 1ms\n");
    assert_eq!(listed(&daemon, &["inbox", "ada"])[0]["waiting"], 1);
}

#[test]
fn wait_read_returns_when_the_user_has_read_it() {
    let daemon = Daemon::start();
    let mut ada = daemon.client_at(&format!("/ws?inbox=ack&token={}", daemon.token("ada")));
    let epoch = ada.expect_type("connection_established")["inbox"]["epoch"].clone();
    let mut waiting = wshubctl(&daemon, &["pub", "-v", "--to", "ada", "--wait-read", "hi"]);
    let message = ada.expect_type("message");
    let mut stderr = BufReader::new(waiting.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(stderr.next().unwrap(), "wshubctl: 1 published, 1 delivered, 0 shed, 1 kept, 0 refused");

    ada.send(json!({"action": "ack", "epoch": epoch, "seq": message["seq"]}));
    let id = message["message_id"].as_str().unwrap();
    assert_eq!(stderr.next().unwrap(), format!("wshubctl: {id}: delivered to ada"));
    ada.send(json!({"action": "ack", "epoch": epoch, "seq": message["seq"], "read": true}));
    assert_eq!(stderr.next().unwrap(), format!("wshubctl: {id}: read by ada"));
    printed(waiting, 0);
}
