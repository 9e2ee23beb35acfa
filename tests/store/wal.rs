//! Commits go to a write-ahead log, and from there to a database while it is quiet.

use std::fs;

use rustix::process::Signal;
use serde_json::json;
use wshubd::edge::store::ipc::StoreRequest;
use wshubd::hub::settings::WriteThrough;

use crate::child::{Response, TestDirectory, mark, put, record};
use crate::harness::{DELAY, MIB, SECOND, StoreHarness, log};

/// Commits of ten messages each, by a process that is killed: nobody left word of how
/// much there is. Tells where each commit ends in the log.
fn killed_after(commits: u64) -> (TestDirectory, Vec<usize>) {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    let mut ends = Vec::new();
    for commit in 0..commits {
        let seqs = (1..=10).map(|n| commit * 10 + n);
        child.commit(1, seqs.map(|seq| put("logs", seq, 900)).collect()).end("Committed");
        ends.push(fs::metadata(directory.wal(1)).unwrap().len() as usize);
    }
    child.signal(Signal::KILL);
    child.wait();
    (directory, ends)
}

fn seqs(response: &Response) -> Vec<u64> {
    response.records.iter().map(|record| record.seq).collect()
}

/// Whatever is there goes on: one more message, after which all of it is read.
fn goes_on(directory: &TestDirectory, before: &[u64], damaged: u64, what: &str) {
    let mut child = directory.start();
    child.commit(1, vec![put("logs", 1000, 700)]).end("Committed");
    child.signal(Signal::KILL);
    child.wait();
    let mut child = directory.start();
    let loaded = child.load(1);
    assert_eq!(seqs(&loaded), [before, &[1000]].concat(), "{what}");
    assert_eq!(loaded.end("Loaded")["damaged"], damaged, "{what}");
    let read = child.read(1, "logs").records;
    let expected = |seq: &u64| record("logs", *seq, if *seq == 1000 { 700 } else { 900 });
    assert_eq!(read, [before, &[1000]].concat().iter().map(expected).collect::<Vec<_>>(), "{what}");
}

#[test]
fn power_cut_leaves_the_first_messages_of_a_commit() {
    let (directory, ends) = killed_after(3);
    let whole = fs::read(directory.wal(1)).unwrap();
    // Cut anywhere in the last commit.
    for at in (ends[1]..ends[2]).step_by(997) {
        fs::write(directory.wal(1), &whole[..at]).unwrap();
        let loaded = directory.start().load(1);
        let count = loaded.records.len() as u64;
        assert!((20..=30).contains(&count));
        assert_eq!(seqs(&loaded), (1..=count).collect::<Vec<_>>(), "cut at {at}");
        assert_eq!(loaded.end("Loaded")["damaged"], 0, "cut at {at}");
        goes_on(&directory, &seqs(&loaded), 0, &format!("cut at {at}"));
    }
    // A part of it that never reached the disk, between others that did.
    for at in (ends[1] + 10..ends[2] - 600).step_by(512) {
        let mut torn = whole.clone();
        torn[at..at + 512].fill(0);
        fs::write(directory.wal(1), torn).unwrap();
        let loaded = directory.start().load(1);
        let count = loaded.records.len() as u64;
        assert!((20..30).contains(&count));
        assert_eq!(seqs(&loaded), (1..=count).collect::<Vec<_>>(), "a hole at {at}");
        assert_eq!(loaded.end("Loaded")["damaged"], 0, "a hole at {at}");
        goes_on(&directory, &seqs(&loaded), 0, &format!("a hole at {at}"));
    }
}

#[test]
fn hole_before_the_last_commit_costs_what_is_in_it() {
    let (directory, ends) = killed_after(3);
    let whole = fs::read(directory.wal(1)).unwrap();
    for at in (0..ends[1] - 600).step_by(613) {
        let mut holed = whole.clone();
        holed[at..at + 512].iter_mut().for_each(|byte| *byte = !*byte);
        fs::write(directory.wal(1), holed).unwrap();
        let loaded = directory.start().load(1);
        let lost = 30 - loaded.records.len() as u64;
        // The hole may be in the record that ends a commit: nothing is lost with that.
        assert!(lost <= 2, "{lost} lost by a hole at {at}");
        assert_eq!(loaded.end("Loaded")["damaged"], lost, "a hole at {at}");
        goes_on(&directory, &seqs(&loaded), lost, &format!("a hole at {at}"));
    }
}

#[test]
fn message_that_looks_like_a_record_is_none() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    child.commit(1, (1..=3).map(|seq| put("logs", seq, 300)).collect()).end("Committed");
    // The second is damaged, and holds what a record of another log would look like.
    let mut bytes = fs::read(directory.wal(1)).unwrap();
    let at = bytes.windows(9).position(|nine| nine == b"00000002|").unwrap();
    let first = bytes[..200].to_vec();
    bytes[at..at + 200].copy_from_slice(&first);
    child.commit(1, vec![put("logs", 4, 10)]).end("Committed");
    child.signal(Signal::KILL);
    child.wait();
    let later = fs::read(directory.wal(1)).unwrap()[bytes.len()..].to_vec();
    fs::write(directory.wal(1), [bytes, later].concat()).unwrap();
    let loaded = directory.start().load(1);
    assert_eq!(seqs(&loaded), [1, 3, 4]);
    assert_eq!(loaded.end("Loaded")["damaged"], 1);
}

