//! The write-ahead log of a generation: what was committed to it and is not in its
//! database yet.
//!
//! It is a file of records that only grows. A commit is its records and one that ends it: one
//! write and one sync, which is the least that a disk can do for it. A power cut may leave a part
//! of the last commit, with holes in it: no publisher was answered, and what stands before the
//! first hole is taken. A hole before the last commit is damage, and costs the records in it.

use std::collections::BTreeMap;
use std::fs;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use rustix::rand::{GetRandomFlags, getrandom};

use super::error::{StoreError, StoreResult};
use super::generation::{ReadDemand, RecordSink, StoredMessage};
use super::record;
use super::record::LogHash;
use super::wal_scan::{RecordCounts, RecordKind, RecordSpan, WalScan};
use crate::edge::store::ipc::{LogHeader, NewRecord, Tombstone};

/// Its file is called so, and then as many hexadecimal digits as its salt has.
const NAME: &str = "wal-";

/// Before each record: its length, and the checksum of the salt, the offset and the
/// record. The salt is random, so that no publisher can send a message in which a record
/// stands that would be found where the one around it is damaged.
const HEADER: usize = 4 + 4;

/// A record longer than this is none: the limit of a message is far below.
const LONGEST: usize = 64 << 20;

/// How much is read at a time, and kept in memory for the next commit.
const BLOCK: usize = 256 << 10;

/// Up to this size a commit is written into zeroes that are there already: then the file
/// gets no longer, and the file system has nothing to write but that. A larger one costs
/// less as it is.
const SMALL: usize = 8 << 10;
/// So many pages of them are written with a commit that has come to their end, where as
/// many small ones came before it as make a page or two.
const ZEROES: u64 = 4;
const IN_A_ROW: u32 = 8;

/// What a file is made of.
const PAGE: u64 = 4096;

const MESSAGE: u8 = 1;
const MARK: u8 = 2;
const GONE: u8 = 3;
/// The end of a commit, with the numbers of messages and of other records that were
/// ever committed.
const END: u8 = 4;

