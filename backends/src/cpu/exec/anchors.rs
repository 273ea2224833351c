//! Products, attention and convolutions with their epilogues.

use super::super::attention::{self, Attention, Operand, OutputOperand, Source, Target};
use super::super::gemm::{self, Combine, Epilogue, Gate, Output, Rows as MatrixRows, Slice};
use super::super::{conv, panel_kind};
use super::RunError;
use super::frame::Frame;
use super::shapes::{attention_shape, conv_shape, doubled_shape, linear_shape};
use anyid_ir::kernel::{self, AnchorKernel, Load};
use anyid_ir::plan::{BufferId, Step};
use anyid_ir::{DType, Op};

impl<'f> Frame<'f> {
    /// Segments of a gate must name rows of its table.
    pub(super) fn check_gate(&self, step: &Step, kernel: &AnchorKernel) -> Result<(), RunError> {
        let kernel::Combine::GateAdd { offset, stride } = kernel.combine else { return Ok(()) };
        let first = kernel.own_operands();
        let table = self.ty(step.operands[first + 1]).elements().saturating_sub(offset);
        let n = self.ty(step.results[0]).last();
        for index in self.of::<i32>(step.operands[first + 2]) {
            let start = usize::try_from(*index).ok().and_then(|i| i.checked_mul(stride));
            let end = start.and_then(|start| start.checked_add(n));
            if end.is_none_or(|end| end > table) {
                let rows = table.checked_div(stride).unwrap_or(1).max(1);
                let (label, index) = (step.label().to_owned(), i64::from(*index));
                return Err(RunError::Index { label, index, rows });
            }
        }
        Ok(())
    }

    /// Products, attention and convolution.
    pub(super) fn anchor(
        &self,
        at: usize,
        step: &Step,
        kernel: &AnchorKernel,
        scratch: &mut [u8],
    ) -> bool {
        match &kernel.op {
            Op::Linear => {
                (0..kernel.parts).all(|part| self.linear(at, step, kernel, part, scratch))
            }
            // It has no epilogue.
            Op::Attention { heads, scale } if kernel.is_plain() => {
                self.attention(step, kernel.arity, *heads, *scale, scratch)
            }
            Op::Conv { stride, pad } => self.conv(at, step, kernel, *stride, *pad, scratch),
            _ => false,
        }
    }

