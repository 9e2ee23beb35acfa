//! Limits: peers that would cost all others something.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use async_tungstenite::tungstenite::Error;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use serde_json::{Value, json};
use wshubd::features::STORE;

use crate::harness::{Client, Daemon, Worker, number, resident, stats, wait_for};

/// The status of a refused upgrade, and when to come back.
fn refusal(daemon: &Daemon, path: &str) -> (u16, bool) {
    match daemon.try_client(path, &[]) {
        Err(Error::Http(reply)) => (reply.status().as_u16(), reply.headers().contains_key("retry-after")),
        Err(error) => panic!("{error}"),
        Ok(_) => (101, false),
    }
}

/// Sends part of a frame of 256 KiB, and no more.
fn send_half(client: &mut Client, bytes: usize) {
    let mut half = vec![0x81, 0xff, 0, 0, 0, 0, 0, 4, 0, 0, 1, 2, 3, 4];
    half.resize(bytes, b'x');
    client.socket.get_mut().write_all(&half).unwrap();
}

#[test]
fn peers_that_never_read_are_closed_before_memory_is_full() {
    const PEERS: usize = 100;
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__MEMORY", "2MiB"), ("WSHUBD_AUTH__ANONYMOUS", "true")]);
    let mut worker = daemon.worker();
    let mut healthy = daemon.client("ada");
    healthy.subscribe("logs");
    let mut crowd: Vec<(Client, Value)> = (0..PEERS)
        .map(|_| {
            let mut client = daemon.client_at("/ws");
            let id = client.expect_type("connection_established")["connection_id"].clone();
            (client, id)
        })
        .collect();
    let before = resident(&daemon);

    // Some 24 MB that nobody takes, were there room for all of it.
    let data = "x".repeat(240 << 10);
    for (_, id) in &crowd {
        worker.send(json!({"connection_id": id, "event": "flood", "data": data}));
    }
    worker.send(json!({"channel": "logs", "event": "line"}));
    worker.send(json!({"action": "ping"}));
    while worker.receive()["type"] != "pong" {}

    let after = stats(&mut worker);
    assert!(number(&after, "closed_overloaded") > 0, "{after}");
    assert!(number(&after, "memory_bytes") < 2 << 20, "{after}");
    let grown = resident(&daemon).saturating_sub(before);
    assert!(grown < 14 << 20, "{grown} bytes more: {after}");
    assert_eq!(healthy.expect_type("message")["event"], "line");
    healthy.send(json!({"action": "ping"}));
    healthy.expect_type("pong");
    crowd.clear();
    wait_for(&mut worker, |stats| number(stats, "memory_level") == 0);
    daemon.client("grace");
}

#[test]
fn the_largest_connection_is_closed_to_reconnect_later() {
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__MEMORY", "1MiB"), ("WSHUBD_LIMITS__MESSAGE_BYTES", "4MiB")]);
    let (mut ada, mut mallory) = (daemon.client("ada"), daemon.client("mallory"));
    let mut half = vec![0x81, 0xff, 0, 0, 0, 0, 0, 0x30, 0, 0, 1, 2, 3, 4];
    half.resize(2 << 20, b'x');
    mallory.socket.get_mut().write_all(&half).unwrap();

    let bye = mallory.expect_type("bye");
    assert_eq!((&bye["code"], &bye["reconnect"]), (&json!(4102), &json!(true)));
    assert!(bye["after_ms"].as_u64().unwrap() <= 5000);
    assert_eq!(mallory.closed_with(), 4102);
    ada.send(json!({"action": "ping"}));
    ada.expect_type("pong");
    let stats = stats(&mut daemon.worker());
    assert_eq!((&stats["closed_overloaded"], &stats["memory_level"]), (&json!(1), &json!(0)));
}

