//! Keys that tokens are signed with.
//!
//! Knows which files make keys for which algorithm, and refuses what would be a
//! weak one or the wrong one. Does not know how a signature is made, nor tokens.

use std::fmt;
use std::path::{Path, PathBuf};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use memchr::memmem;
use serde::de::IgnoredAny;

use super::claims::Header;
use super::crypto::public_key;
use super::error::cut;
use super::jwk;
use super::jwk::Material;
use super::secret_file;
use super::secret_file::{Exposure, Secret};
use crate::config::{Alg, KeyFile, Problem};
use crate::edge::driver::config::Read;

/// One key.
pub(in crate::edge) struct Key {
    pub(in crate::edge) alg: Alg,
    pub(in crate::edge) kid: Option<String>,
    pub(in crate::edge) verifies: DecodingKey,
    /// Only where one and the same key does both.
    pub(in crate::edge) signs: Option<EncodingKey>,
    place: Place,
}

/// A key of a JWK set that is of no use.
pub(in crate::edge) struct Skipped {
    pub(in crate::edge) kid: Option<String>,
    place: Place,
    pub(in crate::edge) why: String,
}

/// Where a key came from: the file, and which of a JWK set it is, from 1.
#[derive(PartialEq, Eq)]
struct Place {
    file: PathBuf,
    number: Option<usize>,
}

/// What a file of keys held.
pub(in crate::edge) struct Contents {
    pub(in crate::edge) keys: Vec<Key>,
    pub(in crate::edge) skipped: Vec<Skipped>,
    file: PathBuf,
    digest: String,
}

/// How the library calls it.
pub(in crate::edge) fn algorithm(alg: Alg) -> Algorithm {
    match alg {
        Alg::Hs256 => Algorithm::HS256,
        Alg::Hs384 => Algorithm::HS384,
        Alg::Hs512 => Algorithm::HS512,
        Alg::Rs256 => Algorithm::RS256,
        Alg::Rs384 => Algorithm::RS384,
        Alg::Rs512 => Algorithm::RS512,
        Alg::Ps256 => Algorithm::PS256,
        Alg::Ps384 => Algorithm::PS384,
        Alg::Ps512 => Algorithm::PS512,
        Alg::Es256 => Algorithm::ES256,
        Alg::Es384 => Algorithm::ES384,
        Alg::EdDsa => Algorithm::EdDSA,
    }
}

impl Contents {
    /// Reads a file of keys.
    pub(in crate::edge) fn read(configured: &KeyFile, exposure: Exposure) -> Result<Self, Problem> {
        let KeyFile { alg, file, kid } = configured;
        let secret = secret_file::read(file, exposure, secret_file::LONGEST_KEYS)?;
        let failed = |message: String| {
            Problem::in_file(file, format!("cannot be a key for {}: {message}", alg.name()))
        };
        let digest = secret_file::digest(secret.bytes()).unwrap_or_default();
        let mut contents = Self { keys: Vec::new(), skipped: Vec::new(), file: file.clone(), digest };
        if jwk::is_json(*alg, secret.bytes()) {
            contents.take(configured, jwk::read(*alg, secret.bytes()).map_err(failed)?).map_err(failed)?;
        } else {
            let place = Place { file: file.clone(), number: None };
            let material = material(*alg, &secret).map_err(failed)?;
            contents.keys.push(Key::new(*alg, kid.clone(), material, place));
        }
        Ok(contents)
    }

    /// Takes the keys of a JWK set that can be used; without any, what is wrong.
    fn take(&mut self, configured: &KeyFile, entries: Vec<jwk::Entry>) -> Result<(), String> {
        let KeyFile { alg, file, kid } = configured;
        for (number, entry) in (1..).zip(entries) {
            let place = Place { file: file.clone(), number: Some(number) };
            let own = entry.kid.clone();
            match entry.key {
                Ok(material) => self.keys.push(Key::new(*alg, own.or(kid.clone()), material, place)),
                Err(why) => self.skipped.push(Skipped { kid: own, place, why }),
            }
        }
        match (&*self.keys, &*self.skipped) {
            ([], []) => Err("its JWK set is empty".into()),
            ([], [one]) => Err(one.why.clone()),
            ([], all) => {
                let why: Vec<String> = all.iter().take(4).map(Skipped::short).collect();
                let more = if all.len() > why.len() { "; …" } else { "" };
                Err(format!("none of its {} keys can be used: {}{more}", all.len(), why.join("; ")))
            }
            _ => Ok(()),
        }
    }

