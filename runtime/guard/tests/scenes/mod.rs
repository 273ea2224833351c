//! Clips to mark, and attacks on them, for tests and for the example `attacks`.
//!
//! Pixels are interleaved RGB. A clip is a painting larger than the frame, over which the frame pans
//! and zooms, with grain: fractal clouds of several spectra, drawn shapes, and flat ramps.

// Every user of this file takes its own part of it.
#![allow(dead_code)]

use anyid_noise::NoiseStream;

/// A number in 0..1 that depends on its arguments only.
fn hash(seed: u64, x: i64, y: i64) -> f32 {
    let mut h = seed ^ (x as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    h ^= (y as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    h = (h ^ h >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    h = (h ^ h >> 32).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((h ^ h >> 31) >> 40) as f32 / (1u64 << 24) as f32
}

/// Smooth noise in 0..1 with a lattice of one unit.
fn smooth(seed: u64, x: f32, y: f32) -> f32 {
    let (left, top) = (x.floor(), y.floor());
    let ease = |v: f32| v * v * (3.0 - 2.0 * v);
    let (u, v) = (ease(x - left), ease(y - top));
    let at = |dx: i64, dy: i64| hash(seed, left as i64 + dx, top as i64 + dy);
    let above = at(0, 0) + u * (at(1, 0) - at(0, 0));
    let below = at(0, 1) + u * (at(1, 1) - at(0, 1));
    above + v * (below - above)
}

/// A picture in f32.
#[derive(Clone)]
pub struct Painting {
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<f32>,
}

impl Painting {
    /// From 8-bit RGB.
    pub fn of(rgb: &[u8], width: usize, height: usize) -> Self {
        Self { width, height, rgb: rgb.iter().map(|&v| f32::from(v)).collect() }
    }

    /// Painting number `kind`.
    pub fn new(kind: u64, width: usize, height: usize) -> Self {
        let decay = [0.45, 0.6, 0.72, 0.5][kind as usize % 4];
        let mut rgb = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            for x in 0..width {
                let (fx, fy) = (x as f32, y as f32);
                let mut pixel = [0f32; 3];
                for (c, value) in pixel.iter_mut().enumerate() {
                    let seed = kind * 31 + if kind.is_multiple_of(3) { 0 } else { c as u64 };
                    let (mut sum, mut weight, mut total, mut grid) = (0.0, 1.0, 0.0, 240.0);
                    for octave in 0..7 {
                        sum += weight * smooth(seed + 977 * octave, fx / grid, fy / grid);
                        total += weight;
                        weight *= decay;
                        grid *= 0.5;
                    }
                    *value = 255.0 * ((sum / total - 0.5) * 1.7 + 0.5);
                }
                if kind % 5 == 4 {
                    // A ramp, almost without detail.
                    let ramp = 40.0 + 170.0 * (fx + fy) / (width + height) as f32;
                    pixel = pixel.map(|v| ramp + 0.06 * (v - 128.0));
                }
                if kind % 4 == 2 {
                    // Discs with hard edges.
                    let (cell, size) = ((fx / 90.0).floor(), 90.0);
                    let row = (fy / size).floor();
                    let pick = hash(kind, cell as i64, row as i64);
                    let (dx, dy) = (fx - (cell + 0.5) * size, fy - (row + 0.5) * size);
                    if dx.hypot(dy) < 12.0 + 30.0 * pick {
                        let shade = hash(kind + 7, cell as i64, row as i64) * 255.0;
                        pixel = [shade, 255.0 - shade, 128.0 * pick + 40.0];
                    }
                }
                rgb.extend(pixel.map(|v| v.clamp(0.0, 255.0)));
            }
        }
        Self { width, height, rgb }
    }

    /// Frame `t` of a walk over the painting, with `grain` in levels.
    pub fn frame(&self, walk: u64, t: usize, width: usize, height: usize, grain: f32) -> Vec<u8> {
        let time = t as f32;
        let speed = 0.4 + 2.2 * hash(walk, 1, 0);
        let angle = std::f32::consts::TAU * hash(walk, 2, 0);
        let fit = (self.width as f32 / width as f32).min(self.height as f32 / height as f32);
        let zoom = fit * (0.80 + 0.0015 * time * (hash(walk, 3, 0) - 0.5));
        let (middle_x, middle_y) = (self.width as f32 / 2.0, self.height as f32 / 2.0);
        let (ox, oy) = (time * speed * fit * angle.cos(), time * speed * fit * angle.sin());
        let mut out = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            for x in 0..width {
                let fx = middle_x + ox + (x as f32 - width as f32 / 2.0) * zoom;
                let fy = middle_y + oy + (y as f32 - height as f32 / 2.0) * zoom;
                let fx = fx.clamp(0.0, self.width as f32 - 1.001);
                let fy = fy.clamp(0.0, self.height as f32 - 1.001);
                let (left, top) = (fx as usize, fy as usize);
                let (u, v) = (fx - left as f32, fy - top as f32);
                let noise = grain * (hash(walk ^ (t as u64) << 32, x as i64, y as i64) - 0.5) * 3.4;
                for c in 0..3 {
                    let at = |dx: usize, dy: usize| {
                        self.rgb[3 * ((top + dy) * self.width + left + dx) + c]
                    };
                    let above = at(0, 0) + u * (at(1, 0) - at(0, 0));
                    let below = at(0, 1) + u * (at(1, 1) - at(0, 1));
                    out.push((above + v * (below - above) + noise + 0.5).clamp(0.0, 255.0) as u8);
                }
            }
        }
        out
    }
}

/// One frame of a small clip.
pub fn scene(kind: u64, t: usize, width: usize, height: usize) -> Vec<u8> {
    Painting::new(kind, width + width / 4, height + height / 4).frame(kind, t, width, height, 1.0)
}

/// A clip of `count` frames.
pub fn clip(kind: u64, count: usize, width: usize, height: usize) -> Vec<Vec<u8>> {
    let painting = Painting::new(kind, width + width / 4, height + height / 4);
    (0..count).map(|t| painting.frame(kind, t, width, height, 1.0)).collect()
}

fn brightness(pixel: &[u8]) -> f64 {
    0.299 * f64::from(pixel[0]) + 0.587 * f64::from(pixel[1]) + 0.114 * f64::from(pixel[2])
}

/// Peak signal-to-noise ratio of the brightness, in dB.
pub fn psnr_luma(a: &[u8], b: &[u8]) -> f64 {
    let pairs = a.chunks_exact(3).zip(b.chunks_exact(3));
    let square: f64 = pairs.map(|(a, b)| (brightness(a) - brightness(b)).powi(2)).sum();
    10.0 * (255.0 * 255.0 / (square / (a.len() as f64 / 3.0))).log10()
}

/// A part of a picture.
pub fn crop(rgb: &[u8], width: usize, [x, y, w, h]: [usize; 4]) -> Vec<u8> {
    (y..y + h).flat_map(|row| &rgb[3 * (row * width + x)..][..3 * w]).copied().collect()
}

/// The mirror image.
pub fn mirror(rgb: &[u8], width: usize) -> Vec<u8> {
    rgb.chunks_exact(3 * width)
        .flat_map(|row| row.chunks_exact(3).rev().flatten())
        .copied()
        .collect()
}

/// Normal noise of the given deviation.
pub fn noisy(rgb: &[u8], deviation: f32, seed: u64) -> Vec<u8> {
    let mut noise = vec![0f32; rgb.len()];
    NoiseStream::new(seed, 77).fill(0, &mut noise);
    let pairs = rgb.iter().zip(noise);
    pairs.map(|(v, n)| (f32::from(*v) + deviation * n + 0.5).clamp(0.0, 255.0) as u8).collect()
}

/// A Gaussian blur of the given deviation.
pub fn blurred(rgb: &[u8], width: usize, deviation: f32) -> Vec<u8> {
    let radius = (3.0 * deviation).ceil() as i64;
    let kernel: Vec<f32> =
        (-radius..=radius).map(|k| (-0.5 * (k as f32 / deviation).powi(2)).exp()).collect();
    let sum: f32 = kernel.iter().sum();
    let height = rgb.len() / 3 / width;
    let pass = |from: &[f32], dx: i64, dy: i64| -> Vec<f32> {
        let mut out = vec![0f32; from.len()];
        for y in 0..height as i64 {
            for x in 0..width as i64 {
                for (k, weight) in (-radius..=radius).zip(&kernel) {
                    let px = (x + k * dx).clamp(0, width as i64 - 1) as usize;
                    let py = (y + k * dy).clamp(0, height as i64 - 1) as usize;
                    for c in 0..3 {
                        out[3 * (y as usize * width + x as usize) + c] +=
                            weight / sum * from[3 * (py * width + px) + c];
                    }
                }
            }
        }
        out
    };
    let start: Vec<f32> = rgb.iter().map(|&v| f32::from(v)).collect();
    pass(&pass(&start, 1, 0), 0, 1).iter().map(|v| (v + 0.5).clamp(0.0, 255.0) as u8).collect()
}

/// Blocks of 8 x 8 whose cosine coefficients are quantised as JPEG does at this quality, in each
/// channel by the table of brightness.
pub fn jpeg_like(rgb: &[u8], width: usize, quality: f32) -> Vec<u8> {
    const TABLE: [u8; 64] = [
        16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69,
        56, 14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81,
        104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
    ];
    let scale = if quality < 50.0 { 50.0 / quality } else { 2.0 - quality / 50.0 };
    let cosine: [[f32; 8]; 8] = std::array::from_fn(|k| {
        std::array::from_fn(|n| {
            let norm = if k == 0 { 0.125f32.sqrt() } else { 0.5 };
            norm * ((2 * n + 1) as f32 * k as f32 * std::f32::consts::PI / 16.0).cos()
        })
    });
    let mut out = rgb.to_vec();
    let height = rgb.len() / 3 / width;
    for y in (0..height - height % 8).step_by(8) {
        for x in (0..width - width % 8).step_by(8) {
            for c in 0..3 {
                let at = |i: usize, j: usize| 3 * ((y + i) * width + x + j) + c;
                let (mut half, mut block) = ([[0f32; 8]; 8], [[0f32; 8]; 8]);
                for i in 0..8 {
                    for k in 0..8 {
                        half[i][k] =
                            (0..8).map(|n| cosine[k][n] * (f32::from(rgb[at(i, n)]) - 128.0)).sum();
                    }
                }
                for k in 0..8 {
                    for l in 0..8 {
                        let value: f32 = (0..8).map(|n| cosine[k][n] * half[n][l]).sum();
                        let step = (f32::from(TABLE[8 * k + l]) * scale).max(1.0);
                        block[k][l] = (value / step).round() * step;
                    }
                }
                for i in 0..8 {
                    for l in 0..8 {
                        half[i][l] = (0..8).map(|k| cosine[k][i] * block[k][l]).sum();
                    }
                }
                for i in 0..8 {
                    for j in 0..8 {
                        let value: f32 = (0..8).map(|l| cosine[l][j] * half[i][l]).sum();
                        out[at(i, j)] = (value + 128.5).clamp(0.0, 255.0) as u8;
                    }
                }
            }
        }
    }
    out
}
