//! Steps of a plan as launches: which kernel, on which bytes, with which numbers. Whoever executes
//! them says where the roots of the plan lie. Nothing is launched or allocated here.

use super::emit::{self, Argument, Emitted, Grid};
use anyid_ir::DType;
use anyid_ir::plan::{BufferId, Columns, Plan, Port, Root, Step};

/// Inputs and outputs begin at multiples of this, and as much lies between them.
pub(super) const GAP: u64 = 256;

/// Bytes of memory: dense, or in rows of `width` bytes that begin `stride` bytes apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) address: u64,
    pub(super) bytes: u64,
    /// Bytes of a row.
    pub(super) width: u64,
    /// From one row to the next; 0 for dense memory.
    pub(super) stride: u64,
}

impl Span {
    pub(super) fn dense(address: u64, bytes: u64) -> Self {
        Self { address, bytes, width: bytes, stride: 0 }
    }

    /// Dense bytes of dense memory.
    ///
    /// # Panics
    /// Where they are not inside: plans were verified.
    pub(super) fn part(self, from: u64, bytes: u64) -> Self {
        let inside = from.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(inside, "bytes {from} and {bytes} more of {}", self.bytes);
        Self::dense(self.address + from, bytes)
    }
}

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

/// Where the inputs and outputs of a plan lie in memory of the device.
pub(super) struct Ports {
    pub(super) inputs: Vec<u64>,
    pub(super) outputs: Vec<u64>,
    end: u64,
}

impl Ports {
    pub(super) fn new(plan: &Plan) -> Self {
        let mut end = GAP;
        let mut place = |port: &Port| {
            let start = end;
            end += plan.buffer(port.buffer).ty.bytes().next_multiple_of(GAP) + GAP;
            start
        };
        let inputs = plan.inputs.iter().map(&mut place).collect();
        let outputs = plan.outputs.iter().map(&mut place).collect();
        Self { inputs, outputs, end }
    }

    /// Bytes of all of them.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }
}

/// Where the roots of a plan lie in one run.
pub(super) struct Roots<'r> {
    pub(super) plan: &'r Plan,
    pub(super) ports: &'r Ports,
    /// First byte of each state.
    pub(super) states_at: &'r [u64],
    /// The memory of a weight, by name and by whether it is packed.
    pub(super) weights: &'r dyn Fn(&str, bool) -> Span,
    pub(super) workspace: Span,
    pub(super) kept: Span,
    pub(super) states: Span,
    /// Inputs and outputs.
    pub(super) edge: Span,
}

impl Roots<'_> {
    /// The memory of a root from its first byte on.
    pub(super) fn root(&self, root: Root) -> Span {
        let plan = self.plan;
        let port =
            |from: u64, port: &Port| self.edge.part(from, plan.buffer(port.buffer).ty.bytes());
        match root {
            Root::Workspace => self.workspace,
            Root::Persistent => self.kept,
            Root::State(at) => {
                let at = at as usize;
                self.states.part(self.states_at[at], plan.states[at].ty.bytes())
            }
            Root::Input(at) => port(self.ports.inputs[at as usize], &plan.inputs[at as usize]),
            Root::Output(at) => port(self.ports.outputs[at as usize], &plan.outputs[at as usize]),
            Root::Weight(at) => (self.weights)(&plan.weights[at as usize].name, false),
        }
    }

    /// A packed weight as a kernel gets it.
    fn packed(&self, id: BufferId) -> Span {
        let Root::Weight(at) = self.plan.buffer(id).root else {
            unreachable!("only weights are packed")
        };
        (self.weights)(&self.plan.weights[at as usize].name, true)
    }

    /// A buffer as a kernel gets it: its bytes, with the gaps between its rows where it is columns.
    pub(super) fn span(&self, id: BufferId) -> Span {
        let buffer = self.plan.buffer(id);
        let bytes = buffer.ty.bytes();
        let dense = Columns { first: 0, width: bytes, stride: 0 };
        let Columns { first, width, stride } = buffer.columns.unwrap_or(dense);
        let between = (bytes / width.max(1)).saturating_sub(1) * stride;
        let whole = self.root(buffer.root).part(buffer.offset + first, between + width);
        Span { width, stride, ..whole }
    }

    /// The pieces of a buffer in order.
    pub(super) fn pieces(&self, id: BufferId) -> impl Iterator<Item = Span> {
        let buffer = self.plan.buffer(id);
        let root = self.root(buffer.root);
        buffer.runs().map(move |(from, bytes)| root.part(from, bytes))
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

    #[test]
    #[should_panic(expected = "bytes 8 and 9 more of 16")]
    fn what_leaves_its_memory_is_not_made() {
        Span::dense(0, 16).part(8, 9);
    }
}
