//! The processes of one command: the one we started and all that came of it.
//!
//! Knows who is alive and how to signal all of them. Does not know when.
//!
//! This process is their reaper of last resort (`PR_SET_CHILD_SUBREAPER`): an
//! orphan becomes our child and not init's, so nothing the command started can
//! get out of sight, and no id of a dead process is used by another before we
//! have reaped it.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group, set_child_subreaper,
    test_kill_process_group, wait,
};

/// Who is meant by "all".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SignalScope {
    /// The command's session: what it left behind without hiding.
    Session,
    /// Every descendant, in whatever session.
    Everybody,
}

pub(super) struct ProcessTree {
    leader: Pid,
    /// Set once the leader has been reaped.
    status: Option<WaitStatus>,
    /// Whether the system knows of no child of ours, and so of no descendant.
    /// This is exact; looking at all processes misses who is born meanwhile.
    childless: bool,
    /// Children we had before: an `exec` passes them on. They are none of ours.
    strangers: HashSet<i32>,
}

/// One process of the system, as far as it matters here.
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) parent: i32,
    group: i32,
    session: i32,
    pub(super) state: State,
    /// Whether it has ever waited for a child.
    pub(super) has_waited: bool,
}

/// What a process is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Runs,
    /// Stopped by a signal.
    Held,
    /// Nobody has asked yet how it ended.
    Dead,
}

impl ProcessTree {
    /// Starts the command, which leads a group of its own from then on.
    pub(super) fn start(command: &mut Command) -> io::Result<Self> {
        // The argument is ignored but for being there.
        set_child_subreaper(Some(getpid()))?;
        let us = getpid().as_raw_nonzero().get();
        let strangers = processes().into_iter().filter(|p| p.parent == us).map(|p| p.pid).collect();
        let child = command.spawn()?;
        // It is waited for here, among the orphans, and never through `Child`.
        let leader = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let leader = leader.ok_or_else(|| io::Error::other("the system gave it no process id"))?;
        Ok(Self { leader, status: None, childless: false, strangers })
    }

    /// How the command ended, if it has.
    pub(super) fn status(&self) -> Option<WaitStatus> {
        self.status
    }

