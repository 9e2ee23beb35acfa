//! Revocations of tokens, of all of a user or of single ones.
//!
//! Does not know who may revoke: the hub decides that. They outlive the process in
//! [`mod@file`].
//!
//! A revocation counts for tokens that were issued up to its second (`iat`, RFC 7519, section
//! 4.1.6); one without `iat` may have any age. When a revocation is forgotten, a token that was
//! issued before and has not expired yet may be one that it was about: so all of those are
//! refused from then on.

pub mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hub::Identity;
use crate::protocol::frame::RevocationEntry;
use crate::protocol::{RevocationTarget, TokenId, UnixTime, UserId};

/// Most revocations: 10,000 users with the longest names take 3 MiB. None is forgotten early
/// for one more.
pub const MAX_REVOCATIONS: usize = 10_000;

/// A change of the revocations, as a line of the file spells it. Times are whole seconds since
/// 1970, as in tokens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    RevokeUser(UserId, u64),
    RevokeToken(TokenId, u64),
    LiftUser(UserId),
    LiftToken(TokenId),
    /// The latest second of the revocations that are forgotten.
    Forgotten(u64),
}

impl Change {
    /// Revokes such tokens.
    pub fn revoke(revoked: RevocationTarget, second: u64) -> Self {
        match revoked {
            RevocationTarget::User(user) => Self::RevokeUser(user, second),
            RevocationTarget::Token(jti) => Self::RevokeToken(jti, second),
        }
    }

    /// Accepts such tokens again.
    pub fn lift(revoked: RevocationTarget) -> Self {
        match revoked {
            RevocationTarget::User(user) => Self::LiftUser(user),
            RevocationTarget::Token(jti) => Self::LiftToken(jti),
        }
    }
}

/// Why a token is refused although it holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RevocationCause {
    /// All tokens of its user were revoked at that time.
    User(UnixTime),
    /// It was revoked itself.
    Token(UnixTime),
    /// It expires later than a revocation of it would be kept, which is this long.
    EndsTooLate(Duration),
    /// It was issued before a revocation that is forgotten, and that may have been about it.
    Forgotten(UnixTime),
}

impl fmt::Display for RevocationCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(at) => write!(
                f,
                "the tokens of this user that were issued up to {at}, or do not say when (`iat`), are revoked"
            ),
            Self::Token(at) => write!(f, "the token was revoked at {at}"),
            Self::EndsTooLate(ttl) => write!(
                f,
                "the token ends more than {} from now, which is as long as revocations are kept",
                humantime::format_duration(*ttl)
            ),
            Self::Forgotten(at) => write!(
                f,
                "the token was issued before {at}, and lives longer than the revocations of that time are kept"
            ),
        }
    }
}

/// A token that holds although it, or all of its user, were revoked: its `iat` is later than
/// the revocation, and later than now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outlived {
    revoked_at: UnixTime,
    issued_at: UnixTime,
}

impl fmt::Display for Outlived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "it holds although it was revoked at {}: it says that it was issued at {} (`iat`), which is still to \
             come, and a revocation counts for what was issued before; revoke it again once that second has \
             passed, or change its key",
            self.revoked_at, self.issued_at
        )
    }
}

/// The effect of a shorter time for which revocations are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shortened {
    ttl: Duration,
    /// How many are forgotten at once, and the latest of them.
    forgotten: usize,
    latest_forgotten: UnixTime,
    /// How many are kept on, and when the last of them is forgotten.
    kept: usize,
    until: UnixTime,
}

