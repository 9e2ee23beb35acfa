//! What is refused, and the words for it: the line or variable, what is wanted, and what
//! to write instead.

use proptest::prelude::*;

use super::{defaults, read, read_with};

/// Each text is refused with one line, which begins so.
fn refused(wrong: &[(&str, &str)]) {
    for (text, message) in wrong {
        let error = read(text).expect_err(text);
        assert!(error.starts_with(message), "{text:?} gave {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    let wrong = [
        ("WSHUBD_LIMITS__BURTS", "1", "unknown key `limits.burts`, did you mean WSHUBD_LIMITS__BURST?"),
        ("WSHUBD_LIMTS__BURST", "1", "unknown key `limts`, did you mean WSHUBD_LIMITS__BURST?"),
        ("WSHUBD_LISTEN__BURST", "1", "unknown key `listen.burst`, did you mean WSHUBD_LIMITS__BURST?"),
        ("WSHUBD_HUB__BURST", "1", "unknown key `hub`, known are listen, state, auth,"),
        ("WSHUBD_LIMITS_BURST", "1", "sets nothing, did you mean WSHUBD_LIMITS__BURST?"),
        ("WSHUBD_BURST", "1", "sets nothing, did you mean WSHUBD_LIMITS__BURST?"),
        (
            "WSHUBD_LISTEN__HTTPS",
            "127.0.0.1:1",
            "unknown key `listen.https`, did you mean WSHUBD_LISTEN__HTTP?",
        ),
        ("WSHUBD_LISTEN__PORT", "9000", "unknown key `listen.port`, "),
        ("WSHUBD_LIMITS__BURST", "many", "`limits.burst` wants a whole number from 1"),
        (
            "WSHUBD_LIMITS",
            "7",
            "`limits` wants a table, or one of its options in a variable such as WSHUBD_LIMITS__",
        ),
        ("WSHUBD_AUTH__SUBSCRIBE", "['a", "not a TOML value"),
        ("WSHUBD_AUTH__SUBSCRIBE", "[a, b]", "not a TOML value"),
        ("WSHUBD_AUTH__SUBSCRIBE", "\"a", "not a TOML value"),
        (
            "WSHUBD_AUTH__SUBSCRIBE",
            "a:*,b:*",
            "`auth.subscribe` wants a list as in TOML, '[\"a\", \"b\"]', or one",
        ),
        (
            "WSHUBD_LISTEN__HTTP",
            "127.0.0.1:1,[::1]:1",
            "`listen.http` wants a list as in TOML, '[\"a\", \"b\"]'",
        ),
        ("WSHUBD_LISTEN__HTTP", "[::1]:1,[::1]:2", "`listen.http` wants a list as in TOML, '[\"a\", \"b\"]'"),
        ("WSHUBD_CHANNEL", "{ match = 'a", "not a TOML value"),
        ("WSHUBD_STATE__DIRECTORY", "", "`state.directory` wants an absolute path, not "),
    ];
    for (name, value, message) in wrong {
        let error = read_with("", &[(name, value)]).expect_err(name);
        let expected = format!("{name} in the environment: {message}");
        assert!(error.starts_with(&expected), "{error}");
    }
}

#[test]
fn a_foreign_variable_sets_nothing_and_is_reported_once() {
    let scratch = super::Scratch::new();
    let file = scratch.write("hub.toml", "");
    let foreign = [("WSHUBD_PORT", "tcp://10.0.0.1:8098"), ("WSHUBD_VERSION", "0.1.0")];
    let loaded = wshubd::config::Config::load(Some(&file), &super::environment(&foreign)).unwrap();
    assert_eq!(loaded.config, defaults());
    let warning = loaded.foreign_variables().unwrap();
    assert!(warning.starts_with("WSHUBD_PORT, WSHUBD_VERSION in the environment: ignored"), "{warning}");
    let loaded = wshubd::config::Config::load(Some(&file), &super::environment(&[])).unwrap();
    assert_eq!(loaded.foreign_variables(), None);
}

#[test]
fn a_mistake_names_its_line_and_what_is_wanted() {
    refused(&[
        ("[limits]\nburst = 0", "hub.toml:2: `limits.burst` wants a whole number from 1 to 1000000, not 0"),
        ("[limits]\nburst = -1", "hub.toml:2: `limits.burst` wants a whole number"),
        ("[limits]\nburst = 1.5", "hub.toml:2: `limits.burst` wants a whole number"),
        ("[limits]\nburst = '5'", "hub.toml:2: `limits.burst` wants a whole number"),
        ("[limits]\nburst = 99999999999999999999", "hub.toml:2: `limits.burst` wants a whole number"),
        ("[limits]\nerrors = 101", "hub.toml:2: `limits.errors` wants a whole number from 1 to 100, not 101"),
        ("[limits]\nerrors_window = 0", "hub.toml:2: `limits.errors_window` wants a duration from \"1s\""),
        ("[limits]\nmessage_bytes = '10 parsecs'", "hub.toml:2: `limits.message_bytes` wants a size"),
        ("[limits]\nmemory = '1KiB'", "hub.toml:2: `limits.memory` wants a size from"),
        ("[limits]\nmessage_bytes = 10", "hub.toml:2: `limits.message_bytes` wants a size from"),
        ("[heartbeat]\nping_interval = '1 age'", "hub.toml:2: `heartbeat.ping_interval` wants a duration"),
        ("[heartbeat]\nping_interval = -1", "hub.toml:2: `heartbeat.ping_interval` wants a duration"),
        ("[heartbeat]\npong_timeout = 54", "hub.toml:2: `heartbeat.pong_timeout` (\"54s\") must be longer"),
        ("[auth]\nanonymous = 1", "hub.toml:2: `auth.anonymous` wants true or false, not 1"),
        (
            "[auth]\nanonymous = 'true'",
            "hub.toml:2: `auth.anonymous` wants true or false, without quotes, not \"true\"",
        ),
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
        (
            "[listen]\nhttp = ['[::1]:80', '[::1]:80']",
            "hub.toml:2: `listen.http` wants each of its entries once",
        ),
        ("[listen]\nallowed_origins = ['a.example/']", "hub.toml:2: `listen.allowed_origins` wants"),
        ("[listen]\nallowed_hosts = ['*']", "hub.toml:2: `listen.allowed_hosts` wants a host name"),
        (
            "[state]\nstore = 'redb'",
            "hub.toml:2: `state.store` wants one of \"sled\", \"memory\", not \"redb\"",
        ),
        ("[worker]\nallow = ['alice']", "hub.toml:2: `worker.allow` wants a user's number"),
        ("channel = 3", "hub.toml:1: `channel` wants a list of tables, not 3"),
        ("[[channel]]\nkeep = 'never'", "hub.toml:1: a `[[channel]]` wants `match`"),
        ("[[channel]]\nmatch = '@you'", "hub.toml:2: `channel.match` wants a pattern"),
        (
            "[[channel]]\nmatch = '@me'\nkeep = 'history'",
            "hub.toml:3: `channel.keep` wants one of \"unacknowledged\", \"never\", not \"history\"",
        ),
        ("[[channel]]\nmatch = 'a'\n[[channel]]\nmatch = 'a'", "hub.toml:3: an earlier `[[channel]]`"),
        ("[store]\nbytes = '3GiB'", "hub.toml:2: `store.bytes` wants a size"),
    ]);
}

#[test]
fn an_address_says_how_several_and_all_are_written() {
    let of = |text: &str| read(&format!("[listen]\nhttp = \"{text}\"")).unwrap_err();
    assert!(of("127.0.0.1:1,[::1]:1").contains("; several are a list, such as [\"127.0.0.1:8098\", "));
    assert!(of(":8098").contains("; \"0.0.0.0:8098\" and \"[::]:8098\" are all that the machine has"));
    assert!(of("*:8098").contains("; \"0.0.0.0:8098\" and \"[::]:8098\" are all that the machine has"));
}

#[test]
fn a_key_that_does_not_exist_names_the_one_that_does() {
    refused(&[
        ("\n[limits]\nburts = 1", "hub.toml:3: unknown key `limits.burts`, did you mean `limits.burst`?"),
        ("[limit]\nburst = 1", "hub.toml:1: unknown section `[limit]`, did you mean `[limits]`?"),
        ("[Limits]\nburst = 1", "hub.toml:1: unknown section `[Limits]`, did you mean `[limits]`?"),
        ("[hub]\nburst = 1", "hub.toml:1: unknown section `[hub]`, known are listen, state, auth,"),
        ("x = 1", "hub.toml:1: unknown key `x`, known are listen, state, auth,"),
        // As in the example, where the section was left commented out.
        ("burst = 1", "hub.toml:1: unknown key `burst`, which belongs below `[limits]`"),
        (
            "[listen]\nanonymous = true",
            "hub.toml:2: unknown key `listen.anonymous`, which belongs below `[auth]`",
        ),
        (
            "[limits]\nbytes = 1",
            "hub.toml:2: unknown key `limits.bytes`, which belongs below `[[channel]]` or `[store]`",
        ),
        (
            "[[channel]]\nmatch = 'a'\nkep = 'never'",
            "hub.toml:3: unknown key `channel.kep`, did you mean `channel.keep`?",
        ),
        (
            "[auth]\nkeys = [{ alg = 'HS256', fil = '/k', file = '/k' }]",
            "hub.toml:2: unknown key `auth.keys.fil`, did you",
        ),
    ]);
}

#[test]
fn text_without_quotes_is_shown_with_them() {
    let of = |setting: &str, wanted: &str| {
        let error = read(&format!("[listen]\n{setting}\n")).expect_err(setting);
        assert_eq!(error, format!("hub.toml:2: {wanted}"), "{setting}");
    };
    of("http = 127.0.0.1:9000", "text needs quotes: http = \"127.0.0.1:9000\"");
    of("http = 127.0.0.1:9000 # mine", "text needs quotes: http = \"127.0.0.1:9000\"");
    of("http = [::1]:8098", "text needs quotes: http = \"[::1]:8098\"");
    of("http = localhost", "text needs quotes: http = \"localhost\"");
    of("worker = /run/wshubd/worker.sock", "text needs quotes: worker = \"/run/wshubd/worker.sock\"");
    of("message_bytes = 512KiB", "text needs quotes: message_bytes = \"512KiB\"");
    of("ttl = 24h", "text needs quotes: ttl = \"24h\"");
    of("ttl=1.5s", "text needs quotes: ttl = \"1.5s\"");
    of("match = orders:*", "text needs quotes: match = \"orders:*\"");
    of("level = info", "text needs quotes: level = \"info\"");
    of("file = C:\\key", "text needs quotes: file = 'C:\\key'");
    of("anonymous = yes", "yes is spelled true: anonymous = true");
    of("anonymous = True", "yes is spelled true: anonymous = true");
    of("anonymous = off", "no is spelled false: anonymous = false");
    of("http = “a”", "text needs straight quotes: http = \"a\"");
    of("http =", "`http` has no value");
    let list = "text needs quotes, and a list brackets: http = [\"127.0.0.1:1\", \"[::1]:1\"]";
    of("http = [127.0.0.1:1, [::1]:1]", list);
    of("http = 127.0.0.1:1, [::1]:1", list);
    of("http: 127.0.0.1:1", "a key and its value are joined by `=`: http = \"127.0.0.1:1\"");
    of("metrics_open: true", "a key and its value are joined by `=`: metrics_open = true");
    // What nobody can guess is told in the parser's words.
    of("burst = 012", "unexpected leading zero, expected nothing");
    of("http = \"a", "invalid basic string, expected `\"`");
    let error = read("[listen]\nhttp = [\n  127.0.0.1:1,\n]\n").unwrap_err();
    assert_eq!(error, "hub.toml:3: text needs quotes: \"127.0.0.1:1\"");
}

#[test]
fn a_duplicate_names_the_line_of_the_first() {
    refused(&[
        ("[limits]\nburst = 1\n# x\nburst = 2", "hub.toml:4: duplicate key `burst`, which is set on line 2"),
        (
            "[auth]\nburst = 1\n[limits]\nburst = 1\nburst = 2",
            "hub.toml:5: duplicate key `burst`, which is set on line 4",
        ),
        (
            "[limits]\nburst = 1\n[auth]\n[limits] # again\nsubscriptions = 2",
            "hub.toml:4: duplicate table `[limits]`, which begins on line 1: put their keys together",
        ),
        (
            "[channel]\nmatch = 'a'\n[channel]\nmatch = 'b'",
            "hub.toml:3: duplicate table `[channel]`: each entry begins with",
        ),
        (
            "[channel]\nmatch = 'a'",
            "hub.toml:1: `channel` wants a list of tables, each below `[[channel]]`, not a table",
        ),
        (
            "[auth.keys]\nalg = 'HS256'",
            "hub.toml:1: `auth.keys` wants a list of tables, each below `[[auth.keys]]`",
        ),
        ("[[limits]]\nburst = 1", "hub.toml:1: `limits` wants one table, below `[limits]`, not a list"),
        ("[limits\n", "hub.toml:1: "),
    ]);
}

#[test]
fn a_path_that_cannot_be_an_endpoint_names_its_line() {
    let of = |paths: &str, wanted: &str| {
        let error = read(&format!("[listen]\npaths = {paths}\n")).expect_err(paths);
        assert!(error.starts_with(&format!("hub.toml:2: `listen.paths` wants {wanted}")), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    for taken in [
        "/broadcast",
        "/api/v1/broadcast",
        "/interrupt",
        "/api/v1/interrupt",
        "/api/v1/ws/stats",
        "/metrics",
        "/healthz",
    ] {
        of(&format!("['{taken}']"), "a path that nothing else answers on");
    }
    for reserved in ["/api/v1/lines", "/api/v1/stream"] {
        of(&format!("['/ws', '{reserved}']"), "a path that is not reserved for requests of HTTP");
    }
    of("['ws']", "a path such as \"/ws\", which begins with \"/\"");
    of("['/ws?a=b']", "a path such as \"/ws\", without a query");
    of("['/ws#a']", "a path such as \"/ws\", without a fragment");
    of("['/w%73']", "a path such as \"/ws\", without \"%\"");
    of("['/w s']", "a path such as \"/ws\", of visible ASCII characters");
    of("['/ws', '/ws']", "each of its entries once");
    of("[]", "at least one path");
    assert_eq!(read("[listen]\npaths = ['/', '/a/ws/']").unwrap().listen.paths, ["/", "/a/ws/"]);
}

#[test]
fn files_of_other_systems_are_read_as_they_are() {
    let plain = read("[limits]\nburst = 7\n").unwrap();
    for text in ["\u{feff}[limits]\nburst = 7\n", "[limits]\r\nburst = 7\r\n", "[limits]\n\tburst\t=\t7\t\n"]
    {
        assert_eq!(read(text), Ok(plain.clone()), "{text:?}");
    }
}

#[test]
fn a_mistake_in_required_claims_names_its_line() {
    let cases = [
        (
            "[auth]\nuser_claim = 'iss'",
            "hub.toml:2: `auth.user_claim` wants a claim that names the user, such as",
        ),
        ("[auth]\nuser_claim = ['sub']", "hub.toml:2: `auth.user_claim` wants text, not a list"),
        (
            "[auth]\nissuer = ['us',\n'']",
            "hub.toml:3: `auth.issuer` wants text as the claim has it, not \"\"",
        ),
        ("[auth]\naudience = {}", "hub.toml:2: `auth.audience` wants text, not a table"),
        (
            "[auth]\nrequire_exp = 'no'",
            "hub.toml:2: `auth.require_exp` wants true or false, without quotes, not \"no\"",
        ),
        (
            "[auth]\nuserclaim = 'sub'",
            "hub.toml:2: unknown key `auth.userclaim`, did you mean `auth.user_claim`?",
        ),
    ];
    for (text, message) in cases {
        let error = read(text).unwrap_err();
        assert!(error.starts_with(message), "{text}: {error}");
    }
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let error = read("[limits]\nburst = 0\nsubscriptions = 0\n[heart]\n").unwrap_err();
    assert_eq!(error.lines().count(), 3, "{error}");
}

/// Every option of a file, with its section; those of [[channel]] stand for themselves.
fn options() -> Vec<(String, String)> {
    let mut section = String::new();
    let mut options = Vec::new();
    for line in defaults().show().lines() {
        match line.split_once(" = ") {
            Some((key, _)) => options.push((section.clone(), key.to_owned())),
            None if line.starts_with('[') => section = line.trim_matches(['[', ']']).to_owned(),
            None => {}
        }
    }
    options
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// One letter too many, too few or another is an error with its line, and the key that
    /// was meant is in it, unless that makes another key.
    #[test]
    fn a_mistyped_key_is_never_taken_and_names_what_was_meant(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        letter in "[a-z_]",
        kind in 0..3,
    ) {
        let options = options();
        let (section, key) = which.get(&options);
        let at = at.index(key.len());
        let typed = match kind {
            0 => format!("{}{letter}{}", &key[..at], &key[at..]),
            1 => format!("{}{}", &key[..at], &key[at + 1..]),
            _ => format!("{}{letter}{}", &key[..at], &key[at + 1..]),
        };
        prop_assume!(!typed.is_empty() && !options.iter().any(|(_, key)| *key == typed));
        let error = read(&format!("[{section}]\n{typed} = 1\n")).unwrap_err();
        prop_assert!(error.starts_with(&format!("hub.toml:2: unknown key `{section}.{typed}`, ")), "{}", error);
        // Of two that are as near the other may be named.
        let names = |key: &str| error.ends_with(&format!("did you mean `{section}.{key}`?"));
        prop_assert!(options.iter().any(|(of, key)| of == section && names(key)), "{}", error);

        let variable = format!("WSHUBD_{}__{}", section.to_uppercase(), typed.to_uppercase());
        prop_assert!(read_with("", &[(&variable, "1")]).is_err());
    }

    /// Whatever stands in a file, it is a configuration or a line that says why it is none.
    #[test]
    fn any_line_is_read_or_reported_with_its_number(key in "[a-z_]{1,12}", value in "\\PC{0,24}") {
        if let Err(error) = read(&format!("[limits]\n{key} = {value}\n")) {
            prop_assert!(error.lines().all(|line| line.starts_with("hub.toml:2: ")), "{}", error);
        }
    }
}

#[test]
fn a_secret_where_the_name_of_its_file_belongs_is_not_repeated() {
    let hex = "0123456789abcdef".repeat(4);
    let base64 = "k3J9/QwX7Zr0uT5vLm2NaYb8CdEfGhIjKlMnOpQrS0=";
    let rooted = format!("/{hex}");
    for secret in [&*hex, base64, &rooted, "hunter2-and-more-words", "correct horse battery", "ours.key"] {
        let bytes = secret.len();
        let wanted = "wants the path of a file that holds it, such as";
        let (of_secrets, of_file) = ("`auth.broadcast_secrets`", "`auth.keys.file`");
        let (found, of_keys) = (format!(", not text of {bytes} bytes"), "`auth.keys` wants a list of tables");
        let table = "wants a table, such as { alg = \"HS256\"";
        for (text, begins) in [
            (
                format!("[auth]\nbroadcast_secrets = [{secret:?}]"),
                format!("hub.toml:2: {of_secrets} {wanted}"),
            ),
            (format!("[auth]\nbroadcast_secrets = {secret:?}"), format!("hub.toml:2: {of_secrets} {wanted}")),
            (
                format!("[auth]\nbroadcast_secrets = ['/a',\n{secret:?}]"),
                format!("hub.toml:3: {of_secrets}, number 2, {wanted}"),
            ),
            (format!("[auth]\nkeys = [{secret:?}]"), format!("hub.toml:2: `auth.keys` {table}")),
            (
                format!("[auth]\nkeys = [{{ alg = 'HS256', file = '/a' }}, {secret:?}]"),
                format!("hub.toml:2: `auth.keys`, number 2, {table}"),
            ),
            (format!("[auth]\nkeys = {secret:?}"), format!("hub.toml:2: {of_keys}")),
            (
                format!("[auth]\nkeys = [{{ alg = 'HS256', file = {secret:?} }}]"),
                format!("hub.toml:2: {of_file} {wanted}"),
            ),
            (
                format!(
                    "[[auth.keys]]\nalg = 'HS256'\nfile = '/a'\n[[auth.keys]]\nalg = 'HS256'\nfile = {secret:?}"
                ),
                format!("hub.toml:6: {of_file}, number 2, {wanted}"),
            ),
        ] {
            let error = read(&text).expect_err(&text);
            assert!(error.starts_with(&begins) && error.ends_with(&found), "{error}");
            assert!(!error.contains(secret) && error.lines().count() == 1, "{error}");
        }
        for name in ["WSHUBD_AUTH__BROADCAST_SECRETS", "WSHUBD_AUTH__KEYS", "WSHUBD_AUTH"] {
            let error = read_with("", &[(name, secret)]).expect_err(name);
            assert!(error.starts_with(name) && error.ends_with(&found), "{error}");
            assert!(!error.contains(secret), "{error}");
        }
    }
    let number = read("[auth]\nbroadcast_secrets = [1234567890123456]").expect_err("a number");
    assert!(number.ends_with(", not a number"), "{number}");
}

#[test]
fn a_secret_without_quotes_is_not_repeated_either() {
    let hex = "0123456789abcdef".repeat(4);
    let base64 = "k3J9QwX7Zr0uT5vLm2NaYb8CdEfGhIjKlMnOpQrS0==";
    for secret in [&*hex, base64, "hunter2-and-more"] {
        for text in [
            format!("[auth]\nbroadcast_secrets = {secret}"),
            format!("[auth]\nbroadcast_secrets = [{secret}]"),
            format!("[auth]\nbroadcast_secrets = [{secret}, {secret}]"),
            format!("[auth]\nbroadcast_secrets = [\n  {secret},\n]"),
            format!("[auth]\nbroadcast_secrets = [ # all\n  \"/a\",\n  {secret}\n]"),
            format!("[auth]\nbroadcast_secrets: {secret}"),
            format!("[auth]\njwt_secret = {secret}"),
            format!("[auth]\njwt_secret = “{secret}”"),
            format!("[auth]\nkeys = [{{ alg = HS256, file = {secret} }}]"),
            format!("[[auth.keys]]\nfile = {secret}"),
            format!("[auth]\ntoken = yes {secret}"),
        ] {
            let error = read(&text).expect_err(&text);
            assert!(error.starts_with("hub.toml:") && !error.contains(secret), "{text}: {error}");
        }
    }
    for text in
        [format!("[listen]\n{hex}"), format!("[listen]\n{base64}"), format!("[listen]\nhttp = {hex}x")]
    {
        let error = read(&text).expect_err(&text);
        assert!(!error.contains(&hex) && !error.contains(base64), "{error}");
    }
    // The advice is as good as before.
    refused(&[
        (
            "[auth]\nbroadcast_secrets = [/a/b, c]",
            "hub.toml:2: text needs quotes, and a list brackets: broadcast_secrets = [\"/a/b\", \"…\"]",
        ),
        ("[auth]\nquery_token = yes", "hub.toml:2: yes is spelled true: query_token = true"),
        ("[state]\ndirectory = /var/lib", "hub.toml:2: text needs quotes: directory = \"/var/lib\""),
    ]);
}
