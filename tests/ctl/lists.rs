//! `wshubctl channels`, `connections`, `inbox`, `disconnect` and `purge`; what is revoked.

use serde_json::{Value, json};
use wshubd::edge::clock;
use wshubd::protocol::UnixTime;

use crate::fake_hub::{HubSocket, Peer, end, stderr, stdout};

/// A time so many seconds ago, as the hub spells it. Half a minute more than what
/// is shown of it leaves time for a slow machine.
fn ago(seconds: u64) -> String {
    UnixTime(clock::now().wall.0 - seconds * 1000).to_string()
}

/// Expects a question and answers it with a list.
fn lists(peer: &mut Peer, action: &str, list: &[Value]) {
    let request = peer.expect_line(json!({"action": action}));
    let field = if action == "inbox" { "inboxes" } else { action };
    peer.grant(&request, json!({ field: list }));
}

fn connection(id: &str, user: &str, queued_bytes: u64) -> Value {
    json!({
        "connection_id": id, "kind": "client", "user_id": user, "address": "192.0.2.7:5000",
        "connected_at": ago(11_550), "heard_at": ago(3630), "subscriptions": 3, "operations": 0,
        "queued": 1, "queued_bytes": queued_bytes, "missed": 0,
    })
}

#[test]
fn piped_connections_are_lines_with_the_longest_queue_first() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["connections"]);
    let mut later = connection("c", "carol", 10);
    later["connected_at"] = json!(ago(1));
    later["of_a_later_version"] = json!([1]);
    let all = [connection("a", "alice", 0), later, connection("b", "bob", 10)];
    lists(&mut peer, "connections", &all);
    let [alice, carol, bob] = all;
    assert_eq!(stdout(&end(child)), format!("{bob}\n{carol}\n{alice}\n"));
}

#[test]
fn the_connections_of_one_user_can_be_asked_for() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["connections", "--user", "bob"]);
    let bob = connection("b", "bob", 10);
    lists(&mut peer, "connections", &[connection("a", "alice", 0), bob.clone()]);
    assert_eq!(stdout(&end(child)), format!("{bob}\n"));
}

#[test]
fn connections_on_a_terminal_are_a_table_without_empty_columns() {
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["connections"]);
    let mut slow = connection("00000000v2q8pj5d4x1c", "ali\u{1b}ce", 3482);
    slow["stalled"] = json!(7.25);
    let nobody = u32::MAX;
    let worker = json!({
        "connection_id": "00000001aaaaaaaaaaaa", "kind": "worker", "uid": 1000, "pid": nobody,
        "connected_at": ago(90_030), "heard_at": ago(7230), "subscriptions": 0, "operations": 2,
        "queued": 0, "queued_bytes": 0, "missed": 0,
    });
    lists(&mut peer, "connections", &[worker, slow]);
    let (code, shown) = terminal.end();
    assert_eq!(code, Some(0));
    let expected = "\
CONNECTION            WHO          FROM            CONNECTED  HEARD  CHANNELS  OPERATIONS   QUEUED  STALLED
00000000v2q8pj5d4x1c  ali\\u{1b}ce  192.0.2.7:5000     3h 12m     1h         3           -  3.4 KiB       7s
00000001aaaaaaaaaaaa  uid 1000     pid 4294967295      1d 1h     2h         -           2        -        -
";
    assert_eq!(shown, expected);
}

#[test]
fn on_a_terminal_an_empty_list_is_a_sentence() {
    for (words, action, expected) in [
        ("connections", "connections", "there are no connections\n"),
        ("channels", "channels", "there are no channels\n"),
        ("inbox", "inbox", "no messages are waiting\n"),
        ("operations", "operations", "no operation is running\n"),
    ] {
        let socket = HubSocket::new();
        let (terminal, mut peer) = socket.start_at_terminal([words]);
        lists(&mut peer, action, &[]);
        assert_eq!(terminal.end(), (Some(0), expected.to_owned()));
    }
}

