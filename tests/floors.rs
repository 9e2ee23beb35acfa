//! The floors of the house: nothing looks up, and what decides touches nothing.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its sources has failed")]

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file below a folder, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    found
}

/// The code without its comments: those may speak of everything.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Whether a word stands in the code, not as part of another.
fn names(code: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back().is_some_and(part);
        let after = code[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

fn refuse(folder: &str, words: &[&str]) {
    for (path, text) in sources(folder) {
        let code = code(&text);
        for word in words {
            assert!(!names(&code, word), "{} names `{word}`", path.display());
        }
    }
}

#[test]
fn nothing_looks_up() {
    let above = ["crate::edge", "crate::daemon", "crate::config", "crate::client"];
    refuse("src/hub", &above);
    refuse("src/protocol", &above);
    refuse("src/protocol", &["crate::hub"]);
}

#[test]
fn words_and_decisions_touch_no_clock_no_disk_no_network_and_no_thread() {
    let hands = [
        "Instant",
        "SystemTime",
        "async",
        "await",
        "std::fs",
        "std::net",
        "std::thread",
        "std::io",
        "std::env",
        "std::process",
        "Mutex",
        "RwLock",
        "RefCell",
        "static mut",
        "smol",
        "rustix",
        "log",
        "println",
        "eprintln",
        "thread_local",
    ];
    // `log` is a crate and, in the hub, what is kept of a channel.
    let of_the_hub: Vec<&str> = hands.iter().copied().filter(|word| *word != "log").collect();
    refuse("src/protocol", &hands);
    refuse("src/hub", &of_the_hub);
    refuse("src/hub", &["log::debug", "log::info", "log::warn", "log::error", "log::trace"]);
}

#[test]
fn the_hub_writes_no_json_but_its_own_state() {
    for (path, text) in sources("src/hub") {
        let state = path.ends_with("snapshot.rs");
        assert!(state || !names(&code(&text), "serde_json"), "{} names `serde_json`", path.display());
    }
}

#[test]
fn every_file_says_first_what_it_knows() {
    for (path, text) in sources("src") {
        assert!(text.starts_with("//!"), "{} opens without a word", path.display());
    }
}
