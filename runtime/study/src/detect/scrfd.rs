//! SCRFD, the face detector of insightface (`data.md` §3.1): scores, distances to the sides of boxes and
//! points for cells of several sizes.

use super::Faces;
use super::boxes::{Hit, best};
use crate::model::network::{Network, Output};
use crate::model::pixels::{Order, Pixels};
use crate::picture::Plane;
use crate::records::Face;
use crate::settings::{Engine, Side};
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use std::path::Path;

const PIXELS: Pixels = Pixels::even(Order::Rgb, 127.5, 128.0);
/// Score from which a cell is a face.
const SCORE: f64 = 0.5;
/// What two faces may share.
const SHARED: f64 = 0.4;

/// The network.
pub struct Scrfd {
    network: Network,
    input: String,
    /// Pixels between cells, for each of its sizes.
    strides: &'static [usize],
    /// Boxes that each cell may be.
    anchors: usize,
    sides: Vec<usize>,
    score: f64,
}

impl Scrfd {
    /// Opens a file, for pictures brought to squares of this side.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(path: &Path, engine: Engine, side: Side, score: Option<f64>) -> Result<Self> {
        let network = Network::open(path, engine, "SCRFD")?;
        let (strides, anchors): (&[usize], usize) = match network.outputs().len() {
            9 => (&[8, 16, 32], 2),
            15 => (&[8, 16, 32, 64, 128], 1),
            6 | 10 => {
                let what = "it gives no points: take a file whose name ends in _bnkps, or det_10g";
                return Err(network.mismatch(what));
            }
            count => {
                let what = format!("it has {count} outputs, expected 9 or 15");
                return Err(network.mismatch(&what));
            }
        };
        let sides = match side {
            Side::Auto => vec![128, 640],
            Side::Pixels(side) => vec![side],
        };
        let most = strides[strides.len() - 1];
        if let Some(side) = sides.iter().find(|side| *side % most != 0) {
            return Err(network.mismatch(&format!("its side is a multiple of {most}, not {side}")));
        }
        for side in &sides {
            network.input(None, &[0, 3, *side, *side])?;
        }
        let input = network.input(None, &[0, 3, sides[0], sides[0]])?.name.clone();
        let own = Self { network, input, strides, anchors, sides, score: score.unwrap_or(SCORE) };
        let black = Plane { width: 1, height: 1, channels: 3, data: vec![0.0; 3] };
        own.found(&black, own.sides[0])?;
        Ok(own)
    }

    /// What is found in a picture brought to a square.
    fn found(&self, plane: &Plane, side: usize) -> Result<Vec<Hit>> {
        // As the original rounds: the longer side is whole, the other one is cut off.
        let tall = plane.height > plane.width;
        let cut = |shorter: usize, longer: usize| {
            ((side as f64 * shorter as f64 / longer as f64) as usize).max(1)
        };
        let (width, height) = match tall {
            true => (cut(plane.width, plane.height), side),
            false => (side, cut(plane.height, plane.width)),
        };
        let scale = height as f64 / plane.height as f64;
        let small = plane.linear(width, height);
        let tensor = PIXELS.tensor(&small, [side; 2], [0, 0], Some(0.0));
        let names: Vec<&str> = self.network.outputs().iter().map(String::as_str).collect();
        let out = self.network.run(vec![(&self.input, tensor)], &names)?;
        let count = self.strides.len();
        let mut hits = Vec::new();
        for (at, stride) in self.strides.iter().enumerate() {
            let cells = side / stride;
            let rows = cells * cells * self.anchors;
            let of = |kind: usize, width: usize| -> Result<&Output> {
                let (name, own) = (names[at + kind * count], &out[at + kind * count]);
                self.network.fits(name, own, &[rows, width])?;
                Ok(own)
            };
            let (scores, boxes, points) = (of(0, 1)?, of(1, 4)?, of(2, 10)?);
            for row in 0..rows {
                let score = f64::from(scores.row(row)[0]);
                if score < self.score {
                    continue;
                }
                let cell = row / self.anchors;
                let centre = [cell % cells, cell / cells].map(|way| (way * stride) as f64);
                let far = |value: f32| f64::from(value) * *stride as f64;
                let sides = boxes.row(row);
                let area = std::array::from_fn(|side| {
                    let way = far(sides[side]);
                    centre[side % 2] + if side < 2 { -way } else { way }
                });
                let own = points.row(row);
                let points = std::array::from_fn(|point| {
                    std::array::from_fn(|way| centre[way] + far(own[2 * point + way]))
                });
                hits.push(Hit { area, score, points }.unfitted([scale; 2], [0.0; 2]));
            }
        }
        Ok(hits)
    }
}

impl Faces for Scrfd {
    fn faces(&self, f: usize, image: &RgbFrame) -> Result<Vec<Face>> {
        let plane = Plane::rgb(image);
        let mut hits = Vec::new();
        for side in &self.sides {
            hits.extend(self.found(&plane, *side)?);
        }
        Ok(best(hits, SHARED, 1.0).into_iter().map(|hit| hit.face(f)).collect())
    }
}
