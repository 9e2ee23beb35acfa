//! A queue that is usually of one element, which it holds without a block of memory.
//!
//! It does not sort: a binary search needs elements that were put in in order. Very many logs have one message each, and an empty block for four of them was most of
//! what such a log took.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::iter::Chain;
use std::ops::{Bound, Index, RangeBounds};
use std::slice;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A table of fewer elements is not worth shrinking.
const SLACK: usize = 16;

/// Shrinks a table that has room for much more than there is in it: called after each
/// removal it moves each element a bounded number of times.
pub(crate) fn shrink<K: Eq + Hash, V>(table: &mut HashMap<K, V>) {
    if table.capacity() > 8 * table.len().max(SLACK) {
        table.shrink_to(2 * table.len());
    }
}

/// Makes a tree anew of which little is left: that lies scattered over the memory that
/// the tree had, which is given back first.
pub(crate) fn gather<T: Ord>(tree: &mut BTreeSet<T>) {
    let left: Vec<T> = std::mem::take(tree).into_iter().collect();
    // Not collected, which would bring a sort of its own for what is sorted.
    tree.extend(left);
}

#[expect(clippy::box_collection, reason = "a queue in place would be larger than most elements")]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum SmallQueue<T> {
    #[default]
    None,
    One(T),
    Many(Box<VecDeque<T>>),
}

type Iter<'a, T> = Chain<slice::Iter<'a, T>, slice::Iter<'a, T>>;
type IterMut<'a, T> = Chain<slice::IterMut<'a, T>, slice::IterMut<'a, T>>;

impl<T> SmallQueue<T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn slices(&self) -> (&[T], &[T]) {
        match self {
            Self::None => (&[], &[]),
            Self::One(one) => (slice::from_ref(one), &[]),
            Self::Many(many) => many.as_slices(),
        }
    }

    fn slices_mut(&mut self) -> (&mut [T], &mut [T]) {
        match self {
            Self::None => (&mut [], &mut []),
            Self::One(one) => (slice::from_mut(one), &mut []),
            Self::Many(many) => many.as_mut_slices(),
        }
    }

    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        match self {
            Self::None => None,
            Self::One(one) => (at == 0).then_some(one),
            Self::Many(many) => many.get(at),
        }
    }

    pub(crate) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        match self {
            Self::None => None,
            Self::One(one) => (at == 0).then_some(one),
            Self::Many(many) => many.get_mut(at),
        }
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.get(0)
    }

    pub(crate) fn back(&self) -> Option<&T> {
        self.get(self.len().checked_sub(1)?)
    }

    pub(crate) fn iter(&self) -> Iter<'_, T> {
        self.range(..)
    }

    pub(crate) fn iter_mut(&mut self) -> IterMut<'_, T> {
        self.range_mut(..)
    }

    /// The elements in a range of indices, as far as there are any.
    pub(crate) fn range(&self, range: impl RangeBounds<usize>) -> Iter<'_, T> {
        let (first, second) = self.slices();
        let (from, to) = bounds(&range, first.len() + second.len());
        let middle = first.len();
        let first = first.get(from.min(middle)..to.min(middle)).unwrap_or_default();
        let second = second.get(from.max(middle) - middle..to.max(middle) - middle).unwrap_or_default();
        first.iter().chain(second)
    }

    /// The same, to be changed.
    pub(crate) fn range_mut(&mut self, range: impl RangeBounds<usize>) -> IterMut<'_, T> {
        let (first, second) = self.slices_mut();
        let (from, to) = bounds(&range, first.len() + second.len());
        let middle = first.len();
        let first = first.get_mut(from.min(middle)..to.min(middle)).unwrap_or_default();
        let second = second.get_mut(from.max(middle) - middle..to.max(middle) - middle).unwrap_or_default();
        first.iter_mut().chain(second)
    }

    /// How many of the first satisfy a condition, of which all that do come first.
    pub(crate) fn partition_point(&self, is_first: impl FnMut(&T) -> bool) -> usize {
        match self {
            Self::Many(many) => many.partition_point(is_first),
            few => few
                .iter()
                .filter({
                    let mut is_first = is_first;
                    move |one| is_first(one)
                })
                .count(),
        }
    }

    /// Where the one with a key is, or would be.
    pub(crate) fn find<K: Ord>(&self, key: &K, mut of: impl FnMut(&T) -> K) -> Result<usize, usize> {
        let at = self.partition_point(|one| of(one) < *key);
        if self.get(at).is_some_and(|one| of(one) == *key) { Ok(at) } else { Err(at) }
    }

    /// Changes it as a queue of many.
    fn as_many(&mut self, change: impl FnOnce(&mut VecDeque<T>)) {
        let mut many = match std::mem::take(self) {
            Self::None => Box::default(),
            Self::One(one) => Box::new(VecDeque::from([one])),
            Self::Many(many) => many,
        };
        change(&mut many);
        *self = Self::Many(many);
    }

    pub(crate) fn push_back(&mut self, one: T) {
        match self {
            Self::None => *self = Self::One(one),
            Self::Many(many) => many.push_back(one),
            Self::One(_) => self.as_many(|many| many.push_back(one)),
        }
    }

    pub(crate) fn insert(&mut self, at: usize, one: T) {
        match self {
            Self::None => *self = Self::One(one),
            _ => self.as_many(|many| many.insert(at, one)),
        }
    }

    pub(crate) fn remove(&mut self, at: usize) -> Option<T> {
        match self {
            Self::One(_) if at == 0 => match std::mem::take(self) {
                Self::One(one) => Some(one),
                _ => None,
            },
            Self::Many(many) => {
                let removed = many.remove(at);
                self.shrink();
                removed
            }
            _ => None,
        }
    }

    pub(crate) fn retain(&mut self, mut stays: impl FnMut(&T) -> bool) {
        match self {
            Self::One(one) if !stays(one) => *self = Self::None,
            Self::Many(many) => {
                many.retain(stays);
                self.shrink();
            }
            _ => {}
        }
    }

    /// Removes the elements in a range of indices.
    pub(crate) fn drain(&mut self, from: usize, to: usize) -> Vec<T> {
        match self {
            Self::Many(many) => {
                let drained = many.drain(from..to).collect();
                self.shrink();
                drained
            }
            few => (from..to).filter_map(|_| few.remove(from)).collect(),
        }
    }

    /// Shrinks where there is room for much more than there is in it.
    fn shrink(&mut self) {
        let Self::Many(many) = self else { return };
        if many.is_empty() {
            *self = Self::None;
        } else if many.capacity() > 4 * many.len().max(SLACK) {
            many.shrink_to(2 * many.len());
        }
    }
}

