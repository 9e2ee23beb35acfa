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
            (true, true) => format!("you are a member of {group} from your next login on"),
            (true, false) => {
                format!("`adduser {user} {group}`, as root, lets you in from your next login on")
            }
            (false, _) => "its group does not let you in; `--socket` names another".to_owned(),
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

    fn denial(mode: u32, is_directory: bool) -> SocketDenial {
        SocketDenial {
            part: "/run/wshubd/worker.sock".into(),
            is_directory,
            owner: "root (uid 0)".into(),
            group: "wshub-worker".into(),
            mode,
            user: "ada".into(),
            is_roots: false,
            is_member: false,
        }
    }

    #[test]
    fn who_is_not_in_the_group_of_a_socket_learns_how_to_get_in() {
        let expected = "/run/wshubd/worker.sock belongs to root (uid 0) and the group wshub-worker, mode 0660, and \
                        you are ada: `adduser ada wshub-worker`, as root, lets you in from your next login on";
        assert_eq!(denial(0o660, false).explain(), expected);
    }

    #[test]
    fn who_has_joined_the_group_since_the_login_is_told_to_log_in_again() {
        let told = SocketDenial { is_member: true, ..denial(0o660, false) }.explain();
        assert!(told.ends_with("you are a member of wshub-worker from your next login on"), "{told}");
    }

    #[test]
    fn a_group_that_is_not_let_in_or_is_roots_is_no_way_in() {
        for denial in [
            denial(0o600, false),
            denial(0o720, true),
            SocketDenial { is_roots: true, group: "root".into(), ..denial(0o660, false) },
        ] {
            assert!(denial.explain().ends_with("`--socket` names another"), "{}", denial.explain());
        }
    }
}
