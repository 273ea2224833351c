//! Which of the classes placed so far are in use together with another.
//!
//! Time is halved into a tree. A class stands at the fewest nodes that make up its time; what is in
//! use when another begins stands on the way from the root to that step, and what begins later
//! follows in the order of beginnings. So finding them costs their number and a logarithm.

use super::pack::Item;

const NONE: u32 = u32::MAX;

/// The classes placed so far.
pub(super) struct Together {
    leaves: usize,
    /// Last entry of each node.
    heads: Vec<u32>,
    /// Class, and the entry before it at the same node.
    entries: Vec<(u32, u32)>,
    /// Classes by their first step.
    by_start: Vec<u32>,
    /// Position in that order of the first class that begins behind each one's beginning.
    behind: Vec<u32>,
    placed: Vec<bool>,
}

impl Together {
    /// Nothing placed yet.
    pub(super) fn new(items: &[Item<'_>]) -> Self {
        let steps = items.iter().map(|item| item.to + 1).max().unwrap_or(1);
        let leaves = steps.next_power_of_two();
        let mut by_start: Vec<u32> = (0..items.len() as u32).collect();
        by_start.sort_by_key(|i| items[*i as usize].from);
        let behind = items.iter().map(|item| {
            by_start.partition_point(|other| items[*other as usize].from <= item.from) as u32
        });
        let behind = behind.collect();
        let (heads, placed) = (vec![NONE; 2 * leaves], vec![false; items.len()]);
        Self { leaves, heads, entries: Vec::new(), by_start, behind, placed }
    }

    /// Forgets what was placed.
    pub(super) fn clear(&mut self) {
        self.heads.fill(NONE);
        self.entries.clear();
        self.placed.fill(false);
    }

    /// Places class `i`.
    pub(super) fn add(&mut self, items: &[Item<'_>], i: usize) {
        self.placed[i] = true;
        let (mut low, mut high) = (items[i].from + self.leaves, items[i].to + self.leaves + 1);
        while low < high {
            if low % 2 == 1 {
                self.push(low, i);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                self.push(high, i);
            }
            (low, high) = (low / 2, high / 2);
        }
    }

    fn push(&mut self, node: usize, i: usize) {
        let before = std::mem::replace(&mut self.heads[node], self.entries.len() as u32);
        self.entries.push((i as u32, before));
    }

    /// Calls `with` once for each placed class that is in use together with `i`, in no special order.
    pub(super) fn each(&self, items: &[Item<'_>], i: usize, with: &mut dyn FnMut(usize)) {
        let mut node = items[i].from + self.leaves;
        while node > 0 {
            let mut at = self.heads[node];
            while at != NONE {
                let (other, before) = self.entries[at as usize];
                with(other as usize);
                at = before;
            }
            node /= 2;
        }
        let later = self.by_start[self.behind[i] as usize..].iter().map(|other| *other as usize);
        let later = later.take_while(|other| items[*other].from <= items[i].to);
        later.filter(|other| self.placed[*other]).for_each(with);
    }
}
