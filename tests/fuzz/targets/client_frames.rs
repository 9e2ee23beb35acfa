//! Text frames of clients: `protocol::parse` on any text.

#![no_main]

mod requests;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    // What is not UTF-8 is refused by the decoder of frames.
    if let Ok(text) = std::str::from_utf8(bytes) {
        requests::check(text, &wshubd::protocol::parse(text));
    }
});
