//! Recipes: everything that a run depends on, written next to its result as JSON, so that the run
//! can be repeated exactly.
//!
//! A recipe contains all settings, including those that were defaults, the hash of every file that
//! was read and fingerprints of the weights. The number of threads has no influence and is left
//! out. A recipe also lies in the result itself, see `recipe/inside.rs`.

mod foreign;
mod inside;

pub use foreign::Foreign;
pub use inside::{Inside, media_of, parts_again, read as read_inside};

mod choices;

use crate::adapter::{Adapter, Ground, base_of, other_base};
use crate::checkpoint::hash_file;
use crate::error::{Error, Result, unreadable};
use crate::files::is_standard_output;
use crate::input;
use crate::media::{MediaKind, ReadOptions, visit_frames};
use crate::model::{Model, Parts};
use crate::pipeline::{Pipeline, ReferenceSource, Request, Size, Tiles, schedule, settings};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use choices::Choices;

/// Version of the format that is written; newer versions are refused.
const VERSION: u64 = 1;
/// Version of recipes that decode latents, which earlier programs would misunderstand.
const VERSION_WITH_LATENTS: u64 = 2;
/// Version of recipes with adapters, which earlier programs would leave out.
const VERSION_WITH_ADAPTERS: u64 = 3;
/// Version of recipes with tiles, which earlier programs would leave out.
const VERSION_WITH_TILES: u64 = 4;
/// Version of recipes with further choices, which earlier programs would leave out.
const VERSION_WITH_CHOICES: u64 = 5;
/// The value of the `format` key of a recipe.
pub const FORMAT: &str = "anyid-rt recipe";
/// Largest recipe that is read, in bytes.
const LARGEST: u64 = 1 << 20;

/// A file that a run has read, with its hash.
#[derive(Clone, Debug, PartialEq)]
pub struct HashedFile {
    /// Absolute path.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
    /// What it is, in words; empty if this is obvious.
    pub description: String,
}

impl HashedFile {
    fn to_json(&self) -> Value {
        let mut value = json!({ "path": self.path.to_string_lossy(), "sha256": self.sha256 });
        if !self.description.is_empty() {
            value["read_as"] = json!(self.description);
        }
        value
    }
}

/// The model of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEntry {
    /// Folder and files, as absolute paths; empty for the built-in model.
    pub parts: Parts,
    /// Fingerprints of transformer, autoencoder and text encoder weights.
    pub fingerprints: [String; 3],
}

/// An adapter of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterEntry {
    /// The file of its tensors.
    pub file: HashedFile,
    /// The configuration that was read with it.
    pub config: Option<HashedFile>,
    /// What all of its changes were multiplied by.
    pub scale: f64,
    /// Fingerprint of the transformer that it was trained on, where it says so.
    pub base_model: Option<String>,
    /// Whether that, or an adapter that was on it, was missing, where it says so.
    pub other_base: Option<bool>,
}

impl AdapterEntry {
    /// Those of a model.
    fn all(model: &Model) -> Result<Vec<Self>> {
        let ground = Ground::of(&model.dit_weights)?;
        let entry = |(at, (adapter, scale)): (usize, &(Adapter, f64))| {
            let config = adapter.config.as_deref().map(hashed).transpose()?;
            let base_model = base_of(adapter).map(|base| base.model);
            let beside = model.parts_beside(at);
            let other = base_model.is_some();
            let other_base = other.then(|| other_base(adapter, &ground, &beside).is_some());
            Ok(Self { file: hashed(&adapter.path)?, config, scale: *scale, base_model, other_base })
        };
        model.adapters.iter().enumerate().map(entry).collect()
    }

    fn to_json(&self) -> Value {
        let mut value = self.file.to_json();
        value["scale"] = json!(self.scale);
        if let Some(config) = &self.config {
            value["config"] = config.to_json();
        }
        if let Some(base) = &self.base_model {
            value["base_model"] = json!(base);
        }
        if let Some(other) = self.other_base {
            value["other_base"] = json!(other);
        }
        value
    }

    fn read(value: &Value) -> Option<Self> {
        let config = match &value["config"] {
            Value::Null => None,
            other => Some(file(other)?),
        };
        let base_model = value["base_model"].as_str().map(str::to_owned);
        let (scale, other_base) = (value["scale"].as_f64()?, value["other_base"].as_bool());
        Some(Self { file: file(value)?, config, scale, base_model, other_base })
    }
}

