//! The numbers of the daemon as Prometheus reads them.
//!
//! Knows that text format. Does not know what the numbers mean: their names are
//! the fields of the statistics.

use std::fmt::Write;

use crate::protocol::Reason;
use crate::protocol::frame::GAUGES;

/// Makes the text of the JSON that `stats` answers with.
pub fn text(statistics: &[u8]) -> String {
    let numbers: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(statistics).unwrap_or_default();
    let mut text = String::new();
    let version = env!("CARGO_PKG_VERSION");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# TYPE wshubd_build_info gauge\nwshubd_build_info{{version=\"{version}\"}} 1");
    for (name, value) in &numbers {
        let Some(value) = value.as_u64() else { continue };
        let _ = if GAUGES.contains(&name.as_str()) {
            writeln!(text, "# TYPE wshubd_{name} gauge\nwshubd_{name} {value}")
        } else {
            writeln!(text, "# TYPE wshubd_{name}_total counter\nwshubd_{name}_total {value}")
        };
    }
    refused(&numbers, &mut text);
    text
}

/// Each reason for a refusal, those that nobody was refused for too: whoever draws a curve
/// wants to see that it was 0.
fn refused(numbers: &serde_json::Map<String, serde_json::Value>, text: &mut String) {
    text.push_str("# TYPE wshubd_refused_total counter\n");
    for (reason, _) in Reason::NAMES {
        let count = numbers.get("refused").and_then(|refused| refused.get(reason)?.as_u64()).unwrap_or(0);
        let _ = writeln!(text, "wshubd_refused_total{{reason=\"{reason}\"}} {count}");
    }
}
