//! The claims of a token beside its rights: limits and info.

use serde_json::{Value, json};
use wshubd::hub::Terms;
use wshubd::protocol::{Grant, MintTerms, Payload, RateLimit, UserId};

use crate::keys::{NOW, hs256, now, spelled, token};

fn terms(claims: &str) -> Result<Option<Terms>, String> {
    let verified = hs256().verify(&spelled(&format!(r#"{{"sub":"ada","exp":{},{claims}}}"#, NOW + 9)), now());
    let identity = verified.map_err(|fault| format!("{}: {}", fault.code, fault.message))?;
    Ok(identity.terms.as_deref().cloned())
}

#[test]
fn limits_must_be_numbers_above_zero() {
    let limits = |limits: &str| terms(&format!(r#""wshub_limits":{limits}"#));
    for (spelled, rate, burst) in [
        (r#"{"rate":200,"burst":1000}"#, 200.0, 1000.0),
        (r#"{"burst":1e3,"rate":0.25,"more":[]}"#, 0.25, 1000.0),
        (r#"{"rate":1e-9,"burst":0.1}"#, 0.001, 1.0),
        (r#"{"rate":1e300,"burst":18446744073709551615}"#, 1e300, 1e300),
    ] {
        let found = limits(spelled).unwrap().unwrap().limits;
        assert_eq!(found, Some(RateLimit::asked_for(rate, burst)), "{spelled}");
    }
    assert_eq!(limits("null"), Ok(None));
    let wanted = "`rate` and `burst` of wshub_limits must be numbers above 0";
    for (spelled, why) in [
        (r#"{"rate":0,"burst":1}"#, wanted),
        (r#"{"rate":1,"burst":-1}"#, wanted),
        (r#"{"rate":"10","burst":20}"#, wanted),
        (r#"{"rate":10,"burst":null}"#, wanted),
        (r#"{"rate":[10],"burst":20}"#, wanted),
        (r#"{"rate":10}"#, wanted),
        (r#"{"rate":1,"rate":2,"burst":3}"#, "duplicate field `rate`"),
        ("[10,20]", "expected an object"),
        ("10", "expected an object"),
        ("true", "expected an object"),
    ] {
        let refused = limits(spelled).unwrap_err();
        assert!(refused.starts_with("token_invalid: ") && refused.contains(why), "{spelled}: {refused}");
    }
}

#[test]
fn info_is_up_to_256_bytes_of_json_in_one_line() {
    let info = |info: &str| terms(&format!(r#""wshub_info":{info}"#));
    let longest = format!("\"{}\"", "x".repeat(254));
    let deep = format!("{}{}", "[".repeat(64), "]".repeat(64));
    for spelled in ["1.00", r#"{"b":1,"a":12345678901234567890123}"#, "false", "\"\"", &longest, &deep] {
        let found = info(spelled).unwrap().unwrap().info.unwrap();
        assert_eq!(found.json(), spelled);
    }
    assert_eq!(info("{\"a\":\r\n 1}").unwrap().unwrap().info.unwrap().json(), "{\"a\":   1}");
    assert_eq!(info("null"), Ok(None));
    let refused = info(&format!("\"{}\"", "x".repeat(255))).unwrap_err();
    assert_eq!(refused, "token_invalid: the wshub_info claim has 257 bytes, at most 256 are taken");
    let refused = info(&format!("{}{}", "[".repeat(65), "]".repeat(65))).unwrap_err();
    assert_eq!(refused, "token_invalid: the wshub_info claim nests deeper than 64");
}

#[test]
fn unused_claims_refuse_no_token() {
    for claim in [r#""iat":"yesterday""#, r#""iat":-1"#, r#""iat":{}"#, r#""jti":{"a":1}"#, r#""jti":"""#] {
        assert_eq!(terms(claim), Ok(None), "{claim}");
    }
    let long = format!(r#""jti":"{}""#, "x".repeat(129));
    assert_eq!(terms(&long), Ok(None), "nobody could name it");
    for (claim, jti) in [(r#""jti":"a b""#, "a b"), (r#""jti":42"#, "42")] {
        assert_eq!(terms(claim).unwrap().unwrap().jti.unwrap().as_str(), jti);
    }
}

#[test]
fn a_minted_token_has_the_claims_and_an_id_of_its_own() {
    let (verifier, user) = (hs256(), UserId::new("ada").unwrap());
    let info = || Payload::of(&json!({"name": "Ada"}));
    let wanted = MintTerms {
        grant: Some(Grant::default()),
        limits: Some(RateLimit::asked_for(0.5, 20.0)),
        info: Some(info()),
    };
    let ttl = std::time::Duration::from_secs(60);
    let mint = |wanted: &MintTerms| verifier.mint(&user, ttl, wanted, now());
    let (first, second) = (mint(&wanted).unwrap().0, mint(&wanted).unwrap().0);
    let [first, second] = [first, second].map(|token| verifier.verify(&token, now()).unwrap().terms.unwrap());
    assert_eq!((first.limits, &first.info), (wanted.limits, &wanted.info));
    assert!(first.jti.is_some() && first.jti != second.jti);
    let long = MintTerms { info: Some(Payload::of(&"x".repeat(255))), ..MintTerms::default() };
    assert!(mint(&long).unwrap_err().to_string().contains("257 bytes"));
}

#[test]
fn an_administrator_sees_the_claims_of_a_token() {
    let claims = json!({
        "sub": "ada", "exp": NOW + 9, "iat": NOW - 9, "jti": "t1",
        "wshub_limits": {"rate": 2.5, "burst": 30}, "wshub_info": {"name": "Ada"},
    });
    let seen: Value = serde_json::to_value(hs256().check(&token(&claims), now())).unwrap();
    assert_eq!(seen["limits"], json!({"rate": 2.5, "burst": 30}));
    assert_eq!((&seen["info"], &seen["jti"]), (&json!({"name": "Ada"}), &json!("t1")));
    assert!(seen["issued_at"].is_string());
}
