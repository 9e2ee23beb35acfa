//! One daemon in a directory of its own, and its peers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_tungstenite::tungstenite;
use async_tungstenite::tungstenite::client::IntoClientRequest;
use async_tungstenite::tungstenite::protocol::Role;
use async_tungstenite::tungstenite::{Message, WebSocket};
use serde_json::{Value, json};

/// A test that waits longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The headers of a request for a WebSocket.
pub(crate) const UPGRADE: &str = "Host: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub(crate) struct Daemon {
    child: Child,
    pub(crate) directory: PathBuf,
    pub(crate) address: SocketAddr,
    log: Option<BufReader<std::process::ChildStderr>>,
    /// Its log before the line `started`.
    before: Vec<String>,
}

/// The command for a daemon in `directory`, on a port that the kernel chooses.
pub(crate) fn command(directory: &PathBuf) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wshubd"));
    command
        .env_clear()
        .env("XDG_STATE_HOME", directory)
        .env("XDG_RUNTIME_DIR", directory)
        .env("WSHUBD_LISTEN__HTTP", r#"["127.0.0.1:0"]"#)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// The same, configured by nothing but the file in it.
pub(crate) fn by_file(directory: &PathBuf) -> Command {
    let mut command = command(directory);
    command.env_remove("WSHUBD_LISTEN__HTTP").env("CONFIGURATION_DIRECTORY", directory);
    command
}

/// A fresh directory, short enough for the path of a socket in it.
pub(crate) fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("wshubd-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

/// Removes the directory of a daemon that has ended.
///
/// The store process of a killed daemon writes until it reads the end of its
/// socket, and a file that it creates meanwhile makes one removal fail.
pub(crate) fn remove(directory: impl AsRef<Path>) {
    /// Far more than the milliseconds in which the store process ends.
    const ATTEMPTS: usize = 1_000_000;
    for _ in 0..ATTEMPTS {
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => std::thread::yield_now(),
            Err(error) if error.kind() != std::io::ErrorKind::NotFound && !std::thread::panicking() => {
                panic!("cannot remove {}: {error}", directory.as_ref().display())
            }
            _ => return,
        }
    }
    assert!(
        std::thread::panicking(),
        "{} is written to by a process that has not ended",
        directory.as_ref().display()
    );
}

/// A program that has started.
struct Started {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    address: SocketAddr,
    before: Vec<String>,
}

/// Starts the program, and waits for the line with its address.
fn launch(directory: &PathBuf, variables: &[(&str, &str)]) -> Started {
    up(command(directory).envs(variables.iter().copied()))
}

/// The same with a command that may be another one.
fn up(command: &mut Command) -> Started {
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut before = Vec::new();
    let address = loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the daemon ended at once");
        if let Some((_, rest)) = line.split_once("started: ws://") {
            break rest.split('/').next().unwrap().parse().unwrap();
        }
        before.push(line.trim_end().to_owned());
    };
    Started { child, log, address, before }
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts with these variables of the configuration.
    pub(crate) fn with(variables: &[(&str, &str)]) -> Self {
        Self::with_in(directory(), variables)
    }

    /// Starts where something is already.
    #[cfg(feature = "store")]
    pub(crate) fn in_directory(directory: PathBuf) -> Self {
        Self::with_in(directory, &[])
    }

    fn with_in(directory: PathBuf, variables: &[(&str, &str)]) -> Self {
        Self::in_place(directory.clone(), launch(&directory, variables))
    }

    /// Starts by a command for a daemon in this directory.
    pub(crate) fn by(directory: PathBuf, command: &mut Command) -> Self {
        Self::in_place(directory, up(command))
    }

    fn in_place(directory: PathBuf, started: Started) -> Self {
        let Started { child, log, address, before } = started;
        Self { child, directory, address, log: Some(log), before }
    }

    fn again(&mut self, started: Started) {
        let Started { child, log, address, before } = started;
        (self.child, self.log, self.address, self.before) = (child, Some(log), address, before);
    }

    /// Its log before the line `started`.
    pub(crate) fn log_before_start(&mut self) -> Vec<String> {
        std::mem::take(&mut self.before)
    }

    /// Starts with this file of the configuration.
    pub(crate) fn configured(text: &str) -> Self {
        let directory = directory();
        std::fs::write(directory.join("wshubd.toml"), text).unwrap();
        let place = directory.to_str().unwrap().to_owned();
        let started = launch(&directory, &[("CONFIGURATION_DIRECTORY", &place)]);
        Self::in_place(directory, started)
    }

    /// Starts with a file alone, which sets its addresses and may change later.
    pub(crate) fn by_file(text: &str) -> Self {
        let directory = directory();
        std::fs::write(directory.join("wshubd.toml"), text).unwrap();
        let started = up(&mut by_file(&directory));
        Self::in_place(directory, started)
    }

    /// The same after its end.
    #[cfg(feature = "store")]
    pub(crate) fn start_by_file(&mut self) {
        self.again(up(&mut by_file(&self.directory)));
    }

    /// Changes a file beside that one, and who may read it.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.directory.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Asks for a reload, and gives the answer.
    pub(crate) fn reload(&self) -> Value {
        let mut worker = self.worker();
        worker.send(json!({"action": "reload", "id": "r"}));
        worker.receive()
    }

    /// The next line of the log.
    pub(crate) fn logged(&mut self) -> String {
        let mut line = String::new();
        assert_ne!(self.log.as_mut().unwrap().read_line(&mut line).unwrap(), 0, "the daemon ended");
        line
    }

    /// Starts it again after its end, in the same directory and on another port.
    pub(crate) fn start_again(&mut self) {
        self.again(launch(&self.directory, &[]));
    }

    pub(crate) fn token(&self, user: &str) -> String {
        let mut worker = self.worker();
        worker.send(json!({"action": "token", "user_id": user, "ttl": 3600, "id": 1}));
        worker.receive()["token"].as_str().unwrap().to_owned()
    }

    /// A client of `user`, past its greeting.
    pub(crate) fn client(&self, user: &str) -> Client {
        let mut client = self.client_at(&format!("/ws?token={}", self.token(user)));
        client.expect_type("connection_established");
        client
    }

    pub(crate) fn client_at(&self, path: &str) -> Client {
        self.try_client(path, &[]).unwrap()
    }

    pub(crate) fn try_client(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> tungstenite::Result<Client> {
        let mut request = format!("ws://{}{path}", self.address).into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Client { socket }),
            Err(tungstenite::HandshakeError::Failure(error)) => Err(error),
            Err(tungstenite::HandshakeError::Interrupted(_)) => panic!("the handshake took too long"),
        }
    }

    pub(crate) fn worker(&self) -> Worker {
        let stream = UnixStream::connect(self.directory.join("wshubd/worker.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Worker { lines: BufReader::new(stream) }
    }

    pub(crate) fn secret(&self) -> String {
        let path = self.directory.join("wshubd/broadcast.secret");
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// One HTTP exchange: the status and the body.
    pub(crate) fn http(&self, head: &str, headers: &[&str], body: &str) -> (u16, String) {
        Self::answers(self.address, head, headers, body)
    }

    /// The same with the present process.
    pub(crate) fn answers(address: SocketAddr, head: &str, headers: &[&str], body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request =
            format!("{head} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        if !headers.iter().any(|header| header.starts_with("Host:")) {
            request += "Host: localhost\r\n";
        }
        for header in headers {
            request += &format!("{header}\r\n");
        }
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
        let body = reply.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status, body)
    }

    /// Asks for a WebSocket and sends these bytes in the same packet: the head of the
    /// answer, and the client.
    pub(crate) fn upgraded(&self, path: &str, headers: &[&str], early: &[u8]) -> (String, Client) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!("GET {path} HTTP/1.1\r\n{UPGRADE}{headers}\r\n");
        stream.write_all(&[request.as_bytes(), early].concat()).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        (head, Client { socket: WebSocket::from_raw_socket(stream, Role::Client, None) })
    }

    /// Sends these bytes, as far as the daemon takes them; what comes back until it hangs up.
    pub(crate) fn answers_to(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // Where it hangs up before all is sent, its answer is there all the same.
        let _ = stream.write_all(request);
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    /// Sends these bytes and no more; what comes back until the daemon hangs up.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        reply
    }

    pub(crate) fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let secret = format!("Authorization: Bearer {}", self.secret());
        let headers = [secret.as_str(), "Content-Type: application/json"];
        let (status, body) = self.http(&format!("POST {path}"), &headers, &body.to_string());
        (status, serde_json::from_str(&body).unwrap())
    }

    pub(crate) fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    /// How many descriptors it has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_nonzero())).unwrap().count()
    }

    /// Waits until it has no more than so many descriptors open.
    pub(crate) fn wait_for_descriptors(&self, most: usize) {
        /// Takes longer than anything that is waited for.
        const LONGEST: usize = 1_000_000;
        let mut worker = self.worker();
        // Each question is a turn of the daemon. The worker takes one more.
        let is_reached = (0..LONGEST).any(|_| {
            stats(&mut worker);
            self.descriptors() <= most + 1
        });
        assert!(is_reached, "{} descriptors are open", self.descriptors());
    }

    /// Closes the reading end of its log.
    pub(crate) fn close_log(&mut self) {
        self.log = None;
    }

    /// Waits for a line of the log in which these words stand.
    pub(crate) fn expect_log_line(&mut self, words: &str) -> String {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert_ne!(self.log.as_mut().unwrap().read_line(&mut line).unwrap(), 0, "no line says {words:?}");
        }
        line
    }

    /// Sends SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.signal(rustix::process::Signal::HUP);
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    /// Sends SIGTERM.
    pub(crate) fn stop(&mut self) {
        rustix::process::kill_process(self.pid(), rustix::process::Signal::TERM).unwrap();
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for the end; the exit code and what was logged since the start.
    pub(crate) fn ended(&mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.log.as_mut().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove(&self.directory);
    }
}

