//! Memory pressure: the ceiling, and the order in which peers are affected.

use serde_json::json;
use wshubd::hub::{Anomaly, Effect, Input, Level, MemoryQuery, SendQueueState, Settings};

use super::harness::{ConnectionId, Harness};

const CEILING: u64 = 1_000_000;

fn harness() -> Harness {
    let mut settings = Settings::default();
    settings.limits.memory = CEILING as usize;
    settings.limits.requests_per_second = 1_000_000;
    settings.limits.burst = 1_000_000;
    Harness::with(settings)
}

/// The links hold so much; these hold it for themselves.
fn hold(harness: &mut Harness, links: u64, holders: &[(ConnectionId, u64)]) {
    harness.handle(Input::Memory { links, holders: holders.to_vec(), is_waited_for: false });
}

/// The same, while an authenticated connection waits to be admitted; whether there is room.
fn knock(harness: &mut Harness, links: u64, holders: &[(ConnectionId, u64)]) -> bool {
    harness.handle(Input::Memory { links, holders: holders.to_vec(), is_waited_for: true });
    harness.hub.has_made_room()
}

fn is_there(harness: &mut Harness, conn: ConnectionId) -> bool {
    harness.send(conn, json!({"action": "ping"})) == ["pong"]
}

fn reports(harness: &Harness) -> usize {
    let is_report = |effect: &&Effect| matches!(effect, Effect::LogAnomaly(Anomaly::Memory { .. }));
    harness.last.list.iter().filter(is_report).count()
}

#[test]
fn at_80_per_cent_whispers_are_dropped_and_messages_go_on() {
    let mut harness = harness();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(alice, "room");
    harness.subscribe(bob, "room");
    harness.discard_frames(bob);
    let whisper = json!({"action": "whisper", "channel": "room", "event": "typing"});

    hold(&mut harness, CEILING * 79 / 100 - 2000, &[]);
    assert_eq!(harness.hub.memory_level(), Level::Calm);
    harness.send(alice, whisper.clone());
    assert_eq!(harness.received(bob), ["typing"]);

    hold(&mut harness, CEILING * 80 / 100, &[]);
    assert_eq!((harness.hub.memory_level(), reports(&harness)), (Level::High, 1));
    harness.send(alice, whisper);
    assert!(harness.received(bob).is_empty());
    assert_eq!(harness.stats()["whispers_dropped"], 1);

    harness.publish(alice, "room", 1);
    assert_eq!(harness.received(bob), ["say 1"], "messages go on");
    let worker = harness.worker();
    assert_eq!(harness.send(worker, json!({"channel": "room", "event": "log", "id": 1})), ["ok"]);
}

#[test]
fn a_pressure_level_ends_a_little_below_its_mark() {
    let mut harness = harness();
    for (links, level) in [
        (799_999, Level::Calm),
        (800_000, Level::High),
        (760_000, Level::High),
        (749_999, Level::Calm),
        (900_000, Level::Critical),
        (850_000, Level::Critical),
        (849_999, Level::High),
        (1_000_000, Level::Over),
        (950_000, Level::Over),
        (949_999, Level::Critical),
        (0, Level::Calm),
    ] {
        let before = harness.hub.memory_level();
        hold(&mut harness, links, &[]);
        assert_eq!(harness.hub.memory_level(), level, "at {links}");
        assert_eq!(reports(&harness), usize::from(level > before), "a line when it gets worse");
    }
}

#[test]
fn the_hub_requests_only_changes_that_matter() {
    let mut harness = harness();
    let asks = |harness: &Harness, links| harness.hub.memory_query(harness.now, links);
    assert_eq!(asks(&harness, 700_000), MemoryQuery::Nothing);
    assert_eq!(asks(&harness, 800_000), MemoryQuery::Holders);
    hold(&mut harness, 800_000, &[]);
    assert_eq!(asks(&harness, 850_000), MemoryQuery::Nothing, "nobody holds too much");
    harness.wait(1.0);
    assert_eq!(asks(&harness, 850_000), MemoryQuery::Holders);
    hold(&mut harness, 850_000, &[]);
    assert_eq!(asks(&harness, 1_000_000), MemoryQuery::Holders, "it has become worse");
    hold(&mut harness, 1_000_000, &[]);
    assert_eq!(asks(&harness, 1_000_001), MemoryQuery::Nothing, "nobody holds enough to be worth it");
    harness.wait(1.0);
    assert_eq!(asks(&harness, 1_000_001), MemoryQuery::Holders, "that may have changed");
    assert_eq!(asks(&harness, 0), MemoryQuery::Total);
}

