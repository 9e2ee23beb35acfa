//! One daemon takes the store over from another, and goes on.

use std::time::Duration;

use wshubd::edge::store::{ImportError, Store};
use wshubd::hub::settings::WriteThrough;
use wshubd::hub::{LogKey, StoreEvent};
use wshubd::protocol::UserId;

use crate::harness::{DELAY, NOTHING, PROGRAM, Stage, log, stored};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

fn texts(read: &[(u64, String)]) -> Vec<(u64, &str)> {
    read.iter().map(|(seq, text)| (*seq, text.as_str())).collect()
}

#[test]
fn what_is_in_memory_and_on_the_disk_is_known_at_once() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "on the disk");
    stage.settle();
    assert_eq!(stage.told(), [stored(&orders, 1, 1)]);
    for (seq, disk) in [(2, WriteThrough::Behind), (3, WriteThrough::Stop), (4, WriteThrough::Never)] {
        stage.keep(&orders, seq, disk, "in memory");
    }
    stage.advance(DELAY / 4);
    let due = stage.deadline();
    stage.hand_over();
    assert!(stage.store.is_open());
    assert_eq!(stage.deadline(), due, "owed for as long as before");
    let in_memory = "in memory";
    let all = [(1, "on the disk"), (2, in_memory), (3, in_memory), (4, in_memory)];
    assert_eq!(texts(&stage.read(&orders, 10, 1000)), all);
    stage.later(DELAY);
    assert_eq!(stage.told(), [stored(&orders, 2, 3)], "what is written at a stop is written now");
    stage.crash();
    stage.load();
    assert_eq!(texts(&stage.read(&orders, 10, 1000)), all[..3]);
}

#[test]
fn a_store_in_memory_is_handed_over_too() {
    let mut stage = Stage::new(64 * MIB);
    let inbox = LogKey::Inbox(UserId::new("ada").unwrap());
    stage.store = Store::in_memory();
    stage.keep(&log("orders"), 7, WriteThrough::Behind, "brief");
    let bytes = stage.store.export(stage.now);
    stage.store = Store::import(None, stage.now, &bytes).unwrap();
    assert_eq!(texts(&stage.read(&log("orders"), 10, 1000)), [(7, "brief")]);
    assert_eq!(stage.read(&inbox, 10, 1000), []);
    assert_eq!(stage.store.unwritten_len(), 1);
}

#[test]
fn a_commit_whose_answer_nobody_hears_is_made_again_and_told_once() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "promised");
    stage.keep(&orders, 2, WriteThrough::Behind, "owed");
    begin_commit(&mut stage);
    stage.hand_over();
    // What is asked for once more is not written once more.
    assert_eq!(stage.store.sync_now(orders.clone(), 1), None);
    stage.advance(DELAY);
    stage.settle();
    assert_eq!(stage.told(), [stored(&orders, 1, 2)]);
    stage.crash();
    let found: Vec<u64> = stage.load()[0].kept.iter().map(|kept| kept.seq).collect();
    assert_eq!(found, [1, 2]);
}

#[test]
fn what_was_in_such_a_commit_and_is_forgotten_then_does_not_come_back() {
    for others in [0, 1] {
        let mut stage = Stage::new(64 * MIB);
        let orders = log("orders");
        for seq in 1..=others {
            stage.keep(&orders, seq, WriteThrough::Now, "another");
        }
        stage.settle();
        stage.keep(&orders, 5, WriteThrough::Now, "brief");
        begin_commit(&mut stage);
        stage.hand_over();
        stage.forget(&orders, 5, 5);
        stage.settle();
        stage.later(6 * SECOND);
        stage.crash();
        let found = stage.load();
        let found: Vec<u64> = found.iter().flat_map(|found| found.kept.iter().map(|kept| kept.seq)).collect();
        assert_eq!(found, (1..=others).collect::<Vec<_>>());
    }
}

/// Orders a commit of a process that is there, whose answer is not heard.
fn begin_commit(stage: &mut Stage) {
    stage.told();
    stage.act(Store::tick);
    assert_eq!(stage.deadline(), Some(10 * SECOND), "the patience with an order");
    assert_eq!(stage.told(), []);
}

#[test]
fn a_promise_to_somebody_who_has_read_it_already_is_kept() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "brief");
    stage.forget(&orders, 1, 1);
    stage.hand_over();
    assert_eq!(stage.read(&orders, 10, 1000), []);
    stage.settle();
    assert_eq!(stage.told(), [stored(&orders, 1, 1)]);
}

