//! Running the two networks. Each is run once when it is opened.

use super::{BITS, SIDE, Settings};
use crate::model::network::{Network, Tensor};
use crate::picture::Plane;
use crate::settings::Engine;
use anyid_files::media::RgbFrame;
use anyid_files::{Error, Result};
use image::RgbImage;
use image::imageops::{FilterType, resize};
use std::path::Path;

const ABOUT: &str = "docs/safety.md says what networks are expected and where they come from";

/// The two networks.
pub struct Networks {
    settings: Settings,
    embed: Network,
    detect: Network,
}

/// Says nothing of the networks.
impl std::fmt::Debug for Networks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Networks")
    }
}

impl Networks {
    /// Opens what a file of settings names.
    ///
    /// # Errors
    /// E1116 the settings are wrong, E0911 and E1208 for files that are not these networks.
    pub fn open(path: &Path) -> Result<Self> {
        let settings = Settings::read(path)?;
        let open = || {
            // Not by ONNX Runtime, whose library the environment names: a locked policy would not
            // hold.
            let (engine, what) = (Engine::default(), "a network that puts marks into frames");
            let embed = Network::open(&settings.embed, engine, what)?;
            let [image, message, delta] = &settings.embed_names;
            embed.input(Some(image), &[0, 1, SIDE, SIDE])?;
            embed.input(Some(message), &[0, BITS])?;
            embed.has_outputs(&[delta])?;
            let what = "a network that reads marks of frames";
            let detect = Network::open(&settings.detect, engine, what)?;
            let [image, bits] = &settings.detect_names;
            detect.input(Some(image), &[0, 3, SIDE, SIDE])?;
            detect.has_outputs(&[bits])?;
            let own = Self { settings: settings.clone(), embed, detect };
            let black = RgbFrame { width: 2, height: 2, data: vec![0; 12] };
            own.delta(&black, &[false; BITS])?;
            own.bits(&black)?;
            Ok(own)
        };
        open().map_err(|error: Error| error.advised(ABOUT))
    }

    /// What was read.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The difference that carries the bits of `message` in this frame.
    ///
    /// # Errors
    /// E1208 the network gives what it should not.
    pub fn delta(&self, frame: &RgbFrame, message: &[bool]) -> Result<Plane> {
        let luma = |p: &image::Rgb<u8>| {
            let [r, g, b] = p.0.map(f32::from);
            (0.299 * r + 0.587 * g + 0.114 * b) / 255.0
        };
        let picture = small(frame).pixels().map(luma).collect();
        let bits = message.iter().map(|bit| f32::from(u8::from(*bit))).collect();
        let [image, message, delta] = &self.settings.embed_names;
        let inputs = vec![
            (image.as_str(), Tensor::floats([1, 1, SIDE, SIDE], picture)),
            (message.as_str(), Tensor::floats([1, BITS], bits)),
        ];
        let out = self.embed.run(inputs, &[delta])?.swap_remove(0);
        self.embed.fits(delta, &out, &[1, 1, SIDE, SIDE])?;
        if !out.data.iter().all(|value| value.is_finite()) {
            return Err(self.embed.mismatch("it gives values that are no numbers"));
        }
        Ok(Plane { width: SIDE, height: SIDE, channels: 1, data: out.data })
    }

    /// A value for each bit, above 0 where it is 1.
    ///
    /// # Errors
    /// E1208 the network gives what it should not.
    pub fn bits(&self, frame: &RgbFrame) -> Result<Vec<f32>> {
        let picture = small(frame);
        let plane = |channel: usize| picture.pixels().map(move |p| f32::from(p.0[channel]) / 255.0);
        let data = (0..3).flat_map(plane).collect();
        let [image, bits] = &self.settings.detect_names;
        let tensor = Tensor::floats([1, 3, SIDE, SIDE], data);
        let wanted: [(&str, &[usize]); 1] = [(bits, &[1, BITS + 1])];
        let mut out = self.detect.shaped(image, tensor, &wanted)?.swap_remove(0).data;
        if !out.iter().all(|value| value.is_finite()) {
            return Err(self.detect.mismatch("it gives values that are no numbers"));
        }
        // The first says whether there is a mark, in networks that were trained for that.
        Ok(out.split_off(1))
    }
}

/// The frame as networks see it, resized by a filter that is widened where pixels get fewer.
fn small(frame: &RgbFrame) -> RgbImage {
    let picture = RgbImage::from_raw(frame.width as u32, frame.height as u32, frame.data.clone())
        .expect("a frame has three bytes a pixel");
    resize(&picture, SIDE as u32, SIDE as u32, FilterType::Triangle)
}

#[cfg(test)]
mod tests;
