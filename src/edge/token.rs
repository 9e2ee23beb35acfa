//! Tokens (JWT, RFC 7519): who somebody is, and what for.
//!
//! Knows signatures and claims, and makes rights of them. Does not know what a key
//! is made of, or what the rights are asked for.
//!
//! Nothing in a token is believed before its signature holds, and its header
//! only chooses among keys: the algorithm is the key's own, from the
//! configuration. `exp` is taken to the millisecond, `nbf` with [`EARLY`]; `aud` and
//! `iss` may be there and are not looked at. `iat` and `jti` say whether a token is
//! revoked, and nothing else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::claims::{self, Claims, Excess, Header, NumericDate};
use super::clock;
use super::flaw::{self, Flaw};
use super::key::{Key, algorithm};
use super::revocation::Revocations;
use super::secret::{self, Exposure};
use super::signature;
use super::site::Read;
use crate::config::{Alg, Auth, ConfigError, KeyFile, Problem};
use crate::hub::{Identity, Pattern, Rights, TokenFault};
use crate::json;
use crate::protocol::frame::{AllowanceEntry, RightsEntry, TokenCheck};
use crate::protocol::{UnixTime, UserId, Wanted};

/// Longest token. Headers and URLs of 8 KiB hold it with room to spare.
pub const LONGEST_TOKEN: usize = 4096;

/// How long before its `nbf` a token is taken: the clocks of two machines with
/// NTP differ by less.
pub const EARLY: Duration = Duration::from_secs(5);

/// Verifies tokens, and mints them where its key is a secret.
pub struct Verifier {
    keys: Vec<Key>,
    /// Of tokens that do not say.
    usual: Rc<Rights>,
    /// Whose tokens held a moment ago, by a digest of each: whoever comes back with the same
    /// one, or refreshes with it, costs no second signature. Borrowed for a call.
    known: RefCell<HashMap<[u8; 32], Identity>>,
    /// What is revoked; borrowed for a call.
    revocations: Rc<RefCell<Revocations>>,
    /// For how long that is kept; none: for ever.
    revocation_ttl: Option<Duration>,
    /// What was odd about the last one that held.
    oddity: RefCell<Option<String>>,
}

/// So many tokens are known at most; then all are forgotten.
const MOST_KNOWN: usize = 512;

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.keys.len())
    }
}

/// A token that holds.
struct Proof<'a> {
    identity: Identity,
    key: &'a Key,
    /// Members of its claim `wshub` that mean nothing.
    unknown: Vec<String>,
}

/// Why no token was minted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MintError {
    /// All keys are public ones.
    NoSecretKey,
    /// It would have ended at once, or after the year 9999.
    Ttl,
    /// It would have allowed more than is looked at.
    Excessive(Excess),
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Excessive(excess) => return excess.fmt(f),
            Self::NoSecretKey => "all configured keys are public: whoever has the private one mints tokens",
            Self::Ttl => "a token must live for at least a second, and end before the year 10000",
        })
    }
}

impl std::error::Error for MintError {}

impl Verifier {
    /// Reads all keys that are configured, else systemd's credential `jwt.key`,
    /// else the one in the state directory; none, if nothing is there.
    ///
    /// # Errors
    /// All files that cannot be used, each by its name.
    pub fn open(auth: &Auth, state: &Path) -> Result<Self, ConfigError> {
        let configured = auth.keys.iter().map(|key| {
            let exposure =
                if key.alg.is_public() { Exposure::Readable } else { Exposure::of(&key.file, auth) };
            Key::read(key, exposure)
        });
        let mut keys: Vec<Result<Key, Problem>> = configured.collect();
        if keys.is_empty() {
            let read = |(file, exposure)| Key::read(&KeyFile { alg: Alg::Hs256, file, kid: None }, exposure);
            keys.extend(secret::unconfigured(secret::KEY, auth, state).map(read));
        }
        let (mut good, mut problems) = (Vec::new(), Vec::new());
        for key in keys {
            match key {
                Ok(key) => good.push(key),
                Err(problem) => problems.push(problem),
            }
        }
        ConfigError::unless_empty(problems)?;
        Ok(Self {
            keys: good,
            usual: Rc::clone(&auth.rights),
            known: RefCell::default(),
            revocations: Rc::default(),
            revocation_ttl: Some(auth.revocation_ttl),
            oddity: RefCell::default(),
        })
    }

