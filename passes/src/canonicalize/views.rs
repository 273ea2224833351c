//! Rules of ops that move elements: chains become one op, and what moves nothing disappears.

use super::{Equal, Found, Look, Rule, one};
use crate::program::ProgramStep;
use anyid_ir::{Axes, Op};
use smallvec::SmallVec;

/// The rules in the order in which they are tried.
pub(super) const RULES: &[Rule] = &[
    same,
    weight_view,
    chain,
    permute_is_reshape,
    index_is_reshape,
    cast_chain,
    of_concat,
    concat_chain,
    concat_of_slices,
    implied_broadcast,
];

fn same(look: &Look<'_>, step: &ProgramStep) -> Found {
    let unmoved = match &step.op {
        Op::Reshape | Op::Cast | Op::Broadcast | Op::Slice { .. } | Op::Pad { .. } => true,
        Op::Upsample { .. } => true,
        Op::Permute { perm } => perm.iter().copied().eq(0..perm.len()),
        Op::Concat { .. } => step.operands.len() == 1,
        _ => false,
    };
    let x = *step.operands.first()?;
    let same = unmoved && look.ty(x) == look.ty(step.result());
    same.then_some(("view of the same type", Equal::Value(x)))
}

fn weight_view(look: &Look<'_>, step: &ProgramStep) -> Found {
    let x = *step.operands.first()?;
    let view = step.op == Op::Reshape && look.program.is_weight(x);
    view.then_some(("reshape of a weight", Equal::View(x)))
}

/// Two moves of one kind are one.
fn chain(look: &Look<'_>, step: &ProgramStep) -> Found {
    let inner = look.maker(step, 0)?;
    let (rule, op) = match (&step.op, &inner.op) {
        (Op::Reshape, Op::Reshape) => ("reshape of a reshape", Op::Reshape),
        (Op::Permute { perm }, Op::Permute { perm: first }) => {
            let perm: Axes = perm.iter().map(|axis| first[*axis]).collect();
            ("permute of a permute", Op::Permute { perm })
        }
        (Op::Slice { axis, start, len }, Op::Slice { axis: own, start: first, .. })
            if axis == own =>
        {
            ("slice of a slice", Op::Slice { axis: *axis, start: first + start, len: *len })
        }
        (Op::Index { axis, at }, Op::Slice { axis: own, start, .. }) if axis == own => {
            ("slice of a slice", Op::Index { axis: *axis, at: start + at })
        }
        (Op::Broadcast, Op::Broadcast) => ("broadcast of a broadcast", Op::Broadcast),
        (Op::Pad { axis, lo, hi }, Op::Pad { axis: own, lo: first, hi: last }) if axis == own => {
            ("pad of a pad", Op::Pad { axis: *axis, lo: lo + first, hi: hi + last })
        }
        _ => return None,
    };
    one(rule, op, inner.operands[0])
}

fn permute_is_reshape(look: &Look<'_>, step: &ProgramStep) -> Found {
    let Op::Permute { perm } = &step.op else { return None };
    let shape = &look.ty(step.operands[0]).shape;
    let moved = perm.iter().filter(|axis| shape[**axis] != 1);
    moved.is_sorted().then(|| one("permute of axes of size 1", Op::Reshape, step.operands[0]))?
}

fn index_is_reshape(look: &Look<'_>, step: &ProgramStep) -> Found {
    let Op::Index { axis, .. } = step.op else { return None };
    let x = step.operands[0];
    (look.ty(x).shape[axis] == 1).then(|| one("index of an axis of size 1", Op::Reshape, x))?
}

fn cast_chain(look: &Look<'_>, step: &ProgramStep) -> Found {
    let inner = look.maker(step, 0)?;
    if step.op != Op::Cast || inner.op != Op::Cast {
        return None;
    }
    let (rule, x) = ("cast of a cast that loses nothing", inner.operands[0]);
    let from = look.ty(x).dtype;
    if !from.widens_to(look.ty(inner.result()).dtype) {
        return None;
    }
    match from == look.ty(step.result()).dtype {
        true => Some((rule, Equal::Value(x))),
        false => one(rule, Op::Cast, x),
    }
}

/// A part of a concat is a part of one of its operands, where that holds all of it.
fn of_concat(look: &Look<'_>, step: &ProgramStep) -> Found {
    let inner = look.maker(step, 0)?;
    let (axis, start, len) = match step.op {
        Op::Slice { axis, start, len } => (axis, start, len),
        Op::Index { axis, at } => (axis, at, 1),
        _ => return None,
    };
    if inner.op != (Op::Concat { axis }) {
        return None;
    }
    let mut first = 0;
    for operand in &inner.operands {
        let size = look.ty(*operand).shape[axis];
        if start >= first && start + len <= first + size {
            let start = start - first;
            return match step.op {
                Op::Index { .. } => {
                    one("index of a concat", Op::Index { axis, at: start }, *operand)
                }
                _ => one("slice of a concat", Op::Slice { axis, start, len }, *operand),
            };
        }
        first += size;
    }
    None
}

