//! The reference: what must be received, in plain lists.
//!
//! Holds what was sent, received and lost. It has no pages, queues or readers; a list
//! is searched from its beginning each time.

use std::collections::BTreeSet;

use serde_json::Value;
use wshubd::protocol::Moment;

use crate::harness::{ConnectionId, summary};

/// What is wrong, as a sentence.
pub(super) type Check = Result<(), String>;

/// What a log keeps.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) enum Keeps {
    /// Received by nobody but its publisher.
    Unheard,
    /// The last so many.
    Last(usize),
    #[default]
    Nothing,
    /// What the cursor has not passed.
    Unacknowledged,
}

/// A position with which a client reconnects.
#[derive(Clone, Copy, Debug)]
pub(super) enum Since {
    /// Of the numbers that there are.
    Seq(u64),
    /// Of others.
    Stale,
}

impl Since {
    fn seq(self) -> u64 {
        match self {
            Self::Seq(seq) => seq,
            Self::Stale => 0,
        }
    }
}

impl Keeps {
    pub(super) fn is_history(self) -> bool {
        matches!(self, Self::Last(_))
    }
}

/// The last receipt sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum ReceiptState {
    Nothing,
    Delivered,
    Read,
}

/// One message that has a position.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) seq: u64,
    /// The publisher's; the state of a receipt where the hub sent it.
    pub(super) id: String,
    pub(super) by: Option<ConnectionId>,
    /// Its publisher asked for no echo.
    pub(super) is_quiet: bool,
    pub(super) expires: Moment,
    /// A connection other than its publisher's has it.
    pub(super) is_heard: bool,
    /// Why it is kept no longer, if it is not.
    pub(super) gone: Option<&'static str>,
    /// Workers got the notice that it waits for an absent user.
    pub(super) is_waiting: bool,
    /// Its user, who acknowledges nothing, got the gap.
    pub(super) is_told: bool,
    /// Some connection has received it.
    pub(super) is_had: bool,
    /// A hub that began since does not know whether it was received.
    pub(super) is_unsure: bool,
    /// The sender that asked for a receipt, and the last one sent.
    pub(super) receipt: Option<(String, ReceiptState)>,
}

/// One subscription, or a connection that reads its user's inbox.
#[derive(Clone, Default, Debug)]
pub(super) struct Session {
    /// What it has to receive next, or as a gap, in this order.
    pub(super) owed: Vec<u64>,
    /// What it may receive as well.
    pub(super) may: Vec<u64>,
    /// Its own messages without echo: a gap may cover them.
    pub(super) quiet: Vec<u64>,
    /// The last position received, or covered by a gap.
    pub(super) last: u64,
    /// What the very next frame has to announce as lost.
    pub(super) gap: Option<(u64, u64, u64)>,
    /// The very next frame has to announce the change of numbers.
    pub(super) is_anew: bool,
}

/// A channel or an inbox.
#[derive(Clone, Default, Debug)]
pub(super) struct Log {
    pub(super) name: String,
    pub(super) keeps: Keeps,
    pub(super) lines: Vec<Line>,
    /// Of an inbox: what its user has.
    pub(super) cursor: u64,
    /// Of an inbox: the last position that was queued for anybody.
    pub(super) offered: u64,
    pub(super) sessions: Vec<(ConnectionId, Session)>,
    /// The last epoch received, and all so far.
    pub(super) epoch: Option<Value>,
    pub(super) epochs: Vec<Value>,
    /// Something could not be read: it is a gap, and comes again.
    pub(super) was_unread: bool,
    /// Notices of losses that may be sent or not.
    pub(super) maybe: Vec<String>,
}

impl Log {
    pub(super) fn new(name: &str, keeps: Keeps) -> Self {
        Self { name: name.to_owned(), keeps, ..Self::default() }
    }

    pub(super) fn seq(&self) -> u64 {
        self.lines.len() as u64
    }

    pub(super) fn line(&mut self, seq: u64) -> Result<&mut Line, String> {
        let name = self.name.clone();
        let place = usize::try_from(seq - 1).unwrap();
        self.lines.get_mut(place).ok_or(format!("nobody said {name} {seq}"))
    }

    /// Whether a line is still kept for the next subscriber.
    pub(super) fn is_kept(&self, line: &Line) -> bool {
        let is_owed = match self.keeps {
            Keeps::Unheard => !line.is_heard,
            Keeps::Last(_) => true,
            Keeps::Nothing => false,
            Keeps::Unacknowledged => line.seq > self.cursor,
        };
        is_owed && line.gone.is_none()
    }

