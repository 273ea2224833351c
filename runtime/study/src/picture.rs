//! Arithmetic on single pictures: what cuts, quality measures and duplicates are judged by.
//!
//! Resampling and colour follow OpenCV's arithmetic (in floating point where that uses fixed point),
//! because the thresholds of `data.md` were set there. Nothing here decides anything.

use anyid_files::media::RgbFrame;

/// A picture of one number or several a pixel, rows from the top.
#[derive(Clone, Debug, PartialEq)]
pub struct Plane {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// Numbers a pixel.
    pub channels: usize,
    /// `height * width * channels` numbers.
    pub data: Vec<f32>,
}

/// What one result of a row is made of: the first source and a weight for each from there on.
#[derive(Debug)]
pub struct Tap {
    /// The first source.
    pub first: usize,
    /// Of each from there on, at least one.
    pub weights: Vec<f32>,
}

/// How a row is brought to another length.
#[derive(Clone, Copy, PartialEq)]
pub enum Kernel {
    /// The two nearest, without a filter against aliasing.
    Linear,
    /// Each result is the mean of what it covers.
    Cover,
    /// What OpenCV does when it is asked for areas and the picture grows.
    Grow,
}

/// What each of `to` results is made of, of `from` sources.
pub fn taps(from: usize, to: usize, kernel: Kernel) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let pair = |first: f64, share: f64| {
        let at = (first.max(0.0) as usize).min(from - 1);
        if first < 0.0 || share <= 0.0 || at + 1 >= from {
            return Tap { first: at, weights: vec![1.0] };
        }
        Tap { first: at, weights: vec![1.0 - share as f32, share as f32] }
    };
    let tap = |at: usize| match kernel {
        Kernel::Linear => {
            let centre = (at as f64 + 0.5) * scale - 0.5;
            pair(centre.floor(), centre - centre.floor())
        }
        Kernel::Grow => {
            let first = (at as f64 * scale).floor();
            let share = (at as f64 + 1.0) - (first + 1.0) / scale;
            pair(first, if share <= 0.0 { 0.0 } else { share - share.floor() })
        }
        Kernel::Cover => {
            let (begin, end) = (at as f64 * scale, ((at + 1) as f64 * scale).min(from as f64));
            let first = begin.floor() as usize;
            let last = ((end - 1e-9).ceil() as usize).clamp(first + 1, from);
            let part = |s: usize| ((s as f64 + 1.0).min(end) - (s as f64).max(begin)).max(0.0);
            let sum: f64 = (first..last).map(part).sum();
            Tap { first, weights: (first..last).map(|s| (part(s) / sum) as f32).collect() }
        }
    };
    (0..to).map(tap).collect()
}

impl Plane {
    /// The colours of a frame.
    pub fn rgb(frame: &RgbFrame) -> Self {
        let data = frame.data.iter().map(|value| f32::from(*value)).collect();
        Self { width: frame.width, height: frame.height, channels: 3, data }
    }

    /// The luma of a frame: 0.299 R + 0.587 G + 0.114 B.
    pub fn luma(frame: &RgbFrame) -> Self {
        let luma =
            |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
        let data = frame.data.chunks_exact(3).map(luma).collect();
        Self { width: frame.width, height: frame.height, channels: 1, data }
    }

    fn resampled(&self, width: usize, height: usize, [across, down]: [Kernel; 2]) -> Self {
        let channels = self.channels;
        let stride = self.width * channels;
        let mut wide = Vec::with_capacity(width * channels * self.height);
        let columns = taps(self.width, width, across);
        for row in self.data.chunks_exact(stride) {
            for tap in &columns {
                for channel in 0..channels {
                    let values = row[tap.first * channels + channel..].iter().step_by(channels);
                    wide.push(tap.weights.iter().zip(values).map(|(w, v)| w * v).sum::<f32>());
                }
            }
        }
        let stride = width * channels;
        let mut data = Vec::with_capacity(stride * height);
        for tap in taps(self.height, height, down) {
            let begin = data.len();
            data.resize(begin + stride, 0.0);
            for (row, weight) in wide[tap.first * stride..].chunks_exact(stride).zip(&tap.weights) {
                for (sum, value) in data[begin..].iter_mut().zip(row) {
                    *sum += weight * value;
                }
            }
        }
        Self { width, height, channels, data }
    }

    /// Scaled by the two nearest pixels each way, without a filter against aliasing.
    pub fn linear(&self, width: usize, height: usize) -> Self {
        self.resampled(width, height, [Kernel::Linear; 2])
    }

