//! A codec for state on its way to another process or to the disk: values in few bytes, one
//! behind the other, with a checksum.
//!
//! A stream begins with a mark and the version of what is in it, and ends with a
//! checksum. It is written and read in pieces of [`PIECE`] bytes, so that neither side
//! holds more of it than that. Values are spelled as postcard does: in order, without
//! the names of fields, so every change of a type is another version.

use std::fmt;
use std::io;
use std::io::{Read, Write};

use postcard::Deserializer;
use postcard::Serializer;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a stream begins with: no byte of a text.
const MARK: u8 = 0xb1;

/// So much is in memory of a stream.
const PIECE: usize = 64 << 10;

/// How long the checksum is.
const CHECKSUM: usize = size_of::<u32>();

/// Why a stream cannot be read or written.
#[derive(Debug)]
pub(crate) enum Error {
    /// It does not begin as one.
    Mark,
    /// It ends too early, or what is in it is not what was asked for.
    Form(postcard::Error),
    /// Other bytes were written than were read.
    Checksum,
    /// Something follows where nothing should.
    Longer,
    /// The file it is in.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark => f.write_str("it does not begin as one"),
            Self::Form(error) => write!(f, "its form is wrong: {error}"),
            Self::Checksum => f.write_str("its checksum is wrong"),
            Self::Longer => f.write_str("it is longer than it says"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<postcard::Error> for Error {
    fn from(error: postcard::Error) -> Self {
        Self::Form(error)
    }
}

/// Where a stream goes.
pub(crate) type Destination<'a> = &'a mut dyn Write;

/// How many bytes were written, if all were.
pub(crate) type Written = io::Result<u64>;

/// A stream in memory, which takes whatever is written.
pub(crate) fn collect(write: impl FnOnce(Destination<'_>) -> Written) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = write(&mut bytes);
    debug_assert!(written.is_ok(), "{written:?}");
    bytes
}

/// A stream that is written.
pub(crate) struct Output<'a> {
    to: Destination<'a>,
    piece: Vec<u8>,
    sum: crc32fast::Hasher,
    failed: Option<io::Error>,
    bytes: u64,
}

impl<'a> Output<'a> {
    /// Begins one.
    pub(crate) fn new(version: u32, to: Destination<'a>) -> Self {
        let piece = Vec::with_capacity(PIECE);
        let mut output = Self { to, piece, sum: crc32fast::Hasher::new(), failed: None, bytes: 0 };
        output.add_bytes(&[MARK]);
        output.add(&version);
        output
    }

    /// Adds a value. An error is returned at the end.
    pub(crate) fn add(&mut self, value: &(impl Serialize + ?Sized)) {
        let written = value.serialize(&mut Serializer { output: &mut *self });
        debug_assert!(written.is_ok() || self.failed.is_some(), "{written:?}");
        if let Err(error) = written {
            self.failed.get_or_insert_with(|| io::Error::other(error.to_string()));
        }
    }

    /// Adds bytes; the reader must know how many.
    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) {
        if self.piece.len() + bytes.len() > PIECE {
            self.pass_on();
        }
        if bytes.len() > PIECE {
            self.put(bytes);
        } else {
            self.piece.extend_from_slice(bytes);
        }
    }

    /// How many bytes it has.
    ///
    /// # Errors
    /// The first that occurred.
    pub(crate) fn end(mut self) -> Written {
        self.pass_on();
        let sum = std::mem::take(&mut self.sum).finalize();
        self.put(&sum.to_le_bytes());
        self.failed.map_or(Ok(self.bytes), Err)
    }

    fn pass_on(&mut self) {
        let mut piece = std::mem::take(&mut self.piece);
        self.put(&piece);
        piece.clear();
        self.piece = piece;
    }

    fn put(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
        self.bytes += bytes.len() as u64;
        if self.failed.is_none() {
            self.failed = self.to.write_all(bytes).err();
        }
    }
}

impl postcard::ser_flavors::Flavor for &mut Output<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.piece.len() == PIECE {
            self.pass_on();
        }
        self.piece.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.add_bytes(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// A stream that is read.
pub(crate) struct Source<'a> {
    from: &'a mut dyn Read,
    piece: Vec<u8>,
    /// What of the piece was taken.
    taken: usize,
    /// Bytes that go over the end of a piece, put together.
    joined: Vec<u8>,
    sum: crc32fast::Hasher,
    failed: Option<io::Error>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(from: &'a mut dyn Read) -> Self {
        let sum = crc32fast::Hasher::new();
        Self { from, piece: Vec::new(), taken: 0, joined: Vec::new(), sum, failed: None }
    }

    /// The version of what is in it.
    ///
    /// # Errors
    /// When it is no stream.
    pub(crate) fn version(&mut self) -> Result<u32, Error> {
        self.fill();
        if self.piece.first() != Some(&MARK) {
            return Err(Error::Mark);
        }
        self.taken = 1;
        self.next()
    }

    /// The next value.
    ///
    /// # Errors
    /// When it is not there.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        T::deserialize(&mut Deserializer::from_flavor(Values(self))).map_err(|error| self.wrong(error))
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// When there are not so many.
    pub(crate) fn next_bytes(&mut self, count: usize) -> Result<&[u8], Error> {
        match self.take(count) {
            true if self.joined.is_empty() => Ok(&self.piece[self.taken - count..self.taken]),
            true => Ok(&self.joined),
            false => Err(self.wrong(postcard::Error::DeserializeUnexpectedEnd)),
        }
    }

    /// Whether another value comes, which not every writer adds.
    pub(crate) fn has_more(&mut self) -> bool {
        if self.piece.len() - self.taken <= CHECKSUM {
            let read = (&mut *self.from).take(PIECE as u64).read_to_end(&mut self.piece);
            self.failed = read.err().or(self.failed.take());
        }
        self.piece.len() - self.taken > CHECKSUM
    }

    /// Nothing is left, and all came as it was written.
    ///
    /// # Errors
    /// When that is not so.
    pub(crate) fn end(mut self) -> Result<(), Error> {
        let read = self.piece.get(..self.taken).unwrap_or_default();
        self.sum.update(read);
        let sum = std::mem::take(&mut self.sum).finalize();
        self.piece.drain(..self.taken);
        self.taken = 0;
        if self.next_bytes(CHECKSUM)? != sum.to_le_bytes() {
            return Err(Error::Checksum);
        }
        if self.is_over() { Ok(()) } else { Err(Error::Longer) }
    }

    fn is_over(&mut self) -> bool {
        self.taken == self.piece.len() && {
            self.fill();
            self.piece.is_empty()
        }
    }

    fn wrong(&mut self, error: postcard::Error) -> Error {
        self.failed.take().map_or(Error::Form(error), Error::Io)
    }

    /// Reads the next piece, where all of this one was taken.
    fn fill(&mut self) {
        self.sum.update(&self.piece);
        self.piece.clear();
        self.taken = 0;
        let read = (&mut *self.from).take(PIECE as u64).read_to_end(&mut self.piece);
        self.failed = read.err().or(self.failed.take());
    }

    /// Takes bytes: out of the piece, or joined where they go over its end.
    fn take(&mut self, count: usize) -> bool {
        self.joined.clear();
        if count <= self.piece.len() - self.taken {
            self.taken += count;
            return true;
        }
        while self.joined.len() < count {
            if self.taken == self.piece.len() {
                self.fill();
                if self.piece.is_empty() {
                    return false;
                }
            }
            let more = (count - self.joined.len()).min(self.piece.len() - self.taken);
            self.joined.extend_from_slice(&self.piece[self.taken..self.taken + more]);
            self.taken += more;
        }
        true
    }
}

/// The input of postcard.
struct Values<'b, 'a>(&'b mut Source<'a>);

impl<'b, 'a: 'b> postcard::de_flavors::Flavor<'b> for Values<'b, 'a> {
    type Remainder = ();
    type Source = ();

