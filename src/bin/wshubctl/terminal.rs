//! What the hub says, for people on a terminal.
//!
//! Knows how a line is shown. Shows no control character as itself: a message
//! must not move the cursor of whoever reads it.

use std::fmt::Write;

use serde::Deserialize;
use serde_json::Value;
use wshubd::client::Heard;

/// One line of the hub on one line of the screen.
pub(crate) fn line(heard: &Heard) -> String {
    match heard.message() {
        Some(message) => {
            let channel = message.channel.as_deref().unwrap_or("-");
            let user = message.user_id.as_deref().unwrap_or(&message.from);
            let kept = if message.replayed { " (kept)" } else { "" };
            let time = clock(&message.timestamp);
            plain(&match output(&message.event, message.data.get()) {
                Some((stream, text)) => format!("{time} {channel} {stream}{kept}: {text}"),
                None => {
                    let data = data(message.data.get());
                    format!("{time} {channel} {} {user}{kept}: {data}", message.event)
                }
            })
        }
        None if heard.kind() == "operation" => {
            plain(&operation(heard).unwrap_or_else(|| heard.json().to_owned()))
        }
        None => event(heard),
    }
}

/// A line that `wshubctl run` passed on: which stream, marked where the line is
/// unfinished, and its text.
fn output(event: &str, json: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Output {
        stream: String,
        text: String,
        #[serde(default)]
        partial: bool,
    }
    let said: Output = (event == "operation:output").then(|| serde_json::from_str(json).ok())??;
    let mark = if said.partial { "\u{2026}" } else { "" };
    Some((said.stream + mark, said.text))
}

/// What happens to an operation, as a sentence.
fn operation(heard: &Heard) -> Option<String> {
    #[derive(Deserialize)]
    struct Operation {
        operation_id: String,
        channel: String,
        state: String,
        reason: Option<String>,
        label: Option<String>,
        by: Option<String>,
        data: Option<Value>,
    }
    let it: Operation = heard.read().ok()?;
    let mut text = format!("* {} operation {}", it.channel, it.operation_id);
    if let Some(label) = it.label {
        let _ = write!(text, " ({label})");
    }
    let _ = write!(text, " {}", it.state);
    for (word, value) in [(": ", it.reason), (", interrupted by ", it.by)] {
        if let Some(value) = value {
            let _ = write!(text, "{word}{value}");
        }
    }
    if let Some(data) = it.data.filter(|data| !data.is_null()) {
        let _ = write!(text, " {data}");
    }
    Some(text)
}

/// What is no message: its fields behind its kind, in their order of name.
fn event(heard: &Heard) -> String {
    let Ok(Value::Object(fields)) = heard.read::<Value>() else { return plain(heard.json()) };
    let mut text = format!("* {}", heard.kind());
    for (name, value) in fields.iter().filter(|(name, _)| *name != "type") {
        let _ = write!(text, " {name}={}", word(value));
    }
    plain(&text)
}

/// The time of day, in UTC, of an RFC 3339 time.
fn clock(timestamp: &str) -> &str {
    timestamp.split_once('T').map_or(timestamp, |(_, time)| time)
}

/// Strings without their quotes, everything else as the JSON that came.
fn data(json: &str) -> String {
    serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned())
}

/// A line of our own on the standard error.
pub(crate) fn say(text: &str) {
    use std::io::Write;
    // As eprintln, but an error stream that has gone ends nothing.
    let _ = writeln!(std::io::stderr(), "wshubctl: {text}");
}

/// A value as a word.
pub(crate) fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// JSON, a line or several, with the same characters spelled as JSON has it. They stand
/// in strings alone; what JSON does not allow there is spelled out already.
pub(crate) fn plain_json(lines: &str) -> String {
    lines.chars().fold(String::with_capacity(lines.len()), |mut shown, c| {
        if c != '\n' && acts(c) {
            let _ = write!(shown, "\\u{:04x}", u32::from(c));
        } else {
            shown.push(c);
        }
        shown
    })
}

/// Whether a terminal does something else with it than to show it.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with its control characters spelled out, and with them the marks
/// that turn the direction of writing.
pub(crate) fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        match c {
            c if acts(c) => shown.extend(c.escape_default()),
            c => shown.push(c),
        }
        shown
    })
}