    /// Takes note of all that have ended. To be called at each SIGCHLD.
    pub(super) fn reap(&mut self) {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.leader => self.status = Some(status),
                Ok(Some(_)) => {}
                Ok(None) | Err(Errno::INTR) => return,
                Err(_) => {
                    self.childless = true;
                    return;
                }
            }
        }
    }

    /// Whether nobody within reach is left.
    pub(super) fn is_gone(&self, reach: SignalScope) -> bool {
        let group = || test_kill_process_group(self.leader) == Err(Errno::SRCH);
        let session = || !self.descendants().iter().any(|process| self.is_of_session(process));
        let rest = || match reach {
            SignalScope::Session => session(),
            SignalScope::Everybody => !self.strangers.is_empty() && self.descendants().is_empty(),
        };
        self.childless || (self.status.is_some() && group() && rest())
    }

    /// Signals all within reach. Who has just gone is as good as reached; who
    /// may not be signalled (a program of another user) is waited for.
    pub(super) fn signal(&self, reach: SignalScope, signal: Signal) {
        // Whoever is stopped has to go on in order to end.
        let signals = [signal, Signal::CONT];
        // The group at one stroke, before anybody is looked for.
        for signal in signals {
            let grouped = kill_process_group(self.leader, signal);
            if grouped == Err(Errno::SRCH) && self.status.is_none() {
                // In its first instant it has no group yet.
                let _ = kill_process(self.leader, signal);
            }
        }
        for pid in self.outsiders(reach) {
            for signal in signals {
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// Stops everybody, until [`ProcessTree::release`] or the next signal; returns how
    /// they are.
    pub(super) fn hold(&self) -> Vec<Process> {
        let _ = kill_process_group(self.leader, Signal::STOP);
        for pid in self.outsiders(SignalScope::Everybody) {
            let _ = kill_process(pid, Signal::STOP);
        }
        self.relatives()
    }

    pub(super) fn release(&self) {
        for pid in self.outsiders(SignalScope::Everybody) {
            let _ = kill_process(pid, Signal::CONT);
        }
        let _ = kill_process_group(self.leader, Signal::CONT);
    }

    /// Signals those again that missed it: born before it and alive, though it
    /// would have killed them. A shell that has just forked leaves its own
    /// handler to its child for an instant, and what comes then is lost; the
    /// shell then waits for a child that never heard of it. Whoever handles the
    /// signal hears it once, and whoever was started since, to tidy up, never.
    pub(super) fn remind(&self, last_born: i32, signal: Signal) {
        let missed = self.descendants().into_iter().filter(|p| p.pid <= last_born && dies_of(p.pid, signal));
        for pid in missed.filter_map(|process| Pid::from_raw(process.pid)) {
            let _ = kill_process(pid, signal);
        }
        // Who stops itself because it has seen a child held goes on, too.
        self.release();
    }

    /// How many are left that no signal has reached.
    pub(super) fn count(&self) -> usize {
        self.descendants().len()
    }

    fn is_of_session(&self, process: &Process) -> bool {
        process.session == self.leader.as_raw_nonzero().get()
    }

    /// Those within reach that left the group, as jobs of a shell do, and `timeout`.
    fn outsiders(&self, reach: SignalScope) -> impl Iterator<Item = Pid> {
        let group = self.leader.as_raw_nonzero().get();
        let is_outside = |process: &Process| {
            process.group != group && (reach == SignalScope::Everybody || self.is_of_session(process))
        };
        let mut outside = self.descendants();
        outside.retain(is_outside);
        let outside = outside.into_iter();
        outside.filter_map(|process| Pid::from_raw(process.pid))
    }

    fn descendants(&self) -> Vec<Process> {
        let mut living = self.relatives();
        living.retain(|process| process.state != State::Dead);
        living
    }

    /// All descendants, the dead among them.
    pub(super) fn relatives(&self) -> Vec<Process> {
        let mut others = processes();
        let mut found = Vec::new();
        let mut parents = HashSet::from([getpid().as_raw_nonzero().get()]);
        loop {
            let (children, rest): (Vec<_>, Vec<_>) = others
                .into_iter()
                .partition(|p| parents.contains(&p.parent) && !self.strangers.contains(&p.pid));
            if children.is_empty() {
                return found;
            }
            parents = children.iter().map(|process| process.pid).collect();
            found.extend(children);
            others = rest;
        }
    }
}

/// All there are. What ends while we look is left out.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// The process id that was given out last, as proc_loadavg(5) has it: who has a
/// higher one was born later, until ids begin anew.
pub(super) fn last_born() -> i32 {
    let loads = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    // Where it is not told, nobody counts as born before.
    loads.split_ascii_whitespace().last().and_then(|last| last.parse().ok()).unwrap_or(0)
}

/// Whether a process neither handles, ignores nor blocks a signal.
fn dies_of(pid: i32, signal: Signal) -> bool {
    masks(pid).is_some_and(|masks| masks.iter().all(|mask| mask & bit(signal) == 0))
}

/// Whether a process ignores a signal.
pub(super) fn ignores(pid: i32, signal: Signal) -> bool {
    masks(pid).is_some_and(|[_, ignored, _]| ignored & bit(signal) != 0)
}

/// Whether a process handles a signal.
pub(super) fn handles(pid: i32, signal: Signal) -> bool {
    masks(pid).is_some_and(|[_, _, handled]| handled & bit(signal) != 0)
}

/// One bit a signal, from 1.
fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

/// What a process blocks, ignores and handles: proc_pid_status(5).
fn masks(pid: i32) -> Option<[u64; 3]> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = |name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(mask.trim(), 16).ok()
    };
    Some([mask("SigBlk:")?, mask("SigIgn:")?, mask("SigCgt:")?])
}

/// Reads proc_pid_stat(5): the name, in brackets, may itself hold anything.
fn parse(pid: i32, stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = match fields.next()? {
        "Z" | "X" => State::Dead,
        "T" | "t" => State::Held,
        _ => State::Runs,
    };
    let [parent, group, session] =
        [fields.next()?, fields.next()?, fields.next()?].map(|field| field.parse().ok());
    let (parent, group, session) = (parent?, group?, session?);
    // The minor faults of children that were waited for: every child has some.
    let has_waited = fields.nth(4)? != "0";
    Some(Process { pid, parent, group, session, state, has_waited })
}