impl Shortened {
    /// Its consequences for tokens, a sentence for each.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        let Self { forgotten, latest_forgotten, kept, until, .. } = *self;
        let ttl = humantime::format_duration(self.ttl);
        let gone = (forgotten > 0).then(|| {
            format!(
                "auth.revocation_ttl is shorter than before: revocations up to {latest_forgotten}, {forgotten} in \
                 number, are forgotten at once; in their place all tokens that were issued up to then are \
                 refused, of every user, and revoked ones that do not say when they were issued (`iat`) are \
                 taken again"
            )
        });
        let closed = (kept > 0).then(|| {
            format!(
                "auth.revocation_ttl is shorter than before: until {until}, when the last of the {kept} \
                 revocations that are kept is forgotten, tokens that end more than {ttl} ahead are refused \
                 (token_revoked)"
            )
        });
        gone.into_iter().chain(closed)
    }
}

/// All revocations.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Revocations {
    /// Each with its second.
    kept: BTreeMap<RevocationTarget, u64>,
    /// Not later than the first of those: every token asks whether one has to be forgotten.
    oldest: u64,
    /// The latest second of those that are forgotten; 0: there were none.
    forgotten: u64,
}

impl Revocations {
    /// The number of revocations.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Since when such tokens are revoked, if they are.
    pub fn since(&self, revoked: &RevocationTarget) -> Option<UnixTime> {
        self.kept.get(revoked).copied().map(UnixTime::from_secs)
    }

