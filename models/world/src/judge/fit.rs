//! Camera and pose of one frame: those under which the frame as it should be is most like it.
//!
//! A prompt says roughly where the camera is and what the head does, not to the pixel, so a frame
//! may not be compared before both are known. A coarse search at half the size over all shots and
//! turns finds the neighbourhood, steps along each number narrow it, and Gauss-Newton steps at full
//! size end at a fraction of a pixel.

use crate::canvas::Canvas;
use crate::contrast::Stage;
use crate::person::{Clip, Identity};
use crate::rules::SHOTS;
use crate::scene::{Camera, Pose, Scene};
use crate::world::{SIDE, World};

/// Zoom, x and y of the camera, yaw and roll of the head.
const NUMBERS: usize = 5;

type Numbers = [f64; NUMBERS];

/// How far the numbers are moved for their slopes.
const SMALL: Numbers = [0.01, 0.004, 0.004, 0.02, 0.02];

/// A sum of squared differences below which frames are the same.
const ROUNDING: f64 = 5e-6 * (SIDE * SIDE * 3) as f64;

/// The longest steps.
const LONGEST: Numbers = [0.1, 0.06, 0.06, 0.25, 0.25];

/// A frame that is judged: red, green and blue apart, 0 to 1.
#[derive(Clone, Debug)]
pub(super) struct Planes {
    size: usize,
    planes: [Vec<f32>; 3],
}

impl Planes {
    /// From bytes of `size` × `size` pixels, which `by` × `by` of are averaged each.
    pub(super) fn new(bytes: &[u8], size: usize, by: usize) -> Self {
        let small = size / by;
        let scale = 1.0 / (255.0 * (by * by) as f32);
        let planes = [0, 1, 2].map(|part| {
            let at = |at: usize| {
                let (x, y) = (at % small * by, at / small * by);
                let inside = (0..by * by).map(|inner| {
                    let pixel = (y + inner / by) * size + x + inner % by;
                    u32::from(bytes[pixel * 3 + part])
                });
                inside.sum::<u32>() as f32 * scale
            };
            (0..small * small).map(at).collect()
        });
        Self { size: small, planes }
    }

    /// The same at half the size.
    fn halved(&self) -> Self {
        let (size, small) = (self.size, self.size / 2);
        let planes = [0, 1, 2].map(|part| {
            let plane = &self.planes[part];
            let at = |at: usize| {
                let first = at / small * 2 * size + at % small * 2;
                let pair = |at: usize| plane[at] + plane[at + 1];
                (pair(first) + pair(first + size)) * 0.25
            };
            (0..small * small).map(at).collect()
        });
        Self { size: small, planes }
    }

    /// Red, green and blue of a row, from `left` to `right`.
    pub(super) fn row(&self, row: usize, left: usize, right: usize) -> [&[f32]; 3] {
        let at = row * self.size;
        [0, 1, 2].map(|part| &self.planes[part][at + left..at + right])
    }
}

/// What was found for a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Where the camera is.
    pub camera: Camera,
    /// How the head is held.
    pub pose: Pose,
    /// Mean squared difference from the frame as it should be, of values from 0 to 1.
    pub error: f64,
}

/// Fits frames; keeps what it paints on.
#[derive(Clone, Debug)]
pub(super) struct Fitter {
    half: Canvas,
    full: Canvas,
    /// One frame for each number, moved a little.
    moved: Vec<Canvas>,
}

fn stage<'s>(world: &'s World, identity: &'s Identity, clip: &'s Clip, at: Numbers) -> Stage<'s> {
    let [zoom, x, y, yaw, roll] = at.map(|number| number as f32);
    let (camera, pose) = (Camera { zoom, x, y }, Pose { yaw, roll });
    Stage { world, identity, clip, camera, pose }
}

/// Keeps the numbers where a person can be seen at all.
fn bounded(at: Numbers) -> Numbers {
    const LOW: Numbers = [0.7, -0.3, -0.4, -1.3, -0.7];
    const HIGH: Numbers = [2.0, 0.3, 0.5, 1.3, 0.7];
    std::array::from_fn(|number| at[number].clamp(LOW[number], HIGH[number]))
}

