//! How a head is turned, by points in space: the turn that brings a mean face nearest to them
//! (`data.md` §4.1).

use super::{MODEL, Pose};

/// The usual 68 points of a face: jaw, brows, nose, eyes, mouth; x to the right, y down.
pub type Shape = [[f64; 3]; 68];

type Matrix = [[f64; 3]; 3];

fn mean(points: &[[f64; 3]]) -> [f64; 3] {
    std::array::from_fn(|k| points.iter().map(|p| p[k]).sum::<f64>() / points.len() as f64)
}

fn determinant(m: &Matrix) -> f64 {
    super::dot(m[0], super::cross(m[1], m[2]))
}

/// The rotation nearest to a matrix: its orthogonal factor, by Newton's iteration. None of one that is
/// flat or mirrors.
fn rotation(mut m: Matrix) -> Option<Matrix> {
    let size = m.iter().flatten().map(|v| v * v).sum::<f64>().sqrt();
    if !(size.is_finite() && size > 0.0) {
        return None;
    }
    m = m.map(|row| row.map(|v| v / size));
    if determinant(&m) < 1e-9 {
        return None;
    }
    for _ in 0..100 {
        // Rows of the inverse's transpose are products of rows.
        let by = determinant(&m);
        let other = [(1, 2), (2, 0), (0, 1)].map(|(a, b)| super::cross(m[a], m[b]));
        let next: Matrix =
            std::array::from_fn(|i| std::array::from_fn(|j| (m[i][j] + other[i][j] / by) / 2.0));
        let moved = (0..9).map(|at| (next[at / 3][at % 3] - m[at / 3][at % 3]).abs());
        let moved = moved.fold(0.0, f64::max);
        m = next;
        if moved < 1e-14 {
            break;
        }
    }
    m.iter().flatten().all(|v| v.is_finite()).then_some(m)
}

/// The turn of `model` nearest to `seen`, whatever their sizes and places.
fn turned(model: &[[f64; 3]], seen: &[[f64; 3]]) -> Option<Pose> {
    let (at, to) = (mean(model), mean(seen));
    let product = |i: usize, j: usize| -> f64 {
        model.iter().zip(seen).map(|(m, s)| (s[i] - to[i]) * (m[j] - at[j])).sum()
    };
    let r = rotation(std::array::from_fn(|i| std::array::from_fn(|j| product(i, j))))?;
    Some(Pose {
        yaw: (-r[2][0]).atan2(r[2][2]).to_degrees(),
        pitch: r[2][1].clamp(-1.0, 1.0).asin().to_degrees(),
        roll: (-r[0][1]).atan2(r[1][1]).to_degrees(),
    })
}

/// A shape whose z grows to the camera: the tip of the nose is nearer than the jaw.
fn facing(mut shape: Shape) -> Shape {
    if shape[30][2] < mean(&shape[..17])[2] {
        shape.iter_mut().for_each(|point| point[2] = -point[2]);
    }
    shape
}

/// A mean shape as it is given, with x to the right, y down and z to the camera, however its file has
/// them. None where it is no face.
pub fn mean_shape(mut shape: Shape) -> Option<Shape> {
    let grows = [shape[16][0] - shape[0][0], shape[8][1] - shape[27][1]];
    if grows.iter().any(|way| !way.is_finite() || *way == 0.0) {
        return None;
    }
    for point in &mut shape {
        point[0] *= grows[0].signum();
        point[1] *= grows[1].signum();
    }
    shape.iter().flatten().all(|v| v.is_finite()).then(|| facing(shape))
}

