//! Lines of the access log for requests over HTTP; those for ends of connections are the
//! driver's.
//!
//! Knows what stands in a line; `[log] access` switches it. No query is in it, for a token may
//! be. A request that no parser could read has a line as well, with `-` for what is not known
//! of it. Does not limit itself: whoever wants it wants all of it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::denial::quoted;
use crate::protocol::UserId;

/// A request that was answered.
pub(in crate::edge) struct RequestLine<'a> {
    pub(in crate::edge) from: IpAddr,
    pub(in crate::edge) user: Option<&'a UserId>,
    pub(in crate::edge) method: Option<&'a str>,
    pub(in crate::edge) path: Option<&'a str>,
    pub(in crate::edge) status: u16,
    /// Of the body.
    pub(in crate::edge) bytes: u64,
    /// From its head on; there is no such time where no whole head was read.
    pub(in crate::edge) took: Option<Duration>,
}

/// Writes a request down.
pub(in crate::edge) fn request(of: &RequestLine<'_>) {
    let unknown = || "-".to_owned();
    let method = of.method.map(|method| quoted(method.as_bytes()));
    let path = of.path.map(|path| quoted(path.as_bytes()));
    let took = of.took.map(|took| took.as_millis().to_string());
    log::info!(
        "access: {} {} {} {} {} {} bytes {} ms",
        of.from.to_canonical(),
        Shown(of.user),
        method.as_deref().map_or("-", |method| method.trim_matches('"')),
        path.unwrap_or_else(unknown),
        of.status,
        of.bytes,
        took.unwrap_or_else(unknown)
    );
}

/// Method and path, as far as the beginning of a head that was not read shows them.
pub(in crate::edge) fn first_words(said: &[u8]) -> (Option<&str>, Option<&str>) {
    let Some((method, rest)) = method(said) else { return (None, None) };
    let end = rest.iter().position(|byte| b" ?#\r\n".contains(byte)).unwrap_or(rest.len());
    let path = rest.get(..end).and_then(|path| std::str::from_utf8(path).ok());
    (Some(method), path.filter(|path| path.starts_with('/')))
}

/// The method that a head begins with, and what follows the space behind it. What has not the
/// shape of a request may be the body of one: it is nobody's business.
pub(in crate::edge) fn method(said: &[u8]) -> Option<(&str, &[u8])> {
    let length = said.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    let (method, rest) = said.split_at_checked(length).filter(|_| (3..=16).contains(&length))?;
    Some((std::str::from_utf8(method).ok()?, rest.strip_prefix(b" ")?))
}

/// A user, where there is one.
struct Shown<'a>(Option<&'a UserId>);

impl fmt::Display for Shown<'_> {
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
    fn a_head_that_was_not_read_shows_its_method_and_path_alone() {
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
        for (said, method, path) in table {
            assert_eq!(first_words(said), (method, path), "{}", String::from_utf8_lossy(said));
        }
    }
}
