//! What the daemon writes to the disk and when, and what it tells of it.

use std::time::Duration;

use wshubd::hub::StoreEvent;
use wshubd::hub::settings::WriteThrough;

use crate::harness::{DELAY, NOTHING, PROGRAM, StoreBench, log, stored};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn message_delivered_in_time_never_touches_the_disk() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Behind, "brief");
    bench.later(DELAY - SECOND / 10);
    bench.forget(&orders, 1, 1);
    bench.later(DELAY);
    bench.later(60 * SECOND);
    assert_eq!((bench.events(), bench.directory.names()), (vec![], vec![]));
    // One look after the process that has ended, and no more.
    bench.wait_for_process_end();
    bench.later(SECOND);
    assert_eq!(bench.deadline(), None);
}

#[test]
fn forgetting_is_written_a_little_later_and_then_nothing_more() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Behind, "brief");
    bench.later(DELAY);
    assert_eq!(bench.events(), [stored(&orders, 1, 1)]);
    bench.forget(&orders, 1, 1);
    bench.settle();
    assert_eq!(bench.deadline(), Some(5 * SECOND));
    bench.later(5 * SECOND);
    assert_eq!(bench.deadline(), Some(30 * SECOND), "the process ends when it was idle");
    bench.later(30 * SECOND);
    bench.later(SECOND);
    bench.crash();
    assert_eq!(bench.load(), []);
}

#[test]
fn stream_of_forgetting_is_not_a_stream_of_commits() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=10 {
        bench.keep(&orders, seq, WriteThrough::Now, "one of many");
    }
    bench.settle();
    bench.forget(&orders, 1, 1);
    bench.advance(5 * SECOND);
    bench.act(wshubd::edge::store::Store::tick);
    // While that is being written, another goes.
    bench.forget(&orders, 2, 2);
    bench.settle();
    assert_eq!(bench.deadline(), Some(5 * SECOND));
}

#[test]
fn promised_message_is_written_though_it_was_forgotten() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "brief");
    bench.forget(&orders, 1, 1);
    bench.settle();
    assert_eq!(bench.events(), [stored(&orders, 1, 1)]);
    assert_eq!(bench.read(&orders, 10, 1000), []);
    bench.later(5 * SECOND);
    bench.crash();
    assert_eq!(bench.load(), []);
}

#[test]
fn commit_without_a_response_fails_once_and_is_made_again() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "first");
    bench.keep(&orders, 2, WriteThrough::Behind, "second");
    bench.commit_unanswered();
    let vain = StoreEvent::NotStored { log: orders.clone(), seq: 1 };
    assert_eq!(bench.events(), [StoreEvent::Failed, vain]);
    assert!(bench.store.failure().is_some());
    bench.later(2 * SECOND);
    assert_eq!(bench.events(), [stored(&orders, 1, 2), StoreEvent::Recovered]);
    assert_eq!(bench.store.failure(), None);
}

#[test]
fn forgotten_message_of_an_unanswered_commit_stays_forgotten() {
    for others in [0, 1] {
        let mut bench = StoreBench::new(64 * MIB);
        let orders = log("orders");
        for seq in 1..=others {
            bench.keep(&orders, seq, WriteThrough::Now, "another");
        }
        bench.settle();
        bench.keep(&orders, 5, WriteThrough::Behind, "brief");
        bench.advance(DELAY);
        bench.commit_unanswered();
        bench.forget(&orders, 5, 5);
        bench.later(2 * SECOND);
        bench.later(6 * SECOND);
        bench.crash();
        let found: Vec<u64> =
            bench.load().iter().flat_map(|found| found.kept.iter().map(|kept| kept.seq)).collect();
        assert_eq!(found, (1..=others).collect::<Vec<_>>());
    }
}

#[test]
fn failing_disk_is_tried_less_and_less_often() {
    let mut bench = StoreBench::new(64 * MIB);
    bench.program(NOTHING);
    bench.crash();
    bench.act(wshubd::edge::store::Store::tick);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let pause = bench.deadline().unwrap();
        pauses.push(pause.as_millis());
        bench.later(pause);
    }
    // Nobody is let in before it was tried for a while.
    let at_the_start = [100, 200, 400, 800, 1600];
    let later = [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
    assert_eq!(pauses, [&at_the_start[..], &later].concat());
    assert_eq!(bench.events(), [StoreEvent::Failed]);
}

