//! Models that look at pictures and say how likely they show what they should not: the user's own ONNX
//! files, of which none comes with the program.
//!
//! Here is what does not need a model: which frames of a video are looked at, what follows from their
//! values, and the settings. The adapters are in `adapter` (feature `moderation`). Values are kept for
//! a report; pictures never are.

#[cfg(feature = "moderation")]
mod adapter;
#[cfg(feature = "moderation")]
pub use adapter::Checker;
#[cfg(not(feature = "moderation"))]
mod without;
#[cfg(not(feature = "moderation"))]
pub use without::Checker;

use anyid_files::error::unreadable;
use anyid_files::{Error, Result, input};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Frames from one that is looked at to the next; the last is looked at too.
pub const EVERY: usize = 12;
/// Frames whose values are averaged, so that a single odd one decides nothing.
const TOGETHER: usize = 3;
/// Largest file of settings.
const LARGEST: u64 = 1 << 20;

/// Whether this program runs models that look at pictures.
pub const OFFERED: bool = cfg!(feature = "moderation");

/// What a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A classifier: a picture to the logits of classes.
    VitBinary,
    /// CLIP's encoder of pictures, and a head that makes one value of the embedding.
    ClipHead,
    /// CLIP's encoder of pictures, and embeddings of concepts with the cosine from which each counts.
    ClipConcepts,
}

/// What is done to the value of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// Nothing: it is from 0 to 1 already.
    None,
    /// 1/(1 + e⁻ˣ).
    Sigmoid,
}

/// One model of the settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// What it is.
    pub kind: Kind,
    /// The classifier, or CLIP's encoder.
    pub model: PathBuf,
    /// The head of `clip-head`.
    pub head: Option<PathBuf>,
    /// The concepts of `clip-concepts`, in JSON.
    pub concepts: Option<PathBuf>,
    /// Side of the pictures that the model takes.
    #[serde(default = "usual_size")]
    pub size: usize,
    /// Means of red, green and blue; those of the kind if not given.
    pub mean: Option<[f32; 3]>,
    /// Their deviations.
    pub std: Option<[f32; 3]>,
    /// The classes, in the order of the logits.
    #[serde(default = "usual_labels")]
    pub labels: Vec<String>,
    /// Which of them is the unwanted one.
    #[serde(default = "usual_index")]
    pub nsfw_index: usize,
    /// What is done to the value of a head.
    pub activation: Option<Activation>,
    /// Name of the model's input.
    #[serde(default = "usual_input")]
    pub input: String,
    /// Name of its output.
    pub output: Option<String>,
    /// Width of the embeddings.
    #[serde(default = "usual_width")]
    pub width: usize,
    /// Names of the head's input and output.
    #[serde(default = "usual_ends")]
    pub head_names: [String; 2],
}

fn usual_size() -> usize {
    224
}

fn usual_labels() -> Vec<String> {
    ["normal", "nsfw"].map(str::to_owned).to_vec()
}

fn usual_index() -> usize {
    1
}

fn usual_input() -> String {
    "pixel_values".to_owned()
}

fn usual_width() -> usize {
    768
}

fn usual_ends() -> [String; 2] {
    ["embedding", "value"].map(str::to_owned)
}

/// The settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// From this value on a video is refused.
    #[serde(default = "usual_block")]
    pub block: f64,
    /// From this value on there is a warning.
    #[serde(default = "usual_warn")]
    pub warn: f64,
    /// The models, of whose values the largest counts.
    #[serde(rename = "adapter")]
    pub adapters: Vec<Adapter>,
}

fn usual_block() -> f64 {
    0.85
}

fn usual_warn() -> f64 {
    0.60
}

impl Settings {
    /// Reads settings. Relative paths start at the folder of the file.
    ///
    /// # Errors
    /// E0911 it cannot be read, E1113 it is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |what: String| {
            let advice = "docs/safety.md describes models that look at frames";
            Error::input("E1113", what).at(path.display()).help(advice)
        };
        let large = |limit| bad(format!("it has more than {limit} bytes"));
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("this is no text".to_owned()))?;
        let mut settings: Self = toml::from_str(text).map_err(|fault| {
            bad(format!("these are no settings: {}", fault.to_string().trim_end()))
        })?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        for adapter in &mut settings.adapters {
            let files = [&mut adapter.head, &mut adapter.concepts].into_iter().flatten();
            files.chain([&mut adapter.model]).for_each(|file| *file = folder.join(&*file));
        }
        settings.fault().map_or(Ok(settings), |what| Err(bad(what)))
    }

    fn fault(&self) -> Option<String> {
        let Self { block, warn, adapters } = self;
        if !(0.0..=1.0).contains(warn) || !(*warn..=1.0).contains(block) {
            return Some("0 <= warn <= block <= 1 does not hold".to_owned());
        }
        if adapters.is_empty() {
            return Some("there is no [[adapter]]".to_owned());
        }
        adapters.iter().find_map(|adapter| {
            let Adapter { kind, head, concepts, size, labels, nsfw_index, width, .. } = adapter;
            let is = |wanted| *kind == wanted;
            if !(16..=1024).contains(size) || !(1..=8192).contains(width) {
                return Some("size is from 16 to 1024, width from 1 to 8192".to_owned());
            }
            if is(Kind::VitBinary) && (labels.len() < 2 || *nsfw_index >= labels.len()) {
                return Some("nsfw_index is none of the labels".to_owned());
            }
            if is(Kind::ClipHead) != head.is_some()
                || is(Kind::ClipHead) != adapter.activation.is_some()
            {
                return Some(
                    "head and activation belong to clip-head, which needs them".to_owned(),
                );
            }
            if is(Kind::ClipConcepts) != concepts.is_some() {
                return Some("concepts belong to clip-concepts, which needs them".to_owned());
            }
            let deviations = adapter.std.iter().flatten();
            let fine = deviations.chain(adapter.mean.iter().flatten()).all(|v| v.is_finite())
                && adapter.std.is_none_or(|std| std.iter().all(|v| *v > 0.0));
            (!fine).then(|| "mean and std are numbers, and std is above 0".to_owned())
        })
    }

    /// What follows from the values of frames.
    pub fn decide(&self, values: &[f64]) -> Decision {
        match score(values) {
            value if value >= self.block => Decision::Block,
            value if value >= self.warn => Decision::Warn,
            _ => Decision::Allow,
        }
    }
}

