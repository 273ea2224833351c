//! A row kernel as code of the accumulator machine.
//!
//! Instructions are emitted in their order. The accumulator holds the value made last; it is kept in
//! a slot only when it is about to be overwritten and somebody still reads it. A load that cannot be
//! read in place waits until its first reader, so that it is made in the accumulator.

use super::{Arg, Code, Load, Op, Prepared, Source, Stage, Stored};
use anyid_ir::DType;
use anyid_ir::kernel::{Columns, Instruction, RowKernel, RowMap};
use anyid_ir::op::CompareFn;
use smallvec::SmallVec;

/// Where everything in a kernel is made.
pub(super) struct Placement {
    /// The stage of each instruction.
    pub stage: Vec<usize>,
    /// Its load, if it is one.
    pub load_of: Vec<usize>,
    /// Its scalar, if it is made for each row and not for each column.
    pub scalar_of: Vec<usize>,
    /// Whether it is the same in all columns.
    pub is_scalar: Vec<bool>,
}

/// Fills in loads, stages, and how much of everything there is.
pub(super) fn stages(out: &mut Prepared, kernel: &RowKernel, in_place: bool) -> Placement {
    let code = &kernel.code;
    let is_scalar = kernel.scalars();
    let mut stage = vec![0usize; code.len()];
    let mut load_of = vec![usize::MAX; code.len()];
    let mut scalar_of = vec![usize::MAX; code.len()];
    for (at, instruction) in code.iter().enumerate() {
        let before = instruction.reads().iter().map(|r| stage[*r as usize]).max().unwrap_or(0);
        stage[at] = before + usize::from(matches!(instruction, Instruction::Reduce(..)));
        // Loads and numbers have one place for the whole kernel.
        if let Instruction::Load(access) = instruction {
            load_of[at] = out.loads.len();
            let ty = &kernel.operands[access.operand];
            let (dtype, elements) = (ty.dtype, ty.elements());
            let mut access = *access;
            if matches!(access.columns, Columns::Every(period) if period >= kernel.width) {
                access.columns = Columns::All;
            }
            out.loads.push(Load { access, dtype, elements });
        }
        let placeless = matches!(instruction, Instruction::Const(_) | Instruction::Store { .. });
        if is_scalar[at] && !placeless {
            scalar_of[at] = out.scalars;
            out.scalars += 1;
        }
    }
    let last = stage.iter().copied().max().unwrap_or(0);
    if last == 0 {
        // Reading, computing and writing overlap by themselves where a row is gone through once.
        out.results.iter_mut().for_each(|result| result.streamed = false);
    }
    for now in 0..=last {
        let mut emitter = Emitter::new(out, kernel, &load_of, &scalar_of, &is_scalar);
        for at in 0..code.len() {
            if scalar_of[at] != usize::MAX
                && stage[at] == now
                && !matches!(code[at], Instruction::Reduce(..))
            {
                emitter.number(at);
            }
        }
        let numbers = emitter.finish();
        let mut emitter = Emitter::new(out, kernel, &load_of, &scalar_of, &is_scalar);
        let is_sink = |at: usize| match &code[at] {
            Instruction::Reduce(_, x) => stage[*x as usize] == now,
            Instruction::Store { .. } => now == last,
            _ => false,
        };
        emitter.count_readers(&is_sink);
        let finished = emitter.vectors(&is_sink, in_place);
        let vectors = emitter.finish();
        out.stages.push(Stage { numbers, vectors, finished });
    }
    Placement { stage, load_of, scalar_of, is_scalar }
}

/// Emits one code.
struct Emitter<'e> {
    out: &'e mut Prepared,
    code: &'e [Instruction],
    load_of: &'e [usize],
    scalar_of: &'e [usize],
    is_scalar: &'e [bool],
    emitted: Code,
    /// Whose value the accumulator holds.
    acc: Option<usize>,
    /// Readers of each vector that are still to come.
    readers: Vec<usize>,
    slot_of: Vec<Option<usize>>,
    free: Vec<usize>,
    /// Whether scalars are the rows.
    numbers: bool,
}

type Args = SmallVec<[Arg; 3]>;

impl<'e> Emitter<'e> {
    fn new(
        out: &'e mut Prepared,
        kernel: &'e RowKernel,
        load_of: &'e [usize],
        scalar_of: &'e [usize],
        is_scalar: &'e [bool],
    ) -> Self {
        let code = &kernel.code[..];
        let emitted = Code { first: out.operands, ..Code::default() };
        let free = (0..out.slots).rev().collect();
        let (readers, slot_of) = (vec![0; code.len()], vec![None; code.len()]);
        let (acc, numbers) = (None, false);
        Self {
            out,
            code,
            load_of,
            scalar_of,
            is_scalar,
            emitted,
            acc,
            readers,
            slot_of,
            free,
            numbers,
        }
    }

