//! Whose a file or directory is, for an error that says only that it may not be used.
//!
//! Knows owners and their names in `/etc/passwd`. Changes nothing.

use std::fmt;
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// An error of the system about a path; where permission is missing, whose the path is.
pub fn explained(error: &Error, path: &Path) -> String {
    explained_to(error, path, rustix::process::geteuid().as_raw())
}

/// The same for a process of another user.
pub fn explained_to(error: &Error, path: &Path, own: u32) -> String {
    if error.kind() != ErrorKind::PermissionDenied {
        return error.to_string();
    }
    // What lies in a directory that is closed cannot be looked at.
    let found = path.ancestors().find_map(|part| Some((part, fs::symlink_metadata(part).ok()?)));
    match found {
        Some((part, metadata)) if metadata.uid() != own => format!(
            "{error}: {} belongs to {}, and this process runs as {}",
            part.display(),
            User(metadata.uid()),
            User(own)
        ),
        _ => error.to_string(),
    }
}

/// A user of the machine: name and number, or the number alone.
struct User(u32);

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let name = users.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(self.0)).then_some(name)
        });
        match name {
            Some(name) => write!(f, "{name} (uid {})", self.0),
            None => write!(f, "uid {}", self.0),
        }
    }
}
