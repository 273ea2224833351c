//! Tensors that are made of numbers alone: literals, counters, closed-form tables.

use crate::op::Op;

/// What fills a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// One value for every element, or the elements in row-major order.
    Const(Vec<f64>),
    /// 0, 1, 2, … along an axis.
    Iota(usize),
    /// Rotary table of a grid; operand 0 holds the positions of the frames.
    RopeTable {
        /// Patch rows of a frame.
        rows: usize,
        /// Patch columns of a frame.
        cols: usize,
        /// Channels of a head.
        head_dim: usize,
        /// Base of the frequencies.
        theta: f64,
    },
    /// Sinusoids with this many channels; operand 0 holds the timesteps.
    TimestepEmbedding(usize),
    /// Relative position buckets; operand 0 holds the distances.
    RelativeBucket {
        /// Number of buckets.
        buckets: usize,
        /// Distance from which on all share the last bucket.
        max_distance: usize,
    },
}

impl Fill {
    /// The kernel of `op`, if it is one of these.
    pub fn of(op: &Op) -> Option<Self> {
        Some(match op.clone() {
            Op::Const { values } => Self::Const(values),
            Op::Iota { axis } => Self::Iota(axis),
            Op::RopeTable { rows, cols, head_dim, theta } => {
                Self::RopeTable { rows, cols, head_dim, theta }
            }
            Op::TimestepEmbedding { dim } => Self::TimestepEmbedding(dim),
            Op::RelativeBucket { buckets, max_distance } => {
                Self::RelativeBucket { buckets, max_distance }
            }
            _ => return None,
        })
    }

    /// The op that it is.
    pub fn op(&self) -> Op {
        match self.clone() {
            Self::Const(values) => Op::Const { values },
            Self::Iota(axis) => Op::Iota { axis },
            Self::RopeTable { rows, cols, head_dim, theta } => {
                Op::RopeTable { rows, cols, head_dim, theta }
            }
            Self::TimestepEmbedding(dim) => Op::TimestepEmbedding { dim },
            Self::RelativeBucket { buckets, max_distance } => {
                Op::RelativeBucket { buckets, max_distance }
            }
        }
    }

    /// Its name, that of the op.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Const(_) => "const",
            Self::Iota(_) => "iota",
            Self::RopeTable { .. } => "rope_table",
            Self::TimestepEmbedding(_) => "timestep_embedding",
            Self::RelativeBucket { .. } => "relative_bucket",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fill_is_its_op_and_has_its_name() {
        for op in [
            Op::Const { values: vec![0.5] },
            Op::Iota { axis: 1 },
            Op::RopeTable { rows: 2, cols: 3, head_dim: 8, theta: 1e4 },
            Op::TimestepEmbedding { dim: 8 },
            Op::RelativeBucket { buckets: 32, max_distance: 128 },
        ] {
            let fill = Fill::of(&op).unwrap();
            assert_eq!((fill.op(), fill.name()), (op.clone(), op.name()));
        }
        assert_eq!(Fill::of(&Op::Gather), None);
    }
}
