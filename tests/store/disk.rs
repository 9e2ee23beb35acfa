//! What the daemon writes to the disk and when, and what it tells of it.

use std::time::Duration;

use wshubd::hub::StoreEvent;
use wshubd::hub::settings::WriteThrough;

use crate::harness::{DELAY, NOTHING, PROGRAM, Stage, log, stored};

const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn what_was_delivered_in_time_never_touches_the_disk() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Behind, "brief");
    stage.later(DELAY - SECOND / 10);
    stage.forget(&orders, 1, 1);
    stage.later(DELAY);
    stage.later(60 * SECOND);
    assert_eq!((stage.told(), stage.place.names()), (vec![], vec![]));
    // One look after the process that has ended, and no more.
    stage.wait_for_the_end();
    stage.later(SECOND);
    assert_eq!(stage.deadline(), None);
}

#[test]
fn forgetting_is_written_a_little_later_and_then_nothing_more() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Behind, "brief");
    stage.later(DELAY);
    assert_eq!(stage.told(), [stored(&orders, 1, 1)]);
    stage.forget(&orders, 1, 1);
    stage.settle();
    assert_eq!(stage.deadline(), Some(5 * SECOND));
    stage.later(5 * SECOND);
    assert_eq!(stage.deadline(), Some(30 * SECOND), "the process ends when it was idle");
    stage.later(30 * SECOND);
    stage.later(SECOND);
    stage.crash();
    assert_eq!(stage.load(), []);
}

#[test]
fn a_stream_of_forgetting_is_not_a_stream_of_commits() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=10 {
        stage.keep(&orders, seq, WriteThrough::Now, "one of many");
    }
    stage.settle();
    stage.forget(&orders, 1, 1);
    stage.advance(5 * SECOND);
    stage.act(wshubd::edge::store::Store::tick);
    // While that is being written, another goes.
    stage.forget(&orders, 2, 2);
    stage.settle();
    assert_eq!(stage.deadline(), Some(5 * SECOND));
}

#[test]
fn what_somebody_waits_for_is_written_though_nobody_reads_it_any_more() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "brief");
    stage.forget(&orders, 1, 1);
    stage.settle();
    assert_eq!(stage.told(), [stored(&orders, 1, 1)]);
    assert_eq!(stage.read(&orders, 10, 1000), []);
    stage.later(5 * SECOND);
    stage.crash();
    assert_eq!(stage.load(), []);
}

#[test]
fn a_commit_without_an_answer_is_told_in_vain_once_and_made_again() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "first");
    stage.keep(&orders, 2, WriteThrough::Behind, "second");
    stage.unanswered();
    let vain = StoreEvent::NotStored { log: orders.clone(), seq: 1 };
    assert_eq!(stage.told(), [StoreEvent::Failed, vain]);
    assert!(stage.store.failure().is_some());
    stage.later(2 * SECOND);
    assert_eq!(stage.told(), [stored(&orders, 1, 2), StoreEvent::Recovered]);
    assert_eq!(stage.store.failure(), None);
}

#[test]
fn a_message_of_a_commit_without_an_answer_does_not_come_back_when_it_was_forgotten() {
    for others in [0, 1] {
        let mut stage = Stage::new(64 * MIB);
        let orders = log("orders");
        for seq in 1..=others {
            stage.keep(&orders, seq, WriteThrough::Now, "another");
        }
        stage.settle();
        stage.keep(&orders, 5, WriteThrough::Behind, "brief");
        stage.advance(DELAY);
        stage.unanswered();
        stage.forget(&orders, 5, 5);
        stage.later(2 * SECOND);
        stage.later(6 * SECOND);
        stage.crash();
        let found: Vec<u64> =
            stage.load().iter().flat_map(|found| found.kept.iter().map(|kept| kept.seq)).collect();
        assert_eq!(found, (1..=others).collect::<Vec<_>>());
    }
}

