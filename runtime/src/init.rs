//! Model folders: the built-in model, and random weights from a seed, for tests and timing, or weights
//! that exist only while they are packed.
//!
//! Every element depends only on (seed, tensor name, position), so files of any size are written in
//! pieces, and every run gives the same bytes.

mod first;

use crate::checkpoint::{AtomicFile, Encoding, TensorSpec, pytorch_metadata, write_sharded};
use crate::error::{Error, Result, to_fault};
use crate::text::{micro_tokenizer_json, world_tokenizer_json};
use anyid_backends::{Fault, StoredWeight, WeightProvider};
use anyid_ir::{DType, Manifest, TensorType};
use anyid_models::builtin;
use anyid_models::wan::config::{
    DitConfig, TextConfig, VaeConfig, model_index_json, scheduler_config_json,
};
use anyid_models::wan::names::{self, Component};
use first::values as first_values;
use half::bf16;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// A set of sizes that `init` can write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Tiny networks for tests, f32.
    Micro,
    /// As `Micro`, with a transformer that is wide enough to be trained from scratch.
    Small,
    /// A model of the drawn world, f32, with the first values of a training from nothing.
    World,
    /// Wan2.2-TI2V-5B: bf16 transformer and text encoder, f32 autoencoder, about 24 GB.
    Ti2v5b,
}

impl std::str::FromStr for Preset {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "micro" => Ok(Self::Micro),
            "small" => Ok(Self::Small),
            "world" => Ok(Self::World),
            "wan2.2-ti2v-5b" => Ok(Self::Ti2v5b),
            _ => Err(Error::input("E0908", format!("there is no preset \"{name}\""))
                .help("the presets are micro, small, world and wan2.2-ti2v-5b")),
        }
    }
}

impl Preset {
    /// The configurations of the three networks.
    pub fn configs(self) -> (DitConfig, VaeConfig, TextConfig) {
        match self {
            Self::Micro => (DitConfig::micro(), VaeConfig::micro(), TextConfig::micro()),
            Self::Small => (DitConfig::small(), VaeConfig::micro(), TextConfig::micro()),
            Self::World => (DitConfig::world(), VaeConfig::world(), TextConfig::world()),
            Self::Ti2v5b => (DitConfig::ti2v_5b(), VaeConfig::ti2v_5b(), TextConfig::ti2v_5b()),
        }
    }
}

/// The distribution of the elements of a tensor: `centre + u·spread` with u uniform in [−1, 1).
#[derive(Clone, Copy)]
struct Rule {
    centre: f32,
    spread: f32,
}

/// What the elements of a tensor are.
#[derive(Clone, Copy)]
enum Values {
    /// All of one distribution.
    Uniform(Rule),
    /// A kernel of 3×3×3 whose older two taps in time are 0.
    NewestTap(Rule),
    /// A kernel of 3×1×1 that gives each channel of the newest frame, over and over.
    NewestFrame {
        /// Channels that it reads.
        inputs: u64,
    },
}

/// The values of tests and timing: nothing is 0 and nothing alike.
fn spread(name: &str, shape: &[u64]) -> Values {
    Values::Uniform(rule(name, shape))
}

