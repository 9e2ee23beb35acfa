//! The numbers of the daemon as Prometheus reads them.
//!
//! Knows that text format. Does not know what the numbers mean: their names are
//! the fields of the statistics.

use std::fmt::Write;

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
    text
}
