//! Revocations, from the order to the answer.
//!
//! Knows who waits for one to be on the disk. Does not know who may revoke, which the hub
//! decides, nor how it is written: a thread does that, for the disk may take its time.
//!
//! One write carries all that was ordered meanwhile. A change counts once it is on the disk,
//! and not before: whoever is told that it could not be written has revoked nothing.

use std::io;

use async_channel::{Receiver, Sender};

use super::{Driver, Shared};
use crate::edge::auth::revocation::file::{RevocationFile, Writing};
use crate::edge::auth::revocation::{Change, MOST, Revocations};
use crate::hub::{Bearer, Credentials, Input, Peer, Requester};
use crate::protocol::request::After;
use crate::protocol::{Code, ConnectionId, Frame, Refusal, RequestId, RevocationTarget, UnixTime};

/// So many are in one answer to who lists them.
const LISTED: usize = 1000;

/// What is to be changed, and who waits for that.
struct PendingRevocation {
    from: Requester,
    id: Option<RequestId>,
    wish: Wish,
}

enum Wish {
    /// As of then.
    Revoke(RevocationTarget, UnixTime),
    Lift(RevocationTarget),
}

/// All orders that are not carried out.
pub(in crate::edge) struct RevocationQueue {
    orders: Vec<PendingRevocation>,
    /// Those of the write that is under way.
    under_way: Vec<PendingRevocation>,
    /// Away while something is being written; none where nothing can be.
    file: Option<RevocationFile>,
    /// A latch: one write takes all orders that have come by then.
    bell: (Sender<()>, Receiver<()>),
}

impl Default for RevocationQueue {
    fn default() -> Self {
        let bell = async_channel::bounded(1);
        Self { orders: Vec::new(), under_way: Vec::new(), file: None, bell }
    }
}

impl RevocationQueue {
    /// Whether a connection waits for an answer.
    pub(in crate::edge) fn owe(&self, conn: ConnectionId) -> bool {
        let mut all = self.orders.iter().chain(&self.under_way);
        all.any(|order| order.from == Requester::Connection(conn))
    }

    fn order(&mut self, order: PendingRevocation) {
        self.orders.push(order);
        // Full: it rings already.
        let _ = self.bell.0.try_send(());
    }
}

/// Writes what is ordered, as long as there is a daemon.
pub async fn serve(driver: Shared) {
    let bell = driver.borrow().revoking.bell.1.clone();
    while bell.recv().await.is_ok() {
        loop {
            let Some(writing) = driver.borrow_mut().next_write() else { break };
            let (file, done) = smol::unblock(|| writing.carry_out()).await;
            driver.borrow_mut().written(file, &done);
        }
    }
}

impl Driver {
    /// Refuses by what is in a file from now on, and writes to it.
    pub fn keep_revocations(&mut self, file: RevocationFile) {
        self.revoking.file = Some(file);
    }

    /// Ends the connections that another process has handed over, and whose tokens are
    /// revoked.
    pub fn expel_revoked(&mut self) {
        let (revocations, _) = self.site.verifier.revocations();
        let revocations = revocations.borrow();
        let revoked = self.hub.bearers().filter_map(|Bearer { conn, user, jti, issued_at }| {
            revocations.of(user, jti, issued_at).map(|_| Input::TokenRevoked { conn })
        });
        self.links.inputs.extend(revoked);
    }

    /// Whether somebody waits for a revocation to be written.
    pub fn is_revoking(&self) -> bool {
        !self.revoking.orders.is_empty() || !self.revoking.under_way.is_empty()
    }

    /// A token that held when its upgrade was asked for may be revoked by now.
    pub(in crate::edge) fn look_again(&self, peer: Peer) -> Peer {
        match peer {
            Peer::Client { credentials: Credentials::Verified(identity), inbox, network } => {
                let claim = match self.site.verifier.recall(&identity, self.now.wall) {
                    Ok(()) => Credentials::Verified(identity),
                    Err(fault) => Credentials::Refused(fault),
                };
                Peer::Client { credentials: claim, inbox, network }
            }
            peer => peer,
        }
    }

    /// Tokens are to be taken no longer; the hub permits it.
    pub(in crate::edge) fn revoke(
        &mut self,
        from: Requester,
        id: Option<RequestId>,
        revoked: RevocationTarget,
    ) {
        self.revoking.order(PendingRevocation { from, id, wish: Wish::Revoke(revoked, self.now.wall) });
    }

    /// Revoked tokens are to be taken again.
    pub(in crate::edge) fn lift(
        &mut self,
        conn: ConnectionId,
        id: Option<RequestId>,
        revoked: RevocationTarget,
    ) {
        if !self.may_administer(conn) {
            return self.refuse_lift(conn, id.as_ref(), Refusal::for_administrators());
        }
        self.revoking.order(PendingRevocation {
            from: Requester::Connection(conn),
            id,
            wish: Wish::Lift(revoked),
        });
    }

    /// Which tokens are taken no longer.
    pub(in crate::edge) fn list_revocations(
        &mut self,
        conn: ConnectionId,
        id: Option<&RequestId>,
        after: &After,
    ) {
        let from = Requester::Connection(conn);
        if !self.may_administer(conn) {
            let refusal = Refusal::for_administrators().of("revocations");
            return self.answer(from, id, &Frame::from(&refusal), Some(&refusal));
        }
        let (revocations, ttl) = self.site.verifier.revocations();
        revocations.borrow_mut().forget(self.now.wall, ttl);
        let (revocations, next) = revocations.borrow().list(after.as_deref(), LISTED, ttl);
        self.answer(from, id, &Frame::Revocations { revocations, next }, None);
    }

