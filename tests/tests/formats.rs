//! Checkpoints in every format that is read give the results of the programs that wrote them: the files
//! under `tests/fixtures_extra`, or those of a folder of the same layout (`ANYID_FORMATS`).
//!
//! Cases are discovered. What every value of a file is, block by block, and that files which mislead
//! are refused, is tested beside the readers (`runtime/files/src/checkpoint`).

use anyid_ir::Tensor;
use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, ShapeLookup, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::names::{Component, dit_tensors, text_tensors, vae_tensors};
use anyid_models::wan::text::text;
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_runtime::checkpoint::WeightSet;
use anyid_runtime::model::Parts;
use anyid_runtime::sampling::ScheduleKind;
use anyid_runtime::text::PromptTokenizer;
use anyid_runtime::weights::ModelWeights;
use anyid_runtime::{Model, Pipeline, ReferenceSource, Request, Size};
use anyid_tests::close::{absolute, relative};
use anyid_tests::devices;
use anyid_tests::engines::{Engine, run};
use anyid_tests::fixtures::{Tensors, json, sample};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const TOLERANCE: f64 = 1e-5;

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    match std::env::var_os("ANYID_FORMATS").map(PathBuf::from) {
        // Tests run in their package's folder; a relative path is meant from the repository's.
        Some(path) if path.is_relative() && !path.exists() => tests.join("..").join(path),
        Some(path) => path,
        None => tests.join("fixtures_extra"),
    }
}

/// The transformer of which the files are versions, with inputs and its own output: in the
/// repository it lies with the adapters, which are for the same.
fn base() -> PathBuf {
    let own = root().join("base");
    if own.is_dir() { own } else { root().join("lora/base") }
}

/// Files of a folder whose names begin so, sorted.
fn files(folder: &str, beginning: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).expect("the folder is there");
    let mut out: Vec<PathBuf> = entries
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.is_file() && name(path).starts_with(beginning))
        .collect();
    out.sort();
    out
}

