//! Finds a mark in frames that may have been coded, cropped, scaled, mirrored or thinned out, without
//! the frames that it was put into (`watermark.md` §2).
//!
//! The whitened difference from a blur is folded onto one tile at each scale of a list, and
//! compared with the pattern that tiles are found by. Beyond the paper, the best scale is then
//! refined, and the place of the tile is taken to a fraction of a pixel, because a wrong scale of
//! half a percent smears the finest waves of a wide picture. A codec keeps most of the mark in key
//! frames and moves what is left of it with the picture in others, so that one frame may show more
//! than all together: the first, which is a key frame, and the best one are looked at alone as
//! well. Small rotations and changed aspect ratios are looked for only if they are asked for
//! ([`Search::Affine`], in `affine`); other warps are not.

mod affine;

use super::code::{CHANNEL_BITS, Payload};
use super::fourier::{CELLS, SIDE};
use super::pattern::{Key, Patterns, Vector};
use super::plane::{Blur, Luma, spread};

/// A mark is present from this height of the peak on, in standard deviations of the agreement.
pub const PRESENT: f64 = 7.0;
/// Most frames that are looked at.
pub const FRAMES: usize = 16;

/// How much higher the peak has to be at a refined scale: less is chance, and the plain scale is
/// likelier.
const WORTHWHILE: f64 = 1.02;

/// Which scales are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// 1 and 171 scales between 0.4 and 2.2.
    Full,
    /// 1, 1/2, 2/3, 3/4 and 3/2.
    Fast,
    /// As [`Self::Full`], and if there is nothing, rotations up to 2° either way and aspect ratios
    /// that were changed by up to a half.
    Affine,
}

