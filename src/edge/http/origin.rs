//! Which requests come from where they may come from.
//!
//! Knows the `Host` and `Origin` headers (RFC 9110 section 7.2, RFC 6454
//! section 7) and that a web page sends what its browser says, not what it
//! likes. Does not know who the user is: that is the token's. Scripts send no
//! `Origin` and are let through to show theirs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, ORIGIN};

use crate::config::ListenConfig;
use crate::protocol::rejection::Reason;
use crate::redaction::token_at;

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
const LONGEST_HOST: usize = 253;

impl Host {
    /// Reads `host` or `host:port`; the port is checked and forgotten.
    pub fn parse(authority: &str) -> Option<Self> {
        Self::with_port(authority).map(|(host, _)| host)
    }

    /// Reads both. The port may be empty and a name may end with a dot (RFC 3986,
    /// section 3.2); there is no room for `user@` or for a path.
    fn with_port(authority: &str) -> Option<(Self, Option<u16>)> {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']')?;
                (Self::from(IpAddr::V6(address.parse().ok()?)), port)
            }
            None => {
                let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
                (Self::unbracketed(host.strip_suffix('.').unwrap_or(host))?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some("") => None,
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

    /// Whether it names this machine, whichever machine that is.
    fn is_loopback(&self) -> bool {
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

/// Where a page comes from.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Origin {
    /// A browser does not say: a file, a sandboxed frame, a `data:` URL.
    Null,
    /// A server; the port where it is not the scheme's own.
    Web { scheme: String, host: Host, port: Option<u16> },
    /// An application or extension. What stands there may look like a host that is
    /// another's, and may be nothing at all (`file://`).
    App { scheme: String, authority: String },
}

impl Origin {
    /// Reads `null`, `scheme://authority`, and nothing after it.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "null" {
            return Some(Self::Null);
        }
        let (scheme, authority) = split(text)?;
        if let Some(usual) = usual_port(&scheme) {
            let (host, port) = Host::with_port(authority)?;
            return Some(Self::Web { scheme, host, port: port.filter(|port| *port != usual) });
        }
        let plain = |b: u8| b.is_ascii_graphic() && !b"/?#@\\,\"".contains(&b);
        let fits = authority.len() <= LONGEST_HOST && authority.bytes().all(plain);
        fits.then(|| Self::App { scheme, authority: authority.to_ascii_lowercase() })
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

/// A scheme in lower case, and what follows it.
fn split(text: &str) -> Option<(String, &str)> {
    let (scheme, authority) = text.split_once("://")?;
    let first = scheme.bytes().next()?.is_ascii_alphabetic();
    let rest = scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    (first && rest).then(|| (scheme.to_ascii_lowercase(), authority))
}

/// The port of a scheme with which servers answer.
fn usual_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// An entry of `allowed_origins`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// `*`.
    Any,
    One(Origin),
    /// `https://*.example.org`: all names below it, at any depth, and not itself.
    Below {
        scheme: String,
        /// `.example.org`
        suffix: String,
        port: Option<u16>,
    },
}

impl Allowed {
    /// Reads an entry. An origin may end with a slash, as people copy it from a browser.
    ///
    /// # Errors
    /// What it should be.
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

    fn admits(&self, origin: &Origin) -> bool {
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

/// Why a request may not go on. The message names what was sent and what would have it
/// admitted; what was sent is quoted and cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginRefusal {
    pub reason: Reason,
    pub message: String,
}

/// The one path whose requests may leave `Host` out: load balancers that ask whether the hub
/// is well send none with HTTP/1.0.
pub const HEALTH: &str = "/healthz";

/// What may ask.
#[derive(Clone, Debug)]
pub struct OriginPolicy {
    hosts: Vec<Host>,
    origins: Vec<Allowed>,
}

impl OriginPolicy {
    /// A gate for the listeners of a machine that calls itself `own_hostname`.
    pub fn new(listen: &ListenConfig, own_hostname: &str) -> Self {
        let own = own_hostname.trim_end_matches('.');
        let short = own.split('.').next().unwrap_or_default();
        let mdns = format!("{short}.local");
        let own = ["localhost", own, short, &mdns].map(str::to_owned);
        let names = own.iter().chain(&listen.allowed_hosts);
        let origins = listen.allowed_origins.iter().filter_map(|text| Allowed::parse(text).ok());
        Self { hosts: names.filter_map(|name| Host::parse(name)).collect(), origins: origins.collect() }
    }

    /// Whether a request for `path` with these headers may go on.
    ///
    /// # Errors
    /// Which header keeps it from that, and why.
    pub fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(), OriginRefusal> {
        let host = self.host(path, headers)?;
        self.origin(host, headers)
    }

    /// The host that is asked, as it was sent and as it is understood.
    fn host<'a>(&self, path: &str, headers: &'a HeaderMap) -> Result<Option<(&'a str, Host)>, OriginRefusal> {
        let refuse = |message: String| Err(OriginRefusal { reason: Reason::Host, message });
        let Ok(text) = only(headers, &HOST) else {
            return refuse("`Host` must stand once, and be text".into());
        };
        let Some(text) = text else {
            return match path {
                HEALTH => Ok(None),
                _ => refuse(format!("there is no `Host` header, without which only {HEALTH} is answered")),
            };
        };
        let Some(host) = Host::parse(text) else {
            return refuse(format!("`Host: {}` is no host, with or without a port", shown(text)));
        };
        // A page whose own name was made to lead here (DNS rebinding) still
        // sends that name; an address cannot be made to lead elsewhere.
        if matches!(host, Host::Name(_)) && !host.is_loopback() && !self.hosts.contains(&host) {
            let shown_text = shown(text);
            // In lower case it would not be known for a token any more.
            if token_at(text).is_some() {
                return refuse(format!("`Host: {shown_text}` is no name of this machine"));
            }
            let (text, name) = (shown_text, shown(&host.to_string()));
            return refuse(format!(
                "`Host: {text}` is no name of this machine; if the hub is reached by it, add \"{name}\" to \
                 [listen] allowed_hosts"
            ));
        }
        Ok(Some((text, host)))
    }

    fn origin(&self, host: Option<(&str, Host)>, headers: &HeaderMap) -> Result<(), OriginRefusal> {
        if self.origins.contains(&Allowed::Any) {
            return Ok(());
        }
        let refuse = |message: String| Err(OriginRefusal { reason: Reason::Origin, message });
        let Ok(text) = only(headers, &ORIGIN) else {
            return refuse("`Origin` must stand once, and be text".into());
        };
        let Some(text) = text else { return Ok(()) };
        let Some(origin) = Origin::parse(text) else {
            return refuse(format!("`Origin: {}` is no origin", shown(text)));
        };
        let is_own = match (&origin, &host) {
            (Origin::Web { host: of_page, .. }, Some((_, host))) => of_page == host,
            _ => false,
        };
        if is_own || self.origins.iter().any(|allowed| allowed.admits(&origin)) {
            return Ok(());
        }
        let is_token = |text: &str| token_at(text).is_some();
        if is_token(text) || host.as_ref().is_some_and(|(text, _)| is_token(text)) {
            return refuse(format!("pages of the origin \"{}\" may not connect", shown(text)));
        }
        refuse(advice(&origin, host.as_ref()))
    }
}

/// Why a page may not connect, and each thing that its owner can do about it.
fn advice(origin: &Origin, host: Option<&(&str, Host)>) -> String {
    let page = shown(&origin.to_string());
    let add = format!("add \"{page}\" to [listen] allowed_origins");
    let (Origin::Web { scheme, host: of_page, port }, Some((text, host))) = (origin, host) else {
        return format!("pages of the origin \"{page}\" may not connect; if they are yours, {add}");
    };
    let asked = shown(text);
    if of_page.is_loopback() && host.is_loopback() {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let at = Host::with_port(text).and_then(|(_, port)| port);
        let at = at.map(|at| format!(":{at}")).unwrap_or_default();
        let socket = if scheme.ends_with('s') { "wss" } else { "ws" };
        return format!(
            "the page is at \"{page}\" and the hub is asked as \"{asked}\", which is another host to a browser: \
             open the page at {scheme}://{host}{port}, connect to {socket}://{of_page}{at}, or {add}"
        );
    }
    let proxy = match host {
        Host::Name(_) => "",
        _ => "; if a proxy stands in between, have it pass `Host` on as it came",
    };
    format!(
        "the page at \"{page}\" is neither of the host \"{asked}\" nor in [listen] allowed_origins; if it is \
         yours, {add}{proxy}"
    )
}

/// What somebody sent, without what could disturb a terminal, and not all of it if it is
/// long.
fn shown(text: &str) -> String {
    // A path or query is no part of either header, and may hold a token.
    let authority = text.find("://").map_or(0, |at| at + 3);
    let end = text.get(authority..).and_then(|rest| rest.find(['/', '?', '#'])).map(|at| authority + at);
    let end = [end, token_at(text)].into_iter().flatten().min();
    let (text, rest) = text.split_at_checked(end.unwrap_or(text.len())).unwrap_or(("", text));
    let cut: String = text.chars().take(LONGEST_HOST).flat_map(char::escape_default).collect();
    if !rest.is_empty() || text.chars().nth(LONGEST_HOST).is_some() { cut + "…" } else { cut }
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