fn name(path: &Path) -> String {
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn weights(set: &WeightSet, component: Component, expected: &[(String, Vec<u64>)]) -> ModelWeights {
    let weights = ModelWeights::recognise(set, component)
        .and_then(|weights| weights.shaped(expected))
        .unwrap_or_else(|e| panic!("{e}"));
    weights.require(expected).unwrap_or_else(|e| panic!("{e}"));
    // Every tensor once, under its canonical name, and nothing besides.
    assert_eq!(weights.set().len(), expected.len());
    weights
}

/// The transformer on the inputs of the base, with weights of several files.
struct Transformer {
    config: DitConfig,
    module: anyid_ir::Module,
    inputs: [(&'static str, Tensor); 4],
}

impl Transformer {
    fn open() -> Self {
        let config = json(&base().join("transformer/config.json"));
        let config = DitConfig::from_diffusers(&config).unwrap();
        let inputs = Tensors::open(&base().join("inputs.safetensors"));
        let lat = sample(inputs.get("hidden_states"), 0);
        let txt = sample(inputs.get("text"), 0);
        let times = sample(inputs.get("timestep"), 0).to_f32_vec();
        let mut distinct: Vec<f32> = Vec::new();
        let mut segments = Vec::new();
        for time in &times {
            let at = distinct.iter().position(|other| other == time).unwrap_or_else(|| {
                distinct.push(*time);
                distinct.len() - 1
            });
            segments.push(at as i32);
        }
        let [_, frames, height, width] = lat.shape().try_into().unwrap();
        let (text_tokens, timesteps) = (txt.shape()[0], distinct.len());
        let size = DitSize { reference_frames: 0, frames, height, width, text_tokens, timesteps };
        let module = dit(&config, &size, Precision::F32);
        let t = Tensor::from_f32([distinct.len()], &distinct).unwrap();
        let seg = Tensor::from_i32([segments.len()], &segments).unwrap();
        Self { config, module, inputs: [("lat", lat), ("t", t), ("seg", seg), ("txt", txt)] }
    }

    fn weights(&self, set: &WeightSet) -> ModelWeights {
        weights(set, Component::Dit, &dit_tensors(&self.config))
    }

    fn check(&self, what: &str, weights: ModelWeights, golden: &Tensor) {
        let golden = sample(golden, 0).to_f64_vec();
        let (weights, given) = (Arc::new(weights), self.inputs.each_ref().map(|(n, t)| (*n, t)));
        for engine in Engine::three() {
            let found = run(engine, &self.module, "dit", &weights, &given)["v"].to_f64_vec();
            let error = relative(&found, &golden);
            println!("{what} on {}: {error:.1e}", engine.name());
            assert!(error <= TOLERANCE, "{what} on {}: {error:e}", engine.name());
        }
    }
}

#[test]
fn transformers_of_every_format_compute_what_was_computed_of_them() {
    let transformer = Transformer::open();
    let mut count = 0;
    for folder in ["comfy", "gguf"] {
        let expected = Tensors::open(&root().join(folder).join("expected.safetensors"));
        for path in files(folder, "dit_") {
            let file = name(&path);
            let set = WeightSet::open(&path).unwrap_or_else(|e| panic!("{e}"));
            let golden = expected.get(&format!("{file}.out"));
            transformer.check(&file, transformer.weights(&set), golden);
            count += 1;
        }
    }
    let folder = root().join("diffusers");
    let index = folder.join("transformer/diffusion_pytorch_model.safetensors.index.fp16.json");
    let set = WeightSet::open(index).unwrap_or_else(|e| panic!("{e}"));
    let expected = Tensors::open(&folder.join("expected.safetensors"));
    transformer.check("fp16 shards", transformer.weights(&set), expected.get("transformer.out"));
    let plain = WeightSet::open(base().join("transformer/diffusion_pytorch_model.safetensors"));
    let expected = Tensors::open(&base().join("expected.safetensors"));
    let golden = expected.find("out").or_else(|| expected.find("base.out")).expect("an output");
    transformer.check("base", transformer.weights(&plain.unwrap()), golden);
    assert!(count >= 9, "{count}");
}

#[test]
fn shards_of_the_original_folder_hold_the_same_table_as_the_base() {
    let transformer = Transformer::open();
    let plain = WeightSet::open(base().join("transformer/diffusion_pytorch_model.safetensors"));
    let plain = transformer.weights(&plain.unwrap());
    let shards = root().join("original/diffusion_pytorch_model.safetensors.index.json");
    let shards = transformer.weights(&WeightSet::open(shards).unwrap());
    for (name, weight) in plain.set().iter() {
        let other = shards.set().tensor(name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!((weight.encoding, &weight.shape), (other.encoding, &other.shape), "{name}");
        assert!(
            plain.set().contents(name).unwrap() == shards.set().contents(name).unwrap(),
            "{name}"
        );
    }
}

fn shape(set: &WeightSet) -> impl Fn(&str) -> Option<Vec<u64>> {
    |name| set.tensor(name).map(|weight| weight.shape.clone())
}

/// A configuration that follows from the tensors alone.
fn inferred<C>(
    set: &WeightSet,
    component: Component,
    read: impl Fn(ShapeLookup<'_>) -> Result<C, anyid_models::wan::config::ConfigError>,
) -> C {
    let weights = ModelWeights::recognise(set, component).unwrap_or_else(|e| panic!("{e}"));
    read(&shape(weights.set())).unwrap_or_else(|e| panic!("{e}"))
}

/// The text encoder of a set on ids; rows of padding do not exist here.
fn encoder(what: &str, set: &WeightSet, inputs: &Tensors, golden: &Tensor) {
    let config = inferred(set, Component::Text, TextConfig::from_original);
    let weights = Arc::new(weights(set, Component::Text, &text_tensors(&config)));
    let ids = inputs.get("input_ids");
    for index in 0..ids.shape()[0] {
        let mask = sample(inputs.get("attention_mask"), index).to_f64_vec();
        let real = mask.iter().filter(|m| **m != 0.0).count();
        let ids = Tensor::from_i32([real], &sample(ids, index).as_i32().unwrap()[..real]).unwrap();
        let module = text(&config, real, Precision::F32);
        let golden = sample(golden, index).to_f64_vec();
        for engine in Engine::three() {
            let values = run(engine, &module, "text", &weights, &[("ids", &ids)]);
            let found = values["last_hidden_state"].to_f64_vec();
            let error = relative(&found, &golden[..found.len()]);
            println!("{what} on {}: {error:.1e}", engine.name());
            assert!(error <= TOLERANCE, "{what} on {}: {error:e}", engine.name());
        }
    }
}

#[test]
fn text_encoders_of_every_format_and_naming_compute_the_same() {
    let folder = root().join("diffusers");
    let inputs = Tensors::open(&folder.join("inputs.safetensors"));
    let expected = Tensors::open(&folder.join("expected.safetensors"));
    let set = WeightSet::open(folder.join("text_encoder/model.safetensors")).unwrap();
    encoder("transformers", &set, &inputs, expected.get("text_encoder.last_hidden_state"));
    let mut count = 0;
    for kind in ["comfy", "gguf"] {
        let expected = Tensors::open(&root().join(kind).join("expected.safetensors"));
        for path in files(kind, "umt5") {
            let set = WeightSet::open(&path).unwrap();
            let golden = expected.get(&format!("{}.last_hidden_state", name(&path)));
            encoder(&name(&path), &set, &inputs, golden);
            count += 1;
        }
    }
    assert!(count >= 2, "{count}");
    let folder = folder.join("text_names");
    let inputs = Tensors::open(&folder.join("inputs.safetensors"));
    let expected = Tensors::open(&folder.join("expected.safetensors"));
    for spelling in ["shared", "embed_tokens", "both", "original_names"] {
        let set = WeightSet::open(folder.join(format!("{spelling}.safetensors"))).unwrap();
        encoder(spelling, &set, &inputs, expected.get("last_hidden_state"));
    }
}

#[test]
fn the_autoencoder_of_comfyui_encodes_and_decodes_as_it_did_there() {
    let folder = root().join("comfy");
    let expected = Tensors::open(&folder.join("expected.safetensors"));
    for path in files("comfy", "wan2.2_vae") {
        let set = WeightSet::open(&path).unwrap();
        let config = inferred(&set, Component::VAE, VaeConfig::from_original);
        let weights = Arc::new(weights(&set, config.component(), &vae_tensors(&config)));
        let get = |what: &str| sample(expected.get(&format!("{}.{what}", name(&path))), 0);
        let (pixels, mean) = (get("in"), get("mean"));
        let [_, frames, height, width] = pixels.shape().try_into().unwrap();
        let size = VaeSize { height, width, chunk: 1 };
        let halves = [
            (
                "encode",
                Half::Encoder,
                vae::encoder(&config, &size),
                ("video", &pixels),
                "mean",
                &mean,
            ),
            (
                "decode",
                Half::Decoder,
                vae::decoder(&config, &size, false),
                ("z", &mean),
                "video",
                &get("decoded"),
            ),
        ];
        for (func, half, module, input, output, golden) in halves {
            let module = vae::whole_clip(&config, &size, half, module, frames);
            for engine in Engine::three() {
                let found = run(engine, &module, func, &weights, &[input])[output].to_f64_vec();
                let error = relative(&found, &golden.to_f64_vec());
                println!("{func} on {}: {error:.1e}", engine.name());
                assert!(error <= 1e-4, "{func} on {}: {error:e}", engine.name());
            }
        }
    }
}

/// One sampling run as `original/run.json` describes it.
fn sampled(parts: &Parts) -> (Vec<f64>, Vec<f64>) {
    let folder = root().join("original");
    let inputs = Tensors::open(&folder.join("inputs.safetensors"));
    let settings = json(&folder.join("run.json"));
    let whole = |key: &str| settings[key].as_u64().expect("a whole number") as usize;
    let model = Model::of_parts(parts).unwrap_or_else(|e| panic!("{e}"));
    let mut references = Vec::new();
    while let Some(video) = inputs.find(&format!("ref{}.video", references.len())) {
        references.push(ReferenceSource::Pixels(sample(video, 0)));
    }
    let request = Request {
        references,
        prompt: settings["prompt"].as_str().expect("a prompt").to_owned(),
        size: Size { width: whole("width"), height: whole("height"), frames: whole("frames") },
        steps: whole("steps"),
        guidance: settings["guidance"].as_f64().expect("a number"),
        shift: settings["shift"].as_f64(),
        // The sigmas of the golden are those of the library; the original programs' differ a little.
        schedule: Some(ScheduleKind::Diffusers),
        noise: Some(sample(inputs.get("noise"), 0)),
        precision: Some(Precision::F32),
        text_tokens: Some(whole("text_len")),
        ..Request::default()
    };
    let pipeline = Pipeline::new(model, devices::backend(devices::names()[0], 2));
    let mut parts: Vec<Tensor> = Vec::new();
    let report = pipeline.generate(&request, &mut |_| {}, &mut |part| {
        parts.push(part.clone());
        Ok(())
    });
    let latents = report.unwrap_or_else(|e| panic!("{e}")).latents.to_f64_vec();
    let planes: Vec<usize> = parts.iter().map(|p| p.elements() / 3).collect();
    let values: Vec<Vec<f64>> = parts.iter().map(Tensor::to_f64_vec).collect();
    let channel = |channel: usize| {
        let pieces = values.iter().zip(&planes);
        pieces.flat_map(move |(values, plane)| values[channel * plane..][..*plane].to_vec())
    };
    (latents, (0..3).flat_map(channel).collect())
}

#[test]
fn the_original_folder_with_its_pth_files_samples_what_the_reference_samples() {
    let folder = root().join("original");
    let expected = Tensors::open(&folder.join("expected.safetensors"));
    let steps = json(&folder.join("run.json"))["steps"].as_u64().unwrap();
    let golden = |name: &str| sample(expected.get(name), 0).to_f64_vec();
    let (latents, video) = sampled(&Parts::folder(&folder));
    let error = relative(&latents, &golden(&format!("step{}.latent", steps - 1)));
    assert!(error <= 5e-5, "latents: {error:e}");
    let error = absolute(&video, &golden("video"));
    assert!(error <= 2e-4, "video: {error:e}");
    // The same from files that are named one by one, among them another form of the tokenizer and
    // an autoencoder of another precision.
    let single = Parts {
        folder: Some(folder.clone()),
        transformer: Some(base().join("transformer/diffusion_pytorch_model.safetensors")),
        text_encoder: Some(folder.join("models_t5_umt5-xxl-enc-bf16.pth")),
        vae: Some(folder.join("Wan2.2_VAE.pth")),
        tokenizer: Some(folder.join("google/umt5-xxl/spiece.model")),
    };
    let (again, same) = sampled(&single);
    assert!(again == latents && same == video, "the same weights, from other files");
    let other = Parts { vae: Some(root().join("comfy/wan2.2_vae.safetensors")), ..single };
    let (_, video_of_bf16) = sampled(&other);
    // An autoencoder of random weights enlarges what they are rounded by; measured: 1.2e-2.
    let square = |sum: f64, (a, b): (&f64, &f64)| sum + (a - b) * (a - b);
    let sum = video_of_bf16.iter().zip(&video).fold(0.0, square);
    let change = (sum / video.len() as f64).sqrt();
    assert!(change > 1e-4 && change < 0.05, "bf16 in place of f32: {change:e}");
}

#[test]
fn single_files_make_a_model_and_bring_their_tokenizer() {
    let original = root().join("original");
    let tokenizer = PromptTokenizer::open(original.join("google/umt5-xxl/tokenizer.json")).unwrap();
    let texts = [
        "The woman in a red coat smiles, cinematic.",
        "a  ½ é 猫 <extra_id_1> x </s> y",
        "",
        " leading, and ▁ marks",
        "<pad><unk>",
    ];
    for (text_encoder, dit) in [
        ("comfy/umt5_fp8_e4m3fn_scaled.safetensors", "comfy/dit_fp8_scaled_prefix.safetensors"),
        ("gguf/umt5_q8_0.gguf", "gguf/dit_mix_no_arch.gguf"),
    ] {
        let parts = Parts {
            folder: Some(original.clone()),
            transformer: Some(root().join(dit)),
            text_encoder: Some(root().join(text_encoder)),
            vae: Some(root().join("comfy/wan2.2_vae.safetensors")),
            tokenizer: None,
        };
        let model = Model::of_parts(&parts).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((model.dit.heads, model.dit.text_len), (2, 16), "as the folder says");
        for text in texts {
            let own = model.tokenizer.encode(text, 512).unwrap().ids;
            assert_eq!(own, tokenizer.encode(text, 512).unwrap().ids, "{text_encoder}: {text:?}");
        }
        // Without a folder nothing says how many heads there are: the width is not that of Wan.
        let alone = Parts { folder: None, ..parts.clone() };
        let error = Model::of_parts(&alone).map(|_| ()).unwrap_err();
        assert_eq!(error.code(), "E0713", "{error}");
        assert!(error.message().contains("num_heads"), "{error}");
        let none = Parts { transformer: None, ..alone };
        let error = Model::of_parts(&none).map(|_| ()).unwrap_err();
        assert_eq!((error.code(), error.place()), ("E0705", Some("--transformer")), "{error}");
    }
}
