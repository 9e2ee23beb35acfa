//! One daemon takes the store over from another, and goes on.

use std::time::Duration;

use wshubd::edge::store::{ImportError, Store};
use wshubd::hub::settings::WriteThrough;
use wshubd::hub::{LogKey, StoreEvent};
use wshubd::protocol::UserId;

use crate::harness::{DELAY, NOTHING, PROGRAM, StoreBench, log, stored};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

fn texts(read: &[(u64, String)]) -> Vec<(u64, &str)> {
    read.iter().map(|(seq, text)| (*seq, text.as_str())).collect()
}

#[test]
fn snapshot_has_what_is_in_memory_and_on_the_disk() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "on the disk");
    bench.settle();
    assert_eq!(bench.events(), [stored(&orders, 1, 1)]);
    for (seq, disk) in [(2, WriteThrough::Behind), (3, WriteThrough::Stop), (4, WriteThrough::Never)] {
        bench.keep(&orders, seq, disk, "in memory");
    }
    bench.advance(DELAY / 4);
    let due = bench.deadline();
    bench.hand_over();
    assert!(bench.store.is_open());
    assert_eq!(bench.deadline(), due, "owed for as long as before");
    let in_memory = "in memory";
    let all = [(1, "on the disk"), (2, in_memory), (3, in_memory), (4, in_memory)];
    assert_eq!(texts(&bench.read(&orders, 10, 1000)), all);
    bench.later(DELAY);
    assert_eq!(bench.events(), [stored(&orders, 2, 3)], "what is written at a stop is written now");
    bench.crash();
    bench.load();
    assert_eq!(texts(&bench.read(&orders, 10, 1000)), all[..3]);
}

#[test]
fn store_in_memory_is_handed_over_too() {
    let mut bench = StoreBench::new(64 * MIB);
    let inbox = LogKey::Inbox(UserId::new("ada").unwrap());
    bench.store = Store::in_memory();
    bench.keep(&log("orders"), 7, WriteThrough::Behind, "brief");
    let bytes = bench.store.export(bench.now);
    bench.store = Store::import(None, bench.now, &bytes).unwrap();
    assert_eq!(texts(&bench.read(&log("orders"), 10, 1000)), [(7, "brief")]);
    assert_eq!(bench.read(&inbox, 10, 1000), []);
    assert_eq!(bench.store.unwritten_len(), 1);
}

#[test]
fn commit_under_way_is_made_again_and_reported_once() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "promised");
    bench.keep(&orders, 2, WriteThrough::Behind, "owed");
    begin_commit(&mut bench);
    bench.hand_over();
    // What is asked for once more is not written once more.
    assert_eq!(bench.store.sync_now(orders.clone(), 1), None);
    bench.advance(DELAY);
    bench.settle();
    assert_eq!(bench.events(), [stored(&orders, 1, 2)]);
    bench.crash();
    let found: Vec<u64> = bench.load()[0].kept.iter().map(|kept| kept.seq).collect();
    assert_eq!(found, [1, 2]);
}

#[test]
fn forgotten_message_of_such_a_commit_stays_forgotten() {
    for others in [0, 1] {
        let mut bench = StoreBench::new(64 * MIB);
        let orders = log("orders");
        for seq in 1..=others {
            bench.keep(&orders, seq, WriteThrough::Now, "another");
        }
        bench.settle();
        bench.keep(&orders, 5, WriteThrough::Now, "brief");
        begin_commit(&mut bench);
        bench.hand_over();
        bench.forget(&orders, 5, 5);
        bench.settle();
        bench.later(6 * SECOND);
        bench.crash();
        let found = bench.load();
        let found: Vec<u64> = found.iter().flat_map(|found| found.kept.iter().map(|kept| kept.seq)).collect();
        assert_eq!(found, (1..=others).collect::<Vec<_>>());
    }
}

/// Orders a commit of a process that is there, whose answer is not heard.
fn begin_commit(bench: &mut StoreBench) {
    bench.events();
    bench.act(Store::tick);
    assert_eq!(bench.deadline(), Some(10 * SECOND), "the patience with an order");
    assert_eq!(bench.events(), []);
}

#[test]
fn promised_message_that_was_forgotten_is_written() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "brief");
    bench.forget(&orders, 1, 1);
    bench.hand_over();
    assert_eq!(bench.read(&orders, 10, 1000), []);
    bench.settle();
    assert_eq!(bench.events(), [stored(&orders, 1, 1)]);
}

