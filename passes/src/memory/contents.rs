//! What every value of a flow holds, as pieces of what launches and callers wrote.
//!
//! This is the meaning that sharing memory must keep: it follows from the first form alone, where
//! views, parts and copies say which bytes are whose. Where anything lies is not known here.

use super::flow::{Flow, Source};
use crate::program::ValueIndex;
use crate::storage::Storage;
use smallvec::SmallVec;

/// Bytes up to `end` of a value, from `at` on of what `write` wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) end: u64,
    pub(crate) write: ValueIndex,
    pub(crate) at: u64,
}

/// Segments in order.
pub(crate) type Segments = SmallVec<[Segment; 2]>;

/// What every value holds, as far as it is known.
pub(crate) struct Contents {
    own: Vec<Option<Segments>>,
}

impl Flow {
    /// What every value holds with the copies in `dropped` elided.
    pub(crate) fn contents(&self, dropped: &[bool]) -> Contents {
        let mut own: Vec<Option<Segments>> = vec![None; self.values.len()];
        for (value, each) in self.values.iter().enumerate() {
            if each.source.is_given() {
                own[value] = Some(self.whole(value as ValueIndex));
            }
        }
        let mut contents = Contents { own };
        for (at, step) in self.steps.iter().enumerate() {
            if dropped[at] {
                let from = self.segments(&mut contents, step.operands[0]);
                contents.own[step.results[0] as usize] = Some(from);
            } else {
                for result in &step.results {
                    contents.own[*result as usize] = Some(self.whole(*result));
                }
            }
        }
        contents
    }

    /// What a launch writes: all of `value`.
    fn whole(&self, value: ValueIndex) -> Segments {
        smallvec::smallvec![Segment { end: self.bytes(value), write: value, at: 0 }]
    }

    /// Brings `contents` up to date with the copy at `at` elided, or made after all. Copies behind
    /// it are made so far.
    pub(crate) fn set_elided(&self, contents: &mut Contents, at: usize, elided: bool) {
        let (from, to) = (self.steps[at].operands[0], self.steps[at].results[0]);
        let held = if elided { self.segments(contents, from) } else { self.whole(to) };
        contents.own[to as usize] = Some(held);
        let owner = self.storage(to).owner;
        if owner != to && matches!(self.values[owner as usize].source, Source::Parts(_)) {
            contents.own[owner as usize] = None;
        }
    }

    /// What `value` holds.
    pub(crate) fn segments(&self, contents: &mut Contents, value: ValueIndex) -> Segments {
        if let Some(own) = &contents.own[value as usize] {
            return own.clone();
        }
        let Storage { owner, offset, .. } = self.storage(value);
        let all = match &contents.own[owner as usize] {
            Some(all) => all.clone(),
            None => {
                let (all, complete) = self.joined(contents, owner);
                if complete {
                    contents.own[owner as usize] = Some(all.clone());
                }
                all
            }
        };
        if owner == value {
            return all;
        }
        let end = offset + self.bytes(value);
        let mut start = 0;
        let mut cut = Segments::new();
        for segment in all {
            let (from, to) = (start.max(offset), segment.end.min(end));
            if from < to {
                let at = segment.at + (from - start);
                cut.push(Segment { end: to - offset, write: segment.write, at });
            }
            start = segment.end;
        }
        cut
    }

    /// What the parts of a value hold, and whether all of that is known already.
    fn joined(&self, contents: &Contents, owner: ValueIndex) -> (Segments, bool) {
        let Source::Parts(parts) = &self.values[owner as usize].source else {
            unreachable!("a value that something writes or reads is written or made of parts")
        };
        let (mut all, mut complete, mut start) = (Segments::new(), true, 0);
        for part in parts {
            let bytes = self.bytes(*part);
            match &contents.own[*part as usize] {
                Some(own) => {
                    all.extend(own.iter().map(|s| Segment { end: start + s.end, ..*s }));
                }
                None => {
                    complete = false;
                    all.push(Segment { end: start + bytes, write: *part, at: 0 });
                }
            }
            start += bytes;
        }
        (all, complete)
    }
}
