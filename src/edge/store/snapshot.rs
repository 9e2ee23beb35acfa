//! The store as bytes, for a process that takes over.
//!
//! Knows what a store needs to go on where another was, without reading the disk
//! again. Does not know how the bytes get there, nor what the hub does: what it has
//! asked for to replay it asks for again.
//!
//! The texts of messages in memory are passed on as they were spelled when they were
//! kept: nobody reads them again before somebody wants them.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::backend::{Backend, Options};
use super::child::EndedChild;
use super::failure::{ENDING, Failure};
use super::hub_clock::HubClock;
use super::index::{Generation, Index, Log, Placed, Run};
use super::memtable::{Entry, Memtable};
use super::read_queue::QueuedRead;
use super::scheduler::ChildTask;
use super::snapshot_codec::{ImportError, VERSION};
use super::write_budget::WriteBudget;
use super::{Fetch, Store};
use crate::binary_codec;
use crate::binary_codec::{Destination, Output, Source};
use crate::hub::settings::WriteThrough as When;
use crate::hub::{EntryMeta, FetchPurpose, LogKey, Now};
use crate::protocol::Moment;
use crate::sort::{sort, sort_by};

/// All that is of no log.
#[derive(Serialize, Deserialize)]
struct Outline {
    /// How many logs follow.
    logs: usize,
    disk: Option<DiskOutline>,
}

/// All that is known of the disk but its logs. What is owed is not here: each
/// message knows when it goes to the disk, and since when it is kept.
#[derive(Serialize, Deserialize)]
struct DiskOutline {
    directory: PathBuf,
    /// All that is on the disk is known; else it is read from the beginning.
    is_loaded: bool,
    elapsed: Option<HubClock>,
    /// What of the budget was spent.
    spent: u64,
    /// With the bytes that were ever put there, and those that it takes.
    generations: Vec<(u32, u64, u64)>,
    newest: u32,
    newest_bytes: u64,
    next_life: u64,
    swept_at: Moment,
    stale_since: Option<Moment>,
    /// Why the disk cannot be used, where the hub knows; whether it cannot be read
    /// either, and when it is tried again.
    trouble: Option<(String, bool, Moment)>,
    attempts: u32,
    works_since: Option<Moment>,
    /// Asked for to be told of, and forgotten by the hub.
    notices: Vec<Notice>,
    ended: Vec<EndedChild>,
    /// Those that were killed.
    #[serde(default)]
    killed: Vec<EndedChild>,
}

/// What is read for a notice: the first position is after this, and the run is
/// where it lay when it was asked for.
#[derive(Serialize, Deserialize)]
struct Notice(FetchPurpose, LogKey, u64, usize, Option<(u32, u64, u64)>);

/// One log, in memory and on the disk.
#[derive(Serialize, Deserialize)]
struct Both {
    log: LogKey,
    /// Its life, cursor and last position, as the disk has them.
    standing: Option<(u64, u64, u64)>,
    is_stale: bool,
    /// Life, first and last position.
    gone: Vec<(u64, u64, u64)>,
    /// Position, generation and size, ascending.
    placed: Vec<(u64, u32, u32)>,
    kept: Vec<Kept>,
}

/// A message in memory: position, keeping, state, and how long its id and its body
/// are among the texts.
#[derive(Serialize, Deserialize)]
struct Kept(u64, Kind, State, usize, usize);

/// `EntryMeta`: until when and since when, size, whether somebody has it and whether
/// it was promised, when it goes to the disk.
#[derive(Serialize, Deserialize)]
struct Kind(Moment, Moment, u32, bool, bool, When);

/// Whether it was tried, and whether it is forgotten.
#[derive(Serialize, Deserialize)]
struct State(bool, bool);

