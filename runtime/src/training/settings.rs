//! The settings of a training run: a TOML file, with the paper's values as defaults (`anyid.md` §4.4).
//!
//! Unknown keys are errors, and so are values that no run could use; both name the key. Relative
//! paths start at the folder of the file. Nothing is opened here.

use super::cache::hex;
use super::parameters::Kind;
use super::rules::{GroupSettings, Method};
use super::schedule::Schedule;
use super::sources::{self, Override, Read, Sources};
use crate::engine::{budget, compile_error};
use crate::error::{Error, Result};
use crate::media::standardise::MOST_SIDE;
use crate::pipeline::Size;
use crate::sampling::schedule::check_steps;
use anyid_models::wan::{Geometry, Precision};
use anyid_passes::remat::Keeping;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Everything that a run is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The model that is trained.
    pub model: ModelSettings,
    /// What it is trained on.
    pub data: DataSettings,
    /// The size that clips are brought to.
    pub video: VideoSettings,
    /// The adapter, for `train lora` and `train dpo`.
    pub lora: LoraSettings,
    /// The objective and the optimiser.
    pub train: TrainSettings,
    /// Groups of parameters with an optimiser and a rate of their own.
    pub group: Vec<GroupSettings>,
    /// What only `train dpo` reads.
    pub dpo: DpoSettings,
    /// Where results go, and how often.
    pub run: RunSettings,
    /// Where the values are from.
    #[serde(skip)]
    sources: Sources,
}

/// The model that is trained.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    /// Its folder; the built-in model without it.
    pub path: Option<PathBuf>,
    /// Adapters in its weights, each `FILE` or `FILE:SCALE`: for DPO that of supervised tuning.
    pub adapters: Vec<String>,
    /// `f32` or `bf16`; by the stored weights without it.
    pub precision: Option<String>,
}

/// What the model is trained on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSettings {
    /// The manifest: `anyid.sample/1`, or `anyid.dpo/1` for DPO.
    pub manifest: PathBuf,
    /// SHA-256 that the manifest must have.
    pub sha256: Option<String>,
    /// What its paths start at; the folder of the manifest without it.
    pub root: Option<PathBuf>,
    /// A manifest that is only measured.
    pub validation: Option<PathBuf>,
    /// Where latents and texts are kept; `cache` in the folder of the run without it.
    pub cache: Option<PathBuf>,
    /// Whether faulty lines are left out instead of stopping the run.
    pub skip_faulty: bool,
    /// Whether targets may be enlarged by more than a third.
    pub allow_upscale: bool,
}

/// The size that clips are brought to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VideoSettings {
    /// Columns of pixels.
    pub width: usize,
    /// Rows of pixels.
    pub height: usize,
    /// Frames of a target, 4k+1.
    pub frames: usize,
    /// Frames a second.
    pub fps: f64,
}

/// The adapter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSettings {
    /// Rows of A and columns of B.
    pub rank: usize,
    /// The product of B and A counts alpha / rank times.
    pub alpha: f64,
    /// The linears that get one, by name; a star stands for any text.
    pub targets: Vec<String>,
}

/// How the noise levels of a loss are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossWeight {
    /// By a bell over the timesteps, as DiffSynth-Studio does.
    Diffsynth,
    /// All alike.
    None,
}

/// The network of a model that is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainedNetwork {
    /// The transformer, on noisy targets.
    #[default]
    Transformer,
    /// The autoencoder, on pixels.
    Vae,
    /// The text encoder, on labelled prompts.
    Text,
    /// A judge, on what frames show. It is no part of a model.
    Judge,
}

/// The objective and the optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainSettings {
    /// The network that `train full` trains.
    pub network: TrainedNetwork,
    /// Updates in all.
    pub steps: u64,
    /// Samples, or pairs, of an update.
    pub batch: u64,
    /// Clips that go through the network in one call; as many as a call is fast with without it.
    pub together: Option<u64>,
    /// Learning rate.
    pub learning_rate: f64,
    /// Updates over which the rate rises to that.
    pub warmup: u64,
    /// How it falls over the last part.
    pub schedule: Schedule,
    /// What share of the updates that part is.
    pub decay: f64,
    /// The share of the rate that it does not fall below.
    pub floor: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the mean square.
    pub epsilon: f64,
    /// Largest norm of the gradient; 0 for any.
    pub clip: f64,
    /// Decay of the average of the weights that is kept besides; 0 for none.
    pub average: f64,
    /// Whether that decay rises: in update k it is k/(k + 9) at most.
    pub average_warmup: bool,
    /// How often references and prompt are replaced by their null forms, together.
    pub null_probability: f64,
    /// How noise levels are weighted.
    pub loss_weight: LossWeight,
    /// What the noise on latents counts where the autoencoder is trained; 0 for none.
    pub latent_noise: f64,
    /// What the mean square of the latents counts in the loss of the autoencoder: it holds their
    /// size, which the noise would otherwise make grow.
    pub latent_penalty: f64,
    /// Shift of the noise levels.
    pub shift: f64,
    /// Noise levels in the table.
    pub timesteps: u32,
    /// Whether the levels of a batch are spread evenly over the table.
    pub stratified: bool,
    /// What each block keeps for the derivative: `all`, `products`, `heads`, `attention` or `carry`,
    /// from the most memory to the most work. The bits are the same.
    pub keep: Option<String>,
    /// Memory that the run may take, such as `24GiB`, or a number of bytes; decides what is kept where that
    /// is not said.
    #[serde(deserialize_with = "amount")]
    pub budget: Option<String>,
    /// Seed of the order, the noise and the first values.
    pub seed: u64,
}

