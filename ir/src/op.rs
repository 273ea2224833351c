//! The closed set of level-1 operations. Data lives in the variants; rules live in files per
//! concern (`infer`, `decompose`, `eval`), each an exhaustive match, so a new op is a list of
//! compile errors to work through.

use crate::named;
use smallvec::SmallVec;

named! {
    /// Elementwise functions of one operand.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum UnaryFn {
        /// −x
        Neg = "neg",
        /// |x|
        Abs = "abs",
        /// eˣ
        Exp = "exp",
        /// ln x
        Log = "log",
        /// √x
        Sqrt = "sqrt",
        /// 1/√x
        Rsqrt = "rsqrt",
        /// 1/x
        Recip = "recip",
        /// tanh x
        Tanh = "tanh",
        /// sin x
        Sin = "sin",
        /// cos x
        Cos = "cos",
        /// Largest integer not above x
        Floor = "floor",
        /// 2/√π · ∫₀ˣ e^(−t²) dt
        Erf = "erf",
    }
}

named! {
    /// Elementwise functions of two operands, with size-1 broadcasting.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum BinaryFn {
        /// a + b
        Add = "add",
        /// a − b
        Sub = "sub",
        /// a · b
        Mul = "mul",
        /// a / b (integers: towards zero)
        Div = "div",
        /// The larger
        Max = "max",
        /// The smaller
        Min = "min",
    }
}

named! {
    /// Elementwise comparisons, giving `bool`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum CompareFn {
        /// a = b
        Eq = "eq",
        /// a < b
        Lt = "lt",
        /// a ≤ b
        Le = "le",
        /// a > b
        Gt = "gt",
        /// a ≥ b
        Ge = "ge",
    }
}

named! {
    /// Reductions over axes.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum ReduceFn {
        /// Sum, accumulated in f32 or wider
        Sum = "reduce_sum",
        /// Mean, accumulated in f32 or wider
        Mean = "reduce_mean",
        /// Largest element
        Max = "reduce_max",
    }
}

/// Argument for an index parameter of a called function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IndexArg {
    /// The index of an enclosing `repeat`, or an index parameter of the caller.
    Name(String),
    /// A fixed number.
    Int(u32),
}

impl IndexArg {
    /// What it stands for where `bind` says what names do.
    pub fn value(&self, bind: impl FnOnce(&str) -> Option<u32>) -> Option<u32> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Name(name) => bind(name),
        }
    }
}

/// A list of axes.
pub type Axes = SmallVec<[usize; 6]>;

