//! Fourier transforms of one tile, 128 x 128.
//!
//! In f64 and with IEEE basic operations only, so that patterns have the same bits on every
//! machine. Other sizes are not offered.

/// Side of a tile.
pub const SIDE: usize = 128;
/// Pixels of a tile.
pub const CELLS: usize = SIDE * SIDE;

/// The highest frequency of the ring, in cycles a tile.
pub const WIDEST: usize = 18;

/// Complex values of a tile or of its transform, row by row.
#[derive(Clone)]
pub struct Field {
    pub re: Vec<f64>,
    pub im: Vec<f64>,
}

impl Field {
    /// All zero.
    pub fn zero() -> Self {
        Self { re: vec![0.0; CELLS], im: vec![0.0; CELLS] }
    }

    /// Real values.
    pub fn real(values: impl Iterator<Item = f64>) -> Self {
        let re: Vec<f64> = values.collect();
        assert_eq!(re.len(), CELLS, "a tile has 128 x 128 values");
        Self { re, im: vec![0.0; CELLS] }
    }
}

/// The constants of the transforms.
pub struct Fourier {
    /// e^(−2πik/128) for k < 64.
    turns: Vec<(f64, f64)>,
}

impl Fourier {
    /// Computes the constants.
    pub fn new() -> Self {
        // Angles π/2, π/4, …, π/64 by halving: cos(a/2) = √((1 + cos a)/2), sin(a/2) = sin a/(2 cos(a/2)).
        let mut halves = vec![(0f64, 1f64)];
        for _ in 0..5 {
            let (cosine, sine) = halves[halves.len() - 1];
            let half = ((1.0 + cosine) / 2.0).sqrt();
            halves.push((half, sine / (2.0 * half)));
        }
        let turns = (0..SIDE / 2)
            .map(|k| {
                let mut turn = (1.0, 0.0);
                for (at, (c, s)) in halves.iter().enumerate() {
                    if k >> (5 - at) & 1 == 1 {
                        turn = (turn.0 * c - turn.1 * s, turn.0 * s + turn.1 * c);
                    }
                }
                (turn.0, -turn.1)
            })
            .collect();
        Self { turns }
    }

    /// The transform in place, of which only the columns of the ring are computed.
    pub fn forward(&self, field: &mut Field) {
        self.lines(field, |_| true);
        transpose(field);
        self.lines(field, is_in_ring);
        transpose(field);
    }

    /// The inverse transform in place, divided by the number of cells; outside of the ring's columns
    /// there are zeros.
    pub fn inverse(&self, field: &mut Field) {
        field.im.iter_mut().for_each(|v| *v = -*v);
        transpose(field);
        self.lines(field, is_in_ring);
        transpose(field);
        self.lines(field, |_| true);
        let scale = 1.0 / CELLS as f64;
        field.re.iter_mut().for_each(|v| *v *= scale);
        field.im.iter_mut().for_each(|v| *v *= -scale);
    }

    fn lines(&self, field: &mut Field, wanted: impl Fn(usize) -> bool) {
        let rows = field.re.chunks_exact_mut(SIDE).zip(field.im.chunks_exact_mut(SIDE));
        for (_, (re, im)) in rows.enumerate().filter(|(at, _)| wanted(*at)) {
            self.line(re, im);
        }
    }

    fn line(&self, re: &mut [f64], im: &mut [f64]) {
        for at in 0..SIDE {
            let other = at.reverse_bits() >> (usize::BITS - SIDE.trailing_zeros());
            if other > at {
                re.swap(at, other);
                im.swap(at, other);
            }
        }
        let mut half = 1;
        while half < SIDE {
            let stride = SIDE / 2 / half;
            for start in (0..SIDE).step_by(2 * half) {
                for k in 0..half {
                    let (c, s) = self.turns[k * stride];
                    let (a, b) = (start + k, start + k + half);
                    let (x, y) = (re[b] * c - im[b] * s, re[b] * s + im[b] * c);
                    (re[b], im[b]) = (re[a] - x, im[a] - y);
                    re[a] += x;
                    im[a] += y;
                }
            }
            half *= 2;
        }
    }
}

/// Whether a row or column has frequencies of the ring.
fn is_in_ring(at: usize) -> bool {
    at.min(SIDE - at) <= WIDEST
}

fn transpose(field: &mut Field) {
    for y in 0..SIDE {
        for x in 0..y {
            field.re.swap(y * SIDE + x, x * SIDE + y);
            field.im.swap(y * SIDE + x, x * SIDE + y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wave_is_one_line_and_the_inverse_gives_it_back() {
        let fourier = Fourier::new();
        for (k, (c, s)) in fourier.turns.iter().enumerate() {
            let angle = -std::f64::consts::TAU * k as f64 / SIDE as f64;
            assert!((c - angle.cos()).abs() < 1e-15 && (s - angle.sin()).abs() < 1e-15, "{k}");
        }
        let wave = |at: usize| {
            let (y, x) = (at / SIDE, at % SIDE);
            (std::f64::consts::TAU * (3 * y + 17 * x) as f64 / SIDE as f64).cos()
        };
        let mut field = Field::real((0..CELLS).map(wave));
        fourier.forward(&mut field);
        for at in (0..CELLS).filter(|at| is_in_ring(at % SIDE)) {
            let line = at == 3 * SIDE + 17 || at == (SIDE - 3) * SIDE + SIDE - 17;
            let expected = if line { CELLS as f64 / 2.0 } else { 0.0 };
            assert!((field.re[at] - expected).abs() < 1e-8 && field.im[at].abs() < 1e-8, "{at}");
        }
        for at in (0..CELLS).filter(|at| !is_in_ring(at % SIDE)) {
            (field.re[at], field.im[at]) = (0.0, 0.0);
        }
        fourier.inverse(&mut field);
        assert!((0..CELLS).all(|at| (field.re[at] - wave(at)).abs() < 1e-12));
    }
}
