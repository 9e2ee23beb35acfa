//! What the daemon finds when it begins, and leaves when it ends.
//!
//! Knows when the disk is read and written as a whole, and how far logs have come.
//! Does not know what is kept.

use std::path::PathBuf;
use std::time::Duration;

use super::Driver;
use crate::edge::net::connection_table::WritePermit;
use crate::edge::store::seq_file::{SeqFile, SeqFileEntry, SeqFileOwner};
use crate::edge::store::{Stamp, Store};
use crate::hub::{Input, LogKey, StoreEvent};

impl Driver {
    /// Begins: reads what is on the disk, before anybody is let in. After `patience`
    /// it is read while the daemon runs. `positions` are the places where a daemon that
    /// was killed may have left its own; they stay there until [`Self::follow_from`].
    pub fn load(&mut self, patience: Duration, positions: &[PathBuf]) {
        self.look_at_the_clock();
        let owner = self.store.owner();
        if let Some(owner) = &owner {
            for SeqFileEntry { log, epoch, seq } in
                positions.iter().flat_map(|path| SeqFile::read(path, owner))
            {
                self.links.inputs.push_back(Input::Store(StoreEvent::LastSeq { log, epoch, seq }));
            }
        }
        self.wait_for_store(patience, "reading what is kept", Store::is_open);
        if !self.store.is_open() {
            self.with_store(Store::abandon_recovery);
        }
        // Else the first thing that the hub hears of is the time at which it began.
        self.tell(Input::Timeout);
    }

    /// Begins with a hub and a store that go on where those of another process were:
    /// what that one has noted is no news.
    pub fn go_on(&mut self) {
        self.look_at_the_clock();
        if self.store.is_failure_reported() {
            self.links.inputs.push_back(Input::Store(StoreEvent::Failed));
        }
        self.tell(Input::Timeout);
    }

    /// Notes from now on how far logs have come, in the place of what a daemon before
    /// this one has noted: nothing may keep this one from running after that.
    pub fn follow_from(&mut self, positions: &[PathBuf]) {
        if let Some(owner) = self.store.owner() {
            self.follow(positions, &owner);
        }
    }

    /// Notes from now on how far logs have come, in the first of these places where a
    /// file can be made. In the others there is none then: it would be too old.
    fn follow(&mut self, places: &[PathBuf], owner: &SeqFileOwner) {
        let position = |(log, epoch, seq)| SeqFileEntry { log, epoch, seq };
        let known: Vec<SeqFileEntry> = self.hub.reaches().into_iter().map(position).collect();
        let mut refused = Vec::new();
        for place in places {
            if self.positions.is_some() {
                SeqFile::discard(place);
                continue;
            }
            match SeqFile::create(place, owner, &known) {
                Ok(positions) => self.positions = Some(positions),
                Err(error) => refused.push(format!("{}: {error}", place.display())),
            }
        }
        if self.positions.is_none() && !refused.is_empty() {
            log::warn!("after a crash all channels begin anew: {}", refused.join("; "));
        }
    }

    /// The same, now that the settings may say it of other logs. One that is followed
    /// no longer must not be found where it was: its numbers would be given out
    /// twice.
    pub(in crate::edge) fn follow_again(&mut self) {
        if let (Some(positions), Some(owner)) = (self.positions.take(), self.store.owner()) {
            self.follow(&[positions.path().to_owned()], &owner);
        }
    }

    /// Notes how far logs have come, before anybody hears of it: then links may be
    /// written to.
    pub(in crate::edge) fn permit_to_write(&mut self) -> WritePermit {
        let hub = &self.hub;
        let is_known = |log: &LogKey| hub.standing(log).is_some();
        if let Some(Err(error)) = self.positions.as_mut().map(|positions| positions.write(is_known))
            && let Some(positions) = self.positions.take()
        {
            log::warn!("after a crash all channels begin anew: {}: {error}", positions.path().display());
            positions.remove();
        }
        WritePermit::numbers_are_noted()
    }

    /// Writes what is to outlive the daemon; how many messages could not be written.
    pub fn save(&mut self, patience: Duration) -> usize {
        self.write_out(patience);
        if let Some(positions) = self.positions.take() {
            positions.remove();
        }
        self.store.unwritten_len()
    }

    /// Writes what is to outlive the daemon, for as long as that may take.
    fn write_out(&mut self, patience: Duration) {
        self.store.finish();
        self.wait_for_store(patience, "writing what is kept", Store::is_finished);
    }

    /// The same while the loop goes on.
    pub fn begin_write_out(&mut self) {
        self.store.finish();
    }

    /// Whether that is done, or cannot be done.
    pub fn has_written_out(&self) -> bool {
        self.store.is_finished()
    }

    /// What is not done by now is not waited for.
    pub fn end_write_out(&mut self) {
        self.store.interrupt(self.now.moment);
    }

    /// What the next daemon needs to go on, and when that was true.
    pub fn remains(&self) -> Option<(Stamp, Vec<u8>)> {
        Some((self.store.hub_clock()?.stamp(self.now), self.hub.remains()))
    }

    /// Why the disk cannot be used, if that is so.
    pub fn trouble(&self) -> Option<&str> {
        self.store.failure()
    }

    fn wait_for_store(&mut self, patience: Duration, what: &str, is_done: impl Fn(&Store) -> bool) {
        /// Its deadlines are looked at so often.
        const LOOK_AGAIN: Duration = Duration::from_millis(100);
        self.look_at_the_clock();
        let deadline = self.now.moment + patience;
        self.with_store(Store::tick);
        while !is_done(&self.store) && self.now.moment < deadline {
            self.takes_longer(what);
            self.store.wait(LOOK_AGAIN);
            self.look_at_the_clock();
            self.with_store(Store::ready);
            self.with_store(Store::tick);
        }
        self.pump();
    }
}
