//! What happens to a finished tile on its way out: bias, activation, residual and gate, rounding.
//!
//! Works on 16 columns at a time in plain Rust; each level compiles the same code with its own
//! instructions. The exponential is good to about 1e-7 relative, so GELU and SiLU agree with an
//! f64 evaluation to a few 1e-7 of their value.

use super::super::simd::Level;
use super::micro::LANES;
use super::{Activation, Combine, Epilogue, Gate, Output};
use half::bf16;

/// The output and everything the epilogue reads, as pointers that tasks share.
pub(crate) struct Finish<'a> {
    level: Level,
    bias: Option<&'a [f32]>,
    activation: Activation,
    residual: Option<(*const f32, usize)>,
    gate: Option<Gate<'a>>,
    out: Target,
    stride: usize,
}

enum Target {
    F32(*mut f32),
    Bf16(*mut bf16),
}

// SAFETY: tasks write disjoint tiles of the output, and read the residual at the same places only.
unsafe impl Sync for Finish<'_> {}

impl<'a> Finish<'a> {
    /// Checks all shapes of the epilogue for an `m`×`n` product.
    ///
    /// # Panics
    /// If a slice is too short, a segment has no gate row, or an in-place residual is not f32.
    pub(crate) fn new(
        level: Level,
        m: usize,
        n: usize,
        epilogue: &Epilogue<'a>,
        output: Output<'a>,
    ) -> Finish<'a> {
        let (out, len, stride) = match output {
            Output::F32 { data, stride } => (Target::F32(data.as_mut_ptr()), data.len(), stride),
            Output::Bf16 { data, stride } => (Target::Bf16(data.as_mut_ptr()), data.len(), stride),
        };
        check("output", m, n, stride, len);
        if let Some(bias) = epilogue.bias {
            assert!(bias.len() == n, "bias has {} elements for {n} columns", bias.len());
        }
        let mut gate = None;
        let residual = match epilogue.combine {
            Combine::Store => None,
            Combine::InPlace { gate: scale } => {
                gate = scale;
                let Target::F32(out) = out else {
                    panic!("a residual in place needs an f32 output");
                };
                Some((out.cast_const(), stride))
            }
            Combine::Residual { data, stride, gate: scale } => {
                gate = scale;
                check("residual", m, n, stride, data.len());
                Some((data.as_ptr(), stride))
            }
        };
        if let Some(gate) = gate {
            let last = match gate.segments {
                None => 0,
                Some(segments) => {
                    assert!(segments.len() >= m, "{} segments for {m} rows", segments.len());
                    segments[..m].iter().copied().max().unwrap_or(0) as usize
                }
            };
            // Rows of factors are only read, so they may lie over each other.
            let end = last.checked_mul(gate.stride).and_then(|start| start.checked_add(n));
            let len = gate.data.len();
            assert!(end.is_some_and(|end| end <= len), "gate has {len} elements, too few");
        }
        let (bias, activation) = (epilogue.bias, epilogue.activation);
        Finish { level, bias, activation, residual, gate, out, stride }
    }

    /// Writes `rows`×`columns` of a tile whose rows are `width` floats apart to the output at
    /// (`row`, `column`).
    ///
    /// # Safety
    /// The tile holds the rows, the place lies inside the output, and no other task touches it.
    pub(crate) unsafe fn tile(
        &self,
        tile: *const f32,
        width: usize,
        (row, column): (usize, usize),
        (rows, columns): (usize, usize),
    ) {
        // SAFETY: the caller's promise; the level was clamped to the machine's.
        unsafe {
            match self.level {
                #[cfg(target_arch = "x86_64")]
                Level::Avx512 | Level::Avx512Bf16 => {
                    tile_512(self, tile, width, row, column, rows, columns);
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => tile_256(self, tile, width, row, column, rows, columns),
                _ => self.each::<false>(tile, width, row, column, rows, columns),
            }
        }
    }

    #[inline(always)]
    unsafe fn each<const FMA: bool>(
        &self,
        tile: *const f32,
        width: usize,
        row: usize,
        column: usize,
        rows: usize,
        columns: usize,
    ) {
        // SAFETY: `tile`'s contract; `read` and `write` touch `lanes` elements only.
        unsafe {
            for r in 0..rows {
                let i = row + r;
                let gate = self.gate.map(|gate| {
                    let segment = gate.segments.map_or(0, |segments| segments[i] as usize);
                    gate.data.as_ptr().add(segment * gate.stride)
                });
                for first in (0..columns).step_by(LANES) {
                    let j = column + first;
                    let lanes = (columns - first).min(LANES);
                    let mut y = read(tile.add(r * width + first), LANES);
                    if let Some(bias) = self.bias {
                        let bias = read(bias.as_ptr().add(j), lanes);
                        for lane in 0..LANES {
                            y[lane] += bias[lane];
                        }
                    }
                    match self.activation {
                        Activation::None => {}
                        Activation::GeluTanh => {
                            for lane in 0..LANES {
                                y[lane] = gelu_tanh::<FMA>(y[lane]);
                            }
                        }
                        Activation::Silu => {
                            for lane in 0..LANES {
                                y[lane] = silu::<FMA>(y[lane]);
                            }
                        }
                    }
                    if let Some(gate) = gate {
                        let gate = read(gate.add(j), lanes);
                        for lane in 0..LANES {
                            y[lane] *= gate[lane];
                        }
                    }
                    if let Some((residual, stride)) = self.residual {
                        let residual = read(residual.add(i * stride + j), lanes);
                        for lane in 0..LANES {
                            y[lane] += residual[lane];
                        }
                    }
                    match self.out {
                        Target::F32(out) => write(out.add(i * self.stride + j), &y, lanes),
                        Target::Bf16(out) => {
                            let rounded = y.map(|y| bf16::from_bits(super::rows::narrow_one(y)));
                            write(out.add(i * self.stride + j), &rounded, lanes);
                        }
                    }
                }
            }
        }
    }
}

