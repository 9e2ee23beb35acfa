//! Metrics: the statistics as typed numbers.
//!
//! The only table of gauges and counters. Its patterns are exhaustive: a new number of the
//! statistics does not compile before it has a type here.

use super::frame::{Counters, Statistics};

/// How a number moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricType {
    /// Up and down.
    Gauge,
    /// Only up, from 0 at the start of the daemon.
    Counter,
}

/// One number of the statistics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// The name of its field.
    pub name: &'static str,
    pub kind: MetricType,
    pub value: u64,
}

/// All fields of a struct of numbers as metrics of one type; those behind the semicolon are
/// left out.
macro_rules! metrics {
    ($kind:ident, $numbers:expr, $type:ident { $($name:ident),+ $(; $($other:ident),+)? }) => {{
        let $type { $($name,)+ $($($other: _,)+)? } = $numbers;
        [$(Metric { name: stringify!($name), kind: MetricType::$kind, value: *$name }),+]
    }};
}

impl Statistics {
    /// All numbers but the refusals, which are counted by reason: gauges first, in the order
    /// in which a person wants to see them.
    pub fn metrics(&self) -> impl Iterator<Item = Metric> {
        let gauges = metrics!(Gauge, self, Statistics {
            uptime_seconds, connected_users, total_connections, workers, channels, subscriptions,
            operations, revocations, kept_messages, kept_bytes, unstored_bytes, store_failed, disk_bytes,
            flash_spent_bytes, flash_level, memory_bytes, memory_level; refused, counters
        });
        let counters = metrics!(
            Counter,
            &self.counters,
            Counters {
                connections_opened,
                connections_closed,
                messages_received,
                messages_delivered,
                messages_shed,
                whispers_dropped,
                messages_expired,
                messages_evicted,
                messages_stored,
                durable_refused,
                interrupts,
                requests_refused,
                rate_limited,
                closed_slow,
                closed_no_pong,
                closed_errors,
                closed_overloaded,
                closed_unauthenticated,
                closed_malformed,
                connections_refused,
                newcomers_dropped,
                wrong_secrets
            }
        );
        gauges.into_iter().chain(counters)
    }

    /// The names of all gauges, in the order of [`Self::metrics`].
    pub fn gauges() -> impl Iterator<Item = &'static str> {
        let metrics: Vec<Metric> = Self::default().metrics().collect();
        metrics.into_iter().filter(|metric| metric.kind == MetricType::Gauge).map(|metric| metric.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_of_the_statistics_is_one_metric() {
        let json = serde_json::to_value(Statistics::default()).unwrap_or_default();
        let numbers = json.as_object().into_iter().flatten().filter(|(_, value)| value.is_u64());
        let mut fields: Vec<&str> = numbers.map(|(name, _)| &**name).collect();
        let mut metrics: Vec<&str> = Statistics::default().metrics().map(|metric| metric.name).collect();
        fields.sort_unstable();
        metrics.sort_unstable();
        assert_eq!(fields, metrics);
    }

    #[test]
    fn each_counter_counts_and_no_gauge_does() {
        let counters = Counters { messages_received: 7, ..Counters::default() };
        let statistics = Statistics { workers: 3, counters, ..Statistics::default() };
        let find = |name| statistics.metrics().find(|metric| metric.name == name);
        let expected = |name, kind, value| Some(Metric { name, kind, value });
        assert_eq!(find("workers"), expected("workers", MetricType::Gauge, 3));
        assert_eq!(find("messages_received"), expected("messages_received", MetricType::Counter, 7));
        assert!(Statistics::gauges().eq(statistics.metrics().take(17).map(|metric| metric.name)));
    }
}
