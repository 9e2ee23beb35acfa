//! Revocations that are ordered and not on the disk yet.
//!
//! A thread writes them, for the disk may take its time. One write carries all that was ordered
//! meanwhile. A change counts once it is on the disk, and not before: a requester that is
//! answered that it could not be written has revoked nothing.

use std::io;

use async_channel::Receiver;

use super::Shared;
use super::trigger::Trigger;
use crate::edge::auth::revocation::file::{RevocationFile, Writing};
use crate::edge::auth::revocation::{Change, MAX_REVOCATIONS, Revocations};
use crate::hub::Requester;
use crate::protocol::{Code, ConnectionId, Refusal, RequestId, RevocationTarget, UnixTime};

/// Writes what is ordered, as long as there is a daemon.
pub async fn serve(driver: Shared) {
    let trigger = driver.borrow().revocation_trigger();
    while trigger.recv().await.is_ok() {
        loop {
            let Some(writing) = driver.borrow_mut().next_revocations() else { break };
            let (file, outcome) = smol::unblock(|| writing.carry_out()).await;
            driver.borrow_mut().finish_revocations(file, &outcome);
        }
    }
}

/// A change that is ordered, and who waits for it.
struct PendingRevocation {
    from: Requester,
    id: Option<RequestId>,
    wish: RevocationWish,
}

enum RevocationWish {
    /// As of then.
    Revoke(RevocationTarget, UnixTime),
    Lift(RevocationTarget),
}

/// An order that is carried out or refused, and is to be answered.
pub(super) struct SettledRevocation {
    pub from: Requester,
    pub id: Option<RequestId>,
    pub outcome: RevocationOutcome,
}

/// What became of an order.
pub(super) enum RevocationOutcome {
    /// Since when a target is revoked, or why it is not.
    Revoked(RevocationTarget, Result<UnixTime, Refusal>),
    /// Whether there was something to lift, or why that was not possible.
    Lifted(Result<bool, Refusal>),
}

/// What is to be done next.
#[derive(Default)]
pub(super) struct NextRevocations {
    /// Is carried out by a thread.
    pub writing: Option<Writing>,
    /// Orders that change nothing on the disk.
    pub settled: Vec<SettledRevocation>,
}

/// All orders that are not carried out.
#[derive(Default)]
pub(super) struct RevocationQueue {
    orders: Vec<PendingRevocation>,
    /// Those of the write that is under way.
    under_way: Vec<PendingRevocation>,
    /// Away while something is being written; none where nothing can be.
    file: Option<RevocationFile>,
    trigger: Trigger,
}

impl RevocationQueue {
    /// Writes to this file from now on.
    pub(super) fn set_file(&mut self, file: RevocationFile) {
        self.file = Some(file);
    }

    /// Whether a connection waits for an answer.
    pub(super) fn is_awaited_by(&self, conn: ConnectionId) -> bool {
        let mut all = self.orders.iter().chain(&self.under_way);
        all.any(|order| order.from == Requester::Connection(conn))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.under_way.is_empty()
    }

    /// What the writer waits for.
    pub(super) fn trigger(&self) -> Receiver<()> {
        self.trigger.receiver()
    }

    /// Orders that tokens are refused from now on; the hub permits it.
    pub(super) fn revoke(
        &mut self,
        from: Requester,
        id: Option<RequestId>,
        revoked: RevocationTarget,
        now: UnixTime,
    ) {
        self.order(PendingRevocation { from, id, wish: RevocationWish::Revoke(revoked, now) });
    }

    /// Orders that revoked tokens are taken again.
    pub(super) fn lift(&mut self, conn: ConnectionId, id: Option<RequestId>, revoked: RevocationTarget) {
        let from = Requester::Connection(conn);
        self.order(PendingRevocation { from, id, wish: RevocationWish::Lift(revoked) });
    }

    fn order(&mut self, order: PendingRevocation) {
        self.orders.push(order);
        self.trigger.fire();
    }

    /// What is to be written next, `known` being what counts now.
    pub(super) fn next(&mut self, known: &Revocations) -> NextRevocations {
        let mut next = NextRevocations::default();
        if self.file.is_none() {
            return next;
        }
        let mut all = known.clone();
        let mut changes = Vec::new();
        for order in std::mem::take(&mut self.orders) {
            match order.check(&all) {
                Ok(change) => {
                    all.apply(change.clone());
                    changes.push(change);
                    self.under_way.push(order);
                }
                Err(NoChange::Nothing) => next.settled.push(order.settle(Ok(Effectiveness::None))),
                Err(NoChange::Refused(refusal)) => next.settled.push(order.settle(Err(refusal))),
            }
        }
        if !changes.is_empty() {
            next.writing = self.file.take().map(|file| file.write(&changes, &all));
        }
        next
    }

    /// A write is over: what it has changed counts in `known` from now on.
    pub(super) fn finish(
        &mut self,
        file: RevocationFile,
        outcome: &io::Result<()>,
        known: &mut Revocations,
    ) -> Vec<SettledRevocation> {
        let path = file.path().display().to_string();
        self.file = Some(file);
        if let Err(error) = outcome {
            log::error!("{path}: revocations cannot be written: {error}");
        }
        let settle = |order: PendingRevocation| match outcome {
            Ok(()) => {
                known.apply(order.wish.change());
                order.settle(Ok(Effectiveness::Changed))
            }
            Err(error) => order.settle(Err(Refusal::new(
                Code::StoreUnavailable,
                format!("nothing is changed: {path} cannot be written: {error}"),
            ))),
        };
        std::mem::take(&mut self.under_way).into_iter().map(settle).collect()
    }
}

/// Why an order changes nothing.
enum NoChange {
    Nothing,
    Refused(Refusal),
}

/// Whether an order has changed something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effectiveness {
    Changed,
    None,
}

impl RevocationWish {
    fn change(&self) -> Change {
        match self {
            Self::Revoke(revoked, at) => Change::revoke(revoked.clone(), at.0 / 1000),
            Self::Lift(revoked) => Change::lift(revoked.clone()),
        }
    }
}

impl PendingRevocation {
    /// What it changes of what is revoked.
    fn check(&self, known: &Revocations) -> Result<Change, NoChange> {
        match &self.wish {
            RevocationWish::Revoke(revoked, _)
                if known.len() >= MAX_REVOCATIONS && known.since(revoked).is_none() =>
            {
                let why = format!(
                    "{MAX_REVOCATIONS} revocations are kept already; lift some (`wshubctl disconnect --lift`), or wait \
                     until the oldest is forgotten (`[auth] revocation_ttl`)"
                );
                Err(NoChange::Refused(Refusal::new(Code::TooManyRevocations, why)))
            }
            RevocationWish::Lift(revoked) if known.since(revoked).is_none() => Err(NoChange::Nothing),
            wish => Ok(wish.change()),
        }
    }

    fn settle(self, outcome: Result<Effectiveness, Refusal>) -> SettledRevocation {
        let Self { from, id, wish } = self;
        let outcome = match wish {
            RevocationWish::Revoke(revoked, at) => {
                let since = outcome.map(|_| UnixTime::from_secs(at.0 / 1000));
                RevocationOutcome::Revoked(revoked, since)
            }
            RevocationWish::Lift(_) => {
                RevocationOutcome::Lifted(outcome.map(|effect| effect == Effectiveness::Changed))
            }
        };
        SettledRevocation { from, id, outcome }
    }
}
