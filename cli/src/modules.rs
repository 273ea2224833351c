//! IR files and the weights that belong to them.
//!
//! The names in the manifest of a module show which network it is, so that weights in any known
//! naming can be used. For other modules, tensors are taken under the names that they have.

use crate::args::{ModuleArgs, WeightArgs};
use crate::render::{Failure, Findings};
use anyid_ir::spelling::nearest;
use anyid_ir::text::{LARGEST_SOURCE, parse_bytes};
use anyid_ir::verify::verify;
use anyid_ir::{Func, Manifest, Module};
use anyid_models::wan::names::{Component, Naming, to_canonical};
use anyid_runtime::checkpoint::WeightSet;
use anyid_runtime::engine::plan_file;
pub use anyid_runtime::error::unreadable;
use anyid_runtime::input;
use anyid_runtime::places::Places;
use anyid_runtime::weights::ModelWeights;
use anyid_runtime::{Error, Model, Result};
use std::path::PathBuf;
use std::sync::Arc;

/// The files that a verb on an IR file reads: the text, weights and inputs.
pub fn reads(
    file: &std::path::Path,
    weights: Option<&WeightArgs>,
    inputs: Option<&std::path::Path>,
) -> Places {
    let mut places = Places::new();
    places.reads("the file", file);
    if let Some(weights) = weights {
        weights.weights.iter().for_each(|path| {
            places.reads("--weights", path);
            // The shards that an index names are in its folder.
            if path.extension().is_some_and(|ending| ending == "json")
                && let Some(folder) = path.parent()
            {
                places.reads_folder("--weights, file", folder);
            }
        });
        if let Some(folder) = &weights.model {
            places.reads_folder("--model, file", folder);
        }
    }
    if let Some(path) = inputs {
        places.reads("--inputs", path);
    }
    places
}

/// Reads, parses and verifies an IR file.
///
/// # Errors
/// E0911 for the file, E0912 for `--dim`, and the findings about the text.
pub fn read(args: &ModuleArgs) -> Result<Module, Failure> {
    let (module, findings) = examine(args)?;
    match findings.list.is_empty() {
        true => Ok(module),
        false => Err(Failure::Findings(Box::new(findings))),
    }
}

/// Reads, parses and verifies an IR file. The module is usable when there are no findings.
///
/// # Errors
/// E0110 for an absurd size, E0518 for a plan, E0911 for the file, E0912 for `--dim`.
pub fn examine(args: &ModuleArgs) -> Result<(Module, Findings)> {
    let path = &args.file;
    let large = |limit| {
        Error::input("E0110", format!("the text has more than {limit} bytes"))
            .help("IR text holds no weights; is this the right file?")
    };
    let bytes = input::read(path, LARGEST_SOURCE as u64)
        .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
    if plan_file::is_plan(&bytes) {
        return Err(Error::input("E0518", "this is a plan, and IR text is wanted here")
            .at(path.display())
            .help("`anyid-rt run` runs plans and `inspect` shows them; give the IR file here"));
    }
    let dims = dims(&args.dims)?;
    let dims: Vec<(&str, i64)> = dims.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let (source, mut list) = parse_bytes(&bytes);
    let (module, more) = if bytes.is_empty() || std::str::from_utf8(&bytes).is_ok() {
        source.bind(&dims)
    } else {
        // Nothing was parsed; errors about binding an empty text would only distract.
        (Module::default(), Vec::new())
    };
    list.extend(more);
    if list.is_empty() {
        list = verify(&module);
    }
    list.sort_by_key(|d| d.span.map_or(usize::MAX, |span| span.start));
    let text = String::from_utf8(bytes).unwrap_or_default();
    Ok((module, Findings { path: path.display().to_string(), text, list }))
}

fn dims(given: &[String]) -> Result<Vec<(String, i64)>> {
    let one = |text: &String| {
        let (name, value) = text.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().parse().ok()?))
    };
    let bad = |text: &String| {
        Error::input("E0912", format!("\"{text}\" is not a dim with a value"))
            .at("--dim")
            .help("write a name and a whole number: --dim N=8")
    };
    given.iter().map(|text| one(text).ok_or_else(|| bad(text))).collect()
}

