//! Reloads of the configuration under connected peers.

use std::collections::BTreeSet;

use async_tungstenite::tungstenite::Error;
use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;

use crate::harness::Daemon;

fn with_secret(daemon: &Daemon, secret: &str) -> u16 {
    let bearer = format!("Authorization: Bearer {secret}");
    let body = json!({"channel": "news", "event": "e"}).to_string();
    daemon.http("POST /broadcast", &[&bearer, "Content-Type: application/json"], &body).0
}

#[test]
fn a_reload_reports_changes_and_keeps_every_connection() {
    let mut daemon = Daemon::configured("[limits]\nburst = 20\n");
    let (mut ada, mut worker) = (daemon.client("ada"), daemon.worker());
    daemon.write("wshubd.toml", "[limits]\nburst = 1\n[[channel]]\nmatch = \"a\"\nkeep = \"history\"\n");

    let answer = daemon.reload();

    assert_eq!(answer["type"], "ok", "{answer}");
    let changed = json!([
        {"setting": "channel", "from": "[]", "to": "[\"a\"]"},
        {"setting": "limits.burst", "from": "20", "to": "1"},
        {"setting": "limits.user_burst", "from": "100", "to": "5"},
    ]);
    assert_eq!((&answer["changed"], &answer["warnings"]), (&changed, &json!([])));
    assert!(daemon.logged().contains("reloaded: channel, limits.burst"));
    ada.expect_pong();
    ada.send(json!({"action": "ping"}));
    assert_eq!(ada.expect_type("error")["code"], "rate_limited", "the new limit holds");
    worker.send(json!({"action": "ping", "id": 1}));
    assert_eq!(worker.receive()["id"], 1);
    worker.send(json!({"action": "channels", "id": 2}));
    worker.receive();
    assert_eq!(daemon.reload()["changed"], json!([]));
    assert!(daemon.logged().contains("reloaded: nothing has changed"));
}

#[test]
fn a_wrong_configuration_is_refused_and_changes_nothing() {
    let mut daemon = Daemon::configured("[limits]\nburst = 20\n");
    let mut ada = daemon.client("ada");
    let wrong = "[limits]\nburst = 1\nbrust = 2\n[auth]\nkeys = [{ alg = \"HS256\", file = \"/none\" }]\n";
    daemon.write("wshubd.toml", wrong);

    let answer = daemon.reload();

    assert_eq!(
        (&answer["type"], &answer["code"]),
        (&json!("error"), &json!("bad_configuration")),
        "{answer}"
    );
    assert_eq!(answer["action"], "reload");
    let message = answer["message"].as_str().unwrap();
    assert!(message.contains("wshubd.toml:3: unknown key `limits.brust`"), "{message}");
    let line = daemon.logged();
    assert!(line.contains("not reloaded, and nothing is changed") && line.contains("brust"), "{line}");
    for _ in 0..10 {
        ada.expect_pong();
    }

    daemon.write("wshubd.toml", &wrong.replace("brust = 2\n", ""));
    let answer = daemon.reload();
    assert!(answer["message"].as_str().unwrap().contains("/none: cannot be read"), "{answer}");
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
}

#[cfg(feature = "store")]
#[test]
fn options_that_need_a_restart_are_refused_by_name() {
    let mut daemon = Daemon::configured("[limits]\nburst = 20\n");
    let worker = daemon.directory.join("other.sock");
    let text = format!("[limits]\nburst = 1\n[listen]\nworker = {worker:?}\n[state]\nstore = \"memory\"\n");
    daemon.write("wshubd.toml", &text);
    let answer = daemon.reload();
    let message = answer["message"].as_str().unwrap();
    for expected in
        ["wshubd.toml:4: `listen.worker` cannot change", "wshubd.toml:6: `state.store` cannot change"]
    {
        assert!(message.contains(expected), "{message}");
    }
    assert!(message.contains("from \"sled\" to \"memory\": restart it"), "{message}");
    assert_eq!(message.lines().count(), 2, "{message}");
    assert!(daemon.logged().contains("not reloaded"));
    // What was refused is what the next reload is compared with again.
    daemon.write("wshubd.toml", "[limits]\nburst = 19\n");
    assert_eq!(daemon.reload()["changed"][0]["from"], "20");
}

