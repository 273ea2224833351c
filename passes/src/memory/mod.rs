//! From values to bytes: views share memory ([`share`]), lifetimes are found and offsets packed
//! ([`place`]), and the plan is put together and checked ([`assemble`]).

pub mod alias;
pub mod check;
pub mod pack;

use crate::lower::Lowered;
use crate::program::{Origin, Program, ProgramStep, ValueIndex};
use crate::rewrite::Rewrites;
use anyid_ir::plan::{Buffer, Plan, Port, Root, Step};
use anyid_ir::{Arena, Entity, Op};
use pack::Interval;

/// Alignment of every buffer in bytes: a cache line and a 512-bit vector.
pub const ALIGNMENT: u64 = 64;

/// Where the memory of a value begins before packing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Home {
    /// The value that owns the memory, itself unless it is a view.
    pub(crate) owner: ValueIndex,
    /// First byte within the owner.
    pub(crate) offset: u64,
}

/// Byte offset of the result inside its operand when the op is a contiguous view.
fn view_offset(program: &Program, step: &ProgramStep) -> Option<u64> {
    let x = *step.operands.first()?;
    let ty = program.ty(x);
    let leading_ones = |axis: usize| ty.shape[..axis].iter().all(|s| *s == 1);
    let stride = |axis: usize| ty.strides()[axis] as u64 * ty.dtype.bytes() as u64;
    match &step.op {
        Op::Reshape => Some(0),
        Op::Slice { axis, start, .. } if leading_ones(*axis) => Some(*start as u64 * stride(*axis)),
        Op::Index { axis, at } if leading_ones(*axis) => Some(*at as u64 * stride(*axis)),
        _ => None,
    }
}

pub(crate) fn homes(program: &Program) -> Vec<Home> {
    let mut homes: Vec<Home> =
        (0..program.values.len() as u32).map(|owner| Home { owner, offset: 0 }).collect();
    for step in &program.steps {
        let Some(offset) = view_offset(program, step) else { continue };
        let base = homes[step.operands[0] as usize];
        // Packed weights have no row-major bytes to look into.
        if !matches!(program.values[base.owner as usize].origin, Origin::Weight(_)) {
            homes[step.result as usize] = Home { owner: base.owner, offset: base.offset + offset };
        }
    }
    homes
}

/// Which values an output of the program keeps for later phases.
pub(crate) fn is_kept(name: &str) -> bool {
    name.starts_with("persistent.")
}

/// The home of every value: views in what they look into and, where `in_place` allows (one rewrite
/// each), results in the operands they take over. `keeps` says whether this program defines the
/// persistent memory.
pub(crate) fn share(
    lowered: &Lowered<'_>,
    keeps: bool,
    rewrites: Option<&mut Rewrites>,
) -> Vec<Home> {
    let views = homes(lowered.program);
    let mut homes = views.clone();
    if let Some(rewrites) = rewrites {
        let kept: Vec<ValueIndex> = lowered
            .program
            .outputs
            .iter()
            .filter(|(name, _)| keeps && is_kept(name))
            .map(|(_, value)| views[*value as usize].owner)
            .collect();
        alias::in_place(lowered, &mut homes, &kept, rewrites);
    }
    homes
}

/// Where everything lies.
#[derive(Clone, Debug)]
pub(crate) struct Placement {
    roots: Vec<Option<(Root, u64)>>,
    /// Bytes of persistent memory this program defines.
    pub(crate) persistent_bytes: u64,
    /// Offsets of the persistent values it defines, in order.
    pub(crate) persistent: Vec<u64>,
    workspace_bytes: u64,
    lower_bound_bytes: u64,
    naive_bytes: u64,
}

/// When the memory of each owner is in use, first and last step; an output is until the end.
fn lives(lowered: &Lowered<'_>, homes: &[Home]) -> Vec<Option<(usize, usize)>> {
    let program = lowered.program;
    let end = lowered.steps.len();
    let mut interval: Vec<Option<(usize, usize)>> = vec![None; program.values.len()];
    let mut touch = |value: ValueIndex, at: usize| {
        let slot = &mut interval[homes[value as usize].owner as usize];
        *slot = Some(slot.map_or((at, at), |(from, to)| (from.min(at), to.max(at))));
    };
    for (at, step) in lowered.steps.iter().enumerate() {
        for value in step.results.iter().chain(&step.operands) {
            touch(*value, at);
        }
    }
    for (_, value) in &program.outputs {
        touch(*value, end);
    }
    interval
}

/// The least workspace that the order of steps allows, with the homes given.
pub(crate) fn bound(lowered: &Lowered<'_>, homes: &[Home], keeps: bool) -> u64 {
    let program = lowered.program;
    let mut kept = vec![false; program.values.len()];
    for (_, value) in program.outputs.iter().filter(|(name, _)| keeps && is_kept(name)) {
        kept[homes[*value as usize].owner as usize] = true;
    }
    let lives = lives(lowered, homes);
    let packed: Vec<Interval> = (0..program.values.len())
        .filter(|v| !kept[*v] && matches!(program.values[*v].origin, Origin::Step(_)))
        .filter_map(|v| {
            let (from, to) = lives[v]?;
            let size = program.values[v].ty.bytes().next_multiple_of(ALIGNMENT);
            Some(Interval { from, to, size })
        })
        .collect();
    pack::lower_bound(&packed)
}

