//! `wshubctl token`: make one, or have one looked at.
//!
//! Knows how a token gets in and out without being an argument. Does not know
//! keys: wshubd has those, and is the judge.

use std::io::IsTerminal;
use std::process::ExitCode;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::value::RawValue;
use smol::Unblock;
use smol::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use wshubd::edge::clock;

use crate::args;
use crate::connection::Hub;
use crate::error::{Exit, Failure};
use crate::format::end;
use crate::query::{Ask, Limits, Reader, ask, fields, show, show_json};
use crate::table::pairs;
use crate::terminal::{plain, plain_json, say};

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
    granted: Option<Shown>,
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
    let token = match unwrapped(&token) {
        Some(whole) => {
            say(
                "warning: the token has spaces or line breaks in it, which are left out here: use it without",
            );
            whole
        }
        None => token.trim().to_owned(),
    };
    let answer = ask(hub, &Ask::CheckToken { token: &token }).await?;
    let verdict: Verdict = answer.read()?;
    match Reader::of(asked.json) {
        Reader::Program => show_json(&format!("{}\n", fields(&answer)?)),
        Reader::Person => show(&verdict.page()),
    }?;
    Ok(if verdict.valid { ExitCode::SUCCESS } else { Exit::Failed.into() })
}

/// A token that a terminal or a mail has wrapped, in one piece; none, where it is in one piece
/// or where what is there is no token and some spaces.
fn unwrapped(text: &str) -> Option<String> {
    let text = text.trim();
    let whole: String = text.split_whitespace().collect();
    let is_token = whole.split('.').count() == 3
        && whole.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !text.get(..7).is_some_and(|begin| begin.eq_ignore_ascii_case("bearer "));
    (is_token && whole.len() < text.len()).then_some(whole)
}

/// Whether a text may be a whole token: its signature is as long as those of its algorithm are,
/// of RSA at least.
fn is_whole(text: &str) -> bool {
    let whole: String = text.split_whitespace().collect();
    let mut parts = whole.splitn(3, '.');
    let header = parts.next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok()).unwrap_or_default();
    let has = |alg: &str| String::from_utf8_lossy(&header).contains(alg);
    let shortest = if has("\"RS") || has("\"PS") {
        342
    } else if has("\"ES384") {
        128
    } else if has("\"ES") || has("\"Ed") || has("\"HS512") {
        86
    } else if has("\"HS384") {
        64
    } else {
        43
    };
    parts.nth(1).is_some_and(|signature| signature.len() >= shortest)
}

/// The token from a pipe or file, or what is typed or pasted: one line, or several up to an
/// empty one where the first is only a part. What was not read would go to the shell.
async fn from_input() -> Result<String, Failure> {
    let failed = |error| Failure::of("standard input", error);
    let is_terminal = std::io::stdin().is_terminal();
    let mut input = BufReader::new(Unblock::new(std::io::stdin())).take(LONGEST);
    let mut token = String::new();
    if is_terminal {
        say("paste the token and press Enter, twice where it has several lines");
        let mut line = String::new();
        while input.read_line(&mut line).await.map_err(failed)? > 0 && !line.trim().is_empty() {
            token.push_str(&line);
            if is_whole(&token) {
                break;
            }
            line.clear();
        }
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
        let limits = |Shown { rate, burst }: &Shown| format!("{rate} requests a second, {burst} at once");
        lines.extend(self.limits.as_ref().map(|asked| ("limits", limits(asked))));
        lines.extend(self.granted.as_ref().map(|granted| ("granted", limits(granted))));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pasted_token_is_whole_when_its_signature_is_as_long_as_its_algorithm_makes_it() {
        for (alg, length) in [
            ("HS256", 43),
            ("HS384", 64),
            ("HS512", 86),
            ("ES256", 86),
            ("ES384", 128),
            ("EdDSA", 86),
            ("RS256", 342),
        ] {
            let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","typ":"JWT"}}"#));
            let begin = format!("{}\n{}.e30.", &header[..9], &header[9..]);
            let part = format!("{begin}{}", "A".repeat(length - 1));
            assert!(!is_whole(&part) && is_whole(&format!("{part}\nA\n")), "{alg}");
        }
        for text in ["", "hello\n", "a.b\n", "a.b.\n"] {
            assert!(!is_whole(text), "{text}");
        }
    }
}
