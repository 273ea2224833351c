//! Kernel text back to kernels.
//!
//! A line at a time, so that kernels can stand inside the text of plans: [`head`] takes the first
//! line of a kernel, [`further`] each further one up to the closing brace. Time and
//! memory are linear in the text; no number read is used as a size or an index here.

use super::text::{FUNCTIONS, part_line, stored};
use super::verify::MOST_INSTRUCTIONS;
use super::{
    Access, Activation, Anchor, AnchorKernel, Axes, Columns, Combine, CopyKernel, Fill,
    Instruction, Kernel, Load, MOST_AXES, Part, Register, RowKernel, RowMap,
};
use crate::diag::Diagnostic;
use crate::line::{Line, Read, lines};
use crate::text::parse_op;
use crate::types::DType;
use smallvec::SmallVec;

/// Reads the kernels written by [`super::text::print_kernels`].
///
/// # Errors
/// E0516 with the line and what was expected, where the text is not that of kernels.
pub fn parse_kernels(text: &str) -> Result<Vec<Kernel>, Box<Diagnostic>> {
    let mut kernels = Vec::new();
    lines(text, "kernel", "docs/plans.md describes the text of kernels", |open, line| {
        let (kernel, complete) = match open {
            None => {
                line.expect("kernel ")?;
                head(line, kernels.len())?
            }
            Some(kernel) => further(kernel, line)?,
        };
        if !complete {
            return Ok(Some(kernel));
        }
        kernels.push(kernel);
        Ok(None)
    })?;
    Ok(kernels)
}

/// A kernel, and whether it is complete; otherwise more lines have to come.
pub(crate) type Begun = (Kernel, bool);

/// Reads the first line of kernel number `index`, behind the word `kernel`.
pub(crate) fn head(line: &mut Line<'_>, index: usize) -> Read<Begun> {
    let expected = format!("k{index}");
    if line.word()? != expected {
        return Err(format!("expected the name of the next kernel, {expected}"));
    }
    if line.accept("gather") {
        return Ok((Kernel::Gather, true));
    }
    if line.accept("fill ") {
        return Ok((filled(line.rest())?, true));
    }
    let name = line.quoted()?;
    if line.accept("rows i in ") {
        let rows = line.size()?;
        line.expect(",")?;
        line.expect("cols j in ")?;
        let width = line.size()?;
        let arithmetic = if line.accept("as ") { line.dtype()? } else { DType::F32 };
        line.expect("{")?;
        let (operands, results, code) = (Vec::new(), Vec::new(), Vec::new());
        let kernel = RowKernel { name, rows, width, arithmetic, operands, results, code };
        return Ok((Kernel::Row(kernel), false));
    }
    if line.accept("copy ") {
        let lines = line.size()?;
        line.expect("lines")?;
        line.expect("{")?;
        return Ok((Kernel::Copy(CopyKernel { name, lines, parts: Vec::new() }), false));
    }
    if !line.accept("anchor ") {
        return Err(format!("expected `rows`, `anchor` or `copy`{}", line.found()));
    }
    let op = line.word()?;
    let attributes = if line.is("{") { "" } else { line.braces()? };
    line.expect("{")?;
    let op = parse_op(&format!("{op} {attributes}")).map_err(|fault| fault.message)?;
    let anchor = Anchor::of(&op).ok_or_else(|| format!("{} is not an anchor", op.name()))?;
    let kernel = AnchorKernel { name, parts: 0, ..AnchorKernel::plain(anchor, 0) };
    Ok((Kernel::Anchor(kernel), false))
}

/// Reads a further line of a kernel.
pub(crate) fn further(mut kernel: Kernel, line: &mut Line<'_>) -> Read<Begun> {
    let complete = line.accept("}");
    match &mut kernel {
        Kernel::Anchor(kernel) if complete && kernel.parts == 0 => {
            return Err("expected what the kernel computes, found `}`".to_owned());
        }
        _ if complete => {}
        Kernel::Row(kernel) => row(kernel, line)?,
        Kernel::Anchor(kernel) => part(kernel, line)?,
        Kernel::Copy(kernel) => kernel.parts.push(copied(line)?),
        // Their first line is all.
        Kernel::Gather | Kernel::Fill(_) => unreachable!(),
    }
    Ok((kernel, complete))
}

/// The kernel of an op that fills its result.
pub(crate) fn filled(text: &str) -> Read<Kernel> {
    let op = parse_op(text).map_err(|fault| fault.message)?;
    let fill = Fill::of(&op).ok_or_else(|| format!("{} fills nothing", op.name()))?;
    Ok(Kernel::Fill(fill))
}

