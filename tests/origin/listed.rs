//! What `allowed_origins` may list, and what a page is told that is not in it.

use wshubd::edge::http::origin::OriginPolicy;
use wshubd::protocol::Reason;
use wshubd::protocol::origin::AllowedOrigin;

use super::{admits, admitted, listen};

fn gate(origins: &[&str]) -> OriginPolicy {
    for origin in origins {
        assert!(AllowedOrigin::parse(origin).is_ok(), "{origin}");
    }
    OriginPolicy::new(&listen(origins, &["hub.example.org"]), "box")
}

#[test]
fn an_application_without_a_host_connects_where_it_is_listed() {
    let listed =
        ["file://", "app://.", "capacitor://localhost", "moz-extension://9f7A-b", "tauri://localhost:1"];
    for origin in listed {
        let gate = gate(&[origin]);
        assert!(admits(&gate, "localhost", origin), "{origin}");
        for other in ["file://x", "app://..", "app://", "capacitor://localhos", "http://localhost.x", "null"]
        {
            assert!(!admits(&gate, "localhost", other), "{other} where {origin} is listed");
        }
    }
    // A browser says `file://` of what people know as `file:///`.
    assert!(admits(&gate(&["file:///"]), "localhost", "file://"));
    assert!(!admits(&gate(&["file://"]), "localhost", "file:///"), "no browser sends that");
}

#[test]
fn an_application_is_never_the_hosts_own_page() {
    for origin in
        ["app://localhost", "capacitor://localhost", "file://localhost", "chrome-extension://localhost"]
    {
        assert!(!admits(&gate(&[]), "localhost", origin), "{origin}");
    }
}

#[test]
fn an_origin_is_listed_as_it_is_copied_from_a_browser() {
    let gate = gate(&["https://App.example.org/", "http://dev.example.org:80/"]);
    for origin in ["https://app.example.org", "https://app.example.org:443", "http://dev.example.org"] {
        assert!(admits(&gate, "localhost", origin), "{origin}");
    }
}

#[test]
fn a_star_stands_for_names_below_and_for_nothing_else() {
    let gate = gate(&["https://*.example.org", "http://*.dev.example.net:3000"]);
    for origin in [
        "https://app.example.org",
        "https://a.b.c.example.org",
        "https://APP.Example.org:443",
        "https://app.example.org.",
        "http://x.dev.example.net:3000",
    ] {
        assert!(admits(&gate, "localhost", origin), "{origin}");
    }
    for origin in [
        "https://example.org",
        "https://evilexample.org",
        "https://.example.org",
        "https://app.example.org:8443",
        "http://app.example.org",
        "https://app.example.org.evil.com",
        "https://app.example.org@evil.com",
        "https://*.example.org",
        "http://x.dev.example.net",
        "http://dev.example.net:3000",
        "https://127.0.0.1",
    ] {
        assert!(!admits(&gate, "localhost", origin), "{origin}");
    }
}

#[test]
fn a_wrong_entry_is_told_with_what_it_should_be() {
    for wrong in [
        "",
        "app.example.org",
        "https://",
        "https:///",
        "https://app.example.org//",
        "https://app.example.org/path",
        "https://app.example.org, https://b.example.org",
        "https://a.*.example.org",
        "https://x*.example.org",
        "https://*example.org",
        "https://*.*.example.org",
        "https://*.10.0.0.1",
        "https://**",
        "app://*.example.org",
        "NULL",
        "*:3000",
    ] {
        let wanted = AllowedOrigin::parse(wrong).unwrap_err();
        assert!(wanted.contains("\"https://*.example.org\""), "{wrong:?}: {wanted}");
    }
    for wide in ["https://*", "https://*/", "https://*:8443", "https://*.org", "http://*.localhost"] {
        let wanted = AllowedOrigin::parse(wide).unwrap_err();
        assert!(wanted.contains("at least two labels"), "{wide:?}: {wanted}");
    }
}

#[test]
fn whoever_is_refused_learns_what_to_add_and_where() {
    let gate = gate(&[]);
    let refusal = |host: &str, origin: &str| {
        let refused = admitted(&gate, host, origin).unwrap_err();
        assert_eq!(refused.reason, Reason::Origin);
        refused.message
    };
    let list = |origin: &str| format!("add \"{origin}\" to [listen] allowed_origins");

    let page = refusal("hub.example.org", "https://App.example.org:8443");
    assert!(page.contains(&list("https://app.example.org:8443")), "{page}");
    assert!(!page.contains("proxy"), "{page}");
    let behind = refusal("127.0.0.1:8098", "https://app.example.org");
    assert!(
        behind.contains(&list("https://app.example.org")) && behind.contains("pass `Host` on"),
        "{behind}"
    );

    let other_name = refusal("127.0.0.1:8098", "http://localhost:3000");
    for cure in ["http://127.0.0.1:3000", "ws://localhost:8098", &list("http://localhost:3000")] {
        assert!(other_name.contains(cure), "{cure}: {other_name}");
    }
    let the_other_way = refusal("localhost", "https://[::1]");
    for cure in ["https://localhost,", "wss://[::1],", &list("https://[::1]")] {
        assert!(the_other_way.contains(cure), "{cure}: {the_other_way}");
    }
    for origin in ["null", "file://", "app://."] {
        let page = refusal("localhost", origin);
        assert!(page.contains(&list(origin)), "{page}");
    }

    let host = admitted(&gate, "Hub.lan:8098", "http://hub.lan").unwrap_err();
    assert_eq!(host.reason, Reason::Host);
    assert!(host.message.contains("add \"hub.lan\" to [listen] allowed_hosts"), "{}", host.message);
    assert!(host.message.contains("Hub.lan:8098"), "{}", host.message);
}

#[test]
fn what_was_sent_disturbs_no_terminal_and_is_cut() {
    let gate = gate(&[]);
    for wrong in ["loc\tal".to_owned(), "a".repeat(9000), "\"\\\"".repeat(4000)] {
        let headers = super::headers(&[wrong.as_bytes()], &[]);
        let refused = gate.admit("/ws", &headers).unwrap_err();
        assert!(refused.message.len() < 2000, "{} bytes", refused.message.len());
        assert!(!refused.message.contains(char::is_control), "{}", refused.message);
    }
}

#[test]
fn a_token_in_the_place_of_a_host_or_origin_is_not_repeated_in_any_case() {
    let gate = gate(&[]);
    let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl";
    let page = format!("https://{token}");
    for (host, origin) in [
        (token, None),
        (token, Some("https://else.example")),
        ("localhost", Some(token)),
        ("localhost", Some(&*page)),
        ("192.0.2.7", Some(&*page)),
    ] {
        let origin: Vec<&[u8]> = origin.iter().map(|origin| origin.as_bytes()).collect();
        let refused = gate.admit("/ws", &super::headers(&[host.as_bytes()], &origin)).unwrap_err();
        let message = refused.message.to_lowercase();
        assert!(!message.contains("eyj") && !message.contains("c2ln"), "{host} {origin:?}: {message}");
    }
    // What looks like one in other letters is a name, and is told.
    let refused = gate.admit("/ws", &super::headers(&[b"keyjar.example"], &[])).unwrap_err();
    assert!(refused.message.contains("add \"keyjar.example\""), "{}", refused.message);
}