#[test]
fn memory_pressure_stops_newcomers_and_whispers_first() {
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__MEMORY", "4MiB"), ("WSHUBD_AUTH__ANONYMOUS", "true")]);
    let mut worker = daemon.worker();
    let mut ada = daemon.client("ada");
    ada.subscribe("room");
    // All come before memory is short.
    let mut others: Vec<Client> = (0..60).map(|_| daemon.client_at("/ws")).collect();
    let mut waiting = others.iter_mut();
    let mut fill_to = |worker: &mut Worker, level: u64| loop {
        let before = stats(worker);
        if number(&before, "memory_level") >= level {
            break;
        }
        send_half(waiting.next().expect("enough of them"), 100 << 10);
        let more = number(&before, "memory_bytes") + (100 << 10);
        wait_for(worker, |stats| {
            number(stats, "memory_level") >= level || number(stats, "memory_bytes") >= more
        });
    };

    fill_to(&mut worker, 1);
    assert_eq!(refusal(&daemon, "/ws"), (503, true));
    ada.send(json!({"action": "whisper", "channel": "room", "event": "typing"}));
    ada.send(json!({"action": "send", "channel": "room", "event": "say"}));
    assert_eq!(ada.expect_type("message")["event"], "say");
    ada.expect_type("send_success");
    let broadcast = json!({"channel": "room", "event": "news"});
    assert_eq!(daemon.post("/broadcast", broadcast.clone()).0, 200);

    fill_to(&mut worker, 2);
    let (status, answer) = daemon.post("/broadcast", broadcast);
    assert_eq!((status, &answer["code"]), (503, &json!("overloaded")));
    assert_eq!(daemon.post("/interrupt", json!({"operation_id": "x", "channel": "@"})).0, 403, "it is read");
    worker.send(json!({"channel": "room", "event": "log", "id": 1}));
    assert_eq!(worker.receive()["sent"], 1, "workers go on");

    drop(others);
    let after = wait_for(&mut worker, |stats| number(stats, "memory_level") == 0);
    assert_eq!((&after["connections_refused"], &after["closed_overloaded"]), (&json!(1), &json!(0)));
    assert_eq!(refusal(&daemon, "/ws").0, 101);
}

#[test]
fn wrong_secrets_get_429_while_the_right_one_passes() {
    let mut daemon = Daemon::start();
    let request = |close| {
        format!(
            "POST /broadcast HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\
             Connection: {close}\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let mut stream = TcpStream::connect(daemon.address).unwrap();
    let all = request("keep-alive").repeat(999) + &request("close");
    stream.write_all(all.as_bytes()).unwrap();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).unwrap();

    let count = |what: &str| replies.matches(what).count();
    let (refused, limited) = (count("HTTP/1.1 401"), count("HTTP/1.1 429"));
    assert_eq!((refused + limited, count("retry-after: ")), (1000, limited));
    let mut worker = daemon.worker();
    let paid_back = number(&stats(&mut worker), "uptime_seconds") as usize / 2;
    assert!((30..=30 + paid_back).contains(&refused), "{refused} were compared in vain");
    assert_eq!(daemon.post("/broadcast", json!({"channel": "a", "event": "e"})).0, 200);

    let after = stats(&mut worker);
    assert_eq!(after["wrong_secrets"], 1000);
    daemon.stop();
    let lines = daemon.ended().1.matches("WARN refused 127.0.0.1: ").count();
    let seconds = 2 + number(&after, "uptime_seconds") as usize;
    assert!((2..=2 * seconds).contains(&lines), "{lines} lines of two kinds");
    let refused = json!({"secret_wrong": refused, "too_many_refusals": limited});
    assert_eq!(after["refused"], refused);
}

#[test]
fn invalid_tokens_get_429_while_pages_get_their_reason() {
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__WRONG_TOKENS_PER_MINUTE", "1")]);
    let path = format!("/ws?token={}", daemon.token("ada"));
    assert_eq!(refusal(&daemon, "/ws?token=nonsense"), (401, false));
    assert_eq!(refusal(&daemon, "/ws?token=nonsense"), (429, true));
    assert_eq!(refusal(&daemon, &path).0, 101);
    let protocols = "wshub.v1, wshub.bearer.nonsense";
    let mut page = daemon.try_client("/ws", &[("Sec-WebSocket-Protocol", protocols)]).unwrap();
    page.expect_type("auth_failed");
    assert_eq!(page.closed_with(), 4001);
}

/// So many sockets at the clients' listener, one half silent, the other in the middle
/// of a request that never ends.
fn slow_ones(daemon: &Daemon, count: usize) -> Vec<TcpStream> {
    let slow_one = |n: usize| {
        let mut stream = TcpStream::connect(daemon.address).unwrap();
        if n.is_multiple_of(2) {
            // The daemon may have hung up already.
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: loc");
        }
        stream
    };
    (0..count).map(slow_one).collect()
}

#[test]
fn idle_sockets_lock_nobody_out() {
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__HTTP_CONNECTIONS", "50")]);
    let mut ada = daemon.client("ada");
    let crowd = slow_ones(&daemon, 400);
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
    daemon.client("grace");
    ada.send(json!({"action": "ping"}));
    ada.expect_type("pong");
    let mut worker = daemon.worker();
    wait_for(&mut worker, |stats| number(stats, "newcomers_dropped") >= 350);

    let mut first_silent = &crowd[1];
    first_silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut reply = String::new();
    first_silent.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 5"), "{head}");
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["code"], "overloaded");
    assert!(head.contains(&format!("content-length: {}", body.len())));
}

