//! Steps of a plan as launches: which kernel, on which bytes, with which numbers. Whoever executes
//! them says where the roots of the plan lie. Nothing is launched or allocated here.

use super::emit::{self, Argument, Emitted, Grid};
use anyid_ir::DType;
use anyid_ir::plan::{BufferId, Plan, Root, Step};

pub(super) use crate::places::{Ports, Roots, Span};

/// An operand as rows of its last axis, for the tensor memory unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) memory: Span,
    pub(super) dtype: DType,
    pub(super) rows: u64,
    pub(super) columns: u64,
    /// From one row to the next.
    pub(super) stride_bytes: u64,
    /// Rows that are loaded at once.
    pub(super) box_rows: u32,
}

/// What a parameter of a kernel is in a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parameter {
    Memory(Span),
    Size(i64),
    Map(Matrix),
}

impl Roots<'_> {
    /// A packed weight as a kernel gets it.
    fn packed(&self, id: BufferId) -> Span {
        let Root::Weight(at) = self.plan.buffer(id).root else {
            unreachable!("only weights are packed")
        };
        (self.weights)(&self.plan.weights[at as usize].name, true)
    }

    /// What the parameters of the kernel of a step are, on so many blocks along x.
    pub(super) fn parameters(
        &self,
        step: &Step,
        emitted: &Emitted,
        [constants, faults]: [Span; 2],
        blocks: u32,
    ) -> Vec<Parameter> {
        let parameter = |argument: &Argument| match *argument {
            Argument::Operand(at) if emitted.packed.contains(&at) => {
                Parameter::Memory(self.packed(step.operands[at]))
            }
            Argument::Operand(at) => Parameter::Memory(self.span(step.operands[at])),
            Argument::Result(at) => Parameter::Memory(self.span(step.results[at])),
            Argument::Constants => Parameter::Memory(constants),
            Argument::Faults => Parameter::Memory(faults),
            Argument::Size(size) => Parameter::Size(size),
            Argument::Blocks => Parameter::Size(i64::from(blocks)),
            Argument::Map { operand, rows } => {
                Parameter::Map(self.matrix(step.operands[operand], rows))
            }
        };
        emitted.arguments.iter().map(parameter).collect()
    }

    fn matrix(&self, id: BufferId, box_rows: u32) -> Matrix {
        let ty = &self.plan.buffer(id).ty;
        let (columns, size) = (ty.last() as u64, ty.dtype.bytes() as u64);
        let memory = self.span(id);
        let stride_bytes = if memory.stride > 0 { memory.stride } else { columns * size };
        let rows = ty.elements() as u64 / columns;
        Matrix { memory, dtype: ty.dtype, rows, columns, stride_bytes, box_rows }
    }
}

/// The kernels of a plan's steps.
pub(super) fn emitted(plan: &Plan, architecture: emit::Architecture) -> Vec<Emitted> {
    plan.steps.iter().map(|step| emit::step_with_packing(plan, step, architecture)).collect()
}

/// The threads of a launch on a device of so many processors, where kernels that take any number of
/// blocks get one for each of them.
pub(super) fn grid(emitted: &Emitted, processors: u32) -> Grid {
    let mut grid = emitted.grid;
    if emitted.arguments.contains(&Argument::Blocks) {
        grid.blocks[0] = grid.blocks[0].min(processors);
    }
    grid
}

/// The table and the index of the first row that is not there, among the faults of a launch.
pub(super) fn worst(faults: &[u64]) -> Option<(usize, i32)> {
    let found = faults.iter().enumerate().filter(|(_, fault)| **fault != u64::MAX);
    // The lower half is the index as it was given.
    found.min_by_key(|(_, fault)| **fault >> 32).map(|(table, fault)| (table, *fault as u32 as i32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::toy;

    #[test]
    fn ports_have_gaps_between_them_and_pieces_are_inside() {
        let plan = toy::plan(
            "anchor linear {
    y0 = linear(a0, a1)
  }",
            &["bf16[9,8]", "bf16[40,8]"],
            &["f32[9,40]"],
        );
        let ports = Ports::new(&plan);
        assert_eq!((&*ports.inputs, &*ports.outputs), (&[256, 768][..], &[1792][..]));
        assert_eq!(ports.bytes(), 1792 + 1536 + 256);
        let none = |_: &str, _: bool| Span::default();
        let roots = Roots {
            plan: &plan,
            ports: &ports,
            states_at: &[],
            weights: &none,
            workspace: Span::default(),
            kept: Span::default(),
            states: Span::default(),
            edge: Span::dense(4096, ports.bytes()),
        };
        let step = &plan.steps[0];
        assert_eq!(roots.span(step.operands[1]), Span::dense(4096 + 768, 640));
        let pieces: Vec<Span> = roots.pieces(step.results[0]).collect();
        assert_eq!(pieces, [Span::dense(4096 + 1792, 1440)]);
        let matrix = roots.matrix(step.operands[0], 128);
        assert_eq!((matrix.rows, matrix.columns, matrix.stride_bytes), (9, 8, 16));
        let emitted = emitted(&plan, emit::Architecture::Sm90a).remove(0);
        let given = roots.parameters(step, &emitted, [Span::default(); 2], 7);
        assert_eq!(given.len(), emitted.arguments.len());
        assert!(given.contains(&Parameter::Size(7)) && given.contains(&Parameter::Map(matrix)));
        assert_eq!(grid(&emitted, 132).blocks, emitted.grid.blocks);
    }

    #[test]
    fn the_fault_that_stands_first_is_the_worst() {
        let fault = |place: u64, index: i32| place << 32 | u64::from(index as u32);
        assert_eq!(worst(&[u64::MAX; 3]), None);
        assert_eq!(worst(&[u64::MAX, fault(7, 9), fault(3, -1)]), Some((2, -1)));
    }
}