/// One operation. Operand and result rules are in [`mod@crate::infer`] and `docs/ir.md`.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    // ---- data
    /// A tensor of the weight manifest, by path relative to the function's scope.
    Weight {
        /// Dotted path; `{name}` segments stand for index parameters.
        path: String,
    },
    /// A literal: one value for every element, or the elements in row-major order.
    Const {
        /// One value, or one per element; rounded to the result type.
        values: Vec<f64>,
    },
    /// 0, 1, 2, … along `axis`.
    Iota {
        /// The axis that counts.
        axis: usize,
    },
    /// Conversion to the result's element type.
    Cast,

    // ---- views and movement
    /// Same elements in row-major order, another shape.
    Reshape,
    /// Result axis `i` is operand axis `perm[i]`.
    Permute {
        /// A permutation of the axes.
        perm: Axes,
    },
    /// Axes of size 1 repeated up to the result's shape.
    Broadcast,
    /// `len` positions from `start` along `axis`.
    Slice {
        /// The axis.
        axis: usize,
        /// First position.
        start: usize,
        /// Number of positions.
        len: usize,
    },
    /// One position of `axis`, which disappears.
    Index {
        /// The axis.
        axis: usize,
        /// The position.
        at: usize,
    },
    /// `lo` zeros before and `hi` after along `axis`.
    Pad {
        /// The axis.
        axis: usize,
        /// Zeros in front.
        lo: usize,
        /// Zeros behind.
        hi: usize,
    },
    /// Operands one after the other along `axis`.
    Concat {
        /// The axis.
        axis: usize,
    },
    /// Rows of a table `[V, …]` picked by `i32` indices.
    Gather,

    // ---- arithmetic
    /// Elementwise function.
    Unary(UnaryFn),
    /// Elementwise function of two.
    Binary(BinaryFn),
    /// `condition ? a : b`
    Select,
    /// Elementwise comparison.
    Compare(CompareFn),
    /// Reduction over `axes`, which disappear unless `keep`.
    Reduce {
        /// What is computed.
        f: ReduceFn,
        /// The axes, ascending.
        axes: Axes,
        /// Whether reduced axes stay with size 1.
        keep: bool,
    },
    /// `[B…, M, K] · [B…, N, K]ᵀ → [B…, M, N]`, accumulated in f32 or wider.
    Dot {
        /// Whether a side lies the other way round: `[B…, K, M]`, `[B…, K, N]`.
        transposed: [bool; 2],
    },

    // ---- structure
    /// Call of a function of the module.
    Call {
        /// Its name.
        func: String,
        /// Arguments for its index parameters.
        index: Vec<IndexArg>,
    },
    /// Counted loop; see [`crate::graph::Func`] for its operands and body.
    Repeat {
        /// Name of the index inside the body.
        index: String,
        /// First index.
        lo: u32,
        /// One past the last index.
        hi: u32,
        /// How many operands are carries; the others are stacks read one slot an iteration.
        carries: usize,
    },
    /// End of a repeat body: next carries, then values to stack.
    Yield,
    /// End of a function body.
    Return,

    // ---- composites
    /// `x · Wᵀ + b`
    Linear,
    /// Multi-head softmax attention.
    Attention {
        /// Number of heads; channels are head-major.
        heads: usize,
        /// Factor on the scores before the softmax.
        scale: f64,
        /// Whether the natural logarithm of each softmax's sum is a second result.
        lse: bool,
    },
    /// Cotangents of queries, keys, values and, with one, the bias of an attention.
    AttentionVjp {
        /// Number of heads of the attention.
        heads: usize,
        /// Its factor on the scores.
        scale: f64,
        /// Whether it has a bias.
        bias: bool,
    },
    /// Layer norm over the last axis, optionally affine.
    LayerNorm {
        /// Added to the variance.
        eps: f64,
    },
    /// Root-mean-square norm over the last axis, with a gain.
    RmsNorm {
        /// Added to the mean square, or the smallest norm when `clamp`.
        eps: f64,
        /// Divide by `max(‖x‖₂, eps)/√D` (the VAE's form) instead of `√(mean x² + eps)`.
        clamp: bool,
    },
    /// Rotation of neighbouring channel pairs by a table.
    Rope {
        /// Number of heads that share the table.
        heads: usize,
    },
    /// Rotary table of a frames × rows × columns grid.
    RopeTable {
        /// Patch rows of a frame.
        rows: usize,
        /// Patch columns of a frame.
        cols: usize,
        /// Channels of a head.
        head_dim: usize,
        /// Base of the frequencies.
        theta: f64,
    },
    /// GELU, tanh form.
    Gelu,
    /// GELU by the error function: `½ x (1 + erf(x/√2))`.
    GeluErf,
    /// x · sigmoid(x)
    Silu,
    /// `n · (1 + scale[seg]) + shift[seg]`
    Modulate,
    /// `x + o · gate[seg]`
    GateAdd,
    /// Sums of the rows of each segment.
    SegmentSum {
        /// Number of segments.
        segments: usize,
    },
    /// Convolution over `[T, H, W, C]`.
    Conv {
        /// Stride of time, rows, columns.
        stride: [usize; 3],
        /// Zeros in front of and behind time, rows, columns.
        pad: [[usize; 2]; 3],
    },
    /// Each position repeated `factors[axis]` times along each axis.
    Upsample {
        /// One factor an axis.
        factors: Axes,
    },
    /// Sinusoid of timesteps, cosines first.
    TimestepEmbedding {
        /// Channels of the result.
        dim: usize,
    },
    /// Bucket of a relative position, bidirectional (umT5).
    RelativeBucket {
        /// Number of buckets.
        buckets: usize,
        /// Distance from which all share the last bucket.
        max_distance: usize,
    },
    /// `[C, F, H, W] → [tokens, C·patch]`, channel slowest.
    Patchify {
        /// Patch sizes in frames, rows, columns.
        patch: [usize; 3],
    },
    /// `[tokens, patch·C] → [C, F, H, W]`, channel fastest.
    Unpatchify {
        /// Patch sizes in frames, rows, columns.
        patch: [usize; 3],
        /// Patches in frames, rows, columns.
        grid: [usize; 3],
    },
}

/// What an op is to those who look at all ops alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpClass {
    /// Defined by what the interpreter does.
    Primitive,
    /// A heavy kernel that others fuse around; all but `dot` are composites.
    Anchor,
    /// Defined by its decomposition into primitives.
    Composite,
    /// Control.
    Structure,
}

