//! One launch: operands and results of a step bound to memory, and the kernel called.

use super::super::attention::{
    self, Attention, AttentionVjp, Cotangents, Operand, OutputOperand, Source, Target,
};
use super::super::gemm::{self, Combine, Epilogue, Gate, Other, Output, Slice};
use super::super::rows::{self, Rows};
use super::super::threads::ALIGN;
use super::super::{conv, rowkernel, scalar, tables};
use super::frame::Frame;
use super::launch::{Conv, Dot, Ends, Heads, Launch, Linear, Picture, Table, Vector};
use super::{Place, RunError};
use crate::Fault;
use crate::element;
use crate::errors::check_rows;
use anyid_ir::DType;
use anyid_ir::kernel::Fill;
use anyid_ir::plan::{BufferId, Step};
use half::{bf16, f16};
use smallvec::SmallVec;

/// Runs `$body` with `$T` as the type of `$dtype`, which is a float of rows.
macro_rules! float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            DType::F32 => {
                type $T = f32;
                $body
            }
            DType::Bf16 => {
                type $T = bf16;
                $body
            }
            DType::F16 => {
                type $T = f16;
                $body
            }
            other => unreachable!("rows of {other} were refused when the plan was prepared"),
        }
    };
}

impl<'f> Frame<'f> {
    /// Runs step number `at`.
    pub(super) fn step(&self, at: usize, step: &Step, scratch: &mut [u8]) -> Result<(), RunError> {
        let packed = &self.executable.packed[at];
        match &self.executable.launches[at] {
            Launch::Rows(rows) => self.rows(rows, step, scratch),
            Launch::Sums(f, width) => {
                let (pool, level) = (self.cpu.pool(), self.cpu.level());
                let (x, y) = (step.operands[0], step.results[0]);
                float!(self.ty(x).dtype, I => float!(self.ty(y).dtype, O => rows::reduce(
                    pool, level, *f, Rows::new(self.of::<I>(x), *width), self.of_mut::<O>(y),
                )));
                Ok(())
            }
            Launch::Columns(width, divisor) => {
                let (pool, level, x) = (self.cpu.pool(), self.cpu.level(), step.operands[0]);
                let y = self.sums(step);
                float!(self.ty(x).dtype, I => {
                    rows::columns(pool, level, Rows::new(self.of::<I>(x), *width), *divisor, y)
                });
                Ok(())
            }
            Launch::Segments([_, width, _]) => {
                let (pool, level, x) = (self.cpu.pool(), self.cpu.level(), step.operands[0]);
                let (of, y) = (self.of::<i32>(step.operands[1]), self.sums(step));
                float!(self.ty(x).dtype, I => {
                    let x = Rows::new(self.of::<I>(x), *width);
                    rows::segments(pool, level, x, of, y, scratch)
                });
                Ok(())
            }
            Launch::Scalar(kernel) => {
                let operands: SmallVec<[&[u8]; 16]> =
                    step.operands.iter().map(|id| self.bytes(*id)).collect();
                let mut results: SmallVec<[&mut [u8]; 4]> =
                    step.results.iter().map(|id| self.bytes_mut(*id)).collect();
                let done = scalar::rows(kernel, &operands, &mut results);
                done.map_err(|bad| outside(step, bad.index, bad.rows))
            }
            Launch::Copy(copies) => {
                let operand = |at: usize| self.bytes(step.operands[at]).as_ptr();
                let result = self.bytes_mut(step.results[0]);
                // SAFETY: the kernel was verified for these types, and result and operands are
                // disjoint by the plan's guarantee.
                unsafe { copies.run(self.cpu.pool(), operand, result) };
                Ok(())
            }
            Launch::Gather(table) => self.gather(table, step),
            Launch::Fill(fill) => {
                self.fill(fill, step);
                Ok(())
            }
            Launch::Dot(Dot { shape, ends, panels }) => {
                self.check_gate(step, ends)?;
                let epilogue = self.epilogue(step, ends, None, packed);
                let a = self.slice(step.operands[0]);
                let b = match panels {
                    Some(_) => Other::Panels(self.panels(1, packed)),
                    None => Other::Pages(self.slice(step.operands[1])),
                };
                let y = self.output(step.results[0], shape.n);
                gemm::dot(self.cpu.pool(), self.cpu.level(), shape, a, b, &epilogue, y, scratch);
                Ok(())
            }
            Launch::ScalarDot(transposed) => {
                let [a, b] = [0, 1].map(|at| step.operands[at]);
                let [a, b] = [a, b].map(|id| (self.ty(id), self.bytes(id)));
                let (y, out) = (self.ty(step.results[0]), self.bytes_mut(step.results[0]));
                scalar::dot(*transposed, a, b, y.dtype, out);
                Ok(())
            }
            Launch::Linear(linear) => self.linear(linear, step, packed, scratch),
            Launch::Attention(heads) => {
                self.attention(heads, step, scratch);
                Ok(())
            }
            Launch::AttentionVjp(heads) => {
                self.attention_vjp(heads, step, scratch);
                Ok(())
            }
            Launch::Conv(conv) => self.conv(conv, step, packed, scratch),
            Launch::Missing(op) => {
                Err(RunError::Unsupported { label: step.label().to_owned(), op })
            }
        }
    }

