//! The training objective of rectified flow (anyid.md §4.1): the mean squared error of the velocity.

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

/// `module` with functions `@loss` and, behind it, `@train`: the loss of clean latents `%x0` under
/// `%noise` at noise level `%sigma: f32[]`. Of the parameters of `@dit` it has `%ref`, `%seg` and
/// `%txt`; what the others are follows: (1 − σ) x₀ + σ ε, timestep 1000 σ, and 0 for references.
pub fn with_draw(module: Module) -> Module {
    let mut module = with_loss(module);
    let loss = module.func("loss").expect("it was added").clone();
    let mut b = FuncBuilder::new(&module, "train");
    let number = TensorType::new(DType::F32, []);
    let sigma = b.param("sigma", number);
    let types: Vec<(String, TensorType)> =
        loss.param_types().map(|(name, ty)| (name.to_owned(), ty.clone())).collect();
    let latent = types.iter().find(|(name, _)| name == "lat").expect("@dit has %lat").1.clone();
    let [x0, noise] = ["x0", "noise"].map(|name| b.param(name, latent.clone()));
    let given: Vec<ValueId> = types
        .into_iter()
        .map(|(name, ty)| match name.as_str() {
            "lat" => {
                let one = b.scalar("one", DType::F32, 1.0);
                let rest = b.binary("rest", BinaryFn::Sub, one, sigma);
                let (clean, noisy) = (b.mul("clean", x0, rest), b.mul("noisy", noise, sigma));
                b.add("lat", clean, noisy)
            }
            "target" => b.binary("target", BinaryFn::Sub, noise, x0),
            "t" => {
                let scale = b.scalar("scale", DType::F32, 1000.0);
                let timestep = b.mul("timestep", sigma, scale);
                let timestep = b.reshape("timestep", timestep, [1]);
                match ty.elements() {
                    1 => timestep,
                    count => b.pad("t", timestep, 0, count - 1, 0),
                }
            }
            _ => b.param(&name, ty),
        })
        .collect();
    let loss = b.call("loss", "loss", &[], &given)[0];
    let func = b.finish(&[loss]);
    module.add(func);
    module
}
