//! Layers of the source tree: imports lead downward only, and the hub does no I/O.

#![expect(clippy::unwrap_used, reason = "a test that cannot read its sources has failed")]

use std::collections::BTreeSet;
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

/// The code without its comments and texts, which may name everything.
fn code(text: &str) -> String {
    let (mut code, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => end_of_text(rest),
            // No part of a word: `for"` ends no loop, `r"` and `br#"` begin a raw text.
            'r' if !code.ends_with(|c: char| c.is_alphanumeric() && c != 'b') => end_of_raw_text(rest),
            '\'' if rest.starts_with("'\\") => rest[3..].find('\'').map_or(rest.len(), |end| end + 4),
            // With one character between its marks it is a letter, else a lifetime.
            '\'' => rest.char_indices().nth(2).filter(|(_, c)| *c == '\'').map_or(0, |(end, _)| end + 1),
            _ => 0,
        };
        let kept = if length == 0 { first.len_utf8() } else { 0 };
        code.push_str(&rest[..kept]);
        rest = &rest[length.max(kept)..];
    }
    code
}

/// The length of a text in quotes.
fn end_of_text(rest: &str) -> usize {
    let mut is_escaped = false;
    let end = rest.bytes().skip(1).position(|byte| {
        let is_end = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        is_end
    });
    end.map_or(rest.len(), |end| end + 2)
}

/// The length of a text such as `r#"…"#`, or 0 where none begins.
fn end_of_raw_text(rest: &str) -> usize {
    let marks = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    if rest.as_bytes().get(1 + marks) != Some(&b'"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(marks));
    rest[2 + marks..].find(&end).map_or(rest.len(), |at| 2 + marks + at + end.len())
}

/// Splits code into words and marks; `::` is one mark.
fn tokens(code: &str) -> Vec<&str> {
    let (mut tokens, mut rest) = (Vec::new(), code.trim_start());
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            _ if is_word(first) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            _ if rest.starts_with("::") => 2,
            _ => first.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        tokens.push(token);
        rest = after.trim_start();
    }
    tokens
}

/// The module that a file is, as a path from the crate.
fn module_of(file: &Path) -> Vec<String> {
    let inside = file.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let mut module: Vec<String> =
        inside.with_extension("").iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    module.pop_if(|last| last == "mod");
    module
}

/// All paths from the crate that code names, in whatever way: from `crate`, `self` and `super`,
/// in groups, and in inline modules.
fn paths(module: &[String], code: &str) -> BTreeSet<Vec<String>> {
    let tokens = tokens(code);
    let (mut found, mut inline, mut depth) = (BTreeSet::new(), Vec::new(), 0);
    for (at, token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |before| tokens[before]);
        // `pub(in crate::edge)` is about visibility, and names nothing that is used.
        let is_visibility = before == "in" && at > 2 && tokens[at - 3..at - 1] == ["pub", "("];
        let is_path = tokens.get(at + 1) == Some(&"::");
        match *token {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.pop_if(|(_, begin)| *begin > depth);
            }
            // `mod tests {` is one module more, until its bracket closes.
            name if before == "mod" && tokens.get(at + 1) == Some(&"{") => {
                inline.push((name.to_owned(), depth + 1));
            }
            "crate" | "super" | "self" if is_path && before != "::" && !is_visibility => {
                let names = inline.iter().map(|(name, _)| name.clone());
                let here: Vec<String> = module.iter().cloned().chain(names).collect();
                let mut tree = UseTree { tokens: &tokens, at, here, found: &mut found };
                tree.expand(None);
            }
            // A folder under another name would hide what is used of it.
            "crate" | "super" if before == "use" => {
                found.insert(vec!["*".to_owned()]);
            }
            _ => {}
        }
    }
    found
}

/// A tree such as `super::{a, b::{self, c}}`, from a token on.
struct UseTree<'a> {
    tokens: &'a [&'a str],
    at: usize,
    /// The module that it stands in.
    here: Vec<String>,
    found: &'a mut BTreeSet<Vec<String>>,
}

impl UseTree<'_> {
    /// Adds the paths of the tree, or of a branch of it behind its stem.
    fn expand(&mut self, stem: Option<&[String]>) {
        let mut path = stem.unwrap_or(&self.here).to_vec();
        loop {
            match self.tokens.get(self.at).copied() {
                None => return,
                Some("crate") => path.clear(),
                Some("self") => {}
                Some("super") => drop(path.pop()),
                Some("{") => {
                    self.at += 1;
                    while !matches!(self.tokens.get(self.at), Some(&"}") | None) {
                        self.expand(Some(&path));
                    }
                    self.at += 1;
                    return;
                }
                // Between two branches.
                Some(",") => {
                    self.at += 1;
                    return;
                }
                Some(name) => path.push(name.to_owned()),
            }
            self.at += 1;
            if self.tokens.get(self.at) != Some(&"::") {
                break;
            }
            self.at += 1;
        }
        if self.tokens.get(self.at) == Some(&"as") {
            self.at += 2;
        }
        self.found.insert(path);
    }
}

