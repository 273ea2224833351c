//! Two evaluations of a function in one program: the branches of guidance, which differ in a few
//! inputs and read the same weights.
//!
//! Inputs named as the branches' own exist twice afterwards, once for each branch, and so do the
//! outputs that depend on them, and states: each branch carries its own, unless what a state becomes
//! is the same in both. What depends on none of them is computed once. Products with few rows
//! take as long as reading their weight does: there the rows of both branches are stacked, and with
//! them everything row by row that follows, until an op mixes rows (attention) and takes the
//! branches apart again. Each row is computed as it would be by itself, so results keep their bits.
//!
//! Nothing is done where stacking gains little: two runs then need half the memory.

use crate::program::{Origin, Port, Program, ProgramStep, Role, ValueIndex};
use anyid_ir::kernel::Target;
use anyid_ir::plan::{Branch, title};
use anyid_ir::{Op, TensorType};
use smallvec::{SmallVec, smallvec};

/// Share of the time for products, in both branches, that must be saved for it to be done.
const WORTH: f64 = 0.1;

/// A value of the program in the joined one.
#[derive(Clone, Copy, Debug)]
enum Joined {
    /// The same in both branches; and its rows twice, where they were asked for.
    Shared(ValueIndex, Option<ValueIndex>),
    /// One for each.
    Pair([ValueIndex; 2]),
    /// Rows of the first branch, then those of the second, along axis 0; and the halves, where they
    /// were asked for.
    Stacked(ValueIndex, Option<[ValueIndex; 2]>),
}

/// Which values depend on the inputs called `names`, and on states that do so themselves.
fn depending(program: &Program, names: &[String]) -> Vec<bool> {
    let mut out = vec![false; program.values.len()];
    for port in &program.inputs {
        out[port.value as usize] = port.role == Role::Caller && names.contains(&port.name);
    }
    loop {
        for step in &program.steps {
            let depends = step.operands.iter().any(|v| out[*v as usize]);
            step.results.iter().for_each(|value| out[*value as usize] = depends);
        }
        let mut settled = true;
        for port in program.inputs.iter().filter(|port| port.role != Role::Caller) {
            let becomes = program.outputs.iter().find(|other| other.role == port.role);
            let differs = becomes.is_some_and(|becomes| out[becomes.value as usize]);
            if differs && !std::mem::replace(&mut out[port.value as usize], true) {
                settled = false;
            }
        }
        if settled {
            return out;
        }
    }
}

/// Whether a step is a product of rows that differ between branches with a weight that does not.
fn is_product(step: &ProgramStep, own: &[bool]) -> bool {
    let differs = |at: usize| own[step.operands[at] as usize];
    step.op == Op::Linear && differs(0) && !(1..step.operands.len()).any(differs)
}

fn rows(program: &Program, value: ValueIndex) -> usize {
    let ty = program.ty(value);
    ty.elements() / ty.last().max(1)
}

/// Share of the products' time that stacking saves, over the steps that `counted` says: a product
/// takes as long as its rows, or those in whose time its weight is read, whichever is more.
fn saved(program: &Program, own: &[bool], counted: &[bool], bound: usize) -> f64 {
    let (mut apart, mut saved) = (0.0, 0.0);
    for step in &program.steps {
        if !counted[step.result() as usize] || !is_product(step, own) {
            continue;
        }
        let (rows, weight) = (rows(program, step.operands[0]), program.ty(step.operands[1]));
        let time = |rows: usize| rows.max(bound) as f64 * weight.elements() as f64;
        apart += 2.0 * time(rows);
        saved += 2.0 * time(rows) - time(2 * rows);
    }
    if apart > 0.0 { saved / apart } else { 0.0 }
}

