//! What every step is to fusion: a view, an anchor, a step over rows, or neither.

use super::view::{Strided, own, row_view};
use crate::program::{Program, ProgramStep, ValueIndex};
use crate::rewrite::Rewrites;
use crate::storage::storages;
use anyid_ir::kernel::{Access, Anchor, AnchorKernel, Columns, NATIVE, Native, RowMap};
use anyid_ir::{DType, Op, OpClass};
use smallvec::SmallVec;

/// An operand of a step over rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowOperand {
    /// Rows of a value.
    Read {
        /// The value.
        base: ValueIndex,
        /// Which of its elements; positions of operands are set when the kernel is made.
        access: Access,
    },
    /// A number.
    Literal(f32),
}

impl RowOperand {
    /// The value read, if any.
    pub fn base(&self) -> Option<ValueIndex> {
        match self {
            Self::Read { base, .. } => Some(*base),
            Self::Literal(_) => None,
        }
    }
}

/// A step as a map or reduction over rows.
#[derive(Clone, Debug, PartialEq)]
pub struct RowStep {
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Operands in the op's order, without the segments.
    pub operands: SmallVec<[RowOperand; 2]>,
    /// The segment of each row, a value read as it lies.
    pub segments: Option<ValueIndex>,
    /// What it is computed in.
    pub arithmetic: DType,
}

/// What a step is.
#[derive(Clone, Debug, PartialEq)]
pub enum Class {
    /// The operand's own memory under another shape: no step.
    Alias,
    /// A literal of one value; row kernels hold it themselves.
    Literal(f32),
    /// A map or reduction over rows.
    Row(RowStep),
    /// A product, attention or convolution.
    Anchor,
    /// Moves or makes data.
    Single,
}

/// The class of every step and what it needs from others.
#[derive(Clone, Debug)]
pub struct Classes {
    /// By step.
    pub class: Vec<Class>,
    /// For every value the value that owns its memory.
    pub owner: Vec<ValueIndex>,
    /// Values each live step reads: bases of rows, owners of whole operands.
    pub reads: Vec<SmallVec<[ValueIndex; 4]>>,
    /// Steps that are needed.
    pub live: Vec<bool>,
}

/// Classifies every step; each over rows that reads through what moves its operands is a rewrite.
/// Others read their operands as they are.
pub fn classify(program: &Program, rewrites: &mut Rewrites) -> Classes {
    let views = super::view::views(program);
    let storages = storages(program);
    let owner: Vec<ValueIndex> = storages.iter().map(|storage| storage.owner).collect();
    let class: Vec<Class> = program
        .steps
        .iter()
        .map(|step| {
            if owner[step.result() as usize] != step.result() {
                return Class::Alias;
            }
            match &step.op {
                op if op.class() == OpClass::Anchor => Class::Anchor,
                Op::Const { .. } if rewrites.enabled() => {
                    literal(program, step.result()).map_or(Class::Single, Class::Literal)
                }
                op if !over_rows(op) => Class::Single,
                _ => {
                    let arithmetic = arithmetic(program, step);
                    let through =
                        arithmetic == DType::F32 && rewrites.allow("row kernel", step.label());
                    if !through && copied(program, step) {
                        return Class::Single;
                    }
                    let views = through.then_some(views.as_slice());
                    Class::Row(row_step(program, step, arithmetic, views))
                }
            }
        })
        .collect();
    let reads: Vec<SmallVec<[ValueIndex; 4]>> = program
        .steps
        .iter()
        .zip(&class)
        .map(|(step, class)| match class {
            Class::Alias => SmallVec::new(),
            Class::Row(row) => {
                let segments = row.segments.map(|v| owner[v as usize]);
                row.operands.iter().filter_map(RowOperand::base).chain(segments).collect()
            }
            _ => step.operands.iter().map(|v| owner[*v as usize]).collect(),
        })
        .collect();
    let mut needed = vec![false; program.values.len()];
    for port in &program.outputs {
        needed[owner[port.value as usize] as usize] = true;
    }
    let mut live = vec![false; program.steps.len()];
    for at in (0..program.steps.len()).rev() {
        // What a base reads through an alias is the owner's memory.
        let mut results = program.steps[at].results.iter();
        if !matches!(class[at], Class::Alias) && results.any(|value| needed[*value as usize]) {
            live[at] = true;
            for value in &reads[at] {
                needed[owner[*value as usize] as usize] = true;
            }
        }
    }
    Classes { class, owner, reads, live }
}

/// The anchor kernel of a step with nothing fused.
pub fn anchor(step: &ProgramStep) -> AnchorKernel {
    let anchor = Anchor::of(&step.op).expect("it is of that class");
    AnchorKernel::plain(anchor, step.operands.len())
}

/// Whether values of this element type live in f32 registers.
fn is_plain(program: &Program, value: ValueIndex) -> bool {
    matches!(program.ty(value).dtype, DType::F32 | DType::Bf16 | DType::F16)
}

/// Whether an op is a map or a reduction over rows.
fn over_rows(op: &Op) -> bool {
    let rows = |(name, native): &(&str, Native)| *name == op.name() && *native == Native::Rows;
    match op {
        Op::Unary(_) | Op::Binary(_) | Op::Compare(_) => true,
        Op::Cast | Op::Select | Op::Reduce { .. } => true,
        _ => NATIVE.iter().any(rows),
    }
}

/// Whether a cast changes nothing.
fn copied(program: &Program, step: &ProgramStep) -> bool {
    step.op == Op::Cast && program.ty(step.operands[0]) == program.ty(step.result())
}

