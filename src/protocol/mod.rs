//! Floor 1: the words. They parse and print, nothing else.
//!
//! Knows the wire, both ways, for clients, workers and HTTP callers. Does not
//! know what any of it leads to.
#![doc = include_str!("PROTOCOL.md")]

pub mod client;
pub mod close;
mod entries;
mod fields;
pub mod frame;
pub mod http;
pub mod message;
pub mod name;
mod read;
pub mod reason;
pub mod refusal;
pub mod routes;
pub mod say;
pub mod time;
pub mod worker;

pub use client::parse;
pub use close::{Close, Return};
pub use fields::RequestId;
pub(crate) use fields::{passed_on, whole};
pub use frame::Frame;
pub use message::{Delivery, Message, Payload, Sender};
pub use name::{Channel, ConnectionId, Event, MessageId, OperationId, TokenId, UserId};
pub use reason::{Reason, Refused};
pub use refusal::{Code, Refusal};
pub use say::*;
pub use time::{Moment, UnixTime};

/// The version that `connection_established` names.
pub const VERSION: u32 = 1;
