//! The products of a strip of rows and a panel: two by two tiles of sums.
//!
//! Four loads feed four products a step. Rows are streamed, the panel is to come from the first cache.

use super::super::super::caches::{prefetch, prefetch_later};
use super::super::super::gemm::TILE_COLUMNS;
use super::super::super::threads::ALIGN;
use super::super::{ROW_BYTES, Sums, TILE, TileOps};

/// What comes next, wherever that is: sums for the first cache, panels and rows for the second.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) sums: *const u8,
    pub(super) panel: *const u8,
    pub(super) rows: *const u8,
}

/// `sums (+)= rows · panel` over so many steps, or from zero where that is said.
pub(super) type Micro = unsafe fn(usize, *const u8, *const u8, *mut f32, bool, Ahead);

/// The kernel for so many tiles of rows and of columns, which asks for so many lines of the next panel
/// a step.
pub(super) fn micro<T: TileOps>(height: usize, width: usize, lines: usize) -> Micro {
    macro_rules! pick {
        ($($height:literal $width:literal;)*) => {
            match (height, width, lines) {
                $(($height, $width, 2) => strip::<T, $height, $width, 2> as Micro,
                ($height, $width, 8) => strip::<T, $height, $width, 8> as Micro,
                ($height, $width, _) => strip::<T, $height, $width, 32> as Micro,)*
                _ => unreachable!("a strip has one or two tiles, and so has a panel"),
            }
        };
    }
    pick!(1 1; 1 2; 2 1; 2 2;)
}

/// See [`Micro`]. Tiles 0 to 3 hold the sums, 4 and 5 rows, 6 and 7 the panel.
///
/// # Safety
/// `rows` holds `steps` times `H` tiles and `panel` `steps` times `W`; `sums` is a strip of a panel. The
/// tiles of this thread are configured.
unsafe fn strip<T: TileOps, const H: usize, const W: usize, const LINES: usize>(
    steps: usize,
    mut rows: *const u8,
    mut panel: *const u8,
    sums: *mut f32,
    fresh: bool,
    mut ahead: Ahead,
) {
    let sums = Sums { at: sums, pitch: TILE_COLUMNS * 4 };
    // SAFETY: the caller's promise; every tile that is used is one of those.
    unsafe {
        sums.take::<T, H, W>(fresh);
        for _ in 0..steps {
            T::stream::<4>(rows, ROW_BYTES);
            T::load::<6>(panel, ROW_BYTES);
            prefetch(ahead.sums, 2 * ALIGN);
            T::multiply::<0, 4, 6>();
            if W == 2 {
                T::load::<7>(panel.add(TILE), ROW_BYTES);
                prefetch_later(ahead.panel, LINES / 2 * ALIGN);
                T::multiply::<1, 4, 7>();
            }
            if H == 2 {
                T::stream::<5>(rows.add(TILE), ROW_BYTES);
                prefetch(ahead.sums.wrapping_add(2 * ALIGN), 2 * ALIGN);
                T::multiply::<2, 5, 6>();
            }
            prefetch_later(ahead.panel.wrapping_add(LINES / 2 * ALIGN), LINES / 2 * ALIGN);
            prefetch_later(ahead.rows, 2 * ALIGN);
            if H == 2 && W == 2 {
                T::multiply::<3, 5, 7>();
            }
            rows = rows.add(H * TILE);
            panel = panel.add(W * TILE);
            ahead.sums = ahead.sums.wrapping_add(4 * ALIGN);
            ahead.panel = ahead.panel.wrapping_add(LINES * ALIGN);
            ahead.rows = ahead.rows.wrapping_add(2 * ALIGN);
        }
        sums.put::<T, H, W>();
    }
}
