//! Signatures and claims.

use std::rc::Rc;
use std::time::Duration;

#[cfg(feature = "public-keys")]
use base64::Engine;
#[cfg(feature = "public-keys")]
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::json;
use wshubd::config::Alg;
use wshubd::edge::auth::mint::MintError;
use wshubd::features::PUBLIC_KEYS;
use wshubd::hub::{Identity, Pattern};
use wshubd::protocol::{Grant, MintTerms, UnixTime, UserId};

use crate::keys::{NOW, SECRET, hs256, now, signed, spelled, spelled_in, token, verifier};

fn code(result: Result<Identity, wshubd::hub::TokenFault>) -> &'static str {
    result.map_or_else(|fault| fault.code, |_| "fine")
}

#[test]
fn a_minted_token_is_valid_until_it_ends() {
    let verifier = hs256();
    let user = UserId::new("ada \"é\"").unwrap();
    let (token, expires_at) =
        verifier.mint(&user, Duration::from_secs(60), &MintTerms::default(), now()).unwrap();
    assert_eq!(expires_at, UnixTime::from_secs(NOW + 60));
    let identity = verifier.verify(&token, now()).unwrap();
    assert_eq!(identity.user_id, user);
    assert_eq!(identity.expires_at, Some(expires_at));
    let last = UnixTime(expires_at.0 - 1);
    assert_eq!(code(verifier.verify(&token, last)), "fine");
    assert_eq!(code(verifier.verify(&token, expires_at)), "token_expired");
    assert_eq!(code(verifier.verify(&token, UnixTime(u64::MAX))), "token_expired");
}

#[test]
fn a_token_shown_again_is_not_verified_again_but_ends() {
    let verifier = hs256();
    let shown = token(&json!({ "sub": "ada", "exp": NOW + 60, "wshub": { "subscribe": ["a:*"] } }));
    let first = verifier.verify(&shown, now()).unwrap().rights.unwrap();
    let again = verifier.verify(&shown, now()).unwrap().rights.unwrap();
    assert!(Rc::ptr_eq(&first, &again), "it was read again");
    assert_eq!(code(verifier.verify(&shown[..shown.len() - 1], now())), "token_invalid");
    assert_eq!(code(verifier.verify(&shown, UnixTime::from_secs(NOW + 60))), "token_expired");
    assert_eq!(code(verifier.verify(&shown, now())), "fine", "the clock was set back");
    // Of very many some are forgotten, and read again.
    for n in 0..2000 {
        let other = token(&json!({ "sub": format!("user{n}"), "exp": NOW + 60 }));
        assert_eq!(verifier.verify(&other, now()).unwrap().user_id.as_str(), format!("user{n}"));
    }
    assert_eq!(code(verifier.verify(&shown, now())), "fine");
}

#[test]
fn a_token_is_minted_with_exactly_the_given_rights() {
    let (verifier, user) = (hs256(), UserId::new("ada").unwrap());
    let grant = Grant { subscribe: vec!["logs:*".into()], admin: true, ..Grant::default() };
    let (token, _) = verifier
        .mint(
            &user,
            Duration::from_secs(60),
            &MintTerms { grant: Some(grant), ..MintTerms::default() },
            now(),
        )
        .unwrap();
    let rights = verifier.verify(&token, now()).unwrap().rights.unwrap();
    assert_eq!(rights.subscribe, [Pattern::new("logs:*")]);
    assert!(rights.publish.is_empty() && rights.interrupt.is_empty() && rights.admin);
    let (token, _) = verifier.mint(&user, Duration::from_secs(60), &MintTerms::default(), now()).unwrap();
    assert!(verifier.verify(&token, now()).unwrap().rights.is_none(), "the configuration says");
    for patterns in [vec!["a".to_owned(); 33], vec!["a".repeat(1025)]] {
        let grant = Grant { interrupt: patterns, ..Grant::default() };
        let refused = verifier
            .mint(
                &user,
                Duration::from_secs(60),
                &MintTerms { grant: Some(grant), ..MintTerms::default() },
                now(),
            )
            .unwrap_err();
        assert!(refused.to_string().contains("are taken"), "{refused}");
    }
}

