//! Hidden checks among what people are asked (annotate.md §6): a damaged video against the whole one,
//! the same video twice, and an own earlier item with its sides exchanged.

use crate::Track;
use crate::people::Person;
use crate::project::{Project, failed};
use crate::random::Draws;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use rusqlite::{OptionalExtension, Transaction};

/// Items between one and its repetition.
const LATER: i64 = 20;
/// Standard deviations of the blur in pixels and of the noise in 255ths.
const BLUR: f32 = 6.0;
const NOISE: f32 = 20.0;

/// The matchup of a hidden check for the item `order`, if there is one that this person has not had.
pub fn draw(
    project: &Project,
    work: &Transaction<'_>,
    person: &Person,
    track: Track,
    order: i64,
    swap: bool,
) -> Result<Option<i64>> {
    let key = format!("{}/{}/{order}", person.id, track.name());
    let first = Draws::new(&project.salt, "kind", &key).below(5);
    // Two of five are damaged, two repeated, one the same; what there is not gives way to the next.
    let kinds = ["degraded", "degraded", "repeat", "repeat", "same"];
    for at in 0..kinds.len() {
        let kind = kinds[(first + at) % kinds.len()];
        let found = match kind {
            "repeat" => repeat(work, person, track, order, swap)?,
            kind => prepared(work, person, track, kind)?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn prepared(
    work: &Transaction<'_>,
    person: &Person,
    track: Track,
    kind: &str,
) -> Result<Option<i64>> {
    work.prepare_cached(
        "SELECT m.id FROM matchup m WHERE m.check_kind = ? AND NOT EXISTS (SELECT 1 FROM
         assignment s WHERE s.matchup_id = m.id AND s.annotator_id = ? AND s.track = ?)
         ORDER BY m.id LIMIT 1",
    )
    .and_then(|mut found| {
        found.query_row((kind, person.id, track.name()), |row| row.get(0)).optional()
    })
    .map_err(failed)
}

/// An own item of some time ago whose sides were the other way round.
fn repeat(
    work: &Transaction<'_>,
    person: &Person,
    track: Track,
    order: i64,
    swap: bool,
) -> Result<Option<i64>> {
    let found: Option<(i64, String)> = work
        .prepare_cached(
            "SELECT m.id, m.name FROM assignment s JOIN matchup m ON m.id = s.matchup_id
             WHERE s.annotator_id = ?1 AND s.track = ?2 AND s.state = 'done' AND s.swap <> ?3
             AND s.order_no <= ?4 AND m.check_kind IS NULL AND NOT EXISTS (SELECT 1 FROM
               assignment o JOIN matchup r ON r.id = o.matchup_id WHERE r.repeat_of = m.id
               AND o.annotator_id = ?1 AND o.track = ?2)
             ORDER BY s.order_no LIMIT 1",
        )
        .and_then(|mut found| {
            let key = (person.id, track.name(), swap, order - LATER);
            found.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .map_err(failed)?;
    let Some((id, name)) = found else { return Ok(None) };
    work.execute(
        "INSERT INTO matchup(name, input_set_id, asset_a, asset_b, seed_a, seed_b, check_kind,
         repeat_of) SELECT ?, input_set_id, asset_a, asset_b, seed_a, seed_b, 'repeat', id
         FROM matchup WHERE id = ?",
        (format!("{name}~{}.{}.{order}", person.id, track.name()), id),
    )
    .map_err(failed)?;
    Ok(Some(work.last_insert_rowid()))
}

/// A frame that nobody can prefer: blurred, and noisy in a way that depends on `key` alone.
pub fn damage(frame: &RgbFrame, key: &str) -> RgbFrame {
    let (width, height) = (frame.width, frame.height);
    let radius = (3.0 * BLUR) as isize;
    let weights: Vec<f32> =
        (-radius..=radius).map(|at| (-(at * at) as f32 / (2.0 * BLUR * BLUR)).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let weights: Vec<f32> = weights.into_iter().map(|weight| weight / sum).collect();
    let source: Vec<f32> = frame.data.iter().map(|value| f32::from(*value)).collect();
    let pass = |source: &[f32], along: usize, count: usize| -> Vec<f32> {
        let mut result = vec![0.0; source.len()];
        for (at, value) in result.iter_mut().enumerate() {
            let place = (at / along % count) as isize;
            for (weight, offset) in weights.iter().zip(-radius..) {
                // What is beyond the border is like the border.
                let to = (place + offset).clamp(0, count as isize - 1);
                let from = (at as isize + (to - place) * along as isize) as usize;
                *value += weight * source[from];
            }
        }
        result
    };
    let blurred = pass(&pass(&source, 3, width), 3 * width, height);
    let mut draws = Draws::new(b"", "noise", key);
    // The sum of four even draws is close enough to a normal one.
    let scale = NOISE * 3.0f32.sqrt();
    let mut noise = || scale * ((0..4).map(|_| draws.unit() as f32).sum::<f32>() - 2.0);
    let data = blurred.into_iter().map(|v| (v + noise()).round().clamp(0.0, 255.0) as u8).collect();
    RgbFrame { width, height, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_frame_keeps_its_mean_and_loses_its_edges() {
        let data = (0..96 * 64 * 3).map(|at| if at / 3 % 2 == 0 { 60 } else { 180 }).collect();
        let frame = RgbFrame { width: 96, height: 64, data };
        let damaged = damage(&frame, "a");
        assert_eq!(damaged, damage(&frame, "a"));
        assert_ne!(damaged.data, damage(&frame, "b").data);
        let mean =
            |values: &[u8]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / values.len() as f64;
        assert!((mean(&damaged.data) - 120.0).abs() < 1.0);
        // Away from the borders, which are repeated.
        let inner: Vec<f64> = (0..damaged.data.len())
            .filter(|at| (24..72).contains(&(at / 3 % 96)))
            .map(|at| f64::from(damaged.data[at]) - 120.0)
            .collect();
        let variance = inner.iter().map(|v| v * v).sum::<f64>() / inner.len() as f64;
        // Of stripes 120 apart nothing is left but the noise.
        assert!((variance.sqrt() - f64::from(NOISE)).abs() < 1.0, "{}", variance.sqrt());
    }
}
