//! `wshubctl disconnect` and `purge`: what administrators end and drop.
//!
//! Asks nobody whether that is meant, and says what was done.

use std::process::ExitCode;

use serde::Deserialize;

use crate::args;
use crate::ask::{Ask, Reader, ask, fields, show, show_json};
use crate::failure::Failure;
use crate::figures::count;
use crate::hub::Hub;
use crate::screen::plain;

pub(crate) async fn disconnect(hub: &Hub, asked: args::Disconnect) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        disconnected: u64,
    }
    let (connection_id, user_id) = (asked.connection.as_deref(), asked.user.as_deref());
    let answer = ask(hub, &Ask::Disconnect { connection_id, user_id }).await?;
    let Answer { disconnected } = answer.read()?;
    match (Reader::of(asked.json), user_id) {
        (Reader::Program, _) => show_json(&format!("{}\n", fields(&answer)?)),
        (Reader::Person, Some(user)) => {
            show(&format!("{} of {} ended\n", count(disconnected, "connection"), plain(user)))
        }
        (Reader::Person, None) => show(&format!("{} ended\n", count(disconnected, "connection"))),
    }
}

pub(crate) async fn purge(hub: &Hub, asked: args::Purge) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        purged: u64,
    }
    let (channel, user_id) = (asked.channel.as_deref(), asked.user.as_deref());
    let answer = ask(hub, &Ask::Purge { channel, user_id }).await?;
    let Answer { purged } = answer.read()?;
    match Reader::of(asked.json) {
        Reader::Program => show_json(&format!("{}\n", fields(&answer)?)),
        Reader::Person => {
            let of = channel.or(user_id).unwrap_or_default();
            show(&format!("{} of {} dropped\n", count(purged, "message"), plain(of)))
        }
    }
}
