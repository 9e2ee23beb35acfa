//! Denial of a request: its HTTP response, its count and its log line.
//!
//! The response holds nothing of the request. The log quotes the request, but no more of it
//! than `quoted` allows.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::access_log::{RequestHead, RequestLine};
use super::config::HttpConfig;
use crate::edge::driver::{CountedFor, Driver, RefusedToken};
use crate::edge::net::pending_conns;
use crate::hub::Rejection;
use crate::protocol::{Reason, Refusal};
use crate::redaction::secret_at;

/// An answer over HTTP.
pub(in crate::edge) type Reply = Response<Full<Bytes>>;

/// A request that is refused over HTTP.
pub struct Denial {
    reason: Reason,
    status: StatusCode,
    code: &'static str,
    /// For the response: it holds nothing of the request.
    message: Cow<'static, str>,
    /// For the log, if that says more: the input, and the option that decides.
    line: Option<String>,
    /// The response body, if the hub has written it.
    body: Option<Vec<u8>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A second count beside the reason.
    also: Option<Rejection>,
}

/// The outcome of a request that may be denied.
pub(in crate::edge) type Denied<T> = Result<T, Box<Denial>>;

/// Seconds: long enough for a few other connections to end, or for a daemon to start.
const RETRY: u64 = 5;

impl Denial {
    /// A refusal with the status and code of its reason.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Box<Self> {
        let (status, code) = default_status(reason);
        let mut denial = Self {
            reason,
            status,
            code,
            message: message.into(),
            line: None,
            body: None,
            headers: Vec::new(),
            also: None,
        };
        match status {
            StatusCode::UNAUTHORIZED => {
                denial.headers.push((header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                denial.headers.push((header::RETRY_AFTER, HeaderValue::from(RETRY)));
            }
            _ => {}
        }
        Box::new(denial)
    }

    /// A refusal by the hub, with its response.
    pub(in crate::edge) fn by_hub(
        reason: Reason,
        status: StatusCode,
        refusal: &Refusal,
        body: Vec<u8>,
    ) -> Box<Self> {
        let mut denial = Self::new(reason, refusal.message.clone());
        (denial.status, denial.body) = (status, Some(body));
        match refusal.retry_after {
            Some(wait) => denial.after(wait),
            None => denial,
        }
    }

    /// With another status than the reason has.
    #[must_use]
    pub(in crate::edge) fn status(mut self: Box<Self>, status: StatusCode) -> Box<Self> {
        self.status = status;
        self
    }

    /// With another code than the reason has.
    #[must_use]
    pub(in crate::edge) fn code(mut self: Box<Self>, code: &'static str) -> Box<Self> {
        self.code = code;
        self
    }

    /// With more in the log than in the response.
    #[must_use]
    pub(in crate::edge) fn line(mut self: Box<Self>, line: String) -> Box<Self> {
        self.line = Some(line);
        self
    }

    /// With its subject in front of the log line.
    #[must_use]
    pub(in crate::edge) fn about(mut self: Box<Self>, what: &str) -> Box<Self> {
        self.line = Some(format!("{what}: {}", self.line.as_deref().unwrap_or(&self.message)));
        self
    }

    #[must_use]
    pub(in crate::edge) fn header(mut self: Box<Self>, name: HeaderName, value: &'static str) -> Box<Self> {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// With the time after which another attempt is worth it.
    #[must_use]
    pub(in crate::edge) fn after(mut self: Box<Self>, wait: Duration) -> Box<Self> {
        self.headers.retain(|(name, _)| name != header::RETRY_AFTER);
        let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
        self.headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        self
    }

    /// With a second count.
    #[must_use]
    pub(in crate::edge) fn counted(mut self: Box<Self>, also: Rejection) -> Box<Self> {
        self.also = Some(also);
        self
    }

    /// The response.
    pub(in crate::edge) fn reply(self) -> Reply {
        let mut reply = Response::new(Full::new(Bytes::from(self.json())));
        *reply.status_mut() = self.status;
        let kind = HeaderValue::from_static("application/json");
        reply.headers_mut().insert(header::CONTENT_TYPE, kind);
        reply.headers_mut().extend(self.headers);
        reply
    }

    /// The response as bytes, for a connection that hyper does not serve any more, or yet, and
    /// that ends with it.
    fn final_response(&self) -> Vec<u8> {
        let body = self.json();
        let mut head = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n",
            self.status,
            body.len()
        );
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {}\r\n", value.to_str().unwrap_or_default());
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend(body);
        bytes
    }

    fn json(&self) -> Vec<u8> {
        self.body.clone().unwrap_or_else(|| {
            let body = serde_json::json!({"type": "error", "code": self.code, "message": self.message});
            body.to_string().into_bytes()
        })
    }
}

/// The status and code of a reason.
fn default_status(reason: Reason) -> (StatusCode, &'static str) {
    match reason {
        Reason::Host | Reason::Origin | Reason::Forbidden | Reason::Worker => {
            (StatusCode::FORBIDDEN, "forbidden")
        }
        Reason::TokenMissing | Reason::SecretMissing | Reason::SecretWrong | Reason::SecretScheme => {
            (StatusCode::UNAUTHORIZED, "auth_required")
        }
        Reason::TokenMalformed
        | Reason::TokenExpired
        | Reason::TokenNotYet
        | Reason::TokenKey
        | Reason::TokenSignature
        | Reason::TokenIssuer
        | Reason::TokenAudience
        | Reason::TokenRevoked
        | Reason::TokenClaims
        | Reason::TokenQuery => (StatusCode::UNAUTHORIZED, "token_invalid"),
        Reason::TooManyRefusals | Reason::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
        Reason::NoUpgrade => (StatusCode::UPGRADE_REQUIRED, "bad_request"),
        Reason::BadRequest => (StatusCode::BAD_REQUEST, "bad_request"),
        Reason::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Reason::Method => (StatusCode::METHOD_NOT_ALLOWED, "bad_request"),
        Reason::Timeout => (StatusCode::REQUEST_TIMEOUT, "bad_request"),
        Reason::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
        Reason::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_request"),
        Reason::HeadTooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too_large"),
        Reason::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        Reason::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
        Reason::TooManyConnections => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
        Reason::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
    }
}

/// Most bytes of one input that the log quotes.
const SHOWN: usize = 80;

/// A part of a request as the log quotes it: its beginning, up to a possible token or secret,
/// without characters that could begin a line or move a cursor.
pub(in crate::edge) fn quoted(input: &[u8]) -> String {
    let secret = secret_at(input).filter(|at| *at < SHOWN);
    let shown = String::from_utf8_lossy(input.get(..secret.unwrap_or(SHOWN)).unwrap_or(input));
    let more = match secret {
        Some(_) => "(...)",
        None if input.len() > SHOWN => "...",
        None => "",
    };
    format!("\"{}{more}\"", shown.escape_debug())
}

/// The response to a request whose token was refused; `place` is the place of the token in the
/// request, `line` goes to the log.
pub(super) fn refused_token(refused: RefusedToken, place: &str, line: Option<String>) -> Box<Denial> {
    let RefusedToken { fault, throttled, counted_for } = refused;
    if let Some(wait) = throttled {
        let whose = match counted_for {
            CountedFor::User => "of this user came that do not hold",
            CountedFor::Address => "that are wrong come from here",
        };
        return too_often("tokens", whose, &fault.message, wait);
    }
    let message = format!("{} (the token {place})", fault.message);
    let denial = Denial::new(fault.reason, message).code(fault.code);
    match line {
        Some(line) => denial.line(line),
        None => denial,
    }
}

/// Denies a request after too many failures.
pub(super) fn too_often(what: &str, whose: &str, last: &str, wait: Duration) -> Box<Denial> {
    let option = format!("wrong_{what}_per_minute");
    let last = if last.is_empty() { String::new() } else { format!(", the last one because {last}") };
    let message = format!("too many {what} {whose}{last}; a right one is taken at once");
    let line = format!("{message} (`[limits] {option}`)");
    Denial::new(Reason::TooManyRefusals, message).line(line).after(wait)
}

/// Counts and logs a denied request.
pub(in crate::edge) fn deny(driver: &mut Driver, denial: &Denial, from: IpAddr) {
    if let Some(also) = denial.also {
        driver.count_rejection(also);
    }
    match &denial.line {
        Some(line) => driver.note_refusal(denial.reason, Some(from), line),
        None => driver.note_refusal(denial.reason, Some(from), &denial.message),
    }
}

/// Denies a connection whose head was not read, or not whole, and sends the response, which is
/// its last. `head` is the beginning of the head, if that is still known.
pub(in crate::edge) fn dismiss(
    driver: &mut Driver,
    config: &HttpConfig,
    denial: &Denial,
    stream: &TcpStream,
    from: IpAddr,
    head: Option<&[u8]>,
) {
    deny(driver, denial, from);
    pending_conns::send_last(stream, &denial.final_response());
    // An empty head is no request.
    if config.logs_access && head != Some(&[]) {
        let head = head.map_or_else(RequestHead::default, RequestHead::of_beginning);
        let (status, bytes) = (denial.status.as_u16(), denial.json().len() as u64);
        RequestLine::new(from, head, status, bytes).write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_cut_short_and_begins_no_line() {
        let sent = format!("evil\n\u{1b}[2J\u{202e}\"{}", "x".repeat(1 << 20));
        let shown = quoted(sent.as_bytes());
        assert!(shown.len() < 130 && shown.starts_with("\"evil\\n\\u{1b}[2J\\u{202e}\\\"xx"), "{shown}");
        assert!(!shown.chars().any(char::is_control), "{shown}");
        assert_eq!(quoted(b"\xff\xfe"), "\"\u{fffd}\u{fffd}\"");
    }

    #[test]
    fn what_was_sent_is_shown_up_to_a_token_in_it() {
        assert_eq!(quoted(b"/nowhere"), "\"/nowhere\"");
        assert_eq!(quoted(b"/ws/eyJhbGciOi.x.y"), "\"/ws/(...)\"");
        assert_eq!(quoted(b"/ws;%54oken=abc"), "\"/ws;(...)\"");
        assert_eq!(quoted(b"websocket, eyJhbGciOi.x.y"), "\"websocket, (...)\"");
        // One that begins behind the shown part is not shown either.
        let late = format!("/{}/token=abc", "x".repeat(SHOWN));
        assert_eq!(quoted(late.as_bytes()), format!("\"/{}...\"", "x".repeat(SHOWN - 1)));
    }

    #[test]
    fn a_final_response_closes_the_connection() {
        let response = Denial::new(Reason::Overloaded, "all places are taken").final_response();
        let response = String::from_utf8(response).unwrap_or_default();
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n") && head.contains("\r\nretry-after: 5"), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        assert!(body.contains(r#""code":"overloaded""#), "{body}");
    }
}
