//! What `generate` reports at the end, as text and as JSON.

use crate::output::{self, bytes, duration};
use anyid_runtime::media::writer::WrittenInfo;
use anyid_runtime::pipeline::{Finished, RunReport};
use serde_json::json;
use std::time::Duration;

pub(super) fn rate(written: &WrittenInfo) -> f64 {
    f64::from(written.rate.0) / f64::from(written.rate.1)
}

pub(super) fn report_text(finished: &Finished, report: &RunReport, total: Duration) -> String {
    let written = &finished.written;
    let mut out = format!(
        "wrote {}: {}, {}x{}, {}, {} frames a second, {}\n",
        written.path.display(),
        written.format,
        written.width,
        written.height,
        output::plural(written.frames, "frame"),
        rate(written),
        bytes(written.bytes)
    );
    if let Some(path) = &finished.recipe {
        out.push_str(&format!("recipe {}\n", path.display()));
    }
    if let Some(path) = &finished.latents {
        out.push_str(&format!("latents {}\n", path.display()));
    }
    let row = |cells: [String; 4]| cells.to_vec();
    let mut rows = vec![row(["phase", "time", "weights", "memory"].map(str::to_owned))];
    for phase in &report.phases {
        rows.push(row([
            phase.name.to_owned(),
            duration(phase.time),
            bytes(phase.weight_bytes),
            bytes(phase.plan_bytes),
        ]));
    }
    out.push_str(&output::table(&rows));
    let peak =
        output::peak_memory().map_or_else(String::new, |p| format!(", peak memory {}", bytes(p)));
    out.push_str(&format!("total {}{peak}\n", duration(total)));
    out
}

pub(super) fn report_json(
    finished: &Finished,
    report: &RunReport,
    total: Duration,
    warnings: &[String],
) -> serde_json::Value {
    let written = &finished.written;
    let phases: Vec<_> = report
        .phases
        .iter()
        .map(|phase| {
            json!({
                "name": phase.name,
                "seconds": phase.time.as_secs_f64(),
                "weight_bytes": phase.weight_bytes,
                "plan_bytes": phase.plan_bytes,
            })
        })
        .collect();
    json!({
        "output": {
            "path": written.path.to_string_lossy(),
            "format": written.format,
            "width": written.width,
            "height": written.height,
            "frames": written.frames,
            "fps": rate(written),
            "bytes": written.bytes,
        },
        "recipe": finished.recipe.as_ref().map(|p| p.to_string_lossy()),
        "latents": finished.latents.as_ref().map(|p| p.to_string_lossy()),
        "precision": report.precision.name(),
        "tokens": report.tokens,
        "phases": phases,
        "seconds": total.as_secs_f64(),
        "peak_memory_bytes": output::peak_memory(),
        "warnings": warnings,
    })
}
