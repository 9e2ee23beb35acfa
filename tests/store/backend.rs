//! What the daemon writes to the disk and when, and what it reports of it.

use std::time::Duration;

use wshubd::hub::StoreEvent;
use wshubd::hub::settings::WriteThrough;

use crate::harness::{DELAY, MIB, NOTHING, PROGRAM, SECOND, StoreHarness, log, stored};

#[test]
fn message_delivered_in_time_never_touches_the_disk() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 1, WriteThrough::Behind, "brief");
    harness.later(DELAY - SECOND / 10);
    harness.forget(&orders, 1, 1);
    harness.later(DELAY);
    harness.later(60 * SECOND);
    assert_eq!((harness.events(), harness.directory.names()), (vec![], vec![]));
    // One look after the process that has ended, and no more.
    harness.wait_for_process_end();
    harness.later(SECOND);
    assert_eq!(harness.deadline(), None);
}

#[test]
fn forgetting_is_written_a_little_later_and_then_nothing_more() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 1, WriteThrough::Behind, "brief");
    harness.later(DELAY);
    assert_eq!(harness.events(), [stored(&orders, 1, 1)]);
    harness.forget(&orders, 1, 1);
    harness.settle();
    assert_eq!(harness.deadline(), Some(5 * SECOND));
    harness.later(5 * SECOND);
    assert_eq!(harness.deadline(), Some(30 * SECOND), "the process ends when it was idle");
    harness.later(30 * SECOND);
    harness.later(SECOND);
    assert_eq!(harness.reload(), []);
}

#[test]
fn stream_of_forgetting_is_not_a_stream_of_commits() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in 1..=10 {
        harness.keep(&orders, seq, WriteThrough::Now, "one of many");
    }
    harness.settle();
    harness.forget(&orders, 1, 1);
    harness.advance(5 * SECOND);
    harness.tick();
    // While that is being written, another goes.
    harness.forget(&orders, 2, 2);
    harness.settle();
    assert_eq!(harness.deadline(), Some(5 * SECOND));
}

#[test]
fn promised_message_is_written_though_it_was_forgotten() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 1, WriteThrough::Now, "brief");
    harness.forget(&orders, 1, 1);
    harness.settle();
    assert_eq!(harness.events(), [stored(&orders, 1, 1)]);
    assert_eq!(harness.read(&orders, 10, 1000), []);
    harness.later(5 * SECOND);
    assert_eq!(harness.reload(), []);
}

#[test]
fn commit_without_a_response_fails_once_and_is_made_again() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 1, WriteThrough::Now, "first");
    harness.keep(&orders, 2, WriteThrough::Behind, "second");
    harness.commit_unanswered();
    let vain = StoreEvent::NotStored { log: orders.clone(), seq: 1 };
    assert_eq!(harness.events(), [StoreEvent::Failed, vain]);
    assert!(harness.store.failure().is_some());
    harness.later(2 * SECOND);
    assert_eq!(harness.events(), [stored(&orders, 1, 2), StoreEvent::Recovered]);
    assert_eq!(harness.store.failure(), None);
}

#[test]
fn forgotten_message_of_an_unanswered_commit_stays_forgotten() {
    for others in [0, 1] {
        let mut harness = StoreHarness::new();
        let orders = log("orders");
        for seq in 1..=others {
            harness.keep(&orders, seq, WriteThrough::Now, "another");
        }
        harness.settle();
        harness.keep(&orders, 5, WriteThrough::Behind, "brief");
        harness.advance(DELAY);
        harness.commit_unanswered();
        harness.forget(&orders, 5, 5);
        harness.later(2 * SECOND);
        harness.later(6 * SECOND);
        let found = harness.seqs_after_crash();
        assert_eq!(found, (1..=others).collect::<Vec<_>>());
    }
}

#[test]
fn failing_disk_is_tried_less_and_less_often() {
    let mut harness = StoreHarness::new();
    harness.program(NOTHING);
    harness.crash();
    harness.tick();
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let pause = harness.deadline().unwrap();
        pauses.push(pause.as_millis());
        harness.later(pause);
    }
    // Nobody is let in before it was tried for a while.
    let at_the_start = [100, 200, 400, 800, 1600];
    let later = [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
    assert_eq!(pauses, [&at_the_start[..], &later].concat());
    assert_eq!(harness.events(), [StoreEvent::Failed]);
}

