//! Reading the whole disk, once, before anything is written to it.
//!
//! Knows how records, marks and runs of several generations make logs. Does not
//! know what the hub does with them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::disk::{Around, Disk};
use super::elapsed::{Elapsed, Stamp};
use super::index::Placed;
use super::orders::Task;
use super::spelling::{self, Head, LogMark};
use super::words::{Size, Word};
use crate::hub::{Found, Input, StoreFact};

/// The state of the store itself, written with every commit.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct StoreMark {
    pub(super) stamp: Stamp,
    /// What of the budget was spent.
    pub(super) spent: u64,
}

/// A log, while it is put together.
#[derive(Default)]
struct Gathered {
    mark: Option<LogMark>,
    /// By position; a later generation has the later word.
    records: BTreeMap<u64, (u32, Head)>,
    /// Life, first and last position.
    gone: Vec<(u64, u64, u64)>,
}

/// What was read so far.
#[derive(Default)]
pub(super) struct Loading {
    /// What is still to be read, oldest first, once that is known.
    generations: Option<VecDeque<u32>>,
    logs: HashMap<String, Gathered>,
    store: Option<StoreMark>,
    damaged: u64,
    /// What of it the process has read that is there now.
    read: u64,
}

/// A process that has read so much has grown; another one begins with fresh memory.
/// It is less than two of the largest generations: with the third it would grow to
/// twice as much, and to begin takes as long as to read half a generation.
const LARGE: u64 = 12 << 20;

/// What has read so much does not stay once all is read.
const GROWN: u64 = 1 << 20;

impl Loading {
    /// The next generation to be read.
    pub(super) fn next(&self) -> Option<u32> {
        self.generations.as_ref()?.front().copied()
    }

    fn take(&mut self, generation: u32, word: Word<'_>) -> Result<bool, String> {
        match word {
            Word::Record { log, seq, head, .. } => match spelling::head(&head) {
                Some(head) => {
                    self.log(&log).records.insert(seq, (generation, head));
                }
                None => self.damaged += 1,
            },
            Word::Mark(mark) if mark.log.is_empty() => {
                self.store = serde_json::from_str(mark.state.get()).ok().or(self.store.take());
            }
            Word::Mark(mark) => match serde_json::from_str(mark.state.get()) {
                Ok(state) => self.log(&mark.log).mark = Some(state),
                Err(_) => self.damaged += 1,
            },
            Word::Gone(gone) => match spelling::log_and_life(&gone.log) {
                Some((log, life)) => self.log(log).gone.push((life, gone.from, gone.to)),
                None => self.damaged += 1,
            },
            Word::Loaded { damaged, notes } => {
                self.damaged += damaged;
                for note in notes {
                    log::warn!("{note}");
                }
                return Ok(true);
            }
            word => return Err(format!("the process that owns the disk said {word:?}, unasked")),
        }
        Ok(false)
    }

    fn log(&mut self, log: &str) -> &mut Gathered {
        if !self.logs.contains_key(log) {
            self.logs.insert(log.to_owned(), Gathered::default());
        }
        self.logs.entry(log.to_owned()).or_default()
    }
}

impl Gathered {
    /// Drops what is kept no longer. Without a mark, damage took it: all that is of
    /// the last life is kept rather than lost.
    fn sift(&mut self) -> LogMark {
        let last_life = self.records.values().map(|(_, head)| head.0).max().unwrap_or_default();
        let mark = self.mark.unwrap_or(LogMark { life: last_life, first: 0, cursor: 0, last: 0 });
        let of_this_life = |(life, from, to): (u64, u64, u64)| (life == mark.life).then_some((from, to));
        let mut gone: Vec<_> = std::mem::take(&mut self.gone).into_iter().filter_map(of_this_life).collect();
        gone.sort_unstable();
        // Numbers go on above what is gone, too: it would be taken for that.
        let written = self.records.iter().filter(|(_, (_, head))| head.0 == mark.life).map(|(seq, _)| *seq);
        let last = written.chain(gone.iter().map(|(_, to)| *to)).max().unwrap_or_default();
        let mut gone = gone.into_iter().peekable();
        // Ascending, both: no position above it is gone so far.
        let mut reach = 0;
        self.records.retain(|seq, (_, head)| {
            while let Some((_, to)) = gone.next_if(|(from, _)| from <= seq) {
                reach = reach.max(to);
            }
            head.0 == mark.life && *seq >= mark.first && *seq > reach
        });
        LogMark { last: mark.last.max(last), ..mark }
    }
}

