//! What a WebSocket client may say.
//!
//! Knows one text frame as one request. Does not know sockets, or who the
//! client is; what it hears is in [`frame`](super::frame).

use super::fields;
use super::fields::{Fields, missing};
use super::refusal::{Code, Refusal};
use super::request::{InboxMode, MalformedRequest, Request, RequestEnvelope, Token};
use super::request_parser;
use super::request_parser::ToAll;

/// Reads one frame.
///
/// # Errors
/// `bad_json`, `bad_request`, `unknown_action`, `too_large` or `forbidden`, with
/// the request's id where it could be read.
pub fn parse(text: &str) -> Result<RequestEnvelope, MalformedRequest> {
    request_parser::request(text, None, |action, fields| match action {
        "subscribe" => request_parser::subscribe(fields),
        "unsubscribe" => request_parser::channel(fields).map(Request::Unsubscribe),
        "send" => request_parser::publication(fields, ToAll::Unknown, None),
        "whisper" => whisper(fields),
        "interrupt" => request_parser::interrupt(fields),
        "presence" => request_parser::channel(fields).map(Request::Presence),
        "ack" => ack(fields),
        "auth" => auth(fields),
        "ping" => Ok(Request::Ping),
        other => request_parser::administration(other, fields),
    })
}

fn whisper(fields: &Fields<'_>) -> Result<Request, Refusal> {
    Ok(Request::Whisper {
        channel: request_parser::channel(fields)?,
        event: request_parser::event(fields.event, None)?,
        data: fields::payload(fields.data)?,
    })
}

fn ack(fields: &Fields<'_>) -> Result<Request, Refusal> {
    let position = request_parser::position(fields)?;
    let read = fields::boolean("read", fields.read)?.unwrap_or(false);
    Ok(Request::Ack { position, read })
}

fn auth(fields: &Fields<'_>) -> Result<Request, Refusal> {
    let token = fields::string("token", fields.token)?.ok_or_else(|| missing("token"))?;
    let inbox = match fields::string("inbox", fields.inbox)?.as_deref() {
        None => None,
        Some(word) => Some(
            inbox_mode(word)
                .ok_or_else(|| Refusal::new(Code::BadRequest, "`inbox` must be auto, ack or off"))?,
        ),
    };
    Ok(Request::Auth { token: Token::new(token), inbox })
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
