//! What was committed is reported again.

use std::fs;

use serde_json::{Value, json};
use wshubd::edge::store::ipc::StoreRequest;

use crate::child::{Response, TestDirectory, gone, mark, put, record};

#[test]
fn commit_comes_back_with_states_and_gone_ranges() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    // Beyond one byte, and against the order of writing.
    let seqs = [1, 256, 2, 255, 70_000, 3];
    let puts = seqs.iter().flat_map(|seq| [put("logs", *seq, 40), put("news", *seq, 900)]).collect();
    let marks = vec![mark("logs", &json!({"first": 1})), mark("", &json!({"clock": 5}))];
    let request = StoreRequest::Commit {
        generation: 1,
        puts,
        marks,
        gone: vec![gone("logs", 2, 3), gone("logs", 9, 9)],
    };
    child.request(&request).end("Committed");
    is_told(&child.load(1));
    child.end();
    let mut child = directory.start();
    is_told(&child.load(1));
    child.checkpoint(1);
    assert!(directory.has_no_wal(1));
    is_told(&child.load(1));
    child.end();
    is_told(&directory.start().load(1));
}

/// All of that story.
fn is_told(loaded: &Response) {
    for (log, bytes) in [("logs", 40), ("news", 900)] {
        let mut events: Vec<_> = loaded.records.iter().filter(|record| record.log == log).collect();
        events.sort_by_key(|events| events.seq);
        let heads: Vec<_> = [1, 2, 3, 255, 256, 70_000].map(|seq| record(log, seq, bytes).head).into();
        assert_eq!(events.iter().map(|record| record.head.clone()).collect::<Vec<_>>(), heads);
        assert!(events.iter().all(|record| record.body == Value::Null), "a load tells no bodies");
    }
    let mut marks = loaded.marks.clone();
    marks.sort_by_key(|(log, _)| log.clone());
    assert_eq!(marks, [(String::new(), json!({"clock": 5})), ("logs".into(), json!({"first": 1}))]);
    assert_eq!(loaded.gone, [("logs".into(), 2, 3), ("logs".into(), 9, 9)]);
    assert_eq!(loaded.end("Loaded"), &json!({"damaged": 0, "notes": []}));
}

#[test]
fn new_state_replaces_the_old_one() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    for first in [1, 2, 3] {
        let marks = vec![mark("logs", &json!({"first": first}))];
        child
            .request(&StoreRequest::Commit { generation: 1, puts: vec![], marks, gone: vec![] })
            .end("Committed");
    }
    assert_eq!(child.load(1).marks, [("logs".into(), json!({"first": 3}))]);
}

#[test]
fn message_of_any_length_comes_back_whole_and_unmixed() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    let sizes = [0, 1, 390, 400, 410, 420, 430, 5000, 512 * 1024, 7, 512 * 1024];
    let messages = || sizes.iter().enumerate().map(|(at, size)| (at as u64 + 1, *size));
    child.commit(1, messages().map(|(seq, size)| put("large", seq, size)).collect()).end("Committed");
    // Once more: in its place, and no longer than before.
    child.commit(1, vec![put("large", 9, 300)]).end("Committed");
    child.end();

    let mut child = directory.start();
    let mut expected: Vec<_> = messages().map(|(seq, size)| record("large", seq, size)).collect();
    expected[8] = record("large", 9, 300);
    let read = child.read(1, "large");
    assert_eq!(read.end("Read")["damaged"], 0);
    assert!(read.records == expected, "not what was put");
    child.checkpoint(1);
    assert!(child.read(1, "large").records == expected, "not what was put, in the database");
    assert_eq!(child.load(1).end("Loaded"), &json!({"damaged": 0, "notes": []}));
}

#[test]
fn page_has_no_more_than_requested_but_at_least_one() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    let puts = (1..=9).flat_map(|seq| [put("a", seq, 100), put("b", seq, 100)]).collect();
    child.commit(1, puts).end("Committed");
    let mut page = |from, to, count, bytes| {
        let read =
            child.request(&StoreRequest::Read { generation: 1, log: "a".into(), from, to, count, bytes });
        assert_eq!(read.end("Read")["damaged"], 0);
        read.records.iter().map(|record| record.seq).collect::<Vec<_>>()
    };
    let (many, size) = (usize::MAX, r#"{"n":1,"bytes":100}"#.len() + 102);
    assert_eq!(page(3, 5, many, many), [3, 4, 5]);
    assert_eq!(page(8, u64::MAX, many, many), [8, 9]);
    assert_eq!(page(1, 9, 2, many), [1, 2]);
    assert_eq!(page(1, 9, 0, many), [0; 0]);
    assert_eq!(page(2, 9, many, 3 * size), [2, 3, 4]);
    assert_eq!(page(2, 9, many, 3 * size - 1), [2, 3]);
    assert_eq!(page(2, 9, many, 1), [2]);
    assert_eq!(page(10, 20, many, many), [0; 0]);
}

