//! Register tiles of the two products of attention, over words that hold one `f32` or a pair of
//! bf16 values, and the online softmax between them.
//!
//! Contract: queries lie along the lanes, so scores, maxima and sums of a query never cross lanes
//! and a query's result does not depend on its neighbours. Scores are stored key by key, each a
//! row of `16·C` queries. Sums run over the head dimension and over the keys in ascending order.

use std::marker::PhantomData;

use crate::cpu::math::lanes::Portable;
use crate::cpu::math::{LANES, Lanes, exp2, exp2_rough};
use crate::cpu::simd::Level;

use super::Precision;
use crate::cpu::amx::Tiles;

/// Work that is written once, for every kind of products.
pub(super) trait Work {
    /// Does it, in tiles of `R` rows.
    ///
    /// # Safety
    /// As the work says; the machine has what `P` takes.
    unsafe fn run<P: Products, const R: usize>(&self);
}

/// How products are formed: by the vectors of a level, on pairs if it says so, or by tiles.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) level: Level,
    pub(super) paired: bool,
    pub(super) tiles: Option<Tiles>,
}

impl Way {
    /// The way of a level. Tiles take pairs, which vectors make: without those that can, tiles in
    /// memory are of no use here.
    pub(super) fn new(level: Level, precision: Precision) -> Self {
        let (tiles, level) = (level.tiles(), level.usable());
        let paired = level == Level::Avx512Bf16 && precision == Precision::Bf16;
        Self { level, paired, tiles: tiles.filter(|_| paired) }
    }
}

/// Does `work` in a way.
///
/// # Safety
/// As the work says; the machine has what the way takes.
pub(super) unsafe fn run_at(Way { level, paired, tiles }: Way, work: &impl Work) {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if let Some(tiles) = tiles {
            return tiles.run(&x86::ByTiles(work));
        }
        let _ = tiles;
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 if paired => x86::pairs(work),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 => x86::avx512(work),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => x86::avx2(work),
            _ => work.run::<Single<Portable>, 2>(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::tiled::Tiled;
    use super::{Pairs, Single, Work};
    use crate::cpu::amx::{TileOps, TileWork};
    use crate::cpu::math::lanes_x86::{Avx2, Avx512};

    /// Work on the tiles of a thread.
    pub(super) struct ByTiles<'a, W>(pub(super) &'a W);

    impl<W: Work> TileWork for ByTiles<'_, W> {
        unsafe fn run<T: TileOps>(&self) {
            // SAFETY: the caller's promise.
            unsafe { tiles::<T>(self.0) }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
    unsafe fn tiles<T: TileOps>(work: &impl Work) {
        // SAFETY: the caller's promise.
        unsafe { work.run::<Tiled<T>, 16>() }
    }

    macro_rules! compiled {
        ($name:ident, $features:literal, $products:ty) => {
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name(work: &impl Work) {
                // SAFETY: the caller's promise.
                unsafe { work.run::<$products, 6>() }
            }
        };
    }
    compiled!(pairs, "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c", Pairs);
    compiled!(avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c", Single<Avx512>);
    compiled!(avx2, "avx2,fma,f16c", Single<Avx2>);
}

/// How products of words are formed and summed.
pub(super) trait Products {
    /// The accumulators.
    type V: Lanes;
    /// Sixteen words in a register.
    type Words: Copy;
    /// Whether a word is a pair of bf16 values.
    const PAIRED: bool;
    /// Sixteen words from `at`.
    ///
    /// # Safety
    /// `at..at+16` is readable.
    unsafe fn words(at: *const f32) -> Self::Words;
    /// One word in every lane.
    ///
    /// # Safety
    /// `at` is readable.
    unsafe fn repeat(at: *const f32) -> Self::Words;
    /// `sum + a·b`, for pairs both products.
    fn accumulate(sum: Self::V, a: Self::Words, b: Self::Words) -> Self::V;
    /// Stores the probabilities of two successive keys as words: two rows `width` apart, or one
    /// row of pairs.
    ///
    /// # Safety
    /// The rows written lie in the scores block.
    unsafe fn store_pair(first: Self::V, second: Self::V, at: *mut f32, width: usize);
    /// Stores a row as words, which for pairs are successive values.
    ///
    /// # Safety
    /// `16·C` words from `at` on are writable.
    unsafe fn store_row<const C: usize>(row: [Self::V; C], at: *mut f32);

    /// Whether they are formed by tiles, see [`tiled`](super::tiled).
    const TILED: bool = false;

    /// See [`score`].
    ///
    /// # Safety
    /// As of [`score`].
    #[inline(always)]
    unsafe fn score<const R: usize, const C: usize>(
        queries: *const f32,
        keys: *const f32,
        stride: usize,
        depth: usize,
        count: usize,
        scores: *mut f32,
    ) where
        Self: Sized,
    {
        // SAFETY: the caller's promise.
        unsafe { score::<Self, R, C>(queries, keys, stride, depth, count, scores) }
    }

    /// See [`mix`]; the weights may be filled up to whole tiles.
    ///
    /// # Safety
    /// As of [`mix`].
    #[inline(always)]
    unsafe fn mix<const R: usize, const C: usize>(
        weights: *mut f32,
        values: *const f32,
        stride: usize,
        steps: usize,
        dims: usize,
        output: *mut f32,
        running: Running,
        older: bool,
    ) where
        Self: Sized,
    {
        // SAFETY: the caller's promise.
        unsafe { mix::<Self, R, C>(weights, values, stride, steps, dims, output, running, older) }
    }

    /// See [`add`]: factors with the words from one row and from one step to the next, lines and sums
    /// with those between rows; the lines may be filled up to whole tiles.
    ///
    /// # Safety
    /// As of [`add`].
    #[inline(always)]
    unsafe fn add<const R: usize, const C: usize>(
        factors: (*const f32, [usize; 2]),
        lines: (*mut f32, usize),
        steps: usize,
        rows: usize,
        sums: (*mut f32, usize),
        older: bool,
    ) where
        Self: Sized,
    {
        // SAFETY: the caller's promise.
        unsafe { add::<Self, R, C>(factors, lines, steps, rows, sums, older) }
    }
}

/// Products of `f32` words.
pub(super) struct Single<V>(PhantomData<V>);

impl<V: Lanes> Products for Single<V> {
    type V = V;
    type Words = V;
    const PAIRED: bool = false;
    #[inline(always)]
    unsafe fn words(at: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { V::load(at) }
    }
    #[inline(always)]
    unsafe fn repeat(at: *const f32) -> V {
        // SAFETY: the caller's promise.
        V::splat(unsafe { *at })
    }
    #[inline(always)]
    fn accumulate(sum: V, a: V, b: V) -> V {
        a.fma(b, sum)
    }
    #[inline(always)]
    unsafe fn store_pair(first: V, second: V, at: *mut f32, width: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            first.store(at);
            second.store(at.add(width));
        }
    }
    #[inline(always)]
    unsafe fn store_row<const C: usize>(row: [V; C], at: *mut f32) {
        for (c, value) in row.into_iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { value.store(at.add(c * LANES)) };
        }
    }
}

