//! HTTP/1.1: dispatch of requests, their authorization, and upgrades to WebSocket.
//!
//! The hub answers the requests; nothing about channels and users is decided here.

pub(super) mod access_log;
pub mod config;
pub mod conn;
pub mod denial;
pub mod forwarded;
pub(super) mod io;
pub mod origin;
pub mod prometheus;
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

use super::auth::throttle::FailureKey;
use super::driver::{HttpAnswer, Shared};
use super::net::mem_accounting::MemCharge;
use super::net::pending_conns::ConnGuard;
use config::HttpConfig;
use conn::HttpConn;
use denial::{Denial, Denied, Reply, quoted, too_often};

use crate::hub::{Level, Rejection};
use crate::protocol;
use crate::protocol::frame::Statistics;
use crate::protocol::routes::{Route, tidy};
use crate::protocol::{Code, Frame, Reason, Refusal};
use upgrade::AdmittedUpgrade;

/// Answers one request; `admission` is set for a WebSocket. Every denial is counted and logged
/// here.
pub(super) async fn answer(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: Request<Incoming>,
    admission: &RefCell<Option<AdmittedUpgrade>>,
) -> Reply {
    match respond(driver, site, caller, request, admission).await {
        Ok(reply) => reply,
        Err(denial) => {
            denial::deny(&mut driver.borrow_mut(), &denial, caller.address());
            denial.reply()
        }
    }
}

/// Dispatches one request. Paths of WebSockets come first: they are configured, and no route
/// may be one of them.
async fn respond(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: Request<Incoming>,
    admission: &RefCell<Option<AdmittedUpgrade>>,
) -> Denied<Reply> {
    let path = tidy(request.uri().path());
    site.gate.admit(&path, request.headers()).map_err(not_admitted)?;
    if site.paths.iter().any(|known| tidy(known) == path) {
        let (reply, admitted) = upgrade::upgrade(driver, site, caller.source(), &request)?;
        *admission.borrow_mut() = Some(admitted);
        return Ok(reply);
    }
    let path = path.into_owned();
    let Some(route) = Route::of(&path) else { return Err(not_found(request.method(), &path)) };
    if route != Route::Reserved && !route.allows(request.method().as_str()) {
        return Err(wrong_method(request.method(), &path, route.methods()));
    }
    match route {
        Route::Broadcast => {
            // While memory is short, publications are refused; interrupts are not.
            if driver.borrow().memory_level() >= Level::Critical && has_secret(site, &request) {
                return Err(short_of_memory());
            }
            let read = |body: &[u8]| protocol::http::broadcast(body).map(protocol::HubRequest::Publish);
            with_body(driver, site, caller, request, read).await
        }
        Route::Interrupt => {
            let read = |body: &[u8]| protocol::http::interrupt(body).map(protocol::HubRequest::Interrupt);
            with_body(driver, site, caller, request, read).await
        }
        Route::Stats => stats(driver, site, caller, &request).await,
        Route::Metrics => metrics(driver, site, caller, &request).await,
        Route::Health => Ok(health(driver)),
        Route::Reserved => Err(not_found(request.method(), &path)),
    }
}

/// Denies a request for its `Host` or `Origin`.
fn not_admitted(refused: origin::OriginRefusal) -> Box<Denial> {
    Denial::new(refused.reason, refused.message)
}

/// Denies a path that has no route, reserved ones included.
fn not_found(method: &Method, path: &str) -> Box<Denial> {
    let (method, path) = (quoted(method.as_str().as_bytes()), quoted(path.as_bytes()));
    let line = format!("{method} {path}: there is nothing at this path");
    Denial::new(Reason::NotFound, "there is nothing at this path").line(line)
}

/// Refuses a method, and names those that are allowed.
pub(super) fn wrong_method(method: &Method, path: &str, understood: &'static str) -> Box<Denial> {
    let message = format!("only {understood} is understood here");
    let line = format!("{} {}: {message}", quoted(method.as_str().as_bytes()), quoted(path.as_bytes()));
    Denial::new(Reason::Method, message).line(line).header(header::ALLOW, understood)
}

