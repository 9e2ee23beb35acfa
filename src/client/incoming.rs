//! The queue of what the hub says unasked, bounded in bytes.
//!
//! Knows how much waits, when reading had better pause, and when lines must be
//! given up. Does not know why reading cannot always pause: the link does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_channel::{Receiver, Sender};

use super::error::Error;
use super::event::Heard;

/// Where reading pauses, if nothing but more of this can come: the hub then
/// feels its reader's pace, and decides what to shed.
const PAUSE: usize = 256 << 10;

/// Where lines are given up, if reading cannot pause because an answer or an
/// interrupt may stand behind them. A log is replayed whole, 1 MiB by default;
/// this holds several.
const SHED: usize = 16 << 20;

/// What each line takes beside its text.
const ENVELOPE: usize = 64;

/// What a listener is told.
#[derive(Clone, Debug)]
pub enum News {
    /// A line of the hub.
    Line(Heard),
    /// The connection is lost, and why; another is looked for.
    Away(Error),
    /// The hub is there again. Subscriptions go on from where they were: what was
    /// kept of the meantime follows, and a `gap` line for each channel of which
    /// something was not.
    Back,
}

fn weight(news: &News) -> usize {
    match news {
        News::Line(heard) => heard.json().len() + ENVELOPE,
        News::Away(_) | News::Back => ENVELOPE,
    }
}

pub(super) fn queue() -> (Unasked, Lines) {
    let (lines, taken) = async_channel::unbounded();
    let (room, wake) = async_channel::bounded(1);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Unasked { lines, waiting: waiting.clone(), room: wake, shed: 0 }, Lines { lines: taken, waiting, room })
}

/// The link's end.
#[derive(Debug)]
pub(super) struct Unasked {
    lines: Sender<News>,
    waiting: Arc<AtomicUsize>,
    room: Receiver<()>,
    /// Given up since the reader was last told.
    shed: u64,
}

impl Unasked {
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Acquire) >= PAUSE
    }

    /// Waits until the reader has taken something off a full queue. May wake
    /// for an earlier time; the caller looks again.
    pub(super) async fn room(&self) {
        if self.room.recv().await.is_err() {
            // The reader is gone, and what it left counts no more.
            self.waiting.store(0, Ordering::Release);
        }
    }

    pub(super) fn push(&mut self, news: News) {
        if self.lines.is_closed() {
            return;
        }
        let is_line = matches!(news, News::Line(_));
        if is_line && self.waiting.load(Ordering::Acquire) + weight(&news) > SHED {
            self.shed += 1;
            return;
        }
        if self.shed > 0 {
            let lost = std::mem::take(&mut self.shed);
            let gap = format!(r#"{{"type":"gap","lost":{lost},"cause":"slow"}}"#);
            self.queue(News::Line(Heard::new("gap", &gap)));
        }
        self.queue(news);
    }

    fn queue(&self, news: News) {
        self.waiting.fetch_add(weight(&news), Ordering::AcqRel);
        // It only fails when the reader has gone, who then wants nothing.
        let _ = self.lines.try_send(news);
    }
}

/// What the hub says unasked: messages, and what happens to channels and
/// operations. A reader that is slow slows the hub down. While an operation
/// runs or an answer is awaited, lines are read on, and above 16 MiB they are
/// shed and counted in a `gap` that has no channel.
#[derive(Debug)]
pub struct Lines {
    lines: Receiver<News>,
    waiting: Arc<AtomicUsize>,
    room: Sender<()>,
}

impl Lines {
    /// The next line or what has happened to the connection; none when that has
    /// ended for good and all is read.
    pub async fn news(&self) -> Option<News> {
        let news = self.lines.recv().await.ok()?;
        self.took(&news);
        Some(news)
    }

    /// As [`Lines::news`], if something waits.
    pub fn try_news(&self) -> Option<News> {
        let news = self.lines.try_recv().ok()?;
        self.took(&news);
        Some(news)
    }

    /// The next line, for those who need not know on which connection it came.
    pub async fn next(&self) -> Option<Heard> {
        loop {
            if let News::Line(heard) = self.news().await? {
                return Some(heard);
            }
        }
    }

    /// As [`Lines::next`], if one waits.
    pub fn try_next(&self) -> Option<Heard> {
        loop {
            if let News::Line(heard) = self.try_news()? {
                return Some(heard);
            }
        }
    }

    fn took(&self, news: &News) {
        let before = self.waiting.fetch_sub(weight(news), Ordering::AcqRel);
        if before >= PAUSE {
            // Full means that the link was told already.
            let _ = self.room.try_send(());
        }
    }
}
