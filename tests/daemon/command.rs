//! wshubctl against the daemon: publish, listen, and stop a real command.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::bench::{Client, Daemon};

/// Starts wshubctl as a user of the daemon's machine would: it finds the socket.
pub(crate) fn wshubctl(daemon: &Daemon, words: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wshubctl"));
    command.args(words).env("XDG_RUNTIME_DIR", &daemon.directory);
    command.env_remove("WSHUBD_LISTEN__WORKER").env_remove("RUNTIME_DIRECTORY");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What it prints, once it has exited with `code`.
pub(crate) fn printed(child: Child, code: i32) -> String {
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// The next output of the command.
fn line(client: &mut Client) -> Value {
    loop {
        let frame = client.hear();
        if frame["event"] == "operation:output" {
            return frame["data"]["text"].clone();
        }
    }
}

fn exists(pid: &Value) -> bool {
    Path::new("/proc").join(pid.as_str().unwrap()).exists()
}

#[test]
fn what_one_publishes_another_hears_in_order() {
    let daemon = Daemon::start();
    let mut publish = wshubctl(&daemon, &["pub", "-v", "logs"]);
    let mut input = publish.stdin.take().unwrap();
    (0..500).for_each(|number| writeln!(input, "line {number}").unwrap());
    drop(input);
    printed(publish, 0);

    let heard = printed(wshubctl(&daemon, &["sub", "-n", "500", "logs"]), 0);

    let texts = heard.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["data"].clone());
    assert!(texts.eq((0..500).map(|number| json!(format!("line {number}")))));
}

#[test]
fn pressing_stop_kills_the_command_and_all_its_children() {
    let daemon = Daemon::start();
    let (mut ada, mut ben) = (daemon.client("ada"), daemon.client("ben"));
    ada.subscribe("jobs");
    ben.subscribe("jobs");
    let script = "sleep 3600 & echo $!; while :; do echo $$; sleep 3600; done";
    let options = ["run", "-q", "--operation", "op", "--user", "ada", "--term-after", "1h", "jobs"];
    let run = wshubctl(&daemon, &[&options[..], &["--", "sh", "-c", script]].concat());
    let pids = [line(&mut ada), line(&mut ada)];
    assert!(pids.iter().all(exists));

    ada.say(json!({"action": "interrupt", "data": {"operation_id": "op"}}));

    let mut ends = Vec::new();
    while ends.is_empty() {
        let frame = ben.hear();
        if frame["state"] == "ended" {
            ends.push((frame["reason"].clone(), frame["data"].clone()));
        }
    }
    assert_eq!(ends, [(json!("interrupted"), json!({"signal": "SIGINT", "lines": 2}))]);
    assert!(!pids.iter().any(exists));
    printed(run, 130);
}

#[test]
fn a_commands_own_end_is_told_with_its_exit_status() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("jobs");
    let run = wshubctl(&daemon, &["run", "-q", "jobs", "--", "sh", "-c", "echo done; exit 3"]);
    assert_eq!(line(&mut ada), "done");
    let ended = ada.hear_type("operation");
    assert_eq!((&ended["reason"], &ended["data"]["exit_code"]), (&json!("failed"), &json!(3)));
    assert_eq!(printed(run, 3), "done\n");
}

#[test]
fn a_command_outlives_the_daemon_that_could_have_stopped_it() {
    let mut daemon = Daemon::start();
    let script = "echo up; read go; echo on";
    let mut run = wshubctl(&daemon, &["run", "-q", "jobs", "--", "sh", "-c", script]);
    let mut output = BufReader::new(run.stdout.take().unwrap()).lines();
    assert_eq!(output.next().unwrap().unwrap(), "up");

    daemon.stop();
    daemon.ended();

    let mut errors = BufReader::new(run.stderr.take().unwrap()).lines();
    assert!(errors.next().unwrap().unwrap().contains("the command goes on"));
    run.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(output.next().unwrap().unwrap(), "on");
    printed(run, 0);
}

#[test]
fn outcomes_and_numbers_are_printed() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    worker.say(json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "id": 1}));
    worker.hear();
    let listed = printed(wshubctl(&daemon, &["operations", "--channel", "jobs"]), 0);
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap()["operation_id"], "op");
    let numbers = printed(wshubctl(&daemon, &["status"]), 0);
    assert_eq!(serde_json::from_str::<Value>(&numbers).unwrap()["operations"], 1);

    assert_eq!(printed(wshubctl(&daemon, &["interrupt", "op"]), 0), "delivered\n");
    worker.say(json!({"action": "operation_end", "operation_id": "op", "state": "interrupted", "id": 2}));
    assert_eq!(worker.hear()["type"], "interrupt");
    assert_eq!(worker.hear()["type"], "ok");
    assert_eq!(printed(wshubctl(&daemon, &["interrupt", "op"]), 0), "already_ended\n");
}