#[test]
fn end_of_an_idle_process_is_no_failure() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "first");
    harness.kill();
    harness.receive();
    harness.write(&orders, 2, "second");
    assert_eq!(harness.events(), [stored(&orders, 1, 1), stored(&orders, 2, 2)]);
}

#[test]
fn end_of_a_reading_process_costs_no_page() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "first");
    harness.events();
    // It cannot have answered before its end.
    harness.signal(rustix::process::Signal::STOP);
    harness.fetch(&orders, 0, 10, 1 << 20);
    harness.tick();
    harness.kill();
    let page = harness.page().unwrap();
    assert_eq!(page.iter().map(|message| crate::harness::text(message)).collect::<Vec<_>>(), ["first"]);
    harness.write(&orders, 2, "second");
    assert!(harness.events().iter().all(|fact| *fact == stored(&orders, 2, 2)));
}

#[test]
fn page_that_cannot_be_read_is_answered_in_the_end() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "first");
    harness.events();
    harness.kill();
    harness.receive();
    // A directory in place of the file: an error each time, and no damage.
    let log = harness.directory.wal(0);
    std::fs::rename(&log, log.with_file_name("away")).unwrap();
    std::fs::create_dir(&log).unwrap();
    harness.fetch(&orders, 0, 10, 1 << 20);
    assert_eq!(harness.page(), None);
    assert!(harness.events().contains(&StoreEvent::Failed));
}

#[test]
fn end_of_a_starting_process_costs_no_page() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "first");
    harness.end_idle_process();
    harness.events();
    harness.program("/bin/false");
    harness.fetch(&orders, 0, 10, 1 << 20);
    harness.tick();
    harness.receive();
    harness.receive();
    harness.program(PROGRAM);
    let page = harness.page().unwrap();
    assert_eq!(page.iter().map(|message| crate::harness::text(message)).collect::<Vec<_>>(), ["first"]);
    assert_eq!(harness.events(), []);
}

#[test]
fn memory_only_messages_make_nothing_be_written_early() {
    let mut harness = StoreHarness::new();
    harness.options.memory = 10_000;
    harness.reload();
    harness.end_idle_process();
    harness.later(SECOND);
    let text = "x".repeat(1000);
    for seq in 1..=20 {
        harness.keep(&log("in memory"), seq, WriteThrough::Never, &text);
    }
    harness.keep(&log("orders"), 1, WriteThrough::Behind, "may wait");
    harness.tick();
    assert_eq!(harness.deadline(), Some(DELAY));
    // What goes there is written, where that is too much to hold.
    for seq in 2..=20 {
        harness.keep(&log("orders"), seq, WriteThrough::Behind, &text);
    }
    assert_eq!(harness.deadline(), Some(Duration::ZERO));
}

#[test]
fn very_many_empty_logs_take_several_commits() {
    let mut harness = StoreHarness::new();
    let name = |number: usize| log(&format!("user:{number}"));
    for number in 0..1200 {
        harness.keep(&name(number), 1, WriteThrough::Behind, "one");
    }
    harness.keep(&log("stays"), 1, WriteThrough::Behind, "one");
    harness.later(DELAY);
    for number in 0..1200 {
        harness.forget(&name(number), 1, 1);
    }
    harness.advance(5 * SECOND);
    let mut commits = 0;
    harness.tick();
    // Each answer makes room for the next order, until none is under way.
    while harness.deadline() == Some(10 * SECOND) {
        harness.receive();
        commits += 1;
    }
    assert!(commits >= 3, "{commits} for 1,200 logs");
    harness.settle();
    let found = harness.reload();
    assert_eq!(found.iter().map(|found| &found.log).collect::<Vec<_>>(), [&log("stays")]);
}

#[test]
fn unanswered_commit_counts_against_the_budget() {
    let mut harness = StoreHarness::new();
    harness.set_flash_budget(64 << 20);
    // What a socket takes at once, for only a whole order is carried out.
    let text = "x".repeat(50_000);
    harness.keep(&log("orders"), 1, WriteThrough::Behind, &text);
    harness.advance(DELAY);
    harness.commit_unanswered();
    assert!(harness.store.failure().is_some());
    let spent = harness.spent();
    assert!(spent >= 50_000, "{spent}");
}

