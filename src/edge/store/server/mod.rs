//! The storage server: the process that owns the disk.
//!
//! It reads requests from a socket, its standard input, carries them out one after the other,
//! and responds; the other end is the daemon. It is a process of its own because the engine
//! may end the one it is in. What a message means it does not know: the form of messages can
//! change without it.

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

/// Carries requests out until there are no more, and ends the process.
pub fn run(directory: &Path) -> ! {
    let Some(mut connection_to_daemon) = DaemonConnection::over_standard_input() else {
        eprintln!("wshubd: --store is how the daemon starts the process that owns its disk");
        exit(USAGE);
    };
    // This ends when the daemon closes the socket. A stop of all, or Ctrl-C, is for the
    // daemon; what it still has to write is written after that. And a limit on the size
    // of files is to be an error, as a full disk is.
    for signal in [Signal::TERM, Signal::INT, Signal::XFSZ] {
        drop(signal_hook::flag::register(signal.as_raw(), Arc::default()));
    }
    // It was started by the file that the daemon runs, whatever that is called now.
    let _ = rustix::thread::set_name(c"wshubd-store");
    repair::record_panics();
    let mut server = match StorageServer::start(directory).and_then(|(server, ready)| {
        connection_to_daemon.send(&ready)?;
        connection_to_daemon.flush().map(|()| server)
    }) {
        Ok(server) => server,
        Err(error) => fail(&mut connection_to_daemon, error.why()),
    };
    let mut line = Vec::new();
    while connection_to_daemon.read_line(&mut line) {
        let done = connection::parse_request(&line)
            .and_then(|order| server.handle(order, &mut connection_to_daemon));
        if let Err(error) = done.and_then(|()| connection_to_daemon.flush()) {
            fail(&mut connection_to_daemon, error.why());
        }
    }
    server.close();
    // Nothing is dropped on the way out: the engine would write.
    exit(0);
}

/// Responds with the reason, and ends: what the engine has refused once it refuses for ever.
fn fail(connection_to_daemon: &mut DaemonConnection, why: &str) -> ! {
    drop(connection_to_daemon.send(&StoreResponse::Failed { why: why.to_owned() }));
    drop(connection_to_daemon.flush());
    exit(1);
}
