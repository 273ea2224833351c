//! Values that are not finite are blamed on the phase, the node and the weight they came from.

use anyid_runtime::init::{Preset, write_folder};
use anyid_runtime::{Error, Model, Pipeline, Precision, ReferenceSource, Request, Size, Tensor};
use anyid_tests::devices;
use anyid_tests::folders::Folder;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const NETWORKS: [&str; 3] = [
    "text_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "transformer/diffusion_pytorch_model.safetensors",
];

/// A safetensors file that is changed and put back.
struct Weights {
    bytes: Vec<u8>,
    data: usize,
    tensors: BTreeMap<String, [usize; 2]>,
}

impl Weights {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let length = u64::from_le_bytes(bytes[..8].try_into().expect("a header")) as usize;
        let header: serde_json::Value =
            serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        let tensors = header.as_object().expect("an object").iter();
        let tensors = tensors.filter(|(name, _)| *name != "__metadata__").map(|(name, entry)| {
            assert_eq!(entry["dtype"], "F32");
            let at = |i: usize| entry["data_offsets"][i].as_u64().expect("an offset") as usize;
            (name.clone(), [at(0), at(1)])
        });
        Self { data: 8 + length, tensors: tensors.collect(), bytes }
    }

    /// The file with the last element of a tensor, or all of it, changed.
    fn changed(&self, name: &str, all: bool, value: f32) -> Vec<u8> {
        let [from, to] = self.tensors[name].map(|at| self.data + at);
        let from = if all { from } else { to - 4 };
        let mut bytes = self.bytes.clone();
        bytes[from..to].chunks_exact_mut(4).for_each(|e| e.copy_from_slice(&value.to_le_bytes()));
        bytes
    }
}

/// The name of a tensor without its numbers: one of each kind is enough.
fn kind(name: &str) -> String {
    name.split('.').filter(|part| part.parse::<u32>().is_err()).collect::<Vec<_>>().join(".")
}

fn run(folder: &Path, precision: Precision) -> Result<(), Error> {
    run_guided(folder, precision, Request::default().guidance)
}

fn run_guided(folder: &Path, precision: Precision, guidance: f64) -> Result<(), Error> {
    let pixels = vec![0.25; 3 * 5 * 32 * 32];
    let pixels = Tensor::from_f32([3, 5, 32, 32], &pixels).expect("the size is right");
    let request = Request {
        references: vec![ReferenceSource::Pixels(pixels)],
        prompt: "a walk on a beach".into(),
        size: Size { width: 32, height: 32, frames: 5 },
        steps: 1,
        guidance,
        precision: Some(precision),
        ..Request::default()
    };
    let pipeline = Pipeline::new(Model::open(folder)?, devices::first_backend(1));
    pipeline.generate(&request, &mut |_| {}, &mut |_| Ok(())).map(drop)
}

fn model() -> Folder {
    let folder = Folder::new();
    let made = write_folder(&folder.path().join("m"), Preset::Micro, 0, &mut |_, _| {});
    made.unwrap_or_else(|e| panic!("{e}"));
    folder
}

#[test]
fn a_bad_weight_is_named_with_its_phase() {
    let folder = model();
    let model = folder.path().join("m");
    let mut phases = BTreeSet::new();
    for network in NETWORKS {
        let path = model.join(network);
        let weights = Weights::read(&path);
        let mut seen = BTreeSet::new();
        let kinds: Vec<&String> =
            weights.tensors.keys().filter(|name| seen.insert(kind(name))).collect();
        for (at, name) in kinds.into_iter().enumerate() {
            // Of tables only some rows are read.
            let all = name.contains("embed_tokens")
                || name.contains("shared")
                || name.contains("relative_attention_bias");
            // A score that is masked has no effect; what is infinite shows behind every activation.
            let mask = name.contains("relative_attention_bias");
            let bad = if mask || at.is_multiple_of(2) { f32::NAN } else { f32::INFINITY };
            std::fs::write(&path, weights.changed(name, all, bad)).expect("written");
            let error = run(&model, Precision::F32).err().unwrap_or_else(|| panic!("{name}"));
            assert_eq!(error.code(), "E1001", "{name}: {error}");
            let text = error.message();
            let right: &[&str] = match (network, name.as_str()) {
                (n, _) if n.starts_with("text") => &["the text encoder, the prompt"],
                (n, _) if n.starts_with("transformer") => &["`prepare`", "sampling step 1"],
                (_, name) if name.contains("decoder") || name.contains("post_quant") => {
                    &["the decoder, chunk"]
                }
                _ => &["the encoder of reference 1, chunk"],
            };
            let found = right.iter().find(|phase| text.contains(**phase));
            phases.insert(*found.unwrap_or_else(|| panic!("{name}: {error}")));
            assert!(text.contains(", node "), "{name}: {error}");
            assert!(text.contains(&format!("its weight \"{name}\"")), "{name}: {error}");
            assert!(text.contains(network), "{name}: {error}");
        }
        std::fs::write(&path, &weights.bytes).expect("written");
        run(&model, Precision::F32).unwrap_or_else(|e| panic!("{e}"));
    }
    let all = ["the text encoder, the prompt", "the encoder of reference 1, chunk"];
    for phase in all.into_iter().chain(["`prepare`", "sampling step 1", "the decoder, chunk"]) {
        assert!(phases.contains(phase), "no weight shows in {phase}");
    }
}

#[test]
fn values_that_grow_too_large_are_blamed_on_the_node_that_made_them() {
    let folder = model();
    let model = folder.path().join("m");
    for (network, part, phase) in [
        (NETWORKS[0], "final_layer_norm.weight", "the text encoder"),
        (NETWORKS[1], "decoder.conv_in.weight", "the decoder"),
        (NETWORKS[2], "proj_out.weight", "sampling step 1"),
    ] {
        let path = model.join(network);
        let weights = Weights::read(&path);
        let name = weights.tensors.keys().find(|name| name.ends_with(part));
        let name = name.unwrap_or_else(|| panic!("no {part}"));
        // Finite in every type, and too large once a few are added up.
        std::fs::write(&path, weights.changed(name, true, 3.3e38)).expect("written");
        for precision in [Precision::F32, Precision::Bf16] {
            let error = run(&model, precision).err().unwrap_or_else(|| panic!("{name}"));
            assert_eq!(error.code(), "E1001", "{name}: {error}");
            let text = error.message();
            assert!(text.contains(phase) && text.contains(", node "), "{name}: {error}");
            assert!(!text.contains("its weight"), "{name} is finite: {error}");
        }
        std::fs::write(&path, &weights.bytes).expect("written");
    }
}

#[test]
fn a_mix_of_guidance_that_overflows_is_not_blamed_on_the_network() {
    let folder = model();
    let model = folder.path().join("m");
    let path = model.join(NETWORKS[2]);
    let weights = Weights::read(&path);
    // With larger and larger weights of the head there are some for which each velocity is finite
    // and their mix, at the largest scale, is not.
    let mixed = (30..39).any(|exponent| {
        let value = 10f32.powi(exponent);
        std::fs::write(&path, weights.changed("proj_out.weight", true, value)).expect("written");
        let error = run_guided(&model, Precision::F32, 100.0).err();
        error.is_some_and(|error| {
            assert_eq!(error.code(), "E1001", "{error}");
            error.message().contains("the mix of guidance")
        })
    });
    assert!(mixed, "no mix overflowed");
}
