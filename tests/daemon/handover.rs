//! Hand-over to the next program in the same process, unnoticed by every connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::frame::Frame;
use async_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use wshubd::features::STORE;

use crate::harness::{Client, Daemon, PATIENCE, Worker, directory};

impl Daemon {
    /// Has the daemon go on in another program, and waits until it does.
    pub(crate) fn hand_over(&mut self) -> String {
        self.signal(Signal::USR2);
        self.expect_log_line("took over")
    }
}

impl Client {
    /// Sends bytes that may be anything.
    fn write(&mut self, bytes: &[u8]) {
        self.socket.get_mut().write_all(bytes).unwrap();
    }

    /// Answers with `pong`: the daemon has read all that was sent before.
    fn is_heard(&mut self) {
        self.send(json!({"action": "ping", "id": "heard"}));
        loop {
            let frame = self.receive();
            if frame["id"] == "heard" {
                return assert_eq!(frame["type"], "pong", "{frame}");
            }
        }
    }
}

impl Worker {
    pub(crate) fn ok(&mut self, line: Value) {
        self.send(line);
        assert_eq!(self.receive()["type"], "ok");
    }
}

/// Room for all that a test does not read.
const ROOM: (&str, &str) = ("WSHUBD_LIMITS__QUEUE_BYTES", "16MiB");

/// One masked frame of a client.
fn frame(text: &str, opcode: Data, is_final: bool) -> Vec<u8> {
    let mut frame = Frame::message(text.to_owned(), OpCode::Data(opcode), is_final);
    frame.header_mut().mask = Some([1, 2, 3, 4]);
    let mut bytes = Vec::new();
    frame.format(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_client_and_a_worker_stay_connected() {
    let mut daemon = Daemon::start();
    let (mut ada, mut worker) = (daemon.client("ada"), daemon.worker());
    ada.subscribe("news");
    let (pid, silent) = (daemon.pid(), TcpStream::connect(daemon.address).unwrap());

    let reply = daemon.hand_over();

    assert!(reply.contains("took over 2 connections"), "{reply}");
    assert_eq!(daemon.pid(), pid);
    worker.ok(json!({"channel": "news", "event": "tick", "data": 1, "id": 1}));
    assert_eq!(ada.expect_type("message")["data"], 1);
    ada.is_heard();
    ada.send(json!({"action": "send", "channel": "news", "event": "tock", "id": 2}));
    while ada.receive()["type"] != "send_success" {}
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200, "the door is the same");
    let mut later = daemon.client("ben");
    later.is_heard();
    daemon.worker().ok(json!({"action": "subscribe", "channel": "news", "id": 1}));
    let mut guest = silent;
    guest.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    guest.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "who stood in the door still does: {answer}");
}