impl Op {
    /// Name, smallest and largest number of operands, and class.
    fn form(&self) -> (&'static str, (usize, usize), OpClass) {
        use OpClass::{Anchor, Composite, Primitive, Structure};
        const ANY: usize = usize::MAX;
        match self {
            Self::Weight { .. } => ("weight", (0, 0), Primitive),
            Self::Const { .. } => ("const", (0, 0), Primitive),
            Self::Iota { .. } => ("iota", (0, 0), Primitive),
            Self::Cast => ("cast", (1, 1), Primitive),
            Self::Reshape => ("reshape", (1, 1), Primitive),
            Self::Permute { .. } => ("permute", (1, 1), Primitive),
            Self::Broadcast => ("broadcast", (1, 1), Primitive),
            Self::Slice { .. } => ("slice", (1, 1), Primitive),
            Self::Index { .. } => ("index", (1, 1), Primitive),
            Self::Pad { .. } => ("pad", (1, 1), Primitive),
            Self::Concat { .. } => ("concat", (1, ANY), Primitive),
            Self::Gather => ("gather", (2, 2), Primitive),
            Self::Unary(f) => (f.name(), (1, 1), Primitive),
            Self::Binary(f) => (f.name(), (2, 2), Primitive),
            Self::Select => ("select", (3, 3), Primitive),
            Self::Compare(f) => (f.name(), (2, 2), Primitive),
            Self::Reduce { f, .. } => (f.name(), (1, 1), Primitive),
            Self::Dot { .. } => ("dot", (2, 2), Anchor),
            Self::Call { .. } => ("call", (0, ANY), Structure),
            Self::Repeat { .. } => ("repeat", (0, ANY), Structure),
            Self::Yield => ("yield", (0, ANY), Structure),
            Self::Return => ("return", (0, ANY), Structure),
            Self::Linear => ("linear", (2, 3), Anchor),
            Self::Attention { .. } => ("attention", (3, 4), Anchor),
            Self::AttentionVjp { bias: false, .. } => ("attention_vjp", (6, 6), Anchor),
            Self::AttentionVjp { bias: true, .. } => ("attention_vjp", (7, 7), Anchor),
            Self::LayerNorm { .. } => ("layer_norm", (1, 3), Composite),
            Self::RmsNorm { .. } => ("rms_norm", (2, 2), Composite),
            Self::Rope { .. } => ("rope", (2, 2), Composite),
            Self::RopeTable { .. } => ("rope_table", (1, 1), Composite),
            Self::Gelu | Self::GeluErf => ("gelu", (1, 1), Composite),
            Self::Silu => ("silu", (1, 1), Composite),
            Self::Modulate => ("modulate", (4, 4), Composite),
            Self::GateAdd => ("gate_add", (4, 4), Composite),
            Self::SegmentSum { .. } => ("segment_sum", (2, 2), Anchor),
            Self::Conv { .. } => ("conv", (2, 3), Anchor),
            Self::Upsample { .. } => ("upsample", (1, 1), Composite),
            Self::TimestepEmbedding { .. } => ("timestep_embedding", (1, 1), Composite),
            Self::RelativeBucket { .. } => ("relative_bucket", (1, 1), Composite),
            Self::Patchify { .. } => ("patchify", (1, 1), Composite),
            Self::Unpatchify { .. } => ("unpatchify", (1, 1), Composite),
        }
    }

    /// Name in IR text.
    pub fn name(&self) -> &'static str {
        self.form().0
    }

    /// Smallest and largest number of operands.
    pub fn arity(&self) -> (usize, usize) {
        self.form().1
    }

    /// The op's class.
    pub fn class(&self) -> OpClass {
        self.form().2
    }

    /// Whether the op is defined by its decomposition into primitives.
    pub fn is_composite(&self) -> bool {
        match self.class() {
            OpClass::Composite => true,
            OpClass::Anchor => !matches!(self, Self::Dot { .. }),
            OpClass::Primitive | OpClass::Structure => false,
        }
    }

    /// Whether it is control: calls, loops and the ends of blocks.
    pub fn is_structure(&self) -> bool {
        self.class() == OpClass::Structure
    }

    /// Number of results; those of structure ops depend on their operands.
    pub fn results(&self) -> usize {
        match self {
            Self::Attention { lse: true, .. } => 2,
            Self::AttentionVjp { bias, .. } => 3 + usize::from(*bias),
            _ => 1,
        }
    }

    /// The op that gives the first result alone, which is the op itself where that is all.
    #[must_use]
    pub fn first_alone(&self) -> Self {
        match *self {
            Self::Attention { heads, scale, .. } => Self::Attention { heads, scale, lse: false },
            _ => self.clone(),
        }
    }
}
