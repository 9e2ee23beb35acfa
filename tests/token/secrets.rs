//! Files of keys and secrets, and first starts.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use wshubd::config::{Alg, KeyFile};
use wshubd::edge::auth::jwt::Verifier;
use wshubd::edge::auth::secret_file::{Secrets, generate_missing};
use wshubd::features::PUBLIC_KEYS;
use wshubd::protocol::{MintTerms, UserId};

use crate::keys::{SECRET, Scratch, auth, now, verifier};

#[test]
fn the_first_start_generates_what_the_second_uses() {
    let scratch = Scratch::new();
    let user = UserId::new("ada").unwrap();
    generate_missing(&auth(), &scratch.0).unwrap();
    let first = Verifier::open(&auth(), &scratch.0).unwrap();
    let (token, _) = first.mint(&user, Duration::from_secs(9), &MintTerms::default(), now()).unwrap();
    generate_missing(&auth(), &scratch.0).unwrap();
    let second = Verifier::open(&auth(), &scratch.0).unwrap();
    assert_eq!(second.verify(&token, now()).unwrap().user_id, user);

    let secret = fs::read_to_string(scratch.0.join("broadcast.secret")).unwrap();
    let secrets = Secrets::open(&auth(), &scratch.0).unwrap();
    assert!(secrets.matches(secret.trim_end()));

    let key = fs::read_to_string(scratch.0.join("jwt.key")).unwrap();
    assert_ne!(key, secret);
    for (name, text) in [("jwt.key", key), ("broadcast.secret", secret)] {
        let mode = fs::metadata(scratch.0.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
        assert!(text.len() == 65 && text.trim_end().bytes().all(|b| b.is_ascii_hexdigit()), "{name}");
    }
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2, "no drafts are left");
}

#[test]
fn a_look_leaves_no_trace() {
    let scratch = Scratch::new();
    Verifier::open(&auth(), &scratch.0).unwrap();
    let secrets = Secrets::open(&auth(), &scratch.0).unwrap();
    assert!(!secrets.matches("") && !secrets.matches("anything at all"));
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
}

#[test]
fn a_missing_state_directory_is_named() {
    let missing = Path::new("/nonexistent/wshubd");
    let error = generate_missing(&auth(), missing).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/wshubd/jwt.key: cannot be created: "), "{error}");
}

#[test]
fn a_damaged_generated_key_is_not_replaced() {
    let scratch = Scratch::new();
    scratch.write("jwt.key", "", 0o600);
    generate_missing(&auth(), &scratch.0).unwrap();
    let error = Verifier::open(&auth(), &scratch.0).unwrap_err().to_string();
    assert!(error.ends_with("/jwt.key: is empty"), "{error}");
    let scratch = Scratch::new();
    symlink("/nonexistent/key", scratch.0.join("jwt.key")).unwrap();
    generate_missing(&auth(), &scratch.0).unwrap();
    let error = Verifier::open(&auth(), &scratch.0).unwrap_err().to_string();
    assert!(error.contains("/jwt.key: cannot be read"), "{error}");
}

#[test]
fn credentials_of_systemd_come_before_generated_files() {
    let (state, credentials) = (Scratch::new(), Scratch::new());
    // systemd may let a group read them; it guards the directory.
    credentials.write("jwt.key", SECRET, 0o440);
    credentials.write("broadcast.secret", "a secret of systemd's".replace(' ', "-"), 0o440);
    let mut auth = auth();
    auth.credentials = Some(credentials.0.clone());
    let user = UserId::new("ada").unwrap();
    generate_missing(&auth, &state.0).unwrap();
    let minted = Verifier::open(&auth, &state.0)
        .unwrap()
        .mint(&user, Duration::from_secs(9), &MintTerms::default(), now())
        .unwrap();
    assert!(crate::keys::hs256().verify(&minted.0, now()).is_ok(), "signed with the credential");
    let secrets = Secrets::open(&auth, &state.0).unwrap();
    assert!(secrets.matches("a-secret-of-systemd's"));
    assert_eq!(fs::read_dir(&state.0).unwrap().count(), 0, "nothing is generated");

    auth.broadcast_secrets = vec![credentials.write("other", "another-long-secret", 0o444)];
    let secrets = Secrets::open(&auth, &state.0).unwrap();
    assert!(secrets.matches("another-long-secret") && !secrets.matches("a-secret-of-systemd's"));
}

