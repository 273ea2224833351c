//! What tables show of a run: means of each system, by task and metric, with how many cases they are of.
//!
//! It depends on the results alone: neither the order of systems nor how the work was shared changes a
//! byte of it.

use crate::raw::{Case, Metric, Norm, Norms, Raw, Results, Task, schema};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The mean over what statistics count, each the mean over its seeds.
#[derive(Default)]
struct Mean<'r>(BTreeMap<&'r str, Vec<f64>>);

impl<'r> Mean<'r> {
    fn add(&mut self, unit: &'r str, value: Option<f64>) {
        self.0.entry(unit).or_default().extend(value);
    }

    /// How many there are, and their mean.
    fn of(&self) -> (usize, Option<f64>) {
        let mean = |values: &Vec<f64>| {
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let all: Vec<f64> = self.0.values().filter_map(mean).collect();
        (all.len(), mean(&all))
    }

    /// The mean with 0 for what is missing.
    fn with_missing(&self) -> Option<f64> {
        let (there, mean) = self.of();
        mean.map(|mean| mean * there as f64 / self.0.len() as f64)
    }
}

/// The summary of a run.
pub fn of(results: &Results) -> Value {
    let run = &results.run;
    let systems: Map<String, Value> =
        run.systems.iter().map(|system| (system.clone(), of_system(results, system))).collect();
    json!({
        "schema": schema::SUMMARY, "cases": run.cases, "norms": run.norms, "frames": run.frames,
        "models": run.models, "judge": run.judge, "systems": systems,
    })
}

fn of_system(results: &Results, system: &str) -> Value {
    let own: Vec<(&Case, &Raw)> = results
        .cases
        .iter()
        .filter_map(|case| Some((case, results.raws.get(&(system.to_owned(), case.id.clone()))?)))
        .collect();
    let videos: Vec<_> = own.iter().filter_map(|(_, raw)| raw.video.as_ref()).collect();
    let unreadable = own.iter().filter(|(_, raw)| raw.failure.is_some()).count();
    let sizes: BTreeSet<String> =
        videos.iter().map(|video| format!("{}x{}", video.width, video.height)).collect();
    let frames: BTreeSet<usize> = videos.iter().map(|video| video.frames).collect();
    let mut rates: Vec<f64> = videos.iter().map(|video| video.fps).collect();
    rates.sort_by(f64::total_cmp);
    rates.dedup();
    let ends = |first: Option<Value>, last: Option<Value>| json!([first, last]);
    let mut tasks = Map::new();
    for task in Task::ALL {
        let of_task: Vec<(&Case, &Raw)> =
            own.iter().copied().filter(|(case, _)| case.task == task).collect();
        if !of_task.is_empty() {
            tasks.insert(task.name().to_owned(), of_cases(&of_task, results.run.norms));
        }
    }
    json!({
        "note": results.run.notes.get(system),
        "videos": {
            "asked": own.len(), "there": videos.len(), "unreadable": unreadable,
            "missing": own.len() - videos.len() - unreadable,
        },
        "sizes": sizes,
        "frames": ends(frames.first().map(|v| json!(v)), frames.last().map(|v| json!(v))),
        "fps": ends(rates.first().map(|v| json!(v)), rates.last().map(|v| json!(v))),
        "tasks": tasks,
    })
}

fn of_cases(own: &[(&Case, &Raw)], norms: Norms) -> Value {
    let mean = |value: &dyn Fn(&Case, &Raw) -> Option<f64>| {
        let mut mean = Mean::default();
        own.iter().for_each(|(case, raw)| mean.add(case.unit(), value(case, raw)));
        mean
    };
    let plain = Norms { holi: Norm::Plain, ele: Norm::Plain };
    let positive = Norms { holi: Norm::Positive, ele: Norm::Positive };
    let affine = Norms { holi: Norm::Affine, ele: Norm::Affine };
    let mut metrics = Map::new();
    for metric in Metric::ALL {
        let (count, value) = mean(&|_, raw| raw.value(metric, norms)).of();
        if count == 0 {
            continue;
        }
        let with_missing = mean(&|_, raw| raw.value(metric, norms)).with_missing();
        let mut about = json!({ "n": count, "mean": value, "missing_as_0": with_missing });
        let cosines =
            matches!(metric, Metric::HoliArc | Metric::HoliCur | Metric::EleClip | Metric::EleDino);
        for (name, norms) in [("plain", plain), ("positive", positive), ("affine", affine)] {
            if cosines {
                about[name] = json!(mean(&|_, raw| raw.value(metric, norms)).of().1);
            }
        }
        if matches!(metric, Metric::HoliArc | Metric::HoliCur) {
            let cosines = |raw: &Raw| raw.identity.as_ref()?.cosines(metric).cloned();
            let strict = |raw: &Raw| Some(100.0 * cosines(raw)?.strict(norms.holi));
            about["strict"] = json!(mean(&|_, raw| strict(raw)).of().1);
            let copied = |case: &Case, raw: &Raw| {
                let primary = case.references.iter().position(|file| *file == case.primary)?;
                cosines(raw)?.copy_score(primary)
            };
            about["copy_score"] = json!(mean(&|case, raw| copied(case, raw)).of().1);
            about["drift"] = json!(mean(&|_, raw| cosines(raw)?.drift()).of().1);
        }
        metrics.insert(metric.name().to_owned(), about);
    }
    let identity = |raw: &Raw| raw.identity.as_ref().map(|own| own.coverage());
    let faceless = own.iter().filter(|(_, raw)| identity(raw) == Some(0.0)).count();
    let units: BTreeSet<&str> = own.iter().map(|(case, _)| case.unit()).collect();
    // Elements that their primary reference does not show, and frames whose scored face is another one
    // than that most like the references.
    let kept = own.iter().filter_map(|(_, raw)| raw.elements.as_ref());
    let hidden = kept.flat_map(|kept| &kept.elements).filter(|kept| !kept.in_primary).count();
    let others = own
        .iter()
        .filter_map(|(_, raw)| raw.identity.as_ref())
        .filter_map(|identity| identity.arc.as_ref().or(identity.cur.as_ref()))
        .flat_map(|cosines| cosines.best.iter().flatten())
        .filter(|best| best.face > 0)
        .count();
    json!({
        "cases": units.len(), "coverage": mean(&|_, raw| identity(raw)).of().1,
        "faceless": faceless, "other_face": others, "not_in_primary": hidden, "metrics": metrics,
    })
}

/// The table of a run with commas: a row for each system and task, metrics in the paper's order.
pub fn table(results: &Results) -> String {
    let summary = of(results);
    let head = ["system", "task", "cases", "missing", "coverage"].map(str::to_owned);
    let names = Metric::ALL.map(|metric| metric.name().to_owned());
    let raw = ["holi_arc_plain", "holi_cur_plain"].map(str::to_owned);
    let mut text = anyid_files::table::line(&[&head[..], &names[..], &raw[..]].concat());
    let shown = |value: &Value| value.as_f64().map_or_else(String::new, |v| format!("{v:.4}"));
    for system in &results.run.systems {
        let own = &summary["systems"][system];
        for task in Task::ALL {
            let of_task = &own["tasks"][task.name()];
            if of_task.is_null() {
                continue;
            }
            let asked = results.raws.values().filter(|raw| raw.system == *system);
            let missing = asked.filter(|raw| raw.task == task && raw.video.is_none()).count();
            let metrics = &of_task["metrics"];
            let mut row = vec![
                system.clone(),
                task.name().to_owned(),
                of_task["cases"].to_string(),
                missing.to_string(),
                shown(&of_task["coverage"]),
            ];
            row.extend(names.iter().map(|name| shown(&metrics[name]["mean"])));
            let plain = ["holi_arc", "holi_cur"].map(|name| shown(&metrics[name]["plain"]));
            row.extend(plain);
            text.push_str(&anyid_files::table::line(&row));
        }
    }
    text
}
