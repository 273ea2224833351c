//! Why a run came to values that are not finite, as far as that is known.
//!
//! Until an update was made, weights and settings alone decide what the network gives, and no rate has a
//! part in it. What is far from usual is named: a setting with its line or flag, a weight with its file.
//! Where there is nothing of the kind, that is said, with the largest weight there is. Nothing is read or
//! compared here before something has failed.

use super::parameters::Kind;
use super::settings::{Settings, TrainedNetwork};
use crate::checkpoint::WeightSet;
use crate::engine::finite::UNKNOWN;
use crate::error::Error;
use crate::weights::ModelWeights;
use std::fmt::{Display, LowerExp};
use std::path::Path;

/// The largest number of f16, in which models are published as well: no weight of one is beyond it.
const USUAL_WEIGHT: f32 = 65_504.0;
/// What helps where a weight is beyond it.
const GET: &str = "get the model again: it is damaged or was converted wrongly";

/// The value of some tensors that is farthest from zero, and the tensor that has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Peak {
    /// Name of the tensor.
    pub name: String,
    /// Its size: no sign, and infinite for what is no number.
    pub size: f32,
}

impl Peak {
    /// The peak of named values; none where there are no values.
    pub fn of<'n>(all: impl IntoIterator<Item = (&'n str, &'n [f32])>) -> Option<Self> {
        let mut out = None;
        all.into_iter().for_each(|(name, values)| Self::look(&mut out, name, values));
        out
    }

    /// That of all weights that can be read as numbers.
    fn of_weights(set: &WeightSet) -> Option<Self> {
        let (mut out, mut piece) = (None, vec![0f32; 1 << 16]);
        for (name, weight) in set.iter().filter(|(_, weight)| weight.encoding.is_float()) {
            let count = weight.elements();
            for first in (0..count).step_by(piece.len()) {
                let some = &mut piece[..(count - first).min(1 << 16) as usize];
                if set.read_f32(name, first, bytemuck::cast_slice_mut(some)).is_err() {
                    break;
                }
                Self::look(&mut out, name, some);
            }
        }
        out
    }

    fn look(peak: &mut Option<Self>, name: &str, values: &[f32]) {
        let size = |value: &f32| if value.is_nan() { f32::INFINITY } else { value.abs() };
        let Some(size) = values.iter().map(size).max_by(f32::total_cmp) else { return };
        if peak.as_ref().is_none_or(|peak| size > peak.size) {
            *peak = Some(Self { name: name.to_owned(), size });
        }
    }

    fn is_usual(&self) -> bool {
        self.size <= USUAL_WEIGHT
    }
}