    pub(super) fn kept(&self) -> Vec<u64> {
        self.lines.iter().filter(|line| self.is_kept(line)).map(|line| line.seq).collect()
    }

    /// Something is published. Returns the notices of what that evicted.
    pub(super) fn append(&mut self, mut line: Line) -> Vec<String> {
        line.seq = self.seq() + 1;
        for (conn, session) in &mut self.sessions {
            let is_own = line.is_quiet && line.by == Some(*conn);
            if is_own { session.quiet.push(line.seq) } else { session.owed.push(line.seq) }
        }
        line.gone = (self.keeps == Keeps::Nothing).then_some("not_kept");
        self.lines.push(line);
        let Keeps::Last(count) = self.keeps else { return Vec::new() };
        let kept = self.kept();
        let over = kept.len().saturating_sub(count);
        kept[..over].iter().filter_map(|seq| self.lose(*seq, "evicted")).collect()
    }

    /// What has grown too old goes.
    pub(super) fn expire(&mut self, now: Moment) -> Vec<String> {
        let old = |line: &&Line| line.gone.is_none() && line.expires <= now;
        let old: Vec<u64> = self.lines.iter().filter(old).map(|line| line.seq).collect();
        old.into_iter().filter_map(|seq| self.lose(seq, "expired")).collect()
    }

    /// A line goes; the notice of it, if nobody has it.
    fn lose(&mut self, seq: u64, cause: &'static str) -> Option<String> {
        let is_lost = match self.keeps {
            // What a connected user was sent counts as received.
            Keeps::Unacknowledged => seq > self.cursor && (seq > self.offered || self.sessions.is_empty()),
            Keeps::Unheard => !self.lines[seq as usize - 1].is_heard,
            // That a history moves on is in its nature.
            Keeps::Last(_) => cause == "expired" && !self.lines[seq as usize - 1].is_heard,
            Keeps::Nothing => false,
        };
        let has_arrived = seq <= self.cursor;
        let is_blurred = self.was_unread && self.keeps == Keeps::Unacknowledged;
        let line = self.line(seq).ok()?;
        line.gone = Some(cause);
        line.receipt.take_if(|_| !has_arrived);
        if line.is_unsure || is_blurred {
            let notice = format!("{cause} {}", line.id);
            self.maybe.push(notice);
            return None;
        }
        is_lost.then(|| format!("{cause} {}", line.id))
    }

    /// The cursor passes what its user has.
    pub(super) fn pass(&mut self, seq: u64) {
        self.cursor = self.cursor.max(seq);
    }

