//! Moves without arithmetic: permutation of axes by element size, and nearest upsampling by two.
//!
//! Contract: bits are copied unchanged. Elements are of any plain type; only its size matters.

use bytemuck::{Pod, cast_slice};

use super::super::math::{LANES, vectorised};
use super::super::simd::Level;
use super::super::threads::{Pool, SharedPtr};
use super::elementwise::MOST_AXES;
use super::{TASK, each_chunk};

/// Result axes with the source's strides: axes of size 1 dropped, neighbours merged.
#[derive(Clone, Copy)]
struct Axes {
    rank: usize,
    sizes: [usize; MOST_AXES],
    from: [usize; MOST_AXES],
}

impl Axes {
    fn new(dims: &[usize], order: &[usize]) -> Self {
        assert!(
            dims.len() <= MOST_AXES && order.len() == dims.len(),
            "up to {MOST_AXES} axes, all ordered"
        );
        let mut strides = [0; MOST_AXES];
        let mut stride = 1;
        for axis in (0..dims.len()).rev() {
            strides[axis] = stride;
            stride *= dims[axis];
        }
        let mut seen = [false; MOST_AXES];
        let mut axes = Self { rank: 0, sizes: [1; MOST_AXES], from: [0; MOST_AXES] };
        for &axis in order {
            assert!(axis < dims.len() && !seen[axis], "the order is no permutation of the axes");
            seen[axis] = true;
            let (size, from) = (dims[axis], strides[axis]);
            if size == 1 {
                continue;
            }
            let last = axes.rank.wrapping_sub(1);
            if axes.rank > 0 && axes.from[last] == from * size {
                axes.sizes[last] *= size;
                axes.from[last] = from;
            } else {
                axes.sizes[axes.rank] = size;
                axes.from[axes.rank] = from;
                axes.rank += 1;
            }
        }
        if axes.rank == 0 {
            axes.rank = 1;
            axes.from[0] = 1;
        }
        axes
    }
}

/// Side of the squares that move through the cache when the innermost axis changes.
const SQUARE: usize = 64;

/// Writes `source`, a dense array of `dims`, with its axes in another order: axis i of the result
/// is axis `order[i]` of the source.
///
/// # Panics
/// When the sizes do not agree or `order` is no permutation.
pub fn permute<T: Pod + Send + Sync>(
    pool: &Pool,
    level: Level,
    source: &[T],
    dims: &[usize],
    order: &[usize],
    target: &mut [T],
) {
    let axes = Axes::new(dims, order);
    let count: usize = dims.iter().product();
    assert!(source.len() == count && target.len() == count, "sizes do not agree");
    if count == 0 {
        return;
    }
    let last = axes.rank - 1;
    if axes.from[last] == 1 {
        return runs(pool, source, &axes, target);
    }
    // The source's innermost axis stands at `moved` in the result; squares of it and the result's
    // innermost axis are turned over, for every index of the other axes.
    let moved = (0..axes.rank).find(|&axis| axes.from[axis] == 1).expect("one axis has stride 1");
    let mut to = [1; MOST_AXES];
    for axis in (0..last).rev() {
        to[axis] = to[axis + 1] * axes.sizes[axis + 1];
    }
    let (height, width) = (axes.sizes[moved], axes.sizes[last]);
    let (down, across) = (height.div_ceil(SQUARE), width.div_ceil(SQUARE));
    let others = count / height / width;
    let base = SharedPtr::new(target.as_mut_ptr());
    let group = (TASK / SQUARE / SQUARE).max(1);
    let units = others * down * across;
    pool.run(units.div_ceil(group), &|task, _| {
        for unit in task * group..units.min((task + 1) * group) {
            let (mut index, square) = (unit / (down * across), unit % (down * across));
            let (row, column) = (square / across * SQUARE, square % across * SQUARE);
            let (mut at, mut out) = (0, 0);
            for axis in (0..last).rev().filter(|&axis| axis != moved) {
                let place = index % axes.sizes[axis];
                index /= axes.sizes[axis];
                at += place * axes.from[axis];
                out += place * to[axis];
            }
            let step = axes.from[last];
            let rows = SQUARE.min(height - row);
            let columns = SQUARE.min(width - column);
            let source = &source[at + row + column * step..];
            // SAFETY: the square lies inside the target and belongs to this unit alone.
            unsafe {
                let target = base.get().add(out + row * to[moved] + column);
                turn(level, source, step, rows, columns, target, to[moved]);
            }
        }
    });
}

