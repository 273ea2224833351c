//! A driver without a GPU, for tests of the device: memory of the process, a stream that does its work
//! as late as it may or at once, and a record of the calls.
//!
//! It panics where a call breaks the contract: a copy or a launch that leaves its memory, memory that
//! is given back while the stream uses it, a handle that is not there, anything that is never given back.
//! What a kernel does is the test's to say.

use super::driver::{
    Driver, Event, Function, Graph, Module, Refused, Result, Room, TensorMap, Trouble, Value,
};
use crate::AlignedBytes;
use crate::cuda::emit::Grid;
use crate::cuda::launches::{Matrix, Parameter, Span};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What launches do: gets the name of the kernel, the threads and the parameters.
pub(super) type Launched = dyn Fn(&str, Grid, &[Parameter]) + Send + Sync;

/// Machine code as the driver takes it: this, and the name of the kernel.
pub(super) const CODE: &[u8] = b"code of ";

#[derive(Clone, Debug)]
enum Work {
    Upload { to: u64, from: usize, bytes: usize },
    Download { to: usize, from: u64, bytes: usize },
    Copy { to: u64, from: u64, bytes: usize },
    Set { at: u64, byte: u8, bytes: usize },
    Launch { name: String, grid: Grid, values: Vec<Value> },
    Record(u64),
}

