//! A device as the compiler sees it: data that every pass reads, so that none of them knows a device.
//!
//! A [`Target`] says which kernels there are and within which limits, where memory may begin, what is
//! worth fusing or splitting, and, if that is known, how fast the machine is. A new device states what
//! differs from [`Target::default`]. What it refuses is decomposed; [`mod@super::support`] asks the
//! questions.

use super::{Activation, Anchor, FORWARD, Load, Native};
use crate::plan::Alignment;
use crate::types::{DType, TensorType};

/// What the kernels of a device can do and when they pay.
#[derive(Clone, Debug)]
pub struct Target {
    /// Name in reports and plan files, such as `cuda:sm_90`.
    pub name: &'static str,
    /// Composites that it has kernels for; all others are decomposed.
    pub native: &'static [(&'static str, Native)],
    /// Most operands and results of a kernel that is made of several steps.
    pub bindings: usize,
    /// Most axes of a tensor.
    pub axes: usize,
    /// Where buffers may begin.
    pub alignment: Alignment,
    /// Element types of what linear, attention and convolution multiply and give.
    pub products: &'static [DType],
    /// Element types of norms, rotations, modulations and activations.
    pub rows: &'static [DType],
    /// Most linears on one operand that one kernel computes.
    pub linear_parts: usize,
    /// What linear takes.
    pub linear_limits: KernelLimits,
    /// What conv takes.
    pub conv_limits: KernelLimits,
    /// Elements of one head that attention takes.
    pub head_widths: Sizes,
    /// Epilogues of linear.
    pub linear: EpilogueSupport,
    /// Epilogues of conv.
    pub conv: EpilogueSupport,
    /// Epilogues of `dot`, where it multiplies what [`Target::products`] names.
    pub dot: EpilogueSupport,
    /// Loads of conv.
    pub conv_load: LoadSupport,
    /// Rows of a product that take as long as reading its weight; with fewer, more cost nothing.
    pub weight_bound_rows: usize,
    /// Whether its kernels take operands and results that are columns of a wider value, where
    /// [`Kernel::reads_columns`](super::Kernel::reads_columns) and
    /// [`Kernel::writes_columns`](super::Kernel::writes_columns) hold.
    pub columns: bool,
    /// Whether the results of one product of several parts are better columns of one value.
    pub joint_parts: bool,
    /// When row kernels are joined.
    pub row_fusion: RowFusion,
    /// When launches are done in pieces of rows; `None` for never.
    pub row_split: Option<RowSplit>,
    /// What it can do at most, stated for devices that cannot be asked.
    pub machine: Option<Machine>,
}

/// Sizes that a kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// They are multiples of this.
    pub multiple: usize,
    /// None is larger.
    pub most: usize,
}

impl Sizes {
    /// Every size.
    pub const ANY: Self = Self::multiples(1);

    /// All multiples of a number.
    pub const fn multiples(multiple: usize) -> Self {
        Self { multiple, most: usize::MAX }
    }

    /// Whether `size` is among them.
    pub fn hold(self, size: usize) -> bool {
        size.is_multiple_of(self.multiple) && size <= self.most
    }
}

/// What a linear or a convolution has to be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelLimits {
    /// K of linear; input channels of conv.
    pub depth: Sizes,
    /// N of linear; output channels of conv.
    pub width: Sizes,
    /// Whether its kernel must come from the manifest, so that it can be packed when it is loaded.
    pub stored: bool,
}

impl KernelLimits {
    /// All there are.
    pub const ANY: Self = Self { depth: Sizes::ANY, width: Sizes::ANY, stored: false };
}

/// What an anchor's epilogue can take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpilogueSupport {
    /// Functions that can be applied to the sums.
    pub activations: &'static [Activation],
    /// Element types of a residual that can be added.
    pub residual: &'static [DType],
    /// Whether the addend can be gated by an f32 table picked per row.
    pub gate: bool,
    /// Element types the result, and what comes before it, can be rounded to.
    pub results: &'static [DType],
}

impl EpilogueSupport {
    /// Nothing but the op itself.
    pub const NONE: Self = Self { activations: &[], residual: &[], gate: false, results: &[] };

    /// Everything in f32 and bf16.
    pub const FULL: Self = Self {
        activations: &[Activation::Gelu, Activation::Silu],
        residual: &[DType::F32, DType::Bf16],
        gate: true,
        results: &[DType::F32, DType::Bf16],
    };
}

