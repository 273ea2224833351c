//! From values to bytes: values share memory where that is safe, lifetimes are found, offsets are
//! packed and checked.
//!
//! `flow` is the program in a form that is right without any sharing, `alias` elides copies and
//! lets results take over operands, `pack` gives offsets, `check` looks at the finished plan.

pub(crate) mod alias;
mod check;
mod classes;
mod contents;
pub(crate) mod flow;
mod gaps;
pub(crate) mod order;
pub mod pack;
mod profile;

use crate::program::{self, Role, ValueIndex};
use crate::rewrite::Rewrites;
use alias::Sharing;
use anyid_ir::plan::{Buffer, BufferId, Plan, Port, Root, State, Step};
use anyid_ir::plan_live::bounds;
use anyid_ir::{Arena, Entity};
use classes::MemoryClasses;
use flow::{Flow, Names};
use pack::Piece;

/// A program with the memory of its values decided, up to offsets.
#[derive(Clone, Debug)]
pub struct Shared {
    pub(crate) flow: Flow,
    pub(crate) classes: MemoryClasses,
    /// First bytes of the persistent values that the program makes.
    pub(crate) kept: Vec<u64>,
    pub(crate) kept_bytes: u64,
}

impl Shared {
    /// The least workspace that the order of the launches allows.
    pub(crate) fn bound(&self) -> u64 {
        self.classes.bound()
    }

    /// Where the results of launches lie, for texts: see [`place_text`].
    pub(crate) fn places<'s>(
        &'s self,
        placement: Option<&'s Placement>,
    ) -> impl Fn(ValueIndex) -> Option<String> + 's {
        let (names, elided) = (Names::new(&self.flow), self.elided());
        move |value| place_text(self, placement, &names, elided[value as usize], value)
    }

    /// Of every value, whether the copy that would make it is elided.
    fn elided(&self) -> Vec<bool> {
        let mut elided = vec![false; self.flow.values.len()];
        for (step, dropped) in self.flow.steps.iter().zip(&self.classes.dropped) {
            step.results.iter().for_each(|value| elided[*value as usize] = *dropped);
        }
        elided
    }
}

/// Every value in memory of its own. `persistent` are the offsets of persistent values read by this
/// program; `None` means that what it keeps defines them.
pub(crate) fn apart(flow: Flow, persistent: Option<&[u64]>) -> Shared {
    let mut classes = MemoryClasses::new(&flow, persistent.unwrap_or_default());
    let (mut kept, mut kept_bytes) = (Vec::new(), 0);
    if persistent.is_none() {
        for port in flow.outputs.iter().filter(|port| port.role == Role::Kept) {
            let storage = flow.storage(port.value);
            let root = &mut classes.root[storage.owner as usize];
            let base = match root {
                Some((_, base)) => *base,
                None => {
                    let base = kept_bytes;
                    *root = Some((Root::Persistent, base));
                    kept_bytes += flow.alignment.round_up(flow.bytes(storage.owner));
                    base
                }
            };
            kept.push(base + storage.offset);
        }
    }
    classes.measure(&flow);
    Shared { flow, classes, kept, kept_bytes }
}

/// As [`share`], with every output in the caller's memory: what it costs tells what the rest does.
pub(crate) fn share_all(flow: &Flow, persistent: Option<&[u64]>) -> Shared {
    let mut flow = flow.clone();
    flow.split_concats();
    share_with(&flow, persistent, &flow.made_outputs(), &mut Rewrites::unlimited()).0
}

/// Returns the outputs `wanted` and searches what can share memory; also the values that lie in the
/// memory of these outputs.
fn share_with(
    flow: &Flow,
    persistent: Option<&[u64]>,
    wanted: &[usize],
    rewrites: &mut Rewrites,
) -> (Shared, Vec<ValueIndex>) {
    let mut flow = flow.clone();
    let copies = flow.return_outputs(wanted);
    let Shared { flow, classes, kept, kept_bytes } = apart(flow, persistent);
    let classes = Sharing::new(&flow, classes).run(rewrites);
    (Shared { flow, classes, kept, kept_bytes }, copies)
}