impl Search {
    fn scales(self) -> Vec<f64> {
        match self {
            Self::Fast => vec![1.0, 0.5, 2.0 / 3.0, 0.75, 1.5],
            Self::Full | Self::Affine => {
                let step = (2.2f64 / 0.4).ln() / 170.0;
                std::iter::once(1.0)
                    .chain((0..171).map(|k| 0.4 * (step * k as f64).exp()))
                    .collect()
            }
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// Whether a mark of the key is there.
    pub present: bool,
    /// Its payload, if the checksum is right.
    pub payload: Option<Payload>,
    /// Height of the peak in standard deviations.
    pub z: f64,
    /// Size of the tile in the frames, 1 as it was put in.
    pub scale: f64,
    /// Whether the frames are mirrored.
    pub flip: bool,
    /// Degrees that the frames are turned by, clockwise.
    pub turn: f64,
    /// Width of the tile in the frames by its height, 1 as it was put in.
    pub aspect: f64,
    /// Share of channel bits that were wrong before decoding.
    pub bit_errors: Option<f64>,
    /// Soft values of the channel bits, for measurements.
    pub soft: [f64; CHANNEL_BITS],
    /// Frames looked at.
    pub frames: usize,
}

/// Finds marks of one key.
pub struct Detector {
    patterns: Patterns,
}

/// Where a tile was found.
#[derive(Clone, Copy)]
struct Place {
    z: f64,
    /// Scales across and down.
    scale: [f64; 2],
    flip: bool,
    /// Radians that the frames are turned by.
    turn: f64,
}

/// A whitened picture.
struct Residual {
    width: usize,
    height: usize,
    values: Vec<f32>,
}

impl Detector {
    /// A detector for marks of `key`.
    pub fn new(key: &Key) -> Self {
        Self { patterns: Patterns::new(key) }
    }

    /// Looks for a mark in `frames`, of which those of the first one's size count, and at most
    /// [`FRAMES`] spread evenly. Does not depend on `threads`.
    pub fn detect(&self, frames: &[Luma], search: Search, threads: usize) -> Detection {
        let first = frames.first().map(|f| (f.width, f.height));
        let alike: Vec<&Luma> =
            frames.iter().filter(|f| Some((f.width, f.height)) == first).collect();
        let count = alike.len().min(FRAMES);
        let chosen: Vec<&Luma> = (0..count).map(|k| alike[k * alike.len() / count]).collect();
        if chosen.first().is_none_or(|frame| frame.width.min(frame.height) < SIDE / 4) {
            return Detection {
                present: false,
                payload: None,
                z: 0.0,
                scale: 1.0,
                flip: false,
                turn: 0.0,
                aspect: 1.0,
                bit_errors: None,
                soft: [0.0; CHANNEL_BITS],
                frames: count,
            };
        }
        let residuals = spread(&chosen, threads, |frame| whitened(frame));
        let together = mean(&residuals);
        let all = self.search(&together, search, threads);
        let first = self.search(&residuals[0], search, threads);
        let place = if first.z > all.z { first } else { all };
        let seen = self.read(&residuals, place, PRESENT, threads);
        match search == Search::Affine && !seen.present {
            true => {
                let place = self.search_affine(&together, &residuals[0], threads);
                self.read(&residuals, place, affine::PRESENT, threads)
            }
            false => seen,
        }
    }

    /// What the frames say at a place, where a mark is present from this height of the peak on.
    fn read(
        &self,
        residuals: &[Residual],
        place: Place,
        present: f64,
        threads: usize,
    ) -> Detection {
        let residuals = &residuals;
        let folds = spread(residuals, threads, |residual| {
            let vector = self.folded(residual, place);
            let (z, _) = peak(&self.patterns.agreement(&vector));
            (vector, z)
        });
        let sum = weighted(&folds, |(_, z)| (z - 4.0).max(0.05).powi(2));
        let best = folds.iter().fold(&folds[0], |b, fold| if fold.1 > b.1 { fold } else { b });
        let found = [&sum, &best.0].map(|vector| peak(&self.patterns.agreement(vector)));
        let (z, shift) = if found[1].0 > found[0].0 { found[1] } else { found[0] };
        // Of the bits each frame tells as much as it has of the pattern at this very place. For the height
        // of the peak that would not do: where there is no mark, it would look for one.
        let sum = weighted(&folds, |(vector, _)| {
            let noise = vector.iter().map(|v| v * v).sum::<f64>().max(f64::MIN_POSITIVE);
            (self.patterns.sync_at(vector, shift).max(0.0) / noise).powi(2)
        });
        let soft = self.patterns.bits(&self.patterns.moved_back(&sum, shift));
        let present = z >= present;
        let payload = Payload::decode(&soft)
            .filter(|payload| present && payload.version == self.patterns.version());
        let bit_errors = payload.map(|payload| {
            let pairs = payload.channel().into_iter().zip(soft);
            pairs.filter(|(bit, s)| *bit != (*s > 0.0)).count() as f64 / CHANNEL_BITS as f64
        });
        let scale = (place.scale[0] * place.scale[1]).sqrt();
        let (flip, turn) = (place.flip, place.turn.to_degrees());
        let (aspect, frames) = (place.scale[0] / place.scale[1], residuals.len());
        Detection { present, payload, z, scale, flip, turn, aspect, bit_errors, soft, frames }
    }

    /// The best scale, refined in both directions.
    fn search(&self, residual: &Residual, search: Search, threads: usize) -> Place {
        let scales: Vec<[f64; 2]> = search.scales().iter().map(|&s| [s, s]).collect();
        let mut best = self.best_of(residual, &scales, None, threads);
        let around = |steps: &[i32], unit: f64, axes: [f64; 2], at: [f64; 2]| -> Vec<[f64; 2]> {
            let factor = |k: i32, axis: f64| 1.0 + f64::from(k) * unit * axis;
            let scaled = |&k: &i32| [at[0] * factor(k, axes[0]), at[1] * factor(k, axes[1])];
            steps.iter().map(scaled).collect()
        };
        let rounds = [([1.0, 1.0], 0.002), ([1.0, 0.0], 0.001), ([0.0, 1.0], 0.001)];
        for (axes, unit) in rounds {
            let near = around(&[-4, -3, -2, -1, 1, 2, 3, 4], unit, axes, best.scale);
            let found = self.best_of(residual, &near, Some(best.flip), threads);
            if found.z > best.z * WORTHWHILE {
                best = found;
            }
        }
        best
    }

    /// The best of `scales`, in the direction of `flip` or in both.
    fn best_of(
        &self,
        residual: &Residual,
        scales: &[[f64; 2]],
        flip: Option<bool>,
        threads: usize,
    ) -> Place {
        let better = |a: Place, b: Place| if b.z > a.z { b } else { a };
        let tried = spread(scales, threads, |&scale| {
            let field = self.patterns.analyse(fold(residual, scale).into_iter());
            let vector = |flip| self.patterns.evened(&self.patterns.coefficients(&field, flip));
            let place = |values: &[f64], flip| Place { z: peak(values).0, scale, flip, turn: 0.0 };
            match flip {
                Some(flip) => place(&self.patterns.agreement(&vector(flip)), flip),
                None => {
                    let [one, other] = self.patterns.agreements(&vector(false), &vector(true));
                    better(place(&one, false), place(&other, true))
                }
            }
        });
        tried.into_iter().reduce(better).expect("there is a scale")
    }

    fn folded(&self, residual: &Residual, place: Place) -> Vector {
        let Place { scale, flip, turn, .. } = place;
        let cells = match turn == 0.0 {
            true => fold(residual, scale),
            false => fold(&affine::turned(residual, turn), scale),
        };
        let field = self.patterns.analyse(cells.into_iter());
        self.patterns.evened(&self.patterns.coefficients(&field, flip))
    }
}

/// The sum of the vectors of frames.
fn weighted(folds: &[(Vector, f64)], weight: impl Fn(&(Vector, f64)) -> f64) -> Vector {
    let mut sum: Vector = vec![0.0; folds[0].0.len()];
    for fold in folds {
        let weight = weight(fold);
        sum.iter_mut().zip(&fold.0).for_each(|(s, v)| *s += weight * v);
    }
    sum
}

/// h = Y − G₄(Y), divided by its local strength and clipped: what is left is as flat as noise.
fn whitened(frame: &Luma) -> Residual {
    let Luma { width, height, values } = frame;
    let luma: Vec<f32> = values.iter().map(|&v| f32::from(v)).collect();
    let mut scratch = Vec::new();
    let mut smooth = luma.clone();
    Blur::new(4.0).apply(&mut smooth, *width, &mut scratch);
    let mut residual: Vec<f32> = luma.iter().zip(&smooth).map(|(y, s)| y - s).collect();
    let mut power: Vec<f32> = residual.iter().map(|h| h * h).collect();
    Blur::new(8.0).apply(&mut power, *width, &mut scratch);
    residual
        .iter_mut()
        .zip(&power)
        .for_each(|(h, p)| *h = (*h / (p.max(0.0).sqrt() + 2.0)).clamp(-2.0, 2.0));
    Residual { width: *width, height: *height, values: residual }
}

fn mean(residuals: &[Residual]) -> Residual {
    let mut values = vec![0f32; residuals[0].values.len()];
    for residual in residuals {
        values.iter_mut().zip(&residual.values).for_each(|(sum, v)| *sum += v);
    }
    let share = 1.0 / residuals.len() as f32;
    values.iter_mut().for_each(|v| *v *= share);
    Residual { width: residuals[0].width, height: residuals[0].height, values }
}

/// Samples along one side at another scale: where each output reads, and with which weights.
struct Taps {
    width: usize,
    starts: Vec<usize>,
    weights: Vec<f32>,
}

/// Resampling of `length` samples by 1/`scale` with a cubic kernel (Catmull–Rom), widened where
/// samples get fewer.
fn taps(length: usize, scale: f64) -> Taps {
    let stretch = scale.max(1.0);
    let width = ((4.0 * stretch).ceil() as usize).min(length);
    let count = ((length as f64 / scale).floor() as usize).max(1);
    let (mut starts, mut weights) = (Vec::with_capacity(count), Vec::with_capacity(count * width));
    for at in 0..count {
        let center = (at as f64 + 0.5) * scale - 0.5;
        let start = (center - width as f64 / 2.0).ceil().clamp(0.0, (length - width) as f64);
        let raw: Vec<f64> =
            (0..width).map(|k| cubic((start + k as f64 - center) / stretch)).collect();
        let sum: f64 = raw.iter().sum();
        starts.push(start as usize);
        weights.extend(raw.iter().map(|w| (w / sum) as f32));
    }
    Taps { width, starts, weights }
}

fn cubic(x: f64) -> f64 {
    let x = x.abs();
    match x {
        x if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
        x if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
        _ => 0.0,
    }
}

/// The residual at another scale, folded onto one tile: each cell is the mean of all pixels that
/// fall onto it.
fn fold(residual: &Residual, [across, down]: [f64; 2]) -> Vec<f64> {
    let (narrow, over) = folded_across(residual, across);
    folded_down(&narrow, &over, residual.height, down)
}

/// One over how many samples fall onto each of the cells along one side.
fn shares(total: usize) -> Vec<f64> {
    let count = |at: usize| total / SIDE + usize::from(at < total % SIDE);
    (0..SIDE).map(|at| 1.0 / count(at).max(1) as f64).collect()
}

/// Each row folded onto the width of a tile, and the share of a sample in each column.
fn folded_across(residual: &Residual, across: f64) -> (Vec<f32>, Vec<f64>) {
    let columns = taps(residual.width, across);
    let mut narrow = vec![0f32; residual.height * SIDE];
    for (line, out) in
        residual.values.chunks_exact(residual.width).zip(narrow.chunks_exact_mut(SIDE))
    {
        let weights = columns.weights.chunks_exact(columns.width);
        for (at, (&start, weights)) in columns.starts.iter().zip(weights).enumerate() {
            let window = &line[start..start + columns.width];
            out[at % SIDE] += window.iter().zip(weights).map(|(v, w)| v * w).sum::<f32>();
        }
    }
    (narrow, shares(columns.starts.len()))
}

/// Rows that are folded already, folded onto the height of a tile.
fn folded_down(narrow: &[f32], over: &[f64], height: usize, down: f64) -> Vec<f64> {
    let rows = taps(height, down);
    let mut cells = vec![0f64; CELLS];
    let weights = rows.weights.chunks_exact(rows.width);
    for (at, (&start, weights)) in rows.starts.iter().zip(weights).enumerate() {
        let out = &mut cells[at % SIDE * SIDE..][..SIDE];
        for (line, &weight) in narrow[start * SIDE..].chunks_exact(SIDE).zip(weights) {
            let weight = f64::from(weight);
            out.iter_mut().zip(line).for_each(|(o, v)| *o += weight * f64::from(*v));
        }
    }
    let under = shares(rows.starts.len());
    for (y, row) in cells.chunks_exact_mut(SIDE).enumerate() {
        row.iter_mut().zip(over).for_each(|(cell, share)| *cell *= under[y] * share);
    }
    cells
}

/// Height of the highest value above the mean in standard deviations, and its place `[y, x]` to a
/// fraction of a cell.
fn peak(values: &[f64]) -> (f64, [f64; 2]) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let square = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
    let best = (1..values.len()).fold(0, |b, at| if values[at] > values[b] { at } else { b });
    let z = match square > 0.0 {
        true => (values[best] - mean) / square.sqrt(),
        false => 0.0,
    };
    let (y, x) = (best / SIDE, best % SIDE);
    let value = |y: usize, x: usize| values[y % SIDE * SIDE + x % SIDE];
    let vertex = |before: f64, after: f64| {
        let bend = before + after - 2.0 * values[best];
        if bend < 0.0 { (0.5 * (before - after) / bend).clamp(-0.5, 0.5) } else { 0.0 }
    };
    let down = vertex(value(y + SIDE - 1, x), value(y + 1, x));
    let across = vertex(value(y, x + SIDE - 1), value(y, x + 1));
    (z, [y as f64 + down, x as f64 + across])
}

/// Chooses frames of a clip whose length is not known beforehand: evenly spread, between 16 and
/// 32 of them once there are as many.
#[derive(Default)]
pub struct Picker {
    kept: Vec<Luma>,
    stride: usize,
    seen: usize,
}

impl Picker {
    /// Whether the next frame is wanted; [`Self::push`] or [`Self::pass`] follows.
    pub fn wants(&self) -> bool {
        self.seen.is_multiple_of(self.stride.max(1))
    }