#[test]
fn log_and_database_are_read_as_one() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    child
        .commit(1, (1..=20).filter(|seq| seq % 2 == 0).map(|seq| put("logs", seq, 500)).collect())
        .end("Committed");
    let request = |state| StoreRequest::Commit {
        generation: 1,
        puts: vec![],
        marks: vec![mark("logs", &state)],
        gone: vec![],
    };
    child.request(&request(json!("old"))).end("Committed");
    child.checkpoint(1);
    // Between those, and in the place of one.
    let odd = (1..=20).filter(|seq| seq % 2 == 1).map(|seq| put("logs", seq, 500));
    child.commit(1, odd.chain([put("logs", 10, 77), put("other", 3, 10)]).collect()).end("Committed");
    child.request(&request(json!("new"))).end("Committed");
    let expected: Vec<_> =
        (1..=20).map(|seq| record("logs", seq, if seq == 10 { 77 } else { 500 })).collect();
    for is_new in [false, true] {
        if is_new {
            child.end();
            child = directory.start();
        }
        assert_eq!(child.read(1, "logs").records, expected);
        let mut page = |from, to, count| {
            let read = child.request(&StoreRequest::Read {
                generation: 1,
                log: "logs".into(),
                from,
                to,
                count,
                bytes: usize::MAX,
            });
            seqs(&read)
        };
        assert_eq!(page(0, u64::MAX, 1), [1]);
        assert_eq!(page(2, u64::MAX, 3), [2, 3, 4]);
        assert_eq!(page(9, 11, 50), [9, 10, 11]);
        assert_eq!(page(10, 10, 50), [10]);
        assert_eq!(page(21, 90, 50), [0; 0]);
        let loaded = child.load(1);
        assert_eq!(loaded.marks.last(), Some(&("logs".to_owned(), json!("new"))));
        assert_eq!(loaded.end("Loaded")["damaged"], 0);
    }
    child.checkpoint(1);
    assert!(directory.has_no_wal(1));
    assert_eq!(child.read(1, "logs").records, expected);
    assert_eq!(child.read(1, "other").records.len(), 1);
}

#[test]
fn kill_at_any_time_of_a_checkpoint_loses_nothing() {
    for portions in 0..12 {
        // Into a database that is not there yet, and into one that is.
        for is_second in [false, true] {
            let directory = TestDirectory::new();
            let mut child = directory.start();
            let mut expected = Vec::new();
            if is_second {
                child.commit(1, (1..=20).map(|seq| put("logs", seq, 400)).collect()).end("Committed");
                expected.extend((1..=20).map(|seq| record("logs", seq, 400)));
                child.checkpoint(1);
            }
            child.commit(1, (21..=40).map(|seq| put("logs", seq, 400)).collect()).end("Committed");
            expected.extend((21..=40).map(|seq| record("logs", seq, 400)));
            let request = StoreRequest::Checkpoint { generation: 1, bytes: 1000 };
            for _ in 0..portions {
                child.request(&request).end("Checkpointed");
            }
            // What comes meanwhile is no less safe.
            child.commit(1, vec![put("logs", 41, 400)]).end("Committed");
            expected.push(record("logs", 41, 400));
            child.send(&request);
            child.signal(Signal::KILL);
            child.wait();
            let mut child = directory.start();
            assert_eq!(child.load(1).end("Loaded")["damaged"], 0, "{portions}");
            assert_eq!(child.read(1, "logs").records, expected, "{portions}");
            child.checkpoint(1);
            assert!(directory.has_no_wal(1));
            child.commit(1, vec![put("logs", 42, 400)]).end("Committed");
            expected.push(record("logs", 42, 400));
            child.end();
            assert_eq!(directory.start().read(1, "logs").records, expected, "{portions}");
        }
    }
}

#[test]
fn small_commits_go_into_zeroes_and_cost_a_page_each() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    let mut written = Vec::new();
    let mut lengths = Vec::new();
    for seq in 1..=200 {
        let response = child.commit(1, vec![put("logs", seq, 300)]);
        written.push(response.end("Committed")["room"]["written"].as_u64().unwrap());
        lengths.push(fs::metadata(directory.wal(1)).unwrap().len());
    }
    lengths.dedup();
    assert!(lengths.len() < 40, "the file has grown {} times", lengths.len());
    let each = (written[199] - written[0]) / 199;
    assert!((4096..5500).contains(&each), "{each}");
    child.signal(Signal::KILL);
    child.wait();
    assert_eq!(directory.start().read(1, "logs").records.len(), 200);
}

/// What is in a place of the first generation.
fn holds(harness: &StoreHarness, name: &str) -> bool {
    harness.directory.generation(0).join(name).exists()
}

