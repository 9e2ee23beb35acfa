//! Verifier of tokens (JWT, RFC 7519): the identity of a bearer, and its rights.
//!
//! Nothing in a token counts before its signature holds, and its header only chooses among
//! keys: the algorithm is the key's own, from the configuration. `exp` is compared to the
//! millisecond, `nbf` with a tolerance of [`EARLY`](claims::EARLY); `iss` and `aud` count where the
//! configuration names some. `iat` and `jti` are used for revocations only.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

use super::claims;
use super::claims::{Claims, Header, LONGEST_TOKEN};
use super::error::TokenError;
use super::explain;
use super::explain::Requirements;
use super::keys::{Key, KeyRing, MOST_TRIED};
use super::mint;
use super::mint::{Lifetime, MintError};
use super::revocation::Revocations;
use super::secret_file::ReadFile;
use crate::config::{AuthConfig, ConfigError, RequiredClaims};
use crate::hub::{Identity, Pattern, Rights, TokenFault};
use crate::protocol::frame::{RightsEntry, TokenCheck};
use crate::protocol::{MintTerms, UnixTime, UserId};

/// Verifies tokens, and mints them where its key is a secret.
pub struct Verifier {
    keys: KeyRing,
    /// The claims that a token must have.
    wanted: RequiredClaims,
    /// The rights of tokens that name none.
    default_rights: Rc<Rights>,
    /// The identities of recent tokens, by a digest of each: a token that comes again, at a
    /// reconnect or a refresh, costs no second signature. Borrowed for a call.
    recent: RefCell<HashMap<[u8; 32], Identity>>,
    /// Borrowed for a call.
    revocations: Rc<RefCell<Revocations>>,
    /// For how long revocations are kept; none: for ever.
    revocation_ttl: Option<Duration>,
    /// The warning about the last token that held, if there is one.
    oddity: RefCell<Option<String>>,
}

/// Most tokens that are remembered; one more clears them all.
const MOST_RECENT: usize = 512;

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.keys.keys().len())
    }
}

/// A token whose signature holds and whose claims are in order.
struct Proof<'a> {
    identity: Identity,
    key: &'a Key,
    payload: Vec<u8>,
}

impl Verifier {
    /// Reads the configured keys, else systemd's credential `jwt.key`, else the key in the state
    /// directory; none, if neither exists.
    ///
    /// # Errors
    /// All files that cannot be used, each by its name.
    pub fn open(auth: &AuthConfig, state: &Path) -> Result<Self, ConfigError> {
        Ok(Self {
            keys: KeyRing::open(auth, state)?,
            wanted: auth.claims.clone(),
            default_rights: Rc::clone(&auth.rights),
            recent: RefCell::default(),
            revocations: Rc::default(),
            // A token without an end may come again at any time.
            revocation_ttl: auth.claims.end.then_some(auth.revocation_ttl),
            oddity: RefCell::default(),
        })
    }

