//! Heads of HTTP requests that are broken, contradictory, too large or cut short.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Daemon, PATIENCE, UPGRADE, number, stats, wait_for};

/// The last request of a connection.
const LAST: &str = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The statuses of answers that follow one another.
fn statuses(mut answers: &str) -> Vec<u16> {
    let mut all = Vec::new();
    while let Some((head, rest)) = answers.split_once("\r\n\r\n") {
        all.push(head.split(' ').nth(1).unwrap().parse().unwrap());
        let head = head.to_lowercase();
        let length =
            head.split_once("content-length: ").map_or("0", |(_, rest)| rest.lines().next().unwrap());
        answers = &rest[length.parse().unwrap()..];
    }
    assert_eq!(answers, "");
    all
}

#[test]
fn contradictory_lengths_never_make_two_requests_of_one() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    let secret = daemon.secret();
    let message = r#"{"channel":"news","event":"e","ttl":0}"#;
    let (length, chunked) = (message.len(), format!("{:x}\r\n{message}\r\n0\r\n\r\n", message.len()));
    let post = |version: &str, lengths: &str, body: &str| {
        format!(
            "POST /broadcast HTTP/{version}\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\n\
             Content-Type: application/json\r\n{lengths}\r\n\r\n{body}"
        )
    };
    let exact = format!("Content-Length: {length}");
    let last = post("1.1", &format!("{exact}\r\nConnection: close"), message);
    let both = format!("{exact}\r\nTransfer-Encoding: chunked");
    let both_turned = format!("Transfer-Encoding: chunked\r\n{exact}");
    let twice = format!("{exact}\r\n{exact}");
    let differing = format!("{exact}\r\nContent-Length: {}", length + last.len());
    let folded = format!("{exact}\r\nX-More: a\r\n b");
    let hidden = format!("X-More: a\rContent-Length: {length}");
    let zero = "\0";
    // A request behind which another one stands: what is answered, and how many are carried out.
    let table: [(String, &[u16], u64); 18] = [
        (post("1.1", &exact, message), &[200, 200], 2),
        (post("1.1", &twice, message), &[200, 200], 2),
        (post("1.1", "Transfer-Encoding: chunked", &chunked), &[200, 200], 2),
        (post("1.1", &exact, message).replace("\r\n", "\n"), &[200, 200], 2),
        // Chunks count, and the connection ends (RFC 9112, section 6.1).
        (post("1.1", &both, &chunked), &[200], 1),
        (post("1.1", &both_turned, &chunked), &[200], 1),
        (post("1.0", &exact, message), &[200], 1),
        (post("1.0", "Transfer-Encoding: chunked", &chunked), &[400], 0),
        (post("1.1", "Transfer-Encoding: chunked, identity", &chunked), &[400], 0),
        (post("1.1", "Transfer-Encoding : chunked", &chunked), &[400], 0),
        (post("1.1", "Transfer-Encoding: chunked", "fffffffffffffffff\r\n"), &[400], 0),
        (post("1.1", &differing, message), &[400], 0),
        (post("1.1", &format!("Content-Length: +{length}"), message), &[400], 0),
        (post("1.1", &format!("Content-Length: {length}, {length}"), message), &[400], 0),
        (post("1.1", "Content-Length: 18446744073709551616", message), &[400], 0),
        (post("1.1", &folded, message), &[400], 0),
        (post("1.1", &hidden, message), &[400], 0),
        (post("1.1", &format!("X-More: {zero}\r\n{exact}"), message), &[400], 0),
    ];
    for (request, wanted, carried_out) in table {
        let before = number(&stats(&mut worker), "messages_received");
        let answers = daemon.answers_to(format!("{request}{last}").as_bytes());
        assert_eq!(statuses(&answers), wanted, "{request}");
        let after = number(&stats(&mut worker), "messages_received");
        assert_eq!(after - before, carried_out, "{request}");
    }
}

