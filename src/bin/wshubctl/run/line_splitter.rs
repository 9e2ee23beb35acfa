//! Line splitter for a stream of output, with the states of unfinished lines.
//!
//! A progress bar overwrites its line after each `\r` and a prompt ends without a
//! line end, so both would be published late or never if only whole lines counted. Of
//! a line is kept what a terminal would show: the text behind the last `\r`. So a
//! bar of hours takes the memory of one state. A caller that cannot publish a state
//! now postpones it, and gets the newest one later.

use std::time::Duration;

use wshubd::protocol::Moment;

/// Where a line is cut: as JSON, where a byte may take six, it stays below the
/// 512 KiB that a hub takes by default.
pub(super) const LONGEST: usize = (64 << 10) - 1;

/// The interval between states of an unfinished line, and how long a text stays
/// unchanged before it counts as a prompt: nobody reads faster, and no program that
/// prints a line in pieces takes longer between them.
const PACE: Duration = Duration::from_millis(200);

/// One line, or a part of one that is too long.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum LinePiece {
    /// A line, or its last part.
    End(Vec<u8>),
    /// The next piece continues this one.
    Part(Vec<u8>),
}

#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    /// The unfinished line, from its last `\r` on that something followed.
    shown: Vec<u8>,
    /// Whether a `\r` stands behind that: what follows overwrites it, unless it is
    /// the end of the line.
    returned: bool,
    /// What was overwritten last and never published; empty where there is nothing.
    overwritten: Vec<u8>,
    /// Since when `shown` has something that was not published.
    since: Option<Moment>,
    /// The state of this line that was published last.
    published: Vec<u8>,
    /// When one was published, or postponed, last.
    last_state: Option<Moment>,
}

impl LineSplitter {
    /// The next piece, with `rest` of what was read; none once all of that is
    /// taken. The line that is then unfinished is kept.
    pub(super) fn next(&mut self, now: Moment, rest: &mut &[u8]) -> Option<LinePiece> {
        let read = *rest;
        if self.shown.len() <= LONGEST {
            let end = memchr::memchr(b'\n', read);
            let (line, behind) = read.split_at(end.unwrap_or(read.len()));
            self.show(now, line);
            *rest = behind;
        }
        if self.shown.len() > LONGEST {
            let behind = self.shown.split_off(cut(&self.shown));
            return Some(LinePiece::Part(self.restart(behind)));
        }
        let (_, behind) = rest.split_first()?;
        *rest = behind;
        self.returned = false;
        self.since = None;
        Some(LinePiece::End(self.restart(Vec::new())))
    }

    /// The unfinished line at the end of the stream.
    pub(super) fn last(mut self) -> Option<LinePiece> {
        (!self.shown.is_empty()).then(|| LinePiece::End(self.restart(Vec::new())))
    }

    /// When the state of the unfinished line is to be published, if it is.
    pub(super) fn due(&self) -> Option<Moment> {
        let earliest = self.last_state.map_or(Moment(0), |last| last + PACE);
        let complete = (self.is_complete() || !self.overwritten.is_empty()).then_some(earliest);
        let waiting = self.since.map(|since| earliest.max(since + PACE));
        complete.or(waiting)
    }

    /// The state that is due, which counts as published.
    pub(super) fn take_state(&mut self, now: Moment) -> Option<&[u8]> {
        self.due().filter(|due| *due <= now)?;
        let waits = self.since.is_some_and(|since| since + PACE <= now);
        if self.is_complete() || waits {
            self.published.clone_from(&self.shown);
            self.since = None;
        } else {
            self.published = std::mem::take(&mut self.overwritten);
        }
        self.overwritten.clear();
        self.last_state = Some(now);
        Some(&self.published)
    }

    /// The state cannot be published now.
    pub(super) fn postpone(&mut self, now: Moment) {
        self.last_state = Some(now);
    }

    /// Whether `shown` is all that is drawn before the next `\r`, and was not published.
    fn is_complete(&self) -> bool {
        self.returned && self.since.is_some()
    }

