//! A stream of output as lines, and as what stands unfinished between them.
//!
//! A progress bar overwrites its line after each `\r` and a prompt ends without a
//! line end, so both would be heard late or never if only whole lines counted. Of
//! a line is kept what a terminal would show: the text behind the last `\r`. So a
//! bar of hours takes the memory of one state.
//!
//! Knows when a state is due to be told. Does not know who is told: whoever cannot
//! tell it now postpones it, and gets the newest one later.

use std::time::Duration;

use wshubd::protocol::Moment;

/// Where a line is cut: as JSON, where a byte may take six, it stays below the
/// 512 KiB that a hub takes by default.
pub(super) const LONGEST: usize = (64 << 10) - 1;

/// How often the state of an unfinished line is told, and how long a text stands
/// before it counts as one that waits: nobody reads faster, and no program that
/// prints a line in pieces takes longer between them.
const PACE: Duration = Duration::from_millis(200);

/// One line, or a part of one that is too long.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) text: Vec<u8>,
    /// Whether the next piece continues this one.
    pub(super) continues: bool,
}

/// Takes a stream apart.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// The unfinished line, from its last `\r` on that something followed.
    shown: Vec<u8>,
    /// Whether a `\r` stands behind that: what follows overwrites it, unless it is
    /// the end of the line.
    returned: bool,
    /// What was overwritten last and never told; empty where there is nothing.
    overwritten: Vec<u8>,
    /// Since when `shown` has something that was not told.
    since: Option<Moment>,
    /// The state of this line that was told last.
    told: Vec<u8>,
    /// When one was told, or postponed, last.
    paced: Option<Moment>,
}

impl Splitter {
    /// The next piece, with `rest` of what was read; none once all of that is
    /// taken. The line that is then unfinished is kept.
    pub(super) fn next(&mut self, now: Moment, rest: &mut &[u8]) -> Option<Piece> {
        let read = *rest;
        if self.shown.len() <= LONGEST {
            let end = memchr::memchr(b'\n', read);
            let (line, behind) = read.split_at(end.unwrap_or(read.len()));
            self.show(now, line);
            *rest = behind;
        }
        if self.shown.len() > LONGEST {
            let behind = self.shown.split_off(cut(&self.shown));
            return Some(Piece { text: self.restart(behind), continues: true });
        }
        let (_, behind) = rest.split_first()?;
        *rest = behind;
        self.returned = false;
        self.since = None;
        Some(Piece { text: self.restart(Vec::new()), continues: false })
    }

    /// The unfinished line at the end of the stream.
    pub(super) fn last(mut self) -> Option<Piece> {
        (!self.shown.is_empty()).then(|| Piece { text: self.restart(Vec::new()), continues: false })
    }

    /// When the state of the unfinished line is to be told, if it is.
    pub(super) fn due(&self) -> Option<Moment> {
        let paced = self.paced.map_or(Moment(0), |paced| paced + PACE);
        let complete = (self.is_complete() || !self.overwritten.is_empty()).then_some(paced);
        let waiting = self.since.map(|since| paced.max(since + PACE));
        complete.or(waiting)
    }

    /// The state that is due, which counts as told.
    pub(super) fn state(&mut self, now: Moment) -> Option<&[u8]> {
        self.due().filter(|due| *due <= now)?;
        let waits = self.since.is_some_and(|since| since + PACE <= now);
        if self.is_complete() || waits {
            self.told.clone_from(&self.shown);
            self.since = None;
        } else {
            self.told = std::mem::take(&mut self.overwritten);
        }
        self.overwritten.clear();
        self.paced = Some(now);
        Some(&self.told)
    }

    /// Nobody can be told now.
    pub(super) fn postpone(&mut self, now: Moment) {
        self.paced = Some(now);
    }

