//! Optional list: one that is usually empty, and takes one pointer then.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A collection that is seldom anything but empty.
pub(super) trait List: Default + 'static {
    /// What is read while there is none.
    const EMPTY: &'static Self;

    fn is_empty(&self) -> bool;
}

impl<T: 'static> List for Vec<T> {
    const EMPTY: &'static Self = &Self::new();

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<T: 'static> List for VecDeque<T> {
    const EMPTY: &'static Self = &Self::new();

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

/// A list in a block of its own, that is there only while it has something in it.
#[derive(Clone, Debug, Default)]
pub(super) struct OptionalList<T>(Option<Box<T>>);

impl<T: List> OptionalList<T> {
    /// Gives back what an empty one holds.
    pub(super) fn tidy(&mut self) {
        self.0.take_if(|list| list.is_empty());
    }

    /// Takes all out.
    pub(super) fn take_all(&mut self) -> T {
        self.0.take().map(|list| *list).unwrap_or_default()
    }

    /// The list, if it may have something in it: looking for what is not there takes no
    /// memory.
    pub(super) fn some_mut(&mut self) -> Option<&mut T> {
        self.0.as_deref_mut()
    }
}

impl<T: List> Deref for OptionalList<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::EMPTY)
    }
}

impl<T: List> DerefMut for OptionalList<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: List + PartialEq> PartialEq for OptionalList<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: List> From<T> for OptionalList<T> {
    fn from(list: T) -> Self {
        Self(if list.is_empty() { None } else { Some(Box::new(list)) })
    }
}

impl<T: List + Serialize> Serialize for OptionalList<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(to)
    }
}

impl<'de, T: List + Deserialize<'de>> Deserialize<'de> for OptionalList<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        T::deserialize(from).map(Self::from)
    }
}