#[test]
fn at_90_per_cent_full_connections_lose_messages_with_one_gap() {
    let mut harness = harness();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    let (slow, slower) = (harness.client("bob"), harness.client("carol"));
    for conn in [alice, slow, slower] {
        harness.subscribe(conn, "logs");
        harness.discard_frames(conn);
    }
    let log = |harness: &mut Harness, data: u64| {
        harness.send(worker, json!({"channel": "logs", "event": "log", "data": data}));
    };
    harness.send_queue(slow, SendQueueState::Backlogged);
    log(&mut harness, 1);
    assert_eq!(harness.received(slow), ["log 1"], "there is room");

    hold(&mut harness, CEILING * 9 / 10, &[]);
    log(&mut harness, 2);
    harness.send_queue(slower, SendQueueState::Backlogged);
    log(&mut harness, 3);
    assert!(harness.received(slow).is_empty());
    assert_eq!(harness.received(slower), ["log 1", "log 2"]);
    assert_eq!(harness.received(alice), ["log 1", "log 2", "log 3"], "who keeps up notices nothing");
    assert_eq!(harness.stats()["messages_shed"], 3);

    harness.send_queue(slow, SendQueueState::Empty);
    log(&mut harness, 4);
    assert_eq!(harness.received(slow), ["gap 2 3 2 slow", "log 4"]);
    assert_eq!(harness.send(slower, json!({"action": "ping"})), ["pong"], "answers are never shed");
}

#[test]
fn a_connection_without_room_reads_a_history_later() {
    let mut settings = Settings::default();
    settings.limits.memory = CEILING as usize;
    settings.policy.keep = wshubd::hub::settings::Keep::History;
    let mut harness = Harness::with(settings);
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    harness.subscribe(bob, "room");
    harness.discard_frames(bob);
    harness.send_queue(bob, SendQueueState::Backlogged);
    hold(&mut harness, CEILING * 9 / 10, &[]);
    harness.publish(alice, "room", 1);
    assert!(harness.received(bob).is_empty());
    harness.send_queue(bob, SendQueueState::Empty);
    assert_eq!(harness.received(bob), ["say 1 replayed"]);
}

#[test]
fn at_the_ceiling_the_largest_connections_are_closed() {
    let mut harness = harness();
    let conns: Vec<ConnectionId> = (0..5).map(|n| harness.client(&format!("user{n}"))).collect();
    let holders = [(conns[0], 0), (conns[1], 40_000), (conns[2], 90_000), (conns[3], 60_000)];
    hold(&mut harness, 1_050_000, &holders);
    assert_eq!(harness.received(conns[2]), ["closed 4102"]);
    assert_eq!(harness.received(conns[3]), ["closed 4102"]);
    for conn in [conns[0], conns[1], conns[4]] {
        assert_eq!(harness.send(conn, json!({"action": "ping"})), ["pong"]);
    }
    assert_eq!(harness.stats()["closed_overloaded"], 2);
}

