//! A reader of tables: each value as the type that its option wants.
//!
//! A key becomes known by being read; keys that were not read are mistakes. Each method
//! gives nothing where the key is not there, or has another value: that is a mistake, which
//! says what was expected and what was found.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytesize::ByteSize;

use super::error::{Location, Problem};
use super::merge::{ConfigValue, Node, TableEntries};
use super::{Environment, absolute_path, file_name, pass, spelling, variables};

/// Mistakes found so far, shared by all tables of one configuration.
pub(super) type Problems = Rc<RefCell<Vec<Problem>>>;

/// How many letters of a word are wrong, if it may still be this one: up to a third of them.
pub(super) fn typos(word: &str, meant: &str) -> Option<usize> {
    let typos = strsim::damerau_levenshtein(meant, word);
    (typos <= 1 + word.len() / 3 && typos < meant.len()).then_some(typos)
}

/// Whether a variable names several by commas, as other programs have it: as one text
/// they would be one unknown name.
fn is_list_without_brackets(node: &Node) -> bool {
    match (&node.value, &node.spelled) {
        (ConfigValue::Text(text), Some(spelled)) => text == spelled && text.contains(','),
        _ => false,
    }
}

/// Takes a text, or says what should stand there. Behind a pointer, so that all that is
/// around it is compiled once and not for each option.
type TextParser<'a> = &'a mut dyn FnMut(&str) -> Result<(), String>;

/// What a number counts.
#[derive(Clone, Copy)]
pub(super) enum NumberUnit {
    Count,
    Bytes,
}

impl NumberUnit {
    fn read(self, value: &ConfigValue) -> Option<u64> {
        match (self, value) {
            (_, ConfigValue::Integer(number)) => u64::try_from(*number).ok(),
            (Self::Bytes, ConfigValue::Text(text)) => text.parse::<ByteSize>().ok().map(|size| size.as_u64()),
            _ => None,
        }
    }

    /// The number as a file spells it.
    pub(super) fn spell(self, number: u64) -> String {
        match self {
            Self::Count => number.to_string(),
            Self::Bytes => spelling::size(number),
        }
    }

    fn wanted(self, range: &RangeInclusive<u64>) -> String {
        let (low, high) = (*range.start(), *range.end());
        match self {
            Self::Count => format!("a whole number from {low} to {high}"),
            Self::Bytes => {
                let [low, high] = [low, high].map(spelling::size);
                format!("a size from {low} to {high}, such as \"512KiB\" or a number of bytes")
            }
        }
    }
}

/// A table that is being read.
pub(super) struct TableReader {
    /// `limits.`, or nothing for the outermost.
    prefix: String,
    entries: TableEntries,
    /// The keys that were read.
    known: Vec<&'static str>,
    problems: Problems,
    /// Which of several tables it is, from 1; none, where it is the only one.
    number: Option<usize>,
}

impl TableReader {
    /// The outermost table.
    pub(super) fn root(entries: TableEntries, problems: Problems) -> Self {
        Self { prefix: String::new(), entries, known: Vec::new(), problems, number: None }
    }

    fn take(&mut self, key: &'static str) -> Option<Node> {
        self.known.push(key);
        self.entries.remove(key)
    }

    /// Notes a mistake.
    pub(super) fn complain(&self, location: Location, message: String) {
        self.problems.borrow_mut().push(Problem::new(location, message));
    }

    fn wanted(&self, key: &str, node: &Node, wanted: &str) {
        self.wanted_at(key, None, node, wanted);
    }

    /// The same of one of several values, from 1.
    fn wanted_at(&self, key: &str, number: Option<usize>, node: &Node, wanted: &str) {
        let found = match self.may_be_secret(key, &node.value) {
            true => node.value.describe_unseen(),
            false => node.value.describe(),
        };
        let number = number.or(self.number).map(|number| format!(", number {number},")).unwrap_or_default();
        let message = format!("`{}{key}`{number} wants {wanted}, not {found}", self.prefix);
        self.complain(node.location.clone(), message);
    }

    /// Whether a secret may stand here by mistake, where the name of its file belongs.
    fn may_be_secret(&self, key: &str, value: &ConfigValue) -> bool {
        /// Longer than any name of an algorithm.
        const LONGEST_ALG: usize = 16;
        match (&*self.prefix, key, value) {
            ("auth.keys.", "alg", ConfigValue::Text(text)) => text.len() > LONGEST_ALG,
            ("auth.keys.", "file", ConfigValue::Text(text)) => !file_name::is_one(text),
            ("auth.", "broadcast_secrets", ConfigValue::Text(text)) => !file_name::is_one(text),
            ("auth.keys.", ..) | ("auth.", "keys" | "broadcast_secrets", _) => true,
            ("", "auth", _) => true,
            _ => false,
        }
    }

    /// Where `key` was set, if it was; to be asked before the key is read.
    pub(super) fn location(&self, key: &str) -> Option<Location> {
        self.entries.get(key).map(|node| node.location.clone())
    }

