//! The client library, over more than one connection.

use std::time::Duration;

use serde_json::{Value, json};
use smol::future;
use wshubd::client::{Client, Connection, ConnectionTask, Error, Lines, News, Options, Publication, Start};
use wshubd::protocol::EndState;

use crate::fake_hub::Place;

/// Plays a hub, which is started as often as it accepts, while the story of the
/// worker is told here.
fn play(
    hub: impl FnOnce(&Place) + Send + 'static,
    options: impl FnOnce(Options) -> Options,
    worker: impl AsyncFnOnce(&Client, &Lines),
) {
    let place = Place::new();
    let options = options(Options::new(place.path()));
    let played = std::thread::spawn(move || hub(&place));
    smol::block_on(async {
        let Connection { client, lines, link } = options.connect().await.unwrap();
        future::or(worker(&client, &lines), carried(link)).await;
    });
    played.join().unwrap();
}

/// Carries what the story says and hears; the story ends it.
async fn carried(link: ConnectionTask) {
    let _ = link.run().await;
    future::pending().await
}

fn message(data: &u64) -> Publication<'_, u64> {
    Publication::to_channel("logs", "n", data)
}

/// Reads on until the connection is lost.
async fn away(lines: &Lines) {
    while !matches!(lines.news().await.unwrap(), News::Away(_)) {}
}

async fn back(lines: &Lines) {
    while !matches!(lines.news().await.unwrap(), News::Back) {}
}

#[test]
fn an_operation_is_registered_again_and_can_be_stopped_then() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let start = peer.expects(json!({"action": "operation_start", "deadline": 3600}));
        peer.grants(&start, json!({}));
        drop(peer);

        let mut peer = place.welcome();
        let again = peer.expects(json!({
            "action": "operation_start", "operation_id": "op", "channel": "logs", "user_id": "ada",
            "label": "nightly", "interrupt_grace": 7
        }));
        // The time that has passed meanwhile counts.
        let left = again["deadline"].as_f64().unwrap();
        assert!(left > 3000.0 && left <= 3600.0, "{again}");
        peer.grants(&again, json!({}));
        peer.says(json!({"type": "interrupt", "operation_id": "op", "from": "http"}));
        let end = peer.expects(json!({"action": "operation_end", "state": "interrupted"}));
        peer.grants(&end, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, _| {
            let start = Start {
                user_id: Some("ada"),
                label: Some("nightly"),
                deadline: Some(Duration::from_secs(3600)),
                interrupt_grace: Some(Duration::from_secs(7)),
                ..Start::new("op", "logs")
            };
            let operation = client.start(start).await.unwrap();
            assert_eq!(operation.interrupted().await.unwrap().from, "http");
            operation.end(EndState::Interrupted, &()).await.unwrap();
        },
    );
}

#[test]
fn an_interrupt_outlives_the_hub_that_passed_it_on() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let start = peer.hears();
        peer.grants(&start, json!({}));
        peer.says(json!({"type": "interrupt", "operation_id": "op", "from": "http"}));
        drop(peer);
        let mut peer = place.welcome();
        let again = peer.expects(json!({"action": "operation_start"}));
        peer.grants(&again, json!({}));
        let end = peer.expects(json!({"action": "operation_end"}));
        peer.grants(&end, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            let operation = client.start(Start::new("op", "logs")).await.unwrap();
            back(lines).await;
            assert!(operation.is_interrupted());
            operation.end(EndState::Interrupted, &()).await.unwrap();
        },
    );
}

