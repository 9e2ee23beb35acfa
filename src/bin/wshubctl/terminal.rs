//! Output on a terminal or into a pipe.
//!
//! On a terminal no control character is shown as itself: a message
//! must not move the cursor of its reader.

use std::fmt::Write;
use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::Value;
use wshubd::client::HubLine;

use crate::error::Failure;

/// Form of an answer on the standard output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// For people.
    Text,
    Json,
}

impl OutputFormat {
    /// Text on a terminal, unless the option asks for JSON.
    pub(crate) fn choose(json: bool) -> Self {
        if json || !std::io::stdout().is_terminal() { Self::Json } else { Self::Text }
    }
}

/// Prints to the standard output. A reader that has gone has read enough.
pub(crate) fn print(text: &str) -> Result<ExitCode, Failure> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::of("standard output", error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints lines of JSON. On a terminal no character in them acts as anything but itself.
pub(crate) fn print_json(lines: &str) -> Result<ExitCode, Failure> {
    if std::io::stdout().is_terminal() { print(&escape_json(lines)) } else { print(lines) }
}

/// One line of the hub on one line of the screen.
pub(crate) fn format_line(line: &HubLine) -> String {
    match line.message() {
        Some(message) => {
            let channel = message.channel.as_deref().unwrap_or("-");
            let user = message.user_id.as_deref().unwrap_or(&message.from);
            let kept = if message.replayed { " (kept)" } else { "" };
            let time = time_of_day(&message.timestamp);
            escape(&match output_line(&message.event, message.data.get()) {
                Some((stream, text)) => format!("{time} {channel} {stream}{kept}: {text}"),
                None => {
                    let data = data_text(message.data.get());
                    format!("{time} {channel} {} {user}{kept}: {data}", message.event)
                }
            })
        }
        None if line.kind() == "operation" => {
            escape(&operation_sentence(line).unwrap_or_else(|| line.json().to_owned()))
        }
        None => other_line(line),
    }
}

/// A line that `wshubctl run` published: its stream, marked where the line is
/// unfinished, and its text.
fn output_line(event: &str, json: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct OutputData {
        stream: String,
        text: String,
        #[serde(default)]
        partial: bool,
    }
    let output: OutputData = (event == "operation:output").then(|| serde_json::from_str(json).ok())??;
    let mark = if output.partial { "\u{2026}" } else { "" };
    Some((output.stream + mark, output.text))
}

/// An `operation` line as a sentence.
fn operation_sentence(line: &HubLine) -> Option<String> {
    #[derive(Deserialize)]
    struct OperationLine {
        operation_id: String,
        channel: String,
        state: String,
        reason: Option<String>,
        label: Option<String>,
        by: Option<String>,
        data: Option<Value>,
    }
    let it: OperationLine = line.parse().ok()?;
    let mut text = format!("* {} operation {}", it.channel, it.operation_id);
    if let Some(label) = it.label {
        let _ = write!(text, " ({label})");
    }
    let _ = write!(text, " {}", it.state);
    for (prefix, value) in [(": ", it.reason), (", interrupted by ", it.by)] {
        if let Some(value) = value {
            let _ = write!(text, "{prefix}{value}");
        }
    }
    if let Some(data) = it.data.filter(|data| !data.is_null()) {
        let _ = write!(text, " {data}");
    }
    Some(text)
}

/// Any other line: its fields behind its kind, in their order of name.
fn other_line(line: &HubLine) -> String {
    let Ok(Value::Object(fields)) = line.parse::<Value>() else { return escape(line.json()) };
    let mut text = format!("* {}", line.kind());
    for (name, value) in fields.iter().filter(|(name, _)| *name != "type") {
        let _ = write!(text, " {name}={}", value_text(value));
    }
    escape(&text)
}

/// The time of day, in UTC, of an RFC 3339 time.
fn time_of_day(timestamp: &str) -> &str {
    timestamp.split_once('T').map_or(timestamp, |(_, time)| time)
}

/// Strings without their quotes, everything else as the JSON that came.
fn data_text(json: &str) -> String {
    serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned())
}

/// Prints a line of wshubctl's own on the standard error.
pub(crate) fn notice(text: &str) {
    use std::io::Write;
    // As eprintln, but a broken error stream ends nothing.
    let _ = writeln!(std::io::stderr(), "wshubctl: {text}");
}

/// A value as text, a string without its quotes.
pub(crate) fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// JSON, a line or several, with control characters escaped as JSON has it. They occur
/// in strings alone; those that JSON does not allow there are escaped already.
pub(crate) fn escape_json(lines: &str) -> String {
    lines.chars().fold(String::with_capacity(lines.len()), |mut shown, c| {
        if c != '\n' && is_control(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Whether a terminal acts on a character instead of showing it.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with its control characters escaped, and with them the marks
/// that turn the direction of writing.
pub(crate) fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        match c {
            c if is_control(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
        shown
    })
}