#[test]
fn channels_that_keep_most_come_first_and_show_how_old_that_is() {
    let entry = |channel: &str, bytes: u64, oldest: Option<String>| {
        json!({
            "channel": channel, "subscribers": 2, "behind": 0, "epoch": "e", "seq": 42, "keep": "history",
            "kept": bytes / 100, "bytes": bytes, "oldest_at": oldest,
        })
    };
    let all = [entry("empty", 0, None), entry("logs", 5 << 20, Some(ago(7230)))];
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["channels"]);
    lists(&mut peer, "channels", &all);
    let expected = "\
CHANNEL  SUBSCRIBERS  PUBLISHED   KEPT    BYTES  OLDEST  POLICY
logs               2         42  52428  5.0 MiB      2h  history
empty              2         42      -        -       -  history
";
    assert_eq!(terminal.end(), (Some(0), expected.to_owned()));

    let (child, mut peer) = socket.start_connected(["channels"]);
    lists(&mut peer, "channels", &all);
    assert_eq!(stdout(&end(child)), format!("{}\n{}\n", all[1], all[0]));
}

#[test]
fn inbox_shows_one_user_or_all_users_with_waiting_messages() {
    let inbox = |user: &str, bytes: u64| {
        json!({
            "user_id": user, "connections": 1, "epoch": "8dz0k2vy3m1qp", "seq": 9, "waiting": 2,
            "bytes": bytes, "oldest_at": ago(7230),
        })
    };
    let socket = HubSocket::new();
    let (terminal, mut peer) = socket.start_at_terminal(["inbox", "alice"]);
    let request = peer.expect_line(json!({"action": "inbox", "user_id": "alice"}));
    peer.grant(&request, inbox("alice", 512));
    let expected = "\
waiting      2 messages, 512 B
oldest       2h ago
connections  1
position     9 in epoch 8dz0k2vy3m1qp
";
    assert_eq!(terminal.end(), (Some(0), expected.to_owned()));

    let (child, mut peer) = socket.start_connected(["inbox", "alice"]);
    let request = peer.receive();
    peer.grant(&request, inbox("alice", 512));
    assert_eq!(serde_json::from_str::<Value>(&stdout(&end(child))).unwrap()["user_id"], "alice");

    let (terminal, mut peer) = socket.start_at_terminal(["inbox"]);
    lists(&mut peer, "inbox", &[inbox("alice", 512), inbox("bob", 2048)]);
    let expected = "\
USER   CONNECTIONS  WAITING    BYTES  OLDEST
bob              1        2  2.0 KiB      2h
alice            1        2    512 B      2h
";
    assert_eq!(terminal.end(), (Some(0), expected.to_owned()));
}

#[test]
fn ended_connections_and_dropped_messages_are_counted() {
    let ended = |count: u64| json!({ "disconnected": count });
    let dropped = |count: u64| json!({ "purged": count });
    let cases = [
        (
            vec!["disconnect", "c1"],
            json!({"connection_id": "c1", "user_id": null}),
            ended(1),
            "1 connection ended",
        ),
        (vec!["disconnect", "--user", "al"], json!({"user_id": "al"}), ended(2), "2 connections of al ended"),
        (
            vec!["purge", "logs"],
            json!({"channel": "logs", "user_id": null}),
            dropped(12),
            "12 messages of logs dropped",
        ),
        (vec!["purge", "--user", "al"], json!({"user_id": "al"}), dropped(0), "0 messages of al dropped"),
    ];
    let socket = HubSocket::new();
    for (words, asked, answer, said) in cases {
        let (terminal, mut peer) = socket.start_at_terminal(&words);
        let request = peer.expect_line(asked);
        assert_eq!(request["action"], words[0]);
        peer.grant(&request, answer.clone());
        assert_eq!(terminal.end(), (Some(0), format!("{said}\n")));

        let (child, mut peer) = socket.start_connected(&words);
        let request = peer.receive();
        peer.grant(&request, answer.clone());
        assert_eq!(stdout(&end(child)), format!("{answer}\n"));
    }
}

#[test]
fn a_request_for_administrators_alone_exits_with_four() {
    let socket = HubSocket::new();
    for words in [
        vec!["connections"],
        vec!["channels"],
        vec!["inbox", "alice"],
        vec!["disconnect", "--user", "alice"],
        vec!["purge", "logs"],
        vec!["token", "check", "a.b.c"],
    ] {
        let (child, mut peer) = socket.start_connected(&words);
        let request = peer.receive();
        peer.refuse(&request, "forbidden", "this is for administrators");
        let output = end(child);
        assert_eq!((output.status.code(), stdout(&output)), (Some(4), String::new()), "{words:?}");
        assert_eq!(stderr(&output), "wshubctl: this is for administrators (forbidden)\n");
    }
}

