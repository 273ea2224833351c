//! A copy of a model folder whose weights are stored in f16: half the bytes of f32.
//!
//! Contract: every file of the model is in the copy, weights under the names that they have, each
//! rounded once to nearest even. The folder it is written into is there and holds no model.

use crate::adapter::{copy_model, weight_files};
use crate::checkpoint::{
    Encoding, Layout, ModelFolder, TensorSink, TensorSpec, WeightSet, pytorch_metadata,
    write_sharded,
};
use crate::error::{Error, Result};
use half::f16;
use std::collections::BTreeSet;
use std::path::Path;

/// Elements converted at a time.
const PIECE: u64 = 1 << 18;
/// Largest shard, in bytes; the reference library uses the same.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes the diffusers folder `from` into `to` with weights in f16; gives their bytes.
///
/// # Errors
/// Those of opening the folder and reading its weights, E0702 for a folder of another layout, E1001 for
/// values that f16 does not have, E101x where it cannot be written.
pub fn write(from: &Path, to: &Path) -> Result<u64> {
    let folder = ModelFolder::open(from)?;
    let Layout::Diffusers(files) = &folder.layout else {
        return Err(Error::input("E0702", "this is not a model folder in the layout of diffusers")
            .at(from.display())
            .help("such a folder has a model_index.json"));
    };
    let parts = [
        ("transformer", &files.transformer.weights, "diffusion_pytorch_model"),
        ("vae", &files.vae.weights, "diffusion_pytorch_model"),
        ("text_encoder", &files.text_encoder.weights, "model"),
    ];
    let mut left_out = BTreeSet::new();
    for (inside, weights, _) in parts {
        left_out.extend(weight_files(from, inside, weights)?);
    }
    copy_model(&folder, to, &left_out)?;
    let mut bytes = 0;
    for (inside, weights, stem) in parts {
        let set = weights.open()?;
        let spec = |(name, weight): (&str, &crate::checkpoint::Weight)| {
            TensorSpec::new(name, Encoding::F16, weight.shape.clone())
        };
        let specs: Vec<TensorSpec> = set.iter().map(spec).collect();
        let metadata = pytorch_metadata();
        write_sharded(to.join(inside), stem, &specs, &metadata, SHARD_BYTES, |spec, sink| {
            bytes += spec.bytes()?;
            put(&set, &spec.name, sink).map_err(|error| error.at(from.join(inside).display()))
        })?;
    }
    Ok(bytes)
}

/// Writes a tensor, some elements at a time.
fn put(set: &WeightSet, name: &str, sink: &mut TensorSink<'_>) -> Result<()> {
    let elements = set.tensor(name).map_or(0, |weight| weight.elements());
    let mut wide = Vec::new();
    for first in (0..elements).step_by(PIECE as usize) {
        wide.resize((elements - first).min(PIECE) as usize, 0f32);
        set.read_f32(name, first, bytemuck::cast_slice_mut(&mut wide))?;
        let narrow: Vec<f16> = wide.iter().map(|value| f16::from_f32(*value)).collect();
        if let Some(at) = narrow.iter().position(|value| !value.is_finite()) {
            let message = format!("`{name}` has a value {}, which f16 does not have", wide[at]);
            return Err(Error::input("E1001", message)
                .help("such a model has to stay in the type that it is stored in"));
        }
        sink.write(bytemuck::cast_slice(&narrow))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Weight, save};
    use crate::init::{Preset, write_folder};
    use crate::model::Model;

    #[test]
    fn a_copy_has_every_weight_rounded_once() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        write_folder(&from, Preset::World, 3, &mut |_, _| {}).unwrap();
        std::fs::create_dir(&to).unwrap();
        let bytes = write(&from, &to).unwrap();
        let [wide, narrow] = [&from, &to].map(|path| Model::open(path).unwrap());
        assert_eq!((&wide.dit, &wide.vae), (&narrow.dit, &narrow.vae));
        let mut found = 0;
        for (wide, narrow) in [
            (wide.dit_weights, narrow.dit_weights),
            (wide.vae_weights, narrow.vae_weights),
            (wide.text_weights, narrow.text_weights),
        ] {
            let values = |set: &WeightSet, name: &str| {
                let weight: &Weight = set.tensor(name).unwrap();
                let mut out = vec![0f32; weight.elements() as usize];
                set.read_f32(name, 0, bytemuck::cast_slice_mut(&mut out)).unwrap();
                out
            };
            for (name, weight) in narrow.set().iter() {
                assert_eq!(weight.encoding, Encoding::F16, "{name}");
                found += weight.bytes;
                for (a, b) in values(wide.set(), name).iter().zip(values(narrow.set(), name)) {
                    assert_eq!(f16::from_f32(*a).to_f32(), b, "{name}");
                }
            }
        }
        assert_eq!(found, bytes);
        assert!(to.join("scheduler/scheduler_config.json").exists());
    }

    #[test]
    fn a_value_that_f16_does_not_have_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let [from, to] = ["from", "to"].map(|name| folder.path().join(name));
        write_folder(&from, Preset::World, 3, &mut |_, _| {}).unwrap();
        let path = from.join("text_encoder/model.safetensors");
        let wide = 70_000f32.to_le_bytes();
        let tensor = ("shared.weight", Encoding::F32, &[1u64] as &[u64], &wide as &[u8]);
        save(&path, &[tensor], &pytorch_metadata()).unwrap();
        std::fs::create_dir(&to).unwrap();
        let error = write(&from, &to).unwrap_err();
        assert_eq!(error.code(), "E1001");
        assert!(error.to_string().contains("`shared.weight` has a value 70000"), "{error}");
    }
}
