//! Compiled kernels that stand in for those of a GPU, for tests of the device that launches them there.

use super::Order;
use super::compiler::Compiler;
use super::library::{Given, Kernels, Room};
use crate::cuda::emit::{Emitted, Grid};
use crate::cuda::launches::Parameter;

/// Kernels by name.
pub(in crate::cuda) struct StandIn {
    kernels: Kernels,
}

impl StandIn {
    /// One that keeps its libraries in `folder`; `None` where there is no compiler.
    pub(in crate::cuda) fn open(folder: &str) -> Option<Self> {
        let compiler = Compiler::find(None).ok()?;
        let kernels = Kernels::new(compiler, Some(folder)).unwrap_or_else(|e| panic!("{e}"));
        Some(Self { kernels })
    }

    /// Compiles kernels.
    pub(in crate::cuda) fn load<'e>(&self, emitted: impl Iterator<Item = &'e Emitted>) {
        self.kernels.load(emitted).unwrap_or_else(|fault| panic!("{fault:?}"));
    }

    /// Launches a kernel that was compiled.
    ///
    /// # Safety
    /// The parameters name memory that nothing else uses meanwhile.
    pub(in crate::cuda) unsafe fn launch(&self, name: &str, grid: Grid, given: &[Parameter]) {
        let kernel = self.kernels.find(name);
        let mut room = Room::of(std::iter::once(&kernel));
        // SAFETY: as the caller says.
        let done = unsafe { kernel.launch(grid, &Given::of(given), Order::Shuffled, &mut room) };
        done.unwrap_or_else(|why| panic!("{name}: {why}"));
    }
}