#[test]
fn what_is_not_confirmed_comes_again_in_order_and_under_the_same_id() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let confirmed = peer.expects(json!({"data": 0}));
        peer.grants(&confirmed, json!({}));
        let lost: Vec<Value> = (1..=3).map(|data| peer.expects(json!({"data": data}))).collect();
        drop(peer);

        let mut peer = place.welcome();
        for before in &lost {
            peer.expects(json!({"data": before["data"], "message_id": before["message_id"]}));
        }
        let flush = peer.expects(json!({"action": "ping"}));
        peer.grants(&flush, json!({}));
        let names: std::collections::HashSet<_> =
            lost.iter().chain([&confirmed]).map(|line| line["message_id"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 4);
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            client.publish(&message(&0)).await.unwrap();
            for data in 1..=3 {
                client.send(&message(&data)).await.unwrap();
            }
            away(lines).await;
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn one_answer_confirms_all_that_was_written_before() {
    const COUNT: u64 = 5000;
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let mut named = 0;
        for data in 0..COUNT {
            let heard = peer.expects(json!({"data": data}));
            named += u64::from(!heard["id"].is_null());
            if data + 1 == COUNT {
                // Only the last; what came before is not asked for again.
                peer.grants(&heard, json!({}));
            }
        }
        assert!(named < COUNT / 10, "{named} answers were asked for");
        let stop = peer.hears();
        peer.grants(&stop, json!({}));
        drop(peer);
        let mut peer = place.welcome();
        peer.expects(json!({"action": "ping"}));
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            for data in 0..COUNT {
                client.send(&message(&data)).await.unwrap();
            }
            client.flush().await.unwrap();
            away(lines).await;
            let _ = future::or(async { client.flush().await.ok() }, async {
                back(lines).await;
                None
            })
            .await;
        },
    );
}

#[test]
fn what_finds_no_room_is_dropped_counted_and_told_at_once() {
    let (told, count) = std::sync::mpsc::channel();
    let hub = move |place: &Place| {
        drop(place.accept());
        let taken: u64 = count.recv().unwrap();
        let mut peer = place.welcome();
        for data in 0..taken {
            let heard = peer.expects(json!({"data": data}));
            peer.grants_if_asked(&heard);
        }
        let last = peer.expects(json!({"data": 1000}));
        peer.grants(&last, json!({}));
    };
    play(
        hub,
        |usual| usual.buffer(4096),
        async |client, lines| {
            away(lines).await;
            let mut taken = 0;
            let error = loop {
                match client.send(&message(&taken)).await {
                    Ok(()) => taken += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::Full { bound: 4096 }), "{error}");
            assert!(taken > 10 && client.dropped() == 1, "{taken} taken, {} dropped", client.dropped());
            told.send(taken).unwrap();
            back(lines).await;
            while client.publish(&message(&1000)).await.is_err() {}
        },
    );
}

#[test]
fn an_end_said_while_the_hub_is_away_is_told_when_it_is_back() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let start = peer.hears();
        peer.grants(&start, json!({}));
        drop(peer);
        let mut peer = place.welcome();
        let again = peer.expects(json!({"action": "operation_start", "operation_id": "op"}));
        peer.expects(json!({"data": 5}));
        let end = peer.expects(json!({"action": "operation_end", "state": "completed", "data": 9}));
        peer.grants(&again, json!({}));
        peer.grants(&end, json!({}));
        drop(peer);
        // Once it is known to be over it does not begin again.
        let mut peer = place.welcome();
        let next = peer.expects(json!({"data": 6}));
        peer.grants(&next, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            let operation = client.start(Start::new("op", "logs")).await.unwrap();
            away(lines).await;
            client.send(&message(&5)).await.unwrap();
            operation.end(EndState::Completed, &9).await.unwrap();
            away(lines).await;
            client.publish(&message(&6)).await.unwrap();
        },
    );
}

