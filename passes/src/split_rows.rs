//! Runs of row-wise launches in pieces of rows, where that lowers the peak.
//!
//! A run is two to four neighbouring launches that treat every row by itself: products, and row
//! kernels that read own rows. Done in k pieces, what lies between them exists for one piece of the
//! rows at a time; what comes in is looked at in pieces, and what goes out is written into its range
//! of the whole. The planner looks at the run around the peak, takes the smallest k after which the
//! peak falls no further, and does the same to all equal runs (the blocks of a transformer). Rows
//! are computed the same way whichever rows are computed with them, so no bit changes.

use crate::memory::flow::{Flow, LoweredStep, Source};
use crate::memory::{order, share_all};
use crate::program::ValueIndex;
use crate::rewrite::Rewrites;
use crate::storage::Storage;
use anyid_ir::TensorType;
use anyid_ir::kernel::{Anchor, Kernel, RowMap, RowSplit};
use std::collections::BTreeMap;

/// Most different runs that are split, and most launches looked at in all trials: a run is tried by
/// planning everything with it, so long programs get fewer trials.
const MOST_ROUNDS: usize = 4;
const MOST_LOOKS: usize = 1 << 19;

/// Splits runs of launches as `policy` says. Returns whether any was split.
pub(crate) fn split_rows(
    flow: &mut Flow,
    policy: &RowSplit,
    persistent: Option<&[u64]>,
    rewrites: &mut Rewrites,
) -> bool {
    let mut split = false;
    let mut trials = MOST_LOOKS / flow.length().max(1);
    for _ in 0..MOST_ROUNDS {
        let shared = share_all(flow, persistent);
        let (profile, peak) = (shared.classes.profile(), shared.bound());
        let at = profile.iter().position(|bytes| *bytes == peak);
        let Some(at) = at.and_then(|at| order::position(flow, &shared, at)) else { break };
        let needed = policy.least_bytes.max(peak / policy.least_share);
        if peak <= needed {
            break;
        }
        let bound = |flow: &Flow| share_all(flow, persistent).bound();
        let mut found: Option<(u64, Flow, Stretch)> = None;
        let runs = Runs { flow, policy, readers: flow.readers() };
        for run in runs.around(at) {
            if trials == 0 {
                break;
            }
            trials -= 1;
            let other = runs.applied(&run, 2);
            let bound = bound(&other);
            if bound < found.as_ref().map_or(peak, |(best, ..)| *best) {
                found = Some((bound, other, run));
            }
        }
        let Some((mut best, mut chosen, run)) = found else { break };
        let mut pieces = 4;
        while run.rows / pieces >= policy.least_rows && trials > 0 {
            trials -= 1;
            let other = runs.applied(&run, pieces);
            let next = bound(&other);
            // Fewer pieces with nearly the same peak are better.
            if next + best / policy.least_share > best {
                break;
            }
            (best, chosen) = (next, other);
            pieces *= 2;
        }
        let label = flow.steps[run.from].label_of(0);
        if best + needed > peak || !rewrites.allow("rows in pieces", label) {
            break;
        }
        (*flow, split) = (chosen, true);
    }
    split
}

/// Neighbouring launches that can run on pieces of their rows.
#[derive(Clone, Debug)]
struct Stretch {
    from: usize,
    len: usize,
    rows: usize,
    /// Pieces begin at multiples of this many rows, so that they are aligned.
    step: usize,
}

/// What runs are looked for in.
struct Runs<'f> {
    flow: &'f Flow,
    policy: &'f RowSplit,
    readers: Vec<Vec<usize>>,
}

