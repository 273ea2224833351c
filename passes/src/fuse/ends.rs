//! What anchors take: an upsample in front of a convolution, the steps behind a product while they are
//! an epilogue of the target, and further linears on the same operand.

use super::classify::{RowOperand, RowStep, anchor, widened};
use super::group::{GroupKind, Groups};
use super::view::is_movement;
use crate::program::ValueIndex;
use crate::rewrite::Rewrites;
use anyid_ir::kernel::{Access, Activation, AnchorKernel, Columns, Combine, Load, RowMap};
use anyid_ir::{BinaryFn, DType, Op};

/// An anchor with what it takes in front of it and behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends {
    /// The kernel of one part, without the names of what it took.
    pub kernel: AnchorKernel,
    /// What is read as operand 0 where that is not the op's own.
    pub first: Option<ValueIndex>,
    /// Values the combination reads.
    pub extra: Vec<ValueIndex>,
}

impl Ends {
    /// With the value so far, of type `from`, read by something that follows: narrower types than
    /// the f32 of the sums are rounded to.
    fn rounded(&self, from: DType) -> Result<Self, &'static str> {
        let mut ends = self.clone();
        if from == DType::F32 {
            return Ok(ends);
        }
        let kernel = &mut ends.kernel;
        let slot = match (kernel.combine, kernel.activation) {
            (Combine::Store, None) => &mut kernel.sums,
            (Combine::Store, Some(_)) => &mut kernel.activated,
            _ => return Err("what was rounded away would come back"),
        };
        match *slot.get_or_insert(from) == from {
            true => Ok(ends),
            false => Err("it is rounded to one type and then to another"),
        }
    }
}

