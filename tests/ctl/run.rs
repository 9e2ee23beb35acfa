//! `wshubctl run`, with real processes.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fake_hub::{HubSocket, Peer, end, exists, stderr, stdout};

/// Waits that a test could not outlast: where a story ends, it was not by these.
pub(crate) const NEVER: [&str; 4] = ["--term-after", "1h", "--kill-after", "1h"];

/// Runs a shell script as operation `op`, and grants its start.
pub(crate) fn script(socket: &HubSocket, options: &[&str], script: &str) -> (Child, Peer) {
    let words = [&["run", "-q", "--operation", "op"], options, &["logs", "--", "sh", "-c", script]].concat();
    let (child, mut peer) = socket.start_probed(words);
    let request =
        peer.expect_line(json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    peer.grant(&request, json!({}));
    (child, peer)
}

/// The next line of output that was published.
pub(crate) fn line(peer: &mut Peer) -> Value {
    let received = peer.expect_line(json!({"channel": "logs", "event": "operation:output"}));
    peer.grant_if_asked(&received);
    received["data"].clone()
}

/// Grants whatever is said, until the word that it is over.
fn over(peer: &mut Peer) {
    loop {
        let received = peer.receive();
        peer.grant_if_asked(&received);
        if received["action"] == "operation_end" {
            return;
        }
    }
}

pub(crate) fn interrupt(peer: &mut Peer) {
    peer.send(json!({
        "type": "interrupt", "operation_id": "op", "channel": "logs", "from": "c", "user_id": "alice",
        "reason": "enough", "message_id": "m", "timestamp": "2024-05-06T07:08:09.123Z"
    }));
}

/// Reads what is more than a pipe holds.
fn read_along(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// The word that it is over, granted.
pub(crate) fn ended(peer: &mut Peer) -> Value {
    let received = peer.expect_line(json!({"action": "operation_end", "operation_id": "op"}));
    peer.grant(&received, json!({}));
    json!({"state": received["state"], "data": received["data"]})
}

pub(crate) fn pid(text: &Value) -> i32 {
    text.as_str().unwrap().trim().parse().unwrap()
}

#[test]
fn lines_are_published_and_copied_and_the_exit_code_is_kept() {
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &[], "echo one; echo two >&2; printf three; exit 7");
    let mut lines: Vec<Value> = (0..3).map(|_| line(&mut peer)).collect();
    // The two streams are two pipes: only within each the order is certain.
    lines.sort_by_key(|line| line["text"].as_str().unwrap().len());
    let texts: Vec<_> = lines.iter().map(|line| (line["stream"].clone(), line["text"].clone())).collect();
    assert!(texts.contains(&(json!("stdout"), json!("one"))));
    assert!(texts.contains(&(json!("stderr"), json!("two"))));
    assert_eq!(texts[2], (json!("stdout"), json!("three")));
    let mut numbers: Vec<_> = lines.iter().map(|line| line["line"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(ended(&mut peer), json!({"state": "failed", "data": {"exit_code": 7, "lines": 3}}));
    let output = end(child);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!((stdout(&output), stderr(&output)), ("one\nthree".to_owned(), "two\n".to_owned()));
}

#[test]
fn it_prints_how_to_stop_it_under_an_id_that_cannot_be_guessed() {
    let socket = HubSocket::new();
    let words = ["run", "--user", "alice", "--deadline", "1h", "logs", "--", "true"];
    let (child, mut peer) = socket.start_probed(words);
    let request = peer.expect_line(json!({"user_id": "alice", "label": "true"}));
    let deadline = request["deadline"].as_f64().unwrap();
    assert!(deadline > 3500.0 && deadline <= 3600.0, "{request}");
    let id = request["operation_id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("run-") && id.len() == 20, "{id}");
    peer.grant(&request, json!({}));
    let request = peer.expect_line(json!({"state": "completed", "data": {"exit_code": 0, "lines": 0}}));
    peer.grant(&request, json!({}));
    let output = end(child);
    assert_eq!(
        stderr(&output),
        format!("wshubctl: operation {id} on logs; stop it with: wshubctl interrupt {id}\n")
    );
}

#[test]
fn an_interrupt_kills_a_loop_and_what_it_waits_for() {
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &NEVER, "while :; do echo $$; sleep 3600; done");
    let shell = pid(&line(&mut peer)["text"]);
    interrupt(&mut peer);
    assert_eq!(ended(&mut peer), json!({"state": "interrupted", "data": {"signal": "SIGINT", "lines": 1}}));
    assert!(!exists(shell));
    assert_eq!(end(child).status.code(), Some(130));
}

/// As [`script`], in bash: only here, where it is not missing.
fn bash(socket: &HubSocket, script: &str) -> Option<(Child, Peer)> {
    let is_there = std::process::Command::new("bash").arg("--version").output().is_ok();
    let words =
        [&["run", "-q", "--operation", "op"], &NEVER[..], &["logs", "--", "bash", "-c", script]].concat();
    is_there.then(|| {
        let (child, mut peer) = socket.start_probed(words);
        let request = peer.expect_line(json!({"action": "operation_start"}));
        peer.grant(&request, json!({}));
        (child, peer)
    })
}

#[test]
fn a_shell_never_ignores_an_interrupt() {
    // Most of its time bash is where a signal would be forgiven: after a command
    // has ended, and before it has taken notice.
    for script in [
        "while :; do sleep 0.001; echo x; done",
        "while :; do true | cat; /bin/true; echo x; done",
        "while :; do (sleep 0.001; true); x=$(echo a); echo x; done",
    ] {
        for _ in 0..6 {
            let socket = HubSocket::new();
            let Some((child, mut peer)) = bash(&socket, script) else { return };
            line(&mut peer);
            interrupt(&mut peer);
            over(&mut peer);
            assert_eq!(end(child).status.code(), Some(130), "{script}");
        }
    }
}

#[test]
fn commands_of_a_trap_are_not_interrupted() {
    let socket = HubSocket::new();
    let tidy = "trap 'sleep 0.3 && echo tidied; exit 5' INT; echo up; while :; do sleep 3600; done";
    let Some((child, mut peer)) = bash(&socket, tidy) else { return };
    line(&mut peer);
    interrupt(&mut peer);
    assert_eq!(line(&mut peer)["text"], "tidied");
    assert_eq!(ended(&mut peer)["data"]["exit_code"], 5);
    assert_eq!(end(child).status.code(), Some(5));
}

#[test]
fn background_jobs_of_a_shell_that_ignore_sigint_are_stopped() {
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &NEVER, "sleep 3600 & echo $!; wait");
    let background = pid(&line(&mut peer)["text"]);
    interrupt(&mut peer);
    ended(&mut peer);
    assert!(!exists(background));
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn a_process_in_a_session_of_its_own_is_found() {
    let socket = HubSocket::new();
    // The shell that echoes is no child of the first one when it does.
    let hiding = "(setsid sh -c 'echo $$; exec sleep 3600' &) ; sleep 3600";
    let (child, mut peer) = script(&socket, &NEVER, hiding);
    let hidden = pid(&line(&mut peer)["text"]);
    interrupt(&mut peer);
    ended(&mut peer);
    assert!(!exists(hidden));
    end(child);
}

#[test]
fn a_process_that_ignores_sigint_and_sigterm_is_killed() {
    let socket = HubSocket::new();
    let waits = ["--term-after", "20ms", "--kill-after", "20ms"];
    let stubborn =
        "trap '' INT TERM; sh -c 'echo $$; while :; do sleep 3600; done' & echo $$; wait; sleep 3600";
    let (child, mut peer) = script(&socket, &waits, stubborn);
    let pids = [pid(&line(&mut peer)["text"]), pid(&line(&mut peer)["text"])];
    interrupt(&mut peer);
    assert_eq!(ended(&mut peer)["data"]["signal"], "SIGKILL");
    assert!(!pids.iter().any(|&pid| exists(pid)));
    assert_eq!(end(child).status.code(), Some(137));
}

#[test]
fn a_command_may_use_the_interrupt_to_end_in_order() {
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &NEVER, "trap 'echo bye; exit 0' INT; echo $$; sleep 3600");
    line(&mut peer);
    interrupt(&mut peer);
    assert_eq!(line(&mut peer)["text"], "bye");
    assert_eq!(ended(&mut peer), json!({"state": "interrupted", "data": {"exit_code": 0, "lines": 2}}));
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn a_stopped_command_can_be_interrupted_too() {
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &NEVER, "echo $$; kill -STOP $$; echo on; sleep 3600");
    let shell = pid(&line(&mut peer)["text"]);
    while !std::fs::read_to_string(format!("/proc/{shell}/stat")).unwrap().contains(") T ") {}
    interrupt(&mut peer);
    over(&mut peer);
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn signals_are_passed_on_and_a_second_one_escalates() {
    let socket = HubSocket::new();
    let (child, mut peer) =
        script(&socket, &NEVER, "trap 'echo int' INT; echo $$; while :; do sleep 3600; done");
    let shell = pid(&line(&mut peer)["text"]);
    let run = Pid::from_child(&child);
    kill_process(run, Signal::INT).unwrap();
    assert_eq!(line(&mut peer)["text"], "int");
    // Nobody loses patience so soon that this would not be taken for the same.
    while exists(shell) {
        kill_process(run, Signal::TERM).unwrap();
        std::thread::yield_now();
    }
    assert_eq!(ended(&mut peer), json!({"state": "interrupted", "data": {"signal": "SIGTERM", "lines": 2}}));
    assert_eq!(end(child).status.code(), Some(143));
}

#[test]
fn processes_left_behind_may_finish_their_output() {
    let socket = HubSocket::new();
    let fifo = socket.file("go");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    // The leader is gone when the background job begins to print.
    let left = format!("(read x < {0}; echo late) & echo $$", fifo.display());
    let (child, mut peer) = script(&socket, &NEVER, &left);
    let leader = pid(&line(&mut peer)["text"]);
    while exists(leader) {}
    std::fs::write(&fifo, "go\n").unwrap();
    assert_eq!(line(&mut peer)["text"], "late");
    assert_eq!(ended(&mut peer), json!({"state": "completed", "data": {"exit_code": 0, "lines": 2}}));
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn a_daemon_outlives_a_command_that_ends_by_itself() {
    let socket = HubSocket::new();
    let (child, mut peer) =
        script(&socket, &NEVER, "setsid sh -c 'echo $$; exec sleep 3600' & wait $!; exit 0");
    let daemon = pid(&line(&mut peer)["text"]);
    // `wait` waits for setsid, which became the daemon; so the leader is told.
    let leader = std::fs::read_to_string(format!("/proc/{daemon}/stat")).unwrap();
    let leader: i32 = leader.rsplit(") ").next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    kill_process(Pid::from_raw(leader).unwrap(), Signal::KILL).unwrap();
    assert_eq!(ended(&mut peer)["state"], "failed");
    assert!(exists(daemon));
    kill_process(Pid::from_raw(daemon).unwrap(), Signal::KILL).unwrap();
    assert_eq!(end(child).status.code(), Some(137));
}

#[test]
fn a_pseudo_terminal_makes_programs_print_at_once() {
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &["--pty"], "test -t 1 && test -t 2 && echo tty; echo err >&2");
    assert_eq!(line(&mut peer), json!({"operation_id": "op", "stream": "stdout", "line": 1, "text": "tty"}));
    assert_eq!(line(&mut peer)["text"], "err");
    assert_eq!(ended(&mut peer), json!({"state": "completed", "data": {"exit_code": 0, "lines": 2}}));
    assert_eq!(stdout(&end(child)), "tty\nerr\n");
}

#[test]
fn a_pseudo_terminals_command_is_interrupted_as_any_other() {
    let socket = HubSocket::new();
    let options: Vec<_> = NEVER.iter().copied().chain(["--pty"]).collect();
    let (child, mut peer) = script(&socket, &options, "echo $$; sleep 3600");
    line(&mut peer);
    interrupt(&mut peer);
    assert_eq!(ended(&mut peer)["state"], "interrupted");
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn bytes_that_are_no_text_are_replaced_and_long_lines_cut() {
    let socket = HubSocket::new();
    let long = "printf 'a\\377b\\n'; head -c 65533 /dev/zero | tr '\\0' x; printf '\u{e9}\u{e9}y\\n'";
    let (mut child, mut peer) = script(&socket, &[], long);
    let passed = read_along(child.stdout.take().unwrap());
    assert_eq!(line(&mut peer)["text"], "a\u{fffd}b");
    let first = line(&mut peer);
    // The character that would not fit whole begins the next piece.
    assert_eq!((first["text"].as_str().unwrap().len(), &first["continues"]), (65535, &json!(true)));
    let second = line(&mut peer);
    assert_eq!((&second["text"], &second["continues"]), (&json!("\u{e9}y"), &Value::Null));
    ended(&mut peer);
    assert!(passed.join().unwrap().starts_with(b"a\xffb\n"));
    end(child);
}

#[test]
fn a_command_that_is_not_there_fails_as_in_a_shell() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_probed(["run", "-q", "--operation", "op", "logs", "--", "/no/such"]);
    let request = peer.receive();
    peer.grant(&request, json!({}));
    assert_eq!(line(&mut peer)["stream"], "stderr");
    assert_eq!(ended(&mut peer)["data"]["exit_code"], 127);
    assert_eq!(end(child).status.code(), Some(127));
}

#[test]
fn an_operation_that_runs_already_starts_no_command() {
    let socket = HubSocket::new();
    let witness = socket.file("ran");
    let (child, mut peer) = socket.start_probed(["run", "logs", "--", "touch", witness.to_str().unwrap()]);
    let request = peer.receive();
    peer.refuse(&request, "conflict", "it runs already");
    assert_eq!(end(child).status.code(), Some(1));
    peer.expect_end();
    assert!(!witness.exists());
}

/// Reads what the program says of itself until it says this.
pub(crate) fn expect_notice(errors: &mut impl BufRead, what: &str) {
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        assert_ne!(errors.read_line(&mut line).unwrap(), 0, "it never said {what:?}");
    }
}

/// The operation comes back with its hub.
fn back(socket: &HubSocket) -> Peer {
    let mut peer = socket.accept_probed();
    let again =
        peer.expect_line(json!({"action": "operation_start", "operation_id": "op", "channel": "logs"}));
    peer.grant(&again, json!({}));
    peer
}

#[test]
fn a_command_outlives_its_hub_without_loss_of_output() {
    let socket = HubSocket::new();
    let (mut child, mut peer) = script(&socket, &[], "echo one; read go; echo two; read on; exit 3");
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    line(&mut peer);
    drop(peer);
    expect_notice(&mut errors, "the command goes on");
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"go\n").unwrap();
    assert_eq!(output.nth(1).unwrap().unwrap(), "two");

    let mut peer = back(&socket);
    expect_notice(&mut errors, "reconnected to wshubd");
    // The first line was never confirmed: under its own id it may come again.
    let first = line(&mut peer);
    let second = if first["text"] == "one" { line(&mut peer) } else { first };
    assert_eq!(second["text"], "two");
    input.write_all(b"on\n").unwrap();
    assert_eq!(ended(&mut peer), json!({"state": "failed", "data": {"exit_code": 3, "lines": 2}}));
    assert_eq!(end(child).status.code(), Some(3));
}

#[test]
fn stop_works_again_when_the_hub_is_back() {
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &NEVER, "echo $$; sleep 3600");
    let shell = pid(&line(&mut peer)["text"]);
    drop(peer);
    let mut peer = back(&socket);
    interrupt(&mut peer);
    assert_eq!(ended(&mut peer)["state"], "interrupted");
    assert!(!exists(shell));
    assert_eq!(end(child).status.code(), Some(130));
}