impl Store {
    /// All that it knows, for a process that takes over. The process that owns the
    /// disk is let go: it finishes what it does, and whoever comes next waits for
    /// that. What it would have answered is owed again, so this one can go on as
    /// well if nobody takes over.
    pub fn export(&mut self, now: Now) -> Vec<u8> {
        binary_codec::collect(|to| self.write(now, to))
    }

    /// The same, without holding it.
    pub(crate) fn write(&mut self, now: Now, to: Destination<'_>) -> binary_codec::Written {
        if let Some(disk) = &mut self.disk {
            disk.let_go(now.moment, &mut self.tail);
        }
        let (tail, disk) = (&self.tail, self.disk.as_ref());
        let index = disk.map(|disk| &disk.index);
        // What is gone of each.
        let mut gone: HashMap<&LogKey, Vec<(u64, u64, u64)>> = HashMap::new();
        for run in index.into_iter().flat_map(|index| &index.gone) {
            gone.entry(&run.log).or_default().push((run.life, run.from, run.to));
        }
        let is_on_disk = |log: &LogKey| index.is_some_and(|index| index.logs.contains_key(log));
        let stale = index.into_iter().flat_map(|index| &index.stale);
        let others = tail.logs.keys().chain(stale).chain(gone.keys().copied());
        let mut others: Vec<&LogKey> = others.filter(|log| !is_on_disk(log)).collect();
        sort(&mut others);
        others.dedup();
        let on_disk = index.into_iter().flat_map(|index| index.logs.keys());
        let logs = index.map_or(0, |index| index.logs.len()) + others.len();
        let mut output = Output::new(VERSION, to);
        output.add(&Outline { logs, disk: disk.map(|disk| disk.outline(now.moment)) });
        for log in on_disk.chain(others) {
            let mut both = Both { gone: gone.remove(log).unwrap_or_default(), ..Both::of(log, tail) };
            if let Some(index) = index {
                both.describe(index);
            }
            output.add(&both);
            for (_, entry) in tail.logs.get(log).into_iter().flatten() {
                let (id, body) = tail.spelled(entry);
                output.add_bytes(id);
                output.add_bytes(body);
            }
        }
        output.end()
    }

    /// Goes on where another store was, with options that may be new but for the
    /// place; without options, in memory.
    ///
    /// # Errors
    /// When the bytes are no store, or one that this one cannot be.
    pub fn import(options: Option<Options>, now: Now, mut bytes: &[u8]) -> Result<Self, ImportError> {
        Self::read(options, now, Source::new(&mut bytes), |key| key)
    }

    /// The same, of a stream. `shared` finds the key of a log whose text others have.
    pub(crate) fn read(
        options: Option<Options>,
        now: Now,
        mut from: Source<'_>,
        shared: impl Fn(LogKey) -> LogKey,
    ) -> Result<Self, ImportError> {
        match from.version()? {
            VERSION => Self::assemble(options, now, from, shared),
            found => Err(ImportError::Version { found, known: VERSION }),
        }
    }

    fn assemble(
        options: Option<Options>,
        now: Now,
        mut from: Source<'_>,
        shared: impl Fn(LogKey) -> LogKey,
    ) -> Result<Self, ImportError> {
        let Outline { logs, disk } = from.next()?;
        let place = disk.as_ref().map(|disk| &disk.directory);
        let known = options.as_ref().map(|options| &options.directory);
        if place != known {
            return Err(ImportError::Place { found: place.cloned(), known: known.cloned() });
        }
        let mut store = Self::in_memory();
        if let (Some(options), Some(outline)) = (options, disk) {
            store.disk = Some(Backend::resume(options, now, outline)?);
        }
        for _ in 0..logs {
            let both: Both = from.next()?;
            store.take_over(Both { log: shared(both.log), ..both }, &mut from)?;
        }
        from.end()?;
        store.owe_all();
        Ok(store)
    }

