//! A store with a real process behind it, in virtual time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::unix::fs::symlink;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use wshubd::edge::store::{Engine, Fetch, Store, StoreContext, StoreOptions};
use wshubd::hub::settings::WriteThrough;
use wshubd::hub::{
    DeliveryOutcome, EntryMeta, FetchPurpose, Hub, Input, LogKey, Now, RecoveredLog, Settings, StoreEvent,
};
use wshubd::protocol::frame::Statistics;
use wshubd::protocol::{Channel, ConnectionId, Event, Message, MessageId, Moment, Payload, Sender, UnixTime};

use crate::child::TestDirectory;

/// No answer of the process takes nearly as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// In which the process responds to an order, or is killed.
pub(crate) const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_wshubd");

/// A program that does not exist.
pub(crate) const NOTHING: &str = "/nowhere/wshubd";

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// The delay of `WriteThrough::Behind`.
pub(crate) const DELAY: Duration = Duration::from_secs(1);

pub(crate) struct StoreHarness {
    pub(crate) directory: TestDirectory,
    pub(crate) options: StoreOptions,
    pub(crate) store: Store,
    pub(crate) now: Now,
    pub(crate) inputs: VecDeque<Input>,
    hub: Hub,
    /// Those that were sent a signal.
    seen: RefCell<Vec<Pid>>,
}

/// A channel's log.
pub(crate) fn log(name: &str) -> LogKey {
    LogKey::Channel(serde_json::from_value(name.into()).unwrap())
}

impl StoreHarness {
    /// A store with far more space than its messages take.
    pub(crate) fn new() -> Self {
        Self::with_capacity(64 * MIB)
    }

    pub(crate) fn with_capacity(bytes: u64) -> Self {
        let directory = TestDirectory::new();
        let options = StoreOptions {
            engine: Engine::built_in().unwrap(),
            program: directory.store().with_file_name("program"),
            directory: directory.store(),
            write_delay: DELAY,
            bytes,
            flash_budget: None,
            memory: 64 << 20,
        };
        let now = Now { moment: Moment(1_000_000), wall: UnixTime(1_795_000_000_000) };
        let (store, hub) = (Store::on_disk(options.clone(), now), Hub::new(Settings::default(), 1));
        let mut harness =
            Self { directory, options, store, now, inputs: VecDeque::new(), hub, seen: RefCell::default() };
        harness.program(PROGRAM);
        harness.load();
        harness
    }

    /// What owns the disk from the next start on.
    pub(crate) fn program(&self, program: &str) {
        drop(std::fs::remove_file(&self.options.program));
        symlink(program, &self.options.program).unwrap();
    }

    /// Another daemon begins after this one was killed.
    pub(crate) fn crash(&mut self) {
        self.store = Store::on_disk(self.options.clone(), self.now);
        self.inputs.clear();
    }

    /// Another daemon takes over; what was to be replayed is fetched again.
    pub(crate) fn hand_over(&mut self) {
        self.seen.borrow_mut().extend(self.pids());
        let bytes = self.store.export(self.now);
        self.store = Store::import(Some(self.options.clone()), self.now, &bytes).unwrap();
    }

    /// Reads what is there.
    pub(crate) fn load(&mut self) -> Vec<RecoveredLog> {
        self.tick();
        while !self.store.is_open() {
            self.receive();
        }
        assert_eq!(self.store.failure(), None);
        self.settle();
        let mut found = Vec::new();
        self.inputs.retain(|fact| match fact {
            Input::Store(StoreEvent::RecoveredLog(one)) => {
                found.push((**one).clone());
                false
            }
            _ => true,
        });
        found
    }

    /// Another daemon begins after this one was killed, and reads what is there.
    pub(crate) fn reload(&mut self) -> Vec<RecoveredLog> {
        self.crash();
        self.load()
    }

    /// Another daemon begins, with a write budget.
    pub(crate) fn set_flash_budget(&mut self, bytes: u64) {
        self.options.flash_budget = Some(bytes);
        self.reload();
    }

    /// The positions that another daemon finds after this one was killed.
    pub(crate) fn seqs_after_crash(&mut self) -> Vec<u64> {
        self.reload().iter().flat_map(|log| log.kept.iter().map(|kept| kept.seq)).collect()
    }

    /// Stops as a daemon does.
    pub(crate) fn stop(&mut self) {
        self.store.finish();
        self.settle();
    }

