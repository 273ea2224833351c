//! A fixed set of worker threads for data-parallel kernels, and the scratch they share.
//!
//! [`Pool::run`] hands out task numbers `0..tasks` first come, first served. A kernel cuts its work
//! by shape alone, never by the number of threads, so every task computes the same bits whoever
//! runs it. Nothing is allocated per run; a panic inside a task stops the hand-out and is raised
//! again in the caller once no worker holds the task body any more.
//!
//! Work can be told to stop ([`with_stop`]): tasks not yet handed out are then left out, so that a
//! launch of minutes ends as soon as its tasks at hand do. What it has written is then worthless,
//! and whoever started it looks at [`stop_requested`] before using it.
//!
//! It does not balance several runs against each other: runs of one pool take turns.

pub(crate) use crate::stop::until_stopped;
use crate::stop::{self, StopScope, is_set};
pub use crate::stop::{stop_requested, with_stop};
use crate::threads::{ThreadsRefused, start};
use std::any::Any;
use std::cell::Cell;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Alignment in bytes of every scratch region and packed buffer (one cache line, one 512-bit load).
pub const ALIGN: usize = 64;

/// How many pauses a waiting thread spends before it sleeps: some tens of microseconds, longer
/// than the gap between two kernels of a step and far shorter than a time slice.
const SPINS: usize = 1500;

/// A task body: called with the task number and the index of the worker that runs it.
type Body<'a> = dyn Fn(usize, usize) + Sync + 'a;

