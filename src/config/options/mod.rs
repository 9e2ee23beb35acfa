//! The options of the configuration, a file for each section.
//!
//! A section has a struct and a function `options`, which names each option once: its key,
//! what it may be set to, and the field that holds it, which holds the default before. An
//! option that is added stands there, and where it is used. Numbers that the hub decides by
//! have their fields and defaults in [`settings`](crate::hub::settings).

mod auth;
mod channel;
mod heartbeat;
mod limits;
mod listen;
mod log;
mod state;
mod store;
mod worker;

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

pub use auth::{Alg, AuthConfig, KeyFile, RequiredClaims};
pub use channel::{ChannelPolicy, INBOX};
pub use limits::LimitsConfig;
pub(crate) use listen::DEFAULT_HTTP;
pub use listen::{Forwarded, ListenConfig};
pub use log::LogConfig;
pub use state::{StateConfig, StoreKind};
pub use store::StoreConfig;
pub use worker::{Principal, WorkerConfig};

pub(super) use channel::any as any_channel;

use super::pass::Pass;
use super::{Config, Environment};
use crate::hub::settings::Heartbeat;
use crate::protocol::ids::LONGEST_NAME;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Addresses of 32 bits are the limit: these bytes are counted in memory.
const MAX_MEMORY: u64 = 2 * GIB;

/// Limits on counts: a larger number than any machine of this size can hold is a typing error.
const MANY: RangeInclusive<u64> = 1..=1_000_000;

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

const fn seconds(low: u64, high: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(low)..=Duration::from_secs(high)
}

/// Passes on an item of a list that has none like it.
fn once<T: PartialEq + Clone>(seen: &RefCell<Vec<T>>, item: T) -> Result<T, String> {
    if seen.borrow().contains(&item) {
        return Err("each of its entries once".to_owned());
    }
    seen.borrow_mut().push(item.clone());
    Ok(item)
}

/// Text that is short enough for a name, and not empty; `wanted` describes it.
fn name(text: &str, wanted: &str) -> Result<String, String> {
    let fits = (1..=LONGEST_NAME).contains(&text.len());
    fits.then(|| text.to_owned()).ok_or_else(|| format!("{wanted} of 1 to {LONGEST_NAME} bytes"))
}

/// The configuration where nothing is written.
pub(super) fn defaults(environment: &Environment) -> Config {
    Config {
        listen: ListenConfig::defaults(environment),
        state: StateConfig::defaults(environment),
        auth: AuthConfig::defaults(environment),
        worker: WorkerConfig::default(),
        limits: LimitsConfig::default(),
        heartbeat: Heartbeat::default(),
        channels: Vec::new(),
        store: StoreConfig::default(),
        log: LogConfig::default(),
    }
}

/// Passes over all options, in the order of the example file.
pub(super) fn all(config: &mut Config, pass: &mut Pass<'_>) {
    let Config { listen, state, auth, worker, limits, heartbeat, channels, store, log } = config;
    pass.section("listen", |section| listen.options(section));
    pass.section("state", |section| state.options(section));
    pass.section("auth", |section| auth.options(section));
    pass.section("worker", |section| worker.options(section));
    pass.section("limits", |section| limits.options(section));
    pass.section("heartbeat", |section| heartbeat::options(heartbeat, section));
    channel::options(channels, pass);
    pass.section("store", |section| store.options(&mut limits.hub.kept_bytes, section));
    pass.section("log", |section| log.options(section));
}
