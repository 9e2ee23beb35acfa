//! Key material: the bytes of one key, for one algorithm.
//!
//! Signatures are made and checked here and nowhere else in this folder. A secret (HMAC) does
//! both; a public key only verifies.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

use super::crypto;
use crate::config::Alg;

/// A key for one algorithm.
pub(super) struct KeyMaterial {
    alg: Alg,
    verifying: DecodingKey,
    /// Of a secret.
    signing: Option<EncodingKey>,
}

/// The name of an algorithm in jsonwebtoken.
fn algorithm(alg: Alg) -> Algorithm {
    match alg {
        Alg::Hs256 => Algorithm::HS256,
        Alg::Hs384 => Algorithm::HS384,
        Alg::Hs512 => Algorithm::HS512,
        Alg::Rs256 => Algorithm::RS256,
        Alg::Rs384 => Algorithm::RS384,
        Alg::Rs512 => Algorithm::RS512,
        Alg::Ps256 => Algorithm::PS256,
        Alg::Ps384 => Algorithm::PS384,
        Alg::Ps512 => Algorithm::PS512,
        Alg::Es256 => Algorithm::ES256,
        Alg::Es384 => Algorithm::ES384,
        Alg::EdDsa => Algorithm::EdDSA,
    }
}

impl KeyMaterial {
    /// A key of HMAC.
    ///
    /// # Errors
    /// The secret is too short.
    pub(super) fn from_secret(alg: Alg, secret: &[u8]) -> Result<Self, String> {
        // RFC 7518, section 3.2: as long as the digest.
        let shortest = match alg {
            Alg::Hs384 => 48,
            Alg::Hs512 => 64,
            _ => 32,
        };
        if secret.len() < shortest {
            return Err(format!("it has {} bytes, at least {shortest} are wanted", secret.len()));
        }
        let signing = Some(EncodingKey::from_secret(secret));
        Ok(Self { alg, verifying: DecodingKey::from_secret(secret), signing })
    }

    /// The public key in a PEM file.
    ///
    /// # Errors
    /// It holds none for this algorithm.
    pub(super) fn from_pem(alg: Alg, pem: &[u8]) -> Result<Self, String> {
        Ok(Self { alg, verifying: crypto::public_key(alg, pem)?, signing: None })
    }

    /// The public key that is made of these numbers, as a JWK spells them.
    ///
    /// # Errors
    /// They are no key of this algorithm.
    pub(super) fn from_numbers(alg: Alg, numbers: &[Vec<u8>]) -> Result<Self, String> {
        Ok(Self { alg, verifying: crypto::public_key_of(alg, numbers)?, signing: None })
    }

    pub(super) fn alg(&self) -> Alg {
        self.alg
    }

    /// Whether it is a secret, which signs as well.
    pub(super) fn is_secret(&self) -> bool {
        self.signing.is_some()
    }

    /// Whether a signature, in base64url, is one of a message.
    pub(super) fn verifies(&self, message: &str, signature: &str) -> bool {
        crypto::verifies(signature, message.as_bytes(), &self.verifying, algorithm(self.alg))
    }

    /// The signature of a message, in base64url; none by a public key.
    pub(super) fn sign(&self, message: &str) -> Option<String> {
        crypto::sign(message.as_bytes(), self.signing.as_ref()?, algorithm(self.alg))
    }

    /// The mistake that its token was signed with, where a known one explains a signature that
    /// does not hold.
    pub(super) fn find_mistake(&self, token: &str) -> Option<&'static str> {
        let secret = self.signing.as_ref()?.as_bytes();
        let (message, signature) = token.rsplit_once('.')?;
        // Both alphabets, with and without padding, as one.
        let text = str::from_utf8(secret).unwrap_or_default();
        let base64 = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
        let candidates = [
            (
                Some([secret, b"\n"].concat()),
                "the key and the line break at the end of its file, which is no part of it",
            ),
            (
                URL_SAFE_NO_PAD.decode(base64).ok(),
                "what the text of the key is in base64: the key is that text itself, not decoded",
            ),
            (
                from_hexadecimal(text),
                "what the text of the key is in hexadecimal: the key is that text itself, not decoded",
            ),
        ];
        candidates.into_iter().find_map(|(secret, mistake)| {
            let key = DecodingKey::from_secret(&secret?);
            let holds = crypto::verifies(signature, message.as_bytes(), &key, algorithm(self.alg));
            holds.then_some(mistake)
        })
    }
}

/// Neither key is printed.
impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyMaterial({})", self.alg.name())
    }
}

fn from_hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok();
    (0..digits.len()).step_by(2).map(pair).collect()
}
