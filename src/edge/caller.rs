//! A TCP connection that speaks HTTP, for as long as it does.
//!
//! Knows how long that may be, and how it ends: as a WebSocket, or with the last
//! answer read. Does not know what is asked.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Request;
use hyper::service::service_fn;
use smol::future::FutureExt;
use smol::io::AsyncReadExt;
use smol::{Async, Timer};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::driver::Shared;
use super::forwarded::Source;
use super::guests::Stay;
use super::http::answer;
use super::meter::Load;
use super::site::Site;
use super::upgrade::Admission;
use super::wire::Wire;
use crate::hub::TurnedAway;

/// A request line and headers with a token in them, and room to spare.
pub const LARGEST_HEAD: usize = 16 << 10;

/// More headers than any browser sends.
pub const MOST_HEADERS: usize = 64;

/// What a conversation takes in memory: hyper's buffers and state, and the task. 20.3 KiB
/// measured between two requests, 28.2 KiB in the middle of a second head.
pub const CONVERSATION: usize = 24 << 10;

/// Who makes one request over HTTP: over one connection a proxy brings those of many.
pub(super) struct Caller {
    pub(super) source: Source,
    pub(super) stay: Rc<Stay>,
}

/// Serves a TCP connection that has begun to speak: any number of requests, or
/// one upgrade. A head that comes in one piece is read, answered and forgotten at
/// once, so that a thousand newcomers take the memory of one.
pub async fn serve(driver: Shared, stream: Async<TcpStream>, stay: Stay) {
    // A peer that is gone already has no address.
    let (Ok(peer), Ok(own)) = (stream.get_ref().peer_addr(), stream.get_ref().local_addr()) else { return };
    let (peer, own, stay) = (peer.ip(), own.ip(), Rc::new(stay));
    let _load = Load::of(CONVERSATION);
    let patience = driver.borrow().site.patience;
    let admission = Rc::new(RefCell::new(None));
    let service = service_fn(|request| {
        let (driver, admission) = (driver.clone(), admission.clone());
        // Each request finds the keys and secrets that hold when it is made.
        let site = driver.borrow().site.clone();
        let caller = Caller { source: source(&site, peer, own, &request), stay: stay.clone() };
        Box::pin(async move {
            Ok::<_, std::convert::Infallible>(answer(&driver, &site, &caller, request, &admission).await)
        })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(SmolTimer::new())
        .header_read_timeout(patience)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD)
        // Who has sent all and shut that direction still reads its answer.
        .half_close(true)
        .serve_connection(FuturesIo::new(stream), service);
    let mut life = Life::new(patience);
    let mut last = pin!(stay.is_over());
    let served = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Ready(Err(error)) => {
            if error.is_timeout() {
                driver.borrow_mut().turned_away(TurnedAway::Newcomer, None);
            }
            // What is no head is answered, and more of it may be on its way.
            Poll::Ready(error.is_parse())
        }
        Poll::Ready(Ok(())) => Poll::Ready(true),
        Poll::Pending => {
            if !life.is_ending && last.as_mut().poll(cx).is_ready() {
                life.end();
            }
            life.poll(cx, || Pin::new(&mut connection).graceful_shutdown())
        }
    });
    // If not, the peer is gone, or has had its time.
    if !served.await {
        return;
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    let Some(Admission { peer, named }) = admission.borrow_mut().take() else {
        return hang_up(&stream).await;
    };
    if let Ok(stream) = stream.into_inner() {
        driver.borrow_mut().open(Wire::client(stream, named), peer, &parts.read_buf);
    }
}

/// Where a request comes from. A proxy of this machine that nobody has named is told of:
/// all who come through it are taken for one.
fn source<B>(site: &Site, peer: IpAddr, own: IpAddr, request: &Request<B>) -> Source {
    if site.proxies.is_to_be_told(peer, request.headers()) {
        let peer = peer.to_canonical();
        log::warn!(
            "a proxy on {peer} passes requests on, and all who come through it count as one address: \
             [listen] trusted_proxies = [\"{peer}\"] tells them apart"
        );
    }
    site.proxies.source(peer, own, request.headers())
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
    /// Told to finish what it is at; some time later it is cut off.
    is_over: bool,
    /// It was asked to come to an end before its time.
    is_ending: bool,
    patience: Duration,
}

impl Life {
    fn new(patience: Duration) -> Self {
        Self { timer: Timer::after(LIFETIME), is_over: false, is_ending: false, patience }
    }

    /// It has an answer to give, and no more.
    fn end(&mut self) {
        self.is_ending = true;
        if !self.is_over {
            self.timer.set_after(Duration::ZERO);
        }
    }

    /// False once the connection is to be dropped; `finish` is called before.
    fn poll(&mut self, cx: &mut Context<'_>, finish: impl FnOnce()) -> Poll<bool> {
        if Pin::new(&mut self.timer).poll(cx).is_pending() {
            return Poll::Pending;
        }
        if std::mem::replace(&mut self.is_over, true) {
            return Poll::Ready(false);
        }
        finish();
        self.timer.set_after(self.patience + LONGEST_ANSWER);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Lets the peer read its answer although it is still sending: a socket closed
/// with input unread would take the answer back.
async fn hang_up(mut stream: &Async<TcpStream>) {
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
