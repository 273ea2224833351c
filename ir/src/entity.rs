//! Typed `u32` ids and the arena they index.
//!
//! Ids belong to one function (values, nodes, blocks) and are never reused inside it, so a stale
//! id is caught by the verifier instead of silently meaning something else.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

/// An id that indexes an [`Arena`].
pub trait Entity: Copy + Eq {
    /// The id for position `index`.
    fn from_index(index: usize) -> Self;
    /// The position this id stands for.
    fn index(self) -> usize;
}

/// A typed id that shows itself as its prefix and number.
macro_rules! entity {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $crate::entity::Entity for $name {
            fn from_index(index: usize) -> Self {
                Self(u32::try_from(index).expect("fewer than 2^32 of a kind"))
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

pub(crate) use entity;

entity!(
    /// A tensor value: a block parameter or a node's result.
    ValueId,
    "v"
);
entity!(
    /// One operation of a function.
    NodeId,
    "n"
);
entity!(
    /// A straight-line list of nodes: a function body or a repeat body.
    BlockId,
    "b"
);

/// Append-only storage indexed by a typed id.
#[derive(Clone, Debug, PartialEq)]
pub struct Arena<K, T> {
    items: Vec<T>,
    key: PhantomData<K>,
}

impl<K, T> Default for Arena<K, T> {
    fn default() -> Self {
        Self { items: Vec::new(), key: PhantomData }
    }
}

impl<K: Entity, T> Arena<K, T> {
    /// Stores `item` and returns its id.
    pub fn push(&mut self, item: T) -> K {
        self.items.push(item);
        K::from_index(self.items.len() - 1)
    }

    /// Number of items ever stored.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing was stored.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The item, or `None` for an id of another arena that is out of range here.
    pub fn get(&self, id: K) -> Option<&T> {
        self.items.get(id.index())
    }

    /// Ids in order of creation.
    pub fn ids(&self) -> impl Iterator<Item = K> + use<K, T> {
        (0..self.items.len()).map(K::from_index)
    }

    /// Ids and items in order of creation.
    pub fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.items.iter().enumerate().map(|(i, t)| (K::from_index(i), t))
    }
}

impl<K: Entity, T> Index<K> for Arena<K, T> {
    type Output = T;
    fn index(&self, id: K) -> &T {
        &self.items[id.index()]
    }
}

impl<K: Entity, T> IndexMut<K> for Arena<K, T> {
    fn index_mut(&mut self, id: K) -> &mut T {
        &mut self.items[id.index()]
    }
}
