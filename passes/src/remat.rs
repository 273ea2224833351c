//! What a derivative reads of the forward steps: kept until then, or computed again.
//!
//! A *block* is what one iteration of a repeat computes, or one call of a function with indices. Values
//! that anything outside of a block reads are always kept; of the others a [`Remat`] says which. What is
//! not kept and read by the derivative of its block is computed again in front of it, by the same steps
//! in the same order, and so with the same bits. Those steps are marked, because to `cse` they would be
//! what was computed before.

use crate::cost::{Cost, plan_cost};
use crate::driver::{Selection, drive, unobserved};
use crate::fit::Memory;
use crate::pipeline::Phase;
use crate::program::{Program, Stage, Translation, ValueIndex};
use crate::rewrite::Rewrites;
use crate::simplify::drop_unused;
use crate::{Asked, CompileError, CompileRequest};
use anyid_ir::Op;
use anyid_ir::named;
use anyid_ir::plan::Plan;
use anyid_ir::spelling::meant;
use petgraph::algo::dinics;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;
use std::collections::{HashMap, HashSet};
use std::str::FromStr;

named! {
    /// What of a block is kept for its derivative, besides what others read of it; from the most memory
    /// and the least work to the least memory and the most work.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Remat {
        /// Everything that the derivative reads.
        #[default]
        All = "all",
        /// Of all choices by which no product is computed again, the one with the fewest bytes.
        Products = "products",
        /// Results of attention, and what it reads: queries, keys and values.
        Heads = "heads",
        /// Results of attention.
        Attention = "attention",
        /// Nothing.
        Carry = "carry",
    }
}

/// What every block keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keeping {
    /// How many blocks, from the first, keep another choice than the rest, and which.
    pub first: (usize, Remat),
    /// What all others keep.
    pub rest: Remat,
}

impl From<Remat> for Keeping {
    fn from(rest: Remat) -> Self {
        Self { first: (0, rest), rest }
    }
}

impl std::fmt::Display for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (count @ 1.., first) = self.first {
            write!(f, "{}:{count},", first.name())?;
        }
        f.write_str(self.rest.name())
    }
}

impl FromStr for Keeping {
    type Err = CompileError;

    /// Reads `heads`, or `carry:12,heads`, where the first twelve blocks keep another choice than the
    /// rest.
    fn from_str(text: &str) -> Result<Self, CompileError> {
        let found = |name: &str| {
            Remat::from_name(name).ok_or_else(|| {
                let names = Remat::ALL.map(Remat::name);
                let message = format!("nothing called \"{name}\" can be kept for the derivative");
                let error = CompileError::new("E0524", message).about(Asked::Remat);
                let choices = || format!("the choices are {}", names.join(", "));
                error.help(meant(name, "", names, choices))
            })
        };
        let Some((first, rest)) = text.split_once(',') else { return Ok(found(text)?.into()) };
        let fault = || {
            let message = format!("\"{first}\" does not say how many blocks");
            let error = CompileError::new("E0524", message).about(Asked::Remat);
            error.help("write the choice and the number of blocks, as in carry:12,heads")
        };
        let (name, count) = first.split_once(':').ok_or_else(fault)?;
        let count = count.parse().map_err(|_| fault())?;
        Ok(Self { first: (count, found(name)?), rest: found(rest)? })
    }
}

/// A choice that was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The choice.
    pub keeping: Keeping,
    /// What the plan needs.
    pub memory: Memory,
    /// That, and what is held besides.
    pub needed: u64,
    /// What it costs.
    pub cost: Cost,
}

/// Bytes that are held besides plans.
pub type Besides<'b> = &'b dyn Fn(&[Plan]) -> u64;

/// Everything that was planned; the last fits, if any does, and has these plans.
#[derive(Debug, Default)]
pub struct Choice {
    /// The choices, in the order in which they were planned, but for the last.
    pub tried: Vec<Tried>,
    /// The plans of the last.
    pub plans: Vec<Plan>,
}

