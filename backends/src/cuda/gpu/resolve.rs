//! What a plan launches, resolved for the memory that it runs on, and recorded as graphs.
//!
//! Everything that a launch needs is known here once: the kernel, the threads, addresses, numbers and
//! tensor maps. Nothing is launched; `run` does that.

use super::Gpu;
use super::driver::{Function, Graph, Result as Done, Value};
use super::finite;
use crate::cuda::emit::{Emitted, Grid};
use crate::cuda::launches::{self, Parameter, Ports, Roots, Span, worst};
use crate::errors::RunError;
use crate::places::GAP;
use anyid_ir::plan::Plan;
use std::sync::Arc;

/// Launches of a graph.
pub(super) const TOGETHER: usize = if cfg!(test) { 2 } else { 32 };

/// Pieces of memory, each with its own kept values and states, that a plan is resolved for at a time.
const RESOLVED: usize = 4;

/// Bytes of the constants of a kernel, with the gap behind them.
pub(super) fn constant_bytes(emitted: &Emitted) -> u64 {
    (emitted.constants.len() as u64).next_multiple_of(GAP)
}

/// A step that is ready.
pub(super) struct Launch {
    emitted: Emitted,
    function: Function,
    constants: Span,
    /// The place of its first fault among those of the plan.
    fault: usize,
}

/// A look at an output.
pub(super) struct Look {
    output: usize,
    function: Function,
    pub(super) fault: usize,
}

/// A launch on memory that is known.
pub(super) struct Resolved {
    /// The step; `None` for a look at an output.
    pub(super) step: Option<usize>,
    pub(super) function: Function,
    pub(super) grid: Grid,
    pub(super) values: Vec<Value>,
}

/// A plan on the memory of kept values and states.
pub(super) struct Bound {
    pub(super) kept: Span,
    pub(super) states: Span,
    pub(super) launches: Vec<Resolved>,
    /// The launches in order, so many of them together; empty until the first run that takes them.
    pub(super) graphs: Graphs,
}

pub(super) struct Graphs {
    gpu: Arc<Gpu>,
    pub(super) list: Vec<Graph>,
}

impl Drop for Graphs {
    fn drop(&mut self) {
        for graph in self.list.drain(..) {
            // SAFETY: it was made here, and every run waits for the end of its launches.
            unsafe { self.gpu.driver.drop_graph(graph) };
        }
    }
}

/// A plan that is ready.
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) ports: Ports,
    pub(super) states_at: Vec<u64>,
    pub(super) launches: Vec<Launch>,
    pub(super) looks: Vec<Look>,
    /// Faults of all launches and looks.
    pub(super) faults: usize,
    pub(super) bound: Vec<Bound>,
}

impl Prepared {
    /// A plan with its kernels, whose constants begin at byte `from`.
    pub(super) fn new(
        gpu: &Gpu,
        plan: Plan,
        sources: Vec<Emitted>,
        constants: Span,
        from: &mut u64,
    ) -> Self {
        let mut faults = 0;
        let mut launch = |mut emitted: Emitted| {
            let own = constants.part(*from, emitted.constants.len() as u64);
            *from += constant_bytes(&emitted);
            let fault = faults;
            faults += emitted.tables.len();
            // What is not asked for any more.
            (emitted.text, emitted.constants) = (String::new(), Vec::new());
            let function = gpu.kernels.find(&emitted.name);
            Launch { emitted, function, constants: own, fault }
        };
        let launches = sources.into_iter().map(&mut launch).collect();
        let mut looks = Vec::new();
        for (output, port) in plan.outputs.iter().enumerate() {
            if let Some(kernel) = finite::kernel(plan.buffer(port.buffer).ty.dtype) {
                let function = gpu.kernels.find(&kernel.name);
                looks.push(Look { output, function, fault: faults });
                faults += 1;
            }
        }
        let (ports, states_at) = (Ports::new(&plan), plan.state_layout().0);
        Self { plan, ports, states_at, launches, looks, faults, bound: Vec::new() }
    }
}

/// What is resolved: where a plan lies, and what is launched.
pub(super) struct Parts<'p> {
    pub(super) gpu: &'p Arc<Gpu>,
    pub(super) roots: &'p Roots<'p>,
    pub(super) launches: &'p [Launch],
    pub(super) looks: &'p [Look],
    /// The faults of the plan.
    pub(super) faults: Span,
}

