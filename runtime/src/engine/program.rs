//! Compiler, program and its execution on the chosen backend.

use super::{Inputs, Outputs, PlanFile};
use crate::error::{Error, Kind, Result};
use anyid_backends::WeightProvider;
pub use anyid_backends::cpu::Trace;
use anyid_backends::cpu::{Cpu, Executable, LoadError, Memory, RunError, Weights};
use anyid_ir::plan::Plan;
use anyid_ir::{Module, Tensor};
use anyid_passes::Options;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// An opened device.
#[derive(Clone)]
pub struct Backend {
    cpu: Arc<Cpu>,
}

impl Backend {
    /// Opens `cpu`; `threads` 0 means all the processor has.
    ///
    /// # Errors
    /// E0904 for a device this build does not have, E0907 for a bad `ANYID_SIMD` setting.
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
        let cpu = Cpu::open(threads, std::env::var("ANYID_SIMD").ok().as_deref())
            .map_err(|why| Error::input("E0907", why).at("environment variable ANYID_SIMD"))?;
        Ok(Self { cpu: Arc::new(cpu) })
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

    /// Whether the phases added from here on are fused (they are by default). Without fusion every
    /// value of the function exists by itself and can be traced.
    #[must_use]
    pub fn fused(self, fuse: bool) -> Self {
        let options = if fuse { Options::default() } else { Options::traceable() };
        self.with(options)
    }

    /// Compiles the phases added from here on as `options` say, for this backend's target.
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        let target = self.options.target;
        self.options = Options { target, ..options };
        self
    }

    /// Adds function `func` of `module` as phase `phase`.
    ///
    /// # Errors
    /// E05xx where the function cannot be compiled.
    pub fn phase(mut self, phase: &str, module: &Module, func: &str) -> Result<Self> {
        verified(module)?;
        let mut plan =
            anyid_passes::compile_with(module, func, &self.options).map_err(compile_error)?;
        phase.clone_into(&mut plan.name);
        self.phases.push((phase.to_owned(), plan));
        Ok(self)
    }

    /// Adds function `func` split into phases `prepare` and `step`: only the inputs `varying`
    /// change per step, everything that does not depend on them is computed by `prepare` once.
    ///
    /// # Errors
    /// E05xx where the function cannot be compiled.
    pub fn split(mut self, module: &Module, func: &str, varying: &[&str]) -> Result<Self> {
        verified(module)?;
        let split = anyid_passes::compile_split_with(module, func, varying, &self.options)
            .map_err(compile_error)?;
        self.phases.push(("prepare".into(), split.prepare));
        self.phases.push(("step".into(), split.step));
        Ok(self)
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

    /// Loads the weights of all phases and reserves the memory of the largest.
    ///
    /// `progress` gets weight bytes done and in all, and says whether to go on.
    ///
    /// # Errors
    /// E0301 for a weight the provider lacks, E1002 when `progress` says stop.
    pub fn load(
        self,
        provider: Arc<dyn WeightProvider + Send + Sync>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Program> {
        let cpu = &self.backend.cpu;
        let plans: Vec<&Plan> = self.phases.iter().map(|(_, plan)| plan).collect();
        let weights = Weights::load(cpu, &plans, &*provider, progress).map_err(load_error)?;
        let mut phases = BTreeMap::new();
        let (mut workspace, mut scratch) = (0, 0);
        for (name, plan) in self.phases {
            let executable = Executable::new(cpu, plan, &weights);
            workspace = workspace.max(executable.plan().workspace_bytes);
            scratch = scratch.max(executable.scratch_bytes());
            phases.insert(name, executable);
        }
        let memory = Memory::new(workspace, scratch);
        let (cancel, observer) = (None, None);
        Ok(Program { backend: self.backend, phases, weights, provider, memory, cancel, observer })
    }
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
    }
}

/// The error of a run the user stopped.
pub(crate) fn interrupted(place: &str) -> Error {
    Error::new(Kind::Interrupted, "E1002", format!("interrupted {place}"))
}

/// What `prepare` computed for one set of unvarying inputs.
pub struct Prepared {
    memory: anyid_backends::cpu::AlignedBytes,
}

/// Plans with their weights and memory.
pub struct Program {
    backend: Backend,
    phases: BTreeMap<String, Executable>,
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

