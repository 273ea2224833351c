//! AdamW as a graph (anyid.md §4.3): gradients collected, and one update of all parameters, in f32.
//!
//! Parameters lie flat, many tensors in one vector, because a plan of a few long steps is made and run
//! faster than one of hundreds. Moments and parameters are results of their own types, so that they can
//! be carried as states and are then written over what they were.

use anyid_ir::{BinaryFn, DType, FuncBuilder, Module, ReduceFn, TensorType, UnaryFn, ValueId};

/// Coefficients of an update, each an input `f32[]` of `@update`.
pub const COEFFICIENTS: [&str; 9] = [
    "decay",       // 1 − learning rate · weight decay
    "beta1",       // of the mean
    "beta2",       // of the mean square
    "rate",        // learning rate
    "correction1", // 1 / (1 − β₁ᵏ) in update k = 1, 2, …
    "correction2", // 1 / (1 − β₂ᵏ)
    "epsilon",     // added to the root
    "clip",        // largest norm of the gradient
    "average",     // of the average of the parameters
];

/// Parameters that lie in one vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Elements.
    pub elements: usize,
    /// Whether the weight decay is for it.
    pub decays: bool,
}

/// What an update does besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Gradients are scaled down to the norm `%clip`.
    pub clip: bool,
    /// An average of the parameters is kept.
    pub average: bool,
}

/// A value that a function carries from one run to the next: its name, its place among the parameters, if
/// it is one, and among the results.
pub type Carried = (String, Option<usize>, usize);

/// `@collect`: `%g.NAME` ← `%g.NAME` + `%factor` · `%d.NAME` for each group. The sums are to be carried.
pub fn collect(groups: &[Group]) -> (Module, Vec<Carried>) {
    let mut module = Module { name: "collect".into(), ..Module::default() };
    let mut b = FuncBuilder::new(&module, "collect");
    let factor = b.param("factor", TensorType::new(DType::F32, []));
    let (mut results, mut carried) = (Vec::new(), Vec::new());
    for (at, group) in groups.iter().enumerate() {
        let ty = TensorType::new(DType::F32, [group.elements]);
        let [sum, part] =
            ["g", "d"].map(|kind| b.param(&format!("{kind}.{}", group.name), ty.clone()));
        let part = b.mul("part", part, factor);
        results.push(b.add(&format!("g2.{}", group.name), sum, part));
        carried.push((format!("g.{}", group.name), Some(1 + 2 * at), at));
    }
    let func = b.finish(&results);
    module.add(func);
    (module, carried)
}

/// `@begin`: `%g.NAME` ← `%factor` · `%d.NAME`, what [`collect`] does where nothing was summed up before.
pub fn begin(groups: &[Group]) -> (Module, Vec<Carried>) {
    let mut module = Module { name: "begin".into(), ..Module::default() };
    let mut b = FuncBuilder::new(&module, "begin");
    let factor = b.param("factor", TensorType::new(DType::F32, []));
    let (mut results, mut carried) = (Vec::new(), Vec::new());
    for (at, group) in groups.iter().enumerate() {
        let ty = TensorType::new(DType::F32, [group.elements]);
        let part = b.param(&format!("d.{}", group.name), ty);
        results.push(b.mul(&format!("g2.{}", group.name), part, factor));
        carried.push((format!("g.{}", group.name), None, at));
    }
    let func = b.finish(&results);
    module.add(func);
    (module, carried)
}

