//! How the process ends, and what the next one finds.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::child::{TestDirectory, commit, put, record};

#[test]
fn kill_at_any_time_loses_no_commit() {
    let directory = TestDirectory::new();
    let mut committed = 0;
    for round in 0..8 {
        let mut child = directory.start();
        for _ in 0..round {
            child.commit(1, vec![put("logs", committed + 1, 500)]).end("Committed");
            committed += 1;
        }
        // In the middle of one more, which may be there or not.
        child.send(&commit(1, (1..40).map(|n| put("logs", committed + n, 500)).collect()));
        child.signal(Signal::KILL);
        child.wait();

        let read = directory.start().read(1, "logs");
        assert_eq!(read.end("Read")["damaged"], 0, "a commit that was cut short is no damage");
        assert!(read.records.len() as u64 >= committed);
        for (events, seq) in read.records.iter().zip(1..) {
            assert_eq!(*events, record("logs", seq, 500));
        }
        committed = read.records.len() as u64;
    }
}

#[test]
fn kills_while_it_opens_are_no_damage() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    child.commit(1, (1..100).map(|seq| put("logs", seq, 500)).collect()).end("Committed");
    child.end();
    for _ in 0..10 {
        let mut child = directory.start();
        assert_eq!(child.ready["notes"].as_array().map(Vec::len), Some(0));
        child.send(&wshubd::edge::store::ipc::StoreRequest::Load { generation: 1 });
        child.signal(Signal::KILL);
        child.wait();
    }
    assert_eq!(directory.start().load(1).records.len(), 99);
}

#[test]
fn request_under_way_is_finished_before_the_end() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    child.send(&commit(1, (1..50).map(|seq| put("logs", seq, 3000)).collect()));
    child.close();
    child.response().end("Committed");
    assert!(child.wait().success());
    assert_eq!(directory.start().load(1).records.len(), 49);
}

#[test]
fn half_a_request_is_ignored() {
    let directory = TestDirectory::new();
    let child = directory.start();
    child.end();
    let mut child = directory.start();
    child.send_text(r#"{"Commit":{"generation":1,"puts":[],"#);
    child.close();
    assert!(child.wait().success());
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn malformed_request_ends_the_process() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    child.send_text("{\"Burn\":{}}\n");
    let response = child.response();
    assert!(response.end("Failed")["why"].as_str().unwrap().contains("an order cannot be read"));
    assert_eq!(child.wait().code(), Some(1));
}

#[test]
fn signals_that_stop_the_daemon_are_ignored() {
    let directory = TestDirectory::new();
    let mut child = directory.start();
    for signal in [Signal::INT, Signal::TERM, Signal::INT] {
        child.signal(signal);
    }
    child.commit(1, vec![put("logs", 1, 10)]).end("Committed");
    child.signal(Signal::TERM);
    child.commit(1, vec![put("logs", 2, 10)]).end("Committed");
    child.end();
}

#[test]
fn second_process_waits_for_the_first() {
    let directory = TestDirectory::new();
    let mut first = directory.start();
    let mut second = directory.start_without_waiting();
    first.commit(1, vec![put("logs", 1, 10)]).end("Committed");
    first.end();
    let ready = second.receive();
    assert_eq!(ready["Ready"]["generations"][0]["generation"], 1, "{ready}");
}

#[test]
fn second_process_kills_the_first_that_does_not_end() {
    let directory = TestDirectory::new();
    let mut first = directory.start();
    first.commit(1, vec![put("logs", 1, 10)]).end("Committed");
    first.signal(Signal::STOP);
    let mut second = directory.start_without_waiting();
    let ready = second.receive();
    assert_eq!(ready["Ready"]["generations"][0]["generation"], 1, "{ready}");
    assert_eq!(first.wait().signal(), Some(Signal::KILL.as_raw()));
    assert_eq!(second.load(1).records.len(), 1);
}

#[test]
fn second_process_leaves_a_foreign_lock_holder_alone() {
    let directory = TestDirectory::new();
    std::fs::create_dir(directory.store()).unwrap();
    let held = std::fs::File::open(directory.store()).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut second = directory.start_without_waiting();
    let response = second.response();
    assert!(response.end("Failed")["why"].as_str().unwrap().starts_with("another process has "));
    assert_eq!(second.wait().code(), Some(1));
}

#[test]
fn process_refuses_to_be_started_by_hand() {
    let directory = TestDirectory::new();
    let mut started = Command::new(env!("CARGO_BIN_EXE_wshubd"))
        .arg("--store")
        .arg(directory.store())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut content = String::new();
    started.stderr.take().unwrap().read_to_string(&mut content).unwrap();
    assert_eq!(started.wait().unwrap().code(), Some(64));
    assert!(content.contains("--store is how the daemon starts"), "{content}");
    assert!(!directory.store().exists());
}
