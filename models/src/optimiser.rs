//! AdamW and Muon as a graph (anyid.md §4.3): gradients collected, and one update of all parameters, in f32.
//!
//! Parameters lie flat, many tensors in one vector, because a plan of a few long steps is made and run
//! faster than one of hundreds; for Muon the matrices of one shape. Moments and parameters are results of
//! their own types, so that they can be carried as states and are then written over what they were.

mod muon;

use anyid_ir::{BinaryFn, DType, FuncBuilder, Module, ReduceFn, TensorType, UnaryFn, ValueId};
pub use muon::Matrices;

/// Coefficients that all vectors share, each an input `f32[]` of `@update`.
const SHARED: [&str; 7] = [
    "beta1",       // of the mean
    "beta2",       // of the mean square
    "correction1", // 1 / (1 − β₁ᵏ) in update k = 1, 2, …
    "correction2", // 1 / (1 − β₂ᵏ)
    "epsilon",     // added to the root
    "clip",        // largest norm of the gradient
    "average",     // of the average of the parameters
];

/// Coefficients of a set of [`Rates`]; an input has the number of the set behind its name.
const OWN: [&str; 3] = [
    "decay",    // 1 − learning rate · weight decay
    "rate",     // learning rate
    "momentum", // of the gradients, for Muon
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
    /// Which set of [`Rates`] is for it.
    pub rates: usize,
    /// What the vector is for Muon; AdamW has it without that.
    pub matrices: Option<Matrices>,
}

/// What an update does besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras {
    /// Gradients are scaled down to the norm `%clip`.
    pub clip: bool,
    /// An average of the parameters is kept.
    pub average: bool,
}

impl Group {
    /// What is kept of it from one update to the next: `p` (its values), `m` (mean or momentum of its
    /// gradients), `v` (their mean square, for AdamW), and `a` (the average of its values).
    pub fn kept(&self, extras: Extras) -> impl Iterator<Item = &'static str> {
        let has = move |kind: &str| match kind {
            "v" => self.matrices.is_none(),
            "a" => extras.average,
            _ => true,
        };
        ["p", "m", "v", "a"].into_iter().filter(move |kind| has(kind))
    }

    fn ty(&self) -> TensorType {
        TensorType::new(DType::F32, [self.elements])
    }
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
        let [sum, part] =
            ["g", "d"].map(|kind| b.param(&format!("{kind}.{}", group.name), group.ty()));
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
        let part = b.param(&format!("d.{}", group.name), group.ty());
        results.push(b.mul(&format!("g2.{}", group.name), part, factor));
        carried.push((format!("g.{}", group.name), None, at));
    }
    let func = b.finish(&results);
    module.add(func);
    (module, carried)
}

/// The inputs of `@update` that all vectors share, and what is made of them.
struct Shared {
    beta1: ValueId,
    beta2: ValueId,
    first: ValueId,
    second: ValueId,
    epsilon: ValueId,
    average: ValueId,
    /// 1 − β₁, 1 − β₂, 1 − average.
    rest: [ValueId; 3],
    /// What gradients are scaled by.
    shrink: Option<ValueId>,
}

/// The inputs of a set of [`Rates`].
#[derive(Clone, Copy)]
struct Own {
    decay: ValueId,
    rate: ValueId,
    momentum: ValueId,
}

/// The inputs of a vector.
struct Given {
    g: ValueId,
    p: ValueId,
    m: ValueId,
    v: Option<ValueId>,
    a: Option<ValueId>,
}