/// Sum of squared differences.
fn apart(canvas: &Canvas, frame: &Planes) -> f64 {
    let size = frame.size;
    let row = |row| {
        let (own, frame) = (canvas.row(row, 0, size), frame.row(row, 0, size));
        let part = |part: usize| {
            let mut sums = [0.0f32; 8];
            for (a, b) in own[part].chunks_exact(8).zip(frame[part].chunks_exact(8)) {
                for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                    *sum += (a - b) * (a - b);
                }
            }
            sums.iter().map(|sum| f64::from(*sum)).sum::<f64>()
        };
        (0..3).map(part).sum::<f64>()
    };
    (0..size).map(row).sum()
}

impl Fitter {
    pub(super) fn new() -> Self {
        let full = Canvas::new(SIDE);
        Self { half: Canvas::new(SIDE / 2), moved: vec![full.clone(); NUMBERS], full }
    }

    /// Fits a frame of [`SIDE`] pixels: near a camera, if one is given, else near any shot's.
    pub(super) fn fit(
        &mut self,
        world: &World,
        identity: &Identity,
        clip: &Clip,
        frame: &Planes,
        near: Option<Camera>,
    ) -> Fit {
        let shots = SHOTS.map(|(_, zoom, y)| Camera { zoom, x: 0.0, y });
        let cameras = near.as_ref().map_or(&shots[..], std::slice::from_ref);
        let small = frame.halved();
        let half = &mut self.half;
        let mut coarse = |at: Numbers| {
            let whole = half.whole();
            half.paint(&stage(world, identity, clip, at).scene(), whole);
            apart(half, &small)
        };
        let mut best = (f64::INFINITY, [1.0, 0.0, 0.0, 0.0, 0.0]);
        for Camera { zoom, x, y } in cameras {
            for yaw in [-0.9, -0.45, 0.0, 0.45, 0.9] {
                for roll in [0.0, 0.45] {
                    let at = [f64::from(*zoom), f64::from(*x), f64::from(*y), yaw, roll];
                    let error = coarse(at);
                    if error < best.0 {
                        best = (error, at);
                    }
                }
            }
        }
        let mut steps = [0.05, 0.03, 0.03, 0.2, 0.2];
        for _ in 0..3 {
            for number in 0..NUMBERS {
                for sign in [1.0, -1.0] {
                    let mut at = best.1;
                    at[number] += sign * steps[number];
                    let at = bounded(at);
                    let error = coarse(at);
                    if error < best.0 {
                        best = (error, at);
                        break;
                    }
                }
            }
            steps = steps.map(|step| step * 0.5);
        }
        self.narrow(world, identity, clip, frame, best.1)
    }

    /// Gauss-Newton steps from `at`, each kept only if it makes the frames more alike. Where they
    /// are stuck, because small things such as stars only nearly overlap, steps along each number
    /// may free them.
    fn narrow(
        &mut self,
        world: &World,
        identity: &Identity,
        clip: &Clip,
        frame: &Planes,
        at: Numbers,
    ) -> Fit {
        let whole = self.full.whole();
        let scene = |at| stage(world, identity, clip, at).scene();
        self.full.paint(&scene(at), whole);
        let mut best = (apart(&self.full, frame), at);
        for _ in 0..3 {
            best = self.descend(&scene, frame, best);
            // Rounding of bytes alone makes a difference of this size.
            if best.0 < ROUNDING {
                break;
            }
            let before = best.0;
            for number in 0..NUMBERS {
                for step in [1.5, -1.5, 4.0, -4.0] {
                    let mut next = best.1;
                    next[number] += step * SMALL[number];
                    let next = bounded(next);
                    self.full.paint(&scene(next), whole);
                    let error = apart(&self.full, frame);
                    if error < best.0 {
                        best = (error, next);
                        break;
                    }
                }
            }
            if best.0 > 0.97 * before {
                break;
            }
        }
        let stage = stage(world, identity, clip, best.1);
        Fit { camera: stage.camera, pose: stage.pose, error: best.0 / (SIDE * SIDE * 3) as f64 }
    }