/// Products of bf16 pairs by `vdpbf16ps`.
#[cfg(target_arch = "x86_64")]
pub(super) struct Pairs;

#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{LANES, Lanes, Pairs, Products};
    use crate::cpu::math::lanes_x86::Avx512;

    impl Products for Pairs {
        type V = Avx512;
        type Words = __m512i;
        const PAIRED: bool = true;
        #[inline(always)]
        unsafe fn words(at: *const f32) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_si512(at.cast()) }
        }
        #[inline(always)]
        unsafe fn repeat(at: *const f32) -> __m512i {
            // SAFETY: the caller's promise.
            unsafe { _mm512_set1_epi32(*at.cast::<i32>()) }
        }
        #[inline(always)]
        fn accumulate(sum: Avx512, a: __m512i, b: __m512i) -> Avx512 {
            // SAFETY: reached only from code compiled for AVX-512 BF16; both types are 512 bits.
            Avx512(unsafe {
                _mm512_dpbf16_ps(
                    sum.0,
                    transmute::<__m512i, __m512bh>(a),
                    transmute::<__m512i, __m512bh>(b),
                )
            })
        }
        #[inline(always)]
        unsafe fn store_pair(first: Avx512, second: Avx512, at: *mut f32, _width: usize) {
            // SAFETY: the caller's promise; rounding each and shifting into halves keeps the first
            // key in the lower half, as the values have it.
            unsafe {
                let low = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(first.0));
                let high = transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(second.0));
                let low = _mm512_cvtepu16_epi32(low);
                let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high));
                _mm512_storeu_si512(at.cast(), _mm512_or_si512(low, high));
            }
        }
        #[inline(always)]
        unsafe fn store_row<const C: usize>(row: [Avx512; C], at: *mut f32) {
            for c in (0..C).step_by(2) {
                let second = if c + 1 < C { row[c + 1] } else { Avx512::splat(0.0) };
                // SAFETY: the caller's promise; half as many words as values, filled up to sixteen.
                unsafe {
                    let pairs = _mm512_cvtne2ps_pbh(second.0, row[c].0);
                    let pairs = transmute::<__m512bh, __m512i>(pairs);
                    _mm512_storeu_si512(at.add(c / 2 * LANES).cast(), pairs);
                }
            }
        }
    }
}

