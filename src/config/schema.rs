//! The options: their names, ranges and defaults.
//!
//! Knows what each key may be set to, and which two do not go together. Numbers
//! that the hub decides by have their defaults there.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use super::error::Place;
use super::merge::Entries;
use super::reader::{Problems, Table};
use super::{
    Alg, Auth, ChannelPolicy, Config, Environment, Forwarded, INBOX, KeyFile, Limits, Listen, Principal,
    State, Store, StoreKind, WantedClaims, Worker, absolute_path, paths,
};
use crate::features;
use crate::hub::settings;
use crate::hub::settings::{Heartbeat, Keep, Policy, WriteThrough};
use crate::hub::{Pattern, Rights, Settings};
use crate::protocol::ids::LONGEST_NAME;
use crate::protocol::origin::{AllowedOrigin, Host};
use crate::protocol::routes;

/// Where clients come in when nobody says.
pub(crate) const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8098);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// So many of anything fit into the memory of a small machine's big sister;
/// more is a slip of the keyboard.
const MANY: RangeInclusive<u64> = 1..=1_000_000;

/// The time of each is held for its connection.
const MANY_ERRORS: RangeInclusive<u64> = 1..=100;

/// Addresses of 32 bits are the limit: these bytes are counted in memory.
const MOST_MEMORY: u64 = 2 * GIB;

const fn seconds(low: u64, high: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(low)..=Duration::from_secs(high)
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Makes a configuration of what was written; `problems` says whether it may
/// be used.
pub(super) fn config(entries: Entries, environment: &Environment, problems: &Problems) -> Config {
    let mut root = Table::root(entries, Rc::clone(problems));
    let listen = listen(root.table("listen"), environment);
    let state = state(root.table("state"), environment);
    let auth = auth(root.table("auth"), environment);
    let worker = worker(root.table("worker"));
    let mut limits = limits(root.table("limits"));
    let heartbeat = heartbeat(root.table("heartbeat"));
    let channels = channels(root.tables("channel"));
    let store = store(root.table("store"), &mut limits);
    let (log, log_access) = log(root.table("log"));
    root.finish();
    Config { listen, state, auth, worker, limits, heartbeat, channels, store, log, log_access }
}

fn socket_path(path: PathBuf) -> Result<PathBuf, String> {
    match path.as_os_str().len() {
        ..=paths::LONGEST_SOCKET => Ok(path),
        _ => Err(format!("a path of up to {} bytes, the most that a socket may have", paths::LONGEST_SOCKET)),
    }
}

/// What should stand where an address does not.
fn wanted_for(text: &str) -> String {
    let more = match text {
        _ if text.contains(',') => "; several are a list, such as [\"127.0.0.1:8098\", \"[::1]:8098\"]",
        _ if text.starts_with([':', '*']) => {
            "; \"0.0.0.0:8098\" and \"[::]:8098\" are all that the machine has"
        }
        _ => "",
    };
    format!("an address and port, such as \"127.0.0.1:8098\" or \"[::1]:8098\"{more}")
}

/// An address that can be listened at beside those before it. The kernel lets nobody else
/// listen at a port of which somebody takes all addresses.
fn address(seen: &RefCell<Vec<SocketAddr>>, text: &str) -> Result<SocketAddr, String> {
    let address = once(seen, text.parse().map_err(|_| wanted_for(text))?)?;
    match seen.borrow().iter().find(|other| **other != address && overlap(**other, address)) {
        Some(other) => Err(format!(
            "no address that is among those of \"{other}\", beside which it cannot be listened at (leave out \
             one of the two)"
        )),
        None => Ok(address),
    }
}

/// Whether two addresses of one port have connections that may come to either. `[::]` takes
/// none of IPv4 where an address of IPv4 has its port.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let [one_ip, other_ip] = [one, other].map(|address| address.ip().to_canonical());
    let is_of_same = one_ip.is_ipv4() == other_ip.is_ipv4() || (one.is_ipv6() && other.is_ipv6());
    let is_same = one_ip == other_ip && scope(one) == scope(other);
    // The kernel chooses another one for each.
    let has_port = one.port() != 0 && one.port() == other.port();
    has_port && is_of_same && (is_same || one_ip.is_unspecified() || other_ip.is_unspecified())
}

