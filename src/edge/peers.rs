//! Local processes by the kernel's word: user, groups, systemd unit.
//!
//! Knows the credentials of a Unix socket's peer and which of them the
//! configuration names. Does not know what a worker may do once it is in.

use std::collections::HashSet;
use std::fs;

use rustix::net::UCred;

use crate::config::{Principal, Worker};

/// Who may come in, and who may administer.
#[derive(Debug)]
pub struct Peers {
    /// Nobody named: whoever the socket's mode lets in.
    allow: Vec<Rule>,
    admins: Vec<Rule>,
    own: u32,
}

#[derive(Debug)]
enum Rule {
    Uid(u32),
    Gid(u32),
    Unit(String),
}

impl Peers {
    /// Reads the rules; a group is looked up once.
    ///
    /// # Errors
    /// The name of a group that the machine does not have.
    pub fn new(worker: &Worker) -> Result<Self, String> {
        let rules = |named: &[Principal]| named.iter().map(rule).collect::<Result<Vec<_>, _>>();
        let own = rustix::process::geteuid().as_raw();
        Ok(Self { allow: rules(&worker.allow)?, admins: rules(&worker.admins)?, own })
    }

    /// Whether this process may connect.
    pub fn admit(&self, peer: UCred) -> bool {
        self.allow.is_empty() || self.administers(peer) || fits(&self.allow, peer)
    }

    /// Whether it may administer: root, the daemon's own user, and those named.
    pub fn administers(&self, peer: UCred) -> bool {
        let uid = peer.uid.as_raw();
        uid == 0 || uid == self.own || fits(&self.admins, peer)
    }
}

fn rule(principal: &Principal) -> Result<Rule, String> {
    Ok(match principal {
        Principal::Uid(uid) => Rule::Uid(*uid),
        Principal::Group(name) => Rule::Gid(gid(name).ok_or_else(|| name.clone())?),
        Principal::Unit(name) => Rule::Unit(name.clone()),
    })
}

/// The number of a group in the machine's own list.
fn gid(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

fn fits(rules: &[Rule], peer: UCred) -> bool {
    rules.iter().any(|rule| match rule {
        Rule::Uid(uid) => peer.uid.as_raw() == *uid,
        Rule::Gid(gid) => peer.gid.as_raw() == *gid || groups(peer).contains(gid),
        Rule::Unit(name) => unit(peer).is_some_and(|unit| unit == *name),
    })
}

/// The supplementary groups of a process.
fn groups(peer: UCred) -> HashSet<u32> {
    let status =
        fs::read_to_string(format!("/proc/{}/status", peer.pid.as_raw_nonzero())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

/// The systemd unit that a process runs in: the innermost name of its control
/// group that is one.
fn unit(peer: UCred) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", peer.pid.as_raw_nonzero())).ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let is_unit = |name: &&str| name.ends_with(".service") || name.ends_with(".scope");
    path.split('/').rev().find(is_unit).map(str::to_owned)
}
