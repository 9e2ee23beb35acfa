//! Which requests come from where they may come from.
//!
//! Knows the `Host` and `Origin` headers (RFC 9110 section 7.2, RFC 6454
//! section 7) and that a web page sends what its browser says, not what it
//! likes. Does not know who the user is: that is the token's. Scripts send no
//! `Origin` and are let through to show theirs.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, ORIGIN};

use crate::config::Listen;

/// A host as an authority names it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    V4(Ipv4Addr),
    V6(Ipv6Addr),
    /// In lower case.
    Name(String),
}

/// Longest name that DNS can carry.
const LONGEST_HOST: usize = 253;

impl Host {
    /// Reads `host` or `host:port`; the port is checked and forgotten.
    pub fn parse(authority: &str) -> Option<Self> {
        Self::with_port(authority).map(|(host, _)| host)
    }

    /// Reads both. There is no room for `user@`, for a path or for a trailing
    /// dot: browsers send none, and what is not understood is refused.
    fn with_port(authority: &str) -> Option<(Self, Option<u16>)> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (Self::V6(address.parse().ok()?), port)
            }
            None => {
                let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
                (Self::unbracketed(host)?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            None if port.is_empty() => None,
            _ => return None,
        };
        Some((host, port))
    }

    fn unbracketed(host: &str) -> Option<Self> {
        if let Ok(address) = host.parse() {
            return Some(Self::V4(address));
        }
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let name = host.len() <= LONGEST_HOST && host.split('.').all(label);
        // A name whose last label is a number is an address that somebody
        // spells in another way (WHATWG URL, "ends in a number").
        let last = host.rsplit('.').next().unwrap_or_default();
        let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
        (name && !number).then(|| Self::Name(host.to_ascii_lowercase()))
    }
}

/// A page's origin: scheme, host, and port where it is not the scheme's own.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    scheme: String,
    host: Host,
    port: Option<u16>,
}

impl Origin {
    /// Reads `scheme://host` or `scheme://host:port`, and nothing after it.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let first = scheme.bytes().next()?.is_ascii_alphabetic();
        let rest = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
        if !first || !rest {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = Host::with_port(authority)?;
        let usual = match scheme.as_str() {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        };
        Some(Self { scheme, host, port: port.filter(|port| Some(*port) != usual) })
    }

    /// Whether a server could have served it: an extension's or application's
    /// origin may be spelled like a host that is another's.
    fn is_web(&self) -> bool {
        ["http", "https", "ws", "wss"].contains(&self.scheme.as_str())
    }
}

/// What may ask.
#[derive(Clone, Debug)]
pub struct Gate {
    hosts: Vec<Host>,
    origins: Origins,
}

#[derive(Clone, Debug)]
enum Origins {
    Any,
    Listed { origins: Vec<Origin>, null: bool },
}

impl Gate {
    /// A gate for the listeners of a machine that calls itself `own_hostname`.
    pub fn new(listen: &Listen, own_hostname: &str) -> Self {
        let own = own_hostname.trim_end_matches('.');
        let short = own.split('.').next().unwrap_or_default();
        let mdns = format!("{short}.local");
        let own = ["localhost", own, short, &mdns].map(str::to_owned);
        let names = own.iter().chain(&listen.allowed_hosts);
        let listed = &listen.allowed_origins;
        let origins = if listed.iter().any(|origin| origin == "*") {
            Origins::Any
        } else {
            let origins = listed.iter().filter_map(|text| Origin::parse(text)).collect();
            Origins::Listed { origins, null: listed.iter().any(|origin| origin == "null") }
        };
        Self { hosts: names.filter_map(|name| Host::parse(name)).collect(), origins }
    }

    /// Whether a request with these headers may go on.
    ///
    /// # Errors
    /// Why not, without a word of what was sent: it goes into an answer.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let host = only(headers, &HOST).map_err(|()| "more than one Host header, or one that is no text")?;
        let host = host.ok_or("no Host header")?;
        let host = Host::parse(host).ok_or("the Host header is not a host")?;
        // A page whose own name was made to lead here (DNS rebinding) still
        // sends that name; an address cannot be made to lead elsewhere.
        if matches!(host, Host::Name(_)) && !self.hosts.contains(&host) {
            return Err("the Host header names neither this machine nor anything in listen.allowed_hosts");
        }
        let Origins::Listed { origins, null } = &self.origins else { return Ok(()) };
        let text =
            only(headers, &ORIGIN).map_err(|()| "more than one Origin header, or one that is no text")?;
        let Some(text) = text else { return Ok(()) };
        if text == "null" {
            return if *null { Ok(()) } else { Err("the origin null is not in listen.allowed_origins") };
        }
        let origin = Origin::parse(text).ok_or("the Origin header is not an origin")?;
        if origin.is_web() && origin.host == host || origins.contains(&origin) {
            return Ok(());
        }
        Err("the origin is neither this host nor in listen.allowed_origins")
    }
}

/// The one value of a header.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}
