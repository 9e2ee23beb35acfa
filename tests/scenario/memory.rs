//! Memory pressure: the ceiling, and the order in which peers are affected.

use serde_json::json;
use wshubd::hub::{Anomaly, Effect, Input, Level, MemoryQuery, SendQueueState, Settings};

use super::bench::{Bench, Seat};

const CEILING: u64 = 1_000_000;

fn bench() -> Bench {
    let mut settings = Settings::default();
    settings.limits.memory = CEILING as usize;
    settings.limits.requests_per_second = 1_000_000;
    settings.limits.burst = 1_000_000;
    Bench::with(settings)
}

/// The links hold so much; these hold it for themselves.
fn hold(bench: &mut Bench, links: u64, holders: &[(Seat, u64)]) {
    bench.handle(Input::Memory { links, holders: holders.to_vec(), is_waited_for: false });
}

/// The same, while an authenticated connection waits to be admitted; whether there is room.
fn knock(bench: &mut Bench, links: u64, holders: &[(Seat, u64)]) -> bool {
    bench.handle(Input::Memory { links, holders: holders.to_vec(), is_waited_for: true });
    bench.hub.has_made_room()
}

fn is_there(bench: &mut Bench, seat: Seat) -> bool {
    bench.say(seat, json!({"action": "ping"})) == ["pong"]
}

fn reports(bench: &Bench) -> usize {
    let is_report = |effect: &&Effect| matches!(effect, Effect::LogAnomaly(Anomaly::Memory { .. }));
    bench.last.list.iter().filter(is_report).count()
}

#[test]
fn at_80_per_cent_whispers_are_dropped_and_messages_go_on() {
    let mut bench = bench();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(alice, "room");
    bench.subscribe(bob, "room");
    bench.hush(bob);
    let whisper = json!({"action": "whisper", "channel": "room", "event": "typing"});

    hold(&mut bench, CEILING * 79 / 100 - 2000, &[]);
    assert_eq!(bench.hub.memory_level(), Level::Calm);
    bench.say(alice, whisper.clone());
    assert_eq!(bench.story(bob), ["typing"]);

    hold(&mut bench, CEILING * 80 / 100, &[]);
    assert_eq!((bench.hub.memory_level(), reports(&bench)), (Level::High, 1));
    bench.say(alice, whisper);
    assert!(bench.story(bob).is_empty());
    assert_eq!(bench.stats()["whispers_dropped"], 1);

    bench.publish(alice, "room", 1);
    assert_eq!(bench.story(bob), ["say 1"], "messages go on");
    let worker = bench.worker();
    assert_eq!(bench.say(worker, json!({"channel": "room", "event": "log", "id": 1})), ["ok"]);
}

#[test]
fn a_pressure_level_ends_a_little_below_its_mark() {
    let mut bench = bench();
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
        let before = bench.hub.memory_level();
        hold(&mut bench, links, &[]);
        assert_eq!(bench.hub.memory_level(), level, "at {links}");
        assert_eq!(reports(&bench), usize::from(level > before), "a line when it gets worse");
    }
}

#[test]
fn the_hub_requests_only_changes_that_matter() {
    let mut bench = bench();
    let asks = |bench: &Bench, links| bench.hub.memory_query(bench.now, links);
    assert_eq!(asks(&bench, 700_000), MemoryQuery::Nothing);
    assert_eq!(asks(&bench, 800_000), MemoryQuery::Holders);
    hold(&mut bench, 800_000, &[]);
    assert_eq!(asks(&bench, 850_000), MemoryQuery::Nothing, "nobody holds too much");
    bench.wait(1.0);
    assert_eq!(asks(&bench, 850_000), MemoryQuery::Holders);
    hold(&mut bench, 850_000, &[]);
    assert_eq!(asks(&bench, 1_000_000), MemoryQuery::Holders, "it has become worse");
    hold(&mut bench, 1_000_000, &[]);
    assert_eq!(asks(&bench, 1_000_001), MemoryQuery::Nothing, "nobody holds enough to be worth it");
    bench.wait(1.0);
    assert_eq!(asks(&bench, 1_000_001), MemoryQuery::Holders, "that may have changed");
    assert_eq!(asks(&bench, 0), MemoryQuery::Total);
}