#[test]
fn a_disk_that_fails_again_and_again_is_asked_less_and_less_often() {
    let mut stage = Stage::new(64 * MIB);
    stage.program(NOTHING);
    stage.crash();
    stage.act(wshubd::edge::store::Store::tick);
    let mut pauses = Vec::new();
    for _ in 0..12 {
        let pause = stage.deadline().unwrap();
        pauses.push(pause.as_millis());
        stage.later(pause);
    }
    // Nobody is let in before it was tried for a while.
    let at_the_start = [100, 200, 400, 800, 1600];
    let later = [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
    assert_eq!(pauses, [&at_the_start[..], &later].concat());
    assert_eq!(stage.told(), [StoreEvent::Failed]);
}

#[test]
fn a_process_that_ends_while_nothing_is_asked_of_it_is_no_failure() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "first");
    stage.settle();
    stage.kill();
    stage.hear();
    stage.keep(&orders, 2, WriteThrough::Now, "second");
    stage.settle();
    assert_eq!(stage.told(), [stored(&orders, 1, 1), stored(&orders, 2, 2)]);
}

#[test]
fn a_process_that_ends_while_it_reads_costs_another_and_no_page() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "first");
    stage.settle();
    stage.told();
    // It cannot have answered before its end.
    stage.signal(rustix::process::Signal::STOP);
    stage.ask(&orders, 0, 10, 1 << 20);
    stage.act(wshubd::edge::store::Store::tick);
    stage.kill();
    let page = stage.page().unwrap();
    assert_eq!(page.iter().map(|message| crate::harness::text(message)).collect::<Vec<_>>(), ["first"]);
    stage.keep(&orders, 2, WriteThrough::Now, "second");
    stage.settle();
    assert!(stage.told().iter().all(|fact| *fact == stored(&orders, 2, 2)));
}

#[test]
fn who_waits_for_a_page_that_cannot_be_read_is_told_in_the_end() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "first");
    stage.settle();
    stage.told();
    stage.kill();
    stage.hear();
    // A directory in place of the file: an error each time, and no damage.
    let log = stage.place.wal(0);
    std::fs::rename(&log, log.with_file_name("away")).unwrap();
    std::fs::create_dir(&log).unwrap();
    stage.ask(&orders, 0, 10, 1 << 20);
    assert_eq!(stage.page(), None);
    assert!(stage.told().contains(&StoreEvent::Failed));
}

#[test]
fn a_process_that_ends_while_it_begins_costs_another_and_no_page() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "first");
    stage.settle();
    stage.later(30 * SECOND);
    stage.wait_for_the_end();
    stage.told();
    stage.program("/bin/false");
    stage.ask(&orders, 0, 10, 1 << 20);
    stage.act(wshubd::edge::store::Store::tick);
    stage.hear();
    stage.hear();
    stage.program(PROGRAM);
    let page = stage.page().unwrap();
    assert_eq!(page.iter().map(|message| crate::harness::text(message)).collect::<Vec<_>>(), ["first"]);
    assert_eq!(stage.told(), []);
}

#[test]
fn what_goes_to_no_disk_makes_nothing_else_be_written_early() {
    let mut stage = Stage::new(64 * MIB);
    stage.options.memory = 10_000;
    stage.crash();
    stage.load();
    stage.later(30 * SECOND);
    stage.wait_for_the_end();
    stage.later(SECOND);
    let text = "x".repeat(1000);
    for seq in 1..=20 {
        stage.keep(&log("in memory"), seq, WriteThrough::Never, &text);
    }
    stage.keep(&log("orders"), 1, WriteThrough::Behind, "may wait");
    stage.act(wshubd::edge::store::Store::tick);
    assert_eq!(stage.deadline(), Some(DELAY));
    // What goes there is written, where that is too much to hold.
    for seq in 2..=20 {
        stage.keep(&log("orders"), seq, WriteThrough::Behind, &text);
    }
    assert_eq!(stage.deadline(), Some(Duration::ZERO));
}

