//! Paths in commands that people copy into a shell.
//!
//! Knows which characters a shell takes for something else. Does not know the commands.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A path as one word of a shell: as it is where that is one, else in quotes.
pub(crate) fn quoted(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+:=@%,".contains(byte);
    if !bytes.is_empty() && bytes.iter().all(is_plain) {
        return path.display().to_string();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        // What no terminal shows has to be spelled, as bash, zsh, ksh and POSIX of 2024 have it.
        _ => format!("$'{}'", bytes.escape_ascii().to_string().replace(r#"\""#, "\"")),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    use super::quoted;

    #[test]
    fn a_path_is_one_word_to_a_shell_and_the_same_path() {
        let table = [
            ("/var/lib/wshubd", "/var/lib/wshubd"),
            ("/srv/my state", "'/srv/my state'"),
            ("/srv/it's $HOME `x`", r"'/srv/it'\''s $HOME `x`'"),
            ("/srv/für", "'/srv/für'"),
            ("/srv/~;&|<>()*?[]#!\"\\", "'/srv/~;&|<>()*?[]#!\"\\'"),
            ("/a\nb'\"", r#"$'/a\nb\'"'"#),
            ("", "''"),
        ];
        for (path, expected) in table {
            assert_eq!(quoted(Path::new(path)), expected);
        }
        assert_eq!(quoted(Path::new(OsStr::from_bytes(b"/a\xff"))), r"$'/a\xff'");
    }

    #[test]
    fn a_shell_reads_the_same_path_back() {
        for path in ["/srv/my state", "/srv/it's $HOME `x` \"y\"", "/a;b&c|d<e>(f)*?[g]#!~\\"] {
            let command = format!("printf %s {}", quoted(Path::new(path)));
            let output = std::process::Command::new("/bin/sh").args(["-c", &command]).output();
            let said = output.map(|output| output.stdout).unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&said), path);
        }
    }
}
