//! A TCP connection that speaks HTTP, for as long as it does.
//!
//! Knows how long that may be, and how it ends: as a WebSocket, or with the last
//! answer read. Does not know what is asked.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use smol::future::FutureExt;
use smol::io::AsyncReadExt;
use smol::{Async, Timer};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::access;
use super::clock;
use super::denial::{Denial, Reply, quoted};
use super::driver::Shared;
use super::forwarded::Source;
use super::guests::{self, Stay};
use super::http::{answer, too_slow};
use super::http_io::HttpIo;
use super::meter::Load;
use super::site::Site;
use super::upgrade::Admission;
use super::wire::Wire;
use crate::hub::{Claim, Peer, TurnedAway};
use crate::protocol::{Reason, UserId};

/// A request line and headers with a token in them, and room to spare.
pub const LARGEST_HEAD: usize = 16 << 10;

/// More headers than any browser sends.
pub const MOST_HEADERS: usize = 64;

/// What a conversation takes in memory: hyper's buffers and state, and the task. 20.3 KiB
/// measured between two requests, 28.2 KiB in the middle of a second head.
pub const CONVERSATION: usize = 24 << 10;

/// Who asks over HTTP.
pub(super) struct Caller {
    /// Where the request under way comes from: over one connection a proxy brings those of
    /// many, one after the other.
    source: Cell<Source>,
    pub(super) stay: Stay,
    /// Its next answer is the last one, and says so.
    is_ending: Cell<bool>,
    /// Whose token has let the request under way in.
    pub(super) user: RefCell<Option<UserId>>,
}

impl Caller {
    /// Where the request under way comes from.
    pub(super) fn source(&self) -> Source {
        self.source.get()
    }

    /// The address of that.
    pub(super) fn address(&self) -> IpAddr {
        self.source().address
    }
}

/// How a connection has come to its end as far as hyper goes.
enum Served {
    /// All was answered, or it becomes a WebSocket.
    Whole,
    /// It has had its time, or is gone.
    Cut,
    /// What came is no request, or is none in time.
    Failed(hyper::Error),
}

/// Serves a TCP connection that has begun to speak: any number of requests, or
/// one upgrade. A head that comes in one piece is read, answered and forgotten at
/// once, so that a thousand newcomers take the memory of one.
pub async fn serve(driver: Shared, stream: Async<TcpStream>, stay: Stay) {
    // A peer that is gone already has no address.
    let (Ok(peer), Ok(own)) = (stream.get_ref().peer_addr(), stream.get_ref().local_addr()) else { return };
    let (peer, own) = (peer.ip(), own.ip());
    let (is_ending, user) = (Cell::new(false), RefCell::default());
    // Until something is asked it is the peer that does whatever is done.
    let source = Cell::new(Source::of_peer(peer));
    let caller = Rc::new(Caller { source, stay, is_ending, user });
    let _load = Load::of(CONVERSATION);
    let patience = driver.borrow().site.patience;
    let admission = Rc::new(RefCell::new(None));
    let service = service_fn(|request| {
        let (driver, admission, caller) = (driver.clone(), admission.clone(), caller.clone());
        Box::pin(async move {
            // Each request finds the keys and secrets that hold when it is made.
            let site = driver.borrow().site.clone();
            caller.source.set(source_of(&site, peer, own, &request));
            Ok::<_, std::convert::Infallible>(attend(&driver, &site, &caller, request, &admission).await)
        })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(SmolTimer::new())
        .header_read_timeout(patience)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD)
        // Who has sent all and shut that direction still reads its answer.
        .half_close(true)
        .serve_connection(FuturesIo::new(HttpIo::new(stream)), service);
    let mut life = Life::new(patience);
    let mut last = pin!(caller.stay.is_over());
    let mut is_finishing = false;
    let served = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Served::Failed(error)),
        Poll::Ready(Ok(())) => Poll::Ready(Served::Whole),
        Poll::Pending => {
            if !is_finishing && last.as_mut().poll(cx).is_ready() {
                // Nobody waits for one more request of it.
                is_finishing = true;
                Pin::new(&mut connection).graceful_shutdown();
                life.end(&caller.is_ending);
                cx.waker().wake_by_ref();
            }
            life.poll(cx, &caller.is_ending).map(|()| Served::Cut)
        }
    });
    let served = served.await;
    if let Served::Cut = served {
        return;
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner().into_inner();
    if let Served::Failed(error) = served {
        let why = failed(&driver, &error, &parts.read_buf);
        if !tell_failure(&driver, why, stream.get_ref(), peer) {
            return;
        }
        return hang_up(&stream, &caller.stay).await;
    }
    let Some(Admission { peer, named }) = admission.borrow_mut().take() else {
        return hang_up(&stream, &caller.stay).await;
    };
    if let Ok(stream) = stream.into_inner() {
        driver.borrow_mut().open(Wire::client(stream, named), peer, &parts.read_buf);
    }
}

/// Where a request comes from. A proxy of this machine that nobody has named is told of:
/// all who come through it are taken for one.
fn source_of<B>(site: &Site, peer: IpAddr, own: IpAddr, request: &Request<B>) -> Source {
    if site.proxies.is_to_be_told(peer, request.headers()) {
        let peer = peer.to_canonical();
        log::warn!(
            "a proxy on {peer} passes requests on, and all who come through it count as one address: \
             [listen] trusted_proxies = [\"{peer}\"] tells them apart"
        );
    }
    site.proxies.source(peer, own, request.headers())
}