#[test]
fn unfinished_requests_do_not_cause_memory_pressure() {
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__MEMORY", "1MiB")]);
    let mut worker = daemon.worker();
    let _crowd = slow_ones(&daemon, 400);
    let after = wait_for(&mut worker, |stats| number(stats, "memory_bytes") > 400 * 64);
    assert_eq!((&after["memory_level"], &after["newcomers_dropped"]), (&json!(0), &json!(0)), "{after}");
    // Those who were answered are held longer, and take more.
    let _answered = asked(&daemon, 400, b"");
    let after = wait_for(&mut worker, |stats| number(stats, "newcomers_dropped") >= 350);
    assert_eq!(after["memory_level"], 0, "{after}");
    daemon.client("grace");
}

/// So many who have asked something, have their answer, and have said so much of the next
/// request.
fn asked(daemon: &Daemon, count: usize, next: &[u8]) -> Vec<TcpStream> {
    let ask = |_| {
        let mut stream = TcpStream::connect(daemon.address).unwrap();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let _ = stream.write_all(next);
        stream
    };
    (0..count).map(ask).collect()
}

#[test]
fn a_partial_head_takes_no_memory_and_kept_requests_are_counted() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    let half = [b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ", &[b'x'; 8000][..]].concat();
    let (before, resident_before) = (number(&stats(&mut worker), "memory_bytes"), resident(&daemon));
    let crowd: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = TcpStream::connect(daemon.address).unwrap();
            stream.write_all(&half).unwrap();
            stream
        })
        .collect();
    wait_for(&mut worker, |stats| number(stats, "memory_bytes") >= before + 300 * 64);
    assert!(resident(&daemon) < resident_before + (2 << 20), "it lies in the kernel");
    // The rest of a head makes a request of it.
    for mut stream in crowd {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"\r\nConnection: close\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    }
    let _crowd = asked(&daemon, 300, &half);
    wait_for(&mut worker, |stats| number(stats, "memory_bytes") >= before + 300 * (20 << 10));
}

#[test]
fn sockets_that_use_all_descriptors_lock_nobody_out() {
    let daemon = Daemon::start();
    let limit = Rlimit { current: Some(40), maximum: Some(40) };
    prlimit(Some(daemon.pid()), Resource::Nofile, limit).unwrap();
    let _crowd = slow_ones(&daemon, 200);
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
    daemon.client("ada");
}

