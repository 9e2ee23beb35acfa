//! `[auth]`: tokens, secrets and default rights.

use std::collections::HashSet;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use super::{DAY, name, seconds};
use crate::config::Environment;
use crate::config::pass::{Section, Usability};
use crate::config::spelling::Spell;
use crate::features;
use crate::hub::{Pattern, Rights, Settings};
use crate::protocol::ids::LONGEST_NAME;

/// How peers prove who they are, and what they may do.
#[derive(Clone, PartialEq, Debug)]
pub struct AuthConfig {
    /// Whether connections without a token are accepted.
    pub anonymous: bool,
    /// Whether a token may stand in the URL.
    pub query_token: bool,
    /// For how long a revocation is kept: no token that lives longer is taken while one is.
    pub revocation_ttl: Duration,
    /// What tokens are verified with; none: a key is generated.
    pub keys: Vec<KeyFile>,
    pub claims: RequiredClaims,
    /// Files of secrets; none: one is generated.
    pub broadcast_secrets: Vec<PathBuf>,
    /// Of anonymous connections, and of tokens without rights of their own.
    pub rights: Rc<Rights>,
    /// systemd's credentials, which go before generating anything.
    pub credentials: Option<PathBuf>,
}

/// The claims that a token must have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequiredClaims {
    /// The claim that names the user; none: `user_id`, else `sub`.
    pub user: Option<String>,
    /// One of these as `iss`; none: whatever it is.
    pub issuers: Vec<String>,
    /// One of these in `aud`; none: whatever it is.
    pub audiences: Vec<String>,
    /// Whether there must be an end.
    pub end: bool,
}

impl Default for RequiredClaims {
    fn default() -> Self {
        Self { user: None, issuers: Vec::new(), audiences: Vec::new(), end: true }
    }
}

impl AuthConfig {
    pub(super) fn defaults(environment: &Environment) -> Self {
        let hub = Settings::default();
        Self {
            anonymous: hub.anonymous,
            query_token: true,
            revocation_ttl: Duration::from_secs(30 * DAY),
            keys: Vec::new(),
            claims: RequiredClaims::default(),
            broadcast_secrets: Vec::new(),
            rights: hub.rights,
            credentials: environment.directory("CREDENTIALS_DIRECTORY"),
        }
    }

    pub(super) fn options(&mut self, section: &mut Section<'_>) {
        section.boolean("anonymous", &mut self.anonymous);
        section.boolean("query_token", &mut self.query_token);
        section.duration("revocation_ttl", &mut self.revocation_ttl, seconds(1, 3650 * DAY));
        // A key id names one key, or an attacker could choose.
        let mut kids = HashSet::new();
        section.tables("keys", &mut self.keys, KeyFile::blank, |key, entry| key.options(&mut kids, entry));
        self.claims.options(section);
        section.files("broadcast_secrets", &mut self.broadcast_secrets);
        let pattern = |text: &str| name(text, "a pattern").map(|text| Pattern::new(&text));
        let rights = Rc::make_mut(&mut self.rights);
        section.list("subscribe", &mut rights.subscribe, pattern);
        section.list("publish", &mut rights.publish, pattern);
        section.list("interrupt", &mut rights.interrupt, pattern);
    }
}

/// Claims that are no name of a user.
const NO_USERS: [&str; 9] = ["aud", "exp", "iat", "iss", "jti", "nbf", "wshub", "wshub_info", "wshub_limits"];

impl RequiredClaims {
    fn options(&mut self, section: &mut Section<'_>) {
        section.text("user_claim", &mut self.user, |text| match text.len() {
            _ if NO_USERS.contains(&text) => {
                Err("a claim that names the user, such as \"email\" or \"preferred_username\"".to_owned())
            }
            0 => Ok(None),
            1..=LONGEST_NAME => Ok(Some(text.to_owned())),
            _ => Err(format!("the name of a claim, up to {LONGEST_NAME} bytes")),
        });
        let text = |text: &str| match text {
            "" => Err("text as the claim has it".to_owned()),
            text => Ok(text.to_owned()),
        };
        section.list("issuer", &mut self.issuers, text);
        section.list("audience", &mut self.audiences, text);
        section.boolean("require_exp", &mut self.end);
    }
}

/// A file of keys that tokens are verified with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyFile {
    /// Of each key in it.
    pub alg: Alg,
    pub file: PathBuf,
    /// Of a key that has none of its own.
    pub kid: Option<String>,
}

impl KeyFile {
    /// An entry before it is read.
    fn blank() -> Self {
        Self { alg: Alg::Hs256, file: PathBuf::new(), kid: None }
    }

    /// Keys without `alg` or `file` are of no use.
    fn options(&mut self, kids: &mut HashSet<String>, entry: &mut Section<'_>) -> Usability {
        let location = entry.location("alg");
        entry.choice("alg", &mut self.alg, &Alg::NAMES);
        let has_alg = location.is_some();
        if let Some(location) =
            location.filter(|_| self.alg.is_public() && !features::PUBLIC_KEYS.is_built_in)
        {
            let why = features::PUBLIC_KEYS.missing();
            entry.complain(location, format!("`alg` cannot be {:?}: {why}", self.alg.name()));
        }
        let has_file = entry.location("file").is_some();
        entry.file("file", &mut self.file);
        let is_named = !self.file.as_os_str().is_empty();
        entry.optional_text("kid", &mut self.kid, |text| name(text, "a key id"));
        if let Some(kid) = self.kid.as_ref().filter(|kid| !kids.insert((*kid).clone())) {
            entry.complain_of_entry(format!("two keys have the `kid` {kid:?}"));
        }
        if !has_alg || !has_file {
            entry.complain_of_entry(
                "a key of `auth.keys` wants `alg` and `file`, such as { alg = \"HS256\", file = \"/etc/wshubd/jwt.key\" }"
                    .into(),
            );
        }
        if has_alg && is_named { Usability::Usable } else { Usability::Unusable }
    }
}

/// The algorithms that tokens can be signed with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alg {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Alg {
    /// All, by the names that RFC 7518 and RFC 8037 give them.
    pub const NAMES: [(&'static str, Self); 12] = [
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];

    /// Whether the key that verifies cannot sign, and need not be kept secret.
    pub fn is_public(self) -> bool {
        !matches!(self, Self::Hs256 | Self::Hs384 | Self::Hs512)
    }

    /// Whether a token's header or a JWK means it by this: EdDSA is `Ed25519` as well since
    /// RFC 9864.
    pub fn is_named(self, name: &str) -> bool {
        name == self.name() || (self == Self::EdDsa && name == "Ed25519")
    }

    /// As a token's header spells it.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, alg)| *alg == self).map_or("", |(name, _)| name)
    }
}

impl Spell for Pattern {
    fn spell(&self) -> String {
        self.as_str().spell()
    }
}