#[test]
fn a_user_may_be_a_whole_number_however_it_is_spelled() {
    for (number, user) in [
        ("42", "42"),
        ("42.0", "42"),
        ("4.2e1", "42"),
        ("-7", "-7"),
        ("18446744073709551615", "18446744073709551615"),
    ] {
        let claims = format!(r#"{{"sub":{number},"exp":{}}}"#, NOW + 60);
        let identity = hs256().verify(&spelled(&claims), now()).unwrap();
        assert_eq!(identity.user_id.as_str(), user, "{number}");
    }
}

#[test]
fn a_token_must_live_for_a_while_but_not_for_ever() {
    let user = UserId::new("ada").unwrap();
    for ttl in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(1 << 40), Duration::MAX] {
        assert_eq!(hs256().mint(&user, ttl, &MintTerms::default(), now()), Err(MintError::Ttl), "{ttl:?}");
    }
}

/// Who signs, with what, and what verifies it.
fn pairs() -> Vec<(Alg, Algorithm, EncodingKey, &'static str)> {
    let secret = || EncodingKey::from_secret(SECRET.as_bytes());
    let mut pairs = vec![
        (Alg::Hs256, Algorithm::HS256, secret(), SECRET),
        (Alg::Hs384, Algorithm::HS384, secret(), SECRET),
        (Alg::Hs512, Algorithm::HS512, secret(), SECRET),
    ];
    if !PUBLIC_KEYS.is_built_in {
        return pairs;
    }
    let rsa = EncodingKey::from_rsa_pem(include_bytes!("keys/rs256.pem")).unwrap();
    let ec = EncodingKey::from_ec_pem(include_bytes!("keys/es256.pem")).unwrap();
    let ed = EncodingKey::from_ed_pem(include_bytes!("keys/eddsa.pem")).unwrap();
    pairs.extend([
        (Alg::Rs256, Algorithm::RS256, rsa, include_str!("keys/rs256.pub.pem")),
        (Alg::Es256, Algorithm::ES256, ec, include_str!("keys/es256.pub.pem")),
        (Alg::EdDsa, Algorithm::EdDSA, ed, include_str!("keys/eddsa.pub.pem")),
    ]);
    for (alg, algorithm) in [
        (Alg::Rs384, Algorithm::RS384),
        (Alg::Rs512, Algorithm::RS512),
        (Alg::Ps256, Algorithm::PS256),
        (Alg::Ps384, Algorithm::PS384),
        (Alg::Ps512, Algorithm::PS512),
    ] {
        let rsa = EncodingKey::from_rsa_pem(include_bytes!("keys/rs256.pem")).unwrap();
        pairs.push((alg, algorithm, rsa, include_str!("keys/rs256.pub.pem")));
    }
    let longer = EncodingKey::from_ec_pem(include_bytes!("keys/es384.pem")).unwrap();
    pairs.push((Alg::Es384, Algorithm::ES384, longer, include_str!("keys/es384.pub.pem")));
    assert_eq!(pairs.len(), Alg::NAMES.len());
    pairs
}

#[test]
fn every_algorithm_is_verified_and_none_stands_in_for_another() {
    let claims = json!({ "sub": "ada", "exp": NOW + 9 }).to_string();
    let pairs = pairs();
    let own = |(alg, algorithm, private, _): &(Alg, Algorithm, EncodingKey, &str)| {
        signed(&json!({ "alg": alg.name() }).to_string(), &claims, private, *algorithm)
    };
    let tokens: Vec<String> = pairs.iter().map(own).collect();
    for (configured, _, _, public) in &pairs {
        let configured = *configured;
        let verifier = verifier(&[(configured, public, None)]).unwrap();
        for ((alg, algorithm, private, _), token) in pairs.iter().zip(&tokens) {
            let (alg, algorithm) = (*alg, *algorithm);
            let expected = if alg == configured { "fine" } else { "token_invalid" };
            assert_eq!(code(verifier.verify(token, now())), expected, "{alg:?} for {configured:?}");
            // The right name on another's signature. Those of RSA take their time.
            if matches!(alg, Alg::Rs384 | Alg::Rs512 | Alg::Ps384 | Alg::Ps512) {
                continue;
            }
            let header = json!({ "alg": configured.name() }).to_string();
            let token = signed(&header, &claims, private, algorithm);
            assert_eq!(code(verifier.verify(&token, now())), expected, "{alg:?} as {configured:?}");
        }
        // The public key taken for a secret (algorithm confusion).
        let public = EncodingKey::from_secret(public.trim_end().as_bytes());
        if configured.name().starts_with("HS") {
            continue;
        }
        for name in ["HS256", configured.name()] {
            let header = json!({ "alg": name }).to_string();
            let token = signed(&header, &claims, &public, Algorithm::HS256);
            assert_eq!(code(verifier.verify(&token, now())), "token_invalid", "{configured:?} {name}");
        }
    }
}

