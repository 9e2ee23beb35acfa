//! Authentication: JSON Web Tokens, their keys and claims, revocation, and files with secrets.
//!
//! Does not know who may do what: that is decided in [`crate::hub`].

pub mod claims;
pub(super) mod crypto;
pub(super) mod error;
pub(super) mod jwk;
pub mod jwt;
pub(super) mod keys;
pub mod revocation;
pub mod secret_file;
pub mod throttle;