    pub(crate) fn act(&mut self, act: impl FnOnce(&mut Store, &mut StoreContext<'_>)) {
        let mut context =
            StoreContext { now: self.now, hub: &self.hub, epoll: None, inputs: &mut self.inputs };
        act(&mut self.store, &mut context);
    }

    /// What the daemon does once in a turn.
    pub(crate) fn tick(&mut self) {
        self.act(Store::tick);
    }

    /// Waits for the process, and does what follows.
    pub(crate) fn receive(&mut self) {
        self.store.wait(PATIENCE);
        self.act(Store::ready);
        self.tick();
    }

    /// Goes on until nothing is under way.
    pub(crate) fn settle(&mut self) {
        self.tick();
        while !self.store.is_finished() {
            self.receive();
        }
    }

    /// Waits for the process if there is one, else for the time at which it is
    /// tried again.
    pub(crate) fn receive_or_pass(&mut self) {
        // One that was started just now has no name yet, and an order to carry out.
        let due = self.deadline().filter(|due| *due < ORDER_TIMEOUT);
        match due {
            Some(due) if self.store.failure().is_some() && self.pids().is_empty() => {
                self.advance(due);
                self.tick();
            }
            _ => self.receive(),
        }
    }

    /// What is due is committed, and the process ends before its response.
    pub(crate) fn commit_unanswered(&mut self) {
        self.tick();
        if self.inputs.is_empty() && self.deadline() == Some(ORDER_TIMEOUT) {
            self.store.wait(PATIENCE);
        }
        self.advance(ORDER_TIMEOUT);
        self.tick();
    }

    /// Orders a commit of a running process, whose response stays unread.
    pub(crate) fn begin_commit(&mut self) {
        self.events();
        self.tick();
        assert_eq!(self.deadline(), Some(ORDER_TIMEOUT), "the time limit of an order");
        assert_eq!(self.events(), []);
    }

    /// Ends the process that owns the disk.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        for pid in self.pids() {
            self.seen.borrow_mut().push(pid);
            kill_process(pid, signal).unwrap();
        }
    }

    /// Waits until no process is left.
    pub(crate) fn wait_for_process_end(&self) {
        let mut seen = self.seen.take();
        seen.extend(self.pids());
        for pid in seen {
            // On its way out it has no name any more, and is not gone yet. One that was reaped
            // is an error.
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
        }
    }

    /// Waits until an idle process has ended.
    pub(crate) fn end_idle_process(&mut self) {
        self.later(31 * SECOND);
        self.wait_for_process_end();
    }

    /// The processes that have this directory.
    fn pids(&self) -> Vec<Pid> {
        let directory = self.directory.store().to_str().unwrap().to_owned();
        let is_meant = |command: &[u8]| {
            command.split(|byte| *byte == 0).any(|response_line| response_line == directory.as_bytes())
        };
        let pid = |entry: std::fs::DirEntry| {
            let command = std::fs::read(entry.path().join("cmdline")).ok()?;
            Pid::from_raw(entry.file_name().to_str()?.parse().ok()?).filter(|_| is_meant(&command))
        };
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| pid(entry.ok()?)).collect()
    }

    pub(crate) fn advance(&mut self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap();
        self.now.moment = self.now.moment + time;
        self.now.wall = UnixTime(self.now.wall.0 + millis);
    }

    pub(crate) fn later(&mut self, time: Duration) {
        if time >= Duration::from_secs(30) {
            // A process that has nothing to do ends by then.
            self.seen.borrow_mut().extend(self.pids());
        }
        self.advance(time);
        self.settle();
    }

    pub(crate) fn keep(&mut self, log: &LogKey, seq: u64, disk: WriteThrough, text: &str) {
        let LogKey::Channel(channel) = log else { panic!("{log:?}") };
        let message = message(channel, seq, text);
        let keeping = EntryMeta {
            expires: self.now.moment + Duration::from_secs(86_400),
            since: self.now.moment,
            size: u32::try_from(message.size()).unwrap(),
            delivered: false,
            durable: disk == WriteThrough::Now,
            disk,
            scope: None,
        };
        self.store.keep(self.now.moment, log, &message, &keeping);
    }

    /// Keeps a message that is to be written at once, and settles.
    pub(crate) fn write(&mut self, log: &LogKey, seq: u64, text: &str) {
        self.keep(log, seq, WriteThrough::Now, text);
        self.settle();
    }

    pub(crate) fn forget(&mut self, log: &LogKey, from: u64, to: u64) {
        self.store.forget(self.now.moment, log, from, to);
    }

    /// Fetches a page; it comes at once, or as an input later.
    pub(crate) fn fetch(&mut self, log: &LogKey, after: u64, count: usize, bytes: usize) {
        let purpose = FetchPurpose::Replay(ConnectionId { slot: 1, tag: 1 });
        let fetch = Fetch { purpose, log: log.clone(), after, count, bytes };
        self.inputs.extend(self.store.fetch(fetch));
    }

    /// Fetches as the hub does before it forgets undelivered messages: `count` of them.
    pub(crate) fn fetch_notice(&mut self, log: &LogKey, after: u64, count: usize) {
        let purpose = FetchPurpose::Notice(DeliveryOutcome::Expired);
        let fetch = Fetch { purpose, log: log.clone(), after, count, bytes: usize::MAX };
        self.inputs.extend(self.store.fetch(fetch));
    }

    /// The positions of all that came, in the order in which it came.
    pub(crate) fn pages(&mut self) -> Vec<Vec<u64>> {
        self.settle();
        let page = |fact: Input| match fact {
            Input::Fetched { messages, .. } => {
                Some(messages.iter().filter_map(|message| message.seq).collect())
            }
            _ => None,
        };
        self.inputs.drain(..).filter_map(page).collect()
    }

    /// The positions of all that came so far.
    pub(crate) fn pages_so_far(&self) -> Vec<u64> {
        let messages = self.inputs.iter().flat_map(|fact| match fact {
            Input::Fetched { messages, .. } => messages.as_slice(),
            _ => &[],
        });
        messages.filter_map(|message| message.seq).collect()
    }

    /// The page that was asked for, if it could be read.
    pub(crate) fn page(&mut self) -> Option<Vec<Rc<Message>>> {
        self.settle();
        let is_page = |fact: &Input| {
            matches!(fact, Input::Fetched { .. } | Input::Store(StoreEvent::ReadFailed { .. }))
        };
        let at = self.inputs.iter().position(is_page).unwrap();
        match self.inputs.remove(at) {
            Some(Input::Fetched { messages, .. }) => Some(messages),
            _ => None,
        }
    }

    /// All of a log, page by page.
    pub(crate) fn read(&mut self, log: &LogKey, count: usize, bytes: usize) -> Vec<(u64, String)> {
        let mut read: Vec<(u64, String)> = Vec::new();
        loop {
            self.fetch(log, read.last().map_or(0, |(seq, _)| *seq), count, bytes);
            let page = self.page().unwrap();
            if page.is_empty() {
                return read;
            }
            assert!(page.len() <= count);
            read.extend(page.iter().map(|message| (message.seq.unwrap(), text(message))));
        }
    }

    /// What was reported of the disk since the last time.
    pub(crate) fn events(&mut self) -> Vec<StoreEvent> {
        let events = self.inputs.drain(..).filter_map(|fact| match fact {
            Input::Store(StoreEvent::Capacity { .. }) => None,
            Input::Store(fact) => Some(fact),
            _ => None,
        });
        events.collect()
    }

    /// What was written of the budget.
    pub(crate) fn spent(&self) -> u64 {
        let mut statistics = Statistics::default();
        self.store.describe(self.now.moment, &mut statistics);
        statistics.flash_spent_bytes
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.store.deadline(self.now.moment).map(|due| due.since(self.now.moment))
    }

    /// What all generations take on the disk.
    pub(crate) fn used(&self) -> u64 {
        let of = |name: String| disk_usage(&self.directory.store().join(name));
        self.directory.names().into_iter().map(of).sum()
    }
}

fn disk_usage(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
    let inside = std::fs::read_dir(path).into_iter().flatten();
    metadata.blocks() * 512 + inside.map(|entry| disk_usage(&entry.unwrap().path())).sum::<u64>()
}

pub(crate) fn message(channel: &Channel, seq: u64, text: &str) -> Message {
    Message {
        channel: Some(channel.clone()),
        event: serde_json::from_value::<Event>("said".into()).unwrap(),
        data: Payload::of(&text),
        from: Sender::Hub,
        user_id: None,
        message_id: serde_json::from_value::<MessageId>(format!("m{seq}").into()).unwrap(),
        timestamp: UnixTime(1_795_000_000_000),
        seq: Some(seq),
    }
}

pub(crate) fn text(message: &Message) -> String {
    serde_json::from_str(message.data.json()).unwrap()
}

/// A `Stored` event.
pub(crate) fn stored(log: &LogKey, from: u64, to: u64) -> StoreEvent {
    StoreEvent::Stored { log: log.clone(), from, to }
}
