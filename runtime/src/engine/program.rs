//! A program: plans with their weights and memory on a device, run on named tensors.

use super::tracer::{Launches, Tracer};
use super::{Backend, Inputs, Outputs, memory_check};
use crate::error::{self, Error, Kind, Result};
use anyid_backends::RunError;
pub use anyid_backends::device::Trace;
use anyid_backends::device::{Arena, Call, Device, Provider, Runner, Times, Weights};
use anyid_backends::stop::with_stop;
use anyid_ir::plan::{Branch, Plan, Port, title};
use anyid_ir::{Tensor, TensorType};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// The error of a run the user stopped.
pub(crate) fn interrupted(place: &str) -> Error {
    Error::new(Kind::Interrupted, "E1002", format!("interrupted {place}"))
}

/// An interruption in the words of who asked for what it ended; `doing` as in [`interrupted`].
pub(crate) fn interrupted_in(error: Error, doing: impl FnOnce() -> String) -> Error {
    match error.kind() {
        Kind::Interrupted => interrupted(&doing()),
        _ => error,
    }
}

/// What one run of a phase leaves for the next. It lies on the device; single states can be read and
/// set by name and branch.
pub struct States {
    device: Arc<dyn Device>,
    arena: Box<dyn Arena>,
}

impl States {
    /// Bytes of all states.
    pub fn bytes(&self) -> u64 {
        self.arena.bytes()
    }

    /// Names, branches and types in the plan's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Branch, &TensorType)> {
        let values = self.arena.values().iter();
        values.map(|value| (value.name.as_str(), value.branch, &value.ty))
    }

    /// What state `name` of branch 0 holds.
    ///
    /// # Errors
    /// As [`Self::get_branch`].
    pub fn get(&self, name: &str) -> Result<Tensor> {
        self.get_branch(0, name)
    }

    /// What state `name` of a branch holds.
    ///
    /// # Errors
    /// E0561 where there is none of that name, E0603 for more memory than there is.
    pub fn get_branch(&self, branch: Branch, name: &str) -> Result<Tensor> {
        let at = self.find(branch, name)?;
        let mut out = memory_check::zeros(&self.arena.values()[at].ty, "a state")?;
        self.arena.read(at, &mut |bytes| out.bytes_mut().copy_from_slice(bytes));
        Ok(out)
    }

    /// Shows the bytes of state `name` of branch 0, dense and row-major.
    ///
    /// # Errors
    /// E0561 where there is none of that name.
    pub fn read(&self, name: &str, look: &mut dyn FnMut(&[u8])) -> Result<()> {
        let at = self.find(0, name)?;
        self.arena.read(at, look);
        Ok(())
    }

    /// Shows the bytes of several states of branch 0 at the same time, in the order of `names`.
    ///
    /// # Errors
    /// E0561 where there is none of a name.
    pub fn read_all(&self, names: &[String], look: &mut dyn FnMut(&[&[u8]])) -> Result<()> {
        fn rest(arena: &dyn Arena, at: &[usize], seen: &[&[u8]], look: &mut dyn FnMut(&[&[u8]])) {
            let Some((first, others)) = at.split_first() else { return look(seen) };
            arena.read(*first, &mut |bytes| {
                let mut seen = seen.to_vec();
                seen.push(bytes);
                rest(arena, others, &seen, look);
            });
        }
        let places = names.iter().map(|name| self.find(0, name)).collect::<Result<Vec<_>>>()?;
        rest(&*self.arena, &places, &[], look);
        Ok(())
    }

    /// Sets state `name` of branch 0.
    ///
    /// # Errors
    /// As [`Self::set_branch`].
    pub fn set(&mut self, name: &str, value: &Tensor) -> Result<()> {
        self.set_branch(0, name, value)
    }

    /// Sets state `name` of a branch.
    ///
    /// # Errors
    /// E0561 where there is none of that name, or it is of another type.
    pub fn set_branch(&mut self, branch: Branch, name: &str, value: &Tensor) -> Result<()> {
        let at = self.find(branch, name)?;
        let ty = &self.arena.values()[at].ty;
        if value.ty() != ty {
            let title = title(name, branch);
            let message = format!("state \"{title}\" is {}, expected {ty}", value.ty());
            return Err(Error::input("E0561", message));
        }
        self.arena.write(at, value.bytes());
        Ok(())
    }

    fn find(&self, branch: Branch, name: &str) -> Result<usize> {
        let found = self.iter().position(|(own, other, _)| (own, other) == (name, branch));
        found.ok_or_else(|| {
            let names: Vec<_> = self.iter().map(|(name, branch, _)| title(name, branch)).collect();
            Error::input("E0561", format!("there is no state \"{}\"", title(name, branch)))
                .help(format!("the states are {}", names.join(", ")))
        })
    }
}

