//! Tokens (JWT, RFC 7519): who somebody is, and what for.
//!
//! Knows keys, signatures and claims, and makes rights of them. Does not know
//! what the rights are asked for.
//!
//! Nothing in a token is believed before its signature holds, and its header
//! only chooses among keys: the algorithm is the key's own, from the
//! configuration. `exp` is taken to the second, `nbf` with [`EARLY`]; `iat`,
//! `aud` and `iss` may be there and are not looked at.

use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};

use super::claims::{self, Claims, Header};
use super::secret::{self, Absent, Exposure, Secret};
use crate::config::{Alg, Auth, ConfigError, KeyFile, Problem};
use crate::hub::{Identity, Rights, TokenFault};
use crate::protocol::{UnixTime, UserId};

/// Longest token. Headers and URLs of 8 KiB hold it with room to spare.
pub const LONGEST_TOKEN: usize = 4096;

/// How long before its `nbf` a token is taken: the clocks of two machines with
/// NTP differ by less.
pub const EARLY: Duration = Duration::from_secs(5);

/// The name of the generated key, and of the credential.
const KEY: &str = "jwt.key";

/// Verifies tokens, and mints them where its key is a secret.
pub struct Verifier {
    keys: Vec<Key>,
    /// Of tokens that do not say.
    usual: Rc<Rights>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({})", self.keys.len())
    }
}

struct Key {
    alg: Alg,
    kid: Option<String>,
    verifies: DecodingKey,
    /// Only where one and the same key does both.
    signs: Option<EncodingKey>,
}

/// Why no token was minted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MintError {
    /// All keys are public ones.
    NoSecretKey,
    /// It would have ended at once, or after the year 9999.
    Ttl,
}

impl fmt::Display for MintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSecretKey => "all configured keys are public: whoever has the private one mints tokens",
            Self::Ttl => "a token must live for at least a second, and end before the year 10000",
        })
    }
}

impl std::error::Error for MintError {}

impl Verifier {
    /// Reads all keys that are configured, else systemd's credential `jwt.key`,
    /// else the one in the state directory, which the first start generates.
    ///
    /// # Errors
    /// All files that cannot be used, each by its name.
    pub fn new(auth: &Auth, state: &Path) -> Result<Self, ConfigError> {
        Self::open(auth, state, Absent::Generate)
    }

    /// As [`Verifier::new`]; `absent` says whether a first start may leave traces.
    ///
    /// # Errors
    /// As [`Verifier::new`].
    pub fn open(auth: &Auth, state: &Path, absent: Absent) -> Result<Self, ConfigError> {
        let configured = auth.keys.iter().map(|key| {
            let exposure = match key.alg {
                Alg::Hs256 | Alg::Hs384 | Alg::Hs512 => Exposure::of(&key.file, auth),
                Alg::Rs256 | Alg::Es256 | Alg::EdDsa => Exposure::Readable,
            };
            Key::read(key, exposure)
        });
        let mut keys: Vec<Result<Key, Problem>> = configured.collect();
        if keys.is_empty() {
            let found = secret::unconfigured(KEY, auth, state, absent).transpose();
            let read = |(file, exposure)| Key::read(&KeyFile { alg: Alg::Hs256, file, kid: None }, exposure);
            keys.extend(found.map(|found| found.and_then(read)));
        }
        let (mut good, mut problems) = (Vec::new(), Vec::new());
        for key in keys {
            match key {
                Ok(key) => good.push(key),
                Err(problem) => problems.push(problem),
            }
        }
        ConfigError::unless_empty(problems)?;
        Ok(Self { keys: good, usual: Rc::clone(&auth.rights) })
    }

    /// Who a token says its bearer is.
    ///
    /// # Errors
    /// Why it does not hold, as the wire spells it.
    pub fn verify(&self, token: &str, now: UnixTime) -> Result<Identity, TokenFault> {
        if token.len() > LONGEST_TOKEN {
            return Err(invalid(format!("the token is longer than {LONGEST_TOKEN} bytes")));
        }
        let payload = self.proven(token)?;
        let claims: Claims =
            claims::read(&payload).map_err(|error| invalid(format!("the claims {error}")))?;
        let expires_at = UnixTime::from_secs(claims.exp.seconds());
        if now >= expires_at {
            return Err(TokenFault {
                code: "token_expired",
                message: format!("the token ended at {expires_at}"),
            });
        }
        let early = u64::try_from(EARLY.as_millis()).unwrap_or(u64::MAX);
        let from = claims.nbf.map(|nbf| UnixTime::from_secs(nbf.seconds()));
        if let Some(from) = from.filter(|from| from.0 > now.0.saturating_add(early)) {
            return Err(TokenFault { code: "token_not_yet", message: format!("the token begins at {from}") });
        }
        let name =
            claims.user().ok_or_else(|| invalid("the claims name no user: `user_id` or `sub`".into()))?;
        let user_id = UserId::new(&name).map_err(|refusal| invalid(refusal.message.to_string()))?;
        let rights = match claims.grant() {
            Some(grant) => grant.rights().map(Rc::new).map_err(|error| invalid(error.into()))?,
            None => Rc::clone(&self.usual),
        };
        Ok(Identity { user_id, rights, expires_at: Some(expires_at) })
    }

