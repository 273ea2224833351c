//! What every step is to fusion: a view, an anchor, a step over rows, or neither.

use super::view::{RowView, Strided, row_view};
use crate::program::{Origin, Program, ProgramStep, ValueIndex};
use crate::rewrite::Rewrites;
use crate::storage::storages;
use anyid_ir::kernel::{AnchorKernel, Target};
use anyid_ir::{DType, Op};
use smallvec::SmallVec;

/// An operand of a step over rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RowOperand {
    /// Rows of a value.
    Rows {
        /// The value read.
        base: ValueIndex,
        /// Which of its elements.
        view: RowView,
    },
    /// Rows of a table picked by segment: the base, elements before its first row and between rows.
    Table {
        /// The table.
        base: ValueIndex,
        /// Elements before its first row.
        offset: usize,
        /// Elements between rows.
        stride: usize,
    },
    /// Angles of a rotation: own rows of so many elements, repeated over the columns.
    Angles {
        /// The table.
        base: ValueIndex,
        /// Elements of a row.
        period: usize,
    },
    /// A number.
    Literal(f32),
}

impl RowOperand {
    /// The value read, if any.
    pub fn base(&self) -> Option<ValueIndex> {
        match self {
            Self::Rows { base, .. } | Self::Table { base, .. } | Self::Angles { base, .. } => {
                Some(*base)
            }
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
    pub operands: SmallVec<[RowOperand; 3]>,
    /// The segment of each row, a value read as it lies.
    pub segments: Option<ValueIndex>,
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
    /// Anything else; the reason it is not a step over rows.
    Single(&'static str),
}

/// The class of every step and what it needs from others.
#[derive(Clone, Debug)]
pub struct Classes {
    /// By step.
    pub class: Vec<Class>,
    /// Strided view of every value.
    pub views: Vec<Strided>,
    /// For every value the value that owns its memory.
    pub owner: Vec<ValueIndex>,
    /// Values each live step reads: bases of rows, owners of whole operands.
    pub reads: Vec<SmallVec<[ValueIndex; 4]>>,
    /// Steps that are needed.
    pub live: Vec<bool>,
}

/// Classifies every step; each that becomes one over rows is a rewrite. Where none is allowed
/// nothing is a step over rows.
pub fn classify(program: &Program, rewrites: &mut Rewrites) -> Classes {
    let views = super::view::views(program);
    let storages = storages(program);
    let owner: Vec<ValueIndex> = storages.iter().map(|storage| storage.owner).collect();
    let class: Vec<Class> = program
        .steps
        .iter()
        .map(|step| {
            if owner[step.result as usize] != step.result {
                return Class::Alias;
            }
            match &step.op {
                Op::Linear | Op::Attention { .. } | Op::Conv { .. } | Op::Dot => Class::Anchor,
                _ if !rewrites.enabled() => Class::Single("fusion is off"),
                Op::Const { values } if values.len() == 1 && is_plain(program, step.result) => {
                    Class::Literal(program.ty(step.result).dtype.round(values[0]) as f32)
                }
                _ => match row_step(program, step, &views, &owner) {
                    Ok(row) if rewrites.allow("row kernel", &step.label) => Class::Row(row),
                    Ok(_) => Class::Single("no more rewrites are allowed"),
                    Err(why) => Class::Single(why),
                },
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
        if !matches!(class[at], Class::Alias) && needed[program.steps[at].result as usize] {
            live[at] = true;
            for value in &reads[at] {
                needed[owner[*value as usize] as usize] = true;
            }
        }
    }
    Classes { class, views, owner, reads, live }
}

/// The anchor kernel of a step with nothing fused.
pub fn anchor(step: &ProgramStep) -> AnchorKernel {
    AnchorKernel::plain(step.op.clone(), step.operands.len())
}

/// Whether values of this element type live in f32 registers.
fn is_plain(program: &Program, value: ValueIndex) -> bool {
    matches!(program.ty(value).dtype, DType::F32 | DType::Bf16 | DType::F16)
}

fn row_step(
    program: &Program,
    step: &ProgramStep,
    views: &[Strided],
    owner: &[ValueIndex],
) -> Result<RowStep, &'static str> {
    const TYPE: &str = "its element types are not those of rows";
    let plain = |value: &ValueIndex| is_plain(program, *value);
    let boolean = |value: &ValueIndex| program.ty(*value).dtype == DType::Bool;
    let result = program.ty(step.result);
    let (mut data, mut segments, mut columns) = (step.operands.len(), None, 1);
    let mut space = result.shape.clone();
    let typed = match &step.op {
        Op::Compare(_) => step.operands.iter().all(plain),
        Op::Select => boolean(&step.operands[0]) && step.operands[1..].iter().all(plain),
        Op::Unary(_) | Op::Binary(_) | Op::Cast | Op::Gelu | Op::Silu => {
            step.operands.iter().all(plain) && plain(&step.result)
        }
        Op::LayerNorm { .. } | Op::RmsNorm { .. } | Op::Rope { .. } => {
            step.operands.iter().all(plain) && plain(&step.result)
        }
        Op::Modulate | Op::GateAdd => {
            data = 3;
            segments = Some(step.operands[3]);
            step.operands[..3].iter().all(plain) && plain(&step.result)
        }
        Op::Reduce { axes, .. } => {
            let shape = &program.ty(step.operands[0]).shape;
            if !axes.iter().copied().eq(shape.len() - axes.len()..shape.len()) {
                return Err("it reduces axes that are not the last");
            }
            columns = axes.len();
            space.clone_from(shape);
            plain(&step.operands[0]) && plain(&step.result)
        }
        _ => return Err("it moves or makes data"),
    };
    if !typed {
        return Err(TYPE);
    }
    if space.is_empty() {
        space.push(1);
        columns = 1;
    }
    if columns == 0 || space.contains(&0) {
        return Err("it has no rows");
    }
    let split = space.len() - columns;
    let rows: usize = space[..split].iter().product();
    let width: usize = space[split..].iter().product();
    if let Some(value) = segments {
        let at = owner[value as usize];
        if let Origin::Step(made) = program.values[at as usize].origin
            && super::view::is_movement(&program.steps[made as usize].op)
        {
            return Err("its segments are moved first");
        }
    }
    let mut operands = SmallVec::new();
    for (at, value) in step.operands[..data].iter().enumerate() {
        let table = matches!((&step.op, at), (Op::Modulate, 1 | 2) | (Op::GateAdd, 2));
        let value = if table { *value } else { widened(program, *value) };
        let view = &views[value as usize];
        let shape = &program.ty(value).shape;
        let base = view.base;
        let operand = if table {
            if shape[0] == 0 {
                return Err("its table has no rows");
            }
            if view.strides[1] != 1 && shape[1] != 1 {
                return Err("its table has no rows in memory");
            }
            RowOperand::Table { base, offset: view.offset, stride: view.strides[0] }
        } else if matches!((&step.op, at), (Op::Rope { .. }, 1)) {
            let period = shape[1] * shape[2];
            let dense = row_view(view, shape, shape, 2);
            if !dense.is_some_and(|dense| !dense.one && dense.is_own(period)) {
                return Err("its angles are not dense");
            }
            RowOperand::Angles { base, period }
        } else if let Some(value) = literal(program, base) {
            RowOperand::Literal(value)
        } else {
            let read = row_view(view, shape, &space, columns);
            let view = read.ok_or("an operand has no rows in memory")?;
            RowOperand::Rows { base, view }
        };
        let turned = matches!((&step.op, at), (Op::Rope { .. }, 0));
        if turned && !matches!(operand, RowOperand::Rows { view: RowView { one: false, .. }, .. }) {
            return Err("it turns rows of one element");
        }
        operands.push(operand);
    }
    Ok(RowStep { rows, width, operands, segments })
}

/// What a step over rows may read instead of `value`: the operand of a cast that loses nothing, as
/// loads widen to f32.
pub fn widened(program: &Program, value: ValueIndex) -> ValueIndex {
    let Origin::Step(made) = program.values[value as usize].origin else { return value };
    let step = &program.steps[made as usize];
    let narrow = || step.operands[0];
    let lossless = step.op == Op::Cast
        && program.ty(value).dtype == DType::F32
        && matches!(program.ty(narrow()).dtype, DType::Bf16 | DType::F16);
    if lossless { narrow() } else { value }
}

fn literal(program: &Program, base: ValueIndex) -> Option<f32> {
    let Origin::Step(made) = program.values[base as usize].origin else { return None };
    match &program.steps[made as usize].op {
        Op::Const { values } if values.len() == 1 && is_plain(program, base) => {
            Some(program.ty(base).dtype.round(values[0]) as f32)
        }
        _ => None,
    }
}

/// Whether the target's epilogue can round the result of `op` to `dtype`.
pub fn rounds_to(target: &Target, op: &Op, dtype: DType) -> bool {
    target.epilogue(op).results.contains(&dtype)
}
