//! Local processes by the kernel's word: user, groups, systemd unit.
//!
//! Knows the credentials of a Unix socket's peer and which of them the
//! configuration names. Does not know what a worker may do once it is in.

use std::collections::HashSet;
use std::fs;

use rustix::net::UCred;

use crate::config::{ConfigError, Loaded, Principal, Problem};

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
    /// All groups that the machine does not have, and where they are named.
    pub fn new(loaded: &Loaded) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut rules = |setting: &str, named: &[Principal]| {
            let mut rules = Vec::new();
            for principal in named {
                match (rule(principal), loaded.places.get(setting)) {
                    (Ok(rule), _) => rules.push(rule),
                    (Err(group), Some(place)) => {
                        let message = format!("`{setting}` names the group {group:?}, which is not there");
                        problems.push(Problem::new(place.clone(), message));
                    }
                    // Only what is written somewhere names a group.
                    (Err(_), None) => {}
                }
            }
            rules
        };
        let worker = &loaded.config.worker;
        let (allow, admins) = (rules("worker.allow", &worker.allow), rules("worker.admins", &worker.admins));
        ConfigError::unless_empty(problems)?;
        Ok(Self { allow, admins, own: rustix::process::geteuid().as_raw() })
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
