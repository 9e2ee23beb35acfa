//! What `[listen]` refuses.

use super::read;

#[test]
fn a_mistake_about_listening_names_its_line_and_what_is_wanted() {
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
