//! A complete model: configurations, open weight files, tokenizer and scheduler settings.
//!
//! It is made of a folder, of single files, or of a folder of which files replace some parts
//! (`parts`). Whatever it is made of, every tensor of every network is there once and has the shape
//! that its configuration asks for.

mod parts;

pub use parts::{PART_NAMES, Parts};

use crate::adapter::{self, Adapter, Ground, Part, Tolerance, Wanted};
use crate::checkpoint::{Checkpoint, JsonFile, WeightSet};
use crate::error::{Error, Result};
use crate::init;
use crate::sampling::SchedulerSettings;
use crate::text::{PromptTokenizer, micro_tokenizer_json};
use crate::weights::ModelWeights;
use anyid_models::builtin;
use anyid_models::wan::config::{ConfigError, DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::names::{self, Component};
use anyid_models::wan::{Geometry, Precision};
use std::path::Path;
use std::sync::Arc;

/// Seed of the weights of [`Model::micro`].
const MICRO_SEED: u64 = 20_260_325;
/// Origin of the built-in model.
pub const BUILT_IN: &str = "built-in model";

/// Everything a run needs from a model.
pub struct Model {
    /// Transformer sizes.
    pub dit: DitConfig,
    /// Autoencoder sizes and latent statistics.
    pub vae: VaeConfig,
    /// Text encoder sizes.
    pub text: TextConfig,
    /// Transformer weights.
    pub dit_weights: Arc<ModelWeights>,
    /// Autoencoder weights.
    pub vae_weights: Arc<ModelWeights>,
    /// Text encoder weights.
    pub text_weights: Arc<ModelWeights>,
    /// Prompt tokenizer.
    pub tokenizer: PromptTokenizer,
    /// Solver and schedule that the folder asks for.
    pub scheduler: SchedulerSettings,
    /// The folder it was opened from, and the files of parts that are not the folder's.
    pub parts: Parts,
    /// Its origin: a path, or [`BUILT_IN`].
    pub source: String,
    /// Adapters in the transformer's weights, with their strengths.
    pub adapters: Vec<(Adapter, f64)>,
    /// The same, by the digests of their files.
    pub parts_of_adapters: Vec<Part>,
    /// What each of them puts into the weights.
    pub used_adapters: Vec<Vec<adapter::Used>>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

impl Model {
    /// Opens a diffusers folder or an original checkpoint folder. Of the weight files, only the
    /// headers are read.
    ///
    /// # Errors
    /// E07xx for the folder and its configurations, E03xx for checkpoint files and tensors.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::of_parts(&Parts::folder(path.as_ref()))
    }

    /// The built-in model: it was trained on people of the drawn world, and knows nothing else.
    ///
    /// # Errors
    /// None in practice; a broken invariant is reported, not panicked on.
    pub fn built_in() -> Result<Self> {
        let json = |name: &str| -> Result<JsonFile> {
            let value = serde_json::from_slice(builtin::file(name));
            let value = value.map_err(|fault| Error::internal("E1009", fault.to_string()))?;
            Ok(JsonFile { path: Path::new(BUILT_IN).join(name), value })
        };
        let set = |name: &str| -> Result<WeightSet> {
            let label = Path::new(BUILT_IN).join(name);
            let file = Checkpoint::from_bytes(builtin::file(name), label)?;
            WeightSet::from_checkpoints(vec![file])
        };
        let dit = configured(&json("transformer/config.json")?, DitConfig::from_diffusers)?;
        let vae = configured(&json("vae/config.json")?, VaeConfig::from_diffusers)?;
        let text = configured(&json("text_encoder/config.json")?, TextConfig::from_diffusers)?;
        let scheduler = json("scheduler/scheduler_config.json")?;
        let tokenizer = builtin::file("tokenizer/tokenizer.json");
        Self::assemble(
            checked(dit, &set("transformer/diffusion_pytorch_model.safetensors")?)?,
            checked(vae, &set("vae/diffusion_pytorch_model.safetensors")?)?,
            checked(text, &set("text_encoder/model.safetensors")?)?,
            PromptTokenizer::parse(tokenizer, BUILT_IN)?,
            SchedulerSettings::from_diffusers(&scheduler.value)?,
            BUILT_IN.into(),
            Vec::new(),
        )
    }

    /// Whether it is [`Model::built_in`], with adapters or without.
    pub fn is_built_in(&self) -> bool {
        self.parts.is_empty() && self.source == BUILT_IN
    }

    /// A tiny network of the same structure with random weights from a fixed seed, for tests. Its
    /// output is texture, not a person.
    ///
    /// # Errors
    /// None in practice; a broken invariant is reported, not panicked on.
    pub fn micro() -> Result<Self> {
        let (dit, vae, text) = (DitConfig::micro(), VaeConfig::micro(), TextConfig::micro());
        let make = |tensors: &[(String, Vec<u64>)], label: &str| -> Result<WeightSet> {
            let bytes = init::safetensors_bytes(tensors, MICRO_SEED);
            WeightSet::from_checkpoints(vec![Checkpoint::from_bytes(bytes, label)?])
        };
        let dit_set = make(&names::dit_tensors(&dit), "micro transformer")?;
        let vae_set = make(&names::vae_tensors(&vae), "micro autoencoder")?;
        let text_set = make(&names::text_tensors(&text), "micro text encoder")?;
        let tokenizer =
            PromptTokenizer::parse(micro_tokenizer_json().as_bytes(), "micro tokenizer")?;
        Self::assemble(
            checked(dit, &dit_set)?,
            checked(vae, &vae_set)?,
            checked(text, &text_set)?,
            tokenizer,
            SchedulerSettings::default(),
            "micro model".into(),
            vec!["the micro model has random weights: its video is texture, not a person".into()],
        )
    }

    fn assemble(
        (dit, dit_weights): (DitConfig, ModelWeights),
        (vae, vae_weights): (VaeConfig, ModelWeights),
        (text, text_weights): (TextConfig, ModelWeights),
        tokenizer: PromptTokenizer,
        scheduler: SchedulerSettings,
        source: String,
        warnings: Vec<String>,
    ) -> Result<Self> {
        agree(&dit, &vae, &text, &source)?;
        if tokenizer.id_limit() > text.vocab_size {
            let (ids, rows) = (tokenizer.id_limit(), text.vocab_size);
            let what = "token ids of the tokenizer and rows of the embedding";
            return Err(disagree((what, ids, rows), &source));
        }
        if dit.patch[0] != 1 {
            let message = format!(
                "\"patch_size\": patches of {} frames; a picture has one latent frame, so the \
                 transformer must take them one by one",
                dit.patch[0]
            );
            return Err(Error::input("E0713", message).at(&source));
        }
        Ok(Self {
            dit,
            vae,
            text,
            dit_weights: Arc::new(dit_weights),
            vae_weights: Arc::new(vae_weights),
            text_weights: Arc::new(text_weights),
            tokenizer,
            scheduler,
            parts: Parts::default(),
            source,
            adapters: Vec::new(),
            parts_of_adapters: Vec::new(),
            used_adapters: Vec::new(),
            warnings,
        })
    }

    /// How pixels and frames become latents and tokens.
    pub fn geometry(&self) -> Geometry {
        Geometry::of(&self.dit, &self.vae)
    }

    /// The same model with adapters in the weights of its transformer, each at its strength.
    /// Nothing is copied: weights are corrected on their way to the device.
    ///
    /// # Errors
    /// Those of [`adapter::open`], E0373 for DoRA behind another adapter.
    pub fn with_adapters(mut self, wanted: &[Wanted], tolerance: Tolerance) -> Result<Self> {
        if wanted.is_empty() {
            return Ok(self);
        }
        let modules = adapter::modules_of(self.dit_weights.set());
        let ground = Ground::of(&self.dit_weights)?;
        let from = self.adapters.len();
        for wanted in wanted {
            let adapter = adapter::open(&wanted.path, &modules, tolerance)?;
            self.parts_of_adapters.push(Part::of(&adapter, wanted.scale)?);
            self.used_adapters.push(adapter::used(&wanted.to_string(), &adapter, wanted.scale)?);
            self.adapters.push((adapter, wanted.scale));
        }
        for at in from..self.adapters.len() {
            let (beside, (adapter, _)) = (self.parts_beside(at), &self.adapters[at]);
            self.warnings.extend(adapter::other_base(adapter, &ground, &beside));
            self.warnings.extend(adapter.warnings.iter().cloned());
        }
        let (before, used) = self.used_adapters.split_at(from);
        let same = adapter::twice(&ground.merged, &used.concat(), &before.concat()).into_iter();
        self.warnings.extend(same.map(|same| format!("an adapter counts twice: {same}")));
        let list: Vec<(&Adapter, f64)> = self.adapters.iter().map(|(a, s)| (a, *s)).collect();
        self.dit_weights = Arc::new(self.dit_weights.with_adapters(&list)?);
        Ok(self)
    }

    /// What is put into the weights beside the adapter at a place.
    pub fn parts_beside(&self, at: usize) -> Vec<Part> {
        let all = self.used_adapters.iter().enumerate().filter(|(other, _)| *other != at);
        all.flat_map(|(_, used)| adapter::parts_of(used)).collect()
    }

    /// What all adapters put into the weights.
    pub fn parts_on(&self) -> Vec<Part> {
        self.used_adapters.iter().flat_map(|used| adapter::parts_of(used)).collect()
    }

    /// The default precision of a run: bf16 if the transformer is mostly stored as bf16, else f32.
    pub fn default_precision(&self) -> Precision {
        if self.dit_weights.mostly_bf16() { Precision::Bf16 } else { Precision::F32 }
    }

    /// Fingerprints of the three weight sets, for recipes.
    ///
    /// # Errors
    /// E0330 to E0332 if a file has changed or failed since it was opened.
    pub fn fingerprints(&self) -> Result<[String; 3]> {
        Ok([
            self.dit_weights.fingerprint()?,
            self.vae_weights.set().fingerprint()?,
            self.text_weights.set().fingerprint()?,
        ])
    }
}

/// The error E0714 of parts that have this of another size each.
fn disagree((what, a, b): (&str, usize, usize), source: &str) -> Error {
    Error::input("E0714", format!("the parts do not belong together: {what}: {a} and {b}"))
        .at(source)
        .help("take transformer, autoencoder and text encoder from one model")
}

/// Refuses networks that cannot work together.
///
/// # Errors
/// E0714.
fn agree(dit: &DitConfig, vae: &VaeConfig, text: &TextConfig, source: &str) -> Result<()> {
    let pairs = [
        ("channels of transformer and autoencoder", dit.in_channels, vae.z_dim),
        ("channels into and out of the transformer", dit.in_channels, dit.out_channels),
        ("width of the text context", dit.text_dim, text.d_model),
    ];
    match pairs.into_iter().find(|(_, a, b)| a != b) {
        Some(pair) => Err(disagree(pair, source)),
        None => Ok(()),
    }
}

/// The configuration of a network, for what all of them have.
trait Network {
    fn component(&self) -> Component;
    fn tensors(&self) -> Vec<(String, Vec<u64>)>;
}

impl Network for DitConfig {
    fn component(&self) -> Component {
        Component::Dit
    }

    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        names::dit_tensors(self)
    }
}