#[test]
fn very_many_empty_logs_are_told_of_in_several_commits() {
    let mut stage = Stage::new(64 * MIB);
    let name = |number: usize| log(&format!("user:{number}"));
    for number in 0..1200 {
        stage.keep(&name(number), 1, WriteThrough::Behind, "one");
    }
    stage.keep(&log("stays"), 1, WriteThrough::Behind, "one");
    stage.later(DELAY);
    for number in 0..1200 {
        stage.forget(&name(number), 1, 1);
    }
    stage.advance(5 * SECOND);
    let mut commits = 0;
    stage.act(wshubd::edge::store::Store::tick);
    // Each answer makes room for the next order, until none is under way.
    while stage.deadline() == Some(10 * SECOND) {
        stage.hear();
        commits += 1;
    }
    assert!(commits >= 3, "{commits} for 1,200 logs");
    stage.settle();
    stage.crash();
    let found = stage.load();
    assert_eq!(found.iter().map(|found| &found.log).collect::<Vec<_>>(), [&log("stays")]);
}

#[test]
fn what_an_order_wrote_that_was_never_answered_counts_against_the_budget() {
    let mut stage = Stage::new(64 * MIB);
    stage.options.flash_budget = Some(64 << 20);
    stage.crash();
    stage.load();
    // What a socket takes at once, for only a whole order is carried out.
    let text = "x".repeat(50_000);
    stage.keep(&log("orders"), 1, WriteThrough::Behind, &text);
    stage.advance(DELAY);
    stage.unanswered();
    assert!(stage.store.failure().is_some());
    let spent = stage.spent();
    assert!(spent >= 50_000, "{spent}");
}

#[test]
fn what_cannot_be_read_at_the_start_is_found_later() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "first");
    stage.settle();
    stage.program(NOTHING);
    stage.crash();
    stage.act(wshubd::edge::store::Store::tick);
    while !stage.store.is_open() {
        let pause = stage.deadline().unwrap();
        stage.later(pause);
    }
    assert_eq!(stage.told(), [StoreEvent::Failed]);
    stage.program(PROGRAM);
    stage.later(2 * SECOND);
    let told = stage.told();
    assert!(
        matches!(&told[..], [StoreEvent::RecoveredLog(found), StoreEvent::Recovered] if found.log == orders),
        "{told:?}"
    );
    assert_eq!(stage.read(&orders, 10, 1000), [(1, "first".to_owned())]);
}

#[test]
fn a_page_keeps_the_order_where_memory_and_disk_take_turns() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=12_u64 {
        let disk = if seq.is_multiple_of(4) { WriteThrough::Stop } else { WriteThrough::Now };
        stage.keep(&orders, seq, disk, &format!("message {seq}"));
    }
    stage.settle();
    let all: Vec<_> = (1..=12).map(|seq| (seq, format!("message {seq}"))).collect();
    for count in [1, 2, 5, 100] {
        assert_eq!(stage.read(&orders, count, 1 << 20), all);
    }
    // Small pages hold one message at least.
    assert_eq!(stage.read(&orders, 100, 1), all);
}

#[test]
fn a_page_that_is_asked_for_is_what_is_there_when_it_is_read() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    for (seq, disk) in
        [(3, WriteThrough::Now), (5, WriteThrough::Stop), (6, WriteThrough::Now), (11, WriteThrough::Stop)]
    {
        stage.keep(&orders, seq, disk, "text");
    }
    stage.settle();
    stage.ask(&orders, 0, 10, 1 << 20);
    stage.forget(&orders, 3, 3);
    let page = stage.page().unwrap();
    let seqs: Vec<_> = page.iter().map(|message| message.seq.unwrap()).collect();
    assert_eq!(seqs, [5], "what is on the disk between what is in memory is not left out");
    // And while it is being read.
    stage.ask(&orders, 5, 10, 1 << 20);
    stage.act(wshubd::edge::store::Store::tick);
    stage.forget(&orders, 6, 6);
    let page = stage.page().unwrap();
    assert_eq!(page.iter().map(|message| message.seq.unwrap()).collect::<Vec<_>>(), [11]);
}

