//! A second device, for the proof that the contract is one: it executes plans by the interpreter's
//! arithmetic in memory of its own, which holds NaN until something is written. Nothing outside this
//! folder and the list of devices knows it. It is slow.

use crate::kernel_meaning::Launch;
use anyid_backends::device::{
    About, Arena, Call, LaunchTime, Progress, Provider, Runner, Throughput, Value, Weights,
};
use anyid_backends::errors::NoMemory;
use anyid_backends::registry::{Kind, Opening, Setting};
use anyid_backends::stop::stop_requested;
use anyid_backends::{Device, Fault, HostArena, LoadError, OpenError, RunError, StoredWeight};
use anyid_ir::kernel::Target;
use anyid_ir::plan::{Alignment, BufferId, Plan, Root};
use anyid_ir::{Diagnostic, Evaluator, Mode, Tensor, TensorType};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How it is found: `second:0` and `second:1`.
pub const KIND: Kind = Kind {
    name: "second",
    names: "second:N",
    targets: || vec![target()],
    settings: &[Setting { name: "capacity", variable: "ANYID_SECOND_CAPACITY" }],
    variants: Vec::new,
    devices: || Ok((0..2).map(|number| format!("second:{number}")).collect()),
    rank: 0,
    open: Some(open),
};

/// What memory holds before anything is written: NaN in every floating-point type.
const POISON: u8 = 0xFF;

fn target() -> Target {
    let alignment = Alignment::new(256).expect("it is a power of two");
    Target {
        name: "second",
        weight_bound_rows: 8,
        joint_parts: true,
        alignment,
        ..Target::default()
    }
}

fn open(opening: &Opening<'_>) -> Result<Arc<dyn Device>, OpenError> {
    let number = opening.number(2)?;
    let capacity = opening.settings.get("capacity").map_or(Ok(1 << 40), str::parse);
    let capacity = capacity.map_err(|_| OpenError::Setting {
        name: "capacity",
        message: "the capacity is not a number of bytes".to_owned(),
    })?;
    Ok(Arc::new(Second(About {
        name: format!("second:{number}"),
        words: "the interpreter's arithmetic".to_owned(),
        instructions: "doubles".to_owned(),
        capacity: Some(capacity),
        target: target(),
        warnings: Vec::new(),
    })))
}

struct Second(About);

/// Weights in the types that plans want, by name.
struct Loaded(BTreeMap<String, Tensor>);

impl Device for Second {
    fn about(&self) -> &About {
        &self.0
    }

    fn weight_bytes(&self, plans: &[&Plan]) -> u64 {
        wanted(plans).values().map(|ty| ty.bytes()).sum()
    }

    fn scratch_bytes(&self, _: &Plan) -> u64 {
        0
    }

    fn load(
        self: Arc<Self>,
        plans: &[&Plan],
        provider: Arc<Provider>,
        progress: &mut Progress<'_>,
    ) -> Result<Arc<dyn Weights>, LoadError> {
        let (total, mut done) = (self.weight_bytes(plans), 0);
        let mut loaded = BTreeMap::new();
        for (name, ty) in wanted(plans) {
            if !progress(done, total) || stop_requested() {
                return Err(LoadError::Stopped);
            }
            let missing = || LoadError::Missing(name.to_owned());
            let StoredWeight { dtype, bytes } = provider.find(name).ok_or_else(missing)?;
            let mut stored = Tensor::zeros(ty.with_dtype(dtype));
            if stored.ty().bytes() != bytes {
                return Err(LoadError::Size { name: name.to_owned(), ty: ty.clone(), bytes });
            }
            provider.read(name, 0, stored.bytes_mut()).map_err(LoadError::Unreadable)?;
            loaded.insert(name.to_owned(), stored.cast(ty.dtype));
            done += ty.bytes();
        }
        progress(total, total);
        Ok(Arc::new(Loaded(loaded)))
    }

    fn throughput(&self, _: Duration) -> Throughput {
        let (f32_gflops, copy_gb_per_second) = (1.0, 1.0);
        let instructions = ["arithmetic"; 2];
        Throughput { threads: 1, f32_gflops, bf16_gflops: None, instructions, copy_gb_per_second }
    }
}

/// The weights of plans by name.
fn wanted<'p>(plans: &[&'p Plan]) -> BTreeMap<&'p str, &'p TensorType> {
    let all = plans.iter().flat_map(|plan| &plan.weights);
    all.map(|weight| (weight.name.as_str(), &weight.ty)).collect()
}

impl Weights for Loaded {
    fn bytes(&self) -> u64 {
        self.0.values().map(|tensor| tensor.ty().bytes()).sum()
    }

    fn prepare(self: Arc<Self>, plans: Vec<Plan>) -> Result<Box<dyn Runner>, LoadError> {
        let bytes = plans.iter().map(|plan| plan.workspace_bytes).max().unwrap_or(0);
        let room = usize::try_from(bytes).ok().and_then(anyid_ir::memory::zeroed);
        let workspace = room.ok_or(LoadError::NoWorkspace(NoMemory::of(bytes)))?;
        let ready = |plan: Plan| {
            let launches = plan.steps.iter().map(|step| Launch::new(&plan, step)).collect();
            (plan, launches)
        };
        let plans = plans.into_iter().map(ready).collect();
        Ok(Box::new(Ready { weights: self, plans, workspace, poison: POISON }))
    }
}

