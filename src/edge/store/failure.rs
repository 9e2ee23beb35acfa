//! What is done when the disk cannot be used, and when there is no later.
//!
//! Knows who is told, what is owed again, and when another attempt is made. Does
//! not know what may go wrong.

use std::time::Duration;

use super::backend::{Backend, StoreContext};
use super::memtable::Memtable;
use super::recovery::Recovery;
use super::scheduler::ChildTask;
use crate::hub::settings::WriteThrough as When;
use crate::hub::{Input, StoreEvent};
use crate::protocol::Moment;

/// The longest pause between two attempts on a disk that fails.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// So often is the disk tried before the daemon starts without it: once more than
/// it takes until all that is damaged is out of the way.
const ATTEMPTS: u32 = 5;

/// A page is asked for so often before whoever waits for it is told that it cannot
/// be read: one process may die by chance, and what is damaged is out of the way
/// after three.
const READINGS: u32 = 4;

/// What fails again within this time has not recovered: a disk that takes what is
/// written and cannot be read would else fail once a second for ever, at the cost
/// of a commit each time.
const CALM: Duration = Duration::from_secs(120);

/// At the end there is no later: it is tried so often.
pub(super) const LAST_TRIES: u32 = 3;

/// How long a process may take to finish what it does, once nobody wants anything of
/// it any more: as long as any order may.
pub(super) const ENDING: Duration = Duration::from_secs(10);

/// Of processes that were killed and are not gone, there are no more: each is in a call
/// that the disk does not answer, and the next one would stand beside it.
const MOST_HUNG: usize = 2;

/// Why the disk cannot be used.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) why: String,
    /// Nothing can be read either.
    pub(super) is_deaf: bool,
    /// The hub knows.
    pub(super) is_told: bool,
    /// When it is tried again.
    pub(super) again: Moment,
}

/// What can still be done with a disk that fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Left {
    Nothing,
    Reading,
}

impl Backend {
    /// The disk cannot be used, for now.
    pub(super) fn fail(&mut self, why: String, tail: &mut Memtable, around: &mut StoreContext<'_>) {
        if self.copies_later(around.now.moment, &why) || self.reads_once_more(around.now.moment, &why) {
            return;
        }
        let is_writing = matches!(self.task, Some((ChildTask::Commit(_) | ChildTask::Drop(_), _)));
        self.fail_but(if is_writing { Left::Reading } else { Left::Nothing }, why, tail, around);
    }

    /// What failed was only reading, or to begin with it, and another process may do
    /// better.
    fn reads_once_more(&mut self, now: Moment, why: &str) -> bool {
        let is_reading = self.task.as_ref().is_some_and(|(task, _)| match task {
            ChildTask::Start => self.loading.is_none() && !self.reads.is_empty(),
            task => task.is_reading(),
        });
        if !is_reading || self.read_failures >= READINGS - 1 {
            return false;
        }
        log::warn!("{why}; reading it again");
        self.read_failures += 1;
        self.kill_process(now);
        self.moving = None;
        if let Some((ChildTask::Read(wanted, _), _)) = self.task.take() {
            self.reads.push_front(wanted);
        }
        true
    }

    pub(super) fn fail_but(
        &mut self,
        left: Left,
        why: String,
        tail: &mut Memtable,
        around: &mut StoreContext<'_>,
    ) {
        let now = around.now.moment;
        self.kill_process(now);
        let task = self.task.take().map(|(task, _)| task);
        let is_deaf = left == Left::Nothing;
        let before = self.trouble.take();
        let is_known = before.as_ref().is_some_and(|trouble| trouble.why == why);
        let mut is_told = before.is_some_and(|trouble| trouble.is_told);
        // What is damaged is set aside after some attempts to read it: this need not
        // be the end of it.
        if self.loading.is_some() && self.attempts < ATTEMPTS && !is_told {
            if !is_known {
                log::warn!("{why}; trying again");
            }
        } else if !is_told {
            log::error!("messages are kept in memory only: {why}");
            around.inputs.push_back(Input::Store(StoreEvent::Failed));
            is_told = true;
            if self.loading.is_some() {
                // Those were to get in at all; from now on nobody waits.
                self.attempts = 0;
            }
        }
        self.moving = None;
        match task {
            Some(ChildTask::Commit(batch)) => self.take_back(now, *batch, tail),
            Some(ChildTask::Read(wanted, _)) => self.reads.push_front(wanted),
            _ => {}
        }
        let mut buried = Vec::new();
        for (log, seq) in self.sync_queue.drain(..) {
            tail.set_disk(&log, seq, When::Behind);
            if let Some(entry) = tail.get(&log, seq) {
                let (is_forgotten, is_tried) = (entry.is_forgotten, entry.is_tried);
                self.unwritten.push_back((now, log.clone(), seq));
                if is_forgotten {
                    tail.remove(&log, seq);
                    buried.extend(is_tried.then(|| (log.clone(), seq)));
                }
            }
            around.inputs.push_back(Input::Store(StoreEvent::NotStored { log, seq }));
        }
        self.sync_queue.shrink_to(64);
        for (log, seq) in buried {
            self.bury(now, &log, [seq]);
        }
        if is_deaf {
            self.deafen(around);
        }
        if let Some(loading) = &mut self.loading {
            **loading = Recovery::default();
        }
        // Whoever starts waits for the first attempts.
        let first = if is_told { Duration::from_secs(1) } else { Duration::from_millis(100) };
        self.trouble = Some(Failure { why, is_deaf, is_told, again: now + self.pause(now, first) });
    }

