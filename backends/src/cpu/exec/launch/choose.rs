//! Which launch a step becomes: from its kernel, the types of its operands and results, and where they
//! lie. What has no launch is [`Launch::Missing`].

use super::*;
use crate::cpu::conv::upsample_conv_fits;
use crate::cpu::rowkernel::{Layout, Pitch, lone_reduction};
use crate::cpu::{kernel_shape, panel_kind, upsampled};
use anyid_ir::infer::sides;
use anyid_ir::kernel::{
    self, Anchor, AnchorKernel, Columns, Combine, Kernel, Load, RowMap, RowReduce,
};
use anyid_ir::plan::{BufferId, Plan, Root, Step};
use anyid_ir::{DType, TensorType};

/// Types of a step's operands and results.
struct Types<'p> {
    plan: &'p Plan,
    step: &'p Step,
}

impl<'p> Types<'p> {
    fn operand(&self, at: usize) -> &'p TensorType {
        &self.plan.buffer(self.step.operands[at]).ty
    }

    fn result(&self, at: usize) -> &'p TensorType {
        &self.plan.buffer(self.step.results[at]).ty
    }

    fn weight(&self, at: usize) -> Option<u32> {
        match self.plan.buffer(self.step.operands[at]).root {
            Root::Weight(index) => Some(index),
            _ => None,
        }
    }

    /// The element type of matrix `at` if it is no weight, which is read in panels; `None` for types
    /// that are not multiplied.
    fn given(&self, at: usize) -> Option<Option<gemm::Dtype>> {
        let dtype = match self.operand(at).dtype {
            DType::F32 => gemm::Dtype::F32,
            DType::Bf16 => gemm::Dtype::Bf16,
            DType::F16 => gemm::Dtype::F16,
            _ => return None,
        };
        Some(self.weight(at).is_none().then_some(dtype))
    }

    fn same_place(&self, a: BufferId, b: BufferId) -> bool {
        self.plan.buffer(a).same_bytes(self.plan.buffer(b))
    }

    /// How rows lie that are columns of wider ones.
    fn pitch(&self, id: BufferId) -> Option<Pitch> {
        let buffer = self.plan.buffer(id);
        let elements = |bytes: u64| bytes as usize / buffer.ty.dtype.bytes();
        let columns = buffer.columns?;
        Some(Pitch { width: elements(columns.width), stride: elements(columns.stride) })
    }

    /// Operand `at` as a vector of f32; `None` for types that are not widened.
    fn vector(&self, position: usize) -> Option<Vector> {
        let half = matches!(self.operand(position).dtype, DType::Bf16 | DType::F16);
        match self.operand(position).dtype {
            DType::F32 => Some(Vector { position, widened: false }),
            _ if half && self.weight(position).is_some() => {
                Some(Vector { position, widened: true })
            }
            _ => None,
        }
    }

    /// The bias of a part of an anchor, if it has one; `None` where there is no kernel for it.
    fn bias(&self, kernel: &AnchorKernel, part: usize) -> Option<Option<Vector>> {
        match kernel.arity {
            3 => self.vector(kernel.part_operand(part, 2)).map(Some),
            _ => Some(None),
        }
    }
}

/// Whether products take operands of this type and give results of it.
fn product(ty: &TensorType) -> Option<()> {
    matches!(ty.dtype, DType::F32 | DType::Bf16).then_some(())
}

