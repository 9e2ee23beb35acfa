//! A logger to systemd's journal, with fields.
//!
//! The journal may not be reading: an entry that would have to wait is dropped and counted.
//!
//! A record without fields is a line on standard error, which leads to the journal as
//! well: of the last line of a process that has ended, the journal still knows there
//! which unit it was. So is a record with fields, without them, where the socket is
//! missing, or closed to us.

use std::os::fd::{AsFd, OwnedFd};

use log::{Level, Log, Metadata, Record};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sendto, socket_with};

use super::stderr::{LineLogger, lost_lines};
use super::{entry, is_wanted};

/// Where the journal listens.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Whether a stream leads to the journal: systemd names the one it has made. A
/// process inherits the variable also where its stream was led elsewhere.
pub(super) fn is_behind(stream: impl AsFd) -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stat) = rustix::fs::fstat(stream) else { return false };
    named == format!("{}:{}", stat.st_dev, stat.st_ino)
}

/// Writes to the journal's socket.
pub(super) struct JournalLogger {
    /// None where it could not be opened.
    socket: Option<(OwnedFd, SocketAddrUnix)>,
    /// For entries that the socket does not take.
    lines: LineLogger,
}

impl JournalLogger {
    /// Connects to nothing: the journal may start again at any time, and later than we do.
    pub(super) fn new() -> Self {
        Self::at(SOCKET)
    }

    fn at(path: &str) -> Self {
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
        let socket = socket.and_then(|socket| Ok((socket, SocketAddrUnix::new(path)?)));
        Self { socket: socket.ok(), lines: LineLogger::for_journal() }
    }

    fn send(&self, entry: &str) -> Result<(), Errno> {
        let (socket, address) = self.socket.as_ref().ok_or(Errno::NOTCONN)?;
        sendto(socket, entry.as_bytes(), SendFlags::DONTWAIT | SendFlags::NOSIGNAL, address).map(drop)
    }

    fn report_lost(&self) {
        let lost = self.lines.take_lost();
        if lost > 0 {
            let text = lost_lines(lost);
            let args = format_args!("{text}");
            let record = Record::builder().level(Level::Warn).target("wshubd").args(args).build();
            if self.send(&entry(&record)).is_err() {
                (0..lost).for_each(|_| self.lines.lose());
            }
        }
    }
}

impl Log for JournalLogger {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        is_wanted(of)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        if record.key_values().count() == 0 {
            return self.lines.log(record);
        }
        match self.send(&entry(record)) {
            Ok(()) => self.report_lost(),
            // The journal runs, and does not read.
            Err(Errno::AGAIN) => self.lines.lose(),
            Err(_) => self.lines.log(record),
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::path::PathBuf;

    use super::*;

    fn place() -> PathBuf {
        std::env::temp_dir().join(format!("wshubd-journal-{}", std::process::id()))
    }

    #[test]
    fn entries_that_nobody_reads_are_dropped_and_counted_and_keep_nobody_waiting() {
        let path = place();
        let reader = UnixDatagram::bind(&path).ok();
        assert!(reader.is_some());
        let journal = JournalLogger::at(&path.to_string_lossy());
        let say = |n: u32| {
            let args = format_args!("line {n}");
            let fields = [("user", "ada")];
            let record =
                Record::builder().level(Level::Info).target("wshubd").key_values(&fields).args(args).build();
            journal.log(&record);
        };
        // The kernel lets only so many wait in the socket of a reader.
        (0..2000).for_each(say);
        let mut heard = Vec::new();
        let mut next = || {
            let mut entry = [0; 512];
            let read = reader.as_ref().and_then(|reader| {
                reader.set_nonblocking(true).ok()?;
                reader.recv(&mut entry).ok()
            })?;
            Some(String::from_utf8_lossy(&entry[..read]).into_owned())
        };
        heard.extend(std::iter::from_fn(&mut next));
        assert!(heard.len() < 2000);
        say(2000);
        let after: Vec<String> = std::iter::from_fn(&mut next).collect();
        assert_eq!(after.len(), 2, "{after:?}");
        assert!(after[0].contains("MESSAGE=line 2000\n"), "{after:?}");
        let told = format!("MESSAGE={} lines before this one were lost", 2000 - heard.len());
        assert!(after[1].contains(&told), "{after:?}");
        let _ = std::fs::remove_file(path);
    }
}
