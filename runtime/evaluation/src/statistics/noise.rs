//! What a judge, and the choice of frames, add to scores of their own.

use super::{deviation, mean};
use crate::raw::{Metric, Raw, Results};

/// The noise of a judge: the standard deviation over repeats, pooled over videos, and of how many videos.
pub fn judge_noise(results: &Results, metric: Metric) -> Option<(f64, usize)> {
    let repeats = results.raws.values().filter_map(|raw| raw.judged.as_ref()?.repeats(metric));
    let squares: Vec<f64> = repeats
        .filter_map(|values| {
            let there: Vec<f64> = values.iter().copied().flatten().collect();
            deviation(&there).map(|deviation| deviation * deviation)
        })
        .collect();
    mean(&squares).map(|square| (square.sqrt(), squares.len()))
}

/// The noise of choosing frames: the mean and the largest size of differences between two runs of the same
/// videos that looked at different numbers of frames, and of how many videos.
pub fn sampling_noise(results: &Results, other: &Results, metric: Metric) -> Option<[f64; 3]> {
    let sizes: Vec<f64> = results
        .raws
        .iter()
        .filter_map(|(key, raw)| {
            let other_raw = other.raws.get(key)?;
            let hash = |raw: &Raw| raw.video.as_ref().map(|video| video.sha256.clone());
            let same = hash(raw).is_some() && hash(raw) == hash(other_raw);
            let [a, b] = [raw, other_raw].map(|raw| raw.value(metric, results.run.norms));
            same.then_some((a? - b?).abs())
        })
        .collect();
    let most = sizes.iter().copied().fold(0.0, f64::max);
    mean(&sizes).map(|mean| [mean, most, sizes.len() as f64])
}