thread_local! {
    /// The pool (by address) and worker index this thread is running a task for.
    static HERE: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
    /// Takes down what a task has set up on this thread for the rest of its run.
    static LEAVING: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Sets something up on this thread until it leaves the run it works for: `enter` is called unless it
/// was already in this run, `leave` when the thread is done with its tasks, whoever's thread it is. A
/// thread sets up one thing only.
pub(crate) fn until_leaving(enter: fn(), leave: fn()) {
    if LEAVING.get().is_none() {
        enter();
        LEAVING.set(Some(leave));
    }
}

/// The thread is done with the tasks of a run.
fn leave() {
    if let Some(leave) = LEAVING.take() {
        leave();
    }
}

/// Persistent worker threads; the calling thread is worker 0.
pub struct Pool {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    idle: Condvar,
    /// Copy of `State::epoch` that waiting workers can watch without the lock.
    epoch: AtomicUsize,
    /// Number of workers inside the current job; changed under the lock only.
    active: AtomicUsize,
    next: AtomicUsize,
}

struct State {
    job: Option<Job>,
    epoch: usize,
    started: usize,
    sleeping: usize,
    closing: bool,
    panic: Option<Box<dyn Any + Send>>,
}

#[derive(Clone, Copy)]
struct Job {
    body: *const Body<'static>,
    tasks: usize,
    stop: *const AtomicBool,
}

// SAFETY: the body and the flag are `Sync`, and `Pool::run` keeps them alive until no worker can
// reach them.
unsafe impl Send for Job {}

impl Pool {
    /// [`Pool::try_new`] where threads are known to be had, as in tests.
    ///
    /// # Panics
    /// If the system refuses a thread.
    pub fn new(threads: usize) -> Pool {
        Pool::try_new(threads).unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// A pool of `threads` workers in all (at least one): the caller and `threads - 1` new threads,
    /// all of them running.
    ///
    /// # Errors
    /// Where the system refuses a thread; those that were started have ended then.
    pub fn try_new(threads: usize) -> Result<Pool, ThreadsRefused> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                job: None,
                epoch: 0,
                started: 0,
                sleeping: 0,
                closing: false,
                panic: None,
            }),
            wake: Condvar::new(),
            idle: Condvar::new(),
            epoch: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
        });
        let mut pool = Pool { shared, handles: Vec::new(), turn: Mutex::new(()) };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let serve = move || serve(&shared, index);
            match start(&format!("anyid-cpu-{index}"), serve) {
                Ok(handle) => pool.handles.push(handle),
                // Dropping the pool ends those that run.
                Err(refused) => {
                    let started = pool.threads();
                    return Err(ThreadsRefused { asked: threads, started, ..refused });
                }
            }
        }
        // A thread allocates while it starts, and nothing may once there is work.
        let mut state = lock(&pool.shared.state);
        while state.started < pool.handles.len() {
            state = pool.shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        Ok(pool)
    }

    /// Number of workers, the caller included; worker indices are `0..threads()`.
    pub fn threads(&self) -> usize {
        self.handles.len() + 1
    }

    /// Calls `body(task, worker)` once for every task in `0..tasks` and returns when all are done.
    ///
    /// No two calls with the same `worker` overlap. A run from inside a task of the same pool is
    /// carried out by that worker alone, under its own index. Inside [`with_stop`], tasks not yet
    /// handed out when the flag is set are left out.
    ///
    /// # Panics
    /// Raises the first panic of a task again; tasks not yet handed out are then skipped.
    pub fn run(&self, tasks: usize, body: &(dyn Fn(usize, usize) + Sync)) {
        if tasks == 0 {
            return;
        }
        let identity = Arc::as_ptr(&self.shared) as usize;
        let (pool, worker) = HERE.get();
        if pool == identity {
            for task in (0..tasks).take_while(|_| !stop_requested()) {
                body(task, worker);
            }
            return;
        }
        let turn = lock(&self.turn);
        let before = HERE.replace((identity, 0));
        let failure = if tasks == 1 || self.handles.is_empty() {
            let tasks = (0..tasks).take_while(|_| !stop_requested());
            let work = || tasks.for_each(|task| body(task, 0));
            catch_unwind(AssertUnwindSafe(work)).err()
        } else {
            self.run_shared(tasks, body)
        };
        leave();
        HERE.set(before);
        drop(turn);
        if let Some(payload) = failure {
            resume_unwind(payload);
        }
    }

    fn run_shared(&self, tasks: usize, body: &Body<'_>) -> Option<Box<dyn Any + Send>> {
        let shared = &*self.shared;
        let stop = stop::flag();
        // SAFETY: only the lifetime is widened; this function returns after the job is withdrawn
        // and `active` is zero, so no worker uses the body after the borrow ends.
        let body_static = unsafe { std::mem::transmute::<&Body<'_>, &'static Body<'static>>(body) };
        {
            let mut state = lock(&shared.state);
            shared.next.store(0, Ordering::Relaxed);
            state.job = Some(Job { body: body_static, tasks, stop });
            state.epoch = state.epoch.wrapping_add(1);
            shared.epoch.store(state.epoch, Ordering::Release);
            for _ in 0..state.sleeping.min(tasks - 1) {
                shared.wake.notify_one();
            }
        }
        let own = catch_unwind(AssertUnwindSafe(|| drain(shared, body, tasks, stop, 0))).err();
        if own.is_some() {
            shared.next.store(tasks, Ordering::Relaxed);
        }
        let mut state = lock(&shared.state);
        state.job = None;
        if shared.active.load(Ordering::Acquire) != 0 {
            drop(state);
            spin_until(|| shared.active.load(Ordering::Acquire) == 0);
            state = lock(&shared.state);
            while shared.active.load(Ordering::Acquire) != 0 {
                state = shared.idle.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let other = state.panic.take();
        own.or(other)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.shared.state);
            state.closing = true;
            state.epoch = state.epoch.wrapping_add(1);
            self.shared.epoch.store(state.epoch, Ordering::Release);
            self.shared.wake.notify_all();
        }
        for handle in self.handles.drain(..) {
            // A worker catches every panic of its tasks, so there is nothing left to report here.
            let _ = handle.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spin_until(ready: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if ready() {
            return;
        }
        std::hint::spin_loop();
    }
}

fn drain(shared: &Shared, body: &Body<'_>, tasks: usize, stop: *const AtomicBool, worker: usize) {
    loop {
        let task = shared.next.fetch_add(1, Ordering::Relaxed);
        if task >= tasks || is_set(stop) {
            return;
        }
        body(task, worker);
    }
}

fn serve(shared: &Shared, index: usize) {
    HERE.set((shared as *const Shared as usize, index));
    let mut seen = 0;
    lock(&shared.state).started += 1;
    shared.idle.notify_one();
    loop {
        spin_until(|| shared.epoch.load(Ordering::Acquire) != seen);
        let mut state = lock(&shared.state);
        while state.epoch == seen {
            state.sleeping += 1;
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.sleeping -= 1;
        }
        seen = state.epoch;
        if state.closing {
            return;
        }
        // A worker that wakes after the job was withdrawn finds none and waits for the next.
        let Some(job) = state.job else { continue };
        shared.active.fetch_add(1, Ordering::AcqRel);
        drop(state);
        // SAFETY: the job was present under the lock and this worker is counted in `active`, so
        // `run_shared` cannot return, and the body cannot die, before the count drops below.
        let body = unsafe { &*job.body };
        let scope = StopScope::enter(job.stop);
        let work = || drain(shared, body, job.tasks, job.stop, index);
        let outcome = catch_unwind(AssertUnwindSafe(work));
        leave();
        drop(scope);
        let mut state = lock(&shared.state);
        if let Err(payload) = outcome {
            shared.next.store(job.tasks, Ordering::Relaxed);
            state.panic.get_or_insert(payload);
        }
        if shared.active.fetch_sub(1, Ordering::AcqRel) == 1 {
            shared.idle.notify_one();
        }
    }
}

/// One scratch buffer of the caller cut into an aligned region for each worker.
pub struct WorkerScratch<'a> {
    base: *mut u8,
    stride: usize,
    workers: usize,
    owner: PhantomData<&'a mut [u8]>,
}

// SAFETY: the buffer is exclusively borrowed and regions of different workers do not overlap.
unsafe impl Sync for WorkerScratch<'_> {}

impl<'a> WorkerScratch<'a> {
    /// Bytes a buffer needs for `workers` regions of `each` bytes, alignment included.
    pub fn bytes(each: usize, workers: usize) -> usize {
        if each == 0 { 0 } else { each.next_multiple_of(ALIGN) * workers + ALIGN - 1 }
    }

    /// Cuts `buffer` into `workers` regions of at least `each` bytes, each [`ALIGN`]-aligned.
    ///
    /// # Panics
    /// If the buffer is smaller than [`WorkerScratch::bytes`].
    pub fn new(buffer: &'a mut [u8], each: usize, workers: usize) -> WorkerScratch<'a> {
        let needed = WorkerScratch::bytes(each, workers);
        assert!(buffer.len() >= needed, "scratch has {} bytes, needs {needed}", buffer.len());
        let skip = buffer.as_ptr().align_offset(ALIGN);
        let base = if each == 0 { buffer.as_mut_ptr() } else { buffer[skip..].as_mut_ptr() };
        WorkerScratch { base, stride: each.next_multiple_of(ALIGN), workers, owner: PhantomData }
    }

    /// The region of one worker, as a pointer to `each` bytes (rounded up to [`ALIGN`]).
    ///
    /// Only the task that runs as `worker` may use it, and only until it ends.
    ///
    /// # Panics
    /// If `worker` is not below the number of regions.
    pub fn region(&self, worker: usize) -> *mut u8 {
        assert!(worker < self.workers, "worker {worker} of {} has no scratch", self.workers);
        // SAFETY: `new` checked that all regions lie inside the buffer.
        unsafe { self.base.add(worker * self.stride) }
    }
}

/// A pointer that tasks may share; whoever dereferences it states why its accesses are disjoint.
pub(crate) struct SharedPtr<T>(*mut T);

impl<T> Clone for SharedPtr<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedPtr<T> {}

// SAFETY: the pointer itself carries no access; every dereference is an unsafe block of its own.
unsafe impl<T> Send for SharedPtr<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SharedPtr<T> {}

impl<T> SharedPtr<T> {
    pub(crate) fn new(pointer: *mut T) -> SharedPtr<T> {
        SharedPtr(pointer)
    }

    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests;
