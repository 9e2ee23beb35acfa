//! The store never reaches its cap: the hub learns in time how much it takes.

use std::collections::VecDeque;

use wshubd::hub::settings::WriteThrough;
use wshubd::hub::{Input, LogKey, StoreEvent};

use crate::harness::{DELAY, MIB, StoreHarness, log};

/// What a hub does that keeps as much as it may: the oldest gives way.
struct CapacityHarness {
    harness: StoreHarness,
    cap: u64,
    /// What all messages may count together.
    limit: u64,
    kept: VecDeque<(LogKey, u64, u64)>,
    sum: u64,
    /// Positions, as they are given out.
    last: u64,
    evicted: u64,
}

impl CapacityHarness {
    fn new(cap: u64) -> Self {
        let (kept, limit) = (VecDeque::new(), cap / 2);
        Self { harness: StoreHarness::with_capacity(cap), cap, limit, kept, sum: 0, last: 0, evicted: 0 }
    }

    fn keep(&mut self, log: &LogKey, bytes: usize, disk: WriteThrough) {
        self.last += 1;
        let text = "x".repeat(bytes);
        self.harness.keep(log, self.last, disk, &text);
        let counted = counted(log, bytes);
        self.kept.push_back((log.clone(), self.last, counted));
        self.sum += counted;
        self.fit();
    }

    /// Lets the oldest go until all that is kept is within the limit.
    fn fit(&mut self) {
        while self.sum > self.limit
            && let Some((log, seq, counted)) = self.kept.pop_front()
        {
            self.harness.forget(&log, seq, seq);
            self.sum -= counted;
            self.evicted += 1;
        }
    }

    /// Takes the events of the store, and waits until it works.
    fn follow(&mut self) {
        loop {
            let events: Vec<Input> = self.harness.inputs.drain(..).collect();
            for fact in events {
                match fact {
                    Input::Store(StoreEvent::Capacity { bytes }) => {
                        self.limit = bytes.unwrap_or(self.cap / 2).min(self.cap / 2);
                    }
                    Input::Store(fact) => assert!(matches!(fact, StoreEvent::Stored { .. }), "{fact:?}"),
                    other => panic!("{other:?}"),
                }
            }
            self.fit();
            self.harness.tick();
            assert_eq!(self.harness.store.failure(), None);
            if self.harness.store.is_finished() && self.harness.inputs.is_empty() {
                break;
            }
            if !self.harness.store.is_finished() {
                self.harness.receive();
            }
        }
        let used = self.harness.used();
        assert!(used <= self.cap, "{used} of {} are used", self.cap);
    }

    /// Stops, when nothing gives way any more, and reads what is on the disk then.
    fn stop_and_count(&mut self) -> usize {
        self.harness.store.finish();
        self.harness.settle();
        assert_eq!((self.harness.store.failure(), self.harness.store.unwritten_len()), (None, 0));
        assert!(self.harness.used() <= self.cap);
        self.harness.crash();
        self.harness.load().iter().map(|found| found.kept.len()).sum()
    }
}

/// What a message counts of so many bytes of text.
fn counted(log: &LogKey, bytes: usize) -> u64 {
    let LogKey::Channel(channel) = log else { panic!("{log:?}") };
    crate::harness::message(channel, 1, &"x".repeat(bytes)).size() as u64
}

/// Fills a store with messages of one size until most of them had to go again, some at a
/// time, and gives it back after a stop that loses nothing.
fn fill(cap: u64, bytes: usize, at_once: u64, logs: u64) -> CapacityHarness {
    let mut harness = CapacityHarness::new(cap);
    let each = counted(&log("l:0"), bytes).max(bytes as u64 + 600);
    let count = (2 * cap / each).max(24);
    for number in 0..count {
        harness.keep(&log(&format!("l:{}", number % logs)), bytes, WriteThrough::Behind);
        if number % at_once == at_once - 1 {
            harness.harness.advance(DELAY);
            harness.follow();
        }
    }
    harness.harness.advance(DELAY);
    harness.follow();
    let kept = harness.kept.len();
    assert!(harness.evicted > 0, "{bytes} bytes: it was never full");
    assert_eq!(harness.stop_and_count(), kept, "{bytes} bytes, {at_once} at once, {logs} logs");
    harness
}