    /// The claims, once the signature holds.
    fn proven(&self, token: &str) -> Result<Vec<u8>, TokenFault> {
        let broken = || invalid("this is not a token: header.payload.signature".into());
        let (message, signature) = token.rsplit_once('.').ok_or_else(broken)?;
        let (header, payload) = message.split_once('.').ok_or_else(broken)?;
        if payload.contains('.') {
            return Err(broken());
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| broken())?;
        let header: Header = claims::read(&header).map_err(|error| invalid(format!("the header {error}")))?;
        if header.crit.is_present() {
            // RFC 7515, section 4.1.11: what is not understood must be refused.
            return Err(invalid("the header has `crit`, of which nothing is understood".into()));
        }
        let mut fitting = self.keys.iter().filter(|key| key.fits(&header)).peekable();
        if fitting.peek().is_none() {
            return Err(invalid("no key is configured for the token's `alg` and `kid`".into()));
        }
        let holds = |key: &Key| {
            crypto::verify(signature, message.as_bytes(), &key.verifies, algorithm(key.alg)).unwrap_or(false)
        };
        if !fitting.any(holds) {
            return Err(invalid("the signature does not hold".into()));
        }
        URL_SAFE_NO_PAD.decode(payload).map_err(|_| broken())
    }

    /// A token for `user` that ends after `ttl`, in whole seconds, and when that
    /// is. It is signed with the first key that is a secret; what it may do is
    /// what the configuration says of tokens that do not say.
    ///
    /// # Errors
    /// There is no such key, or the token would not be valid.
    pub fn mint(&self, user: &UserId, ttl: Duration, now: UnixTime) -> Result<(String, UnixTime), MintError> {
        let mut secret = self.keys.iter().filter_map(|key| Some((key, key.signs.as_ref()?)));
        let (key, signs) = secret.next().ok_or(MintError::NoSecretKey)?;
        let iat = now.0 / 1000;
        let exp = iat.checked_add(ttl.as_secs()).filter(|exp| *exp > iat && *exp <= claims::LAST_SECOND);
        let exp = exp.ok_or(MintError::Ttl)?;
        let header = match &key.kid {
            Some(kid) => serde_json::json!({ "typ": "JWT", "alg": key.alg.name(), "kid": kid }),
            None => serde_json::json!({ "typ": "JWT", "alg": key.alg.name() }),
        };
        let claims = serde_json::json!({ "sub": user, "iat": iat, "exp": exp });
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let message = format!("{header}.{claims}");
        let signature = crypto::sign(message.as_bytes(), signs, algorithm(key.alg));
        let signature = signature.map_err(|_| MintError::NoSecretKey)?;
        Ok((format!("{message}.{signature}"), UnixTime::from_secs(exp)))
    }
}

fn invalid(message: String) -> TokenFault {
    TokenFault { code: "token_invalid", message }
}

fn algorithm(alg: Alg) -> Algorithm {
    match alg {
        Alg::Hs256 => Algorithm::HS256,
        Alg::Hs384 => Algorithm::HS384,
        Alg::Hs512 => Algorithm::HS512,
        Alg::Rs256 => Algorithm::RS256,
        Alg::Es256 => Algorithm::ES256,
        Alg::EdDsa => Algorithm::EdDSA,
    }
}

impl Key {
    fn read(file: &KeyFile, exposure: Exposure) -> Result<Self, Problem> {
        let secret = secret::read(&file.file, exposure)?;
        let (verifies, signs) = Self::made_of(file.alg, &secret).map_err(|message| {
            Problem::in_file(&file.file, format!("cannot be a key for {}: {message}", file.alg.name()))
        })?;
        Ok(Self { alg: file.alg, kid: file.kid.clone(), verifies, signs })
    }

    fn made_of(alg: Alg, secret: &Secret) -> Result<(DecodingKey, Option<EncodingKey>), String> {
        let bytes = secret.bytes();
        let shortest = match alg {
            // RFC 7518, section 3.2: as long as the digest.
            Alg::Hs256 => 32,
            Alg::Hs384 => 48,
            Alg::Hs512 => 64,
            Alg::Rs256 | Alg::Es256 | Alg::EdDsa => return Ok((public(alg, bytes)?, None)),
        };
        if bytes.len() < shortest {
            return Err(format!("it has {} bytes, at least {shortest} are wanted", bytes.len()));
        }
        // A public key taken for a secret would let everybody sign.
        if bytes.starts_with(b"-----BEGIN") {
            return Err("it holds a PEM key, and a secret is wanted".into());
        }
        Ok((DecodingKey::from_secret(bytes), Some(EncodingKey::from_secret(bytes))))
    }

    /// Whether a token with this header may have been signed with it.
    fn fits(&self, header: &Header) -> bool {
        let called = header.kid.is_none() || header.kid == self.kid;
        called && header.alg == self.alg.name()
    }
}

/// Bytes of the modulus of an RSA key of 2048 bits, the least that RFC 7518,
/// section 3.3 allows.
const SHORTEST_RSA: usize = 2048 / 8;

/// Bytes of an Ed25519 public key.
const ED25519: usize = 32;

/// A public key in PEM, tried once, so that a bad one is found now.
fn public(alg: Alg, pem: &[u8]) -> Result<DecodingKey, String> {
    if pem.windows(11).any(|part| part == b"PRIVATE KEY") {
        return Err("it holds a private key, and the public one is wanted".into());
    }
    let key = match alg {
        Alg::Rs256 => DecodingKey::from_rsa_pem(pem),
        Alg::Es256 => DecodingKey::from_ec_pem(pem),
        _ => DecodingKey::from_ed_pem(pem),
    };
    let unfit = |_| "it holds no public key of this kind in PEM".to_owned();
    let key = key.map_err(unfit)?;
    let length = key.try_get_as_bytes().map_err(unfit)?.len();
    match alg {
        Alg::Rs256 if length < SHORTEST_RSA => Err("it has less than 2048 bits".to_owned()),
        Alg::EdDsa if length != ED25519 => Err("it is no Ed25519 key".to_owned()),
        _ => Ok(()),
    }?;
    crypto::verify("", b"", &key, algorithm(alg)).map_err(unfit)?;
    Ok(key)
}
