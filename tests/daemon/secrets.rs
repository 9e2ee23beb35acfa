//! Files of keys and secrets: which of them stop a start, and that their contents never show.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Daemon, command, directory};

/// Which file a daemon begins with: the one of its first start, or one that the configuration
/// names.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Generated,
    Configured,
}

/// The error of a daemon that does not start because of this file.
fn refused(name: &str, kind: Kind, text: Option<&str>, mode: u32) -> String {
    let directory = directory();
    let place = directory.join("wshubd");
    std::fs::DirBuilder::new().mode(0o700).create(&place).unwrap();
    let file = if kind == Kind::Generated { place.join(name) } else { directory.join(name) };
    if let Some(text) = text {
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut daemon = command(&directory);
    if kind == Kind::Configured && name == "jwt.key" {
        daemon.env("WSHUBD_AUTH__KEYS", format!("[{{ alg = \"HS256\", file = {file:?} }}]"));
    } else if kind == Kind::Configured {
        daemon.env("WSHUBD_AUTH__BROADCAST_SECRETS", format!("[{file:?}]"));
    }
    let output = daemon.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    // In the state directory nobody has configured it.
    let code = if kind == Kind::Generated { 73 } else { 78 };
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    let checked = daemon.arg("--check").output().unwrap();
    assert_eq!(
        (checked.status.code(), String::from_utf8(checked.stderr).unwrap()),
        (Some(code), stderr.clone())
    );
    assert_eq!(std::fs::read_to_string(&file).ok().as_deref(), text, "it is left as it is");
    assert!(!place.join("worker.sock").exists(), "nobody is let in");
    crate::harness::remove(&directory);
    let (_, why) = stderr.split_once(&format!("{}: ", file.display())).expect("the file is named");
    why.to_owned()
}

#[test]
fn an_unfit_secret_stops_the_start_and_is_named() {
    let fit = "0123456789abcdef0123456789abcdef";
    for name in ["jwt.key", "broadcast.secret"] {
        for kind in [Kind::Generated, Kind::Configured] {
            let table = [
                ("", 0o600, "is empty"),
                ("\n", 0o600, "is empty"),
                (fit, 0o644, "has mode 0644, which lets others in; `chmod 0600 /"),
                (fit, 0o660, "has mode 0660"),
            ];
            for (text, mode, wanted) in table {
                let why = refused(name, kind, Some(text), mode);
                assert!(why.starts_with(wanted) && !why.contains(fit), "{name}: {why}");
            }
            let why = refused(name, kind, Some("too-short\n"), 0o600);
            assert!(!why.contains("too-short"), "{name}: {why}");
        }
        let why = refused(name, Kind::Configured, None, 0);
        assert!(why.starts_with("cannot be read: No such file or directory"), "{name}: {why}");
    }
}

#[test]
fn keys_and_secrets_show_in_no_output_of_the_daemon() {
    let mut daemon = Daemon::with(&[("RUST_LOG", "trace")]);
    let key = std::fs::read_to_string(daemon.directory.join("wshubd/jwt.key")).unwrap();
    let (key, secret, token) = (key.trim().to_owned(), daemon.secret(), daemon.token("ada"));
    let mut ada = daemon.client_at(&format!("/ws?token={token}"));
    ada.expect_type("connection_established");
    let mut shown = String::new();
    for word in ["--show", "--check"] {
        let output = command(&daemon.directory).arg(word).stdout(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        shown += &String::from_utf8(output.stdout).unwrap();
        shown += &String::from_utf8(output.stderr).unwrap();
    }
    assert!(shown.contains("directory = "), "{shown}");
    let mut worker = daemon.worker();
    for action in ["stats", "connections", "channels", "inbox", "operations", "reload"] {
        worker.send(json!({"action": action, "id": 1}));
        shown += &worker.receive().to_string();
    }
    worker.send(json!({"action": "token", "token": "not.a.token", "id": 1}));
    shown += &worker.receive().to_string();
    let bearer = format!("Authorization: Bearer {secret}");
    for path in ["/metrics", "/api/v1/ws/stats", "/healthz", "/nowhere"] {
        shown += &daemon.http(&format!("GET {path}"), &[&bearer], "").1;
    }
    shown += &daemon.http("POST /broadcast", &["Authorization: Bearer a-wrong-secret-of-ours"], "{}").1;
    daemon.stop();
    drop((ada, worker));
    shown += &daemon.ended().1;
    for hidden in [&key, &secret, &token, "a-wrong-secret-of-ours"] {
        assert!(hidden.len() > 20 && !shown.contains(hidden), "{shown}");
    }
}
