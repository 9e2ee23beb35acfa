//! Reading values as what an option wants.
//!
//! Knows types, ranges and how to say what was expected. Does not know the
//! options: whoever asks for a key makes it known, and what nobody asked for is
//! a mistake.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytesize::ByteSize;

use super::error::{Place, Problem};
use super::tree::{Entries, Node, Value};
use super::{Environment, absolute, show, variables};

/// Mistakes found so far, shared by all tables of one configuration.
pub(super) type Problems = Rc<RefCell<Vec<Problem>>>;

/// How many letters of a word are wrong, if it may still be this one: a third of them.
pub(super) fn typos(word: &str, meant: &str) -> Option<usize> {
    let typos = strsim::damerau_levenshtein(meant, word);
    (typos <= 1 + word.len() / 3 && typos < meant.len()).then_some(typos)
}

/// Whether a variable names several by commas, as other programs have it: as one text
/// they would be somebody whom nobody knows.
fn is_list_without_brackets(node: &Node) -> bool {
    match (&node.value, &node.spelled) {
        (Value::Text(text), Some(spelled)) => text == spelled && text.contains(','),
        _ => false,
    }
}

/// A table that is being read.
pub(super) struct Table {
    /// `limits.`, or nothing for the outermost.
    prefix: String,
    entries: Entries,
    asked: Vec<&'static str>,
    problems: Problems,
}

impl Table {
    /// The outermost table.
    pub(super) fn root(entries: Entries, problems: Problems) -> Self {
        Self { prefix: String::new(), entries, asked: Vec::new(), problems }
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.asked.push(key);
        self.entries.remove(key)
    }

    /// Notes a mistake.
    pub(super) fn complain(&self, place: Place, message: String) {
        self.problems.borrow_mut().push(Problem::new(place, message));
    }

    fn wanted(&self, key: &str, node: &Node, wanted: impl Display) {
        let message = format!("`{}{key}` wants {wanted}, not {}", self.prefix, node.value.describe());
        self.complain(node.place.clone(), message);
    }

    /// Where `key` was set, if it was; to be asked before the key is read.
    pub(super) fn place(&self, key: &str) -> Option<Place> {
        self.entries.get(key).map(|node| node.place.clone())
    }

    /// Where `key` was set to a list of nothing, if it was.
    pub(super) fn place_of_nothing(&self, key: &str) -> Option<Place> {
        let empty = |node: &&Node| matches!(&node.value, Value::List(items) if items.is_empty());
        self.entries.get(key).filter(empty).map(|node| node.place.clone())
    }

    /// Complains about what nobody asked for.
    pub(super) fn finish(self) {
        for (key, node) in &self.entries {
            let is_section = self.prefix.is_empty() && matches!(node.value, Value::Table(_));
            let what = match node.place {
                Place::Variable(_) => format!("unknown key `{}{key}`", self.prefix),
                _ if is_section => format!("unknown section `[{key}]`"),
                _ => format!("unknown key `{}{key}`", self.prefix),
            };
            self.complain(node.place.clone(), format!("{what}, {}", self.advice(key, node)));
        }
    }

    /// What might have been meant by a key that does not exist.
    fn advice(&self, key: &str, node: &Node) -> String {
        let own = self.asked.iter().filter_map(|known| Some((typos(key, known)?, *known))).min();
        let near = own.filter(|(typos, _)| *typos <= 1);
        let elsewhere = || {
            let names = show::names();
            let here = names.iter().filter(|(section, name)| *name == key && !section.is_empty());
            let sections: Vec<&str> = here.map(|(section, _)| *section).collect();
            (!sections.is_empty()).then_some(sections)
        };
        if let (None, Some(sections)) = (near, elsewhere()) {
            let paths = sections.iter().map(|section| self.spelled(section, key, node)).collect::<Vec<_>>();
            return match node.place {
                Place::Variable(_) => format!("did you mean {}?", paths.join(" or ")),
                _ => format!("which belongs below {}", paths.join(" or ")),
            };
        }
        match own {
            Some((_, known)) => format!("did you mean {}?", self.spelled("", known, node)),
            None => format!("known are {}", self.asked.join(", ")),
        }
    }

    /// How a key is named to whoever wrote `node`: one of this table, or of a section.
    fn spelled(&self, section: &str, key: &str, node: &Node) -> String {
        let path = match section {
            "" => format!("{}{key}", self.prefix),
            section => format!("{section}.{key}"),
        };
        match (&node.place, &node.value) {
            (Place::Variable(_), Value::Table(within)) if node.spelled.is_none() => {
                let within = within.keys().next().map(|key| format!(".{key}")).unwrap_or_default();
                variables::variable_of(&format!("{path}{within}"))
            }
            (Place::Variable(_), _) => variables::variable_of(&path),
            (_, Value::Table(_)) if section.is_empty() && self.prefix.is_empty() => format!("`[{key}]`"),
            _ if section == "channel" => "`[[channel]]`".to_owned(),
            _ if !section.is_empty() => format!("`[{section}]`"),
            _ => format!("`{path}`"),
        }
    }

    /// A table within; empty where it is not there.
    pub(super) fn table(&mut self, key: &'static str) -> Self {
        let node = self.take(key);
        let entries = node.and_then(|node| self.entries_of(key, node)).unwrap_or_default();
        self.within(key, entries)
    }

