//! Plans on the CPU backend without the runtime: what the differential tests run, with the memory
//! in a state of their choice.

use anyid_backends::cpu::{AlignedBytes, Cpu, Executable, LoadError, Memory, RunError, Weights};
use anyid_backends::{StoredWeight, WeightFault, WeightProvider};
use anyid_ir::plan::{Plan, Root, title};
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
    fn find(&self, name: &str) -> Option<StoredWeight> {
        let tensor = self.0.get(name)?;
        Some(StoredWeight { dtype: tensor.dtype(), bytes: tensor.bytes().len() as u64 })
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), WeightFault> {
        out.copy_from_slice(&self.0[name].bytes()[from as usize..][..out.len()]);
        Ok(())
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
        let index = plan.states.iter().position(|state| title(&state.name, state.branch) == name);
        let index = index.unwrap_or_else(|| panic!("no state {name}"));
        let (ty, start) = (&plan.states[index].ty, plan.state_layout().0[index] as usize);
        let bytes = &self.states.bytes()[start..start + ty.bytes() as usize];
        Tensor::from_bytes(ty.clone(), bytes).expect("a state holds its type")
    }

    /// Sets state `name`.
    pub fn set_state(&mut self, at: usize, name: &str, value: &Tensor) {
        let plan = self.executables[at].plan();
        let index = plan.states.iter().position(|state| title(&state.name, state.branch) == name);
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
                let found = inputs.iter().find(|(name, _)| *name == port.title());
                let tensor = &found.unwrap_or_else(|| panic!("no input {}", port.name)).1;
                assert_eq!(tensor.ty(), &plan.buffer(port.buffer).ty, "input {}", port.name);
                tensor.bytes()
            })
            .collect();
        let ports = plan.outputs.iter();
        let mut outputs: Named = ports
            .map(|port| {
                (port.title().into_owned(), Tensor::zeros(plan.buffer(port.buffer).ty.clone()))
            })
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

/// Bytes of a gap between two pieces of memory, and what they hold.
const GAP: usize = 256;
const GUARD: u8 = 0xA5;

/// One plan, once, with gaps between everything it may write: pieces of workspace that do not touch
/// are moved apart, and the bytes between them, like those around states, outputs and persistent
/// memory, are looked at afterwards.
///
/// # Errors
/// In words, where a byte of a gap was written or the run failed.
pub fn run_guarded(
    cpu: &Cpu,
    plan: &Plan,
    weights: &Stored,
    inputs: &[(String, Tensor)],
) -> Result<Named, String> {
    let (plan, gaps) = spread(plan);
    let loaded = Weights::load(cpu, &[&plan], weights, &mut |_, _| true).unwrap();
    let executable = Executable::new(cpu, plan, &loaded);
    let plan = executable.plan();
    let given: Vec<&[u8]> = plan
        .inputs
        .iter()
        .map(|port| inputs.iter().find(|(name, _)| *name == port.title()).unwrap().1.bytes())
        .collect();
    let mut memory = Memory::new(plan.workspace_bytes, executable.scratch_bytes());
    memory.fill(0xFF);
    for gap in &gaps {
        memory.workspace_mut()[gap.clone()].fill(GUARD);
    }
    let mut persistent = AlignedBytes::zeroed(plan.persistent_bytes as usize);
    let mut states = AlignedBytes::zeroed(plan.state_bytes() as usize);
    let ports: Vec<_> = plan.outputs.iter().collect();
    let sizes: Vec<usize> =
        ports.iter().map(|port| plan.buffer(port.buffer).ty.bytes() as usize).collect();
    let mut room: Vec<Vec<u8>> = sizes.iter().map(|size| vec![GUARD; size + 2 * GAP]).collect();
    let mut taken: Vec<&mut [u8]> =
        room.iter_mut().zip(&sizes).map(|(room, size)| &mut room[GAP..GAP + size]).collect();
    executable
        .run(
            cpu,
            &loaded,
            weights,
            &mut memory,
            &mut persistent,
            &mut states,
            &given,
            &mut taken,
            &|| false,
            None,
        )
        .map_err(|error| format!("{error:?}"))?;
    for gap in gaps {
        if memory.workspace_mut()[gap.clone()].iter().any(|byte| *byte != GUARD) {
            return Err(format!("bytes {gap:?} between two pieces were written"));
        }
    }
    let mut outputs = Named::new();
    for ((port, size), room) in ports.into_iter().zip(sizes).zip(room) {
        if room[..GAP].iter().chain(&room[GAP + size..]).any(|byte| *byte != GUARD) {
            return Err(format!("bytes around output {} were written", port.name));
        }
        let ty = plan.buffer(port.buffer).ty.clone();
        let tensor = Tensor::from_bytes(ty, &room[GAP..GAP + size]).expect("of its size");
        outputs.push((port.name.clone(), tensor));
    }
    Ok(outputs)
}

/// The plan with a gap in front of every run of touching workspace buffers and at the end, and where
/// the gaps lie.
fn spread(plan: &Plan) -> (Plan, Vec<std::ops::Range<usize>>) {
    let inside = |root| root == Root::Workspace;
    let mut used: Vec<(u64, u64)> = plan
        .buffers
        .iter()
        .filter(|(_, buffer)| inside(buffer.root) && buffer.ty.bytes() > 0)
        .map(|(_, buffer)| (buffer.offset, buffer.offset + buffer.ty.bytes()))
        .collect();
    used.sort_unstable();
    // Runs of bytes that some buffer holds together: they cannot be moved apart.
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for (start, end) in used {
        match runs.last_mut().filter(|(_, last)| start < *last) {
            Some((_, last)) => *last = end.max(*last),
            None => runs.push((start, end)),
        }
    }
    let mut plan = plan.clone();
    let (mut gaps, mut at) = (Vec::new(), 0);
    let mut moved: Vec<u64> = Vec::new();
    for (start, end) in &runs {
        gaps.push(at..at + GAP);
        moved.push((at + GAP) as u64);
        let size = (end - start) as usize;
        at += GAP + size;
        let aligned = at.next_multiple_of(64);
        gaps.push(at..aligned);
        at = aligned;
    }
    gaps.push(at..at + GAP);
    let ids: Vec<_> = plan.buffers.iter().map(|(id, _)| id).collect();
    for id in ids {
        let buffer = &mut plan.buffers[id];
        if inside(buffer.root) {
            let run = runs.iter().rposition(|(start, _)| *start <= buffer.offset);
            if let Some(run) = run {
                buffer.offset = buffer.offset - runs[run].0 + moved[run];
            }
        }
    }
    plan.workspace_bytes = (at + GAP) as u64;
    (plan, gaps)
}
