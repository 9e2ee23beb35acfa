//! What was written is not what is there.

use std::fs;
use std::path::Path;

use serde_json::json;

use crate::child::{Answer, Place, put, record};

/// A generation as it is after some life: several openings, messages of one part
/// and of many.
fn lived_in() -> Place {
    let place = Place::new();
    for life in 0..3 {
        let mut child = place.start();
        for commit in 0..4 {
            let seqs = (1..=10).map(|n| life * 40 + commit * 10 + n);
            child.commit(1, seqs.map(|seq| put("logs", seq, size(seq))).collect()).end("Committed");
        }
        child.end();
    }
    place
}

const MESSAGES: u64 = 120;

fn size(seq: u64) -> usize {
    if seq.is_multiple_of(10) { 6000 } else { 300 }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)
        } else {
            fs::copy(entry.path(), to).map(drop).unwrap()
        }
    }
}

/// Starts processes until one can say what is in the first generation, as a
/// daemon does; tells how many it took, and what was noted.
fn load_in_the_end(place: &Place) -> (usize, Vec<String>, Answer) {
    let mut notes = Vec::new();
    for starts in 1..=6 {
        let mut child = place.start();
        notes.extend(
            child.ready["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned()),
        );
        let loaded = child.load(1);
        if loaded.end.as_ref().is_some_and(|(word, _)| word == "Loaded") {
            return (starts, notes, loaded);
        }
    }
    panic!("it goes on for ever: {notes:?}");
}

/// Whatever is done to the files: what is told was put, and it ends.
fn told_or_set_aside(place: &Place, what: &str) -> u64 {
    let (_, notes, loaded) = load_in_the_end(place);
    for told in &loaded.records {
        assert_eq!(told.head, record("logs", told.seq, size(told.seq)).head, "{what}");
    }
    let aside = place.names().iter().any(|name| name == "00000001.damaged-1");
    assert_eq!(aside, notes.iter().any(|note| note.contains("was set aside as")), "{what}: {notes:?}");
    let mut child = place.start();
    assert_eq!(child.ready["notes"], json!([]), "{what}: nothing is left to be done");
    if !aside {
        let read = child.read(1, "logs");
        read.end("Read");
        for told in read.records {
            assert_eq!(told, record("logs", told.seq, size(told.seq)), "{what}");
        }
    }
    // And it goes on.
    child.commit(2, vec![put("logs", 1, 10)]).end("Committed");
    assert_eq!(child.read(2, "logs").records, [record("logs", 1, 10)], "{what}");
    loaded.records.len() as u64 + loaded.end("Loaded")["damaged"].as_u64().unwrap()
}

#[test]
fn flipped_bytes_never_make_a_loop_nor_another_message() {
    let original = lived_in();
    for file in files(&original) {
        let bytes = fs::read(original.generation(1).join(&file)).unwrap();
        for round in 0..12 {
            let mut flipped = bytes.clone();
            // Anywhere, but the same wherever this runs.
            let at = (round * 7_919 + 13) * 104_729 % bytes.len();
            for byte in flipped.iter_mut().skip(at).take(16) {
                *byte ^= 0x5a;
            }
            let place = Place::new();
            copy(&original.store(), &place.store());
            fs::write(place.generation(1).join(&file), flipped).unwrap();
            told_or_set_aside(&place, &format!("{file} flipped at {at}"));
        }
    }
}

#[test]
fn truncated_files_never_make_a_loop_nor_another_message() {
    let original = lived_in();
    for file in files(&original) {
        let bytes = fs::read(original.generation(1).join(&file)).unwrap();
        for round in 0..6 {
            let length = bytes.len() * round / 6;
            let place = Place::new();
            copy(&original.store(), &place.store());
            fs::write(place.generation(1).join(&file), &bytes[..length]).unwrap();
            told_or_set_aside(&place, &format!("{file} cut to {length}"));
        }
    }
}

/// The engine passes over what it cannot read without a word.
#[test]
fn messages_that_are_lost_without_a_word_are_counted() {
    let original = lived_in();
    let bytes = fs::read(original.generation(1).join("db")).unwrap();
    let mut counted = 0;
    // Not the last segments: what they held was the count as well.
    for segment in 1..=3 {
        let mut lost = bytes.clone();
        lost[segment * 32 * 1024..][..32 * 1024].fill(0);
        let place = Place::new();
        copy(&original.store(), &place.store());
        fs::write(place.generation(1).join("db"), lost).unwrap();
        counted += u64::from(told_or_set_aside(&place, &format!("segment {segment} lost")) >= MESSAGES);
    }
    assert!(counted > 0);
}

#[test]
fn what_cannot_be_read_is_tried_again_then_set_aside_as_it_is() {
    let place = lived_in();
    let format = place.generation(1).join("format");
    fs::write(&format, "nonsense").unwrap();
    let before = fs::read(place.generation(1).join("db")).unwrap();
    let (starts, notes, loaded) = load_in_the_end(&place);
    assert_eq!((starts, loaded.records.len()), (4, 0));
    let name = place.generation(1).display().to_string();
    let damage = format!("{}: it spells no format", format.display());
    let expected = [
        format!("{name} is tried again: {damage}"),
        format!("{name} is tried again without what can be made anew: {damage}"),
        format!("{name} cannot be read and was set aside as {name}.damaged-1: {damage}"),
    ];
    assert_eq!(notes, expected);
    assert_eq!(place.names(), ["00000001.damaged-1"]);
    assert_eq!(fs::read(place.store().join("00000001.damaged-1/db")).unwrap(), before);

    // Its number is free, and evidence is never written over.
    place.start().commit(1, vec![put("logs", 1, 10)]).end("Committed");
    fs::write(place.generation(1).join("format"), "nonsense").unwrap();
    load_in_the_end(&place);
    assert_eq!(place.names(), ["00000001.damaged-1", "00000001.damaged-2"]);
}

#[test]
fn what_the_engine_makes_anew_is_no_loss() {
    for (file, starts) in [("snap.7FFFFFFFFFFFFFFF", 3), ("conf", 3), ("snap.7FFFFFFFFFFFFFFF.generating", 1)]
    {
        let place = lived_in();
        fs::write(place.generation(1).join(file), "nonsense that is long enough").unwrap();
        let (took, notes, loaded) = load_in_the_end(&place);
        assert_eq!((took, loaded.records.len() as u64), (starts, MESSAGES), "{file}: {notes:?}");
        assert_eq!(loaded.end("Loaded")["damaged"], 0);
        // A whole reading is a clean slate.
        assert_eq!(place.names(), ["00000001"]);
    }
}

#[test]
fn what_passes_by_itself_is_no_damage() {
    let place = lived_in();
    let (db, away) = (place.generation(1).join("db"), place.generation(1).join("away"));
    fs::rename(&db, &away).unwrap();
    fs::create_dir(&db).unwrap();
    for _ in 0..6 {
        let mut child = place.start();
        assert_eq!(child.ready["notes"], json!([]));
        child.load(1).end("Failed");
    }
    fs::remove_dir(&db).unwrap();
    fs::rename(&away, &db).unwrap();
    assert_eq!(place.start().load(1).records.len() as u64, MESSAGES);
}

/// The files of a generation, without directories.
fn files(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.generation(1)).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> = entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    files.sort();
    assert!(files.iter().any(|file| file.starts_with("snap.")), "{files:?}");
    files
}