/// Only where nothing else reads the inner one, which would be made all the same.
fn concat_chain(look: &Look<'_>, step: &ProgramStep) -> Found {
    let Op::Concat { .. } = step.op else { return None };
    let joined = |value: u32| {
        let maker = look.program.maker(value)?;
        (maker.op == step.op && look.read_once(value)).then_some(maker)
    };
    if !step.operands.iter().any(|value| joined(*value).is_some()) {
        return None;
    }
    let mut operands: SmallVec<[u32; 4]> = SmallVec::new();
    for value in &step.operands {
        match joined(*value) {
            Some(inner) => operands.extend(inner.operands.iter().copied()),
            None => operands.push(*value),
        }
    }
    Some(("concat of a concat", Equal::Step(step.op.clone(), operands)))
}

fn concat_of_slices(look: &Look<'_>, step: &ProgramStep) -> Found {
    let Op::Concat { axis } = step.op else { return None };
    if step.operands.len() < 2 {
        return None;
    }
    let mut whole: Option<(u32, usize, usize)> = None;
    for value in &step.operands {
        let maker = look.program.maker(*value)?;
        let Op::Slice { axis: cut, start, len } = maker.op else { return None };
        let base = maker.operands[0];
        whole = Some(match whole {
            _ if cut != axis => return None,
            None => (base, start, len),
            Some((other, first, sum)) if other == base && first + sum == start => {
                (base, first, sum + len)
            }
            Some(_) => return None,
        });
    }
    let (base, start, len) = whole?;
    one("concat of neighbouring slices", Op::Slice { axis, start, len }, base)
}

