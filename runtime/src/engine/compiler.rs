//! From modules to plans for a device, and from plans to a program on it.

use super::program::Program;
use super::tracer::Tracer;
use super::{Backend, PlanFile, Watched, memory_check};
use crate::error::{self, Error, Result};
use anyid_backends::LoadError;
use anyid_backends::device::{Provider, Streaming};
use anyid_backends::stop::with_stop;
use anyid_ir::kernel::Target;
use anyid_ir::plan::{BufferId, Plan, Root};
use anyid_ir::{Module, TensorType};
use anyid_passes::Options;
use anyid_passes::driver::{Selection, drive, unobserved};
pub use anyid_passes::{CompileRequest, StateSpec};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Makes programs for a backend.
pub struct Compiler {
    backend: Backend,
    phases: Vec<(String, Plan)>,
    options: Options,
    /// Another target that some phases were compiled for.
    foreign: Option<String>,
    /// What the passes did, for each request.
    watched: Vec<Watched>,
    /// Bytes of weights that may be held.
    most: Option<u64>,
}

impl Compiler {
    /// A compiler for `backend`.
    pub fn new(backend: &Backend) -> Self {
        let target = backend.about().target.clone();
        let options = Options { target, ..Options::default() };
        let (phases, watched) = (Vec::new(), Vec::new());
        Self { backend: backend.clone(), phases, options, foreign: None, watched, most: None }
    }

    /// Compiles the phases added from here on as `options` say, for this backend's target.
    #[must_use]
    pub fn with(mut self, options: Options) -> Self {
        let Options { target, stop, .. } = self.options;
        self.options = Options { target, stop, ..options };
        self
    }

    /// Ends compiling between two passes once `flag` is set.
    #[must_use]
    pub fn stopped_by(mut self, flag: Arc<AtomicBool>) -> Self {
        self.options.stop = Some(flag);
        self
    }

    /// Adds what `request` asks for, compiled for this backend: as phase `phase`, or, where the
    /// function is split, as phases `prepare` and `step`. Phases whose states agree share them.
    ///
    /// # Errors
    /// E05xx where the function cannot be compiled, E1002 where it was told to stop.
    pub fn add(mut self, phase: &str, request: CompileRequest<'_>) -> Result<Self> {
        verified(request.module)?;
        let split = request.varying.is_some();
        let request = request.with(&self.options);
        let outcome = drive(&request, &Selection::All, &mut unobserved).map_err(compile_error)?;
        let (state, watched) = Watched::of(&request.func, outcome);
        self.watched.push(watched);
        for mut plan in state.parts.into_iter().filter_map(|part| part.plan) {
            if !split {
                phase.clone_into(&mut plan.name);
            }
            self.phases.push((plan.name.clone(), plan));
        }
        Ok(self)
    }

