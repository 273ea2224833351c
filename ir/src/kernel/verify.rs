//! Rules of kernels: what every backend may rely on, whoever wrote the kernel.
//!
//! [`Kernel::verify`] checks what a kernel says by itself, [`Kernel::check`] that and the types it
//! is launched with. No arithmetic here overflows, and no number of a kernel is an index before it
//! was compared. Rows picked by segments are known at run time only and checked there.

use super::{
    Access, Anchor, AnchorKernel, Columns, Combine, CopyKernel, Instruction, Kernel, Load,
    MOST_AXES, Part, RowFn, RowKernel, RowMap,
};
use crate::infer::infer;
use crate::op::Op;
use crate::types::{DType, TensorType};

/// Most instructions of a row kernel.
pub const MOST_INSTRUCTIONS: usize = 1024;
/// Elements of a tensor and of a row space stay below this.
const MOST_ELEMENTS: usize = 1 << 48;

impl Kernel {
    /// Whether the kernel is sound by itself, as far as its types are its own, in words.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn verify(&self) -> Result<(), String> {
        match self {
            Self::Row(kernel) => verify(kernel),
            Self::Anchor(kernel) => form(kernel),
            Self::Copy(kernel) => copied(kernel).map(|_| ()),
            Self::Gather | Self::Fill(_) => Ok(()),
        }
    }

    /// Whether the kernel takes operands of these types and gives results of those, in words.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn check(&self, operands: &[&TensorType], results: &[&TensorType]) -> Result<(), String> {
        match self {
            Self::Gather => check_op(&Op::Gather, operands, results),
            Self::Fill(fill) => check_op(&fill.op(), operands, results),
            Self::Copy(kernel) => check_copy(kernel, operands, results),
            Self::Row(kernel) => {
                let [from, to] = [operands, results].map(|t| TensorType::list(t.iter().copied()));
                let own = kernel.operands.iter().eq(operands.iter().copied())
                    && kernel.results.iter().eq(results.iter().copied());
                if !own {
                    let [own_from, own_to] =
                        [&kernel.operands, &kernel.results].map(TensorType::list);
                    return Err(format!("it is for {own_from} to {own_to}, not {from} to {to}"));
                }
                verify(kernel)
            }
            Self::Anchor(kernel) => check_anchor(kernel, operands, results),
        }
    }
}

fn check_op(op: &Op, operands: &[&TensorType], results: &[&TensorType]) -> Result<(), String> {
    let recorded: Vec<TensorType> = results.iter().map(|ty| (*ty).clone()).collect();
    let inferred = infer(op, operands, &recorded).map_err(|error| error.message)?;
    if inferred[..] == recorded[..] {
        return Ok(());
    }
    let [inferred, recorded] = [&inferred[..], &recorded].map(TensorType::list);
    Err(format!("it gives {inferred}, recorded is {recorded}"))
}

/// Elements that a copy has, whose parts it checks.
fn copied(kernel: &CopyKernel) -> Result<usize, String> {
    let mut line = 0usize;
    for (at, part) in kernel.parts.iter().enumerate() {
        if let Part::Strided { axes, .. } = part
            && (axes.len() > MOST_AXES || axes.iter().any(|(size, _)| *size == 0))
        {
            return Err(format!("part {at} has an axis of no size, or more than {MOST_AXES} axes"));
        }
        let length = kernel.length(part).filter(|length| *length > 0);
        let length = length.ok_or_else(|| {
            format!("part {at} has not some elements for each of {} lines", kernel.lines)
        })?;
        line = line.saturating_add(length);
    }
    let elements = kernel.lines.checked_mul(line).filter(|n| (1..MOST_ELEMENTS).contains(n));
    elements.ok_or_else(|| format!("{} lines of {line} elements", kernel.lines))
}

