//! A network written as one file in a narrower type: GGUF with blocks, or safetensors with eight-bit
//! floats and scales.
//!
//! Contract: names are those of the files that others write (original ones for the transformer, llama.cpp's
//! or transformers' for the text encoder). Only matrices inside the blocks of the network are made narrower; what is small,
//! and what begins and ends the network, keeps its precision, as in the files of ComfyUI and its GGUF converter.
//! Weights are read and written a piece at a time; the file is read back and compared before it gets
//! its name.

use crate::adapter::{Ground, compare};
use crate::checkpoint::gguf::{GgufWriter, Value};
use crate::checkpoint::{
    Encoding, LARGEST_E4M3, SafetensorsWriter, TensorSpec, Weight, WeightSet, pytorch_metadata,
    to_e4m3,
};
use crate::error::{Error, Result};
use crate::files::{AtomicFile, Existing};
use crate::text::PromptTokenizer;
use crate::weights::ModelWeights;
use anyid_models::wan::config::TextConfig;
use anyid_models::wan::names::{self, Component, Naming};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Elements converted at a time: whole blocks of every kind.
const PIECE: u64 = 1 << 18;
/// Rows of text that the transformer takes.
const TEXT_ROWS: usize = 512;

/// What a network is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// GGUF with matrices in Q8_0.
    Q8_0,
    /// GGUF with matrices in Q4_K.
    Q4K,
    /// Safetensors with matrices in F8_E4M3, each with a scale, as ComfyUI reads it.
    ScaledFp8,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Q8_0, Self::Q4K, Self::ScaledFp8];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4_k",
            Self::ScaledFp8 => "fp8",
        }
    }

    fn encoding(self) -> Encoding {
        match self {
            Self::Q8_0 => Encoding::Q8_0,
            Self::Q4K => Encoding::Q4K,
            Self::ScaledFp8 => Encoding::F8E4M3,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name).ok_or_else(|| {
            let all: Vec<&str> = Self::ALL.iter().map(|target| target.name()).collect();
            Error::input("E0338", format!("\"{name}\" is nothing that weights are converted to"))
                .help(format!("give one of {}", all.join(", ")))
        })
    }
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The file.
    pub path: PathBuf,
    /// Its tensors, and how many of them are narrower than they were.
    pub tensors: usize,
    /// Those that are narrower.
    pub narrower: usize,
    /// Bytes of the data.
    pub bytes: u64,
    /// The root of the mean square of what was lost, over that of the values, in the weight that lost
    /// most.
    pub worst: f64,
    /// Whether the tokenizer of the text encoder is in the file.
    pub tokenizer: bool,
}

/// The list of pieces of a tokenizer in GGUF.
const TOKENS: &str = "tokenizer.ggml.tokens";

/// What a GGUF file says of a text encoder: its sizes, by which llama.cpp reads it, and its tokenizer.
fn about_text(set: &WeightSet, tokenizer: Option<&Path>) -> Result<Vec<(&'static str, Value)>> {
    let shape = |name: &str| set.tensor(name).map(|weight| weight.shape.to_vec());
    let mut out = Vec::new();
    let config = TextConfig::from_original(&shape).ok();
    if let Some(config) = &config {
        let numbers = [
            ("t5encoder.block_count", config.layers),
            ("t5encoder.context_length", TEXT_ROWS),
            ("t5encoder.embedding_length", config.d_model),
            ("t5encoder.feed_forward_length", config.d_ff),
            ("t5encoder.attention.head_count", config.heads),
            ("t5encoder.attention.key_length", config.d_kv),
            ("t5encoder.attention.value_length", config.d_kv),
            ("t5encoder.attention.relative_buckets_count", config.buckets),
        ];
        out.extend(numbers.map(|(key, number)| (key, Value::U32(number as u32))));
        let eps = config.eps as f32;
        out.push(("t5encoder.attention.layer_norm_epsilon", Value::F32(eps)));
        out.push(("t5encoder.attention.layer_norm_rms_epsilon", Value::F32(eps)));
    }
    let rows = config.map_or(usize::MAX, |config| config.vocab_size);
    out.extend(PromptTokenizer::gguf_metadata(tokenizer, set, rows)?.unwrap_or_default());
    Ok(out)
}