/// All settings of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Version of the program that made it.
    pub product: String,
    /// The device that computed it, such as `cuda:0`; `cpu` in recipes from before it was written.
    pub device: String,
    /// What that device is, for people; empty where it was not written.
    pub device_words: String,
    /// Instructions or architecture of the device, with the version of its compiler if it has one; others
    /// differ in the last bits.
    pub instructions: String,
    /// The prompt as given.
    pub prompt: String,
    /// References, primary first.
    pub references: Vec<HashedFile>,
    /// Width, height and frames.
    pub size: [usize; 3],
    /// Frames per second of the result.
    pub fps: f64,
    /// Sampling steps.
    pub steps: usize,
    /// Solver by name.
    pub solver: String,
    /// Schedule by name.
    pub schedule: String,
    /// Schedule shift.
    pub shift: f64,
    /// Guidance scale.
    pub guidance: f64,
    /// Precision by name.
    pub precision: String,
    /// Element type of the residual stream by name.
    pub residual: String,
    /// Seed of the start noise.
    pub seed: u64,
    /// The file of the start noise, if it replaces the seed.
    pub noise: Option<HashedFile>,
    /// The model.
    pub model: ModelEntry,
    /// Adapters in the weights of its transformer, in order.
    pub adapters: Vec<AdapterEntry>,
    /// Latents that were decoded instead of sampled; then only size, model and frame rate of the
    /// recipe matter.
    pub latents: Option<HashedFile>,
    /// The file of the run's own latents, if decoding was done later. It is not needed again.
    pub decoded_from: Option<HashedFile>,
    /// Tiles of the autoencoder.
    pub tiles: Tiles,
    /// What else was chosen.
    pub choices: Choices,
    /// What the safeguards of the run were and found, for readers; a repeated run has its own.
    pub safeguards: Option<Value>,
    /// Where the result went; empty in a recipe that lay inside the result.
    pub output: PathBuf,
}

/// The files that a request's tensors came from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Of the start noise.
    pub noise: Option<PathBuf>,
    /// Of the latents.
    pub latents: Option<PathBuf>,
}

/// Path of the recipe of a result: in the same folder, with `.recipe.json` appended to the name.
pub fn path_beside(output: &Path) -> PathBuf {
    // Going through the components drops a trailing slash of a folder.
    let clean: PathBuf = output.components().collect();
    let mut name = clean.file_name().unwrap_or_default().to_os_string();
    name.push(".recipe.json");
    clean.with_file_name(name)
}

/// Hashes a file.
///
/// # Errors
/// E0911 if it cannot be read, E0330 to E0332 if it changes or fails while it is read.
pub fn hashed(path: &Path) -> Result<HashedFile> {
    // The error is the same as for every other file named on the command line.
    input::open_regular(path).map_err(|fault| unreadable(path, fault))?;
    let sha256 = hash_file(path)?;
    Ok(HashedFile { path: absolute(path)?, sha256, description: String::new() })
}

/// Hashes a reference and says what it is, decoding its first frame.
///
/// # Errors
/// E08xx if it is not a picture or clip.
pub fn hashed_reference(path: &Path) -> Result<HashedFile> {
    let info = visit_frames(path, &ReadOptions::default(), &mut |_| Ok(ControlFlow::Break(())))?;
    let kind = match info.kind {
        MediaKind::Image => "picture",
        MediaKind::Video => "clip",
    };
    let rate = info.fps.map_or_else(String::new, |fps| format!(", {fps:.3} frames a second"));
    let (width, height) = (info.width, info.height);
    let description = format!("{kind}, {}, {width}x{height}{rate}", info.description);
    Ok(HashedFile { description, ..hashed(path)? })
}

/// The absolute form of a path; links are kept. That of standard output is `-`.
///
/// # Errors
/// E0911 if the current folder is gone.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    if is_standard_output(path) {
        return Ok(PathBuf::from("-"));
    }
    std::path::absolute(path).map_err(|fault| unreadable(path, fault))
}

