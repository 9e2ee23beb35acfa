//! Redaction: the parts of a text that may be a token or secret, and must not be repeated.
//!
//! They are found by how tokens and random secrets look, and by the names that stand before
//! them. What is redacted without need costs a detail of a log line; what is repeated without need
//! may cost a secret. So every doubt counts against the text.

use std::ops::Range;

/// Bytes of a request that are searched: more of one than that is shown nowhere.
const SEARCHED: usize = 1024;

/// Escapes within escapes that are looked through: proxies add a layer or two.
const LAYERS: usize = 4;

/// Words that a secret follows, in whatever case.
const WORDS: [&[u8]; 2] = [b"authorization", b"bearer"];

/// Names whose value is a secret, in whatever case, also at the end of another name.
const NAMES: [&[u8]; 6] = [b"token", b"secret", b"password", b"passwd", b"jwt", b"apikey"];

/// The header of a token as base64url spells it: `{"`, or with space behind the bracket. In
/// this case only, for in another it would be part of words.
const HEADERS: [&[u8]; 5] = [b"eyJ", b"eyAi", b"ewog", b"ewoJ", b"ewoi"];

/// A piece of a request that is so long is no word: a UUID has 36, a secret that is generated
/// here 64, one of 32 bytes in base64 43.
const LONGEST_WORD: usize = 40;

/// Where a token or secret begins in bytes from a peer, if there may be one.
pub(crate) fn secret_at(sent: &[u8]) -> Option<usize> {
    // Each byte with its offset in what was sent.
    let mut bytes: Vec<(usize, u8)> = sent.iter().copied().enumerate().take(SEARCHED).collect();
    let mut first = None;
    for _ in 0..LAYERS {
        let found = marked_at(&bytes).and_then(|at| bytes.get(at)).map(|(at, _)| *at);
        first = [first, found].into_iter().flatten().min();
        let decoded = decoded(&bytes);
        if decoded.len() == bytes.len() {
            break;
        }
        bytes = decoded;
    }
    first
}

/// What stands behind one layer of percent escapes; each byte with the offset of its escape.
fn decoded(bytes: &[(usize, u8)]) -> Vec<(usize, u8)> {
    let (mut decoded, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
    while let Some(((at, byte), after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|(_, byte)| char::from(*byte).to_digit(16));
        let escaped = digit(0).zip(digit(1)).filter(|_| *byte == b'%');
        let escaped = escaped.and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        decoded.push((*at, escaped.unwrap_or(*byte)));
        rest = after.get(if escaped.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    decoded
}

/// Where the header of a token begins, if one is there: of a host's name, in which any other
/// mark may be part of the name.
pub(crate) fn token_at(sent: &str) -> Option<usize> {
    HEADERS.iter().filter_map(|header| memchr::memmem::find(sent.as_bytes(), header)).min()
}

fn marked_at(bytes: &[(usize, u8)]) -> Option<usize> {
    let text: Vec<u8> = bytes.iter().map(|(_, byte)| *byte).collect();
    let lower = text.to_ascii_lowercase();
    let word = WORDS.iter().filter_map(|word| memchr::memmem::find(&lower, word)).min();
    let name = NAMES.iter().filter_map(|name| {
        memchr::memmem::find_iter(&lower, name).find(|at| has_value(lower.get(at + name.len()..)))
    });
    let header = HEADERS.iter().filter_map(|header| memchr::memmem::find(&text, header));
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_+".contains(&byte);
    let long = runs(&text, is_part).find(|run| {
        run.len() >= LONGEST_WORD && text.get(run.clone()).is_some_and(|run| has_digits_and_letters(run, 3))
    });
    word.into_iter().chain(name).chain(header).chain(long.map(|run| run.start)).min()
}

/// Whether a name is followed by its value: `name=`, `name: `, `"name" : `.
fn has_value(rest: Option<&[u8]>) -> bool {
    let mut rest = rest.unwrap_or_default().iter().skip_while(|byte| b" \t\"'".contains(byte));
    rest.next().is_some_and(|byte| b"=:".contains(byte))
}

/// Whether a text that is no sentence may be a random secret: it has a run of letters and
/// digits as no word has it.
pub(crate) fn is_random(text: &str) -> bool {
    /// 16 characters are the shortest secret that is taken.
    const SHORTEST: usize = 16;
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"+=".contains(&byte);
    let text = text.as_bytes();
    let mut long = runs(text, is_part).filter(|run| run.len() >= SHORTEST).filter_map(|run| text.get(run));
    long.any(|run| {
        let count = |is: fn(&u8) -> bool| run.iter().filter(|byte| is(byte)).count();
        let is_mixed = count(u8::is_ascii_uppercase) >= 3 && count(u8::is_ascii_lowercase) >= 3;
        is_mixed || has_digits_and_letters(run, 3) || count(u8::is_ascii_digit) >= SHORTEST
    })
}

fn has_digits_and_letters(run: &[u8], least: usize) -> bool {
    let count = |is: fn(&u8) -> bool| run.iter().filter(|byte| is(byte)).count();
    count(u8::is_ascii_digit) >= least && count(u8::is_ascii_alphabetic) >= least
}

/// The runs of bytes that are part of one.
fn runs(text: &[u8], is_part: impl Fn(u8) -> bool) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let rest = text.get(next..)?;
        let start = next + rest.iter().position(|byte| is_part(*byte))?;
        let length = text.get(start..)?.iter().take_while(|byte| is_part(**byte)).count();
        next = start + length;
        Some(start..next)
    })
}

