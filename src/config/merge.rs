//! Configuration as it was written: values and tables with their locations, merged in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use toml::de::{DeTable, DeValue};

use super::error::{Location, Problem};
use super::syntax_hints;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) location: Location,
    pub(super) value: ConfigValue,
    /// A variable's own text: where text is wanted, `WSHUBD_STATE__DIRECTORY=7`
    /// means the directory `7`.
    pub(super) spelled: Option<String>,
}

/// The values that options can have.
#[derive(Clone, Debug)]
pub(super) enum ConfigValue {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(TableEntries),
    /// What no option takes, by the name of its type.
    Other(&'static str),
}

/// Keys and what they were set to; each node's location is that of its key.
pub(super) type TableEntries = BTreeMap<String, Node>;

impl ConfigValue {
    /// The value in an error.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(text) => format!("{text:?}"),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => number.to_string(),
            Self::Boolean(yes) => yes.to_string(),
            Self::List(_) => "a list".to_owned(),
            Self::Table(_) => "a table".to_owned(),
            Self::Other(kind) => format!("a {kind}"),
        }
    }
}

impl ConfigValue {
    /// The same without what may be a secret.
    pub(super) fn describe_unseen(&self) -> String {
        match self {
            Self::Text(text) => format!("text of {} bytes", text.len()),
            Self::Integer(_) | Self::Float(_) => "a number".to_owned(),
            value => value.describe(),
        }
    }
}

/// Reads the text of a file.
pub(super) fn parse(text: &str, file: &Path) -> Result<TableEntries, Problem> {
    let lines = LineIndex::file(text, file);
    match DeTable::parse(text) {
        Ok(table) => Ok(lines.entries(table.get_ref())),
        Err(error) => {
            let span = error.span().unwrap_or_default();
            Err(Problem::new(lines.location(&span), syntax_hints::explained(text, &span, error.message())))
        }
    }
}

/// Lays `over` on `under`: tables key by key, everything else as a whole.
pub(super) fn overlay(under: &mut TableEntries, over: TableEntries) {
    for (key, node) in over {
        match (under.get_mut(&key), node) {
            (
                Some(Node { value: ConfigValue::Table(below), .. }),
                Node { value: ConfigValue::Table(above), .. },
            ) => overlay(below, above),
            (_, node) => {
                under.insert(key, node);
            }
        }
    }
}

/// The lines of a text, for the locations of what stands in it.
pub(super) struct LineIndex {
    whole: Location,
    /// Offsets at which lines begin; none for a variable.
    begins: Vec<usize>,
}

impl LineIndex {
    fn file(text: &str, file: &Path) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let begins = std::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect();
        Self { whole: Location::File(Rc::from(file)), begins }
    }

    pub(super) fn variable(name: &str) -> Self {
        Self { whole: Location::Variable(name.into()), begins: Vec::new() }
    }

    fn location(&self, span: &Range<usize>) -> Location {
        match &self.whole {
            Location::File(file) => {
                let line = self.begins.partition_point(|begin| *begin <= span.start);
                Location::Line { file: Rc::clone(file), line }
            }
            whole => whole.clone(),
        }
    }

    fn entries(&self, table: &DeTable<'_>) -> TableEntries {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<_>)| {
            let key: &toml::Spanned<std::borrow::Cow<'_, str>> = key;
            let location = self.location(&key.span());
            let node = Node { location, value: self.value(value.get_ref()), spelled: None };
            (key.get_ref().to_string(), node)
        };
        // Not collected, which would sort them first.
        let mut entries = TableEntries::new();
        entries.extend(table.iter().map(entry));
        entries
    }

    pub(super) fn value(&self, value: &DeValue<'_>) -> ConfigValue {
        match value {
            DeValue::String(text) => ConfigValue::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(ConfigValue::Other("number too large"), ConfigValue::Integer),
            DeValue::Float(number) => {
                number.as_str().parse().map_or(ConfigValue::Other("number too large"), ConfigValue::Float)
            }
            DeValue::Boolean(yes) => ConfigValue::Boolean(*yes),
            DeValue::Datetime(_) => ConfigValue::Other("date"),
            DeValue::Array(list) => ConfigValue::List(
                list.iter()
                    .map(|item| Node {
                        location: self.location(&item.span()),
                        value: self.value(item.get_ref()),
                        spelled: None,
                    })
                    .collect(),
            ),
            DeValue::Table(table) => ConfigValue::Table(self.entries(table)),
        }
    }
}