fn bounds(range: &impl RangeBounds<usize>, len: usize) -> (usize, usize) {
    let from = match range.start_bound() {
        Bound::Included(from) => *from,
        Bound::Excluded(before) => before + 1,
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(last) => last + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => len,
    };
    (from.min(len), to.min(len).max(from.min(len)))
}

impl<T> Index<usize> for SmallQueue<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        match self {
            Self::Many(many) => &many[at],
            few => &few.slices().0[at],
        }
    }
}

impl<T> Extend<T> for SmallQueue<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, more: I) {
        more.into_iter().for_each(|one| self.push_back(one));
    }
}

impl<T> FromIterator<T> for SmallQueue<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        let mut few = Self::None;
        few.extend(all);
        few
    }
}

impl<T> IntoIterator for SmallQueue<T> {
    type Item = T;
    type IntoIter = Chain<std::option::IntoIter<T>, std::collections::vec_deque::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        let (one, many) = match self {
            Self::None => (None, VecDeque::new()),
            Self::One(one) => (Some(one), VecDeque::new()),
            Self::Many(many) => (None, *many),
        };
        one.into_iter().chain(many)
    }
}

impl<'a, T> IntoIterator for &'a SmallQueue<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T: Serialize> Serialize for SmallQueue<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(Exactly(self.iter(), self.len()))
    }
}

/// Says how many follow: some forms have to know that before.
struct Exactly<I>(I, usize);

impl<I: Iterator> Iterator for Exactly<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.0.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.1, Some(self.1))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for SmallQueue<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut many = VecDeque::deserialize(from)?;
        Ok(match many.len() {
            0 | 1 => many.pop_front().map_or(Self::None, Self::One),
            _ => Self::Many(Box::new(many)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::SmallQueue;

    /// A number that looks random.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn a_queue_of_few_is_as_any_other() {
        let (mut few, mut queue, mut state) = (SmallQueue::None, VecDeque::new(), 7);
        for round in 0..20_000 {
            let at = next(&mut state) as usize % (queue.len() + 1);
            match next(&mut state) % 8 {
                0 | 1 => {
                    few.push_back(round);
                    queue.push_back(round);
                }
                2 => {
                    few.insert(at, round);
                    queue.insert(at, round);
                }
                3..6 => assert_eq!(few.remove(at), queue.remove(at)),
                6 => {
                    few.retain(|one| one % 8 != 0);
                    queue.retain(|one| one % 8 != 0);
                }
                _ => {
                    let to = at + next(&mut state) as usize % (queue.len() + 1 - at);
                    assert!(few.range(at..to).eq(queue.range(at..to)));
                    assert_eq!(few.drain(at, to), queue.drain(at..to).collect::<Vec<_>>());
                }
            }
            assert!(few.iter().eq(&queue) && few.len() == queue.len());
            assert_eq!((few.front(), few.back(), few.get(at)), (queue.front(), queue.back(), queue.get(at)));
            assert!(few.range(at..).eq(queue.range(at.min(queue.len())..)));
            let copy: SmallQueue<i32> = serde_json::from_str(&serde_json::to_string(&few).unwrap()).unwrap();
            assert!(copy.iter().eq(&queue));
        }
    }

    #[test]
    fn a_queue_that_was_long_gives_its_memory_back() {
        let mut few: SmallQueue<u64> = (0..100_000).collect();
        while few.len() > 100 {
            few.remove(0);
        }
        assert!(matches!(&few, SmallQueue::Many(many) if many.capacity() <= 6_400));
        while few.len() > 1 {
            few.remove(0);
        }
        assert!(matches!(&few, SmallQueue::Many(many) if many.capacity() <= 64));
        few.remove(0);
        assert!(matches!(few, SmallQueue::None));
    }
}
