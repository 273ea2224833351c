//! Steps that are a single op over rows or elements, fused row kernels, and movement.

use super::super::moves::Move;
use super::super::rows::{
    self, Binary, LayerNorm, Modulation, RmsForm, RmsNorm, Rope, Rows, RowsMut, Strided, Table,
    Unary,
};
use super::super::weights::is_table;
use super::super::{rowkernel, scalar, tables};
use super::RunError;
use super::frame::Frame;
use crate::WeightFault;
use anyid_ir::kernel;
use anyid_ir::op::{BinaryFn, ReduceFn, UnaryFn};
use anyid_ir::plan::{BufferId, Root, Step};
use anyid_ir::{DType, Op, TensorType};
use half::{bf16, f16};
use smallvec::SmallVec;

/// Runs `$body` with `$T` as the float type of `$dtype`; `None` for other types.
macro_rules! float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                Some($body)
            }
            DType::Bf16 => {
                type $T = bf16;
                Some($body)
            }
            DType::F16 => {
                type $T = f16;
                Some($body)
            }
            _ => None,
        }
    };
}

impl<'f> Frame<'f> {
    /// A fused row kernel.
    pub(super) fn rows(&self, at: usize, step: &Step, scratch: &mut [u8]) -> Result<(), RunError> {
        let rows = self.executable.rows[at].as_ref().expect("row kernels are made ready");
        if let Some((f, width)) = rows.plain_reduction()
            && self.reduction(step, f, width).is_some()
        {
            return Ok(());
        }
        let operands: SmallVec<[*const u8; 16]> =
            step.operands.iter().map(|id| self.bytes(*id).as_ptr()).collect();
        let results: SmallVec<[*mut u8; 16]> =
            step.results.iter().map(|id| self.target(*id).0).collect();
        let bound = rowkernel::Bound { operands: &operands, results: &results };
        // SAFETY: buffers hold the kernel's types (the plan was made from it); results lie over
        // operands only where the kernel allows, for which it was made ready.
        let done = unsafe { rows.run(self.cpu.pool(), self.cpu.level(), &bound, scratch) };
        done.map_err(|bad| RunError::Index {
            label: step.label().to_owned(),
            index: bad.index,
            rows: bad.rows,
        })
    }

    /// A kernel that reduces dense rows and does nothing else.
    pub(super) fn reduction(&self, step: &Step, f: kernel::RowReduce, width: usize) -> Option<()> {
        let f = match f {
            kernel::RowReduce::Sum => rows::Reduce::Sum,
            kernel::RowReduce::Mean => rows::Reduce::Mean,
            _ => return None,
        };
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        let (x, y) = (step.operands[0], step.results[0]);
        float!(self.ty(x).dtype, I => float!(self.ty(y).dtype, O => rows::reduce(
            pool, level, f, Rows::new(self.of::<I>(x), width), self.of_mut::<O>(y),
        )))?
    }

    pub(super) fn movement(&self, op: &Op, step: &Step, moves: &[Move]) {
        let result = self.bytes_mut(step.results[0]);
        if let (Op::Pad { .. }, [only]) = (op, moves) {
            only.clear(self.cpu.pool(), result);
        }
        for (each, operand) in moves.iter().zip(&step.operands) {
            let source = self.bytes(*operand).as_ptr();
            // SAFETY: `moves` made the copy from these very types, and result and operands are
            // disjoint by the plan's guarantee.
            unsafe { each.run(self.cpu.pool(), source, result.as_mut_ptr()) };
        }
    }

