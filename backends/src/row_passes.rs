//! A row kernel cut at its reductions: which pass over the columns computes what. For backends that write
//! row kernels as loops; how a pass is computed, and by whom, is theirs to say.

use anyid_ir::kernel::{Access, Columns, Instruction, RowKernel};

/// The passes of a row kernel: one more than it has reductions above each other.
pub(crate) struct RowPasses<'k> {
    kernel: &'k RowKernel,
    /// Whether each register is one number a row.
    pub(crate) scalars: Vec<bool>,
    /// Number of reductions below each instruction, one above the other.
    pub(crate) levels: Vec<usize>,
}

impl<'k> RowPasses<'k> {
    /// The passes of `kernel`.
    pub(crate) fn new(kernel: &'k RowKernel) -> Self {
        let mut levels: Vec<usize> = Vec::with_capacity(kernel.code.len());
        for instruction in &kernel.code {
            let reads = instruction.reads();
            let below = reads.iter().map(|r| levels[usize::from(*r)]).max().unwrap_or(0);
            levels.push(below + usize::from(matches!(instruction, Instruction::Reduce(..))));
        }
        Self { kernel, scalars: kernel.scalars(), levels }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.levels.iter().max().map_or(1, |most| most + 1)
    }

    /// The reductions that pass `at` adds up.
    pub(crate) fn reductions(&self, at: usize) -> Vec<usize> {
        let code = self.kernel.code.iter().enumerate();
        code.filter(|(own, instruction)| {
            matches!(instruction, Instruction::Reduce(..)) && self.levels[*own] == at + 1
        })
        .map(|(own, _)| own)
        .collect()
    }

    /// What is computed at the end of pass `at`: operands of its reductions; values of stores.
    fn wanted(&self, at: usize) -> Vec<usize> {
        let wanted = |(own, instruction): (usize, &Instruction)| match instruction {
            Instruction::Reduce(_, x) if self.levels[own] == at + 1 => Some(usize::from(*x)),
            Instruction::Store { value, .. } if at + 1 == self.count() => Some(usize::from(*value)),
            _ => None,
        };
        self.kernel.code.iter().enumerate().filter_map(wanted).collect()
    }

    /// The vectors that pass `at` computes, of which those in `made` are there already.
    pub(crate) fn slice(&self, at: usize, made: &mut dyn FnMut(usize) -> bool) -> Vec<bool> {
        let mut needed = vec![false; self.kernel.code.len()];
        for wanted in self.wanted(at) {
            needed[wanted] = !self.scalars[wanted] && !made(wanted);
        }
        for own in (0..needed.len()).rev() {
            if !needed[own] {
                continue;
            }
            for read in self.kernel.code[own].reads() {
                let read = usize::from(read);
                needed[read] |= !self.scalars[read] && !made(read);
            }
        }
        needed
    }

    /// Whether a result has one element a row where others have many.
    pub(crate) fn is_narrow(&self, result: usize) -> bool {
        self.kernel.result_width(result) == 1 && self.kernel.width != 1
    }

    /// Result and value of each store.
    pub(crate) fn stores(&self) -> Vec<(usize, usize)> {
        let store = |instruction: &Instruction| match instruction {
            Instruction::Store { result, value } => Some((*result, usize::from(*value))),
            _ => None,
        };
        self.kernel.code.iter().filter_map(store).collect()
    }
}

/// Elements in front of the first row of an access, and from row to row, after its operand was laid in
/// rows of `width` elements with others between them.
pub(crate) fn laid_apart(access: &Access, columns: Option<(usize, usize)>) -> (usize, usize) {
    match columns {
        None => (access.offset, access.stride),
        Some((width, stride)) => {
            (access.offset / width * stride + access.offset % width, access.stride / width * stride)
        }
    }
}

/// Rows of the table of `elements` elements that a load by segments picks from.
pub(crate) fn table_rows(access: &Access, width: usize, elements: usize) -> usize {
    let reach = match access.columns {
        Columns::All => width,
        Columns::One => 1,
        Columns::Every(period) => period.min(width),
        Columns::Step(step) => (width - 1) * step + 1,
    };
    let behind = elements.saturating_sub(access.offset + reach);
    behind.checked_div(access.stride).map_or(1, |rows| rows + 1)
}

/// Rows of the table of `elements` elements that a gate of `width` columns picks from.
pub(crate) fn gate_rows((offset, stride): (usize, usize), width: usize, elements: usize) -> usize {
    elements.saturating_sub(offset + width).checked_div(stride).map_or(1, |rows| rows + 1)
}
