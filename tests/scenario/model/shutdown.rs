//! Ends of the hub, and the state of the next one.
//!
//! A clean stop carries over more than a crash, of which only the disk is left.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use wshubd::hub::LogKey;
use wshubd::protocol::{Channel, Moment};

use super::operations::Observed;
use super::reference::{Check, Keeps, Log};
use super::{Model, Peer};
use crate::harness::{Written, user_id};

/// How a hub ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// It stops.
    Clean,
    /// Its process is killed.
    Killed,
    /// The machine is without power.
    Power,
}

impl Model {
    /// The hub ends, and another one begins on what is left.
    pub(super) fn end_hub(&mut self, end: End) -> Check {
        self.listen()?;
        for peer in &mut self.peers {
            peer.conn = None;
            peer.interrupts.clear();
            peer.asked.clear();
        }
        let remains = (end == End::Clean).then(|| self.harness.end());
        let mut written = Vec::new();
        for name in self.logs.keys() {
            written.push((name.clone(), self.harness.written(&key_of(name))));
        }
        for (name, written) in written {
            let log = self.logs.get_mut(&name).unwrap();
            log.keep_promises(&self.stored, &written)?;
            match end {
                End::Clean => log.stop(&written),
                End::Killed if log.keeps.is_history() && log.seq() > 0 => log.stop(&written),
                End::Killed | End::Power => log.crash(written),
            }
            self.maybe.append(&mut log.maybe);
        }
        self.harness.repair_disk();
        (self.is_dark, self.harness.disk.was_unread) = (false, false);
        match (&remains, end) {
            (Some(remains), _) => self.harness.begin(Some(remains), 0),
            (None, End::Killed) => self.harness.kill(),
            (None, _) => self.harness.crash(),
        }
        if end != End::Clean {
            self.peers.iter_mut().for_each(Peer::forget_numbers);
        }
        self.departures.clear();
        // A pending answer was sent, or is lost with the process that asked.
        self.maybe.append(&mut self.asked);
        self.harness.journal = Some(Vec::new());
        self.listener = self.harness.worker();
        // It receives first what it missed.
        let subscribe = json!({"action": "subscribe", "channel": "system:undelivered"});
        self.harness.send_unread(self.listener, &subscribe);
        self.observed = Observed::new(&mut self.harness);
        Ok(())
    }
}

fn key_of(name: &str) -> LogKey {
    match name.strip_prefix('@') {
        Some(user) => LogKey::Inbox(user_id(user)),
        None => LogKey::Channel(Channel::new(name).unwrap()),
    }
}

impl Peer {
    /// After a crash the numbers of an inbox mean nothing; nor can what it said
    /// last be known again, if it was lost.
    fn forget_numbers(&mut self) {
        self.inbox = 0;
        self.last_publication = None;
    }
}

impl Log {
    /// What was answered as stored is on the disk, while it is kept.
    fn keep_promises(&self, stored: &BTreeSet<String>, written: &Written) -> Check {
        let is_broken = |seq: &u64| {
            let line = &self.lines[*seq as usize - 1];
            stored.contains(&line.id) && !written.kept.contains(seq)
        };
        match self.kept().into_iter().find(is_broken) {
            Some(seq) => Err(format!("{} {seq} was told to be stored, and is not", self.name)),
            None => Ok(()),
        }
    }

    /// What is on the disk goes on as it was. While the connections of a user end
    /// one by one, it may receive notices of what waits.
    fn stop(&mut self, written: &Written) {
        if self.keeps == Keeps::Unacknowledged {
            let (waiting, passing) = self.desert(Moment::default());
            self.maybe.extend(waiting.into_iter().chain(passing));
        }
        for seq in self.kept() {
            let line = &mut self.lines[seq as usize - 1];
            if !written.kept.contains(&seq) {
                line.gone = Some("not_kept");
            }
        }
        self.go_on();
    }

    /// What is on the disk is all there is, and its numbers are others.
    fn crash(&mut self, written: Written) {
        self.epoch = None;
        self.offered = 0;
        self.was_unread = false;
        self.sessions.clear();
        self.lines.truncate(usize::try_from(written.last).unwrap());
        let Some(first) = written.kept.first() else {
            self.lines.clear();
            self.cursor = 0;
            return;
        };
        self.cursor = written.forgotten.min(first - 1);
        for line in &mut self.lines {
            line.receipt = None;
            line.is_told = false;
            line.is_had = false;
            // An undelivered message is dropped once it is delivered, and not lost.
            let is_over = self.keeps == Keeps::Unheard && line.is_heard && line.gone.is_none();
            if written.kept.contains(&line.seq) {
                line.gone = None;
            } else if !is_over {
                line.gone = Some("not_kept");
            }
        }
        self.go_on();
    }

    fn go_on(&mut self) {
        self.sessions.clear();
        for line in &mut self.lines {
            line.is_waiting = true;
            // Whether it was read after it was kept the disk does not know.
            line.is_unsure = self.keeps != Keeps::Unacknowledged && line.is_heard;
        }
    }
}

/// The epoch of a log as announced; a new one after a crash, and no other time.
pub(super) fn same_epoch(log: &mut Log, received: &Value) -> Check {
    match &log.epoch {
        Some(epoch) if epoch == received => Ok(()),
        Some(epoch) => Err(format!("{}: the epoch is {received}, and was {epoch}", log.name)),
        None if log.epochs.contains(received) => Err(format!("{}: epoch {received} is back", log.name)),
        None => {
            log.epochs.push(received.clone());
            log.epoch = Some(received.clone());
            Ok(())
        }
    }
}
