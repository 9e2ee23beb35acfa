//! Whose a file or directory is, for an error that says only that it may not be used.
//!
//! Knows owners, groups and modes, and what lets a process in: that depends on what
//! the path is for. Changes nothing.

use std::fmt;
use std::fs::{self, Metadata};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a path is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// A file of the configuration, or one with a public key.
    Readable,
    /// A file that only the daemon may read.
    Secret,
    /// The directory of the daemon's own files.
    State,
    /// Where the daemon makes its worker socket.
    Listening,
}

/// An error of the system about a path; where permission is missing, whose the path is,
/// who we are, and what would help.
pub fn explained(error: &Error, path: &Path, purpose: Purpose) -> String {
    explained_to(error, path, purpose, rustix::process::geteuid().as_raw())
}

/// The same for a process of another user.
pub fn explained_to(error: &Error, path: &Path, purpose: Purpose, own: u32) -> String {
    if error.kind() != ErrorKind::PermissionDenied {
        return error.to_string();
    }
    // What lies in a directory that is closed cannot be looked at.
    let found = path.ancestors().find_map(|part| Some((part, fs::symlink_metadata(part).ok()?)));
    let Some((part, metadata)) = found else { return error.to_string() };
    let obstacle = Obstacle { path, part, metadata, own };
    format!(
        "{error}: {} belongs to {}, {}, mode {:04o}, and this process runs as {}; {}",
        part.display(),
        User(obstacle.metadata.uid()),
        Group(obstacle.metadata.gid()),
        obstacle.mode(),
        User(own),
        obstacle.cure(purpose)
    )
}

/// The users that systemd makes up for a unit (`DynamicUser=`), whom no file can be given.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// Whether a user exists only while its unit runs.
pub fn is_dynamic(uid: u32) -> bool {
    DYNAMIC.contains(&uid)
}

/// What does not let a process in.
struct Obstacle<'a> {
    /// What was wanted.
    path: &'a Path,
    /// The part of it that can be looked at.
    part: &'a Path,
    metadata: Metadata,
    own: u32,
}

impl Obstacle<'_> {
    fn mode(&self) -> u32 {
        self.metadata.mode() & 0o7777
    }

    fn is_ours(&self) -> bool {
        self.metadata.uid() == self.own
    }

    /// What lets the process in, as a command where one does.
    fn cure(&self, purpose: Purpose) -> String {
        let (path, part, user) = (self.path.display(), self.part.display(), Name(self.own));
        let is_whole = self.part == self.path;
        match purpose {
            Purpose::Readable if !is_whole => format!("`chmod a+x {part}` lets it in"),
            Purpose::Readable => match self.group_that_reads() {
                Some(group) if is_dynamic(self.own) => {
                    format!("`SupplementaryGroups={group}` in its unit lets it read")
                }
                Some(group) => {
                    format!("`usermod -aG {group} {user}` as root lets it read from its next start on")
                }
                None => format!("`chmod a+r {path}` lets it read"),
            },
            Purpose::Secret => self.cure_of_secret(is_whole),
            Purpose::State if is_whole && self.is_ours() => format!("`chmod 0700 {path}`"),
            Purpose::State if is_whole => {
                format!("`chown -R {user} {path}`, or name another in `[state] directory`")
            }
            Purpose::State => format!(
                "make it as root, `install -d -m 0700 -o {user} {path}`, or name another in `[state] directory`"
            ),
            Purpose::Listening => {
                let directory =
                    if self.metadata.is_dir() { self.path } else { self.path.parent().unwrap_or(self.path) };
                format!(
                    "make a directory for it as root, `install -d -o {user} {}`, or name another path in \
                     `[listen] worker`",
                    directory.display()
                )
            }
        }
    }

    /// The group that may read, unless that is root's.
    fn group_that_reads(&self) -> Option<String> {
        let gid = self.metadata.gid();
        let reads = self.mode() & 0o040 != 0 && gid != 0;
        reads.then(|| Group(gid).name().unwrap_or_else(|| gid.to_string()))
    }

    fn cure_of_secret(&self, is_whole: bool) -> String {
        let (path, user) = (self.path.display(), Name(self.own));
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let credential = format!("`LoadCredential={name}:{path}` in its unit passes it as a credential");
        match is_whole {
            true if self.is_ours() => format!("`chmod 0600 {path}` lets it read"),
            // Nothing can be given to a user who is another one tomorrow.
            _ if is_dynamic(self.own) => credential,
            true => format!("`chown {user} {path}` lets it read, or under systemd {credential}"),
            false => format!("put it where {user} may enter, or under systemd {credential}"),
        }
    }
}

/// A user as a line of `/etc/passwd` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Account {
    pub name: Option<String>,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    fn first(fits: impl Fn(&Self) -> bool) -> Option<Self> {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let mut accounts = users.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let number = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
            Some(Self { name: Some((*fields.first()?).to_owned()), uid: number(2)?, gid: number(3)? })
        });
        accounts.find(fits)
    }

    /// The user of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::first(|account| account.name.as_deref() == Some(name))
    }

    /// The user who owns something, with the primary group; one who is in no list has
    /// the group of what is owned.
    pub fn owning(metadata: &Metadata) -> Self {
        let uid = metadata.uid();
        let listed = Self::first(|account| account.uid == uid);
        listed.unwrap_or(Self { name: None, uid, gid: metadata.gid() })
    }

    /// All groups that it is in.
    pub fn groups(&self) -> Vec<u32> {
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        let of = groups.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let gid: u32 = fields.get(2)?.parse().ok()?;
            let is_member = fields.get(3)?.split(',').any(|member| Some(member) == self.name.as_deref());
            is_member.then_some(gid)
        });
        of.chain([self.gid]).collect()
    }
}

/// A user of the machine: name and number, or the number alone.
pub struct User(pub u32);

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Account::first(|account| account.uid == self.0).and_then(|account| account.name) {
            Some(name) => write!(f, "{name} (uid {})", self.0),
            None => write!(f, "uid {}", self.0),
        }
    }
}

/// The same as commands take it.
struct Name(u32);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Account::first(|account| account.uid == self.0).and_then(|account| account.name) {
            Some(name) => f.write_str(&name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A group of the machine.
struct Group(u32);

impl Group {
    fn name(&self) -> Option<String> {
        let groups = fs::read_to_string("/etc/group").unwrap_or_default();
        groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(self.0)).then(|| name.to_owned())
        })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "group {name}"),
            None => write!(f, "gid {}", self.0),
        }
    }
}
