//! Gates of stages: a number of a run's log and the bounds that it has to keep.

use crate::error::Result;
use crate::training::parameters::Kind;
use crate::training::read_text;
use crate::training::settings::{Settings, TrainedNetwork};
use anyid_ir::spelling::meant;
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

/// What is wrong with a gate, and what to do.
pub type Wrong = (String, String);

/// Numbers that a line of a run's log can have. Those of its measurements are in `validation`.
pub struct Known {
    /// Of an update; what is learned of samples is also measured.
    names: Vec<String>,
    /// Whether there are others whose names begin so: slots of labels that nobody has named yet.
    open: Option<&'static str>,
    /// Those that only measurements have.
    measured: &'static [&'static str],
}

/// What the names of the accuracy of slots begin with.
const SLOT: &str = "accuracy_";
/// Numbers of an update that no measurement has.
const OF_UPDATES: [&str; 2] = ["norm", "seconds_left"];

impl Known {
    /// Of a run that trains this; `slots` are those of its labels, if they are known.
    pub fn of(kind: Kind, settings: &Settings, slots: Option<&[String]>) -> Self {
        let network = settings.train.network;
        let own: &[&str] = match (kind, network) {
            (Kind::Dpo, _) => &["accuracy", "chosen", "margin", "rejected"],
            (_, TrainedNetwork::Transformer) => &["error"],
            (_, TrainedNetwork::Vae) if settings.video.frames == 1 => &["psnr_first"],
            (_, TrainedNetwork::Vae) => &["psnr_first", "psnr_later"],
            (_, TrainedNetwork::Text | TrainedNetwork::Judge) => &["accuracy"],
        };
        let labelled = network.labelled().is_some();
        let slots = slots.filter(|_| labelled);
        let of_slots = slots.into_iter().flatten().map(|slot| format!("{SLOT}{slot}"));
        let names = ["loss"].iter().chain(own).map(|name| (*name).to_owned());
        let open = Some(SLOT).filter(|_| labelled && slots.is_none());
        let measured: &[&str] = match kind {
            Kind::Dpo => &["over_base", "pair_accuracy"],
            _ => &["over_base"],
        };
        Self { names: names.chain(of_slots).collect(), open, measured }
    }

    /// What is wrong with the value of a gate; `measured` where there is a validation set.
    fn fault(&self, value: &str, measured: bool) -> Option<Wrong> {
        let own = value.strip_prefix("validation.");
        let named = own.unwrap_or(value);
        let only = if own.is_some() { self.measured } else { &OF_UPDATES };
        let opened = self.open.is_some_and(|begin| named.starts_with(begin));
        if opened || only.contains(&named) || self.names.iter().any(|name| name == named) {
            let what = format!("{value} is not measured without data.validation");
            let help = "set data.validation, or take a number of the updates, such as loss";
            return (own.is_some() && !measured).then(|| (what, help.to_owned()));
        }
        let measurements = self.names.iter().map(String::as_str);
        let measurements = measurements
            .chain(self.measured.iter().copied())
            .filter(|_| measured)
            .map(|name| format!("validation.{name}"));
        let updates = self.names.iter().map(String::as_str).chain(OF_UPDATES);
        let all: Vec<String> = updates.map(str::to_owned).chain(measurements).collect();
        let help = meant(value, "", all.iter().map(String::as_str), || {
            format!("the numbers are {}", all.join(", "))
        });
        Some((format!("the log of this run has no {value}"), help))
    }
}

impl Gate {
    /// What is wrong with it, for a run of so many updates whose log has these numbers.
    pub fn fault(&self, steps: u64, known: &Known, measured: bool) -> Option<Wrong> {
        let Self { value, at, .. } = self;
        let named = (!value.is_empty()).then(|| known.fault(value, measured)).flatten();
        named.or_else(|| self.wrong()).or_else(|| {
            at.filter(|at| !(1..=steps).contains(at)).map(|at| {
                let what = format!("update {at} is none of the run, which has {steps}");
                (what, format!("give at = 1 to {steps}, or leave it out for the end of the run"))
            })
        })
    }

    /// What is wrong with its value and bounds by themselves.
    pub fn wrong(&self) -> Option<Wrong> {
        let Self { value, below, above, .. } = self;
        let finite = |bound: &Option<f64>| bound.is_none_or(f64::is_finite);
        if value.is_empty() {
            let help = "name a number of the log, such as value = \"loss\"";
            return Some(("it has no value".to_owned(), help.to_owned()));
        }
        if below.is_none() && above.is_none() {
            let help = "give below or above, such as below = 0.4";
            return Some((format!("{value} has no bound"), help.to_owned()));
        }
        if !finite(below) || !finite(above) {
            let help = "give a number, such as below = 0.4".to_owned();
            return Some((format!("the bounds of {value} must be numbers"), help));
        }
        if let (Some(below), Some(above)) = (below, above)
            && below < above
        {
            let what = format!("nothing is at most {below} and at least {above}");
            return Some((what, "give above a number that is not larger than below".to_owned()));
        }
        None
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
        let how = if self.passes() { "which is" } else { "to be" };
        let (value, bounds) = (&gate.value, gate.bounds());
        write!(f, "{value} is {} after update {step}, {how} {bounds}", short(*found))
    }
}

