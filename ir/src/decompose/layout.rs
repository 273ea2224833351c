//! Composites that only move elements: patches and nearest-neighbour enlargement.

use super::Parts;
use crate::entity::ValueId;

impl Parts<'_, '_> {
    /// `[C,F,H,W]` to tokens (frame, row, column) of channels (C, then place in the patch).
    pub(super) fn patchify(&mut self, x: ValueId, [pt, ph, pw]: [usize; 3]) -> ValueId {
        let shape = self.shape(x);
        let grid = [shape[1] / pt, shape[2] / ph, shape[3] / pw];
        let split = [shape[0], grid[0], pt, grid[1], ph, grid[2], pw];
        let split = self.reshape("split", x, split);
        let tokens = self.b.permute("tokens", split, &[1, 3, 5, 0, 2, 4, 6]);
        self.finish(tokens)
    }

    /// Tokens (frame, row, column) of channels (place in the patch, then C) to `[C,F,H,W]`.
    pub(super) fn unpatchify(
        &mut self,
        x: ValueId,
        [pt, ph, pw]: [usize; 3],
        grid: [usize; 3],
    ) -> ValueId {
        let channels = self.result.shape[0];
        let split = [grid[0], grid[1], grid[2], pt, ph, pw, channels];
        let split = self.reshape("split", x, split);
        let planes = self.b.permute("planes", split, &[6, 0, 3, 1, 4, 2, 5]);
        self.finish(planes)
    }

    /// Each position `factors[axis]` times in a row along each axis.
    pub(super) fn upsample(&mut self, x: ValueId, factors: &[usize]) -> ValueId {
        let shape = self.shape(x);
        let ones = shape.iter().flat_map(|size| [*size, 1]);
        let spread = self.reshape("spread", x, ones);
        let copies: Vec<usize> = shape.iter().zip(factors).flat_map(|(s, f)| [*s, *f]).collect();
        let copied = self.b.broadcast("copied", spread, copies);
        self.finish(copied)
    }
}
