//! Hints for mistakes in the syntax of a file: how the line should read.
//!
//! They are about habits of other formats: text without quotes, a table twice.

use std::ops::Range;

use toml::de::DeValue;

use crate::redaction::{is_name_of_secret, is_random};

/// The error at `span` of a text that is no TOML, where `message` is the parser's own.
pub(super) fn explained(text: &str, span: &Range<usize>, message: &str) -> String {
    let begin = text.get(..span.start).and_then(|before| before.rfind('\n')).map_or(0, |end| end + 1);
    let line = text.get(begin..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let shown = unseen(text.get(..begin).unwrap_or_default(), without_comment(line).trim());
    let line = shown.as_deref().unwrap_or_else(|| without_comment(line).trim());
    if message == "duplicate key" {
        return twice(
            text.get(..begin).unwrap_or_default(),
            line,
            text.get(span.clone()).unwrap_or_default(),
        );
    }
    let hint = match line.split_once('=') {
        _ if line.starts_with('[') && !line.contains('=') => None,
        Some((key, value)) => of_setting(key.trim(), value.trim()),
        None if message.starts_with("key with no value") => of_colon(line),
        None => quoted(line.trim_end_matches(',').trim()).map(|text| format!("text needs quotes: {text}")),
    };
    let hint = hint.unwrap_or_else(|| message.to_owned());
    match shown {
        Some(_) => format!(
            "{hint}; what may be a secret is not shown: it belongs into a file, whose name stands here"
        ),
        None => hint,
    }
}

/// A line with dots for each value on it that may be a secret, if one may be: what stands
/// where the name of its file belongs, and is none. `above` are the lines in front of it.
fn unseen(above: &str, line: &str) -> Option<String> {
    let opened = above.lines().rev().map(without_comment).find(|line| line.contains(['=', ']']));
    let is_within = opened.and_then(|line| line.split_once('=')).is_some_and(|(key, value)| {
        is_name_of_secret(key) && value.trim_start().starts_with('[') && !value.contains(']')
    });
    let (key, value) = match line.split_once(['=', ':']) {
        Some((key, value)) if !is_within && !is_random(key) => (line.get(..=key.len())?, value),
        _ => ("", line),
    };
    let is_word = ["yes", "no", "on", "off", "true", "false", ""];
    let is_word = is_word.iter().any(|word| value.trim().eq_ignore_ascii_case(word));
    if is_word || !(is_within || is_name_of_secret(key) || is_random(value)) {
        return None;
    }
    let is_between = |c: char| c.is_whitespace() || "[],{}\"'“”„‘’".contains(c);
    let is_path = |piece: &str| piece.contains(['/', '\\']) && !is_random(piece);
    let mut shown = key.to_owned();
    for piece in value.split_inclusive(is_between) {
        let text = piece.trim_end_matches(is_between);
        shown.push_str(if text.is_empty() || is_path(text) { text } else { "…" });
        shown.push_str(piece.get(text.len()..).unwrap_or_default());
    }
    (shown != line).then_some(shown)
}

/// What stands on a line in front of `#`, unless that is in quotes.
fn without_comment(line: &str) -> &str {
    let mut open = None;
    for (at, c) in line.char_indices() {
        match (c, open) {
            ('"' | '\'', None) => open = Some(c),
            (c, Some(quote)) if c == quote => open = None,
            ('#', None) => return &line[..at],
            _ => {}
        }
    }
    line
}

/// How `key = value` should read, if that is known.
fn of_setting(key: &str, value: &str) -> Option<String> {
    if value.is_empty() {
        return Some(format!("`{key}` has no value"));
    }
    if is_value(value) {
        return None;
    }
    match value.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => return Some(format!("yes is spelled true: {key} = true")),
        "no" | "off" | "false" => return Some(format!("no is spelled false: {key} = false")),
        _ => {}
    }
    let straight = value.trim_matches(['“', '”', '„', '‘', '’']);
    if straight != value {
        return Some(format!("text needs straight quotes: {key} = {}", quoted(straight)?));
    }
    let list = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if list.is_some() || value.contains(',') {
        let items = list.unwrap_or(value).split(',').map(str::trim).filter(|item| !item.is_empty());
        let items: Vec<String> = items.map(|item| quoted(item).unwrap_or_else(|| item.to_owned())).collect();
        let list = format!("[{}]", items.join(", "));
        return is_value(&list).then(|| format!("text needs quotes, and a list brackets: {key} = {list}"));
    }
    Some(format!("text needs quotes: {key} = {}", quoted(value)?))
}

/// A hint for a line in the style of YAML.
fn of_colon(line: &str) -> Option<String> {
    let (key, value) = line.split_once(':')?;
    let value = value.trim();
    let value = if is_value(value) { value.to_owned() } else { quoted(value)? };
    Some(format!("a key and its value are joined by `=`: {} = {value}", key.trim()))
}

/// Text in quotes, where it is text and has none.
fn quoted(text: &str) -> Option<String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"_-+.".contains(&byte));
    if text.is_empty() || is_number || is_value(text) || text.contains(['"', '\'', '{', '=']) {
        return None;
    }
    let quote = if text.contains('\\') { '\'' } else { '"' };
    Some(format!("{quote}{text}{quote}"))
}

fn is_value(text: &str) -> bool {
    DeValue::parse(text).is_ok()
}

/// Where the first of two is that have the same name; `before` are the lines above.
fn twice(before: &str, line: &str, key: &str) -> String {
    let above = before.lines().enumerate().map(|(number, line)| (number + 1, without_comment(line).trim()));
    if line.starts_with('[') {
        return match above.into_iter().find(|(_, other)| *other == line) {
            Some(_) if line == "[channel]" => {
                "duplicate table `[channel]`: each entry begins with `[[channel]]`, in double brackets".into()
            }
            Some((number, _)) => {
                format!("duplicate table `{line}`, which begins on line {number}: put their keys together")
            }
            None => format!("duplicate key `{key}`, which is something else above"),
        };
    }
    let above: Vec<(usize, &str)> = above.collect();
    let here = above.iter().rev().take_while(|(_, other)| !other.starts_with('['));
    let sets_it = |other: &str| other.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    match here.filter(|(_, other)| sets_it(other)).last() {
        Some((number, _)) => format!("duplicate key `{key}`, which is set on line {number}"),
        None => format!("duplicate key `{key}`"),
    }
}
