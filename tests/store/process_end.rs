//! How the process ends, and what the next one finds.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::child::{Place, commit, put, record};

#[test]
fn a_kill_at_any_time_loses_nothing_that_was_committed() {
    let place = Place::new();
    let mut committed = 0;
    for round in 0..8 {
        let mut child = place.start();
        for _ in 0..round {
            child.commit(1, vec![put("logs", committed + 1, 500)]).end("Committed");
            committed += 1;
        }
        // In the middle of one more, which may be there or not.
        child.say(&commit(1, (1..40).map(|n| put("logs", committed + n, 500)).collect()));
        child.signal(Signal::KILL);
        child.wait();

        let read = place.start().read(1, "logs");
        assert_eq!(read.end("Read")["damaged"], 0, "a commit that was cut short is no damage");
        assert!(read.records.len() as u64 >= committed);
        for (told, seq) in read.records.iter().zip(1..) {
            assert_eq!(*told, record("logs", seq, 500));
        }
        committed = read.records.len() as u64;
    }
}

#[test]
fn kills_while_it_opens_are_no_damage() {
    let place = Place::new();
    let mut child = place.start();
    child.commit(1, (1..100).map(|seq| put("logs", seq, 500)).collect()).end("Committed");
    child.end();
    for _ in 0..10 {
        let mut child = place.start();
        assert_eq!(child.ready["notes"].as_array().map(Vec::len), Some(0));
        child.say(&wshubd::edge::store::ipc::StoreRequest::Load { generation: 1 });
        child.signal(Signal::KILL);
        child.wait();
    }
    assert_eq!(place.start().load(1).records.len(), 99);
}

#[test]
fn what_was_begun_is_finished_before_it_ends() {
    let place = Place::new();
    let mut child = place.start();
    child.say(&commit(1, (1..50).map(|seq| put("logs", seq, 3000)).collect()));
    child.close();
    child.answer().end("Committed");
    assert!(child.wait().success());
    assert_eq!(place.start().load(1).records.len(), 49);
}

#[test]
fn half_an_order_is_no_order() {
    let place = Place::new();
    let child = place.start();
    child.end();
    let mut child = place.start();
    child.say_text(r#"{"Commit":{"generation":1,"puts":[],"#);
    child.close();
    assert!(child.wait().success());
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn an_order_that_cannot_be_read_ends_it() {
    let place = Place::new();
    let mut child = place.start();
    child.say_text("{\"Burn\":{}}\n");
    let answer = child.answer();
    assert!(answer.end("Failed")["why"].as_str().unwrap().contains("an order cannot be read"));
    assert_eq!(child.wait().code(), Some(1));
}

#[test]
fn signals_that_stop_the_daemon_pass_it_by() {
    let place = Place::new();
    let mut child = place.start();
    for signal in [Signal::INT, Signal::TERM, Signal::INT] {
        child.signal(signal);
    }
    child.commit(1, vec![put("logs", 1, 10)]).end("Committed");
    child.signal(Signal::TERM);
    child.commit(1, vec![put("logs", 2, 10)]).end("Committed");
    child.end();
}

#[test]
fn a_second_process_waits_for_the_first() {
    let place = Place::new();
    let mut first = place.start();
    let mut second = place.start_unheard();
    first.commit(1, vec![put("logs", 1, 10)]).end("Committed");
    first.end();
    let ready = second.hear();
    assert_eq!(ready["Ready"]["generations"][0]["generation"], 1, "{ready}");
}

#[test]
fn a_second_process_kills_the_first_that_does_not_end() {
    let place = Place::new();
    let mut first = place.start();
    first.commit(1, vec![put("logs", 1, 10)]).end("Committed");
    first.signal(Signal::STOP);
    let mut second = place.start_unheard();
    let ready = second.hear();
    assert_eq!(ready["Ready"]["generations"][0]["generation"], 1, "{ready}");
    assert_eq!(first.wait().signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(second.load(1).records.len(), 1);
}

#[test]
fn a_second_process_leaves_alone_who_is_no_process_of_ours() {
    let place = Place::new();
    std::fs::create_dir(place.store()).unwrap();
    let held = std::fs::File::open(place.store()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut second = place.start_unheard();
    let answer = second.answer();
    assert!(answer.end("Failed")["why"].as_str().unwrap().starts_with("another process has "));
    assert_eq!(second.wait().code(), Some(1));
}

#[test]
fn nobody_starts_it_by_hand() {
    let place = Place::new();
    let mut started = Command::new(env!("CARGO_BIN_EXE_wshubd"))
        .arg("--store")
        .arg(place.store())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    started.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(started.wait().unwrap().code(), Some(64));
    assert!(said.contains("--store is how the daemon starts"), "{said}");
    assert!(!place.store().exists());
}
