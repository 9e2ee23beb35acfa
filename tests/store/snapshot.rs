//! One daemon takes the store over from another, and goes on.

use wshubd::edge::store::{ImportError, Store};
use wshubd::hub::settings::WriteThrough;
use wshubd::hub::{LogKey, StoreEvent};
use wshubd::protocol::UserId;

use crate::harness::{DELAY, MIB, NOTHING, PROGRAM, SECOND, StoreHarness, log, stored};

fn texts(read: &[(u64, String)]) -> Vec<(u64, &str)> {
    read.iter().map(|(seq, text)| (*seq, text.as_str())).collect()
}

#[test]
fn snapshot_has_what_is_in_memory_and_on_the_disk() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "on the disk");
    assert_eq!(harness.events(), [stored(&orders, 1, 1)]);
    for (seq, disk) in [(2, WriteThrough::Behind), (3, WriteThrough::Stop), (4, WriteThrough::Never)] {
        harness.keep(&orders, seq, disk, "in memory");
    }
    harness.advance(DELAY / 4);
    let due = harness.deadline();
    harness.hand_over();
    assert!(harness.store.is_open());
    assert_eq!(harness.deadline(), due, "owed for as long as before");
    let in_memory = "in memory";
    let all = [(1, "on the disk"), (2, in_memory), (3, in_memory), (4, in_memory)];
    assert_eq!(texts(&harness.read(&orders, 10, 1000)), all);
    harness.later(DELAY);
    assert_eq!(harness.events(), [stored(&orders, 2, 3)], "what is written at a stop is written now");
    harness.reload();
    assert_eq!(texts(&harness.read(&orders, 10, 1000)), all[..3]);
}

#[test]
fn store_in_memory_is_handed_over_too() {
    let mut harness = StoreHarness::new();
    let inbox = LogKey::Inbox(UserId::new("ada").unwrap());
    harness.store = Store::in_memory();
    harness.keep(&log("orders"), 7, WriteThrough::Behind, "brief");
    let bytes = harness.store.export(harness.now);
    harness.store = Store::import(None, harness.now, &bytes).unwrap();
    assert_eq!(texts(&harness.read(&log("orders"), 10, 1000)), [(7, "brief")]);
    assert_eq!(harness.read(&inbox, 10, 1000), []);
    assert_eq!(harness.store.unwritten_len(), 1);
}

#[test]
fn commit_under_way_is_made_again_and_reported_once() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 1, WriteThrough::Now, "promised");
    harness.keep(&orders, 2, WriteThrough::Behind, "owed");
    harness.begin_commit();
    harness.hand_over();
    // What is asked for once more is not written once more.
    assert_eq!(harness.store.sync_now(orders.clone(), 1), None);
    harness.advance(DELAY);
    harness.settle();
    assert_eq!(harness.events(), [stored(&orders, 1, 2)]);
    let found = harness.seqs_after_crash();
    assert_eq!(found, [1, 2]);
}

#[test]
fn forgotten_message_of_such_a_commit_stays_forgotten() {
    for others in [0, 1] {
        let mut harness = StoreHarness::new();
        let orders = log("orders");
        for seq in 1..=others {
            harness.keep(&orders, seq, WriteThrough::Now, "another");
        }
        harness.settle();
        harness.keep(&orders, 5, WriteThrough::Now, "brief");
        harness.begin_commit();
        harness.hand_over();
        harness.forget(&orders, 5, 5);
        harness.settle();
        harness.later(6 * SECOND);
        let found = harness.seqs_after_crash();
        assert_eq!(found, (1..=others).collect::<Vec<_>>());
    }
}

#[test]
fn promised_message_that_was_forgotten_is_written() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 1, WriteThrough::Now, "brief");
    harness.forget(&orders, 1, 1);
    harness.hand_over();
    assert_eq!(harness.read(&orders, 10, 1000), []);
    harness.settle();
    assert_eq!(harness.events(), [stored(&orders, 1, 1)]);
}