#[test]
fn garbage_not_written_down_is_written_by_the_next() {
    let mut bench = StoreBench::new(64 * MIB);
    let (orders, stock) = (log("orders"), log("stock"));
    for seq in 1..=3 {
        bench.keep(&orders, seq, WriteThrough::Now, "brief");
        bench.keep(&stock, seq, WriteThrough::Now, "brief");
    }
    bench.settle();
    bench.forget(&orders, 1, 3);
    bench.forget(&stock, 2, 2);
    bench.advance(2 * SECOND);
    bench.hand_over();
    assert_eq!(bench.deadline(), Some(SECOND), "one look after the process that has ended");
    bench.wait_for_process_end();
    bench.later(SECOND);
    assert_eq!(bench.deadline(), Some(2 * SECOND));
    bench.later(2 * SECOND);
    bench.crash();
    let found = bench.load();
    let found: Vec<_> = found
        .iter()
        .map(|one| (&one.log, one.kept.iter().map(|kept| kept.seq).collect::<Vec<_>>()))
        .collect();
    assert_eq!(found, [(&stock, vec![1, 3])]);
}

#[test]
fn unresponsive_disk_takes_bounded_memory_for_notices() {
    let mut bench = StoreBench::new(64 * MIB);
    // Neighbours that stay: what goes from between them is noted one by one.
    let logs = [log("orders"), log("stock")];
    for log in &logs {
        bench.keep(log, 1, WriteThrough::Now, "stays");
    }
    bench.settle();
    let mut sizes = Vec::new();
    for round in 0..12_u64 {
        let seqs = 2 + round * 400..2 + (round + 1) * 400;
        for seq in seqs.clone() {
            bench.keep(&logs[usize::from(seq.is_multiple_of(2))], seq, WriteThrough::Behind, "brief");
        }
        bench.advance(DELAY);
        bench.commit_unanswered();
        logs.iter().for_each(|log| bench.forget(log, seqs.start, seqs.end));
        bench.advance(30 * SECOND);
        sizes.push(bench.store.export(bench.now).len());
    }
    // The first was a full one; of each that follows a few messages try the disk.
    let growth: Vec<usize> = sizes.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!(sizes[0] < 20_000 && growth.iter().all(|growth| *growth < 600), "{sizes:?}");
    bench.settle();
    bench.crash();
    let left = bench.load().iter().map(|found| found.kept.len()).collect::<Vec<_>>();
    assert_eq!(left, [1, 1], "and nothing of it comes back");
}

#[test]
fn queued_notice_is_read_by_the_next() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=3 {
        bench.keep(&orders, seq, WriteThrough::Now, "nobody heard it");
    }
    bench.settle();
    bench.fetch_notice(&orders, 0, 3);
    bench.forget(&orders, 1, 3);
    bench.act(Store::tick);
    bench.events();
    bench.hand_over();
    assert_eq!(bench.pages(), [[1, 2, 3]]);
}

#[test]
fn failing_disk_fails_for_the_next_and_is_tried_when_due() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.later(31 * SECOND);
    bench.wait_for_process_end();
    bench.program(NOTHING);
    bench.keep(&orders, 1, WriteThrough::Now, "brief");
    bench.settle();
    let vain = StoreEvent::NotStored { log: orders.clone(), seq: 1 };
    assert_eq!(bench.events(), [StoreEvent::Failed, vain]);
    let (why, due) = (bench.store.failure().map(str::to_owned), bench.deadline());
    bench.hand_over();
    assert_eq!((bench.store.failure(), bench.deadline()), (why.as_deref(), due));
    assert!(bench.store.is_open(), "the hub knows");
    bench.program(PROGRAM);
    bench.later(due.unwrap());
    assert_eq!(bench.events(), [stored(&orders, 1, 1), StoreEvent::Recovered]);
}

#[test]
fn recovery_not_finished_begins_anew() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "brief");
    bench.settle();
    bench.crash();
    for _ in 0..2 {
        bench.act(Store::tick);
        assert!(!bench.store.is_open());
        bench.hand_over();
        assert!(!bench.store.is_open());
        bench.act(Store::tick);
        bench.receive();
    }
    let found: Vec<u64> = bench.load()[0].kept.iter().map(|kept| kept.seq).collect();
    assert_eq!(found, [1]);
}