#[test]
fn a_full_disk_can_still_be_read_and_so_be_emptied() {
    let mut stage = Stage::new(2 * MIB);
    let orders = log("orders");
    let text = "x".repeat(8000);
    let mut last = 0;
    while stage.store.failure().is_none() {
        last += 1;
        assert!(last < 1000, "there is no limit");
        stage.keep(&orders, last, WriteThrough::Now, &text);
        stage.settle();
        assert!(stage.used() <= 2 * MIB, "{} bytes with {last} messages", stage.used());
    }
    assert!(last > 60, "only {last} fit");
    assert_eq!(stage.read(&orders, 20, 1 << 20).len() as u64, last);
    stage.told();
    stage.forget(&orders, 1, last - 3);
    stage.later(2 * SECOND);
    stage.later(30 * SECOND);
    let told = stage.told();
    assert!(told.contains(&StoreEvent::Recovered), "{told:?}");
    assert_eq!(stage.read(&orders, 20, 1 << 20).len(), 3);
    assert!(stage.used() < 2 * MIB / 3, "{}", stage.used());
}

#[test]
fn what_is_all_owed_is_not_written_again_and_again() {
    // Of small messages the engine takes several times what they count.
    let mut stage = Stage::new(16 * MIB);
    let orders = log("orders");
    for seq in 1..=5000_u64 {
        stage.keep(&orders, seq, WriteThrough::Behind, "");
        if seq.is_multiple_of(500) {
            stage.later(DELAY);
        }
    }
    stage.later(60 * SECOND);
    let before = stage.place.names();
    for _ in 0..5 {
        stage.later(60 * SECOND);
    }
    assert_eq!(stage.place.names(), before);
    assert_eq!(stage.read(&orders, 1000, 1 << 20).len(), 5000);
}

#[test]
fn after_churn_the_disk_shrinks_and_keeps_what_is_owed() {
    let mut stage = Stage::new(4 * MIB);
    let (rare, busy) = (log("rare"), log("busy"));
    let text = "x".repeat(5000);
    for seq in 1..=600_u64 {
        stage.keep(&busy, seq, WriteThrough::Behind, &text);
        if seq.is_multiple_of(100) {
            stage.keep(&rare, seq / 100, WriteThrough::Now, "kept");
        }
        if seq.is_multiple_of(20) {
            stage.later(DELAY);
            assert!(stage.used() <= 4 * MIB);
            stage.forget(&busy, 1, seq);
        }
    }
    stage.later(5 * SECOND);
    assert!(stage.used() < 4 * MIB / 3, "{}", stage.used());
    let kept: Vec<_> = (1..=6).map(|seq| (seq, "kept".to_owned())).collect();
    assert_eq!(stage.read(&rare, 100, 1 << 20), kept);
    stage.crash();
    stage.load();
    assert_eq!(stage.read(&rare, 100, 1 << 20), kept);
}

#[test]
fn a_topic_that_begins_anew_is_not_taken_for_the_one_before() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=5 {
        stage.keep(&orders, seq, WriteThrough::Now, "before");
    }
    stage.settle();
    // A run in the middle, and then all.
    stage.forget(&orders, 3, 3);
    stage.later(6 * SECOND);
    stage.forget(&orders, 1, 5);
    for seq in 1..=4 {
        stage.keep(&orders, seq, WriteThrough::Now, "after");
    }
    stage.settle();
    stage.crash();
    stage.load();
    let after: Vec<_> = (1..=4).map(|seq| (seq, "after".to_owned())).collect();
    assert_eq!(stage.read(&orders, 10, 1 << 20), after);
}