/// What `prepare` computed for one set of unvarying inputs. It lies on the device.
pub struct Prepared {
    device: Arc<dyn Device>,
    arena: Box<dyn Arena>,
    /// Bytes as the plan counts them.
    bytes: u64,
}

impl Prepared {
    /// Whether every value is finite, where the device tells.
    pub(super) fn finite(&self) -> Option<bool> {
        self.arena.finite()
    }

    /// Shows the type and bytes of every value that is kept.
    pub(super) fn each(&self, look: &mut dyn FnMut(&TensorType, &[u8])) {
        for (at, value) in self.arena.values().iter().enumerate() {
            self.arena.read(at, &mut |bytes| look(&value.ty, bytes));
        }
    }
}

/// Memory that outlives a run.
#[derive(Default)]
pub(super) struct Arenas<'a> {
    prepared: Option<&'a mut Prepared>,
    states: Option<&'a mut States>,
}

impl<'a> Arenas<'a> {
    /// The memory of what is given.
    pub(super) fn of(prepared: Option<&'a mut Prepared>, states: Option<&'a mut States>) -> Self {
        Self { prepared, states }
    }

    /// Whether a run of `plan` on `device` can take these.
    fn check(&self, phase: &str, plan: &Plan, device: &Arc<dyn Device>) -> Result<()> {
        let wrong = |message: String| Err(Error::internal("E1009", message));
        let kept = self.prepared.as_ref().map_or(0, |prepared| prepared.bytes);
        let given = [
            self.prepared.as_ref().map(|prepared| &prepared.device),
            self.states.as_ref().map(|states| &states.device),
        ];
        if kept != plan.persistent_bytes
            || !given.into_iter().flatten().all(|own| Arc::ptr_eq(own, device))
        {
            return wrong(format!("phase \"{phase}\" runs on what its own prepare has made"));
        }
        match &self.states {
            None if plan.states.is_empty() => Ok(()),
            None => wrong(format!("phase \"{phase}\" carries states, which were not given")),
            Some(states) => {
                let own = plan.states.iter().map(|own| (own.name.as_str(), own.branch, &own.ty));
                match own.eq(states.iter()) {
                    true => Ok(()),
                    false => wrong(format!("these are not the states of phase \"{phase}\"")),
                }
            }
        }
    }
}

/// Plans with their weights and memory.
pub struct Program {
    backend: Backend,
    /// The position of each phase among the plans of the runner.
    phases: BTreeMap<String, usize>,
    /// What a tracer is told about the launches of each phase; empty without one.
    launches: BTreeMap<String, Arc<Launches>>,
    weights: Arc<dyn Weights>,
    provider: Arc<Provider>,
    runner: Box<dyn Runner>,
    cancel: Option<Arc<AtomicBool>>,
    timed: Option<Vec<(String, Times)>>,
    /// Whether the outputs of the last run are finite, where the device has looked.
    pub(super) finite: Option<bool>,
}

