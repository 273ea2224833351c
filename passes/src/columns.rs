//! Columns of a value, read and written where they lie.
//!
//! A copy of columns is left out where every kernel that reads it takes columns: they then read the
//! wider value. A concatenation of columns is left out where all that make and read its operands take
//! columns of the result. Results of one product become columns of one value where the target is
//! better at that. `Kernel::reads_columns` and `writes_columns` say which operands and results may be
//! columns; a value is looked at by columns of one number of rows, or by nothing else than
//! all of it. What would raise the peak is left as it was.

use crate::memory::flow::{Flow, LoweredStep, Source};
use crate::program::ValueIndex;
use crate::rewrite::Rewrites;
use crate::storage::Storage;
use anyid_ir::TensorType;
use anyid_ir::kernel::{Kernel, Part, Target};
use std::collections::{BTreeMap, BTreeSet};

/// Most changes that are tried one by one where all together raise the peak.
const MOST_TRIALS: usize = 64;
/// Most operands of a concatenation that are made in its result.
const MOST_PARTS: usize = 64;

/// What values become columns of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Host {
    /// A value that is there.
    Read(ValueIndex),
    /// The result of a concatenation, of which they are all parts.
    Joined(ValueIndex),
    /// A new value, of which they are all parts.
    New,
}

/// Values that become columns of another.
struct Change {
    /// The copy that is left out, or the product.
    step: usize,
    /// What they become columns of.
    host: Host,
    /// Its rows.
    rows: u64,
    /// The first byte of each, counted by columns.
    columns: Vec<(ValueIndex, u64)>,
}

/// Makes values columns of others; `peak` says what a flow needs at the most.
pub(crate) fn share_columns(
    flow: &mut Flow,
    target: &Target,
    peak: &dyn Fn(&Flow) -> u64,
    rewrites: &mut Rewrites,
) {
    if !target.columns {
        return;
    }
    let mut changes = Uses::new(flow).changes(target, rewrites);
    if changes.is_empty() {
        return;
    }
    let least = peak(flow);
    if peak(&applied(flow, &changes)) > least {
        let mut kept: Vec<Change> = Vec::new();
        for change in changes.into_iter().take(MOST_TRIALS) {
            kept.push(change);
            if peak(&applied(flow, &kept)) > least {
                kept.pop();
            }
        }
        changes = kept;
    }
    changes.retain(|change| {
        let rule = match change.host {
            Host::Read(_) => "columns read where they lie",
            Host::Joined(_) => "columns made where they lie",
            Host::New => "parts of a product side by side",
        };
        rewrites.allow(rule, flow.steps[change.step].label_of(0))
    });
    *flow = applied(flow, &changes);
}

/// The flow after `changes`.
fn applied(flow: &Flow, changes: &[Change]) -> Flow {
    let mut out = flow.clone();
    // Of every value that becomes columns: of what, from which byte on, and how it is made.
    let mut moved: BTreeMap<ValueIndex, (Storage, Source)> = BTreeMap::new();
    let mut dropped = BTreeSet::new();
    for Change { step, host, rows, columns } in changes {
        let parts = || columns.iter().map(|(value, _)| *value).collect::<Vec<ValueIndex>>();
        let (owner, source) = match *host {
            Host::Read(host) => (host, Source::View),
            Host::Joined(host) => {
                out.values[host as usize].source = Source::Parts(parts());
                (host, Source::Launch)
            }
            Host::New => {
                let types = || columns.iter().map(|(value, _)| flow.ty(*value));
                let elements: usize = types().map(TensorType::elements).sum();
                let shape = [*rows as usize, elements / *rows as usize];
                let ty = TensorType::new(flow.ty(columns[0].0).dtype, shape);
                (out.value(ty, None, Source::Parts(parts())), Source::Launch)
            }
        };
        if *host != Host::New {
            dropped.insert(*step);
        }
        for (value, offset) in columns {
            let storage = Storage { owner, offset: *offset, rows: *rows };
            moved.insert(*value, (storage, source.clone()));
        }
    }
    for value in &mut out.values {
        if let Some((storage, _)) = moved.get(&value.storage.owner) {
            value.storage = *storage;
        }
    }
    for (value, (_, source)) in moved {
        out.values[value as usize].source = source;
    }
    let mut at = 0..;
    out.steps.retain(|_| !dropped.contains(&at.next().expect("it has no end")));
    out
}