#[cfg(feature = "public-keys")]
#[test]
fn public_keys_mint_nothing() {
    let (alg, _, _, public) = pairs().remove(5);
    let verifier = verifier(&[(alg, public, None)]).unwrap();
    let minted =
        verifier.mint(&UserId::new("ada").unwrap(), Duration::from_secs(9), &MintTerms::default(), now());
    assert_eq!(minted, Err(MintError::NoSecretKey));
}

#[cfg(feature = "public-keys")]
#[test]
fn public_key_files_may_have_text_long_lines_and_pkcs1() {
    let lines = |pem: &str| -> String { pem.lines().filter(|line| !line.starts_with('-')).collect() };
    let rsa = lines(include_str!("keys/rs256.pub.pem"));
    let der = STANDARD.decode(&rsa).unwrap();
    // What is around the key of RSA in the newer form names the algorithm.
    let older = STANDARD.encode(&der[24..]);
    let text = |label: &str, lines: &str| {
        format!("ours\r\n-----BEGIN {label}-----\r\n{lines}\r\n-----END {label}-----\r\n")
    };
    let files = [
        (3, text("PUBLIC KEY", &rsa)),
        (3, text("RSA PUBLIC KEY", &older)),
        (4, text("PUBLIC KEY", &lines(include_str!("keys/es256.pub.pem")))),
        (5, text("PUBLIC KEY", &lines(include_str!("keys/eddsa.pub.pem")))),
    ];
    let claims = json!({ "sub": "ada", "exp": NOW + 9 }).to_string();
    for (number, file) in files {
        let (alg, algorithm, private, _) = pairs().remove(number);
        let token = signed(&json!({ "alg": alg.name() }).to_string(), &claims, &private, algorithm);
        let verifier = verifier(&[(alg, &file, None)]).unwrap();
        assert_eq!(code(verifier.verify(&token, now())), "fine", "{file}");
    }
}

#[test]
fn a_key_is_chosen_by_its_id_or_tried_in_turn() {
    let [old, new, other] = ["old", "new", "other"].map(|name| name.repeat(16));
    let (old, new, other) = (&old[..48], &new[..48], &other[..48]);
    let verifier = verifier(&[
        (Alg::Hs256, new, Some("new")),
        (Alg::Hs256, old, Some("old")),
        (Alg::Hs384, other, Some("other")),
    ])
    .unwrap();
    let claims = json!({ "sub": "ada", "exp": NOW + 9 }).to_string();
    let long = "k".repeat(2000);
    let cases = [
        (json!({ "alg": "HS256" }), new, "fine"),
        (json!({ "alg": "HS256" }), old, "fine"),
        (json!({ "alg": "HS256", "kid": null }), old, "fine"),
        (json!({ "alg": "HS256" }), other, "token_invalid"),
        (json!({ "alg": "HS256", "kid": "old" }), old, "fine"),
        (json!({ "alg": "HS256", "kid": "new" }), old, "token_invalid"),
        (json!({ "alg": "HS256", "kid": "other" }), other, "token_invalid"),
        (json!({ "alg": "HS256", "kid": "unknown" }), new, "token_invalid"),
        (json!({ "alg": "HS256", "kid": "" }), new, "token_invalid"),
        (json!({ "alg": "HS256", "kid": "../../x" }), new, "token_invalid"),
        (json!({ "alg": "HS256", "kid": 1 }), new, "token_invalid"),
        (json!({ "alg": "HS256", "kid": long }), new, "token_invalid"),
    ];
    for (header, secret, expected) in cases {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = signed(&header.to_string(), &claims, &key, Algorithm::HS256);
        assert_eq!(code(verifier.verify(&token, now())), expected, "{header}");
    }
    let (minted, _) = verifier
        .mint(&UserId::new("ada").unwrap(), Duration::from_secs(9), &MintTerms::default(), now())
        .unwrap();
    assert_eq!(code(verifier.verify(&minted, now())), "fine");
}

