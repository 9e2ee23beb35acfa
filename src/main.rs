//! The daemon's command: arguments in, an exit code out. What starts is in `wshubd::daemon`.

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
use wshubd::daemon::check::CheckReport;
use wshubd::edge::driver::malloc_trim;
use wshubd::features::VERSION;
use wshubd::logging;

/// `sysexits.h`, which systemd and scripts understand.
const USAGE: u8 = 64;
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    malloc_trim::give_back_what_is_free();
    let (task, config) = match args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args.into_parts(),
        Err(error) => {
            report(Level::Error, &format!("wshubd: {error}\nTry 'wshubd --help'."));
            return USAGE.into();
        }
    };
    let result = match task {
        Task::Help => print(args::HELP),
        Task::Version => print(&format!("wshubd {}\n", *VERSION)),
        // Not in --help: the daemon starts itself so, for the process that owns its disk.
        #[cfg(feature = "store")]
        Task::Store(directory) => wshubd::edge::store::server::run(&directory),
        Task::Run => run(source(config)),
        Task::Check => check(&source(config)),
        Task::Show => show(&source(config)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(Level::Error, &error.to_string());
            match error.downcast_ref::<daemon::Error>() {
                Some(error) => error.exit_code().into(),
                None if error.is::<ConfigError>() => ConfigError::EXIT.into(),
                None => FAILURE.into(),
            }
        }
    }
}

type TaskResult = Result<(), Box<dyn Error>>;

fn source(file: Option<PathBuf>) -> ConfigSource {
    ConfigSource::new(file, Environment::of_process())
}

fn run(source: ConfigSource) -> TaskResult {
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
fn show(source: &ConfigSource) -> TaskResult {
    let Loaded { config, files, .. } = source.load()?;
    let mut text: String = files.iter().map(|file| format!("# read: {}\n", file.display())).collect();
    if files.is_empty() {
        text.push_str("# no files, defaults only\n");
    }
    text.push_str(&config.show());
    print(&text)
}

/// Tries all that a start needs, and leaves no trace.
fn check(source: &ConfigSource) -> TaskResult {
    let CheckReport { files, warnings, tried_as, untried } = check::check(source)?;
    for warning in warnings {
        report(Level::Warn, &format!("warning: {warning}"));
    }
    let mut text: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    if files.is_empty() {
        text.push_str("no files, defaults only\n");
    }
    text.push_str(&format!("tried as {tried_as}\n"));
    untried.iter().for_each(|what| text.push_str(&format!("not tried: {what}\n")));
    text.push_str("ok\n");
    print(&text)
}

/// A reader that has closed its end is no failure of ours.
fn print(text: &str) -> TaskResult {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes to standard error; if that fails there is nowhere to report it. Where that is the
/// journal, each line has its priority.
fn report(level: Level, text: &str) {
    let priority = if logging::is_for_journal() { logging::prefix(level) } else { String::new() };
    for line in text.lines() {
        drop(writeln!(std::io::stderr(), "{priority}{line}"));
    }
}
