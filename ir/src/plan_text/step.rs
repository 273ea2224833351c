//! A step as one line: `%2, %3 = k0 %0, %1 : …, …` for a kernel that stands above, with a place and
//! label a result, or `%2 = iota {axis=0} : workspace + 64 i32[8] "block/n"` for a fill or a gather.
//!
//! The only part of the plan's text that knows what a step holds.

use super::reader::Reader;
use crate::kernel::Kernel;
use crate::kernel::parse::filled;
use crate::line::{Line, Read, quoted};
use crate::plan::{BufferId, Plan, Step};
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

impl Reader {
    /// Reads a step's line.
    pub(super) fn step(&mut self, line: &mut Line<'_>) -> Read<()> {
        let results: SmallVec<[BufferId; 2]> = line.buffers()?;
        line.expect("=")?;
        let name = line.word()?;
        let operands = line.buffers()?;
        let number = name.strip_prefix('k').filter(|n| n.starts_with(|c: char| c.is_ascii_digit()));
        let kernel = match number {
            Some(digits) => {
                let mut digits = Line::new(digits);
                let index = digits.size()?;
                digits.end()?;
                Err(index)
            }
            None if name == "gather" => Ok(Kernel::Gather),
            None => Ok(filled(&format!("{name} {}", line.braces()?))?),
        };
        let (mut places, mut labels) = (Vec::new(), Vec::new());
        for at in 0..results.len().max(1) {
            line.expect(if at == 0 { ":" } else { "," })?;
            places.push(line.place("")?);
            labels.push(line.quoted()?);
        }
        if results.is_empty() {
            return Err("expected the results of a step".to_owned());
        }
        for (id, buffer) in results.iter().zip(places) {
            self.define(*id, buffer)?;
        }
        let kernel = kernel.or_else(|index| self.known(index))?;
        self.plan.steps.push(Step { kernel, operands, results, labels });
        Ok(())
    }
}