/// `@update` of the parameters of `groups`.
///
/// Parameters of the function are, for each, `%p.NAME`, `%g.NAME` (its gradient), `%m.NAME` and `%v.NAME`
/// (mean and mean square of its gradients), and with an average `%a.NAME`; then the [`COEFFICIENTS`].
/// The results `%p2.NAME`, `%m2.NAME`, `%v2.NAME` and `%a2.NAME` are to be carried; `%norm` is the norm of
/// all gradients. All are f32. For each element: g ← g · min(1, clip / (norm + 1e-6)); p ← decay · p;
/// m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; p ← p − rate · (m · correction₁) / (√(v · correction₂) + ε);
/// a ← average · a + (1 − average) · p. Groups that do not decay are not multiplied.
pub fn adamw(groups: &[Group], extras: Extras) -> (Module, Vec<Carried>) {
    let mut module = Module { name: "adamw".into(), ..Module::default() };
    let mut b = FuncBuilder::new(&module, "update");
    let kinds = if extras.average { &["p", "g", "m", "v", "a"][..] } else { &["p", "g", "m", "v"] };
    let given: Vec<Vec<ValueId>> = groups
        .iter()
        .map(|group| {
            let ty = TensorType::new(DType::F32, [group.elements]);
            kinds
                .iter()
                .map(|kind| b.param(&format!("{kind}.{}", group.name), ty.clone()))
                .collect()
        })
        .collect();
    let number = TensorType::new(DType::F32, []);
    let [decay, beta1, beta2, rate, first, second, epsilon, clip, average] =
        COEFFICIENTS.map(|name| b.param(name, number.clone()));
    let one = b.scalar("one", DType::F32, 1.0);
    let [rest1, rest2, rest] =
        [beta1, beta2, average].map(|beta| b.binary("rest", BinaryFn::Sub, one, beta));
    let norm = norm(&mut b, given.iter().map(|group| group[1]));
    let scale = {
        let small = b.scalar("small", DType::F32, 1e-6);
        let norm = b.add("guarded", norm, small);
        let scale = b.binary("scale", BinaryFn::Div, clip, norm);
        b.binary("shrink", BinaryFn::Min, scale, one)
    };
    let mut results = Vec::new();
    for (group, given) in groups.iter().zip(&given) {
        let name = |kind: &str| format!("{kind}.{}", group.name);
        let [p, g, m, v] = [given[0], given[1], given[2], given[3]];
        let g = if extras.clip { b.mul("shrunk", g, scale) } else { g };
        let (old, new) = (b.mul("old", m, beta1), b.mul("new", g, rest1));
        let m = b.add(&name("m2"), old, new);
        let square = b.mul("square", g, g);
        let (old, new) = (b.mul("old", v, beta2), b.mul("new", square, rest2));
        let v = b.add(&name("v2"), old, new);
        let mean = b.mul("mean", m, first);
        let spread = b.mul("spread", v, second);
        let spread = b.unary("root", UnaryFn::Sqrt, spread);
        let spread = b.add("divisor", spread, epsilon);
        let step = b.binary("step", BinaryFn::Div, mean, spread);
        let step = b.mul("step", step, rate);
        let p = if group.decays { b.mul("decayed", p, decay) } else { p };
        let p = b.binary(&name("p2"), BinaryFn::Sub, p, step);
        results.extend([p, m, v]);
        if extras.average {
            let (old, new) = (b.mul("old", given[4], average), b.mul("new", p, rest));
            results.push(b.add(&name("a2"), old, new));
        }
    }
    // Every parameter but the gradient is carried.
    let kept: Vec<(usize, &str)> =
        kinds.iter().copied().enumerate().filter(|(_, kind)| *kind != "g").collect();
    let carried = groups.iter().enumerate().flat_map(|(at, group)| {
        let (kept, kinds) = (kept.clone(), kinds.len());
        let spec = move |(slot, (input, kind)): (usize, (usize, &str))| {
            let name = format!("{kind}.{}", group.name);
            (name, Some(kinds * at + input), (kinds - 1) * at + slot)
        };
        kept.into_iter().enumerate().map(spec)
    });
    let carried = carried.collect();
    results.push(norm);
    let func = b.finish(&results);
    module.add(func);
    (module, carried)
}

/// The norm of several vectors together.
fn norm(b: &mut FuncBuilder<'_>, vectors: impl Iterator<Item = ValueId>) -> ValueId {
    let sums: Vec<ValueId> = vectors
        .map(|vector| {
            let square = b.mul("square", vector, vector);
            b.reduce("sum", ReduceFn::Sum, square, &[0], false)
        })
        .collect();
    let total = sums.into_iter().reduce(|a, s| b.add("total", a, s)).expect("there is a group");
    b.unary("norm", UnaryFn::Sqrt, total)
}

/// The numbers of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers {
    /// Learning rate of this update.
    pub rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// β₁ and β₂.
    pub betas: [f64; 2],
    /// ε.
    pub epsilon: f64,
    /// Largest norm; read only where gradients are scaled down.
    pub clip: f64,
    /// Decay of the average; read only where there is one.
    pub average: f64,
}

impl Numbers {
    /// The coefficients of update `step` (from 1), in the order of [`COEFFICIENTS`].
    pub fn coefficients(&self, step: u64) -> [f64; 9] {
        let [beta1, beta2] = self.betas;
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(step as f64));
        [
            1.0 - self.rate * self.weight_decay,
            beta1,
            beta2,
            self.rate,
            correction(beta1),
            correction(beta2),
            self.epsilon,
            self.clip,
            self.average,
        ]
    }
}