#[test]
fn secrets_and_keys_are_rotated_without_closing_connections() {
    let (one, two) = ("a-secret-of-32-bytes-or-more-0001", "a-secret-of-32-bytes-or-more-0002");
    let directory = Daemon::start();
    let place = directory.directory.clone();
    directory.write("one", one);
    directory.write("two", two);
    let text = |keys: &[&str], secrets: &[&str]| {
        let key =
            |name: &&str| format!("{{ alg = \"HS256\", file = {:?}, kid = {name:?} }}", place.join(name));
        let keys: Vec<String> = keys.iter().map(key).collect();
        let secrets: Vec<_> = secrets.iter().map(|name| place.join(name)).collect();
        format!("[auth]\nkeys = [{}]\nbroadcast_secrets = {secrets:?}\n", keys.join(", "))
    };
    let daemon = Daemon::configured(&text(&["one"], &["one"]));
    let old = daemon.token("ada");
    let mut ada = daemon.client("ada");
    assert_eq!((with_secret(&daemon, one), with_secret(&daemon, two)), (200, 401));

    daemon.write("wshubd.toml", &text(&["two", "one"], &["one", "two"]));
    assert_eq!(daemon.reload()["changed"].as_array().unwrap().len(), 2);
    assert_eq!((with_secret(&daemon, one), with_secret(&daemon, two)), (200, 200), "both hold meanwhile");
    let new = daemon.token("ada");
    ada.send(json!({"action": "auth", "token": old}));
    ada.expect_type("auth_success");

    daemon.write("wshubd.toml", &text(&["two"], &["two"]));
    daemon.reload();
    assert_eq!((with_secret(&daemon, one), with_secret(&daemon, two)), (401, 200));
    ada.expect_pong();
    ada.send(json!({"action": "auth", "token": old}));
    assert_eq!(ada.expect_type("auth_failed")["code"], "token_invalid", "nobody signs with it any more");
    ada.send(json!({"action": "auth", "token": new}));
    ada.expect_type("auth_success");
    assert!(daemon.try_client(&format!("/ws?token={old}"), &[]).is_err());
}

#[test]
fn a_secret_changed_in_place_is_reread_and_reported() {
    let daemon = Daemon::start();
    let file = daemon.directory.join("wshubd/broadcast.secret");
    let before = daemon.secret();
    daemon.write("wshubd/broadcast.secret", "another-secret-of-16-bytes-or-more");
    assert_eq!(daemon.reload()["changed"], json!([{"file": file}]));
    assert_eq!((with_secret(&daemon, &before), with_secret(&daemon, &daemon.secret())), (401, 200));
}

#[test]
fn rights_and_admission_follow_a_reload() {
    let daemon = Daemon::configured("");
    let mut ada = daemon.client("ada");
    ada.subscribe("secret");
    let text = "[auth]\nsubscribe = [\"open\"]\nquery_token = false\n[listen]\nallowed_hosts = [\"hub.example\"]\n\
                paths = [\"/ws\"]\nmetrics_open = true\n";
    assert_eq!(daemon.http("GET /healthz", &["Host: hub.example"], "").0, 403);
    assert_eq!(daemon.http("GET /metrics", &[], "").0, 401);
    daemon.write("wshubd.toml", text);
    assert_eq!(daemon.reload()["changed"].as_array().unwrap().len(), 5);
    assert_eq!(ada.expect_type("unsubscribed")["reason"], "forbidden");
    assert_eq!(daemon.http("GET /healthz", &["Host: hub.example"], "").0, 200);
    assert_eq!(daemon.http("GET /metrics", &[], "").0, 200);
    assert_eq!(daemon.http("GET /api/v1/ws", &[], "").0, 404);
    let Err(Error::Http(reply)) = daemon.try_client(&format!("/ws?token={}", daemon.token("ada")), &[])
    else {
        panic!("a token in the query is taken");
    };
    assert_eq!(reply.status().as_u16(), 401);
    daemon.client_at("/ws").expect_type("auth_required");
}

#[test]
fn a_smaller_message_limit_applies_to_the_next_message() {
    let daemon = Daemon::configured("");
    let (mut ada, mut worker) = (daemon.client("ada"), daemon.worker());
    daemon.write("wshubd.toml", "[limits]\nmessage_bytes = \"1KiB\"\n");
    daemon.reload();
    let long = "x".repeat(2000);
    worker.send(json!({"channel": "news", "event": "e", "data": long, "id": 1}));
    assert_eq!(worker.receive()["code"], "too_large");
    ada.send(json!({"action": "send", "channel": "news", "event": "e", "data": long}));
    assert_eq!(ada.closed_with(), 1009);
}