impl Launch {
    /// What `step` of `plan` launches.
    pub fn new(plan: &Plan, step: &Step) -> Self {
        let types = Types { plan, step };
        match &step.kernel {
            Kernel::Row(kernel) => row_kernel(&types, kernel),
            Kernel::Copy(kernel) => Self::Copy(Copies::new(kernel, types.result(0).dtype.bytes())),
            Kernel::Gather => {
                let shape = &types.operand(0).shape;
                let (row, rows) = (shape[1..].iter().product(), shape[0]);
                Self::Gather(Table { row, rows, stored: types.weight(0) })
            }
            Kernel::Fill(fill) => Self::Fill(fill.clone()),
            Kernel::Anchor(kernel) => {
                let found = match kernel.anchor {
                    Anchor::Dot { transposed } => dot(&types, kernel, transposed),
                    Anchor::Linear => linear(&types, kernel).map(Self::Linear),
                    Anchor::Attention { heads, scale, last, .. } => {
                        heads_of(&types, kernel, heads, (scale, last)).map(Self::Attention)
                    }
                    Anchor::AttentionVjp { heads, scale, last, .. } => {
                        let rows = [3, 5].iter().try_for_each(|at| product(types.operand(*at)));
                        let found =
                            rows.and_then(|()| heads_of(&types, kernel, heads, (scale, last)));
                        found.map(Self::AttentionVjp)
                    }
                    Anchor::SegmentSum { segments } => {
                        let shape = &types.operand(0).shape;
                        Some(Self::Segments([shape[0], shape[1], segments]))
                    }
                    Anchor::Conv { stride, pad } => {
                        conv_of(&types, kernel, stride, pad).map(Self::Conv)
                    }
                };
                found.unwrap_or(Self::Missing(kernel.anchor.name()))
            }
        }
    }
}

fn row_kernel(types: &Types<'_>, kernel: &RowKernel) -> Launch {
    let float = |ty: &TensorType| matches!(ty.dtype, DType::F32 | DType::Bf16 | DType::F16);
    if kernel.arithmetic != DType::F32 {
        return match column_sums(kernel) {
            Some(divisor) if float(types.operand(0)) => Launch::Columns(kernel.rows, divisor),
            _ => Launch::Scalar(kernel.clone()),
        };
    }
    let Step { operands, results, .. } = types.step;
    let pitches = |ids: &[BufferId]| ids.iter().map(|id| types.pitch(*id)).collect();
    let layout = Layout {
        in_place: results.iter().any(|r| operands.iter().any(|o| types.same_place(*o, *r))),
        operands: pitches(operands),
        results: pitches(results),
    };
    let prepared = Prepared::new(kernel, &layout);
    match prepared.plain_reduction() {
        Some((RowReduce::Sum, width)) if float(types.operand(0)) => {
            Launch::Sums(Reduce::Sum, width)
        }
        Some((RowReduce::Mean, width)) if float(types.operand(0)) => {
            Launch::Sums(Reduce::Mean, width)
        }
        _ => Launch::Rows(prepared),
    }
}

/// What the sums of the columns of operand 0 are divided by, if the kernel is nothing else.
fn column_sums(kernel: &RowKernel) -> Option<f64> {
    let (access, f) = lone_reduction(kernel)?;
    let apart = (access.rows, access.columns) == (RowMap::OWN, Columns::Step(kernel.rows));
    let whole = kernel.operands[access.operand].elements() == kernel.rows * kernel.width;
    let narrow = kernel.result_width(0) == 1;
    let dense = apart && whole && narrow && (access.offset, access.stride) == (0, 1);
    dense.then_some(if f == RowReduce::Mean { kernel.width as f64 } else { 1.0 })
}

fn ends(types: &Types<'_>, kernel: &AnchorKernel) -> Option<Ends> {
    let first = kernel.own_operands();
    let residual = match kernel.residual_operand() {
        None => None,
        Some(at) => {
            product(types.operand(at))?;
            Some((at, types.same_place(types.step.operands[at], types.step.results[0])))
        }
    };
    let gate = match kernel.combine {
        Combine::GateAdd { offset, stride } => Some((first + 1, offset, stride)),
        _ => None,
    };
    let round = |to: Option<DType>| matches!(to, None | Some(DType::Bf16)).then_some(to.is_some());
    Some(Ends {
        round_sums: round(kernel.sums)?,
        activation: match kernel.activation {
            None => Activation::None,
            Some(kernel::Activation::Gelu) => Activation::GeluTanh,
            Some(kernel::Activation::Silu) => Activation::Silu,
        },
        round_activated: round(kernel.activated)?,
        residual,
        gate,
    })
}

fn dot(types: &Types<'_>, kernel: &AnchorKernel, turned: [bool; 2]) -> Option<Launch> {
    let (a, b, y) = (types.operand(0), types.operand(1), types.result(0));
    if [a, b, y].into_iter().any(|ty| product(ty).is_none()) {
        return kernel.is_plain().then_some(Launch::ScalarDot(turned));
    }
    let pages = a.shape[..a.rank() - 2].iter().product();
    let [(m, k), (n, _)] = [sides(a, turned[0]), sides(b, turned[1])];
    let shape = BatchShape { pages, m, n, k, turned, kind: panel_kind(a.dtype, b.dtype) };
    let panels = if pages == 1 && turned[1] { panels(types, 1) } else { None };
    Some(Launch::Dot(Dot { shape, ends: ends(types, kernel)?, panels }))
}

