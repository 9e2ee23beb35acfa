//! Where a request comes from behind proxies.

use std::net::IpAddr;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use proptest::prelude::*;
use wshubd::config::Forwarded;
use wshubd::edge::http::forwarded::{Proxies, RequestSource};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn proxies(trusted: &[&str], header: Forwarded) -> Proxies {
    let mut listen = super::listen(&[], &[]);
    let network = |text: &&str| text.parse().unwrap_or_else(|_| ip(text).into());
    listen.trusted_proxies = trusted.iter().map(network).collect();
    listen.forwarded = header;
    Proxies::new(&listen)
}

fn lines(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// Those of one machine and of a network in front of it.
const TRUSTED: &[&str] = &["127.0.0.1", "10.0.0.0/8", "2001:db8:1::/48"];

/// Where a request comes from that the machine's own proxy passes on; `peer` if it does not
/// say in a way that counts.
fn from(header: Forwarded, headers: &[(&str, &str)]) -> String {
    let headers = lines(headers);
    let RequestSource { address, is_named, is_hidden, is_local } =
        proxies(TRUSTED, header).source(ip("127.0.0.1"), ip("127.0.0.1"), &headers);
    assert!(!is_local, "{headers:?}");
    let name = Forwarded::NAMES.iter().find(|(_, named)| *named == header).unwrap().0;
    assert_eq!(is_hidden, !is_named && headers.contains_key(name), "{headers:?}");
    assert!(is_named || address == ip("127.0.0.1"), "{headers:?}");
    if is_named { address.to_string() } else { "peer".into() }
}

#[test]
fn the_rightmost_address_that_is_not_trusted_is_the_clients() {
    for (list, client) in [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:443", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.1.2.3", "192.0.2.7"),
        ("203.0.113.9, 192.0.2.7,10.1.2.3 ,\t2001:db8:1::5", "192.0.2.7"),
        // What stands before is the client's invention, whatever it is.
        ("nonsense, , \"', 192.0.2.7", "192.0.2.7"),
        ("127.0.0.1, 192.0.2.7", "192.0.2.7"),
        // Nobody else has a part in it.
        ("10.9.9.9, 10.1.2.3", "10.9.9.9"),
        ("127.0.0.1", "127.0.0.1"),
        // What cannot be read is nobody, and nobody is passed over.
        ("", "peer"),
        ("unknown", "peer"),
        ("192.0.2.7, unknown", "peer"),
        ("192.0.2.7,", "peer"),
        ("192.0.2.7, 10.1.2.3, x", "peer"),
        ("192.0.2.7:", "peer"),
        ("192.0.2.7:70000", "peer"),
        ("192.0.2.007", "peer"),
        ("192.0.2.7 10.1.2.3", "peer"),
        ("fe80::1%eth0", "peer"),
        ("[192.0.2.7]", "peer"),
        ("[2001:db8::7", "peer"),
        ("192.0.2.7\u{e9}", "peer"),
        ("for=192.0.2.7", "peer"),
    ] {
        assert_eq!(from(Forwarded::XForwardedFor, &[("X-Forwarded-For", list)]), client, "{list:?}");
    }
    assert_eq!(from(Forwarded::XForwardedFor, &[("Via", "1.1 front")]), "peer");
}

#[test]
fn several_lines_are_one_list_in_their_order() {
    let both = |name, first, second| [(name, first), (name, second)];
    let x = |first, second| from(Forwarded::XForwardedFor, &both("x-forwarded-for", first, second));
    assert_eq!(x("203.0.113.9", "192.0.2.7"), "192.0.2.7");
    assert_eq!(x("203.0.113.9, 192.0.2.7", "10.0.0.1"), "192.0.2.7");
    assert_eq!(x("203.0.113.9", ""), "peer");
    let f = |first, second| from(Forwarded::Forwarded, &both("forwarded", first, second));
    assert_eq!(f("for=203.0.113.9", "for=192.0.2.7"), "192.0.2.7");
    assert_eq!(f("for=192.0.2.7;proto=https", "for=10.0.0.1"), "192.0.2.7");
    assert_eq!(f("for=\"203.0.113.9", "for=192.0.2.7"), "192.0.2.7", "the client's line is its own");
}

