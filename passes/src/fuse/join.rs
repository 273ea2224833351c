//! Rows joined with rows: along a value that one makes and the other reads, and side by side where
//! both read the same.

use super::classify::{RowOperand, RowStep};
use super::group::{GroupKind, Groups};
use crate::program::ValueIndex;
use crate::rewrite::Rewrites;
use anyid_ir::DType;
use anyid_ir::kernel::{Columns, RowFusion, RowMap};
use std::collections::BTreeSet;

/// The rule by which rows are joined with those that make what they read.
const ALONG: &str = "rows along a value";

impl Groups<'_> {
    /// Rows into rows along a value, most bytes saved first, then the nearest.
    pub(super) fn join_rows(&mut self, rewrites: &mut Rewrites) {
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
    pub(super) fn joined(&self, a: usize, b: usize) -> Result<GroupKind, String> {
        let (GroupKind::Row { rows, width: left }, GroupKind::Row { rows: others, width: right }) =
            (&self.groups[a].kind, &self.groups[b].kind)
        else {
            return Err("one of them is not a row kernel".into());
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
        Ok(GroupKind::Row { rows: *rows, width })
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
        let RowOperand::Read { base, access } = operand else { return false };
        let made = self.maker(*base).expect("it was found above");
        if self.program.steps[made].result() != *base {
            return false;
        }
        let each = self.program.ty(*base).elements() / rows;
        if each == width && step.width == width {
            access.is_own(width) && (access.columns == Columns::All || width == 1)
        } else {
            each == 1 && access.is_own(1) && (access.columns == Columns::One || step.width == 1)
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

    /// Rows beside rows: kernels of one space that read the same large rows near each other, and
    /// tiny kernels that read anything in common.
    pub(super) fn join_neighbours(&mut self, rewrites: &mut Rewrites) {
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
                RowOperand::Read { base, access } if *base as usize == value => {
                    let own = matches!(access.rows, RowMap::Affine { .. }) && row.rows > 1;
                    match access.columns {
                        Columns::All | Columns::One => own,
                        Columns::Every(_) => true,
                        Columns::Step(_) => false,
                    }
                }
                _ => false,
            })
        })
    }
}