#[test]
fn what_the_disk_was_not_told_to_forget_is_told_by_the_next() {
    let mut stage = Stage::new(64 * MIB);
    let (orders, stock) = (log("orders"), log("stock"));
    for seq in 1..=3 {
        stage.keep(&orders, seq, WriteThrough::Now, "brief");
        stage.keep(&stock, seq, WriteThrough::Now, "brief");
    }
    stage.settle();
    stage.forget(&orders, 1, 3);
    stage.forget(&stock, 2, 2);
    stage.advance(2 * SECOND);
    stage.hand_over();
    assert_eq!(stage.deadline(), Some(SECOND), "one look after the process that has ended");
    stage.wait_for_the_end();
    stage.later(SECOND);
    assert_eq!(stage.deadline(), Some(2 * SECOND));
    stage.later(2 * SECOND);
    stage.crash();
    let found = stage.load();
    let found: Vec<_> = found
        .iter()
        .map(|one| (&one.log, one.kept.iter().map(|kept| kept.seq).collect::<Vec<_>>()))
        .collect();
    assert_eq!(found, [(&stock, vec![1, 3])]);
}

#[test]
fn disk_that_answers_nothing_costs_a_bounded_memory_for_what_is_forgotten() {
    let mut stage = Stage::new(64 * MIB);
    // Neighbours that stay: what goes from between them is noted one by one.
    let logs = [log("orders"), log("stock")];
    for log in &logs {
        stage.keep(log, 1, WriteThrough::Now, "stays");
    }
    stage.settle();
    let mut sizes = Vec::new();
    for round in 0..12_u64 {
        let seqs = 2 + round * 400..2 + (round + 1) * 400;
        for seq in seqs.clone() {
            stage.keep(&logs[usize::from(seq.is_multiple_of(2))], seq, WriteThrough::Behind, "brief");
        }
        stage.advance(DELAY);
        stage.unanswered();
        logs.iter().for_each(|log| stage.forget(log, seqs.start, seqs.end));
        stage.advance(30 * SECOND);
        sizes.push(stage.store.export(stage.now).len());
    }
    // The first was a full one; of each that follows a few messages try the disk.
    let growth: Vec<usize> = sizes.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!(sizes[0] < 20_000 && growth.iter().all(|growth| *growth < 600), "{sizes:?}");
    stage.settle();
    stage.crash();
    let left = stage.load().iter().map(|found| found.kept.len()).collect::<Vec<_>>();
    assert_eq!(left, [1, 1], "and nothing of it comes back");
}

#[test]
fn the_last_copy_of_a_message_that_is_read_to_be_told_of_is_read_all_the_same() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=3 {
        stage.keep(&orders, seq, WriteThrough::Now, "nobody heard it");
    }
    stage.settle();
    stage.look_up(&orders, 0, 3);
    stage.forget(&orders, 1, 3);
    stage.act(Store::tick);
    stage.told();
    stage.hand_over();
    assert_eq!(stage.pages(), [[1, 2, 3]]);
}

#[test]
fn a_disk_in_trouble_is_so_for_the_next_and_tried_when_it_was_due() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.later(31 * SECOND);
    stage.wait_for_the_end();
    stage.program(NOTHING);
    stage.keep(&orders, 1, WriteThrough::Now, "brief");
    stage.settle();
    let vain = StoreEvent::NotStored { log: orders.clone(), seq: 1 };
    assert_eq!(stage.told(), [StoreEvent::Failed, vain]);
    let (why, due) = (stage.store.failure().map(str::to_owned), stage.deadline());
    stage.hand_over();
    assert_eq!((stage.store.failure(), stage.deadline()), (why.as_deref(), due));
    assert!(stage.store.is_open(), "the hub knows");
    stage.program(PROGRAM);
    stage.later(due.unwrap());
    assert_eq!(stage.told(), [stored(&orders, 1, 1), StoreEvent::Recovered]);
}

#[test]
fn what_was_not_read_to_its_end_is_read_from_the_beginning() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "brief");
    stage.settle();
    stage.crash();
    for _ in 0..2 {
        stage.act(Store::tick);
        assert!(!stage.store.is_open());
        stage.hand_over();
        assert!(!stage.store.is_open());
        stage.act(Store::tick);
        stage.hear();
    }
    let found: Vec<u64> = stage.load()[0].kept.iter().map(|kept| kept.seq).collect();
    assert_eq!(found, [1]);
}

