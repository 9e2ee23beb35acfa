//! What a process that was killed has given out is known exactly, on the same run
//! of the machine.

use std::path::PathBuf;

use wshubd::edge::store::positions::{Position, Positions};
use wshubd::hub::LogKey;
use wshubd::protocol::{Channel, UserId};

fn channel(name: &str, epoch: u64, seq: u64) -> Position {
    Position { log: LogKey::Channel(Channel::new(name).unwrap()), epoch, seq }
}

fn path(story: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("wshubd-positions-{}-{story}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory.join("positions")
}

fn sorted(mut positions: Vec<Position>) -> Vec<Position> {
    positions.sort_by(|a, b| a.log.cmp(&b.log));
    positions
}

#[test]
fn what_was_written_is_there_although_nobody_said_goodbye() {
    let path = path("written");
    let inbox = Position { log: LogKey::Inbox(UserId::new("ann").unwrap()), epoch: 7, seq: 1 };
    let mut positions = Positions::create(&path, "boot", std::slice::from_ref(&inbox)).unwrap();
    for seq in 1..=1000 {
        positions.grew(&channel("orders", 1, 1).log, 1, seq);
    }
    positions.write().unwrap();
    positions.grew(&channel("news", 1, 1).log, u64::MAX, 3);
    positions.write().unwrap();
    std::mem::forget(positions);
    let expected = sorted(vec![inbox, channel("orders", 1, 1000), channel("news", u64::MAX, 3)]);
    assert_eq!(sorted(Positions::read(&path, "boot")), expected);
}

#[test]
fn of_another_run_of_the_machine_nothing_counts() {
    let path = path("boot");
    drop(Positions::create(&path, "boot", &[channel("orders", 1, 5)]).unwrap());
    assert_eq!(Positions::read(&path, "another"), []);
}

#[test]
fn what_is_damaged_does_not_count_and_the_rest_does() {
    let path = path("damaged");
    drop(Positions::create(&path, "boot", &[channel("orders", 1, 5)]).unwrap());
    let whole = std::fs::read(&path).unwrap();
    let mut longer = whole.clone();
    longer.extend_from_slice(&[9; 300]);
    std::fs::write(&path, &longer).unwrap();
    assert_eq!(Positions::read(&path, "boot"), [channel("orders", 1, 5)]);
    for at in whole.len() / 2..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(Positions::read(&path, "boot"), [], "{at}");
    }
}

#[test]
fn after_a_clean_stop_nothing_is_left() {
    let path = path("clean");
    Positions::create(&path, "boot", &[channel("orders", 1, 5)]).unwrap().remove();
    assert_eq!(Positions::read(&path, "boot"), []);
}
