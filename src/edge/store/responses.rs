//! What the process that owns the disk says, and what follows from each word.
//!
//! Knows which word answers which order. Does not know when an order is given.

use std::io;

use super::backend::{Backend, StoreContext};
use super::encoding;
use super::failure::ENDING;
use super::ipc::{SpaceReport, StoreResponse};
use super::memtable::Memtable;
use super::read_queue::QueuedRead;
use super::scheduler::ChildTask;

impl Backend {
    /// The socket has something, or takes something.
    pub(super) fn ready(&mut self, tail: &mut Memtable, around: &mut StoreContext<'_>) {
        let Some(mut process) = self.process.take() else { return };
        let flushed = process.flush(around.epoll);
        let mut failed = None;
        let read = process.read(|word| {
            if failed.is_none() {
                failed = self.heard(word, tail, around).err();
            }
        });
        if std::mem::take(&mut self.ends_after_this) {
            self.ended.push(process.dismiss(around.now.moment + ENDING));
        } else {
            self.process = Some(process);
        }
        let gone = |error: io::Error| {
            let is_end = error.kind() == io::ErrorKind::UnexpectedEof;
            let how = if is_end { "ended".to_owned() } else { error.to_string() };
            format!("the process that owns the disk is gone: {how}")
        };
        if let Some(why) = failed.or_else(|| flushed.and(read).err().map(gone)) {
            // Nothing was asked of it, so nothing failed: the next order starts
            // another.
            match self.process.take_if(|_| self.task.is_none() && self.trouble.is_none()) {
                Some(process) => self.ended.push(process.kill()),
                None => self.fail(why, tail, around),
            }
        }
        self.tick(tail, around);
    }

    /// One word of the process.
    fn heard(
        &mut self,
        word: StoreResponse<'_>,
        tail: &mut Memtable,
        around: &mut StoreContext<'_>,
    ) -> Result<(), String> {
        match (word, self.task.as_mut().map(|(task, _)| task)) {
            (StoreResponse::Failed { why }, _) => return Err(why),
            (StoreResponse::Ready { generations, room, notes }, Some(ChildTask::Start)) => {
                self.task = None;
                self.room = SpaceReport { newest: self.room.newest, ..room };
                for note in notes {
                    log::warn!("{note}");
                }
                self.is_there(&generations, tail, around);
            }
            (
                StoreResponse::Record { log, seq, body: Some(body), .. },
                Some(ChildTask::Read(QueuedRead { fetch, .. }, reading)),
            ) => {
                let is_meant = encoding::log(&fetch.log) == log;
                let message = encoding::message(&fetch.log, seq, &body).filter(|_| is_meant);
                reading.reached = Some(seq);
                reading.messages.extend(message);
            }
            (StoreResponse::Record { seq, head, body: Some(body), .. }, Some(ChildTask::Move)) => {
                if let Some(moving) = &mut self.moving {
                    moving.came(seq, head.into_owned(), body.into_owned());
                }
            }
            (word, Some(ChildTask::Load(generation))) => {
                let generation = *generation;
                self.load(generation, word, tail, around)?;
            }
            (StoreResponse::Read { .. }, Some(ChildTask::Read(..))) => self.has_read(tail, around),
            (StoreResponse::Read { .. }, Some(ChildTask::Move)) => {
                (self.task, self.read_failures) = (None, 0);
                if let Some(moving) = &mut self.moving {
                    moving.has_read(&mut self.index);
                }
            }
            (StoreResponse::Committed { room }, Some(ChildTask::Commit(_))) => {
                self.has_written(room, tail, around)
            }
            (StoreResponse::Dropped { room }, Some(ChildTask::Drop(generation))) => {
                self.index.generations.remove(generation);
                self.task = None;
                self.has_room(around.now.moment, SpaceReport { newest: self.room.newest, ..room });
                self.tell_capacity(tail, around.inputs);
            }
            (StoreResponse::Checkpointed { room, is_done }, Some(ChildTask::Checkpoint(generation))) => {
                let generation = *generation;
                self.has_copied(generation, room, is_done, tail, around);
            }
            (word, _) => return Err(format!("the process that owns the disk said {word:?}, unasked")),
        }
        Ok(())
    }

    /// Why the process has ended, if it has said so.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let mut last = None;
        let process = self.process.as_mut()?;
        // It ends in an error, for there is nobody any more.
        let _ = process.read(|word| {
            if let StoreResponse::Failed { why } = word {
                last = Some(why);
            }
        });
        last
    }
}
