//! Denial of a request: its HTTP response, its count and its log line.
//!
//! The response holds nothing of the request. The log quotes the request, but no more of it
//! than `quoted` allows.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::access_log::{RequestHead, RequestLine};
use super::auth_throttle::{WINDOW, Who};
use crate::edge::auth::error::TokenError;
use crate::edge::driver::Driver;
use crate::edge::driver::anomaly_log::about;
use crate::edge::net::pending_conns;
use crate::hub::{Anomaly, Effect, Rejection, TokenFault};
use crate::protocol::{ConnectionId, Reason, Refusal, UserId};
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

/// Whether the signature of a token holds that is refused for this reason.
fn is_proven(reason: Reason) -> bool {
    matches!(reason, Reason::TokenExpired | Reason::TokenNotYet | Reason::TokenRevoked)
}

/// A refused token, and what follows from it.
pub(in crate::edge) struct RefusedToken {
    fault: TokenFault,
    /// Set after too many refusals: the time to wait.
    throttled: Option<Duration>,
    counted_for: CountedFor,
}

/// The key that a refused token is counted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum CountedFor {
    /// The user that it names.
    User,
    /// The address that it came from.
    Address,
}

impl RefusedToken {
    /// The fault, for a client that receives it on its connection.
    pub(in crate::edge) fn into_fault(self) -> TokenFault {
        self.fault
    }

    /// The HTTP response; `place` is the place of the token in the request, `line` goes to the
    /// log.
    pub(in crate::edge) fn denial(self, place: &str, line: Option<String>) -> Box<Denial> {
        let Self { fault, throttled, counted_for } = self;
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
}

/// Denies a request after too many failures.
pub(super) fn too_often(what: &str, whose: &str, last: &str, wait: Duration) -> Box<Denial> {
    let option = format!("wrong_{what}_per_minute");
    let last = if last.is_empty() { String::new() } else { format!(", the last one because {last}") };
    let message = format!("too many {what} {whose}{last}; a right one is taken at once");
    let line = format!("{message} (`[limits] {option}`)");
    Denial::new(Reason::TooManyRefusals, message).line(line).after(wait)
}

impl Driver {
    /// Counts and logs a denied request.
    pub(in crate::edge) fn deny(&mut self, denial: &Denial, from: IpAddr) {
        if let Some(also) = denial.also {
            self.turned_away(also, None);
        }
        match &denial.line {
            Some(line) => self.note_refusal(denial.reason, Some(from), line),
            None => self.note_refusal(denial.reason, Some(from), &denial.message),
        }
    }

    /// Denies a connection whose head was not read, or not whole, and sends the response, which
    /// is its last. `head` is the beginning of the head, if that is still known.
    pub(in crate::edge) fn dismiss(
        &mut self,
        denial: &Denial,
        stream: &TcpStream,
        from: IpAddr,
        head: Option<&[u8]>,
    ) {
        self.deny(denial, from);
        pending_conns::tell(stream, &denial.final_response());
        // An empty head is no request.
        if self.site.logs_access && head != Some(&[]) {
            let head = head.map_or_else(RequestHead::default, RequestHead::of_beginning);
            let (status, bytes) = (denial.status.as_u16(), denial.json().len() as u64);
            RequestLine::new(from, head, status, bytes).write();
        }
    }

    /// Counts and logs any other refusal.
    pub(in crate::edge) fn note_refusal(
        &mut self,
        reason: Reason,
        from: Option<IpAddr>,
        line: &dyn fmt::Display,
    ) {
        self.look_at_the_clock();
        let from = from.map_or_else(|| "somebody".to_owned(), |from| from.to_canonical().to_string());
        let line = format_args!("{from}: {line}");
        self.reports.refused(self.now.moment, reason, line, &[about("address", &from)]);
        self.turned_away(Rejection::Refused(reason), None);
    }

