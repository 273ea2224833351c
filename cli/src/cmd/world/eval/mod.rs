//! `world eval`: what a model keeps of a person, on sets that it has never seen.
//!
//! A set is of one person. Every arm makes the set's clip, the judge reads it, and what it reads is
//! pooled over the sets, beside what it reads on the true clips.

pub mod args;
mod judges;
mod keep;
mod report;
mod run;

use crate::cmd::generate::opened::existing;
use crate::cmd::world::clips::{Clips, Told, Weights, prints};
use crate::cmd::world::makers::{Worker, workers};
use crate::cmd::world::{coded, open_picture, said, write_picture};
use crate::progress::Progress;
use crate::{interrupt, output, render};
use anyid_runtime::checkpoint::hash_file;
use anyid_runtime::files::AtomicFile;
use anyid_runtime::media::RgbFrame;
use anyid_runtime::{Backend, Cancel, Error, Model, Result, Size, judge};
use anyid_world::{Sampling, Set, Split, Trials, Visibility, sheet, sheet_sides};
use args::{Arm, Eval};
use judges::{Judges, LEARNED, Learned};
use keep::Verdicts;
use report::Table;
use run::{Case, Out, Shown, Work};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Most sets of an evaluation.
const MOST: u64 = 1_000_000;

/// Runs the verb.
///
/// # Errors
/// As [`measure`].
pub fn run(args: &Eval) -> Result<()> {
    let (cancel, mut progress) = (Cancel::new(), Progress::new());
    interrupt::graceful(cancel.flag());
    let outcome = measure(args, &cancel, &mut progress)?;
    progress.clear();
    match args.json {
        true => output::print_json(&outcome.json),
        false => output::print(&outcome.markdown),
    }
}

/// What an evaluation came to.
pub struct Outcome {
    /// The estimates as one object.
    pub json: Value,
    /// The estimates as tables.
    pub markdown: String,
}

/// Has the arms make their clips, and judges them.
///
/// # Errors
/// E0981 to E0988 for what cannot be evaluated, those of models, sizes and sampling, E0997 and E0998 for a
/// trained judge, E1002 when it was stopped.
pub fn measure(args: &Eval, cancel: &Cancel, progress: &mut Progress) -> Result<Outcome> {
    let arms = args.arms()?;
    let cases = cases(args)?;
    let request = args.made.request()?;
    let models = models(&arms)?;
    args.made.check_size(models.iter().map(|(_, model)| model))?;
    for (_, model) in &models {
        args.made.check(&request, model)?;
    }
    let mut told = Told(warn(args, &models)?);
    let judges = |backend: &_| Ok(Judges::new(args.set.world.version, learned(args, backend)?));
    let mut workers = workers(&models, &args.on, (cases.len(), args.made.size), &judges)?;
    let (about, weights) = (about(args, &workers), weights(&arms, &models)?);
    let shown = if args.sheet.is_some() { cases.len().min(ROWS) } else { 0 };
    let picture = picture(args, &cases[..shown], arms.len())?;
    let mut verdicts = Verdicts::open(args.keep.as_deref(), &about, &weights)?;
    let clips = Clips { made: &args.made, request: &request, cancel };
    let work = Work { args, clips, cases: &cases, shown };
    let out = Out { verdicts: &mut verdicts, progress: &mut *progress, told: &mut told };
    let frames = work.run(&arms, models, &mut workers, out)?;
    progress.clear();
    if let Some(file) = picture {
        let names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
        let (path, _) = write_picture(file, &show(args, &cases[..shown], &names, frames)?)?;
        let names = names.join(", ");
        let path = path.display();
        output::note(&format!("wrote {path}: references, the true clip, and {names}"));
    }
    let groups: Vec<u64> = cases.iter().map(|case| case.set.group.number()).collect();
    let world = args.set.world.version;
    let table = |judge| Table::new(&world, &arms, &groups, (&verdicts, judge));
    let own = table("");
    let (mut json, mut markdown) = (own.json(), own.markdown());
    json["about"] = about;
    json["weights"] = weights.into_iter().collect();
    json["sets"] = groups.len().into();
    if args.judge.is_some() {
        let learned = table(LEARNED);
        json["learned"] = learned.json();
        markdown.push_str(&format!("\nBy the trained judge:\n\n{}", learned.markdown()));
    }
    Ok(Outcome { json, markdown })
}

/// The trained judge, if there is one.
fn learned(args: &Eval, backend: &Backend) -> Result<Option<Learned>> {
    let Some(path) = &args.judge else { return Ok(None) };
    let (width, height) = (args.made.size, args.made.size);
    let size = Size { width, height, frames: args.made.frames.min(2) };
    Learned::open(path, args.set.world.version, size, backend).map(Some)
}

/// What decides the weights of the arms that are asked for, and of the trained judge.
///
/// # Errors
/// E0987 for arms that there are not, and those of models and judges.
pub fn models_are(args: &Eval) -> Result<Value> {
    let arms = args.arms()?;
    let weights = weights(&arms, &models(&arms)?)?;
    let mut found: serde_json::Map<_, _> = weights.into_iter().collect();
    if let Some(path) = &args.judge {
        found.insert("judge".to_owned(), hash_file(judge::file(path))?.into());
    }
    Ok(found.into())
}