/// Who reads and looks into the memory of each value.
struct Uses<'f> {
    flow: &'f Flow,
    /// For every owner the launches that read it with the position of the operand and the value that
    /// is read.
    reads: Vec<Vec<(usize, usize, ValueIndex)>>,
    /// For every owner whether all that looks at it looks at the whole of it.
    whole: Vec<bool>,
    /// For every owner whether it leaves the flow.
    leaves: Vec<bool>,
    /// For every value the launch that makes it, and which of its results it is.
    makers: Vec<Option<(usize, usize)>>,
}

impl<'f> Uses<'f> {
    fn new(flow: &'f Flow) -> Self {
        let count = flow.values.len();
        let mut uses = Self {
            flow,
            reads: vec![Vec::new(); count],
            whole: vec![true; count],
            leaves: vec![false; count],
            makers: vec![None; count],
        };
        let mut look = |value: ValueIndex| {
            let Storage { owner, offset, rows } = flow.storage(value);
            let all = (offset, rows, flow.bytes(value)) == (0, 1, flow.bytes(owner));
            uses.whole[owner as usize] &= all;
            owner as usize
        };
        for (at, step) in flow.steps.iter().enumerate() {
            for (position, value) in step.operands.iter().enumerate() {
                let owner = look(*value);
                uses.reads[owner].push((at, position, *value));
            }
            for (position, value) in step.results.iter().enumerate() {
                look(*value);
                uses.makers[*value as usize] = Some((at, position));
            }
        }
        let before = flow.states.iter().filter_map(|state| state.before);
        for value in flow.leaving().chain(before) {
            let owner = look(value);
            uses.leaves[owner] = true;
        }
        uses
    }

    /// Every change that the kernels allow.
    fn changes(&self, target: &Target, rewrites: &mut Rewrites) -> Vec<Change> {
        let mut changes: Vec<Change> = Vec::new();
        let mut rows_of: BTreeMap<ValueIndex, u64> = BTreeMap::new();
        for at in 0..self.flow.steps.len() {
            let parts = || target.joint_parts.then(|| self.parts(at)).flatten();
            let found = self.sliced(at).or_else(|| self.joined(at)).or_else(parts);
            let Some(change) = found else { continue };
            let mut same = |host: Host| match host {
                Host::Read(host) | Host::Joined(host) => {
                    *rows_of.entry(host).or_insert(change.rows) == change.rows
                }
                Host::New => true,
            };
            let taken = |(value, _): &(ValueIndex, u64)| self.taken(*value, change.rows, at);
            let why = if !change.columns.iter().all(taken) {
                "a kernel that reads it takes no columns"
            } else if !same(change.host) {
                "its rows are others for something else"
            } else {
                changes.push(change);
                continue;
            };
            if rewrites.explains() {
                let with = match change.host {
                    Host::Read(host) | Host::Joined(host) => self.flow.name(host),
                    Host::New => "the other parts".to_owned(),
                };
                rewrites.refuse(self.flow.steps[at].label_of(0), with, why);
            }
        }
        changes
    }

    /// Whether every launch that reads the memory of `value`, apart from `but`, takes columns of a value
    /// of this many rows there.
    fn taken(&self, value: ValueIndex, rows: u64, but: usize) -> bool {
        let ty = self.flow.ty(value);
        let width = ty.elements() / rows as usize;
        let takes = |(step, position, value): &(usize, usize, ValueIndex)| {
            let kernel = &self.flow.steps[*step].kernel;
            *step == but || kernel.reads_columns(*position, self.flow.ty(*value), width)
        };
        !self.leaves[value as usize]
            && self.whole[value as usize]
            && self.reads[value as usize].iter().all(takes)
    }