/// One tensor to be written.
struct Piece {
    /// Its canonical name.
    from: String,
    spec: TensorSpec,
    /// The name of its scale.
    scale: Option<String>,
}

/// Writes a network of `set` to `path`. A text encoder in GGUF also holds its tokenizer: that of the file
/// `tokenizer`, or without one that inside `set`.
///
/// # Errors
/// E0307 for a set of another network, E0338 for one that is not converted, E0335 to E0337 for scales,
/// E073x for the tokenizer, E0376 where what was written reads back as something else, E1001 for values that are not finite,
/// those of reading and E101x where it cannot be written.
pub fn convert(
    set: &WeightSet,
    component: Component,
    target: Target,
    (path, existing): (&Path, Existing),
    tokenizer: Option<&Path>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Converted> {
    let weights = ModelWeights::recognise(set, component)?;
    let naming = match (component, target) {
        (Component::Text, Target::ScaledFp8) => Naming::Diffusers,
        (Component::Text, _) => Naming::LlamaCpp,
        (Component::Dit, _) => Naming::Original,
        (Component::Vae { .. }, _) => {
            return Err(Error::input("E0338", "the autoencoder is not converted")
                .at(path.display())
                .help(
                    "it is small, and its convolutions are read in their own type: use it as it is",
                ));
        }
    };
    let pieces: Vec<Piece> = weights
        .set()
        .iter()
        .map(|(name, weight)| piece(name, weight, component, naming, target))
        .collect();
    // What is in the transformer stays in it, and the file stands for the one that it is made of.
    let mut header = BTreeMap::new();
    if component == Component::Dit {
        Ground::of(&weights)?.say_merged(&[], &mut header);
    }
    let more = match (component, target) {
        (_, Target::ScaledFp8) => Vec::new(),
        (Component::Text, _) => about_text(weights.set(), tokenizer)?,
        _ => Vec::new(),
    };
    let tokenizer = more.iter().any(|(key, _)| *key == TOKENS);
    let narrower = pieces.iter().filter(|piece| piece.spec.encoding == target.encoding()).count();
    let total: u64 = weights.set().iter().map(|(_, weight)| weight.elements()).sum();
    let mut work = Work { set: weights.set(), worst: 0.0, done: 0, total, progress };
    let file = AtomicFile::create_as(path, existing)?;
    let (file, digests, bytes) = match target {
        Target::ScaledFp8 => work.safetensors(file, &pieces, header)?,
        _ => work.gguf(file, &pieces, header, more, (component, target))?,
    };
    let worst = work.worst;
    if let Some(temporary) = file.temporary_path() {
        compare(&WeightSet::open_files(&[temporary])?, &digests)
            .map_err(|error| error.at(path.display()))?;
    }
    let path = file.commit()?;
    Ok(Converted { path, tensors: digests.len(), narrower, bytes, worst, tokenizer })
}

/// How a weight is written.
fn piece(
    name: &str,
    weight: &Weight,
    component: Component,
    naming: Naming,
    target: Target,
) -> Piece {
    let spelled = names::spelled(component, name, naming);
    let [_, columns] = weight.shape[..] else {
        return kept(name, spelled, weight, target);
    };
    let narrow =
        name.starts_with("blocks.") && name.ends_with(".weight") && !name.contains("pos_embedding");
    let encoding = target.encoding();
    let fits = encoding.bytes_of(&weight.shape).is_some() && columns > 0;
    if narrow && fits {
        let scale = target == Target::ScaledFp8;
        let layer = spelled.strip_suffix(".weight").unwrap_or(&spelled);
        let scale = scale.then(|| format!("{layer}.scale_weight"));
        let spec = TensorSpec::new(spelled, encoding, weight.shape.clone());
        return Piece { from: name.to_owned(), spec, scale };
    }
    // What has rows of another length than blocks is written in halves, as others do.
    let encoding = if narrow { Encoding::F16 } else { own(weight, target) };
    Piece {
        from: name.to_owned(),
        spec: TensorSpec::new(spelled, encoding, weight.shape.clone()),
        scale: None,
    }
}

fn kept(name: &str, spelled: String, weight: &Weight, target: Target) -> Piece {
    let encoding = if target == Target::ScaledFp8 { own(weight, target) } else { Encoding::F32 };
    let spec = TensorSpec::new(spelled, encoding, weight.shape.clone());
    Piece { from: name.to_owned(), spec, scale: None }
}

/// The type of what is not made narrower: its own where the file has that.
fn own(weight: &Weight, target: Target) -> Encoding {
    match (weight.encoding, target) {
        (Encoding::F16 | Encoding::Bf16 | Encoding::F32, _) => weight.encoding,
        (_, Target::ScaledFp8) => Encoding::Bf16,
        _ => Encoding::F16,
    }
}

/// Digests of what was written, by name.
type Digests = BTreeMap<String, Vec<u8>>;

struct Work<'w> {
    set: &'w WeightSet,
    worst: f64,
    done: u64,
    total: u64,
    progress: &'w mut dyn FnMut(u64, u64),
}