#[test]
fn messages_unreadable_at_the_start_are_found_later() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "first");
    harness.program(NOTHING);
    harness.crash();
    harness.tick();
    while !harness.store.is_open() {
        let pause = harness.deadline().unwrap();
        harness.later(pause);
    }
    assert_eq!(harness.events(), [StoreEvent::Failed]);
    harness.program(PROGRAM);
    harness.later(2 * SECOND);
    let events = harness.events();
    assert!(
        matches!(&events[..], [StoreEvent::RecoveredLog(found), StoreEvent::Recovered] if found.log == orders),
        "{events:?}"
    );
    assert_eq!(harness.read(&orders, 10, 1000), [(1, "first".to_owned())]);
}

#[test]
fn page_keeps_its_order_across_memory_and_disk() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in 1..=12_u64 {
        let disk = if seq.is_multiple_of(4) { WriteThrough::Stop } else { WriteThrough::Now };
        harness.keep(&orders, seq, disk, &format!("message {seq}"));
    }
    harness.settle();
    let all: Vec<_> = (1..=12).map(|seq| (seq, format!("message {seq}"))).collect();
    for count in [1, 2, 5, 100] {
        assert_eq!(harness.read(&orders, count, 1 << 20), all);
    }
    // Small pages hold one message at least.
    assert_eq!(harness.read(&orders, 100, 1), all);
}

#[test]
fn page_is_what_is_there_when_it_is_read() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for (seq, disk) in
        [(3, WriteThrough::Now), (5, WriteThrough::Stop), (6, WriteThrough::Now), (11, WriteThrough::Stop)]
    {
        harness.keep(&orders, seq, disk, "text");
    }
    harness.settle();
    harness.fetch(&orders, 0, 10, 1 << 20);
    harness.forget(&orders, 3, 3);
    let page = harness.page().unwrap();
    let seqs: Vec<_> = page.iter().map(|message| message.seq.unwrap()).collect();
    assert_eq!(seqs, [5], "what is on the disk between what is in memory is not left out");
    // And while it is being read.
    harness.fetch(&orders, 5, 10, 1 << 20);
    harness.tick();
    harness.forget(&orders, 6, 6);
    let page = harness.page().unwrap();
    assert_eq!(page.iter().map(|message| message.seq.unwrap()).collect::<Vec<_>>(), [11]);
}

#[test]
fn full_disk_can_still_be_read_and_so_be_emptied() {
    let mut harness = StoreHarness::with_capacity(2 * MIB);
    let orders = log("orders");
    let text = "x".repeat(8000);
    let mut last = 0;
    while harness.store.failure().is_none() {
        last += 1;
        assert!(last < 1000, "there is no limit");
        harness.write(&orders, last, &text);
        assert!(harness.used() <= 2 * MIB, "{} bytes with {last} messages", harness.used());
    }
    assert!(last > 60, "only {last} fit");
    assert_eq!(harness.read(&orders, 20, 1 << 20).len() as u64, last);
    harness.events();
    harness.forget(&orders, 1, last - 3);
    harness.later(2 * SECOND);
    harness.later(30 * SECOND);
    let events = harness.events();
    assert!(events.contains(&StoreEvent::Recovered), "{events:?}");
    assert_eq!(harness.read(&orders, 20, 1 << 20).len(), 3);
    assert!(harness.used() < 2 * MIB / 3, "{}", harness.used());
}

#[test]
fn full_generations_are_not_written_again_and_again() {
    // Of small messages the engine takes several times what they count.
    let mut harness = StoreHarness::with_capacity(16 * MIB);
    let orders = log("orders");
    for seq in 1..=5000_u64 {
        harness.keep(&orders, seq, WriteThrough::Behind, "");
        if seq.is_multiple_of(500) {
            harness.later(DELAY);
        }
    }
    harness.later(60 * SECOND);
    let before = harness.directory.names();
    for _ in 0..5 {
        harness.later(60 * SECOND);
    }
    assert_eq!(harness.directory.names(), before);
    assert_eq!(harness.read(&orders, 1000, 1 << 20).len(), 5000);
}

