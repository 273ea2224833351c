//! The two ways to run a module: the CPU backend's compiled plans and the reference interpreter.

use anyid_ir::{Evaluator, Mode, Module, Tensor};
use anyid_runtime::weights::ModelWeights;
use anyid_runtime::{Backend, Compiler, Inputs};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Compiled plans on the CPU backend.
    Cpu,
    /// The interpreter, rounding every primitive to its declared type.
    Interpreter,
}

impl Engine {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Interpreter];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Interpreter => "interp",
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
        Engine::Cpu => {
            let backend = Backend::open("cpu", 2).unwrap_or_else(|e| panic!("{e}"));
            let provider: Arc<dyn anyid_backends::WeightProvider + Send + Sync> = weights.clone();
            let mut program = Compiler::new(&backend)
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
                values.insert(name.to_owned(), tensor.clone());
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
