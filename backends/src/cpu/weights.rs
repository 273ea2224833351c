//! Weights in the form the kernels read, made once after load.
//!
//! Matrices of products and convolutions are packed into panels, tables that are only gathered
//! from stay where they are stored, and everything else is converted to the type the plan names.
//! Stored bytes are read in pieces of bounded size (`read.rs`), so there are never two full copies
//! of a weight.

mod read;

use super::buffer::AlignedBytes;
use super::conv::{UpsampleShape, upsample_conv_fits};
use super::gemm::{PackedMatrix, PanelKind, packed_bytes};
use super::threads::{ALIGN, stop_requested};
use super::{Cpu, panel_kind};
use crate::WeightProvider;
use crate::errors::LoadError;
use anyid_ir::kernel::Load;
use anyid_ir::plan::{Plan, Root, Step};
use anyid_ir::{DType, Kernel, Op, Shape, TensorType};
use read::{Reader, fetch};
use std::collections::BTreeMap;

/// How a plan uses a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Second operand of a product, in panels of this arithmetic.
    Matrix { bf16: bool },
    /// Kernel of a convolution, in panels of this arithmetic.
    Kernel { bf16: bool },
    /// Kernel of a convolution over a doubled picture, sums of its taps in panels of this arithmetic.
    Doubled { bf16: bool },
    /// A bias or gain declared in a half type, widened to f32.
    Vector,
    /// Row-major elements of the declared type.
    Plain,
}

/// One tensor in one form.
enum Loaded {
    /// Panels of a product or a convolution.
    Matrix(PackedMatrix),
    /// Row-major bytes of the declared type.
    Plain(AlignedBytes),
}

/// The weights of one or more plans, ready to run.
#[derive(Default)]
pub struct Weights {
    items: Vec<Loaded>,
    index: BTreeMap<Key, usize>,
    bytes: u64,
}

/// Where a tensor is kept: name, form, and the shape that panels were made for.
type Key = (String, Form, Shape);

/// The weight a buffer is, and the form this operand position needs; `None` for other buffers.
fn form(plan: &Plan, step: &Step, position: usize) -> Option<(u32, Form)> {
    let buffer = plan.buffer(*step.operands.get(position)?);
    let Root::Weight(index) = buffer.root else { return None };
    if !is_direct(plan, step) {
        return Some((index, Form::Plain));
    }
    let x = plan.buffer(step.operands[0]).ty.dtype;
    let bf16 = panel_kind(x, buffer.ty.dtype) == PanelKind::Bf16;
    let half = matches!(buffer.ty.dtype, DType::Bf16 | DType::F16);
    let form = match (&step.kernel, position) {
        (Kernel::Anchor(anchor), _) if anchor.weight_part(position).is_some() => match anchor.op {
            Op::Linear => Form::Matrix { bf16 },
            Op::Conv { .. } if anchor.load != Load::Own => Form::Doubled { bf16 },
            Op::Conv { .. } => Form::Kernel { bf16 },
            _ => Form::Plain,
        },
        (Kernel::Anchor(anchor), _) if half && anchor.bias_part(position).is_some() => Form::Vector,
        (Kernel::Op(Op::LayerNorm { .. }), 1 | 2) | (Kernel::Op(Op::RmsNorm { .. }), 1) if half => {
            Form::Vector
        }
        _ => Form::Plain,
    };
    Some((index, form))
}

/// Whether a step has a kernel that reads panels and widened vectors. The scalar code that takes
/// over for rarer types reads every operand as it is declared.
fn is_direct(plan: &Plan, step: &Step) -> bool {
    let buffer = |at: usize| plan.buffer(step.operands[at]);
    let widened = |at: usize| {
        let (dtype, root) = (buffer(at).ty.dtype, buffer(at).root);
        let half = matches!(dtype, DType::Bf16 | DType::F16);
        dtype == DType::F32 || (half && matches!(root, Root::Weight(_)))
    };
    let mut types = step.results.iter().chain(step.operands.first());
    let mut types = |set: &[DType]| types.all(|id| set.contains(&plan.buffer(*id).ty.dtype));
    match &step.kernel {
        Kernel::Anchor(anchor) if matches!(anchor.op, Op::Linear | Op::Conv { .. }) => {
            let weight = |at: usize| match buffer(at).root {
                Root::Weight(_) => true,
                _ => anchor.op == Op::Linear && buffer(at).ty.dtype != DType::F64,
            };
            let doubled = || {
                let (x, w) = (&buffer(0).ty, &buffer(1).ty);
                let shape = super::upsampled(anchor.load, &anchor.op, x, w);
                shape.is_some_and(|s| upsample_conv_fits(&s, panel_kind(x.dtype, w.dtype)))
            };
            (anchor.load == Load::Own || doubled())
                && types(&[DType::F32, DType::Bf16])
                && (0..anchor.parts).all(|part| weight(anchor.part_operand(part, 1)))
                && (anchor.arity < 3
                    || (0..anchor.parts).all(|part| widened(anchor.part_operand(part, 2))))
        }
        Kernel::Op(Op::LayerNorm { .. } | Op::RmsNorm { .. }) => {
            types(&[DType::F32, DType::Bf16, DType::F16]) && (1..step.operands.len()).all(widened)
        }
        _ => false,
    }
}

