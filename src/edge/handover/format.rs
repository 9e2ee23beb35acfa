//! Form of the state of a daemon in a hand-over: a table in JSON.
//!
//! Bytes of others (undecoded input, frames that wait) lie beside the table, and a frame that
//! many wait for lies there once. The names in the JSON are those of the first version.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::memfd::Span;
use crate::edge::net::listeners::ListenerName;
use crate::edge::net::send_queue::FramePosition;
use crate::hub::SendQueueState;
use crate::protocol::{ConnectionId, Moment, OperationId};

/// All but the bytes.
#[derive(Serialize, Deserialize)]
pub(super) struct Table {
    /// When the other process stopped to read.
    pub since: Moment,
    #[serde(rename = "doors")]
    pub listeners: Vec<ListenerName>,
    #[serde(rename = "links")]
    pub connections: Vec<ConnectionForm>,
    /// When each pending connection times out.
    #[serde(rename = "guests")]
    pub pending: Vec<Moment>,
    /// Connections that were closed, and when they are cut off.
    #[serde(rename = "lingering")]
    pub closing: Vec<(Moment, ConnectionId)>,
    /// The number of the last request over HTTP.
    #[serde(rename = "last_ticket")]
    pub last_http_request: u64,
    #[serde(rename = "packets")]
    pub frames: Vec<Span>,
    #[serde(rename = "marks")]
    pub positions: Vec<FramePosition>,
    pub hub: Span,
    pub store: Span,
}

/// One connection.
#[derive(Serialize, Deserialize)]
pub(super) struct ConnectionForm {
    pub id: ConnectionId,
    pub side: SideForm,
    /// Where the client is, if proxies have named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<IpAddr>,
    #[serde(rename = "outbox", default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueForm>,
    #[serde(default, skip_serializing_if = "StateForm::is_usual")]
    pub state: StateForm,
}

/// The kind of the peer, with its undecoded input.
#[derive(Serialize, Deserialize)]
pub(super) enum SideForm {
    #[serde(rename = "c")]
    Client(Option<PartialMessageForm>),
    #[serde(rename = "w")]
    Worker { admin: bool, line: Option<PartialLineForm>, latches: Vec<LatchForm> },
}

/// An unfinished message of a client.
#[derive(Serialize, Deserialize)]
pub(super) struct PartialMessageForm {
    pub fragments: Span,
    pub payload: usize,
    pub tail: Span,
}

/// An unfinished line of a worker.
#[derive(Serialize, Deserialize)]
pub(super) struct PartialLineForm {
    pub tail: Span,
    pub skips: bool,
}

/// The latch of an operation.
#[derive(Serialize, Deserialize)]
pub(super) struct LatchForm {
    pub operation: OperationId,
    /// It goes on.
    #[serde(rename = "runs")]
    pub is_running: bool,
    pub pulled: Option<FrameForm>,
    /// The place in the queue of the frame that confirms its start, if that still waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<usize>,
}

/// What waits for a peer.
#[derive(Serialize, Deserialize)]
pub(super) struct QueueForm {
    #[serde(rename = "pieces")]
    pub frames: Vec<FrameForm>,
    pub taken: usize,
    #[serde(rename = "told")]
    pub reported: SendQueueState,
}

/// Part of an encoded frame: which frame, from, to; and its position in the log.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u32, Option<u32>)", into = "(u32, u32, u32, Option<u32>)")]
pub(super) struct FrameForm {
    pub frame: u32,
    pub from: u32,
    pub to: u32,
    pub position: Option<u32>,
}

impl From<(u32, u32, u32, Option<u32>)> for FrameForm {
    fn from((frame, from, to, position): (u32, u32, u32, Option<u32>)) -> Self {
        Self { frame, from, to, position }
    }
}

impl From<FrameForm> for (u32, u32, u32, Option<u32>) {
    fn from(form: FrameForm) -> Self {
        (form.frame, form.from, form.to, form.position)
    }
}

/// The state that few connections are in.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct StateForm {
    #[serde(rename = "leaving")]
    pub is_closing: bool,
    #[serde(rename = "deaf")]
    pub write_failed: bool,
    #[serde(rename = "ended")]
    pub read_closed: bool,
    #[serde(rename = "parted")]
    pub close_reported: bool,
    #[serde(rename = "took")]
    pub progress_at: Moment,
}

impl StateForm {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a daemon of the first version writes: the names in it stay, or the connections of a
    /// daemon that is updated would be lost.
    #[test]
    fn table_of_the_first_version_is_read_and_written_the_same() -> serde_json::Result<()> {
        let id = serde_json::to_string(&ConnectionId { slot: 3, tag: 9 })?;
        let operation = serde_json::to_string(&serde_json::Value::from("build-1"))?;
        let span = r#"{"from":160,"bytes":2}"#;
        let client = format!(
            r#"{{"id":{id},"side":{{"c":{{"fragments":{span},"payload":1,"tail":{span}}}}},"named":"192.0.2.1"}}"#
        );
        let latch = format!(r#"{{"operation":{operation},"runs":true,"pulled":[0,2,9,null],"start":1}}"#);
        let worker = format!(
            r#"{{"id":{id},"side":{{"w":{{"admin":true,"line":{{"tail":{span},"skips":false}},"latches":[{latch}]}}}},"outbox":{{"pieces":[[0,0,2,0]],"taken":1,"told":"Full"}},"state":{{"leaving":true,"deaf":false,"ended":true,"parted":false,"took":7}}}}"#
        );
        let doors = r#"[{"Clients":"127.0.0.1:80"},{"Workers":"/run/worker.sock"},{"Passed":"http"}]"#;
        let text = format!(
            r#"{{"since":5,"doors":{doors},"links":[{client},{worker}],"guests":[6],"lingering":[[8,{id}]],"last_ticket":4,"packets":[{span}],"marks":[],"hub":{span},"store":{span}}}"#
        );
        let table: Table = serde_json::from_str(&text)?;
        assert_eq!(serde_json::to_string(&table)?, text);
        Ok(())
    }
}
