//! The scan of a write-ahead log: what of it was committed, and what of that is damaged.
//!
//! That follows from the order of records and holes alone.

/// Where a record is, with its header.
#[derive(Clone, Copy)]
pub(super) struct RecordSpan {
    pub(super) at: u64,
    pub(super) length: usize,
}

/// How many records there are, but for the ends of commits.
#[derive(Clone, Copy, Default)]
pub(super) struct RecordCounts {
    pub(super) messages: u64,
    pub(super) others: u64,
}

/// What is known after the records up to some offset.
#[derive(Default)]
pub(super) struct WalScan {
    /// Where the last commit without a hole ends, or the last record before a hole.
    pub(super) end: u64,
    /// What was committed up to the end of the last commit, read or not.
    pub(super) counts: RecordCounts,
    /// How much of that is damaged.
    pub(super) damaged: u64,
    /// What was read of the commit that has not ended yet.
    read: RecordCounts,
    /// The first hole in it.
    hole: Option<Hole>,
    /// It has ended, with a hole: whether it was answered is known when another follows.
    ended: Option<EndedCommit>,
}

#[derive(Clone, Copy)]
struct Hole {
    at: u64,
    /// What of its commit is before it.
    read: RecordCounts,
}

#[derive(Clone, Copy)]
struct EndedCommit {
    end: u64,
    counts: RecordCounts,
}

impl WalScan {
    /// Takes the next record that can be read; `at` is where it was looked for.
    pub(super) fn push(&mut self, at: u64, span: RecordSpan, kind: RecordKind) {
        if let Some(ended) = self.ended.take() {
            self.accept(ended);
        }
        if span.at != at && self.hole.is_none() {
            self.hole = Some(Hole { at, read: self.read });
        }
        let end = span.at + span.length as u64;
        match kind {
            RecordKind::Message => self.read.messages += 1,
            RecordKind::Other => self.read.others += 1,
            RecordKind::End(counts) if self.hole.is_some() => self.ended = Some(EndedCommit { end, counts }),
            RecordKind::End(counts) => self.accept(EndedCommit { end, counts }),
        }
        if self.hole.is_none() {
            self.end = end;
        }
    }

    /// A commit that was answered has ended here.
    fn accept(&mut self, EndedCommit { end, counts }: EndedCommit) {
        let known = self.counts.and(self.read);
        self.damaged += counts.messages.saturating_sub(known.messages);
        self.damaged += counts.others.saturating_sub(known.others);
        (self.end, self.counts, self.read, self.hole) = (end, counts, RecordCounts::default(), None);
    }

    /// All records were taken. So many messages were committed at least.
    pub(super) fn finish(&mut self, count_file: u64) {
        match (self.ended.take(), self.hole) {
            (Some(ended), _) if ended.counts.messages <= count_file => self.accept(ended),
            // It was never answered: what stands before the hole may stay, as after
            // any commit that fails.
            (_, Some(hole)) => (self.counts, self.end) = (self.counts.and(hole.read), hole.at),
            (_, None) => self.counts = self.counts.and(self.read),
        }
    }
}

impl RecordCounts {
    fn and(self, more: Self) -> Self {
        Self { messages: self.messages + more.messages, others: self.others + more.others }
    }
}

/// What has to be known of a record to scan it.
#[derive(Clone, Copy)]
pub(super) enum RecordKind {
    Message,
    Other,
    End(RecordCounts),
}