    /// Leaves out whatever has the algorithm and `kid` of an earlier key: a `kid` names one
    /// key, or an attacker could choose.
    pub(in crate::edge) fn deduplicate(&mut self, earlier: &[Key]) {
        let mut kept: Vec<Key> = Vec::new();
        for key in std::mem::take(&mut self.keys) {
            let is_same = |other: &Key| other.alg == key.alg && other.kid.is_some() && other.kid == key.kid;
            if earlier.iter().chain(&kept).any(is_same) {
                let why = format!("an earlier key of {} has the same `kid`", key.alg.name());
                self.skipped.push(Skipped { kid: key.kid, place: key.place, why });
            } else {
                kept.push(key);
            }
        }
        self.keys = kept;
    }

    /// The file, and a digest of it.
    pub(in crate::edge) fn source(&self) -> Read<'_> {
        (&self.file, &self.digest)
    }
}

fn material(alg: Alg, secret: &Secret) -> Result<Material, String> {
    let bytes = secret.bytes();
    if alg.is_public() {
        return Ok((public_key(alg, bytes)?, None));
    }
    // A public key taken for a secret would let everybody sign.
    if memmem::find(bytes, b"-----BEGIN ").is_some() || bytes.starts_with(b"ssh-") {
        return Err("it holds a PEM key, and a secret is wanted".into());
    }
    let is_structure =
        bytes.trim_ascii_start().starts_with(b"{") || bytes.trim_ascii_start().starts_with(b"[");
    if is_structure && serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
        return Err("it holds JSON that is no JWK set with secrets, and everybody may know it".into());
    }
    secret_key(alg, bytes)
}

/// A key of HMAC, if the secret is long enough.
pub(in crate::edge) fn secret_key(alg: Alg, secret: &[u8]) -> Result<Material, String> {
    // RFC 7518, section 3.2: as long as the digest.
    let shortest = match alg {
        Alg::Hs384 => 48,
        Alg::Hs512 => 64,
        _ => 32,
    };
    if secret.len() < shortest {
        return Err(format!("it has {} bytes, at least {shortest} are wanted", secret.len()));
    }
    Ok((DecodingKey::from_secret(secret), Some(EncodingKey::from_secret(secret))))
}

impl Key {
    fn new(alg: Alg, kid: Option<String>, (verifies, signs): Material, place: Place) -> Self {
        Self { alg, kid, verifies, signs, place }
    }

    /// Whether a token with this header may have been signed with it. Where it is the only
    /// one, and nobody gave it a `kid`, the token's is no choice.
    pub(in crate::edge) fn fits(&self, header: &Header, is_only: bool) -> bool {
        let unnamed = is_only && self.kid.is_none();
        let called = unnamed || header.kid.is_none() || header.kid == self.kid;
        called && self.alg.is_named(&header.alg)
    }

    /// Whether it is one of a JWK set.
    pub(in crate::edge) fn is_of_set(&self) -> bool {
        self.place.number.is_some()
    }
}

impl Skipped {
    /// Whether a key, for another algorithm, is the same one.
    pub(in crate::edge) fn is(&self, key: &Key) -> bool {
        self.place == key.place
    }

    pub(in crate::edge) fn file(&self) -> &Path {
        &self.place.file
    }

    fn short(&self) -> String {
        match (&self.kid, self.place.number) {
            (Some(kid), _) => format!("of `kid` {}, {}", cut(kid), self.why),
            (None, number) => format!("of key {}, {}", number.unwrap_or(1), self.why),
        }
    }
}

/// For whoever reads the log.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.place.number.unwrap_or(1);
        write!(f, "{}: key {number} of the JWK set", self.file().display())?;
        if let Some(kid) = &self.kid {
            write!(f, ", `kid` {},", cut(kid))?;
        }
        write!(f, " is skipped: {}", self.why)
    }
}