#[derive(Default)]
struct State {
    /// First byte and length of what is allocated.
    memory: BTreeMap<u64, (u64, AlignedBytes)>,
    pinned: BTreeMap<usize, AlignedBytes>,
    modules: BTreeMap<u64, Vec<u8>>,
    functions: BTreeMap<u64, (u64, String)>,
    maps: Vec<Matrix>,
    /// When the stream was past an event, if it is.
    events: BTreeMap<u64, Option<u64>>,
    graphs: BTreeMap<u64, Vec<Work>>,
    capture: Option<Vec<Work>>,
    queue: VecDeque<Work>,
    log: Vec<String>,
    next: u64,
    clock: u64,
    /// Calls that fail: the name, how many of them are right before, and how it fails.
    faults: Vec<(&'static str, usize, Trouble)>,
    lost: bool,
}

/// The driver. Clones are the same one.
#[derive(Clone)]
pub(super) struct Faked(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Bytes of the GPU.
    all: u64,
    /// Whether work is done when somebody waits for it, and not at once.
    late: bool,
    launched: Box<Launched>,
}

/// The first multiple of 256 in memory that was asked for with as many bytes more.
fn aligned(memory: &mut AlignedBytes) -> u64 {
    let base = memory.bytes_mut().as_mut_ptr().expose_provenance() as u64;
    base.next_multiple_of(256)
}

impl Faked {
    pub(super) fn new(
        all: u64,
        late: bool,
        launched: impl Fn(&str, Grid, &[Parameter]) + Send + Sync + 'static,
    ) -> Self {
        let state = Mutex::new(State { next: 1, ..State::default() });
        Self(Arc::new(Inner { state, all, late, launched: Box::new(launched) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The calls since the last time.
    pub(super) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state().log)
    }

    /// Lets a call fail, after so many that do not.
    pub(super) fn fail(&self, call: &'static str, after: usize, trouble: Trouble) {
        self.state().faults.push((call, after, trouble));
    }

    /// What is held: pieces of memory, of pinned memory, modules, events and graphs.
    pub(super) fn held(&self) -> [usize; 5] {
        let state = self.state();
        let State { memory, pinned, modules, events, graphs, .. } = &*state;
        [memory.len(), pinned.len(), modules.len(), events.len(), graphs.len()]
    }

    /// A call: whether it fails, else the state.
    fn call(&self, call: &'static str) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let refused = |trouble| {
            let said = format!("{trouble:?}");
            Err(Refused { trouble, call, said })
        };
        if state.lost {
            return refused(Trouble::Lost);
        }
        let mut found = None;
        state.faults.retain_mut(|(own, after, trouble)| {
            if *own != call || found.is_some() {
                return true;
            }
            if *after == 0 {
                found = Some(*trouble);
                return false;
            }
            *after -= 1;
            true
        });
        if let Some(trouble) = found {
            if trouble == Trouble::Lost {
                // What was under way never comes to an end.
                state.lost = true;
                state.queue.clear();
            }
            return refused(trouble);
        }
        state.log.push(call.to_owned());
        Ok(state)
    }

    /// Puts work on the stream, or into what is recorded.
    fn put(&self, mut state: MutexGuard<'_, State>, work: Work) {
        state.check(&work);
        match &mut state.capture {
            Some(list) => {
                assert!(matches!(work, Work::Launch { .. }), "only launches are recorded");
                list.push(work);
            }
            None => {
                state.queue.push_back(work);
                drop(state);
                if !self.0.late {
                    self.work(None);
                }
            }
        }
    }

    /// Does what is on the stream, until it is past an event if one is given.
    fn work(&self, until: Option<u64>) {
        loop {
            let mut state = self.state();
            if until.is_some_and(|event| {
                !state.queue.iter().any(|w| matches!(w, Work::Record(e) if *e == event))
            }) {
                return;
            }
            let Some(work) = state.queue.pop_front() else { return };
            state.check(&work);
            match work {
                Work::Upload { to, from, bytes } => {
                    let (to, from) = (pointer(to), std::ptr::with_exposed_provenance::<u8>(from));
                    // SAFETY: `check` has found the memory of the device; the other one is the caller's word.
                    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
                }
                Work::Download { to, from, bytes } => {
                    let to = std::ptr::with_exposed_provenance_mut::<u8>(to);
                    // SAFETY: as above.
                    unsafe { std::ptr::copy_nonoverlapping(pointer(from).cast_const(), to, bytes) };
                }
                Work::Copy { to, from, bytes } => {
                    // SAFETY: `check` has found both.
                    unsafe {
                        std::ptr::copy_nonoverlapping(
                            pointer(from).cast_const(),
                            pointer(to),
                            bytes,
                        )
                    };
                }
                Work::Set { at, byte, bytes } => {
                    // SAFETY: `check` has found it.
                    unsafe { pointer(at).write_bytes(byte, bytes) };
                }
                Work::Launch { name, grid, values } => {
                    let parameter = |value: &Value| match value {
                        Value::Memory(span) => Parameter::Memory(*span),
                        Value::Size(size) => Parameter::Size(*size),
                        Value::Map(map) => Parameter::Map(state.maps[map.0[0] as usize]),
                    };
                    let given: Vec<Parameter> = values.iter().map(parameter).collect();
                    drop(state);
                    (self.0.launched)(&name, grid, &given);
                }
                Work::Record(event) => {
                    state.clock += 1;
                    let now = state.clock;
                    state.events.insert(event, Some(now));
                }
            }
        }
    }
}

fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(address as usize)
}

impl State {
    fn handle(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Panics for bytes that are not all in one piece of memory.
    fn inside(&self, at: u64, bytes: u64) {
        let piece = self.memory.range(..=at).next_back();
        let whole = piece.is_some_and(|(first, (length, _))| at + bytes <= first + length);
        assert!(whole || bytes == 0, "{bytes} bytes at {at:#x} are not in one piece of memory");
    }

    fn check(&self, work: &Work) {
        match work {
            Work::Upload { to: at, bytes, .. }
            | Work::Download { from: at, bytes, .. }
            | Work::Set { at, bytes, .. } => {
                assert!(*bytes > 0, "work on nothing");
                self.inside(*at, *bytes as u64);
            }
            Work::Copy { to, from, bytes } => {
                self.inside(*to, *bytes as u64);
                self.inside(*from, *bytes as u64);
            }
            Work::Launch { grid, values, .. } => {
                assert!(grid.blocks.iter().all(|count| *count > 0) && grid.threads > 0);
                for value in values {
                    match value {
                        Value::Memory(Span { address, bytes, .. }) => self.inside(*address, *bytes),
                        Value::Size(_) => {}
                        Value::Map(map) => {
                            let Matrix { memory, stride_bytes, .. } = self.maps[map.0[0] as usize];
                            assert!(memory.address % 16 == 0 && stride_bytes % 16 == 0);
                            self.inside(memory.address, memory.bytes);
                        }
                    }
                }
            }
            Work::Record(event) => assert!(self.events.contains_key(event), "no such event"),
        }
    }

    /// Panics if what is on the stream uses memory of the device.
    fn unused(&self, first: u64, length: u64) {
        let meets = |at: u64, bytes: u64| at < first + length && first < at + bytes;
        for work in &self.queue {
            let used = match work {
                Work::Upload { to: at, bytes, .. }
                | Work::Download { from: at, bytes, .. }
                | Work::Set { at, bytes, .. } => meets(*at, *bytes as u64),
                Work::Copy { to, from, bytes } => {
                    meets(*to, *bytes as u64) || meets(*from, *bytes as u64)
                }
                Work::Launch { values, .. } => values.iter().any(|value| match value {
                    Value::Memory(span) => meets(span.address, span.bytes),
                    Value::Map(map) => {
                        let span = self.maps[map.0[0] as usize].memory;
                        meets(span.address, span.bytes)
                    }
                    Value::Size(_) => false,
                }),
                Work::Record(_) => false,
            };
            assert!(!used, "memory is given back while the stream uses it: {work:?}");
        }
    }
}

impl Driver for Faked {
    fn room(&self) -> Result<Room> {
        let state = self.call("room")?;
        let used: u64 = state.memory.values().map(|(length, _)| *length).sum();
        Ok(Room { free: self.0.all - used, all: self.0.all })
    }

