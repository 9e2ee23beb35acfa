//! Recorder of the numbers that logs have reached, so that they go on from there if the process
//! is killed.

use std::path::PathBuf;

use crate::edge::net::write_permit::WritePermit;
use crate::edge::store::seq_file::{SeqFile, SeqFileEntry, SeqFileOwner};
use crate::hub::{Hub, LogKey, LogPosition};

/// The file, where there is one; it holds the logs whose settings say so.
#[derive(Default)]
pub(super) struct SeqRecorder(Option<SeqFile>);

impl SeqRecorder {
    /// Begins with what the hub knows, in the first of these places where a file can be made.
    /// In the others there is none then: it would be too old.
    pub(super) fn begin(&mut self, places: &[PathBuf], owner: &SeqFileOwner, hub: &Hub) {
        let entry = |(log, last): (LogKey, LogPosition)| {
            let LogPosition { epoch, seq } = last;
            SeqFileEntry { log, epoch, seq }
        };
        let known: Vec<SeqFileEntry> = hub.lasting_positions().into_iter().map(entry).collect();
        let mut refused = Vec::new();
        for place in places {
            if self.0.is_some() {
                SeqFile::discard(place);
                continue;
            }
            match SeqFile::create(place, owner, &known) {
                Ok(file) => self.0 = Some(file),
                Err(error) => refused.push(format!("{}: {error}", place.display())),
            }
        }
        if self.0.is_none() && !refused.is_empty() {
            log::warn!("after a crash all channels begin anew: {}", refused.join("; "));
        }
    }

    /// The same in the same place, now that the settings may say it of other logs. One that is
    /// recorded no longer must not be found where it was: its numbers would be given out
    /// twice.
    pub(super) fn begin_again(&mut self, owner: Option<&SeqFileOwner>, hub: &Hub) {
        if let (Some(file), Some(owner)) = (self.0.take(), owner) {
            self.begin(&[file.path().to_owned()], owner, hub);
        }
    }

    /// A log has reached a number.
    pub(super) fn record(&mut self, log: &LogKey, epoch: u64, seq: u64) {
        if let Some(file) = &mut self.0 {
            file.grew(log, epoch, seq);
        }
    }

    /// Writes what was recorded, before any peer receives it: then connections may be written
    /// to.
    pub(super) fn permit(&mut self, hub: &Hub) -> WritePermit {
        let is_known = |log: &LogKey| hub.cursor_and_last(log).is_some();
        if let Some(Err(error)) = self.0.as_mut().map(|file| file.write(is_known))
            && let Some(file) = self.0.take()
        {
            log::warn!("after a crash all channels begin anew: {}: {error}", file.path().display());
            file.remove();
        }
        WritePermit::numbers_are_recorded()
    }

    /// Removes the file: all numbers are elsewhere.
    pub(super) fn remove(&mut self) {
        if let Some(file) = self.0.take() {
            file.remove();
        }
    }
}