    /// Bytes of workspace and kernel scratch reserved.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// Runs a phase.
    ///
    /// # Errors
    /// E1005 for a missing or mistyped input, E1002 when cancelled.
    pub fn call(&mut self, phase: &str, inputs: &Inputs<'_>) -> Result<Outputs> {
        let mut outputs = self.outputs(phase)?;
        self.run(phase, inputs, None, &mut outputs, None)?;
        Ok(outputs)
    }

    /// Runs `prepare` of a split function.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn prepare(&mut self, inputs: &Inputs<'_>) -> Result<Prepared> {
        let bytes = self.executable("prepare")?.plan().persistent_bytes as usize;
        let mut memory = anyid_backends::cpu::AlignedBytes::zeroed(bytes);
        self.run("prepare", inputs, Some(&mut memory), &mut Outputs::default(), None)?;
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
        self.run("step", inputs, Some(&mut prepared.memory), outputs, None)
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
        let memory = prepared.map(|p| &mut p.memory);
        self.run(phase, inputs, memory, &mut outputs, Some(trace))?;
        Ok(outputs)
    }

    /// Zeroed tensors for the outputs of a phase; none for `prepare`, whose results stay inside.
    ///
    /// # Errors
    /// E1009 for an unknown phase.
    pub fn outputs(&self, phase: &str) -> Result<Outputs> {
        let plan = self.executable(phase)?.plan();
        let ports = plan.outputs.iter().filter(|p| !p.name.starts_with("persistent."));
        let tensor = |port: &anyid_ir::plan::Port| {
            (port.name.clone(), Tensor::zeros(plan.buffer(port.buffer).ty.clone()))
        };
        Ok(Outputs { tensors: ports.map(tensor).collect() })
    }

    fn executable(&self, phase: &str) -> Result<&Executable> {
        self.phases.get(phase).ok_or_else(|| {
            let names: Vec<&str> = self.phases.keys().map(String::as_str).collect();
            Error::internal("E1009", format!("the program has no phase \"{phase}\""))
                .help(format!("its phases are {}", names.join(", ")))
        })
    }

    fn run(
        &mut self,
        phase: &str,
        inputs: &Inputs<'_>,
        persistent: Option<&mut anyid_backends::cpu::AlignedBytes>,
        outputs: &mut Outputs,
        trace: Option<&mut Trace<'_>>,
    ) -> Result<()> {
        let executable = self.executable(phase)?;
        let plan = executable.plan();
        let mut given: smallvec::SmallVec<[&[u8]; 64]> = smallvec::SmallVec::new();
        for port in &plan.inputs {
            let ty = &plan.buffer(port.buffer).ty;
            let tensor = inputs.get(&port.name).ok_or_else(|| {
                Error::input("E1005", format!("input %{} of phase {phase} is missing", port.name))
                    .help(format!("it is {ty}"))
            })?;
            if tensor.ty() != ty {
                return Err(Error::input(
                    "E1005",
                    format!(
                        "input %{} of phase {phase} is {}, expected {ty}",
                        port.name,
                        tensor.ty()
                    ),
                ));
            }
            given.push(tensor.bytes());
        }
        let mut taken: smallvec::SmallVec<[&mut [u8]; 64]> =
            outputs.tensors.iter_mut().map(|(_, tensor)| tensor.bytes_mut()).collect();
        let mut none = anyid_backends::cpu::AlignedBytes::zeroed(0);
        let persistent = persistent.unwrap_or(&mut none);
        let cancel = self.cancel.clone();
        let observer = self.observer.clone();
        let stopped = || {
            if let Some(observer) = &observer {
                observer();
            }
            cancel.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
        };
        let executable = &self.phases[phase];
        let result = executable.run(
            &self.backend.cpu,
            &self.weights,
            &*self.provider,
            &mut self.memory,
            persistent,
            &given,
            &mut taken,
            &stopped,
            trace,
        );
        result.map_err(|error| match error {
            RunError::Stopped => interrupted(&format!("during {phase}")),
            RunError::Unsupported { label, op } => {
                Error::internal("E0505", format!("the CPU backend has no kernel for {op}"))
                    .at(label)
            }
            RunError::Index { label, index, rows } => Error::input(
                "E1006",
                format!("index {index} is outside the {rows} rows of a table"),
            )
            .at(label),
        })
    }
}
