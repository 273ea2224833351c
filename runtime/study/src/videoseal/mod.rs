//! Watermarks by networks of the user's, by the contract of VideoSeal (`safety.md`): an embedder
//! that makes a difference for a picture and 256 bits, and a detector that gives the bits again.
//!
//! | network | input | output |
//! |---|---|---|
//! | embedder | luma `[N,1,256,256]` from 0 to 1, bits `[N,256]` of 0 and 1 | difference `[N,1,256,256]` |
//! | detector | RGB `[N,3,256,256]` from 0 to 1 | `[N,257]`, of which the first is dropped; a bit is 1 above 0 |
//!
//! Here is what needs no network: the settings, and how a difference is put into a frame. It is
//! brought to the frame's size, weighted by how much each pixel hides (Wu, Shi, Lin and others,
//! "Enhanced just noticeable difference model for images with pattern complexity", 2017, as
//! VideoSeal has it) and added to red, green and blue alike. None of these networks comes with the
//! program.

#[cfg(feature = "curate")]
mod networks;
#[cfg(feature = "curate")]
pub use networks::Networks;
#[cfg(not(feature = "curate"))]
mod without;
#[cfg(not(feature = "curate"))]
pub use without::Networks;

use crate::picture::Plane;
use anyid_files::error::unreadable;
use anyid_files::{Error, Result, input};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Sides of the pictures that networks see.
pub const SIDE: usize = 256;
/// Bits of a message.
pub const BITS: usize = 256;
/// Largest file of settings.
const LARGEST: u64 = 1 << 20;

/// The settings of a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The embedder.
    pub embed: PathBuf,
    /// The detector.
    pub detect: PathBuf,
    /// Names of the embedder's picture, bits and difference.
    #[serde(default = "embed_names")]
    pub embed_names: [String; 3],
    /// Names of the detector's picture and bits.
    #[serde(default = "detect_names")]
    pub detect_names: [String; 2],
    /// What the difference is multiplied by.
    #[serde(default = "usual_scaling")]
    pub scaling: f32,
    /// Frames from one for which a difference is made to the next; those between have the same.
    #[serde(default = "usual_every")]
    pub every: usize,
    /// Whether it is weighted by how much each pixel hides; else a difference of 1 is that from
    /// black to white.
    #[serde(default = "yes")]
    pub masked: bool,
}

fn embed_names() -> [String; 3] {
    ["image", "msg", "delta"].map(str::to_owned)
}

fn detect_names() -> [String; 2] {
    ["image", "bits"].map(str::to_owned)
}

fn usual_scaling() -> f32 {
    0.2
}

fn usual_every() -> usize {
    4
}

fn yes() -> bool {
    true
}

impl Settings {
    /// Reads settings. Relative paths start at the folder of the file.
    ///
    /// # Errors
    /// E0911 it cannot be read, E1116 it is wrong.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |what: String| {
            let advice = "docs/safety.md describes networks that put marks into frames";
            Error::input("E1116", what).at(path.display()).help(advice)
        };
        let large = |limit| bad(format!("it has more than {limit} bytes"));
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("this is no text".to_owned()))?;
        let mut own: Self = toml::from_str(text).map_err(|fault| {
            bad(format!("these are no settings: {}", fault.to_string().trim_end()))
        })?;
        if !(own.scaling > 0.0 && own.scaling <= 10.0 && (1..=64).contains(&own.every)) {
            return Err(bad("scaling is above 0 and at most 10, every from 1 to 64".to_owned()));
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        [&mut own.embed, &mut own.detect].into_iter().for_each(|file| *file = folder.join(&*file));
        Ok(own)
    }

    /// Puts a difference of [`SIDE`] x [`SIDE`] values into a frame of interleaved RGB.
    pub fn put(&self, delta: &Plane, rgb: &mut [u8], width: usize, height: usize) {
        let wide = delta.linear(width, height);
        let hidden = match self.masked {
            true => hides(rgb, width, height),
            false => vec![255.0; width * height],
        };
        for ((pixel, delta), hidden) in rgb.chunks_exact_mut(3).zip(&wide.data).zip(&hidden) {
            let change = self.scaling * hidden * delta;
            for channel in pixel {
                // The cast clips to 0..255, and the half rounds.
                *channel = (f32::from(*channel) + change + 0.5) as u8;
            }
        }
    }
}

