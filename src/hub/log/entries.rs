//! The entries of one log: what the hub knows of each kept message, and their totals.
//!
//! An entry has the position, the size and the age of a message, and where it is. The payload
//! is in the store alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::position::SeqRange;
use super::publisher_quota::Author;
use crate::hub::channel::dedup::Scope;
use crate::hub::channel::delivery::Publisher;
use crate::hub::event::EntryMeta;
use crate::hub::settings::WriteThrough;
use crate::hub::timers::NEVER;
use crate::protocol::Moment;
use crate::small_queue::SmallQueue;

/// One kept message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(in crate::hub) struct LogEntry {
    seq: u64,
    expires: Moment,
    /// When it was kept; shown to administrators.
    since: Moment,
    /// The tag of the connection that published it, which does not count as a recipient; zero
    /// for an HTTP caller.
    publisher_tag: u64,
    size: u32,
    /// Its publisher, over whatever connection.
    #[serde(default)]
    author: Author,
    /// A recipient other than its publisher has it.
    delivered: bool,
    /// Its publisher is a recipient too.
    echo: bool,
    /// Workers were notified that it waits for a user who is away.
    announced: bool,
    /// Its publisher was promised that it is on the disk, or waits for that: no
    /// other log pushes it out.
    durable: bool,
    /// It is on the disk.
    stored: bool,
}

/// What the entry of a message takes that is on the disk. Of one that is not it
/// is in the size.
pub(in crate::hub) const ENTRY: usize = 64;

const _: () = assert!(size_of::<LogEntry>() <= ENTRY, "an entry is as large as it is counted");

impl LogEntry {
    pub(in crate::hub) fn new(seq: u64, size: u32, since: Moment, expires: Moment) -> Self {
        Self {
            seq,
            expires,
            since,
            publisher_tag: 0,
            size,
            author: Author::default(),
            delivered: false,
            echo: false,
            announced: false,
            durable: false,
            stored: false,
        }
    }

    pub(in crate::hub) fn published_by(self, from: &Publisher, author: Author) -> Self {
        Self { publisher_tag: from.tag(), echo: from.is_recipient(), author, ..self }
    }

    pub(in crate::hub) fn delivered(self, delivered: bool) -> Self {
        Self { delivered, ..self }
    }

    pub(in crate::hub) fn durable(self, durable: bool) -> Self {
        Self { durable, ..self }
    }

    /// A message on the disk, in the index again. Its publisher has another connection by
    /// now, and workers were notified of it when it was kept.
    pub(in crate::hub) fn recovered(seq: u64, meta: &EntryMeta) -> Self {
        Self {
            announced: true,
            delivered: meta.delivered,
            durable: meta.durable,
            stored: true,
            ..Self::new(seq, meta.size, meta.since, meta.expires)
        }
    }

    /// What the store has to know of it.
    pub(in crate::hub) fn meta(&self, disk: WriteThrough, scope: Option<Scope>) -> EntryMeta {
        EntryMeta {
            expires: self.expires,
            since: self.since,
            size: self.size,
            delivered: self.delivered,
            durable: self.durable,
            disk,
            scope,
        }
    }

    pub(in crate::hub) fn seq(&self) -> u64 {
        self.seq
    }

    pub(in crate::hub) fn size(&self) -> u32 {
        self.size
    }

    pub(super) fn expires(&self) -> Moment {
        self.expires
    }

    /// When it was kept.
    pub(in crate::hub) fn since(&self) -> Moment {
        self.since
    }

    pub(in crate::hub) fn author(&self) -> Author {
        self.author
    }

    pub(in crate::hub) fn is_delivered(&self) -> bool {
        self.delivered
    }

    pub(in crate::hub) fn is_durable(&self) -> bool {
        self.durable
    }

    pub(in crate::hub) fn is_stored(&self) -> bool {
        self.stored
    }

    /// Whether only the memory has it, and its publisher does not wait for the disk.
    pub(in crate::hub) fn is_volatile(&self) -> bool {
        !self.stored && !self.durable
    }

    pub(in crate::hub) fn is_expired(&self, now: Moment) -> bool {
        self.expires <= now
    }

    /// Whether a connection published it and is no recipient.
    pub(in crate::hub) fn is_withheld_from(&self, tag: u64) -> bool {
        self.publisher_tag == tag && !self.echo
    }
}

/// What the entries of one log come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Totals {
    /// Bytes of all of them.
    bytes: usize,
    /// Of those which only the memory has, and which may be given up.
    volatile: usize,
    /// Of those which only the memory has, and whose publisher waits for the disk.
    promised: usize,
    /// How many are on the disk.
    stored: usize,
}

impl Totals {
    fn add(&mut self, entry: &LogEntry) {
        self.bytes += entry.size as usize;
        *self.share_of(entry) += Self::counted(entry);
    }