#[test]
fn several_secrets_are_valid_each_as_a_whole() {
    let scratch = Scratch::new();
    let mut auth = auth();
    auth.broadcast_secrets = vec![
        scratch.write("a", "the-old-secret-of-ours\n", 0o600),
        scratch.write("b", "the-new-secret-of-ours\r\n", 0o400),
    ];
    let secrets = Secrets::open(&auth, &scratch.0).unwrap();
    assert!(secrets.matches("the-old-secret-of-ours") && secrets.matches("the-new-secret-of-ours"));
    let wrong = [
        "",
        "t",
        "the-old-secret-of-our",
        "the-old-secret-of-ours\n",
        "the-old-secret-of-ourS",
        "THE-OLD-SECRET-OF-OURS",
        "the-old-secret-of-ours the-new-secret-of-ours",
        "the-old-secret-of-ours\0",
    ];
    for presented in wrong {
        assert!(!secrets.matches(presented), "{presented:?}");
    }
    assert_eq!(format!("{secrets:?}"), "Secrets(2)");
    assert!(!scratch.0.join("broadcast.secret").exists(), "none is generated beside configured ones");
}

/// Where the tests run as root, the file is another user's then.
fn give_to_somebody(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(12345), Some(12345)).unwrap();
    }
}

#[test]
fn a_secret_of_root_may_be_readable_by_a_group() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let scratch = Scratch::new();
    let mut auth = auth();
    for (mode, fine) in
        [(0o640, true), (0o440, true), (0o600, true), (0o660, false), (0o650, false), (0o644, false)]
    {
        let path = scratch.write("key", SECRET, mode);
        chown(&path, Some(0), Some(12345)).unwrap();
        auth.keys = vec![KeyFile { alg: Alg::Hs256, file: path.clone(), kid: None }];
        auth.broadcast_secrets = vec![path.clone()];
        let (key, secret) = (Verifier::open(&auth, &scratch.0), Secrets::open(&auth, &scratch.0));
        assert_eq!((key.is_ok(), secret.is_ok()), (fine, fine), "{mode:o}");
        if let Err(error) = key {
            let file = path.display();
            let expected = format!("has mode {mode:04o}, which lets others in; `chmod 0600 {file}`");
            assert!(error.to_string().ends_with(&expected), "{error}");
        }
        // Whoever else owns it may have made it so by a careless umask.
        give_to_somebody(&path);
        assert_eq!(Verifier::open(&auth, &scratch.0).is_ok(), mode & 0o077 == 0, "{mode:o}");
    }
}

#[test]
fn a_secret_that_others_can_read_or_guess_is_refused() {
    let cases: [(&str, &[u8], u32, &str); 9] = [
        ("wide", b"a secret that is long enough", 0o644, "has mode 0644, which lets others in; `ch"),
        ("group", b"a-secret-that-is-long-enough", 0o640, "has mode 0640"),
        ("world", b"a-secret-that-is-long-enough", 0o604, "has mode 0604"),
        ("empty", b"", 0o600, "is empty"),
        ("newline", b"\n", 0o600, "is empty"),
        ("short", b"123456789012345\n", 0o600, "is shorter than 16 bytes"),
        ("lines", b"two lines of\ntext that is long", 0o600, "holds more than one line"),
        (
            "binary",
            b"\xff\xfe\xfd\xfc\xfb\xfa\xf9\xf8\xf7\xf6\xf5\xf4\xf3\xf2\xf1\xf0",
            0o600,
            "holds more than",
        ),
        ("large", &[b'a'; 20_000], 0o600, "is larger than"),
    ];
    let scratch = Scratch::new();
    let mut auth = auth();
    for (name, text, mode, message) in cases {
        let path = scratch.write(name, text, mode);
        give_to_somebody(&path);
        auth.broadcast_secrets = vec![path.clone()];
        let error = Secrets::open(&auth, &scratch.0).unwrap_err().to_string();
        let (place, error_message) = error.split_once(": ").unwrap();
        assert!(place == path.to_str().unwrap() && error_message.contains(message), "{error}");
    }
    auth.broadcast_secrets = vec![scratch.0.join("missing"), scratch.0.clone()];
    let error = Secrets::open(&auth, &scratch.0).unwrap_err();
    assert_eq!(error.problems.len(), 2, "all are told: {error}");
}