#[test]
fn end_of_an_idle_process_is_no_failure() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "first");
    bench.settle();
    bench.kill();
    bench.receive();
    bench.keep(&orders, 2, WriteThrough::Now, "second");
    bench.settle();
    assert_eq!(bench.events(), [stored(&orders, 1, 1), stored(&orders, 2, 2)]);
}

#[test]
fn end_of_a_reading_process_costs_no_page() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "first");
    bench.settle();
    bench.events();
    // It cannot have answered before its end.
    bench.signal(rustix::process::Signal::STOP);
    bench.fetch(&orders, 0, 10, 1 << 20);
    bench.act(wshubd::edge::store::Store::tick);
    bench.kill();
    let page = bench.page().unwrap();
    assert_eq!(page.iter().map(|message| crate::harness::text(message)).collect::<Vec<_>>(), ["first"]);
    bench.keep(&orders, 2, WriteThrough::Now, "second");
    bench.settle();
    assert!(bench.events().iter().all(|fact| *fact == stored(&orders, 2, 2)));
}

#[test]
fn page_that_cannot_be_read_is_answered_in_the_end() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "first");
    bench.settle();
    bench.events();
    bench.kill();
    bench.receive();
    // A directory in place of the file: an error each time, and no damage.
    let log = bench.directory.wal(0);
    std::fs::rename(&log, log.with_file_name("away")).unwrap();
    std::fs::create_dir(&log).unwrap();
    bench.fetch(&orders, 0, 10, 1 << 20);
    assert_eq!(bench.page(), None);
    assert!(bench.events().contains(&StoreEvent::Failed));
}

#[test]
fn end_of_a_starting_process_costs_no_page() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "first");
    bench.settle();
    bench.later(30 * SECOND);
    bench.wait_for_process_end();
    bench.events();
    bench.program("/bin/false");
    bench.fetch(&orders, 0, 10, 1 << 20);
    bench.act(wshubd::edge::store::Store::tick);
    bench.receive();
    bench.receive();
    bench.program(PROGRAM);
    let page = bench.page().unwrap();
    assert_eq!(page.iter().map(|message| crate::harness::text(message)).collect::<Vec<_>>(), ["first"]);
    assert_eq!(bench.events(), []);
}

#[test]
fn memory_only_messages_make_nothing_be_written_early() {
    let mut bench = StoreBench::new(64 * MIB);
    bench.options.memory = 10_000;
    bench.crash();
    bench.load();
    bench.later(30 * SECOND);
    bench.wait_for_process_end();
    bench.later(SECOND);
    let text = "x".repeat(1000);
    for seq in 1..=20 {
        bench.keep(&log("in memory"), seq, WriteThrough::Never, &text);
    }
    bench.keep(&log("orders"), 1, WriteThrough::Behind, "may wait");
    bench.act(wshubd::edge::store::Store::tick);
    assert_eq!(bench.deadline(), Some(DELAY));
    // What goes there is written, where that is too much to hold.
    for seq in 2..=20 {
        bench.keep(&log("orders"), seq, WriteThrough::Behind, &text);
    }
    assert_eq!(bench.deadline(), Some(Duration::ZERO));
}

#[test]
fn very_many_empty_logs_take_several_commits() {
    let mut bench = StoreBench::new(64 * MIB);
    let name = |number: usize| log(&format!("user:{number}"));
    for number in 0..1200 {
        bench.keep(&name(number), 1, WriteThrough::Behind, "one");
    }
    bench.keep(&log("stays"), 1, WriteThrough::Behind, "one");
    bench.later(DELAY);
    for number in 0..1200 {
        bench.forget(&name(number), 1, 1);
    }
    bench.advance(5 * SECOND);
    let mut commits = 0;
    bench.act(wshubd::edge::store::Store::tick);
    // Each answer makes room for the next order, until none is under way.
    while bench.deadline() == Some(10 * SECOND) {
        bench.receive();
        commits += 1;
    }
    assert!(commits >= 3, "{commits} for 1,200 logs");
    bench.settle();
    bench.crash();
    let found = bench.load();
    assert_eq!(found.iter().map(|found| &found.log).collect::<Vec<_>>(), [&log("stays")]);
}

#[test]
fn unanswered_commit_counts_against_the_budget() {
    let mut bench = StoreBench::new(64 * MIB);
    bench.options.flash_budget = Some(64 << 20);
    bench.crash();
    bench.load();
    // What a socket takes at once, for only a whole order is carried out.
    let text = "x".repeat(50_000);
    bench.keep(&log("orders"), 1, WriteThrough::Behind, &text);
    bench.advance(DELAY);
    bench.commit_unanswered();
    assert!(bench.store.failure().is_some());
    let spent = bench.spent();
    assert!(spent >= 50_000, "{spent}");
}

