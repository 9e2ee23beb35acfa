//! Authentication: JSON Web Tokens, their keys and claims, revocation, and files with secrets.
//!
//! Does not know the permissions that rights give: those are decided in [`crate::hub`].

pub mod claims;
mod crypto;
pub(super) mod error;
mod explain;
mod jwk;
pub mod jwt;
mod key_material;
mod keys;
pub mod mint;
mod quote;
pub mod revocation;
pub mod secret_file;
pub mod throttle;