/// Answers whether all promises can be kept. Live messages go on even where not: they do not
/// wait for a disk.
fn health(driver: &Shared) -> Reply {
    match driver.borrow().trouble() {
        None => json(StatusCode::OK, r#"{"status":"ok"}"#.into()),
        Some(why) => {
            let body = serde_json::json!({ "status": "degraded", "reason": why }).to_string();
            json(StatusCode::SERVICE_UNAVAILABLE, body.into())
        }
    }
}

/// Answers a request that has a body and needs the secret.
async fn with_body(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: Request<Incoming>,
    read: impl FnOnce(&[u8]) -> Result<protocol::HubRequest, Refusal>,
) -> Denied<Reply> {
    let required = Requirement { what: "the broadcast secret", accepts: Accepts::Secrets };
    check_authorization(driver, site, caller, &request, required)?;
    let _awaited = caller.guard().begin_answer();
    let path = quoted(request.uri().path().as_bytes());
    let body = whole_body(site, caller.guard(), request).await;
    let body = body.map_err(|denial| denial.about(&path).counted(Rejection::BadHttpBody))?;
    let parsed = read(&body).map_err(|refusal| {
        let reason = reason(refusal.code).unwrap_or(Reason::BadRequest);
        let denial = Denial::new(reason, refusal.message).status(status(refusal.code));
        denial
            .code(refusal.code.word())
            .about(&format!("the body for {path}"))
            .counted(Rejection::BadHttpBody)
    })?;
    ask(driver, parsed).await.map_err(|denial| denial.about(&path))
}

/// The body, if it is JSON, in time and not too long.
async fn whole_body(site: &HttpConfig, guard: &ConnGuard, request: Request<Incoming>) -> Denied<Bytes> {
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
    // A body that is announced to be too long is not waited for.
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
        guard.until_finish().await;
        Timer::after(LAST_OF_BODY).await;
        Err(ending().header(header::CONNECTION, "close"))
    };
    match async { Ok(body.await) }.or(late).or(at_the_end).await? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(_) => Err(Denial::new(Reason::BadRequest, "the body did not come whole")),
    }
}

/// How long a daemon that shuts down waits for the rest of a body.
const LAST_OF_BODY: Duration = Duration::from_secs(1);

/// Denies input that did not come in time.
pub(super) fn too_slow(what: &str, site: &HttpConfig) -> Box<Denial> {
    let line = format!("{what} did not come within {:?} (`[limits] handshake_timeout`)", site.patience);
    Denial::new(Reason::Timeout, format!("{what} took too long")).line(line)
}

/// Passes a request to the hub and waits for the response.
async fn ask(driver: &Shared, request: protocol::HubRequest) -> Denied<Reply> {
    match answer_of_hub(driver, request).await? {
        HttpAnswer::Done(body) => Ok(json(StatusCode::OK, body)),
        HttpAnswer::Refused { refusal, body } => match reason(refusal.code) {
            Some(reason) => Err(Denial::by_hub(reason, status(refusal.code), &refusal, body)),
            None => Ok(json(status(refusal.code), body)),
        },
        HttpAnswer::Statistics(statistics) => {
            let mut body = Vec::new();
            Frame::Stats(statistics).encode(None, &mut body);
            Ok(json(StatusCode::OK, body))
        }
    }
}

/// The hub's answer. Without one the driver is gone, and with it the daemon.
async fn answer_of_hub(driver: &Shared, request: protocol::HubRequest) -> Denied<HttpAnswer> {
    let waiting = driver.borrow_mut().ask(request);
    waiting.recv().await.map_err(|_| ending())
}

/// The statistics of this moment.
async fn statistics(driver: &Shared) -> Denied<Box<Statistics>> {
    match answer_of_hub(driver, protocol::HubRequest::Stats).await? {
        HttpAnswer::Statistics(statistics) => Ok(statistics),
        HttpAnswer::Refused { refusal, body } => {
            let reason = reason(refusal.code).unwrap_or(Reason::ShuttingDown);
            Err(Denial::by_hub(reason, status(refusal.code), &refusal, body))
        }
        HttpAnswer::Done(_) => {
            debug_assert!(false, "statistics are answered with statistics");
            Err(ending())
        }
    }
}

/// Answers with the statistics: all of them with a secret or an administrator's token, two to
/// programs on this machine without one.
async fn stats(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: &Request<Incoming>,
) -> Denied<Reply> {
    let shows_little = caller.source().is_local && !request.headers().contains_key(header::AUTHORIZATION);
    if !shows_little {
        let what = "the broadcast secret or an administrator's token";
        let required = Requirement { what, accepts: Accepts::SecretsAndTokens };
        check_authorization(driver, site, caller, request, required)?;
        return ask(driver, protocol::HubRequest::Stats).await;
    }
    // Without a secret, the two numbers that a page of the machine may show.
    #[derive(serde::Serialize)]
    struct PublicStatistics {
        connected_users: u64,
        total_connections: u64,
    }
    let Statistics { connected_users, total_connections, .. } = *statistics(driver).await?;
    let mut body = Vec::new();
    crate::json::write(&PublicStatistics { connected_users, total_connections }, &mut body);
    Ok(json(StatusCode::OK, body))
}

/// Answers with the metrics page; `metrics_open` lets every peer have it.
async fn metrics(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: &Request<Incoming>,
) -> Denied<Reply> {
    if !site.metrics_open {
        let what = "the broadcast secret or an administrator's token, unless `metrics_open = true`";
        let required = Requirement { what, accepts: Accepts::SecretsAndTokens };
        check_authorization(driver, site, caller, request, required)?;
    }
    let statistics = statistics(driver).await?;
    let mut reply = Response::new(Full::new(Bytes::from(prometheus::text(&statistics))));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(reply)
}

