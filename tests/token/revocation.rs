//! Revoked tokens, and the file of revocations.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use wshubd::edge::auth::jwt::Verifier;
use wshubd::edge::auth::revocation::file;
use wshubd::edge::auth::revocation::file::RevocationFile;
use wshubd::edge::auth::revocation::{Change, Revocations};
use wshubd::protocol::{RevocationTarget, TokenId, UnixTime, UserId};

use crate::keys::{NOW, Scratch, hs256, now, token};

const DAY: u64 = 24 * 3600;
const MONTH: u64 = 30 * DAY;

fn user(name: &str) -> RevocationTarget {
    RevocationTarget::User(UserId::new(name).unwrap())
}

fn jti(name: &str) -> RevocationTarget {
    RevocationTarget::Token(TokenId::new(name).unwrap())
}

fn at(second: u64) -> UnixTime {
    UnixTime::from_secs(second)
}

/// A verifier that refuses by a list, and that list.
fn verifier() -> (Verifier, Rc<RefCell<Revocations>>) {
    let (mut verifier, list) = (hs256(), Rc::<RefCell<Revocations>>::default());
    verifier.heed(Rc::clone(&list));
    (verifier, list)
}

/// What becomes of a token with such claims at a time, once or twice: the second time it is
/// known.
fn outcome(verifier: &Verifier, claims: Value, second: u64) -> &'static str {
    let mut claims = claims;
    claims["sub"] = json!("ada");
    let token = token(&claims);
    let codes =
        [(); 2].map(|()| verifier.verify(&token, at(second)).map_or_else(|fault| fault.code, |_| "fine"));
    assert_eq!(codes[0], codes[1]);
    codes[0]
}

#[test]
fn a_revocation_refuses_tokens_up_to_its_second() {
    let (verifier, list) = verifier();
    let claims = |iat: Value| json!({"exp": NOW + 60, "iat": iat});
    let known = token(&json!({"sub": "ada", "exp": NOW + 60, "iat": NOW}));
    assert!(verifier.verify(&known, now()).is_ok());
    list.borrow_mut().apply(Change::revoke(user("ada"), NOW));
    let fault = verifier.verify(&known, now()).unwrap_err();
    assert_eq!(fault.code, "token_revoked", "though it was known");
    for (iat, code) in [
        (json!(NOW), "token_revoked"),
        (json!(NOW as f64 + 0.9), "token_revoked"),
        (json!(NOW - 1), "token_revoked"),
        (json!("now"), "token_revoked"),
        (json!(null), "token_revoked"),
        (json!(NOW + 1), "fine"),
    ] {
        assert_eq!(outcome(&verifier, claims(iat.clone()), NOW), code, "{iat}");
    }
    assert_eq!(outcome(&verifier, json!({"exp": NOW + 60}), NOW), "token_revoked", "without iat");
    let other = token(&json!({"sub": "bob", "exp": NOW + 60, "iat": NOW}));
    assert!(verifier.verify(&other, now()).is_ok());
    list.borrow_mut().apply(Change::lift(user("ada")));
    assert!(verifier.verify(&known, now()).is_ok(), "taken again");
}

#[test]
fn one_token_is_refused_by_its_id_alone() {
    let (verifier, list) = verifier();
    list.borrow_mut().apply(Change::revoke(jti("t1"), NOW));
    let claims = |jti: Value, iat: u64| json!({"exp": NOW + 60, "iat": iat, "jti": jti});
    assert_eq!(outcome(&verifier, claims(json!("t1"), NOW), NOW), "token_revoked");
    assert_eq!(outcome(&verifier, claims(json!("t2"), NOW), NOW), "fine");
    assert_eq!(outcome(&verifier, claims(json!(null), NOW), NOW), "fine");
    assert_eq!(outcome(&verifier, claims(json!("t1"), NOW + 1), NOW), "fine", "an id that was used again");
    // A user of that name is somebody else's matter.
    let named = token(&json!({"sub": "t1", "exp": NOW + 60, "iat": NOW}));
    assert!(verifier.verify(&named, now()).is_ok());
}