    /// Takes text without a line end.
    fn show(&mut self, now: Moment, mut text: &[u8]) {
        while let Some(first) = text.first() {
            if *first == b'\r' {
                self.returned = true;
                text = text.get(1..).unwrap_or_default();
                continue;
            }
            if std::mem::take(&mut self.returned) {
                self.overwrite();
            }
            let (drawn, behind) = text.split_at(memchr::memchr(b'\r', text).unwrap_or(text.len()));
            self.shown.extend_from_slice(drawn);
            self.since = self.since.or(Some(now)).filter(|_| self.shown != self.published);
            text = behind;
        }
    }

    fn overwrite(&mut self) {
        // What was published already is newer than what was overwritten before it.
        if self.since.take().is_some() {
            std::mem::swap(&mut self.overwritten, &mut self.shown);
        } else if !self.shown.is_empty() {
            self.overwritten.clear();
        }
        self.shown.clear();
    }

    /// Gives away what is shown, and goes on with `behind`, of which nothing was
    /// published.
    fn restart(&mut self, behind: Vec<u8>) -> Vec<u8> {
        self.published.clear();
        self.overwritten.clear();
        std::mem::replace(&mut self.shown, behind)
    }
}

/// Where to cut a long line: before a character that would not fit whole.
fn cut(line: &[u8]) -> usize {
    let begins = |at: &usize| line.get(*at).is_some_and(|byte| byte & 0xc0 != 0x80);
    // A character has at most four bytes; what is no UTF-8 is cut anywhere.
    (LONGEST - 3..=LONGEST).rev().find(begins).unwrap_or(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::{LONGEST, LinePiece, LineSplitter, Moment, PACE};

    fn piece_text(piece: LinePiece) -> String {
        let (LinePiece::End(text) | LinePiece::Part(text)) = piece;
        String::from_utf8(text).unwrap()
    }

    /// A stream in virtual time.
    #[derive(Default)]
    struct Stream {
        splitter: LineSplitter,
        now: u64,
        published: Vec<String>,
    }

    impl Stream {
        fn print(&mut self, text: &str) -> &mut Self {
            let now = Moment(self.now);
            let mut rest = text.as_bytes();
            while let Some(piece) = self.splitter.next(now, &mut rest) {
                self.published.push(piece_text(piece));
            }
            self.look()
        }

        /// Publishes what is due, as a partial line in brackets.
        fn look(&mut self) -> &mut Self {
            if let Some(state) = self.splitter.take_state(Moment(self.now)) {
                let state = String::from_utf8(state.to_vec()).unwrap();
                self.published.push(format!("({state})"));
            }
            self
        }

        /// Lets time pass, and looks whenever something is due.
        fn wait(&mut self, millis: u64) -> &mut Self {
            let until = self.now + millis;
            while let Some(Moment(due)) = self.splitter.due().filter(|due| due.0 <= until) {
                self.now = due.max(self.now);
                self.look();
            }
            self.now = until;
            self
        }

        fn end(&mut self) -> Vec<String> {
            let Self { splitter, published, .. } = std::mem::take(self);
            let last = splitter.last().map(piece_text);
            published.into_iter().chain(last).collect()
        }
    }

    /// The lines of a text that comes in one read, and byte by byte.
    fn lines(text: &str) -> Vec<String> {
        let mut whole = Stream::default();
        whole.print(text);
        let mut bytes = Stream::default();
        for byte in text.chars() {
            // Within one moment no state is due twice.
            bytes.splitter.postpone(Moment(0));
            bytes.print(&byte.to_string());
        }
        let (whole, bytes) = (whole.end(), bytes.end());
        let lines: Vec<_> = whole.into_iter().filter(|published| !published.starts_with('(')).collect();
        assert_eq!(lines, bytes, "{text:?}");
        lines
    }

    #[test]
    fn a_line_is_what_a_terminal_would_show() {
        assert_eq!(lines("a\nb\r\n\n"), ["a", "b", ""]);
        assert_eq!(lines("10%\r20%\r30%\n"), ["30%"]);
        assert_eq!(lines("\r10%\r20%\r\r\nx"), ["20%", "x"]);
        assert_eq!(lines("99%\r"), ["99%"]);
        assert_eq!(lines("a\n\r"), ["a"]);
        assert_eq!(lines("\r\n"), [""]);
    }

    #[test]
    fn a_return_publishes_the_state_at_once_and_then_at_a_pace() {
        let mut bar = Stream::default();
        for percent in 0..10 {
            bar.print(&format!("{percent}0%\r")).wait(50);
        }
        assert_eq!(bar.wait(1000).end(), ["(00%)", "(30%)", "(70%)", "(90%)", "90%"]);
    }

    #[test]
    fn a_state_that_begins_with_a_return_is_published_whole() {
        let mut bar = Stream::default();
        for percent in 0..10 {
            bar.print("\r").wait(10).print(&percent.to_string()).wait(40).print("0%");
        }
        let published = ["(00%)", "(30%)", "(70%)", "(80%)", "(90%)", "90%"];
        assert_eq!(bar.wait(1000).print("\n").end(), published);
    }

    #[test]
    fn an_unfinished_text_is_published_once_after_a_pause() {
        let mut prompt = Stream::default();
        prompt.print("Continue? ").wait(199);
        assert!(prompt.published.is_empty());
        prompt.wait(5000).print("y").wait(200).print("\n> ").wait(200).print("\n> ").wait(200);
        let published = ["(Continue? )", "(Continue? y)", "Continue? y", "(> )", "> ", "(> )", "> "];
        assert_eq!(prompt.end(), published);
    }

    #[test]
    fn lines_that_come_in_time_have_no_partial_states() {
        let mut stream = Stream::default();
        for _ in 0..100 {
            stream.print("half a ").wait(100).print("line\n").wait(100);
        }
        assert!(stream.end().iter().all(|published| published == "half a line"));
    }

    #[test]
    fn an_unchanged_state_is_not_published_again() {
        let mut bar = Stream::default();
        for _ in 0..10 {
            bar.print("\rwaiting").wait(300);
        }
        assert_eq!(bar.end(), ["(waiting)", "waiting"]);
    }

    #[test]
    fn a_bar_that_never_ends_takes_the_memory_of_one_state() {
        let mut bar = Stream::default();
        for number in 0..100_000 {
            bar.print(&format!("{number} of 100000\r"));
        }
        let held = bar.splitter.shown.capacity() + bar.splitter.overwritten.capacity();
        assert!(held < 4096, "{held} bytes are held");
        assert_eq!(bar.published, ["(0 of 100000)"]);
    }

    #[test]
    fn a_postponed_state_gives_way_to_a_newer_one() {
        let mut bar = Stream::default();
        bar.splitter.postpone(Moment(0));
        bar.print("10%\r").wait(100).print("20%\r").wait(100).print("30%\r");
        assert_eq!(bar.end(), ["(20%)", "30%"]);
    }

    #[test]
    fn a_long_line_is_cut_and_its_rest_may_be_overwritten() {
        let mut stream = LineSplitter::default();
        let long = [&vec![b'x'; LONGEST][..], b"tail\rnew\n"].concat();
        let mut rest = long.get(..LONGEST + 2).unwrap();
        let first = stream.next(Moment(0), &mut rest).unwrap();
        assert!(matches!(first, LinePiece::Part(text) if text.len() == LONGEST));
        assert_eq!(stream.next(Moment(0), &mut rest), None);
        rest = long.get(LONGEST + 2..).unwrap();
        let second = stream.next(Moment(0), &mut rest).unwrap();
        assert_eq!(second, LinePiece::End(b"new".to_vec()));
        assert_eq!(stream.due(), None);
    }

    #[test]
    fn states_are_as_far_apart_as_the_pause_of_a_prompt() {
        let mut dots = Stream::default();
        for _ in 0..1000 {
            dots.print(".").wait(1);
        }
        assert_eq!(dots.published.len(), 1000 / usize::try_from(PACE.as_millis()).unwrap());
    }
}
