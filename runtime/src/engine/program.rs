//! Compiler, program and its execution on the chosen backend.

use super::tracer::{Launches, Tracer};
use super::{Inputs, Outputs, PlanFile, room};
use crate::error::{self, Error, Kind, Result};
use anyid_backends::WeightProvider;
pub use anyid_backends::cpu::Trace;
use anyid_backends::cpu::threads::with_stop;
use anyid_backends::cpu::{Cpu, Executable, LoadError, Memory, OpenError, RunError, Weights};
use anyid_ir::kernel::Target;
use anyid_ir::plan::{Branch, BufferId, Plan, Port, Root, State};
use anyid_ir::{Module, TensorType};
use anyid_passes::Options;
pub use anyid_passes::{CompileRequest, StateSpec};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most threads of a backend: more than any machine it is for, and few enough to be started.
const MOST_THREADS: usize = 512;

/// An opened device.
#[derive(Clone)]
pub struct Backend {
    cpu: Arc<Cpu>,
    tracer: Option<Arc<Tracer>>,
}

impl Backend {
    /// Opens `cpu`; `threads` 0 means all the processor has.
    ///
    /// # Errors
    /// E0904 for a device this build does not have, E0907 for a bad `ANYID_SIMD` setting, E0918 for
    /// more than 512 threads, E1025 where the system refuses them.
    pub fn open(device: &str, threads: usize) -> Result<Self> {
        if device != "cpu" {
            let known = ["cuda", "wgpu"].iter().any(|d| device.starts_with(d));
            let help = if known {
                "this build has the CPU backend only; use --device cpu"
            } else {
                "the devices are cpu, cuda:N and wgpu:N"
            };
            return Err(
                Error::input("E0904", format!("there is no device \"{device}\"")).help(help)
            );
        }
        if threads > MOST_THREADS {
            let message = format!("{threads} is not a number of threads from 0 to {MOST_THREADS}");
            return Err(Error::input("E0918", message).help("0 takes all the processor has"));
        }
        let cpu = Cpu::open(threads, std::env::var("ANYID_SIMD").ok().as_deref());
        let cpu = cpu.map_err(|why| match why {
            OpenError::Level(why) => {
                Error::input("E0907", why.to_string()).at("environment variable ANYID_SIMD")
            }
            OpenError::Threads(refused) => error::threads(refused),
        })?;
        Ok(Self { cpu: Arc::new(cpu), tracer: None })
    }

    /// The backend with every launch of the programs compiled for it recorded by `tracer`.
    #[must_use]
    pub fn traced(mut self, tracer: Arc<Tracer>) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Name of the target that plans for this device are compiled for.
    pub fn target(&self) -> &'static str {
        "cpu"
    }

    /// The CPU device.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }
}

/// Makes programs for a backend.
pub struct Compiler {
    backend: Backend,
    phases: Vec<(String, Plan)>,
    options: Options,
}

impl Compiler {
    /// A compiler for `backend`.
    pub fn new(backend: &Backend) -> Self {
        let target = anyid_backends::cpu::target();
        let options = Options { target, ..Options::default() };
        Self { backend: backend.clone(), phases: Vec::new(), options }
    }

