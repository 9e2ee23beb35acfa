//! HTTP/1.1 in front: requests of back ends, and the way to a WebSocket.
//!
//! Knows paths, methods, secrets and status codes. Does not know what a request
//! leads to: the hub answers it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::net::{Shutdown, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use smol::future::FutureExt;
use smol::io::AsyncReadExt;
use smol::{Async, Timer};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::clock;
use super::driver::Shared;
use super::origin::Gate;
use super::secret::Secrets;
use super::token::Verifier;
use super::upgrade::{self, Admission};
use super::wire::Wire;
use crate::protocol::{self, Code, Refusal, Say};

/// What the whole of HTTP needs to know of the configuration.
pub struct Site {
    pub gate: Gate,
    pub verifier: Rc<Verifier>,
    pub secrets: Secrets,
    /// Where a WebSocket can be had.
    pub paths: Vec<String>,
    pub query_token: bool,
    pub metrics_open: bool,
    /// Largest body.
    pub message_bytes: usize,
    /// Most WebSocket connections and workers together.
    pub connections: usize,
    /// A request head or body that takes longer is given up.
    pub patience: Duration,
}

/// A request line and headers with a token in them, and room to spare.
const LARGEST_HEAD: usize = 16 << 10;

/// More headers than any browser sends.
const MOST_HEADERS: usize = 64;

type Reply = Response<Full<Bytes>>;

/// Serves a TCP connection that has begun to speak: any number of requests, or
/// one upgrade. A head that comes in one piece is read, answered and forgotten at
/// once, so that a thousand newcomers take the memory of one.
pub async fn serve(driver: Shared, site: Rc<Site>, stream: Async<TcpStream>) {
    let is_local = stream.get_ref().local_addr().is_ok_and(|address| address.ip().is_loopback());
    let admission = Rc::new(RefCell::new(None));
    let service = service_fn(|request| {
        let (driver, site, admission) = (driver.clone(), site.clone(), admission.clone());
        Box::pin(async move {
            Ok::<_, std::convert::Infallible>(answer(&driver, &site, is_local, request, &admission).await)
        })
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(SmolTimer::new())
        .header_read_timeout(site.patience)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(FuturesIo::new(stream), service);
    // An error here is one peer's broken request; it has its answer, or is gone.
    let mut life = Life::new(site.patience);
    let served = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Ready(served) => Poll::Ready(served.is_ok()),
        Poll::Pending => life.poll(cx, || Pin::new(&mut connection).graceful_shutdown()),
    });
    if !served.await {
        return;
    }
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    let Some(Admission { peer }) = admission.borrow_mut().take() else { return hang_up(&stream).await };
    if let Ok(stream) = stream.into_inner() {
        driver.borrow_mut().open(Wire::client(stream), peer, &parts.read_buf);
    }
}

/// How long one connection may go on with requests: long enough to be worth
/// keeping, and the end of those who ask and never read.
const LIFETIME: Duration = Duration::from_secs(60);

/// The time that an HTTP connection has. Whoever becomes a WebSocket at once never
/// starts it.
struct Life {
    timer: Timer,
    /// Told to finish what it is at; after as much time again it is cut off.
    is_over: bool,
    patience: Duration,
}

