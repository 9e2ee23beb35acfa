//! Report of the memory held for connections, where the hub wants it.

use crate::edge::net::connection_table::ConnectionTable;
use crate::hub::{Hub, Input, MemoryQuery, Now};

/// A part of the ceiling on memory that is worth looking at it.
const GROWTH: usize = 64;

/// When to report, and what.
#[derive(Default)]
pub(super) struct MemoryReport {
    /// What was held for connections when that was looked at last.
    seen: usize,
}

impl MemoryReport {
    /// The report, where the hub wants one.
    pub(super) fn due(&mut self, now: Now, hub: &Hub, connections: &ConnectionTable) -> Option<Input> {
        self.seen = connections.held();
        let links = self.seen as u64;
        let holders = match hub.memory_query(now, links) {
            MemoryQuery::Nothing => return None,
            MemoryQuery::Total => Vec::new(),
            MemoryQuery::Holders => connections.holders(),
        };
        Some(Input::Memory { links, holders, is_waited_for: false })
    }

    /// Whether much more is held than at the end of the last turn: what is requested in one turn
    /// may be more than there is room for.
    pub(super) fn has_grown(&self, connections: &ConnectionTable, ceiling: usize) -> bool {
        connections.held() >= self.seen + ceiling / GROWTH
    }
}

/// Whether a new client needs memory that is to be freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MemoryDemand {
    None,
    NewClient,
}

/// What is held at this moment, in full.
pub(super) fn full(connections: &ConnectionTable, demand: MemoryDemand) -> Input {
    let (links, holders) = (connections.held() as u64, connections.holders());
    Input::Memory { links, holders, is_waited_for: demand == MemoryDemand::NewClient }
}