    /// What happens to the sums of a part.
    pub(super) fn epilogue(
        &self,
        at: usize,
        step: &Step,
        kernel: &AnchorKernel,
        part: usize,
    ) -> Option<Epilogue<'f>> {
        let bias = match kernel.arity {
            3 => self.bias(at, step, kernel.part_operand(part, 2))?,
            _ => None,
        };
        let activation = match kernel.activation {
            None => gemm::Activation::None,
            Some(kernel::Activation::Gelu) => gemm::Activation::GeluTanh,
            Some(kernel::Activation::Silu) => gemm::Activation::Silu,
        };
        let first = kernel.own_operands();
        let gate = match kernel.combine {
            kernel::Combine::GateAdd { offset, stride } => {
                let table = self.of::<f32>(step.operands[first + 1]);
                let segments = bytemuck::cast_slice(self.bytes(step.operands[first + 2]));
                Some(Gate { data: &table[offset..], stride, segments: Some(segments) })
            }
            _ => None,
        };
        let combine = match kernel.residual_operand() {
            None => Combine::Store,
            Some(residual) => {
                let (from, to) = (step.operands[residual], step.results[0]);
                let [a, b] = [from, to].map(|id| (self.buffer(id).root, self.buffer(id).offset));
                if a == b {
                    Combine::InPlace { gate }
                } else {
                    let stride = self.ty(to).last();
                    Combine::Residual { data: self.slice(from)?, stride, gate }
                }
            }
        };
        // Roundings to other types are none that the target has.
        let [round_sums, round_activated] = [kernel.sums, kernel.activated].map(|to| to.is_some());
        Some(Epilogue { bias, round_sums, activation, round_activated, combine })
    }

    pub(super) fn slice(&self, id: BufferId) -> Option<Slice<'f>> {
        match self.ty(id).dtype {
            DType::F32 => Some(Slice::F32(self.of(id))),
            DType::Bf16 => Some(Slice::Bf16(self.of(id))),
            _ => None,
        }
    }

    /// Operand `position` of step `at` as a vector of f32, if the step has that operand; `None` for
    /// other types, unless it is a weight, which was widened after load.
    pub(super) fn bias(
        &self,
        at: usize,
        step: &Step,
        position: usize,
    ) -> Option<Option<&'f [f32]>> {
        match step.operands.get(position) {
            None => Some(None),
            Some(id) if self.ty(*id).dtype == DType::F32 => Some(Some(self.of(*id))),
            Some(_) => {
                let index = self.executable.forms[at][position]?;
                Some(Some(bytemuck::cast_slice(self.weights.plain(index))))
            }
        }
    }

    pub(super) fn panels(&self, at: usize, position: usize) -> Option<gemm::Packed<'f>> {
        let index = self.executable.forms[at][position]?;
        self.weights.matrix(index).map(gemm::PackedMatrix::view)
    }

    pub(super) fn linear(
        &self,
        at: usize,
        step: &Step,
        kernel: &AnchorKernel,
        part: usize,
        scratch: &mut [u8],
    ) -> bool {
        let weight = kernel.part_operand(part, 1);
        let w = step.operands[weight];
        let (m, n, k) = linear_shape(self.plan, step, weight);
        let Some(data) = self.slice(step.operands[0]) else { return false };
        let Some(epilogue) = self.epilogue(at, step, kernel, part) else { return false };
        let a = MatrixRows { data, stride: k };
        let Some(output) = self.output(step.results[part], n) else { return false };
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        match self.panels(at, weight) {
            Some(w) => gemm::gemm(pool, level, m, a, w, &epilogue, output, scratch),
            None => {
                let dtype = match self.ty(w).dtype {
                    DType::F32 => gemm::Dtype::F32,
                    DType::Bf16 => gemm::Dtype::Bf16,
                    DType::F16 => gemm::Dtype::F16,
                    _ => return false,
                };
                let kind = panel_kind(self.ty(step.operands[0]).dtype, self.ty(w).dtype);
                let b = gemm::Weights::row_major(self.bytes(w), dtype, k);
                gemm::gemm_dynamic(pool, level, (m, n, k), a, b, kind, &epilogue, output, scratch);
            }
        }
        true
    }

    pub(super) fn attention(
        &self,
        step: &Step,
        arity: usize,
        heads: usize,
        scale: f64,
        scratch: &mut [u8],
    ) -> bool {
        // The kernel takes the largest score before it is scaled.
        if scale.is_nan() || scale < 0.0 {
            return false;
        }
        let (shape, precision) = attention_shape(self.plan, step, heads);
        let width = shape.heads * shape.head_dim;
        let operand = |at: usize, rows: usize| -> Option<Operand<'f>> {
            let id = step.operands[at];
            let data = match self.ty(id).dtype {
                DType::F32 => Source::F32(self.of(id)),
                DType::Bf16 => Source::Bf16(self.of(id)),
                _ => return None,
            };
            Some(Operand { data, row_stride: width, batch_stride: rows * width })
        };
        let (Some(query), Some(key), Some(value)) =
            (operand(0, shape.queries), operand(1, shape.keys), operand(2, shape.keys))
        else {
            return false;
        };
        let data = match self.ty(step.results[0]).dtype {
            DType::F32 => Target::F32(self.of_mut(step.results[0])),
            DType::Bf16 => Target::Bf16(self.of_mut(step.results[0])),
            _ => return false,
        };
        let call = Attention {
            shape,
            precision,
            scale: scale as f32,
            query,
            key,
            value,
            relative_bias: (arity == 4).then(|| self.of(step.operands[3])),
            key_limit: None,
        };
        let output = OutputOperand { data, row_stride: width, batch_stride: shape.queries * width };
        attention::attention(self.cpu.pool(), self.cpu.level(), &call, output, scratch);
        true
    }

    pub(super) fn conv(
        &self,
        at: usize,
        step: &Step,
        kernel: &AnchorKernel,
        stride: [usize; 3],
        pad: [[usize; 2]; 3],
        scratch: &mut [u8],
    ) -> bool {
        let Some(weight) = self.panels(at, 1) else { return false };
        let Some(x) = self.slice(step.operands[0]) else { return false };
        let Some(epilogue) = self.epilogue(at, step, kernel, 0) else { return false };
        let cout = self.ty(step.results[0]).last();
        let Some(output) = self.output(step.results[0], cout) else { return false };
        let (pool, level) = (self.cpu.pool(), self.cpu.level());
        if kernel.load != Load::Own {
            let Some(shape) = doubled_shape(self.plan, step, kernel) else { return false };
            conv::upsample_conv(pool, level, &shape, x, weight, &epilogue, output, scratch);
            return true;
        }
        let shape = conv_shape(self.plan, step, stride, pad);
        conv::conv(pool, level, &shape, x, weight, &epilogue, output, scratch);
        true
    }

    pub(super) fn output(&self, id: BufferId, stride: usize) -> Option<Output<'f>> {
        match self.ty(id).dtype {
            DType::F32 => Some(Output::F32 { data: self.of_mut(id), stride }),
            DType::Bf16 => Some(Output::Bf16 { data: self.of_mut(id), stride }),
            _ => None,
        }
    }
}
