//! What is kept for the derivative, and what is computed again: the same bits for every choice, and the
//! memory and work of each at real sizes.

use anyid_ir::{DType, Module, Tensor, TensorType};
use anyid_models::wan::Precision;
use anyid_models::wan::config::DitConfig;
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::loss::with_loss;
use anyid_passes::fit::Memory;
use anyid_passes::remat::within;
use anyid_passes::{CompileRequest, Gradient, Keeping, LoraTarget, Options, Remat};
use anyid_runtime::engine::{Compiler, Inputs, Registry};
use anyid_runtime::init::RandomWeights;
use anyid_runtime::sampling::NoiseStream;
use anyid_tests::devices;
use std::sync::Arc;

/// The derivative of the loss by all adapters of rank `rank`.
fn request(module: &Module, rank: usize) -> CompileRequest<'_> {
    let adapter =
        |pattern: &str| LoraTarget { pattern: pattern.to_owned(), rank, alpha: rank as f64 };
    let all = ["q", "k", "v", "o"].map(|name| adapter(&format!("blocks.*_attn.{name}")));
    let wrt = vec!["*.lora_*.weight".to_owned()];
    CompileRequest::new(module, "loss")
        .with_lora(all.into_iter().chain([adapter("blocks.*.ffn.*")]))
        .with_gradient(Gradient { of: "loss".into(), wrt })
}

/// Some values of a type: segments of two, and noise elsewhere.
fn values(at: u32, ty: &TensorType) -> Tensor {
    if ty.dtype == DType::I32 {
        let segments: Vec<f64> = (0..ty.elements()).map(|i| f64::from(i >= 6)).collect();
        return Tensor::from_f64s(ty.clone(), &segments).expect("one value an element");
    }
    let mut noise = vec![0f32; ty.elements()];
    NoiseStream::new(7, at).fill(0, &mut noise);
    let noise = Tensor::from_f32(ty.shape.iter().copied(), &noise).expect("one value an element");
    noise.cast(ty.dtype)
}

#[test]
fn gradients_have_the_same_bits_whatever_is_kept() {
    let size = DitSize {
        reference_frames: 1,
        frames: 2,
        height: 4,
        width: 6,
        text_tokens: 7,
        timesteps: 2,
    };
    let choices = ["all", "products", "heads", "attention", "carry", "carry:1,heads"];
    for precision in [Precision::F32, Precision::Bf16] {
        let module = with_loss(dit(&DitConfig::micro(), &size, precision));
        for device in devices::names() {
            // Few runs where a device is slow.
            let threads: &[usize] = if *device == "cpu" { &[1, 2] } else { &[2] };
            let mut first: Option<Vec<(String, Tensor)>> = None;
            for (threads, choice) in threads.iter().flat_map(|t| choices.map(|c| (*t, c))) {
                if *device != "cpu" && !matches!(choice, "all" | "carry") {
                    continue;
                }
                let keeping: Keeping = choice.parse().expect("it is one");
                let backend = devices::backend(device, threads);
                let request = request(&module, 4).keeping(keeping);
                let compiler = Compiler::new(&backend).add("loss", request);
                let compiler = compiler.unwrap_or_else(|e| panic!("{e}"));
                let plan = compiler.plans().next().expect("there is one").1;
                let inputs: Vec<(String, Tensor)> = (0..)
                    .zip(&plan.inputs)
                    .map(|(at, port)| (port.name.clone(), values(at, &plan.buffer(port.buffer).ty)))
                    .collect();
                let weights = Arc::new(RandomWeights::new(&module.weights, 3));
                let mut program =
                    compiler.load(weights, &mut |_, _| true).unwrap_or_else(|e| panic!("{e}"));
                let given =
                    inputs.iter().fold(Inputs::new(), |given, (name, t)| given.set(name, t));
                let outputs = program.call("loss", &given).unwrap_or_else(|e| panic!("{e}"));
                let outputs: Vec<(String, Tensor)> =
                    outputs.iter().map(|(name, t)| (name.into_owned(), t.clone())).collect();
                assert!(
                    outputs.len() > 20
                        && outputs[1..]
                            .iter()
                            .any(|(_, t)| { t.to_f64_vec().iter().any(|x| *x != 0.0) })
                );
                let first = first.get_or_insert_with(|| outputs.clone());
                for ((name, own), (_, other)) in outputs.iter().zip(&*first) {
                    let same = own.bytes() == other.bytes();
                    assert!(same, "{name} on {device}, {precision:?}, {threads} threads, {choice}");
                }
            }
        }
    }
}

/// Adapters of rank 128 on the whole transformer, planned for 480×832×81 and two references.
#[test]
fn less_kept_is_less_memory_and_more_work() {
    let size = DitSize {
        reference_frames: 2,
        frames: 21,
        height: 30,
        width: 52,
        text_tokens: 512,
        timesteps: 2,
    };
    let module = with_loss(dit(&DitConfig::ti2v_5b(), &size, Precision::Bf16));
    let registry = Registry::default();
    let target = registry.target("cuda:sm_90").expect("every build plans for it").clone();
    let request = request(&module, 128).with(&Options { target, ..Options::default() });
    let all = within(&request, 0, &|_| 0).expect("it compiles").tried;
    assert_eq!(all.iter().map(|tried| tried.keeping.rest).collect::<Vec<_>>(), Remat::ALL);
    for pair in all.windows(2) {
        assert!(pair[1].memory.total() < pair[0].memory.total(), "{pair:?}");
        assert!(pair[1].cost.flops >= pair[0].cost.flops, "{pair:?}");
    }
    assert_eq!(all[1].cost.flops, all[0].cost.flops, "no product is computed again");
    // Between two choices, some blocks get the one and some the other, as few as fit.
    let budget = (all[2].memory.total() + all[3].memory.total()) / 2;
    let mixed = within(&request, budget + 1000, &|_| 1000).expect("it compiles");
    let best = mixed.tried[mixed.tried.len() - 1];
    assert_eq!(Memory::of(&mixed.plans), best.memory, "its plans are handed over");
    assert_eq!(best.needed, best.memory.total() + 1000);
    assert_eq!((best.keeping.first.1, best.keeping.rest), (Remat::Attention, Remat::Heads));
    assert!((10..20).contains(&best.keeping.first.0), "{}", best.keeping);
    assert!(best.memory.total() <= budget);
    let (first, rest) = ((best.keeping.first.0 - 1, Remat::Attention), Remat::Heads);
    let plan = request.keeping(Keeping { first, rest }).plan().expect("it compiles");
    assert!(Memory::of(&[plan]).total() > budget, "one block more fits as well");
}
