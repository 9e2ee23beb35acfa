//! `wshubctl reload`: wshubd takes over a configuration that has changed.
//!
//! Knows how changes and mistakes are shown. Does not know the settings.

use std::process::ExitCode;

use serde::Deserialize;
use wshubd::client::Error;

use crate::args;
use crate::connection::Hub;
use crate::error::{Exit, Failure};
use crate::query::{Ask, Reader, fields, show, show_json};
use crate::terminal::{plain, say};

#[derive(Deserialize)]
struct Answer {
    changed: Vec<Change>,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Change {
    Setting { setting: String, from: String, to: String },
    File { file: String },
}

pub(crate) async fn reload(hub: &Hub, asked: args::Reload) -> Result<ExitCode, Failure> {
    let answer = match hub.ask(&Ask::Reload).await? {
        Ok(answer) => answer,
        Err(Error::Refused(refused)) if refused.code == "bad_configuration" => {
            return Err(Failure::new(Exit::Failed, mistakes(&refused.message)));
        }
        Err(error) => return Err(error.into()),
    };
    let Answer { changed, warnings } = answer.read()?;
    for warning in warnings {
        say(&format!("warning: {}", plain(&warning)));
    }
    match Reader::of(asked.json) {
        Reader::Program => show_json(&format!("{}\n", fields(&answer)?)),
        Reader::Person => show(&page(&changed)),
    }
}

/// What is wrong, a line for each.
fn mistakes(message: &str) -> String {
    let lines: Vec<String> = message.lines().map(|line| format!("\n  {}", plain(line))).collect();
    format!("not reloaded; wshubd goes on as before:{}", lines.concat())
}

fn page(changed: &[Change]) -> String {
    if changed.is_empty() {
        return "nothing has changed\n".to_owned();
    }
    let line = |change: &Change| match change {
        Change::Setting { setting, from, to } => format!("{setting}: {from} -> {to}"),
        Change::File { file } => format!("{file}: read again, it has changed"),
    };
    changed.iter().map(|change| format!("{}\n", plain(&line(change)))).collect()
}
