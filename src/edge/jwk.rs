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
use serde::Deserialize;
use serde_json::value::RawValue;

use super::claims::{self, Presence};
use super::key::secret_key;
use super::signature::public_key_of;
use crate::config::Alg;

/// Most keys of a set. A token without a `kid` is tried with each of them.
pub(super) const MOST_KEYS: usize = 64;

/// What a key does: verify, and sign as well if it is a secret.
pub(super) type Material = (DecodingKey, Option<EncodingKey>);

/// One key of a set.
pub(super) struct Entry {
    pub(super) kid: Option<String>,
    /// The key, or why it cannot be used.
    pub(super) key: Result<Material, String>,
}

#[derive(Deserialize)]
struct Set {
    keys: Option<Vec<Box<RawValue>>>,
}

/// The members that are looked at. `x5c` and what belongs to it are not: the key stands
/// beside it.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    /// The private half.
    #[serde(default)]
    d: Presence,
}

/// The name of a key, of one that is no use otherwise as well.
#[derive(Deserialize)]
struct Named {
    kid: Option<Box<RawValue>>,
}

/// Whether a file holds JSON in the place of a key's bytes. A secret may begin as JSON does,
/// and is none for that.
pub(super) fn is_json(alg: Alg, bytes: &[u8]) -> bool {
    let begins = text(bytes).trim_ascii_start().starts_with(b"{");
    begins && (alg.is_public() || memchr::memmem::find(bytes, b"\"kty\"").is_some())
}

/// Without the mark that some editors put in front.
fn text(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// The keys of a set, or the one key, in their order.
pub(super) fn read(alg: Alg, json: &[u8]) -> Result<Vec<Entry>, String> {
    let json = text(json);
    let set: Set = claims::read(json).map_err(|error| format!("it is no JWK set: {error}"))?;
    let Some(keys) = set.keys else {
        return entry(alg, json).map(|entry| vec![entry]);
    };
    if keys.len() > MOST_KEYS {
        return Err(format!("its JWK set has {} keys, at most {MOST_KEYS} are taken", keys.len()));
    }
    keys.iter().map(|key| entry(alg, key.get().as_bytes())).collect()
}

fn entry(alg: Alg, json: &[u8]) -> Result<Entry, String> {
    let named: Option<Named> = claims::read(json).ok();
    let kid = named.and_then(|named| named.kid).map(|raw| serde_json::from_str::<String>(raw.get()));
    let key = match (claims::read::<Jwk>(json), &kid) {
        // Whoever may read this file could sign with it.
        (Ok(jwk), _) if alg.is_public() && jwk.d.is_present() => {
            return Err("it holds a private key (a JWK with `d`), and the public one is wanted: leave out \
                        `d`, `p`, `q`, `dp`, `dq` and `qi`"
                .into());
        }
        (Ok(_), Some(Err(_))) => Err("its `kid` is not text".into()),
        (Ok(jwk), _) => unfit(alg, &jwk).map_or_else(|| material(alg, &jwk), Err),
        (Err(error), _) => Err(format!("it cannot be read: {error}")),
    };
    let kid = kid.and_then(Result::ok);
    Ok(Entry { kid, key })
}

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

/// Why a key is not one for this algorithm, if it is none.
fn unfit(alg: Alg, jwk: &Jwk) -> Option<String> {
    let (kty, crv, _) = form(alg);
    let is =
        |name: &str, is: &str| Some(format!("its `{name}` is {:?}", is.chars().take(40).collect::<String>()));
    if let Some(purpose) = jwk.purpose.as_deref().filter(|purpose| *purpose != "sig") {
        return is("use", purpose);
    }
    if let Some(other) = jwk.alg.as_deref().filter(|other| *other != alg.name()) {
        return is("alg", other);
    }
    if jwk.kty != kty {
        return is("kty", &jwk.kty);
    }
    if let Some(crv) = crv
        && jwk.crv.as_deref() != Some(crv)
    {
        return is("crv", jwk.crv.as_deref().unwrap_or("missing"));
    }
    let verifies = |operations: &Vec<String>| operations.iter().any(|operation| operation == "verify");
    (!jwk.key_ops.as_ref().is_none_or(verifies)).then(|| "its `key_ops` are without verify".to_owned())
}

/// What the numbers make.
fn material(alg: Alg, jwk: &Jwk) -> Result<Material, String> {
    let number = |name: &&str| {
        let text = match *name {
            "n" => &jwk.n,
            "e" => &jwk.e,
            "x" => &jwk.x,
            "y" => &jwk.y,
            _ => &jwk.k,
        };
        let text = text.as_ref().ok_or_else(|| format!("it has no `{name}`"))?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("its `{name}` is not base64url without padding"))
    };
    let (_, _, names) = form(alg);
    let numbers = names.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    match &*numbers {
        [secret] if !alg.is_public() => secret_key(alg, secret),
        numbers => Ok((public_key_of(alg, numbers)?, None)),
    }
}
