//! From groups to kernels: the program as a list of launches with their operands and results.
//!
//! Composites over rows are expanded into instructions here, the way their decomposition says,
//! with the roundings level 1 names for values that used to be stored.

use crate::fuse::classify::{Class, RowOperand, RowStep};
use crate::fuse::group::{Group, GroupKind, Groups};
use crate::memory::flow::LoweredStep;
use crate::program::{Program, ValueIndex};
use anyid_ir::kernel::{
    Access, AnchorKernel, Columns, Fill, Instruction, Kernel, Register, RowFn, RowKernel, RowMap,
    RowReduce, copies, verify,
};
use anyid_ir::{BinaryFn, DType, Op, ReduceFn, UnaryFn};
use smallvec::SmallVec;
use std::collections::HashMap;

/// The kernels of `groups`, each after what it reads; of those that could be next, the one whose
/// first step comes first.
pub fn lower(groups: &Groups<'_>) -> Vec<LoweredStep> {
    let program = groups.program;
    groups
        .order()
        .into_iter()
        .filter(|g| !groups.groups[*g].steps.is_empty())
        .map(|g| match &groups.groups[g].kind {
            GroupKind::Single => single(program, groups.groups[g].steps[0]),
            GroupKind::Anchor(_) => anchored(groups, g),
            GroupKind::Row { rows, width } => {
                RowKernelBuilder::new(groups, *rows, *width).finish(g)
            }
        })
        .collect()
}

fn single(program: &Program, at: usize) -> LoweredStep {
    let step = &program.steps[at];
    let types = program.types(&step.operands);
    let copied = || copies(&step.op, &types, program.ty(step.result())).map(Kernel::Copy);
    let kernel = match &step.op {
        Op::Gather => Some(Kernel::Gather),
        op => Fill::of(op).map(Kernel::Fill).or_else(copied),
    };
    LoweredStep {
        kernel: kernel.unwrap_or_else(|| unreachable!("{} was classified", step.op.name())),
        operands: step.operands.clone(),
        results: step.results.iter().copied().collect(),
        labels: step.labels.to_vec(),
    }
}

fn anchored(groups: &Groups<'_>, group: usize) -> LoweredStep {
    let (program, Group { kind, steps }) = (groups.program, &groups.groups[group]);
    let GroupKind::Anchor(ends) = kind else { unreachable!("the caller asked") };
    let first = &program.steps[groups.anchor(group)];
    let is_part = |at: &&usize| matches!(program.steps[**at].op, Op::Linear);
    let parts = steps.iter().filter(is_part).count().max(1);
    let kernel = AnchorKernel { name: name_of(program, steps), parts, ..ends.kernel.clone() };
    let mut operands = first.operands.clone();
    operands[0] = ends.first.unwrap_or(operands[0]);
    let others = steps.iter().filter(is_part).skip(1);
    for at in others {
        operands.extend(program.steps[*at].operands[1..].iter().copied());
    }
    operands.extend(ends.extra.iter().copied());
    let made: &[usize] = if parts > 1 { steps } else { &steps[steps.len() - 1..] };
    let made = made.iter().map(|at| program.steps[*at].result());
    // The epilogue continues the first result.
    let results: SmallVec<[ValueIndex; 2]> =
        made.chain(first.results[1..].iter().copied()).collect();
    let labels = results.iter().map(|value| program.name(*value)).collect();
    LoweredStep { kernel: Kernel::Anchor(kernel), operands, results, labels }
}

/// Names of the ops joined with `+`, runs of one op counted.
fn name_of(program: &Program, steps: &[usize]) -> String {
    let mut out = String::new();
    let mut at = 0;
    while at < steps.len() {
        let name = program.steps[steps[at]].op.name();
        let run = steps[at..].iter().take_while(|s| program.steps[**s].op.name() == name).count();
        if at > 0 {
            out.push('+');
        }
        out.push_str(name);
        if run > 1 {
            out.push_str(&format!("*{run}"));
        }
        at += run;
    }
    out
}

/// A row kernel under construction.
struct RowKernelBuilder<'g, 'p> {
    groups: &'g Groups<'p>,
    kernel: RowKernel,
    operands: SmallVec<[ValueIndex; 4]>,
    /// Register of each value made inside, before rounding to its type.
    made: HashMap<ValueIndex, Register>,
}

