//! A step as one line: `%2, %3 = k0 %0, %1 : …, …` for a kernel that stands above, with a place and
//! label a result, or `%2 = iota {axis=0} : workspace + 64 i32[8] "block/n"` for a fill or a gather.
//!
//! The only part of the plan's text that knows what a step holds.

use crate::kernel::Kernel;
use crate::kernel::parse::filled;
use crate::line::{Line, Read, quoted};
use crate::plan::{Buffer, BufferId, Plan, Step};
use crate::text::op_text;
use smallvec::SmallVec;
use std::fmt::Write as _;

fn list(ids: &[BufferId]) -> String {
    ids.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", ")
}

/// Appends the line of `step`, whose kernel has this index if it stands above.
pub(super) fn write(plan: &Plan, step: &Step, kernel: Option<usize>, out: &mut String) {
    let (name, attributes) = match (kernel, &step.kernel) {
        (Some(index), _) => (format!("k{index}"), String::new()),
        (None, Kernel::Fill(fill)) => {
            let (name, attributes) = op_text(&fill.op());
            (name.to_owned(), attributes)
        }
        (None, Kernel::Gather) => (step.kernel.name().to_owned(), String::new()),
        (None, other) => unreachable!("{} stands among the kernels", other.name()),
    };
    let space = if step.operands.is_empty() { "" } else { " " };
    let (results, operands) = (list(&step.results), list(&step.operands));
    let _ = write!(out, "  {results} = {name}{space}{operands}{attributes}");
    for (at, id) in step.results.iter().enumerate() {
        let buffer = plan.buffer(*id);
        let (before, label) = (if at == 0 { " :" } else { "," }, quoted(step.label_of(at)));
        let _ = write!(out, "{before} {} {} {label}", buffer.place_text(), buffer.ty);
    }
    out.push('\n');
}

/// What a step's line says.
pub(super) struct Launch {
    pub(super) kernel: Launched,
    pub(super) operands: SmallVec<[BufferId; 4]>,
    pub(super) results: SmallVec<[BufferId; 2]>,
    pub(super) labels: Vec<String>,
    /// Place of each result.
    pub(super) places: Vec<Buffer>,
}

/// What a step runs.
pub(super) enum Launched {
    /// A kernel that stands above, by index.
    Named(usize),
    /// A gather or a fill.
    Here(Kernel),
}

/// Reads a step's line.
pub(super) fn read(line: &mut Line<'_>) -> Read<Launch> {
    let results: SmallVec<[BufferId; 2]> = line.buffers()?;
    line.expect("=")?;
    let name = line.word()?;
    let operands = line.buffers()?;
    let digits =
        name.strip_prefix('k').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let kernel = match digits {
        Some(digits) => {
            let mut digits = Line::new(digits);
            let index = digits.size()?;
            digits.end()?;
            Launched::Named(index)
        }
        None if name == "gather" => Launched::Here(Kernel::Gather),
        None => Launched::Here(filled(&format!("{name} {}", line.braces()?))?),
    };
    let (mut places, mut labels) = (Vec::new(), Vec::new());
    for at in 0..results.len().max(1) {
        line.expect(if at == 0 { ":" } else { "," })?;
        places.push(line.place("")?);
        labels.push(line.quoted()?);
    }
    Ok(Launch { kernel, operands, results, labels, places })
}
