//! Gates of stages: a number of a run's log and the bounds that it has to keep.

use crate::error::Result;
use crate::training::read_text;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::path::Path;

/// A gate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gate {
    /// A number of a line of the log, with dots between the names of what it is in: `validation.loss`.
    pub value: String,
    /// It has to be at most this.
    pub below: Option<f64>,
    /// It has to be at least this.
    pub above: Option<f64>,
    /// The update after which it counts; the last one that measured it without this.
    pub at: Option<u64>,
}

/// What a gate came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The gate.
    pub gate: Gate,
    /// The update after which it was measured.
    pub step: u64,
    /// What was measured; not a number where that is no number.
    pub found: f64,
}

impl Gate {
    /// What is wrong with it, for a run of so many updates.
    pub fn fault(&self, steps: u64) -> Option<String> {
        let Self { value, below, above, at } = self;
        let finite = |bound: &Option<f64>| bound.is_none_or(f64::is_finite);
        if value.is_empty() {
            return Some(
                "it needs a value: a number of the log, such as validation.loss".to_owned(),
            );
        }
        if below.is_none() && above.is_none() {
            return Some(format!("{value} has no bound: give below or above"));
        }
        if !finite(below) || !finite(above) {
            return Some(format!("the bounds of {value} must be numbers"));
        }
        at.filter(|at| !(1..=steps).contains(at))
            .map(|at| format!("update {at} is none of the run, which has {steps}"))
    }

    /// Its number in an object; not a number where it names something else, `None` where it names
    /// nothing. Names may have dots themselves.
    pub fn find(&self, object: &Value) -> Option<f64> {
        fn inside<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
            let deeper = |(at, _)| inside(value.get(&path[..at])?, &path[at + 1..]);
            value.get(path).or_else(|| path.match_indices('.').find_map(deeper))
        }
        inside(object, &self.value).map(|value| value.as_f64().unwrap_or(f64::NAN))
    }

    /// Whether a number is within the bounds.
    pub fn keeps(&self, found: f64) -> bool {
        self.below.is_none_or(|bound| found <= bound)
            && self.above.is_none_or(|bound| found >= bound)
    }

    /// The bounds, in words.
    pub fn bounds(&self) -> String {
        let bound = |word: &str, bound: Option<f64>| bound.map(|bound| format!("{word} {bound}"));
        let bounds = [bound("at most", self.below), bound("at least", self.above)];
        bounds.into_iter().flatten().collect::<Vec<_>>().join(" and ")
    }

    /// The last measurement in a log up to the update that counts; `None` where there is none, and with
    /// `reached` where the log does not go so far.
    ///
    /// # Errors
    /// E0911 where the log cannot be read.
    pub fn measured(&self, log: &Path, reached: bool) -> Result<Option<Measured>> {
        if reached && !log.is_file() {
            return Ok(None);
        }
        let text = read_text(log, u64::MAX >> 1)?;
        let (mut last, mut out) = (0, None);
        for line in text.lines() {
            // The last line of a run that was killed may be incomplete.
            let Ok(row) = serde_json::from_str::<Value>(line) else { continue };
            let Some(step) = row["step"].as_u64() else { continue };
            last = last.max(step);
            let found = self.find(&row).filter(|_| self.at.is_none_or(|at| step <= at));
            let Some(found) = found else { continue };
            out = Some(Measured { gate: self.clone(), step, found });
        }
        Ok(out.filter(|_| !reached || self.at.is_none_or(|at| last >= at)))
    }
}

impl Measured {
    /// Whether the bounds are kept.
    pub fn passes(&self) -> bool {
        self.gate.keeps(self.found)
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gate, step, found } = self;
        write!(f, "{} is {found} after update {step}, to be {}", gate.value, gate.bounds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(value: &str, below: Option<f64>, above: Option<f64>, at: Option<u64>) -> Gate {
        Gate { value: value.to_owned(), below, above, at }
    }

    #[test]
    fn the_last_measurement_up_to_its_update_counts() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log.jsonl");
        let lines = "{\"step\":1,\"loss\":0.9}\n{\"step\":2,\"loss\":0.5,\"validation\":{\"loss\":0.7}}\n\
                     {\"step\":3,\"loss\":null}\n{\"step\":4,\"lo";
        std::fs::write(&log, lines).unwrap();
        let found = |gate: &Gate, reached| {
            gate.measured(&log, reached).unwrap().map(|m| (m.step, m.found, m.passes()))
        };
        let validation = gate("validation.loss", Some(0.8), Some(0.6), None);
        assert_eq!(found(&validation, false), Some((2, 0.7, true)));
        assert!(!found(&gate("validation.loss", Some(0.6), None, None), false).unwrap().2);
        assert!(!found(&gate("validation.loss", None, Some(0.8), None), false).unwrap().2);
        assert_eq!(found(&gate("loss", Some(0.8), None, Some(1)), true), Some((1, 0.9, false)));
        assert_eq!(found(&gate("loss", Some(0.8), None, Some(2)), true), Some((2, 0.5, true)));
        assert_eq!(found(&gate("validation.loss", Some(1.0), None, Some(1)), true), None);
        assert_eq!(found(&gate("loss", Some(1.0), None, Some(5)), true), None, "not there yet");
        assert_eq!(found(&gate("psnr", Some(1.0), None, None), false), None);
        // What is no number keeps no bound.
        let broken = gate("loss", Some(1.0), None, None).measured(&log, false).unwrap().unwrap();
        assert!(broken.step == 3 && broken.found.is_nan() && !broken.passes());
        let text =
            gate("loss", Some(0.8), Some(0.1), Some(1)).measured(&log, true).unwrap().unwrap();
        assert_eq!(
            text.to_string(),
            "loss is 0.9 after update 1, to be at most 0.8 and at least 0.1"
        );
        assert!(validation.measured(&folder.path().join("none"), true).unwrap().is_none());
        assert_eq!(
            validation.measured(&folder.path().join("none"), false).unwrap_err().code(),
            "E0911"
        );
    }

    #[test]
    fn names_with_dots_are_found() {
        let object = serde_json::json!({
            "pairs": 7, "arms": {"no-dpo": {"colour.hair": {"value": 0.2, "se": null}}}
        });
        let find = |value: &str| gate(value, Some(1.0), None, None).find(&object);
        assert_eq!(find("pairs"), Some(7.0));
        assert_eq!(find("arms.no-dpo.colour.hair.value"), Some(0.2));
        assert!(find("arms.no-dpo.colour.hair.se").unwrap().is_nan());
        assert!(find("arms").unwrap().is_nan(), "no number");
        for nothing in ["arms.no-dpo.colour", "pairs.x", "", ".", "arms.full.colour.hair.value"] {
            assert_eq!(find(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_gate_has_a_value_and_a_bound_within_the_run() {
        for (gate, said) in [
            (gate("", Some(1.0), None, None), "needs a value"),
            (gate("loss", None, None, None), "loss has no bound"),
            (gate("loss", Some(f64::NAN), None, None), "must be numbers"),
            (gate("loss", Some(1.0), None, Some(0)), "update 0 is none"),
            (gate("loss", Some(1.0), None, Some(11)), "update 11 is none of the run, which has 10"),
        ] {
            assert!(gate.fault(10).unwrap().contains(said), "{gate:?}");
        }
        assert_eq!(gate("loss", Some(1.0), None, Some(10)).fault(10), None);
    }
}
