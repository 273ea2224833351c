//! The networks with each pass alone left out, and with none: the interpreter's results all the same,
//! and no rewrite that a search would name.

use anyid_backends::WeightProvider;
use anyid_ir::{Evaluator, Mode, Module, Tensor, WeightSource};
use anyid_models::wan::Precision;
use anyid_models::wan::config::{DitConfig, TextConfig, VaeConfig};
use anyid_models::wan::dit::{DitSize, dit};
use anyid_models::wan::text::text;
use anyid_models::wan::vae::{VaeSize, decoder, encoder};
use anyid_passes::pipeline::PASSES;
use anyid_passes::{CompileRequest, Options};
use anyid_runtime::Model;
use anyid_runtime::engine::bisect::{Case, bisect};
use anyid_runtime::weights::ModelWeights;
use anyid_tests::devices;
use anyid_tests::op_cases::{noise, seed_of};
use std::sync::Arc;

/// Runs `func` in every way; `varying` are the inputs that change per step, if it is split.
fn every_way(
    module: &Module,
    func: &str,
    varying: Option<&[&str]>,
    weights: &Arc<ModelWeights>,
    tolerance: f64,
) {
    let inputs: Vec<(String, Tensor)> = module
        .func(func)
        .expect("the network has it")
        .param_types()
        .map(|(name, ty)| (name.to_owned(), noise(ty.clone(), seed_of(name))))
        .collect();
    let given: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let source: &dyn WeightSource = &**weights;
    let expected = Evaluator::new(module, Mode::F32)
        .run_named(func, &given, source, None)
        .unwrap_or_else(|e| panic!("{e}"));
    let request = CompileRequest::new(module, func);
    let varying: Option<Vec<String>> =
        varying.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    let backend = devices::first_backend(2);
    let optional = PASSES.iter().filter(|pass| pass.optional).map(|pass| Some(pass.name));
    for name in std::iter::once(None).chain(optional) {
        let options = Options { verify_each: true, ..Options::default() };
        let options = match name {
            Some(name) => options.off(name),
            None => options,
        };
        let provider: Arc<dyn WeightProvider + Send + Sync> = weights.clone();
        let case = Case {
            request: CompileRequest { varying: varying.clone(), ..request.clone() }.with(&options),
            weights: provider,
            inputs: &inputs,
            expected: &expected,
            tolerance,
        };
        let found = bisect(&backend, &case, &mut |_| ()).unwrap_or_else(|e| panic!("{e}"));
        let left = name.unwrap_or("nothing");
        println!("{func} without {left}: {:.1e}", found.all.relative);
        assert_eq!((&found.culprit, &found.none), (&None, &None), "{func} without {left}");
    }
}

fn dit_size() -> DitSize {
    DitSize { reference_frames: 1, frames: 2, height: 4, width: 6, text_tokens: 5, timesteps: 2 }
}

#[test]
fn the_transformer_whole_and_split() {
    let model = Model::micro().unwrap();
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 5e-2)] {
        let module = dit(&DitConfig::micro(), &dit_size(), precision);
        for varying in [None, Some(&["lat", "t"][..])] {
            every_way(&module, "dit", varying, &model.dit_weights, tolerance);
        }
    }
}

#[test]
fn both_halves_of_the_autoencoder() {
    let model = Model::micro().unwrap();
    let (config, size) = (VaeConfig::micro(), VaeSize { height: 16, width: 32, chunk: 1 });
    for module in [encoder(&config, &size), decoder(&config, &size, true)] {
        for func in ["first", "next"] {
            every_way(&module, func, None, &model.vae_weights, 1e-4);
        }
    }
}

#[test]
fn the_text_encoder() {
    let model = Model::micro().unwrap();
    let module = text(&TextConfig::micro(), 7, Precision::F32);
    every_way(&module, "text", None, &model.text_weights, 1e-4);
}
