//! Which operands and results of a kernel may be columns of a wider value: those that it goes through
//! row by row, where every row it knows lies in one row of the memory.
//!
//! This is the same for all devices; [`Target::columns`](super::Target::columns) says whether a device
//! has such kernels at all. Copies, gathers, fills, `dot` and convolutions, weights,
//! tables and segments are dense.

use super::{Access, Anchor, Columns, Instruction, Kernel, Load, RowKernel, RowMap};
use crate::types::{DType, TensorType};

impl Kernel {
    /// Whether operand `operand`, of type `ty`, may lie in rows of `width` elements with other bytes
    /// between them.
    pub fn reads_columns(&self, operand: usize, ty: &TensorType, width: usize) -> bool {
        match self {
            Self::Row(kernel) => kernel.reads_columns(operand, width),
            Self::Anchor(kernel) => {
                let rows = match kernel.anchor {
                    Anchor::Linear => {
                        (operand == 0 && kernel.load == Load::Own)
                            || kernel.residual_operand() == Some(operand)
                    }
                    Anchor::Attention { .. } => operand < 3,
                    // The log-sum-exp of an attention has no rows of its own.
                    Anchor::AttentionVjp { .. } => operand < 4 || operand == 5,
                    _ => false,
                };
                rows && width == ty.last()
            }
            Self::Copy(_) | Self::Gather | Self::Fill(_) => false,
        }
    }

    /// Whether result `result`, of type `ty`, may lie in rows of `width` elements with other bytes
    /// between them, which stay as they are.
    pub fn writes_columns(&self, result: usize, ty: &TensorType, width: usize) -> bool {
        match self {
            Self::Row(kernel) => {
                kernel.arithmetic == DType::F32
                    && result < kernel.results.len()
                    && kernel.result_width(result) == width
                    && width == kernel.width
            }
            Self::Anchor(kernel) => {
                let rows = match kernel.anchor {
                    Anchor::Linear => true,
                    Anchor::Attention { .. } => result == 0,
                    Anchor::AttentionVjp { .. } => result < 3,
                    _ => false,
                };
                rows && width == ty.last()
            }
            Self::Copy(_) | Self::Gather | Self::Fill(_) => false,
        }
    }
}

impl RowKernel {
    fn reads_columns(&self, operand: usize, width: usize) -> bool {
        let fits = |access: &Access| {
            let wide = match access.columns {
                Columns::All => self.width,
                Columns::One => 1,
                Columns::Every(period) => period.min(self.width),
                Columns::Step(_) => return false,
            };
            // From one row to the next there are whole rows of the memory.
            access.stride.is_multiple_of(width)
                && (access.offset % width).checked_add(wide).is_some_and(|end| end <= width)
        };
        let each = |instruction: &Instruction| match instruction {
            Instruction::Load(access) => match access.rows {
                RowMap::Segment(segments) => segments != operand && access.operand != operand,
                _ => access.operand != operand || fits(access),
            },
            _ => true,
        };
        self.arithmetic == DType::F32 && width > 0 && self.code.iter().all(each)
    }
}