#[test]
fn after_churn_the_disk_shrinks_and_keeps_what_is_live() {
    let mut harness = StoreHarness::with_capacity(4 * MIB);
    let (rare, busy) = (log("rare"), log("busy"));
    let text = "x".repeat(5000);
    for seq in 1..=600_u64 {
        harness.keep(&busy, seq, WriteThrough::Behind, &text);
        if seq.is_multiple_of(100) {
            harness.keep(&rare, seq / 100, WriteThrough::Now, "kept");
        }
        if seq.is_multiple_of(20) {
            harness.later(DELAY);
            assert!(harness.used() <= 4 * MIB);
            harness.forget(&busy, 1, seq);
        }
    }
    harness.later(5 * SECOND);
    assert!(harness.used() < 4 * MIB / 3, "{}", harness.used());
    let kept: Vec<_> = (1..=6).map(|seq| (seq, "kept".to_owned())).collect();
    assert_eq!(harness.read(&rare, 100, 1 << 20), kept);
    harness.reload();
    assert_eq!(harness.read(&rare, 100, 1 << 20), kept);
}

#[test]
fn log_that_begins_anew_is_not_taken_for_the_old_one() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in 1..=5 {
        harness.keep(&orders, seq, WriteThrough::Now, "before");
    }
    harness.settle();
    // A run in the middle, and then all.
    harness.forget(&orders, 3, 3);
    harness.later(6 * SECOND);
    harness.forget(&orders, 1, 5);
    for seq in 1..=4 {
        harness.keep(&orders, seq, WriteThrough::Now, "after");
    }
    harness.settle();
    harness.reload();
    let after: Vec<_> = (1..=4).map(|seq| (seq, "after".to_owned())).collect();
    assert_eq!(harness.read(&orders, 10, 1 << 20), after);
}

#[test]
fn seq_reused_during_a_commit_is_another_message() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 1, WriteThrough::Now, "before");
    harness.tick();
    harness.forget(&orders, 1, 1);
    harness.keep(&orders, 1, WriteThrough::Behind, "after");
    harness.settle();
    let after = [(1, "after".to_owned())];
    assert_eq!(harness.read(&orders, 10, 1 << 20), after);
    harness.later(DELAY);
    harness.reload();
    assert_eq!(harness.read(&orders, 10, 1 << 20), after);
}

#[test]
fn older_message_written_later_brings_nothing_back() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 2, WriteThrough::Stop, "second");
    harness.keep(&orders, 3, WriteThrough::Now, "third");
    harness.write(&orders, 7, "seventh");
    harness.forget(&orders, 3, 3);
    harness.later(6 * SECOND);
    harness.stop();
    harness.reload();
    let kept = [(2, "second".to_owned()), (7, "seventh".to_owned())];
    assert_eq!(harness.read(&orders, 10, 1 << 20), kept);
}

#[test]
fn clean_stop_writes_all_even_if_the_process_dies() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "now");
    harness.keep(&orders, 2, WriteThrough::Behind, "behind");
    harness.keep(&orders, 3, WriteThrough::Stop, "stop");
    harness.keep(&orders, 4, WriteThrough::Never, "never");
    harness.store.finish();
    harness.kill();
    harness.tick();
    while !harness.store.is_finished() {
        harness.receive_or_pass();
    }
    assert_eq!(harness.store.failure(), None);
    harness.reload();
    let read = harness.read(&orders, 10, 1 << 20);
    assert_eq!(read.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn stop_with_an_unusable_disk_ends_in_time() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.keep(&orders, 1, WriteThrough::Stop, "stop");
    harness.program(NOTHING);
    harness.end_idle_process();
    harness.store.finish();
    let before = harness.now.moment;
    harness.tick();
    while !harness.store.is_finished() {
        harness.receive_or_pass();
    }
    assert!(harness.now.moment.since(before) <= 5 * SECOND);
    assert!(harness.store.failure().is_some());
}

#[test]
fn stop_with_nothing_to_write_starts_no_process() {
    let mut harness = StoreHarness::new();
    harness.later(31 * SECOND);
    harness.program(NOTHING);
    harness.stop();
    assert_eq!(harness.store.failure(), None);
}

