//! Sums in memory on their way into tiles 0 to 3 and back: `H` tiles of rows by `W` of columns.

use super::{ROW_BYTES, ROWS, TileOps};

/// Rows of sums in f32, so many bytes apart.
#[derive(Clone, Copy)]
pub(in super::super) struct Sums {
    pub(in super::super) at: *mut f32,
    pub(in super::super) pitch: usize,
}

impl Sums {
    /// Those `down` tiles of rows and `right` tiles of columns further.
    pub(super) fn from(self, down: usize, right: usize) -> Sums {
        Sums { at: self.place(down, right).cast(), ..self }
    }

    fn place(self, down: usize, right: usize) -> *mut u8 {
        let bytes = down * ROWS * self.pitch + right * ROW_BYTES;
        self.at.cast::<u8>().wrapping_add(bytes)
    }

    /// Fills the tiles with them, or with zeros where they begin.
    ///
    /// # Safety
    /// There are so many rows and columns; the tiles of this thread are configured.
    #[inline(always)]
    pub(super) unsafe fn take<T: TileOps, const H: usize, const W: usize>(self, fresh: bool) {
        // SAFETY: the caller's promise.
        unsafe {
            if fresh {
                T::zero::<0>();
                T::zero::<1>();
                T::zero::<2>();
                T::zero::<3>();
                return;
            }
            T::load::<0>(self.place(0, 0), self.pitch);
            if W == 2 {
                T::load::<1>(self.place(0, 1), self.pitch);
            }
            if H == 2 {
                T::load::<2>(self.place(1, 0), self.pitch);
            }
            if H == 2 && W == 2 {
                T::load::<3>(self.place(1, 1), self.pitch);
            }
        }
    }

    /// Writes what is in the tiles.
    ///
    /// # Safety
    /// As of [`Sums::take`].
    #[inline(always)]
    pub(super) unsafe fn put<T: TileOps, const H: usize, const W: usize>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            T::store::<0>(self.place(0, 0), self.pitch);
            if W == 2 {
                T::store::<1>(self.place(0, 1), self.pitch);
            }
            if H == 2 {
                T::store::<2>(self.place(1, 0), self.pitch);
            }
            if H == 2 && W == 2 {
                T::store::<3>(self.place(1, 1), self.pitch);
            }
        }
    }
}
