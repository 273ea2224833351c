//! Puts a mark into frames.
//!
//! The same tile is repeated over every frame from its first pixel, weighted by how much the picture
//! hides: Y' = Y + α·g·m·t with m = clip(0.6 + a/4, 0.6, 3), a = G₆(|Y − G₃(Y)|), and a gain g of the
//! whole frame that lets smooth ones differ nearly as much as others (`watermark.md` §1): coding
//! wipes a fainter mark out of them.
//! The same difference is added to red, green and blue, so that colours stay. A frame depends on
//! nothing but itself, and the mark of a still clip does not flicker.

use super::code::Payload;
use super::fourier::SIDE;
use super::pattern::{Key, Patterns};
use super::plane::{Blur, brightness, each};
use std::fmt;
use std::str::FromStr;

/// How strong a mark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strength {
    /// α = 0.7.
    Light,
    /// α = 1.
    Normal,
    /// α = 1.4.
    Strong,
}

impl Strength {
    /// All, from weak to strong.
    pub const ALL: [Self; 3] = [Self::Light, Self::Normal, Self::Strong];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Light => "light",
            Self::Normal => "normal",
            Self::Strong => "strong",
        }
    }

    fn alpha(self) -> f32 {
        match self {
            Self::Light => 0.7,
            Self::Normal => 1.0,
            Self::Strong => 1.4,
        }
    }
}

impl fmt::Display for Strength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Strength {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|strength| strength.name() == name).ok_or(())
    }
}

/// What the root mean square of a frame's weights is brought to: 42.3 dB with α = 1.
const ENOUGH: f32 = 1.95;
/// The largest gain: in flat frames the mark stays at about one level.
const MOST_GAIN: f32 = 1.8;

/// Whether frames of this size are marked: a whole tile has to fit.
pub fn fits(width: usize, height: usize) -> bool {
    width.min(height) >= SIDE
}

/// Marks frames with one id.
pub struct Marker {
    tile: Vec<f32>,
    alpha: f32,
    fine: Blur,
    wide: Blur,
}

/// Memory that is used again for each frame.
#[derive(Default)]
struct Scratch {
    luma: Vec<f32>,
    activity: Vec<f32>,
    blur: Vec<f32>,
}

impl Marker {
    /// A marker of `id` under `key`.
    pub fn new(key: &Key, id: u32, strength: Strength) -> Self {
        let tile = Patterns::new(key).tile(Payload { version: key.version(), id });
        Self { tile, alpha: strength.alpha(), fine: Blur::new(3.0), wide: Blur::new(6.0) }
    }

    /// Bytes that [`Self::mark`] holds for each thread with frames of this size.
    pub fn held_bytes(width: usize, height: usize) -> u64 {
        3 * 4 * (width as u64) * (height as u64)
    }

    /// Marks frames of interleaved RGB of `width` x `height` pixels in place, on as many as `threads`
    /// threads. Frames that no tile fits into ([`fits`]) stay as they are.
    pub fn mark(&self, frames: &mut [Vec<u8>], width: usize, height: usize, threads: usize) {
        let threads = threads.min(frames.len());
        each(frames.iter_mut(), threads, |scratch, frame| {
            self.mark_one(frame, width, height, scratch);
        });
    }

    fn mark_one(&self, rgb: &mut [u8], width: usize, height: usize, scratch: &mut Scratch) {
        assert_eq!(rgb.len(), 3 * width * height, "three bytes a pixel");
        if !fits(width, height) {
            return;
        }
        let Scratch { luma, activity, blur } = scratch;
        luma.clear();
        luma.extend(rgb.chunks_exact(3).map(brightness));
        activity.clone_from(luma);
        self.fine.apply(activity, width, blur);
        activity.iter_mut().zip(&*luma).for_each(|(a, y)| *a = (y - *a).abs());
        self.wide.apply(activity, width, blur);
        activity.iter_mut().for_each(|a| *a = (0.6 + 0.25 * *a).clamp(0.6, 3.0));
        let squares: f64 = activity.iter().map(|m| f64::from(m * m)).sum();
        let rms = (squares / activity.len() as f64).sqrt() as f32;
        let strength = self.alpha * (ENOUGH / rms).clamp(1.0, MOST_GAIN);
        let rows = rgb.chunks_exact_mut(3 * width).zip(activity.chunks_exact(width));
        for (y, (row, mask)) in rows.enumerate() {
            let tile = &self.tile[y % SIDE * SIDE..][..SIDE];
            let weights = tile.iter().cycle();
            for ((pixel, m), t) in row.chunks_exact_mut(3).zip(mask).zip(weights) {
                let delta = strength * m * t;
                for channel in pixel {
                    // The cast clips to 0..255, and the half rounds.
                    *channel = (f32::from(*channel) + delta + 0.5) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watermark::testing::{psnr_luma, scene};

    #[test]
    fn a_mark_is_faint_still_and_without_colour() {
        let (width, height) = (256, 192);
        let marker = Marker::new(&Key::public(), 0x9C1F_00A5, Strength::Normal);
        let plain = scene(3, 0, width, height);
        let mut marked = vec![plain.clone(); 5];
        marker.mark(&mut marked, width, height, 2);
        let quality = psnr_luma(&plain, &marked[0]);
        assert!((42.0..52.0).contains(&quality), "{quality:.2} dB");
        // A still clip gets the same difference in every frame, from any number of threads.
        assert!(marked.iter().all(|frame| *frame == marked[0]));
        let mut again = vec![plain.clone()];
        marker.mark(&mut again, width, height, 1);
        assert!(marked[4] == again[0]);
        // Where nothing is clipped, red, green and blue change alike.
        for (before, after) in plain.chunks_exact(3).zip(marked[0].chunks_exact(3)) {
            let change = |c: usize| i32::from(after[c]) - i32::from(before[c]);
            if before.iter().all(|v| (16..240).contains(v)) {
                assert!(change(0) == change(1) && change(1) == change(2));
            }
        }
    }

    #[test]
    fn what_is_too_small_stays_as_it_is() {
        let marker = Marker::new(&Key::public(), 1, Strength::Strong);
        let plain = [scene(1, 0, 127, 300)];
        let mut marked = plain.clone();
        marker.mark(&mut marked, 127, 300, 1);
        assert!(plain == marked && !fits(127, 300) && fits(128, 128));
    }

    #[test]
    fn a_stronger_mark_differs_more() {
        let plain = [scene(5, 0, 256, 192)];
        let quality = Strength::ALL.map(|strength| {
            let mut marked = plain.clone();
            let marker = Marker::new(&Key::public(), 77, strength);
            marker.mark(&mut marked, 256, 192, 1);
            psnr_luma(&plain[0], &marked[0])
        });
        assert!(quality[0] > quality[1] + 2.0 && quality[1] > quality[2] + 2.0, "{quality:?}");
        for strength in Strength::ALL {
            assert_eq!(strength.name().parse(), Ok(strength));
        }
        assert_eq!("loud".parse::<Strength>(), Err(()));
    }
}