/// target[r·stride + c] = source[c·step + r].
///
/// # Safety
/// The places named are writable and nobody else's; `source` is long enough.
unsafe fn turn<T: Pod>(
    level: Level,
    source: &[T],
    step: usize,
    rows: usize,
    columns: usize,
    target: *mut T,
    stride: usize,
) {
    // Whole blocks go through registers; the rest below.
    let (mut done_rows, mut done_columns) = (0, 0);
    let held = SharedPtr::new(target.cast::<u8>());
    match (size_of::<T>(), align_of::<T>()) {
        (4, 4) => {
            (done_rows, done_columns) = (rows / LANES * LANES, columns / LANES * LANES);
            let source = cast_slice::<T, u32>(source);
            turn_words(level, source, step, done_rows, done_columns, held, stride);
        }
        (2, 2) => {
            done_rows = rows / LANES * LANES;
            done_columns = columns / (2 * LANES) * 2 * LANES;
            let source = cast_slice::<T, u16>(source);
            turn_halves(level, source, step, done_rows, done_columns, held, stride);
        }
        _ => {}
    }
    for row in 0..rows {
        let first = if row < done_rows { done_columns } else { 0 };
        for column in first..columns {
            // SAFETY: the caller's promise.
            unsafe { target.add(row * stride + column).write(source[column * step + row]) };
        }
    }
}

vectorised! {
    /// [`turn`] for words, under its promise; rows and columns are multiples of 16.
    fn turn_words<V>(
        source: &[u32], step: usize, rows: usize, columns: usize, target: SharedPtr<u8>,
        stride: usize
    ) {
        let target = target.get().cast::<f32>();
        for row in (0..rows).step_by(LANES) {
            for column in (0..columns).step_by(LANES) {
                let mut block = [V::splat(0.0); LANES];
                for (index, lane) in block.iter_mut().enumerate() {
                    let from = &source[(column + index) * step + row..][..LANES];
                    // SAFETY: sixteen words, moved as bits.
                    *lane = unsafe { V::load(from.as_ptr().cast()) };
                }
                V::transpose(&mut block);
                for (index, lane) in block.into_iter().enumerate() {
                    // SAFETY: the promise of `turn`.
                    unsafe { lane.store(target.add((row + index) * stride + column)) };
                }
            }
        }
    }
}

vectorised! {
    /// [`turn`] for elements of two bytes, under its promise: pairs of columns are joined to words.
    /// Rows are a multiple of 16, columns of 32.
    fn turn_halves<V>(
        source: &[u16], step: usize, rows: usize, columns: usize, target: SharedPtr<u8>,
        stride: usize
    ) {
        let target = target.get().cast::<u16>();
        for row in (0..rows).step_by(LANES) {
            for column in (0..columns).step_by(2 * LANES) {
                let mut block = [V::splat(0.0); LANES];
                for (index, lane) in block.iter_mut().enumerate() {
                    let at = (column + 2 * index) * step + row;
                    let (low, high) = (&source[at..][..LANES], &source[at + step..][..LANES]);
                    let mut words = [0_u32; LANES];
                    for ((word, &low), &high) in words.iter_mut().zip(low).zip(high) {
                        *word = u32::from(low) | u32::from(high) << 16;
                    }
                    // SAFETY: sixteen words, moved as bits.
                    *lane = unsafe { V::load(words.as_ptr().cast()) };
                }
                V::transpose(&mut block);
                for (index, lane) in block.into_iter().enumerate() {
                    // SAFETY: the promise of `turn`; stores ask for no alignment.
                    unsafe { lane.store(target.add((row + index) * stride + column).cast()) };
                }
            }
        }
    }
}

/// The innermost axis stays: runs of it are copied.
fn runs<T: Pod + Send + Sync>(pool: &Pool, source: &[T], axes: &Axes, target: &mut [T]) {
    let last = axes.rank - 1;
    let run = axes.sizes[last];
    let start = |mut index: usize| {
        let mut at = 0;
        for axis in (0..last).rev() {
            at += index % axes.sizes[axis] * axes.from[axis];
            index /= axes.sizes[axis];
        }
        at
    };
    if last == 0 {
        return each_chunk(pool, target, TASK, &|first, part| {
            part.copy_from_slice(&source[first..first + part.len()]);
        });
    }
    each_chunk(pool, target, (TASK / run).max(1) * run, &|first, part| {
        for (index, run_out) in part.chunks_exact_mut(run).enumerate() {
            let at = start(first / run + index);
            run_out.copy_from_slice(&source[at..at + run]);
        }
    });
}

