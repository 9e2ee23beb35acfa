//! Bodies of HTTP requests: `protocol::http` on any bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wshubd::protocol::{Code, Refusal, Target, http};

fn check(refusal: &Refusal) {
    assert_ne!(refusal.code, Code::Internal, "{}", refusal.message);
    assert!(!refusal.message.is_empty());
    assert_eq!(refusal.action, None, "a body has no action");
}

fuzz_target!(|body: &[u8]| {
    match http::broadcast(body) {
        Ok(publication) => {
            assert!(!publication.event.is_reserved());
            assert!(!publication.data.json().contains(['\n', '\r']));
            let is_inbox = matches!(publication.target, Target::User(_));
            assert!(is_inbox || !publication.receipt, "a receipt goes with a user");
        }
        Err(refusal) => check(&refusal),
    }
    if let Err(refusal) = http::interrupt(body) {
        check(&refusal);
    }
});