impl Recipe {
    /// The recipe of a run of `request` on `pipeline` to `output`. All files are read and hashed.
    ///
    /// # Errors
    /// E0954 for tensors without a file, E08xx for references, E0911 for other files, E092x for
    /// settings of sampling that do not go together.
    pub fn of(
        pipeline: &Pipeline,
        request: &Request,
        fps: f64,
        output: &Path,
        sources: &Sources,
    ) -> Result<Self> {
        let model = pipeline.model();
        let from_memory = |what: &str| {
            Error::input("E0954", format!("a recipe cannot name {what} in memory"))
                .help("give it as a file, or do without a recipe")
        };
        let file = |tensor: bool, path: &Option<PathBuf>, what: &str| match (tensor, path) {
            (true, Some(path)) => hashed(path).map(Some),
            (true, None) => Err(from_memory(what)),
            (false, _) => Ok(None),
        };
        if request.contexts.is_some() {
            return Err(from_memory("contexts that are tensors"));
        }
        let reference = |source: &ReferenceSource| match source {
            ReferenceSource::File(path) => hashed_reference(path),
            ReferenceSource::Pixels(_) => Err(from_memory("a reference that is pixels")),
        };
        let settings = settings(model, request);
        // Checks that solver, schedule and number of steps go together.
        let schedule = schedule(&settings, request)?;
        settings.solver(&schedule, 1)?;
        let precision = request.precision.unwrap_or_else(|| model.default_precision());
        let Size { width, height, frames } = request.size;
        let about = pipeline.backend().about();
        Ok(Self {
            product: env!("CARGO_PKG_VERSION").to_owned(),
            device: about.name.clone(),
            // Of a processor they tell the number of threads, which has no influence.
            device_words: about.capacity.map_or_else(String::new, |_| about.words.clone()),
            instructions: about.instructions.clone(),
            prompt: request.prompt.clone(),
            references: request.references.iter().map(reference).collect::<Result<_>>()?,
            size: [width, height, frames],
            fps,
            steps: schedule.steps(),
            solver: settings.solver.name().to_owned(),
            schedule: settings.schedule.name().to_owned(),
            shift: settings.shift,
            guidance: request.guidance,
            precision: precision.name().to_owned(),
            residual: request.residual.name().to_owned(),
            seed: request.seed,
            noise: file(request.noise.is_some(), &sources.noise, "noise that is a tensor")?,
            model: ModelEntry {
                parts: absolute_parts(&model.parts)?,
                fingerprints: model.fingerprints()?,
            },
            adapters: AdapterEntry::all(model)?,
            latents: file(
                request.latents.is_some(),
                &sources.latents,
                "latents that are a tensor",
            )?,
            decoded_from: None,
            tiles: request.tiles,
            safeguards: None,
            choices: Choices::of(request, request.first_frame.as_ref().map(reference).transpose()?),
            output: absolute(output)?,
        })
    }

    /// The recipe as JSON text.
    pub fn to_json(&self) -> Value {
        let file = HashedFile::to_json;
        let [transformer, vae, text] = &self.model.fingerprints;
        let mut value = json!({
            "format": FORMAT,
            "version": match (self.adapters.is_empty(), &self.latents) {
                _ if self.choices != Choices::default() => VERSION_WITH_CHOICES,
                _ if self.tiles != Tiles::default() => VERSION_WITH_TILES,
                (false, _) => VERSION_WITH_ADAPTERS,
                (true, Some(_)) => VERSION_WITH_LATENTS,
                (true, None) => VERSION,
            },
            "product": { "name": "anyid-rt", "version": self.product },
            "device": {
                "name": self.device,
                "words": self.device_words,
                "instructions": self.instructions,
            },
            "model": {
                "path": self.model.parts.folder.as_ref().map(|p| p.to_string_lossy()),
                "fingerprints": { "transformer": transformer, "vae": vae, "text_encoder": text },
            },
            "prompt": self.prompt,
            "references": self.references.iter().map(file).collect::<Vec<_>>(),
            "width": self.size[0],
            "height": self.size[1],
            "frames": self.size[2],
            "fps": self.fps,
            "steps": self.steps,
            "solver": self.solver,
            "schedule": self.schedule,
            "shift": self.shift,
            "guidance": self.guidance,
            "precision": self.precision,
            "residual": self.residual,
            "seed": self.seed,
            "noise": self.noise.as_ref().map(file),
            "output": self.output.to_string_lossy(),
        });
        if self.output.as_os_str().is_empty()
            && let Some(entries) = value.as_object_mut()
        {
            entries.remove("output");
        }
        // Earlier programs do not know these files; to them the fingerprints are those of another
        // model.
        for (part, file) in self.model.parts.files() {
            value["model"]["files"][part] = json!(file.to_string_lossy());
        }
        if !self.adapters.is_empty() {
            let list: Vec<Value> = self.adapters.iter().map(AdapterEntry::to_json).collect();
            value["adapters"] = json!(list);
        }
        for (half, tile) in [("encoder", self.tiles.encoder), ("decoder", self.tiles.decoder)] {
            if let Some(tile) = tile {
                value["tiles"][half] = json!(tile);
            }
        }
        if let Some(safeguards) = &self.safeguards {
            value["safeguards"] = safeguards.clone();
        }
        self.choices.add(&mut value);
        for (key, entry) in [("latents", &self.latents), ("decoded_from", &self.decoded_from)] {
            if let Some(entry) = entry {
                value[key] = file(entry);
            }
        }
        value
    }

