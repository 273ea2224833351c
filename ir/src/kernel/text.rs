//! Text form of kernels: one line an instruction, and what is written reads back as it was.
//!
//! ```text
//! kernel k0 "rms_norm" rows i in 4, cols j in 8 {
//!   in a0: bf16[4,8]
//!   in a1: f32[8]
//!   out y0: bf16[4,8]
//!   v0 = a0[i*8 + j]
//!   v1 = mean_squares_j(v0)
//!   v2 = 1e-6
//!   v3 = add(v1, v2)
//!   v4 = rsqrt(v3)
//!   v5 = mul(v0, v4)
//!   v6 = a1[0*8 + j]
//!   v7 = mul(v5, v6)
//!   y0[i,j] = v7
//! }
//! kernel k1 "linear+gate_add" anchor linear {
//!   y0 = a3 + linear(a0, a1, a2) * a4[a5[i]*8 + j]
//! }
//! kernel k2 "upsample+conv" anchor conv {pad=[0,0,1,1,1,1]} {
//!   y0 = conv(a0[t,h/2,w/2,c], a1, a2)
//! }
//! kernel k3 "linear+gelu" anchor linear {
//!   y0 = gelu(bf16(linear(a0, a1)))
//! }
//! kernel k4 "attention" anchor attention {heads=2, scale=0.5, lse=true} {
//!   y0, y1 = attention(a0, a1, a2)
//! }
//! kernel k5 "pad" copy 2 lines {
//!   zeros: 8
//!   a0 from 0: 2 by 12, 12 by 1
//! }
//! kernel k6 gather
//! kernel k7 fill iota {axis=0}
//! ```
//!
//! Kernels are named in their order. Reading checks the grammar; [`mod@super::verify`] the rest.

use super::{
    Access, Activation, AnchorKernel, Columns, Combine, CopyKernel, Instruction, Kernel, Load,
    Part, RowFn, RowKernel, RowMap, RowReduce,
};
use crate::line::{float, quoted};
use crate::op::{BinaryFn, CompareFn, UnaryFn};
use crate::text::op_text;
use crate::types::DType;
use std::fmt::{self, Write};
use std::sync::LazyLock;

pub use super::parse::parse_kernels;

/// The text of kernels, named `k0`, `k1`, …; ends with a line break unless it is empty.
pub fn print_kernels<'k>(kernels: impl IntoIterator<Item = &'k Kernel>) -> String {
    let mut out = String::new();
    for (at, kernel) in kernels.into_iter().enumerate() {
        out.push_str(&print_named(&format!("k{at}"), kernel, ""));
    }
    out
}

/// The text of a kernel by itself; ends with a line break.
pub fn print(kernel: &Kernel) -> String {
    print_kernels([kernel])
}

/// The text of a kernel under a name, each line behind `indent`.
pub(crate) fn print_named(name: &str, kernel: &Kernel, indent: &str) -> String {
    let mut out = format!("{indent}kernel {name} ");
    let written = match kernel {
        Kernel::Gather => writeln!(out, "gather"),
        Kernel::Fill(fill) => {
            let (name, attributes) = op_text(&fill.op());
            writeln!(out, "fill {name}{attributes}")
        }
        Kernel::Copy(kernel) => copy(&mut out, kernel, indent),
        Kernel::Row(kernel) => row(&mut out, kernel, indent),
        Kernel::Anchor(kernel) => anchor(&mut out, kernel, indent),
    };
    written.expect("writing to a string does not fail");
    out
}

fn row(out: &mut String, kernel: &RowKernel, indent: &str) -> fmt::Result {
    let RowKernel { name, rows, width, arithmetic, .. } = kernel;
    write!(out, "{} rows i in {rows}, cols j in {width}", quoted(name))?;
    match arithmetic {
        DType::F32 => writeln!(out, " {{")?,
        other => writeln!(out, " as {other} {{")?,
    }
    for (word, letter, types) in [("in", 'a', &kernel.operands), ("out", 'y', &kernel.results)] {
        for (at, ty) in types.iter().enumerate() {
            writeln!(out, "{indent}  {word} {letter}{at}: {ty}")?;
        }
    }
    for (at, instruction) in kernel.code.iter().enumerate() {
        let value = match instruction {
            Instruction::Store { result, value } => {
                let place = stored(kernel, *result);
                writeln!(out, "{indent}  {place} = v{value}")?;
                continue;
            }
            Instruction::Load(access) => load(access),
            Instruction::Const(value) => float(*value),
            other => {
                let reads: Vec<String> = other.reads().iter().map(|r| format!("v{r}")).collect();
                format!("{}({})", function(*other), reads.join(", "))
            }
        };
        writeln!(out, "{indent}  v{at} = {value}")?;
    }
    writeln!(out, "{indent}}}")
}

/// The left side of a store: `y0[i,j]`, or `y0[i]` for one element a row.
pub(super) fn stored(kernel: &RowKernel, result: usize) -> String {
    let narrow = result < kernel.results.len() && kernel.result_width(result) == 1;
    format!("y{result}[i{}]", if narrow { "" } else { ",j" })
}

