//! Reference-conditioned sampling end to end, on the model folder of the case.

use anyid_ir::Tensor;
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_models::wan::{Precision, text};
use anyid_runtime::pipeline::{Sampler, decode_latents, encode_pixels, encode_prompts};
use anyid_runtime::sampling::guidance;
use anyid_runtime::{Model, Pipeline, ReferenceSource, Request, Size};
use anyid_tests::close::{Check, absolute, relative};
use anyid_tests::devices;
use anyid_tests::engines::{Engine, run as execute};
use anyid_tests::fixtures::{Tensors, json, sample};
use std::path::Path;

const TOLERANCE: f64 = 3e-5;
const VIDEO: f64 = 1e-4;

pub(crate) fn run(case: &Path) -> Vec<(String, Vec<Check>)> {
    let devices = devices::names().iter().map(|name| ((*name).to_owned(), compiled(case, name)));
    devices.chain([("interp".to_owned(), interpreted(case))]).collect()
}

fn compiled(case: &Path, device: &str) -> Vec<Check> {
    let model = Model::open(case).unwrap_or_else(|e| panic!("{e}"));
    let backend = devices::backend(device, 2);
    let inputs = Tensors::open(&case.join("inputs.safetensors"));
    let expected = Tensors::open(&case.join("expected.safetensors"));
    let meta = json(&case.join("meta.json"));
    let mut checks = Vec::new();
    let mut push = |name: &str, given: &[f64], golden: &[f64], tolerance: f64| {
        let error =
            if tolerance == VIDEO { absolute(given, golden) } else { relative(given, golden) };
        checks.push(Check { name: name.to_owned(), error, tolerance });
    };

    let noise = sample(inputs.get("noise"), 0);
    let [_, latent_frames, rows, cols] = noise.shape().try_into().expect("[C,F,h,w]");
    let size = Size { width: 16 * cols, height: 16 * rows, frames: 4 * latent_frames - 3 };
    let steps = expected.get("timesteps").elements();
    let number = |key: &str, default: f64| {
        [&meta["settings"][key], &meta[key]].iter().find_map(|v| v.as_f64()).unwrap_or(default)
    };
    let guidance = number("guidance", number("guidance_scale", 5.0));

    let ids = ["prompt", "empty"].map(|name| {
        let mask = sample(inputs.get(&format!("{name}.attention_mask")), 0).to_f64_vec();
        let real = mask.iter().filter(|m| **m != 0.0).count();
        let ids = sample(inputs.get(&format!("{name}.input_ids")), 0);
        ids.as_i32().expect("ids")[..real].iter().map(|id| *id as u32).collect::<Vec<u32>>()
    });
    let text_tokens = inputs.get("prompt.input_ids").shape()[1];
    let contexts = encode_prompts(&model, &backend, &ids, text_tokens, Precision::F32)
        .unwrap_or_else(|e| panic!("{e}"));
    for (name, context) in ["prompt_embeds", "empty_embeds"].iter().zip(&contexts) {
        push(name, &context.to_f64_vec(), &sample(expected.get(name), 0).to_f64_vec(), 1e-5);
    }

    let mut references = Vec::new();
    let (mut clean, mut black) = (Vec::new(), Vec::new());
    while let Some(video) = inputs.find(&format!("ref{}.video", references.len())) {
        let index = references.len();
        let pixels = sample(video, 0);
        let latent = encode_pixels(&model, &backend, &pixels).unwrap_or_else(|e| panic!("{e}"));
        let dark = Tensor::from_f32(pixels.shape().to_vec(), &vec![-1.0; pixels.elements()])
            .expect("black of the same size");
        let dark = encode_pixels(&model, &backend, &dark).unwrap_or_else(|e| panic!("{e}"));
        for (name, given) in [("latent", &latent), ("black_latent", &dark)] {
            let name = format!("ref{index}.{name}");
            let golden = sample(expected.get(&name), 0);
            push(&name, &given.to_f64_vec(), &golden.to_f64_vec(), TOLERANCE);
        }
        clean.push(latent);
        black.push(dark);
        references.push(ReferenceSource::Pixels(pixels));
    }

    let request = Request {
        references,
        prompt: meta["prompt"]
            .as_str()
            .or_else(|| meta["settings"]["prompt"].as_str())
            .unwrap_or_default()
            .to_owned(),
        size,
        steps,
        guidance,
        noise: Some(noise),
        precision: Some(Precision::F32),
        text_tokens: Some(text_tokens),
        ..Request::default()
    };
    let both = (!clean.is_empty()).then(|| [join(&clean), join(&black)]);
    let pair = [contexts[0].clone(), contexts[1].clone()];
    let mut sampler =
        Sampler::open(&model, &backend, &request, &pair, both).unwrap_or_else(|e| panic!("{e}"));
    let f64s = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    let schedule = sampler.schedule().clone();
    push("sigmas", &f64s(&schedule.sigmas), &expected.get("sigmas").to_f64_vec(), 1e-6);
    push("timesteps", &f64s(&schedule.timesteps), &expected.get("timesteps").to_f64_vec(), 0.0);
    let mut last = Vec::new();
    for step in 0..steps {
        let record = sampler.record(step).unwrap_or_else(|e| panic!("{e}"));
        let mut against = |what: &str, given: &[f32]| {
            let name = format!("step{step}.{what}");
            if let Some(golden) = expected.find(&name) {
                push(&name, &f64s(given), &sample(golden, 0).to_f64_vec(), TOLERANCE);
            }
        };
        against("v_cond", &record.conditional);
        against("v_uncond", &record.unconditional);
        against("v", &record.velocity);
        against("latent", &record.latents);
        last = record.latents;
    }
    let latents = Tensor::from_f32([model.dit.in_channels, latent_frames, rows, cols], &last)
        .expect("the latents' size");
    let video = decode_latents(&model, &backend, &latents).unwrap_or_else(|e| panic!("{e}"));
    let golden = sample(expected.get("video"), 0).to_f64_vec();
    push("video", &video.to_f64_vec(), &golden, VIDEO);

    // The same through the one public entry, from the prompt's text.
    let pipeline = Pipeline::new(model, backend);
    let mut parts: Vec<Tensor> = Vec::new();
    let report = pipeline
        .generate(&request, &mut |_| {}, &mut |part| {
            parts.push(part.clone());
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    push("pipeline.latents", &report.latents.to_f64_vec(), &latents.to_f64_vec(), 0.0);
    push("pipeline.video", &join(&parts).to_f64_vec(), &golden, VIDEO);

    // Plain text-to-video against the library's own pipeline.
    if let Some(golden) = expected.find("t2v.library_latent") {
        let request = Request { references: Vec::new(), ..request };
        let report = pipeline
            .generate(&request, &mut |_| {}, &mut |_| Ok(()))
            .unwrap_or_else(|e| panic!("{e}"));
        push("t2v", &report.latents.to_f64_vec(), &sample(golden, 0).to_f64_vec(), TOLERANCE);
    }
    checks
}

/// The same run by the interpreter: the networks' modules with a sampling loop of its own.
fn interpreted(case: &Path) -> Vec<Check> {
    let model = Model::open(case).unwrap_or_else(|e| panic!("{e}"));
    let inputs = Tensors::open(&case.join("inputs.safetensors"));
    let expected = Tensors::open(&case.join("expected.safetensors"));
    let meta = json(&case.join("meta.json"));
    let mut checks = Vec::new();
    let mut push = |name: &str, given: &[f64], tolerance: f64| {
        let golden = sample(expected.get(name), 0).to_f64_vec();
        let error = match name {
            "video" => absolute(given, &golden),
            _ => relative(given, &golden),
        };
        checks.push(Check { name: name.to_owned(), error, tolerance });
    };

    let rows = inputs.get("prompt.input_ids").shape()[1];
    let contexts = ["prompt", "empty"].map(|name| {
        let mask = sample(inputs.get(&format!("{name}.attention_mask")), 0).to_f64_vec();
        let real = mask.iter().filter(|m| **m != 0.0).count();
        let ids = sample(inputs.get(&format!("{name}.input_ids")), 0);
        let ids = Tensor::from_i32([real], &ids.as_i32().expect("ids")[..real]).expect("ids");
        let module = text::text(&model.text, real, Precision::F32);
        let values =
            execute(Engine::Interpreter, &module, "text", &model.text_weights, &[("ids", &ids)]);
        let mut padded = values["last_hidden_state"].to_f32_vec();
        padded.resize(rows * model.text.d_model, 0.0);
        let context = Tensor::from_f32([rows, model.text.d_model], &padded).expect("a context");
        push(&format!("{name}_embeds"), &context.to_f64_vec(), 1e-5);
        context
    });

    let noise = sample(inputs.get("noise"), 0);
    let [channels, frames, height, width] = noise.shape().try_into().expect("[C,F,h,w]");
    let pixels = VaeSize { height: 16 * height, width: 16 * width, chunk: 1 };
    let encode = |video: &Tensor| {
        let clip = video.shape()[1];
        let module = vae::encoder(&model.vae, &pixels);
        let module = vae::whole_clip(&model.vae, &pixels, Half::Encoder, module, clip);
        let given = [("video", video)];
        let values = execute(Engine::Interpreter, &module, "encode", &model.vae_weights, &given);
        values["latent"].clone()
    };
    let mut branches: [Vec<Tensor>; 2] = [Vec::new(), Vec::new()];
    while let Some(video) = inputs.find(&format!("ref{}.video", branches[0].len())) {
        let index = branches[0].len();
        let video = sample(video, 0);
        let dark = Tensor::from_f32(video.shape().to_vec(), &vec![-1.0; video.elements()]);
        let latents = [encode(&video), encode(&dark.expect("black of the same size"))];
        for (name, latent) in ["latent", "black_latent"].iter().zip(&latents) {
            push(&format!("ref{index}.{name}"), &latent.to_f64_vec(), TOLERANCE);
        }
        for (branch, latent) in branches.iter_mut().zip(latents) {
            branch.push(latent);
        }
    }
    let references = (!branches[0].is_empty()).then(|| branches.map(|parts| join(&parts)));
    let reference_frames = references.as_ref().map_or(0, |r| r[0].shape()[1]);
    let timesteps = if reference_frames > 0 { 2 } else { 1 };
    let size = DitSize { reference_frames, frames, height, width, text_tokens: rows, timesteps };
    let module = dit(&model.dit, &size, Precision::F32);
    let tokens = size.tokens(&model.dit);
    let clean = reference_frames * size.tokens_per_frame(&model.dit);
    let segments: Vec<i32> =
        (0..tokens).map(|i| i32::from(reference_frames > 0 && i >= clean)).collect();
    let segments = Tensor::from_i32([tokens], &segments).expect("one segment a token");

    let steps = expected.get("timesteps").elements();
    let guidance_scale = meta["settings"]["guidance"].as_f64().unwrap_or(5.0) as f32;
    let schedule = model.scheduler.schedule(steps).unwrap_or_else(|e| panic!("{e}"));
    let mut solver =
        model.scheduler.solver(&schedule, noise.elements()).unwrap_or_else(|e| panic!("{e}"));
    let mut latent = noise.to_f32_vec();
    for step in 0..steps {
        let lat = Tensor::from_f32([channels, frames, height, width], &latent).expect("latents");
        let mut t = vec![0.0; timesteps];
        t[timesteps - 1] = schedule.timesteps[step];
        let t = Tensor::from_f32([timesteps], &t).expect("timesteps");
        let velocities: [Vec<f32>; 2] = std::array::from_fn(|branch| {
            let mut given =
                vec![("lat", &lat), ("t", &t), ("seg", &segments), ("txt", &contexts[branch])];
            given.extend(references.as_ref().map(|r| ("ref", &r[branch])));
            let values = execute(Engine::Interpreter, &module, "dit", &model.dit_weights, &given);
            values["v"].to_f32_vec()
        });
        let mut mixed = vec![0.0; latent.len()];
        guidance::mix(&velocities[0], &velocities[1], guidance_scale, &mut mixed)
            .unwrap_or_else(|e| panic!("{e}"));
        solver.step(step, &mut latent, &mixed).unwrap_or_else(|e| panic!("{e}"));
        let f64s = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
        push(&format!("step{step}.v"), &f64s(&mixed), TOLERANCE);
        push(&format!("step{step}.latent"), &f64s(&latent), TOLERANCE);
    }
    let latent = Tensor::from_f32([channels, frames, height, width], &latent).expect("latents");
    let decoder = vae::decoder(&model.vae, &pixels, true);
    let clip = 4 * frames - 3;
    let module = vae::whole_clip(&model.vae, &pixels, Half::Decoder, decoder, clip);
    let given = [("z", &latent)];
    let values = execute(Engine::Interpreter, &module, "decode", &model.vae_weights, &given);
    push("video", &values["video"].to_f64_vec(), VIDEO);
    checks
}

/// Tensors `[C,Tᵢ,h,w]` one after the other along time.
fn join(parts: &[Tensor]) -> Tensor {
    let [channels, _, rows, cols] = parts[0].shape().try_into().expect("[C,T,h,w]");
    let frames: usize = parts.iter().map(|p| p.shape()[1]).sum();
    let mut out = Vec::new();
    for channel in 0..channels {
        for part in parts {
            let plane = part.shape()[1] * rows * cols;
            out.extend_from_slice(
                &part.as_f32().expect("f32")[channel * plane..(channel + 1) * plane],
            );
        }
    }
    Tensor::from_f32([channels, frames, rows, cols], &out).expect("the joined size")
}
