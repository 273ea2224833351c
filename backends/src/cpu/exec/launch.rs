//! What each step of a plan launches on this CPU, with all that the run needs to know: shapes, the
//! form of every weight, copies, row programs. Decided once, when a plan is prepared; memory for
//! weights and scratch follow from it.

mod choose;

use super::super::Cpu;
use super::super::attention::{self, AttentionShape};
use super::super::conv::{self, ConvShape, UpsampleShape};
use super::super::gemm::{self, Activation, BatchShape, PanelKind};
use super::super::moves::Copies;
use super::super::packed::Form;
use super::super::rowkernel::Prepared;
use super::super::rows::{self, Reduce};
use super::super::threads::ALIGN;
use anyid_ir::kernel::{Fill, RowKernel};
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
    /// How many times the last key counts.
    pub last: usize,
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

impl Launch {
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

    /// Takes the machine code of a row kernel.
    pub fn compile(&mut self, cpu: &Cpu) {
        if let Self::Rows(rows) = self {
            rows.compile(&cpu.codes);
        }
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