#[test]
fn partial_frames_messages_and_lines_are_finished_after_it() {
    let mut daemon = Daemon::start();
    let (mut ada, mut ben, mut worker) = (daemon.client("ada"), daemon.client("ben"), daemon.worker());
    let whole = frame(r#"{"action":"ping","id":"one"}"#, Data::Text, true);
    for cut in [1, 3, whole.len() - 1] {
        ada.write(&whole[..cut]);
        ben.write(&frame(r#"{"action":"#, Data::Text, false));
        ben.write(&frame(r#""ping","#, Data::Continue, false)[..7]);
        worker.write(r#"{"action":"stats","#);
        daemon.hand_over();
        ada.write(&whole[cut..]);
        assert_eq!(ada.expect_type("pong")["id"], "one");
        ben.write(&frame(r#""ping","#, Data::Continue, false)[7..]);
        // A control frame may stand in between.
        ben.socket.send(Message::Ping(b"still there".to_vec().into())).unwrap();
        assert_eq!(ben.socket.read().unwrap(), Message::Pong(b"still there".to_vec().into()));
        daemon.hand_over();
        ben.write(&frame(r#""id":"two"}"#, Data::Continue, true));
        assert_eq!(ben.expect_type("pong")["id"], "two");
        worker.write("\"id\":3}\n");
        assert_eq!(worker.receive()["id"], 3);
    }
}

#[test]
fn a_line_over_the_limit_is_skipped_across_both_processes() {
    let mut daemon = Daemon::start();
    let mut worker = daemon.worker();
    worker.write(&"x".repeat(2 << 20));
    assert_eq!(worker.receive()["code"], "too_large");
    daemon.hand_over();
    worker.write("the rest of it\n{\"action\":\"stats\",\"id\":4}\n");
    assert_eq!(worker.receive()["id"], 4);
}

#[test]
fn unread_messages_come_whole_and_in_order_before_new_ones() {
    let mut daemon = Daemon::with(&[ROOM]);
    let (mut slow, mut worker) = (daemon.client("slow"), daemon.worker());
    slow.subscribe("flood");
    let data = "x".repeat(16 << 10);
    let send = |worker: &mut Worker, n: u64| {
        worker.ok(json!({"channel": "flood", "event": "line", "data": [n, data], "id": n}));
    };
    // More than the kernel takes.
    for n in 0..200 {
        send(&mut worker, n);
    }
    daemon.hand_over();
    for n in 200..210 {
        send(&mut worker, n);
    }
    daemon.hand_over();
    for n in 0..210 {
        let message = slow.expect_type("message");
        assert_eq!(message["data"][0], n, "{}", message["seq"]);
    }
    slow.is_heard();
}

#[test]
fn an_operation_goes_on_and_its_interrupt_overtakes_messages() {
    let mut daemon = Daemon::with(&[ROOM]);
    let (mut ada, mut owner, mut other) = (daemon.client("ada"), daemon.worker(), daemon.worker());
    ada.subscribe("jobs");
    for operation in ["one", "two"] {
        owner.ok(json!({"action": "operation_start", "operation_id": operation, "channel": "jobs", "user_id": "ada", "id": 1}));
        assert_eq!(ada.expect_type("operation")["state"], "started");
    }
    owner.ok(json!({"action": "subscribe", "channel": "noise", "id": 2}));
    let data = "x".repeat(16 << 10);
    for n in 0..200 {
        other.ok(json!({"channel": "noise", "event": "line", "data": [n, data], "id": n}));
    }
    // Pulled before, and after; and nobody asks twice.
    ada.send(json!({"action": "interrupt", "data": {"operation_id": "one"}, "id": 1}));
    while ada.receive()["type"] != "interrupt_result" {}
    daemon.hand_over();
    ada.send(json!({"action": "interrupt", "data": {"operation_id": "two"}, "id": 2}));
    while ada.receive()["type"] != "interrupt_result" {}

    let received: Vec<Value> = (0..202).map(|_| owner.receive()).collect();

    let at = |operation: &str| received.iter().position(|line| line["operation_id"] == operation).unwrap();
    assert!(at("one") < 150 && at("two") < 150, "{} {}", at("one"), at("two"));
    let noise = received.iter().filter(|line| line["type"] == "message").map(|line| line["data"][0].clone());
    assert!(noise.eq((0..200).map(Value::from)), "nothing is lost or moved");
    for operation in ["one", "two"] {
        owner.send(json!({"action": "operation_end", "operation_id": operation, "state": "interrupted"}));
        while ada.receive()["state"] != "ended" {}
    }
}

#[test]
fn ten_handovers_lose_double_and_reorder_nothing() {
    let mut daemon = Daemon::start();
    let (mut ada, mut talker) = (daemon.client("ada"), daemon.worker());
    ada.subscribe("talk");
    let talking = std::thread::spawn(move || {
        for n in 0..2000 {
            talker
                .ok(json!({"channel": "talk", "event": "word", "data": n, "id": n, "durable": STORE.is_built_in && n % 10 == 0}));
        }
    });
    for _ in 0..10 {
        daemon.hand_over();
    }
    for n in 0..2000 {
        let message = ada.expect_type("message");
        assert_eq!((&message["data"], &message["seq"]), (&json!(n), &json!(n + 1)));
    }
    talking.join().unwrap();
}

#[test]
fn inboxes_and_cursors_are_handed_over() {
    let mut daemon = Daemon::start();
    let token = daemon.token("ada");
    let mut worker = daemon.worker();
    worker.ok(json!({"user_id": "ada", "event": "mail", "data": "waits", "id": 1}));
    daemon.hand_over();
    let mut ada = daemon.client_at(&format!("/ws?inbox=ack&token={token}"));
    let epoch = ada.expect_type("connection_established")["inbox"]["epoch"].clone();
    let first = ada.expect_type("message");
    assert_eq!(first["data"], "waits");
    daemon.hand_over();
    worker.ok(json!({"user_id": "ada", "event": "mail", "data": "live", "id": 2}));
    let second = ada.expect_type("message");
    assert_eq!(second["data"], "live");
    ada.send(json!({"action": "ack", "seq": second["seq"], "epoch": epoch}));
    ada.is_heard();
    daemon.hand_over();
    drop(ada);
    let mut again = daemon.client_at(&format!("/ws?inbox=ack&token={token}"));
    again.expect_type("connection_established");
    again.send(json!({"action": "ping"}));
    again.expect_type("pong");
}

#[test]
fn signals_at_the_same_time_are_all_handled_and_a_stop_wins() {
    let mut daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    for _ in 0..5 {
        daemon.signal(Signal::USR2);
    }
    ada.is_heard();
    daemon.signal(Signal::USR2);
    daemon.stop();
    assert_eq!(ada.closed_with(), 4101);
    drop(ada);
    assert_eq!(daemon.ended().0, Some(0));
    assert!(!daemon.directory.join("wshubd/worker.sock").exists());
}

#[test]
fn the_lock_stays_taken_and_children_get_no_handover_state() {
    let mut daemon = Daemon::start();
    for _ in 0..3 {
        daemon.post("/broadcast", json!({"channel": "c", "event": "e", "durable": true}));
        daemon.hand_over();
    }
    let mut second = crate::harness::command(&daemon.directory).spawn().unwrap();
    let mut stderr = String::new();
    second.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    second.wait().unwrap();
    assert!(stderr.contains("already running"), "{stderr}");
    daemon.post("/broadcast", json!({"channel": "c", "event": "e", "durable": true}));
    let pid = daemon.pid().as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let children: Vec<&str> = children.split_whitespace().collect();
    for child in children {
        let variables = std::fs::read(format!("/proc/{child}/environ")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&variables).contains("WSHUB_HANDOVER"), "children are told nothing");
    }
}

#[test]
fn a_configuration_the_next_process_refuses_keeps_this_one() {
    let mut daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    let key = daemon.directory.join("wshubd/broadcast.secret");
    let secret = std::fs::read_to_string(&key).unwrap();
    std::fs::write(&key, "").unwrap();
    daemon.signal(Signal::USR2);
    let line = daemon.expect_log_line("nothing is handed over");
    assert!(line.contains("broadcast.secret"), "{line}");
    ada.is_heard();
    std::fs::write(&key, secret).unwrap();
    daemon.hand_over();
    ada.is_heard();
}

/// A daemon that finds a state which it cannot read, and the sockets of two links; up to
/// the line with `until`.
fn started_with(
    state: &[u8],
    variables: &[(&str, &str)],
    until: &str,
) -> (TcpStream, UnixStream, String, Child) {
    use std::os::fd::AsFd;
    let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(door.local_addr().unwrap()).unwrap();
    let theirs = door.accept().unwrap().0;
    let (worker, theirs_too) = UnixStream::pair().unwrap();
    let file = rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&file, state).unwrap();
    use rustix::fs::SealFlags as Seal;
    rustix::fs::fcntl_add_seals(&file, Seal::SEAL | Seal::SHRINK | Seal::GROW | Seal::WRITE).unwrap();
    use rustix::net::{AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SocketFlags, SocketType};
    let (into, pouch) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let links = [theirs.as_fd(), theirs_too.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&links)));
    let byte = rustix::io::IoSlice::new(b"+");
    rustix::net::sendmsg(&into, &[byte], &mut control, rustix::net::SendFlags::empty()).unwrap();
    drop((into, theirs, theirs_too));

    let directory = directory();
    let daemon = crate::harness::command(&directory);
    let mut shell = std::process::Command::new("/bin/sh");
    shell.env_clear().envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let script = "exec 3<&0 4>&1 </dev/null >/dev/null; WSHUB_HANDOVER=$$:3:4 exec \"$0\"";
    shell.envs(variables.iter().copied()).args(["-c", script]).arg(daemon.get_program());
    let mut child = shell.stdin(file).stdout(pouch).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut output = String::new();
    while !output.contains(until) {
        assert_ne!(std::io::BufRead::read_line(&mut log, &mut output).unwrap(), 0, "{output}");
    }
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    worker.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, worker, output, child)
}

#[test]
fn connections_of_an_unreadable_state_are_closed_to_reconnect() {
    let other_form = format!("{:<159}\n", "wshubd handover 99 0 0 2 0 0 0 0");
    for state in [other_form.as_bytes(), b"nothing of ours".as_slice()] {
        let (mut client, mut worker, output, mut daemon) = started_with(state, &[], "started");
        assert!(output.contains("cannot be used"), "{output}");
        are_told_to_come_back(&mut client, &mut worker);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }
}

fn are_told_to_come_back(client: &mut TcpStream, worker: &mut UnixStream) {
    let (mut frames, mut lines) = (Vec::new(), String::new());
    client.read_to_end(&mut frames).unwrap();
    worker.read_to_string(&mut lines).unwrap();
    let bye: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((&bye["type"], &bye["code"], &bye["reconnect"]), (&json!("bye"), &json!(4200), &json!(true)));
    // Two frames: that, and the close, whose code stands before its reason.
    let close = frames.split(|&byte| byte == 0x88).next_back().unwrap();
    assert_eq!(close[1..3], 4200_u16.to_be_bytes(), "{frames:?}");
    let frames = String::from_utf8_lossy(&frames).into_owned();
    assert!(frames.contains(r#""type":"bye""#) && frames.contains("4200"), "{frames}");
}

#[test]
fn a_next_daemon_that_cannot_start_closes_to_reconnect() {
    let state = format!("{:<159}\n", "wshubd handover 99 0 0 2 0 0 0 0");
    let mistakes = [
        // Found before anything else is, when the state directory is looked at, when a key is made there, and
        // when listeners open.
        (("WSHUBD_LIMITS__BURST", "many"), 78),
        (("WSHUBD_STATE__DIRECTORY", "/proc/nowhere"), 73),
        (("WSHUBD_STATE__DIRECTORY", "/proc"), 73),
        (("WSHUBD_LISTEN__WORKER", "/proc/worker.sock"), 69),
    ];
    for ((name, value), code) in mistakes {
        let (mut client, mut worker, output, mut daemon) =
            started_with(state.as_bytes(), &[(name, value)], value);
        are_told_to_come_back(&mut client, &mut worker);
        assert_eq!(daemon.wait().unwrap().code(), Some(code), "{output}");
    }
}

#[cfg(feature = "store")]
#[test]
fn a_killed_daemon_hands_nothing_over_and_the_next_logs_it() {
    let mut daemon = Daemon::start();
    daemon.post("/broadcast", json!({"channel": "c", "event": "e"}));
    daemon.kill();
    daemon.ended();
    let mut again = crate::harness::command(&daemon.directory).spawn().unwrap();
    let mut log = std::io::BufReader::new(again.stderr.take().unwrap());
    let mut output = String::new();
    while !output.contains("started") {
        assert_ne!(std::io::BufRead::read_line(&mut log, &mut output).unwrap(), 0, "{output}");
    }
    again.kill().unwrap();
    again.wait().unwrap();
    assert!(output.contains("handed nothing over"), "{output}");
}

/// A configuration that listens there, and keeps a history.
fn listens_at(address: &str) -> String {
    format!("[listen]\nhttp = [{address:?}]\n[[channel]]\nmatch = \"h\"\nkeep = \"history\"\n")
}

/// A port of all addresses that nobody has. Those that the kernel gives out are others, so
/// that it stays free until it is asked for.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * 16;
    let mut ports = std::iter::repeat_with(|| {
        let next = first + NEXT.fetch_add(1, Ordering::Relaxed);
        10_000 + (next % 20_000) as u16
    });
    ports.find(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok()).unwrap()
}

/// The state that a new client finds: the epoch of the history, its last position, and
/// all that it holds; and what waits in the inbox.
fn found(daemon: &Daemon) -> (Value, Value, Vec<Value>, Value) {
    let mut ada = daemon.client_at(&format!("/ws?inbox=ack&token={}", daemon.token("ada")));
    let inbox = ada.expect_type("connection_established")["inbox"].clone();
    ada.send(json!({"action": "subscribe", "channel": "h", "since": {"epoch": "", "seq": 0}, "id": "h"}));
    let mut messages = Vec::new();
    let subscribed = loop {
        let frame = ada.receive();
        if frame["type"] == "subscription_succeeded" {
            break frame;
        }
    };
    while messages.len() < 3 {
        let frame = ada.receive();
        if frame["type"] == "message" && frame["channel"] == "h" {
            messages.push(frame["data"].clone());
        }
    }
    (subscribed["epoch"].clone(), subscribed["seq"].clone(), messages, inbox)
}

/// Three messages of a history that no disk has yet, and an undelivered one.
fn keeps_something(daemon: &Daemon) {
    let mut worker = daemon.worker();
    for n in 0..3 {
        worker.ok(json!({"channel": "h", "event": "e", "data": n, "id": n}));
    }
    worker.ok(json!({"user_id": "ada", "event": "mail", "data": "waits", "message_id": "m", "id": 3}));
}

#[test]
fn an_occupied_port_refuses_the_handover_and_loses_nothing() {
    let mut daemon = Daemon::by_file(&listens_at("127.0.0.1:0"));
    keeps_something(&daemon);
    let before = found(&daemon);
    let mut ben = daemon.client("ben");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    daemon.write("wshubd.toml", &listens_at(&address));
    daemon.signal(Signal::USR2);
    let line = daemon.expect_log_line("nothing is handed over");
    assert!(line.contains(&format!("cannot listen on {address}")), "{line}");
    ben.is_heard();
    assert_eq!(found(&daemon), before);
    // The worker socket is looked at too.
    let taken = daemon.directory.join("wshubd.toml");
    let elsewhere = format!("[listen]\nworker = {taken:?}\n");
    daemon.write("wshubd.toml", &listens_at("127.0.0.1:0").replace("[listen]\n", &elsewhere));
    daemon.signal(Signal::USR2);
    let line = daemon.expect_log_line("nothing is handed over");
    assert!(line.contains("is something else, and is to be the worker socket"), "{line}");
    ben.is_heard();
}

#[test]
fn a_new_address_opens_before_and_an_old_one_closes_after() {
    let port = free_port();
    let mut daemon = Daemon::by_file(&listens_at(&format!("127.0.0.1:{port}")));
    let mut ben = daemon.client("ben");
    // What is to be closed is in the way of what is to be opened.
    daemon.write("wshubd.toml", &listens_at(&format!("0.0.0.0:{port}")));
    daemon.hand_over();
    ben.is_heard();
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
    let other = free_port();
    daemon.write("wshubd.toml", &listens_at(&format!("127.0.0.1:{other}")));
    daemon.hand_over();
    ben.is_heard();
    assert!(TcpStream::connect(daemon.address).is_err(), "nobody listens there any more");
    daemon.address.set_port(other);
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
}

#[cfg(feature = "store")]
#[test]
fn a_next_program_that_fails_leaves_everything_on_the_disk() {
    let port = free_port();
    let mut daemon = Daemon::by_file(&listens_at(&format!("127.0.0.1:{port}")));
    keeps_something(&daemon);
    let before = found(&daemon);
    let mut ben = daemon.client("ben");
    // All addresses are asked for. The daemon's own is in the way, so it cannot be known
    // before that another one is as well.
    let taken = std::net::TcpListener::bind(("127.0.0.2", port)).unwrap();
    daemon.write("wshubd.toml", &listens_at(&format!("0.0.0.0:{port}")));
    daemon.signal(Signal::USR2);
    while ben.receive()["type"] != "bye" {}
    assert_eq!(ben.closed_with(), 4200);
    drop(ben);
    let (code, log) = daemon.ended();
    assert_eq!(code, Some(69), "{log}");
    assert!(log.contains("what was handed over is in "), "{log}");
    assert!(!daemon.directory.join("wshubd/worker.sock").exists());
    drop(taken);
    daemon.start_by_file();
    assert_eq!(found(&daemon), before);
    daemon
        .worker()
        .ok(json!({"user_id": "ada", "event": "mail", "data": "waits", "message_id": "m", "id": 3}));
    assert_eq!(found(&daemon), before, "its id is known");
}

#[cfg(feature = "store")]
#[test]
fn options_that_a_reload_refuses_also_refuse_a_handover() {
    let state = directory();
    let text = |state: &str| format!("[state]\n{state}{}", listens_at("127.0.0.1:0"));
    let here = format!("directory = {:?}\n", state.join("state"));
    let other = format!("directory = {:?}\n", state.join("other"));
    let mut daemon = Daemon::by_file(&text(&here).replace("[listen]\n", "[listen]\npaths = [\"/ws\"]\n"));
    keeps_something(&daemon);
    let before = found(&daemon);
    let (mut ben, mut worker) = (daemon.client("ben"), daemon.worker());
    let cannot = "cannot change while wshubd runs, from ";
    for (written, expected) in [
        (text(&other), format!("wshubd.toml:2: `state.directory` {cannot}")),
        (text(&format!("{here}store = \"memory\"\n")), format!("wshubd.toml:3: `state.store` {cannot}")),
        (text(""), format!("wshubd.toml: `state.directory` is not set any more, and {cannot}")),
        // An option that only the next program may know is judged by that one.
        (text(&format!("{other}newer = 1\n")), format!("wshubd.toml:2: `state.directory` {cannot}")),
    ] {
        daemon.write("wshubd.toml", &written);
        daemon.signal(Signal::USR2);
        let line = daemon.logged();
        assert!(line.contains("SIGUSR2: nothing is handed over: "), "{line}");
        assert!(line.contains(&expected) && line.ends_with(": restart it\n"), "{line}");
        ben.is_heard();
        worker.ok(json!({"action": "ping", "id": 1}));
    }
    assert!(!state.join("other").exists());
    // In the place of a file, what can be read once: the next program would find nothing.
    let file = daemon.directory.join("wshubd.toml");
    std::fs::remove_file(&file).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RWXU).unwrap();
    daemon.signal(Signal::USR2);
    let line = daemon.logged();
    assert!(line.contains("wshubd.toml: is not a file, and can be read only once"), "{line}");
    ben.is_heard();
    std::fs::remove_file(&file).unwrap();
    daemon.write("wshubd.toml", &text(&here));
    daemon.hand_over();
    ben.is_heard();
    assert_eq!(found(&daemon), before);
    crate::harness::remove(&state);
}

#[cfg(feature = "store")]
#[test]
fn durable_messages_are_refused_after_it_while_the_disk_fails() {
    let directory = directory();
    std::fs::create_dir(directory.join("wshubd")).unwrap();
    std::fs::set_permissions(directory.join("wshubd"), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    // In the place of a directory.
    std::fs::write(directory.join("wshubd/store"), "").unwrap();
    let mut daemon = Daemon::in_directory(directory);
    let mut worker = daemon.worker();
    let failed = |worker: &mut Worker| {
        worker.send(json!({"action": "stats", "id": 1}));
        worker.receive()["store_failed"].clone()
    };
    assert_eq!(failed(&mut worker), 1);
    daemon.hand_over();
    assert_eq!(failed(&mut worker), 1, "nobody waits for such a disk");
    worker.send(json!({"user_id": "ada", "event": "mail", "durable": true, "id": 2}));
    assert_eq!(worker.receive()["code"], "store_unavailable");
}

#[cfg(feature = "store")]
#[test]
fn a_restart_onto_an_occupied_port_is_a_clean_stop() {
    let mut daemon = Daemon::by_file(&listens_at("127.0.0.1:0"));
    keeps_something(&daemon);
    let before = found(&daemon);
    let mut ben = daemon.client("ben");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    daemon.write("wshubd.toml", &listens_at(&taken.local_addr().unwrap().to_string()));
    daemon.signal(Signal::USR1);
    daemon.signal(Signal::TERM);
    while ben.receive()["type"] != "bye" {}
    assert_eq!(ben.closed_with(), 4200);
    drop(ben);
    let (code, log) = daemon.ended();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("the next process would not start"), "{log}");
    daemon.write("wshubd.toml", &listens_at("127.0.0.1:0"));
    daemon.start_by_file();
    assert_eq!(found(&daemon), before);
}

#[test]
fn pipelined_worker_lines_are_published_by_the_next_program() {
    if !STORE.is_built_in {
        return;
    }
    const LINES: usize = 4000;
    let mut daemon = Daemon::with(&[("WSHUBD_STORE__BYTES", "512MiB"), ("WSHUBD_STORE__FLASH_BUDGET", "0")]);
    let mut hog = daemon.worker();
    let mut writer = hog.writer();
    let writer = std::thread::spawn(move || {
        for n in 0..LINES {
            let line = json!({"user_id": format!("hog{}", n % 50), "event": "e", "durable": true, "id": n});
            writer.write_all(format!("{line}\n").as_bytes()).unwrap();
        }
    });
    let mut answered = vec![0; LINES];
    for received in 0..LINES {
        let answer = hog.receive();
        assert_eq!(answer["stored"], true, "{answer}");
        answered[answer["id"].as_u64().unwrap() as usize] += 1;
        if received == 500 {
            daemon.hand_over();
        }
    }
    writer.join().unwrap();
    assert_eq!(answered, [1; LINES]);
}
