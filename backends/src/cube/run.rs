//! Plans on a device: made ready, with every kernel compiled, and run launch by launch.

use super::emit::{Checked, Emitter};
use super::launch::{Launch, Limits, Object};
use super::memory::{Loaded, Memory, PortableArena, start};
use super::{compile, errors, tune};
use crate::Fault;
use crate::device::{Arena, Call, LaunchTime, Runner, Value, Weights};
use crate::errors::{LoadError, NoMemory, RunError};
use crate::places::{Ports, Roots, Span};
use crate::stop::stop_requested;
use anyid_ir::Tensor;
use anyid_ir::plan::{BufferId, Plan, WeightRef};
use cubecl::prelude::*;
use cubecl::server::Handle;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A plan, its launches by steps, and the looks at indices among them.
pub(super) struct Prepared {
    plan: Plan,
    ports: Ports,
    states_at: Vec<u64>,
    pub(super) steps: Vec<Vec<Launch>>,
    checks: Vec<Checked>,
}

struct Ready<R: Runtime> {
    loaded: Arc<Loaded<R>>,
    plans: Vec<Prepared>,
    workspace: Memory<R>,
    edge: Memory<R>,
    constants: Memory<R>,
    faults: Memory<R>,
}

impl Prepared {
    /// Where the roots of the plan lie: objects that are the same in every run.
    fn roots<'r>(
        plan: &'r Plan,
        ports: &'r Ports,
        states_at: &'r [u64],
        weights: &'r dyn Fn(&str, bool) -> Span,
    ) -> Roots<'r> {
        Roots {
            plan,
            ports,
            states_at,
            weights,
            workspace: Object::WORKSPACE.span(plan.workspace_bytes),
            kept: Object::KEPT.span(plan.persistent_bytes),
            states: Object::STATES.span(plan.state_bytes()),
            edge: Object::EDGE.span(ports.bytes()),
        }
    }

    /// A plan on a device with such limits that holds no other.
    pub(super) fn alone(plan: &Plan, limits: &Limits) -> Self {
        let weights = |name: &str, _: bool| {
            let at = plan.weights.iter().position(|weight| weight.name == name);
            let at = at.expect("a plan lists its weights");
            Object::weight(at).span(plan.weights[at].ty.bytes())
        };
        Self::new(plan.clone(), &weights, limits, &mut Vec::new())
    }

    /// What it has in one piece, in words and bytes: memory, and operands that a kernel binds.
    pub(super) fn pieces(&self) -> [Vec<(String, u64)>; 2] {
        let plan = &self.plan;
        let own = [
            ("intermediate values", plan.workspace_bytes),
            ("values that are kept", plan.persistent_bytes),
            ("states", plan.state_bytes()),
            ("inputs and outputs", self.ports.bytes()),
        ];
        let own = own.into_iter().map(|(what, bytes)| (what.to_owned(), bytes));
        let weight =
            |weight: &WeightRef| (format!("the elements of {}", weight.name), weight.ty.bytes());
        let memory = own.chain(plan.weights.iter().map(weight)).collect();
        let operands = plan.steps.iter().zip(&self.steps).flat_map(|(step, launches)| {
            let each = |launch: &Launch| (format!("operands of {}", step.label()), launch.widest());
            launches.iter().map(each).collect::<Vec<_>>()
        });
        [memory, operands.collect()]
    }

    /// A plan on a device, whose weights lie in objects of their own.
    pub(super) fn new(
        plan: Plan,
        weights: &dyn Fn(&str, bool) -> Span,
        limits: &Limits,
        constants: &mut Vec<u8>,
    ) -> Self {
        let (ports, states_at) = (Ports::new(&plan), plan.state_layout().0);
        let (steps, checks) = {
            let roots = Self::roots(&plan, &ports, &states_at, weights);
            let mut emitter = Emitter::new(&roots, limits, constants);
            let each = plan.steps.iter().enumerate();
            let steps = each.map(|(at, step)| emitter.step(at, step)).collect();
            (steps, emitter.checks)
        };
        Self { plan, ports, states_at, steps, checks }
    }
}

