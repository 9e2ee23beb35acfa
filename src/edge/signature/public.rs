//! Public keys: RSA, ECDSA on P-256 and Ed25519.
//!
//! Knows their files (PEM, RFC 7468) and what is too weak. Cannot sign: a private
//! key is refused, for it would not be one if it were here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature as EdSignature, VerifyingKey as EdKey};
use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::errors::{ErrorKind, Result as Done};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey};
use memchr::memmem;
use p256::ecdsa::{Signature as EcSignature, VerifyingKey as EcKey};
use p256::pkcs8::DecodePublicKey;
use rsa::pkcs1::{DecodeRsaPublicKey, EncodeRsaPublicKey};
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use sha2::{Digest, Sha256};

use crate::config::Alg;

/// Bits of an RSA key, the least that RFC 7518, section 3.3 allows.
const SHORTEST_RSA: usize = 2048;

/// The key in a file, for this algorithm and no other: a bad one is found now.
pub(in crate::edge) fn key(alg: Alg, pem: &[u8]) -> Result<DecodingKey, String> {
    if memmem::find(pem, b"PRIVATE KEY").is_some() {
        return Err("it holds a private key, and the public one is wanted".into());
    }
    let unfit = || "it holds no public key of this kind in PEM".to_owned();
    let (label, der) = block(pem).ok_or_else(unfit)?;
    if label == "CERTIFICATE" {
        return Err("it holds a certificate, and the key alone is wanted: \
                    `openssl x509 -pubkey -noout -in FILE` prints it"
            .into());
    }
    let rsa = match (alg, label) {
        (Alg::Rs256, "PUBLIC KEY") => RsaPublicKey::from_public_key_der(&der).ok(),
        (Alg::Rs256, "RSA PUBLIC KEY") => RsaPublicKey::from_pkcs1_der(&der).ok(),
        _ => None,
    };
    if let Some(key) = rsa {
        if key.n().bits() < SHORTEST_RSA {
            return Err(format!("it has less than {SHORTEST_RSA} bits"));
        }
        return key.to_pkcs1_der().map(|der| DecodingKey::from_rsa_der(der.as_bytes())).map_err(|_| unfit());
    }
    let point = |key: EcKey| DecodingKey::from_ec_der(key.to_encoded_point(false).as_bytes());
    let key = match (alg, label) {
        (Alg::Es256, "PUBLIC KEY") => EcKey::from_public_key_der(&der).ok().map(point),
        (Alg::EdDsa, "PUBLIC KEY") => {
            EdKey::from_public_key_der(&der).ok().map(|key| DecodingKey::from_ed_der(key.as_bytes()))
        }
        _ => None,
    };
    key.ok_or_else(unfit)
}

/// Somebody's public key.
enum PublicKey {
    Rs256(RsaPublicKey),
    Es256(EcKey),
    EdDsa(EdKey),
}

/// What verifies with a key, as [`key`] has made it.
pub(super) fn verifier(algorithm: Algorithm, key: &[u8]) -> Done<Box<dyn JwtVerifier>> {
    let key = match algorithm {
        Algorithm::RS256 => RsaPublicKey::from_pkcs1_der(key).ok().map(PublicKey::Rs256),
        Algorithm::ES256 => EcKey::from_sec1_bytes(key).ok().map(PublicKey::Es256),
        Algorithm::EdDSA => EdKey::try_from(key).ok().map(PublicKey::EdDsa),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(key.ok_or(ErrorKind::InvalidKeyFormat)?))
}

impl Verifier<Vec<u8>> for PublicKey {
    /// Whether whoever has the private key signed this message.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Rs256(key) => key
                .verify(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(message), signature)
                .map_err(|_| Error::new()),
            Self::Es256(key) => key.verify(message, &EcSignature::from_slice(signature)?),
            Self::EdDsa(key) => key.verify(message, &EdSignature::from_slice(signature)?),
        }
    }
}

impl JwtVerifier for PublicKey {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rs256(_) => Algorithm::RS256,
            Self::Es256(_) => Algorithm::ES256,
            Self::EdDsa(_) => Algorithm::EdDSA,
        }
    }
}

/// The first block of a PEM file: its label, and what it holds. Lines may be as
/// long as whoever wrote them liked, or one.
fn block(pem: &[u8]) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = str::from_utf8(pem).ok()?.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (lines, _) = rest.split_once("-----END ")?;
    let text: String = lines.split_ascii_whitespace().collect();
    Some((label, STANDARD.decode(text).ok()?))
}
