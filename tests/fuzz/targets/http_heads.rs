//! Heads of HTTP requests: whether one is whole, where it may come from, and the token in it,
//! on any bytes, read by the HTTP library as the daemon sets it up.

#![no_main]

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use libfuzzer_sys::fuzz_target;
use smol::io::{AsyncRead, AsyncWrite};
use smol_hyper::rt::FuturesIo;
use wshubd::config::{Config, Environment};
use wshubd::edge::config::EdgeConfig;
use wshubd::edge::http;
use wshubd::edge::http::config::HttpConfig;
use wshubd::edge::http::origin::OriginPolicy;
use wshubd::edge::http::upgrade;
use wshubd::edge::net::pending_conns;
use wshubd::edge::net::pending_conns::{LARGEST_HEAD, MOST_HEADERS};
use wshubd::protocol::origin::{Host, Origin};

const CONFIGURATION: &str = r#"
[listen]
allowed_hosts = ["hub.example"]
allowed_origins = ["https://app.example", "http://other.example:8080"]
trusted_proxies = ["192.0.2.8/29"]
forwarded = "forwarded"
"#;

/// The names in the configuration, and those of the machine in [`gate`].
const HOSTS: [&str; 5] = ["hub.example", "localhost", "box.lan", "box", "box.local"];

thread_local! {
    static SITE: HttpConfig = site();
}

fn site() -> HttpConfig {
    let directory = std::env::temp_dir().join(format!("wshubd-fuzz-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("the directory for temporary files takes one");
    let file = directory.join("wshubd.toml");
    fs::write(&file, CONFIGURATION).expect("a file in it");
    let environment = Environment::new(1000, [("STATE_DIRECTORY", &directory)]);
    let mut loaded = Config::load(Some(&file), &environment).expect("the configuration is valid");
    loaded.config.auth.query_token = true;
    let mut site = EdgeConfig::open(&loaded).expect("no file but those of the directory is wanted").http;
    site.gate = OriginPolicy::new(&loaded.config.listen, "box.lan");
    fs::remove_dir_all(&directory).expect("nobody else uses it");
    site
}

/// A peer that has sent all that it wants to, and waits.
struct Peer<'a>(&'a [u8]);

impl AsyncRead for Peer<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(io::Read::read(&mut self.0, into))
    }
}

impl AsyncWrite for Peer<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The HTTP library's reading of the bytes of one peer.
#[derive(PartialEq, Debug)]
enum Read {
    Request,
    Refused,
    Waits,
}

fn read(head: &[u8], site: &HttpConfig) -> Read {
    let has_asked = RefCell::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        *has_asked.borrow_mut() = true;
        check(site, &request);
        async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD)
        .half_close(true)
        .serve_connection(FuturesIo::new(Peer(head)), service);
    let ended = pin!(connection).poll(&mut Context::from_waker(Waker::noop()));
    match (*has_asked.borrow(), ended) {
        (true, _) => Read::Request,
        (false, Poll::Ready(_)) => Read::Refused,
        (false, Poll::Pending) => Read::Waits,
    }
}

fn check(site: &HttpConfig, request: &Request<Incoming>) {
    let headers = request.headers();
    if site.gate.admit(request.uri().path(), headers).is_ok() {
        check_admitted(request.uri().path(), headers);
    }
    check_source(site, headers);
    let token = upgrade::token(site, request);
    let Some(token) = token.as_ref().map(|(token, _)| token.reveal()) else { return };
    let query = request.uri().query().unwrap_or_default();
    let is_somewhere = headers.contains_key(AUTHORIZATION)
        || headers.contains_key(SEC_WEBSOCKET_PROTOCOL)
        || query.contains("token=");
    assert!(is_somewhere, "a token that nobody sent: {token:?}");
    match http::bearer(request) {
        Some(first) => assert_eq!(token, first, "the header is looked at first"),
        None => {
            let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().map(|list| list.as_bytes());
            let offered = format!("wshub.bearer.{token}").into_bytes();
            let is_offered = lists.into_iter().any(|list| contains(list, &offered));
            assert!(is_offered || query.contains("token="), "{token:?}");
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What the headers of an admitted request must have, read without the code that admits.
fn check_admitted(path: &str, headers: &HeaderMap) {
    let text = |name| {
        let mut all = headers.get_all(name).iter();
        let first = all.next().map(|value| value.to_str().expect("a header is text").to_lowercase());
        assert!(all.next().is_none(), "a header stands once");
        first
    };
    let Some(host) = text(HOST) else {
        return assert_eq!(path, "/healthz", "a request without a host is admitted");
    };
    let host = without_port(&host);
    // Names below `localhost` are this machine's own (RFC 6761, section 6.3).
    let is_known = HOSTS.contains(&host) || host.ends_with(".localhost");
    assert!(is_known || address(host).is_some(), "{host:?} is admitted");
    let Some(origin) = text(ORIGIN) else { return };
    if ["https://app.example", "https://app.example:443", "http://other.example:8080"].contains(&&*origin) {
        return;
    }
    let (scheme, authority) = origin.split_once("://").expect("an origin has a scheme");
    assert!(["http", "https", "ws", "wss"].contains(&scheme), "{origin:?} is admitted");
    let of_page = without_port(authority);
    let is_same_address = address(host).is_some() && address(of_page) == address(host);
    assert!(of_page == host || is_same_address, "{origin:?} is admitted at {host:?}");
}

/// The origin of requests: the header of an untrusted peer is ignored, and a trusted one can
/// name no address that does not stand in its header.
fn check_source(site: &HttpConfig, headers: &HeaderMap) {
    let [own, stranger, trusted] =
        ["127.0.0.1", "192.0.2.1", "192.0.2.9"].map(|text| text.parse().expect("an address"));
    let source = site.proxies.source(stranger, own, headers);
    assert!(source.address == stranger && !source.is_named && !source.is_local, "{source:?}");
    let source = site.proxies.source(trusted, own, headers);
    assert!(!source.is_local, "{source:?}");
    if !source.is_named {
        return assert_eq!(source.address, trusted);
    }
    let mut lines = headers.get_all("forwarded").iter().map(|line| line.to_str().unwrap_or_default());
    let is_there = lines.any(|line| {
        let words = line.split([',', ';', '=', '"', ' ', '\t']);
        words
            .filter_map(|word| address(without_port(word)).or_else(|| word.parse().ok()))
            .any(|found| found.to_canonical() == source.address)
    });
    assert!(is_there, "{source:?} of {headers:?}");
}

fn without_port(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    };
    host.strip_suffix('.').unwrap_or(host)
}

fn address(host: &str) -> Option<IpAddr> {
    let address = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse().ok().filter(IpAddr::is_ipv6),
        None => host.parse().ok().filter(IpAddr::is_ipv4),
    };
    address.map(|address: IpAddr| address.to_canonical())
}

fuzz_target!(|head: &[u8]| {
    let text = String::from_utf8_lossy(head);
    let _ = (Host::parse(&text), Origin::parse(&text));
    // A whole buffer is not looked at any further by those who wait for a head.
    let head = head.get(..LARGEST_HEAD - 1).unwrap_or(head);
    let read = SITE.with(|site| read(head, site));
    let waits = pending_conns::is_part(head);
    assert_eq!(read == Read::Waits, waits, "the library: {read:?}; {text:?}");
});