/// A WebSocket client.
pub(crate) struct Client {
    pub(crate) socket: WebSocket<TcpStream>,
}

impl Client {
    pub(crate) fn send(&mut self, request: Value) {
        self.socket.send(Message::text(request.to_string())).unwrap();
    }

    /// The next frame.
    pub(crate) fn receive(&mut self) -> Value {
        loop {
            match self.socket.read().expect("a frame") {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("received {other:?}"),
            }
        }
    }

    /// The next frame, which must be of this type.
    pub(crate) fn expect_type(&mut self, kind: &str) -> Value {
        let frame = self.receive();
        assert_eq!(frame["type"], kind, "{frame}");
        frame
    }

    /// Whether the daemon still reads and answers.
    pub(crate) fn expect_pong(&mut self) {
        self.send(json!({"action": "ping"}));
        self.expect_type("pong");
    }

    /// The code of the close frame that comes after `bye` or nothing.
    pub(crate) fn closed_with(&mut self) -> u16 {
        loop {
            match self.socket.read() {
                Ok(Message::Close(Some(close))) => return close.code.into(),
                Ok(_) => {}
                Err(error) => panic!("no close frame: {error}"),
            }
        }
    }

    pub(crate) fn subscribe(&mut self, channel: &str) {
        self.send(json!({"action": "subscribe", "channel": channel, "id": "subscribed"}));
        while self.receive()["type"] != "subscription_succeeded" {}
    }
}

