//! The client library, over more than one connection.

use std::time::Duration;

use serde_json::{Value, json};
use smol::future;
use wshubd::client::{
    Client, ClientEvent, ConnectOptions, ConnectionTask, Error, Events, PublishRequest, StartRequest,
    WorkerConnection,
};
use wshubd::protocol::EndState;

use crate::fake_hub::HubSocket;

/// Plays a hub, which is started as often as it accepts, while the story of the
/// worker is told here.
fn play(
    hub: impl FnOnce(&HubSocket) + Send + 'static,
    options: impl FnOnce(ConnectOptions) -> ConnectOptions,
    worker: impl AsyncFnOnce(&Client, &Events),
) {
    let socket = HubSocket::new();
    let options = options(ConnectOptions::new(socket.path()));
    let played = std::thread::spawn(move || hub(&socket));
    smol::block_on(async {
        let WorkerConnection { client, events, task } = options.connect().await.unwrap();
        future::or(worker(&client, &events), carried(task)).await;
    });
    played.join().unwrap();
}

/// Carries what the story says and hears; the story ends it.
async fn carried(task: ConnectionTask) {
    let _ = task.run().await;
    future::pending().await
}

fn message(data: &u64) -> PublishRequest<'_, u64> {
    PublishRequest::to_channel("logs", "n", data)
}

/// Reads on until the connection is lost.
async fn away(events: &Events) {
    while !matches!(events.next_event().await.unwrap(), ClientEvent::Disconnected(_)) {}
}

async fn back(events: &Events) {
    while !matches!(events.next_event().await.unwrap(), ClientEvent::Reconnected) {}
}

#[test]
fn an_operation_is_registered_again_and_can_be_stopped_then() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let start = peer.expect_line(json!({"action": "operation_start", "deadline": 3600}));
        peer.grant(&start, json!({}));
        drop(peer);

        let mut peer = socket.accept_probed();
        let again = peer.expect_line(json!({
            "action": "operation_start", "operation_id": "op", "channel": "logs", "user_id": "ada",
            "label": "nightly", "interrupt_grace": 7
        }));
        // The time that has passed meanwhile counts.
        let left = again["deadline"].as_f64().unwrap();
        assert!(left > 3000.0 && left <= 3600.0, "{again}");
        peer.grant(&again, json!({}));
        peer.send(json!({"type": "interrupt", "operation_id": "op", "from": "http"}));
        let end = peer.expect_line(json!({"action": "operation_end", "state": "interrupted"}));
        peer.grant(&end, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, _| {
            let start = StartRequest {
                user_id: Some("ada"),
                label: Some("nightly"),
                deadline: Some(Duration::from_secs(3600)),
                interrupt_grace: Some(Duration::from_secs(7)),
                ..StartRequest::new("op", "logs")
            };
            let operation = client.start(start).await.unwrap();
            assert_eq!(operation.interrupted().await.unwrap().from, "http");
            operation.end(EndState::Interrupted, &()).await.unwrap();
        },
    );
}

#[test]
fn an_interrupt_outlives_the_hub_that_passed_it_on() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let start = peer.receive();
        peer.grant(&start, json!({}));
        peer.send(json!({"type": "interrupt", "operation_id": "op", "from": "http"}));
        drop(peer);
        let mut peer = socket.accept_probed();
        let again = peer.expect_line(json!({"action": "operation_start"}));
        peer.grant(&again, json!({}));
        let end = peer.expect_line(json!({"action": "operation_end"}));
        peer.grant(&end, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            let operation = client.start(StartRequest::new("op", "logs")).await.unwrap();
            back(events).await;
            assert!(operation.is_interrupted());
            operation.end(EndState::Interrupted, &()).await.unwrap();
        },
    );
}

