//! What five points of a face say: where the face is turned, and how it is brought to the place
//! that recognition wants.
//!
//! Points are the eyes as they lie in the picture (left, right), the nose, and the corners of the
//! mouth (left, right), `[x, y]` in pixels.

pub mod space;

use crate::picture::Plane;

/// Five points of a face.
pub type Points = [[f64; 2]; 5];

/// Where recognition wants the points in 112x112 pixels (`data.md` §3.2).
pub const TEMPLATE: Points = [
    [38.2946, 51.6963],
    [73.5318, 51.5014],
    [56.0252, 71.7366],
    [41.5493, 92.3655],
    [70.7299, 92.2041],
];

/// A mean face in millimetres: x to the right, y down, z to the camera (`data.md` §4.1).
const MODEL: [[f64; 3]; 5] = [
    [-31.0, -36.0, 0.0],
    [31.0, -36.0, 0.0],
    [0.0, 0.0, 27.0],
    [-25.5, 36.0, 2.0],
    [25.5, 36.0, 2.0],
];

/// Degrees that a head is turned by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pose {
    /// Above 0 where the nose points to the right of the picture.
    pub yaw: f64,
    /// Above 0 where it points up. From five points it follows the expression as well.
    pub pitch: f64,
    /// Above 0 where the head leans to its left.
    pub roll: f64,
}

/// A map of the plane: `x' = m[0]·(x, y, 1)`, `y' = m[1]·(x, y, 1)`.
pub type Affine = [[f64; 3]; 2];

fn centred<const N: usize>(points: &[[f64; N]; 5]) -> [[f64; N]; 5] {
    let mean: [f64; N] = std::array::from_fn(|k| points.iter().map(|p| p[k]).sum::<f64>() / 5.0);
    points.map(|p| std::array::from_fn(|k| p[k] - mean[k]))
}

/// The turn, scale and shift that bring `from` nearest to `to` in the sum of squares (Umeyama's,
/// without mirroring). None where the points are one.
pub fn similarity(from: &Points, to: &Points) -> Option<Affine> {
    let (a, b) = (centred(from), centred(to));
    let norm: f64 = a.iter().map(|p| p[0] * p[0] + p[1] * p[1]).sum();
    let pairs = || a.iter().zip(&b);
    let along: f64 = pairs().map(|(p, q)| p[0] * q[0] + p[1] * q[1]).sum();
    let across: f64 = pairs().map(|(p, q)| p[0] * q[1] - p[1] * q[0]).sum();
    let (cosine, sine) = (along / norm, across / norm);
    let mean = |points: &Points, k: usize| points.iter().map(|p| p[k]).sum::<f64>() / 5.0;
    let [x, y] = [mean(from, 0), mean(from, 1)];
    let map = [
        [cosine, -sine, mean(to, 0) - cosine * x + sine * y],
        [sine, cosine, mean(to, 1) - sine * x - cosine * y],
    ];
    (norm > 0.0 && map.iter().flatten().all(|v| v.is_finite())).then_some(map)
}

/// A picture of `side` x `side` pixels whose pixel (x, y) is that of `plane` where `map` leads to
/// (x, y); black outside. None where the map cannot be turned round.
pub fn warped(plane: &Plane, map: &Affine, side: usize) -> Option<Plane> {
    let [[a, b, c], [d, e, f]] = *map;
    let area = a * e - b * d;
    if !area.is_finite() || area.abs() < 1e-12 {
        return None;
    }
    let channels = plane.channels;
    let mut data = Vec::with_capacity(side * side * channels);
    let at = |x: i64, y: i64, channel: usize| -> f64 {
        let inside = x >= 0 && y >= 0 && x < plane.width as i64 && y < plane.height as i64;
        match inside {
            true => {
                f64::from(plane.data[(y as usize * plane.width + x as usize) * channels + channel])
            }
            false => 0.0,
        }
    };
    for row in 0..side {
        for column in 0..side {
            let (u, v) = (column as f64 - c, row as f64 - f);
            let (x, y) = ((e * u - b * v) / area, (a * v - d * u) / area);
            let (left, top) = (x.floor(), y.floor());
            let (right, down) = (x - left, y - top);
            let (left, top) = (left as i64, top as i64);
            for channel in 0..channels {
                let upper = at(left, top, channel) * (1.0 - right)
                    + at(left.saturating_add(1), top, channel) * right;
                let below = top.saturating_add(1);
                let lower = at(left, below, channel) * (1.0 - right)
                    + at(left.saturating_add(1), below, channel) * right;
                data.push((upper * (1.0 - down) + lower * down) as f32);
            }
        }
    }
    Some(Plane { width: side, height: side, channels, data })
}

/// The face of these points where recognition wants it: 112x112 pixels.
pub fn aligned(plane: &Plane, points: &Points) -> Option<Plane> {
    warped(plane, &similarity(points, &TEMPLATE)?, 112)
}

