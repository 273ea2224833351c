//! What kernels mean: a step of a plan as a function of level 1, which the interpreter runs.
//!
//! So nothing is defined a second time: row kernels and anchors are the primitives they stand for.
//! Devices are compared with it, and it is not fast.

use crate::RunError;
use crate::errors::check_rows;
use anyid_ir::kernel::{
    Access, Activation, AnchorKernel, Columns, Combine, CopyKernel, Instruction, Kernel, Load,
    Part, RowFn, RowKernel, RowMap, RowReduce,
};
use anyid_ir::plan::{Plan, Step};
use anyid_ir::{
    BinaryFn, CompareFn, DType, FuncBuilder, Module, Op, ReduceFn, Tensor, TensorType, UnaryFn,
    ValueId,
};

/// A step ready to be interpreted.
pub struct Launch {
    /// One function `f` on the step's operands, then on `rows`, then on what a copy put together.
    pub module: Module,
    /// Rows picked out of operands: how, how many, and how many elements of each.
    rows: Vec<(Access, usize, usize)>,
    /// The rows that are computed, where it is not all of them.
    only: Option<Vec<usize>>,
}

/// Builds the function of a launch.
struct Maker<'m> {
    f: FuncBuilder<'m>,
    operands: Vec<ValueId>,
    rows: Vec<(Access, usize, usize)>,
    /// What the registers of a row kernel are here: f32, or doubles in its scalar form.
    wide: DType,
}

impl Launch {
    /// The launch of a step.
    pub fn new(plan: &Plan, step: &Step) -> Self {
        let types = |ids: &[_]| -> Vec<TensorType> {
            ids.iter().map(|id| plan.buffer(*id).ty.clone()).collect()
        };
        Self::of(&step.kernel, &types(&step.operands), &types(&step.results))
    }

    /// The launch of a kernel on operands and results of these types.
    pub fn of(kernel: &Kernel, operands: &[TensorType], results: &[TensorType]) -> Self {
        let mut module = Module { name: "step".into(), ..Module::default() };
        let mut f = FuncBuilder::new(&module, "f");
        let params = operands.iter().enumerate();
        let params = params.map(|(at, ty)| f.param(&format!("x{at}"), ty.clone())).collect();
        let mut maker = Maker { f, operands: params, rows: Vec::new(), wide: DType::F32 };
        let one = |maker: &mut Maker<'_>, op: Op| {
            vec![maker.f.op("y", op, &maker.operands, Some(results[0].clone()))]
        };
        let made = match kernel {
            Kernel::Anchor(kernel) => maker.anchor(kernel, results),
            Kernel::Row(kernel) => maker.row(kernel),
            // Its elements are only moved, before the function runs.
            Kernel::Copy(_) => vec![maker.f.param("moved", results[0].clone())],
            Kernel::Gather => one(&mut maker, Op::Gather),
            Kernel::Fill(fill) => one(&mut maker, fill.op()),
        };
        let func = maker.f.finish(&made);
        let rows = maker.rows;
        module.add(func);
        Self { module, rows, only: None }
    }

    /// A row kernel at some of its rows alone, in their order.
    pub fn of_rows(kernel: &RowKernel, operands: &[TensorType], only: &[usize]) -> Self {
        let mut few = kernel.clone();
        few.rows = only.len();
        let width = |at: usize| kernel.result_width(at);
        for (at, ty) in few.results.iter_mut().enumerate() {
            *ty = TensorType::new(ty.dtype, [only.len(), width(at)]);
        }
        let results = few.results.clone();
        let launch = Self::of(&Kernel::Row(few), operands, &results);
        Self { only: Some(only.to_vec()), ..launch }
    }

    /// The inputs of the function: the operands, and the rows picked out of them.
    ///
    /// # Errors
    /// [`RunError::Index`] where a table has no such row.
    pub fn inputs(&self, operands: Vec<Tensor>, step: &Step) -> Result<Vec<Tensor>, RunError> {
        self.given(operands, &step.kernel, step.label())
    }

    /// As [`Self::inputs`], for a kernel that no step names.
    ///
    /// # Errors
    /// [`RunError::Index`] where a table has no such row.
    pub fn given(
        &self,
        operands: Vec<Tensor>,
        kernel: &Kernel,
        label: &str,
    ) -> Result<Vec<Tensor>, RunError> {
        if *kernel == Kernel::Gather {
            let indices = operands[1].as_i32().expect("verified");
            check_rows(indices, operands[0].shape()[0], label)?;
        }
        let mut inputs = operands;
        if let Kernel::Copy(kernel) = kernel {
            let func = self.module.func("f").expect("it was made");
            let (_, ty) = func.param_types().last().expect("what is moved is its last input");
            inputs.push(moved(kernel, &inputs, ty, 0..kernel.lines));
        }
        for (access, count, width) in &self.rows {
            let row = |at: usize| self.only.as_ref().map_or(at, |only| only[at]);
            inputs.push(picked(&inputs, access, [*count, *width], &row, label)?);
        }
        Ok(inputs)
    }
}

