//! Requests that come through proxies.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};

use crate::harness::{Client, Daemon, PATIENCE, UPGRADE};

const TRUSTED: (&str, &str) = ("WSHUBD_LISTEN__TRUSTED_PROXIES", "[\"127.0.0.1\"]");

fn connections(daemon: &Daemon) -> Vec<Value> {
    let mut worker = daemon.worker();
    worker.send(json!({"action": "connections"}));
    let listed = worker.receive()["connections"].as_array().unwrap().clone();
    listed.into_iter().filter(|connection| connection["kind"] == "client").collect()
}

#[test]
fn a_client_keeps_its_own_address_across_a_restart() {
    let mut daemon = Daemon::with(&[TRUSTED]);
    let token = format!("Bearer {}", daemon.token("ada"));
    let headers = |list| [("Authorization", &*token), ("X-Forwarded-For", list)];
    let mut near = daemon.try_client("/ws", &headers("203.0.113.9, 192.0.2.7")).unwrap();
    let mut far = daemon.try_client("/ws", &headers("2001:db8::7")).unwrap();
    let mut own = daemon.client("ben");
    for client in [&mut near, &mut far] {
        client.expect_type("connection_established");
    }
    let addresses = |daemon: &Daemon| {
        let listed = connections(daemon);
        let mut found: Vec<_> =
            listed.iter().map(|one| one["address"].as_str().unwrap().to_owned()).collect();
        found.sort();
        found
    };
    let before = addresses(&daemon);
    assert!(before[0].starts_with("127.0.0.1:"), "{before:?}");
    assert_eq!(before[1..], ["192.0.2.7", "2001:db8::7"]);
    daemon.hand_over();
    [&mut near, &mut far, &mut own].into_iter().for_each(Client::expect_pong);
    assert_eq!(addresses(&daemon), before);
}

#[test]
fn guessing_through_a_proxy_throttles_the_guesser_alone() {
    let mut daemon = Daemon::with(&[TRUSTED, ("WSHUBD_LIMITS__WRONG_SECRETS_PER_MINUTE", "3")]);
    let from = |address: &str| {
        let named = format!("X-Forwarded-For: {address}");
        daemon.http("POST /broadcast", &["Authorization: Bearer wrong", &named], "{}").0
    };
    let answers: Vec<u16> = (0..5).map(|_| from("192.0.2.7, 127.0.0.1")).collect();
    assert_eq!(answers, [401, 401, 401, 429, 429]);
    assert_eq!(from("192.0.2.8"), 401, "another one");
    assert_eq!(from("192.0.2.7, unknown"), 401, "the proxy's own");
    let line = daemon.expect_log_line("is wrong; this needs");
    assert!(line.contains("refused 192.0.2.7: "), "{line}");
}

#[test]
fn anonymous_clients_are_told_apart_by_forwarded_address() {
    let daemon = Daemon::with(&[
        TRUSTED,
        ("WSHUBD_AUTH__ANONYMOUS", "true"),
        ("WSHUBD_LIMITS__REQUESTS_PER_SECOND", "1"),
        ("WSHUBD_LIMITS__USER_REQUESTS_PER_SECOND", "1"),
        ("WSHUBD_LIMITS__BURST", "5"),
        ("WSHUBD_LIMITS__USER_BURST", "5"),
    ]);
    let client = |address| {
        let mut client = daemon.try_client("/ws", &[("X-Forwarded-For", address)]).unwrap();
        client.expect_type("connection_established");
        client
    };
    let ask = |client: &mut Client| {
        client.send(json!({"action": "presence", "channel": "c"}));
        client.receive()
    };
    // Who hides is taken for one as well.
    for addresses in [["192.0.2.7", "192.0.2.7"], ["unknown", "192.0.2.9, x"]] {
        let mut hogs = addresses.map(client);
        let answers = hogs.iter_mut().flat_map(|hog| [(); 10].map(|()| ask(hog)));
        let refused = answers.filter(|answer| answer["code"] == "rate_limited").count();
        // Each for itself would have been refused five times.
        assert!(refused > 10, "{refused} of 20 from {addresses:?}");
    }
    let mut other = client("192.0.2.8");
    assert_eq!(ask(&mut other)["type"], "presence");
}

#[test]
fn loopback_endpoints_are_closed_to_forwarded_requests() {
    for variables in [&[][..], &[TRUSTED]] {
        let daemon = Daemon::with(variables);
        let stats = |headers: &[&str]| daemon.http("GET /api/v1/ws/stats", headers, "").0;
        assert_eq!(stats(&[]), 200);
        for trace in
            ["X-Forwarded-For: 127.0.0.1", "Forwarded: for=127.0.0.1", "X-Real-IP: ::1", "Via: 1.1 x"]
        {
            assert_eq!(stats(&[trace]), 401, "{trace}");
        }
        let secret = format!("Authorization: Bearer {}", daemon.secret());
        assert_eq!(stats(&["X-Forwarded-For: 192.0.2.7", &secret]), 200);
    }
}

