//! Plans on a GPU: made ready, and run.
//!
//! What a plan launches is resolved and recorded in `resolve`. A run copies the inputs, launches the
//! graphs with at most two of them under way while it asks whether to stop, and copies the outputs with
//! what kernels report. Where times or values are asked for, launches go out one by one.

use super::driver::{Event, Refused, Result as Done};
use super::finite;
use super::load::Loaded;
use super::memory::{GpuArena, Memory, Pinned};
use super::resolve::{Bound, Parts, Prepared, Resolved, TOGETHER, check, constant_bytes};
use super::{Gpu, Launching};
use crate::cuda::emit::Emitted;
use crate::cuda::launches::{self, Ports, Roots, Span};
use crate::device::{Arena, Call, LaunchTime, Runner, Times, Trace, Value as Stored, Weights};
use crate::errors::{LoadError, NoMemory, RunError};
use crate::stop::stop_requested;
use anyid_ir::Tensor;
use anyid_ir::plan::{BufferId, Plan, Root};
use std::sync::Arc;

/// Events for the times of launches and for waiting.
struct Events {
    gpu: Arc<Gpu>,
    list: Vec<Event>,
}

impl Events {
    /// At least `count` of them.
    fn at_least(&mut self, count: usize) -> Done<&[Event]> {
        while self.list.len() < count {
            self.list.push(self.gpu.driver.event()?);
        }
        Ok(&self.list)
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.list.drain(..).for_each(|event| self.gpu.driver.drop_event(event));
    }
}

struct Ready {
    loaded: Arc<Loaded>,
    plans: Vec<Prepared>,
    workspace: Memory,
    edge: Memory,
    faults: Memory,
    /// Held for the launches that read them.
    constants: Memory,
    /// The edge in memory of the process, and the faults behind it.
    mirror: Pinned,
    /// First byte of the faults in the mirror.
    faults_at: usize,
    events: Events,
}

impl Weights for Loaded {
    fn bytes(&self) -> u64 {
        self.total()
    }

    fn prepare(self: Arc<Self>, plans: Vec<Plan>) -> Result<Box<dyn Runner>, LoadError> {
        let gpu = &self.gpu;
        let failed = |refused: Refused| LoadError::Failed(gpu.fault(&refused));
        let architecture = gpu.kernels.architecture();
        let sources: Vec<Vec<Emitted>> =
            plans.iter().map(|plan| launches::emitted(plan, architecture)).collect();
        let seen = plans.iter().flat_map(|plan| {
            let ports = plan.outputs.iter().chain(&plan.kept).map(|port| port.buffer);
            let states = plan.states.iter().map(|state| &state.ty);
            ports.map(|id| &plan.buffer(id).ty).chain(states)
        });
        let looks = finite::kernels(seen);
        let all = || sources.iter().flatten();
        gpu.kernels
            .load(&gpu.about.name, &*gpu.driver, all().chain(&looks))
            .map_err(LoadError::Failed)?;
        let reserve = |what: &str, bytes: u64| {
            let refused =
                |refused: Refused| LoadError::Failed(gpu.refused_memory(what, bytes, &refused));
            Memory::new(gpu, bytes).map_err(refused)
        };
        let most = |of: &dyn Fn(&Plan) -> u64| plans.iter().map(of).max().unwrap_or(0);
        let workspace = reserve("intermediate values", most(&|plan| plan.workspace_bytes))?;
        let edge = reserve("inputs and outputs", most(&|plan| Ports::new(plan).bytes()))?;
        let constants = reserve("constants of kernels", all().map(constant_bytes).sum())?;
        send(gpu, &constants, all()).map_err(failed)?;
        let mut from = 0;
        let ready = |(plan, sources): (Plan, Vec<Emitted>)| {
            Prepared::new(gpu, plan, sources, constants.span(), &mut from)
        };
        let plans: Vec<Prepared> = plans.into_iter().zip(sources).map(ready).collect();
        let words = plans.iter().map(|plan| plan.faults).max().unwrap_or(0) * size_of::<u64>();
        let faults = reserve("reports of kernels", words as u64)?;
        let faults_at = edge.span().bytes as usize;
        let mirror = Pinned::new(gpu, faults_at + words).map_err(failed)?;
        let events = Events { gpu: gpu.clone(), list: Vec::new() };
        Ok(Box::new(Ready {
            loaded: self.clone(),
            plans,
            workspace,
            edge,
            faults,
            constants,
            mirror,
            faults_at,
            events,
        }))
    }
}

