//! Tokens: `edge::auth::jwt::Verifier` on any text, on any header and claims with a right
//! signature, and on a valid token with some bytes changed; and any JWK set as a file of keys.

#![no_main]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::Sha256;
use wshubd::config::{Alg, Config, Environment, KeyFile};
use wshubd::edge::auth::claims::EARLY;
use wshubd::edge::auth::jwt::Verifier;
use wshubd::protocol::{MintTerms, UnixTime, UserId};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// In seconds.
const NOW: u64 = 1_750_000_000;

/// Public keys of others, whose private ones nothing here knows.
const PUBLIC: [(Alg, &str); 3] =
    [(Alg::Rs256, "rs256.pub.pem"), (Alg::Es256, "es256.pub.pem"), (Alg::EdDsa, "eddsa.pub.pem")];

thread_local! {
    static VERIFIER: Verifier = verifier();
}

/// A directory of this process.
fn directory() -> PathBuf {
    let directory = std::env::temp_dir().join(format!("wshubd-fuzz-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("the directory for temporary files takes one");
    directory
}

fn verifier() -> Verifier {
    let directory = directory();
    let secret = directory.join("secret");
    fs::write(&secret, SECRET).expect("a file in it");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let nothing = Environment::new(1000, [("CONFIGURATION_DIRECTORY", &directory)]);
    let mut auth = Config::load(None, &nothing).expect("the defaults are valid").config.auth;
    auth.keys.push(KeyFile { alg: Alg::Hs256, file: secret, kid: Some("secret".into()) });
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("../token/keys");
    auth.keys.extend(PUBLIC.map(|(alg, name)| KeyFile { alg, file: keys.join(name), kid: None }));
    let verifier = Verifier::open(&auth, &directory).expect("the keys are valid");
    fs::remove_dir_all(&directory).expect("nobody else uses it");
    verifier
}

fn signature(message: &str) -> String {
    let mut code = Hmac::<Sha256>::new_from_slice(SECRET).expect("any length is a key");
    code.update(message.as_bytes());
    URL_SAFE_NO_PAD.encode(code.finalize().into_bytes())
}

fn signed(header: &[u8], claims: &[u8]) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = signature(&message);
    format!("{message}.{signature}")
}

/// Verifies twice, for the second time is answered from memory, and once more at the end.
fn check(verifier: &Verifier, token: &str) {
    let now = UnixTime::from_secs(NOW);
    let verified = verifier.verify(token, now);
    assert_eq!(verifier.verify(token, now), verified);
    assert_eq!(verifier.check(token, now).valid, verified.is_ok());
    let Ok(identity) = verified else { return };
    let (message, given) = token.rsplit_once('.').expect("a token has three parts");
    assert_eq!(given, signature(message), "only what the secret has signed holds");
    let (_, claims) = message.split_once('.').expect("a token has three parts");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64 without padding");
    // One by one: of those that are not looked at, a number may be beyond all that can be read.
    let claims: BTreeMap<String, &RawValue> = serde_json::from_slice(&claims).expect("claims are JSON");
    let read = |raw: &&RawValue| serde_json::from_str(raw.get()).ok();
    let claim = |name: &str| claims.get(name).and_then(read).unwrap_or(Value::Null);
    let seconds = |name: &str| claim(name).as_f64();
    assert!(seconds("exp").expect("an end") > NOW as f64, "a token ends");
    assert!(
        seconds("nbf").is_none_or(|from| from < (NOW + EARLY.as_secs()) as f64 + 0.001),
        "a token begins"
    );
    let end = identity.expires_at.expect("an end");
    assert_eq!(verifier.verify(token, end).map_err(|fault| fault.code), Err("token_expired"));
    let named = ["user_id", "userId", "sub"].map(|name| match claim(name) {
        Value::String(name) => Some(name),
        // A whole number is its digits, however it is spelled; the sum has no minus at its zero.
        Value::Number(name) if name.is_f64() => name.as_f64().map(|name| format!("{:.0}", name + 0.0)),
        Value::Number(name) => Some(name.to_string()),
        _ => None,
    });
    assert_eq!(Some(identity.user_id.as_str()), named.iter().flatten().next().map(|name| &**name));
    let may_administer = identity.rights.is_some_and(|rights| rights.admin);
    let granted = claim("wshub");
    assert!(!may_administer || granted.is_null() || granted["admin"] == true);
}

/// Changes bytes of a valid token, two of the input for each.
fn check_changed(verifier: &Verifier, changes: &[u8]) {
    let user = UserId::new("ada").expect("a name");
    let minted =
        verifier.mint(&user, Duration::from_secs(60), &MintTerms::default(), UnixTime::from_secs(NOW));
    let valid = minted.expect("the first key is a secret").0;
    let mut changed = valid.clone().into_bytes();
    for change in changes.chunks_exact(2) {
        let place = usize::from(change[0]) % changed.len();
        changed[place] = change[1] & 0x7f;
    }
    let changed = String::from_utf8(changed).expect("ASCII");
    let verified = verifier.verify(&changed, UnixTime::from_secs(NOW));
    assert_eq!(verified.is_ok(), changed == valid, "{changed}");
}

/// Reads a JWK set, and asks it for a token of its first secret and for one of a stranger's.
fn check_set(alg: u8, set: &[u8]) {
    let directory = directory();
    let file = directory.join("set");
    fs::write(&file, set).expect("a file in it");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let nothing = Environment::new(1000, [("CONFIGURATION_DIRECTORY", &directory)]);
    let mut auth = Config::load(None, &nothing).expect("the defaults are valid").config.auth;
    let (_, alg) = Alg::NAMES[usize::from(alg) % Alg::NAMES.len()];
    auth.keys.push(KeyFile { alg, file, kid: None });
    let verifier = match Verifier::open(&auth, &directory) {
        Ok(verifier) => verifier,
        Err(error) => {
            assert!(error.problems.iter().all(|problem| problem.message.len() < 2000), "{error}");
            return;
        }
    };
    for warning in verifier.warnings() {
        assert!(warning.len() < 500 && !warning.contains(char::is_control), "{warning}");
    }
    let now = UnixTime::from_secs(NOW);
    let user = UserId::new("ada").expect("a name");
    if let Ok((minted, _)) = verifier.mint(&user, Duration::from_secs(60), &MintTerms::default(), now) {
        assert!(!alg.is_public(), "a public key signs nothing");
        assert_eq!(verifier.verify(&minted, now).map(|identity| identity.user_id), Ok(user));
    }
    let claims = br#"{"sub":"ada","exp":1750000060}"#;
    let header = format!(r#"{{"alg":"{}"}}"#, alg.name());
    let stranger = signed(header.as_bytes(), claims);
    let verified = verifier.verify(&stranger, now).is_ok();
    assert_eq!(verifier.check(&stranger, now).valid, verified);
    assert!(!verified || !alg.is_public(), "HMAC holds under no public key");
}

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    VERIFIER.with(|verifier| match kind % 5 {
        0 => check(verifier, &String::from_utf8_lossy(rest)),
        1 => check(verifier, &signed(br#"{"alg":"HS256"}"#, rest)),
        2 => {
            let line = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            check(verifier, &signed(&rest[..line], rest.get(line + 1..).unwrap_or_default()));
        }
        3 => check_changed(verifier, rest),
        _ => {
            if let Some((alg, set)) = rest.split_first() {
                check_set(*alg, set);
            }
        }
    });
});
