//! What detectors share: boxes without those that a better one covers, and their way back to the frame.

use crate::face::Points;
use crate::geometry::Rect;
use crate::records::{Face, Person};

/// Something that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Where it is.
    pub area: Rect,
    /// How sure the network is.
    pub score: f64,
    /// Points of a face.
    pub points: Points,
}

impl Hit {
    /// Brought from the picture of the network to that of the frame: a place is moved by `shift`, then
    /// divided by `scale`.
    pub fn unfitted(mut self, scale: [f64; 2], shift: [f64; 2]) -> Self {
        for (at, side) in self.area.iter_mut().enumerate() {
            *side = (*side - shift[at % 2]) / scale[at % 2];
        }
        for (at, side) in self.points.as_flattened_mut().iter_mut().enumerate() {
            *side = (*side - shift[at % 2]) / scale[at % 2];
        }
        self
    }

    /// As a face of a frame, before it is measured.
    pub fn face(self, f: usize) -> Face {
        Face {
            f,
            area: self.area,
            kps: self.points,
            score: self.score.clamp(0.0, 1.0),
            blur: 0.0,
            luma: 0.0,
            extremes: 0.0,
            pose: None,
            embedding: None,
        }
    }

    /// As a person of a frame.
    pub fn person(self, f: usize) -> Person {
        Person { f, area: self.area, score: self.score.clamp(0.0, 1.0), derived: false }
    }
}

/// The best, without those that share more than `most` with a better one. Some networks were made with
/// boxes whose last pixel counts: `pixel` is 1 for them, and else 0.
pub fn best(mut found: Vec<Hit>, most: f64, pixel: f64) -> Vec<Hit> {
    found.retain(|hit| hit.area.iter().all(|side| side.is_finite()) && hit.score.is_finite());
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let span = |low: f64, high: f64| (high - low + pixel).max(0.0);
    let area = |a: &Rect| span(a[0], a[2]) * span(a[1], a[3]);
    let shared = |a: &Rect, b: &Rect| {
        let both = span(a[0].max(b[0]), a[2].min(b[2])) * span(a[1].max(b[1]), a[3].min(b[3]));
        let all = area(a) + area(b) - both;
        if all > 0.0 { both / all } else { 0.0 }
    };
    let mut kept: Vec<Hit> = Vec::new();
    for hit in found {
        if kept.iter().all(|better| shared(&better.area, &hit.area) <= most) {
            kept.push(hit);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_boxes_cover_others() {
        let hit = |left: f64, score: f64| Hit {
            area: [left, 0.0, left + 9.0, 9.0],
            score,
            points: [[0.0; 2]; 5],
        };
        let found = || vec![hit(0.0, 0.7), hit(3.0, 0.9), hit(f64::NAN, 1.0), hit(30.0, 0.6)];
        let scores = |most: f64, pixel: f64| -> Vec<f64> {
            best(found(), most, pixel).iter().map(|hit| hit.score).collect()
        };
        // 54 of 108, and 70 of 130 where the last pixel counts.
        assert_eq!(scores(0.5, 0.0), [0.9, 0.7, 0.6]);
        assert_eq!(scores(0.5, 1.0), [0.9, 0.6]);
        let back = hit(10.0, 1.0).unfitted([2.0, 4.0], [2.0, -8.0]);
        assert_eq!((back.area, back.points[0]), ([4.0, 2.0, 8.5, 4.25], [-1.0, 2.0]));
    }
}