#[test]
fn staying_below_the_ceiling_does_not_lock_newcomers_out() {
    let mut harness = harness();
    let (mallory, alice) = (harness.client("mallory"), harness.client("alice"));
    let holders = [(mallory, 90_000), (alice, 3000)];
    hold(&mut harness, 840_000, &holders);
    harness.wait(9.0);
    hold(&mut harness, 840_000, &holders);
    assert!(harness.received(mallory).is_empty(), "a peer may be slow for a while");
    harness.wait(1.0);
    assert_eq!(harness.hub.memory_query(harness.now, 840_000), MemoryQuery::Holders);
    hold(&mut harness, 840_000, &holders);
    assert_eq!(harness.received(mallory), ["closed 4102"]);
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
    hold(&mut harness, 740_000, &[]);
    assert_eq!(harness.hub.memory_level(), Level::Calm);
    hold(&mut harness, 840_000, &holders);
    harness.wait(9.0);
    let holders = [(alice, 90_000)];
    hold(&mut harness, 840_000, &holders);
    assert!(is_there(&mut harness, alice), "it begins anew");
}

#[test]
fn at_80_per_cent_a_user_with_over_an_eighth_loses_it() {
    let mut harness = harness();
    let alice = harness.client("alice");
    let crowd: Vec<ConnectionId> = (0..300).map(|_| harness.client("mallory")).collect();
    let holders: Vec<(ConnectionId, u64)> =
        (0..).zip(&crowd).map(|(n, conn)| (*conn, 5_000 + n % 7)).collect();
    // Of one connection each, the largest is hers.
    let all: Vec<(ConnectionId, u64)> = holders.iter().copied().chain([(alice, 100_000)]).collect();
    hold(&mut harness, 840_000, &all);
    assert!(is_there(&mut harness, alice));
    let closed = crowd.iter().filter(|conn| !harness.received(**conn).is_empty()).count();
    // With what the hub itself holds of them.
    assert!((18..=25).contains(&closed), "of 90 kB or a little more {closed} have to go");
    assert_eq!(harness.stats()["closed_overloaded"], closed);
}

#[test]
fn an_eighth_of_the_memory_may_be_held_for_a_while() {
    let mut harness = harness();
    let conns: Vec<ConnectionId> = (0..10).map(|n| harness.client(&format!("user{n}"))).collect();
    let holders: Vec<(ConnectionId, u64)> = conns.iter().map(|conn| (*conn, 84_000)).collect();
    hold(&mut harness, 840_000, &holders);
    assert!(conns.iter().all(|conn| is_there(&mut harness, *conn)));
}

#[test]
fn unauthenticated_connections_are_closed_first_by_size() {
    let mut harness = harness();
    let alice = harness.client("alice");
    let strangers: Vec<ConnectionId> = (0..4).map(|_| harness.anonymous_client()).collect();
    strangers.iter().for_each(|conn| harness.discard_frames(*conn));
    let mut holders: Vec<(ConnectionId, u64)> =
        (1..).zip(&strangers).map(|(n, conn)| (*conn, n * 10_000)).collect();
    holders.push((alice, 100_000));
    hold(&mut harness, 815_000, &holders);
    let closed: Vec<bool> = strangers.iter().map(|conn| !harness.received(*conn).is_empty()).collect();
    assert_eq!(closed, [false, false, true, true], "65 kB are given up");
    assert!(is_there(&mut harness, alice));
}

#[test]
fn a_newcomer_with_a_token_displaces_a_large_holder() {
    let mut harness = harness();
    let (alice, bob) = (harness.client("alice"), harness.client("bob"));
    let little = [(alice, 5_000), (bob, 7_000)];
    assert!(!knock(&mut harness, 840_000, &little), "nobody holds a hundredth");
    let much = [(alice, 50_000), (bob, 7_000)];
    assert!(knock(&mut harness, 840_000, &much));
    assert!(is_there(&mut harness, bob));
    assert_eq!(harness.received(alice), ["closed 4102"]);
    assert!(!knock(&mut harness, 840_000, &little[1..]), "another newcomer is another matter");
}

