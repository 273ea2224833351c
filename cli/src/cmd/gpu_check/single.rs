//! One plan on the device without the runtime, and one step of a plan as a plan of its own.

use super::Check;
use anyid_backends::check::Stored;
use anyid_backends::check::cases::Random;
use anyid_backends::device::{Arena, Call};
use anyid_backends::{LoadError, RunError};
use anyid_ir::kernel::{Anchor, Columns as Reads, Combine, Instruction, Kernel, RowMap};
use anyid_ir::plan::{Buffer, BufferId, Columns, Plan, Port, Root, Step, WeightRef};
use anyid_ir::{DType, Tensor, TensorType};
use anyid_runtime::Backend;

/// What memory holds that nothing was written to: NaN in every floating-point type.
pub const POISON: u8 = 0xFF;

/// Plans whose kernels are compiled side by side, for each processor.
const TOGETHER: usize = 4;

/// Has a GPU compile the kernels of plans side by side, before each plan runs by itself, as long as there is
/// time. What fails here fails there too, where it is told.
pub fn compile(check: &Check<'_>, plans: Vec<Plan>) {
    // The CPU compiles nothing that takes long.
    if check.backend.about().name == "cpu" {
        return;
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for plans in plans.chunks(TOGETHER * processors) {
        if !check.has(10.0) {
            return;
        }
        let none = Stored::default().shared();
        let loaded = check.backend.device().clone().load(&[], none, &mut |_, _| true);
        let _ = loaded.and_then(|loaded| loaded.prepare(plans.to_vec()));
    }
}

/// The outputs of a plan, which runs twice in memory full of NaN and has to give the same bits.
///
/// # Errors
/// In words: as the device's, or that the bits differ.
pub fn twice(
    backend: &Backend,
    plan: &Plan,
    weights: &Stored,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, String> {
    let loaded = backend.device().clone().load(&[plan], weights.shared(), &mut |_, _| true);
    let mut runner = loaded.and_then(|loaded| loaded.prepare(vec![plan.clone()])).map_err(load)?;
    let arena = |arena: Result<Box<dyn Arena>, _>| {
        arena.map_err(|none: anyid_backends::errors::NoMemory| none.to_string())
    };
    let mut states = arena(runner.states(0))?;
    let mut kept = arena(runner.kept(0))?;
    let given: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
    let mut run = || -> Result<Vec<Vec<u8>>, String> {
        runner.fill(POISON);
        [&mut states, &mut kept].into_iter().for_each(|arena| arena.fill(POISON));
        let sizes = plan.outputs.iter().map(|port| plan.buffer(port.buffer).ty.bytes());
        let mut made: Vec<Vec<u8>> = sizes.map(|bytes| vec![POISON; bytes as usize]).collect();
        let mut taken: Vec<&mut [u8]> = made.iter_mut().map(Vec::as_mut_slice).collect();
        let call = Call {
            inputs: &given,
            outputs: &mut taken,
            kept: Some(&mut *kept),
            states: Some(&mut *states),
            ..Call::default()
        };
        runner.run(0, call).map_err(failed)?;
        Ok(made)
    };
    let (first, second) = (run()?, run()?);
    if first != second {
        return Err("two runs on the same inputs gave different bits".to_owned());
    }
    let tensor = |(port, bytes): (&Port, &Vec<u8>)| {
        let ty = plan.buffer(port.buffer).ty.clone();
        Tensor::from_bytes(ty, bytes).expect("an output has its type")
    };
    Ok(plan.outputs.iter().zip(&first).map(tensor).collect())
}

fn load(error: LoadError) -> String {
    match error {
        LoadError::Failed(fault) => {
            let cause = fault.cause.map_or_else(String::new, |cause| format!(": {cause}"));
            format!("[{}] {}{cause}", fault.code, fault.message)
        }
        other => other.to_string(),
    }
}

fn failed(error: RunError) -> String {
    match error {
        RunError::Failed { label, fault } => {
            let place = label.map_or_else(String::new, |label| format!(" ({label})"));
            load(LoadError::Failed(fault)) + &place
        }
        other => other.to_string(),
    }
}

/// A step of a plan as a plan: operands are weights where they were, and inputs otherwise, and results are
/// outputs, in rows with the gaps that they have there.
pub fn alone(plan: &Plan, step: &Step) -> Plan {
    let mut out = Plan { name: "alone".to_owned(), alignment: plan.alignment, ..Plan::default() };
    let place = |out: &mut Plan, id: BufferId, root: Root| -> (BufferId, BufferId) {
        let buffer = plan.buffer(id);
        let whole = out.buffers.push(Buffer::dense(held(buffer), root, 0));
        let own = match buffer.columns {
            None => whole,
            Some(_) => out.buffers.push(Buffer { root, offset: 0, ..buffer.clone() }),
        };
        (whole, own)
    };
    let port = |name: String, buffer: BufferId| Port { name, branch: 0, buffer };
    let (mut operands, mut results) = (Vec::new(), Vec::new());
    for (at, id) in step.operands.iter().enumerate() {
        let buffer = plan.buffer(*id);
        if let Root::Weight(weight) = buffer.root {
            let (name, ty) = (format!("w{at}"), plan.weights[weight as usize].ty.clone());
            let root = Root::Weight(out.weights.len() as u32);
            out.weights.push(WeightRef { name, ty });
            operands.push(out.buffers.push(Buffer { root, ..buffer.clone() }));
            continue;
        }
        let root = Root::Input(out.inputs.len() as u32);
        let (whole, own) = place(&mut out, *id, root);
        out.inputs.push(port(format!("x{at}"), whole));
        operands.push(own);
    }
    for (at, id) in step.results.iter().enumerate() {
        let (whole, own) = place(&mut out, *id, Root::Output(at as u32));
        out.outputs.push(port(format!("y{at}"), whole));
        results.push(own);
    }
    let step = Step {
        kernel: step.kernel.clone(),
        operands: operands.into_iter().collect(),
        results: results.into_iter().collect(),
        labels: step.labels.clone(),
    };
    out.steps.push(step);
    out
}

/// The memory that a buffer lies in: its own type, or the rows that it is columns of.
fn held(buffer: &Buffer) -> TensorType {
    match buffer.columns {
        None => buffer.ty.clone(),
        Some(Columns { width, stride, .. }) => {
            let rows = buffer.ty.bytes() / width.max(1);
            let size = buffer.ty.dtype.bytes() as u64;
            TensorType::new(buffer.ty.dtype, [rows as usize, (stride / size) as usize])
        }
    }
}

/// The type of the memory that a buffer of such a plan lies in.
pub fn memory(plan: &Plan, id: BufferId) -> TensorType {
    match plan.buffer(id).root {
        Root::Weight(at) => plan.weights[at as usize].ty.clone(),
        Root::Input(at) => plan.buffer(plan.inputs[at as usize].buffer).ty.clone(),
        Root::Output(at) => plan.buffer(plan.outputs[at as usize].buffer).ty.clone(),
        Root::Workspace | Root::Persistent | Root::State(_) => {
            unreachable!("a step alone has no memory of its own")
        }
    }
}

/// A buffer out of the memory that it lies in.
pub fn cut(buffer: &Buffer, memory: &Tensor) -> Tensor {
    let bytes: Vec<u8> = buffer
        .runs()
        .flat_map(|(from, bytes)| &memory.bytes()[from as usize..][..bytes as usize])
        .copied()
        .collect();
    Tensor::from_bytes(buffer.ty.clone(), &bytes).expect("a buffer holds its type")
}

/// Whether the bytes between the rows of columns are as they were.
pub fn gaps_untouched(buffer: &Buffer, memory: &Tensor) -> bool {
    let Some(Columns { first, width, stride }) = buffer.columns else { return true };
    let rows = memory.bytes().chunks(stride as usize);
    let same = |bytes: &[u8]| bytes.iter().all(|byte| *byte == POISON);
    rows.into_iter().all(|row| {
        let (front, rest) = row.split_at(first as usize);
        same(front) && same(&rest[width as usize..])
    })
}

/// Below what the whole numbers of operand `at` have to be: the rows of the table that they pick, if they
/// are indices.
pub fn below(kernel: &Kernel, operands: &[TensorType], at: usize) -> usize {
    let rows = |table: &TensorType, offset: usize, width: usize, stride: usize| {
        let rest = table.elements().saturating_sub(offset + width);
        rest.checked_div(stride).map_or(1, |rows| rows + 1)
    };
    let found = match kernel {
        Kernel::Gather => (at == 1).then(|| operands[0].shape[0]),
        Kernel::Row(row) => row
            .code
            .iter()
            .filter_map(|instruction| match instruction {
                Instruction::Load(access) if access.rows == RowMap::Segment(at) => {
                    let (wide, step) = match access.columns {
                        Reads::Every(period) => (period.min(row.width), 1),
                        Reads::Step(step) => (row.width, step),
                        Reads::All => (row.width, 1),
                        Reads::One => (1, 1),
                    };
                    let width = (wide - 1) * step + 1;
                    Some(rows(&operands[access.operand], access.offset, width, access.stride))
                }
                _ => None,
            })
            .min(),
        Kernel::Anchor(anchor) => match (anchor.anchor, anchor.combine) {
            (Anchor::SegmentSum { segments }, _) => Some(segments),
            (_, Combine::GateAdd { offset, stride }) => {
                let own = anchor.own_operands();
                let width = operands[own].last();
                (at == own + 2).then(|| rows(&operands[own + 1], offset, width, stride))
            }
            _ => None,
        },
        Kernel::Copy(_) | Kernel::Fill(_) => None,
    };
    // What is no index is any small number.
    found.unwrap_or(7).max(1)
}

/// Numbers of a type: whole ones below `below`, others between −2 and 2, drawn from `seed`.
pub fn fresh(ty: &TensorType, below: usize, seed: u64) -> Tensor {
    /// Elements after which they come again: a prime, so that rows differ.
    const STRETCH: usize = 1_000_003;
    let mut random = Random(seed);
    let count = ty.elements().min(STRETCH);
    let value = |random: &mut Random| match ty.dtype {
        DType::I32 => random.below(below) as f64,
        DType::U8 => random.below(below.min(255)) as f64,
        DType::Bool => random.below(2) as f64,
        _ => random.unit() * 4.0 - 2.0,
    };
    let values: Vec<f64> = (0..count).map(|_| value(&mut random)).collect();
    let stretch = TensorType::new(ty.dtype, [count]);
    let stretch = Tensor::from_f64s(stretch, &values).expect("one value an element");
    let mut all = Tensor::zeros(ty.clone());
    for piece in all.bytes_mut().chunks_mut(stretch.bytes().len().max(1)) {
        piece.copy_from_slice(&stretch.bytes()[..piece.len()]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::plan_text::parse_plans;

    #[test]
    fn a_step_alone_keeps_the_gaps_between_its_rows() {
        let text = "\
plan \"main\" {
  memory alignment=256 workspace=0 lower_bound=0 naive=0 persistent=0
  buffer %0 = input 0 + 0 : f32[2,4]
  buffer %1 = input 0 + 0 columns 8..16 of 16 : f32[2,2]
  input \"x\" = %0
  output \"y\" = %2
  kernel k0 \"attention\" anchor attention {heads=1, scale=1} {
    y0 = attention(a0, a1, a2)
  }
  %2 = k0 %1, %1, %1 : output 0 + 0 f32[2,2] \"y\"
}
";
        let plan = parse_plans(text).unwrap().remove(0);
        let alone = alone(&plan, &plan.steps[0]);
        assert_eq!((alone.inputs.len(), alone.outputs.len()), (3, 1));
        let own = alone.buffer(alone.steps[0].operands[1]);
        assert_eq!(
            (own.root, own.columns),
            (Root::Input(1), plan.buffers.iter().nth(1).unwrap().1.columns)
        );
        assert_eq!(alone.buffer(alone.inputs[1].buffer).ty.shape[..], [2, 4]);
        let memory = Tensor::from_f32([2, 4], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]).unwrap();
        assert_eq!(cut(own, &memory).as_f32().unwrap(), [2.0, 3.0, 6.0, 7.0]);
        assert!(!gaps_untouched(own, &memory));
        let mut poisoned = memory;
        poisoned.bytes_mut().fill(POISON);
        assert!(gaps_untouched(own, &poisoned));
    }

    #[test]
    fn weights_stay_weights_so_that_devices_pack_them() {
        let text = "\
plan \"main\" {
  memory alignment=256 workspace=0 lower_bound=0 naive=0 persistent=0
  weight 0 \"deep/name\" : f32[3,4]
  buffer %0 = input 0 + 0 : f32[2,4]
  buffer %1 = weight 0 + 0 : f32[3,4]
  input \"x\" = %0
  output \"y\" = %2
  kernel k0 \"linear\" anchor linear {
    y0 = linear(a0, a1)
  }
  %2 = k0 %0, %1 : output 0 + 0 f32[2,3] \"y\"
}
";
        let plan = parse_plans(text).unwrap().remove(0);
        let alone = alone(&plan, &plan.steps[0]);
        assert_eq!((alone.inputs.len(), alone.weights.len()), (1, 1));
        let own = alone.steps[0].operands[1];
        assert_eq!(alone.buffer(own).root, Root::Weight(0));
        assert_eq!(memory(&alone, own).shape[..], [3, 4]);
        assert_eq!(memory(&alone, alone.steps[0].operands[0]).shape[..], [2, 4]);
    }

    #[test]
    fn whole_numbers_are_rows_of_the_tables_that_they_pick() {
        let ty = |dtype, shape: &[usize]| TensorType::new(dtype, shape.iter().copied());
        let table = ty(DType::F32, &[9, 4]);
        let indices = ty(DType::I32, &[50]);
        assert_eq!(below(&Kernel::Gather, &[table, indices.clone()], 1), 9);
        let drawn = fresh(&indices, 9, 3);
        assert!(drawn.as_i32().unwrap().iter().all(|index| (0..9).contains(index)));
        let numbers = fresh(&ty(DType::Bf16, &[1_200_000]), 1, 3).to_f64_vec();
        assert!(numbers.iter().all(|value| value.abs() <= 2.0));
        assert_eq!(numbers[..100], numbers[1_000_003..1_000_103]);
    }
}
