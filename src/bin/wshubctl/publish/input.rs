//! The standard input of `wshubctl pub`, whole or line by line.
//!
//! A line that cannot be sent is a value; an input that cannot be read is an error.

use std::io;
use std::io::IsTerminal;

use serde_json::value::RawValue;
use smol::Unblock;
use smol::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::error::{Exit, Failure};
use crate::terminal::notice;

/// More than any hub takes in one message; so that endless input without a line
/// end does not fill the memory.
const LONGEST: usize = 64 << 20;

/// A line of the input, or the reason why it is no message.
pub(super) enum InputLine {
    Message(Box<RawValue>),
    /// Nothing but white space, where that is no JSON.
    Blank,
    /// The error, to be read behind `line 7 of the standard input`.
    Bad(String),
}

pub(super) struct StandardInput {
    from: BufReader<Unblock<io::Stdin>>,
    is_json: bool,
    /// What there is of a line that has not ended.
    line: Vec<u8>,
    /// Whether that line is too long, and only its end is looked for.
    is_too_long: bool,
    /// Lines that have ended.
    number: u64,
}

impl StandardInput {
    pub(super) fn new(is_json: bool) -> Self {
        if io::stdin().is_terminal() {
            notice("each line is one message; Ctrl-D ends the input");
        }
        let from = BufReader::new(Unblock::new(io::stdin()));
        Self { from, is_json, line: Vec::new(), is_too_long: false, number: 0 }
    }

    /// The number of the line that was read last.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next line; none at the end. May be dropped half way without losing anything.
    pub(super) async fn next(&mut self) -> Result<Option<InputLine>, Failure> {
        loop {
            let room = (LONGEST - self.line.len()) as u64;
            let mut part = (&mut self.from).take(room);
            let read = part.read_until(b'\n', &mut self.line).await.map_err(unreadable)?;
            let has_ended = self.line.last() == Some(&b'\n');
            if self.line.len() == LONGEST && !has_ended {
                self.line.clear();
                self.is_too_long = true;
                continue;
            }
            if read == 0 && self.line.is_empty() && !self.is_too_long {
                return Ok(None);
            }
            self.number += 1;
            let line = std::mem::take(&mut self.line);
            if std::mem::take(&mut self.is_too_long) {
                return Ok(Some(InputLine::Bad(format!("is longer than {} MiB", LONGEST >> 20))));
            }
            return Ok(Some(message(line, self.is_json)));
        }
    }
}

/// A line as data, without its end.
fn message(line: Vec<u8>, is_json: bool) -> InputLine {
    let Ok(text) = String::from_utf8(line) else { return InputLine::Bad("is not UTF-8".to_owned()) };
    if is_json && text.trim().is_empty() {
        return InputLine::Blank;
    }
    data(without_end(&text), is_json).map_or_else(InputLine::Bad, InputLine::Message)
}

/// A text as data; else the error, to be read behind the text's name.
pub(super) fn data(text: &str, is_json: bool) -> Result<Box<RawValue>, String> {
    if !is_json {
        return serde_json::value::to_raw_value(text)
            .map_err(|error| format!("cannot be encoded as JSON: {error}"));
    }
    RawValue::from_string(text.trim().to_owned()).map_err(|error| {
        let why = error.to_string();
        // It counts lines within the text, and there is often but one.
        let (why, column) = (why.split(" at line ").next().unwrap_or(&why), error.column());
        if error.line() <= 1 && column > 0 {
            format!("is not JSON: {why} at column {column}")
        } else {
            format!("is not JSON: {error}")
        }
    })
}

/// All of the input, as one text.
pub(super) async fn whole() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let input = Unblock::new(io::stdin());
    input.take(LONGEST as u64).read_to_end(&mut bytes).await.map_err(unreadable)?;
    if bytes.len() >= LONGEST {
        let why = format!("standard input: longer than {} MiB", LONGEST >> 20);
        return Err(Failure::new(Exit::Failed, why));
    }
    let text = String::from_utf8(bytes).map_err(|error| Failure::of("standard input", error))?;
    Ok(without_end(&text).to_owned())
}

/// The text without its last line end, which is the terminal's and not the
/// message's.
fn without_end(text: &str) -> &str {
    match text.strip_suffix('\n') {
        Some(text) => text.strip_suffix('\r').unwrap_or(text),
        None => text,
    }
}

fn unreadable(error: io::Error) -> Failure {
    Failure::of("standard input", error)
}