/// `zeros: 8` or `a0 from 16: 4 by 96, 96 by 1`.
fn copied(line: &mut Line<'_>) -> Read<Part> {
    if line.accept("zeros:") {
        return Ok(Part::Zeros(line.size()?));
    }
    let operand = numbered(line, "a")?;
    line.expect("from")?;
    let offset = line.size()?;
    let mut axes = Axes::new();
    let mut more = line.accept(":");
    while more {
        if axes.len() > MOST_AXES {
            return Err(format!("a part of more than {MOST_AXES} axes"));
        }
        let size = line.size()?;
        line.expect("by")?;
        axes.push((size, line.size()?));
        more = line.accept(",");
    }
    Ok(Part::Strided { operand, offset, axes })
}

/// `letter` and a number, in one word.
fn numbered(line: &mut Line<'_>, letter: &str) -> Read<usize> {
    let fault = |found: String| format!("expected {letter} and a number{found}");
    let at = line.found();
    let word = line.word().map_err(|_| fault(at.clone()))?;
    let digits = word.strip_prefix(letter).ok_or_else(|| fault(at.clone()))?;
    let mut digits = Line::new(digits);
    let number = digits.size().map_err(|_| fault(at.clone()))?;
    if digits.end().is_err() { Err(fault(at)) } else { Ok(number) }
}

fn register(line: &mut Line<'_>) -> Read<Register> {
    let number = numbered(line, "v")?;
    Register::try_from(number).map_err(|_| format!("there is no register v{number}"))
}

fn row(kernel: &mut RowKernel, line: &mut Line<'_>) -> Read<()> {
    for (word, letter, types) in
        [("in ", "a", &mut kernel.operands), ("out ", "y", &mut kernel.results)]
    {
        if line.accept(word) {
            let number = numbered(line, letter)?;
            if number != types.len() {
                return Err(format!("expected {letter}{}, the next one", types.len()));
            }
            if !kernel.code.is_empty() {
                return Err("operands and results stand before the program".to_owned());
            }
            line.expect(":")?;
            types.push(line.ty()?);
            return Ok(());
        }
    }
    if kernel.code.len() >= MOST_INSTRUCTIONS {
        return Err(format!("a kernel of more than {MOST_INSTRUCTIONS} instructions"));
    }
    if line.peek("y") {
        let result = numbered(line, "y")?;
        let place = stored(kernel, result);
        let left = place.split_once('[').map_or("", |(_, left)| left);
        line.expect(&format!("[{left}"))?;
        line.expect("=")?;
        let value = register(line)?;
        kernel.code.push(Instruction::Store { result, value });
        return Ok(());
    }
    let made = numbered(line, "v")?;
    if made != kernel.code.len() {
        return Err(format!("expected v{}, the next register", kernel.code.len()));
    }
    line.expect("=")?;
    let number = line.numbered("") || line.peek("-") || line.is("inf") || line.peek("nan");
    let instruction = if number {
        Instruction::Const(line.float()?)
    } else {
        let at = line.found();
        let word = line.word()?;
        if line.peek("[") {
            let mut word = Line::new(word);
            Instruction::Load(access(numbered(&mut word, "a")?, line)?)
        } else {
            function(word, &at, line)?
        }
    };
    kernel.code.push(instruction);
    Ok(())
}

/// `[96 + (i/4%3)*8 + j]`.
fn access(operand: usize, line: &mut Line<'_>) -> Read<Access> {
    line.expect("[")?;
    let mut offset = 0;
    let mut rows = None;
    if line.numbered("") {
        let number = line.size()?;
        if line.accept("+") {
            offset = number;
        } else if number == 0 {
            rows = Some(RowMap::Fixed);
        } else {
            return Err(format!("expected `+` behind the offset{}", line.found()));
        }
    }
    let rows = match rows {
        Some(rows) => rows,
        None => row_map(line)?,
    };
    line.expect("*")?;
    let stride = line.size()?;
    line.expect("+")?;
    let columns = if line.accept("0") {
        Columns::One
    } else {
        line.expect("j")?;
        match () {
            () if line.accept("%") => Columns::Every(line.size()?),
            () if line.accept("*") => Columns::Step(line.size()?),
            () => Columns::All,
        }
    };
    line.expect("]")?;
    Ok(Access { operand, rows, columns, offset, stride })
}

