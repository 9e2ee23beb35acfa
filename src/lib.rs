//! wshubd: a small hub between browsers, scripts and local worker processes.
//!
//! Clients come over WebSocket, workers over a Unix socket, back ends over HTTP.
//! They meet on channels. A worker's long piece of work is an operation, which
//! anybody who may can interrupt. How to talk to the hub is in [`protocol`]; how
//! to run it is in the README. This page is the map of the house.
//!
//! # Three floors
//!
//! ```text
//!             browsers, programs        scripts, jobs         back ends
//!                 WebSocket              Unix socket             HTTP
//!                     │                       │                    │
//! edge      ┌─────────┴───────────────────────┴────────────────────┴───────┐
//! hands     │  net: sockets, decoders, send queues    auth: tokens, keys   │
//!           │  http: requests, upgrade                store: what is kept  │
//!           │  systemd: notify, listen_fds            handover: export,    │
//!           │                                         import, exec         │
//!           │  driver: the one owner of the hub, and the only clock        │
//!           └───────────────┬─────────────────────────────▲────────────────┘
//!                     Input │  what happened              │ Effect
//!                           ▼                             │ what to do
//! hub       ┌─────────────────────────────────────────────┴────────────────┐
//! decisions │  Hub::handle(now, input, &mut effects)                       │
//!           │  connection: table, auth, rights, heartbeat, rate_limit      │
//!           │  channel: topics, subscribe, publish, fanout, presence       │
//!           │  log: retention, eviction, replay    operation: interrupt    │
//!           └───────────────────────────┬──────────────────────────────────┘
//!                                       │ speaks of
//!                                       ▼
//! protocol  ┌──────────────────────────────────────────────────────────────┐
//! words     │  requests, frames, messages, ids, codes                      │
//!           └──────────────────────────────────────────────────────────────┘
//! ```
//!
//! - [`protocol`] knows the words. It parses and prints, and nothing else.
//! - [`hub`] decides. It is a state machine without I/O, clock, lock or thread:
//!   a fact and the time go in, orders come out. So its stories can be told in
//!   virtual time, and each story ends the same way whenever it is told.
//! - [`edge`] has the hands: sockets, tokens, files. It verifies and carries, and
//!   decides nothing that a user would notice.
//!
//! A floor knows those below it and never looks up. Beside the floors stand
//! [`config`], which says what was asked for, and [`daemon`], which starts the
//! parts in order and stops them in reverse, reloads the configuration, and tries for
//! `--check` what a start needs. [`features`] says what was built in. [`client`] is the
//! library that workers written in Rust connect with.
//!
//! # A message's journey
//!
//! A browser sends `{"action":"send","channel":"logs",…}`.
//!
//! 1. Its socket becomes readable. [`edge::net::ws_decoder`] unmasks one text frame in a buffer
//!    that all connections share; [`protocol::client`] makes a
//!    [`RequestEnvelope`](protocol::RequestEnvelope) of it, with `data` still the text that came.
//! 2. [`edge::driver`] hands it to the hub as an [`Input`](hub::Input), with the time.
//! 3. [`hub::Hub::handle`] takes it from the connection's bucket of requests, looks
//!    at rights, gives the message the channel's next `seq`, and finds out who
//!    hears it. It pushes an [`Effect`](hub::Effect) to deliver it to those, one to
//!    keep it if nobody is there, and one to answer.
//! 4. The driver carries the effects out: the message is encoded once, and its bytes
//!    are shared by the queues of all recipients.
//! 5. At the end of the turn, when everybody who had something to say was read
//!    once, each socket is written to once. What a socket does not take stays in
//!    its queue; a queue that is full is an [`Input`](hub::Input) like any other.
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
