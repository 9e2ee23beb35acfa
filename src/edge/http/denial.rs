//! A refusal at the doors: what is answered, counted and written down of it.
//!
//! Knows the status and the words of each reason, and how much of what was sent may stand in
//! the log. Does not know when somebody is refused.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::{IpAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::access_log;
use super::config::HttpConfig;
use crate::edge::driver::Driver;
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
    /// For whoever asked: nothing in it of what was sent.
    message: Cow<'static, str>,
    /// For the log, where that is told more: what was sent, and which option decides.
    line: Option<String>,
    /// Where the hub has worded the answer.
    body: Option<Vec<u8>>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What it is counted as beside its reason.
    also: Option<Rejection>,
}

/// What came of a request, unless it was refused.
pub(in crate::edge) type Denied<T> = Result<T, Box<Denial>>;

/// Seconds: long enough for a few others to have left, or for a daemon to start.
const RETRY: u64 = 5;

impl Denial {
    /// A refusal with the status and code of its reason.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Box<Self> {
        let (status, code) = usual(reason);
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

    /// The hub has refused it, and this is its answer.
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

    /// With more in the log than in the answer.
    #[must_use]
    pub(in crate::edge) fn line(mut self: Box<Self>, line: String) -> Box<Self> {
        self.line = Some(line);
        self
    }

    /// With what it was about before all that the log says.
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

    /// It is worth trying again after that long.
    #[must_use]
    pub(in crate::edge) fn after(mut self: Box<Self>, wait: Duration) -> Box<Self> {
        self.headers.retain(|(name, _)| name != header::RETRY_AFTER);
        let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
        self.headers.push((header::RETRY_AFTER, HeaderValue::from(seconds)));
        self
    }

    /// Counted as that, too.
    #[must_use]
    pub(in crate::edge) fn counted(mut self: Box<Self>, also: Rejection) -> Box<Self> {
        self.also = Some(also);
        self
    }

    /// The answer.
    pub(in crate::edge) fn reply(self) -> Reply {
        let mut reply = Response::new(Full::new(Bytes::from(self.json())));
        *reply.status_mut() = self.status;
        let kind = HeaderValue::from_static("application/json");
        reply.headers_mut().insert(header::CONTENT_TYPE, kind);
        reply.headers_mut().extend(self.headers);
        reply
    }

    /// The answer of a connection that ends with it, for one that nobody speaks HTTP with any
    /// more, or yet.
    fn last_words(&self) -> Vec<u8> {
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
fn usual(reason: Reason) -> (StatusCode, &'static str) {
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

/// Bytes of something that was sent which the log shows.
const SHOWN: usize = 80;

/// What somebody sent in a request, as the log quotes it: its beginning, up to what may be a
/// token or secret, with nothing in it that could begin a line or move a cursor.
pub(in crate::edge) fn quoted(sent: &[u8]) -> String {
    let secret = secret_at(sent).filter(|at| *at < SHOWN);
    let shown = String::from_utf8_lossy(sent.get(..secret.unwrap_or(SHOWN)).unwrap_or(sent));
    let more = match secret {
        Some(_) => "(...)",
        None if sent.len() > SHOWN => "...",
        None => "",
    };
    format!("\"{}{more}\"", shown.escape_debug())
}

/// Counts a refusal over HTTP, and logs it.
pub(in crate::edge) fn deny(driver: &mut Driver, denial: &Denial, from: IpAddr) {
    if let Some(also) = denial.also {
        driver.count_rejection(also);
    }
    match &denial.line {
        Some(line) => driver.note_refusal(denial.reason, Some(from), line),
        None => driver.note_refusal(denial.reason, Some(from), &denial.message),
    }
}

/// The same of a connection whose head was not read, or not whole: answers it, which is the last
/// that its peer receives. `head` is the beginning of that head, unless that is gone.
pub(in crate::edge) fn dismiss(
    driver: &mut Driver,
    config: &HttpConfig,
    denial: &Denial,
    stream: &TcpStream,
    from: IpAddr,
    head: Option<&[u8]>,
) {
    deny(driver, denial, from);
    pending_conns::send_last(stream, &denial.last_words());
    // A peer that has sent nothing has requested nothing.
    if config.logs_access && head != Some(&[]) {
        let (method, path) = head.map_or((None, None), access_log::first_words);
        let (status, bytes) = (denial.status.as_u16(), denial.json().len() as u64);
        access_log::request(&access_log::RequestLine {
            from,
            user: None,
            method,
            path,
            status,
            bytes,
            took: None,
        });
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
        // One that begins behind what is shown is not shown either.
        let late = format!("/{}/token=abc", "x".repeat(SHOWN));
        assert_eq!(quoted(late.as_bytes()), format!("\"/{}...\"", "x".repeat(SHOWN - 1)));
    }

    #[test]
    fn a_last_answer_is_one_of_http_that_says_that_it_is_the_last() {
        let words = Denial::new(Reason::Overloaded, "all places are taken").last_words();
        let words = String::from_utf8(words).unwrap_or_default();
        let (head, body) = words.split_once("\r\n\r\n").unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n") && head.contains("\r\nretry-after: 5"), "{head}");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", body.len())), "{head}");
        assert!(body.contains(r#""code":"overloaded""#), "{body}");
    }
}