    /// Who a token says its bearer is.
    ///
    /// # Errors
    /// Why it does not hold, as the wire spells it.
    pub fn verify(&self, token: &str, now: UnixTime) -> Result<Identity, TokenFault> {
        // More than that is not even read.
        let digest: [u8; 32] = Sha256::digest(token.get(..LONGEST_TOKEN + 1).unwrap_or(token)).into();
        let mut known = self.known.borrow_mut();
        if let Some(identity) = known.get(&digest) {
            if identity.expires_at.is_none_or(|end| now < end) {
                return self.recall(identity, now).map(|()| identity.clone());
            }
            known.remove(&digest);
        }
        let Proof { identity, unknown, .. } = self.judge(token, now).map_err(|flaw| flaw.told())?;
        if !unknown.is_empty() {
            let odd = format!("a token of {:?}: {}", identity.user_id, claims::told(&unknown));
            *self.oddity.borrow_mut() = Some(odd);
        }
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(digest, identity.clone());
        Ok(identity)
    }

    /// Whether a token that was taken is to be taken still: it may have been revoked since.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn recall(&self, identity: &Identity, now: UnixTime) -> Result<(), TokenFault> {
        self.unrevoked(identity, now).map_err(|flaw| flaw.told())
    }

    fn unrevoked(&self, identity: &Identity, now: UnixTime) -> Result<(), Flaw> {
        let found = self.revocations.borrow_mut().find(identity, now, self.revocation_ttl);
        found.map_or(Ok(()), |cause| Err(Flaw::Revoked(cause)))
    }

    /// Refuses from now on what is revoked there.
    pub fn heed(&mut self, revocations: Rc<RefCell<Revocations>>) {
        self.revocations = revocations;
    }

    /// What is revoked, and for how long that is kept.
    pub fn revocations(&self) -> (&Rc<RefCell<Revocations>>, Option<Duration>) {
        (&self.revocations, self.revocation_ttl)
    }

    /// What whoever makes tokens should know of one that held: told once, and of a token
    /// that comes again not at all.
    pub fn oddity(&self) -> Option<String> {
        self.oddity.take()
    }

    /// The same for an administrator, who is told more: what it allows and with
    /// which key it holds, or what is wrong with it and which keys there are.
    pub fn check(&self, token: &str, now: UnixTime) -> TokenCheck {
        match self.judge(token, now) {
            Ok(Proof { identity, key, unknown }) => TokenCheck {
                valid: true,
                user_id: Some(identity.user_id),
                expires_at: identity.expires_at,
                alg: Some(key.alg.name()),
                kid: key.kid.clone(),
                rights: Some(self.spelled(identity.rights.as_deref())),
                issued_at: Some(identity.issued_at).filter(|at| at.0 > 0),
                limits: identity.terms.as_ref().and_then(|terms| Some(terms.limits?.into())),
                info: identity.terms.as_ref().and_then(|terms| terms.info.clone()),
                jti: identity.terms.as_ref().and_then(|terms| terms.jti.clone()),
                warning: (!unknown.is_empty()).then(|| claims::told(&unknown)),
                ..TokenCheck::default()
            },
            Err(flaw) => TokenCheck {
                code: Some(flaw.code()),
                message: Some(flaw.explained(self, now)),
                ..TokenCheck::default()
            },
        }
    }

    fn judge(&self, token: &str, now: UnixTime) -> Result<Proof<'_>, Flaw> {
        if token.len() > LONGEST_TOKEN {
            return Err(Flaw::TooLong(token.len()));
        }
        let (payload, key) = self.proven(token)?;
        let claims: Claims = claims::read(&payload).map_err(Flaw::Claims)?;
        let expires_at = claims.exp.ok_or(Flaw::Endless)?.time();
        if now >= expires_at {
            return Err(Flaw::Ended(expires_at));
        }
        let early = u64::try_from(EARLY.as_millis()).unwrap_or(u64::MAX);
        let from = claims.nbf.map(NumericDate::time);
        if let Some(from) = from.filter(|from| from.0 > now.0.saturating_add(early)) {
            return Err(Flaw::Early(from));
        }
        let (claim, name) = claims.user().ok_or(Flaw::Nobody)?;
        let user_id = UserId::named(claim, name).map_err(Flaw::Misnamed)?;
        let issued_at = claims.issued_at().unwrap_or_default();
        let terms = claims.terms().map_err(Flaw::Excessive)?;
        let rights = claims.grant().map(|grant| claims::rights(&grant).map(Rc::new).map_err(Flaw::Excessive));
        let rights = rights.transpose()?;
        let unknown = if rights.is_some() { claims::unknown_members(&payload) } else { Vec::new() };
        let identity = Identity { user_id, rights, expires_at: Some(expires_at), issued_at, terms };
        self.unrevoked(&identity, now)?;
        Ok(Proof { identity, key, unknown })
    }

    /// The claims, once the signature holds, and the key that it holds with.
    fn proven(&self, token: &str) -> Result<(Vec<u8>, &Key), Flaw> {
        let (message, signature) = token.rsplit_once('.').ok_or(Flaw::Shapeless)?;
        let (header, payload) = message.split_once('.').ok_or(Flaw::Shapeless)?;
        if payload.contains('.') {
            return Err(Flaw::Shapeless);
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Flaw::Shapeless)?;
        let header: Header = claims::read(&header).map_err(Flaw::Header)?;
        if header.crit.is_present() {
            // RFC 7515, section 4.1.11: what is not understood must be refused.
            return Err(Flaw::Critical);
        }
        let mut fitting = self.keys.iter().filter(|key| key.fits(&header)).peekable();
        if fitting.peek().is_none() {
            return Err(Flaw::Keyless { alg: header.alg, kid: header.kid });
        }
        let holds = |key: &&Key| {
            signature::verifies(signature, message.as_bytes(), &key.verifies, algorithm(key.alg))
        };
        let Some(key) = fitting.find(holds) else {
            return Err(Flaw::Forged { alg: header.alg, kid: header.kid });
        };
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| Flaw::Shapeless)?;
        Ok((payload, key))
    }

    /// What a token allows, or the configuration in its place.
    fn spelled(&self, own: Option<&Rights>) -> RightsEntry {
        let texts =
            |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        let rights = own.unwrap_or(&self.usual);
        RightsEntry {
            from: if own.is_some() { "token" } else { "configuration" },
            subscribe: texts(&rights.subscribe),
            publish: texts(&rights.publish),
            interrupt: texts(&rights.interrupt),
            admin: rights.admin,
        }
    }

    /// Where the keys came from, and a digest of each.
    pub(super) fn files(&self) -> impl Iterator<Item = Read<'_>> {
        self.keys.iter().map(Key::source)
    }

    /// The configured keys by their names, for administrators.
    pub(super) fn keys(&self) -> String {
        let names: Vec<_> =
            self.keys.iter().map(|key| flaw::named(key.alg.name(), key.kid.as_deref())).collect();
        match &*names {
            [] => "no key at all".to_owned(),
            names => names.join(", "),
        }
    }

    /// A token for `user` that ends after `ttl`, in whole seconds, and when that
    /// is. It is signed with the first key that is a secret, and has an id of its own.
    ///
    /// # Errors
    /// There is no such key, or the token would not be valid.
    pub fn mint(
        &self,
        user: &UserId,
        ttl: Duration,
        wanted: &Wanted,
        now: UnixTime,
    ) -> Result<(String, UnixTime), MintError> {
        let Wanted { grant, limits, info } = wanted;
        let rights = grant.as_ref().map(claims::rights).transpose();
        let shown = info.as_ref().map(claims::shown).transpose();
        if let Err(excess) = rights.map(drop).and(shown.map(drop)) {
            return Err(MintError::Excessive(excess));
        }
        let mut secret = self.keys.iter().filter_map(|key| Some((key, key.signs.as_ref()?)));
        let (key, signs) = secret.next().ok_or(MintError::NoSecretKey)?;
        let iat = now.0 / 1000;
        let exp = iat.checked_add(ttl.as_secs()).filter(|exp| *exp > iat && *exp <= claims::LAST_SECOND);
        let exp = exp.ok_or(MintError::Ttl)?;
        let header = match &key.kid {
            Some(kid) => serde_json::json!({ "typ": "JWT", "alg": key.alg.name(), "kid": kid }),
            None => serde_json::json!({ "typ": "JWT", "alg": key.alg.name() }),
        };
        let mut claims = Vec::new();
        json::write(
            &claims::Minted {
                sub: user,
                iat,
                exp,
                // So that it can be revoked alone.
                jti: format!("{:016x}", clock::random()),
                wshub: grant.as_ref(),
                wshub_limits: limits.map(AllowanceEntry::from),
                wshub_info: info.as_ref(),
            },
            &mut claims,
        );
        let (header, claims) = (URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let message = format!("{header}.{claims}");
        let signature = signature::sign(message.as_bytes(), signs, algorithm(key.alg));
        let signature = signature.ok_or(MintError::NoSecretKey)?;
        Ok((format!("{message}.{signature}"), UnixTime::from_secs(exp)))
    }
}
