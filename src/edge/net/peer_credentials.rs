//! Credentials of local processes: user, groups, systemd unit; and which of them the
//! configuration admits.
//!
//! User and primary group are the socket's own (SO_PEERCRED) and cannot be wrong.
//! Further groups and the unit are read in `/proc` under the number of the process
//! that connected. That process may have ended meanwhile; what is read counts only if
//! one process had the number all the while, lives, and is the same user's. What is
//! left: a process keeps a socket open whose maker has ended, and the number has come
//! to another process of the same user before we looked. The kernel could rule that
//! out (SO_PEERPIDFD, Linux 6.5), and nothing safe asks it for that yet.

use std::cell::OnceCell;
use std::fs;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::UCred;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::config::{ConfigError, Loaded, Principal, Problem};

/// The processes that may connect as workers, and those that may administer.
#[derive(Debug)]
pub struct Peers {
    /// No list: the mode of the socket decides.
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

/// What a process that may connect may request.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum WorkerRank {
    #[default]
    Worker,
    /// What only administrators may, too.
    Administrator,
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
                match (rule(principal), loaded.locations.get(setting)) {
                    (Ok(rule), _) => rules.push(rule),
                    (Err(group), Some(location)) => {
                        let message = format!(
                            "`{setting}` names the group {group:?}, which is not in /etc/group; one from \
                             elsewhere goes by its number, as in \"@1001\""
                        );
                        problems.push(Problem::new(location.clone(), message));
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

    /// Whether a process may connect, and as what: administrators are root, the
    /// daemon's own user, and those named.
    pub fn admit(&self, peer: UCred) -> Option<WorkerRank> {
        let (uid, process) = (peer.uid.as_raw(), OnceCell::new());
        let fits = |rules: &[Rule]| rules.iter().any(|rule| rule.fits(peer, &process));
        if uid == 0 || uid == self.own || fits(&self.admins) {
            return Some(WorkerRank::Administrator);
        }
        (self.allow.is_empty() || fits(&self.allow)).then_some(WorkerRank::Worker)
    }

    /// Why rules may fit no process, if that is so.
    pub fn warning(&self) -> Option<String> {
        let needs_proc = |rule: &Rule| matches!(rule, Rule::Gid(_) | Rule::Unit(_));
        let needed = self.allow.iter().chain(&self.admins).any(needs_proc);
        // Every process may read that of the first one, where processes are not hidden from
        // each other.
        let is_hidden = fs::read_to_string("/proc/1/status").is_err();
        (needed && is_hidden).then(|| {
            "`[worker]` names groups or units, and the processes of others are hidden: units fit nobody, \
             and groups only those whose primary one it is (`ProtectProc=default` shows them)"
                .to_owned()
        })
    }
}

/// The unit of a process that has connected, where it is known.
pub fn unit_of(peer: UCred) -> Option<String> {
    ConnectedProcess::of(peer)?.unit
}

impl Rule {
    fn fits(&self, peer: UCred, process: &OnceCell<Option<ConnectedProcess>>) -> bool {
        let process = || process.get_or_init(|| ConnectedProcess::of(peer)).as_ref();
        match self {
            Self::Uid(uid) => peer.uid.as_raw() == *uid,
            Self::Gid(gid) => {
                peer.gid.as_raw() == *gid || process().is_some_and(|process| process.groups.contains(gid))
            }
            Self::Unit(name) => process().is_some_and(|process| process.unit.as_ref() == Some(name)),
        }
    }
}

fn rule(principal: &Principal) -> Result<Rule, String> {
    Ok(match principal {
        Principal::Uid(uid) => Rule::Uid(*uid),
        Principal::Group(name) => Rule::Gid(gid(name).ok_or_else(|| name.clone())?),
        Principal::Unit(name) => Rule::Unit(name.clone()),
    })
}

/// The number of a group: in the machine's own list, or spelled as one. Groups that
/// are kept elsewhere (NSS) have no name for a program without the C library; their
/// members have them all the same.
fn gid(name: &str) -> Option<u32> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let listed = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    listed.or_else(|| name.parse().ok())
}

/// What `/proc` shows of a process that connected.
#[derive(PartialEq, Eq, Debug)]
struct ConnectedProcess {
    /// The supplementary ones.
    groups: Vec<u32>,
    unit: Option<String>,
}

impl ConnectedProcess {
    fn of(peer: UCred) -> Option<Self> {
        let held = pidfd_open(peer.pid, PidfdFlags::empty()).ok()?;
        let read =
            |file: &str| fs::read_to_string(format!("/proc/{}/{file}", peer.pid.as_raw_nonzero())).ok();
        let (status, groups) = (read("status")?, read("cgroup")?);
        // Only now: as long as it lived, the number was its own.
        let mut asked = [PollFd::new(&held, PollFlags::IN)];
        let has_ended = poll(&mut asked, Some(&Timespec::default())).map_or(true, |ready| ready > 0);
        let is_theirs = numbers(&status, "Uid:").nth(1) == Some(peer.uid.as_raw());
        (is_theirs && !has_ended).then(|| Self {
            groups: numbers(&status, "Groups:").collect(),
            unit: unit(&groups).map(str::to_owned),
        })
    }
}

/// The numbers of a line of a status; the second of `Uid:` is the effective one.
fn numbers<'a>(status: &'a str, line: &str) -> impl Iterator<Item = u32> + use<'a> {
    let found = status.lines().find_map(|found| found.strip_prefix(line)).unwrap_or_default();
    found.split_whitespace().filter_map(|number| number.parse().ok())
}

