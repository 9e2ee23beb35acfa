//! PEM files with more than one block.

use serde_json::json;
use wshubd::config::Alg;
use wshubd::edge::auth::jwt::Verifier;

use crate::keys::verifier;

const ROOT: &str = include_str!("keys/es384.cert.pem");
const MIDDLE: &str = include_str!("keys/es256.leaf.pem");
const LEAF: &str = include_str!("keys/eddsa.leaf.pem");
const ES256: &str = include_str!("keys/es256.pub.pem");
const EDDSA: &str = include_str!("keys/eddsa.pub.pem");

fn read(alg: Alg, blocks: &[&str]) -> Result<Verifier, String> {
    let verifier = verifier(&[(alg, &blocks.concat(), None)]);
    verifier.map_err(|error| {
        let (place, message) = error.split_once(": cannot be a key for ").unwrap();
        assert!(place.ends_with("/0"), "the file is named: {error}");
        message.split_once(": ").unwrap().1.to_owned()
    })
}

#[test]
fn two_keys_in_one_file_are_refused() {
    let numbered = |count: usize| {
        format!(
            "it holds {count} public keys, of which one alone would be used: one key a file, or a JWK set"
        )
    };
    let other = include_str!("keys/es384.pub.pem");
    let rsa = include_str!("keys/rs256.pub.pem");
    for (alg, blocks, expected) in [
        (Alg::Es256, &[ES256, other][..], numbered(2)),
        (Alg::Es256, &[other, ES256], numbered(2)),
        (Alg::EdDsa, &[EDDSA, ES256, rsa], numbered(3)),
        (Alg::Rs256, &[rsa, "\n# the new one\n", EDDSA], numbered(2)),
        (Alg::Es256, &[ES256, ROOT], numbered(2)),
        (Alg::Es384, &[ROOT, ES256], numbered(2)),
        (Alg::Es256, &[ES256, "-----BEGIN PUBLIC KEY-----\nMFkw"], numbered(2)),
    ] {
        assert_eq!(read(alg, blocks).err(), Some(expected), "{alg:?} {}", blocks.len());
    }
}

#[test]
fn certificates_form_a_chain_that_begins_with_the_leaf() {
    let no_chain = |count: usize| {
        format!(
            "it holds {count} certificates that are no chain, in which the next one has issued each: one certificate a \
             file, or a chain that begins with it, or the keys as a JWK set"
        )
    };
    let old = include_str!("keys/eddsa.cert.pem");
    let other = include_str!("keys/es256.cert.pem");
    for (alg, blocks) in [
        (Alg::EdDsa, &[LEAF][..]),
        (Alg::EdDsa, &[LEAF, MIDDLE]),
        (Alg::EdDsa, &[LEAF, "\n", MIDDLE, "subject=CN = root\n", ROOT]),
        (Alg::Es256, &[MIDDLE, ROOT]),
        // As `openssl x509 -pubkey` prints it.
        (Alg::EdDsa, &[EDDSA, LEAF]),
        (Alg::EdDsa, &[EDDSA, LEAF, MIDDLE, ROOT]),
        // Certified anew, or pasted twice: the key is the same.
        (Alg::EdDsa, &[old, LEAF]),
        (Alg::Es256, &[ES256, ES256]),
    ] {
        assert_eq!(read(alg, blocks).err(), None, "{alg:?} {}", blocks.len());
    }
    for (alg, blocks) in [
        // The root first: its key would be taken for the one that signs.
        (Alg::Es384, &[ROOT, MIDDLE][..]),
        (Alg::Es384, &[ROOT, MIDDLE, LEAF]),
        // One is missing.
        (Alg::EdDsa, &[LEAF, ROOT]),
        // Two that nobody has issued, as they lie side by side while keys are rotated.
        (Alg::EdDsa, &[old, other]),
        (Alg::Es256, &[other, LEAF]),
    ] {
        assert_eq!(read(alg, blocks).err(), Some(no_chain(blocks.len())), "{alg:?}");
    }
    let cut = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    assert_eq!(
        read(Alg::EdDsa, &[LEAF, cut]).err(),
        Some("it holds a certificate that cannot be read".to_owned())
    );
}

#[test]
fn the_key_of_a_chain_is_that_of_its_first_certificate() {
    let verifier = read(Alg::EdDsa, &[LEAF, MIDDLE, ROOT]).unwrap();
    let key = jsonwebtoken::EncodingKey::from_ed_pem(include_bytes!("keys/eddsa.pem")).unwrap();
    let claims = json!({ "sub": "ada", "exp": crate::keys::NOW + 9 }).to_string();
    let token = crate::keys::signed(r#"{"alg":"EdDSA"}"#, claims, &key, jsonwebtoken::Algorithm::EdDSA);
    assert!(verifier.verify(&token, crate::keys::now()).is_ok());
}
