//! `wshubctl reload`: wshubd reads its configuration again.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use wshubd::client::Error;

use crate::connection::HubConnection;
use crate::error::{Exit, Failure};
use crate::query::json_line;
use crate::terminal::{OutputFormat, escape, notice, print, print_json};

/// Have wshubd read its configuration again, without ending any connection
///
/// Files, keys and secrets are read and checked as a whole first; then all that has
/// changed is used, or, if anything is wrong, nothing. What takes a restart
/// (`[listen]` http and worker, all of `[state]`) counts as wrong when it has changed.
/// Prints what has changed; exits with 1, and says what is wrong and where, if wshubd
/// goes on as before.
///
/// Who was let in stays in until the token ends, also with a key that is gone: `wshubctl
/// disconnect --user USER` ends that sooner.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl reload\n  wshubctl reload | jq -r '.changed[].setting'")]
pub(crate) struct ReloadArgs {
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum ReloadRequest {
    Reload,
}

#[derive(Deserialize)]
struct ReloadAnswer {
    changed: Vec<ConfigChange>,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ConfigChange {
    Setting { setting: String, from: String, to: String },
    File { file: String },
}

pub(crate) async fn reload(hub: &HubConnection, args: ReloadArgs) -> Result<ExitCode, Failure> {
    let answer = match hub.query(&ReloadRequest::Reload).await? {
        Ok(answer) => answer,
        Err(Error::Refused(refused)) if refused.code == "bad_configuration" => {
            return Err(Failure::new(Exit::Failed, errors_text(&refused.message)));
        }
        Err(error) => return Err(error.into()),
    };
    let ReloadAnswer { changed, warnings } = answer.parse()?;
    for warning in warnings {
        notice(&format!("warning: {}", escape(&warning)));
    }
    match OutputFormat::choose(args.json) {
        OutputFormat::Json => print_json(&json_line(&answer)?),
        OutputFormat::Text => print(&changes_text(&changed)),
    }
}

/// The errors in the configuration, a line for each.
fn errors_text(message: &str) -> String {
    let lines: Vec<String> = message.lines().map(|line| format!("\n  {}", escape(line))).collect();
    format!("not reloaded; wshubd goes on as before:{}", lines.concat())
}

fn changes_text(changed: &[ConfigChange]) -> String {
    if changed.is_empty() {
        return "nothing has changed\n".to_owned();
    }
    let line = |change: &ConfigChange| match change {
        ConfigChange::Setting { setting, from, to } => format!("{setting}: {from} -> {to}"),
        ConfigChange::File { file } => format!("{file}: read again, it has changed"),
    };
    changed.iter().map(|change| format!("{}\n", escape(&line(change)))).collect()
}
