//! Several samples in one evaluation of a network: each gets the bits that it has alone, and the
//! derivative is the sum of theirs.

use anyid_ir::{DType, Module, Tensor, TensorType};
use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, VaeConfig};
use anyid_models::wan::dit::{Batch, DitSize, dit_batch};
use anyid_models::wan::loss::{with_draws, with_loss};
use anyid_models::wan::vae::{Half, VaeSize, decoder, encoder, stills, whole_clip};
use anyid_passes::Gradient;
use anyid_runtime::engine::{CompileRequest, Compiler, Inputs};
use anyid_runtime::init::RandomWeights;
use anyid_runtime::sampling::NoiseStream;
use anyid_tests::close::relative;
use anyid_tests::devices;
use std::collections::BTreeMap;
use std::sync::Arc;

const SAMPLES: usize = 3;

fn size(references: usize) -> DitSize {
    DitSize {
        reference_frames: references,
        frames: 2,
        height: 4,
        width: 6,
        text_tokens: 7,
        timesteps: if references > 0 { 2 } else { 1 },
    }
}

fn noise(seed: u32, shape: &[usize]) -> Tensor {
    let mut values = vec![0f32; shape.iter().product()];
    NoiseStream::new(9, seed).fill(0, &mut values);
    Tensor::from_f32(shape.iter().copied(), &values).expect("one value an element")
}

/// Tensors joined along `axis`, 0 or 1.
fn joined(parts: &[Tensor], axis: usize) -> Tensor {
    let mut shape = parts[0].shape().to_vec();
    let outer: usize = shape[..axis].iter().product();
    shape[axis] *= parts.len();
    let mut bytes = Vec::new();
    for at in 0..outer {
        for part in parts {
            let step = part.bytes().len() / outer;
            bytes.extend(&part.bytes()[at * step..][..step]);
        }
    }
    Tensor::from_bytes(TensorType::new(parts[0].ty().dtype, shape), &bytes)
        .expect("all their elements")
}

/// Inputs of one sample, but for segments and timesteps.
fn sample(at: u32, config: &DitConfig, size: &DitSize) -> BTreeMap<&'static str, Tensor> {
    let latent = |frames: usize| [config.in_channels, frames, size.height, size.width];
    let mut inputs = BTreeMap::from([
        ("lat", noise(10 * at, &latent(size.frames))),
        ("target", noise(10 * at + 1, &latent(size.frames))),
        ("txt", noise(10 * at + 2, &[size.text_tokens, config.text_dim])),
    ]);
    if size.reference_frames > 0 {
        inputs.insert("ref", noise(10 * at + 3, &latent(size.reference_frames)));
    }
    inputs
}

/// Velocity, loss and one derivative of the samples `list`.
fn run(
    device: &str,
    precision: Precision,
    references: usize,
    list: &[u32],
) -> (Tensor, BTreeMap<String, Tensor>) {
    let (config, size) = (DitConfig::micro(), size(references));
    // References share timestep 0, and every target has its own.
    let clean = usize::from(references > 0);
    let batch = DitSize { timesteps: list.len() + clean, ..size.clone() };
    let module = with_loss(dit_batch(&config, &batch, list.len(), precision));
    let samples: Vec<_> = list.iter().map(|at| sample(*at, &config, &size)).collect();
    let mut inputs: BTreeMap<&str, Tensor> = BTreeMap::new();
    for name in samples[0].keys() {
        let parts: Vec<Tensor> = samples.iter().map(|sample| sample[name].clone()).collect();
        inputs.insert(name, joined(&parts, usize::from(*name != "txt")));
    }
    let times = list.iter().map(|at| 100.0 * (*at as f32 + 1.0));
    let times: Vec<f32> = std::iter::repeat_n(0.0, clean).chain(times).collect();
    inputs.insert("t", Tensor::from_f32([times.len()], &times).expect("one a timestep"));
    let (tokens, first) = (size.tokens(&config), references * size.tokens_per_frame(&config));
    let segment = |row: usize| if row % tokens < first { 0 } else { row / tokens + clean };
    let segments: Vec<i32> = (0..list.len() * tokens).map(|row| segment(row) as i32).collect();
    inputs.insert("seg", Tensor::from_i32([segments.len()], &segments).expect("one a row"));
    let velocity = called(device, &module, CompileRequest::new(&module, "dit"), &inputs);
    let velocity = velocity.get("v").expect("the velocity").clone();
    let wrt = vec!["blocks.0.*.bias".to_owned(), "blocks.1.ffn.0.weight".to_owned()];
    (velocity, gradient(device, &module, ("loss", "loss"), &inputs, wrt))
}