#[test]
fn sighup_reloads_and_logs_it() {
    let mut daemon = Daemon::configured("");
    let mut ada = daemon.client("ada");
    daemon.write("wshubd.toml", "[limits]\nburst = 7\n");
    daemon.hang_up();
    assert!(daemon.logged().contains("reloaded: limits.burst"));
    daemon.write("wshubd.toml", "[limits]\nburst = \"many\"\n");
    daemon.hang_up();
    let line = daemon.logged();
    assert!(line.contains("not reloaded") && line.contains("wshubd.toml:2: `limits.burst` wants"), "{line}");
    ada.expect_pong();
    daemon.stop();
    assert_eq!(ada.expect_type("bye")["code"], 4101);
    drop(ada);
    assert_eq!(daemon.ended().0, Some(0));
}

#[test]
fn the_log_follows_its_level() {
    let mut daemon = Daemon::configured("");
    daemon.write("wshubd.toml", "[log]\nlevel = \"error\"\n");
    assert_eq!(daemon.reload()["type"], "ok");
    daemon.write("wshubd.toml", "[log]\nlevel = \"loud\"\n");
    assert_eq!(daemon.reload()["type"], "error");
    assert!(daemon.logged().contains("not reloaded"), "that it was reloaded before is not told any more");
}

#[test]
fn a_reload_generates_keys_as_a_start_does() {
    let daemon = Daemon::start();
    daemon.write("key", "a-secret-of-32-bytes-or-more-0001");
    let key = format!("[auth]\nkeys = [{{ alg = \"HS256\", file = {:?} }}]\n", daemon.directory.join("key"));
    let other = Daemon::configured(&key);
    let generated = other.directory.join("wshubd/jwt.key");
    assert!(!generated.exists());
    other.write("wshubd.toml", "[limits]\nbrust = 1\n");
    assert_eq!(other.reload()["code"], "bad_configuration");
    assert!(!generated.exists());
    other.write("wshubd.toml", "");
    assert_eq!(other.reload()["type"], "ok");
    assert!(generated.exists());
    other.client("ada").expect_pong();
}

#[test]
fn a_pipe_in_place_of_the_file_does_not_block_the_daemon() {
    let daemon = Daemon::configured("");
    let file = daemon.directory.join("wshubd.toml");
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR).unwrap();
    let answer = daemon.reload();
    assert!(answer["message"].as_str().unwrap().contains("is not a file"), "{answer}");
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
}

#[test]
fn a_reload_without_free_descriptors_changes_nothing() {
    let mut daemon = Daemon::configured("[state]\nstore = \"memory\"\n");
    let (mut ada, mut worker) = (daemon.client("ada"), daemon.worker());
    worker.send(json!({"action": "ping"}));
    assert_eq!(worker.receive()["type"], "pong");
    let (mut in_use, mut refused) = (json!("20"), 0);
    for free in 0..20 {
        let burst = 30 + free;
        daemon.write("wshubd.toml", &format!("[state]\nstore = \"memory\"\n[limits]\nburst = {burst}\n"));
        let before = leave_free(&daemon, free);
        worker.send(json!({"action": "reload", "id": free}));
        let answer = worker.receive();
        ada.expect_pong();
        prlimit(Some(daemon.pid()), Resource::Nofile, before).unwrap();
        if answer["type"] == "ok" {
            let changed = json!({"setting": "limits.burst", "from": in_use, "to": burst.to_string()});
            assert_eq!(answer["changed"][0], changed, "{free} were free");
            in_use = changed["to"].clone();
        } else {
            assert_eq!(answer["code"], "bad_configuration", "{answer}");
            let message = answer["message"].as_str().unwrap();
            assert!(message.contains("Too many open files"), "{message}");
            refused += 1;
        }
    }
    assert!((1..20).contains(&refused), "{refused} were refused");
    assert_eq!(in_use, "49");
    assert!(daemon.logged().contains("not reloaded, and nothing is changed"));
    daemon.client("ben").expect_pong();
}

/// Leaves the daemon so many descriptors that it may still open; the limit before.
fn leave_free(daemon: &Daemon, free: usize) -> Rlimit {
    let pid = daemon.pid();
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap();
    let open: BTreeSet<u64> =
        open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap()).collect();
    let current = (0..).filter(|number| !open.contains(number)).nth(free);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    // It may be raised again as far as it was.
    let maximum = line.split_whitespace().nth(4).unwrap().parse().ok();
    prlimit(Some(pid), Resource::Nofile, Rlimit { current, maximum }).unwrap()
}