/// `sums[r][c] + Σ_step a[r·a_row + step·a_step] · b[step·b_step + 16c ..]`.
///
/// # Safety
/// All the places named are readable.
#[inline(always)]
unsafe fn tile<P: Products, const R: usize, const C: usize>(
    mut sums: [[P::V; C]; R],
    steps: usize,
    a: *const f32,
    [a_row, a_step]: [usize; 2],
    b: *const f32,
    b_step: usize,
) -> [[P::V; C]; R] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut a = a;
        let mut b = b;
        for _ in 0..steps {
            let mut columns = [P::words(b); C];
            for c in 1..C {
                columns[c] = P::words(b.add(c * LANES));
            }
            for r in 0..R {
                let factor = P::repeat(a.add(r * a_row));
                for c in 0..C {
                    sums[r][c] = P::accumulate(sums[r][c], factor, columns[c]);
                }
            }
            a = a.add(a_step);
            b = b.add(b_step);
        }
    }
    sums
}

/// sums[row] += Σ_step factors[row][step] · lines[step] for `rows` rows, a multiple of `R`, of `16·C`
/// lanes; without `older` the sums start at zero.
///
/// # Safety
/// `factors` holds `[rows][steps]` words, `lines` `[steps]` rows and `sums` `[rows]` rows of the lanes.
#[inline(always)]
unsafe fn add<P: Products, const R: usize, const C: usize>(
    (factors, apart): (*const f32, [usize; 2]),
    (lines, line): (*mut f32, usize),
    steps: usize,
    rows: usize,
    (sums, stride): (*mut f32, usize),
    older: bool,
) {
    for row in (0..rows).step_by(R) {
        // SAFETY: rows row..row+R lie inside the factors and the sums.
        unsafe {
            let at = sums.add(row * stride);
            let mut made = [[P::V::splat(0.0); C]; R];
            if older {
                for r in 0..R {
                    for c in 0..C {
                        made[r][c] = P::V::load(at.add(r * stride + c * LANES));
                    }
                }
            }
            let from = factors.add(row * apart[0]);
            let made = tile::<P, R, C>(made, steps, from, apart, lines, line);
            for r in 0..R {
                for c in 0..C {
                    made[r][c].store(at.add(r * stride + c * LANES));
                }
            }
        }
    }
}

/// Depth of a run of the score product: its part of the queries stays in the first-level cache.
const RUN: usize = 128;

/// scores[key][query] = Σ_d keys[key][d]·queries[d][query] for `count` keys, a multiple of `R`.
///
/// # Safety
/// `queries` holds `[depth][16C]` words, `keys` `[count][stride]` with `stride ≥ depth`; `scores`
/// has room for `[count][16C]`.
#[inline(always)]
unsafe fn score<P: Products, const R: usize, const C: usize>(
    queries: *const f32,
    keys: *const f32,
    stride: usize,
    depth: usize,
    count: usize,
    scores: *mut f32,
) {
    let width = C * LANES;
    for from in (0..depth).step_by(RUN) {
        let steps = RUN.min(depth - from);
        for key in (0..count).step_by(R) {
            // SAFETY: rows key..key+R and depths from..from+steps lie inside all three blocks.
            unsafe {
                let at = scores.add(key * width);
                let mut sums = [[P::V::splat(0.0); C]; R];
                if from > 0 {
                    for r in 0..R {
                        for c in 0..C {
                            sums[r][c] = P::V::load(at.add(r * width + c * LANES));
                        }
                    }
                }
                let row = keys.add(key * stride + from);
                let sums = tile::<P, R, C>(
                    sums,
                    steps,
                    row,
                    [stride, 1],
                    queries.add(from * width),
                    width,
                );
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c].store(at.add(r * width + c * LANES));
                    }
                }
            }
        }
    }
}

/// Running state of one tile of queries, each a row of `16·C` values: the maximum in units of
/// log2, the sum of the weights, and the factor that brings older sums to the newest maximum.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// Row of maxima; the other two rows follow `width` and `2·width` behind.
    pub(super) at: *mut f32,
}

/// Start of the running maximum: finite, so that keys masked so far give no NaN. A query that ends
/// there is computed anew, see [`exact`](super::exact).
pub(super) const LOWEST: f32 = -1e30;

/// Raises the scores of a key, before they are multiplied by `scale`, so that it counts `times` times.
///
/// # Safety
/// `scores` holds `[key + 1][16C]`.
#[inline(always)]
pub(super) unsafe fn raise<P: Products, const C: usize>(
    scores: *mut f32,
    key: usize,
    times: usize,
    scale: f32,
) {
    if times == 1 {
        return;
    }
    let more = P::V::splat(((times as f64).ln() / f64::from(scale)) as f32);
    for c in 0..C {
        // SAFETY: the row of the key is inside.
        unsafe {
            let at = scores.add((key * C + c) * LANES);
            P::V::load(at).add(more).store(at);
        }
    }
}

