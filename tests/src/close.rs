//! Comparison of tensors against goldens: largest error over the reference's largest magnitude.

use anyid_ir::Tensor;

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// The error, relative or absolute as the tolerance.
    pub error: f64,
    /// Largest error allowed.
    pub tolerance: f64,
}

impl Check {
    /// Whether the error is within the tolerance; a NaN never is.
    pub fn passes(&self) -> bool {
        self.error <= self.tolerance
    }
}

/// max|a − b| / max|b|; infinite when the lengths differ or a value is not finite.
pub fn relative(given: &[f64], golden: &[f64]) -> f64 {
    let scale = golden.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    let error = absolute(given, golden);
    if error == 0.0 { 0.0 } else { error / scale }
}

/// max|a − b|; infinite when the lengths differ or a value is not finite.
pub fn absolute(given: &[f64], golden: &[f64]) -> f64 {
    if given.len() != golden.len() || given.iter().any(|v| !v.is_finite()) {
        return f64::INFINITY;
    }
    given.iter().zip(golden).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()))
}

/// max|a − b| / max|b| over the finite elements; infinite when the types differ, or where one side
/// has a NaN or an infinity and the other has not the same.
pub fn difference(given: &Tensor, reference: &Tensor) -> f64 {
    if given.ty() != reference.ty() {
        return f64::INFINITY;
    }
    let (given, reference) = (given.to_f64_vec(), reference.to_f64_vec());
    let (mut error, mut scale) = (0.0f64, 0.0f64);
    for (a, b) in given.iter().zip(&reference) {
        match (a.is_finite(), b.is_finite()) {
            (true, true) => {
                error = error.max((a - b).abs());
                scale = scale.max(b.abs());
            }
            _ if a == b || (a.is_nan() && b.is_nan()) => {}
            _ => return f64::INFINITY,
        }
    }
    if error == 0.0 { 0.0 } else { error / scale }
}