#[test]
fn a_revoked_token_stays_revoked_for_all_its_life() {
    let (verifier, list) = verifier();
    let long = json!({"exp": NOW + 10 * MONTH, "iat": NOW - 1});
    assert_eq!(outcome(&verifier, long.clone(), NOW), "fine", "nothing is revoked");
    list.borrow_mut().apply(Change::revoke(user("bob"), NOW));
    // It could outlive a revocation, and nobody would know then.
    assert_eq!(outcome(&verifier, long.clone(), NOW), "token_revoked");
    list.borrow_mut().apply(Change::revoke(user("ada"), NOW));
    let mut refused = 0;
    for day in 0..300 {
        let code = outcome(&verifier, long.clone(), NOW + day * DAY);
        assert_eq!(code, "token_revoked", "on day {day}");
        refused += 1;
        // Those that end in time are told from it by when they were issued.
        let second = NOW + day * DAY + 1;
        assert_eq!(outcome(&verifier, json!({"exp": second + DAY, "iat": second}), second), "fine");
    }
    assert_eq!((refused, list.borrow().len()), (300, 0), "and the list is empty long since");
}

#[test]
fn no_token_that_outlives_a_kept_revocation_is_taken() {
    let (verifier, list) = verifier();
    list.borrow_mut().apply(Change::revoke(user("bob"), NOW));
    let ends = |exp: u64, second: u64| json!({"exp": exp, "iat": second});
    assert_eq!(outcome(&verifier, ends(NOW + MONTH, NOW + 1), NOW), "fine");
    assert_eq!(outcome(&verifier, ends(NOW + MONTH + 1, NOW + 1), NOW), "token_revoked");
    let later = NOW + MONTH;
    assert_eq!(outcome(&verifier, ends(later + 2 * MONTH, later), later), "fine", "none is kept any more");
}

#[test]
fn each_of_many_revocations_is_found_and_forgotten_in_time() {
    let (verifier, list) = verifier();
    for n in 0..10_000 {
        list.borrow_mut().apply(Change::revoke(user(&format!("user{n}")), NOW + n));
    }
    assert_eq!(list.borrow().len(), 10_000);
    let is_refused = |n: u64, second: u64| {
        let claims = json!({"sub": format!("user{n}"), "exp": second + 60, "iat": NOW - 5});
        verifier.verify(&token(&claims), at(second)).is_err_and(|fault| fault.code == "token_revoked")
    };
    for n in [0, 1, 4999, 9999] {
        assert!(is_refused(n, NOW + 9999));
    }
    assert!(!is_refused(10_000, NOW + 9999));
    assert_eq!(list.borrow().len(), 10_000, "nothing is forgotten early");
    assert!(is_refused(9999, NOW + MONTH + 4999));
    assert_eq!(list.borrow().len(), 5000);
}

/// Makes changes one after the other, each with a write of its own, as the daemon does.
fn change(
    list: &mut Revocations,
    file: RevocationFile,
    change: Change,
) -> (RevocationFile, std::io::Result<()>) {
    let mut next = list.clone();
    next.apply(change.clone());
    let (file, done) = file.write(&[change], &next).carry_out();
    if done.is_ok() {
        *list = next;
    }
    (file, done)
}

fn path(scratch: &Scratch) -> std::path::PathBuf {
    scratch.0.join("revocations")
}

fn read(directory: &Path) -> Revocations {
    file::open(directory).unwrap().0
}

#[test]
fn the_file_reads_back_after_each_change_and_stays_small() {
    let scratch = Scratch::new();
    let (mut list, mut file) = file::open(&scratch.0).unwrap();
    assert!(list.is_empty() && !path(&scratch).exists(), "looking leaves no trace");
    let mut random = 7_u64;
    let mut largest = 0;
    for n in 0..3000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let name = format!("u\"\\ {}", (random >> 33) % 40);
        let revoked = if random >> 62 & 1 == 0 { user(&name) } else { jti(&name) };
        // What is not revoked the daemon does not lift either.
        let is_lifted = random >> 61 & 1 == 0 && list.since(&revoked).is_some();
        let next = if is_lifted { Change::lift(revoked) } else { Change::revoke(revoked, NOW + n) };
        let (back, done) = change(&mut list, file, next);
        done.unwrap();
        file = back;
        let ttl = Some(Duration::from_secs(300));
        list.forget(at(NOW + n), ttl);
        if n % 97 == 0 {
            let mut found = read(&scratch.0);
            found.forget(at(NOW + n), ttl);
            assert_eq!(found.list(None, usize::MAX, ttl), list.list(None, usize::MAX, ttl), "after {n}");
        }
        largest = largest.max(fs::metadata(path(&scratch)).unwrap().len());
    }
    assert!(largest < 40_000, "{largest}");
    assert_eq!(fs::metadata(path(&scratch)).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!scratch.0.join("revocations.new").exists());
}

