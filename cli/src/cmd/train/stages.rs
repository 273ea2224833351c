//! `train stages`: runs one behind the other, with what each came to.

use super::args::StagesArgs;
use super::show;
use crate::interrupt;
use crate::output::{self, duration, plural};
use crate::progress::Progress;
use crate::render::Failure;
use anyid_runtime::Cancel;
use anyid_runtime::training::{Again, Event, StageEvent, StageReport, Stages, stands};
use serde_json::{Value, json};
use std::time::Instant;

/// Runs the stages of a file.
///
/// # Errors
/// As [`Stages::open`] and [`Stages::run`].
pub fn run(args: &StagesArgs) -> Result<(), Failure> {
    let begun = Instant::now();
    let cancel = Cancel::new();
    interrupt::graceful_without_limit(cancel.flag());
    interrupt::leaves(|| "the same command goes on where it was".to_owned());
    let stages = Stages::open(&args.config)?;
    let guards = args.policy.for_training()?;
    let backend = args.on.open()?;
    let mut progress = Progress::new();
    let mut at = String::new();
    let until = args.until.as_deref();
    let reports = stages.run(&backend, Some(&guards), until, &cancel, &mut |event| {
        leaves(&stages, &mut at, &event);
        show_stage(&mut progress, event);
    })?;
    progress.clear();
    interrupt::say_swept();
    let model = reports.last().map(|report| report.model.display().to_string());
    let model = model.unwrap_or_default();
    if args.json {
        let list: Vec<Value> = reports.iter().map(report_json).collect();
        return Ok(output::print_json(&json!({ "stages": list, "model": model }))?);
    }
    let before = reports.iter().filter(|report| report.skipped).count();
    let before = match before {
        0 => String::new(),
        before => format!(", {before} of them before"),
    };
    let (count, time) = (plural(reports.len(), "stage"), duration(begun.elapsed()));
    Ok(output::print(&format!("{model} is the model of {count}{before}, in {time}\n"))?)
}

/// Says what stands in the folder of a stage that begins, whose name is `at` then, if a signal ends the
/// program at once.
fn leaves(stages: &Stages, at: &mut String, event: &StageEvent<'_>) {
    let begun = match event {
        StageEvent::Begun { name, .. } => {
            (*name).clone_into(at);
            false
        }
        StageEvent::Training(Event::Begun { .. }) => true,
        _ => return,
    };
    let (folder, name) = (stages.folder.join(&at), at.clone());
    interrupt::leaves(move || format!("stage {name}: {}", stands(&folder, Again::Command, begun)));
}

/// Shows what stages report.
pub fn show_stage(progress: &mut Progress, event: StageEvent<'_>) {
    match event {
        StageEvent::Begun { name, number, total } => {
            progress.note(&format!("stage {name}, {number} of {total}"));
        }
        StageEvent::Skipped { name } => {
            progress.note(&format!("stage {name} was finished before"));
        }
        StageEvent::Training(event) => show(progress, event),
        StageEvent::Passed(measured) => progress.note(&format!("gate passed: {measured}")),
        StageEvent::Assembled { model } => progress.note(&format!("wrote {}", model.display())),
    }
}

fn report_json(report: &StageReport) -> Value {
    let gates = report.gates.iter().map(|measured| {
        json!({ "value": measured.gate.value, "step": measured.step, "found": measured.found })
    });
    json!({
        "name": report.name, "skipped": report.skipped, "updates": report.updates,
        "gates": gates.collect::<Vec<_>>(), "model": report.model.to_string_lossy(),
    })
}
