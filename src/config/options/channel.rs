//! `[[channel]]`: what is kept of messages, by the names of their channels.

use std::collections::HashSet;

use super::{DAY, GIB, KIB, MANY, seconds};
use crate::config::pass::{Pass, Section, Usability};
use crate::hub::Pattern;
use crate::hub::settings::{Keep, Policy, WriteThrough};
use crate::protocol::ids::LONGEST_NAME;

/// The name by which `[[channel]]` means the inboxes of users.
pub const INBOX: &str = "@me";

/// What is kept of the channels that a pattern names.
#[derive(Clone, PartialEq, Debug)]
pub struct ChannelPolicy {
    pub pattern: Pattern,
    pub policy: Policy,
}

/// Words for the hub's [`WriteThrough`].
const DISKS: [(&str, WriteThrough); 3] =
    [("behind", WriteThrough::Behind), ("stop", WriteThrough::Stop), ("never", WriteThrough::Never)];

/// Words for the hub's [`Keep`]: those for channels, and for inboxes.
const KEEPS: [(&str, Keep); 3] =
    [("undelivered", Keep::Undelivered), ("history", Keep::History), ("never", Keep::Never)];
const INBOX_KEEPS: [(&str, Keep); 2] = [("unacknowledged", Keep::Unacknowledged), ("never", Keep::Never)];

/// An entry with defaults alone, for all channels.
pub(in crate::config) fn any() -> ChannelPolicy {
    ChannelPolicy { pattern: Pattern::new("*"), policy: Policy::default() }
}

pub(super) fn options(channels: &mut Vec<ChannelPolicy>, pass: &mut Pass<'_>) {
    let mut seen = HashSet::new();
    pass.sections("channel", channels, any, |channel, entry| channel.options(&mut seen, entry));
}

impl ChannelPolicy {
    /// A policy for nothing is of no use.
    fn options(&mut self, seen: &mut HashSet<String>, entry: &mut Section<'_>) -> Usability {
        let mut matched = Some(self.pattern.as_str().to_owned());
        let is_missing = entry.location("match").is_none();
        entry.default_to(&mut matched, None);
        entry.text("match", &mut matched, |text| pattern(text).map(Some));
        if is_missing {
            entry.complain_of_entry("a `[[channel]]` wants `match`, such as match = \"orders:*\"".into());
        }
        let policy = &mut self.policy;
        // An inbox keeps messages until they are acknowledged, and has no history.
        if matched.as_deref() == Some(INBOX) {
            entry.default_to(&mut policy.keep, Keep::Unacknowledged);
            entry.choice("keep", &mut policy.keep, &INBOX_KEEPS);
        } else {
            entry.choice("keep", &mut policy.keep, &KEEPS);
        }
        entry.number("count", &mut policy.count, MANY);
        entry.size("bytes", &mut policy.bytes, KIB..=GIB);
        entry.duration("ttl", &mut policy.ttl, seconds(1, 3650 * DAY));
        entry.default_to(&mut policy.disk, WriteThrough::for_keep(policy.keep));
        entry.choice("disk", &mut policy.disk, &DISKS);
        let Some(matched) = matched else { return Usability::Unusable };
        self.pattern = Pattern::new(&matched);
        if !seen.insert(matched.clone()) {
            entry.complain_of_entry(format!("an earlier `[[channel]]` matches {matched:?} already"));
        }
        Usability::Usable
    }
}

fn pattern(text: &str) -> Result<String, String> {
    let is_reserved = text.starts_with('@') && text != INBOX;
    let fits = (1..=LONGEST_NAME).contains(&text.len()) && !is_reserved;
    let wanted = || format!("a pattern of 1 to {LONGEST_NAME} bytes for channels, or {INBOX:?} for inboxes");
    fits.then(|| text.to_owned()).ok_or_else(wanted)
}
