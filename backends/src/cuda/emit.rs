//! CUDA C++ from level-2 kernels.
//!
//! One step of a plan becomes one function. Its text holds the sizes that decide how it is written,
//! such as the width of a row; numbers of rows are arguments. Where an operand begins and how its rows
//! lie is known when the text is made, so that aligned pieces are read and written whole. Nothing is
//! compiled or launched here, and nothing is chosen by measurement.

mod anchor;
mod attention;
mod fill;
mod moves;
mod product;
mod row;
mod writer;

#[cfg(test)]
mod tests;

use anyid_ir::TensorType;
use anyid_ir::kernel::Kernel;
use anyid_ir::plan::{Columns, Plan, Root, Step};

/// Bytes of the longest piece that is read or written at once.
const PIECE: usize = 16;

/// Declarations that the text of every kernel needs, behind one of the two bodies of intrinsics.
pub const COMMON: &str = concat!(
    include_str!("code/numbers.h"),
    include_str!("code/product.h"),
    include_str!("code/attention.h"),
    include_str!("code/attention_vjp.h"),
    include_str!("code/hopper.h"),
);

/// Which instructions kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Those of the A100, which all later GPUs have.
    Sm80,
    /// Hopper's own too: loads by the tensor memory unit, products of warp groups.
    Sm90a,
}

impl Architecture {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Sm80, Self::Sm90a];

    /// Its name for compilers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm90a => "sm_90a",
        }
    }

    /// What plans for it are compiled for.
    pub fn target(self) -> &'static str {
        match self {
            Self::Sm80 => "cuda:sm_80",
            Self::Sm90a => "cuda:sm_90",
        }
    }
}

/// The intrinsics for NVRTC.
pub const INTRINSICS: &str = include_str!("code/nvrtc.h");

/// The intrinsics for a C++ compiler of the system, which executes kernels on the processor.
pub const EMULATION: &str = include_str!("code/emulated.h");

/// A number that different bytes hardly share (64-bit FNV-1a).
pub(crate) fn digest_of(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}

/// How an operand or a result lies in memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its type.
    pub ty: TensorType,
    /// Elements of a row and from one row to the next, if it is columns of a wider value.
    pub columns: Option<(usize, usize)>,
    /// Its first byte is a multiple of this power of two, at most 16.
    pub alignment: usize,
    /// Whether the device can give it [packed](Emitted::packed).
    pub packs: bool,
}

impl Place {
    /// Dense memory that begins at a multiple of 16 bytes.
    pub fn dense(ty: TensorType) -> Self {
        Self { ty, columns: None, alignment: PIECE, packs: false }
    }

    /// Elements from one row of `width` to the next.
    pub(crate) fn stride(&self, width: usize) -> usize {
        self.columns.map_or(width, |(_, stride)| stride)
    }

    /// Whether pieces of `count` elements that begin at multiples of as many are aligned.
    pub(crate) fn takes(&self, count: usize) -> bool {
        self.alignment.is_multiple_of(PIECE.min(count * self.ty.dtype.bytes()))
    }
}

/// What an argument of a kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// First byte of an operand of the step.
    Operand(usize),
    /// First byte of a result of the step.
    Result(usize),
    /// First of [`Emitted::constants`].
    Constants,
    /// A word of 64 bits for each of [`Emitted::tables`], all of them ones before the launch.
    Faults,
    /// A number.
    Size(i64),
    /// The number of blocks along x. Such a kernel goes through its work in turns, so that any number of
    /// blocks up to that of the grid does.
    Blocks,
    /// An operand as a matrix of rows, of which the tensor memory unit loads so many at once, 64
    /// elements of each.
    Map {
        /// Its position.
        operand: usize,
        /// Rows of a load.
        rows: u32,
    },
}

/// The threads of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block beside what the text declares.
    pub shared_bytes: u32,
}

/// A kernel as source, and how it is launched.
#[derive(Clone, Debug, PartialEq)]
pub struct Emitted {
    /// Name of the function, which differs where the text does.
    pub name: String,
    /// Its definition.
    pub text: String,
    /// What its parameters are.
    pub arguments: Vec<Argument>,
    /// How its parameters of memory are declared, such as `const float`, in their order.
    pub memory: Vec<String>,
    /// The threads.
    pub grid: Grid,
    /// Bytes that it reads beside the operands.
    pub constants: Vec<u8>,
    /// Operands that it reads packed: the second axis of each comes last, behind those of taps, and it
    /// begins at a multiple of 16 bytes.
    pub packed: Vec<usize>,
    /// Rows of each table that an index of an operand picks rows of. A launch leaves in the fault of a
    /// table the first index that is no row of it, below the place where it stands.
    pub tables: Vec<usize>,
}

/// The source of the kernel of a step, for a device that gives every operand as it is stored.
pub fn step(plan: &Plan, step: &Step, architecture: Architecture) -> Emitted {
    step_of(plan, step, architecture, false)
}

/// The source of the kernel of a step, for a device that packs the kernels of convolutions which are
/// weights when it loads them.
pub fn step_with_packing(plan: &Plan, step: &Step, architecture: Architecture) -> Emitted {
    step_of(plan, step, architecture, true)
}

fn step_of(plan: &Plan, step: &Step, architecture: Architecture, packing: bool) -> Emitted {
    let place = |id: &_| {
        let buffer = plan.buffer(*id);
        let size = buffer.ty.dtype.bytes() as u64;
        let elements = |columns: Columns| (columns.width / size, columns.stride / size);
        let columns = buffer.columns.map(elements);
        let first = buffer.offset + buffer.columns.map_or(0, |columns| columns.first);
        let stride = buffer.columns.map_or(0, |columns| columns.stride);
        // Every row of columns begins where this says.
        let alignment = 1 << (first | stride | PIECE as u64).trailing_zeros();
        let columns = columns.map(|(width, stride)| (width as usize, stride as usize));
        // A weight as a whole.
        let packs = match buffer.root {
            Root::Weight(at) => packing && plan.weights[at as usize].ty == buffer.ty,
            _ => false,
        };
        Place { ty: buffer.ty.clone(), columns, alignment, packs }
    };
    let operands: Vec<Place> = step.operands.iter().map(place).collect();
    let results: Vec<Place> = step.results.iter().map(place).collect();
    kernel(&step.kernel, &operands, &results, architecture)
}

/// The source of a kernel, which was [checked](Kernel::check) for these types.
pub fn kernel(
    kernel: &Kernel,
    operands: &[Place],
    results: &[Place],
    architecture: Architecture,
) -> Emitted {
    match kernel {
        Kernel::Row(row) => row::emit(row, operands, results),
        Kernel::Copy(copy) => moves::copy(copy, operands, &results[0]),
        Kernel::Gather => moves::gather(&operands[0], &operands[1], &results[0]),
        Kernel::Fill(fill) => fill::emit(fill, operands, &results[0]),
        Kernel::Anchor(anchor) => anchor::emit(anchor, operands, results, architecture),
    }
}