#[test]
fn messages_unreadable_at_the_start_are_found_later() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "first");
    bench.settle();
    bench.program(NOTHING);
    bench.crash();
    bench.act(wshubd::edge::store::Store::tick);
    while !bench.store.is_open() {
        let pause = bench.deadline().unwrap();
        bench.later(pause);
    }
    assert_eq!(bench.events(), [StoreEvent::Failed]);
    bench.program(PROGRAM);
    bench.later(2 * SECOND);
    let events = bench.events();
    assert!(
        matches!(&events[..], [StoreEvent::RecoveredLog(found), StoreEvent::Recovered] if found.log == orders),
        "{events:?}"
    );
    assert_eq!(bench.read(&orders, 10, 1000), [(1, "first".to_owned())]);
}

#[test]
fn page_keeps_its_order_across_memory_and_disk() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=12_u64 {
        let disk = if seq.is_multiple_of(4) { WriteThrough::Stop } else { WriteThrough::Now };
        bench.keep(&orders, seq, disk, &format!("message {seq}"));
    }
    bench.settle();
    let all: Vec<_> = (1..=12).map(|seq| (seq, format!("message {seq}"))).collect();
    for count in [1, 2, 5, 100] {
        assert_eq!(bench.read(&orders, count, 1 << 20), all);
    }
    // Small pages hold one message at least.
    assert_eq!(bench.read(&orders, 100, 1), all);
}

#[test]
fn page_is_what_is_there_when_it_is_read() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    for (seq, disk) in
        [(3, WriteThrough::Now), (5, WriteThrough::Stop), (6, WriteThrough::Now), (11, WriteThrough::Stop)]
    {
        bench.keep(&orders, seq, disk, "text");
    }
    bench.settle();
    bench.fetch(&orders, 0, 10, 1 << 20);
    bench.forget(&orders, 3, 3);
    let page = bench.page().unwrap();
    let seqs: Vec<_> = page.iter().map(|message| message.seq.unwrap()).collect();
    assert_eq!(seqs, [5], "what is on the disk between what is in memory is not left out");
    // And while it is being read.
    bench.fetch(&orders, 5, 10, 1 << 20);
    bench.act(wshubd::edge::store::Store::tick);
    bench.forget(&orders, 6, 6);
    let page = bench.page().unwrap();
    assert_eq!(page.iter().map(|message| message.seq.unwrap()).collect::<Vec<_>>(), [11]);
}

#[test]
fn full_disk_can_still_be_read_and_so_be_emptied() {
    let mut bench = StoreBench::new(2 * MIB);
    let orders = log("orders");
    let text = "x".repeat(8000);
    let mut last = 0;
    while bench.store.failure().is_none() {
        last += 1;
        assert!(last < 1000, "there is no limit");
        bench.keep(&orders, last, WriteThrough::Now, &text);
        bench.settle();
        assert!(bench.used() <= 2 * MIB, "{} bytes with {last} messages", bench.used());
    }
    assert!(last > 60, "only {last} fit");
    assert_eq!(bench.read(&orders, 20, 1 << 20).len() as u64, last);
    bench.events();
    bench.forget(&orders, 1, last - 3);
    bench.later(2 * SECOND);
    bench.later(30 * SECOND);
    let events = bench.events();
    assert!(events.contains(&StoreEvent::Recovered), "{events:?}");
    assert_eq!(bench.read(&orders, 20, 1 << 20).len(), 3);
    assert!(bench.used() < 2 * MIB / 3, "{}", bench.used());
}

#[test]
fn full_generations_are_not_written_again_and_again() {
    // Of small messages the engine takes several times what they count.
    let mut bench = StoreBench::new(16 * MIB);
    let orders = log("orders");
    for seq in 1..=5000_u64 {
        bench.keep(&orders, seq, WriteThrough::Behind, "");
        if seq.is_multiple_of(500) {
            bench.later(DELAY);
        }
    }
    bench.later(60 * SECOND);
    let before = bench.directory.names();
    for _ in 0..5 {
        bench.later(60 * SECOND);
    }
    assert_eq!(bench.directory.names(), before);
    assert_eq!(bench.read(&orders, 1000, 1 << 20).len(), 5000);
}

