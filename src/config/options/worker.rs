//! `[worker]`: local processes that may connect, and that may administer.

use crate::config::pass::Section;
use crate::config::spelling::Spell;

/// Which local processes are accepted, of those that the mode of the socket admits.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WorkerConfig {
    /// Those that may connect; none named: all that the mode lets through.
    pub allow: Vec<Principal>,
    /// Those that may administer, beside root and our own user.
    pub admins: Vec<Principal>,
}

impl WorkerConfig {
    pub(super) fn options(&mut self, section: &mut Section<'_>) {
        section.list("allow", &mut self.allow, principal);
        section.list("admins", &mut self.admins, principal);
    }
}

/// A local process by its credentials.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// `1000`.
    Uid(u32),
    /// `@group`.
    Group(String),
    /// `unit:name.service`.
    Unit(String),
}

fn principal(text: &str) -> Result<Principal, String> {
    let named = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    let group = text.strip_prefix('@').and_then(named).map(Principal::Group);
    let unit = || text.strip_prefix("unit:").and_then(named).map(Principal::Unit);
    let uid = || text.parse().ok().map(Principal::Uid);
    let wanted = "a user's number, \"@group\" or \"unit:name.service\"";
    group.or_else(unit).or_else(uid).ok_or_else(|| wanted.to_owned())
}

impl Spell for Principal {
    fn spell(&self) -> String {
        match self {
            Self::Uid(uid) => uid.to_string(),
            Self::Group(group) => format!("@{group}").spell(),
            Self::Unit(unit) => format!("unit:{unit}").spell(),
        }
    }
}
