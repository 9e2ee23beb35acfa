//! HTTP/1.1 in front: requests of back ends, and the way to a WebSocket.
//!
//! Knows paths, methods, secrets and status codes. Does not know what a request
//! leads to: the hub answers it.

pub(super) mod access_log;
pub mod config;
pub mod conn;
pub mod denial;
pub mod forwarded;
pub(super) mod io;
pub mod metrics;
pub mod origin;
pub mod upgrade;

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode};
use smol::Timer;
use smol::future::FutureExt;

use super::auth::throttle::Who;
use super::driver::{RefusedToken, Shared};
use super::net::mem_accounting::MemCharge;
use super::net::pending_conns::ConnGuard;
use config::HttpConfig;
use conn::HttpConn;
use denial::{Denial, Denied, Reply, quoted};

use crate::hub::{Level, Rejection};
use crate::protocol;
use crate::protocol::routes::{Route, tidy};
use crate::protocol::{Code, Reason, Refusal};
use upgrade::Admission;

/// Answers one request; a WebSocket is admitted beside its answer. Whatever is refused is
/// counted and written down here.
pub(super) async fn answer(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: Request<Incoming>,
    admission: &RefCell<Option<Admission>>,
) -> Reply {
    match respond(driver, site, caller, request, admission).await {
        Ok(reply) => reply,
        Err(denial) => {
            denial::deny(&mut driver.borrow_mut(), &denial, caller.address());
            denial.reply()
        }
    }
}

async fn respond(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: Request<Incoming>,
    admission: &RefCell<Option<Admission>>,
) -> Denied<Reply> {
    let path = tidy(request.uri().path());
    site.gate.admit(&path, request.headers()).map_err(not_admitted)?;
    if site.paths.iter().any(|known| tidy(known) == path) {
        let (reply, admitted) = upgrade::upgrade(driver, site, caller.source(), &request)?;
        *admission.borrow_mut() = Some(admitted);
        return Ok(reply);
    }
    let path = path.into_owned();
    let method = request.method().clone();
    match (Route::of(&path), method) {
        (Some(Route::Broadcast), Method::POST) => {
            // Who would fill queues waits; who stops something does not.
            if driver.borrow().memory_level() >= Level::Critical && has_secret(site, &request) {
                return Err(short_of_memory());
            }
            let read = |body: &[u8]| protocol::http::broadcast(body).map(protocol::Request::Publish);
            with_body(driver, site, caller, request, read).await
        }
        (Some(Route::Interrupt), Method::POST) => {
            let read = |body: &[u8]| protocol::http::interrupt(body).map(protocol::Request::Interrupt);
            with_body(driver, site, caller, request, read).await
        }
        (Some(Route::Stats), Method::GET | Method::HEAD) => stats(driver, site, caller, &request).await,
        (Some(Route::Metrics), Method::GET | Method::HEAD) => metrics(driver, site, caller, &request).await,
        (Some(Route::Health), Method::GET | Method::HEAD) => Ok(health(driver)),
        (None | Some(Route::Reserved), method) => {
            let method = quoted(method.as_str().as_bytes());
            let line = format!("{method} {}: there is nothing at this path", quoted(path.as_bytes()));
            Err(Denial::new(Reason::NotFound, "there is nothing at this path").line(line))
        }
        (Some(route), method) => Err(wrong_method(&method, &path, route.methods())),
    }
}

/// Refuses a request for its `Host` or `Origin`.
fn not_admitted(refused: origin::OriginRefusal) -> Box<Denial> {
    Denial::new(refused.reason, refused.message)
}