impl Life {
    fn new(patience: Duration) -> Self {
        Self { timer: Timer::after(LIFETIME), is_over: false, patience }
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
        // An interrupt may be waited for as long as one waits for its operation.
        self.timer.set_after(2 * self.patience);
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

async fn answer(
    driver: &Shared,
    site: &Site,
    is_local: bool,
    request: Request<Incoming>,
    admission: &RefCell<Option<Admission>>,
) -> Reply {
    if let Err(why) = site.gate.admit(request.headers()) {
        return refuse(StatusCode::FORBIDDEN, "forbidden", why);
    }
    let path = request.uri().path();
    if site.paths.iter().any(|known| known == path) {
        return match upgrade::upgrade(driver, site, &request) {
            Ok((reply, admitted)) => {
                *admission.borrow_mut() = Some(admitted);
                reply
            }
            Err(reply) => *reply,
        };
    }
    let method = request.method().clone();
    match (path, method) {
        ("/broadcast" | "/api/v1/broadcast", Method::POST) => {
            publish(driver, site, request, |body| protocol::http::broadcast(body).map(Say::Publish)).await
        }
        ("/interrupt" | "/api/v1/interrupt", Method::POST) => {
            publish(driver, site, request, |body| protocol::http::interrupt(body).map(Say::Interrupt)).await
        }
        ("/api/v1/ws/stats", Method::GET | Method::HEAD) => stats(driver, site, is_local, &request).await,
        ("/metrics", Method::GET | Method::HEAD) => metrics(driver, site, &request).await,
        ("/healthz", Method::GET | Method::HEAD) => json(StatusCode::OK, r#"{"status":"ok"}"#.into()),
        ("/broadcast" | "/api/v1/broadcast" | "/interrupt" | "/api/v1/interrupt", _) => only("POST"),
        ("/api/v1/ws/stats" | "/metrics" | "/healthz", _) => only("GET, HEAD"),
        _ => refuse(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path"),
    }
}

/// A request with a body and the secret: read, asked, answered.
async fn publish(
    driver: &Shared,
    site: &Site,
    request: Request<Incoming>,
    read: impl FnOnce(&[u8]) -> Result<Say, Refusal>,
) -> Reply {
    if !has_secret(site, &request) {
        return unauthorized("this needs `Authorization: Bearer` with the broadcast secret");
    }
    if !is_json(&request) {
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "bad_request",
            "the body must be application/json",
        );
    }
    let limit = format!("the body may be {} bytes long", site.message_bytes);
    // What is announced to be too long is not waited for.
    if request.body().size_hint().lower() > site.message_bytes as u64 {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &limit);
    }
    let body = Limited::new(request.into_body(), site.message_bytes).collect();
    let in_time = async { Some(body.await) }.or(async {
        Timer::after(site.patience).await;
        None
    });
    let body = match in_time.await {
        Some(Ok(body)) => body.to_bytes(),
        Some(Err(error)) if error.is::<LengthLimitError>() => {
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &limit);
        }
        Some(Err(_)) => return refuse(StatusCode::BAD_REQUEST, "bad_request", "the body did not come whole"),
        None => return refuse(StatusCode::REQUEST_TIMEOUT, "bad_request", "the body took too long"),
    };
    match read(&body) {
        Ok(say) => ask(driver, say).await,
        Err(refusal) => refuse(status(refusal.code), refusal.code.word(), &refusal.message),
    }
}

/// Passes a request to the hub and waits for its word.
async fn ask(driver: &Shared, say: Say) -> Reply {
    let waiting = driver.borrow_mut().ask(say);
    let Ok(answer) = waiting.recv().await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the daemon ends");
    };
    let mut reply = json(answer.refused.map_or(StatusCode::OK, status), answer.body);
    if let Some(wait) = answer.retry_after {
        let seconds = wait.as_secs_f64().ceil() as u64;
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

async fn stats(driver: &Shared, site: &Site, is_local: bool, request: &Request<Incoming>) -> Reply {
    let knows_all = has_secret(site, request) || is_admin(site, request);
    if !knows_all && (request.headers().contains_key(header::AUTHORIZATION) || !is_local) {
        return unauthorized("this needs the broadcast secret or an administrator's token");
    }
    let reply = ask(driver, Say::Stats).await;
    if knows_all {
        return reply;
    }
    // Without a secret, the two numbers that a page of the machine may show.
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Public {
        connected_users: u64,
        total_connections: u64,
    }
    let (parts, body) = reply.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let public = serde_json::from_slice::<Public>(&body).and_then(|public| serde_json::to_vec(&public));
    json(parts.status, public.unwrap_or_default())
}

async fn metrics(driver: &Shared, site: &Site, request: &Request<Incoming>) -> Reply {
    if !(site.metrics_open || has_secret(site, request) || is_admin(site, request)) {
        return unauthorized("metrics need the broadcast secret, or `metrics_open = true`");
    }
    let waiting = driver.borrow_mut().ask(Say::Stats);
    let Ok(answer) = waiting.recv().await else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the daemon ends");
    };
    let mut reply = Response::new(Full::new(Bytes::from(super::metrics::text(&answer.body))));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}

/// What follows `Bearer` in the header.
pub fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn has_secret<B>(site: &Site, request: &Request<B>) -> bool {
    bearer(request).is_some_and(|secret| site.secrets.matches(secret))
}

fn is_admin<B>(site: &Site, request: &Request<B>) -> bool {
    let claim = bearer(request).and_then(|token| site.verifier.verify(token, clock::now().wall).ok());
    claim.is_some_and(|identity| identity.rights.admin)
}

/// A body of another kind could come from a form on a foreign page. One without
/// a type comes from a program.
fn is_json<B>(request: &Request<B>) -> bool {
    let Some(kind) = request.headers().get(header::CONTENT_TYPE) else { return true };
    let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
}

fn status(code: Code) -> StatusCode {
    match code {
        Code::BadJson | Code::BadRequest | Code::UnknownAction | Code::TooLarge => StatusCode::BAD_REQUEST,
        Code::AuthRequired => StatusCode::UNAUTHORIZED,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::NotSubscribed | Code::Conflict => StatusCode::CONFLICT,
        Code::UnknownConnection | Code::UnknownOperation => StatusCode::NOT_FOUND,
        Code::RateLimited | Code::TooManySubscriptions => StatusCode::TOO_MANY_REQUESTS,
        Code::StoreUnavailable | Code::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An error as all of HTTP tells it.
pub fn refuse(status: StatusCode, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({"type": "error", "code": code, "message": message});
    json(status, body.to_string().into_bytes())
}

fn unauthorized(message: &str) -> Reply {
    let mut reply = refuse(StatusCode::UNAUTHORIZED, "auth_required", message);
    reply.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    reply
}

fn only(method: &'static str) -> Reply {
    let mut reply =
        refuse(StatusCode::METHOD_NOT_ALLOWED, "bad_request", &format!("only {method} is understood here"));
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(method));
    reply
}

fn json(status: StatusCode, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}
