//! The manual pages and the package agree with the code: every option of the
//! configuration with its default, every command and option of wshubctl, and the form
//! of what is kept.

#![expect(clippy::unwrap_used, reason = "a page that cannot be read is a failure")]

use std::collections::BTreeSet;
use std::process::Command;

const EXAMPLE: &str = include_str!("../packaging/wshubd.toml");
const CONFIGURATION: &str = include_str!("../packaging/man/wshubd.toml.5");
const CONTROL: &str = include_str!("../packaging/man/wshubctl.1");
const DAEMON: &str = include_str!("../packaging/man/wshubd.8");
const PREINST: &str = include_str!("../packaging/debian/preinst");
const FILES: &str = include_str!("../src/edge/store/server/generation_files.rs");

/// The section of which the example has an entry for a comment.
const CHANNEL: &str = "[[channel]]";

/// `[section] name = default`, of all options in the example: they are commented out,
/// without a space behind the `#` or, in [[channel]], with three.
fn options_of_the_example() -> BTreeSet<String> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in EXAMPLE.lines() {
        // What else stands so far to the right is an example of a value.
        let indented = line.strip_prefix("#   ").filter(|text| *text == CHANNEL || section == CHANNEL);
        let Some(text) = indented.or_else(|| line.strip_prefix('#')) else { continue };
        if text.starts_with('[') && text.ends_with(']') {
            section = text.to_owned();
        } else if is_option(text) {
            found.insert(format!("{section} {text}"));
        }
    }
    found
}

fn is_option(text: &str) -> bool {
    text.split_once(" = ").is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
}

/// The same of the page, where they are the terms of lists, `\(dq` for a quote.
fn options_of_the_page() -> BTreeSet<String> {
    let mut section = String::new();
    let mut found = BTreeSet::new();
    for line in CONFIGURATION.lines() {
        if let Some(name) = line.strip_prefix(".Ss ") {
            section = name.to_owned();
        } else if let Some(text) = line.strip_prefix(".It Li ") {
            found.insert(format!("{section} {}", text.replace("\\(dq", "\"")));
        }
    }
    found
}

#[test]
fn every_option_of_the_configuration_is_in_the_manual_with_its_default() {
    let (example, page) = (options_of_the_example(), options_of_the_page());
    assert!(example.len() > 40, "{example:?}");
    assert_eq!(example, page);
}

fn help(arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_wshubctl")).args(arguments).arg("--help").output().unwrap();
    assert!(done.status.success(), "{arguments:?}");
    String::from_utf8(done.stdout).unwrap()
}

/// The names in the section `Commands:` of a help.
fn commands(help: &str) -> Vec<String> {
    let (_, rest) = help.split_once("\nCommands:\n").unwrap_or_default();
    let lines = rest.lines().take_while(|line| line.starts_with("  "));
    let lines = lines.filter(|line| !line.starts_with("   "));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The options in a help, as `-q, --quiet`, `--json` and the like; what is further to
/// the right explains them.
fn options(help: &str) -> Vec<String> {
    let (_, rest) = help.split_once("\nOptions:\n").unwrap_or_default();
    let lines = rest.lines().take_while(|line| line.is_empty() || line.starts_with(' '));
    let lines = lines.filter(|line| line.trim_start().starts_with('-') && !line.starts_with("       "));
    let words = lines.map(|line| line.split_whitespace().take_while(|word| word.starts_with('-')));
    // A value that may be left out stands in brackets behind the name.
    let names = words.map(|words| words.filter_map(|word| word.split('[').next()).collect::<Vec<_>>());
    names.map(|names| names.join(" ")).collect()
}

/// A section of the page that begins with a command, up to the next command.
fn part(command: &str) -> &'static str {
    let starts = |at: &usize| {
        let rest = &CONTROL[at + ".It Cm ".len()..];
        rest.strip_prefix(command).is_some_and(|rest| rest.starts_with([' ', '\n']))
    };
    let (begin, _) = CONTROL.match_indices(".It Cm ").find(|(at, _)| starts(at)).unwrap_or_else(|| {
        panic!("wshubctl.1 does not have the command {command}");
    });
    // A command may have several lines of its own, one for each way to call it.
    let of_another = |(at, _): &(usize, &str)| *at > begin && !starts(at);
    let end = CONTROL.match_indices(".It Cm ").find(of_another).map_or(CONTROL.len(), |(at, _)| at);
    &CONTROL[begin..end]
}

/// As mdoc spells it: `-q, --quiet` is `Fl q , -quiet`.
fn is_named(option: &str, part: &str) -> bool {
    let spelled = option.split(", ").map(|name| name[1..].to_owned()).collect::<Vec<_>>().join(" , ");
    let spelled = format!("Fl {spelled}");
    part.match_indices(&spelled)
        .any(|(at, _)| part[at + spelled.len()..].starts_with(|next: char| next.is_whitespace()))
}

/// Checks a command, and those below it.
fn check(path: &[&str]) -> usize {
    let help = help(path);
    let below: Vec<String> = commands(&help).into_iter().filter(|name| name != "help").collect();
    if !below.is_empty() {
        return below.iter().map(|name| check(&[path, &[name.as_str()]].concat())).sum();
    }
    let part = part(&path.join(" "));
    for option in options(&help) {
        let is_everywhere = ["--socket", "--wait", "-h, --help"].contains(&option.as_str());
        assert!(is_everywhere || is_named(&option, part), "wshubctl.1 has no {option} of {path:?}");
    }
    1
}

#[test]
fn every_command_and_option_of_wshubctl_is_in_its_manual() {
    assert!(check(&[]) >= 14);
    // Not in the help, and in the manual all the same: a unit has it.
    check(&["stopping"]);
    for option in options(&help(&[])) {
        assert!(is_named(&option, CONTROL), "{option}");
    }
}

#[test]
fn every_option_of_the_daemon_is_in_its_manual() {
    let done = Command::new(env!("CARGO_BIN_EXE_wshubd")).arg("--help").output().unwrap();
    let options = options(&String::from_utf8(done.stdout).unwrap());
    assert!(options.len() >= 5, "{options:?}");
    for option in options {
        assert!(is_named(&option, DAEMON), "{option}");
    }
}

#[test]
fn the_package_knows_which_form_of_the_store_it_reads() {
    let line = |text: &str, start: &str| -> u32 {
        let found = text.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        found.trim_end_matches(';').parse().unwrap()
    };
    let read = line(FILES, "const NEWEST_FORMAT: u32 = ");
    assert_eq!(line(PREINST, "STORE_FORMAT="), read);
}