/// What a value that is not finite was computed from.
pub struct Cause<'c> {
    /// The settings and what is trained; none where encoders computed it, to which they are nothing.
    pub run: Option<(&'c Settings, Kind)>,
    /// Weights of the network, and of those that have made what it is given.
    pub weights: Vec<&'c ModelWeights>,
    /// Where the first values of a run are those of a file, that and their peak.
    pub first: Option<(&'c Path, Peak)>,
    /// Whether updates have a part in it.
    pub learned: bool,
    /// Whether it was computed in bf16.
    pub narrow: bool,
}

/// Something far from usual.
struct Found {
    what: String,
    /// Where it can be changed, and how.
    place: Option<String>,
    help: String,
}

impl Cause<'_> {
    /// `error` with what is known of its cause, if it is one of a value that is not finite and says nothing
    /// of that yet.
    pub fn of(&self, error: Error) -> Error {
        let told = error.help_text().is_some_and(|help| help != UNKNOWN);
        if error.code() != "E1001" || error.place().is_some() || told {
            return error;
        }
        let mut found = self.settings();
        let mut largest = None;
        // With what has been learned from them, weights were fine once.
        if !self.learned || found.is_empty() {
            found.extend(self.weight(&mut largest));
        }
        let or = if self.narrow { ", or model.precision = \"f32\"" } else { "" };
        let smaller = format!("take a smaller train.learning_rate{or}");
        if found.is_empty() && self.learned {
            return error.advised(smaller);
        }
        if found.is_empty() {
            let settings = match self.run {
                Some(_) => "no update has a part in it, and no setting is far from usual; ",
                None => "",
            };
            let largest: String = largest.unwrap_or_else(|| "no weight can be read".to_owned());
            let help = match self.narrow {
                true => "set model.precision = \"f32\", or take another model",
                false => "take another model, or check this one with `anyid-rt inspect`",
            };
            return error.detailed(format!("{settings}{largest}")).advised(help);
        }
        let joined = |part: &dyn Fn(&Found) -> Option<String>, with: &str| {
            let mut parts: Vec<String> = found.iter().filter_map(part).collect();
            parts.dedup();
            parts.join(with)
        };
        let what = joined(&|found| Some(found.what.clone()), "; ");
        let place = joined(&|found| found.place.clone(), ", ");
        // Beside a setting, a weight may be as it should be.
        let told = |own: &&Found| own.help != GET || found.len() == 1;
        let help = joined(&|own| Some(own).filter(told).map(|own| own.help.clone()), ", and ");
        let error = error.detailed(what);
        let error = if place.is_empty() { error } else { error.at(place) };
        error.advised(match (&help[..], self.learned) {
            // It was fine before.
            (GET, true) => smaller,
            _ => help,
        })
    }

    /// Settings that are far from usual, of those that have a part in it.
    fn settings(&self) -> Vec<Found> {
        let Some((settings, kind)) = self.run else { return Vec::new() };
        let rows = unusual(settings, kind, self.learned).into_iter();
        let found = |row: Row| Found {
            what: format!("{} is {}, usual is {}", row.key, shown(row.value), row.range()),
            help: match row.value > row.most {
                true => format!("take a smaller {}", row.key),
                false => format!("take a larger {}", row.key),
            },
            place: Some(settings.place(&row.key)),
        };
        rows.map(found).collect()
    }

    /// The first value or weight that is far from usual; the largest of others is told by `largest`.
    fn weight(&self, largest: &mut Option<String>) -> Option<Found> {
        if let Some((path, peak)) = self.first.as_ref().filter(|(_, peak)| !peak.is_usual()) {
            return Some(Found {
                what: format!("{} of the first values goes up to {}", peak.name, shown(peak.size)),
                place: Some(path.display().to_string()),
                help: "give another file".to_owned(),
            });
        }
        let mut most = 0.0;
        // Behind an update, what encoders have made was fine once: only the network itself is looked at.
        let looked_at = if self.learned { 1 } else { self.weights.len() };
        for weights in self.weights.iter().take(looked_at) {
            let base = weights.without_adapters();
            let Some(peak) = Peak::of_weights(base) else { continue };
            let name = base.origin(&peak.name).unwrap_or_else(|| format!("\"{}\"", peak.name));
            if !peak.is_usual() {
                let what = format!("the weight {name} goes up to {}", shown(peak.size));
                return Some(Found { what, place: None, help: GET.to_owned() });
            }
            if peak.size >= most {
                most = peak.size;
                *largest = Some(format!("the largest weight is {} in {name}", shown(most)));
            }
            let adapted = self.run.filter(|_| weights.has_adapters());
            let peak = adapted.and_then(|_| Peak::of_weights(weights.set()));
            if let Some(((settings, _), peak)) = adapted.zip(peak.filter(|own| !own.is_usual())) {
                let (key, size) = ("model.adapters", shown(peak.size));
                return Some(Found {
                    what: format!("{} goes up to {size} with {key}, and not without", peak.name),
                    place: Some(settings.place(key)),
                    help: format!("give what {key} names smaller scales"),
                });
            }
        }
        None
    }
}

/// A number as short as it can be written.
fn shown(value: impl Display + LowerExp + Into<f64> + Copy) -> String {
    match value.into().abs() {
        0.0 | 1e-3..1e6 => format!("{value}"),
        _ => format!("{value:e}"),
    }
}

/// A setting that is far from what is usual.
#[derive(Debug)]
struct Row {
    key: String,
    value: f64,
    least: f64,
    most: f64,
}

impl Row {
    fn range(&self) -> String {
        match (self.least > 0.0, self.most < f64::INFINITY) {
            (true, true) => format!("{} to {}", shown(self.least), shown(self.most)),
            (true, false) => format!("at least {}", shown(self.least)),
            (false, _) => format!("at most {}", shown(self.most)),
        }
    }
}

