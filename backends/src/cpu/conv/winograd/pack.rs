//! Kernels in the transform domain, packed into panels.
//!
//! The matrix has Cout columns and K running over points, then temporal taps, then input channels,
//! so that each point's part is a run of rows of every panel. All arithmetic is f64, rounded once.

use super::tile::{MOST, TileSize};
use crate::cpu::conv::ConvShape;
use crate::cpu::gemm::{Dtype, PackedMatrix, PanelKind, WIDTH, decode_one, panel_width};
use crate::cpu::threads::{Pool, SharedPtr};

/// Input channels that one task transforms.
const CHANNELS: usize = 16;

/// Transforms and packs a stored weight [Cout, Cin, kt, 3, 3].
///
/// # Panics
/// If the weight is too short.
pub(super) fn pack<S: TileSize>(
    pool: &Pool,
    shape: &ConvShape,
    (bytes, dtype): (&[u8], Dtype),
) -> PackedMatrix {
    let ConvShape { cin, cout, kernel: [kt, ..], .. } = *shape;
    let needed = cout * cin * kt * 9 * dtype.size();
    assert!(bytes.len() >= needed, "weight has {} bytes, needs {needed}", bytes.len());
    let points = S::N * S::N;
    let k = points * kt * cin;
    let mut packed = PackedMatrix::zeroed((cout, k), PanelKind::F32);
    let base = SharedPtr::new(packed.bytes_mut().as_mut_ptr().cast::<f32>());
    let blocks = cin.div_ceil(CHANNELS);
    pool.run(cout.div_ceil(WIDTH) * blocks, &|task, _| {
        let (p, block) = (task / blocks, task % blocks);
        let width = panel_width(cout, p);
        for channel in block * CHANNELS..((block + 1) * CHANNELS).min(cin) {
            for tap in 0..kt {
                for column in 0..width.min(cout - p * WIDTH) {
                    let first = (((p * WIDTH + column) * cin + channel) * kt + tap) * 9;
                    let values = transform::<S>(std::array::from_fn(|i| {
                        f64::from(decode_one(bytes, dtype, first + i))
                    }));
                    for point in 0..points {
                        let row = (point * kt + tap) * cin + channel;
                        let value = values[point / S::N][point % S::N] as f32;
                        // SAFETY: row `row` of panel `p`, inside the matrix; each task has
                        // channels of its own, and with them rows.
                        unsafe {
                            base.get().add(p * WIDTH * k + row * width + column).write(value)
                        };
                    }
                }
            }
        }
    });
    packed
}

/// G g Gᵀ of nine taps, row-major.
fn transform<S: TileSize>(g: [f64; 9]) -> [[f64; MOST]; MOST] {
    let columns: [_; 3] = std::array::from_fn(|w| S::kernel([g[w], g[3 + w], g[6 + w]]));
    std::array::from_fn(|i| S::kernel(columns.map(|column| column[i])))
}