#[test]
fn after_churn_the_disk_shrinks_and_keeps_what_is_live() {
    let mut bench = StoreBench::new(4 * MIB);
    let (rare, busy) = (log("rare"), log("busy"));
    let text = "x".repeat(5000);
    for seq in 1..=600_u64 {
        bench.keep(&busy, seq, WriteThrough::Behind, &text);
        if seq.is_multiple_of(100) {
            bench.keep(&rare, seq / 100, WriteThrough::Now, "kept");
        }
        if seq.is_multiple_of(20) {
            bench.later(DELAY);
            assert!(bench.used() <= 4 * MIB);
            bench.forget(&busy, 1, seq);
        }
    }
    bench.later(5 * SECOND);
    assert!(bench.used() < 4 * MIB / 3, "{}", bench.used());
    let kept: Vec<_> = (1..=6).map(|seq| (seq, "kept".to_owned())).collect();
    assert_eq!(bench.read(&rare, 100, 1 << 20), kept);
    bench.crash();
    bench.load();
    assert_eq!(bench.read(&rare, 100, 1 << 20), kept);
}

#[test]
fn log_that_begins_anew_is_not_taken_for_the_old_one() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=5 {
        bench.keep(&orders, seq, WriteThrough::Now, "before");
    }
    bench.settle();
    // A run in the middle, and then all.
    bench.forget(&orders, 3, 3);
    bench.later(6 * SECOND);
    bench.forget(&orders, 1, 5);
    for seq in 1..=4 {
        bench.keep(&orders, seq, WriteThrough::Now, "after");
    }
    bench.settle();
    bench.crash();
    bench.load();
    let after: Vec<_> = (1..=4).map(|seq| (seq, "after".to_owned())).collect();
    assert_eq!(bench.read(&orders, 10, 1 << 20), after);
}

#[test]
fn seq_reused_during_a_commit_is_another_message() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "before");
    bench.act(wshubd::edge::store::Store::tick);
    bench.forget(&orders, 1, 1);
    bench.keep(&orders, 1, WriteThrough::Behind, "after");
    bench.settle();
    let after = [(1, "after".to_owned())];
    assert_eq!(bench.read(&orders, 10, 1 << 20), after);
    bench.later(DELAY);
    bench.crash();
    bench.load();
    assert_eq!(bench.read(&orders, 10, 1 << 20), after);
}

#[test]
fn older_message_written_later_brings_nothing_back() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 2, WriteThrough::Stop, "second");
    bench.keep(&orders, 3, WriteThrough::Now, "third");
    bench.keep(&orders, 7, WriteThrough::Now, "seventh");
    bench.settle();
    bench.forget(&orders, 3, 3);
    bench.later(6 * SECOND);
    bench.stop();
    bench.crash();
    bench.load();
    let kept = [(2, "second".to_owned()), (7, "seventh".to_owned())];
    assert_eq!(bench.read(&orders, 10, 1 << 20), kept);
}

#[test]
fn clean_stop_writes_all_even_if_the_process_dies() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "now");
    bench.settle();
    bench.keep(&orders, 2, WriteThrough::Behind, "behind");
    bench.keep(&orders, 3, WriteThrough::Stop, "stop");
    bench.keep(&orders, 4, WriteThrough::Never, "never");
    bench.store.finish();
    bench.kill();
    bench.act(wshubd::edge::store::Store::tick);
    while !bench.store.is_finished() {
        bench.receive_or_pass();
    }
    assert_eq!(bench.store.failure(), None);
    bench.crash();
    bench.load();
    let read = bench.read(&orders, 10, 1 << 20);
    assert_eq!(read.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn stop_with_an_unusable_disk_ends_in_time() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Stop, "stop");
    bench.program(NOTHING);
    bench.later(31 * SECOND);
    bench.wait_for_process_end();
    bench.store.finish();
    let before = bench.now.moment;
    bench.act(wshubd::edge::store::Store::tick);
    while !bench.store.is_finished() {
        bench.receive_or_pass();
    }
    assert!(bench.now.moment.since(before) <= 5 * SECOND);
    assert!(bench.store.failure().is_some());
}

#[test]
fn stop_with_nothing_to_write_starts_no_process() {
    let mut bench = StoreBench::new(64 * MIB);
    bench.later(31 * SECOND);
    bench.program(NOTHING);
    bench.stop();
    assert_eq!(bench.store.failure(), None);
}

