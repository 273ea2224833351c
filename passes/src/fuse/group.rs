//! Groups of steps, each of which becomes one kernel. They grow in rounds: loads and epilogues into
//! anchors (`ends.rs`), rows into rows along a value, most bytes saved first, and rows beside rows
//! that read the same (`join.rs`).
//!
//! A merge is legal when the result is one kernel: equal row space, own rows on every value
//! between the two, no path from one to the other through a third, and no more bindings than the
//! target has.

use super::classify::{Class, Classes, RowStep, anchor};
use super::ends::Ends;
use super::paths::Paths;
use crate::program::{Origin, Program, ValueIndex};
use crate::rewrite::Rewrites;
use anyid_ir::kernel::Target;
use std::collections::BTreeSet;

/// What a group becomes.
#[derive(Clone, Debug, PartialEq)]
pub enum GroupKind {
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

/// Steps that run as one kernel, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What it becomes.
    pub kind: GroupKind,
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
    pub(super) grouping: Grouping,
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
            Class::Row(row) => GroupKind::Row { rows: row.rows, width: row.width },
            Class::Anchor => {
                let kernel = anchor(&program.steps[at]);
                GroupKind::Anchor(Ends { kernel, first: None, extra: Vec::new() })
            }
            _ => GroupKind::Single,
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

    pub(super) fn label(&self, step: usize) -> &'p str {
        self.program.steps[step].label()
    }

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
    pub(super) fn before(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        let steps = self.groups[group].steps.iter();
        steps
            .flat_map(|at| self.classes.reads[*at].iter())
            .filter_map(|value| self.of[self.maker(*value)?])
            .filter(move |other| *other != group)
    }

    /// Groups that read what `group` makes.
    pub(super) fn after(&self, group: usize) -> impl Iterator<Item = usize> + '_ {
        let steps = self.groups[group].steps.iter();
        steps
            .flat_map(|at| &self.program.steps[*at].results)
            .flat_map(|value| &self.users[*value as usize])
            .filter_map(|user| self.of[*user])
            .filter(move |other| *other != group)
    }

    /// Whether something `to` needs, other than by reading `from` itself, needs `from`; also where
    /// that would take too long to find out.
    pub(super) fn path_between(&self, from: usize, to: usize) -> bool {
        let groups = self.groups.len();
        self.paths.between(groups, from, to, |g| self.before(g), |g| self.after(g))
    }

    /// Whether `to` needs `from` in any way.
    pub(super) fn depends(&self, from: usize, to: usize) -> bool {
        self.before(to).any(|g| g == from) || self.path_between(from, to)
    }

    pub(super) fn absorb(&mut self, into: usize, other: usize) {
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

    /// The results of a step that are needed outside its group.
    pub fn stored(&self, step: usize) -> impl Iterator<Item = ValueIndex> + '_ {
        let outside = move |user: &usize| self.of[*user] != self.of[step];
        let stored = move |value: &ValueIndex| {
            let value = *value as usize;
            self.output[value] || self.users[value].iter().any(outside)
        };
        self.program.steps[step].results.iter().copied().filter(stored)
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
