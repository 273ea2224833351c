//! The transforms of tiles on sixteen channels at a time.

use super::tile::{MOST, TileSize};
use crate::cpu::gemm::WIDTH;
use crate::cpu::math::lanes::get;
use crate::cpu::math::{Element, LANES, Lanes, vectorised};
use crate::cpu::simd::Level;

/// Floats of a buffer of finished pixels: 64 of them in a full panel.
pub(super) const FLOATS: usize = 64 * WIDTH;

/// Finished pixels of a run of tiles and one panel: [M, tiles · M, panel width].
#[repr(align(64))]
pub(super) struct Pixels(pub [f32; FLOATS]);

/// How transformed inputs are kept for the products.
pub(super) trait Row: Send + Sync + 'static {
    /// Writes sixteen channels of a row, from `channel` on.
    ///
    /// # Safety
    /// The row has the channels.
    unsafe fn put<V: Lanes>(value: V, row: *mut u32, channel: usize);
}

/// One f32 a word.
pub(super) struct Wide;

/// One f32 a word, rounded to bf16.
pub(super) struct Rounded;

/// Two bf16 a word.
pub(super) struct Pairs;

impl Row for Wide {
    #[inline(always)]
    unsafe fn put<V: Lanes>(value: V, row: *mut u32, channel: usize) {
        // SAFETY: the caller's promise.
        unsafe { value.store(row.add(channel).cast()) }
    }
}

impl Row for Rounded {
    #[inline(always)]
    unsafe fn put<V: Lanes>(value: V, row: *mut u32, channel: usize) {
        // SAFETY: the caller's promise.
        unsafe { value.round_bf16().store(row.add(channel).cast()) }
    }
}

impl Row for Pairs {
    #[inline(always)]
    unsafe fn put<V: Lanes>(value: V, row: *mut u32, channel: usize) {
        // SAFETY: the caller's promise.
        unsafe { value.store_bf16(row.cast::<half::bf16>().add(channel)) }
    }
}

/// Writes Bᵀ d B of the N×N pixels of a tile, all channels: point `e` to `to + e·plane`, in whole
/// vectors of channels.
///
/// `to` is the tile's row in the first of the N² planes; the caller owns the row in each of them,
/// with room for the channels rounded up to sixteen.
pub(super) fn input<S: TileSize, R: Row, T: Element>(
    level: Level,
    pixels: &[[&[T]; MOST]; MOST],
    to: *mut u32,
    plane: usize,
) {
    input_lanes::<S, R, T>(level, pixels, to, plane);
}

vectorised! {
    fn input_lanes<V, S: TileSize, R: Row, T: Element>(
        pixels: &[[&[T]; MOST]; MOST],
        to: *mut u32,
        plane: usize,
    ) {
        let none = V::splat(0.0);
        for channel in (0..pixels[0][0].len()).step_by(LANES) {
            let mut half = [[none; MOST]; MOST];
            for w in 0..S::N {
                let mut column = [none; MOST];
                for h in 0..S::N {
                    column[h] = get(pixels[h][w], channel);
                }
                half[w] = S::input(column);
            }
            for i in 0..S::N {
                let mut row = [none; MOST];
                for w in 0..S::N {
                    row[w] = half[w][i];
                }
                let row = S::input(row);
                for j in 0..S::N {
                    // SAFETY: the caller's row in plane i·N + j.
                    unsafe { R::put(row[j], to.add((i * S::N + j) * plane), channel) };
                }
            }
        }
    }
}

/// G g Gᵀ of `count` elements of one panel, a multiple of sixteen that follow each other: tap (i, j)
/// of the first lies at `from + (3·i + j)·apart`, its point `e` goes to `to + e·plane`.
///
/// # Safety
/// Both regions hold the elements, in each of their nine or N² places.
pub(super) unsafe fn kernel<S: TileSize, T: Element>(
    level: Level,
    from: *const T,
    apart: usize,
    count: usize,
    to: *mut T,
    plane: usize,
) {
    kernel_lanes::<S, T>(level, from, apart, count, to, plane);
}

vectorised! {
    fn kernel_lanes<V, S: TileSize, T: Element>(
        from: *const T,
        apart: usize,
        count: usize,
        to: *mut T,
        plane: usize,
    ) {
        let none = V::splat(0.0);
        for at in (0..count).step_by(LANES) {
            let mut half = [[none; MOST]; 3];
            for j in 0..3 {
                let mut column = [none; 3];
                for i in 0..3 {
                    // SAFETY: the caller's elements.
                    column[i] = unsafe { T::load::<V>(from.add((i * 3 + j) * apart + at)) };
                }
                half[j] = S::kernel(column);
            }
            for i in 0..S::N {
                let row = S::kernel([half[0][i], half[1][i], half[2][i]]);
                for j in 0..S::N {
                    // SAFETY: as above.
                    unsafe { T::store(row[j], to.add((i * S::N + j) * plane + at)) };
                }
            }
        }
    }
}

/// Aᵀ p A of `tiles` tiles beside each other and one panel of `width` columns: point `e` of the
/// first tile lies at `from + e·plane`, the next tile `width` further on.
pub(super) fn output<S: TileSize>(
    level: Level,
    from: *const f32,
    plane: usize,
    tiles: usize,
    width: usize,
    to: &mut Pixels,
) {
    assert!(tiles * S::M * S::M * width <= FLOATS, "a run has 64 pixels at most");
    output_lanes::<S>(level, from, plane, tiles, width, to);
}

vectorised! {
    fn output_lanes<V, S: TileSize>(
        from: *const f32,
        plane: usize,
        tiles: usize,
        width: usize,
        to: &mut Pixels,
    ) {
        let none = V::splat(0.0);
        for tile in 0..tiles {
            for column in (0..width).step_by(LANES) {
                // SAFETY: the caller's sums; the run fits the buffer, as its maker asserted.
                unsafe {
                    let from = from.add(tile * width + column);
                    let mut half = [[none; MOST]; MOST];
                    for j in 0..S::N {
                        let mut points = [none; MOST];
                        for i in 0..S::N {
                            points[i] = V::load(from.add((i * S::N + j) * plane));
                        }
                        half[j] = S::output(points);
                    }
                    for h in 0..S::M {
                        let mut row = [none; MOST];
                        for j in 0..S::N {
                            row[j] = half[j][h];
                        }
                        let row = S::output(row);
                        for w in 0..S::M {
                            let pixel = (h * tiles + tile) * S::M + w;
                            row[w].store(to.0.as_mut_ptr().add(pixel * width + column));
                        }
                    }
                }
            }
        }
    }
}
