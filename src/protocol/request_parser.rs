//! The parser of the requests that clients, workers and HTTP callers have in common.

use std::borrow::Cow;
use std::fmt::Display;

use super::fields::{Field, Fields, RequestId, missing};
use super::ids::{Channel, Event, MessageId, OperationId, TokenId, UserId};
use super::refusal::{Code, Refusal};
use super::request::{
    After, EndState, HubRequest, InterruptRequest, MalformedRequest, OperationEnd, OperationStart, Position,
    Publication, RequestEnvelope, RevocationTarget, Subscription, Target,
};

/// Longest reason or label in bytes: a sentence or two for people.
const LONGEST_TEXT: usize = 1024;

/// Reads one request: the object, its id, its action, and what `of` makes of
/// these. Without an action it is `unnamed`.
pub(super) fn request<R>(
    text: &str,
    unnamed: Option<&'static str>,
    of: impl FnOnce(&str, &Fields<'_>) -> Result<R, Refusal>,
) -> Result<RequestEnvelope<R>, MalformedRequest> {
    let fields = Fields::read(text)
        .map_err(|refusal| MalformedRequest { id: RequestId::of_unreadable(text), refusal })?;
    let id = RequestId::of(&fields).map_err(|refusal| MalformedRequest { id: None, refusal })?;
    let request = action(&fields, unnamed).and_then(|action| {
        of(&action, &fields).map_err(|mut refusal| {
            // A known action is one of a few words; what is unknown is cut to
            // what fits a log line.
            refusal.action = Some(action.chars().take(40).collect::<String>().into());
            refusal.channel =
                fields.string(Field::Channel).ok().flatten().and_then(|name| Channel::addressed(&name).ok());
            refusal
        })
    });
    match request {
        Ok(request) => Ok(RequestEnvelope { id, request }),
        Err(refusal) => Err(MalformedRequest { id, refusal }),
    }
}

fn action<'a>(fields: &Fields<'a>, unnamed: Option<&'static str>) -> Result<Cow<'a, str>, Refusal> {
    match fields.string(Field::Action)? {
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
    fields.string(Field::Channel)?.map(|name| Channel::addressed(&name)).transpose()
}

pub(super) fn after(fields: &Fields<'_>) -> Result<After, Refusal> {
    Ok(fields.string(Field::After)?.map(Cow::into_owned))
}

pub(super) fn user_id(fields: &Fields<'_>) -> Result<Option<UserId>, Refusal> {
    fields.id(Field::UserId)?.map(|name| UserId::new(&name)).transpose()
}

/// `event`, or else the field `also`, where another is understood.
pub(super) fn event(fields: &Fields<'_>, also: Option<Field>) -> Result<Event, Refusal> {
    let name = match (fields.string(Field::Event)?, also) {
        (None, Some(also)) => fields.string(also)?,
        (name, _) => name,
    };
    let event = Event::new(&name.ok_or_else(|| missing("event"))?)?;
    if event.is_reserved() {
        return Err(Refusal::new(Code::Forbidden, "events that begin with `system:` are the daemon's own"));
    }
    Ok(event)
}

fn operation_id(fields: &Fields<'_>) -> Result<Option<OperationId>, Refusal> {
    fields.id(Field::OperationId)?.map(|id| OperationId::new(&id)).transpose()
}

/// Text for people.
fn text(fields: &Fields<'_>, field: Field) -> Result<Option<String>, Refusal> {
    match fields.string(field)? {
        Some(text) if text.len() > LONGEST_TEXT => {
            let message = format!("`{}` is over {LONGEST_TEXT} bytes", field.name());
            Err(Refusal::new(Code::TooLarge, message))
        }
        text => Ok(text.map(Cow::into_owned)),
    }
}

/// A message, with exactly one field that names its recipients.
pub(super) fn publication(
    fields: &Fields<'_>,
    to_all: ToAll,
    also: Option<Field>,
) -> Result<Publication, Refusal> {
    let ttl = fields.duration(Field::Ttl)?;
    let durable = fields.boolean(Field::Durable)?.unwrap_or(false);
    if durable && ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err(Refusal::new(
            Code::BadRequest,
            "`durable` with a `ttl` of 0 would be stored for no time at all",
        ));
    }
    let message_id = fields.id(Field::MessageId)?.map(|id| MessageId::new(&id)).transpose()?;
    let target = target(fields, to_all)?;
    let receipt = fields.boolean(Field::Receipt)?.unwrap_or(false);
    let is_kept = matches!(target, Target::User(_)) && ttl.is_none_or(|ttl| !ttl.is_zero());
    if receipt && !is_kept {
        let why = "`receipt` goes with `user_id` and a `ttl` above 0: nothing else is acknowledged";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    Ok(Publication {
        target,
        event: event(fields, also)?,
        data: fields.payload()?,
        ttl,
        durable,
        echo: fields.boolean(Field::Echo)?.unwrap_or(true),
        message_id,
        receipt,
    })
}

/// Whether `"all": true` is understood.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ToAll {
    Allowed,
    Unknown,
}

fn target(fields: &Fields<'_>, to_all: ToAll) -> Result<Target, Refusal> {
    let all = match fields.boolean(Field::All)? {
        Some(true) if to_all == ToAll::Allowed => Some(Target::All),
        _ => None,
    };
    let names = match to_all {
        ToAll::Allowed => "`channel`, `user_id`, `connection_id` and `all`",
        ToAll::Unknown => "`channel`, `user_id` and `connection_id`",
    };
    only([on_channel(fields)?, to_connection(fields)?, to_user(fields)?, all], names)
}

/// The log that is meant.
fn channel_or_user(fields: &Fields<'_>) -> Result<Target, Refusal> {
    only([on_channel(fields)?, to_user(fields)?], "`channel` and `user_id`")
}

/// Which connections are to end, and whether tokens are revoked with them.
pub(super) fn disconnect(fields: &Fields<'_>) -> Result<HubRequest, Refusal> {
    let revokes = fields.boolean(Field::Revoke)?.unwrap_or(false);
    if !revokes && !fields.has(Field::Jti) {
        let target = only([to_connection(fields)?, to_user(fields)?], "`connection_id` and `user_id`")?;
        return Ok(HubRequest::Disconnect(target));
    }
    if fields.has(Field::ConnectionId) {
        let why = "`revoke` goes with `user_id` or `jti`: a connection by its id has no token of that name";
        return Err(Refusal::new(Code::BadRequest, why));
    }
    user_or_jti(fields).map(HubRequest::Revoke)
}

/// The tokens of a user, or one token.
pub(super) fn user_or_jti(fields: &Fields<'_>) -> Result<RevocationTarget, Refusal> {
    let user = user_id(fields)?.map(RevocationTarget::User);
    let jti = fields.id(Field::Jti)?.map(|id| TokenId::new(&id)).transpose()?;
    only([user, jti.map(RevocationTarget::Token)], "`user_id` and `jti`")
}

/// Administrative requests, which have the same form for workers and clients.
pub(super) fn administration(action: &str, fields: &Fields<'_>) -> Result<HubRequest, Refusal> {
    match action {
        "operations" => {
            Ok(HubRequest::Operations { channel: optional_channel(fields)?, after: after(fields)? })
        }
        "stats" => Ok(HubRequest::Stats),
        "connections" => after(fields).map(|after| HubRequest::Connections { after }),
        "channels" => after(fields).map(|after| HubRequest::Channels { after }),
        "inbox" => match user_id(fields)? {
            Some(user) => Ok(HubRequest::Inbox(user)),
            None => after(fields).map(|after| HubRequest::Inboxes { after }),
        },
        "purge" => channel_or_user(fields).map(HubRequest::Purge),
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

/// A name that is longer than any id names no connection, and is cut.
fn to_connection(fields: &Fields<'_>) -> Result<Option<Target>, Refusal> {
    let id = fields.id(Field::ConnectionId)?;
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
pub(super) fn interrupt(fields: &Fields<'_>) -> Result<InterruptRequest, Refusal> {
    let mut operation = operation_id(fields)?;
    let mut reason = text(fields, Field::Reason)?;
    if let (None, Some(data)) = (&operation, fields.object(Field::Data)?) {
        operation = operation_id(&data)?;
        reason = reason.or(text(&data, Field::Reason)?);
    }
    Ok(InterruptRequest {
        operation_id: operation.ok_or_else(|| missing("operation_id"))?,
        channel: optional_channel(fields)?,
        reason,
    })
}

pub(super) fn start(fields: &Fields<'_>) -> Result<HubRequest, Refusal> {
    Ok(HubRequest::Start(OperationStart {
        operation_id: operation_id(fields)?.ok_or_else(|| missing("operation_id"))?,
        channel: channel(fields)?,
        user_id: user_id(fields)?,
        label: text(fields, Field::Label)?,
        deadline: fields.duration(Field::Deadline)?,
        interrupt_grace: fields.duration(Field::InterruptGrace)?,
    }))
}

pub(super) fn end(fields: &Fields<'_>) -> Result<HubRequest, Refusal> {
    let state = match fields.string(Field::State)?.as_deref() {
        Some("completed") => EndState::Completed,
        Some("failed") => EndState::Failed,
        Some("interrupted") => EndState::Interrupted,
        None => return Err(missing("state")),
        Some(_) => {
            return Err(Refusal::new(Code::BadRequest, "`state` must be completed, failed or interrupted"));
        }
    };
    let data = if fields.has(Field::Data) { Some(fields.payload()?) } else { None };
    let operation_id = operation_id(fields)?.ok_or_else(|| missing("operation_id"))?;
    Ok(HubRequest::End(OperationEnd { operation_id, state, data }))
}

/// `channel` with its options, or `channels`: a list of such.
pub(super) fn subscribe(fields: &Fields<'_>) -> Result<HubRequest, Refusal> {
    match (fields.has(Field::Channel), fields.objects(Field::Channels)?) {
        (true, Some(_)) => Err(Refusal::new(Code::BadRequest, "`channel` and `channels` exclude each other")),
        (false, Some(list)) if list.is_empty() => Err(Refusal::new(Code::BadRequest, "`channels` is empty")),
        (false, Some(list)) => list.iter().map(one).collect::<Result<_, _>>().map(HubRequest::Subscribe),
        (_, None) => Ok(HubRequest::Subscribe(vec![one(fields)?])),
    }
}

fn one(fields: &Fields<'_>) -> Result<Subscription, Refusal> {
    Ok(Subscription {
        channel: channel(fields)?,
        since: fields.object(Field::Since)?.map(|since| position(&since)).transpose()?,
        presence: fields.boolean(Field::Presence)?.unwrap_or(false),
    })
}

/// The epoch is opaque and short; the empty one requests all kept messages.
pub(super) fn position(fields: &Fields<'_>) -> Result<Position, Refusal> {
    /// What epochs are cut to.
    const LONGEST_EPOCH: usize = 16;
    let epoch = fields.string(Field::Epoch)?.ok_or_else(|| missing("epoch"))?;
    if epoch.len() > LONGEST_EPOCH {
        return Err(Refusal::new(Code::BadRequest, format!("`epoch` is over {LONGEST_EPOCH} characters")));
    }
    let seq = fields.number(Field::Seq)?.ok_or_else(|| missing("seq"))?;
    Ok(Position { epoch: epoch.into_owned(), seq })
}