    /// How many revocations are kept.
    pub(in crate::edge) fn revocations(&self) -> u64 {
        let (revocations, ttl) = self.site.verifier.revocations();
        revocations.borrow_mut().forget(self.now.wall, ttl);
        revocations.borrow().len() as u64
    }

    fn refuse_lift(&mut self, conn: ConnectionId, id: Option<&RequestId>, refusal: Refusal) {
        let refusal = refusal.of("lift");
        self.answer(Requester::Connection(conn), id, &Frame::from(&refusal), Some(&refusal));
    }

    /// What is to be written next. Orders that change nothing on the disk are answered.
    fn next_write(&mut self) -> Option<Writing> {
        self.look_at_the_clock();
        self.revoking.file.as_ref()?;
        let (revocations, ttl) = self.site.verifier.revocations();
        revocations.borrow_mut().forget(self.now.wall, ttl);
        let mut next: Revocations = revocations.borrow().clone();
        let (mut changes, mut settled) = (Vec::new(), Vec::new());
        for order in std::mem::take(&mut self.revoking.orders) {
            match order.change(&next) {
                Ok(change) => {
                    next.apply(change.clone());
                    changes.push(change);
                    self.revoking.under_way.push(order);
                }
                Err(answer) => settled.push((order, answer)),
            }
        }
        self.settle(settled);
        if changes.is_empty() {
            return None;
        }
        Some(self.revoking.file.take()?.write(&changes, &next))
    }

    /// A write is over.
    fn written(&mut self, file: RevocationFile, done: &io::Result<()>) {
        self.look_at_the_clock();
        self.revoking.file = Some(file);
        if let Err(error) = done {
            log::error!("{}: revocations cannot be written: {error}", self.revoking_path());
        }
        let mut settled = Vec::new();
        for order in std::mem::take(&mut self.revoking.under_way) {
            let answer = match done {
                Ok(()) => {
                    self.site.verifier.revocations().0.borrow_mut().apply(order.wish.change());
                    Answer::Done
                }
                Err(error) => Answer::Refused(Refusal::new(
                    Code::StoreUnavailable,
                    format!("nothing is changed: {} cannot be written: {error}", self.revoking_path()),
                )),
            };
            settled.push((order, answer));
        }
        self.settle(settled);
    }

    fn revoking_path(&self) -> String {
        self.revoking.file.as_ref().map(|file| file.path().display().to_string()).unwrap_or_default()
    }

    /// Answers orders.
    fn settle(&mut self, orders: Vec<(PendingRevocation, Answer)>) {
        let mut askers: Vec<Requester> = orders.iter().map(|(order, _)| order.from).collect();
        for (order, answer) in orders {
            self.answer_order(order, answer);
        }
        // Of those who say no more the hub says once more whether it owes them nothing either,
        // once all of their answers are given.
        askers.dedup();
        for asker in askers {
            if let Requester::Connection(conn) = asker
                && self.links.get(conn).is_some_and(|link| link.ended && !link.leaving)
            {
                self.tell(Input::ReadClosed { conn });
            }
        }
    }

    fn answer_order(&mut self, order: PendingRevocation, answer: Answer) {
        let PendingRevocation { from, id, wish } = order;
        match (wish, answer) {
            (Wish::Revoke(revoked, at), answer) => {
                let outcome = match answer {
                    Answer::Refused(refusal) => Err(refusal),
                    Answer::Done | Answer::NothingToDo => Ok(UnixTime::from_secs(at.0 / 1000)),
                };
                self.tell(Input::RevocationSaved { from, id, revoked, outcome });
            }
            (Wish::Lift(_), Answer::Refused(refusal)) => {
                if let Requester::Connection(conn) = from {
                    self.refuse_lift(conn, id.as_ref(), refusal);
                }
            }
            (Wish::Lift(_), answer) => {
                let lifted = matches!(answer, Answer::Done);
                self.answer(from, id.as_ref(), &Frame::Lifted { lifted }, None);
            }
        }
    }
}

/// What becomes of an order.
enum Answer {
    Done,
    NothingToDo,
    Refused(Refusal),
}

impl Wish {
    fn change(&self) -> Change {
        match self {
            Self::Revoke(revoked, at) => Change::revoke(revoked.clone(), at.0 / 1000),
            Self::Lift(revoked) => Change::lift(revoked.clone()),
        }
    }
}

impl PendingRevocation {
    /// What it changes of what is revoked, or the answer where it changes nothing.
    fn change(&self, known: &Revocations) -> Result<Change, Answer> {
        match &self.wish {
            Wish::Revoke(revoked, _) if known.len() >= MOST && known.since(revoked).is_none() => {
                let why = format!(
                    "{MOST} revocations are kept already; lift some (`wshubctl disconnect --lift`), or wait \
                     until the oldest is forgotten (`[auth] revocation_ttl`)"
                );
                Err(Answer::Refused(Refusal::new(Code::TooManyRevocations, why)))
            }
            Wish::Lift(revoked) if known.since(revoked).is_none() => Err(Answer::NothingToDo),
            wish => Ok(wish.change()),
        }
    }
}
