//! Requests in JSON: the parsed values, compared with the text by another reader of JSON.

use std::collections::BTreeMap;

use serde_json::Value;
use serde_json::value::RawValue;
use wshubd::protocol::{Frame, HubRequest, MalformedRequest, Request, RequestEnvelope, RequestId, worker};

/// More than any error needs: a message with a name of 128 bytes in it, and a channel.
const LONGEST_ERROR: usize = 2048;

/// Top-level fields by name; `null` counts as missing.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

fn fields(text: &str) -> Option<Fields<'_>> {
    let mut fields: Fields<'_> = serde_json::from_str(text).ok()?;
    fields.retain(|_, raw| raw.get() != "null");
    Some(fields)
}

/// Checks the parsed request of a client or worker.
pub(crate) fn check(text: &str, parsed: &Result<RequestEnvelope, MalformedRequest>) {
    match parsed {
        Ok(request) => check_request(text, request),
        Err(misspoken) => check_error(text, misspoken),
    }
}

fn check_request(text: &str, RequestEnvelope { id, request }: &RequestEnvelope) {
    let fields = fields(text).expect("a request is a JSON object");
    let raw = |name: &str| fields.get(name).map(|raw| raw.get());
    assert_eq!(id.as_ref().map(RequestId::json), raw("id"), "an answer echoes the id as it came");
    match raw("action").map(|text| serde_json::from_str::<String>(text).expect("an action is text")) {
        Some(action) if action != "publish" => assert_eq!(request.action(), action),
        _ => assert_eq!(request.action(), "send"),
    }
    let payload = match request {
        Request::Hub(HubRequest::Publish(publication)) => Some(&publication.data),
        Request::Hub(HubRequest::Whisper { data, .. }) => Some(data),
        _ => None,
    };
    if let Some(payload) = payload {
        let came = raw("data").unwrap_or("null").replace(['\n', '\r'], " ");
        assert_eq!(payload.json(), came, "data is passed on as it came, in one line");
    }
    let mut answer = Vec::new();
    let is_answered = worker::encode(&Frame::Done {}, id.as_ref(), &mut answer);
    assert_eq!(is_answered, id.is_some(), "a worker without an id is told of nothing that went well");
    if is_answered {
        check_answer(&answer, "ok", id.as_ref());
    }
}

fn check_error(text: &str, MalformedRequest { id, refusal }: &MalformedRequest) {
    if let Some(id) = id {
        let fields = fields(text).expect("only an object has an id");
        assert_eq!(Some(id.json()), fields.get("id").map(|raw| raw.get()));
    }
    let mut answer = Vec::new();
    Frame::from(refusal).encode(id.as_ref(), &mut answer);
    check_answer(&answer, "error", id.as_ref());
    assert!(answer.len() <= LONGEST_ERROR, "{} bytes of error", answer.len());
}

/// An answer is one line of JSON with the id of its request.
fn check_answer(answer: &[u8], kind: &str, id: Option<&RequestId>) {
    assert!(!answer.contains(&b'\n') && !answer.contains(&b'\r'));
    let text = std::str::from_utf8(answer).expect("an answer is UTF-8");
    let fields: Fields<'_> = serde_json::from_str(text).expect("an answer is a JSON object");
    assert_eq!(fields.get("id").map(|raw| raw.get()), id.map(RequestId::json));
    let found: Value = serde_json::from_str(fields["type"].get()).expect("a type");
    assert_eq!(found, kind);
}
