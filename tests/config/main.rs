//! The configuration: files and variables, their order, and mistakes in them.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod changes;
mod file_lookup;
mod listen;
mod mistakes;
mod permissions;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use log::LevelFilter;
use wshubd::config::file_owner::Purpose;
use wshubd::config::{Alg, Config, Environment, Forwarded, Loaded, Principal, StoreKind, paths};
use wshubd::features::{PUBLIC_KEYS, STORE};
use wshubd::hub::settings::WriteThrough;
use wshubd::hub::settings::{Keep, Limits};
use wshubd::hub::{Pattern, Settings};
use wshubd::protocol::Channel;

/// A directory of a test's own, gone with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("wshubd-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// Where the packaged daemon finds itself, and `more`.
fn environment(more: &[(&str, &str)]) -> Environment {
    let usual = [
        ("STATE_DIRECTORY", "/var/lib/wshubd"),
        ("RUNTIME_DIRECTORY", "/run/wshubd"),
        ("CONFIGURATION_DIRECTORY", "/nonexistent/wshubd"),
    ];
    Environment::new(1000, usual.iter().chain(more).copied())
}

fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
    let scratch = Scratch::new();
    let file = scratch.write("hub.toml", text);
    Config::load(Some(&file), &environment(variables))
        .map(|loaded| loaded.config)
        .map_err(|error| error.to_string().replace(&format!("{}/", scratch.0.display()), ""))
}

fn read(text: &str) -> Result<Config, String> {
    read_with(text, &[])
}

fn defaults() -> Config {
    read("").unwrap()
}

#[test]
fn nothing_needs_to_be_configured() {
    let Loaded { config, files, .. } = Config::load(None, &environment(&[])).unwrap();
    assert!(files.is_empty());
    assert_eq!(config, defaults());
    // What the hub would do by itself, but that there may be a disk.
    let usual = Settings::default();
    let kept_bytes = config.hub_settings().limits.kept_bytes;
    let limits = Limits { kept_bytes, ..usual.limits };
    let (has_disk, flash_budget) = (STORE.is_built_in, Some(256 << 20));
    assert_eq!(config.hub_settings(), Settings { has_disk, flash_budget, limits, ..usual });
    assert_eq!(config.limits.hub, Settings::default().limits);
    assert_eq!(config.listen.http, ["127.0.0.1:8098".parse().unwrap()]);
    assert_eq!(config.listen.worker, Path::new("/run/wshubd/worker.sock"));
    assert_eq!(config.state.directory, Path::new("/var/lib/wshubd"));
    assert_eq!(config.warnings(), [""; 0]);
}

/// The sample of the documentation, all of it.
const SAMPLE: &str = r#"
[listen]
http = ["127.0.0.1:8098", "[::1]:8098"]
worker = "/run/wshubd/worker.sock"
paths = ["/ws"]
allowed_origins = ["https://app.example.org", "null"]
allowed_hosts = ["hub.example.org"]
metrics_open = true
trusted_proxies = ["127.0.0.1", "10.0.0.0/8", "2001:db8::/32", "::ffff:192.0.2.0/120"]
forwarded = "forwarded"
[state]
directory = "/srv/wshubd"
store = "memory"
[auth]
anonymous = true
query_token = false
keys = [{ alg = "HS256", file = "/etc/wshubd/jwt.key", kid = "a" }, { alg = "HS512", file = "/etc/long.key" }]
user_claim = "https://example.org/uid"
issuer = ["https://id.example.org/", "us"]
audience = "wshub"
require_exp = false
broadcast_secrets = ["/etc/wshubd/broadcast.secret"]
subscribe = ["logs:*"]
publish = []
interrupt = ["*"]
[worker]
allow = [1000, "@wshub", "unit:build.service"]
admins = ["1001"]
[limits]
requests_per_second = 100
burst = 200
user_requests_per_second = 600
user_burst = 700
interrupts_per_second = 5
interrupt_burst = 6
whispers_per_second = 8
whisper_burst = 9
message_bytes = "1MiB"
queue_messages = 10
queue_bytes = 65536
subscriptions = 7
connections = 11
connections_per_user = 3
http_connections = 12
errors = 16
errors_window = "1m 30s"
operations = 13
wrong_secrets_per_minute = 14
wrong_tokens_per_minute = 15
memory = "2GiB"
handshake_timeout = 5
auth_timeout = "6s"
stall_timeout = 1.5
[heartbeat]
ping_interval = "20s"
pong_timeout = "1m 5s"
[[channel]]
match = "orders:*"
keep = "history"
count = 100
bytes = "2MiB"
ttl = "24h"
disk = "behind"
[[channel]]
match = "@me"
count = 5
[[channel]]
match = "*"
keep = "never"
[store]
write_delay = "250ms"
bytes = "1GiB"
flash_budget = 0
[log]
level = "warn"
access = true
"#;

