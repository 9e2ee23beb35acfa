//! `wshubctl interrupt`: stop an operation, and print the outcome.

use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::connection::HubConnection;
use crate::error::{Exit, Failure};
use crate::terminal::{escape, notice, print};
use crate::wait_limit::Silence;

/// For so long wshubd waits for an operation that is not registered, before it
/// sends the outcome of the interrupt.
const PENDING: Duration = Duration::from_secs(10);

/// Stop an operation
///
/// Prints the outcome: delivered, already_ended or no_owner, the last with exit
/// code 1. The interrupt waits for an operation that is not registered yet.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  wshubctl interrupt --reason 'wrong branch' run-6k2t0h")]
pub(crate) struct InterruptArgs {
    /// The id of the operation, as in `wshubctl operations`
    #[arg(value_name = "OPERATION")]
    operation: String,
    /// The channel on which it must run
    #[arg(long)]
    channel: Option<String>,
    /// The reason, for the worker and for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "action", rename = "interrupt")]
struct InterruptLine<'a> {
    operation_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Deserialize)]
struct InterruptAnswer {
    outcome: String,
}

pub(crate) async fn interrupt(hub: &HubConnection, args: InterruptArgs) -> Result<ExitCode, Failure> {
    let request = InterruptLine {
        operation_id: &args.operation,
        channel: args.channel.as_deref(),
        reason: args.reason.as_deref(),
    };
    let mut silence = Silence::begin();
    let pending = hub.answer_in(&mut silence, hub.client().request(&request)).await??;
    loop {
        let InterruptAnswer { outcome } = hub.answer_in(&mut silence, pending.answer()).await??.parse()?;
        match &*outcome {
            "pending" => {
                silence = Silence::begin_after(PENDING);
                notice(&format!("no worker has registered {} yet; waiting", escape(&args.operation)));
            }
            outcome => {
                print(&format!("{}\n", escape(outcome)))?;
                return Ok(if outcome == "no_owner" { Exit::Failed.into() } else { ExitCode::SUCCESS });
            }
        }
    }
}