#[test]
fn nobody_waits_for_ever_for_a_hub_that_is_away_but_an_end_is_told_all_the_same() {
    let (told, gone) = std::sync::mpsc::channel::<()>();
    let hub = move |place: &Place| {
        let mut peer = place.accept();
        let start = peer.hears();
        peer.grants(&start, json!({}));
        drop(peer);
        gone.recv().unwrap();
        let mut peer = place.welcome();
        let again = peer.expects(json!({"action": "operation_start"}));
        peer.grants(&again, json!({}));
        let end = peer.expects(json!({"action": "operation_end", "state": "failed"}));
        peer.grants(&end, json!({}));
        // The message that was given up does not come after it.
        let flush = peer.expects(json!({"action": "ping"}));
        peer.grants(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual.patience(Duration::from_millis(1)),
        async |client, lines| {
            let operation = client.start(Start::new("op", "logs")).await.unwrap();
            away(lines).await;
            for _ in 0..2 {
                assert!(matches!(client.publish(&message(&1)).await, Err(Error::Away { .. })));
            }
            assert!(matches!(operation.end(EndState::Failed, &()).await, Err(Error::Away { .. })));
            told.send(()).unwrap();
            back(lines).await;
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn a_message_that_outlived_its_ttl_is_not_sent_late() {
    let (told, gone) = std::sync::mpsc::channel::<()>();
    let hub = move |place: &Place| {
        drop(place.accept());
        gone.recv().unwrap();
        let mut peer = place.welcome();
        let last = peer.expects(json!({"data": 2}));
        peer.grants(&last, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            away(lines).await;
            let now_or_never = Publication { ttl: Some(Duration::ZERO), ..message(&1) };
            let pending = client.begin_publish(&now_or_never).await.unwrap();
            told.send(()).unwrap();
            assert!(matches!(pending.answer().await, Err(Error::Expired)));
            client.publish(&message(&2)).await.unwrap();
        },
    );
}

#[test]
fn an_operation_that_the_hub_will_not_have_again_says_so() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let start = peer.hears();
        peer.grants(&start, json!({}));
        drop(peer);
        let mut peer = place.welcome();
        let again = peer.hears();
        peer.refuses(&again, "forbidden", "not any more");
        peer.has_left();
    };
    play(
        hub,
        |usual| usual,
        async |client, _| {
            let operation = client.start(Start::new("op", "logs")).await.unwrap();
            assert_eq!(operation.interrupted().await.unwrap_err().code(), Some("forbidden"));
            assert_eq!(operation.end(EndState::Failed, &()).await.unwrap_err().code(), Some("forbidden"));
        },
    );
}

#[test]
fn a_conflict_with_ones_own_old_connection_passes() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let start = peer.hears();
        peer.grants(&start, json!({}));
        drop(peer);
        let mut peer = place.welcome();
        let again = peer.hears();
        peer.refuses(&again, "conflict", "it runs already");
        let again = peer.expects(json!({"action": "operation_start", "operation_id": "op"}));
        peer.grants(&again, json!({}));
        peer.says(json!({"type": "interrupt", "operation_id": "op", "from": "http"}));
        let end = peer.expects(json!({"action": "operation_end"}));
        peer.grants(&end, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, _| {
            let operation = client.start(Start::new("op", "logs")).await.unwrap();
            operation.interrupted().await.unwrap();
            operation.end(EndState::Interrupted, &()).await.unwrap();
        },
    );
}

#[test]
fn nobody_knows_what_became_of_a_question_that_was_on_its_way() {
    let hub = |place: &Place| {
        place.accept().expects(json!({"action": "purge"}));
        // It is not asked twice.
        let mut peer = place.welcome();
        let next = peer.expects(json!({"data": 1}));
        peer.grants(&next, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, _| {
            let pending = client.request(&json!({"action": "purge", "channel": "logs"})).await.unwrap();
            assert!(matches!(pending.answer().await, Err(Error::Lost { .. })));
            client.publish(&message(&1)).await.unwrap();
        },
    );
}

#[test]
fn an_operation_that_is_dropped_has_failed() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let start = peer.hears();
        peer.grants(&start, json!({}));
        let end = peer.expects(json!({"action": "operation_end", "operation_id": "op", "state": "failed"}));
        peer.grants(&end, json!({}));
        let flush = peer.hears();
        peer.grants(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, _| {
            drop(client.start(Start::new("op", "logs")).await.unwrap());
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn a_channel_that_was_left_is_not_heard_again() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        for _ in 0..3 {
            let request = peer.hears();
            peer.grants(&request, json!({"epoch": "e", "seq": 3}));
        }
        drop(peer);
        let mut peer = place.welcome();
        let again = peer.expects(json!({"channel": "b", "since": {"epoch": "e", "seq": 3}}));
        peer.grants(&again, json!({"epoch": "f", "seq": 1, "recovered": false}));
        peer.says(json!({"type": "gap", "channel": "b", "epoch": "f", "cause": "epoch"}));
        drop(peer);
        // The epoch is another one, and counts from where the hub said.
        let mut peer = place.welcome();
        peer.expects(json!({"channel": "b", "since": {"epoch": "f", "seq": 1}}));
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            client.subscribe("a").await.unwrap();
            client.subscribe("b").await.unwrap();
            client.unsubscribe("a").await.unwrap();
            back(lines).await;
            assert!(matches!(lines.news().await, Some(News::Line(gap)) if gap.kind() == "gap"));
            back(lines).await;
        },
    );
}

#[test]
fn a_hub_that_turns_a_worker_away_is_left_alone() {
    let place = Place::new();
    let options = Options::new(place.path());
    let hub = std::thread::spawn(move || {
        let refusal = json!({"type": "error", "code": "forbidden", "message": "uid 7 may not speak here"});
        place.accept().says(refusal);
    });
    let error = smol::block_on(async {
        let Connection { client, lines: _lines, link } = options.connect().await.unwrap();
        let error = link.run().await.unwrap_err();
        assert!(client.send(&message(&1)).await.unwrap_err().to_string().contains("uid 7"));
        error
    });
    assert!(matches!(&error, Error::TurnedAway { why, .. } if why.contains("uid 7")), "{error}");
    hub.join().unwrap();
}

#[test]
fn a_worker_may_be_there_before_its_hub() {
    let place = Place::new();
    let Connection { client, lines, link } = Options::new(place.path()).connect_later();
    let hub = std::thread::spawn(move || {
        let mut peer = place.welcome();
        let heard = peer.expects(json!({"data": 1}));
        peer.grants(&heard, json!({}));
    });
    smol::block_on(async {
        let story = async {
            client.publish(&message(&1)).await.unwrap();
            assert!(matches!(lines.news().await, Some(News::Back)));
        };
        future::or(story, carried(link)).await;
    });
    hub.join().unwrap();
}

/// Only for a story that has gone wrong: it ends then, instead of hanging.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    let late = async {
        smol::Timer::after(Duration::from_secs(30)).await;
        panic!("nothing has happened")
    };
    future::or(what, late).await
}