#[test]
fn a_single_key_without_a_name_takes_tokens_with_any_kid() {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({ "sub": "ada", "exp": NOW + 9 }).to_string();
    let token = signed(r#"{"alg":"HS256","kid":"1yUEBB8bC"}"#, &claims, &key, Algorithm::HS256);
    let other = "another secret of more than thirty-two bytes";
    for (keys, expected) in [
        (vec![(Alg::Hs256, SECRET, None)], "fine"),
        (vec![(Alg::Hs256, SECRET, Some("a"))], "token_invalid"),
        (vec![(Alg::Hs256, SECRET, None), (Alg::Hs256, other, None)], "token_invalid"),
        (vec![(Alg::Hs256, SECRET, None), (Alg::Hs384, SECRET, Some("a"))], "token_invalid"),
        (vec![(Alg::Hs384, SECRET, None)], "token_invalid"),
        (vec![(Alg::Hs256, other, None)], "token_invalid"),
    ] {
        let verifier = verifier(&keys).unwrap();
        assert_eq!(code(verifier.verify(&token, now())), expected, "{keys:?}");
    }
}

#[cfg(feature = "public-keys")]
#[test]
fn eddsa_has_two_names_and_others_one() {
    let claims = json!({ "sub": "ada", "exp": NOW + 9 }).to_string();
    for (number, name, expected) in
        [(5, "Ed25519", "fine"), (5, "Ed448", "token_invalid"), (0, "Ed25519", "token_invalid")]
    {
        let (alg, algorithm, private, public) = pairs().remove(number);
        let token = signed(&json!({ "alg": name }).to_string(), &claims, &private, algorithm);
        let verifier = verifier(&[(alg, public, None)]).unwrap();
        assert_eq!(code(verifier.verify(&token, now())), expected, "{name} for {alg:?}");
    }
}

#[cfg(feature = "public-keys")]
#[test]
fn a_certificate_stands_for_its_key_whatever_its_dates() {
    // Of the third version with extensions, and of the first without.
    let files = [
        (3, include_str!("keys/rs256.cert.pem")),
        (4, include_str!("keys/es256.cert.pem")),
        (5, include_str!("keys/eddsa.cert.pem")),
        (11, include_str!("keys/es384.cert.pem")),
    ];
    let claims = json!({ "sub": "ada", "exp": NOW + 9 }).to_string();
    for (number, file) in files {
        let (alg, algorithm, private, _) = pairs().remove(number);
        let token = signed(&json!({ "alg": alg.name() }).to_string(), &claims, &private, algorithm);
        let certified = verifier(&[(alg, file, None)]).unwrap();
        assert_eq!(code(certified.verify(&token, now())), "fine", "{alg:?}");
        let other = if alg == Alg::EdDsa { Alg::Es256 } else { Alg::EdDsa };
        let error = verifier(&[(other, file, None)]).unwrap_err();
        assert!(error.ends_with("it holds no public key of this kind in PEM"), "{error}");
    }
    // Cut anywhere, it is none, and nothing else happens.
    let whole = STANDARD
        .decode(
            include_str!("keys/es256.cert.pem")
                .lines()
                .filter(|line| !line.starts_with('-'))
                .collect::<String>(),
        )
        .unwrap();
    for length in 0..whole.len() {
        let text = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            STANDARD.encode(&whole[..length])
        );
        assert!(verifier(&[(Alg::Es256, &text, None)]).is_err(), "{length}");
    }
}