fn rule(name: &str, shape: &[u64]) -> Rule {
    let last = name.rsplit('.').next().unwrap_or_default();
    let norm = name.contains("norm") && shape.len() == 1 && last == "weight";
    if last == "gamma" || norm {
        return Rule { centre: 1.0, spread: 0.1 };
    }
    if last == "modulation" {
        return Rule { centre: 0.0, spread: 0.5 };
    }
    if last == "bias" {
        return Rule { centre: 0.0, spread: 0.05 };
    }
    if name.contains("embedding") && name.contains("pos") || name.starts_with("token_embedding") {
        return Rule { centre: 0.0, spread: 1.0 };
    }
    // A uniform distribution with variance 1/fan-in keeps activations near 1 through the layers.
    let fan_in: u64 = shape.iter().skip(1).product();
    Rule { centre: 0.0, spread: (3.0 / fan_in.max(1) as f32).sqrt() }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn key(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(hash ^ mix(seed))
}

/// Elements `start..` of a tensor.
fn fill(key: u64, values: Values, start: u64, out: &mut [f32]) {
    let drawn = |at: u64, rule: Rule| {
        let bits = mix(key.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let unit = (bits >> 40) as f32 * (2.0 / 16_777_216.0) - 1.0;
        rule.centre + unit * rule.spread
    };
    for (at, value) in (start..).zip(out) {
        *value = match values {
            Values::Uniform(rule) => drawn(at, rule),
            Values::NewestTap(rule) if at % 27 >= 18 => drawn(at, rule),
            Values::NewestFrame { inputs } => {
                let (channel, from, tap) = (at / (3 * inputs), at / 3 % inputs, at % 3);
                f32::from(u8::from(tap == 2 && from == channel % inputs))
            }
            Values::NewestTap(_) => 0.0,
        };
    }
}

/// `count` values of the tensor `name`, uniform in ±`bound`: first values for training.
pub fn uniform(seed: u64, name: &str, bound: f32, count: usize) -> Vec<f32> {
    let mut out = vec![0f32; count];
    let rule = Rule { centre: 0.0, spread: bound };
    fill(key(seed, name), Values::Uniform(rule), 0, &mut out);
    out
}

/// Elements generated at a time.
const PIECE: usize = 1 << 20;

fn write_tensor(
    seed: u64,
    name: &str,
    shape: &[u64],
    kind: Values,
    encoding: Encoding,
    mut put: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let count: u64 = shape.iter().product();
    let key = key(seed, name);
    let mut values = vec![0f32; PIECE.min(count as usize)];
    let mut narrow: Vec<bf16> = Vec::new();
    let mut at = 0;
    while at < count {
        let len = PIECE.min((count - at) as usize);
        fill(key, kind, at, &mut values[..len]);
        if encoding == Encoding::Bf16 {
            narrow.clear();
            narrow.extend(values[..len].iter().map(|v| bf16::from_f32(*v)));
            put(bytemuck::cast_slice(&narrow))?;
        } else {
            put(bytemuck::cast_slice(&values[..len]))?;
        }
        at += len as u64;
    }
    Ok(())
}

/// A complete f32 safetensors file in memory, for small models.
pub fn safetensors_bytes(tensors: &[(String, Vec<u64>)], seed: u64) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (name, shape) in tensors {
        let start = data.len();
        let put = |bytes: &[u8]| {
            data.extend_from_slice(bytes);
            Ok(())
        };
        let kind = spread(name, shape);
        write_tensor(seed, name, shape, kind, Encoding::F32, put)
            .expect("memory takes every write");
        let entry = serde_json::json!({
            "dtype": "F32", "shape": shape, "data_offsets": [start, data.len()],
        });
        header.insert(name.clone(), entry);
    }
    let mut text = serde_json::Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(&text);
    out.extend_from_slice(&data);
    out
}

/// The weights of a manifest in their types, made piece by piece as they are read, so that they
/// take no memory. Only f32 and bf16 occur; the values are those of a model folder with that type
/// and seed.
pub struct RandomWeights {
    seed: u64,
    types: BTreeMap<String, TensorType>,
}

impl RandomWeights {
    /// Weights for `manifest`.
    pub fn new(manifest: &Manifest, seed: u64) -> Self {
        let types = manifest.tensors().map(|(name, ty)| (name.to_owned(), ty.clone())).collect();
        Self { seed, types }
    }
}

/// Elements made at a time while they are read: small enough for the stack.
const BLOCK: usize = 1024;

impl WeightProvider for RandomWeights {
    fn find(&self, name: &str) -> Option<StoredWeight> {
        let ty = self.types.get(name)?;
        let made = matches!(ty.dtype, DType::F32 | DType::Bf16);
        made.then(|| StoredWeight { dtype: ty.dtype, bytes: ty.bytes() })
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), Fault> {
        let Some(ty) = self.types.get(name) else {
            let fault = Error::input("E0301", format!("there is no weight \"{name}\""));
            return Err(to_fault(fault));
        };
        let size = ty.dtype.bytes();
        let shape: smallvec::SmallVec<[u64; 8]> = ty.shape.iter().map(|n| *n as u64).collect();
        let (key, kind) = (key(self.seed, name), spread(name, &shape));
        let (mut values, mut start) = ([0f32; BLOCK], from / size as u64);
        for out in out.chunks_mut(BLOCK * size) {
            let values = &mut values[..out.len() / size];
            fill(key, kind, start, values);
            start += values.len() as u64;
            for (out, value) in out.chunks_exact_mut(size).zip(values) {
                match ty.dtype {
                    DType::Bf16 => out.copy_from_slice(&bf16::from_f32(*value).to_le_bytes()),
                    _ => out.copy_from_slice(&value.to_le_bytes()),
                }
            }
        }
        Ok(())
    }
}

/// Writes the built-in model as a diffusers folder; gives the bytes of its weights.
///
/// # Errors
/// E101x if files cannot be written.
pub fn write_built_in(dir: &Path) -> Result<u64> {
    let mut all = 0;
    for (name, bytes) in builtin::FILES {
        let path = dir.join(name);
        path.parent().map_or(Ok(()), create_dir)?;
        write_bytes(&path, bytes)?;
        all += if name.ends_with(".safetensors") { bytes.len() as u64 } else { 0 };
    }
    Ok(all)
}

/// Writes a diffusers folder with random weights. `progress` gets the bytes done and in total.
///
/// # Errors
/// E0909 if `dir` already holds a model; E101x if files cannot be written.
pub fn write_folder(
    dir: &Path,
    preset: Preset,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    if dir.join("model_index.json").exists() {
        return Err(Error::input("E0909", "the folder already holds a model")
            .at(dir.display())
            .help("choose another folder or remove this one"));
    }
    let (dit, vae, text) = preset.configs();
    let kind = match preset {
        Preset::Micro | Preset::Small => Kind::micro(Encoding::F32),
        Preset::Ti2v5b => Kind::micro(Encoding::Bf16),
        Preset::World => Kind {
            narrow: Encoding::F32,
            values: first_values,
            tokenizer: world_tokenizer_json(),
            shift: 3.0,
        },
    };
    write(dir, (&dit, &vae, &text), &kind, seed, progress)
}

/// What differs between folders besides sizes.
struct Kind {
    /// Type of the weights of transformer and text encoder.
    narrow: Encoding,
    values: fn(Component, &str, &[u64]) -> Values,
    tokenizer: String,
    /// Shift of the schedule.
    shift: f64,
}

impl Kind {
    /// Of tests and timing.
    fn micro(narrow: Encoding) -> Self {
        let values = |_, name: &str, shape: &[u64]| spread(name, shape);
        Self { narrow, values, tokenizer: micro_tokenizer_json(), shift: 5.0 }
    }
}

/// As [`write_folder`], of networks with any configuration, into a folder without a model. `narrow` is
/// the type of the weights of transformer and text encoder.
///
/// # Errors
/// E101x if files cannot be written.
pub fn write_networks(
    dir: &Path,
    (dit, vae, text): (DitConfig, VaeConfig, TextConfig),
    narrow: Encoding,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    write(dir, (&dit, &vae, &text), &Kind::micro(narrow), seed, progress)
}

fn write(
    dir: &Path,
    (dit, vae, text): (&DitConfig, &VaeConfig, &TextConfig),
    kind: &Kind,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let narrow = kind.narrow;
    let vae_component = vae.component();
    let parts = [
        (
            "transformer",
            "diffusion_pytorch_model",
            Component::Dit,
            names::dit_tensors(dit),
            narrow,
            dit.to_diffusers_json(),
        ),
        (
            "vae",
            "diffusion_pytorch_model",
            vae_component,
            names::vae_tensors(vae),
            Encoding::F32,
            vae.to_diffusers_json(),
        ),
        (
            "text_encoder",
            "model",
            Component::Text,
            names::text_tensors(text),
            narrow,
            text.to_diffusers_json(),
        ),
    ];
    let bytes = |tensors: &[(String, Vec<u64>)], encoding: Encoding| {
        names::parameter_count(tensors) * encoding.block().bytes
    };
    let total: u64 =
        parts.iter().map(|(_, _, _, tensors, encoding, _)| bytes(tensors, *encoding)).sum();
    let mut done = 0;
    for (folder, stem, component, tensors, encoding, config) in parts {
        let folder = dir.join(folder);
        create_dir(&folder)?;
        write_json(&folder.join("config.json"), &config)?;
        let specs: Vec<TensorSpec> = tensors
            .iter()
            .map(|(name, shape)| {
                TensorSpec::new(names::to_diffusers(component, name), encoding, shape.clone())
            })
            .collect();
        let canonical: std::collections::HashMap<String, String> = tensors
            .iter()
            .map(|(name, _)| (names::to_diffusers(component, name), name.clone()))
            .collect();
        write_sharded(&folder, stem, &specs, &pytorch_metadata(), SHARD_BYTES, |spec, sink| {
            let name = &canonical[&spec.name];
            let values = (kind.values)(component, name, &spec.shape);
            write_tensor(seed, name, &spec.shape, values, encoding, |piece| {
                done += piece.len() as u64;
                progress(done, total);
                sink.write(piece)
            })
        })?;
    }
    create_dir(&dir.join("tokenizer"))?;
    write_bytes(&dir.join("tokenizer/tokenizer.json"), kind.tokenizer.as_bytes())?;
    create_dir(&dir.join("scheduler"))?;
    write_json(&dir.join("scheduler/scheduler_config.json"), &scheduler_config_json(kind.shift))?;
    // This comes last, so that an incomplete folder is not taken for a model.
    write_json(&dir.join("model_index.json"), &model_index_json())
}

/// Largest shard, in bytes; the reference library uses the same.
const SHARD_BYTES: u64 = 5_000_000_000;

fn create_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| crate::checkpoint::write_error(path, e))
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).expect("JSON values serialise");
    text.push('\n');
    write_bytes(path, text.as_bytes())
}