impl Program {
    pub(super) fn new(
        backend: Backend,
        phases: BTreeMap<String, usize>,
        launches: BTreeMap<String, Arc<Launches>>,
        (weights, provider): (Arc<dyn Weights>, Arc<Provider>),
        runner: Box<dyn Runner>,
    ) -> Self {
        let (cancel, timed, finite) = (None, None, None);
        Self { backend, phases, launches, weights, provider, runner, cancel, timed, finite }
    }

    /// Stops a running phase between two of its steps once `flag` is set.
    pub fn set_cancel(&mut self, flag: Arc<AtomicBool>) {
        self.cancel = Some(flag);
    }

    /// Whether the device is asked for the time of every launch from now on. Runs then allocate.
    pub fn time_launches(&mut self, on: bool) {
        self.timed = on.then(Vec::new);
    }

    /// Phase and times of every run since the last call, where they are asked for.
    pub fn take_times(&mut self) -> Vec<(String, Times)> {
        self.timed.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The plan of a phase.
    pub fn plan(&self, phase: &str) -> Option<&Plan> {
        self.phases.get(phase).map(|at| self.runner.plan(*at))
    }

    /// The device that it runs on.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Bytes of the loaded weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.bytes()
    }

    /// Bytes of weights that a run of a phase reads again at most.
    pub fn streamed_bytes(&self) -> u64 {
        self.weights.moved()
    }

    /// Bytes of workspace reserved: those of the plan that needs most.
    pub fn workspace_bytes(&self) -> u64 {
        self.runner.workspace_bytes()
    }

