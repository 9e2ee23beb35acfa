//! Configuration: what is read, what is laid over what, and what is refused.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod changes;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use log::LevelFilter;
use wshubd::config::owner::explained_to;
use wshubd::config::{Alg, Config, Environment, Loaded, Principal, StoreKind, places};
use wshubd::features::{PUBLIC_KEYS, STORE};
use wshubd::hub::Settings;
use wshubd::hub::settings::Disk;
use wshubd::hub::settings::{Keep, Limits};
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
[state]
directory = "/srv/wshubd"
store = "memory"
[auth]
anonymous = true
query_token = false
keys = [{ alg = "HS256", file = "/etc/wshubd/jwt.key", kid = "a" }, { alg = "HS512", file = "/etc/long.key" }]
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
    assert!(config.listen.metrics_open && config.auth.anonymous && !config.auth.query_token);
    assert_eq!((config.state.store, defaults().state.store), (StoreKind::Memory, StoreKind::default()));
    assert_eq!(config.auth.keys[0].kid.as_deref(), Some("a"));
    assert_eq!(config.auth.keys[1].alg, Alg::Hs512);
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
    assert_eq!((config.log, defaults().log), (LevelFilter::Warn, LevelFilter::Info));
    assert_eq!((config.log_access, defaults().log_access), (true, false));
    let disks: Vec<_> = config.channels.iter().map(|channel| channel.policy.disk).collect();
    assert_eq!(disks, [Disk::Behind, Disk::Behind, Disk::Never]);
}

