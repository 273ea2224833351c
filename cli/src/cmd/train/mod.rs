//! `train`: adapters, preferences and whole networks from a file of settings.
//!
//! The library checks, trains and saves; here are progress, the report, and the signal that ends a run
//! behind the sample that it is at.

pub mod args;
pub mod stages;

use crate::interrupt;
use crate::output::{self, bytes, count, duration, plural};
use crate::progress::Progress;
use crate::render::Failure;
use anyid_runtime::training::{
    Again, Alike, Event, GOES_ON, Kind, Memory, Outlook, Report, Settings, Training, stands,
};
use anyid_runtime::{Cancel, Result};
use args::{CheckArgs, SettingsArgs, Train, TrainArgs};
use serde_json::json;
use std::time::Instant;

/// Runs the verb.
///
/// # Errors
/// E0955 and E0956 for the settings, and those of [`Training::run`].
pub fn run(args: Train) -> std::result::Result<(), Failure> {
    // Until the folder of a run is known.
    interrupt::leaves(|| "nothing was done yet: give the same command again".to_owned());
    match args {
        Train::Lora(args) => train(Kind::Lora, &args),
        Train::Dpo(args) => train(Kind::Dpo, &args),
        Train::Full(args) => train(Kind::Full, &args),
        Train::Stages(args) => stages::run(&args),
        Train::Check(args) => check(&args),
    }
}

fn settings(args: &SettingsArgs, kind: Kind) -> Result<Settings> {
    Settings::open(&args.config, &args.overrides(), kind)
}

fn train(kind: Kind, args: &TrainArgs) -> std::result::Result<(), Failure> {
    let begun = Instant::now();
    let cancel = Cancel::new();
    // A call of the network may take minutes; it is never lost.
    interrupt::graceful_without_limit(cancel.flag());
    let settings = settings(&args.settings, kind)?;
    let folder = settings.run.folder.clone();
    let again = Again::Flag { given: args.resume };
    let stand = |begun: bool| {
        let folder = folder.clone();
        interrupt::leaves(move || stands(&folder, again, begun));
    };
    stand(false);
    let guards = &args.settings.policy.for_training()?;
    let backend = args.settings.on.open()?;
    let (resume, init_from) = (args.resume, args.init_from.clone());
    let (settings, backend, guards) = (&settings, &backend, Some(guards));
    let training = Training { kind, settings, backend, resume, init_from, guards };
    let mut progress = Progress::new();
    let report = training.run(&cancel, &mut |event| {
        if let Event::Begun { .. } = event {
            stand(true);
        }
        show(&mut progress, event);
    })?;
    progress.clear();
    interrupt::say_swept();
    match args.settings.json {
        true => output::print_json(&report_json(&report))?,
        false => output::print(&format!(
            "wrote {}: {} numbers trained for {} in {}{}{}, read back and compared\n",
            report.path.display(),
            count(report.parameters),
            plural(report.updates as usize, "update"),
            duration(begun.elapsed()),
            report.loss.map_or(String::new(), |loss| format!(", loss {loss:.4}")),
            report.validation.map_or(String::new(), |(best, base)| format!(
                ", validation {best:.4} (untrained {base:.4})"
            )),
        ))?,
    }
    Ok(())
}

fn report_json(report: &Report) -> serde_json::Value {
    json!({
        "path": report.path.to_string_lossy(), "updates": report.updates, "loss": report.loss,
        "parameters": report.parameters, "memory": memory_json(&report.memory),
        "peak_memory_bytes": output::peak_memory(),
        "validation": report.validation.map(|(best, base)| json!({"best": best, "base": base})),
    })
}

/// What a run holds, part by part.
fn memory_text(memory: &Memory) -> String {
    let Memory { program, weights, plans, vectors, samples, videos } = *memory;
    let parts = [
        ("program", program),
        ("weights", weights),
        ("plans", plans),
        ("vectors", vectors),
        ("samples", samples),
        ("videos", videos),
    ];
    let parts = parts.iter().filter(|(_, held)| *held > 0);
    let parts: Vec<String> = parts.map(|(name, held)| format!("{name} {}", bytes(*held))).collect();
    format!("peak memory {}: {}", bytes(memory.total()), parts.join(", "))
}

fn memory_json(memory: &Memory) -> serde_json::Value {
    json!({
        "program_bytes": memory.program, "weights_bytes": memory.weights,
        "plans_bytes": memory.plans, "vectors_bytes": memory.vectors,
        "samples_bytes": memory.samples, "videos_bytes": memory.videos,
        "total_bytes": memory.total(),
    })
}

fn check(args: &CheckArgs) -> std::result::Result<(), Failure> {
    let kind = match args.kind.as_str() {
        "dpo" => Kind::Dpo,
        "full" => Kind::Full,
        _ => Kind::Lora,
    };
    let cancel = Cancel::new();
    interrupt::graceful(cancel.flag());
    let settings = settings(&args.settings, kind)?;
    interrupt::leaves(|| GOES_ON.to_owned());
    let guards = &args.settings.policy.for_training()?;
    let backend = args.settings.on.open()?;
    let (settings, backend, guards) = (&settings, &backend, Some(guards));
    let training = Training { kind, settings, backend, resume: false, init_from: None, guards };
    let mut progress = Progress::new();
    let outlook = training.check(&cancel, &mut |event| show(&mut progress, event))?;
    progress.clear();
    match args.settings.json {
        true => output::print_json(&outlook_json(&outlook))?,
        false => output::print(&outlook_text(&outlook))?,
    }
    Ok(())
}

