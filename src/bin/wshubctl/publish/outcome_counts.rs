//! Counts of messages by outcome, and their report.

use std::process::ExitCode;

use wshubd::client::Published;

use crate::error::Exit;
use crate::format::count;
use crate::terminal::{escape, notice};

/// Refusals, and lines that cannot be sent, that are shown one by one.
const SHOWN: u64 = 5;

#[derive(Default)]
pub(super) struct OutcomeCounts {
    taken: u64,
    sent: u64,
    failed: u64,
    kept: u64,
    stored: u64,
    refused: u64,
    /// wshubd may have them or not.
    unanswered: u64,
    /// Lines that are no messages.
    bad: u64,
    blank: u64,
    exit: Option<Exit>,
}

impl OutcomeCounts {
    pub(super) fn add_taken(&mut self, published: &Published) {
        self.taken += 1;
        self.sent += published.sent;
        self.failed += published.failed;
        self.kept += u64::from(published.kept);
        self.stored += u64::from(published.stored);
    }

    /// Without a message where it is reported otherwise.
    pub(super) fn add_refused(&mut self, exit: Exit, message: Option<&str>) {
        self.refused += 1;
        // The first refusal decides; the others are most often the same.
        self.exit.get_or_insert(exit);
        if let Some(message) = message.filter(|_| self.refused <= SHOWN) {
            notice(&format!("refused: {}", escape(message)));
        }
    }

    pub(super) fn add_unanswered(&mut self) {
        self.unanswered += 1;
    }

    pub(super) fn add_bad_line(&mut self, number: u64, why: &str) {
        self.bad += 1;
        self.exit.get_or_insert(Exit::Failed);
        if self.bad <= SHOWN {
            notice(&format!("line {number} of the standard input {}, not sent", escape(why)));
        }
    }

    pub(super) fn add_blank_line(&mut self) {
        self.blank += 1;
    }

    /// Whether there was nothing that could have been a message.
    pub(super) fn is_empty(&self) -> bool {
        self.taken + self.refused + self.unanswered + self.bad == 0
    }

    /// The counts of all that was not shown one by one.
    pub(super) fn report_rest(&self) {
        if self.refused > SHOWN {
            notice(&format!("{} messages were refused", self.refused));
        }
        if self.bad > SHOWN {
            notice(&format!("{} lines were not sent", self.bad));
        }
        if self.blank > 0 {
            notice(&format!("{} skipped", count(self.blank, "blank line")));
        }
    }

    /// Outcomes so far, where it ended early.
    pub(super) fn summary(&self) -> String {
        let refused = match self.refused {
            0 => String::new(),
            refused => format!(" and refused {refused}"),
        };
        let unanswered = match self.unanswered {
            0 => String::new(),
            1 => "; 1 has no answer and may or may not have been accepted".to_owned(),
            more => format!("; {more} have no answer and may or may not have been accepted"),
        };
        format!("wshubd accepted {}{refused}{unanswered}", count(self.taken, "message"))
    }

    /// All counts; those that were stored where durable messages were asked for.
    pub(super) fn report(&self, durable: bool) {
        let stored = if durable { format!(", {} stored", self.stored) } else { String::new() };
        let mut rest = String::new();
        for (number, what) in [(self.bad, "bad line"), (self.blank, "blank line")] {
            if number > 0 {
                rest += &format!(", {}", count(number, what));
            }
        }
        if self.unanswered > 0 {
            rest += &format!(", {} without an answer", self.unanswered);
        }
        notice(&format!(
            "{} published, {} delivered, {} shed, {} kept{stored}, {} refused{rest}",
            self.taken, self.sent, self.failed, self.kept, self.refused
        ));
    }

    pub(super) fn exit(&self) -> ExitCode {
        self.exit.map_or(ExitCode::SUCCESS, ExitCode::from)
    }
}
