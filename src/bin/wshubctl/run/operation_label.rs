//! Default label of an operation: the name of the program, or of the script
//! that the program runs.
//!
//! Only names are taken, never other arguments: those may hold secrets. So an option that is not known ends the search, as its value
//! might be next.

use std::ffi::OsString;
use std::path::Path;

/// A program that runs another one or a script, and the options that may stand
/// before it.
struct Launcher {
    /// Its names, without the version at their end.
    names: &'static [&'static str],
    /// Letters of options without a value.
    flags: &'static str,
    /// Letters of options with a value, which may be the rest of the word.
    values: &'static str,
    /// Long options without a value; those with one stand for themselves as
    /// `--name=value`.
    long: &'static [&'static str],
    /// Letters of options whose value is what is run.
    names_it: &'static str,
    /// Words before what is run.
    words: usize,
    /// Whether what it runs may run something itself.
    runs_programs: bool,
}

const SCRIPT: Launcher =
    Launcher { names: &[], flags: "", values: "", long: &[], names_it: "", words: 0, runs_programs: false };
const PROGRAM: Launcher = Launcher { runs_programs: true, ..SCRIPT };

const LAUNCHERS: [Launcher; 14] = [
    Launcher {
        names: &["sh", "bash", "dash", "zsh", "ash", "ksh", "mksh"],
        flags: "abefhiklmnprtuvxBCEHPT",
        values: "oO",
        long: &["login", "norc", "noprofile", "posix", "restricted", "verbose"],
        ..SCRIPT
    },
    Launcher { names: &["fish"], flags: "ilnNP", long: &["login", "no-config", "private"], ..SCRIPT },
    Launcher { names: &["python", "pypy"], flags: "bBdEiIOPqRsSuvx", values: "WX", names_it: "m", ..SCRIPT },
    Launcher { names: &["perl"], flags: "acnlpsStTuUwWX", values: "IM", ..SCRIPT },
    Launcher { names: &["ruby"], flags: "aclnpsSvw", values: "ICEr", ..SCRIPT },
    Launcher { names: &["node", "nodejs"], flags: "i", values: "r", ..SCRIPT },
    Launcher { names: &["php"], flags: "aCHqn", values: "cdz", names_it: "f", ..SCRIPT },
    Launcher { names: &["env"], flags: "i0v", values: "uC", long: &["ignore-environment"], ..PROGRAM },
    Launcher {
        names: &["sudo", "doas"],
        flags: "AbEHknPS",
        values: "CDghpRrTtUu",
        long: &["login", "preserve-env", "non-interactive"],
        ..PROGRAM
    },
    Launcher { names: &["nice"], values: "n", ..PROGRAM },
    Launcher { names: &["ionice"], flags: "t", values: "cn", ..PROGRAM },
    Launcher { names: &["time"], flags: "apqv", values: "fo", ..PROGRAM },
    Launcher {
        names: &["timeout"],
        flags: "v",
        values: "ks",
        long: &["foreground", "preserve-status", "verbose"],
        words: 1,
        ..PROGRAM
    },
    Launcher { names: &["nohup", "setsid", "exec", "stdbuf"], flags: "cfw", values: "ieo", ..PROGRAM },
];

/// The label of a command.
pub(super) fn label(command: &[OsString]) -> Option<String> {
    let (program, arguments) = command.split_first()?;
    let name = file_name(program)?;
    // A version may follow the name of an interpreter.
    let unversioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    let launcher = LAUNCHERS.iter().find(|launcher| launcher.names.contains(&unversioned));
    let launched = launcher.and_then(|launcher| {
        let launched = launcher.launched(arguments)?;
        if launcher.runs_programs { label(launched) } else { file_name(launched.first()?) }
    });
    launched.or(Some(name))
}

/// The name of a program or a script.
fn file_name(path: &OsString) -> Option<String> {
    let name = Path::new(path).file_name()?.to_string_lossy();
    Some(name.chars().filter(|c| !c.is_control()).collect())
}

