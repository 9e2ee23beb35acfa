//! `wshubctl interrupt`: stop an operation, and say what became of it.

use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::args;
use crate::connection::Hub;
use crate::error::{Exit, Failure};
use crate::query::show;
use crate::terminal::{plain, say};
use crate::wait_limit::Silence;

/// For so long wshubd waits for an operation that nobody has registered, before it
/// says what became of the interrupt.
const PENDING: Duration = Duration::from_secs(10);

#[derive(Serialize)]
#[serde(tag = "action", rename = "interrupt")]
struct Interrupt<'a> {
    operation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Deserialize)]
struct Answer {
    outcome: String,
}

pub(crate) async fn interrupt(hub: &Hub, asked: args::Interrupt) -> Result<ExitCode, Failure> {
    let request = Interrupt {
        operation_id: &asked.operation,
        channel: asked.channel.as_deref(),
        reason: asked.reason.as_deref(),
    };
    let mut silence = Silence::begin();
    let pending = hub.answer_in(&mut silence, hub.client.request(&request)).await??;
    loop {
        let Answer { outcome } = hub.answer_in(&mut silence, pending.answer()).await??.read()?;
        match &*outcome {
            "pending" => {
                silence = Silence::begin_after(PENDING);
                say(&format!("nobody runs {} yet, waiting", plain(&asked.operation)));
            }
            outcome => {
                show(&format!("{}\n", plain(outcome)))?;
                return Ok(if outcome == "no_owner" { Exit::Failed.into() } else { ExitCode::SUCCESS });
            }
        }
    }
}
