//! Records of the store: values and parts of messages as they lie in its database, and files
//! that are a write-ahead log, with right checksums around any content, or none.

#![no_main]

mod pieces;

use std::fs;
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use pieces::Cuts;
use wshubd::edge::store::server::error::StoreResult;
use wshubd::edge::store::server::generation::{ReadDemand, RecordSink, StoredMessage};
use wshubd::edge::store::server::record;
use wshubd::edge::store::server::record::{AssembledMessage, Assembly};
use wshubd::edge::store::server::wal::Wal;

/// As in the name of the file.
const SALT: u64 = 0x0123_4567_89ab_cdef;

/// The kinds of records that [`Wal`] knows.
const MESSAGE: u8 = 1;
const MARK: u8 = 2;
const GONE: u8 = 3;
const END: u8 = 4;

thread_local! {
    static DIRECTORY: PathBuf = directory();
}

/// Each log is synced when it is opened: `run` has temporary files in memory.
fn directory() -> PathBuf {
    let directory = std::env::temp_dir().join(format!("wshubd-fuzz-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("the directory for temporary files takes one");
    directory
}

/// Any bytes as values, and as the contents of a value.
fn check_values(bytes: &[u8]) {
    let (place, value) = bytes.split_at(bytes.len().min(24));
    let _ = record::unseal(place, value);
    if let Some(texts) = record::split::<3>(bytes) {
        assert_eq!(record::join(texts), bytes, "texts are joined as they came apart");
    }
    let _ = (record::split::<1>(bytes), record::split::<2>(bytes));
}

/// A message in parts, of which some are damaged, gone, or of another message.
fn check_parts(cuts: &mut Cuts, text: &[u8]) {
    let long = text.repeat(1 + cuts.below(40));
    let written = |seq: u64, text: &[u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
        let sealed = record::cut(text).map(|(part, content)| {
            let place = record::message_key("clogs", seq, part);
            let value = record::seal(&place, &content);
            (place, value)
        });
        let mut parts: Vec<_> = sealed.collect();
        parts.sort();
        parts
    };
    let mut parts = written(1, &long);
    parts.extend(written(2, text));
    let mut is_changed = [false; 2];
    for _ in 0..cuts.below(4) {
        let at = cuts.below(parts.len());
        let of_the_first = parts[at].0 < record::message_key("clogs", 2, 0);
        is_changed[usize::from(!of_the_first)] = true;
        match cuts.below(3) {
            0 => parts[at].1 = text[..text.len().min(40)].to_vec(),
            1 => {
                let byte = cuts.below(parts[at].1.len().max(1));
                if let Some(byte) = parts[at].1.get_mut(byte) {
                    *byte ^= 0x10;
                }
            }
            _ if parts.len() > 1 => drop(parts.remove(at)),
            _ => {}
        }
    }
    let mut assembly = Assembly::default();
    let mut found: Vec<AssembledMessage> =
        parts.iter().filter_map(|(place, value)| assembly.push(place, value)).collect();
    found.extend(assembly.finish());
    let mut is_whole = [false; 2];
    for found in found {
        if let AssembledMessage::Whole { seq, text: read } = found {
            assert_eq!(read, if seq == 1 { &*long } else { text }, "a message is whole, or damaged");
            is_whole[seq as usize - 1] = true;
        }
    }
    for (is_whole, is_changed) in is_whole.into_iter().zip(is_changed) {
        assert!(is_whole || is_changed, "what nobody changed is whole");
    }
}

/// The recovered entries of a log.
#[derive(Default)]
struct Loaded {
    messages: Vec<(String, u64, String, String)>,
    others: usize,
    damaged: u64,
}

impl RecordSink for Loaded {
    fn message(
        &mut self,
        StoredMessage { log, seq, head, body }: StoredMessage<'_>,
    ) -> StoreResult<ReadDemand> {
        self.messages.push((log.to_owned(), seq, head.to_owned(), body.to_owned()));
        Ok(ReadDemand::More)
    }

    fn mark(&mut self, _: &str, _: &str) -> StoreResult {
        self.others += 1;
        Ok(())
    }

    fn gone(&mut self, _: &str, _: u64, _: u64) -> StoreResult {
        self.others += 1;
        Ok(())
    }

    fn damaged(&mut self, _: String, count: u64) {
        self.damaged += count;
    }
}

/// A record with its header, behind what is there.
fn add(log: &mut Vec<u8>, content: &[u8]) {
    let at = log.len() as u64;
    let sum = {
        let mut sum = crc32fast::Hasher::new();
        for part in [&SALT.to_be_bytes()[..], &at.to_be_bytes(), content] {
            sum.update(part);
        }
        sum.finalize()
    };
    log.extend((content.len() as u32).to_be_bytes());
    log.extend(sum.to_be_bytes());
    log.extend(content);
}

/// A log that the input is cut into: records as they should be, any content with a right
/// checksum, and holes. Returns the messages in it as well.
fn log_of(cuts: &mut Cuts, bytes: &[u8]) -> (Vec<u8>, Vec<(String, u64, String, String)>) {
    let (mut log, mut messages, mut others) = (Vec::new(), Vec::new(), 0u64);
    for (seq, piece) in (1u64..).zip(cuts.pieces(bytes)) {
        let text = String::from_utf8_lossy(piece);
        match cuts.below(8) {
            0 => log.extend(piece),
            1 => {
                // Counts beyond what is there are damage; beyond all numbers nobody
                // wrote them.
                let is_read_otherwise = matches!(piece.first(), Some(&(MESSAGE..=END)));
                if !is_read_otherwise {
                    add(&mut log, piece);
                }
            }
            2 => {
                others += 1;
                add(&mut log, &[&[MARK][..], &record::join(["clogs", &text])].concat());
            }
            3 => {
                others += 1;
                let ends = [1u64.to_be_bytes(), seq.to_be_bytes()].concat();
                add(&mut log, &[&[GONE][..], &ends, b"1 clogs"].concat());
            }
            4 | 5 => {
                let counts = [(messages.len() as u64).to_be_bytes(), others.to_be_bytes()].concat();
                add(&mut log, &[&[END][..], &counts].concat());
            }
            _ => {
                let texts = ["clogs", "[]", &text];
                add(&mut log, &[&[MESSAGE][..], &seq.to_be_bytes(), &record::join(texts)].concat());
                messages.push(("clogs".to_owned(), seq, "[]".to_owned(), text.into_owned()));
            }
        }
    }
    (log, messages)
}

fn check_log(cuts: &mut Cuts, bytes: &[u8]) {
    let (log, messages) = log_of(cuts, bytes);
    let loaded = DIRECTORY.with(|directory| {
        fs::write(directory.join(format!("wal-{SALT:016x}")), &log).expect("a file in it");
        let wal = Wal::open(directory).expect("a file can be read").expect("there is one");
        let mut loaded = Loaded::default();
        wal.load(&mut loaded).expect("it can be read again");
        assert_eq!(loaded.damaged, wal.damaged(), "what is damaged is told");
        loaded
    });
    // Behind the first hole of a commit that has not ended all is as if it never was.
    let mut all = messages.iter();
    let is_in_order = loaded.messages.iter().all(|message| all.any(|written| written == message));
    assert!(is_in_order, "only what was written is told, in its order: {:?}", loaded.messages);
    assert!(loaded.messages.len() as u64 + loaded.damaged <= messages.len() as u64 + bytes.len() as u64);
}

fuzz_target!(|input: &[u8]| {
    let Some((mut cuts, bytes)) = Cuts::split_off(input) else { return };
    check_values(bytes);
    check_parts(&mut cuts, bytes);
    check_log(&mut cuts, bytes);
});