    /// Where the disk of another store is, if it has one.
    ///
    /// # Errors
    /// When the bytes are no store.
    pub fn place(mut bytes: &[u8]) -> Result<Option<PathBuf>, ImportError> {
        let mut from = Source::new(&mut bytes);
        from.version()?;
        let Outline { disk, .. } = from.next()?;
        Ok(disk.map(|disk| disk.directory))
    }

    /// Takes one log.
    fn take_over(&mut self, both: Both, from: &mut Source<'_>) -> Result<(), ImportError> {
        let Both { log, standing, is_stale, gone, placed, kept } = both;
        let is_ascending = placed.is_sorted_by(|(before, ..), (after, ..)| before < after);
        // Positions begin at 1: what lies after the one before is asked for.
        let is_positive = placed.first().is_none_or(|(seq, ..)| *seq > 0);
        let has_life = standing.is_some() || placed.is_empty();
        if !(is_ascending && is_positive && has_life) {
            return Err(ImportError::Log(log));
        }
        for Kept(seq, kind, state, id, body) in kept {
            let Some(bytes) = id.checked_add(body) else { return Err(ImportError::Log(log)) };
            let text = from.next_bytes(bytes)?;
            self.tail.insert_spelled(&log, seq, &kind.keeping(), text, id);
            if let Some(entry) = self.tail.get_mut(&log, seq) {
                (entry.is_tried, entry.is_forgotten) = (state.0, state.1);
                // What goes to the disk at a stop goes at a hand-over; afterwards, when
                // nobody waits for that.
                if entry.disk == When::Stop {
                    self.tail.set_disk(&log, seq, When::Behind);
                }
            }
        }
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let index = &mut disk.index;
        index.gone.extend(gone.into_iter().map(|(life, from, to)| Run { log: log.clone(), life, from, to }));
        if is_stale {
            index.stale.insert(log.clone());
        }
        for (_, generation, size) in &placed {
            let generation = index.generations.entry(*generation).or_default();
            generation.messages += 1;
            generation.owed += u64::from(*size);
        }
        if let Some((life, cursor, last)) = standing {
            let placed = placed.into_iter().map(|(seq, generation, size)| Placed { seq, generation, size });
            index.logs.insert(log, Log { life, messages: placed.collect(), cursor, last });
        }
        Ok(())
    }

    /// Owes all again that goes to the disk of itself, oldest first.
    fn owe_all(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let each = self.tail.logs.iter().flat_map(|(log, messages)| {
            messages.iter().map(move |(seq, entry)| (entry.since, log, *seq, entry.disk))
        });
        let mut each: Vec<_> = each.collect();
        sort_by(&mut each, |one, other| (one.0, one.1, one.2).cmp(&(other.0, other.1, other.2)));
        for (since, log, seq, when) in each {
            disk.owes(since, log, seq, when, &self.tail);
        }
    }
}

impl Backend {
    /// Ends what is under way, without its answer.
    fn let_go(&mut self, now: Moment, tail: &mut Memtable) {
        let until = self.task.as_ref().map_or(now + ENDING, |(_, deadline)| *deadline);
        self.ended.extend(self.process.take().map(|process| process.dismiss(until)));
        match self.task.take().map(|(task, _)| task) {
            Some(ChildTask::Commit(batch)) => self.take_back(now, *batch, tail),
            Some(ChildTask::Read(wanted, _)) => self.reads.push_front(wanted),
            _ => {}
        }
        self.moving = None;
        if let Some(loading) = &mut self.loading {
            **loading = super::recovery::Recovery::default();
        }
    }

