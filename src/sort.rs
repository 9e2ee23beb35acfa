//! Sorting by one copy of the algorithm, whatever is sorted.
//!
//! The standard library's sort is compiled anew for each type and each order, three to
//! five kilobytes every time. What is sorted seldom is sorted here: one copy sorts the
//! indices, and each element is moved then. That takes 8 bytes an element
//! while it runs, and a call through a pointer for each comparison, so what is sorted with
//! messages has the standard library's.

use std::cmp::Ordering;

/// Sorts by the order of the type. Elements that are equal stay in their order.
pub(crate) fn sort<T: Ord>(items: &mut [T]) {
    sort_by(items, T::cmp);
}

/// Sorts by another order. Elements that are equal stay in their order.
pub(crate) fn sort_by<T>(items: &mut [T], compare: impl Fn(&T, &T) -> Ordering) {
    let order = order(items.len(), &|one, other| compare(&items[one], &items[other]));
    arrange(items, order);
}

/// Sorts by a key that is computed once for each element.
pub(crate) fn sort_by_cached_key<T, K: Ord>(items: &mut [T], key: impl Fn(&T) -> K) {
    let keys: Vec<K> = items.iter().map(key).collect();
    arrange(items, order(items.len(), &|one, other| keys[one].cmp(&keys[other])));
}

/// The element for each index; nothing where all are in order already.
fn order(count: usize, compare: &dyn Fn(usize, usize) -> Ordering) -> Vec<usize> {
    if (1..count).all(|at| compare(at - 1, at).is_le()) {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_unstable_by(|one, other| compare(*one, *other).then(one.cmp(other)));
    order
}

/// Moves each element to its index, cycle by cycle.
fn arrange<T>(items: &mut [T], mut order: Vec<usize>) {
    for start in 0..order.len() {
        let mut at = start;
        loop {
            let from = std::mem::replace(&mut order[at], at);
            if from == start {
                break;
            }
            items.swap(at, from);
            at = from;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{sort, sort_by, sort_by_cached_key};

    proptest! {
        #[test]
        fn sorts_as_the_standard_library_does(items: Vec<(u8, u16)>) {
            let expected = |key: fn(&(u8, u16)) -> (u8, u16)| {
                let mut items = items.clone();
                items.sort_by_key(key);
                items
            };
            let mut sorted = items.clone();
            sort(&mut sorted);
            prop_assert_eq!(&sorted, &expected(|item| *item));
            // By part of them: the others show that equal ones stay in their order.
            let mut sorted = items.clone();
            sort_by(&mut sorted, |one, other| one.0.cmp(&other.0));
            prop_assert_eq!(&sorted, &expected(|item| (item.0, 0)));
            let mut sorted = items.clone();
            sort_by_cached_key(&mut sorted, |item| item.1);
            prop_assert_eq!(&sorted, &expected(|item| (0, item.1)));
        }
    }
}