/// Refuses a method, and says which there are.
pub(super) fn wrong_method(method: &Method, path: &str, understood: &'static str) -> Box<Denial> {
    let message = format!("only {understood} is understood here");
    let line = format!("{} {}: {message}", quoted(method.as_str().as_bytes()), quoted(path.as_bytes()));
    Denial::new(Reason::Method, message).line(line).header(header::ALLOW, understood)
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
    site: &HttpConfig,
    caller: &HttpConn,
    request: Request<Incoming>,
    read: impl FnOnce(&[u8]) -> Result<protocol::Request, Refusal>,
) -> Denied<Reply> {
    let wanted = Wanted { what: "the broadcast secret", takes_tokens: false };
    entitled(driver, site, caller, &request, wanted)?;
    let _awaited = caller.stay.begin_answer();
    let path = quoted(request.uri().path().as_bytes());
    let body = whole_body(site, &caller.stay, request).await;
    let body = body.map_err(|denial| denial.about(&path).counted(Rejection::BadHttpBody))?;
    let say = read(&body).map_err(|refusal| {
        let reason = reason(refusal.code).unwrap_or(Reason::BadRequest);
        let denial = Denial::new(reason, refusal.message).status(status(refusal.code));
        denial
            .code(refusal.code.word())
            .about(&format!("the body for {path}"))
            .counted(Rejection::BadHttpBody)
    })?;
    ask(driver, say).await.map_err(|denial| denial.about(&path))
}

/// The body, if it is JSON, comes in time and is not too long.
async fn whole_body(site: &HttpConfig, stay: &ConnGuard, request: Request<Incoming>) -> Denied<Bytes> {
    if let Some(kind) = request.headers().get(header::CONTENT_TYPE)
        && !is_json(kind)
    {
        let line = format!("Content-Type {}: the body must be application/json", quoted(kind.as_bytes()));
        return Err(Denial::new(Reason::MediaType, "the body must be application/json").line(line));
    }
    let limit = site.message_bytes;
    let too_large = || {
        let message = format!("the body may be {limit} bytes long");
        let line = format!("{message} (`[limits] message_bytes`)");
        Denial::new(Reason::TooLarge, message).line(line)
    };
    // What is announced to be too long is not waited for.
    if request.body().size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let announced = request.body().size_hint().upper().map_or(limit, |size| size as usize);
    let _load = MemCharge::of(announced.min(limit));
    let body = Limited::new(request.into_body(), limit).collect();
    let late = async {
        Timer::after(site.patience).await;
        Err(too_slow("the body", site).header(header::CONNECTION, "close"))
    };
    let at_the_end = async {
        stay.until_finish().await;
        Timer::after(LAST_OF_BODY).await;
        Err(ending().header(header::CONNECTION, "close"))
    };
    match async { Ok(body.await) }.or(late).or(at_the_end).await? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Denial::new(Reason::BadRequest, "the body did not come whole")),
    }
}

/// How long the daemon waits at its end for the rest of a body.
const LAST_OF_BODY: Duration = Duration::from_secs(1);

/// Refuses what did not come in time.
pub(super) fn too_slow(what: &str, site: &HttpConfig) -> Box<Denial> {
    let line = format!("{what} did not come within {:?} (`[limits] handshake_timeout`)", site.patience);
    Denial::new(Reason::Timeout, format!("{what} took too long")).line(line)
}

/// Passes a request to the hub and waits for its word.
async fn ask(driver: &Shared, request: protocol::Request) -> Denied<Reply> {
    let waiting = driver.borrow_mut().ask(request);
    let answer = waiting.recv().await.map_err(|_| ending())?;
    match answer.refused {
        None => Ok(json(StatusCode::OK, answer.body)),
        Some(refusal) => match reason(refusal.code) {
            Some(reason) => Err(Denial::by_hub(reason, status(refusal.code), &refusal, answer.body)),
            None => Ok(json(status(refusal.code), answer.body)),
        },
    }
}

async fn stats(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: &Request<Incoming>,
) -> Denied<Reply> {
    let shows_little = caller.source().is_local && !request.headers().contains_key(header::AUTHORIZATION);
    if !shows_little {
        let wanted = Wanted { what: "the broadcast secret or an administrator's token", takes_tokens: true };
        entitled(driver, site, caller, request, wanted)?;
        return ask(driver, protocol::Request::Stats).await;
    }
    let reply = ask(driver, protocol::Request::Stats).await?;
    // Without a secret, the two numbers that a page of the machine may show.
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Public {
        connected_users: u64,
        total_connections: u64,
    }
    let (parts, body) = reply.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let public = serde_json::from_slice::<Public>(&body).and_then(|public| serde_json::to_vec(&public));
    Ok(json(parts.status, public.unwrap_or_default()))
}

