//! The form of records in a database: keys, values, and how a message is cut into parts and
//! assembled again.

use sha2::{Digest, Sha256};

/// The form of a value.
const FORMAT: u8 = 1;

/// The longest value. The engine puts a page that is longer than a quarter of a
/// segment into a file of its own, which it does not sync; a page has up to 17
/// values with their places, so a longer value could make such a page.
const VALUE: usize = 440;
/// The format and the checksum before every value.
const SEAL: usize = 1 + 4;
/// In every part: the checksum of the whole message, and its number of parts.
const PART: usize = 4 + 4;
/// What of a message is in one part.
const CHUNK: usize = VALUE - SEAL - PART;

/// What stands for the name of a log in keys: short and of one length, so that pages of keys
/// stay small whatever the name is.
pub(super) type LogHash = [u8; 12];

pub(super) fn log_hash(log: &str) -> LogHash {
    let digest = Sha256::digest(log.as_bytes());
    let mut place = LogHash::default();
    place.copy_from_slice(&digest[..12]);
    place
}

/// The key of one part of a message: log, seq, part, so that the parts of a
/// message lie side by side, and messages of a log in their order.
pub fn message_key(log: &str, seq: u64, part: u32) -> Vec<u8> {
    [&log_hash(log)[..], &seq.to_be_bytes(), &part.to_be_bytes()].concat()
}

/// The key of the state of a log.
pub(super) fn mark_key(log: &str) -> Vec<u8> {
    log_hash(log).to_vec()
}

/// The key of a range of messages that are kept no longer.
pub(super) fn gone_key(log: &str, from: u64, to: u64) -> Vec<u8> {
    [&log_hash(log)[..], &from.to_be_bytes(), &to.to_be_bytes()].concat()
}

/// What stands in the key of a part: the message, its seq, the part.
fn read_message_key(place: &[u8]) -> Option<(&[u8], u64, u32)> {
    let (message, part) = place.split_last_chunk::<4>()?;
    let (log, seq) = message.split_last_chunk::<8>()?;
    (log.len() == size_of::<LogHash>()).then_some((
        message,
        u64::from_be_bytes(*seq),
        u32::from_be_bytes(*part),
    ))
}

/// Both ends of a range, as its key has them.
pub(super) fn read_gone_key(place: &[u8]) -> Option<(u64, u64)> {
    let (rest, to) = place.split_last_chunk::<8>()?;
    let (_, from) = rest.split_last_chunk::<8>()?;
    Some((u64::from_be_bytes(*from), u64::from_be_bytes(*to)))
}

/// A value as it is written: format, checksum of key and content, content.
pub fn seal(place: &[u8], content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(SEAL + content.len());
    value.push(FORMAT);
    value.extend(checksum(&[place, content]).to_be_bytes());
    value.extend(content);
    value
}

/// The content of a value, if it is what was written under this key.
pub fn unseal<'a>(place: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (format, value) = value.split_first()?;
    let (sum, content) = value.split_first_chunk::<4>()?;
    let right = *format == FORMAT && u32::from_be_bytes(*sum) == checksum(&[place, content]);
    right.then_some(content)
}

pub(super) fn checksum(texts: &[&[u8]]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    for text in texts {
        sum.update(text);
    }
    sum.finalize()
}

/// Several texts as one, each but the last with its length before it.
pub fn join<const N: usize>(texts: [&str; N]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(texts.iter().map(|text| text.len() + 4).sum());
    join_to(&mut joined, texts);
    joined
}

/// The same, behind what is there.
pub(super) fn join_to<const N: usize>(joined: &mut Vec<u8>, texts: [&str; N]) {
    for (at, text) in texts.into_iter().enumerate() {
        if at + 1 < N {
            joined.extend((text.len() as u32).to_be_bytes());
        }
        joined.extend(text.as_bytes());
    }
}

