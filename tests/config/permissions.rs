//! Files and directories that may not be used: owner, our user, and a cure.

use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use wshubd::config::file_owner::{Purpose, explained_to};

use super::Scratch;

/// No user and no group has this number.
const STRANGER: u32 = 4_000_000_000;

fn explanation(path: &Path, purpose: Purpose, own: u32) -> String {
    explained_to(&Error::from(ErrorKind::PermissionDenied), path, purpose, own)
}

#[test]
fn a_closed_path_is_reported_with_owner_mode_and_user() {
    let scratch = Scratch::new();
    let own = rustix::process::geteuid().as_raw();
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o750)).unwrap();
    // What is not there is for the directory that would hold it to allow.
    let message = explanation(&scratch.0.join("none/deeper"), Purpose::State, STRANGER);
    assert!(message.contains(&format!("{} belongs to ", scratch.0.display())), "{message}");
    assert!(
        message.contains(&format!("(uid {own}), ")) || message.contains(&format!("uid {own}, ")),
        "{message}"
    );
    assert!(message.contains(", mode 0750, and this process runs as uid 4000000000; "), "{message}");
    let roots = explanation(Path::new("/proc/1/environ"), Purpose::State, STRANGER);
    assert!(roots.contains("belongs to root (uid 0), group root"), "{roots}");
    let other = Error::from(ErrorKind::NotFound);
    assert_eq!(explained_to(&other, &scratch.0, Purpose::State, STRANGER), other.to_string());
}

/// Each denial ends with what helps.
fn helped(table: &[(&Path, Purpose, u32, String)]) {
    for (path, purpose, own, cure) in table {
        let message = explanation(path, *purpose, *own);
        assert!(message.ends_with(cure), "{purpose:?}: {message}");
    }
}

#[test]
fn an_unreadable_file_is_reported_with_a_cure() {
    let scratch = Scratch::new();
    let (file, shared) = (scratch.write("a.key", ""), scratch.write("issuer.pem", ""));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o640)).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&shared, None, Some(1)).unwrap();
    }
    let deeper = scratch.0.join("deeper/still");
    let (path, directory) = (file.display(), scratch.0.display());
    let own = rustix::process::geteuid().as_raw();
    let credential = format!("`LoadCredential=a.key:{path}` in its unit passes it as a credential");
    let owner = format!("`chown 4000000000 {path}` lets it read, or under systemd {credential}");
    let joined = " 4000000000` as root lets it read from its next start on".to_owned();
    helped(&[
        (&file, Purpose::Readable, STRANGER, format!("; `chmod a+r {path}` lets it read")),
        (&deeper, Purpose::Readable, STRANGER, format!("; `chmod a+x {directory}` lets it in")),
        (&shared, Purpose::Readable, STRANGER, joined),
        (&shared, Purpose::Readable, 62_000, "` in its unit lets it read".to_owned()),
        (&file, Purpose::Secret, own, format!("; `chmod 0600 {path}` lets it read")),
        (&file, Purpose::Secret, STRANGER, format!("; {owner}")),
        // A user of DynamicUser= owns no file tomorrow.
        (&file, Purpose::Secret, 62_000, format!("; {credential}")),
    ]);
}

#[test]
fn a_directory_that_cannot_be_made_says_how_root_makes_it() {
    let scratch = Scratch::new();
    let deeper = scratch.0.join("deeper/still");
    let (deep, directory) = (deeper.display(), scratch.0.display());
    let own = rustix::process::geteuid().as_raw();
    let state = "or name another in `[state] directory`";
    let worker = "or name another path in `[listen] worker`";
    let to = "-o 4000000000";
    helped(&[
        (&scratch.0, Purpose::State, own, format!("; `chmod 0700 {directory}`")),
        (&scratch.0, Purpose::State, STRANGER, format!("; `chown -R 4000000000 {directory}`, {state}")),
        // Never the directory above it.
        (
            &deeper,
            Purpose::State,
            STRANGER,
            format!("; make it as root, `install -d -m 0700 {to} {deep}`, {state}"),
        ),
        (
            &deeper,
            Purpose::Listening,
            STRANGER,
            format!("; make a directory for it as root, `install -d {to} {deep}`, {worker}"),
        ),
    ]);
}