impl Runs<'_> {
    /// Runs that a peak at launch `at` is part of and that hold a value only they use.
    fn around(&self, at: usize) -> Vec<Stretch> {
        let longest = self.policy.longest;
        let mut runs = Vec::new();
        for from in (at + 1).saturating_sub(longest)..=at {
            let reaching = (2..=longest).filter(|len| from + len > at);
            runs.extend(reaching.filter_map(|len| self.run(from, len)));
        }
        // The fewest launches first: of equal gains the first is taken.
        runs.sort_by_key(|run| (run.len, run.from));
        runs
    }

    fn run(&self, from: usize, len: usize) -> Option<Stretch> {
        let Self { flow, policy, .. } = self;
        let steps = flow.steps.get(from..from + len)?;
        let rows = rows_of(flow, &steps[0])?;
        let alike = steps.iter().all(|step| rows_of(flow, step) == Some(rows));
        if rows < 2 * policy.least_rows || !alike {
            return None;
        }
        for step in steps {
            let by_rows = by_rows(flow, step, rows)?;
            for (value, own) in step.operands.iter().zip(&by_rows) {
                let storage = flow.storage(*value);
                let made = steps.iter().any(|step| step.results.contains(&storage.owner));
                let source = &flow.values[storage.owner as usize].source;
                let weight = matches!(source, Source::Weight(_));
                let even = (flow.ty(*value).elements()).is_multiple_of(rows);
                if *own && (weight || !even) {
                    return None;
                }
                // What the run makes is read in the same rows, from its start.
                let all = storage.offset == 0 && flow.bytes(*value) == flow.bytes(storage.owner);
                if made && !(*own && all) {
                    return None;
                }
            }
            let own = |value: &ValueIndex| {
                flow.storage(*value).owner == *value
                    && flow.values[*value as usize].source == Source::Launch
                    && flow.ty(*value).elements().is_multiple_of(rows)
            };
            if !step.results.iter().all(own) {
                return None;
            }
        }
        let step = policy.step.next_multiple_of(flow.alignment.bytes() as usize);
        let run = Stretch { from, len, rows, step };
        let mut made = steps.iter().flat_map(|step| &step.results);
        made.any(|value| self.inside(&run, *value)).then_some(run)
    }

    /// Whether a value is read in a run alone.
    fn inside(&self, run: &Stretch, value: ValueIndex) -> bool {
        let launches = run.from..run.from + run.len;
        self.readers[value as usize].iter().all(|at| launches.contains(at))
    }

    /// Whether the launches at `at` do the same as a run, to values of the same types.
    fn equal(&self, like: &Stretch, at: usize) -> bool {
        let flow = self.flow;
        let same = |(x, y): (&ValueIndex, &ValueIndex)| flow.ty(*x) == flow.ty(*y);
        let all =
            |a: &[ValueIndex], b: &[ValueIndex]| a.len() == b.len() && a.iter().zip(b).all(same);
        at + like.len <= flow.steps.len()
            && (0..like.len).all(|i| {
                let (x, y) = (&flow.steps[like.from + i], &flow.steps[at + i]);
                all(&x.operands, &y.operands) && all(&x.results, &y.results) && x.kernel == y.kernel
            })
    }

    /// The flow with `like` and every equal run done in `pieces`.
    fn applied(&self, like: &Stretch, pieces: usize) -> Flow {
        let mut out = Flow { steps: Vec::new(), ..self.flow.clone() };
        let mut at = 0;
        while let Some(step) = self.flow.steps.get(at) {
            let found = if self.equal(like, at) { self.run(at, like.len) } else { None };
            at += found.as_ref().map_or(1, |found| found.len);
            match found {
                Some(found) => self.in_pieces(&found, pieces, &mut out),
                None => out.steps.push(step.clone()),
            }
        }
        out
    }

    /// Appends the launches of a run, a piece of the rows at a time.
    fn in_pieces(&self, run: &Stretch, pieces: usize, out: &mut Flow) {
        let flow = self.flow;
        let steps = &flow.steps[run.from..run.from + run.len];
        let each = run.rows.div_ceil(pieces).next_multiple_of(run.step);
        let mut outer: BTreeMap<ValueIndex, Vec<ValueIndex>> = BTreeMap::new();
        for (piece, start) in (0..run.rows).step_by(each).enumerate() {
            let rows = each.min(run.rows - start);
            // What stands for each value made in the run, in these rows.
            let mut made: BTreeMap<ValueIndex, ValueIndex> = BTreeMap::new();
            for step in steps {
                let by_rows = by_rows(flow, step, run.rows).expect("it was looked at before");
                let mut operands = step.operands.clone();
                for (value, own) in operands.iter_mut().zip(by_rows) {
                    if own {
                        let ty = rows_type(flow.ty(*value), run.rows, rows);
                        *value = match made.get(&flow.storage(*value).owner) {
                            Some(own) => out.view(*own, 0, ty),
                            None => {
                                let offset = flow.bytes(*value) / run.rows as u64 * start as u64;
                                out.view(*value, offset, ty)
                            }
                        };
                    }
                }
                let mut results = step.results.clone();
                for value in &mut results {
                    let whole = *value;
                    let ty = rows_type(flow.ty(whole), run.rows, rows);
                    *value = if self.inside(run, whole) {
                        out.value(ty, None, Source::Launch)
                    } else {
                        let offset = flow.bytes(whole) / run.rows as u64 * start as u64;
                        let storage = Storage::at(whole, offset);
                        let part = out.value(ty, Some(storage), Source::Launch);
                        outer.entry(whole).or_default().push(part);
                        part
                    };
                    made.insert(whole, *value);
                }
                let types = |values: &[ValueIndex]| -> Vec<TensorType> {
                    values.iter().map(|value| out.ty(*value).clone()).collect()
                };
                let mut kernel = step.kernel.clone();
                if let Kernel::Row(kernel) = &mut kernel {
                    kernel.rows = rows;
                    (kernel.operands, kernel.results) = (types(&operands), types(&results));
                }
                let labels = step.labels.iter().map(|label| format!("{label}[{piece}]")).collect();
                out.steps.push(LoweredStep { kernel, operands, results, labels });
            }
        }
        for (whole, parts) in outer {
            out.values[whole as usize].source = Source::Parts(parts);
        }
    }
}

