//! Plans on a device without the runtime: what the differential tests run, with the memory in a state
//! of their choice.

pub use anyid_backends::check::Stored;
use anyid_backends::device::{Arena, Call, Provider, Runner};
use anyid_backends::{Device, LoadError, RunError};
use anyid_ir::Tensor;
use anyid_ir::plan::{Plan, Port, Root, title};
use std::sync::Arc;

/// Named tensors in order.
pub type Named = Vec<(String, Tensor)>;

/// Plans that share weights and kept values; those with the same states share them too.
pub struct Plans {
    runner: Box<dyn Runner>,
    kept: Option<Box<dyn Arena>>,
    states: Vec<Box<dyn Arena>>,
    /// For each plan: the position of its states.
    own: Vec<usize>,
    garbage: u8,
}

impl Plans {
    /// Loads the weights of `plans`. All memory is filled with `garbage`, the workspace before each
    /// run.
    ///
    /// # Errors
    /// As the device's.
    pub fn new(
        device: &Arc<dyn Device>,
        plans: &[&Plan],
        provider: Arc<Provider>,
        garbage: u8,
    ) -> Result<Self, LoadError> {
        let weights = device.clone().load(plans, provider, &mut |_, _| true)?;
        let runner = weights.prepare(plans.iter().map(|plan| (*plan).clone()).collect())?;
        let refused = LoadError::NoWorkspace;
        let keeps = plans.iter().position(|plan| plan.persistent_bytes > 0);
        let mut kept = keeps.map(|at| runner.kept(at)).transpose().map_err(refused)?;
        let (mut states, mut own) = (Vec::new(), Vec::new());
        for (at, plan) in plans.iter().enumerate() {
            let shared = plans[..at].iter().position(|other| other.shares_states(plan));
            match shared {
                Some(other) => own.push(own[other]),
                None => {
                    own.push(states.len());
                    states.push(runner.states(at).map_err(refused)?);
                }
            }
        }
        kept.iter_mut().chain(&mut states).for_each(|arena| arena.fill(garbage));
        Ok(Self { runner, kept, states, own, garbage })
    }

    fn state_of(&self, at: usize, name: &str) -> (usize, usize) {
        let arena = self.own[at];
        let values = self.states[arena].values().iter();
        let index =
            values.map(|value| title(&value.name, value.branch)).position(|own| own == name);
        (arena, index.unwrap_or_else(|| panic!("no state {name}")))
    }

    /// State `name` of plan number `at`.
    pub fn state(&self, at: usize, name: &str) -> Tensor {
        let (arena, index) = self.state_of(at, name);
        let arena = &self.states[arena];
        let mut out = Tensor::zeros(arena.values()[index].ty.clone());
        arena.read(index, &mut |bytes| out.bytes_mut().copy_from_slice(bytes));
        out
    }

    /// Sets state `name`.
    pub fn set_state(&mut self, at: usize, name: &str, value: &Tensor) {
        let (arena, index) = self.state_of(at, name);
        self.states[arena].write(index, value.bytes());
    }

    /// Runs plan number `at` on bytes in the order of its ports.
    ///
    /// # Errors
    /// As the device's.
    pub fn run_bytes(
        &mut self,
        at: usize,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
    ) -> Result<(), RunError> {
        self.runner.fill(self.garbage);
        let kept = self.kept.as_deref_mut();
        let states = Some(&mut *self.states[self.own[at]]);
        self.runner.run(at, Call { inputs, outputs, kept, states, ..Call::default() })
    }

    /// Runs plan number `at` on the inputs of `inputs` that it names.
    ///
    /// # Errors
    /// As the device's.
    pub fn run(&mut self, at: usize, inputs: &[(String, Tensor)]) -> Result<Named, RunError> {
        let plan = self.runner.plan(at);
        let given = given(plan, inputs);
        let port = |port: &Port| {
            (port.title().into_owned(), Tensor::zeros(plan.buffer(port.buffer).ty.clone()))
        };
        let mut outputs: Named = plan.outputs.iter().map(port).collect();
        let mut taken: Vec<&mut [u8]> =
            outputs.iter_mut().map(|(_, tensor)| tensor.bytes_mut()).collect();
        for bytes in &mut taken {
            bytes.fill(self.garbage);
        }
        self.run_bytes(at, &given, &mut taken)?;
        Ok(outputs)
    }
}

/// The bytes of a plan's inputs in its order.
fn given<'g>(plan: &Plan, inputs: &'g [(String, Tensor)]) -> Vec<&'g [u8]> {
    let bytes = |port: &Port| {
        let found = inputs.iter().find(|(name, _)| *name == port.title());
        let tensor = &found.unwrap_or_else(|| panic!("no input {}", port.name)).1;
        assert_eq!(tensor.ty(), &plan.buffer(port.buffer).ty, "input {}", port.name);
        tensor.bytes()
    };
    plan.inputs.iter().map(bytes).collect()
}

/// One plan, once.
///
/// # Errors
/// As the device's.
pub fn run_plan(
    device: &Arc<dyn Device>,
    plan: &Plan,
    weights: &Stored,
    inputs: &[(String, Tensor)],
    garbage: u8,
) -> Result<Named, RunError> {
    let plans = Plans::new(device, &[plan], weights.shared(), garbage);
    plans.unwrap_or_else(|e| panic!("{e}")).run(0, inputs)
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
    device: &Arc<dyn Device>,
    plan: &Plan,
    weights: &Stored,
    inputs: &[(String, Tensor)],
) -> Result<Named, String> {
    let (plan, gaps) = spread(plan);
    let plans = Plans::new(device, &[&plan], weights.shared(), GUARD);
    let mut plans = plans.unwrap_or_else(|e| panic!("{e}"));
    let size = |port: &Port| plan.buffer(port.buffer).ty.bytes() as usize;
    let mut held: Vec<Vec<u8>> =
        plan.outputs.iter().map(|port| vec![GUARD; size(port) + 2 * GAP]).collect();
    let mut taken: Vec<&mut [u8]> = held
        .iter_mut()
        .map(|held| {
            let end = held.len() - GAP;
            &mut held[GAP..end]
        })
        .collect();
    let done = plans.run_bytes(0, &given(&plan, inputs), &mut taken);
    done.map_err(|error| format!("{error:?}"))?;
    for gap in gaps {
        let mut bytes = vec![0; gap.len()];
        plans.runner.workspace(gap.start as u64, &mut bytes);
        if bytes.iter().any(|byte| *byte != GUARD) {
            return Err(format!("bytes {gap:?} between two pieces were written"));
        }
    }
    let mut outputs = Named::new();
    for (port, held) in plan.outputs.iter().zip(held) {
        let end = held.len() - GAP;
        if held[..GAP].iter().chain(&held[end..]).any(|byte| *byte != GUARD) {
            return Err(format!("bytes around output {} were written", port.name));
        }
        let ty = plan.buffer(port.buffer).ty.clone();
        let tensor = Tensor::from_bytes(ty, &held[GAP..end]).expect("of its size");
        outputs.push((port.title().into_owned(), tensor));
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
        .filter_map(|(_, buffer)| buffer.span())
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