    fn outline(&self, now: Moment) -> DiskOutline {
        let trouble = self.trouble.as_ref().filter(|trouble| trouble.is_told);
        let generations = self.index.generations.iter();
        let (killed, ended) = self.ended.iter().partition(|ended| ended.is_killed());
        let notices =
            self.reads.iter().filter(|wanted| matches!(wanted.fetch.purpose, FetchPurpose::Notice(_))).map(
                |QueuedRead { fetch, run }| {
                    Notice(fetch.purpose, fetch.log.clone(), fetch.after, fetch.count, *run)
                },
            );
        DiskOutline {
            directory: self.options.directory.clone(),
            is_loaded: self.loading.is_none(),
            elapsed: self.elapsed.clone(),
            spent: self.budget.spent(now),
            generations: generations.map(|(number, of)| (*number, of.put, of.bytes)).collect(),
            newest: self.active_generation,
            newest_bytes: self.room.newest,
            next_life: self.index.next_life,
            swept_at: self.last_flush,
            stale_since: self.garbage_since,
            trouble: trouble.map(|trouble| (trouble.why.clone(), trouble.is_deaf, trouble.again)),
            attempts: self.attempts,
            works_since: self.works_since,
            notices: notices.collect(),
            ended,
            killed,
        }
    }

    /// The disk of another process, but for its logs.
    fn resume(options: Options, now: Now, outline: DiskOutline) -> Result<Self, ImportError> {
        let mut disk = Self::new(options, now);
        if let Some(elapsed) = outline.elapsed {
            disk.elapsed = Some(elapsed.taken_over(&disk.clocks).ok_or(ImportError::Boot)?);
        }
        if outline.is_loaded {
            disk.loading = None;
        }
        disk.budget = WriteBudget::new(disk.options.flash_budget, 0, now.moment);
        disk.budget.spend(now.moment, outline.spent);
        let generation = |(number, put, bytes)| (number, Generation { put, bytes, ..Generation::default() });
        disk.index.generations.extend(outline.generations.into_iter().map(generation));
        (disk.active_generation, disk.room.newest) = (outline.newest, outline.newest_bytes);
        disk.index.next_life = outline.next_life;
        (disk.last_flush, disk.garbage_since) = (outline.swept_at, outline.stale_since);
        disk.trouble =
            outline.trouble.map(|(why, is_deaf, again)| Failure { why, is_deaf, is_told: true, again });
        (disk.attempts, disk.works_since) = (outline.attempts, outline.works_since);
        let wanted = |Notice(purpose, log, after, count, run)| {
            let fetch = Fetch { purpose, log, after, count, bytes: usize::MAX };
            QueuedRead { fetch, run }
        };
        disk.reads = outline.notices.into_iter().map(wanted).collect();
        disk.ended = outline.ended.into_iter().map(|ended| ended.until(now.moment + ENDING)).collect();
        disk.ended.extend(outline.killed);
        Ok(disk)
    }
}

impl Both {
    /// What of it is in memory.
    fn of(log: &LogKey, tail: &Memtable) -> Self {
        let messages = tail.logs.get(log).into_iter().flatten();
        Self {
            log: log.clone(),
            standing: None,
            is_stale: false,
            gone: Vec::new(),
            placed: Vec::new(),
            kept: messages.map(|(seq, entry)| Kept::of(*seq, entry, tail)).collect(),
        }
    }

    /// What of it is on the disk.
    fn describe(&mut self, index: &Index) {
        self.is_stale = index.stale.contains(&self.log);
        if let Some(log) = index.logs.get(&self.log) {
            self.standing = Some((log.life, log.cursor, log.last));
            self.placed = log.messages.iter().map(|at| (at.seq, at.generation, at.size)).collect();
        }
    }
}

impl Kept {
    fn of(seq: u64, entry: &Entry, tail: &Memtable) -> Self {
        let Entry { expires, since, size, heard, durable, disk, is_tried, is_forgotten, .. } = *entry;
        let kind = Kind(expires, since, size, heard, durable, disk);
        let (id, body) = tail.spelled(entry);
        Self(seq, kind, State(is_tried, is_forgotten), id.len(), body.len())
    }
}

impl Kind {
    fn keeping(self) -> EntryMeta {
        let Self(expires, since, size, heard, durable, disk) = self;
        EntryMeta { expires, since, size, delivered: heard, durable, disk, scope: None }
    }
}
