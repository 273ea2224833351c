//! The transformer: every saved tensor of both calls.

use anyid_ir::Tensor;
use anyid_models::wan::Precision;
use anyid_models::wan::config::DitConfig;
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::names::Component;
use anyid_runtime::checkpoint::WeightSet;
use anyid_runtime::weights::ModelWeights;
use anyid_tests::close::{Check, relative};
use anyid_tests::engines::{Engine, Values, run as execute};
use anyid_tests::fixtures::{Tensors, json, sample};
use std::path::Path;
use std::sync::Arc;

const TOLERANCE: f64 = 1e-5;

/// Golden name and where the graph has the value.
fn locations(layers: usize) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = [
        ("out", "v"),
        ("patch_embed", "dit/x0"),
        ("text_proj", "dit/ctx"),
        ("block0.norm1", "dit/blocks.0/n1"),
        ("block0.attn1.in", "dit/blocks.0/h1"),
        ("block0.attn1.q_norm", "dit/blocks.0/q1"),
        ("block0.attn1.k_norm", "dit/blocks.0/k1"),
        ("block0.attn1.sdpa", "dit/blocks.0/a"),
        ("block0.attn1.out", "dit/blocks.0/o"),
        ("block0.norm2", "dit/blocks.0/n3"),
        ("block0.attn2.out", "dit/blocks.0/co"),
        ("block0.ffn.in", "dit/blocks.0/h2"),
        ("block0.ffn.out", "dit/blocks.0/f2"),
        ("head.in", "dit/hx"),
        ("head.proj", "dit/ho"),
    ]
    .map(|(golden, path)| (golden.to_owned(), path.to_owned()))
    .to_vec();
    for layer in 0..layers {
        out.push((format!("block{layer}.out"), format!("dit/blocks.{layer}/x3")));
    }
    out
}

/// The distinct values of `t` in order of appearance, and each token's index among them.
fn segments(t: &[f32]) -> (Vec<f32>, Vec<i32>) {
    let mut distinct: Vec<f32> = Vec::new();
    let index = t
        .iter()
        .map(|value| match distinct.iter().position(|d| d == value) {
            Some(at) => at as i32,
            None => {
                distinct.push(*value);
                distinct.len() as i32 - 1
            }
        })
        .collect();
    (distinct, index)
}

pub(crate) fn run(case: &Path) -> Vec<(String, Vec<Check>)> {
    let config = DitConfig::from_diffusers(&json(&case.join("config.json")))
        .unwrap_or_else(|e| panic!("{e}"));
    let set = WeightSet::open(case.join("diffusion_pytorch_model.safetensors"))
        .unwrap_or_else(|e| panic!("{e}"));
    let weights =
        Arc::new(ModelWeights::recognise(&set, Component::Dit).unwrap_or_else(|e| panic!("{e}")));
    let inputs = Tensors::open(&case.join("inputs.safetensors"));
    let expected = Tensors::open(&case.join("expected.safetensors"));
    Engine::of_case(case)
        .iter()
        .map(|engine| {
            let mut checks = Vec::new();
            for call in ["scalar", "token"] {
                compare(*engine, &config, &weights, &inputs, &expected, call, &mut checks);
            }
            (engine.name(), checks)
        })
        .collect()
}

fn compare(
    engine: Engine,
    config: &DitConfig,
    weights: &Arc<ModelWeights>,
    inputs: &Tensors,
    expected: &Tensors,
    call: &str,
    checks: &mut Vec<Check>,
) {
    let hidden = inputs.get(&format!("{call}.hidden_states"));
    let timestep = inputs.get(&format!("{call}.timestep"));
    let text = inputs.get("text");
    let batch = hidden.shape()[0];
    for index in 0..batch {
        let lat = sample(hidden, index);
        let txt = sample(text, index);
        let [_, frames, height, width] = lat.shape().try_into().expect("a latent has four axes");
        let mut size = DitSize {
            reference_frames: 0,
            frames,
            height,
            width,
            text_tokens: txt.shape()[0],
            timesteps: 1,
        };
        let tokens = size.tokens(config);
        let times = sample(timestep, index).to_f32_vec();
        let per_token = if times.len() == 1 { vec![times[0]; tokens] } else { times };
        let (distinct, segment) = segments(&per_token);
        size.timesteps = distinct.len();
        let module = dit(config, &size, Precision::F32);
        let t = Tensor::from_f32([distinct.len()], &distinct).expect("one value a timestep");
        let seg = Tensor::from_i32([tokens], &segment).expect("one segment a token");
        let values = execute(
            engine,
            &module,
            "dit",
            weights,
            &[("lat", &lat), ("t", &t), ("seg", &seg), ("txt", &txt)],
        );
        let mut push = |name: &str, given: &[f64], golden: &[f64]| {
            let error = relative(given, golden);
            let name = format!("{call}.{name}[{index}]");
            checks.push(Check { name, error, tolerance: TOLERANCE });
        };
        let exists = |path: &str| engine.is_complete() || values.contains_key(path);
        for (golden, path) in locations(config.layers) {
            if !exists(&path) {
                continue;
            }
            let golden_tensor = sample(expected.get(&format!("{call}.{golden}")), index);
            push(&golden, &at(&values, &path), &golden_tensor.to_f64_vec());
        }
        if exists("dit/rope") {
            rope(&values, expected, call, &mut push);
        }
        // The golden has one row a token (or one in all); ours one a distinct timestep.
        for (golden, path) in
            [("time_sinusoid", "dit/s"), ("temb", "dit/te"), ("timestep_proj", "dit/t3")]
        {
            if !exists(path) {
                continue;
            }
            let table = at(&values, path);
            let width = table.len() / distinct.len();
            let tensor = expected.get(&format!("{call}.{golden}"));
            let rows = tensor.elements() / width;
            let per_sample = rows / batch;
            let all = tensor.to_f64_vec();
            let golden_rows = &all[index * per_sample * width..(index + 1) * per_sample * width];
            let given: Vec<f64> = (0..per_sample)
                .flat_map(|row| {
                    let s = if per_sample == 1 { segment[0] } else { segment[row] } as usize;
                    table[s * width..(s + 1) * width].to_vec()
                })
                .collect();
            push(golden, &given, golden_rows);
        }
    }
}

fn rope(
    values: &Values,
    expected: &Tensors,
    call: &str,
    push: &mut impl FnMut(&str, &[f64], &[f64]),
) {
    let table = at(values, "dit/rope");
    for (offset, name) in ["rope_cos", "rope_sin"].iter().enumerate() {
        // The golden repeats each value for the pair.
        let given: Vec<f64> =
            table.as_chunks::<2>().0.iter().flat_map(|pair| [pair[offset]; 2]).collect();
        push(name, &given, &expected.get(&format!("{call}.{name}")).to_f64_vec());
    }
}

fn at(values: &Values, path: &str) -> Vec<f64> {
    values.get(path).unwrap_or_else(|| panic!("the run has no value {path}")).to_f64_vec()
}