    fn allocate(&self, bytes: u64) -> Result<u64> {
        assert!(bytes > 0, "nothing is allocated");
        let mut state = self.call("allocate")?;
        let used: u64 = state.memory.values().map(|(length, _)| *length).sum();
        if used + bytes > self.0.all {
            let said = "out of memory".to_owned();
            return Err(Refused { trouble: Trouble::Memory, call: "allocate", said });
        }
        let mut memory = AlignedBytes::zeroed(bytes as usize + 256);
        memory.bytes_mut().fill(0xFF);
        let address = aligned(&mut memory);
        state.memory.insert(address, (bytes, memory));
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        let mut state = self.state();
        let (length, _) = state.memory.remove(&address).expect("it was allocated");
        state.unused(address, length);
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        let mut state = self.call("pin")?;
        let mut memory = AlignedBytes::zeroed(bytes);
        let at = memory.bytes_mut().as_mut_ptr();
        state.pinned.insert(at.expose_provenance(), memory);
        Ok(at)
    }

    unsafe fn unpin(&self, memory: *mut u8) {
        let mut state = self.state();
        let pinned = state.pinned.remove(&memory.addr()).expect("it was pinned");
        let (first, end) = (memory.addr(), memory.addr() + pinned.len());
        for work in &state.queue {
            if let Work::Upload { from: at, .. } | Work::Download { to: at, .. } = work {
                assert!(*at < first || *at >= end, "pinned memory is given back too early");
            }
        }
    }

    unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        let state = self.call("upload")?;
        self.put(state, Work::Upload { to, from: from.expose_provenance(), bytes });
        Ok(())
    }

    unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        let state = self.call("download")?;
        self.put(state, Work::Download { to: to.expose_provenance(), from, bytes });
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()> {
        let state = self.call("copy")?;
        self.put(state, Work::Copy { to, from, bytes: bytes as usize });
        Ok(())
    }

    unsafe fn set(&self, at: u64, byte: u8, bytes: u64) -> Result<()> {
        let state = self.call("set")?;
        self.put(state, Work::Set { at, byte, bytes: bytes as usize });
        Ok(())
    }

