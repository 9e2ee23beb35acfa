//! What was written is not what is there.

use std::fs;
use std::path::Path;
use std::rc::Rc;

use serde_json::json;

use crate::child::{Response, TestDirectory, put, record};

/// Where the messages of a generation are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Log,
    Database,
    Both,
}

const FORMS: [Form; 3] = [Form::Log, Form::Database, Form::Both];

/// A generation as it is after some life: several openings, messages of one part
/// and of many.
fn lived_in(form: Form) -> TestDirectory {
    let directory = TestDirectory::new();
    for life in 0..3 {
        let mut child = directory.start();
        for commit in 0..4 {
            let seqs = (1..=10).map(|n| life * 40 + commit * 10 + n);
            child.commit(1, seqs.map(|seq| put("logs", seq, size(seq))).collect()).end("Committed");
        }
        if form == Form::Database || (form == Form::Both && life < 2) {
            child.checkpoint(1);
        }
        child.end();
    }
    assert_eq!(directory.has_no_wal(1), form == Form::Database);
    assert_eq!(directory.generation(1).join("database").exists(), form != Form::Log);
    directory
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

/// Starts processes until one can read the first generation, as a daemon
/// does; returns the number of processes, and the notes.
fn load_in_the_end(directory: &TestDirectory) -> (usize, Vec<String>, Response) {
    let mut notes = Vec::new();
    for starts in 1..=6 {
        let mut child = directory.start();
        notes.extend(
            child.ready["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned()),
        );
        let loaded = child.load(1);
        if loaded.end.as_ref().is_some_and(|(response_line, _)| response_line == "Loaded") {
            return (starts, notes, loaded);
        }
    }
    panic!("it goes on for ever: {notes:?}");
}

/// With any damage to the files it ends, reports only what was put, and reports
/// what is lost. Returns the number of messages reported.
fn reported_or_set_aside(directory: &TestDirectory, what: &str) -> u64 {
    let (_, notes, loaded) = load_in_the_end(directory);
    for events in &loaded.records {
        assert_eq!(events.head, record("logs", events.seq, size(events.seq)).head, "{what}");
    }
    let aside = notes.iter().any(|note| note.contains("was set aside as"));
    // All of it, or its database where it has a log as well.
    let is_less = !directory.generation(1).join("database").exists();
    assert!(if aside { is_less } else { directory.generation(1).exists() }, "{what}: {notes:?}");
    let evidence = directory.names().iter().any(|name| name == "00000001.damaged-1");
    assert_eq!(evidence, notes.iter().any(|note| note.contains("damaged-1")), "{what}: {notes:?}");
    let mut child = directory.start();
    assert_eq!(child.ready["notes"], json!([]), "{what}: nothing is left to be done");
    if !aside {
        let read = child.read(1, "logs");
        read.end("Read");
        for one in read.records {
            assert_eq!(one, record("logs", one.seq, size(one.seq)), "{what}");
        }
    }
    // And it goes on.
    child.commit(2, vec![put("logs", 1, 10)]).end("Committed");
    assert_eq!(child.read(2, "logs").records, [record("logs", 1, 10)], "{what}");
    // The engine finds an end wherever it cannot read on, and reports nothing.
    let missing = MESSAGES - loaded.records.len() as u64;
    let damaged = loaded.end("Loaded")["damaged"].as_u64().unwrap();
    assert!(aside || damaged == missing, "{what}: {damaged} of {missing} missing messages are reported");
    missing
}

#[test]
fn flipped_bytes_never_make_a_loop_nor_another_message() {
    let mut missing = 0;
    for (form, file, original) in files_of_all() {
        let bytes = fs::read(original.generation(1).join(&file)).unwrap();
        let is_large = bytes.len() > 10_000;
        for round in 0..if is_large { 16 } else { 4 } {
            let mut flipped = bytes.clone();
            // Anywhere, but the same wherever this runs: in 64 bits on 32-bit machines too.
            let at = (round * 7_919 + 13) * 104_729 % bytes.len() as u64;
            for byte in flipped.iter_mut().skip(at as usize).take(16) {
                *byte ^= 0x5a;
            }
            let directory = TestDirectory::new();
            copy(&original.store(), &directory.store());
            fs::write(directory.generation(1).join(&file), flipped).unwrap();
            missing += reported_or_set_aside(&directory, &format!("{form:?}: {file} flipped at {at}"));
        }
    }
    assert!(missing > 0, "nothing that matters was flipped");
}

#[test]
fn truncated_files_never_make_a_loop_nor_another_message() {
    for (form, file, original) in files_of_all() {
        let bytes = fs::read(original.generation(1).join(&file)).unwrap();
        for round in 0..5 {
            let length = bytes.len() * round / 5;
            let directory = TestDirectory::new();
            copy(&original.store(), &directory.store());
            fs::write(directory.generation(1).join(&file), &bytes[..length]).unwrap();
            reported_or_set_aside(&directory, &format!("{form:?}: {file} cut to {length}"));
        }
    }
}

#[test]
fn unreadable_generation_is_tried_again_then_set_aside() {
    let directory = lived_in(Form::Both);
    let format = directory.generation(1).join("format");
    fs::write(&format, "nonsense").unwrap();
    let before = fs::read(directory.generation(1).join("database/db")).unwrap();
    let (starts, notes, loaded) = load_in_the_end(&directory);
    assert_eq!((starts, loaded.records.len()), (4, 0));
    let name = directory.generation(1).display().to_string();
    let damage = format!("{}: it spells no format", format.display());
    let expected = [
        format!("{name} is tried again: {damage}"),
        format!(
            "{name} was copied to {name}.damaged-1 and is tried again without what can be made anew: {damage}"
        ),
        format!("{name} cannot be read and was set aside as {name}.damaged-2: {damage}"),
    ];
    assert_eq!(notes, expected);
    assert_eq!(directory.names(), ["00000001.damaged-1", "00000001.damaged-2"]);
    assert_eq!(fs::read(directory.store().join("00000001.damaged-1/database/db")).unwrap(), before);

    // Its number is free, and evidence is never written over.
    directory.start().commit(1, vec![put("logs", 1, 10)]).end("Committed");
    fs::write(directory.generation(1).join("format"), "nonsense").unwrap();
    load_in_the_end(&directory);
    let names = [1, 2, 3, 4].map(|n| format!("00000001.damaged-{n}"));
    assert_eq!(directory.names(), names);
    assert_eq!(fs::read(directory.store().join("00000001.damaged-1/database/db")).unwrap(), before);
}

#[test]
fn database_that_cannot_be_opened_takes_no_log_with_it() {
    let directory = lived_in(Form::Both);
    let conf = directory.generation(1).join("database/db");
    let mut bytes = fs::read(&conf).unwrap();
    // An offset that no file can have: the engine refuses it, whatever is made anew.
    bytes.iter_mut().for_each(|byte| *byte = 0xff);
    fs::write(&conf, bytes).unwrap();
    directory.start().load(1);
    let (_, notes, loaded) = load_in_the_end(&directory);
    let aside = notes.iter().any(|note| note.contains("was set aside as"));
    assert!(aside || loaded.end("Loaded")["damaged"] == 80, "{notes:?}");
    let seqs: Vec<u64> = loaded.records.iter().map(|record| record.seq).collect();
    assert_eq!(seqs, (81..=120).collect::<Vec<_>>());
    let mut child = directory.start();
    child.commit(1, vec![put("logs", 121, 10)]).end("Committed");
    assert_eq!(child.read(1, "logs").records.len(), 41);
}

#[test]
fn files_that_the_engine_makes_anew_are_no_loss() {
    for (file, starts) in [("snap.7FFFFFFFFFFFFFFF", 3), ("conf", 3), ("snap.7FFFFFFFFFFFFFFF.generating", 1)]
    {
        let directory = lived_in(Form::Both);
        fs::write(directory.generation(1).join("database").join(file), "nonsense that is long enough")
            .unwrap();
        let (took, notes, loaded) = load_in_the_end(&directory);
        assert_eq!((took, loaded.records.len() as u64), (starts, MESSAGES), "{file}: {notes:?}");
        assert_eq!(loaded.end("Loaded")["damaged"], 0);
        // A whole reading is a clean slate.
        let names: &[&str] = if starts == 1 { &["00000001"] } else { &["00000001", "00000001.damaged-1"] };
        assert_eq!(directory.names(), names);
    }
}

#[test]
fn opening_that_never_ends_is_damage_after_many_attempts() {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    for (boot, unended, noted) in [(boot.trim(), 19, 0), (boot.trim(), 20, 1), ("another", 20, 0)] {
        let directory = lived_in(Form::Both);
        let note = json!({"step": 0, "damage": null, "unended": unended, "boot": boot});
        fs::write(directory.store().join("00000001.trouble"), note.to_string()).unwrap();
        let (starts, notes, loaded) = load_in_the_end(&directory);
        assert_eq!((starts, notes.len()), (1, noted), "{notes:?}");
        assert!(notes.iter().all(|note| note.ends_with("20 attempts to open it have not ended")));
        assert_eq!(loaded.records.len() as u64, MESSAGES);
        assert_eq!(directory.names(), ["00000001"]);
    }
}

#[test]
fn failure_that_passes_by_itself_is_no_damage() {
    let directory = lived_in(Form::Both);
    for file in [directory.generation(1).join("database/db"), directory.wal(1)] {
        let away = directory.generation(1).join("away");
        fs::rename(&file, &away).unwrap();
        fs::create_dir(&file).unwrap();
        for _ in 0..6 {
            let mut child = directory.start();
            assert_eq!(child.ready["notes"], json!([]));
            child.load(1).end("Failed");
        }
        fs::remove_dir(&file).unwrap();
        fs::rename(&away, &file).unwrap();
        assert_eq!(directory.start().load(1).records.len() as u64, MESSAGES);
    }
}

/// Makes the disk refuse to give back a file of a generation, as a bad sector does.
fn spoil(directory: &TestDirectory, name: &str) {
    let file = directory.generation(1).join(name);
    let _ = fs::remove_file(&file);
    // Nothing is mapped at the beginning of any process's memory.
    std::os::unix::fs::symlink("/proc/self/mem", file).unwrap();
}

#[test]
fn bad_sectors_cost_what_is_in_them_and_nothing_else() {
    let directory = lived_in(Form::Both);
    spoil(&directory, "database/snap.0000000000000001");
    for attempt in 1..=4 {
        let mut child = directory.start();
        assert_eq!(child.ready["notes"], json!([]), "attempt {attempt}");
        let failed = child.load(1);
        assert!(failed.end("Failed").to_string().contains("os error 5"));
    }
    let mut child = directory.start();
    let name = directory.generation(1).display().to_string();
    let expected = format!(
        "the disk does not give back 4096 bytes of {name}, which goes on without them and was set aside as \
         {name}.damaged-1"
    );
    assert_eq!(child.ready["notes"], json!([expected]));
    assert_eq!(child.load(1).records.len() as u64, MESSAGES);
    child.commit(1, vec![put("logs", MESSAGES + 1, 10)]).end("Committed");
    child.end();
    assert_eq!(directory.names(), ["00000001", "00000001.damaged-1"]);
    assert_eq!(directory.start().load(1).records.len() as u64, MESSAGES + 1);
}

#[test]
fn replacement_cut_off_by_a_power_cut_is_finished() {
    let made = lived_in(Form::Both);
    // Before the generation was set aside, and after that.
    for names in [&["00000001", "00000001.damaged-1"][..], &["00000001"]] {
        let directory = TestDirectory::new();
        copy(&made.generation(1), &directory.store().join("00000001.mended"));
        if names.len() > 1 {
            fs::create_dir(directory.generation(1)).unwrap();
            fs::write(directory.generation(1).join("db"), "what the disk gives back only in part").unwrap();
        }
        let mut child = directory.start();
        let name = directory.generation(1).display().to_string();
        let events = format!("{name} goes on as what could be read of it, and was set aside");
        assert_eq!(child.ready["notes"], json!([events]));
        assert_eq!(child.load(1).records.len() as u64, MESSAGES);
        child.end();
        assert_eq!(directory.names(), names);
        assert_eq!(directory.start().ready["notes"], json!([]));
    }
}

#[test]
fn mostly_unreadable_disk_sets_nothing_aside() {
    let directory = lived_in(Form::Database);
    for snapshot in files(&directory).iter().filter(|file| file.contains("snap.")) {
        fs::remove_file(directory.generation(1).join(snapshot)).unwrap();
    }
    spoil(&directory, "database/db");
    for _ in 0..12 {
        let mut child = directory.start();
        assert_eq!(child.ready["notes"], json!([]));
        child.load(1).end("Failed");
    }
    assert_eq!(directory.names(), ["00000001", "00000001.trouble"]);
}

#[test]
fn remains_of_a_generation_never_made_are_harmless() {
    let directory = TestDirectory::new();
    let generation = directory.generation(1);
    fs::create_dir_all(generation.join("blobs")).unwrap();
    // The disk was full, or the power went, while the engine made its files.
    fs::write(generation.join("conf"), "half of what it was to say").unwrap();
    fs::write(generation.join("db"), "").unwrap();
    let mut child = directory.start();
    child.commit(1, vec![put("logs", 1, 100)]).end("Committed");
    child.end();
    assert_eq!(directory.start().load(1).records.len(), 1);
}

/// The files of a generation, with those of its database.
fn files(directory: &TestDirectory) -> Vec<String> {
    let mut files = Vec::new();
    for folder in ["", "database/"] {
        let entries = fs::read_dir(directory.generation(1).join(folder)).into_iter().flatten();
        let entries = entries.map(|entry| entry.unwrap()).filter(|entry| entry.path().is_file());
        files.extend(entries.map(|entry| format!("{folder}{}", entry.file_name().to_str().unwrap())));
    }
    files.sort();
    files
}

/// All files of a generation of each form.
fn files_of_all() -> Vec<(Form, String, Rc<TestDirectory>)> {
    let places = FORMS.map(|form| (form, Rc::new(lived_in(form))));
    let files: Vec<_> = places
        .iter()
        .flat_map(|(form, directory)| {
            files(directory).into_iter().map(move |file| (*form, file, directory.clone()))
        })
        .collect();
    assert!(files.iter().any(|(_, file, _)| file.contains("database/snap.")), "{files:?}");
    files
}