/// Doubles height and width of [frames, height, width, channels] by repeating every pixel.
///
/// # Panics
/// When the sizes do not agree.
pub fn upsample_nearest<T: Pod + Send + Sync>(
    pool: &Pool,
    source: &[T],
    (frames, height, width, channels): (usize, usize, usize, usize),
    target: &mut [T],
) {
    let row = width * channels;
    assert_eq!(source.len(), frames * height * row, "source size");
    assert_eq!(target.len(), 4 * source.len(), "target size");
    if source.is_empty() {
        return;
    }
    let rows = (TASK / (4 * row)).max(1);
    each_chunk(pool, target, rows * 4 * row, &|first, part| {
        let from = &source[first / 4..];
        for (from, pair) in from.chunks_exact(row).zip(part.chunks_exact_mut(4 * row)) {
            let (upper, lower) = pair.split_at_mut(2 * row);
            let pixels = from.chunks_exact(channels);
            for (pixel, out) in pixels.zip(upper.chunks_exact_mut(2 * channels)) {
                let (left, right) = out.split_at_mut(channels);
                left.copy_from_slice(pixel);
                right.copy_from_slice(pixel);
            }
            lower.copy_from_slice(upper);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Pod + Send + Sync + PartialEq + std::fmt::Debug>(
        dims: &[usize],
        order: &[usize],
        make: fn(u32) -> T,
    ) {
        let count: usize = dims.iter().product();
        let source: Vec<T> = (0..count as u32).map(make).collect();
        let sizes: Vec<usize> = order.iter().map(|&axis| dims[axis]).collect();
        let mut want = Vec::new();
        for mut index in 0..count {
            let mut place = vec![0; dims.len()];
            for axis in (0..sizes.len()).rev() {
                place[order[axis]] = index % sizes[axis];
                index /= sizes[axis];
            }
            let at = dims.iter().zip(&place).fold(0, |at, (n, i)| at * n + i);
            want.push(source[at]);
        }
        for level in Level::available() {
            let mut got = vec![T::zeroed(); count];
            permute(&Pool::new(2), level, &source, dims, order, &mut got);
            assert_eq!(got, want, "{dims:?} {order:?} {level:?}");
        }
    }

    #[test]
    fn permutations_of_every_element_size() {
        let cases: [(&[usize], &[usize]); 10] = [
            (&[5], &[0]),
            (&[3, 7], &[1, 0]),
            (&[130, 67], &[1, 0]),
            (&[2, 3, 4, 5], &[0, 2, 1, 3]),
            (&[48, 2, 6, 10], &[1, 2, 3, 0]),
            (&[2, 6, 70, 33], &[0, 3, 1, 2]),
            (&[2, 3, 2, 3, 2, 3, 2, 2], &[7, 1, 3, 5, 0, 2, 4, 6]),
            (&[1, 16, 1, 16], &[3, 0, 1, 2]),
            (&[1, 1], &[1, 0]),
            (&[0, 4], &[1, 0]),
        ];
        for (dims, order) in cases {
            check(dims, order, |i| i as u8);
            check(dims, order, |i| i as u16 ^ 0x7f80);
            check(dims, order, |i| i ^ 0x7f80_0000);
            check(dims, order, f32::from_bits);
            check(dims, order, |i| u64::from(i) << 20);
        }
        check(&[], &[], |i| i);
    }

    #[test]
    #[should_panic(expected = "no permutation")]
    fn repeated_axes_are_refused() {
        permute(&Pool::new(1), Level::Portable, &[0_u8; 4], &[2, 2], &[0, 0], &mut [0; 4]);
    }

    #[test]
    fn upsampling_repeats_pixels() {
        for (t, h, w, c) in [(1, 1, 1, 1), (2, 3, 5, 3), (2, 9, 20, 40)] {
            let source: Vec<u16> = (0..t * h * w * c).map(|i| i as u16).collect();
            let mut got = vec![0; 4 * source.len()];
            upsample_nearest(&Pool::new(2), &source, (t, h, w, c), &mut got);
            for (index, &value) in got.iter().enumerate() {
                let (channel, x) = (index % c, index / c % (2 * w));
                let (y, frame) = (index / c / (2 * w) % (2 * h), index / c / (4 * w * h));
                assert_eq!(value, source[((frame * h + y / 2) * w + x / 2) * c + channel]);
            }
        }
    }
}
