//! Claims that the configuration requires: the user, an issuer, an audience, an end.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use wshubd::edge::auth::jwt::Verifier;
use wshubd::edge::auth::revocation::{Change, Revocations};
use wshubd::protocol::{MintTerms, Reason, UnixTime, UserId};

use crate::keys::{NOW, hs256, hs256_of, now, token};

/// The user, or the code and the reason.
fn verdict(verifier: &Verifier, claims: &Value) -> Result<String, (&'static str, Reason)> {
    let identity = verifier.verify(&token(claims), now());
    identity.map(|identity| identity.user_id.to_string()).map_err(|fault| (fault.code, fault.reason))
}

/// With an end.
fn ending(mut claims: Value) -> Value {
    claims["exp"] = json!(NOW + 9);
    claims
}

#[test]
fn only_the_configured_claim_names_the_user() {
    let nobody = Err(("token_invalid", Reason::TokenClaims));
    let unread = Err(("token_invalid", Reason::TokenMalformed));
    for (claim, claims, expected) in [
        ("preferred_username", json!({ "preferred_username": "ada", "sub": "7" }), Ok("ada")),
        ("email", json!({ "email": "ada@example.org", "user_id": "7" }), Ok("ada@example.org")),
        ("https://example.org/uid", json!({ "https://example.org/uid": 42 }), Ok("42")),
        ("sub", json!({ "sub": "ada", "user_id": "bob" }), Ok("ada")),
        ("user_id", json!({ "user_id": "ada", "sub": "bob" }), Ok("ada")),
        // Dots are part of a name, and lead nowhere.
        ("a.b", json!({ "a.b": "ada", "a": { "b": "bob" } }), Ok("ada")),
        ("a.b", json!({ "a": { "b": "bob" } }), nobody),
        ("email", json!({ "sub": "ada", "user_id": "ada" }), nobody),
        ("user_id", json!({ "userId": "ada" }), nobody),
        ("email", json!({ "email": null, "sub": "ada" }), nobody),
        ("email", json!({ "email": "" }), nobody),
        ("email", json!({ "email": "a\nb" }), nobody),
        ("email", json!({ "email": ["ada"] }), unread),
        ("email", json!({ "email": true }), unread),
        // What nobody looks at may be anything.
        ("email", json!({ "email": "ada", "sub": ["x"], "user_id": {}, "iss": 1, "aud": 2 }), Ok("ada")),
    ] {
        let verifier = hs256_of(Some(claim), &[], &[], true);
        let found = verdict(&verifier, &ending(claims.clone()));
        assert_eq!(found.as_deref().map_err(|fault| *fault), expected, "{claim} of {claims}");
    }
    let wrong = json!({ "user_id": "ada", "sub": ["x"] });
    assert_eq!(verdict(&hs256(), &ending(wrong)).as_deref(), Ok("ada"), "`sub` is not looked at then");
}

#[test]
fn a_token_must_be_of_a_configured_issuer() {
    let one = hs256_of(None, &["https://id.example.org/"], &[], true);
    let two = hs256_of(None, &["https://id.example.org/", "second"], &[], true);
    let wrong = Err(("token_invalid", Reason::TokenIssuer));
    let unread = Err(("token_invalid", Reason::TokenMalformed));
    for (issuer, of_one, of_two) in [
        (json!("https://id.example.org/"), Ok("ada"), Ok("ada")),
        (json!("second"), wrong, Ok("ada")),
        (json!("https://id.example.org"), wrong, wrong),
        (json!("HTTPS://id.example.org/"), wrong, wrong),
        (json!(""), wrong, wrong),
        (json!(null), wrong, wrong),
        (json!(["second"]), unread, unread),
        (json!(7), unread, unread),
    ] {
        let claims = ending(json!({ "sub": "ada", "iss": issuer }));
        for (verifier, expected) in [(&one, of_one), (&two, of_two), (&hs256(), Ok("ada"))] {
            let found = verdict(verifier, &claims);
            assert_eq!(found.as_deref().map_err(|fault| *fault), expected, "{claims}");
        }
    }
    assert_eq!(verdict(&one, &ending(json!({ "sub": "ada" }))), Err(("token_invalid", Reason::TokenIssuer)));
}

