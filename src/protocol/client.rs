//! The requests of WebSocket clients: one text frame each.
//!
//! The frames of the daemon are in [`frame`](super::frame).

use super::fields::{Field, Fields, missing};
use super::refusal::{Code, Refusal};
use super::request::{EdgeRequest, HubRequest, InboxMode, MalformedRequest, Request, RequestEnvelope, Token};
use super::request_parser;
use super::request_parser::ToAll;

/// Reads one frame.
///
/// # Errors
/// `bad_json`, `bad_request`, `unknown_action`, `too_large` or `forbidden`, with
/// the request's id where it could be read.
pub fn parse(text: &str) -> Result<RequestEnvelope, MalformedRequest> {
    request_parser::request(text, None, |action, fields| match action {
        "auth" => auth(fields).map(Request::Edge),
        action => hub_request(action, fields).map(Request::Hub),
    })
}

fn hub_request(action: &str, fields: &Fields<'_>) -> Result<HubRequest, Refusal> {
    match action {
        "subscribe" => request_parser::subscribe(fields),
        "unsubscribe" => request_parser::channel(fields).map(HubRequest::Unsubscribe),
        "send" => request_parser::publication(fields, ToAll::Unknown, None).map(HubRequest::Publish),
        "whisper" => whisper(fields),
        "interrupt" => request_parser::interrupt(fields).map(HubRequest::Interrupt),
        "presence" => request_parser::channel(fields).map(HubRequest::Presence),
        "ack" => ack(fields),
        "ping" => Ok(HubRequest::Ping),
        other => request_parser::administration(other, fields),
    }
}

fn whisper(fields: &Fields<'_>) -> Result<HubRequest, Refusal> {
    Ok(HubRequest::Whisper {
        channel: request_parser::channel(fields)?,
        event: request_parser::event(fields, None)?,
        data: fields.payload()?,
    })
}

fn ack(fields: &Fields<'_>) -> Result<HubRequest, Refusal> {
    let position = request_parser::position(fields)?;
    let read = fields.boolean(Field::Read)?.unwrap_or(false);
    Ok(HubRequest::Ack { position, read })
}

fn auth(fields: &Fields<'_>) -> Result<EdgeRequest, Refusal> {
    let token = fields.string(Field::Token)?.ok_or_else(|| missing("token"))?;
    let inbox = match fields.string(Field::Inbox)?.as_deref() {
        None => None,
        Some(word) => Some(
            inbox_mode(word)
                .ok_or_else(|| Refusal::new(Code::BadRequest, "`inbox` must be auto, ack or off"))?,
        ),
    };
    Ok(EdgeRequest::Auth { token: Token::new(token), inbox })
}

/// Reads the word for an inbox mode, in `auth` and in the query alike.
pub fn inbox_mode(word: &str) -> Option<InboxMode> {
    match word {
        "auto" => Some(InboxMode::Auto),
        "ack" => Some(InboxMode::Ack),
        "off" => Some(InboxMode::Off),
        _ => None,
    }
}
