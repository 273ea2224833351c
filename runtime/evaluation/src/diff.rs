//! Two runs side by side: what has changed on the cases that both have.
//!
//! Numbers are compared where they mean the same: those of other models, frames, normalisations or judges are
//! left out, and it is said why.

use crate::raw::{Metric, Results, Task};
use crate::statistics::{Pair, correct, values};
use anyid_files::{Error, Result};
use serde_json::{Value, json};

/// A metric of a system that both runs have.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The system of the first run.
    pub system: String,
    /// That of the second, which has the same name unless each run has one alone.
    pub other: String,
    /// The task.
    pub task: Task,
    /// The metric.
    pub metric: Metric,
    /// The second run less the first.
    pub pair: Pair,
}

/// What is compared of two runs, and what is not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// By system, task and metric.
    pub rows: Vec<Row>,
    /// Metrics that are left out, and why.
    pub left_out: Vec<(Metric, String)>,
}

/// Why numbers of a metric mean something else in the second run.
fn other_meaning(a: &Results, b: &Results, metric: Metric) -> Option<String> {
    let roles: &[&str] = match metric {
        Metric::HoliArc => &["face", "arc"],
        Metric::HoliCur => &["face", "cur"],
        Metric::EleClip => &["clip", "grounding", "sam_encoder", "sam_decoder"],
        Metric::EleDino => &["dino", "grounding", "sam_encoder", "sam_decoder"],
        Metric::App | Metric::Mot | Metric::Bg | Metric::Sta | Metric::Dyn => &[],
    };
    let hash = |results: &Results, role: &str| {
        let model = results.run.models.iter().find(|model| model.role == role);
        model.map(|model| model.sha256.clone())
    };
    let other = roles.iter().find(|role| hash(a, role) != hash(b, role));
    if let Some(role) = other {
        return Some(format!("another model for {role}"));
    }
    match metric {
        Metric::HoliArc | Metric::HoliCur if a.run.norms.holi != b.run.norms.holi => {
            Some("another normalisation".to_owned())
        }
        Metric::HoliArc | Metric::HoliCur if a.run.frames != b.run.frames => {
            Some(format!("{} frames and {}", a.run.frames, b.run.frames))
        }
        Metric::EleClip | Metric::EleDino if a.run.norms.ele != b.run.norms.ele => {
            Some("another normalisation".to_owned())
        }
        Metric::App | Metric::Mot | Metric::Bg | Metric::Sta | Metric::Dyn
            if a.run.judge != b.run.judge =>
        {
            Some("another judge".to_owned())
        }
        _ => None,
    }
}

/// Systems of both runs that belong together: those of the same name, or the only ones.
fn systems(a: &Results, b: &Results) -> Vec<(String, String)> {
    if let ([one], [other]) = (&a.run.systems[..], &b.run.systems[..]) {
        return vec![(one.clone(), other.clone())];
    }
    let both = a.run.systems.iter().filter(|system| b.run.systems.contains(system));
    both.map(|system| (system.clone(), system.clone())).collect()
}

