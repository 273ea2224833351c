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
use anyid_files::manifest::is_sha256;
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
    /// How much videos look like the person.
    pub validate: ValidateSettings,
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
    /// Whether it shows people who agreed to certain uses only, so that their consent is required.
    pub private: bool,
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

/// How much the videos of `run.samples` look like the person of their references.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidateSettings {
    /// Settings of an evaluation, with what finds faces and what compares them.
    pub config: Option<PathBuf>,
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
const MAY_CHANGE: [&str; 18] = [
    "train.steps",
    "train.keep",
    "train.budget",
    "run.folder",
    "run.checkpoint_every",
    "run.patience",
    "run.samples",
    "run.sample_steps",
    "run.judge",
    "validate.config",
    "data.manifest",
    "data.sha256",
    "data.validation",
    "data.root",
    "data.cache",
    "data.private",
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
            ("validate.config", self.validate.config.is_none() || shown, "run.samples as well"),
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
mod tests;
