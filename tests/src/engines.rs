//! The ways to run a module: compiled plans on a device, as single ops or fused, and the reference
//! interpreter.

use crate::devices;
use anyid_ir::{Evaluator, Mode, Module, Tensor};
use anyid_passes::Options;
use anyid_passes::pipeline::PASSES;
use anyid_runtime::weights::ModelWeights;
use anyid_runtime::{Compiler, Inputs};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Compiled plans on the device of this name, every op by itself: all values can be compared.
    Apart(&'static str),
    /// Compiled plans on that device as users run them: values inside kernels do not exist.
    Fused(&'static str),
    /// [`Self::Fused`] with other kernels: one of the [ways](devices::ways) of that device.
    Way(&'static str, usize),
    /// [`Self::Fused`] on an emulated device in every order of its threads.
    Orders(&'static str),
    /// [`Self::Fused`] on the first device with one pass left out.
    Without(&'static str),
    /// The interpreter, rounding every primitive to its declared type.
    Interpreter,
}

impl Engine {
    /// The first device of the list in both ways, and the interpreter.
    pub fn three() -> [Self; 3] {
        let first = devices::names()[0];
        [Self::Apart(first), Self::Fused(first), Self::Interpreter]
    }

    /// Those for the golden case in this folder: every device in both ways and with all of its kernels,
    /// the interpreter, for `base` also each pass alone left out, and for `hd128` emulated devices
    /// in all orders of their threads.
    pub fn of_case(case: &Path) -> Vec<Self> {
        let each = |name: &&'static str| {
            let (name, ways) = (*name, devices::ways(name).len());
            let other = (0..ways).map(move |at| Self::Way(name, at));
            [Self::Apart(name), Self::Fused(name)].into_iter().chain(other)
        };
        let mut all: Vec<Self> = devices::names().iter().flat_map(each).collect();
        all.push(Self::Interpreter);
        if case.ends_with("hd128") {
            let emulated = devices::names().iter().filter(|name| devices::is_emulated(name));
            all.extend(emulated.map(|name| Self::Orders(name)));
        }
        // Passes are about plans, of which the quick devices tell enough.
        if case.ends_with("base") && !devices::is_slow(devices::names()[0]) {
            let optional = PASSES.iter().filter(|pass| pass.optional);
            all.extend(optional.map(|pass| Self::Without(pass.name)));
        }
        all
    }

    /// Whether every value of the graph exists in a run.
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Apart(_) | Self::Interpreter)
    }

    /// Name in reports.
    pub fn name(self) -> String {
        match self {
            Self::Apart(device) => device.into(),
            Self::Fused(device) => format!("{device}-fused"),
            Self::Way(device, at) => {
                let way = &devices::ways(device)[at];
                let values: Vec<&str> = way.values.iter().map(|(_, value)| &**value).collect();
                format!("{device}-fused {}", values.join(" "))
            }
            Self::Orders(device) => format!("{device}-fused in all orders"),
            Self::Without(pass) => format!("{}-fused without {pass}", devices::names()[0]),
            Self::Interpreter => "interp".into(),
        }
    }

    /// The device and how plans for it are compiled; `None` for the interpreter.
    fn compiled(self) -> Option<(&'static str, Options)> {
        match self {
            Self::Apart(device) => Some((device, Options::traceable())),
            Self::Fused(device) | Self::Way(device, _) | Self::Orders(device) => {
                Some((device, Options::default()))
            }
            Self::Without(pass) => Some((devices::names()[0], Options::default().off(pass))),
            Self::Interpreter => None,
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
    match engine.compiled() {
        Some((device, options)) => {
            let backend = match engine {
                Engine::Way(_, at) => devices::backend_with(device, &devices::ways(device)[at], 2),
                Engine::Orders(_) => devices::backend_with(device, &devices::in_all_orders(2), 2),
                _ => devices::backend(device, 2),
            };
            let provider: Arc<dyn anyid_backends::WeightProvider + Send + Sync> = weights.clone();
            let mut program = Compiler::new(&backend)
                .with(options)
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
        None => {
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