impl Weights {
    /// Loads every weight of `plans`. `progress` gets bytes done and in all, and says whether to
    /// go on.
    ///
    /// # Errors
    /// Where a weight is missing, of another size or unreadable, or has no room; where `progress`
    /// says stop.
    pub fn load(
        cpu: &Cpu,
        plans: &[&Plan],
        provider: &dyn WeightProvider,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Self, LoadError> {
        let (wanted, tables) = wanted(plans);
        for (name, ty) in tables {
            fetch(provider, name, ty)?;
        }
        let total: u64 = wanted.values().map(|(ty, _)| ty.bytes()).sum();
        let mut jobs: Vec<_> = wanted.into_iter().collect();
        jobs.sort_by_key(|(_, (_, order))| *order);
        let mut out = Self::default();
        let mut reader = Reader::new(cpu, provider);
        let mut done = 0;
        for ((name, form, shape), (ty, _)) in jobs {
            if !progress(done, total) {
                return Err(LoadError::Stopped);
            }
            let loaded = reader.load(&name, &ty, form)?;
            // Packed in part only.
            if stop_requested() {
                return Err(LoadError::Stopped);
            }
            out.bytes += loaded.bytes();
            done += ty.bytes();
            out.index.insert((name, form, shape), out.items.len());
            out.items.push(loaded);
        }
        progress(total, total);
        Ok(out)
    }

    /// Bytes that the weights of `plans` take once they are loaded, known without them.
    pub fn planned_bytes(plans: &[&Plan]) -> u64 {
        let (wanted, _) = wanted(plans);
        let each = wanted.iter().map(|((_, form, _), (ty, _))| loaded_bytes(*form, ty));
        each.fold(0, u64::saturating_add)
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where operand `position` of a step is, if it is a weight in panels or widened.
    pub(super) fn find(&self, plan: &Plan, step: &Step, position: usize) -> Option<usize> {
        let (index, form) = form(plan, step, position)?;
        let name = plan.weights[index as usize].name.clone();
        let shape = shape(form, &plan.buffer(step.operands[position]).ty);
        if form == Form::Plain { None } else { self.index.get(&(name, form, shape)).copied() }
    }

    /// Where the row-major bytes of a weight are, if anything reads it so.
    pub(super) fn find_plain(&self, name: &str) -> Option<usize> {
        self.index.get(&(name.to_owned(), Form::Plain, Shape::new())).copied()
    }

    /// The panels at `index`.
    pub(super) fn matrix(&self, index: usize) -> Option<&PackedMatrix> {
        match &self.items[index] {
            Loaded::Matrix(matrix) => Some(matrix),
            Loaded::Plain(_) => None,
        }
    }

    /// The row-major bytes at `index`.
    pub(super) fn plain(&self, index: usize) -> &[u8] {
        match &self.items[index] {
            Loaded::Plain(bytes) => bytes.bytes(),
            Loaded::Matrix(_) => &[],
        }
    }
}

/// Every form of every weight that plans read, with its type and place in the order of loading.
type Wanted = BTreeMap<Key, (TensorType, usize)>;

/// What `plans` read, and the tables whose rows are read where they are stored.
fn wanted<'p>(plans: &[&'p Plan]) -> (Wanted, Vec<(&'p str, &'p TensorType)>) {
    let (mut wanted, mut tables) = (Wanted::new(), Vec::new());
    let mut order = 0;
    for plan in plans {
        for step in &plan.steps {
            for position in 0..step.operands.len() {
                let Some((index, form)) = form(plan, step, position) else { continue };
                let weight = &plan.weights[index as usize];
                let ty = match form {
                    Form::Plain => &weight.ty,
                    _ => &plan.buffer(step.operands[position]).ty,
                };
                if is_table(&step.kernel, position) {
                    tables.push((weight.name.as_str(), ty));
                    continue;
                }
                order += 1;
                let key = (weight.name.clone(), form, shape(form, ty));
                wanted.entry(key).or_insert_with(|| (ty.clone(), order));
            }
        }
        for port in &plan.outputs {
            let buffer = plan.buffer(port.buffer);
            if let Root::Weight(index) = buffer.root {
                let weight = &plan.weights[index as usize];
                order += 1;
                let key = (weight.name.clone(), Form::Plain, Shape::new());
                wanted.entry(key).or_insert((weight.ty.clone(), order));
            }
        }
    }
    (wanted, tables)
}

/// Bytes of a tensor of type `ty` in `form`; those of [`Loaded::bytes`].
fn loaded_bytes(form: Form, ty: &TensorType) -> u64 {
    let kind = |bf16: bool| if bf16 { PanelKind::Bf16 } else { PanelKind::F32 };
    let panels = |n: usize, k: usize, bf16: bool| {
        packed_bytes(n, k, kind(bf16)).next_multiple_of(ALIGN) as u64
    };
    match form {
        Form::Matrix { bf16 } => panels(ty.shape[0], ty.elements() / ty.shape[0].max(1), bf16),
        Form::Kernel { bf16 } => {
            let [cout, cin, kt, kh, kw] = super::kernel_shape(&ty.shape);
            panels(cout, cin * kt * kh * kw, bf16)
        }
        Form::Doubled { bf16 } => {
            let [cout, cin, ..] = super::kernel_shape(&ty.shape);
            let shape = UpsampleShape { input: [1; 3], cin, cout };
            panels(cout, shape.k(), bf16)
        }
        Form::Vector => ty.elements() as u64 * 4,
        Form::Plain => ty.bytes(),
    }
}

/// The shape a form depends on.
fn shape(form: Form, ty: &TensorType) -> Shape {
    match form {
        Form::Matrix { .. } | Form::Kernel { .. } | Form::Doubled { .. } => ty.shape.clone(),
        Form::Vector | Form::Plain => Shape::new(),
    }
}

/// Whether an operand is the table of a gather, which is read in its stored form.
pub(super) fn is_table(kernel: &Kernel, position: usize) -> bool {
    matches!(kernel, Kernel::Op(Op::Gather)) && position == 0
}

impl Loaded {
    fn bytes(&self) -> u64 {
        match self {
            Self::Matrix(matrix) => matrix.bytes().len() as u64,
            Self::Plain(bytes) => bytes.len() as u64,
        }
    }
}
