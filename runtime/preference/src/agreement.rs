//! How far people agree (annotate.md §6): share of equal answers, Cohen's and Fleiss' kappa, and
//! Krippendorff's alpha for nominal values, with intervals by resampling items.
//!
//! Answers are numbers of categories. What is not defined is `None`, such as agreement beyond chance
//! where everybody always gives the same answer.

use crate::random::Draws;
use std::collections::BTreeMap;

/// Resamplings of an interval.
pub const RESAMPLINGS: usize = 2000;

/// The share of pairs of answers to the same item that are equal.
pub fn raw(units: &[Vec<u8>]) -> Option<f64> {
    let (mut equal, mut all) = (0u64, 0u64);
    for unit in units {
        for (at, first) in unit.iter().enumerate() {
            for second in &unit[at + 1..] {
                equal += u64::from(first == second);
                all += 1;
            }
        }
    }
    (all > 0).then(|| equal as f64 / all as f64)
}

/// Cohen's kappa of two people, from their answers to the same items (Cohen 1960).
pub fn cohen(pairs: &[(u8, u8)]) -> Option<f64> {
    let total = pairs.len() as f64;
    let mut shares: BTreeMap<u8, [f64; 2]> = BTreeMap::new();
    for (first, second) in pairs {
        shares.entry(*first).or_default()[0] += 1.0 / total;
        shares.entry(*second).or_default()[1] += 1.0 / total;
    }
    let observed = pairs.iter().filter(|(a, b)| a == b).count() as f64 / total;
    let expected: f64 = shares.values().map(|[a, b]| a * b).sum();
    (shares.len() > 1).then(|| (observed - expected) / (1.0 - expected))
}

/// Fleiss' kappa (1971), where every item has the same number of answers; `None` where not, or of
/// fewer than two.
pub fn fleiss(units: &[Vec<u8>]) -> Option<f64> {
    let answers = units.first()?.len();
    if answers < 2 || units.iter().any(|unit| unit.len() != answers) {
        return None;
    }
    let (n, items) = (answers as f64, units.len() as f64);
    let mut totals: BTreeMap<u8, f64> = BTreeMap::new();
    let mut agreement = 0.0;
    for unit in units {
        let mut counts: BTreeMap<u8, f64> = BTreeMap::new();
        for value in unit {
            *counts.entry(*value).or_default() += 1.0;
            *totals.entry(*value).or_default() += 1.0;
        }
        let squares: f64 = counts.values().map(|count| count * count).sum();
        agreement += (squares - n) / (n * (n - 1.0)) / items;
    }
    let expected: f64 = totals.values().map(|count| (count / (items * n)).powi(2)).sum();
    (totals.len() > 1).then(|| (agreement - expected) / (1.0 - expected))
}

/// Krippendorff's alpha for nominal values; items with one answer or none do not count
/// (Krippendorff, "Computing Krippendorff's alpha-reliability", 2011).
pub fn krippendorff(units: &[Vec<u8>]) -> Option<f64> {
    let mut totals: BTreeMap<u8, f64> = BTreeMap::new();
    let mut unequal = 0.0;
    for unit in units.iter().filter(|unit| unit.len() > 1) {
        let mut counts: BTreeMap<u8, f64> = BTreeMap::new();
        for value in unit {
            *counts.entry(*value).or_default() += 1.0;
        }
        let size = unit.len() as f64;
        for (value, count) in counts {
            // Pairs with another value, from both of their ends.
            unequal += count * (size - count) / (size - 1.0);
            *totals.entry(value).or_default() += count;
        }
    }
    let all: f64 = totals.values().sum();
    let chance: f64 = totals.values().map(|count| count * (all - count)).sum();
    (totals.len() > 1).then(|| 1.0 - (all - 1.0) * unequal / chance)
}

/// The middle 95 % of `statistic` over items drawn with replacement, or `None` where a tenth of the
/// draws has no value.
pub fn interval(
    units: &[Vec<u8>],
    resamplings: usize,
    statistic: fn(&[Vec<u8>]) -> Option<f64>,
) -> Option<[f64; 2]> {
    let mut draws = Draws::new(b"0", "agreement", "");
    let mut values = Vec::with_capacity(resamplings);
    for _ in 0..resamplings {
        let drawn: Vec<Vec<u8>> =
            units.iter().map(|_| units[draws.below(units.len())].clone()).collect();
        values.extend(statistic(&drawn));
    }
    (10 * values.len() >= 9 * resamplings && !values.is_empty())
        .then(|| crate::rates::middle(&mut values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: Option<f64>, expected: f64) {
        let value = value.unwrap();
        assert!((value - expected).abs() < 5e-6, "{value} against {expected}");
    }

    #[test]
    fn kappa_of_cohen_is_that_of_the_example() {
        let mut pairs = vec![(0, 0); 20];
        pairs.extend([(0, 1); 5]);
        pairs.extend([(1, 0); 10]);
        pairs.extend([(1, 1); 15]);
        near(cohen(&pairs), 0.4);
        assert_eq!(cohen(&[(1, 1), (1, 1)]), None);
        assert_eq!(cohen(&[]), None);
    }

    #[test]
    fn kappa_of_fleiss_is_that_of_the_standard_table() {
        let table: [[usize; 5]; 10] = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ];
        let spread = |row: &[usize; 5]| {
            let each = row.iter().enumerate();
            each.flat_map(|(value, count)| vec![value as u8; *count]).collect::<Vec<_>>()
        };
        let mut units: Vec<Vec<u8>> = table.iter().map(spread).collect();
        let kappa = fleiss(&units).unwrap();
        assert!((kappa - 0.20993).abs() < 5e-6, "{kappa}");
        units[3].pop();
        assert_eq!(fleiss(&units), None);
        assert_eq!(fleiss(&[vec![1, 1]]), None);
    }

    #[test]
    fn alpha_of_krippendorff_is_that_of_both_examples() {
        // The standard example of four categories with missing answers.
        let of = |rows: &[&str]| -> Vec<Vec<u8>> {
            let width = rows.iter().map(|row| row.len()).max().unwrap();
            let at = |row: &&str, at: usize| row.as_bytes().get(at).copied();
            (0..width)
                .map(|column| {
                    rows.iter().filter_map(|row| at(row, column)).filter(|c| *c != b' ').collect()
                })
                .collect()
        };
        let standard = ["     34121133 3", "1 213343", "  21344 21133 4"];
        near(krippendorff(&of(&standard)), 0.691_358);
        near(krippendorff(&of(&["LRLT ", "LRRTL", "LRL L"])), 0.76);
        assert_eq!(krippendorff(&of(&["LL", "LL"])), None);
        assert_eq!(krippendorff(&[]), None);
    }

    #[test]
    fn the_interval_is_the_same_again_and_holds_the_value() {
        let units: Vec<Vec<u8>> =
            (0..60).map(|at| vec![at % 3, if at % 4 == 0 { 0 } else { at % 3 }]).collect();
        let first = interval(&units, RESAMPLINGS, krippendorff).unwrap();
        assert_eq!(Some(first), interval(&units, RESAMPLINGS, krippendorff));
        let alpha = krippendorff(&units).unwrap();
        assert!(first[0] < alpha && alpha < first[1], "{first:?} around {alpha}");
        assert_eq!(interval(&[vec![1, 1]], 100, krippendorff), None);
    }
}