    /// Compiles the phases added from here on as `options` say, for this backend's target.
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        let target = self.options.target;
        self.options = Options { target, ..options };
        self
    }

    /// Adds what `request` asks for, compiled for this backend: as phase `phase`, or, where the
    /// function is split, as phases `prepare` and `step`. Phases whose states agree share them.
    ///
    /// # Errors
    /// E05xx where the function cannot be compiled.
    pub fn add(mut self, phase: &str, request: CompileRequest<'_>) -> Result<Self> {
        verified(request.module)?;
        let split = request.varying.is_some();
        let request = request.with(&self.options);
        for mut plan in request.compile().map_err(compile_error)? {
            if !split {
                phase.clone_into(&mut plan.name);
            }
            self.phases.push((plan.name.clone(), plan));
        }
        Ok(self)
    }

    /// Adds function `func` of `module` as phase `phase`.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn phase(self, phase: &str, module: &Module, func: &str) -> Result<Self> {
        self.add(phase, CompileRequest::new(module, func))
    }

    /// Adds function `func` split into phases `prepare` and `step`: only the inputs `varying`
    /// change per step, everything that does not depend on them is computed by `prepare` once.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn split(self, module: &Module, func: &str, varying: &[&str]) -> Result<Self> {
        self.add("step", CompileRequest::new(module, func).varying(varying.iter().copied()))
    }

    /// Takes the phases of a plan file instead of compiling.
    #[must_use]
    pub fn phases_of(mut self, file: PlanFile) -> Self {
        let phases = file.into_phases();
        self.phases.extend(phases.into_iter().map(|plan| (plan.name.clone(), plan)));
        self
    }

    /// A compiler with the phases of the plan file at `path`, made for this backend: load its
    /// weights and run it.
    ///
    /// # Errors
    /// E0510 to E0519 where the file cannot be used, E0911 where it cannot be read.
    pub fn from_plan_file(backend: &Backend, path: &std::path::Path) -> Result<Self> {
        Ok(Self::new(backend).phases_of(PlanFile::open(path, backend.target())?))
    }

    /// The plans made so far, before any weight is loaded.
    pub fn plans(&self) -> impl Iterator<Item = (&str, &Plan)> {
        self.phases.iter().map(|(name, plan)| (name.as_str(), plan))
    }

    /// Bytes that the weights of all phases take once they are loaded.
    pub fn weight_bytes(&self) -> u64 {
        let plans: Vec<&Plan> = self.phases.iter().map(|(_, plan)| plan).collect();
        Weights::planned_bytes(&plans)
    }

    /// Bytes of workspace and kernel scratch that the program will reserve.
    pub fn memory_bytes(&self) -> u64 {
        let most = |of: &dyn Fn(&Plan) -> u64| self.plans().map(|(_, plan)| of(plan)).max();
        let scratch = |plan: &Plan| Executable::planned_scratch(&self.backend.cpu, plan) as u64;
        let workspace = most(&|plan| plan.workspace_bytes).unwrap_or(0);
        workspace.saturating_add(most(&scratch).unwrap_or(0))
    }

    /// Loads the weights of all phases and reserves the memory of the largest.
    ///
    /// `progress` gets weight bytes done and in all, and says whether to go on.
    ///
    /// # Errors
    /// E0301 for a weight the provider lacks, E0330 to E0332 for one that cannot be read, E0505 for a
    /// kernel that the backend does not have, E0603 for more memory than there is, E1002 when
    /// `progress` says stop.
    pub fn load(
        self,
        provider: Arc<dyn WeightProvider + Send + Sync>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Program> {
        let cpu = &self.backend.cpu;
        let plans: Vec<&Plan> = self.phases.iter().map(|(_, plan)| plan).collect();
        plans.iter().try_for_each(|plan| runnable(plan, &self.options.target))?;
        let planned = room::planned(plans.iter().copied());
        room::check(planned.saturating_add(Weights::planned_bytes(&plans)), "weights and plans")?;
        let weights = Weights::load(cpu, &plans, &*provider, progress).map_err(load_error)?;
        let (mut phases, mut launches) = (BTreeMap::new(), BTreeMap::new());
        let (mut workspace, mut scratch) = (0, 0);
        for (name, plan) in self.phases {
            if self.backend.tracer.is_some() {
                launches.insert(name.clone(), Tracer::launches(&name, &plan));
            }
            let executable = Executable::new(cpu, plan, &weights);
            workspace = workspace.max(executable.plan().workspace_bytes);
            scratch = scratch.max(executable.scratch_bytes());
            phases.insert(name, executable);
        }
        let memory = Memory::try_new(workspace, scratch);
        let memory = memory.ok_or_else(|| room::refused(workspace, "plans", None))?;
        let (backend, cancel, observer) = (self.backend, None, None);
        Ok(Program { backend, phases, launches, weights, provider, memory, cancel, observer })
    }
}

/// Whether `target` has every kernel of `plan`; plans from files may have others.
fn runnable(plan: &Plan, target: &Target) -> Result<()> {
    let types = |ids: &[BufferId]| -> Vec<&TensorType> {
        ids.iter().map(|id| &plan.buffer(*id).ty).collect()
    };
    for step in &plan.steps {
        let weight = |id: &BufferId| matches!(plan.buffer(*id).root, Root::Weight(_));
        let weights: Vec<bool> = step.reads().iter().map(weight).collect();
        let (operands, results) = (types(step.reads()), types(step.results()));
        if let Err(why) = target.runs(&step.kernel, &operands, &weights, &results) {
            let (name, kind) = (target.name, step.kind());
            let message = format!("target {name} has no kernel for {kind}: {why}");
            return Err(Error::input("E0505", message)
                .at(format!("plan \"{}\", {}", plan.name, step.label()))
                .help("compile the plan's module again for this target"));
        }
    }
    Ok(())
}

