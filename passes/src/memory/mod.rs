//! From values to bytes: views share memory, lifetimes are found, offsets are packed and checked.

pub mod alias;
pub mod check;
pub mod pack;

use crate::Options;
use crate::lower::{Lowered, lower};
use crate::program::{Origin, Program, ProgramStep, ValueIndex};
use crate::split::Split;
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

/// The plan of a whole program.
pub fn plan(program: &Program, name: &str, options: &Options) -> Plan {
    let (lowered, _) = lower(program, options.fuse, &options.target);
    place(&lowered, name, &[], options.in_place).0
}

/// The plans of both halves; persistent values have the same offsets in both.
pub fn plan_split(split: &Split<Program>, options: &Options) -> Split<Plan> {
    let prepare = with_copied_outputs(&split.prepare);
    let (lowered, _) = lower(&prepare, options.fuse, &options.target);
    let (prepare, offsets) = place(&lowered, "prepare", &[], options.in_place);
    let (lowered, _) = lower(&split.step, options.fuse, &options.target);
    let (mut step, _) = place(&lowered, "step", &offsets, options.in_place);
    step.persistent_bytes = prepare.persistent_bytes;
    Split { prepare, step, persistent: split.persistent.clone() }
}

/// Persistent values must be written by `prepare` itself: an input or weight handed through gets a
/// copy.
fn with_copied_outputs(program: &Program) -> Program {
    let mut program = program.clone();
    let homes = homes(&program);
    for at in 0..program.outputs.len() {
        let (name, value) = program.outputs[at].clone();
        let owner = homes[value as usize].owner as usize;
        if !matches!(program.values[owner].origin, Origin::Step(_)) {
            let ty = program.ty(value).clone();
            program.outputs[at].1 = program.step(Op::Cast, smallvec::smallvec![value], ty, name);
        }
    }
    program
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

/// Places every value. `persistent` are the offsets of persistent values read by this program; an
/// empty list means that this program's outputs named `persistent.*` define them, and they are
/// returned.
fn place(
    lowered: &Lowered<'_>,
    name: &str,
    persistent: &[u64],
    in_place: bool,
) -> (Plan, Vec<u64>) {
    let program = lowered.program;
    let views = homes(program);
    let keeps = |name: &str| persistent.is_empty() && name.starts_with("persistent.");
    let mut homes = views.clone();
    if in_place {
        let kept: Vec<ValueIndex> = program
            .outputs
            .iter()
            .filter(|(name, _)| keeps(name))
            .map(|(_, value)| views[*value as usize].owner)
            .collect();
        alias::in_place(lowered, &mut homes, &kept);
    }
    let end = lowered.steps.len();
    let count = program.values.len();
    let mut interval: Vec<Option<(usize, usize)>> = vec![None; count];
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

    let mut roots: Vec<Option<(Root, u64)>> = vec![None; count];
    let mut persistent_bytes = 0;
    let mut persistent_offsets = Vec::new();
    if persistent.is_empty() {
        for (_, value) in program.outputs.iter().filter(|(n, _)| n.starts_with("persistent.")) {
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
            persistent_offsets.push(base + home.offset);
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
                *home = Some((Root::Persistent, persistent[index as usize]));
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
    let packing = pack::pack(&packed);
    check::check(&packed, &packing.offsets, packing.peak);
    for (value, offset) in owners.iter().zip(&packing.offsets) {
        roots[*value] = Some((Root::Workspace, *offset));
    }

    let mut buffers = Arena::default();
    for value in 0..count {
        let home = homes[value];
        // A value nobody reads keeps its type but owns no memory.
        let (root, base) = roots[home.owner as usize].unwrap_or((Root::Workspace, 0));
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
        workspace_bytes: packing.peak,
        lower_bound_bytes: pack::lower_bound(&packed),
        naive_bytes: packed.iter().map(|i| i.size).sum(),
        persistent_bytes,
    };
    check::check_reads(&plan, &|buffer| {
        anyid_ir::plan::BufferId::from_index(views[buffer.index()].owner as usize)
    });
    (plan, persistent_offsets)
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
        let split = compile_split_with(&chain(), "f", &["x"], &Options::unfused()).unwrap();
        assert_eq!(split.prepare.steps.len(), 1);
        assert_eq!(split.step.steps.len(), 3);
        assert_eq!(split.persistent.len(), 2, "a value and a view of it");
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