impl Launcher {
    /// What it runs, and the arguments of that; none where that is not certain.
    fn launched<'a>(&self, arguments: &'a [OsString]) -> Option<&'a [OsString]> {
        let mut rest = arguments;
        let mut words = self.words;
        loop {
            let (first, behind) = rest.split_first()?;
            let word = first.to_str().unwrap_or_default();
            if word == "--" {
                return behind.get(words..);
            } else if let Some(name) = word.strip_prefix("--") {
                if !name.contains('=') && !self.long.contains(&name) {
                    return None;
                }
            } else if let Some(letters) = word.strip_prefix(['-', '+']).filter(|letters| !letters.is_empty())
            {
                match self.parse_flags(letters)? {
                    OptionValue::Here => {}
                    OptionValue::Next => {
                        rest = behind.get(1..)?;
                        continue;
                    }
                    OptionValue::Launched => return Some(behind),
                }
            } else if self.runs_programs && word.contains('=') {
                // A variable for its environment.
            } else if word == "-" {
                return None;
            } else if words == 0 {
                return Some(rest);
            } else {
                words -= 1;
            }
            rest = behind;
        }
    }

    /// Reads the letters behind a `-`.
    fn parse_flags(&self, letters: &str) -> Option<OptionValue> {
        for (at, letter) in letters.char_indices() {
            let is_last = at + letter.len_utf8() == letters.len();
            if self.names_it.contains(letter) && is_last {
                return Some(OptionValue::Launched);
            }
            if self.values.contains(letter) {
                return Some(if is_last { OptionValue::Next } else { OptionValue::Here });
            }
            // nice takes its number so as well.
            let is_number = self.runs_programs && letter.is_ascii_digit();
            if !is_number && !self.flags.contains(letter) {
                return None;
            }
        }
        Some(OptionValue::Here)
    }
}

/// Position of the value of some options.
enum OptionValue {
    /// In the same word, or nowhere.
    Here,
    /// The next word.
    Next,
    /// It is what is run, and the next word.
    Launched,
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn a_script_is_named_and_no_other_argument() {
        for (command, expected) in [
            ("make all", "make"),
            ("/usr/bin/pg_dump secret", "pg_dump"),
            ("bash deploy.sh -v", "deploy.sh"),
            ("/bin/sh -eu /opt/deploy.sh secret", "deploy.sh"),
            ("bash -o pipefail deploy.sh", "deploy.sh"),
            ("bash +x -- deploy.sh", "deploy.sh"),
            ("bash -c secret", "bash"),
            ("bash -euc secret", "bash"),
            ("bash --rcfile secret deploy.sh", "bash"),
            ("bash -s secret", "bash"),
            ("bash", "bash"),
            ("sh -", "sh"),
            ("python3.11 -u -X dev /app/main.py secret", "main.py"),
            ("python3 -Wignore -m http.server secret", "http.server"),
            ("python3 -c secret", "python3"),
            ("perl -e secret", "perl"),
            ("perl -Ilib -w report.pl", "report.pl"),
            ("node --max-old-space-size=4096 server.js", "server.js"),
            ("node --eval secret", "node"),
            ("php -f job.php secret", "job.php"),
            ("env A=secret B=c python3 main.py", "main.py"),
            ("env -S secret", "env"),
            ("sudo -u postgres pg_dump secret", "pg_dump"),
            ("sudo --user secret pg_dump", "sudo"),
            ("nice -n 19 ionice -c3 bash deploy.sh", "deploy.sh"),
            ("nice -19 make", "make"),
            ("timeout -k 5 1h sudo -E sh -e deploy.sh", "deploy.sh"),
            ("timeout 5", "timeout"),
            ("stdbuf -oL grep secret", "grep"),
            ("time -p make", "make"),
        ] {
            let words: Vec<_> = command.split(' ').map(Into::into).collect();
            assert_eq!(label(&words).as_deref(), Some(expected), "{command}");
        }
    }
}
