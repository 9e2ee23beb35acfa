//! Waits of wshubctl for a hub: their limit, and the line about a long one.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use serde_json::{Value, json};

use crate::fake_hub::{HubSocket, Peer, end, program, stderr, stdout};

/// All commands but `run`, which has waits of its own.
const COMMANDS: [&[&str]; 16] = [
    &["pub", "logs", "x"],
    &["pub", "logs"],
    &["pub", "logs", "-"],
    &["sub", "logs"],
    &["interrupt", "op"],
    &["operations"],
    &["status"],
    &["channels"],
    &["connections"],
    &["inbox"],
    &["disconnect", "c"],
    &["purge", "logs"],
    &["reload"],
    &["token", "new", "--user", "ada"],
    &["token", "check", "-"],
    &["token", "check", "a.b.c"],
];

/// Starts a command, with a line for those that read one and the end of their input.
fn start(socket: &Path, wait: &[&str], words: &[&str]) -> Child {
    let mut command = program();
    command.arg("--socket").arg(socket).args(wait).args(words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that has failed already reads nothing.
    let _ = child.stdin.take().unwrap().write_all(b"a.b.c\n");
    child
}

/// Runs all commands beside each other; each must exit so, and say all this.
fn all_exit(socket: &Path, wait: &[&str], code: i32, said: &[&str]) {
    let children = COMMANDS.map(|words| start(socket, wait, words));
    for (words, child) in COMMANDS.iter().zip(children) {
        let output = end(child);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", stderr(&output));
        for part in said {
            assert!(stderr(&output).contains(part), "{words:?}: {} has no {part}", stderr(&output));
        }
        assert_eq!(stdout(&output), "", "{words:?}");
    }
}

/// More than the limit of a story that must not end by it.
const LONGER: &str = "1500ms";

/// Lets so much time pass, as wshubctl itself counts it: it waits for a hub that never
/// answers.
fn pass(time: &str) {
    let hub_socket = HubSocket::new();
    assert_eq!(end(start(&hub_socket.path(), &["--wait", time], &["status"])).status.code(), Some(5));
}

fn pong(peer: &mut Peer) {
    let request = peer.expect_line(json!({"action": "stats"}));
    peer.send(json!({"type": "stats", "id": request["id"], "workers": 1}));
}

#[test]
fn an_absent_hub_is_waited_for_only_with_the_option() {
    let hub_socket = HubSocket::new();
    let nowhere = hub_socket.file("nowhere.sock");
    let nobody = hub_socket.file("stale.sock");
    drop(UnixListener::bind(&nobody).unwrap());
    for path in [nowhere, nobody] {
        let path_told = path.to_string_lossy().into_owned();
        all_exit(&path, &[], 3, &[&path_told, "is wshubd running?", "`--wait 30s` waits for it"]);
        all_exit(&path, &["--wait", "50ms"], 3, &[&path_told, "is wshubd running?", "waited 50ms"]);
    }
}

#[test]
fn a_silent_hub_is_given_up() {
    let hub_socket = HubSocket::new();
    let path = hub_socket.path().to_string_lossy().into_owned();
    let said = ["no answer from wshubd at ", &path, " within 100ms", "systemctl status wshubd"];
    all_exit(&hub_socket.path(), &["--wait", "0.1"], 5, &said);
}

/// The real daemon, which a story may stop.
struct Daemon {
    child: Child,
    directory: PathBuf,
}

impl Daemon {
    fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("wshubctl-{}-daemon", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_wshubd"));
        command.env_clear().env("XDG_STATE_HOME", &directory).env("XDG_RUNTIME_DIR", &directory);
        command.env("WSHUBD_LISTEN__HTTP", r#"["127.0.0.1:0"]"#).env("WSHUBD_STATE__STORE", "memory");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: command.spawn().unwrap(), directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("wshubd/worker.sock")
    }

    /// Stops it as Ctrl-Z would, and waits until it is.
    fn freeze(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
    }

    fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

#[test]
fn a_daemon_that_comes_is_waited_for_and_a_stopped_one_given_up() {
    let daemon = Daemon::start();
    let first = end(start(&daemon.path(), &["--wait", "30s"], &["status"]));
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    daemon.freeze();
    all_exit(&daemon.path(), &["--wait", "200ms"], 5, &["no answer from wshubd"]);
    daemon.thaw();
    let last = end(start(&daemon.path(), &["--wait", "30s"], &["status"]));
    assert_eq!(last.status.code(), Some(0), "{}", stderr(&last));
}

/// A socket with so short a queue that it takes no connection more.
fn full(path: &Path) -> (UnixListener, Vec<UnixStream>) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let open = || socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
    let address = SocketAddrUnix::new(path).unwrap();
    let listener = open();
    bind(&listener, &address).unwrap();
    listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = open();
        match connect(&socket, &address) {
            Ok(()) => waiting.push(UnixStream::from(socket)),
            Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => panic!("{error}"),
        }
    }
    (UnixListener::from(listener), waiting)
}

#[test]
fn a_full_queue_of_connections_is_given_up() {
    let hub_socket = HubSocket::new();
    let path = hub_socket.file("full.sock");
    let _full = full(&path);
    all_exit(
        &path,
        &["--wait", "100ms"],
        3,
        &["too many connections wait for wshubd already", "waited 100ms"],
    );
}

#[test]
fn a_full_queue_of_connections_is_waited_for_until_it_moves() {
    let hub_socket = HubSocket::new();
    let path = hub_socket.file("full.sock");
    let (listener, waiting) = full(&path);
    let mut child = start(&path, &[], &["status"]);
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = said.next().unwrap().unwrap();
    assert!(
        line.contains("waiting for wshubd at ") && line.contains("to accept a connection (since 2 s)"),
        "{line}"
    );
    listener.set_nonblocking(false).unwrap();
    for _ in waiting {
        listener.accept().unwrap();
    }
    let mut peer = Peer::of(listener.accept().unwrap().0);
    pong(&mut peer);
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn a_long_wait_is_reported_once_and_the_answer_is_accepted() {
    let places = COMMANDS.map(|words| (HubSocket::new(), words));
    let children =
        places.each_ref().map(|(hub_socket, words)| start(&hub_socket.path(), &["--wait", "0"], words));
    for ((hub_socket, words), mut child) in places.iter().zip(children) {
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = said.next().unwrap().unwrap();
        let path = hub_socket.path().to_string_lossy().into_owned();
        assert!(
            line.contains(&format!("waiting for wshubd at {path} to answer (since 2 s)")),
            "{words:?}: {line}"
        );
        assert!(line.contains("`systemctl status wshubd`"), "{words:?}: {line}");
        let mut peer = hub_socket.accept();
        let request = peer.receive();
        peer.refuse(&request, "bad_request", "but it came");
        assert_eq!(end(child).status.code(), Some(1), "{words:?}");
        let rest: Vec<_> = said.map(Result::unwrap).collect();
        assert!(matches!(&*rest, [line] if line.contains("but it came")), "{words:?}: {rest:?}");
    }
}

#[test]
fn a_socket_that_comes_later_is_used_when_it_is_there() {
    let hub_socket = HubSocket::new();
    let paths: Vec<_> =
        (0..COMMANDS.len()).map(|number| hub_socket.file(&format!("{number}.sock"))).collect();
    let start = |(words, path): (&&[&str], &PathBuf)| start(path, &["--wait", "0"], words);
    let children: Vec<_> = COMMANDS.iter().zip(&paths).map(start).collect();
    for ((words, path), mut child) in COMMANDS.iter().zip(&paths).zip(children) {
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = said.next().unwrap().unwrap();
        assert!(line.contains("to accept a connection (since 2 s)"), "{words:?}: {line}");
        // As a crash leaves it, and then a daemon that starts.
        drop(UnixListener::bind(path).unwrap());
        fs::remove_file(path).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        let mut peer = Peer::of(listener.accept().unwrap().0);
        let request = peer.receive();
        peer.refuse(&request, "bad_request", "but it came");
        assert_eq!(end(child).status.code(), Some(1), "{words:?}");
        assert!(said.next().unwrap().unwrap().contains("but it came"), "{words:?}");
    }
}

#[test]
fn a_stalled_socket_ends_the_command_with_counted_lines() {
    let hub_socket = HubSocket::new();
    let mut command = program();
    command.arg("--socket").arg(hub_socket.path()).args(["--wait", "200ms", "pub", "logs"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _deaf = hub_socket.accept();
    let mut input = child.stdin.take().unwrap();
    // Three times what waits for a hub.
    let lines = std::thread::spawn(move || {
        let line = format!("{}\n", "x".repeat(300 << 10));
        while input.write_all(line.as_bytes()).is_ok() {}
    });
    let output = end(child);
    lines.join().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let said = stderr(&output);
    assert!(said.contains("no answer") && said.contains("wshubd accepted 0 messages; "), "{said}");
    assert!(said.contains(" have no answer and may or may not have been accepted"), "{said}");
}

#[test]
fn pub_without_answers_is_given_up_though_its_input_is_open() {
    let hub_socket = HubSocket::new();
    let (mut child, mut peer) = hub_socket.start_connected(["--wait", "1s", "pub", "logs"]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"a\nb\n").unwrap();
    let first = peer.receive();
    peer.receive();
    peer.grant(&first, json!({}));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let said = stderr(&output);
    assert!(said.contains("within 1s"), "{said}");
    assert!(
        said.ends_with("wshubd accepted 1 message; 1 has no answer and may or may not have been accepted\n"),
        "{said}"
    );
    drop(input);
}

#[test]
fn an_answer_that_overtakes_others_is_a_sign_of_life() {
    let hub_socket = HubSocket::new();
    let (mut child, mut peer) = hub_socket.start_connected(["--wait", "2500ms", "pub", "--durable", "logs"]);
    child.stdin.take().unwrap().write_all(b"a\nb\nc\n").unwrap();
    let [first, second, third] = [(); 3].map(|()| peer.receive());
    pass("1s");
    peer.grant(&second, json!({}));
    pass("1s");
    // Later than the limit, had the second been nothing.
    peer.grant(&third, json!({}));
    pass("1s");
    peer.grant(&first, json!({}));
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn waiting_for_input_is_not_limited() {
    let hub_socket = HubSocket::new();
    let (mut child, mut peer) = hub_socket.start_connected(["--wait", "1s", "pub", "logs"]);
    let mut input = child.stdin.take().unwrap();
    for (line, before) in [("a\n", "1ms"), ("b\n", LONGER)] {
        pass(before);
        input.write_all(line.as_bytes()).unwrap();
        let request = peer.receive();
        peer.grant(&request, json!({}));
    }
    drop(input);
    let output = end(child);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn waiting_for_messages_is_not_limited() {
    let hub_socket = HubSocket::new();
    let (child, mut peer) = hub_socket.start_connected(["--wait", "1s", "sub", "-n", "1", "logs"]);
    let request = peer.expect_line(json!({"action": "subscribe"}));
    peer.grant(&request, json!({"channel": "logs", "epoch": "e", "seq": 0}));
    pass(LONGER);
    peer.send(json!({"type": "message", "channel": "logs", "event": "e", "data": 1}));
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn waiting_for_a_person_who_reads_is_not_limited() {
    let hub_socket = HubSocket::new();
    let (child, mut peer) =
        hub_socket.start_connected(["--wait", "1s", "pub", "--to", "ada", "--wait-read", "x"]);
    let request = peer.receive();
    peer.grant(&request, json!({"kept": true, "message_id": "m"}));
    pass(LONGER);
    let receipt = json!({"message_id": "m", "user_id": "ada", "state": "read"});
    let fields: Value = json!({"type": "message", "event": "system:receipt", "from": "hub", "data": receipt,
        "message_id": "r", "timestamp": "2026-03-01T12:00:00.000Z"});
    peer.send(fields);
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn a_pending_interrupt_is_waited_for_beyond_the_limit() {
    let hub_socket = HubSocket::new();
    let (child, mut peer) = hub_socket.start_connected(["--wait", "1s", "interrupt", "op"]);
    let request = peer.receive();
    peer.grant(&request, json!({"operation_id": "op", "outcome": "pending"}));
    pass(LONGER);
    peer.grant(&request, json!({"operation_id": "op", "outcome": "delivered"}));
    let output = end(child);
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), "delivered\n".to_owned()));
    assert_eq!(stderr(&output), "wshubctl: no worker has registered op yet; waiting\n");
}
