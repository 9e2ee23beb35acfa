//! Start and stop of the program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::harness::{Daemon, PATIENCE, command};

#[test]
fn a_stop_sends_bye_and_exits_with_0() {
    let mut daemon = Daemon::start();
    let mut ada = daemon.client("ada");

    daemon.stop();

    let bye = ada.expect_type("bye");
    assert_eq!((bye["code"].as_u64(), bye["reconnect"].as_bool()), (Some(4101), Some(true)), "{bye}");
    assert_eq!(ada.closed_with(), 4101);
    drop(ada);
    let (code, log) = daemon.ended();
    assert_eq!(code, Some(0));
    assert_eq!(log.lines().count(), 1, "a healthy life is two lines: {log}");
    assert!(!daemon.directory.join("wshubd/worker.sock").exists());
}

#[test]
fn an_unfinished_body_at_a_stop_is_answered_with_503() {
    let daemon = Daemon::start();
    let mut stream = TcpStream::connect(daemon.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let headers =
        format!("Host: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 9", daemon.secret());
    write!(stream, "POST /broadcast HTTP/1.1\r\n{headers}\r\nExpect: 100-continue\r\n\r\n{{").unwrap();
    // It waits for the body once it has sent that.
    let mut goes_on = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut goes_on).unwrap();
    daemon.signal(Signal::TERM);
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    for words in ["HTTP/1.1 503", "connection: close", "retry-after: 5", "shutting_down"] {
        assert!(reply.contains(words), "{words}: {reply}");
    }
}

#[test]
fn a_signal_right_after_started_stops_the_daemon() {
    for _ in 0..10 {
        let mut daemon = Daemon::start();
        daemon.stop();
        let (code, log) = daemon.ended();
        assert_eq!(code, Some(0));
        assert!(log.contains("stopped by SIGTERM"), "{log}");
    }
}

#[test]
fn an_unknown_group_is_named_with_its_line() {
    let directory = crate::harness::directory();
    let file = directory.join("wshubd.toml");
    std::fs::write(&file, "[worker]\nadmins = [\"@no-such-group\"]\n").unwrap();
    for words in [&[][..], &["--check"]] {
        let mut daemon = command(&directory);
        let output = daemon.arg("--config").arg(&file).args(words).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{stderr}");
        assert!(
            stderr.contains("wshubd.toml:2: `worker.admins` names the group \"no-such-group\""),
            "{stderr}"
        );
    }
    crate::harness::remove(&directory);
}

#[test]
fn sighup_of_a_closed_terminal_stops_it() {
    let directory = crate::harness::directory();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let screen = openpt(flags).unwrap();
    unlockpt(&screen).unwrap();
    let end = ioctl_tiocgptpeer(&screen, flags).unwrap();
    let mut child = command(&directory).stderr(end).spawn().unwrap();
    let mut screen = BufReader::new(std::fs::File::from(screen));
    let mut line = String::new();
    while !line.contains("started: ") {
        line.clear();
        screen.read_line(&mut line).unwrap();
    }
    drop(screen);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    crate::harness::remove(&directory);
}

#[test]
fn a_second_daemon_reports_that_one_is_running() {
    let daemon = Daemon::start();

    let mut second = command(&daemon.directory).spawn().unwrap();
    let mut stderr = String::new();
    second.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();

    assert!(stderr.contains("already running"), "{stderr}");
    assert_eq!(second.wait().unwrap().code(), Some(69));
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
}

#[test]
fn a_socket_with_a_busy_listener_is_left_alone() {
    use socket2::{Domain, SockAddr, Socket, Type};
    for (kind, words) in [(Type::STREAM, "already running"), (Type::SEQPACKET, "another type")] {
        let directory = crate::harness::directory();
        let place = directory.join("wshubd");
        std::fs::DirBuilder::new().mode(0o700).create(&place).unwrap();
        let path = place.join("worker.sock");
        let address = SockAddr::unix(&path).unwrap();
        let listener = Socket::new(Domain::UNIX, kind, None).unwrap();
        listener.bind(&address).unwrap();
        listener.listen(0).unwrap();
        // So many wait that one more would have to wait for them.
        let mut queue = Vec::new();
        loop {
            let next = Socket::new(Domain::UNIX, kind, None).unwrap();
            next.set_nonblocking(true).unwrap();
            let connected = next.connect(&address);
            queue.push(next);
            if connected.is_err() {
                break;
            }
        }
        let mut daemon = command(&directory).spawn().unwrap();
        let mut lines = BufReader::new(daemon.stderr.take().unwrap());
        let mut output = String::new();
        while !output.contains("started") && lines.read_line(&mut output).unwrap() > 0 {}
        let is_up = output.contains("started");
        if is_up {
            daemon.kill().unwrap();
        }
        assert!(output.contains(words) && !is_up, "{output}");
        assert_eq!(daemon.wait().unwrap().code(), Some(69));
        assert!(path.exists(), "it is not ours to take away");
        crate::harness::remove(&directory);
    }
}