#[test]
fn output_above_the_bound_is_lost_and_counted() {
    let socket = HubSocket::new();
    let long = "read go; yes $(printf %0999d 1) | head -n 3000; echo all >&2; read on; echo last; read off";
    let (mut child, peer) = script(&socket, &[], long);
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let passed = read_along(child.stdout.take().unwrap());
    drop(peer);
    expect_notice(&mut errors, "the command goes on");
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"go\n").unwrap();
    expect_notice(&mut errors, "lines are dropped until wshubd accepts some");
    expect_notice(&mut errors, "all");

    let mut peer = back(&socket);
    expect_notice(&mut errors, "reconnected to wshubd");
    let (mut received, mut lost) = (0, 0);
    // A hub that is there is waited for: what follows finds room.
    input.write_all(b"on\n").unwrap();
    loop {
        let next = line(&mut peer);
        lost += next["lost"].as_u64().unwrap_or_default();
        if next["text"] == "last" {
            break;
        }
        received += 1;
    }
    assert!(lost > 1000, "{lost} lines were lost");
    assert_eq!(received + lost, 3001);
    input.write_all(b"off\n").unwrap();
    let data = ended(&mut peer)["data"].clone();
    assert_eq!((&data["lines"], &data["lost"]), (&json!(3002), &json!(lost)));
    end(child);
    // Here nothing is lost.
    assert_eq!(passed.join().unwrap().len(), 3_000_005);
}

