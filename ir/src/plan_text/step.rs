//! A step as one line: `%2 = rms_norm %0, %1 {eps=1e-6} : workspace + 64 f32[2,8] "block/n"`.
//!
//! The only part of the plan's text that knows what a step holds.

use super::line::{Line, Read};
use super::{quoted, root};
use crate::kernel::Kernel;
use crate::plan::{Buffer, BufferId, Plan, Step};
use crate::text::{op_text, parse_op};
use std::fmt::Write as _;

fn list(ids: &[BufferId]) -> String {
    ids.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>().join(", ")
}

/// Appends the line of `step`.
pub(super) fn write(plan: &Plan, step: &Step, out: &mut String) {
    let (name, attributes) = match &step.kernel {
        Kernel::Op(op) => op_text(op),
        other => (other.name(), String::new()),
    };
    let _ = write!(out, "  {} = {name}", list(step.results()));
    if !step.reads().is_empty() {
        let _ = write!(out, " {}", list(step.reads()));
    }
    if !attributes.is_empty() {
        let _ = write!(out, " {attributes}");
    }
    let place = |id: &BufferId| {
        let buffer = plan.buffer(*id);
        format!("{} {}", root(buffer), buffer.ty)
    };
    let places: Vec<String> = step.results().iter().map(place).collect();
    let _ = writeln!(out, " : {} {}", places.join(", "), quoted(step.label()));
}

/// Reads a step's line and the places of its results.
pub(super) fn read(line: &mut Line<'_>) -> Read<(Step, Vec<(BufferId, Buffer)>)> {
    let result = line.buffer()?;
    line.expect("=")?;
    let name = line.word()?;
    let operands = line.buffers()?;
    let attributes = line.braces()?;
    let kernel = Kernel::Op(parse_op(&format!("{name} {attributes}")).map_err(|d| d.message)?);
    line.expect(":")?;
    let places = vec![(result, line.place()?)];
    let label = line.quoted()?;
    let results = smallvec::smallvec![result];
    Ok((Step { kernel, operands, results, labels: vec![label] }, places))
}