#[test]
fn process_that_hangs_is_ended_and_another_goes_on() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "first");
    harness.events();
    harness.signal(rustix::process::Signal::STOP);
    harness.keep(&orders, 2, WriteThrough::Now, "second");
    harness.tick();
    assert_eq!(harness.deadline(), Some(10 * SECOND));
    harness.later(10 * SECOND);
    let vain = StoreEvent::NotStored { log: orders.clone(), seq: 2 };
    assert_eq!(harness.events(), [StoreEvent::Failed, vain]);
    harness.later(2 * SECOND);
    assert_eq!(harness.events(), [stored(&orders, 2, 2), StoreEvent::Recovered]);
}

#[test]
fn commit_larger_than_the_socket_arrives_whole() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    let text = |seq: u64| format!("{seq} {}", "x".repeat(100_000));
    for seq in 1..=12 {
        harness.keep(&orders, seq, WriteThrough::Now, &text(seq));
    }
    harness.settle();
    let events = harness.events();
    assert_eq!((events.first(), events.len()), (Some(&stored(&orders, 1, 6)), 2), "two commits: {events:?}");
    harness.reload();
    let all: Vec<_> = (1..=12).map(|seq| (seq, text(seq))).collect();
    assert!(harness.read(&orders, 5, 1 << 20) == all);
}

#[test]
fn spent_budget_writes_only_promises_even_after_a_restart() {
    let mut harness = StoreHarness::new();
    harness.set_flash_budget(64 << 10);
    let orders = log("orders");
    let text = "x".repeat(10_000);
    for seq in 1..=20 {
        harness.write(&orders, seq, &text);
    }
    for _ in 0..2 {
        harness.events();
        harness.keep(&orders, 31, WriteThrough::Behind, "may wait");
        harness.later(600 * SECOND);
        assert_eq!(harness.events(), []);
        harness.write(&orders, 32, "may not");
        assert_eq!(harness.events(), [stored(&orders, 32, 32)]);
        harness.reload();
    }
}

#[test]
fn notice_is_read_wherever_its_messages_lie() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in 1..=3 {
        harness.keep(&orders, seq, WriteThrough::Now, "on the disk");
    }
    harness.settle();
    harness.keep(&orders, 4, WriteThrough::Never, "in memory");
    harness.fetch_notice(&orders, 0, 3);
    harness.forget(&orders, 1, 3);
    harness.fetch_notice(&orders, 3, 1);
    harness.forget(&orders, 4, 4);
    assert_eq!(harness.pages(), [vec![4], vec![1, 2, 3]]);
}

#[test]
fn hanging_disk_queues_a_bounded_number_of_notices() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in 1..=5000 {
        harness.keep(&orders, seq, WriteThrough::Behind, "unheard");
    }
    harness.later(DELAY);
    harness.events();
    harness.signal(rustix::process::Signal::STOP);
    for seq in 1..=5000 {
        harness.fetch_notice(&orders, seq - 1, 1);
        harness.forget(&orders, seq, seq);
    }
    let unread = harness.events().iter().filter(|fact| matches!(fact, StoreEvent::ReadFailed { .. })).count();
    assert!((900..=910).contains(&unread), "{unread} of 5,000 are not read");
    harness.kill();
}

#[test]
fn notice_comes_in_parts_where_its_messages_lie_in_parts() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in [1, 2, 4] {
        harness.keep(&orders, seq, WriteThrough::Now, "on the disk");
    }
    harness.settle();
    harness.keep(&orders, 3, WriteThrough::Never, "in memory");
    harness.fetch_notice(&orders, 0, 4);
    harness.forget(&orders, 1, 4);
    let mut received: Vec<u64> = harness.pages().concat();
    received.sort_unstable();
    assert_eq!(received, [1, 2, 3, 4]);
}

#[test]
fn disk_that_works_for_a_moment_has_not_recovered() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    harness.write(&orders, 1, "first");
    let mut pauses = Vec::new();
    for seq in [2, 4] {
        harness.program(NOTHING);
        harness.kill();
        harness.receive();
        // Who has ended is looked after as well, and would be the next to be due.
        harness.wait_for_process_end();
        harness.keep(&orders, seq, WriteThrough::Now, "while it fails");
        harness.tick();
        let pause = harness.deadline().unwrap();
        pauses.push(pause.as_millis());
        harness.program(PROGRAM);
        harness.later(pause);
    }
    assert_eq!(pauses, [1000, 2000]);
}
