//! Floor 1, the wire protocol: requests, frames and messages of clients, workers and HTTP
//! callers are parsed and encoded here, and nothing else happens.
#![doc = include_str!("PROTOCOL.md")]

pub mod client;
pub mod close;
mod fields;
pub mod frame;
pub mod http;
pub mod ids;
mod listings;
pub mod message;
pub mod metrics;
pub mod origin;
pub mod refusal;
pub mod rejection;
pub mod request;
mod request_parser;
pub mod routes;
pub mod time;
pub mod worker;

pub use client::parse;
pub use close::{Close, Return};
pub use fields::RequestId;
pub(crate) use fields::{passed_on, whole};
pub use frame::Frame;
pub use ids::{Channel, ConnectionId, Event, MessageId, OperationId, TokenId, UserId};
pub use message::{Delivery, Message, Payload, Sender};
pub use refusal::{Code, Refusal};
pub use rejection::{Reason, RejectionCounts};
pub use request::*;
pub use time::{Moment, UnixTime};

/// The version that `connection_established` names.
pub const VERSION: u32 = 1;