    /// Row-wise and element-wise kernels; `None` where the op or its types are not theirs.
    pub(super) fn row_kernel(&self, at: usize, op: &Op, step: &Step) -> Option<()> {
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        let ty = self.ty(step.results[0]);
        let width = ty.last();
        let x = *step.operands.first()?;
        let from = self.ty(x).dtype;
        match op {
            Op::LayerNorm { eps } => {
                let norm = LayerNorm {
                    eps: *eps as f32,
                    weight: self.bias(at, step, 1)?,
                    bias: self.bias(at, step, 2)?,
                    modulation: None,
                };
                float!(from, I => float!(ty.dtype, O => rows::layer_norm(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    &norm,
                    RowsMut::new(self.of_mut::<O>(step.results[0]), width),
                )))?
            }
            Op::RmsNorm { eps, clamp } => {
                let eps = *eps as f32;
                let form = if *clamp { RmsForm::Clamped { eps } } else { RmsForm::Mean { eps } };
                let gain = self.bias(at, step, 1)??;
                let norm = RmsNorm { form, gain, round_bf16: false, silu: false, rope: None };
                float!(from, I => float!(ty.dtype, O => rows::rms_norm(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    &norm,
                    RowsMut::new(self.of_mut::<O>(step.results[0]), width),
                )))?
            }
            Op::Rope { heads } => {
                let rope = Rope { head_dim: width / heads, table: self.of(step.operands[1]) };
                float!(from, I => float!(ty.dtype, O => rows::rope(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    &rope,
                    RowsMut::new(self.of_mut::<O>(step.results[0]), width),
                )))?
            }
            Op::Modulate => {
                let table = |at: usize| Table { data: self.of(step.operands[at]), stride: width };
                let modulation = Modulation {
                    shift: table(1),
                    scale: table(2),
                    segments: self.of(step.operands[3]),
                };
                float!(from, I => float!(ty.dtype, O => rows::modulate(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    &modulation,
                    RowsMut::new(self.of_mut::<O>(step.results[0]), width),
                )))?
            }
            Op::GateAdd => {
                let branch = step.operands[1];
                let gate = Table { data: self.of(step.operands[2]), stride: width };
                let segments = self.of::<i32>(step.operands[3]);
                float!(from, I => float!(self.ty(branch).dtype, B => rows::gate_add(
                    pool, level,
                    Rows::new(self.of::<I>(x), width),
                    Rows::new(self.of::<B>(branch), width),
                    gate, segments,
                    RowsMut::new(self.of_mut::<I>(step.results[0]), width),
                )))?
            }
            Op::Gelu => self.unary(step, Unary::GeluTanh),
            Op::Silu => self.unary(step, Unary::Silu),
            Op::Cast if from.is_float() => self.unary(step, Unary::Copy),
            Op::Unary(f) => {
                let f = match f {
                    UnaryFn::Neg => Unary::Neg,
                    UnaryFn::Abs => Unary::Abs,
                    UnaryFn::Exp => Unary::Exp,
                    UnaryFn::Log => Unary::Log,
                    UnaryFn::Sqrt => Unary::Sqrt,
                    UnaryFn::Rsqrt => Unary::Rsqrt,
                    UnaryFn::Recip => Unary::Recip,
                    UnaryFn::Tanh => Unary::Tanh,
                    UnaryFn::Sin => Unary::Sin,
                    UnaryFn::Cos => Unary::Cos,
                    UnaryFn::Floor | UnaryFn::Erf => return None,
                };
                self.unary(step, f)
            }
            // Rarer shapes are for the scalar code.
            Op::Binary(_) if ty.rank() > rows::MOST_AXES => None,
            Op::Binary(f) => {
                let f = match f {
                    BinaryFn::Add => Binary::Add,
                    BinaryFn::Sub => Binary::Sub,
                    BinaryFn::Mul => Binary::Mul,
                    BinaryFn::Div => Binary::Div,
                    BinaryFn::Max => Binary::Max,
                    BinaryFn::Min => Binary::Min,
                };
                let strides = |id: BufferId| broadcast_strides(self.ty(id), &ty.shape);
                let (a, b) = (step.operands[0], step.operands[1]);
                let (sa, sb) = (strides(a), strides(b));
                float!(ty.dtype, T => rows::binary(
                    pool, level, f, &ty.shape,
                    Strided { data: self.of::<T>(a), strides: &sa },
                    Strided { data: self.of::<T>(b), strides: &sb },
                    self.of_mut::<T>(step.results[0]),
                ))
            }
            Op::Reduce { f, axes, .. } => {
                let rank = self.ty(x).rank();
                let trailing = axes.iter().copied().eq(rank - axes.len()..rank);
                if !trailing {
                    return None;
                }
                let width: usize = axes.iter().map(|a| self.ty(x).shape[*a]).product();
                let f = match f {
                    ReduceFn::Sum => rows::Reduce::Sum,
                    ReduceFn::Mean => rows::Reduce::Mean,
                    ReduceFn::Max => rows::Reduce::Max,
                };
                if width == 0 {
                    return None;
                }
                float!(from, I => float!(ty.dtype, O => rows::reduce(
                    pool, level, f,
                    Rows::new(self.of::<I>(x), width),
                    self.of_mut::<O>(step.results[0]),
                )))?
            }
            Op::RopeTable { rows, cols, head_dim, theta } => {
                let out = self.of_mut::<f32>(step.results[0]);
                tables::rope(self.of(x), *rows, *cols, *head_dim, *theta, out);
                Some(())
            }
            Op::TimestepEmbedding { dim } => {
                tables::timesteps(self.of(x), *dim, self.of_mut(step.results[0]));
                Some(())
            }
            Op::RelativeBucket { buckets, max_distance } => {
                let out = self.of_mut::<i32>(step.results[0]);
                tables::relative_buckets(self.of(x), *buckets, *max_distance, out);
                Some(())
            }
            _ => None,
        }
    }