#[test]
fn an_end_that_no_hub_takes_is_reported_and_the_exit_code_stays() {
    let socket = HubSocket::new();
    let (mut child, peer) = script(&socket, &["--linger", "10ms"], "read go; exit 7");
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    drop(peer);
    expect_notice(&mut errors, "the command goes on");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    expect_notice(&mut errors, "waiting 10ms");
    expect_notice(&mut errors, "did not receive the end");
    assert_eq!(end(child).status.code(), Some(7));
}

#[test]
fn a_command_goes_on_if_a_restarted_hub_refuses_its_operation() {
    let socket = HubSocket::new();
    let (mut child, peer) = script(&socket, &[], "read go; echo on");
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    drop(peer);
    let mut peer = socket.accept_probed();
    let again = peer.expect_line(json!({"action": "operation_start"}));
    peer.refuse(&again, "forbidden", "not any more");
    expect_notice(&mut errors, "can only be stopped here");
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    // Its output is still published. It does not wait for an answer to that.
    let received = peer.expect_line(json!({"channel": "logs", "event": "operation:output"}));
    assert_eq!(received["data"]["text"], "on");
    assert_eq!(end(child).status.code(), Some(0));
}

#[test]
fn a_reader_that_does_not_read_does_not_delay_the_end() {
    let socket = HubSocket::new();
    let (child, mut peer) = script(&socket, &NEVER, "echo $$; exec yes");
    line(&mut peer);
    interrupt(&mut peer);
    // Nobody reads the program's output, and it is full long before.
    over(&mut peer);
    drop(peer);
    assert_eq!(end(child).status.code(), Some(130));
}

fn press_ctrl_c(child: &Child) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
}

#[test]
fn ctrl_c_ends_the_wait_for_a_hub_that_does_not_answer() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_probed(["run", "logs", "--", "true"]);
    peer.expect_line(json!({"action": "operation_start"}));
    press_ctrl_c(&child);
    peer.expect_end();
    assert_eq!(end(child).status.signal(), Some(Signal::INT.as_raw()));
}

#[test]
fn ctrl_c_ends_the_wait_for_a_reader_that_does_not_read() {
    let socket = HubSocket::new();
    // Two more pieces than a pipe holds: one is read and waits, the other stays
    // in the pipe of the command, which so can end.
    let (child, mut peer) = script(&socket, &[], "echo $$; head -c 120000 /dev/zero | tr '\\0' 'x'");
    let shell = pid(&line(&mut peer)["text"]);
    while exists(shell) {
        std::thread::yield_now();
    }
    press_ctrl_c(&child);
    over(&mut peer);
    peer.expect_end();
    assert_eq!(end(child).status.code(), Some(0));
}
