//! Admission and refusal of clients.

use async_tungstenite::tungstenite::{Error, Message};
use serde_json::{Value, json};

use crate::harness::Daemon;

fn status(result: Result<crate::harness::Client, Error>) -> u16 {
    match result {
        Err(Error::Http(reply)) => reply.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => 101,
    }
}

#[test]
fn a_token_may_come_by_header_subprotocol_query_or_in_band() {
    let daemon = Daemon::start();
    let token = daemon.token("ada");

    let bearer = format!("Bearer {token}");
    let protocols = format!("wshub.v1, wshub.bearer.{token}");
    let mut by_header = daemon.try_client("/api/v1/ws", &[("Authorization", &bearer)]).unwrap();
    let mut by_protocol = daemon.try_client("/ws", &[("Sec-WebSocket-Protocol", &protocols)]).unwrap();
    let mut by_query = daemon.client_at(&format!("/ws/connect?token={token}"));
    let mut in_band = daemon.client_at("/ws");
    in_band.expect_type("auth_required");
    in_band.send(json!({"action": "auth", "token": token}));
    assert_eq!(in_band.expect_type("auth_success")["user_id"], "ada");

    for client in [&mut by_header, &mut by_protocol, &mut by_query, &mut in_band] {
        let established = client.expect_type("connection_established");
        assert_eq!((&established["user_id"], &established["protocol"]), (&json!("ada"), &json!(1)));
    }
}

#[test]
fn a_bad_token_is_401_or_4001_for_a_page() {
    let daemon = Daemon::start();
    assert_eq!(status(daemon.try_client("/ws?token=nonsense", &[])), 401);

    let mut page =
        daemon.try_client("/ws", &[("Sec-WebSocket-Protocol", "wshub.v1, wshub.bearer.nonsense")]).unwrap();
    assert_eq!(page.expect_type("auth_failed")["code"], "token_invalid");
    assert_eq!(page.closed_with(), 4001);
}

#[test]
fn a_token_that_is_not_utf8_is_refused_not_skipped() {
    let daemon = Daemon::with(&[("WSHUBD_AUTH__ANONYMOUS", "true")]);
    let upgrade: &[u8] =
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for header in
        [&b"Authorization: Bearer \xff\xfe\r\n\r\n"[..], b"Sec-WebSocket-Protocol: wshub.bearer.\xff\r\n\r\n"]
    {
        let reply = daemon.raw(&[upgrade, header].concat());
        assert!(reply.starts_with("HTTP/1.1 401 ") && reply.contains("token_invalid"), "{reply}");
    }
}

#[test]
fn a_websocket_request_with_a_body_is_refused_with_a_reason() {
    let daemon = Daemon::start();
    let upgrade = format!(
        "GET /ws?token={} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
        daemon.token("ada")
    );
    for rest in [
        "Content-Length: 5\r\n\r\nhello",
        "Content-Length: 1000000\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let reply = daemon.raw(format!("{upgrade}{rest}").as_bytes());
        assert!(reply.starts_with("HTTP/1.1 400 "), "{rest:?}: {reply}");
        assert!(reply.to_lowercase().contains("connection: close"), "{reply}");
        let body: Value = serde_json::from_str(reply.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!((&body["type"], &body["code"]), (&json!("error"), &json!("bad_request")));
        assert!(body["message"].as_str().unwrap().contains("no body"), "{body}");
    }
    assert_eq!(
        status(daemon.try_client(&format!("/ws?token={}", daemon.token("ada")), &[("Content-Length", "0")])),
        101
    );
}

#[test]
fn foreign_origins_and_rebound_hosts_are_refused() {
    let daemon = Daemon::start();
    let path = format!("/ws?token={}", daemon.token("ada"));
    assert_eq!(status(daemon.try_client(&path, &[("Origin", "https://evil.example")])), 403);
    assert_eq!(status(daemon.try_client(&path, &[("Origin", "null")])), 403);
    assert_eq!(status(daemon.try_client(&path, &[("Origin", "http://127.0.0.1:3000")])), 101);
    assert_eq!(daemon.http("GET /healthz", &["Host: evil.example"], "").0, 403);
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
}

#[test]
fn http_errors_name_their_reason() {
    let daemon = Daemon::start();
    let secret = format!("Authorization: Bearer {}", daemon.secret());
    let json = "Content-Type: application/json";
    let table: [(&str, &[&str], &str, u16, &str); 9] = [
        ("POST /broadcast", &[json], "{}", 401, "auth_required"),
        ("POST /broadcast", &[json, "Authorization: Bearer wrong"], "{}", 401, "auth_required"),
        ("POST /broadcast", &[&secret, "Content-Type: text/plain"], "{}", 415, "bad_request"),
        ("POST /broadcast", &[&secret, json], "nonsense", 400, "bad_json"),
        ("POST /broadcast", &[&secret, json], r#"{"event":"e"}"#, 400, "bad_request"),
        (
            "POST /broadcast",
            &[&secret, json],
            r#"{"event":"e","connection_id":"x"}"#,
            404,
            "unknown_connection",
        ),
        ("GET /broadcast", &[], "", 405, "bad_request"),
        ("GET /nowhere", &[], "", 404, "not_found"),
        ("GET /ws", &[], "", 426, "bad_request"),
    ];
    for (head, headers, body, status, code) in table {
        let (got, answer) = daemon.http(head, headers, body);
        let answer: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!((got, answer["code"].as_str().unwrap()), (status, code), "{head} {body}: {answer}");
        assert_eq!(answer["type"], "error");
    }
    let large = format!(r#"{{"channel":"a","event":"e","data":"{}"}}"#, "x".repeat(600 << 10));
    assert_eq!(daemon.http("POST /broadcast", &[&secret, json], &large).0, 413);
}

#[test]
fn stats_are_two_numbers_on_loopback_and_all_with_the_secret() {
    let daemon = Daemon::start();
    let _ada = (daemon.client("ada"), daemon.client("ada"));
    let (_, open) = daemon.http("GET /api/v1/ws/stats", &[], "");
    let open: Value = serde_json::from_str(&open).unwrap();
    assert_eq!(open, json!({"connected_users": 1, "total_connections": 2}));

    let secret = format!("Authorization: Bearer {}", daemon.secret());
    let (_, all) = daemon.http("GET /api/v1/ws/stats", &[&secret], "");
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!((&all["total_connections"], &all["connections_opened"].is_u64()), (&json!(2), &true));
    let (status, text) = daemon.http("GET /metrics", &[&secret], "");
    assert!(status == 200 && text.contains("\nwshubd_total_connections 2\n"), "{text}");
    assert_eq!(daemon.http("GET /metrics", &[], "").0, 401);
}

#[test]
fn binary_frames_and_bad_text_have_their_own_close_codes() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.socket.send(Message::binary(vec![1, 2, 3])).unwrap();
    assert_eq!(ada.closed_with(), 1003);
}

#[test]
fn the_fifth_malformed_request_ends_the_connection() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    for _ in 0..5 {
        ada.send(json!({"action": "dance"}));
        assert_eq!(ada.expect_type("error")["code"], "unknown_action");
    }
    assert_eq!(ada.expect_type("bye")["code"], 4009);
    assert_eq!(ada.closed_with(), 4009);
}
