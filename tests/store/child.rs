//! The process that owns the disk, driven over its socket as the daemon drives it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use wshubd::edge::store::ipc::{LogHeader, NewRecord, StoreRequest, Tombstone};

/// No request takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory for one test, removed with it.
#[derive(Debug)]
pub(crate) struct TestDirectory(PathBuf);

impl TestDirectory {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("store-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&directory).unwrap();
        Self(directory)
    }

    /// Where the store is, or will be.
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }

    pub(crate) fn generation(&self, number: u32) -> PathBuf {
        self.store().join(format!("{number:08}"))
    }

    /// Its write-ahead log.
    pub(crate) fn wal(&self, generation: u32) -> PathBuf {
        let entries = fs::read_dir(self.generation(generation)).unwrap().map(|entry| entry.unwrap().path());
        let is_log = |path: &PathBuf| path.extension().is_none() && path.to_str().unwrap().contains("/wal-");
        entries.into_iter().find(is_log).unwrap()
    }

    /// Whether all of a generation lies in its database.
    pub(crate) fn has_no_wal(&self, generation: u32) -> bool {
        let mut entries = fs::read_dir(self.generation(generation)).unwrap().map(|entry| entry.unwrap());
        !entries.any(|entry| entry.file_name().to_str().unwrap().starts_with("wal-"))
    }

    /// Names in the store, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.store()).unwrap();
        let mut names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != "reserve");
        names.sort();
        names
    }

    /// Starts a process, and waits until it is ready.
    pub(crate) fn start(&self) -> Child {
        let mut child = self.start_without_waiting();
        let ready = child.receive();
        child.ready = ready.get("Ready").unwrap_or_else(|| panic!("{ready}")).clone();
        child
    }

    pub(crate) fn start_without_waiting(&self) -> Child {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_wshubd"))
            .arg("--store")
            .arg(self.store())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Child { process, from: BufReader::new(ours.try_clone().unwrap()), to: ours, ready: Value::Null }
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

pub(crate) struct Child {
    process: Process,
    from: BufReader<UnixStream>,
    to: UnixStream,
    /// The content of its first message.
    pub(crate) ready: Value,
}

/// All that comes in response to one request.
#[derive(Default, Debug)]
pub(crate) struct Response {
    pub(crate) records: Vec<Record>,
    pub(crate) marks: Vec<(String, Value)>,
    pub(crate) gone: Vec<(String, u64, u64)>,
    /// The name of the message that ends it, and its content; none, if the
    /// process ended.
    pub(crate) end: Option<(String, Value)>,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Record {
    pub(crate) log: String,
    pub(crate) seq: u64,
    pub(crate) head: Value,
    pub(crate) body: Value,
}

impl Response {
    /// The content of the expected last message.
    pub(crate) fn end(&self, name: &str) -> &Value {
        match &self.end {
            Some((end, content)) if end == name => content,
            _ => panic!("not {name}: {:?}", self.end),
        }
    }
}

impl Child {
    pub(crate) fn receive(&mut self) -> Value {
        let mut line = String::new();
        match self.from.read_line(&mut line) {
            Ok(0) => Value::Null,
            Ok(_) => serde_json::from_str(&line).unwrap(),
            // Ended with something unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Value::Null,
            Err(error) => panic!("nothing came for long: {error}"),
        }
    }

    /// Sends something; the process may have ended before.
    pub(crate) fn send(&mut self, request: &StoreRequest<'_>) {
        let mut line = serde_json::to_string(request).unwrap();
        line.push('\n');
        self.send_text(&line);
    }

    pub(crate) fn send_text(&mut self, text: &str) {
        drop(self.to.write_all(text.as_bytes()));
    }

    pub(crate) fn response(&mut self) -> Response {
        let mut response = Response::default();
        loop {
            let Value::Object(response_line) = self.receive() else { return response };
            let (name, content) = response_line.into_iter().next().unwrap();
            let text = |field: &str| content[field].as_str().unwrap().to_owned();
            let number = |field: &str| content[field].as_u64().unwrap();
            match name.as_str() {
                "Record" => response.records.push(Record {
                    log: text("log"),
                    seq: number("seq"),
                    head: content["head"].clone(),
                    body: content["body"].clone(),
                }),
                "Mark" => response.marks.push((text("log"), content["state"].clone())),
                "Gone" => response.gone.push((text("log"), number("from"), number("to"))),
                _ => {
                    response.end = Some((name, content));
                    return response;
                }
            }
        }
    }

    pub(crate) fn request(&mut self, request: &StoreRequest<'_>) -> Response {
        self.send(request);
        self.response()
    }

    pub(crate) fn load(&mut self, generation: u32) -> Response {
        self.request(&StoreRequest::Load { generation })
    }

    pub(crate) fn commit(&mut self, generation: u32, puts: Vec<NewRecord<'static>>) -> Response {
        self.request(&commit(generation, puts))
    }

    /// Copies all of a log into its database, in portions.
    pub(crate) fn checkpoint(&mut self, generation: u32) {
        while self.request(&StoreRequest::Checkpoint { generation, bytes: 2000 }).end("Checkpointed")["is_done"]
            == false
        {}
    }

    /// All of one log.
    pub(crate) fn read(&mut self, generation: u32, log: &str) -> Response {
        let (count, bytes) = (usize::MAX, usize::MAX);
        self.request(&StoreRequest::Read { generation, log: log.into(), from: 0, to: u64::MAX, count, bytes })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.process)
    }

    /// Closes the socket for requests, as the daemon does when it is idle.
    pub(crate) fn close(&self) {
        self.to.shutdown(Shutdown::Write).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// Ends it in good order.
    pub(crate) fn end(mut self) {
        self.close();
        assert!(self.wait().success());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

pub(crate) fn commit(generation: u32, puts: Vec<NewRecord<'static>>) -> StoreRequest<'static> {
    StoreRequest::Commit { generation, puts, marks: Vec::new(), gone: Vec::new() }
}

fn raw(value: &Value) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap()
}

/// A message whose body has so many bytes, all made of its seq.
pub(crate) fn put(log: &'static str, seq: u64, bytes: usize) -> NewRecord<'static> {
    let Record { head, body, .. } = record(log, seq, bytes);
    use std::borrow::Cow::Owned;
    NewRecord { log: log.into(), seq, head: Owned(raw(&head)), body: Owned(raw(&body)) }
}

/// The same, as it is reported.
pub(crate) fn record(log: &str, seq: u64, bytes: usize) -> Record {
    let body = format!("{seq:08}|").chars().cycle().take(bytes).collect::<String>();
    Record { log: log.to_owned(), seq, head: json!({ "n": seq, "bytes": bytes }), body: body.into() }
}

pub(crate) fn mark(log: &'static str, state: &Value) -> LogHeader<'static> {
    LogHeader { log: log.into(), state: std::borrow::Cow::Owned(raw(state)) }
}

pub(crate) fn gone(log: &'static str, from: u64, to: u64) -> Tombstone<'static> {
    Tombstone { log: log.into(), from, to }
}