/// Writes a small file completely or not at all.
///
/// # Errors
/// E101x if it cannot be written.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(bytes).map_err(|e| crate::checkpoint::write_error(path, e))?;
    file.commit().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_made_on_demand_are_those_of_a_file() {
        let mut manifest = Manifest::new("m");
        manifest.add("a.weight", TensorType::new(DType::F32, [3, 5])).unwrap();
        manifest.add("b.weight", TensorType::new(DType::Bf16, [4])).unwrap();
        manifest.add("long.weight", TensorType::new(DType::F32, [3 * BLOCK])).unwrap();
        let all = |seed: u64, name: &str| -> Option<Vec<u8>> {
            let weights = RandomWeights::new(&manifest, seed);
            let mut bytes = vec![0; weights.find(name)?.bytes as usize];
            weights.read(name, 0, &mut bytes).unwrap();
            Some(bytes)
        };
        let file = safetensors_bytes(&[("a.weight".to_owned(), vec![3, 5])], 7);
        assert_eq!(all(7, "a.weight").unwrap(), &file[file.len() - 60..]);
        let b = all(7, "b.weight").unwrap();
        assert_eq!(b.len(), 8);
        assert_ne!(b, all(8, "b.weight").unwrap());
        assert!(all(7, "no.weight").is_none());
        let long = all(7, "long.weight").unwrap();
        let mut piece = vec![0; 8000];
        RandomWeights::new(&manifest, 7).read("long.weight", 400, &mut piece).unwrap();
        assert_eq!(piece, long[400..8400]);
    }
}
