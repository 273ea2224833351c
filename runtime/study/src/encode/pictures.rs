//! Pictures as numbers whose cosines say how alike they are: CLIP and DINOv2.

use crate::model::network::{Network, Output, Tensor};
use crate::model::pixels::{Order, Pixels};
use crate::picture::Plane;
use crate::settings::Engine;
use anyid_files::Result;
use anyid_files::media::RgbFrame;
use anyid_files::media::standardise::{Filter, resize};
use std::path::Path;

/// Sides of the picture that networks see.
const SIDE: usize = 224;
/// The output of CLIP that has been projected to where texts are too.
const EMBEDS: &str = "image_embeds";
/// The output of DINOv2: numbers for the whole picture first, then for its patches.
const HIDDEN: &str = "last_hidden_state";

/// Of a mean and a deviation of values from 0 to 1.
const fn pixels(mean: [f32; 3], deviation: [f32; 3]) -> Pixels {
    Pixels {
        order: Order::Rgb,
        mean: [mean[0] * 255.0, mean[1] * 255.0, mean[2] * 255.0],
        by: [deviation[0] * 255.0, deviation[1] * 255.0, deviation[2] * 255.0],
    }
}

const CLIP: Pixels =
    pixels([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]);
/// The mean and the deviation of ImageNet.
pub(super) const IMAGENET: Pixels = pixels([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// Which network it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The visual half of CLIP, ViT-L/14 or ViT-B/32, with its projection.
    Clip,
    /// DINOv2 of any size.
    Dinov2,
}

impl Kind {
    fn pixels(self) -> Pixels {
        match self {
            Self::Clip => CLIP,
            Self::Dinov2 => IMAGENET,
        }
    }

    /// What the shorter side is brought to before the middle is cut out.
    fn shorter(self) -> usize {
        match self {
            Self::Clip => SIDE,
            Self::Dinov2 => 256,
        }
    }

    /// How many numbers it may give.
    fn widths(self) -> &'static [usize] {
        match self {
            Self::Clip => &[512, 768],
            Self::Dinov2 => &[384, 768, 1024, 1536],
        }
    }
}

/// A network.
pub struct PictureEncoder {
    network: Network,
    kind: Kind,
    input: String,
    output: String,
}

impl PictureEncoder {
    /// Opens a file.
    ///
    /// # Errors
    /// E0911, E1208.
    pub fn open(path: &Path, engine: Engine, kind: Kind) -> Result<Self> {
        let what = match kind {
            Kind::Clip => "the visual half of CLIP",
            Kind::Dinov2 => "DINOv2",
        };
        let network = Network::open(path, engine, what)?;
        let input = network.input(None, &[0, 3, SIDE, SIDE])?.name.clone();
        let wanted = if kind == Kind::Clip { EMBEDS } else { HIDDEN };
        let names = network.outputs();
        let output = match names.iter().find(|name| *name == wanted) {
            Some(name) => name.clone(),
            None if names.iter().any(|name| name == HIDDEN || name == "pooler_output") => {
                let what = format!("it has no projection ({EMBEDS}), but {}", names.join(", "));
                return Err(network.mismatch(&what));
            }
            None if names.len() == 1 => names[0].clone(),
            None => {
                let what = format!("it has no output \"{wanted}\", but {}", names.join(", "));
                return Err(network.mismatch(&what));
            }
        };
        let own = Self { network, kind, input, output };
        own.encode(&RgbFrame { width: 1, height: 1, data: vec![0; 3] })?;
        Ok(own)
    }

    /// The middle of a picture, as the network takes it.
    fn tensor(&self, image: &RgbFrame) -> Tensor {
        let shorter = self.kind.shorter();
        let least = image.width.min(image.height).max(1);
        let side = |side: usize| (side * shorter / least).max(SIDE);
        let (width, height) = (side(image.width), side(image.height));
        let scaled = Plane::rgb(&resize(image, width, height, Filter::Bicubic));
        let middle = |side: usize| ((side - SIDE) / 2) as i64;
        let part = scaled.window(middle(width), middle(height), SIDE, SIDE);
        self.kind.pixels().tensor(&part, [SIDE; 2], [0, 0], None)
    }

    /// What the network says of a picture, not brought to any length.
    ///
    /// # Errors
    /// E1208 where it gives what it should not.
    pub fn encode(&self, image: &RgbFrame) -> Result<Vec<f32>> {
        let out = self.network.run(vec![(&self.input, self.tensor(image))], &[&self.output])?;
        let Output { shape, data } = &out[0];
        let width = shape.last().copied().unwrap_or(0);
        // DINOv2 also has rows of patches, behind that of the whole picture.
        let fits = match shape[..] {
            [1, _] => true,
            [1, _, _] => self.kind == Kind::Dinov2,
            _ => false,
        };
        if !fits || !self.kind.widths().contains(&width) {
            let (name, widths) = (&self.output, self.kind.widths());
            let what = format!("\"{name}\" gives {shape:?}, expected one of {widths:?} numbers");
            return Err(self.network.mismatch(&what));
        }
        Ok(data[..width].to_vec())
    }
}
