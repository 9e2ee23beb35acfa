//! `wshubctl token`: make a token, or check one.
//!
//! wshubd alone has the keys, and signs and verifies.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use smol::Unblock;
use smol::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use wshubd::edge::clock;

use crate::connection::HubConnection;
use crate::duration::parse_duration;
use crate::error::{Exit, Failure};
use crate::format::{end, pairs};
use crate::query::{json_line, query};
use crate::terminal::{OutputFormat, escape, escape_json, notice, print, print_json};

/// Several times what wshubd accepts: a longer token is refused by wshubd itself.
const LONGEST: u64 = 64 << 10;

/// Make and check tokens for clients
#[derive(Subcommand, Debug)]
pub(crate) enum TokenCommand {
    New(NewTokenArgs),
    Check(CheckTokenArgs),
}

/// Make a token and print it, alone on a line
///
/// Without --subscribe, --publish, --interrupt and --admin the token has the default rights of
/// the configuration of wshubd. With any of them, it has the given rights only: an option that is
/// not given grants no right of its kind. A PATTERN is the name of a channel, with `*` for
/// any characters; quote it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl token new --user alice --ttl 8h\n  \
                        wshubctl token new --user alice --subscribe 'logs:*' news --publish chat")]
pub(crate) struct NewTokenArgs {
    /// The user of the token
    #[arg(long)]
    user: String,
    /// How long the token is valid, as in 8h or 90 (seconds)
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
    /// Channels to which the user may subscribe
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    subscribe: Vec<String>,
    /// Channels to which the user may publish
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    publish: Vec<String>,
    /// Channels on which the user may stop operations, besides the user's own operations
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    interrupt: Vec<String>,
    /// Grant the right to administer wshubd
    #[arg(long)]
    admin: bool,
    /// Requests per second that the bearer may send, at most `[limits] token_rate`
    #[arg(long, value_name = "NUMBER", requires = "burst", value_parser = above_zero)]
    rate: Option<f64>,
    /// Requests that the bearer may send at once
    #[arg(long, value_name = "NUMBER", requires = "rate", value_parser = above_zero)]
    burst: Option<f64>,
    /// Information about the bearer in presence lists: JSON of up to 256 bytes
    #[arg(long, value_name = "JSON", value_parser = json)]
    info: Option<Box<RawValue>>,
}

/// Check whether wshubd accepts a token, and if not, show the reason
///
/// Exits with 0 if the token is valid, and shows its user, its end and its rights;
/// exits with 1 if it is not valid. Other users of the machine can see the arguments
/// of a command, so prefer the standard input.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  wshubctl token check < token.txt\n  \
                        wshubctl token new --user alice | wshubctl token check\n  \
                        wl-paste | wshubctl token check")]
pub(crate) struct CheckTokenArgs {
    /// The token; `-`, or no argument, for the standard input
    #[arg(value_name = "TOKEN|-")]
    token: Option<String>,
    /// One JSON object, as it is in a pipe
    #[arg(long)]
    json: bool,
}

