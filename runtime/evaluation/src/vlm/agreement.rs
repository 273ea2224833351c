//! How far scores order videos as people do: Spearman's and Kendall's coefficients of rank correlation.

use crate::raw::{Metric, Results};
use anyid_files::table::Table;
use anyid_files::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Ranks from 1; equal values share the mean of theirs.
pub fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut begin = 0;
    while begin < order.len() {
        let same = |at: &&usize| values[**at] == values[order[begin]];
        let count = order[begin..].iter().take_while(same).count();
        // The mean of begin + 1 to begin + count.
        let rank = begin as f64 + (count as f64 + 1.0) / 2.0;
        order[begin..begin + count].iter().for_each(|at| ranks[*at] = rank);
        begin += count;
    }
    ranks
}

/// Spearman's rho: Pearson's coefficient of ranks. None where all of one are equal.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let [a, b] = [0, 1].map(|side| {
        let own: Vec<f64> =
            pairs.iter().map(|pair| if side == 0 { pair.0 } else { pair.1 }).collect();
        ranks(&own)
    });
    let mean = (pairs.len() as f64 + 1.0) / 2.0;
    let sum = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum()
    };
    let scale = (sum(&a, &a) * sum(&b, &b)).sqrt();
    (scale > 0.0).then(|| sum(&a, &b) / scale)
}

/// Kendall's tau-b, which knows ties. None where all of one are equal.
pub fn kendall(pairs: &[(f64, f64)]) -> Option<f64> {
    let (mut sum, mut first, mut second) = (0i64, 0u64, 0u64);
    for (at, a) in pairs.iter().enumerate() {
        for b in &pairs[at + 1..] {
            let sign = |x: f64, y: f64| i64::from(x > y) - i64::from(x < y);
            let [x, y] = [sign(a.0, b.0), sign(a.1, b.1)];
            sum += x * y;
            first += x.unsigned_abs();
            second += y.unsigned_abs();
        }
    }
    let scale = (first as f64 * second as f64).sqrt();
    (scale > 0.0).then(|| sum as f64 / scale)
}

/// What people said: a table with `system`, `case`, `metric` and `score`, such as the share of votes that
/// a video won. Several rows of the same are averaged.
///
/// # Errors
/// E0911, E1708 for what is no such table, and where it is about other videos.
pub fn with_people(results: &Results, path: &Path) -> Result<Value> {
    let bad = |what: String| {
        Error::input("E1708", what)
            .at(path.display())
            .help("the table has the columns system, case, metric and score, a row for each video")
    };
    let table = Table::read(path, "E1708", &["system", "case", "metric", "score"])?;
    let mut votes: BTreeMap<(Metric, (String, String)), Vec<f64>> = BTreeMap::new();
    for (line, row) in table.rows() {
        let of = |name: &str| row.get(name).unwrap_or_default().trim().to_owned();
        let metric = Metric::ALL.into_iter().find(|metric| metric.name() == of("metric"));
        let metric =
            metric.ok_or_else(|| bad(format!("line {line}: \"{}\" is no metric", of("metric"))))?;
        let score = of("score").parse().ok().filter(|score: &f64| score.is_finite());
        let score =
            score.ok_or_else(|| bad(format!("line {line}: \"{}\" is no number", of("score"))))?;
        votes.entry((metric, (of("system"), of("case")))).or_default().push(score);
    }
    let mut pairs: BTreeMap<Metric, Vec<(f64, f64)>> = BTreeMap::new();
    for ((metric, video), scores) in votes {
        let value = results.raws.get(&video).and_then(|raw| raw.value(metric, results.run.norms));
        if let Some(value) = value {
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            pairs.entry(metric).or_default().push((value, mean));
        }
    }
    if pairs.is_empty() {
        return Err(bad("none of its rows is of a video that was scored".to_owned()));
    }
    let all = pairs.into_iter().map(|(metric, pairs)| {
        let own = json!({
            "videos": pairs.len(), "spearman": spearman(&pairs), "kendall": kendall(&pairs),
        });
        (metric.name().to_owned(), own)
    });
    Ok(Value::Object(all.collect()))
}
