//! HTTP/1.1 in front: requests of back ends, and the way to a WebSocket.
//!
//! Knows paths, methods, secrets and status codes. Does not know what a request
//! leads to: the hub answers it.

use std::borrow::Cow;
use std::cell::RefCell;
use std::net::IpAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use smol::Timer;
use smol::future::FutureExt;

use super::caller::Caller;
use super::clock;
use super::driver::Shared;
use super::guard::Guard;
use super::meter::Load;
use super::report::Kind;
use super::site::Site;
use super::upgrade::{self, Admission};
use crate::hub::{Level, TurnedAway};
use crate::protocol::routes::Route;
use crate::protocol::{self, Code, Refusal, Say};

type Reply = Response<Full<Bytes>>;

/// Answers one request; a WebSocket is admitted beside its answer.
pub(super) async fn answer(
    driver: &Shared,
    site: &Site,
    caller: &Caller,
    request: Request<Incoming>,
    admission: &RefCell<Option<Admission>>,
) -> Reply {
    let path = tidy(request.uri().path());
    if let Err(refused) = site.gate.admit(&path, request.headers()) {
        return refuse(StatusCode::FORBIDDEN, "forbidden", &refused.message);
    }
    if site.paths.iter().any(|known| tidy(known) == path) {
        return match upgrade::upgrade(driver, site, caller.source, &request) {
            Ok((reply, admitted)) => {
                *admission.borrow_mut() = Some(admitted);
                reply
            }
            Err(reply) => *reply,
        };
    }
    let method = request.method().clone();
    match (Route::of(&path), method) {
        (Some(Route::Broadcast), Method::POST) => {
            // Who would fill queues waits; who stops something does not.
            if driver.borrow().memory_level() >= Level::Critical && has_secret(site, &request) {
                return overloaded("memory is short");
            }
            let read = |body: &[u8]| protocol::http::broadcast(body).map(Say::Publish);
            with_body(driver, site, caller, request, read).await
        }
        (Some(Route::Interrupt), Method::POST) => {
            let read = |body: &[u8]| protocol::http::interrupt(body).map(Say::Interrupt);
            with_body(driver, site, caller, request, read).await
        }
        (Some(Route::Stats), Method::GET | Method::HEAD) => stats(driver, site, caller, &request).await,
        (Some(Route::Metrics), Method::GET | Method::HEAD) => metrics(driver, site, caller, &request).await,
        (Some(Route::Health), Method::GET | Method::HEAD) => health(driver),
        (None | Some(Route::Reserved), _) => {
            refuse(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
        }
        (Some(route), _) => only(route.methods()),
    }
}

/// A path without slashes that proxies add: behind each other, and at the end.
fn tidy(path: &str) -> Cow<'_, str> {
    let is_tidy = !path.contains("//") && (path == "/" || !path.ends_with('/'));
    if is_tidy {
        return path.into();
    }
    let parts = path.split('/').filter(|part| !part.is_empty());
    let tidy: String = parts.flat_map(|part| ["/", part]).collect();
    if tidy.is_empty() { "/".into() } else { tidy.into() }
}