/// How a head is turned, by its 68 points in a picture: against a mean shape, or by eyes, nose and mouth
/// against the mean face of five points. None where they are no face.
pub fn pose(seen: &Shape, mean_shape: Option<&Shape>) -> Option<Pose> {
    let seen = facing(*seen);
    if let Some(shape) = mean_shape {
        return turned(shape, &seen);
    }
    let five = [mean(&seen[36..42]), mean(&seen[42..48]), seen[30], seen[48], seen[54]];
    turned(&MODEL, &five)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A face of 68 points, symmetric, with eyes, nose and mouth where the mean face has them.
    fn face() -> Shape {
        let mut shape = [[0.0; 3]; 68];
        for (at, point) in shape.iter_mut().enumerate() {
            let turn = at as f64 / 16.0 * std::f64::consts::PI;
            *point = match at {
                0..17 => [-70.0 * turn.cos(), 20.0 + 60.0 * turn.sin(), -60.0],
                17..27 => [(at as f64 - 21.5) * 11.0, -60.0, 4.0],
                27..31 => [0.0, (at as f64 - 30.0) * 11.0, 27.0 - (30.0 - at as f64) * 7.0],
                31..36 => [(at as f64 - 33.0) * 7.0, 8.0, 14.0],
                36..42 => MODEL[0],
                42..48 => MODEL[1],
                48 => MODEL[3],
                54 => MODEL[4],
                _ => [((at as f64 - 48.0) * 0.9).sin() * 10.0, 36.0, 8.0],
            };
        }
        shape
    }

    fn turned_by(shape: &Shape, [yaw, pitch, roll]: [f64; 3]) -> Shape {
        let [y, p, r] = [yaw, pitch, roll].map(f64::to_radians);
        let by = |m: Matrix, v: [f64; 3]| m.map(|row| super::super::dot(row, v));
        let about_y = [[y.cos(), 0.0, y.sin()], [0.0, 1.0, 0.0], [-y.sin(), 0.0, y.cos()]];
        let about_x = [[1.0, 0.0, 0.0], [0.0, p.cos(), -p.sin()], [0.0, p.sin(), p.cos()]];
        let about_z = [[r.cos(), -r.sin(), 0.0], [r.sin(), r.cos(), 0.0], [0.0, 0.0, 1.0]];
        shape.map(|v| by(about_z, by(about_x, by(about_y, v))).map(|side| 90.0 + 0.7 * side))
    }

    #[test]
    fn turns_of_a_head_are_read_back_by_either_face() {
        let shape = mean_shape(face()).unwrap();
        for wanted in [[-45.0, 10.0, 5.0], [20.0, -38.0, 15.0], [70.0, 0.0, -30.0], [0.0; 3]] {
            let seen = turned_by(&shape, wanted);
            // Also where the network's z grows the other way.
            for seen in [seen, seen.map(|[x, y, z]| [x, y, -z])] {
                for mean in [None, Some(&shape)] {
                    let found = pose(&seen, mean).unwrap();
                    for (value, wanted) in [found.yaw, found.pitch, found.roll].iter().zip(wanted) {
                        assert!((value - wanted).abs() < 1e-6, "{found:?} is not {wanted:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_smile_does_not_turn_a_head() {
        // Corners of the mouth go up and out, as they do in the picture by which five points say -28°.
        let mut smiling = face();
        smiling[48] = [-31.0, 27.0, 0.0];
        smiling[54] = [31.0, 27.0, 0.0];
        let found = pose(&smiling, None).unwrap();
        assert!(found.pitch.abs() < 4.0 && found.yaw.abs() < 1e-6, "{found:?}");
        let five = [smiling[36], smiling[42], smiling[30], smiling[48], smiling[54]];
        let flat = super::super::pose(&five.map(|[x, y, _]| [x, y])).unwrap();
        assert!(flat.pitch.abs() > 2.0 * found.pitch.abs(), "{flat:?} {found:?}");
    }

    #[test]
    fn mean_shapes_may_have_other_axes_and_must_be_faces() {
        let own = mean_shape(face()).unwrap();
        let up = mean_shape(face().map(|[x, y, z]| [x, -y, -z])).unwrap();
        assert_eq!(own, up);
        assert_eq!(mean_shape([[1.0; 3]; 68]), None);
        assert_eq!(pose(&[[1.0; 3]; 68], None), None);
        assert_eq!(pose(&[[f64::NAN; 3]; 68], None), None);
    }
}
