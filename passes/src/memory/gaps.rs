//! Offsets for programs too large to look at what meets what: one sweep over time.
//!
//! Blocks come and go in the order of their steps; each is placed in the lowest gap that is surely
//! large enough, else behind everything. Gaps are kept by size class, so that a block costs a
//! logarithm of their number.

use std::collections::{BTreeMap, BTreeSet};

/// A block of memory in use from step `from` to step `to`, both included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) bytes: u64,
}

/// Gaps of a size class that are looked at for one that fits.
const MOST_LOOKS: usize = 32;

/// Memory with gaps.
#[derive(Default)]
struct Gaps {
    /// First byte and length of each gap; none touches another or the end.
    by_place: BTreeMap<u64, u64>,
    /// First bytes of the gaps, by the number of bits of their length.
    by_size: Vec<BTreeSet<u64>>,
    end: u64,
    most: u64,
}

fn class(bytes: u64) -> usize {
    bytes.ilog2() as usize
}

impl Gaps {
    fn insert(&mut self, start: u64, bytes: u64) {
        let class = class(bytes);
        if self.by_size.len() <= class {
            self.by_size.resize(class + 1, BTreeSet::new());
        }
        self.by_size[class].insert(start);
        self.by_place.insert(start, bytes);
    }

    fn remove(&mut self, start: u64) -> u64 {
        let bytes = self.by_place.remove(&start).expect("the gap is there");
        self.by_size[class(bytes)].remove(&start);
        bytes
    }

    /// The first byte of a block, which is then in use.
    fn take(&mut self, bytes: u64) -> u64 {
        let own = class(bytes);
        let fits = |start: &&u64| self.by_place[*start] >= bytes;
        let near = self.by_size.get(own).and_then(|gaps| gaps.iter().take(MOST_LOOKS).find(fits));
        let above = self.by_size.iter().skip(own + 1).filter_map(|gaps| gaps.first());
        let found = near.into_iter().chain(above).min().copied();
        let Some(start) = found else {
            self.end += bytes;
            self.most = self.most.max(self.end);
            return self.end - bytes;
        };
        let room = self.remove(start);
        if room > bytes {
            self.insert(start + bytes, room - bytes);
        }
        start
    }

    /// Makes a block a gap again, together with gaps that touch it.
    fn give(&mut self, start: u64, bytes: u64) {
        let (mut start, mut end) = (start, start + bytes);
        if let Some(next) = self.by_place.get(&end).copied() {
            self.remove(end);
            end += next;
        }
        let before = self.by_place.range(..start).next_back().map(|(at, bytes)| (*at, *bytes));
        if let Some((at, bytes)) = before.filter(|(at, bytes)| at + bytes == start) {
            self.remove(at);
            (start, _) = (at, bytes);
        }
        if end == self.end { self.end = start } else { self.insert(start, end - start) }
    }
}

/// Offset of each block and the bytes of all.
pub(super) fn sweep(blocks: &[Block]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..blocks.len()).filter(|i| blocks[*i].bytes > 0).collect();
    // Of blocks that begin together the largest first.
    order.sort_by_key(|i| (blocks[*i].from, std::cmp::Reverse(blocks[*i].bytes), *i));
    let mut ends: BTreeSet<(usize, usize)> = BTreeSet::new();
    let (mut gaps, mut offsets) = (Gaps::default(), vec![0; blocks.len()]);
    for i in order {
        while let Some((to, other)) = ends.first().copied()
            && to < blocks[i].from
        {
            ends.pop_first();
            gaps.give(offsets[other], blocks[other].bytes);
        }
        offsets[i] = gaps.take(blocks[i].bytes);
        ends.insert((blocks[i].to, i));
    }
    (offsets, gaps.most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_never_meet_and_chains_need_two() {
        let mut state = 3u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        for _ in 0..20 {
            let blocks: Vec<Block> = (0..150)
                .map(|_| {
                    let from = random(80) as usize;
                    let to = from + random(20) as usize;
                    Block { from, to, bytes: 64 * random(40) }
                })
                .collect();
            let (offsets, peak) = sweep(&blocks);
            let mut live = vec![0; 120];
            for (i, a) in blocks.iter().enumerate() {
                assert!(offsets[i] + a.bytes <= peak);
                (a.from..=a.to).for_each(|step| live[step] += a.bytes);
                for (j, b) in blocks.iter().enumerate().skip(i + 1) {
                    let apart = a.to < b.from || b.to < a.from || a.bytes == 0 || b.bytes == 0;
                    let (x, y) = (offsets[i], offsets[j]);
                    assert!(apart || x + a.bytes <= y || y + b.bytes <= x, "{a:?} {b:?}");
                }
            }
            let bound = live.into_iter().max().unwrap();
            assert!(peak >= bound && peak <= 2 * bound, "{peak} of {bound}");
        }
        let chain: Vec<Block> =
            (0..100_000).map(|at| Block { from: at, to: at + 1, bytes: 64 }).collect();
        assert_eq!(sweep(&chain).1, 128);
        let all: Vec<Block> =
            (0..100_000).map(|at| Block { from: at, to: 100_000, bytes: 64 }).collect();
        assert_eq!(sweep(&all).1, 64 * 100_000, "what is alive at once lies side by side");
        assert_eq!(sweep(&[]).1, 0);
    }
}