/// What a step over rows is computed in: f32 where its element types fit there, doubles or whole
/// numbers else.
fn arithmetic(program: &Program, step: &ProgramStep) -> DType {
    let plain = |value: &ValueIndex| is_plain(program, *value);
    let float = |value: &ValueIndex| program.ty(*value).dtype.is_float();
    let typed = match &step.op {
        Op::Compare(_) => step.operands.iter().all(plain),
        Op::Select => step.operands[1..].iter().all(plain),
        // Their fourth operand are segments.
        Op::Modulate | Op::GateAdd => step.operands[..3].iter().chain([&step.result()]).all(plain),
        Op::Reduce { axes, .. } => plain(&step.operands[0]) && last(program, step, axes),
        _ => step.operands.iter().chain([&step.result()]).all(plain),
    };
    match &step.op {
        _ if typed => DType::F32,
        Op::Cast | Op::Compare(_) => DType::F64,
        _ if float(&step.result()) => DType::F64,
        _ => DType::I32,
    }
}

/// Whether a reduction is over the last axes; else it is over the first.
fn last(program: &Program, step: &ProgramStep, axes: &[usize]) -> bool {
    let rank = program.ty(step.operands[0]).rank();
    axes.iter().copied().eq(rank - axes.len()..rank)
}

/// A step as one over rows, which reads its operands through `views`, or as they lie.
fn row_step(
    program: &Program,
    step: &ProgramStep,
    arithmetic: DType,
    views: Option<&[Strided]>,
) -> RowStep {
    let mut space = program.ty(step.result()).shape.clone();
    let (mut data, mut segments, mut columns) = (step.operands.len(), None, 1);
    match &step.op {
        Op::Reduce { axes, .. } if !last(program, step, axes) => {
            let base = step.operands[0];
            let shape = &program.ty(base).shape;
            let [width, rows]: [usize; 2] =
                [&shape[..axes.len()], &shape[axes.len()..]].map(|axes| axes.iter().product());
            // One element behind the other from row to row.
            let (own, columns) = (RowMap::OWN, Columns::Step(rows));
            let access = Access { operand: 0, rows: own, columns, offset: 0, stride: 1 };
            let operands = smallvec::smallvec![RowOperand::Read { base, access }];
            return RowStep { rows, width, operands, segments, arithmetic };
        }
        Op::Modulate | Op::GateAdd => (data, segments) = (3, Some(step.operands[3])),
        Op::Reduce { axes, .. } => {
            columns = axes.len();
            space.clone_from(&program.ty(step.operands[0]).shape);
        }
        _ => {}
    }
    if space.is_empty() {
        space.push(1);
        columns = 1;
    }
    let split = space.len() - columns;
    let rows: usize = space[..split].iter().product();
    let width: usize = space[split..].iter().product();
    let operand = |(at, value): (usize, &ValueIndex)| {
        let table = matches!((&step.op, at), (Op::Modulate, 1 | 2) | (Op::GateAdd, 2));
        let value = match views {
            Some(_) if !table => widened(program, *value),
            _ => *value,
        };
        let through = views.map(|views| &views[value as usize]);
        if let Some(view) = through
            && !table
            && !matches!(step.op, Op::Rope { .. })
            && let Some(value) = literal(program, view.base)
        {
            return RowOperand::Literal(value);
        }
        let shape = &program.ty(value).shape;
        let mut found = through.and_then(|view| read(step, at, view, shape, (&space, columns)));
        if found.is_none() {
            found = read(step, at, &own(program, value), shape, (&space, columns));
        }
        found.expect("operands are rows as they lie: others were spread out before")
    };
    let operands = step.operands[..data].iter().enumerate().map(operand).collect();
    RowStep { rows, width, operands, segments, arithmetic }
}

/// How operand `at` of a step over `space`, whose last `columns` axes are the columns, is read through a view;
/// `None` where no row kernel can.
fn read(
    step: &ProgramStep,
    at: usize,
    view: &Strided,
    shape: &[usize],
    (space, columns): (&[usize], usize),
) -> Option<RowOperand> {
    let access = match (&step.op, at) {
        (Op::Modulate, 1 | 2) | (Op::GateAdd, 2) => {
            let (rows, columns, stride) = (RowMap::Segment(0), Columns::All, view.strides[0]);
            let dense = view.strides[1] == 1 || shape[1] == 1;
            dense.then_some(Access { operand: 0, rows, columns, offset: view.offset, stride })
        }
        // Angles of a rotation: own rows of so many elements, repeated over the columns.
        (Op::Rope { .. }, 1) => {
            let period = shape[1] * shape[2];
            let dense = row_view(view, shape, shape, 2)?;
            let own = dense.columns == Columns::All && dense.is_own(period);
            own.then_some(Access { columns: Columns::Every(period), ..dense })
        }
        // What is turned are pairs.
        (Op::Rope { .. }, _) => {
            row_view(view, shape, space, columns).filter(|read| read.columns != Columns::One)
        }
        _ => row_view(view, shape, space, columns),
    };
    access.map(|access| RowOperand::Read { base: view.base, access })
}

/// What a step over rows may read instead of `value`: the operand of a cast that loses nothing, as
/// loads widen to f32.
pub fn widened(program: &Program, value: ValueIndex) -> ValueIndex {
    let Some(step) = program.maker(value) else { return value };
    let narrow = || step.operands[0];
    let lossless = step.op == Op::Cast
        && program.ty(value).dtype == DType::F32
        && matches!(program.ty(narrow()).dtype, DType::Bf16 | DType::F16);
    if lossless { narrow() } else { value }
}

/// The number that a value is, if row kernels can hold it.
fn literal(program: &Program, value: ValueIndex) -> Option<f32> {
    let number = program.number(value).filter(|_| is_plain(program, value));
    number.map(|number| number as f32)
}
