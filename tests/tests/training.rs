//! Gradients of the transformer's adapters against the goldens: every case with `train_inputs`, on
//! every device and in the interpreter.

use anyid_ir::{DType, Tensor, TensorType};
use anyid_models::optimiser::{Extras, Group, Numbers, Rates, update};
use anyid_models::wan::Precision;
use anyid_models::wan::config::DitConfig;
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::loss::with_loss;
use anyid_models::wan::names::Component;
use anyid_passes::{Gradient, LoraTarget};
use anyid_runtime::checkpoint::WeightSet;
use anyid_runtime::engine::{CompileRequest, Compiler, Inputs, StateSpec};
use anyid_runtime::weights::ModelWeights;
use anyid_tests::close::{absolute, relative};
use anyid_tests::devices;
use anyid_tests::fixtures::{Tensors, cases, json, sample};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// How far gradients and losses may be from the golden, relative to its largest element.
const TOLERANCE: f64 = 2e-5;

/// A matrix of an adapter in the goldens' naming, as the graph calls it.
fn own_name(golden: &str) -> String {
    [
        ("attn1.", "self_attn."),
        ("attn2.", "cross_attn."),
        ("to_out.0", "o"),
        ("to_", ""),
        ("ffn.net.0.proj", "ffn.0"),
        ("ffn.net.2", "ffn.2"),
    ]
    .iter()
    .fold(golden.to_owned(), |name, (theirs, ours)| name.replace(theirs, ours))
}

/// Frames `from..to` of a latent `[C,F,H,W]`.
fn frames(x: &Tensor, from: usize, to: usize) -> Tensor {
    let [channels, frames, height, width] = x.shape().try_into().expect("a latent has four axes");
    let (values, plane) = (x.to_f32_vec(), height * width);
    let parts =
        (0..channels).flat_map(|c| &values[(c * frames + from) * plane..][..(to - from) * plane]);
    let parts: Vec<f32> = parts.copied().collect();
    Tensor::from_f32([channels, to - from, height, width], &parts).unwrap()
}

fn combined(a: &Tensor, b: &Tensor, f: impl Fn(f32, f32) -> f32) -> Tensor {
    let values: Vec<f32> =
        a.to_f32_vec().iter().zip(b.to_f32_vec()).map(|(a, b)| f(*a, b)).collect();
    Tensor::from_f32(a.shape().iter().copied(), &values).unwrap()
}

/// A case, and the adapters by the graph's names.
struct Case {
    config: DitConfig,
    weights: Arc<ModelWeights>,
    given: Tensors,
    lora: BTreeMap<String, Tensor>,
    references: usize,
    targets: Vec<LoraTarget>,
}

impl Case {
    fn open(folder: &Path) -> Self {
        let meta = json(&folder.join("meta.json"));
        let number = |name: &str| meta["settings"][name].as_f64().unwrap();
        let set = WeightSet::open(folder.join("diffusion_pytorch_model.safetensors"))
            .unwrap_or_else(|e| panic!("{e}"));
        let weights = ModelWeights::recognise(&set, Component::Dit);
        let lora = Tensors::open(&folder.join("lora.safetensors"));
        let (rank, alpha) = (number("rank") as usize, number("alpha"));
        let target = |pattern: &str| LoraTarget { pattern: pattern.to_owned(), rank, alpha };
        let all = ["q", "k", "v", "o"].map(|name| target(&format!("blocks.*_attn.{name}")));
        Self {
            config: DitConfig::from_diffusers(&json(&folder.join("config.json"))).unwrap(),
            weights: Arc::new(weights.unwrap_or_else(|e| panic!("{e}"))),
            given: Tensors::open(&folder.join("train_inputs.safetensors")),
            lora: lora.names().map(|name| (own_name(name), lora.get(name).clone())).collect(),
            references: number("ref") as usize,
            targets: all.into_iter().chain([target("blocks.*.ffn.*")]).collect(),
        }
    }

    /// Loss and gradients of sample `index` on a device, with `references` frames clean and the noise
    /// and noise level of draw `draw` (empty, or a number behind `adam.`).
    fn sample(
        &self,
        device: &str,
        index: usize,
        references: usize,
        draw: &str,
    ) -> BTreeMap<String, Tensor> {
        self.clip(device, index, references, ("x0", draw), &self.lora)
    }

