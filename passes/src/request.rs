//! What to compile and how: a function of a module, which of its inputs change from run to run, and
//! what is carried over.

use crate::driver::{Selection, drive, unobserved};
use crate::fuse::UnfusedEdge;
use crate::grad::Gradient;
use crate::lora::LoraTarget;
use crate::pipeline::{PASSES, Pass};
use crate::program::{Port, Program, Role};
use crate::remat::Keeping;
use crate::{Asked, CompileError};
use anyid_ir::Module;
use anyid_ir::kernel::Target;
use anyid_ir::plan::{Plan, title};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A tensor that one run leaves for the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSpec {
    /// Its name; functions that share states call them the same.
    pub name: String,
    /// Position among the function's inputs, if the function reads it.
    pub input: Option<usize>,
    /// Position among the function's outputs.
    pub output: usize,
}

/// How to compile.
#[derive(Clone, Debug)]
pub struct Options {
    /// Passes that are left out, by name.
    pub without: Vec<String>,
    /// What the device's kernels can do.
    pub target: Target,
    /// How many rewrites may be made; `None` for any number.
    pub stop_after: Option<u64>,
    /// Whether the result of every pass is verified.
    pub verify_each: bool,
    /// Whether to say why neighbouring kernels were not fused, and why values do not share memory.
    pub explain: bool,
    /// The table of passes.
    pub passes: &'static [Pass],
    /// Ends compiling in front of the next pass once it is set.
    pub stop: Option<Arc<AtomicBool>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            without: Vec::new(),
            target: Target::default(),
            stop_after: None,
            verify_each: false,
            explain: false,
            passes: PASSES,
            stop: None,
        }
    }
}

impl Options {
    /// Every step that is needed a kernel of its own, nothing written in place.
    pub fn unfused() -> Self {
        let off = ["fuse", "pack-linears", "split-rows", "share-columns", "alias"];
        off.into_iter().fold(Self::default(), Self::off)
    }

    /// [`Self::unfused`], with no value replaced by another: all that the source names and the
    /// result needs exist, once each.
    pub fn traceable() -> Self {
        Self::unfused().off("canonicalize").off("fold")
    }

    /// Without the pass called `name`.
    #[must_use]
    pub fn off(mut self, name: &str) -> Self {
        self.without.push(name.to_owned());
        self
    }

    /// Whether compiling is to end.
    pub fn stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Whether the pass called `name` may rewrite.
    pub fn runs(&self, name: &str) -> bool {
        !self.without.iter().any(|other| other == name)
    }
}

/// A function of a verified module to be compiled.
///
/// ```
/// # use anyid_passes::CompileRequest;
/// # let text = "module @m\nfunc @f(%x: f32[4]) -> f32[4] {\n  %y = silu %x : f32[4]\n  return %y\n}\n";
/// # let module = anyid_ir::text::parse_module(text, &[]).unwrap();
/// let plan = CompileRequest::new(&module, "f").plan()?;
/// let [prepare, step] = CompileRequest::new(&module, "f").varying(["x"]).split()?;
/// # assert_eq!((plan.steps.len(), prepare.steps.len(), step.steps.len()), (1, 0, 1));
/// # Ok::<(), anyid_passes::CompileError>(())
/// ```
#[derive(Clone, Debug)]
pub struct CompileRequest<'m> {
    /// The module.
    pub module: &'m Module,
    /// The function's name.
    pub func: String,
    /// Inputs that change from step to step, by name. With them the function becomes two phases:
    /// `prepare`, which runs once, and `step`.
    pub varying: Option<Vec<String>>,
    /// Inputs and outputs that are carried from one run to the next. Of a function that is split it
    /// is `step` that carries them.
    pub states: Vec<StateSpec>,
    /// Inputs in which two branches differ that are evaluated together, where that is faster. Where
    /// it is not, the plans are those of one branch.
    pub branches: Vec<String>,
    /// Linears that get a low-rank adapter.
    pub lora: Vec<LoraTarget>,
    /// Weights that are made inputs of their names, as patterns in which a star stands for any text.
    pub lifted: Vec<String>,
    /// The derivative to compute besides.
    pub gradient: Option<Gradient>,
    /// What is kept for the derivative; the rest is computed again.
    pub keeping: Keeping,
    /// How to compile.
    pub options: Options,
}

