//! Signals that `run` acts on.
//!
//! - What was ignored from the beginning is not acted on, as with any program:
//!   SIGHUP under nohup, SIGINT and SIGQUIT in the background jobs of a script, for
//!   which the terminal's Ctrl-C is not meant. SIGHUP then stays ignored in the
//!   command. The other two do not: they have a handler here, so that the command
//!   gets their default and receives the SIGINT with which it is stopped.
//! - SIGTSTP, SIGTTIN and SIGTTOU do not stop this process. The command has a
//!   session of its own and would go on, while requests to stop it would not be
//!   handled. SIGTTOU is blocked and not handled: the system would send it again
//!   and again for one write.

use std::io;
use std::time::Duration;

use async_signal::{Signal, Signals};
use nix::sys::signal::{SigSet, Signal as Blocked};
use rustix::process::{Signal as Number, getpid};
use smol::future;
use smol::stream::StreamExt;
use wshubd::edge::clock;
use wshubd::protocol::Moment;

use super::process_tree::ignores;

/// Signals that come so close to one another were meant as one: `timeout` sends
/// its own to the process and to its group, systemd SIGTERM and SIGHUP. No person
/// presses twice so soon.
const TOGETHER: Duration = Duration::from_millis(500);

pub(super) struct SignalQueue {
    signals: Signals,
    /// Handled for the command's sake alone.
    disregarded: Vec<Signal>,
    /// The last signal that stops the command.
    last_stop: Option<Moment>,
    was_interrupted: bool,
}

/// Action on a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SignalAction {
    /// A child has changed its state.
    Reap,
    /// The command is to be stopped.
    Stop,
    /// This process is to be suspended.
    Suspend,
}

impl SignalQueue {
    /// To be made before any thread, and before the command.
    pub(super) fn new() -> io::Result<Self> {
        let ignored = |signal| ignores(getpid().as_raw_nonzero().get(), signal);
        let optional = [(Signal::Hup, Number::HUP), (Signal::Tstp, Number::TSTP)];
        let handled = optional.into_iter().filter(|(_, number)| !ignored(*number)).map(|(signal, _)| signal);
        let needed = [Signal::Child, Signal::Term, Signal::Int, Signal::Quit];
        let both = [(Signal::Int, Number::INT), (Signal::Quit, Number::QUIT)];
        let disregarded = both.into_iter().filter(|(_, number)| ignored(*number)).map(|(signal, _)| signal);
        let disregarded = disregarded.collect();
        let mut terminal = SigSet::empty();
        terminal.add(Blocked::SIGTTIN);
        terminal.add(Blocked::SIGTTOU);
        terminal.thread_block()?;
        Ok(Self {
            signals: Signals::new(handled.chain(needed))?,
            disregarded,
            last_stop: None,
            was_interrupted: false,
        })
    }

    /// The next action.
    pub(super) async fn next(&mut self) -> SignalAction {
        loop {
            let signal = match self.signals.next().await {
                Some(Ok(signal)) => signal,
                // The pipe that carries them has broken: no more of them come.
                _ => future::pending().await,
            };
            match signal {
                Signal::Child => return SignalAction::Reap,
                Signal::Tstp => return SignalAction::Suspend,
                signal if self.disregarded.contains(&signal) => {}
                signal => {
                    self.was_interrupted |= signal == Signal::Int;
                    let now = clock::now().moment;
                    if self.last_stop.is_none_or(|last| now.since(last) >= TOGETHER) {
                        self.last_stop = Some(now);
                        return SignalAction::Stop;
                    }
                }
            }
        }
    }

    /// Whether SIGINT was among the signals.
    pub(super) fn was_interrupted(&self) -> bool {
        self.was_interrupted
    }

    /// Waits for a signal that stops the command.
    pub(super) async fn wait_for_stop(&mut self) {
        while self.next().await != SignalAction::Stop {}
    }
}
