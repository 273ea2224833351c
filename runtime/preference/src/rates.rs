//! Rates of winning with honest intervals, tests, and a ranking (annotate.md §7.1).

use crate::random::Draws;
pub use anyid_files::resample::{holm, middle};

/// The 97.5 % point of the normal distribution.
const Z: f64 = 1.959964;
/// Resamplings of the headline interval.
pub const RESAMPLINGS: usize = 10_000;

/// The 95 % interval of Wilson (1927) for `wins` of `decided`; all there is where nothing is decided.
pub fn wilson(wins: f64, decided: f64) -> [f64; 2] {
    if decided <= 0.0 {
        return [0.0, 1.0];
    }
    let (p, square) = (wins / decided, Z * Z);
    let scale = 1.0 + square / decided;
    let centre = (p + square / (2.0 * decided)) / scale;
    let half = Z * (p * (1.0 - p) / decided + square / (4.0 * decided * decided)).sqrt() / scale;
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

/// The probability of a result at least as uneven as `wins` of `decided` between equals (exact, both
/// sides).
pub fn sign_test(wins: u64, decided: u64) -> f64 {
    let few = wins.min(decided - wins.min(decided));
    let mut term = -(decided as f64) * std::f64::consts::LN_2;
    let mut sum = 0.0;
    for k in 0..=few {
        sum += term.exp();
        term += ((decided - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * sum).min(1.0)
}

/// The median; 0 of nothing.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[odd / 2],
        even => 0.5 * (values[even / 2 - 1] + values[even / 2]),
    }
}

/// The 95 % interval of the mean of all answers, where those of one person are not independent:
/// people are drawn with replacement, then each one's answers. `None` without answers.
pub fn nested(people: &[Vec<f64>], resamplings: usize, seed: &str) -> Option<[f64; 2]> {
    let people: Vec<&Vec<f64>> = people.iter().filter(|answers| !answers.is_empty()).collect();
    if people.is_empty() {
        return None;
    }
    let mut draws = Draws::new(b"0", "nested", seed);
    let mut values: Vec<f64> = (0..resamplings)
        .map(|_| {
            let (mut sum, mut count) = (0.0, 0usize);
            for _ in 0..people.len() {
                let answers = people[draws.below(people.len())];
                for _ in 0..answers.len() {
                    sum += answers[draws.below(answers.len())];
                }
                count += answers.len();
            }
            sum / count as f64
        })
        .collect();
    Some(middle(&mut values))
}

/// Strengths of systems after Bradley and Terry (1952), whose sum is 1, from how often `wins[i][j]`
/// system i was preferred to j (ties are half a win of each), by the update of Hunter (2004). `None`
/// where they have no finite value: somebody has never won, or never lost, or not all are connected.
pub fn bradley_terry(wins: &[Vec<f64>]) -> Option<Vec<f64>> {
    let count = wins.len();
    if !strongly_connected(wins) {
        return None;
    }
    let mut strengths = vec![1.0 / count as f64; count];
    for _ in 0..10_000 {
        let mut next: Vec<f64> = (0..count)
            .map(|i| {
                let own: f64 = wins[i].iter().sum();
                let met = |j: usize| (wins[i][j] + wins[j][i]) / (strengths[i] + strengths[j]);
                own / (0..count).filter(|j| *j != i).map(met).sum::<f64>()
            })
            .collect();
        let sum: f64 = next.iter().sum();
        next.iter_mut().for_each(|strength| *strength /= sum);
        let moved = next.iter().zip(&strengths).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        strengths = next;
        if moved < 1e-13 {
            break;
        }
    }
    Some(strengths)
}

/// Whether wins lead from every system to every other one (Ford 1957).
fn strongly_connected(wins: &[Vec<f64>]) -> bool {
    let reached = |forward: bool| {
        let (mut seen, mut open) = (vec![false; wins.len()], vec![0]);
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            let edge = |to: usize| if forward { wins[at][to] } else { wins[to][at] };
            open.extend((0..wins.len()).filter(|to| edge(*to) > 0.0));
        }
        seen.into_iter().all(|seen| seen)
    };
    wins.len() > 1 && reached(true) && reached(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64) {
        assert!((value - expected).abs() < 6e-6, "{value} against {expected}");
    }

    #[test]
    fn intervals_of_wilson_are_those_of_the_page() {
        for (wins, decided, low, high) in [
            (560.0, 800.0, 0.66735, 0.73074),
            (28.0, 40.0, 0.54570, 0.81925),
            (0.0, 10.0, 0.0, 0.27753),
        ] {
            let interval = wilson(wins, decided);
            near(interval[0], low);
            near(interval[1], high);
        }
        assert_eq!(wilson(0.0, 0.0), [0.0, 1.0]);
    }

    #[test]
    fn the_sign_test_is_exact_on_both_sides() {
        near(sign_test(28, 40), 0.01659);
        near(sign_test(12, 40), 0.01659);
        assert_eq!(sign_test(5, 10), 1.0);
        assert_eq!(sign_test(0, 0), 1.0);
        assert!((sign_test(0, 10) - 2.0 / 1024.0).abs() < 1e-15);
        // Of eight hundred the powers of a half alone have no double.
        assert!(sign_test(560, 800) > 0.0 && sign_test(560, 8000) < 1e-300);
    }

    #[test]
    fn strengths_of_two_are_their_share_of_wins() {
        let strengths = bradley_terry(&[vec![0.0, 30.0], vec![10.0, 0.0]]).unwrap();
        near(strengths[0], 0.75);
        assert_eq!(bradley_terry(&[vec![0.0, 3.0], vec![0.0, 0.0]]), None);
        let apart = [vec![0.0, 1.0, 0.0], vec![1.0, 0.0, 0.0], vec![0.0, 0.0, 0.0]];
        assert_eq!(bradley_terry(&apart), None);
    }

    #[test]
    fn the_nested_interval_is_the_same_again_and_wider_than_that_of_independent_answers() {
        // People who answer alike: their number decides, not that of their answers.
        let people: Vec<Vec<f64>> = (0..20).map(|at| vec![f64::from(at % 10 < 7); 40]).collect();
        let first = nested(&people, 2000, "test").unwrap();
        assert_eq!(Some(first), nested(&people, 2000, "test"));
        let apart = wilson(560.0, 800.0);
        assert!(first[1] - first[0] > 3.0 * (apart[1] - apart[0]), "{first:?}, {apart:?}");
        assert_eq!(nested(&[vec![], vec![]], 10, ""), None);
    }
}