    /// Whether `shown` is all that is drawn before the next `\r`, and news.
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
            self.since = self.since.or(Some(now)).filter(|_| self.shown != self.told);
            text = behind;
        }
    }

    fn overwrite(&mut self) {
        // What was told already is newer than what was overwritten before it.
        if self.since.take().is_some() {
            std::mem::swap(&mut self.overwritten, &mut self.shown);
        } else if !self.shown.is_empty() {
            self.overwritten.clear();
        }
        self.shown.clear();
    }

    /// Gives away what is shown, and goes on with `behind`, of which nothing was
    /// told.
    fn restart(&mut self, behind: Vec<u8>) -> Vec<u8> {
        self.told.clear();
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
    use super::{LONGEST, Moment, PACE, Splitter};

    /// A stream in virtual time.
    #[derive(Default)]
    struct Stream {
        splitter: Splitter,
        now: u64,
        heard: Vec<String>,
    }

    impl Stream {
        fn prints(&mut self, text: &str) -> &mut Self {
            let now = Moment(self.now);
            let mut rest = text.as_bytes();
            while let Some(piece) = self.splitter.next(now, &mut rest) {
                self.heard.push(String::from_utf8(piece.text).unwrap());
            }
            self.looks()
        }

        /// Tells what is due, as a partial line in brackets.
        fn looks(&mut self) -> &mut Self {
            if let Some(state) = self.splitter.state(Moment(self.now)) {
                let state = String::from_utf8(state.to_vec()).unwrap();
                self.heard.push(format!("({state})"));
            }
            self
        }

        /// Lets time pass, and looks whenever something is due.
        fn waits(&mut self, millis: u64) -> &mut Self {
            let until = self.now + millis;
            while let Some(Moment(due)) = self.splitter.due().filter(|due| due.0 <= until) {
                self.now = due.max(self.now);
                self.looks();
            }
            self.now = until;
            self
        }

        fn ends(&mut self) -> Vec<String> {
            let Self { splitter, heard, .. } = std::mem::take(self);
            let last = splitter.last().map(|piece| String::from_utf8(piece.text).unwrap());
            heard.into_iter().chain(last).collect()
        }
    }

    /// What is heard of text that comes in one read, and byte by byte.
    fn lines(text: &str) -> Vec<String> {
        let mut whole = Stream::default();
        whole.prints(text);
        let mut bytes = Stream::default();
        for byte in text.chars() {
            // Within one moment no state is due twice.
            bytes.splitter.postpone(Moment(0));
            bytes.prints(&byte.to_string());
        }
        let (whole, bytes) = (whole.ends(), bytes.ends());
        let lines: Vec<_> = whole.into_iter().filter(|heard| !heard.starts_with('(')).collect();
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
    fn a_state_that_ends_in_a_return_is_told_at_once_and_then_at_a_pace() {
        let mut bar = Stream::default();
        for percent in 0..10 {
            bar.prints(&format!("{percent}0%\r")).waits(50);
        }
        assert_eq!(bar.waits(1000).ends(), ["(00%)", "(30%)", "(70%)", "(90%)", "90%"]);
    }

    #[test]
    fn a_state_that_begins_with_a_return_is_told_whole() {
        let mut bar = Stream::default();
        for percent in 0..10 {
            bar.prints("\r").waits(10).prints(&percent.to_string()).waits(40).prints("0%");
        }
        let heard = ["(00%)", "(30%)", "(70%)", "(80%)", "(90%)", "90%"];
        assert_eq!(bar.waits(1000).prints("\n").ends(), heard);
    }

    #[test]
    fn an_unfinished_text_is_told_when_it_has_stood_for_a_while_and_once() {
        let mut prompt = Stream::default();
        prompt.prints("Continue? ").waits(199);
        assert!(prompt.heard.is_empty());
        prompt.waits(5000).prints("y").waits(200).prints("\n> ").waits(200).prints("\n> ").waits(200);
        let heard = ["(Continue? )", "(Continue? y)", "Continue? y", "(> )", "> ", "(> )", "> "];
        assert_eq!(prompt.ends(), heard);
    }

    #[test]
    fn lines_that_come_in_time_leave_nothing_to_tell() {
        let mut stream = Stream::default();
        for _ in 0..100 {
            stream.prints("half a ").waits(100).prints("line\n").waits(100);
        }
        assert!(stream.ends().iter().all(|heard| heard == "half a line"));
    }

    #[test]
    fn what_is_drawn_again_unchanged_is_not_told_again() {
        let mut bar = Stream::default();
        for _ in 0..10 {
            bar.prints("\rwaiting").waits(300);
        }
        assert_eq!(bar.ends(), ["(waiting)", "waiting"]);
    }

    #[test]
    fn a_bar_that_never_ends_takes_the_memory_of_one_state() {
        let mut bar = Stream::default();
        for number in 0..100_000 {
            bar.prints(&format!("{number} of 100000\r"));
        }
        let held = bar.splitter.shown.capacity() + bar.splitter.overwritten.capacity();
        assert!(held < 4096, "{held} bytes are held");
        assert_eq!(bar.heard, ["(0 of 100000)"]);
    }

    #[test]
    fn a_postponed_state_gives_way_to_a_newer_one() {
        let mut bar = Stream::default();
        bar.splitter.postpone(Moment(0));
        bar.prints("10%\r").waits(100).prints("20%\r").waits(100).prints("30%\r");
        assert_eq!(bar.ends(), ["(20%)", "30%"]);
    }

    #[test]
    fn a_long_line_is_cut_and_its_rest_may_be_overwritten() {
        let mut stream = Splitter::default();
        let long = [&vec![b'x'; LONGEST][..], b"tail\rnew\n"].concat();
        let mut rest = long.get(..LONGEST + 2).unwrap();
        let first = stream.next(Moment(0), &mut rest).unwrap();
        assert_eq!((first.text.len(), first.continues), (LONGEST, true));
        assert_eq!(stream.next(Moment(0), &mut rest), None);
        rest = long.get(LONGEST + 2..).unwrap();
        let second = stream.next(Moment(0), &mut rest).unwrap();
        assert_eq!((&*second.text, second.continues), (&b"new"[..], false));
        assert_eq!(stream.due(), None);
    }

    #[test]
    fn states_are_as_far_apart_as_a_text_stands_before_it_waits() {
        let mut dots = Stream::default();
        for _ in 0..1000 {
            dots.prints(".").waits(1);
        }
        assert_eq!(dots.heard.len(), 1000 / usize::try_from(PACE.as_millis()).unwrap());
    }
}
