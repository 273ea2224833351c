//! The autoencoder: whole clips through the streaming functions, with every saved chunk value.

use anyid_models::wan::config::VaeConfig;
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_runtime::checkpoint::WeightSet;
use anyid_runtime::weights::ModelWeights;
use anyid_tests::close::{Check, relative};
use anyid_tests::engines::{Engine, run as execute};
use anyid_tests::fixtures::{Tensors, json, sample};
use std::path::Path;
use std::sync::Arc;

const TOLERANCE: f64 = 3e-5;

pub(crate) fn run(case: &Path) -> Vec<(String, Vec<Check>)> {
    let config = VaeConfig::from_diffusers(&json(&case.join("config.json")))
        .unwrap_or_else(|e| panic!("{e}"));
    let component = config.component();
    let set = WeightSet::open(case.join("diffusion_pytorch_model.safetensors"))
        .unwrap_or_else(|e| panic!("{e}"));
    let weights =
        Arc::new(ModelWeights::recognise(&set, component).unwrap_or_else(|e| panic!("{e}")));
    let inputs = Tensors::open(&case.join("inputs.safetensors"));
    let expected = Tensors::open(&case.join("expected.safetensors"));
    let clips: Vec<String> =
        inputs.names().filter_map(|n| n.strip_suffix(".video").map(str::to_owned)).collect();
    Engine::of_case(case)
        .iter()
        .map(|engine| {
            let mut checks = Vec::new();
            for clip in &clips {
                compare(*engine, &config, &weights, &inputs, &expected, clip, &mut checks);
            }
            (engine.name(), checks)
        })
        .collect()
}

fn compare(
    engine: Engine,
    config: &VaeConfig,
    weights: &Arc<ModelWeights>,
    inputs: &Tensors,
    expected: &Tensors,
    clip: &str,
    checks: &mut Vec<Check>,
) {
    let video = inputs.get(&format!("{clip}.video"));
    for index in 0..video.shape()[0] {
        let pixels = sample(video, index);
        let [_, frames, height, width] = pixels.shape().try_into().expect("[3,T,H,W]");
        let size = VaeSize { height, width, chunk: 1 };
        let mut push = |name: &str, given: Vec<f64>, golden: Vec<f64>| {
            let error = relative(&given, &golden);
            checks.push(Check {
                name: format!("{clip}.{name}[{index}]"),
                error,
                tolerance: TOLERANCE,
            });
        };
        let module =
            vae::whole_clip(config, &size, Half::Encoder, vae::encoder(config, &size), frames);
        let values = execute(engine, &module, "encode", weights, &[("video", &pixels)]);
        for name in ["moments", "mean", "latent"] {
            let golden = sample(expected.get(&format!("{clip}.{name}")), index);
            push(name, values[name].to_f64_vec(), golden.to_f64_vec());
        }
        if let Some(z) = inputs.find(&format!("{clip}.z")) {
            let z = sample(z, index);
            let module = vae::whole_clip(
                config,
                &size,
                Half::Decoder,
                vae::decoder(config, &size, false),
                frames,
            );
            let values = execute(engine, &module, "decode", weights, &[("z", &z)]);
            let golden = sample(expected.get(&format!("{clip}.decoded")), index);
            push("decoded", values["video"].to_f64_vec(), golden.to_f64_vec());
        }
        chunks(engine, config, weights, inputs, expected, clip, index, &size, &mut push);
    }
}

/// The values inside each chunk, by running `first` and `next` as the pipeline does.
fn chunks(
    engine: Engine,
    config: &VaeConfig,
    weights: &Arc<ModelWeights>,
    inputs: &Tensors,
    expected: &Tensors,
    clip: &str,
    index: usize,
    size: &VaeSize,
    push: &mut impl FnMut(&str, Vec<f64>, Vec<f64>),
) {
    for (half, key, input, param) in
        [("enc", Half::Encoder, "video", "video"), ("dec", Half::Decoder, "z", "z")]
            .map(|(key, half, input, param)| (half, key, input, param))
    {
        let Some(all) = inputs.find(&format!("{clip}.{input}")) else { continue };
        let all = sample(all, index);
        let module = match half {
            Half::Encoder => vae::encoder(config, size),
            Half::Decoder => vae::decoder(config, size, false),
        };
        let per_chunk = if half == Half::Encoder { config.temporal_factor() } else { 1 };
        let later = (all.shape()[1] - 1) / per_chunk;
        let mut states: Vec<anyid_ir::Tensor> = Vec::new();
        for chunk in 0..=later {
            let (start, len) =
                if chunk == 0 { (0, 1) } else { (1 + (chunk - 1) * per_chunk, per_chunk) };
            let piece = time_slice(&all, start, len);
            let func = if chunk == 0 { "first" } else { "next" };
            let labels: Vec<String> = (0..states.len()).map(|i| format!("s{i}")).collect();
            let mut arguments = vec![(param, &piece)];
            arguments.extend(labels.iter().map(String::as_str).zip(&states));
            let values = execute(engine, &module, func, weights, &arguments);
            let prefix = format!("{clip}.{key}.");
            let suffix = format!(".chunk{chunk}");
            for name in expected.names() {
                let Some(inner) = name.strip_prefix(&prefix).and_then(|n| n.strip_suffix(&suffix))
                else {
                    continue;
                };
                let golden = sample(expected.get(name), index);
                let Some(given) = values.get(&format!("{func}/{inner}")) else {
                    // A shortcut that is the identity is no value of its own.
                    let known = inner.ends_with("shortcut") || !engine.is_complete();
                    assert!(known, "the run has no value {inner}");
                    continue;
                };
                push(&format!("{key}.{inner}{suffix}"), channels_first(given), golden.to_f64_vec());
            }
            let target = module.func(func).expect("both functions exist");
            let skip = if half == Half::Encoder { 2 } else { 1 };
            states = target.result_names()[skip..].iter().map(|n| values[n].clone()).collect();
        }
    }
}

fn time_slice(clip: &anyid_ir::Tensor, start: usize, len: usize) -> anyid_ir::Tensor {
    let [c, t, h, w] = clip.shape().try_into().expect("[C,T,H,W]");
    let values = clip.to_f32_vec();
    let plane = h * w;
    let mut out = Vec::new();
    for channel in 0..c {
        let at = (channel * t + start) * plane;
        out.extend_from_slice(&values[at..at + len * plane]);
    }
    anyid_ir::Tensor::from_f32([c, len, h, w], &out).expect("a slice of the clip")
}

/// `[T,H,W,C]` as the golden's `[C,T,H,W]`.
fn channels_first(tensor: &anyid_ir::Tensor) -> Vec<f64> {
    let [t, h, w, c] = tensor.shape().try_into().expect("[T,H,W,C]");
    let values = tensor.to_f64_vec();
    let positions = t * h * w;
    (0..c)
        .flat_map(|ch| (0..positions).map(move |p| (p, ch)))
        .map(|(p, ch)| values[p * c + ch])
        .collect()
}
