//! The settings of `generate`: flags override the recipe, and the recipe overrides defaults.
//!
//! Only the recipe and the start noise are read here; names are checked where they are used.

use crate::cmd::generate::args::{Cache, Generate, Interval, Seed};
use crate::cmd::{lora, size};
use crate::recipe::{self, AdapterEntry, Recipe};
use anyid_ir::Tensor;
use anyid_models::wan::{Geometry, Precision, Residual};
use anyid_runtime::adapter::Wanted;
use anyid_runtime::checkpoint::Checkpoint;
use anyid_runtime::engine::budget;
use anyid_runtime::files;
use anyid_runtime::model::Parts;
use anyid_runtime::pipeline::{Budget, FoundState, Misfit, STEP_KEY, Tiles, state_beside};
use anyid_runtime::weights::read_tensors;
use anyid_runtime::{Error, Request, Result, Size};
use std::path::{Path, PathBuf};

/// The settings of a run, with flags overriding the recipe.
pub(super) struct Wishes {
    pub(super) references: Vec<PathBuf>,
    pub(super) first_frame: Option<PathBuf>,
    pub(super) prompt: String,
    pub(super) output: PathBuf,
    pub(super) model: Parts,
    pub(super) adapters: Vec<Wanted>,
    pub(super) noise: Option<PathBuf>,
    pub(super) recipe: Option<(PathBuf, Recipe)>,
    pub(super) latents: Option<Latents>,
    /// Where the state of sampling is stored, and looked for.
    pub(super) state: Option<PathBuf>,
}

/// Latents to decode.
pub(super) struct Latents {
    pub(super) path: PathBuf,
    /// `f32[C,F,h,w]`.
    pub(super) tensor: Tensor,
    /// Whether the recipe came with them and is that of the run that made them.
    pub(super) own: bool,
}

/// The files and the prompt, from flags or recipe.
pub(super) fn wishes(args: &Generate) -> Result<Wishes> {
    let mut recipe = match &args.recipe {
        Some(path) => Some((path.clone(), Recipe::read(path)?)),
        None => resumed(args)?,
    };
    let repeated =
        recipe.as_ref().and_then(|(path, recipe)| Some((path, recipe.latents.as_ref()?)));
    let latents = match (&args.latents, repeated) {
        (Some(path), _) => {
            let (tensor, own) = read_latents(path)?;
            recipe = own.map(|own| (path.clone(), own));
            Some(Latents { path: path.clone(), tensor, own: recipe.is_some() })
        }
        (None, Some((recipe, entry))) => {
            let path = recipe::find_again(entry, recipe)?;
            let (tensor, _) = read_latents(&path)?;
            Some(Latents { path, tensor, own: false })
        }
        (None, None) => None,
    };
    let old = recipe.as_ref().filter(|_| latents.is_none());
    let references = match old {
        Some((path, recipe)) if args.references.is_empty() => {
            recipe.references.iter().map(|f| recipe::find_again(f, path)).collect::<Result<_>>()?
        }
        _ => args.references.clone(),
    };
    let first = old.and_then(|(path, recipe)| Some((path, recipe.choices.first_frame.as_ref()?)));
    let first_frame = match (&args.first_frame, first) {
        (Some(path), _) => Some(path.clone()),
        (None, Some((recipe, entry))) => Some(recipe::find_again(entry, recipe)?),
        (None, None) => None,
    };
    let noise = match (&args.noise, old) {
        (Some(path), _) => Some(path.clone()),
        (None, Some((path, recipe))) if args.seed.is_none() => {
            recipe.noise.as_ref().map(|f| recipe::find_again(f, path)).transpose()?
        }
        _ => None,
    };
    let adapters = match old {
        Some((path, recipe)) if args.adapters.is_empty() => {
            recipe.adapters.iter().map(|entry| adapter_again(entry, path)).collect::<Result<_>>()?
        }
        _ => lora::wanted(&args.adapters)?,
    };
    let prompt = args.prompt.clone().or_else(|| old.map(|(_, r)| r.prompt.clone()));
    let old = recipe.as_ref();
    // What went to a pipe is not continued there: nobody reads it any more.
    let left = |recipe: &Recipe| {
        let named = !recipe.output.as_os_str().is_empty();
        named && (latents.is_none() || !files::is_direct(&recipe.output))
    };
    let repeated = old.filter(|(_, recipe)| left(recipe)).map(|(_, recipe)| recipe.output.clone());
    let output = args.output.clone().or(repeated);
    let given = args.parts();
    let model = match old {
        Some((path, recipe)) if given.is_empty() => recipe::parts_again(&recipe.model.parts, path),
        _ => given,
    };
    if output.is_none() {
        let what = match latents {
            Some(_) => "these latents do not say where their video goes",
            None => "the recipe does not say where the video goes",
        };
        return Err(Error::input("E0900", what).at("--output").help("name it: -o OUT.mp4"));
    }
    let output = output.unwrap_or_default();
    let state = match &args.resume {
        Some(None) if files::is_direct(&output) => {
            return Err(Error::input("E0900", "there is no folder beside a pipe for a state")
                .at("--resume")
                .help("name its file: --resume FILE"));
        }
        Some(None) => Some(state_beside(&output)),
        Some(file) => file.clone(),
        None => None,
    };
    Ok(Wishes {
        references,
        first_frame,
        prompt: prompt.unwrap_or_default(),
        output,
        model,
        adapters,
        noise,
        recipe,
        latents,
        state,
    })
}

