//! Values that share memory: results over operands that die under them, operands of a
//! concatenation made where they end up, states and outputs made in their own memory.
//!
//! Every sharing is a proposal that two values lie at the same place. It stands if a run through the
//! launches finds, for every read, exactly the bytes the first form had there, if no launch writes
//! over an operand it cannot write in place, and if the most live bytes do not grow. So nothing here
//! is believed for its form: whatever is proposed, the meaning stays.

use super::check::Written;
use super::classes::{Event, MemoryClasses, Place};
use super::contents::Contents;
use super::flow::{Flow, LoweredStep, Names};
use crate::program::ValueIndex;
use crate::rewrite::Rewrites;
use anyid_ir::kernel::Kernel;

/// Most events of a class that is gone through from its start to see whether another may join it,
/// and most pieces of a class: what shares memory with more is left apart. No network comes near.
const MOST_EVENTS: usize = 1 << 12;
const MOST_PIECES: usize = 1 << 12;

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

/// The search for memory to share.
pub(crate) struct Sharing<'f> {
    flow: &'f Flow,
    pub(crate) classes: MemoryClasses,
    contents: Contents,
    /// Launches that read each value, ascending; one behind the last reads what leaves the flow.
    readers: Vec<Vec<usize>>,
    /// Names of values, where reasons are asked for.
    names: Option<Names<'f>>,
}

/// The reason if two values cannot share one memory.
const NOT_ONE: &str = "both lie in memory that is given";

impl<'f> Sharing<'f> {
    /// Begins with `classes`, in which nothing is shared.
    pub(crate) fn new(flow: &'f Flow, classes: MemoryClasses) -> Self {
        let contents = flow.contents(&classes.dropped);
        let mut readers = vec![Vec::new(); flow.values.len()];
        for (at, step) in flow.steps.iter().enumerate() {
            step.operands.iter().for_each(|value| readers[*value as usize].push(at));
        }
        for value in flow.leaving() {
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
    pub(crate) fn run(mut self, rewrites: &mut Rewrites) -> MemoryClasses {
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
        let allow = &mut || rewrites.allow("copy elided", step.label_of(0));
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
            rewrites.refuse(step.label_of(result), names.of(over), why);
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
                let name = step.label_of(result);
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
            self.classes.at[moved as usize] = Place::own(moved);
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
        let own = &self.classes.events[class as usize];
        let inner = moved.map_or(&[][..], |moved| &self.classes.events[moved as usize]);
        // Where one follows the other, as along a residual stream, what went before stays.
        let follows = match (own.last(), inner.first()) {
            (Some(last), Some(first)) => {
                last.step < first.step || (last.step == first.step && !last.writes && first.writes)
            }
            _ => false,
        };
        let long = !follows && own.len() + inner.len() > MOST_EVENTS;
        if long || self.classes.written[class as usize].len() > MOST_PIECES {
            return Err("too much happens in that memory");
        }
        // The launch in which one ends and the other begins is gone through again.
        let again = |event: &Event| follows && inner.first().is_some_and(|i| event.step < i.step);
        let stays = own.partition_point(again);
        let mut events = [&own[stays..], inner].concat();
        let begun = follows.then(|| self.classes.written[class as usize].clone());
        if !follows {
            events.sort_unstable();
        }
        let (flow, contents) = (self.flow, &mut self.contents);
        let written = self.classes.simulate(flow, contents, class, &events, begun);
        let grids = match self.classes.has_grids(class, moved) {
            true => self.classes.grids_of(flow, &[&own[..stays], &events].concat()),
            false => Some(Vec::new()),
        };
        let (Some(written), Some(grids)) = (written, grids) else {
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
            return Err(why);
        }
        if let Some(moved) = moved {
            self.classes.grids[moved as usize] = Vec::new();
            self.classes.events[moved as usize] = Vec::new();
            self.classes.written[moved as usize] = Written::default();
        }
        self.classes.events[class as usize].truncate(stays);
        self.classes.events[class as usize].extend(events);
        self.classes.written[class as usize] = written;
        Ok(())
    }
}
