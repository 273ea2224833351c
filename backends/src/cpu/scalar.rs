//! Row kernels and products in their scalar form, element by element, for any element type.
//!
//! The f32 row kernels cover what models spend time on; this covers the rest (integer index
//! arithmetic, doubles) with the interpreter's rule: compute in f64, round once to the declared
//! type. It allocates nothing, and ends early when the work shall stop.

use super::rowkernel::BadSegment;
use super::threads::until_stopped;
use crate::element::{read, write};
use anyid_ir::infer::sides;
use anyid_ir::kernel::verify::MOST_INSTRUCTIONS;
use anyid_ir::kernel::{Access, Columns, Instruction, RowFn, RowKernel, RowMap, RowReduce};
use anyid_ir::op::{BinaryFn, CompareFn, UnaryFn};
use anyid_ir::{DType, TensorType};

fn unary(f: UnaryFn, x: f64) -> f64 {
    match f {
        UnaryFn::Neg => -x,
        UnaryFn::Abs => x.abs(),
        UnaryFn::Exp => x.exp(),
        UnaryFn::Log => x.ln(),
        UnaryFn::Sqrt => x.sqrt(),
        UnaryFn::Rsqrt => 1.0 / x.sqrt(),
        UnaryFn::Recip => 1.0 / x,
        UnaryFn::Tanh => x.tanh(),
        UnaryFn::Sin => x.sin(),
        UnaryFn::Cos => x.cos(),
        UnaryFn::Floor => x.floor(),
        UnaryFn::Erf => anyid_ir::erf(x),
    }
}

fn binary(f: BinaryFn, a: f64, b: f64, integer: bool) -> f64 {
    match f {
        BinaryFn::Add => a + b,
        BinaryFn::Sub => a - b,
        BinaryFn::Mul => a * b,
        BinaryFn::Div if integer && b == 0.0 => 0.0,
        BinaryFn::Div if integer => (a / b).trunc(),
        BinaryFn::Div => a / b,
        // Of equal operands the second, which tells zeros apart.
        BinaryFn::Max => {
            if a > b || a.is_nan() {
                a
            } else {
                b
            }
        }
        BinaryFn::Min => {
            if a < b || a.is_nan() {
                a
            } else {
                b
            }
        }
    }
}

fn compare(f: CompareFn, a: f64, b: f64) -> bool {
    match f {
        CompareFn::Eq => a == b,
        CompareFn::Lt => a < b,
        CompareFn::Le => a <= b,
        CompareFn::Gt => a > b,
        CompareFn::Ge => a >= b,
    }
}

/// A row kernel at work on one row: its operands, and the register of every instruction.
struct Rows<'r> {
    kernel: &'r RowKernel,
    operands: &'r [&'r [u8]],
    registers: [f64; MOST_INSTRUCTIONS],
}

