//! The interface to systemd: passed sockets, readiness, status, watchdog.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;
use wshubd::features::STORE;

use crate::harness::{Daemon, PATIENCE, by_file, command, directory};

/// A daemon that is started as systemd does it, with two descriptors of these names.
fn activated(directory: &Path, names: &str, http: &str, first: OwnedFd, second: OwnedFd) -> Child {
    let mut daemon = command(&directory.to_owned());
    daemon.env("WSHUBD_LISTEN__HTTP", format!("[{http:?}]"));
    activated_as(&daemon, names, first, second)
}

/// The same of a daemon with an environment of its own.
fn activated_as(daemon: &Command, names: &str, first: OwnedFd, second: OwnedFd) -> Child {
    // Only the process itself knows its number before it becomes the daemon.
    let script = "exec 3<&0 4<&1 </dev/null >/dev/null\nexport LISTEN_PID=$$\nexec \"$0\"";
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script]).arg(daemon.get_program()).env_clear();
    shell.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names);
    shell.stdin(first).stdout(second).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it logs up to and with the line that has `wanted` in it.
fn log_until(log: &mut impl BufRead, wanted: &str) -> String {
    let mut log_text = String::new();
    while !log_text.lines().last().is_some_and(|line| line.contains(wanted)) {
        assert_ne!(log.read_line(&mut log_text).unwrap(), 0, "it ended: {log_text}");
    }
    log_text
}

