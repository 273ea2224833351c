//! Values by the memory they share: where each lies, who touches it when, and which bytes are in use.
//!
//! Nothing is decided here; [`super::alias`] proposes what to share and asks whether it may.

use super::check::Written;
use super::contents::Contents;
use super::flow::{Flow, Source};
use super::pack::Piece;
use super::profile::Profile;
use crate::program::ValueIndex;
use crate::storage::Storage;
use anyid_ir::TensorType;
use anyid_ir::kernel::Kernel;
use anyid_ir::plan::{Alignment, Buffer, Columns, Grid, Root};
use std::collections::BTreeSet;

/// Values by the memory they share.
#[derive(Clone, Debug)]
pub(crate) struct MemoryClasses {
    /// Where pieces begin and end.
    alignment: Alignment,
    /// For every owner the value whose memory it lies in, itself for a class of its own, and where.
    pub(super) at: Vec<Place>,
    /// Bytes of each owner's memory.
    pub(super) size: Vec<u64>,
    /// Memory that is not the workspace, and the first byte there.
    pub(crate) root: Vec<Option<(Root, u64)>>,
    /// Copies that are elided.
    pub(crate) dropped: Vec<bool>,
    /// For each class who touches it, in order.
    pub(super) events: Vec<Vec<Event>>,
    /// For each class what lies in it after all of that.
    pub(super) written: Vec<Written>,
    /// For each class the grids that columns in it are of.
    pub(super) grids: Vec<Vec<Grid>>,
    /// For each class in the workspace what is in use when.
    pub(crate) pieces: Vec<Vec<Piece>>,
    /// Bytes of workspace in use at every launch, and after the last.
    live: Profile,
}

/// Where a value lies in the memory of a class, or that of an owner in the memory of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The value whose memory it is.
    pub(crate) class: ValueIndex,
    /// First byte, counted by columns within a grid.
    pub(crate) offset: u64,
    /// The grid that it is columns of.
    pub(crate) grid: Option<Grid>,
}

impl Place {
    /// A class of its own.
    pub(super) fn own(class: ValueIndex) -> Self {
        Self { class, offset: 0, grid: None }
    }

    /// The buffer of a value that lies here, in a class that begins at `base`.
    pub(crate) fn buffer(&self, ty: &TensorType, root: Root, base: u64) -> Buffer {
        let Some(Grid { start, end, rows }) = self.grid else {
            return Buffer::dense(ty.clone(), root, base + self.offset);
        };
        let (first, width) = ((self.offset - start) / rows, ty.bytes() / rows);
        let columns = Some(Columns { first, width, stride: (end - start) / rows });
        Buffer { ty: ty.clone(), root, offset: base + start, columns }
    }
}

/// A launch reads or writes a value. After the last launch, outputs and states are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) step: usize,
    pub(super) writes: bool,
    /// Which operand or result.
    pub(super) position: usize,
    pub(super) value: ValueIndex,
}

impl MemoryClasses {
    /// Every owner by itself. `persistent` are first bytes of values that `prepare` left.
    pub(crate) fn new(flow: &Flow, persistent: &[u64]) -> Self {
        let count = flow.values.len();
        let root = |value: &super::flow::Value| match value.source {
            Source::Input(index) => Some((Root::Input(index), 0)),
            Source::Weight(index) => Some((Root::Weight(index), 0)),
            Source::Persistent(index) => Some((Root::Persistent, persistent[index as usize])),
            Source::State(index, _) => Some((Root::State(index), 0)),
            Source::Output(index) => Some((Root::Output(index), 0)),
            Source::Launch | Source::View | Source::Parts(_) => None,
        };
        Self {
            alignment: flow.alignment,
            at: (0..count as u32).map(Place::own).collect(),
            size: flow.values.iter().map(|value| value.ty.bytes()).collect(),
            root: flow.values.iter().map(root).collect(),
            dropped: vec![false; flow.steps.len()],
            events: vec![Vec::new(); count],
            written: vec![Written::default(); count],
            grids: vec![Vec::new(); count],
            pieces: vec![Vec::new(); count],
            live: Profile::new(flow.steps.len() + 1),
        }
    }

