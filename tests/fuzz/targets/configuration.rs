//! Configuration: `Config::load` on any text as a file, and behind a NUL any variables.

#![no_main]

use std::cell::OnceCell;
use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use wshubd::config::{Config, ConfigError, Environment, Location};

thread_local! {
    static FILE: OnceCell<PathBuf> = const { OnceCell::new() };
}

/// A file of this process with a text.
fn write(text: &[u8]) -> PathBuf {
    let name = || std::env::temp_dir().join(format!("wshubd-fuzz-{}.toml", std::process::id()));
    let file = FILE.with(|file| file.get_or_init(name).clone());
    fs::write(&file, text).expect("the directory for temporary files takes one");
    file
}

fn environment(variables: &str) -> Environment {
    let usual = [("STATE_DIRECTORY", "/var/lib/wshubd"), ("RUNTIME_DIRECTORY", "/run/wshubd")];
    let more = variables.lines().filter_map(|line| line.split_once('='));
    Environment::new(1000, usual.into_iter().chain(more))
}

fn check(error: &ConfigError, text: &str) {
    assert!(!error.problems.is_empty(), "a refusal says why");
    for problem in &error.problems {
        assert!(!problem.message.is_empty());
        match &problem.location {
            // The end of a text that is cut short may be a line behind its last.
            Location::Line { line, .. } => {
                assert!((1..=text.lines().count() + 1).contains(line), "{problem}")
            }
            Location::File(_) => {}
            Location::Variable(name) => assert!(name.starts_with("WSHUBD_"), "{problem}"),
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let (file, variables) = match input.iter().position(|byte| *byte == 0) {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, &input[..0]),
    };
    let environment = environment(&String::from_utf8_lossy(variables).replace('\0', ""));
    match Config::load(Some(&write(file)), &environment) {
        Ok(loaded) => {
            let shown = loaded.config.show();
            let again = Config::load(Some(&write(shown.as_bytes())), &self::environment(""));
            assert_eq!(again.map(|again| again.config), Ok(loaded.config.clone()), "{shown}");
            let settings = loaded.config.hub_settings();
            assert!(settings.limits.kept_bytes <= loaded.config.limits.hub.kept_bytes);
        }
        Err(error) => check(&error, &String::from_utf8_lossy(file)),
    }
});