/// What follows from values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Allow,
    /// A warning.
    Warn,
    /// There is no result.
    Block,
}

impl Decision {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Warn => "warn",
            Self::Block => "block",
        }
    }
}

/// Whether a frame of a video is looked at.
pub fn looked_at(index: usize, frames: usize) -> bool {
    index.is_multiple_of(EVERY) || index + 1 == frames
}

/// The value of a video: the largest mean of neighbours, three where there are as many.
pub fn score(values: &[f64]) -> f64 {
    let together = TOGETHER.min(values.len()).max(1);
    let means = values.windows(together).map(|part| part.iter().sum::<f64>() / together as f64);
    means.fold(0.0, f64::max)
}

/// What is kept of a check: values, and no picture.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// For each reference, its values.
    pub references: Vec<Vec<f64>>,
    /// Frames that were looked at, with their values.
    pub frames: Vec<(usize, f64)>,
}

impl Report {
    /// The value of the frames.
    pub fn score(&self) -> f64 {
        score(&self.frames.iter().map(|(_, value)| *value).collect::<Vec<f64>>())
    }

    /// As JSON.
    pub fn to_json(&self, settings: &Settings) -> Value {
        let values: Vec<f64> = self.frames.iter().map(|(_, value)| *value).collect();
        json!({
            "decision": settings.decide(&values).name(),
            "score": score(&values),
            "block": settings.block,
            "warn": settings.warn,
            "references": self.references,
            "frames": self.frames.iter().map(|(at, v)| json!({ "frame": at, "value": v })).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_odd_frame_decides_nothing() {
        let looked = |frames: usize| (0..frames).filter(|at| looked_at(*at, frames)).count();
        assert_eq!([1, 5, 13, 121].map(looked), [1, 2, 2, 11]);
        assert_eq!(score(&[]), 0.0);
        assert_eq!(score(&[0.9]), 0.9);
        assert_eq!(score(&[0.0, 0.9, 0.0, 0.0]), 0.9 / 3.0);
        assert_eq!(score(&[0.0, 0.25, 1.0, 1.0]), 0.75);
        let settings: Settings =
            toml::from_str("[[adapter]]\nkind = \"vit-binary\"\nmodel = \"m\"").unwrap();
        for (values, decision) in [
            (&[0.0, 1.0, 0.0][..], Decision::Allow),
            (&[0.7, 0.7, 0.7], Decision::Warn),
            (&[0.1, 0.9, 0.9, 0.9], Decision::Block),
        ] {
            assert_eq!(settings.decide(values), decision, "{values:?}");
        }
    }

    #[test]
    fn settings_that_are_wrong_are_refused() {
        let folder = crate::testing::TempFolder::new("moderation");
        let vit = "[[adapter]]\nkind = \"vit-binary\"\nmodel = \"m.onnx\"\n";
        for (text, what) in [
            ("x = 1".to_owned(), "unknown field"),
            (String::new(), "missing field"),
            ("adapter = []".to_owned(), "no [[adapter]]"),
            (format!("block = 0.5\nwarn = 0.6\n{vit}"), "does not hold"),
            (format!("{vit}nsfw_index = 2"), "none of the labels"),
            (format!("{vit}head = \"h\""), "belong to clip-head"),
            (vit.replace("vit-binary", "clip-head"), "belong to clip-head"),
            (vit.replace("vit-binary", "clip-concepts"), "clip-concepts"),
            (vit.replace("vit-binary", "vgg"), "unknown variant"),
            (format!("{vit}std = [1.0, 0.0, 1.0]"), "above 0"),
            (format!("{vit}size = 4"), "from 16"),
        ] {
            let path = folder.write("image.toml", &text);
            let error = Settings::read(&path).unwrap_err();
            assert!(error.code() == "E1113" && error.to_string().contains(what), "{text}: {error}");
        }
        let path = folder.write("image.toml", vit);
        let settings = Settings::read(&path).unwrap();
        assert_eq!(settings.adapters[0].model, path.with_file_name("m.onnx"));
    }
}
