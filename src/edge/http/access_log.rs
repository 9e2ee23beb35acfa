//! Access log: a line for each HTTP request; the lines for ends of connections are the driver's.
//!
//! `[log] access` enables it. No query is logged, because it may hold a token. A request that
//! cannot be parsed has a line as well, with `-` for its unknown parts. No line is held back:
//! an access log with gaps is of no use.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::denial::quoted;
use crate::protocol::UserId;

/// The line of a request that was answered.
pub(in crate::edge) struct RequestLine<'a> {
    from: IpAddr,
    user: Option<&'a UserId>,
    head: RequestHead<'a>,
    status: u16,
    /// Of the body.
    bytes: u64,
    /// From its head on; none where no whole head was read.
    took: Option<Duration>,
}

/// Method and path of a request, as far as they are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::edge) struct RequestHead<'a> {
    method: Option<&'a str>,
    path: Option<&'a str>,
}

impl<'a> RequestHead<'a> {
    pub(in crate::edge) fn new(method: &'a str, path: &'a str) -> Self {
        Self { method: Some(method), path: Some(path) }
    }

    /// Those of a head that is not whole, as far as its beginning shows them.
    pub(in crate::edge) fn of_beginning(read: &'a [u8]) -> Self {
        let Some((method, rest)) = method(read) else { return Self::default() };
        let end = rest.iter().position(|byte| b" ?#\r\n".contains(byte)).unwrap_or(rest.len());
        let path = rest.get(..end).and_then(|path| std::str::from_utf8(path).ok());
        Self { method: Some(method), path: path.filter(|path| path.starts_with('/')) }
    }
}

impl<'a> RequestLine<'a> {
    /// A request from an address, and the status and size of its answer.
    pub(in crate::edge) fn new(from: IpAddr, head: RequestHead<'a>, status: u16, bytes: u64) -> Self {
        Self { from, user: None, head, status, bytes, took: None }
    }

    /// With the user that it was authorized for, if any.
    pub(in crate::edge) fn of_user(self, user: Option<&'a UserId>) -> Self {
        Self { user, ..self }
    }

    pub(in crate::edge) fn took(self, took: Duration) -> Self {
        Self { took: Some(took), ..self }
    }

    pub(in crate::edge) fn write(&self) {
        let unknown = || "-".to_owned();
        let method = self.head.method.map(|method| quoted(method.as_bytes()));
        let path = self.head.path.map(|path| quoted(path.as_bytes()));
        let took = self.took.map(|took| took.as_millis().to_string());
        log::info!(
            "access: {} {} {} {} {} {} bytes {} ms",
            self.from.to_canonical(),
            UserOrDash(self.user),
            method.as_deref().map_or("-", |method| method.trim_matches('"')),
            path.unwrap_or_else(unknown),
            self.status,
            self.bytes,
            took.unwrap_or_else(unknown)
        );
    }
}

/// The method that a head begins with, and the bytes behind the space that follows it. Bytes
/// without the form of a request may be the body of one, which is not logged.
pub(in crate::edge) fn method(read: &[u8]) -> Option<(&str, &[u8])> {
    let length = read.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    let (method, rest) = read.split_at_checked(length).filter(|_| (3..=16).contains(&length))?;
    Some((std::str::from_utf8(method).ok()?, rest.strip_prefix(b" ")?))
}

/// A user, or a dash.
struct UserOrDash<'a>(Option<&'a UserId>);

impl fmt::Display for UserOrDash<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(user) => write!(f, "{user:?}"),
            None => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unread_head_shows_its_method_and_path_alone() {
        let table: [(&[u8], Option<&str>, Option<&str>); 9] = [
            (b"GET /ws?token=eyJ HTTP/1.1\r\nHost: x", Some("GET"), Some("/ws")),
            (b"GET /hea", Some("GET"), Some("/hea")),
            (b"GET /a\r\n", Some("GET"), Some("/a")),
            (b"GET ", Some("GET"), None),
            (b"GET", None, None),
            (b"OPTIONS * HTTP/1.1\r\n", Some("OPTIONS"), None),
            (b"GET http://ann:hidden@host/ HTTP/1.1\r\n", Some("GET"), None),
            (b"GET /\xff\xfe HTTP/1.1\r\n", Some("GET"), None),
            (b"{\"password\": 1}", None, None),
        ];
        for (read, method, path) in table {
            let head = RequestHead { method, path };
            assert_eq!(RequestHead::of_beginning(read), head, "{}", String::from_utf8_lossy(read));
        }
    }
}
