//! Explanation of a socket that denies access: its owner, group and mode.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, getgroups};

/// The reason why a socket denies access, and the next step; none where its owners
/// and modes do not explain it.
pub(crate) fn denial(socket: &Path) -> Option<String> {
    Some(SocketDenial::find(socket)?.explain())
}

/// The name of a user, with the number that decides.
pub(crate) fn user(uid: u32) -> String {
    match name(uid) {
        Some(name) => format!("{name} (uid {uid})"),
        None => format!("uid {uid}"),
    }
}

fn name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

/// The part of a path that denies a socket to us.
struct SocketDenial {
    /// The socket itself, or a directory on the way to it.
    part: PathBuf,
    is_directory: bool,
    owner: String,
    group: String,
    mode: u32,
    /// Our own user.
    user: String,
    /// Whether the group is for root's own use.
    is_roots: bool,
    /// Whether the list of groups has us, which a login reads once.
    is_member: bool,
}

impl SocketDenial {
    fn find(socket: &Path) -> Option<Self> {
        let mut parts: Vec<_> = socket.ancestors().collect();
        parts.reverse();
        let hides =
            |path: &&&Path| path.metadata().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        let hidden = parts.iter().find(hides);
        let part = hidden.and_then(|path| path.parent()).unwrap_or(socket);
        let meta = part.metadata().ok()?;
        let uid = Uid::effective();
        let gid = Gid::from_raw(meta.gid());
        let holds = Gid::effective() == gid || getgroups().is_ok_and(|groups| groups.contains(&gid));
        let bit = if meta.is_dir() { 0o1 } else { 0o2 };
        let shift = match (meta.uid() == uid.as_raw(), holds) {
            (true, _) => 6,
            (_, true) => 3,
            _ => 0,
        };
        if meta.mode() & (bit << shift) != 0 {
            return None;
        }
        let group = Group::from_gid(gid).ok().flatten();
        let user = name(uid.as_raw());
        Some(Self {
            part: part.to_owned(),
            is_directory: meta.is_dir(),
            owner: self::user(meta.uid()),
            is_member: !holds
                && user.as_ref().zip(group.as_ref()).is_some_and(|(user, group)| group.mem.contains(user)),
            group: group.map_or_else(|| format!("gid {gid}"), |group| group.name),
            mode: meta.mode() & 0o7777,
            user: user.unwrap_or_else(|| format!("uid {uid}")),
            is_roots: gid.as_raw() == 0,
        })
    }

    fn explain(&self) -> String {
        let Self { owner, group, mode, user, .. } = self;
        let bit = if self.is_directory { 0o010 } else { 0o020 };
        let advice = match (mode & bit != 0 && !self.is_roots, self.is_member) {
            (true, true) => format!("you become a member of {group} with your next login"),
            (true, false) => {
                format!("`adduser {user} {group}`, as root, gives you access from your next login on")
            }
            (false, _) => "its group has no access; `--socket` names another socket".to_owned(),
        };
        let part = self.part.display();
        format!(
            "{part} belongs to {owner} and the group {group}, mode {mode:04o}, and you are {user}: {advice}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::SocketDenial;

    fn denial(mode: u32) -> SocketDenial {
        SocketDenial {
            part: "/run/wshubd/worker.sock".into(),
            is_directory: false,
            owner: "root (uid 0)".into(),
            group: "wshub-worker".into(),
            mode,
            user: "ada".into(),
            is_roots: false,
            is_member: false,
        }
    }

    #[test]
    fn the_denial_names_the_command_that_adds_a_user_to_the_group() {
        let expected = "/run/wshubd/worker.sock belongs to root (uid 0) and the group wshub-worker, mode 0660, and \
                        you are ada: `adduser ada wshub-worker`, as root, gives you access from your next login on";
        assert_eq!(denial(0o660).explain(), expected);
    }

    #[test]
    fn a_new_member_of_the_group_is_advised_to_log_in_again() {
        let told = SocketDenial { is_member: true, ..denial(0o660) }.explain();
        assert!(told.ends_with("you become a member of wshub-worker with your next login"), "{told}");
    }

    #[test]
    fn a_group_without_access_or_of_root_is_not_recommended() {
        for denial in [
            denial(0o600),
            SocketDenial { is_directory: true, ..denial(0o720) },
            SocketDenial { is_roots: true, group: "root".into(), ..denial(0o660) },
        ] {
            assert!(denial.explain().ends_with("`--socket` names another socket"), "{}", denial.explain());
        }
    }
}