/// Which loads a target's convolutions take, and where that pays. It pays by the kernel's own
/// reckoning of its work, so it is asked: of a load, the conv, and the types of its first operand as
/// it lies and of its kernel, for the reason why it is better done in front. The number of frames must
/// have no influence: a clip in pieces gives the same bits.
pub type LoadSupport = fn(Load, Anchor, &TensorType, &TensorType) -> Result<(), &'static str>;

/// Which row kernels are joined, beyond what is legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowFusion {
    /// Bytes up to which kernels beside each other are merged however far apart they stand.
    pub tiny_bytes: u64,
    /// Steps within which larger kernels beside each other are merged: what they read and write
    /// lives from the first to the last.
    pub near_steps: usize,
    /// Most steps of a kernel. None is more than twenty instructions, and kernels have
    /// [`MOST_INSTRUCTIONS`](super::verify::MOST_INSTRUCTIONS) of them.
    pub most_steps: usize,
}

impl Default for RowFusion {
    /// For caches of a few megabytes.
    fn default() -> Self {
        Self { tiny_bytes: 1 << 20, near_steps: 16, most_steps: 48 }
    }
}

/// When neighbouring launches are done in pieces of rows to need less memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSplit {
    /// Fewest rows of a piece: below, products lose speed.
    pub least_rows: usize,
    /// Pieces begin at multiples of this many rows, and at aligned places.
    pub step: usize,
    /// Longest run of launches.
    pub longest: usize,
    /// The peak has to fall by this many bytes,
    pub least_bytes: u64,
    /// and by at least one part in this many.
    pub least_share: u64,
}

impl Default for RowSplit {
    /// For products in tiles of at most 64 rows on few cores.
    fn default() -> Self {
        let (least_rows, step, longest) = (512, 64, 4);
        Self { least_rows, step, longest, least_bytes: 32 << 20, least_share: 50 }
    }
}

/// What a machine can do at most, for estimates.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Operations a second of products on inputs of an element type, two for a multiply-add.
    pub products: Vec<(DType, f64)>,
    /// Bytes read and written a second.
    pub bytes_per_second: f64,
    /// Seconds from one launch to the next if they did nothing.
    pub launch_seconds: f64,
}

impl Machine {
    /// Operations a second on inputs of type `dtype`: of those named, the slowest, where that is none
    /// of them.
    pub fn rate(&self, dtype: DType) -> f64 {
        let found = self.products.iter().find(|(own, _)| *own == dtype);
        let slowest = || self.products.iter().map(|(_, rate)| *rate).fold(f64::INFINITY, f64::min);
        found.map_or_else(slowest, |(_, rate)| *rate)
    }
}

impl Target {
    /// Support for the epilogue of `anchor` on operands of these types.
    pub fn epilogue(&self, anchor: Anchor, operands: &[&TensorType]) -> &EpilogueSupport {
        let products = |ty: &&TensorType| self.products.contains(&ty.dtype);
        match anchor {
            Anchor::Linear => &self.linear,
            Anchor::Conv { .. } => &self.conv,
            Anchor::Dot { .. } if operands[..2].iter().all(products) => &self.dot,
            Anchor::Dot { .. }
            | Anchor::Attention { .. }
            | Anchor::AttentionVjp { .. }
            | Anchor::SegmentSum { .. } => &EpilogueSupport::NONE,
        }
    }
}

impl Default for Target {
    /// A device with full epilogues in f32 and bf16 on products and convolutions, whose kernels are
    /// packed when they are loaded, and none of derivatives.
    fn default() -> Self {
        Self {
            name: "generic",
            native: FORWARD,
            bindings: 16,
            axes: 64,
            alignment: Alignment::default(),
            products: &[DType::F32, DType::Bf16],
            rows: &[DType::F32, DType::Bf16, DType::F16],
            linear_parts: 3,
            linear_limits: KernelLimits::ANY,
            conv_limits: KernelLimits { stored: true, ..KernelLimits::ANY },
            head_widths: Sizes::ANY,
            linear: EpilogueSupport::FULL,
            conv: EpilogueSupport::FULL,
            dot: EpilogueSupport::NONE,
            conv_load: |_, _, _, _| Err("the target's convolutions read what lies there"),
            weight_bound_rows: 36,
            columns: true,
            joint_parts: false,
            row_fusion: RowFusion::default(),
            row_split: Some(RowSplit::default()),
            machine: None,
        }
    }
}
