//! For each reason a refusal: the answer to the peer, the counter, and the line in the log
//! that gives an administrator the reason why a peer cannot connect.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use crate::harness::{Daemon, PATIENCE, UPGRADE, number, stats, wait_for};

const MEMORY: (&str, &str) = ("WSHUBD_STATE__STORE", "memory");

/// A token with these claims, signed with the daemon's own key.
fn signed(daemon: &Daemon, header: &Header, claims: &Value) -> String {
    let key = std::fs::read_to_string(daemon.directory.join("wshubd/jwt.key")).unwrap();
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(key.trim().as_bytes())).unwrap()
}

fn hs256() -> Header {
    Header::new(Algorithm::HS256)
}

/// An answer over HTTP.
struct Answer {
    status: u16,
    head: String,
    body: Value,
}

fn answered(reply: &str) -> Answer {
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {reply:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("the body is no JSON: {reply}"));
    Answer { status, head: head.to_lowercase(), body }
}

/// A refusal, and all that is to be seen of it.
struct RefusalCase {
    reason: &'static str,
    status: u16,
    code: &'static str,
    /// In the head of the answer.
    head: &'static str,
    /// In its message.
    message: &'static str,
    /// In the line of the log.
    log: &'static [&'static str],
}

/// Is refused once by a fresh daemon, and looks at everything; the line of its log.
fn refuses(variables: &[(&str, &str)], case: &RefusalCase, request: impl Fn(&Daemon) -> Vec<u8>) -> String {
    let mut daemon = Daemon::with(&[variables, &[MEMORY]].concat());
    let request = request(&daemon);
    let reply = daemon.answers_to(&request);
    let answer = answered(&reply);
    let what = format!("{}: {reply}", case.reason);
    assert_eq!((answer.status, &answer.body["code"]), (case.status, &json!(case.code)), "{what}");
    assert_eq!(answer.body["type"], "error", "{what}");
    assert!(answer.body["message"].as_str().unwrap().contains(case.message), "{what}");
    assert!(answer.head.contains(case.head), "{what}");
    let mut worker = daemon.worker();
    assert_eq!(stats(&mut worker)["refused"], json!({case.reason: 1}), "{what}");
    let secret = format!("Authorization: Bearer {}", daemon.secret());
    let metrics = daemon.http("GET /metrics", &[&secret], "").1;
    assert!(
        metrics.contains(&format!("\nwshubd_refused_total{{reason=\"{}\"}} 1\n", case.reason)),
        "{metrics}"
    );
    let line = daemon.logged();
    assert!(line.starts_with("WARN refused 127.0.0.1: "), "{what}{line}");
    for words in case.log {
        assert!(line.contains(words), "{what}{line}: {words}");
    }
    daemon.stop();
    assert_eq!(daemon.ended().1.lines().filter(|line| line.contains("refused")).count(), 0, "one line");
    line
}

/// A request for a WebSocket, the last one of its connection where it becomes none.
fn upgrade(path: &str, headers: &str) -> Vec<u8> {
    let closing = UPGRADE.replace("Connection: Upgrade", "Connection: Upgrade, close");
    format!("GET {path} HTTP/1.1\r\n{closing}{headers}\r\n").into_bytes()
}