    /// Warnings about keys that are not used, which may be a mistake.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.keys.warnings()
    }

    /// The identity of the bearer.
    ///
    /// # Errors
    /// Why the token does not hold, as the wire spells it.
    pub fn verify(&self, token: &str, now: UnixTime) -> Result<Identity, TokenFault> {
        self.examine(token, now).map_err(|error| error.fault())
    }

    /// The same with an error that can be explained.
    pub(in crate::edge) fn examine(&self, token: &str, now: UnixTime) -> Result<Identity, TokenError> {
        // Of a longer one only that much is hashed.
        let digest: [u8; 32] = Sha256::digest(token.get(..LONGEST_TOKEN + 1).unwrap_or(token)).into();
        let mut recent = self.recent.borrow_mut();
        if let Some(identity) = recent.get(&digest) {
            if identity.expires_at.is_none_or(|end| now < end) {
                return self.check_revoked(identity, now).map(|()| identity.clone());
            }
            recent.remove(&digest);
        }
        let Proof { identity, payload, .. } = self.prove(token, now)?;
        let unknown = claims::unknown_members(&payload);
        if !unknown.is_empty() {
            let warning = claims::unknown_members_warning(&unknown);
            *self.oddity.borrow_mut() = Some(format!("a token of {:?}: {warning}", identity.user_id));
        }
        if recent.len() >= MOST_RECENT {
            recent.clear();
        }
        recent.insert(digest, identity.clone());
        Ok(identity)
    }

    /// Checks that a token which was accepted is not revoked since.
    ///
    /// # Errors
    /// As [`Self::verify`].
    pub fn recall(&self, identity: &Identity, now: UnixTime) -> Result<(), TokenFault> {
        self.check_revoked(identity, now).map_err(|error| error.fault())
    }

    fn check_revoked(&self, identity: &Identity, now: UnixTime) -> Result<(), TokenError> {
        let found = self.revocations.borrow_mut().find(identity, now, self.revocation_ttl);
        found.map_or(Ok(()), |cause| Err(TokenError::Revoked(cause)))
    }

    /// Uses these revocations from now on.
    pub fn heed(&mut self, revocations: Rc<RefCell<Revocations>>) {
        self.revocations = revocations;
    }

    /// The revocations, and for how long they are kept.
    pub fn revocations(&self) -> (&Rc<RefCell<Revocations>>, Option<Duration>) {
        (&self.revocations, self.revocation_ttl)
    }

    /// Takes the warning about the last token that held: for its maker, and once for each
    /// token.
    pub fn oddity(&self) -> Option<String> {
        self.oddity.take()
    }

    /// Checks a token for an administrator: its rights and its key, or the explanation of its
    /// refusal.
    pub fn check(&self, token: &str, now: UnixTime) -> TokenCheck {
        match self.prove(token, now) {
            Ok(Proof { identity, key, payload }) => TokenCheck {
                valid: true,
                warnings: self.warnings_of(&identity, explain::warnings(token, &payload, key, now), now),
                user_id: Some(identity.user_id),
                expires_at: identity.expires_at,
                alg: Some(key.alg().name()),
                kid: key.kid().map(str::to_owned),
                rights: Some(self.rights_entry(identity.rights.as_deref())),
                issued_at: Some(identity.issued_at).filter(|at| at.0 > 0),
                limits: identity.terms.as_ref().and_then(|terms| Some(terms.limits?.into())),
                info: identity.terms.as_ref().and_then(|terms| terms.info.clone()),
                jti: identity.terms.as_ref().and_then(|terms| terms.jti.clone()),
                ..TokenCheck::default()
            },
            Err(error) => TokenCheck {
                code: Some(error.code()),
                message: Some(self.explain(&error, token, now)),
                ..TokenCheck::default()
            },
        }
    }

    /// The warnings, and one more if it holds although it was revoked.
    fn warnings_of(&self, identity: &Identity, warnings: Vec<String>, now: UnixTime) -> Vec<String> {
        let outlived = self.revocations.borrow().outlived(identity, now);
        warnings.into_iter().chain(outlived.map(|outlived| outlived.to_string())).collect()
    }

    fn prove(&self, token: &str, now: UnixTime) -> Result<Proof<'_>, TokenError> {
        if token.len() > LONGEST_TOKEN {
            return Err(TokenError::TooLong(token.len()));
        }
        let (payload, key) = self.check_signature(token)?;
        let claims: Claims = claims::read(&payload).map_err(TokenError::Claims)?;
        let expires_at = claims.check_times(&self.wanted, now)?;
        claims.check_origin(&self.wanted)?;
        let user_id = self.user(&claims, &payload)?;
        let issued_at = claims.issued_at().unwrap_or_default();
        let terms = claims.terms().map_err(TokenError::OutOfBounds)?;
        let rights =
            claims.grant().map(|grant| claims::rights(&grant).map(Rc::new).map_err(TokenError::OutOfBounds));
        let rights = rights.transpose()?;
        let identity = Identity { user_id, rights, expires_at, issued_at, terms };
        self.check_revoked(&identity, now)?;
        Ok(Proof { identity, key, payload })
    }

    /// The user of the token, from the configured claim or else one of the usual ones.
    fn user(&self, claims: &Claims, payload: &[u8]) -> Result<UserId, TokenError> {
        let found = match self.wanted.user.as_deref() {
            Some(claim) => claims::user_by(claim, payload).map(|user| user.map(|user| (claim, user))),
            None => claims.user(),
        };
        let no_user = || TokenError::NoUser(claims::all(payload).into_keys().collect());
        let (claim, user) = found.map_err(TokenError::Claims)?.ok_or_else(no_user)?;
        UserId::named(claim, &user).map_err(TokenError::BadUser)
    }

    /// The user that a token names, whether its signature holds or not.
    pub(in crate::edge) fn subject(&self, token: &str) -> Option<UserId> {
        let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
        self.user(&claims::read(&payload).ok()?, &payload).ok()
    }

    /// The claims, not parsed yet, and the key that the signature holds with.
    fn check_signature(&self, token: &str) -> Result<(Vec<u8>, &Key), TokenError> {
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        if payload.contains('.') {
            return Err(TokenError::Malformed);
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed)?;
        let header: Header = claims::read(&header).map_err(TokenError::Header)?;
        if header.is_critical() {
            // RFC 7515, section 4.1.11: an unknown extension must be refused.
            return Err(TokenError::Critical);
        }
        // An unreadable signature is not forged: it was cut, or wrapped by a terminal.
        URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenError::Malformed)?;
        let claims = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Malformed)?;
        let fitting = self.keys.fitting(&header);
        let (alg, kid) = header.into_key_name();
        match (&*fitting, &kid) {
            ([], _) => return Err(TokenError::NoKey { alg, kid }),
            ([first, ..], None) if first.alg().is_public() && fitting.len() > MOST_TRIED => {
                return Err(TokenError::AmbiguousKey { alg, fitting: fitting.len() });
            }
            _ => {}
        }
        let key = fitting.into_iter().find(|key| key.material().verifies(message, signature));
        Ok((claims, key.ok_or(TokenError::BadSignature { alg, kid })?))
    }

    /// The rights of a token, or those of the configuration in their place.
    fn rights_entry(&self, own: Option<&Rights>) -> RightsEntry {
        let texts =
            |patterns: &[Pattern]| patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
        let rights = own.unwrap_or(&self.default_rights);
        RightsEntry {
            from: if own.is_some() { "token" } else { "configuration" },
            subscribe: texts(&rights.subscribe),
            publish: texts(&rights.publish),
            interrupt: texts(&rights.interrupt),
            admin: rights.admin,
        }
    }

    /// The files that the keys came from.
    pub(in crate::edge) fn files(&self) -> &[ReadFile] {
        self.keys.files()
    }

    /// The explanation of a refusal, for administrators.
    pub(in crate::edge) fn explain(&self, error: &TokenError, token: &str, now: UnixTime) -> String {
        Requirements::new(&self.keys, &self.wanted).explain(error, token, now)
    }

    /// A token for `user` that ends after `ttl`, in whole seconds, and when that is. It is
    /// signed with the first key that is a secret, and has an id of its own.
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
        mint::check_terms(wanted)?;
        let key = self.keys.signing_key().ok_or(MintError::NoSecretKey)?;
        let lifetime = Lifetime::new(now.0 / 1000, ttl.as_secs())?;
        let expires_at = UnixTime::from_secs(lifetime.exp());
        let identity = Identity {
            issued_at: UnixTime::from_secs(lifetime.iat()),
            expires_at: Some(expires_at),
            ..Identity::new(user.clone())
        };
        if let Err(TokenError::Revoked(cause)) = self.check_revoked(&identity, now) {
            return Err(MintError::Revoked(cause));
        }
        let header = match key.kid() {
            Some(kid) => serde_json::json!({ "typ": "JWT", "alg": key.alg().name(), "kid": kid }),
            None => serde_json::json!({ "typ": "JWT", "alg": key.alg().name() }),
        };
        let claims = mint::claims(user, wanted, lifetime, &self.wanted);
        let (header, claims) = (URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let message = format!("{header}.{claims}");
        let signature = key.material().sign(&message).ok_or(MintError::NoSecretKey)?;
        Ok((format!("{message}.{signature}"), expires_at))
    }
}