fn above_zero(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn json(text: &str) -> Result<Box<RawValue>, String> {
    RawValue::from_string(text.to_owned())
        .map_err(|error| format!("expected JSON, such as '{{\"name\":\"Ada\"}}': {error}"))
}

#[derive(Serialize)]
#[serde(tag = "action")]
enum TokenRequest<'a> {
    #[serde(rename = "token")]
    New {
        user_id: &'a str,
        ttl: f64,
        /// Without any of these the configuration decides what the token allows;
        /// else what is not there is not allowed.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        subscribe: &'a [String],
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        publish: &'a [String],
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        interrupt: &'a [String],
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        admin: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        limits: Option<TokenLimits>,
        #[serde(skip_serializing_if = "Option::is_none")]
        info: Option<&'a RawValue>,
    },
    #[serde(rename = "token")]
    Check { token: &'a str },
}

#[derive(Serialize)]
struct TokenLimits {
    rate: f64,
    burst: f64,
}

pub(crate) async fn new(hub: &HubConnection, args: NewTokenArgs) -> Result<ExitCode, Failure> {
    #[derive(Deserialize)]
    struct NewTokenAnswer {
        token: String,
    }
    let NewTokenArgs { user, ttl, subscribe, publish, interrupt, admin, rate, burst, info } = &args;
    let ttl = ttl.as_secs_f64();
    let (subscribe, publish, interrupt, admin) = (&**subscribe, &**publish, &**interrupt, *admin);
    let limits = rate.zip(*burst).map(|(rate, burst)| TokenLimits { rate, burst });
    let info = info.as_deref();
    let request =
        TokenRequest::New { user_id: user, ttl, subscribe, publish, interrupt, admin, limits, info };
    let NewTokenAnswer { token } = query(hub, &request).await?.parse()?;
    print(&format!("{}\n", escape(&token)))
}

#[derive(Deserialize)]
struct CheckAnswer {
    valid: bool,
    code: Option<String>,
    message: Option<String>,
    user_id: Option<String>,
    expires_at: Option<String>,
    alg: Option<String>,
    kid: Option<String>,
    rights: Option<ShownRights>,
    limits: Option<ShownLimits>,
    granted: Option<ShownLimits>,
    info: Option<Box<RawValue>>,
    jti: Option<String>,
    issued_at: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

/// Rate limit of the token's bearer.
#[derive(Deserialize)]
struct ShownLimits {
    rate: f64,
    burst: u64,
}

#[derive(Deserialize)]
struct ShownRights {
    from: String,
    subscribe: Vec<String>,
    publish: Vec<String>,
    interrupt: Vec<String>,
    admin: bool,
}

pub(crate) async fn check(hub: &HubConnection, args: CheckTokenArgs) -> Result<ExitCode, Failure> {
    let token = match args.token {
        Some(token) if token != "-" => token,
        _ => read_token().await?,
    };
    let token = match unwrap_lines(&token) {
        Some(whole) => {
            notice(
                "warning: the token contains spaces or line breaks, which are ignored here: use it without them",
            );
            whole
        }
        None => token.trim().to_owned(),
    };
    let answer = query(hub, &TokenRequest::Check { token: &token }).await?;
    let verdict: CheckAnswer = answer.parse()?;
    match OutputFormat::choose(args.json) {
        OutputFormat::Json => print_json(&json_line(&answer)?),
        OutputFormat::Text => print(&verdict.text()),
    }?;
    Ok(if verdict.valid { ExitCode::SUCCESS } else { Exit::Failed.into() })
}

/// A token that a terminal or a mail has wrapped, in one piece; none, where it is in one piece
/// or where what is there is no token and some spaces.
fn unwrap_lines(text: &str) -> Option<String> {
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
async fn read_token() -> Result<String, Failure> {
    let failed = |error| Failure::of("standard input", error);
    let is_terminal = std::io::stdin().is_terminal();
    let mut input = BufReader::new(Unblock::new(std::io::stdin())).take(LONGEST);
    let mut token = String::new();
    if is_terminal {
        notice("paste the token and press Enter, twice if it has several lines");
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
        return Err(Failure::new(Exit::Usage, "the standard input has no token"));
    }
    Ok(token)
}

impl CheckAnswer {
    fn text(&self) -> String {
        if !self.valid {
            let message = self.message.as_deref().unwrap_or("no reason was given");
            let code = self.code.as_deref().unwrap_or("token_invalid");
            return format!("not valid: {}\n", escape(&format!("{message} ({code})")));
        }
        let or_empty = |text: &Option<String>| text.clone().unwrap_or_default();
        let ends = self.expires_at.as_deref().map(|time| end(time, clock::now().wall));
        let ends = ends.unwrap_or_else(|| "never".to_owned());
        let key = match &self.kid {
            Some(kid) => format!("{} with the kid {kid}", or_empty(&self.alg)),
            None => or_empty(&self.alg),
        };
        let mut lines = vec![("valid for", or_empty(&self.user_id)), ("ends", ends), ("key", key)];
        if let Some(rights) = &self.rights {
            lines.extend([
                ("subscribe", list(&rights.subscribe)),
                ("publish", list(&rights.publish)),
                ("interrupt", list(&rights.interrupt)),
                ("admin", if rights.admin { "yes" } else { "no" }.to_owned()),
                ("rights from", format!("the {}", rights.from)),
            ]);
        }
        let limits =
            |ShownLimits { rate, burst }: &ShownLimits| format!("{rate} requests a second, {burst} at once");
        lines.extend(self.limits.as_ref().map(|limit| ("limits", limits(limit))));
        lines.extend(self.granted.as_ref().map(|granted| ("granted", limits(granted))));
        if let Some(info) = &self.info {
            lines.push(("info", escape_json(info.get())));
        }
        lines.extend(self.issued_at.clone().map(|at| ("issued", at)));
        lines.extend(self.jti.clone().map(|jti| ("jti", jti)));
        lines.extend(self.warnings.iter().map(|warning| ("warning", escape(warning))));
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
    fn a_pasted_token_ends_with_a_signature_of_full_length() {
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