/// Instructions that are written as a function of registers, by name, with registers that reading
/// fills in.
pub(super) static FUNCTIONS: LazyLock<Vec<(String, Instruction)>> = LazyLock::new(|| {
    let mut list = vec![
        ("fma".to_owned(), Instruction::Fma(0, 0, 0)),
        ("select".to_owned(), Instruction::Select(0, 0, 0)),
        ("rotate".to_owned(), Instruction::Rotate(0, 0)),
    ];
    let unary = UnaryFn::ALL.map(RowFn::Primitive).into_iter();
    let unary = unary.chain([RowFn::Gelu, RowFn::Silu]);
    list.extend(unary.map(|f| (f.name().to_owned(), Instruction::Unary(f, 0))));
    list.extend(BinaryFn::ALL.map(|f| (f.name().to_owned(), Instruction::Binary(f, 0, 0))));
    list.extend(CompareFn::ALL.map(|f| (f.name().to_owned(), Instruction::Compare(f, 0, 0))));
    list.extend(RowReduce::ALL.map(|f| (format!("{}_j", f.name()), Instruction::Reduce(f, 0))));
    list.extend(DType::ALL.map(|to| (to.name().to_owned(), Instruction::Round(to, 0))));
    list
});

/// Name of the function of an instruction that has one.
fn function(mut instruction: Instruction) -> &'static str {
    instruction.registers().into_iter().for_each(|register| *register = 0);
    let found = FUNCTIONS.iter().find(|(_, other)| *other == instruction);
    &found.expect("every function is in the table").0
}

/// `a1[96 + (i/4%3)*8 + j]`: elements before the first row, the row, elements of a row, the column.
fn load(access: &Access) -> String {
    let row = match access.rows {
        RowMap::Fixed => "0".to_owned(),
        RowMap::Segment(operand) => format!("a{operand}[i]"),
        RowMap::Affine { divisor: 1, modulus: usize::MAX } => "i".to_owned(),
        RowMap::Affine { divisor, modulus: usize::MAX } => format!("(i/{divisor})"),
        RowMap::Affine { divisor: 1, modulus } => format!("(i%{modulus})"),
        RowMap::Affine { divisor, modulus } => format!("(i/{divisor}%{modulus})"),
    };
    let column = match access.columns {
        Columns::All => "j".to_owned(),
        Columns::One => "0".to_owned(),
        Columns::Every(period) => format!("j%{period}"),
        Columns::Step(step) => format!("j*{step}"),
    };
    let before = offset(access.offset);
    format!("a{}[{before}{row}*{} + {column}]", access.operand, access.stride)
}

fn offset(offset: usize) -> String {
    if offset == 0 { String::new() } else { format!("{offset} + ") }
}

fn anchor(out: &mut String, kernel: &AnchorKernel, indent: &str) -> fmt::Result {
    let (op, attributes) = op_text(&kernel.anchor.op());
    writeln!(out, "{} anchor {op}{attributes} {{", quoted(&kernel.name))?;
    for part in 0..kernel.parts {
        writeln!(out, "{indent}  {}", part_line(kernel, part))?;
    }
    writeln!(out, "{indent}}}")
}

fn copy(out: &mut String, kernel: &CopyKernel, indent: &str) -> fmt::Result {
    writeln!(out, "{} copy {} lines {{", quoted(&kernel.name), kernel.lines)?;
    for part in &kernel.parts {
        match part {
            Part::Zeros(count) => writeln!(out, "{indent}  zeros: {count}")?,
            Part::Strided { operand, offset, axes } => {
                let axis = |(size, stride): &(usize, usize)| format!("{size} by {stride}");
                let axes: Vec<String> = axes.iter().map(axis).collect();
                let colon = if axes.is_empty() { "" } else { ": " };
                writeln!(out, "{indent}  a{operand} from {offset}{colon}{}", axes.join(", "))?;
            }
        }
    }
    writeln!(out, "{indent}}}")
}

/// Which element of operand 0 is read: nothing, or `[t,h/2,w/2,c]`.
fn loaded(load: Load) -> String {
    let Load::Nearest(factors) = load else { return String::new() };
    let axis = |(name, factor): (&str, usize)| match factor {
        1 => name.to_owned(),
        factor => format!("{name}/{factor}"),
    };
    let axes: Vec<String> = ["t", "h", "w"].into_iter().zip(factors).map(axis).collect();
    format!("[{},c]", axes.join(","))
}

/// What a part computes: `y0 = a3 + gelu(linear(a0, a1, a2))`.
pub(super) fn part_line(kernel: &AnchorKernel, part: usize) -> String {
    let first = std::iter::once(format!("a0{}", loaded(kernel.load)));
    let others = (1..kernel.arity).map(|at| format!("a{}", kernel.part_operand(part, at)));
    let operands: Vec<String> = first.chain(others).collect();
    let mut value = format!("{}({})", kernel.anchor.name(), operands.join(", "));
    let (sums, activated) = (kernel.sums.map(DType::name), kernel.activated.map(DType::name));
    let functions = [sums, kernel.activation.map(Activation::name), activated];
    for function in functions.into_iter().flatten() {
        value = format!("{function}({value})");
    }
    let (count, residual) = (kernel.anchor.results(), kernel.own_operands());
    let results: Vec<String> = (0..count).map(|at| format!("y{}", part * count + at)).collect();
    let results = results.join(", ");
    match kernel.combine {
        Combine::Store => format!("{results} = {value}"),
        Combine::Add => format!("{results} = a{residual} + {value}"),
        Combine::GateAdd { offset: before, stride } => format!(
            "{results} = a{residual} + {value} * a{}[{}a{}[i]*{stride} + j]",
            residual + 1,
            offset(before),
            residual + 2,
        ),
    }
}