/// Rows of a launch that treats each by itself.
fn rows_of(flow: &Flow, step: &LoweredStep) -> Option<usize> {
    match &step.kernel {
        Kernel::Row(kernel) => Some(kernel.rows),
        Kernel::Anchor(kernel) if kernel.anchor == Anchor::Linear => {
            let x = flow.ty(step.operands[0]);
            Some(x.elements() / x.last().max(1))
        }
        _ => None,
    }
}

/// Of each operand of a launch, whether its rows go with those of the launch; otherwise all of it is
/// read by any. `None` where the launch's rows are not independent of their place.
fn by_rows(flow: &Flow, step: &LoweredStep, rows: usize) -> Option<Vec<bool>> {
    let mut list: Vec<Option<bool>> = vec![None; step.operands.len()];
    let mut set = |at: usize, own: bool| (*list[at].get_or_insert(own) == own).then_some(());
    match &step.kernel {
        Kernel::Anchor(kernel) => {
            // The first operand, the residual, and behind the gate table its segments.
            let behind = kernel.own_operands();
            let own = [0, behind, behind + 2];
            (0..kernel.operands()).try_for_each(|at| set(at, own.contains(&at)))?;
        }
        Kernel::Row(kernel) => {
            for instruction in &kernel.code {
                let anyid_ir::kernel::Instruction::Load(access) = instruction else { continue };
                let elements = flow.ty(step.operands[access.operand]).elements();
                match access.rows {
                    RowMap::OWN if access.offset == 0 && access.stride * rows == elements => {
                        set(access.operand, true)?;
                    }
                    RowMap::Fixed => set(access.operand, false)?,
                    RowMap::Segment(segments) => {
                        set(access.operand, false)?;
                        set(segments, true)?;
                    }
                    RowMap::Affine { .. } => return None,
                }
            }
        }
        Kernel::Copy(_) | Kernel::Gather | Kernel::Fill(_) => return None,
    }
    list.into_iter().collect()
}

/// The type of `rows` of the `all` rows of a value: one axis of rows, one of what a row holds, and
/// none of that where it holds one element and has no axis for it.
fn rows_type(ty: &TensorType, all: usize, rows: usize) -> TensorType {
    let width = ty.elements() / all;
    let flat = width == 1 && ty.rank() == 1;
    if flat { TensorType::new(ty.dtype, [rows]) } else { TensorType::new(ty.dtype, [rows, width]) }
}