#[test]
fn a_connection_that_is_not_there_is_a_failure() {
    let socket = HubSocket::new();
    let (child, mut peer) = socket.start_connected(["disconnect", "c1"]);
    let request = peer.receive();
    peer.refuse(&request, "unknown_connection", "no such connection");
    assert_eq!(end(child).status.code(), Some(1));
}

#[test]
fn a_revocation_is_shown_with_the_second_up_to_which_it_holds() {
    let socket = HubSocket::new();
    let at = "2026-03-01T12:00:00.000Z";
    let revoked = json!({"disconnected": 2, "revoked_at": at});
    for (words, asked, said) in [
        (
            vec!["disconnect", "--revoke", "al"],
            json!({"user_id": "al", "jti": null, "revoke": true}),
            format!(
                "tokens of al that were issued up to {at} are revoked; 2 connections ended\n\
                 a token that is issued after that second is valid\n"
            ),
        ),
        (
            vec!["disconnect", "--jti", "t1"],
            json!({"user_id": null, "jti": "t1", "revoke": true}),
            format!("the token t1 is revoked since {at}; 2 connections ended\n"),
        ),
    ] {
        let (terminal, mut peer) = socket.start_at_terminal(&words);
        let request = peer.expect_line(asked.clone());
        assert_eq!(request["action"], "disconnect");
        peer.grant(&request, revoked.clone());
        assert_eq!(terminal.end(), (Some(0), said));
        let (child, mut peer) = socket.start_connected(&words);
        let request = peer.expect_line(asked);
        peer.grant(&request, revoked.clone());
        assert_eq!(stdout(&end(child)), format!("{revoked}\n"), "in a pipe");
    }
}

#[test]
fn connections_with_tokens_that_stay_valid_are_reported() {
    let socket = HubSocket::new();
    for (ahead, is_told) in [(json!(null), false), (json!(1), true)] {
        let (child, mut peer) = socket.start_connected(["disconnect", "--revoke", "al"]);
        let request = peer.receive();
        let mut revoked = json!({"disconnected": 2, "revoked_at": "2026-03-01T12:00:00.000Z"});
        if is_told {
            revoked["ahead"] = ahead;
        }
        peer.grant(&request, revoked);
        let said = stderr(&end(child));
        assert_eq!(
            said.contains("warning: 1 connection had a token with an `iat` ahead of the clock"),
            is_told,
            "{said}"
        );
    }
}

#[test]
fn revocations_are_listed_and_can_be_lifted() {
    let socket = HubSocket::new();
    let (at, until) = ("2026-03-01T12:00:00.000Z", "2026-03-31T12:00:00.000Z");
    let entries =
        [json!({"user_id": "al", "revoked_at": at, "until": until}), json!({"jti": "t1", "revoked_at": at})];
    let (terminal, mut peer) = socket.start_at_terminal(["disconnect", "--revoked"]);
    let request = peer.expect_line(json!({"action": "revocations", "after": null}));
    peer.grant(&request, json!({"revocations": [entries[0]], "next": "1 al"}));
    let request = peer.expect_line(json!({"action": "revocations", "after": "1 al"}));
    peer.grant(&request, json!({"revocations": [entries[1]]}));
    let (code, shown) = terminal.end();
    let words: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(code, Some(0));
    assert_eq!(words[0], ["USER", "TOKEN", "REVOKED", "FORGOTTEN"]);
    assert_eq!((&*words[1], &*words[2]), (&["al", "-", at, until][..], &["-", "t1", at, "-"][..]));
    for (words, asked, lifted, said) in [
        (["--lift", "al"], json!({"user_id": "al"}), true, "the tokens of al are no longer revoked"),
        (["--lift-jti", "t1"], json!({"jti": "t1"}), true, "the token t1 is no longer revoked"),
        (["--lift", "bo"], json!({"user_id": "bo"}), false, "bo was not revoked"),
    ] {
        let (terminal, mut peer) = socket.start_at_terminal([&["disconnect"], &words[..]].concat());
        let request = peer.expect_line(asked);
        assert_eq!(request["action"], "lift");
        peer.grant(&request, json!({"lifted": lifted}));
        assert_eq!(terminal.end(), (Some(0), format!("{said}\n")));
    }
}