/// Turns `count` rows of scores into weights 2^(factor·score − maximum), in the words of the
/// product, and brings the running state up to date. With a bias the score is first
/// `scale·score + bias[query − key]`; the bias of the first query and key stands at its pointer,
/// that of a later query after it, that of a later key before it.
///
/// # Safety
/// `scores` holds `[count + 1][16C]`, `running` `[3][16C]`; the bias reaches `count` places back
/// and `16C` forward.
#[inline(always)]
pub(super) unsafe fn weigh<P: Products, const C: usize>(
    scores: *mut f32,
    count: usize,
    factor: f32,
    bias: Option<(f32, *const f32)>,
    round: bool,
    running: Running,
) {
    let width = C * LANES;
    let factor = P::V::splat(factor);
    // SAFETY: every pointer stays inside the blocks that the caller promised.
    unsafe {
        let mut largest = [P::V::splat(f32::NEG_INFINITY); C];
        for key in 0..count {
            for c in 0..C {
                let at = scores.add(key * width + c * LANES);
                let mut value = P::V::load(at);
                if let Some((scale, bias)) = bias {
                    let bias = P::V::load(bias.sub(key).add(c * LANES));
                    value = value.fma(P::V::splat(scale), bias);
                    value.store(at);
                }
                largest[c] = largest[c].max(value);
            }
        }
        let mut maximum = [P::V::splat(0.0); C];
        let mut sum = maximum;
        for c in 0..C {
            let at = running.at.add(c * LANES);
            let old = P::V::load(at);
            maximum[c] = largest[c].mul(factor).max(old);
            let shrink = exp2(old.sub(maximum[c]));
            maximum[c].store(at);
            sum[c] = P::V::load(at.add(width)).mul(shrink);
            shrink.store(at.add(2 * width));
        }
        let rough = P::PAIRED || round;
        for c in 0..C {
            maximum[c] = maximum[c].neg();
        }
        for key in (0..count).step_by(2) {
            // Pairs take one row for two keys: row key/2 lies at or before the rows just read.
            let row = if P::PAIRED { key / 2 } else { key };
            for c in 0..C {
                let at = scores.add(key * width + c * LANES);
                let mut first = power(P::V::load(at).fma(factor, maximum[c]), rough);
                let mut second = P::V::splat(0.0);
                sum[c] = sum[c].add(first);
                if key + 1 < count {
                    let next = P::V::load(at.add(width));
                    second = power(next.fma(factor, maximum[c]), rough);
                    sum[c] = sum[c].add(second);
                }
                if round && !P::PAIRED {
                    (first, second) = (first.round_bf16(), second.round_bf16());
                }
                P::store_pair(first, second, scores.add(row * width + c * LANES), width);
            }
        }
        for c in 0..C {
            sum[c].store(running.at.add(width + c * LANES));
        }
    }
}

#[inline(always)]
pub(super) fn power<V: Lanes>(exponent: V, rough: bool) -> V {
    if rough { exp2_rough(exponent) } else { exp2(exponent) }
}

/// output[d][query] = output·shrink + Σ_step values[step][d]·weights[step][query] for `dims`
/// values of d, a multiple of `R`; without `older` the output starts at zero.
///
/// # Safety
/// `values` holds `[steps][stride]` with `stride ≥ dims`, `weights` `[steps][16C]`, `output`
/// `[dims][16C]`, `running` its three rows.
#[inline(always)]
unsafe fn mix<P: Products, const R: usize, const C: usize>(
    weights: *const f32,
    values: *const f32,
    stride: usize,
    steps: usize,
    dims: usize,
    output: *mut f32,
    running: Running,
    older: bool,
) {
    let width = C * LANES;
    for d in (0..dims).step_by(R) {
        // SAFETY: rows d..d+R lie inside the output and inside a row of values.
        unsafe {
            let at = output.add(d * width);
            let mut sums = [[P::V::splat(0.0); C]; R];
            if older {
                for c in 0..C {
                    let shrink = P::V::load(running.at.add(2 * width + c * LANES));
                    for r in 0..R {
                        sums[r][c] = P::V::load(at.add(r * width + c * LANES)).mul(shrink);
                    }
                }
            }
            let sums = tile::<P, R, C>(sums, steps, values.add(d), [1, stride], weights, width);
            for r in 0..R {
                for c in 0..C {
                    sums[r][c].store(at.add(r * width + c * LANES));
                }
            }
        }
    }
}