#[test]
fn unconfirmed_messages_are_repeated_in_order_with_their_ids() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let confirmed = peer.expect_line(json!({"data": 0}));
        peer.grant(&confirmed, json!({}));
        let lost: Vec<Value> = (1..=3).map(|data| peer.expect_line(json!({"data": data}))).collect();
        drop(peer);

        let mut peer = socket.accept_probed();
        for before in &lost {
            peer.expect_line(json!({"data": before["data"], "message_id": before["message_id"]}));
        }
        let flush = peer.expect_line(json!({"action": "ping"}));
        peer.grant(&flush, json!({}));
        let names: std::collections::HashSet<_> =
            lost.iter().chain([&confirmed]).map(|line| line["message_id"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 4);
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            client.publish(&message(&0)).await.unwrap();
            for data in 1..=3 {
                client.send(&message(&data)).await.unwrap();
            }
            away(events).await;
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn one_answer_confirms_all_that_was_written_before() {
    const COUNT: u64 = 5000;
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let mut named = 0;
        for data in 0..COUNT {
            let received = peer.expect_line(json!({"data": data}));
            named += u64::from(!received["id"].is_null());
            if data + 1 == COUNT {
                // Only the last; what came before is not asked for again.
                peer.grant(&received, json!({}));
            }
        }
        assert!(named < COUNT / 10, "{named} answers were asked for");
        let stop = peer.receive();
        peer.grant(&stop, json!({}));
        drop(peer);
        let mut peer = socket.accept_probed();
        peer.expect_line(json!({"action": "ping"}));
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            for data in 0..COUNT {
                client.send(&message(&data)).await.unwrap();
            }
            client.flush().await.unwrap();
            away(events).await;
            let _ = future::or(async { client.flush().await.ok() }, async {
                back(events).await;
                None
            })
            .await;
        },
    );
}

#[test]
fn a_message_that_does_not_fit_is_dropped_counted_and_an_error() {
    let (told, count) = std::sync::mpsc::channel();
    let hub = move |socket: &HubSocket| {
        drop(socket.accept());
        let taken: u64 = count.recv().unwrap();
        let mut peer = socket.accept_probed();
        for data in 0..taken {
            let received = peer.expect_line(json!({"data": data}));
            peer.grant_if_asked(&received);
        }
        let last = peer.expect_line(json!({"data": 1000}));
        peer.grant(&last, json!({}));
    };
    play(
        hub,
        |usual| usual.buffer(4096),
        async |client, events| {
            away(events).await;
            let mut taken = 0;
            let error = loop {
                match client.send(&message(&taken)).await {
                    Ok(()) => taken += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(error, Error::QueueFull { bound: 4096 }), "{error}");
            assert!(taken > 10 && client.dropped() == 1, "{taken} taken, {} dropped", client.dropped());
            told.send(taken).unwrap();
            back(events).await;
            while client.publish(&message(&1000)).await.is_err() {}
        },
    );
}

#[test]
fn an_end_while_disconnected_is_sent_after_the_reconnect() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let start = peer.receive();
        peer.grant(&start, json!({}));
        drop(peer);
        let mut peer = socket.accept_probed();
        let again = peer.expect_line(json!({"action": "operation_start", "operation_id": "op"}));
        peer.expect_line(json!({"data": 5}));
        let end = peer.expect_line(json!({"action": "operation_end", "state": "completed", "data": 9}));
        peer.grant(&again, json!({}));
        peer.grant(&end, json!({}));
        drop(peer);
        // Once it is known to be over it does not begin again.
        let mut peer = socket.accept_probed();
        let next = peer.expect_line(json!({"data": 6}));
        peer.grant(&next, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            let operation = client.start(StartRequest::new("op", "logs")).await.unwrap();
            away(events).await;
            client.send(&message(&5)).await.unwrap();
            operation.end(EndState::Completed, &9).await.unwrap();
            away(events).await;
            client.publish(&message(&6)).await.unwrap();
        },
    );
}

