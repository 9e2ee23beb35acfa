//! `wshubctl operations`, `channels`, `connections` and `inbox`: lists.
//!
//! JSON output has the entries as they came, fields of a later wshubd included.

use std::cmp::Reverse;
use std::process::ExitCode;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wshubd::client::Error;
use wshubd::edge::clock;

use crate::connection::HubConnection;
use crate::error::Failure;
use crate::format::{Column, age, count, pairs, size, span, table};
use crate::query::{json_line, query};
use crate::terminal::{OutputFormat, notice, print, print_json};

/// List running operations
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  wshubctl operations --channel logs")]
pub(crate) struct OperationsArgs {
    /// Only operations on one channel [default: all for administrators, your own for other users]
    #[arg(long)]
    channel: Option<String>,
    /// One JSON object a line, as it is in a pipe
    #[arg(long)]
    json: bool,
}

/// List channels and their kept messages
///
/// The channels with the most kept bytes come first. BEHIND is the number of
/// subscribers that still read kept messages, OLDEST the age of the oldest kept
/// message, POLICY the configured policy: undelivered, history or never.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl channels\n  \
                        wshubctl channels | jq -r 'select(.subscribers == 0) | .channel'")]
pub(crate) struct ChannelsArgs {
    /// One JSON object a line, as it is in a pipe
    #[arg(long)]
    json: bool,
}

/// List connections: clients, and workers such as this command
///
/// The connections with the most queued bytes come first, then the oldest ones.
/// HEARD is the time since the peer last sent something, QUEUED the bytes that its
/// socket has not taken, STALLED the time since the socket last took any, MISSED
/// the number of messages that were dropped meanwhile. Empty columns are left out.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl connections --user alice\n  \
                        wshubctl connections | jq -r 'select(.stalled > 5) | .connection_id'")]
pub(crate) struct ConnectionsArgs {
    /// Only connections of one user
    #[arg(long)]
    user: Option<String>,
    /// One JSON object a line, as it is in a pipe
    #[arg(long)]
    json: bool,
}