/// Compares two runs.
///
/// # Errors
/// E1708 where they have nothing in common.
pub fn diff(a: &Results, b: &Results, resamplings: usize) -> Result<Diff> {
    let nothing = |what: &str| {
        Err(Error::input("E1708", format!("the runs have no {what} in common"))
            .at(b.folder.display())
            .help("compare runs of the same cases and systems, measured with the same models"))
    };
    let systems = systems(a, b);
    if systems.is_empty() {
        return nothing("system");
    }
    let mut found = Diff::default();
    for metric in Metric::ALL {
        let has = |results: &Results| {
            results.raws.values().any(|raw| raw.value(metric, results.run.norms).is_some())
        };
        if !(has(a) && has(b)) {
            continue;
        }
        if let Some(why) = other_meaning(a, b, metric) {
            found.left_out.push((metric, why));
            continue;
        }
        for (system, other) in &systems {
            for task in Task::ALL {
                let [first, second] = [(a, system), (b, other)]
                    .map(|(run, system)| values(run, system, metric, Some(task)));
                let name = format!("{}/{}", task.name(), metric.name());
                let names = [format!("{name}/1/{system}"), format!("{name}/2/{other}")];
                let pair = Pair::of(&first, &second, [&names[0], &names[1]], resamplings);
                found.rows.extend(pair.map(|pair| Row {
                    system: system.clone(),
                    other: other.clone(),
                    task,
                    metric,
                    pair,
                }));
            }
        }
    }
    if found.rows.is_empty() {
        let what = match found.left_out.first() {
            Some((metric, why)) => format!("measure ({}: {why})", metric.name()),
            None => "case with a number".to_owned(),
        };
        return nothing(&what);
    }
    let order = |row: &Row| (row.system.clone(), row.task, row.metric);
    found.rows.sort_by_key(order);
    for (system, _) in &systems {
        for task in Task::ALL {
            let family = found.rows.iter_mut();
            let family = family.filter(|row| row.system == *system && row.task == task);
            correct(family.map(|row| &mut row.pair));
        }
    }
    Ok(found)
}

impl Diff {
    /// For programs.
    pub fn json(&self) -> Value {
        let row = |row: &Row| {
            let mut own = row.pair.json();
            own["systems"] = json!([row.system, row.other]);
            own["task"] = json!(row.task);
            own["metric"] = json!(row.metric);
            own
        };
        let out = self.left_out.iter().map(|(metric, why)| json!({"metric": metric, "why": why}));
        json!({
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "left_out": out.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::Norm;
    use crate::statistics::sample::results;

    #[test]
    fn runs_are_compared_case_by_case_where_numbers_mean_the_same() {
        let a = results(&[("ours", 0.40), ("x", 0.3)], 8);
        let mut b = results(&[("ours", 0.46), ("y", 0.3)], 8);
        let found = diff(&a, &b, 200).unwrap();
        assert!(found.left_out.is_empty());
        // Nine metrics of one task, seven of the other, which keeps no elements.
        assert_eq!(found.rows.len(), 16);
        let first = &found.rows[0];
        assert_eq!((first.system.as_str(), first.metric), ("ours", Metric::HoliArc));
        assert!(first.pair.differs() && (first.pair.difference - 3.0).abs() < 0.5, "{first:?}");
        assert!(first.pair.holm.unwrap() >= first.pair.wilcoxon.unwrap().p);
        b.run.models[0].sha256 = "other".to_owned();
        b.run.norms.ele = Norm::Affine;
        b.run.judge = None;
        let found = diff(&a, &b, 200).unwrap();
        assert_eq!(
            found.rows.iter().map(|row| row.metric).collect::<Vec<_>>(),
            [Metric::HoliCur; 2]
        );
        assert_eq!(found.left_out[0], (Metric::HoliArc, "another model for arc".to_owned()));
        assert_eq!(found.left_out.len(), 8);
        assert!(found.json()["left_out"][7]["why"] == "another judge");
    }

    #[test]
    fn the_only_systems_of_two_runs_belong_together() {
        let [a, b] = [("before", 0.4), ("after", 0.4)].map(|system| results(&[system], 3));
        let found = diff(&a, &b, 50).unwrap();
        assert_eq!(
            (found.rows[0].system.as_str(), found.rows[0].other.as_str()),
            ("before", "after")
        );
    }

    #[test]
    fn runs_without_anything_in_common_are_refused() {
        let a = results(&[("a", 0.4), ("b", 0.4)], 2);
        let b = results(&[("c", 0.4), ("d", 0.4)], 2);
        let fault = diff(&a, &b, 50).unwrap_err();
        assert_eq!((fault.code(), fault.message()), ("E1708", "the runs have no system in common"));
        let mut other = a.clone();
        other.run.frames = 4;
        other.run.norms.ele = Norm::Affine;
        other.run.judge = None;
        let fault = diff(&a, &other, 50).unwrap_err();
        assert!(fault.message().contains("holi_arc: 8 frames and 4"), "{fault}");
    }
}
