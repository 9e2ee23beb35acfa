//! The requests that clients, workers and HTTP callers have in common.
//!
//! Knows which request wants which fields. Does not know who sent it.

use std::borrow::Cow;
use std::fmt::Display;

use super::fields;
use super::fields::{Fields, Raw, RequestId, missing};
use super::ids::{Channel, Event, MessageId, OperationId, TokenId, UserId};
use super::message::Payload;
use super::refusal::{Code, Refusal};
use super::request::{
    After, EndState, InterruptRequest, MalformedRequest, OperationEnd, OperationStart, Position, Publication,
    Request, RequestEnvelope, RevocationTarget, Subscription, Target,
};

/// Longest reason or label in bytes: a sentence or two for people.
const LONGEST_TEXT: usize = 1024;

/// Reads one request: the object, its id, its action, and what `of` makes of
/// these.
pub(super) fn request(
    text: &str,
    unnamed: Option<&'static str>,
    of: impl FnOnce(&str, &Fields<'_>) -> Result<Request, Refusal>,
) -> Result<RequestEnvelope, MalformedRequest> {
    let fields =
        Fields::read(text).map_err(|refusal| MalformedRequest { id: RequestId::glean(text), refusal })?;
    let id = RequestId::read(fields.id).map_err(|refusal| MalformedRequest { id: None, refusal })?;
    let said = action(&fields, unnamed).and_then(|action| {
        of(&action, &fields).map_err(|mut refusal| {
            // A known action is one of a few words; what is unknown is cut to
            // what fits a log line.
            refusal.action = Some(action.chars().take(40).collect::<String>().into());
            refusal.channel = fields::string("channel", fields.channel)
                .ok()
                .flatten()
                .and_then(|name| Channel::addressed(&name).ok());
            refusal
        })
    });
    match said {
        Ok(say) => Ok(RequestEnvelope { id, request: say }),
        Err(refusal) => Err(MalformedRequest { id, refusal }),
    }
}

fn action<'a>(fields: &Fields<'a>, unnamed: Option<&'static str>) -> Result<Cow<'a, str>, Refusal> {
    match fields::string("action", fields.action)? {
        Some(action) => Ok(action),
        None => unnamed.map(Cow::Borrowed).ok_or_else(|| missing("action")),
    }
}

fn unknown_action(action: &str) -> Refusal {
    let shown: String = action.chars().take(40).collect();
    Refusal::new(Code::UnknownAction, format!("there is no action {shown:?}"))
}

pub(super) fn channel(fields: &Fields<'_>) -> Result<Channel, Refusal> {
    optional_channel(fields)?.ok_or_else(|| missing("channel"))
}

pub(super) fn optional_channel(fields: &Fields<'_>) -> Result<Option<Channel>, Refusal> {
    fields::string("channel", fields.channel)?.map(|name| Channel::addressed(&name)).transpose()
}

pub(super) fn after(fields: &Fields<'_>) -> Result<After, Refusal> {
    Ok(fields::string("after", fields.after)?.map(Cow::into_owned))
}

pub(super) fn user_id(fields: &Fields<'_>) -> Result<Option<UserId>, Refusal> {
    fields::id("user_id", fields.user_id)?.map(|name| UserId::new(&name)).transpose()
}

pub(super) fn event(raw: Raw<'_>, also: Raw<'_>) -> Result<Event, Refusal> {
    let name = match fields::string("event", raw)? {
        Some(name) => Some(name),
        None => fields::string("type", also)?,
    };
    let event = Event::new(&name.ok_or_else(|| missing("event"))?)?;
    if event.is_reserved() {
        return Err(Refusal::new(Code::Forbidden, "events that begin with `system:` are the daemon's own"));
    }
    Ok(event)
}

fn operation_id(raw: Raw<'_>) -> Result<Option<OperationId>, Refusal> {
    fields::id("operation_id", raw)?.map(|id| OperationId::new(&id)).transpose()
}

fn text(field: &'static str, raw: Raw<'_>) -> Result<Option<String>, Refusal> {
    let text = fields::string(field, raw)?;
    match text {
        Some(text) if text.len() > LONGEST_TEXT => {
            Err(Refusal::new(Code::TooLarge, format!("`{field}` is over {LONGEST_TEXT} bytes")))
        }
        text => Ok(text.map(Cow::into_owned)),
    }
}

/// Who may send to whom, and by which field: exactly one of them.
pub(super) fn publication(fields: &Fields<'_>, to_all: ToAll, also: Raw<'_>) -> Result<Request, Refusal> {
    let ttl = fields::duration("ttl", fields.ttl)?;
    let durable = fields::boolean("durable", fields.durable)?.unwrap_or(false);
    if durable && ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(Refusal::new(
            Code::BadRequest,
            "`durable` with a `ttl` of 0 would be stored for no time at all",
        ));
    }
    let message_id =
        fields::id("message_id", fields.message_id)?.map(|id| MessageId::new(&id)).transpose()?;
    let target = target(fields, to_all)?;
    let receipt = fields::boolean("receipt", fields.receipt)?.unwrap_or(false);
    let is_kept = matches!(target, Target::User(_)) && ttl.is_none_or(|ttl| !ttl.is_zero());
    if receipt && !is_kept {
        let why = "`receipt` goes with `user_id` and a `ttl` above 0: nothing else is acknowledged";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    Ok(Request::Publish(Publication {
        target,
        event: event(fields.event, also)?,
        data: fields::payload(fields.data)?,
        ttl,
        durable,
        echo: fields::boolean("echo", fields.echo)?.unwrap_or(true),
        message_id,
        receipt,
    }))
}

/// Whether `"all": true` is understood.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ToAll {
    Allowed,
    Unknown,
}

