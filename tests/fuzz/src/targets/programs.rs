//! Small programs of every kind to begin with, and running them.

use crate::rng::Rng;
use anyid_ir::plan::{Plan, WeightRef};
use anyid_ir::{DType, Module, Tensor, TensorType};
use anyid_passes::cost::plan_cost;
use anyid_tests::graphs::{Recipe, graph};
use anyid_tests::op_cases::{cases, noise, seed_of};
use anyid_tests::plans::Stored;

/// Words of IR and plan text.
pub const WORDS: [&str; 98] = [
    "f32",
    "bf16",
    "f16",
    "f64",
    "i32",
    "u8",
    "bool",
    "workspace",
    "persistent",
    "input",
    "output",
    "weight",
    "state",
    "buffer",
    "columns",
    "columns 0..64 of 128",
    "memory",
    "kernel",
    "plan",
    "prepare",
    "step",
    "func",
    "module",
    "weights",
    "repeat",
    "call",
    "return",
    "yield",
    "dim",
    "add",
    "sub",
    "mul",
    "div",
    "max",
    "min",
    "neg",
    "abs",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "recip",
    "tanh",
    "sin",
    "cos",
    "floor",
    "gelu",
    "silu",
    "cast",
    "reshape",
    "permute",
    "broadcast",
    "slice",
    "index",
    "pad",
    "concat",
    "gather",
    "select",
    "iota",
    "const",
    "reduce_sum",
    "reduce_mean",
    "reduce_max",
    "dot",
    "linear",
    "attention",
    "conv",
    "layer_norm",
    "rms_norm",
    "rope",
    "rope_table",
    "modulate",
    "gate_add",
    "upsample",
    "patchify",
    "unpatchify",
    "timestep_embedding",
    "relative_bucket",
    "lt",
    "eq",
    "rows",
    "cols",
    "in",
    "out",
    "op",
    "anchor",
    "i",
    "j",
    "a0",
    "a1",
    "y0",
    "y1",
    "v0",
    "v1",
    "fma",
    "round",
    "sum_j",
    "k0",
];

/// One case of so many is a seed.
const STEP: usize = 8;

/// Modules in the patterns of the networks and one for every operation and type.
pub fn modules(random: u64) -> Vec<Module> {
    let mut out: Vec<Module> = (0..random)
        .map(|number| {
            let mut rng = Rng::new(0xa11d, number);
            let choice = |rng: &mut Rng| {
                let bits = rng.bits();
                [bits as u16, (bits >> 16) as u16, (bits >> 32) as u16, (bits >> 48) as u16]
            };
            let sizes = (rng.bits() as u32).to_le_bytes();
            let inner = (0..1 + rng.below(2)).map(|_| choice(&mut rng)).collect();
            let outer = (0..1 + rng.below(4)).map(|_| choice(&mut rng)).collect();
            graph(&Recipe { sizes, inner, outer }).module
        })
        .collect();
    // Some of them, another type each: there are thousands, and seeds are only where to begin.
    for (number, case) in cases().iter().enumerate().step_by(STEP) {
        let dtype = case.dtypes[number / STEP % case.dtypes.len()];
        out.push((case.build)(dtype).module);
    }
    out
}

/// Values for an input or weight: small whole numbers for those that pick rows.
pub fn values(name: &str, ty: &TensorType, seed: u64) -> Tensor {
    let seed = seed_of(name) ^ seed;
    if ty.dtype == DType::I32 || ty.dtype == DType::U8 {
        let mut rng = Rng::new(seed, 0);
        let most = if seed.is_multiple_of(5) { 5 } else { 2 };
        let values: Vec<f64> = (0..ty.elements()).map(|_| rng.below(most) as f64).collect();
        return Tensor::from_f64s(ty.clone(), &values).expect("one value an element");
    }
    noise(ty.clone(), seed)
}

/// Weights of these names; every third is stored in another type than it is wanted in.
pub fn stored<'w>(weights: impl IntoIterator<Item = &'w WeightRef>, seed: u64) -> Stored {
    let mut out = Stored::default();
    for weight in weights {
        let tensor = values(&weight.name, &weight.ty, seed);
        let other = seed_of(&weight.name).is_multiple_of(3) && weight.ty.dtype.is_float();
        let tensor = if other { tensor.cast(DType::F32) } else { tensor };
        out.insert(weight.name.clone(), tensor);
    }
    out
}

/// Whether running a plan takes little time and memory.
pub fn is_small(plan: &Plan) -> bool {
    let buffers = plan.buffers.iter().map(|(_, buffer)| buffer.ty.bytes());
    let largest = buffers.max().unwrap_or(0);
    let weights = plan.weights.iter().map(|w| w.ty.bytes()).fold(0, u64::saturating_add);
    let memory =
        [plan.workspace_bytes, plan.persistent_bytes, plan.state_bytes(), weights, largest];
    let rows = |step: &anyid_ir::plan::Step| match &step.kernel {
        anyid_ir::Kernel::Row(kernel) => {
            let space = kernel.rows.max(1).saturating_mul(kernel.width.max(1));
            space.saturating_mul(kernel.code.len()) as u64
        }
        _ => 0,
    };
    let work = plan.steps.iter().map(rows).fold(plan_cost(plan).flops, u64::saturating_add);
    memory.into_iter().all(|bytes| bytes < 1 << 20) && work < 4_000_000 && plan.steps.len() < 2000
}