#[test]
fn the_grammar_of_rfc_7239_is_read_and_nothing_else() {
    for (list, client) in [
        ("for=192.0.2.7", "192.0.2.7"),
        ("For=\"192.0.2.7\"", "192.0.2.7"),
        ("for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
        ("for=\"[2001:db8::1]\";proto=https;by=10.0.0.1", "2001:db8::1"),
        ("proto=http; host=\"a,b;for=1.2.3.4\" ;FOR=192.0.2.7:4711", "192.0.2.7"),
        ("for=203.0.113.9, for=192.0.2.7;by=_x , for=10.0.0.1", "192.0.2.7"),
        ("for=unknown, for=192.0.2.7", "192.0.2.7"),
        ("for=10.0.0.9, for=10.0.0.1", "10.0.0.9"),
        ("for=_hidden", "peer"),
        ("for=unknown", "peer"),
        ("for=192.0.2.7, for=_gazonk", "peer"),
        ("for=192.0.2.7, proto=https", "peer"),
        ("for=192.0.2.7;for=203.0.113.9", "peer"),
        ("192.0.2.7", "peer"),
        ("for=", "peer"),
        ("for=\"\"", "peer"),
        ("for=\"192.0.2.7", "peer"),
        ("for=192.0.2.7\"", "peer"),
        ("for=\"192.0.2.7\"x", "peer"),
        ("for=\"192.0\\.2.7\"", "peer"),
        ("for =192.0.2.7 x", "peer"),
        ("=192.0.2.7", "peer"),
        ("for=192.0.2.7,", "peer"),
        ("", "peer"),
    ] {
        assert_eq!(from(Forwarded::Forwarded, &[("Forwarded", list)]), client, "{list:?}");
    }
}

#[test]
fn a_quote_that_a_client_opens_hides_no_proxys_word_and_forges_none() {
    for opened in ["for=203.0.113.9;x=\"", "for=\"203.0.113.9, ", "x=\"", "for=203.0.113.9;x=\", for=\""] {
        for word in ["for=192.0.2.7", "for=\"[2001:db8::7]:4711\"", "for=\"192.0.2.7\";proto=\"http\""] {
            let client = from(Forwarded::Forwarded, &[("Forwarded", &format!("{opened}, {word}"))]);
            assert_ne!(client, "203.0.113.9", "{opened}, {word}");
        }
    }
}

#[test]
fn a_byte_that_no_text_has_spoils_nothing_that_the_proxy_has_added() {
    let mut headers = HeaderMap::new();
    headers.insert("X-Forwarded-For", HeaderValue::from_bytes(b"\xe9, 192.0.2.7").unwrap());
    let proxies = proxies(&["127.0.0.1"], Forwarded::XForwardedFor);
    let here = ip("127.0.0.1");
    assert_eq!(proxies.source(here, here, &headers).address, ip("192.0.2.7"));
    headers.insert("X-Forwarded-For", HeaderValue::from_bytes(b"192.0.2.7, \xe9").unwrap());
    assert_eq!(proxies.source(here, here, &headers).address, here);
}

#[test]
fn one_header_counts_and_only_from_a_peer_that_is_trusted() {
    let both = [("X-Forwarded-For", "192.0.2.7"), ("Forwarded", "for=192.0.2.8")];
    assert_eq!(from(Forwarded::XForwardedFor, &both), "192.0.2.7");
    assert_eq!(from(Forwarded::Forwarded, &both), "192.0.2.8");
    assert_eq!(from(Forwarded::Forwarded, &both[..1]), "peer");
    for (peer, is_trusted) in [
        ("10.255.0.1", true),
        ("::ffff:10.255.0.1", true),
        ("2001:db8:1:ffff::1", true),
        ("11.0.0.1", false),
        ("::1", false),
        ("2001:db8:2::1", false),
    ] {
        let source =
            proxies(TRUSTED, Forwarded::XForwardedFor).source(ip(peer), ip("192.0.2.1"), &lines(&both));
        assert_eq!(source.is_named, is_trusted, "{peer}");
        let client = if is_trusted { ip("192.0.2.7") } else { ip(peer) };
        assert_eq!(source.address, client, "{peer}");
    }
}

#[test]
fn only_a_program_of_this_machine_is_local_and_no_proxy_for_others() {
    let is_local = |trusted: &[&str], peer, own, headers: &[(&str, &str)]| {
        proxies(trusted, Forwarded::XForwardedFor).source(ip(peer), ip(own), &lines(headers)).is_local
    };
    for (peer, own) in [("127.0.0.1", "127.0.0.1"), ("127.8.8.8", "127.0.0.1"), ("::1", "::1")] {
        assert!(is_local(&[], peer, own, &[]), "{peer} at {own}");
        assert!(is_local(TRUSTED, peer, own, &[("User-Agent", "curl")]), "{peer} at {own}");
    }
    assert!(is_local(&[], "::ffff:127.0.0.1", "::ffff:127.0.0.1", &[]), "by a listener of IPv6");
    for (peer, own) in [("192.0.2.7", "192.0.2.1"), ("127.0.0.1", "192.0.2.1"), ("192.0.2.7", "127.0.0.1")] {
        assert!(!is_local(&[], peer, own, &[]), "{peer} at {own}");
    }
    for trace in ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via", "X-Forwarded-Proto", "X-Forwarded-Host"]
    {
        for value in ["127.0.0.1", "for=127.0.0.1", "", "x"] {
            assert!(!is_local(&[], "127.0.0.1", "127.0.0.1", &[(trace, value)]), "{trace}: {value}");
            assert!(!is_local(TRUSTED, "127.0.0.1", "127.0.0.1", &[(trace, value)]), "{trace}: {value}");
        }
    }
}

#[test]
fn a_proxy_of_this_machine_that_nobody_has_named_is_told_of_once() {
    let (here, forwarded) = (ip("::ffff:127.0.0.1"), lines(&[("X-Forwarded-For", "192.0.2.7")]));
    let unnamed = proxies(&["10.0.0.0/8"], Forwarded::XForwardedFor);
    assert!(!unnamed.take_warning(here, &lines(&[])), "a program of this machine");
    assert!(!unnamed.take_warning(ip("192.0.2.9"), &forwarded), "anybody can send that");
    assert!(unnamed.take_warning(here, &forwarded));
    assert!(!unnamed.take_warning(here, &forwarded), "once");
    let mut next = proxies(&[], Forwarded::Forwarded);
    next.remember(&unnamed);
    assert!(!next.take_warning(here, &forwarded), "a reload is no news");
    assert!(!proxies(TRUSTED, Forwarded::XForwardedFor).take_warning(here, &forwarded), "it is named");
}

proptest! {
    /// Whatever a client sends before the word of the proxy, it is never taken for that.
    #[test]
    fn no_invention_of_a_client_takes_the_place_of_the_proxys_word(
        invented in r#"[ -~\t]{0,40}|((for=|,|;|"|=| |192\.0\.2\.66|unknown|\[::1\]|\\){0,12})"#,
        is_quoted in any::<bool>(),
        is_own_line in any::<bool>(),
    ) {
        let word = if is_quoted { "for=\"192.0.2.7:4711\";proto=https" } else { "for=192.0.2.7" };
        let joined = format!("{invented}, {word}");
        let headers: &[(&str, &str)] =
            if is_own_line { &[("forwarded", &invented), ("forwarded", word)] } else { &[("forwarded", &joined)] };
        let client = from(Forwarded::Forwarded, headers);
        prop_assert!(client == "192.0.2.7" || client == "peer" && !is_own_line, "{client}");

        let joined = format!("{invented}, 192.0.2.7");
        let headers: &[(&str, &str)] = if is_own_line {
            &[("x-forwarded-for", &invented), ("x-forwarded-for", "192.0.2.7")]
        } else {
            &[("x-forwarded-for", &joined)]
        };
        prop_assert_eq!(from(Forwarded::XForwardedFor, headers), "192.0.2.7");
    }

    /// Every address comes back as it was spelled, in each of the spellings.
    #[test]
    fn every_address_is_read_in_every_spelling(v4 in any::<u32>(), v6 in any::<u128>(), port in any::<u16>()) {
        let (v4, v6) = (IpAddr::V4(v4.into()), IpAddr::V6(v6.into()));
        let spellings = [
            (v4, v4.to_string()),
            (v4, format!("{v4}:{port}")),
            (v6, v6.to_string()),
            (v6, format!("[{v6}]")),
            (v6, format!("[{v6}]:{port}")),
        ];
        for (address, spelled) in spellings {
            let wanted = address.to_canonical().to_string();
            prop_assert_eq!(&from(Forwarded::XForwardedFor, &[("x-forwarded-for", &spelled)]), &wanted);
            let quoted = format!("for=\"{spelled}\"");
            prop_assert_eq!(&from(Forwarded::Forwarded, &[("forwarded", &quoted)]), &wanted);
        }
    }
}