#[test]
fn a_number_that_is_given_out_again_during_a_commit_is_another_message() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "before");
    stage.act(wshubd::edge::store::Store::tick);
    stage.forget(&orders, 1, 1);
    stage.keep(&orders, 1, WriteThrough::Behind, "after");
    stage.settle();
    let after = [(1, "after".to_owned())];
    assert_eq!(stage.read(&orders, 10, 1 << 20), after);
    stage.later(DELAY);
    stage.crash();
    stage.load();
    assert_eq!(stage.read(&orders, 10, 1 << 20), after);
}

#[test]
fn an_older_message_that_is_written_later_brings_nothing_back() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 2, WriteThrough::Stop, "second");
    stage.keep(&orders, 3, WriteThrough::Now, "third");
    stage.keep(&orders, 7, WriteThrough::Now, "seventh");
    stage.settle();
    stage.forget(&orders, 3, 3);
    stage.later(6 * SECOND);
    stage.stop();
    stage.crash();
    stage.load();
    let kept = [(2, "second".to_owned()), (7, "seventh".to_owned())];
    assert_eq!(stage.read(&orders, 10, 1 << 20), kept);
}

#[test]
fn a_clean_stop_writes_all_that_was_owed_even_if_the_process_dies_in_between() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "now");
    stage.settle();
    stage.keep(&orders, 2, WriteThrough::Behind, "behind");
    stage.keep(&orders, 3, WriteThrough::Stop, "stop");
    stage.keep(&orders, 4, WriteThrough::Never, "never");
    stage.store.finish();
    stage.kill();
    stage.act(wshubd::edge::store::Store::tick);
    while !stage.store.is_finished() {
        stage.hear_or_pass();
    }
    assert_eq!(stage.store.failure(), None);
    stage.crash();
    stage.load();
    let read = stage.read(&orders, 10, 1 << 20);
    assert_eq!(read.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_stop_with_a_disk_that_cannot_be_used_does_not_take_for_ever() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Stop, "stop");
    stage.program(NOTHING);
    stage.later(31 * SECOND);
    stage.wait_for_the_end();
    stage.store.finish();
    let before = stage.now.moment;
    stage.act(wshubd::edge::store::Store::tick);
    while !stage.store.is_finished() {
        stage.hear_or_pass();
    }
    assert!(stage.now.moment.since(before) <= 5 * SECOND);
    assert!(stage.store.failure().is_some());
}

#[test]
fn a_stop_with_nothing_to_write_starts_no_process() {
    let mut stage = Stage::new(64 * MIB);
    stage.later(31 * SECOND);
    stage.program(NOTHING);
    stage.stop();
    assert_eq!(stage.store.failure(), None);
}

#[test]
fn a_process_that_hangs_is_ended_and_another_goes_on() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "first");
    stage.settle();
    stage.told();
    stage.signal(rustix::process::Signal::STOP);
    stage.keep(&orders, 2, WriteThrough::Now, "second");
    stage.act(wshubd::edge::store::Store::tick);
    assert_eq!(stage.deadline(), Some(10 * SECOND));
    stage.later(10 * SECOND);
    let vain = StoreEvent::NotStored { log: orders.clone(), seq: 2 };
    assert_eq!(stage.told(), [StoreEvent::Failed, vain]);
    stage.later(2 * SECOND);
    assert_eq!(stage.told(), [stored(&orders, 2, 2), StoreEvent::Recovered]);
}

#[test]
fn a_commit_that_no_socket_takes_at_once_arrives_whole() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    let text = |seq: u64| format!("{seq} {}", "x".repeat(100_000));
    for seq in 1..=12 {
        stage.keep(&orders, seq, WriteThrough::Now, &text(seq));
    }
    stage.settle();
    let told = stage.told();
    assert_eq!((told.first(), told.len()), (Some(&stored(&orders, 1, 6)), 2), "two commits: {told:?}");
    stage.crash();
    stage.load();
    let all: Vec<_> = (1..=12).map(|seq| (seq, text(seq))).collect();
    assert!(stage.read(&orders, 5, 1 << 20) == all);
}

