//! One question to wshubd, and its answer on the standard output.
//!
//! Knows the questions of administrators. Does not know how answers are shown.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use smol::Timer;
use smol::future::{self, FutureExt};
use wshubd::client::{Client, Heard};

use crate::failure::Failure;
use crate::screen;

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

/// After so much silence whoever waits is told where to look. systemd's socket takes
/// connections while the daemon starts, or fails to, again and again.
const SILENCE: Duration = Duration::from_secs(5);

/// Asks, and waits for the answer.
pub(crate) async fn ask(client: &Client, request: &Ask<'_>) -> Result<Heard, Failure> {
    Ok(patiently(async { client.request(request).await?.answer().await }).await?)
}

/// Waits for an answer, and says so when it takes long.
pub(crate) async fn patiently<T>(answer: impl Future<Output = T>) -> T {
    let tell = async {
        Timer::after(SILENCE).await;
        screen::say(
            "no answer yet: wshubd may still be starting, or fail to; `systemctl status wshubd` shows which",
        );
        future::pending().await
    };
    answer.or(tell).await
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