/// An amount of memory, which is text, or a number of bytes.
fn amount<'de, D: Deserializer<'de>>(reader: D) -> std::result::Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected an amount of memory, such as \"24GiB\"")]
    enum Written {
        Text(String),
        Bytes(u64),
    }
    Ok(Option::<Written>::deserialize(reader)?.map(|written| match written {
        Written::Text(text) => text,
        Written::Bytes(bytes) => bytes.to_string(),
    }))
}

/// Whether text is a SHA-256 in hexadecimal digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Draws of noise level and noise for each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the number of draws, or \"fresh\"")]
pub enum Draws {
    /// So many, over which the levels are spread evenly. What the untrained network gets on them is
    /// computed once.
    Fixed(u32),
    /// Another one in every epoch.
    Fresh(Fresh),
}

/// The word for [`Draws::Fresh`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fresh {
    /// `fresh`.
    Fresh,
}

/// What only `train dpo` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoSettings {
    /// β, for the mean over elements and the factor ½.
    pub beta: f64,
    /// Draws of noise level and noise for each pair.
    pub draws: Draws,
    /// What the error of the chosen clip counts by itself.
    pub sft_weight: f64,
    /// What the error of the rejected clip counts.
    pub rejected_weight: f64,
    /// The probability that a preference is wrong.
    pub label_smoothing: f64,
    /// How often references and prompt of a pair are replaced by their null forms.
    pub null_probability: f64,
}

/// Where results go, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSettings {
    /// The folder of the run.
    pub folder: PathBuf,
    /// Updates between two checkpoints.
    pub checkpoint_every: u64,
    /// Updates between two measurements of the validation set.
    pub validate_every: u64,
    /// Draws for each sample of it.
    pub validation_draws: u32,
    /// Measurements without a new best after which the run ends; 0 for any number.
    pub patience: u64,
    /// Samples of the validation set, or else of the manifest, that videos are made of behind each
    /// checkpoint.
    pub samples: usize,
    /// Sampling steps of these.
    pub sample_steps: usize,
    /// A judge that reads them: the weights, or the folder of the run that trained it.
    pub judge: Option<PathBuf>,
}

impl Default for VideoSettings {
    fn default() -> Self {
        Self { width: 1280, height: 704, frames: 121, fps: 24.0 }
    }
}

impl Default for LoraSettings {
    fn default() -> Self {
        let own = ["q", "k", "v", "o"].map(|name| format!("blocks.*_attn.{name}"));
        let feed_forward = ["0", "2"].map(|name| format!("blocks.*.ffn.{name}"));
        Self { rank: 128, alpha: 128.0, targets: own.into_iter().chain(feed_forward).collect() }
    }
}

impl Default for TrainSettings {
    fn default() -> Self {
        Self {
            network: TrainedNetwork::Transformer,
            steps: 1000,
            batch: 64,
            together: None,
            learning_rate: 1e-4,
            warmup: 0,
            schedule: Schedule::Constant,
            decay: 0.35,
            floor: 0.0,
            weight_decay: 0.001,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            clip: 1.0,
            average: 0.0,
            average_warmup: false,
            null_probability: 0.1,
            loss_weight: LossWeight::Diffsynth,
            latent_noise: 0.05,
            latent_penalty: 2e-4,
            shift: 5.0,
            timesteps: 1000,
            stratified: false,
            keep: None,
            budget: None,
            seed: 0,
        }
    }
}

impl Default for DpoSettings {
    fn default() -> Self {
        Self {
            beta: 500.0,
            draws: Draws::Fixed(16),
            sft_weight: 0.0,
            rejected_weight: 1.0,
            label_smoothing: 0.0,
            null_probability: 0.0,
        }
    }
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("run"),
            checkpoint_every: 100,
            validate_every: 100,
            validation_draws: 4,
            patience: 0,
            samples: 0,
            sample_steps: 50,
            judge: None,
        }
    }
}

/// Learning rate of preferences where none is given: with the paper's they forget what was learned.
const DPO_RATE: f64 = 1e-5;

/// Keys in which a run that goes on may differ from what it was: they change no value before its end.
/// The manifest is compared by its hash.
const MAY_CHANGE: [&str; 16] = [
    "train.steps",
    "train.keep",
    "train.budget",
    "run.folder",
    "run.checkpoint_every",
    "run.patience",
    "run.samples",
    "run.sample_steps",
    "run.judge",
    "data.manifest",
    "data.sha256",
    "data.validation",
    "data.root",
    "data.cache",
    "model.path",
    "model.adapters",
];