#[test]
fn a_spent_budget_writes_only_what_somebody_waits_for_also_after_a_restart() {
    let mut stage = Stage::new(64 * MIB);
    stage.options.flash_budget = Some(64 << 10);
    stage.crash();
    stage.load();
    let orders = log("orders");
    let text = "x".repeat(10_000);
    for seq in 1..=20 {
        stage.keep(&orders, seq, WriteThrough::Now, &text);
        stage.settle();
    }
    for _ in 0..2 {
        stage.told();
        stage.keep(&orders, 31, WriteThrough::Behind, "may wait");
        stage.later(600 * SECOND);
        assert_eq!(stage.told(), []);
        stage.keep(&orders, 32, WriteThrough::Now, "may not");
        stage.settle();
        assert_eq!(stage.told(), [stored(&orders, 32, 32)]);
        stage.crash();
        stage.load();
    }
}

#[test]
fn what_is_looked_up_before_it_is_forgotten_is_told_wherever_it_lies() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=3 {
        stage.keep(&orders, seq, WriteThrough::Now, "on the disk");
    }
    stage.settle();
    stage.keep(&orders, 4, WriteThrough::Never, "in memory");
    stage.look_up(&orders, 0, 3);
    stage.forget(&orders, 1, 3);
    stage.look_up(&orders, 3, 1);
    stage.forget(&orders, 4, 4);
    assert_eq!(stage.pages(), [vec![4], vec![1, 2, 3]]);
}

#[test]
fn disk_that_hangs_is_asked_for_a_bounded_number_of_forgotten_messages() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    for seq in 1..=5000 {
        stage.keep(&orders, seq, WriteThrough::Behind, "unheard");
    }
    stage.later(DELAY);
    stage.told();
    stage.signal(rustix::process::Signal::STOP);
    for seq in 1..=5000 {
        stage.look_up(&orders, seq - 1, 1);
        stage.forget(&orders, seq, seq);
    }
    let unread = stage.told().iter().filter(|fact| matches!(fact, StoreEvent::ReadFailed { .. })).count();
    assert!((900..=910).contains(&unread), "{unread} of 5,000 are not read");
    stage.kill();
}

#[test]
fn what_is_looked_up_comes_in_parts_where_it_lies_in_parts() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    for seq in [1, 2, 4] {
        stage.keep(&orders, seq, WriteThrough::Now, "on the disk");
    }
    stage.settle();
    stage.keep(&orders, 3, WriteThrough::Never, "in memory");
    stage.look_up(&orders, 0, 4);
    stage.forget(&orders, 1, 4);
    let mut heard: Vec<u64> = stage.pages().concat();
    heard.sort_unstable();
    assert_eq!(heard, [1, 2, 3, 4]);
}

#[test]
fn a_disk_that_works_for_a_moment_has_not_recovered() {
    let mut stage = Stage::new(64 * MIB);
    let orders = log("orders");
    stage.keep(&orders, 1, WriteThrough::Now, "first");
    stage.settle();
    let mut pauses = Vec::new();
    for seq in [2, 4] {
        stage.program(NOTHING);
        stage.kill();
        stage.hear();
        // Who has ended is looked after as well, and would be the next to be due.
        stage.wait_for_the_end();
        stage.keep(&orders, seq, WriteThrough::Now, "while it fails");
        stage.act(wshubd::edge::store::Store::tick);
        let pause = stage.deadline().unwrap();
        pauses.push(pause.as_millis());
        stage.program(PROGRAM);
        stage.later(pause);
    }
    assert_eq!(pauses, [1000, 2000]);
}
