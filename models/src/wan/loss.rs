//! The training objective of rectified flow (anyid.md §4.1): the mean squared error of the velocity.

use anyid_ir::{BinaryFn, FuncBuilder, Module, ReduceFn, ValueId};

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
