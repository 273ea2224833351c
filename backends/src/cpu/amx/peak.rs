//! The most that tiles can do: products of tiles that hold their operands.

use super::{TileOps, TileWork, Tiles};
use std::sync::atomic::{AtomicU64, Ordering};

/// Products of all four sums in a row in one timed run.
const STEPS: usize = 2000;

/// Multiplies tiles without reading memory; returns the operations done.
pub(in super::super) fn burn(tiles: Tiles) -> f64 {
    // The emulated ones are slow.
    let steps = if tiles == Tiles::Emulated { STEPS / 100 } else { STEPS };
    let work = Burn { steps, sink: AtomicU64::new(0) };
    // SAFETY: it asks for nothing; the tiles are those of a level of this machine.
    unsafe { tiles.run(&work) };
    (steps * 4 * 2 * 16 * 16 * 32) as f64
}

struct Burn {
    steps: usize,
    sink: AtomicU64,
}

impl TileWork for Burn {
    unsafe fn run<T: TileOps>(&self) {
        let mut out = [0u32; 256];
        // SAFETY: configured by whoever runs the work; `out` is a tile.
        unsafe {
            T::zero::<0>();
            T::zero::<1>();
            T::zero::<2>();
            T::zero::<3>();
            T::stream::<4>(out.as_ptr().cast(), 64);
            T::stream::<5>(out.as_ptr().cast(), 64);
            T::load::<6>(out.as_ptr().cast(), 64);
            T::load::<7>(out.as_ptr().cast(), 64);
            for _ in 0..self.steps {
                T::multiply::<0, 4, 6>();
                T::multiply::<1, 4, 7>();
                T::multiply::<2, 5, 6>();
                T::multiply::<3, 5, 7>();
            }
            T::store::<0>(out.as_mut_ptr().cast(), 64);
        }
        self.sink.fetch_add(u64::from(out[0]), Ordering::Relaxed);
    }
}