#[test]
fn a_question_that_the_link_has_never_taken_ends_with_it() {
    let place = Place::new();
    smol::block_on(async {
        let Connection { client, lines: _lines, link } = Options::new(place.path()).connect().await.unwrap();
        let pending = client.begin_publish(&message(&1)).await.unwrap();
        drop(link);
        assert!(matches!(soon(pending.answer()).await, Err(Error::Lost { .. })));
    });
}

#[test]
fn what_is_said_again_is_confirmed_though_what_stood_behind_it_was_given_up() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        peer.expects(json!({"data": 1}));
        peer.expects(json!({"action": "purge"}));
        drop(peer);
        let mut peer = place.welcome();
        let again = peer.expects(json!({"data": 1}));
        assert!(!again["id"].is_null(), "{again}");
        peer.grants(&again, json!({}));
        // All is taken, so that nothing is left to come back for.
        peer.has_left();
    };
    let place = Place::new();
    let options = Options::new(place.path());
    let hub = std::thread::spawn(move || hub(&place));
    smol::block_on(async {
        let Connection { client, lines, link } = options.connect().await.unwrap();
        let story = async move {
            client.send(&message(&1)).await.unwrap();
            let pending = client.request(&json!({"action": "purge", "channel": "logs"})).await.unwrap();
            assert!(matches!(pending.answer().await, Err(Error::Lost { .. })));
            back(&lines).await;
        };
        let (end, ()) = soon(future::zip(link.run(), story)).await;
        end.unwrap();
    });
    hub.join().unwrap();
}