/// Copies the constants of kernels to the GPU.
fn send<'e>(gpu: &Arc<Gpu>, to: &Memory, all: impl Iterator<Item = &'e Emitted>) -> Done<()> {
    let to = to.span();
    let mut piece = Pinned::new(gpu, to.bytes as usize)?;
    let mut at = 0;
    for each in all {
        piece.bytes_mut()[at..at + each.constants.len()].copy_from_slice(&each.constants);
        at += constant_bytes(each) as usize;
    }
    // Given up before the piece is, which takes a turn of its own to go.
    let turn = gpu.turn();
    // SAFETY: both pieces are there until the stream is past the copy, for which this waits.
    let sent = unsafe { piece.upload(0, to) };
    let done = sent.and_then(|()| gpu.driver.wait());
    drop(turn);
    done
}

/// What a run has beside the memory: where the plan is resolved, and what is asked for.
struct Run<'r, 'c> {
    gpu: &'r Arc<Gpu>,
    roots: &'r Roots<'r>,
    bound: &'r mut Bound,
    events: &'r mut Events,
    times: Option<&'r mut Times>,
    trace: Option<&'r mut Trace<'c>>,
}

impl Run<'_, '_> {
    fn failed(&self, step: Option<usize>, refused: &Refused) -> RunError {
        let label = step.map(|step| self.roots.plan.steps[step].label().to_owned());
        RunError::Failed { label, fault: self.gpu.fault(refused) }
    }

    /// Launches everything. At most two parts are under way when it asks whether to stop.
    fn launch(&mut self) -> Result<(), RunError> {
        let graphs = self.gpu.launching == Launching::Graphs;
        let single = self.times.is_some() || self.trace.is_some() || !graphs;
        if !single {
            let recorded = self.bound.record(self.gpu);
            recorded.map_err(|refused| self.failed(None, &refused))?;
        }
        let steps = self.bound.launches.iter().filter(|each| each.step.is_some()).count();
        let timed = self.times.is_some();
        let wanted = 2 + if timed { steps + 1 } else { 0 };
        if let Err(refused) = self.events.at_least(wanted) {
            return Err(self.failed(None, &refused));
        }
        let events = self.events.list.clone();
        let ([first, second], marks) = ([events[0], events[1]], &events[2..]);
        let start = match &self.times {
            Some(times) => {
                // The host's clock and the device's are compared while the stream is empty.
                let driver = &self.gpu.driver;
                driver
                    .wait()
                    .and_then(|()| driver.record(marks[0]))
                    .and_then(|()| driver.wait())
                    .map_err(|refused| self.failed(None, &refused))?;
                times.now()
            }
            None => 0,
        };
        let parts = self.bound.launches.len().div_ceil(TOGETHER);
        for part in 0..parts {
            if part >= 2 {
                let before = if part % 2 == 0 { first } else { second };
                let waited = self.gpu.driver.wait_for(before);
                waited.map_err(|refused| self.failed(None, &refused))?;
            }
            if stop_requested() {
                return Err(RunError::Stopped);
            }
            if single {
                self.one_by_one(part, if timed { marks } else { &[] })?;
            } else {
                // SAFETY: all memory that the launches name lives as long as the plans that are ready and
                // the arenas of the call, and the run waits for the end.
                let done = unsafe { self.gpu.driver.launch_graph(self.bound.graphs.list[part]) };
                done.map_err(|refused| self.failed(None, &refused))?;
            }
            let mark = if part % 2 == 0 { first } else { second };
            let marked = self.gpu.driver.record(mark);
            marked.map_err(|refused| self.failed(None, &refused))?;
        }
        if timed {
            self.tell(marks, steps, start)?;
        }
        Ok(())
    }

