//! The differences between two configurations, and those that a reload refuses.

use wshubd::config::{Config, Loaded, OptionChange};

use crate::{Scratch, environment, read};

fn changes(was: &str, is: &str) -> Vec<(String, String, String)> {
    let fields = |OptionChange { setting, from, to }| (setting, from, to);
    read(was).unwrap().changes(&read(is).unwrap()).into_iter().map(fields).collect()
}

fn change(setting: &str, from: &str, to: &str) -> (String, String, String) {
    (setting.to_owned(), from.to_owned(), to.to_owned())
}

#[test]
fn a_change_names_its_setting_and_both_values_as_a_file_spells_them() {
    assert_eq!(changes("", ""), []);
    assert_eq!(changes("[limits]\nburst = 20", ""), [], "a default that was spelled out is the same");
    let is = "[limits]\nburst = 5\nmemory = '64MiB'\n[auth]\nsubscribe = ['a', 'b']\n[log]\nlevel = 'warn'";
    let expected = [
        change("auth.subscribe", "[\"*\"]", "[\"a\", \"b\"]"),
        change("limits.burst", "20", "5"),
        change("limits.user_burst", "100", "25"),
        change("limits.memory", "\"128MiB\"", "\"64MiB\""),
        change("log.level", "\"info\"", "\"warn\""),
    ];
    assert_eq!(changes("", is), expected);
}

#[test]
fn policies_are_named_by_what_they_match() {
    let one = "[[channel]]\nmatch = 'a'\ncount = 5\n";
    let two = "[[channel]]\nmatch = 'b'\ncount = 6\n";
    let count = change("channel \"a\".count", "5", "7");
    assert_eq!(changes(&format!("{one}{two}"), &format!("{one}{two}").replace('5', "7")), [count]);
    let list = change("channel", "[\"a\"]", "[\"a\", \"b\"]");
    assert_eq!(changes(one, &format!("{one}{two}")), [list], "one that is new shows in the list alone");
    let order = change("channel", "[\"a\", \"b\"]", "[\"b\", \"a\"]");
    assert_eq!(changes(&format!("{one}{two}"), &format!("{two}{one}")), [order], "the first match wins");
}

fn loaded(scratch: &Scratch, text: &str, variables: &[(&str, &str)]) -> Loaded {
    scratch.write("wshubd.toml", text);
    Config::load(Some(&scratch.0.join("wshubd.toml")), &environment(variables)).unwrap()
}

#[cfg(feature = "store")]
#[test]
fn a_setting_that_takes_a_restart_is_named_with_its_line() {
    let scratch = Scratch::new();
    let before = loaded(&scratch, "[state]\nstore = 'memory'\n", &[]);
    let mut next = loaded(&scratch, "# nothing\n[listen]\nhttp = ['[::1]:80']\n", &[]);
    let problems = next.succeed(&before, &[]).unwrap_err();
    let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(messages.len(), 2, "{messages:?}");
    assert!(
        messages[0].contains("wshubd.toml:3: `listen.http` cannot change while wshubd runs"),
        "{messages:?}"
    );
    assert!(
        messages[1].contains("wshubd.toml: `state.store` is not set any more, and cannot change"),
        "{messages:?}"
    );
    assert!(messages[1].ends_with("from \"memory\" to \"sled\": restart it"), "{messages:?}");
}

#[test]
fn a_setting_that_systemd_overrules_blocks_no_reload() {
    let scratch = Scratch::new();
    let before = loaded(&scratch, "", &[]);
    let text = "[listen]\nhttp = ['[::1]:80']\nworker = '/elsewhere/worker.sock'\n[limits]\nburst = 5\n";
    let mut next = loaded(&scratch, text, &[]);
    let problems = next.clone().succeed(&before, &["listen.http"]).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let changes = next.succeed(&before, &["listen.http", "listen.worker"]).unwrap();
    let changed: Vec<_> = changes.iter().map(|change| change.setting.as_str()).collect();
    assert_eq!(changed, ["limits.burst", "limits.user_burst"]);
}

#[test]
fn an_unwritten_path_stays_where_the_start_found_it() {
    let scratch = Scratch::new();
    let before = loaded(&scratch, "", &[("STATE_DIRECTORY", "/a"), ("RUNTIME_DIRECTORY", "/b")]);
    let mut next = loaded(&scratch, "", &[("STATE_DIRECTORY", "/c"), ("RUNTIME_DIRECTORY", "/d")]);
    assert_eq!(next.succeed(&before, &[]), Ok(Vec::new()));
    assert_eq!(next.config, before.config);
}

#[test]
fn a_pipe_is_read_at_a_start_and_never_again() {
    let scratch = Scratch::new();
    let pipe = scratch.0.join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let error = Config::load_again(Some(&pipe), &environment(&[])).unwrap_err();
    assert!(error.to_string().ends_with("is not a file, and can be read only once"), "{error}");
}
