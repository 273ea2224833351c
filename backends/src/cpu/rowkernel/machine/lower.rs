//! Row kernels as programs of the generator.
//!
//! Functions are those of `cpu::math`, step by step, so that results have the same bits; a step is
//! left out only where it changes none. What has no vector code (functions that go through doubles,
//! rows that repeat after an odd number of elements) gives no program, and the interpreter stays.

use super::super::emit::Placement;
use super::super::{Prepared, Stored, TASK};
use super::program::{One, Op, Pointer, Program, Single, Source, Stage, TURN, Test, Two};
use crate::cpu::math::LANES;
use anyid_ir::DType;
use anyid_ir::kernel::{Columns, Instruction, RowFn, RowKernel, RowReduce};
use anyid_ir::op::{BinaryFn, CompareFn, UnaryFn};

pub(super) const SIGN: u32 = 0x8000_0000;
/// Columns of a turn.
const COLUMNS: usize = TURN * LANES;

pub(super) fn constant(value: f32) -> Source {
    Source::Const(value.to_bits())
}

/// The program of `kernel`, if it has one.
pub(in crate::cpu::rowkernel) fn lower(
    kernel: &RowKernel,
    prepared: &Prepared,
    placement: &Placement,
) -> Option<Program> {
    // A row of one element is nothing for vectors.
    if kernel.width < 2 {
        return None;
    }
    let several = prepared.stages.len() > 1;
    let mut program = Program {
        width: kernel.width,
        split: !several && kernel.width > TASK,
        pitch: prepared.block.next_multiple_of(LANES),
        block: prepared.block,
        ..Program::default()
    };
    for at in 0..kernel.code.len() {
        if let (Instruction::Load(_), true) = (kernel.code[at], placement.is_scalar[at]) {
            program.numbers.push((placement.load_of[at], placement.scalar_of[at]));
        }
    }
    for now in 0..prepared.stages.len() {
        let mut numbers = Lowering::new(kernel, prepared, placement, &mut program);
        for at in 0..kernel.code.len() {
            let instruction = &kernel.code[at];
            let made = !matches!(instruction, Instruction::Load(_) | Instruction::Reduce(..));
            if placement.scalar_of[at] != usize::MAX && placement.stage[at] == now && made {
                let value = numbers.value(at)?;
                numbers.made[at] = Some(value);
                numbers.ops.push(Op::Keep(placement.scalar_of[at] as u16, value));
            }
        }
        let numbers = numbers.ops;
        let mut vectors = Lowering::new(kernel, prepared, placement, &mut program);
        vectors.vectors = true;
        let finished = vectors.sinks(now)?;
        let vectors = folded(vectors.ops);
        program.stages.push(Stage { numbers, vectors, finished, ..Stage::default() });
    }
    ask(&mut program, prepared);
    Some(program)
}

/// Lets the last of several stages ask for rows of the next block of what the first reads, so that
/// memory is busy while a row is computed.
fn ask(program: &mut Program, prepared: &Prepared) {
    let [_, .., last] = &mut program.stages[..] else { return };
    for (at, pointer) in (0..).zip(&program.pointers) {
        if let Pointer::Load(load) = *pointer
            && prepared.ahead.contains(&load)
        {
            last.asked.push((at, prepared.loads[load].dtype.bytes()));
        }
    }
}

/// The ops with rows of `f32` that one of them reads left where they lie.
fn folded(mut ops: Vec<Op>) -> Vec<Op> {
    for at in 0..ops.len() {
        let Op::Load { pointer, dtype: DType::F32, period: None } = ops[at] else { continue };
        let own = Source::Value(at as u16);
        let readers = ops.iter().map(|op| op.sources().filter(|source| *source == own).count());
        if readers.sum::<usize>() != 1 {
            continue;
        }
        let reader = ops.iter_mut().find(|op| op.sources().any(|source| source == own));
        let row = Source::Row(pointer);
        match reader {
            // One operand alone may lie in memory, the second.
            Some(Op::Two(_, Source::Value(_), b)) if *b == own => *b = row,
            Some(Op::Two(f, a, b)) if f.turns() && matches!(b, Source::Value(_)) => {
                (*a, *b) = (*b, row);
            }
            Some(Op::Fma(a, b, c)) => {
                let others = [*a, *b, *c].into_iter().filter(|source| *source != own);
                if others.into_iter().all(|source| matches!(source, Source::Value(_))) {
                    for source in [a, b, c] {
                        if *source == own {
                            *source = row;
                        }
                    }
                }
            }
            Some(Op::Reduce(RowReduce::Sum | RowReduce::Mean, _, a)) => *a = row,
            _ => {}
        }
    }
    ops
}