#[test]
fn a_key_that_does_not_fit_its_algorithm_is_refused() {
    let public = include_str!("keys/rs256.pub.pem");
    let cases = [
        (Alg::Hs256, &SECRET[..31], "it has 31 bytes, at least 32 are wanted"),
        (Alg::Hs384, &SECRET[..47], "it has 47 bytes, at least 48"),
        (Alg::Hs512, &SECRET[..63], "it has 63 bytes, at least 64"),
        (Alg::Hs256, public, "it holds a PEM key, and a secret is wanted"),
        (Alg::Hs256, &format!("Bag Attributes\n{public}"), "it holds a PEM key, and a secret is wanted"),
        (Alg::Hs256, &format!("ssh-rsa {SECRET}"), "it holds a PEM key, and a secret is wanted"),
        (
            Alg::Hs256,
            r#"[{"kty":"RSA","e":"AQAB","n":"0000000000000000"}]"#,
            "it holds JSON that is no JWK set",
        ),
        (
            Alg::Hs256,
            r#"{"error":"not_found","path":"/realms/main/certs"}"#,
            "it holds JSON that is no JWK set",
        ),
        (Alg::Rs256, SECRET, "it holds no public key of this kind in PEM"),
        (Alg::Ps256, "0\u{1}\u{2}\u{3}", "it holds no public key of this kind in PEM, and may be one in DER"),
        (Alg::Rs256, include_str!("keys/rs256.pem"), "it holds a private key, and the public one is wanted"),
        (Alg::Rs256, include_str!("keys/rsa1024.pub.pem"), "it has less than 2048 bits"),
        (Alg::Rs512, include_str!("keys/es256.pub.pem"), "it holds no public key of this kind in PEM"),
        (Alg::Es384, include_str!("keys/es256.pub.pem"), "it holds no public key of this kind in PEM"),
        (Alg::Es256, include_str!("keys/es384.cert.pem"), "it holds no public key of this kind in PEM"),
        (Alg::Es256, public, "it holds no public key of this kind in PEM"),
        (Alg::Es256, include_str!("keys/eddsa.pub.pem"), "it holds no public key of this kind in PEM"),
        (Alg::EdDsa, include_str!("keys/es256.pub.pem"), "it holds no public key of this kind in PEM"),
        (Alg::EdDsa, "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----", "it holds no public key"),
        (
            Alg::Rs256,
            "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----",
            "it holds a certificate that cannot be read",
        ),
    ];
    for (alg, text, message) in cases {
        let has_it = PUBLIC_KEYS.is_built_in || !alg.is_public();
        let message = if has_it { message } else { "this wshubd was built without" };
        let error = verifier(&[(alg, text, None)]).expect_err(message);
        assert!(error.contains(&format!("cannot be a key for {}: {message}", alg.name())), "{error}");
    }
    assert!(
        verifier(&[(Alg::Hs256, &format!("{}\n", &SECRET[..32]), None)]).is_ok(),
        "a newline is no byte of it"
    );
}

#[test]
fn a_public_key_may_be_read_by_all_but_written_by_none() {
    let scratch = Scratch::new();
    let mut auth = auth();
    for (mode, fine) in [(0o644, true), (0o444, true), (0o664, false), (0o646, false)] {
        let file = scratch.write("key", include_str!("keys/eddsa.pub.pem"), mode);
        auth.keys = vec![KeyFile { alg: Alg::EdDsa, file, kid: None }];
        let fine = fine && PUBLIC_KEYS.is_built_in;
        assert_eq!(Verifier::open(&auth, &scratch.0).is_ok(), fine, "{mode:o}");
    }
    let file = scratch.write("key", SECRET, 0o644);
    give_to_somebody(&file);
    auth.keys = vec![KeyFile { alg: Alg::Hs256, file, kid: None }];
    let error = Verifier::open(&auth, &scratch.0).unwrap_err().to_string();
    assert!(error.contains("has mode 0644, which lets others in"), "{error}");
}
