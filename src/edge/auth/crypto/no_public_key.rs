//! Public keys in a build without them: each is an error that names the feature.
//!
//! The configuration refuses such keys earlier, by their line.

use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::errors::{ErrorKind, Result as Done};
use jsonwebtoken::{Algorithm, DecodingKey};

use crate::config::Alg;
use crate::features;

pub(in crate::edge::auth) fn key(_: Alg, _: &[u8]) -> Result<DecodingKey, String> {
    Err(features::PUBLIC_KEYS.missing())
}

pub(in crate::edge::auth) fn of_numbers(_: Alg, _: &[Vec<u8>]) -> Result<DecodingKey, String> {
    Err(features::PUBLIC_KEYS.missing())
}

pub(super) fn verifier(_: Algorithm, _: &[u8]) -> Done<Box<dyn JwtVerifier>> {
    Err(ErrorKind::InvalidAlgorithm.into())
}