/// The sets, each of one person, with its differential prompt.
///
/// # Errors
/// E0981 for people that there are not, E0986 for what else cannot be drawn.
pub fn cases(args: &Eval) -> Result<Vec<Case>> {
    if args.sets == 0 || args.sets > MOST {
        let message = format!("the number of sets cannot be {}", args.sets);
        let place = format!("--sets {}", args.sets);
        return Err(Error::input("E0986", message).at(place).help(format!("give 1 to {MOST}")));
    }
    let world = args.set.world.version;
    let place = format!("--first-group {} --sets {}", args.first_group, args.sets);
    let mut found = Vec::new();
    let (mut visibility, mut group) = (Visibility::new(), args.first_group);
    while (found.len() as u64) < args.sets {
        if args.trials {
            let trial = Trials::default().of(&world, group, &mut visibility);
            let trial = trial.map_err(said(&place))?;
            if let Some(trial) = trial {
                let set = trial.set(&world, anyid_world::Arm::Informative).map_err(coded)?;
                found.push((set, Some(trial)));
            }
        } else {
            let sampling = args.set.sampling(group..group.saturating_add(1));
            let sampling = sampling.map_err(|error| error.at(&place))?;
            let sampling = Sampling { absolute: 0.0, ..sampling };
            let set = world.sample(&sampling, args.set.seed, group).map_err(coded)?;
            found.push((set, None));
        }
        group = group.saturating_add(1);
    }
    let case = |(set, trial): (Set, _)| {
        // Whose references are exchanged takes those of the person with the next number.
        let other = world.group(set.group.number() + 1).map_err(said(&place))?;
        Ok(Case { set, other, trial })
    };
    found.into_iter().map(case).collect()
}

/// The file of the picture, if one is wanted and there is room for it.
///
/// # Errors
/// E0984 for more pixels than a sheet may have, E0820 for a name of no PNG file, E1010 to E1016 where
/// it cannot be written.
fn picture(args: &Eval, cases: &[Case], arms: usize) -> Result<Option<AtomicFile>> {
    let Some(path) = &args.sheet else { return Ok(None) };
    let longest = cases.iter().map(|case| case.set.references.len()).max().unwrap_or(0);
    let across = longest + (1 + PICTURES) * (1 + arms);
    let sides = sheet_sides(across, cases.len(), args.made.size, GAP);
    sides.map_err(said(format!("--size {}", args.made.size)))?;
    let file = open_picture(path, existing(args.force))?;
    interrupt::say_swept();
    Ok(Some(file))
}

/// Places in a row of the picture of each clip, behind a gap.
const PICTURES: usize = 2;
/// White pixels between frames.
const GAP: usize = 2;
/// Sets that are shown.
const ROWS: usize = 8;

/// The picture: a row for each set, references of all sets in as many places.
fn show(args: &Eval, cases: &[Case], arms: &[&str], mut frames: Shown) -> Result<RgbFrame> {
    let longest = cases.iter().map(|case| case.set.references.len()).max().unwrap_or(0);
    let mut rows = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let mut row = case.set.row(args.made.size).map_err(coded)?;
        let references = case.set.references.len();
        row.splice(references..references, vec![Vec::new(); longest - references]);
        for arm in arms {
            let mut own = frames.remove(&((*arm).to_owned(), at)).unwrap_or_default();
            own.resize(PICTURES, Vec::new());
            row.push(Vec::new());
            row.extend(own);
        }
        rows.push(row);
    }
    let picture = sheet(&rows, args.made.size, GAP).map_err(coded)?;
    Ok(RgbFrame { width: picture.width, height: picture.height, data: picture.pixels })
}

/// The models of the arms, each once.
fn models(arms: &[Arm]) -> Result<Vec<(Weights, Model)>> {
    let mut out: Vec<(Weights, Model)> = Vec::new();
    for arm in arms {
        if out.iter().all(|(weights, _)| *weights != arm.weights) {
            out.push((arm.weights.clone(), arm.weights.open()?));
        }
    }
    Ok(out)
}

/// Prints what is odd about people and models; gives what was said of models, so that it is said once.
fn warn(args: &Eval, models: &[(Weights, Model)]) -> Result<BTreeSet<String>> {
    let place = format!("--first-group {}", args.first_group);
    let split = Split::of(args.first_group).map_err(said(place))?;
    if split != Split::HeldOut {
        render::warn(&format!(
            "group {} is of the split \"{}\": a model may have been trained with these people",
            args.first_group,
            split.name()
        ));
    }
    let mut told = BTreeSet::new();
    for warning in models.iter().flat_map(|(_, model)| &model.warnings) {
        if told.insert(warning.clone()) {
            render::warn(warning);
        }
    }
    Ok(told)
}

/// How sets are drawn, clips made, and what judges them besides.
fn about(args: &Eval, workers: &[Worker<Judges>]) -> Value {
    let learned = workers.iter().find_map(|worker| worker.judge.learned());
    let mut about = args.set.about();
    about.extend(args.made.about());
    about.insert("trials".to_owned(), args.trials.into());
    // Verdicts that were kept with another judge are of use without one.
    about.extend(learned.map(|judge| ("judge".to_owned(), judge.fingerprint().into())));
    about.into()
}

/// What decides the weights of each arm.
fn weights(arms: &[Arm], models: &[(Weights, Model)]) -> Result<Vec<(String, Value)>> {
    let mut out = Vec::new();
    for arm in arms {
        let model = models.iter().find(|(weights, _)| *weights == arm.weights);
        let (_, model) = model.expect("every arm has its model");
        out.push((arm.name.clone(), json!(prints(model)?)));
    }
    Ok(out)
}
