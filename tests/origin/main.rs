//! Which `Host` and `Origin` headers are let through, and where a request comes from.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod forwarded;
mod listed;

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderValue, ORIGIN};
use wshubd::config::{Config, Environment, ListenConfig};
use wshubd::edge::http::origin::{OriginPolicy, OriginRefusal};
use wshubd::protocol::Reason;
use wshubd::protocol::routes::HEALTH;

fn listen(origins: &[&str], hosts: &[&str]) -> ListenConfig {
    let mut listen = Config::load(None, &Environment::new(1, [("CONFIGURATION_DIRECTORY", "/nonexistent")]))
        .unwrap()
        .config
        .listen;
    listen.allowed_origins = origins.iter().map(ToString::to_string).collect();
    listen.allowed_hosts = hosts.iter().map(ToString::to_string).collect();
    listen
}

fn headers(hosts: &[&[u8]], origins: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in [(HOST, hosts), (ORIGIN, origins)] {
        for value in values {
            headers.append(&name, HeaderValue::from_bytes(value).unwrap());
        }
    }
    headers
}

/// The gate of a machine called `Box.lan`, which also serves two names and
/// lists some pages.
fn gate() -> OriginPolicy {
    let origins = ["https://app.example.org", "http://dev.example.org:3000", "chrome-extension://abcdef"];
    OriginPolicy::new(&listen(&origins, &["hub.example.org", "proxy.example.org:8443"]), "Box.lan")
}

/// What a page is told that asks for a WebSocket.
fn admitted(gate: &OriginPolicy, host: &str, origin: &str) -> Result<(), OriginRefusal> {
    let origin = [origin.as_bytes()];
    gate.admit("/ws", &headers(&[host.as_bytes()], &origin))
}

fn admits(gate: &OriginPolicy, host: &str, origin: &str) -> bool {
    admitted(gate, host, origin).is_ok()
}

fn admits_host(gate: &OriginPolicy, host: &str) -> bool {
    gate.admit("/ws", &headers(&[host.as_bytes()], &[])).is_ok()
}

/// What [`gate`]'s machine may be called.
const OUR_HOSTS: &[&str] = &[
    "localhost",
    "localhost:8098",
    "LOCALHOST",
    "127.0.0.1",
    "127.0.0.1:1",
    "192.168.7.9:65535",
    "0.0.0.0:8098",
    "[::1]",
    "[::1]:8098",
    "[2001:DB8::1]:80",
    "box",
    "box.lan:8098",
    "BOX.LOCAL",
    "hub.example.org",
    "HUB.example.org:443",
    "proxy.example.org",
    // Absolute names, and ports that are empty (RFC 3986, section 3.2).
    "localhost.",
    "localhost.:8098",
    "LocalHost:",
    "box.lan.",
    "hub.example.org.:",
    "127.0.0.1:",
    "[::1]:",
    "[::ffff:127.0.0.1]:8098",
    "[::FFFF:7f00:1]",
    // Browsers ask nobody where that is.
    "app.localhost",
    "app.localhost:8098",
];

/// What it may not.
const OTHER_HOSTS: &[&str] = &[
    "",
    ":8098",
    "attacker.example",
    "localhost.attacker.example",
    "127.0.0.1.attacker.example",
    "localhost..",
    ".localhost",
    "box.other",
    "boxlocal",
    "sub.hub.example.org",
    "hub.example.org.attacker.example",
    ":",
    ".",
    ".:8098",
    "localhost::",
    "localhost:http",
    "localhost:99999",
    "localhost:+80",
    "localhost:80:80",
    "localhost/",
    "user@localhost",
    "localhost@attacker.example",
    "localhost localhost",
    "localhost,attacker.example",
    "::1",
    "[::1",
    "[::1]8098",
    "[::1%25lo]",
    "[127.0.0.1]",
    "[localhost]",
    "127.1",
    "0x7f000001",
    "2130706433",
    "127.0.0.01",
    "loc\u{430}lhost",
    "xn--loclhost-2fg",
    "*",
    "..",
];

#[test]
fn a_host_is_ours_an_address_or_listed() {
    let gate = gate();
    for host in OUR_HOSTS {
        assert!(admits_host(&gate, host), "{host:?}");
    }
    for host in OTHER_HOSTS {
        assert!(!admits_host(&gate, host), "{host:?}");
    }
}

/// A host, and an origin that may ask it.
const OUR_ORIGINS: &[(&str, &str)] = &[
    ("localhost:8098", "http://localhost:8098"),
    ("localhost:8098", "http://localhost:3000"),
    ("localhost:8098", "https://LOCALHOST"),
    ("localhost", "ws://localhost"),
    ("127.0.0.1:8098", "http://127.0.0.1"),
    ("[::1]:8098", "http://[0:0:0:0:0:0:0:1]:5173"),
    ("box.local", "http://box.local"),
    ("hub.example.org", "https://hub.example.org"),
    ("localhost", "https://app.example.org"),
    ("localhost", "https://app.example.org:443"),
    ("localhost", "HTTPS://App.Example.ORG"),
    ("localhost", "http://dev.example.org:3000"),
    ("localhost", "chrome-extension://abcdef"),
    ("localhost", "http://localhost."),
    ("localhost.", "http://localhost"),
    ("127.0.0.1", "http://[::ffff:127.0.0.1]"),
    ("[::ffff:127.0.0.1]:8098", "http://127.0.0.1:3000"),
];

