//! An arena for texts: blocks of memory that go back to the system.
//!
//! Texts lie one behind the other, and of each block it is known how much is still of use.
//! The owner of the texts moves them out of blocks that hold little else.
//!
//! A heap gives back what lies at its end. A burst of messages that are kept until
//! the disk has them would leave it as large as it was at its worst, with what lives
//! on scattered in between. So their texts lie apart, each block a mapping of its
//! own that ends with the last text in it.

use std::ops::DerefMut;

use memmap2::MmapMut;

/// The size of a block: pages that nothing was written to take no memory, so it may
/// be large beside a message, and little beside what may be kept.
const BLOCK: usize = 256 << 10;

/// A longer text has a block of its own, and does not end one that others share.
const LONG: usize = BLOCK / 4;

/// Where a text is.
#[derive(Clone, Copy, Debug)]
pub(super) struct TextPlace {
    block: u32,
    from: u32,
    bytes: u32,
}

struct ArenaBlock {
    memory: Box<dyn DerefMut<Target = [u8]>>,
    filled: usize,
    /// What of that is still of use.
    live: usize,
}

/// All blocks of an arena.
#[derive(Default)]
pub(super) struct Arena {
    /// By number; a number that is free is given out again.
    blocks: Vec<Option<ArenaBlock>>,
    free: Vec<u32>,
    /// To which is written.
    open: Option<u32>,
    /// What all take, and what of that is of use.
    held: usize,
    live: usize,
}

impl Arena {
    /// Takes a text.
    pub(super) fn put(&mut self, text: &[u8]) -> TextPlace {
        let number = self.open.filter(|open| text.len() <= self.room(*open));
        let number = number.unwrap_or_else(|| self.begin(text.len()));
        let place = |from: usize| TextPlace { block: number, from: from as u32, bytes: text.len() as u32 };
        let Some(block) = self.block_mut(number) else {
            debug_assert!(false, "block {number} is not there");
            return place(0);
        };
        let from = block.filled;
        if let Some(to) = block.memory.get_mut(from..from + text.len()) {
            to.copy_from_slice(text);
        }
        block.filled += text.len();
        block.live += text.len();
        self.live += text.len();
        place(from)
    }

    /// The text in a place.
    pub(super) fn get(&self, place: TextPlace) -> &[u8] {
        let from = place.from as usize;
        let block = self.blocks.get(place.block as usize).and_then(Option::as_ref);
        block.and_then(|block| block.memory.get(from..from + place.bytes as usize)).unwrap_or_default()
    }

    /// A text is of no use any more; nor is its place.
    pub(super) fn free(&mut self, place: TextPlace) {
        let is_open = self.open == Some(place.block);
        let Some(block) = self.block_mut(place.block) else {
            debug_assert!(false, "{place:?} is freed twice");
            return;
        };
        let bytes = place.bytes as usize;
        block.live -= bytes;
        if block.live == 0 && is_open {
            // One message after the other is not one mapping after the other.
            block.filled = 0;
        } else if block.live == 0 {
            self.held -= block.memory.len();
            self.blocks[place.block as usize] = None;
            self.free.push(place.block);
        }
        self.live -= bytes;
    }

    /// Whether much more is held than is of use. Once all texts that should move have
    /// moved it is not so, and not again before many are freed.
    pub(super) fn is_sparse(&self) -> bool {
        self.held > 4 * self.live + 4 * BLOCK
    }

    /// Whether a text lies in a block that holds little else of use.
    pub(super) fn should_move(&self, place: TextPlace) -> bool {
        let block = self.blocks.get(place.block as usize).and_then(Option::as_ref);
        self.open != Some(place.block) && block.is_some_and(|block| block.live < block.filled / 2)
    }

    fn block_mut(&mut self, number: u32) -> Option<&mut ArenaBlock> {
        self.blocks.get_mut(number as usize)?.as_mut()
    }

    /// How much more goes into a block.
    fn room(&self, number: u32) -> usize {
        let block = self.blocks.get(number as usize).and_then(Option::as_ref);
        block.map_or(0, |block| block.memory.len() - block.filled)
    }

    /// Begins a block in which there is room for so much.
    fn begin(&mut self, bytes: usize) -> u32 {
        let size = if bytes > LONG { bytes } else { BLOCK };
        let memory: Box<dyn DerefMut<Target = [u8]>> = match MmapMut::map_anon(size) {
            Ok(memory) => Box::new(memory),
            // So many mappings a process may not have: then it is of the heap.
            Err(_) => Box::new(vec![0; size]),
        };
        let block = Some(ArenaBlock { memory, filled: 0, live: 0 });
        self.held += size;
        let number = self.free.pop().unwrap_or_else(|| {
            self.blocks.push(None);
            self.blocks.len() as u32 - 1
        });
        self.blocks[number as usize] = block;
        if size == BLOCK {
            self.open = Some(number);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, BLOCK};

    #[test]
    fn text_stays_until_freed_and_its_block_until_all_are() {
        let mut blocks = Arena::default();
        let lengths = [1, 400, 70_000, 3 * BLOCK, 400, 9].repeat(50);
        let text = |at: usize| vec![at as u8; lengths[at]];
        let places: Vec<_> = (0..lengths.len()).map(|at| blocks.put(&text(at))).collect();
        for (at, place) in places.iter().enumerate() {
            assert_eq!(blocks.get(*place), text(at), "{at}");
        }
        assert!(blocks.held < 2 * blocks.live);
        for place in places {
            blocks.free(place);
        }
        assert_eq!((blocks.held, blocks.live), (BLOCK, 0), "one is open");
    }

    #[test]
    fn sparse_blocks_are_held_until_their_texts_have_moved() {
        let mut blocks = Arena::default();
        let mut places: Vec<_> = (0..20_000).map(|_| blocks.put(&[7; 500])).collect();
        let (mut at, mut kept) = (0, Vec::new());
        places.retain(|place| {
            at += 1;
            if at % 50 == 0 {
                kept.push(*place);
            }
            at % 50 == 0 || {
                blocks.free(*place);
                false
            }
        });
        assert!(blocks.is_sparse());
        for place in &mut kept {
            if blocks.should_move(*place) {
                let text = blocks.get(*place).to_vec();
                let moved = blocks.put(&text);
                blocks.free(std::mem::replace(place, moved));
            }
        }
        assert!(!blocks.is_sparse() && blocks.held <= 2 * blocks.live + 2 * BLOCK, "{}", blocks.held);
        assert!(kept.iter().all(|place| blocks.get(*place) == [7; 500]));
    }
}
