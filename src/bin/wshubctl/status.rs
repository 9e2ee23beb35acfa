//! `wshubctl status`: the statistics of wshubd.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};
use wshubd::protocol::frame::Statistics;

use crate::connection::HubConnection;
use crate::error::Failure;
use crate::format::pairs;
use crate::query::{fields, query};
use crate::terminal::{OutputFormat, print, print_json, value_text};

/// Show the statistics of wshubd
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  wshubctl status --json | jq .total_connections")]
pub(crate) struct StatusArgs {
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum StatsRequest {
    Stats,
}

pub(crate) async fn status(hub: &HubConnection, args: StatusArgs) -> Result<ExitCode, Failure> {
    let answer = fields(&query(hub, &StatsRequest::Stats).await?)?;
    match (OutputFormat::choose(args.json), answer) {
        (OutputFormat::Text, Value::Object(numbers)) => print(&numbers_text(numbers)),
        (_, answer) => print_json(&format!("{answer}\n")),
    }
}

/// Gauges come first, then counters, then refusals.
fn numbers_text(mut numbers: Map<String, Value>) -> String {
    let mut rows = Vec::new();
    if let Some(seconds) = numbers.remove("uptime_seconds").and_then(|value| value.as_u64()) {
        let time = humantime::format_duration(Duration::from_secs(seconds));
        rows.push(("up for".to_owned(), time.to_string()));
    }
    let gauges =
        Statistics::gauges().filter_map(|name| numbers.remove(name).map(|value| (name.to_owned(), value)));
    let row = |(name, value): (String, Value)| (name.replace('_', " "), value_text(&value));
    rows.extend(gauges.collect::<Vec<_>>().into_iter().map(row));
    let refused = numbers.remove("refused");
    rows.extend(numbers.into_iter().map(row));
    // Last, where they are seen first: they explain why a client cannot connect.
    if let Some(Value::Object(refused)) = refused {
        let named = |(reason, count): (String, Value)| {
            (format!("refused for {}", reason.replace('_', " ")), value_text(&count))
        };
        rows.extend(refused.into_iter().map(named));
    }
    pairs(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_come_last_each_by_its_reason() {
        let numbers = serde_json::json!({
            "refused": {"host": 3, "token_expired": 12}, "uptime_seconds": 60, "wrong_secrets": 1,
        });
        let Value::Object(numbers) = numbers else { return };
        let text = numbers_text(numbers);
        let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let last: Vec<String> = words.iter().rev().take(3).map(|words| words.join(" ")).collect();
        assert_eq!(last, ["refused for token expired 12", "refused for host 3", "wrong secrets 1"]);
        assert!(text.starts_with("up for"), "{text}");
    }
}
