//! `[listen]`: the addresses of the daemon, and the pages and proxies that it trusts.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use super::once;
use crate::config::pass::{EffectAfter, Section};
use crate::config::spelling::Spell;
use crate::config::{Environment, paths};
use crate::protocol::origin::{AllowedOrigin, Host};
use crate::protocol::routes;

/// Where clients connect if nothing is configured.
pub(crate) const DEFAULT_HTTP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8098);

/// Where the daemon can be reached, and from which pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenConfig {
    /// WebSocket and HTTP.
    pub http: Vec<SocketAddr>,
    /// The worker socket.
    pub worker: PathBuf,
    /// Of the WebSocket endpoint.
    pub paths: Vec<String>,
    /// Each as [`crate::protocol::origin::AllowedOrigin`] reads it.
    pub allowed_origins: Vec<String>,
    /// Names that requests may be addressed to, beside our own.
    pub allowed_hosts: Vec<String>,
    /// Whether the metrics can be read without the secret.
    pub metrics_open: bool,
    /// Peers that are trusted to name the source address of a request.
    pub trusted_proxies: Vec<IpNet>,
    /// The header in which they name it.
    pub forwarded: Forwarded,
}

/// The header in which a trusted proxy names the peers before it; the other is ignored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Forwarded {
    #[default]
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

impl Forwarded {
    /// Both, by their names.
    pub const NAMES: [(&'static str, Self); 2] =
        [("x-forwarded-for", Self::XForwardedFor), ("forwarded", Self::Forwarded)];
}

impl ListenConfig {
    pub(super) fn defaults(environment: &Environment) -> Self {
        Self {
            http: vec![DEFAULT_HTTP],
            worker: paths::worker_socket(environment),
            paths: ["/api/v1/ws", "/ws/connect", "/ws"].map(str::to_owned).to_vec(),
            allowed_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            metrics_open: false,
            trusted_proxies: Vec::new(),
            forwarded: Forwarded::default(),
        }
    }

    pub(super) fn options(&mut self, section: &mut Section<'_>) {
        let addresses = RefCell::default();
        section.needs(EffectAfter::Handover).list("http", &mut self.http, |text| address(&addresses, text));
        section.needs(EffectAfter::Handover).path("worker", &mut self.worker, socket_path);
        if let Some(location) = section.location_of_empty_list("paths") {
            section.complain(location, "`listen.paths` wants at least one path".into());
        }
        let paths = RefCell::default();
        section.list("paths", &mut self.paths, |text| {
            routes::endpoint(text)?;
            once(&paths, text.to_owned())
        });
        section.list("allowed_origins", &mut self.allowed_origins, |text| {
            AllowedOrigin::parse(text).map(|_| text.to_owned())
        });
        section.list("allowed_hosts", &mut self.allowed_hosts, |text| {
            let wanted = "a host name such as \"hub.example.org\"";
            Host::parse(text).map(|_| text.to_owned()).ok_or_else(|| wanted.into())
        });
        section.boolean("metrics_open", &mut self.metrics_open);
        section.list("trusted_proxies", &mut self.trusted_proxies, network);
        section.choice("forwarded", &mut self.forwarded, &Forwarded::NAMES);
    }
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

/// An address that does not overlap those before it: while a socket has a port of all
/// addresses, the kernel gives that port to no other socket.
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
    // For port 0 the kernel chooses another one each time.
    let has_port = one.port() != 0 && one.port() == other.port();
    has_port && is_of_same && (is_same || one_ip.is_unspecified() || other_ip.is_unspecified())
}

/// On which link an address is.
fn scope(address: SocketAddr) -> u32 {
    if let SocketAddr::V6(address) = address { address.scope_id() } else { 0 }
}

/// An address or a network. One with bits of a host in it is a slip: it may mean either.
fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let wanted = || "an address or a network, such as \"192.0.2.7\" or \"10.0.0.0/8\"".to_owned();
    let mut network: IpNet = text.parse().map_err(|_| wanted())?;
    // The addresses of peers are canonical when they are compared, and so is this.
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

/// An address, or a network where it has more than one.
impl Spell for IpNet {
    fn spell(&self) -> String {
        let is_one = self.prefix_len() == self.max_prefix_len();
        if is_one { self.addr().to_string().spell() } else { self.to_string().spell() }
    }
}