#[test]
fn live_messages_go_to_the_database_when_it_is_quiet() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in 1..=300 {
        harness.keep(&orders, seq, WriteThrough::Behind, &"x".repeat(400));
    }
    harness.later(DELAY);
    harness.later(4 * SECOND);
    assert!(!holds(&harness, "database"), "not before it is quiet");
    harness.later(SECOND);
    assert!(holds(&harness, "database") && harness.directory.has_no_wal(0));
    assert_eq!(harness.store.failure(), None);
    assert_eq!(harness.read(&orders, 1000, MIB as usize).len(), 300);
    // What comes then is read with it, also by the next.
    harness.write(&orders, 301, "last");
    harness.reload();
    assert_eq!(harness.read(&orders, 1000, MIB as usize).len(), 301);
}

#[test]
fn message_delivered_soon_never_goes_to_the_database() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in 1..=300 {
        harness.write(&orders, seq, &"x".repeat(400));
    }
    harness.forget(&orders, 1, 300);
    harness.later(60 * SECOND);
    assert!(!holds(&harness, "database"));
}

#[test]
fn full_store_keeps_messages_in_their_log() {
    let mut harness = StoreHarness::with_capacity(MIB);
    let orders = log("orders");
    for seq in 1..=300 {
        harness.keep(&orders, seq, WriteThrough::Behind, &"x".repeat(400));
    }
    harness.later(DELAY);
    harness.later(60 * SECOND);
    assert!(!holds(&harness, "database"), "it would be a third of the store");
    assert_eq!(harness.read(&orders, 1000, MIB as usize).len(), 300);
}

#[test]
fn checkpoint_begun_is_finished_though_the_store_grows() {
    // It fits by little, and takes two portions.
    let mut harness = StoreHarness::with_capacity(6 * MIB);
    let orders = log("orders");
    for seq in 1..=600 {
        harness.keep(&orders, seq, WriteThrough::Behind, &"x".repeat(400));
    }
    harness.later(DELAY);
    let length = fs::metadata(harness.directory.wal(0)).unwrap().len();
    assert!(length > 256 << 10 && 4 * length <= 6 * MIB / 4, "{length}");
    harness.later(5 * SECOND);
    assert!(holds(&harness, "database/count") && harness.directory.has_no_wal(0));
    assert!(!holds(&harness, "database/unfinished"));
    assert_eq!(harness.read(&orders, 1000, MIB as usize).len(), 600);
}

#[test]
fn failed_checkpoint_is_no_failure_and_is_tried_later() {
    let mut harness = StoreHarness::new();
    let orders = log("orders");
    for seq in 1..=300 {
        harness.keep(&orders, seq, WriteThrough::Behind, &"x".repeat(400));
    }
    harness.later(DELAY);
    // In the way of the directory that is to be made.
    fs::write(harness.directory.generation(0).join("database"), "in the way").unwrap();
    harness.later(6 * SECOND);
    assert_eq!(harness.store.failure(), None);
    assert!(harness.events().iter().all(|fact| matches!(fact, wshubd::hub::StoreEvent::Stored { .. })));
    fs::remove_file(harness.directory.generation(0).join("database")).unwrap();
    harness.write(&orders, 301, "goes on");
    harness.later(20 * SECOND);
    assert!(!holds(&harness, "database"));
    harness.later(3600 * SECOND);
    assert!(holds(&harness, "database") && harness.directory.has_no_wal(0));
    assert_eq!(harness.read(&orders, 1000, MIB as usize).len(), 301);
}

/// A store of the first format, in which a generation was a database alone.
fn of_first_format(directory: &TestDirectory) {
    let made = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/store/generation-of-format-1");
    fs::create_dir_all(directory.generation(0).join("blobs")).unwrap();
    for entry in fs::read_dir(made).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), directory.generation(0).join(entry.file_name())).unwrap();
    }
}

#[test]
fn generation_of_the_first_format_is_read_and_another_is_written() {
    let mut harness = StoreHarness::new();
    harness.crash();
    fs::remove_dir_all(harness.directory.store()).unwrap();
    fs::create_dir(harness.directory.store()).unwrap();
    of_first_format(&harness.directory);
    let orders = log("orders");
    let found = harness.load();
    assert_eq!(found.iter().map(|found| (&found.log, found.kept.len())).collect::<Vec<_>>(), [(&orders, 40)]);
    harness.write(&orders, 41, "later");
    assert_eq!(harness.directory.names(), ["00000000", "00000001"]);
    let read = harness.read(&orders, 7, MIB as usize);
    assert_eq!(read.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), (1..=41).collect::<Vec<_>>());
    assert_eq!(read[39].1, format!("message 40 {}", "x".repeat(500)));
    // All of it is delivered: the old one goes.
    harness.forget(&orders, 1, 41);
    harness.later(10 * SECOND);
    assert_eq!(harness.directory.names(), ["00000001"]);
}

#[test]
fn commit_to_a_generation_of_the_first_format_is_refused() {
    let directory = TestDirectory::new();
    of_first_format(&directory);
    let mut child = directory.start();
    assert_eq!(child.ready["generations"][0]["is_only_read"], true);
    let refused = child.commit(0, vec![put("logs", 1, 10)]);
    assert!(
        refused.end("Failed")["why"].as_str().unwrap().ends_with("00000000 is of a format that is only read")
    );
}