/// Show the messages that wait for a user, or for each user with any
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl inbox alice\n  wshubctl inbox | jq .user_id")]
pub(crate) struct InboxArgs {
    /// The user [default: all users with waiting messages, most bytes first]
    #[arg(value_name = "USER")]
    user: Option<String>,
    /// One JSON object a line, as it is in a pipe
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListedOperation {
    operation_id: String,
    channel: String,
    state: String,
    user_id: Option<String>,
    started_at: String,
    label: Option<String>,
}

const OPERATIONS: [Column<ListedOperation>; 6] = [
    Column::words("OPERATION", |it, _| Some(it.operation_id.clone())),
    Column::words("CHANNEL", |it, _| Some(it.channel.clone())),
    Column::words("STATE", |it, _| Some(it.state.clone())),
    Column::numbers("RUNNING", |it, now| age(&it.started_at, now)),
    Column::words("USER", |it, _| it.user_id.clone()),
    Column::words("LABEL", |it, _| it.label.clone()),
];

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListedChannel {
    channel: String,
    subscribers: u64,
    behind: u64,
    keep: String,
    kept: u64,
    bytes: u64,
    oldest_at: Option<String>,
    seq: u64,
}

const CHANNELS: [Column<ListedChannel>; 8] = [
    Column::words("CHANNEL", |it, _| Some(it.channel.clone())),
    Column::numbers("SUBSCRIBERS", |it, _| Some(it.subscribers.to_string())),
    Column::numbers("BEHIND", |it, _| unless_zero(it.behind, |behind| behind.to_string())),
    Column::numbers("PUBLISHED", |it, _| Some(it.seq.to_string())),
    Column::numbers("KEPT", |it, _| unless_zero(it.kept, |kept| kept.to_string())),
    Column::numbers("BYTES", |it, _| unless_zero(it.bytes, size)),
    Column::numbers("OLDEST", |it, now| age(it.oldest_at.as_deref()?, now)),
    Column::words("POLICY", |it, _| Some(it.keep.clone())),
];

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListedConnection {
    connection_id: String,
    kind: String,
    user_id: Option<String>,
    uid: Option<u32>,
    address: Option<String>,
    pid: Option<u32>,
    connected_at: String,
    heard_at: String,
    subscriptions: u64,
    operations: u64,
    queued: u64,
    queued_bytes: u64,
    stalled: Option<f64>,
    missed: u64,
}

const CONNECTIONS: [Column<ListedConnection>; 10] = [
    Column::words("CONNECTION", |it, _| Some(it.connection_id.clone())),
    Column::words("WHO", |it, _| Some(it.who())),
    Column::words("FROM", |it, _| it.address.clone().or_else(|| it.pid.map(process_name))),
    Column::numbers("CONNECTED", |it, now| age(&it.connected_at, now)),
    Column::numbers("HEARD", |it, now| age(&it.heard_at, now)),
    Column::numbers("CHANNELS", |it, _| unless_zero(it.subscriptions, |number| number.to_string())),
    Column::numbers("OPERATIONS", |it, _| unless_zero(it.operations, |number| number.to_string())),
    Column::numbers("QUEUED", |it, _| unless_zero(it.queued_bytes, size)),
    Column::numbers("STALLED", |it, _| {
        it.stalled.and_then(|time| Duration::try_from_secs_f64(time).ok()).map(span)
    }),
    Column::numbers("MISSED", |it, _| unless_zero(it.missed, |number| number.to_string())),
];

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListedInbox {
    user_id: String,
    connections: u64,
    epoch: Option<String>,
    seq: u64,
    waiting: u64,
    bytes: u64,
    oldest_at: Option<String>,
}

const INBOXES: [Column<ListedInbox>; 5] = [
    Column::words("USER", |it, _| Some(it.user_id.clone())),
    Column::numbers("CONNECTIONS", |it, _| Some(it.connections.to_string())),
    Column::numbers("WAITING", |it, _| Some(it.waiting.to_string())),
    Column::numbers("BYTES", |it, _| Some(size(it.bytes))),
    Column::numbers("OLDEST", |it, now| age(it.oldest_at.as_deref()?, now)),
];

#[derive(Deserialize, Default)]
#[serde(default)]
struct ListedRevocation {
    user_id: Option<String>,
    jti: Option<String>,
    revoked_at: String,
    until: Option<String>,
}

const REVOCATIONS: [Column<ListedRevocation>; 4] = [
    Column::words("USER", |it, _| it.user_id.clone()),
    Column::words("TOKEN", |it, _| it.jti.clone()),
    Column::words("REVOKED", |it, _| Some(it.revoked_at.clone())),
    Column::words("FORGOTTEN", |it, _| it.until.clone()),
];

impl ListedConnection {
    /// A user of wshubd, or of the machine.
    fn who(&self) -> String {
        match (&self.user_id, self.uid) {
            (Some(user), _) => user.clone(),
            (None, Some(uid)) => format!("uid {uid}"),
            (None, None) => format!("({} without a user)", self.kind),
        }
    }
}

/// A process as logs name it. It may have ended, or its number be another's.
fn process_name(pid: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{}[{pid}]", name.trim_end()),
        Err(_) => format!("pid {pid}"),
    }
}

fn unless_zero(number: u64, format: fn(u64) -> String) -> Option<String> {
    (number > 0).then(|| format(number))
}

/// One entry, read and as it came.
struct Row<T> {
    entry: T,
    json: Box<RawValue>,
}

fn rows<T: DeserializeOwned>(list: Vec<Box<RawValue>>) -> Result<Vec<Row<T>>, Failure> {
    let read = |json: Box<RawValue>| match serde_json::from_str(json.get()) {
        Ok(entry) => Ok(Row { entry, json }),
        Err(error) => Err(Error::Malformed(format!("{error} in {json}")).into()),
    };
    list.into_iter().map(read).collect()
}

/// Prints all entries; `none` is the text where there are none.
fn print_list<T>(
    format: OutputFormat,
    rows: &[Row<T>],
    columns: &[Column<T>],
    none: &str,
) -> Result<ExitCode, Failure> {
    match format {
        OutputFormat::Json => {
            print_json(&rows.iter().map(|row| format!("{}\n", row.json)).collect::<String>())
        }
        OutputFormat::Text if rows.is_empty() => print(&format!("{none}\n")),
        OutputFormat::Text => print(&table(columns, rows.iter().map(|row| &row.entry), clock::now().wall)),
    }
}

