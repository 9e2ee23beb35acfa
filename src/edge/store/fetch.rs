//! Fetching messages of a log, where memory and disk are read as one.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::index::Index;
use super::memtable::Memtable;
use super::read_queue::{DiskRange, PendingRead};
use crate::hub::{FetchPurpose, Input, LogKey, StoreEvent};
use crate::protocol::Message;

/// A request for messages of a log.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fetch {
    pub purpose: FetchPurpose,
    pub log: LogKey,
    /// What lies after this, oldest first: up to `count` messages or `bytes`, but
    /// at least one where there is one.
    pub after: u64,
    pub count: usize,
    /// No limit in what is passed on to another process: notices have none.
    #[serde(skip, default = "no_limit")]
    pub bytes: usize,
}

fn no_limit() -> usize {
    usize::MAX
}

impl Fetch {
    /// The answer.
    pub fn found(self, messages: Vec<Rc<Message>>) -> Input {
        Input::Fetched { fetch: self.purpose, log: self.log, messages }
    }

    /// The answer where the disk cannot be read.
    pub(super) fn failed(self) -> Input {
        Input::Store(StoreEvent::ReadFailed { fetch: self.purpose, log: self.log })
    }

    /// Whether it is of messages that are forgotten with this request.
    pub(super) fn is_for_notice(&self) -> bool {
        matches!(self.purpose, FetchPurpose::Notice(_))
    }
}

/// A part of an answer.
pub(super) enum FetchPart {
    /// It is in memory.
    Page(Input),
    /// It is on the disk.
    Read(PendingRead),
}

/// What is in memory of a page, up to the first message that is on the disk.
pub(super) fn page_of(memtable: &Memtable, fetch: &Fetch, on_disk: Option<u64>) -> Vec<Rc<Message>> {
    let mut room = fetch.bytes;
    let mut page = Vec::new();
    for (seq, entry) in memtable.read(&fetch.log, fetch.after).take(fetch.count) {
        let size = entry.size();
        if on_disk.is_some_and(|on_disk| on_disk < seq) || (size > room && !page.is_empty()) {
            break;
        }
        room = room.saturating_sub(size);
        page.extend(memtable.message(&fetch.log, seq, entry));
    }
    page
}

/// Where the answer to a request comes from. One part, unless the messages are about to be
/// forgotten.
pub(super) fn plan(fetch: Fetch, memtable: &Memtable, index: Option<&Index>) -> Vec<FetchPart> {
    if fetch.is_for_notice() {
        return plan_notice(fetch, memtable, index);
    }
    let on_disk = index.and_then(|index| index.next(&fetch.log, fetch.after)).map(|entry| entry.seq);
    let in_memory = memtable.next(&fetch.log, fetch.after);
    let is_on_disk_first = on_disk.is_some_and(|on_disk| in_memory.is_none_or(|seq| on_disk < seq));
    if is_on_disk_first {
        debug_assert!(on_disk > Some(fetch.after), "the page would begin before its place");
        return vec![FetchPart::Read(PendingRead::new(fetch))];
    }
    let page = page_of(memtable, &fetch, on_disk);
    vec![FetchPart::Page(fetch.found(page))]
}

/// The same for what is about to be forgotten: where it lies is noted now, and it
/// may come in several parts.
fn plan_notice(fetch: Fetch, memtable: &Memtable, index: Option<&Index>) -> Vec<FetchPart> {
    let mut parts = Vec::new();
    let mut rest = Fetch { bytes: usize::MAX, ..fetch };
    while rest.count > 0 {
        let end = memtable.next(&rest.log, rest.after).unwrap_or(u64::MAX);
        let run = index.map(|index| index.run(&rest.log, rest.after, end, rest.count, usize::MAX));
        let run = run.unwrap_or_default();
        if let Some(range) = DiskRange::of(&run) {
            let fetch = Fetch { count: run.len(), ..rest.clone() };
            parts.push(FetchPart::Read(PendingRead::of_range(fetch, range)));
            rest.count -= run.len();
            rest.after = range.last();
            continue;
        }
        let on_disk = index.and_then(|index| index.next(&rest.log, rest.after));
        let page = page_of(memtable, &rest, on_disk.map(|entry| entry.seq));
        let Some(last) = page.last().and_then(|message| message.seq) else { break };
        rest.count -= page.len();
        parts.push(FetchPart::Page(rest.clone().found(page)));
        rest.after = last;
    }
    parts
}
