//! Pictures as networks take them: brought to their size, with colours in their order.

use super::network::Tensor;
use crate::picture::Plane;

/// The order of colours in a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Red first.
    Rgb,
    /// Blue first.
    Bgr,
}

/// How pixels become numbers: in this order, less `mean`, divided by `by`.
#[derive(Clone, Copy, Debug)]
pub struct Pixels {
    /// The order of colours.
    pub order: Order,
    /// What is taken away from each colour, in that order.
    pub mean: [f32; 3],
    /// What each is divided by.
    pub by: [f32; 3],
}

impl Pixels {
    /// With the same numbers for all colours.
    pub const fn even(order: Order, mean: f32, by: f32) -> Self {
        Self { order, mean: [mean; 3], by: [by; 3] }
    }

    /// A picture as a tensor `[1, 3, height, width]`, its left upper corner at `at`. Around it are pixels
    /// of the grey `fill`, or zeros of the tensor. Scaled pixels are bytes again first, as the originals
    /// have them.
    pub fn tensor(
        &self,
        plane: &Plane,
        [width, height]: [usize; 2],
        at: [usize; 2],
        fill: Option<f32>,
    ) -> Tensor {
        let mut data = Vec::with_capacity(3 * width * height);
        for channel in 0..3 {
            let source = if self.order == Order::Rgb { channel } else { 2 - channel };
            let (mean, by) = (self.mean[channel], self.by[channel]);
            let around = fill.map_or(0.0, |fill| (fill - mean) / by);
            let begin = data.len();
            data.resize(begin + width * height, around);
            let rows = plane.data.chunks_exact(plane.width * 3);
            for (row, pixels) in data[begin..].chunks_exact_mut(width).skip(at[1]).zip(rows) {
                for (value, pixel) in row.iter_mut().skip(at[0]).zip(pixels.chunks_exact(3)) {
                    *value = (pixel[source].round() - mean) / by;
                }
            }
        }
        Tensor::floats([1, 3, height, width], data)
    }
}

/// A picture made as large as fits, with its sides kept in proportion, and by how much; it is only made
/// larger where `grows`.
pub fn fitted(plane: &Plane, width: usize, height: usize, grows: bool) -> (Plane, f64) {
    let scale = (width as f64 / plane.width as f64).min(height as f64 / plane.height as f64);
    let scale = if grows { scale } else { scale.min(1.0) };
    let side = |side: usize, most: usize| ((side as f64 * scale).round() as usize).clamp(1, most);
    let (own, other) = (side(plane.width, width), side(plane.height, height));
    let same = own == plane.width && other == plane.height;
    (if same { plane.clone() } else { plane.linear(own, other) }, scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_planes_of_colours() {
        let plane = Plane { width: 2, height: 1, channels: 3, data: vec![1., 2., 3., 4.4, 5., 6.] };
        let pixels = Pixels { order: Order::Bgr, mean: [1.0, 0.0, 0.0], by: [1.0, 2.0, 1.0] };
        let wanted = vec![2., 5., 0., 0., 0., 0., 1., 2.5, 0., 0., 0., 0., 1., 4., 0., 0., 0., 0.];
        let own = pixels.tensor(&plane, [3, 2], [0, 0], None);
        assert_eq!(own, Tensor::floats([1, 3, 2, 3], wanted));
        let wanted = vec![8., 2., 5., 4.5, 1., 2.5, 9., 1., 4.];
        let own = pixels.tensor(&plane, [3, 1], [1, 0], Some(9.0));
        assert_eq!(own, Tensor::floats([1, 3, 1, 3], wanted));
        let (small, scale) = fitted(&plane, 4, 4, false);
        assert_eq!((small, scale), (plane.clone(), 1.0));
        let (large, scale) = fitted(&plane, 4, 4, true);
        assert_eq!((large.width, large.height, scale), (4, 2, 2.0));
    }
}
