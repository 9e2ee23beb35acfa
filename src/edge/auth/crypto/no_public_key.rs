//! Public keys in a daemon that was built without them: there are none.
//!
//! Knows how to say so. The configuration refuses such keys before, by their line.

use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::errors::{ErrorKind, Result as Done};
use jsonwebtoken::{Algorithm, DecodingKey};

use crate::config::Alg;
use crate::features;

pub(in crate::edge) fn key(_: Alg, _: &[u8]) -> Result<DecodingKey, String> {
    Err(features::PUBLIC_KEYS.missing())
}

pub(in crate::edge) fn of_numbers(_: Alg, _: &[Vec<u8>]) -> Result<DecodingKey, String> {
    Err(features::PUBLIC_KEYS.missing())
}

pub(super) fn verifier(_: Algorithm, _: &[u8]) -> Done<Box<dyn JwtVerifier>> {
    Err(ErrorKind::InvalidAlgorithm.into())
}