/// `@update` of the parameters of `groups`, with as many sets of [`Rates`] as they name.
///
/// Parameters of the function are, for each, `%g.NAME` (its gradient) and [what is kept](Group::kept):
/// `%p.NAME`, `%m.NAME`, `%v.NAME`, `%a.NAME`; then the coefficients. The results `%p2.NAME`, `%m2.NAME`,
/// `%v2.NAME` and `%a2.NAME` are to be carried; `%norm` is the norm of all gradients. All are f32.
/// For each element: g ← g · min(1, clip / (norm + 1e-6)); p ← decay · p; by AdamW
/// m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; p ← p − rate · (m · correction₁) / (√(v · correction₂) + ε);
/// by Muon m ← momentum · m + g; p ← p − rate · O(momentum · m + g), where O is said at [`Matrices`];
/// a ← average · a + (1 − average) · p. Groups that do not decay are not multiplied.
pub fn update(groups: &[Group], extras: Extras) -> (Module, Vec<Carried>) {
    let mut module = Module { name: "update".into(), ..Module::default() };
    let mut b = FuncBuilder::new(&module, "update");
    let (mut given, mut carried, mut inputs, mut outputs) = (Vec::new(), Vec::new(), 0, 0);
    for group in groups {
        let named = |kind: &str| format!("{kind}.{}", group.name);
        let g = b.param(&named("g"), group.ty());
        let [mut p, mut m, mut v, mut a] = [None; 4];
        for (at, kind) in group.kept(extras).enumerate() {
            let value = b.param(&named(kind), group.ty());
            let place = match kind {
                "p" => &mut p,
                "m" => &mut m,
                "v" => &mut v,
                _ => &mut a,
            };
            *place = Some(value);
            carried.push((named(kind), Some(inputs + 1 + at), outputs + at));
        }
        let count = group.kept(extras).count();
        (inputs, outputs) = (inputs + 1 + count, outputs + count);
        let always = "values and a mean are kept of every vector";
        given.push(Given { g, p: p.expect(always), m: m.expect(always), v, a });
    }
    let number = TensorType::new(DType::F32, []);
    let [beta1, beta2, first, second, epsilon, clip, average] =
        SHARED.map(|name| b.param(name, number.clone()));
    let sets = groups.iter().map(|group| group.rates + 1).max().unwrap_or(0);
    let own: Vec<Own> = (0..sets)
        .map(|set| OWN.map(|name| b.param(&format!("{name}.{set}"), number.clone())))
        .map(|[decay, rate, momentum]| Own { decay, rate, momentum })
        .collect();
    let one = b.scalar("one", DType::F32, 1.0);
    let rest = [beta1, beta2, average].map(|beta| b.binary("rest", BinaryFn::Sub, one, beta));
    let norm = norm(&mut b, given.iter().map(|given| given.g));
    let shrink = extras.clip.then(|| {
        let small = b.scalar("small", DType::F32, 1e-6);
        let norm = b.add("guarded", norm, small);
        let scale = b.binary("scale", BinaryFn::Div, clip, norm);
        b.binary("shrink", BinaryFn::Min, scale, one)
    });
    let shared = Shared { beta1, beta2, first, second, epsilon, average, rest, shrink };
    let mut results = Vec::new();
    for (group, given) in groups.iter().zip(&given) {
        shared.updated(&mut b, group, given, own[group.rates], &mut results);
    }
    results.push(norm);
    let func = b.finish(&results);
    module.add(func);
    (module, carried)
}

impl Shared {
    /// Adds what is kept of a vector behind an update to `results`.
    fn updated(
        &self,
        b: &mut FuncBuilder<'_>,
        group: &Group,
        given: &Given,
        own: Own,
        results: &mut Vec<ValueId>,
    ) {
        let name = |kind: &str| format!("{kind}.{}", group.name);
        let g = self.shrink.map_or(given.g, |scale| b.mul("shrunk", given.g, scale));
        let [rest1, rest2, rest] = self.rest;
        let (step, means) = match (&group.matrices, given.v) {
            (None, Some(v)) => {
                let (old, new) = (b.mul("old", given.m, self.beta1), b.mul("new", g, rest1));
                let m = b.add(&name("m2"), old, new);
                let square = b.mul("square", g, g);
                let (old, new) = (b.mul("old", v, self.beta2), b.mul("new", square, rest2));
                let v = b.add(&name("v2"), old, new);
                let mean = b.mul("mean", m, self.first);
                let spread = b.mul("spread", v, self.second);
                let spread = b.unary("root", UnaryFn::Sqrt, spread);
                let spread = b.add("divisor", spread, self.epsilon);
                (b.binary("step", BinaryFn::Div, mean, spread), vec![m, v])
            }
            (Some(matrices), _) => {
                let old = b.mul("old", given.m, own.momentum);
                let m = b.add(&name("m2"), old, g);
                let ahead = b.mul("ahead", m, own.momentum);
                let ahead = b.add("ahead", ahead, g);
                (matrices.orthogonal(b, ahead), vec![m])
            }
            (None, None) => unreachable!("AdamW keeps a mean square"),
        };
        let step = b.mul("step", step, own.rate);
        let p = if group.decays { b.mul("decayed", given.p, own.decay) } else { given.p };
        let p = b.binary(&name("p2"), BinaryFn::Sub, p, step);
        results.push(p);
        results.extend(means);
        if let Some(a) = given.a {
            let (old, new) = (b.mul("old", a, self.average), b.mul("new", p, rest));
            results.push(b.add(&name("a2"), old, new));
        }
    }
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

/// What the groups of parameters have of their own in an update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Learning rate of this update.
    pub rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Of the gradients; read only by Muon.
    pub momentum: f64,
}

/// The numbers of the optimiser.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbers {
    /// The sets that [`Group::rates`] counts.
    pub rates: Vec<Rates>,
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
    /// The coefficients of update `step` (from 1), by the names of inputs.
    pub fn coefficients(&self, step: u64) -> Vec<(String, f64)> {
        let [beta1, beta2] = self.betas;
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf(step as f64));
        let (first, second) = (correction(beta1), correction(beta2));
        let shared = [beta1, beta2, first, second, self.epsilon, self.clip, self.average];
        let shared = SHARED.iter().map(|name| (*name).to_owned()).zip(shared);
        let own = self.rates.iter().enumerate().flat_map(|(set, own)| {
            let values = [1.0 - own.rate * own.weight_decay, own.rate, own.momentum];
            OWN.iter().map(move |name| format!("{name}.{set}")).zip(values)
        });
        shared.chain(own).collect()
    }
}
