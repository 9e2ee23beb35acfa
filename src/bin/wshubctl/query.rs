//! One request of an administrator, and its answer.

use serde::Serialize;
use serde_json::{Map, Value};
use wshubd::client::HubLine;

use crate::connection::HubConnection;
use crate::error::Failure;

/// Sends a request, and waits for the answer.
pub(crate) async fn query(hub: &HubConnection, request: &impl Serialize) -> Result<HubLine, Failure> {
    Ok(hub.query(request).await??)
}

/// The fields of an answer without those that make it an answer.
pub(crate) fn fields(answer: &HubLine) -> Result<Value, Failure> {
    let mut fields: Map<String, Value> = answer.parse()?;
    fields.remove("type");
    fields.remove("id");
    Ok(Value::Object(fields))
}

/// The same as a line of JSON.
pub(crate) fn json_line(answer: &HubLine) -> Result<String, Failure> {
    Ok(format!("{}\n", fields(answer)?))
}