/// What a panic has said.
pub(super) fn said(panicked: Box<dyn Any + Send>) -> String {
    let text = panicked.downcast::<String>().map(|text| *text);
    text.or_else(|other| other.downcast::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_default()
}

impl<R: Runtime> Loaded<R> {
    /// The memory of a weight.
    fn span(&self, name: &str) -> Span {
        let at = self.names[name];
        Object::weight(at).span(self.memories[at].bytes)
    }
}

impl<R: Runtime> Weights for Loaded<R> {
    fn bytes(&self) -> u64 {
        self.memories.iter().map(|memory| memory.bytes).sum()
    }

    fn prepare(self: Arc<Self>, plans: Vec<Plan>) -> Result<Box<dyn Runner>, LoadError> {
        let device = &self.device;
        let _turn = device.turn();
        let mut constants = Vec::new();
        for plan in &plans {
            device.check(plan)?;
        }
        let weights = |name: &str, _: bool| self.span(name);
        let made = |plan| Prepared::new(plan, &weights, &device.limits, &mut constants);
        let mut plans: Vec<Prepared> = plans.into_iter().map(made).collect();
        let each = plans.iter_mut().flat_map(|plan| plan.steps.iter_mut().flatten());
        tune::all(device, each).map_err(LoadError::Failed)?;
        let all = || plans.iter().flat_map(|plan| plan.steps.iter().flatten());
        compile::all(device, all().map(|launch| &launch.kernel)).map_err(LoadError::Failed)?;
        let most = |of: &dyn Fn(&Prepared) -> u64| plans.iter().map(of).max().unwrap_or(0);
        let reserve = |bytes: u64| Memory::new(device, bytes);
        let workspace = reserve(most(&|each| each.plan.workspace_bytes));
        let edge = reserve(most(&|each| each.ports.bytes()));
        let faults = reserve(most(&|each| 8 * each.checks.len() as u64));
        let own = reserve(constants.len() as u64);
        own.write(0, &constants);
        device.wait().map_err(LoadError::Failed)?;
        let loaded = self.clone();
        Ok(Box::new(Ready { loaded, plans, workspace, edge, constants: own, faults }))
    }
}

/// The memory of a run that is not the runner's.
struct Outside<'o> {
    kept: Option<&'o Handle>,
    states: Option<&'o Handle>,
}

impl<R: Runtime> Ready<R> {
    fn memory<'m>(&'m self, outside: &Outside<'m>, object: Object) -> &'m Handle {
        match object {
            Object::WORKSPACE => &self.workspace.handle,
            Object::KEPT => outside.kept.expect("a plan with kept values is given their memory"),
            Object::STATES => outside.states.expect("a plan with states is given their memory"),
            Object::EDGE => &self.edge.handle,
            Object::CONSTANTS => &self.constants.handle,
            Object::FAULTS => &self.faults.handle,
            other => {
                let at = other.as_weight().expect("no other object is part of a plan");
                &self.loaded.memories[at].handle
            }
        }
    }

    /// The bytes of a buffer in their order.
    fn bytes(
        &self,
        outside: &Outside<'_>,
        roots: &Roots<'_>,
        id: BufferId,
    ) -> Result<Vec<u8>, Box<Fault>> {
        let span = roots.span(id);
        let (object, from) = Object::of(span.address);
        let device = &self.loaded.device;
        let handle = self.memory(outside, object);
        let all = super::memory::read(device, handle, from, span.bytes)?;
        let mut bytes = Vec::with_capacity(roots.plan.buffer(id).ty.bytes() as usize);
        for piece in roots.pieces(id) {
            let at = (piece.address - span.address) as usize;
            bytes.extend_from_slice(&all[at..at + piece.bytes as usize]);
        }
        Ok(bytes)
    }

