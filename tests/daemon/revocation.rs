//! Revocation of tokens, by every way to the daemon.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use async_tungstenite::tungstenite;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::rust_crypto;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use wshubd::edge::clock;

use crate::harness::{Client, Daemon, Worker, command, directory, stats};

/// The second that a machine's clock shows.
fn this_second() -> u64 {
    clock::now().wall.0 / 1000
}

impl Daemon {
    /// A token with these claims, for an hour unless they have another `exp`.
    pub(crate) fn signed(&self, claims: &Value) -> String {
        let mut all = json!({"exp": this_second() + 3600});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let key = std::fs::read_to_string(self.directory.join("wshubd/jwt.key")).unwrap();
        let key = EncodingKey::from_secret(key.trim().as_bytes());
        let parts = [r#"{"alg":"HS256"}"#, &all.to_string()].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = parts.join(".");
        let signer = (rust_crypto::DEFAULT_PROVIDER.signer_factory)(&Algorithm::HS256, &key).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signer.sign(message.as_bytes())))
    }

    /// A token of a user that was issued so many seconds from now.
    fn issued(&self, user: &str, ahead: i64) -> String {
        self.signed(&json!({"sub": user, "iat": this_second().checked_add_signed(ahead).unwrap()}))
    }

    /// The first frame of a client with this token, or the code with which it is refused.
    fn comes(&self, token: &str) -> String {
        match self.try_client(&format!("/ws?token={token}"), &[]) {
            Ok(mut client) => client.expect_type("connection_established")["type"].take(),
            Err(tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), 401);
                serde_json::from_slice::<Value>(answer.body().as_ref().unwrap()).unwrap()["code"].take()
            }
            Err(error) => panic!("{error}"),
        }
        .as_str()
        .unwrap()
        .replace("connection_established", "let in")
    }

    fn lets_in(&self, token: &str) -> Client {
        let mut client = self.client_at(&format!("/ws?token={token}"));
        client.expect_type("connection_established");
        client
    }
}

/// Asks an administrator's question, and gives the answer.
fn ask(worker: &mut Worker, mut question: Value) -> Value {
    question["id"] = json!("q");
    worker.send(question);
    worker.receive()
}

fn revoke(worker: &mut Worker, user: &str) -> Value {
    ask(worker, json!({"action": "disconnect", "user_id": user, "revoke": true}))
}

#[test]
fn a_revoked_user_is_closed_until_a_newer_token() {
    let daemon = Daemon::start();
    let token = daemon.issued("eve", -5);
    let (mut eve, mut ada) = (daemon.lets_in(&token), daemon.client("ada"));
    let mut worker = daemon.worker();
    let answer = revoke(&mut worker, "eve");
    assert_eq!((&answer["type"], &answer["disconnected"]), (&json!("ok"), &json!(1)));
    assert!(answer["revoked_at"].as_str().unwrap().ends_with(".000Z"), "whole seconds count: {answer}");
    assert_eq!(eve.expect_type("bye")["reconnect"], false);
    assert_eq!(eve.closed_with(), 4003);
    assert_eq!(daemon.comes(&token), "token_revoked");
    assert_eq!(daemon.comes(&daemon.signed(&json!({"sub": "eve"}))), "token_revoked", "without iat");
    drop(daemon.lets_in(&daemon.issued("eve", 60)));
    ada.expect_pong();
    // A page cannot see a 401, and gets the reason on the connection.
    let protocols = format!("wshub.v1, wshub.bearer.{token}");
    let mut page = daemon.try_client("/ws", &[("Sec-WebSocket-Protocol", &protocols)]).unwrap();
    assert_eq!(page.expect_type("auth_failed")["code"], "token_revoked");
    assert_eq!(page.closed_with(), 4001);
    let mut late = daemon.client_at("/ws");
    late.expect_type("auth_required");
    late.send(json!({"action": "auth", "token": token}));
    assert_eq!(late.expect_type("auth_failed")["code"], "token_revoked");
    assert_eq!(stats(&mut worker)["revocations"], 1);
}