#[test]
fn missing_generation_is_empty_and_not_made() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    assert_eq!(child.ready["generations"], json!([]));
    assert_eq!(child.load(4).end("Loaded")["damaged"], 0);
    assert_eq!(child.read(4, "logs").end("Read")["damaged"], 0);
    child.request(&StoreRequest::Drop { generation: 4 }).end("Dropped");
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn commit_goes_to_its_generation_and_others_stay() {
    let directory = TestDirectory::new();
    for round in 0..4 {
        let mut child = directory.start();
        child.commit(1 + round / 2, vec![put("logs", u64::from(round), 300)]).end("Committed");
        child.end();
    }
    let mut child = directory.start();
    let there: Vec<_> =
        child.ready["generations"].as_array().unwrap().iter().map(|g| &g["generation"]).collect();
    assert_eq!(there, [1, 2]);
    // Back and forth: of the older ones only one is open at a time.
    child.commit(3, vec![put("logs", 4, 300)]).end("Committed");
    for (generation, seqs) in [(1, &[0, 1][..]), (2, &[2, 3]), (1, &[0, 1]), (3, &[4])] {
        let read = child.read(generation, "logs");
        let expected: Vec<_> = seqs.iter().map(|seq| record("logs", *seq, 300)).collect();
        assert_eq!(read.records, expected);
    }
}

#[test]
fn dropped_generation_gives_its_room_back() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    let room = |response: &Response, response_line| response.end(response_line)["room"].clone();
    let puts = || (1..200).map(|seq| put("logs", seq, 2000)).collect();
    let first = room(&child.commit(1, puts()), "Committed");
    let both = room(&child.commit(2, puts()), "Committed");
    assert!(first["newest"].as_u64() > Some(400_000), "{first}");
    assert!(both["used"].as_u64() > first["used"].as_u64());
    child.read(1, "logs").end("Read");
    let after = room(&child.request(&StoreRequest::Drop { generation: 1 }), "Dropped");
    let freed = both["used"].as_u64().unwrap() - after["used"].as_u64().unwrap();
    assert!(freed >= 400_000, "{freed}");
    assert_eq!(directory.names(), ["00000002"]);
    assert_eq!(child.load(2).records.len(), 199);
    assert_eq!(child.load(1).records.len(), 0);
}

#[test]
fn drop_cut_off_by_an_end_is_finished_by_the_next() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    child.commit(1, vec![put("logs", 1, 10)]).end("Committed");
    child.end();
    fs::rename(directory.generation(1), directory.store().join("00000001.dropped")).unwrap();
    assert_eq!(directory.start().ready["generations"], json!([]));
    assert_eq!(directory.names(), [""; 0]);
}

/// The engine puts long pages into files that it never syncs.
#[test]
fn no_page_of_the_engine_becomes_a_file_of_its_own() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    let names: Vec<&'static str> =
        (0..600).map(|n| &*Box::leak(format!("{n:03}:{}", "long".repeat(30)).into_boxed_str())).collect();
    for seqs in [1..4, 4..7] {
        let puts = names.iter().flat_map(|log| seqs.clone().map(|seq| put(log, seq, 850))).collect();
        let marks = names.iter().map(|log| mark(log, &json!({"first": 1, "last": 4}))).collect();
        let gone = names.iter().map(|log| gone(log, 1, 2)).collect();
        child.request(&StoreRequest::Commit { generation: 1, puts, marks, gone }).end("Committed");
    }
    child.commit(1, vec![put("logs", 1, 2_000_000)]).end("Committed");
    child.checkpoint(1);
    assert_eq!(fs::read_dir(directory.generation(1).join("database/blobs")).unwrap().count(), 0);
    assert_eq!(child.load(1).records.len(), 600 * 6 + 1);
}
