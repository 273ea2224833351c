//! Values that share memory: results over operands that die under them, operands of a
//! concatenation made where they end up, states and outputs made in their own memory.
//!
//! Every sharing is a proposal that two values lie at the same place. It stands if a run through the
//! launches finds, for every read, exactly the bytes the first form had there, if no launch writes
//! over an operand it cannot write in place, and if the most live bytes do not grow. So nothing here
//! is believed for its form: whatever is proposed, the meaning stays.

use super::check::Written;
use super::contents::Contents;
use super::flow::{Flow, LoweredStep, Names, Source};
use super::pack::Piece;
use super::profile::Profile;
use crate::program::ValueIndex;
use crate::rewrite::Rewrites;
use crate::storage::Storage;
use anyid_ir::TensorType;
use anyid_ir::kernel::Kernel;
use anyid_ir::plan::{Alignment, Buffer, Columns, Grid, Root};
use std::collections::BTreeSet;

/// Values by the memory they share.
#[derive(Clone, Debug)]
pub(crate) struct Classes {
    /// Where pieces begin and end.
    alignment: Alignment,
    /// For every owner the value whose memory it lies in, itself for a class of its own, and where.
    at: Vec<Link>,
    /// Bytes of each owner's memory.
    size: Vec<u64>,
    /// Memory that is not the workspace, and the first byte there.
    pub(crate) root: Vec<Option<(Root, u64)>>,
    /// Copies that are elided.
    pub(crate) dropped: Vec<bool>,
    /// For each class who touches it, in order.
    events: Vec<Vec<Event>>,
    /// For each class what lies in it after all of that.
    written: Vec<Written>,
    /// For each class the grids that columns in it are of.
    grids: Vec<Vec<Grid>>,
    /// For each class in the workspace what is in use when.
    pub(crate) pieces: Vec<Vec<Piece>>,
    /// Bytes of workspace in use at every launch, and after the last.
    live: Profile,
}

/// Where the memory of an owner lies: in that of a value, from a byte on. With a grid it is columns of
/// that, and the byte is counted as [`Storage::offset`](crate::storage::Storage::offset).
#[derive(Clone, Copy, Debug)]
struct Link {
    value: ValueIndex,
    offset: u64,
    grid: Option<Grid>,
}

/// Where a value lies in the memory of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) class: ValueIndex,
    /// First byte, counted by columns within a grid.
    pub(crate) offset: u64,
    /// The grid that it is columns of.
    pub(crate) grid: Option<Grid>,
}

impl Place {
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

/// Most events of a class that is gone through from its start to see whether another may join it,
/// and most pieces of a class: what shares memory with more is left apart. No network comes near.
const MOST_EVENTS: usize = 1 << 12;
const MOST_PIECES: usize = 1 << 12;

/// A launch reads or writes a value. After the last launch, outputs and states are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    step: usize,
    writes: bool,
    /// Which operand or result.
    position: usize,
    value: ValueIndex,
}

/// Whether a launch does nothing but copy.
pub(crate) fn is_copy(flow: &Flow, step: &LoweredStep) -> bool {
    let Kernel::Copy(kernel) = &step.kernel else { return false };
    let [from, to] = (match step.operands[..] {
        [from] => [from, step.results[0]],
        _ => return false,
    })
    .map(|value| flow.ty(value));
    from == to && kernel.joins_whole(&[from])
}

impl Classes {
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
            at: (0..count as u32).map(|value| Link { value, offset: 0, grid: None }).collect(),
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
        let outputs = flow.outputs.iter().map(|port| port.value);
        let last = outputs.chain(flow.states.iter().map(|state| state.after));
        last.enumerate().for_each(|(i, value)| touch(flow.steps.len(), false, i, value));
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

    /// Says when pieces of a class are in use, of a grid all of it at once.
    fn set_pieces(&mut self, class: usize, mut pieces: Vec<Piece>) {
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
            if link.value == class {
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
            (class, offset) = (link.value, offset + link.offset);
        }
    }