    /// As [`Self::sample`], of the clean latents called `clip` and with these adapters.
    fn clip(
        &self,
        device: &str,
        index: usize,
        references: usize,
        (clip, draw): (&str, &str),
        lora: &BTreeMap<String, Tensor>,
    ) -> BTreeMap<String, Tensor> {
        let named = |name: &str| match draw {
            "" => self.given.get(name),
            draw => self.given.get(&format!("adam.{name}{draw}")),
        };
        let (x0, noise) = (sample(self.given.get(clip), index), sample(named("noise"), index));
        let sigma = named("sigma").to_f32_vec()[index];
        let all = x0.shape()[1];
        let z = combined(&x0, &noise, |x, e| (1.0 - sigma) * x + sigma * e);
        let velocity = combined(&noise, &x0, |e, x| e - x);
        let text = sample(self.given.get("text"), index);
        let size = DitSize {
            reference_frames: references,
            frames: all - references,
            height: x0.shape()[2],
            width: x0.shape()[3],
            text_tokens: text.shape()[0],
            timesteps: if references > 0 { 2 } else { 1 },
        };
        let module = with_loss(dit(&self.config, &size, Precision::F32));
        let clean = references * size.tokens_per_frame(&self.config);
        let segments: Vec<i32> =
            (0..size.tokens(&self.config)).map(|at| i32::from(at >= clean && clean > 0)).collect();
        let times: Vec<f32> = match references {
            0 => vec![sigma * 1000.0],
            _ => vec![0.0, sigma * 1000.0],
        };
        let mut inputs: BTreeMap<String, Tensor> = lora.clone();
        inputs.insert("lat".into(), frames(&z, references, all));
        inputs.insert("target".into(), frames(&velocity, references, all));
        inputs.insert("t".into(), Tensor::from_f32([times.len()], &times).unwrap());
        inputs.insert("seg".into(), Tensor::from_i32([segments.len()], &segments).unwrap());
        inputs.insert("txt".into(), text);
        let mut wrt = vec!["*.lora_*.weight".to_owned(), "lat".to_owned()];
        if references > 0 {
            inputs.insert("ref".into(), frames(&x0, 0, references));
            wrt.push("ref".to_owned());
        }
        let request = CompileRequest::new(&module, "loss")
            .with_lora(self.targets.clone())
            .with_gradient(Gradient { of: "loss".into(), wrt });
        let backend = devices::backend(device, 2);
        let compiler =
            Compiler::new(&backend).add("loss", request).unwrap_or_else(|e| panic!("{e}"));
        let mut program =
            compiler.load(self.weights.clone(), &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"));
        let given =
            inputs.iter().fold(Inputs::new(), |given, (name, tensor)| given.set(name, tensor));
        let outputs = program.call("loss", &given).unwrap_or_else(|e| panic!("{e}"));
        outputs.iter().map(|(name, tensor)| (name.into_owned(), tensor.clone())).collect()
    }
}

fn mean(parts: &[Tensor]) -> Vec<f64> {
    let mut sum = vec![0.0; parts[0].ty().elements()];
    for part in parts {
        sum.iter_mut().zip(part.to_f64_vec()).for_each(|(sum, x)| *sum += x / parts.len() as f64);
    }
    sum
}

#[test]
fn gradients_of_adapters_are_the_goldens() {
    let mut seen = 0;
    for folder in
        cases("dit").iter().filter(|folder| folder.join("train_inputs.safetensors").exists())
    {
        let case = Case::open(folder);
        let expected = Tensors::open(&folder.join("train_expected.safetensors"));
        let batch = case.given.get("x0").shape()[0];
        for device in devices::names() {
            // Only one call where a device is slow.
            let calls = [("fm_scalar", 0), ("fm_token", case.references)];
            let few = usize::from(*device == "cpu");
            for (call, references) in calls.into_iter().skip(1 - few) {
                let samples: Vec<BTreeMap<String, Tensor>> =
                    (0..batch).map(|index| case.sample(device, index, references, "")).collect();
                let all = |name: &str| -> Vec<Tensor> {
                    samples.iter().map(|outputs| outputs[name].clone()).collect()
                };
                let mut worst = (0.0, String::new());
                let mut push = |name: &str, given: &[f64], golden: &Tensor| {
                    let error = relative(given, &golden.to_f64_vec());
                    if error > worst.0 {
                        worst = (error, name.to_owned());
                    }
                };
                push("loss", &mean(&all("loss")), expected.get(&format!("{call}.loss")));
                let file = folder.join(format!("lora_grads_{call}.safetensors"));
                let golden = Tensors::open(&file);
                for name in golden.names() {
                    let own = format!("grad.{}", own_name(name));
                    push(name, &mean(&all(&own)), golden.get(name));
                }
                println!("{} {call} on {device}: {:.1e} in {}", folder.display(), worst.0, worst.1);
                assert!(worst.0 <= TOLERANCE, "{} {call} on {device}: {worst:?}", folder.display());
                seen += 1;
            }
        }
    }
    assert!(seen >= 2 * devices::names().len(), "{seen}");
}

/// The gradient of a preference from the plan of supervised tuning alone: c times the difference of
/// the gradients on the chosen and the rejected clip. The goldens have β where we have β/2.
#[test]
fn gradients_of_preferences_are_the_goldens() {
    let device = devices::names()[0];
    for folder in
        cases("dit").iter().filter(|folder| folder.join("lora_grads_dpo.safetensors").exists())
    {
        let case = Case::open(folder);
        let beta = json(&folder.join("meta.json"))["settings"]["beta"].as_f64().unwrap();
        let expected = Tensors::open(&folder.join("train_expected.safetensors"));
        let golden = Tensors::open(&folder.join("lora_grads_dpo.safetensors"));
        let mut off = case.lora.clone();
        for (name, matrix) in &mut off {
            if name.ends_with(".lora_B.weight") {
                *matrix = Tensor::zeros(matrix.ty().clone());
            }
        }
        let batch = case.given.get("x0").shape()[0];
        let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut losses = Vec::new();
        for index in 0..batch {
            let run = |clip: &str, lora: &BTreeMap<String, Tensor>| {
                case.clip(device, index, case.references, (clip, ""), lora)
            };
            let [win, lose] = ["dpo.x0_win", "dpo.x0_lose"].map(|clip| run(clip, &case.lora));
            let [win_base, lose_base] = ["dpo.x0_win", "dpo.x0_lose"].map(|clip| run(clip, &off));
            let error = |outputs: &BTreeMap<String, Tensor>| outputs["loss"].to_f64_vec()[0];
            let own = [&win, &lose, &win_base, &lose_base].map(error);
            let names = ["err_policy_win", "err_policy_lose", "err_ref_win", "err_ref_lose"];
            for (name, own) in names.iter().zip(own) {
                let golden = expected.get(&format!("dpo.{name}")).to_f64_vec()[index];
                assert!((own - golden).abs() <= TOLERANCE * golden, "{name}: {own}, {golden}");
            }
            let delta = (own[0] - own[2]) - (own[1] - own[3]);
            losses.push((beta * delta).exp().ln_1p());
            let factor = beta / (1.0 + (-beta * delta).exp()) / batch as f64;
            for name in golden.names() {
                let [a, b] = [&win, &lose]
                    .map(|outputs| outputs[&format!("grad.{}", own_name(name))].to_f64_vec());
                let sum = sums.entry(name.to_owned()).or_insert_with(|| vec![0.0; a.len()]);
                sum.iter_mut().zip(a.iter().zip(&b)).for_each(|(s, (a, b))| *s += factor * (a - b));
            }
        }
        let loss = losses.iter().sum::<f64>() / batch as f64;
        let wanted = expected.get("dpo.loss").to_f64_vec();
        assert!(relative(&[loss], &wanted) <= TOLERANCE, "{loss} {wanted:?}");
        // Two gradients that are nearly equal are subtracted: their errors stay, the result is small.
        let worst = golden
            .names()
            .map(|name| relative(&sums[name], &golden.get(name).to_f64_vec()))
            .fold(0.0, f64::max);
        println!("{}: {worst:.1e}", folder.display());
        assert!(worst <= 10.0 * TOLERANCE, "{}: {worst:e}", folder.display());
    }
}

/// Three updates by AdamW, each from the gradients of its own draw, against the goldens.
#[test]
fn adapters_after_updates_are_the_goldens() {
    let folder = &cases("dit")[0];
    let (mut case, device) = (Case::open(folder), devices::names()[0]);
    let batch = case.given.get("x0").shape()[0];
    let expected = Tensors::open(&folder.join("train_expected.safetensors"));
    let groups: Vec<Group> = case
        .lora
        .iter()
        .map(|(name, tensor)| Group {
            name: name.clone(),
            elements: tensor.elements(),
            decays: true,
            rates: 0,
            matrices: None,
        })
        .collect();
    let (module, carried) = update(&groups, Extras::default());
    let states: Vec<StateSpec> = carried
        .into_iter()
        .map(|(name, input, output)| StateSpec { name, input, output })
        .collect();
    let backend = devices::backend(device, 2);
    let request = CompileRequest::new(&module, "update").carrying(states);
    let compiler = Compiler::new(&backend).add("update", request).unwrap_or_else(|e| panic!("{e}"));
    let workspace = compiler.plans().next().unwrap().1.workspace_bytes;
    // A few numbers for each vector, from which the norm is made.
    let numbers = 192 * groups.len() as u64;
    assert!(workspace <= numbers, "parameters and moments change in place: {workspace} bytes");
    let none = anyid_tests::plans::Stored::default();
    let mut program =
        compiler.load(Arc::new(none), &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"));
    let mut kept = program.states("update").unwrap();
    for (name, tensor) in &case.lora {
        let flat = tensor.clone().reshaped([tensor.elements()]).unwrap();
        kept.set(&format!("p.{name}"), &flat).unwrap();
    }
    for step in 1..=3u32 {
        let draw = (step - 1).to_string();
        let samples: Vec<BTreeMap<String, Tensor>> =
            (0..batch).map(|at| case.sample(device, at, case.references, &draw)).collect();
        let all = |name: &str| -> Vec<f64> {
            mean(&samples.iter().map(|outputs| outputs[name].clone()).collect::<Vec<_>>())
        };
        let loss = expected.get(&format!("adam.loss{draw}")).to_f64_vec();
        assert!(relative(&all("loss"), &loss) <= TOLERANCE, "loss of step {step}");
        let mut inputs: Vec<(String, Tensor)> = groups
            .iter()
            .map(|Group { name, elements, .. }| {
                let (gradient, ty) =
                    (all(&format!("grad.{name}")), TensorType::new(DType::F32, [*elements]));
                (format!("g.{name}"), Tensor::from_f64s(ty, &gradient).unwrap())
            })
            .collect();
        let numbers = Numbers {
            rates: vec![Rates { rate: 1e-4, weight_decay: 0.001, momentum: 0.0 }],
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            clip: 0.0,
            average: 0.0,
        };
        for (name, number) in numbers.coefficients(step.into()) {
            let ty = TensorType::new(DType::F32, []);
            inputs.push((name, Tensor::from_f64s(ty, &[number]).unwrap()));
        }
        let given = inputs.iter().fold(Inputs::new(), |given, (name, t)| given.set(name, t));
        program.call_with_states("update", &given, &mut kept).unwrap_or_else(|e| panic!("{e}"));
        for (name, tensor) in &mut case.lora {
            let flat = kept.get(&format!("p.{name}")).unwrap();
            *tensor = flat.reshaped(tensor.shape().to_vec()).unwrap();
        }
        if step == 2 {
            continue;
        }
        let golden = Tensors::open(&folder.join(format!("lora_after_step{step}.safetensors")));
        for name in golden.names() {
            let given = case.lora[&own_name(name)].to_f64_vec();
            let error = absolute(&given, &golden.get(name).to_f64_vec());
            // A share of the way that every element went at most.
            assert!(error <= 0.05 * 1e-4 * f64::from(step), "{name} after {step}: {error:e}");
        }
    }
}
