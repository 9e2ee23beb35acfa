//! Where a listener goes on after a loss: no message between two lives of the hub is missed.

use serde_json::json;

use crate::fake_hub::Place;

#[test]
fn a_listener_goes_on_from_where_its_subscription_began() {
    let place = Place::new();
    let (mut child, mut peer) = place.meet(["sub", "logs"]);
    let asked = peer.expects(json!({"action": "subscribe", "channel": "logs"}));
    assert!(asked.get("since").is_none());
    // Two messages are to follow, and the hub ends before them.
    peer.grants(&asked, json!({"epoch": "e", "seq": 5, "after_seq": 3}));
    drop(peer);
    let mut peer = place.welcome();
    let asked = peer.expects(json!({"action": "subscribe", "since": {"epoch": "e", "seq": 3}}));
    peer.grants(&asked, json!({"epoch": "e", "seq": 5, "after_seq": 3, "recovered": true}));
    let message =
        |seq: u64| json!({"type": "message", "channel": "logs", "event": "e", "data": seq, "seq": seq});
    peer.says(message(4));
    drop(peer);
    let mut peer = place.welcome();
    let asked = peer.expects(json!({"action": "subscribe", "since": {"epoch": "e", "seq": 4}}));
    // All that was kept has gone meanwhile.
    peer.grants(&asked, json!({"epoch": "e", "seq": 9, "after_seq": 7, "recovered": false}));
    drop(peer);
    let mut peer = place.welcome();
    peer.expects(json!({"action": "subscribe", "since": {"epoch": "e", "seq": 7}}));
    child.kill().unwrap();
    child.wait().unwrap();
}
