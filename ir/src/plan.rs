//! Level 3: a straight-line plan with every byte accounted for.
//!
//! A plan is what a backend executes: steps in order over buffers that live at fixed offsets of a
//! few arenas. Nothing here allocates or decides; `workspace_bytes` is exactly what a backend must
//! reserve. Buffers are row-major, and dense but for those that are columns of a wider value; several
//! may share memory (views).

use crate::entity::{Arena, entity};
use crate::kernel::Kernel;
use crate::types::TensorType;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt;

/// Every buffer that a step writes begins at a multiple of this many bytes: a power of two from 64,
/// which the vectors of every processor accept, to 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alignment(u64);

impl Alignment {
    /// An alignment of `bytes`, if that is one.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 64 && bytes <= 4096 {
            Some(Self(bytes))
        } else {
            None
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// Whether a buffer may begin at `byte`.
    pub fn holds(self, byte: u64) -> bool {
        byte.is_multiple_of(self.0)
    }

    /// The first place from `byte` on where a buffer may begin.
    pub fn round_up(self, byte: u64) -> u64 {
        byte.checked_next_multiple_of(self.0).unwrap_or(u64::MAX)
    }
}

impl Default for Alignment {
    /// 64 bytes.
    fn default() -> Self {
        Self(64)
    }
}

entity!(
    /// A buffer of a plan.
    BufferId,
    "%"
);

/// Which memory a buffer lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// Scratch of one execution.
    Workspace,
    /// Values made by `prepare` and read by every `step`.
    Persistent,
    /// Caller's input of this index.
    Input(u32),
    /// Weight of this index.
    Weight(u32),
    /// State of this index: memory that keeps its bytes from one run to the next.
    State(u32),
    /// The caller's memory for the output of this index.
    Output(u32),
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workspace => f.write_str("workspace"),
            Self::Persistent => f.write_str("persistent"),
            Self::Input(index) => write!(f, "input {index}"),
            Self::Weight(index) => write!(f, "weight {index}"),
            Self::State(index) => write!(f, "state {index}"),
            Self::Output(index) => write!(f, "output {index}"),
        }
    }
}

/// Memory of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Element type and shape.
    pub ty: TensorType,
    /// The memory it lies in.
    pub root: Root,
    /// First byte, from the start of the root; of columns that of the rows they are in.
    pub offset: u64,
    /// Where its rows lie if it is columns of a wider value; otherwise it is dense.
    pub columns: Option<Columns>,
}

/// Columns of rows that are wider: the bytes of a tensor in their order are cut into rows of one
/// width, each of which lies as far behind the start of a row of the wider value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Columns {
    /// Bytes in front of the columns in every row.
    pub first: u64,
    /// Bytes of the columns in a row.
    pub width: u64,
    /// Bytes of a whole row.
    pub stride: u64,
}

/// What columns lie in: rows of equal length, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grid {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// How many rows there are.
    pub rows: u64,
}

impl Buffer {
    /// Dense memory of a tensor.
    pub fn dense(ty: TensorType, root: Root, offset: u64) -> Self {
        Self { ty, root, offset, columns: None }
    }

    /// Whether it begins a memory and is dense.
    pub(crate) fn is_whole(&self, root: Root) -> bool {
        (self.root, self.offset, self.columns) == (root, 0, None)
    }

    /// The rows that columns lie in; `None` for dense memory, and where no rows of that width make up
    /// the type, the columns pass the row, or the end passes 2^64 bytes.
    pub fn grid(&self) -> Option<Grid> {
        let Columns { first, width, stride } = self.columns?;
        let bytes = self.ty.bytes();
        let whole = width > 0 && bytes.is_multiple_of(width);
        let rows = if whole { bytes / width } else { return None };
        let inside = first.checked_add(width).is_some_and(|end| end <= stride);
        let end = rows.checked_mul(stride).and_then(|bytes| bytes.checked_add(self.offset));
        Some(Grid { start: self.offset, end: end.filter(|_| inside)?, rows })
    }