struct Ready {
    weights: Arc<Loaded>,
    plans: Vec<(Plan, Vec<Launch>)>,
    workspace: Vec<u8>,
    /// What the workspace is filled with before each run.
    poison: u8,
}

/// The memory of one run, a piece for every root: nothing of the caller's is among it.
struct Frame<'f> {
    plan: &'f Plan,
    weights: &'f Loaded,
    workspace: &'f mut [u8],
    kept: &'f mut [u8],
    states: &'f mut [u8],
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
}

impl Frame<'_> {
    /// The memory of a root that is no weight.
    fn memory(&mut self, root: Root) -> &mut [u8] {
        match root {
            Root::Workspace => self.workspace,
            Root::Persistent => self.kept,
            Root::State(at) => &mut self.states[self.plan.state_layout().0[at as usize] as usize..],
            Root::Input(at) => &mut self.inputs[at as usize],
            Root::Output(at) => &mut self.outputs[at as usize],
            Root::Weight(_) => unreachable!("a plan writes no weight"),
        }
    }

    /// Writes a buffer row by row.
    fn write(&mut self, id: BufferId, bytes: &[u8]) {
        let buffer = self.plan.buffer(id);
        let mut rest = bytes;
        for (from, len) in buffer.runs() {
            let row = rest.split_off(..len as usize).expect("a buffer holds its type");
            self.memory(buffer.root)[from as usize..][..row.len()].copy_from_slice(row);
        }
    }

    fn read(&mut self, id: BufferId) -> Tensor {
        let buffer = self.plan.buffer(id);
        let mut bytes = Vec::new();
        for (from, len) in buffer.runs() {
            let memory = match buffer.root {
                Root::Weight(at) => self.weights.0[&self.plan.weights[at as usize].name].bytes(),
                root => self.memory(root),
            };
            bytes.extend_from_slice(&memory[from as usize..][..len as usize]);
        }
        Tensor::from_bytes(buffer.ty.clone(), &bytes).expect("a buffer holds its type")
    }
}

/// An error of the interpreter as one of the device.
fn failed(error: Diagnostic, label: &str) -> RunError {
    let Diagnostic { code, message, place, help, .. } = error;
    let fault = Box::new(Fault { code, message, place, help, cause: None });
    RunError::Failed { label: Some(label.to_owned()), fault }
}

impl Runner for Ready {
    fn plan(&self, at: usize) -> &Plan {
        &self.plans[at].0
    }

    fn workspace_bytes(&self) -> u64 {
        self.workspace.len() as u64
    }

    fn memory_bytes(&self) -> u64 {
        self.workspace_bytes()
    }

    fn kept(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        let mut kept = HostArena::reserve(plan.persistent_bytes, Value::kept(plan))?;
        kept.fill(POISON);
        Ok(kept)
    }

    fn states(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        HostArena::reserve(plan.state_bytes(), Value::states(plan))
    }

    fn run(&mut self, at: usize, mut call: Call<'_, '_>) -> Result<(), RunError> {
        let (plan, launches) = &self.plans[at];
        self.workspace.fill(self.poison);
        let arena = |arena| HostArena::memory(arena).bytes_mut();
        let size = |id: BufferId| plan.buffer(id).ty.bytes() as usize;
        let mut frame = Frame {
            plan,
            weights: &self.weights,
            workspace: &mut self.workspace,
            kept: call.kept.map_or(&mut [], arena),
            states: call.states.map_or(&mut [], arena),
            inputs: call.inputs.iter().map(|bytes| bytes.to_vec()).collect(),
            outputs: plan.outputs.iter().map(|port| vec![POISON; size(port.buffer)]).collect(),
        };
        for (index, (step, launch)) in plan.steps.iter().zip(launches).enumerate() {
            if stop_requested() {
                return Err(RunError::Stopped);
            }
            let begin = call.times.as_ref().map_or(0, |times| times.now());
            let operands = step.operands.iter().map(|id| frame.read(*id)).collect();
            let inputs = launch.inputs(operands, step)?;
            let made = Evaluator::new(&launch.module, Mode::F32).run("f", &inputs, &(), None);
            let made = made.map_err(|error| failed(*error, step.label()))?;
            for ((result, tensor), label) in step.results.iter().zip(&made).zip(&step.labels) {
                frame.write(*result, tensor.bytes());
                if let Some(trace) = &mut call.trace {
                    trace(label, tensor);
                }
            }
            if let Some(times) = &mut call.times {
                let end = times.now();
                times.push(LaunchTime { step: index, begin, end });
            }
        }
        for (port, out) in plan.outputs.iter().zip(call.outputs) {
            out.copy_from_slice(frame.read(port.buffer).bytes());
        }
        Ok(())
    }

    fn fill(&mut self, byte: u8) {
        self.poison = byte;
    }

    fn workspace(&mut self, from: u64, out: &mut [u8]) {
        let from = from as usize;
        out.copy_from_slice(&self.workspace[from..from + out.len()]);
    }
}
