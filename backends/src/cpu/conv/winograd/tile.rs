//! The transforms of one tile: F(2×2, 3×3), F(4×4, 3×3) and 3×3 taps over doubled pixels, as
//! functions along one axis.
//!
//! With m outputs and r = 3 taps, n = m + 2 products replace m·3: y = Aᵀ[(G g) ⊙ (Bᵀ d)] (Winograd;
//! Lavin and Gray, arXiv:1509.09308). The points of F(4, 3) are 0, ±5/8, ±3/2 and ∞: all entries of
//! A and B are exact in f32, and the error is about a third of that of the usual 0, ±1, ±2, ∞. Both
//! axes use the same matrices; the caller applies a function along one axis, then along the other.

use crate::cpu::math::Lanes;

/// Most products along one axis.
pub(super) const MOST: usize = 6;

/// A tile size with its transforms. Arrays are [`MOST`] long, of which the first N or M are used.
pub(super) trait TileSize: Send + Sync + 'static {
    /// Outputs along one axis.
    const M: usize;
    /// Inputs and products along one axis.
    const N: usize;
    /// Input pixels from one tile to the next along one axis.
    const STEP: usize;
    /// Bᵀ d.
    fn input<V: Lanes>(d: [V; MOST]) -> [V; MOST];
    /// Aᵀ p.
    fn output<V: Lanes>(p: [V; MOST]) -> [V; MOST];
    /// G g.
    fn kernel<V: Lanes>(g: [V; 3]) -> [V; MOST];
}

/// F(2, 3): points 0, 1, -1, ∞.
pub(super) struct Two;

impl TileSize for Two {
    const M: usize = 2;
    const N: usize = 4;
    const STEP: usize = 2;

    #[inline(always)]
    fn input<V: Lanes>(d: [V; MOST]) -> [V; MOST] {
        let none = V::splat(0.0);
        [d[0].sub(d[2]), d[1].add(d[2]), d[2].sub(d[1]), d[1].sub(d[3]), none, none]
    }

    #[inline(always)]
    fn output<V: Lanes>(p: [V; MOST]) -> [V; MOST] {
        let none = V::splat(0.0);
        let even = p[0].add(p[1]).add(p[2]);
        let odd = p[1].sub(p[2]).sub(p[3]);
        [even, odd, none, none, none, none]
    }

    #[inline(always)]
    fn kernel<V: Lanes>(g: [V; 3]) -> [V; MOST] {
        let half = V::splat(0.5);
        let (even, odd) = (g[0].add(g[2]).mul(half), g[1].mul(half));
        let none = V::splat(0.0);
        [g[0], even.add(odd), even.sub(odd), g[2], none, none]
    }
}

/// F(4, 3): points 0, a, -a, b, -b, ∞.
pub(super) struct Four;

impl Four {
    const A: f32 = 0.625;
    const B: f32 = 1.5;
    const A2: f32 = Self::A * Self::A;
    const B2: f32 = Self::B * Self::B;
}

impl TileSize for Four {
    const M: usize = 4;
    const N: usize = 6;
    const STEP: usize = 4;

    #[inline(always)]
    fn input<V: Lanes>(d: [V; MOST]) -> [V; MOST] {
        let (a2, b2) = (V::splat(-Self::A2), V::splat(-Self::B2));
        let (sum, product) = (V::splat(-Self::A2 - Self::B2), V::splat(Self::A2 * Self::B2));
        let first = d[0].fma(product, d[2].fma(sum, d[4]));
        let last = d[1].fma(product, d[3].fma(sum, d[5]));
        let (even_a, even_b) = (d[2].fma(b2, d[4]), d[2].fma(a2, d[4]));
        let odd_a = d[1].fma(b2, d[3]).mul(V::splat(Self::A));
        let odd_b = d[1].fma(a2, d[3]).mul(V::splat(Self::B));
        let (a, b) =
            ((even_a.add(odd_a), even_a.sub(odd_a)), (even_b.add(odd_b), even_b.sub(odd_b)));
        [first, a.0, a.1, b.0, b.1, last]
    }

    #[inline(always)]
    fn output<V: Lanes>(p: [V; MOST]) -> [V; MOST] {
        let (sum_a, sum_b) = (p[1].add(p[2]), p[3].add(p[4]));
        let (odd_a, odd_b) = (p[1].sub(p[2]), p[3].sub(p[4]));
        let y0 = p[0].add(sum_a.add(sum_b));
        let y1 = odd_a.fma(V::splat(Self::A), odd_b.mul(V::splat(Self::B)));
        let y2 = sum_a.fma(V::splat(Self::A2), sum_b.mul(V::splat(Self::B2)));
        let cubes = (V::splat(Self::A * Self::A2), V::splat(Self::B * Self::B2));
        let y3 = odd_a.fma(cubes.0, odd_b.fma(cubes.1, p[5]));
        let none = V::splat(0.0);
        [y0, y1, y2, y3, none, none]
    }

    #[inline(always)]
    fn kernel<V: Lanes>(g: [V; 3]) -> [V; MOST] {
        let [a, b, a2, b2] = [Self::A, Self::B, Self::A2, Self::B2];
        let at = |x: f32, scale: f32| {
            let scale = V::splat(1.0 / scale);
            let even = g[2].fma(V::splat(x * x), g[0]).mul(scale);
            let odd = g[1].mul(V::splat(x)).mul(scale);
            (even.add(odd), even.sub(odd))
        };
        let (near, far) = (at(a, 2.0 * a2 * (a2 - b2)), at(b, 2.0 * b2 * (b2 - a2)));
        [g[0].mul(V::splat(1.0 / (a2 * b2))), near.0, near.1, far.0, far.1, g[2]]
    }
}

/// Three taps over a picture whose every pixel stands twice: a pixel x between l and r gives
/// g₀l + (g₁ + g₂)x and (g₀ + g₁)x + g₂r, which is s·x + g₀(l − x) and s·x + g₂(r − x) with the sum
/// s of the taps: three products where the doubled picture takes six.
pub(super) struct Upsampled;

impl TileSize for Upsampled {
    const M: usize = 2;
    const N: usize = 3;
    const STEP: usize = 1;

    #[inline(always)]
    fn input<V: Lanes>(d: [V; MOST]) -> [V; MOST] {
        let none = V::splat(0.0);
        [d[1], d[0].sub(d[1]), d[2].sub(d[1]), none, none, none]
    }

    #[inline(always)]
    fn output<V: Lanes>(p: [V; MOST]) -> [V; MOST] {
        let none = V::splat(0.0);
        [p[0].add(p[1]), p[0].add(p[2]), none, none, none, none]
    }

    #[inline(always)]
    fn kernel<V: Lanes>(g: [V; 3]) -> [V; MOST] {
        let none = V::splat(0.0);
        [g[0].add(g[1]).add(g[2]), g[0], g[2], none, none, none]
    }
}