#[test]
fn an_unlisted_proxy_is_logged_once_with_its_option() {
    let mut daemon = Daemon::start();
    for _ in 0..5 {
        assert_eq!(daemon.http("GET /healthz", &["X-Forwarded-For: 192.0.2.7"], "").0, 200);
    }
    daemon.stop();
    let (_, log) = daemon.ended();
    let reported: Vec<&str> = log.lines().filter(|line| line.contains("a proxy on")).collect();
    assert_eq!(reported.len(), 1, "{log}");
    assert!(reported[0].contains(r#"[listen] trusted_proxies = ["127.0.0.1"]"#), "{log}");
}

#[test]
fn a_reload_adds_and_removes_proxies() {
    let daemon = Daemon::by_file("[limits]\nwrong_secrets_per_minute = 2\n");
    let from =
        |header: &str| daemon.http("POST /broadcast", &["Authorization: Bearer wrong", header], "{}").0;
    let [x, f] = ["X-Forwarded-For: 192.0.2.7", "Forwarded: for=192.0.2.8"];
    assert_eq!([from(x), from(f), from(x)], [401, 401, 429], "all are the proxy");
    let name = |forwarded: &str| {
        let listen = format!("[listen]\ntrusted_proxies = [\"127.0.0.0/8\"]\nforwarded = \"{forwarded}\"\n");
        daemon.write("wshubd.toml", &format!("{listen}[limits]\nwrong_secrets_per_minute = 2\n"));
        assert_eq!(daemon.reload()["type"], "ok");
    };
    name("x-forwarded-for");
    assert_eq!([from(x), from(x), from(x), from(f)], [401, 401, 429, 429]);
    name("forwarded");
    assert_eq!([from(f), from(f), from(f), from(x)], [401, 401, 429, 429]);
}

/// The status of what comes back, which may go on as a WebSocket.
fn status(daemon: &Daemon, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(daemon.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    String::from_utf8_lossy(&reply).split(' ').nth(1).unwrap().to_owned()
}

/// A head without `Host`.
fn without_host(head: &str) -> Vec<u8> {
    format!("{head}\r\n\r\n").into_bytes()
}

#[test]
fn a_load_balancer_checks_health_without_a_host() {
    let daemon = Daemon::start();
    for head in
        ["GET /healthz HTTP/1.0", "GET /healthz HTTP/1.1", "HEAD /healthz HTTP/1.0", "GET /healthz/ HTTP/1.0"]
    {
        let reply = daemon.raw(&without_host(head));
        assert!(reply.contains(" 200 OK\r\n"), "{head}: {reply}");
    }
    for head in
        ["GET / HTTP/1.0", "OPTIONS / HTTP/1.0", "GET /metrics HTTP/1.1", "GET /api/v1/ws/stats HTTP/1.0"]
    {
        let reply = daemon.raw(&without_host(head));
        assert!(reply.contains(" 403 ") && reply.contains("/healthz"), "{head}: {reply}");
    }
    let (status, body) = daemon.http("GET /healthz", &["Host: evil.example"], "");
    assert!(status == 403 && body.contains("[listen] allowed_hosts"), "{body}");
}

#[test]
fn an_upgrade_may_have_list_headers_in_several_lines() {
    let daemon = Daemon::with(&[("WSHUBD_AUTH__ANONYMOUS", "true")]);
    let rest = UPGRADE.replace("Connection: Upgrade\r\n", "").replace("Upgrade: websocket\r\n", "");
    let asks = |path: &str, lines: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{lines}\r\n{rest}\r\n");
        status(&daemon, request.as_bytes())
    };
    for lines in [
        "Connection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket",
        "Connection: Upgrade\r\nConnection: keep-alive\r\nUpgrade: WebSocket",
        "Connection: keep-alive,\tupgrade\r\nUpgrade: h2c, websocket",
        "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket",
        "Connection: ,Upgrade ,\r\nUpgrade: websocket,",
    ] {
        assert_eq!(asks("/ws", lines), "101", "{lines}");
    }
    for lines in [
        "Connection: keep-alive\r\nUpgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: h2c",
        "Connection: \"Upgrade\"\r\nUpgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: websockets",
        "Upgrade: websocket",
    ] {
        assert_eq!(asks("/ws", lines), "426", "{lines}");
    }
    let usual = "Connection: Upgrade\r\nUpgrade: websocket";
    for path in ["/ws/", "//ws", "/api//v1/ws//", "/ws/?inbox=off"] {
        assert_eq!(asks(path, usual), "101", "{path}");
    }
    assert_eq!(asks("/ws/x", usual), "404");
    assert_eq!(asks("/w/s", usual), "404");
}