    pub(super) fn unary(&self, step: &Step, f: Unary) -> Option<()> {
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        let x = step.operands[0];
        float!(self.ty(x).dtype, I => float!(self.ty(step.results[0]).dtype, O => rows::unary(
            pool, level, f, self.of::<I>(x), self.of_mut::<O>(step.results[0]),
        )))?
    }

    /// Fails where a row's segment is not in every table it picks from.
    pub(super) fn check_segments(&self, op: &Op, step: &Step) -> Result<(), RunError> {
        let tables = match op {
            Op::Modulate => &step.operands[1..3],
            Op::GateAdd => &step.operands[2..3],
            _ => return Ok(()),
        };
        let rows = tables.iter().map(|id| self.ty(*id).shape[0]).min().unwrap_or(0);
        let inside = |index: &i32| usize::try_from(*index).is_ok_and(|index| index < rows);
        match self.of::<i32>(step.operands[3]).iter().find(|index| !inside(index)) {
            None => Ok(()),
            Some(index) => {
                let (label, index) = (step.label().to_owned(), i64::from(*index));
                Err(RunError::Index { label, index, rows })
            }
        }
    }

    pub(super) fn gather(&self, step: &Step) -> Result<(), RunError> {
        let (table, indices) = (step.operands[0], self.of::<i32>(step.operands[1]));
        let ty = self.ty(table);
        let row: usize = ty.shape[1..].iter().product();
        // A weight is read where it is stored: only the rows that are asked for.
        let stored = match self.buffer(table).root {
            Root::Weight(index) if is_table(&step.kernel, 0) => {
                let name = self.plan.weights[index as usize].name.as_str();
                self.provider.find(name).map(|stored| (name, stored.dtype))
            }
            _ => None,
        };
        let out = self.bytes_mut(step.results[0]);
        for (at, index) in indices.iter().enumerate() {
            let found = usize::try_from(*index).ok().filter(|i| *i < ty.shape[0]);
            let Some(from) = found else {
                let (label, index) = (step.label().to_owned(), i64::from(*index));
                return Err(RunError::Index { label, index, rows: ty.shape[0] });
            };
            let size = row * ty.dtype.bytes();
            let out = &mut out[at * size..(at + 1) * size];
            match stored {
                None => out.copy_from_slice(&self.bytes(table)[from * size..(from + 1) * size]),
                Some((name, dtype)) => {
                    let read = self.stored_row(name, dtype, from * row, ty.dtype, out);
                    read.map_err(|fault| RunError::Weight {
                        label: step.label().to_owned(),
                        fault: Box::new(fault),
                    })?;
                }
            }
        }
        Ok(())
    }

    /// The stored elements from `first` on, as many as `out` holds in type `to`.
    fn stored_row(
        &self,
        name: &str,
        dtype: DType,
        first: usize,
        to: DType,
        out: &mut [u8],
    ) -> Result<(), WeightFault> {
        let start = first as u64 * dtype.bytes() as u64;
        if dtype == to {
            return self.provider.read(name, start, out);
        }
        // Through memory of this size, since nothing is allocated while a plan runs.
        let mut piece = [0; 4096];
        let each = piece.len() / dtype.bytes();
        let mut from = start;
        for out in out.chunks_mut(each * to.bytes()) {
            let count = out.len() / to.bytes();
            let piece = &mut piece[..count * dtype.bytes()];
            self.provider.read(name, from, piece)?;
            for at in 0..count {
                scalar::write(to, out, at, scalar::read(dtype, piece, at));
            }
            from += piece.len() as u64;
        }
        Ok(())
    }
}

/// Strides of `ty` for every axis of `shape`, 0 where it repeats.
fn broadcast_strides(ty: &TensorType, shape: &[usize]) -> smallvec::SmallVec<[usize; 8]> {
    let skip = shape.len() - ty.rank();
    let strides = ty.strides();
    (0..shape.len())
        .map(|axis| match axis.checked_sub(skip) {
            Some(own) if ty.shape[own] != 1 => strides[own],
            _ => 0,
        })
        .collect()
}