impl Disk {
    /// The process has said which generations there are. One that was set aside
    /// because it is damaged is gone with all that it held; whoever wants to read
    /// that is told then.
    pub(super) fn is_there(&mut self, sizes: &[Size], around: &mut Around<'_>) {
        let is_there = |generation: u32| sizes.iter().any(|size| size.generation == generation);
        let lost = self.index.lose_generations(is_there);
        if lost > 0 {
            // Nobody but this line tells it to an administrator.
            log::error!(
                "{lost} messages are gone with what was set aside in {}",
                self.options.directory.display()
            );
        }
        if let Some(generations) = self.loading.as_mut().and_then(|loading| loading.generations.as_mut()) {
            generations.retain(|generation| is_there(*generation));
        }
        for size in sizes {
            self.index.generations.entry(size.generation).or_default().bytes = size.bytes;
        }
        if let Some(last) = sizes.last() {
            self.newest = self.newest.max(last.generation);
        }
        if let Some(loading) = &mut self.loading {
            loading.generations.get_or_insert(sizes.iter().map(|size| size.generation).collect());
            if loading.next().is_none() {
                self.has_loaded(around);
            }
        }
    }

    /// A word of a generation that is being read.
    pub(super) fn load(
        &mut self,
        generation: u32,
        word: Word<'_>,
        around: &mut Around<'_>,
    ) -> Result<(), String> {
        let Some(loading) = &mut self.loading else { return Ok(()) };
        if !loading.take(generation, word)? {
            return Ok(());
        }
        if let Some(generations) = &mut loading.generations {
            generations.pop_front();
        }
        loading.read += self.index.generations.get(&generation).map_or(0, |generation| generation.bytes);
        let is_over = loading.next().is_none();
        debug_assert!(matches!(self.task, Some((Task::Load(_), _))));
        self.task = None;
        if loading.read > if is_over { GROWN } else { LARGE } {
            loading.read = 0;
            self.ends_after_this = true;
        }
        if is_over {
            self.has_loaded(around);
        }
        Ok(())
    }

    /// All of it was read: the hub is told what is there.
    fn has_loaded(&mut self, around: &mut Around<'_>) {
        let Some(mut loading) = self.loading.take() else { return };
        if loading.damaged > 0 {
            log::error!("{} messages on the disk are damaged and lost", loading.damaged);
        }
        let now = around.now;
        let stamp = loading.store.as_ref().map(|store| &store.stamp);
        let latest = loading.logs.values().flat_map(|log| log.records.values().map(|(_, head)| head.2)).max();
        let clocks = self.clocks.clone();
        let elapsed = self.elapsed.take();
        let elapsed = elapsed.unwrap_or_else(|| Elapsed::new(now, clocks, stamp));
        let elapsed = elapsed.not_before(now, latest.unwrap_or_default());
        if let Some(store) = &loading.store {
            self.budget.spend(now.moment, store.spent);
        }
        for (name, mut log) in loading.logs.drain() {
            let lives = log.records.values().map(|(_, head)| head.0).chain(log.mark.map(|mark| mark.life));
            self.index.has_seen(lives.max().unwrap_or_default());
            let Some(key) = spelling::key(&name) else { continue };
            let place = |(seq, (generation, head)): (&u64, &(u32, Head))| Placed {
                seq: *seq,
                generation: *generation,
                size: head.3,
            };
            let all: Vec<Placed> = log.records.iter().map(place).collect();
            let mark = log.sift();
            for dead in all.iter().filter(|placed| !log.records.contains_key(&placed.seq)) {
                self.index.has_seen_dead(dead);
            }
            if log.records.is_empty() {
                continue;
            }
            let placed: Vec<Placed> = log.records.iter().map(place).collect();
            self.index.adopt(&key, &mark, &placed);
            let kept = log.records.into_iter().map(|(seq, (_, head))| head.found(seq, &elapsed)).collect();
            let found = Found { log: key, cursor: mark.cursor, last: mark.last, kept };
            around.facts.push_back(Input::Store(StoreFact::Found(Box::new(found))));
        }
        self.elapsed = Some(elapsed);
        self.has_found_all();
    }
}