#[test]
fn waits_for_a_lost_hub_end_but_the_end_of_an_operation_is_sent() {
    let (told, gone) = std::sync::mpsc::channel::<()>();
    let hub = move |socket: &HubSocket| {
        let mut peer = socket.accept();
        let start = peer.receive();
        peer.grant(&start, json!({}));
        drop(peer);
        gone.recv().unwrap();
        let mut peer = socket.accept_probed();
        let again = peer.expect_line(json!({"action": "operation_start"}));
        peer.grant(&again, json!({}));
        let end = peer.expect_line(json!({"action": "operation_end", "state": "failed"}));
        peer.grant(&end, json!({}));
        // The message that was given up does not come after it.
        let flush = peer.expect_line(json!({"action": "ping"}));
        peer.grant(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual.patience(Duration::from_millis(1)),
        async |client, events| {
            let operation = client.start(StartRequest::new("op", "logs")).await.unwrap();
            away(events).await;
            for _ in 0..2 {
                assert!(matches!(client.publish(&message(&1)).await, Err(Error::Unavailable { .. })));
            }
            assert!(matches!(operation.end(EndState::Failed, &()).await, Err(Error::Unavailable { .. })));
            told.send(()).unwrap();
            back(events).await;
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn a_message_that_outlived_its_ttl_is_not_sent_late() {
    let (told, gone) = std::sync::mpsc::channel::<()>();
    let hub = move |socket: &HubSocket| {
        drop(socket.accept());
        gone.recv().unwrap();
        let mut peer = socket.accept_probed();
        let last = peer.expect_line(json!({"data": 2}));
        peer.grant(&last, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            away(events).await;
            let now_or_never = PublishRequest { ttl: Some(Duration::ZERO), ..message(&1) };
            let pending = client.begin_publish(&now_or_never).await.unwrap();
            told.send(()).unwrap();
            assert!(matches!(pending.answer().await, Err(Error::Expired)));
            client.publish(&message(&2)).await.unwrap();
        },
    );
}

#[test]
fn an_operation_that_the_hub_does_not_take_again_gets_the_error() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let start = peer.receive();
        peer.grant(&start, json!({}));
        drop(peer);
        let mut peer = socket.accept_probed();
        let again = peer.receive();
        peer.refuse(&again, "forbidden", "not any more");
        peer.expect_end();
    };
    play(
        hub,
        |usual| usual,
        async |client, _| {
            let operation = client.start(StartRequest::new("op", "logs")).await.unwrap();
            assert_eq!(operation.interrupted().await.unwrap_err().code(), Some("forbidden"));
            assert_eq!(operation.end(EndState::Failed, &()).await.unwrap_err().code(), Some("forbidden"));
        },
    );
}

#[test]
fn a_conflict_with_the_own_old_connection_passes() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let start = peer.receive();
        peer.grant(&start, json!({}));
        drop(peer);
        let mut peer = socket.accept_probed();
        let again = peer.receive();
        peer.refuse(&again, "conflict", "it runs already");
        let again = peer.expect_line(json!({"action": "operation_start", "operation_id": "op"}));
        peer.grant(&again, json!({}));
        peer.send(json!({"type": "interrupt", "operation_id": "op", "from": "http"}));
        let end = peer.expect_line(json!({"action": "operation_end"}));
        peer.grant(&end, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, _| {
            let operation = client.start(StartRequest::new("op", "logs")).await.unwrap();
            operation.interrupted().await.unwrap();
            operation.end(EndState::Interrupted, &()).await.unwrap();
        },
    );
}

#[test]
fn a_request_that_was_on_its_way_is_lost_with_its_connection() {
    let hub = |socket: &HubSocket| {
        socket.accept().expect_line(json!({"action": "purge"}));
        // It is not asked twice.
        let mut peer = socket.accept_probed();
        let next = peer.expect_line(json!({"data": 1}));
        peer.grant(&next, json!({}));
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
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let start = peer.receive();
        peer.grant(&start, json!({}));
        let end =
            peer.expect_line(json!({"action": "operation_end", "operation_id": "op", "state": "failed"}));
        peer.grant(&end, json!({}));
        let flush = peer.receive();
        peer.grant(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, _| {
            drop(client.start(StartRequest::new("op", "logs")).await.unwrap());
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn a_channel_that_was_left_is_not_restored() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        for _ in 0..3 {
            let request = peer.receive();
            peer.grant(&request, json!({"epoch": "e", "seq": 3}));
        }
        drop(peer);
        let mut peer = socket.accept_probed();
        let again = peer.expect_line(json!({"channel": "b", "since": {"epoch": "e", "seq": 3}}));
        peer.grant(&again, json!({"epoch": "f", "seq": 1, "recovered": false}));
        peer.send(json!({"type": "gap", "channel": "b", "epoch": "f", "cause": "epoch"}));
        drop(peer);
        // The epoch is another one, and counts from where the hub said.
        let mut peer = socket.accept_probed();
        peer.expect_line(json!({"channel": "b", "since": {"epoch": "f", "seq": 1}}));
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            client.subscribe("a").await.unwrap();
            client.subscribe("b").await.unwrap();
            client.unsubscribe("a").await.unwrap();
            back(events).await;
            assert!(matches!(events.next_event().await, Some(ClientEvent::Line(gap)) if gap.kind() == "gap"));
            back(events).await;
        },
    );
}

#[test]
fn a_hub_that_rejects_a_worker_is_not_tried_again() {
    let socket = HubSocket::new();
    let options = ConnectOptions::new(socket.path());
    let hub = std::thread::spawn(move || {
        let refusal = json!({"type": "error", "code": "forbidden", "message": "uid 7 may not speak here"});
        socket.accept().send(refusal);
    });
    let error = smol::block_on(async {
        let WorkerConnection { client, events: _events, task } = options.connect().await.unwrap();
        let error = task.run().await.unwrap_err();
        assert!(client.send(&message(&1)).await.unwrap_err().to_string().contains("uid 7"));
        error
    });
    assert!(matches!(&error, Error::Rejected { why, .. } if why.contains("uid 7")), "{error}");
    hub.join().unwrap();
}

#[test]
fn a_worker_may_start_before_its_hub() {
    let socket = HubSocket::new();
    let WorkerConnection { client, events, task } = ConnectOptions::new(socket.path()).connect_later();
    let hub = std::thread::spawn(move || {
        let mut peer = socket.accept_probed();
        let received = peer.expect_line(json!({"data": 1}));
        peer.grant(&received, json!({}));
    });
    smol::block_on(async {
        let story = async {
            client.publish(&message(&1)).await.unwrap();
            assert!(matches!(events.next_event().await, Some(ClientEvent::Reconnected)));
        };
        future::or(story, carried(task)).await;
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
fn a_request_that_the_task_has_never_taken_ends_with_it() {
    let socket = HubSocket::new();
    smol::block_on(async {
        let WorkerConnection { client, events: _events, task } =
            ConnectOptions::new(socket.path()).connect().await.unwrap();
        let pending = client.begin_publish(&message(&1)).await.unwrap();
        drop(task);
        assert!(matches!(soon(pending.answer()).await, Err(Error::Lost { .. })));
    });
}

#[test]
fn a_resent_message_is_confirmed_though_the_next_was_given_up() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        peer.expect_line(json!({"data": 1}));
        peer.expect_line(json!({"action": "purge"}));
        drop(peer);
        let mut peer = socket.accept_probed();
        let again = peer.expect_line(json!({"data": 1}));
        assert!(!again["id"].is_null(), "{again}");
        peer.grant(&again, json!({}));
        // All is taken, so that nothing is left to come back for.
        peer.expect_end();
    };
    let socket = HubSocket::new();
    let options = ConnectOptions::new(socket.path());
    let hub = std::thread::spawn(move || hub(&socket));
    smol::block_on(async {
        let WorkerConnection { client, events, task } = options.connect().await.unwrap();
        let story = async move {
            client.send(&message(&1)).await.unwrap();
            let pending = client.request(&json!({"action": "purge", "channel": "logs"})).await.unwrap();
            assert!(matches!(pending.answer().await, Err(Error::Lost { .. })));
            back(&events).await;
        };
        let (end, ()) = soon(future::zip(task.run(), story)).await;
        end.unwrap();
    });
    hub.join().unwrap();
}

#[test]
fn a_durable_message_is_not_confirmed_by_a_later_answer() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let durable = peer.expect_line(json!({"data": 1, "durable": true}));
        let behind = peer.expect_line(json!({"data": 2}));
        peer.grant(&behind, json!({}));
        drop(peer);
        let mut peer = socket.accept_probed();
        let again = peer.expect_line(json!({"data": 1, "message_id": durable["message_id"]}));
        peer.grant(&again, json!({}));
        let flush = peer.expect_line(json!({"action": "ping"}));
        peer.grant(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            client.send(&PublishRequest { durable: true, ..message(&1) }).await.unwrap();
            client.publish(&message(&2)).await.unwrap();
            away(events).await;
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn a_channel_left_before_its_grant_is_not_restored() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        for request in [peer.receive(), peer.receive()] {
            peer.grant(&request, json!({"epoch": "e", "seq": 3}));
        }
        drop(peer);
        let mut peer = socket.accept_probed();
        let flush = peer.expect_line(json!({"action": "ping"}));
        peer.grant(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            let pending = client.begin_subscribe("a").await.unwrap();
            client.unsubscribe("a").await.unwrap();
            pending.answer().await.unwrap();
            away(events).await;
            client.flush().await.unwrap();
        },
    );
}

#[test]
fn an_error_about_a_long_name_does_not_refuse_a_long_message() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        peer.expect_line(json!({"data": 1}));
        let long = peer.receive();
        peer.send(json!({"type": "error", "code": "too_large", "action": "publish", "message": "`event`"}));
        peer.grant(&long, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            let event = "e".repeat(200);
            client.send(&PublishRequest::to_channel("logs", &event, &1)).await.unwrap();
            let text = "x".repeat(4000);
            client.publish(&PublishRequest::to_channel("logs", "n", &text)).await.unwrap();
            assert_eq!(events.next_line().await.unwrap().kind(), "error");
        },
    );
}

