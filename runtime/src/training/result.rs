//! What a run leaves: an adapter in the dialect of `formats.md` §5, or a whole network.
//!
//! The file is read back and compared before it gets its name.

use super::parameters::{Flat, Kind, Parameter, Parameters, Values, stored};
use super::settings::{Settings, TrainedNetwork};
use crate::adapter::{Adapter, Factors, Tolerance, is_adapter, modules_of, other_base};
use crate::checkpoint::{Encoding, SafetensorsWriter, TensorSpec, WeightSet, pytorch_metadata};
use crate::error::{Error, Result};
use crate::files::AtomicFile;
use crate::judge;
use crate::model::Model;
use crate::weights::ModelWeights;
use half::bf16;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the result in the folder of a run.
pub fn name(kind: Kind, network: TrainedNetwork) -> &'static str {
    match kind {
        Kind::Lora | Kind::Dpo => "adapter",
        Kind::Full => network.file(),
    }
}

/// Names of the files that runs leave: the result, the best, and the average, of each kind.
pub fn all_names() -> Vec<String> {
    let networks = TrainedNetwork::ALL.map(TrainedNetwork::file);
    let all = std::iter::once("adapter").chain(networks);
    all.flat_map(|name| ENDS.map(|end| format!("{name}{end}.safetensors"))).collect()
}

/// What follows the name of a result: nothing for the last one, then the best and the average.
pub const ENDS: [&str; 3] = ["", "-best", "-average"];

/// A tensor to be stored.
struct Row<'v> {
    spec: TensorSpec,
    values: Cow<'v, [f32]>,
}

impl<'v> Row<'v> {
    fn new(
        name: String,
        encoding: Encoding,
        shape: &[usize],
        values: impl Into<Cow<'v, [f32]>>,
    ) -> Self {
        let shape: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
        Self { spec: TensorSpec::new(name, encoding, shape), values: values.into() }
    }

    /// Shows its bytes as they are stored, in pieces.
    fn pieces(&self, look: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.spec.encoding != Encoding::Bf16 {
            return look(bytemuck::cast_slice(&self.values));
        }
        let mut narrow = Vec::with_capacity(PIECE);
        for values in self.values.chunks(PIECE) {
            narrow.clear();
            narrow.extend(values.iter().map(|value| bf16::from_f32(*value)));
            look(bytemuck::cast_slice(&narrow))?;
        }
        Ok(())
    }
}

/// Elements that are converted or compared at a time.
const PIECE: usize = 1 << 14;

/// A tensor of a whole network: what was trained of it, or what it was where nothing was.
fn whole_row<'v>(
    weights: &ModelWeights,
    name: &str,
    trained: Option<&'v [f32]>,
) -> Result<Row<'v>> {
    let weight = weights.set().tensor(name);
    // Rounded once to what the model is stored in.
    let narrow = weight.is_some_and(|weight| weight.encoding == Encoding::Bf16);
    let encoding = if narrow { Encoding::Bf16 } else { Encoding::F32 };
    let shape: Vec<usize> =
        weight.map_or(Vec::new(), |weight| weight.shape.iter().map(|n| *n as usize).collect());
    let values = match trained {
        Some(values) => Cow::Borrowed(values),
        None => {
            let mut kept = vec![0f32; shape.iter().product()];
            stored(weights, name, 0, &mut kept)?;
            Cow::Owned(kept)
        }
    };
    Ok(Row::new(weights.spelled(name), encoding, &shape, values))
}

