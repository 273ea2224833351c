//! The op table: small modules that together use every op of the closed set, on every element type
//! the CPU backend has a kernel for, at awkward shapes. Tests run it on every device, and the check of a
//! GPU in the program.
//!
//! A case says what to build and how far a backend may be from the interpreter; it does not run
//! anything. Operands are random but fixed: they depend on the case's name alone. Shapes with an
//! axis of size 0 are no cases, because the verifier refuses them.

mod anchors;
mod arithmetic;
mod movement;
mod rows;
mod structure;

use super::Stored;
use anyid_ir::{DType, FuncBuilder, Module, Op, Tensor, TensorType, ValueId};

/// Types of elementwise arithmetic on the CPU.
pub const FLOATS: &[DType] = &[DType::F32, DType::Bf16, DType::F16, DType::F64];
/// Types of the row kernels.
pub const ROWS: &[DType] = &[DType::F32, DType::Bf16, DType::F16];
/// Types of products, attention and convolution.
pub const PRODUCTS: &[DType] = &[DType::F32, DType::Bf16];
/// All numbers.
pub const NUMBERS: &[DType] =
    &[DType::F32, DType::Bf16, DType::F16, DType::F64, DType::I32, DType::U8];

/// One case of the table.
pub struct OpCase {
    /// What it shows, beginning with the op's name.
    pub name: String,
    /// Makes the module for one of `dtypes`.
    pub build: Box<dyn Fn(DType) -> Built>,
    /// Element types to build it for.
    pub dtypes: Vec<DType>,
    /// How far a backend may be from the interpreter.
    pub tolerance: Tolerance,
}

/// A module with everything to run its function `f` on.
pub struct Built {
    /// The module; its function is `f`.
    pub module: Module,
    /// Parameters by name.
    pub inputs: Vec<(String, Tensor)>,
    /// Weights as a checkpoint stores them.
    pub weights: Stored,
}

/// Largest error over the reference's largest magnitude, by the output's element type.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    f32: f64,
    half: f64,
    f64: f64,
}

impl Tolerance {
    /// Values that are moved or counted and never rounded.
    pub const EXACT: Self = Self { f32: 0.0, half: 0.0, f64: 0.0 };

    /// `f32` for singles; about one unit in the last place for the half types.
    pub fn singles(f32: f64) -> Self {
        Self { f32, half: 8e-3, f64: 1e-14 }
    }

    /// The bound for an output of type `dtype`.
    pub fn of(self, dtype: DType) -> f64 {
        match dtype {
            DType::F32 => self.f32,
            DType::Bf16 => self.half,
            DType::F16 => self.half / 8.0,
            DType::F64 => self.f64,
            DType::I32 | DType::U8 | DType::Bool => 0.0,
        }
    }
}

/// How the elements of an operand are chosen.
#[derive(Clone, Debug)]
pub(crate) enum Fill {
    /// Uniform between the bounds.
    Within(f64, f64),
    /// Whole numbers from the first up to the second, exclusive.
    Whole(i64, i64),
    /// Ordinary numbers mixed with zeros, infinities, NaN and numbers at the bounds of their type.
    Special,
    /// These, repeated.
    List(Vec<f64>),
}

/// Where an operand comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Source {
    Parameter,
    /// A weight stored in this type, or in its declared one.
    Weight(Option<DType>),
    /// The operand of that number once more.
    Again(usize),
}

/// One operand of a case with a single op.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    shape: Vec<usize>,
    /// `None`: the type the case is built for.
    dtype: Option<DType>,
    fill: Fill,
    source: Source,
}

/// A parameter of the case's type.
pub(crate) fn value(shape: &[usize]) -> Given {
    let fill = Fill::Within(-2.0, 2.0);
    Given { shape: shape.to_vec(), dtype: None, fill, source: Source::Parameter }
}

/// A weight of the case's type, stored as it is declared.
pub(crate) fn weight(shape: &[usize]) -> Given {
    Given { source: Source::Weight(None), ..value(shape) }
}

/// Operand `at` once more.
pub(crate) fn again(at: usize) -> Given {
    Given { source: Source::Again(at), ..value(&[]) }
}

/// Row indices below `rows`.
pub(crate) fn indices(shape: &[usize], rows: usize) -> Given {
    value(shape).of(DType::I32).filled(Fill::Whole(0, rows as i64))
}

impl Given {
    /// With a fixed element type.
    pub(crate) fn of(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// A weight stored in another type than its declared one.
    pub(crate) fn stored(mut self, dtype: DType) -> Self {
        self.source = Source::Weight(Some(dtype));
        self
    }

    /// With other elements.
    pub(crate) fn filled(mut self, fill: Fill) -> Self {
        self.fill = fill;
        self
    }

    /// As a parameter or as a weight.
    pub(crate) fn given_as(mut self, weight: bool) -> Self {
        self.source = if weight { Source::Weight(None) } else { Source::Parameter };
        self
    }
}

/// The result of a case with a single op, where operands leave it open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gives {
    dtype: Option<DType>,
    shape: Vec<usize>,
}