fn check(what: &str, rows: usize, columns: usize, stride: usize, len: usize) {
    assert!(stride >= columns, "{what}: rows {stride} apart cannot hold {columns} columns");
    let needed = if rows == 0 { 0 } else { (rows - 1) * stride + columns };
    assert!(len >= needed, "{what} has {len} elements, needs {needed}");
}

/// # Safety
/// As [`Finish::tile`], and the machine has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
unsafe fn tile_512(
    finish: &Finish<'_>,
    tile: *const f32,
    width: usize,
    row: usize,
    column: usize,
    rows: usize,
    columns: usize,
) {
    // SAFETY: passed on.
    unsafe { finish.each::<true>(tile, width, row, column, rows, columns) }
}

/// # Safety
/// As [`Finish::tile`], and the machine has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_256(
    finish: &Finish<'_>,
    tile: *const f32,
    width: usize,
    row: usize,
    column: usize,
    rows: usize,
    columns: usize,
) {
    // SAFETY: passed on.
    unsafe { finish.each::<true>(tile, width, row, column, rows, columns) }
}

/// # Safety
/// `from` holds `lanes` elements.
#[inline(always)]
unsafe fn read(from: *const f32, lanes: usize) -> [f32; LANES] {
    // SAFETY: the caller's promise.
    unsafe {
        if lanes == LANES {
            from.cast::<[f32; LANES]>().read_unaligned()
        } else {
            let mut values = [0.0; LANES];
            std::ptr::copy_nonoverlapping(from, values.as_mut_ptr(), lanes);
            values
        }
    }
}

/// # Safety
/// `to` holds `lanes` elements.
#[inline(always)]
unsafe fn write<T: Copy>(to: *mut T, values: &[T; LANES], lanes: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if lanes == LANES {
            to.cast::<[T; LANES]>().write_unaligned(*values);
        } else {
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, lanes);
        }
    }
}

/// `a * b + c`, fused where the instructions exist (without them the library call is far slower).
#[inline(always)]
fn fused<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// e to the x for x clamped to -87..=88, to about one unit in the last place.
#[inline(always)]
fn exp<const FMA: bool>(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer that can be read off the low bits of the sum.
    const SHIFT: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = fused::<FMA>(x, std::f32::consts::LOG2_E, SHIFT);
    let whole = shifted - SHIFT;
    let rest = fused::<FMA>(whole, -LN2_HIGH, x);
    let rest = fused::<FMA>(whole, -LN2_LOW, rest);
    let mut p = fused::<FMA>(rest, 1.0 / 5040.0, 1.0 / 720.0);
    p = fused::<FMA>(p, rest, 1.0 / 120.0);
    p = fused::<FMA>(p, rest, 1.0 / 24.0);
    p = fused::<FMA>(p, rest, 1.0 / 6.0);
    p = fused::<FMA>(p, rest, 0.5);
    p = fused::<FMA>(p, rest, 1.0);
    p = fused::<FMA>(p, rest, 1.0);
    let exponent = shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127);
    p * f32::from_bits(exponent << 23)
}

/// x / (1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn silu<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

/// The tanh form of GELU, 0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³))), as x / (1 + e^(-2·…)).
#[inline(always)]
pub(crate) fn gelu_tanh<const FMA: bool>(x: f32) -> f32 {
    const TWICE_ROOT: f32 = 1.595_769;
    let cubic = fused::<FMA>(x * x, 0.044_715, 1.0);
    x / (1.0 + exp::<FMA>(-TWICE_ROOT * (x * cubic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_match_double_precision() {
        let root = (2.0 / std::f64::consts::PI).sqrt();
        for step in -8000..=8000 {
            let x = step as f32 * 1.237e-3;
            let wide = f64::from(x);
            let want_silu = wide / (1.0 + (-wide).exp());
            let want_gelu =
                0.5 * wide * (1.0 + (root * (wide + 0.044715 * wide * wide * wide)).tanh());
            let close = |got: f32, want: f64, slack: f64| {
                (f64::from(got) - want).abs() <= 4e-7 * want.abs() + slack
            };
            assert!(close(silu::<true>(x), want_silu, 1e-10), "silu {x}");
            assert!(close(silu::<false>(x), want_silu, 1e-10), "silu {x}");
            assert!(close(gelu_tanh::<true>(x), want_gelu, 2e-8), "gelu {x}");
            assert!(close(gelu_tanh::<false>(x), want_gelu, 2e-8), "gelu {x}");
        }
    }

    #[test]
    fn activations_at_the_extremes() {
        for x in [-1e30f32, -200.0, -90.0] {
            assert!(silu::<true>(x).abs() < 1e-7 && gelu_tanh::<true>(x).abs() < 1e-7, "{x}");
        }
        for x in [90.0f32, 200.0, 1e30] {
            assert_eq!(silu::<true>(x), x);
            assert_eq!(gelu_tanh::<true>(x), x);
        }
        assert_eq!(gelu_tanh::<true>(0.0), 0.0);
        assert!(gelu_tanh::<true>(f32::NAN).is_nan() && silu::<true>(f32::NAN).is_nan());
    }
}