#[test]
fn a_head_of_another_protocol_closes_the_connection() {
    let daemon = Daemon::start();
    let health = |line: &str, end: &str| format!("{line}{end}Host: localhost{end}{end}");
    let table: [(String, &[u16]); 9] = [
        (health("GET /healthz HTTP/1.1", "\r\n"), &[200, 200]),
        (health("GET /healthz HTTP/1.1", "\n"), &[200, 200]),
        (health("GET http://localhost/healthz HTTP/1.1", "\r\n"), &[200, 200]),
        // It is `Host` that is looked at, which a browser sets.
        (health("GET http://other.example/healthz HTTP/1.1", "\r\n"), &[200, 200]),
        (health("GET /healthz HTTP/1.0", "\r\n"), &[200]),
        (health("GET /healthz HTTP/2.0", "\r\n"), &[400]),
        ("GET /healthz\r\n".into(), &[400]),
        ("\u{16}\u{3}\u{1}\u{2}\0\u{1}\0".into(), &[400]),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), &[400]),
    ];
    for (request, wanted) in table {
        let answers = daemon.answers_to(format!("{request}{LAST}").as_bytes());
        assert_eq!(statuses(&answers), wanted, "{request}");
    }
}

#[test]
fn an_incomplete_websocket_request_names_what_it_lacks() {
    let daemon = Daemon::start();
    let without = |header: &str| -> String {
        UPGRADE.split_inclusive("\r\n").filter(|line| !line.starts_with(header)).collect()
    };
    let with = |header: &str, value: &str| format!("{}{header}: {value}\r\n", without(header));
    let (key, version) = ("Sec-WebSocket-Key", "Sec-WebSocket-Version");
    let table = [
        (without("Connection"), 426),
        (with("Connection", "keep-alive"), 426),
        (without("Upgrade"), 426),
        (with("Upgrade", "h2c"), 426),
        (without(version), 426),
        (with(version, "8"), 426),
        (with(version, "12"), 426),
        (with(version, "14"), 426),
        (with(version, "13, 8"), 426),
        (without(key), 400),
        (with(key, ""), 400),
        (with(key, "dGhlIHNhbXBsZQ=="), 400),
        (with(key, "dGhlIHNhbXBsZSBub25jZTE="), 400),
        (with(key, "not base64 of 24 letters"), 400),
    ];
    for (headers, status) in table {
        let answers = daemon.answers_to(format!("GET /ws HTTP/1.1\r\n{headers}\r\n{LAST}").as_bytes());
        assert_eq!(statuses(&answers), [status, 200], "{headers}");
        let is_told = answers.to_lowercase().contains("\r\nsec-websocket-version: 13\r\n");
        assert_eq!(is_told, status == 426, "{answers}");
    }
    let older = daemon.answers_to(format!("GET /ws HTTP/1.0\r\n{UPGRADE}\r\n{LAST}").as_bytes());
    assert_eq!(statuses(&older), [505]);
    let posted = daemon.answers_to(format!("POST /ws HTTP/1.1\r\n{UPGRADE}\r\n{LAST}").as_bytes());
    assert_eq!(statuses(&posted), [405, 200]);
    let connection = with("Connection", "keep-alive, Upgrade");
    let mut stream = TcpStream::connect(daemon.address).unwrap();
    stream.write_all(format!("GET /ws HTTP/1.1\r\n{connection}\r\n").as_bytes()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, *b"HTTP/1.1 101");
}