#[test]
fn a_torn_last_line_loses_nothing_else() {
    let scratch = Scratch::new();
    let (mut list, mut file) = file::open(&scratch.0).unwrap();
    for name in ["ada", "bob"] {
        file = change(&mut list, file, Change::revoke(user(name), NOW)).0;
    }
    let before = fs::read(path(&scratch)).unwrap();
    drop(change(&mut list, file, Change::revoke(user("eve"), NOW)));
    let whole = fs::read(path(&scratch)).unwrap();
    for end in before.len()..whole.len() {
        fs::write(path(&scratch), &whole[..end]).unwrap();
        let (mut found, file) = file::open(&scratch.0).unwrap();
        assert_eq!(found.len(), 2, "cut off at {end}");
        // What comes next is not behind what was cut off.
        change(&mut found, file, Change::revoke(user("zoe"), NOW)).1.unwrap();
        assert_eq!(read(&scratch.0).len(), 3);
    }
    fs::write(path(&scratch), &whole).unwrap();
    assert_eq!(read(&scratch.0).len(), 3);
    // Blocks that never came to the disk.
    let mut hole = whole.clone();
    hole[before.len()..].fill(0);
    fs::write(path(&scratch), &hole).unwrap();
    assert_eq!(read(&scratch.0).len(), 2);
}

#[test]
fn a_removed_or_replaced_file_is_written_anew() {
    let scratch = Scratch::new();
    let (mut list, mut file) = file::open(&scratch.0).unwrap();
    file = change(&mut list, file, Change::revoke(user("ada"), NOW)).0;
    fs::remove_file(path(&scratch)).unwrap();
    file = change(&mut list, file, Change::revoke(user("bob"), NOW)).0;
    assert_eq!(read(&scratch.0).len(), 2);
    // As `sed -i` does it.
    let text = fs::read(path(&scratch)).unwrap();
    fs::write(scratch.0.join("edited"), text).unwrap();
    fs::rename(scratch.0.join("edited"), path(&scratch)).unwrap();
    change(&mut list, file, Change::revoke(user("eve"), NOW)).1.unwrap();
    assert_eq!(read(&scratch.0).len(), 3);
}

#[test]
fn an_unusable_file_is_an_error_with_its_name_and_line() {
    let scratch = Scratch::new();
    let (mut list, mut file) = file::open(&scratch.0).unwrap();
    for name in ["ada", "bob", "eve"] {
        file = change(&mut list, file, Change::revoke(user(name), NOW)).0;
    }
    let whole = fs::read(path(&scratch)).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(path(&scratch), bytes).unwrap();
        file::open(&scratch.0).map(|(list, _)| list.len()).map_err(|error| error.to_string())
    };
    let lines: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] == b'\n').collect();
    // The last line end is what says that the line is whole.
    for at in 0..whole.len() - 1 {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        let error = refused(&damaged).unwrap_err();
        assert!(error.contains(&path(&scratch).display().to_string()), "{error}");
        if at > lines[0] + 1 && whole[at] != b'\n' {
            let line = lines.iter().filter(|end| **end < at).count() + 1;
            assert!(error.contains(&format!(":{line}: it is damaged")), "{at}: {error}");
        }
    }
    assert!(refused(b"").unwrap_err().contains("does not begin"));
    assert!(refused(b"wshubd revocations 2\n").unwrap_err().contains("does not begin"));
    fs::remove_file(path(&scratch)).unwrap();
    fs::create_dir(path(&scratch)).unwrap();
    let error = file::open(&scratch.0).map(drop).unwrap_err().to_string();
    assert!(error.contains("would be taken again"), "{error}");
}

#[test]
fn a_failed_write_is_undone_and_the_next_one_works() {
    let scratch = Scratch::new();
    let (mut list, file) = file::open(&scratch.0).unwrap();
    // In the place of the file that would be made.
    let in_the_way = scratch.0.join("revocations.new");
    fs::create_dir(&in_the_way).unwrap();
    let (file, done) = change(&mut list, file, Change::revoke(user("ada"), NOW));
    assert!(done.is_err() && list.is_empty() && read(&scratch.0).is_empty());
    fs::remove_dir(&in_the_way).unwrap();
    let (_, done) = change(&mut list, file, Change::revoke(user("bob"), NOW));
    done.unwrap();
    let found = read(&scratch.0);
    assert!(found.since(&user("bob")).is_some() && found.since(&user("ada")).is_none());
}

