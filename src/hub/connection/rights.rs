//! Rights of a connection: patterns, and how they match.
//!
//! Does not know tokens: the edge verifies those and makes rights of them.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::{Connection, ConnectionKind};
use crate::protocol::{Channel, Payload, RateLimit, TokenId, UnixTime, UserId};

/// A name with `*` for any run of characters and `{user_id}` for the user's own.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Takes any text; what can match nothing matches nothing.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` fits. A `*` in front does not reach the daemon's own
    /// names: those that begin with `@` or `system:` must be named as such.
    pub fn matches(&self, name: &str, user: Option<&UserId>) -> bool {
        let guarded = ["@", "system:"].iter().find(|own| name.starts_with(**own));
        if guarded.is_some_and(|own| !self.0.starts_with(own)) {
            return false;
        }
        fits(&self.0, name, user.map(UserId::as_str))
    }
}

/// The placeholder that stands for the asking user's own id.
const OWN: &str = "{user_id}";

/// Matches piece by piece; after a `*` the rest is tried at every place, from
/// the last one star only, so that it stays quadratic at worst.
fn fits(pattern: &str, name: &str, user: Option<&str>) -> bool {
    let (mut pattern, mut name) = (pattern, name);
    let mut retry: Option<(&str, &str)> = None;
    loop {
        let step = match pattern.chars().next() {
            None if name.is_empty() => return true,
            None => None,
            Some('*') => {
                pattern = pattern.split_at(1).1;
                retry = Some((pattern, name));
                continue;
            }
            Some(_) if pattern.starts_with(OWN) => {
                user.and_then(|id| name.strip_prefix(id)).map(|rest| (pattern.split_at(OWN.len()).1, rest))
            }
            Some(c) => name.strip_prefix(c).map(|rest| (pattern.split_at(c.len_utf8()).1, rest)),
        };
        match (step, retry) {
            (Some((after, rest)), _) => (pattern, name) = (after, rest),
            (None, Some((after, from))) => {
                let Some(skipped) = from.chars().next() else { return false };
                let from = from.split_at(skipped.len_utf8()).1;
                retry = Some((after, from));
                (pattern, name) = (after, from);
            }
            (None, None) => return false,
        }
    }
}

/// Patterns for each thing that is permitted; shared by all connections that have the same.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Rights {
    /// Channels to subscribe to.
    pub subscribe: Vec<Pattern>,
    /// Channels, `@user:<id>` and `@connection:<id>` to publish to.
    pub publish: Vec<Pattern>,
    /// Channels whose operations may be interrupted, beside one's own.
    pub interrupt: Vec<Pattern>,
    /// Whether its user is an administrator of the hub.
    pub admin: bool,
}

/// The user that a token names, and what it allows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Identity {
    pub user_id: UserId,
    /// What the token itself allows; none where it does not say, and the
    /// configuration does.
    pub rights: Option<Rc<Rights>>,
    /// When the token ends.
    pub expires_at: Option<UnixTime>,
    /// When it was issued; 0 where it does not say, for then it may be as old as can be.
    pub issued_at: UnixTime,
    /// What else it says of its bearer; none in most.
    pub terms: Option<Rc<Terms>>,
}

/// What few tokens say beside their rights.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Terms {
    /// The request rate.
    pub limits: Option<RateLimit>,
    /// What others see of the user.
    pub info: Option<Payload>,
    /// The id of the token.
    pub jti: Option<TokenId>,
}

impl Identity {
    /// A user whose token says nothing else.
    pub fn new(user_id: UserId) -> Self {
        Self { user_id, rights: None, expires_at: None, issued_at: UnixTime::default(), terms: None }
    }
}

impl Rights {
    /// Whether a subscription to `channel` is permitted.
    pub fn may_subscribe(&self, channel: &Channel, user: Option<&UserId>) -> bool {
        self.subscribe.iter().any(|pattern| pattern.matches(channel.as_str(), user))
    }

    /// Whether publishing to `name` is permitted: a channel, `@user:<id>` or `@connection:<id>`.
    pub fn may_publish(&self, name: &str, user: Option<&UserId>) -> bool {
        self.publish.iter().any(|pattern| pattern.matches(name, user))
    }

    /// Whether operations of `channel` may be interrupted.
    pub fn may_interrupt(&self, channel: &Channel, user: Option<&UserId>) -> bool {
        self.interrupt.iter().any(|pattern| pattern.matches(channel.as_str(), user))
    }
}

impl Connection {
    /// What it may do: what its token says, or `usual`, the rights of the settings.
    pub(in crate::hub) fn rights<'a>(&'a self, usual: &'a Rights) -> &'a Rights {
        self.rights.as_deref().unwrap_or(usual)
    }

    /// Whether the rights of the settings count for it.
    pub(in crate::hub) fn has_usual_rights(&self) -> bool {
        self.rights.is_none()
    }

    pub(in crate::hub) fn is_admin(&self, usual: &Rights) -> bool {
        match self.kind {
            ConnectionKind::Worker { admin, .. } => admin,
            ConnectionKind::Client => self.rights(usual).admin,
            ConnectionKind::Unauthenticated => false,
        }
    }

    /// Whether it may interrupt what runs on a channel for a user, or for none.
    pub(in crate::hub) fn may_interrupt(
        &self,
        usual: &Rights,
        channel: &Channel,
        of: Option<&UserId>,
    ) -> bool {
        if let ConnectionKind::Worker { admin, .. } = self.kind {
            return admin;
        }
        let (user, rights) = (self.user(), self.rights(usual));
        let is_own = user.is_some() && user == of;
        let is_nobodys = of.is_none() && rights.may_publish(channel.as_str(), user);
        is_own || is_nobodys || rights.may_interrupt(channel, user)
    }
}
