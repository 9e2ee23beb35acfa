//! One question to wshubd, and its answer on the standard output.
//!
//! Knows the questions of administrators. Does not know how answers are shown.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use wshubd::client::Heard;

use crate::connection::Hub;
use crate::error::Failure;
use crate::terminal;

/// A question, as its line spells it.
#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub(crate) enum Ask<'a> {
    Operations {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Stats,
    Channels {
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Connections {
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Inbox {
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Disconnect {
        #[serde(skip_serializing_if = "Option::is_none")]
        connection_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
    },
    #[serde(rename = "disconnect")]
    Revoke {
        revoke: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        jti: Option<&'a str>,
    },
    Revocations {
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Lift {
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        jti: Option<&'a str>,
    },
    Purge {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
    },
    Reload,
    #[serde(rename = "token")]
    NewToken {
        user_id: &'a str,
        ttl: f64,
        /// Where none of these is there, the configuration says what the token allows;
        /// else what is not there is not allowed.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        subscribe: &'a [String],
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        publish: &'a [String],
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        interrupt: &'a [String],
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        admin: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        limits: Option<Limits>,
        #[serde(skip_serializing_if = "Option::is_none")]
        info: Option<&'a RawValue>,
    },
    #[serde(rename = "token")]
    CheckToken {
        token: &'a str,
    },
}

/// How often the bearer of a token may ask.
#[derive(Serialize)]
pub(crate) struct Limits {
    pub(crate) rate: f64,
    pub(crate) burst: f64,
}

/// Asks, and waits for the answer.
pub(crate) async fn ask(hub: &Hub, request: &Ask<'_>) -> Result<Heard, Failure> {
    Ok(hub.ask(request).await??)
}

/// Who reads the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Somebody at a terminal.
    Person,
    /// Whatever is behind a pipe or a file, or wants JSON anyway.
    Program,
}

impl Reader {
    /// The one who is there; `json` is the option of that name.
    pub(crate) fn of(json: bool) -> Self {
        if json || !std::io::stdout().is_terminal() { Self::Program } else { Self::Person }
    }
}

/// Prints, and takes a reader that has gone for one that has read enough.
pub(crate) fn show(text: &str) -> Result<ExitCode, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::of("standard output", error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints lines of JSON. On a terminal no character in them acts as anything but itself.
pub(crate) fn show_json(lines: &str) -> Result<ExitCode, Failure> {
    if std::io::stdout().is_terminal() { show(&terminal::plain_json(lines)) } else { show(lines) }
}

/// The fields of an answer that are not the conversation's own.
pub(crate) fn fields(answer: &Heard) -> Result<Value, Failure> {
    let mut fields: Map<String, Value> = answer.read()?;
    fields.remove("type");
    fields.remove("id");
    Ok(Value::Object(fields))
}
