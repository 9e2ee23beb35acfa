//! Keys that tokens are verified with, and their files.
//!
//! A file that would make a weak key, or a key of the wrong kind, is refused: a public key
//! taken for a secret would let every holder of it sign.

use std::fmt;
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde::de::IgnoredAny;

use super::claims::Header;
use super::jwk;
use super::key_material::KeyMaterial;
use super::quote::cut;
use super::secret_file;
use super::secret_file::{FileExposure, ReadFile, Secret};
use crate::config::{Alg, AuthConfig, ConfigError, KeyFile, Problem};

/// Public keys that are tried at most for a token without a `kid`: one signature of ES384
/// takes 1.4 ms, for which all connections wait. Secrets take microseconds, and are all tried.
pub(super) const MOST_TRIED: usize = 4;

/// The origin of a key: its file, and its number in a JWK set, from 1.
#[derive(PartialEq, Eq)]
struct KeySource {
    file: PathBuf,
    number: Option<usize>,
}

/// One key, with its name.
pub(super) struct Key {
    material: KeyMaterial,
    kid: Option<String>,
    source: KeySource,
}

impl Key {
    pub(super) fn alg(&self) -> Alg {
        self.material.alg()
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    pub(super) fn material(&self) -> &KeyMaterial {
        &self.material
    }

    /// Whether a token with this header may have been signed with it. Where it is the only key,
    /// and was configured without a `kid`, the `kid` of the token chooses nothing.
    fn fits(&self, header: &Header, is_only: bool) -> bool {
        let is_unnamed = is_only && self.kid.is_none();
        let is_chosen = is_unnamed || header.kid().is_none() || header.kid() == self.kid();
        is_chosen && self.alg().is_named(header.alg())
    }

    /// Whether it came from a JWK set.
    pub(super) fn is_of_set(&self) -> bool {
        self.source.number.is_some()
    }
}

/// A key of a JWK set that cannot be used.
pub(super) struct SkippedKey {
    kid: Option<String>,
    source: KeySource,
    why: String,
}

impl SkippedKey {
    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Without the file, for a list of several.
    fn short(&self) -> String {
        match (&self.kid, self.source.number) {
            (Some(kid), _) => format!("of `kid` {}, {}", cut(kid), self.why),
            (None, number) => format!("of key {}, {}", number.unwrap_or(1), self.why),
        }
    }
}

/// For the log.
impl fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.source.number.unwrap_or(1);
        write!(f, "{}: key {number} of the JWK set", self.source.file.display())?;
        if let Some(kid) = &self.kid {
            write!(f, ", `kid` {},", cut(kid))?;
        }
        write!(f, " is skipped: {}", self.why)
    }
}

/// All keys of the configuration.
pub(super) struct KeyRing {
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
    files: Vec<ReadFile>,
}

impl KeyRing {
    /// Reads all keys that are configured, else systemd's credential `jwt.key`, else the one in
    /// the state directory; none, if neither exists.
    ///
    /// # Errors
    /// All files that cannot be used, each by its name.
    pub(super) fn open(auth: &AuthConfig, state: &Path) -> Result<Self, ConfigError> {
        let configured = auth.keys.iter().map(|key| {
            let exposure =
                if key.alg.is_public() { FileExposure::Readable } else { FileExposure::of(&key.file, auth) };
            KeyFileContent::read(key, exposure)
        });
        let mut read: Vec<_> = configured.collect();
        if read.is_empty() {
            let only = |(file, exposure)| {
                KeyFileContent::read(&KeyFile { alg: Alg::Hs256, file, kid: None }, exposure)
            };
            read.extend(secret_file::unconfigured(secret_file::KEY, auth, state).map(only));
        }
        let mut ring = Self { keys: Vec::new(), skipped: Vec::new(), files: Vec::new() };
        let mut problems = Vec::new();
        for content in read {
            match content {
                Ok(content) => ring.add(content),
                Err(problem) => problems.push(problem),
            }
        }
        ConfigError::unless_empty(problems)?;
        // A key that one entry of the configuration skips another may use.
        let Self { keys, skipped, .. } = &mut ring;
        skipped.retain(|skipped| !keys.iter().any(|key| key.source == skipped.source));
        Ok(ring)
    }

    /// Adds the keys of a file, without those that have the algorithm and `kid` of an earlier
    /// key: a `kid` names one key, or an attacker could choose.
    fn add(&mut self, content: KeyFileContent) {
        self.files.push(content.file);
        self.skipped.extend(content.skipped);
        for key in content.keys {
            let is_same =
                |other: &Key| other.alg() == key.alg() && other.kid.is_some() && other.kid == key.kid;
            if self.keys.iter().any(is_same) {
                let why = format!("an earlier key of {} has the same `kid`", key.alg().name());
                self.skipped.push(SkippedKey { kid: key.kid, source: key.source, why });
            } else {
                self.keys.push(key);
            }
        }
    }

    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Those that cannot be used.
    pub(super) fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// The files that the keys came from.
    pub(super) fn files(&self) -> &[ReadFile] {
        &self.files
    }

