//! The process that owns the disk: it reads orders, carries them out one after
//! the other, and answers.
//!
//! Knows the daemon as the other end of a socket, its standard input. Does not
//! know what a message means, nor when something is written: it is told. It is a
//! process of its own because the engine may end the one it is in.

mod connection;
mod database;
mod directory;
pub mod error;
mod free_space;
pub mod generation;
mod generation_files;
mod lock_holder;
mod ram_copy;
pub mod record;
mod repair;
mod requests;
pub mod wal;
mod wal_scan;

use std::path::Path;
use std::process::exit;
use std::sync::Arc;

use rustix::process::Signal;

use super::ipc::StoreResponse;
use connection::DaemonConnection;
use requests::StorageServer;

/// As in `sysexits.h`: it is not for people to start.
const USAGE: i32 = 64;

/// Carries orders out until there are no more, and ends the process.
pub fn run(directory: &Path) -> ! {
    let Some(mut talk) = DaemonConnection::over_standard_input() else {
        eprintln!("wshubd: --store is how the daemon starts the process that owns its disk");
        exit(USAGE);
    };
    // The daemon says when this ends. A stop of all, or Ctrl-C, is for it to hear;
    // what it still has to write is written after that. And a limit on the size
    // of files is to be an error, as a full disk is.
    for signal in [Signal::TERM, Signal::INT, Signal::XFSZ] {
        drop(signal_hook::flag::register(signal.as_raw(), Arc::default()));
    }
    // It was started by the file that the daemon runs, whatever that is called now.
    let _ = rustix::thread::set_name(c"wshubd-store");
    repair::note_panics();
    let mut keeper = match StorageServer::start(directory).and_then(|(keeper, ready)| {
        talk.say(&ready)?;
        talk.flush().map(|()| keeper)
    }) {
        Ok(keeper) => keeper,
        Err(trouble) => fail(&mut talk, trouble.why()),
    };
    let mut line = Vec::new();
    while talk.hear(&mut line) {
        let done = connection::read_order(&line).and_then(|order| keeper.carry_out(order, &mut talk));
        if let Err(trouble) = done.and_then(|()| talk.flush()) {
            fail(&mut talk, trouble.why());
        }
    }
    keeper.leave();
    // Nothing is dropped on the way out: the engine would write.
    exit(0);
}

/// Says why, and ends: what the engine has refused once it refuses for ever.
fn fail(talk: &mut DaemonConnection, why: &str) -> ! {
    drop(talk.say(&StoreResponse::Failed { why: why.to_owned() }));
    drop(talk.flush());
    exit(1);
}
