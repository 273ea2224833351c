//! Looking for marks in frames that were turned a little or whose aspect ratio was changed
//! (`watermark.md` §2).
//!
//! They are looked for only where nothing was found otherwise, and one after the other: a grid of
//! rotations and scales, then one of scales across and down, in steps that are twice as wide. What
//! is found is refined in all three. Looking at more places finds higher peaks by chance, so that a
//! higher one is asked for.

use super::super::plane::spread;
use super::{Detector, Place, Residual, Search, WORTHWHILE, folded_across, folded_down, peak};

/// A mark is present from this height of the peak on. Some thirty times as many values are looked
/// at as without rotations and aspect ratios; √(7² + 2·ln 30) is as rarely reached by chance as 7
/// is then.
pub const PRESENT: f64 = 7.47;
/// Rotations of the grid, in radians: from −2° to 2° in steps of half a degree, without 0. At the
/// sides of a frame 1280 pixels wide half a step is as far as half a step of the scales.
const TURNS: std::ops::RangeInclusive<i32> = -4..=4;
const TURN: f64 = 0.5 * std::f64::consts::PI / 180.0;
/// How much an aspect ratio may be changed.
const ASPECT: f64 = 1.5;

/// The residual turned back by `turn` radians about its middle; 0 outside.
pub fn turned(residual: &Residual, turn: f64) -> Residual {
    let Residual { width, height, values } = residual;
    let (width, height) = (*width, *height);
    let (sine, cosine) = turn.sin_cos();
    let (middle, centre) = ((width as f64 - 1.0) / 2.0, (height as f64 - 1.0) / 2.0);
    let mut out = vec![0f32; width * height];
    for (y, row) in out.chunks_exact_mut(width).enumerate() {
        let v = y as f64 - centre;
        let (mut from_x, mut from_y) =
            (middle - cosine * middle - sine * v, centre - sine * middle + cosine * v);
        for value in row {
            let (left, top) = (from_x.floor(), from_y.floor());
            let (right, down) = ((from_x - left) as f32, (from_y - top) as f32);
            let inside =
                left >= 0.0 && top >= 0.0 && left + 1.0 < width as f64 && top + 1.0 < height as f64;
            if inside {
                let at = top as usize * width + left as usize;
                let upper = values[at] * (1.0 - right) + values[at + 1] * right;
                let lower = values[at + width] * (1.0 - right) + values[at + width + 1] * right;
                *value = upper * (1.0 - down) + lower * down;
            }
            from_x += cosine;
            from_y += sine;
        }
    }
    Residual { width, height, values: out }
}

impl Detector {
    /// The best place with a rotation, or else with a changed aspect ratio, refined; `together` is
    /// the mean of all frames.
    pub(super) fn search_affine(
        &self,
        together: &Residual,
        first: &Residual,
        threads: usize,
    ) -> Place {
        let mut best: Option<Place> = None;
        for (residual, aspects) in
            [(together, false), (first, false), (together, true), (first, true)]
        {
            let place = match aspects {
                true => self.aspects(residual, threads),
                false => self.turns(residual, threads),
            };
            let place = self.refined(residual, place, threads);
            if best.is_none_or(|best| place.z > best.z) {
                best = Some(place);
            }
            if best.is_some_and(|best| best.z >= PRESENT) {
                break;
            }
        }
        best.expect("four places were looked for")
    }

    /// The best rotation and scale.
    fn turns(&self, residual: &Residual, threads: usize) -> Place {
        let scales: Vec<[f64; 2]> = Search::Full.scales().iter().map(|&s| [s, s]).collect();
        let places = TURNS.filter(|k| *k != 0).map(|k| {
            let turn = f64::from(k) * TURN;
            let found = self.best_of(&turned(residual, turn), &scales, None, threads);
            Place { turn, ..found }
        });
        places.reduce(|a, b| if b.z > a.z { b } else { a }).expect("there are rotations")
    }

    /// The best scales across and down.
    fn aspects(&self, residual: &Residual, threads: usize) -> Place {
        let scales: Vec<f64> = Search::Full.scales()[1..].iter().copied().step_by(2).collect();
        let tried = spread(&scales, threads, |&across| {
            let (narrow, over) = folded_across(residual, across);
            let near =
                scales.iter().filter(|&&down| (1.0 / ASPECT..ASPECT).contains(&(down / across)));
            let place = |&down: &f64| {
                let cells = folded_down(&narrow, &over, residual.height, down);
                let field = self.patterns.analyse(cells.into_iter());
                let vector = |flip| self.patterns.evened(&self.patterns.coefficients(&field, flip));
                let [one, other] = self.patterns.agreements(&vector(false), &vector(true));
                let [plain, mirrored] = [peak(&one).0, peak(&other).0];
                let (z, flip) = if mirrored > plain { (mirrored, true) } else { (plain, false) };
                Place { z, scale: [across, down], flip, turn: 0.0 }
            };
            near.map(place).reduce(|a, b| if b.z > a.z { b } else { a })
        });
        let better = |a: Place, b: Place| if b.z > a.z { b } else { a };
        tried.into_iter().flatten().reduce(better).expect("a scale is near itself")
    }

    /// Smaller steps around a place: of the rotation, of both scales, and of each.
    fn refined(&self, residual: &Residual, place: Place, threads: usize) -> Place {
        let mut best = place;
        let steps = [-4, -3, -2, -1, 1, 2, 3, 4];
        for turn in [0.1 * TURN, 0.025 * TURN] {
            let turns = steps.map(|k| best.turn + f64::from(k) * 2.0 * turn);
            let found = spread(&turns, threads, |&turn| {
                let still = turned(residual, turn);
                Place { turn, ..self.best_of(&still, &[best.scale], Some(best.flip), 1) }
            });
            best = found.into_iter().fold(best, |a, b| if b.z > a.z { b } else { a });
            let still = turned(residual, best.turn);
            for (axes, unit) in [
                ([1.0, 1.0], 0.002),
                ([1.0, 0.0], 0.002),
                ([0.0, 1.0], 0.002),
                ([1.0, 1.0], 0.0005),
            ] {
                let near = steps.map(|k| {
                    let by = |axis: f64| 1.0 + f64::from(k) * unit * axis;
                    [best.scale[0] * by(axes[0]), best.scale[1] * by(axes[1])]
                });
                let found = self.best_of(&still, &near, Some(best.flip), threads);
                if found.z > best.z * WORTHWHILE {
                    best = Place { turn: best.turn, ..found };
                }
            }
        }
        best
    }
}
