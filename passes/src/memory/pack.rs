//! Offsets for classes of values of known size and lifetime.
//!
//! Deterministic orders (size, lifetime, first use, the fullest step) are each placed greedily at
//! the lowest offset where nothing is in the way of any of a class's pieces; the lowest peak wins. On
//! programs of this shape that is within a fraction of a percent of the lower bound. Where it is
//! more than 2 % above, a bounded loop moves buffers at the peak forward in the best order; its choices come from a fixed seed, so equal programs get equal plans. Programs in
//! which too much is in use together for that are swept once, so that the time grows with the size.

use super::gaps::{Block, sweep};
use super::profile::Profile;

/// A range of a class's memory that is in use from step `from` to step `to`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First step that touches it.
    pub from: usize,
    /// Last step that touches it.
    pub to: usize,
    /// First byte in the class, a multiple of the alignment.
    pub offset: u64,
    /// Bytes, a multiple of the alignment.
    pub bytes: u64,
}

impl Piece {
    fn meets(&self, other: &Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// What must stay together: pieces at fixed distances.
struct Item<'p> {
    pieces: &'p [Piece],
    from: usize,
    to: usize,
    bytes: u64,
}

impl<'p> Item<'p> {
    fn new(pieces: &'p [Piece]) -> Self {
        Self {
            pieces,
            from: pieces.iter().map(|piece| piece.from).min().unwrap_or(0),
            to: pieces.iter().map(|piece| piece.to).max().unwrap_or(0),
            bytes: pieces.iter().map(|piece| piece.offset + piece.bytes).max().unwrap_or(0),
        }
    }
}

/// A placement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Offset of each class.
    pub offsets: Vec<u64>,
    /// Bytes of the arena.
    pub peak: u64,
}

/// Most rounds of the improvement loop.
const ROUNDS: usize = 2000;
/// Most pairs of buffers that the loop compares in all; keeps large programs fast.
const MOST_PAIRS: usize = 1 << 28;

/// Most pairs of pieces that may be in use together; where there are more, time is swept instead.
const MOST_MEETINGS: u64 = 1 << 24;