#[test]
fn a_large_head_or_one_with_nul_is_answered_to_the_end() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    let health = |headers: &str| format!("GET /healthz HTTP/1.1\r\n{headers}\r\n");
    let many = |count: usize| {
        let more: String = (2..count).map(|n| format!("X-{n}: a\r\n")).collect();
        health(&format!("Host: localhost\r\nConnection: close\r\n{more}"))
    };
    let large = "x".repeat(64 << 10);
    let table = [
        (many(64), 200),
        (many(65), 431),
        (health(&format!("Host: {large}\r\n")), 431),
        (health(&format!("Host: localhost\r\nOrigin: http://{large}\r\n")), 431),
        (format!("GET /ws HTTP/1.1\r\n{UPGRADE}Sec-WebSocket-Protocol: {large}\r\n\r\n"), 431),
        (format!("GET /{large} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 431),
        (health("Host: local\0host\r\n"), 400),
        (health("Host: localhost\r\nOrigin: http://local\0host\r\n"), 400),
        (format!("GET /ws HTTP/1.1\r\n{UPGRADE}Sec-WebSocket-Protocol: wshub.v1\0\r\n\r\n"), 400),
        (health("Host:\r\nConnection: close\r\n"), 403),
        (health("Host: localhost\r\nOrigin:\r\nConnection: close\r\n"), 403),
    ];
    for (request, status) in table {
        let shown = request.get(..200).unwrap_or(&request);
        let answer = daemon.answers_to(request.as_bytes());
        assert_eq!(statuses(&answer), [status], "{shown}");
        assert_eq!(answer.contains("{\"code\":"), status != 200, "what is refused says why: {answer}");
    }
    ada.expect_pong();
}

#[test]
fn an_unparsable_request_has_a_line_in_the_access_log() {
    let mut daemon = Daemon::by_file(
        "[listen]\nhttp = [\"127.0.0.1:0\"]\n[state]\nstore = \"memory\"\n[log]\naccess = true\n\
         [limits]\nhandshake_timeout = \"1s\"\n",
    );
    let (many, healthy) = ("X: v\r\n".repeat(65), "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let length = "POST /broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Length: a\r\n\r\nSECRET /hidden";
    let table = [
        (format!("GET /ws?token=hidden HTTP/1.1\r\n{many}\r\n"), "GET \"/ws\" 431 "),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(20 << 10)), "GET \"/xxx"),
        ("GET /a?hidden HTTP/9\r\n\r\n".into(), "GET \"/a\" 400 "),
        ("GET /eyJhidden\r\n\r\n".into(), "GET \"/(...)\" 400 "),
        ("\u{16}\u{3}\u{1}hidden".into(), "- - 400 "),
        ("{\"password\": \"hidden\"}\r\n".into(), "- - 400 "),
        // The head was read and forgotten; what is left of it is the body.
        (length.into(), "- - 400 "),
        ("POST /broadcast HTTP/1.1\r\nHost: hid".into(), "POST \"/broadcast\" 408 "),
        ("GET /hea".into(), "GET \"/hea\" 408 "),
        ("GE".into(), "- - 408 "),
        (format!("{healthy}GET /a?hidden HTTP/9\r\n\r\n"), "GET \"/a\" 400 "),
        (format!("{healthy}GET /hea"), "GET \"/hea\" 408 "),
    ];
    for (request, wanted) in &table {
        let answers = daemon.answers_to(request.as_bytes());
        let (_, body) = answers.rsplit_once("\r\n\r\n").unwrap();
        let line = loop {
            let line = daemon.expect_log_line("access: ");
            if !line.contains(" 200 15 bytes ") {
                break line;
            }
        };
        assert!(line.starts_with(&format!("INFO access: 127.0.0.1 - {wanted}")), "{request}: {line}");
        assert!(line.ends_with(&format!(" {} bytes - ms\n", body.len())), "{request}: {line}");
        assert!(!line.contains("hid") && !line.contains("SECRET"), "{line}");
    }
    // Nothing was asked.
    assert_eq!(daemon.answers_to(b""), "");
    daemon.stop();
    let rest = daemon.ended().1;
    assert!(!rest.contains("access: ") && !rest.contains("hidden"), "{rest}");
}

#[test]
fn an_evicted_partial_head_has_a_line_in_the_access_log() {
    let mut daemon = Daemon::by_file(
        "[listen]\nhttp = [\"127.0.0.1:0\"]\n[state]\nstore = \"memory\"\n[log]\naccess = true\n\
         [limits]\nhttp_connections = 1\n",
    );
    let mut first = TcpStream::connect(daemon.address).unwrap();
    first.write_all(b"GET /first?hidden").unwrap();
    let mut second = TcpStream::connect(daemon.address).unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reply = String::new();
    first.read_to_string(&mut reply).unwrap();
    assert_eq!(statuses(&reply), [503]);
    let line = daemon.expect_log_line("access: ");
    assert!(line.starts_with("INFO access: 127.0.0.1 - GET \"/first\" 503 "), "{line}");
    second.write_all(LAST.as_bytes()).unwrap();
    assert!(daemon.expect_log_line("access: ").starts_with("INFO access: 127.0.0.1 - GET \"/healthz\" 200 "));
}

