//! The fit certificate: whether plans fit a memory budget and, where not, what would make them fit.
//!
//! Resident memory is weights + persistent + the largest workspace. Every change offered has its
//! saving computed from the module and its plans, not estimated; what depends on the meaning of
//! the network (smaller pictures, fewer frames) is not known here and not offered.

use crate::CompileError;
use crate::cost::plan_cost;
use crate::flatten::{Iterations, flattened};
use anyid_ir::named;
use anyid_ir::plan::Plan;
use anyid_ir::{DType, Module, TensorType};
use std::collections::{BTreeMap, BTreeSet};

/// Resident memory by kind, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Weights of all phases, each once, in the types the plans want.
    pub weights: u64,
    /// Values kept between steps, and states.
    pub persistent: u64,
    /// The largest workspace of a phase.
    pub workspace: u64,
}

impl Memory {
    /// Memory of phases that share weights and run one at a time.
    pub fn of(phases: &[Plan]) -> Self {
        let persistent: [fn(&Plan) -> u64; 2] = [|plan| plan.persistent_bytes, Plan::state_bytes];
        Self {
            weights: weights(phases).values().map(|ty| ty.bytes()).sum(),
            persistent: persistent.map(|of| phases.iter().map(of).max().unwrap_or(0)).iter().sum(),
            workspace: phases.iter().map(|p| p.workspace_bytes).max().unwrap_or(0),
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.persistent + self.workspace
    }
}

named! {
    /// A change that saves memory; the least intrusive first.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Change {
        /// Single-precision matrices and kernels stored as bf16.
        Bf16Weights = "bf16-weights",
        /// What `prepare` keeps is computed again in every step.
        Recompute = "recompute-persistent",
        /// Weights of repeats are brought in one iteration ahead, into two slots.
        Stream = "stream-weights",
    }
}

impl Change {
    /// Whether a target can run with it. All of them keep all weights resident.
    pub fn available(self) -> bool {
        self != Self::Stream
    }
}

/// A change with what it saves and costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The change.
    pub change: Change,
    /// Bytes less than without it, made alone.
    pub saves: u64,
    /// Operations more in every step.
    pub flops: u64,
    /// Bytes of weights brought in from outside in every step.
    pub moved: u64,
}

/// Whether plans fit a budget, and what would make them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The budget in bytes.
    pub budget: u64,
    /// What the plans need.
    pub needed: Memory,
    /// Changes that save something, largest saving first; empty when the plans fit.
    pub offers: Vec<Offer>,
    /// The fewest offers that together fit, those that a target can run with preferred, and the
    /// bytes then needed.
    pub fitting: Option<(Vec<Change>, u64)>,
    /// Bytes needed with every offer taken.
    pub least: u64,
}

impl Certificate {
    /// Whether the plans fit as they are.
    pub fn fits(&self) -> bool {
        self.needed.total() <= self.budget
    }
}

/// Weights of all phases by name.
fn weights(phases: &[Plan]) -> BTreeMap<&str, &TensorType> {
    let all = phases.iter().flat_map(|plan| &plan.weights);
    all.map(|weight| (weight.name.as_str(), &weight.ty)).collect()
}

/// Certifies `phases`, compiled from `funcs` of `module`; `unsplit` is the plan of the function
/// without a split where the phases are `prepare` and `step`.
///
/// # Errors
/// E0502 where a function unrolls too far.
pub fn certify(
    module: &Module,
    funcs: &[&str],
    phases: &[Plan],
    unsplit: Option<&Plan>,
    budget: u64,
) -> Result<Certificate, CompileError> {
    let needed = Memory::of(phases);
    let mut certificate =
        Certificate { budget, needed, offers: Vec::new(), fitting: None, least: needed.total() };
    if certificate.fits() {
        return Ok(certificate);
    }
    let mut repeats = Iterations::new();
    for func in funcs {
        repeats.extend(flattened(module, func)?.1);
    }
    keep_unshared(&mut repeats);
    let names = weights(phases);
    let model = Model { needed, weights: names, repeats: &repeats, unsplit };
    for change in Change::ALL {
        let with = model.total(&[change]);
        if with < needed.total() {
            let saves = needed.total() - with;
            let (flops, moved) = model.cost(change, phases);
            certificate.offers.push(Offer { change, saves, flops, moved });
        }
    }
    let offered: Vec<Change> = certificate.offers.iter().map(|offer| offer.change).collect();
    certificate.least = model.total(&offered).min(needed.total());
    let mut sets: Vec<Vec<Change>> = (1u32..1 << offered.len())
        .map(|bits| (0..offered.len()).filter(|i| bits >> i & 1 == 1).map(|i| offered[i]).collect())
        .collect();
    sets.sort_by_key(|set| (!set.iter().all(|c| c.available()), set.len(), set.clone()));
    certificate.fitting =
        sets.into_iter().map(|set| (set.clone(), model.total(&set))).find(|(_, n)| *n <= budget);
    certificate.offers.sort_by_key(|offer| (std::cmp::Reverse(offer.saves), offer.change));
    Ok(certificate)
}

