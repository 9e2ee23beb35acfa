//! The lines of workers, both ways: one JSON object each.

use std::time::Duration;

use serde::Serialize;

use super::fields::{Field, Fields, missing};
use super::frame::Frame;
use super::ids::{Channel, MessageId, OperationId, UserId};
use super::message::{Sender, spelled};
use super::refusal::{Code, Refusal};
use super::request::{
    EdgeRequest, Grant, HubRequest, MalformedRequest, MintTerms, RateLimit, Request, RequestEnvelope, Token,
};
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
        "token" => token(fields).map(Request::Edge),
        "reload" => Ok(Request::Edge(EdgeRequest::Reload)),
        "revocations" => {
            let after = request_parser::after(fields)?;
            Ok(Request::Edge(EdgeRequest::Revocations { after }))
        }
        "lift" => {
            let revoked = request_parser::user_or_jti(fields)?;
            Ok(Request::Edge(EdgeRequest::Lift(revoked)))
        }
        action => hub_request(action, fields).map(Request::Hub),
    })
}

fn hub_request(action: &str, fields: &Fields<'_>) -> Result<HubRequest, Refusal> {
    match action {
        "publish" | "send" => {
            request_parser::publication(fields, ToAll::Allowed, Some(Field::Type)).map(HubRequest::Publish)
        }
        "subscribe" => request_parser::subscribe(fields),
        "unsubscribe" => request_parser::channel(fields).map(HubRequest::Unsubscribe),
        "operation_start" => request_parser::start(fields),
        "operation_end" => request_parser::end(fields),
        "interrupt" => request_parser::interrupt(fields).map(HubRequest::Interrupt),
        "ping" => Ok(HubRequest::Ping),
        other => request_parser::administration(other, fields),
    }
}

/// How long a minted token lives by default: a working session.
const USUAL_TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// How deep `info` may nest: it stands in a list in a frame, and parsers follow that with ease.
pub(crate) const DEEPEST_INFO: usize = 64;

/// A token is to be minted for a user, or a given one checked.
fn token(fields: &Fields<'_>) -> Result<EdgeRequest, Refusal> {
    match (fields.string(Field::Token)?, request_parser::user_id(fields)?) {
        (Some(token), None) => Ok(EdgeRequest::CheckToken(Token::new(token))),
        (None, Some(user_id)) => {
            let ttl = fields.duration(Field::Ttl)?.unwrap_or(USUAL_TOKEN_LIFE);
            let (grant, limits) = (grant(fields)?, allowance(fields)?);
            let info = fields.passed_on(Field::Info, DEEPEST_INFO)?;
            Ok(EdgeRequest::MintToken { user_id, ttl, wanted: Box::new(MintTerms { grant, limits, info }) })
        }
        _ => Err(Refusal::new(
            Code::BadRequest,
            "exactly one of `user_id`, to make a token, and `token`, to check one, is wanted",
        )),
    }
}

/// The rights of the token, if any are given; else it has the default rights of the
/// configuration.
fn grant(fields: &Fields<'_>) -> Result<Option<Grant>, Refusal> {
    let subscribe = fields.strings(Field::Subscribe)?;
    let publish = fields.strings(Field::Publish)?;
    let interrupt = fields.strings(Field::Interrupt)?;
    let admin = fields.boolean(Field::Admin)?;
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

/// The request limits of the bearer, if they are given.
fn allowance(fields: &Fields<'_>) -> Result<Option<RateLimit>, Refusal> {
    let Some(limits) = fields.object(Field::Limits)? else { return Ok(None) };
    let rate = limits.positive(Field::Rate)?.ok_or_else(|| missing("limits.rate"))?;
    let burst = limits.positive(Field::Burst)?.ok_or_else(|| missing("limits.burst"))?;
    Ok(Some(RateLimit::asked_for(rate, burst)))
}

/// An interrupt of one of a worker's operations.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "type", rename = "interrupt")]
pub struct InterruptLine {
    /// Which.
    pub operation_id: OperationId,
    /// Where it runs.
    pub channel: Channel,
    /// The user who asked, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// The connection that asked, or the kind of sender.
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

/// Appends the line of an answer to a worker, without its end: with an
/// `id` an `ok` line with the fields that a client would get, without one
/// nothing, but for errors, and for lists and numbers, whose `type` is their own name.
///
/// Returns whether there is a line.
pub fn encode(frame: &Frame<'_>, id: Option<&super::RequestId>, to: &mut Vec<u8>) -> bool {
    match id {
        Some(_) if frame.is_answer() => frame.encode_as("ok", id, to),
        None if frame.is_confirmation() => return false,
        _ => frame.encode(id, to),
    }
    true
}