#[test]
fn a_token_must_be_for_a_configured_audience() {
    let verifier = hs256_of(None, &[], &["wshub", "https://hub.example.org"], true);
    let wrong = Err(("token_invalid", Reason::TokenAudience));
    let unread = Err(("token_invalid", Reason::TokenMalformed));
    for (audience, expected) in [
        (json!("wshub"), Ok("ada")),
        (json!(["account", "wshub"]), Ok("ada")),
        (json!(["https://hub.example.org"]), Ok("ada")),
        (json!("account"), wrong),
        (json!(["account", "wshub2"]), wrong),
        (json!([]), wrong),
        (json!(null), wrong),
        (json!("wshub "), wrong),
        (json!(["wshub", 1]), unread),
        (json!({ "wshub": 1 }), unread),
        (json!(1), unread),
    ] {
        let claims = ending(json!({ "sub": "ada", "aud": audience }));
        assert_eq!(verdict(&verifier, &claims).as_deref().map_err(|fault| *fault), expected, "{claims}");
        assert_eq!(verdict(&hs256(), &claims).as_deref(), Ok("ada"), "nobody asks: {claims}");
    }
    assert_eq!(verdict(&verifier, &ending(json!({ "sub": "ada" }))), wrong.map(str::to_owned));
}

#[test]
fn a_token_without_an_end_is_taken_where_none_is_required() {
    let lenient = hs256_of(None, &[], &[], false);
    let endless = json!({ "sub": "ada" });
    assert_eq!(verdict(&hs256(), &endless), Err(("token_invalid", Reason::TokenClaims)));
    for time in [now(), UnixTime(u64::MAX)] {
        // The second time from memory.
        for _ in 0..2 {
            assert_eq!(lenient.verify(&token(&endless), time).unwrap().expires_at, None);
        }
    }
    assert_eq!(verdict(&lenient, &json!({ "sub": "ada", "exp": null })).as_deref(), Ok("ada"));
    // An end that is there counts all the same.
    let ended = json!({ "sub": "ada", "exp": NOW });
    assert_eq!(verdict(&lenient, &ended), Err(("token_expired", Reason::TokenExpired)));
    let wrong = json!({ "sub": "ada", "exp": "never" });
    assert_eq!(verdict(&lenient, &wrong), Err(("token_invalid", Reason::TokenMalformed)));
}

#[test]
fn a_minted_token_has_the_required_claims() {
    let user = UserId::new("ada").unwrap();
    for verifier in [
        hs256(),
        hs256_of(Some("https://example.org/uid"), &["us", "them"], &["wshub", "other"], true),
        hs256_of(Some("email"), &[], &[], false),
        hs256_of(Some("sub"), &["us"], &[], true),
    ] {
        let (minted, end) =
            verifier.mint(&user, Duration::from_secs(9), &MintTerms::default(), now()).unwrap();
        let identity = verifier.verify(&minted, now()).unwrap();
        assert_eq!((identity.user_id, identity.expires_at), (user.clone(), Some(end)));
    }
}

#[test]
fn the_short_form_of_a_refusal_hides_the_configuration() {
    let verifier = hs256_of(Some("email"), &["https://secret-issuer.example"], &["secret-audience"], true);
    let good = json!({ "email": "ada", "iss": "https://secret-issuer.example", "aud": "secret-audience" });
    assert_eq!(verdict(&verifier, &ending(good.clone())).as_deref(), Ok("ada"));
    for (name, value, reason) in [
        ("iss", json!("x"), Reason::TokenIssuer),
        ("aud", json!("x"), Reason::TokenAudience),
        ("email", json!(null), Reason::TokenClaims),
        ("exp", json!(1), Reason::TokenExpired),
        ("nbf", json!(NOW + 99), Reason::TokenNotYet),
        ("exp", json!(null), Reason::TokenClaims),
        ("exp", json!("x"), Reason::TokenMalformed),
    ] {
        let mut claims = ending(good.clone());
        claims[name] = value;
        let fault = verifier.verify(&token(&claims), now()).unwrap_err();
        assert_eq!(fault.reason, reason, "{claims}");
        assert!(!fault.message.contains("secret") && !fault.message.contains("email"), "{}", fault.message);
    }
}

#[test]
fn a_null_claim_of_rights_is_a_mistake() {
    let claims = json!({ "sub": "ada", "exp": NOW + 9, "wshub": null });
    let fault = hs256().verify(&token(&claims), now()).unwrap_err();
    assert_eq!((fault.code, fault.reason), ("token_invalid", Reason::TokenMalformed));
}

#[test]
fn no_token_is_made_that_would_be_refused_at_once() {
    let mut verifier = hs256();
    let revoked = Rc::new(RefCell::new(Revocations::default()));
    verifier.heed(Rc::clone(&revoked));
    let ada = UserId::new("ada").unwrap();
    revoked.borrow_mut().apply(Change::RevokeUser(ada.clone(), NOW));
    let mint = |at: u64, ttl: u64| {
        let made =
            verifier.mint(&ada, Duration::from_secs(ttl), &MintTerms::default(), UnixTime::from_secs(at));
        made.map(drop).map_err(|error| error.to_string())
    };
    assert!(mint(NOW, 9).unwrap_err().contains("ask again in the next one"));
    assert_eq!(mint(NOW + 1, 9), Ok(()));
    assert!(mint(NOW + 1, 31 * 86_400).unwrap_err().contains("as long as revocations are kept"));
}