    /// The bytes that it lies between: of columns, those of all rows. `None` where there are no such.
    pub fn span(&self) -> Option<(u64, u64)> {
        match self.columns {
            Some(_) => self.grid().map(|grid| (grid.start, grid.end)),
            None => Some((self.offset, self.offset.checked_add(self.ty.bytes())?)),
        }
    }

    /// First byte and end of the buffer if the memory of a grid is counted column by column instead of
    /// row by row. Dense memory stays where it is. Buffers of one grid share bytes exactly where their
    /// places overlap.
    pub fn place(&self) -> Option<(u64, u64)> {
        let (Some(columns), Some(grid)) = (self.columns, self.grid()) else { return self.span() };
        let start = grid.start + columns.first * grid.rows;
        Some((start, start + self.ty.bytes()))
    }

    /// Whether two buffers share a byte. Overlapping columns of different grids count as doing so.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.grid().is_none() || self.grid() != other.grid() {
            return self.mixes(other);
        }
        self.root == other.root && meet(self.place(), other.place())
    }

    /// Whether two buffers share a byte or lie in the same rows.
    pub fn mixes(&self, other: &Self) -> bool {
        self.root == other.root && meet(self.span(), other.span())
    }

    /// Whether two buffers are the same bytes in the same order.
    pub fn same_bytes(&self, other: &Self) -> bool {
        (self.root, self.offset, self.columns) == (other.root, other.offset, other.columns)
            && self.ty.bytes() == other.ty.bytes()
    }

    /// The pieces of memory that its bytes lie in, in their order: first byte and length.
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let bytes = self.ty.bytes();
        let dense = Columns { first: 0, width: bytes.max(1), stride: 0 };
        let Columns { first, width, stride } = self.columns.unwrap_or(dense);
        let start = self.offset + first;
        (0..bytes / width).map(move |row| (start + row * stride, width))
    }
}

/// Whether two ranges of bytes have one in common.
fn meet(a: Option<(u64, u64)>, b: Option<(u64, u64)>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a.0.max(b.0) < a.1.min(b.1))
}

/// One kernel on buffers, or before there are such on values of another kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Step<V = BufferId> {
    /// What it runs.
    pub kernel: Kernel,
    /// Buffers read.
    pub operands: SmallVec<[V; 4]>,
    /// Buffers written. A result may be an operand's memory where the kernel
    /// [writes in place](Kernel::writes_in_place); otherwise they share no byte.
    pub results: SmallVec<[V; 2]>,
    /// Scope and value name of each result in the source, such as `blocks.3/q1`.
    pub labels: Vec<String>,
}

impl<V> Step<V> {
    /// Name of what it runs, for tables and traces.
    pub fn kind(&self) -> &str {
        self.kernel.name()
    }

    /// Scope and name of its last result.
    pub fn label(&self) -> &str {
        self.labels.last().map_or("", String::as_str)
    }

    /// Scope and name of result `result`; empty where it has none.
    pub fn label_of(&self, result: usize) -> &str {
        self.labels.get(result).map_or("", String::as_str)
    }

    /// Buffers written, in order.
    pub fn results(&self) -> &[V] {
        &self.results
    }

    /// Buffers read, in order.
    pub fn reads(&self) -> &[V] {
        &self.operands
    }
}

/// A named buffer at the edge of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// Name in the source.
    pub name: String,
    /// The branch that it belongs to, where the plan evaluates two at once; 0 otherwise, and for
    /// what both branches share.
    pub branch: Branch,
    /// The buffer.
    pub buffer: BufferId,
}

impl Port {
    /// [`title`] of the port.
    pub fn title(&self) -> Cow<'_, str> {
        title(&self.name, self.branch)
    }
}

/// Number of a branch of a plan that evaluates two at once.
pub type Branch = u32;