impl Choice {
    /// Plans `keeping`. It stands last from here on if it takes at most `budget`, or nothing before does.
    fn fits(
        &mut self,
        (request, keeping): (&CompileRequest<'_>, Keeping),
        (budget, besides): (u64, Besides<'_>),
    ) -> Result<bool, CompileError> {
        let plans = request.clone().keeping(keeping).compile()?;
        let cost = plans.iter().map(plan_cost).fold(Cost::default(), Cost::plus);
        let memory = Memory::of(&plans);
        let needed = memory.total().saturating_add(besides(&plans));
        let tried = Tried { keeping, memory, needed, cost };
        let fitted = self.tried.last().is_some_and(|last| last.needed <= budget);
        if needed <= budget || !fitted {
            self.tried.push(tried);
            self.plans = plans;
        } else {
            self.tried.insert(self.tried.len() - 1, tried);
        }
        Ok(needed <= budget)
    }
}

/// Plans what `request` asks for, choice after choice from the fastest on, until one needs at most
/// `budget` bytes together with what is held `besides` the plans; then as few blocks as possible get
/// that choice and the others the one before.
///
/// # Errors
/// As [`CompileRequest::compile`].
pub fn within(
    request: &CompileRequest<'_>,
    budget: u64,
    besides: Besides<'_>,
) -> Result<Choice, CompileError> {
    let mut choice = Choice::default();
    let mut before = None;
    for policy in Remat::ALL {
        if choice.fits((request, policy.into()), (budget, besides))? {
            let Some(before) = before else { return Ok(choice) };
            let until_grad = Selection::To(Phase::Optimised);
            let parts = drive(request, &until_grad, &mut unobserved)?.state.parts;
            let count = parts.iter().map(|part| Blocks::new(&part.program).names.len()).max();
            // Too few blocks with the choice that fits, and enough of them.
            let (mut few, mut enough) = (0, count.unwrap_or(0));
            while few + 1 < enough {
                let middle = (few + enough) / 2;
                let mixed = Keeping { first: (middle, policy), rest: before };
                let fits = choice.fits((request, mixed), (budget, besides))?;
                *(if fits { &mut enough } else { &mut few }) = middle;
            }
            return Ok(choice);
        }
        before = Some(policy);
    }
    Ok(choice)
}

/// The block of a step by its label, such as `dit/blocks.3` of `dit/blocks.3/q1`: everything up to the
/// first part of the path with a number.
fn block(label: &str) -> Option<&str> {
    let numbered = |part: &str| {
        part.split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let mut start = 0;
    for (end, _) in label.match_indices('/') {
        if numbered(&label[start..end]) {
            return Some(&label[..end]);
        }
        start = end + 1;
    }
    None
}

/// Whether computing the op again takes a product's time.
fn is_product(op: &Op) -> bool {
    matches!(
        op,
        Op::Linear
            | Op::Dot { .. }
            | Op::Conv { .. }
            | Op::Attention { .. }
            | Op::AttentionVjp { .. }
    )
}

/// Which block each step belongs to, and which values are kept.
struct Blocks<'p> {
    program: &'p Program,
    names: Vec<&'p str>,
    of_step: Vec<Option<usize>>,
    /// Steps of each block in order: those of the module, and those of the derivative.
    forward: Vec<Vec<usize>>,
    backward: Vec<Vec<usize>>,
    /// The block that makes a value on the way forward, where only its derivative reads it besides.
    owner: Vec<Option<usize>>,
    kept: Vec<bool>,
}

impl<'p> Blocks<'p> {
    fn new(program: &'p Program) -> Self {
        let (mut names, mut numbers) = (Vec::new(), HashMap::new());
        let of_step: Vec<Option<usize>> = (program.steps.iter())
            .map(|step| {
                let name = block(step.label())?;
                Some(*numbers.entry(name).or_insert_with(|| {
                    names.push(name);
                    names.len() - 1
                }))
            })
            .collect();
        let mut owner = vec![None; program.values.len()];
        let [mut forward, mut backward] = [(); 2].map(|()| vec![Vec::new(); names.len()]);
        for (at, (step, of)) in program.steps.iter().zip(&of_step).enumerate() {
            let Some(block) = *of else { continue };
            match step.stage {
                Stage::Forward => {
                    forward[block].push(at);
                    step.results.iter().for_each(|value| owner[*value as usize] = *of);
                }
                Stage::Backward => backward[block].push(at),
                Stage::Again => {}
            }
        }
        let mut kept = vec![false; program.values.len()];
        program.outputs.iter().for_each(|port| kept[port.value as usize] = true);
        for (step, of) in program.steps.iter().zip(&of_step) {
            for value in &step.operands {
                kept[*value as usize] |= owner[*value as usize] != *of;
            }
        }
        Self { program, names, of_step, forward, backward, owner, kept }
    }

    /// Whether a value is one of this block that is not kept.
    fn is_open(&self, value: ValueIndex, block: usize) -> bool {
        self.owner[value as usize] == Some(block) && !self.kept[value as usize]
    }

    /// Values of a block that its derivative reads.
    fn read_back(&self, block: usize) -> HashSet<ValueIndex> {
        let reads = self.backward[block].iter().flat_map(|at| &self.program.steps[*at].operands);
        reads.copied().filter(|value| self.is_open(*value, block)).collect()
    }

    /// What a block keeps by `keeping`.
    fn policy(keeping: Keeping, block: usize) -> Remat {
        let (count, first) = keeping.first;
        if block < count { first } else { keeping.rest }
    }

    /// Keeps what `keeping` says.
    fn keep(&mut self, keeping: Keeping) {
        for (at, step) in self.program.steps.iter().enumerate() {
            let attends = matches!(step.op, Op::Attention { .. }) && step.stage == Stage::Forward;
            let (true, Some(block)) = (attends, self.of_step[at]) else { continue };
            let policy = Self::policy(keeping, block);
            if matches!(policy, Remat::Attention | Remat::Heads) {
                step.results.iter().for_each(|value| self.kept[*value as usize] = true);
            }
            if policy == Remat::Heads {
                step.operands.iter().for_each(|value| self.kept[*value as usize] = true);
            }
        }
        for block in 0..self.names.len() {
            let kept = match Self::policy(keeping, block) {
                Remat::Products => self.cut(block),
                Remat::All => self.read_back(block).into_iter().collect(),
                Remat::Heads | Remat::Attention | Remat::Carry => continue,
            };
            kept.into_iter().for_each(|value| self.kept[value as usize] = true);
        }
    }

    /// The values of least bytes from which all that the derivative of a block reads follows without
    /// its products: a cut between these and what is read.
    fn cut(&self, block: usize) -> Vec<ValueIndex> {
        /// More than all memory, and little enough to be added up.
        const ENDLESS: u64 = 1 << 62;
        let mut graph: DiGraph<(), u64> = DiGraph::new();
        let [source, sink] = [(); 2].map(|()| graph.add_node(()));
        let mut ends: HashMap<ValueIndex, [NodeIndex; 2]> = HashMap::new();
        let mut order = Vec::new();
        for &at in &self.forward[block] {
            let step = &self.program.steps[at];
            for &value in step.results.iter().filter(|value| self.is_open(**value, block)) {
                let [first, last] = [(); 2].map(|()| graph.add_node(()));
                graph.add_edge(first, last, self.program.ty(value).bytes());
                if is_product(&step.op) {
                    graph.add_edge(source, first, ENDLESS);
                }
                for before in step.operands.iter().filter_map(|operand| ends.get(operand)) {
                    graph.add_edge(before[1], first, ENDLESS);
                }
                ends.insert(value, [first, last]);
                order.push(value);
            }
        }
        for value in self.read_back(block) {
            graph.add_edge(ends[&value][1], sink, ENDLESS);
        }
        let (_, flows) = dinics(&graph, source, sink);
        let mut reached = HashSet::from([source]);
        let mut open = vec![source];
        while let Some(node) = open.pop() {
            let onward = graph.edges(node).filter(|e| flows[e.id().index()] < *e.weight());
            let onward = onward.map(|edge| edge.target());
            let back = graph.edges_directed(node, petgraph::Direction::Incoming);
            let back = back.filter(|e| flows[e.id().index()] > 0).map(|edge| edge.source());
            for next in onward.chain(back) {
                if reached.insert(next) {
                    open.push(next);
                }
            }
        }
        let cut = |value: &ValueIndex| {
            let [first, last] = ends[value];
            reached.contains(&first) && !reached.contains(&last)
        };
        order.into_iter().filter(cut).collect()
    }

    /// Forward steps of a block that are needed again, in order.
    fn again(&self, block: usize) -> Vec<usize> {
        let mut needed = self.read_back(block);
        let mut again = Vec::new();
        for &at in self.forward[block].iter().rev() {
            let step = &self.program.steps[at];
            if step.results.iter().any(|value| needed.contains(value)) {
                again.push(at);
                let open = step.operands.iter().filter(|value| self.is_open(**value, block));
                needed.extend(open);
            }
        }
        again.reverse();
        again
    }
}

/// `program`, which holds a derivative, with what `keeping` does not keep computed again.
pub fn remat(program: Program, keeping: Keeping, rewrites: &mut Rewrites) -> Program {
    if program.steps.iter().all(|step| step.stage != Stage::Backward) {
        return program;
    }
    let mut blocks = Blocks::new(&program);
    blocks.keep(keeping);
    // In front of which step of the derivative a block is computed again, and by which steps.
    let mut fronts: HashMap<usize, Vec<usize>> = HashMap::new();
    for (block, name) in blocks.names.iter().enumerate() {
        let again = blocks.again(block);
        if !again.is_empty() && rewrites.allow("a block computed again", name) {
            fronts.insert(blocks.backward[block][0], again);
        }
    }
    if fronts.is_empty() {
        return program;
    }
    let mut copy = Translation::new(&program);
    copy.given();
    let mut again: HashMap<ValueIndex, ValueIndex> = HashMap::new();
    for (at, step) in program.steps.iter().enumerate() {
        let find = |copy: &mut Translation<'_>, again: &HashMap<_, _>, value: &ValueIndex| {
            again.get(value).copied().unwrap_or_else(|| copy.find(*value))
        };
        for &front in fronts.get(&at).into_iter().flatten() {
            let step = &program.steps[front];
            let operands = step.operands.iter().map(|v| find(&mut copy, &again, v)).collect();
            let made = copy.out.step_like(&program, step, operands);
            let added = copy.out.steps.last_mut().expect("it was just added");
            added.stage = Stage::Again;
            added.labels.iter_mut().for_each(|label| label.push_str(".again"));
            for (value, made) in step.results.iter().zip(made) {
                if !blocks.kept[*value as usize] {
                    again.insert(*value, made);
                }
            }
        }
        match step.stage {
            Stage::Backward => {
                let operands = step.operands.iter().map(|v| find(&mut copy, &again, v)).collect();
                copy.step_on(step, operands);
            }
            Stage::Forward | Stage::Again => copy.step(step),
        }
    }
    let out = copy.done();
    drop_unused(out, &mut Rewrites::unlimited())
}

#[cfg(test)]
mod tests {
    use super::{Keeping, Remat, block};

    #[test]
    fn choices_have_one_text() {
        for text in ["all", "products", "heads", "attention", "carry", "carry:12,heads"] {
            assert_eq!(text.parse::<Keeping>().unwrap().to_string(), text);
        }
        assert_eq!(
            "heads:0,all".parse(),
            Ok(Keeping { first: (0, Remat::Heads), rest: Remat::All })
        );
        for text in ["", "head", "carry,heads", "carry:x,heads", "carry:1,head", "carry:1"] {
            let error = text.parse::<Keeping>().unwrap_err();
            assert_eq!(error.code, "E0524", "{text}");
            assert!(error.help.is_some(), "{text}");
        }
    }

    #[test]
    fn blocks_are_numbered_parts_of_a_path() {
        assert_eq!(block("loss/dit/blocks.3/q1"), Some("loss/dit/blocks.3"));
        assert_eq!(block("loss/dit/blocks.3/inner.2/q1.grad.dot"), Some("loss/dit/blocks.3"));
        assert_eq!(block("f/l=12/x"), Some("f/l=12"));
        assert_eq!(block("f/part<3>/x"), Some("f/part<3>"));
        assert_eq!(block("f/conv2/x"), None);
        assert_eq!(block("x0"), None);
    }
}
