//! Keys in JSON (JWK, RFC 7517): one, or a set.
//!
//! Knows their members, and which keys of a set are of no use for an algorithm. Does not
//! know files, nor what is done with a key.
//!
//! The types of jsonwebtoken read a set as a whole or not at all. Identity providers put
//! keys for encryption, and of kinds to come, beside those that sign: here each is read by
//! itself, and what cannot be used is left out with a reason.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde_json::value::RawValue;

use super::claims;
use super::claims::Members;
use super::crypto::public_key_of;
use super::error::cut;
use super::keys::secret_key;
use crate::config::Alg;
use crate::protocol::ids::LONGEST_NAME;

/// Most keys of a set; providers have some ten. A token names the one that it is tried with.
pub(in crate::edge) const MOST_KEYS: usize = 32;

/// What a key does: verify, and sign as well if it is a secret.
pub(in crate::edge) type Material = (DecodingKey, Option<EncodingKey>);

/// One key of a set.
pub(in crate::edge) struct Entry {
    pub(in crate::edge) kid: Option<String>,
    /// The key, or why it cannot be used.
    pub(in crate::edge) key: Result<Material, String>,
}

/// Whether a file holds JSON in the place of a key's bytes. A secret may begin as JSON does,
/// and is none for that.
pub(in crate::edge) fn is_json(alg: Alg, bytes: &[u8]) -> bool {
    let begins = text(bytes).trim_ascii_start().starts_with(b"{");
    begins && (alg.is_public() || memchr::memmem::find(bytes, b"\"kty\"").is_some())
}

/// Without the mark that some editors put in front.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The keys of a set, or the one key, in their order.
pub(in crate::edge) fn read(alg: Alg, json: &[u8]) -> Result<Vec<Entry>, String> {
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

fn entry(alg: Alg, json: &[u8]) -> Result<Entry, String> {
    let unread = |error: String| format!("it cannot be read: {error}");
    let members: Members<'_> = match claims::read(json) {
        Ok(members) => members,
        Err(error) => return Ok(Entry { kid: None, key: Err(unread(error)) }),
    };
    // Whoever may read this file could sign with it.
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
    Ok(Entry { kid: kid.ok().flatten(), key })
}

/// The members of one key. `x5c` and what belongs to it are not looked at: the key stands
/// beside it.
struct Jwk<'a>(Members<'a>);

/// `kty`, `crv`, and the members that a key of an algorithm is made of.
fn form(alg: Alg) -> (&'static str, Option<&'static str>, &'static [&'static str]) {
    match alg {
        Alg::Hs256 | Alg::Hs384 | Alg::Hs512 => ("oct", None, &["k"]),
        Alg::Es256 => ("EC", Some("P-256"), &["x", "y"]),
        Alg::Es384 => ("EC", Some("P-384"), &["x", "y"]),
        Alg::EdDsa => ("OKP", Some("Ed25519"), &["x"]),
        Alg::Rs256 | Alg::Rs384 | Alg::Rs512 | Alg::Ps256 | Alg::Ps384 | Alg::Ps512 => {
            ("RSA", None, &["n", "e"])
        }
    }
}

impl Jwk<'_> {
    fn text(&self, name: &str) -> Result<Option<String>, String> {
        self.0.get(name).map_or(Ok(None), |raw| claims::value(name, raw))
    }

    /// Why a key is not one for this algorithm, if it is none.
    fn misfit(&self, alg: Alg) -> Result<Option<String>, String> {
        let (kty, crv, _) = form(alg);
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

    /// What the numbers make.
    fn material(&self, alg: Alg) -> Result<Material, String> {
        let number = |name: &&str| {
            let text = self.text(name)?.ok_or_else(|| format!("it has no `{name}`"))?;
            let wrong = |_| format!("its `{name}` is not base64url without padding");
            URL_SAFE_NO_PAD.decode(text).map_err(wrong)
        };
        let (_, _, names) = form(alg);
        let numbers = names.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        match &*numbers {
            [secret] if !alg.is_public() => secret_key(alg, secret),
            numbers => Ok((public_key_of(alg, numbers)?, None)),
        }
    }
}
