//! `bench train`: one plan with derivatives, those of adapters and of the residual stream of some blocks
//! from that of their result, or those of all weights of a transformer from the losses of samples.

use super::args::BenchTrain;
use super::measure::{Setup, fits};
use super::networks::{SEED, Steps, blocks, compiler, distinct, finish, in_range};
use crate::output;
use crate::render::Failure;
use anyid_ir::{DType, FuncBuilder, Module, ReduceFn};
use anyid_models::wan::Precision;
use anyid_models::wan::config::DitConfig;
use anyid_models::wan::dit::{self, Batch, DitSize, DitTypes};
use anyid_models::wan::loss::with_draws;
use anyid_passes::{Gradient, LoraTarget};
use anyid_runtime::engine::CompileRequest;
use anyid_runtime::init::RandomWeights;
use serde_json::json;

/// Most samples of a call.
const MOST_SAMPLES: usize = 1 << 12;

/// Runs `bench train`.
///
/// # Errors
/// As `bench dit`.
pub fn train(args: BenchTrain) -> std::result::Result<(), Failure> {
    let start = output::peak_memory();
    let [tokens, text_tokens] = [args.tokens, args.text_tokens];
    let (config, size) = blocks(&args.phase, args.blocks, [tokens, text_tokens], 2)?;
    let precision = args.phase.precision.map_or(Precision::Bf16, Precision::from);
    let backend = args.phase.on.open()?;
    let types = DitTypes { precision, residual: args.residual.into() };
    let named = output::plural(args.blocks, "block");
    let (width, samples) = (config.width(), in_range(args.samples, MOST_SAMPLES, "--samples")?);
    let mut timesteps = size.timesteps;
    let (module, what, own) = if args.all {
        let size = whole(&config, &size, samples);
        timesteps = size.timesteps;
        let batch = Batch { targets: true, ..Batch::from(samples) };
        let module = with_draws(dit::dit_batch(&config, &size, batch, types), samples);
        let what = format!("all weights, {}", output::plural(samples, "sample"));
        (module, format!("{what} of {tokens} tokens"), ("samples", json!(samples)))
    } else {
        let rank = in_range(args.rank, width, "--rank")?;
        let module = with_cotangent(dit::stack(&config, &size, types));
        (module, format!("adapters of rank {rank}, {tokens} tokens"), ("rank", json!(rank)))
    };
    let module = distinct(&args.phase, module);
    let request = if args.all {
        let wrt = module.weights.tensors().map(|(name, _)| name.to_owned()).collect();
        let request = CompileRequest::new(&module, "train").lifting(["*"]);
        request.with_gradient(Gradient { of: "total".to_owned(), wrt })
    } else {
        let adapters = ["self_attn.*", "cross_attn.*", "ffn.*"].map(|name| LoraTarget {
            pattern: format!("blocks.*.{name}"),
            rank: args.rank,
            alpha: args.rank as f64,
        });
        let wrt = vec!["x".to_owned(), "*.lora_*.weight".to_owned()];
        let request = CompileRequest::new(&module, "loss").with_lora(adapters);
        request.with_gradient(Gradient { of: "loss".to_owned(), wrt })
    };
    let compiler = compiler(&args.phase, &backend).add("train", request)?;
    fits(&compiler, 1)?;
    let setup = Setup {
        start,
        title: format!("train: {named} of width {width}, {what}, forward and backward"),
        settings: vec![
            ("blocks", json!(args.blocks)),
            ("tokens", json!(tokens)),
            ("text_tokens", json!(text_tokens)),
            own,
            ("residual", json!(types.residual.name())),
        ],
        precision,
        job: Box::new(Steps::new(&compiler, [timesteps, samples], 1)),
        compiler,
        weights: RandomWeights::new(&module.weights, SEED),
        calls: vec!["train"],
    };
    finish(&args.phase, &backend, setup)
}

/// The sizes of samples of so many tokens, a frame of which is a reference where there are several.
fn whole(config: &DitConfig, size: &DitSize, samples: usize) -> DitSize {
    let patch = config.patch[0] as usize;
    let reference_frames = if size.frames > 1 { patch } else { 0 };
    DitSize {
        reference_frames,
        frames: size.frames * patch - reference_frames,
        timesteps: samples + reference_frames / patch,
        ..size.clone()
    }
}

/// `module` with a function `@loss` whose derivative by the residual stream after the last block of
/// `@stack` is a parameter `%d`.
fn with_cotangent(mut module: Module) -> Module {
    let stack = module.func("stack").expect("it was built").clone();
    let mut b = FuncBuilder::new(&module, "loss");
    let given: Vec<_> = stack.param_types().map(|(name, ty)| b.param(name, ty.clone())).collect();
    let d = b.param("d", stack.results[0].clone());
    let made = b.call("y", "stack", &[], &given)[0];
    let [made, d] = [made, d].map(|value| b.cast("wide", value, DType::F32));
    let product = b.mul("product", made, d);
    let loss = b.reduce("loss", ReduceFn::Sum, product, &[0, 1], false);
    let func = b.finish(&[loss]);
    module.add(func);
    module
}
