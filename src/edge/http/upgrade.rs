//! From an HTTP request to a WebSocket (RFC 6455, section 4.2).
//!
//! Knows the handshake, and where a token may come from. Does not know what the
//! connection is for.

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
use super::denial::{Denial, Denied, Reply, quoted};
use super::forwarded::Source;
use super::{bearer, rejected_over_http, text, wrong_method};
use crate::edge::driver::Shared;
use crate::hub::{Credentials, Peer, Rejection, TokenFault};
use crate::protocol::client::inbox_mode;
use crate::protocol::{InboxMode, Reason, Token};

/// A request that becomes a connection once its answer is out.
pub struct Admission {
    /// Who the hub is told of.
    pub peer: Peer,
    /// Where the client is, if proxies have named it.
    pub named: Option<IpAddr>,
}

/// The subprotocol of version 1.
const PROTOCOL: &str = "wshub.v1";

/// A subprotocol that carries a token: the browsers' way, which keeps it out of
/// URLs.
const BEARER: &str = "wshub.bearer.";

/// Answers a request for a WebSocket.
///
/// # Errors
/// Why a request becomes none.
pub(in crate::edge) fn upgrade<B>(
    driver: &Shared,
    site: &HttpConfig,
    source: Source,
    request: &Request<B>,
) -> Denied<(Reply, Admission)> {
    let mut reply = create_response_with_body(&plain(request), Full::<Bytes>::default)
        .map_err(|error| not_one(&error, request))?;
    if has_body(request) {
        let why = "a request for a WebSocket has no body: leave out `Content-Length` and `Transfer-Encoding`";
        let denial = Denial::new(Reason::BadRequest, why).counted(Rejection::BadHttpBody);
        // Nor is it worth reading what follows.
        return Err(denial.header(header::CONNECTION, "close"));
    }
    let inbox = match query(request, "inbox") {
        None => InboxMode::default(),
        Some(word) => inbox_mode(&word).ok_or_else(|| {
            let why = "`inbox` must be auto, ack or off";
            Denial::new(Reason::BadRequest, why)
        })?,
    };
    let knows_us = offered(request).any(|protocol| protocol == PROTOCOL.as_bytes());
    let Source { address, is_named, is_hidden, .. } = source;
    let claim = claim(driver, site, address, request, knows_us)?;
    if let Some((why, option)) = crowded(driver, &claim) {
        let denial = Denial::new(Reason::Overloaded, why).line(format!("{why} (`[limits] {option}`)"));
        return Err(denial.counted(Rejection::NoCapacity));
    }
    if knows_us {
        reply.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    let network = network(address).or_else(|| is_hidden.then_some(HIDDEN));
    let peer = Peer::Client { credentials: claim, inbox, network };
    Ok((reply, Admission { peer, named: is_named.then_some(address) }))
}

/// The handshake with each header once: `Connection` and `Upgrade` are lists, which may come
/// in several lines (RFC 9110, section 5.3) and name more than a WebSocket; tungstenite looks
/// at the first line.
fn plain<B>(request: &Request<B>) -> Request<()> {
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

/// The network of all whom a proxy of this machine does not name: `::`, which nobody has. They
/// are taken for one, or a client would gain by making the header unreadable.
const HIDDEN: u128 = 0;

/// Who asks together from an address: of IPv4 it alone, of IPv6 the network of 64 bits that
/// one site has. None for this machine, where a proxy may stand for very many.
pub fn network(address: IpAddr) -> Option<u128> {
    let address = address.to_canonical();
    let network = match address {
        IpAddr::V4(address) => u128::from(address.to_ipv6_mapped()),
        IpAddr::V6(address) => u128::from(address) >> 64 << 64,
    };
    (!address.is_loopback()).then_some(network)
}

/// What the token says, if there is one; the answer, where it says nothing that
/// the client could be told on a connection.
fn claim<B>(
    driver: &Shared,
    site: &HttpConfig,
    from: IpAddr,
    request: &Request<B>,
    knows_us: bool,
) -> Denied<Credentials> {
    let Some((token, place)) = token(site, request) else { return Ok(Credentials::Nothing) };
    let (fault, line) = if place == Place::ForbiddenQuery {
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
            Err(flaw) => (flaw.told(), driver.borrow().explain_token(&flaw, token.reveal(), place.told())),
        }
    };
    let mut driver = driver.borrow_mut();
    let rejected = driver.reject(fault, token.reveal(), Some(from));
    // A page cannot see a 401 or 429; it is told on the connection instead, or
    // it would not know that it needs another token.
    if knows_us {
        let fault = rejected.fault;
        driver.note_refusal(fault.reason, Some(from), line.as_ref().unwrap_or(&fault.message));
        return Ok(Credentials::Refused(fault));
    }
    Err(rejected_over_http(rejected, place.told(), line))
}

/// Whether something follows the head that is no WebSocket yet (RFC 9112, section 6.3): a
/// proxy in between and the hub might not agree on where that begins.
fn has_body<B>(request: &Request<B>) -> bool {
    let is_empty = |length: &HeaderValue| length.as_bytes() == b"0";
    request.headers().contains_key(header::TRANSFER_ENCODING)
        || !request.headers().get_all(header::CONTENT_LENGTH).into_iter().all(is_empty)
}

/// Why there is no room for one more, if there is none, and the limit.
fn crowded(driver: &Shared, claim: &Credentials) -> Option<(&'static str, &'static str)> {
    let mut driver = driver.borrow_mut();
    if !driver.make_place() {
        return Some(("all connections are taken", "connections"));
    }
    (!driver.make_memory(claim)).then_some(("memory is short", "memory"))
}

/// What is wrong with a request that is none for a WebSocket of version 13.
fn not_one<B>(error: &Error, request: &Request<B>) -> Box<Denial> {
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

/// Where a token stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Header,
    Protocol,
    Query,
    /// In the query, where none is taken.
    ForbiddenQuery,
}

impl Place {
    /// Where, and where else was looked.
    fn told(self) -> &'static str {
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

/// What is said of a token in the query where none is taken.
const NOT_IN_QUERY: &str = "a token in the URL is not taken here: it goes into `Authorization: Bearer`, into the \
                            subprotocol `wshub.bearer.TOKEN`, or into an `auth` request";

/// The token: from the header, a subprotocol, or the query.
pub fn token<B>(site: &HttpConfig, request: &Request<B>) -> Option<(Token, Place)> {
    let by_header = || bearer(request).map(|token| (Cow::from(token), Place::Header));
    let by_protocol = || {
        let token = offered(request).find_map(|protocol| protocol.strip_prefix(BEARER.as_bytes()))?;
        Some((Cow::from(text(token)), Place::Protocol))
    };
    let by_query = || {
        let place = if site.query_token { Place::Query } else { Place::ForbiddenQuery };
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
