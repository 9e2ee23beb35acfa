//! `wshubctl operations`, `channels`, `connections` and `inbox`: lists.
//!
//! Knows which columns a person wants, and what comes first. A program gets the
//! entries as wshubd spells them, fields of a later wshubd included.

use std::cmp::Reverse;
use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use wshubd::client::Error;
use wshubd::edge::clock;

use crate::args;
use crate::connection::Hub;
use crate::error::Failure;
use crate::format::{age, count, size, span};
use crate::query::{Ask, Reader, ask, fields, show, show_json};
use crate::table::{Column, pairs, table};
use crate::terminal::say;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Operation {
    operation_id: String,
    channel: String,
    state: String,
    user_id: Option<String>,
    started_at: String,
    label: Option<String>,
}

const OPERATIONS: [Column<Operation>; 6] = [
    Column::words("OPERATION", |it, _| Some(it.operation_id.clone())),
    Column::words("CHANNEL", |it, _| Some(it.channel.clone())),
    Column::words("STATE", |it, _| Some(it.state.clone())),
    Column::numbers("RUNNING", |it, now| age(&it.started_at, now)),
    Column::words("USER", |it, _| it.user_id.clone()),
    Column::words("LABEL", |it, _| it.label.clone()),
];

#[derive(Deserialize, Default)]
#[serde(default)]
struct Channel {
    channel: String,
    subscribers: u64,
    behind: u64,
    keep: String,
    kept: u64,
    bytes: u64,
    oldest_at: Option<String>,
    seq: u64,
}

const CHANNELS: [Column<Channel>; 8] = [
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
struct Connection {
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

const CONNECTIONS: [Column<Connection>; 10] = [
    Column::words("CONNECTION", |it, _| Some(it.connection_id.clone())),
    Column::words("WHO", |it, _| Some(it.who())),
    Column::words("FROM", |it, _| it.address.clone().or_else(|| it.pid.map(process))),
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
struct Inbox {
    user_id: String,
    connections: u64,
    epoch: Option<String>,
    seq: u64,
    waiting: u64,
    bytes: u64,
    oldest_at: Option<String>,
}

const INBOXES: [Column<Inbox>; 5] = [
    Column::words("USER", |it, _| Some(it.user_id.clone())),
    Column::numbers("CONNECTIONS", |it, _| Some(it.connections.to_string())),
    Column::numbers("WAITING", |it, _| Some(it.waiting.to_string())),
    Column::numbers("BYTES", |it, _| Some(size(it.bytes))),
    Column::numbers("OLDEST", |it, now| age(it.oldest_at.as_deref()?, now)),
];

#[derive(Deserialize, Default)]
#[serde(default)]
struct Revocation {
    user_id: Option<String>,
    jti: Option<String>,
    revoked_at: String,
    until: Option<String>,
}

const REVOCATIONS: [Column<Revocation>; 4] = [
    Column::words("USER", |it, _| it.user_id.clone()),
    Column::words("TOKEN", |it, _| it.jti.clone()),
    Column::words("REVOKED", |it, _| Some(it.revoked_at.clone())),
    Column::words("FORGOTTEN", |it, _| it.until.clone()),
];

impl Connection {
    /// A user of wshubd, or of the machine.
    fn who(&self) -> String {
        match (&self.user_id, self.uid) {
            (Some(user), _) => user.clone(),
            (None, Some(uid)) => format!("uid {uid}"),
            (None, None) => format!("({} without a user)", self.kind),
        }
    }
}

/// A process as logs name it. It may have gone, or its number be another's.
fn process(pid: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("{}[{pid}]", name.trim_end()),
        Err(_) => format!("pid {pid}"),
    }
}

fn unless_zero(number: u64, spell: fn(u64) -> String) -> Option<String> {
    (number > 0).then(|| spell(number))
}

/// One entry, read and as it came.
struct Row<T> {
    entry: T,
    json: Box<RawValue>,
}

fn rows<T: DeserializeOwned>(list: Vec<Box<RawValue>>) -> Result<Vec<Row<T>>, Failure> {
    let read = |json: Box<RawValue>| match serde_json::from_str(json.get()) {
        Ok(entry) => Ok(Row { entry, json }),
        Err(error) => Err(Error::Garbled(format!("{error} in {json}")).into()),
    };
    list.into_iter().map(read).collect()
}

fn print<T>(reader: Reader, rows: &[Row<T>], columns: &[Column<T>], none: &str) -> Result<ExitCode, Failure> {
    match reader {
        Reader::Program => show_json(&rows.iter().map(|row| format!("{}\n", row.json)).collect::<String>()),
        Reader::Person if rows.is_empty() => show(&format!("{none}\n")),
        Reader::Person => show(&table(columns, rows.iter().map(|row| &row.entry), clock::now().wall)),
    }
}

/// One answer of a list that may have several: `list` is what this one calls its entries.
#[derive(Deserialize)]
struct Answer {
    #[serde(
        alias = "operations",
        alias = "channels",
        alias = "connections",
        alias = "inboxes",
        alias = "revocations"
    )]
    list: Vec<Box<RawValue>>,
    /// Where it goes on, if it does.
    next: Option<String>,
    operations_running: Option<u64>,
}

