//! The training objective of rectified flow (anyid.md §4.1): the mean squared error of the velocity,
//! of one sample or of several at a time.

use anyid_ir::{BinaryFn, DType, FuncBuilder, Module, ReduceFn, TensorType, ValueId};

/// `module` with a function `@loss` behind `@dit`: parameters are those of `@dit` and `%target`, the
/// velocity ε − x₀ of the target frames; the result `%loss` is the mean of `(v − target)²` over all
/// elements, f32. References are inputs of `@dit` by themselves and have no part in the mean.
pub fn with_loss(mut module: Module) -> Module {
    let dit = module.func("dit").expect("a transformer has a function @dit").clone();
    let mut b = FuncBuilder::new(&module, "loss");
    let given: Vec<ValueId> =
        dit.param_types().map(|(name, ty)| b.param(name, ty.clone())).collect();
    let target = b.param("target", dit.results[0].clone());
    let v = b.call("v", "dit", &[], &given)[0];
    let error = b.binary("error", BinaryFn::Sub, v, target);
    let square = b.mul("square", error, error);
    let axes: Vec<usize> = (0..dit.results[0].rank()).collect();
    let loss = b.reduce("loss", ReduceFn::Mean, square, &axes, false);
    let func = b.finish(&[loss]);
    module.add(func);
    module
}

/// `module`, a [`dit_batch`](super::dit::dit_batch) of `samples` samples, with the functions that training
/// asks for.
///
/// `@losses(%sigma: f32[S], %x0, %noise: f32[S,C,F,H,W], …) -> %loss: f32[S]`: the loss of each sample,
/// of clean latents `%x0` under `%noise` at its noise level. Of the parameters of `@dit` it has
/// `%ref: f32[S,C,R,H,W]`, `%seg` and `%txt`; what the others are follows: (1 − σ) x₀ + σ ε, the timesteps
/// 1000 σ in the order of the samples, and 0 in front of them for references.
/// `@train` has a weight for each sample besides, `%weight: f32[S]`, and gives `%total`, their weighted
/// sum, in front of `%loss`.
pub fn with_draws(mut module: Module, samples: usize) -> Module {
    let dit = module.func("dit").expect("a transformer has a function @dit").clone();
    let mut b = FuncBuilder::new(&module, "losses");
    let latent = dit.results[0].clone();
    let [channels, frames, rows, columns] =
        latent.shape[..].try_into().expect("a velocity has four axes");
    let apart = |frames: usize| {
        TensorType::new(DType::F32, [samples, channels, frames / samples, rows, columns])
    };
    let sigma = b.param("sigma", TensorType::new(DType::F32, [samples]));
    let [x0, noise] = ["x0", "noise"].map(|name| b.param(name, apart(frames)));
    // What is computed number by number has a row for each sample.
    let (own, each) = (apart(frames), latent.elements() / samples);
    let [x0, noise] = [x0, noise].map(|x| b.reshape("row", x, [samples, each]));
    let sigmas = b.reshape("sigmas", sigma, [samples, 1]);
    let given: Vec<(String, TensorType)> =
        dit.param_types().map(|(name, ty)| (name.to_owned(), ty.clone())).collect();
    let given: Vec<ValueId> = given
        .into_iter()
        .map(|(name, ty)| match name.as_str() {
            "lat" => {
                let one = b.scalar("one", DType::F32, 1.0);
                let rest = b.binary("rest", BinaryFn::Sub, one, sigmas);
                let (clean, noisy) = (b.mul("clean", x0, rest), b.mul("noisy", noise, sigmas));
                let noisy = b.add("lat", clean, noisy);
                let noisy = b.reshape("lat", noisy, own.shape.iter().copied());
                along_time(&mut b, "lat", noisy)
            }
            "ref" => {
                let references = b.param("ref", apart(ty.shape[1]));
                along_time(&mut b, "refs", references)
            }
            "t" => {
                let scale = b.scalar("scale", DType::F32, 1000.0);
                let timestep = b.mul("timestep", sigma, scale);
                match ty.elements() - samples {
                    0 => timestep,
                    clean => b.pad("t", timestep, 0, clean, 0),
                }
            }
            _ => b.param(&name, ty),
        })
        .collect();
    let v = b.call("v", "dit", &[], &given)[0];
    let v = b.reshape("v", v, [channels, samples, frames / samples, rows, columns]);
    let v = b.permute("v", v, &[1, 0, 2, 3, 4]);
    let v = b.reshape("v", v, [samples, each]);
    let target = b.binary("target", BinaryFn::Sub, noise, x0);
    let error = b.binary("error", BinaryFn::Sub, v, target);
    let square = b.mul("square", error, error);
    let loss = b.reduce("loss", ReduceFn::Mean, square, &[1], false);
    let func = b.finish(&[loss]);
    module.add(func);
    weighted(module, &["loss"])
}

/// Latents of samples one after the other as the latents of one long clip.
pub(super) fn along_time(b: &mut FuncBuilder<'_>, name: &str, x: ValueId) -> ValueId {
    let shape = b.shape(x);
    let moved = b.permute(name, x, &[1, 0, 2, 3, 4]);
    b.reshape(name, moved, [shape[1], shape[0] * shape[2], shape[3], shape[4]])
}

/// `module` with `@train` behind `@losses`, whose first result is the loss of each sample. Parameters
/// are those of `@losses` and `%weight`; results are `%total`, the sum of weights times losses, and those
/// of `@losses`, called `results`.
pub fn weighted(mut module: Module, results: &[&str]) -> Module {
    let losses = module.func("losses").expect("it was added").clone();
    let mut b = FuncBuilder::new(&module, "train");
    let given: Vec<ValueId> =
        losses.param_types().map(|(name, ty)| b.param(name, ty.clone())).collect();
    let weight = b.param("weight", losses.results[0].clone());
    let made = b.call("loss", "losses", &[], &given);
    for (value, name) in made.iter().zip(results) {
        b.rename(*value, name);
    }
    let counted = b.mul("counted", made[0], weight);
    let total = b.reduce("total", ReduceFn::Sum, counted, &[0], false);
    let results: Vec<ValueId> = std::iter::once(total).chain(made).collect();
    let func = b.finish(&results);
    module.add(func);
    module
}
