//! Low-rank adapters put beside the linears of a program: `y = x · Wᵀ + b` becomes
//! `y = x · Wᵀ + b + s · (x · Aᵀ) · Bᵀ` with inputs A and B (anyid.md §4.2).
//!
//! The product and its low-rank part are summed in f32 (f64 for doubles) and rounded once to the type
//! that the module names. The matrices are f32, and are rounded to the type of the weight where they
//! are read, so that both products run on the same kernels. Everything else of the program stays, so
//! the function without adapters is the base model bit for bit.

use crate::grad::matches;
use crate::program::{Origin, Port, Program, ProgramStep, Translation, ValueIndex};
use crate::{Asked, CompileError};
use anyid_ir::{BinaryFn, DType, Op, TensorType};
use smallvec::smallvec;
use std::collections::HashMap;

/// Which linears get an adapter, and of what form.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraTarget {
    /// The linears, by the name of their weight without `.weight`; a star stands for any text.
    pub pattern: String,
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The product of B and A counts alpha / rank times.
    pub alpha: f64,
}

/// `program` with an adapter at every linear that one of `targets` describes; the first that does
/// counts. For a linear on weight `M.weight` the matrices are inputs `M.lora_A.weight` `[rank, in]`
/// and `M.lora_B.weight` `[out, rank]`; linears that read one weight share them.
///
/// # Errors
/// E0523 for a target without a rank or that no linear fits.
pub fn inject(program: &Program, targets: &[LoraTarget]) -> Result<Program, CompileError> {
    let fault = |message: String| CompileError::new("E0523", message).about(Asked::Lora);
    if let Some(target) = targets.iter().find(|t| t.rank == 0 || !t.alpha.is_finite()) {
        let LoraTarget { pattern, rank, alpha } = target;
        let message = format!("an adapter at \"{pattern}\" of rank {rank} and alpha {alpha}");
        return Err(fault(message).help("give a rank from 1 and a finite alpha"));
    }
    let mut used = vec![false; targets.len()];
    let mut chosen: Vec<Option<(&str, &LoraTarget)>> = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        let name = weight(program, step).and_then(|name| name.strip_suffix(".weight"));
        let found = name.and_then(|name| {
            let at = targets.iter().position(|target| matches(&target.pattern, name))?;
            used[at] = true;
            Some((name, &targets[at]))
        });
        chosen.push(found);
    }
    if let Some(at) = used.iter().position(|used| !used) {
        let help = "a name is that of the weight without .weight, as in blocks.*.ffn.0";
        let pattern = &targets[at].pattern;
        return Err(fault(format!("no linear on a weight is called \"{pattern}\"")).help(help));
    }
    let mut copy = Translation::new(program);
    let mut matrices: HashMap<&str, [ValueIndex; 2]> = HashMap::new();
    for (step, found) in program.steps.iter().zip(&chosen) {
        let Some((name, target)) = found else { continue };
        if matrices.contains_key(name) {
            continue;
        }
        let shape = &program.ty(step.operands[1]).shape;
        let dtype = wide(program, step);
        let mut input = |side: &str, shape: [usize; 2]| {
            let port = Port::new(format!("{name}.lora_{side}.weight"), 0);
            copy.out.input(&port, TensorType::new(dtype, shape))
        };
        let pair = [input("A", [target.rank, shape[1]]), input("B", [shape[0], target.rank])];
        matrices.insert(name, pair);
    }
    copy.given();
    for (step, found) in program.steps.iter().zip(&chosen) {
        let Some((name, target)) = found else {
            copy.step(step);
            continue;
        };
        let (operands, ty) = (copy.operands(step), program.ty(step.result()).clone());
        let (label, dtype) = (step.label(), wide(program, step));
        let mut adapter = Adapter { out: &mut copy.out, label, dtype };
        let made = adapter.linear(&operands, matrices[name], target, ty);
        copy.made(step, &[made]);
    }
    Ok(copy.done())
}

/// The weight that a linear multiplies with.
fn weight<'p>(program: &'p Program, step: &ProgramStep) -> Option<&'p str> {
    let Op::Linear = step.op else { return None };
    match program.values[step.operands[1] as usize].origin {
        Origin::Weight(index) => Some(&program.weights[index as usize].name),
        _ => None,
    }
}

/// What the sums of a linear are.
fn wide(program: &Program, step: &ProgramStep) -> DType {
    let doubles = program.types(&step.operands).iter().any(|ty| ty.dtype == DType::F64);
    if doubles { DType::F64 } else { DType::F32 }
}

/// The steps that take the place of one linear.
struct Adapter<'p> {
    out: &'p mut Program,
    label: &'p str,
    dtype: DType,
}

impl Adapter<'_> {
    fn step(&mut self, part: &str, op: Op, operands: &[ValueIndex], dtype: DType) -> ValueIndex {
        let declared = match op {
            Op::Cast => self.out.ty(operands[0]).with_dtype(dtype),
            _ => TensorType::new(dtype, []),
        };
        let label = format!("{}.{part}", self.label);
        self.out.emit(op, operands, &[declared], &label)[0]
    }

    fn narrowed(&mut self, part: &str, x: ValueIndex, dtype: DType) -> ValueIndex {
        if self.out.ty(x).dtype == dtype { x } else { self.step(part, Op::Cast, &[x], dtype) }
    }

    fn linear(
        &mut self,
        operands: &[ValueIndex],
        [a, b]: [ValueIndex; 2],
        target: &LoraTarget,
        ty: TensorType,
    ) -> ValueIndex {
        let (x, stored) = (operands[0], self.out.ty(operands[1]).dtype);
        let base = self.step("base", Op::Linear, operands, self.dtype);
        let (a, b) = (self.narrowed("A", a, stored), self.narrowed("B", b, stored));
        let inner = self.step("inner", Op::Linear, &[x, a], self.out.ty(x).dtype);
        let mut low = self.step("low", Op::Linear, &[inner, b], self.dtype);
        let scale = target.alpha / target.rank as f64;
        if scale != 1.0 {
            let number = TensorType::new(self.dtype, []);
            let label = format!("{}.scale", self.label);
            let op = Op::Const { values: vec![scale] };
            let scale = self.out.step(op, smallvec![], number, label);
            low = self.step("scaled", Op::Binary(BinaryFn::Mul), &[low, scale], self.dtype);
        }
        let add = Op::Binary(BinaryFn::Add);
        if ty.dtype == self.dtype {
            return self.out.step(add, smallvec![low, base], ty, self.label.to_owned());
        }
        let sum = self.step("sum", add, &[low, base], self.dtype);
        self.out.step(Op::Cast, smallvec![sum], ty, self.label.to_owned())
    }
}
