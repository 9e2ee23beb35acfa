//! The signals that `run` acts on.
//!
//! - What was ignored from the beginning is not acted on, as with any program:
//!   SIGHUP under nohup, SIGINT and SIGQUIT in the background jobs of a script, for
//!   which the terminal's Ctrl-C is not meant. SIGHUP then stays ignored in the
//!   command. The other two do not: they have a handler here, so that the command
//!   gets their default and hears the SIGINT with which it is stopped.
//! - SIGTSTP, SIGTTIN and SIGTTOU do not stop this process. The command has a
//!   session of its own and would go on, while nobody would hear that it is to be
//!   stopped. SIGTTOU is blocked and not handled: the system would send it again
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
/// its own to the process and to its group, systemd SIGTERM and SIGHUP. Nobody
/// loses patience so soon.
const TOGETHER: Duration = Duration::from_millis(500);

pub(super) struct SignalQueue {
    signals: Signals,
    /// Handled for the command's sake alone.
    disregarded: Vec<Signal>,
    /// When it was last asked to end.
    asked: Option<Moment>,
    interrupted: bool,
}

/// What a signal means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// Something has become of a child.
    Child,
    /// This process is to end.
    End,
    /// This process is to stand still for a while.
    Suspend,
}

impl SignalQueue {
    /// To be made before any thread, and before the command.
    pub(super) fn new() -> io::Result<Self> {
        let ignored = |signal| ignores(getpid().as_raw_nonzero().get(), signal);
        let optional = [(Signal::Hup, Number::HUP), (Signal::Tstp, Number::TSTP)];
        let heard = optional.into_iter().filter(|(_, number)| !ignored(*number)).map(|(signal, _)| signal);
        let needed = [Signal::Child, Signal::Term, Signal::Int, Signal::Quit];
        let both = [(Signal::Int, Number::INT), (Signal::Quit, Number::QUIT)];
        let disregarded = both.into_iter().filter(|(_, number)| ignored(*number)).map(|(signal, _)| signal);
        let disregarded = disregarded.collect();
        let mut terminal = SigSet::empty();
        terminal.add(Blocked::SIGTTIN);
        terminal.add(Blocked::SIGTTOU);
        terminal.thread_block()?;
        Ok(Self { signals: Signals::new(heard.chain(needed))?, disregarded, asked: None, interrupted: false })
    }

    /// The next thing that is to be acted on.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            let signal = match self.signals.next().await {
                Some(Ok(signal)) => signal,
                // The pipe that carries them has broken: nothing more is heard of them.
                _ => future::pending().await,
            };
            match signal {
                Signal::Child => return Event::Child,
                Signal::Tstp => return Event::Suspend,
                signal if self.disregarded.contains(&signal) => {}
                signal => {
                    self.interrupted |= signal == Signal::Int;
                    let now = clock::now().moment;
                    if self.asked.is_none_or(|asked| now.since(asked) >= TOGETHER) {
                        self.asked = Some(now);
                        return Event::End;
                    }
                }
            }
        }
    }

    /// Whether SIGINT was among what it was asked to end by.
    pub(super) fn was_interrupted(&self) -> bool {
        self.interrupted
    }

    /// Waits until this process is to end.
    pub(super) async fn end(&mut self) {
        while self.next().await != Event::End {}
    }
}
