//! What an administrator is told of a token.

use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{Value, json};
use wshubd::config::Alg;
use wshubd::edge::token::Verifier;
use wshubd::protocol::frame::TokenCheck;

use crate::keys::{NOW, SECRET, hs256, now, signed, spelled, spelled_in, token, verifier};

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
fn a_token_that_holds_shows_whom_it_names_what_it_allows_and_who_says_so() {
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
fn a_signature_that_does_not_hold_is_told_with_the_keys_that_there_are() {
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
    for (header, said) in cases {
        let (code, message) = fault(&verifier, &of(header.clone(), "somebody else's secret, thirty-two"));
        assert_eq!(code, "token_invalid");
        assert!(said.iter().all(|said| message.contains(said)), "{header}: {message}");
    }
}

#[test]
fn a_token_out_of_its_time_is_told_how_far() {
    let ended = token(&json!({ "sub": "ada", "exp": NOW - 3720 }));
    let message = "the token ended at 2025-06-15T14:04:40.000Z, 1h 2m ago".to_owned();
    assert_eq!(fault(&hs256(), &ended), ("token_expired", message));
    let early = token(&json!({ "sub": "ada", "exp": NOW + 999, "nbf": NOW + 90 }));
    let message = "the token begins at 2025-06-15T15:08:10.000Z, in 1m 30s".to_owned();
    assert_eq!(fault(&hs256(), &early), ("token_not_yet", message));
}

#[test]
fn what_is_wrong_with_the_claims_is_named() {
    let patterns = |count: usize, of: &str| json!({ "subscribe": vec![of; count] });
    let cases = [
        (json!({ "sub": "ada" }), "the claims have no `exp`"),
        (json!({ "sub": "ada", "exp": NOW * 1000 }), "beyond the year 9999; claims count seconds"),
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
        (json!({ "exp": NOW + 9 }), "the claims name no user: `user_id` or `sub`"),
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
    for (claims, said) in cases {
        let (code, message) = fault(&hs256(), &token(&claims));
        assert_eq!(code, "token_invalid");
        assert!(message.contains(said) && !message.contains("column"), "{claims}: {message}");
    }
    assert!(fault(&hs256(), &spelled("[]")).1.contains("the claims cannot be read"));
    let twice = spelled(&format!(r#"{{"sub":"ada","exp":{},"iss":"a","iss":"b"}}"#, NOW + 9));
    assert_eq!(fault(&hs256(), &twice).1, "the claims cannot be read: duplicate field `iss`");
    let latin = spelled_in(&[br#"{"sub":"ada","name":"Zo"#, &[0xeb][..], br#"","exp":9999999999}"#].concat());
    assert_eq!(fault(&hs256(), &latin).1, "the claims cannot be read: not UTF-8");
}

#[test]
fn a_member_of_the_claim_that_means_nothing_is_told_and_refuses_nobody() {
    let verifier = hs256();
    let with = |wshub: Value| token(&json!({ "sub": "ada", "exp": NOW + 9, "wshub": wshub }));
    let odd = with(json!({ "subscibe": ["*"], "publish": ["a"], "x": { "deep": [1] } }));
    let check = verifier.check(&odd, now());
    let told = "its claim `wshub` has members that mean nothing: [\"subscibe\", \"x\"]; known are subscribe, \
                publish, interrupt, admin";
    assert_eq!((check.valid, check.warning.as_deref()), (true, Some(told)));
    assert_eq!(check.rights.unwrap().subscribe, [""; 0], "what it was to allow is not allowed");
    assert_eq!(verifier.oddity(), None, "an administrator's question is no event");
    assert!(verifier.verify(&odd, now()).is_ok());
    assert_eq!(verifier.oddity(), Some(format!("a token of \"ada\": {told}")));
    assert!(verifier.verify(&odd, now()).is_ok());
    assert_eq!(verifier.oddity(), None, "the same token again says nothing new");
    let right = with(json!({ "subscribe": [], "publish": [], "interrupt": [], "admin": false }));
    for good in [right, token(&json!({ "sub": "ada", "exp": NOW + 9, "more": 1 }))] {
        assert_eq!(verifier.check(&good, now()).warning, None);
        assert!(verifier.verify(&good, now()).is_ok() && verifier.oddity().is_none());
    }
}

#[test]
fn what_is_no_token_is_told_what_one_looks_like() {
    for text in ["", "hello", "Bearer a.b.c", "a.b.c.d"] {
        assert!(fault(&hs256(), text).1.contains("three parts of base64url"), "{text}");
    }
    assert!(fault(&hs256(), &"A".repeat(5000)).1.contains("has 5000 bytes, at most 4096"));
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
