//! YuNet, the face detector of OpenCV's zoo (`data.md` §3.1): two scores, a box and points for each cell.

use super::Faces;
use super::boxes::{Hit, best};
use crate::model::network::{Network, Output};
use crate::model::pixels::{Order, Pixels, fitted};
use crate::picture::Plane;
use crate::records::Face;
use crate::settings::Engine;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use std::path::Path;

/// Pixels as they are.
const PIXELS: Pixels = Pixels::even(Order::Bgr, 0.0, 1.0);
const STRIDES: [usize; 3] = [8, 16, 32];
/// What the sides of its picture are multiples of.
const STEP: usize = 32;
/// Score from which a cell is a face.
const SCORE: f64 = 0.6;
/// What two faces may share.
const SHARED: f64 = 0.3;
/// Outputs of each stride, with the size of their last axis.
const KINDS: [(&str, usize); 4] = [("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)];

/// The network.
pub struct Yunet {
    network: Network,
    names: Vec<String>,
    /// Width and height where the file has them.
    fixed: Option<[usize; 2]>,
    side: usize,
    score: f64,
}

impl Yunet {
    /// Opens a file, for pictures of this longer side at most.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(path: &Path, engine: Engine, side: usize, score: Option<f64>) -> Result<Self> {
        let network = Network::open(path, engine, "YuNet")?;
        let input = network.input(Some("input"), &[0, 3, 0, 0])?;
        let fixed = match input.shape.as_deref() {
            Some([_, _, Some(height), Some(width)]) => Some([*width, *height]),
            _ => None,
        };
        let names: Vec<String> = KINDS
            .iter()
            .flat_map(|(kind, _)| STRIDES.map(|stride| format!("{kind}_{stride}")))
            .collect();
        network.has_outputs(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        let own = Self { network, names, fixed, side, score: score.unwrap_or(SCORE) };
        let black =
            Plane { width: STEP, height: STEP, channels: 3, data: vec![0.0; STEP * STEP * 3] };
        own.found(&black)?;
        Ok(own)
    }

    fn found(&self, plane: &Plane) -> Result<Vec<Hit>> {
        let most = self.fixed.unwrap_or([self.side; 2]);
        let (small, scale) = fitted(plane, most[0], most[1], false);
        let whole = |side: usize| side.div_ceil(STEP) * STEP;
        let size = self.fixed.unwrap_or([whole(small.width), whole(small.height)]);
        let tensor = PIXELS.tensor(&small, size, [0, 0], None);
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let out = self.network.run(vec![("input", tensor)], &names)?;
        let mut hits = Vec::new();
        for (at, stride) in STRIDES.into_iter().enumerate() {
            let columns = size[0] / stride;
            let rows = columns * (size[1] / stride);
            let mut of: Vec<&Output> = Vec::new();
            for (kind, (_, width)) in KINDS.into_iter().enumerate() {
                let place = kind * STRIDES.len() + at;
                self.network.fits(names[place], &out[place], &[rows, width])?;
                of.push(&out[place]);
            }
            let [classes, objects, boxes, points] = of[..] else { continue };
            for row in 0..rows {
                let share = |output: &Output| f64::from(output.row(row)[0]).clamp(0.0, 1.0);
                let score = (share(classes) * share(objects)).sqrt();
                if score < self.score {
                    continue;
                }
                let cell = [(row % columns) as f64, (row / columns) as f64];
                let step = stride as f64;
                let sides: [f64; 4] = std::array::from_fn(|at| f64::from(boxes.row(row)[at]));
                let centre = [(cell[0] + sides[0]) * step, (cell[1] + sides[1]) * step];
                let half = [sides[2].exp() * step / 2.0, sides[3].exp() * step / 2.0];
                let area = [
                    centre[0] - half[0],
                    centre[1] - half[1],
                    centre[0] + half[0],
                    centre[1] + half[1],
                ];
                let own = points.row(row);
                // The eyes of the person from right to left are those of the picture from left to right.
                let points = std::array::from_fn(|point| {
                    std::array::from_fn(|way| (f64::from(own[2 * point + way]) + cell[way]) * step)
                });
                hits.push(Hit { area, score, points }.unfitted([scale; 2], [0.0; 2]));
            }
        }
        Ok(hits)
    }
}

impl Faces for Yunet {
    fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>> {
        let hits = self.found(&Plane::rgb(image))?;
        Ok(best(hits, SHARED, 0.0).into_iter().map(|hit| hit.face(f)).collect())
    }
}