#[test]
fn every_option_is_understood() {
    let config = read(SAMPLE).unwrap();
    assert_eq!(config.listen.http.len(), 2);
    assert_eq!(config.listen.allowed_origins, ["https://app.example.org", "null"]);
    let proxies: Vec<String> = config.listen.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(proxies, ["127.0.0.1/32", "10.0.0.0/8", "2001:db8::/32", "192.0.2.0/24"]);
    assert_eq!(
        (config.listen.forwarded, defaults().listen.forwarded),
        (Forwarded::Forwarded, Forwarded::XForwardedFor)
    );
    assert!(config.listen.metrics_open && config.auth.anonymous && !config.auth.query_token);
    assert_eq!((config.state.store, defaults().state.store), (StoreKind::Memory, StoreKind::default()));
    assert_eq!(config.auth.keys[0].kid.as_deref(), Some("a"));
    assert_eq!(config.auth.keys[1].alg, Alg::Hs512);
    let claims = &config.auth.claims;
    assert_eq!(claims.user.as_deref(), Some("https://example.org/uid"));
    assert_eq!(claims.issuers, ["https://id.example.org/", "us"]);
    assert_eq!((&*claims.audiences, claims.end), (&["wshub".to_owned()][..], false));
    assert_eq!(config.auth.rights.publish, []);
    let allow =
        [Principal::Uid(1000), Principal::Group("wshub".into()), Principal::Unit("build.service".into())];
    assert_eq!(config.worker.allow, allow);
    assert_eq!(config.worker.admins, [Principal::Uid(1001)]);
    assert_eq!((config.limits.queue_messages, config.limits.queue_bytes), (10, 65536));
    assert_eq!((config.limits.connections, config.limits.handshake), (11, Duration::from_secs(5)));
    assert_eq!(config.limits.http_connections, 12);
    assert_eq!((config.limits.wrong_secrets, config.limits.wrong_tokens), (14, 15));
    assert_eq!(config.store.write_delay, Duration::from_millis(250));
    assert_eq!(config.store.flash_budget, None);
    assert_eq!((config.log.level, defaults().log.level), (LevelFilter::Warn, LevelFilter::Info));
    assert_eq!((config.log.access, defaults().log.access), (true, false));
    let disks: Vec<_> = config.channels.iter().map(|channel| channel.policy.disk).collect();
    assert_eq!(disks, [WriteThrough::Behind, WriteThrough::Behind, WriteThrough::Never]);
}

#[test]
fn hub_settings_come_from_the_configuration() {
    let settings = read(SAMPLE).unwrap().hub_settings();
    assert!(settings.anonymous);
    assert_eq!(settings.rights.subscribe.len(), 1);
    assert_eq!((settings.limits.requests_per_second, settings.limits.burst), (100, 200));
    assert_eq!((settings.limits.user_requests_per_second, settings.limits.user_burst), (600, 700));
    assert_eq!((settings.limits.message_bytes, settings.limits.kept_bytes), (1 << 20, 1 << 30));
    assert_eq!((settings.limits.subscriptions, settings.limits.connections_per_user), (7, 3));
    assert_eq!((settings.limits.interrupts_per_second, settings.limits.interrupt_burst), (5, 6));
    assert_eq!((settings.limits.whispers_per_second, settings.limits.whisper_burst), (8, 9));
    assert_eq!((settings.limits.operations, settings.limits.memory), (13, 2 << 30));
    assert_eq!((settings.limits.errors, settings.limits.errors_window), (16, Duration::from_secs(90)));
    assert_eq!(settings.limits.auth, Duration::from_secs(6));
    assert_eq!(settings.limits.stall, Duration::from_millis(1500));
    assert_eq!(settings.heartbeat.pong_timeout, Duration::from_secs(65));
    assert_eq!(settings.inbox.count, 5);
    let orders = settings.policy_of(&Channel::new("orders:7").unwrap());
    assert_eq!((orders.keep, orders.count, orders.bytes), (Keep::History, 100, 2 << 20));
    assert_eq!(settings.policy_of(&Channel::new("logs").unwrap()).keep, Keep::Never);
    assert_eq!(settings.policies.len(), 2, "the inbox is no channel");
}

