//! Reading old generations back: what it costs, and who is next.

use wshubd::hub::LogKey;
use wshubd::hub::settings::WriteThrough;

use crate::harness::{MIB, SECOND, StoreHarness, log};

/// A message of each log in each of several generations: in the nth, the nth.
fn spread(harness: &mut StoreHarness, logs: &[LogKey], generations: u64) {
    for seq in 1..=generations {
        for log in logs {
            harness.keep(log, seq, WriteThrough::Now, &"x".repeat(70_000 / logs.len()));
        }
        harness.settle();
    }
    harness.events();
    assert_eq!(harness.directory.names().len() as u64, generations);
}

#[test]
fn generation_that_is_only_read_stays_as_it_is() {
    let mut harness = StoreHarness::with_capacity(MIB);
    let orders = log("orders");
    spread(&mut harness, std::slice::from_ref(&orders), 3);
    let files = |harness: &StoreHarness| {
        let each =
            std::fs::read_dir(harness.directory.generation(0)).unwrap().map(|entry| entry.unwrap().path());
        let mut each: Vec<_> =
            each.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect();
        each.sort();
        each
    };
    let before = files(&harness);
    assert_eq!(harness.read(&orders, 1, 50_000).len(), 3);
    harness.crash();
    assert_eq!(harness.load().len(), 1);
    assert!(files(&harness) == before);
}

#[test]
fn pages_of_the_open_generation_are_read_first() {
    let mut harness = StoreHarness::with_capacity(MIB);
    let logs: Vec<LogKey> = ["a", "b", "c", "d"].map(log).to_vec();
    spread(&mut harness, &logs, 4);
    // Each page is of one generation: the first, the second, the third.
    for (which, after) in [(0, 0), (1, 1), (2, 0), (0, 2), (3, 1), (1, 0)] {
        harness.fetch(&logs[which], after, 1, 50_000);
    }
    let pages: Vec<u64> = harness.pages().into_iter().flatten().collect();
    // The second log asked for its second message first, and is answered so.
    assert_eq!(pages, [1, 1, 2, 2, 3, 1]);
}

#[test]
fn pages_of_another_generation_wait_a_bounded_time() {
    let mut harness = StoreHarness::with_capacity(MIB);
    let logs: Vec<LogKey> = ["a", "b"].map(log).to_vec();
    spread(&mut harness, &logs, 3);
    harness.fetch(&logs[0], 0, 1, 50_000);
    harness.tick();
    harness.fetch(&logs[1], 1, 1, 50_000);
    for pages in 1..=6 {
        // Another reader fetches the first log each time.
        harness.fetch(&logs[0], 0, 1, 50_000);
        while harness.pages_so_far().len() < pages {
            harness.receive();
        }
        harness.advance(SECOND / 4);
    }
    // What has been ordered already is read; then a second is over.
    assert_eq!(harness.pages_so_far(), [1, 1, 1, 1, 1, 2]);
}

#[test]
fn very_many_reads_of_forgotten_messages_end_at_once() {
    let mut harness = StoreHarness::with_capacity(MIB);
    let orders = log("orders");
    spread(&mut harness, std::slice::from_ref(&orders), 2);
    for _ in 0..100_000 {
        harness.fetch(&orders, 0, 1, 50_000);
    }
    harness.forget(&orders, 1, 2);
    assert_eq!(harness.pages(), vec![Vec::<u64>::new(); 100_000]);
}
