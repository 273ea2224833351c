//! The ways to run a module: the CPU backend's compiled plans, as single ops or fused, and the
//! reference interpreter.

use anyid_ir::{Evaluator, Mode, Module, Tensor};
use anyid_passes::Options;
use anyid_passes::pipeline::PASSES;
use anyid_runtime::weights::ModelWeights;
use anyid_runtime::{Backend, Compiler, Inputs};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Compiled plans on the CPU backend, every op by itself: all values can be compared.
    Cpu,
    /// Compiled plans on the CPU backend as users run them: values inside kernels do not exist.
    CpuFused,
    /// [`Self::CpuFused`] with one pass left out.
    Without(&'static str),
    /// The interpreter, rounding every primitive to its declared type.
    Interpreter,
}

impl Engine {
    /// Those that every golden case goes through.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::CpuFused, Self::Interpreter];

    /// Those for the golden case in this folder: for `base` also each pass alone left out.
    pub fn of_case(case: &Path) -> Vec<Self> {
        let mut all = Self::ALL.to_vec();
        if case.ends_with("base") {
            let optional = PASSES.iter().filter(|pass| pass.optional);
            all.extend(optional.map(|pass| Self::Without(pass.name)));
        }
        all
    }

    /// Whether every value of the graph exists in a run.
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Cpu | Self::Interpreter)
    }

    /// Name in reports.
    pub fn name(self) -> String {
        match self {
            Self::Cpu => "cpu".into(),
            Self::CpuFused => "cpu-fused".into(),
            Self::Without(pass) => format!("cpu-fused without {pass}"),
            Self::Interpreter => "interp".into(),
        }
    }

    /// How the CPU backend's plans are compiled.
    fn options(self) -> Options {
        match self {
            Self::Cpu => Options::traceable(),
            Self::Without(pass) => Options::default().off(pass),
            _ => Options::default(),
        }
    }
}

/// Values by trace path, and outputs by name.
pub type Values = BTreeMap<String, Tensor>;

/// Runs `func` and returns its outputs by name together with every traced value by path.
pub fn run(
    engine: Engine,
    module: &Module,
    func: &str,
    weights: &Arc<ModelWeights>,
    inputs: &[(&str, &Tensor)],
) -> Values {
    let mut values = Values::new();
    match engine {
        Engine::Cpu | Engine::CpuFused | Engine::Without(_) => {
            let backend = Backend::open("cpu", 2).unwrap_or_else(|e| panic!("{e}"));
            let provider: Arc<dyn anyid_backends::WeightProvider + Send + Sync> = weights.clone();
            let mut program = Compiler::new(&backend)
                .with(engine.options())
                .phase("main", module, func)
                .and_then(|c| c.load(provider, &mut |_, _| true))
                .unwrap_or_else(|e| panic!("{e}"));
            let inputs = Inputs::new().all(inputs.iter().copied());
            let outputs = program
                .traced("main", &inputs, None, &mut |path, tensor| {
                    values.insert(path.to_owned(), tensor.clone());
                })
                .unwrap_or_else(|e| panic!("{e}"));
            for (name, tensor) in outputs.iter() {
                values.insert(name.into_owned(), tensor.clone());
            }
        }
        Engine::Interpreter => {
            let target = module.func(func).expect("the function exists");
            let ordered: Vec<Tensor> = target
                .param_types()
                .map(|(name, _)| {
                    let given = inputs.iter().find(|(n, _)| *n == name);
                    given.unwrap_or_else(|| panic!("no input {name}")).1.clone()
                })
                .collect();
            let mut trace = |event: &anyid_ir::TraceEvent<'_>| {
                values.insert(event.path.to_owned(), event.value.clone());
            };
            let outputs = Evaluator::new(module, Mode::F32)
                .run(func, &ordered, &**weights, Some(&mut trace))
                .unwrap_or_else(|e| panic!("{e}"));
            for (name, tensor) in target.result_names().into_iter().zip(outputs) {
                values.insert(name, tensor);
            }
        }
    }
    values
}
