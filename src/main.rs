//! The daemon's command: arguments in, an exit code out.
//!
//! Knows what is printed and where. Does not know what starts: that is
//! `wshubd::daemon`.

mod args;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use args::Task;
use log::{Level, LevelFilter};
use wshubd::config::{ConfigError, ConfigSource, Environment, Loaded};
use wshubd::daemon;
use wshubd::daemon::check;
use wshubd::daemon::check::Report;
use wshubd::edge::driver::malloc_trim;
use wshubd::features::VERSION;
use wshubd::logging;

/// `sysexits.h`, which systemd and scripts understand.
const USAGE: u8 = 64;
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    malloc_trim::give_back_what_is_free();
    let args = match args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            complain(Level::Error, &format!("wshubd: {error}\nTry 'wshubd --help'."));
            return USAGE.into();
        }
    };
    let done = match args.task {
        Task::Help => print(args::HELP),
        Task::Version => print(&format!("wshubd {}\n", *VERSION)),
        // Not in --help: the daemon starts itself so, for the process that owns its disk.
        #[cfg(feature = "store")]
        Task::Store(directory) => wshubd::edge::store::server::run(&directory),
        Task::Run => run(source(args.config)),
        Task::Check => check(&source(args.config)),
        Task::Show => show(&source(args.config)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(Level::Error, &error.to_string());
            match error.downcast_ref::<daemon::Error>() {
                Some(error) => error.exit_code().into(),
                None if error.is::<ConfigError>() => ConfigError::EXIT.into(),
                None => FAILURE.into(),
            }
        }
    }
}

type Done<T = ()> = Result<T, Box<dyn Error>>;

fn source(file: Option<PathBuf>) -> ConfigSource {
    ConfigSource::new(file, Environment::of_process())
}

fn run(source: ConfigSource) -> Done {
    // Before there is any other thread.
    wshubd::edge::net::signal_mask::hold();
    let loaded = source.load().inspect_err(|_| {
        logging::start(LevelFilter::Info);
        daemon::turn_away();
    })?;
    logging::start(loaded.config.log.level);
    Ok(daemon::run(source, loaded)?)
}

/// The configuration in effect, and what it was read from.
fn show(source: &ConfigSource) -> Done {
    let Loaded { config, files, .. } = source.load()?;
    let mut told: String = files.iter().map(|file| format!("# read: {}\n", file.display())).collect();
    if files.is_empty() {
        told.push_str("# no files, defaults only\n");
    }
    told.push_str(&config.show());
    print(&told)
}

/// Tries all that a start needs, and leaves no trace.
fn check(source: &ConfigSource) -> Done {
    let Report { files, warnings, tried_as, untried } = check::check(source)?;
    for warning in warnings {
        complain(Level::Warn, &format!("warning: {warning}"));
    }
    let mut told: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    if files.is_empty() {
        told.push_str("no files, defaults only\n");
    }
    told.push_str(&format!("tried as {tried_as}\n"));
    untried.iter().for_each(|what| told.push_str(&format!("not tried: {what}\n")));
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
    let priority = if logging::is_for_journal() { logging::prefix(level) } else { String::new() };
    for line in text.lines() {
        drop(writeln!(std::io::stderr(), "{priority}{line}"));
    }
}
