//! The memory that each phase of a run will take, shown before the run begins.
//!
//! Times are not shown: how long a phase takes is known, and reported, only after it has run.

use crate::output::{self, bytes};
use crate::recipe::Recipe;
use anyid_runtime::Backend;
use anyid_runtime::engine::available_memory;
use anyid_runtime::pipeline::{PhasePlan, TilePlan};
use serde_json::{Value, json};
use std::path::Path;

/// Runs that take this much memory show the table without being asked.
pub(super) const WORTH_SAYING: u64 = 1 << 30;

fn most(phases: &[PhasePlan], of: fn(&PhasePlan) -> u64) -> u64 {
    phases.iter().map(of).max().unwrap_or(0)
}

/// A number of operations with a suitable unit.
fn work(flops: u64) -> String {
    let units = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let unit = units.into_iter().find(|(size, _)| flops as f64 >= *size);
    unit.map_or_else(
        || flops.to_string(),
        |(size, name)| format!("{:.1} {name}", flops as f64 / size),
    )
}

/// Whether a phase works otherwise than it would with more memory.
pub(super) fn changed(phases: &[PhasePlan]) -> bool {
    phases.iter().any(|phase| change(phase).is_some())
}

/// What is done so that a phase fits, in words.
fn change(phase: &PhasePlan) -> Option<String> {
    let name = phase.name;
    if phase.streamed_bytes > 0 {
        let [moved, held] = [phase.streamed_bytes, phase.weight_bytes].map(bytes);
        return Some(format!(
            "{name}: {held} of weights are held, {moved} are read again in every evaluation; \
             the result has the same bits"
        ));
    }
    let TilePlan { grid: [across, down], pixels: [width, height], overlap } = phase.tiles?;
    Some(format!(
        "{name}: {across}x{down} tiles of {width}x{height} that overlap by {overlap} pixels; \
         the result differs slightly from that without tiles"
    ))
}

/// The table as text.
pub(super) fn text(phases: &[PhasePlan], backend: &Backend) -> String {
    let head = ["phase", "operations", "weights", "plan", "kept values", "pixels", "held"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for phase in phases {
        let mut row = vec![phase.name.to_owned(), work(phase.flops)];
        row.extend(
            [
                phase.weight_bytes.saturating_add(phase.loaded_bytes),
                phase.plan_bytes,
                phase.kept_bytes,
                phase.pixel_bytes,
                phase.held_bytes(),
            ]
            .map(bytes),
        );
        rows.push(row);
    }
    let changes: String = phases.iter().flat_map(change).map(|line| format!("{line}\n")).collect();
    let free = |bytes: Option<u64>| {
        bytes.map_or_else(String::new, |room| format!(" of {} available", output::bytes(room)))
    };
    let room = free(available_memory());
    let peak = match phases.iter().any(|phase| phase.apart) {
        false => format!("{}{room}", bytes(most(phases, PhasePlan::held_bytes))),
        true => format!(
            "{}{} on {}, and {}{room} in the process",
            bytes(most(phases, PhasePlan::device_bytes)),
            free(backend.free_bytes()),
            backend.about().name,
            bytes(most(phases, PhasePlan::process_bytes)),
        ),
    };
    format!(
        "{}{changes}peak memory: {peak}; the time is not known before the first step\n",
        output::table(&rows),
    )
}

/// The table as JSON.
pub(super) fn json(
    made: &Recipe,
    phases: &[PhasePlan],
    backend: &Backend,
    output: &Path,
    warnings: &[String],
) -> Value {
    let phase = |phase: &PhasePlan| {
        json!({
            "name": phase.name,
            "flops": phase.flops,
            "seconds": Value::Null,
            "weight_bytes": phase.weight_bytes,
            "plan_bytes": phase.plan_bytes,
            "kept_bytes": phase.kept_bytes,
            "pixel_bytes": phase.pixel_bytes,
            "loaded_bytes": phase.loaded_bytes,
            "streamed_bytes": phase.streamed_bytes,
            "tiles": phase.tiles.map(|TilePlan { grid, pixels, overlap }| {
                json!({ "grid": grid, "pixels": pixels, "overlap": overlap })
            }),
            "held_bytes": phase.held_bytes(),
            "device_bytes": phase.device_bytes(),
            "process_bytes": phase.process_bytes(),
        })
    };
    json!({
        "dry_run": true,
        "output": output.to_string_lossy(),
        "phases": phases.iter().map(phase).collect::<Vec<_>>(),
        "most_held_bytes": most(phases, PhasePlan::held_bytes),
        "available_bytes": available_memory(),
        "device_available_bytes": backend.free_bytes(),
        "run": made.to_json(),
        "warnings": warnings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_has_a_unit_that_suits_it() {
        for (flops, text) in [(12, "12"), (1_500, "1.5 k"), (2_500_000_000, "2.5 G")] {
            assert_eq!(work(flops), text);
        }
        assert_eq!(work(u64::MAX), "18446.7 P");
    }
}
