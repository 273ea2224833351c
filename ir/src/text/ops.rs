//! Attributes of every op in text, in both directions.
//!
//! `build` reads them into an [`Op`], `attributes` writes them; a test checks that the two agree
//! for every op. Ranges are checked by [`mod@crate::infer`], not here.

mod reader;

pub(super) use reader::Reader;

use crate::diag::Diagnostic;
use crate::op::{BinaryFn, CompareFn, Op, ReduceFn, UnaryFn};
use crate::text::words;
use crate::weights::nearest;

/// Ops written `name operands {attributes}`, apart from the elementwise functions and reductions.
const PLAIN: [&str; 30] = [
    "const",
    "iota",
    "cast",
    "reshape",
    "permute",
    "broadcast",
    "slice",
    "index",
    "pad",
    "concat",
    "gather",
    "select",
    "dot",
    "linear",
    "attention",
    "attention_vjp",
    "layer_norm",
    "rms_norm",
    "rope",
    "rope_table",
    "gelu",
    "silu",
    "modulate",
    "gate_add",
    "segment_sum",
    "conv",
    "upsample",
    "timestep_embedding",
    "relative_bucket",
    "patchify",
];

/// Names of all ops that may start a statement.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let structure = ["unpatchify", "call", "repeat", "return", "yield"];
    PLAIN
        .into_iter()
        .chain(structure)
        .chain(UnaryFn::ALL.map(|(_, name)| name))
        .chain(BinaryFn::ALL.map(|(_, name)| name))
        .chain(CompareFn::ALL.map(|(_, name)| name))
        .chain(ReduceFn::ALL.map(|(_, name)| name))
}

