//! How far numbers are from their reference.

use anyid_ir::DType;

/// Two distances of results from a reference.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// Largest difference over the largest number of the reference.
    pub largest: f64,
    /// Length of the difference over the length of the reference.
    pub length: f64,
}

/// The distance of `given` from `wanted`; infinite where one has a number and the other none.
pub fn distance(given: &[f64], wanted: &[f64]) -> Distance {
    let (mut largest, mut scale, mut square, mut squares) = (0f64, 0f64, 0f64, 0f64);
    if given.len() != wanted.len() {
        return Distance { largest: f64::INFINITY, length: f64::INFINITY };
    }
    for (a, b) in given.iter().zip(wanted) {
        match (a.is_finite(), b.is_finite()) {
            (true, true) => {
                let apart = (a - b).abs();
                largest = largest.max(apart);
                scale = scale.max(b.abs());
                square += apart * apart;
                squares += b * b;
            }
            _ if a == b || (a.is_nan() && b.is_nan()) => {}
            _ => return Distance { largest: f64::INFINITY, length: f64::INFINITY },
        }
    }
    let over = |a: f64, b: f64| if a == 0.0 { 0.0 } else { a / b };
    Distance { largest: over(largest, scale), length: over(square, squares).sqrt() }
}

/// How far results may be, by the element types that a kernel touches: whole numbers not at all.
/// Sums in f32 of thousands of summands are right to some parts in a million; one rounding to a half type
/// is 1/256 or 1/2048 of a number, and a kernel may round twice.
pub fn bound(result: DType, others: impl Iterator<Item = DType>) -> Distance {
    let half = |dtype: DType| matches!(dtype, DType::Bf16 | DType::F16);
    let rounded = std::iter::once(result).chain(others).any(half);
    match result {
        DType::I32 | DType::U8 | DType::Bool => Distance::default(),
        _ if rounded => Distance { largest: 1.6e-2, length: 8e-3 },
        DType::F64 => Distance { largest: 1e-11, length: 1e-12 },
        _ => Distance { largest: 2e-5, length: 1e-5 },
    }
}

impl Distance {
    /// Whether this is within `bound`.
    pub fn within(self, bound: Self) -> bool {
        self.largest <= bound.largest && self.length <= bound.length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_see_every_kind_of_difference() {
        let close = distance(&[1.0, -4.0, f64::NAN], &[1.5, -4.0, f64::NAN]);
        assert_eq!(close.largest, 0.125);
        assert!((close.length - 0.5 / 18.25f64.sqrt()).abs() < 1e-12);
        assert_eq!(distance(&[0.0], &[0.0]), Distance::default());
        for (a, b) in [(f64::NAN, 1.0), (1.0, f64::INFINITY), (f64::INFINITY, f64::NEG_INFINITY)] {
            assert_eq!(distance(&[a], &[b]).largest, f64::INFINITY);
        }
        assert_eq!(distance(&[1.0], &[]).largest, f64::INFINITY);
        assert!(distance(&[1.0], &[0.0]).largest.is_infinite());
        let none = std::iter::empty;
        assert!(Distance::default().within(bound(DType::I32, none())));
        assert!(!close.within(bound(DType::Bf16, none())));
        assert_eq!(bound(DType::F32, [DType::Bf16].into_iter()).largest, 1.6e-2);
    }
}