    /// The launches of a part, each followed by its mark.
    fn one_by_one(&mut self, part: usize, marks: &[Event]) -> Result<(), RunError> {
        let all = self.bound.launches.len();
        for at in part * TOGETHER..((part + 1) * TOGETHER).min(all) {
            let Resolved { step, function, grid, values } = &self.bound.launches[at];
            // SAFETY: as for graphs.
            let mut done = unsafe { self.gpu.driver.launch(*function, *grid, values) };
            let step = *step;
            if let (Some(step), false) = (step, marks.is_empty()) {
                done = done.and_then(|()| self.gpu.driver.record(marks[step + 1]));
            }
            if self.gpu.launching == Launching::Waiting {
                done = done.and_then(|()| self.gpu.driver.wait());
            }
            done.map_err(|refused| self.failed(step, &refused))?;
            if let Some(step) = step.filter(|_| self.trace.is_some()) {
                self.show(step)?;
            }
        }
        Ok(())
    }

    /// Shows the results of a step.
    fn show(&mut self, step: usize) -> Result<(), RunError> {
        let plan = self.roots.plan;
        let at = &plan.steps[step];
        for (result, label) in at.results.iter().zip(&at.labels) {
            if stop_requested() {
                return Err(RunError::Stopped);
            }
            let tensor =
                self.tensor(*result).map_err(|refused| self.failed(Some(step), &refused))?;
            if let Some(trace) = self.trace.as_mut() {
                trace(label, &tensor);
            }
        }
        Ok(())
    }

    /// What a buffer holds when the stream is done.
    fn tensor(&self, id: BufferId) -> Done<Tensor> {
        let ty = self.roots.plan.buffer(id).ty.clone();
        // In one copy with the gaps between the rows, which are left out here.
        let span = self.roots.span(id);
        let mut all = vec![0; span.bytes as usize];
        if !all.is_empty() {
            // SAFETY: both pieces are there until the stream is past the copy, for which this waits.
            unsafe { self.gpu.driver.download(all.as_mut_ptr(), span.address, all.len())? };
        }
        self.gpu.driver.wait()?;
        let mut bytes = Vec::with_capacity(ty.bytes() as usize);
        for piece in self.roots.pieces(id) {
            let from = (piece.address - span.address) as usize;
            bytes.extend_from_slice(&all[from..from + piece.bytes as usize]);
        }
        Ok(Tensor::from_bytes(ty, &bytes).expect("a buffer holds its type"))
    }

    /// Tells when the launches ran: a mark stands in front of the first and behind each of them.
    fn tell(&mut self, marks: &[Event], steps: usize, start: u64) -> Result<(), RunError> {
        let driver = &self.gpu.driver;
        let told = driver.wait().and_then(|()| {
            let place = |mark: &Event| {
                let seconds = driver.seconds(marks[0], *mark)?;
                Ok(start + (seconds * 1e9) as u64)
            };
            marks[..=steps].iter().map(place).collect::<Done<Vec<u64>>>()
        });
        let places = told.map_err(|refused| self.failed(None, &refused))?;
        if let Some(times) = self.times.as_mut() {
            for (step, pair) in places.windows(2).enumerate() {
                times.push(LaunchTime { step, begin: pair[0], end: pair[1] });
            }
        }
        Ok(())
    }
}

