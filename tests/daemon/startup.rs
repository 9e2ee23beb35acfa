//! The conditions of a start, and the reports of it and of `--check` where one is missing.

use std::fs;
use std::fs::Permissions;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::harness::{Daemon, by_file, command, directory};

/// A user who owns nothing here.
const STRANGER: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program where everybody may start it, and a directory that nobody but root may
/// write; without root, that we may not write ourselves.
struct Closed(PathBuf);

impl Closed {
    fn new() -> Self {
        let directory = directory();
        fs::copy(env!("CARGO_BIN_EXE_wshubd"), directory.join("wshubd-program")).unwrap();
        let mode = if is_root() { 0o755 } else { 0o555 };
        fs::set_permissions(&directory, Permissions::from_mode(mode)).unwrap();
        Self(directory)
    }

    /// Runs it as a user who may not write there: exit code, and output.
    fn run(&self, words: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let output = self.command(words, variables).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    fn command(&self, words: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut daemon = Command::new(self.0.join("wshubd-program"));
        daemon.env_clear().envs(command(&self.0).get_envs().filter_map(|(name, value)| Some((name, value?))));
        daemon.args(words).envs(variables.iter().copied()).current_dir("/");
        if is_root() {
            daemon.uid(STRANGER).gid(STRANGER);
        }
        daemon.stdin(Stdio::null()).stdout(Stdio::null());
        daemon
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let _ = fs::set_permissions(&self.0, Permissions::from_mode(0o755));
        crate::harness::remove(&self.0);
    }
}

/// The result of `--check`: exit code, standard output and errors.
fn check(directory: &PathBuf, variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut daemon = command(directory);
    let output =
        daemon.arg("--check").envs(variables.iter().copied()).stdout(Stdio::piped()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_state_directory_that_cannot_be_made_exits_73() {
    let closed = Closed::new();
    for words in [&[][..], &["--check"]] {
        let (code, output) = closed.run(words, &[("XDG_RUNTIME_DIR", "/tmp")]);
        assert_eq!(code, Some(73), "{output}");
        let state = closed.0.join("wshubd");
        assert!(output.starts_with(&format!("{}: cannot be ", state.display())), "{output}");
        assert!(
            output.contains(&format!("Permission denied (os error 13): {} belongs to ", closed.0.display()))
        );
        assert!(output.contains("; make it as root, `install -d -m 0700 -o "), "{output}");
        assert!(
            output.contains(&format!(" {}`, or name another in `[state] directory`", state.display())),
            "{output}"
        );
    }
}

#[test]
fn a_state_directory_that_is_no_directory_is_reported() {
    let directory = directory();
    fs::write(directory.join("wshubd"), "").unwrap();
    let elsewhere = [("XDG_RUNTIME_DIR", "/nonexistent"), ("WSHUBD_LISTEN__WORKER", "/tmp/none.sock")];
    let (code, _, stderr) = check(&directory, &elsewhere);
    assert_eq!(code, Some(73), "{stderr}");
    assert!(
        stderr
            .contains("wshubd: is no directory, and is to hold the state; `[state] directory` names another")
    );
    let started = command(&directory).envs(elsewhere).output().unwrap();
    assert_eq!(started.status.code(), Some(73));
    crate::harness::remove(&directory);
}

#[test]
fn a_check_reports_a_worker_socket_that_cannot_be_made() {
    let closed = Closed::new();
    let state = std::env::temp_dir().join(format!("wshubd-none-{}", std::process::id()));
    let state = ("WSHUBD_STATE__DIRECTORY", state.to_str().unwrap());
    let place = closed.0.display().to_string();
    let check = |worker: &str| closed.run(&["--check"], &[state, ("WSHUBD_LISTEN__WORKER", worker)]);

    let (code, output) = check(&place);
    assert_eq!(code, Some(78), "{output}");
    assert!(
        output.contains(": is a directory, and is to be the worker socket; `[listen] worker` names its path")
    );

    let program = format!("{place}/wshubd-program");
    let (code, output) = check(&program);
    assert_eq!(code, Some(78), "{output}");
    assert!(output.contains(": is something else, and is to be the worker socket; "), "{output}");

    let (code, output) = check(&format!("{program}/worker.sock"));
    assert_eq!(code, Some(78), "{output}");
    assert!(output.contains("cannot be the worker socket: Not a directory"), "{output}");

    for worker in ["worker.sock", "deeper/worker.sock"] {
        let (code, output) = check(&format!("{place}/{worker}"));
        assert_eq!(code, Some(73), "{output}");
        assert!(output.contains("cannot be made: Permission denied"), "{output}");
        assert!(output.contains("or name another path in `[listen] worker`"), "{output}");
    }

    // One that nobody has written down.
    let far = format!("{place}/{}", "d".repeat(100));
    let (code, output) = closed.run(&["--check"], &[state, ("XDG_RUNTIME_DIR", &far)]);
    assert_eq!(code, Some(78), "{output}");
    assert!(
        output.contains(" bytes, and the path of a socket may have 107; `[listen] worker` names its path")
    );
}

#[test]
fn a_check_by_root_tries_what_the_daemons_user_may_read() {
    // Nobody else may become another user.
    if !is_root() {
        return;
    }
    let directory = directory();
    let (state, key) = (directory.join("wshubd"), directory.join("a.key"));
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
    fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    let keys = format!("[{{ alg = \"HS256\", file = {key:?} }}]");
    let keys = [("WSHUBD_AUTH__KEYS", keys.as_str())];

    let (code, stdout, stderr) = check(&directory, &keys);
    assert_eq!((code, stdout.contains("tried as root (uid 0)")), (Some(0), true), "{stdout}{stderr}");

    chown(&state, Some(STRANGER), Some(STRANGER)).unwrap();
    let (code, stdout, stderr) = check(&directory, &keys);
    assert_eq!(code, Some(78), "{stdout}{stderr}");
    assert!(stderr.starts_with(&format!("{}: cannot be read: Permission denied", key.display())), "{stderr}");
    assert!(
        stderr.contains("belongs to root (uid 0), group root, mode 0600, and this process runs as "),
        "{stderr}"
    );
    assert!(stderr.contains("(uid 65534); `chown "), "{stderr}");
    assert!(stderr.contains(&format!("`LoadCredential=a.key:{}`", key.display())), "{stderr}");

    chown(&key, Some(STRANGER), None).unwrap();
    let (code, stdout, stderr) = check(&directory, &keys);
    assert_eq!((code, stdout.contains("(uid 65534)\n")), (Some(0), true), "{stdout}{stderr}");

    // The file of the configuration is read by that user, too.
    let file = directory.join("wshubd.toml");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    let configuration = [("CONFIGURATION_DIRECTORY", directory.to_str().unwrap())];
    let (code, _, stderr) = check(&directory, &configuration);
    assert_eq!(code, Some(78), "{stderr}");
    assert!(stderr.contains(&format!("; `chmod a+r {}` lets it read", file.display())), "{stderr}");
    crate::harness::remove(&directory);
}

#[test]
fn a_check_leaves_no_file_and_reports_what_it_skipped() {
    let directory = directory();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let credential = "[{ alg = \"HS256\", file = \"/run/credentials/none.service/a.key\" }]";
    let variables = [("WSHUBD_LISTEN__HTTP", address.as_str()), ("WSHUBD_AUTH__KEYS", credential)];

    let (code, stdout, stderr) = check(&directory, &variables);

    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let in_use = format!("not tried: {address}, which is in use, by a wshubd that runs or another\n");
    assert!(stdout.contains(&in_use), "{stdout}");
    let passed =
        "not tried: /run/credentials/none.service/a.key, which systemd passes when the unit starts\n";
    assert!(stdout.contains(passed) && stdout.ends_with("ok\n"), "{stdout}");
    assert_eq!(names(&directory), [""; 0]);

    let elsewhere = [("WSHUBD_LISTEN__HTTP", "192.0.2.1:1")];
    let (code, _, stderr) = check(&directory, &elsewhere);
    assert_eq!(code, Some(0));
    assert!(stderr.contains("warning: cannot listen on 192.0.2.1:1: "), "{stderr}");
    crate::harness::remove(&directory);
}

#[test]
fn a_check_beside_the_running_daemon_disturbs_nobody() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    let (code, stdout, stderr) = check(&daemon.directory, &[]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let socket = daemon.directory.join("wshubd/worker.sock");
    let there = format!("not tried: the worker socket {}, which is there already\n", socket.display());
    assert!(stdout.contains(&there), "{stdout}");
    ada.expect_pong();
}

#[test]
fn kubernetes_variables_stop_no_start_and_are_one_warning() {
    let directory = directory();
    let mut daemon = command(&directory);
    daemon.envs([
        ("WSHUBD_SERVICE_HOST", "10.96.0.7"),
        ("WSHUBD_SERVICE_PORT", "8098"),
        ("WSHUBD_PORT", "tcp://10.96.0.7:8098"),
        ("WSHUBD_PORT_8098_TCP", "tcp://10.96.0.7:8098"),
        ("WSHUBD_PORT_8098_TCP_ADDR", "10.96.0.7"),
    ]);
    let mut child = daemon.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let before: Vec<String> = lines.by_ref().take_while(|line| !line.contains("started: ")).collect();
    let warnings = before.iter().filter(|line| line.contains("WSHUBD_PORT, WSHUBD_PORT_8098_TCP, "));
    assert_eq!(warnings.count(), 1, "{before:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    crate::harness::remove(&directory);
}

#[test]
fn show_names_the_files_that_were_read() {
    let directory = directory();
    fs::write(directory.join("wshubd.toml"), "[limits]\nburst = 7\n").unwrap();
    let shown = by_file(&directory).arg("--show").stdout(Stdio::piped()).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let head = format!("# read: {}/wshubd.toml\n[listen]\n", directory.display());
    assert!(shown.starts_with(&head) && shown.contains("\nburst = 7\n"), "{shown}");
    // It is a configuration itself.
    fs::write(directory.join("wshubd.toml"), &shown).unwrap();
    let again = by_file(&directory).arg("--show").stdout(Stdio::piped()).output().unwrap();
    assert_eq!(String::from_utf8(again.stdout).unwrap(), shown);
    crate::harness::remove(&directory);
}

/// A daemon that may have so many files open, and its log before it has started.
fn with_files(directory: &PathBuf, files: u64, connections: usize) -> (Daemon, Vec<String>) {
    let daemon = command(directory);
    let mut shell = Command::new("/bin/sh");
    let limits = format!("ulimit -Sn 64 && ulimit -Hn {files} && exec \"$0\"");
    shell.args(["-c", &limits]).arg(daemon.get_program());
    shell.env_clear().envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.env("WSHUBD_LIMITS__CONNECTIONS", connections.to_string()).env("WSHUBD_AUTH__ANONYMOUS", "true");
    let mut daemon = Daemon::by(directory.clone(), shell.stdin(Stdio::null()).stderr(Stdio::piped()));
    let before = daemon.log_before_start();
    (daemon, before)
}

#[test]
fn the_open_file_limit_is_raised_and_reported_if_too_low() {
    for (connections, is_told) in [(1000, true), (100, false)] {
        let (daemon, before) = with_files(&directory(), 256, connections);
        let expected =
            "limits.connections is 1000, and this process may have 256 files open, which is enough for 2";
        let is_said =
            before.iter().any(|line| line.contains(expected) && line.contains("raise `LimitNOFILE=`"));
        assert_eq!(is_said, is_told, "{before:?}");
        let limits = fs::read_to_string(format!("/proc/{}/limits", daemon.pid().as_raw_nonzero())).unwrap();
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert_eq!(files.split_whitespace().nth(3), Some("256"), "{files}");
    }
}

#[test]
fn the_open_file_limit_suffices_for_the_reported_number() {
    let (mut daemon, before) = with_files(&directory(), 100, 1000);
    let enough = |lines: &[String]| -> usize {
        let line = lines.iter().find_map(|line| line.split_once("which is enough for ")).unwrap().1;
        line.split(':').next().unwrap().parse().unwrap()
    };
    let reported = enough(&before);
    let clients: Vec<_> = (0..reported).map(|_| daemon.client_at("/ws")).collect();
    // All are taken but those that are kept back, a quarter; the store may have ended, and
    // the test runner may have left one open.
    let open = daemon.descriptors();
    assert!((73..=76).contains(&open), "{open} are open with {reported} clients");
    // Who is connected counts as little for the next warning as for the first.
    daemon.hang_up();
    let line = daemon.expect_log_line("which is enough for ");
    let again = enough(&[line]);
    assert!(again.abs_diff(reported) <= 1, "{reported} at the start, and {again} with as many clients");
    drop(clients);
}

/// The output of a check and a start as the user who owns the state: with an exit code, where
/// one has ended by itself.
fn tried_and_started(closed: &Closed, state: &Path) -> [(Option<i32>, String); 2] {
    let worker = state.join("worker.sock");
    let variables = [
        ("WSHUBD_STATE__DIRECTORY", state.to_str().unwrap()),
        ("WSHUBD_LISTEN__WORKER", worker.to_str().unwrap()),
    ];
    let check = closed.run(&["--check"], &variables);
    let mut daemon = closed.command(&[], &variables);
    let mut child = daemon.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap) {
        let is_up = line.contains("started: ");
        log += &format!("{line}\n");
        if is_up {
            child.kill().unwrap();
            break;
        }
    }
    [check, (child.wait().unwrap().code(), log)]
}

#[test]
fn foreign_files_in_the_state_directory_are_reported() {
    // Nobody else may give files away.
    if !is_root() {
        return;
    }
    let closed = Closed::new();
    // What is there, whether it keeps the daemon from starting, and whether only a disk needs it.
    for (name, is_needed) in [
        ("store", false),
        ("store/00000001", false),
        ("store/00000001/database/db", false),
        ("remains", false),
        ("jwt.key", true),
        ("broadcast.secret", true),
        ("revocations", true),
    ] {
        if name.starts_with("store") && !wshubd::features::STORE.is_built_in {
            continue;
        }
        let state = closed.0.join("my states").join(name.replace('/', "-"));
        let foreign = state.join(name);
        fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        match foreign.extension().is_some()
            || matches!(name, "remains" | "revocations")
            || name.ends_with("/db")
        {
            true => fs::write(&foreign, "0123456789abcdef0123456789abcdef").unwrap(),
            false => fs::create_dir(&foreign).unwrap(),
        }
        let give = |path: &Path| chown(path, Some(STRANGER), Some(STRANGER)).unwrap();
        foreign.ancestors().skip(1).take_while(|part| part.starts_with(&state)).for_each(give);
        fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(&foreign, Permissions::from_mode(0o700)).unwrap();

        let [(checked, stderr), (started, log)] = tried_and_started(&closed, &state);

        assert_eq!(checked, Some(73), "{name}: {stderr}");
        assert_eq!(started, is_needed.then_some(73), "{name}: {log}");
        for stderr in [stderr, log] {
            let owner = format!("{} belongs to root (uid 0), group root, mode 0700, ", foreign.display());
            assert!(stderr.contains(&owner), "{name}: {stderr}");
            assert!(
                stderr.contains("and this process runs as ") && stderr.contains("(uid 65534); `chown "),
                "{stderr}"
            );
            assert!(stderr.contains(&format!(" '{}/", state.display())), "{name}: {stderr}");
        }
    }
}

#[test]
fn a_writable_state_directory_is_reported_with_its_remedy() {
    let directory = directory();
    let state = directory.join("wshubd");
    fs::create_dir_all(state.join("store")).unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for (of_state, of_store, open_ones) in [
        (
            0o777,
            0o700,
            Some(format!(
                "0777, so that others may replace keys and kept messages; `chmod go-w {}`",
                state.display()
            )),
        ),
        (
            0o770,
            0o700,
            Some(format!(
                "0770, so that others may replace keys and kept messages; `chmod go-w {}`",
                state.display()
            )),
        ),
        (0o755, 0o775, Some(format!("`chmod go-w {}/store`", state.display()))),
        (0o775, 0o777, Some(format!("`chmod go-w {0} {0}/store`", state.display()))),
        (0o755, 0o755, None),
        // Nobody gets to what is in it.
        (0o700, 0o777, None),
    ] {
        open(&state, of_state);
        open(&state.join("store"), of_store);
        let (code, _, stderr) = check(&directory, &[]);
        assert_eq!(code, Some(0), "{stderr}");
        let mut daemon = Daemon::by(directory.clone(), &mut command(&directory));
        let started = daemon.log_before_start().join("\n");
        for stderr in [stderr, started] {
            match &open_ones {
                Some(expected) => assert!(stderr.contains(expected), "{stderr}"),
                None => assert!(!stderr.contains("chmod"), "{stderr}"),
            }
        }
        daemon.stop();
        daemon.ended();
        std::mem::forget(daemon);
    }
    crate::harness::remove(&directory);
}

#[test]
fn the_error_limit_of_a_reload_closes_connections() {
    let daemon = Daemon::by_file("[listen]\nhttp = \"127.0.0.1:0\"\n[limits]\nerrors = 2\n");
    let mut ada = daemon.client("ada");
    ada.send(json!({"action": "dance"}));
    ada.expect_type("error");
    daemon.write(
        "wshubd.toml",
        "[listen]\nhttp = \"127.0.0.1:0\"\n[limits]\nerrors = 4\nerrors_window = \"1h\"\n",
    );
    assert_eq!(daemon.reload()["type"], "ok");
    for _ in 0..3 {
        ada.send(json!({"action": "dance"}));
        ada.expect_type("error");
    }
    assert_eq!(ada.closed_with(), 4009);
}
