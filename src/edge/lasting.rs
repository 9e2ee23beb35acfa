//! What the daemon finds when it begins, and leaves when it ends.
//!
//! Knows when the disk is read and written as a whole, and how far logs have come.
//! Does not know what is kept.

use std::path::Path;
use std::time::Duration;

use super::driver::Driver;
use super::store::positions::{Position, Positions};
use super::store::{Stamp, Store};
use crate::hub::{Input, StoreFact};

impl Driver {
    /// Begins: reads what is on the disk, before anybody is let in. After `patience`
    /// it is read while the daemon runs. `positions` is where a daemon that was
    /// killed has left its own.
    pub fn load(&mut self, patience: Duration, positions: &Path) {
        self.look_at_the_clock();
        let boot = self.store.boot().map(str::to_owned);
        for Position { log, epoch, seq } in boot.iter().flat_map(|boot| Positions::read(positions, boot)) {
            self.links.facts.push_back(Input::Store(StoreFact::Reached { log, epoch, seq }));
        }
        self.wait_for_store(patience, "reading what is kept", Store::is_open);
        if !self.store.is_open() {
            self.with_store(Store::give_up);
        }
        // Else the first thing that the hub hears of is the time at which it began.
        self.tell(Input::Due);
        if let Some(boot) = boot {
            self.follow(positions, &boot);
        }
    }

    /// Begins with a hub and a store that go on where those of another process were:
    /// what that one has noted is no news.
    pub fn go_on(&mut self, positions: &Path) {
        self.look_at_the_clock();
        self.tell(Input::Due);
        if let Some(boot) = self.store.boot().map(str::to_owned) {
            self.follow(positions, &boot);
        }
    }

    /// Notes from now on how far logs have come.
    fn follow(&mut self, path: &Path, boot: &str) {
        let position = |(log, epoch, seq)| Position { log, epoch, seq };
        let known: Vec<Position> = self.hub.reaches().into_iter().map(position).collect();
        match Positions::create(path, boot, &known) {
            Ok(positions) => self.positions = Some(positions),
            Err(error) => log::warn!("{}: after a crash all channels begin anew: {error}", path.display()),
        }
    }

    /// The same, now that the settings may say it of other logs. One that is followed
    /// no longer must not be found where it was: its numbers would be given out
    /// twice.
    pub(super) fn follow_again(&mut self) {
        let boot = self.store.boot().map(str::to_owned);
        if let (Some(positions), Some(boot)) = (self.positions.take(), boot) {
            self.follow(positions.path(), &boot);
        }
    }

    /// Writes how far logs have come, before anybody hears of it.
    pub(super) fn write_positions(&mut self) {
        if let Some(Err(error)) = self.positions.as_mut().map(Positions::write)
            && let Some(positions) = self.positions.take()
        {
            log::warn!("after a crash all channels begin anew: {error}");
            positions.remove();
        }
    }

    /// Writes what is to outlive the daemon; how many messages could not be written.
    pub fn save(&mut self, patience: Duration) -> usize {
        self.write_out(patience);
        if let Some(positions) = self.positions.take() {
            positions.remove();
        }
        self.store.owed()
    }

    /// Writes what is to outlive the daemon, for as long as that may take.
    pub fn write_out(&mut self, patience: Duration) {
        self.store.finish();
        self.wait_for_store(patience, "writing what is kept", Store::is_finished);
    }

    /// What the next daemon needs to go on, and when that was true.
    pub fn remains(&self) -> Option<(Stamp, Vec<u8>)> {
        Some((self.store.elapsed()?.stamp(self.now), self.hub.remains()))
    }

    /// Why the disk cannot be used, if that is so.
    pub fn trouble(&self) -> Option<&str> {
        self.store.trouble()
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