impl Gives {
    /// Size of an axis.
    pub(crate) fn size(&self, axis: usize) -> usize {
        self.shape[axis]
    }
}

/// Result of a fixed element type, or of the case's; the shape counts where operands leave it open.
pub(crate) fn gives(dtype: Option<DType>, shape: &[usize]) -> Gives {
    Gives { dtype, shape: shape.to_vec() }
}

/// A case of one op on `operands`. `result` says what the operands leave open.
pub(crate) fn single(
    name: impl Into<String>,
    dtypes: &[DType],
    tolerance: Tolerance,
    op: Op,
    operands: Vec<Given>,
    result: Option<Gives>,
) -> OpCase {
    let name = format!("{} {}", op.name(), name.into());
    let label = name.clone();
    let build = move |dtype: DType| {
        let mut inputs = Vec::new();
        let mut weights = Stored::default();
        let mut module = Module { name: "case".into(), ..Module::default() };
        module.weights.name = "case".into();
        let types: Vec<TensorType> = operands
            .iter()
            .map(|given| TensorType::new(given.dtype.unwrap_or(dtype), given.shape.clone()))
            .collect();
        for (at, (given, ty)) in operands.iter().zip(&types).enumerate() {
            let seed = seed_of(&format!("{label} {at}"));
            match given.source {
                Source::Parameter => {
                    inputs.push((format!("x{at}"), tensor(ty.clone(), &given.fill, seed)));
                }
                Source::Weight(stored) => {
                    let name = format!("w{at}");
                    module.weights.add(&name, ty.clone()).expect("names of weights differ");
                    let stored = ty.with_dtype(stored.unwrap_or(ty.dtype));
                    weights.insert(name, tensor(stored, &given.fill, seed));
                }
                Source::Again(_) => {}
            }
        }
        let mut f = FuncBuilder::new(&module, "f");
        let mut values: Vec<ValueId> = Vec::new();
        for (at, (given, ty)) in operands.iter().zip(&types).enumerate() {
            values.push(match given.source {
                Source::Parameter => f.param(&format!("x{at}"), ty.clone()),
                Source::Weight(_) => f.weight(&format!("w{at}")),
                Source::Again(earlier) => values[earlier],
            });
        }
        let declared = result
            .as_ref()
            .map(|gives| TensorType::new(gives.dtype.unwrap_or(dtype), gives.shape.clone()));
        let made = f.op_of("y", op.clone(), &values, declared.as_slice());
        let func = f.finish(&made);
        module.add(func);
        Built { module, inputs, weights }
    };
    OpCase { name, build: Box::new(build), dtypes: dtypes.to_vec(), tolerance }
}

/// A number that depends on the text alone.
pub fn seed_of(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3))
}

/// A generator of reproducible numbers (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.bits() % count as u64) as usize
    }
}

/// A tensor of random elements between −1 and 1.
pub fn noise(ty: TensorType, seed: u64) -> Tensor {
    tensor(ty, &Fill::Within(-1.0, 1.0), seed)
}

pub(crate) fn tensor(ty: TensorType, fill: &Fill, seed: u64) -> Tensor {
    let mut random = Random(seed);
    let special = specials(ty.dtype);
    let values: Vec<f64> = (0..ty.elements())
        .map(|at| match fill {
            Fill::Within(low, high) => low + (high - low) * random.unit(),
            Fill::Whole(low, high) => (low + random.below((high - low) as usize) as i64) as f64,
            Fill::Special if random.below(2) == 0 => special[random.below(special.len())],
            Fill::Special => 6.0 * random.unit() - 3.0,
            Fill::List(values) => values[at % values.len()],
        })
        .collect();
    Tensor::from_f64s(ty, &values).expect("one value an element")
}

fn specials(dtype: DType) -> Vec<f64> {
    let mut values = vec![0.0, 1.0];
    match dtype {
        DType::I32 => values.extend([-1.0, 7.0, f64::from(i32::MAX), f64::from(i32::MIN)]),
        DType::U8 => values.extend([2.0, 3.0, 254.0, 255.0]),
        DType::Bool => {}
        DType::F32 | DType::Bf16 | DType::F16 | DType::F64 => {
            values.extend([-0.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN]);
            values.extend([100.0, -100.0, 1e4, -1e4]);
        }
    }
    if dtype == DType::F64 {
        // Just beside the middle between two half-type numbers: rounding twice would miss it.
        values
            .extend([1.0 + 2f64.powi(-8) + 2f64.powi(-45), 1.0 + 2f64.powi(-11) + 2f64.powi(-40)]);
        values.extend([1e300, -1e300, 1e-300, 3e9, -3e9, 255.9]);
    }
    values
}