/// Whether a setting or variable of this name may hold a secret, known or not.
pub(crate) fn is_name_of_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["token", "secret", "passw", "jwt", "key", "file", "credential"].iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2ln";

    fn shown(sent: &str) -> &str {
        secret_at(sent.as_bytes()).and_then(|at| sent.get(..at)).unwrap_or(sent)
    }

    #[test]
    fn a_token_or_secret_is_found_however_its_name_is_spelled() {
        let hex = "0123456789abcdef".repeat(4);
        let cases = [
            (format!("/ws/{JWT}"), "/ws/"),
            ("/ws;token=abc".to_owned(), "/ws;"),
            ("/ws;TOKEN=abc".to_owned(), "/ws;"),
            ("/ws;Access_Token = abc".to_owned(), "/ws;Access_"),
            ("/ws;%74oken=abc".to_owned(), "/ws;"),
            ("/ws;t%6Fk%65n%3dabc".to_owned(), "/ws;"),
            ("/ws;%2574oken=abc".to_owned(), "/ws;"),
            ("/ws;%252574oken=abc".to_owned(), "/ws;"),
            ("/ws/%65yJhbGci".to_owned(), "/ws/"),
            ("/login:Password: abc".to_owned(), "/login:"),
            ("Upgrade, BEARER abc".to_owned(), "Upgrade, "),
            ("wshub.Bearer.abc".to_owned(), "wshub."),
            ("AUTHORIZATION abc".to_owned(), ""),
            (r#"{"secret" : "abc"}"#.to_owned(), "{\""),
            (format!("/publish/{hex}"), "/publish/"),
            ("websocket, k3J9-pQw_x7Zr0uT5vLm2NaYb8CdEfGhIjKlMnOpQrS".to_owned(), "websocket, "),
            ("eyAiYWxnIjoiSFMyNTYifQ.x.y".to_owned(), ""),
        ];
        for (sent, expected) in &cases {
            assert_eq!(shown(sent), *expected, "{sent}");
        }
    }

    #[test]
    fn what_is_no_secret_is_left_as_it_is() {
        for sent in [
            "",
            "/",
            "/nowhere",
            "/api/v1/ws/stats",
            "/files/5f0c1c9e-7a3b-4c2d-9e8f-0a1b2c3d4e5f",
            "/tokens/list",
            "/static/app.5f2a8c9e1b3d4f6a.js",
            "keep-alive, Upgrade",
            "application/x-www-form-urlencoded",
            "/100%/%zz/%4",
            "/a-very-long-path-of-many-words-that-has-no-digits-in-it-at-all",
        ] {
            assert_eq!(shown(sent), sent);
        }
    }

    #[test]
    fn random_secrets_are_told_from_words() {
        for secret in [
            "0123456789abcdef0123456789abcdef",
            "k3J9pQwx7Zr0uT5vLm2NaYb8CdEfGhIj",
            "bXkgc2VjcmV0IG9mIDMyIGJ5dGVz",
            "MZXW6YTBOI======2345",
            "1234567890123456",
        ] {
            assert!(is_random(secret), "{secret}");
        }
        for name in ["", "jwt.key", "broadcast.secret", "broadcastsecretkey", "hub-2024-05-01.key", "Keys"] {
            assert!(!is_random(name), "{name}");
        }
    }
}