    /// Gauss-Newton steps until there is little left to gain. Takes and gives the error and the
    /// numbers.
    fn descend(
        &mut self,
        scene: &dyn Fn(Numbers) -> Scene,
        frame: &Planes,
        mut best: (f64, Numbers),
    ) -> (f64, Numbers) {
        let whole = self.full.whole();
        let mut damping = 1e-2;
        for _ in 0..6 {
            self.full.paint(&scene(best.1), whole);
            for number in 0..NUMBERS {
                let mut moved = best.1;
                moved[number] += SMALL[number];
                self.moved[number].paint(&scene(moved), whole);
            }
            let (square, slope) = self.normal(frame);
            let before = best.0;
            for _ in 0..4 {
                let Some(step) = solve(square, slope, damping) else { break };
                let next = std::array::from_fn(|number| {
                    let step = step[number] * SMALL[number];
                    best.1[number] + step.clamp(-LONGEST[number], LONGEST[number])
                });
                let next = bounded(next);
                self.full.paint(&scene(next), whole);
                let found = apart(&self.full, frame);
                if found < best.0 {
                    best = (found, next);
                    damping *= 0.2;
                    break;
                }
                damping *= 8.0;
            }
            if best.0 > 0.998 * before || best.0 < ROUNDING {
                break;
            }
        }
        best
    }

    /// The normal equations of the frame at hand: products of slopes, and of slopes and residues.
    fn normal(&self, frame: &Planes) -> ([Numbers; NUMBERS], Numbers) {
        let (mut square, mut slope) = ([[0.0; NUMBERS]; NUMBERS], [0.0; NUMBERS]);
        for row in 0..SIDE {
            let (own, wanted) = (self.full.row(row, 0, SIDE), frame.row(row, 0, SIDE));
            let moved: [_; NUMBERS] = std::array::from_fn(|at| self.moved[at].row(row, 0, SIDE));
            for part in 0..3 {
                let (own, wanted) = (own[part], wanted[part]);
                let mut slopes = [[0.0f32; SIDE]; NUMBERS];
                for (slopes, moved) in slopes.iter_mut().zip(moved) {
                    for ((slope, moved), own) in slopes.iter_mut().zip(moved[part]).zip(own) {
                        *slope = moved - own;
                    }
                }
                let mut residue = [0.0f32; SIDE];
                for ((residue, own), wanted) in residue.iter_mut().zip(own).zip(wanted) {
                    *residue = wanted - own;
                }
                for a in 0..NUMBERS {
                    slope[a] += product(&slopes[a], &residue);
                    for b in 0..=a {
                        square[a][b] += product(&slopes[a], &slopes[b]);
                    }
                }
            }
        }
        for a in 0..NUMBERS {
            for b in a + 1..NUMBERS {
                square[a][b] = square[b][a];
            }
        }
        (square, slope)
    }
}

/// Sum of products.
fn product(a: &[f32; SIDE], b: &[f32; SIDE]) -> f64 {
    let mut sums = [0.0f32; 8];
    for (a, b) in a.chunks_exact(8).zip(b.chunks_exact(8)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().map(|sum| f64::from(*sum)).sum()
}

/// Solves the damped normal equations by Cholesky's method; none where they are singular.
fn solve(square: [Numbers; NUMBERS], slope: Numbers, damping: f64) -> Option<Numbers> {
    let mut lower = [[0.0; NUMBERS]; NUMBERS];
    for a in 0..NUMBERS {
        for b in 0..=a {
            let mut sum = square[a][b];
            if a == b {
                sum += damping * square[a][a] + 1e-9;
            }
            for c in 0..b {
                sum -= lower[a][c] * lower[b][c];
            }
            if a == b {
                if sum <= 0.0 {
                    return None;
                }
                lower[a][a] = sum.sqrt();
            } else {
                lower[a][b] = sum / lower[b][b];
            }
        }
    }
    let mut out = slope;
    for a in 0..NUMBERS {
        for c in 0..a {
            out[a] -= lower[a][c] * out[c];
        }
        out[a] /= lower[a][a];
    }
    for a in (0..NUMBERS).rev() {
        for c in a + 1..NUMBERS {
            out[a] -= lower[c][a] * out[c];
        }
        out[a] /= lower[a][a];
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equations_are_solved() {
        let a: [Numbers; NUMBERS] = std::array::from_fn(|row| {
            std::array::from_fn(|column| {
                (0..NUMBERS)
                    .map(|k| ((row * 3 + k * 5) % 7 * ((column * 3 + k * 5) % 7)) as f64)
                    .sum()
            })
        });
        let x = [1.0, -2.0, 0.5, 3.0, -1.5];
        let b = std::array::from_fn(|row| (0..NUMBERS).map(|k| a[row][k] * x[k]).sum());
        let found = solve(a, b, 0.0).unwrap();
        assert!(found.iter().zip(x).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        assert!(solve([[-1.0; NUMBERS]; NUMBERS], x, 0.0).is_none());
    }
}