impl<'g, 'p> RowKernelBuilder<'g, 'p> {
    fn new(groups: &'g Groups<'p>, rows: usize, width: usize) -> Self {
        let kernel = RowKernel {
            name: String::new(),
            rows,
            width,
            arithmetic: DType::F32,
            operands: Vec::new(),
            results: Vec::new(),
            code: Vec::new(),
        };
        Self { groups, kernel, operands: SmallVec::new(), made: HashMap::new() }
    }

    fn program(&self) -> &'p Program {
        self.groups.program
    }

    fn finish(mut self, group: usize) -> LoweredStep {
        let program = self.program();
        let steps = &self.groups.groups[group].steps;
        self.kernel.name = name_of(program, steps);
        let (mut results, mut labels) = (SmallVec::new(), Vec::new());
        for at in steps {
            let Class::Row(row) = &self.groups.classes.class[*at] else {
                unreachable!("a row group holds row steps")
            };
            self.kernel.arithmetic = row.arithmetic;
            let register = self.step(*at, row);
            self.made.insert(program.steps[*at].result(), register);
            for value in self.groups.stored(*at) {
                results.push(value);
                labels.push(program.name(value));
            }
        }
        for (result, value) in results.iter().enumerate() {
            self.kernel.results.push(program.ty(*value).clone());
            let value = self.made[value];
            self.kernel.code.push(Instruction::Store { result, value });
        }
        flatten(&mut self.kernel);
        if let Err(why) = verify::verify(&self.kernel) {
            let text = anyid_ir::kernel::text::print(&Kernel::Row(self.kernel));
            unreachable!("fusion made a kernel that is none: {why}\n{text}");
        }
        let kernel = Kernel::Row(self.kernel);
        LoweredStep { kernel, operands: self.operands, results, labels }
    }

    fn emit(&mut self, instruction: Instruction) -> Register {
        let known = self.kernel.code.iter().position(|other| *other == instruction);
        let at = known.unwrap_or_else(|| {
            self.kernel.code.push(instruction);
            self.kernel.code.len() - 1
        });
        Register::try_from(at).expect("a kernel of few bindings has few instructions")
    }

    fn bind(&mut self, value: ValueIndex) -> usize {
        self.operands.iter().position(|v| *v == value).unwrap_or_else(|| {
            self.operands.push(value);
            self.kernel.operands.push(self.program().ty(value).clone());
            self.operands.len() - 1
        })
    }

    /// Register of operand `at` of a step, rounded to its type where it is made inside.
    fn operand(&mut self, row: &RowStep, at: usize) -> Register {
        let (base, access) = match row.operands[at] {
            RowOperand::Literal(value) => return self.emit(Instruction::Const(value)),
            RowOperand::Read { base, access } => (base, access),
        };
        if let Some(register) = self.made.get(&base) {
            let register = *register;
            return match self.program().ty(base).dtype {
                dtype @ (DType::Bf16 | DType::F16) => {
                    self.emit(Instruction::Round(dtype, register))
                }
                _ => register,
            };
        }
        let operand = self.bind(base);
        let rows = match access.rows {
            RowMap::Segment(_) => {
                let segments = row.segments.expect("a table is picked by segments");
                RowMap::Segment(self.bind(segments))
            }
            rows => rows,
        };
        // A step of one column in a kernel of many.
        let narrow = row.width == 1 && self.kernel.width != 1;
        let columns = match access.columns {
            Columns::All if narrow => Columns::One,
            columns => columns,
        };
        self.emit(Instruction::Load(Access { operand, rows, columns, ..access }))
    }

    fn binary(&mut self, f: BinaryFn, a: Register, b: Register) -> Register {
        self.emit(Instruction::Binary(f, a, b))
    }

    fn primitive(&mut self, f: UnaryFn, x: Register) -> Register {
        self.emit(Instruction::Unary(RowFn::Primitive(f), x))
    }

    fn constant(&mut self, value: f32) -> Register {
        self.emit(Instruction::Const(value))
    }

    /// A reduction over the `width` columns of a step.
    fn reduce(&mut self, f: RowReduce, x: Register, width: usize) -> Register {
        if !self.kernel.scalars()[x as usize] {
            return self.emit(Instruction::Reduce(f, x));
        }
        // Every column is the same number.
        let x = match f {
            RowReduce::SumSquares | RowReduce::MeanSquares => self.binary(BinaryFn::Mul, x, x),
            _ => x,
        };
        match f {
            RowReduce::Sum | RowReduce::SumSquares => {
                let count = self.constant(width as f32);
                self.binary(BinaryFn::Mul, x, count)
            }
            _ => x,
        }
    }

    fn step(&mut self, at: usize, row: &RowStep) -> Register {
        let op = &self.program().steps[at].op;
        let count = row.operands.len();
        let reads: SmallVec<[Register; 3]> =
            (0..count).map(|operand| self.operand(row, operand)).collect();
        let x = reads[0];
        match op {
            Op::Cast => x,
            Op::Gelu => self.emit(Instruction::Unary(RowFn::Gelu, x)),
            Op::Silu => self.emit(Instruction::Unary(RowFn::Silu, x)),
            Op::Unary(f) => self.primitive(*f, x),
            Op::Binary(f) => self.binary(*f, x, reads[1]),
            Op::Compare(f) => self.emit(Instruction::Compare(*f, x, reads[1])),
            Op::Select => self.emit(Instruction::Select(x, reads[1], reads[2])),
            Op::Reduce { f, .. } => {
                let f = match f {
                    ReduceFn::Sum => RowReduce::Sum,
                    ReduceFn::Mean => RowReduce::Mean,
                    ReduceFn::Max => RowReduce::Max,
                };
                self.reduce(f, x, row.width)
            }
            Op::LayerNorm { eps } => {
                let mean = self.reduce(RowReduce::Mean, x, row.width);
                let centred = self.binary(BinaryFn::Sub, x, mean);
                let rate = self.rate(centred, *eps, row.width);
                let normal = self.binary(BinaryFn::Mul, centred, rate);
                match (reads.get(1), reads.get(2)) {
                    (None, _) => normal,
                    (Some(weight), None) => self.binary(BinaryFn::Mul, normal, *weight),
                    (Some(weight), Some(bias)) => {
                        self.emit(Instruction::Fma(normal, *weight, *bias))
                    }
                }
            }
            Op::RmsNorm { eps, clamp: false } => {
                let rate = self.rate(x, *eps, row.width);
                let normal = self.binary(BinaryFn::Mul, x, rate);
                self.binary(BinaryFn::Mul, normal, reads[1])
            }
            Op::RmsNorm { eps, clamp: true } => {
                let total = self.reduce(RowReduce::SumSquares, x, row.width);
                let norm = self.primitive(UnaryFn::Sqrt, total);
                let least = self.constant(*eps as f32);
                let norm = self.binary(BinaryFn::Max, norm, least);
                let root = self.constant((row.width as f32).sqrt());
                let rate = self.binary(BinaryFn::Div, root, norm);
                let normal = self.binary(BinaryFn::Mul, x, rate);
                self.binary(BinaryFn::Mul, normal, reads[1])
            }
            Op::Modulate => {
                let one = self.constant(1.0);
                let factor = self.binary(BinaryFn::Add, reads[2], one);
                self.emit(Instruction::Fma(x, factor, reads[1]))
            }
            Op::GateAdd => self.emit(Instruction::Fma(reads[1], reads[2], x)),
            Op::Rope { .. } => self.emit(Instruction::Rotate(x, reads[1])),
            _ => unreachable!("classified as a step over rows"),
        }
    }

    /// `1 / √(mean x² + eps)`.
    fn rate(&mut self, x: Register, eps: f64, width: usize) -> Register {
        let reduced = self.reduce(RowReduce::MeanSquares, x, width);
        let eps = self.constant(eps as f32);
        let sum = self.binary(BinaryFn::Add, reduced, eps);
        self.primitive(UnaryFn::Rsqrt, sum)
    }
}

/// Turns a kernel of one column, whose rows follow each other in memory, into one row of many columns.
fn flatten(kernel: &mut RowKernel) {
    let straight = |instruction: &Instruction| match instruction {
        Instruction::Load(access) => {
            let own = access.rows == RowMap::OWN && access.stride == 1;
            own || access.rows == RowMap::Fixed
        }
        Instruction::Reduce(..) | Instruction::Rotate(..) => false,
        _ => true,
    };
    if kernel.width != 1 || kernel.rows == 1 || !kernel.code.iter().all(straight) {
        return;
    }
    (kernel.rows, kernel.width) = (1, kernel.rows);
    for instruction in &mut kernel.code {
        if let Instruction::Load(access) = instruction {
            access.columns = if access.rows == RowMap::Fixed { Columns::One } else { Columns::All };
            access.stride = kernel.width;
            access.rows = RowMap::OWN;
        }
    }
}