/// On which link an address is.
fn scope(address: SocketAddr) -> u32 {
    if let SocketAddr::V6(address) = address { address.scope_id() } else { 0 }
}

/// Passes on an item of a list that has none like it.
fn once<T: PartialEq + Clone>(seen: &RefCell<Vec<T>>, item: T) -> Result<T, String> {
    if seen.borrow().contains(&item) {
        return Err("each of its entries once".to_owned());
    }
    seen.borrow_mut().push(item.clone());
    Ok(item)
}

fn listen(mut table: Table, environment: &Environment) -> Listen {
    let usual = |paths: [&str; 3]| paths.map(str::to_owned).to_vec();
    if let Some(place) = table.place_of_nothing("paths") {
        table.complain(place, "`listen.paths` wants at least one path".into());
    }
    let (addresses, paths) = (RefCell::default(), RefCell::default());
    let place = table.place("worker");
    let worker = table.parsed("worker", |text| {
        absolute_path::path(text, place.as_ref(), environment).and_then(socket_path)
    });
    let listen = Listen {
        http: table.list("http", vec![DEFAULT_HTTP], |text| address(&addresses, text)),
        worker: worker.unwrap_or_else(|| paths::worker_socket(environment)),
        paths: table.list("paths", usual(["/api/v1/ws", "/ws/connect", "/ws"]), |text| {
            routes::endpoint(text)?;
            once(&paths, text.to_owned())
        }),
        allowed_origins: table
            .list("allowed_origins", Vec::new(), |text| AllowedOrigin::parse(text).map(|_| text.to_owned())),
        allowed_hosts: table.list("allowed_hosts", Vec::new(), |text| {
            let wanted = "a host name such as \"hub.example.org\"";
            Host::parse(text).map(|_| text.to_owned()).ok_or_else(|| wanted.into())
        }),
        metrics_open: table.boolean("metrics_open", false),
        trusted_proxies: table.list("trusted_proxies", Vec::new(), network),
        forwarded: table.choice("forwarded", Forwarded::default(), &Forwarded::NAMES),
    };
    table.finish();
    listen
}

/// An address or a network. One with bits of a host in it is a slip: it may mean either.
fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let wanted = || "an address or a network, such as \"192.0.2.7\" or \"10.0.0.0/8\"".to_owned();
    let mut network: IpNet = text.parse().map_err(|_| wanted())?;
    // Peers are compared as what they are, and so is this.
    if let (IpAddr::V4(address), Some(prefix)) =
        (network.addr().to_canonical(), network.prefix_len().checked_sub(96))
        && let Ok(mapped) = IpNet::new(address.into(), prefix)
        && network.addr().is_ipv6()
    {
        network = mapped;
    }
    if network.addr() != network.network() {
        return Err(format!(
            "\"{}\" for the network or \"{}\" for the one address",
            network.trunc(),
            network.addr()
        ));
    }
    Ok(network)
}

fn state(mut table: Table, environment: &Environment) -> State {
    let place = table.place("store");
    let state = State {
        directory: table
            .path("directory", environment)
            .unwrap_or_else(|| paths::state_directory(environment)),
        runtime: environment.directory("RUNTIME_DIRECTORY"),
        store: table.choice("store", StoreKind::default(), &StoreKind::NAMES),
    };
    if let (Some(place), StoreKind::Sled, false) = (place, state.store, features::STORE.is_built_in) {
        table.complain(place, format!("`state.store` cannot be \"sled\": {}", features::STORE.missing()));
    }
    table.finish();
    state
}

