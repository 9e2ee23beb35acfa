//! Floor 3: the hands. Sockets, HTTP, tokens, the store. They decide nothing.
//!
//! Knows how to get bytes in and out. Does not know why.

mod admin;
pub mod caller;
mod catchup;
pub mod claims;
pub mod clock;
pub mod deeds;
pub mod descriptors;
pub mod doors;
pub mod driver;
pub mod epoll;
mod flaw;
pub mod guard;
pub mod guests;
pub mod handover;
pub mod heap;
mod hearing;
pub mod http;
pub mod inherited;
mod key;
mod lasting;
pub mod lines;
pub mod link;
pub mod links;
pub mod meter;
pub mod metrics;
pub mod origin;
pub mod outbox;
pub mod packet;
mod partings;
pub mod peers;
pub mod reload;
pub mod report;
pub mod scales;
pub mod secret;
pub mod serve;
pub mod signals;
mod signature;
pub mod site;
pub mod store;
pub mod systemd;
pub mod token;
mod turn;
pub mod upgrade;
pub mod wire;
pub mod ws;
