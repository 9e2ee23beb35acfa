//! One pass over the options: each is read from what was written, or spelled as a file has it.
//!
//! The `options` of a section name each option once: its key, its type and range, and the
//! field that holds it. What the field holds before the pass is the default. Both kinds of
//! pass run through the same functions, so reading, `--show`, the names that a mistyped
//! key is compared with, and the comparison of a reload cannot differ in an option.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::error::Location;
use super::merge::TableEntries;
use super::reader::{NumberUnit, Problems, TableReader};
use super::reload_diff::OptionChange;
use super::spelling::Spell;
use super::{Config, Environment, absolute_path, options, spelling};

/// What a change of an option needs to have an effect; each of these includes those before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) enum EffectAfter {
    /// The configuration is read again.
    #[default]
    Reload,
    /// Another program goes on in the place of this one: the daemon takes hold of the option
    /// when it starts.
    Handover,
    /// A daemon starts that goes on from nothing: one that takes over from another
    /// would not find what that has left.
    Restart,
}

/// A setting as a file spells it.
struct Setting {
    key: &'static str,
    value: String,
    effect: EffectAfter,
}

/// The settings of a section, or of an entry in a list of sections.
struct ShownSection {
    name: &'static str,
    form: SectionForm,
    settings: Vec<Setting>,
}

#[derive(Clone, Copy)]
enum SectionForm {
    /// `[name]`
    Table,
    /// `[[name]]`
    ListEntry,
}

impl ShownSection {
    fn head(&self) -> String {
        match self.form {
            SectionForm::Table => format!("[{}]", self.name),
            SectionForm::ListEntry => format!("[[{}]]", self.name),
        }
    }

    /// The section in the name of a setting: an entry of a list by what it matches.
    fn title(&self) -> String {
        match (self.form, self.settings.first()) {
            (SectionForm::ListEntry, Some(matched)) => format!("{} {}", self.name, matched.value),
            _ => self.name.to_owned(),
        }
    }
}

/// One pass over a whole configuration.
pub(super) struct Pass<'a>(PassKind<'a>);

enum PassKind<'a> {
    Read { root: TableReader, environment: &'a Environment },
    Show(Vec<ShownSection>),
}

impl Pass<'_> {
    /// The options of the section `[name]`.
    pub(super) fn section(&mut self, name: &'static str, options: impl FnOnce(&mut Section<'_>)) {
        match &mut self.0 {
            PassKind::Read { root, environment } => {
                let mut section = Section::read(root.table(name), environment, None);
                options(&mut section);
                section.finish();
            }
            PassKind::Show(sections) => {
                let mut section = Section::show();
                options(&mut section);
                sections.push(ShownSection { name, form: SectionForm::Table, settings: section.finish() });
            }
        }
    }

    /// The options of each `[[name]]`; see [`Section::tables`].
    pub(super) fn sections<T>(
        &mut self,
        name: &'static str,
        entries: &mut Vec<T>,
        blank: impl Fn() -> T,
        mut options: impl FnMut(&mut T, &mut Section<'_>) -> Usability,
    ) {
        match &mut self.0 {
            PassKind::Read { root, environment } => {
                *entries = read_entries(root, name, environment, blank, options);
            }
            PassKind::Show(sections) => {
                for entry in entries {
                    let mut section = Section::show();
                    options(entry, &mut section);
                    let settings = section.finish();
                    sections.push(ShownSection { name, form: SectionForm::ListEntry, settings });
                }
            }
        }
    }
}

/// Whether an entry of a list is of use, as far as it can be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Usability {
    Usable,
    /// It is left out.
    Unusable,
}

fn read_entries<T>(
    table: &mut TableReader,
    key: &'static str,
    environment: &Environment,
    blank: impl Fn() -> T,
    mut options: impl FnMut(&mut T, &mut Section<'_>) -> Usability,
) -> Vec<T> {
    let mut entries = Vec::new();
    for (location, table) in table.tables(key) {
        let mut entry = blank();
        let mut section = Section::read(table, environment, Some(location));
        if options(&mut entry, &mut section) == Usability::Usable {
            entries.push(entry);
        }
        section.finish();
    }
    entries
}

/// The options of one section.
pub(super) struct Section<'a> {
    kind: SectionKind<'a>,
    /// Of the option that comes next.
    effect: EffectAfter,
}

enum SectionKind<'a> {
    Read {
        table: TableReader,
        environment: &'a Environment,
        /// Of an entry in a list of tables.
        location: Option<Location>,
    },
    Show(Vec<Setting>),
}

impl<'a> Section<'a> {
    fn read(table: TableReader, environment: &'a Environment, location: Option<Location>) -> Self {
        Self { kind: SectionKind::Read { table, environment, location }, effect: EffectAfter::default() }
    }

    fn show() -> Self {
        Self { kind: SectionKind::Show(Vec::new()), effect: EffectAfter::default() }
    }

    /// Complains about keys that are no options; gives the settings that were spelled.
    fn finish(self) -> Vec<Setting> {
        match self.kind {
            SectionKind::Read { table, .. } => {
                table.finish();
                Vec::new()
            }
            SectionKind::Show(settings) => settings,
        }
    }