    /// Where `key` was set to a list without entries, if it was.
    pub(super) fn location_of_empty_list(&self, key: &str) -> Option<Location> {
        let empty = |node: &&Node| matches!(&node.value, ConfigValue::List(items) if items.is_empty());
        self.entries.get(key).filter(empty).map(|node| node.location.clone())
    }

    /// Complains about keys that were not read.
    pub(super) fn finish(self) {
        for (key, node) in &self.entries {
            let is_section = self.prefix.is_empty() && matches!(node.value, ConfigValue::Table(_));
            let what = match node.location {
                Location::Variable(_) => format!("unknown key `{}{key}`", self.prefix),
                _ if is_section => format!("unknown section `[{key}]`"),
                _ => format!("unknown key `{}{key}`", self.prefix),
            };
            self.complain(node.location.clone(), format!("{what}, {}", self.advice(key, node)));
        }
    }

    /// What might have been meant by a key that does not exist.
    fn advice(&self, key: &str, node: &Node) -> String {
        let own = self.known.iter().filter_map(|known| Some((typos(key, known)?, *known))).min();
        let near = own.filter(|(typos, _)| *typos <= 1);
        let elsewhere = || {
            let names = pass::names();
            let here = names.iter().filter(|(section, name)| *name == key && !section.is_empty());
            let sections: Vec<&str> = here.map(|(section, _)| *section).collect();
            (!sections.is_empty()).then_some(sections)
        };
        if let (None, Some(sections)) = (near, elsewhere()) {
            let paths = sections.iter().map(|section| self.spelled(section, key, node)).collect::<Vec<_>>();
            return match node.location {
                Location::Variable(_) => format!("did you mean {}?", paths.join(" or ")),
                _ => format!("which belongs below {}", paths.join(" or ")),
            };
        }
        match own {
            Some((_, known)) => format!("did you mean {}?", self.spelled("", known, node)),
            None => format!("known are {}", self.known.join(", ")),
        }
    }

    /// The name of a key, for an error about `node`: one of this table, or of a section.
    fn spelled(&self, section: &str, key: &str, node: &Node) -> String {
        let path = match section {
            "" => format!("{}{key}", self.prefix),
            section => format!("{section}.{key}"),
        };
        match (&node.location, &node.value) {
            (Location::Variable(_), ConfigValue::Table(within)) if node.spelled.is_none() => {
                let within = within.keys().next().map(|key| format!(".{key}")).unwrap_or_default();
                variables::variable_of(&format!("{path}{within}"))
            }
            (Location::Variable(_), _) => variables::variable_of(&path),
            (_, ConfigValue::Table(_)) if section.is_empty() && self.prefix.is_empty() => {
                format!("`[{key}]`")
            }
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

    /// A list of tables, each with its location.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<(Location, Self)> {
        let items = match self.take(key) {
            None => Vec::new(),
            Some(Node { value: ConfigValue::List(items), .. }) => items,
            Some(node) => {
                let wanted = match node.value {
                    ConfigValue::Table(_) => {
                        format!("a list of tables, each below `[[{}{key}]]`", self.prefix)
                    }
                    _ => "a list of tables".to_owned(),
                };
                self.wanted(key, &node, &wanted);
                Vec::new()
            }
        };
        let is_only = items.len() == 1;
        let table = |(number, node): (usize, Node)| {
            let (location, number) = (node.location.clone(), Some(number).filter(|_| !is_only));
            if !matches!(node.value, ConfigValue::Table(_)) {
                let example = match key {
                    "keys" => ", such as { alg = \"HS256\", file = \"/etc/wshubd/jwt.key\" }",
                    _ => "",
                };
                self.wanted_at(key, number, &node, &format!("a table{example}"));
                return None;
            }
            self.entries_of(key, node).map(|entries| (location, Self { number, ..self.within(key, entries) }))
        };
        (1..).zip(items).filter_map(table).collect()
    }

    fn entries_of(&self, key: &str, node: Node) -> Option<TableEntries> {
        if let ConfigValue::Table(entries) = node.value {
            return Some(entries);
        }
        let wanted = match (&node.value, &node.location) {
            (ConfigValue::List(_), Location::Line { .. }) => {
                format!("one table, below `[{}{key}]`", self.prefix)
            }
            (_, Location::Variable(name)) if self.prefix.is_empty() => {
                format!("a table, or one of its options in a variable such as {name}__…")
            }
            _ => "a table".to_owned(),
        };
        self.wanted(key, &node, &wanted);
        None
    }

    fn within(&self, key: &str, entries: TableEntries) -> Self {
        let prefix = format!("{}{key}.", self.prefix);
        Self { prefix, entries, known: Vec::new(), problems: Rc::clone(&self.problems), number: None }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str) -> Option<bool> {
        let node = self.take(key)?;
        if let ConfigValue::Boolean(yes) = node.value {
            return Some(yes);
        }
        let quotes = if matches!(node.value, ConfigValue::Text(_)) { ", without quotes" } else { "" };
        self.wanted(key, &node, &format!("true or false{quotes}"));
        None
    }

    /// A number within `range` that its type can hold.
    pub(super) fn measured(
        &mut self,
        key: &'static str,
        unit: NumberUnit,
        range: &RangeInclusive<u64>,
        fits: fn(u64) -> bool,
    ) -> Option<u64> {
        let node = self.take(key)?;
        let number = unit.read(&node.value).filter(|number| range.contains(number) && fits(*number));
        if number.is_none() {
            self.wanted(key, &node, &unit.wanted(range));
        }
        number
    }

    /// A length of time.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let node = self.take(key)?;
        let read = match &node.value {
            ConfigValue::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            ConfigValue::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
            ConfigValue::Text(text) => humantime::parse_duration(text).ok(),
            _ => None,
        };
        let read = read.filter(|duration| range.contains(duration));
        if read.is_none() {
            let [low, high] = [range.start(), range.end()].map(|end| spelling::duration(*end));
            let wanted =
                format!("a duration from {low} to {high}, such as \"1m 30s\" or a number of seconds");
            self.wanted(key, &node, &wanted);
        }
        read
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.word(key, &known).and_then(|at| words.get(at)).map(|(_, choice)| *choice)
    }

