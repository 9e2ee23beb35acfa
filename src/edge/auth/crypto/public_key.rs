//! Public keys: RSA, ECDSA on P-256 and P-384, and Ed25519.
//!
//! They come as PEM (RFC 7468), certificates included, or as the numbers of a JWK; weak ones
//! are refused. A private key is refused too: on this machine it would not be private.
//!
//! Of a certificate the key alone counts. Its dates, names and signature show how far to trust
//! its sender, and it has none: an administrator put it in its place.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature as EdSignature, VerifyingKey as EdKey};
use jsonwebtoken::crypto::JwtVerifier;
use jsonwebtoken::errors::{ErrorKind, Result as Done};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey};
use memchr::memmem;
use p256::ecdsa::{Signature as P256Signature, VerifyingKey as P256Key};
use p256::pkcs8::DecodePublicKey;
use p256::pkcs8::der::asn1::AnyRef;
use p256::pkcs8::der::{Decode, Reader, SliceReader, Tag, Tagged};
use p384::ecdsa::{Signature as P384Signature, VerifyingKey as P384Key};
use rsa::pkcs1::{ALGORITHM_OID as RSA, DecodeRsaPublicKey, EncodeRsaPublicKey};
use rsa::pkcs8::SubjectPublicKeyInfoRef;
use rsa::{BigUint, Pkcs1v15Sign, Pss, RsaPublicKey};
use sha2::digest::DynDigest;
use sha2::digest::const_oid::AssociatedOid;
use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::config::Alg;

/// Bits of an RSA key, the least that RFC 7518, section 3.3 allows, and the most that
/// are computed with: a token must not cost its verifier much more than its maker.
const SHORTEST_RSA: usize = 2048;
const LONGEST_RSA: usize = RsaPublicKey::MAX_SIZE;

/// The key in a PEM file, for this algorithm and no other: a bad one is found now.
pub(in crate::edge::auth) fn key(alg: Alg, pem: &[u8]) -> Result<DecodingKey, String> {
    if memmem::find(pem, b"PRIVATE KEY").is_some() {
        return Err("it holds a private key, and the public one is wanted: \
                    `openssl pkey -pubout -in FILE` prints it"
            .into());
    }
    let blocks = blocks(pem);
    let Some((label, Some(der))) = blocks.first() else {
        // As ASN.1 begins.
        return Err(if pem.starts_with(&[0x30]) {
            "it holds no public key of this kind in PEM, and may be one in DER: \
             `openssl pkey -pubin -inform DER -in FILE` or `openssl x509 -inform DER -in FILE` prints PEM"
        } else {
            UNFIT
        }
        .into());
    };
    check_single_key(&blocks)?;
    let (label, der) = match *label {
        CERTIFICATE => ("PUBLIC KEY", Certificate::read(der).ok_or(UNREADABLE)?.key),
        label => (label, &**der),
    };
    let key = match (alg, label) {
        (Alg::Rs256 | Alg::Rs384 | Alg::Rs512 | Alg::Ps256 | Alg::Ps384 | Alg::Ps512, label) => {
            return rsa_in(label, der).map_err(|why| why.unwrap_or_else(|| UNFIT.into()));
        }
        (Alg::Es256, "PUBLIC KEY") => P256Key::from_public_key_der(der).ok().map(|key| p256(&key)),
        (Alg::Es384, "PUBLIC KEY") => P384Key::from_public_key_der(der).ok().map(|key| p384(&key)),
        (Alg::EdDsa, "PUBLIC KEY") => EdKey::from_public_key_der(der).ok().map(|key| ed(&key)),
        _ => None,
    };
    key.ok_or_else(|| UNFIT.into())
}

const UNFIT: &str = "it holds no public key of this kind in PEM";

/// The key with these numbers, in the order of RFC 7518, section 6, and RFC 8037: `n` and
/// `e`, `x` and `y`, or `x` alone.
pub(in crate::edge::auth) fn of_numbers(alg: Alg, numbers: &[Vec<u8>]) -> Result<DecodingKey, String> {
    let key = match (alg, numbers) {
        (Alg::Es256, [x, y]) => P256Key::from_sec1_bytes(&point(x, y)).ok().map(|key| p256(&key)),
        (Alg::Es384, [x, y]) => P384Key::from_sec1_bytes(&point(x, y)).ok().map(|key| p384(&key)),
        (Alg::EdDsa, [x]) => EdKey::try_from(&**x).ok().map(|key| ed(&key)),
        (_, [n, e]) => return rsa(BigUint::from_bytes_be(n), BigUint::from_bytes_be(e)),
        _ => None,
    };
    key.ok_or_else(|| "its numbers are no point of its curve".into())
}