    /// Finds out who touches each class and how long each piece of it is in use.
    pub(crate) fn measure(&mut self, flow: &Flow) {
        let mut touch = |step: usize, writes: bool, position: usize, value: ValueIndex| {
            let class = flow.storage(value).owner as usize;
            self.events[class].push(Event { step, writes, position, value });
        };
        for (at, step) in flow.steps.iter().enumerate() {
            step.operands.iter().enumerate().for_each(|(i, v)| touch(at, false, i, *v));
            step.results.iter().enumerate().for_each(|(i, v)| touch(at, true, i, *v));
        }
        let last = flow.leaving().enumerate();
        last.for_each(|(i, value)| touch(flow.steps.len(), false, i, value));
        let mut contents = flow.contents(&self.dropped);
        if flow.values.iter().any(|value| value.storage.rows > 1) {
            let grids = self.events.iter().map(|events| self.grids_of(flow, events));
            self.grids = grids.map(|grids| grids.expect("nothing is shared yet")).collect();
        }
        for class in 0..flow.values.len() {
            if !self.events[class].is_empty() {
                let events = &self.events[class];
                let written = self.simulate(flow, &mut contents, class as u32, events, None);
                let written = written.expect("nothing is shared yet");
                self.set_pieces(class, written.pieces(flow.alignment));
                self.written[class] = written;
            }
        }
    }

    /// Records when the pieces of a class are in use; a grid is in use as a whole.
    pub(super) fn set_pieces(&mut self, class: usize, mut pieces: Vec<Piece>) {
        for grid in &self.grids[class] {
            let (offset, end) = (grid.start, self.alignment.round_up(grid.end));
            let inside = |p: &mut Piece| offset <= p.offset && p.offset + p.bytes <= end;
            let mut all: Vec<Piece> = pieces.extract_if(.., inside).collect();
            all.sort_unstable_by_key(|piece| (piece.from, piece.to));
            for Piece { from, to, .. } in all {
                match pieces.last_mut().filter(|p| p.offset == offset && from <= p.to + 1) {
                    Some(last) if last.bytes == end - offset => last.to = last.to.max(to),
                    _ => pieces.push(Piece { from, to, offset, bytes: end - offset }),
                }
            }
        }
        for piece in std::mem::take(&mut self.pieces[class]) {
            self.live.add(piece.from, piece.to, -i128::from(piece.bytes));
        }
        if self.root[class].is_none() {
            for piece in &pieces {
                self.live.add(piece.from, piece.to, i128::from(piece.bytes));
            }
            self.pieces[class] = pieces;
        }
    }

    /// Most bytes of workspace in use at one launch.
    pub(crate) fn bound(&self) -> u64 {
        self.live.most()
    }

    /// Bytes of workspace in use at every launch, and after the last.
    pub(crate) fn profile(&self) -> Vec<u64> {
        self.live.all()
    }

    /// Where a value lies; `None` for a part of a memory that lies in columns of another.
    pub(crate) fn place(&self, flow: &Flow, value: ValueIndex) -> Option<Place> {
        let Storage { owner, mut offset, rows } = flow.storage(value);
        let whole = |owner: ValueIndex, rows| {
            let end = self.size[owner as usize];
            Grid { start: 0, end, rows }
        };
        let mut grid = (rows > 1).then(|| whole(owner, rows));
        let (mut class, bytes) = (owner, flow.bytes(value));
        loop {
            let link = self.at[class as usize];
            if link.class == class {
                return Some(Place { class, offset, grid });
            }
            grid = match (link.grid, grid) {
                (None, grid) => grid.map(|Grid { start, end, rows }| Grid {
                    start: start + link.offset,
                    end: end + link.offset,
                    rows,
                }),
                (Some(outer), Some(own)) if own == whole(class, outer.rows) => Some(outer),
                (Some(outer), None) if bytes == self.size[class as usize] => Some(outer),
                (Some(_), _) => return None,
            };
            (class, offset) = (link.class, offset + link.offset);
        }
    }

    /// Puts `a` and `b` at the same place. `None` where that is impossible; otherwise the class that
    /// was moved into the other, if they were two.
    pub(super) fn join(
        &mut self,
        flow: &Flow,
        a: ValueIndex,
        b: ValueIndex,
    ) -> Option<Option<ValueIndex>> {
        let (a, b) = (self.place(flow, a)?, self.place(flow, b)?);
        if a.class == b.class {
            return (a == b).then_some(None);
        }
        for (inner, outer) in [(b, a), (a, b)] {
            let [size, room] = [inner, outer].map(|place| self.size[place.class as usize]);
            let Some(offset) = outer.offset.checked_sub(inner.offset) else { continue };
            // Weights lie in the form their kernels want, and what is dense stays so.
            let weight = matches!(self.root[outer.class as usize], Some((Root::Weight(_), _)));
            let spread = inner.grid.is_some() && outer.grid.is_none();
            let fits = offset + size <= room;
            if self.root[inner.class as usize].is_none() && fits && !weight && !spread {
                self.at[inner.class as usize] = Place { offset, ..outer };
                return Some(Some(inner.class));
            }
        }
        None
    }