/// Places every value. `persistent` are the offsets of persistent values read by this program;
/// `None` means that its outputs named `persistent.*` define them. Without `reuse` every buffer
/// gets memory of its own.
pub(crate) fn place(
    lowered: &Lowered<'_>,
    homes: &[Home],
    persistent: Option<&[u64]>,
    reuse: bool,
) -> Placement {
    let program = lowered.program;
    let count = program.values.len();
    let interval = lives(lowered, homes);
    let mut roots: Vec<Option<(Root, u64)>> = vec![None; count];
    let mut persistent_bytes = 0;
    let mut offsets = Vec::new();
    if persistent.is_none() {
        for (_, value) in program.outputs.iter().filter(|(name, _)| is_kept(name)) {
            let home = homes[*value as usize];
            let root = &mut roots[home.owner as usize];
            let base = match root {
                Some((_, base)) => *base,
                None => {
                    let base = persistent_bytes;
                    *root = Some((Root::Persistent, base));
                    let bytes = program.ty(home.owner).bytes();
                    persistent_bytes += bytes.next_multiple_of(ALIGNMENT);
                    base
                }
            };
            offsets.push(base + home.offset);
        }
    }
    let mut packed = Vec::new();
    let mut owners = Vec::new();
    for value in 0..count {
        let home = &mut roots[value];
        match program.values[value].origin {
            Origin::Input(index) => *home = Some((Root::Input(index), 0)),
            Origin::Weight(index) => *home = Some((Root::Weight(index), 0)),
            Origin::Persistent(index) => {
                let offset = persistent.map_or(0, |offsets| offsets[index as usize]);
                *home = Some((Root::Persistent, offset));
            }
            Origin::Step(_) => {
                if let (None, Some((from, to))) = (&home, interval[value]) {
                    let bytes = program.values[value].ty.bytes();
                    let size = bytes.next_multiple_of(ALIGNMENT);
                    packed.push(Interval { from, to, size });
                    owners.push(value);
                }
            }
        }
    }
    let packing = if reuse { pack::pack(&packed) } else { pack::apart(&packed) };
    check::check(&packed, &packing.offsets, packing.peak);
    for (value, offset) in owners.iter().zip(&packing.offsets) {
        roots[*value] = Some((Root::Workspace, *offset));
    }
    Placement {
        roots,
        persistent_bytes,
        persistent: offsets,
        workspace_bytes: packing.peak,
        lower_bound_bytes: pack::lower_bound(&packed),
        naive_bytes: packed.iter().map(|i| i.size).sum(),
    }
}

/// The plan called `name`, checked.
pub(crate) fn assemble(
    lowered: &Lowered<'_>,
    name: &str,
    homes: &[Home],
    placement: &Placement,
) -> Plan {
    let program = lowered.program;
    let views = self::homes(program);
    let mut buffers = Arena::default();
    for value in 0..program.values.len() {
        let home = homes[value];
        // A value nobody reads keeps its type but owns no memory.
        let (root, base) = placement.roots[home.owner as usize].unwrap_or((Root::Workspace, 0));
        let offset = base + home.offset;
        buffers.push(Buffer { ty: program.values[value].ty.clone(), root, offset });
    }
    let id = |value: ValueIndex| anyid_ir::plan::BufferId::from_index(value as usize);
    let port =
        |(name, value): &(String, ValueIndex)| Port { name: name.clone(), buffer: id(*value) };
    let steps = lowered
        .steps
        .iter()
        .map(|step| Step {
            kernel: step.kernel.clone(),
            operands: step.operands.iter().map(|v| id(*v)).collect(),
            results: step.results.iter().map(|v| id(*v)).collect(),
            labels: step.labels.clone(),
        })
        .collect();
    let plan = Plan {
        name: name.to_owned(),
        buffers,
        steps,
        inputs: program.inputs.iter().map(port).collect(),
        outputs: program.outputs.iter().map(port).collect(),
        weights: program.weights.clone(),
        workspace_bytes: placement.workspace_bytes,
        lower_bound_bytes: placement.lower_bound_bytes,
        naive_bytes: placement.naive_bytes,
        persistent_bytes: placement.persistent_bytes,
    };
    check::check_reads(&plan, &|buffer| {
        anyid_ir::plan::BufferId::from_index(views[buffer.index()].owner as usize)
    });
    plan
}

#[cfg(test)]
mod tests {
    use crate::{Options, compile_split_with, compile_with};
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
        let plan = compile_with(&chain(), "f", &Options::unfused()).unwrap();
        assert_eq!(plan.steps.len(), 4, "three views are no steps");
        assert_eq!(plan.workspace_bytes, plan.lower_bound_bytes);
        assert!(plan.naive_bytes > plan.workspace_bytes);
        let tail = plan.buffer(plan.outputs[0].buffer);
        let d = plan.buffer(plan.steps.last().unwrap().results[0]);
        assert_eq!(tail.offset, d.offset + 2 * 8 * 4);
    }

    #[test]
    fn what_does_not_vary_moves_to_prepare() {
        let options = Options::traceable();
        let split = compile_split_with(&chain(), "f", &["x"], &options).unwrap();
        assert_eq!(split.prepare.steps.len(), 1);
        assert_eq!(split.step.steps.len(), 3);
        assert_eq!(split.persistent.len(), 2, "a value and a view of it");
        let simple = compile_split_with(&chain(), "f", &["x"], &Options::unfused()).unwrap();
        assert_eq!(simple.persistent.len(), 1, "the view is the value again");
        assert_eq!(split.step.persistent_bytes, 128);
        assert_eq!(crate::compile_split(&chain(), "f", &["z"]).unwrap_err().code, "E0503");
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
        let plan = compile_with(&module, "f", &Options::unfused()).unwrap();
        assert_eq!(plan.steps.len(), 2);
        assert_eq!(plan.outputs.len(), 2);
    }
}