/// The unit of a control group: of the system's manager, which is the outermost one.
/// The names within are given by the process that the group was delegated to, such as a
/// user's own manager. A path that leads out of our own control group means nothing here.
fn unit(groups: &str) -> Option<&str> {
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::")).filter(|path| *path != "/");
    let legacy = || groups.lines().find_map(|line| line.split_once(":name=systemd:").map(|(_, path)| path));
    let path = unified.or_else(legacy)?;
    let mut names = path.split('/').filter(|name| !name.is_empty());
    let outermost = names.find(|name| !name.ends_with(".slice"))?;
    (outermost.ends_with(".service") || outermost.ends_with(".scope")).then_some(outermost)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{Pid, getegid, geteuid, getpid};

    use super::*;

    fn ucred(pid: Pid) -> UCred {
        UCred { pid, uid: geteuid(), gid: getegid() }
    }

    #[test]
    fn a_unit_is_one_of_the_system_and_nobody_names_his_own_like_it() {
        let of = |path: &str| unit(&format!("0::{path}\n")).map(str::to_owned);
        assert_eq!(of("/system.slice/build.service").as_deref(), Some("build.service"));
        assert_eq!(of("/system.slice/system-job.slice/job@1.service/sub").as_deref(), Some("job@1.service"));
        assert_eq!(of("/user.slice/user-1000.slice/session-2.scope").as_deref(), Some("session-2.scope"));
        let own = "/user.slice/user-1000.slice/user@1000.service/app.slice/build.service";
        assert_eq!(of(own).as_deref(), Some("user@1000.service"));
        for nothing in ["/", "/init", "/../build.service", "/system.slice"] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
        let legacy = "4:memory:/system.slice\n1:name=systemd:/system.slice/build.service\n0::/\n";
        assert_eq!(unit(legacy), Some("build.service"));
    }

    #[test]
    fn a_group_goes_by_its_name_or_by_its_number() {
        assert_eq!(gid("root"), Some(0));
        assert_eq!(gid("4242"), Some(4242));
        assert_eq!(gid("no-such-group"), None);
    }

    #[test]
    fn a_process_is_read_while_it_lives_and_is_of_that_user() {
        let own = getpid();
        assert!(ConnectedProcess::of(ucred(own)).is_some());
        let other = rustix::process::Uid::from_raw(geteuid().as_raw() + 1);
        assert_eq!(ConnectedProcess::of(UCred { uid: other, ..ucred(own) }), None);

        let child = Command::new("true").stdin(Stdio::null()).spawn();
        let Ok(mut child) = child else { panic!("{child:?}") };
        let pid = Pid::from_child(&child);
        assert!(child.wait().is_ok());
        assert_eq!(ConnectedProcess::of(ucred(pid)), None);
    }
}
