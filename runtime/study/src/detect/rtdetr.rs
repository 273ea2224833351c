//! Persons by RT-DETR as its authors export it (`data.md` §3.1): it is told the size of the frame and
//! gives boxes in its pixels.

use super::Persons;
use super::boxes::Hit;
use crate::model::network::{Network, Tensor};
use crate::model::pixels::{Order, Pixels};
use crate::picture::Plane;
use crate::records::Person;
use crate::settings::Engine;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use std::path::Path;

const PIXELS: Pixels = Pixels::even(Order::Rgb, 0.0, 255.0);
/// Sides of the picture that it sees.
const SIDE: usize = 640;
/// Score from which a box is a person.
const SCORE: f64 = 0.6;
/// The label of persons.
const PERSON: f32 = 0.0;
const INPUTS: [&str; 2] = ["images", "orig_target_sizes"];
const OUTPUTS: [&str; 3] = ["labels", "boxes", "scores"];

/// The network.
pub struct RtDetr {
    network: Network,
    score: f64,
}

impl RtDetr {
    /// Opens a file.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(path: &Path, engine: Engine, score: Option<f64>) -> Result<Self> {
        let network = Network::open(path, engine, "RT-DETR")?;
        network.input(Some(INPUTS[0]), &[0, 3, SIDE, SIDE])?;
        network.input(Some(INPUTS[1]), &[0, 2])?;
        network.has_outputs(&OUTPUTS)?;
        let own = Self { network, score: score.unwrap_or(SCORE) };
        own.found(&Plane { width: 1, height: 1, channels: 3, data: vec![0.0; 3] })?;
        Ok(own)
    }

    fn found(&self, plane: &Plane) -> Result<Vec<Hit>> {
        // Without regard to proportions.
        let small = plane.linear(SIDE, SIDE);
        let size = vec![plane.width as i64, plane.height as i64];
        let inputs = vec![
            (INPUTS[0], PIXELS.tensor(&small, [SIDE; 2], [0, 0], None)),
            (INPUTS[1], Tensor::integers([1, 2], size)),
        ];
        let out = self.network.run(inputs, &OUTPUTS)?;
        let [labels, boxes, scores] = &out[..] else { return Ok(Vec::new()) };
        let count = labels.data.len();
        self.network.fits(OUTPUTS[1], boxes, &[count, 4])?;
        self.network.fits(OUTPUTS[2], scores, &[count])?;
        let hit = |at: usize| {
            let score = f64::from(scores.data[at]);
            let area = std::array::from_fn(|side| f64::from(boxes.row(at)[side]));
            let person = labels.data[at] == PERSON && score >= self.score;
            person.then_some(Hit { area, score, points: [[0.0; 2]; 5] })
        };
        Ok((0..count).filter_map(hit).collect())
    }
}

impl Persons for RtDetr {
    fn persons(&self, f: usize, image: &RgbFrame) -> Result<Vec<Person>> {
        let hits = self.found(&Plane::rgb(image))?;
        Ok(hits.into_iter().map(|hit| hit.person(f)).collect())
    }
}
