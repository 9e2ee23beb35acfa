//! Signatures (RFC 7518): made and verified with a secret, or verified with the
//! public key of somebody else.
//!
//! Knows what each algorithm does with bytes. Does not know tokens, nor which
//! files keys are in.

#[cfg_attr(not(feature = "public-keys"), path = "signature/no_public.rs")]
mod public;

use hmac::{Hmac, Mac};
use sha2::{Sha256, Sha384, Sha512};

use crate::config::Alg;
use public::PublicKey;

/// A secret, already taken in: a key that is kept costs no hashing of its own.
#[derive(Clone)]
pub(super) enum Secret {
    Hs256(Hmac<Sha256>),
    Hs384(Hmac<Sha384>),
    Hs512(Hmac<Sha512>),
}

impl Secret {
    /// For HMAC-SHA256.
    pub(super) fn hs256(bytes: &[u8]) -> Option<Self> {
        Mac::new_from_slice(bytes).ok().map(Self::Hs256)
    }

    fn hs384(bytes: &[u8]) -> Option<Self> {
        Mac::new_from_slice(bytes).ok().map(Self::Hs384)
    }

    fn hs512(bytes: &[u8]) -> Option<Self> {
        Mac::new_from_slice(bytes).ok().map(Self::Hs512)
    }

    /// The signature of a message.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self.clone() {
            Self::Hs256(mac) => mac.chain_update(message).finalize().into_bytes().to_vec(),
            Self::Hs384(mac) => mac.chain_update(message).finalize().into_bytes().to_vec(),
            Self::Hs512(mac) => mac.chain_update(message).finalize().into_bytes().to_vec(),
        }
    }

    /// Takes as long whatever part of a signature is right.
    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self.clone() {
            Self::Hs256(mac) => mac.chain_update(message).verify_slice(signature),
            Self::Hs384(mac) => mac.chain_update(message).verify_slice(signature),
            Self::Hs512(mac) => mac.chain_update(message).verify_slice(signature),
        };
        verified.is_ok()
    }
}

/// What a signature is verified with.
pub(super) enum Verifies {
    Secret(Secret),
    Public(PublicKey),
}

impl Verifies {
    /// What the file of a key holds.
    pub(super) fn read(alg: Alg, bytes: &[u8]) -> Result<Self, String> {
        // RFC 7518, section 3.2: as long as the digest.
        let (shortest, secret): (_, fn(&[u8]) -> _) = match alg {
            Alg::Hs256 => (32, Secret::hs256),
            Alg::Hs384 => (48, Secret::hs384),
            Alg::Hs512 => (64, Secret::hs512),
            Alg::Rs256 | Alg::Es256 | Alg::EdDsa => return PublicKey::read(alg, bytes).map(Self::Public),
        };
        if bytes.len() < shortest {
            return Err(format!("it has {} bytes, at least {shortest} are wanted", bytes.len()));
        }
        // A public key taken for a secret would let everybody sign.
        if bytes.starts_with(b"-----BEGIN") {
            return Err("it holds a PEM key, and a secret is wanted".into());
        }
        secret(bytes).map(Self::Secret).ok_or_else(|| "no HMAC takes it".into())
    }

    /// Whether whoever has the key, or its private half, signed this message.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(secret) => secret.verifies(message, signature),
            Self::Public(key) => key.verifies(message, signature),
        }
    }

    /// What signs with the same key, where that is possible.
    pub(super) fn signs(&self) -> Option<&Secret> {
        match self {
            Self::Secret(secret) => Some(secret),
            Self::Public(_) => None,
        }
    }
}