#[test]
fn garbage_not_written_down_is_written_by_the_next() {
    let mut harness = StoreHarness::new();
    let (orders, stock) = (log("orders"), log("stock"));
    for seq in 1..=3 {
        harness.keep(&orders, seq, WriteThrough::Now, "brief");
        harness.keep(&stock, seq, WriteThrough::Now, "brief");
    }
    harness.settle();
    harness.forget(&orders, 1, 3);
    harness.forget(&stock, 2, 2);
    harness.advance(2 * SECOND);
    harness.hand_over();
    assert_eq!(harness.deadline(), Some(SECOND), "one look after the process that has ended");
    harness.wait_for_process_end();
    harness.later(SECOND);
    assert_eq!(harness.deadline(), Some(2 * SECOND));
    harness.later(2 * SECOND);
    let found = harness.reload();
    let found: Vec<_> = found
        .iter()
        .map(|one| (&one.log, one.kept.iter().map(|kept| kept.seq).collect::<Vec<_>>()))
        .collect();
    assert_eq!(found, [(&stock, vec![1, 3])]);
}

#[test]
fn unresponsive_disk_takes_bounded_memory_for_notices() {
    let mut harness = StoreHarness::new();
    // Neighbours that stay: what goes from between them is noted one by one.
    let logs = [log("orders"), log("stock")];
    for log in &logs {
        harness.keep(log, 1, WriteThrough::Now, "stays");
    }
    harness.settle();
    let mut sizes = Vec::new();
    for round in 0..12_u64 {
        let seqs = 2 + round * 400..2 + (round + 1) * 400;
        for seq in seqs.clone() {
            harness.keep(&logs[usize::from(seq.is_multiple_of(2))], seq, WriteThrough::Behind, "brief");
        }
        harness.advance(DELAY);
        harness.commit_unanswered();
        logs.iter().for_each(|log| harness.forget(log, seqs.start, seqs.end));
        harness.advance(30 * SECOND);
        sizes.push(harness.store.export(harness.now).len());
    }
    // The first was a full one; of each that follows a few messages try the disk.
    let growth: Vec<usize> = sizes.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!(sizes[0] < 20_000 && growth.iter().all(|growth| *growth < 600), "{sizes:?}");
    harness.settle();
    harness.crash();
    let left = harness.load().iter().map(|found| found.kept.len()).collect::<Vec<_>>();
    assert_eq!(left, [1, 1], "and nothing of it comes back");
}

#[test]
fn queued_notice_is_read_by_the_next() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in 1..=3 {
        harness.keep(&orders, seq, WriteThrough::Now, "nobody heard it");
    }
    harness.settle();
    harness.fetch_notice(&orders, 0, 3);
    harness.forget(&orders, 1, 3);
    harness.tick();
    harness.events();
    harness.hand_over();
    assert_eq!(harness.pages(), [[1, 2, 3]]);
}

#[test]
fn failing_disk_fails_for_the_next_and_is_tried_when_due() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.end_idle_process();
    harness.program(NOTHING);
    harness.write(&orders, 1, "brief");
    let vain = StoreEvent::NotStored { log: orders.clone(), seq: 1 };
    assert_eq!(harness.events(), [StoreEvent::Failed, vain]);
    let (why, due) = (harness.store.failure().map(str::to_owned), harness.deadline());
    harness.hand_over();
    assert_eq!((harness.store.failure(), harness.deadline()), (why.as_deref(), due));
    assert!(harness.store.is_open(), "the hub knows");
    harness.program(PROGRAM);
    harness.later(due.unwrap());
    assert_eq!(harness.events(), [stored(&orders, 1, 1), StoreEvent::Recovered]);
}

#[test]
fn recovery_not_finished_begins_anew() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "brief");
    harness.crash();
    for _ in 0..2 {
        harness.tick();
        assert!(!harness.store.is_open());
        harness.hand_over();
        assert!(!harness.store.is_open());
        harness.tick();
        harness.receive();
    }
    let found: Vec<u64> = harness.load()[0].kept.iter().map(|kept| kept.seq).collect();
    assert_eq!(found, [1]);
}

