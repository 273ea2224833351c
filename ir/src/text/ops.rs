//! Attributes of every op in text, in both directions: [`Op::attributes`] says which there are. `build`
//! fills them in from the text, [`attributes`] writes them.

mod reader;

pub(super) use reader::Reader;

use crate::op::{Attribute, Axes, BinaryFn, CompareFn, Op, ReduceFn, UnaryFn};
use std::sync::LazyLock;

/// Every op, with attributes that reading fills in; of the two with one name the first.
static BLANK: LazyLock<Vec<Op>> = LazyLock::new(|| {
    let mut ops = Op::blank();
    ops.retain(|op| !matches!(op, Op::Weight { .. } | Op::Reduce { .. } | Op::GeluErf));
    ops.extend(UnaryFn::ALL.map(Op::Unary));
    ops.extend(BinaryFn::ALL.map(Op::Binary));
    ops.extend(CompareFn::ALL.map(Op::Compare));
    ops.extend(ReduceFn::ALL.map(|f| Op::Reduce { f, axes: Axes::new(), keep: false }));
    ops
});

/// Names of all ops that may start a statement.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    BLANK.iter().map(Op::name)
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
    let text = |(name, attribute): (&str, Attribute<'_>)| {
        let value = match attribute {
            Attribute::Count(1) => return None,
            Attribute::Int(value) | Attribute::Count(value) => value.to_string(),
            Attribute::Float(value) => float(*value),
            Attribute::Flag(value) => return value.then(|| format!("{name}=true")),
            Attribute::List(values) => whole(values),
            Attribute::Sizes(values, default) => {
                let given = values.iter().any(|value| Some(*value) != default);
                given.then(|| whole(values))?
            }
            Attribute::Sides([false, false]) => return None,
            Attribute::Sides(sides) => whole(&sides.map(usize::from)),
            Attribute::Values(values) => match values[..] {
                [value] => return Some(format!("value={}", float(value))),
                _ => list(values.iter().map(|value| float(*value)).collect()),
            },
        };
        Some(format!("{name}={value}"))
    };
    match op {
        Op::Gelu => vec!["approx=tanh".to_owned()],
        Op::GeluErf => vec!["approx=erf".to_owned()],
        op => op.clone().attributes().into_iter().filter_map(text).collect(),
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
