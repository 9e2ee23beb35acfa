//! One question to wshubd, and its answer on the standard output.
//!
//! Knows the questions of administrators. Does not know how answers are shown.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::{Map, Value};
use wshubd::client::{Client, Heard};

use crate::failure::Failure;

/// A question, as its line spells it.
#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub(crate) enum Ask<'a> {
    Operations {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<&'a str>,
    },
    Stats,
    Channels,
    Connections,
    Inbox {
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
    },
    Disconnect {
        #[serde(skip_serializing_if = "Option::is_none")]
        connection_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
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
    },
    #[serde(rename = "token")]
    CheckToken {
        token: &'a str,
    },
}

/// Asks, and waits for the answer.
pub(crate) async fn ask(client: &Client, request: &Ask<'_>) -> Result<Heard, Failure> {
    Ok(client.request(request).await?.answer().await?)
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

/// The fields of an answer that are not the conversation's own.
pub(crate) fn fields(answer: &Heard) -> Result<Value, Failure> {
    let mut fields: Map<String, Value> = answer.read()?;
    fields.remove("type");
    fields.remove("id");
    Ok(Value::Object(fields))
}