    /// Scaled by areas: the mean of what a pixel covers where both sides shrink.
    pub fn area(&self, width: usize, height: usize) -> Self {
        let shrinks = width <= self.width && height <= self.height;
        self.resampled(width, height, [if shrinks { Kernel::Cover } else { Kernel::Grow }; 2])
    }

    /// The pixels from column `left` and row `top` on; what lies outside of the picture is 0.
    pub fn window(&self, left: i64, top: i64, width: usize, height: usize) -> Self {
        let channels = self.channels;
        let mut data = vec![0.0; width * height * channels];
        for y in 0..height {
            let from = top + y as i64;
            if from < 0 || from >= self.height as i64 {
                continue;
            }
            let begin = left.max(0);
            let end = (left + width as i64).min(self.width as i64);
            if begin >= end {
                continue;
            }
            let count = (end - begin) as usize * channels;
            let source = (from as usize * self.width + begin as usize) * channels;
            let target = (y * width + (begin - left) as usize) * channels;
            data[target..target + count].copy_from_slice(&self.data[source..source + count]);
        }
        Self { width, height, channels, data }
    }

    /// The pixels of a box between whole sides, at least one each way, inside the picture.
    pub fn part(&self, part: [f64; 4]) -> Self {
        let side = |low: f64, high: f64, size: usize| {
            let low = (low.round().max(0.0) as usize).min(size - 1);
            (low, (high.round().max(0.0) as usize).clamp(low + 1, size))
        };
        let (left, right) = side(part[0], part[2], self.width);
        let (top, bottom) = side(part[1], part[3], self.height);
        self.window(left as i64, top as i64, right - left, bottom - top)
    }

    /// The mean of all numbers.
    pub fn mean(&self) -> f64 {
        let sum: f64 = self.data.iter().map(|value| f64::from(*value)).sum();
        sum / self.data.len().max(1) as f64
    }

    /// The share of numbers that `fits`.
    pub fn share(&self, fits: impl Fn(f32) -> bool) -> f64 {
        let count = self.data.iter().filter(|value| fits(**value)).count();
        count as f64 / self.data.len().max(1) as f64
    }

    /// The variance of the Laplacian of four neighbours, with the picture mirrored at its border
    /// (its edge pixels are not repeated), of a plane of one channel (`data.md` §4).
    pub fn laplacian_variance(&self) -> f64 {
        let (width, height) = (self.width, self.height);
        let mirrored = |at: usize, step: isize, size: usize| -> usize {
            let other = at as isize + step;
            match size {
                1 => 0,
                _ if other < 0 => 1,
                _ if other >= size as isize => size - 2,
                _ => other as usize,
            }
        };
        let (mut sum, mut squares) = (0f64, 0f64);
        for y in 0..height {
            let (up, down) = (mirrored(y, -1, height), mirrored(y, 1, height));
            for x in 0..width {
                let at = |x: usize, y: usize| f64::from(self.data[y * width + x]);
                let (left, right) = (mirrored(x, -1, width), mirrored(x, 1, width));
                let value = at(x, up) + at(x, down) + at(left, y) + at(right, y) - 4.0 * at(x, y);
                sum += value;
                squares += value * value;
            }
        }
        let count = (width * height).max(1) as f64;
        squares / count - (sum / count).powi(2)
    }

    /// A hash of 64 bits that pictures which look alike share but for a few: whether luma rises
    /// from each of 9x8 areas to the next one.
    pub fn difference_hash(&self) -> u64 {
        let small = self.area(9, 8);
        let rises = small.data.chunks_exact(9).flat_map(|row| row.windows(2).map(|w| w[0] < w[1]));
        rises.fold(0, |hash, rises| hash << 1 | u64::from(rises))
    }
}

/// Turns red, green and blue into hue (0 to 179), saturation and value, as OpenCV does for bytes.
#[derive(Debug)]
pub struct Hsv {
    saturation: [i32; 256],
    hue: [i32; 256],
}

impl Default for Hsv {
    fn default() -> Self {
        let table = |scale: f64| -> [i32; 256] {
            std::array::from_fn(|at| match at {
                0 => 0,
                _ => (scale * 4096.0 / at as f64).round_ties_even() as i32,
            })
        };
        Self { saturation: table(255.0), hue: table(30.0) }
    }
}

