//! What a clean stop leaves for the next daemon.

use std::fs;

use wshubd::edge::store::{Clocks, HubClock, hub_checkpoint};
use wshubd::hub::Now;
use wshubd::protocol::{Moment, UnixTime};

use crate::child::TestDirectory;

fn place_with(hub: &[u8]) -> TestDirectory {
    let directory = TestDirectory::new();
    fs::create_dir(directory.store()).unwrap();
    let now = Now { moment: Moment(5), wall: UnixTime(1_795_000_000_000) };
    let clocks = Clocks { boot: "a".to_owned(), is_trusted: true };
    hub_checkpoint::write(&directory.store(), HubClock::new(now, clocks, None).stamp(now), hub).unwrap();
    directory
}

#[test]
fn checkpoint_stays_until_a_daemon_has_removed_it() {
    let directory = place_with(b"positions");
    for _ in 0..2 {
        assert_eq!(hub_checkpoint::read(&directory.store()).unwrap().unwrap().hub, b"positions");
    }
    hub_checkpoint::remove(&directory.store()).unwrap();
    assert!(hub_checkpoint::read(&directory.store()).unwrap().is_none());
    // There need not be any.
    hub_checkpoint::remove(&directory.store()).unwrap();
}

#[test]
fn damaged_checkpoint_does_not_count() {
    let directory = place_with(b"positions");
    let path = directory.store().join("remains");
    let whole = fs::read(&path).unwrap();
    for bytes in 0..whole.len() {
        fs::write(&path, &whole[..bytes]).unwrap();
        assert!(hub_checkpoint::read(&directory.store()).is_err(), "{bytes} bytes");
    }
    let mut changed = whole;
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&path, changed).unwrap();
    assert!(hub_checkpoint::read(&directory.store()).is_err());
}