    /// A copy of columns of a value that is otherwise looked at as a whole, as a change.
    fn sliced(&self, at: usize) -> Option<Change> {
        let step = &self.flow.steps[at];
        let Kernel::Copy(kernel) = &step.kernel else { return None };
        let ([Part::Strided { offset, axes, .. }], [from]) =
            (&kernel.parts[..], &step.operands[..])
        else {
            return None;
        };
        let [(rows, stride), (width, 1)] = axes[..] else { return None };
        let host = self.flow.storage(*from).owner;
        let given = matches!(
            self.flow.values[host as usize].source,
            Source::Launch | Source::Input(_) | Source::Persistent(_)
        );
        let inside = offset + width <= stride && rows * stride == self.flow.ty(host).elements();
        let own = self.flow.storage(step.results[0]).owner == step.results[0];
        if !given || !inside || !own || !self.whole[host as usize] {
            return None;
        }
        let offset = (offset * rows * self.flow.ty(host).dtype.bytes()) as u64;
        let columns = vec![(step.results[0], offset)];
        Some(Change { step: at, host: Host::Read(host), rows: rows as u64, columns })
    }

    /// A concatenation of columns of launches, as a change.
    fn joined(&self, at: usize) -> Option<Change> {
        let step = &self.flow.steps[at];
        let Kernel::Copy(kernel) = &step.kernel else { return None };
        let (rows, host) = (kernel.lines, step.results[0]);
        let whole = |(at, part): (usize, &Part)| {
            let ty = step.operands.get(at).map(|value| self.flow.ty(*value));
            let width = ty.map_or(0, |ty| ty.elements() / rows);
            let axes = [(rows, width), (width, 1)].into_iter().collect();
            *part == Part::Strided { operand: at, offset: 0, axes }
        };
        let own = self.flow.storage(host).owner == host && self.whole[host as usize];
        let several = rows > 1 && kernel.parts.len() > 1 && kernel.parts.len() <= MOST_PARTS;
        if !own || !several || !kernel.parts.iter().enumerate().all(whole) {
            return None;
        }
        let columns = self.written(&step.operands, rows)?;
        // Row kernels alone write columns of rows of which they read others.
        let mixes = |(value, _): &(ValueIndex, u64)| {
            let (maker, _) = self.makers[*value as usize]?;
            let LoweredStep { kernel, operands, .. } = &self.flow.steps[maker];
            let mut read = operands.iter().map(|value| self.flow.storage(*value).owner);
            let among = read.any(|owner| step.operands.contains(&owner));
            (among && !matches!(kernel, Kernel::Row(_))).then_some(())
        };
        if columns.iter().any(|column| mixes(column).is_some()) {
            return None;
        }
        Some(Change { step: at, host: Host::Joined(host), rows: rows as u64, columns })
    }

    /// The results of a product of several parts as columns of one value.
    fn parts(&self, at: usize) -> Option<Change> {
        let step = &self.flow.steps[at];
        let Kernel::Anchor(_) = &step.kernel else { return None };
        let ty = self.flow.ty(*step.results.first()?);
        let rows = ty.elements() / ty.last().max(1);
        let columns = self.written(&step.results, rows)?;
        let several = rows > 1 && columns.len() > 1;
        several.then_some(Change { step: at, host: Host::New, rows: rows as u64, columns })
    }

    /// Values as columns one behind the other, if launches can write all of them so.
    fn written(&self, values: &[ValueIndex], rows: usize) -> Option<Vec<(ValueIndex, u64)>> {
        let mut columns: Vec<(ValueIndex, u64)> = Vec::new();
        let mut end = 0;
        for value in values {
            let ty = self.flow.ty(*value);
            let width = ty.elements() / rows.max(1);
            let alike = ty.dtype == self.flow.ty(values[0]).dtype && width * rows == ty.elements();
            let aligned = self.flow.alignment.holds((width * ty.dtype.bytes()) as u64);
            let (step, position) = self.makers[*value as usize]?;
            let written = self.flow.steps[step].kernel.writes_columns(position, ty, width);
            let own = self.flow.storage(*value).owner == *value
                && self.flow.values[*value as usize].source == Source::Launch;
            let twice = columns.iter().any(|(other, _)| other == value);
            if !alike || !aligned || !written || !own || twice {
                return None;
            }
            columns.push((*value, end));
            end += ty.bytes();
        }
        Some(columns)
    }
}
