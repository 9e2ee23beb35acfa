//! A scripted hub: the test expects the lines of the program and sends its own.

use std::ffi::OsStr;
use std::fs;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_signal::{Signal, Signals};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use serde_json::{Value, json};

/// Only for a test that fails: it ends then, instead of hanging.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket on which a scripted hub listens, or does not.
pub(crate) struct HubSocket {
    listener: Option<UnixListener>,
    directory: PathBuf,
}

/// One connection of the program under test.
pub(crate) struct Peer {
    reader: BufReader<UnixStream>,
}

impl HubSocket {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("wshubctl-{}-{number}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        Self { listener: None, directory }.opened()
    }

    /// The same without a hub, and without a socket.
    pub(crate) fn closed(mut self) -> Self {
        self.listener = None;
        fs::remove_file(self.path()).unwrap();
        self
    }

    /// A hub starts.
    pub(crate) fn opened(mut self) -> Self {
        // Made elsewhere and moved: the socket is never there without its listener.
        let new = self.file("new.sock");
        self.listener = Some(UnixListener::bind(&new).unwrap());
        fs::rename(new, self.path()).unwrap();
        self
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join("worker.sock")
    }

    /// A file beside the socket.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Starts the program, with pipes as its input and outputs.
    pub(crate) fn start<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Child {
        let mut command = program();
        command.arg("--socket").arg(self.path()).args(words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Starts it and accepts its connection.
    pub(crate) fn start_connected<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> (Child, Peer) {
        let child = self.start(words);
        (child, self.accept())
    }

    /// The same for a program that first asks for an answer.
    pub(crate) fn start_probed<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> (Child, Peer) {
        let child = self.start(words);
        (child, self.accept_probed())
    }

    /// As [`HubSocket::start_connected`] with a terminal as its standard output.
    pub(crate) fn start_at_terminal<S: AsRef<OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> (Terminal, Peer) {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let screen = openpt(flags).unwrap();
        unlockpt(&screen).unwrap();
        let end = ioctl_tiocgptpeer(&screen, flags).unwrap();
        let mut command = program();
        command.arg("--socket").arg(self.path()).args(words);
        let child = command.stdin(Stdio::null()).stdout(end).stderr(Stdio::piped()).spawn().unwrap();
        (Terminal { child, screen: screen.into() }, self.accept())
    }

    /// Accepts a connection, and answers the ping that comes first.
    pub(crate) fn accept_probed(&self) -> Peer {
        let mut peer = self.accept();
        let greeting = peer.expect_line(json!({"action": "ping"}));
        peer.send(json!({"type": "pong", "id": greeting["id"]}));
        peer
    }

    pub(crate) fn accept(&self) -> Peer {
        let (stream, _) = self.listener.as_ref().unwrap().accept().unwrap();
        Peer::of(stream)
    }
}

/// A program whose standard output is a terminal.
pub(crate) struct Terminal {
    child: Child,
    screen: File,
}

impl Terminal {
    /// Its standard error.
    pub(crate) fn errors(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// The exit code when it has ended, and the text on its terminal.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut shown = Vec::new();
        // The end of a terminal that nobody writes to is an error, not an end.
        let mut block = [0; 4096];
        while let Ok(read @ 1..) = self.screen.read(&mut block) {
            shown.extend_from_slice(&block[..read]);
        }
        (code, String::from_utf8(shown).unwrap().replace("\r\n", "\n"))
    }
}

impl Drop for HubSocket {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub(crate) fn program() -> Command {
    static HANDLED: OnceLock<Signals> = OnceLock::new();
    // Where the tests are a background job of a script these are ignored, and so they
    // would be in what is started here; what has a handler is not.
    HANDLED.get_or_init(|| {
        let ignored = fs::read_to_string("/proc/self/status").unwrap();
        let ignored = ignored.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
        let ignored = u64::from_str_radix(ignored, 16).unwrap();
        let all = [Signal::Hup, Signal::Int, Signal::Quit];
        Signals::new(all.into_iter().filter(|signal| ignored & (1 << (*signal as i32 - 1)) != 0)).unwrap()
    });
    Command::new(env!("CARGO_BIN_EXE_wshubctl"))
}

impl Peer {
    /// The other end of a connection.
    pub(crate) fn of(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { reader: BufReader::new(stream) }
    }

    /// The next line.
    pub(crate) fn receive(&mut self) -> Value {
        let mut line = String::new();
        assert_ne!(self.reader.read_line(&mut line).unwrap(), 0, "the program closed the connection");
        serde_json::from_str(&line).unwrap()
    }

    /// The next line, which must have these fields; the others are given back.
    pub(crate) fn expect_line(&mut self, fields: Value) -> Value {
        let received = self.receive();
        for (name, value) in fields.as_object().unwrap() {
            assert_eq!(&received[name], value, "{name} in {received}");
        }
        received
    }

    pub(crate) fn send(&mut self, line: Value) {
        self.send_text(&line.to_string());
    }

    pub(crate) fn send_text(&mut self, line: &str) {
        writeln!(self.reader.get_mut(), "{line}").unwrap();
    }

    /// Answers a request with `ok` and some fields.
    pub(crate) fn grant(&mut self, request: &Value, fields: Value) {
        let mut answer = fields;
        answer["type"] = json!("ok");
        answer["id"] = request["id"].clone();
        self.send(answer);
    }

    /// As [`Peer::grant`], for a request that may need no answer.
    pub(crate) fn grant_if_asked(&mut self, request: &Value) {
        if !request["id"].is_null() {
            self.grant(request, json!({}));
        }
    }

    pub(crate) fn refuse(&mut self, request: &Value, code: &str, message: &str) {
        self.send(json!({"type": "error", "id": request["id"], "code": code, "message": message}));
    }

    /// Expects the end of the connection, without another line.
    pub(crate) fn expect_end(mut self) {
        let mut line = String::new();
        assert_eq!(self.reader.read_line(&mut line).unwrap(), 0, "another line: {line}");
    }
}

/// Waits for the end; the program's input is closed first.
pub(crate) fn end(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Whether a process is there, dead ones that nobody has reaped included.
pub(crate) fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}
