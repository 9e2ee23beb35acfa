//! Tokens that are taken no longer, though their signatures hold and they have not ended.
//!
//! Knows which users' tokens and which single ones are revoked, since when, and for how
//! long that is kept. Does not know who may revoke, which the hub decides, nor the file,
//! which is [`mod@file`]'s.
//!
//! A revocation counts against what was issued up to its second (`iat`, RFC 7519, section
//! 4.1.6); a token that does not say when it was issued may be as old as can be. When a
//! revocation is forgotten, a token that was issued before and has not ended yet may be one
//! of those that it was about: so all of them are refused from then on.

pub mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hub::Identity;
use crate::protocol::frame::RevocationEntry;
use crate::protocol::{RevocationTarget, TokenId, UnixTime, UserId};

/// So many are kept at most: 10,000 users of names as long as can be take 3 MiB. Nothing is
/// forgotten early for one more.
pub const MOST: usize = 10_000;

/// A change of what is revoked, as a line of the file spells it. Times are whole seconds
/// since 1970, as in tokens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    RevokeUser(UserId, u64),
    RevokeToken(TokenId, u64),
    LiftUser(UserId),
    LiftToken(TokenId),
    /// The latest second of a revocation that is not kept any more.
    Forgotten(u64),
}

impl Change {
    /// Such tokens are revoked.
    pub fn revoke(revoked: RevocationTarget, second: u64) -> Self {
        match revoked {
            RevocationTarget::User(user) => Self::RevokeUser(user, second),
            RevocationTarget::Token(jti) => Self::RevokeToken(jti, second),
        }
    }

    /// Such tokens are taken again.
    pub fn lift(revoked: RevocationTarget) -> Self {
        match revoked {
            RevocationTarget::User(user) => Self::LiftUser(user),
            RevocationTarget::Token(jti) => Self::LiftToken(jti),
        }
    }
}

/// Why a token is refused that would hold otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// All tokens of its user were revoked then.
    User(UnixTime),
    /// It was.
    Token(UnixTime),
    /// It ends later than a revocation of it would be kept, which is so long.
    EndsTooLate(Duration),
    /// A revocation was forgotten that may have been about it; it was issued before that.
    Forgotten(UnixTime),
}

impl fmt::Display for Cause {
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

/// A token that holds although it, or all of its user, were revoked: it says that it was
/// issued later than that, and later than now.
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

/// What becomes of revocations when they are to be kept for a shorter time.
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
    /// What it means for tokens, a sentence for each thing.
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

/// All that is revoked.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Revocations {
    /// Since which second.
    kept: BTreeMap<RevocationTarget, u64>,
    /// Not later than the first of those: whether any has to be forgotten is asked for every
    /// token.
    oldest: u64,
    /// The latest second of those that are not kept any more; 0: there were none.
    forgotten: u64,
}

impl Revocations {
    /// How many are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Since when such tokens are revoked, if they are.
    pub fn since(&self, revoked: &RevocationTarget) -> Option<UnixTime> {
        self.kept.get(revoked).copied().map(UnixTime::from_secs)
    }

    /// Makes a change. Of two revocations of the same the later one counts.
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

    /// Forgets what was kept for long enough; `ttl` is none where that is for ever.
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

    /// Why a token is refused that would hold otherwise, if it is.
    pub fn find(&mut self, identity: &Identity, now: UnixTime, ttl: Option<Duration>) -> Option<Cause> {
        self.forget(now, ttl);
        let jti = identity.terms.as_ref().and_then(|terms| terms.jti.as_ref());
        let direct = self.of(&identity.user_id, jti, identity.issued_at);
        direct.or_else(|| self.of_one_that_may_be_meant(identity, now, ttl))
    }

    /// Whether tokens of this user are revoked, or this one is.
    pub fn of(&self, user: &UserId, jti: Option<&TokenId>, issued_at: UnixTime) -> Option<Cause> {
        if self.kept.is_empty() {
            return None;
        }
        let counts = |since: &UnixTime| issued_at.0 / 1000 <= since.0 / 1000;
        let by_jti = jti.and_then(|jti| self.since(&RevocationTarget::Token(jti.clone())));
        let by_user = || self.since(&RevocationTarget::User(user.clone())).filter(counts).map(Cause::User);
        by_jti.filter(counts).map(Cause::Token).or_else(by_user)
    }

    /// Whether a token that holds would not if it did not say that it is issued later than now.
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

    /// What follows from keeping all for `ttl` from now on, where that is shorter than before.
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

    fn of_one_that_may_be_meant(
        &self,
        identity: &Identity,
        now: UnixTime,
        ttl: Option<Duration>,
    ) -> Option<Cause> {
        let issued = identity.issued_at.0 / 1000;
        if issued > 0 && issued <= self.forgotten {
            return Some(Cause::Forgotten(UnixTime::from_secs(self.forgotten)));
        }
        let ttl = ttl.filter(|_| !self.kept.is_empty())?;
        let last = now.0.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        identity.expires_at.is_none_or(|end| end.0 > last).then_some(Cause::EndsTooLate(ttl))
    }

    /// All of it, as changes that would lead there from nothing.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        let forgotten = Some(self.forgotten).filter(|second| *second > 0).map(Change::Forgotten);
        let kept = self.kept.iter().map(|(revoked, second)| Change::revoke(revoked.clone(), *second));
        forgotten.into_iter().chain(kept)
    }

    /// The first so many that come after a name that an answer before has told; and the
    /// name after which there are more, if there are.
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

/// In the order in which they are kept: tokens behind users.
fn name(revoked: &RevocationTarget) -> String {
    match revoked {
        RevocationTarget::User(user) => format!("1 {user}"),
        RevocationTarget::Token(jti) => format!("2 {jti}"),
    }
}
