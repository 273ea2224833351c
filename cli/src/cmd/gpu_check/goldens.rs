//! The networks on tensors of the reference implementation, and a video by the built-in model, which has
//! to be that of the CPU.
//!
//! Tolerances are those of `tests/fixtures/README.md`, where the tensors are described.

use super::Check;
use super::compare::distance;
use super::report::{Line, Verdict, short};
use super::teller::Teller;
use anyid_ir::{Module, Tensor, TensorType};
use anyid_models::wan::config::{ConfigError, DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::names::Component;
use anyid_models::wan::vae::{self, Half, VaeSize};
use anyid_models::wan::{Precision, text};
use anyid_runtime::checkpoint::{WeightSet, read_json};
use anyid_runtime::weights::{ModelWeights, read_tensors};
use anyid_runtime::{
    Backend, Compiler, Error, Inputs, Model, Outputs, Pipeline, ReferenceSource, Request, Result,
    Size,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Largest differences over the largest number of the reference.
const DIT: f64 = 1e-5;
const VAE: f64 = 3e-5;
const TEXT: f64 = 1e-5;
/// Largest difference of a pixel between −1 and 1.
const PIXELS: f64 = 1e-4;
/// The same after a dozen steps of sampling on two devices.
const VIDEO: f64 = 2e-3;

/// Runs the section.
///
/// # Errors
/// None of a single case.
pub fn run(check: &mut Check<'_>, teller: &mut Teller) -> Result<()> {
    type Run = fn(&Backend, &Path) -> Result<Vec<Found>>;
    let kinds: [(&str, Run); 4] =
        [("dit", dits), ("vae", vaes), ("text", texts), ("pipeline", pipelines)];
    let mut any = false;
    for (kind, run) in kinds {
        for case in cases(&check.fixtures.join(kind)) {
            let name = format!("{kind}/{}", case.file_name().unwrap_or_default().to_string_lossy());
            any = true;
            if !check.wants(&name) {
                continue;
            }
            if !check.has(15.0) {
                teller.push(Line::new("goldens", name, Verdict::Left, "no time was left"));
                continue;
            }
            if !teller.begins(&name, None) {
                continue;
            }
            check.progress.part(&name);
            let line = match run(check.backend, &case) {
                Ok(found) => judged(name, &found),
                Err(error) => Line::new("goldens", name, Verdict::Wrong, short(&error)),
            };
            teller.push(line);
        }
    }
    if !any && check.wants("tensors") {
        let place = check.fixtures.display();
        let why = format!("there are none in {place}; --fixtures names another folder");
        teller.push(Line::new("goldens", "tensors", Verdict::Left, why));
    }
    if check.wants("video") && teller.begins("video", None) {
        check.progress.part("video");
        let line = match video(check) {
            Ok(apart) => {
                let verdict = if apart <= VIDEO { Verdict::Right } else { Verdict::Wrong };
                let figures = format!("largest difference from the CPU {apart:.1e} of {VIDEO:.0e}");
                Line::new("goldens", "video", verdict, figures)
            }
            Err(error) => Line::new("goldens", "video", Verdict::Wrong, short(&error)),
        };
        teller.push(line);
    }
    Ok(())
}

/// Whether a folder has any.
pub fn any(fixtures: &Path) -> bool {
    ["dit", "vae", "text", "pipeline"].iter().any(|kind| !cases(&fixtures.join(kind)).is_empty())
}

/// The folders of cases, sorted.
fn cases(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// A tensor that was compared.
struct Found {
    name: String,
    error: f64,
    most: f64,
}

fn found(name: &str, given: &Tensor, wanted: &[f64], most: f64) -> Found {
    let error = distance(&given.to_f64_vec(), wanted).largest;
    Found { name: name.to_owned(), error, most }
}

fn judged(name: String, all: &[Found]) -> Line {
    let worst = all.iter().max_by(|a, b| (a.error / a.most).total_cmp(&(b.error / b.most)));
    let Some(worst) = worst else {
        return Line::new("goldens", name, Verdict::Wrong, "nothing was compared");
    };
    let right = all.iter().all(|each| each.error <= each.most);
    let verdict = if right { Verdict::Right } else { Verdict::Wrong };
    let figures = format!(
        "{} tensors, largest error {:.1e} of {:.0e} in {}",
        all.len(),
        worst.error,
        worst.most,
        worst.name
    );
    Line::new("goldens", name, verdict, figures)
}

/// Named tensors of a file.
struct Tensors(BTreeMap<String, Tensor>, PathBuf);

impl Tensors {
    fn open(path: PathBuf) -> Result<Self> {
        Ok(Self(read_tensors(&path)?.into_iter().collect(), path))
    }

    fn get(&self, name: &str) -> Result<&Tensor> {
        let missing =
            || Error::input("E0301", format!("there is no tensor \"{name}\"")).at(self.1.display());
        self.0.get(name).ok_or_else(missing)
    }
}

/// Part `index` of a tensor with a leading axis of samples.
fn sample(batch: &Tensor, index: usize) -> Tensor {
    let mut shape = batch.shape().to_vec();
    let count = shape.remove(0).max(1);
    let size = batch.bytes().len() / count;
    let ty = TensorType::new(batch.dtype(), shape);
    let bytes = &batch.bytes()[index * size..(index + 1) * size];
    Tensor::from_bytes(ty, bytes).expect("a sample is a part of its batch")
}

/// The configuration of a case.
fn configured<C>(
    case: &Path,
    read: fn(&Value) -> std::result::Result<C, ConfigError>,
) -> Result<C> {
    let path = case.join("config.json");
    let value = read_json(&path)?.value;
    read(&value).map_err(|error| Error::input("E0713", error.to_string()).at(path.display()))
}

fn call(
    backend: &Backend,
    module: &Module,
    func: &str,
    weights: &Arc<ModelWeights>,
    inputs: &[(&str, &Tensor)],
) -> Result<Outputs> {
    let compiler = Compiler::new(backend).phase("main", module, func)?;
    let mut program = compiler.load(weights.clone(), &mut |_, _| true)?;
    program.call("main", &Inputs::new().all(inputs.iter().copied()))
}

fn dits(backend: &Backend, case: &Path) -> Result<Vec<Found>> {
    let config = configured(case, DitConfig::from_diffusers)?;
    let set = WeightSet::open(case.join("diffusion_pytorch_model.safetensors"))?;
    let weights = Arc::new(ModelWeights::recognise(&set, Component::Dit)?);
    let inputs = Tensors::open(case.join("inputs.safetensors"))?;
    let expected = Tensors::open(case.join("expected.safetensors"))?;
    let mut out = Vec::new();
    for kind in ["scalar", "token"] {
        let hidden = inputs.get(&format!("{kind}.hidden_states"))?;
        let times = inputs.get(&format!("{kind}.timestep"))?;
        let golden = expected.get(&format!("{kind}.out"))?;
        for index in 0..hidden.shape()[0] {
            let (lat, txt) = (sample(hidden, index), sample(inputs.get("text")?, index));
            let mut size = DitSize {
                reference_frames: 0,
                frames: lat.shape()[1],
                height: lat.shape()[2],
                width: lat.shape()[3],
                text_tokens: txt.shape()[0],
                timesteps: 1,
            };
            let tokens = size.tokens(&config);
            let own = sample(times, index).to_f32_vec();
            let own = if own.len() == 1 { vec![own[0]; tokens] } else { own };
            let mut distinct: Vec<f32> = Vec::new();
            let segments: Vec<i32> = own
                .iter()
                .map(|time| {
                    let at = distinct.iter().position(|each| each == time).unwrap_or_else(|| {
                        distinct.push(*time);
                        distinct.len() - 1
                    });
                    at as i32
                })
                .collect();
            size.timesteps = distinct.len();
            let t = Tensor::from_f32([distinct.len()], &distinct).expect("one value a timestep");
            let seg = Tensor::from_i32([tokens], &segments).expect("one segment a token");
            let module = dit(&config, &size, Precision::F32);
            let given = [("lat", &lat), ("t", &t), ("seg", &seg), ("txt", &txt)];
            let made = call(backend, &module, "dit", &weights, &given)?;
            let wanted = sample(golden, index).to_f64_vec();
            out.push(found(&format!("{kind}[{index}]"), made.get("v")?, &wanted, DIT));
        }
    }
    Ok(out)
}

fn vaes(backend: &Backend, case: &Path) -> Result<Vec<Found>> {
    let config = configured(case, VaeConfig::from_diffusers)?;
    let set = WeightSet::open(case.join("diffusion_pytorch_model.safetensors"))?;
    let weights = Arc::new(ModelWeights::recognise(&set, config.component())?);
    let inputs = Tensors::open(case.join("inputs.safetensors"))?;
    let expected = Tensors::open(case.join("expected.safetensors"))?;
    let mut out = Vec::new();
    for (name, clip) in
        inputs.0.iter().filter_map(|(name, t)| Some((name.strip_suffix(".video")?, t)))
    {
        let pixels = sample(clip, 0);
        let [frames, height, width] = [1, 2, 3].map(|axis| pixels.shape()[axis]);
        let size = VaeSize { height, width, chunk: 1 };
        let encoder = vae::encoder(&config, &size);
        let module = vae::whole_clip(&config, &size, Half::Encoder, encoder, frames);
        let made = call(backend, &module, "encode", &weights, &[("video", &pixels)])?;
        let golden = sample(expected.get(&format!("{name}.mean"))?, 0).to_f64_vec();
        out.push(found(&format!("{name}.mean"), made.get("mean")?, &golden, VAE));
        if let Some(z) = inputs.0.get(&format!("{name}.z")) {
            let z = sample(z, 0);
            let decoder = vae::decoder(&config, &size, false);
            let module = vae::whole_clip(&config, &size, Half::Decoder, decoder, frames);
            let made = call(backend, &module, "decode", &weights, &[("z", &z)])?;
            let golden = sample(expected.get(&format!("{name}.decoded"))?, 0).to_f64_vec();
            out.push(found(&format!("{name}.decoded"), made.get("video")?, &golden, VAE));
        }
    }
    Ok(out)
}

fn texts(backend: &Backend, case: &Path) -> Result<Vec<Found>> {
    let config = configured(case, TextConfig::from_diffusers)?;
    let set = WeightSet::open(case.join("model.safetensors"))?;
    let weights = Arc::new(ModelWeights::recognise(&set, Component::Text)?);
    let inputs = Tensors::open(case.join("inputs.safetensors"))?;
    let expected = Tensors::open(case.join("expected.safetensors"))?;
    let (ids, mask) = (inputs.get("input_ids")?, inputs.get("attention_mask")?);
    let golden = expected.get("last_hidden_state")?;
    let mut out = Vec::new();
    for index in 0..ids.shape()[0] {
        let real = sample(mask, index).to_f64_vec().iter().filter(|m| **m != 0.0).count();
        let own: Vec<i32> =
            sample(ids, index).to_f64_vec()[..real].iter().map(|id| *id as i32).collect();
        let own = Tensor::from_i32([real], &own).expect("one id a token");
        let module = text::text(&config, real, Precision::F32);
        let made = call(backend, &module, "text", &weights, &[("ids", &own)])?;
        let hidden = made.get("last_hidden_state")?;
        // Rows of padding do not exist here.
        let wanted = &sample(golden, index).to_f64_vec()[..hidden.elements()];
        out.push(found(&format!("hidden[{index}]"), hidden, wanted, TEXT));
    }
    Ok(out)
}

/// Sampling on references, from the prompt to the pixels.
fn pipelines(backend: &Backend, case: &Path) -> Result<Vec<Found>> {
    let inputs = Tensors::open(case.join("inputs.safetensors"))?;
    let expected = Tensors::open(case.join("expected.safetensors"))?;
    let meta = read_json(case.join("meta.json"))?.value;
    let either = |key: &str| {
        let settings = &meta["settings"][key];
        if settings.is_null() { meta[key].clone() } else { settings.clone() }
    };
    let noise = sample(inputs.get("noise")?, 0);
    let [frames, rows, columns] = [1, 2, 3].map(|axis| noise.shape()[axis]);
    let mut references = Vec::new();
    while let Some(video) = inputs.0.get(&format!("ref{}.video", references.len())) {
        references.push(ReferenceSource::Pixels(sample(video, 0)));
    }
    let request = Request {
        references,
        prompt: either("prompt").as_str().unwrap_or_default().to_owned(),
        size: Size { width: 16 * columns, height: 16 * rows, frames: 4 * frames - 3 },
        steps: expected.get("timesteps")?.elements(),
        guidance: either("guidance").as_f64().or(either("guidance_scale").as_f64()).unwrap_or(5.0),
        noise: Some(noise),
        precision: Some(Precision::F32),
        text_tokens: Some(inputs.get("prompt.input_ids")?.shape()[1]),
        ..Request::default()
    };
    let made = generated(Model::open(case)?, backend, &request)?;
    let wanted = sample(expected.get("video")?, 0).to_f64_vec();
    let error = apart(&made, &wanted);
    Ok(vec![Found { name: "video".to_owned(), error, most: PIXELS }])
}

/// The largest difference.
fn apart(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() || a.iter().any(|value| !value.is_finite()) {
        return f64::INFINITY;
    }
    a.iter().zip(b).fold(0.0, |most, (a, b)| (a - b).abs().max(most))
}

/// The pixels of a video, `[3, T, H, W]`.
fn generated(model: Model, backend: &Backend, request: &Request) -> Result<Vec<f64>> {
    let mut parts: Vec<Tensor> = Vec::new();
    let pipeline = Pipeline::new(model, backend.clone());
    pipeline.generate(request, &mut |_| {}, &mut |part| {
        parts.push(part.clone());
        Ok(())
    })?;
    // Parts follow each other in time.
    let channels = parts.first().map_or(0, |part| part.shape()[0]);
    let mut all = Vec::new();
    for channel in 0..channels {
        for part in &parts {
            let values = part.to_f64_vec();
            let own = values.len() / channels;
            all.extend_from_slice(&values[channel * own..(channel + 1) * own]);
        }
    }
    Ok(all)
}

/// How far the built-in model's video is from the CPU's.
fn video(check: &Check<'_>) -> Result<f64> {
    let request = Request {
        prompt: "A close-up shot. The face is smiling. The head turns left.".to_owned(),
        size: Size { width: 48, height: 48, frames: 5 },
        steps: 8,
        guidance: 2.0,
        seed: 7,
        precision: Some(Precision::F32),
        ..Request::default()
    };
    let cpu = Backend::open("cpu", 0)?;
    let ours = generated(Model::built_in()?, check.backend, &request)?;
    let wanted = generated(Model::built_in()?, &cpu, &request)?;
    Ok(apart(&ours, &wanted))
}