#[test]
fn the_hub_is_told_what_concerns_it() {
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
fn kept_messages_leave_half_of_the_memory_to_those_who_are_connected() {
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
fn a_store_on_a_disk_holds_more_than_messages_and_no_memory() {
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
fn what_is_shown_and_read_again_is_the_same() {
    let odd = "[state]\ndirectory = \"/a \\\"b\\\\ \\u0007\\u007F é\"\n[limits]\nmessage_bytes = 1025\n";
    for text in ["", SAMPLE, odd] {
        let config = read(text).unwrap();
        assert_eq!(read(&config.show()), Ok(config.clone()), "{}", config.show());
    }
}

#[test]
fn the_example_file_says_every_default() {
    let example = include_str!("../../packaging/wshubd.toml");
    assert_eq!(read(example), Ok(defaults()), "as it is shipped");
    let option = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let uncommented: String =
        example.lines().filter(option).map(|line| format!("{}\n", &line[1..])).collect();
    let said = uncommented.replace("\"60s\"", "\"1m\"");
    let said = if STORE.is_built_in { said } else { said.replace("\"sled\"", "\"memory\"") };
    assert_eq!(said, defaults().show().replace("\n\n", "\n"));
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
fn the_environment_speaks_toml_or_plain_text() {
    let config = read_with(
        "[limits]\nburst = 3\n",
        &[
            ("WSHUBD_LISTEN__HTTP", "0.0.0.0:80"),
            ("WSHUBD_LISTEN__ALLOWED_HOSTS", "['a.example', \"b.example\"]"),
            ("WSHUBD_AUTH__KEYS", "[{ alg = 'HS512', file = '/k' }]"),
            ("WSHUBD_AUTH__ANONYMOUS", "true"),
            ("WSHUBD_STATE__DIRECTORY", "2024"),
            ("WSHUBD_LIMITS__MESSAGE_BYTES", "1KiB"),
            ("WSHUBD_HEARTBEAT__PING_INTERVAL", "7"),
            ("WSHUBD_CHANNEL", "[{ match = 'a' }]"),
            ("OTHER_LIMITS__BURST", "9"),
        ],
    )
    .unwrap();
    assert_eq!(config.listen.http, ["0.0.0.0:80".parse().unwrap()]);
    assert_eq!(config.listen.allowed_hosts, ["a.example", "b.example"]);
    assert_eq!(config.auth.keys[0].alg, Alg::Hs512);
    assert_eq!(config.state.directory, Path::new("2024"));
    assert_eq!((config.limits.hub.message_bytes, config.limits.hub.burst), (1024, 3));
    assert_eq!(config.heartbeat.ping_interval, Duration::from_secs(7));
    assert_eq!(config.channels.len(), 1);
    assert!(config.auth.anonymous);
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let wrong = [
        ("WSHUBD_LIMITS__BURTS", "1", "unknown key `limits.burts`, did you mean WSHUBD_LIMITS__BURST?"),
        ("WSHUBD_LIMTS__BURST", "1", "unknown key `limts`, did you mean `limits`?"),
        ("WSHUBD_BURST", "1", "unknown key `burst`, known are listen, state"),
        ("WSHUBD_", "1", "unknown key ``"),
        ("WSHUBD_LIMITS__BURST", "many", "`limits.burst` wants a whole number from 1"),
        ("WSHUBD_LIMITS", "7", "`limits` wants a table, not 7"),
        ("WSHUBD_AUTH__SUBSCRIBE", "['a", "not a TOML value"),
        ("WSHUBD_STATE__DIRECTORY", "", "`state.directory` wants a path"),
    ];
    for (name, value, message) in wrong {
        let error = read_with("", &[(name, value)]).unwrap_err();
        let expected = format!("{name} in the environment: {message}");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn a_mistake_names_its_line_and_what_is_wanted() {
    let wrong = [
        ("\n[limits]\nburts = 1", "hub.toml:3: unknown key `limits.burts`, did you mean `limits.burst`?"),
        ("[limit]\nburst = 1", "hub.toml:1: unknown key `limit`, did you mean `limits`?"),
        ("x = 1", "hub.toml:1: unknown key `x`, known are listen, state, auth,"),
        ("[limits]\nburst = 1\nburst = 2", "hub.toml:3: duplicate key"),
        ("[limits\n", "hub.toml:1: "),
        ("[limits]\nburst = 0", "hub.toml:2: `limits.burst` wants a whole number from 1 to 1000000, not 0"),
        ("[limits]\nburst = -1", "hub.toml:2: `limits.burst` wants a whole number"),
        ("[limits]\nburst = 1.5", "hub.toml:2: `limits.burst` wants a whole number"),
        ("[limits]\nburst = '5'", "hub.toml:2: `limits.burst` wants a whole number"),
        ("[limits]\nburst = 99999999999999999999", "hub.toml:2: `limits.burst` wants a whole number"),
        ("[limits]\nmessage_bytes = '10 parsecs'", "hub.toml:2: `limits.message_bytes` wants a size"),
        ("[limits]\nmemory = '1KiB'", "hub.toml:2: `limits.memory` wants a size from"),
        ("[limits]\nmessage_bytes = 10", "hub.toml:2: `limits.message_bytes` wants a size from"),
        ("[heartbeat]\nping_interval = '1 age'", "hub.toml:2: `heartbeat.ping_interval` wants a duration"),
        ("[heartbeat]\nping_interval = -1", "hub.toml:2: `heartbeat.ping_interval` wants a duration"),
        ("[heartbeat]\npong_timeout = 54", "hub.toml:2: `heartbeat.pong_timeout` (\"54s\") must be longer"),
        ("[auth]\nanonymous = 1", "hub.toml:2: `auth.anonymous` wants true or false, not 1"),
        ("[auth]\nsubscribe = [\n'a',\n7.5]", "hub.toml:4: `auth.subscribe` wants text, not 7.5"),
        ("[auth]\nsubscribe = ['']", "hub.toml:2: `auth.subscribe` wants a pattern"),
        (
            "[auth]\nkeys = [{ alg = 'none', file = '/k' }]",
            "hub.toml:2: `auth.keys.alg` wants one of \"HS256\"",
        ),
        ("[auth]\nkeys = [{ alg = 'HS256' }]", "hub.toml:2: a key of `auth.keys` wants `alg` and `file`"),
        ("[auth]\nkeys = [{ file = '/k' }]", "hub.toml:2: a key of `auth.keys` wants `alg` and `file`"),
        ("[auth]\nkeys = ['/k']", "hub.toml:2: `auth.keys` wants a table"),
        (
            "[[auth.keys]]\nalg = 'HS256'\nfile = '/k'\nkid = 'a'\n[[auth.keys]]\nalg = 'HS384'\nfile = '/l'\nkid = 'a'",
            "hub.toml:5: two keys have the `kid` \"a\"",
        ),
        ("[listen]\nhttp = ['localhost:80']", "hub.toml:2: `listen.http` wants an address and port"),
        ("[listen]\npaths = ['ws']", "hub.toml:2: `listen.paths` wants a path"),
        ("[listen]\npaths = ['/metrics']", "hub.toml:2: `listen.paths` wants a path that nothing else"),
        ("[listen]\npaths = []", "hub.toml:2: `listen.paths` wants at least one path"),
        ("[listen]\nallowed_origins = ['a.example/']", "hub.toml:2: `listen.allowed_origins` wants"),
        ("[listen]\nallowed_hosts = ['*']", "hub.toml:2: `listen.allowed_hosts` wants a host name"),
        (
            "[state]\nstore = 'redb'",
            "hub.toml:2: `state.store` wants one of \"sled\", \"memory\", not \"redb\"",
        ),
        ("[worker]\nallow = ['alice']", "hub.toml:2: `worker.allow` wants a user's number"),
        ("channel = 3", "hub.toml:1: `channel` wants a list of tables, not 3"),
        ("[[channel]]\nkeep = 'never'", "hub.toml:1: a `[[channel]]` wants `match`"),
        ("[[channel]]\nmatch = 'a'\nkep = 'never'", "hub.toml:3: unknown key `channel.kep`"),
        ("[[channel]]\nmatch = '@you'", "hub.toml:2: `channel.match` wants a pattern"),
        (
            "[[channel]]\nmatch = '@me'\nkeep = 'history'",
            "hub.toml:3: `channel.keep` wants one of \"unacknowledged\", \"never\", not \"history\"",
        ),
        ("[[channel]]\nmatch = 'a'\n[[channel]]\nmatch = 'a'", "hub.toml:3: an earlier `[[channel]]`"),
        ("[store]\nbytes = '3GiB'", "hub.toml:2: `store.bytes` wants a size"),
    ];
    for (text, message) in wrong {
        let error = read(text).expect_err(text);
        assert!(error.starts_with(message), "{text:?} gave {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn what_was_not_built_in_is_refused_by_its_line() {
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
fn all_mistakes_are_told_at_once() {
    let error = read("[limits]\nburst = 0\nsubscriptions = 0\n[heart]\n").unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let missing = Path::new("/nonexistent/hub.toml");
    let error = Config::load(Some(missing), &environment(&[])).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/hub.toml: cannot be read: "), "{error}");
    let scratch = Scratch::new();
    let latin = scratch.write("latin.toml", b"# \xe4\n");
    let error = Config::load(Some(&latin), &environment(&[])).unwrap_err();
    assert!(error.to_string().ends_with("latin.toml: is not UTF-8"), "{error}");
}

#[test]
fn unsafe_choices_are_warned_about() {
    let about = |text: &str| {
        let warnings = read(text).unwrap().warnings();
        warnings.iter().map(|text| text.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(about("[auth]\nanonymous = true"), [""; 0], "on loopback it is a choice");
    let open = "[listen]\nhttp = ['0.0.0.0:80']\n[auth]\nquery_token = ";
    assert_eq!(about(&format!("{open}false")), [""; 0]);
    assert_eq!(about(&format!("{open}true")), ["auth.query_token"]);
    assert_eq!(about(&format!("{open}false\nanonymous = true")), ["auth.anonymous"]);
    assert_eq!(about("[listen]\nallowed_origins = ['*']"), ["listen.allowed_origins"]);
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
fn a_path_that_no_socket_can_have_is_refused_by_its_length() {
    let with = |length: usize| read(&format!("[listen]\nworker = '/{}'", "s".repeat(length - 1)));
    assert_eq!(with(107).unwrap().listen.worker.as_os_str().len(), 107);
    let error = with(108).unwrap_err().to_string();
    assert!(error.contains("`listen.worker` wants a path of up to 107 bytes"), "{error}");
}

#[test]
fn a_closed_directory_is_told_with_whose_it_is() {
    let scratch = Scratch::new();
    let denied = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let (own, stranger) = (rustix::process::geteuid().as_raw(), 4_000_000_000);
    // What is not there is for the directory that would hold it to allow.
    let path = scratch.0.join("none/deeper");
    assert_eq!(explained_to(&denied, &path, own), denied.to_string(), "nothing is somebody else's");
    let told = explained_to(&denied, &path, stranger);
    assert!(told.contains(&format!("{} belongs to ", scratch.0.display())), "{told}");
    assert!(told.contains(&format!("uid {own}")), "{told}");
    assert!(told.ends_with("and this process runs as uid 4000000000"), "{told}");
    let roots = explained_to(&denied, Path::new("/proc/1/fd/0"), stranger);
    assert!(roots.contains("belongs to root (uid 0)"), "{roots}");
    let other = std::io::Error::from(std::io::ErrorKind::NotFound);
    assert_eq!(explained_to(&other, &path, stranger), other.to_string());
}

#[test]
fn state_is_kept_where_the_nearest_variable_says() {
    let all = [("STATE_DIRECTORY", "/a:/b"), ("XDG_STATE_HOME", "/c"), ("HOME", "/d")];
    let expected = ["/a", "/c/wshubd", "/d/.local/state/wshubd", "/var/tmp/wshubd-7"];
    for (from, expected) in expected.iter().enumerate() {
        let environment = Environment::new(7, all[from..].iter().copied());
        assert_eq!(places::state_directory(&environment), Path::new(expected));
    }
    let root = |from: usize| places::state_directory(&Environment::new(0, all[from..].iter().copied()));
    assert_eq!([root(1), root(2)], [Path::new("/c/wshubd"), Path::new("/var/lib/wshubd")]);
    let relative = Environment::new(7, [("XDG_STATE_HOME", "c"), ("HOME", "")]);
    assert_eq!(places::state_directory(&relative), Path::new("/var/tmp/wshubd-7"));
}

#[test]
fn the_worker_socket_is_looked_for_from_near_to_far() {
    let candidates = |variables: &[(&str, &str)]| {
        places::worker_socket_candidates(&Environment::new(7, variables.iter().copied()))
    };
    let far =
        ["/run/user/7/wshubd", "/run/wshubd", "/tmp/wshubd-7"].map(|dir| Path::new(dir).join("worker.sock"));
    assert_eq!(candidates(&[]), far);
    assert_eq!(candidates(&[("XDG_RUNTIME_DIR", "/run/user/7")]), far);
    let near = candidates(&[("XDG_RUNTIME_DIR", "/x"), ("RUNTIME_DIRECTORY", "/r")]);
    assert_eq!(near[..2], ["/r/worker.sock", "/x/wshubd/worker.sock"].map(PathBuf::from));
    let named = Environment::new(7, [("XDG_RUNTIME_DIR", "/nonexistent/x")]);
    assert_eq!(places::worker_socket(&named), Path::new("/nonexistent/x/wshubd/worker.sock"));
    // No user has this number, so that no directory of theirs is there.
    let nowhere = Environment::new(4_000_000_000, [("HOME", "/")]);
    assert_eq!(places::worker_socket(&nowhere), Path::new("/tmp/wshubd-4000000000/worker.sock"));
}

#[test]
fn a_directory_among_everybodys_must_be_ours_alone() {
    use std::os::unix::fs::symlink;
    let scratch = Scratch::new();
    let made = scratch.0.join("a/b");
    places::create_directory(&made).unwrap();
    assert_eq!(fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
    places::create_directory(&made).unwrap();
    // In a directory of our own, others cannot have laid it out.
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&made, 0o755);
    places::create_directory(&made).unwrap();

    let common = scratch.0.join("common");
    fs::create_dir(&common).unwrap();
    mode(&common, 0o1777);
    places::create_directory(&common.join("new")).unwrap();
    places::create_directory(&common.join("new")).unwrap();
    mode(&common.join("new"), 0o755);
    assert!(places::create_directory(&common.join("new")).is_err());
    symlink(&made, common.join("link")).unwrap();
    let error = places::create_directory(&common.join("link")).unwrap_err().to_string();
    assert!(error.contains("common/link: lies where everybody may write"), "{error}");
    scratch.write("file", "");
    assert!(places::create_directory(&scratch.0.join("file")).is_err());
}