/// A worker, by its line protocol.
pub(crate) struct Worker {
    lines: BufReader<UnixStream>,
}

impl Worker {
    pub(crate) fn send(&mut self, line: Value) {
        self.write(&format!("{line}\n"));
    }

    pub(crate) fn write(&mut self, bytes: &str) {
        self.lines.get_mut().write_all(bytes.as_bytes()).unwrap();
    }

    pub(crate) fn receive(&mut self) -> Value {
        let mut line = String::new();
        assert_ne!(self.lines.read_line(&mut line).unwrap(), 0, "the daemon hung up");
        serde_json::from_str(&line).unwrap()
    }

    /// The same socket, to write from another thread.
    pub(crate) fn writer(&self) -> UnixStream {
        self.lines.get_ref().try_clone().unwrap()
    }

    /// Closes its sending direction; what comes until the daemon hangs up.
    pub(crate) fn finish(mut self) -> String {
        self.lines.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = String::new();
        self.lines.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// The numbers of the daemon.
pub(crate) fn stats(worker: &mut Worker) -> Value {
    worker.send(json!({"action": "stats", "id": "stats"}));
    worker.receive()
}

pub(crate) fn number(stats: &Value, name: &str) -> u64 {
    stats[name].as_u64().unwrap_or_else(|| panic!("`{name}` is missing in {stats}"))
}

/// Asks for the numbers until they are as wanted. Each question is a turn of the
/// daemon, so that this ends as soon as it can.
pub(crate) fn wait_for(worker: &mut Worker, wanted: impl Fn(&Value) -> bool) -> Value {
    /// Takes longer than anything that is waited for.
    const MOST: usize = 500_000;
    let mut asked = (0..MOST).map(|_| stats(worker));
    asked.find(wanted).expect("the numbers become as wanted")
}

/// What the kernel counts as the daemon's memory, in bytes.
pub(crate) fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}