#[test]
fn at_90_per_cent_full_connections_lose_messages_with_one_gap() {
    let mut bench = bench();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    let (slow, slower) = (bench.client("bob"), bench.client("carol"));
    for seat in [alice, slow, slower] {
        bench.subscribe(seat, "logs");
        bench.hush(seat);
    }
    let log = |bench: &mut Bench, data: u64| {
        bench.say(worker, json!({"channel": "logs", "event": "log", "data": data}));
    };
    bench.outbound(slow, SendQueueState::Backlogged);
    log(&mut bench, 1);
    assert_eq!(bench.story(slow), ["log 1"], "there is room");

    hold(&mut bench, CEILING * 9 / 10, &[]);
    log(&mut bench, 2);
    bench.outbound(slower, SendQueueState::Backlogged);
    log(&mut bench, 3);
    assert!(bench.story(slow).is_empty());
    assert_eq!(bench.story(slower), ["log 1", "log 2"]);
    assert_eq!(bench.story(alice), ["log 1", "log 2", "log 3"], "who keeps up notices nothing");
    assert_eq!(bench.stats()["messages_shed"], 3);

    bench.outbound(slow, SendQueueState::Empty);
    log(&mut bench, 4);
    assert_eq!(bench.story(slow), ["gap 2 3 2 slow", "log 4"]);
    assert_eq!(bench.say(slower, json!({"action": "ping"})), ["pong"], "answers are never shed");
}

#[test]
fn a_connection_without_room_reads_a_history_later() {
    let mut settings = Settings::default();
    settings.limits.memory = CEILING as usize;
    settings.policy.keep = wshubd::hub::settings::Keep::History;
    let mut bench = Bench::with(settings);
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    bench.subscribe(bob, "room");
    bench.hush(bob);
    bench.outbound(bob, SendQueueState::Backlogged);
    hold(&mut bench, CEILING * 9 / 10, &[]);
    bench.publish(alice, "room", 1);
    assert!(bench.story(bob).is_empty());
    bench.outbound(bob, SendQueueState::Empty);
    assert_eq!(bench.story(bob), ["say 1 replayed"]);
}

#[test]
fn at_the_ceiling_the_largest_connections_are_closed() {
    let mut bench = bench();
    let seats: Vec<Seat> = (0..5).map(|n| bench.client(&format!("user{n}"))).collect();
    let holders = [(seats[0], 0), (seats[1], 40_000), (seats[2], 90_000), (seats[3], 60_000)];
    hold(&mut bench, 1_050_000, &holders);
    assert_eq!(bench.story(seats[2]), ["closed 4102"]);
    assert_eq!(bench.story(seats[3]), ["closed 4102"]);
    for seat in [seats[0], seats[1], seats[4]] {
        assert_eq!(bench.say(seat, json!({"action": "ping"})), ["pong"]);
    }
    assert_eq!(bench.stats()["closed_overloaded"], 2);
}

#[test]
fn staying_below_the_ceiling_does_not_lock_newcomers_out() {
    let mut bench = bench();
    let (mallory, alice) = (bench.client("mallory"), bench.client("alice"));
    let holders = [(mallory, 90_000), (alice, 3000)];
    hold(&mut bench, 840_000, &holders);
    bench.wait(9.0);
    hold(&mut bench, 840_000, &holders);
    assert!(bench.story(mallory).is_empty(), "a peer may be slow for a while");
    bench.wait(1.0);
    assert_eq!(bench.hub.memory_query(bench.now, 840_000), MemoryQuery::Holders);
    hold(&mut bench, 840_000, &holders);
    assert_eq!(bench.story(mallory), ["closed 4102"]);
    assert_eq!(bench.say(alice, json!({"action": "ping"})), ["pong"]);
    hold(&mut bench, 740_000, &[]);
    assert_eq!(bench.hub.memory_level(), Level::Calm);
    hold(&mut bench, 840_000, &holders);
    bench.wait(9.0);
    let holders = [(alice, 90_000)];
    hold(&mut bench, 840_000, &holders);
    assert!(is_there(&mut bench, alice), "it begins anew");
}

