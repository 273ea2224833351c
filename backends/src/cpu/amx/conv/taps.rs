//! The products of a strip of positions and a panel over taps and channels.
//!
//! Tiles of neighbours lie close to each other and come from the first cache; the panel is streamed
//! from the second.

use super::super::{ROW_BYTES, Sums, TILE, TileOps};
use super::TILE_COLUMNS;

/// `sums (+)= Σ tile[offset] · panel[step]` over the offsets, from zero where that is said: offsets in
/// bytes, the tile of no offset, the panel's tiles, sums of a strip.
pub(super) type Taps = unsafe fn(&[u32], *const u8, *const u8, *mut f32, bool);

/// The kernel for so many tiles of positions and of columns.
pub(super) fn taps<T: TileOps>(height: usize, width: usize) -> Taps {
    match (height, width) {
        (1, 1) => run::<T, 1, 1>,
        (1, _) => run::<T, 1, 2>,
        (_, 1) => run::<T, 2, 1>,
        _ => run::<T, 2, 2>,
    }
}

/// See [`Taps`]. Tiles 0 to 3 hold the sums, 4 and 5 positions, 6 and 7 the panel.
///
/// # Safety
/// `H` tiles lie at every offset and `W` for every step in the panel; `sums` is a strip of a panel. The
/// tiles of this thread are configured.
unsafe fn run<T: TileOps, const H: usize, const W: usize>(
    offsets: &[u32],
    tile: *const u8,
    mut panel: *const u8,
    sums: *mut f32,
    fresh: bool,
) {
    let sums = Sums { at: sums, pitch: TILE_COLUMNS * 4 };
    // SAFETY: the caller's promise; every tile that is used is one of those.
    unsafe {
        sums.take::<T, H, W>(fresh);
        for offset in offsets {
            let tile = tile.wrapping_add(*offset as usize);
            T::load::<4>(tile, ROW_BYTES);
            T::stream::<6>(panel, ROW_BYTES);
            T::multiply::<0, 4, 6>();
            if W == 2 {
                T::stream::<7>(panel.wrapping_add(TILE), ROW_BYTES);
                T::multiply::<1, 4, 7>();
            }
            if H == 2 {
                T::load::<5>(tile.wrapping_add(TILE), ROW_BYTES);
                T::multiply::<2, 5, 6>();
            }
            if H == 2 && W == 2 {
                T::multiply::<3, 5, 7>();
            }
            panel = panel.wrapping_add(W * TILE);
        }
        sums.put::<T, H, W>();
    }
}