#[test]
fn what_waits_for_the_disk_is_not_confirmed_by_what_came_after_it() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let durable = peer.expects(json!({"data": 1, "durable": true}));
        let behind = peer.expects(json!({"data": 2}));
        peer.grants(&behind, json!({}));
        drop(peer);
        let mut peer = place.welcome();
        let again = peer.expects(json!({"data": 1, "message_id": durable["message_id"]}));
        peer.grants(&again, json!({}));
        let flush = peer.expects(json!({"action": "ping"}));
        peer.grants(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            client.send(&Publication { durable: true, ..message(&1) }).await.unwrap();
            client.publish(&message(&2)).await.unwrap();
            away(lines).await;
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn a_channel_that_was_left_before_it_was_granted_is_not_heard_again() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        for request in [peer.hears(), peer.hears()] {
            peer.grants(&request, json!({"epoch": "e", "seq": 3}));
        }
        drop(peer);
        let mut peer = place.welcome();
        let flush = peer.expects(json!({"action": "ping"}));
        peer.grants(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            let pending = client.begin_subscribe("a").await.unwrap();
            client.unsubscribe("a").await.unwrap();
            pending.answer().await.unwrap();
            away(lines).await;
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn a_name_that_is_too_long_is_no_reason_to_refuse_a_long_message() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        peer.expects(json!({"data": 1}));
        let long = peer.hears();
        peer.says(json!({"type": "error", "code": "too_large", "action": "publish", "message": "`event`"}));
        peer.grants(&long, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            let event = "e".repeat(200);
            client.send(&Publication::to_channel("logs", &event, &1)).await.unwrap();
            let text = "x".repeat(4000);
            client.publish(&Publication::to_channel("logs", "n", &text)).await.unwrap();
            assert_eq!(lines.next().await.unwrap().kind(), "error");
        },
    );
}

#[test]
fn an_operation_that_nobody_waited_for_ends_though_its_answer_had_come() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let start = peer.expects(json!({"action": "operation_start"}));
        peer.grants(&start, json!({}));
        peer.says(json!({"type": "later"}));
        peer.expects(json!({"action": "operation_end", "operation_id": "op", "state": "failed"}));
    };
    let place = Place::new();
    let options = Options::new(place.path());
    let hub = std::thread::spawn(move || hub(&place));
    smol::block_on(async {
        let Connection { client, lines, link } = options.connect().await.unwrap();
        let story = async {
            {
                let mut start = std::pin::pin!(client.start(Start::new("op", "logs")));
                assert!(future::poll_once(&mut start).await.is_none());
                assert_eq!(lines.next().await.unwrap().kind(), "later");
            }
            away(&lines).await;
        };
        soon(future::or(story, carried(link))).await;
    });
    hub.join().unwrap();
}

#[test]
fn a_channel_that_is_asked_for_twice_goes_on_from_where_it_was() {
    let hub = |place: &Place| {
        let mut peer = place.accept();
        let request = peer.hears();
        peer.grants(&request, json!({"epoch": "e", "seq": 3}));
        drop(peer);
        let mut peer = place.welcome();
        let request = peer.expects(json!({"action": "subscribe", "since": {"epoch": "e", "seq": 3}}));
        peer.grants(&request, json!({"epoch": "e", "seq": 5, "recovered": true}));
        let flush = peer.expects(json!({"action": "ping"}));
        peer.grants(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, lines| {
            client.subscribe("a").await.unwrap();
            away(lines).await;
            client.subscribe("a").await.unwrap();
            client.flush().await.unwrap();
        },
    );
}