fn target(fields: &Fields<'_>, to_all: ToAll) -> Result<Target, Refusal> {
    let all = match fields::boolean("all", fields.all)? {
        Some(true) if to_all == ToAll::Allowed => Some(Target::All),
        _ => None,
    };
    let names = match to_all {
        ToAll::Allowed => "`channel`, `user_id`, `connection_id` and `all`",
        ToAll::Unknown => "`channel`, `user_id` and `connection_id`",
    };
    only([on_channel(fields)?, to_connection(fields)?, to_user(fields)?, all], names)
}

/// Whose kept messages are meant.
fn channel_or_user(fields: &Fields<'_>) -> Result<Target, Refusal> {
    only([on_channel(fields)?, to_user(fields)?], "`channel` and `user_id`")
}

/// Which connections are to end, and whether tokens are revoked with them.
pub(super) fn disconnect(fields: &Fields<'_>) -> Result<Request, Refusal> {
    let revokes = fields::boolean("revoke", fields.revoke)?.unwrap_or(false);
    if !revokes && fields.jti.is_none() {
        let target = only([to_connection(fields)?, to_user(fields)?], "`connection_id` and `user_id`")?;
        return Ok(Request::Disconnect(target));
    }
    if fields.connection_id.is_some() {
        let why = "`revoke` goes with `user_id` or `jti`: a connection by its id has no token of that name";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    user_or_jti(fields).map(Request::Revoke)
}

/// Whose tokens, or which one.
pub(super) fn user_or_jti(fields: &Fields<'_>) -> Result<RevocationTarget, Refusal> {
    let user = user_id(fields)?.map(RevocationTarget::User);
    let jti = fields::id("jti", fields.jti)?.map(|id| TokenId::new(&id)).transpose()?;
    only([user, jti.map(RevocationTarget::Token)], "`user_id` and `jti`")
}

/// Administration that workers and clients ask for in the same words.
pub(super) fn administration(action: &str, fields: &Fields<'_>) -> Result<Request, Refusal> {
    match action {
        "operations" => Ok(Request::Operations { channel: optional_channel(fields)?, after: after(fields)? }),
        "stats" => Ok(Request::Stats),
        "connections" => after(fields).map(|after| Request::Connections { after }),
        "channels" => after(fields).map(|after| Request::Channels { after }),
        "inbox" => match user_id(fields)? {
            Some(user) => Ok(Request::Inbox(user)),
            None => after(fields).map(|after| Request::Inboxes { after }),
        },
        "purge" => channel_or_user(fields).map(Request::Purge),
        "disconnect" => disconnect(fields),
        other => Err(unknown_action(other)),
    }
}

fn on_channel(fields: &Fields<'_>) -> Result<Option<Target>, Refusal> {
    Ok(optional_channel(fields)?.map(Target::Channel))
}

fn to_user(fields: &Fields<'_>) -> Result<Option<Target>, Refusal> {
    Ok(user_id(fields)?.map(Target::User))
}

/// What is longer than any id names nobody, whatever follows.
fn to_connection(fields: &Fields<'_>) -> Result<Option<Target>, Refusal> {
    let id = fields::id("connection_id", fields.connection_id)?;
    Ok(id.map(|id| Target::Connection(id.chars().take(super::ids::LONGEST_NAME).collect())))
}

fn only<T, const N: usize>(given: [Option<T>; N], names: &str) -> Result<T, Refusal> {
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (Some(target), None) => Ok(target),
        (None, _) => Err(one_of(names, "none was given")),
        (Some(_), Some(_)) => Err(one_of(names, "more were given")),
    }
}

