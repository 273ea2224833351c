//! Groups of steps, grown in rounds: epilogues and loads into anchors, rows into rows along a value
//! (most bytes saved first), rows beside rows that read the same ([`Groups::fuse`]), and linears on
//! one operand ([`Groups::pack_linears`]).
//!
//! A merge is legal when the result is one kernel: equal row space, own rows on every value
//! between the two, no path from one to the other through a third, and no more bindings than the
//! target has.

use super::classify::{Class, Classes, RowOperand, RowStep, widened};
use super::paths::Paths;
use super::view::is_movement;
use crate::program::{Origin, Program, ValueIndex};
use crate::rewrite::Rewrites;
use anyid_ir::kernel::{Activation, Combine, Load, RowFusion, Target};
use anyid_ir::{BinaryFn, DType, Op};
use std::collections::BTreeSet;

/// The rule by which rows are joined with those that make what they read.
const ALONG: &str = "rows along a value";

/// What a group becomes.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// One op as it is.
    Single,
    /// A row kernel of this many rows and columns.
    Row {
        /// Rows.
        rows: usize,
        /// Columns.
        width: usize,
    },
    /// An anchor with what its load and its epilogue took.
    Anchor(Ends),
}

/// What an anchor takes in front of it and behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends {
    /// How operand 0 is read.
    pub load: Load,
    /// What is read as operand 0 where that is not the op's own.
    pub first: Option<ValueIndex>,
    /// What the sums are rounded to before what follows.
    pub sums: Option<DType>,
    /// Applied after the bias.
    pub activation: Option<Activation>,
    /// What the activation's values are rounded to before what follows.
    pub activated: Option<DType>,
    /// How the value meets the result, with the operands that takes.
    pub combine: Combine,
    /// Values the combination reads.
    pub extra: Vec<ValueIndex>,
}

impl Ends {
    /// The op by itself.
    const BARE: Self = Self {
        load: Load::Own,
        first: None,
        sums: None,
        activation: None,
        activated: None,
        combine: Combine::Store,
        extra: Vec::new(),
    };

    /// With the value so far, of type `from`, read by something that follows: narrower types than
    /// the f32 of the sums are rounded to.
    fn rounded(&self, from: DType) -> Result<Self, &'static str> {
        let mut ends = self.clone();
        if from == DType::F32 {
            return Ok(ends);
        }
        let slot = match (self.combine, self.activation) {
            (Combine::Store, None) => &mut ends.sums,
            (Combine::Store, Some(_)) => &mut ends.activated,
            _ => return Err("what was rounded away would come back"),
        };
        match *slot.get_or_insert(from) == from {
            true => Ok(ends),
            false => Err("it is rounded to one type and then to another"),
        }
    }
}

/// Steps that run as one kernel, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What it becomes.
    pub kind: Kind,
    /// Steps, ascending.
    pub steps: Vec<usize>,
}

/// How the steps of a program are grouped.
#[derive(Clone, Debug)]
pub struct Grouping {
    /// Classes of the steps.
    pub classes: Classes,
    /// Groups; those merged into another are empty.
    pub groups: Vec<Group>,
    /// Group of each live step.
    pub of: Vec<Option<usize>>,
    /// Live steps that read each value (by owner for whole operands, by base for rows).
    pub users: Vec<Vec<usize>>,
    /// Whether a value's memory is an output.
    pub output: Vec<bool>,
}

/// The groups of a program, with the program and the target they are for.
pub struct Groups<'p> {
    pub(crate) program: &'p Program,
    pub(super) target: &'p Target,
    grouping: Grouping,
    paths: Paths,
}

impl std::ops::Deref for Groups<'_> {
    type Target = Grouping;
    fn deref(&self) -> &Grouping {
        &self.grouping
    }
}

impl std::ops::DerefMut for Groups<'_> {
    fn deref_mut(&mut self) -> &mut Grouping {
        &mut self.grouping
    }
}

/// Every live step of `program` a group of its own.
pub fn alone(program: &Program, classes: Classes) -> Grouping {
    let mut groups = Vec::new();
    let mut of = vec![None; program.steps.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); program.values.len()];
    let mut output = vec![false; program.values.len()];
    for port in &program.outputs {
        output[classes.owner[port.value as usize] as usize] = true;
    }
    for at in (0..program.steps.len()).filter(|at| classes.live[*at]) {
        let kind = match &classes.class[at] {
            Class::Row(row) => Kind::Row { rows: row.rows, width: row.width },
            Class::Anchor => Kind::Anchor(Ends::BARE),
            _ => Kind::Single,
        };
        of[at] = Some(groups.len());
        groups.push(Group { kind, steps: vec![at] });
        for value in &classes.reads[at] {
            let owner = classes.owner[*value as usize] as usize;
            // Steps come in order.
            if users[owner].last() != Some(&at) {
                users[owner].push(at);
            }
        }
    }
    Grouping { classes, groups, of, users, output }
}