    /// Reads a recipe: a file of its own, or the one inside a picture, a clip or a folder of frames.
    ///
    /// # Errors
    /// E0911 if it cannot be read, E0910 if it is not a recipe of this version.
    pub fn read(path: &Path) -> Result<Self> {
        if let Some(media) = media_of(path) {
            let inside = inside::recipe(&media)?;
            // The one beside it says where the files of the run are. Where the result goes is no part of it,
            // as it is none of the one inside.
            let beside = path_beside(path);
            return Ok(match beside.is_file().then(|| Self::read(&beside)) {
                Some(Ok(beside)) if beside.shared() == inside.to_json() => {
                    Self { output: PathBuf::new(), decoded_from: None, ..beside }
                }
                _ => inside,
            });
        }
        let bad = |what: String| no_recipe(what, path);
        let large = |limit| bad(format!("a recipe does not have more than {limit} bytes"));
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
        Self::parse(&bytes, path)
    }

    /// Reads a recipe from its bytes; `path` names the file that held them.
    ///
    /// # Errors
    /// E0910.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let bad = |what: String| no_recipe(what, path);
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|fault| bad(format!("the recipe is not JSON: {fault}")))?;
        Self::of_value(&value, path)
    }

    fn of_value(value: &Value, path: &Path) -> Result<Self> {
        let bad = |what: String| no_recipe(what, path);
        if value["format"] != FORMAT {
            return Err(bad(format!("this is not a recipe: its \"format\" is not \"{FORMAT}\"")));
        }
        if !(VERSION..=VERSION_WITH_CHOICES).any(|known| value["version"] == known) {
            let found = &value["version"];
            let newest = VERSION_WITH_CHOICES;
            return Err(bad(format!("recipe version {found}; this program reads up to {newest}")));
        }
        let key = |key: &str, what: &str| bad(format!("\"{key}\" is missing or not {what}"));
        let read = Reader { value, bad: &key };
        let fingerprints = ["transformer", "vae", "text_encoder"].map(|part| {
            value["model"]["fingerprints"][part].as_str().unwrap_or_default().to_owned()
        });
        if fingerprints.iter().any(String::is_empty) {
            return Err(key("model.fingerprints", "three texts"));
        }
        let references =
            value["references"].as_array().ok_or_else(|| key("references", "a list"))?;
        let files: Option<Vec<HashedFile>> = references.iter().map(file).collect();
        let optional = |name: &str| match &value[name] {
            Value::Null => Ok(None),
            other => file(other).map(Some).ok_or_else(|| key(name, "a path with its sha256")),
        };
        let (noise, latents) = (optional("noise")?, optional("latents")?);
        let decoded_from = optional("decoded_from")?;
        let tile = |half: &str| {
            let sides = match &value["tiles"][half] {
                Value::Null => return Ok(None),
                other => other.as_array().map_or(&[][..], Vec::as_slice),
            };
            let pixels = |side: &Value| side.as_u64().and_then(|n| usize::try_from(n).ok());
            match sides.iter().map(pixels).collect::<Option<Vec<usize>>>().as_deref() {
                Some(&[width, height]) => Ok(Some([width, height])),
                _ => Err(key(&format!("tiles.{half}"), "width and height")),
            }
        };
        let tiles = Tiles { encoder: tile("encoder")?, decoder: tile("decoder")? };
        let adapters: Option<Vec<AdapterEntry>> = match &value["adapters"] {
            Value::Null => Some(Vec::new()),
            other => {
                other.as_array().and_then(|list| list.iter().map(AdapterEntry::read).collect())
            }
        };
        Ok(Self {
            product: value["product"]["version"].as_str().unwrap_or_default().to_owned(),
            device: value["device"]["name"].as_str().unwrap_or("cpu").to_owned(),
            device_words: value["device"]["words"].as_str().unwrap_or_default().to_owned(),
            instructions: value["device"]["instructions"].as_str().unwrap_or_default().to_owned(),
            prompt: read.text("prompt")?,
            references: files.ok_or_else(|| key("references", "a list of paths with sha256"))?,
            size: [read.whole("width")?, read.whole("height")?, read.whole("frames")?],
            fps: read.number("fps")?,
            steps: read.whole("steps")?,
            solver: read.text("solver")?,
            schedule: read.text("schedule")?,
            shift: read.number("shift")?,
            guidance: read.number("guidance")?,
            precision: read.text("precision")?,
            // Older recipes were written before there was a choice.
            residual: match &value["residual"] {
                Value::Null => "f32".to_owned(),
                _ => read.text("residual")?,
            },
            seed: value["seed"].as_u64().ok_or_else(|| key("seed", "a whole number"))?,
            noise,
            model: ModelEntry {
                parts: parts(&value["model"]).ok_or_else(|| key("model.files", "known parts"))?,
                fingerprints,
            },
            adapters: adapters
                .ok_or_else(|| key("adapters", "a list of paths with sha256 and scale"))?,
            latents,
            decoded_from,
            tiles,
            choices: Choices::read(value, &key)?,
            safeguards: value.get("safeguards").cloned(),
            output: match &value["output"] {
                Value::Null => PathBuf::new(),
                _ => PathBuf::from(read.text("output")?),
            },
        })
    }
}