/// Whether all that is promised can be kept. Who asks for less can go on: live
/// messages do not wait for a disk.
fn health(driver: &Shared) -> Reply {
    match driver.borrow().trouble() {
        None => json(StatusCode::OK, r#"{"status":"ok"}"#.into()),
        Some(why) => {
            let body = serde_json::json!({ "status": "degraded", "reason": why }).to_string();
            json(StatusCode::SERVICE_UNAVAILABLE, body.into())
        }
    }
}

/// A request with a body and the secret: read, asked, answered.
async fn with_body(
    driver: &Shared,
    site: &Site,
    caller: &Caller,
    request: Request<Incoming>,
    read: impl FnOnce(&[u8]) -> Result<Say, Refusal>,
) -> Reply {
    if !has_secret(site, &request) {
        let why = "this needs `Authorization: Bearer` with the broadcast secret";
        return unauthorized(driver, site, caller, &request, why);
    }
    let _awaited = caller.stay.awaited();
    let body = match whole_body(site, request).await {
        Ok(body) => body,
        Err(refused) => {
            driver.borrow_mut().turned_away(TurnedAway::Request, None);
            return *refused;
        }
    };
    match read(&body) {
        Ok(say) => ask(driver, say).await,
        Err(refusal) => {
            driver.borrow_mut().turned_away(TurnedAway::Request, None);
            refuse(status(refusal.code), refusal.code.word(), &refusal.message)
        }
    }
}

/// The body, if it is JSON, comes in time and is not too long; else the answer.
async fn whole_body(site: &Site, request: Request<Incoming>) -> Result<Bytes, Box<Reply>> {
    let wrong = |status, code, why: &str| Err(Box::new(refuse(status, code, why)));
    if !is_json(&request) {
        return wrong(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_request", "the body must be application/json");
    }
    let limit = format!("the body may be {} bytes long", site.message_bytes);
    // What is announced to be too long is not waited for.
    if request.body().size_hint().lower() > site.message_bytes as u64 {
        return wrong(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &limit);
    }
    let announced = request.body().size_hint().upper().map_or(site.message_bytes, |size| size as usize);
    let _load = Load::of(announced.min(site.message_bytes));
    let body = Limited::new(request.into_body(), site.message_bytes).collect();
    let in_time = async { Some(body.await) }.or(async {
        Timer::after(site.patience).await;
        None
    });
    match in_time.await {
        Some(Ok(body)) => Ok(body.to_bytes()),
        Some(Err(error)) if error.is::<LengthLimitError>() => {
            wrong(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &limit)
        }
        Some(Err(_)) => wrong(StatusCode::BAD_REQUEST, "bad_request", "the body did not come whole"),
        None => wrong(StatusCode::REQUEST_TIMEOUT, "bad_request", "the body took too long"),
    }
}

/// Passes a request to the hub and waits for its word.
async fn ask(driver: &Shared, say: Say) -> Reply {
    let waiting = driver.borrow_mut().ask(say);
    let Ok(answer) = waiting.recv().await else {
        return ending();
    };
    let mut reply = json(answer.refused.map_or(StatusCode::OK, status), answer.body);
    let ends = (answer.refused == Some(Code::ShuttingDown)).then_some(RETRY);
    let wait = answer.retry_after.map(|wait| wait.as_secs_f64().ceil() as u64);
    if let Some(seconds) = wait.or(ends) {
        reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

async fn stats(driver: &Shared, site: &Site, caller: &Caller, request: &Request<Incoming>) -> Reply {
    let knows_all = has_secret(site, request) || is_admin(site, request);
    if !knows_all && (request.headers().contains_key(header::AUTHORIZATION) || !caller.source.is_local) {
        let why = "this needs the broadcast secret or an administrator's token";
        return unauthorized(driver, site, caller, request, why);
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

async fn metrics(driver: &Shared, site: &Site, caller: &Caller, request: &Request<Incoming>) -> Reply {
    if !(site.metrics_open || has_secret(site, request) || is_admin(site, request)) {
        let why = "metrics need the broadcast secret, or `metrics_open = true`";
        return unauthorized(driver, site, caller, request, why);
    }
    let waiting = driver.borrow_mut().ask(Say::Stats);
    let Ok(answer) = waiting.recv().await else {
        return ending();
    };
    let mut reply = Response::new(Full::new(Bytes::from(super::metrics::text(&answer.body))));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}

/// What follows `Bearer` in the header.
pub fn bearer<B>(request: &Request<B>) -> Option<&str> {
    let value = request.headers().get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at(value.iter().position(|byte| *byte == b' ')?);
    scheme.eq_ignore_ascii_case(b"bearer").then(|| text(token).trim())
}

/// A token or secret as text. One that is not UTF-8 is there, and is none that could be
/// right: so it is not passed over as if there were none.
pub fn text(token: &[u8]) -> &str {
    std::str::from_utf8(token).unwrap_or_default()
}

fn has_secret<B>(site: &Site, request: &Request<B>) -> bool {
    bearer(request).is_some_and(|secret| site.secrets.matches(secret))
}

fn is_admin<B>(site: &Site, request: &Request<B>) -> bool {
    let claim = bearer(request).and_then(|token| site.verifier.verify(token, clock::now().wall).ok());
    claim.and_then(|identity| identity.rights).is_some_and(|rights| rights.admin)
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
        Code::RateLimited | Code::TooManySubscriptions | Code::TooManyRevocations => {
            StatusCode::TOO_MANY_REQUESTS
        }
        Code::StoreUnavailable | Code::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        Code::BadConfiguration | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An error as all of HTTP tells it.
pub fn refuse(status: StatusCode, code: &str, message: &str) -> Reply {
    let body = serde_json::json!({"type": "error", "code": code, "message": message});
    json(status, body.to_string().into_bytes())
}

/// Refuses whoever has no secret, or a wrong one; a wrong one too often.
fn unauthorized<B>(
    driver: &Shared,
    site: &Site,
    caller: &Caller,
    request: &Request<B>,
    message: &str,
) -> Reply {
    if bearer(request).is_some()
        && let Some(too_often) = wrong(driver, &site.wrong_secrets, caller.source.address, "secret")
    {
        return too_often;
    }
    let mut reply = refuse(StatusCode::UNAUTHORIZED, "auth_required", message);
    reply.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    reply
}

/// Counts a wrong secret or token; the answer where it was one too many.
pub fn wrong(driver: &Shared, guard: &RefCell<Guard>, from: IpAddr, what: &str) -> Option<Reply> {
    let mut driver = driver.borrow_mut();
    let line = format_args!("a wrong {what} from {from}");
    driver.turned_away(TurnedAway::WrongSecret, Some((Kind::WrongSecret, line)));
    let wait = guard.borrow_mut().wrong(from, driver.moment()).err()?;
    let message = format!("too many wrong {what}s come from {from}; a right one is taken");
    let mut reply = refuse(StatusCode::TOO_MANY_REQUESTS, "rate_limited", &message);
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil() as u64));
    Some(reply)
}

/// Seconds: long enough for a few others to have left, or for a daemon to start.
const RETRY: u64 = 5;

/// The daemon ends; most often another begins.
fn ending() -> Reply {
    let mut reply = refuse(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the daemon ends");
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY));
    reply
}

/// Refuses for want of room; it is worth trying again.
pub fn overloaded(message: &str) -> Reply {
    let mut reply = refuse(StatusCode::SERVICE_UNAVAILABLE, "overloaded", message);
    reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY));
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