#[test]
fn at_80_per_cent_a_user_with_over_an_eighth_loses_it() {
    let mut bench = bench();
    let alice = bench.client("alice");
    let crowd: Vec<Seat> = (0..300).map(|_| bench.client("mallory")).collect();
    let holders: Vec<(Seat, u64)> = (0..).zip(&crowd).map(|(n, seat)| (*seat, 5_000 + n % 7)).collect();
    // Of one connection each, the largest is hers.
    let all: Vec<(Seat, u64)> = holders.iter().copied().chain([(alice, 100_000)]).collect();
    hold(&mut bench, 840_000, &all);
    assert!(is_there(&mut bench, alice));
    let closed = crowd.iter().filter(|seat| !bench.story(**seat).is_empty()).count();
    // With what the hub itself holds of them.
    assert!((18..=25).contains(&closed), "of 90 kB or a little more {closed} have to go");
    assert_eq!(bench.stats()["closed_overloaded"], closed);
}

#[test]
fn an_eighth_of_the_memory_may_be_held_for_a_while() {
    let mut bench = bench();
    let seats: Vec<Seat> = (0..10).map(|n| bench.client(&format!("user{n}"))).collect();
    let holders: Vec<(Seat, u64)> = seats.iter().map(|seat| (*seat, 84_000)).collect();
    hold(&mut bench, 840_000, &holders);
    assert!(seats.iter().all(|seat| is_there(&mut bench, *seat)));
}

#[test]
fn unauthenticated_connections_are_closed_first_by_size() {
    let mut bench = bench();
    let alice = bench.client("alice");
    let strangers: Vec<Seat> = (0..4).map(|_| bench.stranger()).collect();
    strangers.iter().for_each(|seat| bench.hush(*seat));
    let mut holders: Vec<(Seat, u64)> = (1..).zip(&strangers).map(|(n, seat)| (*seat, n * 10_000)).collect();
    holders.push((alice, 100_000));
    hold(&mut bench, 815_000, &holders);
    let closed: Vec<bool> = strangers.iter().map(|seat| !bench.story(*seat).is_empty()).collect();
    assert_eq!(closed, [false, false, true, true], "65 kB are given up");
    assert!(is_there(&mut bench, alice));
}

#[test]
fn a_newcomer_with_a_token_displaces_a_large_holder() {
    let mut bench = bench();
    let (alice, bob) = (bench.client("alice"), bench.client("bob"));
    let little = [(alice, 5_000), (bob, 7_000)];
    assert!(!knock(&mut bench, 840_000, &little), "nobody holds a hundredth");
    let much = [(alice, 50_000), (bob, 7_000)];
    assert!(knock(&mut bench, 840_000, &much));
    assert!(is_there(&mut bench, bob));
    assert_eq!(bench.story(alice), ["closed 4102"]);
    assert!(!knock(&mut bench, 840_000, &little[1..]), "another newcomer is another matter");
}

#[test]
fn with_all_places_taken_the_oldest_unauthenticated_is_closed() {
    let mut bench = bench();
    let strangers: Vec<Seat> = (0..40)
        .map(|_| {
            bench.wait(0.01);
            bench.stranger()
        })
        .collect();
    strangers.iter().for_each(|seat| bench.hush(*seat));
    // The first has authenticated, the second is gone.
    bench.auth(strangers[0], "alice", None);
    bench.leave(strangers[1]);
    bench.hush(strangers[0]);
    bench.handle(Input::NoCapacity);
    assert_eq!(bench.story(strangers[2]), ["closed 4102"]);
    bench.hand_over();
    bench.handle(Input::NoCapacity);
    assert_eq!(bench.story(strangers[3]), ["closed 4102"], "they are known after a hand-over");
    for _ in 4..50 {
        bench.handle(Input::NoCapacity);
    }
    assert!(is_there(&mut bench, strangers[0]), "nobody else gives way");
    assert_eq!(bench.stats()["closed_overloaded"], 38);
}