#[test]
fn text_that_is_no_token_is_refused() {
    let verifier = hs256();
    let good = token(&json!({ "sub": "ada", "exp": NOW + 9 }));
    let parts: Vec<&str> = good.split('.').collect();
    let (message, _) = good.rsplit_once('.').unwrap();
    let none = "eyJhbGciOiJub25lIn0"; // {"alg":"none"}
    let mut wrong = vec![
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        "....".to_owned(),
        "é.é.é".to_owned(),
        message.to_owned(),
        format!("{message}."),
        format!("{good}."),
        format!("{good}.x"),
        format!("{good}="),
        format!("{good}A"),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("x.{good}"),
        good.to_uppercase(),
        "A".repeat(4097),
        "A".repeat(1 << 20),
    ];
    // One bit of the payload, and of the signature.
    wrong.push(good.replacen(parts[1], &parts[1].replacen('e', "f", 1), 1));
    let last = if parts[2].starts_with('A') { "B" } else { "A" };
    wrong.push(format!("{message}.{last}{}", &parts[2][1..]));
    for text in wrong {
        let shown: String = text.chars().take(99).collect();
        assert_eq!(code(verifier.verify(&text, now())), "token_invalid", "{shown:?}");
    }
    assert_eq!(code(verifier.verify(&good, now())), "fine");
}

