//! Lines in the log about what is out of the ordinary.
//!
//! Knows how each is worded, and that none may come more than once a second:
//! whoever causes them must not fill the log with them. Does not know what is
//! worth a line; that is a closed list of the hub's, and a few of the doors.

use std::fmt;
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
pub enum Kind {
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
    /// Somebody had to leave the clients' door for somebody else.
    GaveWay,
    /// Nobody can be let in.
    Shut,
}

/// How many kinds there are.
const KINDS: usize = Kind::Shut as usize + 1;

/// A person reads one line a second; more of the same kind say nothing new.
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

    /// Whether it is the turn of this kind; then how many were held back.
    fn turn(&mut self, now: Moment) -> Option<u64> {
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
    /// the next that is written says how many were not. `about` are the names in it,
    /// for those who search a journal by them.
    pub fn say(&mut self, now: Moment, kind: Kind, line: impl fmt::Display, about: &[About<'_>]) {
        let held_back = self.kinds.get_mut(kind as usize).and_then(|pace| pace.turn(now));
        write_with(held_back, line, about);
    }

    /// The same of a refusal at a door, limited by its reason; `about` tells who was refused.
    pub fn refused(&mut self, now: Moment, reason: Reason, line: impl fmt::Display, about: &[About<'_>]) {
        let held_back = self.reasons.get_mut(reason as usize).and_then(|pace| pace.turn(now));
        let reason = [("reason", Value::from(reason.word()))];
        let about: SmallVec<[About<'_>; 3]> = reason.into_iter().chain(about.iter().cloned()).collect();
        write_with(held_back, format_args!("refused {line}"), &about);
    }

    /// Whether a line of a reason would be written now.
    pub fn is_due(&self, now: Moment, reason: Reason) -> bool {
        self.reasons.get(reason as usize).is_some_and(|pace| pace.is_due(now))
    }

    /// Writes what the hub found worth a line.
    pub fn anomaly(&mut self, now: Moment, anomaly: &Anomaly) {
        match anomaly {
            Anomaly::Stalled { conn, user } => {
                let line = format_args!("closed {conn} of {}: it took nothing", Shown(user.as_ref()));
                self.say(now, Kind::Stalled, line, &closed(conn, user.as_ref(), Close::TooSlow));
            }
            Anomaly::Misbehaved { conn, user, close } => {
                let line = format_args!("closed {conn} of {}: {}", Shown(user.as_ref()), close.reason());
                self.say(now, Kind::Misbehaved, line, &closed(conn, user.as_ref(), *close));
            }
            // A refusal, and told as one.
            Anomaly::Refused { .. } => {}
            Anomaly::OwnerLost { operation, channel } => {
                let line = format_args!("operation {operation:?} on {channel:?}: its worker is gone");
                let about = [about("operation", operation), about("channel", channel)];
                self.say(now, Kind::OwnerLost, line, &about);
            }
            Anomaly::Overran { operation, channel } => {
                let line = format_args!("operation {operation:?} on {channel:?} did not end in time");
                let about = [about("operation", operation), about("channel", channel)];
                self.say(now, Kind::Overran, line, &about);
            }
            Anomaly::KeptLimit { is_newcomer_lost } => {
                let (kind, what) = match is_newcomer_lost {
                    false => (Kind::KeptLimit, "the oldest are dropped"),
                    true => (Kind::NotKept, "new ones are not kept"),
                };
                let line = format_args!(
                    "kept messages are at their limit (`[store] bytes`, `[limits] memory`); {what}"
                );
                self.say(now, kind, line, &[]);
            }
            Anomaly::Memory { held, ceiling, .. } => {
                let line = format_args!(
                    "{held} of {ceiling} bytes are held for peers (`limits.memory`); some are shed"
                );
                self.say(now, Kind::Memory, line, &[]);
            }
            Anomaly::Overloaded { conn, user, held } => {
                let line = format_args!(
                    "closed {conn} of {}: memory is short, and it held {held} bytes",
                    Shown(user.as_ref())
                );
                self.say(now, Kind::Overloaded, line, &closed(conn, user.as_ref(), Close::Overloaded));
            }
        }
    }
}

/// A name in a line, and what it is.
pub type About<'a> = (&'static str, Value<'a>);

/// A name for [`AnomalyLog::say`].
pub fn about<'a>(what: &'static str, name: &'a dyn fmt::Display) -> About<'a> {
    (what, Value::from_dyn_display(name))
}

fn closed<'a>(conn: &'a ConnectionId, user: Option<&'a UserId>, close: Close) -> SmallVec<[About<'a>; 3]> {
    let user = user.map(|user| about("user", user));
    let reason = ("reason", Value::from(close.reason()));
    [about("connection", conn), reason].into_iter().chain(user).collect()
}

fn write_with(held_back: Option<u64>, line: impl fmt::Display, about: &[About<'_>]) {
    match held_back {
        None => {}
        Some(0) => write(about, format_args!("{line}")),
        Some(more) => write(about, format_args!("{line} (and {more} more like this before)")),
    }
}

fn write(about: &[About<'_>], line: fmt::Arguments<'_>) {
    let record =
        Record::builder().level(Level::Warn).target(module_path!()).args(line).key_values(&about).build();
    if record.level() <= log::max_level() {
        log::logger().log(&record);
    }
}

/// A user as a log line quotes it.
struct Shown<'a>(Option<&'a UserId>);

impl fmt::Display for Shown<'_> {
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
        let mut pace = LogRate::default();
        assert_eq!(pace.turn(Moment(0)), Some(0));
        for millis in 1..1000 {
            assert_eq!(pace.turn(Moment(millis)), None);
        }
        assert_eq!(pace.turn(Moment(1000)), Some(999));
        assert_eq!(pace.turn(Moment(9000)), Some(0));
    }

    #[test]
    fn a_refusal_for_another_reason_is_not_held_back() {
        let mut reports = AnomalyLog::default();
        reports.refused(Moment(0), Reason::Host, "one", &[]);
        assert!(!reports.is_due(Moment(999), Reason::Host) && reports.is_due(Moment(1000), Reason::Host));
        assert!(reports.is_due(Moment(0), Reason::Origin));
    }
}