/// A number with five digits that count, or more where it is a large one.
fn short(number: f64) -> String {
    let tens = if number == 0.0 { 0.0 } else { number.abs().log10().floor() };
    let digits = 4 - (tens as i32).min(4);
    match number.is_finite() && digits < 16 {
        true => {
            let text = format!("{number:.0$}", digits as usize);
            match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
                false => text,
            }
        }
        false => format!("{number:.4e}"),
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
        let text = |gate: &Gate| gate.measured(&log, true).unwrap().unwrap().to_string();
        assert_eq!(
            text(&gate("loss", Some(0.8), Some(0.1), Some(1))),
            "loss is 0.9 after update 1, to be at most 0.8 and at least 0.1"
        );
        assert_eq!(
            text(&gate("loss", Some(0.95), None, Some(1))),
            "loss is 0.9 after update 1, which is at most 0.95"
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
        let known = Known::of(Kind::Lora, &Settings::default(), None);
        for (gate, said, help) in [
            (gate("", Some(1.0), None, None), "it has no value", "value = \"loss\""),
            (gate("loss", None, None, None), "loss has no bound", "below = 0.4"),
            (gate("loss", Some(f64::NAN), None, None), "must be numbers", "give a number"),
            (gate("loss", Some(1.0), Some(2.0), None), "at most 1 and at least 2", "not larger"),
            (gate("loss", Some(1.0), None, Some(0)), "update 0 is none", "1 to 10"),
            (
                gate("loss", Some(1.0), None, Some(11)),
                "update 11 is none of the run, which has 10",
                "leave it out",
            ),
        ] {
            let (what, helped) = gate.fault(10, &known, false).unwrap();
            assert!(what.contains(said) && helped.contains(help), "{what}; {helped}");
        }
        assert_eq!(gate("loss", Some(1.0), None, Some(10)).fault(10, &known, false), None);
    }

    #[test]
    fn numbers_that_no_log_of_such_a_run_has_are_known_beforehand() {
        let of = |kind, network, frames, slots: Option<&[String]>| {
            let mut settings = Settings::default();
            (settings.train.network, settings.video.frames) = (network, frames);
            Known::of(kind, &settings, slots)
        };
        let slots = ["shot".to_owned()];
        let (transformer, vae, text) =
            (TrainedNetwork::Transformer, TrainedNetwork::Vae, TrainedNetwork::Text);
        let (lora, dpo, full) = (Kind::Lora, Kind::Dpo, Kind::Full);
        for (known, value, help) in [
            (of(lora, transformer, 5, None), "validation.los", "did you mean validation.loss?"),
            (of(lora, transformer, 5, None), "eror", "did you mean error?"),
            (of(lora, transformer, 5, None), "accuracy", "the numbers are loss, error, norm, "),
            (of(dpo, transformer, 5, None), "marign", "did you mean margin?"),
            (of(full, vae, 1, None), "psnr_later", "psnr_first"),
            (of(full, vae, 5, None), "validation.psnr_last", "validation.psnr_"),
            (of(full, text, 5, Some(&slots)), "accuracy_shto", "did you mean accuracy_shot?"),
            (of(full, text, 5, Some(&slots)), "validation.norm", "validation."),
        ] {
            let (what, helped) = known.fault(value, true).unwrap();
            assert_eq!(what, format!("the log of this run has no {value}"));
            assert!(helped.contains(help), "{value}: {helped}");
        }
        for (known, value) in [
            (of(lora, transformer, 5, None), "validation.over_base"),
            (of(dpo, transformer, 5, None), "validation.accuracy"),
            (of(dpo, transformer, 5, None), "validation.pair_accuracy"),
            (of(full, vae, 5, None), "validation.psnr_later"),
            (of(full, text, 5, Some(&slots)), "validation.accuracy_shot"),
            // Nobody knows the slots of a manifest that is still to be written.
            (of(full, text, 5, None), "accuracy_anything"),
            (of(full, text, 5, None), "seconds_left"),
        ] {
            assert_eq!(known.fault(value, true), None, "{value}");
        }
        let unmeasured = of(lora, transformer, 5, None).fault("validation.loss", false).unwrap();
        assert!(unmeasured.0.contains("not measured without data.validation"));
    }

    #[test]
    fn numbers_are_short() {
        for (number, text) in [
            (0.123_456_789, "0.12346"),
            (12.5, "12.5"),
            (0.0, "0"),
            (123_456.7, "123457"),
            (1.5e-9, "0.0000000015"),
            (1.5e-20, "1.5000e-20"),
            (-2.0, "-2"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
