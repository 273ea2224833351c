//! Whether one group needs another through a third: the question that decides every merge.
//!
//! The search goes from both ends at once, back from the reader and on from the maker, and ends when
//! either side has nowhere left to go; where two groups are near each other, or the maker has few
//! readers, that is at once. What it costs is bounded: behind [`MOST_GROUPS`] neighbours the answer is
//! that there may be a path, so that a program of any size is fused in time that grows with it.

use std::cell::RefCell;

/// Most neighbours that one search looks at, from both ends together. No network comes near.
const MOST_GROUPS: usize = 1 << 15;

/// Memory of the searches.
#[derive(Debug, Default)]
pub(super) struct Paths(RefCell<Search>);

#[derive(Debug, Default)]
struct Search {
    /// For each group the mark of the search and side that saw it last.
    seen: Vec<u64>,
    marks: u64,
    looked: u64,
}

/// One side of a search: neighbours of the groups on the way that were not looked at yet.
struct Side<I> {
    open: Vec<I>,
    mark: u64,
}

impl Paths {
    /// Whether a path leads from `from` over other groups to `to`; `before` and `after` list the
    /// neighbours of one of `groups` groups on either side.
    pub(super) fn between<B, A>(
        &self,
        groups: usize,
        from: usize,
        to: usize,
        before: impl Fn(usize) -> B,
        after: impl Fn(usize) -> A,
    ) -> bool
    where
        B: Iterator<Item = usize>,
        A: Iterator<Item = usize>,
    {
        let search = &mut *self.0.borrow_mut();
        search.seen.resize(groups, 0);
        search.marks += 2;
        let mut back = Side { open: vec![before(to)], mark: search.marks };
        let mut on = Side { open: vec![after(from)], mark: search.marks + 1 };
        for _ in 0..MOST_GROUPS / 2 {
            let over = back.look(search, &before, on.mark, [to, from]);
            if let Some(found) = over.or_else(|| on.look(search, &after, back.mark, [from, to])) {
                return found;
            }
        }
        true
    }

    /// Neighbours that all searches looked at.
    #[cfg(test)]
    pub(super) fn looked(&self) -> u64 {
        self.0.borrow().looked
    }
}

impl<I: Iterator<Item = usize>> Side<I> {
    /// Looks at one neighbour: the answer, once there is one. The search began at `own` and asks for
    /// `wanted`; where the first neighbours are `wanted` itself, that is the edge between them.
    fn look(
        &mut self,
        search: &mut Search,
        neighbours: impl Fn(usize) -> I,
        other: u64,
        [own, wanted]: [usize; 2],
    ) -> Option<bool> {
        search.looked += 1;
        let first = self.open.len() == 1;
        let Some(group) = self.open.last_mut().and_then(Iterator::next) else {
            self.open.pop();
            return self.open.is_empty().then_some(false);
        };
        if group == wanted {
            return (!first).then_some(true);
        }
        if search.seen[group] == other {
            return Some(true);
        }
        if group != own && search.seen[group] != self.mark {
            search.seen[group] = self.mark;
            self.open.push(neighbours(group));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random graphs whose edges go to higher numbers, against a plain search.
    #[test]
    fn both_ends_find_what_one_finds() {
        let mut state = 5u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) as usize % below
        };
        let paths = Paths::default();
        let mut found = [0, 0];
        for _ in 0..300 {
            let count = 2 + random(14);
            let mut edges = vec![Vec::new(); count];
            for _ in 0..random(2 * count) {
                let from = random(count - 1);
                edges[from].push(from + 1 + random(count - from - 1));
            }
            for from in 0..count {
                for to in from + 1..count {
                    let mut open: Vec<usize> =
                        edges[from].iter().copied().filter(|next| *next != to).collect();
                    let mut reached = false;
                    while let Some(at) = open.pop() {
                        reached |= at == to;
                        open.extend(edges[at].iter().copied());
                    }
                    let edges = &edges;
                    let before =
                        |at: usize| (0..count).filter(move |other| edges[*other].contains(&at));
                    let after = |at: usize| edges[at].iter().copied();
                    assert_eq!(paths.between(count, from, to, before, after), reached);
                    found[usize::from(reached)] += 1;
                }
            }
        }
        assert!(found[0] > 1000 && found[1] > 1000, "{found:?}");
    }

    #[test]
    fn a_search_ends_in_any_graph() {
        let count = 1 << 20;
        let before = |at: usize| at.checked_sub(1).into_iter();
        let after = |at: usize| std::iter::once(at + 1);
        let paths = Paths::default();
        assert!(paths.between(count, 0, count - 1, before, after), "not known: as if there were");
        assert!(paths.looked() <= MOST_GROUPS as u64);
    }
}
