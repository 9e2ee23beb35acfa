//! Owners and modes of files and directories, for errors about missing permission: the cure
//! depends on what the path is for.

use std::fmt;
use std::fs;
use std::fs::Metadata;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

use super::shell_quoting::quoted;

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

/// An error of the system about a path; where permission is missing, with the owner of the
/// path, our user, and a cure.
pub fn explained(error: &Error, path: &Path, purpose: Purpose) -> String {
    explained_to(error, path, purpose, rustix::process::geteuid().as_raw())
}

/// The same for a process of another user.
pub fn explained_to(error: &Error, path: &Path, purpose: Purpose, own: u32) -> String {
    if error.kind() != ErrorKind::PermissionDenied {
        return error.to_string();
    }
    let Some(obstacle) = Obstacle::on(path, own) else { return error.to_string() };
    format!("{error}: {obstacle}; {}", obstacle.cure(purpose))
}

/// The same about something in a directory that is all ours: what helps is for all of it.
pub fn explained_within(error: &Error, path: &Path, directory: &Path) -> String {
    let own = rustix::process::geteuid().as_raw();
    let Some(obstacle) = Obstacle::on(path, own) else { return error.to_string() };
    let (user, directory) = (UserArgument(own), quoted(directory));
    format!("{error}: {obstacle}; `chown -R {user} {directory} && chmod -R u+rwX {directory}`")
}

/// The first of a directory and all in it that this process may not read and write.
pub fn first_denied(path: &Path) -> Option<PathBuf> {
    let found = fs::symlink_metadata(path).ok()?;
    let needed = if found.is_dir() { Access::EXEC_OK } else { Access::empty() };
    if access(path, Access::READ_OK | Access::WRITE_OK | needed) == Err(Errno::ACCESS) {
        return Some(path.to_owned());
    }
    if !found.is_dir() {
        return None;
    }
    let mut entries: Vec<PathBuf> = fs::read_dir(path).ok()?.flatten().map(|entry| entry.path()).collect();
    entries.sort_unstable();
    entries.iter().find_map(|entry| first_denied(entry))
}

/// The users that systemd makes up for a unit (`DynamicUser=`): no file can be given to them.
const DYNAMIC: std::ops::RangeInclusive<u32> = 61_184..=65_519;

/// Whether a user exists only while its unit runs.
pub fn is_dynamic(uid: u32) -> bool {
    DYNAMIC.contains(&uid)
}

/// The file or directory that a process may not use.
struct Obstacle {
    /// What was wanted.
    path: PathBuf,
    /// The part of it that can be looked at.
    part: PathBuf,
    metadata: Metadata,
    own: u32,
}

/// Its owner, and the user of the process.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} belongs to {}, {}, mode {:04o}, and this process runs as {}",
            self.part.display(),
            User(self.metadata.uid()),
            Group(self.metadata.gid()),
            self.mode(),
            User(self.own)
        )
    }
}

/// The kernel follows no more links of one path.
const LINKS: usize = 40;

impl Obstacle {
    /// The obstacle on the way to a path. What lies in a directory that is closed cannot be
    /// looked at; a link can always be followed, and its target may be closed.
    fn on(path: &Path, own: u32) -> Option<Self> {
        let mut path = path.to_owned();
        for _ in 0..LINKS {
            let found = path.ancestors().find_map(|part| Some((part, fs::symlink_metadata(part).ok()?)));
            let (part, metadata) = found?;
            if !metadata.is_symlink() {
                return Some(Self { part: part.to_owned(), metadata, own, path });
            }
            let behind = path.strip_prefix(part).ok()?;
            let target = part.parent()?.join(fs::read_link(part).ok()?);
            // Nothing is added where the link is the whole path, not even a slash.
            path = if behind.as_os_str().is_empty() { target } else { target.join(behind) };
        }
        None
    }

    fn mode(&self) -> u32 {
        self.metadata.mode() & 0o7777
    }

    fn is_ours(&self) -> bool {
        self.metadata.uid() == self.own
    }

    /// Whether the path itself is the obstacle.
    fn is_whole(&self) -> bool {
        self.part == self.path
    }

    /// Whether the process may enter the part. Of another user's groups nothing is known.
    fn can_be_entered(&self) -> bool {
        if self.own == rustix::process::geteuid().as_raw() {
            return access(&self.part, Access::EXEC_OK).is_ok();
        }
        let bit = if self.is_ours() { 0o100 } else { 0o001 };
        self.metadata.is_dir() && self.mode() & bit != 0
    }

    /// The cure, as a command where one exists.
    fn cure(&self, purpose: Purpose) -> String {
        match purpose {
            Purpose::Readable => self.cure_of_readable(),
            Purpose::Secret => self.cure_of_secret(),
            Purpose::State => self.cure_of_state(),
            Purpose::Listening => self.cure_of_socket(),
        }
    }

