//! Persons by YOLO as ultralytics exports it (`data.md` §3.1): boxes with a score for each of 80 classes,
//! or in newer exports the best 300 boxes.

use super::Persons;
use super::boxes::{Hit, best};
use crate::model::network::{Network, Output};
use crate::model::pixels::{Order, Pixels, fitted};
use crate::picture::Plane;
use crate::records::Person;
use crate::settings::Engine;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use std::path::Path;

const PIXELS: Pixels = Pixels::even(Order::Rgb, 0.0, 255.0);
/// Sides of the picture that it sees.
const SIDE: usize = 640;
/// The grey around pictures of other proportions.
const GREY: f32 = 114.0;
/// Classes of things; persons are the first.
const CLASSES: usize = 80;
/// Score from which a box is a person.
const SCORE: f64 = 0.25;
/// What two persons may share.
const SHARED: f64 = 0.45;

/// The network.
pub struct Yolo {
    network: Network,
    input: String,
    output: String,
    score: f64,
}

impl Yolo {
    /// Opens a file.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(path: &Path, engine: Engine, score: Option<f64>) -> Result<Self> {
        let network = Network::open(path, engine, "YOLO")?;
        let input = network.input(Some("images"), &[0, 3, SIDE, SIDE])?.name.clone();
        network.has_outputs(&["output0"])?;
        let own = Self { network, input, output: "output0".into(), score: score.unwrap_or(SCORE) };
        let black = Plane { width: 1, height: 1, channels: 3, data: vec![0.0; 3] };
        own.found(&black)?;
        Ok(own)
    }

    fn found(&self, plane: &Plane) -> Result<Vec<Hit>> {
        let (small, scale) = fitted(plane, SIDE, SIDE, true);
        let around = [SIDE - small.width, SIDE - small.height];
        // Half of a pixel goes to the right and below.
        let at = around.map(|way| way / 2);
        let tensor = PIXELS.tensor(&small, [SIDE; 2], at, Some(GREY));
        let out = self.network.run(vec![(&self.input, tensor)], &[&self.output])?;
        let own = &out[0];
        let hits = match own.shape[..] {
            [1, rows, cells] if rows == 4 + CLASSES && cells != 6 => self.by_class(own, cells),
            [1, _, 6] => self.by_rank(own),
            _ => {
                let what = format!(
                    "\"{}\" gives {:?}, expected [1, 84, any] or [1, any, 6]",
                    self.output, own.shape
                );
                return Err(self.network.mismatch(&what));
            }
        };
        let shift = at.map(|way| way as f64);
        Ok(hits.into_iter().map(|hit| hit.unfitted([scale; 2], shift)).collect())
    }

    /// Columns of centre, size and a score for each class.
    fn by_class(&self, own: &Output, cells: usize) -> Vec<Hit> {
        let value = |row: usize, cell: usize| f64::from(own.data[row * cells + cell]);
        let hit = |cell: usize| {
            let score = value(4, cell);
            let other = (5..4 + CLASSES).any(|row| value(row, cell) > score);
            let [x, y, width, height] = std::array::from_fn(|row| value(row, cell));
            let area = [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0];
            (score >= self.score && !other).then_some(Hit { area, score, points: [[0.0; 2]; 5] })
        };
        best((0..cells).filter_map(hit).collect(), SHARED, 0.0)
    }

    /// Rows of sides, score and class, without those that others cover.
    fn by_rank(&self, own: &Output) -> Vec<Hit> {
        let hit = |at: usize| {
            let row: [f64; 6] = std::array::from_fn(|side| f64::from(own.row(at)[side]));
            let area = [row[0], row[1], row[2], row[3]];
            let person = row[4] >= self.score && row[5] == 0.0;
            person.then_some(Hit { area, score: row[4], points: [[0.0; 2]; 5] })
        };
        (0..own.rows()).filter_map(hit).collect()
    }
}

impl Persons for Yolo {
    fn persons(&self, f: usize, image: &RgbFrame) -> Result<Vec<Person>> {
        let hits = self.found(&Plane::rgb(image))?;
        Ok(hits.into_iter().map(|hit| hit.person(f)).collect())
    }
}