    /// Puts `a` and `b` at the same place. `None` where that is impossible; otherwise the class that
    /// was moved into the other, if they were two.
    fn join(&mut self, flow: &Flow, a: ValueIndex, b: ValueIndex) -> Option<Option<ValueIndex>> {
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
                let link = Link { value: outer.class, offset, grid: outer.grid };
                self.at[inner.class as usize] = link;
                return Some(Some(inner.class));
            }
        }
        None
    }

    /// Whether there are grids in a class or in what was moved into it.
    fn has_grids(&self, class: ValueIndex, moved: Option<ValueIndex>) -> bool {
        let inner = moved.is_some_and(|moved| {
            self.at[moved as usize].grid.is_some() || !self.grids[moved as usize].is_empty()
        });
        inner || !self.grids[class as usize].is_empty()
    }

    /// The grids in a class that `events` touch. `None` where something that lies there is a part of a
    /// grid but no columns of it: its bytes could not be told apart.
    fn grids_of(&self, flow: &Flow, events: &[Event]) -> Option<Vec<Grid>> {
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
    fn simulate(
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

/// The search for memory to share.
pub(crate) struct Search<'f> {
    flow: &'f Flow,
    pub(crate) classes: Classes,
    contents: Contents,
    /// Launches that read each value, ascending; one behind the last reads what leaves the flow.
    readers: Vec<Vec<usize>>,
    /// Names of values, where reasons are asked for.
    names: Option<Names<'f>>,
}

/// Why two values cannot be one memory.
const NOT_ONE: &str = "both lie in memory that is given";

fn label(step: &LoweredStep, result: usize) -> &str {
    step.labels.get(result).map_or("", String::as_str)
}

impl<'f> Search<'f> {
    /// Begins with `classes`, in which nothing is shared.
    pub(crate) fn new(flow: &'f Flow, classes: Classes) -> Self {
        let contents = flow.contents(&classes.dropped);
        let mut readers = vec![Vec::new(); flow.values.len()];
        for (at, step) in flow.steps.iter().enumerate() {
            step.operands.iter().for_each(|value| readers[*value as usize].push(at));
        }
        let outputs = flow.outputs.iter().map(|port| port.value);
        for value in outputs.chain(flow.states.iter().map(|state| state.after)) {
            readers[value as usize].push(flow.steps.len());
        }
        Self { flow, classes, contents, readers, names: None }
    }

    /// Whether a launch behind `at` reads `value`, so that nothing may be written over it.
    fn is_read_after(&self, value: ValueIndex, at: usize) -> bool {
        let made = |step: &&usize| !self.classes.dropped.get(**step).is_some_and(|d| *d);
        self.readers[value as usize].iter().rev().find(made).is_some_and(|step| *step > at)
    }

    /// Elides copies and lets results take over operands, in the order of the launches.
    pub(crate) fn run(mut self, rewrites: &mut Rewrites) -> Classes {
        self.names = rewrites.explains().then(|| Names::new(self.flow));
        for at in 0..self.flow.steps.len() {
            if is_copy(self.flow, &self.flow.steps[at]) {
                self.elide(at, rewrites);
            }
        }
        for at in 0..self.flow.steps.len() {
            if !self.classes.dropped[at] {
                self.in_place(at, rewrites);
            }
        }
        self.classes
    }

    fn elide(&mut self, at: usize, rewrites: &mut Rewrites) {
        let step = &self.flow.steps[at];
        let (from, to) = (step.operands[0], step.results[0]);
        let Some(moved) = self.classes.join(self.flow, from, to) else {
            return self.refuse(rewrites, step, 0, from, NOT_ONE);
        };
        self.classes.dropped[at] = true;
        self.flow.set_elided(&mut self.contents, at, true);
        let allow = &mut || rewrites.allow("copy elided", label(step, 0));
        if let Err(why) = self.accept(to, moved, false, allow) {
            self.classes.dropped[at] = false;
            self.flow.set_elided(&mut self.contents, at, false);
            self.part(moved);
            self.refuse(rewrites, step, 0, from, why);
        }
    }

    fn refuse(
        &self,
        rewrites: &mut Rewrites,
        step: &LoweredStep,
        result: usize,
        over: ValueIndex,
        why: &'static str,
    ) {
        if let Some(names) = &self.names {
            rewrites.refuse(label(step, result), names.of(over), why);
        }
    }

    fn in_place(&mut self, at: usize, rewrites: &mut Rewrites) {
        let step = &self.flow.steps[at];
        for (result, to) in step.results.iter().enumerate() {
            for (operand, from) in step.operands.iter().enumerate() {
                let fits = step.kernel.writes_in_place(operand, result)
                    && self.flow.bytes(*from) == self.flow.bytes(*to);
                if !fits {
                    continue;
                }
                if self.is_read_after(*from, at) {
                    self.refuse(rewrites, step, result, *from, "it is read again later");
                    continue;
                }
                let places = [*from, *to].map(|value| self.classes.place(self.flow, value));
                let [Some(a), Some(b)] = places else { continue };
                let size = |place: Place| self.classes.size[place.class as usize];
                // All of a grid is in use as long as a part of it is.
                let larger = size(a) != size(b) && a.grid.or(b.grid).is_none();
                let moved = match self.classes.join(self.flow, *from, *to) {
                    Some(Some(moved)) => moved,
                    Some(None) => continue,
                    None => {
                        self.refuse(rewrites, step, result, *from, NOT_ONE);
                        continue;
                    }
                };
                let name = label(step, result);
                let allow = &mut || rewrites.allow("result over an operand", name);
                // In a larger memory it is bound to the rest of that: only where the peak gains.
                match self.accept(*to, Some(moved), larger, allow) {
                    Ok(()) => break,
                    Err(why) => {
                        self.part(Some(moved));
                        self.refuse(rewrites, step, result, *from, why);
                    }
                }
            }
        }
    }

    fn part(&mut self, moved: Option<ValueIndex>) {
        if let Some(moved) = moved {
            self.classes.at[moved as usize] = Link { value: moved, offset: 0, grid: None };
        }
    }

    /// Whether the classes can stand as they are now, after `moved` went into the class of
    /// `changed`, or why not; measures are brought up to date if so.
    fn accept(
        &mut self,
        changed: ValueIndex,
        moved: Option<ValueIndex>,
        must_gain: bool,
        allow: &mut dyn FnMut() -> bool,
    ) -> Result<(), &'static str> {
        let place = self.classes.place(self.flow, changed);
        let class = place.ok_or(NOT_ONE)?.class;
        let own = std::mem::take(&mut self.classes.events[class as usize]);
        let inner = moved.map_or(&[][..], |moved| &self.classes.events[moved as usize]);
        // Where one follows the other, as along a residual stream, what went before stays.
        let follows = match (own.last(), inner.first()) {
            (Some(last), Some(first)) => {
                last.step < first.step || (last.step == first.step && !last.writes && first.writes)
            }
            _ => false,
        };
        let length = own.len();
        let long = !follows && length + inner.len() > MOST_EVENTS;
        if long || self.classes.written[class as usize].len() > MOST_PIECES {
            self.classes.events[class as usize] = own;
            return Err("too much happens in that memory");
        }
        let (flow, contents) = (self.flow, &mut self.contents);
        let (mut events, written, kept_own);
        if follows {
            let step = inner.first().map_or(0, |event| event.step);
            let from = own.partition_point(|event| event.step < step);
            (events, kept_own) = (own, None);
            events.extend_from_slice(inner);
            let begun = Some(self.classes.written[class as usize].clone());
            written = self.classes.simulate(flow, contents, class, &events[from..], begun);
        } else {
            events = [&own, inner].concat();
            kept_own = Some(own);
            events.sort_unstable();
            written = self.classes.simulate(flow, contents, class, &events, None);
        }
        let before = |events: Vec<Event>| {
            kept_own.unwrap_or_else(|| {
                let mut events = events;
                events.truncate(length);
                events
            })
        };
        let grids = match self.classes.has_grids(class, moved) {
            true => self.classes.grids_of(flow, &events),
            false => Some(Vec::new()),
        };
        let (Some(written), Some(grids)) = (written, grids) else {
            self.classes.events[class as usize] = before(events);
            return Err("it would be written over what is read later, or may not be written");
        };
        let pieces = written.pieces(flow.alignment);
        let least = self.classes.bound();
        let kept = [moved, Some(class)]
            .map(|class| class.map(|class| (class, self.classes.pieces[class as usize].clone())));
        if let Some(moved) = moved {
            self.classes.set_pieces(moved as usize, Vec::new());
        }
        let grids = std::mem::replace(&mut self.classes.grids[class as usize], grids);
        self.classes.set_pieces(class as usize, pieces);
        let bound = self.classes.bound();
        let refused = if bound > least {
            Some("more memory would be in use at once")
        } else if bound == least && must_gain {
            Some("it would hold on to a larger memory and lower no peak")
        } else if !allow() {
            Some("no more rewrites are allowed")
        } else {
            None
        };
        if let Some(why) = refused {
            self.classes.grids[class as usize] = grids;
            for (class, pieces) in kept.into_iter().flatten() {
                self.classes.set_pieces(class as usize, pieces);
            }
            self.classes.events[class as usize] = before(events);
            return Err(why);
        }
        if let Some(moved) = moved {
            self.classes.grids[moved as usize] = Vec::new();
            self.classes.events[moved as usize] = Vec::new();
            self.classes.written[moved as usize] = Written::default();
        }
        self.classes.events[class as usize] = events;
        self.classes.written[class as usize] = written;
        Ok(())
    }
}