    /// Where sums of rows go.
    fn sums(&self, step: &Step) -> rows::Output<'f> {
        let id = step.results[0];
        rows::Output { bytes: self.bytes_mut(id), dtype: self.ty(id).dtype }
    }

    fn rows(
        &self,
        rows: &rowkernel::Prepared,
        step: &Step,
        scratch: &mut [u8],
    ) -> Result<(), RunError> {
        let operands: SmallVec<[*const u8; 16]> =
            step.operands.iter().map(|id| self.bytes(*id).as_ptr()).collect();
        let results: SmallVec<[*mut u8; 16]> =
            step.results.iter().map(|id| self.target(*id).0).collect();
        let bound = rowkernel::Bound { operands: &operands, results: &results };
        // SAFETY: buffers hold the kernel's types (the plan was made from it); results lie over
        // operands only where the kernel allows, for which it was made ready.
        let done = unsafe { rows.run(self.cpu.pool(), self.cpu.level(), &bound, scratch) };
        done.map_err(|bad| outside(step, bad.index, bad.rows))
    }

    fn fill(&self, fill: &Fill, step: &Step) {
        let result = step.results[0];
        let x = || step.operands[0];
        match fill {
            Fill::Const(values) => {
                tables::constant(values, self.ty(result).dtype, self.bytes_mut(result));
            }
            Fill::Iota(axis) => tables::iota(*axis, self.ty(result), self.bytes_mut(result)),
            Fill::RopeTable { rows, cols, head_dim, theta } => {
                let out = self.of_mut::<f32>(result);
                tables::rope(self.of(x()), *rows, *cols, *head_dim, *theta, out);
            }
            Fill::TimestepEmbedding(dim) => {
                tables::timesteps(self.of(x()), *dim, self.of_mut(result));
            }
            Fill::RelativeBucket { buckets, max_distance } => {
                let out = self.of_mut::<i32>(result);
                tables::relative_buckets(self.of(x()), *buckets, *max_distance, out);
            }
        }
    }

    /// Fails where a row's segment names no row of the gate's table.
    fn check_gate(&self, step: &Step, ends: &Ends) -> Result<(), RunError> {
        let Some((table, offset, stride)) = ends.gate else { return Ok(()) };
        let elements = self.ty(step.operands[table]).elements().saturating_sub(offset);
        let n = self.ty(step.results[0]).last();
        for index in self.of::<i32>(step.operands[table + 1]) {
            let start = usize::try_from(*index).ok().and_then(|i| i.checked_mul(stride));
            let end = start.and_then(|start| start.checked_add(n));
            if end.is_none_or(|end| end > elements) {
                let rows = elements.checked_div(stride).unwrap_or(1).max(1);
                return Err(outside(step, i64::from(*index), rows));
            }
        }
        Ok(())
    }

    fn epilogue(
        &self,
        step: &Step,
        ends: &Ends,
        bias: Option<Vector>,
        packed: &[Option<Place>],
    ) -> Epilogue<'f> {
        let gate = ends.gate.map(|(table, offset, stride)| {
            let data = self.of::<f32>(step.operands[table]);
            let segments = bytemuck::cast_slice(self.bytes(step.operands[table + 1]));
            Gate { data: &data[offset..], stride, segments: Some(segments) }
        });
        let combine = match ends.residual {
            None => Combine::Store,
            Some((_, true)) => Combine::InPlace { gate },
            Some((position, false)) => {
                let residual = step.operands[position];
                let stride = self.stride(residual, self.ty(step.results[0]).last());
                Combine::Residual { data: self.slice(residual), stride, gate }
            }
        };
        let Ends { round_sums, activation, round_activated, .. } = *ends;
        let bias = bias.map(|vector| self.vector(step, vector, packed));
        Epilogue { bias, round_sums, activation, round_activated, combine }
    }

    fn vector(&self, step: &Step, vector: Vector, packed: &[Option<Place>]) -> &'f [f32] {
        match (vector.widened, packed[vector.position]) {
            (true, Some(Place::Held(index))) => bytemuck::cast_slice(self.weights.plain(index)),
            _ => self.of(step.operands[vector.position]),
        }
    }

    fn panels(&self, position: usize, packed: &[Option<Place>]) -> gemm::Packed<'f> {
        match packed[position].expect("weights of the plan are loaded") {
            Place::Held(index) => {
                self.weights.matrix(index).expect("they are in the form its launch reads").view()
            }
            Place::Streamed { group, item } => {
                let streaming = self.streaming.expect("what is not held is brought in");
                streaming.view(group, item)
            }
        }
    }

    fn slice(&self, id: BufferId) -> Slice<'f> {
        match self.ty(id).dtype {
            DType::Bf16 => Slice::Bf16(self.of(id)),
            _ => Slice::F32(self.of(id)),
        }
    }

    fn output(&self, id: BufferId, width: usize) -> Output<'f> {
        let stride = self.stride(id, width);
        match self.ty(id).dtype {
            DType::Bf16 => Output::Bf16 { data: self.of_mut(id), stride },
            _ => Output::F32 { data: self.of_mut(id), stride },
        }
    }

    fn linear(
        &self,
        linear: &Linear,
        step: &Step,
        packed: &[Option<Place>],
        scratch: &mut [u8],
    ) -> Result<(), RunError> {
        self.check_gate(step, &linear.ends)?;
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        let Linear { m, k, .. } = *linear;
        for (part, result) in linear.parts.iter().zip(&step.results) {
            let epilogue = self.epilogue(step, &linear.ends, part.bias, packed);
            let x = step.operands[0];
            let a = gemm::Rows { data: self.slice(x), stride: self.stride(x, k) };
            let output = self.output(*result, part.n);
            match part.matrix {
                (at, None) => {
                    let w = self.panels(at, packed);
                    gemm::gemm(pool, level, m, a, w, &epilogue, output, scratch);
                }
                (at, Some(dtype)) => {
                    let b = gemm::Weights::row_major(self.bytes(step.operands[at]), dtype, k);
                    let shape = (m, part.n, k);
                    gemm::gemm_dynamic(
                        pool, level, shape, a, b, part.kind, &epilogue, output, scratch,
                    );
                }
            }
        }
        Ok(())
    }

    /// Operand `at` as rows of all heads, so many in each batch.
    fn heads_in(&self, heads: &Heads, step: &Step, at: usize, rows: usize) -> Operand<'f> {
        let id = step.operands[at];
        let data = match self.ty(id).dtype {
            DType::Bf16 => Source::Bf16(self.of(id)),
            _ => Source::F32(self.of(id)),
        };
        let row_stride = self.stride(id, heads.shape.heads * heads.shape.head_dim);
        Operand { data, row_stride, batch_stride: rows * row_stride }
    }

    /// Result `at` as rows of all heads, so many in each batch.
    fn heads_out(&self, heads: &Heads, step: &Step, at: usize, rows: usize) -> OutputOperand<'f> {
        let id = step.results[at];
        let data = match self.ty(id).dtype {
            DType::Bf16 => Target::Bf16(self.of_mut(id)),
            _ => Target::F32(self.of_mut(id)),
        };
        let row_stride = self.stride(id, heads.shape.heads * heads.shape.head_dim);
        OutputOperand { data, row_stride, batch_stride: rows * row_stride }
    }

    fn attention(&self, heads: &Heads, step: &Step, scratch: &mut [u8]) {
        let Heads { shape, precision, scale, last, bias } = *heads;
        let call = Attention {
            shape,
            precision,
            scale,
            last,
            query: self.heads_in(heads, step, 0, shape.queries),
            key: self.heads_in(heads, step, 1, shape.keys),
            value: self.heads_in(heads, step, 2, shape.keys),
            relative_bias: bias.then(|| self.of(step.operands[3])),
            key_limit: None,
        };
        let log_sums = step.results.get(1).map(|id| self.of_mut(*id));
        let output = self.heads_out(heads, step, 0, shape.queries);
        attention::attention(self.cpu.pool(), self.cpu.level(), &call, output, log_sums, scratch);
    }

    fn attention_vjp(&self, heads: &Heads, step: &Step, scratch: &mut [u8]) {
        let Heads { shape, precision, scale, last, bias } = *heads;
        let call = AttentionVjp {
            shape,
            precision,
            scale,
            last,
            query: self.heads_in(heads, step, 0, shape.queries),
            key: self.heads_in(heads, step, 1, shape.keys),
            value: self.heads_in(heads, step, 2, shape.keys),
            result: self.heads_in(heads, step, 3, shape.queries),
            log_sums: self.of(step.operands[4]),
            cotangent: self.heads_in(heads, step, 5, shape.queries),
            relative_bias: bias.then(|| self.of(step.operands[6])),
        };
        let to = Cotangents {
            query: self.heads_out(heads, step, 0, shape.queries),
            key: self.heads_out(heads, step, 1, shape.keys),
            value: self.heads_out(heads, step, 2, shape.keys),
            relative_bias: bias.then(|| self.of_mut(step.results[3])),
        };
        attention::attention_vjp(self.cpu.pool(), self.cpu.level(), &call, to, scratch);
    }

    fn conv(
        &self,
        conv: &Conv,
        step: &Step,
        packed: &[Option<Place>],
        scratch: &mut [u8],
    ) -> Result<(), RunError> {
        self.check_gate(step, &conv.ends)?;
        let x = self.slice(step.operands[0]);
        let epilogue = self.epilogue(step, &conv.ends, conv.bias, packed);
        let output = self.output(step.results[0], conv.cout);
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        match &conv.shape {
            Picture::Own(shape) => {
                let (weight, scratch) = match conv.given {
                    None => (self.panels(1, packed), scratch),
                    Some(dtype) => {
                        let skip = scratch.as_ptr().align_offset(ALIGN);
                        let kind = conv.kind.at(level);
                        let bytes = shape.packed_bytes(kind);
                        let (panels, rest) = scratch[skip..].split_at_mut(bytes);
                        let kernel = (self.bytes(step.operands[1]), dtype);
                        conv::pack_conv_into(pool, level, shape, kernel, kind, panels);
                        let panels = &*panels;
                        (gemm::Packed::from_bytes(conv.cout, shape.k(), kind, panels), rest)
                    }
                };
                conv::conv(pool, level, shape, x, weight, &epilogue, output, scratch);
            }
            Picture::Doubled(shape) => {
                let weight = self.panels(1, packed);
                conv::upsample_conv(pool, level, shape, x, weight, &epilogue, output, scratch);
            }
        }
        Ok(())
    }

    fn gather(&self, table: &Table, step: &Step) -> Result<(), RunError> {
        let (from, indices) = (step.operands[0], self.of::<i32>(step.operands[1]));
        let dtype = self.ty(from).dtype;
        // A weight is read where it is stored: only the rows that are asked for.
        let stored = table.stored.and_then(|index| {
            let name = self.plan.weights[index as usize].name.as_str();
            self.provider.find(name).map(|stored| (name, stored.dtype))
        });
        let out = self.bytes_mut(step.results[0]);
        let size = table.row * dtype.bytes();
        check_rows(indices, table.rows, step.label())?;
        for (at, index) in indices.iter().enumerate() {
            let row = *index as usize;
            let out = &mut out[at * size..(at + 1) * size];
            match stored {
                None => out.copy_from_slice(&self.bytes(from)[row * size..(row + 1) * size]),
                Some((name, stored)) => {
                    let read = self.stored_row(name, stored, row * table.row, dtype, out);
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
    ) -> Result<(), Fault> {
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
                element::write(to, out, at, element::read(dtype, piece, at));
            }
            from += piece.len() as u64;
        }
        Ok(())
    }
}

/// A row of a table was asked for that does not exist.
fn outside(step: &Step, index: i64, rows: usize) -> RunError {
    RunError::Index { label: step.label().to_owned(), index, rows }
}