impl Hsv {
    /// Of every pixel of `rgb`.
    pub fn convert(&self, rgb: &[u8]) -> Vec<u8> {
        let mut out = vec![0; rgb.len()];
        for (pixel, out) in rgb.chunks_exact(3).zip(out.chunks_exact_mut(3)) {
            let [r, g, b] = [pixel[0], pixel[1], pixel[2]].map(i32::from);
            let value = r.max(g).max(b);
            let spread = value - r.min(g).min(b);
            // Without branches, which nothing could foresee.
            let (red, green) = (-i32::from(value == r), -i32::from(value == g));
            let other = green & (b - r + 2 * spread) | !green & (r - g + 4 * spread);
            let turn = red & (g - b) | !red & other;
            let h = (turn * self.hue[(spread & 255) as usize] + 2048) >> 12;
            let s = (spread * self.saturation[(value & 255) as usize] + 2048) >> 12;
            out[0] = (if h < 0 { h + 180 } else { h }) as u8;
            out[1] = s.min(255) as u8;
            out[2] = value as u8;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(width: usize, height: usize, value: impl Fn(usize, usize) -> f32) -> Plane {
        let data = (0..width * height).map(|at| value(at % width, at / width)).collect();
        Plane { width, height, channels: 1, data }
    }

    #[test]
    fn a_checkerboard_has_the_largest_variance_there_is() {
        let board = one(112, 112, |x, y| ((x + y) % 2) as f32 * 255.0);
        assert_eq!(board.laplacian_variance(), 1_040_400.0);
        assert_eq!(one(1, 1, |_, _| 7.0).laplacian_variance(), 0.0);
        assert_eq!(one(9, 1, |_, _| 7.0).laplacian_variance(), 0.0);
    }

    #[test]
    fn colours_are_those_of_opencv() {
        // By the integer tables of `cvtColor` with `COLOR_RGB2HSV`.
        for (rgb, expected) in [
            ([255, 0, 0], [0, 255, 255]),
            ([0, 255, 0], [60, 255, 255]),
            ([0, 0, 255], [120, 255, 255]),
            ([255, 0, 1], [0, 255, 255]),
            ([255, 0, 40], [175, 255, 255]),
            ([10, 20, 30], [105, 170, 30]),
            ([7, 7, 7], [0, 0, 7]),
            ([0, 0, 0], [0, 0, 0]),
        ] {
            assert_eq!(Hsv::default().convert(&rgb), expected, "{rgb:?}");
        }
    }

    #[test]
    fn areas_are_means_and_keep_the_sum() {
        let ramp = one(6, 4, |x, y| (x + 10 * y) as f32);
        let half = ramp.area(3, 2);
        assert_eq!(half.data, [5.5, 7.5, 9.5, 25.5, 27.5, 29.5]);
        let odd = ramp.area(4, 3);
        assert!((odd.mean() - ramp.mean()).abs() < 1e-5, "{} {}", odd.mean(), ramp.mean());
        // Whole factors repeat pixels.
        let grown = one(2, 1, |x, _| x as f32 * 8.0).area(4, 1);
        assert_eq!(grown.data, [0.0, 0.0, 8.0, 8.0]);
        assert_eq!(one(2, 1, |x, _| x as f32 * 8.0).linear(4, 1).data, [0.0, 2.0, 6.0, 8.0]);
    }

    #[test]
    fn windows_outside_of_a_picture_are_black() {
        let ramp = one(3, 2, |x, y| (1 + x + 10 * y) as f32);
        assert_eq!(ramp.window(-1, 1, 3, 2).data, [0.0, 11.0, 12.0, 0.0, 0.0, 0.0]);
        assert_eq!(ramp.window(5, 0, 1, 1).data, [0.0]);
        let part = ramp.part([0.6, -3.0, 99.0, 0.2]);
        assert_eq!((part.width, part.height, part.data), (2, 1, vec![2.0, 3.0]));
    }

    #[test]
    fn pictures_that_look_alike_have_near_hashes() {
        let wave =
            |k: f32| move |x: usize, y: usize| ((x * 7 + y * 3) as f32 * k).sin() * 90.0 + 99.0;
        let (a, b) = (one(64, 48, wave(0.05)), one(64, 48, wave(0.11)));
        let brighter = one(64, 48, |x, y| wave(0.05)(x, y) * 0.9 + 12.0);
        assert!((a.difference_hash() ^ brighter.difference_hash()).count_ones() <= 4);
        assert!((a.difference_hash() ^ b.difference_hash()).count_ones() > 4);
    }
}