    #[inline]
    fn pop(&mut self) -> postcard::Result<u8> {
        if let Some(byte) = self.0.piece.get(self.0.taken) {
            self.0.taken += 1;
            return Ok(*byte);
        }
        self.try_take_n_temp(1).map(|bytes| bytes.first().copied().unwrap_or_default())
    }

    /// Nothing is borrowed from a stream; none of the types that travel asks for it.
    fn try_take_n(&mut self, _: usize) -> postcard::Result<&'b [u8]> {
        Err(postcard::Error::WontImplement)
    }

    fn try_take_n_temp<'c>(&'c mut self, count: usize) -> postcard::Result<&'c [u8]>
    where
        'b: 'c,
    {
        self.0.next_bytes(count).map_err(|_| postcard::Error::DeserializeUnexpectedEnd)
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::{Error, Output, PIECE, Source, collect};

    /// As long as a piece, and as much longer or shorter as its ends can be.
    const LENGTHS: [usize; 7] = [0, 1, 300, PIECE - 3, PIECE, PIECE + 1, 3 * PIECE + 7];

    fn written() -> Vec<u8> {
        collect(|to| {
            let mut output = Output::new(7, to);
            for length in LENGTHS {
                output.add(&(length as u64, "x".repeat(length), Some(-1)));
                output.add_bytes(&vec![9; length]);
            }
            output.end()
        })
    }

    fn read(mut bytes: impl Read) -> Result<(), Error> {
        let mut source = Source::new(&mut bytes);
        assert_eq!(source.version()?, 7);
        for length in LENGTHS {
            let (count, text, rest): (u64, String, Option<i32>) = source.next()?;
            assert_eq!((count, text.len(), rest), (length as u64, length, Some(-1)));
            assert_eq!(source.next_bytes(length)?, vec![9; length]);
        }
        source.end()
    }

    /// Gives one byte at a time.
    struct Slowly<'a>(&'a [u8]);

    impl Read for Slowly<'_> {
        fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
            let most = to.len().min(1);
            self.0.read(&mut to[..most])
        }
    }

    #[test]
    fn what_was_written_is_read_however_it_comes() {
        let bytes = written();
        read(&bytes[..]).unwrap();
        read(Slowly(&bytes)).unwrap();
    }

    #[test]
    fn a_stream_that_is_not_whole_is_an_error() {
        let bytes = written();
        let some = |at: &usize| at.is_multiple_of(997) || bytes.len() - at < 9;
        for end in (2..bytes.len()).filter(some) {
            assert!(matches!(read(&bytes[..end]), Err(Error::Form(_))), "cut off at {end}");
        }
        let changed = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            bytes
        };
        assert!(matches!(read(&changed(bytes.len() - 1)[..]), Err(Error::Checksum)));
        assert!(matches!(read(&[&bytes[..], b"x"].concat()[..]), Err(Error::Longer)));
    }

    #[test]
    fn what_does_not_begin_as_a_stream_is_none() {
        let mut bytes = &br#"{"version":3}"#[..];
        assert!(matches!(Source::new(&mut bytes).version(), Err(Error::Mark)));
    }
}
