//! From an HTTP request to a WebSocket (RFC 6455, section 4.2).
//!
//! Knows the handshake, and where a token may come from. Does not know what the
//! connection is for.

use std::borrow::Cow;
use std::net::IpAddr;

use async_tungstenite::tungstenite::Error;
use async_tungstenite::tungstenite::error::ProtocolError;
use async_tungstenite::tungstenite::handshake::server::create_response_with_body;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};
use percent_encoding::percent_decode_str;

use super::clock;
use super::driver::Shared;
use super::forwarded::Source;
use super::http::{bearer, overloaded, refuse, text, wrong};
use super::site::Site;
use crate::hub::{Claim, Peer, TurnedAway};
use crate::protocol::client::inbox_mode;
use crate::protocol::{InboxMode, Token};

/// A request that becomes a connection once its answer is out.
pub struct Admission {
    /// Who the hub is told of.
    pub peer: Peer,
    /// Where the client is, if proxies have named it.
    pub named: Option<IpAddr>,
}

type Reply = Response<Full<Bytes>>;

/// The subprotocol of version 1.
const PROTOCOL: &str = "wshub.v1";

/// A subprotocol that carries a token: the browsers' way, which keeps it out of
/// URLs.
const BEARER: &str = "wshub.bearer.";

/// Answers a request for a WebSocket.
///
/// # Errors
/// The answer of a request that becomes none.
pub fn upgrade<B>(
    driver: &Shared,
    site: &Site,
    source: Source,
    request: &Request<B>,
) -> Result<(Reply, Admission), Box<Reply>> {
    let mut reply = create_response_with_body(&plain(request), Full::<Bytes>::default)
        .map_err(|error| not_one(&error))?;
    if has_body(request) {
        driver.borrow_mut().turned_away(TurnedAway::Request, None);
        let why = "a request for a WebSocket has no body: leave out `Content-Length` and `Transfer-Encoding`";
        let mut refused = refuse(StatusCode::BAD_REQUEST, "bad_request", why);
        // Nor is it worth reading what follows.
        refused.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Err(Box::new(refused));
    }
    let inbox = match query(request, "inbox") {
        None => InboxMode::default(),
        Some(word) => inbox_mode(&word).ok_or_else(|| {
            Box::new(refuse(StatusCode::BAD_REQUEST, "bad_request", "`inbox` must be auto, ack or off"))
        })?,
    };
    let knows_us = offered(request).any(|protocol| protocol == PROTOCOL.as_bytes());
    let Source { address, is_named, is_hidden, .. } = source;
    let claim = claim(driver, site, address, token(site, request), knows_us)?;
    if let Some(why) = crowded(driver, &claim) {
        driver.borrow_mut().turned_away(TurnedAway::Crowd, None);
        return Err(Box::new(overloaded(why)));
    }
    if knows_us {
        reply.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    let network = network(address).or_else(|| is_hidden.then_some(HIDDEN));
    let peer = Peer::Client { claim, inbox, network };
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
fn claim(
    driver: &Shared,
    site: &Site,
    from: IpAddr,
    token: Option<Token>,
    knows_us: bool,
) -> Result<Claim, Box<Reply>> {
    let Some(token) = token else { return Ok(Claim::Nothing) };
    let fault = match site.verifier.verify(token.reveal(), clock::now().wall) {
        Ok(identity) => {
            driver.borrow_mut().report_oddity(site);
            return Ok(Claim::Proven(identity));
        }
        Err(fault) => fault,
    };
    // One that has ended was right once: whoever presents it does not guess.
    let guesses = fault.code == "token_invalid";
    let too_often = guesses.then(|| wrong(driver, &site.wrong_tokens, from, "token")).flatten();
    // A page cannot see a 401 or 429; it is told on the connection instead, or
    // it would not know that it needs another token.
    if knows_us {
        return Ok(Claim::Refused(fault));
    }
    if let Some(too_often) = too_often {
        return Err(Box::new(too_often));
    }
    let mut refused = refuse(StatusCode::UNAUTHORIZED, fault.code, &fault.message);
    refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    Err(Box::new(refused))
}

/// Whether something follows the head that is no WebSocket yet (RFC 9112, section 6.3): a
/// proxy in between and the hub might not agree on where that begins.
fn has_body<B>(request: &Request<B>) -> bool {
    let is_empty = |length: &HeaderValue| length.as_bytes() == b"0";
    request.headers().contains_key(header::TRANSFER_ENCODING)
        || !request.headers().get_all(header::CONTENT_LENGTH).into_iter().all(is_empty)
}

/// Why there is no room for one more, if there is none.
fn crowded(driver: &Shared, claim: &Claim) -> Option<&'static str> {
    let mut driver = driver.borrow_mut();
    if !driver.make_place() {
        return Some("all connections are taken");
    }
    let has_proven = matches!(claim, Claim::Proven(_));
    (!driver.make_memory(has_proven)).then_some("memory is short")
}

/// What is wrong with a request that is none for a WebSocket of version 13.
fn not_one(error: &Error) -> Box<Reply> {
    let (status, message) = match error {
        Error::Protocol(ProtocolError::WrongHttpMethod) => {
            (StatusCode::METHOD_NOT_ALLOWED, "a WebSocket is asked for with GET")
        }
        Error::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => (StatusCode::UPGRADE_REQUIRED, "this is a WebSocket endpoint: send `Upgrade: websocket`"),
        Error::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => {
            (StatusCode::UPGRADE_REQUIRED, "only `Sec-WebSocket-Version: 13` is understood")
        }
        Error::Protocol(ProtocolError::WrongHttpVersion) => {
            (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "a WebSocket needs HTTP/1.1")
        }
        _ => (StatusCode::BAD_REQUEST, "`Sec-WebSocket-Key` is missing or not 16 bytes of base64"),
    };
    let mut reply = refuse(status, "bad_request", message);
    let headers = reply.headers_mut();
    match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        }
        StatusCode::UPGRADE_REQUIRED => {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        _ => {}
    }
    Box::new(reply)
}

/// The token: from the header, a subprotocol, or the query where that is allowed.
pub fn token<B>(site: &Site, request: &Request<B>) -> Option<Token> {
    let by_header = || bearer(request).map(Cow::from);
    let by_protocol =
        || offered(request).find_map(|protocol| protocol.strip_prefix(BEARER.as_bytes())).map(text);
    let by_query = || query(request, "token").filter(|token| site.query_token && !token.is_empty());
    by_header().or_else(|| by_protocol().map(Cow::from)).or_else(by_query).map(Token::new)
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