#[test]
fn an_abandoned_operation_ends_though_its_answer_had_come() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let start = peer.expect_line(json!({"action": "operation_start"}));
        peer.grant(&start, json!({}));
        peer.send(json!({"type": "later"}));
        peer.expect_line(json!({"action": "operation_end", "operation_id": "op", "state": "failed"}));
    };
    let socket = HubSocket::new();
    let options = ConnectOptions::new(socket.path());
    let hub = std::thread::spawn(move || hub(&socket));
    smol::block_on(async {
        let WorkerConnection { client, events, task } = options.connect().await.unwrap();
        let story = async {
            {
                let mut start = std::pin::pin!(client.start(StartRequest::new("op", "logs")));
                assert!(future::poll_once(&mut start).await.is_none());
                assert_eq!(events.next_line().await.unwrap().kind(), "later");
            }
            away(&events).await;
        };
        soon(future::or(story, carried(task))).await;
    });
    hub.join().unwrap();
}

#[test]
fn a_channel_that_is_subscribed_to_twice_keeps_its_position() {
    let hub = |socket: &HubSocket| {
        let mut peer = socket.accept();
        let request = peer.receive();
        peer.grant(&request, json!({"epoch": "e", "seq": 3}));
        drop(peer);
        let mut peer = socket.accept_probed();
        let request = peer.expect_line(json!({"action": "subscribe", "since": {"epoch": "e", "seq": 3}}));
        peer.grant(&request, json!({"epoch": "e", "seq": 5, "recovered": true}));
        let flush = peer.expect_line(json!({"action": "ping"}));
        peer.grant(&flush, json!({}));
    };
    play(
        hub,
        |usual| usual,
        async |client, events| {
            client.subscribe("a").await.unwrap();
            away(events).await;
            client.subscribe("a").await.unwrap();
            client.flush().await.unwrap();
        },
    );
}