    /// A list of tables, each with its place.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<(Place, Self)> {
        let items = match self.take(key) {
            None => Vec::new(),
            Some(Node { value: Value::List(items), .. }) => items,
            Some(node) => {
                let wanted = match node.value {
                    Value::Table(_) => format!("a list of tables, each below `[[{}{key}]]`", self.prefix),
                    _ => "a list of tables".to_owned(),
                };
                self.wanted(key, &node, wanted);
                Vec::new()
            }
        };
        let table = |node: Node| {
            let place = node.place.clone();
            self.entries_of(key, node).map(|entries| (place, self.within(key, entries)))
        };
        items.into_iter().filter_map(table).collect()
    }

    fn entries_of(&self, key: &str, node: Node) -> Option<Entries> {
        if let Value::Table(entries) = node.value {
            return Some(entries);
        }
        let wanted = match (&node.value, &node.place) {
            (Value::List(_), Place::Line { .. }) => format!("one table, below `[{}{key}]`", self.prefix),
            (_, Place::Variable(name)) if self.prefix.is_empty() => {
                format!("a table, or one of its options in a variable such as {name}__…")
            }
            _ => "a table".to_owned(),
        };
        self.wanted(key, &node, wanted);
        None
    }

    fn within(&self, key: &str, entries: Entries) -> Self {
        let prefix = format!("{}{key}.", self.prefix);
        Self { prefix, entries, asked: Vec::new(), problems: Rc::clone(&self.problems) }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        let Some(node) = self.take(key) else { return default };
        if let Value::Boolean(yes) = node.value {
            return yes;
        }
        let quotes = if matches!(node.value, Value::Text(_)) { ", without quotes" } else { "" };
        self.wanted(key, &node, format!("true or false{quotes}"));
        default
    }

    /// A whole number.
    pub(super) fn number<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        default: T,
        range: RangeInclusive<u64>,
    ) -> T {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        self.ranged(key, default, &range, &wanted, |value| match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        })
    }

    /// A number of bytes.
    pub(super) fn size<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        default: T,
        range: RangeInclusive<u64>,
    ) -> T {
        let [low, high] = [range.start(), range.end()].map(|end| show::size(*end));
        let wanted = format!("a size from {low} to {high}, such as \"512KiB\" or a number of bytes");
        self.ranged(key, default, &range, &wanted, |value| match value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::Text(text) => text.parse::<ByteSize>().ok().map(|size| size.as_u64()),
            _ => None,
        })
    }

    /// What `read` makes of the value, within `range`.
    fn ranged<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        default: T,
        range: &RangeInclusive<u64>,
        wanted: &str,
        read: impl Fn(&Value) -> Option<u64>,
    ) -> T {
        let Some(node) = self.take(key) else { return default };
        let number = read(&node.value).filter(|number| range.contains(number));
        number.and_then(|number| T::try_from(number).ok()).unwrap_or_else(|| {
            self.wanted(key, &node, wanted);
            default
        })
    }

    /// A length of time.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(node) = self.take(key) else { return default };
        let read = match &node.value {
            Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
            Value::Text(text) => humantime::parse_duration(text).ok(),
            _ => None,
        };
        read.filter(|duration| range.contains(duration)).unwrap_or_else(|| {
            let [low, high] = [range.start(), range.end()].map(|end| show::duration(*end));
            let wanted =
                format!("a duration from {low} to {high}, such as \"1m 30s\" or a number of seconds");
            self.wanted(key, &node, wanted);
            default
        })
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, default: T, words: &[(&str, T)]) -> T {
        let Some(node) = self.take(key) else { return default };
        let known = words.iter().find(|(word, _)| matches!(&node.value, Value::Text(text) if text == word));
        if let Some((_, choice)) = known {
            return *choice;
        }
        let list: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.wanted(key, &node, format!("one of {}", list.join(", ")));
        default
    }

    /// Text that `read` understands, or says why it does not.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.take(key)?;
        self.read(key, &node, &read)
    }

    /// A list of such texts. One alone may stand without its brackets.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        default: Vec<T>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        match self.take(key) {
            None => default,
            Some(Node { value: Value::List(items), .. }) => {
                items.iter().filter_map(|item| self.read(key, item, &read)).collect()
            }
            Some(node) if is_list_without_brackets(&node) => {
                self.wanted(
                    key,
                    &node,
                    "a list as in TOML, '[\"a\", \"b\"]', or one text alone, in quotes where it has a comma",
                );
                default
            }
            Some(node) => self.read(key, &node, &read).into_iter().collect(),
        }
    }

    fn read<T>(&self, key: &str, node: &Node, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = match (&node.value, &node.spelled) {
            (Value::Text(text), _) => text.clone(),
            (Value::Integer(number), None) => number.to_string(),
            (Value::List(_) | Value::Table(_), _) | (_, None) => {
                self.wanted(key, node, "text");
                return None;
            }
            (_, Some(spelled)) => spelled.clone(),
        };
        match read(&text) {
            Ok(value) => Some(value),
            Err(wanted) => {
                self.wanted(key, node, wanted);
                None
            }
        }
    }

    /// An absolute path.
    pub(super) fn path(&mut self, key: &'static str, environment: &Environment) -> Option<PathBuf> {
        let place = self.place(key);
        self.parsed(key, |text| absolute::path(text, place.as_ref(), environment))
    }
}