#[test]
fn a_request_over_its_time_limit_is_closed() {
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__HANDSHAKE_TIMEOUT", "1s")]);
    let mut worker = daemon.worker();
    for mut stream in slow_ones(&daemon, 2) {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).expect("the daemon hangs up");
    }
    wait_for(&mut worker, |stats| number(stats, "newcomers_dropped") == 2);
}

#[test]
fn when_all_connections_are_taken_the_next_gets_503() {
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__CONNECTIONS", "2")]);
    let path = format!("/ws?token={}", daemon.token("ada"));
    let mut ada = daemon.client_at(&path);
    let mut worker = daemon.worker();
    assert_eq!(refusal(&daemon, &path), (503, true));
    assert_eq!(stats(&mut worker)["connections_refused"], 1);
    ada.expect_type("connection_established");
}

#[test]
fn a_line_over_the_limit_is_answered_and_the_next_is_read() {
    let daemon = Daemon::with(&[("WSHUBD_LIMITS__MESSAGE_BYTES", "1KiB")]);
    let mut worker = daemon.worker();
    worker.send(json!({"channel": "logs", "event": "log", "data": "x".repeat(2000)}));
    worker.send(json!({"channel": "logs", "event": "log", "id": 1}));
    assert_eq!(worker.receive()["code"], "too_large");
    assert_eq!(worker.receive()["type"], "ok");
    let mut ada = daemon.client("ada");
    ada.send(json!({"action": "ping", "more": "x".repeat(2000)}));
    assert_eq!(ada.closed_with(), 1009);
    wait_for(&mut worker, |stats| number(stats, "closed_malformed") == 1);
}

#[test]
fn an_unauthenticated_connection_may_send_little() {
    let daemon = Daemon::start();
    let (mut ada, mut stranger) = (daemon.client("ada"), daemon.client_at("/ws"));
    stranger.expect_type("auth_required");
    send_half(&mut stranger, 100 << 10);
    assert_eq!(stranger.closed_with(), 1009);
    send_half(&mut ada, 100 << 10);
    let after = wait_for(&mut daemon.worker(), |stats| number(stats, "memory_bytes") > 100 << 10);
    assert_eq!((&after["closed_malformed"], &after["total_connections"]), (&json!(1), &json!(1)));
}

#[test]
fn a_client_that_does_not_read_its_answers_is_paused() {
    let daemon =
        Daemon::with(&[("WSHUBD_LIMITS__QUEUE_BYTES", "16KiB"), ("WSHUBD_LIMITS__BURST", "1000000")]);
    let mut worker = daemon.worker();
    let mut ada = daemon.client("ada");
    ada.socket.get_ref().set_nonblocking(true).unwrap();
    let request = json!({"action": "ping", "id": "x".repeat(128)}).to_string();
    let mut sent = 0;
    // Written until nothing moves any more: the daemon has stopped reading.
    while let Ok(()) = ada.socket.send(request.clone().into()) {
        sent += 1;
        assert!(sent < 1_000_000, "the daemon reads without end");
    }
    let held = stats(&mut worker);
    assert!(number(&held, "memory_bytes") < 1 << 20, "{held}");
    ada.socket.get_ref().set_nonblocking(false).unwrap();
    for _ in 0..sent {
        ada.expect_type("pong");
    }
}

#[test]
fn the_descriptor_limit_is_raised_as_far_as_allowed() {
    let directory = crate::harness::directory();
    let daemon = crate::harness::command(&directory);
    let mut shell = std::process::Command::new("/bin/sh");
    shell.env_clear().envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.args(["-c", "ulimit -Sn 256; exec \"$0\""]).arg(daemon.get_program());
    let mut daemon = shell.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = std::io::BufReader::new(daemon.stderr.take().unwrap());
    let mut line = String::new();
    assert_ne!(std::io::BufRead::read_line(&mut log, &mut line).unwrap(), 0);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.id())).unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    crate::harness::remove(&directory);
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "{line}");
}

