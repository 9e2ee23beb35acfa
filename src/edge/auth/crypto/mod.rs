//! Cryptography of tokens (RFC 7518): the provider that jsonwebtoken calls.
//!
//! The library would bring its own, and with it signing with private keys: several hundred
//! kilobytes that a verifier never uses.

#[cfg_attr(not(feature = "public-keys"), path = "no_public_key.rs")]
mod public_key;

use std::sync::Once;

use hmac::{Hmac, Mac};
use jsonwebtoken::crypto;
use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use sha2::{Sha256, Sha384, Sha512};

pub(super) use public_key::{key as public_key, of_numbers as public_key_of};

static OURS: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // For private keys, of which the daemon has none.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Installs ours in the library, before its first use.
fn install() {
    static DONE: Once = Once::new();
    DONE.call_once(|| {
        let is_first = OURS.install_default().is_ok();
        debug_assert!(is_first, "another provider is installed already");
    });
}

/// The signature of a message, in base64url.
pub(super) fn sign(message: &[u8], key: &EncodingKey, algorithm: Algorithm) -> Option<String> {
    install();
    crypto::sign(message, key, algorithm).ok()
}

/// Whether this is the signature of a message, in base64url.
pub(super) fn verifies(signature: &str, message: &[u8], key: &DecodingKey, algorithm: Algorithm) -> bool {
    install();
    crypto::verify(signature, message, key, algorithm).unwrap_or(false)
}

/// A message authentication code (HMAC).
struct HmacCode<M> {
    algorithm: Algorithm,
    mac: M,
}

impl<M: Mac + Clone> Signer<Vec<u8>> for HmacCode<M> {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, Error> {
        Ok(self.mac.clone().chain_update(message).finalize().into_bytes().to_vec())
    }
}

impl<M: Mac + Clone> Verifier<Vec<u8>> for HmacCode<M> {
    /// In constant time, whatever part of a signature is right.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        self.mac.clone().chain_update(message).verify_slice(signature).map_err(|_| Error::new())
    }
}

impl<M: Mac + Clone> JwtSigner for HmacCode<M> {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl<M: Mac + Clone> JwtVerifier for HmacCode<M> {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

fn code<M: Mac + hmac::digest::KeyInit>(algorithm: Algorithm, secret: &[u8]) -> Result<Box<HmacCode<M>>> {
    let mac = <M as Mac>::new_from_slice(secret).map_err(|_| ErrorKind::InvalidKeyFormat)?;
    Ok(Box::new(HmacCode { algorithm, mac }))
}

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    let secret = key.as_bytes();
    Ok(match algorithm {
        Algorithm::HS256 => code::<Hmac<Sha256>>(*algorithm, secret)?,
        Algorithm::HS384 => code::<Hmac<Sha384>>(*algorithm, secret)?,
        Algorithm::HS512 => code::<Hmac<Sha512>>(*algorithm, secret)?,
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    })
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let secret = key.try_get_as_bytes()?;
    Ok(match algorithm {
        Algorithm::HS256 => code::<Hmac<Sha256>>(*algorithm, secret)?,
        Algorithm::HS384 => code::<Hmac<Sha384>>(*algorithm, secret)?,
        Algorithm::HS512 => code::<Hmac<Sha512>>(*algorithm, secret)?,
        _ => return public_key::verifier(*algorithm, secret),
    })
}