/// Digest of the settings that a run keeps from its beginning to its end.
pub fn lasting_digest(settings: &Value) -> String {
    let mut hasher = Sha256::new();
    let all = flattened(settings);
    for (name, value) in &all {
        if lasts(name, &all) {
            hasher.update(format!("{name}={value}\n"));
        }
    }
    hex(hasher)
}

/// Whether a run keeps a setting from its beginning to its end. Rates that fall do so by the number of
/// updates.
fn lasts(name: &str, all: &BTreeMap<String, Value>) -> bool {
    let falls = |name: &str| all.get(name).is_some_and(|how| how != "constant");
    !MAY_CHANGE.contains(&name) || (name == "train.steps" && falls("train.schedule"))
}

/// Settings by `section.key`; those of groups by `group.NUMBER.key`, from 1.
fn flattened(settings: &Value) -> BTreeMap<String, Value> {
    fn walk(name: String, value: &Value, out: &mut BTreeMap<String, Value>) {
        let below =
            |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
        match value {
            Value::Object(keys) => {
                keys.iter().for_each(|(key, value)| walk(below(key), value, out));
            }
            Value::Array(tables) if tables.iter().all(Value::is_object) => {
                (1..).zip(tables).for_each(|(at, table)| walk(below(&format!("{at}")), table, out));
            }
            value => drop(out.insert(name, value.clone())),
        }
    }
    let mut out = BTreeMap::new();
    walk(String::new(), settings, &mut out);
    out
}

impl Settings {
    /// Reads the file at `path`, then what `overrides` say. Defaults are those for `kind`.
    ///
    /// # Errors
    /// E0911 where it cannot be read, E0955 for what is not a setting, E0956 for a value that no run
    /// can use, E0524 and E0602 for what is kept and the budget; the
    /// place is the line or the flag that gave the value.
    pub fn open(path: &Path, overrides: &[Override], kind: Kind) -> Result<Self> {
        let text = super::read_text(path, 1 << 20)?;
        Self::of(Read::of_text(path, &text, overrides, &Self::is_fit)?, kind)
    }

