//! A disk that is full, or not ours.

use std::fs;

use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;

use crate::child::{TestDirectory, put, record};

#[test]
fn full_disk_loses_nothing_and_is_used_again() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    child.commit(1, (1..50).map(|seq| put("logs", seq, 500)).collect()).end("Committed");
    // The kernel refuses what lies beyond, as it does where a disk is full.
    let limit = Rlimit { current: Some(200_000), maximum: Some(200_000) };
    prlimit(Some(child.pid()), Resource::Fsize, limit).unwrap();
    let mut seq = 50;
    let failed = loop {
        let response = child.commit(1, vec![put("logs", seq, 5000)]);
        match &response.end {
            Some((response_line, _)) if response_line == "Committed" => seq += 1,
            _ => break response,
        }
        assert!(seq < 1000, "no limit was met");
    };
    let why = failed.end("Failed")["why"].as_str().unwrap();
    assert!(why.contains("too large"), "{why}");
    assert_eq!(child.wait().code(), Some(1));

    let mut child = directory.start();
    assert_eq!(child.ready["notes"], json!([]), "a full disk is no damage");
    child.commit(1, vec![put("logs", seq + 1, 10)]).end("Committed");
    let read = child.read(1, "logs");
    assert_eq!(read.end("Read")["damaged"], 0);
    let events: Vec<_> = read.records.into_iter().filter(|record| record.seq < seq).collect();
    let expected = |seq| record("logs", seq, if seq < 50 { 500 } else { 5000 });
    assert_eq!(events, (1..seq).map(expected).collect::<Vec<_>>());
}

#[test]
fn newer_format_is_refused_and_nothing_is_touched() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    child.commit(1, vec![put("logs", 1, 10)]).end("Committed");
    child.end();
    let text = "wshubd store 3";
    let format = format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()));
    fs::write(directory.generation(1).join("format"), format).unwrap();
    let before = fs::read(directory.wal(1)).unwrap();
    for _ in 0..5 {
        let response = directory.start().load(1);
        let why = response.end("Failed")["why"].as_str().unwrap();
        assert!(
            why.contains("written by a newer wshubd, in format 3; this one reads formats up to 2"),
            "{why}"
        );
    }
    assert_eq!(fs::read(directory.wal(1)).unwrap(), before);
    // It is no trouble to others.
    let mut child = directory.start();
    assert_eq!(child.ready["notes"], json!([]));
    child.commit(2, vec![put("logs", 2, 10)]).end("Committed");
}

#[test]
fn directory_that_cannot_be_made_is_reported() {
    let directory = TestDirectory::new();
    fs::write(directory.store(), "in the way").unwrap();
    let mut child = directory.start_without_waiting();
    let response = child.response();
    assert!(response.end("Failed")["why"].as_str().unwrap().contains("Not a directory"), "{response:?}");
}

#[test]
fn free_and_used_space_is_reported() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    let before = child.ready["room"].clone();
    let after = child.commit(1, vec![put("logs", 1, 100_000)]).end("Committed")["room"].clone();
    let number = |room: &serde_json::Value, field: &str| room[field].as_u64().unwrap();
    assert!(number(&after, "newest") >= 100_000, "{after}");
    assert_eq!(number(&after, "used"), number(&before, "used") + number(&after, "newest"));
    assert!(number(&after, "written") >= 100_000, "{after}");
    assert!(number(&after, "free") > 0);
}