#[test]
fn connections_leave_descriptors_for_the_store_and_a_handover() {
    let mut daemon = Daemon::start();
    let limit = Rlimit { current: Some(128), maximum: Some(128) };
    prlimit(Some(daemon.pid()), Resource::Nofile, limit).unwrap();
    let mut worker = daemon.worker();
    let token = daemon.token("ada");
    let mut crowd = Vec::new();
    // Who is not let in any more waits in the kernel.
    while crowd.len() < 128 && left(&daemon) > 32 {
        crowd.push(daemon.client_at(&format!("/ws?token={token}")));
    }
    assert!(crowd.len() > 40, "{}", crowd.len());
    let _waiting = slow_ones(&daemon, 60);
    // Each question is a turn in which they might be let in.
    for _ in 0..200 {
        stats(&mut worker);
    }
    assert!(left(&daemon) >= 28, "{}", left(&daemon));
    let stored = STORE.is_built_in;
    worker.send(json!({"user_id": "ben", "event": "mail", "durable": stored, "id": 1}));
    let answer = worker.receive();
    assert_eq!((&answer["type"], &answer["stored"]), (&json!("ok"), &json!(stored)), "{answer}");
    daemon.signal(Signal::USR2);
    daemon.expect_log_line("took over");
    let mut last = crowd.pop().unwrap();
    last.expect_type("connection_established");
    last.send(json!({"action": "ping"}));
    last.expect_type("pong");
    // An administrator gets in all the same.
    stats(&mut daemon.worker());
}

/// How many of 128 descriptors are left. Others may have been inherited from this
/// process, and have higher numbers.
fn left(daemon: &Daemon) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid().as_raw_nonzero())).unwrap();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str().unwrap().parse::<usize>().unwrap();
    128 - open.map(|entry| number(entry.unwrap())).filter(|number| *number < 128).count()
}

#[test]
fn pipelined_durable_messages_are_throttled_not_refused() {
    if !STORE.is_built_in {
        return;
    }
    const LINES: usize = 6000;
    let daemon = Daemon::with(&[("WSHUBD_STORE__BYTES", "512MiB"), ("WSHUBD_STORE__FLASH_BUDGET", "0")]);
    let (mut hog, mut polite) = (daemon.worker(), daemon.worker());
    let polite_line = json!({"user_id": "polite", "event": "e", "durable": true, "id": 1});
    polite.send(polite_line.clone());
    assert_eq!(polite.receive()["stored"], true);
    let child = child_of(&daemon);
    // The disk takes nothing for a while.
    kill_process(child, Signal::STOP).unwrap();
    let mut writer = hog.writer();
    let writer = std::thread::spawn(move || {
        for n in 0..LINES {
            let line = json!({"user_id": format!("hog{}", n % 50), "event": "e", "durable": true, "id": n});
            writer.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    });
    let hears_the_hog = |stats: &Value| number(stats, "messages_received") > 200;
    let mut asker = daemon.worker();
    wait_for(&mut asker, hears_the_hog);
    // Each request is a turn, in which more would be read of the flooding peer than it may send.
    let last = (0..500).map(|_| stats(&mut asker)).last().unwrap();
    assert!(number(&last, "messages_received") < 300, "{last}");
    polite.send(polite_line);
    kill_process(child, Signal::CONT).unwrap();
    assert_eq!(polite.receive()["stored"], true);
    let received = (0..LINES).map(|_| hog.receive()).filter(|answer| answer["stored"] == true).count();
    writer.join().unwrap();
    assert_eq!(received, LINES);
    assert_eq!(number(&stats(&mut polite), "durable_refused"), 0);
}

/// The process that owns the disk.
fn child_of(daemon: &Daemon) -> Pid {
    let pid = daemon.pid().as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    Pid::from_raw(children.trim().parse().unwrap()).unwrap()
}