fn cross(a: [f64; 3], b: [f64; 3]) -> [f64; 3] {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

fn dot(a: [f64; 3], b: [f64; 3]) -> f64 {
    a.iter().zip(&b).map(|(x, y)| x * y).sum()
}

/// How a head is turned, by its five points: the nearest turn of a mean face seen from afar.
/// None where the points lie on one line.
pub fn pose(points: &Points) -> Option<Pose> {
    let (model, seen) = (centred(&MODEL), centred(points));
    // The columns of the model's products, and their inverse by cofactors.
    let product = |i: usize, j: usize| model.iter().map(|p| p[i] * p[j]).sum::<f64>();
    let rows: [[f64; 3]; 3] = std::array::from_fn(|i| std::array::from_fn(|j| product(i, j)));
    let cofactors = [cross(rows[1], rows[2]), cross(rows[2], rows[0]), cross(rows[0], rows[1])];
    let size = dot(rows[0], cofactors[0]);
    let fit = |axis: usize| -> [f64; 3] {
        let right: [f64; 3] =
            std::array::from_fn(|i| model.iter().zip(&seen).map(|(m, p)| m[i] * p[axis]).sum());
        // The matrix is symmetric, so rows of cofactors are columns as well.
        std::array::from_fn(|i| dot(cofactors[i], right) / size)
    };
    let (across, down) = (fit(0), fit(1));
    // The nearest rows that stand upright on each other: (A Aᵀ)^(-1/2) A.
    let [p, q, r] = [dot(across, across), dot(across, down), dot(down, down)];
    let root = (p * r - q * q).sqrt();
    let trace = (p + r + 2.0 * root).sqrt();
    if !(root.is_finite() && root > 1e-9 * (p + r) && trace > 0.0) {
        return None;
    }
    let scale = 1.0 / (root * trace);
    let mix = |u: f64, v: f64| -> [f64; 3] {
        std::array::from_fn(|k| scale * (u * across[k] + v * down[k]))
    };
    let (first, second) = (mix(r + root, -q), mix(-q, p + root));
    let third = cross(first, second);
    Some(Pose {
        yaw: (-third[0]).atan2(third[2]).to_degrees(),
        pitch: third[1].clamp(-1.0, 1.0).asin().to_degrees(),
        roll: (-first[1]).atan2(second[1]).to_degrees(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the picture of an astronaut, by MTCNN (`data.md` §3.1).
    const ASTRONAUT: Points = [
        [203.861, 101.303],
        [246.390, 103.178],
        [224.267, 128.897],
        [201.823, 139.766],
        [244.905, 141.991],
    ];

    #[test]
    fn faces_are_brought_to_the_place_that_recognition_wants() {
        let map = similarity(&ASTRONAUT, &TEMPLATE).unwrap();
        let expected = [[0.87328, 0.04548, -145.403], [-0.04548, 0.87328, -25.338]];
        for (row, wanted) in map.iter().zip(expected) {
            for (at, (value, wanted)) in row.iter().zip(wanted).enumerate() {
                let tolerance = if at == 2 { 6e-4 } else { 6e-6 };
                assert!((value - wanted).abs() < tolerance, "{map:?}");
            }
        }
        let map = similarity(&TEMPLATE.map(|p| [2.0 * p[0] + 5.0, 2.0 * p[1] + 5.0]), &TEMPLATE);
        for (value, wanted) in map.unwrap().iter().flatten().zip([0.5, 0.0, -2.5, 0.0, 0.5, -2.5]) {
            assert!((value - wanted).abs() < 1e-12);
        }
        assert_eq!(similarity(&[[3.0, 3.0]; 5], &TEMPLATE), None);
    }

    #[test]
    fn a_shift_by_whole_pixels_moves_them() {
        let data = (0..25).map(|v| v as f32).collect();
        let plane = Plane { width: 5, height: 5, channels: 1, data };
        let moved = warped(&plane, &[[1.0, 0.0, 1.0], [0.0, 1.0, -2.0]], 5).unwrap();
        assert_eq!(moved.data[..5], [0.0, 10.0, 11.0, 12.0, 13.0]);
        assert_eq!(moved.data[15..], [0.0; 10]);
        assert_eq!(warped(&plane, &[[0.0; 3]; 2], 5), None);
    }

    /// What a camera sees of the mean face under a turn, by matrices: Rz·Rx·Ry.
    fn seen(yaw: f64, pitch: f64, roll: f64) -> Points {
        let [y, p, r] = [yaw, pitch, roll].map(f64::to_radians);
        let turn = |m: [[f64; 3]; 3], v: [f64; 3]| m.map(|row| dot(row, v));
        // Signs such that the angles are read back as §4.1 reads them.
        let about_y = [[y.cos(), 0.0, y.sin()], [0.0, 1.0, 0.0], [-y.sin(), 0.0, y.cos()]];
        let about_x = [[1.0, 0.0, 0.0], [0.0, p.cos(), -p.sin()], [0.0, p.sin(), p.cos()]];
        let about_z = [[r.cos(), -r.sin(), 0.0], [r.sin(), r.cos(), 0.0], [0.0, 0.0, 1.0]];
        MODEL.map(|v| {
            let v = turn(about_z, turn(about_x, turn(about_y, v)));
            [320.0 + 1.7 * v[0], 240.0 + 1.7 * v[1]]
        })
    }

    #[test]
    fn turns_of_a_head_are_read_back() {
        for (yaw, pitch, roll) in
            [(-45.0, 10.0, 5.0), (20.0, -20.0, 15.0), (60.0, 0.0, 0.0), (0.0, 0.0, -30.0)]
        {
            let found = pose(&seen(yaw, pitch, roll)).unwrap();
            for (value, wanted) in [(found.yaw, yaw), (found.pitch, pitch), (found.roll, roll)] {
                assert!((value - wanted).abs() < 1e-9, "{found:?} is not {yaw} {pitch} {roll}");
            }
        }
        let front = pose(&TEMPLATE).unwrap();
        let near = |value: f64, wanted: f64| (value - wanted).abs() < 0.06;
        assert!(
            near(front.yaw, 0.0) && near(front.pitch, 0.8) && near(front.roll, -0.3),
            "{front:?}"
        );
        let smiling = pose(&ASTRONAUT).unwrap();
        assert!(near(smiling.yaw, 1.1) && (smiling.pitch + 28.0).abs() < 0.5, "{smiling:?}");
        assert_eq!(pose(&[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0], [5.0, 5.0]]), None);
    }
}
