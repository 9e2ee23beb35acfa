//! Values of options as a file spells them: read again, each gives the same value.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A value that an option may have, or a list of such values.
pub(super) trait Spell {
    /// The value as it stands behind `=`.
    fn spell(&self) -> String;
}

/// Text in quotes. What cannot stand there is escaped.
impl Spell for str {
    fn spell(&self) -> String {
        let mut quoted = String::with_capacity(self.len() + 2);
        quoted.push('"');
        for c in self.chars() {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                c if c.is_control() => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
                c => quoted.push(c),
            }
        }
        quoted.push('"');
        quoted
    }
}

impl Spell for String {
    fn spell(&self) -> String {
        self.as_str().spell()
    }
}

/// Nothing is an empty text.
impl Spell for Option<String> {
    fn spell(&self) -> String {
        self.as_deref().unwrap_or_default().spell()
    }
}

impl Spell for PathBuf {
    fn spell(&self) -> String {
        self.to_string_lossy().spell()
    }
}

impl Spell for SocketAddr {
    fn spell(&self) -> String {
        self.to_string().spell()
    }
}

/// A list of values.
pub(super) fn list<T: Spell>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::spell).collect();
    format!("[{}]", items.join(", "))
}

/// A size, with the largest unit that it is a multiple of.
pub(super) fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let whole = units.iter().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    whole.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("\"{}{unit}\"", bytes >> shift))
}

/// A length of time.
pub(super) fn duration(duration: Duration) -> String {
    format!("\"{}\"", humantime::format_duration(duration))
}