    fn finish(mut self) -> Code {
        let loads = &self.out.loads;
        let moves = |source: &Source| match *source {
            Source::Slot(_) | Source::Const(_) | Source::Numbers(_) => false,
            Source::Row(load) => loads[load].access.rows != RowMap::Fixed,
            Source::Scalar(_) | Source::Result(_) => true,
        };
        let all = (0..).zip(&self.emitted.operands);
        self.emitted.moving = all.filter(|(_, s)| moves(s)).map(|(at, _)| at).collect();
        self.out.operands += self.emitted.operands.len();
        self.emitted
    }

    /// Counts who reads each vector on the way to the sinks.
    fn count_readers(&mut self, is_sink: &dyn Fn(usize) -> bool) {
        for at in (0..self.code.len()).rev() {
            if is_sink(at) || (self.readers[at] > 0 && !self.is_scalar[at]) {
                for read in self.code[at].reads() {
                    self.readers[read as usize] += 1;
                }
            }
        }
    }

    /// Emits all vectors that the sinks need, and the sinks; gives the reductions.
    fn vectors(
        &mut self,
        is_sink: &dyn Fn(usize) -> bool,
        in_place: bool,
    ) -> Vec<(super::RowReduce, usize, usize)> {
        let mut finished = Vec::new();
        let stores = |at: usize| matches!(self.code[at], Instruction::Store { .. }) && is_sink(at);
        let first_store = (0..self.code.len()).find(|at| stores(*at));
        let several = (0..self.code.len()).filter(|at| stores(*at)).count() > 1;
        for at in 0..self.code.len() {
            if in_place && several && Some(at) == first_store {
                self.keep_stored();
            }
            match self.code[at] {
                Instruction::Reduce(f, x) if is_sink(at) => {
                    self.operands(&[x as usize], &[0], false);
                    self.emitted.ops.push(Op::Reduce(f, self.out.sums));
                    finished.push((f, self.out.sums, self.scalar_of[at]));
                    self.out.sums += 1;
                }
                Instruction::Store { result, value } if is_sink(at) => {
                    self.operands(&[value as usize], &[0], false);
                    let to = self.arg(Source::Result(result));
                    let Stored { dtype, width, streamed, .. } = self.out.results[result];
                    let op = match (width, streamed) {
                        (1, _) => Op::StoreOne(dtype, to),
                        (_, true) => Op::Stream(dtype, to),
                        (_, false) => Op::Store(dtype, to),
                    };
                    self.emitted.ops.push(op);
                }
                _ if self.readers[at] == 0 || self.is_scalar[at] => {}
                // It waits for its first reader.
                Instruction::Load(_) => {}
                _ => self.value(at),
            }
        }
        finished
    }

    /// Before the first of several stores that may lie over operands: what they write and read is
    /// taken from there.
    fn keep_stored(&mut self) {
        for at in 0..self.code.len() {
            let Instruction::Store { value, .. } = self.code[at] else { continue };
            let value = value as usize;
            if matches!(self.code[value], Instruction::Load(_)) && !self.is_scalar[value] {
                self.wait_no_more(&[value]);
                if self.acc != Some(value) && self.slot_of[value].is_none() {
                    let from = self.source(value).expect("it lies in memory");
                    let from = self.arg(from);
                    self.release_acc();
                    self.emitted.ops.push(Op::Take(from));
                    self.acc = Some(value);
                }
                self.keep();
            }
        }
    }

    /// Emits a scalar, over the rows of a block.
    fn number(&mut self, at: usize) {
        self.numbers = true;
        match self.code[at] {
            Instruction::Load(_) => {
                self.emitted.ops.push(Op::Numbers(self.load_of[at]));
                self.acc = Some(at);
            }
            _ => self.value(at),
        }
        let to = self.arg(Source::Numbers(self.scalar_of[at]));
        self.emitted.ops.push(Op::Keep(to));
    }

    /// Where a register can be read without the accumulator.
    fn source(&self, register: usize) -> Option<Source> {
        if let Some(slot) = self.slot_of[register] {
            return Some(Source::Slot(slot));
        }
        match self.code[register] {
            Instruction::Const(value) => Some(Source::Const(value)),
            _ if self.is_scalar[register] => {
                let scalar = self.scalar_of[register];
                Some(if self.numbers { Source::Numbers(scalar) } else { Source::Scalar(scalar) })
            }
            Instruction::Load(_) => {
                let load = &self.out.loads[self.load_of[register]];
                let direct = load.dtype == DType::F32 && load.access.columns == Columns::All;
                direct.then_some(Source::Row(self.load_of[register]))
            }
            _ => None,
        }
    }

    fn arg(&mut self, source: Source) -> Arg {
        let same = |other: &Source| match (*other, source) {
            (Source::Const(a), Source::Const(b)) => a.to_bits() == b.to_bits(),
            (other, source) => other == source,
        };
        let operands = &mut self.emitted.operands;
        let at = operands.iter().position(same).unwrap_or_else(|| {
            operands.push(source);
            operands.len() - 1
        });
        Arg::try_from(at).expect("a verified kernel has few instructions")
    }