    fn module(&self, cubin: &[u8]) -> Result<Module> {
        let mut state = self.call("module")?;
        if !cubin.starts_with(CODE) {
            let said = "this is no code".to_owned();
            return Err(Refused { trouble: Trouble::Image, call: "module", said });
        }
        let handle = state.handle();
        state.modules.insert(handle, cubin.to_vec());
        Ok(Module(handle))
    }

    unsafe fn unload(&self, module: Module) {
        let mut state = self.state();
        assert!(state.queue.is_empty(), "code is unloaded while the stream may run it");
        state.modules.remove(&module.0).expect("it was loaded");
        state.functions.retain(|_, (own, _)| *own != module.0);
    }

    fn function(&self, module: Module, name: &str, _: u32) -> Result<Function> {
        let mut state = self.call("function")?;
        let code = state.modules.get(&module.0).expect("it was loaded");
        if code[CODE.len()..] != *name.as_bytes() {
            let said = format!("there is no {name}");
            return Err(Refused { trouble: Trouble::Image, call: "function", said });
        }
        let handle = state.handle();
        state.functions.insert(handle, (module.0, name.to_owned()));
        Ok(Function(handle))
    }

    fn map(&self, matrix: &Matrix) -> Result<TensorMap> {
        let mut state = self.call("map")?;
        state.maps.push(*matrix);
        let mut map = TensorMap([0; 16]);
        map.0[0] = state.maps.len() as u64 - 1;
        Ok(map)
    }

    unsafe fn launch(&self, function: Function, grid: Grid, values: &[Value]) -> Result<()> {
        let state = self.call("launch")?;
        let name = state.functions.get(&function.0).expect("it was found").1.clone();
        self.put(state, Work::Launch { name, grid, values: values.to_vec() });
        Ok(())
    }

    fn event(&self) -> Result<Event> {
        let mut state = self.call("event")?;
        let handle = state.handle();
        state.events.insert(handle, None);
        Ok(Event(handle))
    }

    fn drop_event(&self, event: Event) {
        self.state().events.remove(&event.0).expect("it was made");
    }

    fn record(&self, event: Event) -> Result<()> {
        let mut state = self.call("record")?;
        state.events.insert(event.0, None).expect("it was made");
        self.put(state, Work::Record(event.0));
        Ok(())
    }

    fn wait_for(&self, event: Event) -> Result<()> {
        drop(self.call("wait_for")?);
        self.work(Some(event.0));
        Ok(())
    }

    fn seconds(&self, from: Event, to: Event) -> Result<f64> {
        let state = self.call("seconds")?;
        let [from, to] = [from, to].map(|event| state.events[&event.0].expect("it was waited for"));
        Ok((to - from) as f64 * 1e-3)
    }

    fn begin_capture(&self) -> Result<()> {
        let mut state = self.call("begin_capture")?;
        assert!(state.capture.is_none(), "one recording at a time");
        state.capture = Some(Vec::new());
        Ok(())
    }

    fn end_capture(&self) -> Result<Graph> {
        // A recording ends, whatever comes of it.
        let list = self.state().capture.take().expect("a recording is under way");
        let mut state = self.call("end_capture")?;
        let handle = state.handle();
        state.graphs.insert(handle, list);
        Ok(Graph(handle))
    }

    unsafe fn launch_graph(&self, graph: Graph) -> Result<()> {
        let mut state = self.call("launch_graph")?;
        let list = state.graphs.get(&graph.0).expect("it was recorded").clone();
        list.iter().for_each(|work| state.check(work));
        state.queue.extend(list);
        drop(state);
        if !self.0.late {
            self.work(None);
        }
        Ok(())
    }

    unsafe fn drop_graph(&self, graph: Graph) {
        self.state().graphs.remove(&graph.0).expect("it was recorded");
    }

    fn wait(&self) -> Result<()> {
        drop(self.call("wait")?);
        self.work(None);
        Ok(())
    }
}