/// Decides which values share memory, each sharing a rewrite. Concatenations are split where that
/// elides copies. Outputs are made in, or copied early to, the caller's memory where that costs no
/// launch or lowers the peak; all others are read from where they are after the last launch.
pub(crate) fn share(flow: &Flow, persistent: Option<&[u64]>, rewrites: &mut Rewrites) -> Shared {
    let free = &mut Rewrites::unlimited();
    let mut flow = flow.clone();
    flow.split_concats();
    let mut joined = flow.clone();
    let mut wanted = flow.made_outputs();
    let (mut all, mut copies) = share_with(&flow, persistent, &wanted, free);
    let mut elided = all.elided();
    if joined.rejoin_concats(&elided) {
        let (other, others) = share_with(&joined, persistent, &wanted, free);
        if other.bound() <= all.bound() {
            (flow, all, copies) = (joined, other, others);
            elided = all.elided();
        }
    }
    let (kept, left): (Vec<_>, Vec<_>) =
        wanted.iter().copied().zip(copies).partition(|(_, to)| elided[*to as usize]);
    if !left.is_empty() {
        let fewer_wanted: Vec<usize> = kept.into_iter().map(|(at, _)| at).collect();
        let (fewer, _) = share_with(&flow, persistent, &fewer_wanted, free);
        // What another output's memory holds cannot be read from the workspace.
        let apart = left.iter().all(|(at, _)| {
            let place = fewer.classes.place(&fewer.flow, fewer.flow.outputs[*at].value);
            let root = place.and_then(|place| fewer.classes.root[place.class as usize]);
            !matches!(root, Some((Root::Output(_), _)))
        });
        if apart && fewer.bound() <= all.bound() {
            wanted = fewer_wanted;
        }
    }
    share_with(&flow, persistent, &wanted, rewrites).0
}

/// Where the memory of each class lies.
#[derive(Clone, Debug)]
pub struct Placement {
    roots: Vec<Option<(Root, u64)>>,
    workspace_bytes: u64,
}

/// Packs what lies in the workspace; without `reuse` every class gets bytes of its own.
pub(crate) fn place(shared: &Shared, reuse: bool) -> Placement {
    let classes = &shared.classes;
    let mut roots = classes.root.clone();
    let owners: Vec<usize> =
        (0..roots.len()).filter(|class| !classes.pieces[*class].is_empty()).collect();
    let packed: Vec<Vec<Piece>> =
        owners.iter().map(|class| classes.pieces[*class].clone()).collect();
    let packing = if reuse { pack::pack(&packed) } else { pack::apart(&packed) };
    for (class, offset) in owners.iter().zip(&packing.offsets) {
        roots[*class] = Some((Root::Workspace, *offset));
    }
    Placement { roots, workspace_bytes: packing.peak }
}

/// Where the result of a launch lies, in words, as far as that is known: before packing only what is
/// not in memory of its own. A copy that is elided has its result where its operand is.
fn place_text(
    shared: &Shared,
    placement: Option<&Placement>,
    names: &Names<'_>,
    elided: bool,
    value: ValueIndex,
) -> Option<String> {
    let Shared { flow, classes, .. } = shared;
    let place = classes.place(flow, value)?;
    let roots = placement.map_or(&classes.root, |placement| &placement.roots);
    let place = match roots[place.class as usize] {
        Some((root, base)) => place.buffer(flow.ty(value), root, base).place_text(),
        None if place.class == value => return None,
        None => {
            let buffer = place.buffer(flow.ty(value), Root::Workspace, 0);
            let text = buffer.place_text();
            let offset = text.strip_prefix("workspace").unwrap_or(&text);
            format!("over {}{offset}", names.of(place.class))
        }
    };
    let elided = if elided { "no copy, " } else { "" };
    Some(format!("{elided}{place}"))
}

/// The plan called `name`, checked.
pub(crate) fn assemble(shared: &Shared, placement: &Placement, name: &str) -> Plan {
    let Shared { flow, classes, kept_bytes, .. } = shared;
    let mut buffers = Arena::default();
    for value in 0..flow.values.len() as ValueIndex {
        let ty = flow.ty(value);
        // A value nobody reads keeps its type but owns no memory.
        let place = classes.place(flow, value);
        let root = place.and_then(|place| placement.roots[place.class as usize]);
        buffers.push(match place.zip(root) {
            Some((place, (root, base))) => place.buffer(ty, root, base),
            None => Buffer::dense(ty.clone(), Root::Workspace, 0),
        });
    }
    let id = |value: ValueIndex| BufferId::from_index(value as usize);
    let port = |port: &program::Port| Port {
        name: port.name.clone(),
        branch: port.branch,
        buffer: id(port.value),
    };
    let ends = |role| flow.outputs.iter().filter(move |port| port.role == role).map(port).collect();
    let steps = flow
        .steps
        .iter()
        .zip(&classes.dropped)
        .filter(|(_, dropped)| !**dropped)
        .map(|(step, _)| Step {
            kernel: step.kernel.clone(),
            operands: step.operands.iter().map(|v| id(*v)).collect(),
            results: step.results.iter().map(|v| id(*v)).collect(),
            labels: step.labels.clone(),
        })
        .collect();
    let state = |state: &State<ValueIndex>| State {
        name: state.name.clone(),
        branch: state.branch,
        ty: state.ty.clone(),
        before: state.before.map(id),
        after: id(state.after),
    };
    let mut plan = Plan {
        name: name.to_owned(),
        buffers,
        steps,
        inputs: flow.inputs.iter().map(port).collect(),
        outputs: ends(Role::Caller),
        kept: ends(Role::Kept),
        states: flow.states.iter().map(state).collect(),
        weights: flow.weights.clone(),
        workspace_bytes: placement.workspace_bytes,
        lower_bound_bytes: 0,
        naive_bytes: 0,
        persistent_bytes: *kept_bytes,
        alignment: flow.alignment,
    };
    (plan.lower_bound_bytes, plan.naive_bytes) = bounds(&plan);
    check::check_reads(&plan, flow, &classes.dropped);
    without_unused(plan)
}

