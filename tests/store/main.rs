//! The store: what is promised to be on the disk, and what it costs.

mod flash_budget;
mod hub_clock;
mod positions;
