//! How a connection lives and ends.
//!
//! Knows signs of life, stalls and every deadline of a connection, and what
//! goes with it when it ends. Does not know what it says meanwhile.

use std::time::Duration;

use super::table::Connection;
use crate::hub::Hub;
use crate::hub::channel::subscribe::Leaving;
use crate::hub::event::{Anomaly, Cx, Effect, Effects, Now, Rejection, SendQueueState};
use crate::hub::memory_pressure::Level;
use crate::hub::settings::Settings;
use crate::hub::timers::{NEVER, Timer, round_up};
use crate::protocol::{Close, ConnectionId, Frame, Moment, Reason, Return, UserId};

/// How long before its end a token is asked to be renewed.
const WARNING: Duration = Duration::from_secs(60);

/// Over how long those come back who were told to do so later, or at once: a
/// thousand browsers at the same instant are a burst that nobody needs.
const SPREAD_LATER: u64 = 5000;
const SPREAD_NOW: u64 = 1000;

impl Connection {
    /// A sign of life. The deadline stays: it is looked at when it comes.
    pub(in crate::hub) fn heard(&mut self, now: Moment) {
        self.heard = now;
        self.pinged = false;
    }

    /// The next moment at which something may be due.
    fn due(&self, settings: &Settings) -> Moment {
        let silence = match self.pinged {
            false => settings.heartbeat.ping_interval.min(settings.heartbeat.pong_timeout),
            true => settings.heartbeat.pong_timeout,
        };
        let life = if self.is_worker() { NEVER } else { self.heard + silence };
        let token = if self.warned { self.expires } else { warning(self.expires) };
        let (auth, stall) = match &self.rare {
            Some(rare) if rare.stuck_since != NEVER => {
                (rare.auth_by, rare.stuck_since.max(rare.spared) + settings.limits.stall)
            }
            Some(rare) => (rare.auth_by, NEVER),
            None => (NEVER, NEVER),
        };
        round_up(life.min(token).min(auth).min(stall))
    }
}

fn warning(expires: Moment) -> Moment {
    if expires == NEVER { NEVER } else { Moment(expires.0.saturating_sub(WARNING.as_millis() as u64)) }
}

impl Hub {
    /// Sets the deadline of a connection to what is due first, where that is
    /// sooner than what it is set to.
    pub(in crate::hub) fn arm(&mut self, slot: u32) {
        let Some(connection) = self.connections.at_mut(slot) else { return };
        let due = connection.due(&self.settings);
        if due < connection.armed {
            self.timers.rearm(Timer::Connection(slot), &mut connection.armed, due);
        }
    }

    /// The deadline of a connection has come: whatever is due is done.
    pub(in crate::hub) fn attend(&mut self, cx: &mut Cx<'_>, slot: u32) {
        let Some(connection) = self.connections.at_mut(slot) else { return };
        connection.armed = NEVER;
        let conn = ConnectionId { slot, tag: connection.tag };
        if self.waiting.is_paused(conn) {
            // A pong would not be read: its silence is ours.
            connection.heard(cx.now.moment);
        }
        if let Some(close) = overdue(connection, &self.settings, cx.now.moment) {
            match close {
                Close::TooSlow => {
                    self.counters.closed_slow += 1;
                    let user = connection.user.clone();
                    cx.out.push(Effect::LogAnomaly(Anomaly::Stalled { conn, user }));
                }
                Close::NoPong => self.counters.closed_no_pong += 1,
                Close::Unauthenticated => {
                    self.counters.closed_unauthenticated += 1;
                    self.note_refusal(conn, None, Reason::TokenMissing, cx.out);
                }
                _ => {}
            }
            self.close(cx, conn, close);
            return;
        }
        if !connection.warned && cx.now.moment >= warning(connection.expires) {
            connection.warned = true;
            if let Some(expires_at) = connection.expires_at() {
                cx.out.tell(conn, Frame::TokenExpiring { expires_at });
            }
        }
        let silence = cx.now.moment.since(connection.heard);
        let quiet = !connection.is_worker() && silence >= self.settings.heartbeat.ping_interval;
        if quiet && !connection.pinged {
            connection.pinged = true;
            cx.out.push(Effect::Ping { conn });
        }
        if let Some(rare) = &mut connection.rare
            && rare.stuck_since != NEVER
            && cx.now.moment.since(rare.stuck_since) >= self.settings.limits.stall
        {
            // The owner of an operation is not closed; it is looked at again.
            rare.spared = cx.now.moment;
        }
        self.arm(slot);
    }

