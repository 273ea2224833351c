//! Where the bytes of a run lie: a piece of memory for every root of the plan, none of it the caller's.

use super::library::Range;
use super::weights::Stored;
use crate::buffer::AlignedBytes;
use anyid_ir::plan::{BufferId, Columns, Plan, Port, Root};
use anyid_ir::{Tensor, TensorType};

/// Inputs and outputs begin at multiples of this, and as much lies between them.
const GAP: usize = 256;

/// What memory holds that nothing was written to: NaN in every floating-point type.
pub(super) const POISON: u8 = 0xFF;

/// Where the inputs and outputs of a plan lie in memory of the device.
pub(super) struct Ports {
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    end: usize,
}

impl Ports {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut end = GAP;
        let mut place = |port: &Port| {
            let start = end;
            let bytes = plan.buffer(port.buffer).ty.bytes() as usize;
            end += bytes.next_multiple_of(GAP) + GAP;
            start
        };
        let inputs = plan.inputs.iter().map(&mut place).collect();
        let outputs = plan.outputs.iter().map(&mut place).collect();
        Self { inputs, outputs, end }
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> usize {
        self.end
    }
}

/// A piece of memory.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    base: *mut u8,
    len: usize,
}

impl Piece {
    pub(super) fn of(memory: &mut AlignedBytes) -> Self {
        Self { base: memory.bytes_mut().as_mut_ptr(), len: memory.len() }
    }

    /// Memory that is read and never written.
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self { base: bytes.as_ptr().cast_mut(), len: bytes.len() }
    }

    fn part(self, from: usize, len: usize) -> Self {
        let inside = from.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(inside, "bytes {from} and {len} more of {}", self.len);
        // SAFETY: inside the piece (just checked).
        Self { base: unsafe { self.base.add(from) }, len }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: a frame is used by one thread, which writes no memory while it looks at it.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; callers write workspace, kept values, states and ports alone, which a
        // frame borrows for as long as it lives.
        unsafe { std::slice::from_raw_parts_mut(self.base, self.len) }
    }

    /// The piece as a kernel gets it, in rows of `width` bytes with gaps between them if `stride`
    /// says so.
    pub(super) fn range(self, width: i64, stride: i64) -> Range {
        Range { base: self.base, bytes: self.len as i64, width, stride }
    }
}

/// One run: where every root is.
pub(super) struct Frame<'f> {
    pub(super) plan: &'f Plan,
    pub(super) ports: &'f Ports,
    pub(super) weights: &'f Stored,
    /// First byte of each state.
    pub(super) states_at: &'f [u64],
    pub(super) workspace: Piece,
    pub(super) kept: Piece,
    pub(super) states: Piece,
    /// Inputs and outputs.
    pub(super) edge: Piece,
}

impl Frame<'_> {
    /// The memory of a root from its first byte on.
    fn root(&self, root: Root) -> Piece {
        let sized = |from: usize, port: &Port| {
            self.edge.part(from, self.plan.buffer(port.buffer).ty.bytes() as usize)
        };
        match root {
            Root::Workspace => self.workspace,
            Root::Persistent => self.kept,
            Root::State(at) => {
                let at = at as usize;
                let bytes = self.plan.states[at].ty.bytes() as usize;
                self.states.part(self.states_at[at] as usize, bytes)
            }
            Root::Input(at) => {
                sized(self.ports.inputs[at as usize], &self.plan.inputs[at as usize])
            }
            Root::Output(at) => {
                sized(self.ports.outputs[at as usize], &self.plan.outputs[at as usize])
            }
            Root::Weight(at) => self.weight(at, false),
        }
    }

    /// A weight of the plan, packed or not.
    fn weight(&self, at: u32, packed: bool) -> Piece {
        let name = self.plan.weights[at as usize].name.clone();
        Piece::read(self.weights[&(name, packed)].bytes())
    }

    /// A packed weight as a kernel gets it.
    pub(super) fn packed(&self, id: BufferId) -> Range {
        let Root::Weight(at) = self.plan.buffer(id).root else {
            unreachable!("only weights are packed")
        };
        self.weight(at, true).range(0, 0)
    }

    /// A buffer as a kernel gets it: its bytes, with the gaps between its rows where it is columns.
    pub(super) fn range(&self, id: BufferId) -> Range {
        let buffer = self.plan.buffer(id);
        let bytes = buffer.ty.bytes();
        let dense = Columns { first: 0, width: bytes, stride: 0 };
        let Columns { first, width, stride } = buffer.columns.unwrap_or(dense);
        let between = (bytes / width.max(1)).saturating_sub(1) * stride;
        let (from, len) = (buffer.offset + first, between + width);
        let piece = self.root(buffer.root).part(from as usize, len as usize);
        piece.range(width as i64, stride as i64)
    }

    /// Calls `with` on the pieces of a buffer in order.
    fn runs(&self, id: BufferId, mut with: impl FnMut(Piece)) {
        let buffer = self.plan.buffer(id);
        let root = self.root(buffer.root);
        buffer.runs().for_each(|(from, len)| with(root.part(from as usize, len as usize)));
    }

    /// Appends the bytes of a buffer.
    pub(super) fn copy_to(&self, id: BufferId, out: &mut Vec<u8>) {
        self.runs(id, |piece| out.extend_from_slice(piece.bytes()));
    }

    /// Sets the bytes of a buffer, as [`Self::copy_to`] has copied them; the rest of `from`.
    pub(super) fn copy_from<'b>(&self, id: BufferId, mut from: &'b [u8]) -> &'b [u8] {
        self.runs(id, |mut piece| {
            let (own, rest) = from.split_at(piece.len);
            piece.bytes_mut().copy_from_slice(own);
            from = rest;
        });
        from
    }

    /// Sets every byte of a buffer.
    pub(super) fn fill(&self, id: BufferId, byte: u8) {
        self.runs(id, |mut piece| piece.bytes_mut().fill(byte));
    }

    /// What a buffer holds.
    pub(super) fn tensor(&self, id: BufferId) -> Tensor {
        let ty: TensorType = self.plan.buffer(id).ty.clone();
        let mut bytes = Vec::with_capacity(ty.bytes() as usize);
        self.copy_to(id, &mut bytes);
        Tensor::from_bytes(ty, &bytes).expect("a buffer holds its type")
    }

    /// Takes the caller's inputs, and fills what outputs will be with NaN.
    pub(super) fn take(&self, inputs: &[&[u8]]) {
        for (at, bytes) in inputs.iter().enumerate() {
            self.root(Root::Input(at as u32)).bytes_mut().copy_from_slice(bytes);
        }
        for at in 0..self.plan.outputs.len() {
            self.root(Root::Output(at as u32)).bytes_mut().fill(POISON);
        }
    }

    /// Gives the caller the outputs.
    pub(super) fn give(&self, outputs: &mut [&mut [u8]]) {
        for (port, out) in self.plan.outputs.iter().zip(outputs) {
            let mut at = 0;
            self.runs(port.buffer, |piece| {
                out[at..at + piece.len].copy_from_slice(piece.bytes());
                at += piece.len;
            });
        }
    }
}
