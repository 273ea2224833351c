//! Brings matrices that are not held into two slots, group after group, while a plan computes.
//!
//! A thread of its own reads and packs the next group as soon as a slot is free. Groups are counted
//! on from run to run of one plan: when a run ends, the first groups of the next are brought in
//! already. A run that uses another plan, or follows one that ended early, begins anew. What is
//! packed is what would be held, to the bit. Everything is reserved before the first run, except for
//! what the provider of the weights allocates itself.

use super::super::buffer::AlignedBytes;
use super::super::gemm::Packed;
use super::super::simd::Level;
use super::super::threads::{Pool, SharedPtr, stop_requested};
use super::choice::{Item, SLOTS};
use super::read::Reader;
use crate::Fault;
use crate::device::Provider;
use crate::errors::{LoadError, NoMemory, RunError};
use crate::threads::start;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a run waits for a group before it asks whether it should stop.
const PATIENCE: Duration = Duration::from_millis(20);

/// The matrices of each group of a plan.
pub(in crate::cpu) type Groups = Vec<Vec<Item>>;

/// Slots, and the thread that fills them.
pub(in crate::cpu) struct Stream {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    slots: [SharedPtr<u8>; SLOTS],
    /// Keeps the memory of the slots.
    _memory: [AlignedBytes; SLOTS],
    plans: Vec<Groups>,
    state: Mutex<State>,
    changed: Condvar,
    closing: AtomicBool,
}

#[derive(Default)]
struct State {
    /// The plan whose groups are brought in.
    plan: Option<usize>,
    /// Groups brought in, and groups that nobody reads any more, since the plan became this one.
    there: usize,
    done: usize,
    /// What each slot holds: plan and group.
    holds: [Option<(usize, usize)>; SLOTS],
    /// Whether a slot is being filled.
    busy: bool,
    fault: Option<Fault>,
    panic: Option<Box<dyn Any + Send>>,
}