#[test]
fn a_list_comes_in_pages_with_the_end_of_each_entry() {
    let mut list = Revocations::default();
    for n in 0..2500 {
        list.apply(Change::revoke(
            if n % 2 == 0 { user(&n.to_string()) } else { jti(&n.to_string()) },
            NOW + n,
        ));
    }
    let ttl = Some(Duration::from_secs(MONTH));
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let (part, next) = list.list(after.as_deref(), 1000, ttl);
        assert!(part.len() <= 1000);
        seen.extend(part.into_iter().map(|entry| {
            assert_eq!(entry.until.unwrap().0 - entry.revoked_at.0, MONTH * 1000);
            (entry.user_id, entry.jti)
        }));
        after = next;
        if after.is_none() {
            break;
        }
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 2500);
}

#[test]
fn a_token_from_the_future_is_reported_to_outlive_revocation() {
    let (verifier, list) = verifier();
    let claims = |iat: u64| token(&json!({"sub": "ada", "jti": "t1", "exp": NOW + 600, "iat": iat}));
    let warnings = |iat: u64| verifier.check(&claims(iat), now()).warnings;
    assert_eq!(warnings(NOW + 30), [""; 0], "nothing is revoked");
    for revoked in [user("ada"), jti("t1")] {
        list.borrow_mut().apply(Change::revoke(revoked.clone(), NOW - 5));
        let messages = warnings(NOW + 30);
        assert!(
            messages[0].starts_with(&format!("it holds although it was revoked at {}", at(NOW - 5))),
            "{messages:?}"
        );
        assert!(messages[0].contains(&format!("issued at {} (`iat`)", at(NOW + 30))), "{messages:?}");
        assert!(warnings(NOW + 300)[0].contains("none that is made before then counts for this token"));
        // Made anew since then, as it should be.
        assert_eq!(warnings(NOW), [""; 0]);
        assert!(!verifier.check(&claims(NOW - 5), now()).valid);
        list.borrow_mut().apply(Change::lift(revoked));
    }
    list.borrow_mut().apply(Change::revoke(user("bob"), NOW));
    assert_eq!(warnings(NOW + 30), [""; 0], "somebody else is");
}

#[test]
fn effects_of_a_shorter_revocation_ttl_are_counted() {
    let messages = |before: Option<u64>, ttl: Option<u64>| {
        let mut list = Revocations::default();
        for (name, second) in [("gone", NOW - 40 * DAY), ("old", NOW - 10 * DAY), ("older", NOW - 20 * DAY)] {
            list.apply(Change::revoke(user(name), second));
        }
        list.apply(Change::revoke(jti("t1"), NOW - DAY));
        let [before, ttl] = [before, ttl].map(|days| days.map(|days| Duration::from_secs(days * DAY)));
        let shortened = list.shortened(now(), before, ttl);
        shortened.iter().flat_map(|shortened| shortened.warnings()).collect::<Vec<_>>()
    };
    for (before, ttl) in [(Some(30), Some(30)), (Some(30), Some(31)), (Some(30), None), (None, None)] {
        assert_eq!(messages(before, ttl), [""; 0], "{before:?} {ttl:?}");
    }
    // The one of 40 days was over before.
    let both = messages(Some(30), Some(5));
    let up_to = format!("revocations up to {}, 2 in number, are forgotten at once", at(NOW - 10 * DAY));
    assert!(both[0].contains(&up_to) && both[0].contains("of every user"), "{both:?}");
    let until = format!("until {}, when the last of the 1 revocations", at(NOW + 4 * DAY));
    assert!(both[1].contains(&until) && both[1].contains("more than 5days ahead are refused"), "{both:?}");
    let kept = messages(Some(30), Some(25));
    assert!(kept.len() == 1 && kept[0].contains("last of the 3 revocations"), "{kept:?}");
    let for_ever = messages(None, Some(30));
    assert!(for_ever[0].contains("1 in number") && for_ever.len() == 2, "{for_ever:?}");
    let all = messages(Some(30), Some(1));
    assert!(all.len() == 1 && all[0].contains("3 in number"), "{all:?}");
}