/// Answers one request, and writes it down where that is wanted.
async fn attend(
    driver: &Shared,
    site: &Site,
    caller: &Caller,
    request: Request<Incoming>,
    admission: &RefCell<Option<Admission>>,
) -> Reply {
    let asked = site.logs_access.then(|| (clock::now(), request.method().clone(), request.uri().clone()));
    let mut reply = answer(driver, site, caller, request, admission).await;
    if caller.is_ending.get() && reply.status() != StatusCode::SWITCHING_PROTOCOLS {
        reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Some((since, method, uri)) = asked {
        let admitted = admission.borrow();
        let by_upgrade = admitted.as_ref().and_then(|admitted| match &admitted.peer {
            Peer::Client { claim: Claim::Proven(identity), .. } => Some(&identity.user_id),
            _ => None,
        });
        let by_token = caller.user.take();
        access::request(&access::Request {
            from: caller.address(),
            user: by_upgrade.or(by_token.as_ref()),
            method: method.as_str(),
            path: uri.path(),
            status: reply.status().as_u16(),
            bytes: reply.body().size_hint().lower(),
            took: clock::now().moment.since(since.moment),
        });
    }
    reply
}

/// What follows where hyper gives a connection up.
enum Failed {
    /// The peer is gone.
    Silently,
    /// It has asked nothing for a while, which is no fault.
    Idle,
    For(Box<Denial>),
}

/// Tells a peer why it was given up, where there is something to tell. False if it is gone.
fn tell_failure(driver: &Shared, why: Failed, stream: &TcpStream, peer: IpAddr) -> bool {
    if let Failed::For(denial) = &why {
        driver.borrow_mut().deny(denial, peer.to_canonical());
        guests::tell(stream, &denial.last_words());
    }
    !matches!(why, Failed::Silently)
}

fn failed(driver: &Shared, error: &hyper::Error, read: &[u8]) -> Failed {
    let site = driver.borrow().site.clone();
    if error.is_timeout() {
        return match read {
            [] => Failed::Idle,
            _ => Failed::For(half_a_head(&site)),
        };
    }
    if !error.is_parse() {
        return Failed::Silently;
    }
    Failed::For(if error.is_parse_too_large() { too_long(read) } else { no_request(error, read) })
}

/// Refuses whoever has said a part of a head and took too long with the rest.
pub(super) fn half_a_head(site: &Site) -> Box<Denial> {
    too_slow("the rest of the head", site).counted(TurnedAway::Newcomer)
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

/// Refuses what is no request of HTTP/1.1, and says what it is where that is plain.
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
    // What has not the shape of a request may be the body of one: it is nobody's business.
    if is_like_request(read) {
        denial.line(format!("{message}; it begins with {}", first_line(read)))
    } else {
        denial
    }
}

/// Whether the head as such was read, and the headers about its body are wrong: what is left
/// is the body then.
fn is_about_length(error: &hyper::Error) -> bool {
    let told = error.to_string();
    ["content-length", "transfer-encoding"].iter().any(|header| told.contains(header))
}

/// Whether it begins with a method and a space.
fn is_like_request(read: &[u8]) -> bool {
    let method = read.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    (3..=16).contains(&method) && read.get(method) == Some(&b' ')
}

/// Whether the first line does not end as those of HTTP do.
fn is_without_version(read: &[u8]) -> bool {
    let line = read.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let last = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    !last.starts_with(b"HTTP/1.")
}

/// The beginning of what was sent, as far as it holds neither a query nor a header.
fn first_line(read: &[u8]) -> String {
    let end = read.iter().position(|byte| b"?\r\n".contains(byte)).unwrap_or(read.len());
    let line = read.get(..end).unwrap_or_default();
    match std::str::from_utf8(line) {
        Ok(line) => quoted(line.as_bytes()),
        Err(_) => quoted(line.get(..16).unwrap_or(line)),
    }
}

/// How long one connection may go on with requests: long enough to be worth
/// keeping, and the end of those who ask and never read.
const LIFETIME: Duration = Duration::from_secs(60);

/// What a request may take that came in time: an interrupt waits for its operation
/// for ten seconds.
const LONGEST_ANSWER: Duration = Duration::from_secs(15);

/// The time that an HTTP connection has. Whoever becomes a WebSocket at once never
/// starts it.
struct Life {
    timer: Timer,
    /// Its next answer is the last; some time later it is cut off.
    is_over: bool,
    patience: Duration,
}

impl Life {
    fn new(patience: Duration) -> Self {
        Self { timer: Timer::after(LIFETIME), is_over: false, patience }
    }

    /// Ready once the connection is to be dropped. Before, it is only marked: one that is
    /// closed between two requests would lose the one that is on its way, and one that asks
    /// no more is given up for that.
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

    /// One more answer, and then it is over.
    fn end(&mut self, is_ending: &Cell<bool>) {
        self.is_over = true;
        is_ending.set(true);
        self.timer.set_after(self.patience + LONGEST_ANSWER);
    }
}

/// Lets the peer read its answer although it is still sending: a socket closed
/// with input unread would take the answer back.
async fn hang_up(mut stream: &Async<TcpStream>, stay: &Stay) {
    stay.linger();
    /// For a body that is on its way; nobody waits for one that is not.
    const LONGEST: Duration = Duration::from_secs(2);
    let _ = stream.get_ref().shutdown(Shutdown::Write);
    let rest = async {
        let mut ignored = [0; 4096];
        while matches!(stream.read(&mut ignored).await, Ok(1..)) {}
    };
    let long = async {
        Timer::after(LONGEST).await;
    };
    rest.or(long).await;
}