    /// Counts a refused token for its user or address, and sets the time to wait.
    pub(in crate::edge) fn reject(
        &mut self,
        mut fault: TokenFault,
        token: &str,
        from: Option<IpAddr>,
    ) -> RefusedToken {
        // The bearer of a token that was right once, or will be, does not guess, and no other
        // user of that address is slowed down for it.
        let is_proven = is_proven(fault.reason);
        let user = if is_proven { self.site.verifier.subject(token) } else { None };
        let counted_for = if user.is_some() { CountedFor::User } else { CountedFor::Address };
        let who = match user {
            Some(user) => {
                let mut hasher = DefaultHasher::new();
                user.hash(&mut hasher);
                Some(Who::User(hasher.finish()))
            }
            None => from.map(Who::Address),
        };
        if !is_proven {
            self.turned_away(Rejection::WrongSecret, None);
        }
        self.look_at_the_clock();
        let now = self.moment();
        let owed = who.map_or(Ok(Duration::ZERO), |who| self.site.wrong_tokens.borrow_mut().wrong(who, now));
        let throttled = owed.err();
        fault.wait = owed.unwrap_or_else(|wait| wait.max(WINDOW));
        RefusedToken { fault, throttled, counted_for }
    }

    /// Counts and logs the refused token of an `auth` request.
    pub(in crate::edge) fn refuse_auth(
        &mut self,
        conn: ConnectionId,
        token: &str,
        flaw: &TokenError,
    ) -> TokenFault {
        let from = self.links.get(conn).and_then(|link| link.wire.ip());
        let line = self.explain_token(flaw, token, "of an `auth` request");
        let fault = self.reject(flaw.fault(), token, from).fault;
        self.note_refusal(fault.reason, from, line.as_ref().unwrap_or(&fault.message));
        fault
    }

    /// Logs an effect of the hub that concerns the log alone.
    pub(in crate::edge) fn write_down(&mut self, effect: Effect) {
        match effect {
            Effect::LogDisconnect { conn, user, lasted, close } => {
                self.log_end(conn, user.as_ref(), lasted, close)
            }
            Effect::LogAnomaly(Anomaly::Refused { conn, user, reason }) => {
                self.refused_by_hub(conn, user.as_ref(), reason);
            }
            Effect::LogAnomaly(anomaly) => self.reports.anomaly(self.now.moment, &anomaly),
            _ => debug_assert!(false, "it is to be carried out"),
        }
    }

    /// Logs a connection that the hub has refused and counted.
    fn refused_by_hub(&mut self, conn: ConnectionId, user: Option<&UserId>, reason: Reason) {
        let why = match reason {
            Reason::TokenMissing => {
                "it came without a token, and sent no `auth` in time (`[limits] auth_timeout`; `[auth] \
                 anonymous` lets in whoever has none)"
            }
            Reason::TooManyConnections => {
                "the user has as many connections as one may have (`[limits] connections_per_user`)"
            }
            Reason::RateLimited => {
                "new connections come too fast (`[limits] user_requests_per_second`, `connections_per_user`)"
            }
            _ => {
                "it has not said who it is, and gave way: all connections are taken (`[limits] connections`)"
            }
        };
        let user = user.map(|user| format!(" of user {user:?}")).unwrap_or_default();
        let from = self.links.get(conn).and_then(|link| link.wire.ip());
        let from = from.map_or_else(|| "somebody".to_owned(), |from| from.to_string());
        let line = format_args!("{from}: connection {conn}{user}: {why}");
        self.reports.refused(self.now.moment, reason, line, &[about("address", &from)]);
    }

    /// The log line of a refused token, if one is due: the error, and the user if that is
    /// proven.
    pub(in crate::edge) fn explain_token(
        &self,
        flaw: &TokenError,
        token: &str,
        place: &str,
    ) -> Option<String> {
        if !self.reports.is_due(self.now.moment, flaw.reason()) {
            return None;
        }
        let verifier = &self.site.verifier;
        let message = verifier.explain(flaw, token, self.now.wall);
        let user = if is_proven(flaw.reason()) { verifier.subject(token) } else { None };
        let user = user.map(|user| format!(" of user {user:?}")).unwrap_or_default();
        Some(format!("the token{user} {place}: {message}"))
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