async fn metrics(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: &Request<Incoming>,
) -> Denied<Reply> {
    if !site.metrics_open {
        let what = "the broadcast secret or an administrator's token, unless `metrics_open = true`";
        entitled(driver, site, caller, request, Wanted { what, takes_tokens: true })?;
    }
    let waiting = driver.borrow_mut().ask(protocol::Request::Stats);
    let answer = waiting.recv().await.map_err(|_| ending())?;
    let mut reply = Response::new(Full::new(Bytes::from(metrics::text(&answer.body))));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(reply)
}

/// What a request is to show.
#[derive(Clone, Copy)]
struct Wanted {
    what: &'static str,
    takes_tokens: bool,
}

/// What stands in the header `Authorization`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Presented<'r> {
    Nothing,
    /// What follows `Bearer`.
    Bearer(&'r str),
    /// It is of another scheme: by its name, where that is one that is known.
    Other(&'static str),
    /// One word without a scheme.
    Bare,
}

/// Schemes that are seen in the place of `Bearer`. Of others the name is not told: it may be
/// a part of a secret.
const SCHEMES: [&str; 7] = ["Basic", "Token", "Digest", "JWT", "ApiKey", "Negotiate", "Secret"];

/// What a request presents.
fn presented<B>(request: &Request<B>) -> Presented<'_> {
    let Some(value) = request.headers().get(header::AUTHORIZATION) else { return Presented::Nothing };
    let value = value.as_bytes().trim_ascii();
    let Some(end) = value.iter().position(|byte| *byte == b' ') else {
        return match value.eq_ignore_ascii_case(b"bearer") {
            // As where a script has an empty variable.
            true => Presented::Nothing,
            false => Presented::Bare,
        };
    };
    let (scheme, rest) = value.split_at(end);
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Presented::Bearer(text(rest).trim());
    }
    let known = SCHEMES.iter().find(|known| scheme.eq_ignore_ascii_case(known.as_bytes()));
    Presented::Other(known.copied().unwrap_or("another"))
}

/// Whether a request shows what is wanted.
fn entitled<B>(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: &Request<B>,
    wanted: Wanted,
) -> Denied<()> {
    let what = wanted.what;
    let denial = |reason, message: String| {
        let line = format!("{} {}: {message}", request.method(), quoted(request.uri().path().as_bytes()));
        Denial::new(reason, message).line(line)
    };
    let secret = match presented(request) {
        Presented::Bearer(secret) => secret,
        Presented::Nothing => {
            let message = format!(
                "there is none in `Authorization: Bearer`, the only place that is looked at; this needs {what}"
            );
            return Err(denial(Reason::SecretMissing, message));
        }
        Presented::Other(scheme) => {
            let message =
                format!("`Authorization` is of the scheme {scheme}; this needs `Bearer` with {what}");
            return Err(denial(Reason::SecretScheme, message));
        }
        Presented::Bare => {
            let message = format!("`Authorization` names no scheme; this needs `Bearer `, then {what}");
            return Err(denial(Reason::SecretScheme, message));
        }
    };
    if site.secrets.matches(secret) {
        return Ok(());
    }
    let is_token = secret.matches('.').count() == 2;
    if is_token && wanted.takes_tokens {
        return administrator(driver, caller, request, secret);
    }
    let mut driver = driver.borrow_mut();
    let slowed = site.wrong_secrets.borrow_mut().wrong(Who::Address(caller.address()), driver.moment()).err();
    driver.count_rejection(Rejection::WrongSecret);
    Err(match slowed {
        Some(wait) => too_often("secrets", "that are wrong come from here", "", wait),
        None if is_token => denial(
            Reason::SecretWrong,
            format!("this is a token in `Authorization: Bearer`; it needs {what}"),
        ),
        None => denial(
            Reason::SecretWrong,
            format!(
                "the secret in `Authorization: Bearer` is wrong; this needs {what} (`[auth] broadcast_secrets`)"
            ),
        ),
    })
}

