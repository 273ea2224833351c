//! The results of measuring a network, as text and as JSON.

use super::duration_small;
use super::measure::{Measured, Shown};
use super::profile::Profile;
use crate::output::{bytes, plural, table};
use crate::page::{Page, machine};
use anyid_passes::cost::Cost;
use anyid_runtime::files::AtomicFile;
use anyid_runtime::{Backend, Result};
use serde_json::{Value, json};

/// Largest number of steps of a profile that are listed.
const MOST_STEPS: usize = 20;

/// For people.
pub fn text(found: &Measured) -> String {
    let peak = &found.ceilings;
    let bf16 = peak.bf16_gflops.map_or("none (f32 is used)".into(), |g| format!("{g:.0} GFLOP/s"));
    let mut out = format!(
        "{}, {}\n{}, {}; measured peak: f32 {:.0} GFLOP/s, bf16 {bf16}, copy {:.1} GB/s\n",
        found.title,
        found.precision.name(),
        plural(peak.threads, "thread"),
        found.instructions,
        peak.f32_gflops,
        peak.copy_gb_per_second,
    );
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let memory = &found.memory;
    let mut rows = vec![
        row("median", duration_small(found.median())),
        row("shortest", duration_small(found.times[0].as_secs_f64())),
        row("rate", format!("{:.0} GFLOP/s", found.gflops())),
        row("of peak", format!("{:.0} %", found.share() * 100.0)),
        row("launches", found.launches().to_string()),
        row("weights", bytes(memory.weights)),
        row("workspace", bytes(memory.workspace)),
        row("persistent", bytes(memory.persistent)),
        row("kernel scratch", bytes(memory.scratch)),
        row("inputs and outputs", bytes(memory.ports)),
        row("planned", bytes(memory.planned())),
    ];
    if let Some(taken) = found.processor {
        let taken = taken.as_secs_f64();
        let share = taken / (found.median() * peak.threads as f64) * 100.0;
        rows.insert(2, row("processor", format!("{} ({share:.0} %)", duration_small(taken))));
    }
    if let (Some(loading), Some(running)) = (memory.loading, memory.running) {
        rows.push(row("process while loading", bytes(loading)));
        rows.push(row("process while running", bytes(running)));
        rows.push(row("over the plan", over(running, memory.planned())));
    }
    out.push_str(&table(&rows));
    if let Some(profile) = &found.profile {
        out.push_str(&profile_text(profile));
    }
    out
}

/// `+12.0 MiB (+1.5 %)`.
fn over(peak: u64, planned: u64) -> String {
    let sign = if peak >= planned { '+' } else { '-' };
    let apart = peak.abs_diff(planned);
    let share = apart as f64 / planned.max(1) as f64 * 100.0;
    format!("{sign}{} ({sign}{share:.1} %)", bytes(apart))
}

/// Operations per second, or bytes per second if there are no operations.
fn rate(cost: Cost, seconds: f64) -> String {
    if seconds <= 0.0 {
        return String::new();
    }
    match cost.flops {
        0 => format!("{:.1} GB/s", cost.bytes as f64 / seconds * 1e-9),
        flops => format!("{:.0} GFLOP/s", flops as f64 / seconds * 1e-9),
    }
}

fn profile_text(profile: &Profile) -> String {
    let groups = profile.groups();
    let total: f64 = groups.iter().map(|group| group.time.as_secs_f64()).sum();
    let share = |seconds: f64| format!("{:.1} %", seconds / total.max(1e-12) * 100.0);
    let head = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut rows = vec![head(&["kind", "launches", "time", "share", "rate"])];
    for group in &groups {
        let seconds = group.time.as_secs_f64();
        rows.push(vec![
            group.kind.clone(),
            group.launches.to_string(),
            duration_small(seconds),
            share(seconds),
            rate(group.cost, seconds),
        ]);
    }
    let mut out = format!("\n{}", table(&rows));
    let mut rows = vec![head(&["step", "kind", "type", "time", "share", "rate"])];
    for row in profile.rows().into_iter().take(MOST_STEPS) {
        let seconds = row.time.as_secs_f64();
        let calls = f64::from(row.calls.max(1));
        rows.push(vec![
            format!("{} {}", row.phase, row.label),
            row.kind,
            row.ty,
            duration_small(seconds),
            share(seconds),
            rate(row.cost, seconds / calls),
        ]);
    }
    out.push_str(&format!("\n{}", table(&rows)));
    out
}

