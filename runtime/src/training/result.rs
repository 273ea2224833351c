//! What a run leaves: an adapter in the dialect of `formats.md` §5, or a whole network.
//!
//! The file is read back and compared before it gets its name.

use super::parameters::{Kind, Parameter, Parameters, Values, stored};
use super::settings::{Settings, TrainedNetwork};
use crate::adapter::{Adapter, Ground, Part, modules_of};
use crate::checkpoint::{
    Checkpoint, Encoding, SafetensorsWriter, TensorSpec, WeightSet, pytorch_metadata,
};
use crate::error::{Error, Result};
use crate::files::AtomicFile;
use crate::weights::ModelWeights;
use half::bf16;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
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
pub const ENDS: [&str; 3] = ["", BEST, AVERAGE];
/// What follows the name of the best result.
pub const BEST: &str = "-best";
/// What follows the name of the average.
pub const AVERAGE: &str = "-average";

/// Name of the file of a result, with what follows its [`name`].
pub fn file(kind: Kind, network: TrainedNetwork, end: &str) -> String {
    format!("{}{end}.safetensors", name(kind, network))
}

/// The key of the header that says what made a result.
const TRAINED: &str = "anyid.trained";

/// What adapters say of their use, under `anyid.use`.
pub const USE: &str = "Attribution: trained with anyid-rt; name the base model and keep this notice. \
    Use restrictions: not for pictures of people who did not agree to them; not to deceive anybody \
    about what a person said or did; not for sexual or degrading pictures of real people, and for \
    none that harm children; not to harass, to watch or to discriminate against people; results are \
    told to be made by a model. Pass this on with the file and with whatever is made of it.";

/// The update of which the result at `path` is; none where it does not say so.
pub fn updates(path: &Path) -> Option<u64> {
    let file = Checkpoint::open(path).ok()?;
    let (_, updates) = file.metadata().get(TRAINED)?.split_once(" for ")?;
    updates.strip_suffix(" updates")?.parse().ok()
}

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

/// Writes the result of a run into `file`, which was trained on `weights`, with the adapters `on` those of a
/// transformer, and prompts of `styles`.
///
/// # Errors
/// E0376 where it reads back as something else, E101x where it cannot be written.
pub fn write(
    file: AtomicFile,
    kind: Kind,
    (parameters, values): (&Parameters, Values<'_>),
    (settings, styles): (&Settings, &BTreeSet<String>),
    (weights, on): (&ModelWeights, &[Part]),
    updates: u64,
) -> Result<()> {
    let mut header = pytorch_metadata();
    header.insert(TRAINED.to_owned(), format!("{} for {updates} updates", kind.name()));
    let mut say = |key: &str, value: String| header.insert(format!("anyid.{key}"), value);
    say("version", env!("CARGO_PKG_VERSION").to_owned());
    let transformer = settings.train.network == TrainedNetwork::Transformer;
    if transformer {
        say("rope_layout", "prepend".to_owned());
        say("null_refs", "match".to_owned());
        say("pad", "black".to_owned());
        // Of several no prompt can be in all.
        if let (1, Some(style)) = (styles.len(), styles.first()) {
            say("prompt_style", style.clone());
        }
    }
    let on = on.iter().filter(|part| transformer && part.counts());
    let adapters: Vec<Part> = on.cloned().collect();
    let ground = Ground::of(weights)?;
    if transformer && kind == Kind::Full {
        ground.say_trained(&adapters, &mut header);
    }
    ground.base(&adapters).say(&mut header);
    let mut say = |key: &str, value: String| header.insert(format!("anyid.{key}"), value);
    let (mut rows, alpha) = (Vec::new(), [settings.lora.alpha as f32]);
    match kind {
        Kind::Lora | Kind::Dpo => {
            say("use", USE.to_owned());
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