fn one_of(names: &str, but: impl Display) -> Refusal {
    Refusal::new(Code::BadRequest, format!("exactly one of {names} is wanted, {but}"))
}

/// `operation_id` stands in `data`, or beside it.
pub(super) fn interrupt(fields: &Fields<'_>) -> Result<Request, Refusal> {
    let mut operation = operation_id(fields.operation_id)?;
    let mut reason = text("reason", fields.reason)?;
    if let (None, Some(data)) = (&operation, fields::object("data", fields.data)?) {
        operation = operation_id(data.operation_id)?;
        reason = reason.or(text("reason", data.reason)?);
    }
    Ok(Request::Interrupt(InterruptRequest {
        operation_id: operation.ok_or_else(|| missing("operation_id"))?,
        channel: optional_channel(fields)?,
        reason,
    }))
}

pub(super) fn start(fields: &Fields<'_>) -> Result<Request, Refusal> {
    Ok(Request::Start(OperationStart {
        operation_id: operation_id(fields.operation_id)?.ok_or_else(|| missing("operation_id"))?,
        channel: channel(fields)?,
        user_id: user_id(fields)?,
        label: text("label", fields.label)?,
        deadline: fields::duration("deadline", fields.deadline)?,
        interrupt_grace: fields::duration("interrupt_grace", fields.interrupt_grace)?,
    }))
}

pub(super) fn end(fields: &Fields<'_>) -> Result<Request, Refusal> {
    let state = match fields::string("state", fields.state)?.as_deref() {
        Some("completed") => EndState::Completed,
        Some("failed") => EndState::Failed,
        Some("interrupted") => EndState::Interrupted,
        None => return Err(missing("state")),
        Some(_) => {
            return Err(Refusal::new(Code::BadRequest, "`state` must be completed, failed or interrupted"));
        }
    };
    let data: Option<Payload> = fields.data.map(|raw| fields::payload(Some(raw))).transpose()?;
    let operation_id = operation_id(fields.operation_id)?.ok_or_else(|| missing("operation_id"))?;
    Ok(Request::End(OperationEnd { operation_id, state, data }))
}

/// `channel` with its options, or `channels`: a list of such.
pub(super) fn subscribe(fields: &Fields<'_>) -> Result<Request, Refusal> {
    match (fields.channel, fields::objects("channels", fields.channels)?) {
        (Some(_), Some(_)) => {
            Err(Refusal::new(Code::BadRequest, "`channel` and `channels` exclude each other"))
        }
        (None, Some(list)) if list.is_empty() => Err(Refusal::new(Code::BadRequest, "`channels` is empty")),
        (None, Some(list)) => list.iter().map(one).collect::<Result<_, _>>().map(Request::Subscribe),
        (_, None) => Ok(Request::Subscribe(vec![one(fields)?])),
    }
}

fn one(fields: &Fields<'_>) -> Result<Subscription, Refusal> {
    Ok(Subscription {
        channel: channel(fields)?,
        since: fields::object("since", fields.since)?.map(|since| position(&since)).transpose()?,
        presence: fields::boolean("presence", fields.presence)?.unwrap_or(false),
    })
}

/// The epoch is opaque and short; the empty one asks for all that is kept.
pub(super) fn position(fields: &Fields<'_>) -> Result<Position, Refusal> {
    /// What epochs are cut to.
    const LONGEST_EPOCH: usize = 16;
    let epoch = fields::string("epoch", fields.epoch)?.ok_or_else(|| missing("epoch"))?;
    if epoch.len() > LONGEST_EPOCH {
        return Err(Refusal::new(Code::BadRequest, format!("`epoch` is over {LONGEST_EPOCH} characters")));
    }
    let seq = fields::number("seq", fields.seq)?.ok_or_else(|| missing("seq"))?;
    Ok(Position { epoch: epoch.into_owned(), seq })
}