    /// Takes the next frame.
    pub fn push(&mut self, frame: Luma) {
        self.stride = self.stride.max(1);
        self.kept.push(frame);
        self.seen += 1;
        if self.kept.len() > 2 * FRAMES {
            let mut at = 0;
            self.kept.retain(|_| {
                at += 1;
                at % 2 == 1
            });
            self.stride *= 2;
        }
    }

    /// Lets the next frame go by.
    pub fn pass(&mut self) {
        self.seen += 1;
    }

    /// The frames.
    pub fn frames(&self) -> &[Luma] {
        &self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_picked_evenly() {
        for count in [0usize, 1, 5, 16, 32, 33, 100, 1000] {
            let mut picker = Picker::default();
            for at in 0..count {
                match picker.wants() {
                    true => picker.push(Luma { width: at, height: 0, values: Vec::new() }),
                    false => picker.pass(),
                }
            }
            let kept: Vec<usize> = picker.frames().iter().map(|frame| frame.width).collect();
            assert!(kept.len() >= count.min(FRAMES) && kept.len() <= 2 * FRAMES, "{kept:?}");
            let step = kept.get(1).copied().unwrap_or(1);
            assert!(kept.iter().enumerate().all(|(k, &at)| at == k * step), "{kept:?}");
            assert!(count == 0 || count - kept[kept.len() - 1] <= step, "{count} {kept:?}");
        }
    }

    #[test]
    fn folding_finds_a_wave_at_its_own_scale() {
        // A wave of 10 cycles a tile across and 7 down, in a picture scaled by 0.7 and 1.3.
        for scale in [0.7, 1.0, 1.3] {
            let (width, height) = (500, 400);
            let wave = |at: usize| {
                let (y, x) = ((at / width) as f64 + 0.5, (at % width) as f64 + 0.5);
                let cycles = (10.0 * x + 7.0 * y) / scale / SIDE as f64;
                (std::f64::consts::TAU * cycles).cos() as f32
            };
            let values = (0..width * height).map(wave).collect();
            let cells = fold(&Residual { width, height, values }, [scale, scale]);
            for (at, cell) in cells.iter().enumerate() {
                let (y, x) = ((at / SIDE) as f64 + 0.5, (at % SIDE) as f64 + 0.5);
                let expected = (std::f64::consts::TAU * (10.0 * x + 7.0 * y) / SIDE as f64).cos();
                // The cubic kernel damps this wave by up to a fifth, and borders add to it.
                assert!((cell - expected).abs() < 0.3, "{scale} {at}: {cell} {expected}");
            }
        }
    }

    #[test]
    fn nothing_is_found_in_nothing() {
        let detector = Detector::new(&Key::public());
        for frames in [
            vec![],
            vec![Luma { width: 20, height: 20, values: vec![0; 400] }],
            vec![Luma { width: 300, height: 200, values: vec![128; 60_000] }],
        ] {
            let found = detector.detect(&frames, Search::Fast, 1);
            assert!(!found.present && found.payload.is_none(), "{found:?}");
        }
    }
}