    /// The keys that may have signed a token with this header.
    pub(super) fn fitting(&self, header: &Header) -> Vec<&Key> {
        let is_only = self.keys.len() == 1;
        self.keys.iter().filter(|key| key.fits(header, is_only)).collect()
    }

    /// The key that tokens are minted with: the first that is a secret.
    pub(super) fn signing_key(&self) -> Option<&Key> {
        self.keys.iter().find(|key| key.material.is_secret())
    }

    /// Warnings about keys that are not used.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.skipped.iter().map(SkippedKey::to_string).chain(self.untried())
    }

    /// Keys without a `kid` that are tried for no token, a warning for each algorithm that has
    /// some.
    fn untried(&self) -> impl Iterator<Item = String> {
        Alg::NAMES.iter().filter(|(_, alg)| alg.is_public()).filter_map(|(name, alg)| {
            let of_alg = || self.keys.iter().filter(|key| key.alg() == *alg);
            let (all, nameless) = (of_alg().count(), of_alg().filter(|key| key.kid.is_none()).count());
            (all > MOST_TRIED && nameless > 0).then(|| {
                format!(
                    "{nameless} of the {all} keys of {name} have no `kid`, and verify nothing: a token without \
                     `kid` is tried with {MOST_TRIED} public keys at most; give each key a `kid`"
                )
            })
        })
    }
}

/// The content of one file of keys.
struct KeyFileContent {
    keys: Vec<Key>,
    skipped: Vec<SkippedKey>,
    file: ReadFile,
}

impl KeyFileContent {
    fn read(configured: &KeyFile, exposure: FileExposure) -> Result<Self, Problem> {
        let KeyFile { alg, file, kid } = configured;
        let secret = secret_file::read(file, exposure, secret_file::LONGEST_KEYS)?;
        let failed = |message: String| {
            Problem::in_file(file, format!("cannot be a key for {}: {message}", alg.name()))
        };
        let digest = secret_file::digest(secret.bytes()).unwrap_or_default();
        let read = ReadFile::new(file.clone(), digest);
        let mut content = Self { keys: Vec::new(), skipped: Vec::new(), file: read };
        if jwk::is_json(*alg, secret.bytes()) {
            let entries = jwk::read(*alg, secret.bytes()).map_err(failed)?;
            content.take(configured, entries).map_err(failed)?;
        } else {
            let source = KeySource { file: file.clone(), number: None };
            let material = material(*alg, &secret).map_err(failed)?;
            content.keys.push(Key { material, kid: kid.clone(), source });
        }
        Ok(content)
    }

    /// Takes the keys of a JWK set that can be used.
    ///
    /// # Errors
    /// None can be used, and why.
    fn take(&mut self, configured: &KeyFile, entries: Vec<jwk::JwkEntry>) -> Result<(), String> {
        for (number, entry) in (1..).zip(entries) {
            let source = KeySource { file: configured.file.clone(), number: Some(number) };
            let (kid, key) = entry.into_parts();
            match key {
                Ok(material) => {
                    self.keys.push(Key { material, kid: kid.or(configured.kid.clone()), source });
                }
                Err(why) => self.skipped.push(SkippedKey { kid, source, why }),
            }
        }
        match (&*self.keys, &*self.skipped) {
            ([], []) => Err("its JWK set is empty".into()),
            ([], [one]) => Err(one.why.clone()),
            ([], all) => {
                let why: Vec<String> = all.iter().take(4).map(SkippedKey::short).collect();
                let more = if all.len() > why.len() { "; …" } else { "" };
                Err(format!("none of its {} keys can be used: {}{more}", all.len(), why.join("; ")))
            }
            _ => Ok(()),
        }
    }
}

/// The key in a file that is no JWK.
fn material(alg: Alg, secret: &Secret) -> Result<KeyMaterial, String> {
    let bytes = secret.bytes();
    if alg.is_public() {
        return KeyMaterial::from_pem(alg, bytes);
    }
    if memmem::find(bytes, b"-----BEGIN ").is_some() || bytes.starts_with(b"ssh-") {
        return Err("it holds a PEM key, and a secret is wanted".into());
    }
    let is_structure =
        bytes.trim_ascii_start().starts_with(b"{") || bytes.trim_ascii_start().starts_with(b"[");
    if is_structure && serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
        return Err("it holds JSON that is no JWK set with secrets, and everybody may know it".into());
    }
    KeyMaterial::from_secret(alg, bytes)
}