    pub(super) fn session(&mut self, conn: ConnectionId) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|(whose, _)| *whose == conn).map(|(_, session)| session)
    }

    pub(super) fn leave(&mut self, conn: ConnectionId) {
        self.sessions.retain(|(whose, _)| *whose != conn);
    }

    /// No connection reads an inbox any more: the notices of what waits there from now
    /// on, and of what grows too old in the same moment.
    pub(super) fn desert(&mut self, now: Moment) -> (Vec<String>, Vec<String>) {
        let kept = self.kept();
        let (mut waiting, mut passing) = (Vec::new(), Vec::new());
        // A message of the hub itself is worth no notice.
        let own = |line: &Line| line.by.is_none();
        // Behind what could not be read, a message received may still be kept.
        let may_wait = |line: &Line| kept.contains(&line.seq) || (self.was_unread && line.gone.is_none());
        let waits = |line: &&mut Line| may_wait(line) && !own(line) && !line.is_waiting;
        for line in self.lines.iter_mut().filter(waits) {
            line.is_waiting = true;
            let is_sure = kept.contains(&line.seq) && line.expires > now;
            let notices = if is_sure { &mut waiting } else { &mut passing };
            notices.push(format!("kept {}", line.id));
        }
        (waiting, passing)
    }

    /// A subscription begins, with the position in its reply.
    pub(super) fn join(
        &mut self,
        conn: ConnectionId,
        since: Option<Since>,
        recovered: Option<bool>,
    ) -> Check {
        let is_stale = matches!(since, Some(Since::Stale));
        let since = since.map(Since::seq);
        let after = since.unwrap_or(self.seq());
        let later = || self.lines.iter().filter(|line| line.seq > after);
        let kept: Vec<u64> = later().filter(|line| self.is_kept(line)).map(|line| line.seq).collect();
        let missing: Vec<u64> = later().filter(|line| !self.is_kept(line)).map(|line| line.seq).collect();
        let known = self.session(conn).cloned();
        let mut session = Session::default();
        match self.keeps {
            // What nobody else has goes on where it is.
            Keeps::Unheard | Keeps::Nothing if since.is_none() && known.is_some() => {
                session = known.unwrap_or_default();
                session.may.extend(self.kept());
            }
            Keeps::Last(_) | Keeps::Nothing if since.is_some() => {
                if recovered != Some(missing.is_empty() && !is_stale) {
                    return Err(format!("{} since {after}: {missing:?} are missing", self.name));
                }
                session.gap = span(&missing).filter(|_| !is_stale);
                session.owed = kept;
            }
            // A message not yet received may be on its way to another subscriber.
            Keeps::Unheard if since.is_none() => session.may = self.kept(),
            Keeps::Unheard if recovered == Some(true) => {
                session.owed = self.lines.iter().map(|line| line.seq).filter(|seq| *seq > after).collect();
            }
            Keeps::Unheard => session.may = self.lines.iter().map(|line| line.seq).collect(),
            _ => {}
        }
        session.is_anew = is_stale;
        // Nor its own messages without echo.
        let own = |line: &Line| line.is_quiet && line.by == Some(conn);
        let owed = std::mem::take(&mut session.owed).into_iter();
        let (quiet, owed): (Vec<u64>, Vec<u64>) = owed.partition(|seq| own(&self.lines[*seq as usize - 1]));
        session.quiet.extend(quiet);
        session.owed = owed;
        self.leave(conn);
        self.sessions.push((conn, session));
        Ok(())
    }

    /// A connection reads an inbox from now on, after the cursor. What is lost at
    /// the end of that, or was reported before, need not be in a gap.
    pub(super) fn join_inbox(&mut self, conn: ConnectionId) {
        let last_kept = self.kept().last().copied().unwrap_or(0);
        let after = self.lines.iter().filter(|line| line.seq > self.cursor);
        let (owed, may): (Vec<&Line>, Vec<&Line>) =
            after.partition(|line| line.seq <= last_kept && !(line.gone.is_some() && line.is_told));
        let seqs = |lines: Vec<&Line>| lines.iter().map(|line| line.seq).collect();
        let session = Session { owed: seqs(owed), may: seqs(may), ..Session::default() };
        self.leave(conn);
        self.sessions.push((conn, session));
    }

    /// A message is queued for a connection.
    pub(super) fn check_message(&mut self, conn: ConnectionId, seq: u64, frame: &Value) -> Check {
        let name = self.name.clone();
        self.offered = self.offered.max(seq);
        let replayed = frame["replayed"] == true;
        let comes_again = replayed && self.was_unread && self.keeps == Keeps::Unacknowledged;
        let line = self.line(seq)?;
        line.is_had = true;
        let is_gone = line.gone.filter(|_| replayed);
        if !replayed && line.by != Some(conn) {
            line.is_heard = true;
        }
        let session = self.session(conn).ok_or(format!("{name} {seq} for nobody who asked"))?;
        if session.is_anew {
            return Err(format!("{name} {seq} before it is told that the numbers are others"));
        }
        if let Some(gap) = session.gap {
            return Err(format!("{name} {seq} before the gap {gap:?}"));
        }
        if comes_again && seq <= session.last {
            session.last = seq;
            session.owed.retain(|owed| *owed != seq);
            return is_gone
                .map_or(Ok(()), |cause| Err(format!("{name} {seq} is heard after it was {cause}")));
        }
        if seq <= session.last {
            return Err(format!("{name} {seq} again, or too late: {} was before", session.last));
        }
        match session.owed.first() {
            Some(first) if *first < seq => return Err(format!("{name} {seq} without {first} before it")),
            Some(first) if *first == seq => drop(session.owed.remove(0)),
            _ if session.may.contains(&seq) || comes_again => {}
            _ => return Err(format!("{name} {seq} is not for this one")),
        }
        session.last = seq;
        match is_gone {
            Some(cause) => Err(format!("{name} {seq} is heard after it was {cause}")),
            None => Ok(()),
        }
    }

    /// A gap is sent.
    pub(super) fn check_gap(&mut self, conn: ConnectionId, gap: &Value) -> Check {
        let (name, gap_summary, keeps, was_unread) =
            (self.name.clone(), summary(gap), self.keeps, self.was_unread);
        let lines = self.lines.clone();
        let session = self.session(conn).ok_or(format!("{name}: {gap_summary}, for nobody who asked"))?;
        if gap["cause"] == "epoch" {
            let is_due = std::mem::take(&mut session.is_anew);
            return if is_due {
                Ok(())
            } else {
                Err(format!("{name}: {gap_summary}, and the numbers are the same"))
            };
        }
        let number = |field: &str| gap[field].as_u64().unwrap();
        let (from, to, lost) = (number("from_seq"), number("to_seq"), number("lost"));
        if let Some(wanted) = session.gap.take() {
            return match wanted == (from, to, lost) {
                true => Ok(()),
                false => Err(format!("{name}: {gap_summary}, and not {wanted:?}")),
            };
        }
        let is_in_gap = |seq: &u64| (from..=to).contains(seq);
        if was_unread && cause_of(gap) != "slow" {
            // Not all of it is lost: a later reader may receive it.
            session.may.extend(session.owed.extract_if(.., |seq| is_in_gap(seq)));
            return Ok(());
        }
        let gone = |seq: &u64| lines[*seq as usize - 1].gone;
        let cause = cause_of(gap);
        let is_loss = match (cause, keeps) {
            ("slow", Keeps::Unheard | Keeps::Nothing) => |_: Option<&str>| true,
            _ => |gone: Option<&str>| gone.is_some(),
        };
        let first_told = keeps == Keeps::Unheard && session.last == 0 && cause != "slow";
        if !first_told {
            let lost_of = |lists: &[&Vec<u64>]| {
                let all: BTreeSet<u64> = lists.iter().flat_map(|list| list.iter().copied()).collect();
                all.into_iter().filter(|seq| is_in_gap(seq) && is_loss(gone(seq))).collect::<Vec<u64>>()
            };
            let mine = lost_of(&[&session.owed, &session.may]);
            let with_own = lost_of(&[&session.owed, &session.may, &session.quiet]);
            let is_told = |list: &[u64]| span(list) == Some((from, to, lost));
            if from <= session.last || !(is_told(&mine) || is_told(&with_own)) {
                return Err(format!("{name}: {gap_summary}, where {mine:?} are lost after {}", session.last));
            }
            // A log has one cause for all that it lost: that of the last.
            if cause != "slow" && !lines.iter().any(|line| line.gone == Some(cause)) {
                return Err(format!("{name}: {gap_summary}, and nothing was {cause}"));
            }
        }
        session.owed.retain(|seq| !(is_in_gap(seq) && is_loss(gone(seq))));
        session.may.retain(|seq| !(is_in_gap(seq) && is_loss(gone(seq))));
        if !first_told {
            session.last = session.last.max(to);
        }
        Ok(())
    }

    /// Its socket has taken a replayed message.
    pub(super) fn takes(&mut self, conn: ConnectionId, seq: u64) -> Check {
        let line = self.line(seq)?;
        line.is_heard |= line.by != Some(conn);
        Ok(())
    }

    /// An ack that counts: the recipients and contents of the receipts that it makes.
    pub(super) fn ack(&mut self, seq: u64, state: ReceiptState) -> Vec<(String, String)> {
        self.pass(seq);
        let mut receipts = Vec::new();
        for line in self.lines.iter_mut().filter(|line| line.seq <= seq) {
            let Some((to, sent)) = &mut line.receipt else { continue };
            if *sent < state {
                *sent = state;
                let state = if state == ReceiptState::Read { "read" } else { "delivered" };
                receipts.push((to.clone(), format!("{} {state}", line.id)));
            }
        }
        receipts
    }

    /// When all sockets have taken everything, nobody is owed anything.
    pub(super) fn settled(&self) -> Check {
        for (_, session) in &self.sessions {
            if !session.owed.is_empty() || session.gap.is_some() || session.is_anew {
                return Err(format!("{} {:?} were never heard", self.name, session.owed));
            }
        }
        Ok(())
    }
}

/// The first, the last and how many.
fn span(list: &[u64]) -> Option<(u64, u64, u64)> {
    Some((*list.first()?, *list.last()?, list.len() as u64))
}

fn cause_of(gap: &Value) -> &str {
    gap["cause"].as_str().unwrap()
}