    /// What a link owes its peer has changed its kind.
    pub(in crate::hub) fn outbound(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, state: SendQueueState) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let was = std::mem::replace(&mut connection.outbound, state);
        match state {
            SendQueueState::Empty => {
                connection.full = false;
                if let Some(rare) = &mut connection.rare {
                    rare.stuck_since = NEVER;
                }
                self.catch_up(cx, conn);
            }
            SendQueueState::Backlogged => {
                connection.full |= self.memory.level >= Level::Critical;
                connection.rare().stuck_since = cx.now.moment;
            }
            SendQueueState::Full => {
                connection.full = true;
                let rare = connection.rare();
                // From waiting to full nothing was accepted.
                if was == SendQueueState::Empty || rare.stuck_since == NEVER {
                    rare.stuck_since = cx.now.moment;
                }
            }
        }
        self.arm(conn.slot);
    }

    /// The socket has taken all: what was missed is told, what is kept goes on.
    fn catch_up(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        self.notify_missed(conn.slot, None, cx.out);
        let Some(connection) = self.connections.get(conn) else { return };
        for place in connection.topics.clone() {
            self.advance(cx, place, conn.slot);
        }
    }

    pub(in crate::hub) fn took(&mut self, now: Now, conn: ConnectionId) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        if connection.outbound != SendQueueState::Empty {
            connection.rare().stuck_since = now.moment;
        }
    }

    /// Says goodbye to a peer. For the hub it is gone at once; that its link
    /// closes later finds nobody.
    pub(in crate::hub) fn close(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, close: Close) {
        let after_ms = match close.returning() {
            Return::No => 0,
            Return::Later => self.random.below(SPREAD_LATER + 1),
            Return::Now => self.random.below(SPREAD_NOW + 1),
        };
        self.forget(cx, conn, Some(close));
        cx.out.push(Effect::Close { conn, close, after_ms });
    }

    /// Says goodbye to one whose token was refused. It is not to come back as it is; how long
    /// it waits in any case grows with how often it was refused.
    pub(in crate::hub) fn close_refused(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, wait: Duration) {
        let close = Close::Unauthenticated;
        self.forget(cx, conn, Some(close));
        let after_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        cx.out.push(Effect::Close { conn, close, after_ms });
    }

    /// As [`Hub::close`], and worth a line in the log.
    pub(in crate::hub) fn throw_out(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, close: Close) {
        let Some(connection) = self.connections.get(conn) else { return };
        self.counters.closed_errors += 1;
        cx.out.push(Effect::LogAnomaly(Anomaly::Misbehaved { conn, user: connection.user.clone(), close }));
        self.close(cx, conn, close);
    }

    /// Counts a refusal of a connection that is there, and has it written down.
    pub(in crate::hub) fn note_refusal(
        &mut self,
        conn: ConnectionId,
        user: Option<UserId>,
        reason: Reason,
        out: &mut Effects,
    ) {
        self.refused.count(reason);
        out.push(Effect::LogAnomaly(Anomaly::Refused { conn, user, reason }));
    }

    /// Counts whom the edge turned away.
    pub(in crate::hub) fn turned_away(&mut self, why: Rejection) {
        let count = match why {
            Rejection::NoCapacity => &mut self.counters.connections_refused,
            Rejection::HandshakeTimeout => &mut self.counters.newcomers_dropped,
            Rejection::WrongSecret => &mut self.counters.wrong_secrets,
            Rejection::BadHttpBody => &mut self.counters.requests_refused,
            Rejection::ProtocolViolation => &mut self.counters.closed_malformed,
            Rejection::Refused(reason) => return self.refused.count(reason),
        };
        *count += 1;
    }

    /// A connection is gone, and all that was its own with it.
    pub(in crate::hub) fn closed(&mut self, cx: &mut Cx<'_>, conn: ConnectionId) {
        self.forget(cx, conn, None);
    }

    fn forget(&mut self, cx: &mut Cx<'_>, conn: ConnectionId, close: Option<Close>) {
        if self.connections.get(conn).is_none() {
            return;
        }
        let Some(mut connection) = self.connections.remove(conn.slot) else { return };
        self.counters.connections_closed += 1;
        let lasted = cx.now.moment.since(connection.opened);
        cx.out.push(Effect::LogDisconnect { conn, user: connection.user.clone(), lasted, close });
        self.waiting.forget(conn);
        self.half_closed.forget(conn);
        self.timers.rearm(Timer::Connection(conn.slot), &mut connection.armed, NEVER);
        for place in connection.topics {
            self.leave(cx, place, conn, connection.user.as_ref(), Leaving::Lost);
        }
        let Some(rare) = connection.rare else { return };
        for place in rare.lingering {
            self.drop_readers(place, conn);
            self.sweep(cx, place);
        }
        if rare.pending > 0 {
            self.drop_pending(conn);
        }
        if rare.operations > 0 {
            self.lose_owner(cx, conn);
        }
    }

    /// The daemon ends: everybody is told, the clients before the workers, so
    /// that nobody takes an operation for lost which its worker registers again.
    pub(in crate::hub) fn stop(&mut self, cx: &mut Cx<'_>, close: Close) {
        self.stopping = Some(close);
        self.channels.keep_idle();
        self.give_up_pending(cx.out);
        let clients = self.connections.ids(|connection| !connection.is_worker());
        let workers = self.connections.ids(Connection::is_worker);
        for conn in clients.into_iter().chain(workers) {
            self.close(cx, conn, close);
        }
    }
}

/// Why a connection has to end now, if it has to.
fn overdue(connection: &Connection, settings: &Settings, now: Moment) -> Option<Close> {
    let rare = connection.rare.as_deref();
    if now >= connection.expires {
        return Some(Close::TokenExpired);
    }
    if rare.is_some_and(|rare| now >= rare.auth_by) {
        return Some(Close::Unauthenticated);
    }
    let stuck = rare.map_or(NEVER, |rare| rare.stuck_since);
    if stuck != NEVER && now.since(stuck) >= settings.limits.stall && !connection.owns_operations() {
        return Some(Close::TooSlow);
    }
    let silent = now.since(connection.heard) >= settings.heartbeat.pong_timeout;
    (silent && !connection.is_worker()).then_some(Close::NoPong)
}