/// The panels in which linears of the plan read the weight that is operand `at`.
fn panels(types: &Types<'_>, at: usize) -> Option<PanelKind> {
    let (weight, ty) = (types.weight(at)?, types.operand(at));
    types.plan.steps.iter().find_map(|step| {
        let Kernel::Anchor(kernel) = &step.kernel else { return None };
        let own = Types { plan: types.plan, step };
        let same =
            |at: &usize| own.weight(*at) == Some(weight) && own.operand(*at).shape == ty.shape;
        let mut matrices = (0..kernel.parts).map(|part| kernel.part_operand(part, 1));
        let read = kernel.anchor == Anchor::Linear && matrices.any(|at| same(&at));
        read.then(|| panel_kind(own.operand(0).dtype, ty.dtype))
    })
}

fn linear(types: &Types<'_>, kernel: &AnchorKernel) -> Option<Linear> {
    let x = types.operand(0);
    product(x)?;
    let k = x.last();
    let mut parts = SmallVec::new();
    for part in 0..kernel.parts {
        product(types.result(part))?;
        let weight = kernel.part_operand(part, 1);
        let w = types.operand(weight);
        let given = types.given(weight)?;
        let (kind, bias) = (panel_kind(x.dtype, w.dtype), types.bias(kernel, part)?);
        parts.push(Product { n: w.shape[0], kind, matrix: (weight, given), bias });
    }
    Some(Linear { m: x.elements() / k.max(1), k, parts, ends: ends(types, kernel)? })
}

fn heads_of(
    types: &Types<'_>,
    kernel: &AnchorKernel,
    heads: usize,
    (scale, last): (f64, usize),
) -> Option<Heads> {
    let (q, k) = (types.operand(0), types.operand(1));
    for ty in [q, k, types.operand(2), types.result(0)] {
        product(ty)?;
    }
    // It has no epilogue, and takes the largest score before it is scaled.
    if !kernel.is_plain() || scale.is_nan() || scale < 0.0 || (last != 1 && scale == 0.0) {
        return None;
    }
    let rank = q.rank();
    let shape = AttentionShape {
        batch: if rank == 3 { q.shape[0] } else { 1 },
        heads,
        head_dim: q.last() / heads,
        queries: q.shape[rank - 2],
        keys: k.shape[rank - 2],
    };
    let precision = match q.dtype {
        DType::Bf16 => attention::Precision::Bf16,
        _ => attention::Precision::F32,
    };
    // Those that derivatives take besides number three.
    let bias = matches!(kernel.arity, 4 | 7);
    Some(Heads { shape, precision, scale: scale as f32, last, bias })
}

fn conv_of(
    types: &Types<'_>,
    kernel: &AnchorKernel,
    stride: [usize; 3],
    pad: [[usize; 2]; 3],
) -> Option<Conv> {
    let (x, w) = (types.operand(0), types.operand(1));
    product(x)?;
    product(types.result(0))?;
    let given = types.given(1)?;
    let kind = panel_kind(x.dtype, w.dtype);
    let [cout, cin, kt, kh, kw] = kernel_shape(&w.shape);
    let shape = if kernel.load == Load::Own {
        Picture::Own(ConvShape {
            input: [x.shape[0], x.shape[1], x.shape[2]],
            cin,
            cout,
            kernel: [kt, kh, kw],
            stride,
            padding: pad.map(|[lo, hi]| (lo, hi)),
        })
    } else {
        let shape = upsampled(kernel.load, kernel.anchor, x, w).filter(|_| given.is_none())?;
        upsample_conv_fits(&shape, kind).then_some(Picture::Doubled(shape))?
    };
    let (bias, ends) = (types.bias(kernel, 0)?, ends(types, kernel)?);
    Some(Conv { shape, given, kind, cout: types.result(0).last(), bias, ends })
}