#[test]
fn compaction_goes_on_after_a_handover() {
    const CAP: u64 = 2 * MIB;
    let mut bench = StoreBench::new(CAP);
    let orders = log("orders");
    let text = "x".repeat(4000);
    bench.keep(&orders, 1, WriteThrough::Now, "the oldest of all");
    for seq in 2..1000 {
        bench.keep(&orders, seq, WriteThrough::Now, &text);
        if seq > 20 {
            bench.forget(&orders, seq - 15, seq - 15);
        }
        bench.act(Store::tick);
        if seq % 10 == 0 {
            bench.receive();
            bench.hand_over();
        }
        if seq % 50 == 0 {
            bench.settle();
            assert!(bench.used() <= CAP, "{}", bench.used());
        }
    }
    bench.settle();
    assert_eq!(bench.store.failure(), None);
    assert_eq!(bench.read(&orders, 100, 1 << 20)[0], (1, "the oldest of all".to_owned()));
}

#[test]
fn the_hub_clock_and_what_was_spent_go_on() {
    let mut bench = StoreBench::new(64 * MIB);
    bench.options.flash_budget = Some(MIB);
    bench.crash();
    bench.load();
    bench.keep(&log("orders"), 1, WriteThrough::Now, "brief");
    bench.settle();
    let known = |bench: &StoreBench| {
        let mut statistics = wshubd::protocol::frame::Statistics::default();
        bench.store.describe(bench.now.moment, &mut statistics);
        (bench.store.hub_clock().cloned(), statistics)
    };
    let before = known(&bench);
    assert!(before.1.flash_spent_bytes > 0 && before.1.disk_bytes > 0);
    bench.hand_over();
    assert_eq!(known(&bench), before);
}

#[test]
fn store_goes_on_if_nothing_takes_over() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "brief");
    begin_commit(&mut bench);
    bench.store.export(bench.now);
    bench.settle();
    assert_eq!(bench.events(), [stored(&orders, 1, 1)]);
    bench.fetch(&orders, 0, 10, 1000);
    bench.act(Store::tick);
    bench.store.export(bench.now);
    assert_eq!(bench.pages(), [[1]]);
}

#[test]
fn bytes_that_are_no_store_are_refused_by_name() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "on the disk");
    bench.settle();
    bench.keep(&orders, 2, WriteThrough::Behind, "in memory");
    let bytes = bench.store.export(bench.now);
    let options = Some(bench.options.clone());
    let import = |bytes: &[u8]| Store::import(options.clone(), bench.now, bytes);
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
    let directory = bench.directory.store().display().to_string();
    let moved = Store::import(None, bench.now, &bytes);
    assert_eq!(why(moved), format!("the store was in {directory}, and is in memory now"));
}

#[test]
fn process_that_hangs_at_a_handover_is_killed_in_time() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "on the disk");
    bench.settle();
    bench.events();
    bench.signal(rustix::process::Signal::STOP);
    bench.keep(&orders, 2, WriteThrough::Now, "promised");
    begin_commit(&mut bench);
    bench.hand_over();
    // Whoever goes on starts no other before that, so that none but this can end it.
    bench.program(NOTHING);
    bench.act(Store::tick);
    assert_eq!(bench.events(), [StoreEvent::Failed, StoreEvent::NotStored { log: orders.clone(), seq: 2 }]);
    bench.advance(10 * SECOND);
    bench.act(Store::tick);
    bench.wait_for_process_end();
    bench.program(PROGRAM);
    bench.later(30 * SECOND);
    assert_eq!(bench.events(), [stored(&orders, 2, 2), StoreEvent::Recovered]);
}

#[test]
fn failure_of_the_disk_is_known_after_a_handover() {
    let mut bench = StoreBench::new(64 * MIB);
    bench.keep(&log("orders"), 1, WriteThrough::Now, "on the disk");
    bench.settle();
    assert!(!bench.store.is_failure_reported());
    bench.kill();
    bench.wait_for_process_end();
    bench.program(NOTHING);
    bench.keep(&log("orders"), 2, WriteThrough::Now, "promised");
    while !bench.store.is_failure_reported() {
        bench.receive_or_pass();
    }
    bench.hand_over();
    assert!(bench.store.is_failure_reported());
}
