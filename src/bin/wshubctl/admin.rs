//! `wshubctl disconnect` and `purge`. Neither asks for confirmation.

use std::process::ExitCode;

use clap::ArgGroup;
use serde::{Deserialize, Serialize};

use crate::connection::HubConnection;
use crate::error::Failure;
use crate::format::count;
use crate::list;
use crate::query::{json_line, query};
use crate::terminal::{OutputFormat, escape, notice, print, print_json};

/// End a connection, or all of a user; revoke tokens
///
/// The close code is 4003: the client must not reconnect by itself. A user without
/// connections is not an error; an unknown CONNECTION is.
///
/// --revoke also revokes the tokens of USER that were issued up to this second (`iat`), or
/// have no `iat`. A token that is issued in a later second is valid, and so is one whose
/// `iat` is ahead of the clock of wshubd: `token check` warns of it, and it can be revoked
/// once that time has passed. --jti revokes one token; `wshubctl connections` and
/// `token check` show its `jti`. The revocation is on the disk when the command ends, and is
/// kept for `[auth] revocation_ttl`; meanwhile tokens that end later than that are refused.
/// --revoked lists the revocations, --lift and --lift-jti remove one.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "wshubctl disconnect [OPTIONS] <CONNECTION|--user USER>\n       \
                      wshubctl disconnect [OPTIONS] <--revoke USER|--jti ID>\n       \
                      wshubctl disconnect [OPTIONS] <--revoked|--lift USER|--lift-jti ID>",
    group = ArgGroup::new("what").required(true),
    after_help = "Examples:\n  wshubctl disconnect 00000000v2q8pj5d4x1c\n  \
                  wshubctl disconnect --user alice\n  \
                  wshubctl disconnect --revoke alice\n  \
                  wshubctl disconnect --revoked | jq -r .user_id"
)]
pub(crate) struct DisconnectArgs {
    /// The id of the connection, as in `wshubctl connections`
    #[arg(value_name = "CONNECTION", group = "what")]
    connection: Option<String>,
    /// All connections of a user
    #[arg(long, group = "what")]
    user: Option<String>,
    /// All connections and all tokens of a user
    #[arg(long, value_name = "USER", group = "what")]
    revoke: Option<String>,
    /// One token by its `jti`, and the connections with this token
    #[arg(long, value_name = "ID", group = "what")]
    jti: Option<String>,
    /// List the revocations
    #[arg(long, group = "what")]
    revoked: bool,
    /// Accept the tokens of a user again
    #[arg(long, value_name = "USER", group = "what")]
    lift: Option<String>,
    /// Accept one token again
    #[arg(long, value_name = "ID", group = "what")]
    lift_jti: Option<String>,
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    json: bool,
}

/// Drop the kept messages of a channel or of a user
///
/// Subscribers that still had to receive them get a gap. Later messages are kept as
/// before.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "wshubctl purge [OPTIONS] <CHANNEL|--user USER>",
    after_help = "Examples:\n  wshubctl purge logs\n  wshubctl purge --user alice"
)]
pub(crate) struct PurgeArgs {
    /// The channel
    #[arg(value_name = "CHANNEL", required_unless_present = "user", conflicts_with = "user")]
    channel: Option<String>,
    /// The user whose inbox is emptied
    #[arg(long)]
    user: Option<String>,
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum AdminRequest<'a> {
    Disconnect {
        #[serde(skip_serializing_if = "Option::is_none")]
        connection_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
    },
    #[serde(rename = "disconnect")]
    Revoke {
        revoke: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        jti: Option<&'a str>,
    },
    Lift {
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        jti: Option<&'a str>,
    },
    Purge {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
    },
}

pub(crate) async fn disconnect(hub: &HubConnection, args: DisconnectArgs) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct DisconnectAnswer {
        disconnected: u64,
    }
    if args.revoked {
        return list::revocations(hub, args.json).await;
    }
    if args.revoke.is_some() || args.jti.is_some() {
        return revoke(hub, &args).await;
    }
    if args.lift.is_some() || args.lift_jti.is_some() {
        return lift(hub, &args).await;
    }
    let (connection_id, user_id) = (args.connection.as_deref(), args.user.as_deref());
    let answer = query(hub, &AdminRequest::Disconnect { connection_id, user_id }).await?;
    let DisconnectAnswer { disconnected } = answer.parse()?;
    match (OutputFormat::choose(args.json), user_id) {
        (OutputFormat::Json, _) => print_json(&json_line(&answer)?),
        (OutputFormat::Text, Some(user)) => {
            print(&format!("{} of {} ended\n", count(disconnected, "connection"), escape(user)))
        }
        (OutputFormat::Text, None) => print(&format!("{} ended\n", count(disconnected, "connection"))),
    }
}

async fn revoke(hub: &HubConnection, args: &DisconnectArgs) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct RevokeAnswer {
        disconnected: u64,
        revoked_at: String,
        #[serde(default)]
        ahead: u64,
    }
    let (user_id, jti) = (args.revoke.as_deref(), args.jti.as_deref());
    let answer = query(hub, &AdminRequest::Revoke { revoke: true, user_id, jti }).await?;
    let RevokeAnswer { disconnected, revoked_at, ahead } = answer.parse()?;
    if ahead > 0 {
        notice(&format!(
            "warning: {} had a token with an `iat` ahead of the clock of wshubd, which is still accepted: \
             revoke it again once that time has passed",
            count(ahead, "connection")
        ));
    }
    let ended = count(disconnected, "connection");
    let (at, user, jti) = (escape(&revoked_at), user_id.map(escape), jti.map(escape));
    match (OutputFormat::choose(args.json), user, jti) {
        (OutputFormat::Json, ..) => print_json(&json_line(&answer)?),
        (OutputFormat::Text, Some(user), _) => print(&format!(
            "tokens of {user} that were issued up to {at} are revoked; {ended} ended\n\
             a token that is issued after that second is valid\n"
        )),
        (OutputFormat::Text, None, jti) => {
            let jti = jti.unwrap_or_default();
            print(&format!("the token {jti} is revoked since {at}; {ended} ended\n"))
        }
    }
}

async fn lift(hub: &HubConnection, args: &DisconnectArgs) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct LiftAnswer {
        lifted: bool,
    }
    let (user_id, jti) = (args.lift.as_deref(), args.lift_jti.as_deref());
    let answer = query(hub, &AdminRequest::Lift { user_id, jti }).await?;
    let LiftAnswer { lifted } = answer.parse()?;
    let name = escape(user_id.or(jti).unwrap_or_default());
    match OutputFormat::choose(args.json) {
        OutputFormat::Json => print_json(&json_line(&answer)?),
        OutputFormat::Text if lifted && user_id.is_some() => {
            print(&format!("the tokens of {name} are no longer revoked\n"))
        }
        OutputFormat::Text if lifted => print(&format!("the token {name} is no longer revoked\n")),
        OutputFormat::Text => print(&format!("{name} was not revoked\n")),
    }
}

pub(crate) async fn purge(hub: &HubConnection, args: PurgeArgs) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct PurgeAnswer {
        purged: u64,
    }
    let (channel, user_id) = (args.channel.as_deref(), args.user.as_deref());
    let answer = query(hub, &AdminRequest::Purge { channel, user_id }).await?;
    let PurgeAnswer { purged } = answer.parse()?;
    match OutputFormat::choose(args.json) {
        OutputFormat::Json => print_json(&json_line(&answer)?),
        OutputFormat::Text => {
            let of = channel.or(user_id).unwrap_or_default();
            print(&format!("{} of {} dropped\n", count(purged, "message"), escape(of)))
        }
    }
}