/// A request for a list, or for a part of it.
#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum ListRequest<'a> {
    Operations {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Channels {
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Connections {
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Inbox {
        #[serde(skip_serializing_if = "Option::is_none")]
        user_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    Revocations {
        #[serde(skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
}

/// One answer of a list that may have several: `list` has its entries, under the name that
/// the kind of the list gives them.
#[derive(Deserialize)]
struct ListAnswer {
    #[serde(
        alias = "operations",
        alias = "channels",
        alias = "connections",
        alias = "inboxes",
        alias = "revocations"
    )]
    list: Vec<Box<RawValue>>,
    /// The position after which the list continues, if it does.
    next: Option<String>,
    operations_running: Option<u64>,
}

/// Requests a whole list: wshubd answers with a part of a long one at a time.
async fn query_all<'q, T: DeserializeOwned>(
    hub: &HubConnection,
    request: impl Fn(Option<String>) -> ListRequest<'q>,
) -> Result<Vec<Row<T>>, Failure> {
    let (mut list, mut next) = (Vec::new(), None);
    loop {
        let answer: ListAnswer = query(hub, &request(next)).await?.parse()?;
        list.extend(rows(answer.list)?);
        if let Some(running) = answer.operations_running {
            notice(&format!("the first {} of {running} operations on this channel", list.len()));
        }
        next = answer.next;
        if next.is_none() {
            return Ok(list);
        }
    }
}

pub(crate) async fn operations(hub: &HubConnection, args: OperationsArgs) -> Result<ExitCode, Failure> {
    let channel = args.channel.as_deref();
    let rows: Vec<Row<ListedOperation>> =
        query_all(hub, |after| ListRequest::Operations { channel, after }).await?;
    print_list(OutputFormat::choose(args.json), &rows, &OPERATIONS, "no operation is running")
}

pub(crate) async fn channels(hub: &HubConnection, args: ChannelsArgs) -> Result<ExitCode, Failure> {
    let mut rows: Vec<Row<ListedChannel>> = query_all(hub, |after| ListRequest::Channels { after }).await?;
    rows.sort_by_key(|row| Reverse(row.entry.bytes));
    print_list(OutputFormat::choose(args.json), &rows, &CHANNELS, "there are no channels")
}

pub(crate) async fn connections(hub: &HubConnection, args: ConnectionsArgs) -> Result<ExitCode, Failure> {
    let mut rows: Vec<Row<ListedConnection>> =
        query_all(hub, |after| ListRequest::Connections { after }).await?;
    if let Some(user) = &args.user {
        rows.retain(|row| row.entry.user_id.as_ref() == Some(user));
    }
    let urgency = |it: &ListedConnection| (Reverse(it.queued_bytes), it.connected_at.clone());
    rows.sort_by_cached_key(|row| urgency(&row.entry));
    print_list(OutputFormat::choose(args.json), &rows, &CONNECTIONS, "there are no connections")
}

pub(crate) async fn revocations(hub: &HubConnection, json: bool) -> Result<ExitCode, Failure> {
    let rows: Vec<Row<ListedRevocation>> = query_all(hub, |after| ListRequest::Revocations { after }).await?;
    print_list(OutputFormat::choose(json), &rows, &REVOCATIONS, "no tokens are revoked")
}

pub(crate) async fn inbox(hub: &HubConnection, args: InboxArgs) -> Result<ExitCode, Failure> {
    let format = OutputFormat::choose(args.json);
    let Some(user) = args.user.as_deref() else {
        let mut rows: Vec<Row<ListedInbox>> =
            query_all(hub, |after| ListRequest::Inbox { user_id: None, after }).await?;
        rows.sort_by_key(|row| Reverse(row.entry.bytes));
        return print_list(format, &rows, &INBOXES, "no messages are waiting");
    };
    let answer = query(hub, &ListRequest::Inbox { user_id: Some(user), after: None }).await?;
    match format {
        OutputFormat::Json => print_json(&json_line(&answer)?),
        OutputFormat::Text => print(&one_inbox(&answer.parse()?)),
    }
}

/// One inbox as text.
fn one_inbox(inbox: &ListedInbox) -> String {
    let now = clock::now().wall;
    let mut waiting = count(inbox.waiting, "message");
    if inbox.waiting > 0 {
        waiting = format!("{waiting}, {}", size(inbox.bytes));
    }
    let mut lines = vec![("waiting", waiting)];
    if let Some(age) = inbox.oldest_at.as_deref().and_then(|oldest| age(oldest, now)) {
        lines.push(("oldest", format!("{age} ago")));
    }
    lines.push(("connections", inbox.connections.to_string()));
    if let Some(epoch) = &inbox.epoch {
        lines.push(("position", format!("{} in epoch {epoch}", inbox.seq)));
    }
    pairs(&lines)
}