/// One run of a plan.
pub(in crate::cpu) struct Streaming<'s> {
    shared: &'s Shared,
    plan: usize,
    /// Groups before this run.
    before: usize,
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// A stream of the groups of plans, through slots of so many bytes.
    ///
    /// # Errors
    /// Where there is no memory for the slots or no thread, or the provider lacks a tensor.
    pub(in crate::cpu) fn new(
        level: Level,
        provider: Arc<Provider>,
        slot: u64,
        plans: Vec<Groups>,
    ) -> Result<Self, LoadError> {
        let none = || LoadError::NoWorkspace(NoMemory::of(SLOTS as u64 * slot));
        let memory = || usize::try_from(slot).ok().and_then(AlignedBytes::try_zeroed);
        let (Some(mut first), Some(mut second)) = (memory(), memory()) else { return Err(none()) };
        let slots =
            [&mut first, &mut second].map(|slot| SharedPtr::new(slot.bytes_mut().as_mut_ptr()));
        let pool = Pool::try_new(1).map_err(refused)?;
        // What the reader needs is reserved here, and handed to the thread.
        let mut reader = Reader::new(&pool, level, &*provider);
        for item in plans.iter().flatten().flatten() {
            reader.reserve(&item.name, &item.ty, item.form)?;
        }
        let buffers = reader.into_buffers();
        let shared = Arc::new(Shared {
            slots,
            _memory: [first, second],
            plans,
            state: Mutex::default(),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let serve = move || {
            let mut reader = Reader::with_buffers(&pool, level, &*provider, buffers);
            serve(&own, &mut reader);
        };
        let thread = start("anyid-weights", serve).map_err(refused)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Begins a run of a plan.
    pub(in crate::cpu) fn begin(&self, plan: usize) -> Streaming<'_> {
        let shared = &*self.shared;
        let groups = shared.plans[plan].len();
        let mut state = lock(shared);
        let goes_on = state.plan == Some(plan)
            && state.fault.is_none()
            && state.panic.is_none()
            && state.done.is_multiple_of(groups.max(1));
        if !goes_on && groups > 0 {
            state.plan = None;
            while state.busy {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let holds = state.holds;
            *state = State { plan: Some(plan), holds, ..State::default() };
            shared.changed.notify_all();
        }
        Streaming { shared, plan, before: state.done }
    }
}

impl Streaming<'_> {
    /// Waits until a group is there; earlier ones of the run are no longer read from here on.
    pub(in crate::cpu) fn wait(&self, group: usize, label: &str) -> Result<(), RunError> {
        let shared = self.shared;
        let number = self.before + group;
        let mut state = lock(shared);
        if state.done != number {
            state.done = number;
            shared.changed.notify_all();
        }
        while state.there <= number {
            if let Some(panic) = state.panic.take() {
                drop(state);
                resume_unwind(panic);
            }
            if let Some(fault) = &state.fault {
                let (label, fault) = (label.to_owned(), Box::new(fault.clone()));
                return Err(RunError::Weight { label, fault });
            }
            if stop_requested() {
                return Err(RunError::Stopped);
            }
            let waited = shared.changed.wait_timeout(state, PATIENCE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// A matrix of a group that is there, until the next is waited for.
    pub(in crate::cpu) fn view(&self, group: usize, item: usize) -> Packed<'_> {
        let item = &self.shared.plans[self.plan][group][item];
        let slot = self.shared.slots[(self.before + group) % SLOTS].get();
        // SAFETY: a group lies inside its slot, whose memory lives as long as the stream; the thread
        // fills this slot again only when a later group is waited for.
        let bytes = unsafe { std::slice::from_raw_parts(slot.add(item.offset), item.bytes) };
        let (n, k) = item.shape;
        Packed::from_bytes(n, k, item.kind, bytes)
    }

    /// Ends the run; `whole` if all of its steps are done.
    pub(in crate::cpu) fn end(self, whole: bool) {
        let groups = self.shared.plans[self.plan].len();
        if groups == 0 {
            return;
        }
        let mut state = lock(self.shared);
        match whole {
            true => state.done = self.before + groups,
            false => state.plan = None,
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        // Whoever waits has the lock before or after this.
        drop(lock(&self.shared));
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // Its panics were caught.
            let _ = thread.join();
        }
    }
}

fn serve(shared: &Shared, reader: &mut Reader<'_>) {
    let mut state = lock(shared);
    loop {
        if shared.closing.load(Ordering::Relaxed) {
            return;
        }
        let wanted = state.plan.filter(|_| {
            state.fault.is_none() && state.panic.is_none() && state.there < state.done + SLOTS
        });
        let Some(plan) = wanted else {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let (group, slot) = (state.there % shared.plans[plan].len(), state.there % SLOTS);
        if state.holds[slot] != Some((plan, group)) {
            state.holds[slot] = None;
            state.busy = true;
            drop(state);
            let fill = || fill(shared, reader, plan, group, slot);
            let filled = catch_unwind(AssertUnwindSafe(fill));
            state = lock(shared);
            state.busy = false;
            match filled {
                Ok(Ok(true)) => state.holds[slot] = Some((plan, group)),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => state.fault = Some(fault(error)),
                Err(panic) => state.panic = Some(panic),
            }
        }
        // Unless the run has ended early meanwhile.
        if state.plan == Some(plan) && state.holds[slot] == Some((plan, group)) {
            state.there += 1;
        }
        shared.changed.notify_all();
    }
}

/// Brings a group into a slot; `false` where the stream is closing.
fn fill(
    shared: &Shared,
    reader: &mut Reader<'_>,
    plan: usize,
    group: usize,
    slot: usize,
) -> Result<bool, LoadError> {
    for item in &shared.plans[plan][group] {
        if shared.closing.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let slot = shared.slots[slot].get();
        // SAFETY: the item lies inside the slot, which no run reads: the group that it held is done.
        let to = unsafe { std::slice::from_raw_parts_mut(slot.add(item.offset), item.bytes) };
        reader.load_into(&item.name, &item.ty, item.form, to)?;
    }
    Ok(true)
}

fn refused(refused: crate::threads::ThreadsRefused) -> LoadError {
    LoadError::Failed(Box::new(Fault {
        code: "E1025",
        message: refused.to_string(),
        place: None,
        help: None,
        cause: Some(refused.cause.to_string()),
    }))
}

/// What a load says in the terms of a run.
fn fault(error: LoadError) -> Fault {
    let code = match error {
        LoadError::Unreadable(fault) => return fault,
        LoadError::Failed(fault) => return *fault,
        LoadError::Missing(_) => "E0301",
        LoadError::Size { .. } => "E0303",
        LoadError::NoMemory { .. } | LoadError::NoWorkspace(_) | LoadError::Stopped => "E0603",
    };
    Fault { code, message: error.to_string(), place: None, help: None, cause: None }
}