/// What a copy puts together, at some of its lines.
pub(super) fn moved(
    kernel: &CopyKernel,
    operands: &[Tensor],
    ty: &TensorType,
    lines: impl Iterator<Item = usize>,
) -> Tensor {
    let size = ty.dtype.bytes();
    let mut bytes = Vec::with_capacity(ty.bytes() as usize);
    for line in lines {
        for part in &kernel.parts {
            let length = kernel.length(part).expect("verified");
            let Part::Strided { operand, offset, axes } = part else {
                bytes.resize(bytes.len() + length * size, 0);
                continue;
            };
            for element in line * length..(line + 1) * length {
                let (mut rest, mut at) = (element, *offset);
                for (count, stride) in axes.iter().rev() {
                    at += rest % count * stride;
                    rest /= count;
                }
                bytes.extend_from_slice(&operands[*operand].bytes()[at * size..(at + 1) * size]);
            }
        }
    }
    Tensor::from_bytes(ty.clone(), &bytes).expect("as many as the type has")
}

/// `count` rows of `width` elements of an operand.
fn picked(
    operands: &[Tensor],
    access: &Access,
    [count, width]: [usize; 2],
    own: &dyn Fn(usize) -> usize,
    label: &str,
) -> Result<Tensor, RunError> {
    let table = &operands[access.operand];
    let segments = match access.rows {
        RowMap::Segment(at) => operands[at].as_i32().expect("verified"),
        _ => &[],
    };
    let (wide, step) = match access.columns {
        Columns::Every(period) => (period.min(width), 1),
        Columns::Step(step) => (width, step),
        Columns::All | Columns::One => (width, 1),
    };
    let there = table.ty().elements().saturating_sub(access.offset + (wide - 1) * step + 1);
    let table_rows = there.checked_div(access.stride).map_or(1, |rows| rows + 1);
    check_rows(segments, table_rows, label)?;
    let size = table.dtype().bytes();
    let mut bytes = Vec::with_capacity(count * width * size);
    for row in (0..count).map(own) {
        let row = match access.rows {
            RowMap::Affine { divisor, modulus } => row / divisor % modulus,
            RowMap::Fixed => 0,
            RowMap::Segment(_) => segments[row] as usize,
        };
        let start = access.offset + row * access.stride;
        for column in 0..width {
            let from = (start + column % wide * step) * size;
            bytes.extend_from_slice(&table.bytes()[from..from + size]);
        }
    }
    let ty = TensorType::new(table.dtype(), [count, width]);
    Ok(Tensor::from_bytes(ty, &bytes).expect("as many as the type has"))
}