/// The texts of which one was made.
pub fn split<const N: usize>(mut joined: &[u8]) -> Option<[&str; N]> {
    let mut texts = [""; N];
    for (at, text) in texts.iter_mut().enumerate() {
        let mut bytes = joined;
        if at + 1 < N {
            let (length, rest) = joined.split_first_chunk::<4>()?;
            (bytes, joined) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        }
        *text = std::str::from_utf8(bytes).ok()?;
    }
    Some(texts)
}

/// A message in parts, each with its number and its content. The first part comes
/// last: the engine keeps what was written before something else if it keeps that,
/// so after a crash a message is there if its first part is.
pub fn cut(text: &[u8]) -> impl Iterator<Item = (u32, Vec<u8>)> {
    let whole = checksum(&[text]).to_be_bytes();
    let parts = text.len().div_ceil(CHUNK).max(1) as u32;
    (0..parts).rev().map(move |part| {
        let from = part as usize * CHUNK;
        let chunk = &text[from..text.len().min(from + CHUNK)];
        (part, [&whole[..], &parts.to_be_bytes(), chunk].concat())
    })
}

/// What became of the parts of a message.
pub enum AssembledMessage {
    /// All are there: the text that was cut.
    Whole { seq: u64, text: Vec<u8> },
    /// Some are wrong or missing.
    Damaged { seq: u64 },
}

/// Assembles messages from their parts, which come in the order of keys.
#[derive(Default)]
pub struct Assembly {
    partial: Option<MessageInParts>,
}

struct MessageInParts {
    /// Log and seq, as in the key.
    message: Vec<u8>,
    seq: u64,
    /// As the first part has it; none, if that cannot be read.
    heading: Option<MessageHeading>,
    text: Vec<u8>,
    next: u32,
}

struct MessageHeading {
    whole: [u8; 4],
    parts: u32,
}

impl Assembly {
    /// Takes the next part; returns the message before it, if this is of another.
    pub fn push(&mut self, place: &[u8], value: &[u8]) -> Option<AssembledMessage> {
        let (message, seq, part) = read_message_key(place)?;
        let same = self.partial.as_ref().is_some_and(|partial| partial.message == message);
        let found = if same { None } else { self.finish() };
        let content = unseal(place, value).and_then(PartContent::read);
        match &mut self.partial {
            Some(partial) => partial.add(part, content),
            // A message whose first part was never written was never committed.
            None if part == 0 => self.partial = Some(MessageInParts::begin(message, seq, content)),
            None => {}
        }
        found
    }

    /// Returns the last message.
    pub fn finish(&mut self) -> Option<AssembledMessage> {
        let MessageInParts { seq, heading, text, next, .. } = self.partial.take()?;
        let whole = heading.is_some_and(|heading| {
            heading.parts == next && heading.whole == checksum(&[&text]).to_be_bytes()
        });
        Some(if whole { AssembledMessage::Whole { seq, text } } else { AssembledMessage::Damaged { seq } })
    }
}

impl MessageInParts {
    fn begin(message: &[u8], seq: u64, first: Option<PartContent<'_>>) -> Self {
        let message = message.to_vec();
        match first {
            Some(PartContent { whole, parts, chunk }) => Self {
                message,
                seq,
                heading: Some(MessageHeading { whole, parts }),
                text: chunk.to_vec(),
                next: 1,
            },
            None => Self { message, seq, heading: None, text: Vec::new(), next: 1 },
        }
    }

    /// Adds a part. One of another message that had this place before is not
    /// added, and is missed if it is one that is needed.
    fn add(&mut self, part: u32, content: Option<PartContent<'_>>) {
        let (Some(heading), Some(content)) = (&self.heading, content) else { return };
        let mine = content.whole == heading.whole && content.parts == heading.parts;
        if mine && part == self.next && part < heading.parts {
            self.text.extend(content.chunk);
            self.next += 1;
        }
    }
}

/// The content of one part.
struct PartContent<'a> {
    whole: [u8; 4],
    parts: u32,
    chunk: &'a [u8],
}

