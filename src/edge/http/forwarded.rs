//! Address of a client behind proxies: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Trusted peers name the address before them; schemes, hosts and origins are never taken from
//! a proxy. All entries left of the one that a trusted proxy has added may be forged by the
//! client. So the list is read from its end, and a line that violates the grammar, such as by a
//! quote that the client has opened before the proxy's entry, names nothing.

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};

use hyper::HeaderMap;
use hyper::header::{FORWARDED, HeaderName, HeaderValue, VIA};
use ipnet::IpNet;

use crate::config::{Forwarded, ListenConfig};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Headers that show that a request came through a proxy, beside `X-Forwarded-…`.
const TRACES: [HeaderName; 3] = [FORWARDED, VIA, HeaderName::from_static("x-real-ip")];

/// The trusted proxies, and the header that they use.
#[derive(Debug)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    header: Forwarded,
    /// A proxy on this machine that is not trusted is logged once.
    has_warned: Cell<bool>,
}

/// The source of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestSource {
    /// Of the client, if trusted proxies name it; else of the peer.
    pub address: IpAddr,
    /// A trusted proxy has named the address.
    pub is_named: bool,
    /// A trusted proxy has forwarded the request, and its header names no client.
    pub is_hidden: bool,
    /// A program on this machine has sent it, and no proxy is in between.
    pub is_local: bool,
}

impl RequestSource {
    /// A peer that has sent no request yet.
    pub fn of_peer(peer: IpAddr) -> Self {
        Self { address: peer.to_canonical(), is_named: false, is_hidden: false, is_local: false }
    }
}

impl Proxies {
    /// Those of a configuration.
    pub fn new(listen: &ListenConfig) -> Self {
        let (trusted, header) = (listen.trusted_proxies.clone(), listen.forwarded);
        Self { trusted, header, has_warned: Cell::new(false) }
    }

    /// The source of a request with these headers that `peer` has sent to `own`, an address of
    /// this machine.
    pub fn source(&self, peer: IpAddr, own: IpAddr, headers: &HeaderMap) -> RequestSource {
        let peer = peer.to_canonical();
        let is_trusted = self.trusts(peer);
        let named = if is_trusted { self.named(headers) } else { None };
        let address = named.unwrap_or(peer);
        let came_on_loopback = own.to_canonical().is_loopback() && peer.is_loopback();
        let is_local = came_on_loopback && address.is_loopback() && !is_forwarded(headers);
        let is_hidden = is_trusted && named.is_none() && headers.contains_key(self.name());
        RequestSource { address, is_named: named.is_some(), is_hidden, is_local }
    }

    /// Takes the warning that `peer` is a proxy on this machine which is not trusted. True once
    /// at most.
    pub fn take_warning(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let peer = peer.to_canonical();
        peer.is_loopback()
            && !self.has_warned.get()
            && is_forwarded(headers)
            && !self.trusts(peer)
            && !self.has_warned.replace(true)
    }

    /// Does not repeat the warning of an earlier configuration.
    pub fn remember(&mut self, before: &Self) {
        self.has_warned.set(before.has_warned.get());
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

    /// The rightmost address that is not trusted; where all are, the leftmost. None if it cannot
    /// be read.
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

    /// The nodes of a line from left to right, each if its element has one; none at all if the
    /// line violates the grammar.
    fn nodes<'a>(&self, line: &'a HeaderValue) -> Option<Vec<Option<&'a str>>> {
        match self.header {
            // Byte by byte: an entry that a client has made unreadable spoils none that follows.
            Forwarded::XForwardedFor => {
                let nodes = line.as_bytes().split(|byte| *byte == b',');
                Some(nodes.map(|node| std::str::from_utf8(node).ok().map(trimmed)).collect())
            }
            Forwarded::Forwarded => elements(line.to_str().ok()?),
        }
    }
}

/// Whether a header shows a proxy, even one that is not trusted.
fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with("x-forwarded-") || TRACES.contains(name))
}

/// The text without optional white space of HTTP around it.
fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// An address, with or without a port, IPv6 with or without brackets. IPv6 without brackets has
/// no port: that would be part of the address.
fn address(node: &str) -> Option<IpAddr> {
    let bracketed =
        || node.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6);
    let with_port = || node.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = node.parse().ok().or_else(bracketed).or_else(with_port);
    address.map(|address: IpAddr| address.to_canonical())
}

/// The `for` of each element of `Forwarded`, if the element has one. None at all if any of the
/// line violates RFC 7239, section 4. A value that is no token may stand without quotes, as
/// many spell addresses with a port.
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