#[test]
fn with_all_places_taken_the_oldest_unauthenticated_is_closed() {
    let mut harness = harness();
    let strangers: Vec<ConnectionId> = (0..40)
        .map(|_| {
            harness.wait(0.01);
            harness.anonymous_client()
        })
        .collect();
    strangers.iter().for_each(|conn| harness.discard_frames(*conn));
    // The first has authenticated, the second is gone.
    harness.auth(strangers[0], "alice", None);
    harness.disconnect(strangers[1]);
    harness.discard_frames(strangers[0]);
    harness.handle(Input::NoCapacity);
    assert_eq!(harness.received(strangers[2]), ["closed 4102"]);
    harness.hand_over();
    harness.handle(Input::NoCapacity);
    assert_eq!(harness.received(strangers[3]), ["closed 4102"], "they are known after a hand-over");
    for _ in 4..50 {
        harness.handle(Input::NoCapacity);
    }
    assert!(is_there(&mut harness, strangers[0]), "nobody else gives way");
    assert_eq!(harness.stats()["closed_overloaded"], 38);
}

#[test]
fn connections_closed_for_memory_get_spread_reconnect_delays() {
    let mut harness = harness();
    let conns: Vec<ConnectionId> = (0..20).map(|n| harness.client(&format!("user{n}"))).collect();
    let holders: Vec<(ConnectionId, u64)> = conns.iter().map(|conn| (*conn, 60_000)).collect();
    hold(&mut harness, 2_200_000, &holders);
    let mut waits: Vec<u64> =
        conns.iter().map(|conn| harness.frames(*conn)[0]["after_ms"].as_u64().unwrap()).collect();
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 10 && waits.iter().all(|wait| *wait <= 5000), "{waits:?}");
}

