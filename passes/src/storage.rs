//! Where the bytes of a value lie: its own memory, or, for a contiguous view or for columns, a part of
//! another's.

use crate::program::{Program, ProgramStep, ValueIndex};
use anyid_ir::Op;

/// Where the memory of a value begins before any sharing is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The value that owns the memory, itself unless it is a view or a part.
    pub(crate) owner: ValueIndex,
    /// First byte within the owner. Bytes of columns are counted column by column, as
    /// [`Buffer::place`](anyid_ir::plan::Buffer::place) counts them.
    pub(crate) offset: u64,
    /// Rows of the owner, if the value is columns of it; 1 for all else.
    pub(crate) rows: u64,
}

impl Storage {
    /// From byte `offset` of `owner` on.
    pub(crate) fn at(owner: ValueIndex, offset: u64) -> Self {
        Self { owner, offset, rows: 1 }
    }
}

/// Byte offset of the result inside its operand when the op is a contiguous view.
fn view_offset(program: &Program, step: &ProgramStep) -> Option<u64> {
    let x = *step.operands.first()?;
    let ty = program.ty(x);
    let leading_ones = |axis: usize| ty.shape[..axis].iter().all(|s| *s == 1);
    let stride = |axis: usize| ty.strides()[axis] as u64 * ty.dtype.bytes() as u64;
    match &step.op {
        Op::Reshape => Some(0),
        Op::Slice { axis, start, .. } if leading_ones(*axis) => Some(*start as u64 * stride(*axis)),
        Op::Index { axis, at } if leading_ones(*axis) => Some(*at as u64 * stride(*axis)),
        _ => None,
    }
}

/// The storage of every value.
pub(crate) fn storages(program: &Program) -> Vec<Storage> {
    let mut storages: Vec<Storage> =
        (0..program.values.len() as u32).map(|owner| Storage::at(owner, 0)).collect();
    for step in &program.steps {
        let Some(offset) = view_offset(program, step) else { continue };
        let base = storages[step.operands[0] as usize];
        // Packed weights have no row-major bytes to look into.
        if !program.is_weight(base.owner) {
            storages[step.result() as usize] = Storage::at(base.owner, base.offset + offset);
        }
    }
    storages
}
