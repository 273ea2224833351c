//! Weights in the form the kernels read, made once after load.
//!
//! Matrices of products and convolutions are packed into panels, tables that are only gathered
//! from stay where they are stored, and everything else is converted to the type the plan names.
//! Where not all may be held, some matrices are read again in every run (`choice.rs`, `stream.rs`).
//! Stored bytes are read in pieces of bounded size (`read.rs`), so there are never two full copies
//! of a weight.

mod choice;
mod read;
mod stream;

pub(super) use choice::Schedule;
pub(super) use stream::{Groups, Stream, Streaming};

use super::Cpu;
use super::buffer::AlignedBytes;
use super::conv::UpsampleShape;
use super::exec::Launch;
use super::gemm::{PackedMatrix, PanelKind, packed_bytes};
use super::simd::Level;
use super::threads::{ALIGN, stop_requested};
use crate::WeightProvider;
use crate::errors::LoadError;
use anyid_ir::plan::{BufferId, Plan, Root};
use anyid_ir::{Shape, TensorType};
use choice::Choice;
use read::{Reader, fetch};
use std::collections::BTreeMap;

/// How a plan uses a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
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
    /// A table of which rows are read where it is stored; it is not loaded.
    Stored,
}

impl Form {
    /// The panels of a tensor in the form at a level, if it has any.
    fn kind(self, level: Level, ty: &TensorType) -> Option<PanelKind> {
        let kind = |bf16: bool| if bf16 { PanelKind::Bf16 } else { PanelKind::F32 };
        match self {
            Self::Matrix { bf16 } | Self::Kernel { bf16 } => Some(kind(bf16).at(level)),
            Self::Doubled { bf16 } => {
                let [cout, cin, ..] = super::kernel_shape(&ty.shape);
                let shape = UpsampleShape { input: [1; 3], cin, cout };
                Some(shape.panels(level, kind(bf16)))
            }
            Self::Vector | Self::Plain | Self::Stored => None,
        }
    }
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
    /// What is not held.
    streamed: Option<Choice>,
}

/// Where a tensor is kept: name, form, and the shape that panels were made for.
type Key = (String, Form, Shape);

impl Weights {
    /// Loads every weight of `plans`, or as many that at most `most` bytes are held. `progress` gets
    /// bytes done and in all, and says whether to go on.
    ///
    /// # Errors
    /// Where a weight is missing, of another size or unreadable, or has no room; where `progress`
    /// says stop.
    pub fn load(
        cpu: &Cpu,
        plans: &[&Plan],
        provider: &dyn WeightProvider,
        most: Option<u64>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Self, LoadError> {
        let (mut wanted, tables) = wanted(plans);
        for (name, ty) in tables {
            fetch(provider, name, ty)?;
        }
        let streamed = most.and_then(|most| Choice::new(cpu.level(), plans, most));
        if let Some(choice) = &streamed {
            for (key, (ty, _)) in &wanted {
                if choice.contains(key) {
                    fetch(provider, &key.0, ty)?;
                }
            }
            wanted.retain(|key, _| !choice.contains(key));
        }
        let total: u64 = wanted.values().map(|(ty, _)| ty.bytes()).sum();
        let mut jobs: Vec<_> = wanted.into_iter().collect();
        jobs.sort_by_key(|(_, (_, order))| *order);
        let mut out = Self { streamed, ..Self::default() };
        let mut reader = Reader::new(cpu.pool(), cpu.level(), provider);
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

    /// Bytes that the weights of `plans` take at `level` once they are loaded, known without them.
    pub fn planned_bytes(level: Level, plans: &[&Plan]) -> u64 {
        let (wanted, _) = wanted(plans);
        let each = wanted.iter().map(|((_, form, _), (ty, _))| loaded_bytes(level, *form, ty));
        each.fold(0, u64::saturating_add)
    }

    /// Bytes held, and bytes that a run of one plan brings in at most, where at most `most` bytes of the
    /// weights of `plans` may be held at `level`; `None` where none can be left out.
    pub fn planned_streaming(level: Level, plans: &[&Plan], most: u64) -> Option<[u64; 2]> {
        Choice::new(level, plans, most).map(|choice| [choice.held, choice.moved])
    }

    /// Bytes held, with the memory that others pass through.
    pub fn bytes(&self) -> u64 {
        self.streamed.as_ref().map_or(self.bytes, |choice| choice.held)
    }

    /// Bytes that a run of one of the plans brings in at most.
    pub fn moved(&self) -> u64 {
        self.streamed.as_ref().map_or(0, |choice| choice.moved)
    }

    /// Bytes of a slot that weights pass through which are not held.
    pub(super) fn slot(&self) -> Option<u64> {
        self.streamed.as_ref().map(|choice| choice.slot)
    }

    /// What `plan` reads that is not held.
    pub(super) fn schedule(&self, level: Level, plan: &Plan) -> Schedule {
        self.streamed.as_ref().map_or_else(Schedule::default, |c| Schedule::new(level, plan, c))
    }

    /// Where the weight that a buffer is lies in `form`.
    pub(super) fn find(&self, plan: &Plan, buffer: BufferId, form: Form) -> Option<usize> {
        let buffer = plan.buffer(buffer);
        let Root::Weight(index) = buffer.root else { return None };
        let name = plan.weights[index as usize].name.clone();
        self.index.get(&(name, form, shape(form, &buffer.ty))).copied()
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
            let forms = Launch::new(plan, step).forms();
            for (position, operand) in step.operands.iter().enumerate() {
                let buffer = plan.buffer(*operand);
                let Root::Weight(index) = buffer.root else { continue };
                let weight = &plan.weights[index as usize];
                let found = forms.iter().find(|(at, _)| *at == position);
                let form = found.map_or(Form::Plain, |(_, form)| *form);
                let ty = match form {
                    Form::Plain => &weight.ty,
                    _ => &buffer.ty,
                };
                if form == Form::Stored {
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
fn loaded_bytes(level: Level, form: Form, ty: &TensorType) -> u64 {
    let panels = |n: usize, k: usize| {
        let kind = form.kind(level, ty).expect("a form in panels");
        packed_bytes(n, k, kind).next_multiple_of(ALIGN) as u64
    };
    match form {
        Form::Matrix { .. } => panels(ty.shape[0], ty.elements() / ty.shape[0].max(1)),
        Form::Kernel { .. } => {
            let [cout, cin, kt, kh, kw] = super::kernel_shape(&ty.shape);
            panels(cout, cin * kt * kh * kw)
        }
        Form::Doubled { .. } => {
            let [cout, cin, ..] = super::kernel_shape(&ty.shape);
            let shape = UpsampleShape { input: [1; 3], cin, cout };
            panels(cout, shape.k(form.kind(level, ty).expect("a form in panels")))
        }
        Form::Vector => ty.elements() as u64 * 4,
        Form::Plain => ty.bytes(),
        Form::Stored => 0,
    }
}

/// The shape a form depends on.
fn shape(form: Form, ty: &TensorType) -> Shape {
    match form {
        Form::Matrix { .. } | Form::Kernel { .. } | Form::Doubled { .. } => ty.shape.clone(),
        Form::Vector | Form::Plain | Form::Stored => Shape::new(),
    }
}

impl Loaded {
    fn bytes(&self) -> u64 {
        match self {
            Self::Matrix(matrix) => matrix.bytes().len() as u64,
            Self::Plain(bytes) => bytes.len() as u64,
        }
    }
}
