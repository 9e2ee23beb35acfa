//! `wshubctl interrupt`: stop an operation, and say what became of it.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use wshubd::client::Client;

use crate::args;
use crate::failure::{Exit, Failure};

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

pub(crate) async fn interrupt(client: &Client, asked: args::Interrupt) -> Result<ExitCode, Failure> {
    let request = Interrupt {
        operation_id: &asked.operation,
        channel: asked.channel.as_deref(),
        reason: asked.reason.as_deref(),
    };
    let pending = client.request(&request).await?;
    loop {
        let Answer { outcome } = pending.answer().await?.read()?;
        match &*outcome {
            "pending" => crate::screen::say(&format!("nobody runs {} yet, waiting", asked.operation)),
            "no_owner" => {
                crate::ask::show(&format!("{outcome}\n"))?;
                return Ok(Exit::Failed.into());
            }
            _ => {
                crate::ask::show(&format!("{outcome}\n"))?;
                return Ok(ExitCode::SUCCESS);
            }
        }
    }
}
