//! Tokens (JWT, RFC 7519): who somebody is, and what for.
//!
//! Knows signatures and claims, and makes rights of them. Does not know what a key
//! is made of, or what the rights are asked for.
//!
//! Nothing in a token is believed before its signature holds, and its header
//! only chooses among keys: the algorithm is the key's own, from the
//! configuration. `exp` is taken to the millisecond, `nbf` with [`EARLY`]; `iss` and
//! `aud` count where the configuration names some. `iat` and `jti` say whether a token
//! is revoked, and nothing else.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::claims;
use super::claims::{Claims, Excess, Header, NumericDate};
use super::crypto;
use super::error;
use super::error::TokenError;
use super::keys::{Contents, Key, Skipped, algorithm};
use super::revocation::{Cause, Revocations};
use super::secret_file;
use super::secret_file::Exposure;
use crate::config::{Alg, AuthConfig, ConfigError, KeyFile, RequiredClaims};
use crate::edge::clock;
use crate::edge::driver::config::Read;
use crate::hub::{Identity, Pattern, Rights, TokenFault};
use crate::json;
use crate::protocol::frame::{RateLimitEntry, RightsEntry, TokenCheck};
use crate::protocol::{MintTerms, UnixTime, UserId};

/// Longest token. Headers and URLs of 8 KiB hold it with room to spare.
pub const LONGEST_TOKEN: usize = 4096;

/// How long before its `nbf` a token is taken: the clocks of two machines with
/// NTP differ by less.
pub const EARLY: Duration = Duration::from_secs(5);

/// Verifies tokens, and mints them where its key is a secret.
pub struct Verifier {
    keys: Vec<Key>,
    /// Keys of JWK sets that are of no use.
    skipped: Vec<Skipped>,
    /// Where the keys came from, and a digest of each file.
    files: Vec<(PathBuf, String)>,
    /// What a token must say.
    wanted: RequiredClaims,
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

/// So many public keys are tried for a token that names none by a `kid`: one signature of
/// ES384 takes 1.4 ms, and everybody waits for that. Secrets take microseconds, and are all
/// tried.
pub const MOST_TRIED: usize = 4;

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
    payload: Vec<u8>,
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
    /// It would be refused at once.
    Revoked(Cause),
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Excessive(excess) => return excess.fmt(f),
            Self::Revoked(Cause::User(_)) => {
                "the user's tokens were revoked in this very second: ask again in the next one"
            }
            Self::Revoked(cause) => return write!(f, "it would be refused: {cause}"),
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
    pub fn open(auth: &AuthConfig, state: &Path) -> Result<Self, ConfigError> {
        let configured = auth.keys.iter().map(|key| {
            let exposure =
                if key.alg.is_public() { Exposure::Readable } else { Exposure::of(&key.file, auth) };
            Contents::read(key, exposure)
        });
        let mut read: Vec<_> = configured.collect();
        if read.is_empty() {
            let only =
                |(file, exposure)| Contents::read(&KeyFile { alg: Alg::Hs256, file, kid: None }, exposure);
            read.extend(secret_file::unconfigured(secret_file::KEY, auth, state).map(only));
        }
        let (mut keys, mut skipped, mut files, mut problems) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for contents in read {
            match contents {
                Ok(mut contents) => {
                    contents.deduplicate(&keys);
                    let (file, digest) = contents.source();
                    files.push((file.to_owned(), digest.to_owned()));
                    keys.append(&mut contents.keys);
                    skipped.append(&mut contents.skipped);
                }
                Err(problem) => problems.push(problem),
            }
        }
        ConfigError::unless_empty(problems)?;
        // What one entry of the configuration has no use for another may have.
        skipped.retain(|skipped| !keys.iter().any(|key| skipped.is(key)));
        Ok(Self {
            keys,
            skipped,
            files,
            wanted: auth.claims.clone(),
            usual: Rc::clone(&auth.rights),
            known: RefCell::default(),
            revocations: Rc::default(),
            // A token without an end may come again at any time.
            revocation_ttl: auth.claims.end.then_some(auth.revocation_ttl),
            oddity: RefCell::default(),
        })
    }

