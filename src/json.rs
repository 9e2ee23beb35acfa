//! A JSON writer into memory, for frames and messages.

use std::io;

use serde::Serialize;

/// Appends a value. Writing to memory cannot fail, and none of our types refuses
/// to be written.
pub(crate) fn write(value: &impl Serialize, to: &mut Vec<u8>) {
    let written = serde_json::to_writer(ByteSink(to), value);
    debug_assert!(written.is_ok(), "{written:?}");
}

/// JSON comes in small pieces, mostly brackets, quotes and commas. Where a piece is
/// known to be one byte it is put down here; otherwise each would be a call of its own
/// in a build for size, which makes a publication a tenth dearer.
struct ByteSink<'a>(&'a mut Vec<u8>);

impl io::Write for ByteSink<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match bytes {
            [byte] => self.0.push(*byte),
            bytes => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
