//! Text form of kernels, for reading and for snapshots: deterministic, one line an instruction.

use super::{Access, AnchorKernel, Columns, Combine, Instruction, Kernel, RowKernel, RowMap};
use crate::op::Op;
use std::fmt::{self, Write};

/// The text of a kernel; ends with a line break.
pub fn print(kernel: &Kernel) -> String {
    let mut out = String::new();
    let written = match kernel {
        Kernel::Op(op) => writeln!(out, "kernel op {}", op.name()),
        Kernel::Row(kernel) => row(&mut out, kernel),
        Kernel::Anchor(kernel) => anchor(&mut out, kernel),
    };
    written.expect("writing to a string does not fail");
    out
}

fn row(out: &mut String, kernel: &RowKernel) -> fmt::Result {
    writeln!(
        out,
        "kernel rows i in {}, cols j in {}    // {}",
        kernel.rows, kernel.width, kernel.name
    )?;
    for (sign, types) in [("in ", &kernel.operands), ("out", &kernel.results)] {
        for (at, ty) in types.iter().enumerate() {
            let name = if sign == "in " { 'a' } else { 'y' };
            writeln!(out, "  {sign} {name}{at}: {ty}")?;
        }
    }
    for (at, instruction) in kernel.code.iter().enumerate() {
        match instruction {
            Instruction::Store { result, value } => {
                let column = if kernel.result_width(*result) == 1 { "" } else { ",j" };
                writeln!(out, "  y{result}[i{column}] = v{value}")?;
            }
            Instruction::Load(access) => writeln!(out, "  v{at} = {}", load(access))?,
            Instruction::Const(value) => writeln!(out, "  v{at} = {value:?}")?,
            Instruction::Reduce(f, x) => writeln!(out, "  v{at} = {}_j(v{x})", f.name())?,
            other => {
                let name = match other {
                    Instruction::Unary(f, _) => f.name(),
                    Instruction::Binary(f, ..) => Op::Binary(*f).name(),
                    Instruction::Compare(f, ..) => Op::Compare(*f).name(),
                    Instruction::Fma(..) => "fma",
                    Instruction::Select(..) => "select",
                    Instruction::Rotate(..) => "rotate",
                    Instruction::Round(dtype, _) => dtype.name(),
                    _ => unreachable!("matched above"),
                };
                let reads: Vec<String> = other.reads().iter().map(|r| format!("v{r}")).collect();
                writeln!(out, "  v{at} = {name}({})", reads.join(", "))?;
            }
        }
    }
    Ok(())
}

fn load(access: &Access) -> String {
    let row = match access.rows {
        RowMap::Fixed => "0".to_owned(),
        RowMap::Segment(operand) => format!("a{operand}[i]"),
        RowMap::Affine { divisor, modulus } => {
            let mut row = "i".to_owned();
            if divisor != 1 {
                write!(row, "/{divisor}").expect("writing to a string does not fail");
            }
            if modulus != usize::MAX {
                write!(row, "%{modulus}").expect("writing to a string does not fail");
            }
            row
        }
    };
    let column = match access.columns {
        Columns::All => "j".to_owned(),
        Columns::One => "0".to_owned(),
        Columns::Every(period) => format!("j%{period}"),
    };
    format!("a{}[{} + ({row})*{} + {column}]", access.operand, access.offset, access.stride)
}

fn anchor(out: &mut String, kernel: &AnchorKernel) -> fmt::Result {
    writeln!(out, "kernel {} x{}    // {}", kernel.op.name(), kernel.parts, kernel.name)?;
    for part in 0..kernel.parts {
        let operands: Vec<String> =
            (1..kernel.arity).map(|at| format!("a{}", kernel.part_operand(part, at))).collect();
        let mut value = format!("{}(a0, {})", kernel.op.name(), operands.join(", "));
        if let Some(activation) = kernel.activation {
            value = format!("{}({value})", activation.name());
        }
        let residual = kernel.own_operands();
        match kernel.combine {
            Combine::Store => writeln!(out, "  y{part} = {value}")?,
            Combine::Add => writeln!(out, "  y{part} = a{residual} + {value}")?,
            Combine::GateAdd { offset, stride } => writeln!(
                out,
                "  y{part}[i,j] = a{residual} + {value} * a{}[{offset} + (a{}[i])*{stride} + j]",
                residual + 1,
                residual + 2,
            )?,
        }
    }
    Ok(())
}