/// The folder and the files of a model.
fn parts(model: &Value) -> Option<Parts> {
    let folder = model["path"].as_str().map(PathBuf::from);
    let mut parts = Parts { folder, ..Parts::default() };
    if let Some(files) = model.get("files").filter(|files| !files.is_null()) {
        for (name, file) in files.as_object()? {
            *parts.file_mut(name)? = Some(PathBuf::from(file.as_str()?));
        }
    }
    Some(parts)
}

/// The absolute forms of the folder and the files of a model.
///
/// # Errors
/// E0911 if the current folder is gone.
pub fn absolute_parts(parts: &Parts) -> Result<Parts> {
    let mut out =
        Parts { folder: parts.folder.as_deref().map(absolute).transpose()?, ..Parts::default() };
    for (name, file) in parts.files() {
        *out.file_mut(name).expect("its name is one of the parts") = Some(absolute(file)?);
    }
    Ok(out)
}

fn no_recipe(what: String, path: &Path) -> Error {
    Error::input("E0910", what)
        .at(path.display())
        .help("give a result of `generate`, or the file beside it (OUT.recipe.json)")
}

fn file(value: &Value) -> Option<HashedFile> {
    Some(HashedFile {
        path: PathBuf::from(value["path"].as_str()?),
        sha256: value["sha256"].as_str()?.to_owned(),
        description: value["read_as"].as_str().unwrap_or_default().to_owned(),
    })
}

struct Reader<'v> {
    value: &'v Value,
    bad: &'v dyn Fn(&str, &str) -> Error,
}

impl Reader<'_> {
    fn text(&self, key: &str) -> Result<String> {
        let text = self.value[key].as_str();
        text.map(str::to_owned).ok_or_else(|| (self.bad)(key, "a text"))
    }

    fn number(&self, key: &str) -> Result<f64> {
        self.value[key].as_f64().ok_or_else(|| (self.bad)(key, "a number"))
    }

    fn whole(&self, key: &str) -> Result<usize> {
        let number = self.value[key].as_u64().and_then(|n| usize::try_from(n).ok());
        number.ok_or_else(|| (self.bad)(key, "a whole number"))
    }
}

