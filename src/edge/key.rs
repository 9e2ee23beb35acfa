//! Keys that tokens are signed with.
//!
//! Knows which files make a key for which algorithm, and refuses what would be a
//! weak one or the wrong one. Does not know how a signature is made, nor tokens.

use std::path::PathBuf;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};

use super::claims::Header;
use super::secret::{self, Exposure, Secret};
use super::signature::public_key;
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
            Alg::Rs256 | Alg::Es256 | Alg::EdDsa => return Ok((public_key(alg, bytes)?, None)),
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
