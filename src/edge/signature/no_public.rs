//! Public keys in a daemon that was built without them: there are none.
//!
//! Knows how to say so. The configuration refuses such keys before, by their line.

use crate::config::Alg;
use crate::features;

/// Never there.
pub(in crate::edge) enum PublicKey {}

impl PublicKey {
    pub(super) fn read(_: Alg, _: &[u8]) -> Result<Self, String> {
        Err(features::PUBLIC_KEYS.missing())
    }

    pub(super) fn verifies(&self, _: &[u8], _: &[u8]) -> bool {
        match *self {}
    }
}