    fn take(&mut self, entry: &LogEntry) {
        self.bytes -= entry.size as usize;
        *self.share_of(entry) -= Self::counted(entry);
    }

    fn share_of(&mut self, entry: &LogEntry) -> &mut usize {
        match entry {
            LogEntry { stored: true, .. } => &mut self.stored,
            LogEntry { durable: true, .. } => &mut self.promised,
            _ => &mut self.volatile,
        }
    }

    fn counted(entry: &LogEntry) -> usize {
        if entry.stored { 1 } else { entry.size as usize }
    }
}

/// The entries of one log. Each change keeps their totals in step.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(in crate::hub) struct Entries {
    /// By position, ascending.
    list: SmallQueue<LogEntry>,
    totals: Totals,
    /// No volatile entry lies before this.
    volatile_from: u64,
}

/// Entries that follow each other, none of which lies between two others: the first position
/// and how many they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::hub) struct EntryRun {
    first: u64,
    count: usize,
}

impl EntryRun {
    pub(in crate::hub) fn one(seq: u64) -> Self {
        Self { first: seq, count: 1 }
    }

    pub(in crate::hub) fn first(self) -> u64 {
        self.first
    }

    pub(in crate::hub) fn count(self) -> usize {
        self.count
    }
}

impl Entries {
    pub(in crate::hub) fn len(&self) -> usize {
        self.list.len()
    }

    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(in crate::hub) fn iter(&self) -> impl Iterator<Item = &LogEntry> {
        self.list.iter()
    }

    pub(in crate::hub) fn first(&self) -> Option<&LogEntry> {
        self.list.front()
    }

