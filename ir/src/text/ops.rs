//! Attributes of every op in text, in both directions.
//!
//! [`fields`] is the one description: which attributes an op has, of what kind, in the order of the
//! language reference. `build` fills them in from the text, [`attributes`] writes them. Ranges are
//! checked by [`mod@crate::infer`], not here.

mod reader;

pub(super) use reader::Reader;

use crate::op::{Axes, BinaryFn, CompareFn, Op, ReduceFn, UnaryFn};
use smallvec::{SmallVec, smallvec};
use std::sync::LazyLock;

/// Every op, with attributes that reading fills in.
static BLANK: LazyLock<Vec<Op>> = LazyLock::new(|| {
    let (axis, axes, patch) = (0, Axes::new(), [0; 3]);
    let mut ops = vec![
        Op::Const { values: Vec::new() },
        Op::Iota { axis },
        Op::Cast,
        Op::Reshape,
        Op::Permute { perm: axes.clone() },
        Op::Broadcast,
        Op::Slice { axis, start: 0, len: 0 },
        Op::Index { axis, at: 0 },
        Op::Pad { axis, lo: 0, hi: 0 },
        Op::Concat { axis },
        Op::Gather,
        Op::Select,
        Op::Dot { transposed: [false; 2] },
        Op::Linear,
        Op::Attention { heads: 0, scale: 0.0, lse: false },
        Op::AttentionVjp { heads: 0, scale: 0.0, bias: false },
        Op::LayerNorm { eps: 0.0 },
        Op::RmsNorm { eps: 0.0, clamp: false },
        Op::Rope { heads: 0 },
        Op::RopeTable { rows: 0, cols: 0, head_dim: 0, theta: 0.0 },
        Op::Gelu,
        Op::Silu,
        Op::Modulate,
        Op::GateAdd,
        Op::SegmentSum { segments: 0 },
        Op::Conv { stride: [1; 3], pad: [[0; 2]; 3] },
        Op::Upsample { factors: axes.clone() },
        Op::TimestepEmbedding { dim: 0 },
        Op::RelativeBucket { buckets: 0, max_distance: 0 },
        Op::Patchify { patch },
        Op::Unpatchify { patch, grid: [0; 3] },
        Op::Call { func: String::new(), index: Vec::new() },
        Op::Repeat { index: String::new(), lo: 0, hi: 0, carries: 0 },
        Op::Return,
        Op::Yield,
    ];
    ops.extend(UnaryFn::ALL.map(Op::Unary));
    ops.extend(BinaryFn::ALL.map(Op::Binary));
    ops.extend(CompareFn::ALL.map(Op::Compare));
    ops.extend(ReduceFn::ALL.map(|f| Op::Reduce { f, axes: axes.clone(), keep: false }));
    ops
});

/// Names of all ops that may start a statement.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    BLANK.iter().map(Op::name)
}

