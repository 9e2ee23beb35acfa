//! `wshubctl disconnect` and `purge`: what administrators end and drop.
//!
//! Asks nobody whether that is meant, and says what was done.

use std::process::ExitCode;

use serde::Deserialize;

use crate::args;
use crate::connection::Hub;
use crate::error::Failure;
use crate::format::count;
use crate::list;
use crate::query::{Ask, Reader, ask, fields, show, show_json};
use crate::terminal::{plain, say};

pub(crate) async fn disconnect(hub: &Hub, asked: args::Disconnect) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        disconnected: u64,
    }
    if asked.revoked {
        return list::revocations(hub, asked.json).await;
    }
    if asked.revoke.is_some() || asked.jti.is_some() {
        return revoke(hub, &asked).await;
    }
    if asked.lift.is_some() || asked.lift_jti.is_some() {
        return lift(hub, &asked).await;
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

async fn revoke(hub: &Hub, asked: &args::Disconnect) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        disconnected: u64,
        revoked_at: String,
        #[serde(default)]
        ahead: u64,
    }
    let (user_id, jti) = (asked.revoke.as_deref(), asked.jti.as_deref());
    let answer = ask(hub, &Ask::Revoke { revoke: true, user_id, jti }).await?;
    let Answer { disconnected, revoked_at, ahead } = answer.read()?;
    if ahead > 0 {
        say(&format!(
            "warning: {} came with a token that says it was issued later than that (`iat` ahead of the clock of \
             wshubd), and can come back with it: revoke it again once that time has passed",
            count(ahead, "connection")
        ));
    }
    let ended = count(disconnected, "connection");
    let (at, user, jti) = (plain(&revoked_at), user_id.map(plain), jti.map(plain));
    match (Reader::of(asked.json), user, jti) {
        (Reader::Program, ..) => show_json(&format!("{}\n", fields(&answer)?)),
        (Reader::Person, Some(user), _) => show(&format!(
            "tokens of {user} that were issued up to {at} do not hold any more; {ended} ended\n\
             a token that is made after that second holds\n"
        )),
        (Reader::Person, None, jti) => {
            let jti = jti.unwrap_or_default();
            show(&format!("the token {jti} does not hold any more, since {at}; {ended} ended\n"))
        }
    }
}

async fn lift(hub: &Hub, asked: &args::Disconnect) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        lifted: bool,
    }
    let (user_id, jti) = (asked.lift.as_deref(), asked.lift_jti.as_deref());
    let answer = ask(hub, &Ask::Lift { user_id, jti }).await?;
    let Answer { lifted } = answer.read()?;
    let name = plain(user_id.or(jti).unwrap_or_default());
    match Reader::of(asked.json) {
        Reader::Program => show_json(&format!("{}\n", fields(&answer)?)),
        Reader::Person if lifted && user_id.is_some() => {
            show(&format!("the tokens of {name} hold again that have not ended\n"))
        }
        Reader::Person if lifted => show(&format!("the token {name} holds again, if it has not ended\n")),
        Reader::Person => show(&format!("{name} was not revoked\n")),
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