impl Rows<'_> {
    /// The element that a load reads.
    fn load(&self, access: &Access, row: usize, column: usize) -> Result<f64, BadSegment> {
        let ty = &self.kernel.operands[access.operand];
        let column = match access.columns {
            Columns::All => column,
            Columns::One => 0,
            Columns::Every(period) => column % period,
            Columns::Step(step) => column * step,
        };
        let index = match access.rows {
            RowMap::Fixed => 0,
            RowMap::Affine { divisor, modulus } => row / divisor % modulus,
            RowMap::Segment(segments) => {
                let index = read(DType::I32, self.operands[segments], row) as i64;
                let start = usize::try_from(index).ok();
                let start = start.and_then(|index| index.checked_mul(access.stride));
                let end = start.and_then(|at| at.checked_add(access.offset)?.checked_add(column));
                if end.is_none_or(|end| end >= ty.elements()) {
                    let room = ty.elements().saturating_sub(access.offset);
                    let rows = room.checked_div(access.stride).unwrap_or(1).max(1);
                    return Err(BadSegment { index, rows });
                }
                index as usize
            }
        };
        let at = access.offset + index * access.stride + column;
        Ok(read(ty.dtype, self.operands[access.operand], at))
    }

    /// Makes the registers of the first `count` instructions for a column. Reductions hold their
    /// value already.
    fn column(&mut self, count: usize, row: usize, column: usize) -> Result<(), BadSegment> {
        let integer = self.kernel.arithmetic == DType::I32;
        for (at, instruction) in self.kernel.code[..count].iter().enumerate() {
            let r = |register: u16| self.registers[register as usize];
            self.registers[at] = match instruction {
                Instruction::Load(access) => self.load(access, row, column)?,
                Instruction::Const(value) => f64::from(*value),
                Instruction::Unary(RowFn::Primitive(f), x) => unary(*f, r(*x)),
                Instruction::Binary(f, a, b) => binary(*f, r(*a), r(*b), integer),
                Instruction::Compare(f, a, b) => f64::from(u8::from(compare(*f, r(*a), r(*b)))),
                Instruction::Select(c, a, b) => r(if r(*c) != 0.0 { *a } else { *b }),
                Instruction::Round(dtype, x) => dtype.round(r(*x)),
                Instruction::Reduce(..) | Instruction::Store { .. } => continue,
                Instruction::Unary(..) | Instruction::Fma(..) | Instruction::Rotate(..) => {
                    unreachable!("verified: these are computed in f32")
                }
            };
        }
        Ok(())
    }

    /// The value of reduction number `at` of a row.
    fn reduce(&mut self, at: usize, f: RowReduce, x: u16, row: usize) -> Result<(), BadSegment> {
        let mut total = if f == RowReduce::Max { f64::NEG_INFINITY } else { 0.0 };
        for column in until_stopped(self.kernel.width) {
            self.column(at, row, column)?;
            let value = self.registers[x as usize];
            total = match f {
                RowReduce::Max if value.is_nan() || total.is_nan() => f64::NAN,
                RowReduce::Max => total.max(value),
                RowReduce::Sum | RowReduce::Mean => total + value,
                RowReduce::SumSquares | RowReduce::MeanSquares => total + value * value,
            };
        }
        self.registers[at] = match f {
            RowReduce::Mean | RowReduce::MeanSquares => total / self.kernel.width as f64,
            // A largest element of 0 is +0.
            RowReduce::Max => total + 0.0,
            RowReduce::Sum | RowReduce::SumSquares => total,
        };
        Ok(())
    }
}

/// Runs a row kernel on the bytes of its operands and results.
pub fn rows(
    kernel: &RowKernel,
    operands: &[&[u8]],
    results: &mut [&mut [u8]],
) -> Result<(), BadSegment> {
    let mut rows = Rows { kernel, operands, registers: [0.0; MOST_INSTRUCTIONS] };
    for row in until_stopped(kernel.rows) {
        for (at, instruction) in kernel.code.iter().enumerate() {
            if let Instruction::Reduce(f, x) = instruction {
                rows.reduce(at, *f, *x, row)?;
            }
        }
        for column in until_stopped(kernel.width) {
            rows.column(kernel.code.len(), row, column)?;
            for instruction in &kernel.code {
                let Instruction::Store { result, value } = instruction else { continue };
                let (ty, width) = (&kernel.results[*result], kernel.result_width(*result));
                if column < width {
                    let value = rows.registers[*value as usize];
                    write(ty.dtype, results[*result], row * width + column, value);
                }
            }
        }
    }
    Ok(())
}

/// A tensor to read: type and bytes.
type Operand<'o> = (&'o TensorType, &'o [u8]);

/// Products of pairs of matrices, summed in f64; sides may lie the other way round.
pub fn dot(
    transposed: [bool; 2],
    (a_ty, a): Operand<'_>,
    (b_ty, b): Operand<'_>,
    dtype: DType,
    out: &mut [u8],
) {
    let batch: usize = a_ty.shape[..a_ty.rank() - 2].iter().product();
    let [(m, k), (n, _)] = [sides(a_ty, transposed[0]), sides(b_ty, transposed[1])];
    // Elements from one row to the next, and from one summand to the next.
    let steps = |size: usize, turned: bool| if turned { (1, size) } else { (k, 1) };
    let [(row_a, next_a), (row_b, next_b)] = [steps(m, transposed[0]), steps(n, transposed[1])];
    for index in until_stopped(batch * m * n) {
        let (row, j) = (index / n, index % n);
        let (page, i) = (row / m, row % m);
        let product = |at| {
            read(a_ty.dtype, a, page * m * k + i * row_a + at * next_a)
                * read(b_ty.dtype, b, page * n * k + j * row_b + at * next_b)
        };
        let sum: f64 = until_stopped(k).map(product).sum();
        write(dtype, out, index, sum);
    }
}
