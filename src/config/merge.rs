//! Configuration as it was written: values and tables, laid over one another.
//!
//! Knows where each value came from. Does not know which keys exist.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use toml::de::{DeTable, DeValue};

use super::error::{Place, Problem};
use super::syntax_hints;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
    /// A variable's own text: where text is wanted, `WSHUBD_STATE__DIRECTORY=7`
    /// means the directory `7`.
    pub(super) spelled: Option<String>,
}

/// The values that options can have.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Entries),
    /// What no option takes, by the name of its type.
    Other(&'static str),
}

/// Keys and what they were set to; each node's place is that of its key.
pub(super) type Entries = BTreeMap<String, Node>;

impl Value {
    /// How a complaint calls it.
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

impl Value {
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
pub(super) fn parse(text: &str, file: &Path) -> Result<Entries, Problem> {
    let source = Source::file(text, file);
    match DeTable::parse(text) {
        Ok(table) => Ok(source.entries(table.get_ref())),
        Err(error) => {
            let span = error.span().unwrap_or_default();
            Err(Problem::new(source.place(&span), syntax_hints::explained(text, &span, error.message())))
        }
    }
}

/// Lays `over` on `under`: tables key by key, everything else as a whole.
pub(super) fn overlay(under: &mut Entries, over: Entries) {
    for (key, node) in over {
        match (under.get_mut(&key), node) {
            (Some(Node { value: Value::Table(below), .. }), Node { value: Value::Table(above), .. }) => {
                overlay(below, above)
            }
            (_, node) => {
                under.insert(key, node);
            }
        }
    }
}

/// Turns places in a text into places for people.
pub(super) struct Source {
    whole: Place,
    /// Offsets at which lines begin; none for a variable.
    lines: Vec<usize>,
}

impl Source {
    fn file(text: &str, file: &Path) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(ends.map(|(end, _)| end + 1)).collect();
        Self { whole: Place::File(Rc::from(file)), lines }
    }

    pub(super) fn variable(name: &str) -> Self {
        Self { whole: Place::Variable(name.into()), lines: Vec::new() }
    }

    fn place(&self, span: &Range<usize>) -> Place {
        match &self.whole {
            Place::File(file) => {
                let line = self.lines.partition_point(|begin| *begin <= span.start);
                Place::Line { file: Rc::clone(file), line }
            }
            whole => whole.clone(),
        }
    }

    fn entries(&self, table: &DeTable<'_>) -> Entries {
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<_>)| {
            let key: &toml::Spanned<std::borrow::Cow<'_, str>> = key;
            let place = self.place(&key.span());
            let node = Node { place, value: self.value(value.get_ref()), spelled: None };
            (key.get_ref().to_string(), node)
        };
        // Not collected, which would sort them first.
        let mut entries = Entries::new();
        entries.extend(table.iter().map(entry));
        entries
    }

    pub(super) fn value(&self, value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or(Value::Other("number too large"), Value::Integer),
            DeValue::Float(number) => {
                number.as_str().parse().map_or(Value::Other("number too large"), Value::Float)
            }
            DeValue::Boolean(yes) => Value::Boolean(*yes),
            DeValue::Datetime(_) => Value::Other("date"),
            DeValue::Array(list) => Value::List(
                list.iter()
                    .map(|item| Node {
                        place: self.place(&item.span()),
                        value: self.value(item.get_ref()),
                        spelled: None,
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.entries(table)),
        }
    }
}