impl Maker<'_> {
    /// Rows of an operand as registers hold them, picked when the step runs.
    fn load(&mut self, access: Access, count: usize, width: usize) -> ValueId {
        let dtype = self.f.ty(self.operands[access.operand]).dtype;
        let name = format!("r{}", self.rows.len());
        self.rows.push((access, count, width));
        let rows = self.f.param(&name, TensorType::new(dtype, [count, width]));
        self.f.cast("l", rows, self.wide)
    }

    /// Rounded to a type and widened again.
    fn rounded(&mut self, to: Option<DType>, x: ValueId) -> ValueId {
        let narrow = to.map(|dtype| self.f.cast("n", x, dtype));
        narrow.map_or(x, |narrow| self.f.cast("n", narrow, self.wide))
    }

    fn activated(&mut self, activation: Option<Activation>, x: ValueId) -> ValueId {
        match activation {
            None => x,
            Some(Activation::Gelu) => self.f.op("a", Op::Gelu, &[x], None),
            Some(Activation::Silu) => self.f.op("a", Op::Silu, &[x], None),
        }
    }

    fn anchor(&mut self, kernel: &AnchorKernel, results: &[TensorType]) -> Vec<ValueId> {
        let mut first = self.operands[0];
        if let Load::Nearest([t, h, w]) = kernel.load {
            let s = self.f.shape(first);
            let apart = self.f.reshape("n", first, [s[0], 1, s[1], 1, s[2], 1, s[3]]);
            let wide = self.f.broadcast("n", apart, [s[0], t, s[1], h, s[2], w, s[3]]);
            first = self.f.reshape("n", wide, [s[0] * t, s[1] * h, s[2] * w, s[3]]);
        }
        let part = |(part, types): (usize, &[TensorType])| {
            let rest = (1..kernel.arity).map(|at| self.operands[kernel.part_operand(part, at)]);
            let operands: Vec<ValueId> = [first].into_iter().chain(rest).collect();
            let ty = &types[0];
            let wide = if ty.dtype == DType::F64 { DType::F64 } else { DType::F32 };
            let sums = ty.with_dtype(wide);
            let mut made = self.f.op_of("s", kernel.anchor.op(), &operands, &[sums]);
            let sums = self.rounded(kernel.sums, made[0]);
            let y = self.activated(kernel.activation, sums);
            let mut y = self.rounded(kernel.activated, y);
            if let Some(at) = kernel.residual_operand() {
                let residual = self.f.cast("o", self.operands[at], DType::F32);
                if let Combine::GateAdd { offset, stride } = kernel.combine {
                    let (rows, columns) = (RowMap::Segment(at + 2), Columns::All);
                    let access = Access { operand: at + 1, rows, columns, offset, stride };
                    let (count, width) = (ty.elements() / ty.last(), ty.last());
                    let gate = self.load(access, count, width);
                    let gate = self.f.reshape("g", gate, ty.shape.iter().copied());
                    y = self.f.mul("g", y, gate);
                }
                y = self.f.add("y", residual, y);
            }
            made[0] = self.f.cast("y", y, ty.dtype);
            made
        };
        results.chunks(kernel.anchor.results()).enumerate().flat_map(part).collect()
    }

    /// Whole numbers divided, the fraction cut off; by zero 0.
    fn quotient(&mut self, x: ValueId, y: ValueId) -> ValueId {
        let f = &mut self.f;
        let zero = f.scalar("z", DType::F64, 0.0);
        let ratio = f.binary("d", BinaryFn::Div, x, y);
        let down = f.unary("d", UnaryFn::Floor, ratio);
        let opposite = f.unary("d", UnaryFn::Neg, ratio);
        let up = f.unary("d", UnaryFn::Floor, opposite);
        let up = f.unary("d", UnaryFn::Neg, up);
        let negative = f.compare("d", CompareFn::Lt, ratio, zero);
        let whole = f.op("d", Op::Select, &[negative, up, down], None);
        let by_zero = f.compare("d", CompareFn::Eq, y, zero);
        f.op("d", Op::Select, &[by_zero, zero, whole], None)
    }

    fn row(&mut self, kernel: &RowKernel) -> Vec<ValueId> {
        let [rows, width] = [kernel.rows, kernel.width];
        self.wide = if kernel.arithmetic == DType::F32 { DType::F32 } else { DType::F64 };
        let wide = self.wide;
        let mut registers: Vec<ValueId> = Vec::new();
        let mut results = vec![None; kernel.results.len()];
        for instruction in &kernel.code {
            let r = |register: u16| registers[usize::from(register)];
            let f = &mut self.f;
            let value = match *instruction {
                Instruction::Load(access) => {
                    let one = access.columns == Columns::One;
                    self.load(access, rows, if one { 1 } else { width })
                }
                Instruction::Const(value) => {
                    f.constant("c", f64::from(value), TensorType::new(wide, [rows, 1]))
                }
                Instruction::Unary(RowFn::Primitive(u), x) => f.unary("u", u, r(x)),
                Instruction::Unary(RowFn::Gelu, x) => f.op("u", Op::Gelu, &[r(x)], None),
                Instruction::Unary(RowFn::Silu, x) => f.op("u", Op::Silu, &[r(x)], None),
                Instruction::Binary(BinaryFn::Div, x, y) if kernel.arithmetic == DType::I32 => {
                    let (x, y) = (r(x), r(y));
                    self.quotient(x, y)
                }
                Instruction::Binary(b, x, y) => f.binary("b", b, r(x), r(y)),
                Instruction::Fma(a, b, c) => {
                    let [a, b, c] = [a, b, c].map(|x| f.cast("w", r(x), DType::F64));
                    let product = f.mul("p", a, b);
                    let sum = f.add("p", product, c);
                    f.cast("p", sum, DType::F32)
                }
                Instruction::Compare(c, x, y) => {
                    let truth = f.compare("t", c, r(x), r(y));
                    f.cast("t", truth, wide)
                }
                Instruction::Select(c, a, b) => {
                    let zero = f.scalar("z", wide, 0.0);
                    let not = f.compare("z", CompareFn::Eq, r(c), zero);
                    f.op("e", Op::Select, &[not, r(b), r(a)], None)
                }
                Instruction::Reduce(how, x) => {
                    let squares = matches!(how, RowReduce::SumSquares | RowReduce::MeanSquares);
                    let x = if squares { f.mul("q", r(x), r(x)) } else { r(x) };
                    let how = match how {
                        RowReduce::Sum | RowReduce::SumSquares => ReduceFn::Sum,
                        RowReduce::Mean | RowReduce::MeanSquares => ReduceFn::Mean,
                        RowReduce::Max => ReduceFn::Max,
                    };
                    f.reduce("m", how, x, &[1], true)
                }
                Instruction::Rotate(x, angles) => {
                    let table = f.reshape("h", r(angles), [rows, width / 2, 2]);
                    f.op("h", Op::Rope { heads: 1 }, &[r(x), table], None)
                }
                Instruction::Round(dtype, x) => self.rounded(Some(dtype), r(x)),
                Instruction::Store { result, value } => {
                    let ty = &kernel.results[result];
                    let zero = [rows, kernel.result_width(result)];
                    let whole = f.broadcast("y", r(value), zero);
                    let narrow = f.cast("y", whole, ty.dtype);
                    results[result] = Some(f.reshape("y", narrow, ty.shape.iter().copied()));
                    r(value)
                }
            };
            registers.push(value);
        }
        results.into_iter().map(|result| result.expect("every result is stored")).collect()
    }
}
