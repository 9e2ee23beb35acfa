//! The address of a client behind proxies.
//!
//! Knows which peers are trusted to name the one before them, and how they spell it:
//! `X-Forwarded-For`, or `Forwarded` (RFC 7239). Does not know schemes, hosts and origins,
//! which no proxy's word changes.
//!
//! Whatever stands left of what a trusted proxy has added may be the client's own
//! invention. So the list is read from its end, and what does not follow the grammar, such
//! as a quote that the client has opened before the proxy's part, is read as nothing.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName, HeaderValue, VIA};
use ipnet::IpNet;

use crate::config::{Forwarded, ListenConfig};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What shows that a request came through a proxy, beside `X-Forwarded-…`.
const TRACES: [HeaderName; 3] = [FORWARDED, VIA, HeaderName::from_static("x-real-ip")];

/// Who is trusted, and with which header.
#[derive(Debug)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    header: Forwarded,
    /// The log names a proxy of this machine that is not among them, once.
    has_told: Cell<bool>,
}

/// Where a request comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Source {
    /// Of the client, as far as trusted proxies tell; else of the peer.
    pub address: IpAddr,
    /// That is not the peer's own.
    pub is_named: bool,
    /// A trusted proxy passes it on for somebody whom its header does not name.
    pub is_hidden: bool,
    /// A program of this machine asks, and no proxy for somebody else.
    pub is_local: bool,
}

impl Source {
    /// A peer that has asked nothing yet.
    pub fn of_peer(peer: IpAddr) -> Self {
        Self { address: peer.to_canonical(), is_named: false, is_hidden: false, is_local: false }
    }
}

impl Proxies {
    /// Those of a configuration.
    pub fn new(listen: &ListenConfig) -> Self {
        let (trusted, header) = (listen.trusted_proxies.clone(), listen.forwarded);
        Self { trusted, header, has_told: Cell::new(false) }
    }

    /// Where a request with these headers comes from that `peer` has sent to `own`, an
    /// address of ours.
    pub fn source(&self, peer: IpAddr, own: IpAddr, headers: &HeaderMap) -> Source {
        let peer = peer.to_canonical();
        let is_trusted = self.trusts(peer);
        let named = if is_trusted { self.named(headers) } else { None };
        let address = named.unwrap_or(peer);
        let came_on_loopback = own.to_canonical().is_loopback() && peer.is_loopback();
        let is_local = came_on_loopback && address.is_loopback() && !is_forwarded(headers);
        let is_hidden = is_trusted && named.is_none() && headers.contains_key(self.name());
        Source { address, is_named: named.is_some(), is_hidden, is_local }
    }

    /// Whether the log is to say that `peer` is a proxy of this machine whose word does not
    /// count. True once at most.
    pub fn is_to_be_told(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let peer = peer.to_canonical();
        peer.is_loopback()
            && !self.has_told.get()
            && is_forwarded(headers)
            && !self.trusts(peer)
            && !self.has_told.replace(true)
    }

    /// Keeps quiet about what an earlier configuration has told already.
    pub fn remember(&mut self, before: &Self) {
        self.has_told.set(before.has_told.get());
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }

    fn name(&self) -> HeaderName {
        match self.header {
            Forwarded::XForwardedFor => X_FORWARDED_FOR,
            Forwarded::Forwarded => FORWARDED,
        }
    }

    /// The rightmost address that is not trusted; where all are, the first of all. Nothing,
    /// where that cannot be read.
    fn named(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let mut last = None;
        // Several lines are one list, in their order (RFC 9110, section 5.3).
        for line in headers.get_all(self.name()).iter().rev() {
            for node in self.nodes(line)?.into_iter().rev() {
                let address = address(node?)?;
                if !self.trusts(address) {
                    return Some(address);
                }
                last = Some(address);
            }
        }
        last
    }

    /// The nodes of a line from left to right, each if it has one; nothing, where the line
    /// does not follow the grammar.
    fn nodes<'a>(&self, line: &'a HeaderValue) -> Option<Vec<Option<&'a str>>> {
        match self.header {
            // Byte by byte: what a client has made unreadable spoils nothing that follows.
            Forwarded::XForwardedFor => {
                let nodes = line.as_bytes().split(|byte| *byte == b',');
                Some(nodes.map(|node| std::str::from_utf8(node).ok().map(trimmed)).collect())
            }
            Forwarded::Forwarded => elements(line.to_str().ok()?),
        }
    }
}

/// Whether a header tells of a proxy, whoever has set it.
fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("x-forwarded-") || TRACES.contains(name))
}

/// Optional white space of HTTP around it is taken off.
fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// An address, with or without a port, IPv6 with or without brackets. No port is an error
/// that would make another address of it.
fn address(node: &str) -> Option<IpAddr> {
    let bracketed =
        || node.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6);
    let with_port = || node.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = node.parse().ok().or_else(bracketed).or_else(with_port);
    address.map(|address: IpAddr| address.to_canonical())
}

/// The `for` of each element of `Forwarded`: none, where it has none. Nothing at all, if any
/// of it is not as RFC 7239, section 4, has it. A value that is no token may stand without
/// quotes, as many spell addresses with a port.
fn elements(line: &str) -> Option<Vec<Option<&str>>> {
    let (mut nodes, mut node, mut rest) = (Vec::new(), None, line);
    loop {
        let (name, after) = rest.split_once('=')?;
        let name = trimmed(name);
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return None;
        }
        let (value, after) = match after.strip_prefix('"') {
            // No address has anything to escape.
            Some(quoted) => quoted.split_once('"').filter(|(value, _)| !value.contains('\\'))?,
            None => {
                let (value, after) = after.split_at(after.find([',', ';']).unwrap_or(after.len()));
                let value = trimmed(value);
                let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'=';
                if value.is_empty() || !value.bytes().all(plain) {
                    return None;
                }
                (value, after)
            }
        };
        if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
            return None;
        }
        let after = trimmed(after);
        if let Some(pair) = after.strip_prefix(';') {
            rest = pair;
            continue;
        }
        nodes.push(node.take());
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(nodes),
            None => return None,
        }
    }
}
