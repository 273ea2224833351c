//! The step of Muon: the nearest matrix with orthogonal rows or columns, by five Newton–Schulz steps.
//!
//! The form is the one of the drawn world's recipe (anyid.md §4.3): f32, a matrix over its norm, and no
//! correction for its size but √max(1, rows / columns). All matrices of a stack go through every product
//! together.

use anyid_ir::{BinaryFn, DType, FuncBuilder, Op, ReduceFn, UnaryFn, ValueId};

/// A vector that is a stack of matrices of one shape, one behind the other, each row by row.
///
/// O(G) of a matrix G: X ← G / (‖G‖ + 1e-7), ‖·‖ the root of the sum of squares; five times
/// X ← 3.4445 X + (−4.7750 M + 2.0315 M²) X with M = X Xᵀ; then X · √max(1, rows / columns). Where there
/// are more rows than columns, Xᵀ goes through the steps in the place of X.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matrices {
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub columns: usize,
}

/// Newton–Schulz steps.
const STEPS: usize = 5;
/// Coefficients of X, M X and M² X: they bring singular values from (0, 1] to near 1 in few steps.
const COEFFICIENTS: [f64; 3] = [3.4445, -4.7750, 2.0315];
/// Added to the norm, so that a gradient of zeros gives zeros.
const SMALL: f64 = 1e-7;

impl Matrices {
    /// O of every matrix of the stack `flat`, as one vector again.
    pub(super) fn orthogonal(self, b: &mut FuncBuilder<'_>, flat: ValueId) -> ValueId {
        let Self { rows, columns } = self;
        let (elements, size) = (b.shape(flat)[0], rows * columns);
        let count = elements / size;
        let rowwise = b.reshape("matrices", flat, [count, size]);
        let square = b.mul("square", rowwise, rowwise);
        let sum = b.reduce("sum", ReduceFn::Sum, square, &[1], true);
        let norm = b.unary("norm", UnaryFn::Sqrt, sum);
        let small = b.scalar("small", DType::F32, SMALL);
        let norm = b.add("guarded", norm, small);
        let unit = b.binary("unit", BinaryFn::Div, rowwise, norm);
        let mut x = b.reshape("x", unit, [count, rows, columns]);
        let [own, once, twice] = COEFFICIENTS.map(|value| b.scalar("factor", DType::F32, value));
        let dot = |b: &mut FuncBuilder<'_>, name: &str, sides: [ValueId; 2], transposed| {
            b.op(name, Op::Dot { transposed }, &sides, None)
        };
        // The smaller of the two Gram matrices.
        let tall = rows > columns;
        for _ in 0..STEPS {
            let gram = dot(b, "gram", [x, x], [tall; 2]);
            let square = dot(b, "square", [gram, gram], [false; 2]);
            let (gram, square) = (b.mul("once", gram, once), b.mul("twice", square, twice));
            let factor = b.add("factor", gram, square);
            // Both are symmetric.
            let product = match tall {
                true => dot(b, "product", [x, factor], [false; 2]),
                false => dot(b, "product", [factor, x], [false, true]),
            };
            let old = b.mul("old", x, own);
            x = b.add("x", old, product);
        }
        let flat = b.reshape("flat", x, [elements]);
        match tall {
            true => {
                let scale = (rows as f64 / columns as f64).sqrt();
                let scale = b.scalar("scale", DType::F32, scale);
                b.mul("scaled", flat, scale)
            }
            false => flat,
        }
    }
}