#[test]
fn connections_closed_for_memory_get_spread_reconnect_delays() {
    let mut bench = bench();
    let seats: Vec<Seat> = (0..20).map(|n| bench.client(&format!("user{n}"))).collect();
    let holders: Vec<(Seat, u64)> = seats.iter().map(|seat| (*seat, 60_000)).collect();
    hold(&mut bench, 2_200_000, &holders);
    let mut waits: Vec<u64> =
        seats.iter().map(|seat| bench.frames(*seat)[0]["after_ms"].as_u64().unwrap()).collect();
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 10 && waits.iter().all(|wait| *wait <= 5000), "{waits:?}");
}

#[test]
fn workers_are_closed_after_clients_and_operation_owners_last() {
    let mut bench = bench();
    let (owner, idle, alice) = (bench.worker(), bench.worker(), bench.client("alice"));
    bench.say(owner, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    let holders = [(owner, 500_000), (idle, 100_000), (alice, 60_000)];
    hold(&mut bench, 1_000_000, &holders);
    assert_eq!(bench.story(alice), ["closed 4102"]);
    assert!(bench.story(idle).is_empty());
    hold(&mut bench, 1_000_000, &holders);
    assert_eq!(bench.story(idle), ["closed 4102"]);
    assert!(bench.story(owner).is_empty(), "its work goes on");
    hold(&mut bench, 1_000_000, &holders);
    assert_eq!(bench.story(owner), ["closed 4102"], "nobody else is left");
}

#[test]
fn a_connection_that_holds_almost_nothing_is_not_closed() {
    let mut bench = bench();
    let alice = bench.client("alice");
    hold(&mut bench, 5_000_000, &[(alice, 2000)]);
    assert_eq!(bench.say(alice, json!({"action": "ping"})), ["pong"]);
}

#[test]
fn a_channel_with_one_subscriber_counts_for_its_connection() {
    let mut bench = bench();
    let (alice, mallory) = (bench.client("alice"), bench.client("mallory"));
    for n in 0..100 {
        bench.subscribe(mallory, &format!("mine:{n}"));
    }
    bench.subscribe(alice, "room");
    assert!(bench.stats()["memory_bytes"].as_u64().unwrap() > 18_000);
    hold(&mut bench, 985_000, &[(alice, 40_000), (mallory, 39_000)]);
    assert_eq!(bench.story(mallory).last().unwrap(), "closed 4102");
    bench.hush(alice);
    assert_eq!(bench.say(alice, json!({"action": "ping"})), ["pong"]);
}

#[test]
fn all_counted_memory_is_released() {
    let mut bench = bench();
    let worker = bench.worker();
    let seats: Vec<Seat> = (0..10).map(|n| bench.client(&format!("user{n}"))).collect();
    for seat in &seats {
        bench.say(*seat, json!({"action": "subscribe", "channel": "room", "presence": true}));
        bench.subscribe(*seat, &format!("of:{}", seat.slot));
        bench.subscribe(*seat, "left");
        bench.say(*seat, json!({"action": "unsubscribe", "channel": "left"}));
    }
    bench.say(worker, json!({"action": "operation_start", "operation_id": "op", "channel": "jobs"}));
    bench.say(worker, json!({"channel": "nobody", "event": "log", "data": "x"}));
    for operation in ["over", "again", "over"] {
        let start =
            json!({"action": "operation_start", "operation_id": operation, "channel": "jobs", "label": "l"});
        bench.say(worker, start);
        let end =
            json!({"action": "operation_end", "operation_id": operation, "state": "completed", "data": "d"});
        bench.say(worker, end);
    }
    let held = bench.stats()["memory_bytes"].as_u64().unwrap();
    assert!(held > 5_000, "{held}");
    bench.hand_over();
    assert_eq!(bench.stats()["memory_bytes"], held, "it goes along");
    for seat in seats.into_iter().chain([worker]) {
        bench.leave(seat);
    }
    bench.wait(86_401.0);
    assert_eq!(bench.stats()["memory_bytes"], 0);
}

/// By how much the memory grows that is counted.
fn growth(bench: &mut Bench, act: impl FnOnce(&mut Bench)) -> u64 {
    let before = bench.stats()["memory_bytes"].as_u64().unwrap();
    act(bench);
    bench.stats()["memory_bytes"].as_u64().unwrap() - before
}

#[test]
fn names_and_texts_count_with_their_length() {
    let mut bench = bench();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    let (short, long) = ("x", "x".repeat(128));
    let start = |name: &str, label: usize| {
        let (channel, label) = (format!("c{}", &name[1..]), "l".repeat(label));
        json!({"action": "operation_start", "operation_id": name, "channel": channel, "user_id": name, "label": label})
    };
    let little = growth(&mut bench, |bench| drop(bench.say(worker, start(short, 1))));
    let much = growth(&mut bench, |bench| drop(bench.say(worker, start(&long, 1024))));
    assert_eq!(much - little, 3 * 127 + 1023, "an operation");
    for (kind, name) in [("subscribe", &long[1..]), ("user", &long[2..])] {
        let of = |name: &str| match kind {
            "user" => json!({"user_id": name, "event": "say"}),
            _ => json!({"action": "subscribe", "channel": name}),
        };
        let little = growth(&mut bench, |bench| drop(bench.say(worker, of("y"))));
        let much = growth(&mut bench, |bench| drop(bench.say(worker, of(name))));
        assert_eq!(much - little, name.len() as u64 - 1, "{kind}");
    }
    let watch = json!({"action": "subscribe", "channel": "room", "presence": true});
    bench.subscribe(alice, "room");
    let watched = growth(&mut bench, |bench| drop(bench.say(alice, watch.clone())));
    assert!(watched > 400, "{watched}: a list of who is here");
    let ended = json!({"action": "operation_end", "operation_id": short, "state": "failed", "data": "d".repeat(4000)});
    let before = bench.stats()["memory_bytes"].as_u64().unwrap();
    bench.say(worker, ended);
    assert!(bench.stats()["memory_bytes"].as_u64().unwrap() > before + 2500, "it is remembered");
}

#[test]
fn messages_of_very_many_channels_use_at_most_their_half() {
    let mut bench = bench();
    let (worker, alice) = (bench.worker(), bench.client("alice"));
    // The traffic of a busy page, which is more than is left alone at the ceiling.
    for n in 0..70 {
        bench.subscribe(alice, &format!("hers:{n}"));
    }
    bench.hush(alice);
    for n in 0..3000 {
        bench.say(worker, json!({"channel": format!("nobody:{n}"), "event": "log"}));
    }
    hold(&mut bench, 100_000, &[]);
    bench.wait(11.0);
    hold(&mut bench, 100_000, &[]);
    let stats = bench.stats();
    assert!(stats["memory_bytes"].as_u64().unwrap() < 700_000, "{stats}");
    assert!(stats["kept_messages"].as_u64().unwrap() > 300, "{stats}");
    assert_eq!(bench.hub.memory_level(), Level::Calm, "newcomers are let in");
    assert!(bench.story(alice).is_empty(), "nobody has to leave for what nobody hears");
}

#[test]
fn unauthenticated_connections_are_closed_before_others() {
    let mut bench = bench();
    let (alice, stranger) = (bench.client("alice"), bench.stranger());
    bench.hush(stranger);
    hold(&mut bench, 1_000_000, &[(alice, 100_000), (stranger, 60_000)]);
    assert_eq!(bench.story(stranger), ["closed 4102"]);
    assert_eq!(bench.say(alice, json!({"action": "ping"})), ["pong"]);
}