    /// Puts the accumulator into a slot, if it is in none.
    fn keep(&mut self) {
        let Some(held) = self.acc.filter(|held| self.slot_of[*held].is_none()) else { return };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.out.slots += 1;
            self.out.slots - 1
        });
        self.slot_of[held] = Some(slot);
        let to = self.arg(Source::Slot(slot));
        self.emitted.ops.push(Op::Keep(to));
    }

    /// Before the accumulator is overwritten: keeps it if it is read later.
    fn release_acc(&mut self) {
        if self.acc.is_some_and(|held| self.readers[held] > 0 && self.source(held).is_none()) {
            self.keep();
        }
        self.acc = None;
    }

    /// Makes the loads among `reads` that have waited; the first of them last, in the accumulator.
    fn wait_no_more(&mut self, reads: &[usize]) {
        for &read in reads.iter().rev() {
            let is_load = matches!(self.code[read], Instruction::Load(_)) && !self.is_scalar[read];
            if !is_load || self.acc == Some(read) || self.source(read).is_some() {
                continue;
            }
            self.release_acc();
            let load = self.load_of[read];
            let from = self.arg(Source::Row(load));
            let Load { access, dtype, .. } = self.out.loads[load];
            self.emitted.ops.push(match access.columns {
                Columns::Every(period) => Op::Every(dtype, from, period),
                _ => Op::Load(dtype, from),
            });
            self.acc = Some(read);
        }
    }

    /// Brings one of the operands at the `allowed` positions into the accumulator; gives its position
    /// and the others. `overwrites`: the accumulator will hold another value.
    fn operands(&mut self, reads: &[usize], allowed: &[usize], overwrites: bool) -> (usize, Args) {
        self.wait_no_more(reads);
        let here = allowed.iter().copied().find(|at| self.acc == Some(reads[*at]));
        let position = here.unwrap_or(allowed[0]);
        let mut args = Args::new();
        for (at, &read) in reads.iter().enumerate() {
            if at == position && here.is_some() {
                continue;
            }
            if self.source(read).is_none() {
                debug_assert_eq!(self.acc, Some(read), "a vector is somewhere");
                self.keep();
            }
            let source = self.source(read).expect("it was kept");
            args.push(self.arg(source));
        }
        for &read in reads {
            self.readers[read] = self.readers[read].saturating_sub(1);
        }
        if here.is_none() {
            self.release_acc();
            self.emitted.ops.push(Op::Take(args.remove(position)));
            self.acc = Some(reads[position]);
        }
        if overwrites {
            self.release_acc();
        }
        for &read in reads {
            if self.readers[read] == 0
                && let Some(slot) = self.slot_of[read].take()
            {
                self.free.push(slot);
            }
        }
        (position, args)
    }

    /// Emits an instruction that makes a value, into the accumulator.
    fn value(&mut self, at: usize) {
        let reads: SmallVec<[usize; 3]> =
            self.code[at].reads().into_iter().map(usize::from).collect();
        let allowed: &[usize] = match self.code[at] {
            Instruction::Binary(..) | Instruction::Compare(..) => &[0, 1],
            Instruction::Fma(..) => &[0, 1, 2],
            _ => &[0],
        };
        let (position, args) = self.operands(&reads, allowed, true);
        self.emitted.ops.push(match self.code[at] {
            Instruction::Unary(f, _) => Op::Unary(f),
            Instruction::Binary(f, ..) if position == 0 => Op::Left(f, args[0]),
            Instruction::Binary(f, ..) => Op::Right(f, args[0]),
            Instruction::Fma(..) => match position {
                0 => Op::Multiply(args[0], args[1]),
                1 => Op::Multiplied(args[0], args[1]),
                _ => Op::Accumulate(args[0], args[1]),
            },
            Instruction::Compare(f, ..) if position == 0 => Op::Compare(f, args[0]),
            Instruction::Compare(f, ..) => Op::Compare(turned(f), args[0]),
            Instruction::Select(..) => Op::Select(args[0], args[1]),
            Instruction::Rotate(..) => Op::Rotate(args[0]),
            Instruction::Round(dtype, _) => Op::Round(dtype),
            Instruction::Load(_)
            | Instruction::Const(_)
            | Instruction::Reduce(..)
            | Instruction::Store { .. } => unreachable!("made elsewhere"),
        });
        self.acc = Some(at);
    }
}

/// The comparison with its sides exchanged.
fn turned(f: CompareFn) -> CompareFn {
    match f {
        CompareFn::Eq => CompareFn::Eq,
        CompareFn::Lt => CompareFn::Gt,
        CompareFn::Le => CompareFn::Ge,
        CompareFn::Gt => CompareFn::Lt,
        CompareFn::Ge => CompareFn::Le,
    }
}