    /// From when on a change of the option that comes next has an effect, where that is not
    /// the next reload.
    pub(super) fn needs(&mut self, effect: EffectAfter) -> &mut Self {
        self.effect = effect;
        self
    }

    /// Reads an option, or spells it.
    fn option<T>(
        &mut self,
        key: &'static str,
        value: &mut T,
        read: impl FnOnce(&mut TableReader, &Environment) -> Option<T>,
        spell: impl FnOnce(&T) -> String,
    ) {
        let effect = std::mem::take(&mut self.effect);
        match &mut self.kind {
            SectionKind::Read { table, environment, .. } => {
                if let Some(read) = read(table, environment) {
                    *value = read;
                }
            }
            SectionKind::Show(settings) => settings.push(Setting { key, value: spell(value), effect }),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &'static str, value: &mut bool) {
        self.option(key, value, |table, _| table.boolean(key), bool::to_string);
    }

    /// A whole number.
    pub(super) fn number<T>(&mut self, key: &'static str, value: &mut T, range: RangeInclusive<u64>)
    where
        T: Copy + TryFrom<u64> + TryInto<u64>,
    {
        self.measured(key, value, NumberUnit::Count, &range);
    }

    /// A number of bytes.
    pub(super) fn size<T>(&mut self, key: &'static str, value: &mut T, range: RangeInclusive<u64>)
    where
        T: Copy + TryFrom<u64> + TryInto<u64>,
    {
        self.measured(key, value, NumberUnit::Bytes, &range);
    }

    fn measured<T>(&mut self, key: &'static str, value: &mut T, unit: NumberUnit, range: &RangeInclusive<u64>)
    where
        T: Copy + TryFrom<u64> + TryInto<u64>,
    {
        let mut number = (*value).try_into().unwrap_or(u64::MAX);
        let fits = |number| T::try_from(number).is_ok();
        let read = |table: &mut TableReader, _: &_| table.measured(key, unit, range, fits);
        self.option(key, &mut number, read, |number| unit.spell(*number));
        if let Ok(number) = T::try_from(number) {
            *value = number;
        }
    }

    /// A length of time.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        value: &mut Duration,
        range: RangeInclusive<Duration>,
    ) {
        self.option(key, value, |table, _| table.duration(key, &range), |value| spelling::duration(*value));
    }

    /// One of several words.
    pub(super) fn choice<T: Copy + PartialEq>(
        &mut self,
        key: &'static str,
        value: &mut T,
        words: &[(&'static str, T)],
    ) {
        let word_of =
            |value: &T| words.iter().find(|(_, choice)| choice == value).map_or("", |(word, _)| word);
        self.option(key, value, |table, _| table.choice(key, words), |value| word_of(value).spell());
    }

    /// Text that `parse` understands, or says what should stand there.
    pub(super) fn text<T: Spell>(
        &mut self,
        key: &'static str,
        value: &mut T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) {
        self.option(key, value, |table, _| table.parsed(key, parse), T::spell);
    }

    /// Text that need not be there, and is not shown then.
    pub(super) fn optional_text(
        &mut self,
        key: &'static str,
        value: &mut Option<String>,
        parse: impl Fn(&str) -> Result<String, String>,
    ) {
        if self.is_read() || value.is_some() {
            self.text(key, value, |text| parse(text).map(Some));
        }
    }

    /// A list of such texts. One alone may stand without its brackets.
    pub(super) fn list<T: Spell>(
        &mut self,
        key: &'static str,
        value: &mut Vec<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) {
        self.option(key, value, |table, _| table.list(key, parse), |value| spelling::list(value));
    }

    /// An absolute path that `check` takes.
    pub(super) fn path(
        &mut self,
        key: &'static str,
        value: &mut PathBuf,
        check: impl Fn(PathBuf) -> Result<PathBuf, String>,
    ) {
        let read = |table: &mut TableReader, environment: &Environment| {
            let location = table.location(key);
            table.parsed(key, |text| {
                absolute_path::parse(text, location.as_ref(), environment).and_then(&check)
            })
        };
        self.option(key, value, read, PathBuf::spell);
    }

    /// The name of a file with a key or secret.
    pub(super) fn file(&mut self, key: &'static str, value: &mut PathBuf) {
        self.option(key, value, |table, environment| table.file(key, environment), PathBuf::spell);
    }

    /// A list of such names. One alone may stand without its brackets.
    pub(super) fn files(&mut self, key: &'static str, value: &mut Vec<PathBuf>) {
        let read = |table: &mut TableReader, environment: &Environment| table.files(key, environment);
        self.option(key, value, read, |value| spelling::list(value));
    }

    /// A list of tables within the section: `options` passes over each, which is `blank`
    /// before it is read, and says whether it is of use.
    pub(super) fn tables<T>(
        &mut self,
        key: &'static str,
        entries: &mut Vec<T>,
        blank: impl Fn() -> T,
        mut options: impl FnMut(&mut T, &mut Section<'_>) -> Usability,
    ) {
        match &mut self.kind {
            SectionKind::Read { table, environment, .. } => {
                *entries = read_entries(table, key, environment, blank, options);
            }
            SectionKind::Show(settings) => {
                let inline = |entry: &mut T| {
                    let mut section = Section::show();
                    options(entry, &mut section);
                    let settings = section.finish().into_iter();
                    let pairs: Vec<String> =
                        settings.map(|Setting { key, value, .. }| format!("{key} = {value}")).collect();
                    format!("{{ {} }}", pairs.join(", "))
                };
                let tables: Vec<String> = entries.iter_mut().map(inline).collect();
                let value = format!("[{}]", tables.join(", "));
                settings.push(Setting { key, value, effect: EffectAfter::default() });
            }
        }
    }

    fn is_read(&self) -> bool {
        matches!(self.kind, SectionKind::Read { .. })
    }

    /// A default that depends on options before this one; what is shown stays as it is.
    pub(super) fn default_to<T>(&self, value: &mut T, default: T) {
        if self.is_read() {
            *value = default;
        }
    }

    /// Where `key` was set, if it is read now and was set; to be asked before it is read.
    pub(super) fn location(&self, key: &str) -> Option<Location> {
        match &self.kind {
            SectionKind::Read { table, .. } => table.location(key),
            SectionKind::Show(_) => None,
        }
    }

    /// Where `key` was set to a list without entries.
    pub(super) fn location_of_empty_list(&self, key: &str) -> Option<Location> {
        match &self.kind {
            SectionKind::Read { table, .. } => table.location_of_empty_list(key),
            SectionKind::Show(_) => None,
        }
    }

    /// Notes a mistake.
    pub(super) fn complain(&self, location: Location, message: String) {
        if let SectionKind::Read { table, .. } = &self.kind {
            table.complain(location, message);
        }
    }

    /// Notes a mistake of this entry of a list as a whole.
    pub(super) fn complain_of_entry(&self, message: String) {
        if let SectionKind::Read { table, location: Some(location), .. } = &self.kind {
            table.complain(location.clone(), message);
        }
    }
}

/// A setting by its whole name.
pub(super) struct NamedSetting {
    name: String,
    value: String,
    effect: EffectAfter,
}

impl NamedSetting {
    /// What changes from this to `next`, and from when on that has an effect; nothing where
    /// it is another setting, or has the same value.
    pub(super) fn change_to(&self, next: &Self) -> Option<(OptionChange, EffectAfter)> {
        let is_changed = self.name == next.name && self.value != next.value;
        is_changed.then(|| {
            let (from, to) = (self.value.clone(), next.value.clone());
            (OptionChange { setting: self.name.clone(), from, to }, self.effect)
        })
    }
}

impl Config {
    /// Makes a configuration of what was written; `problems` says whether it may be used.
    pub(super) fn read(entries: TableEntries, environment: &Environment, problems: &Problems) -> Self {
        let mut config = options::defaults(environment);
        let root = TableReader::root(entries, problems.clone());
        let mut pass = Pass(PassKind::Read { root, environment });
        options::all(&mut config, &mut pass);
        if let PassKind::Read { root, .. } = pass.0 {
            root.finish();
        }
        config
    }

    fn shown(&self) -> Vec<ShownSection> {
        let mut pass = Pass(PassKind::Show(Vec::new()));
        options::all(&mut self.clone(), &mut pass);
        match pass.0 {
            PassKind::Show(sections) => sections,
            PassKind::Read { .. } => Vec::new(),
        }
    }

    /// The configuration as a file, which read again gives the same. It names secrets by
    /// their files and never shows them.
    pub fn show(&self) -> String {
        let mut text = String::new();
        for section in self.shown() {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            text.push_str(&section.head());
            text.push('\n');
            for Setting { key, value, .. } in section.settings {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        text
    }

    /// Each setting by its name, as a file spells it. One of a `[[channel]]` is named by
    /// what that matches; `channel` is the list of these.
    pub(super) fn settings(&self) -> Vec<NamedSetting> {
        let patterns: Vec<String> =
            self.channels.iter().map(|channel| channel.pattern.as_str().to_owned()).collect();
        let value = spelling::list(&patterns);
        let mut all =
            vec![NamedSetting { name: "channel".to_owned(), value, effect: EffectAfter::default() }];
        for section in self.shown() {
            let title = section.title();
            let named = |Setting { key, value, effect }| {
                let name = format!("{title}.{key}");
                NamedSetting { name, value, effect }
            };
            all.extend(section.settings.into_iter().map(named));
        }
        all
    }
}

/// The names of all options, each with its section.
pub(super) fn names() -> Vec<(&'static str, &'static str)> {
    let nowhere = Environment::new::<&str, &str>(0, []);
    let mut config = options::defaults(&nowhere);
    config.channels.push(options::any_channel());
    let of = |section: ShownSection| {
        section.settings.into_iter().map(move |Setting { key, .. }| (section.name, key))
    };
    config.shown().into_iter().flat_map(of).collect()
}