/// Writes the page of a measurement.
///
/// # Errors
/// E101x.
pub fn write_page(
    found: &Measured,
    shown: &Shown,
    backend: &Backend,
    file: AtomicFile,
) -> Result<()> {
    let machine = machine(&found.ceilings);
    let mut facts = vec![
        ("target", backend.target().to_owned()),
        ("threads", found.ceilings.threads.to_string()),
        ("instructions", found.instructions.clone()),
        ("precision", found.precision.name().to_owned()),
        ("median of the runs", duration_small(found.median())),
    ];
    if let Some(peak) = found.memory.running {
        facts.push(("process", bytes(peak)));
    }
    let page = Page {
        title: found.title.clone(),
        target: backend.target(),
        facts,
        plans: &shown.plans,
        watched: &shown.watched,
        machine: Some(&machine),
        origin: "measured here",
        measured: Some(&shown.times),
    };
    page.write(file)
}

/// For programs.
pub fn json(found: &Measured) -> Value {
    let mut settings = serde_json::Map::new();
    for (name, value) in &found.settings {
        settings.insert((*name).to_owned(), value.clone());
    }
    let phases: Vec<Value> = found
        .phases
        .iter()
        .map(|(phase, calls)| {
            json!({
                "name": phase.name,
                "calls": calls,
                "launches": phase.launches,
                "flops": phase.flops,
                "bytes_moved": phase.bytes_moved,
                "peak_bytes": phase.peak_bytes,
                "lower_bound_bytes": phase.lower_bound_bytes,
                "persistent_bytes": phase.persistent_bytes,
                "weights_resident_bytes": phase.weights_resident_bytes,
            })
        })
        .collect();
    let memory = &found.memory;
    let mut out = json!({
        "network": found.title,
        "precision": found.precision.name(),
        "settings": settings,
        "threads": found.ceilings.threads,
        "instructions": found.instructions,
        "repeats": found.times.len(),
        "seconds": found.median(),
        "shortest_seconds": found.times[0].as_secs_f64(),
        "processor_seconds": found.processor.map(|taken| taken.as_secs_f64()),
        "load_seconds": found.load.as_secs_f64(),
        "flops": found.flops(),
        "gflops": found.gflops(),
        "share_of_peak": found.share(),
        "launches": found.launches(),
        "peak": {
            "f32_gflops": found.ceilings.f32_gflops,
            "bf16_gflops": found.ceilings.bf16_gflops,
            "instructions": found.ceilings.instructions,
            "copy_gb_per_second": found.ceilings.copy_gb_per_second,
        },
        "memory": {
            "weights_bytes": memory.weights,
            "workspace_bytes": memory.workspace,
            "persistent_bytes": memory.persistent,
            "scratch_bytes": memory.scratch,
            "input_output_bytes": memory.ports,
            "planned_bytes": memory.planned(),
            "process_start_bytes": memory.start,
            "process_loading_bytes": memory.loading,
            "process_running_bytes": memory.running,
            "process_peak_bytes": memory.peak(),
        },
        "phases": phases,
        "digest": format!("{:016x}", found.digest),
    });
    if let Some(profile) = &found.profile {
        out["profile"] = profile_json(profile);
    }
    out
}

fn profile_json(profile: &Profile) -> Value {
    let kinds: Vec<Value> = profile
        .groups()
        .iter()
        .map(|group| {
            json!({
                "kind": group.kind,
                "launches": group.launches,
                "seconds": group.time.as_secs_f64(),
                "flops": group.cost.flops,
                "bytes": group.cost.bytes,
            })
        })
        .collect();
    let steps: Vec<Value> = profile
        .rows()
        .iter()
        .map(|row| {
            json!({
                "phase": row.phase,
                "name": row.label,
                "kind": row.kind,
                "type": row.ty,
                "calls": row.calls,
                "seconds": row.time.as_secs_f64(),
                "flops": row.cost.flops,
                "bytes": row.cost.bytes,
            })
        })
        .collect();
    json!({ "kinds": kinds, "steps": steps })
}