fn verified(module: &Module) -> Result<()> {
    let diagnostics = anyid_ir::verify::verify(module);
    match diagnostics.into_iter().find(anyid_ir::Diagnostic::is_error) {
        None => Ok(()),
        Some(first) => {
            let place = first.place.unwrap_or_else(|| format!("module @{}", module.name));
            let error = Error::input(first.code, first.message).at(place);
            Err(match first.help {
                Some(help) => error.help(help),
                None => error,
            })
        }
    }
}

/// An error of the compiler as one of the runtime.
pub fn compile_error(error: anyid_passes::CompileError) -> Error {
    let make = if error.is_internal() { Error::internal } else { Error::input };
    let mut out = make(error.code, error.message);
    if let Some(place) = error.place {
        out = out.at(place);
    }
    match error.help {
        Some(help) => out.help(help),
        None => out,
    }
}

fn load_error(error: LoadError) -> Error {
    match error {
        LoadError::Missing(name) => Error::input("E0301", format!("there is no weight \"{name}\""))
            .help("give the checkpoint that holds it with --weights or --model"),
        LoadError::Stopped => interrupted("while loading weights"),
        other @ LoadError::Size { .. } => Error::input("E0303", other.to_string()),
        LoadError::Unreadable(fault) => error::from_weight_fault(fault),
        LoadError::NoMemory { name, bytes } => {
            Error::no_memory(bytes, &format!("weight \"{name}\""))
        }
    }
}

/// The error of a run the user stopped.
pub(crate) fn interrupted(place: &str) -> Error {
    Error::new(Kind::Interrupted, "E1002", format!("interrupted {place}"))
}

/// What one run of a phase leaves for the next.
pub struct States {
    memory: anyid_backends::cpu::AlignedBytes,
    names: Vec<(String, Branch, TensorType)>,
}

impl States {
    /// Bytes of all states.
    pub fn bytes(&self) -> u64 {
        self.memory.len() as u64
    }
}

/// What `prepare` computed for one set of unvarying inputs.
pub struct Prepared {
    memory: anyid_backends::cpu::AlignedBytes,
}

impl Prepared {
    /// All that is kept, as the plan lays it out.
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.bytes()
    }
}

/// Memory that outlives a run.
#[derive(Default)]
pub(super) struct Arenas<'a> {
    persistent: Option<&'a mut anyid_backends::cpu::AlignedBytes>,
    states: Option<&'a mut anyid_backends::cpu::AlignedBytes>,
}

impl<'a> Arenas<'a> {
    /// The memory of what is given.
    pub(super) fn of(prepared: Option<&'a mut Prepared>, states: Option<&'a mut States>) -> Self {
        Self {
            persistent: prepared.map(|prepared| &mut prepared.memory),
            states: states.map(|states| &mut states.memory),
        }
    }
}

fn state_names(plan: &Plan) -> Vec<(String, Branch, TensorType)> {
    let name = |state: &State| (state.name.clone(), state.branch, state.ty.clone());
    plan.states.iter().map(name).collect()
}

/// Plans with their weights and memory.
pub struct Program {
    backend: Backend,
    phases: BTreeMap<String, Executable>,
    /// What a tracer is told about the launches of each phase; empty without one.
    launches: BTreeMap<String, Arc<Launches>>,
    weights: Weights,
    provider: Arc<dyn WeightProvider + Send + Sync>,
    memory: Memory,
    cancel: Option<Arc<AtomicBool>>,
    observer: Option<Observer>,
}

/// Called before every step of a plan, and once behind the last, before outputs are copied.
pub type Observer = Arc<dyn Fn() + Send + Sync>;

