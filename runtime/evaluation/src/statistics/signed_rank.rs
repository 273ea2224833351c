//! Wilcoxon's signed-rank test (1945) on both sides: exact for few pairs, also with ties, and by the normal
//! distribution with the correction for ties and for continuity for many. Pairs that do not differ are left
//! out, as Wilcoxon did.

use crate::vlm::agreement::ranks;

/// Most pairs for which all signs are counted.
const EXACT: usize = 50;

/// What the test says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wilcoxon {
    /// Pairs that differ.
    pub n: usize,
    /// The sum of ranks of positive differences.
    pub positive: f64,
    /// The probability of a result at least as uneven between equals.
    pub p: f64,
    /// Whether it is exact.
    pub exact: bool,
}

impl Wilcoxon {
    /// The test with the sides exchanged.
    pub fn turned(self) -> Self {
        let all = (self.n * (self.n + 1)) as f64 / 2.0;
        Self { positive: all - self.positive, ..self }
    }
}

/// The test of differences; none where nothing differs.
pub fn wilcoxon(differences: &[f64]) -> Option<Wilcoxon> {
    let there: Vec<f64> = differences.iter().copied().filter(|value| *value != 0.0).collect();
    let n = there.len();
    if n == 0 {
        return None;
    }
    let sizes: Vec<f64> = there.iter().map(|value| value.abs()).collect();
    let ranks = ranks(&sizes);
    let positive: f64 =
        there.iter().zip(&ranks).filter(|(value, _)| **value > 0.0).map(|(_, rank)| rank).sum();
    let exact = n <= EXACT;
    let p = if exact { counted(&ranks, positive) } else { normal(&ranks, positive) };
    Some(Wilcoxon { n, positive, p, exact })
}

/// Counts all signs: ranks are whole numbers of halves.
fn counted(ranks: &[f64], positive: f64) -> f64 {
    let halves: Vec<usize> = ranks.iter().map(|rank| (2.0 * rank) as usize).collect();
    let all: usize = halves.iter().sum();
    // Shares of all signs whose sum is each, which are added from the smallest rank on.
    let mut shares = vec![0.0; all + 1];
    shares[0] = 1.0;
    for rank in halves {
        for sum in (0..=all).rev() {
            let with = if sum >= rank { shares[sum - rank] } else { 0.0 };
            shares[sum] = 0.5 * (shares[sum] + with);
        }
    }
    let at = (2.0 * positive).round() as usize;
    let few = at.min(all - at);
    (2.0 * shares[..=few].iter().sum::<f64>()).min(1.0)
}

fn normal(ranks: &[f64], positive: f64) -> f64 {
    let n = ranks.len() as f64;
    let mut sorted = ranks.to_vec();
    sorted.sort_by(f64::total_cmp);
    let ties: f64 = sorted
        .chunk_by(|a, b| a == b)
        .map(|same| (same.len() as f64).powi(3) - same.len() as f64)
        .sum();
    let centre = n * (n + 1.0) / 4.0;
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - ties / 48.0;
    let far = ((positive - centre).abs() - 0.5).max(0.0);
    complementary(far / variance.sqrt() / std::f64::consts::SQRT_2)
}

/// The complementary error function of a number that is not negative, to ten digits or more of its value:
/// the series of the error function below 3, and from there the continued fraction (Abramowitz and Stegun
/// 1964, 7.1.6 and 7.1.14).
pub fn complementary(x: f64) -> f64 {
    let scale = (-x * x).exp();
    if x < 3.0 {
        let (mut term, mut sum, mut k) = (x, x, 0.0);
        while term > sum * 1e-17 {
            k += 1.0;
            term *= 2.0 * x * x / (2.0 * k + 1.0);
            sum += term;
        }
        return 1.0 - 2.0 / std::f64::consts::PI.sqrt() * scale * sum;
    }
    let fraction = (1..=60).rev().fold(x, |rest, k| x + f64::from(k) / 2.0 / rest);
    scale / std::f64::consts::PI.sqrt() / fraction
}