impl Network for VaeConfig {
    fn component(&self) -> Component {
        VaeConfig::component(self)
    }

    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        names::vae_tensors(self)
    }
}

impl Network for TextConfig {
    fn component(&self) -> Component {
        Component::Text
    }

    fn tensors(&self) -> Vec<(String, Vec<u64>)> {
        names::text_tensors(self)
    }
}

/// A configuration with the weights of `set`, which are those that it asks for.
fn checked<N: Network>(config: N, set: &WeightSet) -> Result<(N, ModelWeights)> {
    let expected = config.tensors();
    let weights = ModelWeights::recognise(set, config.component())?.shaped(&expected)?;
    weights.require(&expected)?;
    Ok((config, weights))
}

fn configured<C>(
    file: &JsonFile,
    read: impl Fn(&serde_json::Value) -> std::result::Result<C, ConfigError>,
) -> Result<C> {
    read(&file.value).map_err(|error| config_error(error, &file.path))
}

fn config_error(error: ConfigError, path: &Path) -> Error {
    let message = if error.key.is_empty() {
        error.message.clone()
    } else {
        format!("\"{}\": {}", error.key, error.message)
    };
    Error::input("E0713", message)
        .at(path.display())
        .help("this must be the configuration of a Wan2.2 TI2V model")
}
