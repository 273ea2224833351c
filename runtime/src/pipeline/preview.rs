//! Pictures of a video that is being sampled: the clean latents that a step predicts, turned into colours by
//! a linear projection.
//!
//! The projection is fitted to the run's own references, whose pixels and latents are both known, by least
//! squares with a small penalty, so that it needs no constants of an autoencoder. A latent becomes a
//! pixel; what the decoder would add to that is missing. Previews change nothing of a run.

use crate::error::Result;
use crate::media::color::{Rounding, from_unit};
use crate::media::{RgbFrame, lossless};
use anyid_ir::Tensor;

/// Sides of a preview are enlarged to about so many pixels.
const SIDE: usize = 384;
/// Most times that a latent is enlarged.
const MOST: usize = 8;
/// The penalty, relative to the mean square of the latents.
const PENALTY: f64 = 1e-3;
/// Latent frames a second, of a video of 24 and an autoencoder of 4.
const RATE: u16 = 6;

/// Colours of latents: a factor for each channel and colour, and a constant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Projection {
    weights: Vec<[f32; 3]>,
}

/// Sums of pairs of latents and colours.
pub(super) struct Fit {
    size: usize,
    /// Row by row; the last row and column are those of the constant.
    squares: Vec<f64>,
    products: Vec<[f64; 3]>,
    pairs: usize,
}

impl Fit {
    /// None yet, of latents with so many channels.
    pub(super) fn new(channels: usize) -> Self {
        let size = channels + 1;
        Self { size, squares: vec![0.0; size * size], products: vec![[0.0; 3]; size], pairs: 0 }
    }

    /// Adds a piece of a clip: the pixels `f32[3,T,H,W]` of latent frame `at` of `f32[C,F,h,w]`.
    pub(super) fn add(&mut self, pixels: &Tensor, latents: &Tensor, at: usize) {
        let ([_, count, height, width], [channels, frames, rows, columns]) =
            (four(pixels), four(latents));
        let (pixels, latents) = (values(pixels), values(latents));
        let [down, across] = [height / rows, width / columns];
        let mut row = vec![1.0; self.size];
        for y in 0..rows {
            for x in 0..columns {
                for (channel, value) in row.iter_mut().take(channels).enumerate() {
                    *value = f64::from(latents[((channel * frames + at) * rows + y) * columns + x]);
                }
                let mean = |colour: usize| {
                    let mut sum = 0.0;
                    for t in 0..count {
                        for line in y * down..(y + 1) * down {
                            let from = ((colour * count + t) * height + line) * width + x * across;
                            sum += pixels[from..from + across].iter().sum::<f32>();
                        }
                    }
                    f64::from(sum) / (count * down * across) as f64
                };
                let colours = [0, 1, 2].map(mean);
                for (i, a) in row.iter().enumerate() {
                    for (sum, b) in self.squares[i * self.size..][..self.size].iter_mut().zip(&row)
                    {
                        *sum += a * b;
                    }
                    for (sum, colour) in self.products[i].iter_mut().zip(colours) {
                        *sum += a * colour;
                    }
                }
                self.pairs += 1;
            }
        }
    }

    /// The projection; none without pairs.
    pub(super) fn solved(mut self) -> Option<Projection> {
        let size = self.size;
        let trace: f64 = (0..size - 1).map(|i| self.squares[i * size + i]).sum();
        let penalty = PENALTY * trace / (size - 1).max(1) as f64;
        if self.pairs == 0 || !penalty.is_finite() || penalty <= 0.0 {
            return None;
        }
        // The constant has no penalty; there are pairs, so its square is not zero.
        (0..size - 1).for_each(|i| self.squares[i * size + i] += penalty);
        let mut weights = self.products;
        // Cholesky: squares = L·Lᵀ, in place.
        for i in 0..size {
            for j in 0..=i {
                let dot: f64 =
                    (0..j).map(|k| self.squares[i * size + k] * self.squares[j * size + k]).sum();
                let left = self.squares[i * size + j] - dot;
                self.squares[i * size + j] = match i == j {
                    true if left > 0.0 => left.sqrt(),
                    true => return None,
                    false => left / self.squares[j * size + j],
                };
            }
        }
        for colour in 0..3 {
            for i in 0..size {
                let known: f64 =
                    (0..i).map(|k| self.squares[i * size + k] * weights[k][colour]).sum();
                weights[i][colour] = (weights[i][colour] - known) / self.squares[i * size + i];
            }
            for i in (0..size).rev() {
                let known: f64 =
                    (i + 1..size).map(|k| self.squares[k * size + i] * weights[k][colour]).sum();
                weights[i][colour] = (weights[i][colour] - known) / self.squares[i * size + i];
            }
        }
        let weights = weights.into_iter().map(|own| own.map(|weight| weight as f32)).collect();
        Some(Projection { weights })
    }
}

