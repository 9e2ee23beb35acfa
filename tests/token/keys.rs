//! Files of keys, and tokens that the daemon did not sign, for the tests beside this one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::crypto::rust_crypto;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::Value;
use wshubd::config::{Alg, AuthConfig, Config, Environment, KeyFile, RequiredClaims};
use wshubd::edge::auth::jwt::Verifier;
use wshubd::protocol::UnixTime;

/// The secret that tests sign with; long enough for HS512.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// When the tests take place, in seconds.
pub(crate) const NOW: u64 = 1_750_000_000;

/// The same as the daemon says it.
pub(crate) fn now() -> UnixTime {
    UnixTime::from_secs(NOW)
}

/// A directory of a test's own, gone with it.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("wshubd-token-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// The default configuration.
pub(crate) fn auth() -> AuthConfig {
    let environment = Environment::new(1, [("CONFIGURATION_DIRECTORY", "/nonexistent")]);
    Config::load(None, &environment).unwrap().config.auth
}

/// A verifier with one key for each `(alg, text, kid)`.
pub(crate) fn verifier(keys: &[(Alg, &str, Option<&str>)]) -> Result<Verifier, String> {
    let scratch = Scratch::new();
    let mut auth = auth();
    for (number, (alg, text, kid)) in keys.iter().enumerate() {
        let file = scratch.write(&number.to_string(), text, 0o600);
        auth.keys.push(KeyFile { alg: *alg, file, kid: kid.map(ToOwned::to_owned) });
    }
    Verifier::open(&auth, &scratch.0).map_err(|error| error.to_string())
}

/// A verifier for HS256 with [`SECRET`].
pub(crate) fn hs256() -> Verifier {
    verifier(&[(Alg::Hs256, SECRET, None)]).unwrap()
}

/// The same where something is asked of claims: a user by `user`, one of `issuers` and of
/// `audiences`, where there are any.
pub(crate) fn hs256_of(user: Option<&str>, issuers: &[&str], audiences: &[&str], end: bool) -> Verifier {
    let scratch = Scratch::new();
    let mut auth = auth();
    let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    auth.claims = RequiredClaims {
        user: user.map(str::to_owned),
        issuers: texts(issuers),
        audiences: texts(audiences),
        end,
    };
    auth.keys.push(KeyFile { alg: Alg::Hs256, file: scratch.write("key", SECRET, 0o600), kid: None });
    Verifier::open(&auth, &scratch.0).unwrap()
}

/// A token with this header and these claims, whatever they are.
pub(crate) fn signed(
    header: &str,
    claims: impl AsRef<[u8]>,
    key: &EncodingKey,
    algorithm: Algorithm,
) -> String {
    let [header, claims] = [header.as_ref(), claims.as_ref()].map(|part| URL_SAFE_NO_PAD.encode(part));
    let message = format!("{header}.{claims}");
    // Not by the cryptography of the daemon, which is what is tested.
    let signer = (rust_crypto::DEFAULT_PROVIDER.signer_factory)(&algorithm, key).unwrap();
    let signature = URL_SAFE_NO_PAD.encode(signer.sign(message.as_bytes()));
    format!("{message}.{signature}")
}

/// A token of HS256 with [`SECRET`] and the claims as they are spelled.
pub(crate) fn spelled(claims: &str) -> String {
    signed(r#"{"alg":"HS256"}"#, claims, &EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256)
}

/// The same for claims that may be no text.
pub(crate) fn spelled_in(claims: &[u8]) -> String {
    signed(r#"{"alg":"HS256"}"#, claims, &EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256)
}

/// The same for claims that are JSON.
pub(crate) fn token(claims: &Value) -> String {
    spelled(&claims.to_string())
}
