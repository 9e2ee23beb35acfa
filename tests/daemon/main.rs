//! Stories of the real program, over real sockets.

mod bench;
mod doors;
mod messages;
mod operations;
mod stopping;