/// Elementwise ops repeat axes of size 1 themselves.
fn implied_broadcast(look: &Look<'_>, step: &ProgramStep) -> Found {
    if !matches!(step.op, Op::Binary(_) | Op::Compare(_) | Op::Select) {
        return None;
    }
    for at in 0..step.operands.len() {
        let Some(inner) = look.maker(step, at).filter(|maker| maker.op == Op::Broadcast) else {
            continue;
        };
        let mut operands = step.operands.clone();
        operands[at] = inner.operands[0];
        let shapes = operands.iter().map(|v| look.ty(*v).shape.clone());
        let shape = shapes.reduce(|a, b| anyid_ir::infer::broadcast(&a, &b).unwrap_or_default());
        if shape.as_ref() == Some(&look.ty(step.result()).shape) {
            let rule = "broadcast that its reader does";
            return Some((rule, Equal::Step(step.op.clone(), operands)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::after;
    use anyid_ir::{BinaryFn, DType, FuncBuilder, Op, TensorType, ValueId};

    fn x(f: &mut FuncBuilder<'_>) -> ValueId {
        f.param("x", TensorType::new(DType::F32, [6, 4]))
    }

    fn half(f: &mut FuncBuilder<'_>) -> ValueId {
        f.param("h", TensorType::new(DType::Bf16, [6, 4]))
    }

    #[test]
    fn what_moves_nothing_disappears() {
        let same = TensorType::new(DType::F32, [6, 4]);
        assert!(
            after(|f| {
                let mut v = x(f);
                for op in [
                    Op::Reshape,
                    Op::Cast,
                    Op::Broadcast,
                    Op::Slice { axis: 0, start: 0, len: 6 },
                    Op::Pad { axis: 1, lo: 0, hi: 0 },
                    Op::Permute { perm: [0, 1].into_iter().collect() },
                    Op::Concat { axis: 1 },
                    Op::Upsample { factors: [1, 1].into_iter().collect() },
                ] {
                    v = f.op("v", op, &[v], Some(same.clone()));
                }
                v
            })
            .is_empty()
        );
        let kept = after(|f| {
            let v = x(f);
            f.slice("v", v, 0, 1, 5)
        });
        assert_eq!(kept, ["slice"]);
    }

    #[test]
    fn chains_become_one() {
        let reshapes = after(|f| {
            let v = x(f);
            let v = f.reshape("a", v, [24]);
            let v = f.reshape("b", v, [2, 12]);
            f.reshape("c", v, [3, 8])
        });
        assert_eq!(reshapes, ["reshape"]);
        let back = after(|f| {
            let v = x(f);
            let v = f.reshape("a", v, [24]);
            f.reshape("b", v, [6, 4])
        });
        assert!(back.is_empty());
        let permutes = after(|f| {
            let v = f.param("x", TensorType::new(DType::F32, [2, 3, 4]));
            let v = f.permute("a", v, &[1, 2, 0]);
            let v = f.permute("b", v, &[1, 2, 0]);
            f.permute("c", v, &[1, 2, 0])
        });
        assert!(permutes.is_empty(), "three turns are none: {permutes:?}");
        let slices = after(|f| {
            let v = x(f);
            let v = f.slice("a", v, 0, 1, 5);
            let v = f.slice("b", v, 0, 1, 3);
            f.index("c", v, 0, 2)
        });
        assert_eq!(slices, ["index"]);
        let pads = after(|f| {
            let v = x(f);
            let v = f.pad("a", v, 1, 1, 0);
            f.pad("b", v, 1, 2, 3)
        });
        assert_eq!(pads, ["pad"]);
        let kept = after(|f| {
            let v = x(f);
            let v = f.slice("a", v, 0, 1, 5);
            f.slice("b", v, 1, 1, 3)
        });
        assert_eq!(kept, ["slice", "slice"], "different axes");
    }

    #[test]
    fn moving_axes_of_size_one_is_a_reshape() {
        let built = |perm: &[usize]| {
            after(|f| {
                let v = f.param("x", TensorType::new(DType::F32, [1, 3, 1, 4]));
                f.permute("y", v, perm)
            })
        };
        assert_eq!(built(&[1, 0, 3, 2]), ["reshape"]);
        assert_eq!(built(&[0, 3, 2, 1]), ["permute"]);
        let index = after(|f| {
            let v = f.param("x", TensorType::new(DType::F32, [3, 1, 4]));
            f.index("y", v, 1, 0)
        });
        assert_eq!(index, ["reshape"]);
    }

    #[test]
    fn casts_are_dropped_only_where_nothing_is_lost() {
        let widened = after(|f| {
            let v = half(f);
            let v = f.cast("a", v, DType::F32);
            let v = f.cast("b", v, DType::F64);
            f.cast("c", v, DType::Bf16)
        });
        assert!(widened.is_empty());
        let narrowed = after(|f| {
            let v = x(f);
            let v = f.cast("a", v, DType::Bf16);
            f.cast("b", v, DType::F32)
        });
        assert_eq!(narrowed, ["cast", "cast"], "bf16 rounds");
        let integer = after(|f| {
            let v = f.param("x", TensorType::new(DType::I32, [3]));
            let v = f.cast("a", v, DType::F32);
            f.cast("b", v, DType::I32)
        });
        assert_eq!(integer, ["cast", "cast"], "f32 has no 31 bits");
        let crossed = after(|f| {
            let v = half(f);
            let v = f.cast("a", v, DType::F16);
            f.cast("b", v, DType::F32)
        });
        assert_eq!(crossed, ["cast", "cast"]);
    }

    #[test]
    fn parts_of_a_concat_are_read_where_they_were() {
        let built = |start, len| {
            after(move |f| {
                let v = x(f);
                let a = f.op("a", Op::Silu, &[v], None);
                let b = f.op("b", Op::Gelu, &[v], None);
                let all = f.concat("all", &[a, b], 0);
                f.slice("y", all, 0, start, len)
            })
        };
        assert_eq!(built(6, 6), ["gelu"]);
        assert_eq!(built(1, 2), ["silu", "slice"]);
        assert_eq!(built(5, 2), ["silu", "gelu", "concat", "slice"], "across the seam");
        let index = after(|f| {
            let v = x(f);
            let a = f.op("a", Op::Silu, &[v], None);
            let [a, v] = [a, v].map(|v| f.reshape("slot", v, [1, 6, 4]));
            let all = f.concat("all", &[v, a], 0);
            f.index("y", all, 0, 1)
        });
        assert_eq!(index, ["silu"], "slots of a loop's stack");
    }

    #[test]
    fn concats_are_joined() {
        let nested = after(|f| {
            let v = x(f);
            let a = f.op("a", Op::Silu, &[v], None);
            let inner = f.concat("inner", &[v, a], 1);
            f.concat("outer", &[inner, v], 1)
        });
        assert_eq!(nested, ["silu", "concat"]);
        let twice = after(|f| {
            let v = x(f);
            let inner = f.concat("inner", &[v, v], 1);
            let outer = f.concat("outer", &[inner, v], 1);
            let last = f.slice("last", outer, 1, 1, 8);
            f.add("y", last, inner)
        });
        assert_eq!(twice, ["concat", "concat", "slice", "add"], "the inner one is needed anyway");
        let halves = after(|f| {
            let v = x(f);
            let a = f.slice("a", v, 1, 0, 3);
            let b = f.slice("b", v, 1, 3, 1);
            f.concat("y", &[a, b], 1)
        });
        assert!(halves.is_empty());
        let swapped = after(|f| {
            let v = x(f);
            let a = f.slice("a", v, 1, 0, 2);
            let b = f.slice("b", v, 1, 2, 2);
            f.concat("y", &[b, a], 1)
        });
        assert_eq!(swapped, ["slice", "slice", "concat"]);
    }

    #[test]
    fn a_broadcast_in_front_of_arithmetic_is_implied() {
        let built = |wide: bool| {
            after(move |f| {
                let v = x(f);
                let row = f.param("row", TensorType::new(DType::F32, [1, 4]));
                let all = f.broadcast("all", row, [6, 4]);
                f.binary("y", BinaryFn::Add, if wide { v } else { all }, all)
            })
        };
        assert_eq!(built(true), ["add"]);
        assert_eq!(built(false), ["broadcast", "add"], "something must give the shape");
    }

    #[test]
    fn reshapes_of_weights_are_weights() {
        let built = after(|f| {
            let w = f.weight("w");
            let w = f.slice("all", w, 0, 0, 6);
            let w = f.reshape("flat", w, [24]);
            f.op("y", Op::Silu, &[w], None)
        });
        assert_eq!(built, ["silu"]);
    }
}
