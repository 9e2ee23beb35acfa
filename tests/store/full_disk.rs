//! A disk that is full, or not ours.

use std::fs;

use rustix::process::{Resource, Rlimit, prlimit};
use serde_json::json;

use crate::child::{Place, put, record};

#[test]
fn a_disk_that_takes_no_more_loses_nothing_and_is_taken_again() {
    let place = Place::new();
    let mut child = place.start();
    child.commit(1, (1..50).map(|seq| put("logs", seq, 500)).collect()).end("Committed");
    // The kernel refuses what lies beyond, as it does where a disk is full.
    let limit = Rlimit { current: Some(200_000), maximum: Some(200_000) };
    prlimit(Some(child.pid()), Resource::Fsize, limit).unwrap();
    let mut seq = 50;
    let failed = loop {
        let answer = child.commit(1, vec![put("logs", seq, 5000)]);
        match &answer.end {
            Some((word, _)) if word == "Committed" => seq += 1,
            _ => break answer,
        }
        assert!(seq < 1000, "no limit was met");
    };
    let why = failed.end("Failed")["why"].as_str().unwrap();
    assert!(why.contains("too large"), "{why}");
    assert_eq!(child.wait().code(), Some(1));

    let mut child = place.start();
    assert_eq!(child.ready["notes"], json!([]), "a full disk is no damage");
    child.commit(1, vec![put("logs", seq + 1, 10)]).end("Committed");
    let read = child.read(1, "logs");
    assert_eq!(read.end("Read")["damaged"], 0);
    let told: Vec<_> = read.records.into_iter().filter(|record| record.seq < seq).collect();
    let expected = |seq| record("logs", seq, if seq < 50 { 500 } else { 5000 });
    assert_eq!(told, (1..seq).map(expected).collect::<Vec<_>>());
}

#[test]
fn a_newer_format_is_refused_and_nothing_is_touched() {
    let place = Place::new();
    let mut child = place.start();
    child.commit(1, vec![put("logs", 1, 10)]).end("Committed");
    child.end();
    let text = "wshubd store 3";
    let format = format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()));
    fs::write(place.generation(1).join("format"), format).unwrap();
    let before = fs::read(place.wal(1)).unwrap();
    for _ in 0..5 {
        let answer = place.start().load(1);
        let why = answer.end("Failed")["why"].as_str().unwrap();
        assert!(
            why.contains("written by a newer wshubd, in format 3; this one reads formats up to 2"),
            "{why}"
        );
    }
    assert_eq!(fs::read(place.wal(1)).unwrap(), before);
    // It is no trouble to others.
    let mut child = place.start();
    assert_eq!(child.ready["notes"], json!([]));
    child.commit(2, vec![put("logs", 2, 10)]).end("Committed");
}

#[test]
fn a_directory_that_cannot_be_made_is_told() {
    let place = Place::new();
    fs::write(place.store(), "in the way").unwrap();
    let mut child = place.start_unheard();
    let answer = child.answer();
    assert!(answer.end("Failed")["why"].as_str().unwrap().contains("Not a directory"), "{answer:?}");
}

#[test]
fn what_is_free_and_what_is_used_is_told() {
    let place = Place::new();
    let mut child = place.start();
    let before = child.ready["room"].clone();
    let after = child.commit(1, vec![put("logs", 1, 100_000)]).end("Committed")["room"].clone();
    let number = |room: &serde_json::Value, field: &str| room[field].as_u64().unwrap();
    assert!(number(&after, "newest") >= 100_000, "{after}");
    assert_eq!(number(&after, "used"), number(&before, "used") + number(&after, "newest"));
    assert!(number(&after, "written") >= 100_000, "{after}");
    assert!(number(&after, "free") > 0);
}