impl Ready {
    /// Runs a plan; the caller has the turn, and waits for the stream where this fails.
    fn go(&mut self, at: usize, call: Call<'_, '_>) -> Result<(), RunError> {
        let gpu = &self.loaded.gpu.clone();
        let failed =
            |refused: Refused| RunError::Failed { label: None, fault: gpu.fault(&refused) };
        let Call { inputs, outputs, kept, states, times, trace, finite } = call;
        let kept = kept.map_or(Span::default(), GpuArena::span);
        let states = states.map_or(Span::default(), GpuArena::span);
        let Self { loaded, plans, workspace, edge, faults, mirror, faults_at, events, .. } = self;
        let Prepared { plan, ports, states_at, launches, looks, faults: count, bound } =
            &mut plans[at];
        let (edge, faults_at) = (edge.span(), *faults_at);
        let roots = Roots {
            plan,
            ports,
            states_at,
            weights: &|name, packed| loaded.span(name, packed),
            workspace: workspace.span(),
            kept,
            states,
            edge,
        };
        let words = *count * size_of::<u64>();
        let faults = faults.span().part(0, words as u64);
        Parts { gpu, roots: &roots, launches, looks, faults }.bind(bound)?;
        for (at, bytes) in inputs.iter().enumerate() {
            let to = roots.root(Root::Input(at as u32));
            let from = (to.address - edge.address) as usize;
            mirror.bytes_mut()[from..from + bytes.len()].copy_from_slice(bytes);
            // SAFETY: the last run has waited for its copies, this one waits before it comes back, and
            // pieces of the mirror share no byte.
            unsafe { mirror.upload(from, to) }.map_err(failed)?;
        }
        if words > 0 {
            // SAFETY: the memory is there as long as this value.
            unsafe { gpu.driver.set(faults.address, 0xFF, faults.bytes) }.map_err(failed)?;
        }
        let bound = bound.last_mut().expect("it was just resolved");
        Run { gpu, roots: &roots, bound, events, times, trace }.launch()?;
        // SAFETY: the mirror is looked at behind the wait.
        unsafe { mirror.download(faults_at, faults) }.map_err(failed)?;
        for (port, to) in plan.outputs.iter().zip(&ports.outputs) {
            // Wherever it lies, what leaves a plan is dense.
            let from = roots.span(port.buffer);
            // SAFETY: as above.
            unsafe { mirror.download(*to as usize, from) }.map_err(failed)?;
        }
        gpu.driver.wait().map_err(failed)?;
        let reports = &mirror.bytes()[faults_at..faults_at + words];
        let words = reports.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let words: smallvec::SmallVec<[u64; 64]> = words.collect();
        check(plan, launches, &words)?;
        if let Some(finite) = finite {
            *finite = Some(looks.iter().all(|look| words[look.fault] == u64::MAX));
        }
        for (from, out) in ports.outputs.iter().zip(outputs.iter_mut()) {
            out.copy_from_slice(&mirror.bytes()[*from as usize..][..out.len()]);
        }
        if stop_requested() { Err(RunError::Stopped) } else { Ok(()) }
    }
}

impl Runner for Ready {
    fn plan(&self, at: usize) -> &Plan {
        &self.plans[at].plan
    }

    fn workspace_bytes(&self) -> u64 {
        self.workspace.span().bytes
    }

    fn memory_bytes(&self) -> u64 {
        [&self.workspace, &self.edge, &self.faults, &self.constants]
            .into_iter()
            .map(|memory| memory.span().bytes)
            .sum()
    }

    fn kept(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        GpuArena::reserve(&self.loaded.gpu, plan.persistent_bytes, Stored::kept(plan))
    }

    fn states(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        GpuArena::reserve(&self.loaded.gpu, plan.state_bytes(), Stored::states(plan))
    }

    fn run(&mut self, at: usize, call: Call<'_, '_>) -> Result<(), RunError> {
        let gpu = self.loaded.gpu.clone();
        let _turn = gpu.turn();
        let done = self.go(at, call);
        if done.is_err() {
            // Nothing of this run may be under way when its memory is used again.
            let _ = gpu.driver.wait();
        }
        done
    }

    fn fill(&mut self, byte: u8) {
        let gpu = &self.loaded.gpu;
        let _turn = gpu.turn();
        for memory in [&self.workspace, &self.edge] {
            let Span { address, bytes, .. } = memory.span();
            if bytes > 0 {
                // SAFETY: the memory is there as long as this value.
                let _ = unsafe { gpu.driver.set(address, byte, bytes) };
            }
        }
        let _ = gpu.driver.wait();
    }

    fn workspace(&mut self, from: u64, out: &mut [u8]) {
        let gpu = &self.loaded.gpu;
        let _turn = gpu.turn();
        let from = self.workspace.span().part(from, out.len() as u64);
        if !out.is_empty() {
            // SAFETY: both pieces are there until the stream is past the copy, for which this waits.
            let _ = unsafe { gpu.driver.download(out.as_mut_ptr(), from.address, out.len()) };
        }
        let _ = gpu.driver.wait();
    }
}
