//! Lines of a worker that are broken, misleading or come with more than bytes.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::json;

use crate::harness::{Daemon, stats};

#[test]
fn nul_in_a_line_is_an_error_and_the_next_line_is_read() {
    let daemon = Daemon::start();
    let mut worker = daemon.worker();
    let broken = [
        "\0",
        "\0{\"action\":\"ping\"}",
        "{\"action\":\"ping\"}\0",
        "{\"action\":\"pi\0ng\"}",
        "{\"channel\":\"lo\0gs\",\"event\":\"e\",\"id\":1}",
        "{\"channel\":\"logs\",\"event\":\"e\",\"data\":\"\0\",\"id\":1}",
        "{\"channel\":\"logs\",\0\"event\":\"e\",\"id\":1}",
    ];
    for line in broken {
        worker.write(&format!("{line}\n"));
        let answer = worker.receive();
        assert_eq!((&answer["type"], &answer["code"]), (&json!("error"), &json!("bad_json")), "{line:?}");
        worker.send(json!({"action": "ping"}));
        assert_eq!(worker.receive()["type"], "pong", "{line:?}");
    }
    worker.write("{\"channel\":\"lo\\u0000gs\",\"event\":\"e\",\"id\":3}\n");
    assert_eq!(worker.receive()["code"], "bad_request");
    worker.write("{\"channel\":\"logs\",\"event\":\"e\",\"data\":\"\\u0000\",\"id\":4}\n");
    assert_eq!(worker.receive()["type"], "ok");
}

#[test]
fn data_that_looks_like_a_frame_stays_one_value_on_one_line() {
    let daemon = Daemon::start();
    let (mut ada, mut ben, mut worker) = (daemon.client("ada"), daemon.client("ben"), daemon.worker());
    worker.send(json!({"action": "subscribe", "channel": "logs", "id": 1}));
    assert_eq!(worker.receive()["type"], "ok");
    ada.subscribe("logs");
    let data = "{\"type\": \"bye\",\n\"id\": 7,\r\n\"from\":\t\"hub\",\r\"channel\": \"@me\", \"seq\": 99,\n\n\
                \"text\": \"a\\nb\\r{\\\"type\\\":\\\"bye\\\"}\\u2028\"}";
    let request = format!(
        "{{\"action\":\"send\",\"channel\":\"logs\",\"event\":\"e\",\n\"source\":\"hub\",\"from\":\"hub\",\
         \"user_id_\":\"root\",\"timestamp\":0,\"seq\":1000,\"data\":{data},\"id\":5}}"
    );
    ben.socket.send(request.into()).unwrap();
    assert_eq!(ben.expect_type("send_success")["id"], 5);

    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    let received = worker.receive();
    assert_eq!(received, ada.expect_type("message"), "the line and the frame say the same");
    let fields = ["type", "channel", "event", "data", "user_id", "source", "seq"];
    let expected =
        [json!("message"), json!("logs"), json!("e"), data, json!("ben"), json!("client"), json!(1)];
    for (field, expected) in fields.iter().zip(expected) {
        assert_eq!(received[*field], expected, "{field}");
    }
    assert_ne!(received["from"], "hub");
    assert!(received.get("id").is_none() && received.get("user_id_").is_none(), "{received}");
    // Nothing of it has become a line of its own.
    worker.send(json!({"action": "ping"}));
    assert_eq!(worker.receive()["type"], "pong");
}

#[test]
fn descriptors_beside_lines_are_closed_and_the_lines_read() {
    const LINES: usize = 300;
    let daemon = Daemon::with(&[("WSHUBD_STATE__STORE", "memory")]);
    let mut worker = daemon.worker();
    stats(&mut worker);
    let before = daemon.descriptors();
    let file = std::fs::File::open("/dev/null").unwrap();
    let pair = std::os::unix::net::UnixStream::pair().unwrap();
    let passed = [file.as_fd(), pair.0.as_fd(), file.as_fd(), pair.1.as_fd()];
    let stream = worker.writer();
    let send = |bytes: &[u8]| {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let sent = sendmsg(&stream, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
        assert_eq!(sent, bytes.len());
    };
    for n in 0..LINES {
        // In whole lines, in halves, and in several at once.
        let line = format!("{}\n", json!({"channel": "logs", "event": "e", "ttl": 0, "id": n}));
        let (first, second) = line.split_at(if n % 2 == 0 { 10 } else { line.len() });
        for part in [first, second].into_iter().filter(|part| !part.is_empty()) {
            send(part.as_bytes());
        }
        assert_eq!(worker.receive()["id"], n);
    }
    assert_eq!(daemon.descriptors(), before);
    // What nobody has read goes with the socket.
    send(b"{\"half\":");
    drop((worker, stream));
    daemon.wait_for_descriptors(before - 1);
}