#[test]
fn compaction_goes_on_after_a_handover() {
    const CAP: u64 = 2 * MIB;
    let mut harness = StoreHarness::with_capacity(CAP);
    let orders = log("orders");
    let text = "x".repeat(4000);
    harness.keep(&orders, 1, WriteThrough::Now, "the oldest of all");
    for seq in 2..1000 {
        harness.keep(&orders, seq, WriteThrough::Now, &text);
        if seq > 20 {
            harness.forget(&orders, seq - 15, seq - 15);
        }
        harness.tick();
        if seq % 10 == 0 {
            harness.receive();
            harness.hand_over();
        }
        if seq % 50 == 0 {
            harness.settle();
            assert!(harness.used() <= CAP, "{}", harness.used());
        }
    }
    harness.settle();
    assert_eq!(harness.store.failure(), None);
    assert_eq!(harness.read(&orders, 100, 1 << 20)[0], (1, "the oldest of all".to_owned()));
}

#[test]
fn the_hub_clock_and_what_was_spent_go_on() {
    let mut harness = StoreHarness::new();
    harness.set_flash_budget(MIB);
    harness.write(&log("orders"), 1, "brief");
    let known = |harness: &StoreHarness| {
        let mut statistics = wshubd::protocol::frame::Statistics::default();
        harness.store.describe(harness.now.moment, &mut statistics);
        (harness.store.hub_clock().cloned(), statistics)
    };
    let before = known(&harness);
    assert!(before.1.flash_spent_bytes > 0 && before.1.disk_bytes > 0);
    harness.hand_over();
    assert_eq!(known(&harness), before);
}

#[test]
fn store_goes_on_if_nothing_takes_over() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 1, WriteThrough::Now, "brief");
    harness.begin_commit();
    harness.store.export(harness.now);
    harness.settle();
    assert_eq!(harness.events(), [stored(&orders, 1, 1)]);
    harness.fetch(&orders, 0, 10, 1000);
    harness.tick();
    harness.store.export(harness.now);
    assert_eq!(harness.pages(), [[1]]);
}

#[test]
fn bytes_that_are_no_store_are_refused_by_name() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "on the disk");
    harness.keep(&orders, 2, WriteThrough::Behind, "in memory");
    let bytes = harness.store.export(harness.now);
    let options = Some(harness.options.clone());
    let import = |bytes: &[u8]| Store::import(options.clone(), harness.now, bytes);
    assert!(import(&bytes).is_ok());
    for end in 0..bytes.len() {
        assert!(matches!(import(&bytes[..end]), Err(ImportError::Form(_))), "cut off at {end}");
    }
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        assert!(import(&bytes).is_err(), "changed at {at}");
    }
    let why = |refused: Result<Store, ImportError>| refused.unwrap_err().to_string();
    let mut older = bytes.clone();
    // Behind the mark.
    older[1] = 0;
    assert_eq!(why(import(&older)), "the store is of version 0, this daemon understands version 2");
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(why(import(&longer)), "the store cannot be read: it is longer than it says");
    let directory = harness.directory.store().display().to_string();
    let moved = Store::import(None, harness.now, &bytes);
    assert_eq!(why(moved), format!("the store was in {directory}, and is in memory now"));
}

#[test]
fn process_that_hangs_at_a_handover_is_killed_in_time() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "on the disk");
    harness.events();
    harness.signal(rustix::process::Signal::STOP);
    harness.keep(&orders, 2, WriteThrough::Now, "promised");
    harness.begin_commit();
    harness.hand_over();
    // The next daemon starts no other process before that, so only this one can end.
    harness.program(NOTHING);
    harness.tick();
    assert_eq!(harness.events(), [StoreEvent::Failed, StoreEvent::NotStored { log: orders.clone(), seq: 2 }]);
    harness.advance(10 * SECOND);
    harness.tick();
    harness.wait_for_process_end();
    harness.program(PROGRAM);
    harness.later(30 * SECOND);
    assert_eq!(harness.events(), [stored(&orders, 2, 2), StoreEvent::Recovered]);
}

#[test]
fn failure_of_the_disk_is_known_after_a_handover() {
    let mut harness = StoreHarness::new();
    harness.write(&log("orders"), 1, "on the disk");
    assert!(!harness.store.is_failure_reported());
    harness.kill();
    harness.wait_for_process_end();
    harness.program(NOTHING);
    harness.keep(&log("orders"), 2, WriteThrough::Now, "promised");
    while !harness.store.is_failure_reported() {
        harness.receive_or_pass();
    }
    harness.hand_over();
    assert!(harness.store.is_failure_reported());
}
