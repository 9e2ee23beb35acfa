//! Sealed file in memory that holds the state in a hand-over.
//!
//! Its first line has the version of the form of the rest, and the number of descriptors of
//! each kind that go with it. It stays as it is for ever, so that a daemon of any
//! version can at least close connections properly that it cannot go on with.

use std::fs::File;
use std::io;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use serde::{Deserialize, Serialize};

use crate::binary_codec::{Destination, Written};

/// Raised when a daemon could not go on with what an older one wrote. The parts
/// of the hub and of the store have numbers of their own.
const FORM: u32 = 1;

/// What the first line begins with.
const MAGIC: &str = "wshubd handover";

/// The first line takes this much, whatever is in it.
const LINE: usize = 160;

/// Once it is sealed, no process that has the descriptor can write to it or cut it.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Where some bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Span {
    from: u64,
    bytes: u64,
}

/// How many descriptors of each kind there are, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct DescriptorCounts {
    pub locks: usize,
    pub listeners: usize,
    pub connections: usize,
    pub pending: usize,
}

impl DescriptorCounts {
    pub(super) fn total(self) -> usize {
        self.locks + self.listeners + self.connections + self.pending
    }
}

/// A file that is being written.
pub(super) struct MemfdWriter {
    out: BufWriter<File>,
    end: u64,
}

impl MemfdWriter {
    /// An empty one.
    pub(super) fn new() -> io::Result<Self> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("wshubd-state", flags)?);
        file.seek(SeekFrom::Start(LINE as u64))?;
        Ok(Self { out: BufWriter::with_capacity(64 << 10, file), end: LINE as u64 })
    }

    /// Adds some bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) -> io::Result<Span> {
        let span = Span { from: self.end, bytes: bytes.len() as u64 };
        self.out.write_all(bytes)?;
        self.end += span.bytes;
        Ok(span)
    }

    /// Adds what is written piece by piece.
    pub(super) fn stream(&mut self, write: impl FnOnce(Destination<'_>) -> Written) -> io::Result<Span> {
        let span = Span { from: self.end, bytes: write(&mut self.out)? };
        self.end += span.bytes;
        Ok(span)
    }

    /// Closes it with the table that explains the rest.
    pub(super) fn seal(mut self, counts: DescriptorCounts, table: &[u8]) -> io::Result<OwnedFd> {
        let Span { from, bytes } = self.put(table)?;
        let DescriptorCounts { locks, listeners, connections, pending } = counts;
        let checksum = crc32fast::hash(table);
        let heading =
            format!("{MAGIC} {FORM} {locks} {listeners} {connections} {pending} {from} {bytes} {checksum}");
        let line = format!("{heading:<width$}\n", width = LINE - 1);
        let file = self.out.into_inner().map_err(|error| error.into_error())?;
        file.write_all_at(line.as_bytes(), 0)?;
        fcntl_add_seals(&file, SEALS)?;
        Ok(file.into())
    }
}

/// A file that was sealed, perhaps by a daemon of another version.
#[derive(Debug)]
pub(super) struct Sealed {
    file: File,
    form: u32,
    pub counts: DescriptorCounts,
    table: Span,
    checksum: u32,
}

fn wrong(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl Sealed {
    /// Looks at the first line.
    ///
    /// # Errors
    /// When it is no file of a daemon that handed over.
    pub(super) fn open(descriptor: OwnedFd) -> io::Result<Self> {
        if !fcntl_get_seals(&descriptor).is_ok_and(|seals| seals.contains(SEALS)) {
            return Err(wrong("it is not sealed"));
        }
        let file = File::from(descriptor);
        let mut line = [0; LINE];
        file.read_exact_at(&mut line, 0)?;
        let line = std::str::from_utf8(&line).ok().and_then(|line| line.strip_prefix(MAGIC));
        let mut words = line.ok_or_else(|| wrong("it is not of a wshubd"))?.split_ascii_whitespace();
        let mut number = || -> io::Result<u64> {
            let word = words.next().and_then(|word| word.parse().ok());
            word.ok_or_else(|| wrong("its first line is not whole"))
        };
        let form = number()?.try_into().map_err(|_| wrong("its form has no such number"))?;
        let mut count = || Ok::<_, io::Error>(number()? as usize);
        let counts = DescriptorCounts {
            locks: count()?,
            listeners: count()?,
            connections: count()?,
            pending: count()?,
        };
        let table = Span { from: number()?, bytes: number()? };
        let checksum = number()?.try_into().map_err(|_| wrong("its checksum is none"))?;
        Ok(Self { file, form, counts, table, checksum })
    }

    /// The table.
    ///
    /// # Errors
    /// When it is of another form, or damaged.
    pub(super) fn table(&self) -> io::Result<Vec<u8>> {
        if self.form != FORM {
            return Err(wrong(format!(
                "the state is of form {}, this daemon understands form {FORM}",
                self.form
            )));
        }
        let table = self.get(self.table)?;
        if crc32fast::hash(&table) != self.checksum {
            return Err(wrong("the state is damaged"));
        }
        Ok(table)
    }

    /// Bytes that were put in.
    ///
    /// # Errors
    /// When there are no such bytes.
    pub(super) fn get(&self, span: Span) -> io::Result<Vec<u8>> {
        let end = span.from.checked_add(span.bytes);
        if end.is_none_or(|end| self.file.metadata().is_ok_and(|meta| end > meta.len())) {
            return Err(wrong("the state is cut off"));
        }
        let mut bytes = vec![0; span.bytes as usize];
        self.file.read_exact_at(&mut bytes, span.from)?;
        Ok(bytes)
    }

    /// The same, to be read piece by piece.
    pub(super) fn reader(&self, span: Span) -> Part<'_> {
        Part { file: &self.file, rest: span }
    }
}

/// Part of the file, that is still to be read.
pub(super) struct Part<'a> {
    file: &'a File,
    rest: Span,
}

impl Read for Part<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = to.len().min(usize::try_from(self.rest.bytes).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut to[..most], self.rest.from)?;
        self.rest.from += read as u64;
        self.rest.bytes -= read as u64;
        Ok(read)
    }
}