impl<'a> PartContent<'a> {
    fn read(content: &'a [u8]) -> Option<Self> {
        let (whole, content) = content.split_first_chunk::<4>()?;
        let (parts, chunk) = content.split_first_chunk::<4>()?;
        Some(Self { whole: *whole, parts: u32::from_be_bytes(*parts), chunk })
    }
}

#[cfg(test)]
mod tests {
    use super::{AssembledMessage, Assembly, CHUNK, VALUE, cut, join, message_key, seal, split, unseal};

    fn written(seq: u64, text: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut parts: Vec<_> = cut(text)
            .map(|(part, content)| {
                let place = message_key("logs", seq, part);
                let value = seal(&place, &content);
                (place, value)
            })
            .collect();
        parts.sort();
        parts
    }

    fn assembled(parts: &[(Vec<u8>, Vec<u8>)]) -> Vec<Option<Vec<u8>>> {
        let mut assembly = Assembly::default();
        let mut found: Vec<AssembledMessage> =
            parts.iter().filter_map(|(place, value)| assembly.push(place, value)).collect();
        found.extend(assembly.finish());
        let text = |found| match found {
            AssembledMessage::Whole { text, .. } => Some(text),
            AssembledMessage::Damaged { .. } => None,
        };
        found.into_iter().map(text).collect()
    }

    #[test]
    fn message_of_any_length_comes_back_from_its_parts() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 600_000] {
            let text: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let parts = written(7, &text);
            assert!(parts.iter().all(|(_, value)| value.len() <= VALUE));
            assert_eq!(assembled(&parts), [Some(text)]);
        }
    }

    #[test]
    fn messages_come_in_their_order_and_apart() {
        let texts: Vec<Vec<u8>> = (0..5).map(|n| vec![n; 1000]).collect();
        let parts: Vec<_> =
            texts.iter().enumerate().flat_map(|(seq, text)| written(seq as u64 + 254, text)).collect();
        assert!(parts.is_sorted());
        assert_eq!(assembled(&parts), texts.into_iter().map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn message_with_a_missing_or_wrong_part_is_damaged() {
        let whole = written(1, &[7; 3000]);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            *flipped[at].1.last_mut().unwrap() ^= 1;
            assert_eq!(assembled(&flipped), [None], "part {at} is wrong");

            let mut mixed = whole.clone();
            mixed[at] = written(1, &[8; 3000])[at].clone();
            assert_eq!(assembled(&mixed), [None], "part {at} is of another message");

            let mut missing = whole.clone();
            missing.remove(at);
            let expected: &[Option<Vec<u8>>] = if at == 0 { &[] } else { &[None] };
            assert_eq!(assembled(&missing), expected, "part {at} is missing");
        }
    }

    #[test]
    fn rest_of_a_longer_message_is_no_part_of_a_shorter_one() {
        let mut parts = written(1, &[7; 1000]);
        let longer = written(1, &[8; 3000]);
        parts.extend_from_slice(&longer[parts.len()..]);
        assert_eq!(assembled(&parts), [Some(vec![7; 1000])]);
    }

    #[test]
    fn value_belongs_to_its_key() {
        let value = seal(b"here", b"content");
        assert_eq!(unseal(b"here", &value), Some(&b"content"[..]));
        assert_eq!(unseal(b"there", &value), None);
        for at in 0..value.len() {
            let mut wrong = value.clone();
            wrong[at] ^= 0x10;
            assert_eq!(unseal(b"here", &wrong), None);
            assert_eq!(unseal(b"here", &value[..at]), None);
        }
    }

    #[test]
    fn joined_texts_come_apart_again() {
        let texts = ["logs:a", "", "{\"a\":\"\u{1f600}\"}"];
        let joined = join(texts);
        assert_eq!(split(&joined), Some(texts));
        assert_eq!(split::<3>(&joined[..5]), None);
    }
}