/// A record as it was committed.
#[derive(Clone, Copy)]
pub(super) enum WalRecord<'a> {
    Message(StoredMessage<'a>),
    Mark { log: &'a str, state: &'a str },
    Gone { log: &'a str, from: u64, to: u64 },
    End(RecordCounts),
}

pub struct Wal {
    path: PathBuf,
    salt: u64,
    file: File,
    /// Where the next commit begins. What lies after it was never committed.
    end: u64,
    /// What was committed.
    counts: RecordCounts,
    /// What was committed and cannot be read.
    damaged: u64,
    /// How long the file is. After the end there are zeroes.
    length: u64,
    /// How many small commits came one after the other.
    small: u32,
    /// What was never committed is not in the file any more.
    is_cut: bool,
    /// Something was committed since it was opened.
    has_grown: bool,
    /// The next commit.
    buffer: Vec<u8>,
    /// Where messages are, up to an offset: found when the first is read.
    spans: BTreeMap<(LogHash, u64), RecordSpan>,
    known_to: u64,
}

impl Wal {
    /// Opens that of a generation, if it has one.
    pub fn open(directory: &Path) -> StoreResult<Option<Self>> {
        let Some((path, salt)) = find(directory)? else { return Ok(None) };
        let failed = || StoreError::file(&path);
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed())?;
        // The process that wrote to it may have ended before that was synced: what is sent from
        // here on is on the disk.
        file.sync_data().map_err(failed())?;
        let mut wal = Self::new(path, salt, file);
        wal.survey()?;
        Ok(Some(wal))
    }

    /// Makes one. The first write to it has to sync its name, too.
    pub(super) fn create(directory: &Path) -> StoreResult<Self> {
        let mut salt = [0; 8];
        getrandom(&mut salt, GetRandomFlags::empty()).map_err(StoreError::call(directory))?;
        let salt = u64::from_be_bytes(salt);
        let path = directory.join(format!("{NAME}{salt:016x}"));
        let mut options = OpenOptions::new();
        let file =
            options.read(true).write(true).create_new(true).open(&path).map_err(StoreError::file(&path))?;
        Ok(Self { is_cut: true, ..Self::new(path, salt, file) })
    }

    fn new(path: PathBuf, salt: u64, file: File) -> Self {
        Self {
            path,
            salt,
            file,
            end: 0,
            counts: RecordCounts::default(),
            damaged: 0,
            length: 0,
            small: 0,
            is_cut: false,
            has_grown: false,
            buffer: Vec::new(),
            spans: BTreeMap::new(),
            known_to: 0,
        }
    }

    /// What it takes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.length.next_multiple_of(PAGE)
    }

    /// Where the next commit begins.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// What of it was committed and cannot be read.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Writes all of it, and returns when it is on the disk: how much that was, for disks
    /// are written to in pages.
    pub(super) fn commit(
        &mut self,
        puts: &[NewRecord<'_>],
        marks: &[LogHeader<'_>],
        gone: &[Tombstone<'_>],
    ) -> StoreResult<u64> {
        let mut commit =
            CommitBuffer { salt: self.salt, at: self.end, bytes: std::mem::take(&mut self.buffer) };
        for NewRecord { log, seq, head, body } in puts {
            commit.add(MESSAGE, &[&seq.to_be_bytes()], [log, head.get(), body.get()]);
        }
        for LogHeader { log, state } in marks {
            commit.add(MARK, &[], [log, state.get()]);
        }
        for Tombstone { log, from, to } in gone {
            commit.add(GONE, &[&from.to_be_bytes(), &to.to_be_bytes()], [log]);
        }
        let RecordCounts { messages, others } = self.counts;
        let others = others + (marks.len() + gone.len()) as u64;
        let counts = RecordCounts { messages: messages + puts.len() as u64, others };
        commit.add(END, &[&counts.messages.to_be_bytes(), &counts.others.to_be_bytes()], [""]);
        let mut bytes = commit.bytes;
        let written = self.write(&bytes).inspect_err(|_| {
            // What could not be written is still in memory, where it looks as if
            // it were on the disk. The next to open this is to see the disk.
            let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
        })?;
        (self.end, self.counts, self.has_grown) = (self.end + bytes.len() as u64, counts, true);
        bytes.clear();
        bytes.shrink_to(BLOCK);
        self.buffer = bytes;
        Ok(written)
    }

    fn write(&mut self, bytes: &[u8]) -> StoreResult<u64> {
        let failed = || StoreError::file(&self.path);
        if !self.is_cut {
            // What was never committed must not be found behind what is.
            self.file.set_len(self.end).map_err(failed())?;
            (self.length, self.is_cut) = (self.end, true);
        }
        let end = self.end + bytes.len() as u64;
        let mut pages = end.div_ceil(PAGE) - self.end / PAGE;
        self.file.write_all_at(bytes, self.end).map_err(failed())?;
        self.length = self.length.max(end);
        self.small = if bytes.len() <= SMALL { self.small.saturating_add(1) } else { 0 };
        if self.small >= IN_A_ROW && end == self.length {
            // One by one: what is written at once is written again at once, though of all
            // of it only one page has changed.
            for _ in 0..ZEROES {
                let next = self.length.next_multiple_of(PAGE);
                let zeroes = if next == self.length { PAGE } else { next - self.length };
                self.file
                    .write_all_at(&[0; PAGE as usize][..zeroes as usize], self.length)
                    .map_err(failed())?;
                self.length += zeroes;
            }
            pages += ZEROES;
        }
        self.file.sync_data().map_err(failed())?;
        Ok(pages * PAGE)
    }

    /// Writes how many records there are to a file beside it: a missing end could not be
    /// noticed otherwise. Not synced: a number that is too low does no harm.
    pub(super) fn write_count(&self) -> StoreResult {
        if !self.has_grown {
            return Ok(());
        }
        let path = count_file(&self.path);
        fs::write(&path, record::seal(&self.salt.to_be_bytes(), &self.counts.messages.to_be_bytes()))
            .map_err(StoreError::file(&path))
    }

    fn read_count(&self) -> Option<u64> {
        let text = fs::read(count_file(&self.path)).ok()?;
        record::unseal(&self.salt.to_be_bytes(), &text)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// Removes it: all of it is in the database.
    pub(super) fn remove(self) -> StoreResult {
        match fs::remove_file(count_file(&self.path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StoreError::file(&self.path)(error));
            }
            _ => {}
        }
        fs::remove_file(&self.path).map_err(StoreError::file(&self.path))
    }

    /// Scans where it ends, and what of it cannot be read.
    fn survey(&mut self) -> StoreResult {
        let mut window = WalWindow::new(self)?;
        let length = window.length;
        let mut survey = WalScan::default();
        let mut at = 0;
        while let Some((span, found)) = window.next(at)? {
            survey.push(at, span, found);
            at = span.at + span.length as u64;
        }
        self.length = length;
        let count_file = self.read_count().unwrap_or_default();
        survey.finish(count_file);
        (self.end, self.counts) = (survey.end, survey.counts);
        self.damaged = survey.damaged + count_file.saturating_sub(survey.counts.messages);
        self.counts.messages = count_file.max(survey.counts.messages);
        Ok(())
    }

    /// Passes on the records from one offset on, until there are none or no more are wanted;
    /// returns the offset after the last of them. How many are damaged is in
    /// [`Self::damaged`].
    pub(super) fn each(
        &self,
        from: u64,
        mut take: impl FnMut(WalRecord<'_>) -> StoreResult<ReadDemand>,
    ) -> StoreResult<u64> {
        self.each_with_span(from, |_, record| take(record))
    }

    fn each_with_span(
        &self,
        from: u64,
        mut take: impl FnMut(RecordSpan, WalRecord<'_>) -> StoreResult<ReadDemand>,
    ) -> StoreResult<u64> {
        let mut window = WalWindow::new(self)?;
        window.length = self.end;
        let mut at = from;
        while let Some((span, _)) = window.next(at)? {
            at = span.at + span.length as u64;
            if let Some(record) = window.record(span)?
                && take(span, record)? == ReadDemand::Enough
            {
                return Ok(at);
            }
        }
        Ok(at)
    }

    /// Passes on all that is in it: messages as they were committed, then the last state of
    /// each log, then what is kept no longer.
    pub fn load(&self, sink: &mut impl RecordSink) -> StoreResult {
        let mut marks: BTreeMap<Box<str>, Box<str>> = BTreeMap::new();
        let mut runs: Vec<(Box<str>, u64, u64)> = Vec::new();
        self.each(0, |record| {
            match record {
                WalRecord::Message(message) => return sink.message(message),
                WalRecord::Mark { log, state } => drop(marks.insert(log.into(), state.into())),
                WalRecord::Gone { log, from, to } => runs.push((log.into(), from, to)),
                WalRecord::End(_) => {}
            }
            Ok(ReadDemand::More)
        })?;
        if self.damaged > 0 {
            sink.damaged(format!("{}: {} records", self.path.display(), self.damaged), self.damaged);
        }
        for (log, state) in &marks {
            sink.mark(log, state)?;
        }
        for (log, from, to) in &runs {
            sink.gone(log, *from, *to)?;
        }
        Ok(())
    }

    /// The messages of a log from one position to another, both ends included,
    /// ascending.
    pub(super) fn find(&mut self, log: &str, from: u64, to: u64) -> StoreResult<Vec<LocatedMessage>> {
        let mut spans = std::mem::take(&mut self.spans);
        let known_to = self.each_with_span(self.known_to, |span, record| {
            if let WalRecord::Message(message) = record {
                spans.insert((record::log_hash(message.log), message.seq), span);
            }
            Ok(ReadDemand::More)
        });
        self.spans = spans;
        self.known_to = known_to?;
        let place = record::log_hash(log);
        let found = self.spans.range((place, from)..=(place, to));
        Ok(found.map(|((_, seq), span)| LocatedMessage { seq: *seq, span: *span }).collect())
    }

    /// Passes on a message that was located.
    pub(super) fn pass_on(
        &self,
        found: &LocatedMessage,
        sink: &mut impl RecordSink,
    ) -> StoreResult<ReadDemand> {
        let mut window = WalWindow::new(self)?;
        window.block = 0;
        match window.record(found.span)? {
            Some(WalRecord::Message(message)) => sink.message(message),
            _ => {
                sink.damaged(format!("message {} of a log", found.seq), 1);
                Ok(ReadDemand::More)
            }
        }
    }
}

/// A message that was located.
pub(super) struct LocatedMessage {
    pub(super) seq: u64,
    span: RecordSpan,
}

/// A part of the file in memory.
struct WalWindow<'w> {
    wal: &'w Wal,
    length: u64,
    start: u64,
    bytes: Vec<u8>,
    /// How much is read at least.
    block: usize,
}

impl<'w> WalWindow<'w> {
    fn new(wal: &'w Wal) -> StoreResult<Self> {
        let length = wal.file.metadata().map_err(StoreError::file(&wal.path))?.len();
        Ok(Self { wal, length, start: 0, bytes: Vec::new(), block: BLOCK })
    }

    /// So many bytes from an offset on; none, where the file is shorter.
    fn get(&mut self, at: u64, count: usize) -> StoreResult<Option<&[u8]>> {
        let is_there = at.checked_add(count as u64).is_some_and(|end| end <= self.length);
        if !is_there {
            return Ok(None);
        }
        let held = |window: &Self| {
            let from = usize::try_from(at.checked_sub(window.start)?).ok()?;
            let to = from.checked_add(count)?;
            (to <= window.bytes.len()).then_some(from..to)
        };
        if held(self).is_none() {
            let block = count.max(self.block).min(usize::try_from(self.length - at).unwrap_or(usize::MAX));
            self.bytes.resize(block, 0);
            self.start = at;
            let read = self.wal.file.read_exact_at(&mut self.bytes, at);
            read.map_err(StoreError::reading(&self.wal.path))?;
        }
        Ok(held(self).and_then(|range| self.bytes.get(range)))
    }

    /// The record at an offset, or the next one that can be read.
    fn next(&mut self, at: u64) -> StoreResult<Option<(RecordSpan, RecordKind)>> {
        let mut at = at;
        while at + (HEADER as u64) < self.length {
            if let Some(length) = self.length_at(at)? {
                let span = RecordSpan { at, length };
                match self.record(span)? {
                    Some(WalRecord::Message(_)) => return Ok(Some((span, RecordKind::Message))),
                    Some(WalRecord::End(counts)) => return Ok(Some((span, RecordKind::End(counts)))),
                    Some(_) => return Ok(Some((span, RecordKind::Other))),
                    None => {}
                }
            }
            at += 1;
        }
        Ok(None)
    }

    /// How long the record at an offset is with its header, if there may be one.
    fn length_at(&mut self, at: u64) -> StoreResult<Option<usize>> {
        let Some(header) = self.get(at, HEADER)? else { return Ok(None) };
        let length = header.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
        let length = length.filter(|length| (1..LONGEST).contains(length)).map(|length| HEADER + length);
        let end = |length: &usize| at.checked_add(*length as u64);
        Ok(length.filter(|length| end(length).is_some_and(|end| end <= self.length)))
    }

    /// The record in a place, if it is what was written there.
    fn record(&mut self, RecordSpan { at, length }: RecordSpan) -> StoreResult<Option<WalRecord<'_>>> {
        let salt = self.wal.salt;
        let Some(bytes) = self.get(at, length)? else { return Ok(None) };
        let Some((sum, content)) = bytes.get(4..).and_then(|bytes| bytes.split_first_chunk::<4>()) else {
            return Ok(None);
        };
        let is_right = u32::from_be_bytes(*sum) == checksum(salt, at, content);
        Ok(if is_right { read(content) } else { None })
    }
}

/// A commit that is being put together.
struct CommitBuffer {
    salt: u64,
    /// Where it will be.
    at: u64,
    bytes: Vec<u8>,
}

impl CommitBuffer {
    fn add<const N: usize>(&mut self, kind: u8, numbers: &[&[u8]], texts: [&str; N]) {
        let from = self.bytes.len();
        self.bytes.extend([0; HEADER]);
        self.bytes.push(kind);
        numbers.iter().for_each(|number| self.bytes.extend_from_slice(number));
        record::join_to(&mut self.bytes, texts);
        let at = self.at + from as u64;
        let Some((header, content)) =
            self.bytes.get_mut(from..).and_then(|bytes| bytes.split_first_chunk_mut::<HEADER>())
        else {
            return;
        };
        let (length, sum) = header.split_at_mut(4);
        length.copy_from_slice(&(content.len() as u32).to_be_bytes());
        sum.copy_from_slice(&checksum(self.salt, at, content).to_be_bytes());
    }
}

fn checksum(salt: u64, at: u64, content: &[u8]) -> u32 {
    record::checksum(&[&salt.to_be_bytes(), &at.to_be_bytes(), content])
}

/// A record without its header.
fn read(content: &[u8]) -> Option<WalRecord<'_>> {
    let (kind, content) = content.split_first()?;
    let number = |content: &mut &[u8]| {
        let (number, rest) = content.split_first_chunk::<8>()?;
        *content = rest;
        Some(u64::from_be_bytes(*number))
    };
    let mut rest = content;
    Some(match *kind {
        MESSAGE => {
            let seq = number(&mut rest)?;
            let [log, head, body] = record::split(rest)?;
            WalRecord::Message(StoredMessage { log, seq, head, body })
        }
        MARK => {
            let [log, state] = record::split(rest)?;
            WalRecord::Mark { log, state }
        }
        GONE => {
            let (from, to) = (number(&mut rest)?, number(&mut rest)?);
            let [log] = record::split(rest)?;
            WalRecord::Gone { log, from, to }
        }
        END => WalRecord::End(RecordCounts { messages: number(&mut rest)?, others: number(&mut rest)? }),
        _ => return None,
    })
}

/// The file in a directory, and its salt.
fn find(directory: &Path) -> StoreResult<Option<(PathBuf, u64)>> {
    let failed = || StoreError::file(directory);
    for entry in fs::read_dir(directory).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if let Some(salt) = salt(&entry.file_name().to_string_lossy()) {
            return Ok(Some((entry.path(), salt)));
        }
    }
    Ok(None)
}

/// The salt that a name spells.
fn salt(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(NAME).filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// How long that of a generation is; none, if it has none.
pub(super) fn length(directory: &Path) -> StoreResult<u64> {
    let found = find(directory)?;
    let length = found.map(|(path, _)| fs::metadata(&path).map_err(StoreError::file(&path)));
    Ok(length.transpose()?.map_or(0, |metadata| metadata.len()))
}

fn count_file(path: &Path) -> PathBuf {
    path.with_extension("count")
}