    /// Makes a change. Of two revocations of one target the later one counts.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::RevokeUser(user, second) => self.revoke(RevocationTarget::User(user), second),
            Change::RevokeToken(jti, second) => self.revoke(RevocationTarget::Token(jti), second),
            Change::LiftUser(user) => drop(self.kept.remove(&RevocationTarget::User(user))),
            Change::LiftToken(jti) => drop(self.kept.remove(&RevocationTarget::Token(jti))),
            Change::Forgotten(second) => self.forgotten = self.forgotten.max(second),
        }
    }

    fn revoke(&mut self, revoked: RevocationTarget, second: u64) {
        self.oldest = if self.kept.is_empty() { second } else { self.oldest.min(second) };
        let since = self.kept.entry(revoked).or_default();
        *since = second.max(*since);
    }

    /// Forgets the revocations that are older than `ttl`; without one they are kept for ever.
    pub fn forget(&mut self, now: UnixTime, ttl: Option<Duration>) {
        let Some(ttl) = ttl else { return };
        let now = now.0 / 1000;
        let is_over = |second: u64| second.saturating_add(ttl.as_secs()) <= now;
        if self.kept.is_empty() || !is_over(self.oldest) {
            return;
        }
        let (mut forgotten, mut oldest) = (self.forgotten, u64::MAX);
        self.kept.retain(|_, second| {
            match is_over(*second) {
                true => forgotten = forgotten.max(*second),
                false => oldest = oldest.min(*second),
            }
            !is_over(*second)
        });
        (self.forgotten, self.oldest) = (forgotten, oldest);
    }

    /// Why a token is refused although it holds, if it is.
    pub fn find(
        &mut self,
        identity: &Identity,
        now: UnixTime,
        ttl: Option<Duration>,
    ) -> Option<RevocationCause> {
        self.forget(now, ttl);
        let jti = identity.terms.as_ref().and_then(|terms| terms.jti.as_ref());
        let direct = self.of(&identity.user_id, jti, identity.issued_at);
        direct.or_else(|| self.find_indistinguishable(identity, now, ttl))
    }

    /// The revocation of this token or of its user, if there is one.
    pub fn of(&self, user: &UserId, jti: Option<&TokenId>, issued_at: UnixTime) -> Option<RevocationCause> {
        if self.kept.is_empty() {
            return None;
        }
        let counts = |since: &UnixTime| issued_at.0 / 1000 <= since.0 / 1000;
        let by_jti = jti.and_then(|jti| self.since(&RevocationTarget::Token(jti.clone())));
        let by_user =
            || self.since(&RevocationTarget::User(user.clone())).filter(counts).map(RevocationCause::User);
        by_jti.filter(counts).map(RevocationCause::Token).or_else(by_user)
    }

    /// Whether a token holds only because its `iat` is later than now.
    pub fn outlived(&self, identity: &Identity, now: UnixTime) -> Option<Outlived> {
        let issued_at = identity.issued_at;
        if issued_at.0 / 1000 <= now.0 / 1000 {
            return None;
        }
        let jti = identity.terms.as_ref().and_then(|terms| terms.jti.clone());
        let by_jti = jti.and_then(|jti| self.since(&RevocationTarget::Token(jti)));
        let revoked_at = by_jti.max(self.since(&RevocationTarget::User(identity.user_id.clone())))?;
        Some(Outlived { revoked_at, issued_at })
    }

    /// The effect of keeping all for `ttl` from now on, if that is shorter than before.
    pub fn shortened(
        &mut self,
        now: UnixTime,
        before: Option<Duration>,
        ttl: Option<Duration>,
    ) -> Option<Shortened> {
        let ttl = ttl.filter(|ttl| before.is_none_or(|before| *ttl < before))?;
        self.forget(now, before);
        let end = |second: u64| second.saturating_add(ttl.as_secs());
        let (over, kept): (Vec<u64>, Vec<u64>) =
            self.kept.values().partition(|second| end(**second) <= now.0 / 1000);
        let latest = |seconds: &[u64]| seconds.iter().copied().max().unwrap_or_default();
        Some(Shortened {
            ttl,
            forgotten: over.len(),
            latest_forgotten: UnixTime::from_secs(latest(&over)),
            kept: kept.len(),
            until: UnixTime::from_secs(end(latest(&kept))),
        })
    }

    /// Whether a forgotten revocation, or one that will be forgotten too early, may be about the
    /// token.
    fn find_indistinguishable(
        &self,
        identity: &Identity,
        now: UnixTime,
        ttl: Option<Duration>,
    ) -> Option<RevocationCause> {
        let issued = identity.issued_at.0 / 1000;
        if issued > 0 && issued <= self.forgotten {
            return Some(RevocationCause::Forgotten(UnixTime::from_secs(self.forgotten)));
        }
        let ttl = ttl.filter(|_| !self.kept.is_empty())?;
        let last = now.0.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        identity.expires_at.is_none_or(|end| end.0 > last).then_some(RevocationCause::EndsTooLate(ttl))
    }

    /// All of it, as changes of an empty one.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let forgotten = Some(self.forgotten).filter(|second| *second > 0).map(Change::Forgotten);
        let kept = self.kept.iter().map(|(revoked, second)| Change::revoke(revoked.clone(), *second));
        forgotten.into_iter().chain(kept)
    }

    /// A page of at most `count` entries behind the name that the page before has returned, and
    /// the name for the next page, if there are more.
    pub fn list(
        &self,
        after: Option<&str>,
        count: usize,
        ttl: Option<Duration>,
    ) -> (Vec<RevocationEntry>, Option<String>) {
        let entry = |(revoked, second): (&RevocationTarget, &u64)| {
            let (user_id, jti) = match revoked {
                RevocationTarget::User(user) => (Some(user.clone()), None),
                RevocationTarget::Token(jti) => (None, Some(jti.clone())),
            };
            let until = ttl.map(|ttl| UnixTime::from_secs(second.saturating_add(ttl.as_secs())));
            RevocationEntry { user_id, jti, revoked_at: UnixTime::from_secs(*second), until }
        };
        let is_after = |name: String| after.is_none_or(|after| *name > *after);
        let mut rest = self.kept.iter().filter(|(revoked, _)| is_after(name(revoked))).peekable();
        let (mut entries, mut last) = (Vec::new(), None);
        while entries.len() < count
            && let Some(one) = rest.next()
        {
            last = Some(one.0);
            entries.push(entry(one));
        }
        let next = last.filter(|_| rest.peek().is_some()).map(name);
        (entries, next)
    }
}

/// The name of an entry, in the order of the map: tokens behind users.
fn name(revoked: &RevocationTarget) -> String {
    match revoked {
        RevocationTarget::User(user) => format!("1 {user}"),
        RevocationTarget::Token(jti) => format!("2 {jti}"),
    }
}
