//! The calls of a driver that the device makes: one context and one stream of one GPU.
//!
//! Work on the stream runs in the order of the calls, after they have come back; `wait` and `wait_for`
//! are the only ones that wait for it. The driver of NVIDIA is one body of this trait; tests have another,
//! which records the calls. Nothing is decided here.

use crate::cuda::emit::Grid;
use crate::cuda::launches::{Matrix, Span};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) trouble: Trouble,
    /// The call, as NVIDIA's documentation names it.
    pub(super) call: &'static str,
    /// What the driver says.
    pub(super) said: String,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// There is not so much memory.
    Memory,
    /// The context is of no use any more: whatever is called next fails too.
    Lost,
    /// Machine code that the driver does not take.
    Image,
    /// Anything else.
    Other,
}

pub(super) type Result<T> = std::result::Result<T, Refused>;

/// Loaded machine code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Module(pub(super) u64);

/// A kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Function(pub(super) u64);

/// A point on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event(pub(super) u64);

/// Recorded launches that are launched together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Graph(pub(super) u64);

/// A matrix as the tensor memory unit is told of it.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TensorMap(pub(super) [u64; 16]);

/// What a kernel gets for one of its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The first byte of memory. How far it reaches is for tests.
    Memory(Span),
    Size(i64),
    Map(TensorMap),
}

/// Memory of the GPU in bytes, whoever uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) free: u64,
    pub(super) all: u64,
}

/// One context with one stream. Calls come from any thread.
pub(super) trait Driver: Send + Sync {
    fn room(&self) -> Result<Room>;

    /// Memory of the GPU, which begins at a multiple of 256 bytes. `bytes` is not 0.
    fn allocate(&self, bytes: u64) -> Result<u64>;

    /// Gives memory back.
    ///
    /// # Safety
    /// It is [`Self::allocate`]'s, nothing on the stream uses it, and nobody will.
    unsafe fn free(&self, address: u64);

    /// Memory of the process that copies are fast from and to. `bytes` is not 0.
    fn pin(&self, bytes: usize) -> Result<*mut u8>;

    /// Gives it back.
    ///
    /// # Safety
    /// As [`Self::free`], of [`Self::pin`].
    unsafe fn unpin(&self, memory: *mut u8);

    /// Copies to the GPU.
    ///
    /// # Safety
    /// Both pieces are there until the stream is past the copy, and nobody writes the one of the process
    /// until then.
    unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize) -> Result<()>;

    /// Copies from the GPU.
    ///
    /// # Safety
    /// Both pieces are there until the stream is past the copy, and nobody looks at the one of the process
    /// until then.
    unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize) -> Result<()>;

    /// Copies within the GPU.
    ///
    /// # Safety
    /// Both pieces are there until the stream is past the copy, and share no byte.
    unsafe fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()>;

    /// Sets bytes.
    ///
    /// # Safety
    /// They are there until the stream is past this.
    unsafe fn set(&self, at: u64, byte: u8, bytes: u64) -> Result<()>;

    /// Loads machine code.
    fn module(&self, cubin: &[u8]) -> Result<Module>;

    /// Unloads it.
    ///
    /// # Safety
    /// It was loaded here, nothing on the stream runs it, and nobody will.
    unsafe fn unload(&self, module: Module);

    /// The kernel called `name`, whose launches get so much shared memory beside what its code declares.
    fn function(&self, module: Module, name: &str, shared_bytes: u32) -> Result<Function>;

    fn map(&self, matrix: &Matrix) -> Result<TensorMap>;

    /// Launches a kernel.
    ///
    /// # Safety
    /// The values are those that the kernel takes, and the memory that they name is there until the stream
    /// is past the launch.
    unsafe fn launch(&self, function: Function, grid: Grid, values: &[Value]) -> Result<()>;

    /// A new event.
    fn event(&self) -> Result<Event>;

    /// Gives an event back that was made here.
    fn drop_event(&self, event: Event);

    /// Moves an event to the end of what is on the stream.
    fn record(&self, event: Event) -> Result<()>;

    /// Comes back when the stream is past an event that was recorded.
    fn wait_for(&self, event: Event) -> Result<()>;

    /// Seconds from one event to another, which the stream is past.
    fn seconds(&self, from: Event, to: Event) -> Result<f64>;

    /// Launches are recorded from now on, and do not run.
    fn begin_capture(&self) -> Result<()>;

    /// What was recorded, ready to be launched.
    fn end_capture(&self) -> Result<Graph>;

    /// Launches what was recorded.
    ///
    /// # Safety
    /// As each of the launches.
    unsafe fn launch_graph(&self, graph: Graph) -> Result<()>;

    /// Gives a graph back.
    ///
    /// # Safety
    /// It was made here, and the stream is past all of its launches.
    unsafe fn drop_graph(&self, graph: Graph);

    /// Comes back when everything on the stream is done.
    fn wait(&self) -> Result<()>;
}
