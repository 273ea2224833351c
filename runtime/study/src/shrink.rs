//! Frames made small, of which only the pixels that count are coloured.
//!
//! The result is that of [`Plane::linear`](crate::picture::Plane::linear), rounded to bytes: without a
//! filter against aliasing, a small picture is made of few pixels of a large one.

use crate::picture::{Kernel, Tap, taps};
use anyid_files::Result;
use anyid_files::media::DecodedFrame;

/// Longest side of a small picture.
const SIDE: f64 = 256.0;
/// A number of 23 bits and a half behind the point: what is added to it is rounded as bits are, ties to
/// even, without a call of a library.
const ROUNDING: f32 = 12_582_912.0;

/// How frames of one size are made small.
#[derive(Debug)]
pub struct Shrink {
    columns: Side,
    rows: Side,
    /// Rows that were brought to the new width.
    wide: Vec<f32>,
}

/// One side of it.
#[derive(Debug)]
struct Side {
    /// Which pixels count, in their order.
    picked: Vec<usize>,
    /// What each result is made of; counted among those that are picked.
    taps: Vec<Tap>,
}

impl Side {
    fn new(from: usize, to: usize) -> Self {
        let mut taps = taps(from, to, Kernel::Linear);
        let mut picked: Vec<usize> =
            taps.iter().flat_map(|tap| tap.first..tap.first + tap.weights.len()).collect();
        picked.sort_unstable();
        picked.dedup();
        for tap in &mut taps {
            // All that a tap covers is picked, so that what lies side by side still does.
            tap.first = picked.partition_point(|at| *at < tap.first);
        }
        Self { picked, taps }
    }
}

impl Shrink {
    /// Brings the longer side to 256 pixels at most.
    pub fn new(width: usize, height: usize) -> Self {
        let shrink = (width.max(height) as f64 / SIDE).max(1.0);
        let side = |side: usize| ((side as f64 / shrink).round() as usize).max(1);
        let (columns, rows) = (Side::new(width, side(width)), Side::new(height, side(height)));
        Self { columns, rows, wide: Vec::new() }
    }

    /// Red, green and blue of the small picture.
    ///
    /// # Errors
    /// Those of making colours.
    pub fn shrunk(&mut self, frame: &DecodedFrame<'_>) -> Result<Vec<u8>> {
        let picked = frame.picked(&self.columns.picked, &self.rows.picked)?;
        let single = |side: &Side| side.taps.iter().all(|tap| tap.weights.len() == 1);
        if single(&self.columns) && single(&self.rows) {
            return Ok(picked.data);
        }
        self.wide.clear();
        for row in picked.data.chunks_exact(picked.width * 3) {
            for tap in &self.columns.taps {
                let pixels = &row[tap.first * 3..];
                self.wide.extend(match tap.weights[..] {
                    [one, other] => std::array::from_fn::<f32, 3, _>(|at| {
                        one * f32::from(pixels[at]) + other * f32::from(pixels[at + 3])
                    }),
                    _ => std::array::from_fn(|at| f32::from(pixels[at])),
                });
            }
        }
        let stride = self.columns.taps.len() * 3;
        let mut out = Vec::with_capacity(stride * self.rows.taps.len());
        for tap in &self.rows.taps {
            let above = &self.wide[tap.first * stride..][..stride];
            match tap.weights[..] {
                [one, other] => {
                    let below = &self.wide[(tap.first + 1) * stride..][..stride];
                    out.extend(above.iter().zip(below).map(|(a, b)| byte(one * a + other * b)));
                }
                _ => out.extend(above.iter().map(|value| byte(*value))),
            }
        }
        Ok(out)
    }
}

fn byte(value: f32) -> u8 {
    (value + ROUNDING - ROUNDING) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::Plane;
    use anyid_files::media::{RgbFrame, TimedFrame};

    #[test]
    fn small_frames_are_those_of_whole_planes() {
        for (width, height) in
            [(64, 48), (300, 200), (1280, 720), (1920, 1080), (719, 1281), (2, 999)]
        {
            let data = (0..width * height * 3).map(|at| (at * at / 7 % 251) as u8).collect();
            let image = RgbFrame { width, height, data };
            let plane = Plane::rgb(&image);
            let shrink = (width.max(height) as f64 / 256.0).max(1.0);
            let side = |side: usize| ((side as f64 / shrink).round() as usize).max(1);
            let small = plane.linear(side(width), side(height));
            let expected: Vec<u8> = small.data.iter().map(|v| v.round_ties_even() as u8).collect();
            let frame = DecodedFrame::from(TimedFrame { image, time: 0.0, duration: 0.0 });
            let mut own = Shrink::new(width, height);
            assert_eq!(own.shrunk(&frame).unwrap(), expected, "{width}x{height}");
            assert_eq!(own.shrunk(&frame).unwrap(), expected, "{width}x{height} once more");
        }
    }

    #[test]
    fn halves_are_rounded_to_even_numbers() {
        for value in [0.0f32, 0.5, 1.5, 2.499, 2.5, 254.5, 255.0] {
            assert_eq!(f32::from(byte(value)), value.round_ties_even(), "{value}");
        }
    }
}
