//! `wshubctl pub --wait-read`: until a person has read it.
//!
//! Knows which messages are waited for and what their receipts say. Does not know
//! when a client takes a message for read: that is the client's to say.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;
use smol::{Timer, future};
use wshubd::client::{Client, Heard, Lines};

use crate::error::{Exit, Failure};
use crate::format::count;
use crate::terminal::{plain, say};

/// Receipts of one user for messages of this command.
pub(crate) struct Receipts<'a> {
    lines: &'a Lines,
    verbose: bool,
    /// Taken by wshubd, and not read so far.
    unread: HashSet<String>,
    /// Read before wshubd's own answer was looked at.
    early: HashSet<String>,
}

/// What a receipt says.
#[derive(Deserialize)]
struct Receipt {
    message_id: String,
    user_id: String,
    state: String,
}

impl<'a> Receipts<'a> {
    pub(crate) fn new(lines: &'a Lines, verbose: bool) -> Self {
        Self { lines, verbose, unread: HashSet::new(), early: HashSet::new() }
    }

    /// A message is on its way, under this id. Hears what has come meanwhile, so
    /// that it does not pile up behind a long input.
    pub(crate) fn expect(&mut self, message_id: String) {
        if !self.early.remove(&message_id) {
            self.unread.insert(message_id);
        }
        while let Some(heard) = self.lines.try_next() {
            self.hear(&heard);
        }
    }

    /// Waits until all are read.
    pub(crate) async fn wait(mut self, client: &Client, timeout: Option<Duration>) -> Result<(), Failure> {
        let expected = self.unread.len();
        let all = async {
            while !self.unread.is_empty() {
                match self.lines.next().await {
                    Some(heard) => self.hear(&heard),
                    None => return Err(Failure::from(client.lost())),
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

    fn hear(&mut self, heard: &Heard) {
        let Some(message) = heard.message() else { return };
        // Nobody else can send events of this name.
        if message.event != "system:receipt" {
            return;
        }
        let Ok(receipt) = serde_json::from_str::<Receipt>(message.data.get()) else { return };
        if self.verbose {
            let Receipt { message_id, user_id, state } = &receipt;
            let by = if state == "read" { "by" } else { "to" };
            say(&plain(&format!("{message_id}: {state} {by} {user_id}")));
        }
        if receipt.state == "read" && !self.unread.remove(&receipt.message_id) {
            self.early.insert(receipt.message_id);
        }
    }
}