/// Finds a file of the recipe again, at its old path or under its old name next to the recipe. Its
/// content must be unchanged.
///
/// # Errors
/// E0905 if it is gone or has changed.
pub fn find_again(entry: &HashedFile, recipe: &Path) -> Result<PathBuf> {
    let beside = entry.path.file_name().map(|name| recipe.with_file_name(name));
    let mut changed = false;
    // A recipe inside a result names files without their folders, and another may be in the current one.
    for path in
        [Some(entry.path.clone()), beside].into_iter().flatten().filter(|path| path.exists())
    {
        if hashed(&path)?.sha256 == entry.sha256 {
            return Ok(path);
        }
        changed = true;
    }
    let what = match changed {
        true => "is another file than the one the recipe's run read (SHA-256 differs)",
        false => "was read by the recipe's run and is gone",
    };
    Err(Error::input("E0905", format!("{} {what}", entry.path.display()))
        .at(recipe.display())
        .help("bring the file back, or give another explicitly beside --recipe"))
}

/// Compares the given model with that of the recipe.
///
/// # Errors
/// E0905 naming the part that differs.
pub fn check_model(
    entry: &ModelEntry,
    found: &[String; 3],
    source: &str,
    recipe: &Path,
) -> Result<()> {
    let parts = ["transformer", "autoencoder", "text encoder"];
    for (part, (old, new)) in parts.iter().zip(entry.fingerprints.iter().zip(found)) {
        if old != new {
            let what = format!("the {part} weights of {source} are not those of the recipe's run");
            return Err(Error::input("E0905", what)
                .at(recipe.display())
                .help("use the model of that run, or name another explicitly with --model"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::coding::{Codec, Coding, Pixels};

    pub(super) fn recipe() -> Recipe {
        Recipe {
            product: "0.1.0".into(),
            device: "cuda:0".into(),
            device_words: "NVIDIA H200, driver for CUDA 13.0".into(),
            instructions: "avx2".into(),
            prompt: "a \"walk\"".into(),
            references: vec![HashedFile {
                path: "/a/b.png".into(),
                sha256: "00".into(),
                description: "picture".into(),
            }],
            size: [192, 160, 9],
            fps: 23.976,
            steps: 8,
            solver: "unipc".into(),
            schedule: "wan".into(),
            shift: 5.0,
            guidance: 4.5,
            precision: "f32".into(),
            residual: "bf16".into(),
            seed: u64::MAX,
            noise: None,
            model: ModelEntry {
                parts: Parts::default(),
                fingerprints: ["a".into(), "b".into(), "c".into()],
            },
            adapters: Vec::new(),
            latents: None,
            decoded_from: None,
            tiles: Tiles::default(),
            choices: Choices::default(),
            safeguards: Some(json!({ "watermark": "off" })),
            output: "/o/out.mp4".into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = std::env::temp_dir().join(format!("anyid-recipe-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("r.json");
        let mut value = recipe().to_json();
        std::fs::write(&path, value.to_string()).unwrap();
        assert_eq!(Recipe::read(&path).unwrap(), recipe());
        // Numbers of many digits too: to the last bit, or the run would be another.
        for shift in [976.1844674407371, 24000.0 / 1001.0, 0.1 + 0.2, 1e-308, f64::MAX] {
            let exact = Recipe { shift, ..recipe() };
            std::fs::write(&path, exact.to_json().to_string()).unwrap();
            assert_eq!(Recipe::read(&path).unwrap(), exact);
        }
        let file = |name: &str| HashedFile {
            path: name.into(),
            sha256: "00".into(),
            description: String::new(),
        };
        let adapters = vec![
            AdapterEntry {
                file: file("/a.safetensors"),
                config: None,
                scale: 0.8,
                base_model: None,
                other_base: None,
            },
            AdapterEntry {
                file: file("/b"),
                config: Some(file("/c.json")),
                scale: -1.5,
                base_model: Some("ab".to_owned()),
                other_base: Some(true),
            },
        ];
        let tuned = Recipe { adapters, ..recipe() };
        let text = tuned.to_json();
        assert_eq!(text["version"], VERSION_WITH_ADAPTERS, "earlier programs refuse it");
        std::fs::write(&path, text.to_string()).unwrap();
        assert_eq!(Recipe::read(&path).unwrap(), tuned);
        let tiles = Tiles { encoder: None, decoder: Some([480, 704]) };
        let mut text = Recipe { tiles, ..recipe() }.to_json();
        assert_eq!(text["version"], VERSION_WITH_TILES, "earlier programs refuse it");
        std::fs::write(&path, text.to_string()).unwrap();
        assert_eq!(Recipe::read(&path).unwrap().tiles, tiles);
        for bad in [json!([480]), json!("480x704"), json!([-1, 704]), json!([480, 704, 1])] {
            text["tiles"]["decoder"] = bad;
            std::fs::write(&path, text.to_string()).unwrap();
            assert_eq!(Recipe::read(&path).unwrap_err().code(), "E0910");
        }
        let choices = Choices {
            negative_prompt: Some("blurry".to_owned()),
            sigmas: Some(vec![0.9998, 0.1 + 0.2]),
            guidance_interval: Some([0.25, 1.0]),
            cache: Some(0.05),
            first_frame: Some(file("/f.png")),
            coding: Coding {
                codec: Some(Codec::Av1),
                quality: Some(30),
                pixels: Some(Pixels::Yuv420Ten),
            },
        };
        let chosen = Recipe { choices, ..recipe() };
        let mut text = chosen.to_json();
        assert_eq!(text["version"], VERSION_WITH_CHOICES, "earlier programs refuse it");
        std::fs::write(&path, text.to_string()).unwrap();
        assert_eq!(Recipe::read(&path).unwrap(), chosen);
        for (key, bad) in [
            ("negative_prompt", json!(1)),
            ("sigmas", json!("0.5")),
            ("sigmas", json!(["0.5"])),
            ("guidance_interval", json!([1.0])),
            ("cache", json!("much")),
            ("first_frame", json!({ "path": "/f.png" })),
            ("codec", json!("theora")),
            ("quality", json!(-1)),
            ("pix_format", json!("rgb24")),
        ] {
            let good = std::mem::replace(&mut text[key], bad);
            std::fs::write(&path, text.to_string()).unwrap();
            let error = Recipe::read(&path).unwrap_err();
            assert!(error.code() == "E0910" && error.message().contains(key), "{error}");
            text[key] = good;
        }
        value.as_object_mut().unwrap().remove("residual");
        std::fs::write(&path, value.to_string()).unwrap();
        assert_eq!(Recipe::read(&path).unwrap().residual, "f32");
        value["residual"] = json!(16);
        std::fs::write(&path, value.to_string()).unwrap();
        assert_eq!(Recipe::read(&path).unwrap_err().code(), "E0910");
        value["residual"] = json!("f32");
        value["adapters"] = json!([{ "path": "a", "sha256": "0" }]);
        std::fs::write(&path, value.to_string()).unwrap();
        let error = Recipe::read(&path).unwrap_err();
        assert!(error.code() == "E0910" && error.message().contains("scale"), "{error}");
        value["adapters"] = json!([]);
        value["steps"] = json!("many");
        std::fs::write(&path, value.to_string()).unwrap();
        assert_eq!(Recipe::read(&path).unwrap_err().code(), "E0910");
        std::fs::write(&path, "{}").unwrap();
        assert_eq!(Recipe::read(&path).unwrap_err().code(), "E0910");
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(Recipe::read(&path).unwrap_err().code(), "E0911");
    }

    #[test]
    fn recipes_lie_beside_results() {
        assert_eq!(path_beside("a/out.mp4".as_ref()), Path::new("a/out.mp4.recipe.json"));
        assert_eq!(path_beside("frames/".as_ref()), Path::new("frames.recipe.json"));
    }

    #[test]
    fn another_model_is_named() {
        let found = ["a".to_owned(), "x".to_owned(), "c".to_owned()];
        let error = check_model(&recipe().model, &found, "folder", "r.json".as_ref()).unwrap_err();
        assert_eq!(error.code(), "E0905");
        assert!(error.message().contains("autoencoder"));
    }
}