/// How many levels of luma each pixel hides: by how bright its surroundings are, and by its
/// gradient.
fn hides(rgb: &[u8], width: usize, height: usize) -> Vec<f32> {
    let luma: Vec<f32> = rgb
        .chunks_exact(3)
        .map(|p| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]))
        .collect();
    let mut out = Vec::with_capacity(luma.len());
    for y in 0..height {
        for x in 0..width {
            // Black around the frame, as convolutions have it.
            let at = |right: isize, down: isize| {
                let (x, y) = (x.wrapping_add_signed(right), y.wrapping_add_signed(down));
                if x < width && y < height { luma[y * width + x] } else { 0.0 }
            };
            let mut around = 0.0;
            for down in -2isize..=2 {
                for right in -2isize..=2 {
                    let weight = match down.abs().max(right.abs()) {
                        2 => 1.0,
                        1 => 2.0,
                        _ => 0.0,
                    };
                    around += weight / 32.0 * at(right, down);
                }
            }
            let bright = match around <= 127.0 {
                true => 17.0 * (1.0 - (around / 127.0 + 1e-5).sqrt()),
                false => 3.0 / 128.0 * (around - 127.0) + 3.0,
            };
            let side = |along: &dyn Fn(isize) -> f32| along(-1) + 2.0 * along(0) + along(1);
            let across = side(&|k| at(1, k)) - side(&|k| at(-1, k));
            let down = side(&|k| at(k, -1)) - side(&|k| at(k, 1));
            let square = across * across + down * down;
            let busy = 0.117 * 16.0 * square.powf(1.2) / (square + 26.0 * 26.0);
            out.push((bright + busy - 0.3 * bright.min(busy)).max(0.0));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    #[test]
    fn flat_and_busy_places_hide_as_the_model_says() {
        let (width, height) = (16, 16);
        let grey = |level: u8| hides(&vec![level; 3 * width * height], width, height);
        let middle = 8 * width + 8;
        // 17·(1 − √(level/127)) below the middle, and a line above it.
        assert!((grey(127)[middle] - 0.0).abs() < 0.01);
        assert!((grey(32)[middle] - 17.0 * (1.0 - (32.0f32 / 127.0).sqrt())).abs() < 0.01);
        assert!((grey(255)[middle] - 6.0).abs() < 0.01);
        // A step of 100 levels: the gradient of Sobel is 400.
        let mut step = vec![100u8; 3 * width * height];
        step.chunks_exact_mut(3).enumerate().for_each(|(at, p)| {
            if at % width >= 8 {
                p.fill(200);
            }
        });
        let found = hides(&step, width, height)[middle];
        let busy = 1.872 * 400f32.powf(2.4) / (400f32.powi(2) + 676.0);
        let around = (19.0 * 200.0 + 13.0 * 100.0) / 32.0;
        let bright = 3.0 / 128.0 * (around - 127.0) + 3.0;
        assert!((found - (bright + busy - 0.3 * bright)).abs() < 0.05, "{found} {busy} {bright}");
    }

    #[test]
    fn settings_that_are_wrong_are_refused() {
        let folder = TempFolder::new("videoseal");
        for (text, what) in [
            ("embed = \"e\"", "missing field"),
            ("embed = \"e\"\ndetect = \"d\"\nloud = 1", "unknown field"),
            ("embed = \"e\"\ndetect = \"d\"\nevery = 0", "from 1 to 64"),
            ("embed = \"e\"\ndetect = \"d\"\nscaling = -1.0", "above 0"),
        ] {
            let path = folder.write("v.toml", text);
            let error = Settings::read(&path).unwrap_err();
            assert!(error.code() == "E1116" && error.to_string().contains(what), "{text}: {error}");
        }
        let path = folder.write("v.toml", "embed = \"e\"\ndetect = \"d\"\n");
        let own = Settings::read(&path).unwrap();
        assert_eq!((own.scaling, own.every, own.masked), (0.2, 4, true));
        assert_eq!(own.detect, path.with_file_name("d"));
    }
}
