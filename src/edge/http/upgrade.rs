//! Upgrade of an HTTP request to a WebSocket (RFC 6455, section 4.2), and its token.

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

use async_tungstenite::tungstenite::Error;
use async_tungstenite::tungstenite::error::ProtocolError;
use async_tungstenite::tungstenite::handshake::server::create_response_with_body;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use percent_encoding::percent_decode_str;

use super::config::HttpConfig;
use super::denial::refused_token;
use super::denial::{Denial, Denied, Reply, quoted};
use super::forwarded::RequestSource;
use super::{bearer, text, wrong_method};
use crate::edge::driver::Shared;
use crate::hub::{Credentials, Peer, Rejection, TokenFault};
use crate::protocol::client::inbox_mode;
use crate::protocol::{InboxMode, Reason, Token};

/// An accepted upgrade: it becomes a connection once its response is sent.
pub struct AdmittedUpgrade {
    /// The peer as the hub knows it.
    pub peer: Peer,
    /// The address of the client, if proxies have named it.
    pub named: Option<IpAddr>,
}

/// The subprotocol of version 1.
const PROTOCOL: &str = "wshub.v1";

/// The prefix of a subprotocol that carries a token: browsers use it to keep the token out of
/// the URL.
const BEARER: &str = "wshub.bearer.";

/// Accepts a request for a WebSocket.
///
/// # Errors
/// Why it is denied.
pub(in crate::edge) fn upgrade<B>(
    driver: &Shared,
    site: &HttpConfig,
    source: RequestSource,
    request: &Request<B>,
) -> Denied<(Reply, AdmittedUpgrade)> {
    let mut reply = create_response_with_body(&with_single_headers(request), Full::<Bytes>::default)
        .map_err(|error| handshake_denial(&error, request))?;
    if has_body(request) {
        let why = "a request for a WebSocket has no body: leave out `Content-Length` and `Transfer-Encoding`";
        let denial = Denial::new(Reason::BadRequest, why).counted(Rejection::BadHttpBody);
        // The bytes behind it are not read.
        return Err(denial.header(header::CONNECTION, "close"));
    }
    let inbox = match query(request, "inbox") {
        None => InboxMode::default(),
        Some(word) => inbox_mode(&word).ok_or_else(|| {
            let why = "`inbox` must be auto, ack or off";
            Denial::new(Reason::BadRequest, why)
        })?,
    };
    let has_protocol = offered(request).any(|protocol| protocol == PROTOCOL.as_bytes());
    let RequestSource { address, is_named, is_hidden, .. } = source;
    let credentials = credentials(driver, site, address, request, has_protocol)?;
    if let Some(CapacityLimit { message, option }) = missing_capacity(driver, &credentials) {
        let line = format!("{message} (`[limits] {option}`)");
        let denial = Denial::new(Reason::Overloaded, message).line(line);
        return Err(denial.counted(Rejection::NoCapacity));
    }
    if has_protocol {
        reply.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    let network = network(address).or_else(|| is_hidden.then_some(HIDDEN));
    let peer = Peer::Client { credentials, inbox, network };
    Ok((reply, AdmittedUpgrade { peer, named: is_named.then_some(address) }))
}

/// The handshake with each header once: `Connection` and `Upgrade` are lists, which may come
/// in several lines (RFC 9110, section 5.3) and name more than a WebSocket; tungstenite reads
/// only the first line.
fn with_single_headers<B>(request: &Request<B>) -> Request<()> {
    let mut plain = Request::new(());
    *plain.method_mut() = request.method().clone();
    *plain.version_mut() = request.version();
    for (name, word) in [(header::CONNECTION, "upgrade"), (header::UPGRADE, "websocket")] {
        let lines = request.headers().get_all(&name).iter().filter_map(|line| line.to_str().ok());
        let mut words = lines.flat_map(|line| line.split([',', ' ', '\t']));
        if words.any(|found| found.eq_ignore_ascii_case(word)) {
            plain.headers_mut().insert(name, HeaderValue::from_static(word));
        }
    }
    for name in [header::SEC_WEBSOCKET_VERSION, header::SEC_WEBSOCKET_KEY] {
        if let Some(value) = request.headers().get(&name) {
            plain.headers_mut().insert(name, value.clone());
        }
    }
    plain
}

/// The network of all clients that a trusted proxy does not name: `::`, which no client has.
/// They count as one, or a client would gain by making the header unreadable.
const HIDDEN: u128 = 0;

/// The network that an address is counted by: of IPv4 the address alone, of IPv6 the 64 bits
/// that one site has. None for this machine, where a proxy may forward very many clients.
pub fn network(address: IpAddr) -> Option<u128> {
    let address = address.to_canonical();
    let network = match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    };
    (!address.is_loopback()).then_some(network)
}

/// The credentials of a client, from its token if there is one.
fn credentials<B>(
    driver: &Shared,
    site: &HttpConfig,
    from: IpAddr,
    request: &Request<B>,
    has_protocol: bool,
) -> Denied<Credentials> {
    let Some((token, place)) = token(site, request) else { return Ok(Credentials::Nothing) };
    let (fault, line) = if place == TokenPlace::ForbiddenQuery {
        let fault = TokenFault {
            code: "token_invalid",
            message: NOT_IN_QUERY.into(),
            reason: Reason::TokenQuery,
            wait: Duration::ZERO,
        };
        (fault, Some(format!("{NOT_IN_QUERY} (`[auth] query_token = false`)")))
    } else {
        let examined = driver.borrow().examine(token.reveal());
        match examined {
            Ok(identity) => {
                driver.borrow_mut().log_oddity();
                return Ok(Credentials::Verified(identity));
            }
            Err(flaw) => {
                let line = driver.borrow().explain_token(&flaw, token.reveal(), place.description());
                (flaw.fault(), line)
            }
        }
    };
    let mut driver = driver.borrow_mut();
    let refused = driver.reject(fault, token.reveal(), Some(from));
    // A page cannot see a 401 or 429. It receives the error on the connection instead, or it
    // would not know that it needs another token.
    if has_protocol {
        let fault = refused.fault;
        driver.note_refusal(fault.reason, Some(from), line.as_ref().unwrap_or(&fault.message));
        return Ok(Credentials::Refused(fault));
    }
    Err(refused_token(refused, place.description(), line))
}