fn function<F: Copy>(table: &[(F, &'static str)], name: &str) -> Option<F> {
    table.iter().find(|(_, n)| *n == name).map(|(f, _)| *f)
}
impl Reader<'_, '_> {
    /// The op, or `None` after reporting E0103, E0105, E0106, E0111, E0114 or E0115.
    pub(super) fn build(mut self) -> Option<Op> {
        let name = self.source.at(self.op);
        if !names().any(|n| n == name) {
            let error = Diagnostic::error("E0103", format!("there is no op {name}")).at(self.op);
            let help = match nearest(name, names()) {
                _ if name == "weight" => {
                    "write a weight as `$path` where it is used; it needs no statement".to_owned()
                }
                _ if let Some(known) = words::instead(name) => known,
                Some(close) => format!("did you mean {close}?"),
                None => "see docs/ir.md for the list of ops".to_owned(),
            };
            self.sink.push(error.help(help));
            return None;
        }
        let op = self.op(name);
        if self.leftovers() { op } else { None }
    }

    fn op(&mut self, name: &str) -> Option<Op> {
        if let Some(f) = function(&UnaryFn::ALL, name) {
            return Some(Op::Unary(f));
        }
        if let Some(f) = function(&BinaryFn::ALL, name) {
            return Some(Op::Binary(f));
        }
        if let Some(f) = function(&CompareFn::ALL, name) {
            return Some(Op::Compare(f));
        }
        if let Some(f) = function(&ReduceFn::ALL, name) {
            let (axes, keep) = (self.list("axes"), self.flag("keep"));
            return Some(Op::Reduce { f, axes: axes?, keep: keep? });
        }
        // All attributes are read before any `?`, so that every missing one is reported.
        Some(match name {
            "const" => match self.find("values") {
                Some(at) => Op::Const { values: self.floats(at)? },
                None => Op::Const { values: vec![self.float("value")?] },
            },
            "iota" => Op::Iota { axis: self.int("axis")? },
            "cast" => Op::Cast,
            "reshape" => Op::Reshape,
            "permute" => Op::Permute { perm: self.list("perm")? },
            "broadcast" => Op::Broadcast,
            "slice" => {
                let (axis, start, len) = (self.int("axis"), self.int("start"), self.int("len"));
                Op::Slice { axis: axis?, start: start?, len: len? }
            }
            "index" => {
                let (axis, at) = (self.int("axis"), self.int("at"));
                Op::Index { axis: axis?, at: at? }
            }
            "pad" => {
                let (axis, lo, hi) = (self.int("axis"), self.int("lo"), self.int("hi"));
                Op::Pad { axis: axis?, lo: lo?, hi: hi? }
            }
            "concat" => Op::Concat { axis: self.int("axis")? },
            "gather" => Op::Gather,
            "select" => Op::Select,
            "dot" => {
                let transposed = self.optional("transposed", [0; 2])?;
                Op::Dot { transposed: transposed.map(|side| side != 0) }
            }
            "linear" => Op::Linear,
            "attention" => {
                let (heads, scale, lse) =
                    (self.int("heads"), self.float("scale"), self.flag("lse"));
                Op::Attention { heads: heads?, scale: scale?, lse: lse? }
            }
            "attention_vjp" => {
                let (heads, scale, bias) =
                    (self.int("heads"), self.float("scale"), self.flag("bias"));
                Op::AttentionVjp { heads: heads?, scale: scale?, bias: bias? }
            }
            "layer_norm" => Op::LayerNorm { eps: self.float("eps")? },
            "rms_norm" => {
                let (eps, clamp) = (self.float("eps"), self.flag("clamp"));
                Op::RmsNorm { eps: eps?, clamp: clamp? }
            }
            "rope" => Op::Rope { heads: self.int("heads")? },
            "rope_table" => {
                let (rows, cols) = (self.int("rows"), self.int("cols"));
                let (head_dim, theta) = (self.int("head_dim"), self.float("theta"));
                Op::RopeTable { rows: rows?, cols: cols?, head_dim: head_dim?, theta: theta? }
            }
            "gelu" => self.gelu()?,
            "silu" => Op::Silu,
            "modulate" => Op::Modulate,
            "gate_add" => Op::GateAdd,
            "segment_sum" => Op::SegmentSum { segments: self.int("segments")? },
            "conv" => {
                let stride = self.optional("stride", [1; 3]);
                let pad = self.optional("pad", [0; 6]);
                let [a, b, c, d, e, f] = pad?;
                Op::Conv { stride: stride?, pad: [[a, b], [c, d], [e, f]] }
            }
            "upsample" => Op::Upsample { factors: self.list("factors")? },
            "timestep_embedding" => Op::TimestepEmbedding { dim: self.int("dim")? },
            "relative_bucket" => {
                let (buckets, max_distance) = (self.int("buckets"), self.int("max_distance"));
                Op::RelativeBucket { buckets: buckets?, max_distance: max_distance? }
            }
            "patchify" => Op::Patchify { patch: self.triple("patch")? },
            "unpatchify" => {
                let (patch, grid) = (self.triple("patch"), self.triple("grid"));
                Op::Unpatchify { patch: patch?, grid: grid? }
            }
            _ => return None,
        })
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

fn list(values: &[usize]) -> String {
    let values: Vec<String> = values.iter().map(usize::to_string).collect();
    format!("[{}]", values.join(","))
}

/// Attributes of `op` in the order of the language reference; those with their default are left
/// out.
pub(super) fn attributes(op: &Op) -> Vec<String> {
    match op {
        Op::Const { values } => match values[..] {
            [value] => vec![format!("value={}", float(value))],
            _ => {
                let values: Vec<String> = values.iter().map(|value| float(*value)).collect();
                vec![format!("values=[{}]", values.join(","))]
            }
        },
        Op::Iota { axis } | Op::Concat { axis } => vec![format!("axis={axis}")],
        Op::Permute { perm } => vec![format!("perm={}", list(perm))],
        Op::Slice { axis, start, len } => {
            vec![format!("axis={axis}"), format!("start={start}"), format!("len={len}")]
        }
        Op::Index { axis, at } => vec![format!("axis={axis}"), format!("at={at}")],
        Op::Pad { axis, lo, hi } => {
            vec![format!("axis={axis}"), format!("lo={lo}"), format!("hi={hi}")]
        }
        Op::Reduce { axes, keep, .. } => {
            let mut out = vec![format!("axes={}", list(axes))];
            out.extend(keep.then(|| "keep=true".to_owned()));
            out
        }
        Op::Attention { heads, scale, lse } => {
            let mut out = vec![format!("heads={heads}"), format!("scale={}", float(*scale))];
            out.extend(lse.then(|| "lse=true".to_owned()));
            out
        }
        Op::AttentionVjp { heads, scale, bias } => {
            let mut out = vec![format!("heads={heads}"), format!("scale={}", float(*scale))];
            out.extend(bias.then(|| "bias=true".to_owned()));
            out
        }
        Op::LayerNorm { eps } => vec![format!("eps={}", float(*eps))],
        Op::RmsNorm { eps, clamp } => {
            let mut out = vec![format!("eps={}", float(*eps))];
            out.extend(clamp.then(|| "clamp=true".to_owned()));
            out
        }
        Op::Dot { transposed: [false, false] } => Vec::new(),
        Op::Dot { transposed } => {
            vec![format!("transposed={}", list(&transposed.map(usize::from)))]
        }
        Op::SegmentSum { segments } => vec![format!("segments={segments}")],
        Op::Rope { heads } => vec![format!("heads={heads}")],
        Op::RopeTable { rows, cols, head_dim, theta } => vec![
            format!("rows={rows}"),
            format!("cols={cols}"),
            format!("head_dim={head_dim}"),
            format!("theta={}", float(*theta)),
        ],
        Op::Gelu => vec!["approx=tanh".to_owned()],
        Op::GeluErf => vec!["approx=erf".to_owned()],
        Op::Conv { stride, pad } => {
            let mut out = Vec::new();
            if *stride != [1; 3] {
                out.push(format!("stride={}", list(stride)));
            }
            if *pad != [[0; 2]; 3] {
                out.push(format!("pad={}", list(pad.as_flattened())));
            }
            out
        }
        Op::Upsample { factors } => vec![format!("factors={}", list(factors))],
        Op::TimestepEmbedding { dim } => vec![format!("dim={dim}")],
        Op::RelativeBucket { buckets, max_distance } => {
            vec![format!("buckets={buckets}"), format!("max_distance={max_distance}")]
        }
        Op::Patchify { patch } => vec![format!("patch={}", list(patch))],
        Op::Unpatchify { patch, grid } => {
            vec![format!("patch={}", list(patch)), format!("grid={}", list(grid))]
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
        | Op::GateAdd => Vec::new(),
    }
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