    fn cure_of_readable(&self) -> String {
        let (path, part, user) = (quoted(&self.path), quoted(&self.part), UserArgument(self.own));
        let what = if self.metadata.is_dir() { "a+rx" } else { "a+r" };
        match self.group_that_reads() {
            _ if !self.is_whole() => format!("`chmod a+x {part}` lets it in"),
            Some(group) if is_dynamic(self.own) => {
                format!("`SupplementaryGroups={group}` in its unit lets it read")
            }
            Some(group) => {
                format!("`usermod -aG {group} {user}` as root lets it read from its next start on")
            }
            None => format!("`chmod {what} {path}` lets it read"),
        }
    }

    /// The group that may read, unless that is root's.
    fn group_that_reads(&self) -> Option<String> {
        let gid = self.metadata.gid();
        let needed = if self.metadata.is_dir() { 0o050 } else { 0o040 };
        let reads = self.mode() & needed == needed && gid != 0 && !self.is_ours();
        reads.then(|| Group(gid).name().unwrap_or_else(|| gid.to_string()))
    }

    fn cure_of_secret(&self) -> String {
        let user = UserArgument(self.own);
        match self.is_whole() {
            true if self.is_ours() => format!("`chmod 0600 {}` lets it read", quoted(&self.path)),
            // A user that is another one tomorrow cannot own a file.
            _ if is_dynamic(self.own) => credential(&self.path),
            true => format!(
                "`{}` lets it read, or under systemd {}",
                giving(&self.path, self.mode(), self.own),
                credential(&self.path)
            ),
            false => format!("put it where {user} may enter, or under systemd {}", credential(&self.path)),
        }
    }

    fn cure_of_state(&self) -> String {
        let (path, user) = (quoted(&self.path), UserArgument(self.own));
        let other = "or name another in `[state] directory`";
        let (all, needed) = if self.metadata.is_dir() { (" -R", 0o700) } else { ("", 0o600) };
        // Its owner may not use it either.
        let more = match self.mode() & needed == needed {
            true => String::new(),
            false => format!(" && chmod{all} u+rwX {path}"),
        };
        match self.is_whole() {
            true if self.is_ours() => format!("`chmod {needed:04o} {path}`"),
            true => format!("`chown{all} {user} {path}{more}`, {other}"),
            false => {
                format!("make it as root, `{}install -d -m 0700 -o {user} {path}`, {other}", self.entering())
            }
        }
    }

    fn cure_of_socket(&self) -> String {
        let (path, user) = (quoted(&self.path), UserArgument(self.own));
        match self.is_whole() && self.metadata.is_dir() {
            true if self.is_ours() => format!("`chmod u+wx {path}`"),
            // It has another owner for a reason, and may hold what is not ours.
            true => format!(
                "make a directory of its own in it as root, `install -d -o {user} {}`, and name a path in that, \
                 or name another path in `[listen] worker`",
                quoted(&self.path.join("wshubd"))
            ),
            false => format!(
                "make a directory for it as root, `{}install -d -o {user} {path}`, or name another path in \
                 `[listen] worker`",
                self.entering()
            ),
        }
    }

    /// What has to be done first where a directory above cannot be entered: one that is
    /// made in it could not be either.
    fn entering(&self) -> String {
        match self.can_be_entered() {
            true => String::new(),
            false => format!("chmod a+x {} && ", quoted(&self.part)),
        }
    }
}

/// The setting of a unit that passes a file as a credential.
fn credential(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Systemd takes no quotes there, and `%` for a specifier.
    let path = path.display().to_string().replace('%', "%%");
    format!("`LoadCredential={}:{path}` in its unit passes it as a credential", name.replace('%', "%%"))
}

/// The command that gives a secret to one user alone.
fn giving(path: &Path, mode: u32, user: u32) -> String {
    let (path, user) = (quoted(path), UserArgument(user));
    let is_closed = mode & 0o477 == 0o400;
    let more = if is_closed { String::new() } else { format!(" && chmod 0600 {path}") };
    format!("chown {user} {path}{more}")
}

/// What to do about a secret that others may read or write, where we are a user.
pub fn cure_of_open_secret(path: &Path, metadata: &Metadata, own: u32) -> String {
    let (word, mode, owner) = (quoted(path), metadata.mode() & 0o7777, metadata.uid());
    match owner {
        _ if owner == own => format!("`chmod 0600 {word}`"),
        _ if is_dynamic(own) => credential(path),
        0 => format!(
            "`{}`, or `chgrp GROUP {word} && chmod 0640 {word}` with a group of that user",
            giving(path, mode, own)
        ),
        _ => format!("`{}`", giving(path, mode, own)),
    }
}

/// A user as a line of `/etc/passwd` has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PasswdEntry {
    pub name: Option<String>,
    pub uid: u32,
    pub gid: u32,
}

impl PasswdEntry {
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

    /// The owner of a file, with the primary group; one that is in no list has the group of
    /// the file.
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
        match PasswdEntry::first(|account| account.uid == self.0).and_then(|account| account.name) {
            Some(name) => write!(f, "{name} (uid {})", self.0),
            None => write!(f, "uid {}", self.0),
        }
    }
}

/// The same as an argument of a command.
struct UserArgument(u32);

impl fmt::Display for UserArgument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PasswdEntry::first(|account| account.uid == self.0).and_then(|account| account.name) {
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
