//! The outline of what a box or points are about: SAM, an encoder of pictures and a decoder of prompts.

use crate::geometry::Rect;
use crate::model::network::{Network, Output, Tensor};
use crate::model::pixels::{Order, Pixels, fitted};
use crate::picture::Plane;
use crate::settings::Engine;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use std::path::Path;

/// Sides of the picture that the encoder sees.
const SIDE: usize = 1024;
const PIXELS: Pixels =
    Pixels { order: Order::Rgb, mean: [123.675, 116.28, 103.53], by: [58.395, 57.12, 57.375] };
/// The shape of what the encoder says of a picture.
const EMBEDDING: [usize; 4] = [1, 256, 64, 64];
/// Inputs of the decoder.
const INPUTS: [&str; 6] = [
    "image_embeddings",
    "point_coords",
    "point_labels",
    "mask_input",
    "has_mask_input",
    "orig_im_size",
];
const OUTPUTS: [&str; 2] = ["masks", "iou_predictions"];
/// Labels of a box's corners, and of a point that stands for none.
const CORNERS: [f32; 2] = [2.0, 3.0];
const NONE: f32 = -1.0;

/// What a mask is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// What is in a box.
    Box(Rect),
    /// Places, each with whether the thing is there.
    Points(Vec<([f64; 2], bool)>),
}

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// Whether each pixel belongs to it, in rows from the top.
    pub pixels: Vec<bool>,
    /// How good the network takes it to be.
    pub score: f64,
}

/// The two networks.
pub struct Sam {
    encoder: Network,
    input: String,
    output: String,
    decoder: Network,
}

/// A picture as the encoder sees it.
pub struct Seen {
    embedding: Vec<f32>,
    size: [usize; 2],
    scale: f64,
}

impl Sam {
    /// Opens the two files: the decoder as the authors' script exports it, and an encoder, whose input and
    /// output may have any name.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(encoder: &Path, decoder: &Path, engine: Engine) -> Result<Self> {
        let encoder = Network::open(encoder, engine, "the encoder of SAM")?;
        let input = encoder.input(None, &[0, 3, SIDE, SIDE])?.name.clone();
        let [output] = encoder.outputs() else {
            let what = format!("it has {} outputs, expected one", encoder.outputs().len());
            return Err(encoder.mismatch(&what));
        };
        let output = output.clone();
        let decoder = Network::open(decoder, engine, "the decoder of SAM")?;
        let shapes: [&[usize]; 6] =
            [&EMBEDDING, &[1, 0, 2], &[1, 0], &[1, 1, 256, 256], &[1], &[2]];
        for (name, shape) in INPUTS.into_iter().zip(shapes) {
            decoder.input(Some(name), shape)?;
        }
        decoder.has_outputs(&OUTPUTS)?;
        let own = Self { encoder, input, output, decoder };
        let seen = own.see(&RgbFrame { width: 8, height: 8, data: vec![0; 192] })?;
        own.mask(&seen, &Prompt::Box([0.0, 0.0, 8.0, 8.0]))?;
        Ok(own)
    }

    /// Looks at a picture, once for all masks of it.
    ///
    /// # Errors
    /// E1208 where the encoder gives what it should not.
    pub fn see(&self, image: &RgbFrame) -> Result<Seen> {
        let (small, scale) = fitted(&Plane::rgb(image), SIDE, SIDE, true);
        let tensor = PIXELS.tensor(&small, [SIDE; 2], [0, 0], None);
        let wanted: &[(&str, &[usize])] = &[(&self.output, &EMBEDDING)];
        let embedding = self.encoder.shaped(&self.input, tensor, wanted)?.remove(0).data;
        Ok(Seen { embedding, size: [image.width, image.height], scale })
    }

    /// The best mask of what a prompt is about.
    ///
    /// # Errors
    /// E1208 where the decoder gives what it should not.
    pub fn mask(&self, seen: &Seen, prompt: &Prompt) -> Result<Mask> {
        let mut points: Vec<([f64; 2], f32)> = match prompt {
            Prompt::Box([left, top, right, bottom]) => {
                vec![([*left, *top], CORNERS[0]), ([*right, *bottom], CORNERS[1])]
            }
            Prompt::Points(all) => {
                all.iter().map(|(place, there)| (*place, f32::from(u8::from(*there)))).collect()
            }
        };
        if let Prompt::Points(_) = prompt {
            // Where there is no box, a point that stands for none is expected.
            points.push(([0.0; 2], NONE));
        }
        let places =
            points.iter().flat_map(|(place, _)| place.map(|way| (way * seen.scale) as f32));
        let labels: Vec<f32> = points.iter().map(|(_, label)| *label).collect();
        let [width, height] = seen.size;
        let [embeddings, coords, marks, before, has, size] = INPUTS;
        let inputs = vec![
            (embeddings, Tensor::floats(EMBEDDING, seen.embedding.clone())),
            (coords, Tensor::floats([1, points.len(), 2], places.collect())),
            (marks, Tensor::floats([1, points.len()], labels)),
            (before, Tensor::floats([1, 1, 256, 256], vec![0.0; 256 * 256])),
            (has, Tensor::floats([1], vec![0.0])),
            (size, Tensor::floats([2], vec![height as f32, width as f32])),
        ];
        let out = self.decoder.run(inputs, &OUTPUTS)?;
        let [masks, scores] = &out[..] else { return Ok(Mask { pixels: vec![], score: 0.0 }) };
        self.decoder.fits(OUTPUTS[0], masks, &[scores.data.len(), height, width])?;
        let best = |output: &Output| {
            let all = output.data.iter().enumerate();
            all.max_by(|a, b| a.1.total_cmp(b.1)).map_or((0, 0.0), |(at, score)| (at, *score))
        };
        let (at, score) = best(scores);
        let logits = &masks.data[at * width * height..(at + 1) * width * height];
        let pixels = logits.iter().map(|logit| *logit > 0.0).collect();
        Ok(Mask { pixels, score: f64::from(score) })
    }
}