/// The authorization that an endpoint requires.
#[derive(Clone, Copy)]
struct Requirement {
    /// Its name in messages.
    what: &'static str,
    accepts: Accepts,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Accepts {
    Secrets,
    /// The tokens of administrators.
    SecretsAndTokens,
}

/// The header `Authorization`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Authorization<'r> {
    Missing,
    /// The credentials behind `Bearer`.
    Bearer(&'r str),
    /// Another scheme, by its name if that is known.
    OtherScheme(&'static str),
    /// One word without a scheme.
    NoScheme,
}

/// Schemes that are sent by mistake. The names of others are not shown: they may be a part of
/// a secret.
const SCHEMES: [&str; 7] = ["Basic", "Token", "Digest", "JWT", "ApiKey", "Negotiate", "Secret"];

fn authorization<B>(request: &Request<B>) -> Authorization<'_> {
    let Some(value) = request.headers().get(header::AUTHORIZATION) else { return Authorization::Missing };
    let value = value.as_bytes().trim_ascii();
    let Some(end) = value.iter().position(|byte| *byte == b' ') else {
        return match value.eq_ignore_ascii_case(b"bearer") {
            // A script whose variable is empty sends it.
            true => Authorization::Missing,
            false => Authorization::NoScheme,
        };
    };
    let (scheme, rest) = value.split_at(end);
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Authorization::Bearer(text(rest).trim());
    }
    let known = SCHEMES.iter().find(|known| scheme.eq_ignore_ascii_case(known.as_bytes()));
    Authorization::OtherScheme(known.copied().unwrap_or("another"))
}

/// Checks that a request has the required secret or token.
fn check_authorization<B>(
    driver: &Shared,
    site: &HttpConfig,
    caller: &HttpConn,
    request: &Request<B>,
    required: Requirement,
) -> Denied<()> {
    let what = required.what;
    let denial = |reason, message: String| {
        let line = format!("{} {}: {message}", request.method(), quoted(request.uri().path().as_bytes()));
        Denial::new(reason, message).line(line)
    };
    let secret = match authorization(request) {
        Authorization::Bearer(secret) => secret,
        Authorization::Missing => {
            let message = format!(
                "there is none in `Authorization: Bearer`, the only place that is looked at; this needs {what}"
            );
            return Err(denial(Reason::SecretMissing, message));
        }
        Authorization::OtherScheme(scheme) => {
            let message =
                format!("`Authorization` is of the scheme {scheme}; this needs `Bearer` with {what}");
            return Err(denial(Reason::SecretScheme, message));
        }
        Authorization::NoScheme => {
            let message = format!("`Authorization` names no scheme; this needs `Bearer `, then {what}");
            return Err(denial(Reason::SecretScheme, message));
        }
    };
    if site.secrets.matches(secret) {
        return Ok(());
    }
    let is_token = secret.matches('.').count() == 2;
    if is_token && required.accepts == Accepts::SecretsAndTokens {
        return check_administrator(driver, caller, request, secret);
    }
    let mut driver = driver.borrow_mut();
    let throttled =
        site.wrong_secrets.borrow_mut().wrong(FailureKey::Address(caller.address()), driver.moment()).err();
    driver.count_rejection(Rejection::WrongSecret);
    Err(match throttled {
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

/// Checks that a token is an administrator's.
fn check_administrator<B>(
    driver: &Shared,
    caller: &HttpConn,
    request: &Request<B>,
    token: &str,
) -> Denied<()> {
    let examined = driver.borrow().examine(token);
    match examined {
        Ok(identity) => {
            caller.authorized_by(identity.user_id.clone());
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
            let refused = driver.reject(flaw.fault(), token, Some(caller.address()));
            Err(denial::refused_token(refused, place, line))
        }
    }
}

/// The credentials behind `Bearer` in the header.
pub fn bearer<B>(request: &Request<B>) -> Option<&str> {
    match authorization(request) {
        Authorization::Bearer(token) => Some(token),
        _ => None,
    }
}

/// A token or secret as text. One that is not UTF-8 becomes empty, which is never right, and is
/// not taken for a missing one.
pub(super) fn text(token: &[u8]) -> &str {
    std::str::from_utf8(token).unwrap_or_default()
}

/// Whether the bearer has a secret. A wrong one is not counted here: the request goes on to
/// [`check_authorization`], which counts it.
fn has_secret<B>(site: &HttpConfig, request: &Request<B>) -> bool {
    bearer(request).is_some_and(|secret| site.secrets.matches(secret))
}

/// Whether a content type is JSON: a form on a foreign page could send another. A body without
/// a type comes from a program.
fn is_json(kind: &HeaderValue) -> bool {
    let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json") || essence.ends_with("+json")
}

/// The status of a refusal by the hub.
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

/// The reason that a refusal by the hub is counted by; none for outcomes that refuse nothing.
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

/// Denies a request because the daemon shuts down; most often another starts.
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