#[test]
fn kept_messages_take_at_most_half_of_the_memory() {
    let config = read("[state]\nstore = 'memory'\n[limits]\nmemory = '16MiB'").unwrap();
    assert_eq!(config.hub_settings().limits.kept_bytes, 8 << 20);
    assert_eq!(config.limits.hub.kept_bytes, defaults().limits.hub.kept_bytes, "what was asked for is shown");
    assert!(config.warnings()[0].starts_with("store.bytes is more than half of limits.memory"));
    let config =
        read("[state]\nstore = 'memory'\n[limits]\nmemory = '16MiB'\n[store]\nbytes = '4MiB'").unwrap();
    assert_eq!(config.hub_settings().limits.kept_bytes, 4 << 20);
    assert_eq!(config.warnings(), [""; 0]);
}

#[cfg(feature = "store")]
#[test]
fn disk_space_is_shared_by_messages_and_bookkeeping() {
    let config =
        read("[state]\nstore = 'sled'\n[limits]\nmemory = '16MiB'\n[store]\nbytes = '400MiB'").unwrap();
    let settings = config.hub_settings();
    assert!(settings.has_disk && !read("[state]\nstore = 'memory'").unwrap().hub_settings().has_disk);
    let share = settings.limits.kept_bytes as f64 / f64::from(400 << 20);
    assert!((0.2..=0.5).contains(&share), "{share}");
    assert_eq!(config.limits.hub.kept_bytes, 400 << 20, "what was asked for is shown");
    assert_eq!(config.warnings(), [""; 0]);
}

#[test]
fn a_shown_configuration_reads_back_the_same() {
    let odd = "[state]\ndirectory = \"/a \\\"b\\\\ \\u0007\\u007F é\"\n[limits]\nmessage_bytes = 1025\n";
    for text in ["", SAMPLE, odd] {
        let config = read(text).unwrap();
        assert_eq!(read(&config.show()), Ok(config.clone()), "{}", config.show());
    }
}

#[test]
fn the_example_file_has_every_default() {
    let example = include_str!("../../packaging/wshubd.toml");
    assert_eq!(read(example), Ok(defaults()), "as it is shipped");
    let option = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let uncommented: String =
        example.lines().filter(option).map(|line| format!("{}\n", &line[1..])).collect();
    let shown = uncommented.replace("\"60s\"", "\"1m\"");
    let shown = if STORE.is_built_in { shown } else { shown.replace("\"sled\"", "\"memory\"") };
    assert_eq!(shown, defaults().show().replace("\n\n", "\n"));
}

#[test]
fn drop_ins_are_laid_over_the_file_in_order_of_name() {
    let scratch = Scratch::new();
    scratch.write("wshubd.toml", "[limits]\nburst = 1\nsubscriptions = 1\n[auth]\nsubscribe = ['a', 'b']\n");
    scratch.write("conf.d/20-second.toml", "[limits]\nburst = 3\n[auth]\nsubscribe = ['c']\n");
    scratch.write("conf.d/10-first.toml", "[limits]\nburst = 2\nconnections = 2\n");
    scratch.write("conf.d/.hidden.toml", "[limits]\nburst = 99\n");
    scratch.write("conf.d/30-third.toml.bak", "[limits]\nburst = 99\n");
    let directory = scratch.0.to_str().unwrap();
    let mut variables = vec![("CONFIGURATION_DIRECTORY", directory)];
    let loaded = Config::load(None, &environment(&variables)).unwrap();
    let names: Vec<_> = loaded.files.iter().map(|file| file.file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["wshubd.toml", "10-first.toml", "20-second.toml"]);
    let limits = loaded.config.limits;
    assert_eq!((limits.hub.burst, limits.connections, limits.hub.subscriptions), (3, 2, 1));
    assert_eq!(loaded.config.auth.rights.subscribe.len(), 1, "a list is replaced");

    variables.push(("WSHUBD_LIMITS__BURST", "4"));
    let loaded = Config::load(None, &environment(&variables)).unwrap();
    assert_eq!(loaded.config.limits.hub.burst, 4, "the environment wins");

    fs::remove_file(scratch.0.join("wshubd.toml")).unwrap();
    let loaded = Config::load(None, &environment(&variables)).unwrap();
    assert_eq!(loaded.config.limits.connections, 2, "drop-ins do not need the file");

    let named = scratch.write("named.toml", "");
    let loaded = Config::load(Some(&named), &environment(&variables)).unwrap();
    assert_eq!(loaded.config.limits.connections, 10_000, "a named file stands alone");
}