    /// Whether there are grids in a class or in what was moved into it.
    pub(super) fn has_grids(&self, class: ValueIndex, moved: Option<ValueIndex>) -> bool {
        let inner = moved.is_some_and(|moved| {
            self.at[moved as usize].grid.is_some() || !self.grids[moved as usize].is_empty()
        });
        inner || !self.grids[class as usize].is_empty()
    }

    /// The grids in a class that `events` touch. `None` where something that lies there is a part of a
    /// grid but no columns of it: its bytes could not be told apart.
    pub(super) fn grids_of(&self, flow: &Flow, events: &[Event]) -> Option<Vec<Grid>> {
        let (mut grids, mut dense) = (BTreeSet::new(), BTreeSet::new());
        for event in events {
            if !self.dropped.get(event.step).is_some_and(|dropped| *dropped) {
                let place = self.place(flow, event.value)?;
                match place.grid {
                    Some(grid) => grids.insert(grid),
                    None => dense.insert((place.offset, place.offset + flow.bytes(event.value))),
                };
            }
        }
        let grids: Vec<Grid> = grids.into_iter().collect();
        let apart = grids.windows(2).all(|pair| pair[0].end <= pair[1].start);
        let whole = |(from, to): &(u64, u64)| {
            let inside = |g: &Grid| *from <= g.start && g.end <= *to;
            grids.iter().all(|g| *to <= g.start || g.end <= *from || inside(g))
        };
        (apart && dense.iter().all(whole)).then_some(grids)
    }

    /// Runs through everything that touches a class, or goes on after what led to `begun`. What lies
    /// there in the end, if every read finds the bytes that the first form has there and nothing is
    /// written where it may not be.
    pub(super) fn simulate(
        &self,
        flow: &Flow,
        contents: &mut Contents,
        class: ValueIndex,
        events: &[Event],
        begun: Option<Written>,
    ) -> Option<Written> {
        let source = &flow.values[class as usize].source;
        let writable = match self.root[class as usize] {
            None | Some((Root::State(_) | Root::Output(_), _)) => true,
            // What leaves `prepare` is made by launches.
            Some((Root::Persistent, _)) => !matches!(source, Source::Persistent(_)),
            Some(_) => false,
        };
        let mut written = begun.unwrap_or_else(|| {
            let mut written = Written::default();
            if source.is_given() {
                written.write(0, 0, self.size[class as usize], class);
            }
            written
        });
        let extent = |event: &Event| {
            let Place { offset, grid, .. } = self.place(flow, event.value)?;
            let ty = flow.ty(event.value);
            if let Some(grid) = grid {
                let width = (ty.bytes() / grid.rows) as usize / ty.dtype.bytes();
                let kernel = &flow.steps.get(event.step)?.kernel;
                let taken = match event.writes {
                    false => kernel.reads_columns(event.position, ty, width),
                    true => {
                        let stride = (grid.end - grid.start) / grid.rows;
                        let first = (offset - grid.start) / grid.rows;
                        let aligned =
                            [grid.start, first, stride].iter().all(|b| flow.alignment.holds(*b));
                        aligned && kernel.writes_columns(event.position, ty, width)
                    }
                };
                taken.then_some(())?;
            }
            Some(((offset, offset + ty.bytes()), grid))
        };
        for group in events.chunk_by(|a, b| a.step == b.step) {
            let step = group[0].step;
            if self.dropped.get(step).is_some_and(|dropped| *dropped) {
                continue;
            }
            let reads = group.partition_point(|event| !event.writes);
            let (reads, writes) = group.split_at(reads);
            for event in reads {
                let ((from, to), _) = extent(event)?;
                if !written.read(step, from, to, &flow.segments(contents, event.value)) {
                    return None;
                }
            }
            for (at, event) in writes.iter().enumerate() {
                let (own, grid) = extent(event)?;
                if !writable || !flow.alignment.holds(own.0) {
                    return None;
                }
                let kernel = &flow.steps[step].kernel;
                // Row kernels alone write columns of rows of which they read others.
                let mixes = !matches!(kernel, Kernel::Row(_)) && grid.is_some();
                let meets = |other: &Event, mixes: bool| {
                    let ((from, to), other) = extent(other)?;
                    let meets = (from < own.1 && own.0 < to) || (mixes && grid == other);
                    meets.then_some((from, to))
                };
                let spoils = |other: &Event| {
                    meets(other, mixes).is_some_and(|range| {
                        range != own || !kernel.writes_in_place(other.position, event.position)
                    })
                };
                let twice = |other: &Event| meets(other, false).is_some();
                if reads.iter().any(spoils) || writes[..at].iter().any(twice) {
                    return None;
                }
            }
            for event in writes {
                let ((from, to), _) = extent(event)?;
                written.write(step, from, to, event.value);
            }
        }
        Some(written)
    }
}