/// A host, and an origin that may not.
const OTHER_ORIGINS: &[(&str, &str)] = &[
    ("localhost", ""),
    ("localhost", "null"),
    ("localhost", "NULL"),
    ("localhost", "localhost"),
    ("localhost", "//localhost"),
    ("localhost", "://localhost"),
    ("localhost", "1http://localhost"),
    ("localhost", "https://evil.example"),
    ("localhost", "http://localhost.evil.com"),
    ("localhost", "http://localhost@evil.com"),
    ("localhost", "http://evil.com@localhost"),
    ("localhost", "http://localhost/"),
    ("localhost", "http://localhost:80/path"),
    ("localhost", "http://localhost?"),
    ("localhost", "http://localhost#"),
    ("localhost", "http://localhost\\@evil.com"),
    ("localhost", "http://localhost http://evil.com"),
    ("localhost", "http://localhost, http://evil.com"),
    ("localhost", "http://127.0.0.1"),
    ("127.0.0.1", "http://localhost"),
    ("127.0.0.1", "http://127.0.0.1:1@x"),
    ("127.0.0.1", "http://127.0.0.2"),
    ("127.0.0.1", "http://[::ffff:127.0.0.2]"),
    ("localhost", "http://[::1]"),
    ("localhost", "file://"),
    ("localhost", "file://localhost"),
    ("localhost", "app://localhost"),
    ("localhost", "chrome-extension://localhost"),
    ("localhost", "chrome-extension://abcdefg"),
    ("localhost", "javascript:alert(1)"),
    ("localhost", "http://app.example.org"),
    ("localhost", "https://app.example.org:8443"),
    ("localhost", "https://sub.app.example.org"),
    ("localhost", "https://app.example.org.evil.com"),
    ("localhost", "https://evil-app.example.org"),
    ("localhost", "http://dev.example.org"),
    ("localhost", "https://dev.example.org:3000"),
    ("localhost", "https://hub.example.org"),
    ("localhost", "http://xn--loclhost-2fg"),
    ("localhost", "*"),
    ("evil.example", "http://evil.example"),
];

#[test]
fn an_origin_is_the_hosts_own_or_listed() {
    let gate = gate();
    for &(host, origin) in OUR_ORIGINS {
        assert!(admits(&gate, host, origin), "{origin} at {host}");
    }
    for &(host, origin) in OTHER_ORIGINS {
        assert!(!admits(&gate, host, origin), "{origin:?} at {host}");
    }
}

#[test]
fn each_header_stands_once_and_is_text() {
    let gate = gate();
    let long = format!("http://{}", "a".repeat(8192));
    let wrong: [[&[&[u8]]; 2]; 7] = [
        [&[], &[]],
        [&[b"localhost", b"evil.example"], &[]],
        [&[b"localhost", b"localhost"], &[]],
        [&[b"local\x80host"], &[]],
        [&[b"localhost"], &[b"http://localhost", b"http://localhost"]],
        [&[b"localhost"], &[b"http://local\xffhost"]],
        [&[b"localhost"], &[long.as_bytes()]],
    ];
    for [hosts, origins] in wrong {
        assert!(gate.admit("/ws", &headers(hosts, origins)).is_err(), "{hosts:?} {origins:?}");
    }
}

#[test]
fn a_check_of_health_needs_no_host_and_one_that_is_there_is_checked() {
    let gate = gate();
    assert_eq!(gate.admit(HEALTH, &headers(&[], &[])), Ok(()));
    for path in ["/ws", "/", "/metrics", "/healthz/x", "/api/v1/ws/stats"] {
        let refused = gate.admit(path, &headers(&[], &[])).unwrap_err();
        assert_eq!(refused.reason, Reason::Host, "{path}");
        assert!(refused.message.contains("/healthz"), "{}", refused.message);
    }
    let wrong: [&[&[u8]]; 4] = [&[b"evil.example"], &[b""], &[b"\xff"], &[b"localhost", b"localhost"]];
    for hosts in wrong {
        assert!(gate.admit(HEALTH, &headers(hosts, &[])).is_err(), "{hosts:?}");
    }
    assert!(gate.admit(HEALTH, &headers(&[], &[b"http://localhost"])).is_err(), "it is nobody's own page");
    assert_eq!(gate.admit(HEALTH, &headers(&[], &[b"https://app.example.org"])), Ok(()));
}

#[test]
fn a_star_lets_every_page_in_but_not_every_host() {
    let gate = OriginPolicy::new(&listen(&["*"], &[]), "box");
    assert!(admits(&gate, "localhost", "https://evil.example"));
    assert!(admits(&gate, "localhost", "null"));
    assert!(!admits(&gate, "evil.example", "https://evil.example"));
}

#[test]
fn null_is_an_origin_only_where_it_is_listed() {
    let gate = OriginPolicy::new(&listen(&["null"], &[]), "box");
    assert!(admits(&gate, "localhost", "null"));
    assert!(!admits(&gate, "localhost", "https://evil.example"));
}

#[test]
fn a_machine_without_a_usable_name_still_answers_to_localhost() {
    for name in ["", ".", "a name", "local host.lan", "127.0.0.1"] {
        let gate = OriginPolicy::new(&listen(&[], &[]), name);
        assert!(admits_host(&gate, "localhost"), "{name:?}");
        assert!(!admits_host(&gate, "evil.example"), "{name:?}");
        assert!(!admits_host(&gate, ""), "{name:?}");
    }
}