/// The recipe of the state that `--resume` names, where nothing else says what is to be made.
fn resumed(args: &Generate) -> Result<Option<(PathBuf, Recipe)>> {
    if args.resume.is_none() || args.prompt.is_some() || args.latents.is_some() {
        return Ok(None);
    }
    let path = match (&args.resume, &args.output) {
        (Some(Some(path)), _) => path.clone(),
        (_, Some(output)) => state_beside(output),
        (_, None) => {
            return Err(Error::input("E0900", "nothing says what is to be gone on with")
                .at("--resume")
                .help("name the state, --resume OUT.state.safetensors, or repeat the command"));
        }
    };
    match FoundState::find(&path)? {
        Some(found) => Ok(Some((path, found.recipe))),
        None => Err(Error::input("E1301", "there is no state to go on from")
            .at(path.display())
            .help("a run with --resume stores it behind its first step; give --prompt to begin")),
    }
}

/// An adapter of a recipe: its file, and the configuration that was read with it.
fn adapter_again(entry: &AdapterEntry, recipe: &Path) -> Result<Wanted> {
    if let Some(config) = &entry.config {
        recipe::find_again(config, recipe)?;
    }
    Ok(Wanted { path: recipe::find_again(&entry.file, recipe)?, scale: entry.scale })
}

/// The size of the video: of the latents that are decoded, or flags over recipe over `usual`, width,
/// height and frames that the model was made for.
pub(super) fn wanted_size(
    args: &Generate,
    wishes: &Wishes,
    geometry: Geometry,
    usual: [usize; 3],
) -> Result<Size> {
    if let Some(latents) = &wishes.latents {
        let shape = latents.tensor.shape();
        return Ok(Size::of_latent([shape[1], shape[2], shape[3]], geometry));
    }
    let old = wishes.recipe.as_ref().map(|(_, old)| old);
    let [width, height] = match (&args.size, old) {
        (Some(text), _) => size(text)?,
        (None, Some(recipe)) => [recipe.size[0], recipe.size[1]],
        (None, None) => [usual[0], usual[1]],
    };
    let frames = args.frames.or(old.map(|r| r.size[2])).unwrap_or(usual[2]);
    Ok(Size { width, height, frames })
}

/// The error of a size that cannot be, with the flags or the recipe that gave it.
pub(super) fn sized(misfit: Misfit, args: &Generate, wishes: &Wishes) -> Error {
    let recipe = wishes.recipe.as_ref().map(|(path, _)| path.display().to_string());
    let mut places: Vec<String> = Vec::new();
    for part in misfit.parts() {
        let flag = match part {
            "frames" => args.frames.map(|frames| format!("--frames {frames}")),
            _ => args.size.as_ref().map(|size| format!("--size {size}")),
        };
        let place = flag.or_else(|| recipe.clone()).filter(|place| !places.contains(place));
        places.extend(place);
    }
    match places.is_empty() {
        false => misfit.error().at(places.join(", ")),
        true => misfit
            .error()
            .at("the size that the model was made for")
            .also("give --size and --frames"),
    }
}

