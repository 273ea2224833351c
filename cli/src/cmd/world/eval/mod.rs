//! `world eval`: what a model keeps of a person, on sets that it has never seen.
//!
//! A set is of one person. Every arm makes the set's clip, the judge reads it, and what it reads is
//! pooled over the sets, beside what it reads on the true clips.

pub mod args;
mod keep;
mod report;
mod run;

use crate::cmd::world::coded;
use crate::progress::Progress;
use crate::{interrupt, output, render};
use anyid_runtime::{Cancel, Error, Model, Result};
use anyid_world::{Painter, Sampling, Split, Trials, Visibility};
use args::{Arm, Eval, Weights};
use keep::Verdicts;
use run::{Case, Work};
use serde_json::{Value, json};

/// Most sets of an evaluation.
const MOST: u64 = 1_000_000;

/// Runs the verb.
///
/// # Errors
/// E0981 to E0988 for what cannot be evaluated, those of models, sizes and sampling, E1002 when it was
/// stopped.
pub fn run(args: &Eval) -> Result<()> {
    let arms = args.arms()?;
    let cases = cases(args)?;
    Painter::new(args.size).map_err(coded)?;
    let request = run::request(args)?;
    let models = models(&arms)?;
    for (_, model) in &models {
        request.check(model).map_err(|error| match error.code() {
            "E0901" => error.at(format!("--size {}", args.size)),
            "E0902" => error.at(format!("--frames {}", args.frames)),
            _ => error,
        })?;
    }
    warn(args, &models)?;
    let about = about(args, &arms, &models)?;
    let mut verdicts = Verdicts::open(args.keep.as_deref(), &about)?;
    let backend = args.on.open()?;
    let (cancel, mut progress) = (Cancel::new(), Progress::new());
    interrupt::graceful(cancel.flag());
    let (request, backend, cases) = (&request, &backend, &cases[..]);
    let work = Work { args, request, cases, backend, cancel: &cancel };
    work.run(&arms, models, &mut verdicts, &mut progress)?;
    progress.clear();
    let groups: Vec<u64> = cases.iter().map(|case| case.set.group.number()).collect();
    let table = report::Table::new(&args.set.world.version, &arms, &groups, &verdicts);
    match args.json {
        true => output::print_json(&table.json(&about)),
        false => output::print(&table.markdown()),
    }
}

/// The sets, each of one person, with its differential prompt.
///
/// # Errors
/// E0981 for people that there are not, E0986 for what else cannot be drawn.
fn cases(args: &Eval) -> Result<Vec<Case>> {
    if args.sets == 0 || args.sets > MOST {
        let message = format!("{} sets", args.sets);
        let help = format!("give 1 to {MOST}");
        return Err(Error::input("E0986", message).at("--sets").help(help));
    }
    let world = args.set.world.version;
    let mut found = Vec::new();
    let (mut visibility, mut group) = (Visibility::new(), args.first_group);
    while (found.len() as u64) < args.sets {
        if args.trials {
            let trial = Trials::default().of(&world, group, &mut visibility).map_err(coded)?;
            if let Some(trial) = trial {
                let set = trial.set(&world, anyid_world::Arm::Informative).map_err(coded)?;
                found.push((set, Some(trial)));
            }
        } else {
            let sampling = args.set.sampling(group..group.saturating_add(1))?;
            let sampling = Sampling { absolute: 0.0, ..sampling };
            let set = world.sample(&sampling, args.set.seed, group).map_err(coded)?;
            found.push((set, None));
        }
        group = group.saturating_add(1);
    }
    // Whose references are exchanged: those of the next set, and of the last one those of the first. A
    // single set takes the person behind it.
    let mut others: Vec<u64> = found.iter().map(|(set, _)| set.group.number()).collect();
    match others.len() {
        1 => others[0] = group,
        _ => others.rotate_left(1),
    }
    let mut out = Vec::new();
    for ((set, trial), other) in found.into_iter().zip(others) {
        out.push(Case { set, other: world.group(other).map_err(coded)?, trial });
    }
    Ok(out)
}

/// The models of the arms, each once.
fn models(arms: &[Arm]) -> Result<Vec<(Weights, Model)>> {
    let mut out: Vec<(Weights, Model)> = Vec::new();
    for arm in arms {
        if out.iter().all(|(weights, _)| *weights != arm.weights) {
            out.push((arm.weights.clone(), run::open(&arm.weights)?));
        }
    }
    Ok(out)
}

fn warn(args: &Eval, models: &[(Weights, Model)]) -> Result<()> {
    let split = Split::of(args.first_group).map_err(coded)?;
    if split != Split::HeldOut {
        render::warn(&format!(
            "group {} is of the split \"{}\": a model may have been trained with these people",
            args.first_group,
            split.name()
        ));
    }
    let warnings = models.iter().flat_map(|(_, model)| &model.warnings);
    warnings.for_each(|warning| render::warn(warning));
    Ok(())
}

/// What decides every verdict.
fn about(args: &Eval, arms: &[Arm], models: &[(Weights, Model)]) -> Result<Value> {
    let mut named = serde_json::Map::new();
    for arm in arms {
        let model = models.iter().find(|(weights, _)| *weights == arm.weights);
        let (_, model) = model.expect("every arm has its model");
        let mut prints = model.fingerprints()?.to_vec();
        prints.extend(model.adapters.iter().map(|(_, scale)| format!("adapter of {scale}")));
        named.insert(arm.name.clone(), json!({"model": model.source, "weights": prints}));
    }
    let set = &args.set;
    let forms = |list: &[crate::cmd::world::args::FormName]| -> Vec<&str> {
        list.iter().map(|name| anyid_world::ReferenceForm::from(*name).name()).collect()
    };
    Ok(json!({
        "world": set.world.version.to_string(), "seed": set.seed, "clips": set.clips,
        "references": [set.references.0, set.references.1],
        "primary_forms": forms(&set.primary_forms), "forms": forms(&set.forms),
        "first_group": args.first_group, "trials": args.trials, "sets": args.sets, "size": args.size,
        "frames": args.frames, "steps": args.steps, "shift": args.shift,
        "guidance": args.guidance, "solver": args.solver,
        "precision": args.precision.map(|name| anyid_models::wan::Precision::from(name).name()),
        "arms": named,
    }))
}
