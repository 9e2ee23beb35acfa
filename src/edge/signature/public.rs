//! Public keys: RSA, ECDSA on P-256 and Ed25519.
//!
//! Knows their files (PEM, RFC 7468) and what is too weak. Cannot sign: a private
//! key is refused, for it would not be one if it were here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::pkcs8::DecodePublicKey;
use ed25519_dalek::{Signature as EdSignature, Verifier, VerifyingKey as EdKey};
use memchr::memmem;
use p256::ecdsa::{Signature as EcSignature, VerifyingKey as EcKey};
use rsa::pkcs1::DecodeRsaPublicKey;
use rsa::traits::PublicKeyParts;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use sha2::{Digest, Sha256};

use crate::config::Alg;

/// Bits of an RSA key, the least that RFC 7518, section 3.3 allows.
const SHORTEST_RSA: usize = 2048;

/// Somebody's public key.
pub(in crate::edge) enum PublicKey {
    Rs256(RsaPublicKey),
    Es256(EcKey),
    EdDsa(EdKey),
}

impl PublicKey {
    /// The key in a file, for this algorithm and no other.
    pub(super) fn read(alg: Alg, pem: &[u8]) -> Result<Self, String> {
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
        let key = match (alg, label) {
            (Alg::Rs256, "PUBLIC KEY") => RsaPublicKey::from_public_key_der(&der).ok().map(Self::Rs256),
            (Alg::Rs256, "RSA PUBLIC KEY") => RsaPublicKey::from_pkcs1_der(&der).ok().map(Self::Rs256),
            (Alg::Es256, "PUBLIC KEY") => EcKey::from_public_key_der(&der).ok().map(Self::Es256),
            (Alg::EdDsa, "PUBLIC KEY") => EdKey::from_public_key_der(&der).ok().map(Self::EdDsa),
            _ => None,
        };
        match key.ok_or_else(unfit)? {
            Self::Rs256(key) if key.n().bits() < SHORTEST_RSA => {
                Err(format!("it has less than {SHORTEST_RSA} bits"))
            }
            key => Ok(key),
        }
    }

    /// Whether whoever has the private key signed this message.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Rs256(key) => {
                key.verify(Pkcs1v15Sign::new::<Sha256>(), &Sha256::digest(message), signature).is_ok()
            }
            Self::Es256(key) => EcSignature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
            Self::EdDsa(key) => EdSignature::from_slice(signature)
                .is_ok_and(|signature| key.verify(message, &signature).is_ok()),
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
