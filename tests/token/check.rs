//! The report on a token for administrators.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use wshubd::config::Alg;
use wshubd::edge::auth::jwt::Verifier;
use wshubd::protocol::frame::TokenCheck;

use crate::keys::{NOW, SECRET, hs256, hs256_of, now, signed, spelled, spelled_in, token, verifier};

const OTHER: &str = "another secret of more than thirty-two bytes";

/// The code and the reason of a token that does not hold.
fn fault(verifier: &Verifier, token: &str) -> (&'static str, String) {
    let TokenCheck { valid, code, message, user_id, .. } = verifier.check(token, now());
    assert!(!valid && user_id.is_none(), "{token}");
    (code.unwrap(), message.unwrap())
}

fn of(header: Value, secret: &str) -> String {
    let claims = json!({ "sub": "ada", "exp": NOW + 9 }).to_string();
    signed(&header.to_string(), &claims, &EncodingKey::from_secret(secret.as_bytes()), Algorithm::HS256)
}

/// Two keys of one algorithm and one of another.
fn several() -> Verifier {
    let keys = [(Alg::Hs256, SECRET, Some("new")), (Alg::Hs256, OTHER, None)];
    verifier(&[keys[0], keys[1], (Alg::Hs512, &SECRET.repeat(2), Some("long"))]).unwrap()
}

#[test]
fn a_valid_token_shows_user_rights_and_their_origin() {
    let check = several().check(&of(json!({ "alg": "HS256", "kid": "new" }), SECRET), now());
    assert!(check.valid);
    assert_eq!((check.alg, check.kid.as_deref()), (Some("HS256"), Some("new")));
    assert_eq!(check.user_id.unwrap().as_str(), "ada");
    assert_eq!(check.expires_at.unwrap().0, (NOW + 9) * 1000);
    assert_eq!(check.rights.as_ref().unwrap().from, "configuration");

    let grant = json!({ "subscribe": ["logs:*"], "admin": true });
    let own = hs256().check(&token(&json!({ "sub": "ada", "exp": NOW + 9, "wshub": grant })), now());
    let rights = own.rights.unwrap();
    assert_eq!((rights.from, rights.admin), ("token", true));
    assert_eq!((rights.subscribe, rights.publish), (vec!["logs:*".to_owned()], Vec::new()));
}

#[test]
fn a_wrong_signature_is_reported_with_the_keys() {
    let verifier = several();
    let there = "there is HS256 with the `kid` \"new\", HS256 without a `kid`, HS512 with the `kid` \"long\"";
    let cases = [
        (json!({ "alg": "HS256" }), vec!["HS256 holds with none of the configured keys", there]),
        (json!({ "alg": "HS256", "kid": "new" }), vec!["does not hold with the key that its `kid` \"new\""]),
        (
            json!({ "alg": "HS256", "kid": "old" }),
            vec!["no key is configured for HS256 with", "\"old\"", there],
        ),
        (json!({ "alg": "RS256" }), vec!["no key is configured for RS256 without a `kid`", there]),
        (json!({ "alg": "none" }), vec!["the token is not signed"]),
        (json!({ "alg": "HS256", "crit": [] }), vec!["`crit`"]),
        (json!({ "kid": "new" }), vec!["header cannot be read: missing field `alg`"]),
    ];
    for (header, expected) in cases {
        let (code, message) = fault(&verifier, &of(header.clone(), "somebody else's secret, thirty-two"));
        assert_eq!(code, "token_invalid");
        assert!(expected.iter().all(|expected| message.contains(expected)), "{header}: {message}");
    }
}