impl Work<'_> {
    fn gguf(
        &mut self,
        file: AtomicFile,
        pieces: &[Piece],
        header: BTreeMap<String, String>,
        more: Vec<(&'static str, Value)>,
        (component, target): (Component, Target),
    ) -> Result<(AtomicFile, Digests, u64)> {
        let file_type = if target == Target::Q8_0 { 7 } else { 14 };
        let architecture = if component == Component::Text { "t5encoder" } else { "wan" };
        let mut metadata = vec![
            ("general.architecture", Value::Text(architecture.into())),
            ("general.quantization_version", Value::U32(2)),
            ("general.file_type", Value::U32(file_type)),
        ];
        metadata.extend(more);
        metadata.extend(header.iter().map(|(key, text)| (key.as_str(), Value::Text(text.clone()))));
        let specs: Vec<TensorSpec> = pieces.iter().map(|piece| piece.spec.clone()).collect();
        let mut writer = GgufWriter::create_in(file, &metadata, &specs)?;
        let (mut digests, mut bytes) = (Digests::new(), 0);
        for piece in pieces {
            let digest = self.put(piece, 1.0, &mut |out| {
                bytes += out.len() as u64;
                writer.write(&piece.spec.name, out)
            })?;
            digests.insert(piece.spec.name.clone(), digest);
        }
        Ok((writer.finish_file()?, digests, bytes))
    }

    fn safetensors(
        &mut self,
        file: AtomicFile,
        pieces: &[Piece],
        mut header: BTreeMap<String, String>,
    ) -> Result<(AtomicFile, Digests, u64)> {
        header.extend(pytorch_metadata());
        // Wider types first, so that data stay aligned for readers that map them.
        let mut order: Vec<&Piece> = pieces.iter().collect();
        order.sort_by_key(|piece| std::cmp::Reverse(piece.spec.encoding.block().bytes));
        let scales: Vec<&Piece> = order.iter().copied().filter(|p| p.scale.is_some()).collect();
        let spec = |piece: &&Piece| {
            let name = piece.scale.clone().unwrap_or_default();
            TensorSpec::new(name, Encoding::F32, Vec::<u64>::new())
        };
        let mut specs: Vec<TensorSpec> = scales.iter().map(spec).collect();
        specs.extend(order.iter().map(|piece| piece.spec.clone()));
        specs.push(TensorSpec::new("scaled_fp8", Encoding::F8E4M3, [0u64]));
        let mut writer = SafetensorsWriter::create_in(file, &specs, &header)?;
        let (mut digests, mut bytes) = (Digests::new(), 0);
        let mut factors: BTreeMap<&str, f32> = BTreeMap::new();
        for piece in scales {
            let most = self.largest(&piece.from)?;
            // A matrix of zeros has no scale of its own.
            let scale = if most > 0.0 { most / LARGEST_E4M3 } else { 1.0 };
            factors.insert(&piece.from, scale);
            let name = piece.scale.as_deref().unwrap_or_default();
            writer.write(name, &scale.to_le_bytes())?;
            digests.insert(name.to_owned(), Sha256::digest(scale.to_le_bytes()).to_vec());
            bytes += 4;
        }
        for piece in order {
            let scale = factors.get(piece.from.as_str()).copied().unwrap_or(1.0);
            let digest = self.put(piece, scale, &mut |out| {
                bytes += out.len() as u64;
                writer.write(&piece.spec.name, out)
            })?;
            digests.insert(piece.spec.name.clone(), digest);
        }
        digests.insert("scaled_fp8".to_owned(), Sha256::digest([]).to_vec());
        Ok((writer.finish_file()?, digests, bytes))
    }

    /// The largest value of a weight, whatever its sign.
    fn largest(&self, name: &str) -> Result<f32> {
        let mut most = 0f32;
        self.values(name, &mut |values| {
            most = values.iter().fold(most, |most, value| most.max(value.abs()));
            Ok(())
        })?;
        Ok(most)
    }

    /// Calls `take` with the values of a weight, some at a time.
    fn values(&self, name: &str, take: &mut dyn FnMut(&[f32]) -> Result<()>) -> Result<()> {
        let elements = self.set.tensor(name).map_or(0, Weight::elements);
        let mut values = Vec::new();
        for first in (0..elements).step_by(PIECE as usize) {
            values.resize((elements - first).min(PIECE) as usize, 0f32);
            self.set.read_f32(name, first, bytemuck::cast_slice_mut(&mut values))?;
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                let message = format!("`{name}` has a value {value}");
                return Err(Error::input("E1001", message)
                    .help("weights must be finite: the file is damaged, or its training failed"));
            }
            take(&values)?;
        }
        Ok(())
    }

    /// Writes a weight divided by `scale`; gives the digest of its bytes.
    fn put(
        &mut self,
        piece: &Piece,
        scale: f32,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Vec<u8>> {
        let encoding = piece.spec.encoding;
        let (mut digest, mut out, mut back) = (Sha256::new(), Vec::new(), Vec::new());
        let (mut lost, mut all) = (0f64, 0f64);
        let mut done = 0;
        self.values(&piece.from, &mut |values| {
            let bytes = encoding.bytes_of(&[values.len() as u64]);
            let bytes = bytes.expect("pieces are whole blocks") as usize;
            out.resize(bytes, 0);
            encoded(values, scale, encoding, &mut out)?;
            back.resize(values.len(), 0f32);
            encoding.decode(&out, &mut back)?;
            if let Some(at) = back.iter().position(|back| !back.is_finite()) {
                let message =
                    format!("`{}` has the value {}, for which {encoding} has no room", piece.from, values[at]);
                return Err(Error::input("E0379", message).help(
                    "weights of this size come of an adapter that was merged at too large a scale: merge it \
                     again at a smaller one",
                ));
            }
            for (value, back) in values.iter().zip(&back) {
                let off = f64::from(*value) - f64::from(back * scale);
                lost += off * off;
                all += f64::from(*value) * f64::from(*value);
            }
            digest.update(&out);
            done += values.len() as u64;
            write(&out)
        })?;
        if all > 0.0 {
            self.worst = self.worst.max((lost / all).sqrt());
        }
        self.done += done;
        (self.progress)(self.done, self.total);
        Ok(digest.finalize().to_vec())
    }
}

/// Writes values in an encoding.
fn encoded(values: &[f32], scale: f32, encoding: Encoding, out: &mut [u8]) -> Result<()> {
    if encoding.can_quantise() {
        return encoding.quantise(values, out);
    }
    if encoding == Encoding::F8E4M3 {
        let inverse = 1.0 / scale;
        out.iter_mut().zip(values).for_each(|(out, value)| *out = to_e4m3(value * inverse));
        return Ok(());
    }
    encoding.encode(values, out)
}