    /// Bytes of workspace and kernel scratch reserved.
    pub fn memory_bytes(&self) -> u64 {
        self.runner.memory_bytes()
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

    /// Like [`Self::call`], each result into the bytes that are given for it, in the order of the plan.
    ///
    /// # Errors
    /// As [`Self::call`]; E1009 for bytes of another number than the results have.
    pub fn call_into(
        &mut self,
        phase: &str,
        inputs: &Inputs<'_>,
        results: &mut [&mut [u8]],
    ) -> Result<()> {
        self.launch(phase, inputs, Arenas::default(), results, None)
    }

    /// Memory for the states of a phase, all zero. Phases with the same states share it.
    ///
    /// # Errors
    /// E1009 for an unknown phase, E0603 for more memory than there is.
    pub fn states(&self, phase: &str) -> Result<States> {
        let arena = self.runner.states(self.phase(phase)?);
        let arena = arena.map_err(|none| memory_check::no_memory(none, "states"))?;
        Ok(States { device: self.backend.device().clone(), arena })
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
        self.run(phase, inputs, Arenas::of(None, Some(states)), outputs, None)
    }

    /// Runs `prepare` of a split function.
    ///
    /// # Errors
    /// As [`Self::call`], and E0603 for more memory than there is.
    pub fn prepare(&mut self, inputs: &Inputs<'_>) -> Result<Prepared> {
        let at = self.phase("prepare")?;
        let arena = self
            .runner
            .kept(at)
            .map_err(|none| memory_check::no_memory(none, "values kept between steps"))?;
        let bytes = self.runner.plan(at).persistent_bytes;
        let mut prepared = Prepared { device: self.backend.device().clone(), arena, bytes };
        let arenas = Arenas::of(Some(&mut prepared), None);
        self.run("prepare", inputs, arenas, &mut Outputs::default(), None)?;
        Ok(prepared)
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
        self.run("step", inputs, Arenas::of(Some(prepared), None), outputs, None)
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
        self.run("step", inputs, Arenas::of(Some(prepared), Some(states)), outputs, None)
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
        self.run(phase, inputs, Arenas::of(prepared, None), &mut outputs, Some(trace))?;
        Ok(outputs)
    }

    /// Zeroed tensors for the outputs of a phase; none for `prepare`, whose results stay inside.
    ///
    /// # Errors
    /// E1009 for an unknown phase, E0603 for more memory than there is.
    pub fn outputs(&self, phase: &str) -> Result<Outputs> {
        let plan = self.runner.plan(self.phase(phase)?);
        let tensor = |port: &Port| {
            let zeros = memory_check::zeros(&plan.buffer(port.buffer).ty, "results")?;
            Ok((port.name.clone(), port.branch, zeros))
        };
        Ok(Outputs { tensors: plan.outputs.iter().map(tensor).collect::<Result<_>>()? })
    }

    fn phase(&self, phase: &str) -> Result<usize> {
        self.phases.get(phase).copied().ok_or_else(|| {
            let names: Vec<&str> = self.phases.keys().map(String::as_str).collect();
            Error::internal("E1009", format!("the program has no phase \"{phase}\""))
                .help(format!("its phases are {}", names.join(", ")))
        })
    }

    /// Where its weights come from.
    pub(super) fn provider(&self) -> &Provider {
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
        let plan = self.runner.plan(self.phase(phase)?);
        let wanted = plan.outputs.iter().map(|p| (&p.name, p.branch, &plan.buffer(p.buffer).ty));
        if !wanted.eq(outputs.tensors.iter().map(|(name, branch, t)| (name, *branch, t.ty()))) {
            let message = format!("these are not the outputs of phase \"{phase}\"");
            return Err(Error::internal("E1009", message));
        }
        let mut taken: smallvec::SmallVec<[&mut [u8]; 64]> =
            outputs.tensors.iter_mut().map(|(_, _, tensor)| tensor.bytes_mut()).collect();
        self.launch(phase, inputs, arenas, &mut taken, trace)
    }

    /// [`Self::run`] into bytes.
    fn launch(
        &mut self,
        phase: &str,
        inputs: &Inputs<'_>,
        arenas: Arenas<'_>,
        results: &mut [&mut [u8]],
        trace: Option<&mut Trace<'_>>,
    ) -> Result<()> {
        let at = self.phase(phase)?;
        let plan = self.runner.plan(at);
        let given = given(phase, plan, inputs)?;
        let wanted = plan.outputs.iter().map(|port| plan.buffer(port.buffer).ty.bytes());
        if !wanted.eq(results.iter().map(|bytes| bytes.len() as u64)) {
            let message = format!("these are no results of phase \"{phase}\"");
            return Err(Error::internal("E1009", message));
        }
        arenas.check(phase, plan, self.backend.device())?;
        let tracer = self.backend.tracer.as_deref();
        let origin = tracer.map(Tracer::origin).or(self.timed.as_ref().map(|_| Instant::now()));
        let mut times = origin.map(|origin| Times::new(origin, plan.steps.len()));
        let mut finite = None;
        let call = Call {
            inputs: &given,
            outputs: results,
            kept: arenas.prepared.map(|prepared| &mut *prepared.arena),
            states: arenas.states.map(|states| &mut *states.arena),
            times: times.as_mut(),
            trace: trace.map(|trace| trace as &mut Trace<'_>),
            finite: Some(&mut finite),
        };
        let runner = &mut self.runner;
        let result = match &self.cancel {
            Some(flag) => with_stop(flag, || runner.run(at, call)),
            None => runner.run(at, call),
        };
        self.finite = finite;
        if let (Some(tracer), Some(launches), Some(times)) =
            (tracer, self.launches.get(phase), &times)
        {
            tracer.record(launches, times.launches());
        }
        if let (Some(timed), Some(times)) = (&mut self.timed, times) {
            timed.push((phase.to_owned(), times));
        }
        result.map_err(|error| run_error(error, &self.backend))
    }
}

/// The inputs of a plan in its order.
///
/// # Errors
/// E1005 for one that is missing or of another type.
fn given<'g>(
    phase: &str,
    plan: &Plan,
    inputs: &Inputs<'g>,
) -> Result<smallvec::SmallVec<[&'g [u8]; 64]>> {
    let mut given = smallvec::SmallVec::new();
    for port in &plan.inputs {
        let ty = &plan.buffer(port.buffer).ty;
        let (own, bytes) = inputs.get_branch(port.branch, &port.name).ok_or_else(|| {
            Error::input("E1005", format!("input %{} of phase {phase} is missing", port.title()))
                .help(format!("it is {ty}"))
        })?;
        let name = port.title();
        if own != ty {
            let message = format!("input %{name} of phase {phase} is {own}, expected {ty}");
            return Err(Error::input("E1005", message));
        }
        if bytes.len() as u64 != ty.bytes() {
            let count = bytes.len();
            let message = format!("input %{name} of phase {phase} is {count} bytes, {ty} is not");
            return Err(Error::input("E1005", message));
        }
        given.push(bytes);
    }
    Ok(given)
}

/// The error of a device as one of the runtime.
fn run_error(error: RunError, backend: &Backend) -> Error {
    match error {
        // Phases have names that no user knows; whoever calls them says what was done.
        RunError::Stopped => interrupted("while computing"),
        RunError::Unsupported { label, op } => {
            let target = backend.target();
            Error::internal("E0505", format!("target {target} has no kernel for {op}")).at(label)
        }
        RunError::Weight { label, fault } => error::from_fault(*fault).at(label),
        RunError::Index { ref label, .. } => Error::input("E1006", error.to_string()).at(label),
        RunError::Failed { label, fault } => {
            let error = error::from_fault(*fault);
            match label {
                Some(label) => error.at(label),
                None => error,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{CompileRequest, Compiler, PlanFile, StateSpec};
    use crate::weights::ModelWeights;
    use anyid_ir::{DType, FuncBuilder, Module};

    fn none() -> Arc<Provider> {
        let set = crate::checkpoint::WeightSet::from_checkpoints(Vec::new()).unwrap();
        Arc::new(ModelWeights::as_named(set))
    }

    /// `@main` adds `%x` to what it has seen so far.
    fn sums() -> Module {
        let mut module = Module { name: "m".into(), ..Module::default() };
        let mut f = FuncBuilder::new(&module, "main");
        let ty = TensorType::new(DType::F32, [4]);
        let (x, before) = (f.param("x", ty.clone()), f.param("before", ty));
        let after = f.add("after", before, x);
        let func = f.finish(&[after]);
        module.add(func);
        module
    }

    fn backend() -> Backend {
        Backend::open("cpu", 1).unwrap()
    }

    fn compiled(total: &StateSpec) -> Compiler {
        let module = sums();
        let request = CompileRequest::new(&module, "main").carrying([total.clone()]);
        Compiler::new(&backend()).add("main", request).unwrap()
    }

    #[test]
    fn states_cross_by_name_in_both_directions() {
        let total = StateSpec { name: "total".into(), input: Some(1), output: 0 };
        let compiler = compiled(&total);
        let mut program = compiler.load(none(), &mut |_, _| true).unwrap();
        let mut states = program.states("main").unwrap();
        let [start, x] =
            [[1.0, 2.0, 3.0, 4.0], [0.5; 4]].map(|v| Tensor::from_f32([4], &v).unwrap());
        states.set("total", &start).unwrap();
        for _ in 0..2 {
            let inputs = Inputs::new().set("x", &x);
            program.call_with_states("main", &inputs, &mut states).unwrap();
        }
        assert_eq!(states.get("total").unwrap().as_f32().unwrap(), [2.0, 3.0, 4.0, 5.0]);
        let listed: Vec<String> =
            states.iter().map(|(name, _, ty)| format!("{name} {ty}")).collect();
        assert_eq!(listed, ["total f32[4]"]);

        let names = ["total", "total"].map(str::to_owned);
        let mut seen = Vec::new();
        states.read_all(&names, &mut |all| seen.push(all.concat())).unwrap();
        let total: Vec<u8> = [2f32, 3.0, 4.0, 5.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(seen, [[&total[..], &total].concat()]);
        let absent = ["total", "sum"].map(str::to_owned);
        let error = states.read_all(&absent, &mut |_| panic!("there is no such state"));
        assert_eq!(error.unwrap_err().code(), "E0561");

        let error = states.get("sum").unwrap_err();
        assert_eq!((error.code(), error.help_text()), ("E0561", Some("the states are total")));
        assert_eq!(states.set("sum", &start).unwrap_err().code(), "E0561");
        let short = Tensor::from_f32([2], &[1.0, 2.0]).unwrap();
        for wrong in [short, start.cast(DType::Bf16)] {
            let error = states.set("total", &wrong).unwrap_err();
            assert_eq!(error.code(), "E0561");
            assert!(error.message().ends_with("expected f32[4]"), "{error}");
        }
        assert_eq!(states.get("total").unwrap().as_f32().unwrap(), [2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn inputs_are_taken_from_where_they_lie_if_they_are_whole() {
        let total = StateSpec { name: "total".into(), input: Some(1), output: 0 };
        let mut program = compiled(&total).load(none(), &mut |_, _| true).unwrap();
        let mut states = program.states("main").unwrap();
        // In the middle of other numbers.
        let (all, ty) = ([9f32, 1.0, 2.0, 3.0, 4.0, 9.0], TensorType::new(DType::F32, [4]));
        let bytes: &[u8] = bytemuck::cast_slice(&all);
        let inputs = Inputs::new().set_bytes("x", &ty, &bytes[4..20]);
        program.call_with_states("main", &inputs, &mut states).unwrap();
        assert_eq!(states.get("total").unwrap().as_f32().unwrap(), [1.0, 2.0, 3.0, 4.0]);
        let inputs = Inputs::new().set_bytes("x", &ty, &bytes[4..16]);
        let error = program.call_with_states("main", &inputs, &mut states).unwrap_err();
        assert_eq!(error.code(), "E1005");
        assert!(error.message().contains("12 bytes"), "{error}");
    }

    #[test]
    fn what_lies_on_another_device_is_refused() {
        let total = StateSpec { name: "total".into(), input: Some(1), output: 0 };
        let [mut here, there] =
            [(); 2].map(|()| compiled(&total).load(none(), &mut |_, _| true).unwrap());
        let x = Tensor::from_f32([4], &[0.5; 4]).unwrap();
        let inputs = Inputs::new().set("x", &x);
        let mut states = there.states("main").unwrap();
        let error = here.call_with_states("main", &inputs, &mut states).unwrap_err();
        assert_eq!(error.code(), "E1009");
        assert_eq!(here.call("main", &inputs).unwrap_err().code(), "E1009");
    }

    #[test]
    fn plans_for_another_target_are_refused_before_anything_is_loaded() {
        let module = sums();
        let plan = CompileRequest::new(&module, "main").plan().unwrap();
        let file = PlanFile::new("cuda:sm_90", vec![plan]).unwrap();
        let loaded = Compiler::new(&backend()).phases_of(file).load(none(), &mut |_, _| true);
        let error = loaded.err().unwrap();
        assert_eq!(error.code(), "E0514");
        assert_eq!(error.message(), "the plan is for target cuda:sm_90, not for cpu");
    }

    #[test]
    fn errors_of_a_device_keep_their_code_and_name_the_step() {
        let fault = anyid_backends::Fault {
            code: "E0603",
            message: "the device has no memory left".into(),
            place: None,
            help: None,
            cause: None,
        };
        let error = |label: Option<&str>| {
            let (label, fault) = (label.map(str::to_owned), Box::new(fault.clone()));
            run_error(RunError::Failed { label, fault }, &backend())
        };
        assert_eq!((error(None).code(), error(None).place()), ("E0603", None));
        assert_eq!(error(Some("main/y")).place(), Some("main/y"));
        let unsupported = RunError::Unsupported { label: "main/y".into(), op: "conv" };
        assert_eq!(run_error(unsupported, &backend()).code(), "E0505");
    }
}