impl StoreKind {
    pub(super) const NAMES: [(&'static str, Self); 2] = [("sled", Self::Sled), ("memory", Self::Memory)];
}

fn auth(mut table: Table, environment: &Environment) -> Auth {
    let usual = Settings::default().rights;
    let keys = keys(table.tables("keys"), environment);
    let pattern = |text: &str| {
        let fits = (1..=LONGEST_NAME).contains(&text.len());
        fits.then(|| Pattern::new(text)).ok_or_else(|| format!("a pattern of 1 to {LONGEST_NAME} bytes"))
    };
    let auth = Auth {
        anonymous: table.boolean("anonymous", Settings::default().anonymous),
        query_token: table.boolean("query_token", true),
        keys,
        claims: claims(&mut table),
        broadcast_secrets: table.files("broadcast_secrets", environment),
        rights: Rc::new(Rights {
            subscribe: table.list("subscribe", usual.subscribe.clone(), pattern),
            publish: table.list("publish", usual.publish.clone(), pattern),
            interrupt: table.list("interrupt", usual.interrupt.clone(), pattern),
            admin: false,
        }),
        revocation_ttl: table.duration(
            "revocation_ttl",
            Duration::from_secs(30 * DAY),
            seconds(1, 3650 * DAY),
        ),
        credentials: environment.directory("CREDENTIALS_DIRECTORY"),
    };
    table.finish();
    auth
}

/// Claims that say no name of a user: when, by whom and for what a token was made.
const NO_USERS: [&str; 9] = ["aud", "exp", "iat", "iss", "jti", "nbf", "wshub", "wshub_info", "wshub_limits"];

fn claims(table: &mut Table) -> WantedClaims {
    let user = table.parsed("user_claim", |text| match text.len() {
        _ if NO_USERS.contains(&text) => {
            Err("a claim that names the user, such as \"email\" or \"preferred_username\"".to_owned())
        }
        0..=LONGEST_NAME => Ok(text.to_owned()),
        _ => Err(format!("the name of a claim, up to {LONGEST_NAME} bytes")),
    });
    let text = |text: &str| match text {
        "" => Err("text as the claim has it".to_owned()),
        text => Ok(text.to_owned()),
    };
    WantedClaims {
        user: user.filter(|claim| !claim.is_empty()),
        issuers: table.list("issuer", Vec::new(), text),
        audiences: table.list("audience", Vec::new(), text),
        end: table.boolean("require_exp", true),
    }
}

/// Keys of tokens. A key id names one key, or an attacker could choose.
fn keys(tables: Vec<(Place, Table)>, environment: &Environment) -> Vec<KeyFile> {
    let mut seen = HashSet::new();
    let mut keys = Vec::new();
    for (place, mut table) in tables {
        let alg = table.place("alg").map(|place| {
            let alg = table.choice("alg", Alg::Hs256, &Alg::NAMES);
            if alg.is_public() && !features::PUBLIC_KEYS.is_built_in {
                let why = features::PUBLIC_KEYS.missing();
                table.complain(place, format!("`alg` cannot be {:?}: {why}", alg.name()));
            }
            alg
        });
        let has_file = table.place("file").is_some();
        let file = table.file("file", environment);
        let kid = table.parsed("kid", |text| {
            let fits = (1..=LONGEST_NAME).contains(&text.len());
            fits.then(|| text.to_owned()).ok_or_else(|| format!("a key id of 1 to {LONGEST_NAME} bytes"))
        });
        if let Some(kid) = kid.as_ref().filter(|kid| !seen.insert((*kid).clone())) {
            table.complain(place.clone(), format!("two keys have the `kid` {kid:?}"));
        }
        match (alg, file) {
            (Some(alg), Some(file)) => keys.push(KeyFile { alg, file, kid }),
            // What is wrong with the file is said already.
            (Some(_), None) if has_file => {}
            _ => table.complain(
                place,
                "a key of `auth.keys` wants `alg` and `file`, such as { alg = \"HS256\", file = \"/etc/wshubd/jwt.key\" }"
                    .into(),
            ),
        }
        table.finish();
    }
    keys
}

fn worker(mut table: Table) -> Worker {
    let principal = |text: &str| {
        let named = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
        let group = text.strip_prefix('@').and_then(named).map(Principal::Group);
        let unit = || text.strip_prefix("unit:").and_then(named).map(Principal::Unit);
        let uid = || text.parse().ok().map(Principal::Uid);
        let wanted = "a user's number, \"@group\" or \"unit:name.service\"";
        group.or_else(unit).or_else(uid).ok_or_else(|| wanted.to_owned())
    };
    let worker = Worker {
        allow: table.list("allow", Vec::new(), principal),
        admins: table.list("admins", Vec::new(), principal),
    };
    table.finish();
    worker
}

fn limits(mut table: Table) -> Limits {
    let usual = settings::Limits::default();
    let patience = seconds(1, HOUR);
    let requests_per_second = table.number("requests_per_second", usual.requests_per_second, MANY);
    let burst = table.number("burst", usual.burst, MANY);
    // Of what the connection may ask, so that who raises that raises both.
    let of_user = |one: u32| one.saturating_mul(settings::OF_USER).min(*MANY.end() as u32);
    let limits = Limits {
        hub: settings::Limits {
            requests_per_second,
            burst,
            user_requests_per_second: table.number(
                "user_requests_per_second",
                of_user(requests_per_second),
                MANY,
            ),
            user_burst: table.number("user_burst", of_user(burst), MANY),
            token_rate: table.number("token_rate", usual.token_rate, MANY),
            interrupts_per_second: table.number("interrupts_per_second", usual.interrupts_per_second, MANY),
            interrupt_burst: table.number("interrupt_burst", usual.interrupt_burst, MANY),
            whispers_per_second: table.number("whispers_per_second", usual.whispers_per_second, MANY),
            whisper_burst: table.number("whisper_burst", usual.whisper_burst, MANY),
            // Below 1 KiB a token would not fit into an `auth` request of any use.
            message_bytes: table.size("message_bytes", usual.message_bytes, KIB..=64 * MIB),
            subscriptions: table.number("subscriptions", usual.subscriptions, MANY),
            connections_per_user: table.number("connections_per_user", usual.connections_per_user, MANY),
            errors: table.number("errors", usual.errors, MANY_ERRORS),
            errors_window: table.duration("errors_window", usual.errors_window, seconds(1, DAY)),
            operations: table.number("operations", usual.operations, MANY),
            // Below 1 MiB a few requests would fill it.
            memory: table.size("memory", usual.memory, MIB..=MOST_MEMORY),
            auth: table.duration("auth_timeout", usual.auth, patience.clone()),
            stall: table.duration("stall_timeout", usual.stall, patience.clone()),
            ..usual
        },
        queue_messages: table.number("queue_messages", 256, MANY),
        queue_bytes: table.size("queue_bytes", 256 << 10, KIB..=GIB),
        connections: table.number("connections", 10_000, MANY),
        http_connections: table.number("http_connections", 2048, MANY),
        wrong_secrets: table.number("wrong_secrets_per_minute", 30, MANY),
        // After a key was changed all users of a proxy bring theirs once more.
        wrong_tokens: table.number("wrong_tokens_per_minute", 100, MANY),
        handshake: table.duration("handshake_timeout", Duration::from_secs(10), patience),
    };
    table.finish();
    limits
}

fn heartbeat(mut table: Table) -> Heartbeat {
    let usual = Heartbeat::default();
    let place = table.place("pong_timeout").or_else(|| table.place("ping_interval"));
    let heartbeat = Heartbeat {
        ping_interval: table.duration("ping_interval", usual.ping_interval, seconds(1, DAY)),
        pong_timeout: table.duration("pong_timeout", usual.pong_timeout, seconds(2, 2 * DAY)),
    };
    if let Some(place) = place.filter(|_| heartbeat.pong_timeout <= heartbeat.ping_interval) {
        let [pong, ping] = [heartbeat.pong_timeout, heartbeat.ping_interval].map(super::render::duration);
        let message = format!(
            "`heartbeat.pong_timeout` ({pong}) must be longer than `heartbeat.ping_interval` ({ping}), or \
             everybody is closed before being asked"
        );
        table.complain(place, message);
    }
    table.finish();
    heartbeat
}

/// Words for [`Disk`], which is the hub's.
pub(super) const DISKS: [(&str, WriteThrough); 3] =
    [("behind", WriteThrough::Behind), ("stop", WriteThrough::Stop), ("never", WriteThrough::Never)];

/// Words for [`Keep`], which is the hub's: those for channels, and for inboxes.
pub(super) const KEEPS: [(&str, Keep); 3] =
    [("undelivered", Keep::Undelivered), ("history", Keep::History), ("never", Keep::Never)];
pub(super) const INBOX_KEEPS: [(&str, Keep); 2] =
    [("unacknowledged", Keep::Unacknowledged), ("never", Keep::Never)];

fn channels(tables: Vec<(Place, Table)>) -> Vec<ChannelPolicy> {
    let mut seen = HashSet::new();
    let mut channels = Vec::new();
    for (place, mut table) in tables {
        if let Some(channel) = channel(&place, &mut table) {
            let pattern = channel.pattern.as_str().to_owned();
            if seen.contains(&pattern) {
                let message = format!("an earlier `[[channel]]` matches {pattern:?} already");
                table.complain(place, message);
            }
            seen.insert(pattern);
            channels.push(channel);
        }
        table.finish();
    }
    channels
}

fn channel(place: &Place, table: &mut Table) -> Option<ChannelPolicy> {
    let usual = Policy::default();
    let missing = table.place("match").is_none();
    let pattern = table.parsed("match", |text| {
        let own = text.starts_with('@') && text != INBOX;
        let fits = (1..=LONGEST_NAME).contains(&text.len()) && !own;
        let wanted = format!("a pattern of 1 to {LONGEST_NAME} bytes for channels, or {INBOX:?} for inboxes");
        fits.then(|| text.to_owned()).ok_or(wanted)
    });
    if missing {
        table.complain(place.clone(), "a `[[channel]]` wants `match`, such as match = \"orders:*\"".into());
    }
    // An inbox goes on until it is acknowledged; there is no past to ask for.
    let keep = match pattern.as_deref() {
        Some(INBOX) => table.choice("keep", Keep::Unacknowledged, &INBOX_KEEPS),
        _ => table.choice("keep", usual.keep, &KEEPS),
    };
    let policy = Policy {
        keep,
        count: table.number("count", usual.count, MANY),
        bytes: table.size("bytes", usual.bytes, KIB..=GIB),
        ttl: table.duration("ttl", usual.ttl, seconds(1, 3650 * DAY)),
        disk: table.choice("disk", WriteThrough::for_keep(keep), &DISKS),
    };
    Some(ChannelPolicy { pattern: Pattern::new(&pattern?), policy })
}

fn store(mut table: Table, limits: &mut Limits) -> Store {
    limits.hub.kept_bytes = table.size("bytes", limits.hub.kept_bytes, 4 * MIB..=MOST_MEMORY);
    let write_delay = Duration::ZERO..=Duration::from_secs(HOUR);
    let store = Store {
        write_delay: table.duration("write_delay", Duration::from_secs(1), write_delay),
        flash_budget: Some(table.size("flash_budget", 256 * MIB, 0..=1024 * GIB))
            .filter(|budget| *budget > 0),
    };
    table.finish();
    store
}

/// As people expect them.
pub(super) const LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

fn log(mut table: Table) -> (LevelFilter, bool) {
    let level = table.choice("level", LevelFilter::Info, &LEVELS);
    let access = table.boolean("access", false);
    table.finish();
    (level, access)
}
