//! The daemon's arguments and their help.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg::{Long, Short, Value};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
wshubd carries messages between WebSocket clients, scripts and local workers,
and stops a long-running job the moment somebody presses Stop.

Usage: wshubd [--config FILE] [--check | --show]

It needs no configuration: without one it listens on http://127.0.0.1:8098,
asks for tokens, and keeps its state and a generated key where only you can
read them. `wshubctl token new --user NAME` then mints a token to try it with,
and `wshubctl --help` shows what can be said from a shell.

Options:
  --config FILE   Read FILE instead of the usual files, which are
                  /etc/wshubd/wshubd.toml and over it, in order of name,
                  /etc/wshubd/conf.d/*.toml; for a user who has them, those in
                  ~/.config/wshubd
  --check         Try what a start needs, for root as the user that the daemon
                  runs as, and say what is wrong and what could not be tried,
                  then exit; nothing is started or created
  --show          Print the configuration in effect as TOML, and from which files
                  it is, then exit
  -V, --version   Print the version, and with + or - which features were built
                  in: public-keys (RS256, ES256 and EdDSA), store (messages on a
                  disk); then exit
  -h, --help      Print this, then exit

Environment:
  WSHUBD_SECTION__KEY wins over files: WSHUBD_LISTEN__HTTP=127.0.0.1:9000,
  WSHUBD_AUTH__ANONYMOUS=true, WSHUBD_LIMITS__MESSAGE_BYTES=1MiB. Lists are
  written as in TOML: WSHUBD_AUTH__SUBSCRIBE='[\"logs:*\", \"chat\"]'. A name that is
  nearly an option is a mistake; others are ignored, with a warning.
  systemd's STATE_, RUNTIME_, CONFIGURATION_ and CREDENTIALS_DIRECTORY are
  used where they are set, else XDG_STATE_HOME, XDG_RUNTIME_DIR and
  XDG_CONFIG_HOME.
  RUST_LOG wins over [log] level.

Signals: SIGHUP has it take over what has changed in its files, keys and secrets,
and says in the log what that was, or why nothing was; `wshubctl reload` does the
same and waits for it. SIGUSR2 has it go on in the program that is in its file
now, without ending a connection; under systemd `systemctl restart` does that.
SIGTERM and SIGINT stop it.

Exit status: 0 after a clean stop, 64 for wrong arguments, 69 where another
wshubd runs or an address is taken, 71 where the system refuses what a daemon
needs, 73 where a directory of its own, or a key in it, cannot be made or used,
78 for a wrong configuration, 1 for anything else.
";

/// What the daemon is started for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Task {
    Run,
    /// Own the disk of a daemon, which is the other end of standard input.
    #[cfg(feature = "store")]
    Store(PathBuf),
    Check,
    Show,
    Version,
    Help,
}

/// All arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Args {
    task: Task,
    config: Option<PathBuf>,
}

impl Args {
    /// The task, and the file that `--config` names.
    pub(crate) fn into_parts(self) -> (Task, Option<PathBuf>) {
        (self.task, self.config)
    }
}

/// Reads arguments, without the command's own name.
pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Args, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(args.into_iter().collect::<Vec<_>>());
    let mut read = Args { task: Task::Run, config: None };
    while let Some(arg) = parser.next()? {
        let task = match arg {
            Long("config") if read.config.is_some() => {
                return Err("--config can be given only once; drop-ins go into conf.d".into());
            }
            Long("config") => {
                read.config = Some(parser.value()?.into());
                continue;
            }
            #[cfg(feature = "store")]
            Long("store") => Task::Store(parser.value()?.into()),
            Long("check") => Task::Check,
            Long("show") => Task::Show,
            // Whatever else is given: help is what is needed.
            Short('V') | Long("version") => return Ok(Args { task: Task::Version, ..read }),
            Short('h') | Long("help") => return Ok(Args { task: Task::Help, ..read }),
            Value(_) | Short(_) | Long(_) => return Err(arg.unexpected()),
        };
        if read.task != Task::Run && read.task != task {
            return Err("only one thing can be asked for at a time".into());
        }
        read.task = task;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::{Args, Task, parse};

    fn read(args: &[&str]) -> Result<Args, String> {
        parse(args.iter().map(Into::into)).map_err(|error| error.to_string())
    }

    #[test]
    fn no_arguments_start_the_daemon() {
        assert_eq!(read(&[]), Ok(Args { task: Task::Run, config: None }));
    }

    #[test]
    fn a_file_goes_with_any_task() {
        for (option, task) in [("--check", Task::Check), ("--show", Task::Show)] {
            let expected = Ok(Args { task, config: Some("a.toml".into()) });
            assert_eq!(read(&[option, "--config", "a.toml"]), expected);
            assert_eq!(read(&["--config=a.toml", option]), expected);
        }
    }

    #[cfg(feature = "store")]
    #[test]
    fn the_process_that_owns_the_disk_is_told_where_and_people_are_not_told_of_it() {
        let store = Args { task: Task::Store("/s".into()), config: None };
        assert_eq!(read(&["--store", "/s"]), Ok(store));
        assert!(read(&["--store"]).is_err());
        assert!(read(&["--store", "/s", "--check"]).is_err());
        assert!(!super::HELP.contains("--store"));
    }

    #[test]
    fn help_is_given_whatever_else_is_said() {
        assert_eq!(read(&["--check", "-h"]).map(|args| args.task), Ok(Task::Help));
        assert_eq!(read(&["--version", "--nonsense"]).map(|args| args.task), Ok(Task::Version));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let wrong: [&[&str]; 6] = [
            &["--nonsense"],
            &["start"],
            &["--config"],
            &["--config", "a", "--config", "b"],
            &["--check", "--show"],
            &["--check=yes"],
        ];
        for args in wrong {
            assert!(read(args).is_err(), "{args:?}");
        }
    }
}
