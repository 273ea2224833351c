//! Rules of row kernels: what every backend may rely on.

use super::{Access, AnchorKernel, Columns, Combine, Instruction, Kernel, RowKernel, RowMap};
use crate::infer::infer;
use crate::op::{Op, OpClass};
use crate::types::{DType, TensorType};

impl Kernel {
    /// Whether the kernel takes operands of these types and gives results of those, in words.
    pub fn check(&self, operands: &[TensorType], results: &[TensorType]) -> Result<(), String> {
        match self {
            Self::Op(op) => check_op(op, operands, results),
            Self::Row(kernel) => {
                if kernel.operands != operands || kernel.results != results {
                    return Err(format!(
                        "it is for {} to {}, not {} to {}",
                        list(&kernel.operands),
                        list(&kernel.results),
                        list(operands),
                        list(results)
                    ));
                }
                verify(kernel)
            }
            Self::Anchor(kernel) => check_anchor(kernel, operands, results),
        }
    }
}

fn check_op(op: &Op, operands: &[TensorType], results: &[TensorType]) -> Result<(), String> {
    if op.class() == OpClass::Structure || matches!(op, Op::Weight { .. }) {
        return Err(format!("{} does not belong in a plan", op.name()));
    }
    let types: Vec<&TensorType> = operands.iter().collect();
    let inferred = infer(op, &types, results).map_err(|error| error.message)?;
    match inferred[..] == results[..] {
        true => Ok(()),
        false => Err(format!("it gives {}, recorded is {}", list(&inferred), list(results))),
    }
}

fn check_anchor(
    kernel: &AnchorKernel,
    operands: &[TensorType],
    results: &[TensorType],
) -> Result<(), String> {
    let (parts, arity) = (kernel.parts, kernel.arity);
    if parts == 0 || arity < 2 || (parts > 1 && !matches!(kernel.op, Op::Linear)) {
        return Err(format!("{parts} parts of {arity} operands make no kernel"));
    }
    let most = operands.len() as u64;
    if (parts as u64).saturating_mul(arity as u64 - 1) >= most
        || kernel.operands() != operands.len()
    {
        return Err(format!("{} operands do not fit its form", operands.len()));
    }
    if results.len() != parts {
        return Err(format!("{} results for {parts} parts", results.len()));
    }
    for (part, result) in results.iter().enumerate() {
        let own: Vec<TensorType> = std::iter::once(0)
            .chain((1..arity).map(|at| kernel.part_operand(part, at)))
            .map(|at| operands[at].clone())
            .collect();
        check_op(&kernel.op, &own, std::slice::from_ref(result))?;
    }
    let Some(residual) = kernel.residual_operand() else { return Ok(()) };
    if parts != 1 {
        return Err("a kernel of several parts combines nothing".to_owned());
    }
    let (from, to) = (&operands[residual], &results[0]);
    if from.shape != to.shape {
        return Err(format!("a residual of {from} for {to}"));
    }
    if let Combine::GateAdd { offset, stride } = kernel.combine {
        let (gate, segments) = (&operands[residual + 1], &operands[residual + 2]);
        let rows = to.elements() / to.last().max(1);
        if segments.dtype != DType::I32 || segments.elements() != rows {
            return Err(format!("segments are i32[{rows}], not {segments}"));
        }
        let row = offset.checked_add(to.last()).filter(|end| *end <= gate.elements());
        if gate.dtype != DType::F32 || (rows > 0 && row.is_none()) || stride > gate.elements() {
            return Err(format!("a gate of {gate} has no rows of {} at {offset}", to.last()));
        }
    }
    Ok(())
}

fn list(types: &[TensorType]) -> String {
    types.iter().map(TensorType::to_string).collect::<Vec<_>>().join(", ")
}

/// The first broken rule, in words. Rules: registers are read after they are made; every operand
/// and result exists; vectors are reduced and rotated, scalars are not; loads stay inside their
/// operand (rows picked by a segment are checked when they run); stores stand at the end, one for
/// each result; results have one element or `width` elements a row.
pub fn verify(kernel: &RowKernel) -> Result<(), String> {
    for (at, instruction) in kernel.code.iter().enumerate() {
        if let Some(read) = instruction.reads().iter().find(|r| **r as usize >= at) {
            return Err(format!("v{at} reads v{read}, which is not made yet"));
        }
    }
    let scalars = kernel.scalars();
    let mut stored = vec![false; kernel.results.len()];
    for (result, ty) in kernel.results.iter().enumerate() {
        let width = kernel.result_width(result);
        let whole = width * kernel.rows == ty.elements();
        if kernel.rows > 0 && !(whole && (width == 1 || width == kernel.width)) {
            return Err(format!("result {result} of {ty} has no rows of the kernel"));
        }
    }
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

fn load(kernel: &RowKernel, access: &Access) -> Result<(), String> {
    let ty = kernel.operands.get(access.operand).ok_or("the operand is not there")?;
    if !matches!(ty.dtype, DType::F32 | DType::Bf16 | DType::F16 | DType::Bool) {
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
    };
    let end = access.offset + last * access.stride + row;
    if kernel.rows > 0 && kernel.width > 0 && end > ty.elements() {
        return Err(format!("the load ends at {end} of {} elements", ty.elements()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Kernel, RowFn, RowReduce, text};
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
kernel rows i in 4, cols j in 8    // rms
  in  a0: f32[4,8]
  in  a1: f32[2,8]
  in  a2: i32[4]
  out y0: bf16[4,8]
  v0 = a0[0 + (i)*8 + j]
  v1 = mean_squares_j(v0)
  v2 = 1e-6
  v3 = add(v1, v2)
  v4 = rsqrt(v3)
  v5 = mul(v0, v4)
  v6 = a1[0 + (a2[i])*8 + j]
  v7 = mul(v5, v6)
  y0[i,j] = v7
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