/// The function called `name`, or the last.
///
/// # Errors
/// E0913 where there is none.
pub fn function<'m>(module: &'m Module, name: Option<&str>) -> Result<&'m Func> {
    let Some(name) = name else {
        return module.main().ok_or_else(|| {
            Error::input("E0913", "the module has no function").help("add one: func @main(…) { … }")
        });
    };
    let name = name.strip_prefix('@').unwrap_or(name);
    module.func(name).ok_or_else(|| {
        let names: Vec<&str> = module.funcs.iter().map(|f| f.name.as_str()).collect();
        let help = match nearest(name, names.iter().copied()) {
            Some(meant) => format!("did you mean {meant}?"),
            None => format!("its functions are {}", names.join(", ")),
        };
        Error::input("E0913", format!("module @{} has no function @{name}", module.name)).help(help)
    })
}

/// A network that a manifest belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Diffusion transformer.
    Dit,
    /// Autoencoder, or one half of it.
    Vae,
    /// Text encoder.
    Text,
}

impl Network {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Dit => "Wan2.2 transformer",
            Self::Vae => "Wan2.2 autoencoder",
            Self::Text => "umT5 text encoder",
        }
    }

    /// The components to try: the autoencoder's names depend on its number of residual blocks.
    pub fn candidates(self) -> Vec<Component> {
        match self {
            Self::Dit => vec![Component::Dit],
            Self::Vae => [true, false]
                .iter()
                .flat_map(|residual| [2, 1, 3, 4].map(|n| (n, *residual)))
                .map(|(num_res_blocks, residual)| Component::Vae { num_res_blocks, residual })
                .collect(),
            Self::Text => vec![Component::Text],
        }
    }
}

/// The network all of whose names in `manifest` are known by their original names.
pub fn network_of(manifest: &Manifest) -> Option<Network> {
    let all_of = |component: Component| {
        let known = |name: &str| to_canonical(component, name).as_deref() == Some(name);
        manifest.tensors().all(|(name, _)| known(name))
    };
    if manifest.is_empty() {
        return None;
    }
    let networks = [Network::Dit, Network::Vae, Network::Text];
    networks.into_iter().find(|network| network.candidates().into_iter().any(all_of))
}

/// Weights that fit a manifest.
pub struct Matched {
    /// The tensors under the manifest's names.
    pub weights: Arc<ModelWeights>,
    /// The network, if recognised.
    pub network: Option<Network>,
    /// How they were found, in words.
    pub how: String,
    /// Tensors of the files that the manifest does not name.
    pub extra: Vec<String>,
}

/// Finds the weights of `manifest`. `None` for a module that needs weights and is given none.
///
/// # Errors
/// E03xx where files or tensors are wrong, E07xx for the model folder.
pub fn find_weights(manifest: &Manifest, args: &WeightArgs) -> Result<Option<Matched>> {
    let network = network_of(manifest);
    let expected: Vec<(String, Vec<u64>)> = manifest
        .tensors()
        .map(|(name, ty)| (name.to_owned(), ty.shape.iter().map(|s| *s as u64).collect()))
        .collect();
    let (weights, how, place) = if let Some(folder) = &args.model {
        let Some(network) = network else {
            return Err(Error::input(
                "E0307",
                "the module's weight names are those of none of the model's networks",
            )
            .at(folder.display())
            .help("give the files that hold its weights with --weights"));
        };
        let model = Model::open(folder)?;
        let weights = match network {
            Network::Dit => model.dit_weights,
            Network::Vae => model.vae_weights,
            Network::Text => model.text_weights,
        };
        (weights, network.describe().to_owned(), folder)
    } else if let Some(first) = args.weights.first() {
        let set = open(&args.weights)?;
        let (weights, how) = recognise(&set, manifest, network)?;
        (Arc::new(weights.shaped(&expected)?), how, first)
    } else if manifest.is_empty() {
        let none = ModelWeights::as_named(WeightSet::from_checkpoints(Vec::new())?);
        let how = "no weights needed".to_owned();
        return Ok(Some(Matched { weights: Arc::new(none), network, how, extra: Vec::new() }));
    } else {
        return Ok(None);
    };
    let named = |name: &str| manifest.get(name).is_some();
    let chosen = weights.set().selected(named);
    chosen
        .require_spelled(&expected, &|name| weights.spelled(name))
        .map_err(|error| error.at(place.display()))?;
    let extra: Vec<String> = weights
        .set()
        .names()
        .filter(|name| !named(name) && !other_half(network, manifest, name))
        .map(str::to_owned)
        .collect();
    if !extra.is_empty() && !args.allow_extra {
        let shown: Vec<&str> = extra.iter().take(10).map(String::as_str).collect();
        let dots = if extra.len() > 10 { ", …" } else { "" };
        return Err(Error::input(
            "E0302",
            format!("{} not in the module: {}{dots}", left_over(extra.len()), shown.join(", ")),
        )
        .at(place.display())
        .help("give the module's own checkpoint, or accept this with --allow-extra"));
    }
    Ok(Some(Matched { weights, network, how, extra }))
}