fn stop(mut child: Child) {
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn systemd_sockets_are_matched_by_name_and_left_in_place() {
    let directory = directory();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = http.local_addr().unwrap();
    let path = directory.join("passed.sock");
    let worker = UnixListener::bind(&path).unwrap();

    let mut daemon = activated(
        &directory,
        "worker:http",
        &address.to_string(),
        worker.try_clone().unwrap().into(),
        http.into(),
    );
    let mut log = BufReader::new(daemon.stderr.take().unwrap());
    let line = log_until(&mut log, "started");

    let expected = format!(
        "started: ws://{address}/api/v1/ws (from systemd); workers at {} (from systemd)",
        path.display()
    );
    assert!(line.contains(&expected), "{line}");
    assert_eq!(line.lines().count(), 1, "nothing was missing: {line}");
    assert_eq!(Daemon::answers(address, "GET /healthz", &[], "").0, 200);
    drop(UnixStream::connect(&path).unwrap());
    stop(daemon);
    assert!(path.exists(), "it is systemd's");
    assert!(!directory.join("wshubd/worker.sock").exists(), "no other was opened");
}

#[test]
fn an_address_overridden_by_systemd_sockets_is_reported() {
    let directory = directory();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = http.local_addr().unwrap();
    let worker = UnixListener::bind(directory.join("passed.sock")).unwrap();

    let mut daemon = activated(&directory, "http:worker", "127.0.0.1:9", http.into(), worker.into());
    let mut log = BufReader::new(daemon.stderr.take().unwrap());
    let line = log_until(&mut log, "started");

    let expected = format!("`[listen] http` counts for nothing: systemd listens at {address}");
    assert!(line.contains(&expected), "{line}");
    assert_eq!(Daemon::answers(address, "GET /healthz", &[], "").0, 200);
    stop(daemon);
}

#[test]
fn unknown_and_missing_socket_names_are_reported() {
    let directory = directory();
    let unknown = UnixListener::bind(directory.join("unknown.sock")).unwrap();
    let worker = UnixListener::bind(directory.join("passed.sock")).unwrap();

    let mut daemon =
        activated(&directory, "wshubd.socket:worker", "127.0.0.1:0", unknown.into(), worker.into());
    let mut log = BufReader::new(daemon.stderr.take().unwrap());
    let line = log_until(&mut log, "started");

    assert!(line.contains("systemd has passed \"wshubd.socket\", which is closed"), "{line}");
    assert!(line.contains("no socket called \"http\": opening `[listen] http`"), "{line}");
    assert_eq!(line.lines().count(), 3, "{line}");
    assert!(UnixStream::connect(directory.join("unknown.sock")).is_err(), "nobody waits for that one");
    stop(daemon);
}

#[test]
fn an_overridden_address_does_not_block_a_reload() {
    let directory = directory();
    let http = TcpListener::bind("127.0.0.1:0").unwrap();
    let path = directory.join("passed.sock");
    let worker = UnixListener::bind(&path).unwrap();
    let write = |text: &str| std::fs::write(directory.join("wshubd.toml"), text).unwrap();
    write("");
    let mut daemon = activated_as(&by_file(&directory), "worker:http", worker.into(), http.into());
    let mut log = BufReader::new(daemon.stderr.take().unwrap());
    log_until(&mut log, "started");

    write("[listen]\nhttp = '192.0.2.1:1'\nworker = '/elsewhere/worker.sock'\n[limits]\nburst = 7\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), Signal::HUP).unwrap();
    let line = log_until(&mut log, "`[listen] http` counts for nothing: systemd listens at 127.0.0.1:");
    assert!(line.contains("reloaded: limits.burst, limits.user_burst\n"), "{line}");

    // What is still a matter of the configuration names its own line.
    write("\n\n[state]\nstore = 'memory'\ndirectory = '/elsewhere'\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&daemon), Signal::HUP).unwrap();
    let line = log_until(&mut log, "not reloaded");
    assert!(line.contains("wshubd.toml:5: `state.directory` cannot change while wshubd runs"), "{line}");
    assert!(!line.contains("listen."), "{line}");
    stop(daemon);
    crate::harness::remove(&directory);
}

#[test]
fn a_passed_descriptor_that_does_not_listen_is_a_mistake() {
    let directory = directory();
    let (one, _other) = UnixStream::pair().unwrap();
    let worker = UnixListener::bind(directory.join("passed.sock")).unwrap();

    let mut daemon = activated(&directory, "http:worker", "127.0.0.1:0", one.into(), worker.into());
    let mut stderr = String::new();
    daemon.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();

    assert!(stderr.contains("systemd has passed \"http\", which cannot be used"), "{stderr}");
    assert_eq!(daemon.wait().unwrap().code(), Some(78));
}

#[test]
fn descriptors_for_another_process_are_left_alone() {
    let daemon = Daemon::with(&[("LISTEN_PID", "1"), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "http")]);

    assert_eq!(daemon.http("GET /healthz", &[], "").0, 200);
}

/// A notification socket in the place of systemd's.
struct Overseer(UnixDatagram);

impl Overseer {
    fn listen(directory: &Path) -> Self {
        let socket = UnixDatagram::bind(directory.join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn receive(&self) -> String {
        self.try_receive().unwrap()
    }

    fn try_receive(&self) -> std::io::Result<String> {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message)?;
        Ok(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    fn receive_until(&self, wanted: &str) -> String {
        let mut before = Vec::new();
        loop {
            match self.try_receive() {
                Ok(message) if message.contains(wanted) => return message,
                Ok(message) => before.push(message),
                Err(error) => panic!("{wanted:?} did not come ({error}), only {before:?}"),
            }
        }
    }
}

#[test]
fn systemd_gets_ready_status_and_stopping() {
    let elsewhere = directory();
    let overseer = Overseer::listen(&elsewhere);
    let socket = elsewhere.join("notify");

    let mut daemon = Daemon::with(&[("NOTIFY_SOCKET", socket.to_str().unwrap())]);

    let ready = overseer.receive_until("READY=1");
    let store = if STORE.is_built_in { "store ok" } else { "store in memory" };
    let quiet = format!("STATUS=0 connections, 0 workers, 0 operations, 0 messages kept, {store}\n");
    assert!(ready.contains(&quiet), "{ready}");
    let mut worker = daemon.worker();
    worker.send(serde_json::json!({"channel": "c", "event": "e", "id": 1}));
    worker.receive();
    overseer
        .receive_until(&format!("STATUS=0 connections, 1 worker, 0 operations, 1 message kept, {store}\n"));
    daemon.stop();
    overseer.receive_until("STOPPING=1\n");
    overseer.receive_until("EXTEND_TIMEOUT_USEC=");
    assert_eq!(daemon.ended().0, Some(0));
}

#[cfg(feature = "store")]
#[test]
fn systemd_gets_more_time_while_the_store_is_read() {
    let elsewhere = directory();
    let overseer = Overseer::listen(&elsewhere);
    // A read of that blocks until it is written to.
    let note = elsewhere.join("wshubd/store/00000000.trouble");
    std::fs::create_dir_all(note.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(&note).status().unwrap().success());

    let mut daemon = command(&elsewhere).env("NOTIFY_SOCKET", elsewhere.join("notify")).spawn().unwrap();

    assert_eq!(overseer.receive(), "EXTEND_TIMEOUT_USEC=10000000\n");
    assert_eq!(overseer.receive(), "STATUS=reading what is kept\n");
    assert_eq!(overseer.receive(), "EXTEND_TIMEOUT_USEC=10000000\n", "and again, before it is ready");
    daemon.kill().unwrap();
    // The process that owns the disk finds out that it is alone.
    drop(std::fs::OpenOptions::new().write(true).open(&note).unwrap());
    daemon.wait().unwrap();
}

#[cfg(feature = "store")]
#[test]
fn systemd_gets_the_state_of_the_store() {
    let elsewhere = directory();
    let overseer = Overseer::listen(&elsewhere);
    let socket = elsewhere.join("notify");
    // Where the store should be is a file.
    std::fs::create_dir_all(elsewhere.join("wshubd")).unwrap();
    std::fs::write(elsewhere.join("wshubd/store"), "").unwrap();
    let state = elsewhere.to_str().unwrap();

    let daemon = Daemon::with(&[("NOTIFY_SOCKET", socket.to_str().unwrap()), ("XDG_STATE_HOME", state)]);

    let ready = overseer.receive_until("READY=1");
    assert!(ready.contains("STATUS=degraded: messages are kept in memory only: "), "{ready}");
    assert_eq!(daemon.http("GET /healthz", &[], "").0, 503);
}

#[test]
fn an_idle_daemon_feeds_the_watchdog() {
    let elsewhere = directory();
    let overseer = Overseer::listen(&elsewhere);
    let socket = elsewhere.join("notify");

    let _daemon = Daemon::with(&[("NOTIFY_SOCKET", socket.to_str().unwrap()), ("WATCHDOG_USEC", "200000")]);

    overseer.receive_until("READY=1");
    assert_eq!([overseer.receive(), overseer.receive()], ["WATCHDOG=1\n", "WATCHDOG=1\n"]);
}

/// What `ExecStop=` runs at a restart, where systemd would start the daemon anew with
/// these arguments: its output.
fn before_a_restart(daemon: &Daemon, arguments: &str) -> String {
    let elsewhere = directory();
    let program = env!("CARGO_BIN_EXE_wshubd");
    let systemctl = format!(
        "#!/bin/sh\ncase $1 in\nlist-jobs) echo '7 wshubd.service restart running' ;;\n\
         show) echo '{{ path={program} ; argv[]={program} {arguments} ; ignore_errors=no ; pid=0 }}' ;;\nesac\n"
    );
    std::fs::write(elsewhere.join("systemctl"), systemctl).unwrap();
    std::fs::set_permissions(elsewhere.join("systemctl"), Permissions::from_mode(0o755)).unwrap();
    // systemd gives it what it gives the daemon.
    let mut wshubctl = Command::new(env!("CARGO_BIN_EXE_wshubctl"));
    wshubctl.envs(command(&daemon.directory).get_envs().filter_map(|(name, value)| Some((name, value?))));
    wshubctl.env("PATH", format!("{}:/usr/bin:/bin", elsewhere.display()));
    let output = wshubctl.args(["stopping", &daemon.pid().as_raw_nonzero().to_string()]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_restart_that_would_fail_is_a_stop_with_its_reason() {
    let mut daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    daemon.write("wrong.toml", "[limits]\nburts = 5\n");
    let wrong = daemon.directory.join("wrong.toml");
    let output = before_a_restart(&daemon, &format!("--config {}", wrong.display()));
    assert!(output.starts_with("wshubctl: this restart closes all connections"), "{output}");
    assert!(output.contains("wrong.toml:2") && output.contains("burts"), "{output}");
    daemon.signal(Signal::TERM);
    assert_eq!(ada.closed_with(), 4101);
    drop(ada);
    assert_eq!(daemon.ended().0, Some(0));
}

#[test]
fn a_restart_the_next_daemon_accepts_is_announced() {
    let mut daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    assert_eq!(before_a_restart(&daemon, ""), "");
    daemon.signal(Signal::TERM);
    // No systemd is there that would keep the connections: they are closed to reconnect at once.
    assert_eq!(ada.closed_with(), 4200);
    drop(ada);
    assert_eq!(daemon.ended().0, Some(0));
}
