//! One execution of a plan: where the bytes of every buffer lie.

use super::super::Cpu;
use super::super::packed::{Streaming, Weights};
use super::Executable;
use crate::WeightProvider;
use anyid_ir::plan::{Buffer, BufferId, Columns, Plan, Root};
use anyid_ir::{Tensor, TensorType};
use bytemuck::Pod;

/// The caller's memory for an output.
pub(super) struct Returned {
    pub(super) base: *mut u8,
    pub(super) len: usize,
}

/// One execution: where every buffer lies.
pub(super) struct Frame<'f> {
    pub(super) cpu: &'f Cpu,
    pub(super) executable: &'f Executable,
    pub(super) plan: &'f Plan,
    pub(super) weights: &'f Weights,
    pub(super) streaming: Option<&'f Streaming<'f>>,
    pub(super) provider: &'f dyn WeightProvider,
    pub(super) workspace: *mut u8,
    pub(super) workspace_len: usize,
    pub(super) persistent: *mut u8,
    pub(super) persistent_len: usize,
    pub(super) states: *mut u8,
    pub(super) states_len: usize,
    pub(super) inputs: &'f [&'f [u8]],
    pub(super) outputs: &'f [Returned],
}

impl<'f> Frame<'f> {
    pub(super) fn buffer(&self, id: BufferId) -> &'f Buffer {
        self.plan.buffer(id)
    }

    pub(super) fn ty(&self, id: BufferId) -> &'f TensorType {
        &self.plan.buffer(id).ty
    }

    /// Memory that steps write: its first byte, its length, and where a buffer of offset 0 begins.
    pub(super) fn writable(&self, root: Root) -> Option<(*mut u8, usize, usize)> {
        match root {
            Root::Workspace => Some((self.workspace, self.workspace_len, 0)),
            Root::Persistent => Some((self.persistent, self.persistent_len, 0)),
            Root::State(index) => {
                let start = self.executable.states[index as usize] as usize;
                Some((self.states, self.states_len, start))
            }
            Root::Output(index) => {
                let output = &self.outputs[index as usize];
                Some((output.base, output.len, 0))
            }
            Root::Input(_) | Root::Weight(_) => None,
        }
    }

    /// First byte of a buffer in its memory, and bytes up to the end of its last row.
    fn extent(&self, id: BufferId) -> (usize, usize) {
        let buffer = self.buffer(id);
        let bytes = buffer.ty.bytes();
        let Some(Columns { first, width, stride }) = buffer.columns else {
            return (buffer.offset as usize, bytes as usize);
        };
        let between = (bytes / width).saturating_sub(1) * stride;
        ((buffer.offset + first) as usize, (between + width) as usize)
    }

    /// Elements from one row of a buffer to the next, where dense rows have `width`.
    pub(super) fn stride(&self, id: BufferId, width: usize) -> usize {
        let Buffer { ty, columns, .. } = self.buffer(id);
        columns.map_or(width, |columns| columns.stride as usize / ty.dtype.bytes())
    }

    /// What a buffer holds.
    pub(super) fn tensor(&self, id: BufferId) -> Tensor {
        let Buffer { ty, columns, .. } = self.buffer(id);
        let mut tensor = Tensor::zeros(ty.clone());
        let dense = Columns { first: 0, width: ty.bytes(), stride: ty.bytes() };
        let Columns { width, stride, .. } = columns.unwrap_or(dense);
        let rows = self.bytes(id).chunks(stride.max(1) as usize);
        for (out, row) in tensor.bytes_mut().chunks_mut(width.max(1) as usize).zip(rows) {
            out.copy_from_slice(&row[..out.len()]);
        }
        tensor
    }

    /// The bytes of a buffer; of columns, with those between its rows.
    pub(super) fn bytes(&self, id: BufferId) -> &'f [u8] {
        let buffer = self.buffer(id);
        let (mut offset, len) = self.extent(id);
        let (base, size) = match buffer.root {
            Root::Workspace | Root::Persistent | Root::State(_) | Root::Output(_) => {
                let memory = self.writable(buffer.root);
                let (base, size, start) = memory.expect("a verified plan has this memory");
                offset += start;
                (base.cast_const(), size)
            }
            Root::Input(index) => {
                let input = self.inputs[index as usize];
                (input.as_ptr(), input.len())
            }
            Root::Weight(index) => {
                let at = self.executable.plain[index as usize];
                let bytes = at.map_or(&[][..], |at| self.weights.plain(at));
                (bytes.as_ptr(), bytes.len())
            }
        };
        assert!(offset + len <= size, "a buffer ends at {} of {size} bytes", offset + len);
        // SAFETY: the range lies inside its arena (just checked), the arenas outlive the frame, and
        // by the plan's guarantee nobody writes this buffer while a step reads it.
        unsafe { std::slice::from_raw_parts(base.add(offset), len) }
    }

    /// First byte and length of a result.
    pub(super) fn target(&self, id: BufferId) -> (*mut u8, usize) {
        let (first, len) = self.extent(id);
        let memory = self.writable(self.buffer(id).root);
        let (base, size, start) = memory.expect("a step never writes its inputs");
        let offset = start + first;
        assert!(offset + len <= size, "a buffer ends at {} of {size} bytes", offset + len);
        // SAFETY: inside the arena (just checked).
        (unsafe { base.add(offset) }, len)
    }

    /// The result's memory. Steps run one after the other, so there is one writer at a time.
    #[allow(clippy::mut_from_ref)]
    pub(super) fn bytes_mut(&self, id: BufferId) -> &'f mut [u8] {
        let (base, len) = self.target(id);
        // SAFETY: by the plan's guarantee no operand of the step shares a byte with its result, nor
        // the rows that it is columns of (kernels that write in place, and row kernels, hold no slice
        // of such operands), and only this step runs.
        unsafe { std::slice::from_raw_parts_mut(base, len) }
    }

    pub(super) fn of<T: Pod>(&self, id: BufferId) -> &'f [T] {
        bytemuck::cast_slice(self.bytes(id))
    }

    pub(super) fn of_mut<T: Pod>(&self, id: BufferId) -> &'f mut [T] {
        bytemuck::cast_slice_mut(self.bytes_mut(id))
    }
}
