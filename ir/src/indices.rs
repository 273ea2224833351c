//! Index names in scope: those of a function, then those of the loops around a place.
//!
//! Looking a name up takes the same time however many there are, as a function may have any number
//! of index parameters.

use std::collections::HashMap;

/// Names bound at a place, innermost last, each with a value.
#[derive(Clone, Debug)]
pub(crate) struct Indices<'s, V = ()> {
    order: Vec<(&'s str, V)>,
    /// For each name where it is bound, innermost last.
    places: HashMap<&'s str, Vec<usize>>,
}

impl<V> Default for Indices<'_, V> {
    fn default() -> Self {
        Self { order: Vec::new(), places: HashMap::new() }
    }
}

impl<'s, V> Indices<'s, V> {
    /// Binds `name`, in front of what it meant before.
    pub(crate) fn push(&mut self, name: &'s str, value: V) {
        self.places.entry(name).or_default().push(self.order.len());
        self.order.push((name, value));
    }

    /// Forgets the name bound last.
    pub(crate) fn pop(&mut self) {
        if let Some((name, _)) = self.order.pop()
            && let Some(places) = self.places.get_mut(name)
        {
            places.pop();
            if places.is_empty() {
                self.places.remove(name);
            }
        }
    }

    /// What `name` stands for here.
    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        let at = *self.places.get(name)?.last()?;
        Some(&self.order[at].1)
    }

    /// Whether `name` is bound here.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The name bound last.
    pub(crate) fn last(&self) -> Option<&'s str> {
        self.order.last().map(|(name, _)| *name)
    }

    /// Names and values, outermost first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &(&'s str, V)> {
        self.order.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_binding_counts_until_it_is_forgotten() {
        let mut indices = Indices::default();
        for (name, value) in [("l", 1), ("m", 2), ("l", 3)] {
            indices.push(name, value);
        }
        assert_eq!(
            (indices.get("l"), indices.get("m"), indices.get("n")),
            (Some(&3), Some(&2), None)
        );
        assert_eq!(indices.last(), Some("l"));
        indices.pop();
        assert_eq!(indices.get("l"), Some(&1));
        assert_eq!(indices.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["l", "m"]);
        indices.pop();
        assert!(!indices.contains("m"));
        indices.pop();
        indices.pop();
        assert!(!indices.contains("l"));
    }
}