    /// What is no mistake, and may be none of what was meant: keys that are not used.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.skipped.iter().map(Skipped::to_string).chain(self.untried())
    }

    /// Keys without a `kid` that no token leads to, for each algorithm that has such.
    fn untried(&self) -> impl Iterator<Item = String> {
        Alg::NAMES.iter().filter(|(_, alg)| alg.is_public()).filter_map(|(name, alg)| {
            let of_alg = || self.keys.iter().filter(|key| key.alg == *alg);
            let (all, nameless) = (of_alg().count(), of_alg().filter(|key| key.kid.is_none()).count());
            (all > MOST_TRIED && nameless > 0).then(|| {
                format!(
                    "{nameless} of the {all} keys of {name} have no `kid`, and verify nothing: a token without \
                     `kid` is tried with {MOST_TRIED} public keys at most; give each key a `kid`"
                )
            })
        })
    }

    /// Who a token says its bearer is.
    ///
    /// # Errors
    /// Why it does not hold, as the wire spells it.
    pub fn verify(&self, token: &str, now: UnixTime) -> Result<Identity, TokenFault> {
        self.examine(token, now).map_err(|flaw| flaw.told())
    }

    /// The same for whoever has to explain a refusal.
    pub(in crate::edge) fn examine(&self, token: &str, now: UnixTime) -> Result<Identity, TokenError> {
        // More than that is not even read.
        let digest: [u8; 32] = Sha256::digest(token.get(..LONGEST_TOKEN + 1).unwrap_or(token)).into();
        let mut known = self.known.borrow_mut();
        if let Some(identity) = known.get(&digest) {
            if identity.expires_at.is_none_or(|end| now < end) {
                return self.unrevoked(identity, now).map(|()| identity.clone());
            }
            known.remove(&digest);
        }
        let Proof { identity, payload, .. } = self.judge(token, now)?;
        let unknown = claims::unknown_members(&payload);
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

    fn unrevoked(&self, identity: &Identity, now: UnixTime) -> Result<(), TokenError> {
        let found = self.revocations.borrow_mut().find(identity, now, self.revocation_ttl);
        found.map_or(Ok(()), |cause| Err(TokenError::Revoked(cause)))
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
            Ok(Proof { identity, key, payload }) => TokenCheck {
                valid: true,
                warnings: self.warnings_of(&identity, error::warnings(token, &payload, key, now), now),
                user_id: Some(identity.user_id),
                expires_at: identity.expires_at,
                alg: Some(key.alg.name()),
                kid: key.kid.clone(),
                rights: Some(self.spelled(identity.rights.as_deref())),
                issued_at: Some(identity.issued_at).filter(|at| at.0 > 0),
                limits: identity.terms.as_ref().and_then(|terms| Some(terms.limits?.into())),
                info: identity.terms.as_ref().and_then(|terms| terms.info.clone()),
                jti: identity.terms.as_ref().and_then(|terms| terms.jti.clone()),
                ..TokenCheck::default()
            },
            Err(flaw) => TokenCheck {
                code: Some(flaw.code()),
                message: Some(flaw.explained(self, token, now)),
                ..TokenCheck::default()
            },
        }
    }

    /// What is unusual about a token that holds, and that it holds although it was revoked.
    fn warnings_of(&self, identity: &Identity, warnings: Vec<String>, now: UnixTime) -> Vec<String> {
        let outlived = self.revocations.borrow().outlived(identity, now);
        warnings.into_iter().chain(outlived.map(|outlived| outlived.to_string())).collect()
    }

    fn judge(&self, token: &str, now: UnixTime) -> Result<Proof<'_>, TokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::TooLong(token.len()));
        }
        let (payload, key) = self.proven(token)?;
        let claims: Claims = claims::read(&payload).map_err(TokenError::Claims)?;
        let expires_at = claims.exp.map(NumericDate::time);
        if expires_at.is_none() && self.wanted.end {
            return Err(TokenError::Endless);
        }
        if let Some(end) = expires_at.filter(|end| now >= *end) {
            return Err(TokenError::Ended(end));
        }
        let early = u64::try_from(EARLY.as_millis()).unwrap_or(u64::MAX);
        let from = claims.nbf.map(NumericDate::time);
        if let Some(from) = from.filter(|from| from.0 > now.0.saturating_add(early)) {
            return Err(TokenError::Early(from));
        }
        self.check_origin(&claims)?;
        let user_id = self.user(&claims, &payload)?;
        let issued_at = claims.issued_at().unwrap_or_default();
        let terms = claims.terms().map_err(TokenError::Excessive)?;
        let rights =
            claims.grant().map(|grant| claims::rights(&grant).map(Rc::new).map_err(TokenError::Excessive));
        let rights = rights.transpose()?;
        let identity = Identity { user_id, rights, expires_at, issued_at, terms };
        self.unrevoked(&identity, now)?;
        Ok(Proof { identity, key, payload })
    }

    /// Whether the token was made by whom, and for whom, the configuration says.
    fn check_origin(&self, claims: &Claims) -> Result<(), TokenError> {
        let RequiredClaims { issuers, audiences, .. } = &self.wanted;
        if !issuers.is_empty() {
            let issuer = claims.issuer().map_err(TokenError::Claims)?;
            if !issuer.as_ref().is_some_and(|issuer| issuers.contains(issuer)) {
                return Err(TokenError::Issuer(issuer));
            }
        }
        if !audiences.is_empty() {
            let audience = claims.audience().map_err(TokenError::Claims)?;
            if !audience.iter().any(|one| audiences.contains(one)) {
                return Err(TokenError::Audience(audience));
            }
        }
        Ok(())
    }

    /// Whom the token names, by the claim that is configured or by one of the usual ones.
    fn user(&self, claims: &Claims, payload: &[u8]) -> Result<UserId, TokenError> {
        let found = match self.wanted.user.as_deref() {
            Some(claim) => claims::user_by(claim, payload).map(|user| user.map(|user| (claim, user))),
            None => claims.user(),
        };
        let nobody = || TokenError::Nobody(claims::all(payload).into_keys().collect());
        let (claim, user) = found.map_err(TokenError::Claims)?.ok_or_else(nobody)?;
        UserId::named(claim, &user).map_err(TokenError::Misnamed)
    }

    /// Whom a token names, whether its signature holds or not.
    pub(in crate::edge) fn subject(&self, token: &str) -> Option<UserId> {
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        self.user(&claims::read(&payload).ok()?, &payload).ok()
    }

    /// The claims, once the signature holds, and the key that it holds with.
    fn proven(&self, token: &str) -> Result<(Vec<u8>, &Key), TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Shapeless)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Shapeless)?;
        if payload.contains('.') {
            return Err(TokenError::Shapeless);
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Shapeless)?;
        let header: Header = claims::read(&header).map_err(TokenError::Header)?;
        if header.crit.is_present() {
            // RFC 7515, section 4.1.11: what is not understood must be refused.
            return Err(TokenError::Critical);
        }
        // What nobody can read is not forged: it was cut, or wrapped by a terminal.
        URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Shapeless)?;
        let claims = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Shapeless)?;
        let is_only = self.keys.len() == 1;
        let fitting: Vec<&Key> = self.keys.iter().filter(|key| key.fits(&header, is_only)).collect();
        match (&*fitting, &header.kid) {
            ([], _) => return Err(TokenError::Keyless { alg: header.alg, kid: header.kid }),
            ([first, ..], None) if first.alg.is_public() && fitting.len() > MOST_TRIED => {
                return Err(TokenError::Nameless { alg: header.alg, fitting: fitting.len() });
            }
            _ => {}
        }
        let holds =
            |key: &&Key| crypto::verifies(signature, message.as_bytes(), &key.verifies, algorithm(key.alg));
        let Some(key) = fitting.into_iter().find(holds) else {
            return Err(TokenError::Forged { alg: header.alg, kid: header.kid });
        };
        Ok((claims, key))
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

    /// Where the keys came from, and a digest of each file.
    pub(in crate::edge) fn files(&self) -> impl Iterator<Item = Read<'_>> {
        self.files.iter().map(|(file, digest)| (file.as_path(), digest.as_str()))
    }

    /// For explanations: the keys, those that are not used, and what a token must say.
    pub(in crate::edge) fn known_keys(&self) -> &[Key] {
        &self.keys
    }

    pub(in crate::edge) fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    pub(in crate::edge) fn wanted(&self) -> &RequiredClaims {
        &self.wanted
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
        wanted: &MintTerms,
        now: UnixTime,
    ) -> Result<(String, UnixTime), MintError> {
        let MintTerms { grant, limits, info } = wanted;
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
        let identity = Identity {
            issued_at: UnixTime::from_secs(iat),
            expires_at: Some(UnixTime::from_secs(exp)),
            ..Identity::new(user.clone())
        };
        if let Err(TokenError::Revoked(cause)) = self.unrevoked(&identity, now) {
            return Err(MintError::Revoked(cause));
        }
        let (issuer, audience) = (self.wanted.issuers.first(), self.wanted.audiences.first());
        let said = [
            (self.wanted.user.as_deref().unwrap_or("sub"), Some(user.as_str())),
            ("iss", issuer.map(|issuer| &**issuer)),
            ("aud", audience.map(|audience| &**audience)),
        ];
        let mut claims = vec![b'{'];
        for (claim, value) in said.into_iter().filter_map(|(claim, value)| Some((claim, value?))) {
            json::write(&claim, &mut claims);
            claims.push(b':');
            json::write(&value, &mut claims);
            claims.push(b',');
        }
        let rest = claims.len();
        json::write(
            &claims::Minted {
                iat,
                exp,
                // So that it can be revoked alone.
                jti: format!("{:016x}", clock::random()),
                wshub: grant.as_ref(),
                wshub_limits: limits.map(RateLimitEntry::from),
                wshub_info: info.as_ref(),
            },
            &mut claims,
        );
        // Its own bracket: all of it is one object.
        claims.remove(rest);
        let (header, claims) = (URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let message = format!("{header}.{claims}");
        let signature = crypto::sign(message.as_bytes(), signs, algorithm(key.alg));
        let signature = signature.ok_or(MintError::NoSecretKey)?;
        Ok((format!("{message}.{signature}"), UnixTime::from_secs(exp)))
    }
}
