//! JWK sets: keys that are used, and keys that are not.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use wshubd::config::{Alg, KeyFile};
use wshubd::edge::auth::jwt::Verifier;
use wshubd::hub::Identity;

use crate::keys::{NOW, SECRET, Scratch, auth, now, signed, verifier};

fn claims() -> String {
    json!({ "sub": "ada", "exp": NOW + 9 }).to_string()
}

fn code(verifier: &Verifier, token: &str) -> &'static str {
    verifier.verify(token, now()).map_or_else(|fault| fault.code, |_: Identity| "fine")
}

/// A verifier that reads this text under this algorithm, and what it warns of, without the
/// name of the file.
fn read(alg: Alg, text: &str) -> Result<(Verifier, Vec<String>), String> {
    let verifier = verifier(&[(alg, text, None)])?;
    let warnings = verifier.warnings().map(|warning| {
        let (file, message) = warning.split_once(": ").unwrap();
        assert!(file.ends_with("/0"), "{file}");
        message.to_owned()
    });
    let warnings = warnings.collect();
    Ok((verifier, warnings))
}

fn set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Why a set with this one key is refused.
#[cfg(feature = "public-keys")]
fn refusal(alg: Alg, key: &Value) -> String {
    let [of_set, alone] = [set(std::slice::from_ref(key)), key.to_string()].map(|text| {
        let error = read(alg, &text).map(|_| key).expect_err("a key of no use");
        error.split_once(&format!("cannot be a key for {}: ", alg.name())).unwrap().1.to_owned()
    });
    assert_eq!(of_set, alone, "{key}");
    of_set
}

/// A key of HMAC.
fn oct(secret: &str, more: &Value) -> Value {
    let mut key = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret) });
    for (name, value) in more.as_object().unwrap() {
        key[name] = value.clone();
    }
    key
}

fn hmac(header: &str, secret: &str) -> String {
    signed(header, claims(), &EncodingKey::from_secret(secret.as_bytes()), Algorithm::HS256)
}

const OTHER: &str = "another secret of more than thirty-two bytes";