#[test]
fn other_files_at_the_worker_path_are_left_alone() {
    let directory = crate::harness::directory();
    let place = directory.join("wshubd");
    std::fs::DirBuilder::new().mode(0o700).create(&place).unwrap();
    let (path, dead, other) = (place.join("worker.sock"), directory.join("dead"), directory.join("other"));
    drop(UnixListener::bind(&dead).unwrap());
    std::fs::write(&other, "somebody's").unwrap();
    let says = |path: &Path, words: &str| {
        let output = command(&directory).env("WSHUBD_LISTEN__WORKER", path).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(69), "{stderr}");
        let opening = format!("cannot open the worker socket {}", path.display());
        assert!(stderr.contains(&opening) && stderr.contains(words), "{stderr}");
    };
    let else_there = "there is something else in its place";
    std::fs::write(&path, "somebody's").unwrap();
    says(&path, else_there);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "somebody's");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    says(&path, else_there);
    std::fs::remove_dir(&path).unwrap();
    for target in [&dead, &other, &directory, &directory.join("nowhere")] {
        symlink(target, &path).unwrap();
        says(&path, else_there);
        assert_eq!(std::fs::read_link(&path).unwrap(), *target);
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "somebody's");
    assert!(dead.exists());
    // sun_path has 108 bytes, the last of which is NUL.
    let long = |bytes: usize| place.join("x".repeat(bytes - place.as_os_str().len() - 1));
    let named = command(&directory).env("WSHUBD_LISTEN__WORKER", long(108)).output().unwrap();
    assert_eq!(named.status.code(), Some(78), "a mistake in the configuration");
    // The same where no option names it.
    let deep =
        directory.join("x".repeat(108 - "/wshubd/worker.sock".len() - directory.as_os_str().len() - 1));
    let unnamed = command(&directory).env("XDG_RUNTIME_DIR", &deep).output().unwrap();
    let stderr = String::from_utf8(unnamed.stderr).unwrap();
    assert_eq!(unnamed.status.code(), Some(69), "{stderr}");
    assert!(
        stderr.contains("the path has 108 bytes, and that of a socket may have 107 (`[listen] worker` sets"),
        "{stderr}"
    );
    let longest = long(107);
    let mut daemon = command(&directory).env("WSHUBD_LISTEN__WORKER", &longest).spawn().unwrap();
    let mut lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("started: ")));
    assert!(UnixStream::connect(&longest).is_ok());
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    crate::harness::remove(&directory);
}

#[test]
fn leftovers_of_a_killed_daemon_do_not_block_the_next_start() {
    let directory = crate::harness::directory();
    let state = directory.join("wshubd");
    std::fs::DirBuilder::new().mode(0o700).create(&state).unwrap();
    let held = std::fs::File::open(&state).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();

    let mut daemon = command(&directory).spawn().unwrap();
    let wants = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.and_then(|entry| std::fs::read_link(entry.path())).is_ok_and(|file| file == state)
    };
    while !std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().any(wants) {
        std::thread::yield_now();
    }
    drop(held);

    let mut lines = BufReader::new(daemon.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("started: ")));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    crate::harness::remove(&directory);
}

#[test]
fn a_configuration_mistake_names_its_line_and_exits_with_78() {
    let directory = crate::harness::directory();
    let file = directory.join("wshubd.toml");
    std::fs::write(&file, "[limits]\nburst = 5\nrequests_per_secnd = 3\n").unwrap();

    let output = Command::new(env!("CARGO_BIN_EXE_wshubd")).arg("--config").arg(&file).output().unwrap();

    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78));
    assert!(stderr.contains("wshubd.toml:3") && stderr.contains("requests_per_second"), "{stderr}");
    crate::harness::remove(&directory);
}

#[test]
fn keys_are_generated_once_and_readable_by_the_daemon_alone() {
    let daemon = Daemon::start();
    for name in ["jwt.key", "broadcast.secret"] {
        let path = daemon.directory.join("wshubd").join(name);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let state = daemon.directory.join("wshubd").metadata().unwrap();
    assert_eq!(state.permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_log_without_a_reader_stops_nothing() {
    let mut daemon = Daemon::start();
    daemon.close_log();
    let mut ada = daemon.client("ada");
    for _ in 0..5 {
        ada.send(serde_json::json!({"action": "dance"}));
    }
    assert_eq!(ada.closed_with(), 4009, "which is worth a line");
    assert_eq!(daemon.http("HEAD /healthz", &[], "").0, 200);
}

#[test]
fn a_full_log_stops_nothing() {
    let mut daemon = Daemon::start();
    // Nobody reads the pipe: what does not fit into it is dropped. Each worker that
    // leaves an operation behind is worth a line.
    let mut worker = daemon.worker();
    for n in 0..3000 {
        worker.send(serde_json::json!({"action": "operation_start", "operation_id": format!("op-{n}"), "channel": "jobs", "id": n}));
        worker.receive();
    }
    drop(worker);
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
    daemon.stop();
    let (code, log) = daemon.ended();
    assert_eq!(code, Some(0));
    assert!(log.lines().count() < 3000, "a pipe holds less than that");
}

#[test]
fn keys_and_secrets_exist_before_the_first_connection() {
    let directory = crate::harness::directory();
    // Free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut daemon = command(&directory).env("WSHUBD_LISTEN__HTTP", address.to_string()).spawn().unwrap();
    while TcpStream::connect(address).is_err() {
        assert_eq!(daemon.try_wait().unwrap(), None, "it has ended");
    }
    for file in ["jwt.key", "broadcast.secret"] {
        assert!(directory.join("wshubd").join(file).exists(), "{file}");
    }
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    crate::harness::remove(&directory);
}
