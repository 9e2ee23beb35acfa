//! Input cut into pieces, as a socket may give it: the first two bytes of the input choose
//! where.

/// Cuts, and other choices, that follow from two bytes.
pub(crate) struct Cuts(u32);

impl Cuts {
    /// Takes the two bytes off the input.
    pub(crate) fn split_off(input: &[u8]) -> Option<(Self, &[u8])> {
        let (seed, rest) = input.split_first_chunk::<2>()?;
        Some((Self(u32::from(u16::from_be_bytes(*seed)) << 8 | 0x9b), rest))
    }

    /// The next choice below `most` (xorshift; never stuck, since its state is never 0).
    pub(crate) fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % most
    }

    /// All of the bytes, in pieces of which most are short.
    pub(crate) fn pieces<'a>(&mut self, mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        while !bytes.is_empty() {
            let most = [2, 4, 16, 300][self.below(4)];
            let (piece, rest) = bytes.split_at((1 + self.below(most)).min(bytes.len()));
            pieces.push(piece);
            bytes = rest;
        }
        pieces
    }
}
