//! From an HTTP request to a WebSocket (RFC 6455, section 4.2).
//!
//! Knows the handshake, and where a token may come from. Does not know what the
//! connection is for.

use std::borrow::Cow;

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
use super::http::{Site, bearer, refuse};
use crate::hub::{Claim, Peer};
use crate::protocol::client::inbox_mode;
use crate::protocol::{InboxMode, Token};

/// A request that becomes a connection once its answer is out.
pub struct Admission {
    /// Who the hub is told of.
    pub peer: Peer,
}

type Reply = Response<Full<Bytes>>;

/// The subprotocol of version 1.
const PROTOCOL: &str = "wshub.v1";

/// A subprotocol that carries a token: the browsers' way, which keeps it out of
/// URLs.
const BEARER: &str = "wshub.bearer.";

/// Seconds after which a refused client may try again: long enough for a few
/// others to have left.
const BUSY_RETRY: u64 = 5;

/// Answers a request for a WebSocket.
///
/// # Errors
/// The answer of a request that becomes none.
pub fn upgrade<B>(
    driver: &Shared,
    site: &Site,
    request: &Request<B>,
) -> Result<(Reply, Admission), Box<Reply>> {
    let mut reply =
        create_response_with_body(request, Full::<Bytes>::default).map_err(|error| not_one(&error))?;
    if driver.borrow().connections() >= site.connections {
        let mut busy = refuse(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "all connections are taken");
        busy.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(BUSY_RETRY));
        return Err(Box::new(busy));
    }
    let inbox = match query(request, "inbox") {
        None => InboxMode::default(),
        Some(word) => inbox_mode(&word).ok_or_else(|| {
            Box::new(refuse(StatusCode::BAD_REQUEST, "bad_request", "`inbox` must be auto, ack or off"))
        })?,
    };
    let knows_us = offered(request).any(|protocol| protocol == PROTOCOL);
    let claim = match token(site, request) {
        None => Claim::Nothing,
        Some(token) => match site.verifier.verify(token.reveal(), clock::now().wall) {
            Ok(identity) => Claim::Proven(identity),
            // A page cannot see a 401; it is told on the connection instead.
            Err(fault) if knows_us => Claim::Refused(fault),
            Err(fault) => {
                let mut refused = refuse(StatusCode::UNAUTHORIZED, fault.code, &fault.message);
                refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                return Err(Box::new(refused));
            }
        },
    };
    if knows_us {
        reply.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok((reply, Admission { peer: Peer::Client { claim, inbox } }))
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
fn token<B>(site: &Site, request: &Request<B>) -> Option<Token> {
    let by_header = || bearer(request).map(Cow::from);
    let by_protocol = || offered(request).find_map(|protocol| protocol.strip_prefix(BEARER)).map(Cow::from);
    let by_query = || query(request, "token").filter(|token| site.query_token && !token.is_empty());
    by_header().or_else(by_protocol).or_else(by_query).map(Token::new)
}

/// The subprotocols that the client offers, over all headers of that name.
fn offered<B>(request: &Request<B>) -> impl Iterator<Item = &str> {
    let lists = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    lists.into_iter().filter_map(|list| list.to_str().ok()).flat_map(|list| list.split(',')).map(str::trim)
}

/// A value of the query, without its escapes.
fn query<'r, B>(request: &'r Request<B>, name: &str) -> Option<Cow<'r, str>> {
    let pairs = request.uri().query()?.split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
    Some(percent_decode_str(value).decode_utf8_lossy())
}