#[test]
fn variables_hold_toml_or_plain_text() {
    let config = read_with(
        "[limits]\nburst = 3\n",
        &[
            ("WSHUBD_LISTEN__HTTP", "0.0.0.0:80"),
            ("WSHUBD_LISTEN__ALLOWED_HOSTS", "['a.example', \"b.example\"]"),
            ("WSHUBD_AUTH__KEYS", "[{ alg = 'HS512', file = '/k' }]"),
            ("WSHUBD_AUTH__ANONYMOUS", "true"),
            ("WSHUBD_AUTH__USER_CLAIM", "2024"),
            ("WSHUBD_STATE__DIRECTORY", "/2024"),
            ("WSHUBD_LIMITS__MESSAGE_BYTES", "1KiB"),
            ("WSHUBD_HEARTBEAT__PING_INTERVAL", "7"),
            ("WSHUBD_CHANNEL", "[{ match = 'a' }]"),
            ("WSHUBD_AUTH__SUBSCRIBE", "{user_id}:*"),
            ("WSHUBD_AUTH__INTERRUPT", "'a,b'"),
            ("OTHER_LIMITS__BURST", "9"),
        ],
    )
    .unwrap();
    assert_eq!(config.listen.http, ["0.0.0.0:80".parse().unwrap()]);
    assert_eq!(config.listen.allowed_hosts, ["a.example", "b.example"]);
    assert_eq!(config.auth.keys[0].alg, Alg::Hs512);
    assert_eq!(config.auth.claims.user.as_deref(), Some("2024"));
    assert_eq!(config.state.directory, Path::new("/2024"));
    assert_eq!((config.limits.hub.message_bytes, config.limits.hub.burst), (1024, 3));
    assert_eq!(config.heartbeat.ping_interval, Duration::from_secs(7));
    assert_eq!(config.channels.len(), 1);
    assert_eq!(config.auth.rights.subscribe, [Pattern::new("{user_id}:*")]);
    assert_eq!(config.auth.rights.interrupt, [Pattern::new("a,b")]);
    assert!(config.auth.anonymous);
    for address in ["[::1]:8098", "[::]:8098", "127.0.0.1:8098"] {
        let config = read_with("", &[("WSHUBD_LISTEN__HTTP", address)]).unwrap();
        assert_eq!(config.listen.http, [address.parse().unwrap()]);
    }
}

#[test]
fn a_feature_not_built_in_is_refused_with_its_line() {
    let cases = [
        (STORE, "[state]\nstore = 'sled'", "hub.toml:2: `state.store` cannot be \"sled\": "),
        (
            PUBLIC_KEYS,
            "[auth]\nkeys = [{ alg = 'EdDSA', file = '/k' }]",
            "hub.toml:2: `alg` cannot be \"EdDSA\": ",
        ),
    ];
    for (feature, text, message) in cases {
        let config = read(text);
        if feature.is_built_in {
            assert!(config.is_ok(), "{config:?}");
            continue;
        }
        let message = format!("{message}this wshubd was built without the feature `{}`", feature.name);
        assert_eq!(config.unwrap_err(), message);
    }
}

#[test]
fn a_named_file_must_exist() {
    let missing = Path::new("/nonexistent/hub.toml");
    let error = Config::load(Some(missing), &environment(&[])).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/hub.toml: cannot be read: "), "{error}");
    let scratch = Scratch::new();
    let latin = scratch.write("latin.toml", b"# a\n# \xe4\n");
    let error = Config::load(Some(&latin), &environment(&[])).unwrap_err();
    assert!(error.to_string().ends_with("latin.toml:2: is not UTF-8; save the file as that"), "{error}");
}