/// A point as SEC 1, section 2.3.3 spells it.
fn point(x: &[u8], y: &[u8]) -> Vec<u8> {
    [&[4], x, y].concat()
}

/// The key of RSA in a PEM block; why not, where it is one.
fn rsa_in(label: &str, der: &[u8]) -> Result<DecodingKey, Option<String>> {
    let der = match label {
        "RSA PUBLIC KEY" => der.to_vec(),
        "PUBLIC KEY" => {
            let info = SubjectPublicKeyInfoRef::try_from(der).map_err(|_| None)?;
            info.algorithm.assert_algorithm_oid(RSA).map_err(|_| None)?;
            info.subject_public_key.as_bytes().ok_or(None)?.to_vec()
        }
        _ => return Err(None),
    };
    let key = rsa::pkcs1::RsaPublicKey::try_from(&*der).map_err(|_| None)?;
    let [n, e] = [key.modulus, key.public_exponent].map(|number| BigUint::from_bytes_be(number.as_bytes()));
    rsa(n, e).map_err(Some)
}

/// The key of RSA with these numbers.
fn rsa(n: BigUint, e: BigUint) -> Result<DecodingKey, String> {
    match n.bits() {
        ..SHORTEST_RSA => Err(format!("it has less than {SHORTEST_RSA} bits")),
        SHORTEST_RSA..=LONGEST_RSA => {
            // With an exponent of 1 everything would be its own signature.
            let key = RsaPublicKey::new(n, e).ok();
            let der = key.and_then(|key| key.to_pkcs1_der().ok());
            der.map(|der| DecodingKey::from_rsa_der(der.as_bytes()))
                .ok_or_else(|| "its numbers are no key of RSA".into())
        }
        _ => Err(format!("it has more than {LONGEST_RSA} bits")),
    }
}

fn p256(key: &P256Key) -> DecodingKey {
    DecodingKey::from_ec_der(key.to_encoded_point(false).as_bytes())
}

fn p384(key: &P384Key) -> DecodingKey {
    DecodingKey::from_ec_der(key.to_encoded_point(false).as_bytes())
}

fn ed(key: &EdKey) -> DecodingKey {
    DecodingKey::from_ed_der(key.as_bytes())
}

/// The parts of a certificate that count (RFC 5280, section 4.1). A complete parser would add
/// 30 kB of names and extensions.
struct Certificate<'a> {
    issuer: &'a [u8],
    subject: &'a [u8],
    /// In the form of a file with a public key.
    key: &'a [u8],
}

impl<'a> Certificate<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let certificate = AnyRef::from_der(der).ok()?;
        let body = AnyRef::decode(&mut within(certificate)?).ok()?;
        let mut fields = within(body)?;
        // The version stands in front where it is not the first.
        if fields.peek_tag().ok()?.is_context_specific() {
            AnyRef::decode(&mut fields).ok()?;
        }
        let mut field = || fields.tlv_bytes().ok();
        let (_number, _algorithm) = (field()?, field()?);
        let issuer = field()?;
        let _dates = field()?;
        Some(Self { issuer, subject: field()?, key: field()? })
    }

    /// Whether the next one of a chain has issued it.
    fn is_issued_by(&self, next: &Self) -> bool {
        // A self-signed one ends a chain.
        self.issuer == next.subject && self.issuer != self.subject
    }
}

const CERTIFICATE: &str = "CERTIFICATE";

const UNREADABLE: &str = "it holds a certificate that cannot be read";

/// Checks that a file has one key to verify with: once or more often, or certified, followed by
/// the certificates of its issuers (a chain, as authorities send it). Of two keys one would not
/// be used, without any sign of which.
fn check_single_key(blocks: &[PemBlock<'_>]) -> Result<(), String> {
    let certificates = blocks.iter().filter(|(label, _)| *label == CERTIFICATE);
    let read = certificates.map(|(_, der)| der.as_deref().and_then(Certificate::read));
    let chain: Vec<Certificate<'_>> = read.collect::<Option<_>>().ok_or(UNREADABLE)?;
    let keys = blocks.iter().filter(|(label, _)| label.ends_with("PUBLIC KEY"));
    let keys: Vec<&[u8]> = keys.map(|(_, der)| der.as_deref().unwrap_or_default()).collect();
    if !is_one(keys.iter().copied().chain(chain.first().map(|first| first.key))) {
        let count = keys.len() + chain.len();
        return Err(format!(
            "it holds {count} public keys, of which one alone would be used: one key a file, or a JWK set"
        ));
    }
    let is_chain = chain.windows(2).all(|pair| matches!(pair, [one, next] if one.is_issued_by(next)));
    if is_chain || is_one(chain.iter().map(|certificate| certificate.key)) {
        return Ok(());
    }
    Err(format!(
        "it holds {} certificates that are no chain, in which the next one has issued each: one certificate a \
         file, or a chain that begins with it, or the keys as a JWK set",
        chain.len()
    ))
}

/// Whether all of these are the same.
fn is_one<'a>(mut keys: impl Iterator<Item = &'a [u8]>) -> bool {
    let first = keys.next();
    keys.all(|key| Some(key) == first)
}

