//! Attributes of every op in text, in both directions.
//!
//! `build` reads them into an [`Op`], `attributes` writes them; a test checks that the two agree
//! for every op. Ranges are checked by [`mod@crate::infer`], not here.

use super::Sink;
use super::ast::{Attr, AttrValue, Source};
use super::dims::{Dims, LARGEST};
use crate::diag::{Diagnostic, Span};
use crate::op::{Axes, BinaryFn, CompareFn, Op, ReduceFn, UnaryFn};
use crate::weights::nearest;

/// Ops written `name operands {attributes}`, apart from the elementwise functions and reductions.
const PLAIN: [&str; 28] = [
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
    "layer_norm",
    "rms_norm",
    "rope",
    "rope_table",
    "gelu",
    "silu",
    "modulate",
    "gate_add",
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

/// Reads the attributes of one statement.
pub(super) struct Reader<'a, 's> {
    pub(super) source: &'s Source,
    pub(super) dims: &'a Dims<'s>,
    pub(super) sink: &'a mut Sink,
    pub(super) attrs: &'a [Attr],
    /// Name of the op.
    pub(super) op: Span,
    /// Attributes the op has; filled while reading.
    pub(super) known: Vec<&'static str>,
}

impl<'s> Reader<'_, 's> {
    fn find(&mut self, name: &'static str) -> Option<usize> {
        self.known.push(name);
        self.attrs.iter().position(|attr| self.source.at(attr.name) == name)
    }

    fn need(&mut self, name: &'static str, example: &str) -> Option<usize> {
        let found = self.find(name);
        if found.is_none() {
            let op = self.source.at(self.op);
            let message = format!("{op} needs the attribute {name}");
            let help = format!("write `{{{name}={example}}}`");
            self.sink.push(Diagnostic::error("E0106", message).at(self.op).help(help));
        }
        found
    }

    fn wrong(&mut self, at: usize, expected: &str) {
        let attr = &self.attrs[at];
        let message =
            format!("attribute {} of {} is not {expected}", self.name(at), self.source.at(self.op));
        let error = Diagnostic::error("E0106", message).at(attr.span);
        self.sink.push(error.help("see the op's attributes in docs/ir.md"));
    }

    fn name(&self, at: usize) -> &'s str {
        self.source.at(self.attrs[at].name)
    }

    fn whole(&mut self, expr: super::ast::Expr, name: &str) -> Option<usize> {
        let value = self.dims.eval(expr, self.sink)?;
        if (0..=LARGEST).contains(&value) {
            return Some(value as usize);
        }
        let message = format!("{name} is {value}, which is not usable");
        let error = Diagnostic::error("E0114", message).at(expr.span);
        self.sink.push(error.help("a whole number from 0 to 2^40"));
        None
    }

    fn int(&mut self, name: &'static str) -> Option<usize> {
        let at = self.need(name, "1")?;
        match &self.attrs[at].value {
            AttrValue::Expr(expr) => self.whole(*expr, name),
            _ => {
                self.wrong(at, "a whole number");
                None
            }
        }
    }

    fn ints(&mut self, at: usize, name: &'static str) -> Option<Axes> {
        match &self.attrs[at].value {
            AttrValue::List(list) => {
                // Every element is evaluated, so that all errors are seen.
                let mut values = Vec::new();
                for item in list {
                    values.push(match item {
                        AttrValue::Expr(expr) => self.whole(*expr, name),
                        _ => {
                            self.wrong(at, "a list of whole numbers such as [1,2]");
                            return None;
                        }
                    });
                }
                values.into_iter().collect()
            }
            _ => {
                self.wrong(at, "a list of whole numbers such as [1,2]");
                None
            }
        }
    }

    fn list(&mut self, name: &'static str) -> Option<Axes> {
        let at = self.need(name, "[0,1]")?;
        self.ints(at, name)
    }

    fn fixed<const N: usize>(&mut self, at: usize, name: &'static str) -> Option<[usize; N]> {
        let list = self.ints(at, name)?;
        let fixed = <[usize; N]>::try_from(&list[..]).ok();
        if fixed.is_none() {
            self.wrong(at, &format!("a list of {N} numbers"));
        }
        fixed
    }

    fn triple(&mut self, name: &'static str) -> Option<[usize; 3]> {
        let at = self.need(name, "[1,2,2]")?;
        self.fixed(at, name)
    }

    fn optional<const N: usize>(
        &mut self,
        name: &'static str,
        default: [usize; N],
    ) -> Option<[usize; N]> {
        match self.find(name) {
            Some(at) => self.fixed(at, name),
            None => Some(default),
        }
    }

    fn float(&mut self, name: &'static str) -> Option<f64> {
        let at = self.need(name, "1e-6")?;
        self.number(at, &self.attrs[at].value)
    }

    fn number(&mut self, at: usize, value: &AttrValue) -> Option<f64> {
        match value {
            AttrValue::Float(value) => Some(*value),
            AttrValue::Expr(expr) => self.dims.eval(*expr, self.sink).map(|value| value as f64),
            _ => {
                self.wrong(at, "a number");
                None
            }
        }
    }

    fn floats(&mut self, at: usize) -> Option<Vec<f64>> {
        match &self.attrs[at].value {
            AttrValue::List(list) => list.iter().map(|item| self.number(at, item)).collect(),
            _ => {
                self.wrong(at, "a list of numbers such as [0,0.5]");
                None
            }
        }
    }

    fn flag(&mut self, name: &'static str) -> Option<bool> {
        let Some(at) = self.find(name) else { return Some(false) };
        match &self.attrs[at].value {
            AttrValue::Flag(value) => Some(*value),
            _ => {
                self.wrong(at, "true or false");
                None
            }
        }
    }

    /// The only form of GELU there is, spelt out so that the text says which.
    fn tanh(&mut self) -> Option<()> {
        let at = self.need("approx", "tanh")?;
        let word = match &self.attrs[at].value {
            AttrValue::Expr(expr) => self.dims.word(*expr),
            _ => None,
        };
        if word != Some("tanh") {
            self.wrong(at, "tanh, the only form there is");
            return None;
        }
        Some(())
    }

    /// Reports attributes the op does not have, and repeated ones.
    fn leftovers(&mut self) -> bool {
        let mut seen: Vec<&str> = Vec::new();
        for (at, attr) in self.attrs.iter().enumerate() {
            let name = self.name(at);
            let op = self.source.at(self.op);
            let error = if !self.known.contains(&name) {
                let help = match nearest(name, self.known.iter().copied()) {
                    Some(close) => format!("did you mean {close}?"),
                    None if self.known.is_empty() => format!("{op} takes no attributes"),
                    None => format!("attributes of {op}: {}", self.known.join(", ")),
                };
                Some((format!("{op} has no attribute {name}"), help))
            } else if seen.contains(&name) {
                Some((format!("attribute {name} is given twice"), "keep one".to_owned()))
            } else {
                seen.push(name);
                None
            };
            if let Some((message, help)) = error {
                self.sink.push(Diagnostic::error("E0105", message).at(attr.name).help(help));
                if self.sink.full() {
                    break;
                }
            }
        }
        seen.len() == self.attrs.len()
    }

    /// The op, or `None` after reporting E0103, E0105, E0106, E0111, E0114 or E0115.
    pub(super) fn build(mut self) -> Option<Op> {
        let name = self.source.at(self.op);
        if !names().any(|n| n == name) {
            let error = Diagnostic::error("E0103", format!("there is no op {name}")).at(self.op);
            let help = match nearest(name, names()) {
                _ if name == "weight" => {
                    "write a weight as `$path` where it is used; it needs no statement".to_owned()
                }
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
            "dot" => Op::Dot,
            "linear" => Op::Linear,
            "attention" => {
                let (heads, scale) = (self.int("heads"), self.float("scale"));
                Op::Attention { heads: heads?, scale: scale? }
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
            "gelu" => {
                self.tanh()?;
                Op::Gelu
            }
            "silu" => Op::Silu,
            "modulate" => Op::Modulate,
            "gate_add" => Op::GateAdd,
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
pub(super) fn float(value: f64) -> String {
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
        Op::Attention { heads, scale } => {
            vec![format!("heads={heads}"), format!("scale={}", float(*scale))]
        }
        Op::LayerNorm { eps } => vec![format!("eps={}", float(*eps))],
        Op::RmsNorm { eps, clamp } => {
            let mut out = vec![format!("eps={}", float(*eps))];
            out.extend(clamp.then(|| "clamp=true".to_owned()));
            out
        }
        Op::Rope { heads } => vec![format!("heads={heads}")],
        Op::RopeTable { rows, cols, head_dim, theta } => vec![
            format!("rows={rows}"),
            format!("cols={cols}"),
            format!("head_dim={head_dim}"),
            format!("theta={}", float(*theta)),
        ],
        Op::Gelu => vec!["approx=tanh".to_owned()],
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
        | Op::Dot
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