/// Asks for a whole list: wshubd answers with a part of a long one at a time.
async fn all<'q, T: DeserializeOwned>(
    hub: &Hub,
    request: impl Fn(Option<String>) -> Ask<'q>,
) -> Result<Vec<Row<T>>, Failure> {
    let (mut list, mut next) = (Vec::new(), None);
    loop {
        let answer: Answer = ask(hub, &request(next)).await?.read()?;
        list.extend(rows(answer.list)?);
        if let Some(running) = answer.operations_running {
            say(&format!("the first {} of {running} that run there", list.len()));
        }
        next = answer.next;
        if next.is_none() {
            return Ok(list);
        }
    }
}

pub(crate) async fn operations(hub: &Hub, asked: args::Operations) -> Result<ExitCode, Failure> {
    let channel = asked.channel.as_deref();
    let rows: Vec<Row<Operation>> = all(hub, |after| Ask::Operations { channel, after }).await?;
    print(Reader::of(asked.json), &rows, &OPERATIONS, "nothing runs")
}

pub(crate) async fn channels(hub: &Hub, asked: args::Channels) -> Result<ExitCode, Failure> {
    let mut rows: Vec<Row<Channel>> = all(hub, |after| Ask::Channels { after }).await?;
    rows.sort_by_key(|row| Reverse(row.entry.bytes));
    print(Reader::of(asked.json), &rows, &CHANNELS, "there are no channels")
}

pub(crate) async fn connections(hub: &Hub, asked: args::Connections) -> Result<ExitCode, Failure> {
    let mut rows: Vec<Row<Connection>> = all(hub, |after| Ask::Connections { after }).await?;
    if let Some(user) = &asked.user {
        rows.retain(|row| row.entry.user_id.as_ref() == Some(user));
    }
    let urgency = |it: &Connection| (Reverse(it.queued_bytes), it.connected_at.clone());
    rows.sort_by_cached_key(|row| urgency(&row.entry));
    print(Reader::of(asked.json), &rows, &CONNECTIONS, "nobody is connected")
}

pub(crate) async fn revocations(hub: &Hub, json: bool) -> Result<ExitCode, Failure> {
    let rows: Vec<Row<Revocation>> = all(hub, |after| Ask::Revocations { after }).await?;
    print(Reader::of(json), &rows, &REVOCATIONS, "nothing is revoked")
}

pub(crate) async fn inbox(hub: &Hub, asked: args::Inbox) -> Result<ExitCode, Failure> {
    let reader = Reader::of(asked.json);
    let Some(user) = asked.user.as_deref() else {
        let mut rows: Vec<Row<Inbox>> = all(hub, |after| Ask::Inbox { user_id: None, after }).await?;
        rows.sort_by_key(|row| Reverse(row.entry.bytes));
        return print(reader, &rows, &INBOXES, "nothing waits for anybody");
    };
    let answer = ask(hub, &Ask::Inbox { user_id: Some(user), after: None }).await?;
    match reader {
        Reader::Program => show_json(&format!("{}\n", fields(&answer)?)),
        Reader::Person => show(&one_inbox(&answer.read()?)),
    }
}

/// What a person wants to know of one inbox.
fn one_inbox(inbox: &Inbox) -> String {
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
