//! Keys that tokens are signed with.
//!
//! Knows which files make a key for which algorithm, and refuses what would be a
//! weak one or the wrong one. Does not know tokens.

use std::path::PathBuf;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, crypto};

use super::claims::Header;
use super::secret::{self, Exposure, Secret};
use super::site::Read;
use crate::config::{Alg, KeyFile, Problem};

/// One configured key.
pub(super) struct Key {
    pub(super) alg: Alg,
    pub(super) kid: Option<String>,
    pub(super) verifies: DecodingKey,
    /// Only where one and the same key does both.
    pub(super) signs: Option<EncodingKey>,
    file: PathBuf,
    /// Of what the file holds.
    digest: String,
}

/// How the library calls it.
pub(super) fn algorithm(alg: Alg) -> Algorithm {
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
    /// Reads the file of a key.
    pub(super) fn read(file: &KeyFile, exposure: Exposure) -> Result<Self, Problem> {
        let secret = secret::read(&file.file, exposure)?;
        let (verifies, signs) = Self::made_of(file.alg, &secret).map_err(|message| {
            Problem::in_file(&file.file, format!("cannot be a key for {}: {message}", file.alg.name()))
        })?;
        let digest = secret::digest(secret.bytes()).unwrap_or_default();
        Ok(Self { alg: file.alg, kid: file.kid.clone(), verifies, signs, file: file.file.clone(), digest })
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

    /// Where it came from, and a digest of it.
    pub(super) fn source(&self) -> Read<'_> {
        (&self.file, &self.digest)
    }

    /// Whether a token with this header may have been signed with it.
    pub(super) fn fits(&self, header: &Header) -> bool {
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