#[test]
fn revocations_outlive_a_kill_and_can_be_lifted() {
    for store in ["sled", "memory"] {
        let variables = [("WSHUBD_STATE__STORE", store)];
        let mut daemon = Daemon::with(if wshubd::features::STORE.is_built_in { &variables } else { &[] });
        let (eve, one) = (daemon.issued("eve", -5), daemon.signed(&json!({"sub": "zoe", "jti": "t1"})));
        let mut worker = daemon.worker();
        assert_eq!(revoke(&mut worker, "eve")["type"], "ok");
        daemon.kill();
        daemon.ended();
        daemon.start_again();
        assert_eq!(daemon.comes(&eve), "token_revoked");
        let mut worker = daemon.worker();
        let (mut zoe, mut zoe_too) = (daemon.lets_in(&one), daemon.client("zoe"));
        assert_eq!(ask(&mut worker, json!({"action": "disconnect", "jti": "t1"}))["disconnected"], 1);
        daemon.kill();
        assert!(zoe.socket.read().is_err() || zoe_too.socket.read().is_err(), "it was killed");
        daemon.ended();
        daemon.start_again();
        assert_eq!(daemon.comes(&one), "token_revoked");
        let file = daemon.directory.join("wshubd/revocations");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut worker = daemon.worker();
        let listed = ask(&mut worker, json!({"action": "revocations"}));
        let names: Vec<_> = listed["revocations"].as_array().unwrap().iter().collect();
        assert_eq!((&names[0]["user_id"], &names[1]["jti"]), (&json!("eve"), &json!("t1")));
        assert!(names[0]["until"].is_string() && listed.get("next").is_none());
        assert_eq!(ask(&mut worker, json!({"action": "lift", "user_id": "eve"}))["lifted"], true);
        assert_eq!(ask(&mut worker, json!({"action": "lift", "user_id": "eve"}))["lifted"], false);
        daemon.kill();
        daemon.ended();
        daemon.start_again();
        assert_eq!(daemon.comes(&eve), "let in");
        assert_eq!(daemon.comes(&one), "token_revoked");
        daemon.stop();
        assert_eq!(daemon.ended().0, Some(0));
    }
}

#[test]
fn a_reload_and_a_handover_keep_revocations() {
    let mut daemon = Daemon::start();
    let token = |jti: &str| daemon.signed(&json!({"sub": "eve", "jti": jti, "iat": this_second() - 5}));
    let (first, second) = (token("t1"), token("t2"));
    let (mut one, mut two) = (daemon.lets_in(&first), daemon.lets_in(&second));
    let mut worker = daemon.worker();
    assert_eq!(ask(&mut worker, json!({"action": "disconnect", "jti": "t0"}))["disconnected"], 0);
    assert_eq!(daemon.reload()["type"], "ok");
    daemon.hand_over();
    assert_eq!(ask(&mut worker, json!({"action": "disconnect", "jti": "t1"}))["disconnected"], 1);
    assert_eq!(one.closed_with(), 4003);
    two.expect_pong();
    daemon.hand_over();
    two.expect_pong();
    assert_eq!(daemon.comes(&first), "token_revoked");
    assert_eq!(daemon.reload()["type"], "ok");
    assert_eq!(daemon.comes(&first), "token_revoked");
    assert_eq!(daemon.comes(&second), "let in");
    assert_eq!(revoke(&mut worker, "eve")["disconnected"], 1);
    assert_eq!(two.closed_with(), 4003);
}

