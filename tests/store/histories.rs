//! Random histories of the store beside a plain account of what must be there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use wshubd::hub::settings::WriteThrough;
use wshubd::hub::{Input, LogKey, StoreEvent};

use crate::harness::{DELAY, StoreHarness, log};

/// Small, so that generations are begun, emptied and dropped all the time.
const CAP: u64 = 2 << 20;

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What is known of one message.
struct Known {
    text: String,
    disk: WriteThrough,
    is_stored: bool,
}

/// What is known of one log.
#[derive(Default)]
struct Account {
    live: BTreeMap<u64, Known>,
    last: u64,
    /// Forgotten, which the disk may not have been ordered: it may come back.
    fading: BTreeMap<u64, Vec<String>>,
}

struct History {
    harness: StoreHarness,
    dice: Dice,
    logs: Vec<(LogKey, Account)>,
    written: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let logs = ["a", "b", "c", "d"].into_iter().map(|name| (log(name), Account::default())).collect();
        Self { harness: StoreHarness::with_capacity(CAP), dice: Dice(seed), logs, written: 0 }
    }

    fn step(&mut self) {
        let which = self.dice.below(self.logs.len() as u64) as usize;
        match self.dice.below(43) {
            0..=17 => self.keep(which),
            18..=24 => self.forget(which),
            25 => self.begin_anew(which),
            26..=33 => self.pass(),
            34 => self.commit_unanswered(),
            35 => self.crash(),
            36 => self.restart(),
            37..=39 => self.hand_over(),
            _ => self.read(which),
        }
    }

    fn keep(&mut self, which: usize) {
        self.written += 1;
        let size = [5, 50, 500, 20_000][self.dice.below(4) as usize];
        let text = format!("{} {}", self.written, "x".repeat(self.dice.below(size) as usize));
        let disk = [WriteThrough::Behind, WriteThrough::Behind, WriteThrough::Now, WriteThrough::Stop]
            [self.dice.below(4) as usize];
        let (key, account) = &mut self.logs[which];
        account.last += 1 + self.dice.below(2);
        self.harness.keep(key, account.last, disk, &text);
        account.live.insert(account.last, Known { text, disk, is_stored: false });
        // Half of them is written while more comes.
        if self.dice.below(2) == 0 {
            self.harness.tick();
        }
    }

    fn forget(&mut self, which: usize) {
        let (key, account) = &mut self.logs[which];
        let (Some(first), Some(last)) = (account.live.keys().next(), account.live.keys().next_back()) else {
            return;
        };
        let from = if self.dice.below(2) == 0 { *first } else { first + self.dice.below(last - first + 1) };
        let to = (from + self.dice.below(1 + (last - from) * 2)).min(*last);
        self.harness.forget(key, from, to);
        account.forget(from, to);
    }

    /// The hub has forgotten a topic, whose numbers begin anew.
    fn begin_anew(&mut self, which: usize) {
        let (key, account) = &mut self.logs[which];
        self.harness.forget(key, 1, account.last.max(1));
        account.forget(1, account.last);
        account.last = 0;
        self.keep(which);
    }

    fn pass(&mut self) {
        let time = Duration::from_millis(self.dice.below(8000));
        // What is forgotten during a commit has its time after that.
        self.harness.settle();
        self.harness.later(time);
        self.take_facts();
        assert_eq!(self.harness.store.failure(), None);
        assert!(self.harness.used() <= CAP, "{}", self.harness.used());
        if time >= Duration::from_secs(6) {
            for (_, account) in &mut self.logs {
                account.fading.clear();
            }
        }
    }

    /// The process dies after a commit, and before its response.
    fn commit_unanswered(&mut self) {
        self.harness.settle();
        self.harness.advance(DELAY);
        self.harness.commit_unanswered();
        self.take_facts();
        // What was written may be what is forgotten before another attempt.
        let which = self.dice.below(self.logs.len() as u64) as usize;
        self.forget(which);
        while self.harness.store.failure().is_some() {
            self.harness.later(Duration::from_secs(30));
        }
        self.take_facts();
    }

    fn crash(&mut self) {
        self.take_facts();
        self.harness.crash();
        self.find(|known| known.is_stored);
    }

    /// Another daemon takes over, at any moment: all is as it was.
    fn hand_over(&mut self) {
        match self.dice.below(3) {
            0 => self.harness.settle(),
            1 => {
                self.harness.advance(DELAY);
                self.harness.tick();
            }
            _ => {}
        }
        self.take_facts();
        self.harness.hand_over();
    }

    fn restart(&mut self) {
        self.harness.stop();
        self.take_facts();
        self.harness.crash();
        for (_, account) in &mut self.logs {
            account.fading.clear();
        }
        self.find(|known| known.disk != WriteThrough::Never);
    }

    /// What is found is what is owed at least, and nothing that was forgotten and
    /// known to be.
    fn find(&mut self, is_owed: impl Fn(&Known) -> bool) {
        let mut found: BTreeMap<LogKey, (u64, BTreeSet<u64>)> = BTreeMap::new();
        for one in self.harness.load() {
            found.insert(one.log, (one.last, one.kept.iter().map(|kept| kept.seq).collect()));
        }
        for (key, account) in &mut self.logs {
            let (last, found) = found.remove(key).unwrap_or_default();
            for (seq, known) in &account.live {
                assert!(!is_owed(known) || found.contains(seq), "{key:?} {seq} is lost: {found:?}");
            }
            let read = self.harness.read(key, 1000, 1 << 20);
            assert!(read.iter().map(|(seq, _)| seq).eq(&found), "{key:?} {found:?}");
            for (seq, text) in &read {
                let owed = account.live.get(seq).filter(|known| is_owed(known));
                let possible = match owed {
                    Some(known) => known.text == *text,
                    None => account.may_have(*seq, text),
                };
                assert!(possible, "{key:?} {seq} has come back");
            }
            let known = |text| Known { text, disk: WriteThrough::Behind, is_stored: true };
            account.live = read.into_iter().map(|(seq, text)| (seq, known(text))).collect();
            account.last = account.last.max(last);
            account.fading.clear();
        }
        self.harness.events();
    }

    fn read(&mut self, which: usize) {
        let count = 1 + self.dice.below(20) as usize;
        let bytes = self.dice.below(50_000) as usize;
        let key = self.logs[which].0.clone();
        let read = self.harness.read(&key, count, bytes);
        self.take_facts();
        let live = self.logs[which].1.live.iter().map(|(seq, known)| (*seq, known.text.clone()));
        assert_eq!(short(read), short(live.collect()), "{key:?}");
    }

    fn take_facts(&mut self) {
        for fact in self.harness.inputs.drain(..) {
            let Input::Store(StoreEvent::Stored { log, from, to }) = fact else { continue };
            let account =
                self.logs.iter_mut().find(|(key, _)| *key == log).map(|(_, account)| account).unwrap();
            for (_, known) in account.live.range_mut(from..=to) {
                known.is_stored = true;
            }
        }
    }
}

/// Texts are long and alike but for their beginning.
fn short(read: Vec<(u64, String)>) -> Vec<(u64, String, usize)> {
    read.into_iter().map(|(seq, text)| (seq, text.chars().take(8).collect(), text.len())).collect()
}

impl Account {
    fn may_have(&self, seq: u64, text: &String) -> bool {
        let is_live = self.live.get(&seq).is_some_and(|known| known.text == *text);
        is_live || self.fading.get(&seq).is_some_and(|texts| texts.contains(text))
    }

    fn forget(&mut self, from: u64, to: u64) {
        let gone: Vec<u64> = self.live.range(from..=to).map(|(seq, _)| *seq).collect();
        for seq in gone {
            if let Some(known) = self.live.remove(&seq) {
                self.fading.entry(seq).or_default().push(known.text);
            }
        }
    }
}

#[test]
fn no_history_loses_a_message_or_brings_one_back() {
    let seeds = std::env::var("WSHUB_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in seeds.map_or(1..5, |seed| seed..seed + 1) {
        println!("WSHUB_SEED={seed}");
        let mut history = History::new(seed);
        for _ in 0..150 {
            history.step();
        }
    }
}
