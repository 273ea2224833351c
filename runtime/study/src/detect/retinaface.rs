//! RetinaFace as biubug6 published it (`data.md` §3.1): boxes and points relative to priors that depend on
//! the size of the picture alone.

use super::Faces;
use super::boxes::{Hit, best};
use crate::model::network::Network;
use crate::model::pixels::{Order, Pixels, fitted};
use crate::picture::Plane;
use crate::records::Face;
use crate::settings::Engine;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use std::path::Path;

const PIXELS: Pixels = Pixels { order: Order::Bgr, mean: [104.0, 117.0, 123.0], by: [1.0; 3] };
/// Pixels between priors, and their sizes.
const PRIORS: [(usize, [f64; 2]); 3] =
    [(8, [16.0, 32.0]), (16, [64.0, 128.0]), (32, [256.0, 512.0])];
/// By what places and sizes are relative to priors.
const VARIANCES: [f64; 2] = [0.1, 0.2];
/// Score from which a prior is a face.
const SCORE: f64 = 0.5;
/// What two faces may share.
const SHARED: f64 = 0.4;

/// The network.
pub struct Retinaface {
    network: Network,
    input: String,
    /// Width and height where the file has them.
    fixed: Option<[usize; 2]>,
    /// Outputs: boxes, scores, points.
    outputs: [usize; 3],
    side: usize,
    score: f64,
}

/// Centre and size of every prior, in pixels.
fn priors([width, height]: [usize; 2]) -> Vec<[f64; 4]> {
    let mut all = Vec::new();
    for (step, sizes) in PRIORS {
        for y in 0..height.div_ceil(step) {
            for x in 0..width.div_ceil(step) {
                let centre = [x, y].map(|way| (way as f64 + 0.5) * step as f64);
                all.extend(sizes.map(|size| [centre[0], centre[1], size, size]));
            }
        }
    }
    all
}

impl Retinaface {
    /// Opens a file, for pictures of this longer side at most.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(path: &Path, engine: Engine, side: usize, score: Option<f64>) -> Result<Self> {
        let network = Network::open(path, engine, "RetinaFace")?;
        let input = network.input(None, &[0, 3, 0, 0])?;
        let fixed = match input.shape.as_deref() {
            Some([_, _, Some(height), Some(width)]) => Some([*width, *height]),
            _ => None,
        };
        let input = input.name.clone();
        let score = score.unwrap_or(SCORE);
        let mut own = Self { network, input, fixed, outputs: [0, 1, 2], side, score };
        // Exports name outputs in different ways: they are told by their last axes.
        let size = fixed.unwrap_or([64; 2]);
        let black = Plane { width: 1, height: 1, channels: 3, data: vec![0.0; 3] };
        let names: Vec<&str> = own.network.outputs().iter().map(String::as_str).collect();
        let tensor = PIXELS.tensor(&black, size, [0, 0], None);
        let out = own.network.run(vec![(&own.input, tensor)], &names)?;
        for (place, width) in [4, 2, 10].into_iter().enumerate() {
            match out
                .iter()
                .position(|output| output.width() == width && output.rows() == priors(size).len())
            {
                Some(at) => own.outputs[place] = at,
                None => {
                    let shapes: Vec<String> =
                        out.iter().map(|output| format!("{:?}", output.shape)).collect();
                    let what = format!(
                        "it gives {}, expected [1, {}, {width}] among them",
                        shapes.join(", "),
                        priors(size).len()
                    );
                    return Err(own.network.mismatch(&what));
                }
            }
        }
        Ok(own)
    }
}

impl Faces for Retinaface {
    fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>> {
        let most = self.fixed.unwrap_or([self.side; 2]);
        let (small, scale) = fitted(&Plane::rgb(image), most[0], most[1], false);
        let size = self.fixed.unwrap_or([small.width, small.height]);
        let tensor = PIXELS.tensor(&small, size, [0, 0], None);
        let names: Vec<&str> =
            self.outputs.iter().map(|at| self.network.outputs()[*at].as_str()).collect();
        let priors = priors(size);
        let out = self.network.run(vec![(&self.input, tensor)], &names)?;
        for ((name, output), width) in names.iter().zip(&out).zip([4, 2, 10]) {
            self.network.fits(name, output, &[priors.len(), width])?;
        }
        let mut hits = Vec::new();
        for (row, [x, y, width, height]) in priors.into_iter().enumerate() {
            let score = f64::from(out[1].row(row)[1]);
            if score < self.score {
                continue;
            }
            let side: [f64; 4] = std::array::from_fn(|at| f64::from(out[0].row(row)[at]));
            let centre = [x + side[0] * VARIANCES[0] * width, y + side[1] * VARIANCES[0] * height];
            let half = [
                width * (side[2] * VARIANCES[1]).exp() / 2.0,
                height * (side[3] * VARIANCES[1]).exp() / 2.0,
            ];
            let area = [
                centre[0] - half[0],
                centre[1] - half[1],
                centre[0] + half[0],
                centre[1] + half[1],
            ];
            let own = out[2].row(row);
            let points = std::array::from_fn(|point| {
                let at = |way: usize| f64::from(own[2 * point + way]) * VARIANCES[0];
                [x + at(0) * width, y + at(1) * height]
            });
            hits.push(Hit { area, score, points }.unfitted([scale; 2], [0.0; 2]));
        }
        Ok(best(hits, SHARED, 1.0).into_iter().map(|hit| hit.face(f)).collect())
    }
}