/// A request, the last one of its connection.
fn request(line: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

/// The same of a request for a WebSocket.
fn refuses_upgrade(
    variables: &[(&str, &str)],
    case: &RefusalCase,
    request: impl Fn(&Daemon) -> (String, String),
) -> String {
    refuses(variables, case, |daemon| {
        let (path, headers) = request(daemon);
        upgrade(&path, &headers)
    })
}

#[test]
fn host_and_origin_refusals_name_their_options() {
    let host = RefusalCase {
        reason: "host",
        status: 403,
        code: "forbidden",
        head: "",
        message: "Host",
        log: &["`Host: evil.example`", "[listen] allowed_hosts"],
    };
    refuses(&[], &host, |_| {
        b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_vec()
    });
    let origin = RefusalCase {
        reason: "origin",
        message: "origin",
        log: &["\"https://evil.example\"", "[listen] allowed_origins"],
        ..host
    };
    refuses_upgrade(&[], &origin, |_| ("/ws".into(), "Origin: https://evil.example\r\n".into()));
}

#[test]
fn a_token_refusal_names_its_reason_and_never_the_token() {
    let case = |reason, code, message, log| RefusalCase {
        reason,
        status: 401,
        code,
        head: "\r\nwww-authenticate: bearer",
        message,
        log,
    };
    let by_query = |token: String| (format!("/ws?token={token}"), String::new());
    let malformed =
        case("token_malformed", "token_invalid", "`Authorization: Bearer`", &["in the query", "not a token"]);
    refuses_upgrade(&[], &malformed, |_| by_query("nonsense".into()));
    let forged = case("token_signature", "token_invalid", "in the subprotocol", &["signature", "HS256"]);
    refuses_upgrade(&[], &forged, |_| {
        let key = EncodingKey::from_secret(b"another key, which nobody has configured");
        let token =
            jsonwebtoken::encode(&hs256(), &json!({"sub": "ada", "exp": 9_999_999_999_u64}), &key).unwrap();
        ("/ws".into(), format!("Sec-WebSocket-Protocol: wshub.bearer.{token}\r\n"))
    });
    let expired =
        case("token_expired", "token_expired", "ended at", &["user \"ada\"", "ended at 2001-09-09", "ago"]);
    refuses_upgrade(&[], &expired, |daemon| {
        by_query(signed(daemon, &hs256(), &json!({"sub": "ada", "exp": 1_000_000_000})))
    });
    let early = case("token_not_yet", "token_not_yet", "begins at", &["user \"ada\"", "begins at"]);
    refuses_upgrade(&[], &early, |daemon| {
        let claims = json!({"sub": "ada", "exp": 9_999_999_999_u64, "nbf": 9_999_999_000_u64});
        by_query(signed(daemon, &hs256(), &claims))
    });
    let claims = case("token_claims", "token_invalid", "no `exp`", &["in `Authorization: Bearer`", "`exp`"]);
    refuses_upgrade(&[], &claims, |daemon| {
        let token = signed(daemon, &hs256(), &json!({"sub": "ada"}));
        ("/ws".into(), format!("Authorization: Bearer {token}\r\n"))
    });
    let key = case("token_key", "token_invalid", "no key", &["`kid` \"a\\nb\\u{1b}[2J\"", "there is HS256"]);
    refuses_upgrade(&[], &key, |daemon| {
        let header = Header { kid: Some("a\nb\u{1b}[2J".into()), ..Header::new(Algorithm::HS384) };
        by_query(signed(daemon, &header, &json!({"sub": "ada", "exp": 9_999_999_999_u64})))
    });
    let query = case("token_query", "token_invalid", "a token in the URL", &["`[auth] query_token = false`"]);
    refuses_upgrade(&[("WSHUBD_AUTH__QUERY_TOKEN", "false")], &query, |daemon| by_query(daemon.token("ada")));
}

#[test]
fn missing_wrong_and_misplaced_secrets_are_distinguished() {
    let case = |reason, message, log| RefusalCase {
        reason,
        status: 401,
        code: "auth_required",
        head: "\r\nwww-authenticate: bearer",
        message,
        log,
    };
    let post = |header: &str| request("POST /broadcast", header, "{}");
    refuses(
        &[],
        &case("secret_missing", "there is none", &["POST \"/broadcast\"", "broadcast secret"]),
        |_| post(""),
    );
    let wrong = case("secret_wrong", "is wrong", &["`[auth] broadcast_secrets`"]);
    refuses(&[], &wrong, |_| post("Authorization: Bearer not-the-right-one\r\n"));
    let token = case("secret_wrong", "this is a token", &["this is a token"]);
    refuses(&[], &token, |daemon| post(&format!("Authorization: Bearer {}\r\n", daemon.token("ada"))));
    let basic = case("secret_scheme", "of the scheme Basic", &["scheme Basic"]);
    refuses(&[], &basic, |daemon| post(&format!("Authorization: Basic {}\r\n", daemon.secret())));
    let other = case("secret_scheme", "of the scheme another", &["scheme another"]);
    refuses(&[], &other, |daemon| post(&format!("Authorization: {} x\r\n", daemon.secret())));
    let bare = case("secret_scheme", "names no scheme", &["names no scheme"]);
    refuses(&[], &bare, |daemon| post(&format!("Authorization: {}\r\n", daemon.secret())));
    let missing = case("secret_missing", "`metrics_open = true`", &["GET \"/metrics\""]);
    refuses(&[], &missing, |_| request("GET /metrics", "", ""));
    let forbidden = RefusalCase {
        reason: "forbidden",
        status: 403,
        code: "forbidden",
        head: "",
        message: "`admin`",
        log: &["user \"ada\"", "does not say `admin`"],
    };
    refuses(&[], &forbidden, |daemon| {
        request("GET /metrics", &format!("Authorization: Bearer {}\r\n", daemon.token("ada")), "")
    });
}

#[test]
fn no_header_and_no_path_shows_a_token_or_secret_in_the_log() {
    let secret = |daemon: &Daemon| format!("Authorization: Bearer {}\r\n", daemon.secret());
    let case =
        |reason, status, code, head, message, log| RefusalCase { reason, status, code, head, message, log };
    let hidden = case(
        "no_upgrade",
        426,
        "bad_request",
        "",
        "a proxy in between",
        &["Upgrade \"h2c, (...)\", Connection \"close, (...)\""],
    );
    refuses(&[], &hidden, |daemon| {
        let token = daemon.token("ada");
        format!(
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c, {token}\r\nConnection: close, TOKEN={token}\r\n\r\n"
        )
        .into_bytes()
    });
    let kind =
        case("media_type", 415, "bad_request", "", "application/json", &["Content-Type \"text/(...)\""]);
    refuses(&[], &kind, |daemon| {
        let kind = format!("{}Content-Type: text/%53ecret={}\r\n", secret(daemon), daemon.secret());
        request("POST /broadcast", &kind, "{}")
    });
    let encoded = case("not_found", 404, "not_found", "", "nothing at this path", &["\"GET\" \"/a;(...)\""]);
    refuses(&[], &encoded, |_| request("GET /a;%74oken=hidden", "", ""));
}

#[test]
fn an_unknown_request_is_answered_with_what_is_expected() {
    let secret = |daemon: &Daemon| format!("Authorization: Bearer {}\r\n", daemon.secret());
    let json_type = "Content-Type: application/json\r\n";
    let case =
        |reason, status, code, head, message, log| RefusalCase { reason, status, code, head, message, log };
    let proxy = case(
        "no_upgrade",
        426,
        "bad_request",
        "\r\nsec-websocket-version: 13",
        "a proxy in between",
        &["Upgrade none, Connection \"close\""],
    );
    refuses(&[], &proxy, |_| request("GET /ws", "", ""));
    let old = case("no_upgrade", 505, "bad_request", "", "proxy_http_version 1.1", &["HTTP/1.0"]);
    refuses(&[], &old, |_| format!("GET /ws HTTP/1.0\r\n{UPGRADE}\r\n").into_bytes());
    let nowhere = case("not_found", 404, "not_found", "", "nothing at this path", &["\"GET\" \"/a/(...)\""]);
    refuses(&[], &nowhere, |daemon| request(&format!("GET /a/{}?token=x", daemon.token("ada")), "", ""));
    let method =
        case("method", 405, "bad_request", "\r\nallow: post", "only POST", &["\"GET\" \"/broadcast\""]);
    refuses(&[], &method, |_| request("GET /broadcast", "", ""));
    let kind =
        case("media_type", 415, "bad_request", "", "application/json", &["Content-Type \"text/plain\""]);
    refuses(&[], &kind, |daemon| {
        request("POST /broadcast", &format!("{}Content-Type: text/plain\r\n", secret(daemon)), "{}")
    });
    let large = case("too_large", 413, "too_large", "", "1024 bytes", &["`[limits] message_bytes`"]);
    refuses(&[("WSHUBD_LIMITS__MESSAGE_BYTES", "1KiB")], &large, |daemon| {
        request("POST /broadcast", &(secret(daemon) + json_type), &"x".repeat(2000))
    });
    let bad = case("bad_request", 400, "bad_json", "", "", &["the body for \"/broadcast\""]);
    refuses(&[], &bad, |daemon| request("POST /broadcast", &(secret(daemon) + json_type), "\u{1b}[2J{"));
    let forbidden = case("forbidden", 403, "forbidden", "", "", &["\"/broadcast\": system:presence is"]);
    refuses(&[], &forbidden, |daemon| {
        let body = r#"{"channel":"system:presence","event":"e"}"#;
        request("POST /broadcast", &(secret(daemon) + json_type), body)
    });
    let nobody = case("not_found", 404, "unknown_connection", "", "", &["\"/broadcast\": ", "connection"]);
    refuses(&[], &nobody, |daemon| {
        request("POST /broadcast", &(secret(daemon) + json_type), r#"{"connection_id":"x","event":"e"}"#)
    });
    let full =
        case("overloaded", 503, "overloaded", "\r\nretry-after: 5", "taken", &["`[limits] connections`"]);
    refuses(&[("WSHUBD_LIMITS__CONNECTIONS", "1")], &full, |daemon| {
        // An authenticated client is not evicted.
        let client = daemon.client_at(&format!("/ws?token={}", daemon.token("ada")));
        std::mem::forget(client);
        upgrade("/ws", "")
    });
}

#[test]
fn a_head_that_hyper_refuses_has_a_body_with_the_reason() {
    let bad = |message, log| RefusalCase {
        reason: "bad_request",
        status: 400,
        code: "bad_request",
        head: "\r\nconnection: close",
        message,
        log,
    };
    refuses(&[], &bad("this is TLS", &["plain HTTP"]), |_| {
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()
    });
    refuses(&[], &bad("this is HTTP/2", &["PRI * HTTP/2.0"]), |_| {
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()
    });
    refuses(&[], &bad("METHOD PATH HTTP/1.1", &["begins with \"GET /healthz\""]), |_| {
        b"GET /healthz\r\n\r\n".to_vec()
    });
    let odd = bad("cannot be read", &["begins with \"GET /ws\""]);
    refuses(&[], &odd, |_| b"GET /ws?token=eyJ0 HTTP/1.1\r\nHost: local\0host\r\n\r\n".to_vec());
    let raw = bad("METHOD PATH HTTP/1.1", &["METHOD PATH HTTP/1.1"]);
    refuses(&[], &raw, |_| [b"\x1b[2J\x1b]0;", "x".repeat(1 << 20).as_bytes()].concat());
    let large = |message, log| RefusalCase {
        reason: "head_too_large",
        status: 431,
        code: "too_large",
        head: "\r\nconnection: close",
        message,
        log,
    };
    let many: String = (0..65).map(|n| format!("X-{n}: v\r\n")).collect();
    refuses(&[], &large("64 headers", &["begins with \"GET /ws\"", "cookies"]), |_| {
        format!("GET /ws?token=eyJ HTTP/1.1\r\n{many}\r\n").into_bytes()
    });
    refuses(&[], &large("16 KiB", &["begins with \"GET /ws"]), |_| {
        format!("GET /ws HTTP/1.1\r\n{UPGRADE}Cookie: {}\r\n\r\n", "x".repeat(20 << 10)).into_bytes()
    });
}

#[test]
fn an_unfinished_head_or_body_is_answered_408() {
    let late = |message, log| RefusalCase {
        reason: "timeout",
        status: 408,
        code: "bad_request",
        head: "\r\nconnection: close",
        message,
        log,
    };
    let short = [("WSHUBD_LIMITS__HANDSHAKE_TIMEOUT", "1s")];
    let head = late("the rest of the head took too long", &["within 1s", "`[limits] handshake_timeout`"]);
    refuses(&short, &head, |_| b"GET /healthz HTTP/1.1\r\nHost: local".to_vec());
    let body = late("the body took too long", &["the body did not come within 1s"]);
    refuses(&short, &body, |daemon| {
        let secret = daemon.secret();
        format!("POST /broadcast HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\nContent-Length: 9\r\n\r\n{{")
            .into_bytes()
    });
}

#[test]
fn an_idle_kept_connection_closes_silently_a_partial_head_not() {
    let mut daemon = Daemon::with(&[("WSHUBD_LIMITS__HANDSHAKE_TIMEOUT", "1s"), MEMORY]);
    let answers = |more: &str| {
        let mut stream = TcpStream::connect(daemon.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
            .write_all(format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n{more}").as_bytes())
            .unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        all
    };
    let idle = answers("");
    assert!(idle.ends_with("{\"status\":\"ok\"}") && idle.matches("HTTP/1.1 ").count() == 1, "{idle}");
    let half = answers("GET /hea");
    let (_, second) = half.split_once("{\"status\":\"ok\"}").unwrap();
    assert_eq!(answered(second).status, 408, "{half}");
    let after = stats(&mut daemon.worker());
    assert_eq!((&after["newcomers_dropped"], &after["refused"]), (&json!(1), &json!({"timeout": 1})));
    assert!(daemon.logged().contains("the rest of the head"));
    daemon.stop();
    assert!(!daemon.ended().1.contains("refused"), "idling is nothing to write down");
}

#[test]
fn a_silent_peer_is_neither_answered_nor_logged() {
    let mut daemon = Daemon::with(&[("WSHUBD_LIMITS__HANDSHAKE_TIMEOUT", "1s"), MEMORY]);
    assert_eq!(daemon.answers_to(b""), "");
    let after = stats(&mut daemon.worker());
    assert_eq!((&after["newcomers_dropped"], &after["refused"]), (&json!(1), &json!({})));
    daemon.stop();
    assert!(!daemon.ended().1.contains("refused"));
}

#[test]
fn a_refused_page_gets_its_reason_and_growing_retry_delays() {
    let mut daemon = Daemon::with(&[MEMORY]);
    let expired = |user: &str| signed(&daemon, &hs256(), &json!({"sub": user, "exp": 1_000_000_000}));
    let (ada, ben) = (expired("ada"), expired("ben"));
    let waits = |token: &str| {
        let protocols = format!("wshub.v1, wshub.bearer.{token}");
        let mut page = daemon.try_client("/ws", &[("Sec-WebSocket-Protocol", &protocols)]).unwrap();
        assert_eq!(page.expect_type("auth_failed")["code"], "token_expired");
        let bye = page.expect_type("bye");
        assert_eq!((&bye["code"], &bye["reconnect"]), (&json!(4001), &json!(false)));
        page.closed_with();
        bye["after_ms"].as_u64().unwrap()
    };
    let all: Vec<u64> = (0..20).map(|_| waits(&ada)).collect();
    assert_eq!(all[0], 0);
    assert!(all.is_sorted() && all[19] > 5000, "{all:?}");
    assert_eq!(waits(&ben), 0, "another user of that address does not pay for it");
    let path = format!("/ws?token={}", daemon.token("ada"));
    daemon.client_at(&path).expect_type("connection_established");
    let after = stats(&mut daemon.worker());
    assert_eq!(after["refused"], json!({"token_expired": 21}));
    assert_eq!((&after["closed_unauthenticated"], &after["wrong_secrets"]), (&json!(0), &json!(0)));
    assert!(daemon.logged().contains("user \"ada\" in the subprotocol"));
}

#[test]
fn a_script_with_an_expired_token_is_throttled() {
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__WRONG_TOKENS_PER_MINUTE", "2"), MEMORY]);
    let expired = |user: &str| signed(&daemon, &hs256(), &json!({"sub": user, "exp": 1_000_000_000}));
    let ask = |token: &str| answered(&daemon.answers_to(&upgrade(&format!("/ws?token={token}"), "")));
    let ada = expired("ada");
    for _ in 0..2 {
        let answer = ask(&ada);
        assert_eq!((answer.status, &answer.body["code"]), (401, &json!("token_expired")));
    }
    let answer = ask(&ada);
    assert_eq!((answer.status, &answer.body["code"]), (429, &json!("rate_limited")));
    assert!(answer.head.contains("\r\nretry-after: "), "{}", answer.head);
    assert!(answer.body["message"].as_str().unwrap().contains("ended at"), "{}", answer.body);
    assert!(answer.body["message"].as_str().unwrap().contains("of this user"), "{}", answer.body);
    assert_eq!(ask(&expired("ben")).status, 401, "no other user pays for it");
    daemon.client_at(&format!("/ws?token={}", daemon.token("ada"))).expect_type("connection_established");
    assert_eq!(stats(&mut daemon.worker())["refused"], json!({"token_expired": 3, "too_many_refusals": 1}));
}

#[test]
fn a_token_of_an_auth_request_is_refused_for_its_reason() {
    let mut daemon = Daemon::with(&[MEMORY]);
    let mut stranger = daemon.client_at("/ws");
    stranger.expect_type("auth_required");
    stranger.send(json!({"action": "auth", "token": "eyJ.not.one"}));
    assert_eq!(stranger.expect_type("auth_failed")["code"], "token_invalid");
    assert_eq!(stranger.closed_with(), 4001);
    let line = daemon.logged();
    assert!(
        line.contains("refused 127.0.0.1: the token of an `auth` request: ") && !line.contains("eyJ"),
        "{line}"
    );
    // On a live connection, which goes on.
    let mut ada = daemon.client("ada");
    ada.send(json!({"action": "auth", "token": "eyJ.not.one"}));
    ada.expect_type("auth_failed");
    ada.expect_pong();
    let after = stats(&mut daemon.worker());
    assert_eq!(after["refused"], json!({"token_malformed": 2}));
    assert_eq!(after["closed_unauthenticated"], 0, "both have said something");
}

#[test]
fn a_connection_that_never_authenticates_is_reported() {
    let mut daemon = Daemon::with(&[("WSHUBD_LIMITS__AUTH_TIMEOUT", "1s"), MEMORY]);
    let mut stranger = daemon.client_at("/ws");
    stranger.expect_type("auth_required");
    assert_eq!(stranger.expect_type("bye")["code"], 4001);
    let line = daemon.logged();
    assert!(line.contains("refused 127.0.0.1: ") && line.contains("no `auth` in time"), "{line}");
    let after = stats(&mut daemon.worker());
    assert_eq!(
        (&after["refused"], &after["closed_unauthenticated"]),
        (&json!({"token_missing": 1}), &json!(1))
    );
}

#[test]
fn a_user_with_too_many_connections_is_logged_with_the_option() {
    let mut daemon = Daemon::with(&[("WSHUBD_LIMITS__CONNECTIONS_PER_USER", "1"), MEMORY]);
    let _first = daemon.client("ada");
    let mut second = daemon.client_at(&format!("/ws?token={}", daemon.token("ada")));
    assert_eq!(second.expect_type("bye")["code"], 4008);
    let line = daemon.logged();
    assert!(line.contains("of user \"ada\": ") && line.contains("`[limits] connections_per_user`"), "{line}");
    let after = stats(&mut daemon.worker());
    assert_eq!(after["refused"], json!({"too_many_connections": 1}));
}

#[test]
fn hundreds_of_refusals_are_one_line_and_a_count() {
    let mut daemon = Daemon::with(&[MEMORY]);
    let refuse =
        |daemon: &Daemon| assert_eq!(daemon.http("GET /healthz", &["Host: evil.example"], "").0, 403);
    (0..300).for_each(|_| refuse(&daemon));
    let mut worker = daemon.worker();
    let begun = number(&stats(&mut worker), "uptime_seconds");
    wait_for(&mut worker, |stats| number(stats, "uptime_seconds") > begun + 1);
    refuse(&daemon);
    let mut counted = 0;
    let mut lines = 0;
    while counted < 301 {
        let line = daemon.logged();
        let more =
            line.split_once("(and ").map_or(0, |(_, rest)| rest.split(' ').next().unwrap().parse().unwrap());
        counted += 1 + more;
        lines += 1;
    }
    assert_eq!((counted, number(&stats(&mut worker), "uptime_seconds") + 2 > lines), (301, true));
    assert_eq!(stats(&mut worker)["refused"], json!({"host": 301}));
}

#[test]
fn an_evicted_newcomer_gets_the_reason_and_is_counted() {
    let mut daemon = Daemon::with(&[("WSHUBD_LIMITS__HTTP_CONNECTIONS", "1"), MEMORY]);
    let mut first = TcpStream::connect(daemon.address).unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    first.write_all(b"GET /healthz HTTP/1.1\r\n").unwrap();
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
    let mut reply = String::new();
    first.read_to_string(&mut reply).unwrap();
    let answer = answered(&reply);
    assert_eq!((answer.status, &answer.body["code"]), (503, &json!("overloaded")));
    assert!(answer.head.contains("retry-after: 5") && answer.head.contains("connection: close"), "{reply}");
    let line = daemon.logged();
    assert!(line.contains("refused 127.0.0.1: ") && line.contains("`[limits] http_connections`"), "{line}");
    assert_eq!(stats(&mut daemon.worker())["refused"], json!({"overloaded": 1}));
}

#[test]
fn a_refused_worker_process_is_answered_and_logged() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    const NOBODY: u32 = 65534;
    let mut daemon = Daemon::with(&[("WSHUBD_WORKER__ALLOW", r#"["4242"]"#), MEMORY]);
    let socket = daemon.directory.join("wshubd/worker.sock");
    for open in [daemon.directory.clone(), daemon.directory.join("wshubd"), socket.clone()] {
        std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    // Its requests are of no use: the daemon does not read them.
    let python = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(999).decode())";
    let mut child = Command::new("python3");
    child.args(["-c", python]).arg(&socket).uid(NOBODY).gid(NOBODY);
    let output = child.output().unwrap();
    let refusal: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&refusal["type"], &refusal["code"]), (&json!("error"), &json!("forbidden")));
    assert!(refusal["message"].as_str().unwrap().contains("`[worker] allow`"), "{refusal}");
    let line = daemon.logged();
    for words in ["refused worker of uid 65534, gid 65534, pid ", "`[worker] allow`"] {
        assert!(line.contains(words), "{line}");
    }
    assert_eq!(stats(&mut daemon.worker())["refused"], json!({"worker": 1}));
}

#[test]
fn the_access_log_has_every_request_and_end_and_no_query() {
    let mut daemon = Daemon::by_file(
        "[listen]\nhttp = [\"127.0.0.1:0\"]\n[state]\nstore = \"memory\"\n[log]\naccess = true\n",
    );
    assert_eq!(daemon.http("GET /healthz?token=hidden", &[], "").0, 200);
    let line = daemon.logged();
    assert!(line.starts_with("INFO access: 127.0.0.1 - GET \"/healthz\" 200 15 bytes "), "{line}");
    assert_eq!(daemon.http("GET /eyJhidden", &[], "").0, 404);
    assert!(daemon.logged().starts_with("WARN refused "));
    assert!(daemon.logged().starts_with("INFO access: 127.0.0.1 - GET \"/(...)\" 404 "));
    let mut ada = daemon.client("ada");
    let line = daemon.expect_log_line("access: 127.0.0.1");
    assert!(line.contains("access: 127.0.0.1 \"ada\" GET \"/ws\" 101 0 bytes "), "{line}");
    ada.socket.close(None).unwrap();
    ada.socket.flush().unwrap();
    let line = daemon.expect_log_line("closed by its peer");
    assert!(line.contains("\"ada\" end of ") && line.contains("access: 127.0.0.1:"), "{line}");
    let mut eve = daemon.client("eve");
    (0..5).for_each(|_| eve.send(json!({"action": "dance"})));
    eve.closed_with();
    let line = daemon.expect_log_line("\"eve\" end of ");
    assert!(line.contains(": 4009 too many malformed requests after "), "{line}");
    drop(daemon.client("ann"));
    assert!(daemon.expect_log_line("\"ann\" end of ").contains("its socket closed"));
    // It follows a reload.
    daemon.write("wshubd.toml", "[listen]\nhttp = [\"127.0.0.1:0\"]\n[state]\nstore = \"memory\"\n");
    assert_eq!(daemon.reload()["type"], "ok");
    daemon.expect_log_line("reloaded: log.access");
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
    daemon.stop();
    assert!(!daemon.ended().1.contains("GET"), "nothing is written any more");
}

#[test]
fn a_request_that_cannot_be_parsed_is_not_logged_verbatim() {
    let case =
        |reason, status, code, message, log| RefusalCase { reason, status, code, head: "", message, log };
    let body = r#"{"data":{"password":"hunter2"}}"#;
    let lengths = case("bad_request", 400, "bad_request", "`Content-Length` or", &["`Content-Length` or"]);
    for header in ["Content-Length: abc", "Content-Length: 5\r\nContent-Length: 6", "Transfer-Encoding: gzip"]
    {
        let sent = format!("POST /broadcast HTTP/1.1\r\nHost: localhost\r\n{header}\r\n\r\n{body}");
        let output = refuses(&[], &lengths, |_| sent.clone().into_bytes());
        assert!(!output.contains("hunter2"), "{header}: {output}");
    }
    let nothing = case("bad_request", 400, "bad_request", "no request of HTTP/1.1", &["METHOD PATH"]);
    let output = refuses(&[], &nothing, |_| format!("{body}\r\n\r\n").into_bytes());
    assert!(!output.contains("hunter2"), "{output}");
    let page = case("origin", 403, "forbidden", "no origin", &["`Origin: http://127.0.0.1"]);
    let output = refuses_upgrade(&[], &page, |daemon| {
        ("/ws".into(), format!("Origin: http://127.0.0.1/ws?token={}\r\n", daemon.token("ada")))
    });
    assert!(!output.contains("eyJ"), "{output}");
    let method = case("not_found", 404, "not_found", "nothing at this path", &["\"MMMM"]);
    let sent = format!("{} /nope HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "M".repeat(9000));
    let output = refuses(&[], &method, |_| sent.clone().into_bytes());
    assert!(output.len() < 300, "{output}");
}
