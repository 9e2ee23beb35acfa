//! Reading old generations back: what it costs, and who is next.

use std::time::Duration;

use wshubd::edge::store::Store;
use wshubd::hub::LogKey;
use wshubd::hub::settings::WriteThrough;

use crate::harness::{Stage, log};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// A message of each log in each of several generations: in the nth, the nth.
fn spread(stage: &mut Stage, logs: &[LogKey], generations: u64) {
    for seq in 1..=generations {
        for log in logs {
            stage.keep(log, seq, WriteThrough::Now, &"x".repeat(70_000 / logs.len()));
        }
        stage.settle();
    }
    stage.told();
    assert_eq!(stage.place.names().len() as u64, generations);
}

#[test]
fn a_generation_that_is_only_read_stays_as_it_is() {
    let mut stage = Stage::new(MIB);
    let orders = log("orders");
    spread(&mut stage, std::slice::from_ref(&orders), 3);
    let files = |stage: &Stage| {
        let each = std::fs::read_dir(stage.place.generation(0)).unwrap().map(|entry| entry.unwrap().path());
        let mut each: Vec<_> =
            each.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?))).collect();
        each.sort();
        each
    };
    let before = files(&stage);
    assert_eq!(stage.read(&orders, 1, 50_000).len(), 3);
    stage.crash();
    assert_eq!(stage.load().len(), 1);
    assert!(files(&stage) == before);
}

#[test]
fn all_who_wait_for_a_generation_have_their_pages_before_another_is_opened() {
    let mut stage = Stage::new(MIB);
    let logs: Vec<LogKey> = ["a", "b", "c", "d"].map(log).to_vec();
    spread(&mut stage, &logs, 4);
    // Each page is of one generation: the first, the second, the third.
    for (which, after) in [(0, 0), (1, 1), (2, 0), (0, 2), (3, 1), (1, 0)] {
        stage.ask(&logs[which], after, 1, 50_000);
    }
    let pages: Vec<u64> = stage.pages().into_iter().flatten().collect();
    // The second log asked for its second message first, and is answered so.
    assert_eq!(pages, [1, 1, 2, 2, 3, 1]);
}

#[test]
fn who_waits_for_another_generation_does_not_wait_for_ever() {
    let mut stage = Stage::new(MIB);
    let logs: Vec<LogKey> = ["a", "b"].map(log).to_vec();
    spread(&mut stage, &logs, 3);
    stage.ask(&logs[0], 0, 1, 50_000);
    stage.act(Store::tick);
    stage.ask(&logs[1], 1, 1, 50_000);
    for pages in 1..=6 {
        // Somebody else comes for the first each time.
        stage.ask(&logs[0], 0, 1, 50_000);
        while stage.pages_so_far().len() < pages {
            stage.hear();
        }
        stage.advance(SECOND / 4);
    }
    // What has been ordered already is read; then a second is over.
    assert_eq!(stage.pages_so_far(), [1, 1, 1, 1, 1, 2]);
}

#[test]
fn very_many_who_wait_for_what_is_forgotten_are_answered_in_one_go() {
    let mut stage = Stage::new(MIB);
    let orders = log("orders");
    spread(&mut stage, std::slice::from_ref(&orders), 2);
    for _ in 0..100_000 {
        stage.ask(&orders, 0, 1, 50_000);
    }
    stage.forget(&orders, 1, 2);
    assert_eq!(stage.pages(), vec![Vec::<u64>::new(); 100_000]);
}
