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
/// Files, keys and secrets are read and checked as a whole first. If there is any error,
/// nothing is changed, wshubd keeps its configuration, and the command reports each error
/// with its place and exits with 1. A change of a setting that needs a restart
/// (`[listen]` http and worker, all of `[state]`) is such an error. Otherwise the command
/// prints the changes.
///
/// A connection lasts until its token ends, even if the key of the token was removed:
/// `wshubctl disconnect --user USER` ends it sooner.
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
    format!("not reloaded; wshubd keeps its configuration:{}", lines.concat())
}

fn changes_text(changed: &[ConfigChange]) -> String {
    if changed.is_empty() {
        return "nothing has changed\n".to_owned();
    }
    let line = |change: &ConfigChange| match change {
        ConfigChange::Setting { setting, from, to } => format!("{setting}: {from} -> {to}"),
        ConfigChange::File { file } => format!("{file}: changed, read again"),
    };
    changed.iter().map(|change| format!("{}\n", escape(&line(change)))).collect()
}
