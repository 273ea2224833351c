//! AdamW as a graph (anyid.md §4.3): one update of all parameters, in f32.
//!
//! Moments and parameters are results of their own types, so that they can be carried as states and are
//! then written over what they were.

use anyid_ir::{BinaryFn, DType, FuncBuilder, Module, TensorType, UnaryFn, ValueId};

/// Coefficients of an update, each an input `f32[]` of `@update`.
pub const COEFFICIENTS: [&str; 7] = [
    "decay",       // 1 − learning rate · weight decay
    "beta1",       // of the mean
    "beta2",       // of the mean square
    "rate",        // learning rate
    "correction1", // 1 / (1 − β₁ᵏ) in update k = 1, 2, …
    "correction2", // 1 / (1 − β₂ᵏ)
    "epsilon",     // added to the root
];

/// `@update` of parameters by name and type.
///
/// Parameters of the function are, for each, `%p.NAME`, `%g.NAME` (its gradient), `%m.NAME` and `%v.NAME`
/// (mean and mean square of its gradients), then the [`COEFFICIENTS`]; results are `%p2.NAME`, `%m2.NAME`
/// and `%v2.NAME`. All are f32. For each element: p ← decay · p; m ← β₁ m + (1 − β₁) g;
/// v ← β₂ v + (1 − β₂) g²; p ← p − rate · (m · correction₁) / (√(v · correction₂) + ε).
pub fn adamw(parameters: &[(&str, TensorType)]) -> Module {
    let mut module = Module { name: "adamw".into(), ..Module::default() };
    let mut b = FuncBuilder::new(&module, "update");
    let given: Vec<[ValueId; 4]> = parameters
        .iter()
        .map(|(name, ty)| {
            ["p", "g", "m", "v"].map(|kind| b.param(&format!("{kind}.{name}"), ty.clone()))
        })
        .collect();
    let number = TensorType::new(DType::F32, []);
    let [decay, beta1, beta2, rate, first, second, epsilon] =
        COEFFICIENTS.map(|name| b.param(name, number.clone()));
    let one = b.scalar("one", DType::F32, 1.0);
    let [rest1, rest2] = [beta1, beta2].map(|beta| b.binary("rest", BinaryFn::Sub, one, beta));
    let mut results = Vec::new();
    for ((name, _), [p, g, m, v]) in parameters.iter().zip(given) {
        let (old, new) = (b.mul("old", m, beta1), b.mul("new", g, rest1));
        let m = b.add(&format!("m2.{name}"), old, new);
        let square = b.mul("square", g, g);
        let (old, new) = (b.mul("old", v, beta2), b.mul("new", square, rest2));
        let v = b.add(&format!("v2.{name}"), old, new);
        let mean = b.mul("mean", m, first);
        let spread = b.mul("spread", v, second);
        let spread = b.unary("root", UnaryFn::Sqrt, spread);
        let spread = b.add("divisor", spread, epsilon);
        let step = b.binary("step", BinaryFn::Div, mean, spread);
        let step = b.mul("step", step, rate);
        let p = b.mul("decayed", p, decay);
        let p = b.binary(&format!("p2.{name}"), BinaryFn::Sub, p, step);
        results.extend([p, m, v]);
    }
    let func = b.finish(&results);
    module.add(func);
    module
}

/// The coefficients of update `step` (from 1), in the order of [`COEFFICIENTS`].
pub fn coefficients(
    step: u32,
    rate: f64,
    weight_decay: f64,
    [beta1, beta2]: [f64; 2],
    epsilon: f64,
) -> [f64; 7] {
    let correction = |beta: f64| 1.0 / (1.0 - beta.powi(step as i32));
    [1.0 - rate * weight_decay, beta1, beta2, rate, correction(beta1), correction(beta2), epsilon]
}