#[test]
fn revocations_are_limited_to_ten_thousand() {
    let mut daemon = Daemon::start();
    let worker = daemon.worker();
    let mut writer = worker.writer();
    let lines: String = (0..10_001)
        .map(|n| {
            format!("{{\"action\":\"disconnect\",\"user_id\":\"user{n}\",\"revoke\":true,\"id\":{n}}}\n")
        })
        .collect();
    let sending = std::thread::spawn(move || {
        std::io::Write::write_all(&mut writer, lines.as_bytes()).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    // A half-closed worker gets all answers before the socket closes.
    let mut answers = String::new();
    let mut worker = worker;
    for _ in 0..10_001 {
        answers += &format!("{}\n", worker.receive());
    }
    sending.join().unwrap();
    assert_eq!(worker.finish(), "");
    let refused: Vec<&str> = answers.lines().filter(|line| !line.contains(r#""type":"ok""#)).collect();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].contains("too_many_revocations") && refused[0].contains("--lift"), "{}", refused[0]);
    daemon.kill();
    daemon.ended();
    daemon.start_again();
    let mut worker = daemon.worker();
    assert_eq!(stats(&mut worker)["revocations"], 10_000);
    for n in [0, 5000, 9999] {
        assert_eq!(daemon.comes(&daemon.issued(&format!("user{n}"), -5)), "token_revoked");
    }
    assert_eq!(daemon.comes(&daemon.issued("user10000", -5)), "let in");
    assert_eq!(revoke(&mut worker, "user0")["type"], "ok", "who is there may be revoked again");
    assert_eq!(revoke(&mut worker, "user10000")["code"], "too_many_revocations");
    assert_eq!(ask(&mut worker, json!({"action": "lift", "user_id": "user7"}))["lifted"], true);
    assert_eq!(revoke(&mut worker, "user10000")["type"], "ok");
}

#[test]
fn a_revocation_on_a_full_disk_is_an_error_without_effect() {
    let directory = directory();
    // The largest file that the daemon can write: 8 KiB, and the signal for that is ignored.
    let limited = "trap '' XFSZ; ulimit -f 8; exec \"$0\"";
    let mut shell = Command::new("bash");
    shell.args(["-c", limited, env!("CARGO_BIN_EXE_wshubd")]);
    let own = command(&directory);
    shell.env_clear().envs(own.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("WSHUBD_STATE__STORE", "memory").stderr(std::process::Stdio::piped());
    shell.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let mut daemon = Daemon::by(directory, &mut shell);
    let name = |n: u32| format!("{n}-{}", "x".repeat(100));
    let mut worker = daemon.worker();
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for n in 0..80 {
        let answer = revoke(&mut worker, &name(n));
        if answer["type"] == "ok" {
            done.push(n);
        } else {
            assert_eq!(
                (&answer["code"], &answer["action"]),
                (&json!("store_unavailable"), &json!("disconnect"))
            );
            let message = answer["message"].as_str().unwrap();
            assert!(
                message.contains("nothing is changed") && message.contains("wshubd/revocations"),
                "{answer}"
            );
            failed.push(n);
        }
    }
    assert!(done.len() > 20 && failed.len() > 20, "{done:?} {failed:?}");
    let state = |daemon: &Daemon, n: u32| daemon.comes(&daemon.issued(&name(n), -5));
    let check = |daemon: &Daemon| {
        for n in &done {
            assert_eq!(state(daemon, *n), "token_revoked");
        }
        for n in &failed {
            assert_eq!(state(daemon, *n), "let in");
        }
    };
    check(&daemon);
    daemon.kill();
    daemon.ended();
    daemon.start_again();
    check(&daemon);
    let mut worker = daemon.worker();
    assert_eq!(revoke(&mut worker, &name(79))["type"], "ok", "and with room again it works");
}

#[test]
fn a_start_with_unreadable_revocations_fails_with_advice() {
    let mut daemon = Daemon::start();
    let mut worker = daemon.worker();
    for user in ["eve", "zoe"] {
        revoke(&mut worker, user);
    }
    daemon.kill();
    daemon.ended();
    let file = daemon.directory.join("wshubd/revocations");
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[40] ^= 1;
    std::fs::write(&file, &damaged).unwrap();
    for check in [false, true] {
        let mut start = command(&daemon.directory);
        let output = if check { start.arg("--check") } else { &mut start }.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{stderr}");
        assert!(stderr.contains("wshubd/revocations:2: it is damaged"), "{stderr}");
        assert!(stderr.contains("would be taken again") && stderr.contains("remove it"), "{stderr}");
    }
    assert!(!daemon.directory.join("wshubd/worker.sock").exists(), "nobody is let in");
    // A last line that is not whole was never answered; that is logged, and the rest counts.
    std::fs::write(&file, &whole[..whole.len() - 3]).unwrap();
    daemon.start_again();
    assert_eq!(daemon.comes(&daemon.issued("eve", -5)), "token_revoked");
    assert_eq!(daemon.comes(&daemon.issued("zoe", -5)), "let in");
    daemon.stop();
    daemon.ended();
    let mut start = command(&daemon.directory).spawn().unwrap();
    let mut stderr = String::new();
    let pid = rustix::process::Pid::from_child(&start);
    let mut log = start.stderr.take().unwrap();
    let mut byte = [0];
    while !stderr.contains("started: ") {
        assert_ne!(log.read(&mut byte).unwrap(), 0, "{stderr}");
        stderr.push(byte[0].into());
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    start.wait().unwrap();
    assert!(stderr.contains("line 3: the last one is not whole"), "{stderr}");
}

#[test]
fn an_admin_token_administers_over_a_websocket() {
    let daemon = Daemon::start();
    let rights = json!({"subscribe": ["*"], "admin": true});
    let root = daemon.signed(&json!({"sub": "root", "jti": "r", "iat": this_second(), "wshub": rights}));
    let (mut root, mut ada) = (daemon.lets_in(&root), daemon.client("ada"));
    root.send(json!({"action": "connections", "id": 1}));
    let listed = root.expect_type("connections");
    let own = listed["connections"].as_array().unwrap().iter().find(|one| one["user_id"] == "root").unwrap();
    assert_eq!((&own["jti"], own["address"].is_string()), (&json!("r"), true), "{own}");
    root.send(json!({"action": "stats"}));
    assert_eq!(root.expect_type("stats")["total_connections"], 2);
    root.send(json!({"action": "disconnect", "user_id": "ada", "revoke": true, "id": 2}));
    assert_eq!(root.expect_type("revoked")["disconnected"], 1);
    assert_eq!(ada.closed_with(), 4003);
    let mut ben = daemon.client("ben");
    for action in ["connections", "stats", "disconnect"] {
        ben.send(json!({"action": action, "user_id": "root"}));
        assert_eq!(ben.expect_type("error")["code"], "forbidden");
    }
}

#[test]
fn two_hundred_lines_in_one_packet_are_all_accepted() {
    let daemon = Daemon::start();
    let limits = json!({"rate": 1000, "burst": 1000});
    let mut agent = daemon.lets_in(&daemon.signed(&json!({"sub": "agent", "wshub_limits": limits})));
    let mut ada = daemon.client("ada");
    ada.subscribe("logs");
    for n in 0..200 {
        let line = json!({"action": "send", "channel": "logs", "event": "log", "data": n});
        agent.socket.write(tungstenite::Message::text(line.to_string())).unwrap();
    }
    agent.socket.flush().unwrap();
    for n in 0..200 {
        assert_eq!(agent.expect_type("send_success")["sent"], 1);
        assert_eq!(ada.expect_type("message")["data"], n);
    }
}

#[test]
fn a_revocation_counts_the_future_tokens_it_does_not_reach() {
    let daemon = Daemon::start();
    let ahead = daemon.issued("eve", 300);
    let (mut now, mut later) = (daemon.lets_in(&daemon.issued("eve", -5)), daemon.lets_in(&ahead));
    let mut worker = daemon.worker();
    let answer = revoke(&mut worker, "eve");
    assert_eq!((&answer["disconnected"], &answer["ahead"]), (&json!(2), &json!(1)), "{answer}");
    assert_eq!((now.closed_with(), later.closed_with()), (4003, 4003));
    assert_eq!(daemon.comes(&ahead), "let in", "as it was told");
    let check = ask(&mut worker, json!({"action": "token", "token": ahead}));
    assert!(check["warnings"].to_string().contains("it holds although it was revoked"), "{check}");
    drop(daemon.lets_in(&daemon.issued("zoe", -5)));
    assert!(revoke(&mut worker, "zoe").get("ahead").is_none());
}

#[test]
fn a_reload_with_a_shorter_revocation_time_warns() {
    let mut daemon = Daemon::configured("");
    let mut worker = daemon.worker();
    revoke(&mut worker, "eve");
    daemon.write("wshubd.toml", "[auth]\nrevocation_ttl = \"1h\"\n");
    let warnings = daemon.reload()["warnings"].clone();
    let expected =
        "when the last of the 1 revocations that are kept is forgotten, tokens that end more than 1h ahead";
    assert!(warnings.to_string().contains(expected), "{warnings}");
    assert!(
        daemon.expect_log_line("auth.revocation_ttl is shorter than before").contains(expected),
        "and in the log"
    );
    assert_eq!(daemon.reload()["warnings"], json!([]), "once");
}