/// How many pairs of pieces are in use together, at most.
fn meetings(items: &[Item<'_>]) -> u64 {
    let weight = |i: &usize| items[*i].pieces.len() as u64;
    let mut starts: Vec<usize> = (0..items.len()).collect();
    let mut ends = starts.clone();
    starts.sort_by_key(|i| items[*i].from);
    ends.sort_by_key(|i| items[*i].to);
    let mut ends = ends.into_iter().peekable();
    let (mut live, mut pairs) = (0u64, 0u64);
    for i in starts {
        while let Some(over) = ends.next_if(|j| items[*j].to < items[i].from) {
            live -= weight(&over);
        }
        live += weight(&i);
        pairs = pairs.saturating_add(live.saturating_mul(weight(&i)));
    }
    pairs
}

/// For each class those that are in use together with it.
fn together(items: &[Item<'_>]) -> Vec<Vec<u32>> {
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| items[*i].from);
    let mut lists = vec![Vec::new(); items.len()];
    let mut live: Vec<usize> = Vec::new();
    for i in order {
        live.retain(|j| items[*j].to >= items[i].from);
        for j in &live {
            lists[i].push(*j as u32);
            lists[*j].push(i as u32);
        }
        live.push(i);
    }
    lists
}

/// Every class as one block for as long as any of it is in use, forwards or backwards in time.
fn swept(items: &[Item<'_>]) -> Packing {
    let last = items.iter().map(|item| item.to).max().unwrap_or(0);
    let forwards = |item: &Item<'_>| Block { from: item.from, to: item.to, bytes: item.bytes };
    let backwards =
        |item: &Item<'_>| Block { from: last - item.to, to: last - item.from, bytes: item.bytes };
    let ways = [
        sweep(&items.iter().map(forwards).collect::<Vec<_>>()),
        sweep(&items.iter().map(backwards).collect::<Vec<_>>()),
    ];
    let best = ways.into_iter().min_by_key(|(_, peak)| *peak).expect("there are two");
    Packing { offsets: best.0, peak: best.1 }
}

/// The best of the orders, improved where it is more than 2 % above the lower bound.
pub fn pack(classes: &[Vec<Piece>]) -> Packing {
    let items: Vec<Item<'_>> = classes.iter().map(|pieces| Item::new(pieces)).collect();
    if meetings(&items) > MOST_MEETINGS {
        return swept(&items);
    }
    let together = together(&items);
    let order = |key: &dyn Fn(usize) -> (std::cmp::Reverse<u64>, usize)| {
        let mut order: Vec<usize> = (0..items.len()).collect();
        order.sort_by_key(|i| key(*i));
        order
    };
    let size = |i: usize| (std::cmp::Reverse(items[i].bytes), i);
    let life = |i: usize| (std::cmp::Reverse((items[i].to - items[i].from) as u64), i);
    let first = |i: usize| (std::cmp::Reverse(0), items[i].from);
    // What is in use at the fullest step lies side by side there: in its order of time, first.
    let profile = profile(classes);
    let (from, to) = fullest(&profile);
    let there = |i: usize| items[i].from <= to && from <= items[i].to;
    let mut crowd = order(&first);
    crowd.sort_by_key(|i| (!there(*i), if there(*i) { 0 } else { u64::MAX - items[*i].bytes }));
    let early = |i: usize| (std::cmp::Reverse(items[i].bytes), items[i].from);
    let (best, order) = [order(&size), order(&life), order(&first), order(&early), crowd]
        .into_iter()
        .map(|order| (place(&items, &order, &together), order))
        .min_by_key(|(packing, _)| packing.peak)
        .expect("some orders were tried");
    let bound = profile.most();
    match close(best.peak, bound) {
        true => best,
        false => improve(&items, order, best, bound, &together),
    }
}

/// Every class behind the one before it, as if no memory were reused.
pub fn apart(classes: &[Vec<Piece>]) -> Packing {
    let mut peak = 0;
    let mut offsets = Vec::with_capacity(classes.len());
    for pieces in classes {
        offsets.push(peak);
        peak += Item::new(pieces).bytes;
    }
    Packing { offsets, peak }
}

/// Bytes in use at every step.
fn profile(classes: &[Vec<Piece>]) -> Profile {
    let last = classes.iter().flatten().map(|piece| piece.to).max().unwrap_or(0);
    let mut profile = Profile::new(last + 1);
    for piece in classes.iter().flatten() {
        profile.add(piece.from, piece.to, i128::from(piece.bytes));
    }
    profile
}

/// First and last of the steps in a row at which most is in use.
fn fullest(profile: &Profile) -> (usize, usize) {
    let (all, most) = (profile.all(), profile.most());
    let from = all.iter().position(|bytes| *bytes == most).unwrap_or(0);
    let length = all[from..].iter().take_while(|bytes| **bytes == most).count();
    (from, from + length.saturating_sub(1))
}

/// Whether `peak` is within 2 % of `bound`.
fn close(peak: u64, bound: u64) -> bool {
    u128::from(peak) * 50 <= u128::from(bound) * 51
}

/// Places buffers that reach the peak earlier in the order, keeping every change that does not
/// make the peak higher, until it is close to `bound` or the rounds are used up.
fn improve(
    items: &[Item<'_>],
    mut order: Vec<usize>,
    mut best: Packing,
    bound: u64,
    together: &[Vec<u32>],
) -> Packing {
    let pieces: usize = items.iter().map(|item| item.pieces.len()).sum();
    let pairs = pieces.pow(2).max(1);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for _ in 0..ROUNDS.min(MOST_PAIRS / pairs) {
        let at_peak: Vec<usize> = (0..order.len())
            .filter(|at| best.offsets[order[*at]] + items[order[*at]].bytes == best.peak)
            .collect();
        let Some(top) = at_peak.get(random(at_peak.len())).copied() else { break };
        let mut changed = order.clone();
        // The class at the top goes before others, or something it lives with goes elsewhere.
        let (from, to) = match random(2) {
            0 => (top, random(top)),
            _ => {
                let own = &items[order[top]];
                let beside: Vec<usize> = (0..order.len())
                    .filter(|at| {
                        items[order[*at]].from <= own.to && own.from <= items[order[*at]].to
                    })
                    .collect();
                (beside[random(beside.len())], beside[random(beside.len())])
            }
        };
        let moved = changed.remove(from);
        changed.insert(to, moved);
        let packing = place(items, &changed, together);
        if packing.peak <= best.peak {
            (order, best) = (changed, packing);
            if close(best.peak, bound) {
                break;
            }
        }
    }
    best
}

/// Places classes in an order, each as low as those that are placed and in use together with it allow.
fn place(items: &[Item<'_>], order: &[usize], together: &[Vec<u32>]) -> Packing {
    let (mut offsets, mut placed) = (vec![0; items.len()], vec![false; items.len()]);
    let mut peak = 0;
    // Offsets at which a piece would lie over one that is placed: above the first, below the last.
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for &i in order {
        taken.clear();
        let item = &items[i];
        for j in together[i].iter().map(|j| *j as usize).filter(|j| placed[*j]) {
            for other in items[j].pieces {
                let (start, end) =
                    (offsets[j] + other.offset, offsets[j] + other.offset + other.bytes);
                let own = item.pieces.iter().filter(|piece| piece.meets(other));
                taken.extend(own.filter(|piece| end > piece.offset).map(|piece| {
                    let reach = piece.offset + piece.bytes;
                    // One more, so that 0 says that nothing fits below.
                    ((start + 1).saturating_sub(reach), end - piece.offset)
                }));
            }
        }
        taken.sort_unstable();
        let mut at = 0;
        for (first, end) in &taken {
            if at < *first {
                break;
            }
            at = at.max(*end);
        }
        offsets[i] = at;
        peak = peak.max(at + item.bytes);
        placed[i] = true;
    }
    Packing { offsets, peak }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::plan::Alignment;
    use std::collections::BTreeMap;

    /// Panics, naming the pair, if two pieces of different classes that live at the same time share a
    /// byte or one passes the peak: that would be a broken invariant of the packer, never an input
    /// fault.
    fn check(classes: &[Vec<Piece>], offsets: &[u64], peak: u64, alignment: Alignment) {
        let mut events: Vec<(usize, bool, u64, u64, usize)> = Vec::new();
        for (i, pieces) in classes.iter().enumerate() {
            assert!(alignment.holds(offsets[i]), "class {i} is misaligned");
            for piece in pieces.iter().filter(|piece| piece.bytes > 0) {
                let start = offsets[i] + piece.offset;
                let end = start + piece.bytes;
                assert!(end <= peak, "class {i} passes the peak of {peak} bytes");
                events.push((piece.from, true, start, end, i));
                events.push((piece.to + 1, false, start, end, i));
            }
        }
        // Ends sort before starts of the same time because `false < true`.
        events.sort_unstable();
        let mut live: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
        for (_, starts, start, end, i) in events {
            if !starts {
                live.remove(&start);
                continue;
            }
            if let Some((_, (other_end, j))) = live.range(..end).next_back() {
                assert!(*other_end <= start, "classes {i} and {j} overlap in time and memory");
            }
            live.insert(start, (end, i));
        }
    }

    #[test]
    fn hard_cases_are_improved_and_stay_disjoint() {
        let mut state = 7u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let (mut improved, mut cases) = (0, 0);
        for _ in 0..20 {
            let classes: Vec<Vec<Piece>> = (0..120)
                .map(|at| {
                    let from = random(200) as usize;
                    let to = from + random(60) as usize;
                    let bytes = 64 * (1 + random(100));
                    let mut pieces = vec![Piece { from, to, offset: 0, bytes }];
                    if at % 3 == 0 {
                        // A second piece beside the first, in use for a part of its life.
                        let from = from + random(9) as usize;
                        let to = to.max(from) + random(9) as usize;
                        pieces.push(Piece { from, to, offset: bytes, bytes: 64 + 64 * random(9) });
                    }
                    pieces
                })
                .collect();
            let items: Vec<Item<'_>> = classes.iter().map(|pieces| Item::new(pieces)).collect();
            let mut order: Vec<usize> = (0..items.len()).collect();
            order.sort_by_key(|i| (std::cmp::Reverse(items[*i].bytes), *i));
            let plain = place(&items, &order, &together(&items));
            let packing = pack(&classes);
            check(&classes, &packing.offsets, packing.peak, Alignment::default());
            assert!(packing.peak <= plain.peak && packing.peak >= profile(&classes).most());
            assert_eq!(pack(&classes), packing, "the same twice");
            cases += usize::from(!close(plain.peak, profile(&classes).most()));
            improved += usize::from(packing.peak < plain.peak);
        }
        assert!(cases > 10 && improved > cases / 2, "{improved} of {cases}");
        assert_eq!(pack(&[]).peak, 0);
    }

    #[test]
    fn large_programs_are_swept_and_stay_disjoint() {
        let mut state = 9u64;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        };
        let piece = |from, to, bytes| vec![Piece { from, to, offset: 0, bytes }];
        // All in use at once, and a long chain beside what lives through all of it.
        let crowd: Vec<Vec<Piece>> =
            (0..20_000).map(|at| piece(at, 20_000, 64 * (1 + random(9)))).collect();
        let chain: Vec<Vec<Piece>> =
            (0..20_000).map(|at| piece(at, at + 1 + random(4) as usize, 64)).collect();
        let both: Vec<Vec<Piece>> = crowd.iter().chain(&chain).cloned().collect();
        for (classes, swept) in [(crowd, true), (chain, false), (both, true)] {
            let items: Vec<Item<'_>> = classes.iter().map(|pieces| Item::new(pieces)).collect();
            assert_eq!(meetings(&items) > MOST_MEETINGS, swept);
            let packing = pack(&classes);
            check(&classes, &packing.offsets, packing.peak, Alignment::default());
            let bound = profile(&classes).most();
            assert!(packing.peak <= bound + bound / 4, "{} of {bound}", packing.peak);
        }
    }

    #[test]
    fn what_is_not_in_use_of_a_class_holds_others() {
        // The second half of the first class is in use late only.
        let piece = |from, to, offset, bytes| Piece { from, to, offset, bytes };
        let shaped = vec![piece(0, 9, 0, 640), piece(5, 9, 640, 640)];
        let guest = vec![piece(1, 3, 0, 640)];
        let classes = [shaped, guest];
        let packing = pack(&classes);
        check(&classes, &packing.offsets, packing.peak, Alignment::default());
        assert_eq!((packing.peak, profile(&classes).most()), (1280, 1280));
    }

    #[test]
    #[should_panic(expected = "overlap in time and memory")]
    fn pieces_over_each_other_are_found() {
        let piece = |from, to| vec![Piece { from, to, offset: 64, bytes: 128 }];
        check(&[piece(0, 4), piece(4, 6)], &[0, 64], 1024, Alignment::default());
    }
}