    /// Those of a table that is part of another file: errors name `place`, and paths start at `folder`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of_table(table: toml::Table, place: &str, folder: &Path, kind: Kind) -> Result<Self> {
        Self::of(Read::of_table(table, place, folder, &Self::is_fit), kind)
    }

    fn is_fit(table: &toml::Table) -> std::result::Result<(), toml::de::Error> {
        toml::Value::Table(table.clone()).try_into::<Self>().map(drop)
    }

    fn of(read: Read, kind: Kind) -> Result<Self> {
        let Read { table, sources, mut faults, unknown } = read;
        let settings: std::result::Result<Self, _> = toml::Value::Table(table.clone()).try_into();
        let file = sources.file().to_owned();
        let settings = settings.map_err(|error| sources::no_setting(&error, None, &file))?;
        let mut settings = Self { sources, ..settings };
        if kind == Kind::Dpo && !settings.sources.gave("train.learning_rate") {
            settings.train.learning_rate = DPO_RATE;
        }
        faults.extend(settings.faults(&table, &unknown));
        sources::refuse_all(faults, &file)?;
        Ok(settings)
    }

    /// Whether a file or flag gave `key` its value.
    pub fn gave(&self, key: &str) -> bool {
        self.sources.gave(key)
    }

    /// The file that they are from, or what they are a part of.
    pub fn file(&self) -> &str {
        self.sources.file()
    }

    /// The folder of the cache.
    pub fn cache(&self) -> PathBuf {
        self.data.cache.clone().unwrap_or_else(|| self.run.folder.join("cache"))
    }

    /// Where `key` got its value: a flag, or a file with the line.
    pub fn place(&self, key: &str) -> String {
        self.sources.place(key)
    }

    /// The errors of values that no run could use, but for keys that are `unknown`.
    fn faults(&self, table: &toml::Table, unknown: &BTreeSet<String>) -> Vec<Error> {
        let TrainSettings { beta1, beta2, epsilon, clip, average, .. } = self.train;
        let TrainSettings { learning_rate, weight_decay, null_probability, shift, .. } = self.train;
        let dpo = &self.dpo;
        let share = |value: f64| (0.0..1.0).contains(&value);
        let whole = |value: f64| value.is_finite() && value >= 0.0;
        let positive = |value: f64| value.is_finite() && value > 0.0;
        // What is a number of the network itself has to be one of f32.
        let single = |value: f64| value <= 3e38;
        let scale = self.lora.alpha / self.lora.rank.max(1) as f64;
        let (noise, penalty) = (self.train.latent_noise, self.train.latent_penalty);
        let draws = match dpo.draws {
            Draws::Fixed(count) => (1..=10_000).contains(&count),
            Draws::Fresh(Fresh::Fresh) => true,
        };
        let hash = self.data.sha256.as_deref().is_none_or(is_sha256);
        let shown = self.run.samples > 0 || unknown.contains("run.samples");
        let adapters = self.model.adapters.is_empty()
            || self.train.network == TrainedNetwork::Transformer
            || unknown.contains("train.network");
        let rows = [
            (
                "model.adapters",
                adapters,
                "none: they change the transformer, which is not trained here",
            ),
            ("data.manifest", !self.data.manifest.as_os_str().is_empty(), "the path of a file"),
            ("data.sha256", hash, "64 hexadecimal digits"),
            ("video.fps", positive(self.video.fps), "a number above 0"),
            ("lora.rank", (1..=4096).contains(&self.lora.rank), "1 to 4096"),
            (
                "lora.alpha",
                positive(self.lora.alpha) && single(scale),
                "a number above 0, at most 3e38 times lora.rank",
            ),
            ("lora.targets", !self.lora.targets.is_empty(), "at least one name"),
            ("train.steps", self.train.steps > 0, "1 or more"),
            ("train.batch", (1..=1 << 20).contains(&self.train.batch), "1 to 1048576"),
            ("train.together", self.train.together != Some(0), "1 or more"),
            ("train.learning_rate", positive(learning_rate), "a number above 0"),
            ("train.weight_decay", whole(weight_decay), "0 or more"),
            ("train.beta1", share(beta1), "at least 0 and below 1"),
            ("train.beta2", share(beta2), "at least 0 and below 1"),
            ("train.epsilon", positive(epsilon), "a number above 0"),
            ("train.clip", whole(clip), "0 (no limit) or more"),
            ("train.average", share(average), "at least 0 (no average) and below 1"),
            ("train.decay", self.train.decay > 0.0 && self.train.decay <= 1.0, "above 0, up to 1"),
            ("train.floor", (0.0..=1.0).contains(&self.train.floor), "0 to 1"),
            ("train.null_probability", (0.0..=1.0).contains(&null_probability), "0 to 1"),
            ("train.latent_noise", whole(noise) && single(noise), "0 or more, at most 3e38"),
            ("train.latent_penalty", whole(penalty) && single(penalty), "0 or more, at most 3e38"),
            ("train.shift", positive(shift), "a number above 0"),
            ("train.timesteps", (2..=100_000).contains(&self.train.timesteps), "2 to 100000"),
            ("dpo.beta", positive(dpo.beta), "a number above 0"),
            ("dpo.draws", draws, "1 to 10000, or \"fresh\""),
            ("dpo.sft_weight", whole(dpo.sft_weight), "0 or more"),
            ("dpo.rejected_weight", whole(dpo.rejected_weight), "0 or more"),
            ("dpo.label_smoothing", (0.0..0.5).contains(&dpo.label_smoothing), "0 to below 0.5"),
            ("dpo.null_probability", (0.0..=1.0).contains(&dpo.null_probability), "0 to 1"),
            ("run.checkpoint_every", self.run.checkpoint_every > 0, "1 or more"),
            ("run.validate_every", self.run.validate_every > 0, "1 or more"),
            ("run.validation_draws", self.run.validation_draws > 0, "1 or more"),
            ("run.judge", self.run.judge.is_none() || shown, "run.samples as well"),
        ];
        let known = |key: &str| {
            let section = key.split_once('.').map_or(key, |(section, _)| section);
            !unknown.contains(key) && !unknown.contains(section)
        };
        let rows = rows.map(|(key, fine, allowed)| (key.to_owned(), fine, allowed));
        let rows = rows.into_iter().chain(self.rows_of_groups(unknown));
        let refused = rows.filter(|(key, fine, _)| !fine && known(key));
        let refused = refused.map(|(key, _, allowed)| self.refused(table, &key, allowed));
        let mut out: Vec<Error> = refused.collect();
        let mut add = |key: &str, found: Result<()>| {
            // Of a value that is known by its key here and by another name elsewhere.
            let named = |error: Error| {
                let message = format!("{key}: {}", error.message());
                let named = Error::input(error.code(), message).at(self.place(key));
                error.help_text().into_iter().fold(named, |named, help| named.help(help))
            };
            out.extend(found.err().filter(|_| known(key)).map(named));
        };
        add("run.sample_steps", check_steps(self.run.sample_steps));
        let keep = self.train.keep.as_ref();
        let keep = keep.map(|text| text.parse::<Keeping>().map(drop).map_err(compile_error));
        add("train.keep", keep.unwrap_or(Ok(())));
        let budget = self.train.budget.as_ref();
        let budget = budget.map(|text| budget::parse(text).map(drop));
        add("train.budget", budget.unwrap_or(Ok(())));
        let precision = self.precision(Precision::F32).err();
        out.extend(precision.filter(|_| known("model.precision")));
        out
    }

    /// What groups have, as `(key, whether a run can use it, what it can use)`.
    fn rows_of_groups(&self, unknown: &BTreeSet<String>) -> Vec<(String, bool, &'static str)> {
        let mut out = Vec::new();
        for (number, group) in (1..).zip(&self.group) {
            let patterns = &group.patterns;
            let named = !patterns.is_empty() && patterns.iter().all(|pattern| !pattern.is_empty());
            let rate = group.learning_rate.is_none_or(|rate| rate.is_finite() && rate > 0.0);
            let decay = group.weight_decay.is_none_or(|decay| decay.is_finite() && decay >= 0.0);
            let momentum = match (group.momentum, group.optimiser) {
                (None, _) => true,
                _ if unknown.contains(&format!("group.{number}.optimiser")) => true,
                (Some(momentum), Method::Muon) => (0.0..1.0).contains(&momentum),
                (Some(_), Method::AdamW) => false,
            };
            out.extend(
                [
                    ("match", named, "the name of a parameter, or a list of names"),
                    ("learning_rate", rate, "a number above 0"),
                    ("weight_decay", decay, "0 or more"),
                    ("momentum", momentum, "at least 0 and below 1, and optimiser = \"muon\""),
                ]
                .map(|(key, fine, allowed)| (format!("group.{number}.{key}"), fine, allowed)),
            );
        }
        out
    }

    /// The error of the value of a key that no run can use.
    fn refused(&self, table: &toml::Table, key: &str, allowed: &str) -> Error {
        let message = match sources::value_at(table, key) {
            Some(given) => format!("{key} cannot be {given}"),
            None => format!("{key} is not set"),
        };
        Error::input("E0956", message).at(self.place(key)).help(format!("give {allowed}"))
    }

    /// Refuses a size that a model does not take, or that clips are not brought to, with all that is wrong
    /// with it.
    ///
    /// # Errors
    /// E0901, or E0902 where only the number of frames is at fault; the place is the line or the flag that
    /// gave the value, or all of them.
    pub fn check_size(&self, geometry: Geometry) -> Result<()> {
        let Some(misfit) = self.size().misfit(geometry, MOST_SIDE) else { return Ok(()) };
        let mut places = Vec::new();
        for part in misfit.parts() {
            let place = self.place(&format!("video.{part}"));
            if !places.contains(&place) {
                places.push(place);
            }
        }
        Err(misfit.error().at(places.join(", ")))
    }

    /// The precision, `stored` where nothing is said.
    ///
    /// # Errors
    /// E0956 for a name that none has.
    pub fn precision(&self, stored: Precision) -> Result<Precision> {
        match self.model.precision.as_deref() {
            None => Ok(stored),
            Some("f32") => Ok(Precision::F32),
            Some("bf16") => Ok(Precision::Bf16),
            Some(other) => {
                let message = format!("model.precision cannot be \"{other}\"");
                let place = self.place("model.precision");
                Err(Error::input("E0956", message).at(place).help("give f32 or bf16"))
            }
        }
    }

    /// The size of targets.
    pub fn size(&self) -> Size {
        let VideoSettings { width, height, frames, .. } = self.video;
        Size { width, height, frames }
    }

    /// All of it as JSON: what checkpoints keep.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).expect("settings have JSON forms")
    }

    /// Where a run under these settings differs from one under `before`: key, then and now. What `before`
    /// does not say had its default.
    pub fn differences(&self, before: &Value) -> Vec<(String, String, String)> {
        differing(before, &self.to_json())
    }
}