impl Parts<'_> {
    /// Resolves the plan on its memory, as the last of `bound`, if that was not done yet.
    ///
    /// # Errors
    /// What the driver refuses.
    pub(super) fn bind(&self, bound: &mut Vec<Bound>) -> Result<(), RunError> {
        let Self { gpu, roots, launches, looks, faults } = self;
        let own = [roots.kept, roots.states];
        if let Some(at) = bound.iter().position(|bound| [bound.kept, bound.states] == own) {
            bound[at..].rotate_left(1);
            return Ok(());
        }
        let word = size_of::<u64>() as u64;
        let part = |at: usize, count: usize| faults.part(at as u64 * word, count as u64 * word);
        let mut resolved = Vec::with_capacity(launches.len() + looks.len());
        for (index, (step, launch)) in roots.plan.steps.iter().zip(*launches).enumerate() {
            let grid = launches::grid(&launch.emitted, gpu.processors);
            let faults = part(launch.fault, launch.emitted.tables.len());
            let own = [launch.constants, faults];
            let given = roots.parameters(step, &launch.emitted, own, grid.blocks[0]);
            let values = given.iter().map(|parameter| match parameter {
                Parameter::Memory(span) => Ok(Value::Memory(*span)),
                Parameter::Size(size) => Ok(Value::Size(*size)),
                Parameter::Map(matrix) => gpu.driver.map(matrix).map(Value::Map),
            });
            let values = values.collect::<Done<Vec<Value>>>().map_err(|refused| {
                let label = Some(step.label().to_owned());
                RunError::Failed { label, fault: gpu.fault(&refused) }
            })?;
            let (step, function) = (Some(index), launch.function);
            resolved.push(Resolved { step, function, grid, values });
        }
        for look in *looks {
            let id = roots.plan.outputs[look.output].buffer;
            let ty = &roots.plan.buffer(id).ty;
            if ty.elements() == 0 {
                continue;
            }
            let (grid, values) = finite::look(ty, roots.span(id), part(look.fault, 1));
            let (step, function, values) = (None, look.function, values.to_vec());
            resolved.push(Resolved { step, function, grid, values });
        }
        if bound.len() == RESOLVED {
            bound.remove(0);
        }
        let [kept, states] = own;
        let graphs = Graphs { gpu: (*gpu).clone(), list: Vec::new() };
        bound.push(Bound { kept, states, launches: resolved, graphs });
        Ok(())
    }
}

impl Bound {
    /// Records the launches, if that was not done yet.
    pub(super) fn record(&mut self, gpu: &Gpu) -> Done<()> {
        if !self.graphs.list.is_empty() {
            return Ok(());
        }
        let mut list = Vec::with_capacity(self.launches.len().div_ceil(TOGETHER));
        let mut record = |part: &[Resolved]| -> Done<()> {
            gpu.driver.begin_capture()?;
            // SAFETY: nothing is launched here; whoever launches the graph vouches for the memory.
            let done = part.iter().try_for_each(|each| unsafe {
                gpu.driver.launch(each.function, each.grid, &each.values)
            });
            // A recording has to end, whatever became of it.
            let ended = gpu.driver.end_capture();
            list.extend(ended.as_ref().ok());
            done.and(ended).map(|_| ())
        };
        if let Err(refused) = self.launches.chunks(TOGETHER).try_for_each(&mut record) {
            // SAFETY: none of them was launched.
            list.into_iter().for_each(|graph| unsafe { gpu.driver.drop_graph(graph) });
            return Err(refused);
        }
        self.graphs.list = list;
        Ok(())
    }
}

/// The error of the first step in which an index is no row of its table.
pub(super) fn check(plan: &Plan, launches: &[Launch], words: &[u64]) -> Result<(), RunError> {
    for (step, launch) in plan.steps.iter().zip(launches) {
        let tables = &launch.emitted.tables;
        if let Some((table, index)) = worst(&words[launch.fault..launch.fault + tables.len()]) {
            let (label, index) = (step.label().to_owned(), i64::from(index));
            return Err(RunError::Index { label, index, rows: tables[table] });
        }
    }
    Ok(())
}