    fn go(&mut self, at: usize, call: Call<'_, '_>) -> Result<(), RunError> {
        let Call { inputs, outputs, kept, states, mut times, mut trace, .. } = call;
        let outside = Outside {
            kept: kept.map(|arena| PortableArena::<R>::handle(arena)),
            states: states.map(|arena| PortableArena::<R>::handle(arena)),
        };
        let device = self.loaded.device.clone();
        let Prepared { plan, ports, states_at, steps, checks } = &self.plans[at];
        let weights = |name: &str, _: bool| self.loaded.span(name);
        let roots = Prepared::roots(plan, ports, states_at, &weights);
        let failed = |step: Option<usize>, fault: Box<Fault>| {
            let label = step.map(|step| plan.steps[step].label().to_owned());
            RunError::Failed { label, fault }
        };
        self.take(ports, inputs);
        for (index, launches) in steps.iter().enumerate() {
            if stop_requested() {
                return Err(RunError::Stopped);
            }
            let begin = times.as_ref().map_or(0, |times| times.now());
            for launch in launches {
                start(&device, launch, &|object| self.memory(&outside, object));
            }
            if let Some(times) = &mut times {
                device.wait().map_err(|fault| failed(Some(index), fault))?;
                let end = times.now();
                times.push(LaunchTime { step: index, begin, end });
            }
            if let Some(trace) = &mut trace {
                let step = &plan.steps[index];
                for (result, label) in step.results.iter().zip(&step.labels) {
                    let bytes = self.bytes(&outside, &roots, *result);
                    let bytes = bytes.map_err(|fault| failed(Some(index), fault))?;
                    let ty = plan.buffer(*result).ty.clone();
                    let tensor = Tensor::from_bytes(ty, &bytes).expect("a buffer holds its type");
                    trace(label, &tensor);
                }
            }
        }
        device.wait().map_err(|fault| failed(None, fault))?;
        self.look(plan, checks)?;
        for (port, out) in plan.outputs.iter().zip(outputs.iter_mut()) {
            let bytes = self.bytes(&outside, &roots, port.buffer);
            out.copy_from_slice(&bytes.map_err(|fault| failed(None, fault))?);
        }
        if stop_requested() { Err(RunError::Stopped) } else { Ok(()) }
    }

    /// Copies the inputs to the device, in one piece.
    fn take(&self, ports: &Ports, inputs: &[&[u8]]) {
        let end = |(from, bytes): (&u64, &&[u8])| from + bytes.len() as u64;
        let all = ports.inputs.iter().zip(inputs).map(end).max().unwrap_or(0);
        let mut piece = vec![0; all as usize];
        for (from, bytes) in ports.inputs.iter().zip(inputs) {
            piece[*from as usize..][..bytes.len()].copy_from_slice(bytes);
        }
        self.edge.write(0, &piece);
    }

    /// The first index that names no row, if there is one.
    fn look(&self, plan: &Plan, checks: &[Checked]) -> Result<(), RunError> {
        let mut found = vec![0; checks.len() * 8];
        let read = self.faults.read(0, &mut found);
        read.map_err(|fault| RunError::Failed { label: None, fault })?;
        for (check, words) in checks.iter().zip(found.as_chunks::<8>().0) {
            let [place, index] =
                [0, 4].map(|at| u32::from_le_bytes(words[at..at + 4].try_into().expect("four")));
            if place != u32::MAX {
                let label = plan.steps[check.step].label().to_owned();
                let index = i64::from(index as i32);
                return Err(RunError::Index { label, index, rows: check.rows });
            }
        }
        Ok(())
    }
}

impl<R: Runtime> Runner for Ready<R> {
    fn plan(&self, at: usize) -> &Plan {
        &self.plans[at].plan
    }

    fn workspace_bytes(&self) -> u64 {
        self.workspace.bytes
    }

    fn memory_bytes(&self) -> u64 {
        let all = [&self.workspace, &self.edge, &self.constants, &self.faults];
        all.into_iter().map(|memory| memory.bytes).sum()
    }

    fn kept(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        let _turn = self.loaded.device.turn();
        PortableArena::reserve(&self.loaded.device, plan.persistent_bytes, Value::kept(plan))
    }

    fn states(&self, at: usize) -> Result<Box<dyn Arena>, NoMemory> {
        let plan = self.plan(at);
        let _turn = self.loaded.device.turn();
        PortableArena::reserve(&self.loaded.device, plan.state_bytes(), Value::states(plan))
    }

    fn run(&mut self, at: usize, call: Call<'_, '_>) -> Result<(), RunError> {
        let device = self.loaded.device.clone();
        let _turn = device.turn();
        // cubecl panics where a device that is gone does not answer.
        let done = catch_unwind(AssertUnwindSafe(|| self.go(at, call)));
        done.unwrap_or_else(|panicked| {
            let fault = errors::lost(&device.about.name, said(panicked));
            Err(RunError::Failed { label: None, fault })
        })
    }

    fn fill(&mut self, byte: u8) {
        let _turn = self.loaded.device.turn();
        self.workspace.fill(byte);
        self.edge.fill(byte);
    }

    fn workspace(&mut self, from: u64, out: &mut [u8]) {
        let _turn = self.loaded.device.turn();
        let _ = self.workspace.read(from, out);
    }
}