    /// Looks after the processes that are to end: who takes too long is killed. Where no
    /// more could be started because of them, that is tried as soon as one is gone.
    pub(super) fn look_after_ended(&mut self, now: Moment) {
        let hung = self.hung();
        self.ended.retain(|ended| !ended.is_gone());
        self.ended.iter_mut().for_each(|ended| ended.hurry(now));
        if hung >= MOST_HUNG
            && self.hung() < MOST_HUNG
            && let Some(trouble) = &mut self.trouble
        {
            trouble.again = now;
        }
    }

    /// Kills the process if it has something to do, which is given up at its time.
    pub(super) fn interrupt(&mut self, now: Moment) {
        if self.task.is_some() {
            self.kill_process(now);
        }
    }

    fn hung(&self) -> usize {
        self.ended.iter().filter(|ended| ended.is_overdue()).count()
    }

    /// Why no process is started now, if that is so.
    pub(super) fn hangs(&mut self) -> Option<String> {
        let hung = self.hung();
        if hung < MOST_HUNG {
            return None;
        }
        let directory = self.options.directory.display();
        let why = format!("the disk of {directory} hangs: {hung} processes were killed and do not end");
        if self.has_told() && self.trouble.as_ref().is_some_and(|trouble| trouble.why != why) {
            log::error!("{why}; no other is started until one of them has ended");
        }
        Some(why)
    }

    /// Whether the disk cannot be used, and the hub knows.
    pub(super) fn has_told(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| trouble.is_told)
    }

    /// The daemon starts without the disk, which takes too long.
    pub(super) fn give_up(&mut self, tail: &mut Memtable, around: &mut StoreContext<'_>) {
        self.attempts = ATTEMPTS;
        self.fail("reading what is kept takes too long".to_owned(), tail, around);
    }

    /// How long to wait before another attempt, after one more that failed.
    fn pause(&mut self, now: Moment, first: Duration) -> Duration {
        let is_calm = self.works_since.take().is_some_and(|since| since + CALM <= now);
        let exponent = if is_calm { 0 } else { self.attempts.min(5) };
        self.attempts = exponent + 1;
        if self.is_finishing {
            self.last_tries = self.last_tries.saturating_sub(1);
            return Duration::from_millis(300);
        }
        LONGEST_PAUSE.min(first * (1 << exponent))
    }

    /// Whoever waits for something from the disk is told that it cannot be read.
    pub(super) fn deafen(&mut self, around: &mut StoreContext<'_>) {
        for wanted in self.reads.drain(..) {
            around.inputs.push_back(wanted.fetch.unread());
        }
    }

    /// It can be used again.
    pub(super) fn recover(&mut self, around: &mut StoreContext<'_>) {
        if self.trouble.is_some() {
            self.works_since = Some(around.now.moment);
        }
        if self.trouble.take().is_some_and(|trouble| trouble.is_told) {
            log::info!("messages are written to {} again", self.options.directory.display());
            around.inputs.push_back(Input::Store(StoreEvent::Recovered));
        }
    }

    /// From now on everything is written that can be. What failed is tried at once.
    pub(super) fn finish(&mut self, tail: &Memtable) {
        let is_owed = tail.owed().next().is_some() || self.index.is_stale();
        // What is under way may fail, and is owed then.
        self.is_finishing = is_owed || self.task.is_some() || self.loading.is_some();
        if let Some(trouble) = &mut self.trouble {
            trouble.again = Moment(0);
        }
    }

    /// Whether everything that can be written is.
    pub(super) fn is_finished(&self) -> bool {
        let is_given_up = self.trouble.is_some() && self.last_tries == 0;
        self.task.is_none() && (is_given_up || !self.is_finishing)
    }
}
