//! The client library, on its own, for as long as one connection lasts.

use serde_json::json;
use smol::future;
use wshubd::client::{Connection, ConnectionTask, Error, Options, Publication, Start};
use wshubd::protocol::EndState;

use crate::fake_hub::{Peer, Place};

/// Plays a hub on a thread while the story of the worker is told here.
fn play<T>(hub: impl FnOnce(Peer) + Send + 'static, worker: impl AsyncFnOnce(Connection) -> T) -> T {
    let place = Place::new();
    let path = place.path();
    let played = std::thread::spawn(move || hub(place.accept()));
    let told = smol::block_on(async { worker(Options::new(&path).connect_once().await.unwrap()).await });
    played.join().unwrap();
    told
}

/// Carries what the story says and hears; the story ends it.
async fn carried(link: ConnectionTask) {
    let _ = link.run().await;
    future::pending().await
}

#[test]
fn an_interrupt_pulls_the_latch_past_messages_that_nobody_reads() {
    let hub = |mut peer: Peer| {
        let request = peer.hears();
        // It may come with the answer, and even before it.
        (0..5000).for_each(|_| peer.says(json!({"type": "message", "data": "x".repeat(100)})));
        peer.says(json!({"type": "interrupt", "operation_id": "op", "from": "http", "reason": "why"}));
        peer.says(json!({"type": "interrupt", "operation_id": "op", "from": "http"}));
        peer.grants(&request, json!({}));
        let request = peer.expects(json!({"action": "operation_end", "state": "interrupted", "data": 4}));
        peer.grants(&request, json!({}));
    };
    play(hub, async |Connection { client, lines, link }| {
        let story = async {
            let operation = client.start(Start::new("op", "logs")).await.unwrap();
            assert!(operation.is_interrupted());
            let interrupt = operation.interrupted().await.unwrap();
            assert_eq!((interrupt.from.as_str(), interrupt.reason.as_deref()), ("http", Some("why")));
            // The second one asked for the same, and the latch was full.
            assert!(!operation.is_interrupted());
            operation.end(EndState::Interrupted, &4).await.unwrap();
        };
        future::or(story, carried(link)).await;
        let mut heard = 0;
        while lines.try_next().is_some() {
            heard += 1;
        }
        assert_eq!(heard, 5000);
    });
}

#[test]
fn what_does_not_fit_is_shed_and_counted_while_an_answer_is_awaited() {
    const LINE: usize = 1 << 20;
    let hub = |mut peer: Peer| {
        let request = peer.hears();
        (0..20).for_each(|_| peer.says(json!({"type": "message", "data": "x".repeat(LINE)})));
        peer.grants(&request, json!({}));
        let request = peer.hears();
        peer.says(json!({"type": "message", "data": "last"}));
        peer.grants(&request, json!({}));
    };
    play(hub, async |Connection { client, lines, link }| {
        let story = async {
            client.publish(&Publication::to_channel("a", "b", &1)).await.unwrap();
            let mut heard = 0;
            while lines.try_next().is_some() {
                heard += 1;
            }
            assert_eq!(heard, 15);
            client.publish(&Publication::to_channel("a", "b", &2)).await.unwrap();
            let gap = lines.next().await.unwrap();
            assert_eq!(gap.json(), r#"{"type":"gap","lost":5,"cause":"slow"}"#);
            assert!(lines.next().await.unwrap().json().contains("last"));
        };
        future::or(story, carried(link)).await;
    });
}

#[test]
fn a_listener_that_is_slow_slows_the_hub_down_and_loses_nothing() {
    const COUNT: usize = 20_000;
    let hub = |mut peer: Peer| {
        let request = peer.hears();
        peer.grants(&request, json!({}));
        (0..COUNT)
            .for_each(|number| peer.says(json!({"type": "message", "seq": number, "pad": "x".repeat(100)})));
    };
    play(hub, async |Connection { client, lines, link }| {
        let story = async {
            client.subscribe("a").await.unwrap();
            for number in 0..COUNT {
                let heard = lines.next().await.unwrap();
                let said: serde_json::Value = heard.read().unwrap();
                assert_eq!(said["seq"], number);
                // The link has its turn after every line.
                future::yield_now().await;
            }
        };
        future::or(story, carried(link)).await;
    });
}

#[test]
fn whoever_waits_learns_why_the_connection_ended() {
    let hub = |mut peer: Peer| {
        let request = peer.hears();
        peer.grants(&request, json!({}));
        peer.hears();
        peer.says(json!({"type": "error", "code": "forbidden", "message": "uid 7 may not connect"}));
    };
    play(hub, async |Connection { client, lines, link }| {
        let story = async {
            let operation = client.start(Start::new("op", "logs")).await.unwrap();
            let asked = client.publish(&Publication::to_channel("a", "b", &1)).await;
            for error in [asked.unwrap_err(), operation.interrupted().await.unwrap_err(), client.lost()] {
                assert!(matches!(&error, Error::Lost { why, .. } if why.contains("uid 7")), "{error}");
            }
            assert_eq!(lines.next().await.unwrap().kind(), "error");
            assert!(lines.next().await.is_none());
        };
        future::zip(story, async { link.run().await.unwrap_err() }).await;
    });
}

#[test]
fn an_operation_cannot_run_twice_on_one_connection() {
    let hub = |mut peer: Peer| {
        let request = peer.hears();
        peer.grants(&request, json!({}));
        peer.has_left();
    };
    play(hub, async |Connection { client, lines: _, link }| {
        let story = async {
            let operation = client.start(Start::new("op", "logs")).await.unwrap();
            let again = client.start(Start::new("op", "logs")).await.unwrap_err();
            assert_eq!(again.code(), Some("conflict"));
            drop(operation);
        };
        future::or(story, carried(link)).await;
    });
}

#[test]
fn the_link_ends_when_nobody_is_left_and_all_is_said() {
    let hub = |mut peer: Peer| {
        (0..1000).for_each(|number| drop(peer.expects(json!({"data": number}))));
        peer.has_left();
    };
    play(hub, async |Connection { client, lines: _, link }| {
        let story = async {
            for number in 0..1000 {
                client.send(&Publication::to_channel("a", "b", &number)).await.unwrap();
            }
            drop(client);
        };
        let (_, ended) = future::zip(story, link.run()).await;
        ended.unwrap();
    });
}

#[test]
fn what_is_no_object_with_a_field_is_not_asked() {
    // Nothing was said before it left.
    let hub = |peer: Peer| peer.has_left();
    play(hub, async |Connection { client, link, .. }| {
        let story = async {
            for nothing in [json!({}), json!([1]), json!("purge")] {
                let refused = client.request(&nothing).await.err();
                assert!(matches!(refused, Some(Error::Unspeakable(_))), "{nothing}: {refused:?}");
            }
        };
        future::or(story, carried(link)).await;
    });
}
