//! `wshubctl run` where pipes break, children stray and somebody presses Ctrl-C.

use std::fs;
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;

use crate::fake_hub::{HubSocket, end, program, stderr, stdout};
use crate::run::{NEVER, ended, expect_notice, line, pid, script};

fn fifo(socket: &HubSocket) -> String {
    let path = socket.file("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Whether a process is there, and not only its exit status for a parent to come.
fn lives(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn unread_output_does_not_delay_deadlines_or_signals() {
    for signal in [None, Some(Signal::TERM)] {
        let socket = HubSocket::new().closed();
        let options: &[&str] = if signal.is_some() { &[] } else { &["--deadline", "0.1"] };
        let words = [&["run", "-q", "--kill-after", "0.1"], options, &["logs", "--", "yes"]].concat();
        let mut child = socket.start(words);
        // One who has read enough, such as head.
        child.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        expect_notice(&mut errors, "too much output is queued for wshubd");
        if let Some(signal) = signal {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
        let mut rest = String::new();
        errors.read_to_string(&mut rest).unwrap();
        assert!(!rest.contains("cannot write"), "that a reader has gone is no error: {rest}");
        assert_eq!(end(child).status.code(), Some(130));
    }
}

#[test]
fn a_flood_without_a_local_reader_reaches_a_later_hub() {
    let socket = HubSocket::new().closed();
    let mut child = socket.start(["run", "-q", "--operation", "op", "logs", "--", "yes"]);
    drop(child.stdout.take());
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    expect_notice(&mut errors, "too much output is queued for wshubd");
    let socket = socket.opened();
    let mut peer = socket.accept_probed();
    peer.expect_line(json!({"action": "operation_start", "operation_id": "op"}));
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    child.wait().unwrap();
}

#[test]
fn output_that_cannot_be_written_is_reported_once_and_published() {
    let socket = HubSocket::new();
    let mut command = program();
    command.arg("--socket").arg(socket.path()).args(["run", "-q", "--operation", "op", "logs", "--"]);
    command.args(["sh", "-c", "echo one; echo two; exit 9"]);
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = command.stdin(Stdio::null()).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    let mut peer = socket.accept_probed();
    let request = peer.receive();
    peer.grant(&request, json!({}));
    assert_eq!([line(&mut peer), line(&mut peer)].map(|line| line["text"].clone()), ["one", "two"]);
    ended(&mut peer);
    let output = end(child);
    assert_eq!(output.status.code(), Some(9));
    let told = stderr(&output);
    assert!(told.starts_with("wshubctl: cannot write to stdout: No space left"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn ctrl_c_also_ends_the_script_that_started_run() {
    let socket = HubSocket::new().closed();
    let mut shell = Command::new("bash");
    let run = format!("{} --socket {} run -q", program().get_program().display(), socket.path().display());
    shell.arg("-c").arg(format!("{run} logs -- sh -c 'echo begun; exec sleep 1000'; echo went on"));
    let mut child = shell.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    let mut begun = String::new();
    printed.read_line(&mut begun).unwrap();
    kill_process_group(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::INT.as_raw()));
    printed.read_to_string(&mut begun).unwrap();
    assert_eq!(begun, "begun\n");
}

#[test]
fn a_command_that_ends_by_itself_at_ctrl_c_has_its_own_status() {
    let socket = HubSocket::new().closed();
    let script = "trap 'exit 3' INT; echo begun; while :; do sleep 1000 & wait; done";
    let mut child = socket.start(["run", "-q", "logs", "--", "sh", "-c", script]);
    let mut printed = BufReader::new(child.stdout.take().unwrap());
    printed.read_line(&mut String::new()).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(end(child).status.code(), Some(3));
}

#[test]
fn a_job_in_a_group_of_its_own_is_waited_for_and_published() {
    let socket = HubSocket::new();
    let fifo = fifo(&socket);
    let words = format!("bash -c 'set -m; (read -r word; echo $word) <{fifo} & echo leads'");
    let (child, mut peer) = script(&socket, &NEVER, &words);
    assert_eq!(line(&mut peer)["text"], "leads");
    fs::write(&fifo, "follows\n").unwrap();
    assert_eq!(line(&mut peer)["text"], "follows");
    assert_eq!(ended(&mut peer)["state"], "completed");
    assert_eq!(stdout(&end(child)), "leads\nfollows\n");
}

#[test]
fn a_job_in_its_own_group_is_stopped_after_term_after() {
    let socket = HubSocket::new();
    let words = "bash -c 'set -m; (echo $BASHPID; exec sleep 1000 >/dev/null 2>&1) & sleep 0.1'";
    let (child, mut peer) = script(&socket, &["--term-after", "0.1"], words);
    let left = pid(&line(&mut peer)["text"]);
    ended(&mut peer);
    assert_eq!(end(child).status.code(), Some(0));
    assert!(!lives(left));
}

#[test]
fn a_daemon_that_leaves_the_session_late_does_not_delay_run() {
    let socket = HubSocket::new();
    let (fifo, written) = (fifo(&socket), socket.file("pid"));
    let daemon = format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000", written.display());
    let words = format!("(read -r word <{fifo}; exec setsid sh -c '{daemon}') >/dev/null 2>&1 & echo leads");
    let (child, mut peer) = script(&socket, &NEVER, &words);
    assert_eq!(line(&mut peer)["text"], "leads");
    fs::write(&fifo, "go\n").unwrap();
    assert_eq!(ended(&mut peer)["state"], "completed");
    assert_eq!(end(child).status.code(), Some(0));
    while !Path::new(&written).exists() {
        std::thread::yield_now();
    }
    let left: i32 = fs::read_to_string(written).unwrap().trim().parse().unwrap();
    assert!(lives(left));
    kill_process(Pid::from_raw(left).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_hub_that_is_needed_may_come_within_the_time_that_is_named() {
    let socket = HubSocket::new().closed();
    let mut child = socket.start(["run", "-q", "--need-hub=1h", "--operation", "op", "logs", "--", "true"]);
    // It is looked for and not found.
    let socket = socket.opened();
    let mut peer = socket.accept();
    let request = peer.receive();
    peer.grant(&request, json!({}));
    ended(&mut peer);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let socket = socket.closed();
    let late = end(socket.start(["run", "--need-hub=0.1", "logs", "--", "touch", "/nowhere/ran"]));
    assert_eq!(late.status.code(), Some(3), "{}", stderr(&late));
}

#[test]
fn run_refuses_the_wait_option_of_other_commands() {
    let socket = HubSocket::new().closed();
    let refused = end(socket.start(["--wait", "1", "run", "logs", "--", "true"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--need-hub=30s"), "{}", stderr(&refused));
}

#[test]
fn a_subscription_times_out_though_no_hub_was_reached() {
    let socket = HubSocket::new().closed();
    for wait in ["0", "1h"] {
        let output = end(socket.start(["--wait", wait, "sub", "--timeout", "0.1", "logs"]));
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    }
}
