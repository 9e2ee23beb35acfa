//! `wshubctl pub --wait-read`: receipts of the messages that were sent.
//!
//! The user's client decides when a message is read.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use smol::{Timer, future};
use wshubd::client::{Client, Events, HubLine};

use crate::error::{Exit, Failure};
use crate::format::count;
use crate::terminal::{escape, notice};

/// Receipts of one user for messages of this command.
pub(crate) struct Receipts<'a> {
    events: &'a Events,
    verbose: bool,
    /// Taken by wshubd, and not read so far.
    unread: HashSet<String>,
    /// Read before wshubd's own answer was handled.
    early: HashSet<String>,
}

/// The data of a `system:receipt` event.
#[derive(Deserialize)]
struct ReceiptData {
    message_id: String,
    user_id: String,
    state: String,
}

impl<'a> Receipts<'a> {
    pub(crate) fn new(events: &'a Events, verbose: bool) -> Self {
        Self { events, verbose, unread: HashSet::new(), early: HashSet::new() }
    }

    /// Expects receipts for a message. Handles those that have come meanwhile, so
    /// that they do not pile up behind a long input.
    pub(crate) fn expect(&mut self, message_id: String) {
        if !self.early.remove(&message_id) {
            self.unread.insert(message_id);
        }
        while let Some(line) = self.events.try_next_line() {
            self.handle(&line);
        }
    }

    /// Waits until all are read.
    pub(crate) async fn wait(mut self, client: &Client, timeout: Option<Duration>) -> Result<(), Failure> {
        let expected = self.unread.len();
        let all = async {
            while !self.unread.is_empty() {
                match self.events.next_line().await {
                    Some(line) => self.handle(&line),
                    None => return Err(Failure::from(client.end_reason())),
                }
            }
            Ok(true)
        };
        let expired = async {
            match timeout {
                Some(timeout) => Timer::after(timeout).await,
                None => future::pending().await,
            };
            Ok(false)
        };
        if future::or(all, expired).await? {
            return Ok(());
        }
        let unread = self.unread.len();
        let which = match expected {
            1 => "the message was not read".to_owned(),
            _ => format!("{unread} of {} were not read", count(expected as u64, "message")),
        };
        let within = humantime::format_duration(timeout.unwrap_or_default());
        Err(Failure::new(Exit::TimedOut, format!("{which} within {within}")))
    }

    fn handle(&mut self, line: &HubLine) {
        let Some(message) = line.message() else { return };
        // Only the hub can send events of this name.
        if message.event != "system:receipt" {
            return;
        }
        let Ok(receipt) = serde_json::from_str::<ReceiptData>(message.data.get()) else { return };
        if self.verbose {
            let ReceiptData { message_id, user_id, state } = &receipt;
            let by = if state == "read" { "by" } else { "to" };
            notice(&escape(&format!("{message_id}: {state} {by} {user_id}")));
        }
        if receipt.state == "read" && !self.unread.remove(&receipt.message_id) {
            self.early.insert(receipt.message_id);
        }
    }
}
