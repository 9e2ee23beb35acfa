//! The client library, on its own, for as long as one connection lasts.

use serde_json::json;
use smol::future;
use wshubd::client::{ConnectOptions, ConnectionTask, Error, PublishRequest, StartRequest, WorkerConnection};
use wshubd::protocol::EndState;

use crate::fake_hub::{HubSocket, Peer};

/// Plays a hub on a thread while the story of the worker is told here.
fn play<T>(hub: impl FnOnce(Peer) + Send + 'static, worker: impl AsyncFnOnce(WorkerConnection) -> T) -> T {
    let socket = HubSocket::new();
    let path = socket.path();
    let played = std::thread::spawn(move || hub(socket.accept()));
    let told =
        smol::block_on(async { worker(ConnectOptions::new(&path).connect_once().await.unwrap()).await });
    played.join().unwrap();
    told
}

/// Carries what the story says and hears; the story ends it.
async fn carried(task: ConnectionTask) {
    let _ = task.run().await;
    future::pending().await
}

#[test]
fn an_interrupt_pulls_the_latch_past_messages_that_nobody_reads() {
    let hub = |mut peer: Peer| {
        let request = peer.receive();
        // It may come with the answer, and even before it.
        (0..5000).for_each(|_| peer.send(json!({"type": "message", "data": "x".repeat(100)})));
        peer.send(json!({"type": "interrupt", "operation_id": "op", "from": "http", "reason": "why"}));
        peer.send(json!({"type": "interrupt", "operation_id": "op", "from": "http"}));
        peer.grant(&request, json!({}));
        let request = peer.expect_line(json!({"action": "operation_end", "state": "interrupted", "data": 4}));
        peer.grant(&request, json!({}));
    };
    play(hub, async |WorkerConnection { client, events, task }| {
        let story = async {
            let operation = client.start(StartRequest::new("op", "logs")).await.unwrap();
            assert!(operation.is_interrupted());
            let interrupt = operation.interrupted().await.unwrap();
            assert_eq!((interrupt.from.as_str(), interrupt.reason.as_deref()), ("http", Some("why")));
            // The second one asked for the same, and the latch was full.
            assert!(!operation.is_interrupted());
            operation.end(EndState::Interrupted, &4).await.unwrap();
        };
        future::or(story, carried(task)).await;
        let mut line = 0;
        while events.try_next_line().is_some() {
            line += 1;
        }
        assert_eq!(line, 5000);
    });
}

#[test]
fn messages_are_shed_and_counted_while_an_answer_is_awaited() {
    const LINE: usize = 1 << 20;
    let hub = |mut peer: Peer| {
        let request = peer.receive();
        (0..20).for_each(|_| peer.send(json!({"type": "message", "data": "x".repeat(LINE)})));
        peer.grant(&request, json!({}));
        let request = peer.receive();
        peer.send(json!({"type": "message", "data": "last"}));
        peer.grant(&request, json!({}));
    };
    play(hub, async |WorkerConnection { client, events, task }| {
        let story = async {
            client.publish(&PublishRequest::to_channel("a", "b", &1)).await.unwrap();
            let mut line = 0;
            while events.try_next_line().is_some() {
                line += 1;
            }
            assert_eq!(line, 15);
            client.publish(&PublishRequest::to_channel("a", "b", &2)).await.unwrap();
            let gap = events.next_line().await.unwrap();
            assert_eq!(gap.json(), r#"{"type":"gap","lost":5,"cause":"slow"}"#);
            assert!(events.next_line().await.unwrap().json().contains("last"));
        };
        future::or(story, carried(task)).await;
    });
}

#[test]
fn a_slow_reader_slows_the_hub_down_and_loses_nothing() {
    const COUNT: usize = 20_000;
    let hub = |mut peer: Peer| {
        let request = peer.receive();
        peer.grant(&request, json!({}));
        (0..COUNT)
            .for_each(|number| peer.send(json!({"type": "message", "seq": number, "pad": "x".repeat(100)})));
    };
    play(hub, async |WorkerConnection { client, events, task }| {
        let story = async {
            client.subscribe("a").await.unwrap();
            for number in 0..COUNT {
                let line = events.next_line().await.unwrap();
                let said: serde_json::Value = line.parse().unwrap();
                assert_eq!(said["seq"], number);
                // The link has its turn after every line.
                future::yield_now().await;
            }
        };
        future::or(story, carried(task)).await;
    });
}

#[test]
fn all_waits_get_the_reason_why_the_connection_ended() {
    let hub = |mut peer: Peer| {
        let request = peer.receive();
        peer.grant(&request, json!({}));
        peer.receive();
        peer.send(json!({"type": "error", "code": "forbidden", "message": "uid 7 may not connect"}));
    };
    play(hub, async |WorkerConnection { client, events, task }| {
        let story = async {
            let operation = client.start(StartRequest::new("op", "logs")).await.unwrap();
            let asked = client.publish(&PublishRequest::to_channel("a", "b", &1)).await;
            for error in [asked.unwrap_err(), operation.interrupted().await.unwrap_err(), client.end_reason()]
            {
                assert!(matches!(&error, Error::Lost { why, .. } if why.contains("uid 7")), "{error}");
            }
            assert_eq!(events.next_line().await.unwrap().kind(), "error");
            assert!(events.next_line().await.is_none());
        };
        future::zip(story, async { task.run().await.unwrap_err() }).await;
    });
}

#[test]
fn an_operation_cannot_run_twice_on_one_connection() {
    let hub = |mut peer: Peer| {
        let request = peer.receive();
        peer.grant(&request, json!({}));
        peer.expect_end();
    };
    play(hub, async |WorkerConnection { client, events: _, task }| {
        let story = async {
            let operation = client.start(StartRequest::new("op", "logs")).await.unwrap();
            let again = client.start(StartRequest::new("op", "logs")).await.unwrap_err();
            assert_eq!(again.code(), Some("conflict"));
            drop(operation);
        };
        future::or(story, carried(task)).await;
    });
}

#[test]
fn the_task_ends_when_all_clients_are_dropped_and_all_is_sent() {
    let hub = |mut peer: Peer| {
        (0..1000).for_each(|number| drop(peer.expect_line(json!({"data": number}))));
        peer.expect_end();
    };
    play(hub, async |WorkerConnection { client, events: _, task }| {
        let story = async {
            for number in 0..1000 {
                client.send(&PublishRequest::to_channel("a", "b", &number)).await.unwrap();
            }
            drop(client);
        };
        let (_, ended) = future::zip(story, task.run()).await;
        ended.unwrap();
    });
}

#[test]
fn a_request_that_is_no_object_with_a_field_is_not_sent() {
    // Nothing was said before it left.
    let hub = |peer: Peer| peer.expect_end();
    play(hub, async |WorkerConnection { client, task, .. }| {
        let story = async {
            for nothing in [json!({}), json!([1]), json!("purge")] {
                let refused = client.request(&nothing).await.err();
                assert!(matches!(refused, Some(Error::InvalidRequest(_))), "{nothing}: {refused:?}");
            }
        };
        future::or(story, carried(task)).await;
    });
}