/// The settings of a run that are so far from usual that values may not be finite: of those that have a part
/// in what is computed before an update was made, or where updates are `learned` from as well, of all.
fn unusual(settings: &Settings, kind: Kind, learned: bool) -> Vec<Row> {
    let Settings { lora, train, dpo, group, .. } = settings;
    let (adapter, pairs) = (kind != Kind::Full, kind == Kind::Dpo);
    let network = |own| train.network == own;
    let (noisy, vae) = (network(TrainedNetwork::Transformer), network(TrainedNetwork::Vae));
    let any = f64::INFINITY;
    let one = [
        ("lora.alpha", adapter, lora.alpha, 0.0, 1e3 * lora.rank as f64),
        ("train.shift", noisy, train.shift, 1e-3, 1e3),
        ("train.latent_noise", vae, train.latent_noise, 0.0, 1e3),
        ("train.latent_penalty", vae, train.latent_penalty, 0.0, 1e3),
        ("dpo.beta", pairs, dpo.beta, 0.0, 1e6),
        ("dpo.sft_weight", pairs, dpo.sft_weight, 0.0, 1e3),
        ("dpo.rejected_weight", pairs, dpo.rejected_weight, 0.0, 1e3),
        ("train.learning_rate", learned, train.learning_rate, 0.0, 1.0),
        ("train.weight_decay", learned, train.weight_decay, 0.0, 10.0),
        // In f32 it is 1 from half a unit of its last place on, and the mean square stays 0.
        ("train.beta2", learned, train.beta2, 0.0, 0.999_99),
        // Below 1e-45 it is 0 in f32, and what has no gradient is divided by that.
        ("train.epsilon", learned, train.epsilon, 1e-30, any),
    ];
    let one = one.map(|(key, counts, value, least, most)| {
        counts.then(|| Row { key: key.to_owned(), value, least, most })
    });
    let groups = (1..).zip(group).filter(|_| learned).flat_map(|(number, own)| {
        let row = |(key, value, most): (&str, Option<f64>, f64)| {
            Some(Row { key: format!("group.{number}.{key}"), value: value?, least: 0.0, most })
        };
        [("learning_rate", own.learning_rate, 1.0), ("weight_decay", own.weight_decay, 10.0)]
            .map(row)
    });
    let rows = one.into_iter().chain(groups).flatten();
    rows.filter(|row| row.value < row.least || row.value > row.most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::finite::DAMAGED;
    use crate::model::Model;
    use crate::training::GroupSettings;

    fn error() -> Error {
        Error::input("E1001", "a non-finite value in sample s_1, node x").help(UNKNOWN)
    }

    #[test]
    fn settings_far_from_usual_are_those_that_have_a_part_in_what_was_computed() {
        let mut settings = Settings::default();
        let keys = |settings: &Settings, kind, learned| -> Vec<String> {
            unusual(settings, kind, learned).into_iter().map(|row| row.key).collect()
        };
        for kind in [Kind::Lora, Kind::Dpo, Kind::Full] {
            assert_eq!(keys(&settings, kind, true), [""; 0], "defaults are usual");
        }
        settings.lora.alpha = 1e30;
        settings.dpo.beta = 1e30;
        settings.train.shift = 1e-5;
        settings.train.latent_noise = 1e30;
        settings.train.learning_rate = 2.0;
        settings.train.epsilon = 1e-60;
        settings.group = vec![GroupSettings::default(), GroupSettings::default()];
        settings.group[1].learning_rate = Some(3.0);
        let before = ["lora.alpha", "train.shift"];
        assert_eq!(keys(&settings, Kind::Lora, false), before);
        assert_eq!(keys(&settings, Kind::Dpo, false), [&before[..], &["dpo.beta"]].concat());
        let behind = ["train.learning_rate", "train.epsilon", "group.2.learning_rate"];
        assert_eq!(keys(&settings, Kind::Lora, true), [&before[..], &behind].concat());
        settings.train.network = TrainedNetwork::Vae;
        assert_eq!(keys(&settings, Kind::Full, false), ["train.latent_noise"]);
        let ranges: Vec<String> =
            unusual(&settings, Kind::Full, true).iter().map(Row::range).collect();
        assert_eq!(ranges, ["at most 1000", "at most 1", "at least 1e-30", "at most 1"]);
    }

    #[test]
    fn without_anything_far_from_usual_what_is_known_is_said_and_nothing_else() {
        let (model, settings) = (Model::micro().unwrap(), Settings::default());
        let cause = |learned, narrow| {
            let (weights, first) = (vec![&*model.dit_weights, &*model.vae_weights], None);
            let run = Some((&settings, Kind::Lora));
            Cause { run, weights, first, learned, narrow }.of(error())
        };
        for narrow in [false, true] {
            let found = cause(false, narrow);
            let all = found.to_string();
            assert!(all.contains("node x: no update has a part in it, and no setting is"), "{all}");
            assert!(
                all.contains("the largest weight is ") && all.contains("\" of micro "),
                "{all}"
            );
            assert!(!all.contains("learning_rate"), "{all}");
            assert_eq!(all.contains("model.precision = \"f32\""), narrow);
            // Behind updates, what they made has grown.
            let found = cause(true, narrow);
            assert_eq!(found.message(), error().message());
            let help = found.help_text().unwrap();
            assert!(help.starts_with("take a smaller train.learning_rate"), "{help}");
            assert_eq!(help.contains("model.precision = \"f32\""), narrow);
        }
    }

    #[test]
    fn what_is_told_already_stays() {
        let (weights, first) = (Vec::new(), None);
        let cause = Cause { run: None, weights, first, learned: false, narrow: false };
        for told in [
            Error::input("E1001", "a non-finite value").help(DAMAGED),
            error().at("samples/1.mp4"),
            Error::input("E0960", "something else").help(UNKNOWN),
        ] {
            let text = told.to_string();
            assert_eq!(cause.of(told).to_string(), text);
        }
    }

    #[test]
    fn a_peak_is_the_value_farthest_from_zero_and_no_number_is_beyond_all() {
        let all: [(&str, &[f32]); 3] = [("a", &[1.0, -3.0]), ("b", &[]), ("c", &[2.0])];
        assert_eq!(Peak::of(all), Some(Peak { name: "a".to_owned(), size: 3.0 }));
        let bad = Peak::of([("a", &[1e38f32, f32::NAN][..])]).unwrap();
        assert!(bad.size.is_infinite() && !bad.is_usual());
        assert_eq!(Peak::of([]), None);
    }
}