#[test]
fn process_that_hangs_is_ended_and_another_goes_on() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "first");
    bench.settle();
    bench.events();
    bench.signal(rustix::process::Signal::STOP);
    bench.keep(&orders, 2, WriteThrough::Now, "second");
    bench.act(wshubd::edge::store::Store::tick);
    assert_eq!(bench.deadline(), Some(10 * SECOND));
    bench.later(10 * SECOND);
    let vain = StoreEvent::NotStored { log: orders.clone(), seq: 2 };
    assert_eq!(bench.events(), [StoreEvent::Failed, vain]);
    bench.later(2 * SECOND);
    assert_eq!(bench.events(), [stored(&orders, 2, 2), StoreEvent::Recovered]);
}

#[test]
fn commit_larger_than_the_socket_arrives_whole() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    let text = |seq: u64| format!("{seq} {}", "x".repeat(100_000));
    for seq in 1..=12 {
        bench.keep(&orders, seq, WriteThrough::Now, &text(seq));
    }
    bench.settle();
    let events = bench.events();
    assert_eq!((events.first(), events.len()), (Some(&stored(&orders, 1, 6)), 2), "two commits: {events:?}");
    bench.crash();
    bench.load();
    let all: Vec<_> = (1..=12).map(|seq| (seq, text(seq))).collect();
    assert!(bench.read(&orders, 5, 1 << 20) == all);
}

#[test]
fn spent_budget_writes_only_promises_even_after_a_restart() {
    let mut bench = StoreBench::new(64 * MIB);
    bench.options.flash_budget = Some(64 << 10);
    bench.crash();
    bench.load();
    let orders = log("orders");
    let text = "x".repeat(10_000);
    for seq in 1..=20 {
        bench.keep(&orders, seq, WriteThrough::Now, &text);
        bench.settle();
    }
    for _ in 0..2 {
        bench.events();
        bench.keep(&orders, 31, WriteThrough::Behind, "may wait");
        bench.later(600 * SECOND);
        assert_eq!(bench.events(), []);
        bench.keep(&orders, 32, WriteThrough::Now, "may not");
        bench.settle();
        assert_eq!(bench.events(), [stored(&orders, 32, 32)]);
        bench.crash();
        bench.load();
    }
}

#[test]
fn notice_is_read_wherever_its_messages_lie() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=3 {
        bench.keep(&orders, seq, WriteThrough::Now, "on the disk");
    }
    bench.settle();
    bench.keep(&orders, 4, WriteThrough::Never, "in memory");
    bench.fetch_notice(&orders, 0, 3);
    bench.forget(&orders, 1, 3);
    bench.fetch_notice(&orders, 3, 1);
    bench.forget(&orders, 4, 4);
    assert_eq!(bench.pages(), [vec![4], vec![1, 2, 3]]);
}

#[test]
fn hanging_disk_queues_a_bounded_number_of_notices() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=5000 {
        bench.keep(&orders, seq, WriteThrough::Behind, "unheard");
    }
    bench.later(DELAY);
    bench.events();
    bench.signal(rustix::process::Signal::STOP);
    for seq in 1..=5000 {
        bench.fetch_notice(&orders, seq - 1, 1);
        bench.forget(&orders, seq, seq);
    }
    let unread = bench.events().iter().filter(|fact| matches!(fact, StoreEvent::ReadFailed { .. })).count();
    assert!((900..=910).contains(&unread), "{unread} of 5,000 are not read");
    bench.kill();
}

#[test]
fn notice_comes_in_parts_where_its_messages_lie_in_parts() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    for seq in [1, 2, 4] {
        bench.keep(&orders, seq, WriteThrough::Now, "on the disk");
    }
    bench.settle();
    bench.keep(&orders, 3, WriteThrough::Never, "in memory");
    bench.fetch_notice(&orders, 0, 4);
    bench.forget(&orders, 1, 4);
    let mut heard: Vec<u64> = bench.pages().concat();
    heard.sort_unstable();
    assert_eq!(heard, [1, 2, 3, 4]);
}

#[test]
fn disk_that_works_for_a_moment_has_not_recovered() {
    let mut bench = StoreBench::new(64 * MIB);
    let orders = log("orders");
    bench.keep(&orders, 1, WriteThrough::Now, "first");
    bench.settle();
    let mut pauses = Vec::new();
    for seq in [2, 4] {
        bench.program(NOTHING);
        bench.kill();
        bench.receive();
        // Who has ended is looked after as well, and would be the next to be due.
        bench.wait_for_process_end();
        bench.keep(&orders, seq, WriteThrough::Now, "while it fails");
        bench.act(wshubd::edge::store::Store::tick);
        let pause = bench.deadline().unwrap();
        pauses.push(pause.as_millis());
        bench.program(PROGRAM);
        bench.later(pause);
    }
    assert_eq!(pauses, [1000, 2000]);
}
