//! Where the buffers of a plan lie when it runs on a GPU: whoever executes it says where the roots of the
//! plan are, and every buffer follows from them. Addresses are the device's own, and only added to here.
//! Nothing is launched or allocated.

use anyid_ir::plan::{BufferId, Columns, Plan, Port, Root};

/// Inputs and outputs begin at multiples of this, and as much lies between them.
pub(crate) const GAP: u64 = 256;

/// Bytes of memory: dense, or in rows of `width` bytes that begin `stride` bytes apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    /// Bytes of a row.
    pub(crate) width: u64,
    /// From one row to the next; 0 for dense memory.
    pub(crate) stride: u64,
}

impl Span {
    pub(crate) fn dense(address: u64, bytes: u64) -> Self {
        Self { address, bytes, width: bytes, stride: 0 }
    }

    /// Dense bytes of dense memory.
    ///
    /// # Panics
    /// Where they are not inside: plans were verified.
    pub(crate) fn part(self, from: u64, bytes: u64) -> Self {
        let inside = from.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        assert!(inside, "bytes {from} and {bytes} more of {}", self.bytes);
        Self::dense(self.address + from, bytes)
    }
}

/// Where the inputs and outputs of a plan lie in memory of the device.
pub(crate) struct Ports {
    pub(crate) inputs: Vec<u64>,
    pub(crate) outputs: Vec<u64>,
    end: u64,
}

impl Ports {
    pub(crate) fn new(plan: &Plan) -> Self {
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
    pub(crate) fn bytes(&self) -> u64 {
        self.end
    }
}

/// Where the roots of a plan lie in one run.
pub(crate) struct Roots<'r> {
    pub(crate) plan: &'r Plan,
    pub(crate) ports: &'r Ports,
    /// First byte of each state.
    pub(crate) states_at: &'r [u64],
    /// The memory of a weight, by name and by whether it is packed.
    pub(crate) weights: &'r dyn Fn(&str, bool) -> Span,
    pub(crate) workspace: Span,
    pub(crate) kept: Span,
    pub(crate) states: Span,
    /// Inputs and outputs.
    pub(crate) edge: Span,
}

impl Roots<'_> {
    /// The memory of a root from its first byte on.
    pub(crate) fn root(&self, root: Root) -> Span {
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

    /// A buffer as a kernel gets it: its bytes, with the gaps between its rows where it is columns.
    pub(crate) fn span(&self, id: BufferId) -> Span {
        let buffer = self.plan.buffer(id);
        let bytes = buffer.ty.bytes();
        let dense = Columns { first: 0, width: bytes, stride: 0 };
        let Columns { first, width, stride } = buffer.columns.unwrap_or(dense);
        let between = (bytes / width.max(1)).saturating_sub(1) * stride;
        let whole = self.root(buffer.root).part(buffer.offset + first, between + width);
        Span { width, stride, ..whole }
    }

    /// The pieces of a buffer in order.
    pub(crate) fn pieces(&self, id: BufferId) -> impl Iterator<Item = Span> {
        let buffer = self.plan.buffer(id);
        let root = self.root(buffer.root);
        buffer.runs().map(move |(from, bytes)| root.part(from, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "bytes 8 and 9 more of 16")]
    fn what_leaves_its_memory_is_not_made() {
        Span::dense(0, 16).part(8, 9);
    }
}
