//! Frames of a client, bit by bit, on the socket of the real program.

use std::io::Write;

use async_tungstenite::tungstenite::Message;
use async_tungstenite::tungstenite::protocol::frame::Frame;
use async_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use serde_json::{Value, json};

use crate::harness::{Client, Daemon, number, resident, stats, wait_for};

/// A masked text frame.
fn frame(request: &Value) -> Vec<u8> {
    let mut frame = Frame::message(request.to_string(), OpCode::Data(Data::Text), true);
    frame.header_mut().mask = Some([1, 2, 3, 4]);
    let mut bytes = Vec::new();
    frame.format(&mut bytes).unwrap();
    bytes
}

fn send(n: u32) -> Value {
    json!({"action": "send", "channel": "news", "event": "e", "data": n, "id": n})
}

#[test]
fn frames_beside_a_handshake_without_a_token_are_refused() {
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("news");
    let (_, mut stranger) = daemon.upgraded("/ws", &[], &[frame(&send(1)), frame(&send(2))].concat());
    stranger.expect_type("auth_required");
    for id in [1, 2] {
        let refused = stranger.expect_type("error");
        assert_eq!((&refused["code"], &refused["id"]), (&json!("auth_required"), &json!(id)));
    }
    // Nor are they carried out once it has authenticated.
    stranger.send(json!({"action": "auth", "token": daemon.token("ben")}));
    stranger.expect_type("auth_success");
    stranger.expect_type("connection_established");
    stranger.send(send(3));
    assert_eq!(ada.expect_type("message")["data"], 3);
}

#[test]
fn frames_beside_a_handshake_with_a_token_are_all_processed() {
    const FRAMES: u32 = 10;
    let daemon = Daemon::start();
    let mut ada = daemon.client("ada");
    ada.subscribe("news");
    let early: Vec<u8> = (0..FRAMES).flat_map(|n| frame(&send(n))).collect();
    let (_, mut ben) = daemon.upgraded(&format!("/ws?token={}", daemon.token("ben")), &[], &early);
    ben.expect_type("connection_established");
    for n in 0..FRAMES {
        assert_eq!(ben.expect_type("send_success")["id"], n);
        assert_eq!(ada.expect_type("message")["data"], n);
    }
    ben.expect_pong();
}

#[test]
fn an_absurd_length_is_refused_at_its_header_without_memory() {
    const PEERS: usize = 20;
    let daemon = Daemon::with(&[("WSHUBD_STATE__STORE", "memory")]);
    let mut worker = daemon.worker();
    let path = format!("/ws?token={}", daemon.token("ada"));
    let before = (number(&stats(&mut worker), "memory_bytes"), resident(&daemon));
    for length in [(512 << 10) + 1, 1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, u64::MAX] {
        let header = [&[0x81, 0xff], &length.to_be_bytes()[..], b"mask"].concat();
        let mut peers: Vec<Client> = (0..PEERS).map(|_| daemon.upgraded(&path, &[], &header).1).collect();
        for peer in &mut peers {
            assert_eq!(peer.closed_with(), 1009, "{length}");
        }
        let held = number(&stats(&mut worker), "memory_bytes").saturating_sub(before.0);
        assert!(held < PEERS as u64 * 1024, "{held} bytes are held for {length}");
    }
    let grown = resident(&daemon).saturating_sub(before.1);
    assert!(grown < 4 << 20, "{grown} bytes more");
    // What the user has paid is remembered for a minute.
    wait_for(&mut worker, |stats| number(stats, "memory_bytes") <= before.0 + 256);
}

#[test]
fn compression_is_not_negotiated_and_its_frames_close_with_1002() {
    let daemon = Daemon::start();
    let path = format!("/ws?token={}", daemon.token("ada"));
    let offers: [&[&str]; 6] = [
        &["permessage-deflate"],
        &["permessage-deflate; client_max_window_bits; server_no_context_takeover"],
        &["permessage-deflate; server_max_window_bits=99, permessage-deflate; unknown=\"a, b\""],
        &["x-webkit-deflate-frame, bbf-usp-protocol"],
        &["permessage-deflate", "permessage-bzip2"],
        &["; ,, =;"],
    ];
    for offer in offers {
        let headers: Vec<String> =
            offer.iter().map(|one| format!("Sec-WebSocket-Extensions: {one}")).collect();
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let (head, mut ada) = daemon.upgraded(&path, &headers, &[]);
        assert!(!head.to_lowercase().contains("sec-websocket-extensions"), "{head}");
        ada.expect_type("connection_established");
        ada.expect_pong();
        let mut compressed = frame(&json!({"action": "ping"}));
        compressed[0] |= 0x40;
        ada.socket.get_mut().write_all(&compressed).unwrap();
        assert_eq!(ada.closed_with(), 1002, "{offer:?}");
    }
}

#[test]
fn a_socket_is_dropped_when_its_peer_never_answers_a_close() {
    let daemon = Daemon::with(&[("WSHUBD_STATE__STORE", "memory")]);
    let path = format!("/ws?token={}", daemon.token("ada"));
    let mut worker = daemon.worker();
    stats(&mut worker);
    let before = daemon.descriptors();
    let binary = Message::binary(vec![0]);
    let mut peers: Vec<Client> = (0..5).map(|_| daemon.client_at(&path)).collect();
    for peer in &mut peers {
        peer.expect_type("connection_established");
        peer.socket.send(binary.clone()).unwrap();
        // The answer to the close is not sent before the next call.
        assert_eq!(peer.closed_with(), 1003);
    }
    daemon.wait_for_descriptors(before);
    drop(peers);
}

#[test]
fn a_client_that_accepts_no_byte_is_closed_with_4202() {
    const MESSAGES: usize = 100;
    let limits = "[limits]\nstall_timeout = \"1s\"\n";
    let daemon = Daemon::configured(limits);
    let (mut ada, mut stuck) = (daemon.client("ada"), daemon.client("stuck"));
    ada.subscribe("news");
    stuck.subscribe("news");
    let mut worker = daemon.worker();
    // More than all buffers of the kernel hold.
    let data = "x".repeat(32 << 10);
    for n in 0..MESSAGES {
        worker.send(json!({"channel": "news", "event": "e", "data": [n, data]}));
        assert_eq!(ada.expect_type("message")["data"][0], n);
    }
    let after = wait_for(&mut worker, |stats| number(stats, "closed_slow") == 1);
    assert!(number(&after, "messages_shed") > 0, "{after}");
    assert_eq!(stuck.closed_with(), 4202);
    ada.expect_pong();
}