    /// Adds a plan that was made for this backend already, as phase `phase`.
    #[must_use]
    pub fn planned(mut self, phase: &str, mut plan: Plan) -> Self {
        phase.clone_into(&mut plan.name);
        self.phases.push((phase.to_owned(), plan));
        self
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
        if file.target() != self.backend.target() && self.foreign.is_none() {
            self.foreign = Some(file.target().to_owned());
        }
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

    /// The device that it compiles for.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The plans made so far, before any weight is loaded.
    pub fn plans(&self) -> impl Iterator<Item = (&str, &Plan)> {
        self.phases.iter().map(|(name, plan)| (name.as_str(), plan))
    }

    /// What the passes did for each request that was added, in order. Why kernels were not fused and
    /// values share no memory is there if [`Options::explain`] asked for it.
    pub fn watched(&self) -> &[Watched] {
        &self.watched
    }

    /// Holds at most so many bytes of weights, where the device can: others are read again in every
    /// run, while it computes. Results have the same bits.
    #[must_use]
    pub fn holding(mut self, most: Option<u64>) -> Self {
        self.most = most;
        self
    }

    /// Bytes that the weights of all phases take once they are loaded.
    pub fn weight_bytes(&self) -> u64 {
        self.weights().1.held
    }

    /// Bytes of weights that a run of a phase reads again at most.
    pub fn streamed_bytes(&self) -> u64 {
        self.weights().1.moved
    }

    /// What may be held of the weights if that is not all of them, and what is held.
    fn weights(&self) -> (Option<u64>, Streaming) {
        let plans: Vec<&Plan> = self.phases.iter().map(|(_, plan)| plan).collect();
        let device = self.backend.device();
        let held = device.weight_bytes(&plans);
        let most = self.most.filter(|most| held > *most);
        let streaming = most.and_then(|most| Some((Some(most), device.streaming(&plans, most)?)));
        streaming.unwrap_or((None, Streaming { held, moved: 0 }))
    }

    /// Bytes of workspace and kernel scratch that the program will reserve.
    pub fn memory_bytes(&self) -> u64 {
        let most = |of: &dyn Fn(&Plan) -> u64| self.plans().map(|(_, plan)| of(plan)).max();
        let scratch = |plan: &Plan| self.backend.device().scratch_bytes(plan);
        let workspace = most(&|plan| plan.workspace_bytes).unwrap_or(0);
        workspace.saturating_add(most(&scratch).unwrap_or(0))
    }

    /// As [`Self::load`], until `flag` is set.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_until(self, provider: Arc<Provider>, flag: &AtomicBool) -> Result<Program> {
        let stopped = || flag.load(Ordering::Relaxed);
        // Packing a large weight can be stopped in the middle, too, and is of no use then.
        let loaded = with_stop(flag, || self.load(provider, &mut |_, _| !stopped()))?;
        match stopped() {
            true => Err(super::interrupted("while loading weights")),
            false => Ok(loaded),
        }
    }

    /// Has the device compile the kernels of all phases, without their weights. It needs room for what the
    /// largest of them works in.
    ///
    /// # Errors
    /// E0505, E0603, and those of the device where a kernel does not compile.
    pub fn kernels_compile(&self) -> Result<()> {
        let plans: Vec<&Plan> = self.phases.iter().map(|(_, plan)| plan).collect();
        plans.iter().try_for_each(|plan| runnable(plan, &self.options.target))?;
        // A processor has its kernels ready, and packs weights for them when it gets them.
        if self.backend.about().name == "cpu" {
            return Ok(());
        }
        let planned = memory_check::planned(plans.iter().copied());
        memory_check::check(&**self.backend.device(), planned, "plans")?;
        let none = crate::weights::ModelWeights::as_named(
            crate::checkpoint::WeightSet::from_checkpoints(Vec::new())?,
        );
        let loaded = self.backend.device().clone().load(&[], Arc::new(none), &mut |_, _| true);
        let plans = plans.into_iter().cloned().collect();
        loaded.and_then(|loaded| loaded.prepare(plans)).map(drop).map_err(load_error)
    }