/// One code on its way.
pub(super) struct Lowering<'l> {
    kernel: &'l RowKernel,
    prepared: &'l Prepared,
    placement: &'l Placement,
    program: &'l mut Program,
    ops: Vec<Op>,
    /// Where each register is.
    made: Vec<Option<Source>>,
    /// Whether columns are gone through, not rows.
    vectors: bool,
}

impl<'l> Lowering<'l> {
    fn new(
        kernel: &'l RowKernel,
        prepared: &'l Prepared,
        placement: &'l Placement,
        program: &'l mut Program,
    ) -> Self {
        let made = vec![None; kernel.code.len()];
        Self { kernel, prepared, placement, program, ops: Vec::new(), made, vectors: false }
    }

    pub fn push(&mut self, op: Op) -> Source {
        self.ops.push(op);
        Source::Value((self.ops.len() - 1) as u16)
    }

    pub fn one(&mut self, f: One, a: Source) -> Source {
        self.push(Op::One(f, a))
    }

    pub fn two(&mut self, f: Two, a: Source, b: Source) -> Source {
        let turned = f.turns() && !matches!(a, Source::Value(_));
        let (a, b) = if turned { (b, a) } else { (a, b) };
        self.push(Op::Two(f, a, b))
    }

    pub fn fma(&mut self, a: Source, b: Source, c: Source) -> Source {
        self.push(Op::Fma(a, b, c))
    }

    pub fn test(&mut self, how: Test, a: Source, b: Source) -> u16 {
        self.ops.push(Op::Test(how, a, b));
        (self.ops.len() - 1) as u16
    }

    fn pointer(&mut self, pointer: Pointer) -> u16 {
        let pointers = &mut self.program.pointers;
        let at = pointers.iter().position(|own| *own == pointer).unwrap_or_else(|| {
            pointers.push(pointer);
            pointers.len() - 1
        });
        at as u16
    }

    /// Everything that the reductions of stage `now` need, or the stores if it is the last; gives the
    /// reductions.
    fn sinks(&mut self, now: usize) -> Option<Vec<(RowReduce, u16)>> {
        let (code, placement) = (&self.kernel.code, self.placement);
        let last = self.prepared.stages.len() - 1;
        let is_sink = |at: usize| match &code[at] {
            Instruction::Reduce(_, x) => placement.stage[*x as usize] == now,
            Instruction::Store { .. } => now == last,
            _ => false,
        };
        let mut needed = vec![false; code.len()];
        for at in (0..code.len()).rev() {
            if is_sink(at) || (needed[at] && !placement.is_scalar[at]) {
                code[at].reads().iter().for_each(|read| needed[*read as usize] = true);
            }
        }
        let mut finished = Vec::new();
        let mut stores = Vec::new();
        for at in 0..code.len() {
            match code[at] {
                Instruction::Reduce(f, x) if is_sink(at) => {
                    let value = self.read(x as usize)?;
                    self.ops.push(Op::Reduce(f, finished.len() as u16, value));
                    finished.push((f, placement.scalar_of[at] as u16));
                }
                // What is stored is read before the first store, which may lie over it.
                Instruction::Store { result, value } if is_sink(at) => {
                    stores.push((result, value as usize, self.read(value as usize)?));
                }
                Instruction::Load(_) | Instruction::Const(_) => {}
                _ if needed[at] && !placement.is_scalar[at] => {
                    self.made[at] = Some(self.value(at)?);
                }
                _ => {}
            }
        }
        for (result, register, value) in stores {
            self.store(result, register, value)?;
        }
        Some(finished)
    }

    fn store(&mut self, result: usize, register: usize, value: Source) -> Option<()> {
        let Stored { dtype, width, streamed, .. } = self.prepared.results[result];
        if width == 1 {
            let single = match value {
                Source::Const(bits) => Single::Const(bits),
                _ if self.placement.is_scalar[register] => {
                    Single::Scalar(self.placement.scalar_of[register])
                }
                _ => return None,
            };
            self.program.singles.push((result, single));
            return Some(());
        }
        let value = match dtype {
            DType::Bf16 => self.narrow(value),
            _ => value,
        };
        let pointer = self.pointer(Pointer::Result(result));
        self.ops.push(Op::Store { pointer, dtype, streamed, value });
        Some(())
    }