/// `plan` without the buffers that neither a step nor a port names: values that exist inside kernels
/// only, and memory that is known under another name.
fn without_unused(mut plan: Plan) -> Plan {
    let mut used = vec![false; plan.buffers.len()];
    let steps = plan.steps.iter().flat_map(|step| step.reads().iter().chain(step.results()));
    let ports = plan.ports().map(|port| &port.buffer);
    let states = plan.states.iter().flat_map(|state| state.before.iter().chain([&state.after]));
    steps.chain(ports).chain(states).for_each(|id| used[id.index()] = true);
    let mut buffers = Arena::default();
    let moved: Vec<Option<BufferId>> = plan
        .buffers
        .iter()
        .map(|(id, buffer)| used[id.index()].then(|| buffers.push(buffer.clone())))
        .collect();
    let rename = |id: &mut BufferId| *id = moved[id.index()].expect("it is used");
    for step in &mut plan.steps {
        step.operands.iter_mut().chain(&mut step.results).for_each(rename);
    }
    let ports = plan.inputs.iter_mut().chain(&mut plan.outputs).chain(&mut plan.kept);
    ports.for_each(|port| rename(&mut port.buffer));
    for state in &mut plan.states {
        state.before.iter_mut().chain([&mut state.after]).for_each(rename);
    }
    plan.buffers = buffers;
    plan
}

#[cfg(test)]
mod tests {
    use crate::{CompileRequest, Options};
    use anyid_ir::{DType, FuncBuilder, Module, TensorType};

    fn chain() -> Module {
        let mut module = Module { name: "m".into(), ..Module::default() };
        let mut f = FuncBuilder::new(&module, "f");
        let ty = TensorType::new(DType::F32, [4, 8]);
        let (x, c) = (f.param("x", ty.clone()), f.param("c", ty));
        let fixed = f.add("fixed", c, c);
        let flat = f.reshape("flat", fixed, [32]);
        let again = f.reshape("again", flat, [4, 8]);
        let a = f.add("a", x, again);
        let b = f.mul("b", a, a);
        let d = f.add("d", b, fixed);
        let tail = f.slice("tail", d, 0, 2, 2);
        let func = f.finish(&[tail]);
        module.add(func);
        module
    }

    #[test]
    fn views_share_memory_and_the_peak_is_the_lower_bound_of_a_chain() {
        let plan = CompileRequest::new(&chain(), "f").with(&Options::unfused()).plan().unwrap();
        assert_eq!(plan.steps.len(), 4, "three views are no steps");
        assert_eq!(plan.workspace_bytes, plan.lower_bound_bytes);
        assert!(plan.naive_bytes > plan.workspace_bytes);
        let tail = plan.buffer(plan.outputs[0].buffer);
        let d = plan.buffer(plan.steps.last().unwrap().results[0]);
        assert_eq!(tail.offset, d.offset + 2 * 8 * 4);
    }

    #[test]
    fn what_does_not_vary_moves_to_prepare() {
        let chain = chain();
        let split = |options: &Options, name: &str| {
            CompileRequest::new(&chain, "f").varying([name]).with(options).split()
        };
        let [prepare, step] = split(&Options::traceable(), "x").unwrap();
        assert_eq!((prepare.steps.len(), step.steps.len()), (1, 3));
        assert_eq!(prepare.kept.len(), 2, "a value and a view of it");
        let [simple, _] = split(&Options::unfused(), "x").unwrap();
        assert_eq!(simple.kept.len(), 1, "the view is the value again");
        assert_eq!(step.persistent_bytes, 128);
        assert_eq!(split(&Options::default(), "z").unwrap_err().code, "E0503");
    }

    #[test]
    fn equal_and_unused_steps_disappear() {
        let mut module = Module::default();
        let mut f = FuncBuilder::new(&module, "f");
        let x = f.param("x", TensorType::new(DType::F32, [2]));
        let a = f.add("a", x, x);
        let b = f.add("b", x, x);
        let _unused = f.mul("unused", a, b);
        let y = f.mul("y", a, b);
        let func = f.finish(&[y, y]);
        module.add(func);
        let plan = CompileRequest::new(&module, "f").with(&Options::unfused()).plan().unwrap();
        assert_eq!(plan.steps.len(), 2);
        assert_eq!(plan.outputs.len(), 2);
    }
}
