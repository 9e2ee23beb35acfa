//! HTTP connection: its lifetime, and its end as a WebSocket or with the last answer read.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use smol::future::FutureExt;
use smol::io::AsyncReadExt;
use smol::{Async, Timer};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::access_log;
use super::access_log::{RequestHead, RequestLine};
use super::config::HttpConfig;
use super::denial::{Denial, Reply, dismiss, quoted};
use super::forwarded::RequestSource;
use super::io::HttpIo;
use super::upgrade::AdmittedUpgrade;
use super::{answer, too_slow};
use crate::edge::clock;
use crate::edge::driver::Shared;
use crate::edge::net::mem_accounting::MemCharge;
use crate::edge::net::pending_conns::{ConnGuard, LARGEST_HEAD, MOST_HEADERS};
use crate::edge::net::socket::PeerSocket;
use crate::hub::{Credentials, Peer, Rejection};
use crate::protocol::{Reason, UserId};

/// What a connection that is served takes in memory: hyper's buffers and state, and the task.
/// 20.3 KiB measured between two requests, 28.2 KiB in the middle of a second head.
pub const CONNECTION_MEMORY: usize = 24 << 10;

/// What all HTTP connections share.
pub struct HttpContext {
    driver: Shared,
    config: RefCell<Rc<HttpConfig>>,
}

impl HttpContext {
    /// Passes requests to this driver.
    pub fn new(driver: Shared, config: HttpConfig) -> Self {
        Self { driver, config: RefCell::new(Rc::new(config)) }
    }

    /// The configuration that holds for a request that comes now.
    pub fn config(&self) -> Rc<HttpConfig> {
        self.config.borrow().clone()
    }

    /// Goes on with another configuration.
    pub fn configure(&self, config: HttpConfig) {
        *self.config.borrow_mut() = Rc::new(config);
    }
}

/// The state of a connection that its requests share.
pub(in crate::edge) struct HttpConn {
    /// Of the current request: a proxy sends those of many clients over one connection, one
    /// after the other.
    source: Cell<RequestSource>,
    guard: ConnGuard,
    /// The next answer is the last one, and has `Connection: close`.
    is_ending: Cell<bool>,
    /// The user of the token that authorized the current request.
    user: RefCell<Option<UserId>>,
}

impl HttpConn {
    /// The source of the current request.
    pub(in crate::edge) fn source(&self) -> RequestSource {
        self.source.get()
    }

    /// The address of the current request.
    pub(in crate::edge) fn address(&self) -> IpAddr {
        self.source().address
    }

    /// The place of the connection among those that are pending.
    pub(in crate::edge) fn guard(&self) -> &ConnGuard {
        &self.guard
    }

    /// Notes the user of the token that authorizes the current request, for the access log.
    pub(in crate::edge) fn authorized_by(&self, user: UserId) {
        self.user.replace(Some(user));
    }
}

/// The end of a connection, as hyper reports it.
enum ServeEnd {
    /// All was answered, or it becomes a WebSocket.
    Complete,
    /// Its time is over, or the peer is gone.
    CutOff,
    /// The input is no request, or came too late.
    Failed(hyper::Error),
}

/// Serves a TCP connection that has sent its first bytes: any number of requests, or one
/// upgrade. A head that comes in one piece is read, answered and dropped at once, so that a
/// thousand new connections take the memory of one.
pub async fn serve(context: Rc<HttpContext>, stream: Async<TcpStream>, guard: ConnGuard) {
    // A peer that is gone already has no address.
    let (Ok(peer), Ok(own)) = (stream.get_ref().peer_addr(), stream.get_ref().local_addr()) else { return };
    let (peer, own) = (peer.ip(), own.ip());
    let (is_ending, user) = (Cell::new(false), RefCell::default());
    // Before the first request, only the peer is known.
    let source = Cell::new(RequestSource::of_peer(peer));
    let caller = Rc::new(HttpConn { source, guard, is_ending, user });
    let _load = MemCharge::of(CONNECTION_MEMORY);
    let site = context.config();
    let admission = Rc::new(RefCell::new(None));
    let service = service_fn(|request| {
        let (context, admission, caller) = (context.clone(), admission.clone(), caller.clone());
        Box::pin(async move {
            // Each request is checked against the configuration of its own time.
            let site = context.config();
            caller.source.set(source_of(&site, peer, own, &request));
            attend(&context.driver, &site, &caller, request, &admission).await
        })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(SmolTimer::new())
        .header_read_timeout(site.patience)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD)
        // A peer that has shut down its sending direction still reads its answer.
        .half_close(true)
        .serve_connection(FuturesIo::new(HttpIo::new(stream)), service);
    let mut life = ConnDeadline::new(&site);
    let mut last = pin!(caller.guard.until_finish());
    let mut is_finishing = false;
    let served = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(ServeEnd::Failed(error)),
        Poll::Ready(Ok(())) => Poll::Ready(ServeEnd::Complete),
        Poll::Pending => {
            if !is_finishing && last.as_mut().poll(cx).is_ready() {
                // No further request is waited for.
                is_finishing = true;
                Pin::new(&mut connection).graceful_shutdown();
                life.end(&caller.is_ending);
                cx.waker().wake_by_ref();
            }
            life.poll(cx, &caller.is_ending).map(|()| ServeEnd::CutOff)
        }
    });
    let served = served.await;
    if let ServeEnd::CutOff = served {
        return;
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().into_inner();
    if let ServeEnd::Failed(error) = served {
        if !answer_failure(&context, &error, &parts.read_buf, stream.get_ref(), peer) {
            return;
        }
        return linger(&stream, &caller.guard).await;
    }
    let Some(AdmittedUpgrade { peer, named }) = admission.borrow_mut().take() else {
        return linger(&stream, &caller.guard).await;
    };
    if let Ok(stream) = stream.into_inner() {
        let mut driver = context.driver.borrow_mut();
        driver.open(PeerSocket::client(stream, named), peer, &parts.read_buf);
    }
}

