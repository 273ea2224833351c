//! What a run leaves: an adapter in the dialect of `formats.md` §5, or a whole transformer.
//!
//! The file is read back and compared before it gets its name.

use super::parameters::{Flat, Kind, Parameters, Values};
use super::settings::Settings;
use crate::adapter::{Adapter, Factors, Tolerance, is_adapter, modules_of, other_base};
use crate::checkpoint::{Encoding, SafetensorsWriter, TensorSpec, WeightSet, pytorch_metadata};
use crate::error::{Error, Result};
use crate::files::AtomicFile;
use crate::model::Model;
use crate::weights::ModelWeights;
use anyid_models::wan::names::Component;
use half::bf16;
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the result in the folder of a run.
pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Lora | Kind::Dpo => "adapter",
        Kind::Full => "transformer",
    }
}

/// Names of the files that a run leaves: the result, the best, and the average.
pub fn names(kind: Kind) -> [String; 3] {
    ["", "-best", "-average"].map(|end| format!("{}{end}.safetensors", name(kind)))
}

/// A tensor to be stored.
struct Row<'v> {
    spec: TensorSpec,
    values: &'v [f32],
}

impl<'v> Row<'v> {
    fn new(name: String, encoding: Encoding, shape: &[usize], values: &'v [f32]) -> Self {
        let shape: Vec<u64> = shape.iter().map(|size| *size as u64).collect();
        Self { spec: TensorSpec::new(name, encoding, shape), values }
    }

    /// Shows its bytes as they are stored, in pieces.
    fn pieces(&self, look: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if self.spec.encoding != Encoding::Bf16 {
            return look(bytemuck::cast_slice(self.values));
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

/// Writes the result of a run into `file`.
///
/// # Errors
/// E0376 where it reads back as something else, E101x where it cannot be written.
pub fn write(
    file: AtomicFile,
    kind: Kind,
    (parameters, values): (&Parameters, Values<'_>),
    settings: &Settings,
    model: &Model,
    updates: u64,
) -> Result<()> {
    let mut header = pytorch_metadata();
    let mut say = |key: &str, value: String| header.insert(format!("anyid.{key}"), value);
    say("version", env!("CARGO_PKG_VERSION").to_owned());
    say("trained", format!("{} for {updates} updates", kind.name()));
    say("base_model", model.fingerprints()?[0].clone());
    say("rope_layout", "prepend".to_owned());
    say("null_refs", "match".to_owned());
    say("pad", "black".to_owned());
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
                    rows.push(Row::new(name, Encoding::F32, &[], &alpha));
                }
                rows.push(Row::new(name, Encoding::F32, &parameter.ty.shape, values));
            }
        }
        Kind::Full => {
            for parameter in &parameters.list {
                let values = values.numbers(parameter);
                let stored = model.dit_weights.set().tensor(&parameter.name);
                // Rounded once to what the model is stored in.
                let narrow = stored.is_some_and(|weight| weight.encoding == Encoding::Bf16);
                let encoding = if narrow { Encoding::Bf16 } else { Encoding::F32 };
                let name = model.dit_weights.spelled(&parameter.name);
                rows.push(Row::new(name, encoding, &parameter.ty.shape, values));
            }
            rows.sort_by_key(|row| row.spec.encoding == Encoding::Bf16);
        }
    }
    store(file, &rows, &header, &mut |file| match kind {
        Kind::Full => Ok(()),
        Kind::Lora | Kind::Dpo => {
            let mut adapter = Adapter::open(file, &modules_of(model.dit_weights.set()))?;
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

/// Writes the values that a run begins from: those of an adapter, or of a transformer where all of it is
/// trained.
///
/// # Errors
/// E0966 for an adapter of other targets, rank or alpha, E0972 for what is not a transformer of this
/// form, and those of reading adapters and checkpoints.
pub fn first_values(
    path: &Path,
    kind: Kind,
    (parameters, into): (&Parameters, &mut Flat),
    settings: &Settings,
    model: &Model,
) -> Result<()> {
    match (kind, whole_at(path)?) {
        (Kind::Full, Some(whole)) => whole_values(path, (parameters, into), &whole),
        (Kind::Full, None) => Err(not_whole("this is not a whole transformer".to_owned(), path)),
        (Kind::Lora | Kind::Dpo, _) => adapter_values(path, (parameters, into), settings, model),
    }
}

/// Refuses a file that a run cannot begin from, before anything is computed; a warning where it is an
/// adapter of another base.
///
/// # Errors
/// E0966 and E0972, and those of reading adapters and checkpoints.
pub fn check_first(path: &Path, kind: Kind, model: &Model) -> Result<Option<String>> {
    match (kind, whole_at(path)?) {
        (Kind::Full, Some(_)) => Ok(None),
        (Kind::Full, None) => Err(not_whole("this is not a whole transformer".to_owned(), path)),
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

/// The weights of a whole transformer; none for another file, and for a folder.
fn whole_at(path: &Path) -> Result<Option<ModelWeights>> {
    if path.is_dir() {
        return Ok(None);
    }
    let set = WeightSet::open(path)?;
    let whole = !is_adapter(set.names());
    Ok(ModelWeights::recognise(&set, Component::Dit).ok().filter(|_| whole))
}

fn not_whole(message: String, path: &Path) -> Error {
    Error::input("E0972", message).at(path.display()).help(
        "give the transformer.safetensors of a run of `train full` for a model of these sizes",
    )
}

/// The values of a whole transformer.
fn whole_values(
    path: &Path,
    (parameters, into): (&Parameters, &mut Flat),
    weights: &ModelWeights,
) -> Result<()> {
    let set = weights.set();
    parameters.fill(into, &mut |parameter, values| {
        let shape: Vec<u64> = parameter.ty.shape.iter().map(|size| *size as u64).collect();
        let fits = set.tensor(&parameter.name).is_some_and(|weight| weight.shape == shape);
        if !fits {
            let message = format!("there is no {} of {}", parameter.name, parameter.ty);
            return Err(not_whole(message, path));
        }
        set.read_f32(&parameter.name, 0, bytemuck::cast_slice_mut(values))
    })
}

/// The values of an adapter.
fn adapter_values(
    path: &Path,
    (parameters, into): (&Parameters, &mut Flat),
    settings: &Settings,
    model: &Model,
) -> Result<()> {
    let modules = modules_of(model.dit_weights.set());
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