impl Groups<'_> {
    pub(super) fn grow_load(&mut self, group: usize, rewrites: &mut Rewrites) {
        if !matches!(self.groups[group].kind, GroupKind::Anchor(_)) || !rewrites.enabled() {
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
        if let GroupKind::Anchor(ends) = &mut self.groups[group].kind {
            (ends.kernel.load, ends.first) = (taken, Some(first));
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

    /// The load of the anchor `reader` that computes step `made`, or why there is none.
    pub(super) fn load(&self, made: usize, reader: usize) -> Result<Load, &'static str> {
        let (from, to) = (&self.program.steps[made], &self.program.steps[reader]);
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
        if !self.program.is_weight(to.operands[1]) {
            return Err("its kernel is not a weight");
        }
        let load = Load::Nearest(factors);
        let [x, w] = [from.operands[0], to.operands[1]].map(|value| self.program.ty(value));
        (self.target.conv_load)(load, anchor(to).anchor, x, w)?;
        Ok(load)
    }

    pub(super) fn grow_epilogue(&mut self, group: usize, rewrites: &mut Rewrites) {
        while matches!(self.groups[group].kind, GroupKind::Anchor(_)) {
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
    pub(super) fn epilogue(&self, group: usize, next: usize) -> Result<GroupKind, &'static str> {
        let GroupKind::Anchor(ends) = &self.groups[group].kind else {
            return Err("it is not an anchor");
        };
        let tail = self.tail(group);
        if self.output[tail as usize] || self.users[tail as usize].len() != 1 {
            return Err("the value between them is needed elsewhere");
        }
        let anchor = &self.program.steps[self.anchor(group)];
        let support =
            self.target.epilogue(ends.kernel.anchor, &self.program.types(&anchor.operands));
        let step = &self.program.steps[next];
        let row = self.row(next).ok_or("it is not a step over rows")?;
        let dtype = self.program.ty(step.result()).dtype;
        let from = self.program.ty(tail).dtype;
        if [dtype, from].iter().any(|dtype| !support.results.contains(dtype)) {
            return Err("the epilogue has no result of that element type");
        }
        if self.program.ty(step.result()).shape != self.program.ty(tail).shape {
            return Err("the result has another shape");
        }
        if ends.kernel.combine != Combine::Store && step.op != Op::Cast {
            return Err("the epilogue has ended");
        }
        let reads = |operand: usize| match &row.operands[operand] {
            RowOperand::Read { base, access } => {
                *base == tail && access.is_own(row.width) && access.columns == Columns::All
            }
            RowOperand::Literal(_) => false,
        };
        let act = |f: Activation| {
            if !support.activations.contains(&f) {
                return Err("the epilogue has no such activation");
            }
            if ends.kernel.activation.is_some() {
                return Err("the epilogue takes one activation");
            }
            if !reads(0) {
                return Err("its rows are not those of the anchor");
            }
            let mut ends = ends.rounded(from)?;
            ends.kernel.activation = Some(f);
            Ok(GroupKind::Anchor(ends))
        };
        let combined = |combine: Combine, extra: Vec<ValueIndex>| {
            let mut ends = ends.rounded(from)?;
            (ends.kernel.combine, ends.extra) = (combine, extra);
            Ok(GroupKind::Anchor(ends))
        };
        match &step.op {
            Op::Gelu => act(Activation::Gelu),
            Op::Silu => act(Activation::Silu),
            Op::Cast if reads(0) && from == dtype => Ok(self.groups[group].kind.clone()),
            Op::Cast if reads(0) => Ok(GroupKind::Anchor(ends.rounded(from)?)),
            Op::Binary(BinaryFn::Add) => {
                let other = match (reads(0), reads(1)) {
                    (true, false) => 1,
                    (false, true) => 0,
                    _ => return Err("its rows are not those of the anchor"),
                };
                combined(
                    Combine::Add,
                    vec![self.residual(next, row, other, tail, support.residual)?],
                )
            }
            Op::GateAdd if support.gate => {
                if !reads(1) {
                    return Err("its rows are not those of the anchor");
                }
                let x = self.residual(next, row, 0, tail, support.residual)?;
                let RowOperand::Read { base, access } = row.operands[2] else {
                    return Err("its gate is not a table");
                };
                if self.program.ty(base).dtype != DType::F32 || base == tail {
                    return Err("its gate is not f32");
                }
                let segments = row.segments.ok_or("it has no segments")?;
                let (offset, stride) = (access.offset, access.stride);
                combined(Combine::GateAdd { offset, stride }, vec![x, base, segments])
            }
            _ => Err("the epilogue has no such operation"),
        }
    }

    /// Operand `operand` of step `next` over rows as one that the anchor of `tail` adds, in one of the
    /// element types `added`: a whole value that lies in memory as it is.
    fn residual(
        &self,
        next: usize,
        row: &RowStep,
        operand: usize,
        tail: ValueIndex,
        added: &[DType],
    ) -> Result<ValueIndex, &'static str> {
        let value = widened(self.program, self.program.steps[next].operands[operand]);
        let ty = self.program.ty(value);
        let own = match &row.operands[operand] {
            RowOperand::Read { base, access } => {
                let Access { rows, columns, stride, .. } = *access;
                *base != tail && (rows, columns, stride) == (RowMap::OWN, Columns::All, row.width)
            }
            RowOperand::Literal(_) => false,
        };
        if !own || ty.shape != self.program.ty(tail).shape {
            return Err("the other operand is not a row of its own");
        }
        if !added.contains(&ty.dtype) {
            return Err("the epilogue adds no such element type");
        }
        let owner = self.classes.owner[value as usize];
        match self.program.maker(owner) {
            Some(step) if is_movement(&step.op) => Err("the other operand is moved first"),
            _ => Ok(value),
        }
    }

    /// Linears on one operand with one form become one kernel of several parts; every merge is a
    /// rewrite.
    pub fn pack_linears(&mut self, rewrites: &mut Rewrites) {
        let is_anchor = |g: &usize| matches!(self.groups[*g].kind, GroupKind::Anchor(_));
        let anchors: Vec<usize> = (0..self.groups.len()).filter(is_anchor).collect();
        let mut anchors = anchors.into_iter().peekable();
        while let Some(first) = anchors.next() {
            while let Some(next) = anchors.next_if(|next| self.same_linear(first, *next)) {
                let [label, with] = [next, first].map(|g| self.label(self.groups[g].steps[0]));
                if !rewrites.allow_joining("one product of several parts", label, with) {
                    return;
                }
                self.absorb(first, next);
            }
        }
    }

    /// Whether linear `b` can be a further part of the product `a`.
    fn same_linear(&self, a: usize, b: usize) -> bool {
        let plain = |g: usize| match &self.groups[g].kind {
            GroupKind::Anchor(ends) => {
                let linear = |s: &usize| self.program.steps[*s].op == Op::Linear;
                ends.kernel.is_plain() && self.groups[g].steps.iter().all(linear)
            }
            _ => false,
        };
        let parts = self.groups[a].steps.len();
        if parts >= self.target.linear_parts || !plain(a) || !plain(b) {
            return false;
        }
        let [x, y] = [a, b].map(|g| &self.program.steps[self.groups[g].steps[0]]);
        let ty = |v: ValueIndex| self.program.ty(v);
        let bindings = (parts + 1) * x.operands.len() + 1;
        x.operands[0] == y.operands[0]
            && x.operands.len() == y.operands.len()
            && ty(x.operands[1]) == ty(y.operands[1])
            && ty(x.result()) == ty(y.result())
            && [x, y].iter().all(|s| self.program.is_weight(s.operands[1]))
            && bindings <= self.target.bindings
            && !self.depends(a, b)
            && !self.depends(b, a)
    }
}
