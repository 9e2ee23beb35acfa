//! `wshubctl token`: make one, or have one looked at.
//!
//! Knows how a token gets in and out without being an argument. Does not know
//! keys: wshubd has those, and is the judge.

use std::io::IsTerminal;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::value::RawValue;
use smol::Unblock;
use smol::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use wshubd::edge::clock;

use crate::args;
use crate::ask::{Ask, Limits, Reader, ask, fields, show, show_json};
use crate::failure::{Exit, Failure};
use crate::figures::end;
use crate::hub::Hub;
use crate::screen::{plain, plain_json};
use crate::table::pairs;

/// Some times what wshubd looks at: enough to be told that it is too long.
const LONGEST: u64 = 64 << 10;

pub(crate) async fn new(hub: &Hub, asked: args::NewToken) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        token: String,
    }
    let args::NewToken { user, ttl, subscribe, publish, interrupt, admin, rate, burst, info } = &asked;
    let ttl = ttl.as_secs_f64();
    let (subscribe, publish, interrupt, admin) = (&**subscribe, &**publish, &**interrupt, *admin);
    let limits = rate.zip(*burst).map(|(rate, burst)| Limits { rate, burst });
    let info = info.as_deref();
    let request = Ask::NewToken { user_id: user, ttl, subscribe, publish, interrupt, admin, limits, info };
    let Answer { token } = ask(hub, &request).await?.read()?;
    show(&format!("{}\n", plain(&token)))
}

#[derive(Deserialize)]
struct Verdict {
    valid: bool,
    code: Option<String>,
    message: Option<String>,
    user_id: Option<String>,
    expires_at: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    rights: Option<Rights>,
    limits: Option<Shown>,
    info: Option<Box<RawValue>>,
    jti: Option<String>,
    issued_at: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// What the token says of how often its bearer may ask.
#[derive(Deserialize)]
struct Shown {
    rate: f64,
    burst: u64,
}

#[derive(Deserialize)]
struct Rights {
    from: String,
    subscribe: Vec<String>,
    publish: Vec<String>,
    interrupt: Vec<String>,
    admin: bool,
}

pub(crate) async fn check(hub: &Hub, asked: args::CheckToken) -> Result<ExitCode, Failure> {
    let token = match asked.token {
        Some(token) if token != "-" => token,
        _ => from_input().await?,
    };
    let answer = ask(hub, &Ask::CheckToken { token: token.trim() }).await?;
    let verdict: Verdict = answer.read()?;
    match Reader::of(asked.json) {
        Reader::Program => show_json(&format!("{}\n", fields(&answer)?)),
        Reader::Person => show(&verdict.page()),
    }?;
    Ok(if verdict.valid { ExitCode::SUCCESS } else { Exit::Failed.into() })
}

/// The token from a pipe or file, or a line that is typed or pasted.
async fn from_input() -> Result<String, Failure> {
    let failed = |error| Failure::of("standard input", error);
    let is_terminal = std::io::stdin().is_terminal();
    let mut input = BufReader::new(Unblock::new(std::io::stdin())).take(LONGEST);
    let mut token = String::new();
    if is_terminal {
        crate::screen::say("paste the token and press Enter");
        input.read_line(&mut token).await.map_err(failed)?;
    } else {
        input.read_to_string(&mut token).await.map_err(failed)?;
    }
    if token.trim().is_empty() {
        return Err(Failure::new(Exit::Usage, "there is no token on the standard input"));
    }
    Ok(token)
}

impl Verdict {
    fn page(&self) -> String {
        if !self.valid {
            let message = self.message.as_deref().unwrap_or("no reason was given");
            let code = self.code.as_deref().unwrap_or("token_invalid");
            return format!("not valid: {}\n", plain(&format!("{message} ({code})")));
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let ends = self.expires_at.as_deref().map(|time| end(time, clock::now().wall));
        let ends = ends.unwrap_or_else(|| "never".to_owned());
        let key = match &self.kid {
            Some(kid) => format!("{} with the kid {kid}", text(&self.alg)),
            None => text(&self.alg),
        };
        let mut lines = vec![("valid for", text(&self.user_id)), ("ends", ends), ("key", key)];
        if let Some(rights) = &self.rights {
            lines.extend([
                ("subscribe", list(&rights.subscribe)),
                ("publish", list(&rights.publish)),
                ("interrupt", list(&rights.interrupt)),
                ("admin", if rights.admin { "yes" } else { "no" }.to_owned()),
                ("rights from", format!("the {}", rights.from)),
            ]);
        }
        if let Some(Shown { rate, burst }) = &self.limits {
            lines.push(("limits", format!("{rate} requests a second, {burst} at once")));
        }
        if let Some(info) = &self.info {
            lines.push(("info", plain_json(info.get())));
        }
        lines.extend(self.issued_at.clone().map(|at| ("issued", at)));
        lines.extend(self.jti.clone().map(|jti| ("jti", jti)));
        lines.extend(self.warnings.iter().map(|warning| ("warning", plain(warning))));
        pairs(&lines)
    }
}

fn list(patterns: &[String]) -> String {
    if patterns.is_empty() { "nothing".to_owned() } else { patterns.join(", ") }
}