/// How people and files of tensors call what belongs to a branch: `txt`, and `txt.1` for branch 1.
pub fn title(name: &str, branch: Branch) -> Cow<'_, str> {
    match branch {
        0 => Cow::Borrowed(name),
        _ => Cow::Owned(format!("{name}.{branch}")),
    }
}

/// A weight a plan reads.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightRef {
    /// Absolute tensor name in the manifest's naming.
    pub name: String,
    /// Type the plan wants it in.
    pub ty: TensorType,
}

/// A tensor that is carried from one run to the next in memory of its own, such as the past frames
/// of a convolution or the moments of an optimiser.
#[derive(Clone, Debug, PartialEq)]
pub struct State<V = BufferId> {
    /// Name; plans that share states call them the same.
    pub name: String,
    /// The branch that carries it, as for a [`Port`].
    pub branch: Branch,
    /// Its type, the same in every run.
    pub ty: TensorType,
    /// What it holds when the plan begins; `None` where the plan does not look at it.
    pub before: Option<V>,
    /// What it holds when the plan is done.
    pub after: V,
}

/// A compiled function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Name of the phase (`step`, `prepare`, …).
    pub name: String,
    /// All buffers.
    pub buffers: Arena<BufferId, Buffer>,
    /// Steps in order.
    pub steps: Vec<Step>,
    /// Inputs in order; `Root::Input(i)` is the i-th.
    pub inputs: Vec<Port>,
    /// Outputs that the caller gets, in order; `Root::Output(i)` is the memory of the i-th.
    pub outputs: Vec<Port>,
    /// Values that this plan makes for later phases, in order, in persistent memory. Their names are
    /// for people: later phases know them by their places.
    pub kept: Vec<Port>,
    /// States in order; `Root::State(i)` is the i-th.
    pub states: Vec<State>,
    /// Weights read; `Root::Weight(i)` is the i-th.
    pub weights: Vec<WeightRef>,
    /// Bytes of workspace the backend must reserve: the peak of the plan.
    pub workspace_bytes: u64,
    /// Largest sum of live workspace bytes at any step: no order-preserving plan can need less.
    pub lower_bound_bytes: u64,
    /// Sum of all results in the workspace, as if each had memory of its own.
    pub naive_bytes: u64,
    /// Bytes of the persistent arena shared by `prepare` and `step`.
    pub persistent_bytes: u64,
    /// Where buffers may begin, in every root.
    pub alignment: Alignment,
}

impl Plan {
    /// Buffer by id.
    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id]
    }

    /// Types of some buffers.
    pub fn types(&self, ids: &[BufferId]) -> Vec<&TensorType> {
        ids.iter().map(|id| &self.buffers[*id].ty).collect()
    }

    /// First byte of every state in the memory that holds them all, and the size of that memory.
    /// Plans of one alignment whose states agree in names and types lay them out the same.
    pub fn state_layout(&self) -> (Vec<u64>, u64) {
        let mut end = 0u64;
        let place = |state: &State| {
            let start = end;
            end = end.saturating_add(self.alignment.round_up(state.ty.bytes()));
            start
        };
        (self.states.iter().map(place).collect(), end)
    }

    /// Bytes of all states.
    pub fn state_bytes(&self) -> u64 {
        self.state_layout().1
    }

    /// Whether the states of two plans are the same memory.
    pub fn shares_states(&self, other: &Self) -> bool {
        let key = |state: &State| (state.name.clone(), state.branch, state.ty.clone());
        let equal = self.states.iter().map(key).eq(other.states.iter().map(key));
        equal && self.alignment == other.alignment
    }

    /// Whether the plan evaluates two branches at once.
    pub fn has_branches(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).any(|port| port.branch > 0)
    }

    /// Every port.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.inputs.iter().chain(&self.outputs).chain(&self.kept)
    }

    /// Bytes of the weights in the types the plan wants.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(|w| w.ty.bytes()).sum()
    }
}