fn check_copy(
    kernel: &CopyKernel,
    operands: &[&TensorType],
    results: &[&TensorType],
) -> Result<(), String> {
    let elements = copied(kernel)?;
    let [result] = results else { return Err(format!("{} results of a copy", results.len())) };
    if result.elements() != elements {
        return Err(format!("it copies {elements} elements, recorded is {result}"));
    }
    if operands.len() != kernel.operands() || operands.iter().any(|ty| ty.dtype != result.dtype) {
        let operands = TensorType::list(operands.iter().copied());
        return Err(format!("it does not copy {operands} to {result}"));
    }
    for (at, part) in kernel.parts.iter().enumerate() {
        let Part::Strided { operand, offset, axes } = part else { continue };
        let reach = |end: usize, (size, stride): &(usize, usize)| {
            (size - 1).checked_mul(*stride).and_then(|far| far.checked_add(end))
        };
        let last = axes.iter().try_fold(*offset, reach);
        if last.is_none_or(|last| last >= operands[*operand].elements()) {
            return Err(format!("part {at} leaves {}", operands[*operand]));
        }
    }
    Ok(())
}

/// What an anchor may be, whatever its types.
fn form(kernel: &AnchorKernel) -> Result<(), String> {
    let AnchorKernel { anchor, arity, parts, load, sums, activation, activated, combine, .. } =
        kernel;
    let (least, most) = anchor.op().arity();
    if !(least..=most).contains(arity) {
        return Err(format!("{arity} operands do not fit {}", anchor.name()));
    }
    if *parts == 0 || (*parts > 1 && *anchor != Anchor::Linear) {
        return Err(format!("{parts} parts of {} make no kernel", anchor.name()));
    }
    if *parts > 1 && *combine != Combine::Store {
        return Err("a kernel of several parts combines nothing".to_owned());
    }
    if let Load::Nearest(factors) = load {
        if !matches!(anchor, Anchor::Conv { .. }) {
            return Err(format!("{} reads its operands as they lie", anchor.name()));
        }
        if factors.contains(&0) || *factors == [1; 3] {
            return Err(format!("a load that repeats each element {factors:?} times"));
        }
    }
    for dtype in [sums, activated].into_iter().flatten() {
        if !matches!(dtype, DType::Bf16 | DType::F16) {
            return Err(format!("sums are rounded to bf16 or f16, not {dtype}"));
        }
    }
    if activated.is_some() && activation.is_none() {
        return Err("what no activation gives is not rounded".to_owned());
    }
    let plain = sums.is_none() && activation.is_none() && *combine == Combine::Store;
    if !plain && !matches!(anchor, Anchor::Linear | Anchor::Conv { .. } | Anchor::Dot { .. }) {
        return Err(format!("{} has no epilogue", anchor.name()));
    }
    Ok(())
}

fn check_anchor(
    kernel: &AnchorKernel,
    operands: &[&TensorType],
    results: &[&TensorType],
) -> Result<(), String> {
    form(kernel)?;
    // The form bounds the arity, so that a number of parts below that of operands is safe to use.
    if kernel.parts > operands.len() || kernel.operands() != operands.len() {
        return Err(format!("{} operands do not fit its form", operands.len()));
    }
    if results.len() != kernel.results() {
        return Err(format!("{} results do not fit its form", results.len()));
    }
    for (part, results) in results.chunks(kernel.anchor.results()).enumerate() {
        let mut own: Vec<&TensorType> =
            (0..kernel.arity).map(|at| operands[kernel.part_operand(part, at)]).collect();
        let seen = kernel.load.seen(own[0]).filter(small);
        let seen = seen.ok_or_else(|| format!("its load has no place in {}", own[0]))?;
        own[0] = &seen;
        check_op(&kernel.anchor.op(), &own, results)?;
    }
    let Some(residual) = kernel.residual_operand() else { return Ok(()) };
    let (from, to) = (operands[residual], results[0]);
    if from.shape != to.shape || !from.dtype.is_float() {
        return Err(format!("a residual of {from} for {to}"));
    }
    if let Combine::GateAdd { offset, stride } = kernel.combine {
        let (gate, segments) = (operands[residual + 1], operands[residual + 2]);
        let rows = to.elements() / to.last().max(1);
        if segments.dtype != DType::I32 || segments.elements() != rows {
            return Err(format!("segments are i32[{rows}], not {segments}"));
        }
        let inside = offset.checked_add(to.last()).is_some_and(|end| end <= gate.elements());
        if gate.dtype != DType::F32 || (rows > 0 && !inside) || stride > gate.elements() {
            return Err(format!("a gate of {gate} has no rows of {} at {offset}", to.last()));
        }
    }
    Ok(())
}

