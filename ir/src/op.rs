//! The closed set of level-1 operations: one table with the name of each, how many operands it has,
//! its class and its attributes. What makes the type of it, and attributes to be read and written, is
//! in `table.rs`. Rules live in files per concern (`infer`, `decompose`, `eval`), each an exhaustive
//! match, so a new op is a list of compile errors to work through.

mod table;

pub(crate) use table::Attribute;

use crate::named;
use smallvec::SmallVec;
use table::ops;

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
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub enum ReduceFn {
        /// Sum, accumulated in f32 or wider
        #[default]
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

/// Any number of operands.
const ANY: usize = usize::MAX;

ops! {
    /// One operation. Operand and result rules are in [`mod@crate::infer`] and `docs/ir.md`.
    #[derive(Clone, Debug, PartialEq)]
    pub enum Op {
        // ---- data
        /// A tensor of the weight manifest, by path relative to the function's scope.
        Weight ["weight", (0, 0), Primitive] {
            /// Dotted path; `{name}` segments stand for index parameters.
            path: String,
        },
        /// A literal: one value for every element, or the elements in row-major order.
        Const ["const", (0, 0), Primitive] {
            /// One value, or one per element; rounded to the result type.
            values: Vec<f64>,
        },
        /// 0, 1, 2, … along `axis`.
        Iota ["iota", (0, 0), Primitive] {
            /// The axis that counts.
            axis: usize,
        },
        /// Conversion to the result's element type.
        Cast ["cast", (1, 1), Primitive],

        // ---- views and movement
        /// Same elements in row-major order, another shape.
        Reshape ["reshape", (1, 1), Primitive],
        /// Result axis `i` is operand axis `perm[i]`.
        Permute ["permute", (1, 1), Primitive] {
            /// A permutation of the axes.
            perm: Axes,
        },
        /// Axes of size 1 repeated up to the result's shape.
        Broadcast ["broadcast", (1, 1), Primitive],
        /// `len` positions from `start` along `axis`.
        Slice ["slice", (1, 1), Primitive] {
            /// The axis.
            axis: usize,
            /// First position.
            start: usize,
            /// Number of positions.
            len: usize,
        },
        /// One position of `axis`, which disappears.
        Index ["index", (1, 1), Primitive] {
            /// The axis.
            axis: usize,
            /// The position.
            at: usize,
        },
        /// `lo` zeros before and `hi` after along `axis`.
        Pad ["pad", (1, 1), Primitive] {
            /// The axis.
            axis: usize,
            /// Zeros in front.
            lo: usize,
            /// Zeros behind.
            hi: usize,
        },
        /// Operands one after the other along `axis`.
        Concat ["concat", (1, ANY), Primitive] {
            /// The axis.
            axis: usize,
        },
        /// Rows of a table `[V, …]` picked by `i32` indices.
        Gather ["gather", (2, 2), Primitive],

        // ---- arithmetic, with the functions below
        /// `condition ? a : b`
        Select ["select", (3, 3), Primitive],
        /// Reduction over `axes`, which disappear unless `keep`.
        Reduce [f.name(), (1, 1), Primitive] {
            /// What is computed.
            f: ReduceFn,
            /// The axes, ascending.
            axes: Axes,
            /// Whether reduced axes stay with size 1.
            keep: bool,
        },
        /// `[B…, M, K] · [B…, N, K]ᵀ → [B…, M, N]`, accumulated in f32 or wider.
        Dot ["dot", (2, 2), Anchor] {
            /// Whether a side lies the other way round: `[B…, K, M]`, `[B…, K, N]`.
            transposed: [bool; 2],
        },

        // ---- composites
        /// `x · Wᵀ + b`
        Linear ["linear", (2, 3), Anchor],
        /// Multi-head softmax attention.
        Attention ["attention", (3, 4), Anchor] {
            /// Number of heads; channels are head-major.
            heads: usize,
            /// Factor on the scores before the softmax.
            scale: f64,
            /// Whether the natural logarithm of each softmax's sum is a second result.
            lse: bool,
            /// How many times the last key counts, as if so many keys and values were equal to it.
            last: usize,
        },
        /// Cotangents of queries, keys, values and, with one, the bias of an attention.
        AttentionVjp ["attention_vjp", (6 + usize::from(*bias), 6 + usize::from(*bias)), Anchor] {
            /// Number of heads of the attention.
            heads: usize,
            /// Its factor on the scores.
            scale: f64,
            /// Whether it has a bias.
            bias: bool,
            /// How many times its last key counts.
            last: usize,
        },
        /// Layer norm over the last axis, optionally affine.
        LayerNorm ["layer_norm", (1, 3), Composite] {
            /// Added to the variance.
            eps: f64,
        },
        /// Root-mean-square norm over the last axis, with a gain.
        RmsNorm ["rms_norm", (2, 2), Composite] {
            /// Added to the mean square, or the smallest norm when `clamp`.
            eps: f64,
            /// Divide by `max(‖x‖₂, eps)/√D` (the VAE's form) instead of `√(mean x² + eps)`.
            clamp: bool,
        },
        /// Rotation of neighbouring channel pairs by a table.
        Rope ["rope", (2, 2), Composite] {
            /// Number of heads that share the table.
            heads: usize,
        },
        /// Rotary table of a frames × rows × columns grid.
        RopeTable ["rope_table", (1, 1), Composite] {
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
        Gelu ["gelu", (1, 1), Composite],
        /// GELU by the error function: `½ x (1 + erf(x/√2))`.
        GeluErf ["gelu", (1, 1), Composite],
        /// x · sigmoid(x)
        Silu ["silu", (1, 1), Composite],
        /// `n · (1 + scale[seg]) + shift[seg]`
        Modulate ["modulate", (4, 4), Composite],
        /// `x + o · gate[seg]`
        GateAdd ["gate_add", (4, 4), Composite],
        /// Sums of the rows of each segment.
        SegmentSum ["segment_sum", (2, 2), Anchor] {
            /// Number of segments.
            segments: usize,
        },
        /// Convolution over `[T, H, W, C]`.
        Conv ["conv", (2, 3), Anchor] {
            /// Stride of time, rows, columns.
            stride: [usize; 3],
            /// Zeros in front of and behind time, rows, columns.
            pad: [[usize; 2]; 3],
        },
        /// Each position repeated `factors[axis]` times along each axis.
        Upsample ["upsample", (1, 1), Composite] {
            /// One factor an axis.
            factors: Axes,
        },
        /// Sinusoid of timesteps, cosines first.
        TimestepEmbedding ["timestep_embedding", (1, 1), Composite] {
            /// Channels of the result.
            dim: usize,
        },
        /// Bucket of a relative position, bidirectional (umT5).
        RelativeBucket ["relative_bucket", (1, 1), Composite] {
            /// Number of buckets.
            buckets: usize,
            /// Distance from which all share the last bucket.
            max_distance: usize,
        },
        /// `[C, F, H, W] → [tokens, C·patch]`, channel slowest.
        Patchify ["patchify", (1, 1), Composite] {
            /// Patch sizes in frames, rows, columns.
            patch: [usize; 3],
        },
        /// `[tokens, patch·C] → [C, F, H, W]`, channel fastest.
        Unpatchify ["unpatchify", (1, 1), Composite] {
            /// Patch sizes in frames, rows, columns.
            patch: [usize; 3],
            /// Patches in frames, rows, columns.
            grid: [usize; 3],
        },

        // ---- structure
        /// Call of a function of the module.
        Call ["call", (0, ANY), Structure] {
            /// Its name.
            func: String,
            /// Arguments for its index parameters.
            index: Vec<IndexArg>,
        },
        /// Counted loop; see [`crate::graph::Func`] for its operands and body.
        Repeat ["repeat", (0, ANY), Structure] {
            /// Name of the index inside the body.
            index: String,
            /// First index.
            lo: u32,
            /// One past the last index.
            hi: u32,
            /// How many operands are carries; the others are stacks read one slot an iteration.
            carries: usize,
        },
        /// End of a function body.
        Return ["return", (0, ANY), Structure],
        /// End of a repeat body: next carries, then values to stack.
        Yield ["yield", (0, ANY), Structure],
    }
    families {
        /// Elementwise function.
        Unary(UnaryFn) (1, 1),
        /// Elementwise function of two.
        Binary(BinaryFn) (2, 2),
        /// Elementwise comparison.
        Compare(CompareFn) (2, 2),
    }
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
            Self::Attention { heads, scale, last, .. } => {
                Self::Attention { heads, scale, lse: false, last }
            }
            _ => self.clone(),
        }
    }
}
