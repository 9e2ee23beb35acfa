//! Tokens and secrets: which are valid, and which are refused.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod check;
mod extra_claims;
mod jwk_sets;
mod keys;
#[cfg(feature = "public-keys")]
mod pem;
mod required_claims;
mod revocation;
mod secrets;
mod tokens;
