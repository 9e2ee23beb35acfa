//! Keys that tokens are signed with.
//!
//! Knows their files, their names and which tokens each is for. Does not know how a
//! signature is made or verified, nor what a token says.

use std::path::PathBuf;

use super::claims::Header;
use super::secret::{self, Exposure};
use super::signature::Verifies;
use super::site::Read;
use crate::config::{Alg, KeyFile, Problem};

/// One configured key.
pub(super) struct Key {
    pub(super) alg: Alg,
    pub(super) kid: Option<String>,
    pub(super) verifies: Verifies,
    file: PathBuf,
    /// Of what the file holds.
    digest: String,
}

impl Key {
    /// Reads the file of a key.
    pub(super) fn read(file: &KeyFile, exposure: Exposure) -> Result<Self, Problem> {
        let secret = secret::read(&file.file, exposure)?;
        let verifies = Verifies::read(file.alg, secret.bytes()).map_err(|message| {
            Problem::in_file(&file.file, format!("cannot be a key for {}: {message}", file.alg.name()))
        })?;
        let digest = secret::digest(secret.bytes()).unwrap_or_default();
        Ok(Self { alg: file.alg, kid: file.kid.clone(), verifies, file: file.file.clone(), digest })
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
