//! Whether a run is no worse than another: each metric that is asked for may fall by so much and no more.
//! Anything that cannot be compared is a failure, so that a gate never passes for want of numbers.

use crate::diff::{Diff, Row, diff};
use crate::raw::{Metric, Results};
use anyid_files::{Error, Result};
use serde_json::{Value, json};

/// A metric with the least difference that passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Least {
    /// The metric.
    pub metric: Metric,
    /// Points that the run may be above the baseline at least, such as -0.5.
    pub difference: f64,
}

impl Least {
    /// From `METRIC=POINTS`, such as `holi_arc=-0.5`.
    ///
    /// # Errors
    /// E1706.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: String| {
            let names: Vec<&str> = Metric::ALL.iter().map(|metric| metric.name()).collect();
            Error::input("E1706", what).at("--min").help(format!(
                "write METRIC=POINTS, such as holi_arc=-0.5, of {}",
                names.join(", ")
            ))
        };
        let (name, points) =
            text.split_once('=').ok_or_else(|| bad(format!("\"{text}\" has no \"=\"")))?;
        let metric = Metric::ALL.into_iter().find(|metric| metric.name() == name);
        let metric = metric.ok_or_else(|| bad(format!("\"{name}\" is no metric")))?;
        let difference = points.parse().ok().filter(|points: &f64| points.is_finite());
        let difference = difference.ok_or_else(|| bad(format!("\"{points}\" is no number")))?;
        Ok(Self { metric, difference })
    }
}

/// What a gate says of a metric of a system and task.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The comparison.
    pub row: Row,
    /// The least difference that passes.
    pub least: f64,
    /// Cases that the baseline has and the run does not.
    pub lost: usize,
}

impl Check {
    /// Whether it is no worse than it may be, and no case was lost: a system could else get better by making
    /// fewer videos.
    pub fn passes(&self) -> bool {
        self.row.pair.difference >= self.least && self.lost == 0
    }
}

/// Compares a run with a baseline.
///
/// # Errors
/// E1708 where nothing is in common or a metric that is asked for cannot be compared, E1706 without any.
pub fn gate(
    baseline: &Results,
    run: &Results,
    least: &[Least],
    resamplings: usize,
) -> Result<Vec<Check>> {
    if least.is_empty() {
        return Err(Error::input("E1706", "a gate without a metric lets everything pass")
            .at("--min")
            .help("write --min METRIC=POINTS, such as --min holi_arc=-0.5"));
    }
    let Diff { rows, left_out } = diff(baseline, run, resamplings)?;
    let mut checks = Vec::new();
    for own in least {
        let before = checks.len();
        for row in rows.iter().filter(|row| row.metric == own.metric) {
            let count = baseline.values(&row.system, row.metric, Some(row.task)).len();
            let lost = count - row.pair.n;
            checks.push(Check { row: row.clone(), least: own.difference, lost });
        }
        if checks.len() == before {
            let why = left_out.iter().find(|(metric, _)| *metric == own.metric);
            let why = why.map_or("one of the runs does not have it", |(_, why)| why.as_str());
            let what = format!("{} cannot be compared: {why}", own.metric.name());
            return Err(Error::input("E1708", what)
                .at(run.folder.display())
                .help("measure both runs in the same way, or leave the metric out of --min"));
        }
    }
    Ok(checks)
}

/// For programs.
pub fn to_json(checks: &[Check]) -> Value {
    let one = |check: &Check| {
        let mut own = check.row.pair.json();
        own["systems"] = json!([check.row.system, check.row.other]);
        own["task"] = json!(check.row.task);
        own["metric"] = json!(check.row.metric);
        own["least"] = json!(check.least);
        own["lost"] = json!(check.lost);
        own["passes"] = json!(check.passes());
        own
    };
    json!({
        "passes": checks.iter().all(Check::passes),
        "checks": checks.iter().map(one).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::sample::results;

    #[test]
    fn a_loss_fails_and_a_loss_that_is_allowed_passes() {
        let [a, b] = [0.44, 0.40].map(|level| results(&[("ours", level)], 6));
        let least = |text: &str| vec![Least::parse(text).unwrap()];
        let passes = |a, b, text| gate(a, b, &least(text), 50).unwrap().iter().all(Check::passes);
        assert!(!passes(&a, &b, "holi_arc=-0.5") && passes(&b, &a, "holi_arc=-0.5"));
        assert!(passes(&a, &b, "holi_arc=-5") && !passes(&b, &a, "holi_arc=5"));
    }

    #[test]
    fn cases_that_are_lost_and_metrics_without_numbers_are_no_success() {
        let a = results(&[("ours", 0.4)], 4);
        let mut b = results(&[("ours", 0.5)], 4);
        let first = b.raws.values_mut().next().unwrap();
        (first.video, first.identity) = (None, None);
        let checks = gate(&a, &b, &[Least::parse("holi_arc=0").unwrap()], 50).unwrap();
        assert_eq!(checks.iter().map(|check| check.lost).sum::<usize>(), 1);
        assert_eq!(to_json(&checks)["passes"], false);
        b.run.judge = None;
        let fault = gate(&a, &b, &[Least::parse("app=0").unwrap()], 50).unwrap_err();
        assert_eq!(fault.message(), "app cannot be compared: another judge");
        assert_eq!(gate(&a, &b, &[], 50).unwrap_err().code(), "E1706");
    }

    #[test]
    fn what_is_asked_for_is_a_metric_with_points() {
        let least = Least::parse("holi_arc=-0.5").unwrap();
        assert_eq!((least.metric, least.difference), (Metric::HoliArc, -0.5));
        for text in ["holi_arc", "holi=1", "app=x", "app=inf"] {
            assert_eq!(Least::parse(text).unwrap_err().code(), "E1706", "{text}");
        }
    }
}
