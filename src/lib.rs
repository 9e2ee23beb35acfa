//! wshubd: a small hub between browsers, scripts and local worker processes.
//!
//! Clients come over WebSocket, workers over a Unix socket, back ends over HTTP.
//! They meet on channels. A worker's long piece of work is an operation, which
//! anybody who may can interrupt. How to talk to the hub is in [`protocol`]; how
//! to run it is in the README. This page is the map of the source.
//!
//! # Three floors
//!
//! ```text
//!             browsers, programs        scripts, jobs         back ends
//!                 WebSocket              Unix socket             HTTP
//!                     │                       │                    │
//! edge      ┌─────────┴───────────────────────┴────────────────────┴───────┐
//! I/O       │  net: sockets, decoders, send queues    auth: tokens, keys   │
//!           │  http: requests, upgrade                store: kept messages │
//!           │  systemd: notify, listen_fds            handover: export,    │
//!           │                                         import, exec         │
//!           │  driver: the one owner of the hub, and the event loop        │
//!           └───────────────┬─────────────────────────────▲────────────────┘
//!                     Input │  an event                   │ Effect
//!                           ▼                             │ an order
//! hub       ┌─────────────────────────────────────────────┴────────────────┐
//! decisions │  Hub::handle(now, input, &mut effects)                       │
//!           │  connection: table, auth, rights, heartbeat, rate_limit      │
//!           │  channel: topics, subscribe, publish, fanout, presence       │
//!           │  log: retention, eviction, replay    operation: interrupt    │
//!           └───────────────────────────┬──────────────────────────────────┘
//!                                       │ uses
//!                                       ▼
//! protocol  ┌──────────────────────────────────────────────────────────────┐
//! wire      │  requests, frames, messages, ids, codes                      │
//!           └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! - [`protocol`] is the wire format. It parses and encodes, and nothing else.
//! - [`hub`] decides. It is a state machine without I/O, clock, lock or thread: an input and
//!   the time go in, effects come out. So its tests run in virtual time, and each has the
//!   same result whenever it runs.
//! - [`edge`] does the I/O: sockets, tokens, files. It verifies and transports, and decides
//!   nothing that a user would notice.
//!
//! Where two files could be meant: the limits, times and policies that the hub decides by stand
//! with their defaults in [`hub::settings`], and [`config`] reads them; what a decoder of
//! [`edge::net`] refuses is answered or closed by the connection reader in [`edge::driver`]; the
//! store commits to a write-ahead log, from which its checkpoints fill sled.
//!
//! A floor uses those below it and none above. Beside the floors stand [`config`], the
//! options of files and environment; and [`daemon`], which starts the parts in order and
//! stops them in reverse, reloads the configuration, and tries for `--check` what a start
//! needs. [`features`] lists what was built in. [`client`] is the library that workers
//! written in Rust connect with.
//!
//! # A message's journey
//!
//! A browser sends `{"action":"send","channel":"logs",…}`.
//!
//! 1. Its socket becomes readable. [`edge::net::ws_decoder`] unmasks one text frame in a buffer
//!    that all connections share; [`protocol::client`] makes a
//!    [`RequestEnvelope`](protocol::RequestEnvelope) of it, with `data` still the text that came.
//! 2. [`edge::driver`] passes the [`HubRequest`](protocol::HubRequest) in it to the hub as an
//!    [`Input`](hub::Input), with the time. An [`EdgeRequest`](protocol::EdgeRequest), about
//!    tokens or files, it answers itself.
//! 3. [`hub::Hub::handle`] takes it from the connection's bucket of requests, checks rights,
//!    gives the message the channel's next `seq`, and finds its subscribers. It pushes an
//!    [`Effect`](hub::Effect) to deliver it to them, one to keep it if there are none, and
//!    one to answer.
//! 4. The driver carries the effects out: the message is encoded once, and its bytes
//!    are shared by the queues of all recipients.
//! 5. At the end of the turn, when each readable socket was read once, each socket with
//!    something queued is written to once. What a socket does not take stays in its queue; a
//!    queue that is full is an [`Input`](hub::Input) like any other.
//!
//! The other journeys differ in their ends only. A worker's line comes through
//! [`edge::net::line_decoder`] and [`protocol::worker`]; an HTTP request waits for the effect
//! that answers it. An interrupt overtakes: for each operation there is a latch
//! that holds one interrupt, and a worker's writer looks at it before its queue.
//!
//! All of this happens on one thread, and nothing in it waits for a peer.

mod binary_codec;
pub mod client;
pub mod config;
pub mod daemon;
pub mod edge;
pub mod features;
pub mod hub;
mod json;
pub mod logging;
pub mod protocol;
mod rate_limiter;
mod redaction;
mod small_queue;
mod sort;