#[test]
fn a_cure_is_a_command_that_a_shell_reads_as_it_is_meant() {
    let scratch = Scratch::new();
    let key = scratch.write("it's my/a key", "");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let directory = key.parent().unwrap();
    let root = scratch.0.display();
    let (word, place) = (format!(r"'{root}/it'\''s my/a key'"), format!(r"'{root}/it'\''s my'"));
    let deeper = directory.join("deeper/still");
    let own = rustix::process::geteuid().as_raw();
    let chmod = format!("; `chmod 0600 {word}` lets it read");
    helped(&[
        (&key, Purpose::Secret, own, chmod),
        (&key, Purpose::Readable, STRANGER, format!("; `chmod a+r {word}` lets it read")),
        (&directory.join("none"), Purpose::Readable, STRANGER, format!("; `chmod a+x {place}` lets it in")),
        (directory, Purpose::State, own, format!("; `chmod 0700 {place}`")),
    ]);
    for (path, purpose, command) in [
        (directory, Purpose::State, format!("`chown -R 4000000000 {place}`")),
        (&key, Purpose::Secret, format!("`chown 4000000000 {word}`")),
        (&deeper, Purpose::State, format!(r"-o 4000000000 '{root}/it'\''s my/deeper/still'`")),
        (&deeper, Purpose::Listening, format!(r"-o 4000000000 '{root}/it'\''s my/deeper/still'`")),
        (directory, Purpose::Listening, format!(r"-o 4000000000 '{root}/it'\''s my/wshubd'`")),
    ] {
        let message = explanation(path, purpose, STRANGER);
        assert!(message.contains(&command), "{message}");
    }
}

#[test]
fn a_cure_that_takes_two_steps_names_both() {
    let scratch = Scratch::new();
    let (key, directory) = (scratch.write("closed/a.key", ""), scratch.0.join("closed"));
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&key, 0o640);
    let (path, place) = (key.display(), directory.display());
    // Whoever has it may not leave it open.
    let message = explanation(&key, Purpose::Secret, STRANGER);
    let both = format!("`chown 4000000000 {path} && chmod 0600 {path}` lets it read");
    assert!(message.contains(&both), "{message}");
    mode(&directory, 0o700);
    let none = directory.join("none");
    for (purpose, more) in [(Purpose::State, "-d -m 0700"), (Purpose::Listening, "-d")] {
        let message = explanation(&none, purpose, STRANGER);
        let both = format!("`chmod a+x {place} && install {more} -o 4000000000 {place}/none`");
        assert!(message.contains(&both), "{message}");
    }
    // One that its owner may not use either, and one that has to be entered as well.
    mode(&directory, 0o050);
    let message = explanation(&directory, Purpose::State, STRANGER);
    assert!(
        message.contains(&format!("`chown -R 4000000000 {place} && chmod -R u+rwX {place}`")),
        "{message}"
    );
    mode(&directory, 0o700);
    let message = explanation(&directory, Purpose::Readable, STRANGER);
    assert!(message.ends_with(&format!("; `chmod a+rx {place}` lets it read")), "{message}");
}

#[test]
fn the_target_of_a_link_is_what_must_be_readable() {
    let scratch = Scratch::new();
    let (file, link) = (scratch.write("closed/file", ""), scratch.0.join("link"));
    std::os::unix::fs::symlink("closed/file", &link).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let message = explanation(&link, Purpose::Readable, STRANGER);
    assert!(message.ends_with(&format!("; `chmod a+r {}` lets it read", file.display())), "{message}");
    // One that leads to itself leads nowhere.
    let round = scratch.0.join("round");
    std::os::unix::fs::symlink("round", &round).unwrap();
    assert_eq!(
        explanation(&round, Purpose::Readable, STRANGER),
        Error::from(ErrorKind::PermissionDenied).to_string()
    );
}
