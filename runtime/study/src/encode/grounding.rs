//! Where what a phrase names is in a picture: Grounding DINO.
//!
//! One phrase is asked about at a time: exports in use were traced with one, so that their masks of texts
//! are wrong for several. A phrase comes as the ids of BERT's tokenizer (uncased), made of the phrase in
//! lower case with ` .` behind it.

use super::pictures::IMAGENET;
use crate::geometry::Rect;
use crate::model::network::{Network, Output, Tensor};
use crate::picture::Plane;
use crate::settings::Engine;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use std::path::Path;

/// The sides to which a picture is brought where the file does not say it: the shorter one, and most of
/// the longer one.
const SIDES: [usize; 2] = [800, 1333];
/// Boxes that it gives, and tokens that each is compared with.
const BOXES: [usize; 2] = [900, 256];
/// Score from which a box counts, and from which a token belongs to it.
const BOX: f64 = 0.3;
const TEXT: f64 = 0.25;
/// Names of inputs: picture, its mask, ids, kinds of tokens, mask of tokens.
const INPUTS: [&str; 5] =
    ["pixel_values", "pixel_mask", "input_ids", "token_type_ids", "attention_mask"];
const OUTPUTS: [&str; 2] = ["logits", "pred_boxes"];

/// What was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Grounded {
    /// Where it is.
    pub area: Rect,
    /// How sure the network is.
    pub score: f64,
    /// Places of the tokens that it stands for.
    pub tokens: Vec<usize>,
}

/// The network.
pub struct Grounding {
    network: Network,
    /// Width and height where the file has them.
    fixed: Option<[usize; 2]>,
}

impl Grounding {
    /// Opens a file, exported as transformers does it.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(path: &Path, engine: Engine) -> Result<Self> {
        let network = Network::open(path, engine, "Grounding DINO")?;
        let picture = network.input(Some(INPUTS[0]), &[0, 3, 0, 0])?;
        let fixed = match picture.shape.as_deref() {
            Some([_, _, Some(height), Some(width)]) => Some([*width, *height]),
            _ => None,
        };
        network.input(Some(INPUTS[1]), &[0, 0, 0])?;
        for name in &INPUTS[2..] {
            network.input(Some(name), &[0, 0])?;
        }
        network.has_outputs(&OUTPUTS)?;
        let own = Self { network, fixed };
        own.found(&RgbFrame { width: 8, height: 8, data: vec![0; 192] }, &[101, 102])?;
        Ok(own)
    }

    /// Boxes of what a phrase names, the surest first.
    ///
    /// # Errors
    /// E1208 where the network gives what it should not.
    pub fn found(&self, image: &RgbFrame, ids: &[i64]) -> Result<Vec<Grounded>> {
        let (frame, most) = ([image.width, image.height], SIDES[1] as f64);
        let shorter = frame[0].min(frame[1]).max(1) as f64;
        let longer = frame[0].max(frame[1]).max(1) as f64;
        let scale = (SIDES[0] as f64 / shorter).min(most / longer);
        let side = |side: usize| ((side as f64 * scale).round() as usize).max(1);
        let [width, height] = self.fixed.unwrap_or(frame.map(side));
        let plane = Plane::rgb(image).linear(width, height);
        let count = ids.len();
        let ones = |shape: Vec<usize>| {
            let all = shape.iter().product();
            Tensor::integers(shape, vec![1; all])
        };
        let inputs = vec![
            (INPUTS[0], IMAGENET.tensor(&plane, [width, height], [0, 0], None)),
            (INPUTS[1], ones(vec![1, height, width])),
            (INPUTS[2], Tensor::integers([1, count], ids.to_vec())),
            (INPUTS[3], Tensor::integers([1, count], vec![0; count])),
            (INPUTS[4], ones(vec![1, count])),
        ];
        let out = self.network.run(inputs, &OUTPUTS)?;
        let [logits, boxes] = &out[..] else { return Ok(Vec::new()) };
        self.network.fits(OUTPUTS[0], logits, &BOXES)?;
        self.network.fits(OUTPUTS[1], boxes, &[BOXES[0], 4])?;
        let mut found: Vec<Grounded> =
            (0..BOXES[0]).filter_map(|at| grounded(logits, boxes, at, count, frame)).collect();
        found.sort_by(|a, b| b.score.total_cmp(&a.score));
        Ok(found)
    }
}

fn grounded(
    logits: &Output,
    boxes: &Output,
    at: usize,
    count: usize,
    frame: [usize; 2],
) -> Option<Grounded> {
    let share = |logit: &f32| 1.0 / (1.0 + (-f64::from(*logit)).exp());
    let shares: Vec<f64> = logits.row(at).iter().take(count).map(share).collect();
    let score = shares.iter().copied().fold(0.0, f64::max);
    let [x, y, width, height]: [f64; 4] =
        std::array::from_fn(|side| f64::from(boxes.row(at)[side]) * frame[side % 2] as f64);
    let area = [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0];
    let belongs = |(place, share): (usize, &f64)| (*share > TEXT).then_some(place);
    let tokens = shares.iter().enumerate().filter_map(belongs).collect();
    (score > BOX).then_some(Grounded { area, score, tokens })
}