#[test]
fn unsafe_choices_are_warned_about() {
    let about = |text: &str| {
        let warnings = read(text).unwrap().warnings();
        warnings.iter().map(|text| text.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(about("[auth]\nanonymous = true"), [""; 0], "on loopback it is a choice");
    assert_eq!(about("[auth]\nrequire_exp = false"), ["auth.require_exp"]);
    let open = "[listen]\nhttp = ['0.0.0.0:80']\n[auth]\nquery_token = ";
    assert_eq!(about(&format!("{open}false")), [""; 0]);
    assert_eq!(about(&format!("{open}true")), ["auth.query_token"]);
    assert_eq!(about(&format!("{open}false\nanonymous = true")), ["auth.anonymous"]);
    assert_eq!(about("[listen]\nallowed_origins = ['*']"), ["listen.allowed_origins"]);
    assert_eq!(about("[listen]\ntrusted_proxies = ['10.0.0.0/8', '::/0']"), ["listen.trusted_proxies"]);
    // A file that is no directory of everybody's, and one that is.
    let scratch = Scratch::new();
    let socket = format!("[listen]\nworker = '{}/worker.sock'", scratch.0.display());
    assert_eq!(about(&socket), [""; 0]);
    for mode in [0o777, 0o1777] {
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(about(&socket), ["listen.worker"]);
    }
}

#[test]
fn a_socket_path_that_is_too_long_is_refused() {
    let with = |length: usize| read(&format!("[listen]\nworker = '/{}'", "s".repeat(length - 1)));
    assert_eq!(with(107).unwrap().listen.worker.as_os_str().len(), 107);
    let error = with(108).unwrap_err().to_string();
    assert!(error.contains("`listen.worker` wants a path of up to 107 bytes"), "{error}");
}

#[test]
fn the_nearest_variable_sets_the_state_directory() {
    let all = [("STATE_DIRECTORY", "/a:/b"), ("XDG_STATE_HOME", "/c"), ("HOME", "/d")];
    let expected = ["/a", "/c/wshubd", "/d/.local/state/wshubd", "/var/tmp/wshubd-7"];
    for (from, expected) in expected.iter().enumerate() {
        let environment = Environment::new(7, all[from..].iter().copied());
        assert_eq!(paths::state_directory(&environment), Path::new(expected));
    }
    let root = |from: usize| paths::state_directory(&Environment::new(0, all[from..].iter().copied()));
    assert_eq!([root(1), root(2)], [Path::new("/c/wshubd"), Path::new("/var/lib/wshubd")]);
    let relative = Environment::new(7, [("XDG_STATE_HOME", "c"), ("HOME", "")]);
    assert_eq!(paths::state_directory(&relative), Path::new("/var/tmp/wshubd-7"));
}

#[test]
fn the_worker_socket_is_searched_from_near_to_far() {
    let candidates = |variables: &[(&str, &str)]| {
        paths::worker_socket_candidates(&Environment::new(7, variables.iter().copied()))
    };
    let far =
        ["/run/user/7/wshubd", "/run/wshubd", "/tmp/wshubd-7"].map(|dir| Path::new(dir).join("worker.sock"));
    assert_eq!(candidates(&[]), far);
    assert_eq!(candidates(&[("XDG_RUNTIME_DIR", "/run/user/7")]), far);
    let near = candidates(&[("XDG_RUNTIME_DIR", "/x"), ("RUNTIME_DIRECTORY", "/r")]);
    assert_eq!(near[..2], ["/r/worker.sock", "/x/wshubd/worker.sock"].map(PathBuf::from));
    let named = Environment::new(7, [("XDG_RUNTIME_DIR", "/nonexistent/x")]);
    assert_eq!(paths::worker_socket(&named), Path::new("/nonexistent/x/wshubd/worker.sock"));
    // No user has this number, so that no directory of theirs is there.
    let nowhere = Environment::new(4_000_000_000, [("HOME", "/")]);
    assert_eq!(paths::worker_socket(&nowhere), Path::new("/tmp/wshubd-4000000000/worker.sock"));
}

#[test]
fn a_directory_in_a_shared_one_must_be_ours_alone() {
    use std::os::unix::fs::symlink;
    let scratch = Scratch::new();
    let made = scratch.0.join("a/b");
    paths::create_directory(&made, Purpose::State).unwrap();
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    paths::create_directory(&made, Purpose::State).unwrap();
    // In a directory of our own, others cannot have laid it out.
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&made, 0o755);
    paths::create_directory(&made, Purpose::State).unwrap();

    let common = scratch.0.join("common");
    fs::create_dir(&common).unwrap();
    mode(&common, 0o1777);
    paths::create_directory(&common.join("new"), Purpose::State).unwrap();
    paths::create_directory(&common.join("new"), Purpose::State).unwrap();
    mode(&common.join("new"), 0o755);
    assert!(paths::create_directory(&common.join("new"), Purpose::State).is_err());
    symlink(&made, common.join("link")).unwrap();
    let error = paths::create_directory(&common.join("link"), Purpose::State).unwrap_err().to_string();
    assert!(error.contains("common/link: lies where everybody may write"), "{error}");
    scratch.write("file", "");
    assert!(paths::create_directory(&scratch.0.join("file"), Purpose::State).is_err());
}