/// Writes the result of a run into `file`.
///
/// # Errors
/// E0376 where it reads back as something else, E101x where it cannot be written.
pub fn write(
    file: AtomicFile,
    kind: Kind,
    (parameters, values): (&Parameters, Values<'_>),
    settings: &Settings,
    weights: &ModelWeights,
    updates: u64,
) -> Result<()> {
    let mut header = pytorch_metadata();
    let mut say = |key: &str, value: String| header.insert(format!("anyid.{key}"), value);
    say("version", env!("CARGO_PKG_VERSION").to_owned());
    say("trained", format!("{} for {updates} updates", kind.name()));
    say("base_model", weights.fingerprint()?);
    if settings.train.network == TrainedNetwork::Transformer {
        say("rope_layout", "prepend".to_owned());
        say("null_refs", "match".to_owned());
        say("pad", "black".to_owned());
    }
    let (mut rows, alpha) = (Vec::new(), [settings.lora.alpha as f32]);
    match kind {
        Kind::Lora | Kind::Dpo => {
            say("rank", settings.lora.rank.to_string());
            say("alpha", settings.lora.alpha.to_string());
            say("target_modules", settings.lora.targets.join(" "));
            for parameter in &parameters.list {
                let values = values.numbers(parameter);
                let name = format!("diffusion_model.{}", parameter.name);
                if let Some(module) = name.strip_suffix(".lora_A.weight") {
                    let name = format!("{module}.alpha");
                    rows.push(Row::new(name, Encoding::F32, &[], &alpha[..]));
                }
                rows.push(Row::new(name, Encoding::F32, &parameter.ty.shape, values));
            }
        }
        Kind::Full => {
            let trained: BTreeMap<&str, &Parameter> =
                parameters.list.iter().map(|own| (own.name.as_str(), own)).collect();
            for name in weights.set().names() {
                let trained = trained.get(name).map(|own| values.numbers(own));
                rows.push(whole_row(weights, name, trained)?);
            }
            // In the order of their names in the network, wide ones first.
            rows.sort_by_key(|row| row.spec.encoding == Encoding::Bf16);
        }
    }
    store(file, &rows, &header, &mut |file| match kind {
        Kind::Full => Ok(()),
        Kind::Lora | Kind::Dpo => {
            let mut adapter = Adapter::open(file, &modules_of(weights.set()))?;
            adapter.require_matches(false)?;
            let scale = settings.lora.alpha as f32 / settings.lora.rank as f32;
            let scales = adapter.scales();
            match scales[..] {
                [one] if (one as f32 - scale).abs() <= 1e-6 * scale => Ok(()),
                _ => Err(differs("the scales")),
            }
        }
    })
}

fn differs(what: &str) -> Error {
    Error::input("E0376", format!("{what} read back as something else"))
        .help("the disk is failing or the file was changed meanwhile: write it elsewhere")
}

fn store(
    file: AtomicFile,
    rows: &[Row<'_>],
    header: &BTreeMap<String, String>,
    check: &mut dyn FnMut(&Path) -> Result<()>,
) -> Result<()> {
    let specs: Vec<TensorSpec> = rows.iter().map(|row| row.spec.clone()).collect();
    let path = file.path().to_owned();
    let mut writer = SafetensorsWriter::create_in(file, &specs, header)?;
    for row in rows {
        row.pieces(&mut |piece| writer.write(&row.spec.name, piece))?;
    }
    let file = writer.finish_file()?;
    if let Some(temporary) = file.temporary_path() {
        let found = WeightSet::open_files(&[temporary])?;
        for row in rows {
            let different = || differs(&format!("`{}`", row.spec.name)).at(path.display());
            let stored = found.tensor(&row.spec.name).map(|tensor| tensor.bytes);
            if stored != Some(row.spec.bytes()?) {
                return Err(different());
            }
            let (mut from, mut read) = (0, vec![0u8; 4 * PIECE]);
            row.pieces(&mut |piece| {
                for part in piece.chunks(read.len()) {
                    let read = &mut read[..part.len()];
                    found.read(&row.spec.name, from, read)?;
                    if read != part {
                        return Err(different());
                    }
                    from += part.len() as u64;
                }
                Ok(())
            })?;
        }
        check(temporary).map_err(|error| error.placed(path.display()))?;
    }
    file.commit().map(drop)
}

/// Writes the values that a run begins from: those of an adapter, or of a whole network where all of it is
/// trained. `weights` are those of the network before.
///
/// # Errors
/// E0966 for an adapter of other targets, rank or alpha, E0972 for what is not such a network of this
/// form, and those of reading adapters and checkpoints.
pub fn first_values(
    path: &Path,
    kind: Kind,
    (parameters, into): (&Parameters, &mut Flat),
    settings: &Settings,
    (model, weights): (&Model, &ModelWeights),
) -> Result<()> {
    match kind {
        Kind::Full => {
            let network = settings.train.network;
            let whole =
                whole_at(path, network, model)?.ok_or_else(|| not_whole(network, path, model))?;
            whole_values(path, (parameters, into), &whole, (network, weights))
        }
        Kind::Lora | Kind::Dpo => adapter_values(path, (parameters, into), settings, weights),
    }
}

/// Refuses a file that a run cannot begin from, before anything is computed; a warning where it is an
/// adapter of another base.
///
/// # Errors
/// E0966 and E0972, and those of reading adapters and checkpoints.
pub fn check_first(
    path: &Path,
    kind: Kind,
    network: TrainedNetwork,
    model: &Model,
) -> Result<Option<String>> {
    match (kind, whole_at(path, network, model)?) {
        (Kind::Full, Some(_)) => Ok(None),
        (Kind::Full, None) => Err(not_whole(network, path, model)),
        (Kind::Lora | Kind::Dpo, Some(_)) => {
            Err(Error::input("E0966", "this is a whole transformer, not an adapter")
                .at(path.display())
                .help("put it into a copy of the model folder, and name that in model.path"))
        }
        (Kind::Lora | Kind::Dpo, None) => {
            let modules = modules_of(model.dit_weights.set());
            let adapter = crate::adapter::open(path, &modules, Tolerance::default())?;
            Ok(other_base(&adapter, &model.fingerprints()?[0], false))
        }
    }
}

/// The weights of a whole network; none for another file, and for a folder.
fn whole_at(path: &Path, network: TrainedNetwork, model: &Model) -> Result<Option<ModelWeights>> {
    if path.is_dir() {
        return Ok(None);
    }
    let set = WeightSet::open(path)?;
    let whole = !is_adapter(set.names());
    let found = match network.component(model) {
        Some(component) => ModelWeights::recognise(&set, component).ok(),
        None => judge::recognise(&set),
    };
    Ok(found.filter(|_| whole))
}

/// The error of a file that is something else than a network of the kind that is trained: with what it is.
fn not_whole(network: TrainedNetwork, path: &Path, model: &Model) -> Error {
    let wanted = network.described();
    let message = match what_is(path, model) {
        Some(found) => format!("this is {found}, not a whole {wanted}"),
        None => format!("this is not a whole {wanted}"),
    };
    unlike(message, network, path)
}

/// What a file or folder is, as far as that can be told.
fn what_is(path: &Path, model: &Model) -> Option<String> {
    if path.is_dir() {
        return Some("a folder".to_owned());
    }
    let set = WeightSet::open(path).ok()?;
    if is_adapter(set.names()) {
        return Some("an adapter".to_owned());
    }
    let is = |network: &TrainedNetwork| match network.component(model) {
        Some(component) => ModelWeights::recognise(&set, component).is_ok(),
        None => judge::recognise(&set).is_some(),
    };
    let found = TrainedNetwork::ALL.into_iter().find(is);
    let some = || set.names().take(2).collect::<Vec<_>>().join(", ");
    Some(match found {
        Some(network) => format!("a whole {}", network.described()),
        None => format!("a file of {} other tensors ({} …)", set.names().count(), some()),
    })
}

/// The error of a file that is not the network that is trained.
fn unlike(message: String, network: TrainedNetwork, path: &Path) -> Error {
    Error::input("E0972", message).at(path.display()).help(format!(
        "give the {}.safetensors of a run of `train full` for a model of these sizes",
        network.file()
    ))
}

/// The values of a whole network. What training adds to it begins as ever.
fn whole_values(
    path: &Path,
    (parameters, into): (&Parameters, &mut Flat),
    weights: &ModelWeights,
    (network, before): (TrainedNetwork, &ModelWeights),
) -> Result<()> {
    let (set, own) = (weights.set(), before.set());
    parameters.fill(into, &mut |parameter, values| {
        let shape: Vec<u64> = parameter.ty.shape.iter().map(|size| *size as u64).collect();
        let fits = set.tensor(&parameter.name).is_some_and(|weight| weight.shape == shape);
        if !fits && own.tensor(&parameter.name).is_some() {
            let message = format!("there is no {} of {}", parameter.name, parameter.ty);
            return Err(unlike(message, network, path));
        }
        stored(weights, &parameter.name, 0, values)
    })
}

/// The values of an adapter.
fn adapter_values(
    path: &Path,
    (parameters, into): (&Parameters, &mut Flat),
    settings: &Settings,
    weights: &ModelWeights,
) -> Result<()> {
    let modules = modules_of(weights.set());
    let adapter = crate::adapter::open(path, &modules, Tolerance::default())?;
    let wanted = settings.lora.alpha / settings.lora.rank as f64;
    if let Some(scale) = adapter.scales().into_iter().find(|s| (s - wanted).abs() > 1e-6 * wanted) {
        let message =
            format!("the scale of the adapter is {scale}, lora.alpha / lora.rank is {wanted}");
        return Err(super::parameters::unfit(message, path));
    }
    let set = adapter.tensors();
    let mut ends: BTreeMap<String, String> = BTreeMap::new();
    for change in &adapter.changes {
        let Some(product) = &change.product else { continue };
        let Factors::LowRank { up, down } = &product.factors else { continue };
        ends.insert(format!("{}.lora_A.weight", change.module), down.clone());
        ends.insert(format!("{}.lora_B.weight", change.module), up.clone());
    }
    if ends.len() != parameters.list.len() {
        let (has, wanted) = (ends.len() / 2, parameters.list.len() / 2);
        let message = format!("the adapter is for {has} linears, the run for {wanted}");
        return Err(super::parameters::unfit(message, path));
    }
    parameters.fill(into, &mut |parameter, values| {
        let shape: Vec<u64> = parameter.ty.shape.iter().map(|size| *size as u64).collect();
        let name = ends.get(&parameter.name);
        let found = name.and_then(|name| Some((name, set.tensor(name)?)));
        let Some((name, _)) = found.filter(|(_, weight)| weight.shape == shape) else {
            let message = format!("the adapter has no {} of {}", parameter.name, parameter.ty);
            return Err(super::parameters::unfit(message, path));
        };
        set.read_f32(name, 0, bytemuck::cast_slice_mut(values))
    })
}
