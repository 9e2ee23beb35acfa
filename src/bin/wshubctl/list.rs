//! `wshubctl operations`, `status` and `token new`: one question, one answer.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wshubd::client::Client;
use wshubd::protocol::frame::GAUGES;

use crate::args;
use crate::failure::Failure;
use crate::screen::{plain, table, word};

#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum Ask<'a> {
    Operations {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<&'a str>,
    },
    Stats,
    Token {
        user_id: &'a str,
        ttl: f64,
    },
}

pub(crate) async fn operations(client: &Client, asked: args::Operations) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        operations: Vec<Map<String, Value>>,
    }
    let answer = ask(client, &Ask::Operations { channel: asked.channel.as_deref() }).await?;
    let Answer { operations } = answer.read()?;
    if asked.json || !std::io::stdout().is_terminal() {
        let lines: Vec<String> =
            operations.into_iter().map(|operation| format!("{}\n", Value::Object(operation))).collect();
        return show(&lines.concat());
    }
    if operations.is_empty() {
        return show("nothing runs\n");
    }
    const COLUMNS: [&str; 6] = ["operation_id", "channel", "state", "user_id", "started_at", "label"];
    let cell = |operation: &Map<String, Value>, column| {
        operation.get(column).map_or_else(|| "-".to_owned(), |value| plain(&word(value)))
    };
    let head = COLUMNS.map(|column| column.to_uppercase().replace('_', " ")).to_vec();
    let rows = operations.iter().map(|operation| COLUMNS.map(|column| cell(operation, column)).to_vec());
    show(&table(&std::iter::once(head).chain(rows).collect::<Vec<_>>()))
}

pub(crate) async fn status(client: &Client, asked: args::Status) -> Result<ExitCode, Failure> {
    let answer = ask(client, &Ask::Stats).await?;
    let mut numbers: Map<String, Value> = answer.read()?;
    // What belongs to the conversation and not to the daemon.
    numbers.remove("type");
    numbers.remove("id");
    if asked.json || !std::io::stdout().is_terminal() {
        return show(&format!("{}\n", Value::Object(numbers)));
    }
    let mut rows = Vec::new();
    if let Some(seconds) = numbers.remove("uptime_seconds").and_then(|value| value.as_u64()) {
        rows.push(vec![
            "up for".to_owned(),
            humantime::format_duration(Duration::from_secs(seconds)).to_string(),
        ]);
    }
    // What is the case now comes first, what has happened so far after it.
    let now = GAUGES.iter().filter_map(|name| numbers.remove(*name).map(|value| (name.to_string(), value)));
    let row = |(name, value): (String, Value)| vec![plain(&name.replace('_', " ")), plain(&word(&value))];
    rows.extend(now.collect::<Vec<_>>().into_iter().map(row));
    rows.extend(numbers.into_iter().map(row));
    show(&table(&rows))
}

pub(crate) async fn token(client: &Client, asked: args::NewToken) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        token: String,
    }
    let request = Ask::Token { user_id: &asked.user, ttl: asked.ttl.as_secs_f64() };
    let Answer { token } = ask(client, &request).await?.read()?;
    show(&format!("{token}\n"))
}

async fn ask(client: &Client, request: &Ask<'_>) -> Result<wshubd::client::Heard, Failure> {
    Ok(client.request(request).await?.answer().await?)
}

/// Prints, and takes a reader that has gone for one that has read enough.
pub(crate) fn show(text: &str) -> Result<ExitCode, Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::of("standard output", error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}