/// The settings of sampling: flags over recipe over defaults, of which steps and guidance are those that
/// the model is used with.
pub(super) fn fill(
    request: &mut Request,
    args: &Generate,
    old: Option<&Recipe>,
    (steps, guidance): (usize, f64),
) -> Result<()> {
    let chosen = old.map(|r| r.choices.clone()).unwrap_or_default();
    let scheduled = args.steps.is_some() || args.shift.is_some() || args.schedule.is_some();
    request.sigmas = match (&args.sigmas[..], scheduled) {
        ([], true) => None,
        ([], false) => chosen.sigmas,
        (levels, _) => Some(levels.to_vec()),
    };
    request.guidance_interval = match args.guidance_interval {
        Some(Interval([low, high])) => Some([low, high]),
        None => chosen.guidance_interval,
    };
    request.cache = match args.cache {
        Some(Cache::Easy(threshold)) => Some(threshold),
        Some(Cache::None) => None,
        None => chosen.cache,
    };
    request.negative_prompt = args.negative_prompt.clone().or(chosen.negative_prompt);
    request.steps = args.steps.or(old.map(|r| r.steps)).unwrap_or(steps);
    request.guidance = args.guidance.or(old.map(|r| r.guidance)).unwrap_or(guidance);
    request.shift = args.shift.or(old.map(|r| r.shift));
    request.seed = match args.seed {
        Some(Seed::Number(seed)) => seed,
        Some(Seed::Random) => drawn_seed(),
        None => old.map_or(0, |r| r.seed),
    };
    let solver = args.solver.as_deref().or(old.map(|r| r.solver.as_str()));
    request.solver =
        solver.map(|name| name.parse().map_err(|e: Error| e.at("--solver"))).transpose()?;
    let schedule = args.schedule.as_deref().or(old.map(|r| r.schedule.as_str()));
    request.schedule =
        schedule.map(|name| name.parse().map_err(|e: Error| e.at("--schedule"))).transpose()?;
    request.precision = match (args.precision, old.map(|r| r.precision.as_str())) {
        (Some(name), _) => Some(name.into()),
        (None, Some("f32")) => Some(Precision::F32),
        (None, Some("bf16")) => Some(Precision::Bf16),
        (None, Some(other)) => {
            return Err(Error::input("E0910", format!("\"{other}\" is not a precision"))
                .at("the recipe")
                .help("the precisions are f32 and bf16"));
        }
        (None, None) => None,
    };
    request.residual = match (args.residual, old.map(|r| r.residual.as_str())) {
        (Some(name), _) => name.into(),
        (None, None | Some("f32")) => Residual::F32,
        (None, Some("bf16")) => Residual::Bf16,
        (None, Some(other)) => {
            return Err(Error::input("E0910", format!("\"{other}\" is not a residual stream"))
                .at("the recipe")
                .help("its element type is f32 or bf16"));
        }
    };
    request.budget = match args.budget.as_deref().map(str::trim) {
        None => Budget::Refuse,
        Some(text) if text.eq_ignore_ascii_case("auto") => Budget::Available,
        Some(text) => Budget::Bytes(
            budget::parse(text)
                .map_err(|error| error.at("--budget").also("`auto` takes what is free"))?,
        ),
    };
    let given = args.tile.as_deref().map(|text| size(text).map_err(|error| error.placed("--tile")));
    request.tiles = match given.transpose()? {
        // Those of a recipe are for its size.
        None => match old.filter(|_| args.size.is_none()) {
            Some(recipe) => recipe.tiles,
            None => Tiles::default(),
        },
        both => Tiles { encoder: both, decoder: both },
    };
    Ok(())
}

/// A seed that differs from run to run. Below 2^53, so that every reader of JSON keeps it exactly.
fn drawn_seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library seeds each of these with random bits from the system.
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 11
}

/// Start latents from a file with a tensor `noise`, with or without a leading axis of 1.
pub(super) fn read_noise(path: &Path) -> Result<Tensor> {
    let (tensor, shape) = read_named(path, "noise", "E0906")?;
    let tensor = tensor.reshaped(shape).map_err(|e| Error::internal("E1009", e.to_string()))?;
    let float = tensor.dtype().is_float();
    Ok(if float { tensor.cast(anyid_ir::DType::F32) } else { tensor })
}

/// The tensor `name` of a file, and its shape without a leading axis of 1 before four others;
/// `code` is that of a file without it.
fn read_named(path: &Path, name: &str, code: &'static str) -> Result<(Tensor, Vec<usize>)> {
    let tensors = read_tensors(path)?;
    let names: Vec<String> = tensors.iter().map(|(name, _)| name.clone()).collect();
    let found = tensors.into_iter().find(|(found, _)| found == name).map(|(_, tensor)| tensor);
    let tensor = found.ok_or_else(|| {
        Error::input(code, format!("the file has no tensor \"{name}\""))
            .at(path.display())
            .help(format!("it has {}", crate::tensors::shown(&names)))
    })?;
    let shape = match tensor.shape() {
        [1, rest @ ..] if rest.len() == 4 => rest.to_vec(),
        other => other.to_vec(),
    };
    Ok((tensor, shape))
}

/// Final latents from a file with a tensor `latents`, with or without a leading axis of 1, and the
/// recipe of their run if the file holds it.
fn read_latents(path: &Path) -> Result<(Tensor, Option<Recipe>)> {
    let (tensor, shape) = read_named(path, "latents", "E0953")?;
    let fits = matches!(shape[..], [c, f, h, w] if c > 0 && f > 0 && h > 0 && w > 0
        && h % 2 == 0 && w % 2 == 0 && f <= 1024 && h <= 2048 && w <= 2048);
    if !fits || !tensor.dtype().is_float() {
        let what = format!("the tensor \"latents\" is {}, which no video has", tensor.ty());
        return Err(Error::input("E0953", what)
            .at(path.display())
            .help("it must be floating-point values of shape C,F,h,w with even h and w"));
    }
    let tensor = tensor.reshaped(shape).map_err(|e| Error::internal("E1009", e.to_string()))?;
    let metadata = Checkpoint::open(path)?;
    if let Some((done, total)) = metadata.metadata().get(STEP_KEY).and_then(|s| s.split_once('/'))
        && done != total
    {
        let what = format!("these are latents behind step {done} of {total}, not finished ones");
        return Err(Error::input("E1301", what)
            .at(path.display())
            .help("`anyid-rt generate --resume FILE` goes on with the sampling"));
    }
    let recipe = metadata.metadata().get(anyid_runtime::pipeline::RECIPE_KEY);
    let recipe = recipe.map(|text| Recipe::parse(text.as_bytes(), path)).transpose()?;
    Ok((tensor.cast(anyid_ir::DType::F32), recipe))
}
