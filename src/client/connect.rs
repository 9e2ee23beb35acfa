//! One attempt to connect to a worker socket, and trust in one that was found rather
//! than named.
//!
//! Requests must not reach a socket that another user has created under the name of
//! wshubd's. A process that runs under our own uid or root's is trusted. Any other process
//! may be wshubd too, which often has a user of its own; then the directories above the
//! socket decide: no third user may be able to create the socket.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use smol::net::unix::UnixStream;

use super::error::Error;

/// Which sockets are connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SocketTrust {
    /// Any: an option or a caller has named it.
    Named,
    /// Only one that root or our own user must have created, or at which a process of theirs
    /// listens.
    Found,
}

/// A path where the worker socket may be.
#[derive(Clone, Debug)]
pub(super) struct SocketCandidate {
    path: Arc<Path>,
    trust: SocketTrust,
}

/// One or more of them.
#[derive(Clone, Debug)]
pub(super) struct SocketCandidates {
    first: SocketCandidate,
    others: Vec<SocketCandidate>,
}

impl SocketCandidates {
    /// A path that is named.
    pub(super) fn new(path: &Path) -> Self {
        Self { first: SocketCandidate { path: path.into(), trust: SocketTrust::Named }, others: Vec::new() }
    }

    /// Adds paths that are found.
    pub(super) fn extend(&mut self, paths: impl IntoIterator<Item = PathBuf>) {
        let found = |path: PathBuf| SocketCandidate { path: path.into(), trust: SocketTrust::Found };
        self.others.extend(paths.into_iter().map(found));
    }

    /// The first path is found as well.
    pub(super) fn distrust_first(&mut self) {
        self.first.trust = SocketTrust::Found;
    }

    /// The first that exists now; the first of all where none does.
    pub(super) fn present(&self) -> &SocketCandidate {
        let others = || self.others.iter().find(|candidate| candidate.path.exists());
        let present = if self.first.path.exists() { None } else { others() };
        present.unwrap_or(&self.first)
    }
}

impl SocketCandidate {
    pub(super) fn path(&self) -> &Arc<Path> {
        &self.path
    }

    /// Connects, or fails at once. A Unix socket takes a connection
    /// at once or, where its queue of connections is full, not at all; there is nothing to
    /// wait for, which is why this is not what `smol` does: there a full queue looks like a
    /// connection without a peer.
    pub(super) fn connect(&self) -> Result<UnixStream, Error> {
        let path = &self.path;
        let unreachable = |why: io::Error| Error::Unreachable { path: path.clone(), why: Arc::new(why) };
        let stream = open(path).map_err(unreachable)?;
        if self.trust == SocketTrust::Found {
            let peer = sockopt::socket_peercred(&stream).ok().map(|peer| peer.uid.as_raw());
            let own = rustix::process::geteuid().as_raw();
            let steps = path_steps(path).map_err(unreachable)?;
            if let Some(step) = untrusted_step(peer, own, &steps) {
                return Err(Error::Untrusted {
                    path: path.clone(),
                    part: step.path.as_path().into(),
                    owner: step.owner,
                });
            }
        }
        Ok(stream)
    }
}

fn open(path: &Path) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    UnixStream::try_from(socket)
}

/// Symbolic links that are followed on the way to a socket; the kernel's own limit.
const LINKS: usize = 40;

/// The users who can create files in a directory, or in one above it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum WriteAccess {
    /// Its owner and its group, or a part of them.
    Closed,
    /// All users, but none can rename or remove the entries of another.
    Sticky,
    /// All users, and each can replace any entry at any time.
    Open,
}

impl WriteAccess {
    fn of(mode: u32) -> Self {
        match (mode & 0o002 != 0, mode & 0o1000 != 0) {
            (false, _) => Self::Closed,
            (true, true) => Self::Sticky,
            (true, false) => Self::Open,
        }
    }
}

/// A directory, a symbolic link or the socket itself, on the way to a socket.
#[derive(Clone, PartialEq, Eq, Debug)]
struct PathStep {
    path: PathBuf,
    owner: u32,
    /// Who else can have put it there: by the directory that it is in, or one above that
    /// can be replaced.
    above: WriteAccess,
}

/// The part of a path that makes a socket untrusted, if any does. `peer` is the uid of
/// the process that listens.
fn untrusted_step(peer: Option<u32>, own: u32, steps: &[PathStep]) -> Option<&PathStep> {
    let is_trusted = |uid| uid == own || uid == 0;
    if peer.is_some_and(is_trusted) {
        return None;
    }
    steps.iter().find(|step| match step.above {
        WriteAccess::Closed => false,
        WriteAccess::Sticky => !is_trusted(step.owner),
        // It may have been replaced since the connection was made.
        WriteAccess::Open => true,
    })
}

/// All that an absolute path leads through, links included.
fn path_steps(path: &Path) -> io::Result<Vec<PathStep>> {
    let mut steps = Vec::new();
    // The directories of the walk so far, without links, each with its write access.
    let mut stack = vec![(PathBuf::from("/"), WriteAccess::of(Path::new("/").symlink_metadata()?.mode()))];
    let mut rest: VecDeque<OsString> = names(path).collect();
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            stack.truncate(stack.len().saturating_sub(1).max(1));
            continue;
        }
        let Some((directory, above)) = stack.last().cloned() else { break };
        let path = directory.join(&name);
        let found = path.symlink_metadata()?;
        steps.push(PathStep { path: path.clone(), owner: found.uid(), above });
        if found.is_symlink() {
            links += 1;
            if links > LINKS {
                return Err(rustix::io::Errno::LOOP.into());
            }
            let target = path.read_link()?;
            if target.is_absolute() {
                stack.truncate(1);
            }
            for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(name);
            }
        } else {
            // In one that is closed only its owner makes anything, who was looked at; what
            // can be replaced may have been, with all below it.
            let below = if above == WriteAccess::Open { above } else { WriteAccess::of(found.mode()) };
            stack.push((path, below));
        }
    }
    Ok(steps)
}

fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    use super::{PathStep, WriteAccess, path_steps, untrusted_step};

    const ROOT: u32 = 0;
    const OURS: u32 = 1000;
    const ANOTHER: u32 = 1001;

    fn step(path: &str, owner: u32, above: WriteAccess) -> PathStep {
        PathStep { path: path.into(), owner, above }
    }

    /// `/tmp/wshubd-1000/worker.sock`, with the owners of its last two parts.
    fn temporary(directory: u32, socket: u32) -> Vec<PathStep> {
        vec![
            step("/tmp", ROOT, WriteAccess::Closed),
            step("/tmp/wshubd-1000", directory, WriteAccess::Sticky),
            step("/tmp/wshubd-1000/worker.sock", socket, WriteAccess::Closed),
        ]
    }

    fn culprit(peer: Option<u32>, steps: &[PathStep]) -> Option<&str> {
        untrusted_step(peer, OURS, steps).and_then(|step| step.path.to_str())
    }

    #[test]
    fn a_peer_of_our_own_uid_or_root_is_trusted_wherever_it_listens() {
        for peer in [OURS, ROOT] {
            assert_eq!(culprit(Some(peer), &temporary(ANOTHER, ANOTHER)), None);
        }
    }

    #[test]
    fn what_lies_where_everybody_writes_is_ours_or_roots() {
        for trusted in [OURS, ROOT] {
            assert_eq!(culprit(Some(ANOTHER), &temporary(trusted, trusted)), None);
            assert_eq!(culprit(None, &temporary(trusted, trusted)), None);
        }
        assert_eq!(culprit(Some(ANOTHER), &temporary(ANOTHER, ANOTHER)), Some("/tmp/wshubd-1000"));
        assert_eq!(culprit(None, &temporary(ANOTHER, OURS)), Some("/tmp/wshubd-1000"));
        let socket = [step("/tmp/worker.sock", ANOTHER, WriteAccess::Sticky)];
        assert_eq!(culprit(Some(ANOTHER), &socket), Some("/tmp/worker.sock"));
    }

    #[test]
    fn a_socket_of_another_user_in_a_closed_directory_is_trusted() {
        let way = [
            step("/run", ROOT, WriteAccess::Closed),
            step("/run/wshubd", ANOTHER, WriteAccess::Closed),
            step("/run/wshubd/worker.sock", ANOTHER, WriteAccess::Closed),
        ];
        assert_eq!(culprit(Some(ANOTHER), &way), None);
        // As on systems where /run leads to a directory of root's in /tmp.
        let below_temporary = [
            step("/tmp/run", ROOT, WriteAccess::Sticky),
            step("/tmp/run/wshubd", ANOTHER, WriteAccess::Closed),
            step("/tmp/run/wshubd/worker.sock", ANOTHER, WriteAccess::Closed),
        ];
        assert_eq!(culprit(Some(ANOTHER), &below_temporary), None);
    }

    #[test]
    fn where_everybody_can_replace_everything_no_owner_helps() {
        let way = [step("/open/worker.sock", OURS, WriteAccess::Open)];
        assert_eq!(culprit(Some(ANOTHER), &way), Some("/open/worker.sock"));
        assert_eq!(culprit(Some(OURS), &way), None);
    }

    #[test]
    fn the_way_follows_links_and_sees_open_directories_above() {
        let top = std::env::temp_dir().join(format!("wshub-trust-{}", std::process::id()));
        let make = |name: &str, mode: u32| {
            fs::create_dir(top.join(name)).unwrap();
            fs::set_permissions(top.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        fs::create_dir(&top).unwrap();
        make("sticky", 0o1777);
        make("open", 0o777);
        make("open/below", 0o755);
        symlink("../open", top.join("sticky/relative")).unwrap();
        symlink(top.join("sticky"), top.join("absolute")).unwrap();
        fs::write(top.join("open/below/worker.sock"), "").unwrap();

        let found = path_steps(&top.join("absolute/relative/below/worker.sock")).unwrap();
        let here = |name: &str| found.iter().rev().find(|step| step.path == top.join(name)).cloned();
        let seen = |name: &str| here(name).map(|step| step.above);
        // What is above the temporary directory counts for it alone, or for all below it.
        let outer = seen("absolute").unwrap();
        assert_eq!(seen("sticky"), Some(outer));
        assert_eq!(seen("sticky/relative"), Some(outer.max(WriteAccess::Sticky)));
        assert_eq!(seen("open"), Some(outer));
        assert_eq!(seen("open/below"), Some(WriteAccess::Open));
        assert_eq!(seen("open/below/worker.sock"), Some(WriteAccess::Open));
        assert_eq!(found.last().map(|step| &*step.path), Some(&*top.join("open/below/worker.sock")));
        let us = rustix::process::geteuid().as_raw();
        assert_eq!(here("open/below/worker.sock").map(|step| step.owner), Some(us));
        fs::remove_dir_all(&top).unwrap();
    }

    #[test]
    fn links_in_a_circle_and_what_is_not_there_are_errors() {
        let top: PathBuf = std::env::temp_dir().join(format!("wshub-circle-{}", std::process::id()));
        fs::create_dir(&top).unwrap();
        symlink("circle", top.join("circle")).unwrap();
        assert!(path_steps(&top.join("circle/worker.sock")).is_err());
        assert!(path_steps(Path::new("/nonexistent/worker.sock")).is_err());
        fs::remove_dir_all(&top).unwrap();
    }
}