    /// Which of the words it is.
    fn word(&mut self, key: &'static str, words: &[&str]) -> Option<usize> {
        let node = self.take(key)?;
        let chosen =
            words.iter().position(|word| matches!(&node.value, ConfigValue::Text(text) if text == word));
        if chosen.is_none() {
            let list: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
            self.wanted(key, &node, &format!("one of {}", list.join(", ")));
        }
        chosen
    }

    /// Text that `read` understands, or says why it does not.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.take(key)?;
        let mut found = None;
        self.read(key, &node, &mut |text| {
            found = Some(read(text)?);
            Ok(())
        });
        found
    }

    /// A list of such texts. One alone may stand without its brackets.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let mut found = Vec::new();
        let is_list = self.read_list(key, &mut |text| {
            found.push(read(text)?);
            Ok(())
        });
        is_list.then_some(found)
    }

    /// Reads each entry of a list. False where there is no list.
    fn read_list(&mut self, key: &'static str, read: TextParser<'_>) -> bool {
        match self.take(key) {
            None => return false,
            Some(Node { value: ConfigValue::List(items), .. }) => {
                items.iter().for_each(|item| self.read(key, item, read));
            }
            Some(node) if is_list_without_brackets(&node) => {
                let wanted =
                    "a list as in TOML, '[\"a\", \"b\"]', or one text alone, in quotes where it has a comma";
                self.wanted(key, &node, wanted);
                return false;
            }
            Some(node) => self.read(key, &node, read),
        }
        true
    }

    fn read(&self, key: &str, node: &Node, read: TextParser<'_>) {
        let text = match (&node.value, &node.spelled) {
            (ConfigValue::Text(text), _) => text.clone(),
            (ConfigValue::Integer(number), None) => number.to_string(),
            (ConfigValue::List(_) | ConfigValue::Table(_), _) | (_, None) => {
                return self.wanted(key, node, "text");
            }
            (_, Some(spelled)) => spelled.clone(),
        };
        if let Err(wanted) = read(&text) {
            self.wanted(key, node, &wanted);
        }
    }

    /// The name of a file with a key or secret.
    pub(super) fn file(&mut self, key: &'static str, environment: &Environment) -> Option<PathBuf> {
        let node = self.take(key)?;
        self.named(key, None, &node, environment)
    }

    /// A list of such names. One alone may stand without its brackets.
    pub(super) fn files(&mut self, key: &'static str, environment: &Environment) -> Option<Vec<PathBuf>> {
        let files = match self.take(key)? {
            Node { value: ConfigValue::List(items), .. } => {
                let is_only = items.len() == 1;
                let number = |number: usize| Some(number).filter(|_| !is_only);
                let items = (1..).zip(&items);
                items.filter_map(|(at, item)| self.named(key, number(at), item, environment)).collect()
            }
            node => self.named(key, None, &node, environment).into_iter().collect(),
        };
        Some(files)
    }

    /// A name is repeated in the error, with the absolute path that it probably means; what
    /// may be a secret is not.
    fn named(
        &self,
        key: &str,
        number: Option<usize>,
        node: &Node,
        environment: &Environment,
    ) -> Option<PathBuf> {
        let text = match (&node.value, &node.spelled) {
            (ConfigValue::Text(text), _) | (_, Some(text)) => Some(text),
            _ => None,
        };
        let named = text.filter(|text| file_name::is_one(text)).ok_or_else(|| file_name::WANTED.to_owned());
        let path = named.and_then(|text| absolute_path::parse(text, Some(&node.location), environment));
        path.map_err(|wanted| self.wanted_at(key, number, node, &wanted)).ok()
    }
}