/// The folders and files of edge, bottom up; one may name those of a lower rank and itself.
const EDGE: [(&str, u8); 12] = [
    ("clock", 0),
    ("atomic_file", 0),
    ("net", 1),
    ("auth", 1),
    ("store", 2),
    ("driver", 3),
    ("http", 4),
    ("systemd", 4),
    ("relay", 4),
    ("handover", 5),
    ("config", 6),
    ("event_loop", 7),
];

fn rank(folder: &str) -> Option<u8> {
    EDGE.iter().find(|(name, _)| *name == folder).map(|(_, rank)| *rank)
}

/// The paths in a file of edge that it must not name: a folder of edge that is not below its
/// own, or edge as a whole, through which each folder could be reached.
fn upward(module: &[String], code: &str) -> Vec<String> {
    let own = module.get(1).map_or("", |folder| folder);
    let is_refused = |path: &Vec<String>| match path.first().map_or("", |first| first) {
        // All of the crate, or of the folder above.
        "" | "*" | "daemon" | "client" => true,
        "edge" => {
            let folder = path.get(1).map_or("", |folder| folder);
            let is_below = rank(folder).zip(rank(own)).is_some_and(|(to, from)| to < from);
            folder != own && !is_below
        }
        _ => false,
    };
    paths(module, code).into_iter().filter(is_refused).map(|path| path.join("::")).collect()
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

/// Asserts that no file of a folder names one of these modules of the crate.
fn refuse_modules(folder: &str, modules: &[&str]) {
    for (file, text) in sources(folder) {
        for path in paths(&module_of(&file), &code(&text)) {
            let first = path.first().map_or("", |first| first);
            let is_refused = modules.contains(&first) || first == "*";
            assert!(!is_refused, "{} names `{}`", file.display(), path.join("::"));
        }
    }
}

#[test]
fn no_layer_names_one_above_it() {
    refuse_modules("src/protocol", &["hub", "edge", "daemon", "config", "client"]);
    refuse_modules("src/hub", &["edge", "daemon", "config", "client"]);
    refuse_modules("src/config", &["edge", "daemon", "client"]);
}

#[test]
fn no_folder_of_edge_names_one_above_or_beside_it() {
    let mut complaints = Vec::new();
    for (file, text) in sources("src/edge") {
        let module = module_of(&file);
        // `edge/mod.rs` stands above its folders; names that it would pass on have no rank.
        if module.len() == 1 {
            continue;
        }
        assert!(rank(&module[1]).is_some(), "`{}` has a place in the order", module[1]);
        let named = upward(&module, &code(&text));
        complaints.extend(named.iter().map(|named| format!("{} names `{named}`", file.display())));
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_way_to_name_a_folder_above_is_found() {
    let module: Vec<String> = ["edge", "net", "listeners"].map(str::to_owned).into();
    for upward_code in [
        "use crate::edge::http::conn;",
        "use crate::edge::{clock, http::{conn, denial}};",
        "use crate::{edge::{http}, hub};",
        "use super::super::http::conn;",
        "use super::super::{auth::jwt, clock};",
        "mod tests { use super::super::super::http; }",
        "fn f() { super::super::http::conn::serve() }",
        "fn f() { crate::edge\n    ::http::conn::serve() }",
        "use self::super::super::http;",
        "use crate::edge;",
        "use crate::edge as hands;",
        "use crate::edge::*;",
        "use super::super::*;",
        "use crate::edge::{self, clock};",
        "use crate as all;",
        "use super as folder;",
        "use crate::daemon::reload;",
    ] {
        assert!(!upward(&module, upward_code).is_empty(), "{upward_code}");
    }
    for code in [
        "use super::epoll::Epoll;",
        "use super::*;",
        "pub(in crate::edge) struct A;",
        "pub(super) fn f(&self) { self.a() }",
        "use crate::edge::clock;",
        "use crate::edge::net::{epoll, socket};",
        "mod tests { use super::*; use super::super::epoll; }",
        "use crate::hub::{Input, Peer};",
    ] {
        assert_eq!(upward(&module, code), Vec::<String>::new(), "{code}");
    }
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
    // `log` is a crate and, in the hub, the log of a channel.
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
fn every_file_has_a_header() {
    for (path, text) in sources("src") {
        assert!(text.starts_with("//!"), "{} has no header", path.display());
    }
}