/// Element types that row kernels of this arithmetic load, store and round to.
fn held(arithmetic: DType, dtype: DType) -> bool {
    let narrow = matches!(dtype, DType::F32 | DType::Bf16 | DType::F16 | DType::Bool);
    narrow || arithmetic != DType::F32
}

/// The first broken rule, in words. Rules: the row space and all types are small enough for
/// products of sizes; registers are read after they are made; every operand and result exists;
/// vectors are reduced and rotated, scalars are not, and rotated are pairs; loads stay inside their
/// operand (rows picked by a segment are checked when they run); stores stand at the end, one for
/// each result; results have one element or `width` elements a row.
///
/// # Errors
/// The rule.
pub fn verify(kernel: &RowKernel) -> Result<(), String> {
    let (rows, width) = (kernel.rows, kernel.width);
    if kernel.code.len() > MOST_INSTRUCTIONS {
        return Err(format!("{} instructions, at most {MOST_INSTRUCTIONS}", kernel.code.len()));
    }
    if rows.max(1).checked_mul(width.max(1)).is_none_or(|space| space >= MOST_ELEMENTS) {
        return Err(format!("{rows} rows of {width} columns are too many"));
    }
    if let Some(ty) = kernel.operands.iter().chain(&kernel.results).find(|ty| !small(ty)) {
        return Err(format!("{ty} is too large"));
    }
    if !matches!(kernel.arithmetic, DType::F32 | DType::F64 | DType::I32) {
        return Err(format!("rows are computed in f32, f64 or i32, not {}", kernel.arithmetic));
    }
    if kernel.results.is_empty() {
        return Err("it has no result".to_owned());
    }
    for (result, ty) in kernel.results.iter().enumerate() {
        let narrow = width > 0 && ty.elements() == rows;
        if ty.elements() != rows * width && !narrow {
            return Err(format!("result {result} of {ty} has no rows of the kernel"));
        }
        if !held(kernel.arithmetic, ty.dtype) {
            return Err(format!("rows of {} cannot be stored", ty.dtype));
        }
    }
    for (at, instruction) in kernel.code.iter().enumerate() {
        if let Some(read) = instruction.reads().iter().find(|r| **r as usize >= at) {
            return Err(format!("v{at} reads v{read}, which is not made yet"));
        }
    }
    let scalars = kernel.scalars();
    let mut stored = vec![false; kernel.results.len()];
    let mut storing = false;
    for (at, instruction) in kernel.code.iter().enumerate() {
        let stores = |r: &u16| matches!(kernel.code[*r as usize], Instruction::Store { .. });
        if instruction.reads().iter().any(stores) {
            return Err(format!("v{at} reads a store"));
        }
        if storing && !matches!(instruction, Instruction::Store { .. }) {
            return Err(format!("v{at} stands behind a store"));
        }
        match instruction {
            Instruction::Load(access) => load(kernel, access).map_err(|e| format!("v{at}: {e}"))?,
            Instruction::Reduce(_, x) | Instruction::Rotate(x, _) if scalars[*x as usize] => {
                return Err(format!("v{at} needs a vector, v{x} is a scalar"));
            }
            Instruction::Rotate(..) if width % 2 != 0 => {
                return Err(format!("v{at} turns pairs of {width} columns"));
            }
            Instruction::Round(dtype, _)
                if *dtype == DType::Bool || !held(kernel.arithmetic, *dtype) =>
            {
                return Err(format!("v{at} rounds to {dtype}"));
            }
            Instruction::Rotate(..)
            | Instruction::Fma(..)
            | Instruction::Unary(RowFn::Gelu | RowFn::Silu, _)
                if kernel.arithmetic != DType::F32 =>
            {
                return Err(format!("v{at} is computed in f32 alone"));
            }
            Instruction::Store { result, value } => {
                storing = true;
                match stored.get_mut(*result) {
                    None => return Err(format!("store to result {result}, which is not there")),
                    Some(true) => return Err(format!("result {result} is stored twice")),
                    Some(slot) => *slot = true,
                }
                let narrow = kernel.result_width(*result) == 1 && kernel.width != 1;
                if narrow && !scalars[*value as usize] {
                    return Err(format!("result {result} takes one element a row, not a vector"));
                }
            }
            _ => {}
        }
    }
    match stored.iter().position(|s| !s) {
        Some(result) => Err(format!("result {result} is never stored")),
        None => Ok(()),
    }
}