/// What function `func` gives, with the derivatives of its result `of`.
fn gradient(
    device: &str,
    module: &Module,
    (func, of): (&str, &str),
    inputs: &BTreeMap<&str, Tensor>,
    wrt: Vec<String>,
) -> BTreeMap<String, Tensor> {
    let gradient = Gradient { of: of.into(), wrt: wrt.clone() };
    let request = CompileRequest::new(module, func).lifting(wrt).with_gradient(gradient);
    called(device, module, request, inputs)
}

fn called(
    device: &str,
    module: &Module,
    request: CompileRequest<'_>,
    inputs: &BTreeMap<&str, Tensor>,
) -> BTreeMap<String, Tensor> {
    let backend = devices::backend(device, 2);
    let compiler = Compiler::new(&backend).add("f", request).unwrap_or_else(|e| panic!("{e}"));
    let plan = compiler.plans().next().expect("there is one").1;
    let lifted: Vec<(String, Tensor)> = (plan.inputs.iter().enumerate())
        .filter(|(_, port)| !inputs.contains_key(port.name.as_str()))
        .map(|(at, port)| {
            let values = noise(900 + at as u32, &plan.buffer(port.buffer).ty.shape);
            let small: Vec<f32> = values.to_f32_vec().iter().map(|x| x * 0.05).collect();
            (port.name.clone(), Tensor::from_f32(values.shape().to_vec(), &small).expect("as many"))
        })
        .collect();
    let used = plan.inputs.iter().filter(|port| inputs.contains_key(port.name.as_str()));
    let used: Vec<String> = used.map(|port| port.name.clone()).collect();
    let given = used.iter().fold(Inputs::new(), |all, name| all.set(name, &inputs[name.as_str()]));
    let given = lifted.iter().fold(given, |all, (name, tensor)| all.set(name, tensor));
    let weights = Arc::new(RandomWeights::new(&module.weights, 3));
    let mut program = compiler.load(weights, &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"));
    let outputs = program.call("f", &given).unwrap_or_else(|e| panic!("{e}"));
    outputs.iter().map(|(name, tensor)| (name.into_owned(), tensor.clone())).collect()
}

#[test]
fn every_sample_has_the_bits_that_it_has_alone() {
    for (precision, references) in [(Precision::F32, 0), (Precision::F32, 1), (Precision::Bf16, 2)]
    {
        for device in devices::names() {
            let list: Vec<u32> = (0..SAMPLES as u32).collect();
            let (velocity, together) = run(device, precision, references, &list);
            let alone: Vec<_> =
                list.iter().map(|at| run(device, precision, references, &[*at])).collect();
            let parts: Vec<Tensor> = alone.iter().map(|(velocity, _)| velocity.clone()).collect();
            assert!(velocity == joined(&parts, 1), "{device} {precision:?} {references}");
            assert!(together.len() > 8);
            for (name, sum) in &together {
                let mut mean = vec![0.0; sum.ty().elements()];
                for (_, outputs) in &alone {
                    let own = outputs[name].to_f64_vec();
                    mean.iter_mut().zip(own).for_each(|(m, x)| *m += x / SAMPLES as f64);
                }
                let error = relative(&sum.to_f64_vec(), &mean);
                let most = if precision == Precision::F32 { 2e-5 } else { 2e-2 };
                assert!(error <= most, "{name} on {device} {precision:?} {references}: {error:e}");
                assert_eq!(sum.ty().dtype, DType::F32);
            }
        }
    }
}

/// Rows of a text in [`learned`] that are not zeros.
const PROMPT: usize = 3;

/// Losses and derivatives of `@train` on samples with weights, whose texts are given by so many rows,
/// and whose last block makes rows of the targets alone or of all tokens.
fn learned(
    device: &str,
    precision: Precision,
    (text_tokens, targets): (usize, bool),
    list: &[u32],
    weights: &[f32],
) -> BTreeMap<String, Tensor> {
    let references = 1;
    let (config, size) = (DitConfig::micro(), size(references));
    let last_text = size.text_tokens - text_tokens + 1;
    let batch = Batch { samples: list.len(), last_text, targets };
    let sizes = DitSize { timesteps: list.len() + 1, text_tokens, ..size.clone() };
    let module = with_draws(dit_batch(&config, &sizes, batch, precision), list.len());
    let mut each: Vec<_> = list.iter().map(|at| sample(*at, &config, &size)).collect();
    for inputs in &mut each {
        let mut rows = inputs["txt"].to_f32_vec();
        rows.truncate(text_tokens * config.text_dim);
        rows[PROMPT * config.text_dim..].fill(0.0);
        let rows = Tensor::from_f32([text_tokens, config.text_dim], &rows);
        inputs.insert("txt", rows.expect("whole rows"));
    }
    let mut inputs: BTreeMap<&str, Tensor> = BTreeMap::new();
    for (name, own, lead) in [
        ("x0", "lat", true),
        ("noise", "target", true),
        ("ref", "ref", true),
        ("txt", "txt", false),
    ] {
        let part = |sample: &BTreeMap<&str, Tensor>| {
            let tensor = sample[own].clone();
            let shape = tensor.shape().to_vec();
            let shape = if lead { [&[1], &shape[..]].concat() } else { shape };
            tensor.reshaped(shape).expect("as many elements")
        };
        inputs.insert(name, joined(&each.iter().map(part).collect::<Vec<_>>(), 0));
    }
    let sigmas: Vec<f32> = list.iter().map(|at| 0.2 + 0.25 * *at as f32).collect();
    let numbers = |values: &[f32]| Tensor::from_f32([values.len()], values).expect("one a sample");
    inputs.insert("sigma", numbers(&sigmas));
    inputs.insert("weight", numbers(weights));
    let (tokens, first) = (size.tokens(&config), references * size.tokens_per_frame(&config));
    let segment = |row: usize| if row % tokens < first { 0 } else { row / tokens + 1 };
    let segments: Vec<i32> = (0..list.len() * tokens).map(|row| segment(row) as i32).collect();
    inputs.insert("seg", Tensor::from_i32([segments.len()], &segments).expect("one a row"));
    let wrt =
        ["blocks.1.*.bias", "blocks.0.ffn.2.weight", "text_embedding.*", "*.cross_attn.k.weight"];
    let wrt = wrt.map(str::to_owned).to_vec();
    gradient(device, &module, ("train", "total"), &inputs, wrt)
}

#[test]
fn losses_under_draws_have_their_bits_and_derivatives_are_weighted() {
    for device in devices::names() {
        for precision in [Precision::F32, Precision::Bf16] {
            let (list, weights) = ([0, 1, 2], [0.5, -2.0, 0.25]);
            let together = learned(device, precision, (7, false), &list, &weights);
            let alone: Vec<_> = list
                .iter()
                .map(|at| learned(device, precision, (7, false), &[*at], &[1.0]))
                .collect();
            let losses: Vec<f64> =
                alone.iter().map(|outputs| outputs["loss"].to_f64_vec()[0]).collect();
            assert_eq!(together["loss"].to_f64_vec(), losses, "{device} {precision:?}");
            assert!(together.len() > 8);
            for (name, sum) in together.iter().filter(|(name, _)| name.starts_with("grad.")) {
                let mut wanted = vec![0.0; sum.ty().elements()];
                for (outputs, weight) in alone.iter().zip(weights) {
                    let own = outputs[name].to_f64_vec();
                    wanted.iter_mut().zip(own).for_each(|(w, x)| *w += f64::from(weight) * x);
                }
                let error = relative(&sum.to_f64_vec(), &wanted);
                let most = if precision == Precision::F32 { 2e-5 } else { 2e-2 };
                assert!(error <= most, "{name} on {device} {precision:?}: {error:e}");
            }
        }
    }
}

#[test]
fn one_row_of_zeros_behind_a_text_stands_for_all_that_follow() {
    for device in devices::names() {
        for (precision, most) in [(Precision::F32, 2e-5), (Precision::Bf16, 5e-2)] {
            let [all, one] = [7, PROMPT + 1].map(|rows| {
                learned(device, precision, (rows, true), &[0, 1, 2], &[0.5, -2.0, 0.25])
            });
            assert!(all.keys().eq(one.keys()) && all.len() > 12);
            // The cotangents of the keys of a query sum to zero, and in bf16 to their rounding.
            let sums = |name: &str| precision == Precision::Bf16 && name.ends_with("k.bias");
            for (name, wanted) in all.iter().filter(|(name, _)| !sums(name)) {
                let error = relative(&one[name].to_f64_vec(), &wanted.to_f64_vec());
                assert!(error <= most, "{name} on {device} {precision:?}: {error:e}");
            }
        }
    }
}

/// Through both halves of the autoencoder: the first frames of clips all together, and each by itself.
#[test]
fn single_frames_together_are_what_each_is_as_the_first_of_its_clip() {
    let config = VaeConfig::world();
    let size = VaeSize { height: 16, width: 24, chunk: 1 };
    let halves = [
        (Half::Encoder, encoder(&config, &size), ("encode", "video", "latent"), [3, 1, 16, 24]),
        (Half::Decoder, decoder(&config, &size, true), ("decode", "z", "video"), [24, 1, 2, 3]),
    ];
    for (half, streamed, (func, input, output), shape) in halves {
        let parts: Vec<Tensor> = (0..SAMPLES as u32).map(|at| noise(at, &shape)).collect();
        let streamed = whole_clip(&config, &size, half, streamed, 1);
        let together = stills(&config, &size, half, SAMPLES);
        for device in devices::names() {
            let of = |module: &Module, given: Tensor| -> Tensor {
                let inputs = BTreeMap::from([(input, given)]);
                called(device, module, CompileRequest::new(module, func), &inputs)[output].clone()
            };
            let each: Vec<Tensor> = parts.iter().map(|part| of(&streamed, part.clone())).collect();
            let all = of(&together, joined(&parts, 1));
            let error = relative(&all.to_f64_vec(), &joined(&each, 1).to_f64_vec());
            assert!(error < 1e-5, "{func} on {device}: {error:e}");
            let one = stills(&config, &size, half, 1);
            let alone: Vec<Tensor> = parts.iter().map(|part| of(&one, part.clone())).collect();
            assert!(all == joined(&alone, 1), "{func} on {device}: the bits that each has alone");
        }
    }
}

#[test]
fn what_a_last_block_makes_of_references_is_not_missed() {
    for device in devices::names() {
        for (precision, most) in [(Precision::F32, 2e-5), (Precision::Bf16, 5e-2)] {
            let [all, alone] = [false, true]
                .map(|targets| learned(device, precision, (7, targets), &[0, 1], &[0.5, -2.0]));
            assert!(all.keys().eq(alone.keys()) && all.len() > 12);
            let losses = [&all, &alone].map(|outputs| outputs["loss"].to_f64_vec());
            // Fewer rows may be summed in another order.
            let error = relative(&losses[1], &losses[0]);
            assert!(error <= 1e-6, "losses on {device} {precision:?}: {error:e}");
            let sums = |name: &str| precision == Precision::Bf16 && name.ends_with("k.bias");
            for (name, wanted) in all.iter().filter(|(name, _)| !sums(name)) {
                let error = relative(&alone[name].to_f64_vec(), &wanted.to_f64_vec());
                assert!(error <= most, "{name} on {device} {precision:?}: {error:e}");
            }
        }
    }
}
