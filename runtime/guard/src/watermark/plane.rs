//! Planes of luma, the blurs that masks and detectors are made of, and work side by side.

use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, scope};

/// Brightness of one picture, 0 to 255, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Luma {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width * height` values.
    pub values: Vec<u8>,
}

impl Luma {
    /// The brightness of interleaved RGB (BT.601).
    pub fn of_rgb(rgb: &[u8], width: usize, height: usize) -> Self {
        assert_eq!(rgb.len(), 3 * width * height, "three bytes a pixel");
        let values = rgb.chunks_exact(3).map(|p| (brightness(p) + 0.5) as u8).collect();
        Self { width, height, values }
    }
}

/// Brightness of one pixel.
pub fn brightness(pixel: &[u8]) -> f32 {
    0.299 * f32::from(pixel[0]) + 0.587 * f32::from(pixel[1]) + 0.114 * f32::from(pixel[2])
}

/// A Gaussian blur, cut off at three deviations; the border is repeated.
pub struct Blur {
    /// The middle of the kernel and one side.
    kernel: Vec<f32>,
}

impl Blur {
    /// A blur of the given deviation in pixels.
    pub fn new(deviation: f64) -> Self {
        let radius = (3.0 * deviation).ceil() as usize;
        let raw: Vec<f64> =
            (0..=radius).map(|k| (-0.5 * (k as f64 / deviation).powi(2)).exp()).collect();
        let sum = raw[0] + 2.0 * raw[1..].iter().sum::<f64>();
        Self { kernel: raw.iter().map(|v| (v / sum) as f32).collect() }
    }

    /// Blurs `plane` of the given width in place.
    pub fn apply(&self, plane: &mut [f32], width: usize, scratch: &mut Vec<f32>) {
        let radius = self.kernel.len() - 1;
        let height = plane.len() / width;
        // Rows first, each through a copy whose border is repeated.
        let mut padded = vec![0f32; width + 2 * radius];
        for row in plane.chunks_exact_mut(width) {
            padded[..radius].fill(row[0]);
            padded[radius..radius + width].copy_from_slice(row);
            padded[radius + width..].fill(row[width - 1]);
            self.sum(row, |k| &padded[radius - k..], |k| &padded[radius + k..]);
        }
        scratch.clear();
        scratch.extend_from_slice(plane);
        for (y, row) in plane.chunks_exact_mut(width).enumerate() {
            let line = |at: usize| &scratch[at * width..];
            self.sum(row, |k| line(y.saturating_sub(k)), |k| line((y + k).min(height - 1)));
        }
    }

    /// `out` becomes the weighted sum of the lines before and after.
    fn sum<'l>(
        &self,
        out: &mut [f32],
        before: impl Fn(usize) -> &'l [f32],
        after: impl Fn(usize) -> &'l [f32],
    ) {
        let middle = &before(0)[..out.len()];
        for (o, v) in out.iter_mut().zip(middle) {
            *o = self.kernel[0] * v;
        }
        for (k, &weight) in self.kernel.iter().enumerate().skip(1) {
            let (a, b) = (&before(k)[..out.len()], &after(k)[..out.len()]);
            for ((o, a), b) in out.iter_mut().zip(a).zip(b) {
                *o += weight * (a + b);
            }
        }
    }
}

/// Calls `work` on every item, on as many as `threads` threads, of which one is the caller's: it does
/// all where the system gives no other. What a thread works with is used again for each of its items.
pub fn each<S: Default, T>(
    items: impl Iterator<Item = T> + Send,
    threads: usize,
    work: impl Fn(&mut S, T) + Sync,
) {
    let items = Mutex::new(items);
    let run = || {
        let mut own = S::default();
        let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some(item) = next() {
            work(&mut own, item);
        }
    };
    scope(|scope| {
        for _ in 1..threads {
            if Builder::new().spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
}

/// As [`each`], and gives the results in order.
pub fn spread<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    each(items.iter().zip(&mut results), threads, |(): &mut (), (item, result)| {
        *result = Some(work(item));
    });
    results.into_iter().map(|result| result.expect("each item was worked on")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blur_keeps_what_is_flat_and_spreads_a_point_evenly() {
        let (width, height) = (61, 47);
        let mut scratch = Vec::new();
        let mut flat = vec![100f32; width * height];
        Blur::new(6.0).apply(&mut flat, width, &mut scratch);
        assert!(flat.iter().all(|v| (v - 100.0).abs() < 1e-3));
        let mut point = vec![0f32; width * height];
        point[23 * width + 30] = 1.0;
        Blur::new(3.0).apply(&mut point, width, &mut scratch);
        assert!((point.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        // The value of a Gaussian at distance (2, 1), which the cut-off raises by half a percent.
        let expected = (-0.5 * 5.0 / 9.0f32).exp() / (std::f32::consts::TAU * 9.0);
        let got = point[24 * width + 32];
        assert!((got / expected - 1.0).abs() < 0.01, "{got} {expected}");
        assert_eq!(got, point[22 * width + 28]);
        assert_eq!(point[24 * width + 32], point[25 * width + 31]);
    }

    #[test]
    fn work_on_several_threads_keeps_its_order() {
        let items: Vec<u32> = (0..37).collect();
        for threads in [0, 1, 2, 5, 100] {
            let doubled: Vec<u32> = items.iter().map(|v| 2 * v).collect();
            assert_eq!(spread(&items, threads, |v| 2 * v), doubled);
        }
        assert!(spread(&[], 2, |v: &u32| *v).is_empty());
    }
}