#[test]
fn making_room_goes_on_whoever_does_it() {
    const CAP: u64 = 2 * MIB;
    let mut stage = Stage::new(CAP);
    let orders = log("orders");
    let text = "x".repeat(4000);
    stage.keep(&orders, 1, WriteThrough::Now, "the oldest of all");
    for seq in 2..1000 {
        stage.keep(&orders, seq, WriteThrough::Now, &text);
        if seq > 20 {
            stage.forget(&orders, seq - 15, seq - 15);
        }
        stage.act(Store::tick);
        if seq % 10 == 0 {
            stage.hear();
            stage.hand_over();
        }
        if seq % 50 == 0 {
            stage.settle();
            assert!(stage.used() <= CAP, "{}", stage.used());
        }
    }
    stage.settle();
    assert_eq!(stage.store.failure(), None);
    assert_eq!(stage.read(&orders, 100, 1 << 20)[0], (1, "the oldest of all".to_owned()));
}

#[test]
fn the_hub_clock_and_what_was_spent_go_on() {
    let mut stage = Stage::new(64 * MIB);
    stage.options.flash_budget = Some(MIB);
    stage.crash();
    stage.load();
    stage.keep(&log("orders"), 1, WriteThrough::Now, "brief");
    stage.settle();
    let known = |stage: &Stage| {
        let mut statistics = wshubd::protocol::frame::Statistics::default();
        stage.store.describe(stage.now.moment, &mut statistics);
        (stage.store.hub_clock().cloned(), statistics)
    };
    let before = known(&stage);
    assert!(before.1.flash_spent_bytes > 0 && before.1.disk_bytes > 0);
    stage.hand_over();
    assert_eq!(known(&stage), before);
}

#[test]
fn one_to_whom_nobody_listens_goes_on_itself() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "brief");
    begin_commit(&mut stage);
    stage.store.export(stage.now);
    stage.settle();
    assert_eq!(stage.told(), [stored(&orders, 1, 1)]);
    stage.ask(&orders, 0, 10, 1000);
    stage.act(Store::tick);
    stage.store.export(stage.now);
    assert_eq!(stage.pages(), [[1]]);
}

#[test]
fn bytes_that_are_no_store_are_refused_by_name() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "on the disk");
    stage.settle();
    stage.keep(&orders, 2, WriteThrough::Behind, "in memory");
    let bytes = stage.store.export(stage.now);
    let options = Some(stage.options.clone());
    let import = |bytes: &[u8]| Store::import(options.clone(), stage.now, bytes);
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
    let place = stage.place.store().display().to_string();
    let moved = Store::import(None, stage.now, &bytes);
    assert_eq!(why(moved), format!("the store was in {place}, and is in memory now"));
}

#[test]
fn a_process_that_hangs_at_a_handover_is_killed_when_its_time_is_over() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "on the disk");
    stage.settle();
    stage.told();
    stage.signal(rustix::process::Signal::STOP);
    stage.keep(&orders, 2, WriteThrough::Now, "promised");
    begin_commit(&mut stage);
    stage.hand_over();
    // Whoever goes on starts no other before that, so that none but this can end it.
    stage.program(NOTHING);
    stage.act(Store::tick);
    assert_eq!(stage.told(), [StoreEvent::Failed, StoreEvent::NotStored { log: orders.clone(), seq: 2 }]);
    stage.advance(10 * SECOND);
    stage.act(Store::tick);
    stage.wait_for_the_end();
    stage.program(PROGRAM);
    stage.later(30 * SECOND);
    assert_eq!(stage.told(), [stored(&orders, 2, 2), StoreEvent::Recovered]);
}

#[test]
fn who_takes_over_a_disk_that_fails_knows_it_fails() {
    let mut stage = Stage::new(64 * MIB);
    stage.keep(&log("orders"), 1, WriteThrough::Now, "on the disk");
    stage.settle();
    assert!(!stage.store.is_failure_reported());
    stage.kill();
    stage.wait_for_the_end();
    stage.program(NOTHING);
    stage.keep(&log("orders"), 2, WriteThrough::Now, "promised");
    while !stage.store.is_failure_reported() {
        stage.hear_or_pass();
    }
    stage.hand_over();
    assert!(stage.store.is_failure_reported());
}
