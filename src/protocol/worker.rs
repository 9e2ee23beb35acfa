//! What a worker may say and hear: one JSON object a line.
//!
//! Knows the lines. Does not know the socket, or which worker may administer.

use std::time::Duration;

use serde::Serialize;

use super::fields;
use super::fields::Fields;
use super::frame::Frame;
use super::ids::{Channel, MessageId, OperationId, UserId};
use super::message::{Sender, spelled};
use super::refusal::{Code, Refusal};
use super::request::{Grant, MalformedRequest, MintTerms, RateLimit, Request, RequestEnvelope, Token};
use super::request_parser;
use super::request_parser::ToAll;
use super::time::{UnixTime, rfc3339};
use crate::json;

/// Reads one line, without its end.
///
/// # Errors
/// As [`client::parse`](super::client::parse).
pub fn parse(line: &[u8]) -> Result<RequestEnvelope, MalformedRequest> {
    let line = std::str::from_utf8(line).map_err(|_| MalformedRequest {
        id: None,
        refusal: Refusal::new(Code::BadJson, "the line is not UTF-8"),
    })?;
    request_parser::request(line, Some("publish"), |action, fields| match action {
        "publish" | "send" => request_parser::publication(fields, ToAll::Allowed, fields.kind),
        "subscribe" => request_parser::subscribe(fields),
        "unsubscribe" => request_parser::channel(fields).map(Request::Unsubscribe),
        "operation_start" => request_parser::start(fields),
        "operation_end" => request_parser::end(fields),
        "interrupt" => request_parser::interrupt(fields),
        "ping" => Ok(Request::Ping),
        "token" => token(fields),
        "reload" => Ok(Request::Reload),
        "revocations" => request_parser::after(fields).map(|after| Request::Revocations { after }),
        "lift" => request_parser::user_or_jti(fields).map(Request::Lift),
        other => request_parser::administration(other, fields),
    })
}

/// How long a minted token lives where nothing is said: a working session.
const USUAL_TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// How deep `info` may nest: it stands in a list in a frame, and parsers follow that with ease.
pub(crate) const DEEPEST_INFO: usize = 64;

/// A user is to get a token, or one that somebody has is to be looked at.
fn token(fields: &Fields<'_>) -> Result<Request, Refusal> {
    match (fields::string("token", fields.token)?, request_parser::user_id(fields)?) {
        (Some(token), None) => Ok(Request::CheckToken(Token::new(token))),
        (None, Some(user_id)) => {
            let ttl = fields::duration("ttl", fields.ttl)?.unwrap_or(USUAL_TOKEN_LIFE);
            let (grant, limits) = (grant(fields)?, allowance(fields)?);
            let info = fields.info.map(|raw| fields::passed_on("info", raw, DEEPEST_INFO)).transpose()?;
            Ok(Request::MintToken { user_id, ttl, wanted: Box::new(MintTerms { grant, limits, info }) })
        }
        _ => Err(Refusal::new(
            Code::BadRequest,
            "exactly one of `user_id`, to make a token, and `token`, to check one, is wanted",
        )),
    }
}

/// What the token is to allow, if that is said; else it says nothing, and the configuration
/// does.
fn grant(fields: &Fields<'_>) -> Result<Option<Grant>, Refusal> {
    let subscribe = fields::strings("subscribe", fields.subscribe)?;
    let publish = fields::strings("publish", fields.publish)?;
    let interrupt = fields::strings("interrupt", fields.interrupt)?;
    let admin = fields::boolean("admin", fields.admin)?;
    if subscribe.is_none() && publish.is_none() && interrupt.is_none() && admin.is_none() {
        return Ok(None);
    }
    Ok(Some(Grant {
        subscribe: subscribe.unwrap_or_default(),
        publish: publish.unwrap_or_default(),
        interrupt: interrupt.unwrap_or_default(),
        admin: admin.unwrap_or_default(),
    }))
}

/// How often the bearer may ask, if that is said.
fn allowance(fields: &Fields<'_>) -> Result<Option<RateLimit>, Refusal> {
    let Some(limits) = fields::object("limits", fields.limits)? else { return Ok(None) };
    let rate = fields::positive("rate", limits.rate)?.ok_or_else(|| fields::missing("limits.rate"))?;
    let burst = fields::positive("burst", limits.burst)?.ok_or_else(|| fields::missing("limits.burst"))?;
    Ok(Some(RateLimit::asked_for(rate, burst)))
}

/// A worker is asked to stop one of its operations.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "type", rename = "interrupt")]
pub struct InterruptLine {
    /// Which.
    pub operation_id: OperationId,
    /// Where it runs.
    pub channel: Channel,
    /// Who asked, if it was a user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The connection that asked, or the kind of asker.
    #[serde(serialize_with = "spelled")]
    pub from: Sender,
    /// Why, in the asker's words, or `deadline`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// An id of its own.
    pub message_id: MessageId,
    /// When it was asked.
    #[serde(serialize_with = "rfc3339")]
    pub timestamp: UnixTime,
}

impl InterruptLine {
    /// Appends the JSON of the line, without its end.
    pub fn encode(&self, to: &mut Vec<u8>) {
        json::write(self, to);
    }
}

/// Appends what a worker hears of an answer, without the line's end: with an
/// `id` an `ok` line with the fields that a client would get, without one
/// nothing, but for errors, and for lists and numbers, which say what they are.
///
/// Returns whether anything is to be said.
pub fn encode(frame: &Frame<'_>, id: Option<&super::RequestId>, to: &mut Vec<u8>) -> bool {
    match id {
        Some(_) if frame.is_answer() => frame.encode_as("ok", id, to),
        None if frame.only_confirms() => return false,
        _ => frame.encode(id, to),
    }
    true
}