#[test]
fn secrets_of_a_set_verify_and_the_first_one_mints() {
    let keys = [
        oct(SECRET, &json!({ "kid": "a", "alg": "HS256", "use": "sig" })),
        oct(OTHER, &json!({ "kid": "b" })),
    ];
    let (verifier, warnings) = read(Alg::Hs256, &set(&keys)).unwrap();
    assert_eq!(warnings, [""; 0]);
    for (header, secret, expected) in [
        (r#"{"alg":"HS256","kid":"a"}"#, SECRET, "fine"),
        (r#"{"alg":"HS256","kid":"b"}"#, OTHER, "fine"),
        (r#"{"alg":"HS256","kid":"b"}"#, SECRET, "token_invalid"),
        (r#"{"alg":"HS256"}"#, OTHER, "fine"),
        (r#"{"alg":"HS256","kid":"c"}"#, OTHER, "token_invalid"),
    ] {
        assert_eq!(code(&verifier, &hmac(header, secret)), expected, "{header}");
    }
    let user = wshubd::protocol::UserId::new("ada").unwrap();
    let (minted, _) = verifier
        .mint(&user, std::time::Duration::from_secs(9), &wshubd::protocol::MintTerms::default(), now())
        .unwrap();
    let header = URL_SAFE_NO_PAD.decode(minted.split('.').next().unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&header).unwrap()["kid"], "a");
    assert_eq!(code(&verifier, &minted), "fine");
}

#[test]
fn a_json_key_is_named_there_or_in_the_configuration() {
    let scratch = Scratch::new();
    let mut auth = auth();
    for (own, configured, expected) in
        [(Some("own"), Some("ours"), "own"), (Some("own"), None, "own"), (None, Some("ours"), "ours")]
    {
        let key = oct(SECRET, &own.map_or(json!({}), |kid| json!({ "kid": kid })));
        let file = scratch.write("key", format!("\u{feff} {key}\n"), 0o600);
        auth.keys = vec![KeyFile { alg: Alg::Hs256, file, kid: configured.map(str::to_owned) }];
        let verifier = Verifier::open(&auth, &scratch.0).unwrap();
        for kid in ["own", "ours", "other"] {
            let token = hmac(&json!({ "alg": "HS256", "kid": kid }).to_string(), SECRET);
            assert_eq!(code(&verifier, &token) == "fine", kid == expected, "{own:?} {configured:?} {kid}");
        }
    }
}

#[test]
fn a_secret_may_begin_like_json() {
    let secret = r#"{"a secret of sixty-four bytes, which begins as objects of JSON d"#;
    let (verifier, _) = read(Alg::Hs256, secret).unwrap();
    assert_eq!(code(&verifier, &hmac(r#"{"alg":"HS256"}"#, secret)), "fine");
    let error = read(Alg::Hs256, r#"{"keys": [{"kty": "oct", "k": "#).map(|_| ()).unwrap_err();
    assert!(error.contains("it is no JWK set: `keys`: EOF while parsing"), "{error}");
}

#[test]
fn an_unusable_key_is_skipped_with_name_and_reason() {
    let keys = [
        oct(SECRET, &json!({ "kid": "enc", "use": "enc" })),
        oct(SECRET, &json!({ "kid": "other", "alg": "HS384" })),
        json!({ "kty": "RSA", "kid": "rsa", "n": "AQAB", "e": "AQAB" }),
        oct(SECRET, &json!({ "kid": "ops", "key_ops": ["sign"] })),
        oct("short", &json!({})),
        json!({ "kty": "oct", "kid": "none" }),
        json!({ "kty": "oct", "kid": "padded", "k": STANDARD.encode("a secret of thirty-five bytes, no more") }),
        json!({ "kid": "nothing" }),
        json!(["kty"]),
        json!({ "kty": "oct", "kid": 7, "k": "" }),
        oct(SECRET, &json!({ "kid": "k".repeat(129) })),
        oct(OTHER, &json!({ "kid": "good", "key_ops": ["sign", "verify"] })),
        oct(SECRET, &json!({ "kid": "good" })),
    ];
    let (verifier, warnings) = read(Alg::Hs256, &set(&keys)).unwrap();
    let expected = [
        "key 1 of the JWK set, `kid` \"enc\", is skipped: its `use` is \"enc\"",
        "key 2 of the JWK set, `kid` \"other\", is skipped: its `alg` is \"HS384\"",
        "key 3 of the JWK set, `kid` \"rsa\", is skipped: its `kty` is \"RSA\"",
        "key 4 of the JWK set, `kid` \"ops\", is skipped: its `key_ops` are without verify",
        "key 5 of the JWK set is skipped: it has 5 bytes, at least 32 are wanted",
        "key 6 of the JWK set, `kid` \"none\", is skipped: it has no `k`",
        "key 7 of the JWK set, `kid` \"padded\", is skipped: its `k` is not base64url without padding",
        "key 8 of the JWK set, `kid` \"nothing\", is skipped: it has no `kty`",
        "key 9 of the JWK set is skipped: it cannot be read: invalid type: list, expected an object",
        "key 10 of the JWK set is skipped: it cannot be read: `kid`: invalid type: integer `7`, expected a string",
        "key 11 of the JWK set, `kid` \"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk\", is skipped: its `kid` has 129 bytes, at most 128 are taken",
        "key 13 of the JWK set, `kid` \"good\", is skipped: an earlier key of HS256 has the same `kid`",
    ];
    assert_eq!(warnings, expected);
    assert_eq!(code(&verifier, &hmac(r#"{"alg":"HS256","kid":"good"}"#, OTHER)), "fine");
    assert_eq!(code(&verifier, &hmac(r#"{"alg":"HS256","kid":"good"}"#, SECRET)), "token_invalid");

    // Of a long name and a strange one so much is shown as fits a line.
    let strange = oct(SECRET, &json!({ "kid": format!("a\n\u{1b}[31m{}", "k".repeat(5000)), "use": "enc" }));
    let (_, warnings) = read(Alg::Hs256, &set(&[strange, keys[11].clone()])).unwrap();
    assert!(warnings[0].len() < 150 && !warnings[0].contains(char::is_control), "{}", warnings[0]);
}

#[test]
fn a_set_without_a_usable_key_is_refused_with_the_reason() {
    let several =
        set(&[oct(SECRET, &json!({ "kid": "a", "use": "enc" })), json!({ "kty": "EC", "crv": "P-256" })]);
    for (text, expected) in [
        (
            several,
            "none of its 2 keys can be used: of `kid` \"a\", its `use` is \"enc\"; of key 2, its `kty` is \"EC\"",
        ),
        (set(&[oct(SECRET, &json!({ "use": "enc" }))]), "its `use` is \"enc\""),
        (
            set(&vec![oct(SECRET, &json!({ "kid": "a" })); 33]),
            "its JWK set has 33 keys, at most 32 are taken",
        ),
        (r#"{"keys":[],"keys":[{"kty":"oct"}]}"#.to_owned(), "it is no JWK set: duplicate field `keys`"),
        (
            r#"{"keys":{"kty":"oct"}}"#.to_owned(),
            "it is no JWK set: `keys`: invalid type: object, expected a list",
        ),
    ] {
        let error = read(Alg::Hs256, &text).map(|_| ()).unwrap_err();
        assert!(error.ends_with(&format!("cannot be a key for HS256: {expected}")), "{error}");
    }
}

#[test]
fn a_file_of_any_size_and_depth_is_read_or_refused_at_once() {
    let good = oct(SECRET, &json!({ "kid": "a" }));
    let filled = |bytes: usize| {
        let mut key = good.clone();
        key["x5c"] = json!(["A".repeat(bytes)]);
        set(&[key])
    };
    assert!(read(Alg::Hs256, &filled(200 << 10)).is_ok(), "certificates take their room");
    let error = read(Alg::Hs256, &filled(1 << 20)).map(|_| ()).unwrap_err();
    assert!(error.ends_with("is larger than 262144 bytes"), "{error}");
    let many: Vec<Value> = (0..1000).map(|n| oct(SECRET, &json!({ "kid": n.to_string() }))).collect();
    let error = read(Alg::Hs256, &set(&many)).map(|_| ()).unwrap_err();
    assert!(error.ends_with("its JWK set has 1000 keys, at most 32 are taken"), "{error}");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let whole = set(&[good]);
    for text in [
        format!(r#"{{"more":{deep},{}"#, &whole[1..]),
        whole.replacen(r#"{"k""#, &format!(r#"{{"more":{deep},"k""#), 1),
    ] {
        let (verifier, warnings) = read(Alg::Hs256, &text).unwrap();
        assert_eq!((warnings.len(), code(&verifier, &hmac(r#"{"alg":"HS256"}"#, SECRET))), (0, "fine"));
    }
}

#[test]
fn a_file_whose_keys_changed_is_noticed() {
    let scratch = Scratch::new();
    let mut auth = auth();
    let file = scratch.write("set", set(&[oct(SECRET, &json!({ "kid": "a" }))]), 0o600);
    auth.keys = vec![KeyFile { alg: Alg::Hs256, file: file.clone(), kid: None }];
    let old = Verifier::open(&auth, &scratch.0).unwrap();
    fs::write(&file, set(&[oct(OTHER, &json!({ "kid": "b" }))])).unwrap();
    let new = Verifier::open(&auth, &scratch.0).unwrap();
    let [a, b] = [hmac(r#"{"alg":"HS256","kid":"a"}"#, SECRET), hmac(r#"{"alg":"HS256","kid":"b"}"#, OTHER)];
    assert_eq!([code(&old, &a), code(&old, &b)], ["fine", "token_invalid"]);
    assert_eq!([code(&new, &a), code(&new, &b)], ["token_invalid", "fine"]);
}

#[cfg(feature = "public-keys")]
mod public {
    use super::*;

    const KEYCLOAK: &str = include_str!("keys/keycloak.json");
    const ALL: &str = include_str!("keys/jwks.json");

    fn rsa() -> EncodingKey {
        EncodingKey::from_rsa_pem(include_bytes!("keys/rs256.pem")).unwrap()
    }

    /// The key of this place in [`ALL`], with other members.
    fn changed(number: usize, more: &Value) -> Value {
        let mut key = serde_json::from_str::<Value>(ALL).unwrap()["keys"][number].clone();
        for (name, value) in more.as_object().unwrap() {
            key[name] = value.clone();
        }
        key
    }

    #[test]
    fn a_set_of_keycloak_verifies_with_its_signing_key() {
        let (verifier, warnings) = read(Alg::Rs256, KEYCLOAK).unwrap();
        let named = "`kid` \"Lg8RtUa0yiOBbXbPbqXUwGvYuqDcEBqdXWXJ0Bqm\"";
        assert_eq!(warnings, [format!("key 1 of the JWK set, {named}, is skipped: its `use` is \"enc\"")]);
        let header = r#"{"alg":"RS256","typ":"JWT","kid":"iAlIDuZbVVcWuvzhdBqeXcSa4wKY1Bdmd6nmzgAwXPs"}"#;
        assert_eq!(code(&verifier, &signed(header, claims(), &rsa(), Algorithm::RS256)), "fine");
        // With the other one's name, which is of the same numbers here.
        let header = r#"{"alg":"RS256","kid":"Lg8RtUa0yiOBbXbPbqXUwGvYuqDcEBqdXWXJ0BqmV2s"}"#;
        let token = signed(header, claims(), &rsa(), Algorithm::RS256);
        assert_eq!(code(&verifier, &token), "token_invalid");
        let message = verifier.check(&token, now()).message.unwrap();
        assert!(message.contains("is skipped: its `use` is \"enc\""), "{message}");
    }

    #[test]
    fn a_token_without_a_kid_is_tried_with_four_public_keys_at_most() {
        let key = EncodingKey::from_ec_pem(include_bytes!("keys/es384.pem")).unwrap();
        let keys = |count: usize| -> Vec<Value> {
            (0..count).map(|n| changed(2, &json!({ "kid": format!("k{n}"), "alg": "ES384" }))).collect()
        };
        let token = |header: &str| signed(header, claims(), &key, Algorithm::ES384);
        let (nameless, named) = (token(r#"{"alg":"ES384"}"#), token(r#"{"alg":"ES384","kid":"k1"}"#));
        let forged = token(r#"{"alg":"ES384","typ":"JWT"}"#).rsplit_once('.').unwrap().0.to_owned();
        let forged = format!("{forged}.{}", nameless.rsplit_once('.').unwrap().1);
        for count in [2, 4] {
            let (verifier, _) = read(Alg::Es384, &set(&keys(count))).unwrap();
            assert_eq!([&nameless, &named].map(|token| code(&verifier, token)), ["fine"; 2], "of {count}");
        }
        for count in [5, 32] {
            let (verifier, warnings) = read(Alg::Es384, &set(&keys(count))).unwrap();
            assert_eq!((code(&verifier, &named), warnings.len()), ("fine", 0));
            for token in [&nameless, &forged] {
                let fault = verifier.verify(token, now()).unwrap_err();
                assert_eq!((fault.code, fault.reason.word()), ("token_invalid", "token_key"));
                assert_eq!(
                    fault.message,
                    "the header has no `kid`, and more keys fit the token's `alg` than are tried"
                );
                let message = verifier.check(token, now()).message.unwrap();
                let expected =
                    [&*format!("{count} keys of ES384 may"), "at most 4 are tried", "put the `kid`"];
                assert!(expected.iter().all(|expected| message.contains(expected)), "{message}");
            }
        }
        // Secrets cost nothing, and are all tried.
        let secrets: Vec<Value> = (0..32).map(|n| oct(&format!("{OTHER} {n}"), &json!({}))).collect();
        let (verifier, _) = read(Alg::Hs256, &set(&secrets)).unwrap();
        assert_eq!(code(&verifier, &hmac(r#"{"alg":"HS256"}"#, &format!("{OTHER} 31"))), "fine");
    }

    #[test]
    fn unreachable_public_keys_are_warned_about() {
        let pem = include_str!("keys/es256.pub.pem");
        for (count, warned) in [(4, false), (5, true)] {
            let verifier = verifier(&vec![(Alg::Es256, pem, None); count]).unwrap();
            let warnings: Vec<String> = verifier.warnings().collect();
            assert_eq!(warnings.len(), usize::from(warned), "{warnings:?}");
            assert!(
                !warned || warnings[0].starts_with("5 of the 5 keys of ES256 have no `kid`"),
                "{warnings:?}"
            );
        }
    }

    #[test]
    fn each_algorithm_finds_its_keys_in_one_set() {
        let scratch = Scratch::new();
        let file = scratch.write("set", ALL, 0o644);
        let mut auth = auth();
        let ec = EncodingKey::from_ec_pem(include_bytes!("keys/es256.pem")).unwrap();
        let longer = EncodingKey::from_ec_pem(include_bytes!("keys/es384.pem")).unwrap();
        let ed = EncodingKey::from_ed_pem(include_bytes!("keys/eddsa.pem")).unwrap();
        let makers = [
            (Alg::Rs256, Algorithm::RS256, rsa(), "rsa"),
            (Alg::Ps256, Algorithm::PS256, rsa(), "rsa"),
            (Alg::Es256, Algorithm::ES256, ec, "p256"),
            (Alg::Es384, Algorithm::ES384, longer, "p384"),
            (Alg::EdDsa, Algorithm::EdDSA, ed, "ed"),
        ];
        let token = |kid: &str, maker: &(Alg, Algorithm, EncodingKey, &str)| {
            let header = json!({ "alg": maker.0.name(), "kid": kid }).to_string();
            signed(&header, claims(), &maker.2, maker.1)
        };
        for maker in &makers {
            auth.keys = vec![KeyFile { alg: maker.0, file: file.clone(), kid: None }];
            let verifier = Verifier::open(&auth, &scratch.0).unwrap();
            assert_eq!(code(&verifier, &token(maker.3, maker)), "fine", "{:?}", maker.0);
            assert_eq!(verifier.warnings().count(), 3, "the others are of no use for {:?}", maker.0);
            for other in makers.iter().filter(|other| other.0 != maker.0) {
                assert_eq!(code(&verifier, &token(other.3, other)), "token_invalid", "{:?}", other.0);
            }
        }
        // What one entry skips another one uses: nothing is left to be warned of.
        auth.keys =
            makers.iter().map(|maker| KeyFile { alg: maker.0, file: file.clone(), kid: None }).collect();
        let verifier = Verifier::open(&auth, &scratch.0).unwrap();
        assert_eq!(verifier.warnings().collect::<Vec<_>>(), [""; 0]);
        for maker in &makers {
            assert_eq!(code(&verifier, &token(maker.3, maker)), "fine", "{:?}", maker.0);
        }
    }

    #[test]
    fn numbers_that_are_no_key_are_reported() {
        let even = "AQAA";
        let short = URL_SAFE_NO_PAD.encode([0xc1; 128]);
        let long = URL_SAFE_NO_PAD.encode([0xc1; 513]);
        let zero = "A".repeat(43);
        for (alg, number, more, expected) in [
            (Alg::Rs256, 0, json!({ "e": "AQ" }), "its numbers are no key of RSA"),
            (Alg::Rs256, 0, json!({ "e": "" }), "its numbers are no key of RSA"),
            (Alg::Rs256, 0, json!({ "e": even }), "its numbers are no key of RSA"),
            (Alg::Rs256, 0, json!({ "e": "gAAAAAAAAAE" }), "its numbers are no key of RSA"),
            (Alg::Rs256, 0, json!({ "n": short }), "it has less than 2048 bits"),
            (Alg::Rs256, 0, json!({ "n": "" }), "it has less than 2048 bits"),
            (Alg::Ps512, 0, json!({ "n": long }), "it has more than 4096 bits"),
            (Alg::Rs256, 0, json!({ "n": "+/==" }), "its `n` is not base64url without padding"),
            (Alg::Rs256, 0, json!({ "e": null }), "it has no `e`"),
            (Alg::Rs256, 0, json!({ "e": 65537 }), "`e`: invalid type: integer `65537`, expected a string"),
            (
                Alg::Rs256,
                0,
                json!({ "key_ops": "verify" }),
                "it cannot be read: `key_ops`: invalid type: string \"verify\", expected a list",
            ),
            (Alg::Rs384, 0, json!({ "alg": "RS256" }), "its `alg` is \"RS256\""),
            (Alg::Es256, 1, json!({ "x": zero }), "its numbers are no point of its curve"),
            (Alg::Es256, 1, json!({ "y": "AQAB" }), "its numbers are no point of its curve"),
            (Alg::Es256, 1, json!({ "crv": "P-384" }), "its `crv` is \"P-384\""),
            (Alg::Es256, 2, json!({ "crv": "P-256" }), "its numbers are no point of its curve"),
            (Alg::Es384, 1, json!({}), "its `crv` is \"P-256\""),
            (Alg::Es256, 1, json!({ "crv": "secp256k1" }), "its `crv` is \"secp256k1\""),
            (Alg::Es256, 1, json!({ "crv": null }), "it has no `crv`"),
            (Alg::EdDsa, 3, json!({ "crv": "X25519" }), "its `crv` is \"X25519\""),
            (Alg::EdDsa, 3, json!({ "x": "AQAB" }), "its numbers are no point of its curve"),
            (Alg::EdDsa, 3, json!({ "kty": "EC" }), "its `kty` is \"EC\""),
        ] {
            assert_eq!(refusal(alg, &changed(number, &more)), expected, "{alg:?} {more}");
        }
        assert_eq!(refusal(Alg::Rs256, &oct(SECRET, &json!({}))), "its `kty` is \"oct\"");
    }

    #[test]
    fn a_private_key_in_a_public_set_is_refused_with_a_cure() {
        for private in [changed(0, &json!({ "d": "AQAB", "use": "enc" })), changed(3, &json!({ "d": null }))]
        {
            let text = set(&[changed(1, &json!({})), private]);
            let error = read(Alg::Es256, &text).map(|_| ()).unwrap_err();
            let expected =
                "it holds a private key (a JWK with `d`), and the public one is wanted: leave out `d`";
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_public_key_is_refused_as_a_secret_in_any_form() {
        // Whoever knows the public key signs with its text, or its numbers, as HMAC does.
        let key: Value = changed(0, &json!({}));
        let n = URL_SAFE_NO_PAD.decode(key["n"].as_str().unwrap()).unwrap();
        let pem = include_str!("keys/rs256.pub.pem");
        let der =
            STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
        let texts: [&[u8]; 7] = [
            pem.as_bytes(),
            pem.trim_end().as_bytes(),
            ALL.as_bytes(),
            ALL.trim_end().as_bytes(),
            key["n"].as_str().unwrap().as_bytes(),
            &n,
            &der,
        ];
        let one = verifier(&[(Alg::Rs256, pem, None)]).unwrap();
        let of_set = verifier(&[(Alg::Rs256, ALL, None)]).unwrap();
        let both = verifier(&[(Alg::Hs256, SECRET, Some("mac")), (Alg::Rs256, ALL, None)]).unwrap();
        for text in texts {
            let secret = EncodingKey::from_secret(text);
            for alg in ["HS256", "RS256", "PS256"] {
                for kid in [
                    json!(null),
                    json!("rsa"),
                    json!("mac"),
                    json!("../../../dev/null"),
                    json!("' OR 1=1 --"),
                ] {
                    let header = json!({ "alg": alg, "kid": kid }).to_string();
                    let token = signed(&header, claims(), &secret, Algorithm::HS256);
                    for verifier in [&one, &of_set, &both] {
                        assert_eq!(code(verifier, &token), "token_invalid", "{header}");
                    }
                }
            }
        }
        // Nor does a token bring its own key.
        let own = json!({ "alg": "RS256", "jwk": changed(1, &json!({})), "jku": "http://127.0.0.1:1/", "x5c": ["MAA="] });
        let ec = EncodingKey::from_ec_pem(include_bytes!("keys/es256.pem")).unwrap();
        assert_eq!(
            code(&of_set, &signed(&own.to_string(), claims(), &ec, Algorithm::ES256)),
            "token_invalid"
        );
    }

    #[test]
    fn a_providers_key_mints_no_tokens() {
        let (verifier, _) = read(Alg::Rs256, KEYCLOAK).unwrap();
        let user = wshubd::protocol::UserId::new("ada").unwrap();
        assert!(
            verifier
                .mint(
                    &user,
                    std::time::Duration::from_secs(9),
                    &wshubd::protocol::MintTerms::default(),
                    now()
                )
                .is_err()
        );
    }
}