/// What an attribute holds.
enum Field<'o> {
    /// A whole number.
    Int(&'o mut usize),
    /// A number.
    Float(&'o mut f64),
    /// `false` unless it is given.
    Flag(&'o mut bool),
    /// A list of whole numbers.
    List(&'o mut Axes),
    /// So many whole numbers; where there is a default, each is that unless they are given.
    Sizes(&'o mut [usize], Option<usize>),
    /// 0 or 1 for either side, 0 unless they are given.
    Sides(&'o mut [bool; 2]),
    /// A list of numbers, or as another attribute a single one.
    Values(&'o mut Vec<f64>),
    /// A word that is a part of which op it is.
    Word(&'static str),
}

/// The attributes of `op` by name.
fn fields(op: &mut Op) -> SmallVec<[(&'static str, Field<'_>); 4]> {
    use Field::{Flag, Float, Int, List, Sides, Sizes, Values, Word};
    match op {
        Op::Const { values } => smallvec![("values", Values(values))],
        Op::Iota { axis } | Op::Concat { axis } => smallvec![("axis", Int(axis))],
        Op::Permute { perm } => smallvec![("perm", List(perm))],
        Op::Slice { axis, start, len } => {
            smallvec![("axis", Int(axis)), ("start", Int(start)), ("len", Int(len))]
        }
        Op::Index { axis, at } => smallvec![("axis", Int(axis)), ("at", Int(at))],
        Op::Pad { axis, lo, hi } => {
            smallvec![("axis", Int(axis)), ("lo", Int(lo)), ("hi", Int(hi))]
        }
        Op::Reduce { axes, keep, .. } => smallvec![("axes", List(axes)), ("keep", Flag(keep))],
        Op::Dot { transposed } => smallvec![("transposed", Sides(transposed))],
        Op::Attention { heads, scale, lse } => {
            smallvec![("heads", Int(heads)), ("scale", Float(scale)), ("lse", Flag(lse))]
        }
        Op::AttentionVjp { heads, scale, bias } => {
            smallvec![("heads", Int(heads)), ("scale", Float(scale)), ("bias", Flag(bias))]
        }
        Op::LayerNorm { eps } => smallvec![("eps", Float(eps))],
        Op::RmsNorm { eps, clamp } => smallvec![("eps", Float(eps)), ("clamp", Flag(clamp))],
        Op::Rope { heads } => smallvec![("heads", Int(heads))],
        Op::RopeTable { rows, cols, head_dim, theta } => smallvec![
            ("rows", Int(rows)),
            ("cols", Int(cols)),
            ("head_dim", Int(head_dim)),
            ("theta", Float(theta))
        ],
        Op::Gelu => smallvec![("approx", Word("tanh"))],
        Op::GeluErf => smallvec![("approx", Word("erf"))],
        Op::SegmentSum { segments } => smallvec![("segments", Int(segments))],
        Op::Conv { stride, pad } => {
            let pad = Sizes(pad.as_flattened_mut(), Some(0));
            smallvec![("stride", Sizes(stride, Some(1))), ("pad", pad)]
        }
        Op::Upsample { factors } => smallvec![("factors", List(factors))],
        Op::TimestepEmbedding { dim } => smallvec![("dim", Int(dim))],
        Op::RelativeBucket { buckets, max_distance } => {
            smallvec![("buckets", Int(buckets)), ("max_distance", Int(max_distance))]
        }
        Op::Patchify { patch } => smallvec![("patch", Sizes(patch, None))],
        Op::Unpatchify { patch, grid } => {
            smallvec![("patch", Sizes(patch, None)), ("grid", Sizes(grid, None))]
        }
        Op::Weight { .. }
        | Op::Cast
        | Op::Reshape
        | Op::Broadcast
        | Op::Gather
        | Op::Unary(_)
        | Op::Binary(_)
        | Op::Select
        | Op::Compare(_)
        | Op::Call { .. }
        | Op::Repeat { .. }
        | Op::Yield
        | Op::Return
        | Op::Linear
        | Op::Silu
        | Op::Modulate
        | Op::GateAdd => SmallVec::new(),
    }
}

/// The shortest text that reads back as `value`.
pub(crate) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0.0".to_owned() } else { "0".to_owned() };
    }
    let text = format!("{value:?}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Attributes of `op` as text; those with their default are left out.
pub(super) fn attributes(op: &Op) -> Vec<String> {
    let list = |values: Vec<String>| format!("[{}]", values.join(","));
    let whole = |values: &[usize]| list(values.iter().map(usize::to_string).collect());
    let text = |(name, field): (&str, Field<'_>)| {
        let value = match field {
            Field::Int(value) => value.to_string(),
            Field::Float(value) => float(*value),
            Field::Flag(value) => return value.then(|| format!("{name}=true")),
            Field::List(values) => whole(values),
            Field::Sizes(values, default) => {
                let given = values.iter().any(|value| Some(*value) != default);
                given.then(|| whole(values))?
            }
            Field::Sides([false, false]) => return None,
            Field::Sides(sides) => whole(&sides.map(usize::from)),
            Field::Values(values) => match values[..] {
                [value] => return Some(format!("value={}", float(value))),
                _ => list(values.iter().map(|value| float(*value)).collect()),
            },
            Field::Word(word) => word.to_owned(),
        };
        Some(format!("{name}={value}"))
    };
    fields(&mut op.clone()).into_iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_read_back_exactly() {
        for value in [0.0, -0.0, 1.0, 1e-6, 0.1, 1.0 / 3.0, 1e16, 5e-324, f64::MAX, -2.5, 1e15] {
            let text = float(value);
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), value.to_bits(), "{text}");
        }
        assert_eq!(float(1e-6), "1e-6");
        assert_eq!(float(10000.0), "10000");
        assert_eq!([float(f64::INFINITY), float(f64::NEG_INFINITY)], ["inf", "-inf"]);
        assert_eq!(float(f64::NAN), "nan");
    }

    #[test]
    fn names_are_unique_and_include_every_family() {
        let mut all: Vec<_> = names().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        for name in ["unpatchify", "reduce_max", "rsqrt", "ge", "yield"] {
            assert!(all.contains(&name));
        }
    }
}
