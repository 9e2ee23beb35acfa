//! Operations in random histories: one start, at most one interrupt shown, one
//! end.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::reference::Check;
use super::step::Step;
use crate::harness::{ConnectionId, Harness, summary};

/// A subscriber of every operation, which is never slow.
pub(super) struct Observed {
    pub(super) observer: ConnectionId,
    /// Those that run, and whether they were interrupted.
    pub(super) running: BTreeMap<String, bool>,
}

impl Observed {
    pub(super) fn new(harness: &mut Harness) -> Self {
        let observer = harness.client("observer");
        harness.subscribe(observer, "jobs");
        Self { observer, running: BTreeMap::new() }
    }

    pub(super) fn listen(&mut self, harness: &mut Harness) -> Check {
        for frame in harness.frames(self.observer) {
            self.observe(&frame).map_err(|()| format!("at the wrong time: {}", summary(&frame)))?;
        }
        Ok(())
    }

    fn observe(&mut self, frame: &Value) -> Result<(), ()> {
        if frame["type"] != "operation" {
            return if frame["type"] == "closed" { Err(()) } else { Ok(()) };
        }
        let id = frame["operation_id"].as_str().unwrap().to_owned();
        let was = match frame["state"].as_str().unwrap() {
            "started" => return self.running.insert(id, false).map_or(Ok(()), |_| Err(())),
            "interrupting" => self.running.insert(id, true),
            _ => return self.running.remove(&id).map(drop).ok_or(()),
        };
        if was == Some(false) { Ok(()) } else { Err(()) }
    }
}

/// Who asks what in a step about an operation.
pub(super) fn request(step: &Step, requests: &mut u64) -> Option<(usize, Value)> {
    let id = |operation: usize| format!("op{operation}");
    match *step {
        Step::Start(who, operation) => {
            let line = json!({"action": "operation_start", "operation_id": id(operation), "channel": "jobs"});
            Some((who, line))
        }
        Step::End(who, operation) => {
            let line =
                json!({"action": "operation_end", "operation_id": id(operation), "state": "completed"});
            Some((who, line))
        }
        Step::Interrupt(who, operation) => {
            *requests += 1;
            let data = json!({"operation_id": id(operation)});
            Some((who, json!({"action": "interrupt", "data": data, "id": *requests})))
        }
        _ => None,
    }
}
