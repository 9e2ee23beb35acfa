//! wshubctl as a program, against a hub that is played line by line.
//!
//! Nothing here waits for a time: each story waits for lines and for exits.

mod ask;
mod client;
mod hub;
mod publish;
mod run;
mod subscribe;