impl<'p> Groups<'p> {
    /// `grouping` of `program`, to be looked at or grown.
    pub fn new(program: &'p Program, target: &'p Target, grouping: Grouping) -> Self {
        Self { program, target, grouping, paths: Paths::default() }
    }

    /// The grouping alone.
    pub fn into_grouping(self) -> Grouping {
        self.grouping
    }

    /// Grows loads and epilogues and joins rows; every merge is a rewrite.
    pub fn fuse(&mut self, rewrites: &mut Rewrites) {
        for at in 0..self.groups.len() {
            self.grow_load(at, rewrites);
            self.grow_epilogue(at, rewrites);
        }
        self.join_rows(rewrites);
        self.join_neighbours(rewrites);
    }

    fn label(&self, step: usize) -> &'p str {
        self.program.steps[step].label()
    }
}

impl Groups<'_> {
    /// The step that makes a value, if it is live.
    pub(super) fn maker(&self, value: ValueIndex) -> Option<usize> {
        match self.program.values[self.classes.owner[value as usize] as usize].origin {
            Origin::Step(at, _) if self.classes.live[at as usize] => Some(at as usize),
            _ => None,
        }
    }

    pub(super) fn row(&self, step: usize) -> Option<&RowStep> {
        match &self.classes.class[step] {
            Class::Row(row) => Some(row),
            _ => None,
        }
    }

    /// Groups that make what `group` reads.
    fn before(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        let steps = self.groups[group].steps.iter();
        steps
            .flat_map(|at| self.classes.reads[*at].iter())
            .filter_map(|value| self.of[self.maker(*value)?])
            .filter(move |other| *other != group)
    }

    /// Groups that read what `group` makes.
    fn after(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        let steps = self.groups[group].steps.iter();
        steps
            .flat_map(|at| &self.program.steps[*at].results)
            .flat_map(|value| &self.users[*value as usize])
            .filter_map(|user| self.of[*user])
            .filter(move |other| *other != group)
    }

    /// Whether something `to` needs, other than by reading `from` itself, needs `from`; also where
    /// that would take too long to find out.
    fn path_between(&self, from: usize, to: usize) -> bool {
        let groups = self.groups.len();
        self.paths.between(groups, from, to, |g| self.before(g), |g| self.after(g))
    }

    /// Whether `to` needs `from` in any way.
    fn depends(&self, from: usize, to: usize) -> bool {
        self.before(to).any(|g| g == from) || self.path_between(from, to)
    }

    fn absorb(&mut self, into: usize, other: usize) {
        let steps = std::mem::take(&mut self.groups[other].steps);
        for at in &steps {
            self.of[*at] = Some(into);
        }
        self.groups[into].steps.extend(steps);
        self.groups[into].steps.sort_unstable();
    }

    /// The value an anchor group ends with; what else the anchor gives is stored as it is.
    pub(super) fn tail(&self, group: usize) -> ValueIndex {
        let last = self.groups[group].steps.last().expect("a group has steps");
        self.program.steps[*last].result()
    }

    /// The step of an anchor group that is the anchor itself; those of its load stand in front.
    pub(crate) fn anchor(&self, group: usize) -> usize {
        let mut steps = self.groups[group].steps.iter();
        let anchor = steps.find(|at| matches!(self.classes.class[**at], Class::Anchor));
        *anchor.expect("an anchor group has an anchor")
    }

    fn grow_load(&mut self, group: usize, rewrites: &mut Rewrites) {
        if !matches!(self.groups[group].kind, Kind::Anchor(_)) || !rewrites.enabled() {
            return;
        }
        let anchor = self.anchor(group);
        let Some(made) = self.maker(self.program.steps[anchor].operands[0]) else { return };
        let Ok(taken) = self.load(made, anchor) else { return };
        let other = self.of[made].expect("makers are live");
        if !rewrites.allow_joining("read through a load", self.label(anchor), self.label(made)) {
            return;
        }
        let program = self.program;
        let (value, first) = (program.steps[made].result(), program.steps[made].operands[0]);
        if let Kind::Anchor(ends) = &mut self.groups[group].kind {
            (ends.load, ends.first) = (taken, Some(first));
        }
        // Others may read what the anchor no longer does; their reading changes none of its bits.
        let owner = self.classes.owner[first as usize];
        for read in &mut self.grouping.classes.reads[anchor] {
            if *read == value {
                *read = owner;
            }
        }
        self.users[value as usize].retain(|user| *user != anchor);
        let users = &mut self.users[owner as usize];
        if let Err(at) = users.binary_search(&anchor) {
            users.insert(at, anchor);
        }
        if self.users[value as usize].is_empty() && !self.output[value as usize] {
            self.absorb(group, other);
        }
    }

    /// The load of `anchor` that computes step `made`, or why there is none.
    pub(super) fn load(&self, made: usize, anchor: usize) -> Result<Load, &'static str> {
        let (from, to) = (&self.program.steps[made], &self.program.steps[anchor]);
        let factors = match (&from.op, &to.op) {
            (Op::Upsample { factors }, Op::Conv { .. }) => match factors[..] {
                [t, h, w, 1] => [t, h, w],
                _ => return Err("anchors read no repeated channels"),
            },
            (_, Op::Conv { .. }) => {
                return Err("convolutions take nothing but an upsample in front");
            }
            _ => return Err("its kernel takes nothing in front"),
        };
        if to.operands[0] != from.result() {
            return Err("the value between them is seen under another shape");
        }
        if to.operands[1..].contains(&from.result()) {
            return Err("the value between them is read in another way as well");
        }
        let kernel = self.program.values[to.operands[1] as usize].origin;
        if !matches!(kernel, Origin::Weight(_)) {
            return Err("its kernel is no weight");
        }
        let load = Load::Nearest(factors);
        let [x, w] = [from.operands[0], to.operands[1]].map(|value| self.program.ty(value));
        (self.target.conv_load.0)(load, &to.op, x, w)?;
        Ok(load)
    }

    fn grow_epilogue(&mut self, group: usize, rewrites: &mut Rewrites) {
        while matches!(self.groups[group].kind, Kind::Anchor(_)) {
            let tail = self.tail(group) as usize;
            let &[next] = self.users[tail].as_slice() else { return };
            let Ok(kind) = self.epilogue(group, next) else { return };
            let other = self.of[next].expect("users are live");
            let last = self.groups[group].steps.last().expect("a group has steps");
            let (label, with) = (self.label(next), self.label(*last));
            if self.groups[other].steps.len() != 1
                || !rewrites.allow_joining("in the epilogue", label, with)
            {
                return;
            }
            self.groups[group].kind = kind;
            self.absorb(group, other);
        }
    }

    /// The anchor of `group` with step `next` in its epilogue, or why not.
    pub(super) fn epilogue(&self, group: usize, next: usize) -> Result<Kind, &'static str> {
        let Kind::Anchor(ends) = &self.groups[group].kind else {
            return Err("it is no anchor");
        };
        let tail = self.tail(group);
        if self.output[tail as usize] || self.users[tail as usize].len() != 1 {
            return Err("the value between them is needed elsewhere");
        }
        let anchor = &self.program.steps[self.anchor(group)];
        let support = self.target.epilogue(&anchor.op, &self.program.types(&anchor.operands));
        let step = &self.program.steps[next];
        let row = self.row(next).ok_or("it is no step over rows")?;
        let dtype = self.program.ty(step.result()).dtype;
        let from = self.program.ty(tail).dtype;
        if [dtype, from].iter().any(|dtype| !support.results.contains(dtype)) {
            return Err("the epilogue has no result of that element type");
        }
        let shape = &self.program.ty(tail).shape;
        if self.program.ty(step.result()).shape != *shape {
            return Err("the result has another shape");
        }
        if ends.combine != Combine::Store && step.op != Op::Cast {
            return Err("the epilogue has ended");
        }
        let reads = |operand: usize| match &row.operands[operand] {
            RowOperand::Rows { base, view } => *base == tail && view.is_own(row.width) && !view.one,
            _ => false,
        };
        // Only whole values that lie in memory as they are can be added.
        let residual = |operand: usize| -> Result<ValueIndex, &'static str> {
            let value = widened(self.program, step.operands[operand]);
            let ty = self.program.ty(value);
            let own = match &row.operands[operand] {
                RowOperand::Rows { base, view } => {
                    *base != tail
                        && !view.one
                        && (view.rows, view.stride) == (Some((1, usize::MAX)), row.width)
                }
                _ => false,
            };
            if !own || ty.shape != *shape {
                return Err("the other operand is no row of its own");
            }
            if !support.residual.contains(&ty.dtype) {
                return Err("the epilogue adds no such element type");
            }
            let owner = self.classes.owner[value as usize];
            match self.program.values[owner as usize].origin {
                Origin::Step(at, _) if is_movement(&self.program.steps[at as usize].op) => {
                    Err("the other operand is moved first")
                }
                _ => Ok(value),
            }
        };
        let act = |f: Activation| {
            if !support.activations.contains(&f) {
                return Err("the epilogue has no such activation");
            }
            if ends.activation.is_some() {
                return Err("the epilogue takes one activation");
            }
            if !reads(0) {
                return Err("its rows are not those of the anchor");
            }
            Ok(Kind::Anchor(Ends { activation: Some(f), ..ends.rounded(from)? }))
        };
        match &step.op {
            Op::Gelu => act(Activation::Gelu),
            Op::Silu => act(Activation::Silu),
            Op::Cast if reads(0) && from == dtype => Ok(self.groups[group].kind.clone()),
            Op::Cast if reads(0) => Ok(Kind::Anchor(ends.rounded(from)?)),
            Op::Binary(BinaryFn::Add) => {
                let other = match (reads(0), reads(1)) {
                    (true, false) => 1,
                    (false, true) => 0,
                    _ => return Err("its rows are not those of the anchor"),
                };
                let extra = vec![residual(other)?];
                Ok(Kind::Anchor(Ends { combine: Combine::Add, extra, ..ends.rounded(from)? }))
            }
            Op::GateAdd if support.gate => {
                if !reads(1) {
                    return Err("its rows are not those of the anchor");
                }
                let x = residual(0)?;
                let RowOperand::Table { base, offset, stride } = row.operands[2] else {
                    return Err("its gate is no table");
                };
                if self.program.ty(base).dtype != DType::F32 || base == tail {
                    return Err("its gate is not f32");
                }
                let segments = row.segments.ok_or("it has no segments")?;
                let combine = Combine::GateAdd { offset, stride };
                let extra = vec![x, base, segments];
                Ok(Kind::Anchor(Ends { combine, extra, ..ends.rounded(from)? }))
            }
            _ => Err("the epilogue has no such operation"),
        }
    }

    /// Linears on one operand with one form become one kernel of several parts; every merge is a
    /// rewrite.
    pub fn pack_linears(&mut self, rewrites: &mut Rewrites) {
        let anchors: Vec<usize> = (0..self.groups.len())
            .filter(|g| matches!(self.groups[*g].kind, Kind::Anchor(_)))
            .collect();
        let mut at = 0;
        while at < anchors.len() {
            let first = anchors[at];
            at += 1;
            while let Some(next) = anchors.get(at) {
                let parts = self.groups[first].steps.len();
                if parts >= self.target.linear_parts || !self.same_linear(first, *next) {
                    break;
                }
                let [label, with] = [*next, first].map(|g| self.label(self.groups[g].steps[0]));
                if !rewrites.allow_joining("one product of several parts", label, with) {
                    return;
                }
                self.absorb(first, *next);
                at += 1;
            }
        }
    }

    fn same_linear(&self, a: usize, b: usize) -> bool {
        let plain = |g: usize| {
            self.groups[g].kind == Kind::Anchor(Ends::BARE)
                && self.groups[g].steps.iter().all(|s| self.program.steps[*s].op == Op::Linear)
        };
        if !plain(a) || !plain(b) {
            return false;
        }
        let [x, y] = [a, b].map(|g| &self.program.steps[self.groups[g].steps[0]]);
        let ty = |v: ValueIndex| self.program.ty(v);
        let bindings = (self.groups[a].steps.len() + 1) * x.operands.len() + 1;
        x.operands[0] == y.operands[0]
            && x.operands.len() == y.operands.len()
            && ty(x.operands[1]) == ty(y.operands[1])
            && ty(x.result()) == ty(y.result())
            && [x, y].iter().all(|s| {
                let weight = self.program.values[s.operands[1] as usize].origin;
                matches!(weight, Origin::Weight(_))
            })
            && bindings <= self.target.bindings
            && !self.depends(a, b)
            && !self.depends(b, a)
    }

    /// Rows into rows along a value, most bytes saved first, then the nearest.
    fn join_rows(&mut self, rewrites: &mut Rewrites) {
        let mut edges: Vec<(u64, usize, usize, usize)> = Vec::new();
        for (value, users) in self.users.iter().enumerate() {
            let Some(maker) = self.maker(value as ValueIndex) else { continue };
            if self.row(maker).is_none() {
                continue;
            }
            for user in users.iter().filter(|u| self.row(**u).is_some()) {
                let bytes = self.program.ty(value as ValueIndex).bytes();
                edges.push((bytes, user - maker, maker, *user));
            }
        }
        edges.sort_by_key(|(bytes, distance, maker, _)| {
            (std::cmp::Reverse(*bytes), *distance, *maker)
        });
        // Edges at every step, to look again at those of a group that has grown.
        let mut beside: Vec<Vec<usize>> = vec![Vec::new(); self.program.steps.len()];
        for (at, (_, _, maker, user)) in edges.iter().enumerate() {
            beside[*maker].push(at);
            beside[*user].push(at);
        }
        let mut open: BTreeSet<usize> = (0..edges.len()).collect();
        // Rounds: an edge in front of the one that changed its group waits for the next.
        while !open.is_empty() {
            let mut later = BTreeSet::new();
            while let Some(at) = open.pop_first() {
                let (_, _, maker, user) = edges[at];
                let (Some(a), Some(b)) = (self.of[maker], self.of[user]) else { continue };
                if a == b {
                    continue;
                }
                let Ok(space) = self.joined(a, b) else { continue };
                if self.path_between(a, b)
                    || !rewrites.allow_joining(ALONG, self.label(user), self.label(maker))
                {
                    continue;
                }
                self.groups[a].kind = space;
                self.absorb(a, b);
                if self.groups[a].steps.len() < self.target.row_fusion.most_steps {
                    for edge in self.groups[a].steps.iter().flat_map(|step| &beside[*step]) {
                        if *edge > at {
                            open.insert(*edge)
                        } else {
                            later.insert(*edge)
                        };
                    }
                }
            }
            open = later;
        }
    }

    /// The row space of two groups as one kernel, or why they cannot be one. Paths between them
    /// are not looked at.
    pub(super) fn joined(&self, a: usize, b: usize) -> Result<Kind, String> {
        let (Kind::Row { rows, width: left }, Kind::Row { rows: others, width: right }) =
            (&self.groups[a].kind, &self.groups[b].kind)
        else {
            return Err("one of them is no row kernel".into());
        };
        let mut members = self.groups[a].steps.iter().chain(&self.groups[b].steps);
        if members.any(|at| self.row(*at).is_some_and(|row| row.arithmetic != DType::F32)) {
            return Err("only rows computed in f32 are joined".into());
        }
        if rows != others || (left != right && *left != 1 && *right != 1) {
            return Err(format!("row spaces {rows}x{left} and {others}x{right} differ"));
        }
        let most = self.target.row_fusion.most_steps;
        if self.groups[a].steps.len() + self.groups[b].steps.len() > most {
            return Err(format!("together they have more than {most} steps"));
        }
        let width = *left.max(right);
        for (from, to) in [(a, b), (b, a)] {
            for step in &self.groups[to].steps {
                let row = self.row(*step).expect("a row group holds row steps");
                let own = |operand: &RowOperand| self.reads_own(operand, from, *rows, row, width);
                if !row.operands.iter().all(own) {
                    return Err("it reads other rows of the value".into());
                }
                if row.segments.is_some_and(|v| self.of_value(v) == Some(from)) {
                    return Err("the value picks its rows".into());
                }
            }
        }
        let bindings = self.bindings(&[a, b]);
        if bindings > self.target.bindings {
            let most = self.target.bindings;
            return Err(format!("together they bind {bindings} values, at most {most} fit"));
        }
        Ok(Kind::Row { rows: *rows, width })
    }

    fn of_value(&self, value: ValueIndex) -> Option<usize> {
        self.of[self.maker(value)?]
    }

    /// Whether `operand`, if made in group `from`, is read row by own row.
    fn reads_own(
        &self,
        operand: &RowOperand,
        from: usize,
        rows: usize,
        step: &RowStep,
        width: usize,
    ) -> bool {
        let Some(base) = operand.base() else { return true };
        if self.of_value(base) != Some(from) {
            return true;
        }
        let RowOperand::Rows { base, view } = operand else { return false };
        let made = self.maker(*base).expect("it was found above");
        if self.program.steps[made].result() != *base {
            return false;
        }
        let each = self.program.ty(*base).elements() / rows;
        if each == width && step.width == width {
            view.is_own(width) && (!view.one || width == 1)
        } else {
            each == 1 && view.is_own(1) && (view.one || step.width == 1)
        }
    }

    /// Values that groups read from outside or others need of them.
    fn bindings(&self, groups: &[usize]) -> usize {
        let inside = |step: usize| self.of[step].is_some_and(|g| groups.contains(&g));
        let mut bound: BTreeSet<ValueIndex> = BTreeSet::new();
        for step in groups.iter().flat_map(|g| &self.groups[*g].steps) {
            for value in &self.classes.reads[*step] {
                if !self.maker(*value).is_some_and(inside) {
                    bound.insert(*value);
                }
            }
            bound.extend(self.stored(*step));
        }
        bound.len()
    }

    /// The results of a step that are needed outside its group.
    pub fn stored(&self, step: usize) -> impl Iterator<Item = ValueIndex> + '_ {
        let outside = move |user: &usize| self.of[*user] != self.of[step];
        let stored = move |value: &ValueIndex| {
            let value = *value as usize;
            self.output[value] || self.users[value].iter().any(outside)
        };
        self.program.steps[step].results.iter().copied().filter(stored)
    }

    /// Rows beside rows: kernels of one space that read the same large rows near each other, and
    /// tiny kernels that read anything in common.
    fn join_neighbours(&mut self, rewrites: &mut Rewrites) {
        let RowFusion { tiny_bytes, near_steps, .. } = self.target.row_fusion;
        for value in 0..self.users.len() {
            let mut current: Option<usize> = None;
            let users = self.users[value].clone();
            for user in users {
                let Some(group) = self.of[user].filter(|_| self.row(user).is_some()) else {
                    continue;
                };
                let Some(open) = current.filter(|open| *open != group) else {
                    current = Some(group);
                    continue;
                };
                let tiny = [open, group].iter().all(|g| self.weight(*g) <= tiny_bytes);
                let shared = [open, group].iter().all(|g| self.reads_rows(*g, value));
                let near = self.groups[group].steps[0].abs_diff(self.groups[open].steps[0]);
                let near = near <= near_steps;
                let equal = self.groups[open].kind == self.groups[group].kind;
                let may = equal && (tiny || (shared && near));
                match self.joined(open, group) {
                    Ok(space)
                        if may
                            && !self.depends(open, group)
                            && !self.depends(group, open)
                            && rewrites.allow_joining(
                                "rows side by side",
                                self.label(user),
                                self.label(self.groups[open].steps[0]),
                            ) =>
                    {
                        self.groups[open].kind = space;
                        self.absorb(open, group);
                    }
                    _ => current = Some(group),
                }
            }
        }
    }

    /// Bytes a group writes.
    fn weight(&self, group: usize) -> u64 {
        let steps = self.groups[group].steps.iter();
        let values = steps.flat_map(|step| &self.program.steps[*step].results);
        values.map(|value| self.program.ty(*value).bytes()).sum()
    }

    /// Whether a group reads a value row by row.
    fn reads_rows(&self, group: usize, value: usize) -> bool {
        self.groups[group].steps.iter().filter_map(|s| self.row(*s)).any(|row| {
            row.operands.iter().any(|operand| match operand {
                RowOperand::Rows { base, view } => {
                    *base as usize == value && view.rows.is_some() && row.rows > 1
                }
                RowOperand::Angles { base, .. } => *base as usize == value,
                _ => false,
            })
        })
    }

    /// Groups in an order in which each comes after what it reads; of those that could be next,
    /// the one whose first step comes first.
    pub fn order(&self) -> Vec<usize> {
        let count = self.groups.len();
        let mut waiting = vec![0usize; count];
        let mut after: Vec<Vec<usize>> = vec![Vec::new(); count];
        for group in 0..count {
            let before: BTreeSet<usize> = self.before(group).collect();
            waiting[group] = before.len();
            for other in before {
                after[other].push(group);
            }
        }
        let ready = |g: usize| self.groups[g].steps.first().map(|first| (*first, g));
        let mut open: BTreeSet<(usize, usize)> =
            (0..count).filter(|g| waiting[*g] == 0).filter_map(ready).collect();
        let mut order = Vec::new();
        while let Some((_, group)) = open.pop_first() {
            order.push(group);
            for next in &after[group] {
                waiting[*next] -= 1;
                if waiting[*next] == 0 {
                    open.extend(ready(*next));
                }
            }
        }
        order
    }
}
