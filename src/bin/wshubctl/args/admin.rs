//! What administrators can ask on the command line.

use std::time::Duration;

use clap::{ArgGroup, Subcommand};

use serde_json::value::RawValue;

use super::duration::duration;

/// List what runs
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  wshubctl operations --channel logs")]
pub(crate) struct Operations {
    /// Only what runs on one channel [default: all that runs, for administrators; your own, for others]
    #[arg(long)]
    pub(crate) channel: Option<String>,
    /// One JSON object a line, as it is in a pipe
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show the numbers of wshubd
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  wshubctl status --json | jq .total_connections")]
pub(crate) struct Status {
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    pub(crate) json: bool,
}

/// List channels, and what they keep
///
/// Those that keep most bytes come first. BEHIND are subscribers that still read
/// what is kept, OLDEST says for how long the oldest message is kept, POLICY what
/// the configuration says: undelivered, history or never.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl channels\n  \
                        wshubctl channels | jq -r 'select(.subscribers == 0) | .channel'")]
pub(crate) struct Channels {
    /// One JSON object a line, as it is in a pipe
    #[arg(long)]
    pub(crate) json: bool,
}

/// List who is connected: clients, and workers such as this command
///
/// Those for which most bytes wait come first, then those that are there longest.
/// HEARD is how long ago they last gave a sign of life, QUEUED what their socket
/// has not taken, STALLED for how long it has taken nothing, MISSED how many
/// messages were dropped for them meanwhile. What nobody has is left out.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl connections --user alice\n  \
                        wshubctl connections | jq -r 'select(.stalled > 5) | .connection_id'")]
pub(crate) struct Connections {
    /// Only those of a user
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// One JSON object a line, as it is in a pipe
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what waits for a user, or for each user for whom something does
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl inbox alice\n  wshubctl inbox | jq .user_id")]
pub(crate) struct Inbox {
    /// Whose [default: all in which something waits, those with most bytes first]
    #[arg(value_name = "USER")]
    pub(crate) user: Option<String>,
    /// One JSON object a line, as it is in a pipe
    #[arg(long)]
    pub(crate) json: bool,
}

/// End a connection, or all of a user; revoke tokens
///
/// They are told 4003, which means not to come back by themselves. That a user
/// has no connection is no error; that there is no such CONNECTION is.
///
/// With --revoke the tokens that USER has do not hold any more either: those that were
/// issued up to this second (`iat`), or do not say when. A token that is made in a later
/// second holds, and so does one whose `iat` is ahead of the clock of wshubd: `token check`
/// tells of it, and it can be revoked once that time has passed. --jti does the same to one
/// token, whose `jti` `wshubctl connections` and `token check` show. That is on the disk when
/// the command ends, and is kept for `[auth] revocation_ttl`; meanwhile tokens that end further
/// ahead than that are refused.
/// --revoked lists what is kept, --lift takes one back.
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
pub(crate) struct Disconnect {
    /// Its id, as `wshubctl connections` lists it
    #[arg(value_name = "CONNECTION", group = "what")]
    pub(crate) connection: Option<String>,
    /// All connections of a user
    #[arg(long, group = "what")]
    pub(crate) user: Option<String>,
    /// All connections of a user, and its tokens
    #[arg(long, value_name = "USER", group = "what")]
    pub(crate) revoke: Option<String>,
    /// One token by its `jti`, and the connections that came with it
    #[arg(long, value_name = "ID", group = "what")]
    pub(crate) jti: Option<String>,
    /// List what is revoked
    #[arg(long, group = "what")]
    pub(crate) revoked: bool,
    /// Take the tokens of a user again
    #[arg(long, value_name = "USER", group = "what")]
    pub(crate) lift: Option<String>,
    /// Take one token again
    #[arg(long, value_name = "ID", group = "what")]
    pub(crate) lift_jti: Option<String>,
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    pub(crate) json: bool,
}

/// Drop what is kept of a channel, or for a user
///
/// Who was still to hear it is told of a gap. What is published later is kept as
/// before.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "wshubctl purge [OPTIONS] <CHANNEL|--user USER>",
    after_help = "Examples:\n  wshubctl purge logs\n  wshubctl purge --user alice"
)]
pub(crate) struct Purge {
    /// What it keeps for those who come
    #[arg(value_name = "CHANNEL", required_unless_present = "user", conflicts_with = "user")]
    pub(crate) channel: Option<String>,
    /// What waits in the inbox of a user
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    pub(crate) json: bool,
}

/// Have wshubd read its configuration again, without ending any connection
///
/// Files, keys and secrets are read and checked as a whole first; then all that has
/// changed is used, or, if anything is wrong, nothing. What takes a restart
/// (`[listen]` http and worker, all of `[state]`) counts as wrong when it has changed.
/// Prints what has changed; exits with 1, and says what is wrong and where, if wshubd
/// goes on as before.
///
/// Who was let in stays in until the token ends, also with a key that is gone: `wshubctl
/// disconnect --user USER` ends that sooner.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl reload\n  wshubctl reload | jq -r '.changed[].setting'")]
pub(crate) struct Reload {
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    pub(crate) json: bool,
}

/// Make and check tokens for clients
#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    New(NewToken),
    Check(CheckToken),
}

/// Make a token and print it, alone on a line
///
/// Without --subscribe, --publish, --interrupt and --admin it allows what the configuration of
/// wshubd allows every token. With any of them, it allows what they say and nothing else: what is
/// not given means nothing of that kind. A PATTERN is the name of a channel, with `*` for
/// any characters; quote it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl token new --user alice --ttl 8h\n  \
                        wshubctl token new --user alice --subscribe 'logs:*' news --publish chat")]
pub(crate) struct NewToken {
    /// Whom it names
    #[arg(long)]
    pub(crate) user: String,
    /// How long it holds, as in 8h or 90 (seconds)
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// The channels that it may hear
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    pub(crate) subscribe: Vec<String>,
    /// The channels to which it may publish
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    pub(crate) publish: Vec<String>,
    /// The channels on which it may stop operations, beside the user's own
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    pub(crate) interrupt: Vec<String>,
    /// It may administer
    #[arg(long)]
    pub(crate) admin: bool,
    /// How many requests a second its bearer may send, at most `[limits] token_rate`
    #[arg(long, value_name = "NUMBER", requires = "burst", value_parser = above_zero)]
    pub(crate) rate: Option<f64>,
    /// How many requests at once
    #[arg(long, value_name = "NUMBER", requires = "rate", value_parser = above_zero)]
    pub(crate) burst: Option<f64>,
    /// What others see of its bearer where they see who is present: JSON of up to 256 bytes
    #[arg(long, value_name = "JSON", value_parser = json)]
    pub(crate) info: Option<Box<RawValue>>,
}

fn above_zero(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "a number above 0 is wanted".to_owned())
}

fn json(text: &str) -> Result<Box<RawValue>, String> {
    RawValue::from_string(text.to_owned())
        .map_err(|error| format!("JSON is wanted, such as '{{\"name\":\"Ada\"}}': {error}"))
}

/// Say whether wshubd takes a token, and if not, why
///
/// Exits with 0 if it holds, and shows whom it names, when it ends and what it
/// allows; with 1 if it does not. Other users of the machine can see the arguments
/// of a command: better let it read the token.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl token check < token.txt\n  \
                        wshubctl token new --user alice | wshubctl token check\n  \
                        wl-paste | wshubctl token check")]
pub(crate) struct CheckToken {
    /// The token; `-`, or none, for the standard input
    #[arg(value_name = "TOKEN|-")]
    pub(crate) token: Option<String>,
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    pub(crate) json: bool,
}
