//! `wshubctl status`: the numbers of wshubd.
//!
//! Knows in which order a person wants them. Does not know what they count.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value};
use wshubd::protocol::frame::Statistics;

use crate::args;
use crate::connection::Hub;
use crate::error::Failure;
use crate::query::{Ask, Reader, ask, fields, show, show_json};
use crate::table::pairs;
use crate::terminal::word;

pub(crate) async fn status(hub: &Hub, asked: args::Status) -> Result<ExitCode, Failure> {
    let answer = fields(&ask(hub, &Ask::Stats).await?)?;
    match (Reader::of(asked.json), answer) {
        (Reader::Person, Value::Object(numbers)) => show(&page(numbers)),
        (_, answer) => show_json(&format!("{answer}\n")),
    }
}

fn page(mut numbers: Map<String, Value>) -> String {
    let mut rows = Vec::new();
    if let Some(seconds) = numbers.remove("uptime_seconds").and_then(|value| value.as_u64()) {
        let time = humantime::format_duration(Duration::from_secs(seconds));
        rows.push(("up for".to_owned(), time.to_string()));
    }
    // What is the case now comes first, what has happened so far after it.
    let now =
        Statistics::gauges().filter_map(|name| numbers.remove(name).map(|value| (name.to_owned(), value)));
    let row = |(name, value): (String, Value)| (name.replace('_', " "), word(&value));
    rows.extend(now.collect::<Vec<_>>().into_iter().map(row));
    let refused = numbers.remove("refused");
    rows.extend(numbers.into_iter().map(row));
    // Last: whoever asks why somebody cannot connect looks here.
    if let Some(Value::Object(refused)) = refused {
        let named = |(reason, count): (String, Value)| {
            (format!("refused for {}", reason.replace('_', " ")), word(&count))
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
        let page = page(numbers);
        let words: Vec<Vec<&str>> = page.lines().map(|line| line.split_whitespace().collect()).collect();
        let last: Vec<String> = words.iter().rev().take(3).map(|words| words.join(" ")).collect();
        assert_eq!(last, ["refused for token expired 12", "refused for host 3", "wrong secrets 1"]);
        assert!(page.starts_with("up for"), "{page}");
    }
}