    /// Bytes of all of them.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.totals.bytes
    }

    /// Bytes of those which only the memory has, and which may be given up.
    pub(super) fn volatile_bytes(&self) -> usize {
        self.totals.volatile
    }

    /// Bytes of those which only the memory has.
    pub(super) fn unstored_bytes(&self) -> usize {
        self.totals.volatile + self.totals.promised
    }

    /// How many are on the disk.
    pub(super) fn stored(&self) -> usize {
        self.totals.stored
    }

    /// The one at a place, from the oldest on.
    pub(super) fn at(&self, place: usize) -> Option<&LogEntry> {
        self.list.get(place)
    }

    /// The place of the first entry after a position.
    fn place_after(&self, seq: u64) -> usize {
        self.list.partition_point(|entry| entry.seq <= seq)
    }

    /// Those after a position.
    pub(super) fn after(&self, seq: u64) -> impl Iterator<Item = &LogEntry> {
        self.list.range(self.place_after(seq)..)
    }

    pub(in crate::hub) fn first_after(&self, seq: u64) -> Option<&LogEntry> {
        self.list.get(self.place_after(seq))
    }

    pub(in crate::hub) fn find(&self, seq: u64) -> Option<&LogEntry> {
        let place = self.list.find(&seq, |entry| entry.seq).ok()?;
        self.list.get(place)
    }

    fn find_mut(&mut self, seq: u64) -> Option<&mut LogEntry> {
        let place = self.list.find(&seq, |entry| entry.seq).ok()?;
        self.list.get_mut(place)
    }

    pub(in crate::hub) fn contains(&self, seq: u64) -> bool {
        self.find(seq).is_some()
    }

    /// The positions between two, the second included.
    pub(in crate::hub) fn within(&self, after: u64, to: u64) -> impl Iterator<Item = u64> {
        self.after(after).map(|entry| entry.seq).take_while(move |seq| *seq <= to)
    }

    /// How many lie after a position.
    pub(in crate::hub) fn count_after(&self, seq: u64) -> usize {
        self.list.len() - self.place_after(seq)
    }

    /// The first after a position that a connection published and is not to get.
    pub(in crate::hub) fn first_withheld_from(&self, tag: u64, after: u64) -> Option<u64> {
        self.after(after).find(|entry| entry.is_withheld_from(tag)).map(|entry| entry.seq)
    }

    /// When the first of them expires.
    pub(super) fn first_expiry(&self) -> Moment {
        self.list.iter().map(|entry| entry.expires).min().unwrap_or(NEVER)
    }

    /// Those that satisfy a condition, as runs of at most `most`.
    pub(in crate::hub) fn runs(&self, most: usize, is_wanted: impl Fn(&LogEntry) -> bool) -> Vec<EntryRun> {
        let mut runs: Vec<EntryRun> = Vec::new();
        let mut adjacent = false;
        for entry in &self.list {
            let is_wanted = is_wanted(entry);
            match runs.last_mut() {
                Some(run) if is_wanted && adjacent && run.count < most => run.count += 1,
                _ if is_wanted => runs.push(EntryRun::one(entry.seq)),
                _ => {}
            }
            adjacent = is_wanted;
        }
        runs
    }

    pub(super) fn push(&mut self, entry: LogEntry) {
        self.totals.add(&entry);
        self.list.push_back(entry);
    }

    /// Puts entries between those that are here, ascending; `added` gets each that was put,
    /// and how many found their position taken is returned.
    pub(super) fn merge(&mut self, found: Vec<LogEntry>, mut added: impl FnMut(&LogEntry)) -> u64 {
        let mut doubles = 0;
        let mut rest = std::mem::take(&mut self.list).into_iter().peekable();
        for entry in found {
            while let Some(before) = rest.next_if(|here| here.seq < entry.seq) {
                self.list.push_back(before);
            }
            if rest.peek().is_some_and(|here| here.seq == entry.seq) {
                doubles += 1;
            } else {
                added(&entry);
                self.push(entry);
            }
        }
        self.list.extend(rest);
        doubles
    }

    /// A range is on the disk: `stored` gets each entry that was not, and how many those are
    /// is returned.
    pub(super) fn mark_stored(&mut self, range: SeqRange, mut stored: impl FnMut(&LogEntry)) -> u64 {
        let places =
            self.list.partition_point(|entry| entry.seq < range.from())..self.place_after(range.to());
        let mut count = 0;
        for entry in self.list.range_mut(places).filter(|entry| !entry.stored) {
            self.totals.take(entry);
            entry.stored = true;
            self.totals.add(entry);
            stored(entry);
            count += 1;
        }
        count
    }

    /// The publisher of a message waits for the disk from now on.
    pub(super) fn promise(&mut self, seq: u64) {
        self.change(seq, |entry| entry.durable = true);
    }

    /// Its publisher waits no longer, in vain; what is on the disk stays promised.
    pub(super) fn release(&mut self, seq: u64) {
        self.change(seq, |entry| entry.durable &= entry.stored);
        self.volatile_from = self.volatile_from.min(seq);
    }

    fn change(&mut self, seq: u64, change: impl FnOnce(&mut LogEntry)) {
        let Ok(place) = self.list.find(&seq, |entry| entry.seq) else { return };
        if let Some(entry) = self.list.get_mut(place) {
            self.totals.take(entry);
            change(entry);
            self.totals.add(entry);
        }
    }

    /// The oldest that is volatile. What was passed once is not looked at again.
    pub(super) fn first_volatile(&mut self) -> Option<u64> {
        let from = self.list.partition_point(|entry| entry.seq < self.volatile_from);
        let found = self.list.range(from..).find(|entry| entry.is_volatile()).map(|entry| entry.seq);
        let last = self.list.back().map_or(0, |entry| entry.seq + 1);
        self.volatile_from = found.unwrap_or(last).max(self.volatile_from);
        found
    }

    /// Of an inbox: its user has all up to a position.
    pub(super) fn mark_delivered_up_to(&mut self, seq: u64) {
        for entry in self.list.iter_mut().take_while(|entry| entry.seq <= seq) {
            entry.delivered = true;
        }
    }

    /// A connection has one, which counts unless it published that itself.
    pub(super) fn mark_delivered(&mut self, seq: u64, tag: u64) {
        if let Some(entry) = self.find_mut(seq) {
            entry.delivered |= entry.publisher_tag != tag;
        }
    }

    /// Workers are notified of one.
    pub(super) fn mark_announced(&mut self, seq: u64) {
        if let Some(entry) = self.find_mut(seq) {
            entry.announced = true;
        }
    }

    /// Those after a position of which workers were not notified, as runs of at most `most`;
    /// they are notified of all now.
    pub(super) fn announce_after(&mut self, seq: u64, most: usize) -> Vec<EntryRun> {
        let runs = self.runs(most, |entry| entry.seq > seq && !entry.announced);
        self.list.iter_mut().for_each(|entry| entry.announced = true);
        runs
    }

    /// None lives longer than so long since it was kept, nor longer than before.
    pub(super) fn shorten(&mut self, ttl: Duration) {
        for entry in self.list.iter_mut() {
            entry.expires = entry.expires.min(entry.since + ttl);
        }
    }

    /// Takes out what satisfies a condition: the ranges that went. Positions in a range that
    /// had no entry any more are in it too.
    pub(super) fn remove(&mut self, mut goes: impl FnMut(&LogEntry) -> bool) -> Vec<SeqRange> {
        let mut ranges: Vec<SeqRange> = Vec::new();
        let mut current: Option<SeqRange> = None;
        let totals = &mut self.totals;
        self.list.retain(|entry| {
            if goes(entry) {
                totals.take(entry);
                SeqRange::extend(&mut current, entry.seq);
                return false;
            }
            ranges.extend(current.take());
            true
        });
        ranges.extend(current);
        ranges
    }

    /// Takes one out.
    pub(super) fn take(&mut self, seq: u64) -> Option<LogEntry> {
        let place = self.list.find(&seq, |entry| entry.seq).ok()?;
        let entry = self.list.remove(place)?;
        self.totals.take(&entry);
        Some(entry)
    }
}