/// Whether a token is an administrator's.
fn administrator<B>(driver: &Shared, caller: &HttpConn, request: &Request<B>, token: &str) -> Denied<()> {
    let examined = driver.borrow().examine(token);
    match examined {
        Ok(identity) => {
            *caller.user.borrow_mut() = Some(identity.user_id.clone());
            if identity.rights.as_ref().is_some_and(|rights| rights.admin) {
                return Ok(());
            }
            let message = "the token holds, and its `wshub` claim does not say `admin`";
            let (path, user) = (quoted(request.uri().path().as_bytes()), identity.user_id);
            Err(Denial::new(Reason::Forbidden, message).line(format!("{path}: user {user:?}: {message}")))
        }
        Err(flaw) => {
            let mut driver = driver.borrow_mut();
            let place = "in `Authorization: Bearer`";
            let line = driver.explain_token(&flaw, token, place);
            let rejected = driver.reject(flaw.told(), token, Some(caller.address()));
            Err(rejected_over_http(rejected, place, line))
        }
    }
}

/// The answer to a token that does not hold.
pub(super) fn rejected_over_http(rejected: RefusedToken, place: &str, line: Option<String>) -> Box<Denial> {
    let RefusedToken { fault, slowed, of_user } = rejected;
    if let Some(wait) = slowed {
        let whose =
            if of_user { "of this user came that do not hold" } else { "that are wrong come from here" };
        return too_often("tokens", whose, &fault.message, wait);
    }
    let message = format!("{} (the token {place})", fault.message);
    let denial = Denial::new(fault.reason, message).code(fault.code);
    match line {
        Some(line) => denial.line(line),
        None => denial,
    }
}

/// Refuses whoever was refused too often.
fn too_often(what: &str, whose: &str, last: &str, wait: Duration) -> Box<Denial> {
    let option = format!("wrong_{what}_per_minute");
    let last = if last.is_empty() { String::new() } else { format!(", the last one because {last}") };
    let message = format!("too many {what} {whose}{last}; a right one is taken at once");
    let line = format!("{message} (`[limits] {option}`)");
    Denial::new(Reason::TooManyRefusals, message).line(line).after(wait)
}

/// What follows `Bearer` in the header.
pub fn bearer<B>(request: &Request<B>) -> Option<&str> {
    match presented(request) {
        Presented::Bearer(token) => Some(token),
        _ => None,
    }
}

/// A token or secret as text. One that is not UTF-8 is there, and is none that could be
/// right: so it is not passed over as if there were none.
pub(super) fn text(token: &[u8]) -> &str {
    std::str::from_utf8(token).unwrap_or_default()
}

fn has_secret<B>(site: &HttpConfig, request: &Request<B>) -> bool {
    bearer(request).is_some_and(|secret| site.secrets.matches(secret))
}

/// A body of another kind could come from a form on a foreign page. One without
/// a type comes from a program.
fn is_json(kind: &HeaderValue) -> bool {
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

/// What a refusal of the hub is counted as; what is no refusal of a request is not.
fn reason(code: Code) -> Option<Reason> {
    Some(match code {
        Code::BadJson | Code::BadRequest | Code::UnknownAction | Code::TooLarge => Reason::BadRequest,
        Code::AuthRequired => Reason::SecretMissing,
        Code::Forbidden => Reason::Forbidden,
        Code::UnknownConnection | Code::UnknownOperation => Reason::NotFound,
        Code::RateLimited | Code::TooManySubscriptions | Code::TooManyRevocations => Reason::RateLimited,
        Code::StoreUnavailable => Reason::StoreUnavailable,
        Code::ShuttingDown => Reason::ShuttingDown,
        Code::NotSubscribed | Code::Conflict | Code::BadConfiguration | Code::Internal => return None,
    })
}

/// The daemon ends; most often another begins.
fn ending() -> Box<Denial> {
    Denial::new(Reason::ShuttingDown, "the daemon ends")
}

fn short_of_memory() -> Box<Denial> {
    Denial::new(Reason::Overloaded, "memory is short").line("memory is short (`[limits] memory`)".into())
}

fn json(status: StatusCode, body: Vec<u8>) -> Reply {
    let mut reply = Response::new(Full::new(Bytes::from(body)));
    *reply.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    reply
}