/// Every case.
pub fn cases() -> Vec<OpCase> {
    let mut cases = arithmetic::cases();
    cases.extend(movement::cases());
    cases.extend(anchors::cases());
    cases.extend(rows::cases());
    cases.extend(structure::cases());
    cases
}

/// The name of every op there is.
pub fn closed_set() -> Vec<&'static str> {
    use anyid_ir::{BinaryFn, CompareFn, ReduceFn, UnaryFn};
    let mut names = Vec::new();
    let mut op = following(None);
    while let Some(current) = op {
        match current {
            Op::Unary(_) => names.extend(UnaryFn::ALL.map(UnaryFn::name)),
            Op::Binary(_) => names.extend(BinaryFn::ALL.map(BinaryFn::name)),
            Op::Compare(_) => names.extend(CompareFn::ALL.map(CompareFn::name)),
            Op::Reduce { .. } => names.extend(ReduceFn::ALL.map(ReduceFn::name)),
            _ => names.push(current.name()),
        }
        op = following(Some(&current));
    }
    names
}

/// The op that comes after `op` in the closed set. There is no arm for the rest, so that a new op
/// has to take its place in the chain before this compiles.
fn following(op: Option<&Op>) -> Option<Op> {
    use anyid_ir::{Axes, BinaryFn, CompareFn, ReduceFn, UnaryFn};
    let Some(op) = op else { return Some(Op::Weight { path: String::new() }) };
    let one = [1, 1, 1];
    Some(match op {
        Op::Weight { .. } => Op::Const { values: vec![] },
        Op::Const { .. } => Op::Iota { axis: 0 },
        Op::Iota { .. } => Op::Cast,
        Op::Cast => Op::Reshape,
        Op::Reshape => Op::Permute { perm: Axes::new() },
        Op::Permute { .. } => Op::Broadcast,
        Op::Broadcast => Op::Slice { axis: 0, start: 0, len: 0 },
        Op::Slice { .. } => Op::Index { axis: 0, at: 0 },
        Op::Index { .. } => Op::Pad { axis: 0, lo: 0, hi: 0 },
        Op::Pad { .. } => Op::Concat { axis: 0 },
        Op::Concat { .. } => Op::Gather,
        Op::Gather => Op::Unary(UnaryFn::Neg),
        Op::Unary(_) => Op::Binary(BinaryFn::Add),
        Op::Binary(_) => Op::Select,
        Op::Select => Op::Compare(CompareFn::Eq),
        Op::Compare(_) => Op::Reduce { f: ReduceFn::Sum, axes: Axes::new(), keep: false },
        Op::Reduce { .. } => Op::Dot { transposed: [false; 2] },
        Op::Dot { .. } => Op::Call { func: String::new(), index: vec![] },
        Op::Call { .. } => Op::Repeat { index: String::new(), lo: 0, hi: 0, carries: 0 },
        Op::Repeat { .. } => Op::Yield,
        Op::Yield => Op::Return,
        Op::Return => Op::Linear,
        Op::Linear => Op::Attention { heads: 1, scale: 1.0, lse: false, last: 1 },
        Op::Attention { .. } => Op::AttentionVjp { heads: 1, scale: 1.0, bias: false, last: 1 },
        Op::AttentionVjp { .. } => Op::LayerNorm { eps: 1.0 },
        Op::LayerNorm { .. } => Op::RmsNorm { eps: 1.0, clamp: false },
        Op::RmsNorm { .. } => Op::Rope { heads: 1 },
        Op::Rope { .. } => Op::RopeTable { rows: 1, cols: 1, head_dim: 6, theta: 1.0 },
        Op::RopeTable { .. } => Op::Gelu,
        Op::Gelu | Op::GeluErf => Op::Silu,
        Op::Silu => Op::Modulate,
        Op::Modulate => Op::GateAdd,
        Op::GateAdd => Op::SegmentSum { segments: 1 },
        Op::SegmentSum { .. } => Op::Conv { stride: one, pad: [[0, 0]; 3] },
        Op::Conv { .. } => Op::Upsample { factors: Axes::new() },
        Op::Upsample { .. } => Op::TimestepEmbedding { dim: 2 },
        Op::TimestepEmbedding { .. } => Op::RelativeBucket { buckets: 4, max_distance: 2 },
        Op::RelativeBucket { .. } => Op::Patchify { patch: one },
        Op::Patchify { .. } => Op::Unpatchify { patch: one, grid: one },
        Op::Unpatchify { .. } => return None,
    })
}
