//! Plan text back to plans.

use crate::diag::Diagnostic;
use crate::entity::{Arena, Entity};
use crate::kernel::Kernel;
use crate::kernel::parse::{Begun, further, head};
use crate::line::{Line, Read, lines};
use crate::plan::{Alignment, Branch, Buffer, BufferId, Plan, Port, WeightRef};
use std::collections::HashMap;

/// Most bytes of kernel text that the steps of one text may stand for: each step holds its own
/// copy, so that many steps of one long kernel would otherwise be far larger than their text.
const MOST_COPIED: usize = 1 << 26;

/// Reads the plans written by [`super::print_plans`]. Time and memory are linear in the text.
///
/// # Errors
/// E0516 with the line, where the text is not that of plans.
pub fn parse_plans(text: &str) -> Result<Vec<Plan>, Box<Diagnostic>> {
    let (mut plans, mut copied) = (Vec::new(), 0);
    let help = "plans are written by `anyid-rt compile -o FILE.plan`; make it again";
    lines(text, "plan", help, |open: Option<Reader>, line| match open {
        None => Ok(Some(Reader { copied, ..Reader::head(line)? })),
        Some(reader) if reader.kernel.is_none() && line.accept("}") => {
            line.end()?;
            copied = reader.copied;
            plans.push(reader.finish()?);
            Ok(None)
        }
        Some(mut reader) => {
            reader.line(line)?;
            Ok(Some(reader))
        }
    })?;
    Ok(plans)
}

/// One plan while it is read.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) plan: Plan,
    buffers: HashMap<usize, Buffer>,
    /// Whether the line of the memory's sizes was there.
    sized: bool,
    /// Kernels with the bytes of their text.
    kernels: Vec<(Kernel, usize)>,
    /// The kernel that is being read, and the bytes of its lines so far.
    kernel: Option<(Kernel, usize)>,
    /// Bytes of kernel text that steps stand for.
    copied: usize,
}

impl Reader {
    fn head(line: &mut Line<'_>) -> Read<Self> {
        line.expect("plan")?;
        let plan = Plan { name: line.quoted()?, ..Plan::default() };
        line.expect("{")?;
        Ok(Self { plan, ..Self::default() })
    }

    fn line(&mut self, line: &mut Line<'_>) -> Read<()> {
        let bytes = line.len();
        if let Some((kernel, before)) = self.kernel.take() {
            let state = further(kernel, line)?;
            self.kernel(state, before + bytes);
        } else if line.accept("kernel ") {
            let state = head(line, self.kernels.len())?;
            self.kernel(state, bytes);
        } else if line.accept("memory ") {
            self.memory(line)?;
        } else if line.accept("weight ") {
            let index = line.index()? as usize;
            if index != self.plan.weights.len() {
                return Err(format!("weight {index} is not the next one"));
            }
            let name = line.quoted()?;
            line.expect(":")?;
            self.plan.weights.push(WeightRef { name, ty: line.ty()? });
        } else if line.accept("buffer ") {
            let id = line.buffer()?;
            line.expect("=")?;
            let buffer = line.place(":")?;
            self.define(id, buffer)?;
        } else if let Some(ports) = self.ports(line) {
            let (name, branch) = named(line)?;
            line.expect("=")?;
            ports.push(Port { name, branch, buffer: line.buffer()? });
        } else if line.accept("state ") {
            let (name, branch) = named(line)?;
            line.expect(":")?;
            let ty = line.ty()?;
            line.expect("=")?;
            let before = if line.accept("->") {
                None
            } else {
                let before = line.buffer()?;
                line.expect("->")?;
                Some(before)
            };
            let after = line.buffer()?;
            self.plan.states.push(crate::plan::State { name, branch, ty, before, after });
        } else {
            self.step(line)?;
        }
        Ok(())
    }

    /// The ports of the kind whose word stands here.
    fn ports(&mut self, line: &mut Line<'_>) -> Option<&mut Vec<Port>> {
        let Plan { inputs, outputs, kept, .. } = &mut self.plan;
        let kinds = [("input ", inputs), ("output ", outputs), ("kept ", kept)];
        kinds.into_iter().find(|(word, _)| line.accept(word)).map(|(_, ports)| ports)
    }

    fn kernel(&mut self, (kernel, complete): Begun, bytes: usize) {
        match complete {
            true => self.kernels.push((kernel, bytes)),
            false => self.kernel = Some((kernel, bytes)),
        }
    }

    /// A copy of kernel number `index`, which stands above.
    pub(super) fn known(&mut self, index: usize) -> Read<Kernel> {
        let found = self.kernels.get(index);
        let (kernel, bytes) = found.ok_or_else(|| format!("there is no kernel k{index}"))?;
        self.copied = self.copied.saturating_add(*bytes);
        if self.copied > MOST_COPIED {
            return Err("the kernels of all steps together are too long".to_owned());
        }
        Ok(kernel.clone())
    }

    fn memory(&mut self, line: &mut Line<'_>) -> Read<()> {
        if std::mem::replace(&mut self.sized, true) {
            return Err("the memory's sizes are given twice".to_owned());
        }
        let plan = &mut self.plan;
        line.expect("alignment=")?;
        let bytes = line.number()?;
        plan.alignment = Alignment::new(bytes).ok_or(format!("{bytes} is not an alignment"))?;
        for (key, value) in [
            ("workspace=", &mut plan.workspace_bytes),
            ("lower_bound=", &mut plan.lower_bound_bytes),
            ("naive=", &mut plan.naive_bytes),
            ("persistent=", &mut plan.persistent_bytes),
        ] {
            line.expect(key)?;
            *value = line.number()?;
        }
        Ok(())
    }

    pub(super) fn define(&mut self, id: BufferId, buffer: Buffer) -> Read<()> {
        match self.buffers.insert(id.index(), buffer.clone()) {
            // A buffer that two steps write stands with both.
            Some(before) if before != buffer => Err(format!("{id:?} is given twice")),
            _ => Ok(()),
        }
    }

    fn finish(mut self) -> Read<Plan> {
        if !self.sized {
            return Err("the memory's sizes are missing".to_owned());
        }
        let mut buffers = Arena::default();
        for index in 0..self.buffers.len() {
            let buffer = self.buffers.remove(&index);
            buffers.push(buffer.ok_or_else(|| format!("there is no buffer %{index}"))?);
        }
        let known = |id: BufferId| match id.index() < buffers.len() {
            true => Ok(()),
            false => Err(format!("there is no buffer {id:?}")),
        };
        for id in self.plan.steps.iter().flat_map(|step| step.reads()) {
            known(*id)?;
        }
        for port in self.plan.ports() {
            known(port.buffer)?;
        }
        for state in &self.plan.states {
            state.before.into_iter().chain([state.after]).try_for_each(known)?;
        }
        self.plan.buffers = buffers;
        Ok(self.plan)
    }
}

/// `"txt"`, or `"txt" branch 1`.
fn named(line: &mut Line<'_>) -> Read<(String, Branch)> {
    let name = line.quoted()?;
    let branch = if line.accept("branch ") { line.index()? } else { 0 };
    Ok((name, branch))
}