impl Projection {
    /// Pictures of latents `[C,F,h,w]`.
    pub(super) fn pictures(&self, latents: &[f32], shape: [usize; 4]) -> Preview {
        let [channels, frames, rows, columns] = shape;
        let scale = (SIDE / rows.max(columns).max(1)).clamp(1, MOST);
        let (width, height) = (columns * scale, rows * scale);
        let mut rgb = vec![0; frames * width * height * 3];
        for (t, picture) in rgb.chunks_exact_mut(width * height * 3).enumerate() {
            for (y, line) in picture.chunks_exact_mut(width * 3).enumerate() {
                for (x, pixel) in line.chunks_exact_mut(3).enumerate() {
                    let mut colours = self.weights[channels];
                    for (channel, weights) in self.weights[..channels].iter().enumerate() {
                        let at = ((channel * frames + t) * rows + y / scale) * columns + x / scale;
                        for (colour, weight) in colours.iter_mut().zip(weights) {
                            *colour += weight * latents[at];
                        }
                    }
                    pixel.copy_from_slice(&colours.map(|c| from_unit(c, Rounding::Nearest)));
                }
            }
        }
        Preview { width, height, rgb }
    }
}

/// Pictures of the latent frames of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Preview {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// RGB, picture by picture.
    rgb: Vec<u8>,
}

impl Preview {
    /// All of them as an animated PNG file.
    ///
    /// # Errors
    /// E0824 where the encoder fails.
    pub fn animation(&self) -> Result<Vec<u8>> {
        lossless::animation(&self.rgb, self.width, self.height, RATE)
    }

    /// The one in the middle as a PNG file.
    ///
    /// # Errors
    /// E0824 where the encoder fails.
    pub fn picture(&self) -> Result<Vec<u8>> {
        let (width, height) = (self.width, self.height);
        let bytes = width * height * 3;
        let at = self.rgb.len() / bytes / 2 * bytes;
        lossless::picture(&RgbFrame { width, height, data: self.rgb[at..at + bytes].to_vec() })
    }
}

fn four(tensor: &Tensor) -> [usize; 4] {
    tensor.shape().try_into().expect("clips and latents have four axes")
}

fn values(tensor: &Tensor) -> &[f32] {
    tensor.as_f32().expect("pixels and latents are f32")
}

#[cfg(test)]
mod tests {
    use super::super::context::tensor_f32;
    use super::*;
    use crate::sampling::NoiseStream;

    #[test]
    fn a_linear_relation_is_found_again() {
        let shape = [5, 2, 4, 6];
        let mut latents = vec![0.0; 5 * 2 * 4 * 6];
        NoiseStream::new(3, 0).fill(0, &mut latents);
        let colour = |colour: usize, at: usize| {
            let of = |channel: usize| latents[channel * 48 + at];
            0.1 * colour as f32 + 0.2 * of(colour) - 0.1 * of(4)
        };
        let mut fit = Fit::new(5);
        let all = tensor_f32(shape, &latents).unwrap();
        for at in 0..2 {
            // Two frames of 8x12 pixels: every latent has four pixels in each.
            let mut pixels = Vec::new();
            for c in 0..3 {
                for _ in 0..2 {
                    for y in 0..8 {
                        pixels.extend((0..12).map(|x| colour(c, at * 24 + y / 2 * 6 + x / 2)));
                    }
                }
            }
            fit.add(&tensor_f32([3, 2, 8, 12], &pixels).unwrap(), &all, at);
        }
        let made = fit.solved().unwrap();
        for (at, c) in [(0, 0), (13, 1), (47, 2)] {
            let of = |channel: usize| latents[channel * 48 + at];
            let found: f32 = (0..5).map(|k| made.weights[k][c] * of(k)).sum();
            let found = found + made.weights[5][c];
            assert!((found - colour(c, at)).abs() < 2e-3, "{found} {}", colour(c, at));
        }
        let preview = made.pictures(&latents, shape);
        assert_eq!((preview.width, preview.height, preview.rgb.len()), (48, 32, 2 * 48 * 32 * 3));
        assert_eq!(preview.rgb[0], from_unit(colour(0, 0), Rounding::Nearest));
        assert!(preview.picture().unwrap().starts_with(b"\x89PNG"));
        assert!(preview.animation().unwrap().len() > preview.picture().unwrap().len());
    }

    #[test]
    fn nothing_fits_nothing() {
        assert!(Fit::new(4).solved().is_none());
        let flat = tensor_f32([4, 1, 2, 2], &[0.0; 16]).unwrap();
        let mut fit = Fit::new(4);
        fit.add(&tensor_f32([3, 1, 4, 4], &[1.0; 48]).unwrap(), &flat, 0);
        assert!(fit.solved().is_none(), "latents without any difference say nothing");
    }
}