/// A limit that is reached, and its option.
struct CapacityLimit {
    message: &'static str,
    option: &'static str,
}

/// Whether a body follows the head (RFC 9112, section 6.3): a proxy in between and the hub might
/// disagree on where the WebSocket begins.
fn has_body<B>(request: &Request<B>) -> bool {
    let is_empty = |length: &HeaderValue| length.as_bytes() == b"0";
    request.headers().contains_key(header::TRANSFER_ENCODING)
        || !request.headers().get_all(header::CONTENT_LENGTH).into_iter().all(is_empty)
}

/// The limit that refuses one more connection, if one does.
fn missing_capacity(driver: &Shared, credentials: &Credentials) -> Option<CapacityLimit> {
    let mut driver = driver.borrow_mut();
    if !driver.make_place() {
        return Some(CapacityLimit { message: "all connections are taken", option: "connections" });
    }
    let limit = CapacityLimit { message: "memory is short", option: "memory" };
    (!driver.make_memory(credentials)).then_some(limit)
}

/// Denies a handshake that asks for no WebSocket of version 13.
fn handshake_denial<B>(error: &Error, request: &Request<B>) -> Box<Denial> {
    let shown = |name: HeaderName| {
        request.headers().get(name).map_or_else(|| "none".to_owned(), |value| quoted(value.as_bytes()))
    };
    match error {
        Error::Protocol(ProtocolError::WrongHttpMethod) => {
            wrong_method(request.method(), request.uri().path(), "GET")
        }
        Error::Protocol(ProtocolError::WrongHttpVersion) => {
            let why = "a WebSocket needs HTTP/1.1: does a proxy in between speak HTTP/1.0 (nginx: \
                       `proxy_http_version 1.1`)?";
            let line = format!("{:?}: {why}", request.version());
            Denial::new(Reason::NoUpgrade, why).status(StatusCode::HTTP_VERSION_NOT_SUPPORTED).line(line)
        }
        Error::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => no_upgrade(
            "this is a WebSocket endpoint: `Upgrade: websocket` and `Connection: Upgrade` are wanted; is there \
             a proxy in between that does not pass them on?",
            format!("Upgrade {}, Connection {}", shown(header::UPGRADE), shown(header::CONNECTION)),
        ),
        Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => no_upgrade(
            "only `Sec-WebSocket-Version: 13` is understood",
            format!("Sec-WebSocket-Version {}", shown(header::SEC_WEBSOCKET_VERSION)),
        ),
        _ => Denial::new(Reason::BadRequest, "`Sec-WebSocket-Key` is missing or not 16 bytes of base64"),
    }
}

fn no_upgrade(why: &'static str, sent: String) -> Box<Denial> {
    Denial::new(Reason::NoUpgrade, why)
        .line(format!("{sent}: {why}"))
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
}

/// The place of a token in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenPlace {
    Header,
    Protocol,
    Query,
    /// The query, where it is not accepted.
    ForbiddenQuery,
}

impl TokenPlace {
    /// The place, and those that were searched before it.
    fn description(self) -> &'static str {
        match self {
            Self::Header => "in `Authorization: Bearer`, the first place that is looked at",
            Self::Protocol => {
                "in the subprotocol `wshub.bearer.TOKEN`; there is none in `Authorization: Bearer`"
            }
            Self::ForbiddenQuery => "is there, in the query alone",
            Self::Query => {
                "in the query; there is none in `Authorization: Bearer` and in the subprotocol \
                 `wshub.bearer.TOKEN`"
            }
        }
    }
}

/// The error for a token in the query where it is not accepted.
const NOT_IN_QUERY: &str = "a token in the URL is not taken here: it goes into `Authorization: Bearer`, into the \
                            subprotocol `wshub.bearer.TOKEN`, or into an `auth` request";

/// The token: from the header, a subprotocol, or the query.
pub fn token<B>(site: &HttpConfig, request: &Request<B>) -> Option<(Token, TokenPlace)> {
    let by_header = || bearer(request).map(|token| (Cow::from(token), TokenPlace::Header));
    let by_protocol = || {
        let token = offered(request).find_map(|protocol| protocol.strip_prefix(BEARER.as_bytes()))?;
        Some((Cow::from(text(token)), TokenPlace::Protocol))
    };
    let by_query = || {
        let place = if site.query_token { TokenPlace::Query } else { TokenPlace::ForbiddenQuery };
        query(request, "token").filter(|token| !token.is_empty()).map(|token| (token, place))
    };
    let found = by_header().or_else(by_protocol).or_else(by_query);
    found.map(|(token, place)| (Token::new(token), place))
}

/// The subprotocols that the client offers, over all headers of that name.
fn offered<B>(request: &Request<B>) -> impl Iterator<Item = &[u8]> {
    let lists = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
    lists.flat_map(|list| list.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// A value of the query, without its escapes.
fn query<'r, B>(request: &'r Request<B>, name: &str) -> Option<Cow<'r, str>> {
    let pairs = request.uri().query()?.split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
    Some(percent_decode_str(value).decode_utf8_lossy())
}
