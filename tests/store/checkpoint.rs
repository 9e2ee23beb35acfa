//! What a clean stop leaves for the next daemon.

use std::fs;

use wshubd::edge::store::{Clocks, HubClock, checkpoint};
use wshubd::hub::Now;
use wshubd::protocol::{Moment, UnixTime};

use crate::child::Place;

fn place_with(hub: &[u8]) -> Place {
    let place = Place::new();
    fs::create_dir(place.store()).unwrap();
    let now = Now { moment: Moment(5), wall: UnixTime(1_795_000_000_000) };
    let clocks = Clocks { boot: "a".to_owned(), is_trusted: true };
    checkpoint::write(&place.store(), HubClock::new(now, clocks, None).stamp(now), hub).unwrap();
    place
}

#[test]
fn who_is_stopped_before_anybody_was_let_in_leaves_it_to_the_next() {
    let place = place_with(b"positions");
    for _ in 0..2 {
        assert_eq!(checkpoint::read(&place.store()).unwrap().unwrap().hub, b"positions");
    }
    checkpoint::remove(&place.store()).unwrap();
    assert!(checkpoint::read(&place.store()).unwrap().is_none());
    // There need not be any.
    checkpoint::remove(&place.store()).unwrap();
}

#[test]
fn what_is_not_whole_does_not_count() {
    let place = place_with(b"positions");
    let path = place.store().join("remains");
    let whole = fs::read(&path).unwrap();
    for bytes in 0..whole.len() {
        fs::write(&path, &whole[..bytes]).unwrap();
        assert!(checkpoint::read(&place.store()).is_err(), "{bytes} bytes");
    }
    let mut changed = whole;
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&path, changed).unwrap();
    assert!(checkpoint::read(&place.store()).is_err());
}
