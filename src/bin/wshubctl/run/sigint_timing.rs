//! The right moment for SIGINT.
//!
//! Knows in which instants a shell forgives it. Does not know what to do about
//! that; [`escalation`](super::escalation) waits for a better one.
//!
//! A shell such as bash handles SIGINT while it waits for a command, and then
//! does as the command did: it dies of the signal if the command did, and goes on
//! if that ended in another way, as an editor does in which Ctrl-C means something
//! else. So a signal that comes after the command has ended by itself and before
//! the shell has taken notice is forgiven, and a loop runs on. A second one would
//! mend that, but may as well hit what a trap does to tidy up, which looks the
//! same from outside. Therefore everybody is held for a moment (SIGSTOP) and
//! looked at: where a shell is in such an instant all go on for a while, unharmed,
//! and are held again. The signal itself comes once.

use std::collections::HashSet;
use std::fs;

use rustix::process::Signal;

use super::process_tree::{Process, ProcessTree, State, handles};

/// How often is looked whether all are held: the kernel stops a process before it
/// runs on; but whoever waits for a disk is not to be waited for.
const LOOKS: u32 = 20;

/// Whether now is the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Aim {
    /// All will do as a signal says.
    Taken,
    /// Somebody would forgive it.
    Missed,
}

/// Holds all, and looks at them.
pub(super) fn aim(family: &ProcessTree) -> Aim {
    let mut all = family.hold();
    for _ in 1..LOOKS {
        if all.iter().all(|process| process.state != State::Runs) {
            break;
        }
        // Once more: a child may have been born while the group was stopped.
        all = family.hold();
    }
    if all.iter().any(|process| forgives(process, &all)) { Aim::Missed } else { Aim::Taken }
}

/// Whether a process is between its children: it handles the signal, has children
/// otherwise, is about to have its first one as a shell is, or has only just been
/// forked, and none of them would die of it now. What else has no children ever, and
/// handles the signal for itself, is no shell.
fn forgives(process: &Process, all: &[Process]) -> bool {
    let mut has_dead = false;
    for child in all.iter().filter(|child| child.parent == process.pid) {
        if child.state != State::Dead {
            return false;
        }
        has_dead = true;
    }
    process.state != State::Dead
        && (has_dead || process.has_waited || is_shell(process.pid) || is_copy(process, all))
        && handles(process.pid, Signal::INT)
}

/// Whether a process has a shell's name: `sh`, `bash`, `dash`, `zsh`, and what else
/// ends so (`ssh` is kept waiting in vain).
fn is_shell(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end().ends_with("sh"))
}

/// Whether a process was forked and still runs its parent's program, with its
/// parent's handlers.
fn is_copy(process: &Process, all: &[Process]) -> bool {
    let ours: HashSet<i32> = all.iter().map(|process| process.pid).collect();
    let command = |pid| fs::read(format!("/proc/{pid}/cmdline")).ok();
    ours.contains(&process.parent) && command(process.pid) == command(process.parent)
}
