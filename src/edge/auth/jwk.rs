//! JSON Web Keys (RFC 7517): one key, or a set.
//!
//! The types of jsonwebtoken read a set as a whole or not at all. Identity providers put
//! keys for encryption, and of kinds to come, beside those that sign: here each is read by
//! itself, and a key that cannot be used is skipped with a reason.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::value::RawValue;

use super::claims;
use super::claims::Members;
use super::key_material::KeyMaterial;
use super::quote::cut;
use crate::config::Alg;
use crate::protocol::ids::LONGEST_NAME;

/// Most keys of a set; providers have some ten. A token names the one that it is tried with.
const MOST_KEYS: usize = 32;

/// One key of a set.
pub(super) struct JwkEntry {
    kid: Option<String>,
    /// The key, or why it cannot be used.
    key: Result<KeyMaterial, String>,
}

impl JwkEntry {
    /// Its `kid`, and the key or why it cannot be used.
    pub(super) fn into_parts(self) -> (Option<String>, Result<KeyMaterial, String>) {
        (self.kid, self.key)
    }
}

/// Whether a file holds JSON rather than the bytes of a key. A secret may begin as JSON does
/// without being any.
pub(super) fn is_json(alg: Alg, bytes: &[u8]) -> bool {
    let begins = text(bytes).trim_ascii_start().starts_with(b"{");
    begins && (alg.is_public() || memchr::memmem::find(bytes, b"\"kty\"").is_some())
}

/// The text without a byte order mark, which some editors add.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The keys of a set, or the one key, in their order.
pub(super) fn read(alg: Alg, json: &[u8]) -> Result<Vec<JwkEntry>, String> {
    let json = text(json);
    let failed = |error: String| format!("it is no JWK set: {error}");
    let members: Members<'_> = claims::read(json).map_err(failed)?;
    let Some(keys) = members.get("keys") else {
        return entry(alg, json).map(|entry| vec![entry]);
    };
    let keys: Vec<&RawValue> = claims::value("keys", keys).map_err(failed)?;
    if keys.len() > MOST_KEYS {
        return Err(format!("its JWK set has {} keys, at most {MOST_KEYS} are taken", keys.len()));
    }
    keys.iter().map(|key| entry(alg, key.get().as_bytes())).collect()
}

fn entry(alg: Alg, json: &[u8]) -> Result<JwkEntry, String> {
    let unread = |error: String| format!("it cannot be read: {error}");
    let members: Members<'_> = match claims::read(json) {
        Ok(members) => members,
        Err(error) => return Ok(JwkEntry { kid: None, key: Err(unread(error)) }),
    };
    // Every user who may read this file could sign with it.
    if alg.is_public() && members.contains_key("d") {
        return Err("it holds a private key (a JWK with `d`), and the public one is wanted: leave out `d`, \
                    `p`, `q`, `dp`, `dq` and `qi`"
            .into());
    }
    let jwk = Jwk(members);
    let kid = jwk.text("kid");
    let key = match &kid {
        Err(error) => Err(unread(error.clone())),
        Ok(Some(kid)) if kid.len() > LONGEST_NAME => {
            Err(format!("its `kid` has {} bytes, at most {LONGEST_NAME} are taken", kid.len()))
        }
        Ok(_) => match jwk.misfit(alg) {
            Ok(None) => jwk.material(alg),
            Ok(Some(why)) => Err(why),
            Err(error) => Err(unread(error)),
        },
    };
    Ok(JwkEntry { kid: kid.ok().flatten(), key })
}

/// The members of one key. Certificates (`x5c` and the like) are ignored: the key stands
/// beside them.
struct Jwk<'a>(Members<'a>);

/// The form of the keys of an algorithm.
struct JwkForm {
    kty: &'static str,
    crv: Option<&'static str>,
    /// The members with the numbers that a key is made of.
    numbers: &'static [&'static str],
}

fn form(alg: Alg) -> JwkForm {
    let (kty, crv, numbers): (_, _, &'static [&'static str]) = match alg {
        Alg::Hs256 | Alg::Hs384 | Alg::Hs512 => ("oct", None, &["k"]),
        Alg::Es256 => ("EC", Some("P-256"), &["x", "y"]),
        Alg::Es384 => ("EC", Some("P-384"), &["x", "y"]),
        Alg::EdDsa => ("OKP", Some("Ed25519"), &["x"]),
        Alg::Rs256 | Alg::Rs384 | Alg::Rs512 | Alg::Ps256 | Alg::Ps384 | Alg::Ps512 => {
            ("RSA", None, &["n", "e"])
        }
    };
    JwkForm { kty, crv, numbers }
}

impl Jwk<'_> {
    fn text(&self, name: &str) -> Result<Option<String>, String> {
        self.0.get(name).map_or(Ok(None), |raw| claims::value(name, raw))
    }

    /// Why the key does not fit this algorithm, if so.
    fn misfit(&self, alg: Alg) -> Result<Option<String>, String> {
        let JwkForm { kty, crv, .. } = form(alg);
        let wrong = |name: &str, has: &str| Ok(Some(format!("its `{name}` is {}", cut(has))));
        if let Some(purpose) = self.text("use")?.filter(|purpose| purpose != "sig") {
            return wrong("use", &purpose);
        }
        if let Some(other) = self.text("alg")?.filter(|other| !alg.is_named(other)) {
            return wrong("alg", &other);
        }
        for (name, wanted) in [("kty", Some(kty)), ("crv", crv)] {
            let has = self.text(name)?;
            match (has.as_deref(), wanted) {
                (Some(has), Some(wanted)) if has != wanted => return wrong(name, has),
                (None, Some(_)) => return Ok(Some(format!("it has no `{name}`"))),
                _ => {}
            }
        }
        let operations = self.0.get("key_ops");
        let operations: Option<Vec<String>> =
            operations.map_or(Ok(None), |raw| claims::value("key_ops", raw))?;
        let verifies = operations.is_none_or(|operations| operations.iter().any(|one| one == "verify"));
        Ok((!verifies).then(|| "its `key_ops` are without verify".to_owned()))
    }

    /// The key that its numbers make.
    fn material(&self, alg: Alg) -> Result<KeyMaterial, String> {
        let number = |name: &&str| {
            let text = self.text(name)?.ok_or_else(|| format!("it has no `{name}`"))?;
            let wrong = |_| format!("its `{name}` is not base64url without padding");
            URL_SAFE_NO_PAD.decode(text).map_err(wrong)
        };
        let numbers = form(alg).numbers.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        match &*numbers {
            [secret] if !alg.is_public() => KeyMaterial::from_secret(alg, secret),
            numbers => KeyMaterial::from_numbers(alg, numbers),
        }
    }
}
