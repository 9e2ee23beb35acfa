//! wshubctl against the daemon: publish, subscribe, and interrupt a real command.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use wshubd::features::{Feature, PUBLIC_KEYS, STORE};

use crate::harness::{Client, Daemon};

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
        let frame = client.receive();
        if frame["event"] == "operation:output" {
            return frame["data"]["text"].clone();
        }
    }
}

fn exists(pid: &Value) -> bool {
    Path::new("/proc").join(pid.as_str().unwrap()).exists()
}

#[test]
fn both_programs_print_version_and_features() {
    let sign = |feature: Feature| if feature.is_built_in { '+' } else { '-' };
    let (keys, store) = (sign(PUBLIC_KEYS), sign(STORE));
    for (name, program) in
        [("wshubd", env!("CARGO_BIN_EXE_wshubd")), ("wshubctl", env!("CARGO_BIN_EXE_wshubctl"))]
    {
        let output = Command::new(program).arg("--version").output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(output, format!("{name} {version} ({keys}public-keys {store}store)\n"));
    }
}

#[test]
fn a_subscriber_receives_published_lines_in_order() {
    let daemon = Daemon::start();
    let mut publish = wshubctl(&daemon, &["pub", "-v", "logs"]);
    let mut input = publish.stdin.take().unwrap();
    (0..500).for_each(|number| writeln!(input, "line {number}").unwrap());
    drop(input);
    printed(publish, 0);

    let received = printed(wshubctl(&daemon, &["sub", "-n", "500", "logs"]), 0);

    let texts = received.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["data"].clone());
    assert!(texts.eq((0..500).map(|number| json!(format!("line {number}")))));
}

#[test]
fn interrupt_kills_the_command_and_all_its_children() {
    let daemon = Daemon::start();
    let (mut ada, mut ben) = (daemon.client("ada"), daemon.client("ben"));
    ada.subscribe("jobs");
    ben.subscribe("jobs");
    let script = "sleep 3600 & echo $!; while :; do echo $$; sleep 3600; done";
    let options = ["run", "-q", "--operation", "op", "--user", "ada", "--term-after", "1h", "jobs"];
    let run = wshubctl(&daemon, &[&options[..], &["--", "sh", "-c", script]].concat());
    let pids = [line(&mut ada), line(&mut ada)];
    assert!(pids.iter().all(exists));

    ada.send(json!({"action": "interrupt", "data": {"operation_id": "op"}}));

    let mut ends = Vec::new();
    while ends.is_empty() {
        let frame = ben.receive();
        if frame["state"] == "ended" {
            ends.push((frame["reason"].clone(), frame["data"].clone()));
        }
    }
    assert_eq!(ends, [(json!("interrupted"), json!({"signal": "SIGINT", "lines": 2}))]);
    assert!(!pids.iter().any(exists));
    printed(run, 130);
}

#[test]
fn a_commands_own_end_is_published_with_its_exit_status() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("jobs");
    let run = wshubctl(&daemon, &["run", "-q", "jobs", "--", "sh", "-c", "echo done; exit 3"]);
    assert_eq!(line(&mut ada), "done");
    let ended = ada.expect_type("operation");
    assert_eq!((&ended["reason"], &ended["data"]["exit_code"]), (&json!("failed"), &json!(3)));
    assert_eq!(printed(run, 3), "done\n");
}

/// The lines of `run` itself, up to this one.
fn wait_for_line(errors: &mut impl BufRead, what: &str) {
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "it never said {what:?}");
    }
}

/// A command that prints while the daemon is ended and started again; then
/// a user presses Stop.
fn outlived(end: impl FnOnce(&mut Daemon)) {
    let mut daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("jobs");
    let script = "echo $$; read go; seq 100; sleep 3600";
    let words = ["run", "-q", "--operation", "op", "--user", "ada", "--term-after", "1h", "jobs"];
    let mut run = wshubctl(&daemon, &[&words[..], &["--", "sh", "-c", script]].concat());
    let shell = line(&mut ada);
    let mut output = BufReader::new(run.stdout.take().unwrap()).lines();
    let mut errors = BufReader::new(run.stderr.take().unwrap());

    end(&mut daemon);
    daemon.ended();
    wait_for_line(&mut errors, "the command goes on");
    run.stdin.take().unwrap().write_all(b"go\n").unwrap();
    assert_eq!(output.nth(100).unwrap().unwrap(), "100");
    daemon.start_again();
    wait_for_line(&mut errors, "reconnected to wshubd");

    // It was not delivered meanwhile, and so kept for the next subscriber.
    let mut ada = daemon.client("ada");
    ada.subscribe("jobs");
    let mut expected = 1;
    while expected <= 100 {
        let text = line(&mut ada);
        // What the daemon had taken and not confirmed comes again after a crash.
        if text != shell {
            assert_eq!(text, json!(expected.to_string()));
            expected += 1;
        }
    }
    ada.send(json!({"action": "interrupt", "data": {"operation_id": "op"}, "id": 1}));
    let ended = loop {
        let frame = ada.receive();
        if frame["state"] == "ended" {
            break frame;
        }
    };
    assert_eq!((&ended["reason"], &ended["data"]["lines"]), (&json!("interrupted"), &json!(101)));
    assert!(!exists(&shell));
    printed(run, 130);
}

#[test]
fn a_command_outlives_a_restart_and_can_be_interrupted() {
    outlived(Daemon::stop);
}

#[test]
fn a_command_outlives_a_kill_and_can_be_interrupted() {
    outlived(Daemon::kill);
}

#[test]
fn a_subscriber_reconnects_to_the_next_daemon() {
    let mut daemon = Daemon::start();
    let mut sub = wshubctl(&daemon, &["sub", "-n", "2", "jobs"]);
    let mut output = BufReader::new(sub.stdout.take().unwrap()).lines();
    let mut errors = BufReader::new(sub.stderr.take().unwrap());
    printed(wshubctl(&daemon, &["pub", "jobs", "one"]), 0);
    assert!(output.next().unwrap().unwrap().contains("one"));
    daemon.kill();
    daemon.ended();
    daemon.start_again();
    wait_for_line(&mut errors, "reconnected to wshubd");
    // It did not sleep through the change: the numbers begin anew.
    assert!(output.next().unwrap().unwrap().contains(r#""cause":"epoch""#));
    printed(wshubctl(&daemon, &["pub", "jobs", "two"]), 0);
    assert!(output.next().unwrap().unwrap().contains("two"));
    assert!(sub.wait().unwrap().success());
}

#[test]
fn outcomes_and_numbers_are_printed() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    worker.send(json!({"action": "operation_start", "operation_id": "op", "channel": "jobs", "id": 1}));
    worker.receive();
    let listed = printed(wshubctl(&daemon, &["operations", "--channel", "jobs"]), 0);
    assert_eq!(serde_json::from_str::<Value>(&listed).unwrap()["operation_id"], "op");
    let numbers = printed(wshubctl(&daemon, &["status"]), 0);
    assert_eq!(serde_json::from_str::<Value>(&numbers).unwrap()["operations"], 1);

    assert_eq!(printed(wshubctl(&daemon, &["interrupt", "op"]), 0), "delivered\n");
    worker.send(json!({"action": "operation_end", "operation_id": "op", "state": "interrupted", "id": 2}));
    assert_eq!(worker.receive()["type"], "interrupt");
    assert_eq!(worker.receive()["type"], "ok");
    assert_eq!(printed(wshubctl(&daemon, &["interrupt", "op"]), 0), "already_ended\n");
}