/// The source of a request. Warns of a proxy on this machine that is not configured: all
/// clients behind it count as one address.
fn source_of<B>(site: &HttpConfig, peer: IpAddr, own: IpAddr, request: &Request<B>) -> RequestSource {
    if site.proxies.take_warning(peer, request.headers()) {
        let peer = peer.to_canonical();
        log::warn!(
            "a proxy on {peer} passes requests on, and all who come through it count as one address: \
             [listen] trusted_proxies = [\"{peer}\"] tells them apart"
        );
    }
    site.proxies.source(peer, own, request.headers())
}

/// Answers one request, and logs it if the access log is enabled.
async fn attend(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: Request<Incoming>,
    admission: &RefCell<Option<AdmittedUpgrade>>,
) -> Result<Reply, Infallible> {
    let logged = site.logs_access.then(|| (clock::now(), request.method().clone(), request.uri().clone()));
    let mut reply = answer(driver, site, caller, request, admission).await;
    if caller.is_ending.get() && reply.status() != StatusCode::SWITCHING_PROTOCOLS {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some((since, method, uri)) = logged {
        let admitted = admission.borrow();
        let by_upgrade = admitted.as_ref().and_then(|admitted| match &admitted.peer {
            Peer::Client { credentials: Credentials::Verified(identity), .. } => Some(&identity.user_id),
            _ => None,
        });
        let by_token = caller.user.take();
        let head = RequestHead::new(method.as_str(), uri.path());
        let (status, bytes) = (reply.status().as_u16(), reply.body().size_hint().lower());
        RequestLine::new(caller.address(), head, status, bytes)
            .of_user(by_upgrade.or(by_token.as_ref()))
            .took(clock::now().moment.since(since.moment))
            .write();
    }
    Ok(reply)
}

/// The answer to a failed connection.
enum FailureAnswer {
    /// None: the peer is gone.
    Gone,
    /// None: it has sent no request for a while, which is no fault.
    Idle,
    Denial(Box<Denial>),
}

/// Sends the peer the reason of a failure, if there is one. False if the peer is gone.
fn answer_failure(
    context: &HttpContext,
    error: &hyper::Error,
    read: &[u8],
    stream: &TcpStream,
    peer: IpAddr,
) -> bool {
    let config = context.config();
    match failure_answer(&config, error, read) {
        FailureAnswer::Gone => return false,
        FailureAnswer::Idle => {}
        FailureAnswer::Denial(denial) => {
            let head = (!is_about_length(error)).then_some(read);
            let mut driver = context.driver.borrow_mut();
            dismiss(&mut driver, &config, &denial, stream, peer.to_canonical(), head);
        }
    }
    true
}

fn failure_answer(site: &HttpConfig, error: &hyper::Error, read: &[u8]) -> FailureAnswer {
    if error.is_timeout() {
        return match read {
            [] => FailureAnswer::Idle,
            _ => FailureAnswer::Denial(half_a_head(site)),
        };
    }
    if !error.is_parse() {
        return FailureAnswer::Gone;
    }
    let is_too_large = error.is_parse_too_large();
    FailureAnswer::Denial(if is_too_large { too_long(read) } else { no_request(error, read) })
}

/// Refuses a connection for which there is no room.
pub(in crate::edge) fn crowded(why: &str) -> Box<Denial> {
    let denial = Denial::new(Reason::Overloaded, "too many HTTP connections are open");
    denial.line(why.to_owned()).counted(Rejection::HandshakeTimeout)
}

/// Refuses a head whose rest did not come in time.
pub(in crate::edge) fn half_a_head(site: &HttpConfig) -> Box<Denial> {
    too_slow("the rest of the head", site).counted(Rejection::HandshakeTimeout)
}

/// Refuses a head that is too large.
fn too_long(read: &[u8]) -> Box<Denial> {
    let message = match read.len() < LARGEST_HEAD {
        true => format!("a request may have {MOST_HEADERS} headers"),
        false => format!("the head of a request may have {} KiB", LARGEST_HEAD >> 10),
    };
    let line = format!(
        "{message}; this one begins with {} (cookies of other programs on this host?)",
        first_line(read)
    );
    Denial::new(Reason::HeadTooLarge, message).line(line)
}

/// Refuses input that is no request of HTTP/1.1, and names another protocol where it is known.
fn no_request(error: &hyper::Error, read: &[u8]) -> Box<Denial> {
    let message = if read.starts_with(&[0x16, 0x03]) {
        "this is TLS, and the port speaks plain HTTP: use http:// or ws://, or put a proxy for TLS before it"
            .into()
    } else if read.starts_with(b"PRI * HTTP/2") {
        "this is HTTP/2, and the port speaks HTTP/1.1".into()
    } else if is_about_length(error) {
        "`Content-Length` or `Transfer-Encoding` cannot be read, or they contradict each other".into()
    } else if is_without_version(read) {
        "the first line is no request of HTTP/1.1: METHOD PATH HTTP/1.1".into()
    } else {
        format!("the head of the request cannot be read: {error}")
    };
    let denial = Denial::new(Reason::BadRequest, message.clone());
    if !is_about_length(error) && access_log::method(read).is_some() {
        denial.line(format!("{message}; it begins with {}", first_line(read)))
    } else {
        denial
    }
}

/// Whether the head was read, and its headers about the body are wrong: the unread rest is the
/// body then.
fn is_about_length(error: &hyper::Error) -> bool {
    let text = error.to_string();
    ["content-length", "transfer-encoding"].iter().any(|header| text.contains(header))
}

/// Whether the first line does not end as those of HTTP do.
fn is_without_version(read: &[u8]) -> bool {
    let line = read.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let last = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    !last.starts_with(b"HTTP/1.")
}

/// The first line of the input, up to a query.
fn first_line(read: &[u8]) -> String {
    let end = read.iter().position(|byte| b"?\r\n".contains(byte)).unwrap_or(read.len());
    let line = read.get(..end).unwrap_or_default();
    match std::str::from_utf8(line) {
        Ok(line) => quoted(line.as_bytes()),
        Err(_) => quoted(line.get(..16).unwrap_or(line)),
    }
}

/// How long one connection may send requests: long enough to be worth keeping, and an end for
/// peers that send and never read.
pub(in crate::edge) const LIFETIME: Duration = Duration::from_secs(60);

/// Longest time for an answer: an interrupt waits for its operation for ten seconds.
const LONGEST_ANSWER: Duration = Duration::from_secs(15);

/// The deadline of an HTTP connection. One that becomes a WebSocket at once never arms it.
struct ConnDeadline {
    timer: Timer,
    /// The next answer is the last; some time later the connection is cut off.
    is_over: bool,
    patience: Duration,
}

impl ConnDeadline {
    fn new(site: &HttpConfig) -> Self {
        Self { timer: Timer::after(site.lifetime), is_over: false, patience: site.patience }
    }

    /// Ready once the connection is to be dropped. Before that it is only marked: closed
    /// between two requests, it would lose one that is on its way; an idle one ends by its own
    /// timeout.
    fn poll(&mut self, cx: &mut Context<'_>, is_ending: &Cell<bool>) -> Poll<()> {
        if Pin::new(&mut self.timer).poll(cx).is_pending() {
            return Poll::Pending;
        }
        if self.is_over {
            return Poll::Ready(());
        }
        self.end(is_ending);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Allows one more answer.
    fn end(&mut self, is_ending: &Cell<bool>) {
        self.is_over = true;
        is_ending.set(true);
        self.timer.set_after(self.patience + LONGEST_ANSWER);
    }
}

/// Lets the peer read its answer although it is still sending: a socket closed with input
/// unread would take the answer back.
async fn linger(mut stream: &Async<TcpStream>, guard: &ConnGuard) {
    guard.linger();
    /// For a body that is on its way.
    const LONGEST: Duration = Duration::from_secs(2);
    let _ = stream.get_ref().shutdown(Shutdown::Write);
    let rest = async {
        let mut ignored = [0; 4096];
        while matches!(stream.read(&mut ignored).await, Ok(1..)) {}
    };
    let timeout = async {
        Timer::after(LONGEST).await;
    };
    rest.or(timeout).await;
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use smol::io::AsyncWriteExt;

    use super::*;
    use crate::config::{Config, Environment};
    use crate::edge::driver::Driver;
    use crate::edge::driver::config::DriverConfig;
    use crate::edge::net::epoll::Epoll;
    use crate::edge::net::pending_conns::PendingConns;
    use crate::edge::store::Store;
    use crate::hub::{Hub, Input};
    use crate::protocol::Close;

    const ASKED: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const OK: &str = "{\"status\":\"ok\"}";

    /// The defaults, without any file.
    fn defaults() -> (DriverConfig, HttpConfig) {
        let nowhere = Environment::new(1, [("CONFIGURATION_DIRECTORY", "/nonexistent")]);
        let loaded = Config::load(None, &nowhere).unwrap_or_else(|error| panic!("{error}"));
        let driver = DriverConfig::open(&loaded.config).unwrap_or_else(|error| panic!("{error}"));
        (driver, HttpConfig::open(&loaded.config).unwrap_or_else(|error| panic!("{error}")))
    }

    fn driver() -> std::io::Result<Driver> {
        let hub = Hub::new(crate::hub::Settings::default(), 1);
        Ok(Driver::new(hub, Store::in_memory(), Rc::new(defaults().0), Epoll::new()?))
    }

    /// Serves a peer that has sent one request, to its end.
    fn serve_to<T>(
        driver: Driver,
        http: HttpConfig,
        request: &[u8],
        peer: impl AsyncFnOnce(Async<TcpStream>) -> T,
    ) -> std::io::Result<T> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let mut stream = TcpStream::connect(listener.local_addr()?)?;
        stream.write_all(request)?;
        let stream = Async::new(stream)?;
        let ours = Async::new(listener.accept()?.0)?;
        let context = HttpContext::new(Rc::new(RefCell::new(driver)), http);
        let pending = Rc::new(RefCell::new(PendingConns::default()));
        let served = serve(Rc::new(context), ours, ConnGuard::new(&pending, 1));
        Ok(smol::block_on(smol::future::zip(served, peer(stream))).1)
    }

    #[test]
    fn a_kept_connection_lasts_for_a_minute() {
        assert_eq!(defaults().1.lifetime, Duration::from_secs(60), "as PROTOCOL.md has it");
    }

    #[test]
    fn a_connection_past_its_time_answers_once_more_and_says_close() -> std::io::Result<()> {
        let http = HttpConfig { lifetime: Duration::ZERO, ..defaults().1 };
        let answers = serve_to(driver()?, http, ASKED, async |mut peer| {
            let mut first = [0; 1024];
            let length = peer.read(&mut first).await?;
            // Its time is over now, and this request was on its way.
            AsyncWriteExt::write_all(&mut peer, ASKED).await?;
            let mut last = String::new();
            peer.read_to_string(&mut last).await?;
            Ok::<_, std::io::Error>([String::from_utf8_lossy(&first[..length]).into_owned(), last])
        })??;
        let says_close = |answer: &String| {
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(OK), "{answer:?}");
            answer.contains("\r\nconnection: close\r\n")
        };
        assert_eq!(answers.each_ref().map(says_close), [false, true]);
        Ok(())
    }

    #[test]
    fn statistics_are_refused_with_503_while_the_daemon_stops() -> std::io::Result<()> {
        for path in ["/api/v1/ws/stats", "/metrics"] {
            let mut driver = driver()?;
            driver.handle(Input::Stopping { close: Close::ShuttingDown });
            let http = HttpConfig { metrics_open: true, ..defaults().1 };
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let answer = serve_to(driver, http, request.as_bytes(), async |mut peer| {
                let mut answer = String::new();
                peer.read_to_string(&mut answer).await?;
                Ok::<_, std::io::Error>(answer)
            })??;
            assert!(answer.starts_with("HTTP/1.1 503 "), "{path}: {answer}");
            assert!(answer.contains("\r\nretry-after: 5\r\n"), "{path}: {answer}");
            assert!(answer.contains("\"code\":\"shutting_down\""), "{path}: {answer}");
        }
        Ok(())
    }
}
