//! What the operations of a code read: when for the last time, and what from registers alone.

use super::generate::COLUMNS;
use super::program::{One, Op, Source};
use anyid_ir::DType;
use anyid_ir::kernel::RowReduce;
use smallvec::SmallVec;

/// Operations and what is known of all of them together.
pub(super) struct Reads<'o> {
    pub ops: &'o [Op],
    /// The last reader of each value.
    pub last: Vec<usize>,
    /// Numbers that must be in registers.
    pub held: Vec<Source>,
    /// Others that had better be, those with most readers first.
    pub wanted: Vec<Source>,
    /// Whether bf16 is written, and read.
    pub narrows: bool,
    pub widens: bool,
    /// The elements after which rows repeat, if they are more than a turn.
    pub period: Option<usize>,
}

fn is_number(source: Source) -> bool {
    matches!(source, Source::Const(_) | Source::Scalar(_))
}

impl<'o> Reads<'o> {
    /// `None` where rows repeat in several ways, for which there is no register.
    pub fn new(ops: &'o [Op]) -> Option<Self> {
        let mut last: Vec<usize> = (0..ops.len()).collect();
        let (mut held, mut wanted) = (Vec::new(), Vec::<(Source, usize)>::new());
        let (mut narrows, mut widens, mut period) = (false, false, None);
        for (at, op) in ops.iter().enumerate() {
            for source in op.sources() {
                if let Source::Value(value) = source {
                    last[usize::from(value)] = at;
                }
            }
            if let Some(mask) = op.mask() {
                last[usize::from(mask)] = at;
            }
            for source in in_registers(op) {
                if is_number(source) && !held.contains(&source) {
                    held.push(source);
                }
            }
            for source in op.sources().filter(|source| is_number(*source)) {
                match wanted.iter_mut().find(|(own, _)| *own == source) {
                    Some((_, readers)) => *readers += 1,
                    None => wanted.push((source, 1)),
                }
            }
            match *op {
                Op::Store { dtype: DType::Bf16, .. } => narrows = true,
                Op::Load { dtype: DType::Bf16, period: None, .. } => widens = true,
                Op::Load { period: Some(own), .. }
                    if own > COLUMNS && period.replace(own).is_some_and(|other| other != own) =>
                {
                    return None;
                }
                _ => {}
            }
        }
        wanted.retain(|(source, _)| !held.contains(source));
        wanted.sort_by_key(|(_, readers)| std::cmp::Reverse(*readers));
        let wanted = wanted.into_iter().map(|(source, _)| source).collect();
        Some(Self { ops, last, held, wanted, narrows, widens, period })
    }

    /// Whether `source` is read for the last time by operation `at`.
    pub fn dies(&self, source: Source, at: usize) -> bool {
        matches!(source, Source::Value(value) if self.last[usize::from(value)] == at)
    }
}

/// The operands that cannot lie in memory.
fn in_registers(op: &Op) -> SmallVec<[Source; 3]> {
    let mut out = SmallVec::new();
    match *op {
        Op::Load { .. } | Op::Number(_) | Op::One(One::Sqrt | One::Round, _) => {}
        // Their instructions do not repeat a number.
        Op::One(One::Half | One::Even | One::Odd | One::Swap, a) => out.push(a),
        Op::Two(_, a, _) | Op::Test(_, a, _) => out.push(a),
        Op::Fma(a, b, c) | Op::Turn(a, b, c) => {
            let in_memory = |source: &Source| !matches!(source, Source::Value(_));
            let first = [a, b, c].iter().position(in_memory);
            out.extend(
                [a, b, c]
                    .into_iter()
                    .enumerate()
                    .filter_map(|(at, source)| (Some(at) != first).then_some(source)),
            );
        }
        Op::Masked(_, _, base, a, _) => out.extend([base, a]),
        Op::Blend(_, Source::Const(0), _) => {}
        Op::Blend(_, no, _) => out.push(no),
        Op::Store { value, .. } | Op::Keep(_, value) => out.push(value),
        Op::Reduce(RowReduce::Sum | RowReduce::Mean, ..) => {}
        Op::Reduce(.., value) => out.push(value),
    }
    out
}