/// Where settings `before` and `now` differ in what a run keeps: key, then and now. What `before` does not
/// say had its default.
pub fn differing(before: &Value, now: &Value) -> Vec<(String, String, String)> {
    let read = serde_json::from_value::<Settings>(before.clone());
    let before = flattened(&read.map_or_else(|_| before.clone(), |read| read.to_json()));
    let now = flattened(now);
    let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    // A group that only one of them has is one difference, named by its patterns.
    let group = |name: &str| {
        let (number, key) = name.strip_prefix("group.")?.split_once('.')?;
        let own = format!("group.{number}.match");
        let one = before.contains_key(&own) != now.contains_key(&own);
        one.then(|| (format!("group.{number}"), key == "match"))
    };
    let rows = names.into_iter().filter_map(|name| {
        if let Some((group, named)) = group(name) {
            return named.then(|| (group, text(before.get(name)), text(now.get(name))));
        }
        let (then, now_is) = (before.get(name), now.get(name));
        let differs = then != now_is && (lasts(name, &now) || lasts(name, &before));
        differs.then(|| (name.clone(), text(then), text(now_is)))
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str, overrides: &[&str]) -> Result<Settings> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        let overrides: Vec<Override> = overrides.iter().map(|item| Override::set(*item)).collect();
        Settings::open(&path, &overrides, Kind::Lora)
    }

    const LEAST: &str = "[data]\nmanifest = \"train.jsonl\"\n";

    #[test]
    fn defaults_are_the_papers() {
        let settings = open(LEAST, &[]).unwrap();
        let TrainSettings { learning_rate, weight_decay, batch, null_probability, shift, .. } =
            settings.train;
        assert_eq!((learning_rate, weight_decay, batch), (1e-4, 0.001, 64));
        assert_eq!((null_probability, shift, settings.train.timesteps), (0.1, 5.0, 1000));
        assert_eq!(
            (settings.lora.rank, settings.lora.alpha, settings.dpo.beta),
            (128, 128.0, 500.0)
        );
        assert_eq!(settings.size(), Size { width: 1280, height: 704, frames: 121 });
        assert_eq!(settings.train.loss_weight, LossWeight::Diffsynth);
        assert!(settings.data.manifest.is_absolute(), "paths start at the folder of the file");
    }

    #[test]
    fn flags_override_the_file() {
        let overrides = ["train.steps=7", "lora.targets=[\"blocks.*\"]", "model.precision=bf16"];
        let settings = open(LEAST, &overrides).unwrap();
        assert_eq!((settings.train.steps, settings.lora.targets), (7, vec!["blocks.*".to_owned()]));
        assert_eq!(settings.model.precision.as_deref(), Some("bf16"));
        let draws = |item: &str| open(LEAST, &[item]).unwrap().dpo.draws;
        assert_eq!(draws("dpo.draws=4"), Draws::Fixed(4));
        for item in ["dpo.draws=fresh", "dpo.draws=\"fresh\""] {
            let settings = open(LEAST, &[item]).unwrap();
            assert_eq!(settings.dpo.draws, Draws::Fresh(Fresh::Fresh));
            assert_eq!(settings.to_json()["dpo"]["draws"], "fresh");
        }
    }

    #[test]
    fn what_is_no_setting_is_named_with_its_line() {
        for (text, overrides, place) in [
            ("[data]\nmanifest = \"x\"\n[train]\nstep = 3\n", &[][..], "run.toml:4"),
            ("[data]\nmanifest = 3\n", &[], "run.toml:2"),
            ("[data\n", &[], "run.toml:1"),
            ("{\"schema\": \"anyid.sample/1\"}", &[], "run.toml"),
            ("[nothing]\n[data]\nmanifest = \"x\"\n", &[], "run.toml:1"),
            (LEAST, &["train.steps=2", "train.step=3"], "--set train.step=3"),
            (LEAST, &["train.steps=many", "lora.rank=2"], "--set train.steps=many"),
            (LEAST, &["steps=3"], "--set steps=3"),
            (LEAST, &["train.steps"], "--set train.steps"),
            (LEAST, &["trian.steps=2"], "--set trian.steps=2"),
            (LEAST, &["dpo.draws=some"], "--set dpo.draws=some"),
            ("[data]\nmanifest = \"x\"\n[dpo]\ndraws = \"some\"\n", &[], "run.toml:4"),
        ] {
            let error = open(text, overrides).unwrap_err();
            assert_eq!(error.code(), "E0955", "{text} {overrides:?}");
            let found = error.place().unwrap();
            assert!(found.ends_with(place), "{error}, expected {place}");
        }
        let error = open(LEAST, &["train.steps=many"]).unwrap_err();
        assert!(error.message().contains("expected a whole number"), "{error}");
        let help = open(LEAST, &["train.step=3"]).unwrap_err();
        assert!(help.help_text().unwrap().contains("did you mean steps?"), "{help}");
    }

    #[test]
    fn an_error_names_the_line_or_the_flag_that_gave_the_value() {
        let text = format!("{LEAST}[train]\nbatch = 0\n[video]\nwidth = 100\n");
        for (text, overrides, place, said) in [
            (text.as_str(), &[][..], "run.toml:4", "train.batch cannot be 0"),
            (&text, &["train.batch=-0"], "--set train.batch=-0", "train.batch cannot be 0"),
            (LEAST, &["train.clip=nan", "train.steps=4"], "--set train.clip=nan", "cannot be nan"),
            (LEAST, &["lora.alpha=1e300"], "--set lora.alpha=1e300", "lora.alpha cannot be 1e300"),
            (LEAST, &["train.latent_noise=1e39"], "--set train.latent_noise=1e39", "cannot be"),
            (LEAST, &["train.keep=some"], "--set train.keep=some", "some"),
            (LEAST, &["train.budget=much"], "--set train.budget=much", "much"),
            (LEAST, &["model.precision=f8"], "--set model.precision=f8", "f8"),
            ("", &[], "run.toml", "data.manifest is not set"),
            ("\u{feff}[train]\nsteps = 0\n", &["data.manifest=a"], "run.toml:2", "cannot be 0"),
        ] {
            let error = open(text, overrides).unwrap_err();
            assert!(error.place().unwrap().ends_with(place), "{error}, expected {place}");
            assert!(error.message().contains(said), "{error}, expected {said}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_model_and_all_that_is_wrong_is_said_at_once() {
        let text = format!("{LEAST}[video]\nwidth = 100\nheight = 20000\n");
        let flags = ["video.height=50", "video.frames=6"];
        for (text, overrides, code, places, said, help) in [
            (
                text.as_str(),
                &[][..],
                "E0901",
                &["run.toml:4", "run.toml:5"][..],
                &["width 100 is", "of 32 up to 16384; height 20000 is"][..],
                "the nearest size is 96x16384",
            ),
            (
                &text,
                &flags,
                "E0901",
                &["run.toml:4", "--set video.height=50", "--set video.frames=6"],
                &["width 100 is", "height 50 is", "the number of frames cannot be 6"],
                "the nearest size is 96x64, 5 frames",
            ),
            (
                LEAST,
                &["video.height=8"],
                "E0901",
                &["--set video.height=8"],
                &["height 8 is not a positive multiple of 32 up to 16384"],
                "the nearest size is 1280x32",
            ),
            (
                LEAST,
                &["video.frames=8"],
                "E0902",
                &["--set video.frames=8"],
                &["the number of frames cannot be 8"],
                "use 5 or 9",
            ),
        ] {
            let settings = open(text, overrides).unwrap();
            let error = settings.check_size(Geometry::TI2V_5B).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            let found: Vec<&str> = error.place().unwrap().split(", ").collect();
            assert_eq!(found.len(), places.len(), "{error}");
            let mut each = found.iter().zip(places);
            assert!(each.all(|(found, place)| found.ends_with(place)), "{error}");
            said.iter().for_each(|said| assert!(error.message().contains(said), "{said}: {error}"));
            assert_eq!(error.help_text(), Some(help), "{error}");
        }
        let smaller = Geometry { space: 8, time: 1, patch: [1, 1] };
        open(LEAST, &["video.height=8", "video.frames=8"]).unwrap().check_size(smaller).unwrap();
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_and_what_follows_from_it_is_not() {
        let rows = |text: &str, overrides: &[&str]| {
            let error = open(text, overrides).unwrap_err();
            let rows = error.message().lines().skip(1).map(|row| row.trim().to_owned());
            (error.code(), rows.collect::<Vec<String>>())
        };
        let text = "[data]\nmanifst = \"x\"\n[train]\nsteps = 0\nbatch = -1\n[trian]\na = 1\n";
        let (code, found) = rows(text, &["lora.rank=0", "lora.alpha=x", "nothing"]);
        assert_eq!(code, "E0955");
        let wanted = [
            "run.toml:2: unknown field `manifst`; did you mean manifest?",
            "run.toml:4: train.steps cannot be 0; give 1 or more",
            "run.toml:5: train.batch: invalid value: integer `-1`",
            "run.toml:6: unknown field `trian`; did you mean train?",
            "--set lora.alpha=x: lora.alpha: invalid type: string \"x\", expected a number",
            "--set nothing: \"nothing\" is not section.key=value; write it as in",
            "--set lora.rank=0: lora.rank cannot be 0; give 1 to 4096",
        ];
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
        for (row, wanted) in found.iter().zip(wanted) {
            assert!(row.contains(wanted), "{row}, expected {wanted}");
        }
        let (code, found) = rows(LEAST, &["train.batch=0", "train.steps=0"]);
        assert_eq!((code, found.len()), ("E0956", 2), "{found:?}");
        let (code, found) = rows(LEAST, &["train.keep=some", "train.budget=much"]);
        assert_eq!((code, found.len()), ("E0956", 2), "{found:?}");
        // Of a group whose optimiser is none, whether it has a momentum is not known.
        let group = "[[group]]\nmatch = \"a\"\noptimiser = \"sgd\"\nmomentum = 0.5\n";
        let error = open(&format!("{LEAST}{group}"), &[]).unwrap_err();
        assert!(error.message().contains("unknown variant `sgd`"), "{error}");
    }

    #[test]
    fn a_budget_is_text_or_a_number_of_bytes() {
        let budget = |item: &str| open(LEAST, &[item]).map(|settings| settings.train.budget);
        assert_eq!(budget("train.budget=24GiB").unwrap().as_deref(), Some("24GiB"));
        assert_eq!(budget("train.budget=1000").unwrap().as_deref(), Some("1000"));
        let error = budget("train.budget=0").unwrap_err();
        assert_eq!(error.code(), "E0602");
        assert_eq!(error.message(), "train.budget: \"0\" is no memory at all");
        let settings = open(LEAST, &["train.budget=1GiB"]).unwrap();
        let again: Settings = serde_json::from_value(settings.to_json()).unwrap();
        assert_eq!(again.train.budget, settings.train.budget);
    }

    #[test]
    fn preferences_have_a_learning_rate_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        std::fs::write(&path, LEAST).unwrap();
        let rate = |overrides: &[Override], kind| {
            Settings::open(&path, overrides, kind).unwrap().train.learning_rate
        };
        assert_eq!((rate(&[], Kind::Dpo), rate(&[], Kind::Lora)), (1e-5, 1e-4));
        assert_eq!(rate(&[Override::set("train.learning_rate=1e-4")], Kind::Dpo), 1e-4);
    }

    #[test]
    fn values_that_no_run_can_use_are_refused() {
        assert_eq!(open("", &[]).unwrap_err().code(), "E0956", "there is no manifest");
        for (item, code) in [
            ("train.batch=0", "E0956"),
            ("train.together=0", "E0956"),
            ("train.learning_rate=-1.0", "E0956"),
            ("train.learning_rate=nan", "E0956"),
            ("train.null_probability=1.5", "E0956"),
            ("train.beta2=1.0", "E0956"),
            ("train.latent_noise=-0.1", "E0956"),
            ("train.latent_penalty=-1.0", "E0956"),
            ("train.network=code", "E0955"),
            ("train.decay=0.0", "E0956"),
            ("train.decay=1.5", "E0956"),
            ("train.floor=-0.1", "E0956"),
            ("train.schedule=steps", "E0955"),
            ("lora.rank=0", "E0956"),
            ("dpo.label_smoothing=0.5", "E0956"),
            ("dpo.draws=0", "E0956"),
            ("model.precision=f8", "E0956"),
            ("run.sample_steps=0", "E0923"),
        ] {
            let error = open(LEAST, &[item]).unwrap_err();
            assert_eq!(error.code(), code, "{item}: {error}");
        }
    }

    #[test]
    fn settings_that_differ_are_listed_unless_they_change_nothing() {
        let settings = open(LEAST, &[]).unwrap();
        let mut other = settings.clone();
        other.train.steps = 5;
        other.run.folder = "elsewhere".into();
        assert!(other.differences(&settings.to_json()).is_empty());
        other.train.learning_rate = 0.5;
        other.lora.rank = 4;
        let names: Vec<String> =
            other.differences(&settings.to_json()).into_iter().map(|row| row.0).collect();
        assert_eq!(names, ["lora.rank", "train.learning_rate"]);
    }

    #[test]
    fn the_number_of_updates_lasts_where_rates_fall_by_it() {
        let settings = open(LEAST, &["train.schedule=linear"]).unwrap();
        let mut longer = settings.clone();
        longer.train.steps = 5000;
        let [a, b] = [&settings, &longer].map(|s| lasting_digest(&s.to_json()));
        assert_ne!(a, b);
        let rows = longer.differences(&settings.to_json());
        let row = |name: &str, then: &str, now: &str| [name, then, now].map(str::to_owned).into();
        assert_eq!(rows, [row("train.steps", "1000", "5000")]);
        longer.train.schedule = Schedule::Constant;
        let rows = longer.differences(&settings.to_json());
        let schedule = row("train.schedule", "\"linear\"", "\"constant\"");
        assert_eq!(rows, [schedule, row("train.steps", "1000", "5000")]);
        // A checkpoint of before there were schedules.
        let mut old = open(LEAST, &[]).unwrap().to_json();
        for key in ["schedule", "decay", "floor"] {
            old["train"].as_object_mut().unwrap().remove(key).unwrap();
        }
        old.as_object_mut().unwrap().remove("group").unwrap();
        assert_eq!(open(LEAST, &["train.steps=7"]).unwrap().differences(&old), []);
    }

    #[test]
    fn groups_are_read_in_order_and_what_is_wrong_has_its_line() {
        let groups = "\
[[group]]
match = \"head.*\"
learning_rate = 0.5
[[group]]
match = [\"blocks.*_attn.q.weight\", \"blocks.*.ffn.*.weight\"]
optimiser = \"muon\"
";
        let with = |more: &str| open(&format!("{LEAST}{groups}{more}\n"), &[]);
        let settings = with("momentum = 0.9").unwrap();
        let [head, blocks] = &settings.group[..] else { panic!("{:?}", settings.group) };
        assert_eq!(
            (&head.patterns[..], head.optimiser),
            (&["head.*".to_owned()][..], Method::AdamW)
        );
        assert_eq!((head.learning_rate, blocks.learning_rate), (Some(0.5), None));
        assert_eq!((blocks.patterns.len(), blocks.optimiser), (2, Method::Muon));
        for (more, code, line, said) in [
            ("momentum = 1.0", "E0956", 9, "group.2.momentum cannot be 1.0"),
            ("learning_rate = -0.5", "E0956", 9, "group.2.learning_rate cannot be -0.5"),
            ("weight_decay = nan", "E0956", 9, "group.2.weight_decay cannot be nan"),
            ("[[group]]\nmatch = []", "E0956", 10, "group.3.match cannot be []"),
            ("[[group]]\nmatch = \"a\"\nmomentum = 0.5", "E0956", 11, "group.3.momentum cannot be"),
            ("rate = 1.0", "E0955", 9, "unknown field `rate`"),
            ("[[group]]\nmatch = 3", "E0955", 10, "a name in quotes, or a list of names"),
            ("[[group]]\nmatch = \"a\"\noptimiser = \"sgd\"", "E0955", 11, "unknown variant `sgd`"),
        ] {
            let error = with(more).unwrap_err();
            assert_eq!(error.code(), code, "{error}");
            assert!(
                error.place().unwrap().ends_with(&format!("run.toml:{line}")),
                "{more}: {error}"
            );
            assert!(error.message().contains(said), "{error}");
        }
        let error = with("[[group]]").unwrap_err();
        assert_eq!((error.code(), error.message()), ("E0956", "group.3.match is not set"));
        let error = open(LEAST, &["group.1.momentum=0.5"]).unwrap_err();
        assert_eq!(error.code(), "E0955", "{error}");
        assert!(error.help_text().unwrap().contains("in the file"), "{error}");
        // What differs is named by the number of the group.
        let before = with("momentum = 0.9").unwrap().to_json();
        let names = |now: Settings| -> Vec<String> {
            now.differences(&before).into_iter().map(|row| row.0).collect()
        };
        assert_eq!(names(with("").unwrap()), ["group.2.momentum"]);
        let fewer = open(LEAST, &[]).unwrap();
        assert_eq!(names(fewer), ["group.1", "group.2"]);
    }
}
