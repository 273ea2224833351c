//! Products of bf16 by tiles: what they are computed with, and the kernels made of it.
//!
//! A tile is 16 rows of 64 bytes, and a thread has eight of them. [`TileOps`] is all that kernels know
//! of them; it has two bodies. `instructions.rs` is the processor's AMX, `emulated.rs` the same eight
//! tiles in memory with the arithmetic that Intel documents, so that loops, packing and epilogues
//! are tested on any machine.
//!
//! A task has the tiles of its thread configured when it begins with them ([`Tiles::run`]), whoever's
//! thread that is; the pool takes the configuration down when the thread leaves the run. No tile keeps
//! anything across a call that may use tiles: whoever fills tiles stores them before it returns.

pub(super) mod conv;
mod detect;
mod emulated;
#[cfg(target_arch = "x86_64")]
mod instructions;
pub(super) mod peak;
mod pitched;
pub(super) mod product;
mod sums;
#[cfg(test)]
mod tests;

pub use detect::Refused;
pub(super) use detect::tiles;
pub(super) use pitched::{Side, multiply};
pub(super) use sums::Sums;

use super::threads::until_leaving;

/// Rows of a tile.
pub(super) const ROWS: usize = 16;

/// Bytes of a row of a tile.
pub(super) const ROW_BYTES: usize = 64;

/// Bytes of a tile.
const TILE: usize = ROWS * ROW_BYTES;

/// Who computes with tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tiles {
    /// The processor.
    Instructions,
    /// Code on tiles in memory.
    Emulated,
}

/// The operations on the eight tiles of a thread. Tiles are numbered 0 to 7.
pub(super) trait TileOps {
    /// Makes the tiles of this thread usable, all of them of full size, with any contents.
    fn configure();

    /// Gives them back to the system, which then saves them for this thread no longer.
    fn release();

    /// Fills tile `T` with zeros.
    ///
    /// # Safety
    /// The tiles of this thread are configured, as for all that follow.
    unsafe fn zero<const T: usize>();

    /// Fills tile `T` with rows that begin `pitch` bytes apart.
    ///
    /// # Safety
    /// The rows are readable.
    unsafe fn load<const T: usize>(from: *const u8, pitch: usize);

    /// [`TileOps::load`] of what is not needed in the first cache again.
    ///
    /// # Safety
    /// As [`TileOps::load`].
    unsafe fn stream<const T: usize>(from: *const u8, pitch: usize);

    /// Adds to tile `C`, 16×16 sums in f32, the product of tile `A`, 16 rows of 32 elements of K, and
    /// tile `B`, which has a row for every two elements of K: pairs of them for 16 columns.
    ///
    /// # Safety
    /// The three tiles are different ones.
    unsafe fn multiply<const C: usize, const A: usize, const B: usize>();

    /// Writes the rows of tile `T`, `pitch` bytes apart.
    ///
    /// # Safety
    /// The rows are writable.
    unsafe fn store<const T: usize>(to: *mut u8, pitch: usize);
}

/// What is done with tiles, written once for both bodies.
pub(super) trait TileWork {
    /// Does it.
    ///
    /// # Safety
    /// As the work says.
    unsafe fn run<T: TileOps>(&self);
}

impl Tiles {
    /// Does `work` on this thread.
    ///
    /// # Safety
    /// As the work says; tiles of the processor are asked of [`super::simd::Level::tiles`] alone.
    pub(super) unsafe fn run(self, work: &impl TileWork) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the caller's promise.
            Tiles::Instructions => unsafe { on::<instructions::Amx>(work) },
            #[cfg(not(target_arch = "x86_64"))]
            Tiles::Instructions => unreachable!("no other processor has them"),
            // SAFETY: as above.
            Tiles::Emulated => unsafe { on::<emulated::Emulated>(work) },
        }
    }
}

/// # Safety
/// As [`Tiles::run`].
unsafe fn on<T: TileOps>(work: &impl TileWork) {
    until_leaving(T::configure, T::release);
    // SAFETY: the caller's promise.
    unsafe { work.run::<T>() }
}
