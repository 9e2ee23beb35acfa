//! The metrics page in the text format of Prometheus.
//!
//! The names are the fields of the statistics, in alphabetical order.

use std::fmt::Write;

use crate::protocol::Reason;
use crate::protocol::frame::Statistics;
use crate::protocol::metrics::{Metric, MetricType};

/// Renders the statistics.
pub fn text(statistics: &Statistics) -> String {
    let mut text = String::new();
    let version = env!("CARGO_PKG_VERSION");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# TYPE wshubd_build_info gauge\nwshubd_build_info{{version=\"{version}\"}} 1");
    let mut metrics: Vec<Metric> = statistics.metrics().collect();
    metrics.sort_unstable_by_key(|metric| metric.name);
    for Metric { name, kind, value } in metrics {
        let _ = match kind {
            MetricType::Gauge => writeln!(text, "# TYPE wshubd_{name} gauge\nwshubd_{name} {value}"),
            MetricType::Counter => {
                writeln!(text, "# TYPE wshubd_{name}_total counter\nwshubd_{name}_total {value}")
            }
        };
    }
    // Each reason, those that were never given too: a graph of it begins at 0.
    text.push_str("# TYPE wshubd_refused_total counter\n");
    for ((reason, _), count) in Reason::NAMES.iter().zip(statistics.refused.counts()) {
        let _ = writeln!(text, "wshubd_refused_total{{reason=\"{reason}\"}} {count}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::Counters;

    #[test]
    fn gauges_counters_and_refusals_have_their_own_form() {
        let counters = Counters { interrupts: 5, ..Counters::default() };
        let mut statistics = Statistics { workers: 2, counters, ..Statistics::default() };
        statistics.refused.count(Reason::Origin);
        let text = text(&statistics);
        for lines in [
            "# TYPE wshubd_build_info gauge\nwshubd_build_info{version=\"",
            "\n# TYPE wshubd_interrupts_total counter\nwshubd_interrupts_total 5\n# TYPE wshubd_kept_bytes gauge\n",
            "\n# TYPE wshubd_workers gauge\nwshubd_workers 2\n",
            "\n# TYPE wshubd_refused_total counter\nwshubd_refused_total{reason=\"host\"} 0\n\
             wshubd_refused_total{reason=\"origin\"} 1\n",
        ] {
            assert!(text.contains(lines), "{lines} in {text}");
        }
    }
}
