//! From which cosine on two faces are one person, for a network of which nobody says it: by pairs of
//! which it is known (`data.md` §5).

use crate::filter::cosine;
use crate::records::Clip;
use anyid_files::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Largest share of pairs of two people that may be taken for one.
const MOST_FALSE: f64 = 1e-3;
/// Largest file of pairs that is read, in bytes.
const LARGEST: u64 = 1 << 30;
/// Steps of thresholds.
const STEPS: f64 = 1e4;

/// What pairs tell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Threshold {
    /// The least cosine of two clips that are linked.
    pub edge: f64,
    /// Pairs of one person.
    pub same: usize,
    /// Share of them that are linked.
    pub found: f64,
    /// Pairs of two people.
    pub different: usize,
    /// Share of them that are linked all the same.
    pub wrong: f64,
}

/// The share of sorted cosines that are `least` or more.
fn share(sorted: &[f64], least: f64) -> f64 {
    let below = sorted.partition_point(|cosine| *cosine < least);
    (sorted.len() - below) as f64 / sorted.len().max(1) as f64
}

/// The least threshold that links no more pairs of two people than may be. A file has lines
/// `path,path,same` with 1 or 0; pairs with a file that has no face of a known embedding are left out.
///
/// # Errors
/// E0911, E1210 where a line is faulty, or pairs of either kind are missing.
pub fn threshold(path: &Path, clips: &[Clip]) -> Result<Threshold> {
    let text = crate::settings::text(path, LARGEST)?;
    let fault = |what: String| {
        Error::input("E1210", what).at(path.display()).help(
            "lines are `path,path,1` for two clips of one person and `path,path,0` for others; faces \
             need embeddings (detect.identity)",
        )
    };
    let mut known: BTreeMap<&str, &[f32]> = BTreeMap::new();
    for clip in clips {
        if let Some(embedding) = &clip.embedding {
            known.entry(&clip.span.media).or_insert(embedding);
        }
    }
    let mut cosines = [Vec::new(), Vec::new()];
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parts: Vec<&str> = line.trim_end().split(',').collect();
        let (pair, same) = match parts[..] {
            [a, b, "0"] => ([a, b], 0),
            [a, b, "1"] => ([a, b], 1),
            _ => return Err(fault(format!("line {}: expected path,path,1 or 0", at + 1))),
        };
        if let [Some(a), Some(b)] = pair.map(|media| known.get(media)) {
            cosines[same].push(cosine(a, b));
        }
    }
    cosines.iter_mut().for_each(|all| all.sort_by(f64::total_cmp));
    let [different, same] = cosines;
    if different.is_empty() || same.is_empty() {
        let (different, same) = (different.len(), same.len());
        let what = format!("{same} pairs of one person and {different} of two have embeddings");
        return Err(fault(what));
    }
    // The largest cosine that may not be linked any more, and the next step above it.
    let allowed = (different.len() as f64 * MOST_FALSE).floor() as usize;
    let bound = different[different.len() - 1 - allowed.min(different.len() - 1)];
    let edge = ((bound * STEPS).floor() + 1.0) / STEPS;
    let (found, wrong) = (share(&same, edge), share(&different, edge));
    Ok(Threshold { edge, same: same.len(), found, different: different.len(), wrong })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::tests::{face, found};
    use crate::settings::FilterSettings;
    use crate::testing::TempFolder;

    /// A clip whose cosine to one with `turn` 0 is that of the angle.
    fn clip(name: &str, turn: f64) -> Clip {
        let seen = found(name, vec![face(0, 10.0, 10.0, 100.0)]);
        let mut clip = crate::filter::clip(seen, &FilterSettings::default());
        clip.embedding = Some(vec![turn.cos() as f32, turn.sin() as f32]);
        clip
    }

    #[test]
    fn the_threshold_links_one_of_a_thousand_pairs_of_two_people() {
        let folder = TempFolder::new("threshold");
        // Two thousand others at angles from 0.8 on, and ten of the same person up to 0.9.
        let mut clips = vec![clip("first", 0.0)];
        let mut lines = String::new();
        for at in 0..2000 {
            clips.push(clip(&format!("other{at}"), 0.8 + 0.0003 * f64::from(at)));
            lines.push_str(&format!("first.mp4,other{at}.mp4,0\n"));
        }
        for at in 0..10 {
            clips.push(clip(&format!("same{at}"), 0.1 * f64::from(at)));
            lines.push_str(&format!("first.mp4,same{at}.mp4,1\n"));
        }
        lines.push_str("first.mp4,nobody.mp4,1\n");
        let found = threshold(&folder.write("pairs.csv", lines), &clips).unwrap();
        // Two pairs may be wrong; the third of them is at 0.8006.
        assert!((found.edge - 0.8006f64.cos()).abs() <= 1.0 / STEPS, "{found:?}");
        assert_eq!((found.same, found.different), (10, 2000));
        assert_eq!((found.found, found.wrong), (0.9, 0.001));
        for (text, part) in [
            ("a,b", "line 1: expected"),
            ("first.mp4,same1.mp4,1", "1 pairs of one person and 0 of two"),
        ] {
            let fault = threshold(&folder.write("pairs.csv", text), &clips).unwrap_err();
            assert!(fault.code() == "E1210" && fault.message().contains(part), "{fault}");
        }
    }
}