    /// Loads the weights of all phases and reserves the memory of the largest.
    ///
    /// `progress` gets weight bytes done and in all, and says whether to go on.
    ///
    /// # Errors
    /// E0514 for the plans of a file for another target, E0301 for a weight the provider lacks, E0330
    /// to E0332 for one that cannot be read, E0505 for a kernel that the backend does not have, E0603
    /// for more memory than there is, E1002 when `progress` says stop.
    pub fn load(
        self,
        provider: Arc<Provider>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Program> {
        let (device, (most, of_weights)) = (self.backend.device(), self.weights());
        if let Some(target) = &self.foreign {
            return Err(PlanFile::foreign(target, self.backend.target()));
        }
        let plans: Vec<&Plan> = self.phases.iter().map(|(_, plan)| plan).collect();
        plans.iter().try_for_each(|plan| runnable(plan, &self.options.target))?;
        let planned = memory_check::planned(plans.iter().copied());
        let needed = planned.saturating_add(of_weights.held);
        memory_check::check(&**self.backend.device(), needed, "weights and plans")?;
        let device = device.clone();
        let weights = match most {
            Some(most) => device.load_streaming(&plans, provider.clone(), most, progress),
            None => device.load(&plans, provider.clone(), progress),
        };
        let weights = weights.map_err(load_error)?;
        let (mut phases, mut launches) = (BTreeMap::new(), BTreeMap::new());
        let mut plans = Vec::with_capacity(self.phases.len());
        for (name, plan) in self.phases {
            if self.backend.tracer.is_some() {
                launches.insert(name.clone(), Tracer::launches(&name, &plan));
            }
            phases.insert(name, plans.len());
            plans.push(plan);
        }
        let runner = weights.clone().prepare(plans).map_err(load_error)?;
        Ok(Program::new(self.backend, phases, launches, (weights, provider), runner))
    }
}

/// Whether `target` has every kernel of `plan`; plans from files may have others.
fn runnable(plan: &Plan, target: &Target) -> Result<()> {
    let types = |ids: &[BufferId]| -> Vec<&TensorType> {
        ids.iter().map(|id| &plan.buffer(*id).ty).collect()
    };
    if !target.alignment.holds(plan.alignment.bytes()) {
        let (name, wanted, has) = (target.name, target.alignment.bytes(), plan.alignment.bytes());
        let message =
            format!("buffers of target {name} begin at multiples of {wanted} bytes, not of {has}");
        return Err(Error::input("E0505", message)
            .at(format!("plan \"{}\"", plan.name))
            .help("compile the plan's module again for this target"));
    }
    for step in &plan.steps {
        let weight = |id: &BufferId| matches!(plan.buffer(*id).root, Root::Weight(_));
        let weights: Vec<bool> = step.reads().iter().map(weight).collect();
        let (operands, results) = (types(step.reads()), types(step.results()));
        let mut bound = step.reads().iter().chain(step.results());
        let runs = match bound.any(|id| plan.buffer(*id).columns.is_some()) {
            true if !target.columns => Err("columns of wider values"),
            _ => target.runs(&step.kernel, &operands, &weights, &results),
        };
        if let Err(why) = runs {
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
    match diagnostics.into_iter().next() {
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
    if error.is_stopped() {
        return super::interrupted("while compiling");
    }
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
        LoadError::Stopped => super::interrupted("while loading weights"),
        other @ LoadError::Size { .. } => Error::input("E0303", other.to_string()),
        LoadError::Unreadable(fault) => error::from_fault(fault),
        LoadError::NoMemory { name, bytes } => {
            Error::no_memory(bytes, &format!("weight \"{name}\""))
        }
        LoadError::NoWorkspace(refused) => memory_check::no_memory(refused, "plans"),
        LoadError::Failed(fault) => error::from_fault(*fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_whose_kernels_take_no_columns_gets_none() {
        let text = "\
plan \"main\" {
  memory alignment=64 workspace=0 lower_bound=0 naive=0 persistent=0
  buffer %0 = input 0 + 0 : f32[2,4]
  buffer %1 = input 0 + 0 columns 0..8 of 16 : f32[2,2]
  input \"x\" = %0
  output \"y\" = %2
  kernel k0 \"attention\" anchor attention {heads=1, scale=1} {
    y0 = attention(a0, a1, a2)
  }
  %2 = k0 %1, %1, %1 : output 0 + 0 f32[2,2] \"y\"
}
";
        let plan = anyid_ir::plan_text::parse_plans(text).unwrap().remove(0);
        assert_eq!(anyid_ir::plan_verify::verify_plan(&plan), []);
        assert!(runnable(&plan, &Target::default()).is_ok());
        let dense = Target { columns: false, ..Target::default() };
        let error = runnable(&plan, &dense).unwrap_err();
        assert_eq!(error.code(), "E0505");
        assert!(error.to_string().contains("columns of wider values"), "{error}");
    }
}