/// Whether products of a few sizes of a type fit 64 bits.
pub(crate) fn small(ty: &TensorType) -> bool {
    let elements = ty.shape.iter().try_fold(1usize, |n, size| n.checked_mul((*size).max(1)));
    elements.is_some_and(|n| n < MOST_ELEMENTS)
}

fn load(kernel: &RowKernel, access: &Access) -> Result<(), String> {
    let ty = kernel.operands.get(access.operand).ok_or("the operand is not there")?;
    if !held(kernel.arithmetic, ty.dtype) {
        return Err(format!("rows of {} cannot be loaded", ty.dtype));
    }
    let last = match access.rows {
        RowMap::Fixed => 0,
        RowMap::Affine { divisor, modulus } => {
            if divisor == 0 || modulus == 0 {
                return Err("a row map with a zero".into());
            }
            (kernel.rows.saturating_sub(1) / divisor).min(modulus - 1)
        }
        RowMap::Segment(segments) => {
            let ty = kernel.operands.get(segments).ok_or("the segments are not there")?;
            if ty.dtype != DType::I32 || ty.elements() != kernel.rows {
                return Err(format!("segments are i32[{}], not {ty}", kernel.rows));
            }
            0
        }
    };
    let row = match access.columns {
        Columns::All => kernel.width,
        Columns::One => 1,
        Columns::Every(0) => return Err("a period of zero".into()),
        Columns::Every(period) => period.min(kernel.width),
        Columns::Step(_) if kernel.arithmetic == DType::F32 => {
            return Err("columns that lie apart are not read in f32".into());
        }
        Columns::Step(step) => {
            let last = kernel.width.saturating_sub(1).checked_mul(step);
            last.and_then(|last| last.checked_add(1)).ok_or("the row ends nowhere")?
        }
    };
    let start = last.checked_mul(access.stride).and_then(|n| n.checked_add(access.offset));
    let Some(end) = start.and_then(|start| start.checked_add(row)) else {
        return Err("the load ends nowhere".into());
    };
    if kernel.rows > 0 && kernel.width > 0 && end > ty.elements() {
        return Err(format!("the load ends at {end} of {} elements", ty.elements()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, RowReduce, text};
    use super::*;
    use crate::types::TensorType;
    use crate::{BinaryFn, UnaryFn};

    fn norm() -> RowKernel {
        let own =
            Access { operand: 0, rows: RowMap::OWN, columns: Columns::All, offset: 0, stride: 8 };
        let picked = Access { operand: 1, rows: RowMap::Segment(2), ..own };
        RowKernel {
            name: "rms".into(),
            rows: 4,
            width: 8,
            arithmetic: DType::F32,
            operands: vec![
                TensorType::new(DType::F32, [4, 8]),
                TensorType::new(DType::F32, [2, 8]),
                TensorType::new(DType::I32, [4]),
            ],
            results: vec![TensorType::new(DType::Bf16, [4, 8])],
            code: vec![
                Instruction::Load(own),
                Instruction::Reduce(RowReduce::MeanSquares, 0),
                Instruction::Const(1e-6),
                Instruction::Binary(BinaryFn::Add, 1, 2),
                Instruction::Unary(RowFn::Primitive(UnaryFn::Rsqrt), 3),
                Instruction::Binary(BinaryFn::Mul, 0, 4),
                Instruction::Load(picked),
                Instruction::Binary(BinaryFn::Mul, 5, 6),
                Instruction::Store { result: 0, value: 7 },
            ],
        }
    }

    #[test]
    fn text_is_readable_and_stable() {
        let expected = "\
kernel k0 \"rms\" rows i in 4, cols j in 8 {
  in a0: f32[4,8]
  in a1: f32[2,8]
  in a2: i32[4]
  out y0: bf16[4,8]
  v0 = a0[i*8 + j]
  v1 = mean_squares_j(v0)
  v2 = 1e-6
  v3 = add(v1, v2)
  v4 = rsqrt(v3)
  v5 = mul(v0, v4)
  v6 = a1[a2[i]*8 + j]
  v7 = mul(v5, v6)
  y0[i,j] = v7
}
";
        assert_eq!(text::print(&Kernel::Row(norm())), expected);
    }

    #[test]
    fn each_rule_is_checked() {
        assert_eq!(verify(&norm()), Ok(()));
        let broken = |change: fn(&mut RowKernel)| {
            let mut kernel = norm();
            change(&mut kernel);
            verify(&kernel).unwrap_err()
        };
        assert!(broken(|k| k.code[3] = Instruction::Binary(BinaryFn::Add, 1, 5)).contains("made"));
        assert!(broken(|k| k.operands[0].shape[0] = 3).contains("ends at"));
        assert!(broken(|k| k.operands[2].dtype = DType::F32).contains("segments"));
        assert!(broken(|k| k.code[5] = Instruction::Reduce(RowReduce::Sum, 4)).contains("vector"));
        assert!(broken(|k| k.code[8] = Instruction::Const(0.0)).contains("never stored"));
        assert!(
            broken(|k| k.code.push(Instruction::Store { result: 0, value: 7 })).contains("twice")
        );
        assert!(broken(|k| k.code.push(Instruction::Const(0.0))).contains("behind"));
        assert!(broken(|k| k.results[0].shape[1] = 5).contains("rows of the kernel"));
    }

    #[test]
    fn values_that_no_text_holds_are_refused_too() {
        let mut kernel = norm();
        kernel.operands[1].shape[0] = 1 << 60;
        assert!(verify(&kernel).unwrap_err().contains("too large"));
        let mut kernel = norm();
        kernel.code = vec![Instruction::Const(0.0); MOST_INSTRUCTIONS];
        kernel.code.push(Instruction::Store { result: 0, value: 7 });
        assert!(verify(&kernel).unwrap_err().contains("at most 1024"));
        let mut odd = AnchorKernel::plain(Anchor::Linear, 2);
        odd.activated = Some(DType::Bf16);
        assert!(Kernel::Anchor(odd).verify().unwrap_err().contains("no activation"));
        let huge = AnchorKernel { parts: usize::MAX, ..AnchorKernel::plain(Anchor::Linear, 2) };
        let ty = TensorType::new(DType::F32, [4, 4]);
        assert!(Kernel::Anchor(huge).check(&[&ty; 3], &[&ty]).is_err());
        // Asked before the kernel is checked.
        assert!(!kernel.writes_in_place(9, 0) && !kernel.writes_in_place(0, 9));
    }

    #[test]
    fn in_place_needs_own_rows_of_equal_bytes() {
        let mut kernel = norm();
        assert!(!kernel.writes_in_place(0, 0), "f32 to bf16");
        kernel.results[0].dtype = DType::F32;
        assert!(kernel.writes_in_place(0, 0));
        assert!(!kernel.writes_in_place(1, 0), "another shape");
        kernel.operands[1].shape[0] = 4;
        assert!(!kernel.writes_in_place(1, 0), "rows picked by segment");
    }
}