impl Program {
    /// Stops a running phase between two of its steps once `flag` is set.
    pub fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = Some(flag);
    }

    /// Calls `observer` between the steps of every phase from now on, for timing them; `None` ends
    /// it.
    pub fn observe(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }

    /// The plan of a phase.
    pub fn plan(&self, phase: &str) -> Option<&Plan> {
        self.phases.get(phase).map(Executable::plan)
    }

    /// Bytes of the loaded weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// Bytes of workspace reserved: those of the plan that needs most.
    pub fn workspace_bytes(&self) -> u64 {
        self.memory.workspace_bytes()
    }

    /// Bytes of workspace and kernel scratch reserved.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Runs a phase.
    ///
    /// # Errors
    /// E1005 for a missing or mistyped input, E1002 when cancelled, E1009 for an unknown phase or one
    /// that runs on states or on what `prepare` has made.
    pub fn call(&mut self, phase: &str, inputs: &Inputs<'_>) -> Result<Outputs> {
        let mut outputs = self.outputs(phase)?;
        self.run(phase, inputs, Arenas::default(), &mut outputs, None)?;
        Ok(outputs)
    }

    /// Memory for the states of a phase, all zero. Phases with the same states share it.
    ///
    /// # Errors
    /// E1009 for an unknown phase, E0603 for more memory than there is.
    pub fn states(&self, phase: &str) -> Result<States> {
        let plan = self.executable(phase)?.plan();
        let memory = room::reserve(plan.state_bytes(), "states")?;
        Ok(States { memory, names: state_names(plan) })
    }

    /// Runs a phase on `states`, which it changes.
    ///
    /// # Errors
    /// As [`Self::call`]; E1009 for states of another phase.
    pub fn call_with_states(
        &mut self,
        phase: &str,
        inputs: &Inputs<'_>,
        states: &mut States,
    ) -> Result<Outputs> {
        let mut outputs = self.outputs(phase)?;
        self.run_with_states(phase, inputs, states, &mut outputs)?;
        Ok(outputs)
    }

    /// Like [`Self::call_with_states`], into `outputs` made by [`Self::outputs`].
    ///
    /// # Errors
    /// As [`Self::call_with_states`].
    pub fn run_with_states(
        &mut self,
        phase: &str,
        inputs: &Inputs<'_>,
        states: &mut States,
        outputs: &mut Outputs,
    ) -> Result<()> {
        self.own_states(phase, states)?;
        let arenas = Arenas { states: Some(&mut states.memory), persistent: None };
        self.run(phase, inputs, arenas, outputs, None)
    }

    /// Whether `states` are those of a phase.
    fn own_states(&self, phase: &str, states: &States) -> Result<()> {
        let own = self.executable(phase)?.plan().states.iter();
        let held = states.names.iter().map(|(name, branch, ty)| (name, *branch, ty));
        if !own.map(|state| (&state.name, state.branch, &state.ty)).eq(held) {
            let message = format!("these are not the states of phase \"{phase}\"");
            return Err(Error::internal("E1009", message));
        }
        Ok(())
    }

    /// Runs `prepare` of a split function.
    ///
    /// # Errors
    /// As [`Self::call`], and E0603 for more memory than there is.
    pub fn prepare(&mut self, inputs: &Inputs<'_>) -> Result<Prepared> {
        let bytes = self.executable("prepare")?.plan().persistent_bytes;
        let mut memory = room::reserve(bytes, "values kept between steps")?;
        let arenas = Arenas { persistent: Some(&mut memory), states: None };
        self.run("prepare", inputs, arenas, &mut Outputs::default(), None)?;
        Ok(Prepared { memory })
    }

    /// Runs `step` with what `prepare` computed, into `outputs` made by [`Self::outputs`].
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn step(
        &mut self,
        prepared: &mut Prepared,
        inputs: &Inputs<'_>,
        outputs: &mut Outputs,
    ) -> Result<()> {
        let arenas = Arenas { persistent: Some(&mut prepared.memory), states: None };
        self.run("step", inputs, arenas, outputs, None)
    }

    /// [`Self::step`] of a function that carries `states`, which it changes.
    ///
    /// # Errors
    /// As [`Self::call_with_states`].
    pub fn step_with_states(
        &mut self,
        prepared: &mut Prepared,
        inputs: &Inputs<'_>,
        states: &mut States,
        outputs: &mut Outputs,
    ) -> Result<()> {
        self.own_states("step", states)?;
        let arenas = Arenas::of(Some(prepared), Some(states));
        self.run("step", inputs, arenas, outputs, None)
    }

    /// Like [`Self::call`] or, with `prepared`, like [`Self::step`], calling `trace` after every
    /// step of the plan. For tests and for finding the first non-finite value; it allocates.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn traced(
        &mut self,
        phase: &str,
        inputs: &Inputs<'_>,
        prepared: Option<&mut Prepared>,
        trace: &mut Trace<'_>,
    ) -> Result<Outputs> {
        let mut outputs = self.outputs(phase)?;
        let arenas = Arenas { persistent: prepared.map(|p| &mut p.memory), states: None };
        self.run(phase, inputs, arenas, &mut outputs, Some(trace))?;
        Ok(outputs)
    }

    /// Zeroed tensors for the outputs of a phase; none for `prepare`, whose results stay inside.
    ///
    /// # Errors
    /// E1009 for an unknown phase, E0603 for more memory than there is.
    pub fn outputs(&self, phase: &str) -> Result<Outputs> {
        let plan = self.executable(phase)?.plan();
        let tensor = |port: &Port| {
            let zeros = room::zeros(&plan.buffer(port.buffer).ty, "results")?;
            Ok((port.name.clone(), port.branch, zeros))
        };
        Ok(Outputs { tensors: plan.outputs.iter().map(tensor).collect::<Result<_>>()? })
    }

    fn executable(&self, phase: &str) -> Result<&Executable> {
        self.phases.get(phase).ok_or_else(|| {
            let names: Vec<&str> = self.phases.keys().map(String::as_str).collect();
            Error::internal("E1009", format!("the program has no phase \"{phase}\""))
                .help(format!("its phases are {}", names.join(", ")))
        })
    }

    /// Where its weights come from.
    pub(super) fn provider(&self) -> &dyn WeightProvider {
        &*self.provider
    }

    pub(super) fn run(
        &mut self,
        phase: &str,
        inputs: &Inputs<'_>,
        arenas: Arenas<'_>,
        outputs: &mut Outputs,
        trace: Option<&mut Trace<'_>>,
    ) -> Result<()> {
        let executable = self.executable(phase)?;
        let plan = executable.plan();
        let mut given: smallvec::SmallVec<[&[u8]; 64]> = smallvec::SmallVec::new();
        for port in &plan.inputs {
            let ty = &plan.buffer(port.buffer).ty;
            let tensor = inputs.get_branch(port.branch, &port.name).ok_or_else(|| {
                Error::input(
                    "E1005",
                    format!("input %{} of phase {phase} is missing", port.title()),
                )
                .help(format!("it is {ty}"))
            })?;
            if tensor.ty() != ty {
                return Err(Error::input(
                    "E1005",
                    format!(
                        "input %{} of phase {phase} is {}, expected {ty}",
                        port.title(),
                        tensor.ty()
                    ),
                ));
            }
            given.push(tensor.bytes());
        }
        let wanted = plan.outputs.iter().map(|p| (&p.name, p.branch, &plan.buffer(p.buffer).ty));
        if !wanted.eq(outputs.tensors.iter().map(|(name, branch, t)| (name, *branch, t.ty()))) {
            let message = format!("these are not the outputs of phase \"{phase}\"");
            return Err(Error::internal("E1009", message));
        }
        let mut taken: smallvec::SmallVec<[&mut [u8]; 64]> =
            outputs.tensors.iter_mut().map(|(_, _, tensor)| tensor.bytes_mut()).collect();
        if arenas.states.is_none() && !plan.states.is_empty() {
            let message = format!("phase \"{phase}\" carries states, which were not given");
            return Err(Error::internal("E1009", message));
        }
        let kept = arenas.persistent.as_ref().map_or(0, |memory| memory.len() as u64);
        if kept != plan.persistent_bytes {
            let message = format!("phase \"{phase}\" runs on what its own prepare has made");
            return Err(Error::internal("E1009", message));
        }
        let mut none = [(); 2].map(|()| anyid_backends::cpu::AlignedBytes::zeroed(0));
        let [no_persistent, no_states] = &mut none;
        let persistent = arenas.persistent.unwrap_or(no_persistent);
        let states = arenas.states.unwrap_or(no_states);
        let cancel = self.cancel.clone();
        let observer = self.observer.clone();
        let executable = &self.phases[phase];
        let tracer = self.backend.tracer.as_deref();
        let marks = RefCell::new(match tracer {
            Some(_) => Vec::with_capacity(executable.plan().steps.len() + 1),
            None => Vec::new(),
        });
        // Asked before every launch and after the last.
        let stopped = || {
            if let Some(tracer) = tracer {
                marks.borrow_mut().push(tracer.now());
            }
            if let Some(observer) = &observer {
                observer();
            }
            cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
        };
        let never = AtomicBool::new(false);
        let result = with_stop(cancel.as_deref().unwrap_or(&never), || {
            executable.run(
                &self.backend.cpu,
                &self.weights,
                &*self.provider,
                &mut self.memory,
                persistent,
                states,
                &given,
                &mut taken,
                &stopped,
                trace,
            )
        });
        if let (Some(tracer), Some(launches)) = (tracer, self.launches.get(phase)) {
            let mut marks = marks.into_inner();
            if !matches!(result, Ok(()) | Err(RunError::Stopped)) {
                marks.push(tracer.now());
            }
            tracer.record(launches, marks);
        }
        result.map_err(|error| match error {
            RunError::Stopped => interrupted(&format!("during {phase}")),
            RunError::Unsupported { label, op } => {
                Error::internal("E0505", format!("the CPU backend has no kernel for {op}"))
                    .at(label)
            }
            RunError::Weight { label, fault } => error::from_weight_fault(*fault).at(label),
            RunError::Index { label, index, rows } => Error::input(
                "E1006",
                format!("index {index} is outside the {rows} rows of a table"),
            )
            .at(label),
        })
    }
}