impl<'m> CompileRequest<'m> {
    /// All of function `func` of `module` in one phase, with default options.
    pub fn new(module: &'m Module, func: &str) -> Self {
        Self {
            module,
            func: func.to_owned(),
            varying: None,
            states: Vec::new(),
            branches: Vec::new(),
            lora: Vec::new(),
            lifted: Vec::new(),
            gradient: None,
            keeping: Keeping::default(),
            options: Options::default(),
        }
    }

    /// Split by the inputs `names`.
    #[must_use]
    pub fn varying<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.varying = Some(names.into_iter().map(Into::into).collect());
        self
    }

    /// With `states` carried from run to run.
    #[must_use]
    pub fn carrying(self, states: impl IntoIterator<Item = StateSpec>) -> Self {
        Self { states: states.into_iter().collect(), ..self }
    }

    /// For two branches that differ in the inputs `names`.
    #[must_use]
    pub fn branches<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.branches = names.into_iter().map(Into::into).collect();
        self
    }

    /// With low-rank adapters at `targets`.
    #[must_use]
    pub fn with_lora(self, targets: impl IntoIterator<Item = LoraTarget>) -> Self {
        Self { lora: targets.into_iter().collect(), ..self }
    }

    /// With the weights that `patterns` describe as inputs.
    #[must_use]
    pub fn lifting<N: Into<String>>(mut self, patterns: impl IntoIterator<Item = N>) -> Self {
        self.lifted = patterns.into_iter().map(Into::into).collect();
        self
    }

    /// With the derivative that `gradient` asks for.
    #[must_use]
    pub fn with_gradient(self, gradient: Gradient) -> Self {
        Self { gradient: Some(gradient), ..self }
    }

    /// With what `keeping` says kept for the derivative.
    #[must_use]
    pub fn keeping(self, keeping: impl Into<Keeping>) -> Self {
        Self { keeping: keeping.into(), ..self }
    }

    /// As `options` say.
    #[must_use]
    pub fn with(self, options: &Options) -> Self {
        Self { options: options.clone(), ..self }
    }

    /// The plans of all phases, in order: one, or `prepare` and `step`.
    ///
    /// # Errors
    /// E0501, E0502, E0505 for what cannot be compiled; E0503 for an input that does not exist,
    /// E0504 for a pass to leave out that does not exist, E0509 for states that the function does not have or that
    /// contradict the rest of the request.
    pub fn compile(&self) -> Result<Vec<Plan>, CompileError> {
        let out = drive(self, &Selection::All, &mut unobserved)?;
        let plan = |part: crate::state::Part| part.plan.expect("the last pass makes a plan");
        Ok(out.state.parts.into_iter().map(plan).collect())
    }

    /// The plan of a function that is not split.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn plan(&self) -> Result<Plan, CompileError> {
        assert!(self.varying.is_none(), "a split function has two plans");
        Ok(self.compile()?.remove(0))
    }

    /// The plans of `prepare` and `step` of a function that is split.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn split(&self) -> Result<[Plan; 2], CompileError> {
        let plans = self.compile()?.try_into();
        Ok(plans.expect("hoist makes two phases of a function that is split"))
    }

    /// What fusion leaves between kernels, edge by edge.
    ///
    /// # Errors
    /// As [`Self::compile`].
    pub fn unfused(&self) -> Result<Vec<UnfusedEdge>, CompileError> {
        let mut request = self.clone();
        request.options.explain = true;
        Ok(drive(&request, &Selection::All, &mut unobserved)?.state.unfused)
    }

    /// Gives the edges of `program`, which is the function, the roles that the request names.
    ///
    /// # Errors
    /// E0503 for an input that does not exist or cannot be doubled, E0509 for a state that the function does
    /// not have, that stands twice, or that is asked to change otherwise than from run to run.
    pub(crate) fn declare(&self, program: &mut Program) -> Result<(), CompileError> {
        self.find_inputs(program)?;
        for (index, spec) in (0..).zip(&self.states) {
            self.check_state(program, index as usize)?;
            let input = spec.input.map(|at| &mut program.inputs[at]);
            for port in input.into_iter().chain([&mut program.outputs[spec.output]]) {
                port.role = Role::State(index);
            }
        }
        Ok(())
    }

    fn find_inputs(&self, program: &Program) -> Result<(), CompileError> {
        let inputs = || {
            let names: Vec<String> =
                program.inputs.iter().map(|port| format!("%{}", port.name)).collect();
            format!("the inputs are {}", names.join(", "))
        };
        let has = |name: &str| program.inputs.iter().any(|port| port.name == name);
        let varying = self.varying.iter().flatten();
        let varying = varying.map(|name| (name, Asked::Varying, "to split by"));
        let branches = self.branches.iter();
        let branches = branches.map(|name| (name, Asked::Branches, "for branches to differ in"));
        if let Some((name, asked, what)) = varying.chain(branches).find(|(name, ..)| !has(name)) {
            let message = format!("there is no input %{name} {what}");
            return Err(CompileError::new("E0503", message).about(asked).help(inputs()));
        }
        let own = self.branches.iter().find(|name| has(&title(name, 1)));
        let input = own.map(|name| ("input", "an input", name));
        // Results are told apart by the same names in files.
        let results: HashSet<&str> = program.outputs.iter().map(|p| p.name.as_str()).collect();
        let clash = |port: &&Port| results.contains(title(&port.name, 1).as_ref());
        let result = program.outputs.iter().filter(|_| !self.branches.is_empty()).find(clash);
        let result = result.map(|port| ("result", "a result", &port.name));
        if let Some((what, one, name)) = input.or(result) {
            let taken = title(name, 1);
            let message = format!("{what} %{name} cannot be doubled: there is {one} %{taken}");
            let error = CompileError::new("E0503", message).about(Asked::Branches);
            return Err(error.help("give one of them another name"));
        }
        Ok(())
    }

    fn check_state(&self, program: &Program, at: usize) -> Result<(), CompileError> {
        let spec = &self.states[at];
        let error = |why: String| {
            let message = format!("state {}: {why}", spec.name);
            CompileError::new("E0509", message).about(Asked::States)
        };
        let fault = |why: String| Err(error(why));
        let Some(output) = program.outputs.get(spec.output) else {
            return fault(format!("there are only {} outputs", program.outputs.len()));
        };
        if let Some(position) = spec.input {
            let Some(input) = program.inputs.get(position) else {
                return fault(format!("there are only {} inputs", program.inputs.len()));
            };
            let (before, after) = (program.ty(input.value), program.ty(output.value));
            if before != after {
                return fault(format!("it begins as {before} and ends as {after}"));
            }
            if self.varying.iter().flatten().any(|name| *name == input.name) {
                let name = &input.name;
                return fault(format!("input %{name} is carried, and so is not given per step"));
            }
            if self.branches.contains(&input.name) {
                let name = &input.name;
                return fault(format!(
                    "input %{name} is carried, each branch its own, and not given"
                ));
            }
        }
        let clash = |other: &&StateSpec| {
            other.name == spec.name
                || other.output == spec.output
                || (spec.input.is_some() && other.input == spec.input)
        };
        match self.states[..at].iter().find(clash) {
            Some(other) => Err(error(format!("it is state {} as well", other.name))
                .help("each input and each result can be one state, and a name stands for one")),
            None => Ok(()),
        }
    }
}
