//! Log of anomalies and refusals: their wording, and a limit of one line a second of each kind.
//!
//! A peer that causes them must not fill the log with them. What is worth a line is a closed
//! list: [`Anomaly`], a reason for a refusal, and a few kinds of the edge's own.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use log::kv::Value;
use log::{Level, Record};
use smallvec::SmallVec;

use crate::hub::Anomaly;
use crate::protocol::{Close, ConnectionId, Moment, Reason, UserId};
use crate::rate_limiter::Bucket;

/// What a line is about. Each kind is limited on its own, so that one which comes
/// often hides no other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnomalyKind {
    Stalled,
    Misbehaved,
    OwnerLost,
    Overran,
    /// Older messages gave way to newer ones.
    KeptLimit,
    /// A message was not kept.
    NotKept,
    Memory,
    Overloaded,
    /// A token that holds has something in it that means nothing.
    OddToken,
    /// A pending connection was evicted for another.
    Evicted,
    /// No connection can be accepted.
    NotAccepting,
}

/// How many kinds there are.
const KINDS: usize = AnomalyKind::NotAccepting as usize + 1;

/// A person reads one line a second; more of the same kind show nothing new.
const PAUSE: Duration = Duration::from_secs(1);

/// The rate of lines of one kind, and how many were held back since the last.
#[derive(Clone, Copy, Default, Debug)]
struct LogRate {
    bucket: Bucket,
    held_back: u64,
}

impl LogRate {
    fn is_due(&self, now: Moment) -> bool {
        self.bucket.owes(now).is_zero()
    }

    /// Takes the turn of this kind, if it is due; then how many were held back.
    fn take_turn(&mut self, now: Moment) -> Option<u64> {
        if self.bucket.take_within(now, PAUSE, PAUSE).is_err() {
            self.held_back += 1;
            return None;
        }
        Some(std::mem::take(&mut self.held_back))
    }
}

/// The pace of each kind, and of each reason for a refusal.
#[derive(Debug)]
pub struct AnomalyLog {
    kinds: [LogRate; KINDS],
    reasons: [LogRate; Reason::NAMES.len()],
}

impl Default for AnomalyLog {
    fn default() -> Self {
        Self { kinds: [LogRate::default(); KINDS], reasons: [LogRate::default(); Reason::NAMES.len()] }
    }
}