/// `program` for both branches at once, where that is faster; `None` where it is not. Branches
/// differ in the inputs `names`; only steps that depend on the inputs `varying` count, if given.
pub fn join(
    program: &Program,
    names: &[String],
    varying: Option<&[String]>,
    target: &Target,
) -> Option<Program> {
    let own = depending(program, names);
    let counted = match varying {
        Some(varying) => depending(program, varying),
        None => vec![true; program.values.len()],
    };
    let bound = target.weight_bound_rows;
    if saved(program, &own, &counted, bound) < WORTH {
        return None;
    }
    let joined = vec![None; program.values.len()];
    let mut joiner = Joiner { program, bound, out: Program::default(), joined };
    joiner.inputs(&own);
    for step in &program.steps {
        for (value, joined) in step.results.iter().zip(joiner.step(step)) {
            joiner.joined[*value as usize] = Some(joined);
        }
    }
    joiner.outputs();
    Some(joiner.out)
}

struct Joiner<'p> {
    program: &'p Program,
    /// Products of fewer rows are stacked.
    bound: usize,
    out: Program,
    joined: Vec<Option<Joined>>,
}

impl Joiner<'_> {
    fn inputs(&mut self, own: &[bool]) {
        for port in &self.program.inputs {
            let ty = self.program.ty(port.value);
            let mut input = |branch| self.out.input(&Port { branch, ..port.clone() }, ty.clone());
            self.joined[port.value as usize] = Some(match own[port.value as usize] {
                true => Joined::Pair([0, 1].map(input)),
                false => Joined::Shared(input(0), None),
            });
        }
        self.out.weights.clone_from(&self.program.weights);
        for (at, value) in self.program.values.iter().enumerate() {
            if matches!(value.origin, Origin::Weight(_) | Origin::Persistent(_)) {
                let copy = self.out.value(value.ty.clone(), value.origin);
                self.joined[at] = Some(Joined::Shared(copy, None));
            }
        }
    }

    fn outputs(&mut self) {
        for port in &self.program.outputs {
            let branches = match self.of(port.value) {
                Joined::Shared(shared, _) => vec![shared],
                _ => self.pair(port.value).to_vec(),
            };
            for (branch, value) in (0..).zip(branches) {
                self.out.outputs.push(Port { branch, value, ..port.clone() });
            }
        }
    }

    fn of(&self, value: ValueIndex) -> Joined {
        self.joined[value as usize].expect("what is read comes first")
    }

    /// The step for both branches: each of its results.
    fn step(&mut self, step: &ProgramStep) -> SmallVec<[Joined; 1]> {
        let operands: SmallVec<[Joined; 4]> = step.operands.iter().map(|v| self.of(*v)).collect();
        let shared = |joined: &Joined| matches!(joined, Joined::Shared(..));
        if operands.iter().all(shared) {
            let operands = step.operands.iter().map(|v| self.pair(*v)[0]).collect();
            let made = self.emit(step, operands, false, 0).into_iter();
            return made.map(|value| Joined::Shared(value, None)).collect();
        }
        let stacked = |joined: &Joined| matches!(joined, Joined::Stacked(..));
        let begins = step.op == Op::Linear
            && rows(self.program, step.operands[0]) < self.bound
            && operands[1..].iter().all(shared);
        if (begins || operands.iter().any(stacked))
            && let Some(doubled) = self.by_rows(step, &operands)
        {
            let operands = step.operands.iter().zip(doubled);
            let operands = operands.map(|(v, doubled)| match doubled {
                true => self.both(*v),
                false => self.pair(*v)[0],
            });
            let operands = operands.collect();
            let made = self.emit(step, operands, true, 0).into_iter();
            return made.map(|value| Joined::Stacked(value, None)).collect();
        }
        let [first, second] = [0, 1].map(|branch| {
            let operands = step.operands.iter().map(|v| self.pair(*v)[branch]).collect();
            self.emit(step, operands, false, branch as Branch)
        });
        first.into_iter().zip(second).map(|(a, b)| Joined::Pair([a, b])).collect()
    }

    /// Where each position along axis 0 of the result depends on that position of some operands
    /// and on no other: which these are. All others must be the same in both branches.
    fn by_rows(&self, step: &ProgramStep, operands: &[Joined]) -> Option<SmallVec<[bool; 4]>> {
        let result = self.program.ty(step.result());
        let (&length, rank) = (result.shape.first()?, result.rank());
        let shape = |at: usize| -> &[usize] { &self.program.ty(step.operands[at]).shape };
        let leads = |at: usize| shape(at).first() == Some(&length);
        let first = |count: usize| (0..operands.len()).map(|at| at < count).collect();
        let doubled: SmallVec<[bool; 4]> = match &step.op {
            Op::Linear | Op::LayerNorm { .. } | Op::RmsNorm { .. } if rank >= 2 => first(1),
            Op::Cast | Op::Unary(_) | Op::Gelu | Op::GeluErf | Op::Silu => first(1),
            // Without broadcasting along axis 0, every operand that has the axis is doubled.
            Op::Binary(_) | Op::Compare(_) | Op::Select => {
                (0..operands.len()).map(|at| shape(at).len() == rank && leads(at)).collect()
            }
            Op::Rope { .. } if rank == 2 => first(2),
            // Shift and scale, or gate, are tables; the rows' places in them come last.
            Op::Modulate if rank == 2 => smallvec![true, false, false, true],
            Op::GateAdd if rank == 2 => smallvec![true, true, false, true],
            Op::Slice { axis, .. } | Op::Pad { axis, .. } if *axis > 0 => first(1),
            Op::Index { axis, .. } if *axis > 0 => first(1),
            Op::Concat { axis } if *axis > 0 => first(operands.len()),
            Op::Reduce { axes, .. } if !axes.contains(&0) => first(1),
            Op::Permute { perm } if perm[0] == 0 => first(1),
            Op::Reshape | Op::Broadcast => first(1),
            _ => return None,
        };
        let fits = |at: usize| match doubled[at] {
            true => leads(at),
            false => matches!(operands[at], Joined::Shared(..)),
        };
        (0..operands.len()).all(fits).then_some(doubled)
    }

    /// The value of each branch.
    fn pair(&mut self, value: ValueIndex) -> [ValueIndex; 2] {
        let whole = match self.of(value) {
            Joined::Shared(shared, _) => return [shared; 2],
            Joined::Pair(pair) | Joined::Stacked(_, Some(pair)) => return pair,
            Joined::Stacked(whole, None) => whole,
        };
        let (ty, label) = (self.program.ty(value).clone(), self.out.name(whole));
        let len = ty.shape[0];
        let halves = [0, 1].map(|branch| {
            let op = Op::Slice { axis: 0, start: branch * len, len };
            self.out.step(op, smallvec![whole], ty.clone(), format!("{label}.half{branch}"))
        });
        self.joined[value as usize] = Some(Joined::Stacked(whole, Some(halves)));
        halves
    }

    /// The rows of both branches in one value.
    fn both(&mut self, value: ValueIndex) -> ValueIndex {
        let pair = match self.of(value) {
            Joined::Stacked(whole, _) | Joined::Shared(_, Some(whole)) => return whole,
            Joined::Pair(pair) => pair,
            Joined::Shared(shared, None) => [shared; 2],
        };
        let label = format!("{}.both", self.program.name(value));
        let ty = doubled(self.program.ty(value));
        let whole = self.out.step(Op::Concat { axis: 0 }, pair.into_iter().collect(), ty, label);
        self.joined[value as usize] = Some(match self.of(value) {
            Joined::Shared(shared, _) => Joined::Shared(shared, Some(whole)),
            _ => Joined::Stacked(whole, Some(pair)),
        });
        whole
    }

    fn emit(
        &mut self,
        step: &ProgramStep,
        operands: SmallVec<[ValueIndex; 4]>,
        stacked: bool,
        branch: Branch,
    ) -> SmallVec<[ValueIndex; 1]> {
        let made = step.results.iter().zip(&step.labels).map(|(value, label)| {
            let ty = self.program.ty(*value);
            let ty = if stacked { doubled(ty) } else { ty.clone() };
            (ty, title(label, branch).into_owned())
        });
        self.out.step_of(step.op.clone(), operands, made)
    }
}

fn doubled(ty: &TensorType) -> TensorType {
    let mut ty = ty.clone();
    ty.shape[0] *= 2;
    ty
}
