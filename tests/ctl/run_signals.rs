//! `wshubctl run` and the signals that come to it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;

use crate::fake_hub::{HubSocket, Peer, end, exists};
use crate::run::{NEVER, ended, expect_notice, interrupt, line, pid, script};

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A field of a process's status.
fn status(child: &Child, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

/// Sends one, and waits until no signal is pending: the next comes after it.
fn deliver(child: &Child, signal: Signal) {
    send(child, signal);
    while status(child, "ShdPnd:").contains(|digit| digit != '0') {
        std::thread::yield_now();
    }
}

/// The letter of a process's state.
fn state(pid: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

/// As [`script`], where these signals are ignored from the beginning.
fn ignoring(socket: &HubSocket, signals: &str, script: &str) -> (Child, Peer) {
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("trap '' {signals}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_wshubctl")]);
    shell.arg("--socket").arg(socket.path()).args(["run", "-q", "--operation", "op"]).args(NEVER);
    shell.args(["logs", "--", "sh", "-c", script]);
    let child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut peer = socket.accept_probed();
    let request = peer.expect_line(json!({"action": "operation_start"}));
    peer.grant(&request, json!({}));
    (child, peer)
}

/// Prints which of the lowest four signals are ignored, as a digit; without a child,
/// so that a SIGINT is never held back for the shell to wait for it.
const IGNORED: &str = "echo $$; while read name mask; do case $name in SigIgn:) echo ${mask#${mask%?}};; \
                       esac; done < /proc/self/status; exec sleep 3600";

#[test]
fn a_hangup_that_is_ignored_stays_so_for_run_and_its_command() {
    let socket = HubSocket::new();
    let (child, mut peer) = ignoring(&socket, "HUP", IGNORED);
    let command = pid(&line(&mut peer)["text"]);
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
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &NEVER, "echo up; sleep 3600");
    line(&mut peer);
    send(&child, Signal::HUP);
    assert_eq!(ended(&mut peer)["state"], "interrupted");
    end(child);
}

#[test]
fn ctrl_c_alone_does_not_stop_a_background_job_of_a_script() {
    let socket = HubSocket::new();
    let script = IGNORED.replace("exec", "read x; echo on; exec");
    for stopped_by in [None, Some(Signal::TERM)] {
        let (mut child, mut peer) = ignoring(&socket, "INT QUIT", &script);
        line(&mut peer);
        // The command has to hear the SIGINT with which it is stopped.
        assert_eq!(line(&mut peer)["text"], "0");
        // They are taken in this order, and of the last it is said.
        for signal in [Signal::INT, Signal::QUIT, Signal::TSTP] {
            deliver(&child, signal);
        }
        expect_notice(&mut BufReader::new(child.stderr.take().unwrap()), "the command is not suspended");
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert_eq!(line(&mut peer)["text"], "on");
        match stopped_by {
            None => interrupt(&mut peer),
            Some(signal) => send(&child, signal),
        }
        assert_eq!(ended(&mut peer)["data"]["signal"], "SIGINT");
        end(child);
    }
}

#[test]
fn suspend_signals_leave_a_command_that_can_be_stopped() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = script(&socket, &NEVER, "echo $$; sleep 3600");
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let shell = pid(&line(&mut peer)["text"]);
    send(&child, Signal::TSTP);
    expect_notice(&mut errors, "the command is not suspended");
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
fn an_interrupt_that_came_while_run_was_stopped_is_carried_out() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = script(&socket, &NEVER, "echo $$; sleep 3600");
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let shell = pid(&line(&mut peer)["text"]);
    send(&child, Signal::STOP);
    while state(child.id()) != 'T' {}
    interrupt(&mut peer);
    assert!(exists(shell));
    send(&child, Signal::CONT);
    let told = peer.expect_line(json!({"action": "operation_end", "state": "interrupted"}));
    assert!(!exists(shell));
    // The hub does not wait for ever, and has forgotten it since.
    peer.refuse(&told, "unknown_operation", "no such operation");
    expect_notice(&mut errors, "had ended the operation before the command ended");
    assert_eq!(errors.lines().count(), 0);
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn two_signals_at_once_are_one_and_the_end_is_sent() {
    let socket = HubSocket::new();
    for _ in 0..40 {
        let mut command = crate::fake_hub::program();
        command.arg("--socket").arg(socket.path()).args(["run", "-q"]).args(NEVER);
        // A second step would kill what the first lets end in order.
        let orderly = "trap 'exit 5' INT; echo up; while :; do sleep 3600; done";
        command.args(["logs", "--", "sh", "-c", orderly]).process_group(0);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut peer = socket.accept_probed();
        let request = peer.expect_line(json!({"action": "operation_start"}));
        peer.grant(&request, json!({}));
        line(&mut peer);
        // As timeout(1) does.
        send(&child, Signal::TERM);
        kill_process_group(Pid::from_child(&child), Signal::TERM).unwrap();
        let told = peer.expect_line(json!({"action": "operation_end", "state": "interrupted"}));
        assert_eq!(told["data"]["exit_code"], 5);
        peer.grant(&told, json!({}));
        peer.expect_end();
        assert_eq!(end(child).status.code(), Some(5));
    }
}

#[test]
fn a_connected_hub_receives_the_end_in_spite_of_a_signal() {
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &NEVER, "echo up; sleep 3600");
    line(&mut peer);
    interrupt(&mut peer);
    let told = peer.expect_line(json!({"action": "operation_end", "state": "interrupted"}));
    // Until the program has looked at it, and waits again.
    let waits = || status(&child, "voluntary_ctxt_switches:");
    let before = waits();
    deliver(&child, Signal::TERM);
    while waits() == before {
        std::thread::yield_now();
    }
    peer.grant(&told, json!({}));
    peer.expect_end();
    let output = end(child);
    assert_eq!(output.status.code(), Some(130));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_second_signal_ends_the_wait_for_a_hub_that_takes_no_end() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = script(&socket, &["--linger", "1h"], "echo up; sleep 3600");
    line(&mut peer);
    send(&child, Signal::INT);
    peer.expect_line(json!({"action": "operation_end"}));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        send(&child, Signal::INT);
        std::thread::yield_now();
    };
    assert_eq!(status.signal(), Some(Signal::INT.as_raw()));
}