fn outlook_json(outlook: &Outlook) -> serde_json::Value {
    json!({
        "samples": outlook.samples, "excluded": outlook.excluded,
        "shapes": outlook.shapes.iter().map(|shape| json!({
            "what": shape.what, "reference_frames": shape.reference_frames,
            "samples": shape.samples,
            "tokens": shape.tokens, "together": shape.together,
            "workspace_bytes": shape.workspace_bytes, "kept": shape.kept,
        })).collect::<Vec<_>>(),
        "parameters": outlook.parameters, "bytes": outlook.memory.taken(),
        "memory": memory_json(&outlook.memory),
        "levels": outlook.levels.iter().map(|row| json!({
            "sigma": row.sigma, "share": row.share, "weight": row.weight,
        })).collect::<Vec<_>>(),
        "sheet": outlook.sheet.as_ref().map(|sheet| {
            json!({"path": sheet.path.to_string_lossy(), "psnr": sheet.psnr})
        }),
    })
}

fn outlook_text(outlook: &Outlook) -> String {
    let mut text = format!("{} to train on\n", plural(outlook.samples, outlook.unit));
    for (reason, count) in &outlook.excluded {
        text.push_str(&format!("{} left out: {reason}\n", plural(*count, outlook.unit)));
    }
    for shape in &outlook.shapes {
        text.push_str(&format!(
            "  {} with {}: {}{} at a time, workspace {}, keeping {}\n",
            plural(shape.samples, outlook.unit),
            shape.what,
            shape.tokens.map_or(String::new(), |tokens| format!("{tokens} tokens, ")),
            plural(shape.together, "clip"),
            bytes(shape.workspace_bytes),
            shape.kept,
        ));
    }
    text.push_str(&format!(
        "{} parameters; {}\n",
        count(outlook.parameters),
        memory_text(&outlook.memory)
    ));
    if !outlook.levels.is_empty() {
        text.push_str("noise levels drawn, with the mean weight of their loss:\n");
    }
    for row in &outlook.levels {
        let bar = "#".repeat((row.share * 60.0).round() as usize);
        let (from, to) = (row.sigma - 0.1, row.sigma);
        text.push_str(&format!("  {from:.1} to {to:.1}  {:5.2}  {bar}\n", row.weight));
    }
    if let Some(sheet) = &outlook.sheet {
        let psnr: Vec<String> = sheet.psnr.iter().map(|value| format!("{value:.1} dB")).collect();
        text.push_str(&format!(
            "targets after encoding and decoding: {}, shown beside reference and target in {}\n",
            psnr.join(", "),
            sheet.path.display()
        ));
    }
    text
}

/// Shows what the run reports.
fn show(progress: &mut Progress, event: Event) {
    let (done, total) = match event {
        Event::Checked { done, total } => {
            if done == 1 {
                progress.part("checking");
            }
            (done, total)
        }
        Event::Encoded { done, total } => {
            if done == 1 {
                progress.part("encoding");
            }
            (done, total)
        }
        Event::Warning(message) => return progress.warn(&message),
        Event::Noted(message) => return progress.note(&message),
        Event::Begun { parameters, samples, unit, memory, updates, total } => {
            let from = match updates {
                0 => String::new(),
                updates => format!(", {updates} done before"),
            };
            progress.note(&format!(
                "training {} parameters on {} for {}{from}",
                count(parameters),
                plural(samples, unit),
                plural(total as usize, "update"),
            ));
            progress.note(&memory_text(&memory));
            return progress.part("training");
        }
        Event::Updated { step, total, loss, norm, left } => {
            return progress.update(step, total, || {
                let rest = match step < total {
                    true => format!(", {} left", duration(left)),
                    false => String::new(),
                };
                format!("{step} of {total}, loss {loss:.4}, norm {norm:.3}{rest}")
            });
        }
        Event::Measured { step, loss, base } => {
            let line = format!("update {step}: validation {loss:.4} (untrained {base:.4})");
            return progress.note(&line);
        }
        Event::Sampled { step, path } => {
            return progress.note(&format!("update {step}: wrote {}", path.display()));
        }
        Event::Judged { step, right } => {
            let of = plural(right.cases as usize, "case");
            let line = format!("update {step}: the judge reads {} of {of} rightly", right.right);
            return progress.note(&line);
        }
        Event::Compared { step, alike } => {
            let Alike { holi, coverage, videos } = alike;
            let of = plural(videos, "video");
            let coverage = 100.0 * coverage;
            let line = match holi {
                Some(holi) => format!(
                    "update {step}: Holi {holi:.2} of {of}, faces in {coverage:.0} % of frames"
                ),
                None => format!("update {step}: no face is found in the references of any video"),
            };
            return progress.note(&line);
        }
        Event::Saved { step } => return progress.detail(&format!("update {step}: checkpoint")),
    };
    progress.update(done as u64, total as u64, || format!("{done} of {total}"));
}