struct Model<'p> {
    needed: Memory,
    weights: BTreeMap<&'p str, &'p TensorType>,
    /// Weights that only one iteration of an outermost repeat reads.
    repeats: &'p Iterations,
    unsplit: Option<&'p Plan>,
}

impl Model<'_> {
    fn bytes(&self, name: &str, bf16: bool) -> u64 {
        let Some(ty) = self.weights.get(name) else { return 0 };
        match bf16 && ty.dtype == DType::F32 && ty.rank() >= 2 {
            true => ty.bytes() / 2,
            false => ty.bytes(),
        }
    }

    /// Bytes of the largest iteration and of all, for each repeat worth streaming.
    fn streamed(&self, bf16: bool) -> Vec<(u64, u64)> {
        let sum = |names: &BTreeSet<String>| names.iter().map(|n| self.bytes(n, bf16)).sum::<u64>();
        self.repeats
            .iter()
            .map(|iterations| {
                let each: Vec<u64> = iterations.iter().map(sum).collect();
                (each.iter().copied().max().unwrap_or(0), each.iter().sum())
            })
            .filter(|(largest, all)| 2 * largest < *all)
            .collect()
    }

    /// Resident bytes with `changes`.
    fn total(&self, changes: &[Change]) -> u64 {
        let bf16 = changes.contains(&Change::Bf16Weights);
        let mut weights: u64 = self.weights.keys().map(|name| self.bytes(name, bf16)).sum();
        if changes.contains(&Change::Stream) {
            for (largest, all) in self.streamed(bf16) {
                weights = weights - all + 2 * largest;
            }
        }
        let mut memory = Memory { weights, ..self.needed };
        if let (true, Some(plan)) = (changes.contains(&Change::Recompute), self.unsplit) {
            memory.persistent = plan.persistent_bytes;
            memory.workspace = plan.workspace_bytes;
        }
        memory.total()
    }

    /// Operations and bytes more in every step.
    fn cost(&self, change: Change, phases: &[Plan]) -> (u64, u64) {
        match change {
            Change::Bf16Weights => (0, 0),
            Change::Recompute => {
                let prepare = phases.iter().find(|plan| plan.name == "prepare");
                (prepare.map_or(0, |plan| plan_cost(plan).flops), 0)
            }
            Change::Stream => (0, self.streamed(false).iter().map(|(_, all)| *all).sum()),
        }
    }
}

/// What several iterations read has to stay resident.
fn keep_unshared(repeats: &mut Iterations) {
    let mut readers: BTreeMap<String, usize> = BTreeMap::new();
    for name in repeats.iter().flatten().flatten() {
        *readers.entry(name.clone()).or_default() += 1;
    }
    for iteration in repeats.iter_mut().flatten() {
        iteration.retain(|name| readers[name] == 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CompileRequest;
    use anyid_ir::text::parse_module;

    fn module() -> Module {
        let text = "module @m\nweights @w {\n  \"b.{l:0..4}.w\" : f32[64,64]\n}\n\
            func @main(%x: f32[2,64], %c: f32[2,64]) -> f32[2,64] {\n  \
            %k = silu %c : f32[2,64]\n  \
            %y = repeat l in 0..4 carry(%s = %x) {\n    \
            %n = linear %s, $b.{l}.w : f32[2,64]\n    %m = add %n, %k : f32[2,64]\n    \
            yield %m\n  } : f32[2,64]\n  return %y\n}\n";
        parse_module(text, &[]).unwrap()
    }

    #[test]
    fn a_plan_that_fits_needs_no_offers() {
        let module = module();
        let plan = CompileRequest::new(&module, "main").plan().unwrap();
        let total = Memory::of(std::slice::from_ref(&plan)).total();
        let fit = certify(&module, &["main"], &[plan], None, total).unwrap();
        assert!(fit.fits() && fit.offers.is_empty());
        assert_eq!(fit.needed.weights, 4 * 64 * 64 * 4);
    }

    #[test]
    fn offers_say_what_they_save_and_the_fewest_that_fit_are_chosen() {
        let module = module();
        let phases = CompileRequest::new(&module, "main").varying(["x"]).split().unwrap();
        let unsplit = CompileRequest::new(&module, "main").plan().unwrap();
        let matrix = 64 * 64 * 4;
        let all = Memory::of(&phases).total();
        let certificate =
            |budget| certify(&module, &["main"], &phases, Some(&unsplit), budget).unwrap();
        let fit = certificate(all - 1);
        let saves: BTreeMap<&str, u64> =
            fit.offers.iter().map(|o| (o.change.name(), o.saves)).collect();
        assert_eq!(saves["bf16-weights"], 2 * matrix);
        assert_eq!(saves["stream-weights"], 2 * matrix);
        assert_eq!(fit.fitting.as_ref().unwrap().0, [Change::Bf16Weights]);
        let both = certificate(matrix + 8192);
        let (changes, bytes) = both.fitting.unwrap();
        assert_eq!(changes, [Change::Bf16Weights, Change::Stream]);
        assert!(bytes <= matrix + 8192 && bytes >= matrix);
        let none = certificate(1000);
        assert!(none.fitting.is_none() && none.least > 1000);
    }
}
