//! What a process that was killed has given out is known exactly, on the same run
//! of the machine.

use std::path::PathBuf;

use wshubd::edge::store::seq_file::{SeqFile, SeqFileEntry, SeqFileOwner};
use wshubd::hub::LogKey;
use wshubd::protocol::{Channel, UserId};

fn channel(name: &str, epoch: u64, seq: u64) -> SeqFileEntry {
    SeqFileEntry { log: LogKey::Channel(Channel::new(name).unwrap()), epoch, seq }
}

fn owner(boot: &str) -> SeqFileOwner {
    SeqFileOwner { boot: boot.to_owned(), state: (1, 2) }
}

fn path(story: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("wshubd-positions-{}-{story}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory.join("positions")
}

fn sorted(mut positions: Vec<SeqFileEntry>) -> Vec<SeqFileEntry> {
    positions.sort_by(|a, b| a.log.cmp(&b.log));
    positions
}

#[test]
fn written_positions_are_there_after_a_kill() {
    let path = path("written");
    let inbox = SeqFileEntry { log: LogKey::Inbox(UserId::new("ann").unwrap()), epoch: 7, seq: 1 };
    let mut positions = SeqFile::create(&path, &owner("boot"), std::slice::from_ref(&inbox)).unwrap();
    for seq in 1..=1000 {
        positions.grew(&channel("orders", 1, 1).log, 1, seq);
    }
    positions.write(|_| true).unwrap();
    positions.grew(&channel("news", 1, 1).log, u64::MAX, 3);
    positions.write(|_| true).unwrap();
    std::mem::forget(positions);
    let expected = sorted(vec![inbox, channel("orders", 1, 1000), channel("news", u64::MAX, 3)]);
    assert_eq!(sorted(SeqFile::read(&path, &owner("boot"))), expected);
}

#[test]
fn positions_of_another_boot_do_not_count() {
    let path = path("boot");
    drop(SeqFile::create(&path, &owner("boot"), &[channel("orders", 1, 5)]).unwrap());
    assert_eq!(SeqFile::read(&path, &owner("another")), []);
}

#[test]
fn positions_of_another_state_directory_do_not_count() {
    let path = path("state");
    drop(SeqFile::create(&path, &owner("boot"), &[channel("orders", 1, 5)]).unwrap());
    assert_eq!(SeqFile::read(&path, &SeqFileOwner { state: (1, 3), ..owner("boot") }), []);
    assert_eq!(SeqFile::read(&path, &owner("boot")), [channel("orders", 1, 5)]);
}

#[test]
fn slots_of_forgotten_logs_are_given_to_others() {
    let path = path("slots");
    let mut positions = SeqFile::create(&path, &owner("boot"), &[]).unwrap();
    // Three times as many as there are slots, and never more than a hundred at a time.
    let name = |number: u64| channel(&format!("job:{number}"), 7, number + 1);
    for number in 0..12_288 {
        let SeqFileEntry { log, epoch, seq } = name(number);
        positions.grew(&log, epoch, seq);
        let is_known =
            |log: &LogKey| (number.saturating_sub(99)..=number).any(|known| name(known).log == *log);
        positions.write(is_known).unwrap();
    }
    let read = SeqFile::read(&path, &owner("boot"));
    for number in 12_188..12_288 {
        let found: Vec<_> = read.iter().filter(|found| found.log == name(number).log).collect();
        assert_eq!(found, [&name(number)], "each is there once");
    }
    assert!(std::fs::metadata(&path).unwrap().len() <= 4097 * 256);
}

#[test]
fn log_that_returns_is_found_in_its_new_slot_alone() {
    let path = path("returns");
    let mut positions = SeqFile::create(&path, &owner("boot"), &[]).unwrap();
    let mut grow = |log: &SeqFileEntry, forgotten: &str| {
        positions.grew(&log.log, log.epoch, log.seq);
        let is_known = |log: &LogKey| !forgotten.contains(&format!("{log:?}"));
        positions.write(is_known).unwrap();
    };
    let returning = channel("returns", 1, 5);
    let forgotten = format!("{:?}", returning.log);
    grow(&returning, "");
    for number in 0..4096 {
        grow(&channel(&format!("job:{number}"), 1, 1), &forgotten);
    }
    // All are known again but one of the others, whose slot it gets.
    let other = format!("{:?}", channel("job:7", 1, 1).log);
    grow(&channel("returns", 2, 1), &other);
    for number in 0..4096 {
        grow(&channel("returns", 2, 1 + number), &other);
    }
    let read = SeqFile::read(&path, &owner("boot"));
    let found: Vec<_> = read.iter().filter(|found| found.log == returning.log).collect();
    assert_eq!(found, [&channel("returns", 2, 4096)]);
}

#[test]
fn new_file_replaces_the_old_one_as_a_whole() {
    let path = path("anew");
    drop(SeqFile::create(&path, &owner("boot"), &[channel("orders", 1, 5), channel("news", 1, 5)]).unwrap());
    // As a process leaves it that is killed before the new one is whole.
    let mut unfinished = path.clone().into_os_string();
    unfinished.push(".new");
    std::fs::write(&unfinished, b"half").unwrap();
    assert_eq!(SeqFile::read(&path, &owner("boot")).len(), 2);
    drop(SeqFile::create(&path, &owner("boot"), &[channel("orders", 1, 9)]).unwrap());
    assert_eq!(SeqFile::read(&path, &owner("boot")), [channel("orders", 1, 9)]);
}

#[test]
fn old_file_is_gone_where_no_new_one_can_be_made() {
    let path = path("refused");
    drop(SeqFile::create(&path, &owner("boot"), &[channel("orders", 1, 5)]).unwrap());
    let mut unfinished = path.clone().into_os_string();
    unfinished.push(".new");
    std::fs::create_dir_all(&unfinished).unwrap();
    assert!(SeqFile::create(&path, &owner("boot"), &[channel("orders", 1, 9)]).is_err());
    assert_eq!(SeqFile::read(&path, &owner("boot")), []);
}

#[test]
fn damaged_slot_does_not_count_and_the_others_do() {
    let path = path("damaged");
    drop(SeqFile::create(&path, &owner("boot"), &[channel("orders", 1, 5)]).unwrap());
    let whole = std::fs::read(&path).unwrap();
    let mut longer = whole.clone();
    longer.extend_from_slice(&[9; 300]);
    std::fs::write(&path, &longer).unwrap();
    assert_eq!(SeqFile::read(&path, &owner("boot")), [channel("orders", 1, 5)]);
    for at in whole.len() / 2..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(SeqFile::read(&path, &owner("boot")), [], "{at}");
    }
}

#[test]
fn after_a_clean_stop_nothing_is_left() {
    let path = path("clean");
    SeqFile::create(&path, &owner("boot"), &[channel("orders", 1, 5)]).unwrap().remove();
    assert_eq!(SeqFile::read(&path, &owner("boot")), []);
}
