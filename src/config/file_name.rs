//! Names of files with keys and secrets, distinguished from secrets in the place of such a
//! name: a name is repeated in errors, lists and the log, a secret never.

use std::io::ErrorKind;
use std::path::Path;

use crate::redaction::is_random;

/// What an option wants that takes such a name.
pub(super) const WANTED: &str = "the path of a file that holds it, such as \"/etc/wshubd/jwt.key\"";

/// Whether a text is such a name, and no secret.
pub(super) fn is_one(text: &str) -> bool {
    let path = Path::new(text);
    let is_anchored =
        ["/", "./", "../", "~/", "$HOME/", "${HOME}/"].iter().any(|begin| text.starts_with(begin));
    is_there(path) || (is_anchored && (!is_random(text) || lies_somewhere(path)))
}

/// Whether there is something of this name. Where its directory cannot be looked into, it
/// counts as there.
fn is_there(path: &Path) -> bool {
    match path.symlink_metadata() {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    }
}

/// Whether the directory of a file is there. That of `/SECRET` would be the root, which is
/// always there.
fn lies_somewhere(path: &Path) -> bool {
    path.parent().is_some_and(|parent| parent.file_name().is_some() && is_there(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_told_from_the_name_of_a_file() {
        let hex = "0123456789abcdef".repeat(4);
        let here = std::env::temp_dir();
        for secret in [
            "",
            "hunter2",
            "my secret",
            "a-secret-of-many-words-and-no-digits",
            "jwt.key",
            &hex,
            &format!("/{hex}"),
            "k3J9/QwX7Zr0uT5vLm2NaYb8CdEfGhIjKlMnOp==",
            "/k3J9QwX7Zr0uT5vLm2NaYb8/CdEfGhIjKlMnOp==",
            "keys/not-there",
            "/etc/with\0nul/k3J9QwX7Zr0uT5vLm2NaYb8",
            &"x".repeat(5000),
        ] {
            assert!(!is_one(secret), "{secret}");
        }
        let there = here.join(&hex);
        for name in [
            "/etc/wshubd/jwt.key",
            "/k",
            "./jwt.key",
            "../keys/a",
            "~/jwt.key",
            "Cargo.toml",
            "src",
            there.to_str().unwrap_or("/"),
        ] {
            assert!(is_one(name), "{name}");
        }
    }
}