#[test]
fn a_token_larger_than_any_head_is_answered() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    for (bytes, status) in [(15 << 10, 401), (17 << 10, 431), (8 << 20, 431)] {
        let token = "x".repeat(bytes);
        let head = format!("GET /ws HTTP/1.1\r\n{UPGRADE}Authorization: Bearer {token}\r\n\r\n{LAST}");
        let answers = daemon.answers_to(head.as_bytes());
        assert_eq!(statuses(&answers)[0], status, "{bytes} bytes: {answers}");
        assert_eq!(answers.contains("token_invalid"), status == 401, "{answers}");
    }
    ada.expect_pong();
}

#[test]
fn a_foreign_page_posts_nothing_even_with_the_secret() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    let secret = format!("Authorization: Bearer {}", daemon.secret());
    let body = json!({"channel": "news", "event": "e"}).to_string();
    for origin in ["https://evil.example", "null"] {
        let origin = format!("Origin: {origin}");
        let headers = [secret.as_str(), "Content-Type: application/json", &origin];
        let (status, answer) = daemon.http("POST /broadcast", &headers, &body);
        assert_eq!(status, 403, "{answer}");
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap()["code"], "forbidden");
    }
    assert_eq!(stats(&mut worker)["messages_received"], 0);
}

#[test]
fn no_answer_is_readable_for_a_foreign_page() {
    let daemon = Daemon::start();
    let secret = format!("Authorization: Bearer {}\r\n", daemon.secret());
    let mut seen = Vec::new();
    for path in ["/broadcast", "/interrupt", "/api/v1/ws/stats", "/metrics", "/healthz", "/ws", "/nowhere"] {
        for method in ["OPTIONS", "GET", "HEAD", "POST"] {
            for origin in ["http://localhost:3000", "https://evil.example"] {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\n{secret}\
                     Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\
                     Content-Length: 0\r\nConnection: close\r\n\r\n"
                );
                let answer = daemon.answers_to(request.as_bytes()).to_lowercase();
                assert!(!answer.contains("\naccess-control-"), "{request}{answer}");
                seen.push(answer.split(' ').nth(1).unwrap().to_owned());
            }
        }
    }
    for status in ["200", "400", "403", "404", "405", "426"] {
        assert!(seen.iter().any(|one| one == status), "{status}");
    }
}

/// Closes a socket, with a reset or in the usual way.
fn hang_up(stream: TcpStream, with_reset: bool) {
    if with_reset {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    }
    drop(stream);
}

#[test]
fn a_handshake_cut_at_any_byte_leaks_nothing() {
    let daemon = Daemon::with(&[("WSHUBD_STATE__STORE", "memory")]);
    let mut worker = daemon.worker();
    let request = format!("GET /ws?token={} HTTP/1.1\r\n{UPGRADE}\r\n", daemon.token("ada"));
    let (before, descriptors) = (stats(&mut worker), daemon.descriptors());
    let mut cuts: Vec<(usize, bool)> =
        (0..=request.len()).flat_map(|cut| [(cut, false), (cut, true)]).collect();
    cuts.extend([(0, true); 1000]);
    // As many at once as wait in the kernel, half of them while the daemon is stopped.
    for (turn, some) in cuts.chunks(50).enumerate() {
        if turn % 2 == 0 {
            daemon.signal(Signal::STOP);
        }
        for (cut, with_reset) in some {
            let mut stream = TcpStream::connect(daemon.address).unwrap();
            stream.write_all(&request.as_bytes()[..*cut]).unwrap();
            hang_up(stream, *with_reset);
        }
        daemon.signal(Signal::CONT);
        stats(&mut worker);
    }
    daemon.wait_for_descriptors(descriptors);
    assert_eq!(stats(&mut worker)["newcomers_dropped"], 0, "none was waited for");
    let names = ["total_connections", "connected_users"];
    wait_for(&mut worker, |stats| names.iter().all(|name| stats[name] == before[name]));
    assert!(number(&stats(&mut worker), "memory_bytes") < number(&before, "memory_bytes") + 4096);
    daemon.client("grace").expect_pong();
}