#[test]
fn workers_are_closed_after_clients_and_operation_owners_last() {
    let mut harness = harness();
    let (owner, idle, alice) = (harness.worker(), harness.worker(), harness.client("alice"));
    harness.send(owner, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    let holders = [(owner, 500_000), (idle, 100_000), (alice, 60_000)];
    hold(&mut harness, 1_000_000, &holders);
    assert_eq!(harness.received(alice), ["closed 4102"]);
    assert!(harness.received(idle).is_empty());
    hold(&mut harness, 1_000_000, &holders);
    assert_eq!(harness.received(idle), ["closed 4102"]);
    assert!(harness.received(owner).is_empty(), "its work goes on");
    hold(&mut harness, 1_000_000, &holders);
    assert_eq!(harness.received(owner), ["closed 4102"], "nobody else is left");
}

#[test]
fn a_connection_that_holds_almost_nothing_is_not_closed() {
    let mut harness = harness();
    let alice = harness.client("alice");
    hold(&mut harness, 5_000_000, &[(alice, 2000)]);
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
}

#[test]
fn a_channel_with_one_subscriber_counts_for_its_connection() {
    let mut harness = harness();
    let (alice, mallory) = (harness.client("alice"), harness.client("mallory"));
    for n in 0..100 {
        harness.subscribe(mallory, &format!("mine:{n}"));
    }
    harness.subscribe(alice, "room");
    assert!(harness.stats()["memory_bytes"].as_u64().unwrap() > 18_000);
    hold(&mut harness, 985_000, &[(alice, 40_000), (mallory, 39_000)]);
    assert_eq!(harness.received(mallory).last().unwrap(), "closed 4102");
    harness.discard_frames(alice);
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
}

#[test]
fn all_counted_memory_is_released() {
    let mut harness = harness();
    let worker = harness.worker();
    let conns: Vec<ConnectionId> = (0..10).map(|n| harness.client(&format!("user{n}"))).collect();
    for conn in &conns {
        harness.send(*conn, json!({"action": "subscribe", "channel": "room", "presence": true}));
        harness.subscribe(*conn, &format!("of:{}", conn.slot));
        harness.subscribe(*conn, "left");
        harness.send(*conn, json!({"action": "unsubscribe", "channel": "left"}));
    }
    harness.send(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    harness.send(worker, json!({"channel": "nobody", "event": "log", "data": "x"}));
    for operation in ["over", "again", "over"] {
        let start =
            json!({"action": "operation_start", "operation_id": operation, "channel": "jobs", "label": "l"});
        harness.send(worker, start);
        let end =
            json!({"action": "operation_end", "operation_id": operation, "state": "completed", "data": "d"});
        harness.send(worker, end);
    }
    let held = harness.stats()["memory_bytes"].as_u64().unwrap();
    assert!(held > 5_000, "{held}");
    harness.hand_over();
    assert_eq!(harness.stats()["memory_bytes"], held, "it goes along");
    for conn in conns.into_iter().chain([worker]) {
        harness.disconnect(conn);
    }
    harness.wait(86_401.0);
    assert_eq!(harness.stats()["memory_bytes"], 0);
}

/// By how much the memory grows that is counted.
fn growth(harness: &mut Harness, act: impl FnOnce(&mut Harness)) -> u64 {
    let before = harness.stats()["memory_bytes"].as_u64().unwrap();
    act(harness);
    harness.stats()["memory_bytes"].as_u64().unwrap() - before
}

#[test]
fn names_and_texts_count_with_their_length() {
    let mut harness = harness();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    let (short, long) = ("x", "x".repeat(128));
    let start = |name: &str, label: usize| {
        let (channel, label) = (format!("c{}", &name[1..]), "l".repeat(label));
        json!({"action": "operation_start", "operation_id": name, "channel": channel, "user_id": name, "label": label})
    };
    let little = growth(&mut harness, |harness| drop(harness.send(worker, start(short, 1))));
    let much = growth(&mut harness, |harness| drop(harness.send(worker, start(&long, 1024))));
    assert_eq!(much - little, 3 * 127 + 1023, "an operation");
    for (kind, name) in [("subscribe", &long[1..]), ("user", &long[2..])] {
        let of = |name: &str| match kind {
            "user" => json!({"user_id": name, "event": "say"}),
            _ => json!({"action": "subscribe", "channel": name}),
        };
        let little = growth(&mut harness, |harness| drop(harness.send(worker, of("y"))));
        let much = growth(&mut harness, |harness| drop(harness.send(worker, of(name))));
        assert_eq!(much - little, name.len() as u64 - 1, "{kind}");
    }
    let watch = json!({"action": "subscribe", "channel": "room", "presence": true});
    harness.subscribe(alice, "room");
    let watched = growth(&mut harness, |harness| drop(harness.send(alice, watch.clone())));
    assert!(watched > 400, "{watched}: a list of who is here");
    let ended = json!({"action": "operation_end", "operation_id": short, "state": "failed", "data": "d".repeat(4000)});
    let before = harness.stats()["memory_bytes"].as_u64().unwrap();
    harness.send(worker, ended);
    assert!(harness.stats()["memory_bytes"].as_u64().unwrap() > before + 2500, "it is remembered");
}

#[test]
fn messages_of_very_many_channels_use_at_most_their_half() {
    let mut harness = harness();
    let (worker, alice) = (harness.worker(), harness.client("alice"));
    // The traffic of a busy page, which is more than is left alone at the ceiling.
    for n in 0..70 {
        harness.subscribe(alice, &format!("hers:{n}"));
    }
    harness.discard_frames(alice);
    for n in 0..3000 {
        harness.send(worker, json!({"channel": format!("nobody:{n}"), "event": "log"}));
    }
    hold(&mut harness, 100_000, &[]);
    harness.wait(11.0);
    hold(&mut harness, 100_000, &[]);
    let stats = harness.stats();
    assert!(stats["memory_bytes"].as_u64().unwrap() < 700_000, "{stats}");
    assert!(stats["kept_messages"].as_u64().unwrap() > 300, "{stats}");
    assert_eq!(harness.hub.memory_level(), Level::Calm, "newcomers are let in");
    assert!(harness.received(alice).is_empty(), "nobody has to leave for what nobody hears");
}

#[test]
fn unauthenticated_connections_are_closed_before_others() {
    let mut harness = harness();
    let (alice, stranger) = (harness.client("alice"), harness.anonymous_client());
    harness.discard_frames(stranger);
    hold(&mut harness, 1_000_000, &[(alice, 100_000), (stranger, 60_000)]);
    assert_eq!(harness.received(stranger), ["closed 4102"]);
    assert_eq!(harness.send(alice, json!({"action": "ping"})), ["pong"]);
}