#[test]
fn a_header_that_asks_for_more_is_refused() {
    let verifier = hs256();
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({ "sub": "ada", "exp": NOW + 9 }).to_string();
    let nested = format!(r#"{{"alg":"HS256","x":{}{}}}"#, "[".repeat(900), "]".repeat(900));
    let cases = [
        (r#"{"alg":"HS256","typ":"JWT","cty":"x","jku":"http://evil.example"}"#, "fine"),
        (r#"{"alg":"HS256","crit":["b64"]}"#, "token_invalid"),
        (r#"{"alg":"HS256","crit":[]}"#, "token_invalid"),
        (r#"{"alg":"HS256","crit":null}"#, "token_invalid"),
        (r#"{"alg":"HS256","alg":"HS256"}"#, "token_invalid"),
        (r#"{"alg":"HS256","kid":null,"kid":"a"}"#, "token_invalid"),
        (r#"{"alg":"hs256"}"#, "token_invalid"),
        (r#"{"alg":"HS512"}"#, "token_invalid"),
        (r#"{"alg":null}"#, "token_invalid"),
        (r#"{"alg":["HS256"]}"#, "token_invalid"),
        (r#"{}"#, "token_invalid"),
        (r#"["HS256",null,null]"#, "token_invalid"),
        (r#""HS256""#, "token_invalid"),
        ("", "token_invalid"),
        (r#"{"alg":"HS256"} x"#, "token_invalid"),
        (&nested, "fine"),
    ];
    for (header, expected) in cases {
        let token = signed(header, &claims, &key, Algorithm::HS256);
        assert_eq!(code(verifier.verify(&token, now())), expected, "{header}");
    }
}

#[test]
fn exp_is_required_and_must_be_a_time() {
    let verifier = hs256();
    let fine = ["1750000001", "1750000001.0", "1750000000.25", "1.750000001e9", "253402300799"];
    let wrong = [
        "null",
        "\"1750000001\"",
        "-1",
        "-0.0",
        "-0.5",
        "1e18",
        "1e400",
        "253402300800",
        "18446744073709551615",
        "18446744073709551616",
        "[1750000001]",
        "{}",
        "true",
    ];
    for exp in fine {
        let token = spelled(&format!(r#"{{"sub":"ada","exp":{exp}}}"#));
        assert_eq!(code(verifier.verify(&token, now())), "fine", "{exp}");
    }
    for exp in wrong {
        let token = spelled(&format!(r#"{{"sub":"ada","exp":{exp}}}"#));
        assert_eq!(code(verifier.verify(&token, now())), "token_invalid", "{exp}");
    }
    assert_eq!(code(verifier.verify(&spelled(r#"{"sub":"ada"}"#), now())), "token_invalid");
    assert_eq!(code(verifier.verify(&spelled(r#"{"sub":"ada","exp":0}"#), now())), "token_expired");
}

#[test]
fn nbf_may_be_a_little_ahead() {
    let verifier = hs256();
    let cases = [
        (json!(NOW), "fine"),
        (json!(NOW + 5), "fine"),
        (json!(NOW + 6), "token_not_yet"),
        (json!(253_402_300_799_u64), "token_not_yet"),
        (json!(null), "fine"),
        (json!("soon"), "token_invalid"),
        (json!(1.5), "fine"),
        (json!(u64::MAX), "token_invalid"),
    ];
    for (nbf, expected) in cases {
        let token = token(&json!({ "sub": "ada", "exp": NOW + 9, "nbf": nbf }));
        assert_eq!(code(verifier.verify(&token, now())), expected, "{nbf}");
    }
}

#[test]
fn the_user_is_named_by_user_id_or_sub() {
    let user = |claims: &str| {
        let token = spelled(&format!(r#"{{"exp":{},{claims}}}"#, NOW + 9));
        let named = hs256().verify(&token, now()).map(|identity| identity.user_id.to_string());
        named.map_err(|fault| fault.code)
    };
    let long = "u".repeat(129);
    let cases = [
        (r#""sub":"ada""#.to_owned(), Ok("ada")),
        (
            r#""user_id":"ada","sub":"other","email":"a@b","iss":"i","aud":["x"],"iat":1"#.to_owned(),
            Ok("ada"),
        ),
        (r#""userId":"ada""#.to_owned(), Ok("ada")),
        (r#""user_id":null,"sub":"ada""#.to_owned(), Ok("ada")),
        (r#""user_id":42"#.to_owned(), Ok("42")),
        (r#""sub":18446744073709551615"#.to_owned(), Ok("18446744073709551615")),
        (r#""sub":-7"#.to_owned(), Ok("-7")),
        (r#""sub":1.5"#.to_owned(), Err("token_invalid")),
        (r#""sub":18446744073709551616"#.to_owned(), Err("token_invalid")),
        (r#""sub":"""#.to_owned(), Err("token_invalid")),
        (r#""sub":"a\nb""#.to_owned(), Err("token_invalid")),
        (r#""sub":["ada"]"#.to_owned(), Err("token_invalid")),
        (r#""sub":true"#.to_owned(), Err("token_invalid")),
        (r#""sub":null"#.to_owned(), Err("token_invalid")),
        (r#""name":"ada""#.to_owned(), Err("token_invalid")),
        (r#""sub":"ada","sub":"bob""#.to_owned(), Err("token_invalid")),
        (r#""user_id":"ada","userId":"bob""#.to_owned(), Err("token_invalid")),
        (r#""sub":"ada","exp":1750000099"#.to_owned(), Err("token_invalid")),
        // As identity providers make them.
        (r#""sub":"auth0|5f7c8ec7c33c6c004bbafe82""#.to_owned(), Ok("auth0|5f7c8ec7c33c6c004bbafe82")),
        (r#""sub":"ada@example.org""#.to_owned(), Ok("ada@example.org")),
        (
            r#""sub":"f:550e8400-e29b-41d4-a716-446655440000:ada""#.to_owned(),
            Ok("f:550e8400-e29b-41d4-a716-446655440000:ada"),
        ),
        (r#""sub":"https://id.example.org/u/7?x=1#me""#.to_owned(), Ok("https://id.example.org/u/7?x=1#me")),
        (r#""sub":"a*b {user_id}""#.to_owned(), Ok("a*b {user_id}")),
        (format!(r#""sub":"{long}""#), Err("token_invalid")),
    ];
    for (claims, expected) in cases {
        assert_eq!(user(&claims), expected.map(ToOwned::to_owned), "{claims}");
    }
    for claims in ["[1750000099]", "null", "\"x\"", "", "{"] {
        assert_eq!(code(hs256().verify(&spelled(claims), now())), "token_invalid", "{claims}");
    }
}

#[test]
fn all_claims_must_be_utf8() {
    // Latin-1, a surrogate, a character cut short: in a name, in a value, in what is nested.
    for wrong in [&[0xeb][..], &[0xed, 0xa0, 0x80], &[0xe2, 0x82]] {
        let places: [(&[u8], &[u8]); 5] = [
            (br#"{"exp":1750000099,"sub":"a"#, br#""}"#),
            (br#"{"exp":1750000099,"sub":"ada","iss":"a"#, br#""}"#),
            (br#"{"exp":1750000099,"sub":"ada","i"#, br#"":1}"#),
            (br#"{"exp":1750000099,"sub":"ada","more":{"a":["#, br#"]}}"#),
            (br#"{"exp":1750000099,"sub":"ada","wshub":{"x":"#, br#"}}"#),
        ];
        for (before, after) in places {
            let claims = [before, wrong, after].concat();
            let shown = String::from_utf8_lossy(&claims);
            assert_eq!(code(hs256().verify(&spelled_in(&claims), now())), "token_invalid", "{shown}");
        }
    }
}

#[test]
fn no_claim_may_come_twice() {
    for twice in [
        r#""iss":"a","iss":"a""#,
        r#""aud":1,"email":"x","aud":2"#,
        r#""nbf":1,"nbf":1"#,
        r#""wshub":{},"wshub":{}"#,
        r#""wshub":{"admin":false,"admin":true}"#,
        r#""wshub":{"more":1,"more":2}"#,
        r#""\u0073ub":"bob""#,
    ] {
        let token = spelled(&format!(r#"{{"exp":{},"sub":"ada",{twice}}}"#, NOW + 9));
        assert_eq!(code(hs256().verify(&token, now())), "token_invalid", "{twice}");
    }
}

#[test]
fn rights_come_from_the_token_or_the_configuration() {
    let verifier = hs256();
    let rights = |claim: serde_json::Value| {
        let token = token(&json!({ "sub": "ada", "exp": NOW + 9, "wshub": claim }));
        verifier.verify(&token, now()).map(|identity| identity.rights.unwrap())
    };
    let bare = token(&json!({ "sub": "ada", "exp": NOW + 9 }));
    assert_eq!(verifier.verify(&bare, now()).unwrap().rights, None, "the configuration says it then");

    let own = rights(json!({ "subscribe": ["logs:*"], "interrupt": ["a", "b"], "admin": true, "more": 1 }))
        .unwrap();
    assert_eq!(own.subscribe, [Pattern::new("logs:*")]);
    assert_eq!((own.publish.len(), own.interrupt.len(), own.admin), (0, 2, true));
    let none = rights(json!({})).unwrap();
    assert_eq!((none.subscribe.len(), none.publish.len(), none.admin), (0, 0, false), "unsaid is forbidden");

    let many = |count: usize| vec!["a"; count];
    assert!(rights(json!({ "subscribe": many(30), "publish": many(2) })).is_ok());
    assert!(rights(json!({ "subscribe": many(31), "publish": many(2) })).is_err());
    assert!(rights(json!({ "interrupt": ["a".repeat(1000), "a".repeat(24)] })).is_ok());
    assert!(rights(json!({ "interrupt": ["a".repeat(1000), "a".repeat(25)] })).is_err());
    for wrong in
        [json!([]), json!("*"), json!({ "subscribe": "*" }), json!({ "publish": [1] }), json!({ "admin": 1 })]
    {
        assert_eq!(rights(wrong.clone()).map_err(|fault| fault.code), Err("token_invalid"), "{wrong}");
    }
}

#[test]
fn errors_depend_only_on_verified_claims() {
    // Claims that would be refused in other ways, under another's signature.
    let key = EncodingKey::from_secret(b"somebody else's secret, thirty-two");
    let errors = |claims: serde_json::Value| {
        let token = signed(r#"{"alg":"HS256"}"#, claims.to_string(), &key, Algorithm::HS256);
        hs256().verify(&token, now()).unwrap_err()
    };
    let expected = errors(json!({ "sub": "ada", "exp": NOW + 9 }));
    assert_eq!(expected.code, "token_invalid");
    for claims in [json!({ "sub": "ada", "exp": 1 }), json!({ "exp": NOW + 9, "nbf": NOW + 8 }), json!([])] {
        assert_eq!(errors(claims), expected);
    }
}

#[test]
fn a_verifier_shows_no_key() {
    let shown = format!("{:?}", hs256());
    assert_eq!(shown, "Verifier(1)");
}
