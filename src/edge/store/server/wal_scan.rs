//! What of a write-ahead log was committed, and what of that is damaged.
//!
//! Knows the order of records and holes, and what follows from it. Does not know files,
//! nor what a record says.

/// Where a record is, with its header.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    pub(super) at: u64,
    pub(super) length: usize,
}

/// How many records there are, but for the ends of commits.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) messages: u64,
    pub(super) others: u64,
}

/// What is known after the records up to some offset.
#[derive(Default)]
pub(super) struct WalScan {
    /// Where the last commit without a hole ends, or the last record before a hole.
    pub(super) end: u64,
    /// What was committed up to the end of the last commit, read or not.
    pub(super) counts: Counts,
    /// How much of that is damaged.
    pub(super) damaged: u64,
    /// What was read of the commit that has not ended yet.
    read: Counts,
    /// The first hole in it.
    hole: Option<Hole>,
    /// It has ended, with a hole: whether it was answered is known when another follows.
    ended: Option<Ended>,
}

#[derive(Clone, Copy)]
struct Hole {
    at: u64,
    /// What of its commit is before it.
    read: Counts,
}

#[derive(Clone, Copy)]
struct Ended {
    end: u64,
    counts: Counts,
}

impl WalScan {
    /// The next record that can be read; `at` is where it was looked for.
    pub(super) fn meet(&mut self, at: u64, spot: Spot, kind: Kind) {
        if let Some(ended) = self.ended.take() {
            self.accept(ended);
        }
        if spot.at != at && self.hole.is_none() {
            self.hole = Some(Hole { at, read: self.read });
        }
        let end = spot.at + spot.length as u64;
        match kind {
            Kind::Message => self.read.messages += 1,
            Kind::Other => self.read.others += 1,
            Kind::End(counts) if self.hole.is_some() => self.ended = Some(Ended { end, counts }),
            Kind::End(counts) => self.accept(Ended { end, counts }),
        }
        if self.hole.is_none() {
            self.end = end;
        }
    }

    /// A commit that was answered has ended here.
    fn accept(&mut self, Ended { end, counts }: Ended) {
        let known = self.counts.and(self.read);
        self.damaged += counts.messages.saturating_sub(known.messages);
        self.damaged += counts.others.saturating_sub(known.others);
        (self.end, self.counts, self.read, self.hole) = (end, counts, Counts::default(), None);
    }

    /// All was met. So many messages were committed at least.
    pub(super) fn finish(&mut self, witness: u64) {
        match (self.ended.take(), self.hole) {
            (Some(ended), _) if ended.counts.messages <= witness => self.accept(ended),
            // It was never answered: what stands before the hole may stay, as after
            // any commit that fails.
            (_, Some(hole)) => (self.counts, self.end) = (self.counts.and(hole.read), hole.at),
            (_, None) => self.counts = self.counts.and(self.read),
        }
    }
}

impl Counts {
    fn and(self, more: Self) -> Self {
        Self { messages: self.messages + more.messages, others: self.others + more.others }
    }
}

/// What has to be known of a record to survey it.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Message,
    Other,
    End(Counts),
}
