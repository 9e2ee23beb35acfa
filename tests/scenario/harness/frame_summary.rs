//! Summaries of frames, for comparison in tests.

use serde_json::Value;

/// The fields of a frame that tests compare.
pub(crate) fn summary(frame: &Value) -> String {
    let kind = frame["type"].as_str().unwrap_or_default();
    let fields: &[&str] = match kind {
        "message" => &["event", "data", "replayed"],
        "gap" => &["from_seq", "to_seq", "lost", "cause"],
        "error" => &["code", "channel"],
        "operation" => &["operation_id", "state", "reason"],
        "interrupt_result" => &["outcome"],
        "interrupt" => &["operation_id", "reason"],
        "unsubscribed" => &["channel", "reason"],
        "send_success" => &["sent", "failed", "kept", "stored", "duplicate"],
        "subscription_succeeded" => &["channel", "seq", "recovered"],
        "closed" | "auth_failed" => &["code"],
        "user_joined" | "user_left" | "auth_success" => &["user_id"],
        _ => &[],
    };
    let mut words = vec![if kind == "message" { String::new() } else { kind.to_owned() }];
    for field in fields {
        match &frame[*field] {
            Value::Null => {}
            // Without a disk nothing is.
            Value::Bool(false) if *field == "stored" => {}
            Value::Bool(true) => words.push((*field).to_owned()),
            Value::String(text) => words.push(text.clone()),
            other => words.push(other.to_string()),
        }
    }
    words.join(" ").trim().to_owned()
}
