//! Admission of requests by `Host` and `Origin`.
//!
//! A web page sends the headers that its browser chooses, not those that it likes; so they
//! keep foreign pages out (DNS rebinding, cross-site WebSockets). Programs send no `Origin`
//! and are admitted here: their token or secret is checked later.

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, ORIGIN};

use crate::config::ListenConfig;
use crate::protocol::origin::{AllowedOrigin, Authority, Host, LONGEST_HOST, Origin};
use crate::protocol::rejection::Reason;
use crate::protocol::routes::{HEALTH, Route};
use crate::redaction::token_at;

/// A refusal of a request for one of the two headers. The message quotes the header, cut
/// short, and names the option that would admit it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OriginRefusal {
    pub reason: Reason,
    pub message: String,
}

/// The `Host` of a request, as it was sent and as it was parsed.
struct RequestedHost<'a> {
    text: &'a str,
    host: Host,
}

/// The hosts and origins that are admitted.
#[derive(Clone, Debug)]
pub struct OriginPolicy {
    hosts: Vec<Host>,
    origins: Vec<AllowedOrigin>,
}

impl OriginPolicy {
    /// The policy of a machine whose own name is `own_hostname`.
    pub fn new(listen: &ListenConfig, own_hostname: &str) -> Self {
        let own = own_hostname.trim_end_matches('.');
        let short = own.split('.').next().unwrap_or_default();
        let mdns = format!("{short}.local");
        let own = ["localhost", own, short, &mdns].map(str::to_owned);
        let names = own.iter().chain(&listen.allowed_hosts);
        let origins = listen.allowed_origins.iter().filter_map(|text| AllowedOrigin::parse(text).ok());
        Self { hosts: names.filter_map(|name| Host::parse(name)).collect(), origins: origins.collect() }
    }

    /// Admits a request for `path` by its headers.
    ///
    /// # Errors
    /// The header that it is refused for, and why.
    pub fn admit(&self, path: &str, headers: &HeaderMap) -> Result<(), OriginRefusal> {
        let host = self.check_host(path, headers)?;
        self.check_origin(host.as_ref(), headers)
    }

    /// The requested host, if it is one of this machine. Requests for [`HEALTH`] may leave it
    /// out: load balancers send none with HTTP/1.0.
    fn check_host<'a>(
        &self,
        path: &str,
        headers: &'a HeaderMap,
    ) -> Result<Option<RequestedHost<'a>>, OriginRefusal> {
        let refuse = |message: String| Err(OriginRefusal { reason: Reason::Host, message });
        let Ok(text) = single_value(headers, &HOST) else {
            return refuse("`Host` must stand once, and be text".into());
        };
        let Some(text) = text else {
            return match Route::of(path) {
                Some(Route::Health) => Ok(None),
                _ => refuse(format!("there is no `Host` header, without which only {HEALTH} is answered")),
            };
        };
        let Some(host) = Host::parse(text) else {
            return refuse(format!("`Host: {}` is no host, with or without a port", shown(text)));
        };
        // A page whose own name was made to resolve to this machine (DNS rebinding) still sends
        // that name; an address cannot be made to lead elsewhere.
        if matches!(host, Host::Name(_)) && !host.is_loopback() && !self.hosts.contains(&host) {
            let shown_text = shown(text);
            // In lower case a token is not recognised as one any more.
            if token_at(text).is_some() {
                return refuse(format!("`Host: {shown_text}` is no name of this machine"));
            }
            let (text, name) = (shown_text, shown(&host.to_string()));
            return refuse(format!(
                "`Host: {text}` is no name of this machine; if the hub is reached by it, add \"{name}\" to \
                 [listen] allowed_hosts"
            ));
        }
        Ok(Some(RequestedHost { text, host }))
    }

    /// Admits pages of the requested host itself and of the configured origins.
    fn check_origin(
        &self,
        requested: Option<&RequestedHost<'_>>,
        headers: &HeaderMap,
    ) -> Result<(), OriginRefusal> {
        if self.origins.contains(&AllowedOrigin::Any) {
            return Ok(());
        }
        let refuse = |message: String| Err(OriginRefusal { reason: Reason::Origin, message });
        let Ok(text) = single_value(headers, &ORIGIN) else {
            return refuse("`Origin` must stand once, and be text".into());
        };
        let Some(text) = text else { return Ok(()) };
        let Some(origin) = Origin::parse(text) else {
            return refuse(format!("`Origin: {}` is no origin", shown(text)));
        };
        let is_own = match (&origin, requested) {
            (Origin::Web { host: of_page, .. }, Some(requested)) => *of_page == requested.host,
            _ => false,
        };
        if is_own || self.origins.iter().any(|allowed| allowed.covers(&origin)) {
            return Ok(());
        }
        let has_token = |text: &str| token_at(text).is_some();
        if has_token(text) || requested.is_some_and(|requested| has_token(requested.text)) {
            return refuse(format!("pages of the origin \"{}\" may not connect", shown(text)));
        }
        refuse(advice(&origin, requested))
    }
}

/// Why a page may not connect, and each remedy that its owner has.
fn advice(origin: &Origin, requested: Option<&RequestedHost<'_>>) -> String {
    let page = shown(&origin.to_string());
    let add = format!("add \"{page}\" to [listen] allowed_origins");
    let (Origin::Web { scheme, host: of_page, port }, Some(RequestedHost { text, host })) =
        (origin, requested)
    else {
        return format!("pages of the origin \"{page}\" may not connect; if they are yours, {add}");
    };
    let asked = shown(text);
    if of_page.is_loopback() && host.is_loopback() {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let hub_port = Authority::parse(text).and_then(|authority| authority.port);
        let hub_port = hub_port.map(|port| format!(":{port}")).unwrap_or_default();
        let socket = if scheme.ends_with('s') { "wss" } else { "ws" };
        return format!(
            "the page is at \"{page}\" and the hub is asked as \"{asked}\", which is another host to a browser: \
             open the page at {scheme}://{host}{port}, connect to {socket}://{of_page}{hub_port}, or {add}"
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

/// A header as messages quote it: escaped, so that it cannot disturb a terminal, and cut if
/// it is long.
fn shown(text: &str) -> String {
    // A path or query is no part of either header, and may hold a token.
    let authority = text.find("://").map_or(0, |at| at + 3);
    let end = text.get(authority..).and_then(|rest| rest.find(['/', '?', '#'])).map(|at| authority + at);
    let end = [end, token_at(text)].into_iter().flatten().min();
    let (text, rest) = text.split_at_checked(end.unwrap_or(text.len())).unwrap_or(("", text));
    let cut: String = text.chars().take(LONGEST_HOST).flat_map(char::escape_default).collect();
    if !rest.is_empty() || text.chars().nth(LONGEST_HOST).is_some() { cut + "…" } else { cut }
}

/// The value of a header that may stand once.
fn single_value<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(drop),
        (Some(_), Some(_)) => Err(()),
    }
}
