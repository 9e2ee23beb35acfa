//! Hosts and origins as HTTP headers and the configuration spell them.
//!
//! `Host` is RFC 9110, section 7.2, `Origin` is RFC 6454, section 7. Which of them are
//! admitted is decided in `edge::http`.

use std::fmt;

// `core::net` has addresses and no sockets.
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host as an authority names it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    V4(Ipv4Addr),
    /// None of those that stand for one of IPv4.
    V6(Ipv6Addr),
    /// In lower case, without the dot of an absolute name.
    Name(String),
}

/// Longest name that DNS can carry.
pub const LONGEST_HOST: usize = 253;

impl Host {
    /// Reads `host` or `host:port`; the port is checked and dropped.
    pub fn parse(authority: &str) -> Option<Self> {
        Authority::parse(authority).map(|authority| authority.host)
    }

    /// Reads a name or an address of IPv4.
    fn unbracketed(host: &str) -> Option<Self> {
        if let Ok(address) = host.parse() {
            return Some(Self::V4(address));
        }
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let is_name = host.len() <= LONGEST_HOST && host.split('.').all(is_label);
        // A name whose last label is a number is another spelling of an address (WHATWG URL,
        // "ends in a number").
        let last = host.rsplit('.').next().unwrap_or_default();
        let is_number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
        (is_name && !is_number).then(|| Self::Name(host.to_ascii_lowercase()))
    }

    /// Whether it names the machine that resolves it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::V4(address) => address.is_loopback(),
            Self::V6(address) => address.is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(address),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A host and a port, as `Host` and URLs spell them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authority {
    pub host: Host,
    pub port: Option<u16>,
}

impl Authority {
    /// Reads `host` or `host:port`. The port may be empty and a name may end with a dot
    /// (RFC 3986, section 3.2); `user@` and a path are refused.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (Host::from(IpAddr::V6(address.parse().ok()?)), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (Host::unbracketed(host.strip_suffix('.').unwrap_or(host))?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(digits.parse().ok()?),
            None if port.is_empty() => None,
            _ => return None,
        };
        Some(Self { host, port })
    }
}

/// The origin of a web page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// Not disclosed by the browser: a file, a sandboxed frame, a `data:` URL.
    Null,
    /// A server; the port unless it is the scheme's default.
    Web { scheme: String, host: Host, port: Option<u16> },
    /// An application or extension. Its authority may look like the host of a server, and may
    /// be empty (`file://`).
    App { scheme: String, authority: String },
}

impl Origin {
    /// Reads `null`, `scheme://authority`, and nothing after it.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Null);
        }
        let (scheme, authority) = split_scheme(text)?;
        if let Some(default) = default_port(&scheme) {
            let Authority { host, port } = Authority::parse(authority)?;
            return Some(Self::Web { scheme, host, port: port.filter(|port| *port != default) });
        }
        let is_plain = |b: u8| b.is_ascii_graphic() && !b"/?#@\\,\"".contains(&b);
        let is_authority = authority.len() <= LONGEST_HOST && authority.bytes().all(is_plain);
        is_authority.then(|| Self::App { scheme, authority: authority.to_ascii_lowercase() })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Web { scheme, host, port } => {
                write!(f, "{scheme}://{host}")?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Self::App { scheme, authority } => write!(f, "{scheme}://{authority}"),
        }
    }
}

/// A scheme in lower case, and the authority behind it.
fn split_scheme(text: &str) -> Option<(String, &str)> {
    let (scheme, authority) = text.split_once("://")?;
    let begins_well = scheme.bytes().next()?.is_ascii_alphabetic();
    let goes_on_well = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    (begins_well && goes_on_well).then(|| (scheme.to_ascii_lowercase(), authority))
}

/// The default port of a scheme; none for schemes of applications.
fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// An entry of `allowed_origins`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AllowedOrigin {
    /// `*`.
    Any,
    One(Origin),
    /// `https://*.example.org`: all names below it, at any depth, and not the name itself.
    Below {
        scheme: String,
        /// `.example.org`
        suffix: String,
        port: Option<u16>,
    },
}

impl AllowedOrigin {
    /// Reads an entry. An origin may end with a slash, as it is copied from a browser.
    ///
    /// # Errors
    /// The forms that are accepted.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WANTED: &str = "\"scheme://host\", \"scheme://host:port\" or \"https://*.example.org\" without a \
                              path, \"null\", or \"*\"";
        const WIDE: &str =
            "at least two labels behind `*.`, as in \"https://*.example.org\"; \"*\" lets all in";
        if text == "*" {
            return Ok(Self::Any);
        }
        let trimmed = match text.split_once("://") {
            Some((_, authority)) if authority.ends_with('/') => text.strip_suffix('/').unwrap_or(text),
            _ => text,
        };
        let Some((scheme, below)) = trimmed.split_once("://*") else {
            return Origin::parse(trimmed).map(Self::One).ok_or_else(|| WANTED.into());
        };
        let Some(below) = below.strip_prefix('.') else {
            return Err(if below.is_empty() || below.starts_with(':') { WIDE } else { WANTED }.into());
        };
        match Origin::parse(&format!("{scheme}://{below}")) {
            Some(Origin::Web { scheme, host: Host::Name(name), port }) if name.contains('.') => {
                Ok(Self::Below { scheme, suffix: format!(".{name}"), port })
            }
            Some(Origin::Web { host: Host::Name(_), .. }) => Err(WIDE.into()),
            _ => Err(WANTED.into()),
        }
    }

    /// Whether the entry covers an origin.
    pub fn covers(&self, origin: &Origin) -> bool {
        match (self, origin) {
            (Self::Any, _) => true,
            (Self::One(listed), _) => listed == origin,
            (
                Self::Below { scheme, suffix, port },
                Origin::Web { scheme: of_page, host: Host::Name(name), port: at },
            ) => (scheme, port) == (of_page, at) && name.ends_with(suffix.as_str()),
            (Self::Below { .. }, _) => false,
        }
    }
}