/// `0`, `i`, `(i/4)`, `(i%3)`, `(i/4%3)` or `a2[i]`.
fn row_map(line: &mut Line<'_>) -> Read<RowMap> {
    if line.accept("0") {
        return Ok(RowMap::Fixed);
    }
    if line.accept("i") {
        return Ok(RowMap::OWN);
    }
    if line.accept("(") {
        line.expect("i")?;
        let divisor = if line.accept("/") { line.size()? } else { 1 };
        let modulus = if line.accept("%") { line.size()? } else { usize::MAX };
        line.expect(")")?;
        return Ok(RowMap::Affine { divisor, modulus });
    }
    if !line.peek("a") {
        return Err(format!("expected the row as `0`, `i`, `(i/2%3)` or `a1[i]`{}", line.found()));
    }
    let segments = numbered(line, "a")?;
    line.expect("[i]")?;
    Ok(RowMap::Segment(segments))
}

/// `add(v1, v2)`; `word` is the name, `at` where it stood.
fn function(word: &str, at: &str, line: &mut Line<'_>) -> Read<Instruction> {
    line.expect("(")?;
    let mut reads: SmallVec<[Register; 3]> = SmallVec::new();
    loop {
        reads.push(register(line)?);
        if reads.len() > 3 || !line.accept(",") {
            break;
        }
    }
    line.expect(")")?;
    let found = FUNCTIONS.iter().find(|(name, _)| name == word);
    let missing = || format!("expected a function, a load or a number{at}");
    let (_, mut instruction) = found.cloned().ok_or_else(missing)?;
    let registers = instruction.registers();
    if registers.len() != reads.len() {
        let (count, given) = (registers.len(), reads.len());
        return Err(format!("{word} takes {count} registers, found {given}"));
    }
    registers.into_iter().zip(reads).for_each(|(to, from)| *to = from);
    Ok(instruction)
}

/// `y0 = a3 + gelu(linear(a0, a1, a2)) * a4[a5[i]*8 + j]`. The first line says what all parts are.
fn part(kernel: &mut AnchorKernel, line: &mut Line<'_>) -> Read<()> {
    let part = kernel.parts;
    let text = line.rest();
    if part == 0 {
        let mut line = Line::new(text);
        first_part(kernel, &mut line)?;
        line.end()?;
    } else if kernel.combine != Combine::Store {
        return Err("a kernel of several parts combines nothing".to_owned());
    }
    kernel.parts += 1;
    let expected = part_line(kernel, part);
    match text == expected {
        true => Ok(()),
        false => Err(format!("expected `{expected}`")),
    }
}

/// `[t,h/2,w/2,c]`.
fn load(line: &mut Line<'_>) -> Read<Load> {
    line.expect("[")?;
    let mut factors = [1; 3];
    for (factor, name) in factors.iter_mut().zip(["t", "h", "w"]) {
        line.expect(name)?;
        if line.accept("/") {
            *factor = line.size()?;
        }
        line.expect(",")?;
    }
    line.expect("c]")?;
    Ok(Load::Nearest(factors))
}

/// `bf16(`, the beginning of a rounding.
fn rounding(line: &mut Line<'_>) -> Option<DType> {
    DType::ALL.into_iter().find(|dtype| line.accept(&format!("{}(", dtype.name())))
}

fn first_part(kernel: &mut AnchorKernel, line: &mut Line<'_>) -> Read<()> {
    line.expect("y0")?;
    for _ in 1..kernel.anchor.results() {
        line.expect(",")?;
        numbered(line, "y")?;
    }
    line.expect("=")?;
    if line.numbered("a") {
        numbered(line, "a")?;
        line.expect("+")?;
        kernel.combine = Combine::Add;
    }
    let outer = rounding(line);
    let act = |f: &Activation| line.accept(&format!("{}(", f.name()));
    kernel.activation = Activation::ALL.into_iter().find(act);
    (kernel.activated, kernel.sums) = match kernel.activation {
        Some(_) => (outer, rounding(line)),
        None => (None, outer),
    };
    line.expect(kernel.anchor.name())?;
    line.expect("(")?;
    loop {
        numbered(line, "a")?;
        if kernel.arity == 0 && line.peek("[") {
            kernel.load = load(line)?;
        }
        kernel.arity += 1;
        if !line.accept(",") {
            break;
        }
    }
    line.expect(")")?;
    let functions =
        [kernel.sums.is_some(), kernel.activation.is_some(), kernel.activated.is_some()];
    for _ in functions.into_iter().filter(|there| *there) {
        line.expect(")")?;
    }
    if kernel.combine == Combine::Add && line.accept("*") {
        numbered(line, "a")?;
        line.expect("[")?;
        let mut offset = 0;
        if line.numbered("") {
            offset = line.size()?;
            line.expect("+")?;
        }
        numbered(line, "a")?;
        line.expect("[i]*")?;
        let stride = line.size()?;
        line.expect("+")?;
        line.expect("j]")?;
        kernel.combine = Combine::GateAdd { offset, stride };
    }
    Ok(())
}

#[cfg(test)]
mod tests;