#[test]
fn messages_of_any_size_in_bursts_never_fill_the_store() {
    for bytes in [1, 100, 1000, 10_000, 100_000] {
        fill(4 * MIB, bytes, 200, 1);
    }
    fill(16 * MIB, 512 << 10, 8, 1);
}

#[test]
fn messages_of_any_size_one_by_one_never_fill_the_store() {
    for bytes in [300, 3000, 30_000, 300_000] {
        fill(4 * MIB, bytes, 1, 3);
    }
}

#[test]
fn message_in_each_of_very_many_logs_never_fills_the_store() {
    let harness = fill(4 * MIB, 1, 1000, u64::MAX);
    assert!(harness.kept.len() > 3000, "{} small messages fit into 4 MiB", harness.kept.len());
}

#[test]
fn capacity_follows_when_small_messages_come_after_large() {
    let mut harness = CapacityHarness::new(4 * MIB);
    for number in 0..40 {
        harness.keep(&log(&format!("large:{}", number % 5)), 50_000, WriteThrough::Behind);
        harness.harness.advance(DELAY);
        harness.follow();
    }
    for number in 0..8000 {
        harness.keep(&log(&format!("small:{}", number % 50)), 1, WriteThrough::Behind);
        if number % 400 == 399 {
            harness.harness.advance(DELAY);
            harness.follow();
        }
    }
    let kept = harness.kept.len();
    assert_eq!(harness.stop_and_count(), kept);
}

#[test]
fn stop_has_room_for_what_was_in_memory_until_then() {
    let mut harness = CapacityHarness::new(4 * MIB);
    for number in 0..16_000 {
        let when = if number % 2 == 0 { WriteThrough::Behind } else { WriteThrough::Stop };
        harness.keep(&log(&format!("l:{}", number % 7)), 20, when);
        if number % 300 == 299 {
            harness.harness.advance(DELAY);
            harness.follow();
        }
    }
    assert!(harness.evicted > 0);
    let kept = harness.kept.len();
    assert_eq!(harness.stop_and_count(), kept);
}

#[test]
fn burst_of_small_messages_fits_when_written_at_a_stop() {
    let mut harness = CapacityHarness::new(4 * MIB);
    for number in 0..20_000 {
        harness.keep(&log(&format!("l:{number}")), 100, WriteThrough::Behind);
        if number % 100 == 99 {
            harness.follow();
        }
    }
    assert!(harness.evicted > 0);
    let kept = harness.kept.len();
    assert_eq!(harness.stop_and_count(), kept);
    assert!(kept > 2500, "{kept} of 266 bytes fit into 4 MiB");
}

#[test]
fn messages_in_memory_take_no_room_on_the_disk() {
    let mut harness = CapacityHarness::new(4 * MIB);
    for number in 0..3000 {
        harness.keep(&log("on disk"), 100, WriteThrough::Behind);
        harness.keep(&log("in memory"), 100, WriteThrough::Never);
        if number % 300 == 299 {
            harness.harness.advance(DELAY);
            harness.follow();
        }
    }
    let both = harness.limit;
    let mut alone = CapacityHarness::new(4 * MIB);
    for number in 0..3000 {
        alone.keep(&log("on disk"), 100, WriteThrough::Behind);
        if number % 300 == 299 {
            alone.harness.advance(DELAY);
            alone.follow();
        }
    }
    let in_memory: u64 = harness
        .kept
        .iter()
        .filter(|(log, ..)| *log == crate::harness::log("in memory"))
        .map(|(.., counted)| counted)
        .sum();
    let expected = (alone.limit + in_memory).min(2 * MIB);
    assert!(both.abs_diff(expected) < expected / 4, "{both} are told, {expected} expected");
}
