//! What each step of a plan launches on this CPU, with all that the run needs to know: shapes, the
//! form of every weight, copies, row programs. Decided once, when a plan is prepared; memory for
//! weights and scratch follow from it.

use super::super::attention::{self, AttentionShape};
use super::super::conv::{self, ConvShape, UpsampleShape, upsample_conv_fits};
use super::super::gemm::{self, Activation, BatchShape, PanelKind};
use super::super::moves::Copies;
use super::super::packed::Form;
use super::super::rowkernel::{Layout, Pitch, Prepared};
use super::super::rows::{self, Reduce};
use super::super::threads::ALIGN;
use super::super::{Cpu, kernel_shape, panel_kind, upsampled};
use anyid_ir::infer::sides;
use anyid_ir::kernel::{
    self, AnchorKernel, Columns, Combine, Fill, Instruction, Kernel, Load, RowKernel, RowMap,
    RowReduce,
};
use anyid_ir::plan::{BufferId, Plan, Root, Step};
use anyid_ir::{DType, Op, TensorType};
use smallvec::SmallVec;

/// What a step runs.
pub enum Launch {
    /// A row kernel in f32.
    Rows(Prepared),
    /// Sums or means of dense rows of so many elements, and nothing else.
    Sums(Reduce, usize),
    /// Sums of rows of so many elements over each other, divided by a number.
    Columns(usize, f64),
    /// Sums of the rows of each segment: rows, their elements, segments.
    Segments([usize; 3]),
    /// A row kernel in another arithmetic.
    Scalar(RowKernel),
    /// Strided copies.
    Copy(Copies),
    /// Rows of a table.
    Gather(Table),
    /// Numbers.
    Fill(Fill),
    /// Products of pairs.
    Dot(Dot),
    /// Products of pairs in doubles, where sides may lie the other way round.
    ScalarDot([bool; 2]),
    /// Products with matrices, one after the other.
    Linear(Linear),
    /// Attention.
    Attention(Heads),
    /// The derivative of attention.
    AttentionVjp(Heads),
    /// A convolution.
    Conv(Conv),
    /// No kernel of this target.
    Missing(&'static str),
}

/// A table that rows are picked from.
pub struct Table {
    /// Elements of a row.
    pub row: usize,
    /// Rows.
    pub rows: usize,
    /// The weight it is, whose rows are read where they are stored.
    pub stored: Option<u32>,
}

/// A vector of f32: an operand, or a weight widened after load.
#[derive(Clone, Copy)]
pub struct Vector {
    pub position: usize,
    pub widened: bool,
}

/// What follows the sums.
pub struct Ends {
    pub round_sums: bool,
    pub activation: Activation,
    pub round_activated: bool,
    /// Position of the residual, and whether the result lies over it.
    pub residual: Option<(usize, bool)>,
    /// Position of the gate's table, its first element and its stride; segments come behind it.
    pub gate: Option<(usize, usize, usize)>,
}

/// Products that share their rows.
pub struct Linear {
    pub m: usize,
    pub k: usize,
    pub parts: SmallVec<[Product; 3]>,
    pub ends: Ends,
}

/// Products of pairs.
pub struct Dot {
    pub shape: BatchShape,
    pub ends: Ends,
    /// The panels of a weight that is the second side, where a product of the plan reads it so: it is
    /// read from there, so that it need not be in memory a second time.
    pub panels: Option<PanelKind>,
}

/// One product.
pub struct Product {
    pub n: usize,
    pub kind: PanelKind,
    /// Position of the matrix, and its element type where it is no weight in panels.
    pub matrix: (usize, Option<gemm::Dtype>),
    pub bias: Option<Vector>,
}

/// Attention with its shape.
pub struct Heads {
    pub shape: AttentionShape,
    pub precision: attention::Precision,
    pub scale: f32,
    /// Whether scores have a relative bias, the last operand.
    pub bias: bool,
}

/// A convolution of one of two kinds.
pub struct Conv {
    pub shape: Picture,
    /// Element type of the kernel where it is no weight in panels.
    pub given: Option<gemm::Dtype>,
    pub kind: PanelKind,
    pub cout: usize,
    pub bias: Option<Vector>,
    pub ends: Ends,
}

/// What a convolution reads.
pub enum Picture {
    /// Its operand as it lies.
    Own(ConvShape),
    /// Each pixel twice along height and width.
    Doubled(UpsampleShape),
}

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
                let found = match &kernel.op {
                    Op::Dot { transposed } => dot(&types, kernel, *transposed),
                    Op::Linear => linear(&types, kernel).map(Self::Linear),
                    Op::Attention { heads, scale, .. } => {
                        heads_of(&types, kernel, *heads, *scale).map(Self::Attention)
                    }
                    Op::AttentionVjp { heads, scale, .. } => {
                        let rows = [3, 5].iter().try_for_each(|at| product(types.operand(*at)));
                        let found = rows.and_then(|()| heads_of(&types, kernel, *heads, *scale));
                        found.map(Self::AttentionVjp)
                    }
                    Op::SegmentSum { segments } => Some(Self::Segments([
                        types.operand(0).shape[0],
                        types.operand(0).shape[1],
                        *segments,
                    ])),
                    Op::Conv { stride, pad } => {
                        conv_of(&types, kernel, *stride, *pad).map(Self::Conv)
                    }
                    _ => None,
                };
                found.unwrap_or(Self::Missing(kernel.op.name()))
            }
        }
    }

    /// Operands that are read in another form than row by row as declared, where they are weights.
    pub fn forms(&self) -> SmallVec<[(usize, Form); 6]> {
        let mut forms = SmallVec::new();
        let mut vector = |bias: &Option<Vector>| {
            if let Some(Vector { position, widened: true }) = bias {
                forms.push((*position, Form::Vector));
            }
        };
        match self {
            Self::Linear(linear) => {
                linear.parts.iter().for_each(|part| vector(&part.bias));
                for Product { matrix, kind, .. } in &linear.parts {
                    if let (position, None) = matrix {
                        forms.push((*position, Form::Matrix { bf16: *kind == PanelKind::Bf16 }));
                    }
                }
            }
            Self::Conv(conv) => {
                vector(&conv.bias);
                let bf16 = conv.kind == PanelKind::Bf16;
                let form = match conv.shape {
                    Picture::Own(_) => Form::Kernel { bf16 },
                    Picture::Doubled(_) => Form::Doubled { bf16 },
                };
                if conv.given.is_none() {
                    forms.push((1, form));
                }
            }
            Self::Dot(Dot { panels: Some(kind), .. }) => {
                forms.push((1, Form::Matrix { bf16: *kind == PanelKind::Bf16 }));
            }
            Self::Gather(Table { stored: Some(_), .. }) => forms.push((0, Form::Stored)),
            _ => {}
        }
        forms
    }

    /// Bytes of scratch that a launch needs.
    pub fn scratch_bytes(&self, cpu: &Cpu) -> usize {
        let (level, workers) = (cpu.level(), cpu.pool().threads());
        match self {
            Self::Rows(rows) => rows.scratch_bytes(workers),
            Self::Linear(Linear { m, k, parts, .. }) => {
                let part = |part: &Product| {
                    let shape = (*m, part.n, *k);
                    match part.matrix {
                        (_, None) => gemm::gemm_scratch_bytes(level, shape, part.kind, workers),
                        _ => gemm::gemm_dynamic_scratch_bytes(level, shape, part.kind, workers),
                    }
                };
                parts.iter().map(part).max().unwrap_or(0)
            }
            Self::Segments([count, _, segments]) => rows::segments_scratch_bytes(*count, *segments),
            Self::Dot(Dot { shape, .. }) => gemm::dot_scratch_bytes(level, shape, workers),
            Self::Attention(Heads { shape, precision, bias, .. }) => {
                attention::scratch_bytes(level, shape, *precision, *bias, workers)
            }
            Self::AttentionVjp(Heads { shape, precision, bias, .. }) => {
                attention::vjp_scratch_bytes(level, shape, *precision, *bias, workers)
            }
            Self::Conv(Conv { shape: Picture::Own(shape), kind, given, .. }) => {
                let kind = kind.at(level);
                let panels = given.map_or(0, |_| ALIGN + shape.packed_bytes(kind));
                panels + conv::conv_scratch_bytes(level, shape, kind, workers)
            }
            Self::Conv(Conv { shape: Picture::Doubled(shape), kind, .. }) => {
                conv::upsample_conv_scratch_bytes(level, shape, shape.panels(level, *kind), workers)
            }
            _ => 0,
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
    let [
        Instruction::Load(access),
        Instruction::Reduce(f @ (RowReduce::Sum | RowReduce::Mean), 0),
        Instruction::Store { value: 1, .. },
    ] = kernel.code[..]
    else {
        return None;
    };
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
        let read = kernel.op == Op::Linear && matrices.any(|at| same(&at));
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

fn heads_of(types: &Types<'_>, kernel: &AnchorKernel, heads: usize, scale: f64) -> Option<Heads> {
    let (q, k) = (types.operand(0), types.operand(1));
    for ty in [q, k, types.operand(2), types.result(0)] {
        product(ty)?;
    }
    // It has no epilogue, and takes the largest score before it is scaled.
    if !kernel.is_plain() || scale.is_nan() || scale < 0.0 {
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
    Some(Heads { shape, precision, scale: scale as f32, bias })
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
        let shape = upsampled(kernel.load, &kernel.op, x, w).filter(|_| given.is_none())?;
        upsample_conv_fits(&shape, kind).then_some(Picture::Doubled(shape))?
    };
    let (bias, ends) = (types.bias(kernel, 0)?, ends(types, kernel)?);
    Some(Conv { shape, given, kind, cout: types.result(0).last(), bias, ends })
}
