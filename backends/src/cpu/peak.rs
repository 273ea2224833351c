//! Measures what this machine can do at most: arithmetic from registers, and copying memory.
//!
//! Reports relate kernels to these ceilings. Each thread takes the best of many short runs, so
//! that other programs on the machine disturb the figures little; the sum over threads is given.

use super::amx::{self, Tiles};
use super::simd::Level;
use super::threads::Pool;
use crate::device::Throughput;
use std::hint::black_box;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Bytes each thread copies from and to; past any share of a last-level cache.
const COPY: usize = 64 << 20;

/// Multiply-adds in a row in one timed run, on each of the sums.
const STEPS: usize = 100_000;

/// Measures all ceilings, spending about `each` on every one of them.
///
/// Not to be called from inside a task of the pool: it needs all threads at once.
pub fn measure(pool: &Pool, level: Level, each: Duration) -> Throughput {
    let (level, tiles) = (level.usable(), level.tiles());
    let f32_gflops = sum(pool, &|| best(each, || arithmetic(level, false)));
    let bf16_gflops = match tiles {
        Some(tiles) => Some(sum(pool, &|| best(each, || amx::peak::burn(tiles)))),
        None => (level >= Level::Avx512Bf16)
            .then(|| sum(pool, &|| best(each, || arithmetic(level, true)))),
    };
    let copy_gb_per_second = sum(pool, &|| {
        let from = vec![1u8; COPY];
        let mut to = vec![0u8; COPY];
        best(each, || {
            to.copy_from_slice(black_box(&from));
            black_box(&mut to);
            2.0 * COPY as f64
        })
    });
    let pairs = match tiles {
        Some(Tiles::Instructions) => "tdpbf16ps",
        Some(Tiles::Emulated) => "tdpbf16ps in memory",
        None => instruction(level, true),
    };
    let instructions = [instruction(level, false), pairs];
    Throughput {
        threads: pool.threads(),
        f32_gflops,
        bf16_gflops,
        instructions,
        copy_gb_per_second,
    }
}

/// What [`arithmetic`] executes.
fn instruction(level: Level, pairs: bool) -> &'static str {
    match level {
        Level::Avx512Bf16 if pairs => "vdpbf16ps",
        Level::Avx512 | Level::Avx512Bf16 => "vfmadd (512 bits)",
        Level::Avx2 => "vfmadd (256 bits)",
        _ => "multiply and add",
    }
}

/// Runs `work` once on every thread at the same time and adds up what it returns.
fn sum(pool: &Pool, work: &(dyn Fn() -> f64 + Sync)) -> f64 {
    let total = Mutex::new(0.0);
    let start = std::sync::Barrier::new(pool.threads());
    pool.run(pool.threads(), &|_, _| {
        // Each thread waits here until all have a task, so none can take two.
        start.wait();
        let rate = work();
        *total.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += rate;
    });
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The best rate, in 10⁹ a second, of repeated runs that return their amount of work.
fn best(time: Duration, mut work: impl FnMut() -> f64) -> f64 {
    let begin = Instant::now();
    let mut rate = 0f64;
    loop {
        let start = Instant::now();
        let amount = work();
        rate = rate.max(amount / start.elapsed().as_secs_f64().max(1e-9) * 1e-9);
        if begin.elapsed() >= time {
            return rate;
        }
    }
}

/// Runs multiply-adds (or bf16 dot products) on independent sums; returns the operations done.
fn arithmetic(level: Level, pairs: bool) -> f64 {
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: the level was clamped to what the machine has.
        Level::Avx512Bf16 if pairs => return unsafe { x86::pairs_512() },
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Bf16 => return unsafe { x86::f32_512() },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { x86::f32_256() },
        _ => {}
    }
    let _ = (level, pairs);
    const SUMS: usize = 32;
    let (a, b) = (black_box([1.0f32; SUMS]), black_box([1e-9f32; SUMS]));
    let mut sums = black_box([0f32; SUMS]);
    for _ in 0..STEPS {
        for lane in 0..SUMS {
            sums[lane] = sums[lane] * a[lane] + b[lane];
        }
    }
    black_box(sums);
    (STEPS * SUMS * 2) as f64
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::STEPS;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Sums held in registers: more than latency × units, fewer than registers.
    const SUMS: usize = 20;

    macro_rules! burn {
        ($name:ident, $features:literal, $vector:ty, $zero:expr, $operands:expr, $step:ident,
         $sums:expr, $operations:expr) => {
            /// # Safety
            /// The machine has the features.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name() -> f64 {
                let (a, b) = black_box($operands);
                let mut sums: [$vector; $sums] = black_box([$zero; $sums]);
                for _ in 0..STEPS {
                    for lane in 0..$sums {
                        sums[lane] = $step(sums[lane], a, b);
                    }
                }
                black_box(sums);
                (STEPS * $sums * $operations) as f64
            }
        };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn fma_512(sum: __m512, a: __m512, b: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, sum)
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn fma_256(sum: __m256, a: __m256, b: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dot_512(sum: __m512, a: __m512bh, b: __m512bh) -> __m512 {
        _mm512_dpbf16_ps(sum, a, b)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn ones_bf16() -> __m512bh {
        _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3), _mm512_set1_ps(1e-3))
    }

    burn!(
        f32_512,
        "avx512f",
        __m512,
        _mm512_setzero_ps(),
        (_mm512_set1_ps(1e-3), _mm512_set1_ps(1e-3)),
        fma_512,
        SUMS,
        32
    );
    burn!(
        f32_256,
        "avx2,fma",
        __m256,
        _mm256_setzero_ps(),
        (_mm256_set1_ps(1e-3), _mm256_set1_ps(1e-3)),
        fma_256,
        12,
        16
    );
    burn!(
        pairs_512,
        "avx512f,avx512bf16",
        __m512,
        _mm512_setzero_ps(),
        (ones_bf16(), ones_bf16()),
        dot_512,
        SUMS,
        64
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_positive_at_every_level() {
        let pool = Pool::new(2);
        for level in Level::available() {
            let peak = measure(&pool, level, Duration::from_millis(2));
            assert_eq!(peak.threads, 2);
            assert!(peak.f32_gflops > 0.0 && peak.copy_gb_per_second > 0.0);
            assert_eq!(peak.bf16_gflops.is_some(), level >= Level::Avx512Bf16);
            let [wide, narrow] = peak.instructions;
            assert_eq!(wide != narrow, peak.bf16_gflops.is_some(), "{level:?}");
        }
    }
}