/// [`find_weights`], with an error where none are given.
///
/// # Errors
/// As [`find_weights`], and E0301.
pub fn need_weights(manifest: &Manifest, args: &WeightArgs) -> Result<Matched> {
    find_weights(manifest, args)?.ok_or_else(|| {
        let count = crate::output::plural(manifest.len(), "weight");
        Error::input("E0301", format!("the module needs {count} and none are given"))
            .help("give a checkpoint with --weights FILE, or a model folder with --model DIR")
    })
}

fn left_over(count: usize) -> String {
    format!(
        "{} of the files {}",
        crate::output::plural(count, "tensor"),
        if count == 1 { "is" } else { "are" }
    )
}

/// Opens weight files: one index, or one or more checkpoint files.
///
/// # Errors
/// E03xx.
pub fn open(files: &[PathBuf]) -> Result<WeightSet> {
    match files {
        [one] => WeightSet::open(one),
        many => WeightSet::open_files(many),
    }
}

/// Whether a tensor belongs to the half of the autoencoder that the module is not.
fn other_half(network: Option<Network>, manifest: &Manifest, name: &str) -> bool {
    let half = |name: &str| matches!(name.split('.').next(), Some("encoder" | "conv1"));
    network == Some(Network::Vae)
        && Network::Vae.candidates().into_iter().any(|c| to_canonical(c, name).is_some())
        && manifest.tensors().next().is_some_and(|(first, _)| half(first) != half(name))
}

fn recognise(
    set: &WeightSet,
    manifest: &Manifest,
    network: Option<Network>,
) -> Result<(ModelWeights, String)> {
    let all_in = |set: &WeightSet| manifest.tensors().all(|(name, _)| set.tensor(name).is_some());
    if network.is_none() || all_in(set) {
        let same = set.unscaled()?.renamed(|_| None)?;
        return Ok((ModelWeights::as_named(same), "names as in the file".into()));
    }
    let network = network.expect("none was handled above");
    let mut first = None;
    for component in network.candidates() {
        let weights = ModelWeights::recognise(set, component)?;
        if all_in(weights.set()) {
            first = Some(weights);
            break;
        }
        first.get_or_insert(weights);
    }
    let weights = first.expect("there is a candidate");
    let how = describe(network, weights.naming(), weights.prefix());
    Ok((weights, how))
}

/// `Wan2.2 transformer, diffusers naming, prefix "model."`.
pub fn describe(network: Network, naming: Naming, prefix: &str) -> String {
    let naming = match naming {
        Naming::Original => "original naming",
        Naming::Diffusers => "diffusers naming",
        Naming::LlamaCpp => "naming of llama.cpp",
    };
    let prefix = if prefix.is_empty() { String::new() } else { format!(", prefix \"{prefix}\"") };
    format!("{}, {naming}{prefix}", network.describe())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
    use anyid_models::wan::{Precision, dit, text, vae};

    #[test]
    fn networks_are_recognised_by_their_names() {
        let dit = dit::manifest(&DitConfig::micro(), Precision::F32);
        assert_eq!(network_of(&dit), Some(Network::Dit));
        let text = text::manifest(&TextConfig::micro(), Precision::F32);
        assert_eq!(network_of(&text), Some(Network::Text));
        for half in [vae::Half::Encoder, vae::Half::Decoder] {
            let vae = vae::manifest(&VaeConfig::micro(), half);
            assert_eq!(network_of(&vae), Some(Network::Vae));
        }
        let mut other = Manifest::new("other");
        other.add("w", anyid_ir::TensorType::new(anyid_ir::DType::F32, [1])).unwrap();
        assert_eq!(network_of(&other), None);
    }

    #[test]
    fn dims_are_names_with_numbers() {
        assert_eq!(dims(&["N=8".into()]).unwrap(), [("N".to_owned(), 8)]);
        for bad in ["N", "N=", "N=x", "N=1.5"] {
            assert_eq!(dims(&[bad.into()]).unwrap_err().code(), "E0912", "{bad}");
        }
    }
}
