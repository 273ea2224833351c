//! Products of tiles whose rows lie any distance apart, for operands that stay in the caches.

use super::{Sums, TileOps};

/// One side of a product, in bytes: tiles that follow each other along K and across it.
#[derive(Clone, Copy)]
pub(in super::super) struct Side {
    pub(in super::super) at: *const u8,
    /// From a row of a tile to the next.
    pub(in super::super) pitch: usize,
    /// From a tile to that of the next step of K.
    pub(in super::super) step: usize,
    /// From a tile to its neighbour.
    pub(in super::super) across: usize,
}

impl Side {
    /// Tile `across` of it and those that follow.
    fn from(self, across: usize) -> Side {
        Side { at: self.at.wrapping_add(across * self.across), ..self }
    }
}

/// `sums (+)= a · b` over so many steps of K, for tiles of rows and tiles of columns; from zero where
/// `fresh` says so. Two tiles of columns stay in the first cache while all rows come past them.
///
/// # Safety
/// The sides have so many tiles and the sums so many rows and columns; the tiles of this thread are
/// configured.
#[inline(always)]
pub(in super::super) unsafe fn multiply<T: TileOps>(
    steps: usize,
    a: Side,
    b: Side,
    (rows, columns): (usize, usize),
    sums: Sums,
    fresh: bool,
) {
    for column in (0..columns).step_by(2) {
        let wide = column + 1 < columns;
        for row in (0..rows).step_by(2) {
            let tall = row + 1 < rows;
            let (a, b) = (a.from(row), b.from(column));
            let sums = sums.from(row, column);
            // SAFETY: the caller's promise.
            unsafe {
                match (tall, wide) {
                    (true, true) => corner::<T, 2, 2>(steps, a, b, sums, fresh),
                    (true, false) => corner::<T, 2, 1>(steps, a, b, sums, fresh),
                    (false, true) => corner::<T, 1, 2>(steps, a, b, sums, fresh),
                    (false, false) => corner::<T, 1, 1>(steps, a, b, sums, fresh),
                }
            }
        }
    }
}

/// [`multiply`] for `H` by `W` tiles: 0 to 3 hold the sums, 4 and 5 rows, 6 and 7 columns.
///
/// # Safety
/// As of [`multiply`].
#[inline(always)]
unsafe fn corner<T: TileOps, const H: usize, const W: usize>(
    steps: usize,
    mut a: Side,
    mut b: Side,
    sums: Sums,
    fresh: bool,
) {
    // SAFETY: the caller's promise; every tile that is used is one of those.
    unsafe {
        sums.take::<T, H, W>(fresh);
        for _ in 0..steps {
            T::load::<4>(a.at, a.pitch);
            T::load::<6>(b.at, b.pitch);
            T::multiply::<0, 4, 6>();
            if W == 2 {
                T::load::<7>(b.at.wrapping_add(b.across), b.pitch);
                T::multiply::<1, 4, 7>();
            }
            if H == 2 {
                T::load::<5>(a.at.wrapping_add(a.across), a.pitch);
                T::multiply::<2, 5, 6>();
            }
            if H == 2 && W == 2 {
                T::multiply::<3, 5, 7>();
            }
            a.at = a.at.wrapping_add(a.step);
            b.at = b.at.wrapping_add(b.step);
        }
        sums.put::<T, H, W>();
    }
}
