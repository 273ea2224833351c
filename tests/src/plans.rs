//! Plans on the CPU backend without the runtime: what the differential tests run, with the memory
//! in a state of their choice.

use anyid_backends::cpu::{AlignedBytes, Cpu, Executable, LoadError, Memory, RunError, Weights};
use anyid_backends::{WeightData, WeightProvider};
use anyid_ir::plan::Plan;
use anyid_ir::{Tensor, TensorType, WeightSource};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Weights in memory, as a checkpoint would store them: types may differ from the declared ones.
#[derive(Clone, Debug, Default)]
pub struct Stored(BTreeMap<String, Tensor>);

impl Stored {
    /// Adds a weight.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }
}

impl WeightProvider for Stored {
    fn get(&self, name: &str) -> Option<WeightData<'_>> {
        let tensor = self.0.get(name)?;
        Some(WeightData { dtype: tensor.dtype(), bytes: Cow::Borrowed(tensor.bytes()) })
    }
}

impl WeightSource for Stored {
    fn weight(&self, name: &str, ty: &TensorType) -> Result<Cow<'_, Tensor>, String> {
        let tensor = self.0.get(name).ok_or_else(|| format!("there is no weight \"{name}\""))?;
        Ok(Cow::Owned(tensor.cast(ty.dtype)))
    }
}

/// Named tensors in order.
pub type Named = Vec<(String, Tensor)>;

/// Plans that share weights, persistent memory and states.
pub struct Plans<'p> {
    cpu: &'p Cpu,
    provider: &'p Stored,
    weights: Weights,
    executables: Vec<Executable>,
    persistent: AlignedBytes,
    states: AlignedBytes,
    garbage: u8,
}

impl<'p> Plans<'p> {
    /// Loads the weights of `plans`. All memory is filled with `garbage` before each run.
    pub fn new(
        cpu: &'p Cpu,
        plans: &[&Plan],
        provider: &'p Stored,
        garbage: u8,
    ) -> Result<Self, LoadError> {
        let weights = Weights::load(cpu, plans, provider, &mut |_, _| true)?;
        let executables: Vec<Executable> =
            plans.iter().map(|plan| Executable::new(cpu, (*plan).clone(), &weights)).collect();
        let bytes = plans.iter().map(|plan| plan.persistent_bytes).max().unwrap_or(0);
        let mut persistent = AlignedBytes::zeroed(bytes as usize);
        persistent.bytes_mut().fill(garbage);
        let bytes = plans.iter().map(|plan| plan.state_bytes()).max().unwrap_or(0);
        let mut states = AlignedBytes::zeroed(bytes as usize);
        states.bytes_mut().fill(garbage);
        Ok(Self { cpu, provider, weights, executables, persistent, states, garbage })
    }

    /// State `name` as plan number `at` lays it out.
    pub fn state(&self, at: usize, name: &str) -> Tensor {
        let plan = self.executables[at].plan();
        let index = plan.states.iter().position(|state| state.name == name);
        let index = index.unwrap_or_else(|| panic!("no state {name}"));
        let (ty, start) = (&plan.states[index].ty, plan.state_layout().0[index] as usize);
        let bytes = &self.states.bytes()[start..start + ty.bytes() as usize];
        Tensor::from_bytes(ty.clone(), bytes).expect("a state holds its type")
    }

    /// Sets state `name`.
    pub fn set_state(&mut self, at: usize, name: &str, value: &Tensor) {
        let plan = self.executables[at].plan();
        let index = plan.states.iter().position(|state| state.name == name);
        let index = index.unwrap_or_else(|| panic!("no state {name}"));
        let start = plan.state_layout().0[index] as usize;
        let bytes = value.bytes();
        self.states.bytes_mut()[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Runs plan number `at` on the inputs of `inputs` that it names.
    pub fn run(&mut self, at: usize, inputs: &[(String, Tensor)]) -> Result<Named, RunError> {
        let executable = &self.executables[at];
        let plan = executable.plan();
        let given: Vec<&[u8]> = plan
            .inputs
            .iter()
            .map(|port| {
                let found = inputs.iter().find(|(name, _)| *name == port.name);
                let tensor = &found.unwrap_or_else(|| panic!("no input {}", port.name)).1;
                assert_eq!(tensor.ty(), &plan.buffer(port.buffer).ty, "input {}", port.name);
                tensor.bytes()
            })
            .collect();
        let ports = plan.outputs.iter().filter(|port| !port.name.starts_with("persistent."));
        let mut outputs: Named = ports
            .map(|port| (port.name.clone(), Tensor::zeros(plan.buffer(port.buffer).ty.clone())))
            .collect();
        let mut taken: Vec<&mut [u8]> =
            outputs.iter_mut().map(|(_, tensor)| tensor.bytes_mut()).collect();
        for bytes in &mut taken {
            bytes.fill(self.garbage);
        }
        let mut memory = Memory::new(plan.workspace_bytes, executable.scratch_bytes());
        memory.fill(self.garbage);
        executable.run(
            self.cpu,
            &self.weights,
            self.provider,
            &mut memory,
            &mut self.persistent,
            &mut self.states,
            &given,
            &mut taken,
            &|| false,
            None,
        )?;
        Ok(outputs)
    }
}

/// One plan, once.
pub fn run_plan(
    cpu: &Cpu,
    plan: &Plan,
    weights: &Stored,
    inputs: &[(String, Tensor)],
    garbage: u8,
) -> Result<Named, RunError> {
    let mut plans = Plans::new(cpu, &[plan], weights, garbage).unwrap_or_else(|e| panic!("{e}"));
    plans.run(0, inputs)
}