#[test]
fn a_token_out_of_its_time_is_reported_with_how_far() {
    let ended = token(&json!({ "sub": "ada", "exp": NOW - 3720 }));
    let message = "the token ended at 2025-06-15T14:04:40.000Z, 1h 2m ago".to_owned();
    assert_eq!(fault(&hs256(), &ended), ("token_expired", message));
    let early = token(&json!({ "sub": "ada", "exp": NOW + 999, "nbf": NOW + 90 }));
    let message = "the token begins at 2025-06-15T15:08:10.000Z (`nbf`), in 1m 30s: do the clocks differ?";
    assert_eq!(fault(&hs256(), &early), ("token_not_yet", message.to_owned()));
    let duration = token(&json!({ "sub": "ada", "exp": 3600 }));
    let (code, message) = fault(&hs256(), &duration);
    assert!(code == "token_expired" && message.ends_with("and this looks like a duration"), "{message}");
}

#[test]
fn mistakes_in_claims_are_named() {
    let patterns = |count: usize, of: &str| json!({ "subscribe": vec![of; count] });
    let cases = [
        (json!({ "sub": "ada" }), "the claims have no `exp`"),
        (json!({ "sub": "ada" }), "`[auth] require_exp = false` takes tokens without"),
        (
            json!({ "sub": "ada", "exp": NOW * 1000 }),
            "`exp`: a time beyond the year 9999; claims count seconds, and these look like milliseconds",
        ),
        (json!({ "sub": "ada", "exp": NOW + 9, "nbf": NOW * 1000 }), "`nbf`: a time beyond the year 9999"),
        (
            json!({ "sub": "ada", "exp": "soon" }),
            "invalid type: string \"soon\", expected a number of seconds",
        ),
        (
            json!({ "sub": "ada", "exp": NOW + 9, "wshub": ["logs"] }),
            "invalid type: list, expected an object",
        ),
        (
            json!({ "sub": "ada", "exp": NOW + 9, "wshub": { "publish": {} } }),
            "invalid type: object, expected a list",
        ),
        (json!({ "exp": NOW + 9, "sub": 4.5 }), "expected text or a whole number"),
        (
            json!({ "exp": NOW + 9, "name": "ada" }),
            "the claims name no user: `user_id` or `sub`; there is \"exp\", \"name\"",
        ),
        (
            json!({ "exp": NOW + 9, "sub": "u".repeat(129) }),
            "`sub` is 129 bytes long, at most 128 are allowed",
        ),
        (json!({ "exp": NOW + 9, "sub": "" }), "a user is 1 to 128 bytes without control characters"),
        (json!({ "exp": NOW + 9, "sub": "" }), "`sub` is empty"),
        (json!({ "exp": NOW + 9, "sub": "a\u{ad}da" }), "`sub` contains '\\u{ad}', which is not allowed"),
        (json!({ "exp": NOW + 9, "user_id": "a\nb", "sub": "ada" }), "`user_id` contains '\\n'"),
        (
            json!({ "exp": NOW + 9, "sub": true }),
            "invalid type: boolean `true`, expected text or a whole number",
        ),
        (json!({ "exp": NOW + 9, "sub": "a", "wshub": patterns(40, "a") }), "has 40 patterns, at most 32"),
        (json!({ "exp": NOW + 9, "sub": "a", "wshub": patterns(20, &"a".repeat(99)) }), "have 1980 bytes"),
    ];
    for (claims, expected) in cases {
        let (code, message) = fault(&hs256(), &token(&claims));
        assert_eq!(code, "token_invalid");
        assert!(message.contains(expected) && !message.contains("column"), "{claims}: {message}");
    }
    assert!(fault(&hs256(), &spelled("[]")).1.contains("the claims cannot be read"));
    let within = spelled(&format!(r#"{{"sub":"ada","exp":{},"wshub":{{"publish":7}}}}"#, NOW + 9));
    let expected =
        "the claims cannot be read: `wshub`: `publish`: invalid type: integer `7`, expected a list";
    assert_eq!(fault(&hs256(), &within).1, expected);
    let twice = spelled(&format!(r#"{{"sub":"ada","exp":{},"iss":"a","iss":"b"}}"#, NOW + 9));
    assert_eq!(fault(&hs256(), &twice).1, "the claims cannot be read: duplicate field `iss`");
    let latin = spelled_in(&[br#"{"sub":"ada","name":"Zo"#, &[0xeb][..], br#"","exp":9999999999}"#].concat());
    assert_eq!(fault(&hs256(), &latin).1, "the claims cannot be read: not UTF-8");
}

#[test]
fn an_unknown_member_is_reported_and_refuses_no_token() {
    let verifier = hs256();
    let with = |wshub: Value| token(&json!({ "sub": "ada", "exp": NOW + 9, "wshub": wshub }));
    let odd = with(json!({ "subscibe": ["*"], "publish": ["a"], "x": { "deep": [1] } }));
    let check = verifier.check(&odd, now());
    let expected = "its claim `wshub` has members that mean nothing: [\"subscibe\", \"x\"]; known are subscribe, \
                publish, interrupt, admin";
    assert_eq!((check.valid, check.warnings), (true, vec![expected.to_owned()]));
    assert_eq!(check.rights.unwrap().subscribe, [""; 0], "what it was to allow is not allowed");
    assert_eq!(verifier.oddity(), None, "an administrator's question is no event");
    assert!(verifier.verify(&odd, now()).is_ok());
    assert_eq!(verifier.oddity(), Some(format!("a token of \"ada\": {expected}")));
    assert!(verifier.verify(&odd, now()).is_ok());
    assert_eq!(verifier.oddity(), None, "the same token again says nothing new");
    let right = with(json!({ "subscribe": [], "publish": [], "interrupt": [], "admin": false }));
    for good in [right, token(&json!({ "sub": "ada", "exp": NOW + 9, "more": 1 }))] {
        assert_eq!(verifier.check(&good, now()).warnings, [""; 0]);
        assert!(verifier.verify(&good, now()).is_ok() && verifier.oddity().is_none());
    }
}

#[test]
fn text_that_is_no_token_is_reported_with_what_it_may_be() {
    let good = token(&json!({ "sub": "ada", "exp": NOW + 9 }));
    let (message, signature) = good.rsplit_once('.').unwrap();
    let cases = [
        ("".to_owned(), "no dots"),
        ("hello".to_owned(), "no dots: one that is opaque"),
        (format!("Bearer {good}"), "begins with `Bearer`"),
        (format!("bearer {good}"), "begins with `Bearer`"),
        (format!("\"{good}\""), "stands in quotes"),
        (format!("'{good}'"), "stands in quotes"),
        (format!("{good}\n"), "spaces or line breaks"),
        (format!("{}\n{}", &good[..9], &good[9..]), "spaces or line breaks"),
        (format!("{} {}", &good[..40], &good[40..]), "spaces or line breaks"),
        (format!("{}\r\n{}", &good[..40], &good[40..]), "spaces or line breaks"),
        (format!("{}\n{}", &good[..good.len() - 5], &good[good.len() - 5..]), "spaces or line breaks"),
        (format!("{message}.\n{signature}"), "spaces or line breaks"),
        ("a.b.c.d".to_owned(), "it has 4 parts"),
        ("a.b.c.d.e".to_owned(), "encrypted ones have (JWE)"),
        ("a.b".to_owned(), "it has 2 parts"),
        (format!("{good}="), "base64's padding"),
        (good.replacen('.', "==.", 1), "base64's padding"),
        (format!("{message}./+{signature}"), "`+` or `/`"),
        (format!("{message}.{}", &signature[..1]), "not base64url: was it cut?"),
    ];
    for (text, expected) in cases {
        let (code, message) = fault(&hs256(), &text);
        assert_eq!(code, "token_invalid");
        let form = "three parts of base64url with dots between them are wanted, header.payload.signature; ";
        assert!(message.contains(form) && message.contains(expected), "{text}: {message}");
    }
    assert!(fault(&hs256(), &"A".repeat(5000)).1.contains("has 5000 bytes, at most 4096"));
    assert_eq!(
        fault(&hs256(), &format!("{message}.")).1,
        "the token has no signature: its last part is empty"
    );
}

#[test]
fn a_wrong_issuer_or_audience_is_reported_with_both() {
    let claims = |more: Value| {
        let mut claims =
            json!({ "email": "ada", "exp": NOW + 9, "iss": "https://us.example/", "aud": "wshub" });
        for (name, value) in more.as_object().unwrap() {
            claims[name] = value.clone();
        }
        token(&claims)
    };
    let verifier = hs256_of(Some("email"), &["https://us.example/"], &["wshub", "hub"], true);
    assert!(verifier.check(&claims(json!({})), now()).valid);
    for (more, expected) in [
        (
            json!({ "iss": "https://us.example" }),
            "the token has the `iss` \"https://us.example\", and `[auth] issuer` wants \"https://us.example/\"",
        ),
        (json!({ "iss": null }), "the token has no `iss`, and `[auth] issuer` wants \"https://us.example/\""),
        (
            json!({ "aud": ["account", "x"] }),
            "the token has the `aud` \"account\", \"x\", and `[auth] audience` wants \"wshub\" or \"hub\"",
        ),
        (json!({ "aud": null }), "the token has no `aud`, and `[auth] audience` wants \"wshub\" or \"hub\""),
        (
            json!({ "email": null, "sub": "ada" }),
            "the claims have no \"email\", which `[auth] user_claim` wants; there is \"aud\", \"email\", \"exp\"",
        ),
        (
            json!({ "iss": 5 }),
            "the claims cannot be read: `iss`: invalid type: integer `5`, expected a string",
        ),
        (json!({ "aud": [5] }), "the claims cannot be read: `aud`: invalid type: integer `5`"),
        (json!({ "email": {} }), "the claims cannot be read: `email`: invalid type: object, expected text"),
    ] {
        let (code, message) = fault(&verifier, &claims(more.clone()));
        assert!(code == "token_invalid" && message.contains(expected), "{more}: {message}");
    }
    // However many and however long.
    let many = claims(json!({ "aud": vec!["a".repeat(40); 60] }));
    assert!(fault(&verifier, &many).1.contains("and 52 more"), "{:?}", fault(&verifier, &many));
}

#[test]
fn a_secret_in_another_encoding_is_found_out() {
    let text = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVm";
    let hexadecimal = "ab".repeat(32);
    let claims = json!({ "sub": "ada", "exp": NOW + 9 }).to_string();
    for (file, secret, expected) in [
        (text, b"0123456789abcdef0123456789abcdef0123456789abcdef".to_vec(), "is in base64"),
        (&hexadecimal, vec![0xab; 32], "is in hexadecimal"),
        (text, format!("{text}\n").into_bytes(), "the line break at the end of its file"),
    ] {
        let verifier = verifier(&[(Alg::Hs256, file, None)]).unwrap();
        let token =
            signed(r#"{"alg":"HS256"}"#, &claims, &EncodingKey::from_secret(&secret), Algorithm::HS256);
        let (_, message) = fault(&verifier, &token);
        assert!(
            message.starts_with("the signature of HS256 was made with ") && message.contains(expected),
            "{message}"
        );
        assert!(!message.contains(file), "{message}");
    }
}

#[test]
fn a_named_key_is_reported_with_what_is_wrong_with_it() {
    let header = |header: Value| of(header, "somebody else's secret, thirty-two");
    let (_, message) = fault(&several(), &header(json!({ "alg": "RS256", "kid": "long" })));
    assert_eq!(message, "the key with the `kid` \"long\" is for HS512, and the token says RS256");
    let (_, message) = fault(&hs256(), &header(json!({ "alg": "HS256", "kid": "x" })));
    assert!(
        message.contains("does not hold with the key that is configured, HS256 without a `kid`"),
        "{message}"
    );

    let oct = |kid: &str, purpose: &str| json!({ "kty": "oct", "kid": kid, "use": purpose, "k": URL_SAFE_NO_PAD.encode(OTHER) });
    let mut keys: Vec<Value> = (0..12).map(|n| oct(&format!("k{n}"), "sig")).collect();
    keys.push(oct("enc", "enc"));
    let verifier = verifier(&[(Alg::Hs256, &json!({ "keys": keys }).to_string(), None)]).unwrap();
    let (_, message) = fault(&verifier, &header(json!({ "alg": "HS256", "kid": "k12" })));
    let expected = [
        "\"k12\"; there is HS256 with the `kid` \"k0\", ",
        " and 4 more; is the JWK set older than the key?",
    ];
    assert!(expected.iter().all(|expected| message.contains(expected)), "{message}");
    let (_, message) = fault(&verifier, &header(json!({ "alg": "HS256", "kid": "enc" })));
    assert!(message.ends_with("`kid` \"enc\", is skipped: its `use` is \"enc\""), "{message}");
}

#[test]
fn a_valid_token_with_something_unusual_has_warnings() {
    let notes = |header: Value, more: Value| {
        let mut claims = json!({ "sub": "ada", "exp": NOW + 9 });
        claims["iat"] = more;
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let check =
            hs256().check(&signed(&header.to_string(), claims.to_string(), &key, Algorithm::HS256), now());
        assert!(check.valid, "{check:?}");
        check.warnings
    };
    let plain = json!({ "alg": "HS256" });
    for iat in [json!(NOW), json!(NOW + 5), json!(null), json!("x"), json!(0)] {
        assert_eq!(notes(plain.clone(), iat), [""; 0]);
    }
    assert_eq!(
        notes(plain.clone(), json!(NOW + 300)),
        [
            "`iat` lies 300 s ahead, and revocations go by it: none that is made before then counts for this token; do \
          the clocks differ?"
        ]
    );
    assert!(notes(plain, json!(NOW * 1000))[0].contains("very far ahead"));
    let named = notes(json!({ "alg": "HS256", "kid": "x" }), json!(NOW));
    assert_eq!(named, ["its `kid` \"x\" is not looked at: one key is configured, without a `kid`"]);
}

#[test]
fn no_reason_shows_a_key_or_repeats_a_long_header() {
    let verifier = several();
    let long = "k".repeat(2000);
    for header in [json!({ "alg": "HS256", "kid": long }), json!({ "alg": long }), json!({ "alg": "HS256" })]
    {
        let (_, message) = fault(&verifier, &of(header, "somebody else's secret, thirty-two"));
        assert!(message.len() < 300 && !message.contains(SECRET) && !message.contains(OTHER), "{message}");
    }
}

#[test]
fn limits_above_the_cap_are_reported_with_the_granted() {
    let limits = |rate: f64, burst: f64| {
        let claims =
            json!({ "sub": "ada", "exp": NOW + 9, "wshub_limits": { "rate": rate, "burst": burst } });
        let mut check = hs256().check(&token(&claims), now());
        check.cap(1000);
        let granted = check.granted.map(|granted| (granted.rate.rate(), granted.burst));
        (granted, check.warnings)
    };
    for (rate, burst) in [(1000.0, 1000.0), (0.5, 1.0)] {
        assert_eq!(limits(rate, burst), (None, Vec::new()));
    }
    let warning = |asked: &str, granted: &str| {
        format!("its `wshub_limits` ask for {asked}, and it gets {granted}: `[limits] token_rate` is 1000")
    };
    for (rate, burst, granted, warning) in [
        (5000.0, 8000.0, (1000.0, 1000), warning("5000 requests a second and 8000 at once", "1000 and 1000")),
        (2.5, 8000.0, (2.5, 1000), warning("2.5 requests a second and 8000 at once", "2.5 and 1000")),
        (1000.5, 10.0, (1000.0, 10), warning("1000.5 requests a second and 10 at once", "1000 and 10")),
    ] {
        assert_eq!(limits(rate, burst), (Some(granted), vec![warning]));
    }
    let mut none = hs256().check(&token(&json!({ "sub": "ada", "exp": NOW + 9 })), now());
    none.cap(1);
    assert_eq!((none.granted, none.warnings), (None, Vec::new()), "what everybody may is no token's");
}