    /// Where a register can be read.
    fn read(&mut self, register: usize) -> Option<Source> {
        if let Some(source) = self.made[register] {
            return Some(source);
        }
        let source = match self.kernel.code[register] {
            Instruction::Const(value) => constant(value),
            _ if self.placement.is_scalar[register] => {
                let scalar = self.placement.scalar_of[register] as u16;
                match self.vectors {
                    true => Source::Scalar(scalar),
                    false => self.push(Op::Number(scalar)),
                }
            }
            Instruction::Load(_) => {
                let load = self.placement.load_of[register];
                let own = &self.prepared.loads[load];
                let (dtype, columns) = (own.dtype, own.access.columns);
                let period = match columns {
                    Columns::All => None,
                    Columns::Every(period) => {
                        let whole = period % COLUMNS == 0;
                        let within = COLUMNS.is_multiple_of(period) && period % LANES == 0;
                        let even = !self.program.split || TASK.is_multiple_of(period);
                        ((whole || within) && even).then_some(Some(period))?
                    }
                    Columns::One | Columns::Step(_) => return None,
                };
                let pointer = self.pointer(Pointer::Load(load));
                self.push(Op::Load { pointer, dtype, period })
            }
            // It is made before it is read.
            _ => return None,
        };
        self.made[register] = Some(source);
        Some(source)
    }

    /// Makes the value of an instruction.
    fn value(&mut self, at: usize) -> Option<Source> {
        let instruction = self.kernel.code[at];
        let mut reads = [constant(0.0); 3];
        for (to, register) in reads.iter_mut().zip(instruction.reads()) {
            *to = self.read(register as usize)?;
        }
        let [a, b, c] = reads;
        let one = constant(1.0);
        Some(match instruction {
            Instruction::Unary(RowFn::Gelu, _) => self.gelu(a),
            Instruction::Unary(RowFn::Silu, _) => self.times_sigmoid(a, a),
            Instruction::Unary(RowFn::Primitive(f), _) => match f {
                UnaryFn::Neg => self.two(Two::Xor, a, Source::Const(SIGN)),
                UnaryFn::Abs => self.two(Two::And, a, Source::Const(!SIGN)),
                UnaryFn::Sqrt => self.one(One::Sqrt, a),
                UnaryFn::Rsqrt => {
                    let root = self.one(One::Sqrt, a);
                    self.two(Two::Div, one, root)
                }
                UnaryFn::Recip => self.two(Two::Div, one, a),
                UnaryFn::Tanh => self.tanh(a),
                UnaryFn::Exp
                | UnaryFn::Log
                | UnaryFn::Sin
                | UnaryFn::Cos
                | UnaryFn::Floor
                | UnaryFn::Erf => return None,
            },
            Instruction::Binary(f, ..) => match f {
                BinaryFn::Add => self.two(Two::Add, a, b),
                BinaryFn::Sub => self.two(Two::Sub, a, b),
                BinaryFn::Mul => self.two(Two::Mul, a, b),
                BinaryFn::Div => self.two(Two::Div, a, b),
                BinaryFn::Max => self.or_nan(Two::Max, a, b),
                BinaryFn::Min => self.or_nan(Two::Min, a, b),
            },
            Instruction::Fma(..) => self.fma(a, b, c),
            Instruction::Compare(f, ..) => {
                let mask = match f {
                    CompareFn::Eq => self.test(Test::Equal, a, b),
                    CompareFn::Lt => self.test(Test::Less, a, b),
                    CompareFn::Le => self.test(Test::LessOrEqual, a, b),
                    CompareFn::Gt => self.test(Test::Less, b, a),
                    CompareFn::Ge => self.test(Test::LessOrEqual, b, a),
                };
                self.push(Op::Blend(mask, constant(0.0), one))
            }
            Instruction::Select(..) => {
                let mask = self.test(Test::Equal, a, constant(0.0));
                self.push(Op::Blend(mask, b, c))
            }
            Instruction::Rotate(..) => {
                let (cos, sin) = (self.one(One::Even, b), self.one(One::Odd, b));
                let other = self.one(One::Swap, a);
                let other = self.two(Two::Mul, other, sin);
                self.push(Op::Turn(a, cos, other))
            }
            Instruction::Round(DType::Bf16, _) => {
                let narrow = self.narrow(a);
                self.two(Two::And, narrow, Source::Const(0xffff_0000))
            }
            Instruction::Round(DType::F16, _) => self.one(One::Half, a),
            Instruction::Round(..) => a,
            Instruction::Load(_)
            | Instruction::Const(_)
            | Instruction::Reduce(..)
            | Instruction::Store { .. } => return None,
        })
    }
}