impl AnomalyLog {
    /// Writes a line, unless one of its kind was written within the last second;
    /// the next that is written counts those that were not. `fields` are the names in it,
    /// by which a journal is searched.
    pub fn log(&mut self, now: Moment, kind: AnomalyKind, line: impl fmt::Display, fields: &[LogField<'_>]) {
        let held_back = self.kinds.get_mut(kind as usize).and_then(|rate| rate.take_turn(now));
        write_with(held_back, line, fields);
    }

    /// The same of a refusal, limited by its reason; `fields` name the peer that was refused.
    pub fn refused(&mut self, now: Moment, reason: Reason, line: impl fmt::Display, fields: &[LogField<'_>]) {
        let held_back = self.reasons.get_mut(reason as usize).and_then(|rate| rate.take_turn(now));
        let reason = [("reason", Value::from(reason.word()))];
        let fields: SmallVec<[LogField<'_>; 3]> = reason.into_iter().chain(fields.iter().cloned()).collect();
        write_with(held_back, format_args!("refused {line}"), &fields);
    }

    /// Whether a line of a reason would be written now.
    pub fn is_due(&self, now: Moment, reason: Reason) -> bool {
        self.reasons.get(reason as usize).is_some_and(|rate| rate.is_due(now))
    }

    /// The hub has refused a connection, and counted that. `from` is the address of its peer.
    pub(super) fn refused_by_hub(
        &mut self,
        now: Moment,
        conn: ConnectionId,
        user: Option<&UserId>,
        reason: Reason,
        from: Option<IpAddr>,
    ) {
        let why = match reason {
            Reason::TokenMissing => {
                "it came without a token, and sent no `auth` in time (`[limits] auth_timeout`; `[auth] \
                 anonymous` lets in whoever has none)"
            }
            Reason::TooManyConnections => {
                "the user has as many connections as one may have (`[limits] connections_per_user`)"
            }
            Reason::RateLimited => {
                "new connections come too fast (`[limits] user_requests_per_second`, `connections_per_user`)"
            }
            _ => {
                "it has not said who it is, and gave way: all connections are taken (`[limits] connections`)"
            }
        };
        let user = user.map(|user| format!(" of user {user:?}")).unwrap_or_default();
        let from = shown_address(from);
        let line = format_args!("{from}: connection {conn}{user}: {why}");
        self.refused(now, reason, line, &[field("address", &from)]);
    }

    /// A refusal over HTTP, or of a token; `from` is the address of the peer.
    pub(super) fn refused_peer(
        &mut self,
        now: Moment,
        reason: Reason,
        from: Option<IpAddr>,
        line: &dyn fmt::Display,
    ) {
        let from = shown_address(from.map(|from| from.to_canonical()));
        self.refused(now, reason, format_args!("{from}: {line}"), &[field("address", &from)]);
    }

    /// Writes what the hub found worth a line.
    pub fn anomaly(&mut self, now: Moment, anomaly: &Anomaly) {
        match anomaly {
            Anomaly::Stalled { conn, user } => {
                let line = format_args!("closed {conn} of {}: it took nothing", QuotedUser(user.as_ref()));
                self.log(now, AnomalyKind::Stalled, line, &closed(conn, user.as_ref(), Close::TooSlow));
            }
            Anomaly::Misbehaved { conn, user, close } => {
                let line = format_args!("closed {conn} of {}: {}", QuotedUser(user.as_ref()), close.reason());
                self.log(now, AnomalyKind::Misbehaved, line, &closed(conn, user.as_ref(), *close));
            }
            // A refusal, and logged as one.
            Anomaly::Refused { .. } => {}
            Anomaly::OwnerLost { operation, channel } => {
                let line = format_args!("operation {operation:?} on {channel:?}: its worker is gone");
                let fields = [field("operation", operation), field("channel", channel)];
                self.log(now, AnomalyKind::OwnerLost, line, &fields);
            }
            Anomaly::Overran { operation, channel } => {
                let line = format_args!("operation {operation:?} on {channel:?} did not end in time");
                let fields = [field("operation", operation), field("channel", channel)];
                self.log(now, AnomalyKind::Overran, line, &fields);
            }
            Anomaly::KeptLimit { is_newcomer_lost } => {
                let (kind, what) = match is_newcomer_lost {
                    false => (AnomalyKind::KeptLimit, "the oldest are dropped"),
                    true => (AnomalyKind::NotKept, "new ones are not kept"),
                };
                let line = format_args!(
                    "kept messages are at their limit (`[store] bytes`, `[limits] memory`); {what}"
                );
                self.log(now, kind, line, &[]);
            }
            Anomaly::Memory { held, ceiling, .. } => {
                let line = format_args!(
                    "{held} of {ceiling} bytes are held for peers (`limits.memory`); some are shed"
                );
                self.log(now, AnomalyKind::Memory, line, &[]);
            }
            Anomaly::Overloaded { conn, user, held } => {
                let line = format_args!(
                    "closed {conn} of {}: memory is short, and it held {held} bytes",
                    QuotedUser(user.as_ref())
                );
                self.log(now, AnomalyKind::Overloaded, line, &closed(conn, user.as_ref(), Close::Overloaded));
            }
        }
    }
}

/// A name in a line, and what it is.
pub type LogField<'a> = (&'static str, Value<'a>);

/// A name for [`AnomalyLog::log`].
pub fn field<'a>(what: &'static str, name: &'a dyn fmt::Display) -> LogField<'a> {
    (what, Value::from_dyn_display(name))
}

fn closed<'a>(conn: &'a ConnectionId, user: Option<&'a UserId>, close: Close) -> SmallVec<[LogField<'a>; 3]> {
    let user = user.map(|user| field("user", user));
    let reason = ("reason", Value::from(close.reason()));
    [field("connection", conn), reason].into_iter().chain(user).collect()
}

fn write_with(held_back: Option<u64>, line: impl fmt::Display, fields: &[LogField<'_>]) {
    match held_back {
        None => {}
        Some(0) => write(fields, format_args!("{line}")),
        Some(more) => write(fields, format_args!("{line} (and {more} more like this before)")),
    }
}

fn write(fields: &[LogField<'_>], line: fmt::Arguments<'_>) {
    let record =
        Record::builder().level(Level::Warn).target(module_path!()).args(line).key_values(&fields).build();
    if record.level() <= log::max_level() {
        log::logger().log(&record);
    }
}

fn shown_address(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "somebody".to_owned(), |address| address.to_string())
}

/// A user as a log line quotes it.
struct QuotedUser<'a>(Option<&'a UserId>);

impl fmt::Display for QuotedUser<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(user) => write!(f, "{user:?}"),
            None => f.write_str("nobody"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_of_a_kind_is_written_in_a_second_and_the_next_counts_the_others() {
        let mut rate = LogRate::default();
        assert_eq!(rate.take_turn(Moment(0)), Some(0));
        for millis in 1..1000 {
            assert_eq!(rate.take_turn(Moment(millis)), None);
        }
        assert_eq!(rate.take_turn(Moment(1000)), Some(999));
        assert_eq!(rate.take_turn(Moment(9000)), Some(0));
    }

    #[test]
    fn a_refusal_for_another_reason_is_not_held_back() {
        let mut anomalies = AnomalyLog::default();
        anomalies.refused(Moment(0), Reason::Host, "one", &[]);
        assert!(!anomalies.is_due(Moment(999), Reason::Host) && anomalies.is_due(Moment(1000), Reason::Host));
        assert!(anomalies.is_due(Moment(0), Reason::Origin));
    }
}