/// The fields of a sequence.
fn within(of: AnyRef<'_>) -> Option<SliceReader<'_>> {
    (of.tag() == Tag::Sequence).then(|| SliceReader::new(of.value()).ok()).flatten()
}

/// A public key that verifies.
enum PublicKey {
    /// For several algorithms.
    Rsa(Algorithm, RsaPublicKey),
    P256(P256Key),
    P384(P384Key),
    Ed(EdKey),
}

/// What verifies with a key, as [`key`] has made it.
pub(super) fn verifier(algorithm: Algorithm, key: &[u8]) -> Done<Box<dyn JwtVerifier>> {
    let key = match algorithm {
        Algorithm::ES256 => P256Key::from_sec1_bytes(key).ok().map(PublicKey::P256),
        Algorithm::ES384 => P384Key::from_sec1_bytes(key).ok().map(PublicKey::P384),
        Algorithm::EdDSA => EdKey::try_from(key).ok().map(PublicKey::Ed),
        Algorithm::RS256
        | Algorithm::RS384
        | Algorithm::RS512
        | Algorithm::PS256
        | Algorithm::PS384
        | Algorithm::PS512 => {
            RsaPublicKey::from_pkcs1_der(key).ok().map(|key| PublicKey::Rsa(algorithm, key))
        }
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    Ok(Box::new(key.ok_or(ErrorKind::InvalidKeyFormat)?))
}

impl Verifier<Vec<u8>> for PublicKey {
    /// Whether the message was signed with the private key of this one.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), Error> {
        match self {
            Self::Rsa(algorithm, key) => {
                let Hashed { digest, pkcs1, pss } = match algorithm {
                    Algorithm::RS256 | Algorithm::PS256 => Hashed::by::<Sha256>(message),
                    Algorithm::RS384 | Algorithm::PS384 => Hashed::by::<Sha384>(message),
                    _ => Hashed::by::<Sha512>(message),
                };
                let done = match algorithm {
                    Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => {
                        key.verify(pkcs1, &digest, signature)
                    }
                    _ => key.verify(pss, &digest, signature),
                };
                done.map_err(|_| Error::new())
            }
            Self::P256(key) => key.verify(message, &P256Signature::from_slice(signature)?),
            Self::P384(key) => key.verify(message, &P384Signature::from_slice(signature)?),
            Self::Ed(key) => key.verify(message, &EdSignature::from_slice(signature)?),
        }
    }
}

/// A message as RSA signs it. The generic code ends here: the arithmetic is compiled once for
/// all digests.
struct Hashed {
    digest: Vec<u8>,
    /// RFC 7518, section 3.3.
    pkcs1: Pkcs1v15Sign,
    /// Section 3.5: the salt is as long as the digest.
    pss: Pss,
}

impl Hashed {
    fn by<D: Digest + DynDigest + AssociatedOid + Send + Sync + 'static>(message: &[u8]) -> Self {
        let digest = <D as Digest>::digest(message).to_vec();
        Self { digest, pkcs1: Pkcs1v15Sign::new::<D>(), pss: Pss::new::<D>() }
    }
}

impl JwtVerifier for PublicKey {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa(algorithm, _) => *algorithm,
            Self::P256(_) => Algorithm::ES256,
            Self::P384(_) => Algorithm::ES384,
            Self::Ed(_) => Algorithm::EdDSA,
        }
    }
}

/// A block of a PEM file: its label, and what it holds, if that is base64 and has an end.
type PemBlock<'a> = (&'a str, Option<Vec<u8>>);

/// The blocks of a PEM file. Lines may have any length, or be one.
fn blocks(pem: &[u8]) -> Vec<PemBlock<'_>> {
    let (mut blocks, mut rest) = (Vec::new(), str::from_utf8(pem).unwrap_or_default());
    while let Some((label, after)) =
        rest.split_once("-----BEGIN ").and_then(|(_, rest)| rest.split_once("-----"))
    {
        let (lines, after) = after.split_once("-----END ").map_or((None, ""), |(it, rest)| (Some(it), rest));
        let text = lines.map(|lines| lines.split_ascii_whitespace().collect::<String>());
        blocks.push((label, text.and_then(|text| STANDARD.decode(text).ok())));
        rest = after;
    }
    blocks
}
