//! The matrix product of the interpreter.

/// Rows of `a` and of `b` taken together.
const BLOCK: usize = 4;

/// `[batch, m, k] · [batch, n, k]ᵀ → [batch, m, n]`, each element summed in order of `k`.
pub(super) fn dot(a: &[f64], b: &[f64], batch: usize, [m, n, k]: [usize; 3]) -> Vec<f64> {
    let mut out = vec![0.0; batch * m * n];
    let mut panel = vec![[0.0; BLOCK]; k];
    for i in 0..batch {
        let a = &a[i * m * k..(i + 1) * m * k];
        let b = &b[i * n * k..(i + 1) * n * k];
        let out = &mut out[i * m * n..(i + 1) * m * n];
        for column in (0..n).step_by(BLOCK) {
            let columns = BLOCK.min(n - column);
            // Surplus lanes keep values of an earlier panel; their sums are not stored.
            for lane in 0..columns {
                let row = &b[(column + lane) * k..(column + lane + 1) * k];
                panel.iter_mut().zip(row).for_each(|(to, from)| to[lane] = *from);
            }
            let mut row = 0;
            while row + BLOCK <= m {
                let a: [&[f64]; BLOCK] =
                    std::array::from_fn(|r| &a[(row + r) * k..(row + r + 1) * k]);
                let sums = block(a, &panel);
                for (r, sums) in sums.iter().enumerate() {
                    let at = (row + r) * n + column;
                    out[at..at + columns].copy_from_slice(&sums[..columns]);
                }
                row += BLOCK;
            }
            for row in row..m {
                let [sums] = block([&a[row * k..(row + 1) * k]], &panel);
                let at = row * n + column;
                out[at..at + columns].copy_from_slice(&sums[..columns]);
            }
        }
    }
    out
}

fn block<const R: usize>(a: [&[f64]; R], panel: &[[f64; BLOCK]]) -> [[f64; BLOCK]; R] {
    let mut sums = [[0.0; BLOCK]; R];
    // Equal lengths let the bounds checks go.
    let a = a.map(|row| &row[..panel.len()]);
    for (k, lanes) in panel.iter().enumerate() {
        for r in 0..R {
            let x = a[r][k];
            for (sum, lane) in sums[r].iter_mut().zip(lanes) {
                *sum += x * lane;
            }
        }
    }
    sums
}
