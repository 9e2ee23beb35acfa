//! The daemon's command: arguments in, an exit code out.
//!
//! Knows what is printed and where. Does not know what starts: that is
//! `wshubd::daemon`.

mod args;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use args::Task;
use log::Level;
use wshubd::config::{Config, ConfigError, Environment, Loaded};
use wshubd::daemon;
use wshubd::edge::secret::{Absent, Secrets};
use wshubd::edge::store::keeper;
use wshubd::edge::token::Verifier;
use wshubd::logging;

/// `sysexits.h`, which systemd and scripts understand.
const USAGE: u8 = 64;
const CONFIGURATION: u8 = 78;
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            complain(Level::Error, &format!("wshubd: {error}\nTry 'wshubd --help'."));
            return USAGE.into();
        }
    };
    let done = match args.task {
        Task::Help => print(args::HELP),
        Task::Version => print(concat!("wshubd ", env!("CARGO_PKG_VERSION"), "\n")),
        // Not in --help: the daemon starts itself so, for the process that owns its disk.
        Task::Store(directory) => keeper::run(&directory),
        Task::Run => run(args.config.as_deref()),
        Task::Check => check(args.config.as_deref()),
        Task::Show => load(args.config.as_deref()).and_then(|loaded| print(&loaded.config.show())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(Level::Error, &error.to_string());
            match error.downcast_ref::<daemon::Error>() {
                Some(error) => error.exit_code().into(),
                None if error.is::<ConfigError>() => CONFIGURATION.into(),
                None => FAILURE.into(),
            }
        }
    }
}

type Done<T = ()> = Result<T, Box<dyn Error>>;

fn load(file: Option<&Path>) -> Done<Loaded> {
    Ok(Config::load(file, &Environment::of_process())?)
}

fn run(file: Option<&Path>) -> Done {
    // Before there is any other thread.
    wshubd::edge::signals::hold();
    let config = load(file)?.config;
    logging::start(std::io::stderr().is_terminal(), is_for_journal());
    Ok(daemon::run(&config)?)
}

/// Reads all that a start would read, and leaves no trace.
fn check(file: Option<&Path>) -> Done {
    let Loaded { config, files } = load(file)?;
    let state = &config.state.directory;
    let keys = Verifier::open(&config.auth, state, Absent::Leave).err();
    let secrets = Secrets::open(&config.auth, state, Absent::Leave).err();
    ConfigError::unless_empty([keys, secrets].into_iter().flatten().flat_map(|e| e.problems).collect())?;
    for warning in config.warnings() {
        complain(Level::Warn, &format!("warning: {warning}"));
    }
    let mut told: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    if files.is_empty() {
        told.push_str("no files, defaults only\n");
    }
    told.push_str("ok\n");
    print(&told)
}

/// A reader that has gone is no failure of ours.
fn print(text: &str) -> Done {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Says something to whoever started us; nobody is left to tell if that fails. Where
/// that is the journal, each line has its priority.
fn complain(level: Level, text: &str) {
    for line in text.lines() {
        let priority = if is_for_journal() { logging::priority(level) } else { "" };
        drop(writeln!(std::io::stderr(), "{priority}{line}"));
    }
}

/// systemd names the stream that leads to its journal.
fn is_for_journal() -> bool {
    !std::io::stderr().is_terminal() && std::env::var_os("JOURNAL_STREAM").is_some()
}
