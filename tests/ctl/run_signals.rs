//! `wshubctl run` and the signals that come to it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;

use crate::hub::{Peer, Place, end, exists};
use crate::run::{NEVER, ended, interrupt, line, pid, said, script};

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The letter of a process's state.
fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

/// As [`script`], where these signals are ignored from the beginning.
fn ignoring(place: &Place, signals: &str, script: &str) -> (Child, Peer) {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("trap '' {signals}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_wshubctl")]);
    shell.arg("--socket").arg(place.path()).args(["run", "-q", "--operation", "op"]).args(NEVER);
    shell.args(["logs", "--", "sh", "-c", script]);
    let child = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut peer = place.welcome();
    let request = peer.expects(json!({"action": "operation_start"}));
    peer.grants(&request, json!({}));
    (child, peer)
}

const IGNORED: &str = "echo $$; sed -n 's/^SigIgn:.*\\(.\\)$/\\1/p' /proc/self/status; exec sleep 3600";

#[test]
fn a_hangup_that_is_ignored_stays_so_for_run_and_its_command() {
    let place = Place::new();
    let (child, mut peer) = ignoring(&place, "HUP", IGNORED);
    let command = pid(&line(&mut peer)["text"]);
    // Of the lowest four signals the first.
    assert_eq!(line(&mut peer)["text"], "1");
    send(&child, Signal::HUP);
    kill_process(Pid::from_raw(command).unwrap(), Signal::HUP).unwrap();
    // It is still there for whoever may stop it.
    interrupt(&mut peer);
    assert_eq!(ended(&mut peer)["data"]["signal"], "SIGINT");
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn a_hangup_that_is_not_ignored_stops_the_command() {
    let place = Place::new();
    let (child, mut peer) = script(&place, &NEVER, "echo up; sleep 3600");
    line(&mut peer);
    send(&child, Signal::HUP);
    assert_eq!(ended(&mut peer)["state"], "interrupted");
    end(child);
}

#[test]
fn a_background_job_of_a_script_is_not_stopped_by_ctrl_c_but_by_all_else() {
    let place = Place::new();
    let (child, mut peer) = ignoring(&place, "INT QUIT", IGNORED);
    line(&mut peer);
    // The command has to hear the SIGINT with which it is stopped.
    assert_eq!(line(&mut peer)["text"], "0");
    send(&child, Signal::INT);
    send(&child, Signal::QUIT);
    interrupt(&mut peer);
    let end_of_it = ended(&mut peer);
    assert_eq!(end_of_it["data"]["signal"], "SIGINT");
    let said = String::from_utf8(end(child).stderr).unwrap();
    assert_eq!(said, "");

    let (child, mut peer) = ignoring(&place, "INT QUIT", IGNORED);
    line(&mut peer);
    send(&child, Signal::INT);
    send(&child, Signal::TERM);
    assert_eq!(ended_after_output(&mut peer)["state"], "interrupted");
    end(child);
}

/// The word that it is over, behind what was printed before.
fn ended_after_output(peer: &mut Peer) -> serde_json::Value {
    loop {
        let heard = peer.hears();
        peer.grants_if_asked(&heard);
        if heard["action"] == "operation_end" {
            return heard;
        }
    }
}

#[test]
fn what_suspends_others_leaves_a_command_that_can_be_stopped() {
    let place = Place::new();
    let (mut child, mut peer) = script(&place, &NEVER, "echo $$; sleep 3600");
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let shell = pid(&line(&mut peer)["text"]);
    send(&child, Signal::TSTP);
    said(&mut errors, "the command goes on");
    for signal in [Signal::TSTP, Signal::TTIN, Signal::TTOU] {
        send(&child, signal);
    }
    interrupt(&mut peer);
    assert_eq!(ended(&mut peer)["state"], "interrupted");
    assert!(!exists(shell));
    // Once is enough.
    assert_eq!(errors.lines().count(), 0);
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn an_interrupt_that_came_while_run_stood_still_is_carried_out() {
    let place = Place::new();
    let (mut child, mut peer) = script(&place, &NEVER, "echo $$; sleep 3600");
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let shell = pid(&line(&mut peer)["text"]);
    send(&child, Signal::STOP);
    while state(child.id()) != 'T' {}
    interrupt(&mut peer);
    assert!(exists(shell));
    send(&child, Signal::CONT);
    let told = peer.expects(json!({"action": "operation_end", "state": "interrupted"}));
    assert!(!exists(shell));
    // The hub does not wait for ever, and has forgotten it since.
    peer.refuses(&told, "unknown_operation", "no such operation");
    said(&mut errors, "had told everybody that it was over");
    assert_eq!(errors.lines().count(), 0);
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn two_signals_at_once_are_one_and_the_end_is_told() {
    let place = Place::new();
    for _ in 0..40 {
        let mut command = crate::hub::program();
        command.arg("--socket").arg(place.path()).args(["run", "-q"]).args(NEVER);
        command.args(["logs", "--", "sh", "-c", "echo up; sleep 3600"]).process_group(0);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut peer = place.welcome();
        let request = peer.expects(json!({"action": "operation_start"}));
        peer.grants(&request, json!({}));
        line(&mut peer);
        // As timeout(1) does.
        send(&child, Signal::TERM);
        kill_process_group(Pid::from_child(&child), Signal::TERM).unwrap();
        let told = peer.expects(json!({"action": "operation_end", "state": "interrupted"}));
        assert_eq!(told["data"]["signal"], "SIGINT");
        peer.grants(&told, json!({}));
        peer.has_left();
        assert_eq!(end(child).status.code(), Some(130));
    }
}

#[test]
fn a_signal_during_the_last_words_leaves_a_hub_that_is_there_time_to_take_them() {
    let place = Place::new();
    let (child, mut peer) = script(&place, &NEVER, "echo up; sleep 3600");
    line(&mut peer);
    interrupt(&mut peer);
    let told = peer.expects(json!({"action": "operation_end", "state": "interrupted"}));
    send(&child, Signal::TERM);
    peer.grants(&told, json!({}));
    peer.has_left();
    let output = end(child);
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_second_signal_ends_the_wait_for_a_hub_that_takes_no_end() {
    let place = Place::new();
    let (mut child, mut peer) = script(&place, &["--linger", "1h"], "echo up; sleep 3600");
    line(&mut peer);
    send(&child, Signal::INT);
    peer.expects(json!({"action": "operation_end"}));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        send(&child, Signal::INT);
        std::thread::yield_now();
    };
    assert_eq!(status.code(), Some(130));
}
