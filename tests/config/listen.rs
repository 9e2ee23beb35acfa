//! Mistakes in `[listen]`.

use super::{read, read_with};

#[test]
fn a_mistake_in_listen_names_its_line_and_what_is_wanted() {
    let wrong = [
        ("[listen]\nhttp = ['localhost:80']", "hub.toml:2: `listen.http` wants an address and port"),
        ("[listen]\npaths = ['ws']", "hub.toml:2: `listen.paths` wants a path"),
        ("[listen]\npaths = ['/metrics']", "hub.toml:2: `listen.paths` wants a path that nothing else"),
        ("[listen]\npaths = []", "hub.toml:2: `listen.paths` wants at least one path"),
        ("[listen]\nallowed_origins = ['a.example/']", "hub.toml:2: `listen.allowed_origins` wants"),
        (
            "[listen]\nallowed_origins = [\n'null',\n'https://*']",
            "hub.toml:4: `listen.allowed_origins` wants at least two",
        ),
        (
            "[listen]\ntrusted_proxies = ['proxy']",
            "hub.toml:2: `listen.trusted_proxies` wants an address or a network",
        ),
        (
            "[listen]\ntrusted_proxies = ['10.0.0.0/33']",
            "hub.toml:2: `listen.trusted_proxies` wants an address or a",
        ),
        (
            "[listen]\ntrusted_proxies = [\n'::1',\n'10.1.2.3/8']",
            "hub.toml:4: `listen.trusted_proxies` wants \"10.0.0.0/8\" for the network or \"10.1.2.3\" for the one address",
        ),
        (
            "[listen]\nforwarded = 'x-real-ip'",
            "hub.toml:2: `listen.forwarded` wants one of \"x-forwarded-for\", \"forwarded\"",
        ),
        ("[listen]\nallowed_hosts = ['*']", "hub.toml:2: `listen.allowed_hosts` wants a host name"),
    ];
    for (text, message) in wrong {
        let error = read(text).expect_err(text);
        assert!(error.starts_with(message), "{text:?} gave {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

#[test]
fn overlapping_addresses_are_refused_with_both() {
    let both = |one: &str, other: &str| read(&format!("[listen]\nhttp = [\n{one:?},\n{other:?}]"));
    for (all, one) in [
        ("0.0.0.0:80", "127.0.0.1:80"),
        ("[::]:80", "[::1]:80"),
        ("[::]:80", "[::ffff:127.0.0.1]:80"),
        ("0.0.0.0:80", "[::ffff:127.0.0.1]:80"),
        ("127.0.0.1:80", "[::ffff:127.0.0.1]:80"),
    ] {
        for (first, second) in [(all, one), (one, all)] {
            let error = both(first, second).unwrap_err();
            let expected =
                format!("hub.toml:4: `listen.http` wants no address that is among those of \"{first}\"");
            assert!(error.starts_with(&expected), "{error}");
            assert!(error.ends_with(&format!("(leave out one of the two), not \"{second}\"")), "{error}");
        }
    }
    for (one, other) in [
        ("0.0.0.0:80", "[::]:80"),
        ("127.0.0.1:80", "[::]:80"),
        ("127.0.0.1:80", "127.0.0.2:80"),
        ("127.0.0.1:80", "[::1]:80"),
        ("0.0.0.0:80", "127.0.0.1:81"),
        ("[fe80::1%1]:80", "[fe80::1%2]:80"),
    ] {
        both(one, other).unwrap();
        both(other, one).unwrap();
    }
    // The kernel chooses a port for each.
    both("0.0.0.0:0", "127.0.0.1:0").unwrap();
}

#[test]
fn a_relative_path_is_refused_with_the_absolute_one() {
    let here = std::env::current_dir().unwrap();
    // Beside the file, whose directory the messages here leave out.
    let cases = [
        ("~/x", "\"/home/ada/x\""),
        ("~", "\"/home/ada\""),
        ("$HOME/x", "\"/home/ada/x\""),
        ("${HOME}/x", "\"/home/ada/x\""),
        ("x/./y/../z", "\"x/z\""),
        ("./hub.toml", "\"hub.toml\""),
        ("src/lib.rs", &format!("{:?}", here.join("src/lib.rs"))),
    ];
    for (line, option, before, after) in [
        (2, "listen.worker", "[listen]\nworker = ", ""),
        (2, "state.directory", "[state]\ndirectory = ", ""),
        (3, "auth.keys.file", "[[auth.keys]]\nalg = 'HS256'\nfile = ", ""),
        (2, "auth.broadcast_secrets", "[auth]\nbroadcast_secrets = [", "]"),
    ] {
        // What has not the shape of a path and is none may be the secret itself.
        let may_be_secret = |path: &str| option.starts_with("auth.") && ["x/./y/../z", "~"].contains(&path);
        for (path, meant) in cases {
            if may_be_secret(path) {
                continue;
            }
            let text = format!("{before}'{path}'{after}");
            let error = read_with(&text, &[("HOME", "/home/ada")]).unwrap_err();
            let expected =
                format!("hub.toml:{line}: `{option}` wants an absolute path, probably {meant}, not {path:?}");
            assert_eq!(error, expected);
        }
        for path in ["~bob/x", "$STATE/x", ""] {
            if option.starts_with("auth.") {
                continue;
            }
            let error = read(&format!("{before}'{path}'{after}")).unwrap_err();
            assert_eq!(error, format!("hub.toml:{line}: `{option}` wants an absolute path, not {path:?}"));
        }
    }
    let error = read_with("", &[("WSHUBD_STATE__DIRECTORY", "x")]).unwrap_err();
    assert!(error.contains(&format!("probably {:?}, not \"x\"", here.join("x"))), "{error}");
}
